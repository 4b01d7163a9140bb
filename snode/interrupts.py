"""Ctrl-C and the signals by which a system ends a job, turned into a wish to stop.

SLURM, Kubernetes and ``timeout`` send SIGTERM and kill half a minute later; a terminal that is
closed sends SIGHUP. Long work that looks at the flag now and then can end with a result instead.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["StopFlag", "stop_on_signals"]

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class StopFlag:
    """Whether a signal came; `name` says which, or is empty."""

    def __init__(self) -> None:
        self.name = ""

    def __call__(self) -> bool:
        """Return whether a signal came."""
        return bool(self.name)


class _Handler:
    """Sets the flag at the first signal. A second Ctrl-C goes to the handler from before."""

    def __init__(self, flag: StopFlag, notify: Callable[[str], object] | None) -> None:
        self.flag, self.notify = flag, notify
        self.previous: dict[int, Any] = {}

    def __call__(self, number: int, frame: Any) -> None:
        previous = self.previous[number]
        if self.flag.name:
            if number == signal.SIGINT:
                if callable(previous):
                    previous(number, frame)
                raise KeyboardInterrupt
            return  # a closed terminal and its session manager both send something
        self.flag.name = signal.Signals(number).name
        if self.notify is not None:
            self.notify(self.flag.name)
        if isinstance(previous, _Handler) and not previous.flag.name:
            previous(number, frame)  # whoever called this work wants to know as well


@contextmanager
def stop_on_signals(notify: Callable[[str], object] | None = None) -> Iterator[StopFlag]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into a flag; a second Ctrl-C interrupts as usual.

    Parameters
    ----------
    notify : callable, optional
        Called with the name of the signal as soon as it comes.

    Notes
    -----
    Only the main thread can have handlers: elsewhere the flag is never set. A signal that is
    ignored (``nohup``, a job in the background) or that another language handles stays so. The
    handlers from before come back at the end.

    Examples
    --------
    >>> from snode.interrupts import stop_on_signals
    >>> with stop_on_signals() as stopped:
    ...     for k in range(3):
    ...         if stopped():
    ...             break
    >>> k, stopped.name
    (2, '')
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    handler = _Handler(flag, notify)
    for name in NAMES:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
            handler.previous[number] = signal.getsignal(number)
    try:
        for number in handler.previous:
            signal.signal(number, handler)
        yield flag
    finally:
        for number, previous in handler.previous.items():
            signal.signal(number, previous)
