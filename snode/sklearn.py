r"""Estimators of scikit-learn: a standalone neural ODE with a linear read-out (extra ``sklearn``).

Here samples are rows, as everywhere in scikit-learn; in the rest of snode they are columns. The
network is :math:`x' = \sigma(W(t) x + b(t))` with :math:`z = V x(T) + c` (paper 001,
arXiv 2205.13933), trained by nonlinear conjugate gradients: there is no learning rate to tune.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, Self

import numpy as np

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_random_state
    from sklearn.utils._param_validation import Interval, StrOptions
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        f"snode.sklearn needs scikit-learn 1.6 or newer ({error}): pip install 'snode[sklearn]'"
    ) from error

from snode.fields.activations import activation_names
from snode.fields.base import outputs
from snode.fields.classifier import Classifier
from snode.fields.layer import StandaloneField
from snode.ode.problems import solve_direct
from snode.training.costs import Cost
from snode.training.loop import train

__all__ = ["SnodeClassifier", "SnodeRegressor"]

BLOCK = 500
BATCH, ITERATIONS = 2000, (100, 50)
"""What "auto" means: samples of a minibatch, iterations on all data and on one minibatch of many.

Conjugate gradients gain from iterations on the same samples: 100 on all of scikit-learn's digits
classify more of them than six on each of many minibatches.
"""


class _SnodeEstimator(BaseEstimator):
    """What classifier and regressor share: parameters, standardising, training, outputs."""

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012 - the name scikit-learn reads
        "activation": [StrOptions(set(activation_names()))],
        "depth": [Interval(Real, 0, None, closed="neither")],
        "n_layers": [Interval(Integral, 1, None, closed="left")],
        "interpolation": [StrOptions({"constant", "linear", "cubic"})],
        "inner": [StrOptions({"l2", "h1", "euclidean"})],
        "rule": [str],
        "decay": [Interval(Real, 0, None, closed="left")],
        "epochs": [Interval(Real, 0, None, closed="neither")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "n_iter": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "standardise": ["boolean"],
        "random_state": ["random_state"],
        "threads": [None, Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        *,
        activation: str = "tanh",
        depth: float = 3.0,
        n_layers: int = 20,
        interpolation: str = "constant",
        inner: str = "l2",
        rule: str = "FR",
        decay: float = 1e-3,
        epochs: float = 1.0,
        batch_size: int | str = "auto",
        n_iter: int | str = "auto",
        standardise: bool = True,
        random_state: Any = None,
        threads: int | None = 1,
    ) -> None:
        self.activation = activation
        self.depth = depth
        self.n_layers = n_layers
        self.interpolation = interpolation
        self.inner = inner
        self.rule = rule
        self.decay = decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.n_iter = n_iter
        self.standardise = standardise
        self.random_state = random_state
        self.threads = threads

    def _fit(self, X: Any, targets: Any, cost: Cost, n_outputs: int) -> Self:
        """Train on rows `X` and what the cost compares with."""
        rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31))
        self._measure_features(X)
        start = StandaloneField.random(
            X.shape[1], float(self.depth), self.n_layers, activation=self.activation,
            interpolation=self.interpolation, rng=rng, dtype=X.dtype,
        )  # fmt: skip
        batch = min(BATCH if isinstance(self.batch_size, str) else self.batch_size, len(X))
        n_iter = self.n_iter
        if isinstance(n_iter, str):  # "auto"
            n_iter = ITERATIONS[batch < len(X)]
        self.result_ = train(
            Classifier.random(start, n_outputs, rng=rng), (self._columns(X), targets), cost,
            inner=self.inner, rule=self.rule, epochs=self.epochs, batch_size=batch, n_iter=n_iter,
            rng=rng, threads=self.threads, eval_samples=1,
        )  # fmt: skip
        self.field_ = self.result_.field
        self.loss_ = float(self.result_.history["cost_after"][-1])
        self.n_iter_ = self.result_.n_batches * n_iter
        return self

    def _measure_features(self, X: Any) -> None:
        n = X.shape[1]
        self.mean_, self.scale_ = np.zeros(n, X.dtype), np.ones(n, X.dtype)
        if self.standardise:
            self.mean_, scale = X.mean(axis=0), X.std(axis=0)
            varies = scale > 10 * np.finfo(X.dtype).eps * np.abs(X).max(axis=0)
            self.scale_ = np.where(varies, scale, 1).astype(X.dtype)

    def _columns(self, X: Any) -> Any:
        return np.ascontiguousarray(((X - self.mean_) / self.scale_).T.astype(X.dtype))

    def _outputs(self, X: Any) -> Any:
        """Return the outputs (m, n_outputs), one row a sample."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
        columns = self._columns(X.astype(self.mean_.dtype, copy=False))
        blocks = []
        for i in range(0, columns.shape[1], BLOCK):
            x = np.ascontiguousarray(columns[:, i : i + BLOCK])
            x_T = solve_direct(self.field_, x, keep="last").x_T
            blocks.append(outputs(self.field_, x_T))
        return np.concatenate(blocks, axis=1).T


class SnodeClassifier(ClassifierMixin, _SnodeEstimator):
    """A standalone neural ODE as a classifier of scikit-learn; samples are rows.

    Parameters
    ----------
    activation : str, default="tanh"
        Name of sigma; see `snode.activation_names`.
    depth : float, default=3.0
        Length T of the depth interval.
    n_layers : int, default=20
        Number K of depth cells, which is the number of Euler steps.
    interpolation : {"constant", "linear", "cubic"}, default="constant"
        Weights in depth.
    inner : {"l2", "h1", "euclidean"}, default="l2"
        Metric of the gradient; "h1" is the Sobolev gradient.
    rule : str, default="FR"
        Rule of the conjugate gradients; see `snode.CG_RULES`.
    decay : float, default=1e-3
        Weight of the size of W, b, V and c.
    epochs : float, default=1.0
        Passes over the data; may be fractional.
    batch_size : int or "auto", default="auto"
        Samples of a minibatch; "auto" is 2000, or all if there are fewer.
    n_iter : int or "auto", default="auto"
        Iterations on each minibatch; "auto" is 100 where there is one, else 50.
    standardise : bool, default=True
        Subtract each feature's mean and divide by its standard deviation, both of the data given
        to `fit`.
    random_state : int, RandomState instance or None, default=None
        Decides first weights and minibatches.
    threads : int or None, default=1
        Worker threads of the training; None takes all cores (let ``n_jobs`` of a search have them).

    Attributes
    ----------
    classes_ : array (C,)
        The labels.
    field_ : Classifier
        The trained network, for the rest of snode: ``snode.deepfool(est.field_, ...)``. Its samples
        are the columns ``((X - est.mean_) / est.scale_).T``.
    mean_, scale_ : array (n,)
        Of the features; 0 and 1 with ``standardise=False``.
    result_ : TrainResult
    loss_ : float
        Cost of the last minibatch.
    n_iter_ : int
        Iterations made.
    n_features_in_ : int
    feature_names_in_ : array (n,)
        If `X` had names.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.model_selection import cross_val_score
    >>> from snode.sklearn import SnodeClassifier
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> bool(cross_val_score(SnodeClassifier(random_state=0), X, y).mean() > 0.95)
    True
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Train on rows `X` (m, n) and labels `y` (m,).

        Raises
        ------
        ValueError
            If a parameter or the data do not fit, or there is one class only.
        """
        self._validate_params()
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32))
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        count = len(self.classes_)
        if count < 2:
            raise ValueError(f"y must have at least two classes; got one class: {self.classes_[0]}")
        cost = Cost(l2=0.0, ce=1.0, decay=self.decay, n_classes=count)
        return self._fit(X, labels.astype(np.int64), cost, count)

    def decision_function(self, X: Any) -> Any:
        """Return the outputs z (m, C); for two classes their difference (m,)."""
        z = self._outputs(X)
        return z[:, 1] - z[:, 0] if len(self.classes_) == 2 else z

    def predict_proba(self, X: Any) -> Any:
        """Return the probabilities (m, C) of the classes: the softmax of the outputs."""
        z = self._outputs(X)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        return p / p.sum(axis=1, keepdims=True)

    def predict_log_proba(self, X: Any) -> Any:
        """Return the logarithms of `predict_proba`, without underflow."""
        z = self._outputs(X)
        z = z - z.max(axis=1, keepdims=True)
        return z - np.log(np.exp(z).sum(axis=1, keepdims=True))

    def predict(self, X: Any) -> Any:
        """Return the labels (m,) of rows `X`."""
        best = self._outputs(X).argmax(axis=1)
        return self.classes_[best]


class SnodeRegressor(RegressorMixin, _SnodeEstimator):
    """A standalone neural ODE as a regressor of scikit-learn; samples are rows.

    Targets are standardised for the training, by the numbers of the data given to `fit`.

    Parameters
    ----------
    **options
        The keywords of `SnodeClassifier`, with the same defaults.

    Attributes
    ----------
    field_, mean_, scale_, result_, loss_, n_iter_, n_features_in_, feature_names_in_ : objects
        As for `SnodeClassifier`.
    target_mean_, target_scale_ : array (k,)

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.model_selection import cross_val_score
    >>> from snode.sklearn import SnodeRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> bool(cross_val_score(SnodeRegressor(decay=0.1, random_state=0), X, y).mean() > 0.4)
    True
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Train on rows `X` (m, n) and targets `y` (m,) or (m, k).

        Raises
        ------
        ValueError
            If a parameter or the data do not fit.
        """
        self._validate_params()
        X, y = validate_data(
            self, X, y, dtype=(np.float64, np.float32), multi_output=True, y_numeric=True
        )
        self._single = y.ndim == 1
        Y = y.reshape(len(X), -1).astype(X.dtype)
        self.target_mean_, scale = Y.mean(axis=0), Y.std(axis=0)
        self.target_scale_ = np.where(scale > 0, scale, 1).astype(X.dtype)
        targets = np.ascontiguousarray(((Y - self.target_mean_) / self.target_scale_).T)
        cost = Cost(l2=1.0, decay=self.decay)
        return self._fit(X, targets, cost, Y.shape[1])

    def predict(self, X: Any) -> Any:
        """Return the predictions (m,) or (m, k) of rows `X`."""
        z = self._outputs(X) * self.target_scale_ + self.target_mean_
        return z[:, 0] if self._single else z

    def __sklearn_tags__(self) -> Any:
        """Say that there may be several targets."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
