"""The stages of one Runge-Kutta step: what all solvers of this room share."""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from dataclasses import dataclass
from math import isfinite, nextafter
from typing import Any

import numpy as np
from numpy import ndarray

from snode.backend import Array, array_namespace, is_array, read_only
from snode.copying import Portable
from snode.ode.dense import DenseOutput
from snode.ode.tableaus import ButcherTableau

__all__ = ["Checkpoint", "Limits", "Rhs", "Stages", "Steps", "inside"]


class Rhs:
    """A right-hand side that counts its evaluations and, if asked, keeps its linearisations.

    Every value is looked at, and x is handed out write-protected (a CuPy array cannot be: there x
    is compared with a copy, once).

    Parameters
    ----------
    f : callable or VectorField
    x0 : array
        The initial state; the values of f are compared with its shape.
    linearize : bool, optional
        Call ``f.linearize(t, x)`` instead of f and append to `.linearizations`.
    trusted : bool, optional
        Do not look at the values, which a device would have to be waited for.

    Raises
    ------
    ValueError
        At an evaluation, if f does not return real numbers of the shape of x0 or changes x.
    """

    def __init__(
        self, f: Any, x0: Array, *, linearize: bool = False, trusted: bool = False
    ) -> None:
        self.nfev = 0
        self.linearizations: list[Any] = []
        self.f = _recorder(f, self.linearizations) if linearize else f
        self._plain, self.linearize, self.trusted = f, linearize, trusted
        self.shape, self.dtype = x0.shape, x0.dtype
        self.protects = type(x0) is ndarray
        self._is_compared = self.protects or trusted

    def __call__(self, t: float, x: Array) -> Array:
        """Return f(t, x)."""
        self.nfev += 1
        if self._is_compared:
            return self._value(self.f, t, x)
        before, self._is_compared = x.copy(), True
        value = self._value(self.f, t, x)
        if not bool((x == before).all()):
            x[...] = before
            raise ValueError(IN_PLACE)
        return value

    def probe(self, t: float, x: Array) -> Array:
        """Return f(t, x) for a diagnosis: no linearisation is kept."""
        self.nfev += 1
        return self._value(self._plain, t, x)

    def _value(self, f: Any, t: float, x: Array) -> Array:
        try:
            value = f(t, read_only(x))
        except Exception as error:
            name_error(error, t)
            raise
        return value if self.trusted else checked(value, self.shape, t)


IN_PLACE = "f must not change x in place: return a new array"


def name_error(error: Exception, t: float) -> None:
    """Note where f raised; raise ValueError instead if it wrote to x, which is write-protected."""
    if isinstance(error, ValueError) and "read-only" in str(error):
        raise ValueError(f"{IN_PLACE} (at t={t:g})") from error
    error.add_note(f"raised by f at t={t:.10g}")


def checked(value: Any, shape: tuple[int, ...], t: float) -> Array:
    """Return a value of f as an array, or raise ValueError that says what is wrong with it."""
    if isinstance(value, np.ma.MaskedArray | np.matrix):
        if isinstance(value, np.matrix) or np.ma.getmaskarray(value).any():
            kind = type(value).__name__
            hint = "np.asarray(...)" if kind == "matrix" else "its .filled(...) values"
            raise ValueError(f"f must return a plain array; got a {kind} at t={t:g}: use {hint}")
        value = value.data
    try:
        array = value if is_array(value) else np.asarray(value)
    except ValueError as error:
        raise ValueError(
            f"f must return shape {shape}, that of the state, at t={t:g}: {error}"
        ) from None
    if value is None or array.dtype.kind not in "fiu":
        found = "None" if value is None else array.dtype
        raise ValueError(f"f must return real numbers; got {found} at t={t:g}")
    if array.shape != shape and not (array.size == 1 and math.prod(shape) == 1):
        raise ValueError(
            f"f must return shape {shape}, that of the state; got {array.shape} at t={t:g}"
        )
    return array.reshape(shape)


def _recorder(field: Any, store: list[Any]) -> Callable[[float, Array], Array]:
    """Return f(t, x) that appends its linearisation to `store`."""

    def evaluate(t: float, x: Array) -> Array:
        value, lin = field.linearize(t, x)
        store.append(lin)
        return value

    return evaluate


@dataclass(frozen=True)
class Limits:
    """Where f may be evaluated in a step that ends at a breakpoint: on its own side of the jump."""

    low: float
    high: float

    @classmethod
    def between(cls, start: float, stop: float, jumps: Container[float]) -> Limits | None:
        """Return the limits of a step, one rounding inside of a jump at its ends; None without."""
        if start not in jumps and stop not in jumps:
            return None
        first = nextafter(start, stop) if start in jumps else start
        last = nextafter(stop, start) if stop in jumps else stop
        return cls(min(first, last), max(first, last))

    def clip(self, t: float) -> float:
        """Return the depth nearest to `t` within the limits."""
        return min(max(t, self.low), self.high)


def inside(t: float, limits: Limits | None) -> float:
    """Return the depth where f is asked for `t`."""
    return t if limits is None else limits.clip(t)


class Stages:
    """The stages K_1, ..., K_s of one step, in a buffer that is used again.

    Parameters
    ----------
    rhs : Rhs
    tableau : ButcherTableau
    x0 : array
        Gives shape, dtype and device.
    """

    def __init__(self, rhs: Rhs, tableau: ButcherTableau, x0: Array) -> None:
        xp, numbers = array_namespace(x0), tableau.numbers()
        self.rhs, self.tableau, self.shape = rhs, tableau, x0.shape
        self.active, self.count = tableau.active_stages, tableau.stages
        self.c = numbers.c
        # rows: a, b, e; times h they are made once a step, and seen through views made once
        e = numbers.e if len(numbers.e) else np.zeros(self.count)
        self._weights = xp.asarray(np.vstack([numbers.a, numbers.b, e]).astype(x0.dtype))
        self._scaled, self._multiply = xp.empty_like(self._weights), xp.multiply
        self._rows = [self._scaled[i, :i] for i in range(self.count)]
        self._b, self._e = self._scaled[self.count, : self.active], self._scaled[-1]
        self.dense = xp.asarray(numbers.dense.T.astype(x0.dtype))
        self.K = xp.zeros((self.count, *x0.shape), dtype=x0.dtype)
        self.flat = self.K.reshape(self.count, -1)
        self._before = [self.flat[:i] for i in range(self.count + 1)]
        unseen = [
            i for i, (b, e) in enumerate(zip(tableau.b, tableau.e, strict=False)) if not (b or e)
        ]
        self._unseen = [self.flat[i] for i in unseen]

    def step(self, t: Array, i: int, x: Array, jumps: Container[float]) -> Array:
        """Take step i of a grid from x, and return the state at its end."""
        start, stop = float(t[i]), float(t[i + 1])
        limits = Limits.between(start, stop, jumps)
        self.first(start, x, limits)
        return self.advance(start, stop, x, limits)

    def first(self, t: float, x: Array, limits: Limits | None) -> None:
        """Evaluate the first stage."""
        self.K[0] = self.rhs(inside(t, limits), x)

    def advance(self, t: float, t_new: float, x: Array, limits: Limits | None) -> Array:
        """Evaluate the stages after the first that x(t_new) depends on, and return x(t_new)."""
        h, shape, K, c = t_new - t, self.shape, self.K, self.c
        rhs, before, rows, is_flat = self.rhs, self._before, self._rows, x.ndim == 1
        f, dtype, protects, trusted = rhs.f, rhs.dtype, rhs.protects, rhs.trusted
        xf = x if is_flat else x.reshape(-1)
        self._multiply(self._weights, h, out=self._scaled)
        for i in range(1, self.active):
            y = rows[i].dot(before[i])
            y += xf
            ti = t_new if c[i] == 1.0 else t + c[i] * h
            if limits is not None:
                ti = limits.clip(ti)
            if protects:
                y.flags.writeable = False  # it is new, and so is any view of it
            try:
                value = f(ti, y if is_flat else y.reshape(shape))
            except Exception as error:
                name_error(error, ti)
                raise
            # the usual case is told by identity; anything else is looked at in detail
            if not (type(value) is ndarray and value.dtype is dtype and value.shape == shape):
                value = value if trusted else checked(value, shape, ti)
            K[i] = value
        self.rhs.nfev += self.active - 1
        y = self._b.dot(before[self.active])
        y += xf
        return y if is_flat else y.reshape(shape)

    def last(self, t: float, x: Array, limits: Limits | None) -> None:
        """Evaluate the stage at the new point, for methods whose error estimate has it."""
        if self.count > self.active:
            self.K[-1] = self.rhs(inside(t, limits), x)

    def error(self) -> Array:
        """Return the estimate of the error of the last `advance`, flat."""
        return self._e.dot(self.flat)

    def unseen_are_finite(self) -> bool:
        """True if the stages that neither x(t_new) nor the error weigh are finite."""
        # a cheap look first; it can overflow on finite numbers
        for row in self._unseen:
            if not (isfinite(row.dot(row)) or bool(array_namespace(row).isfinite(row).all())):
                return False
        return True

    def are_finite(self) -> bool:
        """True if all stages are finite."""
        return bool(array_namespace(self.flat).isfinite(self.flat).all())

    def polynomial(self, h: float) -> Array:
        """Return the coefficients (degree, ...) of theta, theta^2, ... of x(t + theta h) - x(t)."""
        return (h * self.dense).dot(self.flat).reshape(-1, *self.shape)


@dataclass(frozen=True, eq=False)
class Checkpoint(Portable):
    """A state kept on the way: `x` at node `index`."""

    index: int
    x: Array


@dataclass(frozen=True, eq=False)
class Steps(Portable):
    """What the derivatives of a solution are made of: the frozen steps.

    Attributes
    ----------
    tableau : ButcherTableau
    t : array (N + 1,)
        Nodes: the accepted steps.
    jumps : frozenset of float
        Nodes where f jumps.
    x : array (N + 1, ...) or None
        States at the nodes.
    linearizations : tuple of tuple or None
    checkpoints : tuple of Checkpoint or None
    dense : DenseOutput or None
    terminal : bool
        The last node was found by a terminal event.
    rtol, atol : float or None
        Tolerances of the steps; None for fixed steps.
    """

    tableau: ButcherTableau
    t: Array
    jumps: frozenset[float] = frozenset()
    x: Array | None = None
    linearizations: tuple[Any, ...] | None = None
    checkpoints: tuple[Checkpoint, ...] | None = None
    dense: DenseOutput | None = None
    terminal: bool = False
    rtol: float | None = None
    atol: Any = None
