r"""Bounds of f(A(t)) along the depth, and of the growth factor exp(int f)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as entry
from typing import Any

import numpy as np

from snode.analysis.attack_result import check_number
from snode.analysis.slope_problem import EPS, make_chain, unscale
from snode.analysis.slope_search import proven_value
from snode.backend import Array
from snode.copying import Portable
from snode.ode.arguments import check_choice

__all__ = ["LogNormPath", "path_of"]


@dataclass(frozen=True, eq=False)
class LogNormPath(Portable):
    r"""Two-sided bounds of f(A(t)) and of its integral.

    Attributes
    ----------
    t : array (K + 1,)
        Depths.
    lower, upper : array (K + 1,)
        ``lower <= f(A(t_k)) <= upper`` at the depths.
    integral_lower, integral_upper : array (K + 1,)
        Bounds of :math:`\int_{t_0}^{t_k} f(A(s)) ds`; estimates by the trapezoidal rule unless
        `rigorous`.
    sup : float
        Upper bound of f over the whole interval; over the depths only unless `rigorous`.
    rigorous : bool
        Whether the integrals and `sup` are bounds: A is constant or linear between the depths, or
        its Lipschitz constant is known, and every point has a certificate.
    results : tuple of LogNormResult
        One for each depth.
    """

    t: Array
    lower: Array
    upper: Array
    integral_lower: Array
    integral_upper: Array
    sup: float
    rigorous: bool
    results: tuple[Any, ...] = entry(repr=False)

    @property
    def gap(self) -> Array:
        """``upper - lower`` at the depths, (K + 1,)."""
        return self.upper - self.lower

    @property
    def d(self) -> tuple[Any, ...]:
        """The slopes behind `lower`, for each depth."""
        return tuple(result.d for result in self.results)

    @property
    def growth_lower(self) -> Array:
        """``exp(integral_lower)``."""
        return _exp(self.integral_lower, up=False)

    @property
    def growth_upper(self) -> Array:
        """``exp(integral_upper)``: what two trajectories can be apart at t_k, if `rigorous`."""
        return _exp(self.integral_upper, up=True)

    def __repr__(self) -> str:
        kind = "bounds" if self.rigorous else "estimates between the depths"
        return (
            f"LogNormPath({len(self.t)} depths in [{self.t[0]:g}, {self.t[-1]:g}], f in "
            f"[{self.lower.min():.6g}, {self.sup:.6g}], gap <= {self.gap.max():.3g}, "
            f"growth in [{self.growth_lower[-1]:.6g}, {self.growth_upper[-1]:.6g}], {kind})"
        )


def _exp(values: Array, *, up: bool) -> Array:
    with np.errstate(over="ignore"):
        exact = np.exp(values)
    return exact * (1 + 4 * EPS) if up else exact * (1 - 4 * EPS)


def path_of(
    A: Callable[[float], Any],
    t: Any,
    solve: Callable[[Any, Any], Any],
    slopes: Any,
    between: str | None,
    lipschitz: float | None,
) -> LogNormPath:
    """Solve at every depth with warm starts, and integrate."""
    t = _depths(t)
    if between is not None:
        check_choice("between", between, ("constant", "linear"))
        if lipschitz is not None:
            raise ValueError("between and lipschitz exclude each other; give one of them")
    if lipschitz is not None:
        lipschitz = check_number("lipschitz", lipschitz, least=0.0)
    matrices: list[Any] = []
    results: list[Any] = []
    for depth in t:
        matrices.append(A(float(depth)))
        results.append(solve(matrices[-1], results[-1] if results else None))
    if isinstance(results[0].d, tuple) and (between == "linear" or lipschitz is not None):
        raise ValueError(
            "for several layers f is not convex in A(t), so only between='constant' gives bounds"
        )
    lower = np.array([result.lower for result in results])
    upper = np.array([result.upper for result in results])
    if between == "constant":
        lows, highs, sups = lower[:-1], upper[:-1], upper[:-1]
    elif between == "linear":
        lows, highs = _linear_lows(matrices, results, slopes), 0.5 * upper[:-1] + 0.5 * upper[1:]
        sups = upper
    elif lipschitz is not None:
        rate = lipschitz * float(np.abs(np.asarray(slopes, float)).max()) * (1 + 4 * EPS)
        rise = rate * np.diff(t) * (1 + 4 * EPS)
        highs, sups = _tents(upper, rise)
        lows = -_tents(-lower, rise)[0]
    else:
        lows, highs, sups = _means(lower), _means(upper), upper
    rigorous = (between is not None or lipschitz is not None) and bool(np.isfinite(upper).all())
    return LogNormPath(
        t, lower, upper, _integral(t, lows, up=False), _integral(t, highs, up=True),
        float(max(sups.max(), upper.max())), rigorous, tuple(results),
    )  # fmt: skip


def _depths(t: Any) -> Array:
    if t is None:
        raise ValueError("t must be given for a callable A: increasing depths")
    try:
        t = np.asarray(t, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"t must be an increasing array of depths; got {t!r:.100}") from None
    if t.ndim != 1 or len(t) < 2 or not np.isfinite(t).all() or not (np.diff(t) > 0).all():
        raise ValueError("t must be finite and increasing, with at least two depths")
    return t


def _means(values: Array) -> Array:
    return 0.5 * values[:-1] + 0.5 * values[1:]


def _integral(t: Array, means: Array, *, up: bool) -> Array:
    """Cumulative integral from mean values, moved outward by more than its rounding error."""
    terms = np.diff(t) * means
    slack = (len(t) + 8) * EPS * np.cumsum(np.abs(terms))
    total = np.cumsum(terms) + (slack if up else -slack)
    return np.concatenate([[0.0], total])


def _tents(values: Array, rise: Array) -> tuple[Array, Array]:
    """Mean and maximum over each piece of min(f_k + c s, f_{k+1} + c (h - s)), with c h = rise.

    The two lines meet at the fraction p of the piece; any other p in [0, 1] gives a larger mean.
    """
    a, b = values[:-1], values[1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        p = np.where(rise > 0, 0.5 + 0.5 * (b - a) / rise, (a > b).astype(float))
    p = np.clip(np.where(np.isnan(p), 0.5, p), 0.0, 1.0)
    mean = p * (a + 0.5 * p * rise) + (1 - p) * (b + 0.5 * (1 - p) * rise)
    top = np.maximum(a + p * rise, b + (1 - p) * rise)
    size = np.abs(a) + np.abs(b) + rise
    return mean + 16 * EPS * size, top + 16 * EPS * size


def _linear_lows(matrices: list[Any], results: list[Any], slopes: Any) -> Array:
    """Mean of the larger of two lines below f: those of the slopes found at either end."""
    means = []
    for k in range(len(results) - 1):
        first = results[k].lower, _value_of(results[k], matrices[k + 1], slopes)
        second = _value_of(results[k + 1], matrices[k], slopes), results[k + 1].lower
        means.append(_mean_of_larger(first, second))
    return np.array(means)


def _value_of(result: Any, A: Any, slopes: Any) -> float:
    """Lower bound of lambda at the slopes of another depth."""
    chain = make_chain([np.asarray(A, dtype=np.float64)], [tuple(slopes)])
    return unscale(proven_value(chain, (result.d,), result.z), chain.exponent, up=False)


def _mean_of_larger(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Mean of max(p, q) on [0, 1] for lines p, q with the given end values, rounded down."""
    left, right = first[0] - second[0], first[1] - second[1]
    if not math.isfinite(left - right) or left * right >= 0:
        mean = max(0.5 * first[0] + 0.5 * first[1], 0.5 * second[0] + 0.5 * second[1])
    else:
        s = left / (left - right)
        early, late = (first, second) if left > 0 else (second, first)
        meet = [line[0] + s * (line[1] - line[0]) for line in (early, late)]
        mean = 0.5 * (s * (early[0] + meet[0]) + (1 - s) * (meet[1] + late[1]))
    return mean - 16 * EPS * max(map(abs, (*first, *second)))
