r"""Nonlinear conjugate gradients in a chosen inner product, with no learning rate.

The gradient comes from the adjoint problem, the step length from the sensitivity problem: the cost
along the direction, with x(T) linearised in the step, has an increasing derivative phi, whose root
is the step (paper 001, section 4 and appendix B).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from dataclasses import field as entry
from typing import Any, Protocol

import numpy as np

from snode.backend import Array, array_namespace, is_on_device, own_error_state, plain
from snode.copying import Portable
from snode.ode.problems import Solver, as_solver, check_choice
from snode.progress import check_callback
from snode.results import NcgHistory, NcgResult, Status
from snode.training.costs import Cost, LineModel, check_cost, default_cost
from snode.training.gradients import EULER, Dots, FieldProblem
from snode.training.innerproducts import InnerProduct

__all__ = ["CG_RULES", "CgRule", "CgTerms", "NcgState", "minimize", "ncg"]

_log = logging.getLogger("snode")

TRUST = 1.0
"""With cross entropy a step may move x(T) by this many times 1 + rms |x(T)|."""

MAX_HALVINGS = 40


@dataclass(frozen=True)
class CgTerms:
    """Numbers that a conjugate coefficient may use; `_old` is the previous iteration.

    ``gg`` = <g,g>, ``g_old`` = <g,g_old>, ``gd`` = <g,d_old>, ``gg_old`` = <g_old,g_old>,
    ``gd_old`` = <g_old,d_old>.
    """

    gg: float
    g_old: float
    gd: float
    gg_old: float
    gd_old: float


@dataclass(frozen=True)
class CgRule:
    """An entry of the table of rules.

    Attributes
    ----------
    beta : callable
        Conjugate coefficient from `CgTerms`. On a device the terms of the new gradient are arrays
        of dimension 0; a function that makes Python numbers of them works, and waits for them.
    needs_previous : bool
        Whether it uses <g, g_old>, and so the previous gradient must be kept.
    reference : str
    """

    beta: Callable[[CgTerms], float]
    needs_previous: bool
    reference: str


def _fletcher_reeves(c: CgTerms) -> float:
    return c.gg / c.gg_old


def _polak_ribiere(c: CgTerms) -> float:
    return (c.gg - c.g_old) / c.gg_old


def _pr_plus(c: CgTerms) -> Any:
    return _larger(0.0, _polak_ribiere(c))


def _fr_pr(c: CgTerms) -> Any:
    fr = _fletcher_reeves(c)
    return _larger(-fr, _smaller(fr, _polak_ribiere(c)))


def _hestenes_stiefel(c: CgTerms) -> Any:
    return (c.gg - c.g_old) / (c.gd - c.gd_old)


def _dai_yuan(c: CgTerms) -> Any:
    return c.gg / (c.gd - c.gd_old)


def _steepest_descent(c: CgTerms) -> Any:
    return 0.0


def _larger(a: Any, b: Any) -> Any:
    # Python's max would wait for a device
    return array_namespace(b).maximum(a, b) if is_on_device(b) else max(a, b)


def _smaller(a: Any, b: Any) -> Any:
    return array_namespace(b).minimum(a, b) if is_on_device(b) else min(a, b)


CG_RULES: dict[str, CgRule] = {
    "FR": CgRule(_fletcher_reeves, False, "Fletcher and Reeves 1964"),
    "PR+": CgRule(_pr_plus, True, "Nocedal and Wright, (5.45)"),
    "FR-PR": CgRule(_fr_pr, True, "Gilbert and Nocedal; Nocedal and Wright, (5.48)"),
    "HS": CgRule(_hestenes_stiefel, True, "Hestenes and Stiefel 1952"),
    "DY": CgRule(_dai_yuan, False, "Dai and Yuan 1999"),
    "SD": CgRule(_steepest_descent, False, "steepest descent"),
}


class NcgProblem(Protocol):
    """All that the iteration asks of a problem; see `FieldProblem`.

    A problem that can look ahead also has ``expect(beta, memory)``, called before the direct
    problem of a step: the next conjugate coefficient will be ``beta(dots, memory)``, or with
    ``beta=None`` no iteration will follow. See `snode.training.device`.
    """

    base: Any
    trial: Any
    best: Any

    def direct(self) -> float: ...
    def gradient(self) -> Dots: ...
    def set_direction(self, beta: float) -> None: ...
    def line(self) -> LineModel: ...
    def move(self, step: float) -> None: ...
    def accept(self, *, is_best: bool) -> None: ...


class NonFiniteCostError(ArithmeticError):
    """The cost is NaN or infinite where a run starts, so there is nothing to descend from."""

    def __init__(self, cost: float) -> None:
        super().__init__(
            f"the cost is {cost}: the direct problem or the cost overflows; start from smaller "
            "weights or a smaller T, or take a smaller learning rate"
        )
        self.cost = cost

    def __reduce__(self) -> tuple[Any, ...]:
        # by itself, an exception is built again from its message
        rest = {name: value for name, value in vars(self).items() if name != "cost"}
        return type(self), (self.cost,), rest


@dataclass
class Memory:
    """What conjugacy remembers from one iteration to the next (also across minibatches)."""

    gg_old: float = 0.0
    gd_old: float = 0.0


@dataclass(frozen=True)
class NcgState(Portable):
    """What a callback sees after each iteration.

    The arrays of `field` are reused by later iterations: keep ``copy.deepcopy(state.field)``.
    """

    nit: int
    cost: float
    step: float
    beta: float
    slope: float
    grad_norm: float
    capped: bool
    field: Any = entry(repr=False)


@own_error_state
def ncg(
    field: Any,
    x: Array,
    y: Array,
    cost: Cost | None = None,
    *,
    inner: str | InnerProduct = "l2",
    rule: str = "FR",
    n_iter: int = 6,
    solver: str | Solver = "euler",
    threads: int | None = None,
    block_size: int | None = None,
    callback: Callable[[NcgState], object] | None = None,
) -> NcgResult:
    """Minimise the cost over the parameters of a field by nonlinear conjugate gradients.

    Parameters
    ----------
    field : VectorField
        Start. It is not changed.
    x : array (n, m)
        Inputs, one column a sample.
    y : integer array (m,) or array (n, m)
        Labels or targets.
    cost : Cost, optional
        Default: the squared distance to one-hot targets of 10 classes, or of as many as the field
        has outputs of a read-out.
    inner : {"l2", "h1", "euclidean"} or InnerProduct, optional
        Metric of the gradient; "h1" is the Sobolev gradient with length 1.
    rule : {"FR", "PR+", "FR-PR", "HS", "DY", "SD"}, optional
        Conjugate coefficient.
    n_iter : int, optional
        Number of iterations.
    solver : str or Solver, optional
        How the direct problem is solved; see `gradient`.
    threads : int, optional
        Worker threads of the CPU path for `StandaloneField`; default all cores.
    block_size : int, optional
        Number of samples whose trajectory is stored at a time, on that path; the gradients of the
        blocks are summed, and the sensitivity problem solves the direct problem again (six
        matrix products a layer instead of five). Default: as many as fit into 1 GB, so batches
        that fit are not divided.
    callback : callable, optional
        Called with an `NcgState` after each iteration; stops if it returns True.

    Returns
    -------
    NcgResult

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit; names the argument.
    NonFiniteCostError
        If the cost at the start is not finite.

    Notes
    -----
    Safeguards, each counted in the result, none of which changes an iteration that needs none:

    - the direction is reset to -g when it does not descend or its coefficient is not finite;
    - with cross entropy, a step without a finite root of phi, or which would move x(T) beyond
      ``TRUST * (1 + rms)``, rms being the root mean square of the norms of the columns of x(T),
      is capped there and accepted only if the true cost falls, halving otherwise;
    - a step to a cost that is not finite, or higher than the cost at the start of the run, is
      halved in the same way;
    - the best iterate is returned.

    The first call on a machine compiles the CPU path, which takes some seconds; it is cached.

    References
    ----------
    .. [1] Jaroudi et al., arXiv 2205.13933, section 4 and Algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> field = snode.StandaloneField.random(3, 1.0, 10, rng=0)
    >>> x, y = np.eye(3), np.array([2, 0, 1])
    >>> result = snode.ncg(field, x, y, snode.Cost(n_classes=3), n_iter=20)
    >>> bool(result.fun < 0.01 * result.history.cost[0])
    True
    """
    check_choice("rule", rule, tuple(CG_RULES))
    keep = CG_RULES[rule].needs_previous
    cost = default_cost(field) if cost is None else cost
    check_cost(cost)
    check_callback(callback)
    check_n_iter(n_iter)
    problem = make_problem(
        field, x, y, cost, inner, keep, threads,
        solver=as_solver(solver), block_size=block_size,
    )  # fmt: skip
    result = minimize(problem, rule=rule, n_iter=n_iter, callback=callback)
    return replace(result, field=released(problem, result.field))


def check_n_iter(n_iter: Any) -> None:
    """Raise ValueError unless this is a number of iterations."""
    if isinstance(n_iter, bool) or not isinstance(n_iter, int | np.integer) or n_iter < 1:
        raise ValueError(f"n_iter must be a positive integer; got {n_iter!r}")


def released(problem: Any, field: Any) -> Any:
    """Return `field`, a result of a problem that is not used any more, in the usual form."""
    return problem.release(field) if hasattr(problem, "release") else field


def make_problem(
    field: Any,
    x: Array,
    y: Array,
    cost: Cost,
    inner: str | InnerProduct,
    keep_gradient: bool,
    threads: int | None = None,
    workspace: Any = None,
    solver: Solver = EULER,
    block_size: int | None = None,
) -> NcgProblem:
    """Return the fast problem where it applies, else the generic one."""
    from snode.training.hotpath import EulerProblem

    x, y = plain(x), plain(y)  # those mapped from files are no others
    is_fast = EulerProblem.applies_to(field, x) and solver == EULER
    if block_size is not None and not is_fast:
        raise ValueError(
            "block_size is for a StandaloneField on NumPy arrays and solver='euler'; leave it out"
        )
    if is_on_device(x):
        from snode.training.device import DeviceProblem

        return DeviceProblem(field, x, y, cost, inner, keep_gradient=keep_gradient, solver=solver)
    if is_fast:
        return EulerProblem(
            field, x, y, cost, inner,
            keep_gradient=keep_gradient, threads=threads, workspace=workspace,
            block_size=block_size,
        )  # fmt: skip
    return FieldProblem(field, x, y, cost, inner, keep_gradient=keep_gradient, solver=solver)


def minimize(
    problem: NcgProblem,
    *,
    rule: str = "FR",
    n_iter: int = 6,
    callback: Callable[[NcgState], object] | None = None,
    memory: Memory | None = None,
) -> NcgResult:
    """Run the iteration on anything that follows `NcgProblem`.

    `memory` carries conjugacy on from an earlier run on the same problem's direction. The arrays of
    the result may be the problem's own, which another run on it uses again; `ncg` returns others.
    """
    check_choice("rule", rule, tuple(CG_RULES))
    check_n_iter(n_iter)
    with _quiet():
        run = _Run(problem, CG_RULES[rule], memory or Memory())
    status = Status.SUCCESS
    for i in range(int(n_iter)):
        with _quiet():
            stop = run.iterate(is_last=i == n_iter - 1)
        if stop is not None:
            status = stop
            break
        if callback is not None and callback(run.state()):
            status = Status.STOPPED
            break
    return run.result(status)


def _nothing(*_: Any) -> None:
    pass


def _quiet() -> Any:
    # what overflows makes the cost or the gradient not finite, and that is handled by name
    return np.errstate(over="ignore", invalid="ignore")


class _Run:
    """One run of the iteration: the current numbers and the history."""

    def __init__(self, problem: NcgProblem, rule: CgRule, memory: Memory) -> None:
        self.problem, self.rule, self.memory = problem, rule, memory
        self._expect = getattr(problem, "expect", _nothing)
        self._expect(self._beta, memory)
        self.nfev = 1
        self.cost = problem.direct()
        if not math.isfinite(self.cost):
            raise NonFiniteCostError(self.cost)
        self.best = self.cost
        self.costs = [self.cost]
        self.rows: list[dict[str, Any]] = []

    def iterate(self, *, is_last: bool = False) -> Status | None:
        """Do one iteration; return a status if it cannot go on."""
        if is_last:
            self._expect(None)
        dots = self.problem.gradient()
        if not math.isfinite(dots.gg):
            return Status.NO_DESCENT
        if dots.gg == 0:
            return Status.CONVERGED
        beta = self._beta(dots, self.memory)
        restarted = not math.isfinite(beta)
        beta = 0.0 if restarted else beta
        line = self._line(beta)
        if beta != 0 and not line.slope < 0:
            restarted, beta, line = True, 0.0, self._line(0.0)
        step = self._step(line)
        if step is None and beta != 0:
            # `_step` put the trajectory back to the base, so its gradient is still the right one
            restarted, beta, line = True, 0.0, self._line(0.0)
            step = self._step(line)
        if step is None:
            # a cost can reach 0 before its gradient does (cross entropy, in floating point)
            return Status.CONVERGED if self.cost == 0 else Status.NO_DESCENT
        self.rows.append(
            {"beta": beta, "slope": line.slope, "grad_norm": math.sqrt(dots.gg)}
            | {"restarted": restarted}
            | step
        )
        self.costs.append(self.cost)
        self.memory.gg_old, self.memory.gd_old = dots.gg, line.slope
        return None

    def _line(self, beta: float) -> LineModel:
        self.problem.set_direction(beta)
        return self.problem.line()

    def _beta(self, dots: Dots, old: Memory) -> float:
        if old.gg_old == 0:
            return 0.0
        terms = CgTerms(dots.gg, dots.g_old, dots.gd, old.gg_old, old.gd_old)
        try:
            return self.rule.beta(terms)
        except ZeroDivisionError:
            return math.nan

    def _step(self, line: LineModel) -> dict[str, Any] | None:
        """Move along the direction; None (and nothing moved) if no step lowers the cost."""
        if not line.slope < 0:
            return None
        step, capped = line.minimizer(TRUST)
        new = self._try(step)
        must_fall = capped or not new <= self.costs[0]
        halvings = 0
        while must_fall and not new < self.cost:
            if halvings == MAX_HALVINGS:
                self._try(0.0)
                return None
            step, halvings = step / 2, halvings + 1
            new = self._try(step)
        self.problem.accept(is_best=new < self.best)
        self.cost, self.best = new, min(new, self.best)
        return {"step": step, "capped": must_fall, "halvings": halvings}

    def _try(self, step: float) -> float:
        self.problem.move(step)
        self.nfev += 1
        return self.problem.direct()

    def state(self) -> NcgState:
        row = self.rows[-1]
        return NcgState(
            len(self.rows), self.cost, row["step"], row["beta"], row["slope"],
            row["grad_norm"], row["capped"], self.problem.base,
        )  # fmt: skip

    def result(self, status: Status) -> NcgResult:
        columns = {
            name: np.array([row[name] for row in self.rows], dtype=dtype)
            for name, dtype in _COLUMNS.items()
        }
        history = NcgHistory(cost=np.array(self.costs), **columns)
        nit = len(self.rows)
        message = {
            Status.SUCCESS: f"{nit} iterations done",
            Status.STOPPED: f"stopped by the callback after {nit} iterations",
            Status.CONVERGED: f"gradient or cost vanished after {nit} iterations at {self.cost:g}",
            Status.NO_DESCENT: f"no step lowers the cost after {nit} iterations",
        }[status]
        _log.debug("ncg: %s", message)
        return NcgResult(self.problem.best, self.best, history, status, message, nit, self.nfev)


_COLUMNS: dict[str, Any] = {
    "step": float,
    "beta": float,
    "slope": float,
    "grad_norm": float,
    "capped": bool,
    "restarted": bool,
    "halvings": int,
}
