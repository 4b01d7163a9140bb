"""One direct solve, a block of samples at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from snode.backend import Array, array_namespace
from snode.ode.fixed import solve_fixed
from snode.ode.problems import Solver
from snode.ode.stages import Steps
from snode.ode.tableaus import ADAPTIVE
from snode.results import IntegrationError, OdeSolution

__all__ = ["check_positive", "join_blocks", "solve_blocks", "solve_on"]

BLOCK = 200
"""Samples at once: their linearisations are what takes memory."""


def solve_blocks(
    field: Any, x: Array, solver: Solver, block: int
) -> Iterator[tuple[slice, OdeSolution]]:
    """Yield the samples of each block and their solution, all blocks on the same steps."""
    m, xp = x.shape[1], array_namespace(x)
    steps = None
    if solver.method in ADAPTIVE and m > block:  # what step control chooses for all of them
        steps = solver.solve(field, x, keep="last").steps
    for start in range(0, m, block):
        part = slice(start, min(start + block, m))
        columns = xp.ascontiguousarray(x[:, part])
        if steps is None:
            yield part, solver.solve(field, columns)
        else:
            yield part, solve_on(steps, field, columns, checkpoints=solver.checkpoints)


def solve_on(
    steps: Steps, field: Any, x0: Array, *, keep: str = "all",
    checkpoints: int | str | None = None,
) -> OdeSolution:  # fmt: skip
    """Solve on the steps of another solution."""
    sol = solve_fixed(
        field, steps.tableau, steps.t, x0, tuple(steps.jumps), keep=keep, checkpoints=checkpoints
    )
    if not sol.success:
        raise IntegrationError(sol)
    return sol


def join_blocks(parts: list[tuple[Array, ...]]) -> list[Array]:
    """Join the results of the blocks along the samples, the last axis."""
    return [array_namespace(*a).concatenate(a, axis=-1) for a in zip(*parts, strict=True)]


def check_positive(name: str, value: Any) -> int:
    """Return a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be a positive integer; got {value!r}")
    return int(value)
