"""From the arrays of a file to a `Dataset`: orientation, labels, scaling, checks.

Every reader returns `RawData`, one sample per entry of the first axis and nothing scaled; this
module is the only way from there to a `Dataset`, so that all formats obey the same rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snode.backend import creator_namespace
from snode.datasets.base import Dataset
from snode.datasets.encoding import AS_IS, check_encoding, check_float_dtype, encode
from snode.datasets.featurenames import checked_feature_names

__all__ = ["RawData", "Scaling", "assemble"]

Host = NDArray[Any]
_BLOCK = 2**16
TASKS = ("classification", "regression")


@dataclass(frozen=True)
class RawData:
    """What a reader found: ``(m, ...)`` arrays, samples along the first axis.

    Parameters
    ----------
    source : str
        File or folder, for messages.
    x_train, y_train : arrays
        Features (m, n) or images (m, h, w), and labels (m,) or targets (m,) or (m, k).
    x_test, y_test : arrays or None
        The same for a test set.
    hint : str
        Advice added to the message when counts do not match.
    labels_guessed : bool
        Whether the labels are the last column of a table, only because it is the last.
    feature_names : tuple of str, or None
        Names of the features, if the file has any.
    label_name : str
        Name of the column of the labels, if the file has any.
    """

    source: str
    x_train: Host
    y_train: Host
    x_test: Host | None = None
    y_test: Host | None = None
    hint: str = ""
    labels_guessed: bool = False
    feature_names: tuple[str, ...] | None = None
    label_name: str = ""


@dataclass(frozen=True)
class Scaling:
    """How file values become features: as they are, or as encoded pixel intensities."""

    encoding: tuple[float, float] | None
    full_scale: float | None

    @classmethod
    def checked(cls, encoding: Any, full_scale: Any) -> Scaling:
        """Return the scaling after checking the user's two options."""
        if encoding is not None:
            encoding = check_encoding(encoding)
        if full_scale is not None and not 0.0 < full_scale < np.inf:
            raise ValueError(f"full_scale must be positive and finite; got {full_scale!r}")
        return cls(encoding, full_scale)

    def for_dtype(self, dtype: np.dtype[Any]) -> tuple[tuple[float, float], float] | None:
        """Return ``(encoding, full_scale)`` for file values of a type; None leaves them alone."""
        is_pixels = dtype == np.uint8
        if self.encoding in (None, AS_IS) and self.full_scale is None and not is_pixels:
            return None
        return self.encoding or AS_IS, self.full_scale or (255.0 if is_pixels else 1.0)


def assemble(
    raw: RawData, *, scaling: Scaling, dtype: Any, name: str, task: str = "classification"
) -> Dataset:
    """Return the data set with one column per sample, for the backend in use.

    Raises
    ------
    ValueError
        If the arrays do not fit together, are not numeric, or hold NaN or inf.
    """
    float_dtype = check_float_dtype(dtype)
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}; got {task!r}")
    _check_parts(raw)
    x_train, image_shape = _features(raw, "train", scaling, float_dtype)
    x_test = None if raw.x_test is None else _features(raw, "test", scaling, float_dtype)[0]
    classes: Host | None = None
    if task == "classification":
        y_train, y_test, classes = _labels(raw)
    else:
        y_train = _targets(raw, "train", float_dtype)
        y_test = None if raw.y_test is None else _targets(raw, "test", float_dtype)
    used = scaling.for_dtype(raw.x_train.dtype)
    xp = creator_namespace()
    return Dataset(
        xp.asarray(x_train),
        xp.asarray(y_train),
        None if x_test is None else xp.asarray(x_test),
        None if y_test is None else xp.asarray(y_test),
        n_classes=0 if classes is None else len(classes),
        encoding=AS_IS if used is None else used[0],
        name=name,
        image_shape=image_shape,
        classes=classes,
        is_pixels=raw.x_train.dtype == np.uint8,
        feature_names=_feature_names(raw, len(x_train)),
    )


def _feature_names(raw: RawData, n: int) -> tuple[str, ...] | None:
    if raw.feature_names is None:
        return None
    return checked_feature_names(raw.feature_names, n, f"{raw.source}: the names of the features")


def _part(raw: RawData, part: str) -> tuple[Host, Host]:
    return getattr(raw, f"x_{part}"), getattr(raw, f"y_{part}")


def _check_parts(raw: RawData) -> None:
    if (raw.x_test is None) != (raw.y_test is None):
        found, missing = ("y_test", "x_test") if raw.x_test is None else ("x_test", "y_test")
        raise ValueError(f"{raw.source}: has {found} but no {missing}")
    _check_counts(raw, "train")
    if raw.x_test is None:
        return
    _check_counts(raw, "test")
    if raw.x_test.shape[1:] != raw.x_train.shape[1:]:
        raise ValueError(
            f"{raw.source}: samples of x_test have shape {raw.x_test.shape[1:]}, those of "
            f"x_train {raw.x_train.shape[1:]}"
        )
    if (raw.x_test.dtype == np.uint8) != (raw.x_train.dtype == np.uint8):
        raise ValueError(
            f"{raw.source}: x_train is {raw.x_train.dtype} and x_test is {raw.x_test.dtype}; "
            "uint8 means pixels and is scaled, so both must be uint8 or neither"
        )


def _check_counts(raw: RawData, part: str) -> None:
    x, y = _part(raw, part)
    if x.dtype.kind not in "biuf":
        raise ValueError(f"{raw.source}: x_{part} must hold real numbers; got {x.dtype}")
    if x.ndim not in (2, 3) or x.size == 0:
        raise ValueError(
            f"{raw.source}: x_{part} must be features (m, n) or images (m, h, w) with m >= 1 "
            f"samples; got shape {x.shape}"
        )
    if y.size != len(x) and (y.ndim != 2 or len(y) != len(x)):
        raise ValueError(
            f"{raw.source}: x_{part} has {len(x)} samples (shape {x.shape}) but y_{part} has "
            f"shape {y.shape}{raw.hint}"
        )


def _features(
    raw: RawData, part: str, scaling: Scaling, dtype: np.dtype[Any]
) -> tuple[Host, tuple[int, int] | None]:
    values, _ = _part(raw, part)
    image_shape = (values.shape[1], values.shape[2]) if values.ndim == 3 else None
    columns = values.reshape(len(values), -1).T
    where = f"{raw.source}: x_{part}"
    used = scaling.for_dtype(values.dtype)
    if used is not None:
        _check_range(columns, used[1], where)
        return _encoded(columns, *used, dtype), image_shape
    x = _cast(columns, dtype)
    _check_finite(x, columns, where)
    return x, image_shape


def _encoded(
    columns: Host, encoding: tuple[float, float], full_scale: float, dtype: np.dtype[Any]
) -> Host:
    if columns.dtype != np.uint8:
        return np.ascontiguousarray(encode(columns / full_scale, encoding), dtype=dtype)
    table = encode(np.arange(256) / full_scale, encoding).astype(dtype)
    x = np.empty(columns.shape, dtype)
    values, pixels = x.reshape(-1), np.ascontiguousarray(columns).reshape(-1)
    for start in range(0, x.size, _BLOCK):  # a full index array would be 8 bytes per pixel
        block = slice(start, start + _BLOCK)
        np.take(table, pixels[block], out=values[block], mode="clip")
    return x


def _cast(values: Host, dtype: np.dtype[Any]) -> Host:
    with np.errstate(over="ignore"):  # an overflow to inf is reported by _check_finite
        return np.ascontiguousarray(values, dtype=dtype)


def _check_range(columns: Host, full_scale: float, where: str) -> None:
    if columns.min() >= 0 and columns.max() <= full_scale:  # NaN is not; and no array is made
        return
    bad = ~((columns >= 0) & (columns <= full_scale))  # written so that NaN is bad, too
    if bad.any():
        feature, sample = _first(bad)
        raise ValueError(
            f"{where}: pixels must lie between 0 and full_scale={full_scale:g}; found "
            f"{columns[feature, sample]} at sample {sample + 1}, feature {feature + 1}"
        )


def _check_finite(x: Host, columns: Host, where: str) -> None:
    if np.isfinite(x.min()) and np.isfinite(x.max()):  # they hand on NaN; and no array is made
        return
    bad = ~np.isfinite(x)
    if bad.any():
        feature, sample = _first(bad)
        raise ValueError(
            f"{where}: {int(bad.sum())} values are not finite {x.dtype} numbers; the first is "
            f"{columns[feature, sample]} at sample {sample + 1}, feature {feature + 1}"
        )


def _first(bad: Host) -> tuple[int, int]:
    """Return (feature, sample), from 0, of the first True in sample order."""
    sample, feature = divmod(int(np.argmax(bad.T)), bad.shape[0])
    return feature, sample


def _labels(raw: RawData) -> tuple[Host, Host | None, Host]:
    """Return labels 0, ..., C-1 and the C labels as the file spells them, sorted."""
    train = _label_vector(raw, "train")
    test = None if raw.y_test is None else _label_vector(raw, "test")
    if test is not None and (train.dtype.kind == "U") != (test.dtype.kind == "U"):
        raise ValueError(
            f"{raw.source}: y_train has {train.dtype} labels, y_test {test.dtype} labels"
        )
    everything = train if test is None else np.concatenate([train, test])
    classes, index = np.unique(everything, return_inverse=True)
    index = index.astype(np.int64)
    if test is None:
        return index, None, classes
    unseen = np.setdiff1d(test, train)
    if unseen.size:
        raise ValueError(f"{raw.source}: y_test has labels that y_train lacks: {_some(unseen)}")
    return index[: train.size], index[train.size :], classes


def _label_vector(raw: RawData, part: str) -> Host:
    x, y = _part(raw, part)
    where = f"{raw.source}: y_{part}"
    if y.size != len(x):
        raise ValueError(
            f"{where} must hold one label per sample; got shape {y.shape} (for float targets "
            "pass task='regression'; for one-hot columns store the index of the 1)"
        )
    y = y.ravel()
    if y.dtype.kind in "biu":
        return y.astype(np.int64) if y.dtype != np.uint64 else y
    if y.dtype.kind == "U":
        return y
    if y.dtype.kind != "f":
        raise ValueError(f"{where} must hold integers or strings; got {y.dtype}")
    return _whole_numbers(y, where)


def _whole_numbers(y: Host, where: str) -> Host:
    # 2^53: beyond it a float does not tell neighbouring integers apart.
    bad = ~((np.abs(y) <= 2.0**53) & (y == np.rint(y)))
    if bad.any():
        sample = int(np.argmax(bad))
        raise ValueError(
            f"{where}: labels must be integers; found {y[sample]} at sample {sample + 1} "
            "(for float targets pass task='regression')"
        )
    return y.astype(np.int64)


def _targets(raw: RawData, part: str, dtype: np.dtype[Any]) -> Host:
    x, y = _part(raw, part)
    where = f"{raw.source}: y_{part}"
    if y.dtype.kind not in "biuf":
        raise ValueError(f"{where}: targets must be real numbers; got {y.dtype}")
    columns = y.reshape(len(x), -1).T
    targets = _cast(columns, dtype)
    _check_finite(targets, columns, where)
    return targets


def _some(labels: Host) -> str:
    shown = ", ".join(str(label) for label in labels[:5])
    return shown + (", ..." if labels.size > 5 else "")
