r"""The sensitivity and adjoint problems solved with steps of their own, on the dense trajectory.

Along the stored solution x(t) they are linear initial value problems,

.. math:: \xi' = f_x \xi + f_\theta \dot\theta, \qquad
          -\lambda' = f_x^T \lambda, \qquad
          \frac{dE}{d\theta} = \int_{t_0}^{T} f_\theta^T \lambda\, dt .

The state is never integrated backwards. The integral is a quadrature with the stages of the
accepted steps of lambda; it takes no part in the step control.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from snode.backend import Array, array_namespace
from snode.ode.adaptive import solve_adaptive
from snode.ode.control import StepControl
from snode.ode.tableaus import ADAPTIVE
from snode.partials import Partials
from snode.results import IntegrationError, OdeSolution, Status

__all__ = ["continuous_adjoint", "continuous_tangent"]

METHOD = "ode45"


class _Along:
    """The linearisations of a field along the dense output of a solution."""

    def __init__(self, sol: OdeSolution) -> None:
        if sol.steps is None or sol.steps.dense is None:
            raise ValueError(
                "sol must have dense output for mode='continuous': "
                "solve_direct(..., dense_output=True)"
            )
        if sol.status is not Status.SUCCESS or sol.steps.terminal:
            raise ValueError(f"sol must have reached its end; it is {sol.status.name}")
        self.field, self.dense = sol.field, sol.steps.dense

    def linearize(self, t: float) -> Any:
        return self.field.linearize(t, self.dense(t))[1]


def continuous_tangent(
    sol: OdeSolution, dx0: Array, dtheta: Mapping[str, Array] | None, control: StepControl
) -> Array:
    """Return xi (N + 1, ...) at the nodes of `sol`."""
    along, steps = _Along(sol), sol.steps
    t0, t1 = float(steps.t[0]), float(steps.t[-1])

    def f(t: float, xi: Array) -> Array:
        return along.linearize(t).jvp(xi, dtheta)

    size = float(abs(dx0).max()) + abs(t1 - t0) * float(abs(f(t0, dx0)).max())
    tangent = solve_adaptive(
        f, METHOD, t0, t1, dx0, _scaled(control, size),
        stops=_nodes(sol.field), jumps=tuple(steps.jumps), t_eval=steps.t,
    )  # fmt: skip
    if not tangent.success:
        raise IntegrationError(tangent)
    xi = tangent.x
    assert xi is not None
    xi[-1] = tangent.x_T
    return xi


def continuous_adjoint(
    sol: OdeSolution, lam_T: Array, partials: Partials, control: StepControl
) -> tuple[Array, int, int]:
    """Return lam (N + 1, ...) at the nodes of `sol`, and the number of linearisations and products.

    The products of the quadrature come on top of one for each linearisation.
    """
    along, steps = _Along(sol), sol.steps
    t0, t1 = float(steps.t[0]), float(steps.t[-1])
    adjoint = solve_adaptive(
        _Pull(along), METHOD, t1, t0, lam_T,
        _scaled(control, float(abs(lam_T).max())),
        stops=_nodes(sol.field), jumps=tuple(steps.jumps), t_eval=steps.t[::-1], keep="all",
    )  # fmt: skip
    if not adjoint.success:
        raise IntegrationError(adjoint)
    b, nodes, products = ADAPTIVE[METHOD].numbers().b, adjoint.steps.t, adjoint.nfev
    for i, stages in enumerate(adjoint.steps.linearizations):
        h = float(nodes[i] - nodes[i + 1])  # positive where the solve went backwards
        for weight, (lin, lam) in zip(b[: len(stages)], stages, strict=True):
            if weight:
                lin.vjp(lam, partials.times(h * float(weight)))
                products += 1
    lam = adjoint.x
    assert lam is not None
    lam[-1] = adjoint.x_T
    return array_namespace(lam).ascontiguousarray(lam[::-1]), adjoint.nfev, products


def _nodes(field: Any) -> tuple[float, ...]:
    """Return where the basis functions of depth have kinks: the quadrature must not cross them."""
    return tuple(float(t) for t in field.grid) if getattr(field, "depth_basis", None) else ()


class _Pull:
    """The right-hand side -f_x^T lam; its "linearisation" is what the quadrature needs."""

    def __init__(self, along: _Along) -> None:
        self.along = along

    def __call__(self, t: float, lam: Array) -> Array:
        return self.linearize(t, lam)[0]

    def linearize(self, t: float, lam: Array) -> tuple[Array, tuple[Any, Array]]:
        """Return -f_x^T lam and what the quadrature needs."""
        lin = self.along.linearize(t)
        return -lin.vjp(lam), (lin, lam)


def _scaled(control: StepControl, size: float) -> StepControl:
    """The problem is linear: its absolute tolerance is relative to the size of its data."""
    return replace(control, atol=control.atol * size) if size > 0 else control
