"""Rates at which trajectories part on one cell: for the flow, and for a step of Euler's method."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from snode.analysis.lognorm import max_log_norm
from snode.backend import Array, to_host
from snode.fields.classifier import Classifier
from snode.fields.layer import StandaloneField
from snode.fields.mlp import MLPField

__all__ = ["Layers", "RateBound", "Rates"]

EPS = float(np.finfo(float).eps)
HUGE = 1e100
"""Above, squares are not formed."""

REFINEMENTS = 40
"""Iterations on the free numbers of the Euler bound."""


class Layers(NamedTuple):
    """The matrices A_1, ..., A_k at any depth, and the slopes after each of them."""

    field: Any
    grid: Array
    slopes: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, field: Any) -> Layers:
        """Read a field; raise TypeError for one whose Jacobian is not of this kind."""
        inner = field.field if isinstance(field, Classifier) else field
        if isinstance(inner, StandaloneField):
            slopes: tuple[tuple[float, float], ...] = (inner.activation.slope_interval,)
        elif isinstance(inner, MLPField):
            hidden = (inner.activation.slope_interval,) * (len(inner.widths) - 2)
            slopes = (*hidden, inner.output_activation.slope_interval)
        else:
            raise TypeError(
                f"field must be a StandaloneField, an MLPField or a Classifier of one; "
                f"got {type(field).__name__}"
            )
        return cls(inner, np.asarray(inner.grid, dtype=np.float64), slopes)

    def fingerprint(self) -> str:
        """A digest of all that the bounds depend on."""
        digest = hashlib.sha256(repr((self.slopes, type(self.field).__name__)).encode())
        digest.update(repr(getattr(self.field, "interpolation", None)).encode())
        digest.update(self.grid.tobytes())
        standalone = isinstance(self.field, StandaloneField)
        for W in [self.field.W] if standalone else self.field._weights():
            digest.update(np.ascontiguousarray(_exact(W)).tobytes())
        return digest.hexdigest()

    def at(self, t: float) -> list[Array]:
        """Matrices at depth t, in float64."""
        if isinstance(self.field, MLPField):
            return [_exact(W) for W in self.field._weights()]
        return [_exact(self.field._at(t)[0])]

    def controls(self, a: float, b: float) -> list[list[Array]]:
        """Control points of W(t) on [a, b], which lies in one cell."""
        if isinstance(self.field, MLPField) or self.field.interpolation == "constant":
            return [self.at(a)]
        first, last = self.at(a)[0], self.at(b)[0]
        if self.field.interpolation == "linear":
            return [[first], [last]]
        third = (b - a) / 3
        return [[first], [first + third * self._rate(a)], [last - third * self._rate(b)], [last]]

    def _rate(self, t: float) -> Array:
        j, weights = self.field.depth_basis["W"].row_derivative(t)
        return np.tensordot(weights, _exact(self.field.W[j : j + len(weights)]), axes=1)


def _exact(W: Array) -> Array:
    return np.asarray(to_host(W), dtype=np.float64)


# --- rates ----------------------------------------------------------------------------------------


class RateBound(NamedTuple):
    """Bounds of the logarithmic norm for given matrices, and where to start for similar ones."""

    upper: float
    lower: float
    multiplier: Any
    d: Any


class Rates:
    """Bounds of the logarithmic norm, each started from the last one."""

    def __init__(self, layers: Layers, method: str, n_starts: int, rng: Any) -> None:
        self.layers, self.method, self.n_starts, self.rng = layers, method, n_starts, rng
        self.known: list[tuple[list[Array], RateBound]] = []
        self.steps: list[tuple[list[Array], float, float]] = []

    def flow_step(self, a: float, b: float) -> tuple[float, float]:
        """Mean over the control points of upper and lower bounds of the rate."""
        bounds = [self.bound(A) for A in self.layers.controls(a, b)]
        upper = sum(bound.upper for bound in bounds) / len(bounds)
        lower = sum(bound.lower for bound in bounds) / len(bounds)
        return upper, lower

    def euler_step(self, a: float, b: float) -> tuple[float, float]:
        """Rate log|I + hJ| / h."""
        A, h = self.layers.at(a), b - a
        for B, width, rate in self.steps:
            if width == h and _same(A, B):
                return rate, math.nan
        rate = self.log_step(A, h) / h
        rate += 4 * EPS * (abs(rate) + 1 / h)
        self.steps = [(A, h, rate)]
        return rate, math.nan

    def bound(self, A: list[Array]) -> RateBound:
        """Bounds for given matrices; neighbouring segments ask for the same ones."""
        for B, known in self.known:
            if _same(A, B):
                return known
        if not all(B.any() for B in A):
            found = RateBound(0.0, 0.0, None, None)  # J = 0
        elif self.method == "norms":
            found = RateBound(_norms_rate(A, self.layers.slopes), math.nan, None, None)
        else:
            found = self.certificate(A, self.known[-1][1] if self.known else None)
        self.known = [*self.known[-3:], (A, found)]
        return found

    def certificate(self, A: list[Array], near: RateBound | None) -> RateBound:
        """The bound of `max_log_norm`."""
        slopes = self.layers.slopes
        single = len(A) == 1
        result = max_log_norm(
            A[0] if single else A, slopes[0] if single else list(slopes),
            n_starts=self.n_starts, rng=self.rng, d0=None if near is None else near.d,
            multiplier0=None if near is None else near.multiplier,
        )  # fmt: skip
        with np.errstate(over="ignore", invalid="ignore"):
            upper = min(result.upper, _norms_rate(A, slopes))
        return RateBound(upper, result.lower, result.multiplier, result.d)

    def log_step(self, A: list[Array], h: float) -> float:
        """Upper bound of log|I + hJ|_2."""
        slopes = self.layers.slopes
        size = h * math.prod(
            _norm(B) * max(abs(lo), abs(hi)) for B, (lo, hi) in zip(A, slopes, strict=True)
        )
        f = self.bound(A)
        bounds = [math.log1p(size)]
        if size < HUGE:
            bounds.append(0.5 * _log(1 + 2 * h * f.upper + size**2 + 16 * EPS * (1 + size) ** 2))
        if len(A) > 1:
            return min(bounds)
        c, r = _middle(slopes[0])
        shifted, spread = np.eye(len(A[0])) + h * c * A[0], h * r * A[0]
        bounds.append(_log(_norm(shifted) + _norm(spread)))
        if f.multiplier is not None and r > 0 and size < HUGE:
            alpha = h * r * r / (2 * np.asarray(f.multiplier))
            bounds.append(0.5 * _log(_young(shifted, spread, alpha, h)))
        return min(bounds)


def _norms_rate(A: list[Array], slopes: tuple[tuple[float, float], ...]) -> float:
    """The logarithmic norm by norms: c mu(A) + r |A|, or the product of norms."""
    if len(A) > 1:
        sizes = [max(abs(lo), abs(hi)) for lo, hi in slopes]
        return math.prod(_norm(B) * s for B, s in zip(A, sizes, strict=True)) * (1 + 8 * EPS)
    c, r = _middle(slopes[0])
    sym = 0.5 * c * (A[0] + A[0].T)
    w = float(np.linalg.eigvalsh(sym)[-1])
    return w + r * _norm(A[0]) + 8 * (len(sym) + 2) * EPS * float(np.linalg.norm(sym))


def _young(p: Array, q: Array, alpha: Array, h: float) -> float:
    """Minimise the largest eigenvalue of P^T (1 + a) P + Q^T (1 + 1/a) Q over a > 0."""
    from scipy.optimize import minimize

    def matrix(a: Array) -> Array:
        return np.asarray(p.T @ ((1 + a)[:, None] * p) + q.T @ ((1 + 1 / a)[:, None] * q))

    def smoothed(v: Array) -> tuple[float, Array]:
        a = np.exp(v)
        w, V = np.linalg.eigh(matrix(a))
        e = np.exp((w - w[-1]) / (1e-3 * h))
        V *= np.sqrt(e / e.sum())
        g = a * ((p @ V) ** 2).sum(axis=1) - ((q @ V) ** 2).sum(axis=1) / a
        return float(w[-1] / h + 1e-3 * np.log(e.sum())), g / h

    start = np.log(np.clip(alpha, 1e-12, 1e12))
    found = minimize(smoothed, start, jac=True, method="L-BFGS-B", options={"maxiter": REFINEMENTS})
    return min(_eigenvalue(matrix, p, q, np.exp(v)) for v in (start, np.asarray(found.x)))


def _eigenvalue(matrix: Callable[[Array], Array], p: Array, q: Array, a: Array) -> float:
    """Largest eigenvalue, rounded outward: matrix and eigenvalue have errors of n roundings."""
    n = len(a)
    moduli = np.abs(p).T @ ((1 + a) * np.abs(p).sum(axis=1))
    moduli += np.abs(q).T @ ((1 + 1 / a) * np.abs(q).sum(axis=1))
    return float(np.linalg.eigvalsh(matrix(a))[-1] + 8 * (n + 10) * EPS * moduli.max())


def _log(value: float) -> float:
    """Logarithm of a bound that may be zero."""
    return math.log(max(value, 1e-300))


def _norm(A: Array) -> float:
    """2-norm, rounded outward."""
    return float(np.linalg.norm(A, 2) * (1 + 8 * max(A.shape) * EPS))


def _middle(slopes: tuple[float, float]) -> tuple[float, float]:
    lo, hi = slopes
    return 0.5 * (lo + hi), 0.0 if lo == hi else 0.5 * (hi - lo) + 2 * EPS * (abs(lo) + abs(hi))


def _same(A: list[Array], B: list[Array]) -> bool:
    return all(a is b or np.array_equal(a, b) for a, b in zip(A, B, strict=True))
