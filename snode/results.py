"""Frozen result types, the Status they carry, and the errors raised for failed ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from dataclasses import field as entry
from enum import Enum
from typing import Any, ClassVar, NoReturn

from snode.backend import Array, array_namespace, own_error_state
from snode.copying import LostFunction, Portable, is_importable, left_behind

__all__ = [
    "AdjointSolution",
    "IntegrationError",
    "ModelFormatError",
    "NcgHistory",
    "NcgResult",
    "OdeSolution",
    "Status",
    "TrainResult",
    "TrainingWarning",
]


class Status(Enum):
    """Why a computation ended."""

    SUCCESS = "success"
    STOPPED = "stopped by the callback"
    EVENT = "a terminal event occurred"
    CONVERGED = "the gradient or the cost vanished"
    NONFINITE_RHS = "the right-hand side or the state is not finite"
    BLOW_UP = "the solution grows beyond all bounds"
    STEP_UNDERFLOW = "the step became too small for the depth to change"
    MAX_STEPS = "too many steps"
    NO_DESCENT = "no step lowers the cost"
    MAX_NODES = "the node limit was reached"

    def __repr__(self) -> str:
        return f"Status.{self.name}"


class IntegrationError(ArithmeticError):
    """A solve failed; `.solution` holds what was computed."""

    def __init__(self, solution: OdeSolution) -> None:
        super().__init__(solution.message)
        self.solution = solution

    def __reduce__(self) -> tuple[Any, ...]:
        # by itself, an exception is built again from its message
        rest = {name: value for name, value in vars(self).items() if name != "solution"}
        return type(self), (self.solution,), rest


class ModelFormatError(ValueError):
    """A model file is damaged, hostile, or of an unknown kind."""


class TrainingWarning(UserWarning):
    """Training goes on, but something says that it will not come to what it is meant for."""


class Result(Portable):
    """One result with named parts; whoever unpacks it as MATLAB's outputs is told their names."""

    parts: ClassVar[str]

    def __iter__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} is one result and cannot be unpacked; use {self.parts}"
        )


@dataclass(frozen=True, eq=False)
class OdeSolution(Result):
    """Solution of an initial value problem, the direct problem (1) among them.

    x has the shape of the initial state: ``(n,)``, or ``(n, m)`` with one column a sample.

    Attributes
    ----------
    t : array (K + 1,)
        Depths, float64: the grid, the accepted steps, or `t_eval`.
    x : array (K + 1, n, m) or None
        The trajectory, depth first; None with ``keep="last"`` or checkpoints. NaN after a failure.
    x_T : array (n, m)
        State at the last depth; NaN after a failure.
    status : Status
    success : bool
    message : str
    nfev : int
        Evaluations of f (with its linearisation, where that was kept).
    method : str
    field : VectorField or callable
        What was solved.
    n_accepted, n_rejected : int
        Steps.
    n_linearized : int
        Linearisations that were kept track of on the way.
    linearizations : tuple of tuple or None
        One tuple per step, with one entry per stage, for ``keep="all"``.
    t_events, x_events : tuple of array or None
        Depths (k,) and states (k, n, m) of the zeros of each event function; with
        ``batch="independent"`` in `columns`.
    columns : tuple of OdeSolution or None
        The solutions of the single samples, with ``batch="independent"``.
    """

    parts: ClassVar[str] = "sol.t, sol.x"

    t: Array
    x: Array | None
    x_T: Array
    status: Status
    message: str
    nfev: int
    method: str
    field: Any = entry(repr=False)
    linearizations: tuple[Any, ...] | None = entry(default=None, repr=False)
    n_accepted: int = 0
    n_rejected: int = 0
    n_linearized: int = 0
    t_events: tuple[Array, ...] | None = None
    x_events: tuple[Array, ...] | None = None
    columns: tuple[OdeSolution, ...] | None = entry(default=None, repr=False)
    steps: Any = entry(default=None, repr=False)  # what derivatives and dense output need

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if not is_importable(self.field):  # another process gets the numbers without f
            name = getattr(self.field, "__qualname__", type(self.field).__name__)
            state["field"] = left_behind(self.field, LostFunction(f"the right-hand side {name}"))
            state["linearizations"] = left_behind(self.linearizations)
            if self.steps is not None:
                state["steps"] = left_behind(self.steps, replace(self.steps, linearizations=None))
        return state

    @property
    def success(self) -> bool:
        """True only for a finite solution that ended as asked."""
        return self.status in (Status.SUCCESS, Status.EVENT, Status.STOPPED)

    @own_error_state
    def __call__(self, t: Any) -> Array:
        """Return x at any depths of the interval, from the dense output.

        Parameters
        ----------
        t : float or array (k,)

        Returns
        -------
        array (n, m) or (k, n, m)

        Raises
        ------
        ValueError
            If the solution has no dense output, or a depth is outside of the interval that was
            solved.
        """
        if self.columns is not None:
            xp = array_namespace(self.x_T)
            return xp.concatenate([column(t) for column in self.columns], axis=-1)
        dense = None if self.steps is None else self.steps.dense
        if dense is None:
            raise ValueError("the solution has no dense output; solve with dense_output=True")
        return dense(t)

    def __repr__(self) -> str:
        n, *m = self.x_T.shape
        kept = ["last state" if self.x is None else "trajectory"]
        if self.columns is not None:
            kept = ["independent samples"]
        if self.linearizations is not None:
            kept.append("linearisations")
        if self.steps is not None and self.steps.checkpoints is not None:
            kept.append(f"{len(self.steps.checkpoints)} checkpoints")
        if self.steps is not None and self.steps.dense is not None:
            kept.append("dense output")
        ends = [sol.steps.t[-1] if sol.steps is not None else self.t[-1]
                for sol in self.columns or (self,)]  # fmt: skip
        end = f"{min(ends):g}" + (f"..{max(ends):g}" if max(ends) > min(ends) else "")
        rejected = f" ({self.n_rejected} rejected)" if self.n_rejected else ""
        size = f"n={n}" + "".join(f", m={size}" for size in m)
        return (
            f"OdeSolution({self.method}, {self.n_accepted} steps{rejected} to T={end}, "
            f"{size}, {' and '.join(kept)}, {self.status.name})"
        )


@dataclass(frozen=True, eq=False)
class AdjointSolution(Result):
    """Solution of the adjoint problem (8).

    Attributes
    ----------
    t : array (K + 1,)
        Depths of `lam`; the two ends only where the solution was checkpointed.
    lam : array (K + 1, n, m)
        Adjoint states; ``lam[0]`` is the derivative with respect to x(0).
    partials : dict of str to array
        Euclidean partial derivatives with respect to the parameters, summed over samples.
    n_linearized : int
        Linearisations made for this solve: 0 if all were stored.
    nvjp : int
        Products with transposed Jacobians.
    """

    parts: ClassVar[str] = "adj.t, adj.lam, adj.partials"

    t: Array
    lam: Array
    partials: dict[str, Array]
    n_linearized: int = 0
    nvjp: int = 0
    end_time_function: Callable[[], float] | None = entry(default=None, repr=False)

    @property
    def end_time(self) -> float:
        """Derivative with respect to the end time T; see `snode.end_time_derivative`."""
        if self.end_time_function is None:
            raise ValueError("the end time derivative is not known for this solution")
        return self.end_time_function()

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in self.partials.items())
        return f"AdjointSolution(lam {self.lam.shape}, partials: {shapes})"


@dataclass(frozen=True, eq=False)
class NcgHistory(Portable):
    """What happened in each NCG iteration; arrays of length nit, `cost` has nit + 1 entries.

    Attributes
    ----------
    cost : array (nit + 1,)
        Cost before the first and after each iteration.
    step : array
        Step lengths eta.
    beta : array
        Conjugate coefficients (gamma in the notation of the docs); 0 after a restart.
    slope : array
        phi(0) = <E', d>, the derivative of the cost along the direction.
    grad_norm : array
        Norm of the gradient in the chosen inner product.
    capped : array of bool
        The step was limited or cut, and accepted only because the true cost fell.
    restarted : array of bool
        The direction was reset to steepest descent because it did not descend.
    halvings : array of int
        How often the step was halved.
    """

    cost: Array
    step: Array
    beta: Array
    slope: Array
    grad_norm: Array
    capped: Array
    restarted: Array
    halvings: Array


@dataclass(frozen=True, eq=False)
class NcgResult(Result):
    """Result of `snode.ncg`.

    Attributes
    ----------
    field : VectorField
        The best iterate (lowest cost), not necessarily the last.
    fun : float
        Its cost.
    history : NcgHistory
    status, message, nit, nfev
        `nfev` counts direct solves.
    """

    parts: ClassVar[str] = "result.field, result.fun, result.history"

    field: Any
    fun: float
    history: NcgHistory
    status: Status
    message: str
    nit: int
    nfev: int

    @property
    def success(self) -> bool:
        """True if the iteration ended as asked and the cost is finite."""
        return self.status in (Status.SUCCESS, Status.STOPPED, Status.CONVERGED)

    def __repr__(self) -> str:
        h = self.history
        return (
            f"NcgResult(fun={self.fun:.6g} (started at {h.cost[0]:.6g}), nit={self.nit}, "
            f"nfev={self.nfev}, capped={int(h.capped.sum())}, restarts={int(h.restarted.sum())}, "
            f"{self.status.name}: {self.message})"
        )


@dataclass(frozen=True, eq=False)
class TrainResult(Result):
    """Result of `snode.train`.

    Attributes
    ----------
    field : VectorField
        The trained field.
    history : dict of str to array
        One entry per minibatch: ``epoch``, ``cost`` (of the batch, before its first iteration),
        ``cost_after``, ``step`` (last), ``grad_norm`` (first), ``capped``, ``restarted``.
    evaluations : dict of str to array
        One entry per evaluation: ``epoch``, ``train_accuracy``, ``test_accuracy`` (NaN without
        test data).
    status, message, n_batches, epochs
    """

    parts: ClassVar[str] = "result.field, result.history"

    field: Any
    history: dict[str, Array]
    evaluations: dict[str, Array]
    status: Status
    message: str
    n_batches: int
    epochs: float

    @property
    def success(self) -> bool:
        """True if training ended as asked."""
        return self.status in (Status.SUCCESS, Status.STOPPED)

    def __repr__(self) -> str:
        last = ""
        for name in ("train", "test"):
            scores = self.evaluations[f"{name}_accuracy"]
            if len(scores) and math.isfinite(scores[-1]):
                last += f", {name} accuracy {scores[-1]:.4f}"
        return (
            f"TrainResult({self.n_batches} batches, {self.epochs:g} epochs{last}, "
            f"{self.status.name}: {self.message})"
        )
