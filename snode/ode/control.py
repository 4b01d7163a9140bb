r"""Step control: tolerances, the first step, and how the length of a step follows its error.

References
----------
.. [1] Hairer, Norsett, Wanner, *Solving Ordinary Differential Equations I*, section II.4.
.. [2] Hairer, Wanner, *Solving Ordinary Differential Equations II*, section IV.2 (PI control).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from snode.backend import Array
from snode.copying import Portable
from snode.ode.arguments import as_tolerance
from snode.ode.tableaus import ADAPTIVE

__all__ = ["MAX_STEPS", "OdeState", "StepControl", "check_control", "first_step", "step_factor"]

MAX_STEPS = 10_000
SAFETY, SLOWEST, FASTEST = 0.9, 0.2, 10.0
PI_BETA = 0.2
"""Share of the integral part: the exponents are (1 - 0.75 * 0.2) / k and 0.2 / k."""
SMALLEST_ERROR = 1e-4
"""Smaller errors count as this much when the next step is chosen: a lucky step is no rule."""


@dataclass(frozen=True)
class OdeState(Portable):
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


def check_control(method: str, control: StepControl, batch: str = "shared") -> None:
    """Raise if a method that steps on the grid is given options of step control."""
    is_default = isinstance(control.atol, float | int) and control == StepControl()
    if method not in ADAPTIVE and not (is_default and batch == "shared"):
        raise ValueError(
            "rtol, atol, first_step, max_step, max_steps and batch are for the methods with "
            f"step control, {', '.join(ADAPTIVE)}; {method} steps on the grid"
        )


def step_factor(error: float, error_before: float, order: int, *, rejected: bool) -> float:
    r"""Return the factor for the step length after an accepted step.

    The PI controller :math:`h_{new} = 0.9\, h\, err^{-\alpha}\, err_{old}^{\beta}` with
    :math:`\beta = 0.2/k`, :math:`\alpha = 1/k - 0.75\beta`, k the order of the error estimate
    plus 1, kept in [0.2, 10]; at most 1 after a rejection.
    """
    alpha, beta = (1 - 0.75 * PI_BETA) / order, PI_BETA / order
    factor: float = SAFETY * max(error, 1e-10) ** -alpha * max(error_before, SMALLEST_ERROR) ** beta
    return min(1.0 if rejected else FASTEST, max(SLOWEST, factor))


def rejected_factor(error: float, order: int) -> float:
    """Return the factor for the step length after a rejected step."""
    return max(SLOWEST, SAFETY * float(error ** (-1 / order)))


def first_step(
    f: Callable[[float, Array], Array], t0: float, span: float, sign: float, x: Array, f0: Array,
    scale: Any, order: int,
) -> float:  # fmt: skip
    """Return the length of the first step, from f at t0 and one evaluation more [1]_.

    Parameters
    ----------
    f : callable
    t0, span, sign : float
        Start, length and direction of the interval.
    x, f0 : array
        State and slope at t0.
    scale : array
        Weights of the error norm.
    order : int
        Order of the error estimate plus 1.
    """
    d0, d1 = _norm(x, scale), _norm(f0, scale)
    is_small = d0 < 1e-5 or d1 < 1e-5
    h0 = 1e-6 * min(span, 1.0) if is_small else 0.01 * d0 / d1
    unit = 1.0 if is_small else min(100 * h0, 1.0)  # of time, not longer than that of x
    if not 0 < h0 < math.inf:  # a weight is 0, or a norm overflows
        return 1e-6 * span
    h0 = min(h0, span)
    f1 = f(t0 + sign * h0, x + sign * h0 * f0)
    d2 = _norm(f1 - f0, scale) / h0
    largest = max(d1 * unit, d2 * unit**2)
    if not math.isfinite(largest):
        return h0
    h1 = max(1e-6, h0 * 1e-3) if largest <= 1e-15 else unit * (0.01 / largest) ** (1 / order)
    return min(100 * h0, h1, span)


def _norm(x: Array, scale: Any) -> float:
    r = x / scale
    rows = (r * r).reshape(x.shape[0], -1)
    return math.sqrt(float(rows.mean(axis=0).max()))
