"""MATLAB and Octave `.mat` files of versions 5 to 7: full real numeric arrays, nothing else.

This is a reader of its own because `scipy.io.loadmat` (1.17) can bring the interpreter down: one
wrong type code in a file is a segmentation fault. Here no number of the file is used before it
has been compared with what the file holds.

The format: a header of 128 bytes, then elements ``type, size, data``. An element of type
"compressed" holds another element as a zlib stream; one of type "matrix" holds the elements
flags, dimensions, name, values. Elements inside a matrix are padded to 8 bytes; those of at most
4 bytes may pack type and size into one word.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from snode.datasets.assembly import RawData
from snode.datasets.idx import DEFLATE_LIMIT
from snode.datasets.variables import raw_from_variables

__all__ = ["Place", "read_mat", "read_variable", "scan_variables"]

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_HEADER_SIZE = 128
_PROBE = 1024  # flags, at most 32 dimensions and a name fit well into this
_INT32, _UINT32, _MATRIX, _COMPRESSED = 5, 6, 14, 15
_STORED = {
    **{1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 12: "i8", 13: "u8"},
    **{7: "f4", 9: "f8"},
}
_CLASSES = {
    **{8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"},
    **{7: "f4", 6: "f8"},
}
_OTHERS = {1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse"}
_LOGICAL, _COMPLEX = 0x0200, 0x0800


@dataclass(frozen=True)
class Place:
    """Where a variable lies in a file, and in which byte order."""

    kind: int
    start: int
    size: int
    order: str


@dataclass(frozen=True)
class _Head:
    """What a matrix element says about itself before its values."""

    name: str
    class_code: int
    flags: int
    shape: tuple[int, ...]
    values_at: int


def read_mat(path: Path, samples: str = "columns") -> RawData:
    """Return the variables of a `.mat` file that play the four roles, samples first.

    Raises
    ------
    ValueError
        If the file is of version 7.3, is damaged, or lacks a variable.
    """
    found = scan_variables(path)
    return raw_from_variables(
        str(path), found, lambda name: read_variable(path, name, found[name]), samples
    )


def scan_variables(path: Path) -> dict[str, Place]:
    """Return the places of all named variables, without reading their values."""
    size = path.stat().st_size
    with path.open("rb") as file:
        order = _byte_order(path, file.read(520))
        try:
            places = [
                (_head(_element(file, v, _PROBE), order).name, v)
                for v in _elements(file, order, size)
            ]
        except (ValueError, zlib.error, struct.error) as error:
            raise ValueError(f"{path}: damaged .mat file ({error})") from error
    return {name: place for name, place in places if name}


def read_variable(path: Path, name: str, place: Place) -> NDArray[Any]:
    """Return one variable found by `scan_variables`."""
    with path.open("rb") as file:
        try:
            body = _element(file, place)
            head = _head(body, place.order)
            _check_kind(head)
            return _values(body, head, place.order)
        except (ValueError, zlib.error, struct.error) as error:
            raise ValueError(f"{path}: variable {name}: {error}") from error


def _byte_order(path: Path, head: bytes) -> str:
    """Return '<' or '>' for a version 5 header; raise for all other files, saying what to do."""
    if head.startswith(b"MATLAB 7.3") or _HDF5_MAGIC in (head[:8], head[512:520]):
        raise ValueError(
            f"{path}: is a version 7.3 (HDF5) file, which is not supported; in MATLAB save it "
            "again with save(file, '-v7'), in Octave with save -v7"
        )
    if head.startswith(b"# Created by Octave"):
        raise ValueError(
            f"{path}: is in Octave's text format; save it again with save -v7 FILE VARIABLES"
        )
    order = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}.get(head[124:128])
    if order is None:
        raise ValueError(f"{path}: not a .mat file of version 5 to 7 (save with -v7)")
    return order


def _elements(file: IO[bytes], order: str, size: int) -> list[Place]:
    found = []
    position = _HEADER_SIZE
    while position < size:
        file.seek(position)
        kind, length = struct.unpack(order + "II", file.read(8))
        position += 8
        if kind not in (_MATRIX, _COMPRESSED):
            raise ValueError(f"unknown element type {kind} at byte {position - 8}")
        if length > size - position:
            raise ValueError(f"truncated: {length} bytes are missing at byte {position}")
        found.append(Place(kind, position, length, order))
        position += length
    return found


def _element(file: IO[bytes], place: Place, limit: int | None = None) -> memoryview:
    """Return the contents of a matrix element, or their first `limit` bytes."""
    file.seek(place.start)
    if place.kind == _MATRIX:
        return memoryview(file.read(place.size if limit is None else min(limit, place.size)))
    stream = zlib.decompressobj()
    packed = file.read(place.size if limit is None else min(limit, place.size))
    tag = stream.decompress(packed, 8)
    kind, length = struct.unpack(place.order + "II", tag)
    if kind != _MATRIX or length > DEFLATE_LIMIT * place.size:
        raise ValueError(f"compressed element of type {kind} claims {length} bytes")
    wanted = length if limit is None else min(limit, length)
    body = stream.decompress(stream.unconsumed_tail, wanted) if wanted else b""
    if limit is None and len(body) != length:
        raise ValueError(f"truncated: {length} bytes are expected, {len(body)} are there")
    return memoryview(body)


def _head(body: memoryview, order: str) -> _Head:
    kind, flag_bytes, position = _inner(body, 0, order)
    if kind != _UINT32 or len(flag_bytes) != 8:
        raise ValueError("a matrix must begin with its flags")
    flags = struct.unpack(order + "II", flag_bytes)[0]
    if flags & 0xFF not in _CLASSES.keys() | _OTHERS.keys():
        return _Head("", flags & 0xFF, flags, (), position)  # string, table, ...: another layout
    kind, dimension_bytes, position = _inner(body, position, order)
    shape = tuple(int(size) for size in np.frombuffer(dimension_bytes, order + "i4"))
    if kind != _INT32 or len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"wrong dimensions {shape}")
    _, name, position = _inner(body, position, order)
    return _Head(str(name, "ascii"), flags & 0xFF, flags, shape, position)


def _inner(body: memoryview, position: int, order: str) -> tuple[int, memoryview, int]:
    """Return type, data and the position after the element of a matrix at `position`."""
    first = struct.unpack_from(order + "I", body, position)[0]
    if first >> 16:  # type and size packed into one word
        kind, length = first & 0xFFFF, first >> 16
        start, end = position + 4, position + 8
        if length > 4:
            raise ValueError(f"a packed element claims {length} bytes")
    else:
        kind, length = struct.unpack_from(order + "II", body, position)
        start = position + 8
        end = start + (length + 7) // 8 * 8
    if start + length > len(body):
        raise ValueError(f"an element of {length} bytes reaches beyond the end")
    return kind, body[start : start + length], end


def _check_kind(head: _Head) -> None:
    kind = _OTHERS.get(head.class_code, f"class {head.class_code}")
    if head.class_code in _CLASSES:
        if not head.flags & _COMPLEX:
            return
        kind = "complex"
    raise ValueError(f"must be a full real numeric array; it is of kind {kind}")


def _values(body: memoryview, head: _Head, order: str) -> NDArray[Any]:
    kind, data, _ = _inner(body, head.values_at, order)
    if kind not in _STORED:
        raise ValueError(f"damaged: unknown type {kind} of the values")
    stored = np.dtype(order + _STORED[kind])
    if len(data) != stored.itemsize * math.prod(head.shape):
        raise ValueError(f"damaged: shape {head.shape}, but {len(data)} bytes of {stored}")
    dtype = np.dtype(bool if head.flags & _LOGICAL else _CLASSES[head.class_code])
    values = np.frombuffer(data, stored).reshape(head.shape, order="F")
    # MATLAB stores whole numbers in the smallest type that holds them, whatever their class.
    if dtype.kind != "b" and not np.can_cast(stored, dtype, "same_kind"):
        raise ValueError(f"damaged: values of {dtype} stored as {stored}")
    return values.astype(dtype)
