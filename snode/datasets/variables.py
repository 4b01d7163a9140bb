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
    source: str,
    names: Iterable[str],
    read: Callable[[str], NDArray[Any]],
    usual: str,
    samples: str | None,
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
    usual : {"rows", "columns"}
        How files of this format are usually written.
    samples : {"rows", "columns"} or None
        Whether samples lie along the first or the last axis of the file's arrays; None leaves
        that to the labels, and to `usual` where both would do.

    Raises
    ------
    ValueError
        If a variable is missing, or two variables claim one role.
    """
    if samples not in (None, *SAMPLES):
        raise ValueError(f"samples must be 'rows' or 'columns'; got {samples!r}")
    available = list(names)
    chosen = {role: _choose(source, role, available) for role in ROLES}
    for role in ("x_train", "y_train"):
        if chosen[role] is None:
            raise ValueError(
                f"{source}: no variable for {role}; looked for {', '.join(ROLES[role])}; the "
                f"file has {_listed(available)}"
            )
    found = {role: None if name is None else read(name) for role, name in chosen.items()}
    x_train, y_train, x_test, y_test = (found[role] for role in ROLES)
    assert x_train is not None
    assert y_train is not None
    pairs = [(x_train, y_train)]
    if x_test is not None and y_test is not None:
        pairs.append((x_test, y_test))
    along = _orientation(pairs, usual) if samples is None else samples
    other = SAMPLES[1 - SAMPLES.index(along)]
    hint = (
        f"; samples were taken along {along}, pass samples={other!r} (--samples {other}) if that "
        "is wrong"
    )
    return RawData(
        source,
        _samples_first(x_train, along),
        _samples_first(y_train, along),
        None if x_test is None else _samples_first(x_test, along),
        None if y_test is None else _samples_first(y_test, along),
        hint,
    )


def _orientation(pairs: list[tuple[NDArray[Any], NDArray[Any]]], usual: str) -> str:
    """Return the only axis along which x has as many samples as y, else the usual one."""
    fitting = [name for name in SAMPLES if all(_fits(x, y, name) for x, y in pairs)]
    return fitting[0] if len(fitting) == 1 else usual


def _fits(x: NDArray[Any], y: NDArray[Any], along: str) -> bool:
    if x.ndim < 2 or y.ndim < 1:
        return False
    axis = 0 if along == "rows" else -1
    return x.shape[axis] in (y.size, y.shape[axis])


def _choose(source: str, role: str, available: list[str]) -> str | None:
    found = [name for name in ROLES[role] if name in available]
    if len(found) > 1:
        raise ValueError(f"{source}: both {found[0]} and {found[1]} could be {role}; keep one")
    return found[0] if found else None


def _listed(available: list[str]) -> str:
    shown = ", ".join(name[:60] for name in available[:10]) or "none"
    return shown + (f" and {len(available) - 10} more" if len(available) > 10 else "")


def _samples_first(values: NDArray[Any], samples: str) -> NDArray[Any]:
    return values if samples == "rows" or values.ndim < 2 else np.moveaxis(values, -1, 0)
