"""Frozen result types, the Status they carry, and the errors raised for failed ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from dataclasses import field as entry
from enum import Enum
from typing import Any

from snode.backend import Array

__all__ = [
    "AdjointSolution",
    "IntegrationError",
    "ModelFormatError",
    "NcgHistory",
    "NcgResult",
    "OdeSolution",
    "Status",
    "TrainResult",
]


class Status(Enum):
    """Why a computation ended."""

    SUCCESS = "success"
    STOPPED = "stopped by the callback"
    CONVERGED = "the gradient or the cost vanished"
    NONFINITE_RHS = "the right-hand side or the state is not finite"
    NO_DESCENT = "no step lowers the cost"

    def __repr__(self) -> str:
        return f"Status.{self.name}"


class IntegrationError(ArithmeticError):
    """A solve failed; `.solution` holds what was computed."""

    def __init__(self, solution: OdeSolution) -> None:
        super().__init__(solution.message)
        self.solution = solution


class ModelFormatError(ValueError):
    """A model file is damaged, hostile, or of an unknown kind."""


@dataclass(frozen=True, eq=False)
class OdeSolution:
    """Solution of the direct problem (1).

    Attributes
    ----------
    t : array (K + 1,)
        Depths, float64.
    x : array (K + 1, n, m) or None
        The trajectory, depth first; None with ``keep="last"``. NaN after a failure.
    x_T : array (n, m)
        State at the last depth.
    status : Status
    success : bool
    message : str
    nfev : int
        Evaluations of f.
    field : VectorField
        The field that was solved.
    method : str
    linearizations : tuple or None
        One per step with ``keep="all"``.
    """

    t: Array
    x: Array | None
    x_T: Array
    status: Status
    message: str
    nfev: int
    method: str
    field: Any = entry(repr=False)
    linearizations: tuple[Any, ...] | None = entry(default=None, repr=False)

    @property
    def success(self) -> bool:
        """True only for a finished, finite solution."""
        return self.status is Status.SUCCESS

    def __repr__(self) -> str:
        n, m = self.x_T.shape
        kept = "last state" if self.x is None else "trajectory"
        kept += "" if self.linearizations is None else " and linearisations"
        return (
            f"OdeSolution({self.method}, {len(self.t) - 1} steps to T={self.t[-1]:g}, "
            f"n={n}, m={m}, {kept}, {self.status.name})"
        )


@dataclass(frozen=True, eq=False)
class AdjointSolution:
    """Solution of the adjoint problem (8).

    Attributes
    ----------
    t : array (K + 1,)
    lam : array (K + 1, n, m)
        Adjoint states; ``lam[0]`` is the derivative with respect to x(0).
    partials : dict of str to array
        Euclidean partial derivatives with respect to the parameters, summed over samples.
    """

    t: Array
    lam: Array
    partials: dict[str, Array]

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in self.partials.items())
        return f"AdjointSolution(lam {self.lam.shape}, partials: {shapes})"


@dataclass(frozen=True, eq=False)
class NcgHistory:
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
class NcgResult:
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
class TrainResult:
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
