"""The command line, ``python -m snode train | evaluate | attack | ...``; no mathematics."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

from snode import _early
from snode.cli import attack, certify, console, evaluate, predict, reproduce, streams, train  # noqa: F401  each adds its own
from snode.cli.console import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line."""
    console.start_of_process = _early.STARTED
    streams.prepare()
    # only files are drawn; a notebook hands down the backend of its own environment
    os.environ["MPLBACKEND"] = "agg"
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, _interrupt)
    try:
        app()
        code: Any = 0
    except SystemExit as left:
        code = left.code
    sys.exit(streams.finished(code if isinstance(code, int) else int(code is not None)))


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
