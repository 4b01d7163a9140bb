"""Progress of long work: what a callback is told, and a bar that shows it.

Long functions take ``callback=``, a function of one argument that has the attributes `done`,
`total` and `what`. Between two pieces of work they call it; if it returns True, they stop and
return what they have, which is valid but not all that was asked for.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

__all__ = ["Callback", "Progress", "bar", "check_callback", "tell"]


@dataclass(frozen=True)
class Progress:
    """How far a piece of work is.

    Attributes
    ----------
    done : float
        Pieces that are done.
    total : float or None
        Pieces in all; None if that is not known.
    what : str
        What is done now, in a few words.
    detail : str
        Numbers of interest, such as the cost.
    """

    done: float
    total: float | None
    what: str
    detail: str = ""


Callback = Callable[[Any], object]


def check_callback(callback: Any) -> None:
    """Raise TypeError unless the argument is a function or None."""
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function of one argument or None; got {callback!r}")


def tell(
    callback: Callback | None, done: float, total: float | None, what: str, detail: str = ""
) -> bool:
    """Tell a callback how far the work is; return whether it asks to stop.

    Examples
    --------
    >>> from snode.progress import tell
    >>> tell(lambda state: state.done > 2, 3, 10, "counting"), tell(None, 3, 10, "counting")
    (True, False)
    """
    return callback is not None and bool(callback(Progress(done, total, what, detail)))


@contextmanager
def bar(
    title: str = "",
    *,
    console: Any = None,
    quiet: bool = False,
    stopped: Callable[[], bool] | None = None,
) -> Iterator[Callback]:
    """Show a bar with the time left, and yield the callback that moves it.

    Parameters
    ----------
    title : str, optional
        Stands in front of what is being done.
    console : rich.console.Console, optional
        Default: the error stream. Where that is no terminal, a line is printed for each new kind of
        work instead.
    quiet : bool, optional
        Show nothing.
    stopped : callable, optional
        What the callback returns: True to stop. Default: never.

    Examples
    --------
    >>> import snode
    >>> from snode.progress import bar
    >>> x, y = snode.datasets.two_moons(20, rng=0)
    >>> field = snode.StandaloneField.random(2, 1.0, 5, rng=0)
    >>> with bar(quiet=True) as callback:
    ...     result = snode.train(field, (x, y), progress=callback, rng=0)
    """
    ask = stopped or (lambda: False)
    if quiet:
        yield lambda state: ask()
        return
    console = console or _error_console()
    if not (console.is_terminal or console.is_jupyter):
        yield _Lines(title, console, ask)
        return
    from rich.progress import (
        BarColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24),
        TextColumn("{task.fields[count]}"), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(), TextColumn("{task.fields[detail]}"),
    )  # fmt: skip
    with RichProgress(*columns, console=console, transient=True) as shown:
        yield _Bar(title, shown, ask)


def _error_console() -> Any:
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_jupyter:
        try:
            import_module("ipywidgets")  # without it rich shows a warning, and no bar
        except ImportError:
            return Console(stderr=True, force_jupyter=False)
    return console


class _Bar:
    """A callback that moves a bar of rich."""

    def __init__(self, title: str, shown: Any, ask: Callable[[], bool]) -> None:
        self.title, self.shown, self.ask = title, shown, ask
        self.task = shown.add_task(self._text("starting"), total=None, count="", detail="")
        self.last: tuple[float, float | None] = (0, None)

    def _text(self, what: str) -> str:
        from rich.markup import escape

        return escape(f"{self.title}: {what}" if self.title else what)

    def __call__(self, state: Any) -> bool:
        stop = self.ask()
        done, total = state.done, state.total
        if done < self.last[0] or total != self.last[1]:  # other work: the pace starts afresh
            self.shown.reset(self.task, total=total)
        self.last = (done, total)
        count = "" if total is None else f"{done:.4g}/{total:.4g}"
        what = f"stopping ({state.what})" if stop else state.what
        self.shown.update(
            self.task, completed=done, total=total, description=self._text(what), count=count,
            detail=getattr(state, "detail", ""),
        )  # fmt: skip
        return stop


class _Lines:
    """A callback that prints a line for each kind of work; numbers do not make a new kind."""

    def __init__(self, title: str, console: Any, ask: Callable[[], bool]) -> None:
        self.title, self.console, self.ask = title, console, ask
        self.seen: set[str] = set()

    def __call__(self, state: Any) -> bool:
        kind = re.sub(r"[\d.,]+", "", state.what)
        if kind not in self.seen:
            self.seen.add(kind)
            text = f"{self.title}: {state.what}" if self.title else state.what
            self.console.print(f"{text} ...", highlight=False, markup=False, soft_wrap=True)
        return self.ask()


class Teller:
    """Tells a callback how far the work is; once it has asked to stop, that stays so."""

    def __init__(self, callback: Callback | None, total: float | None) -> None:
        self.callback, self.total, self.stopped = callback, total, False

    def tell(self, done: float, what: str) -> bool:
        """Return whether to stop."""
        self.stopped = self.stopped or tell(self.callback, done, self.total, what)
        return self.stopped


class Pace:
    """Calls of a callback at most ten times a second; every answer in between is the last one."""

    def __init__(self, callback: Callback | None, total: float | None, what: str) -> None:
        self.callback, self.total, self.what = callback, total, what
        self.done, self.next, self.stop = 0.0, 0.0, False

    def __call__(self, pieces: float = 1.0) -> bool:
        """Count pieces of work; return whether to stop."""
        self.done += pieces
        if self.callback is not None and not self.stop and time.monotonic() >= self.next:
            self.stop = tell(self.callback, self.done, self.total, self.what)
            self.next = time.monotonic() + 0.1
        return self.stop
