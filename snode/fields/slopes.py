r"""Are the slopes of an activation where it says they are? What a dense grid can answer.

Certificates take the slope interval of an activation as proven. Here it is compared with the
derivative and with difference quotients at many points, so that a wrong interval, a wrong
derivative and a jump are found before a certificate rests on them. A grid proves nothing between
its points: what is narrower than their distance can be missed, unless its place is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from snode.backend import Array

__all__ = ["SlopeRange", "check_slopes", "slope_excess", "slope_range"]

Function = Callable[[Array], Array]

NEAR, PER_UNIT = 32, 1024
"""The grid has this many points per unit in [-NEAR, NEAR] ..."""

FAR, PER_DECADE = 1e4, 500
"""... and this many in every decade from 1e-8 to FAR, on both sides."""

FINITE = 50.0
"""Up to here both functions must be finite; farther out an overflow is passed over."""

ROUNDINGS = 64
"""Roundings that a slope may be off by, in units of the precision of its size."""

STEP = 1e-6
"""Of the central differences, relative to points beyond 1."""


class SlopeRange(NamedTuple):
    """The smallest and the largest slope that was seen, and where."""

    smallest: float
    at_smallest: float
    largest: float
    at_largest: float


def check_slopes(
    value: Function, slope: Function, interval: tuple[float, float],
    points: Iterable[float] = (), *, only: bool = False,
) -> None:  # fmt: skip
    """Refuse an interval or a derivative that the grid, or a named point, refutes.

    Parameters
    ----------
    value, slope : callable
    interval : (float, float)
    points : iterable of float, optional
        Looked at very closely, in addition to the grid.
    only : bool, optional
        Leave the grid out.

    Raises
    ------
    ValueError
        Says where, and what was found there.
    """
    a = _near(points) if only else np.unique(np.concatenate([_grid(), _near(points)]))
    if not len(a):
        return
    v, s = (_evaluated(name, f, a) for name, f in (("value", value), ("slope", slope)))
    used = np.isfinite(v) & np.isfinite(s)
    a, v, s = a[used], v[used], s[used]
    _compare_with_differences(value, slope, a, v)
    seen = _closer(slope, a, s)
    _compare_with_interval(seen, interval, np.float64)
    _compare_quotients(a, v, interval)
    single = a[np.abs(a) <= FAR].astype(np.float32)
    with np.errstate(all="ignore"):
        narrow = np.asarray(slope(single), dtype=np.float64)
    kept = np.isfinite(narrow)
    _compare_with_interval(_range(single[kept], narrow[kept]), interval, np.float32)


def slope_range(slope: Function, points: Iterable[float] = ()) -> SlopeRange:
    """Return the extreme slopes on the grid and near the points."""
    a = np.unique(np.concatenate([_grid(), _near(points)]))
    s = _evaluated("slope", slope, a)
    return _closer(slope, a[np.isfinite(s)], s[np.isfinite(s)])


def slope_excess(slope: Function, interval: tuple[float, float]) -> tuple[float, float]:
    """Return by how much the slopes leave the interval, at most rounding if it is right, and where.

    Relative to the larger end, or to 1.
    """
    seen = slope_range(slope)
    below, above = interval[0] - seen.smallest, seen.largest - interval[1]
    place = seen.at_smallest if below > above else seen.at_largest
    return max(below, above, 0.0) / _size(interval), place


# --- points ---------------------------------------------------------------------------------------


def _grid() -> Array:
    dense = np.arange(-NEAR * PER_UNIT, NEAR * PER_UNIT + 1) / PER_UNIT
    far = np.logspace(-8, np.log10(FAR), 12 * PER_DECADE + 1)
    return np.unique(np.concatenate([-far, dense, far]))


def _near(points: Iterable[float]) -> Array:
    """Each point, its neighbours among the numbers, and others ever farther away."""
    centres = np.array([float(p) for p in points])
    if not np.isfinite(centres).all():
        raise ValueError(f"kinks and test_points must be finite; got {centres.tolist()}")
    away = np.concatenate([[0.0], np.logspace(-14, -2, 121)])
    sides = [centres, np.nextafter(centres, -np.inf), np.nextafter(centres, np.inf)]
    for p in centres:
        distance = away * max(1.0, abs(p))
        sides += [p - distance, p + distance]
    return np.unique(np.concatenate(sides))


def _evaluated(name: str, function: Function, a: Array) -> Array:
    with np.errstate(all="ignore"):
        result = np.asarray(function(a.copy()))
    if result.shape != a.shape:
        raise ValueError(
            f"{name} must keep the shape of its argument; {a.shape} gave {result.shape}"
        )
    result = result.astype(np.float64)
    bad = ~np.isfinite(result) & (np.abs(a) <= FINITE)
    if bad.any():
        k = int(np.argmin(np.where(bad, np.abs(a), np.inf)))
        raise ValueError(
            f"slope is not the derivative of value: {name}({a[k]:.6g}) is {result[k]}, not finite"
        )
    return result


# --- comparisons ----------------------------------------------------------------------------------


def _compare_with_differences(value: Function, slope: Function, a: Array, v: Array) -> None:
    """A central difference is a mean of slopes: it lies among those near by, if they are right."""
    h = STEP * np.maximum(1.0, np.abs(a))
    with np.errstate(all="ignore"):
        left, right = a - h, a + h
        quotient = (np.asarray(value(right)) - np.asarray(value(left))) / (right - left)
        near = np.stack([np.asarray(slope(a + k * h)) for k in (-1.0, -0.5, 0.0, 0.5, 1.0)])
        low, high = near.min(axis=0), near.max(axis=0)
        spread = high - low
        rounding = 16 * np.finfo(float).eps * (1 + np.abs(v) + np.abs(a) * np.abs(near).max(axis=0))
        slack = spread + rounding / h
        wrong = (quotient < low - slack) | (quotient > high + slack)
    if wrong.any():
        k = int(np.argmin(np.where(wrong, np.abs(a), np.inf)))
        raise ValueError(
            f"slope is not the derivative of value: slope({a[k]:.6g}) is {near[2, k]:.6g}, central "
            f"differences give {quotient[k]:.6g}"
        )


def _compare_with_interval(seen: SlopeRange, interval: tuple[float, float], dtype: type) -> None:
    lo, hi = interval
    claim = f"slope_interval ({lo:.12g}, {hi:.12g}) is refuted by"
    slack = ROUNDINGS * float(np.finfo(dtype).eps) * _size(interval)
    for outside, at, found in (
        (seen.smallest < lo - slack, seen.at_smallest, seen.smallest),
        (seen.largest > hi + slack, seen.at_largest, seen.largest),
    ):
        if outside:
            raise ValueError(
                f"{claim} slope({at:.6g}) = {found:.9g}; the "
                f"slopes seen reach from {seen.smallest:.9g} to {seen.largest:.9g}"
            )


def _compare_quotients(a: Array, v: Array, interval: tuple[float, float]) -> None:
    lo, hi = interval
    width = np.diff(a)
    size = np.abs(v) + np.abs(a) * _size(interval) + 1
    with np.errstate(all="ignore"):  # next to a named point the width may be the smallest number
        quotient = np.diff(v) / width
        slack = 16 * np.finfo(float).eps * (size[1:] + size[:-1]) / width
    outside = (quotient < lo - slack) | (quotient > hi + slack)
    if outside.any():
        k = int(np.argmax(outside))
        raise ValueError(
            f"slope_interval ({lo:.12g}, {hi:.12g}) is refuted by value, which rises by "
            f"{quotient[k]:.6g} per unit from {a[k]:.9g} to {a[k + 1]:.9g}"
        )


def _range(a: Array, s: Array) -> SlopeRange:
    low, high = int(np.argmin(s)), int(np.argmax(s))
    return SlopeRange(float(s[low]), float(a[low]), float(s[high]), float(a[high]))


def _closer(slope: Function, a: Array, s: Array) -> SlopeRange:
    """The extreme slopes, after a closer look around both."""
    for k in (int(np.argmin(s)), int(np.argmax(s))):
        ends = a[max(k - 1, 0)], a[min(k + 1, len(a) - 1)]
        between = np.linspace(*ends, 2001)
        with np.errstate(all="ignore"):
            there = np.asarray(slope(between), dtype=np.float64)
        a, s = np.append(a, between), np.append(s, there)
    kept = np.isfinite(s)
    return _range(a[kept], s[kept])


def _size(interval: tuple[float, float]) -> float:
    """The larger end, as far as it is finite, and at least 1."""
    return max([1.0, *(abs(end) for end in interval if np.isfinite(end))])
