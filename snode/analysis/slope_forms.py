r"""The quadratic forms behind the upper bounds, and their verified evaluation.

Layer j maps :math:`y_{j-1}` to :math:`y_j = D_j u_j`, :math:`u_j = A_j y_{j-1}`. With the middle c
and the half-width r of the slopes, :math:`y_j = c u_j + r w_j` with :math:`|w_{ji}| \le |u_{ji}|`,
so for all multipliers :math:`l \ge 0`

.. math:: y_0^T y_k \le y_0^T y_k + \sum_{j,i} l_{ji} (u_{ji}^2 - w_{ji}^2) = v^T Q(l) v,
          \qquad v = (y_0, w_1, \dots, w_k),

and every :math:`\lambda` with :math:`F(\lambda, l) = \lambda E_0 - Q(l) \succeq 0`, where
:math:`E_0` is the identity on :math:`y_0`, is an upper bound of the logarithmic norms. A form knows
F for one problem; it gives the bound of a multiplier (`value`), the same rounded outward
(`verified`), and what Newton's method needs (`factor`, `inverse`). The proofs are in the page
"Contractivity: the proofs" of the documentation.
"""

# ruff: noqa: N803, N806  (the symbols of the proofs)

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import LinAlgError, cho_solve, cholesky
from scipy.linalg.lapack import dpotri

from snode.analysis.slope_problem import EPS, TINY, Chain, flat
from snode.backend import Array

__all__ = ["Blocks", "ChainForm", "SingleForm", "weighted"]


RESOLUTION = 1e-4
"""Least size of a problem, relative to the product of norms: rounding hides what is smaller.

The symmetric part may vanish, as for a skew matrix with fixed slopes.
"""


def middle(A: Array, lo: Array, hi: Array) -> tuple[Array, Array]:
    """Return c, r with [lo, hi] inside of [c - r, c + r] in exact arithmetic.

    r = 0 if lo = hi, or if the unit has no input.
    """
    fixed = (lo == hi) | ~A.any(axis=1)
    c = np.where(lo == hi, lo, 0.5 * lo + 0.5 * hi)
    r = np.where(fixed, 0.0, 0.5 * (hi - lo) + 2 * EPS * (np.abs(lo) + np.abs(hi)))
    return c, r


def gamma(k: int) -> float:
    """Return k eps / (1 - k eps), twice what Higham's gamma_k is."""
    return k * EPS / (1 - k * EPS)


class SingleForm:
    """One layer. The units w are eliminated: n x n matrices only.

    M(L) = Sym(CA) + A^T L A + diag(r^2 / 4l), the bound is its largest eigenvalue.
    """

    def __init__(self, chain: Chain) -> None:
        c, r = middle(chain.A[0], chain.lo[0], chain.hi[0])
        self.free = np.flatnonzero(r)
        self.count = len(self.free)
        self.n = chain.n
        self.order = self.n + self.count
        A = chain.A[0]
        self.A, self.c = A, c
        self.half = 0.5 * (c[:, None] * A + A.T * c)
        self.U = A[self.free]
        self.r = r[self.free]
        self.size = float(np.abs(self.half).sum(axis=1).max())
        self.size += float((np.abs(r) * np.linalg.norm(A, axis=1)).max(initial=0.0))
        self.crude = _norm_bound(chain)
        self.size = max(self.size, RESOLUTION * self.crude)

    def default(self) -> Array:
        """Multipliers of a = |row|: L = r / 2a."""
        norms = np.linalg.norm(self.U, axis=1)
        floor = 1e-6 * max(float(norms.max(initial=0.0)), 1e-6)
        return self.r / (2 * np.maximum(norms, floor))

    def matrix(self, L: Array, K: Array | None = None) -> Array:
        """M(L); K is U^T L U where it is known."""
        M = self.half + (weighted(self.U, L) if K is None else K)
        M[self.free, self.free] += self.r**2 / (4 * L)
        return M

    def value(self, L: Array) -> float:
        """The bound without rounding control."""
        return float(np.linalg.eigvalsh(self.matrix(L))[-1])

    def near(self, L: Array) -> Array:
        """Eigenvectors of the largest eigenvalues."""
        V = np.linalg.eigh(self.matrix(L))[1]
        return V[:, : -min(4, self.n) - 1 : -1]

    def factor(self, lam: float, L: Array, K: Array) -> tuple[Array, float]:
        """Cholesky factor and log det of F(lam, L); LinAlgError where it is not definite."""
        S = -self.matrix(L, K)
        S[np.diag_indices(self.n)] += lam
        R = cholesky(S, lower=True, check_finite=False)
        return R, 2 * float(np.log(np.diag(R)).sum()) + float(np.log(L).sum())

    def inverse(self, R: Array, L: Array) -> Blocks:
        """Return what Newton's method needs of Z = F^{-1}."""
        Y = _inverse(R)
        YU = Y @ self.U.T
        k = self.r / (2 * L)
        Zxe = Y[:, self.free] * k
        Gee = k[:, None] * Zxe[self.free]
        Gee[np.diag_indices(self.count)] += 1 / L
        return Blocks(Y, YU, Zxe, self.U @ YU, YU[self.free].T * k, Gee)

    def verified(self, L: Array) -> float:
        """The bound, rounded outward."""
        n = self.n
        M = self.matrix(L)
        if not np.isfinite(M).all():
            return self.crude
        # every entry of M has at most n + 8 roundings, each relative to the sum of the moduli
        absolute, weight = np.abs(self.A), np.zeros(n)
        weight[self.free] = L
        ones = np.ones(n)
        rows = 0.5 * (np.abs(self.c) * absolute.sum(axis=1) + absolute.T @ np.abs(self.c))
        rows += absolute.T @ (weight * (absolute @ ones))
        rows[self.free] += self.r**2 / (4 * L)
        error = gamma(n + 10) * float(rows.max()) + TINY
        return min(_eigenvalue_bound(M, error), self.crude)


class Blocks(NamedTuple):
    """Blocks of Z = F^{-1}: on y_0, and in the directions U^T (u) and E^T (e) of the units."""

    Y: Array
    Zxu: Array
    Zxe: Array
    Guu: Array
    Gue: Array
    Gee: Array


class ChainForm:
    """Several layers: F over v = (y_0, w), the free units only."""

    def __init__(self, chain: Chain) -> None:
        parts = [middle(*layer) for layer in zip(chain.A, chain.lo, chain.hi, strict=True)]
        self.free = np.flatnonzero(flat(r for _, r in parts))
        self.count = len(self.free)
        self.n = chain.n
        self.order = self.n + self.count
        self.layer = np.repeat(np.arange(len(chain.A)), chain.sizes)[self.free]
        U, last = _inputs(chain.A, parts, self.n, self.count)
        self.U = U[self.free]
        self.Q0 = np.zeros((self.order, self.order))
        self.Q0[: self.n] += 0.5 * last
        self.Q0[:, : self.n] += 0.5 * last.T
        moduli = [(np.abs(c), r) for c, r in parts]
        V, bound = _inputs([np.abs(A) for A in chain.A], moduli, self.n, self.count)
        self.moduli = V[self.free], bound
        self.depth = 2 * sum(A.shape[1] + 4 for A in chain.A) + self.count + 10
        self.crude = _norm_bound(chain)
        self.size = max(float(np.abs(self.Q0).sum(axis=1).max()), RESOLUTION * self.crude)

    def default(self) -> Array:
        """Multipliers that fall from layer to layer, fast enough for F to be definite."""
        norms = np.linalg.norm(self.U, axis=1)
        base = 1 / np.maximum(norms, 1e-3 * max(norms.max(), 1e-6))
        for power in range(60):
            L = base * 2.0 ** (-power * self.layer)
            try:
                self._schur(L)
            except LinAlgError:
                continue
            return self._rescaled(L)
        raise LinAlgError("no multiplier makes the form definite")

    def _rescaled(self, L: Array) -> Array:
        """The multiple of L with the best bound, among powers of two."""
        return min((L * 2.0**e for e in range(-12, 13)), key=self.value)

    def matrix(self, L: Array, K: Array | None = None) -> Array:
        """Q(L); K is U^T L U where it is known."""
        Q = self.Q0 + (weighted(self.U, L) if K is None else K)
        w = np.arange(self.n, self.order)
        Q[w, w] -= L
        return Q

    def _schur(self, L: Array) -> Array:
        Q = self.matrix(L)
        n = self.n
        R = cholesky(-Q[n:, n:], lower=True, check_finite=False)
        return Q[:n, :n] + Q[:n, n:] @ cho_solve((R, True), Q[n:, :n], check_finite=False)

    def value(self, L: Array) -> float:
        """The bound without rounding control."""
        return float(np.linalg.eigvalsh(self._schur(L))[-1])

    def near(self, L: Array) -> Array:
        """Eigenvectors of the largest eigenvalues."""
        V = np.linalg.eigh(self._schur(L))[1]
        return V[:, : -min(4, self.n) - 1 : -1]

    def factor(self, lam: float, L: Array, K: Array) -> tuple[Array, float]:
        """Cholesky factor and log det of F(lam, L)."""
        F = -self.matrix(L, K)
        F[np.arange(self.n), np.arange(self.n)] += lam
        R = cholesky(F, lower=True, check_finite=False)
        return R, 2 * float(np.log(np.diag(R)).sum())

    def inverse(self, R: Array, L: Array) -> Blocks:
        """Return what Newton's method needs of Z = F^{-1}."""
        Z = _inverse(R)
        n = self.n
        ZU = Z @ self.U.T
        return Blocks(Z[:n, :n], ZU[:n], Z[:n, n:], self.U @ ZU, ZU[n:].T, Z[n:, n:])

    def verified(self, L: Array) -> float:
        """The smallest bound that could be verified, rounded outward."""
        try:
            value = self.value(L)
        except LinAlgError:
            return self.crude
        F = -self.matrix(L)
        V, last = self.moduli
        rows = np.zeros(self.order)
        rows[: self.n] += 0.5 * last.sum(axis=1)
        rows += 0.5 * last.sum(axis=0) + V.T @ (L * V.sum(axis=1))
        rows[self.n :] += L
        first = np.arange(self.n)
        step = 16 * self.order * EPS * (abs(value) + self.size)
        for _ in range(40):
            lam = value + step
            G = F.copy()
            G[first, first] += lam
            if _is_semidefinite(G, gamma(self.depth) * (rows + abs(lam)) + TINY):
                return min(lam, self.crude)
            step *= 4
        return self.crude


def _inputs(
    layers: Any, parts: list[tuple[Array, Array]], n: int, count: int
) -> tuple[Array, Array]:
    """Return u of all layers, and y_k, as matrices on v = (y_0, w)."""
    y = np.eye(n, n + count)
    U, column = [], n
    for A, (c, r) in zip(layers, parts, strict=True):
        u = A @ y
        U.append(u)
        y = c[:, None] * u
        free = np.flatnonzero(r)
        y[free, column + np.arange(len(free))] += r[free]
        column += len(free)
    return np.concatenate(U), y


def weighted(U: Array, L: Array) -> Array:
    """U^T diag(L) U."""
    return U.T @ (L[:, None] * U)


def _norm_bound(chain: Chain) -> float:
    """The product of norms, rounded outward: max |D_j| sqrt(|A_j|_1 |A_j|_inf)."""
    product = 1.0
    for A, lo, hi in zip(chain.A, chain.lo, chain.hi, strict=True):
        B = np.abs(A)
        size = math.sqrt(float(B.sum(axis=0).max() * B.sum(axis=1).max()))
        product *= size * float(np.maximum(np.abs(lo), np.abs(hi)).max())
    return product * (1 + gamma(4 * sum(A.shape[1] + 4 for A in chain.A))) + TINY


def _inverse(R: Array) -> Array:
    Z, info = dpotri(R, lower=1)
    if info:
        raise LinAlgError("singular factor")
    Z = np.tril(Z)
    return Z + np.tril(Z, -1).T


def _eigenvalue_bound(M: Array, error: float) -> float:
    """Upper bound of the largest eigenvalue of any symmetric matrix within `error` of M."""
    n = len(M)
    value = float(np.linalg.eigvalsh(M)[-1])
    size = float(np.abs(M).sum(axis=1).max())
    step = 4 * n * EPS * size + TINY
    while True:
        mu = value + step
        S = -M
        S[np.diag_indices(n)] += mu
        try:
            np.linalg.cholesky(S)
        except np.linalg.LinAlgError:
            step *= 4
            continue
        # Higham, Theorem 10.5: the factors reproduce S + dS, |dS| <= gamma_{n+1} trace(S)
        slack = gamma(2 * n + 4) * (float(np.trace(S)) + abs(mu) + size) + error
        return math.nextafter(mu + 1.01 * slack + TINY, math.inf)


def _is_semidefinite(F: Array, rows: Array) -> bool:
    """True only if every symmetric matrix within `rows` (sums of moduli) of F is semidefinite."""
    scale = np.exp2(-np.round(0.5 * np.log2(np.maximum(np.diag(F), TINY))))
    G = scale[:, None] * F * scale
    # the row sums of |S dF S| are at most scale * rows * max(scale)
    shift = float((scale * rows).max() * scale.max())
    shift += gamma(2 * len(G) + 4) * float(np.trace(G))
    G[np.diag_indices(len(G))] -= 1.01 * shift
    try:
        np.linalg.cholesky(G)
    except np.linalg.LinAlgError:
        return False
    return True
