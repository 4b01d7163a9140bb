r"""Multilayer fields: :math:`f(t, x) = W_k \sigma(\dots \sigma(W_1 [x; t] + b_1) \dots) + b_k`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np

from snode.backend import Array, array_namespace, creator_namespace, is_array, product, read_only
from snode.copying import Portable
from snode.fields.activations import Activation, get_activation
from snode.fields.base import Parameters, check_drawn, check_scale
from snode.partials import Partials
from snode.seeds import as_generator

__all__ = ["MLPField"]

TIME = ("none", "concat")


class MLPField(Portable):
    r"""A multilayer perceptron as a vector field; every depth has the same weights.

    .. math::

       f(t, x) = \sigma_{out}(W_k\, \sigma(W_{k-1} \cdots \sigma(W_1 [x; t] + b_1) \cdots) + b_k)

    The field is drawn at random; `from_parameters` makes one of given arrays.

    Parameters
    ----------
    widths : sequence of int
        State dimension n, widths of the hidden layers, and n again: ``(n, w_1, ..., n)``.
    activation : str or Activation, optional
        sigma, after each hidden layer; see `get_activation`.
    time : {"none", "concat"}, optional
        Whether the depth t is a further input, the last column of ``W1``. Without it the field is
        autonomous.
    output_activation : str or Activation, optional
        sigma_out, after the last layer. Usually the identity; with "same", that of the hidden
        layers, every layer is activated.
    T : float, optional
        Length of the depth interval [0, T].
    n_layers : int, optional
        Number of equal cells of ``grid``: the steps of a fixed-step method.
    scale : float, optional
        Factor of the standard deviation of the weights.
    rng : seed or numpy.random.Generator, optional
        Drawn on the host: the same numbers on every device.
    dtype : {"float64", "float32"}, optional

    Raises
    ------
    ValueError
        If an option is wrong; names it.

    Notes
    -----
    The weights are independent normal numbers with standard deviation ``scale / sqrt(columns)``,
    the biases are zero. The parameters ``W1, b1, ..., Wk, bk`` are plain numbers, not functions of
    depth: their inner product is Euclidean in every metric.

    References
    ----------
    .. [1] Chen et al., *Neural Ordinary Differential Equations*, arXiv 1806.07366.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> field = snode.MLPField((2, 16, 2), time="concat", rng=0)
    >>> field(0.5, np.ones((2, 7))).shape, field.parameters["W1"].shape
    ((2, 7), (16, 3))
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        activation: str | Activation = "tanh",
        time: str = "none",
        output_activation: str | Activation = "identity",
        T: float = 1.0,
        n_layers: int = 20,
        scale: float = 1.0,
        rng: Any = None,
        dtype: Any = "float64",
    ) -> None:
        self._set_options(activation, time, output_activation, T, n_layers)
        self._widths = _check_widths(widths)
        check_scale(scale)
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise ValueError(f"dtype must be float32 or float64; got {dtype!r}")
        rng = as_generator(rng)
        xp = creator_namespace()
        parameters = {}
        for name, shape in _shapes(self._widths, time).items():
            if name.startswith("W"):
                with np.errstate(over="ignore"):
                    values = rng.standard_normal(shape) * (scale / shape[1] ** 0.5)
                    values = values.astype(dtype)
                check_drawn(values, scale)
            else:
                values = np.zeros(shape, dtype)
            parameters[name] = xp.asarray(values)
        self._parameters = _freeze(parameters)

    @classmethod
    def from_parameters(
        cls,
        parameters: Parameters,
        *,
        activation: str | Activation = "tanh",
        time: str = "none",
        output_activation: str | Activation = "identity",
        T: float = 1.0,
        n_layers: int = 20,
    ) -> MLPField:
        """Return the field with the given weights and biases.

        Parameters
        ----------
        parameters : mapping of str to array
            ``{"W1": ..., "b1": ..., ..., "Wk": ..., "bk": ...}``, weights (w_i, w_{i-1}) and biases
            (w_i,), ``W1`` with one column more for ``time="concat"``. float32 or float64, NumPy or
            CuPy. Not copied; do not change them afterwards.
        activation, time, output_activation, T, n_layers
            As for the class.

        Returns
        -------
        MLPField

        Raises
        ------
        ValueError
            If a name, shape, dtype or option is wrong, or an entry is not finite; names it.
        TypeError
            If a parameter is not an array.

        Examples
        --------
        >>> import numpy as np
        >>> import snode
        >>> rotation = {"W1": np.array([[0.0, -1.0], [1.0, 0.0]]), "b1": np.zeros(2)}
        >>> snode.MLPField.from_parameters(rotation)(0.0, np.array([[1.0], [0.0]]))
        array([[0.],
               [1.]])
        """
        field = object.__new__(cls)
        field._set_options(activation, time, output_activation, T, n_layers)
        field._widths = _widths_of(parameters)
        shapes = _shapes(field._widths, time)
        _check_parameters(parameters, shapes)
        for name in shapes:
            if not bool(array_namespace(parameters[name]).isfinite(parameters[name]).all()):
                raise ValueError(f"{name} must be finite; it has NaN or infinite entries")
        field._parameters = _freeze({name: parameters[name] for name in shapes})
        return field

    def _set_options(
        self,
        activation: str | Activation,
        time: str,
        output_activation: str | Activation,
        T: float,
        n_layers: int,
    ) -> None:
        if time not in TIME:
            raise ValueError(f"time must be one of {', '.join(map(repr, TIME))}; got {time!r}")
        if not (np.isfinite(T) and T > 0):
            raise ValueError(f"T must be a positive finite number; got {T!r}")
        if int(n_layers) != n_layers or n_layers < 1:
            raise ValueError(f"n_layers must be a positive integer; got {n_layers!r}")
        self._activation = get_activation(activation)
        if output_activation == "same":
            output_activation = self._activation
        try:
            self._output_activation = get_activation(output_activation)
        except (ValueError, TypeError) as error:
            raise type(error)(f"output_{error}; or 'same'") from None
        self._time, self._T = time, float(T)
        self._grid = np.linspace(0.0, self._T, int(n_layers) + 1)
        self._grid.flags.writeable = False

    # --- the contract ---------------------------------------------------------------------------

    @property
    def n(self) -> int:
        """State dimension."""
        return self._widths[0]

    @property
    def grid(self) -> Array:
        """Equally spaced depths (n_layers + 1,): the steps of a fixed-step method."""
        return self._grid

    @property
    def breakpoints(self) -> tuple[float, ...]:
        """No depths: f is continuous in t."""
        return ()

    @property
    def parameters(self) -> Parameters:
        """``{"W1": W1, "b1": b1, ...}``, read-only."""
        return self._parameters

    @property
    def rest(self) -> float:
        """T sigma_out(0): x(T) for x(0) = 0 when all parameters are zero."""
        return self._T * self._output_activation.at_zero()

    def with_parameters(self, **parameters: Array) -> MLPField:
        """Return this field with some parameters replaced.

        Only names, shapes and dtypes are checked (training calls this once a batch); weights that
        are not finite show up as a named failure when the field is solved.

        Raises
        ------
        ValueError
            If a name is unknown or a shape is wrong.
        """
        unknown = set(parameters) - set(self._parameters)
        if unknown:
            raise ValueError(
                f"unknown parameter {sorted(unknown)}; this field has {', '.join(self._parameters)}"
            )
        new = {**self._parameters, **parameters}
        _check_parameters(new, _shapes(self._widths, self._time))
        field = object.__new__(type(self))
        field.__dict__.update(self.__dict__, _parameters=_freeze(new))
        return field

    def __deepcopy__(self, memo: Any) -> MLPField:
        """Return the same field with arrays of its own."""
        return self.with_parameters(**{name: p.copy() for name, p in self._parameters.items()})

    def __call__(self, t: float, x: Array) -> Array:
        """Return f(t, x), shape (n, m)."""
        for W, b, sigma in self._layers(t):
            a = W @ x
            a += b
            x = sigma.value(a)
        return x

    def linearize(self, t: float, x: Array) -> tuple[Array, MLPLinearization]:
        """Return f(t, x) and its linearisation: the input and the slope of every layer."""
        inputs, slopes = [], []
        for W, b, sigma in self._layers(t):
            a = W @ x
            a += b
            inputs.append(x)
            x, slope = sigma.both(a)
            slopes.append(slope)
        return x, MLPLinearization(self, float(t), inputs, slopes)

    # --- what it is -----------------------------------------------------------------------------

    @property
    def widths(self) -> tuple[int, ...]:
        """State dimension, widths of the hidden layers, state dimension."""
        return self._widths

    @property
    def T(self) -> float:
        """Length of the depth interval."""
        return self._T

    @property
    def n_layers(self) -> int:
        """Number of depth cells of ``grid``."""
        return len(self._grid) - 1

    @property
    def activation(self) -> Activation:
        """The activation sigma of the hidden layers."""
        return self._activation

    @property
    def output_activation(self) -> Activation:
        """The activation sigma_out of the last layer."""
        return self._output_activation

    @property
    def time(self) -> str:
        """Whether t is an input: "none" or "concat"."""
        return self._time

    @property
    def dtype(self) -> Any:
        """float32 or float64."""
        return self._parameters["W1"].dtype

    @property
    def is_shareable(self) -> bool:
        """True if several threads may use the field at once: no function of a user in it."""
        return self._activation.fusable and self._output_activation.fusable

    def __repr__(self) -> str:
        return (
            f"MLPField(widths={self._widths}, T={self._T:g}, n_layers={self.n_layers}, "
            f"activation={self._activation.name!r}, "
            f"output_activation={self._output_activation.name!r}, time={self._time!r}, "
            f"{self.dtype})"
        )

    def _weights(self) -> list[Array]:
        """Return the matrices that multiply the state: those of `parameters`, without t."""
        W = [self._parameters[f"W{i}"] for i in range(1, len(self._widths))]
        return [W[0][:, : self.n], *W[1:]]

    def _layers(self, t: float) -> Iterator[tuple[Array, Array, Activation]]:
        """Yield W, the bias as a column (with what t adds), and sigma of every layer."""
        last = len(self._widths) - 2
        for i, W in enumerate(self._weights()):
            b = self._parameters[f"b{i + 1}"][:, None]
            if i == 0 and self._time == "concat":
                b = b + float(t) * self._parameters["W1"][:, self.n :]
            yield W, b, self._output_activation if i == last else self._activation


class MLPLinearization:
    """Derivative of `MLPField` at one (t, x)."""

    __slots__ = ("field", "inputs", "slopes", "t")

    def __init__(self, field: MLPField, t: float, inputs: list[Array], slopes: list[Array]) -> None:
        self.field, self.t, self.inputs, self.slopes = field, t, inputs, slopes

    def jvp(self, dx: Array | None, dtheta: Parameters | None = None) -> Array:
        """Return f_x dx + f_theta dtheta: the chain rule, first layer first."""
        dtheta = dtheta or {}
        for i, W in enumerate(self.field._weights()):
            terms = [] if dx is None else [product(W, dx)]
            if f"W{i + 1}" in dtheta:
                terms += self._from_weights(i, dtheta[f"W{i + 1}"])
            if f"b{i + 1}" in dtheta:
                terms.append(dtheta[f"b{i + 1}"][:, None])
            dx = self.slopes[i] * sum(terms[1:], start=terms[0]) if terms else None
        return self._zeros() if dx is None else dx

    def vjp(self, p: Array, into: Partials | None = None) -> Array:
        """Return f_x^T p, and add the parameter part: the chain rule, last layer first."""
        weights = self.field._weights()
        multiply = array_namespace(p).multiply
        for i in range(len(weights) - 1, -1, -1):
            last = i == len(weights) - 1  # p is the caller's; below it is ours
            q = self.slopes[i] * p if last else multiply(self.slopes[i], p, out=p)
            if into is not None:
                self._add(into, i, q)
            p = product(weights[i].T, q)
        return p

    def _add(self, into: Partials, i: int, q: Array) -> None:
        """Add what layer i contributes, whose pre-activations have the derivative q."""
        n = self.field.n
        into.total(f"b{i + 1}", q)
        if i == 0 and self.field.time == "concat":
            into.outer("W1", q, self.inputs[0], at=(slice(None), slice(n)))
            into.times(self.t).total("W1", q, at=(slice(None), n))
        else:
            into.outer(f"W{i + 1}", q, self.inputs[i])

    def time_derivative(self) -> Array:
        """Return f_t, shape (n, m): the part of t as an input."""
        if self.field.time == "none":
            return self._zeros()
        weights, n = self.field._weights(), self.field.n
        dx = self.slopes[0] * self.field.parameters["W1"][:, n:]
        for W, slope in zip(weights[1:], self.slopes[1:], strict=True):
            dx = slope * (W @ dx)
        return dx

    def _from_weights(self, i: int, dW: Array) -> list[Array]:
        """Return the terms of dW [x; t] in layer i."""
        n = self.field.n
        if i == 0 and self.field.time == "concat":
            return [dW[:, :n] @ self.inputs[0], self.t * dW[:, n:]]
        return [dW @ self.inputs[i]]

    def _zeros(self) -> Array:
        return array_namespace(self.inputs[0]).zeros_like(self.inputs[0])


# --- checks ---------------------------------------------------------------------------------------


def _check_widths(widths: Any) -> tuple[int, ...]:
    if not isinstance(widths, Sequence | np.ndarray) or isinstance(widths, str) or len(widths) < 2:
        raise ValueError(f"widths must be at least two integers (n, ..., n); got {widths!r}")
    for width in widths:
        if not isinstance(width, int | np.integer) or width < 1:
            raise ValueError(f"widths must be positive integers; got {widths!r}")
    if widths[0] != widths[-1]:
        raise ValueError(f"widths must begin and end with the state dimension n; got {widths!r}")
    return tuple(int(width) for width in widths)


def _shapes(widths: tuple[int, ...], time: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (columns, rows) in enumerate(pairwise(widths), start=1):
        shapes[f"W{i}"] = (rows, columns + (i == 1 and time == "concat"))
        shapes[f"b{i}"] = (rows,)
    return shapes


def _widths_of(parameters: Any) -> tuple[int, ...]:
    """Return the widths that the biases tell; the last one is the state dimension."""
    if not isinstance(parameters, Mapping):
        raise TypeError(f"parameters must be a mapping of names to arrays; got {type(parameters)}")
    k = len(parameters) // 2
    names = [f"b{i}" for i in range(1, k + 1)]
    if k == 0 or set(parameters) != {*names, *(f"W{i}" for i in range(1, k + 1))}:
        raise ValueError(
            f"parameters must be W1, b1, ..., Wk, bk; got {', '.join(map(str, parameters))}"
        )
    for name in names:
        _check_array(name, parameters[name], "(width,)")
        if parameters[name].ndim != 1 or parameters[name].shape[0] == 0:
            raise ValueError(f"{name} must have shape (width,); got {parameters[name].shape}")
    sizes = [int(parameters[name].shape[0]) for name in names]
    return (sizes[-1], *sizes)


def _check_parameters(parameters: Parameters, shapes: dict[str, tuple[int, ...]]) -> None:
    dtype = None
    for name, shape in shapes.items():
        array = parameters[name]
        _check_array(name, array, str(shape))
        if array.shape != shape:
            raise ValueError(f"{name} must have shape {shape}; got {array.shape}")
        dtype = dtype or array.dtype
        if array.dtype != dtype:
            raise ValueError(
                f"all parameters must have the same dtype; W1 is {dtype} and {name} {array.dtype}"
            )
    array_namespace(*parameters.values())


def _check_array(name: str, array: Any, shape: str) -> None:
    if not is_array(array):
        raise TypeError(f"{name} must be a NumPy or CuPy array {shape}; got {type(array)}")
    if array.dtype not in (np.float32, np.float64):
        raise ValueError(f"{name} must be float32 or float64; got {array.dtype}")


def _freeze(parameters: dict[str, Array]) -> Parameters:
    return MappingProxyType({name: read_only(array) for name, array in parameters.items()})
