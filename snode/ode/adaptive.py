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
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from snode.backend import Array, array_namespace, to_host
from snode.ode.arguments import as_tolerance
from snode.ode.dense import DenseOutput, evaluate
from snode.ode.events import EventFinder
from snode.ode.failures import (
    PATIENCE,
    SHORT,
    SHORT_ENOUGH,
    Growth,
    growth_law,
    stiffness_hint,
)
from snode.ode.fixed import describe_component, thinned
from snode.ode.stages import Limits, Rhs, Stages, Steps
from snode.ode.tableaus import ADAPTIVE
from snode.results import OdeSolution, Status

__all__ = ["MAX_STEPS", "OdeState", "StepControl", "solve_adaptive"]

MAX_STEPS = 10_000
SAFETY, SLOWEST, FASTEST = 0.9, 0.2, 10.0
PI_BETA = 0.2
"""Share of the integral part: the exponents are (1 - 0.75 * 0.2) / k and 0.2 / k."""

HOPELESS = 10
"""A run that would take this many times `max_steps` at its pace is ended before, if its steps are
limited by stiffness or often rejected; ten times as many are allowed to one that is just accurate,
since that may be a phase."""

PACE = 200
"""Steps, rejected ones too, between two looks at the pace."""


@dataclass(frozen=True)
class OdeState:
    """What a callback sees after each accepted step.

    Attributes
    ----------
    t : float
    x : array
        The state; not a copy.
    h : float
        Length of the step.
    n_accepted, n_rejected, nfev : int
    """

    t: float
    x: Array
    h: float
    n_accepted: int
    n_rejected: int
    nfev: int


@dataclass(frozen=True)
class StepControl:
    """Tolerances and limits of step control; checked when a solve begins."""

    rtol: float = 1e-3
    atol: Any = 1e-6
    first_step: float | None = None
    max_step: float = math.inf
    max_steps: float = MAX_STEPS

    def check(self, x0: Array) -> StepControl:
        """Return the same with tolerances that fit `x0`; raise ValueError naming what is wrong."""
        rtol, atol = as_tolerance(self.rtol, self.atol, x0)
        for name in ("first_step", "max_step", "max_steps"):
            value = getattr(self, name)
            if value is None and name == "first_step":
                continue
            is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            if not is_number or not value > 0:
                raise ValueError(f"{name} must be positive; got {value!r}")
        if self.first_step is not None and not math.isfinite(self.first_step):
            raise ValueError(f"first_step must be finite; got {self.first_step!r}")
        return StepControl(rtol, atol, self.first_step, float(self.max_step), self.max_steps)


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
        self.error_before = 1e-4
        self.alpha, self.beta = (1 - 0.75 * PI_BETA) / self.order, PI_BETA / self.order
        self.pace, self.done_paced, self.rejected_paced, self.t_paced = 0.0, 0, 0, t0
        self.hopeless = 0
        self.limits: Limits | None = None
        self.n_accepted = self.n_rejected = 0
        self.size = abs(x0)
        self.growth = Growth(self.size, t0, abs(t1 - t0), control.atol)
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
                if not self._first_is_finite(start):
                    return
                if start == self.t0:
                    self.h = max(self._first_step(limits), self._smallest())
            if not self._segment(stop, limits):
                return

    def _segment(self, stop: float, limits: Limits | None) -> bool:
        """Integrate to `stop`; False if the run ended."""
        rejected = False
        while self.t != stop:
            if self.n_accepted + self.n_rejected >= self.control.max_steps:
                self._fail_max_steps(f"{self.control.max_steps} steps were not enough")
                return False
            t_new = self._next_depth(stop)
            h = t_new - self.t
            if self.h < self._smallest() and t_new != stop:
                self._fail_underflow()
                return False
            lins = self.rhs.linearizations[-1:]
            x_new = self.stages.advance(self.t, t_new, self.x, limits)
            self.stages.last(t_new, x_new, limits)
            size = abs(x_new)
            error = self._error(size)
            if not error <= 1.0:
                rejected = True
                self._reject(h, x_new, error, limits)
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

    def _reject(self, h: float, x_new: Array, error: float, limits: Limits | None) -> None:
        self.n_rejected += 1
        if math.isfinite(error):
            self.h = abs(h) * max(SLOWEST, SAFETY * error ** (-1 / self.order))
            return
        self.h = abs(h) * 0.25
        self._remember_bad(h, x_new, limits)

    def _remember_bad(self, h: float, x_new: Array, limits: Limits | None) -> None:
        xp = array_namespace(x_new)
        for i, K in enumerate(self.stages.K):
            bad = ~xp.isfinite(K)
            if bool(bad.any()):
                t = self.t + self.stages.c[i] * h
                t = t if limits is None else limits.clip(t)
                index = tuple(int(k[0]) for k in map(to_host, xp.nonzero(bad)))
                self.bad = (t, float(K[index]), describe_component(bad))
                return

    def _accept(
        self, t_new: float, h: float, x_new: Array, size: Array, error: float, rejected: bool,
        landed: bool,
    ) -> bool:  # fmt: skip
        """Move on; False if the run ended here."""
        x_old, t_old = self.x, self.t
        factor = SAFETY * max(error, 1e-10) ** -self.alpha * self.error_before**self.beta
        factor = min(1.0 if rejected else FASTEST, max(SLOWEST, factor))
        grown = abs(h) * factor
        # a step cut short by a stop says little about the next one
        self.h = max(self.h, grown) if landed and abs(h) < self.h and not rejected else grown
        self.error_before = max(error, 1e-4)
        self.bad = None
        self.n_accepted += 1
        ended = self._record(t_old, h, x_old, t_new, x_new)
        self.stages.K[0] = self.stages.K[-1]
        self.size = size
        if ended:
            return False
        if self.callback is not None and self.callback(self._state(h)):
            self.status, self.message = Status.STOPPED, f"stopped by the callback at t={self.t:g}"
            return False
        return self._look_at_growth()

    def _state(self, h: float) -> OdeState:
        return OdeState(self.t, self.x, h, self.n_accepted, self.n_rejected, self.rhs.nfev)

    def _first_step(self, limits: Limits | None) -> float:
        """Choose the first step: Hairer, Norsett, Wanner, section II.4."""
        span, x, f0 = abs(self.t1 - self.t0), self.x0, self.stages.K[0].copy()
        if self.control.first_step is not None:
            return min(self.control.first_step, span)
        scale = self.atol + self.control.rtol * self.size
        d0, d1 = _norm(x, scale), _norm(f0, scale)
        is_small = d0 < 1e-5 or d1 < 1e-5
        h0 = 1e-6 * min(span, 1.0) if is_small else 0.01 * d0 / d1
        unit = 1.0 if is_small else min(100 * h0, 1.0)  # of time, not longer than that of x
        if not 0 < h0 < math.inf:  # a weight is 0, or a norm overflows
            return min(1e-6 * span, self.control.max_step)
        h0 = min(h0, span)
        kept = list(self.rhs.linearizations)
        t = self.t0 + self.sign * h0
        f1 = self.rhs(t if limits is None else limits.clip(t), x + self.sign * h0 * f0)
        self.rhs.linearizations[:] = kept
        d2 = _norm(f1 - f0, scale) / h0
        largest = max(d1 * unit, d2 * unit**2)
        if not math.isfinite(largest):
            return h0
        p = self.order - 1
        h1 = max(1e-6, h0 * 1e-3) if largest <= 1e-15 else unit * (0.01 / largest) ** (1 / (p + 1))
        return min(100 * h0, h1, span, self.control.max_step)

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
                self.status, self.message = Status.EVENT, hit.message
                if polynomial is not None and theta < 1:
                    powers = theta ** np.arange(1, len(polynomial) + 1, dtype=np.float64)
                    xp = array_namespace(polynomial)
                    powers = xp.asarray(powers.astype(polynomial.dtype))
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
        xp = array_namespace(self.x0)
        if self.status is Status.SUCCESS and not bool(xp.isfinite(self.x).all()):
            self._fail(Status.BLOW_UP, f"the state overflows before t={self.t:g}")
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
        xp, count = array_namespace(self.x0), len(self.x_eval)
        rows = list(self.x_eval)
        if not failed:
            t = self.t_eval[:count]
        else:
            t = self.t_eval
            rows += [xp.full_like(self.x0, np.nan)] * (len(t) - count)
        if not rows:
            return t, xp.empty((0, *self.x0.shape), dtype=self.x0.dtype)
        return t, xp.stack(rows)

    # --- failures -------------------------------------------------------------------------------

    def _first_is_finite(self, t: float) -> bool:
        xp = array_namespace(self.x0)
        bad = ~xp.isfinite(self.stages.K[0])
        if not bool(bad.any()):
            return True
        index = tuple(int(k[0]) for k in map(to_host, xp.nonzero(bad)))
        self.bad = (t, float(self.stages.K[0][index]), describe_component(bad))
        self._fail_underflow()
        return False

    def _where(self) -> str:
        xp = array_namespace(self.x)
        i = int(xp.argmax(self.size))
        index = np.unravel_index(i, self.size.shape)
        which = f"component {index[0]}" + "".join(f" of sample {j}" for j in index[1:])
        return f"|x| is largest in {which}: {float(self.size[index]):.3g}"

    def _fail(self, status: Status, text: str) -> None:
        self.status, self.message = status, text

    def _fail_underflow(self) -> None:
        largest = float(self.size.max())
        if self.bad is None:
            blow_up = self._blow_up()
            if blow_up is None and self._grows_for() < SHORT * abs(self.t1 - self.t0):
                blow_up = f"the solution blows up at about t={self.t:.10g}"
            if blow_up is not None:
                return self._fail(Status.BLOW_UP, f"{blow_up}; {self._where()}")
            hint = stiffness_hint(self._probe, self.t, self.x, self.h)
            return self._fail(
                Status.STEP_UNDERFLOW,
                f"the step became {self.h:.1e} at t={self.t:.10g} and the error is still too "
                f"large: f may jump, oscillate or be singular there (see breakpoints)"
                f"{hint}; {self._where()}",
            )
        t, value, where = self.bad
        if self.growth.is_huge(largest):
            return self._fail(
                Status.BLOW_UP, f"the solution blows up at about t={self.t:.10g}; {self._where()}"
            )
        return self._fail(
            Status.NONFINITE_RHS,
            f"f is {value} at t={t:.10g}: {where}; the solution is kept up to t={self.t:.10g}",
        )

    def _fail_max_steps(self, why: str) -> None:
        blow_up = self._blow_up() or self._overflow()
        if blow_up is not None:
            return self._fail(Status.BLOW_UP, f"{blow_up}; {self._where()}")
        hint = stiffness_hint(self._probe, self.t, self.x, self.h)
        return self._fail(
            Status.MAX_STEPS,
            f"{why} to reach T={self.t1:g}: stopped at t={self.t:.6g} with steps of {self.h:.1e}"
            f"{hint}; {self._where()}; loosen the tolerances, or raise max_steps (inf: no limit)",
        )

    def _probe(self, t: float, x: Array) -> Array:
        """Return f for a diagnosis, on the side of a jump where the run is."""
        self.rhs.nfev += 1
        return self.f(t if self.limits is None else self.limits.clip(t), x)

    def _blow_up(self) -> str | None:
        """Return a sentence if the solution grows beyond all bounds by its own size, else None."""
        found = self.growth.blow_up(self.t, float(self.size.max()), self._rate())
        if found is None:
            return None
        rate, power = growth_law(self._probe, self.t, self.x, self.sign)
        return found[0] if rate > 0 and power > found[1] else None

    def _overflow(self) -> str | None:
        """Return a sentence if the solution is an exponential that overflows before the end."""
        rate, power = growth_law(self._probe, self.t, self.x, self.sign)
        if not (rate > 0 and 0.9 < power < 1.1):
            return None
        found = self.growth.overflow(self.t, float(self.size.max()), rate)
        return None if found is None else found[0]

    def _grows_for(self) -> float:
        """Return how far the solution can go if it grows on as it does now; inf without an end."""
        rate, power = growth_law(self._probe, self.t, self.x, self.sign)
        return 1 / ((power - 1) * rate) if rate > 0 and power > 1.05 else math.inf

    def _rate(self) -> float:
        """Return the relative rate |f| / |x| of the largest component."""
        xp = array_namespace(self.x)
        i = int(xp.argmax(self.size))
        slope = abs(float(self.stages.K[0].reshape(-1)[i]))
        return slope / max(float(self.size.reshape(-1)[i]), 1e-300)

    def _look_at_growth(self) -> bool:
        """End a run that blows up or can never arrive, long before it has taken all its steps."""
        done = self.n_accepted + self.n_rejected
        if self.h < self.growth.watch:
            self.growth.record(self.h, float(self.size.max()), self._rate())
            short = SHORT if self.rhs.nfev < PATIENCE else SHORT_ENOUGH
            text = self._blow_up() if self.h < short * abs(self.t1 - self.t0) else None
            if text is not None:
                self._fail(Status.BLOW_UP, f"{text}; {self._where()}")
                return False
        return done < self.done_paced + PACE or self._look_at_pace(done)

    def _look_at_pace(self, done: int) -> bool:
        """End a run with steps of a steady length that can never arrive."""
        before, self.pace = self.pace, abs(self.t - self.t_paced) / (done - self.done_paced)
        is_rejected = self.n_rejected > self.rejected_paced + 0.1 * (done - self.done_paced)
        self.done_paced, self.rejected_paced, self.t_paced = done, self.n_rejected, self.t
        needed = abs(self.t1 - self.t) / (self.pace or math.inf)
        allowed = HOPELESS * self.control.max_steps
        is_steady = before / 1.5 < self.pace < 1.5 * before
        self.hopeless = self.hopeless + 1 if needed > allowed and is_steady else 0
        if self.hopeless < 2:  # two steady windows after the first: it may be a transient
            return True
        is_limited = is_rejected or stiffness_hint(self._probe, self.t, self.x, self.h)
        # next to a blow-up the steps go on shrinking, and it ends by itself
        if not (is_limited or needed > 10 * allowed) or self._grows_for() < math.inf:
            return True
        self._fail_max_steps(f"about {needed:.0e} more steps would be needed after {done}")
        return False


def _norm(x: Array, scale: Any) -> float:
    r = x / scale
    rows = (r * r).reshape(x.shape[0], -1)
    return math.sqrt(float(rows.mean(axis=0).max()))
