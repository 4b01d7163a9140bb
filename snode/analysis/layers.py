r"""The fast path of the attacks: `StandaloneField` by Euler on its own grid, NumPy arrays.

Equal to a stored solution and its adjoint to rounding (a test says so); what differs is speed and
memory. Only h sigma'(W x + b) of each layer is kept, in memory that is used again, and a layer back
is one product and two passes over the numbers, for several vectors a sample at once:

.. math:: \lambda \leftarrow \lambda + W^T (h \sigma' * \lambda) .
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from snode.backend import Array
from snode.fields.activations import Activation
from snode.fields.layer import StandaloneField
from snode.ode.problems import Solver

__all__ = ["LayerPass"]

SAMPLES_PER_PART = 500
"""Samples that go through all layers together: more would not fit the cache."""


class LayerPass:
    """Forwards and back through the layers of a field.

    Attributes
    ----------
    field : StandaloneField
    x_T : array (n, m)
        Of the last `solve`.
    """

    @staticmethod
    def applies_to(field: Any, x: Array, solver: Solver) -> bool:
        """True for Euler on a plain `StandaloneField` that is constant on cells, NumPy arrays."""
        return (
            type(field) is StandaloneField
            and field.interpolation == "constant"
            and type(x) is np.ndarray
            and solver.method == "euler"
            and solver.checkpoints is None
        )

    def __init__(self, field: StandaloneField) -> None:
        self.field = field
        self._steps = np.diff(field.grid).astype(field.dtype)
        self._memory = np.empty(0, field.dtype)

    def solve(self, x: Array) -> bool:
        """Solve the direct problem from x (n, m); return False if x_T is not finite."""
        n, m = x.shape
        bounds = np.linspace(0, m, -(-m // SAMPLES_PER_PART) + 1).astype(int)
        self._parts = [slice(a, b) for a, b in pairwise(bounds)]
        per_sample = len(self._steps) * n
        if self._memory.size < per_sample * m:
            self._memory = np.empty(per_sample * m, self.field.dtype)
        self._slopes = [
            self._memory[per_sample * a : per_sample * b].reshape(-1, n, b - a)
            for a, b in pairwise(bounds)
        ]
        self.x_T = x.copy()
        self._each_part(self._direct)
        return bool(np.isfinite(self.x_T).all())

    def pull_back(self, p: Array) -> Array:
        """Return p . dx(T)/dx(0) for r vectors of each sample, (r, n, m)."""
        out = np.empty_like(p)
        self._each_part(lambda j: self._adjoint(j, p, out))
        return out

    def _each_part(self, task: Callable[[int], None]) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite shows in the result
            for j in range(len(self._parts)):
                task(j)

    def _direct(self, j: int) -> None:
        field, part = self.field, self._parts[j]
        x = np.ascontiguousarray(self.x_T[:, part])
        a = np.empty_like(x)
        for W, b, h, slope in zip(field.W, field.b, self._steps, self._slopes[j], strict=True):
            np.matmul(W, x, out=a)
            a += b[:, None]
            _activate(field.activation, a, h, slope)
            x += a
        self.x_T[:, part] = x

    def _adjoint(self, j: int, p: Array, out: Array) -> None:
        part = self._parts[j]
        lam = np.ascontiguousarray(p[:, :, part].swapaxes(0, 1))  # (n, r, b): one product a layer
        n, q, u = len(lam), np.empty_like(lam), np.empty_like(lam)
        for W, slope in zip(self.field.W[::-1], self._slopes[j][::-1], strict=True):
            np.multiply(slope[:, None], lam, out=q)
            np.matmul(W.T, q.reshape(n, -1), out=u.reshape(n, -1))
            lam += u
        out[:, :, part] = lam.swapaxes(0, 1)


def _activate(activation: Activation, a: Array, h: Any, slope: Array) -> None:
    """Write h sigma(a) over a, and h sigma'(a) to `slope`."""
    if activation.kernel == "leaky":  # (leaky) ReLU is its slope times a
        alpha = activation.params.get("alpha", 0.0)
        np.greater(a, 0, out=slope, casting="unsafe")  # 0 or 1
        slope *= h * (1 - alpha)
        if alpha:
            slope += h * alpha
        a *= slope  # NaN for 0 * inf: the caller then takes the slow path
    else:
        value, derivative = activation.both(a)
        np.multiply(derivative, h, out=slope)
        np.multiply(value, h, out=a)
