"""How the direct problem is solved, as an option of training and prediction."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from snode.backend import Array
from snode.ode.arguments import check_choice, check_grid
from snode.ode.control import MAX_STEPS, StepControl, check_control
from snode.ode.fixed import solve_fixed, thinned
from snode.ode.tableaus import ADAPTIVE, TABLEAUS
from snode.results import OdeSolution

__all__ = ["Solver", "as_solver"]


@dataclass(frozen=True)
class Solver:
    """How the direct problem is solved: an option of `gradient`, `ncg`, `train`, `predict`.

    Parameters
    ----------
    method : str, optional
        As for `solve_direct`.
    rtol, atol : float, optional
        Tolerances of "ode23" and "ode45".
    max_step, max_steps : float, optional
    checkpoints : int or "auto", optional
        As for `solve_direct`.

    Examples
    --------
    >>> import snode
    >>> snode.Solver("ode45", rtol=1e-6)
    Solver(method='ode45', rtol=1e-06, atol=1e-06, max_step=inf, max_steps=10000, checkpoints=None)
    """

    method: str = "euler"
    rtol: float = 1e-3
    atol: float = 1e-6
    max_step: float = inf
    max_steps: float = MAX_STEPS
    checkpoints: int | str | None = None

    def __post_init__(self) -> None:
        check_choice("method", self.method, (*TABLEAUS, *ADAPTIVE))
        control = StepControl(self.rtol, self.atol, None, self.max_step, self.max_steps)
        control.check(np.zeros(1))
        check_control(self.method, control)
        thinned(self.checkpoints, np.zeros(1), TABLEAUS["euler"])

    def solve(
        self, field: Any, x0: Array, *, keep: str = "all", raise_on_failure: bool = True
    ) -> OdeSolution:
        """Solve the direct problem; `checkpoints` only where derivatives are wanted."""
        from snode.ode.problems import solve_direct

        return solve_direct(
            field, x0, method=self.method, rtol=self.rtol, atol=self.atol,
            max_step=self.max_step, max_steps=self.max_steps, keep=keep,
            checkpoints=self.checkpoints if keep == "all" else None,
            raise_on_failure=raise_on_failure,
        )  # fmt: skip

    def solve_trusted(self, field: Any, x0: Array) -> OdeSolution:
        """Solve the direct problem for checked data; with fixed steps nothing is looked at.

        So the host does not wait for a device; see `solve_fixed`.
        """
        if self.method in ADAPTIVE:
            return self.solve(field, x0, raise_on_failure=False)
        return solve_fixed(
            field, TABLEAUS[self.method], check_grid(field, None), x0, field.breakpoints,
            keep="all", checkpoints=self.checkpoints, trusted=True,
        )  # fmt: skip


def as_solver(solver: str | Solver) -> Solver:
    """Return a `Solver` from itself or the name of a method."""
    if isinstance(solver, str):
        return Solver(solver)
    if not isinstance(solver, Solver):
        raise TypeError(f"solver must be the name of a method or a Solver; got {solver!r}")
    return solver
