"""Files of results beside a model, and signs of life while they are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from snode import plotting
from snode.cli.console import err, out, say
from snode.interrupts import stop_on_signals
from snode.io import replacing
from snode.progress import Callback, bar
from snode.runs import check_writable


def write_results(
    prefix: Path, arrays: dict[str, Any], *draw: Callable[[Any], Any], quiet: bool = False
) -> None:
    """Write arrays and figure beside each other, and say where."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with replacing(f"{prefix}.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    drawn = save_figure(Path(f"{prefix}.png"), lambda: plotting.figure_of(*draw))
    if not quiet:
        written = f"wrote {prefix}.npz" + (f", {prefix}.png" if drawn else "")
        out.print(written, highlight=False, markup=False, soft_wrap=True)


def save_figure(path: Path, draw: Callable[[], Any]) -> bool:
    """Write a figure; a plotting library that does not work costs the figure, not the results."""
    try:
        figure = draw()
        with replacing(path) as temporary, temporary.open("wb") as file:
            figure.savefig(file, format="png", dpi=110)
    except OSError:
        raise
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        err.print(f"warning: {path} was not drawn: {why}", highlight=False, markup=False,
                  soft_wrap=True)  # fmt: skip
        return False
    return True


def result_prefix(model: Path, asked: Path | None, name: str) -> Path:
    """Return where results go: what was asked for, or beside the model.

    Raises
    ------
    OSError
        If nothing can be written there, before anything has been computed.
    """
    prefix = asked or (model if model.is_dir() else model.parent) / name
    check_writable(prefix.parent)
    for suffix in (".npz", ".png"):
        if Path(f"{prefix}{suffix}").is_dir():
            raise IsADirectoryError(f"{prefix}{suffix} is a folder")
    return prefix


@contextmanager
def stoppable(title: str, quiet: bool) -> Iterator[Callback]:
    """Show a bar; the first Ctrl-C or SIGTERM stops the work that is told of it, with a result."""

    def answer(name: str) -> None:
        say(f"\n{name.replace('SIGINT', 'Ctrl-C')}: stops; what was found until now is shown and "
            "written (Ctrl-C again: ends at once, without)")  # fmt: skip

    with (
        stop_on_signals(answer) as stopped,
        bar(title, console=err, quiet=quiet, stopped=stopped) as callback,
    ):
        yield callback
