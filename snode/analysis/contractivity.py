r"""How contractive a matrix is, and what makes it more so, with certificates.

For :math:`x' = \sigma(Ax + b)` with slopes of :math:`\sigma` in [m, 1], two trajectories approach
each other at the rate -c or faster if

.. math:: f(m) = \max_{d \in [m,1]^n} \lambda_{\max}(\mathrm{Sym}(DA)) \le c .

Local searches find lower bounds of f; the certificate (`snode.analysis.slope_bound`) is an upper
bound U. Both roots are found by Newton's method from the left, which does not overshoot: f and U
are convex and fall with m, and with the shift of A. The proofs for U are in
`contractivity_interval` and `contracting_shift`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from snode.analysis.attack_result import check_count, check_number
from snode.analysis.slope_problem import SINGLE_THREADED
from snode.analysis.slope_roots import NewtonStep, Problem, newton_from_left
from snode.backend import Array, follow, own_error_state, single_threaded_blas
from snode.copying import Portable
from snode.progress import Callback, Teller, check_callback

__all__ = [
    "ContractingShift", "ContractivityInterval", "NewtonStep", "Verdict",
    "contracting_shift", "contractivity_interval",
]  # fmt: skip

EPS = float(np.finfo(float).eps)


class Verdict(Enum):
    """What a search for contractivity found."""

    FOUND = "found"
    EVERY = "the condition holds to begin with"
    NONE = "no m in (0, 1] works: f(1) = mu_2(A) > c"
    UNDECIDED = "f(1) = mu_2(A) equals c to rounding"
    STOPPED = "the condition holds there, the callback stopped the search for a smaller one"

    def __repr__(self) -> str:
        return f"Verdict.{self.name}"


@dataclass(frozen=True, eq=False)
class ContractivityInterval(Portable):
    """The slopes for which a matrix is contractive; result of `contractivity_interval`.

    Attributes
    ----------
    m : float
        f(m) <= c for all slopes in [m, 1]; 0 if that is so for every m > 0, NaN if for none, and
        if f(1) equals c to rounding (`status` says which). Certified, or the end of the local
        search. With a certificate it is the least m that the certificate accepts; what is below
        it, down to `lower`, is not known.
    value : float
        The bound of f at `m` that was compared with c.
    lower : float
        No m below this one works: a slope pattern was found that says so.
    c : float
    nit : int
        Evaluations after the first.
    history : tuple of NewtonStep
        Iteration, m, f(m), f'(m), and "Newton", "bisection" or, for the last digits, "bracket".
    certified : bool
    status : Verdict
    """

    m: float
    value: float
    lower: float
    c: float
    nit: int
    history: tuple[NewtonStep, ...]
    certified: bool
    status: Verdict

    @property
    def gap(self) -> float:
        """``m - lower``: what is not known."""
        return self.m - self.lower

    def __repr__(self) -> str:
        how = "certified" if self.certified else "local search, no guarantee"
        head = f"ContractivityInterval(m={self.m:.10g}, {how}, c={self.c:g}, {self.status!r})"
        if self.status in (Verdict.FOUND, Verdict.STOPPED):
            head += f"\nno m < {self.lower:.10g} works; gap {self.gap:.2g}"
        return head + _table(self.history, "m", "f(m)")


@dataclass(frozen=True, eq=False)
class ContractingShift(Portable):
    """How far a matrix must be shifted; result of `contracting_shift`.

    Attributes
    ----------
    tau : float
        The shift.
    matrix : array (n, n)
        ``A - tau I`` as it was verified.
    value : float
        The bound of the largest logarithmic norm of `matrix` that was compared with c.
    lower : float
        No smaller shift works: a slope pattern was found that says so.
    c : float
    slopes : (float, float)
    nit : int
        Evaluations after the first.
    history : tuple of NewtonStep
    certified : bool
    status : Verdict
        EVERY if no shift is needed.
    """

    tau: float
    matrix: Array
    value: float
    lower: float
    c: float
    slopes: tuple[float, float]
    nit: int
    history: tuple[NewtonStep, ...]
    certified: bool
    status: Verdict

    @property
    def gap(self) -> float:
        """``tau - lower``: what is not known."""
        return self.tau - self.lower

    def __repr__(self) -> str:
        how = "certified" if self.certified else "local search, no guarantee"
        head = f"ContractingShift(tau={self.tau:.10g}, {how}, c={self.c:g}, slopes={self.slopes})"
        head += f"\nno tau < {self.lower:.10g} works; gap {self.gap:.2g}"
        return head + _table(self.history, "tau", "g(tau)")


# --- the smallest m -------------------------------------------------------------------------------


@own_error_state
def contractivity_interval(
    A: Array,
    c: float = 0.0,
    *,
    certified: bool = True,
    tol: float = 1e-11,
    max_iter: int = 60,
    n_starts: int = 20,
    rng: Any = 0,
    callback: Callback | None = None,
) -> ContractivityInterval:
    r"""Return the smallest m such that x' = sigma(Ax + b) contracts for all slopes in [m, 1].

    Parameters
    ----------
    A : array (n, n)
    c : float, optional
        The logarithmic norm that is allowed; trajectories part like exp(ct) at most.
    certified : bool, optional
        Compare c with the certified upper bound, so that the returned m is a guarantee. Otherwise
        with what a local search finds: nearer to the true m, but possibly below it.
    tol : float, optional
        Distance of `m` to the root, absolute.
    max_iter : int, optional
    n_starts : int, optional
        Starts of the local search.
    rng : seed or numpy.random.Generator, optional
        For the local search.
    callback : callable, optional
        Called before every evaluation but the first two with an object of attributes `done`,
        `total` and `what`; if it returns True, the search ends with the smallest m that is known
        to work, and `status` STOPPED.

    Returns
    -------
    ContractivityInterval

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit; names the argument.

    Notes
    -----
    f is convex and does not increase with m; where the maximising d is unique,
    :math:`f'(m) = \sum_{d_i = m} z_i (Az)_i`. So Newton's method from m = 0 rises monotonically to
    the root; bisection takes over where a step fails.

    The work is LAPACK's: a device array is copied to the host.

    The certified bound is, with r = (1 - m)/2 and the multipliers l = 1/s,

    .. math:: U(m) = \min_{s > 0} \lambda_{\max}\Big( \tfrac{1+m}2 \mathrm{Sym}(A)
              + A^T \mathrm{diag}(1/s)\, A + \tfrac{r^2}4 \mathrm{diag}(s) \Big),

    and with s = s'/r^2 every term :math:`r^2 (Ax)_i^2 / s'_i` is jointly convex in (m, s'). So U
    is convex, U >= f, and U(1) = f(1) <= f(m) <= U(m): U does not increase either, and the same
    iteration works. By the envelope theorem its slope is
    :math:`\mathrm{tr} Z (\mathrm{Sym}(A)/2 - \mathrm{diag}(r/4l))` with the dual matrix Z.

    References
    ----------
    .. [1] Guglielmi et al., *Contractivity of neural ODEs: an eigenvalue optimization problem*,
       arXiv 2402.13092.

    Examples
    --------
    >>> import numpy as np
    >>> from snode.analysis.contractivity import contractivity_interval
    >>> found = contractivity_interval(np.array([[-1.0, 1.0], [0.0, -1.0]]))
    >>> bool(abs(found.m - 0.25) < 1e-10), found.certified
    (True, True)
    """
    problem = Problem.of(A, c, certified, n_starts, rng)
    tol, max_iter = check_number("tol", tol, above=0), check_count("max_iter", max_iter)
    check_callback(callback)
    with single_threaded_blas(len(problem.A) <= SINGLE_THREADED):
        return _interval_of(problem, c, tol, max_iter, Teller(callback, max_iter))


def _interval_of(
    problem: Problem, c: float, tol: float, max_iter: int, watch: Teller
) -> ContractivityInterval:
    certified = problem.certified
    right = problem.at_slopes(1.0, None)
    if right.value > problem.c:
        status = _verdict_at_one(problem)
        step = NewtonStep(0, 1.0, problem.unscaled(right.value), math.nan, "start")
        lower = math.nan if status is Verdict.UNDECIDED else math.inf
        return ContractivityInterval(
            math.nan, step.value, lower, float(c), 0, (step,), certified, status
        )
    left = problem.at_slopes(0.0, None)
    if left.value <= problem.c:
        step = problem.row(0, left, "start")
        return ContractivityInterval(
            0.0, step.value, 0.0, float(c), 0, (step,), certified, Verdict.EVERY
        )
    final, left, rows = newton_from_left(
        problem.at_slopes, left, right, problem.c, tol, max_iter, problem.row,
        lambda iteration: watch.tell(iteration - 1, "searching for the smallest slopes"),
    )  # fmt: skip
    lower = 0.0 if watch.stopped else min(max(problem.refuted_m(left), 0.0), final.x)
    return ContractivityInterval(
        final.x, problem.unscaled(final.value), lower, float(c), len(rows) - 1, rows, certified,
        _verdict(watch),
    )  # fmt: skip


# --- the smallest shift ---------------------------------------------------------------------------


@own_error_state
def contracting_shift(
    A: Array,
    slopes: tuple[float, float] = (0.1, 1.0),
    c: float = 0.0,
    *,
    certified: bool = True,
    tol: float = 1e-11,
    max_iter: int = 60,
    n_starts: int = 20,
    rng: Any = 0,
    callback: Callback | None = None,
) -> ContractingShift:
    r"""Return the smallest tau for which A - tau I is contractive with the given slopes.

    Parameters
    ----------
    A : array (n, n)
    slopes : (float, float), optional
        Smallest and largest slope of sigma, the smallest one positive.
    c : float, optional
        The logarithmic norm that is allowed.
    certified, max_iter, n_starts, rng, callback
        As for `contractivity_interval`.
    tol : float, optional
        Distance of `tau` to the root, relative to the size of A.

    Returns
    -------
    ContractingShift

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit; names the argument.

    Notes
    -----
    :math:`g(\tau) = \max_d \lambda_{\max}(\mathrm{Sym}(D(A - \tau I)))` is convex with slopes
    :math:`-z^T D z` in [-1, -m] (for slopes in [m, 1]). Newton's method from tau = 0 is monotone,
    and the root is at most (g(0) - c)/m. The certified bound of :math:`B = A - \tau I`, in the
    form with :math:`(Bx)_i^2/s_i`, is jointly convex in (tau, s), so it is convex in tau as well.
    At its optimum, with the dual matrix Z, :math:`4 (BZB^T)_{ii} = r^2 s_i^2 Z_{ii}`, hence
    :math:`2|(ZB^T)_{ii}|/s_i \le r Z_{ii}`, and its slope
    :math:`-\frac{1+m}2 - 2\sum_i (ZB^T)_{ii}/s_i` is in [-1, -m] too.

    The work is LAPACK's: a device array is copied to the host, and the shifted matrix back.

    Examples
    --------
    >>> import numpy as np
    >>> from snode.analysis.contractivity import contracting_shift
    >>> found = contracting_shift(np.array([[0.0, 1.0], [-1.0, 0.0]]), (0.25, 1.0))
    >>> bool(found.tau >= found.lower), found.certified
    (True, True)
    """
    problem = Problem.of(A, c, certified, n_starts, rng, slopes)
    tol, max_iter = check_number("tol", tol, above=0), check_count("max_iter", max_iter)
    check_callback(callback)
    with single_threaded_blas(len(problem.A) <= SINGLE_THREADED):
        return follow(shift_of(problem, tol, max_iter, callback), A)


def shift_of(
    problem: Problem, tol: float, max_iter: int, callback: Callback | None = None
) -> ContractingShift:
    """Return the smallest shift of a scaled problem."""
    watch = Teller(callback, max_iter)
    left, lower, status = problem.at_shift(0.0, None), 0.0, Verdict.EVERY
    final = left
    rows: tuple[NewtonStep, ...] = (problem.shift_row(0, left, "start"),)
    if left.value > problem.c:
        final, left, rows = newton_from_left(
            problem.at_shift, left, problem.beyond(left), problem.c, tol, max_iter,
            problem.shift_row,
            lambda iteration: watch.tell(iteration - 1, "searching for the smallest shift"),
        )  # fmt: skip
        lower = 0.0 if watch.stopped else min(max(problem.refuted_tau(left), 0.0), final.x)
        status = _verdict(watch)
    unscaled = problem.unscaled
    return ContractingShift(
        unscaled(final.x), np.ldexp(problem.shifted(final.x), problem.exponent),
        unscaled(final.value), unscaled(lower), unscaled(problem.c), problem.slopes,
        len(rows) - 1, rows, problem.certified, status,
    )  # fmt: skip


def _verdict(watch: Teller) -> Verdict:
    """Of a search that has found something."""
    return Verdict.STOPPED if watch.stopped else Verdict.FOUND


def _verdict_at_one(problem: Problem) -> Verdict:
    """Whether f(1) > c is certain."""
    sym = 0.5 * (problem.A + problem.A.T)
    error = 8 * len(sym) * EPS * float(np.abs(sym).sum(axis=1).max())
    sure = not problem.certified or np.linalg.eigvalsh(sym)[-1] - error > problem.c
    return Verdict.NONE if sure else Verdict.UNDECIDED


def _table(history: Sequence[NewtonStep], variable: str, function: str) -> str:
    lines = [f"\n{'it':>4} {variable:>16} {function:>16} {'slope':>14}"]
    for step in history:
        numbers = f"{step.x:16.12g} {step.value:16.9g} {step.slope:14.6g}"
        lines.append(f"{step.iteration:4d} {numbers}  {step.kind}")
    return "\n".join(lines)
