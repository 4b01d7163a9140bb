"""The linearisations of a stored solution, step by step: stored, or made again on its steps."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from snode.backend import Array, is_on_device
from snode.ode.stages import Checkpoint, Rhs, Stages, Steps
from snode.results import OdeSolution, Status

__all__ = ["Replay", "check_differentiable"]

Linearizations = tuple[Any, ...]


class Replay:
    """Gives the linearisations of every stage of every step, forwards or backwards.

    From a stored trajectory each step is made again by itself; from checkpoints each segment is,
    and only one segment is held at a time. The steps are the accepted ones, so the numbers are
    those of the first time.

    Parameters
    ----------
    sol : OdeSolution

    Raises
    ------
    ValueError
        If the solution failed, ended at an event, or kept neither trajectory nor checkpoints.
    """

    def __init__(self, sol: OdeSolution) -> None:
        steps = sol.steps
        if steps is None:
            raise ValueError("sol must be a solution of solve_direct")
        if sol.status is not Status.SUCCESS or steps.terminal:
            raise ValueError(f"sol must have reached its end; it is {sol.status.name}")
        if steps.linearizations is None and steps.x is None and steps.checkpoints is None:
            raise ValueError('sol must keep its trajectory: solve_direct(..., keep="all")')
        check_differentiable(sol.field)
        self.field, self.steps = sol.field, steps
        self.n_linearized = 0

    @property
    def is_checkpointed(self) -> bool:
        """True if a segment must be computed again before it can be used."""
        return self.steps.linearizations is None and self.steps.x is None

    def forwards(self) -> Iterator[tuple[int, Linearizations]]:
        """Yield ``(i, linearisations of the stages of step i)`` from the first step."""
        for a, b, x in self._segments():
            yield from zip(range(a, b), self._segment(a, b, x), strict=True)

    def backwards(self) -> Iterator[tuple[int, Linearizations]]:
        """Yield the same from the last step."""
        for a, b, x in reversed(self._segments()):
            lins = self._segment(a, b, x)
            for i in range(b - 1, a - 1, -1):
                yield i, lins.pop()  # and forget them

    def last_step(self) -> tuple[Array, Linearizations]:
        """Return the slopes (s, ...) and linearisations of the stages of the last step."""
        a, b, x = self._segments()[-1]
        if self.steps.x is not None:
            a, x = b - 1, self.steps.x[b - 1]
        rhs = Rhs(self.field, x, linearize=True)
        stages = Stages(rhs, self.steps.tableau, x)
        for i in range(a, b):
            rhs.linearizations.clear()
            x = stages.step(self.steps.t, i, x, self.steps.jumps)
        self.n_linearized += rhs.nfev
        return stages.K[: stages.active], tuple(rhs.linearizations)

    def _segments(self) -> list[tuple[int, int, Array]]:
        """Return (first node, last node, state at the first node) of each segment."""
        end = len(self.steps.t) - 1
        if end == 0:
            return []
        if self.steps.linearizations is not None or self.steps.x is not None:
            x = self.steps.x
            return [(i, i + 1, None if x is None else x[i]) for i in range(end)]
        points = [*self.steps.checkpoints, Checkpoint(end, None)]
        return [(a.index, b.index, a.x) for a, b in pairwise(points)]

    def _segment(self, a: int, b: int, x: Array) -> list[Linearizations]:
        steps: Steps = self.steps
        if steps.linearizations is not None:
            return list(steps.linearizations[a:b])
        rhs = Rhs(self.field, x, linearize=True, trusted=is_on_device(x))
        stages = Stages(rhs, steps.tableau, x)
        out = []
        for i in range(a, b):
            x = stages.step(steps.t, i, x, steps.jumps)
            out.append(tuple(rhs.linearizations))
            rhs.linearizations.clear()
        self.n_linearized += rhs.nfev
        return out


def check_differentiable(field: Any) -> None:
    """Raise ValueError unless `field` follows the vector-field contract."""
    if not (hasattr(field, "linearize") and hasattr(field, "parameters")):
        raise ValueError(
            "sol must come from a field with linearize(t, x) and parameters; wrap a plain function "
            "in snode.FunctionField"
        )
