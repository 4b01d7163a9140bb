"""The CPU hot path of NCG: `StandaloneField` by Euler on its own grid, NumPy arrays.

Equal to `FieldProblem` to rounding (a test says so); what differs is speed and memory:

- states are stored with a sample a row, and weights transposed: no product of the direct and the
  sensitivity problem needs a transposition, and the samples of a thread are one piece of memory;
- the samples are split among threads, each with single-threaded BLAS: two threads inside every
  small product wait for each other, two threads on halves of the batch do not;
- a sweep through the layers is one compiled call per thread, products included;
- the gradient products are shared out by layer after the adjoint steps, so no sums are reduced
  across threads;
- elementwise work is one pass over a layer while it is in the cache, inner products of the
  gradient included; no array of the size of the trajectory or the weights is made in an iteration;
- the parameters live in at most three buffers (best, current, trial), the gradient becomes the
  Riesz representative in place;
- a batch whose trajectory does not fit the memory limit is done in blocks of samples: their
  gradients are summed, and the sensitivity problem solves the direct problem again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from snode.backend import Array, single_threaded_blas
from snode.fields.depth import Gram
from snode.fields.layer import StandaloneField
from snode.threads import check_threads
from snode.training.costs import Cost, LineModel, TerminalCost, parameter_line
from snode.training.gradients import Dots, check_data
from snode.training.innerproducts import InnerProduct, as_inner_product

__all__ = ["EulerProblem", "Workspace"]

MAX_PENDING = 128_000_000
"""Bytes of adjoint states that wait for their gradient products; every round costs two meetings of
the threads."""

COLUMNS_PER_BLOCK = 256
"""Entries of W solved for at once in the Riesz map; K of these fit the cache."""

MIN_SAMPLES_PER_THREAD = 16

MIN_WORK_PER_THREAD = 20_000_000
"""Multiply-adds of a sweep (of one product a layer) below which a second thread costs time."""

ELEMENTWISE = 30
"""Elementwise work on a component, in multiply-adds, for that count."""

MIN_WIDTH = 256
"""Numbers in an elementwise pass; samples with fewer components are done several at a time."""

MAX_TRAJECTORY = 1_000_000_000
"""Bytes of trajectory and slopes that are stored; larger batches are done in blocks of samples."""

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


@dataclass(frozen=True, eq=False)
class _Iterate:
    """A field, and the same with the transposed weights in contiguous memory."""

    field: StandaloneField
    stored: StandaloneField


def _transposed(parameters: Mapping[str, Array]) -> dict[str, Array]:
    return {"W": parameters["W"].transpose(0, 2, 1), "b": parameters["b"]}


class EulerProblem:
    """See `FieldProblem` for the meaning of the methods.

    Arrays whose name starts with an underscore hold the transposed weights.
    """

    @staticmethod
    def applies_to(field: Any, x: Array) -> bool:
        """True for a plain `StandaloneField` on NumPy arrays."""
        return type(field) is StandaloneField and all(
            type(a) is np.ndarray for a in (x, *field.parameters.values())
        )

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
        block_size: int | None = None,
    ) -> None:
        from snode._kernels import blas_gemm

        self.work = workspace or Workspace(threads)
        self.cost, self.inner = cost, as_inner_product(inner, field)
        self.keep_gradient, self.block_size = keep_gradient, check_block_size(block_size)
        self.has_direction = self.has_gradient = False
        self.gemm = blas_gemm(str(field.dtype))
        self.set_data(field, x, y)

        def like(name: str) -> dict[str, Array]:
            theta = self._base.stored.parameters
            return {k: self.work.buffer(f"{name} {k}", p.shape, p.dtype) for k, p in theta.items()}

        self._g, self._d = like("g"), like("d")
        self._g_old = like("g_old") if keep_gradient else {}

    def set_data(self, field: StandaloneField, x: Array, y: Array) -> None:
        """Start again from `field` on other data; the direction stays."""
        check_data(field, x, y)
        self._base = self._trial = self._best = self._adopt(field)
        self.x, self.terminal_cost = x, self.cost.at(field, y)
        if self.terminal_cost.target is not None:  # in the memory order of the states
            self.terminal_cost.target = np.asfortranarray(self.terminal_cost.target)
        self.K, self.n, self.m = field.n_layers, field.n, x.shape[1]
        self.cell = field.T / self.K
        self.h = field.dtype.type(self.cell)
        gram = self.inner.gram("W")
        self.is_density = (
            field.interpolation == "constant" and gram is not None and gram.is_diagonal
        )
        self._divide()

    def _divide(self) -> None:
        """Choose blocks of samples, shares of threads and blocks of layers; make the buffers."""
        K, n, dtype = self.K, self.n, self.h.dtype
        size = self.block_size or max(1, MAX_TRAJECTORY // ((2 * K + 1) * n * dtype.itemsize))
        self.blocks = [slice(i, j) for i, j in pairwise(_bounds(self.m, -(-self.m // size)))]
        m = max(block.stop - block.start for block in self.blocks)
        self.threads = max(
            1, min(self.work.threads, K * n * (n + ELEMENTWISE) * m // MIN_WORK_PER_THREAD)
        )
        self.shares = max(1, min(self.threads, m // MIN_SAMPLES_PER_THREAD))
        # a rule that keeps the previous gradient gets its memory from here
        most = -(-K // 2) if self.keep_gradient else K
        depth = max(1, min(most, MAX_PENDING // (m * n * dtype.itemsize)))
        self.rounds = list(pairwise(_bounds(K, -(-K // depth))))
        depth = max(stop - start for start, stop in self.rounds)

        def buffer(name: str, *shape: int) -> Array:
            return self.work.buffer(name, shape, dtype)

        self._x, self._slope = buffer("x", K + 1, m, n), buffer("slope", K, m, n)
        self._q = buffer("q", depth, m, n)
        self._lam, self._u = buffer("lam", m, n), buffer("u", m, n)
        self._gb = buffer("gb", self.shares, K, n)
        # elementwise work goes through a few short samples at a time
        self._rows = buffer("rows", self.shares, n * -(-MIN_WIDTH // n))
        self._loaded: int | None = None
        self._stored: int | None = None
        self._totals, self._is_raw, self._is_last = np.zeros(3), False, False

    # --- what NCG and training see --------------------------------------------------------------

    @property
    def base(self) -> StandaloneField:
        """Where the iteration stands."""
        return self._base.field

    @base.setter
    def base(self, field: StandaloneField) -> None:
        self._base = self._adopt(field)

    @property
    def trial(self) -> StandaloneField:
        """The parameters of the last `move`."""
        return self._trial.field

    @trial.setter
    def trial(self, field: StandaloneField) -> None:
        self._trial = self._adopt(field)

    @property
    def best(self) -> StandaloneField:
        """The iterate of the lowest cost."""
        return self._best.field

    @best.setter
    def best(self, field: StandaloneField) -> None:
        self._best = self._adopt(field)

    @property
    def g(self) -> dict[str, Array]:
        """The gradient."""
        return _transposed(self._g)

    @property
    def d(self) -> dict[str, Array]:
        """The direction."""
        return _transposed(self._d)

    def _adopt(self, field: StandaloneField) -> _Iterate:
        for iterate in self._iterates():
            if iterate.field is field:
                return iterate
        W, b = field.W.transpose(0, 2, 1), np.ascontiguousarray(field.b)
        if not W.flags.c_contiguous:
            W = self._free_buffer("W", W)
            np.copyto(W, field.W.transpose(0, 2, 1))
        return _Iterate(field, field.with_parameters(W=W, b=b))

    def _iterates(self) -> list[_Iterate]:
        names = ("_base", "_trial", "_best")
        return [getattr(self, name) for name in names if hasattr(self, name)]

    def release(self, field: StandaloneField) -> StandaloneField:
        """Return `field`, a result, with weights in the usual memory order; drop all buffers.

        The problem can not be used afterwards.
        """
        self.__dict__.clear()  # first, so that the copy needs no more memory
        W = np.ascontiguousarray(field.W)
        return field if W is field.W else field.with_parameters(W=W)

    def expect(self, beta: Any, memory: Any = None) -> None:
        """Learn whether an iteration will follow the next direct problem: not with beta=None."""
        self._is_last = beta is None

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
        for mine, theirs in ((_transposed(self._d), d), (_transposed(self._g), g)):
            for name, array in theirs.items():
                mine[name][...] = array
        self.has_direction, self.has_gradient = bool(d), bool(g)

    # --- the direct problem ---------------------------------------------------------------------

    def direct(self) -> float:
        """Solve the direct problem for the trial parameters and return the cost.

        With several blocks of samples also the adjoint problem of each, while its trajectory is
        there: `gradient` finds the sums made. Not where no gradient will be asked for.
        """
        return self._solve(with_adjoint=len(self.blocks) > 1 and not self._is_last)

    def _solve(self, with_adjoint: bool) -> float:
        value, self._is_raw = 0.0, False
        with single_threaded_blas():
            for j in range(len(self.blocks)):
                self._direct_block(j)
                value += self._cost(j).value(self._x_T)
                if not math.isfinite(value):
                    self._is_raw = False
                    break
                if with_adjoint:
                    self._adjoint_block(j)
        return value + self.cost.decay_value(self._trial.stored)

    def _direct_block(self, j: int) -> None:
        self._m = self.blocks[j].stop - self.blocks[j].start
        if self._loaded != j:
            np.copyto(self._x[0, : self._m], self.x[:, self.blocks[j]].T)
        self._loaded = self._stored = j
        self._for_samples(self._forward)

    @property
    def _x_T(self) -> Array:
        return self._x[self.K, : self._m].T

    def _cost(self, j: int) -> TerminalCost:
        one = len(self.blocks) == 1
        return self.terminal_cost if one else self.terminal_cost.part(self.blocks[j])

    def _for_samples(self, task: Callable[[int, int, int], Any]) -> None:
        """Run task(i, r0, r1) for the samples r0..r1 of thread i."""
        bounds = _bounds(self._m, min(self.shares, self._m))
        self.work.parallel(lambda i: task(i, bounds[i], bounds[i + 1]), len(bounds) - 1)

    def _forward(self, i: int, r0: int, r1: int) -> None:
        from snode._kernels import forward_sweep

        field, scalar = self._trial.stored, self.h.dtype.type
        activation = field.activation
        is_tanh = activation.kernel == "tanh" and scalar is np.float32
        if not is_tanh and activation.kernel != "leaky":
            return self._forward_by_layers(r0, r1)
        forward_sweep(
            self.gemm, is_tanh, scalar(activation.params.get("alpha", 0.0)), self.h, field.W,
            field.b, self._x, self._slope, r0, r1, self._rows[i],
        )  # fmt: skip

    def _forward_by_layers(self, r0: int, r1: int) -> None:
        """As the compiled sweep, for activations that it does not know."""
        field = self._trial.stored
        for k in range(self.K):
            slope, x, after = self._slope[k, r0:r1], self._x[k, r0:r1], self._x[k + 1, r0:r1]
            np.matmul(x, field.W[k], out=after)
            after += field.b[k]
            value, slope[...] = field.activation.both(after)
            np.multiply(value, self.h, out=after)
            after += x

    # --- the adjoint problem --------------------------------------------------------------------

    def gradient(self) -> Dots:
        """Solve the adjoint problem; keep the gradient and return its inner products."""
        with single_threaded_blas():
            if len(self.blocks) == 1:
                self._adjoint_block(0)
            elif not self._is_raw:
                self._solve(with_adjoint=True)
            return self._finish_gradient()

    def _adjoint_block(self, j: int) -> None:
        """Add the densities sum_k (lam * sigma') x^T of block j to the new gradient."""
        g = self._g_old if self.keep_gradient else self._g
        if j == 0:
            self._gb[...] = 0
            self._totals = np.zeros(3)
            for density in g.values():
                density[self.K :] = 0  # the last node of a nodal basis: no Euler step reads it
        np.copyto(self._lam[: self._m], self._cost(j).terminal(self._x_T).T)
        for start, stop in reversed(self.rounds):
            self._for_samples(partial(self._adjoint, start, stop))
            dots = self.work.parallel(partial(self._products, g, j, start, stop), self.threads)
            self._totals += np.sum(dots, axis=0)
        self._is_raw = True
        if j == len(self.blocks) - 1:
            np.sum(self._gb, axis=0, out=g["b"][: self.K])
            if self.is_density and self.cost.decay:
                g["b"] += self.h.dtype.type(self.cost.decay) * self._trial.stored.b

    def _adjoint(self, start: int, stop: int, i: int, r0: int, r1: int) -> None:
        from snode._kernels import adjoint_sweep

        adjoint_sweep(
            self.gemm, self.h, self._trial.stored.W, self._slope, self._lam, self._q, self._gb[i],
            start, stop, r0, r1, self._rows[i],
        )  # fmt: skip

    def _products(self, g: dict[str, Array], j: int, start: int, stop: int, i: int) -> Array:
        """Form the densities of this thread's layers.

        For piecewise constant weights in L2 the density plus decay W is the gradient, and its
        inner products are taken while the layer is in the cache.
        """
        from snode._kernels import gradient_layers

        scalar, none = self.h.dtype.type, g["W"][:0]
        finish = self.is_density and j == len(self.blocks) - 1
        d = self._d["W"] if self.has_direction else none
        old = self._g["W"] if self._compares_gradients() else none
        dots = np.zeros(3)
        gradient_layers(
            self.gemm, self._x, self._q, self._m, scalar(j > 0), g["W"],
            start, stop, i, self.threads, finish, scalar(self.cost.decay), self._trial.stored.W,
            d, old, np.empty((3, self.n)), dots,
        )  # fmt: skip
        return dots

    def _compares_gradients(self) -> bool:
        return self.keep_gradient and self.has_gradient

    def _finish_gradient(self) -> Dots:
        """Turn the new densities into the gradient, in place."""
        self._is_raw = False
        if self.keep_gradient:
            self._g, self._g_old = self._g_old, self._g
        if self.is_density:
            totals = self.cell * (self._totals + self._bias_dots())
        else:
            totals = np.zeros(3)
            factor = self.cell  # the densities times this are the partial derivatives
            if self.cost.decay:
                for g in self._g.values():
                    g *= self.h
                self.cost.add_decay_partials(self._trial.stored, self._g)
                factor = 1.0
            for name in self._g:
                totals = totals + factor * self._riesz_one(name, factor)
        has_old, self.has_gradient = self._compares_gradients(), True
        return Dots(
            float(totals[0]),
            float(totals[1]) if has_old else math.nan,
            float(totals[2]) if self.has_direction else 0.0,
        )

    def _bias_dots(self) -> Array:
        g = self._g["b"]
        old = self._g_old["b"] if self._compares_gradients() else None
        d = self._d["b"] if self.has_direction else None
        return np.array([_layer_dot(g, g), _layer_dot(g, old), _layer_dot(g, d)])

    def _riesz_one(self, name: str, factor: float) -> Array:
        """Solve gram g = factor p, g replacing p; return (p.g, p.g_old, p.d)."""
        p, gram = self._g[name], self.inner.gram(name)
        d = self._d[name] if self.has_direction else None
        old = self._g_old[name] if self._compares_gradients() else None
        if gram is not None and gram.is_tridiagonal:
            task = _tridiagonal_task(gram, factor, p, d, old, self.threads)
            return np.sum(self.work.parallel(task, self.threads), axis=0)
        g = p * factor if gram is None else gram.solve(p * self.h.dtype.type(factor))
        dots = np.array([_layer_dot(p, g), _layer_dot(p, old), _layer_dot(p, d)])
        p[...] = g
        return dots

    # --- the sensitivity problem ----------------------------------------------------------------

    def line(self) -> LineModel:
        """Solve the sensitivity problem along d and return the model of the cost."""
        count = len(self.blocks)
        models: list[LineModel | None] = [None] * count
        with single_threaded_blas():
            # the block whose trajectory is stored comes first
            for j in sorted(range(count), key=lambda j: j != self._stored):
                if j != self._stored:
                    self._direct_block(j)
                self._tangent_block()
                decay = (0.0, 0.0)
                if j == 0:
                    decay = parameter_line(self.cost, self._trial.stored, self._d)
                models[j] = self._cost(j).line(self._x_T, self._lam[: self._m].T, *decay)
        return LineModel.combine(models) if count > 1 else models[0]  # type: ignore[arg-type, return-value]

    def _tangent_block(self) -> None:
        self._lam[...] = 0  # the adjoint state is no longer needed
        self._for_samples(self._tangent)

    def _tangent(self, i: int, r0: int, r1: int) -> None:
        from snode._kernels import tangent_sweep

        tangent_sweep(
            self.gemm, self.h, self._trial.stored.W, self._d["W"], self._d["b"], self._x,
            self._slope, self._lam, self._u, r0, r1, self._rows[i],
        )  # fmt: skip

    # --- parameters -----------------------------------------------------------------------------

    def set_direction(self, beta: float) -> None:
        """Set d = -g + beta d, in place."""
        from snode._kernels import scale_and_subtract

        if self._is_raw and not self.keep_gradient:
            self._finish_gradient()
        for name, g in self._g.items():
            if beta == 0 or not self.has_direction:
                self._by_ranges(lambda d, g: np.negative(g, out=d), self._d[name], g)
            else:
                scalar = self.h.dtype.type(beta)
                self._by_ranges(partial(scale_and_subtract, scalar), self._d[name], g)
        self.has_direction = True

    def move(self, step: float) -> None:
        """Set the trial parameters to base + step d."""
        from snode._kernels import add_scaled

        base, new = self._base.stored, {}
        for name, p in base.parameters.items():
            new[name] = self._free_buffer(name, p)
            kernel = partial(add_scaled, self.h.dtype.type(step))
            self._by_ranges(kernel, p, self._d[name], new[name])
        field = base.with_parameters(**_transposed(new))
        self._trial = _Iterate(field, base.with_parameters(**new))

    def accept(self, *, is_best: bool) -> None:
        """Make the trial parameters the base of the next iteration."""
        self._base = self._trial
        if is_best:
            self._best = self._trial

    def _free_buffer(self, name: str, like: Array) -> Array:
        """Return a parameter buffer that holds neither the base nor the best iterate."""
        kept = [getattr(self, iterate, None) for iterate in ("_base", "_best")]
        taken = [iterate.stored.parameters[name] for iterate in kept if iterate is not None]
        for i in range(3):
            out = self.work.buffer((f"theta {name}", i), like.shape, like.dtype)
            if not any(np.may_share_memory(out, a) for a in taken):
                return out
        raise AssertionError("three buffers cannot all be taken by two iterates")

    def _by_ranges(self, kernel: Callable[..., Any], *arrays: Array) -> None:
        flat = [a.reshape(-1) for a in arrays]
        size = flat[0].size
        bounds = _bounds(size, self.threads if size >= MIN_ENTRIES_TO_SHARE else 1)
        self.work.parallel(
            lambda i: kernel(*(a[bounds[i] : bounds[i + 1]] for a in flat)), len(bounds) - 1
        )


def check_block_size(block_size: Any) -> int | None:
    """Return the number of samples in a block, or None; raise ValueError for anything else."""
    return None if block_size is None else _positive("block_size", block_size)


def _positive(name: str, value: Any) -> int:
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    is_whole = isinstance(value, float) and value.is_integer()
    if not (is_integer or is_whole) or value < 1:
        raise ValueError(f"{name} must be a positive integer or None; got {value!r}")
    return int(value)


def _bounds(size: int, count: int) -> list[int]:
    """Return the ends of `count` nearly equal pieces of 0..size."""
    return [size * i // count for i in range(count + 1)]


def _layer_dot(a: Array, b: Array | None) -> float:
    """Return the sum of a * b, in float64; of large arrays only over the layers."""
    if b is None:
        return 0.0
    if a.size <= MIN_ENTRIES_TO_SHARE:
        return float(np.vdot(a.astype(np.float64), b.astype(np.float64)))
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
