"""What a compressed file may cost in memory: one rule for every reader.

Deflate expands up to 1032-fold, and pixels become numbers of four bytes: a file of 30 kB can ask
for 180 MB. Data that someone measured do not. Images shrink 2 to 10 times, and columns of zeros
and ones stored as doubles about 130 times. So reading a compressed file may take `SMALL` plus
`RATIO` times its size; what the readers spend are the bytes that unpack, and those of the numbers
they become. What is stored without compression is bounded by the size of its file and has no
limit here.
"""

from __future__ import annotations

import io
from typing import Any

__all__ = ["DEFLATE_LIMIT", "NUMBER", "RATIO", "SMALL", "BoundedReader", "Budget"]

DEFLATE_LIMIT = 1032
"""No deflate stream expands by more than this factor."""

SMALL = 24 * 2**20
RATIO = 256
NUMBER = 5
"""Counted for each number beyond its bytes in the file: a float32, and a copy of a pixel."""

_TEXT = 6  # counted for each byte of a text: "1," is a number of 8 bytes and a cell
_CHUNK = 2**16


class Budget:
    """The bytes that may still be made of a file; `remedy` says what to do with a genuine one.

    `more` is allowed on top, where whatever is refused is refused early.
    """

    def __init__(self, file_size: int, remedy: str, more: int = 0) -> None:
        self.left = SMALL + RATIO * file_size + more
        self.remedy = remedy

    def spend(self, size: int) -> None:
        """Take off `size` bytes.

        Raises
        ------
        ValueError
            If so many are not left.
        """
        self.left -= size
        if self.left < 0:
            raise ValueError(
                "expands far beyond the size of the file, as a decompression bomb does; if it is "
                f"genuine, {self.remedy}"
            )


class BoundedReader(io.RawIOBase):
    """A stream of text that spends what is read from it; for `io.BufferedReader`."""

    def __init__(self, stream: Any, budget: Budget) -> None:
        self._stream, self._budget = stream, budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(min(len(buffer), _CHUNK))
        self._budget.spend(_TEXT * len(data))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()
