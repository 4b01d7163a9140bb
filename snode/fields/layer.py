r"""The standalone neural ODE: :math:`f(t, x) = \sigma(W(t) x + b(t))` (paper 001, eq. (1))."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from snode.backend import Array, array_namespace, creator_namespace, is_array, product, read_only
from snode.copying import Portable
from snode.fields.activations import Activation, get_activation
from snode.fields.base import Parameters, check_drawn, check_scale
from snode.fields.depth import DepthBasis
from snode.partials import Partials
from snode.seeds import as_generator

__all__ = ["StandaloneField"]


class StandaloneField(Portable):
    r"""A whole network as one vector field, :math:`f(t,x) = \sigma(W(t)\,x + b(t))`.

    With explicit Euler on its own grid this is a residual network of K layers whose activation
    carries the factor h = T/K.

    Parameters
    ----------
    W : array (K, n, n) or (K + 1, n, n)
        Weights: one matrix per depth cell for ``interpolation="constant"``, one per node (cell
        boundary) for "linear" and "cubic". float32 or float64, NumPy or CuPy. Not copied; do not
        change it afterwards.
    b : array (K, n) or (K + 1, n)
        Biases, same dtype and device as `W`.
    T : float
        Length of the depth interval [0, T].
    activation : str or Activation, optional
        See `get_activation`.
    interpolation : {"constant", "linear", "cubic"}, optional
        How the stack becomes a function of depth: constant on each cell, linear between nodes, or
        the not-a-knot cubic spline through the nodes.

    Raises
    ------
    ValueError
        If a shape, dtype or option is wrong, or a weight is not finite; names the argument.
    TypeError
        If `W` or `b` is not an array.

    Notes
    -----
    Linearisation at (t, x), with :math:`a = W x + b` (paper 001, eqs. (2) and (8)):

    .. math:: f'(\xi, \omega, \beta) = \sigma'(a) * (W \xi + \omega x + \beta).

    References
    ----------
    .. [1] Jaroudi et al., *Standalone Neural ODEs with Sensitivity Analysis*, arXiv 2205.13933.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> field = snode.StandaloneField(np.zeros((4, 2, 2)), np.ones((4, 2)), T=1.0,
    ...                               activation="relu")
    >>> field(0.0, np.zeros((2, 1)))
    array([[1.],
           [1.]])
    """

    def __init__(
        self,
        W: Array,
        b: Array,
        T: float,
        *,
        activation: str | Activation = "tanh",
        interpolation: str = "constant",
    ) -> None:
        _check_shapes(W, b)
        _check_finite(W, b)
        if not (np.isfinite(T) and T > 0):
            raise ValueError(f"T must be a positive finite number; got {T!r}")
        n_cells = W.shape[0] - (interpolation in ("linear", "cubic"))
        if n_cells < 1:
            raise ValueError(
                f"W must have at least 2 nodes for interpolation={interpolation!r}; "
                f"got shape {W.shape}"
            )
        self._basis = DepthBasis(interpolation, n_cells, float(T))
        self._parameters = MappingProxyType({"W": read_only(W), "b": read_only(b)})
        self._activation = get_activation(activation)

    @classmethod
    def random(
        cls,
        n: int,
        T: float,
        n_layers: int,
        *,
        activation: str | Activation = "tanh",
        scale: float | None = None,
        knots: int = 4,
        interpolation: str = "constant",
        rng: Any = None,
        dtype: Any = "float64",
    ) -> StandaloneField:
        """Draw smooth random weights, as paper 001 starts its training.

        Independent normal numbers at `knots` equally spaced depths 0, ..., T, joined by a
        not-a-knot cubic spline in t.

        Parameters
        ----------
        n : int
            State dimension.
        T : float
            Length of the depth interval.
        n_layers : int
            Number K of depth cells.
        activation, interpolation
            As for the class. With "constant" the spline is sampled at the left end of each cell,
            otherwise at the K + 1 nodes.
        scale : float, optional
            Standard deviation of the draws; default 1/n.
        knots : int, optional
            Number of depths that are drawn; 1 gives weights constant in t.
        rng : seed or numpy.random.Generator, optional
            Drawn on the host: the same numbers on every device.
        dtype : {"float64", "float32"}, optional

        Returns
        -------
        StandaloneField

        Examples
        --------
        >>> import snode
        >>> snode.StandaloneField.random(3, 1.0, 10, rng=0)
        StandaloneField(n=3, T=1, n_layers=10, activation='tanh', interpolation='constant', float64)
        """
        for name, value in (("n", n), ("n_layers", n_layers), ("knots", knots)):
            if int(value) != value or value < 1:
                raise ValueError(f"{name} must be a positive integer; got {value!r}")
        if not (np.isfinite(T) and T > 0):
            raise ValueError(f"T must be a positive finite number; got {T!r}")
        if scale is not None:
            check_scale(scale)
        rng = as_generator(rng)
        scale = 1.0 / n if scale is None else scale
        basis = DepthBasis(interpolation, n_layers, float(T))
        depths = basis.grid[: basis.size]
        xp = creator_namespace()

        def draw(*shape: int) -> Array:
            with np.errstate(over="ignore", invalid="ignore"):
                values = rng.standard_normal((knots, *shape)) * scale
                check_drawn(values, scale)
                values = _spline_through(values, float(T), depths).astype(dtype)
                check_drawn(values, scale)
            return xp.asarray(values)

        W, b = draw(n, n), draw(n)
        return cls(W, b, T, activation=activation, interpolation=interpolation)

    # --- the contract ---------------------------------------------------------------------------

    @property
    def n(self) -> int:
        """State dimension."""
        return int(self.W.shape[1])

    @property
    def grid(self) -> Array:
        """Cell boundaries (K + 1,): the steps of a fixed-step method."""
        return self._basis.grid

    @property
    def breakpoints(self) -> tuple[float, ...]:
        """Depths where f jumps: the inner cell boundaries for "constant", none otherwise."""
        inner = self.grid[1:-1] if self.interpolation == "constant" else ()
        return tuple(float(t) for t in inner)

    @property
    def parameters(self) -> Parameters:
        """``{"W": W, "b": b}``, read-only."""
        return self._parameters

    @property
    def depth_basis(self) -> Mapping[str, DepthBasis]:
        """Both parameters are functions of depth in the same basis."""
        return {"W": self._basis, "b": self._basis}

    def with_parameters(self, **parameters: Array) -> StandaloneField:
        """Return this field with ``W`` and/or ``b`` replaced.

        Only names, shapes and dtypes are checked (training calls this once a batch); weights that
        are not finite show up as a named failure when the field is solved.

        Raises
        ------
        ValueError
            If a name is unknown or a shape is wrong.
        """
        unknown = set(parameters) - {"W", "b"}
        if unknown:
            raise ValueError(f"unknown parameter {sorted(unknown)}; this field has W and b")
        new = {**self._parameters, **parameters}
        _check_shapes(new["W"], new["b"])
        if new["W"].shape != self.W.shape:
            raise ValueError(f"W must have shape {self.W.shape}; got {new['W'].shape}")
        field = object.__new__(StandaloneField)
        field._basis, field._activation = self._basis, self._activation
        field._parameters = MappingProxyType({k: read_only(v) for k, v in new.items()})
        return field

    def __deepcopy__(self, memo: Any) -> StandaloneField:
        """Return the same field with arrays of its own."""
        return self.with_parameters(**{name: p.copy() for name, p in self._parameters.items()})

    def __call__(self, t: float, x: Array) -> Array:
        """Return sigma(W(t) x + b(t)), shape (n, m)."""
        W, b = self._at(t)
        return self._activation.value(W @ x + b[:, None])

    def linearize(self, t: float, x: Array) -> tuple[Array, LayerLinearization]:
        """Return f(t, x) and its linearisation, which remembers sigma'(W x + b)."""
        W, b = self._at(t)
        value, slope = self._activation.both(W @ x + b[:, None])
        return value, LayerLinearization(self, t, W, x, slope)

    # --- what it is -----------------------------------------------------------------------------

    @property
    def W(self) -> Array:
        """Weights, (K, n, n) or (K + 1, n, n)."""
        return self._parameters["W"]

    @property
    def b(self) -> Array:
        """Biases, (K, n) or (K + 1, n)."""
        return self._parameters["b"]

    @property
    def T(self) -> float:
        """Length of the depth interval."""
        return self._basis.T

    @property
    def n_layers(self) -> int:
        """Number K of depth cells."""
        return self._basis.n_cells

    @property
    def activation(self) -> Activation:
        """The activation function sigma."""
        return self._activation

    @property
    def interpolation(self) -> str:
        """How the stack becomes a function of depth: constant, linear or cubic."""
        return self._basis.kind

    @property
    def dtype(self) -> Any:
        """float32 or float64."""
        return self.W.dtype

    @property
    def is_shareable(self) -> bool:
        """True if several threads may use the field at once: no function of a user in it."""
        return self._activation.fusable

    def __repr__(self) -> str:
        return (
            f"StandaloneField(n={self.n}, T={self.T:g}, n_layers={self.n_layers}, "
            f"activation={self._activation.name!r}, interpolation={self.interpolation!r}, "
            f"{self.dtype})"
        )

    def _at(self, t: float) -> tuple[Array, Array]:
        j, weights = self._basis.row(t)
        return _combine(self.W, j, weights), _combine(self.b, j, weights)


class LayerLinearization:
    """Derivative of `StandaloneField` at one (t, x)."""

    __slots__ = ("W", "field", "row", "slope", "t", "x")

    def __init__(self, field: StandaloneField, t: float, W: Array, x: Array, slope: Array) -> None:
        self.field, self.t, self.W, self.x, self.slope = field, t, W, x, slope
        self.row = field._basis.row(t)

    def jvp(self, dx: Array | None, dtheta: Parameters | None = None) -> Array:
        """Return sigma'(a) * (W dx + dW x + db), eq. (2)."""
        total = 0 if dx is None else product(self.W, dx)
        dtheta = dtheta or {}
        j, weights = self.row
        if "W" in dtheta:
            total = total + _combine(dtheta["W"], j, weights) @ self.x
        if "b" in dtheta:
            total = total + _combine(dtheta["b"], j, weights)[:, None]
        return self.slope * total

    def vjp(self, p: Array, into: Partials | None = None) -> Array:
        """Return W^T (sigma'(a) * p), and add the parameter part, eqs. (6)-(8)."""
        q = self.slope * p
        if into is not None:
            into.outer("W", q, self.x, row=self.row)
            into.total("b", q, row=self.row)
        return product(self.W.T, q)

    def time_derivative(self) -> Array:
        """Return f_t = sigma'(a) * (W'(t) x + b'(t)), (n, m)."""
        j, weights = self.field._basis.row_derivative(self.t)
        W_t, b_t = (_combine(p, j, weights) for p in (self.field.W, self.field.b))
        return self.slope * (W_t @ self.x + b_t[:, None])


def _combine(stack: Array, j: int, weights: np.ndarray[Any, Any]) -> Array:
    """Return sum_i weights[i] stack[j + i]."""
    if len(weights) == 1 and weights[0] == 1.0:
        return stack[j]
    xp = array_namespace(stack)
    w = xp.asarray(weights.astype(stack.dtype))
    return xp.tensordot(w, stack[j : j + len(weights)], axes=1)


def _spline_through(
    values: np.ndarray[Any, Any], T: float, depths: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    if len(values) == 1:
        return np.repeat(values, len(depths), axis=0)
    from scipy.interpolate import CubicSpline

    spline = CubicSpline(np.linspace(0.0, T, len(values)), values, axis=0)
    return np.asarray(spline(depths))


def _check_shapes(W: Array, b: Array) -> None:
    for name, array, shape in (("W", W, "(K, n, n)"), ("b", b, "(K, n)")):
        if not is_array(array):
            raise TypeError(f"{name} must be a NumPy or CuPy array {shape}; got {type(array)}")
        if array.dtype not in (np.float32, np.float64):
            raise ValueError(f"{name} must be float32 or float64; got {array.dtype}")
    array_namespace(W, b)
    if W.ndim != 3 or W.shape[1] != W.shape[2] or 0 in W.shape:
        raise ValueError(f"W must have shape (K, n, n); got {W.shape}")
    if b.shape != W.shape[:2]:
        raise ValueError(f"b must have shape {W.shape[:2]} to fit W {W.shape}; got {b.shape}")
    if b.dtype != W.dtype:
        raise ValueError(f"W and b must have the same dtype; got {W.dtype} and {b.dtype}")


def _check_finite(W: Array, b: Array) -> None:
    xp = array_namespace(W)
    for name, array in (("W", W), ("b", b)):
        # the sum is one cheap pass; it can overflow on finite data, hence the second look
        with np.errstate(over="ignore", invalid="ignore"):
            total = xp.sum(array)
        if not bool(xp.isfinite(total)) and not bool(xp.isfinite(array).all()):
            raise ValueError(f"{name} must be finite; it has NaN or infinite entries")
