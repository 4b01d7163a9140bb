"""Each idea of the CPU hot path alone: an iteration of NCG with it and without it.

- Iterations: gradient, direction, sensitivity problem, step, new weights and their cost, by the
  class behind `snode.ncg`, n = 196, K = 150, float32, tanh, in L2. Each variant changes one thing
  of it. Every time is that of the second iteration from the same start, and all variants must
  reach the same cost and the same gradient norm there.
- Direction and weights: a pass of its own each. They were also tried block by block inside of the
  sweeps, while the layers are in the cache; that was taken out. What the passes take is the most
  that it could have saved.
- Products: the five of a layer, in two layouts; the two of the sensitivity problem, stacked or not.
  The threads do parts of the batch, as in the hot path.
- tanh: one thread, nanoseconds per number.

The threads of BLAS wait for each other by spinning: where other programs run, the variant that has
them takes many times as long as on a quiet machine.

Run: python benchmarks/ideas.py --batch 100 1000
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numba
import numpy as np
from harness import (
    ALWAYS,
    in_turns,
    make_parser,
    medians,
    parse,
    print_machine,
    print_table,
    report,
)
from ncg_iteration import DEPTH, N_STATE, Problem
from threadpoolctl import threadpool_limits

from snode import _kernels
from snode.backend import single_threaded_blas
from snode.training import hotpath
from snode.training.hotpath import EulerProblem, Workspace

AS_IS = "as it is"
PARTS = ("gradient", "set_direction", "line", "move", "direct")
LAYERS_PER_ROUND = 10
AGREEMENT = 1e-3
TANH_NUMBERS, TANH_CALLS = 10_000, 200


# --- the variants of an iteration -----------------------------------------------------------------


class OneCallPerLayer(EulerProblem):
    """The compiled sweeps, one layer in each."""

    def _forward(self, i: int, r0: int, r1: int) -> None:
        field = self._trial.stored
        for k in range(self.K):
            layer = slice(k, k + 1)
            _kernels.forward_sweep(
                self.gemm, True, self.h.dtype.type(0), self.h, field.W[layer], field.b[layer],
                self._x[k : k + 2], self._slope[layer], r0, r1, self._rows[i],
            )  # fmt: skip

    def _adjoint(self, start: int, stop: int, i: int, r0: int, r1: int) -> None:
        for k in reversed(range(start, stop)):
            _kernels.adjoint_sweep(
                self.gemm, self.h, self._trial.stored.W, self._slope, self._lam,
                self._q[k - start :], self._gb[i], k, k + 1, r0, r1, self._rows[i],
            )  # fmt: skip

    def _tangent(self, i: int, r0: int, r1: int) -> None:
        W, dW, db = self._trial.stored.W, self._d["W"], self._d["b"]
        for k in range(self.K):
            layer = slice(k, k + 1)
            _kernels.tangent_sweep(
                self.gemm, self.h, W[layer], dW[layer], db[layer], self._x[layer],
                self._slope[layer], self._lam, self._u, r0, r1, self._rows[i],
            )  # fmt: skip


class NumpyInPlace(EulerProblem):
    """Sweeps of NumPy operations, each with its result in a buffer."""

    def _forward(self, i: int, r0: int, r1: int) -> None:
        field, one = self._trial.stored, self.h.dtype.type(1)
        for k in range(self.K):
            x, after, a = self._x[k, r0:r1], self._x[k + 1, r0:r1], self._slope[k, r0:r1]
            np.matmul(x, field.W[k], out=a)
            np.add(a, field.b[k], out=a)
            np.tanh(a, out=a)
            np.multiply(a, self.h, out=after)
            np.add(after, x, out=after)
            np.multiply(a, a, out=a)
            np.subtract(one, a, out=a)

    def _adjoint(self, start: int, stop: int, i: int, r0: int, r1: int) -> None:
        W, lam, u = self._trial.stored.W, self._lam[r0:r1], self._u[r0:r1]
        for k in reversed(range(start, stop)):
            q = self._q[k - start, r0:r1]
            np.multiply(self._slope[k, r0:r1], lam, out=q)
            np.sum(q, axis=0, out=self._gb[i, k])
            np.matmul(q, W[k].T, out=u)
            np.multiply(u, self.h, out=u)
            np.add(lam, u, out=lam)

    def _tangent(self, i: int, r0: int, r1: int) -> None:
        W, dW, db = self._trial.stored.W, self._d["W"], self._d["b"]
        xi, u, v = self._lam[r0:r1], self._u[r0:r1], self._q[0, r0:r1]
        for k in range(self.K):
            np.matmul(self._x[k, r0:r1], dW[k], out=u)
            np.matmul(xi, W[k], out=v)
            np.add(u, v, out=u)
            np.add(u, db[k], out=u)
            np.multiply(u, self._slope[k, r0:r1], out=u)
            np.multiply(u, self.h, out=u)
            np.add(xi, u, out=xi)


class NumpyExpressions(EulerProblem):
    """Sweeps of NumPy expressions as one writes them, with arrays in between."""

    def _forward(self, i: int, r0: int, r1: int) -> None:
        field, x = self._trial.stored, self._x[:, r0:r1]
        for k in range(self.K):
            y = np.tanh(x[k] @ field.W[k] + field.b[k])
            self._slope[k, r0:r1] = 1 - y**2
            x[k + 1] = x[k] + self.h * y

    def _adjoint(self, start: int, stop: int, i: int, r0: int, r1: int) -> None:
        for k in reversed(range(start, stop)):
            q = self._slope[k, r0:r1] * self._lam[r0:r1]
            self._q[k - start, r0:r1] = q
            self._gb[i, k] = q.sum(axis=0)
            self._lam[r0:r1] += self.h * (q @ self._trial.stored.W[k].T)

    def _tangent(self, i: int, r0: int, r1: int) -> None:
        W, dW, db = self._trial.stored.W, self._d["W"], self._d["b"]
        x, slope, xi = self._x[:, r0:r1], self._slope[:, r0:r1], self._lam[r0:r1]
        for k in range(self.K):
            xi += self.h * slope[k] * (xi @ W[k] + x[k] @ dW[k] + db[k])


class Rounds(EulerProblem):
    """Gradient products after every few adjoint steps."""

    def _divide(self) -> None:
        pending = LAYERS_PER_ROUND * self.m * self.n * self.h.dtype.itemsize
        with patch.object(hotpath, "MAX_PENDING", pending):
            super()._divide()


class InnerProductsApart(EulerProblem):
    """All gradient products, then all inner products of the gradient."""

    def _adjoint_block(self, j: int) -> None:
        self.is_density = False
        super()._adjoint_block(j)
        self.is_density = True
        self._totals = np.sum(self.work.parallel(self._finish, self.threads), axis=0)

    def _finish(self, i: int) -> Any:
        W, g, dots = self._trial.stored.W, self._g["W"], np.zeros(3)
        none, acc, decay = g[0, :0], np.empty((3, self.n)), self.h.dtype.type(0)
        for k in range(i, self.K, self.threads):
            d = self._d["W"][k] if self.has_direction else none
            _kernels.finish_layer(g[k], decay, W[k], d, none, acc, dots)
        return dots


@contextmanager
def threads_in_blas(work: Workspace) -> Iterator[None]:
    with (
        threadpool_limits(work.threads, user_api="blas"),
        patch.object(hotpath, "single_threaded_blas", nullcontext),
        patch.object(work, "threads", 1),
    ):
        yield


def scipy_products(work: Workspace) -> AbstractContextManager[Any]:
    return patch.object(_kernels, "blas_gemm", lambda dtype: None)


def unchanged(work: Workspace) -> AbstractContextManager[Any]:
    return nullcontext()


@dataclass(frozen=True)
class Variant:
    """A class of problem, what is changed around it, and the parts whose time counts."""

    problem: type[EulerProblem] = EulerProblem
    setting: Callable[[Workspace], AbstractContextManager[Any]] = unchanged
    counted: Sequence[str] = PARTS


VARIANTS = {
    AS_IS: Variant(),
    "threads inside of BLAS, not parts of the batch": Variant(setting=threads_in_blas),
    "products by Numba's np.dot (SciPy's BLAS)": Variant(setting=scipy_products),
    "one compiled call per layer, not per sweep": Variant(OneCallPerLayer),
    "sweeps in NumPy, no temporaries": Variant(NumpyInPlace),
    "sweeps in NumPy, with temporaries": Variant(NumpyExpressions),
    f"gradient products every {LAYERS_PER_ROUND} layers": Variant(Rounds),
    "inner products in a pass of their own": Variant(InnerProductsApart),
    "direction and weights alone (part of as it is)": Variant(counted=("set_direction", "move")),
}


# --- iterations -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Iteration:
    """The seconds of each part, the cost at the end, and |g|^2 at the beginning."""

    seconds: Mapping[str, float]
    cost: float
    gg: float


def iterate(problem: EulerProblem, gg_before: float) -> Iteration:
    """Make one iteration of NCG with the Fletcher-Reeves coefficient."""
    seconds = {}

    def timed(name: str, run: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        value = run()
        seconds[name] = time.perf_counter() - start
        return value

    gg = timed("gradient", problem.gradient).gg
    timed("set_direction", lambda: problem.set_direction(gg / gg_before))
    step = timed("line", lambda: problem.line().minimizer(1.0))[0]
    timed("move", lambda: problem.move(step))
    cost = timed("direct", problem.direct)
    problem.accept(is_best=True)
    return Iteration(seconds, cost, gg)


def second_iteration(variant: Variant, p: Problem, work: Workspace) -> Iteration:
    """Make two iterations from the start and return the second."""
    with variant.setting(work):
        problem = variant.problem(p.field, p.x, p.labels, p.cost, workspace=work)
        problem.direct()
        return iterate(problem, iterate(problem, math.inf).gg)


def require_equal(name: str, found: Any, expected: Any) -> None:
    """Raise ArithmeticError if numbers differ by more than AGREEMENT, relative to the largest."""
    error = np.max(np.abs(np.subtract(found, expected)))
    if not error <= AGREEMENT * np.max(np.abs(expected)):
        raise ArithmeticError(f"{name}: other numbers, they differ by {error:.3g}")


def iterations(p: Problem, repeats: int, work: Workspace) -> dict[str, float]:
    """Return the median milliseconds of each variant, measured in turns."""
    expected = second_iteration(VARIANTS[AS_IS], p, work)

    def clock(name: str) -> Callable[[], float]:
        def read() -> float:
            found = second_iteration(VARIANTS[name], p, work)
            require_equal(f"cost, {name}", found.cost, expected.cost)
            require_equal(f"|g|^2, {name}", found.gg, expected.gg)
            return sum(found.seconds[part] for part in VARIANTS[name].counted)

        return read

    times = medians({name: clock(name) for name in VARIANTS}, repeats)
    return {name: 1e3 * value for name, value in times.items()}


# --- products -------------------------------------------------------------------------------------


def by_samples(m: int, work: Workspace, task: Callable[[slice], None]) -> None:
    """Run the task on one part of the samples per thread."""
    parts = [slice(m * i // work.threads, m * (i + 1) // work.threads) for i in range(work.threads)]
    work.parallel(lambda i: task(parts[i]), work.threads)


def five_products(p: Problem, work: Workspace, *, rows: bool) -> Callable[[], Any]:
    """Return what does all products of an iteration and returns the last ones.

    With `rows` the samples are rows and the weights transposed, else columns and as they are.
    """
    X = np.ascontiguousarray(p.x.T if rows else p.x)
    W, dW = (np.ascontiguousarray(a.transpose(0, 2, 1)) if rows else a for a in (p.W, p.dW))
    Z, G = np.empty_like(X), [np.empty_like(W[0]) for _ in range(work.threads)]

    def product(weights: Any, part: slice) -> None:
        for w in weights:
            if rows:
                np.matmul(X[part], w, out=Z[part])
            else:
                np.matmul(w, X[:, part], out=Z[:, part])

    def sensitivity(part: slice) -> None:
        for w, dw in zip(W, dW, strict=True):
            product((w, dw), part)

    def gradient(i: int) -> None:
        for _ in range(i, p.K, work.threads):
            np.matmul(*((X.T, Z) if rows else (Z, X.T)), out=G[i])

    def run() -> Any:
        by_samples(p.m, work, lambda part: product(W, part))
        by_samples(p.m, work, lambda part: product(W.transpose(0, 2, 1), part))
        work.parallel(gradient, work.threads)
        by_samples(p.m, work, sensitivity)
        return (Z.T, G[0].T) if rows else (Z, G[0])

    return run


@numba.njit(nogil=True)
def two_products(gemm, x, dW, xi, W, out):  # type: ignore[no-untyped-def]
    zero, one = out.dtype.type(0), out.dtype.type(1)
    for k in range(len(W)):
        _kernels.product(gemm, one, x, dW[k], zero, out)
        _kernels.product(gemm, one, xi, W[k], one, out)


@numba.njit(nogil=True)
def stacked_products(gemm, both, stack, out):  # type: ignore[no-untyped-def]
    zero, one = out.dtype.type(0), out.dtype.type(1)
    for k in range(len(stack)):
        _kernels.product(gemm, one, both, stack[k], zero, out)


def sensitivity_products(p: Problem, work: Workspace, *, stacked: bool) -> Callable[[], Any]:
    """Return what forms x dW + xi W for all layers and returns the last.

    Stacked: (xi x) times W above dW, the copies into these arrays not counted.
    """
    gemm = _kernels.blas_gemm(p.field.dtype.name)
    x, xi = np.ascontiguousarray(p.x.T), np.ascontiguousarray(p.x[::-1].T)
    W, dW = (np.ascontiguousarray(a.transpose(0, 2, 1)) for a in (p.W, p.dW))
    both, stack = np.concatenate([xi, x], axis=1), np.concatenate([W, dW], axis=1)
    out = np.empty_like(x)

    def part(s: slice) -> None:
        if stacked:
            stacked_products(gemm, both[s], stack, out[s])
        else:
            two_products(gemm, x[s], dW, xi[s], W, out[s])

    def run() -> Any:
        by_samples(p.m, work, part)
        return (out,)

    return run


PRODUCTS = {
    "five products, samples as rows": (five_products, {"rows": True}),
    "five products, samples as columns": (five_products, {"rows": False}),
    "sensitivity, two products that add up": (sensitivity_products, {"stacked": False}),
    "sensitivity, one stacked product": (sensitivity_products, {"stacked": True}),
}


def products(p: Problem, repeats: int, work: Workspace) -> dict[str, float]:
    """Return the median milliseconds of the products, measured in turns."""
    runs = {name: make(p, work, **options) for name, (make, options) in PRODUCTS.items()}
    with single_threaded_blas():
        found = in_turns(runs, repeats, settle=ALWAYS)
    names = list(found)
    for kept, other in zip(names[::2], names[1::2], strict=True):
        for a, b in zip(found[other][1], found[kept][1], strict=True):
            require_equal(other, a, b)
    return {name: 1e3 * value for name, (value, _) in found.items()}


# --- tanh -----------------------------------------------------------------------------------------


def library_step(a, bias, h, x, x_next):  # type: ignore[no-untyped-def]
    """`_kernels.tanh_step` by the tanh of the C library."""
    one = a.dtype.type(1)
    for j in range(a.size):
        y = math.tanh(a[j] + bias[j])
        x_next[j] = x[j] + h * y
        a[j] = one - y * y


def numpy_step(a: Any, bias: Any, h: Any, x: Any, x_next: Any) -> None:
    """The same, an operation after another."""
    np.add(a, bias, out=a)
    np.tanh(a, out=a)
    np.multiply(a, h, out=x_next)
    np.add(x_next, x, out=x_next)
    np.multiply(a, a, out=a)
    np.subtract(a.dtype.type(1), a, out=a)


def tanh_alone(a: Any, bias: Any, h: Any, x: Any, x_next: Any) -> None:
    np.tanh(bias, out=x_next)


def tanh_steps() -> dict[str, Callable[..., None]]:
    """Return the candidates; all but the last do the same."""
    options = {"nogil": True, "error_model": "numpy"}
    return {
        "tanh and the Euler step, kernel": _kernels.tanh_step,
        "kernel without contraction": numba.njit(**options)(_kernels.tanh_step.py_func),
        "loop over the C library's tanh": numba.njit(**options)(library_step),
        "NumPy, an operation after another": numpy_step,
        "numpy.tanh alone": tanh_alone,
    }


def tanh(repeats: int, calls: int) -> dict[str, float]:
    """Return the nanoseconds per number of each, measured in turns on numbers in the cache."""
    rng = np.random.default_rng(0)
    a, bias, x = rng.standard_normal((3, TANH_NUMBERS)).astype(np.float32)
    h, x_next = np.float32(0.02), np.empty_like(x)
    expected = x + h * np.tanh(a + bias)
    runs = {}
    for name, step in tanh_steps().items():
        mine = a.copy()
        step(mine, bias, h, x, x_next)
        if step is not tanh_alone:
            require_equal(name, x_next - x, expected - x)
        # `mine` becomes the slopes, in (0, 1]: from now on all see the same numbers
        runs[name] = lambda step=step, mine=mine: [
            step(mine, bias, h, x, x_next) for _ in range(calls)
        ]
    found = in_turns(runs, repeats, settle=ALWAYS)
    return {name: 1e9 * value / (calls * a.size) for name, (value, _) in found.items()}


# --- tables ---------------------------------------------------------------------------------------


def show(head: str, columns: Mapping[str, Mapping[str, float]], groups: Sequence[int]) -> None:
    """Print the numbers of each column and their ratio to the first of their group of rows."""
    names = list(next(iter(columns.values())))
    rows, start = [], 0
    for size in groups:
        for name in names[start : start + size]:
            rows.append([name])
            for found in columns.values():
                rows[-1] += [f"{found[name]:.2f}", f"{found[name] / found[names[start]]:.2f}"]
        start += size
    print_table([head, *(text for title in columns for text in (title, "x"))], rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, 11)
    parser.add_argument("--batch", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--width", type=int, default=N_STATE)
    parser.add_argument("--depth", type=int, default=DEPTH)
    parser.add_argument("--threads", type=int, default=None, help="default: all cores")
    args = parse(parser, argv, batch=[20], width=10, depth=25, repeats=1)
    work = Workspace(args.threads)
    print_machine(())
    print(f"{work.threads} threads, width {args.width}, depth {args.depth}, float32, medians of "
          f"{args.repeats}; x: relative to the first")  # fmt: skip
    found: dict[str, Any] = {"iteration": {}, "products": {}}
    for m in args.batch:
        p = Problem(m, args.width, args.depth)
        found["iteration"][m] = iterations(p, args.repeats, work)
        found["products"][m] = products(p, args.repeats, work)
    for name, group in (("iteration", [len(VARIANTS)]), ("products", [2, 2])):
        show(name, {f"batch {m}, ms": times for m, times in found[name].items()}, group)
    found["tanh"] = tanh(args.repeats, 2 if args.quick else TANH_CALLS)
    show("tanh, one thread", {"ns per number": found["tanh"]}, [len(found["tanh"])])
    results = {"threads": work.threads, "iteration_ms": found["iteration"],
               "products_ms": found["products"], "tanh_ns": found["tanh"]}  # fmt: skip
    report(args, results)


if __name__ == "__main__":
    main()
