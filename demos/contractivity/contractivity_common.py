"""What the demos of paper 003 share: options, matrices, and how numbers and claims are reported."""

from __future__ import annotations

import argparse
import json
import math
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy

import snode

Claim = tuple[str, bool, str]
"""A statement, whether it holds for our numbers, and the numbers themselves."""

RESULTS = Path(__file__).parent.parent / "results"
COLOURS = ("#1b1b3a", "#b3446c", "#e0a030", "#4f9da6")


def options(
    doc: str, name: str, change: Callable[[argparse.ArgumentParser], None] | None = None
) -> argparse.Namespace:
    """Read ``--quick | --full``, ``--seed``, ``--out``, and what `change` adds.

    The result has ``name`` and ``size`` ("quick" or "full") too.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--quick", action="store_true", help="a few seconds (the default)")
    group.add_argument("--full", action="store_true", help="the recorded run")
    parser.add_argument("--seed", type=int, default=1, help="of the random matrices")
    parser.add_argument("--out", type=Path, default=Path(f"{name}.png"), help="figure to write")
    if change is not None:
        change(parser)
    args = parser.parse_args()
    args.name, args.size = name, "full" if args.full else "quick"
    args.out = args.out.with_suffix(args.out.suffix or ".png")
    return args


def finish(
    args: argparse.Namespace, figure: Any, numbers: dict[str, Any], claims: Sequence[Claim],
    leave_out: Sequence[str] = (),
) -> None:  # fmt: skip
    """Write the figure, and numbers and claims as JSON; print the claims.

    `leave_out` names the numbers that are too many to be recorded; the seed gives them again. The
    JSON is ``demos/results/contractivity_NAME.json`` with ``--full``, else beside the figure.
    """
    for text, holds, measured in claims:
        print(f"  {'holds' if holds else 'FAILS'}: {text} ({measured})")
    taken = {"size", "options", "claims", "versions"} & set(numbers)
    if taken:
        raise ValueError(f"numbers must not hold {', '.join(sorted(taken))}: finish writes them")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=110)
    file = args.out.with_suffix(".json")
    if args.size == "full":
        file = RESULTS / f"contractivity_{args.name}.json"
    summary = {
        "size": args.size,
        "options": {key: value for key, value in vars(args).items() if key not in _OWN},
        **{key: value for key, value in numbers.items() if key not in leave_out},
        "claims": [{"claim": t, "agrees": bool(a), "measured": m} for t, a, m in claims],
        "versions": {
            "snode": snode.__version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "python": platform.python_version(),
        },
    }
    text = json.dumps(summary, default=_plain, allow_nan=False)
    file.write_text(text + "\n")
    print(f"wrote {args.out} and {file}")


_OWN = ("quick", "full", "out", "name", "size")


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def gaussian(n: int, rng: np.random.Generator, shift: float = 1.5) -> Any:
    """Return A = G/sqrt(n) - shift I with standard normal G."""
    return rng.standard_normal((n, n)) / math.sqrt(n) - shift * np.eye(n)


def vertices(sizes: Sequence[int], m: float) -> Any:
    """Return all slopes in {m, 1}, one row each, for layers of these sizes."""
    n = sum(sizes)
    bits = np.arange(2**n)[:, None] >> np.arange(n) & 1
    return np.where(bits, 1.0, m)


def brute_force(layers: Sequence[Any], m: float) -> float:
    """Return the largest logarithmic norm of D_k A_k ... D_1 A_1 over all vertices."""
    sizes = [len(A) for A in layers]
    best = -math.inf
    every = vertices(sizes, m)
    for block in np.array_split(every, max(1, len(every) // 1024)):
        J = np.eye(layers[0].shape[1])
        for A, d in zip(layers, np.split(block, np.cumsum(sizes)[:-1], axis=1), strict=True):
            J = d[:, :, None] * (A @ J)
        S = 0.5 * (J + J.swapaxes(1, 2))
        best = max(best, float(np.linalg.eigvalsh(S)[:, -1].max()))
    return best


def wilson(found: int, of: int) -> tuple[float, float]:
    """Return the 95 % interval of Wilson for a share."""
    z = 1.959963984540054
    p, w = found / of, z * z / of
    middle, half = p + w / 2, z * math.sqrt(p * (1 - p) / of + w / (4 * of))
    return (middle - half) / (1 + w), (middle + half) / (1 + w)
