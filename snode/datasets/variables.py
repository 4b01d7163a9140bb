"""Named arrays, as `.npz` and `.mat` files hold them: which names mean what, and orientation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snode.datasets.assembly import RawData

__all__ = ["raw_from_variables"]

ROLES = {
    "x_train": ("x_train", "X_train", "xtrain", "Xtrain", "x", "X", "images"),
    "y_train": ("y_train", "Y_train", "ytrain", "Ytrain", "y", "Y", "labels"),
    "x_test": ("x_test", "X_test", "xtest", "Xtest"),
    "y_test": ("y_test", "Y_test", "ytest", "Ytest"),
}
SAMPLES = ("rows", "columns")


def raw_from_variables(
    source: str, names: Iterable[str], read: Callable[[str], NDArray[Any]], samples: str
) -> RawData:
    """Return the arrays that play the four roles, samples first.

    Parameters
    ----------
    source : str
        File, for messages.
    names : iterable of str
        The variables in the file.
    read : callable
        ``read(name)`` returns one variable.
    samples : {"rows", "columns"}
        Whether samples lie along the first or the last axis of the file's arrays.

    Raises
    ------
    ValueError
        If a variable is missing, or two variables claim one role.
    """
    if samples not in SAMPLES:
        raise ValueError(f"samples must be 'rows' or 'columns'; got {samples!r}")
    available = list(names)

    def fetch(role: str) -> NDArray[Any] | None:
        name = _choose(source, role, available)
        return None if name is None else _samples_first(read(name), samples)

    x_train, y_train = fetch("x_train"), fetch("y_train")
    if x_train is None or y_train is None:
        missing = "x_train" if x_train is None else "y_train"
        raise ValueError(
            f"{source}: no variable for {missing}; looked for {', '.join(ROLES[missing])}; the "
            f"file has {', '.join(available) or 'none'}"
        )
    other = SAMPLES[1 - SAMPLES.index(samples)]
    hint = f"; samples were taken along {samples}, pass samples={other!r} if that is wrong"
    return RawData(source, x_train, y_train, fetch("x_test"), fetch("y_test"), hint)


def _choose(source: str, role: str, available: list[str]) -> str | None:
    found = [name for name in ROLES[role] if name in available]
    if len(found) > 1:
        raise ValueError(f"{source}: both {found[0]} and {found[1]} could be {role}; keep one")
    return found[0] if found else None


def _samples_first(values: NDArray[Any], samples: str) -> NDArray[Any]:
    return values if samples == "rows" or values.ndim < 2 else np.moveaxis(values, -1, 0)
