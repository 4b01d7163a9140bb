"""Rows of the input Jacobian: several vectors a sample through one stored solution.

The vectors of all samples go through each linearisation together; nothing is computed for the
parameters.
"""

from __future__ import annotations

from snode.analysis.layers import LayerPass
from snode.backend import Array, array_namespace
from snode.fields.base import n_outputs, outputs_jvp, outputs_vjp
from snode.ode.adjoint import rk_adjoint
from snode.ode.replay import Replay
from snode.ode.tangent import rk_tangent
from snode.results import OdeSolution

__all__ = ["adjoint_rows", "pull_back", "tangent_rows"]

DIRECTIONS = 32
"""Tangent directions at once."""


def adjoint_rows(sol: OdeSolution | LayerPass, rows: int) -> Array:
    """Return the Jacobian (rows, n, m) by one adjoint solve a row."""
    xp = array_namespace(sol.x_T)
    p = xp.zeros((rows, n_outputs(sol.field), sol.x_T.shape[1]), dtype=sol.x_T.dtype)
    for i in range(rows):
        p[i, i] = 1
    return pull_back(sol, p)


def pull_back(sol: OdeSolution | LayerPass, p: Array) -> Array:
    """Return p . dz/dx0, (r, n, m), for r weights of the outputs of each sample, (r, C, m)."""
    if isinstance(sol, LayerPass):
        return sol.pull_back(p)
    lam = outputs_vjp(sol.field, sol.x_T, p)
    for value in rk_adjoint(Replay(sol), lam):
        lam = value
    return lam


def tangent_rows(sol: OdeSolution, rows: int) -> Array:
    """Return the Jacobian (rows, n, m) by one tangent solve a column."""
    xp, (n, m) = array_namespace(sol.x_T), sol.x_T.shape
    replay = Replay(sol)
    jacobian = xp.empty((rows, n, m), dtype=sol.x_T.dtype)
    for start in range(0, n, DIRECTIONS):
        count = min(DIRECTIONS, n - start)
        xi = xp.zeros((count, n, m), dtype=sol.x_T.dtype)
        for k in range(count):
            xi[k, start + k] = 1
        for value in rk_tangent(replay, xi, None):
            xi = value
        dz = outputs_jvp(sol.field, sol.x_T, xi)
        jacobian[:, start : start + count] = dz[:, :rows].swapaxes(0, 1)
    return jacobian
