"""One complete NCG iteration: `snode.ncg` against the matrix products it cannot avoid and peers.

A complete iteration is: direct problem, adjoint problem with the gradient of W and b, conjugate
direction, sensitivity problem, step length, new weights. All candidates do the same arithmetic on
the same sizes (K = 150, n = 196, float32, squared distance, Fletcher-Reeves).

- floor: the five matrix products per layer, with BLAS's own threads;
- numpy: plain NumPy with preallocated arrays;
- torch: eager autograd for the gradient, hand-written sensitivity;
- jax: scan, vjp and jvp, compiled;
- snode: `snode.ncg`, timed between callbacks (everything included), in L2 and in H1;
- call: a whole call `snode.ncg(n_iter=6)` divided by 6, with its set-up and its final cost.

Run: python benchmarks/ncg_iteration.py --batch 100 1000
"""

from __future__ import annotations

import argparse
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import snode
from snode.runs import environment, now

K, N_STATE, T = 150, 196, 3.0
H = np.float32(T / K)
F32 = np.float32


class Problem:
    """The same random problem for every candidate."""

    def __init__(self, m: int) -> None:
        rng = np.random.default_rng(0)
        self.field = snode.StandaloneField.random(
            N_STATE, T, K, activation="tanh", rng=rng, dtype="float32"
        )
        self.W, self.b = self.field.W.copy(), self.field.b.copy()
        self.dW = (rng.standard_normal(self.W.shape) * -1e-3).astype(F32)
        self.db = (rng.standard_normal(self.b.shape) * -1e-3).astype(F32)
        self.x = -rng.random((N_STATE, m), dtype=F32)
        self.labels = rng.integers(0, 10, m)
        self.y = np.zeros((N_STATE, m), F32)
        self.y[self.labels, np.arange(m)] = 1
        self.m = m


def floor(p: Problem) -> Callable[[], None]:
    Z, G = np.empty_like(p.x), np.empty((N_STATE, N_STATE), F32)

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
    xs = np.empty((K + 1, *p.x.shape), F32)
    slopes = np.empty((K, *p.x.shape), F32)
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
            np.subtract(F32(1), a, out=a)
        lam = (xs[K] - p.y) / F32(p.m)
        for k in range(K - 1, -1, -1):
            np.multiply(slopes[k], lam, out=q)
            np.matmul(q, xs[k].T, out=gW[k])
            np.sum(q, axis=1, out=gb[k])
            np.matmul(W[k].T, q, out=u)
            np.multiply(u, H, out=u)
            np.add(lam, u, out=lam)
        float(np.vdot(gW, gW) + np.vdot(gb, gb))
        np.multiply(dW, F32(0.5), out=dW)
        np.subtract(dW, gW, out=dW)
        np.multiply(db, F32(0.5), out=db)
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
        np.add(W, F32(1e-6) * dW, out=W)

    return run


def pytorch(p: Problem) -> Callable[[], None]:
    import torch

    X, Y = torch.tensor(p.x.T.copy()), torch.tensor(p.y.T.copy())
    W = [torch.tensor(w, requires_grad=True) for w in p.W]
    b = [torch.tensor(v, requires_grad=True) for v in p.b]
    dW, db = [torch.tensor(w) for w in p.dW], [torch.tensor(v) for v in p.db]
    h = float(H)

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

    X, Y = jnp.asarray(p.x.T), jnp.asarray(p.y.T)

    def forward(theta: Any) -> Any:
        def step(x: Any, layer: Any) -> Any:
            W, b = layer
            return x + H * jnp.tanh(x @ W.T + b), None

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


def snode_iterations(p: Problem, inner: str, threads: int | None) -> Iterator[float]:
    """Yield the seconds of one iteration after another, restarting every 30."""
    while True:
        stamps: list[float] = []
        snode.ncg(
            p.field, p.x, p.labels, inner=inner, n_iter=6, threads=threads,
            callback=lambda _, s=stamps: s.append(time.perf_counter()),
        )  # fmt: skip
        yield from np.diff(stamps)


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(m: int, repeats: int, threads: int | None) -> dict[str, float]:
    """Return the median milliseconds of each candidate, measured in turns."""
    p = Problem(m)
    candidates: dict[str, Callable[[], float]] = {}
    for name, make in (
        ("floor", floor), ("numpy", plain_numpy), ("torch", pytorch), ("jax", compiled_jax),
    ):  # fmt: skip
        try:
            run = make(p)
        except ImportError as error:
            print(f"  {name} is not compared: {error}")
            continue
        candidates[name] = lambda run=run: seconds(run)
    for name, inner in (("snode", "l2"), ("snode h1", "h1")):
        stream = snode_iterations(p, inner, threads)
        candidates[name] = lambda stream=stream: next(stream)
    candidates["call"] = lambda: (
        seconds(lambda: snode.ncg(p.field, p.x, p.labels, n_iter=6, threads=threads)) / 6
    )
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(repeats + 2):
        for name, candidate in candidates.items():
            candidate()  # the last candidate left its threads and cache lines behind
            value = candidate()
            if turn >= 2:
                times[name].append(1e3 * value)
    return {name: float(np.median(values)) for name, values in times.items()}


def peak_memory(m: int, inner: str, rule: str = "FR") -> dict[str, float]:
    """Return the peak of `snode.ncg` above its inputs, and the bound, in MB."""
    p = Problem(m)
    snode.ncg(p.field, p.x[:, :32], p.labels[:32], inner=inner, n_iter=2)  # compile first
    tracemalloc.start()
    snode.ncg(p.field, p.x, p.labels, inner=inner, rule=rule, n_iter=6)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    knm, knn = 4 * K * N_STATE * m, 4 * K * N_STATE**2
    return {"peak": peak / 1e6, "bound": (3 * knm + 5 * knn) / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    args = parser.parse_args()
    result: dict[str, Any] = {"environment": environment(), "date": now(), "batches": {}}
    for m in args.batch:
        print(f"batch {m}: one complete NCG iteration, medians of {args.repeats}")
        times = measure(m, args.repeats, args.threads)
        for name, value in times.items():
            print(f"  {name:<9} {value:8.1f} ms   {value / times['floor']:5.2f} x floor")
        peers = [times[name] for name in ("torch", "jax") if name in times]
        if peers:
            print(f"  fastest peer / snode = {min(peers) / times['snode']:.2f}")
        print(f"  H1 / L2 = {times['snode h1'] / times['snode']:.2f}")
        memory = {inner: peak_memory(m, inner) for inner in ("l2", "h1")}
        for inner, numbers in memory.items():
            print(f"  peak memory {inner}: {numbers['peak']:.0f} MB; 3 (K,n,m) + 5 (K,n,n) is "
                  f"{numbers['bound']:.0f} MB")  # fmt: skip
        result["batches"][m] = {"ms": times, "memory_mb": memory}
    if args.json:
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
