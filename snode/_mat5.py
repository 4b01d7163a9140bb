"""The MATLAB 5 format, `.mat` files of versions 5 to 7: full real arrays, texts, cells of arrays.

This is a reader of its own because `scipy.io.loadmat` (1.17) can bring the interpreter down: one
wrong type code in a file, or deep nesting, is a segmentation fault. Here no number of the file is
used before it has been compared with what the file holds, and nothing calls itself.

The format: a header of 128 bytes, then elements ``type, size, data``. An element of type
"compressed" holds another element as a zlib stream; one of type "matrix" holds the elements
flags, dimensions, name, values; the values of a cell are matrix elements. Elements inside a
matrix are padded to 8 bytes; those of at most 4 bytes may pack type and size into one word.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Callable, Iterator, KeysView
from contextlib import contextmanager
from dataclasses import dataclass
from reprlib import repr as brief
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from snode._expansion import DEFLATE_LIMIT, NUMBER, Budget

__all__ = ["MatFile", "MatFileError"]

_PROBE = 1024  # flags, at most 32 dimensions and a name fit well into this
_ENTRY = 8192  # counted for each array: the file needs 56 bytes for one, Python far more
_INT32, _UINT32, _MATRIX, _COMPRESSED = 5, 6, 14, 15
_STORED = {
    **{1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 12: "i8", 13: "u8"},
    **{7: "f4", 9: "f8"},
}
_CODECS = {
    **{1: "latin-1", 2: "latin-1", 4: "utf-16-{0}"},
    **{16: "utf-8", 17: "utf-16-{0}", 18: "utf-32-{0}"},
}
_CLASSES = {
    **{8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"},
    **{7: "f4", 6: "f8"},
}
_OPAQUE = 17  # string, table, ...: their heads have no dimensions
_OTHERS = {1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse", 16: "function handle"}
_LOGICAL, _COMPLEX = 0x0200, 0x0800

_Element = tuple[int, memoryview]
_NOTHING: _Element = 0, memoryview(b"")


class MatFileError(ValueError):
    """The content of a `.mat` file is damaged, hostile or not supported."""


@dataclass(frozen=True)
class _Head:
    """What an array says about itself before its values."""

    class_code: int
    flags: int
    shape: tuple[int, ...]
    name: str

    @property
    def kind(self) -> str:
        if self.class_code in _CLASSES:
            return "complex" if self.flags & _COMPLEX else "numeric"
        return _OTHERS.get(self.class_code, f"class {self.class_code}")

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def require(self, wanted: str) -> None:
        if not _WANTED[wanted](self):
            shape = " x ".join(map(str, self.shape))
            raise ValueError(f"must be {wanted}; it is {shape} {self.kind}")


_ARRAY, _TEXT, _CELL = "a full real array", "a short text", "a 1 x K cell"
_WANTED: dict[str, Callable[[_Head], bool]] = {
    _ARRAY: lambda head: head.kind == "numeric",
    _TEXT: lambda head: head.kind == "char" and head.shape[0] <= 1 and head.size <= 1000,
    _CELL: lambda head: head.kind == "cell" and len(head.shape) == 2 and min(head.shape) == 1,
}


@dataclass(frozen=True)
class _Variable:
    """Where a variable lies in the file, and its head."""

    compressed: bool
    start: int
    size: int
    head: _Head


class MatFile:
    """The variables of an open file: their heads are read at once, their values on demand.

    Memory is bounded by what `snode._expansion` allows for the size of the file, and `more`.
    Whatever is wrong with the content is a `MatFileError`.
    """

    def __init__(self, file: BinaryIO, more: int = 0) -> None:
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        self._budget = Budget(self._size, "save it with -v6", more)
        self._order = _byte_order(self._read(0, 520))
        self._variables: dict[str, _Variable] = {}
        with _naming("damaged"):
            for variable in self._scan():
                name = variable.head.name
                if name in self._variables:
                    raise ValueError(f"has two variables {brief(name)}")
                if name:  # what MATLAB adds for itself has none
                    self._variables[name] = variable

    @property
    def names(self) -> KeysView[str]:
        """The names of the variables, of whatever kind."""
        return self._variables.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape that a variable claims."""
        return self._variables[name].head.shape

    def array(self, name: str) -> NDArray[Any]:
        """Return a full real numeric or logical array, in the dtype of its class."""
        with _naming(f"variable {name}"):
            return self._values(*self._open(name, _ARRAY))

    def text(self, name: str) -> str:
        """Return a char array of one row and at most 1000 columns."""
        with _naming(f"variable {name}"):
            kind, data = next(self._open(name, _TEXT)[1], _NOTHING)
            if kind not in _CODECS:
                raise ValueError(f"damaged: text of type {kind}")
            return str(data, _CODECS[kind].format("le" if self._order == "<" else "be"))

    def cell(self, name: str) -> list[NDArray[Any]]:
        """Return the arrays of a 1 x K or K x 1 cell, each as `array` would."""
        with _naming(f"variable {name}"):
            head, elements = self._open(name, _CELL)
            entries = [self._entry(k, *element) for k, element in enumerate(elements, start=1)]
            if len(entries) != head.size:
                raise ValueError(f"has {len(entries)} entries of {head.size}")
            return entries

    # --- from the file ----------------------------------------------------------------------------

    def _read(self, start: int, size: int) -> bytes:
        self._file.seek(start)
        return self._file.read(size)

    def _scan(self) -> Iterator[_Variable]:
        position = 128
        while position < self._size:
            tag, start = self._read(position, 8), position + 8
            if len(tag) < 8:
                raise ValueError("truncated")
            kind, size = struct.unpack(self._order + "II", tag)
            if kind not in (_MATRIX, _COMPRESSED):
                raise ValueError(f"element of type {kind} among the variables")
            if size > self._size - start:
                raise ValueError(f"truncated: {size} bytes are expected at byte {start}")
            first = self._read(start, min(size, _PROBE))
            if kind == _COMPRESSED:
                first = zlib.decompressobj().decompress(first, _PROBE)[8:]
            yield _Variable(kind == _COMPRESSED, start, size, self._head(self._split(first)))
            position = start + size

    def _open(self, name: str, wanted: str) -> tuple[_Head, Iterator[_Element]]:
        """Return the head of a variable and the elements after it, if it is what is wanted."""
        variable = self._variables[name]
        variable.head.require(wanted)
        body = self._read(variable.start, variable.size)
        if variable.compressed:
            body = self._inflate(body, variable.head)
        elements = self._split(body)
        if self._head(elements) != variable.head:
            raise ValueError("the file has changed")
        return variable.head, elements

    def _inflate(self, packed: bytes, head: _Head) -> bytes:
        """Return the contents of the matrix element in a zlib stream.

        Its size is believed if the stream can be that long and `head` needs that much.
        """
        stream = zlib.decompressobj()
        kind, size = struct.unpack(self._order + "II", stream.decompress(packed, 8))
        most = DEFLATE_LIMIT * len(packed)
        if head.kind != "cell":
            most = min(most, _PROBE + 8 * head.size)
        if kind != _MATRIX or not 0 < size <= most:
            raise ValueError(f"damaged: a compressed element of type {kind} claims {size} bytes")
        self._budget.spend(size)
        body = stream.decompress(stream.unconsumed_tail, size)
        rest = stream.decompress(stream.unconsumed_tail, 1)  # compares the checksum, too
        if rest or len(body) < size or not stream.eof:
            raise ValueError(f"truncated or damaged: {size} bytes are expected")
        return body

    # --- from the body of a matrix ----------------------------------------------------------------

    def _split(self, body: bytes | memoryview) -> Iterator[_Element]:
        """Yield (type, data) of the elements that follow each other."""
        data, position = memoryview(body), 0
        while position < len(data):
            if position + 8 > len(data):
                raise ValueError("truncated")
            kind, size = struct.unpack_from(self._order + "II", data, position)
            start = position + 8
            if kind >> 16:  # packed into one word, with up to 4 bytes in the place of the size
                kind, size, start = kind & 0xFFFF, kind >> 16, position + 4
                if size > 4:
                    raise ValueError(f"damaged: a packed element claims {size} bytes")
            end = start + size
            if end > len(data):
                raise ValueError("truncated, or an element is longer than what holds it")
            yield kind, data[start:end]
            position = end + -end % 8

    def _head(self, elements: Iterator[_Element]) -> _Head:
        kind, data = next(elements, _NOTHING)
        if kind != _UINT32 or len(data) != 8:
            raise ValueError("an array must begin with its flags")
        flags = struct.unpack(self._order + "II", data)[0]
        shape: tuple[int, ...] = ()
        if flags & 0xFF != _OPAQUE:
            kind, data = next(elements, _NOTHING)
            shape = tuple(np.frombuffer(data, self._order + "i4").tolist())
            if kind != _INT32 or not 2 <= len(shape) <= 32 or min(shape) < 0:
                raise ValueError(f"wrong dimensions {brief(shape)}")
        return _Head(flags & 0xFF, flags, shape, str(next(elements, _NOTHING)[1], "latin-1"))

    def _entry(self, k: int, kind: int, body: memoryview) -> NDArray[Any]:
        with _naming(f"entry {k}"):
            if kind != _MATRIX or not body:
                raise ValueError("is empty")
            elements = self._split(body)
            head = self._head(elements)
            head.require(_ARRAY)
            return self._values(head, elements)

    def _values(self, head: _Head, elements: Iterator[_Element]) -> NDArray[Any]:
        kind, data = next(elements, _NOTHING)
        if kind not in _STORED:
            raise ValueError(f"damaged: values of type {kind}")
        stored = np.dtype(self._order + _STORED[kind])
        if len(data) != stored.itemsize * head.size:
            shape = brief(head.shape)
            raise ValueError(f"damaged: shape {shape}, but {len(data)} bytes of {stored}")
        dtype = np.dtype(bool if head.flags & _LOGICAL else _CLASSES[head.class_code])
        # MATLAB stores whole numbers in the smallest type that holds them, whatever their class
        fits = np.can_cast(stored, dtype, "safe" if stored.kind == "f" else "same_kind")
        if not fits and dtype.kind != "b":
            raise ValueError(f"damaged: values of {dtype} stored as {stored}")
        self._budget.spend((dtype.itemsize + NUMBER) * head.size + _ENTRY)
        values = np.frombuffer(data, stored).reshape(head.shape, order="F")
        with np.errstate(invalid="ignore"):  # signalling NaNs
            return values.astype(dtype)


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Turn everything that is wrong with a content into a `MatFileError` that says where."""
    try:
        yield
    except (ValueError, struct.error, zlib.error) as error:
        raise MatFileError(f"{what}: {error}") from error


def _byte_order(start: bytes) -> str:
    """Return '<' or '>' for a version 5 header; raise for all other files, saying what to do."""
    order = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}.get(start[124:128])
    if order is not None:
        return order
    if start.startswith((b"MATLAB 7.3", b"\x89HDF")) or start[512:516] == b"\x89HDF":
        what = "is a version 7.3 (HDF5) file, which is not supported"
    elif start.startswith(b"# Created by Octave"):
        what = "is in Octave's text format"
    elif _is_version_4(start):
        what = "is a version 4 file, which is not supported"
    else:
        raise MatFileError("not a MATLAB file of version 5 to 7 (save with -v7)")
    raise MatFileError(
        f"{what}; save it again with -v7: save(file, '-v7') in MATLAB, save -v7 FILE in Octave"
    )


def _is_version_4(start: bytes) -> bool:
    """Tell by the head of the first matrix: type, rows, columns, complex or not, length of name."""
    for order, least in (("<", 0), (">", 1000)):
        code, _, _, imaginary, length = struct.unpack(order + "5I", start[:20].ljust(20, b"\0"))
        if least <= code <= least + 52 and imaginary <= 1 and 1 < length <= 64:
            return start[19 + length : 20 + length] == b"\0"
    return False
