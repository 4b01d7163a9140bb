"""Watching a run with step control: is it hopeless, and what shall its failure be called?"""

from __future__ import annotations

import math
import weakref
from typing import Any, NamedTuple

import numpy as np

from snode.backend import Array, array_namespace
from snode.ode.arguments import describe
from snode.ode.failures import (
    PATIENCE,
    SHORT,
    SHORT_ENOUGH,
    Growth,
    growth_law,
    stiffness_hint,
)
from snode.ode.stages import inside
from snode.results import Status

__all__ = ["Verdict", "Watch"]

HOPELESS = 10
"""A run that would take this many times `max_steps` at its pace is ended before."""

PACE = 200
"""Steps, rejected ones too, between two looks at the pace."""


class Verdict(NamedTuple):
    """How a run ends, and the sentence that says why."""

    status: Status
    message: str


class Watch:
    """Looks at a run after each step, and names its failure.

    Parameters
    ----------
    run : object
        The integration, see `snode.ode.adaptive`: its point ``t, x``, ``size`` = |x|, the step
        length ``h``, the stages, the counters, and ``bad``, the last value of f that was not
        finite: (t, value, component).
    """

    def __init__(self, run: Any) -> None:
        self.run = weakref.proxy(run)  # a cycle would keep the whole trajectory for a while
        self.span = abs(run.t1 - run.t0)
        self.growth = Growth(run.size, run.t0, self.span, run.control.atol)
        self.pace, self.done, self.rejected, self.t = 0.0, 0, 0, run.t0
        self.hopeless = 0

    # --- after each step ------------------------------------------------------------------------

    def look(self) -> Verdict | None:
        """Return a verdict on a run that blows up or can never arrive; None to go on."""
        run = self.run
        if run.h < self.growth.watch:
            self.growth.record(run.h, float(run.size.max()), self._rate())
            short = SHORT if run.rhs.nfev < PATIENCE else SHORT_ENOUGH
            text = self._blow_up() if run.h < short * self.span else None
            if text is not None:
                return self._named(Status.BLOW_UP, text)
        done = run.n_accepted + run.n_rejected
        return None if done < self.done + PACE else self._look_at_pace(done)

    def _look_at_pace(self, done: int) -> Verdict | None:
        run, before = self.run, self.pace
        self.pace = abs(run.t - self.t) / (done - self.done)
        is_rejected = run.n_rejected > self.rejected + 0.1 * (done - self.done)
        self.done, self.rejected, self.t = done, run.n_rejected, run.t
        needed = abs(run.t1 - run.t) / (self.pace or math.inf)
        allowed = HOPELESS * run.control.max_steps
        is_steady = before / 1.5 < self.pace < 1.5 * before
        self.hopeless = self.hopeless + 1 if needed > allowed and is_steady else 0
        if self.hopeless < 2:  # two steady windows after the first: it may be a transient
            return None
        is_limited = is_rejected or stiffness_hint(self._probe, run.t, run.x, run.h)
        # next to a blow-up the steps go on shrinking, and it ends by itself
        if not (is_limited or needed > 10 * allowed) or self._grows_for() < math.inf:
            return None
        return self.max_steps(f"about {needed:.0e} more steps would be needed after {done}")

    # --- when it cannot go on -------------------------------------------------------------------

    def max_steps(self, why: str) -> Verdict:
        """Return the verdict on a run that takes too many steps."""
        run, blow_up = self.run, self._blow_up() or self._overflow()
        if blow_up is not None:
            return self._named(Status.BLOW_UP, blow_up)
        hint = stiffness_hint(self._probe, run.t, run.x, run.h)
        return self._named(
            Status.MAX_STEPS,
            f"{why} to reach T={run.t1:g}: stopped at t={run.t:.6g} with steps of "
            f"{run.h:.1e}{hint}",
            "; loosen the tolerances, or raise max_steps (inf: no limit)",
        )

    def underflow(self) -> Verdict:
        """Return the verdict on a run whose step became too small for t to change."""
        run = self.run
        if run.bad is not None:
            return self._not_finite(*run.bad)
        blow_up = self._blow_up()
        if blow_up is None and self._grows_for() < SHORT * self.span:
            blow_up = f"the solution blows up at about t={run.t:.10g}"
        if blow_up is not None:
            return self._named(Status.BLOW_UP, blow_up)
        hint = stiffness_hint(self._probe, run.t, run.x, run.h)
        return self._named(
            Status.STEP_UNDERFLOW,
            f"the step became {run.h:.1e} at t={run.t:.10g} and the error is still too large: f "
            f"may jump, oscillate or be singular there (see breakpoints){hint}",
        )

    def _not_finite(self, t: float, value: float, where: str) -> Verdict:
        run = self.run
        # f overflows before x does where it grows like a high power of x
        ends = run.n_accepted > 0 and self._grows_for() < SHORT * self.span
        if ends or self.growth.is_huge(float(run.size.max())):
            return self._named(Status.BLOW_UP, f"the solution blows up at about t={run.t:.10g}")
        return Verdict(
            Status.NONFINITE_RHS,
            f"f is {value} at t={t:.10g}: {where}; the solution is kept up to t={run.t:.10g}",
        )

    def _named(self, status: Status, text: str, advice: str = "") -> Verdict:
        size = self.run.size
        index = np.unravel_index(int(array_namespace(size).argmax(size)), size.shape)
        largest = f"|x| is largest in {describe(index)}: {float(size[index]):.3g}"
        return Verdict(status, f"{text}; {largest}{advice}")

    # --- what the solution does -----------------------------------------------------------------

    def _probe(self, t: float, x: Array) -> Array:
        """Return f for a diagnosis, on the side of a jump where the run is."""
        return self.run.rhs.probe(inside(t, self.run.limits), x)

    def _law(self) -> tuple[float, float]:
        return growth_law(self._probe, self.run.t, self.run.x, self.run.sign)

    def _blow_up(self) -> str | None:
        """Return a sentence if the solution grows beyond all bounds by its own size, else None."""
        found = self.growth.blow_up(self.run.t, float(self.run.size.max()), self._rate())
        if found is None:
            return None
        rate, power = self._law()
        return found[0] if rate > 0 and power > found[1] else None

    def _overflow(self) -> str | None:
        """Return a sentence if the solution is an exponential that overflows before the end."""
        rate, power = self._law()
        if not (rate > 0 and 0.9 < power < 1.1):
            return None
        found = self.growth.overflow(self.run.t, float(self.run.size.max()), rate)
        return None if found is None else found[0]

    def _grows_for(self) -> float:
        """Return how far the solution can go if it grows on as it does now; inf without an end."""
        rate, power = self._law()
        return 1 / ((power - 1) * rate) if rate > 0 and power > 1.05 else math.inf

    def _rate(self) -> float:
        """Return the relative rate |f| / |x| of the largest component."""
        size = self.run.size
        i = int(array_namespace(size).argmax(size))
        slope = abs(float(self.run.stages.K[0].reshape(-1)[i]))
        return slope / max(float(size.reshape(-1)[i]), 1e-300)
