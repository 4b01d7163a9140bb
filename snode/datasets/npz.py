"""`.npz` files, read without trusting them: no pickle, and no size is believed before checking."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from snode.datasets.assembly import RawData
from snode.datasets.idx import DEFLATE_LIMIT
from snode.datasets.variables import raw_from_variables

__all__ = ["read_npz"]

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError)


def read_npz(path: Path, samples: str = "rows") -> RawData:
    """Return the variables of a `.npz` file that play the four roles, samples first.

    Raises
    ------
    ValueError
        If the file is damaged, holds objects, or lacks a variable.
    """
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGE as error:
        raise ValueError(f"{path}: not an .npz file ({error}); {_likely(path)}") from error
    with archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        return raw_from_variables(
            str(path), names, lambda name: _read_member(archive, path, name), samples
        )


def _likely(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(6)
    if head == b"\x93NUMPY":
        return "it is one .npy array: save x_train and y_train together with numpy.savez"
    if head[:1] == b"\x80":
        return "it looks like a pickle, which is never loaded: it could run any code"
    return "write one with numpy.savez(path, x_train=..., y_train=...)"


def _read_member(archive: zipfile.ZipFile, path: Path, name: str) -> NDArray[Any]:
    info = archive.getinfo(name + ".npy")
    where = f"{path}: variable {name}"
    expansion = 1 if info.compress_type == zipfile.ZIP_STORED else DEFLATE_LIMIT
    if info.file_size > expansion * min(info.compress_size, path.stat().st_size):
        raise ValueError(f"{where}: claims {info.file_size} bytes, more than the file can hold")
    with _damage_named(where), archive.open(info) as stream:
        shape, dtype = _read_header(stream)
        held = info.file_size - stream.tell()
    _check_size(shape, dtype, held, where)
    with _damage_named(where), archive.open(info) as stream:
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


@contextmanager
def _damage_named(where: str) -> Iterator[None]:
    try:
        yield
    except (*_DAMAGE, ValueError, OverflowError) as error:
        raise ValueError(f"{where}: damaged ({error or type(error).__name__})") from error


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(stream)
    if version not in readers:
        raise ValueError(f".npy version {version} is not supported")
    shape, _, dtype = readers[version](stream)
    return shape, dtype


def _check_size(shape: tuple[int, ...], dtype: np.dtype[Any], held: int, where: str) -> None:
    """Raise unless the array is plain and exactly as large as its member of the archive."""
    if dtype.hasobject:
        raise ValueError(
            f"{where}: is an array of Python objects (a pickle), which is never loaded: it could "
            "run any code; store numbers or strings"
        )
    needed = dtype.itemsize * math.prod(shape)
    if needed != held or dtype.itemsize == 0 or min(shape, default=0) < 0:
        raise ValueError(f"{where}: shape {shape} needs {needed} bytes, the file has {held}")
