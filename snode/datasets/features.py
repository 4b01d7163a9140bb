"""Samples without labels, for predictions."""

from __future__ import annotations

import zipfile
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snode.datasets.assembly import RawData
from snode.datasets.files import _format
from snode.datasets.idx import read_idx, read_idx_folder
from snode.datasets.mat import read_mat
from snode.datasets.npz import read_npz
from snode.datasets.table import read_table

__all__ = ["load_features"]

_NAMES = ("x", "X", "x_test", "X_test", "x_train", "X_train", "images")


def load_features(
    path: str | PathLike[str],
    n: int,
    *,
    label_column: int | str | None = None,
    samples: str | None = None,
    delimiter: str | None = None,
) -> NDArray[Any]:
    r"""Return the samples of a file as they are there, one column a sample; labels are left out.

    Parameters
    ----------
    path : str or path-like
        As for `load_dataset`; labels may be missing. Of data in two parts the test part is taken.
    n : int
        Number of features. A table with one column more has labels in `label_column`.
    label_column, samples, delimiter
        As for `load_dataset`.

    Returns
    -------
    array (n, m)
        Of the type of the file: uint8 for pixels.

    Raises
    ------
    FileNotFoundError, ValueError
        As `load_dataset`, and if the samples have not `n` features.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from snode.datasets.features import load_features
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "new.csv")
    ...     _ = path.write_text("length,width\n1.0,0.5\n2.0,0.7\n")
    ...     load_features(path, 2)
    array([[1. , 2. ],
           [0.5, 0.7]])
    """
    path = Path(path)
    kind = _format(path)
    if kind == "table":
        return _of_table(path, n, label_column, delimiter)
    if kind == "idx":
        values = read_idx(path)
    elif kind == "folder":
        values = _x_of(read_idx_folder(path))
    else:
        values = _of_variables(path, kind, samples)
    if values.dtype.kind not in "biuf" or values.ndim not in (2, 3):
        raise ValueError(
            f"{path}: samples must be real numbers (m, n) or images (m, h, w); got {values.dtype} "
            f"of shape {values.shape}"
        )
    columns = values.reshape(len(values), -1).T
    if columns.shape[0] != n:
        raise ValueError(f"{path} has {columns.shape[0]} features; the model takes {n}")
    return _finite(path, columns)


def _x_of(raw: RawData) -> NDArray[Any]:
    return raw.x_train if raw.x_test is None else raw.x_test


def _of_table(
    path: Path, n: int, label_column: int | str | None, delimiter: str | None
) -> NDArray[Any]:
    # the last column first stands for labels: then there is one column more than features
    raw = read_table(path, label_column=-1, delimiter=delimiter)
    count = raw.x_train.shape[1] + 1
    if count == n + 1:
        given: dict[str, Any] = {} if label_column is None else {"label_column": label_column}
        raw = read_table(path, delimiter=delimiter, **given)
        return _finite(path, raw.x_train.T)
    if count != n:
        raise ValueError(
            f"{path} has {count} columns; the model takes {n} features, with or without a column "
            "of labels"
        )
    if raw.y_train.dtype.kind not in "biuf":
        raise ValueError(
            f"{path} has {n} columns, the last of them not of numbers; the model takes {n} features"
        )
    return _finite(path, np.column_stack([raw.x_train, raw.y_train]).T)


def _of_variables(path: Path, kind: str, samples: str | None) -> NDArray[Any]:
    read: Any = read_npz if kind == "npz" else read_mat
    try:
        return _x_of(read(path) if samples is None else read(path, samples=samples))
    except ValueError:
        if kind != "npz" or not zipfile.is_zipfile(path):
            raise
        with np.load(path, allow_pickle=False) as archive:
            found = [name for name in _NAMES if name in archive.files]
            if len(found) != 1 or any(name in archive.files for name in ("y", "Y", "y_train")):
                raise
            values: NDArray[Any] = archive[found[0]]
    return np.moveaxis(values, -1, 0) if samples == "columns" else values


def _finite(path: Path, columns: NDArray[Any]) -> NDArray[Any]:
    bad = ~np.isfinite(columns)
    if bad.any():
        sample, feature = (int(i[0]) for i in np.nonzero(bad.T))
        raise ValueError(
            f"{path}: {columns[feature, sample]} at sample {sample + 1}, feature {feature + 1} is "
            "not a finite number"
        )
    return columns
