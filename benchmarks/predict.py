"""Prediction in blocks of samples by threads, against all samples at once by threads of BLAS.

`snode.predict` of a network 196 x 150 in float32 for 10,000 samples, as `snode evaluate` does. The
candidates: as it is; with one thread; without blocks and threads of its own, one product of all
samples in every layer and BLAS with its own threads. Measured alone, and beside busy processes that
want the cores as well.

Run: python benchmarks/predict.py
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from harness import in_turns, make_parser, parse, print_machine, print_table, report

import snode
from snode.threads import thread_limit

AS_IS, ONE, BLAS = "snode.predict", "one thread", "threads of BLAS"


def candidates(samples: int, n: int, depth: int) -> dict[str, Callable[[], snode.Array]]:
    """Return the ways to predict, by name."""
    rng = np.random.default_rng(0)
    field = snode.StandaloneField.random(n, 3.0, depth, rng=rng, dtype=np.float32)
    x = rng.random((n, samples), dtype=np.float32)

    def one() -> snode.Array:
        with thread_limit(1):
            return snode.predict(field, x)

    def blas() -> snode.Array:
        return snode.solve_direct(field, x, keep="last").x_T[:10].argmax(axis=0)

    return {AS_IS: lambda: snode.predict(field, x), ONE: one, BLAS: blas}


def spin() -> None:
    """Keep a core busy until the process is ended."""
    a = np.arange(1000.0)
    while True:
        a.sum()


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Run so many busy processes within a ``with`` block."""
    others = [multiprocessing.get_context("spawn").Process(target=spin, daemon=True)
              for _ in range(count)]  # fmt: skip
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.terminate()
            other.join()


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, 9)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=196, help="n")
    parser.add_argument("--depth", type=int, default=150)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 4], help="busy processes")
    args = parse(parser, argv, samples=1000, size=16, depth=4, busy=[0], repeats=1)
    print_machine(())
    results = {}
    for count in args.busy:
        with busy(count):
            found = in_turns(candidates(args.samples, args.size, args.depth), args.repeats)
        times = {name: time for name, (time, _) in found.items()}
        same = {name: float((y == found[AS_IS][1]).mean()) for name, (_, y) in found.items()}
        results[str(count)] = {"seconds": times, "same_class": same}
        print(f"{args.samples} samples, beside {count} busy processes, medians of {args.repeats}")
        print_table(
            ["", "ms", "x", "same class"],
            [
                [name, f"{1e3 * t:.0f}", f"{t / times[AS_IS]:.2f}", f"{100 * same[name]:.2f} %"]
                for name, t in times.items()
            ],
        )
    report(args, results)


if __name__ == "__main__":
    main()
