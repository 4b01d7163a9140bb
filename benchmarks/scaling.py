"""Time of one complete NCG iteration against batch, width, depth and threads, with its products.

"products" is the time of the five matrix products per layer alone (the floor of
`ncg_iteration.py`), measured in turns with `snode.ncg`. The exponent p is that of the fit
time = c size^p over the whole table and over its upper half: 1 is linear. Width has the exponent 2
where the products decide.

In the table of threads BLAS has as many as snode: snode splits the samples among its own threads,
the products alone are split by BLAS.

Run: python benchmarks/scaling.py
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from harness import exponent, make_parser, medians, parse, print_machine, print_table, report
from ncg_iteration import DEPTH, N_STATE, Problem, clocks, snode_clock
from threadpoolctl import threadpool_limits

SETTLE = 0.2
BATCH = 100


def measure(p: Problem, repeats: int, threads: int | None) -> dict[str, float]:
    """Return the median milliseconds of the products and of an iteration."""
    with threadpool_limits(threads, user_api="blas"):
        candidates = {**clocks(p, ["floor"]), "snode": snode_clock(p, "l2", threads)}
        times = medians(candidates, repeats, settle=SETTLE)
    return {name: 1e3 * value for name, value in times.items()}


def against(
    name: str, problems: dict[int, tuple[int, int, int]], repeats: int, threads: Any
) -> Any:
    """Measure the problems (m, n, K), one after another, print the table and the exponents."""
    rows = {}
    for size, shape in problems.items():
        rows[size] = measure(Problem(*shape), repeats, threads)
    show(name, rows)
    sizes, times = list(rows), [row["snode"] for row in rows.values()]
    found: dict[str, Any] = {"ms": rows}
    if len(sizes) > 1:
        half = min(len(sizes) // 2, len(sizes) - 2)
        found["exponent"] = exponent(sizes, times)
        found["exponent_upper_half"] = exponent(sizes[half:], times[half:])
        print(f"  exponent {found['exponent']:.2f}; from {sizes[half]} on "
              f"{found['exponent_upper_half']:.2f}")  # fmt: skip
    return found


def show(name: str, rows: dict[int, dict[str, float]]) -> None:
    """Print milliseconds, the ratio to the products, and microseconds per unit of size."""
    print_table(
        [name, "products, ms", "snode.ncg, ms", "x products", "us per unit"],
        [
            [
                str(size),
                f"{row['floor']:.2f}",
                f"{row['snode']:.2f}",
                f"{row['snode'] / row['floor']:.2f}",
                f"{1e3 * row['snode'] / size:.1f}",
            ]
            for size, row in rows.items()
        ],
    )


def against_threads(counts: list[int], batches: list[int], shape: Any, repeats: int) -> Any:
    """Measure each batch with each number of threads."""
    found: dict[int, Any] = {}
    for m in batches:
        p = Problem(m, *shape)
        found[m] = {count: measure(p, repeats, count) for count in counts}
        print_table(
            [f"threads, batch {m}", "products, ms", "snode.ncg, ms", "x products", "faster than 1"],
            [
                [
                    str(count),
                    f"{row['floor']:.2f}",
                    f"{row['snode']:.2f}",
                    f"{row['snode'] / row['floor']:.2f}",
                    f"{found[m][counts[0]]['snode'] / row['snode']:.2f}",
                ]
                for count, row in found[m].items()
            ],
        )
    return found


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, 7)
    parser.add_argument(
        "--batch", type=int, nargs="*", default=[50, 100, 200, 500, 1000, 2000, 4000]
    )
    parser.add_argument("--width", type=int, nargs="*", default=[14, 28, 49, 98, 196, 392, 784])
    parser.add_argument("--depth", type=int, nargs="*", default=[10, 20, 50, 100, 150, 300, 600])
    parser.add_argument("--threads", type=int, nargs="*", help="default: 1, 2, 4, ... all cores")
    parser.add_argument("--threads-batch", type=int, nargs="+", default=[BATCH, 1000])
    args = parse(
        parser, argv, batch=[20, 40], width=[4, 8], depth=[5, 10], threads=[1], threads_batch=[20],
        repeats=1,
    )  # fmt: skip
    n, K = (8, 5) if args.quick else (N_STATE, DEPTH)
    counts = args.threads
    if counts is None:
        counts = sorted({1, *(c for c in (2, 4, 8, 16, 32, 64) if c < cores()), cores()})
    print_machine(())
    print(f"one complete NCG iteration, medians of {args.repeats}; width {n}, depth {K}, batch "
          f"{BATCH} where nothing else is said; float32")  # fmt: skip
    tables: dict[str, dict[int, tuple[int, int, int]]] = {
        "batch": {m: (m, n, K) for m in sorted(args.batch)},
        "width": {k: (BATCH, k, K) for k in sorted(args.width)},
        "depth": {k: (BATCH, n, k) for k in sorted(args.depth)},
    }
    results = {
        name: against(name, problems, args.repeats, None)
        for name, problems in tables.items()
        if problems
    }
    results["threads"] = against_threads(counts, args.threads_batch, (n, K), args.repeats)
    report(args, results)


if __name__ == "__main__":
    main()
