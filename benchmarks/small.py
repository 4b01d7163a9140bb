"""Small networks: one complete NCG iteration of `snode.ncg` against eager PyTorch and compiled JAX.

The same candidates and the same arithmetic as in `ncg_iteration.py`, tanh, n = 2, 4, 8, 16, m = 500
samples, K = 50 layers: what is done between the products decides here.

Run: python benchmarks/small.py --dtype float32 float64
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness import ALWAYS, make_parser, medians, parse, print_machine, print_table, report
from ncg_iteration import PEERS, Problem, clocks, snode_clock

NAMES = ("snode", "floor", "numpy", "torch", "jax")


def measure(p: Problem, repeats: int, threads: int | None) -> dict[str, float]:
    """Return the median milliseconds of each candidate, measured in turns."""
    candidates = clocks(p)
    candidates["snode"] = snode_clock(p, "l2", threads)
    times = medians(candidates, repeats, warm_up=2, settle=ALWAYS)
    return {name: 1e3 * times[name] for name in NAMES if name in times}


def show(rows: dict[int, dict[str, float]]) -> None:
    """Print milliseconds, and the time of each peer divided by that of snode."""
    names = list(next(iter(rows.values())))
    peers = [name for name in names if name in PEERS]
    print_table(
        ["n", *(f"{name}, ms" for name in names), *(f"{name} / snode" for name in peers)],
        [
            [
                str(n),
                *(f"{times[name]:.2f}" for name in names),
                *(f"{times[name] / times['snode']:.2f}" for name in peers),
            ]
            for n, times in rows.items()
        ],
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, 31)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 4, 8, 16], help="n")
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument(
        "--dtype", nargs="+", choices=("float32", "float64"), default=["float32"]
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=None, help="of snode; the others take all")
    args = parse(parser, argv, sizes=[2], batch=20, depth=5, repeats=1)
    print_machine(PEERS)
    results: dict[str, Any] = {}
    for dtype in args.dtype:
        print(f"{dtype}, {args.batch} samples, {args.depth} layers: one complete NCG iteration, "
              f"medians of {args.repeats}")  # fmt: skip
        results[dtype] = {
            n: measure(Problem(args.batch, n, args.depth, dtype), args.repeats, args.threads)
            for n in args.sizes
        }
        show(results[dtype])
    report(args, {"ms": results}, PEERS)


if __name__ == "__main__":
    main()
