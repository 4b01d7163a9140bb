"""MNIST: the 14x14 images that come with the package, or a user's own files."""

from __future__ import annotations

import dataclasses
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snode.backend import own_error_state
from snode.datasets.assembly import RawData, Scaling, assemble
from snode.datasets.base import Dataset
from snode.datasets.idx import read_idx_folder
from snode.datasets.npz import read_npz

__all__ = ["load_mnist"]

_SIDES = (14, 28)


@own_error_state
def load_mnist(
    side: int = 14,
    encoding: tuple[float, float] = (0.0, -1.0),
    *,
    dtype: Any = "float32",
    path: str | PathLike[str] | None = None,
) -> Dataset:
    """Load the MNIST handwritten digits, 60,000 for training and 10,000 for testing.

    Parameters
    ----------
    side : {14, 28}
        Height and width of the images. The 14x14 images come with the package; each of their
        pixels is the mean of a 2x2 block, rounded to an integer (halves to even).
    encoding : (float, float), default (0.0, -1.0)
        Value of the background and value of the ink; a pixel p in 0, ..., 255 becomes
        ``lo + (hi - lo) * p / 255``.
    dtype : {"float32", "float64"}
        Type of the images.
    path : str or path-like, optional
        A folder with the four original IDX files (gzipped or not), or a `.npz` file with
        ``x_train, y_train, x_test, y_test`` and one image per row. Needed for ``side=28``; with
        ``side=14``, images of 28x28 are reduced.

    Returns
    -------
    Dataset
        ``x_train (side**2, 60000)``, ``y_train (60000,)``, ``x_test (side**2, 10000)``,
        ``y_test (10000,)``, ``n_classes = 10``. A column is an image, row by row.

    Raises
    ------
    ValueError
        If an option is out of range, or `path` holds images of another size.
    FileNotFoundError
        If `path` is missing, or needed and not given.

    References
    ----------
    Y. LeCun, C. Cortes, C. J. C. Burges, The MNIST database of handwritten digits (CC BY-SA 3.0).

    Examples
    --------
    >>> from snode.datasets import load_mnist
    >>> data = load_mnist()
    >>> data
    Dataset('MNIST 14x14': 196 features, 60000 training + 10000 test samples, 10 classes, float32)
    >>> image = data.decode(data.x_train[:, 0]).reshape(data.image_shape)
    >>> image.shape, int(data.y_train[0])
    ((14, 14), 5)
    """
    if side not in _SIDES:
        raise ValueError(f"side must be 14 or 28; got {side!r}")
    scaling = Scaling.checked(encoding, None)
    raw = _read(side, path)
    raw = dataclasses.replace(
        raw,
        x_train=_images(raw, raw.x_train, side),
        x_test=None if raw.x_test is None else _images(raw, raw.x_test, side),
    )
    return assemble(raw, scaling=scaling, dtype=dtype, name=f"MNIST {side}x{side}")


def _read(side: int, path: str | PathLike[str] | None) -> RawData:
    if path is None:
        if side != 14:
            raise FileNotFoundError(
                "only the 14x14 images come with the package; for side=28 pass path=... with the "
                "folder of the four original IDX files (train-images-idx3-ubyte.gz, ...) or an "
                ".npz file with x_train, y_train, x_test, y_test and one image per row"
            )
        with resources.as_file(resources.files(__package__) / "data" / "mnist_14x14.npz") as own:
            return read_npz(own)
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path: no file or folder {path}")
    return read_idx_folder(path) if path.is_dir() else read_npz(path)


def _images(raw: RawData, values: NDArray[Any], side: int) -> NDArray[np.uint8]:
    """Return (m, side, side) images, reduced from 28x28 if need be."""
    pixels = int(np.prod(values.shape[1:]))
    found = {s * s: s for s in _SIDES}.get(pixels)
    if found is None or values.dtype != np.uint8:
        raise ValueError(
            f"{raw.source}: expected uint8 images of 14x14 or 28x28 pixels; got {values.dtype} "
            f"samples of shape {values.shape[1:]}"
        )
    if found < side:
        raise ValueError(f"{raw.source}: has 14x14 images; side=28 needs the 28x28 images")
    images = values.reshape(-1, found, found)
    return images if found == side else _halved(images)


def _halved(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the mean of every 2x2 block, rounded half to even."""
    total = np.zeros((len(images), 14, 14), np.uint16)
    for i in (0, 1):
        for j in (0, 1):
            total += images[:, i::2, j::2]
    halved: NDArray[np.uint8] = np.rint(total * np.float32(0.25)).astype(np.uint8)
    return halved
