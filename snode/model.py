"""A trained field with what is known about it: names of classes and features, scale of inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field as entry
from reprlib import repr as brief
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snode.backend import Array, array_namespace, is_array, to_host
from snode.copying import Portable
from snode.datasets.encoding import encode
from snode.datasets.featurenames import checked_feature_names, feature_order
from snode.fields.base import n_outputs, outputs
from snode.ode.problems import Solver
from snode.predict import BLOCK, predict

__all__ = ["Model"]


@dataclass(frozen=True, eq=False)
class Model(Portable):
    """A field read from a file, with what is known about it.

    Attributes
    ----------
    field : VectorField
        The field; its arrays belong to the backend chosen by `use_backend`.
    encoding : (float, float) or None
        Pixel encoding (background, ink) of the data it was trained on, if known.
    manifest : dict
        What was written with it: versions, seed, options, numbers.
    format_version : int or None
        Version of the file format; None for a `.mat` file.
    classes : (C,) array or None
        Names of the classes in the order of the outputs, if known.
    standardisation : (mean, scale), two (n,) arrays, or None
        If the field takes ``(sample - mean) / scale``.
    feature_names : tuple of n texts, or None
        Names of the features in the order of the inputs, if known.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> import snode
    >>> field = snode.StandaloneField(np.zeros((1, 2, 2)), np.zeros((1, 2)), T=1.0)
    >>> numbers = np.array([10.0, 200.0]), np.array([1.0, 50.0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "model.safetensors")
    ...     snode.save(path, field, classes=["cat", "dog"], standardisation=numbers)
    ...     model = snode.load(path)
    >>> raw = np.array([[12.0, 9.0], [200.0, 300.0]])
    >>> model.prepare(raw)
    array([[ 2., -1.],
           [ 0.,  2.]])
    >>> model.predict(raw)
    array(['cat', 'dog'], dtype='<U3')
    """

    field: Any
    encoding: tuple[float, float] | None
    manifest: dict[str, Any] = entry(repr=False)
    format_version: int | None
    classes: NDArray[Any] | None = None
    standardisation: tuple[Array, Array] | None = entry(default=None, repr=False)
    feature_names: tuple[str, ...] | None = entry(default=None, repr=False)

    def prepare(self, x: Array, *, feature_names: Sequence[str] | None = None) -> Array:
        """Return what the field takes for samples as the user has them.

        Parameters
        ----------
        x : array (n, m)
            One column a sample. uint8 values are pixels if the model knows an encoding, and
            become its numbers; others are taken as they are. Then the standardisation follows.
        feature_names : sequence of n texts, optional
            Names of the rows of `x`, e.g. `Dataset.feature_names`. If the model knows names, too,
            the rows are put in its order; without names they are taken by position.

        Returns
        -------
        array (n, m), of the dtype of the field

        Raises
        ------
        ValueError, TypeError
            If `x` has another number of features, or others by name, or is no array of real
            numbers.
        """
        if not is_array(x) or x.dtype.kind not in "biuf":
            found = x.dtype if is_array(x) else type(x)
            raise TypeError(f"x must be a NumPy or CuPy array of real numbers; got {found}")
        n = self.field.n
        if x.ndim != 2 or x.shape[0] != n:
            hint = "; did you mean x.T?" if x.ndim == 2 and x.shape[1] == n else ""
            raise ValueError(
                f"x must have {n} rows, the features of this model, and one column per sample; "
                f"got shape {x.shape}{hint}"
            )
        if feature_names is not None:
            order = feature_order(checked_feature_names(feature_names, n), self.feature_names, "x")
            x = x if order is None else x[array_namespace(x).asarray(order)]
        dtype = next(iter(self.field.parameters.values())).dtype
        if x.dtype == np.uint8 and self.encoding is not None:
            x = encode(x / 255.0, self.encoding)
        if self.standardisation is not None:
            mean, scale = (v[:, None] for v in self.standardisation)
            x = (x.astype(dtype) - mean) / scale
        return array_namespace(x).ascontiguousarray(x, dtype=dtype)

    def outputs(self, x: Array, *, feature_names: Sequence[str] | None = None) -> Array:
        """Return the outputs (C, m) of the field, or of its read-out, for samples as they are.

        Parameters and errors as for `prepare`; IntegrationError if the state does not stay finite.
        """
        x, xp = self.prepare(x, feature_names=feature_names), array_namespace(x)
        parts = (x[:, start : start + BLOCK] for start in range(0, x.shape[1], BLOCK))
        ends = (Solver().solve(self.field, xp.ascontiguousarray(p), keep="last").x_T for p in parts)
        return xp.concatenate([outputs(self.field, x_T) for x_T in ends], axis=1)

    def predict(self, x: Array, *, feature_names: Sequence[str] | None = None) -> NDArray[Any]:
        """Return the classes of samples as the user has them, by name if the model knows names.

        Parameters and errors as for `prepare`; IntegrationError if the state does not stay finite.

        Returns
        -------
        array (m,)
            Of the type of `classes`; or numbers of classes.
        """
        count = None if self.classes is None else len(self.classes)
        x = self.prepare(x, feature_names=feature_names)
        labels = to_host(predict(self.field, x, n_classes=count))
        return labels if self.classes is None else self.classes[labels]


def checked_classes(classes: Any, field: Any) -> list[Any]:
    """Return names that JSON can hold: all of them texts, or all of them numbers."""
    if not isinstance(classes, list) or not classes:
        raise ValueError(f"classes must be a list of names; got {brief(classes)}")
    names = [name.item() if isinstance(name, np.generic) else name for name in classes]
    if not all(isinstance(name, str) for name in names) and not all(
        isinstance(name, int | float) and math.isfinite(name) for name in names
    ):
        raise ValueError(f"classes must all be texts, or all finite numbers; got {brief(names)}")
    if len(set(names)) < len(names):
        raise ValueError(f"classes must be different; got {brief(names)}")
    if any(isinstance(name, int) and not -(2**63) <= name < 2**64 for name in names):
        raise ValueError(f"classes must be integers of 64 bits; got {brief(names)}")
    size = n_outputs(field)
    if len(names) > size:
        raise ValueError(
            f"classes must be at most {size}, the outputs of the field; got {len(names)}"
        )
    return names


def checked_standardisation(value: Any, field: Any) -> tuple[Array, Array]:
    """Return (mean, scale) in the dtype of the field."""
    if not isinstance(value, tuple | list) or len(value) != 2 or not all(map(is_array, value)):
        raise ValueError("standardisation must be (mean, scale), two arrays")
    dtype = next(iter(field.parameters.values())).dtype
    for name, array in zip(("mean", "scale"), value, strict=True):
        if array.shape != (field.n,) or array.dtype.kind != "f":
            raise ValueError(
                f"the {name} of the standardisation must be {field.n} floats; got {array.dtype} "
                f"of shape {array.shape}"
            )
    mean, scale = (array.astype(dtype) for array in value)
    if not (np.isfinite(to_host(mean)).all() and np.isfinite(to_host(scale)).all()):
        raise ValueError("the standardisation must be finite")
    if not bool((scale > 0).all()):
        raise ValueError("the scale of the standardisation must be positive")
    return mean, scale
