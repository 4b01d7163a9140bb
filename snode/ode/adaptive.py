r"""Integration with step control: ode45 (Dormand-Prince 5(4)) and ode23 (Bogacki-Shampine 3(2)).

A step is accepted when its estimated error, measured as

.. math:: err = \max_k \Big( \frac1n \sum_i
          \Big(\frac{e_{ik}}{atol + rtol \max(|x_{ik}|, |x^{new}_{ik}|)}\Big)^2 \Big)^{1/2},

is at most 1. The maximum is over the samples k: in a batch every sample meets the tolerance. The
next step length follows a PI controller [1]_.

References
----------
.. [1] Hairer, Norsett, Wanner, *Solving Ordinary Differential Equations I*, section II.4, and
   Hairer, Wanner, *... II*, section IV.2 (PI control).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from snode.backend import Array, array_namespace, read_only
from snode.ode.arguments import describe, first_true
from snode.ode.control import OdeState, StepControl, first_step, rejected_factor, step_factor
from snode.ode.dense import DenseOutput, evaluate
from snode.ode.events import EventFinder
from snode.ode.fixed import thinned
from snode.ode.stages import Limits, Rhs, Stages, Steps, inside
from snode.ode.tableaus import ADAPTIVE
from snode.ode.watch import Verdict, Watch
from snode.results import OdeSolution, Status

__all__ = ["solve_adaptive"]


def solve_adaptive(
    f: Any,
    method: str,
    t0: float,
    t1: float,
    x0: Array,
    control: StepControl,
    *,
    stops: Sequence[float] = (),
    jumps: Sequence[float] = (),
    keep: str = "trajectory",
    dense: bool = False,
    t_eval: Array | None = None,
    checkpoints: int | str | None = None,
    events: EventFinder | None = None,
    callback: Callable[[OdeState], object] | None = None,
) -> OdeSolution:
    """Solve from t0 to t1, on checked arguments.

    Steps land on `stops` and `jumps`; at jumps the method starts anew.
    """
    run = _Run(f, method, t0, t1, x0, control.check(x0), keep, dense, t_eval, checkpoints, events)
    run.callback = callback
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # reported by name
        run.go(stops, jumps)
    return run.solution()


class _Run:
    """One integration: the current point, the step length, and what is kept."""

    def __init__(
        self, f: Any, method: str, t0: float, t1: float, x0: Array, control: StepControl,
        keep: str, dense: bool, t_eval: Array | None, checkpoints: int | str | None,
        events: EventFinder | None,
    ) -> None:  # fmt: skip
        self.f, self.method, self.t0, self.t1, self.control = f, method, t0, t1, control
        self.t, self.x, self.x0 = t0, x0, x0
        # an error of 0 against a scale of 0 is no error
        self.atol = control.atol + float(np.finfo(x0.dtype).tiny)
        self.xp, self.rtol = array_namespace(x0), control.rtol
        self._larger = self.xp.maximum
        self.sign = 1.0 if t1 >= t0 else -1.0
        self.rhs = Rhs(f, x0, linearize=keep == "all" and checkpoints is None)
        self.stages = Stages(self.rhs, ADAPTIVE[method], x0)
        self.order = ADAPTIVE[method].embedded_order + 1
        self.h = 0.0
        self.error_before = 0.0
        self.limits: Limits | None = None
        self.n_accepted = self.n_rejected = 0
        self.size = abs(x0)
        self.bad: tuple[float, float, str] | None = None
        self.status, self.message = Status.SUCCESS, f"solved to T={t1:g}"
        self.callback: Callable[[OdeState], object] | None = None
        self.events = events
        # what is kept
        self.nodes = [t0]
        self.keep_x = (keep != "last" and checkpoints is None and t_eval is None) or dense
        self.kept_x = [x0.copy()]
        self.store = thinned(checkpoints, x0, ADAPTIVE[method])
        self.kept_lins: list[tuple[Any, ...]] = []
        self.dense = dense
        self.coefficients: list[Array] = []
        self.t_eval = t_eval
        self.x_eval: list[Array] = []
        self.jumps: frozenset[float] = frozenset()
        self.watch = Watch(self)

    # --- the loop -------------------------------------------------------------------------------

    def go(self, stops: Sequence[float], jumps: Sequence[float]) -> None:
        """Integrate from stop to stop."""
        low, high = min(self.t0, self.t1), max(self.t0, self.t1)
        self.jumps = frozenset(float(s) for s in jumps if low <= s <= high)
        self._evaluate_until(self.t0, None)
        if self.events is not None:
            self.events.start(self.t0, self.x0)
        if self.t0 == self.t1:
            return
        inner = sorted({s for s in (*stops, *self.jumps) if low < s < high})
        ends = [self.t0, *(inner if self.sign > 0 else reversed(inner)), self.t1]
        for start, stop in pairwise(ends):
            limits = self.limits = Limits.between(start, stop, self.jumps)
            if start == self.t0 or start in self.jumps:
                self.rhs.linearizations.clear()
                self.stages.first(start, self.x, limits)
                if self._is_bad(start, self.stages.K[0]):
                    self._end(self.watch.underflow())
                    return
                if start == self.t0:
                    self.h = self._first_step(limits)
            if not self._segment(stop, limits):
                return

    def _segment(self, stop: float, limits: Limits | None) -> bool:
        """Integrate to `stop`; False if the run ended."""
        rejected = False
        while self.t != stop:
            if self.n_accepted + self.n_rejected >= self.control.max_steps:
                return self._end(
                    self.watch.max_steps(f"{self.control.max_steps} steps were not enough")
                )
            t_new = self._next_depth(stop)
            h = t_new - self.t
            if self.h < self._smallest() and t_new != stop:
                return self._end(self.watch.underflow())
            lins = self.rhs.linearizations[-1:]
            x_new = self.stages.advance(self.t, t_new, self.x, limits)
            self.stages.last(t_new, x_new, limits)
            size = abs(x_new)
            error = self._error(size)
            if not error <= 1.0:
                rejected = True
                self._reject(h, error, limits)
                self.rhs.linearizations[:] = lins
                continue
            if not self._accept(t_new, h, x_new, size, error, rejected, t_new == stop):
                return False
            rejected = False
        return True

    def _next_depth(self, stop: float) -> float:
        """Return the end of the next step: `stop` itself, never nearly, and no sliver before it."""
        self.h = min(self.h, self.control.max_step)
        left = abs(stop - self.t)
        longest = self.control.max_step * (1 + 1e-12)  # a whole number of steps, up to rounding
        if self.h >= left or (self.h * 1.01 >= left and left <= longest):
            return stop
        return self.t + self.sign * (self.h if 2 * self.h <= left else left / 2)

    def _smallest(self) -> float:
        return 10 * math.ulp(self.t)

    def _error(self, size: Array) -> float:
        """Return the weighted error of the step: largest root mean square of a sample."""
        r = self.stages.error()
        scale = self._larger(self.size, size)
        scale *= self.rtol
        scale += self.atol
        if len(r) == len(size):  # one sample
            r /= scale.reshape(-1)
            value = math.sqrt(float(r.dot(r)) / len(r))
        else:
            r = r.reshape(size.shape) / scale
            value = math.sqrt(float(self.xp.einsum("ij,ij->j", r, r).max()) / len(r))
        if math.isfinite(value) and self.stages.unseen_are_finite():
            return value
        return value if self.stages.are_finite() else math.nan

    def _reject(self, h: float, error: float, limits: Limits | None) -> None:
        self.n_rejected += 1
        if math.isfinite(error):
            self.h = abs(h) * rejected_factor(error, self.order)
            return
        self.h = abs(h) * 0.25
        self._remember_bad(h, limits)

    def _remember_bad(self, h: float, limits: Limits | None) -> None:
        """Note the first stage that is not finite."""
        for c, K in zip(self.stages.c, self.stages.K, strict=True):
            if self._is_bad(inside(self.t + c * h, limits), K):
                return

    def _is_bad(self, t: float, K: Array) -> bool:
        """Note and report a value of f at t that is not finite."""
        bad = ~self.xp.isfinite(K)
        if not bool(bad.any()):
            return False
        index = first_true(bad)
        self.bad = (t, float(K[index]), describe(index))
        return True

    def _accept(
        self, t_new: float, h: float, x_new: Array, size: Array, error: float, rejected: bool,
        landed: bool,
    ) -> bool:  # fmt: skip
        """Move on; False if the run ended here."""
        x_old, t_old = self.x, self.t
        grown = abs(h) * step_factor(error, self.error_before, self.order, rejected=rejected)
        # a step cut short by a stop says little about the next one
        self.h = max(self.h, grown) if landed and abs(h) < self.h and not rejected else grown
        self.error_before = error
        self.bad = None
        self.n_accepted += 1
        ended = self._record(t_old, h, x_old, t_new, x_new)
        self.stages.K[0] = self.stages.K[-1]
        self.size = size
        if ended:
            return False
        if self.callback is not None and self.callback(self._state(h)):
            return self._end(Verdict(Status.STOPPED, f"stopped by the callback at t={self.t:g}"))
        verdict = self.watch.look()
        return verdict is None or self._end(verdict)

    def _state(self, h: float) -> OdeState:
        return OdeState(
            self.t, read_only(self.x), h, self.n_accepted, self.n_rejected, self.rhs.nfev
        )

    def _first_step(self, limits: Limits | None) -> float:
        span, control = abs(self.t1 - self.t0), self.control
        if control.first_step is not None:
            return min(control.first_step, span)
        kept = list(self.rhs.linearizations)
        h = first_step(
            lambda t, x: self.rhs(inside(t, limits), x),
            self.t0, span, self.sign, self.x0, self.stages.K[0].copy(),
            self.atol + self.rtol * self.size, self.order,
        )  # fmt: skip
        self.rhs.linearizations[:] = kept
        return max(min(h, control.max_step), self._smallest())

    def _end(self, verdict: Verdict) -> bool:
        self.status, self.message = verdict
        return False

    # --- keeping --------------------------------------------------------------------------------

    def _record(self, t: float, h: float, x: Array, t_new: float, x_new: Array) -> bool:
        """Store the step and move there; True if a terminal event ended the run."""
        polynomial = None
        if self.dense or self.events is not None or self._wants(t_new):
            polynomial = self.stages.polynomial(h)
        ended = False
        if self.events is not None:
            hit = self.events.look(t, h, x, polynomial, t_new, x_new)
            if hit is not None:
                theta = (hit.t - t) / h
                x_new, t_new, ended = hit.x, hit.t, True
                self._end(Verdict(Status.EVENT, hit.message))
                if polynomial is not None and theta < 1:
                    powers = theta ** np.arange(1, len(polynomial) + 1, dtype=np.float64)
                    powers = self.xp.asarray(powers.astype(polynomial.dtype))
                    polynomial = polynomial * powers.reshape(-1, *[1] * x.ndim)
        if self._wants(t_new):
            self._evaluate_until(t_new, (t, x, polynomial, x_new))
        if self.rhs.linearize:
            active = self.stages.active
            self.kept_lins.append(tuple(self.rhs.linearizations[:active]))
            self.rhs.linearizations[:] = self.rhs.linearizations[active:]
        if t_new != t:  # a terminal event may sit on the node before
            self.nodes.append(t_new)
            if self.keep_x:
                self.kept_x.append(x_new)
            if self.dense:
                self.coefficients.append(polynomial)
            if self.store is not None and t_new != self.t1:
                self.store.offer(len(self.nodes) - 1, x_new)
        self.t, self.x = t_new, x_new
        return ended

    def _wants(self, t_new: float) -> bool:
        if self.t_eval is None or len(self.x_eval) == len(self.t_eval):
            return False
        return bool(self.sign * (self.t_eval[len(self.x_eval)] - t_new) <= 0)

    def _evaluate_until(self, t_new: float, step: Any) -> None:
        while self._wants(t_new):
            assert self.t_eval is not None
            s = float(self.t_eval[len(self.x_eval)])
            if step is None:
                self.x_eval.append(self.x0.copy())
            else:
                t, x, polynomial, x_new = step
                at_node = s == t_new
                self.x_eval.append(
                    x_new.copy() if at_node else evaluate(x, polynomial, (s - t) / (t_new - t))
                )

    def solution(self) -> OdeSolution:
        """Return what was computed."""
        xp = self.xp
        if self.status is Status.SUCCESS and not bool(xp.isfinite(self.x).all()):
            self._end(Verdict(Status.BLOW_UP, f"the state overflows before t={self.t:g}"))
        failed = self.status not in (Status.SUCCESS, Status.EVENT, Status.STOPPED)
        nodes = np.array(self.nodes)
        x = xp.stack(self.kept_x) if self.keep_x else None
        x_T = xp.full_like(self.x, np.nan) if failed else self.x
        steps = Steps(
            ADAPTIVE[self.method], nodes, self.jumps, x,
            tuple(self.kept_lins) if self.rhs.linearize else None,
            None if self.store is None else tuple(self.store.kept),
            DenseOutput(nodes, x, self.coefficients) if self.dense else None,
            self.status is Status.EVENT, self.control.rtol, self.control.atol,
        )  # fmt: skip
        t_out, x_out = nodes, x
        if self.t_eval is not None:
            t_out, x_out = self._evaluated(failed)
        t_events, x_events = self.events.found(xp, self.x0) if self.events else (None, None)
        return OdeSolution(
            t_out, x_out, x_T, self.status, self.message, self.rhs.nfev, self.method, self.f,
            steps.linearizations, self.n_accepted, self.n_rejected,
            self.rhs.nfev if self.rhs.linearize else 0, t_events, x_events, steps=steps,
        )  # fmt: skip

    def _evaluated(self, failed: bool) -> tuple[Array, Array]:
        """Return t_eval and x there; cut off where the run was stopped, NaN where it failed."""
        assert self.t_eval is not None
        xp, count = self.xp, len(self.x_eval)
        rows = list(self.x_eval)
        if not failed:
            t = self.t_eval[:count]
        else:
            t = self.t_eval
            rows += [xp.full_like(self.x0, np.nan)] * (len(t) - count)
        if not rows:
            return t, xp.empty((0, *self.x0.shape), dtype=self.x0.dtype)
        return t, xp.stack(rows)
