"""Output that nobody reads any more: a closed pipe ends or changes no run.

``snode train | head`` closes the pipe after ten lines; the run goes on and writes its folder. What
cannot be written because of a full disk is an error at the end.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any

NOBODY = (errno.EPIPE, errno.ECONNRESET, errno.EBADF, errno.ESHUTDOWN)


class _Raw(io.FileIO):
    """A file whose first failed write is remembered and ends the writing."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                return super().write(data)
            except OSError as error:
                self.error = error
        return len(memoryview(data).cast("B"))


def prepare() -> None:
    """Make output and error stream ones that can lose their reader."""
    for descriptor in range(3):  # a file that is opened later must not become the standard output
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif _is_file(stream):
            raw = _Raw(descriptor, "w", closefd=False)
            text = io.TextIOWrapper(
                io.BufferedWriter(raw), encoding=stream.encoding, errors=stream.errors,
                line_buffering=True,
            )  # fmt: skip
            setattr(sys, name, text)


def _is_file(stream: Any) -> bool:
    buffer = getattr(stream, "buffer", None)
    return isinstance(getattr(buffer, "raw", buffer), io.FileIO)  # no buffer with python -u


def finished(code: int) -> int:
    """Flush; return the exit code, which is 1 if output was lost that somebody would have read."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        raw = getattr(getattr(stream, "buffer", None), "raw", None)
        error = getattr(raw, "error", None)
        if error is not None and error.errno not in NOBODY:
            sys.stderr.write(f"error: the output could not be written: {error.strerror}\n")
            sys.stderr.flush()
            code = code or 1
    return code
