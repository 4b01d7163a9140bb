"""What the demos of paper 001 share: options, colours, and how numbers and claims are reported."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import train_models

import snode

Claim = tuple[str, bool, str]
"""What the paper says, whether our numbers agree, and the numbers themselves."""

STYLES: dict[str, dict[str, Any]] = {
    "sgd": {"color": "#b3446c", "marker": "o", "linestyle": "-"},
    "sgd-wd": {"color": "#b3446c", "marker": "o", "linestyle": "--", "markerfacecolor": "white"},
    "ncg": {"color": "#1b1b3a", "marker": "s", "linestyle": "-"},
    "ncg-wd": {"color": "#1b1b3a", "marker": "s", "linestyle": "--", "markerfacecolor": "white"},
    "ncg-h1": {"color": "#e0a030", "marker": "^", "linestyle": "-"},
}
"""How each way of training is drawn: colours of different lightness, dashed with weight decay."""


def options(doc: str, out: str, change: Callable[[Any], None] | None = None) -> argparse.Namespace:
    """Read ``--quick | --full``, ``--seeds``, ``--folder``, ``--out`` and what `change` adds.

    The result has ``size`` ("quick" or "full") too.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--quick", action="store_true", help="small networks' training (default)")
    group.add_argument("--full", action="store_true", help="networks trained for one epoch")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="runs of each network")
    parser.add_argument(
        "--folder", type=Path, default=train_models.FOLDER, help="where train_models.py puts them"
    )
    parser.add_argument("--out", type=Path, default=Path(out), help="figure to write")
    if change is not None:
        change(parser)
    args = parser.parse_args()
    args.size = "full" if args.full else "quick"
    args.seeds = tuple(args.seeds)
    args.out = args.out.with_suffix(args.out.suffix or ".png")
    return args


def finish(
    args: argparse.Namespace, figure: Any, numbers: dict[str, Any], claims: Sequence[Claim]
) -> None:
    """Write the figure and, beside it, the numbers and claims as JSON; print the claims.

    `figure` may be a dict of several: name (without suffix) -> figure, in the folder of ``--out``.
    """
    if args.size == "quick":
        print("quick: too little training to judge the claims; --full does")
    for text, agrees, measured in claims:
        print(f"  {'agrees' if agrees else 'DISAGREES'}: {text} ({measured})")
    taken = {"size", "epochs", "seeds", "claims", "versions"} & set(numbers)
    if taken:
        raise ValueError(f"numbers must not hold {', '.join(sorted(taken))}: finish writes them")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figures = figure if isinstance(figure, dict) else {args.out.stem: figure}
    for name, drawn in figures.items():
        drawn.savefig(args.out.with_name(name + args.out.suffix), dpi=110)
    summary = {
        "size": args.size,
        "epochs": train_models.EPOCHS[args.size],
        "seeds": list(args.seeds),
        **numbers,
        "claims": [{"claim": t, "agrees": bool(a), "measured": m} for t, a, m in claims],
        "versions": {
            "snode": snode.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    file = args.out.with_suffix(".json")
    file.write_text(json.dumps(summary, indent=1, default=_plain) + "\n")
    print(f"wrote {', '.join(f'{name}{args.out.suffix}' for name in figures)} and {file}")


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def mean_std(values: Iterable[float]) -> tuple[float, float]:
    """Return mean and standard deviation (0 for a single value)."""
    values = list(values)
    return float(np.mean(values)), float(np.std(values))


def heading(kind: Any) -> str:
    """Return the column of Table 2: ``ReLU, cross entropy``."""
    name = {"relu": "ReLU", "tanh": "tanh"}[kind.activation]
    return f"{name}, {train_models.COST_NAMES[kind.cost]}"


def some(x: Any, y: Any, count: int) -> tuple[Any, Any]:
    """Return the first samples, as the paper does with 1000 test images."""
    return np.ascontiguousarray(x[:, :count]), y[:count]
