"""One `.npy` array out of an archive: its header is matched, never evaluated."""

from __future__ import annotations

import math
import re
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from snode._expansion import NUMBER, Budget

__all__ = ["read_npy"]

_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 10_000  # bytes; NumPy's own limit
_MAX_NDIM = 32
_CHUNK = 2**20

_ENTRY = re.compile(
    r"""\s*(?P<quote>['"])(?P<key>descr|fortran_order|shape)(?P=quote)\s*:\s*
    (?P<value> '[^'\\]*' | "[^"\\]*" | True | False | \(\s*(?:\d+L?\s*(?:,\s*\d+L?\s*)*,?)?\s*\) )
    \s*(?:,|$)""",
    re.VERBOSE | re.ASCII,
)
_DESCR = re.compile(r"[<>|=]?(?:[biufcSU?]\d{0,9}|O)", re.ASCII)


def read_npy(stream: IO[bytes], size: int, budget: Budget | None) -> NDArray[Any]:
    """Return the array in a stream of `size` bytes, which is believed only if it is full.

    A budget is given if the stream is compressed.

    Raises
    ------
    ValueError
        If the header is not that of a plain array, or does not fit the size.
    """
    shape, dtype, fortran, start = _read_header(stream)
    _check_size(shape, dtype, size - start)
    if budget is not None:
        count = math.prod(shape)
        budget.spend(size + NUMBER * count if dtype.kind in "biufc" else 4 * size)
    data = np.empty(size - start, np.uint8)
    _fill(stream, data.data)
    flat = data.view(dtype)
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], bool, int]:
    magic = stream.read(8)
    if magic[:6] != _MAGIC or len(magic) < 8:
        raise ValueError("not an .npy array")
    if magic[6:] not in (b"\1\0", b"\2\0", b"\3\0"):
        raise ValueError(f".npy version {magic[6]}.{magic[7]} is not supported")
    width = 2 if magic[6] == 1 else 4
    length = int.from_bytes(stream.read(width), "little")
    if length > _MAX_HEADER:
        raise ValueError(f"its header claims {length} bytes")
    text = stream.read(length)
    if len(text) < length:
        raise ValueError("it ends within its header")
    shape, dtype, fortran = _parse(text.decode("latin-1"))
    return shape, dtype, fortran, 8 + width + length


def _parse(text: str) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    inner = text.strip()
    entries: dict[str, str] = {}
    if not (inner.startswith("{") and inner.endswith("}")):
        raise ValueError(f"its header is not one of a plain array: {inner[:40]!r}")
    inner, position = inner[1:-1].rstrip(), 0
    while position < len(inner):
        entry = _ENTRY.match(inner, position)
        if entry is None or entry["key"] in entries:
            raise ValueError(f"its header is not one of a plain array: {inner[position:][:40]!r}")
        entries[entry["key"]] = entry["value"]
        position = entry.end()
    if set(entries) != {"descr", "fortran_order", "shape"}:
        raise ValueError(f"its header must have descr, fortran_order, shape; has {list(entries)}")
    sizes = re.findall(r"\d+", entries["shape"])
    if entries["shape"][0] != "(" or entries["fortran_order"] not in ("True", "False"):
        raise ValueError("its header has a wrong shape or order")
    if len(sizes) > _MAX_NDIM:
        raise ValueError(f"shape of {len(sizes)} dimensions")
    return tuple(map(int, sizes)), _dtype(entries["descr"]), entries["fortran_order"] == "True"


def _dtype(text: str) -> np.dtype[Any]:
    descr = text[1:-1]
    if text[0] not in "'\"" or not _DESCR.fullmatch(descr):
        raise ValueError(f"its values are of an unknown type {descr[:20]!r}")
    if descr.endswith("O"):
        raise ValueError(
            "is an array of Python objects (a pickle), which is never loaded: it could run any "
            "code; store numbers or strings"
        )
    try:
        return np.dtype(descr)
    except TypeError:
        raise ValueError(f"its values are of an unknown type {descr!r}") from None


def _check_size(shape: tuple[int, ...], dtype: np.dtype[Any], held: int) -> None:
    """Raise unless the array is exactly as large as its member of the archive."""
    needed = dtype.itemsize * math.prod(shape)
    if needed != held or dtype.itemsize == 0 or max(shape, default=0) >= 2**62:
        claimed = ", ".join(str(n) if n < 2**64 else "a huge number" for n in shape[:8])
        needs = str(needed) if needed < 2**64 else "more"
        raise ValueError(f"shape ({claimed}) needs {needs} bytes, the file has {held}")


def _fill(stream: IO[bytes], view: memoryview) -> None:
    position = 0
    while position < len(view):
        chunk = stream.read(min(_CHUNK, len(view) - position))
        if not chunk:
            raise ValueError("truncated")
        view[position : position + len(chunk)] = chunk
        position += len(chunk)
    if stream.read(1):  # at the end a checksum is compared
        raise ValueError("longer than it claims")
