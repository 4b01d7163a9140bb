"""Files of results beside a model, and signs of life while they are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape

from snode import plotting
from snode.cli.console import err, out
from snode.io import replacing


def write_results(
    prefix: Path, arrays: dict[str, Any], *draw: Callable[[Any], Any], quiet: bool = False
) -> None:
    """Write arrays and figure beside each other, and say where."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with replacing(f"{prefix}.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    plotting.figure_of(*draw).savefig(f"{prefix}.png", dpi=110)
    if not quiet:
        written = f"wrote {prefix}.npz, {prefix}.png"
        out.print(written, highlight=False, markup=False, soft_wrap=True)


def result_prefix(model: Path, asked: Path | None, name: str) -> Path:
    """Return where results go: what was asked for, or beside the model."""
    return asked or (model if model.is_dir() else model.parent) / name


@contextmanager
def stage(text: str, quiet: bool) -> Iterator[None]:
    """Say what is being computed; on a terminal with a sign of life."""
    if quiet:
        yield
    elif err.is_terminal:
        with err.status(escape(text)):
            yield
    else:
        err.print(f"{text} ...", highlight=False, markup=False, soft_wrap=True)
        yield
