r"""Certified upper bounds of the logarithmic norm over all slopes: the best multipliers.

The smallest :math:`\lambda` with :math:`F(\lambda, l) \succeq 0` (see `slope_forms`) is found by
Newton's method on :math:`\tau \lambda - \log\det F` with growing :math:`\tau`. F is linear in
:math:`(\lambda, l)`, so this is a semidefinite programme, and every derivative of F has rank two,
so the Hessian consists of squares of matrix entries. The bound is then evaluated again from the
final l with outward rounding: it holds whatever the optimiser did.
"""

# ruff: noqa: N803, N806  (the symbols of the proofs)

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import LinAlgError, cho_solve, cholesky

from snode.analysis.slope_forms import Blocks, ChainForm, SingleForm, weighted
from snode.analysis.slope_problem import TINY, Chain, is_zero
from snode.backend import Array

__all__ = ["SlopeBound", "slope_bound"]

GROWTH = 12.0
"""Factor of tau once the iterate is near the central path."""

CENTRED = 0.8
"""Newton decrement that counts as near."""

CENTRED_WELL, LAST_STEPS = 1e-3, 6
"""At the end, for the sake of the dual matrix."""

SHRINK = 0.6
SMALLEST = 2.0**-130
"""Multipliers stay between this and its inverse, for the sake of underflow."""

RESOLVED = 0.3
"""A bound is known to stay above its target at this part of their distance."""

MAX_NEWTON = 200
COLD, WARM = 0.1, 3e-4
"""First distance of lambda from the bound, relative to the size of the problem."""

FARTHER = 40
"""How often that is doubled where rounding leaves the form indefinite."""


class SlopeBound(NamedTuple):
    """An upper bound with what proves it.

    Attributes
    ----------
    upper : float
        Of the scaled problem; rounded outward.
    multiplier : array
        L over all units; infinite where the slope is fixed.
    x : array (n, q)
        Directions that nearly attain the bound, the leading one first: starts for a search. With
        free slopes x x^T is the dual matrix, of trace 1.
    spread : array
        How open each slope is, for branch and bound; 0 where it is fixed.
    size : float
        Of the problem: tolerances are relative to it.
    n_newton : int
    """

    upper: float
    multiplier: Array
    x: Array
    spread: Array
    size: float
    n_newton: int


def slope_bound(
    chain: Chain,
    multiplier: Array | None = None,
    *,
    tol: float = 1e-9,
    target: float = -math.inf,
    max_newton: int = MAX_NEWTON,
) -> SlopeBound:
    """Minimise the bound over the multipliers and verify it.

    Parameters
    ----------
    chain : Chain
    multiplier : array, optional
        Start, over all units.
    tol : float, optional
        Distance to the optimum at which to stop, relative to the size of the problem.
    target : float, optional
        Stop as soon as the bound is below, or as soon as it is known that it stays above.

    Returns
    -------
    SlopeBound
    """
    form = _form(chain)
    units = sum(chain.sizes)
    full, spread = np.full(units, np.inf), np.zeros(units)
    if any(map(is_zero, chain.A)):  # the Jacobian is zero
        full[form.free] = 1.0
        return SlopeBound(0.0, full, np.eye(chain.n, 1), spread, 0.0, 0)
    if not form.count:
        L = np.zeros(0)
        return SlopeBound(form.verified(L), full, form.near(L), spread, form.size, 0)
    try:
        solved = _solve(form, multiplier, tol, target, max_newton)
    except LinAlgError:  # no multiplier is of use: what the norms say
        full[form.free], spread[form.free] = 1.0, 1.0
        return SlopeBound(form.crude, full, np.eye(chain.n, 1), spread, form.size, 0)
    best = np.clip(solved.L, SMALLEST, 1 / SMALLEST)
    full[form.free], spread[form.free] = best, solved.spread
    upper = form.verified(best)
    return SlopeBound(upper, full, solved.x, spread, form.size, solved.n_newton)


def _solve(
    form: Any, multiplier: Array | None, tol: float, target: float, max_newton: int
) -> _Solved:
    """The interior-point method from the given multipliers, if need be from the default ones."""
    L, warm = _start(form, multiplier)
    with np.errstate(all="ignore"):  # what is not finite is not accepted
        solved = _interior_point(form, L, WARM if warm else COLD, tol, target, max_newton)
        if warm and not solved.done:  # near an end of the path of another problem
            again = _interior_point(form, form.default(), COLD, tol, target, max_newton)
            better = form.value(again.L) <= form.value(solved.L)
            count = solved.n_newton + again.n_newton
            solved = (again if better else solved)._replace(n_newton=count)
    return solved


def _form(chain: Chain) -> SingleForm | ChainForm:
    return SingleForm(chain) if len(chain.A) == 1 else ChainForm(chain)


class _Solved(NamedTuple):
    L: Array
    x: Array
    spread: Array
    n_newton: int
    done: bool
    """Whether the tolerance was met, or it was seen that the target is or cannot be."""


def _start(form: Any, multiplier: Array | None) -> tuple[Array, bool]:
    """The given multipliers where they are usable, else the default ones."""
    default: Array = form.default()
    if multiplier is None:
        return default, False
    L = np.asarray(multiplier, float)[form.free]
    L = np.where(np.isfinite(L) & (L > 0), L, default)
    try:
        usable = form.value(L) <= form.value(default)
    except LinAlgError:
        usable = False
    return (L, True) if usable else (default, False)


def _interior_point(
    form: Any, L: Array, distance: float, tol: float, target: float, max_newton: int
) -> _Solved:
    """Follow the minimisers of tau lam - log det F(lam, L) as tau grows."""
    best, best_L = form.value(L), L
    K = weighted(form.U, L)
    lam, R, logdet = _feasible(form, best, distance * form.size, L, K)
    Z = None
    newton, centring, done = 0, 0, False
    while newton < max_newton:
        newton += 1
        try:
            Z = form.inverse(R, L)
            newton_step = _NewtonStep(Z, L)
        except LinAlgError:
            break
        tau = newton_step.nearest
        if newton_step.decrement(tau) < CENTRED:
            left = form.order / tau  # to the optimum, on the central path
            value = form.value(L)
            if value < best:
                best, best_L = value, L
            above = best - target if target > -math.inf else 0.0
            done = above < 0 or left < RESOLVED * above or left <= tol * form.size
            if above < 0 or left < RESOLVED * above:
                break
            if left > tol * form.size:
                tau *= GROWTH
            elif centring == LAST_STEPS or newton_step.decrement(tau) < CENTRED_WELL:
                break
            else:
                centring += 1
        moved = _line_search(form, (lam, L, K, logdet), newton_step, tau)
        if moved is None:
            break
        lam, L, K, R, logdet = moved
    if Z is None:
        return _Solved(best_L, form.near(best_L), np.ones(form.count), newton, done)
    return _Solved(best_L, _directions(Z.Y), _spread(Z, L), newton, done)


def _feasible(
    form: Any, value: float, step: float, L: Array, K: Array
) -> tuple[float, Array, float]:
    """Go from the bound of L to a lambda at which F can be factored."""
    for _ in range(FARTHER):
        try:
            return value + step, *form.factor(value + step, L, K)
        except LinAlgError:
            step *= 2
    raise LinAlgError("no lambda makes the form definite")


def _directions(Y: Array) -> Array:
    """Eigenvectors of the dual matrix, leading one first, times the roots of the eigenvalues."""
    w, V = np.linalg.eigh(Y / np.trace(Y))
    return (V * np.sqrt(np.maximum(w, 0)))[:, ::-1]


def _spread(Z: Blocks, L: Array) -> Array:
    """Large where the dual matrix leaves open whether w is +u or -u."""
    u, w, uw = np.diag(Z.Guu), np.diag(Z.Gee), np.diag(Z.Gue)
    return L * np.sqrt(np.maximum(u * w - uw * uw, 0)) / np.trace(Z.Y)


class _NewtonStep:
    """Newton's direction for tau lam - log det F in (lam, log L), for every tau at once."""

    def __init__(self, Z: Blocks, L: Array) -> None:
        count = len(L)
        g = np.empty(count + 1)
        H = np.empty((count + 1, count + 1))
        g[0] = -np.trace(Z.Y)
        g[1:] = L * (np.diag(Z.Guu) - np.diag(Z.Gee))
        H[0, 0] = np.vdot(Z.Y, Z.Y)
        H[0, 1:] = L * (np.einsum("ij,ij->j", Z.Zxe, Z.Zxe) - np.einsum("ij,ij->j", Z.Zxu, Z.Zxu))
        H[1:, 0] = H[0, 1:]
        cross = Z.Gue**2
        H[1:, 1:] = L[:, None] * (Z.Guu**2 + Z.Gee**2 - cross - cross.T) * L
        root = 1 / np.sqrt(np.maximum(np.diag(H), TINY))
        H *= root * root[:, None]
        H[np.diag_indices(count + 1)] += 1e-14
        factor = cholesky(H, lower=True, check_finite=False)
        sides = np.stack([np.eye(count + 1)[0] * root[0], root * g], axis=1)
        self.a, self.b = (root[:, None] * cho_solve((factor, True), sides, check_finite=False)).T
        self.square = float(g @ self.b)
        self.L = L

    @property
    def nearest(self) -> float:
        """The tau whose point of the central path is nearest."""
        return float(max(-self.b[0] / self.a[0], TINY))

    def decrement(self, tau: float) -> float:
        square = tau * tau * self.a[0] + 2 * tau * self.b[0] + self.square
        return math.sqrt(max(square, 0.0))

    def direction(self, tau: float) -> tuple[float, Array]:
        step = -(tau * self.a + self.b)
        return float(step[0]), self.L * step[1:]


def _line_search(
    form: Any, point: tuple[float, Array, Array, float], newton: _NewtonStep, tau: float
) -> tuple[float, Array, Array, Array, float] | None:
    """Go on, or back, until the barrier function no longer falls; None if it never does."""
    lam, L, K, logdet = point
    step_lam, step_L = newton.direction(tau)
    step_K = weighted(form.U, step_L)
    ahead = float(np.max(-step_L / L))
    limit = 0.95 / ahead if ahead > 0 else math.inf
    length, factor, found = min(1.0, limit), SHRINK, None
    lowest = tau * lam - logdet - 1e-3 * newton.decrement(tau) ** 2
    while 1e-8 < length <= limit:
        new_lam, new_L, new_K = lam + length * step_lam, L + length * step_L, K + length * step_K
        try:
            R, new_logdet = form.factor(new_lam, new_L, new_K)
            value = tau * new_lam - new_logdet
        except LinAlgError:
            value = math.inf
        if value < lowest:
            if found is None and length == 1.0:
                factor = 2.0
            found, lowest = (new_lam, new_L, new_K, R, new_logdet), value
        elif found is not None:
            break
        length *= factor
    return found
