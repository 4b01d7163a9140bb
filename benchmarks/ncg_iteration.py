"""One complete NCG iteration: `snode.ncg` against the matrix products it cannot avoid and peers.

A complete iteration is: direct problem, adjoint problem with the gradient of W and b, conjugate
direction, sensitivity problem, step length, new weights. All candidates do the same arithmetic on
the same sizes (default: K = 150, n = 196, float32, squared distance, Fletcher-Reeves).

- floor: the five matrix products per layer, with BLAS's own threads;
- numpy: plain NumPy with preallocated arrays;
- torch: eager autograd for the gradient, hand-written sensitivity;
- jax: scan, vjp and jvp, compiled;
- snode: `snode.ncg`, timed between callbacks (everything included), in L2 and in H1;
- call: a whole call `snode.ncg(n_iter=6)` divided by 6, with its set-up and its final cost.

Run: python benchmarks/ncg_iteration.py --batch 100 1000
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from harness import ALWAYS, available, make_parser, medians, parse, report, seconds

import snode

DEPTH, N_STATE, T = 150, 196, 3.0
PEERS = ("torch", "jax")


class Problem:
    """The same random problem for every candidate: K layers of width n, m samples."""

    def __init__(self, m: int, n: int = N_STATE, K: int = DEPTH, dtype: str = "float32") -> None:
        rng = np.random.default_rng(0)
        self.field = snode.StandaloneField.random(n, T, K, activation="tanh", rng=rng, dtype=dtype)
        self.m, self.K, self.dtype = m, K, np.dtype(dtype).type
        self.h = self.dtype(T / K)
        self.W, self.b = self.field.W, self.field.b
        self.dW = (rng.standard_normal(self.W.shape) * -1e-3).astype(dtype)
        self.db = (rng.standard_normal(self.b.shape) * -1e-3).astype(dtype)
        self.x = -rng.random((n, m), dtype=self.dtype)
        self.cost = snode.Cost(n_classes=min(10, n))
        self.labels = rng.integers(0, self.cost.n_classes, m)
        self.y = np.zeros((n, m), dtype)
        self.y[self.labels, np.arange(m)] = 1


def floor(p: Problem) -> Callable[[], None]:
    K = p.K
    Z, G = np.empty_like(p.x), np.empty_like(p.W[0])

    def run() -> None:
        for k in range(K):
            np.matmul(p.W[k], p.x, out=Z)
        for k in range(K):
            np.matmul(p.W[k].T, p.x, out=Z)
        for _ in range(K):
            np.matmul(Z, p.x.T, out=G)
        for k in range(K):
            np.matmul(p.W[k], p.x, out=Z)
            np.matmul(p.dW[k], p.x, out=Z)

    return run


def plain_numpy(p: Problem) -> Callable[[], None]:
    K, H, real = p.K, p.h, p.dtype
    xs = np.empty((K + 1, *p.x.shape), real)
    slopes = np.empty((K, *p.x.shape), real)
    gW, gb = np.empty_like(p.W), np.empty_like(p.b)
    W, dW, db = p.W.copy(), p.dW.copy(), p.db.copy()
    q, u = np.empty_like(p.x), np.empty_like(p.x)

    def run() -> None:
        xs[0] = p.x
        for k in range(K):
            a = slopes[k]
            np.matmul(W[k], xs[k], out=a)
            a += p.b[k][:, None]
            np.tanh(a, out=a)
            np.multiply(a, H, out=u)
            np.add(xs[k], u, out=xs[k + 1])
            np.multiply(a, a, out=a)
            np.subtract(real(1), a, out=a)
        lam = (xs[K] - p.y) / real(p.m)
        for k in range(K - 1, -1, -1):
            np.multiply(slopes[k], lam, out=q)
            np.matmul(q, xs[k].T, out=gW[k])
            np.sum(q, axis=1, out=gb[k])
            np.matmul(W[k].T, q, out=u)
            np.multiply(u, H, out=u)
            np.add(lam, u, out=lam)
        float(np.vdot(gW, gW) + np.vdot(gb, gb))
        np.multiply(dW, real(0.5), out=dW)
        np.subtract(dW, gW, out=dW)
        np.multiply(db, real(0.5), out=db)
        np.subtract(db, gb, out=db)
        xi = np.zeros_like(p.x)
        for k in range(K):
            np.matmul(dW[k], xs[k], out=q)
            np.matmul(W[k], xi, out=u)
            np.add(q, u, out=q)
            np.add(q, db[k][:, None], out=q)
            np.multiply(q, slopes[k], out=q)
            np.multiply(q, H, out=q)
            np.add(xi, q, out=xi)
        np.add(W, real(1e-6) * dW, out=W)

    return run


def pytorch(p: Problem) -> Callable[[], None]:
    import torch

    X, Y = torch.tensor(p.x.T.copy()), torch.tensor(p.y.T.copy())
    W = [torch.tensor(w, requires_grad=True) for w in p.W]
    b = [torch.tensor(v, requires_grad=True) for v in p.b]
    dW, db = [torch.tensor(w) for w in p.dW], [torch.tensor(v) for v in p.db]
    K, h = p.K, float(p.h)

    def run() -> None:
        x, xs, ys = X, [], []
        for k in range(K):
            y = torch.tanh(torch.addmm(b[k], x, W[k].t()))
            xs.append(x)
            ys.append(y)
            x = x + h * y
        g = torch.autograd.grad(0.5 * ((x - Y) ** 2).sum() / p.m, W + b)
        with torch.no_grad():
            sum(torch._foreach_norm(g))
            torch._foreach_mul_(dW + db, 0.5)
            torch._foreach_sub_(dW + db, g)
            xi = torch.zeros_like(X)
            for k in range(K):
                a = xi @ W[k].t() + xs[k] @ dW[k].t() + db[k]
                xi = xi + h * (1 - ys[k] ** 2) * a
            torch._foreach_add_(W, dW, alpha=1e-6)

    return run


def compiled_jax(p: Problem) -> Callable[[], None]:
    import jax
    import jax.numpy as jnp

    if p.dtype is np.float64:
        jax.config.update("jax_enable_x64", True)
    h = p.h
    X, Y = jnp.asarray(p.x.T), jnp.asarray(p.y.T)

    def forward(theta: Any) -> Any:
        def step(x: Any, layer: Any) -> Any:
            W, b = layer
            return x + h * jnp.tanh(x @ W.T + b), None

        return jax.lax.scan(step, X, theta)[0]

    @jax.jit
    def iteration(theta: Any, d: Any) -> Any:
        x, vjp = jax.vjp(forward, theta)
        g = vjp((x - Y) / p.m)[0]
        norm = sum(jnp.vdot(v, v) for v in g)
        d = jax.tree.map(lambda d, g: 0.5 * d - g, d, g)
        xi = jax.jvp(forward, (theta,), (d,))[1]
        return jax.tree.map(lambda w, d: w + 1e-6 * d, theta, d), d, norm, xi

    theta = (jnp.asarray(p.W), jnp.asarray(p.b))
    d = (jnp.asarray(p.dW), jnp.asarray(p.db))
    return lambda: jax.block_until_ready(iteration(theta, d))


MAKERS = {"floor": floor, "numpy": plain_numpy, "torch": pytorch, "jax": compiled_jax}


def snode_iterations(
    p: Any, inner: str = "l2", threads: int | None = None, **options: Any
) -> Iterator[float]:
    """Yield the seconds of one iteration after another, restarting every 6."""
    while True:
        stamps: list[float] = []
        snode.ncg(
            p.field, p.x, p.labels, p.cost, inner=inner, n_iter=6, threads=threads,
            callback=lambda _, s=stamps: s.append(time.perf_counter()), **options,
        )  # fmt: skip
        yield from np.diff(stamps)


def snode_clock(p: Problem, inner: str = "l2", threads: int | None = None) -> Callable[[], float]:
    """Return a clock that reads the seconds of the next iteration."""
    return snode_iterations(p, inner, threads).__next__


def clocks(p: Problem, names: Iterable[str] = MAKERS) -> dict[str, Callable[[], float]]:
    """Return the clocks of the floor and the peers that are there; each has run once."""

    def tried(name: str) -> Callable[[], float]:
        run = MAKERS[name](p)
        run()
        return lambda: seconds(run)

    return available({name: lambda name=name: tried(name) for name in names})


def measure(p: Problem, repeats: int, threads: int | None) -> dict[str, float]:
    """Return the median milliseconds of each candidate, measured in turns."""
    candidates = clocks(p)
    candidates["snode"] = snode_clock(p, "l2", threads)
    candidates["snode h1"] = snode_clock(p, "h1", threads)
    candidates["call"] = lambda: (
        seconds(lambda: snode.ncg(p.field, p.x, p.labels, p.cost, n_iter=6, threads=threads)) / 6
    )
    times = medians(candidates, repeats, warm_up=2, settle=ALWAYS)
    return {name: 1e3 * value for name, value in times.items()}


def peak_memory(p: Any, inner: str, rule: str = "FR", **options: Any) -> dict[str, float]:
    """Return the peak of `snode.ncg` above its inputs, and the bound, in MB."""
    n, m = p.x.shape
    snode.ncg(p.field, p.x[:, :32], p.labels[:32], p.cost, inner=inner, n_iter=2)  # compile first
    tracemalloc.start()
    snode.ncg(p.field, p.x, p.labels, p.cost, inner=inner, rule=rule, n_iter=6, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    knm, knn = p.K * n * m * p.x.itemsize, p.W.nbytes
    return {"peak": peak / 1e6, "bound": (3 * knm + 5 * knn) / 1e6}


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, 15)
    parser.add_argument("--batch", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--width", type=int, default=N_STATE)
    parser.add_argument("--depth", type=int, default=DEPTH)
    parser.add_argument("--threads", type=int, default=None, help="of snode; the others take all")
    args = parse(parser, argv, batch=[20], width=8, depth=10, repeats=1)
    batches: dict[int, Any] = {}
    for m in args.batch:
        print(f"batch {m}: one complete NCG iteration, medians of {args.repeats}")
        p = Problem(m, args.width, args.depth)
        times = measure(p, args.repeats, args.threads)
        for name, value in times.items():
            print(f"  {name:<9} {value:8.1f} ms   {value / times['floor']:5.2f} x floor")
        peers = [times[name] for name in ("torch", "jax") if name in times]
        if peers:
            print(f"  fastest peer / snode = {min(peers) / times['snode']:.2f}")
        print(f"  H1 / L2 = {times['snode h1'] / times['snode']:.2f}")
        memory = {inner: peak_memory(p, inner) for inner in ("l2", "h1")}
        for inner, numbers in memory.items():
            print(f"  peak memory {inner}: {numbers['peak']:.0f} MB; 3 (K,n,m) + 5 (K,n,n) is "
                  f"{numbers['bound']:.0f} MB")  # fmt: skip
        batches[m] = {"ms": times, "memory_mb": memory}
    report(args, {"batches": batches}, PEERS)


if __name__ == "__main__":
    main()
