"""One unknown, Newton's method from the left: what the searches for m and for the shift share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from snode.analysis.attack_result import check_count, check_number
from snode.analysis.lognorm import max_log_norm
from snode.analysis.slope_bound import slope_bound
from snode.analysis.slope_problem import exponent_of, make_chain
from snode.backend import Array, from_device
from snode.ode.arguments import check_unmasked
from snode.seeds import as_generator

__all__ = ["Certificate", "NewtonStep", "Pattern", "Point", "Problem", "newton_from_left"]

PRECISION = 1e-11
"""Of the certificate, relative: less than the searches ask of m."""

CLUSTER = 1e-6
"""Relative distance up to which eigenvalues of the certificate count as equal."""


class NewtonStep(NamedTuple):
    """A row of the iteration table: where, the value and the slope there, and how it got there."""

    iteration: int
    x: float
    value: float
    slope: float
    kind: str  # "start", "Newton", "bisection"; "bracket": a step of about the tolerance


@dataclass(frozen=True, eq=False)
class Point:
    """A value with its slope; `start` makes the next evaluation near it cheap."""

    x: float
    value: float
    slope: float
    start: Any


def newton_from_left(
    evaluate: Callable[[float, Point | None], Point], left: Point, right: Point, c: float,
    tol: float, max_iter: int, row: Callable[[int, Point, str], NewtonStep],
    stop: Callable[[int], bool],
) -> tuple[Point, Point, tuple[NewtonStep, ...]]:  # fmt: skip
    """Narrow value(left) > c >= value(right) down to `tol`; the answer is the right end.

    Newton's method comes from the left and never arrives, and rounding may carry it a little too
    far: then points just beyond, or just before, are tried until the root is between two of them.
    `stop` is asked before every iteration.
    """
    rows, margin, stalled = [row(0, left, "start")], tol / 4, False
    for iteration in range(1, max_iter + 1):
        # right of the root the function is flatter than at the root
        if right.x - left.x <= tol or c - right.value <= -right.slope * tol / 2 or stop(iteration):
            break
        x, kind = 0.5 * (left.x + right.x), "bisection"
        step = (left.value - c) / -left.slope if left.slope < 0 else math.inf
        back = (c - right.value) / -right.slope if right.slope < 0 else math.inf
        if not stalled and step < tol / 2:
            x, kind = left.x + step + margin, "bracket"
        elif not stalled and left.x + step >= right.x:
            x, kind = right.x - 1.5 * back - margin, "bracket"
        elif not stalled:
            x, kind = left.x + step, "Newton"
        margin = 2 * margin if kind == "bracket" else margin
        if not left.x < x < right.x:
            x, kind = 0.5 * (left.x + right.x), "bisection"
            if not left.x < x < right.x:
                break
        point = evaluate(x, left)
        rows.append(row(iteration, point, kind))
        if point.value > c:
            stalled = kind == "Newton" and point.value - c > 0.9 * (left.value - c)
            left = point
        else:
            stalled = kind == "bracket" and x < right.x - tol
            right = point
    return right, left, tuple(rows)


# --- the problem, scaled by a power of two --------------------------------------------------------


@dataclass(eq=False)
class Problem:
    """The matrix with entries of size 1, and the bounds at any slopes and shift."""

    A: Array
    c: float
    exponent: int
    certified: bool
    n_starts: int
    seed: int
    slopes: tuple[float, float]

    @classmethod
    def of(
        cls, A: Any, c: float, certified: bool, n_starts: int, rng: Any,
        slopes: Any = None,
    ) -> Problem:  # fmt: skip
        """Check the arguments and scale them."""
        A = as_matrix(A)
        c = check_number("c", c, least=-math.inf)
        exponent = exponent_of(np.append(A, c))
        return cls(
            np.ldexp(A, -exponent), scaled(c, -exponent), exponent, bool(certified),
            check_count("n_starts", n_starts), int(as_generator(rng).integers(2**32)),
            (0.0, 1.0) if slopes is None else positive_slopes(slopes),
        )  # fmt: skip

    def unscaled(self, value: float) -> float:
        """Undo the scaling of a value of f, or of a shift."""
        return scaled(value, self.exponent)

    def row(self, iteration: int, point: Point, kind: str) -> NewtonStep:
        """A row for f(m): the slope scales like f."""
        value, slope = self.unscaled(point.value), self.unscaled(point.slope)
        return NewtonStep(iteration, point.x, value, slope, kind)

    def shift_row(self, iteration: int, point: Point, kind: str) -> NewtonStep:
        """A row for g(tau): tau scales like g."""
        x, value = self.unscaled(point.x), self.unscaled(point.value)
        return NewtonStep(iteration, x, value, point.slope, kind)

    # --- f(m) -------------------------------------------------------------------------------------

    def at_slopes(self, m: float, near: Point | None) -> Point:
        """f, or its certified bound, at slopes [m, 1]."""
        start = None if near is None else near.start
        if not self.certified:
            if start is None:  # for m = 0 many slopes are stationary, which catches random starts
                start = Certificate.of(self.A, (m, 1.0))
            found = self.search(self.A, (m, 1.0), start)
            return Point(m, found.value, found.parts(self.A)[1], found)
        bound = Certificate.of(self.A, (m, 1.0), start)
        r, weight = 0.5 * (1 - m), (bound.x**2).sum(axis=1)
        slope = 0.5 * float(np.vdot(bound.x, self.A @ bound.x))
        slope -= float((weight * r / (4 * bound.multiplier)).sum())
        return Point(m, bound.upper, slope, bound)

    def refuted_m(self, left: Point) -> float:
        """An m up to which some slope pattern exceeds c: its value is linear in m."""

        def root(m: float, near: Any) -> tuple[float, Pattern]:
            found = self.search(self.A, (m, 1.0), near)
            fixed, slope = found.parts(self.A)
            root = (self.c - fixed) / slope + 0.0 if slope < 0 else 0.0
            return min(root, 1.0), found  # where f(1) = c, rounding may carry it beyond

        return _last_root(root, left)

    # --- g(tau) -----------------------------------------------------------------------------------

    def shifted(self, tau: float) -> Array:
        """A - tau I."""
        return self.A - tau * np.eye(len(self.A))

    def at_shift(self, tau: float, near: Point | None) -> Point:
        """g, or its certified bound."""
        B, start = self.shifted(tau), None if near is None else near.start
        if not self.certified:
            found = self.search(B, self.slopes, start)
            return Point(tau, found.value, -float((found.d * found.z**2).sum()), found)
        bound = Certificate.of(B, self.slopes, start)
        return Point(tau, bound.upper, -float(np.trace(bound.gradient(B))), bound)

    def beyond(self, left: Point) -> Point:
        """A shift that is large enough: (g(0) - c)/m, a little more for rounding."""
        tau = (left.value - self.c) / self.slopes[0]
        for _ in range(60):
            point = self.at_shift(tau, None)
            if point.value <= self.c:
                return point
            tau = tau * (1 + 1e-12) + 2 * (point.value - self.c) / self.slopes[0]
        raise ArithmeticError("no shift could be verified")

    def refuted_tau(self, left: Point) -> float:
        """A shift up to which some slope pattern exceeds c."""

        def root(tau: float, near: Any) -> tuple[float, Pattern]:
            found = self.search(self.shifted(tau), self.slopes, near)
            d, z = found.d, found.z
            return (float((d * z * (self.A @ z)).sum()) - self.c) / float((d * z * z).sum()), found

        return _last_root(root, left)

    def search(self, A: Array, slopes: tuple[float, float], near: Any) -> Pattern:
        """Lower bound of the maximum."""
        d0 = None if near is None else near.pattern(A, slopes)
        best = max_log_norm(A, slopes, certify=False, n_starts=self.n_starts, d0=d0, rng=self.seed)
        return Pattern(float(best.lower), np.asarray(best.d), np.asarray(best.z), slopes)


def _last_root(root: Callable[[float, Any], tuple[float, Pattern]], left: Point) -> float:
    """Repeat "search at x, move x to where what was found stops to exceed c" while x grows."""
    best, found = root(left.x, left.start)
    for _ in range(5):
        x, found = root(max(best, 0.0), found)
        if not x > best:
            break
        best = x
    return best


class Pattern(NamedTuple):
    """What a local search found."""

    value: float
    d: Array
    z: Array
    slopes: tuple[float, float]

    def pattern(self, A: Array, slopes: tuple[float, float]) -> Array:
        """The same pattern of slopes with other ends."""
        return np.where(self.low, *slopes)

    @property
    def low(self) -> Array:
        """Which slopes are the smallest ones."""
        return self.d < 0.5 * sum(self.slopes)

    def parts(self, A: Array) -> tuple[float, float]:
        """Return a, b with z^T D A z = a + b m for this pattern."""
        product = self.z * (A @ self.z)
        return float(product[~self.low].sum()), float(product[self.low].sum())


class Certificate(NamedTuple):
    """A certified upper bound with what its derivatives need.

    Attributes
    ----------
    upper : float
    multiplier : array (n,)
        l, infinite where the slope is fixed and where a row of the matrix is zero.
    x : array (n, q)
        Factor of the dual matrix Z = x x^T, of trace 1.
    slopes : (float, float)
    """

    upper: float
    multiplier: Array
    x: Array
    slopes: tuple[float, float]

    @classmethod
    def of(
        cls, A: Array, slopes: tuple[float, float], near: Certificate | None = None
    ) -> Certificate:
        """Solve for the bound, starting from that of a problem near by."""
        if not (A.any() if slopes[0] < slopes[1] else (A + A.T).any()):
            return cls(0.0, np.ones(len(A)), np.eye(len(A), 1), slopes)  # nothing to round
        chain = make_chain([A], [slopes])
        with np.errstate(over="ignore"):
            start = None if near is None else np.ldexp(near.multiplier, chain.exponent)
        found = slope_bound(chain, start, tol=PRECISION)
        x = _dual_factor(chain.A[0], found.multiplier, slopes)
        with np.errstate(over="ignore"):  # inf: a row that is zero to rounding
            multiplier = np.ldexp(found.multiplier, -chain.exponent)
        return cls(scaled(found.upper, chain.exponent, up=True), multiplier, x, slopes)

    def pattern(self, A: Array, slopes: tuple[float, float]) -> Array:
        """Slopes that are best for the leading direction: a start for a search."""
        z = self.x[:, 0]
        return np.where(z * (A @ z) > 0, slopes[1], slopes[0])

    def gradient(self, A: Array) -> Array:
        """Derivative of the bound with respect to A: c Z + 2 L A Z."""
        half = 0.5 * (self.slopes[0] + self.slopes[1])
        if self.slopes[0] == self.slopes[1]:
            return half * self.x @ self.x.T
        return (half * self.x + 2 * _active(self.multiplier)[:, None] * (A @ self.x)) @ self.x.T


def _dual_factor(A: Array, multiplier: Array, slopes: tuple[float, float]) -> Array:
    """Return x with Z = x x^T, the dual matrix of the bound, nearly.

    At the optimum l_i (A Z A^T)_ii = r^2 / 4l_i Z_ii, trace(Z) = 1, and Z lives in the eigenspace
    of the largest eigenvalue, V: Z = V S V^T, with S by least squares.
    """
    c, r = 0.5 * (slopes[0] + slopes[1]), 0.5 * (slopes[1] - slopes[0])
    bound = 0.5 * c * (A + A.T)
    if r == 0:
        return np.asarray(np.linalg.eigh(bound)[1][:, -1:])
    own, multiplier = r * r / (4 * multiplier), _active(multiplier)
    bound += A.T @ (multiplier[:, None] * A)
    bound[np.diag_indices(len(A))] += own
    w, V = np.linalg.eigh(bound)
    size = float(np.linalg.norm(A))
    count = int((w > w[-1] - CLUSTER * size).sum())
    V = V[:, -min(count, math.isqrt(2 * len(A))) :]
    if V.shape[1] == 1:
        return np.asarray(V)
    a, b = np.triu_indices(V.shape[1])
    once = np.where(a == b, 1.0, 2.0)
    image = A @ V
    rows = multiplier[:, None] * image[:, a] * image[:, b] - own[:, None] * V[:, a] * V[:, b]
    rows = np.vstack([rows * once / size, 10.0 * (a == b)])  # the trace weighs more
    entries = np.linalg.lstsq(rows, np.append(np.zeros(len(A)), 10.0), rcond=1e-10)[0]
    weights = np.zeros((V.shape[1], V.shape[1]))
    weights[a, b] = weights[b, a] = entries
    p, rotation = np.linalg.eigh(weights)
    x = (V @ rotation) * np.sqrt(np.maximum(p, 0))
    return np.asarray(x[:, ::-1] / np.linalg.norm(x))


def _active(multiplier: Array) -> Array:
    """The multipliers, 0 where they are infinite: there the row that they multiply is zero."""
    return np.where(np.isfinite(multiplier), multiplier, 0.0)


# --- arguments ------------------------------------------------------------------------------------


def as_matrix(A: Any) -> Array:
    """Return a finite square float64 matrix on the host."""
    check_unmasked(A, "A")
    A = from_device(A)
    if np.iscomplexobj(A):
        raise ValueError("A must be real; got a complex array")
    try:
        A = np.asarray(A, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"A must be a matrix of numbers: {error}") from None
    if A.ndim != 2 or A.shape[0] != A.shape[1] or A.size == 0:
        raise ValueError(f"A must be a square matrix (n, n); got shape {A.shape}")
    if not np.isfinite(A).all():
        raise ValueError("A must be finite; it has NaN or infinite entries")
    return A


def positive_slopes(slopes: Any) -> tuple[float, float]:
    """Return slopes (lo, hi) with 0 < lo <= hi."""
    try:
        lo, hi = (float(s) for s in slopes)
    except (TypeError, ValueError):
        raise ValueError(f"slopes must be (lo, hi); got {slopes!r}") from None
    if not 0 < lo <= hi < math.inf:
        raise ValueError(f"slopes must be (lo, hi) with 0 < lo <= hi; got {slopes!r}")
    return lo, hi


def scaled(value: float, exponent: int, *, up: bool = False) -> float:
    """Return value * 2**exponent; `up`: not below the exact product."""
    with np.errstate(over="ignore", under="ignore"):
        result = float(np.ldexp(value, exponent))
    if up and float(np.ldexp(result, -exponent)) < value:
        return math.nextafter(result, math.inf)
    return result
