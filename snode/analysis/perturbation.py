r"""The smallest perturbation that makes a matrix contractive, with a certificate.

The set of all :math:`\Delta` with :math:`\lambda_{\max}(\mathrm{Sym}(D(A + \Delta))) \le c` for all
slopes D is convex. From outside, cutting planes :math:`\langle D z z^T, \Delta\rangle \le c - z^T
D A z` with slopes D and directions z that local searches find: the least norm over the cuts is a
lower bound. From inside, a point that the certificate accepts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from snode.analysis.attack_result import check_count, check_number
from snode.analysis.contractivity import ContractingShift, Verdict, shift_of
from snode.analysis.slope_problem import SINGLE_THREADED, make_chain
from snode.analysis.slope_roots import Certificate, Problem
from snode.analysis.slope_search import alternating
from snode.backend import Array, follow, own_error_state, single_threaded_blas
from snode.copying import Portable
from snode.progress import Callback, Teller, check_callback
from snode.results import Status

__all__ = ["CutStep", "MinimalPerturbation", "minimal_perturbation"]

CUTS_PER_PATTERN = 8
ROUNDS = 8
"""Of the augmented Lagrangian; the smoothing is reduced in the first of them."""


class CutStep(NamedTuple):
    """A round of cutting planes: how many there were, the lower bound, what was still violated."""

    iteration: int
    n_cuts: int
    lower: float
    violation: float


@dataclass(frozen=True, eq=False)
class MinimalPerturbation(Portable):
    """A small matrix that makes another one contractive; result of `minimal_perturbation`.

    Attributes
    ----------
    delta : array (n, n)
    matrix : array (n, n)
        ``A + delta`` as it was verified.
    norm : float
        Frobenius norm of `delta`.
    lower : float
        No smaller perturbation works: the cutting planes say so.
    value : float
        The bound of the largest logarithmic norm of `matrix` that was compared with c.
    shift : ContractingShift
        The best multiple of the identity, whose norm is ``tau sqrt(n)``.
    c : float
    slopes : (float, float)
    history : tuple of CutStep
    certified : bool
    source : str
        What gave `delta`: "none needed", "closed form", "cutting planes", "certificate", "shift".
    status : Status
        ``STOPPED`` if the callback ended the search: `delta` makes A contractive and `lower` holds,
        but both could be better.
    """

    delta: Array
    matrix: Array
    norm: float
    lower: float
    value: float
    shift: ContractingShift
    c: float
    slopes: tuple[float, float]
    history: tuple[CutStep, ...]
    certified: bool
    source: str
    status: Status = Status.SUCCESS

    @property
    def gap(self) -> float:
        """``norm - lower``: what is not known of the smallest norm."""
        return self.norm - self.lower

    @property
    def shift_norm(self) -> float:
        """Frobenius norm of the shift."""
        return float(self.shift.tau * len(self.delta) ** 0.5)

    def __repr__(self) -> str:
        how = "certified" if self.certified else "local search, no guarantee"
        return (
            f"MinimalPerturbation(|delta|_F={self.norm:.6g}, {how}, from: {self.source}, "
            f"no |delta|_F < {self.lower:.6g} works, gap {self.gap:.2g}, "
            f"shift {self.shift_norm:.6g}, c={self.c:g}, slopes={self.slopes})"
        )


@own_error_state
def minimal_perturbation(
    A: Array,
    slopes: tuple[float, float] = (0.1, 1.0),
    c: float = 0.0,
    *,
    certified: bool = True,
    tol: float = 1e-6,
    max_iter: int = 40,
    n_starts: int = 5,
    rng: Any = 0,
    callback: Callback | None = None,
) -> MinimalPerturbation:
    r"""Return a matrix of small Frobenius norm that makes A contractive with the given slopes.

    Parameters
    ----------
    A : array (n, n)
    slopes : (float, float), optional
        Smallest and largest slope of sigma, the smallest one positive.
    c : float, optional
        The logarithmic norm that is allowed.
    certified : bool, optional
        Whether the certificate must accept ``A + delta``. Otherwise only a local search does not
        find a violation.
    tol : float, optional
        Violation at which the cutting planes stop, relative to the shift.
    max_iter : int, optional
        Rounds of cutting planes.
    n_starts : int, optional
        Local searches in each round.
    rng : seed or numpy.random.Generator, optional
        For the local searches.
    callback : callable, optional
        Called with a `snode.progress.Progress` before each round. If it returns True, the best
        perturbation so far is verified and returned, with ``status=STOPPED``.

    Returns
    -------
    MinimalPerturbation
        Never larger than the shift of `contracting_shift`.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit; names the argument.

    Notes
    -----
    The derivative of :math:`z^T D (A + \Delta) z` is :math:`D z z^T`. The least norm over the cuts
    is a least-distance problem, solved through its dual, nonnegative least squares. With
    multipliers :math:`\mu \ge 0` of the cuts :math:`\langle G_j, \Delta\rangle \le -h_j`,
    :math:`|\Delta|_F \ge \mu^T h / |\sum_j \mu_j G_j|_F` by Cauchy and Schwarz.

    The certified perturbation minimises :math:`|\Delta|_F^2/2` subject to the bound of
    `contractivity_interval` for :math:`A + \Delta`, jointly in :math:`\Delta` and the multipliers:
    an augmented Lagrangian with the largest eigenvalue smoothed by log-sum-exp, from above. What is
    left of violation is removed by a shift, which is verified.

    The work is LAPACK's: a device array is copied to the host, and the matrices back.

    For slopes fixed at 1, :math:`\Delta = -\sum_i (\lambda_i - c)_+ z_i z_i^T` with the eigenpairs
    of Sym(A).

    References
    ----------
    .. [1] De Marinis et al., arXiv 2501.10740.

    Examples
    --------
    >>> import numpy as np
    >>> from snode.analysis.perturbation import minimal_perturbation
    >>> found = minimal_perturbation(np.diag([1.0, -3.0]), (1.0, 1.0))
    >>> bool(abs(found.norm - 1) < 1e-12), found.source
    (True, 'closed form')
    """
    problem = Problem.of(A, c, certified, n_starts, rng, slopes)
    check_callback(callback)
    tol, max_iter = check_number("tol", tol, above=0), check_count("max_iter", max_iter)
    with single_threaded_blas(len(problem.A) <= SINGLE_THREADED):
        found = _least(problem, tol, max_iter, watch := Teller(callback, max_iter + ROUNDS))
    status = Status.STOPPED if watch.stopped else Status.SUCCESS
    return follow(replace(found, status=status), A)


class _StopError(Exception):
    """Leaves the minimiser of SciPy."""


def _least(problem: Problem, tol: float, max_iter: int, watch: Teller) -> MinimalPerturbation:
    shift = shift_of(problem, 1e-10, 60)
    tau = float(np.ldexp(shift.tau, -problem.exponent))
    n = len(problem.A)
    start = _Candidate("shift", -tau * np.eye(n), problem.shifted(tau), shift.value)
    if shift.status is Verdict.EVERY:
        return _result(problem, replace(start, source="none needed"), 0.0, shift, ())
    if problem.slopes[0] == problem.slopes[1]:
        exact = _closed_form(problem)
        best = _repaired(problem, "closed form", exact)
        return _result(problem, best, float(np.linalg.norm(exact)), shift, ())
    delta, lower, history = _Cuts(problem).run(tol * tau, max_iter, watch)
    candidates = [start, _repaired(problem, "cutting planes", delta)]
    if problem.certified and not watch.stopped:
        inside = _least_certified(problem, delta, tau, max_iter, watch)
        candidates.append(_repaired(problem, "certificate", inside))
    best = min(candidates, key=lambda candidate: candidate.norm)
    return _result(problem, best, min(lower, best.norm), shift, history)


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A perturbation of the scaled matrix that was verified; `value` is not scaled."""

    source: str
    delta: Array
    matrix: Array
    value: float

    @property
    def norm(self) -> float:
        return float(np.linalg.norm(self.delta))


def _result(
    problem: Problem, best: _Candidate, lower: float, shift: ContractingShift,
    history: tuple[CutStep, ...],
) -> MinimalPerturbation:  # fmt: skip
    unscaled = problem.unscaled
    rows = tuple(
        row._replace(lower=unscaled(row.lower), violation=unscaled(row.violation))
        for row in history
    )
    return MinimalPerturbation(
        np.ldexp(best.delta, problem.exponent), np.ldexp(best.matrix, problem.exponent),
        unscaled(best.norm), unscaled(lower), best.value, shift, unscaled(problem.c),
        problem.slopes, rows, problem.certified, best.source,
    )  # fmt: skip


def _repaired(problem: Problem, source: str, delta: Array) -> _Candidate:
    """Shift A + delta by what is still missing, and verify it."""
    moved = replace(problem, A=problem.A + delta)
    shift = shift_of(moved, 1e-10, 60)
    tau = float(np.ldexp(shift.tau, -problem.exponent))
    return _Candidate(source, delta - tau * np.eye(len(delta)), moved.shifted(tau), shift.value)


def _closed_form(problem: Problem) -> Array:
    """Cut the eigenvalues of Sym(A) off at c / slope."""
    w, V = np.linalg.eigh(0.5 * (problem.A + problem.A.T))
    excess = np.maximum(w - problem.c / problem.slopes[0], 0)
    return np.asarray(-(V * excess) @ V.T)


# --- from outside: cutting planes -----------------------------------------------------------------


class _Cuts:
    """Cuts <D z z^T, delta> <= c - z^T D A z, kept as the vectors d and z, one a row."""

    def __init__(self, problem: Problem) -> None:
        n = len(problem.A)
        self.problem = problem
        self.d, self.z = np.empty((0, n)), np.empty((0, n))
        self.idle = np.empty(0, dtype=int)
        self.generator = np.random.default_rng(problem.seed)

    def run(
        self, tol: float, max_iter: int, watch: Teller
    ) -> tuple[Array, float, tuple[CutStep, ...]]:
        """Return the least-norm perturbation over the cuts, its norm from below, the rounds."""
        delta, best, rows = np.zeros_like(self.problem.A), 0.0, []
        for iteration in range(max_iter):
            if watch.tell(iteration, "cutting planes"):
                break
            violation = self.extend(delta, tol)
            rows.append(CutStep(iteration, len(self.z), best, violation))
            if violation <= tol:
                break
            delta, lower = self.least_norm()
            best = max(best, lower)
        return delta, best, tuple(rows)

    def extend(self, delta: Array, tol: float) -> float:
        """Add what `delta` violates; return by how much."""
        moved = self.problem.A + delta
        d = np.unique(np.vstack([self.d, self.search(moved)]), axis=0)
        product = d[:, :, None] * moved
        w, V = np.linalg.eigh(0.5 * (product + product.transpose(0, 2, 1)))
        first = max(0, w.shape[1] - CUTS_PER_PATTERN)
        which, column = np.nonzero(w[:, first:] > self.problem.c + 0.1 * tol)
        self.d = np.vstack([self.d, d[which]])
        self.z = np.vstack([self.z, V[which, :, first + column]])
        self.idle = np.concatenate([self.idle, np.zeros(len(which), dtype=int)])
        return float(w[:, -1].max()) - self.problem.c

    def search(self, moved: Array) -> Array:
        """Slopes with a large logarithmic norm, one a row: a few, not only the best one."""
        chain = make_chain([moved], [self.problem.slopes])
        starts = self.generator.standard_normal((len(moved), self.problem.n_starts))
        return np.array([alternating(chain, x[:, None]).d[0] for x in starts.T])

    def least_norm(self) -> tuple[Array, float]:
        """Solve the least-distance problem over the cuts; drop cuts that have been idle."""
        from scipy.optimize import nnls

        z, dz = self.z, self.d * self.z
        h = (dz * (z @ self.problem.A.T)).sum(axis=1) - self.problem.c
        w, V = np.linalg.eigh((dz @ dz.T) * (z @ z.T))
        root = np.sqrt(np.maximum(w, 0))[:, None] * V.T
        u = nnls(np.vstack([root, h]), np.eye(len(h) + 1)[-1], maxiter=50 * len(h))[0]
        mu = u / (1 - float(h @ u))
        delta = -(dz * mu[:, None]).T @ z
        norm = float(np.linalg.norm(delta))
        lower = float(mu @ h) / norm if norm > 0 else 0.0
        self.idle = np.where(u > 0, 0, self.idle + 1)
        keep = self.idle < 2  # the norm is strictly convex: dropping what is idle loses nothing
        self.d, self.z, self.idle = self.d[keep], self.z[keep], self.idle[keep]
        return delta, lower


# --- from inside: the certificate -----------------------------------------------------------------


def _least_certified(
    problem: Problem, delta: Array, tau: float, max_iter: int, watch: Teller
) -> Array:
    """Minimise |delta|^2 / 2 subject to the certificate, nearly."""
    from scipy.optimize import minimize

    n = len(problem.A)
    size = tau * n**0.5
    start = Certificate.of(problem.A + delta, problem.slopes)
    # a row that is zero now asks for no multiplier, but it need not stay zero
    floor = 0.5 * (problem.slopes[1] - problem.slopes[0]) / (2e-3 * tau)
    multiplier = np.where(np.isfinite(start.multiplier), start.multiplier, floor)
    v = np.concatenate([delta.ravel() / size, np.log(multiplier)])
    y, penalty = 1.0, 300.0
    for round_ in range(ROUNDS):
        smoothing = tau * 10.0 ** -min(1 + round_ / 2, 4) / np.log(n + 1)

        done = max_iter + round_

        def lagrangian(
            v: Array, smoothing: float = smoothing, y: float = y, done: int = done
        ) -> Any:
            if watch.tell(done, "perturbation that the certificate accepts"):
                raise _StopError
            moved = problem.A + size * v[: n * n].reshape(n, n)
            value, slope, gl = _smoothed_bound(moved, np.exp(v[n * n :]), problem.slopes, smoothing)
            force = max(0.0, y + penalty * (value - problem.c) / tau)
            gradient = np.concatenate([(size * slope).ravel(), gl]) * (force / tau)
            gradient[: n * n] += v[: n * n]
            return 0.5 * float(v[: n * n] @ v[: n * n]) + force**2 / (2 * penalty), gradient

        try:
            found = minimize(
                lagrangian, v, jac=True, method="L-BFGS-B",
                options={"maxiter": 300, "maxcor": 20, "ftol": 1e-12, "gtol": 1e-7},
            )  # fmt: skip
        except _StopError:
            break
        v = found.x
        moved = problem.A + size * v[: n * n].reshape(n, n)
        value = _smoothed_bound(moved, np.exp(v[n * n :]), problem.slopes, smoothing)[0]
        y = max(0.0, y + penalty * (value - problem.c) / tau)
    return np.asarray(size * v[: n * n].reshape(n, n))


def _smoothed_bound(
    B: Array, multiplier: Array, slopes: tuple[float, float], smoothing: float
) -> tuple[float, Array, Array]:
    """Bound for fixed multipliers l, smoothed from above; derivatives in B and log l."""
    c, r = 0.5 * (slopes[0] + slopes[1]), 0.5 * (slopes[1] - slopes[0])
    weighted, own = multiplier[:, None] * B, r * r / (4 * multiplier)
    bound = 0.5 * c * (B + B.T) + B.T @ weighted
    bound[np.diag_indices(len(B))] += own
    w, V = np.linalg.eigh(bound)
    e = np.exp((w - w[-1]) / smoothing)
    value = float(w[-1] + smoothing * np.log(e.sum()))
    dual = (V * (e / e.sum())) @ V.T
    pulled = weighted @ dual
    return value, c * dual + 2 * pulled, (pulled * B).sum(axis=1) - own * np.diag(dual)
