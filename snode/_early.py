"""The first module to be loaded: when the program began, and Ctrl-C while the rest is imported.

As a program (``python -m snode``, ``snode``) an interrupt before there is anything to keep ends in
one line, not in a traceback from the middle of NumPy.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STARTED = time.perf_counter()

# python -m snode: the package is imported while argv[0] is still "-m"
IS_PROGRAM = os.path.basename((getattr(sys, "argv", None) or [""])[0]) in (
    "-m",
    "snode",
    "snode.exe",
)


def leave(*_: Any) -> None:
    """End the process: nothing has been computed or opened."""
    try:
        os.write(2, b"error: interrupted\n")
    finally:
        os._exit(1)


@contextmanager
def quiet_interrupts() -> Iterator[None]:
    """End in one line at Ctrl-C."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


_guard = quiet_interrupts()
if IS_PROGRAM:
    _guard.__enter__()


def imported() -> None:
    """Let Ctrl-C be an exception again."""
    if IS_PROGRAM:
        _guard.__exit__(None, None, None)
