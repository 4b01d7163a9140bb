"""`.npz` files, read without trusting them: no pickle, and no size is believed before checking."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from snode._expansion import DEFLATE_LIMIT, Budget
from snode.datasets.assembly import RawData
from snode.datasets.npy import read_npy
from snode.datasets.variables import raw_from_variables

__all__ = ["FEATURE_NAMES", "read_npz"]

_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,
    NotImplementedError,
    ValueError,
    OverflowError,
)
FEATURE_NAMES = "feature_names"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what NumPy writes


def read_npz(path: Path, samples: str | None = None) -> RawData:
    """Return the variables of a `.npz` file that play the four roles, samples first.

    A variable ``feature_names`` holds the names of the features.

    Raises
    ------
    ValueError
        If the file is damaged, holds objects, or lacks a variable.
    """
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGE as error:
        raise ValueError(f"{path}: not an .npz file ({error}); {_likely(path)}") from error
    budget = Budget(path.stat().st_size, "save it with numpy.savez, without compression")
    with archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        if len(set(names)) < len(names):
            raise ValueError(f"{path}: has two variables of one name")

        def read(name: str) -> NDArray[Any]:
            return _read_member(archive, path, name, budget)

        raw = raw_from_variables(str(path), names, read, "rows", samples)
        if FEATURE_NAMES not in names:
            return raw
        return replace(raw, feature_names=tuple(read(FEATURE_NAMES).ravel().tolist()))


def _likely(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(6)
    if head == b"\x93NUMPY":
        return "it is one .npy array: save x_train and y_train together with numpy.savez"
    if head[:1] == b"\x80":
        return "it looks like a pickle, which is never loaded: it could run any code"
    return "write one with numpy.savez(path, x_train=..., y_train=...)"


def _read_member(archive: zipfile.ZipFile, path: Path, name: str, budget: Budget) -> NDArray[Any]:
    info = archive.getinfo(name + ".npy")
    try:
        if info.compress_type not in _METHODS:
            raise ValueError("compressed by a method that NumPy does not use")
        stored = info.compress_type == zipfile.ZIP_STORED
        most = (1 if stored else DEFLATE_LIMIT) * min(info.compress_size, path.stat().st_size)
        if info.file_size > most:
            raise ValueError(f"claims {info.file_size} bytes, more than the file can hold")
        with archive.open(info) as stream:
            return read_npy(stream, info.file_size, None if stored else budget)
    except _DAMAGE as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path}: variable {name}: damaged ({reason})") from error
