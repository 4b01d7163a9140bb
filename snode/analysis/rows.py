"""Rows of the input Jacobian: several vectors a sample through one stored solution.

The rows of all samples go through each layer together, as columns of one product. Nothing is
computed for the parameters of a `StandaloneField`; the linearisation of another field makes, row by
row, a parameter part that is thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from snode.analysis.layers import LayerPass
from snode.backend import Array, array_namespace
from snode.fields.base import Parameters, n_outputs, outputs_jvp, outputs_vjp
from snode.fields.classifier import ClassifierLinearization
from snode.fields.layer import LayerLinearization
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
    field, xp = sol.field, array_namespace(p)
    lam = xp.stack([outputs_vjp(field, sol.x_T, row)[0] for row in p], axis=1)
    for value in rk_adjoint(_StackedReplay(sol), lam, {}):
        lam = value
    return lam.swapaxes(0, 1)


def tangent_rows(sol: OdeSolution, rows: int) -> Array:
    """Return the Jacobian (rows, n, m) by one tangent solve a column."""
    xp, (n, m) = array_namespace(sol.x_T), sol.x_T.shape
    replay = _StackedReplay(sol)
    jacobian = xp.empty((rows, n, m), dtype=sol.x_T.dtype)
    for start in range(0, n, DIRECTIONS):
        count = min(DIRECTIONS, n - start)
        xi = xp.zeros((n, count, m), dtype=sol.x_T.dtype)
        for k in range(count):
            xi[start + k, k] = 1
        for value in rk_tangent(replay, xi, None):
            xi = value
        for k in range(count):
            dz = outputs_jvp(sol.field, sol.x_T, xp.ascontiguousarray(xi[:, k]), {})
            jacobian[:, start + k] = dz[:rows]
    return jacobian


class _StackedReplay(Replay):
    """The linearisations of a solution, acting on stacks (n, r, m): r vectors for each sample."""

    def forwards(self) -> Iterator[tuple[int, tuple[Any, ...]]]:
        for i, lins in super().forwards():
            yield i, tuple(_Stacked(lin, self.field) for lin in lins)

    def backwards(self) -> Iterator[tuple[int, tuple[Any, ...]]]:
        for i, lins in super().backwards():
            yield i, tuple(_Stacked(lin, self.field) for lin in lins)


class _Stacked:
    """The state part of a linearisation; a stack goes through a layer as one product."""

    __slots__ = ("field", "lin")

    def __init__(self, lin: Any, field: Any) -> None:
        self.lin = lin.lin if type(lin) is ClassifierLinearization else lin
        self.field = field

    def jvp(self, dx: Array, dtheta: Parameters | None = None) -> Array:
        """Return f_x dx, (n, r, m)."""
        if type(self.lin) is LayerLinearization:
            return self.lin.slope[:, None, :] * _product(self.lin.W, dx)
        return _each(self.lin.jvp, dx)

    def vjp(self, p: Array, into: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        """Return f_x^T p, (n, r, m); what becomes of `into` does not matter."""
        if type(self.lin) is LayerLinearization:
            return _product(self.lin.W.T, self.lin.slope[:, None, :] * p), into
        if not into:  # what the linearisations of some fields cannot help adding up
            xp, parameters = array_namespace(p), self.field.parameters
            into.update({k: xp.zeros(a.shape, dtype=a.dtype) for k, a in parameters.items()})
        return _each(lambda row: self.lin.vjp(row, into=into)[0], p), into


def _product(A: Array, stack: Array) -> Array:
    return (A @ stack.reshape(len(stack), -1)).reshape(stack.shape)


def _each(function: Callable[[Array], Array], stack: Array) -> Array:
    """Apply a function of (n, m) to every vector of a stack (n, r, m)."""
    xp = array_namespace(stack)
    rows = (xp.ascontiguousarray(stack[:, k]) for k in range(stack.shape[1]))
    return xp.stack([function(row) for row in rows], axis=1)
