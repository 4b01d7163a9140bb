"""What the benchmarks share: medians measured in turns, missing peers, tables, options, JSON."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from snode.runs import environment, now, plain, write_json

Made = TypeVar("Made")

ALWAYS = math.inf
"""For `settle`: every candidate runs for a while before the time that counts."""

STDOUT = "-"

not_compared: dict[str, str] = {}
"""Peers that this process could not compare, with the reason; `report` writes and clears it."""


# --- times ----------------------------------------------------------------------------------------


def seconds(run: Callable[[], Any]) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


SPIN = 0.15
"""Seconds after which OpenBLAS's waiting threads have given up their cores (about 0.1 here)."""


def medians(
    clocks: Mapping[str, Callable[[], float]],
    repeats: int,
    *,
    warm_up: int = 1,
    settle: float = 0.0,
) -> dict[str, float]:
    """Return the median of the values of each clock, read in turns.

    Parameters
    ----------
    clocks : mapping of callables
        Each runs its candidate once and returns the seconds it took.
    repeats : int
        Turns that count. With 0 the turns of the warm-up count.
    warm_up : int, optional
        Turns before.
    settle : float, optional
        A candidate that took fewer seconds than this in the turn before runs again and again for
        `SPIN` seconds before the time that counts: the candidate before left its cache lines
        behind, and threads of BLAS that wait spinning, on a core that is needed.
    """
    times: dict[str, list[float]] = {name: [] for name in clocks}
    for turn in range(repeats + warm_up):
        for name, clock in clocks.items():
            spent = 0.0 if settle and (turn == 0 or times[name][-1] < settle) else SPIN
            while spent < SPIN:
                spent += clock()
            times[name].append(clock())
    return {name: float(np.median(values[warm_up:] or values)) for name, values in times.items()}


def in_turns(
    runs: Mapping[str, Callable[[], Any]], repeats: int, *, settle: float = 0.0
) -> dict[str, tuple[float, Any]]:
    """Return the median seconds and the last value of each, measured in turns after a warm-up."""
    values: dict[str, Any] = {}

    def clock(name: str) -> Callable[[], float]:
        def read() -> float:
            start = time.perf_counter()
            values[name] = runs[name]()
            return time.perf_counter() - start

        return read

    times = medians({name: clock(name) for name in runs}, repeats, settle=settle)
    return {name: (times[name], values[name]) for name in runs}


def exponent(sizes: Sequence[float], times: Sequence[float]) -> float:
    """Return p of the fit t = c size^p, least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


# --- peers ----------------------------------------------------------------------------------------


def available(makers: Mapping[str, Callable[[], Made]]) -> dict[str, Made]:
    """Return what the makers make; say which peers are missing or fail, and why."""
    found = {}
    for name, make in makers.items():
        try:
            found[name] = make()
        except ImportError as error:
            leave_out(name, str(error))
        except Exception as error:  # a peer that breaks must not end the run
            leave_out(name, f"{type(error).__name__}: {error}")
    return found


def leave_out(name: str, why: str) -> None:
    """Say that a peer is not compared, and keep it for the JSON."""
    not_compared[name] = why
    print(f"  {name} is not compared: {why}")


def versions(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (name, installed version) of packages."""
    for name in names:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            yield name, "not installed"


def threads(count: int | None) -> AbstractContextManager[Any]:
    """Limit the threads of NumPy's BLAS and of PyTorch."""
    if count is None:
        return nullcontext()
    try:
        import torch

        torch.set_num_threads(count)
    except ImportError:
        pass
    limit: AbstractContextManager[Any] = threadpool_limits(count)
    return limit


# --- printing -------------------------------------------------------------------------------------


def print_machine(peers: Sequence[str]) -> None:
    """Print a line with the machine and the versions."""
    machine = environment()
    packages = {**machine["packages"], **dict(versions(peers))}
    print(f"{machine['machine']}, {machine['cores']} cores; Python {machine['python']}; "
          + ", ".join(f"{k} {v}" for k, v in packages.items()))  # fmt: skip


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print texts in columns, the first one to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        first, *rest = (
            text.rjust(width) if i else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  " + "   ".join([first, *rest]))


# --- command line ---------------------------------------------------------------------------------


def make_parser(doc: str | None, repeats: int) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument(
        "--json", nargs="?", const=STDOUT, metavar="FILE",
        help="write all numbers to FILE; without FILE print them at the end",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help="smallest setting: shows that it runs, no figures"
    )
    return parser


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, **quick: Any
) -> argparse.Namespace:
    """Parse; with --quick, `quick` are the defaults."""
    args = parser.parse_args(argv)
    if args.quick:
        parser.set_defaults(**quick)
        args = parser.parse_args(argv)
    return args


def report(args: argparse.Namespace, results: Any, peers: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a benchmark found and with what; write it where --json says."""
    content = {
        "environment": environment(),
        "peers": dict(versions(peers)),
        "date": now(),
        "options": {k: v for k, v in vars(args).items() if k != "json"},
        "not_compared": dict(not_compared),
        "results": results,
    }
    content["options"] = {
        k: str(v) if isinstance(v, Path) else v for k, v in content["options"].items()
    }
    not_compared.clear()
    if args.json:
        write(args.json, content)
    return content


def write(where: str, content: Any) -> None:
    """Write strict JSON to a file, or print it for "-"."""
    if where == STDOUT:
        print(json.dumps(plain(content), indent=2, allow_nan=False))
    else:
        write_json(Path(where), content)
