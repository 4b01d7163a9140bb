"""The stages of one Runge-Kutta step: what all solvers of this room share."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from math import isfinite, nextafter
from typing import Any

import numpy as np

from snode.backend import Array, array_namespace, is_array
from snode.copying import Portable
from snode.ode.dense import DenseOutput
from snode.ode.tableaus import ButcherTableau

__all__ = ["Checkpoint", "Limits", "Rhs", "Stages", "Steps", "inside"]


FLOAT = np.dtype("float64")


class Rhs:
    """A right-hand side that counts its evaluations and, if asked, keeps its linearisations.

    Parameters
    ----------
    f : callable or VectorField
    x0 : array
        The initial state; the first value of f is compared with its shape.
    linearize : bool, optional
        Call ``f.linearize(t, x)`` instead of f and append to `.linearizations`.
    trusted : bool, optional
        Do not look at the first value, which a device would have to be waited for.

    Raises
    ------
    ValueError
        At the first evaluation, if f does not return numbers of the shape of x0.
    """

    def __init__(
        self, f: Any, x0: Array, *, linearize: bool = False, trusted: bool = False
    ) -> None:
        self.nfev = 0
        self.linearizations: list[Any] = []
        self._f = _recorder(f, self.linearizations) if linearize else f
        self._x0, self.linearize = x0, linearize
        self.evaluate: Callable[[float, Array], Array] = self._f if trusted else self._first

    def __call__(self, t: float, x: Array) -> Array:
        """Return f(t, x)."""
        self.nfev += 1
        value = self.evaluate(t, x)
        if value is None or getattr(value, "dtype", FLOAT).kind == "c":
            found = "None" if value is None else value.dtype
            raise ValueError(f"f must return real numbers; got {found} at t={t:g}")
        return value

    def _first(self, t: float, x: Array) -> Array:
        before = x.copy()
        value = self._checked(self._f(t, x))  # the first value only
        if not bool((x == before).all()):
            x[...] = before
            raise ValueError("f must not change x in place: return a new array")
        self.evaluate = self._f  # and no longer a method of its own, which would be a cycle
        return value

    def _checked(self, value: Any) -> Array:
        shape = self._x0.shape
        try:
            host = value if is_array(value) else np.asarray(value)
        except ValueError as error:
            raise ValueError(f"f must return shape {shape}, that of the state: {error}") from None
        if host.dtype.kind not in "fiu":
            raise ValueError(f"f must return real numbers; got {host.dtype}")
        if host.shape != shape and not (host.size == 1 and np.prod(shape) == 1):
            raise ValueError(f"f must return shape {shape}, that of the state; got {host.shape}")
        return value


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
        f, before, rows, is_flat = self.rhs.evaluate, self._before, self._rows, x.ndim == 1
        xf = x if is_flat else x.reshape(-1)
        self._multiply(self._weights, h, out=self._scaled)
        for i in range(1, self.active):
            y = rows[i].dot(before[i])
            y += xf
            ti = t_new if c[i] == 1.0 else t + c[i] * h
            if limits is not None:
                ti = limits.clip(ti)
            K[i] = f(ti, y if is_flat else y.reshape(shape))
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
