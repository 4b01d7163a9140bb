"""Events: zeros of functions of (t, x) along a solution, located on its dense output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from snode.backend import Array, is_array, read_only, to_host
from snode.ode.arguments import with_arguments
from snode.ode.dense import evaluate

__all__ = ["Event", "EventFinder", "as_events"]


LEAVING = 1e-3
"""Share of a step after which g has left a zero it started from."""


@dataclass(frozen=True)
class Event:
    """A zero of ``g(t, x)`` to look for.

    Parameters
    ----------
    g : callable
        Returns a number, not a condition; a zero is found where its sign changes over an accepted
        step, or where it becomes 0 and stays so (two zeros within one step are not found: limit
        ``max_step``). A zero at the start itself is no event, nor is leaving a zero where g rested.
    terminal : bool or int, optional
        End the integration there; a number n: at the n-th zero, as in SciPy.
    direction : int, optional
        +1: only where g increases with the integration; -1: decreases; 0: both.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> ground = snode.Event(lambda t, x: x[0], terminal=True, direction=-1)
    >>> sol = snode.ode45(lambda t, x: [x[1], -9.81], (0, 10), [1.0, 0.0], events=ground)
    >>> sol.status, bool(abs(sol.t[-1] - (2 / 9.81) ** 0.5) < 1e-12)
    (Status.EVENT, True)
    """

    g: Callable[[float, Array], float]
    terminal: bool | int = False
    direction: int = 0

    def __post_init__(self) -> None:
        if not callable(self.g):
            raise TypeError(f"g must be callable, g(t, x); got {type(self.g).__name__}")
        count = self.terminal
        if not isinstance(count, bool | np.bool_ | int | np.integer) or count < 0:
            raise ValueError(
                f"terminal must be True, False or a number of zeros, 1, 2, ...; got {count!r}"
            )
        if self.direction not in (-1, 0, 1):
            raise ValueError(f"direction must be -1, 0 or 1; got {self.direction!r}")


def as_events(events: Any, args: Any = ()) -> tuple[Event, ...]:
    """Return events from one or several `Event` or functions with SciPy's attributes.

    The functions will be called with the further arguments `args`.
    """
    if events is None:
        return ()
    if isinstance(events, Event) or callable(events):
        events = (events,)
    if not isinstance(events, Sequence):
        raise TypeError(f"events must be callables or Event; got {type(events).__name__}")
    out = []
    for event in events:
        if isinstance(event, Event):
            out.append(event)
        elif callable(event):
            direction = int(np.sign(getattr(event, "direction", 0)))
            out.append(Event(event, _scipy_terminal(event), direction))
        else:
            raise TypeError(f"events must be callables or Event; got {type(event).__name__}")
    return tuple(replace(e, g=with_arguments(e.g, args)) for e in out) if args else tuple(out)


def _hint(value: Any) -> str:
    if not isinstance(value, list | tuple) or len(value) not in (2, 3):
        return ""
    return (
        "; what MATLAB's event functions return as isterminal and direction goes into "
        "snode.Event(g, terminal=True, direction=-1)"
    )


def _scipy_terminal(event: Any) -> bool | int:
    """Return SciPy's attribute ``terminal``: None, a truth value or a whole number of zeros."""
    terminal = getattr(event, "terminal", False)
    if isinstance(terminal, float | np.floating) and float(terminal).is_integer():
        return int(terminal)
    found: bool | int = False if terminal is None else terminal
    return found


@dataclass(frozen=True)
class Hit:
    """Where a terminal event ended the run."""

    t: float
    x: Array
    message: str


class EventFinder:
    """Follows the event functions of one run."""

    def __init__(self, events: tuple[Event, ...]) -> None:
        self.events = events
        self.values: list[float] = []
        self.depths: list[list[float]] = [[] for _ in events]
        self.states: list[list[Array]] = [[] for _ in events]

    def start(self, t: float, x: Array) -> None:
        """Evaluate the functions at the start; a zero there is no event."""
        self.values = [self._value(k, t, x) for k in range(len(self.events))]

    def _value(self, k: int, t: float, x: Array) -> float:
        value: Any = self.events[k].g(t, read_only(x))
        try:
            number = to_host(value) if is_array(value) else np.asarray(value)
        except ValueError:  # a list of lists of different lengths
            number = np.empty(len(value), dtype=object)
        if number.size == 1 and number.dtype.kind == "b":
            raise ValueError(
                f"events[{k}] must return a number that crosses zero, not a condition, which does "
                "not: x[0] - 0.3 instead of x[0] < 0.3"
            )
        if number.size != 1 or number.dtype.kind not in "fiu":
            raise ValueError(
                f"events[{k}] must return one number; got {number.dtype} of shape {number.shape} "
                f"for a state of shape {x.shape}" + _hint(value)
            )
        if np.isnan(number).any():
            raise ValueError(f"events[{k}] must not be NaN; it is at t={t:g}")
        return float(number.reshape(()))

    def look(
        self, t: float, h: float, x: Array, polynomial: Any, t_new: float, x_new: Array
    ) -> Hit | None:
        """Find the zeros in a step, in order; return the first terminal one."""
        new = [self._value(k, t_new, x_new) for k in range(len(self.events))]
        zeros = []
        for k, event in enumerate(self.events):
            before, after, start = self.values[k], new[k], 0.0
            if before == 0:  # leaving a zero: its sign is the one just after
                start = LEAVING
                before = self._value(k, t + start * h, evaluate(x, polynomial, start))
            up, down = before < 0 <= after, before > 0 >= after
            if (up and event.direction >= 0) or (down and event.direction <= 0):
                zeros.append((self._locate(k, start, t, h, x, polynomial), k))
        self.values = new
        for theta, k in sorted(zeros):
            found_t = t_new if theta == 1.0 else t + theta * h
            found_x = x_new if theta == 1.0 else evaluate(x, polynomial, theta)
            self.depths[k].append(found_t)
            self.states[k].append(found_x)
            if 0 < self.events[k].terminal <= len(self.depths[k]):
                return Hit(found_t, found_x, f"event {k} ended the solution at t={found_t:g}")
        return None

    def _locate(self, k: int, start: float, t: float, h: float, x: Array, polynomial: Any) -> float:
        from scipy.optimize import bisect, brentq

        def g(theta: float) -> float:
            return self._value(k, t + theta * h, evaluate(x, polynomial, theta))

        first, last = g(start), g(1.0)
        sign = np.sign(first)
        if sign == 0 or sign == np.sign(last):  # at the end, up to rounding
            return 1.0
        if last != 0 and np.isfinite(first) and np.isfinite(last):
            return float(brentq(g, start, 1.0, xtol=4e-16, rtol=1e-15, maxiter=1000))
        # g becomes 0, perhaps for good, or is infinite: look for the end of its sign
        found = bisect(
            lambda theta: 1.0 if np.sign(g(theta)) == sign else -1.0, start, 1.0,
            xtol=4e-16, rtol=1e-15,
        )  # fmt: skip
        return 1.0 if found > 1 - 1e-14 else float(found)

    def found(self, xp: Any, x0: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Return the depths (k,) and states (k, ...) of each event."""
        empty = xp.empty((0, *x0.shape), dtype=x0.dtype)
        return (
            tuple(np.array(depths) for depths in self.depths),
            tuple(xp.stack(states) if states else empty for states in self.states),
        )
