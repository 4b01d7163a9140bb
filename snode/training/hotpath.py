"""The CPU hot path of NCG: `StandaloneField` by Euler on its own grid, NumPy arrays.

Equal to `FieldProblem` to rounding (a test says so); what differs is speed and memory:

- the samples are split among threads, each with single-threaded BLAS: two threads inside every
  small product wait for each other, two threads on halves of the batch do not;
- the gradient products are shared out by layer after a block of adjoint steps, so no sums are
  reduced across threads;
- elementwise work is one Numba pass over a layer, nothing is allocated inside an iteration;
- the parameters live in at most three buffers (best, current, trial), the gradient becomes the
  Riesz representative in place.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from snode.backend import Array, single_threaded_blas
from snode.fields.activations import Activation
from snode.fields.depth import Gram
from snode.fields.layer import StandaloneField
from snode.training.costs import Cost, LineModel, parameter_line
from snode.training.gradients import Dots, check_data
from snode.training.innerproducts import InnerProduct, as_inner_product

__all__ = ["EulerProblem", "Workspace"]

LAYERS_PER_BLOCK = 50
"""Adjoint steps between two rounds of gradient products."""

COLUMNS_PER_BLOCK = 256
"""Entries of W solved for at once in the Riesz map; K of these fit the cache."""

MIN_SAMPLES_PER_THREAD = 16

MIN_ENTRIES_TO_SHARE = 100_000
"""Vector operations on fewer entries are done before a second thread wakes up."""


class Workspace:
    """Buffers and threads that outlive one minibatch."""

    def __init__(self, threads: int | None = None) -> None:
        self.threads = check_threads(threads)
        self.pool = ThreadPoolExecutor(self.threads - 1) if self.threads > 1 else None
        self._buffers: dict[Any, Array] = {}

    def buffer(self, name: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return an array of this name, made anew only when shape or dtype change."""
        array = self._buffers.get(name)
        if array is None or array.shape != shape or array.dtype != dtype:
            self._buffers.pop(name, None)  # freed before its successor is made
            array = self._buffers[name] = np.empty(shape, dtype)
        return array

    def parallel(self, task: Callable[[int], Any], count: int) -> list[Any]:
        """Run task(0), ..., task(count - 1), one a thread, and return what they return."""
        if self.pool is None or count == 1:
            return [_quietly(task, i) for i in range(count)]
        others = [self.pool.submit(_quietly, task, i) for i in range(1, count)]
        try:
            first = _quietly(task, 0)
        finally:
            wait(others)
        return [first, *(future.result() for future in others)]


def _quietly(task: Callable[[int], Any], i: int) -> Any:
    # NumPy's error state is per thread; what overflows here shows in the cost, which is checked
    with np.errstate(over="ignore", invalid="ignore"):
        return task(i)


def check_threads(threads: int | None) -> int:
    """Return the number of threads; all cores for None."""
    if threads is None:
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1
    if int(threads) != threads or threads < 1:
        raise ValueError(f"threads must be a positive integer or None; got {threads!r}")
    return int(threads)


class _Columns:
    """One thread's share of the samples and its trajectory."""

    def __init__(self, work: Workspace, j: int, x: Array, K: int) -> None:
        n, m = x.shape
        block = min(LAYERS_PER_BLOCK, K)

        def buffer(name: str, *shape: int) -> Array:
            return work.buffer((name, j), shape, x.dtype)

        self.x = buffer("x", K + 1, n, m)
        self.slope = buffer("slope", K, n, m)
        self.q = buffer("q", block, n, m)
        self.lam, self.u, self.v = (buffer(name, n, m) for name in ("lam", "u", "v"))
        self.gb = buffer("gb", K, n)
        self.x[0] = x


class EulerProblem:
    """See `FieldProblem` for the meaning of the methods."""

    @staticmethod
    def applies_to(field: Any, x: Array) -> bool:
        """True for a plain `StandaloneField` on NumPy arrays."""
        return type(field) is StandaloneField and type(x) is np.ndarray and _is_host(field)

    def __init__(
        self,
        field: StandaloneField,
        x: Array,
        y: Array,
        cost: Cost,
        inner: str | InnerProduct = "l2",
        *,
        keep_gradient: bool = False,
        threads: int | None = None,
        workspace: Workspace | None = None,
    ) -> None:
        self.work = workspace or Workspace(threads)
        self.cost, self.inner = cost, as_inner_product(inner, field)
        self.keep_gradient = keep_gradient
        self.has_direction = self.has_gradient = False
        self.set_data(field, x, y)

        def like(name: str, array: Array) -> Array:
            return self.work.buffer(name, array.shape, array.dtype)

        self.g = {k: like(f"g {k}", p) for k, p in field.parameters.items()}
        self.d = {k: like(f"d {k}", p) for k, p in field.parameters.items()}
        self.g_old: dict[str, Array] = {}
        if keep_gradient:
            self.g_old = {k: like(f"g_old {k}", p) for k, p in field.parameters.items()}

    def set_data(self, field: StandaloneField, x: Array, y: Array) -> None:
        """Start again from `field` on other data; the direction stays."""
        check_data(field, x, y)
        self.base = self.trial = self.best = field
        self.K, self.n, self.m = field.n_layers, field.n, x.shape[1]
        self.cell = field.T / self.K
        self.h = field.dtype.type(self.cell)
        gram = self.inner.gram("W")
        self.is_density = (
            field.interpolation == "constant" and gram is not None and gram.is_diagonal
        )
        self.terminal_cost = self.cost.at(field, y)
        count = max(1, min(self.work.threads, self.m // MIN_SAMPLES_PER_THREAD))
        bounds = np.linspace(0, self.m, count + 1).astype(int)
        self.slices = [slice(a, b) for a, b in pairwise(bounds)]
        self.parts = [_Columns(self.work, j, x[:, s], self.K) for j, s in enumerate(self.slices)]
        for j in range(count, self.work.threads):  # no buffers for threads without samples
            for name in ("x", "slope", "q", "lam", "u", "v", "gb"):
                self.work._buffers.pop((name, j), None)
        self.x_T = np.empty((self.n, self.m), x.dtype)

    def forget(self) -> None:
        """Forget the direction and the previous gradient."""
        self.has_direction = self.has_gradient = False

    def carry(self) -> dict[str, dict[str, Array]]:
        """Return what conjugacy needs to go on later."""
        return {
            "d": self.d if self.has_direction else {},
            "g": self.g if self.has_gradient else {},
        }

    def restore(self, d: dict[str, Array], g: dict[str, Array]) -> None:
        """Take back what `carry` returned."""
        for mine, theirs in ((self.d, d), (self.g, g)):
            for name, array in theirs.items():
                mine[name][...] = array
        self.has_direction, self.has_gradient = bool(d), bool(g)

    # --- the three problems ---------------------------------------------------------------------

    def direct(self) -> float:
        """Solve the direct problem for the trial parameters and return the cost."""
        with single_threaded_blas(len(self.parts) > 1):
            self.work.parallel(self._direct_columns, len(self.parts))
        return self.terminal_cost.value(self.x_T) + self.cost.decay_value(self.trial)

    def _direct_columns(self, j: int) -> None:
        part, W, b, h = self.parts[j], self.trial.W, self.trial.b, self.h
        step = _step_for(self.trial.activation)
        for k in range(self.K):
            np.matmul(W[k], part.x[k], out=part.u)
            step(part.u, b[k], h, part.x[k], part.x[k + 1], part.slope[k])
        self.x_T[:, self.slices[j]] = part.x[self.K]

    def gradient(self) -> Dots:
        """Solve the adjoint problem; keep the gradient and return its inner products."""
        if self.keep_gradient:
            self.g, self.g_old = self.g_old, self.g
        lam_T = self.terminal_cost.terminal(self.x_T)
        for part, s in zip(self.parts, self.slices, strict=True):
            part.lam[...] = lam_T[:, s]
        for name in ("W", "b"):
            self.g[name][self.K :] = 0  # the last node of a nodal basis: no Euler step reads it
        totals = np.zeros(3)
        for stop in range(self.K, 0, -LAYERS_PER_BLOCK):
            block = range(max(0, stop - LAYERS_PER_BLOCK), stop)
            with single_threaded_blas(len(self.parts) > 1):
                self.work.parallel(partial(self._adjoint_columns, block), len(self.parts))
            with single_threaded_blas(self.work.threads > 1):
                dots = self.work.parallel(partial(self._gradient_layers, block), self.work.threads)
            totals += np.sum(dots, axis=0)
        self._sum_bias_gradient()
        return self._riesz(totals)

    def _adjoint_columns(self, block: range, j: int) -> None:
        from snode._kernels import adjoint_step

        part, W = self.parts[j], self.trial.W
        q = part.q[: len(block)]
        np.multiply(part.slope[block[-1]], part.lam, out=q[-1])
        for k in reversed(block):
            np.matmul(W[k].T, q[k - block.start], out=part.u)
            if k > block.start:
                before = k - 1
                adjoint_step(self.h, part.u, part.lam, part.slope[before], q[before - block.start])
        part.lam += self.h * part.u
        np.sum(q, axis=2, out=part.gb[block.start : block.stop])

    def _gradient_layers(self, block: range, i: int) -> Array:
        """Write the densities sum_k (lam * sigma') x^T of this thread's layers to `g`.

        For piecewise constant weights in L2 the density plus decay W is the gradient, and its
        inner products are taken while the layer is in the cache.
        """
        from snode._kernels import finish_layer

        gW, W, n = self.g["W"], self.trial.W, self.n
        totals, acc = np.zeros(3), np.empty((3, n))
        other = self.work.buffer(("product", i), (n, n), gW.dtype)
        none = other[:0]
        decay = self.h.dtype.type(self.cost.decay if self.is_density else 0)
        d = self.d["W"] if self.has_direction and self.is_density else None
        old = self.g_old["W"] if self._compares_gradients() and self.is_density else None
        first, *rest = self.parts
        for k in block[i :: self.work.threads]:
            np.matmul(first.q[k - block.start], first.x[k].T, out=gW[k])
            for part in rest[:-1]:
                np.matmul(part.q[k - block.start], part.x[k].T, out=other)
                gW[k] += other
            if rest:
                np.matmul(rest[-1].q[k - block.start], rest[-1].x[k].T, out=other)
            finish_layer(
                gW[k], other if rest else none, decay, W[k],
                none if d is None else d[k], none if old is None else old[k], acc, totals,
            )  # fmt: skip
        return totals

    def _compares_gradients(self) -> bool:
        return self.keep_gradient and self.has_gradient

    def _sum_bias_gradient(self) -> None:
        gb = self.g["b"][: self.K]
        np.sum([part.gb for part in self.parts], axis=0, out=gb)
        if self.is_density and self.cost.decay:
            gb += self.h.dtype.type(self.cost.decay) * self.trial.b

    def _bias_dots(self) -> Array:
        g = self.g["b"]
        old = self.g_old["b"] if self._compares_gradients() else None
        d = self.d["b"] if self.has_direction else None
        return np.array([_layer_dot(g, g), _layer_dot(g, old), _layer_dot(g, d)])

    def line(self) -> LineModel:
        """Solve the sensitivity problem along d and return the model of the cost."""
        xi_T = np.empty_like(self.x_T)
        with single_threaded_blas(len(self.parts) > 1):
            self.work.parallel(lambda j: self._tangent_columns(j, xi_T), len(self.parts))
        decay = parameter_line(self.cost, self.trial, self.d)
        return self.terminal_cost.line(self.x_T, xi_T, *decay)

    def _tangent_columns(self, j: int, xi_T: Array) -> None:
        from snode._kernels import tangent_step

        part, W = self.parts[j], self.trial.W
        dW, db = self.d["W"], self.d["b"]
        xi = part.lam  # the adjoint state is no longer needed
        xi[...] = 0
        for k in range(self.K):
            np.matmul(W[k], xi, out=part.u)
            np.matmul(dW[k], part.x[k], out=part.v)
            tangent_step(part.u, part.v, db[k], part.slope[k], self.h, xi)
        xi_T[:, self.slices[j]] = xi

    # --- parameters -----------------------------------------------------------------------------

    def _riesz(self, totals: Array) -> Dots:
        """Turn the densities in `g` into the gradient, in place."""
        if self.is_density:
            totals = self.cell * (totals + self._bias_dots())
        else:
            totals = np.zeros(3)
            factor = self.cell  # the densities times this are the partial derivatives
            if self.cost.decay:
                for g in self.g.values():
                    g *= self.h
                self.cost.add_decay_partials(self.trial, self.g)
                factor = 1.0
            for name in self.g:
                totals = totals + factor * self._riesz_one(name, factor)
        has_old = self._compares_gradients()
        self.has_gradient = True
        return Dots(
            float(totals[0]), float(totals[1]) if has_old else float("nan"), float(totals[2])
        )

    def _riesz_one(self, name: str, factor: float) -> Array:
        """Solve gram g = factor p, g replacing p; return (p.g, p.g_old, p.d)."""
        p, gram = self.g[name], self.inner.gram(name)
        d = self.d[name] if self.has_direction else None
        old = self.g_old[name] if self._compares_gradients() else None
        if gram is not None and gram.is_tridiagonal:
            task = _tridiagonal_task(gram, factor, p, d, old, self.work.threads)
            return np.sum(self.work.parallel(task, self.work.threads), axis=0)
        g = p * factor if gram is None else gram.solve(p * self.h.dtype.type(factor))
        dots = np.array([_layer_dot(p, g), _layer_dot(p, old), _layer_dot(p, d)])
        p[...] = g
        return dots

    def set_direction(self, beta: float) -> None:
        """Set d = -g + beta d, in place."""
        from snode._kernels import scale_and_subtract

        scalar = self.h.dtype.type
        if not self.has_direction or beta == 0:
            for name, g in self.g.items():
                np.negative(g, out=self.d[name])
        else:
            for name, g in self.g.items():
                flat = self.d[name].reshape(-1), g.reshape(-1)
                for_range = partial(_for_range, scale_and_subtract, scalar(beta), flat)
                self._by_ranges(g.size, for_range)
        self.has_direction = True

    def move(self, step: float) -> None:
        """Set the trial parameters to base + step d."""
        from snode._kernels import add_scaled

        scalar = self.h.dtype.type
        theta = {}
        for name, base in self.base.parameters.items():
            out = self._free_buffer(name, base)
            flat = base.reshape(-1), self.d[name].reshape(-1), out.reshape(-1)
            self._by_ranges(out.size, partial(_for_range, add_scaled, scalar(step), flat))
            theta[name] = out
        self.trial = self.base.with_parameters(**theta)

    def accept(self, *, is_best: bool) -> None:
        """Make the trial parameters the base of the next iteration."""
        self.base = self.trial
        if is_best:
            self.best = self.trial

    def _free_buffer(self, name: str, like: Array) -> Array:
        """Return a parameter buffer that holds neither the base nor the best iterate."""
        for i in range(3):
            out = self.work.buffer((f"theta {name}", i), like.shape, like.dtype)
            taken = (self.base.parameters[name], self.best.parameters[name])
            if not any(np.shares_memory(out, a) for a in taken):
                return out
        raise AssertionError("three buffers cannot all be taken by two iterates")

    def _by_ranges(self, size: int, task: Callable[[slice], Any]) -> None:
        count = self.work.threads if size >= MIN_ENTRIES_TO_SHARE else 1
        bounds = np.linspace(0, size, count + 1).astype(int)
        self.work.parallel(lambda i: task(slice(bounds[i], bounds[i + 1])), count)


def _for_range(kernel: Any, scalar: Any, arrays: tuple[Array, ...], s: slice) -> None:
    kernel(scalar, *(a[s] for a in arrays))


def _is_host(field: StandaloneField) -> bool:
    return all(type(p) is np.ndarray and p.flags.c_contiguous for p in field.parameters.values())


def _step_for(activation: Activation) -> Callable[..., None]:
    """Return step(a, b, h, x, x_next, slope) that does the elementwise part of an Euler step."""
    from snode import _kernels

    if activation.kernel == "leaky":
        alpha = activation.params.get("alpha", 0.0)

        def leaky(a: Array, b: Array, h: Any, x: Array, x_next: Array, slope: Array) -> None:
            _kernels.leaky_step(a, b, h, h.dtype.type(alpha), x, x_next, slope)

        return leaky
    if activation.kernel == "tanh":

        def tanh(a: Array, b: Array, h: Any, x: Array, x_next: Array, slope: Array) -> None:
            np.add(a, b[:, None], out=a)
            np.tanh(a, out=a)
            _kernels.tanh_step(a, h, x, x_next, slope)

        return tanh

    def general(a: Array, b: Array, h: Any, x: Array, x_next: Array, slope: Array) -> None:
        a += b[:, None]
        slope[...] = activation.slope(a)
        np.multiply(activation.value(a), h, out=a)
        np.add(x, a, out=x_next)

    return general


def _layer_dot(a: Array, b: Array | None) -> float:
    if b is None:
        return 0.0
    return float(sum(float(np.vdot(u, v)) for u, v in zip(a, b, strict=True)))


def _tridiagonal_task(
    gram: Gram, factor: float, p: Array, d: Array | None, old: Array | None, threads: int
) -> Callable[[int], Array]:
    from snode._kernels import riesz_block

    flat = p.reshape(len(p), -1)
    empty = np.empty((0, 0), p.dtype)
    flat_d = empty if d is None else d.reshape(len(p), -1)
    flat_old = empty if old is None else old.reshape(len(p), -1)
    inverse_pivots = (factor / gram.pivots).astype(p.dtype)
    ratios = gram.ratios.astype(p.dtype)
    starts = range(0, flat.shape[1], COLUMNS_PER_BLOCK)

    def task(i: int) -> Array:
        work = np.empty((len(p), COLUMNS_PER_BLOCK), p.dtype)
        total, dots = np.zeros(3), np.zeros(3)
        for c0 in starts[i::threads]:
            c1 = min(c0 + COLUMNS_PER_BLOCK, flat.shape[1])
            riesz_block(inverse_pivots, ratios, flat, flat_d, flat_old, c0, c1, work, dots)
            total += dots
        return total

    return task
