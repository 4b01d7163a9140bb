"""The IDX format of the original MNIST files, plain or gzipped.

A file is ``00 00 type ndim``, then `ndim` big-endian 32-bit sizes, then the values in C order.
The header is not believed: sizes are compared with what the file can hold before anything is
read, and no more than that is read.
"""

from __future__ import annotations

import math
import zlib
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from snode._expansion import NUMBER, Budget
from snode.datasets.assembly import RawData

__all__ = ["is_idx", "read_idx", "read_idx_folder", "read_idx_pair"]

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_NDIM = 3
_CHUNK = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_OWN_FILES = (".npz", ".mat", ".csv", ".tsv", ".csv.gz", ".tsv.gz", ".txt.gz")
_TEST_PREFIXES = ("t10k", "test")


def is_idx(head: bytes) -> bool:
    """Return True if the first bytes of a (decompressed) file look like IDX."""
    return len(head) >= 4 and head[:2] == b"\0\0" and head[2] in _DTYPES


def read_idx(path: Path) -> NDArray[Any]:
    """Return the array in one IDX file, gzipped or not.

    Raises
    ------
    ValueError
        If the magic number, the sizes or the length of the file are wrong.
    """
    import gzip

    with path.open("rb") as file:
        zipped = file.read(2) == _GZIP_MAGIC
        file.seek(0)
        if not zipped:
            return _read_array(file, path, path.stat().st_size, None)
        try:
            with gzip.GzipFile(fileobj=file) as stream:
                return _read_array(stream, path, None, Budget(path.stat().st_size, "gunzip it"))
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: damaged gzip file ({error})") from error


def _read_array(
    stream: IO[bytes] | Any, path: Path, room: int | None, budget: Budget | None
) -> NDArray[Any]:
    dtype, shape = _read_header(stream, path)
    count = math.prod(shape)
    expected = dtype.itemsize * count
    claim = f"sizes {shape} need {expected} bytes"
    if room is not None and expected > room:
        raise ValueError(
            f"{path}: truncated IDX file or wrong header: {claim}, the file holds at most {room}"
        )
    if budget is not None:
        try:
            budget.spend(expected + NUMBER * count)
        except ValueError as error:
            raise ValueError(
                f"{path}: truncated IDX file or wrong header ({claim}), or it {error}"
            ) from None
    data = _read_at_most(stream, expected + 1)
    if len(data) != expected:
        found = f"only {len(data)}" if len(data) < expected else "more"
        raise ValueError(
            f"{path}: truncated IDX file or wrong header: {claim} of data, found {found}"
        )
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _read_header(stream: IO[bytes], path: Path) -> tuple[np.dtype[Any], tuple[int, ...]]:
    magic = stream.read(4)
    if not is_idx(magic):
        raise ValueError(
            f"{path}: not an IDX file: expected magic bytes 00 00 TYPE NDIM with TYPE one of "
            f"{', '.join(f'{code:02x}' for code in _DTYPES)}; got {magic.hex(' ') or 'nothing'}"
        )
    ndim = magic[3]
    if not 1 <= ndim <= _MAX_NDIM:
        raise ValueError(f"{path}: IDX data must have 1 to {_MAX_NDIM} dimensions; got {ndim}")
    sizes = stream.read(4 * ndim)
    if len(sizes) != 4 * ndim:
        raise ValueError(f"{path}: truncated IDX file: it ends within its header")
    return np.dtype(_DTYPES[magic[2]]), tuple(int(size) for size in np.frombuffer(sizes, ">u4"))


def _read_at_most(stream: IO[bytes], limit: int) -> bytearray:
    """Return up to `limit` bytes; memory grows with what is there, not with what is claimed."""
    data = bytearray()
    while len(data) < limit:
        chunk = stream.read(min(_CHUNK, limit - len(data)))
        if not chunk:
            break
        data += chunk
    return data


def read_idx_pair(images: Path) -> RawData:
    """Return an images file and the labels file whose name differs only in its kind."""
    x = _read_images(images)
    labels = _labels_path(images)
    return RawData(str(images), x, _read_labels(labels, images, len(x)))


def read_idx_folder(folder: Path) -> RawData:
    """Return the training files of a folder and, if they are there, its test files.

    They may lie below it, in ``raw`` or ``NAME/raw``, as torchvision puts them.
    """
    folder = _folder_of_files(folder)
    train = _find_pair(folder, "train")
    if train is None:
        raise FileNotFoundError(
            f"{folder}: no IDX training files; expected train-images-idx3-ubyte and "
            "train-labels-idx1-ubyte, with '-' or '.' before idx, possibly with .gz, here or in "
            f"raw or NAME/raw below{_what_is_there(folder)}"
        )
    for prefix in _TEST_PREFIXES:
        test = _find_pair(folder, prefix)
        if test is not None:
            return RawData(str(folder), *_read_pair(*train), *_read_pair(*test))
    return RawData(str(folder), *_read_pair(*train))


def _folder_of_files(folder: Path) -> Path:
    """Return the folder itself, or the only one at the usual places that has training files."""
    own_name = (folder / folder.name).is_file()  # Kaggle: the folder of one of the four files
    for places in ([folder.resolve().parent] if own_name else [], [folder], [folder / "raw"],
                   sorted(folder.glob("*/raw")), sorted(folder.glob("*/"))):  # fmt: skip
        found = [place for place in places if _holds_training(place)]
        if len(found) > 1:
            names = ", ".join(str(place) for place in found[:5])
            raise ValueError(f"{folder}: holds several data sets; give one of them: {names}")
        if found:
            return found[0]
    return folder


def _holds_training(folder: Path) -> bool:
    return _find(folder, "train-images", ("idx3", "idx2")) is not None or (
        _find(folder, "train-labels", ("idx1",)) is not None
    )


def _what_is_there(folder: Path) -> str:
    """Return a hint: files that could be read by themselves, or what else the folder holds."""
    names = sorted(path.name for path in islice(folder.iterdir(), 1000))
    images = [name for name in names if "images" in name and "idx" in name]
    tables = [name for name in names if name.lower().endswith(_OWN_FILES)]
    for found, what in ((images, "images files"), (tables, "files that can be given themselves")):
        if found:
            return f"; it holds {what}, such as {folder / found[0]}"
    return f"; it holds {', '.join(names[:5]) or 'nothing'}"


def _read_pair(images: Path, labels: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    x = _read_images(images)
    return x, _read_labels(labels, images, len(x))


def _read_images(path: Path) -> NDArray[Any]:
    x = read_idx(path)
    if x.ndim < 2:
        raise ValueError(f"{path}: expected images, an IDX file of 2 or 3 dimensions; got 1")
    return x


def _read_labels(path: Path, images: Path, m: int) -> NDArray[Any]:
    y = read_idx(path)
    if y.ndim != 1:
        raise ValueError(f"{path}: expected labels, an IDX file of 1 dimension; got {y.ndim}")
    if len(y) != m:
        raise ValueError(f"{images} has {m} samples but {path} has {len(y)} labels")
    return y


def _find_pair(folder: Path, prefix: str) -> tuple[Path, Path] | None:
    images = _find(folder, f"{prefix}-images", ("idx3", "idx2"))
    labels = _find(folder, f"{prefix}-labels", ("idx1",))
    if images is None and labels is None:
        return None
    if images is None or labels is None:
        found, missing = (labels, "images") if images is None else (images, "labels")
        raise FileNotFoundError(f"{found}: the file of {missing} that belongs to it is missing")
    return images, labels


def _find(folder: Path, stem: str, kinds: tuple[str, ...]) -> Path | None:
    names = (
        f"{stem}{separator}{kind}-ubyte{suffix}"
        for suffix in ("", ".gz")
        for separator in "-."
        for kind in kinds
    )
    # in Kaggle's archives each file lies in a folder of its own name
    places = (place for name in names for place in (folder / name, folder / name / name))
    return next((place for place in places if place.is_file()), None)


def _labels_path(images: Path) -> Path:
    name = images.name
    if "images" not in name:
        raise ValueError(
            f"{images}: the name of an IDX images file must contain 'images', so that the labels "
            "file (the same name with 'labels') can be found"
        )
    stem = name.replace("images", "labels").replace("idx3", "idx1").replace("idx2", "idx1")
    plain = stem.removesuffix(".gz")
    for candidate in (stem, plain, plain + ".gz"):
        if images.with_name(candidate).is_file():
            return images.with_name(candidate)
    raise FileNotFoundError(f"{images}: labels file {images.with_name(stem)} is missing")
