r"""Activation functions sigma, their derivatives and their slope intervals, by name.

An activation is data: a frozen record in a table. To add one, call `register_activation`.
All functions act componentwise, follow the array library of their argument, keep its dtype,
and are safe for :math:`|x| \le 10^4` in float32 and float64 (no overflow, no NaN).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from snode.backend import Array, array_namespace, own_error_state
from snode.copying import LostFunction, is_importable
from snode.fields.slopes import check_slopes

__all__ = ["Activation", "activation_names", "get_activation", "register_activation"]

Function = Callable[[Array], Array]


@dataclass(frozen=True)
class Activation:
    """A scalar function applied componentwise, with its derivative.

    Parameters
    ----------
    name : str
        Name in the table, without parameters.
    value, slope : callable
        ``value(a)`` is sigma(a), ``slope(a)`` is sigma'(a), both componentwise with the dtype of
        `a`. At a kink the slope is the one stated by the activation's entry.
    slope_interval : (float, float)
        Smallest and largest value of sigma' over the real line (closure). Certificates rest on it:
        it is compared with `slope` and `value` on a dense grid, see `register_activation`.
    kinks : tuple of float
        Points where sigma' jumps; Taylor tests keep away from them.
    params : mapping
        Parameters of the family, e.g. ``{"alpha": 0.2}``.
    kernel : str, optional
        Name of the fused CPU kernel that computes exactly this function; built-in entries only.
    from_value : callable, optional
        sigma' as a function of sigma(a), where that is cheaper; built-in entries only.
    in_place : callable, optional
        sigma(a), written over a; built-in entries only.
    fusable : bool
        Whether the functions may become part of a kernel, see `snode.backend.fuse`; built-in
        entries only.

    Raises
    ------
    ValueError
        If `slope_interval` is empty, or refuted by the grid, or `slope` is not the derivative.
    """

    name: str
    value: Function
    slope: Function
    slope_interval: tuple[float, float]
    kinks: tuple[float, ...] = ()
    params: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    kernel: str | None = field(default=None, init=False, repr=False)
    from_value: Function | None = field(default=None, init=False, repr=False)
    in_place: Function | None = field(default=None, init=False, repr=False)
    fusable: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            lo, hi = (float(end) for end in self.slope_interval)
        except (TypeError, ValueError):
            lo, hi = math.nan, math.nan
        if not lo <= hi:
            raise ValueError(
                f"slope_interval must be (lo, hi) with lo <= hi; got {self.slope_interval!r}"
            )
        object.__setattr__(self, "slope_interval", (lo, hi))
        check_slopes(self.value, self.slope, (lo, hi), self.kinks)

    @own_error_state
    def __call__(self, a: Array) -> Array:
        """Return sigma(a)."""
        return self.value(a)

    def both(self, a: Array) -> tuple[Array, Array]:
        """Return sigma(a) and sigma'(a); `a` may be overwritten, do not use it afterwards."""
        if self.in_place is None or self.from_value is None:
            return self.value(a), self.slope(a)
        s = self.in_place(a)
        return s, self.from_value(s)

    @property
    def spec(self) -> dict[str, Any]:
        """Name and parameters, enough for `get_activation` to build it again."""
        return {"name": self.name, **self.params}

    def at_zero(self) -> float:
        """Return sigma(0), which the output term of the cost needs."""
        import numpy as np

        return float(self.value(np.zeros(1))[0])

    @property
    def is_importable(self) -> bool:
        """True if another process can have it: its functions, or its name in the table."""
        own = is_importable(self.value) and is_importable(self.slope)
        return self.fusable or own or self._is_in_table()

    def _is_in_table(self) -> bool:
        return self.name in _TABLE and not self.params and _TABLE[self.name]() is self

    def __reduce__(self) -> tuple[Any, ...]:
        if self.fusable:
            return get_activation, (self.spec,)
        by_name = self._is_in_table() and not is_importable((self.value, self.slope))
        functions = (None, None) if by_name else (self.value, self.slope)
        return _rebuilt, (self.name, *functions, self.slope_interval, self.kinks, {**self.params})

    def __copy__(self) -> Activation:
        return self

    def __deepcopy__(self, memo: Any) -> Activation:
        return self

    def __repr__(self) -> str:
        args = "".join(f", {k}={v!r}" for k, v in self.params.items())
        return f"get_activation({self.name!r}{args})"


def _rebuilt(
    name: str, value: Any, slope: Any, interval: Any, kinks: Any, params: dict[str, float]
) -> Activation:
    """Return an activation of one's own in another process, where it may not be registered."""
    if value is None:
        if name in _TABLE:
            return _TABLE[name]()
        value = slope = LostFunction(
            f"activation {name!r}, whose functions are no functions of a module and which this "
            "process has not registered (register_activation),"
        )
    return _proven(name, value, slope, interval, kinks, MappingProxyType(params))


# Every formula below stands once. `where` evaluates both branches, so exponents are clipped first.


def _proven(
    name: str, value: Function, slope: Function, slope_interval: tuple[float, float],
    kinks: tuple[float, ...] = (), params: Mapping[str, float] = MappingProxyType({}),
) -> Activation:  # fmt: skip
    """An activation whose slopes were checked: of the table (by the tests), or before."""
    entry = object.__new__(Activation)
    given = {"name": name, "value": value, "slope": slope, "slope_interval": slope_interval,
             "kinks": kinks, "params": params, "fusable": False}  # fmt: skip
    for part in fields(Activation):
        object.__setattr__(entry, part.name, given.get(part.name))
    return entry


def _with_kernel(kernel: str, entry: Activation) -> Activation:
    # not an argument of the class: a changed copy (dataclasses.replace) must lose the kernel
    object.__setattr__(entry, "kernel", kernel)
    return entry


def _tanh() -> Activation:
    def value(a: Array) -> Array:
        return array_namespace(a).tanh(a)

    def from_value(s: Array) -> Array:
        slope = s * s
        return array_namespace(s).subtract(1, slope, out=slope)

    def slope(a: Array) -> Array:
        return from_value(value(a))

    entry = _proven("tanh", value, slope, (0.0, 1.0))
    object.__setattr__(entry, "from_value", from_value)
    object.__setattr__(entry, "in_place", lambda a: array_namespace(a).tanh(a, out=a))
    return _with_kernel("tanh", entry)


def _logistic(a: Array) -> Array:
    xp = array_namespace(a)
    z = xp.exp(-xp.abs(a))
    return xp.where(a >= 0, 1 / (1 + z), z / (1 + z))


def _sigmoid() -> Activation:
    def slope(a: Array) -> Array:
        xp = array_namespace(a)
        z = xp.exp(-xp.abs(a))
        return z / (1 + z) ** 2

    return _proven("sigmoid", _logistic, slope, (0.0, 0.25))


def _softplus() -> Activation:
    def value(a: Array) -> Array:
        xp = array_namespace(a)
        return xp.maximum(a, 0) + xp.log1p(xp.exp(-xp.abs(a)))

    return _proven("softplus", value, _logistic, (0.0, 1.0))


def _relu() -> Activation:
    entry = _proven(
        "relu",
        lambda a: array_namespace(a).maximum(a, 0),
        lambda a: (a > 0).astype(a.dtype),
        (0.0, 1.0),
        kinks=(0.0,),
    )
    return _with_kernel("leaky", entry)


def _leaky_relu(alpha: float = 0.01) -> Activation:
    _require("alpha", alpha, 0.0 <= alpha <= 1.0, "in [0, 1]")
    entry = _proven(
        "leaky_relu",
        lambda a: array_namespace(a).where(a > 0, a, alpha * a),
        lambda a: alpha + (1 - alpha) * (a > 0).astype(a.dtype),
        (alpha, 1.0),
        kinks=(0.0,),
        params={"alpha": alpha},
    )
    return _with_kernel("leaky", entry)


def _smooth_relu(width: float = 0.1) -> Activation:
    base = _smooth_leaky_relu(alpha=0.0, width=width)
    return _proven("smooth_relu", base.value, base.slope, (0.0, 1.0), params={"width": width})


def _smooth_leaky_relu(alpha: float = 0.01, width: float = 0.1) -> Activation:
    """C1: linear outside [-width, width], a quadratic inside."""
    _require("alpha", alpha, 0.0 <= alpha <= 1.0, "in [0, 1]")
    _require("width", width, width > 0, "positive")

    def ramp(a: Array) -> Array:
        return array_namespace(a).clip(a, -width, width)

    def value(a: Array) -> Array:
        xp = array_namespace(a)
        c = ramp(a)
        return alpha * a + (1 - alpha) * (xp.maximum(a - width, 0) + (c + width) ** 2 / (4 * width))

    def slope(a: Array) -> Array:
        return alpha + (1 - alpha) * (ramp(a) + width) / (2 * width)

    params = {"alpha": alpha, "width": width}
    return _proven("smooth_leaky_relu", value, slope, (alpha, 1.0), params=params)


def _leaky_tanh(alpha: float = 0.1) -> Activation:
    """C2, slopes in (alpha, 1]: the identity for a >= 0, a mean of identity and tanh below."""
    _require("alpha", alpha, 0.0 <= alpha <= 1.0, "in [0, 1]")

    def value(a: Array) -> Array:
        xp = array_namespace(a)
        return xp.where(a >= 0, a, alpha * a + (1 - alpha) * xp.tanh(a))

    def slope(a: Array) -> Array:
        xp = array_namespace(a)
        return xp.where(a >= 0, 1, alpha + (1 - alpha) * (1 - xp.tanh(a) ** 2))

    return _proven("leaky_tanh", value, slope, (alpha, 1.0), params={"alpha": alpha})


def _leaky_tanh_c1(alpha: float = 0.1) -> Activation:
    """C1, slopes in [alpha, 1]: tanh for a < 0, up to where its slope has fallen to alpha."""
    _require("alpha", alpha, 0.0 < alpha <= 1.0, "in (0, 1]")
    end = math.acosh(alpha**-0.5)  # 1 / cosh(end)^2 = alpha

    def value(a: Array) -> Array:
        xp = array_namespace(a)
        return xp.maximum(a, 0) + xp.tanh(xp.clip(a, -end, 0)) + alpha * xp.minimum(a + end, 0)

    def slope(a: Array) -> Array:
        xp = array_namespace(a)
        inside = 1 - xp.tanh(xp.clip(a, -end, 0)) ** 2
        return xp.where(a <= -end, alpha, inside)

    return _proven("leaky_tanh_c1", value, slope, (alpha, 1.0), params={"alpha": alpha})


def _elu(alpha: float = 1.0) -> Activation:
    _require("alpha", alpha, alpha > 0, "positive")

    def value(a: Array) -> Array:
        xp = array_namespace(a)
        return xp.where(a > 0, a, alpha * xp.expm1(xp.minimum(a, 0)))

    def slope(a: Array) -> Array:
        xp = array_namespace(a)
        return xp.where(a > 0, 1, alpha * xp.exp(xp.minimum(a, 0)))

    kinks = () if alpha == 1.0 else (0.0,)
    return _proven("elu", value, slope, (0.0, max(1.0, alpha)), kinks, {"alpha": alpha})


def _identity() -> Activation:
    def slope(a: Array) -> Array:
        return array_namespace(a).where(a > 0, 1, 1).astype(a.dtype)

    return _proven("identity", lambda a: a.copy(), slope, (1.0, 1.0))


_TABLE: dict[str, Callable[..., Activation]] = {
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "smooth_relu": _smooth_relu,
    "smooth_leaky_relu": _smooth_leaky_relu,
    "leaky_tanh": _leaky_tanh,
    "leaky_tanh_c1": _leaky_tanh_c1,
    "elu": _elu,
    "softplus": _softplus,
    "identity": _identity,
}
_BUILT_IN = frozenset(_TABLE)


def activation_names() -> tuple[str, ...]:
    """Return the names that `get_activation` knows."""
    return tuple(_TABLE)


def get_activation(activation: str | Activation | Mapping[str, Any], **params: float) -> Activation:
    """Return an activation by name.

    Parameters
    ----------
    activation : str, Activation or mapping
        A name (see `activation_names`), a ready `Activation` (returned as it is), or a
        `Activation.spec`.
    **params : float
        Parameters of the family: ``alpha`` for ``elu`` and the leaky ones, whose slopes are in
        [alpha, 1]; ``width`` for the smooth ones.

    Returns
    -------
    Activation

    Raises
    ------
    ValueError
        If the name or a parameter is unknown, or a parameter out of range.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> snode.get_activation("leaky_relu", alpha=0.1)(np.array([-2.0, 3.0]))
    array([-0.2,  3. ])
    """
    if isinstance(activation, Activation):
        return activation
    if isinstance(activation, Mapping):
        if "name" not in activation:
            raise ValueError(f"activation must have a name; got {dict(activation)!r}")
        return get_activation(
            **{"activation": activation["name"]}
            | {k: v for k, v in activation.items() if k != "name"}
        )
    if activation not in _TABLE:
        raise ValueError(f"activation must be one of {', '.join(_TABLE)}; got {activation!r}")
    try:
        entry = _TABLE[activation](**params)
    except TypeError:
        raise ValueError(
            f"activation {activation!r} does not take the parameters {sorted(params)}"
        ) from None
    if activation in _BUILT_IN:
        object.__setattr__(entry, "fusable", True)
    return entry


@own_error_state
def register_activation(
    name: str,
    value: Function,
    slope: Function,
    slope_interval: tuple[float, float],
    *,
    kinks: tuple[float, ...] = (),
    test_points: tuple[float, ...] = (),
) -> Activation:
    r"""Add an activation of your own, so that every field can use it by `name`.

    Parameters
    ----------
    name : str
        A new name; the built-in ones cannot be replaced.
    value, slope : callable
        sigma and sigma', componentwise, keeping shape and dtype.
    slope_interval : (float, float)
        Smallest and largest value of sigma' on the whole line, rounded outward where they are not
        exact. Certificates rest on it.
    kinks : tuple of float, optional
        Points where sigma' jumps.
    test_points : tuple of float, optional
        Points near which the slopes are looked at closely: where sigma' is extreme, and wherever
        something narrow happens.

    Returns
    -------
    Activation

    Raises
    ------
    ValueError
        If the name is taken, the interval is empty, `slope` is not the derivative of `value`, or a
        slope outside of the interval is found; says where and what.

    Notes
    -----
    The interval is compared with `slope`, in float64 and float32, and with the difference quotients
    of `value` on a grid: 1024 points per unit for :math:`|a| \le 32`, 500 per decade from
    :math:`10^{-8}` to :math:`10^4` on both sides, and around `kinks`, `test_points` and the extreme
    slopes much closer. `slope` is compared with central differences at all these points. Both
    functions must be finite for :math:`|a| \le 50`; where they overflow farther out they are passed
    over.

    A grid cannot see what is narrower than the distance of its points, or farther out than
    :math:`10^4`: a spike of sigma' of width 1e-4 may stand between two of them. So the interval
    must be *proven*, with the derivative of sigma' at hand; the grid finds mistakes.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> snode.register_activation("sine", np.sin, np.cos, (-1.0, 1.0)).name
    'sine'

    Swish is not increasing, so its slopes are not in [0, 1]:

    >>> def logistic(a):
    ...     return 0.5 + 0.5 * np.tanh(0.5 * a)
    >>> def slope(a):
    ...     return logistic(a) * (1 + a * (1 - logistic(a)))
    >>> snode.register_activation("swish", lambda a: a * logistic(a), slope, (0.0, 1.0))
    Traceback (most recent call last):
        ...
    ValueError: slope_interval (0, 1) is refuted by slope(-2.39936) = -0.0998393201; the slopes ...
    """
    if name in _TABLE:
        raise ValueError(f"name {name!r} is taken; the table has {', '.join(_TABLE)}")
    entry = Activation(name, value, slope, slope_interval, tuple(kinks))
    check_slopes(value, slope, entry.slope_interval, test_points, only=True)
    _TABLE[name] = lambda: entry
    return entry


def _require(name: str, value: float, condition: bool, expected: str) -> None:
    if not condition:
        raise ValueError(f"{name} must be {expected}; got {value!r}")
