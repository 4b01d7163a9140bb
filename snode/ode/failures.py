"""Telling failures apart: growth beyond all bounds, stiffness."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from snode.backend import Array, array_namespace

__all__ = ["Growth", "growth_law", "stiffness_hint"]

GROWN = 1e5
SHORT = 1e-12
"""Share of the interval to which the steps shrink at a blow-up."""

SHORT_ENOUGH, PATIENCE = 1e-8, 4000
"""The same once so many evaluations are spent: small tolerances take many steps to get there."""

STIFF = 1.8
"""A step times the fastest rate: 3.3 (ode45) or 2.5 (ode23) where stability limits the step."""
LARGEST = 1e100
OVERFLOW = 709.0
"""exp(709) is the largest power of e that float64 holds."""


class Growth:
    """Watches a solution whose steps become short: does it blow up?

    Solutions of x' = x^p, p > 1, end at a finite depth t*: there the relative rate |f|/|x| grows
    like 1/(t* - t) with |x|, and the steps shrink with it. An exponential has a constant rate; it
    counts as blowing up when it will overflow before the end of the interval.
    """

    def __init__(self, size: Array, t0: float, span: float, atol: Any) -> None:
        self.start = max(float(size.max()), atol if isinstance(atol, float) else 0.0)
        self.t0, self.span = t0, span
        self.watch = math.inf
        self.records: list[tuple[float, float]] = []

    def record(self, h: float, largest: float, rate: float) -> None:
        """Note the state when the step has shrunk."""
        if self.watch == math.inf:
            self.watch = h
        self.watch = min(self.watch, h) / 2
        self.records.append((largest, rate))

    def is_huge(self, largest: float) -> bool:
        """True if the state grew so much that what overflows is the solution, not f."""
        return largest > 1e3 * GROWN * max(self.start, 1e-300)

    def blow_up(self, t: float, largest: float, rate: float) -> tuple[str, float] | None:
        """Return a sentence and the least power of growth it needs; None if nothing blows up."""
        if not largest > GROWN * self.start:
            return None
        small = [(size, r) for size, r in self.records if 0 < size < 1e-2 * largest]
        if small:
            size, before = small[-1]
            if rate > before * (largest / size) ** 0.05:
                return f"the solution blows up at about t={t:.10g}", 1.05
        return self.overflow(t, largest, rate) if largest > LARGEST or not small else None

    def overflow(self, t: float, largest: float, rate: float) -> tuple[str, float] | None:
        """Return the same for an exponential that overflows before the end."""
        remaining = self.span - abs(t - self.t0)
        left = OVERFLOW - math.log(max(largest, 1e-300))
        if not (largest > GROWN * self.start and rate * remaining > 2 * left):
            return None
        end = t + math.copysign(left / rate, t - self.t0)
        text = f"the solution grows like exp({rate:.2g} t) and overflows at about t={end:.6g}"
        return text, 0.9


def growth_law(f: Any, t: float, x: Array, sign: float) -> tuple[float, float]:
    """Return r and p of |x_i|' = r |x_i|, r ~ |x_i|^(p - 1), for the component that changes most.

    p is found by scaling the state by 1.01; it is -inf where that ends or reverses the growth. With
    p > 1 the growth ends after 1 / ((p - 1) r); `sign` is the direction of integration.
    """
    xp = array_namespace(x)
    slope = xp.asarray(f(t, x)).reshape(-1)
    i = int(xp.argmax(abs(slope)))
    value, now = float(x.reshape(-1)[i]), float(slope[i])
    if value == 0:
        return 0.0, -math.inf
    rate, ratio = sign * now / value, float(xp.asarray(f(t, 1.01 * x)).reshape(-1)[i])
    if math.isinf(ratio):  # next to the overflow: look down instead
        less = float(xp.asarray(f(t, x / 1.01)).reshape(-1)[i])
        ratio = now / (less or math.inf)
    else:
        ratio /= now or math.inf
    return rate, math.log(ratio) / math.log(1.01) if 0 < ratio < math.inf else -math.inf


def stiffness_hint(f: Any, t: float, x: Array, h: float) -> str:
    """Return a remark if the step is limited by the fastest decay rate of f, found by iteration."""
    xp = array_namespace(x)
    f0 = xp.asarray(f(t, x))
    if not bool((xp.asarray(f(t, x)) == f0).all()):
        return " (f gives different values at the same point: noise has no derivative to follow)"
    scale = max(float(abs(x).max()), 1.0)
    v = xp.asarray(np.random.default_rng(0).standard_normal(x.shape).astype(x.dtype))
    rate = 0.0
    for _ in range(8):
        size = float(abs(v).max())
        if not (size > 0 and math.isfinite(size)):
            return ""
        v = v * (1e-6 * scale / size)
        w = xp.asarray(f(t, x + v)) - f0
        rate = float(abs(w).max()) / (1e-6 * scale)
        v = w
    if not (math.isfinite(rate) and rate * abs(h) > STIFF):
        return ""
    return f" (stiff: rates up to {rate:.1e} allow an explicit method steps of {3 / rate:.0e} only)"
