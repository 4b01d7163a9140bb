"""Samples without labels, for predictions."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snode.datasets.assembly import RawData
from snode.datasets.featurenames import checked_feature_names, feature_order
from snode.datasets.files import _format
from snode.datasets.headers import label_column_beside, names_features
from snode.datasets.idx import read_idx, read_idx_folder
from snode.datasets.mat import read_mat
from snode.datasets.npz import FEATURE_NAMES, read_npz
from snode.datasets.table import first_row, read_table

__all__ = ["load_features"]

_NAMES = ("x", "X", "x_test", "X_test", "x_train", "X_train", "images")


def load_features(
    path: str | PathLike[str],
    n: int,
    *,
    label_column: int | str | None = None,
    samples: str | None = None,
    delimiter: str | None = None,
    feature_names: Sequence[str] | None = None,
    label_name: str | None = None,
) -> tuple[NDArray[Any], tuple[str, ...] | None]:
    r"""Return the samples of a file as they are there, one column a sample; labels are left out.

    Parameters
    ----------
    path : str or path-like
        As for `load_dataset`; labels may be missing. Of data in two parts the test part is taken.
    n : int
        Number of features. A table with one column more has labels in `label_column`.
    label_column, samples, delimiter
        As for `load_dataset`.
    feature_names : sequence of n texts, optional
        Names that the features should have, in whatever order. They tell the columns of a table.
    label_name : str, optional
        How the column of the labels is called where the header names all features; it may be
        missing.

    Returns
    -------
    array (n, m)
        Of the type of the file: uint8 for pixels.
    tuple of str, or None
        Names of the features, if the file has any; see
        `snode.datasets.featurenames.feature_order`.

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
    ...     x, names = load_features(path, 2)
    >>> x, names
    (array([[1. , 2. ],
           [0.5, 0.7]]), ('length', 'width'))
    """
    path = Path(path)
    kind = _format(path)
    if kind == "table":
        values, names = _of_table(path, n, label_column, delimiter, feature_names, label_name)
    elif kind == "idx":
        values, names = read_idx(path), None
    elif kind == "folder":
        values, names = _x_of(read_idx_folder(path)), None
    else:
        values, names = _of_variables(path, kind, samples)
    if feature_names is not None and names is not None:
        names = checked_feature_names(names, len(names), f"{path}: the names of the features")
        feature_order(names, feature_names, str(path))  # names what is missing, or too much
    if values.dtype.kind not in "biuf" or values.ndim not in (2, 3):
        raise ValueError(
            f"{path}: samples must be real numbers (m, n) or images (m, h, w); got {values.dtype} "
            f"of shape {values.shape}"
        )
    columns = values.reshape(len(values), -1).T
    if columns.shape[0] != n:
        raise ValueError(f"{path} has {columns.shape[0]} features; the model takes {n}")
    return _finite(path, columns), names


def _x_of(raw: RawData) -> NDArray[Any]:
    return raw.x_train if raw.x_test is None else raw.x_test


def _of_table(
    path: Path,
    n: int,
    label_column: int | str | None,
    delimiter: str | None,
    feature_names: Sequence[str] | None,
    label_name: str | None,
) -> tuple[NDArray[Any], tuple[str, ...] | None]:
    header, settled = False, False
    if feature_names is not None:
        row, settled = first_row(path, delimiter)
        header = names_features(row, feature_names, label_name)
    if header and feature_names is not None:
        wanted = label_name if label_column is None else label_column
        label = label_column_beside(str(path), row, feature_names, wanted, required=False)
        if label is not None:
            raw = read_table(path, label, delimiter)
            return raw.x_train, raw.feature_names
    # the last column first stands for labels: then there is one column more than features
    surely = True if header and not settled else None
    raw = read_table(path, label_column=-1, delimiter=delimiter, header=surely)
    count = raw.x_train.shape[1] + 1
    if count == n + 1 and not header:
        given: dict[str, Any] = {} if label_column is None else {"label_column": label_column}
        raw = read_table(path, delimiter=delimiter, **given)
        return raw.x_train, raw.feature_names
    is_numeric = raw.y_train.dtype.kind in "biuf"
    if not header and (count != n or not is_numeric) and raw.feature_names is not None:
        feature_order(raw.feature_names, feature_names, str(path))
    if count != n and not header:
        raise ValueError(
            f"{path} has {count} columns; the model takes {n} features, with or without a column "
            "of labels"
        )
    if not is_numeric:
        raise ValueError(
            f"{path} has {n} columns, the last of them not of numbers; the model takes {n} features"
        )
    names = None if raw.feature_names is None else (*raw.feature_names, raw.label_name)
    return np.column_stack([raw.x_train, raw.y_train]), names


def _of_variables(
    path: Path, kind: str, samples: str | None
) -> tuple[NDArray[Any], tuple[str, ...] | None]:
    read: Any = read_npz if kind == "npz" else read_mat
    try:
        raw = read(path) if samples is None else read(path, samples=samples)
        return _x_of(raw), raw.feature_names
    except ValueError:
        if kind != "npz" or not zipfile.is_zipfile(path):
            raise
        with np.load(path, allow_pickle=False) as archive:
            found = [name for name in _NAMES if name in archive.files]
            if len(found) != 1 or any(name in archive.files for name in ("y", "Y", "y_train")):
                raise
            values: NDArray[Any] = archive[found[0]]
            names = archive[FEATURE_NAMES].tolist() if FEATURE_NAMES in archive.files else None
    values = np.moveaxis(values, -1, 0) if samples == "columns" else values
    return values, None if names is None else tuple(names)


def _finite(path: Path, columns: NDArray[Any]) -> NDArray[Any]:
    bad = ~np.isfinite(columns)
    if bad.any():
        sample, feature = (int(i[0]) for i in np.nonzero(bad.T))
        raise ValueError(
            f"{path}: {columns[feature, sample]} at sample {sample + 1}, feature {feature + 1} is "
            "not a finite number"
        )
    return columns
