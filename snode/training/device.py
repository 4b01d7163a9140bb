r"""Training on a device: one wait for it in each iteration, and one kernel for what is elementwise.

Equal to `FieldProblem` to rounding (a test says so). A device works through a queue that the host
fills, and whoever reads a number waits until the queue is empty. The iteration reads the cost, then
the inner products of the gradients, then the line model; but what each of them decides is nearly
always known before: the step is accepted, and the direction descends. So with the direct problem of
a step everything up to the next step length is asked for, and read together. Where the decision is
another one, the numbers are computed again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from snode.backend import Array, array_namespace, fuse, to_host_together
from snode.fields.activations import Activation, get_activation
from snode.fields.layer import StandaloneField
from snode.results import OdeSolution
from snode.training.costs import LineModel
from snode.training.gradients import EULER, Dots, FieldProblem

__all__ = ["DeviceProblem", "EulerSweeps"]

LAYERS_PER_BLOCK = 16
"""Layers whose gradient is one product of stacked matrices."""

STACKED_SAMPLES = 1024
"""Up to here products are stacked: the transpose is copied for it, but there is one call."""


@dataclass(frozen=True, eq=False)
class Ahead:
    """What was computed beyond a direct problem: gradient, direction and line model there."""

    g: dict[str, Array]
    dots: Dots
    beta: float
    d: dict[str, Array]
    line: LineModel


class DeviceProblem(FieldProblem):
    """`FieldProblem` on a device; see there for the meaning of the methods.

    With step control (ode23, ode45) every step waits for its error estimate.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.beta: Callable[[Dots, Any], Any] | None = None
        self.memory: Any = None
        self.sweeps: EulerSweeps | None = None
        super().__init__(*arguments, **options)

    def set_data(self, field: Any, x: Array, y: Array) -> None:
        """Start again from `field` on other data; the direction stays."""
        super().set_data(field, x, y)
        self.x = array_namespace(x).ascontiguousarray(x)
        self.pending: Ahead | None = None
        self.current: Ahead | None = None
        self.model: LineModel | None = None
        applies = EulerSweeps.applies_to(field) and self.solver == EULER
        self.sweeps = (self.sweeps or EulerSweeps()) if applies else None

    def expect(self, beta: Callable[[Dots, Any], Any] | None, memory: Any = None) -> None:
        """Say how the next conjugate coefficient is computed; None: no iteration follows."""
        self.beta = beta
        self.memory = self.memory if memory is None else replace(memory)

    def solve(self) -> Any:
        """Return the solution of the direct problem; whether it is finite, the cost tells."""
        if self.sweeps is None:
            return self.solver.solve_trusted(self.trial, self.x)
        self.sweeps.solve(self.trial, self.x)
        return self.sweeps

    def direct(self) -> float:
        """Solve the direct problem and return the cost, having looked ahead."""
        self.pending = self.current = self.model = None
        cost = self.cost_number()
        if self.beta is None or (isinstance(self.sol, OdeSolution) and not self.sol.success):
            return float(cost)
        g, dots = self.gradient_numbers()
        beta = self.beta(Dots(*dots), self.memory)
        d = self.direction(beta, g)
        value, gg, g_old, gd, beta, *line = to_host_together(
            cost, *dots, beta, *self.line_numbers(d)
        )
        seen = Dots(float(gg), float(g_old), float(gd))
        self.pending = Ahead(g, seen, float(beta), d, self.terminal_cost.line_model(line))
        return float(value)

    def gradient(self) -> Dots:
        """Return the inner products of the gradient, which becomes the current one."""
        self.current, self.pending = self.pending, None
        if self.current is None:
            dots = super().gradient()
        else:
            self.g, dots = self.current.g, self.current.dots
        if self.memory is not None:
            self.memory.gg_old = dots.gg
        return dots

    def set_direction(self, beta: float) -> None:
        """Set d = -g + beta d."""
        ahead, self.model = self.current, None
        if ahead is None or not math.isclose(beta, ahead.beta, rel_tol=1e-9):
            super().set_direction(beta)
        else:
            self.d, self.model = ahead.d, ahead.line

    def line(self) -> LineModel:
        """Return the model of the cost along d."""
        model = super().line() if self.model is None else self.model
        if self.memory is not None:
            self.memory.gd_old = model.slope
        return model


# --- the sweeps of explicit Euler -----------------------------------------------------------------


class EulerSweeps:
    """The three problems of a `StandaloneField` by Euler on its own grid; memory is used again.

    What `solve` leaves here is overwritten by the next `solve`. Works on any arrays; made for a
    device.
    """

    @staticmethod
    def applies_to(field: Any) -> bool:
        """True for a plain `StandaloneField`."""
        return type(field) is StandaloneField

    def __init__(self) -> None:
        self.field: Any = None
        self.x = self.slope = np.empty((0, 0, 0))

    @property
    def x_T(self) -> Array:
        """The final states (n, m)."""
        return self.x[-1]

    def solve(self, field: StandaloneField, x0: Array) -> None:
        """Solve the direct problem; keep the states and the slopes of sigma."""
        xp, K = array_namespace(x0), field.n_layers
        if self.slope.shape != (K, *x0.shape) or self.field.dtype != field.dtype:
            self.x = xp.empty((K + 1, *x0.shape), dtype=x0.dtype)
            self.slope = xp.empty((K, *x0.shape), dtype=x0.dtype)
            self.u, self.v = xp.empty_like(x0), xp.empty_like(x0)
            self.q = xp.empty((min(LAYERS_PER_BLOCK, K), *x0.shape), dtype=x0.dtype)
        self.field, self.h = field, field.T / K
        self.x[0] = x0
        step, W, b = step_of(field.activation), field.W, field.b
        for k in range(K):
            xp.dot(W[k], self.x[k], out=self.u)
            step(self.u, b[k][:, None], self.h, self.x[k], self.x[k + 1], self.slope[k])

    def pull_back(self, lam_T: Array) -> dict[str, Array]:
        """Solve the adjoint problem; return the partial derivatives of the parameters."""
        field, xp = self.field, array_namespace(lam_T)
        K, W, lam = field.n_layers, field.W, lam_T.copy()
        gW, gb = xp.empty_like(field.W), xp.empty_like(field.b)
        gW[K:], gb[K:] = 0, 0  # the last node of a nodal basis: no Euler step reads it
        self.u.fill(0)
        for stop in range(K, 0, -LAYERS_PER_BLOCK):
            start = max(0, stop - LAYERS_PER_BLOCK)
            for k in reversed(range(start, stop)):
                q = self.q[k - start]
                adjoint_step(self.h, self.u, lam, self.slope[k], q)
                xp.dot(W[k].T, q, out=self.u)
            q = self.q[: stop - start]
            _products(q, self.x[start:stop], gW[start:stop])
            gb[start:stop] = q.sum(axis=2)
        gW *= self.h
        gb *= self.h
        return {"W": gW, "b": gb}

    def tangent(self, direction: Any) -> Array:
        """Solve the sensitivity problem along a direction of the parameters; return xi(T)."""
        W, dW, db = self.field.W, direction["W"], direction["b"]
        xp = array_namespace(dW)
        xi = xp.zeros_like(self.u)
        for k in range(self.field.n_layers):
            xp.dot(W[k], xi, out=self.u)
            xp.dot(dW[k], self.x[k], out=self.v)
            tangent_step(self.h, self.u, self.v, db[k][:, None], self.slope[k], xi)
        return xi


def _products(q: Array, x: Array, out: Array) -> None:
    """Write q[k] x[k]^T of some layers to `out`."""
    xp = array_namespace(q)
    if x.shape[2] <= STACKED_SAMPLES:
        xp.matmul(q, x.swapaxes(1, 2), out=out)
        return
    for k in range(len(q)):
        xp.dot(q[k], x[k].T, out=out[k])


@fuse
def adjoint_step(h: float, u: Array, lam: Array, slope: Array, q: Array) -> None:
    """Add h u to lam, and write sigma' * lam to q."""
    lam += h * u
    q[...] = slope * lam


@fuse
def tangent_step(h: float, u: Array, v: Array, db: Array, slope: Array, xi: Array) -> None:
    """Add h sigma' * (u + v + db) to xi."""
    xi += h * (slope * (u + v + db))


def step_of(activation: Activation) -> Callable[..., None]:
    """Return step(a, b, h, x, x_next, slope): the elementwise part of an Euler step.

    It writes x + h sigma(a + b) and sigma'(a + b); one kernel for the built-in activations.
    """
    if activation.fusable:
        return _fused_step(activation.name, tuple(activation.params.items()))
    return _plain_step(activation)


@lru_cache(maxsize=64)
def _fused_step(name: str, params: tuple[tuple[str, float], ...]) -> Callable[..., None]:
    return fuse(_plain_step(get_activation(name, **dict(params))))


def _plain_step(activation: Activation) -> Callable[..., None]:
    def step(a: Array, b: Array, h: float, x: Array, x_next: Array, slope: Array) -> None:
        s, ds = activation.both(a + b)
        x_next[...] = x + h * s
        slope[...] = ds

    return step
