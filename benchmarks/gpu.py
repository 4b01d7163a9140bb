"""One NCG iteration on a GPU: `snode` on CuPy arrays, PyTorch, JAX, cuBLAS, and the host's CPU.

A complete iteration as in `ncg_iteration.py` (default: K = 150, n = 196, float32, squared distance,
Fletcher-Reeves), all candidates on the same GPU in one run, in turns:

- products: the five matrix products per layer as stacked calls of cuBLAS, its own rate;
- snode: `snode.ncg` on CuPy arrays, timed between callbacks, in L2 and in H1;
- torch: eager autograd for the gradient, hand-written sensitivity;
- torch compiled, torch graphs: the same with `torch.compile`, without and with CUDA graphs;
- jax: scan, vjp and jvp, compiled;
- cpu: `snode.ncg` on NumPy arrays, on the host of the GPU.

Nobody uses TF32: CuPy and PyTorch do not by default, JAX is told not to.

Without a GPU, or without CuPy, it says so and ends. What is missing of the peers is left out.

Run: python benchmarks/gpu.py --batch 100 1000 10000 60000
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from harness import ALWAYS, available, make_parser, medians, parse, print_table, report, seconds
from ncg_iteration import DEPTH, N_STATE, Problem, snode_clock

import snode
from snode.backend import describe_devices

PEERS = ("cupy-cuda12x", "cupy-cuda13x", "torch", "jax", "jax-cuda12-plugin")
STACKED_BYTES = 4e9
"""Of the stacks behind the rate of cuBLAS: fewer layers are multiplied where K are too many."""

LARGEST_ON_CPU = 10_000
ITERATIONS = 8


# --- snode ----------------------------------------------------------------------------------------


class OnDevice:
    """A problem of `ncg_iteration` with device arrays."""

    def __init__(self, p: Problem, xp: Any) -> None:
        theta = {name: xp.asarray(array) for name, array in p.field.parameters.items()}
        self.field = snode.StandaloneField(**theta, T=p.field.T, activation="tanh")
        self.x, self.labels, self.cost = xp.asarray(p.x), xp.asarray(p.labels), p.cost


def iterations(p: Any, inner: str) -> Iterator[float]:
    """Yield the seconds of whole iterations: not of the last one, which looks at the cost only."""
    while True:
        stamps: list[float] = []
        snode.ncg(
            p.field, p.x, p.labels, p.cost, inner=inner, n_iter=ITERATIONS,
            callback=lambda _, s=stamps: s.append(time.perf_counter()),
        )  # fmt: skip
        yield from (b - a for a, b in pairwise(stamps[:-1]))


def difference(p: Problem, xp: Any) -> float:
    """Return how far the costs of 4 iterations on device and host are apart, relatively."""
    costs = [
        snode.ncg(q.field, q.x, q.labels, q.cost, n_iter=4).history.cost
        for q in (p, OnDevice(p, xp))
    ]
    return float(np.abs(costs[1] / costs[0] - 1).max())


# --- the products ---------------------------------------------------------------------------------


def products(p: Problem, xp: Any, wait: Callable[[], Any]) -> Callable[[], float]:
    """Return a clock of the five products per layer, in five calls for many layers at once."""
    n, m = p.x.shape
    layers = max(1, min(p.K, int(STACKED_BYTES / (3 * n * m * p.x.itemsize))))
    W = xp.asarray(p.W[:layers])
    x = xp.broadcast_to(xp.asarray(p.x), (layers, n, m)).copy()
    xt = xp.broadcast_to(xp.asarray(p.x.T.copy()), (layers, m, n)).copy()
    z, g = xp.empty_like(x), xp.empty_like(W)

    def run() -> None:
        for _ in range(4):
            xp.matmul(W, x, out=z)
        xp.matmul(x, xt, out=g)
        wait()

    run()
    return lambda: seconds(run) * p.K / layers


def flops(p: Problem) -> float:
    """Floating point operations of the five products of all layers."""
    n, m = p.x.shape
    return 5.0 * 2.0 * n * n * m * p.K


# --- peers ----------------------------------------------------------------------------------------


def torch_clock(p: Problem, device: str, mode: str | None = None) -> Callable[[], float]:
    """Return a clock of PyTorch: eager, or compiled with a `mode` of `torch.compile`."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ImportError("this PyTorch sees no GPU")

    def there(array: Any, **options: Any) -> Any:
        return torch.tensor(array, device=device, **options)

    K, h, m = p.K, float(p.h), p.m
    X, Y = there(p.x.T.copy()), there(p.y.T.copy())
    W = [there(w, requires_grad=True) for w in p.W]
    b = [there(v, requires_grad=True) for v in p.b]
    dW, db = [there(w) for w in p.dW], [there(v) for v in p.db]

    def forward(W: Any, b: Any) -> Any:
        x, xs, ys = X, [], []
        for k in range(K):
            y = torch.tanh(torch.addmm(b[k], x, W[k].t()))
            xs.append(x)
            ys.append(y)
            x = x + h * y
        return 0.5 * ((x - Y) ** 2).sum() / m, xs, ys

    def sensitivity(W: Any, dW: Any, db: Any, xs: Any, ys: Any) -> Any:
        xi = torch.zeros_like(X)
        for k in range(K):
            a = xi @ W[k].t() + xs[k] @ dW[k].t() + db[k]
            xi = xi + h * (1 - ys[k] ** 2) * a
        return (xi * xi).sum()

    if mode is not None:
        forward, sensitivity = (torch.compile(f, mode=mode) for f in (forward, sensitivity))

    def run() -> None:
        if mode is not None:
            torch.compiler.cudagraph_mark_step_begin()
        cost, xs, ys = forward(W, b)
        g = torch.autograd.grad(cost, W + b)
        with torch.no_grad():
            norm = sum(torch._foreach_norm(g))
            torch._foreach_mul_(dW + db, 0.5)
            torch._foreach_sub_(dW + db, list(g))
            done = sensitivity(W, dW, db, [x.detach() for x in xs], [y.detach() for y in ys])
            torch._foreach_add_(W, dW, alpha=1e-6)
        float(norm + done)  # waits

    run()
    run()
    return lambda: seconds(run)


def jax_clock(p: Problem, platform: str) -> Callable[[], float]:
    """Return a clock of compiled JAX."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    if jax.default_backend() != platform:
        raise ImportError(f"this JAX runs on {jax.default_backend()}")
    jax.config.update("jax_default_matmul_precision", "highest")
    from ncg_iteration import compiled_jax

    run = compiled_jax(p)
    run()
    return lambda: seconds(run)


def cpu_clock(p: Problem) -> Callable[[], float]:
    """Return a clock of `snode.ncg` on the host."""
    if p.m > LARGEST_ON_CPU:
        raise RuntimeError(f"on the host up to {LARGEST_ON_CPU} samples; see --cpu-all")
    return snode_clock(p)


# --- one batch size -------------------------------------------------------------------------------


def measure(p: Problem, repeats: int, cpu_all: bool) -> dict[str, float]:
    """Return the median milliseconds of each candidate on the GPU, in turns, then of the CPU."""
    import cupy

    wait = cupy.cuda.get_current_stream().synchronize
    q = OnDevice(p, cupy)
    candidates = available({
        "products": lambda: products(p, cupy, wait),
        "snode": lambda: iterations(q, "l2").__next__,
        "snode h1": lambda: iterations(q, "h1").__next__,
        "torch": lambda: torch_clock(p, "cuda"),
        "torch compiled": lambda: torch_clock(p, "cuda", "default"),
        "torch graphs": lambda: torch_clock(p, "cuda", "reduce-overhead"),
        "jax": lambda: jax_clock(p, "gpu"),
    })  # fmt: skip
    times = medians(candidates, repeats, warm_up=2, settle=ALWAYS)
    host = available({"cpu": lambda: snode_clock(p) if cpu_all else cpu_clock(p)})
    times |= medians(host, min(repeats, 3))
    return {name: 1e3 * value for name, value in times.items()}


def free() -> None:
    """Give cached memory of the libraries back to the GPU."""
    import cupy

    cupy.get_default_memory_pool().free_all_blocks()
    try:
        import torch

        torch.cuda.empty_cache()
    except ImportError:
        pass


def show(p: Problem, times: dict[str, float]) -> None:
    """Print a table and the share of cuBLAS's rate."""
    base = times.get("products")
    rows = [
        [name, f"{ms:.2f}", f"{base / ms:.0%}" if base else "", f"{flops(p) / ms / 1e9:.1f}"]
        for name, ms in times.items()
    ]
    print_table(["", "ms", "of cuBLAS", "TFLOP/s"], rows)
    peers = {name: ms for name, ms in times.items() if name.startswith(("torch", "jax"))}
    if peers and "snode" in times:
        fastest = min(peers, key=lambda name: peers[name])
        print(f"  fastest peer ({fastest}) / snode = {peers[fastest] / times['snode']:.2f}")


def why_not() -> str | None:
    """Return why nothing can be measured, or None."""
    device = describe_devices()
    return device if device.startswith("none") else None


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, 15)
    parser.add_argument("--batch", type=int, nargs="+", default=[100, 1000, 10_000, 60_000])
    parser.add_argument("--width", type=int, default=N_STATE)
    parser.add_argument("--depth", type=int, default=DEPTH)
    parser.add_argument(
        "--cpu-all", action="store_true",
        help=f"measure the CPU of the host also with more than {LARGEST_ON_CPU} samples",
    )  # fmt: skip
    args = parse(parser, argv, batch=[20], width=8, depth=10, repeats=1)
    reason = why_not()
    if reason is not None:
        print(f"no GPU to measure on: {reason}")
        report(args, {"gpu": None, "why": reason, "batches": {}}, PEERS)
        return
    import cupy

    print(f"GPU: {describe_devices()}; CuPy {cupy.__version__}")
    apart = difference(Problem(min(args.batch), args.width, args.depth), cupy)
    print(f"costs of 4 iterations, device and host: relative difference {apart:.1e}")
    batches: dict[int, Any] = {}
    for m in args.batch:
        print(f"batch {m}: one complete NCG iteration, medians of {args.repeats}")
        p = Problem(m, args.width, args.depth)
        batches[m] = {"ms": measure(p, args.repeats, args.cpu_all), "flop": flops(p)}
        show(p, batches[m]["ms"])
        free()
    report(
        args, {"gpu": describe_devices(), "difference": apart, "batches": batches}, PEERS
    )  # fmt: skip


if __name__ == "__main__":
    main()
