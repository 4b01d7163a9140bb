"""Fields as classifiers of the Adversarial Robustness Toolbox (ART); needs ``snode[art]``.

ART has one row per sample and images of any shape, snode one column per sample: this module
transposes, flattens and restores, and asks the adjoint problem for the gradients.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from snode.analysis.blocks import BLOCK, check_positive, join_blocks, solve_blocks
from snode.analysis.rows import pull_back
from snode.backend import Array, array_namespace, to_host
from snode.fields.base import n_outputs, outputs
from snode.labels import check_labels, check_plain
from snode.ode.arguments import check_choice, check_state
from snode.ode.problems import as_solver
from snode.predict import check_classes

try:
    with warnings.catch_warnings():  # ART names each framework that it does not find
        warnings.filterwarnings("ignore", message="PyTorch not found")
        from art.estimators.classification.classifier import ClassGradientsMixin, ClassifierMixin
        from art.estimators.estimator import BaseEstimator, LossGradientsMixin, NeuralNetworkMixin
except ImportError as error:
    found = getattr(sys.modules.get("art"), "__file__", None)
    if found is not None and not found.endswith("__init__.py"):  # the toolbox is a folder
        raise ImportError(
            f"snode.interop.art needs the package art, and {found} stands before it under the same "
            "name: rename that file"
        ) from error
    raise ImportError(
        "snode.interop.art needs the Adversarial Robustness Toolbox (the distribution named 'art' "
        'is another one): pip install "snode[art]"'
    ) from error

__all__ = ["SnodeClassifier"]

HostArray = np.ndarray[Any, Any]
REDUCTIONS = ("none", "mean", "sum")


class SnodeClassifier(
    ClassGradientsMixin, ClassifierMixin, LossGradientsMixin, NeuralNetworkMixin, BaseEstimator
):
    """A trained field as an estimator of ART, so that ART's attacks run on it.

    Parameters
    ----------
    field : VectorField
        With or without a read-out, on the host or on a device.
    n_classes : int, optional
        Number C of classes, as for `predict`: default 10, or all outputs of a read-out. Without a
        read-out the logits are the first C components of x(T).
    clip_values : (low, high), optional
        The box: smallest and largest valid input, numbers or arrays. ART rounds them to float32.
    input_shape : tuple of int, optional
        Shape of one sample, e.g. ``(1, 28, 28)``; default ``(n,)``. The methods take samples of
        any shape with n entries.
    solver : str or Solver, optional
        How the direct problem is solved, as for `predict`.
    block : int, optional
        Number of samples solved at once; takes the place of ART's ``batch_size``.
    channels_first : bool, optional
        What ART is told about the axes of an image.
    preprocessing, preprocessing_defences, postprocessing_defences : optional
        As for ART's own classifiers. Preprocessing ``(mean, std)`` maps the pixels of ART to the
        inputs of the field, e.g. ``(1, 1)`` from [0, 1] to [-1, 0]; ART computes it in float32.

    Raises
    ------
    ImportError
        By the import of the module, if ART is missing.
    ValueError, TypeError
        If an argument does not fit; names the argument.

    Notes
    -----
    Inputs of any real dtype are converted to that of the field: ART's attacks work in float32.
    Outputs and gradients have the dtype of the field.

    The loss is the cross entropy of the softmax of the logits, in float64. Its gradient is that of
    the sum over the samples, so that no sample depends on the others; ART's `PyTorchClassifier`
    gives the same with ``CrossEntropyLoss(reduction="sum")``.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> from snode.interop.art import SnodeClassifier
    >>> field = snode.StandaloneField(np.zeros((1, 4, 4)), np.zeros((1, 4)), T=1.0)
    >>> classifier = SnodeClassifier(field, n_classes=2, clip_values=(0, 1), input_shape=(1, 2, 2))
    >>> images = np.array([[[[0.5, 0.25], [0.0, 1.0]]]])
    >>> classifier.predict(images)
    array([[0.5 , 0.25]])
    >>> classifier.class_gradient(images, label=1)[0, 0, 0]
    array([[0., 1.],
           [0., 0.]])
    """

    estimator_params = [  # noqa: RUF012  (ART's convention)
        *BaseEstimator.estimator_params,
        *NeuralNetworkMixin.estimator_params,
        *ClassifierMixin.estimator_params,
    ]

    def __init__(
        self,
        field: Any,
        *,
        n_classes: int | None = None,
        clip_values: tuple[Any, Any] | None = None,
        input_shape: tuple[int, ...] | None = None,
        solver: Any = "euler",
        block: int = BLOCK,
        channels_first: bool = True,
        preprocessing: Any = None,
        preprocessing_defences: Any = None,
        postprocessing_defences: Any = None,
    ) -> None:
        _check_field(field)
        super().__init__(
            model=field,
            clip_values=_clip_values(clip_values),
            channels_first=bool(channels_first),
            preprocessing=preprocessing,
            preprocessing_defences=preprocessing_defences,
            postprocessing_defences=postprocessing_defences,
        )
        self._nb_classes = check_classes(field, n_classes)
        if self._nb_classes < 2:
            raise ValueError(f"n_classes must be at least 2; got {self._nb_classes}")
        self._input_shape = _input_shape(input_shape, field.n)
        self._solver, self._block = as_solver(solver), check_positive("block", block)
        self._layer_names = None
        parameters = list(field.parameters.values())
        self._xp = array_namespace(*parameters)
        self._dtype = parameters[0].dtype if parameters else np.dtype(np.float64)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self._input_shape

    def predict(self, x: HostArray, batch_size: int | None = None, **kwargs: Any) -> HostArray:
        """Return the logits, (m, C).

        Parameters
        ----------
        x : array (m, ...)
            Samples with n entries each.
        batch_size, **kwargs
            What ART's attacks pass; not used.

        Raises
        ------
        ValueError
            If `x` does not fit the field or is not finite.
        IntegrationError
            If the direct problem does not stay finite.
        """
        prepared, _ = self._apply_preprocessing(np.asarray(x), y=None, fit=False)
        logits = self._logits(self._columns(prepared)).T
        processed: HostArray = self._apply_postprocessing(preds=logits, fit=False)
        return processed

    def class_gradient(
        self, x: HostArray, label: int | list[int] | HostArray | None = None, **kwargs: Any
    ) -> HostArray:
        """Return the gradients of logits with respect to the samples.

        Parameters
        ----------
        x : array (m, ...)
            As for `predict`.
        label : int or integer array (m,), optional
            Take the logit of this class only, the same for all samples or one for each.
        **kwargs
            What ART's attacks pass; not used.

        Returns
        -------
        array (m, C, ...), or (m, 1, ...) with `label`

        Raises
        ------
        ValueError, IntegrationError
            As `predict`, and if `label` does not fit.
        """
        x = np.asarray(x)
        prepared, _ = self._apply_preprocessing(x, y=None, fit=False)
        columns, C = self._columns(prepared), self.nb_classes
        wanted = np.broadcast_to(np.arange(C), (columns.shape[1], C))
        if label is not None:
            wanted = _labels("label", label, columns.shape[1], C)[:, None]
        unit = self._xp.asarray((wanted.T[:, None] == np.arange(C)[:, None]).astype(self._dtype))
        rows = self._pull_back(columns, lambda z, part: unit[..., part])
        gradients = rows.reshape(*rows.shape[:2], *prepared.shape[1:])
        return self._through_preprocessing(x, gradients)

    def loss_gradient(self, x: HostArray, y: HostArray, **kwargs: Any) -> HostArray:
        """Return the gradient of the loss of each sample with respect to it, in the shape of `x`.

        Parameters
        ----------
        x : array (m, ...)
            As for `predict`.
        y : integer array (m,) or array (m, C)
            Labels, or the weight of each class: one-hot, or any probabilities.
        **kwargs
            What ART's attacks pass; not used.

        Raises
        ------
        ValueError, IntegrationError
            As `predict`, and if `y` does not fit.
        """
        x = np.asarray(x)
        prepared, y = self._apply_preprocessing(x, y, fit=False)
        columns = self._columns(prepared)
        target = self._xp.asarray(_class_weights(y, columns.shape[1], self.nb_classes))
        rows = self._pull_back(
            columns, lambda z, part: _cross_entropy(z, target[:, part])[1][None]
        )  # fmt: skip
        return self._through_preprocessing(x, rows[:, 0].reshape(prepared.shape))

    def compute_loss(
        self, x: HostArray, y: HostArray, reduction: str = "none", **kwargs: Any
    ) -> HostArray:
        """Return the cross entropy of each sample, (m,), or their mean or sum.

        Parameters
        ----------
        x, y
            As for `loss_gradient`.
        reduction : {"none", "mean", "sum"}, optional
        **kwargs
            What ART's attacks pass; not used.

        Raises
        ------
        ValueError, IntegrationError
            As `loss_gradient`.
        """
        check_choice("reduction", reduction, REDUCTIONS)
        prepared, y = self._apply_preprocessing(np.asarray(x), y, fit=False)
        columns = self._columns(prepared)
        target = _class_weights(y, columns.shape[1], self.nb_classes)
        losses = _cross_entropy(self._logits(columns), target)[0].astype(self._dtype)
        reduced = losses if reduction == "none" else getattr(losses, reduction)()
        return np.asarray(reduced)

    def fit(self, x: HostArray, y: HostArray, **kwargs: Any) -> None:
        """Raise NotImplementedError: the field is trained before it is wrapped."""
        raise NotImplementedError("train the field with snode.train, then wrap the trained field")

    def get_activations(
        self, x: HostArray, layer: Any, batch_size: int | None = None, framework: bool = False
    ) -> HostArray:
        """Raise NotImplementedError: there are depths instead of layers."""
        raise NotImplementedError(
            "a field has depths instead of layers: snode.solve_direct gives its states"
        )

    # --- between rows and columns -----------------------------------------------------------------

    def _columns(self, x: HostArray) -> Array:
        """Return the samples as columns (n, m), where and of the dtype that the field is."""
        n = self.model.n
        if x.dtype.kind not in "iuf":
            raise ValueError(f"x must be real numbers; got {x.dtype}")
        if x.ndim < 2 or len(x) == 0 or x[0].size != n:
            raise ValueError(f"x must have shape (m, ...) with {n} entries a sample; got {x.shape}")
        columns = self._xp.asarray(np.ascontiguousarray(x.reshape(len(x), n).T, self._dtype))
        check_state(self.model, columns, "x")
        return columns

    def _logits(self, columns: Array) -> HostArray:
        """Return the outputs that are classes, (C, m)."""
        parts = []
        for start in range(0, columns.shape[1], self._block):
            some = self._xp.ascontiguousarray(columns[:, start : start + self._block])
            x_T = self._solver.solve(self.model, some, keep="last").x_T
            parts.append(to_host(outputs(self.model, x_T)[: self.nb_classes]))
        return np.concatenate(parts, axis=1)

    def _pull_back(self, columns: Array, weights: Callable[[Array, slice], Array]) -> HostArray:
        """Return the gradients (m, r, n) of what has the derivatives (r, C, b) at the logits.

        `weights` gives them for the logits (C, b) of the samples of a block.
        """
        field, C, parts = self.model, self.nb_classes, []
        for part, sol in solve_blocks(field, columns, self._solver, self._block):
            some = weights(outputs(field, sol.x_T)[:C], part)
            p = self._xp.zeros(
                (some.shape[0], n_outputs(field), some.shape[2]), dtype=columns.dtype
            )
            p[:, :C] = some
            parts.append((pull_back(sol, p),))
        (rows,) = join_blocks(parts)
        return np.ascontiguousarray(to_host(rows).transpose(2, 0, 1))

    def _through_preprocessing(self, x: HostArray, gradients: HostArray) -> HostArray:
        return np.asarray(self._apply_preprocessing_gradient(x, gradients, fit=False))


def _cross_entropy(z: Array, y: Array) -> tuple[Array, Array]:
    """Return -sum_j y_j log softmax_j(z) and its derivative in z, both in float64.

    The derivative p_j sum(y) - y_j is taken apart so that nothing cancels: 1 - p_j would be 0 for
    a network that is sure.
    """
    xp = array_namespace(z, y)
    shifted = z.astype(np.float64) - z.max(axis=0)
    e = xp.exp(shifted)
    total = e.sum(axis=0)
    p, others = e / total, 1 - xp.eye(len(z))
    return (y * (xp.log(total) - shifted)).sum(axis=0), p * (others @ y) - y * (others @ p)


# --- arguments ------------------------------------------------------------------------------------


def _check_field(field: Any) -> None:
    if not all(hasattr(field, name) for name in ("n", "parameters", "linearize")):
        raise TypeError(
            f"field must follow the vector-field contract; got {type(field).__name__}. Wrap a "
            "plain function in snode.FunctionField"
        )


def _clip_values(values: Any) -> tuple[Any, Any] | None:
    if values is None:
        return None
    try:
        low, high = (np.asarray(bound, dtype=np.float64) for bound in values)
        ordered = bool((low < high).all())
    except (TypeError, ValueError):
        raise ValueError(f"clip_values must be (low, high); got {values!r}") from None
    if not ordered:
        raise ValueError(f"clip_values must be (low, high) with low < high; got {values!r}")
    return low, high


def _input_shape(shape: Any, n: int) -> tuple[int, ...]:
    try:
        found = (n,) if shape is None else tuple(int(size) for size in shape)
    except (TypeError, ValueError):
        raise ValueError(f"input_shape must be a tuple of integers; got {shape!r}") from None
    if any(size < 1 for size in found) or int(np.prod(found)) != n:
        raise ValueError(f"input_shape must have {n} entries, the n of the field; got {shape!r}")
    return found


def _labels(name: str, labels: Any, m: int, C: int) -> HostArray:
    """Return class labels (m,); a single one stands for all."""
    found = np.asanyarray(labels)  # lists are what ART passes; a mask must not get lost
    if found.ndim == 0:
        found = np.broadcast_to(found, (m,))
    return np.asarray(check_labels(found, C, m, name))


def _class_weights(y: Any, m: int, C: int) -> HostArray:
    """Return the weight of each class in the cross entropy, float64 (C, m)."""
    found: Any = np.asanyarray(y)
    check_plain(found, "y", f"labels ({m},) or weights of the classes ({m}, {C})")
    if found.ndim == 1 or found.shape == (m, 1):
        labels = _labels("y", found.ravel(), m, C)
        return np.asarray(labels == np.arange(C)[:, None], dtype=np.float64)
    if found.shape != (m, C) or found.dtype.kind not in "iuf":
        raise ValueError(
            f"y must be labels ({m},) or weights of the classes ({m}, {C}); "
            f"got {found.dtype} {found.shape}"
        )
    if not (found >= 0).all() or not np.isfinite(found).all():
        raise ValueError("y must be finite and >= 0")
    return np.asarray(found.T, dtype=np.float64)
