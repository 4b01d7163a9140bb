"""Class labels that a caller passes: checked here for every function that takes them.

Labels are integers 0..C-1, one for each column of x, in a plain array on the device of x. Nothing
is converted: a label that is shifted by one, a float or a text means that the data were read in
another way than the caller thinks, and the message says how to make labels of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from snode.backend import Array, is_array, plain, to_host

__all__ = ["check_labels", "check_order", "check_plain"]


def check_labels(
    y: Any, n_classes: int | None, m: int, name: str = "y", *, otherwise: str = ""
) -> Array:
    """Return labels as int64.

    Parameters
    ----------
    y : integer array (m,)
    n_classes : int or None
        Number C of classes; None: only the sign is known to be wrong.
    m : int
        Number of samples.
    name : str, optional
        Of the argument, for the messages.
    otherwise : str, optional
        What else the argument may be, for the messages.

    Raises
    ------
    TypeError
        If `y` is no array (a list, a table's column), or a masked one.
    ValueError
        If it has another shape, another dtype (bool, float and text among them), hidden entries, or
        a label that is not in 0..C-1.

    Notes
    -----
    On a device this waits once, for the question whether all labels are in range.

    Examples
    --------
    >>> import numpy as np
    >>> from snode.labels import check_labels
    >>> check_labels(np.array([0, 2, 1], dtype=np.uint8), 3, 3)
    array([0, 2, 1])
    >>> check_labels(np.array([1, 3, 2]), 3, 3)
    Traceback (most recent call last):
    ...
    ValueError: y must hold labels 0..2; got labels 1..3, counted from 1 as in MATLAB: use y - 1
    """
    expected = f"{name} must be integer labels of shape ({m},){otherwise}"
    check_plain(y, name, f"integer labels of shape ({m},)")
    if y.shape != (m,):
        raise ValueError(f"{expected}; got {y.dtype} of shape {y.shape}{_shape_hint(y, m, name)}")
    if y.dtype.kind not in "iu":
        raise ValueError(f"{expected}; got {_what_came(y, name)}")
    if m == 0:
        held = "labels" if n_classes is None else f"labels 0..{n_classes - 1}"
        raise ValueError(f"{name} must hold {held}; got no labels")
    wrong = y < 0 if n_classes is None else (y < 0) | (y >= n_classes)
    if bool(wrong.any()):
        raise ValueError(_out_of_range(to_host(y), n_classes, name))
    return plain(y).astype(np.int64)


def check_plain(y: Any, name: str, expected: str) -> None:
    """Raise unless `y` is an array whose entries can all be seen."""
    if isinstance(y, np.ma.MaskedArray):
        hidden = int(np.ma.getmaskarray(y).sum())
        if hidden:
            raise ValueError(
                f"{name} must be {expected} without hidden entries; {hidden} of {y.size} are "
                "masked: leave these samples out"
            )
        raise TypeError(f"{name} must be {expected} in a plain array: use {name}.data")
    if not is_array(y):
        hint = f": use numpy.asarray({name})" if hasattr(y, "__len__") else ""
        raise TypeError(
            f"{name} must be {expected} in a NumPy or CuPy array; got {type(y).__name__}{hint}"
        )


def check_order(x: Any, y: Any) -> None:
    """Raise if the labels stand where the samples should."""
    if getattr(x, "ndim", None) == 1 and getattr(y, "ndim", None) == 2:
        raise ValueError(
            f"x must have shape (n, m) and y (m,); got {x.shape} and {y.shape}: are they swapped?"
        )


def _shape_hint(y: Array, m: int, name: str) -> str:
    if m > 1 and y.shape in ((m, 1), (1, m)):
        return f"; use {name}.ravel()"
    if y.ndim == 2 and y.shape[1] == m:
        return f"; of one-hot columns use {name}.argmax(axis=0)"
    if y.ndim == 2 and y.shape[0] == m:
        return f"; of one-hot rows use {name}.argmax(axis=1)"
    return ""


def _what_came(y: Array, name: str) -> str:
    """Say what is there instead of integers, and how to make labels of it."""
    kind = y.dtype.kind
    if kind == "f":
        host = to_host(y)
        odd = np.flatnonzero(host != np.floor(host))  # NaN among them
        odd = odd if odd.size else np.flatnonzero(np.isinf(host))
        if odd.size:
            return f"{y.dtype}: entry {odd[0]} is {host[odd[0]]}"
        return f"{y.dtype}: use {name}.astype(int)"
    if kind == "b":
        return f"bool: use {name}.astype(int)"
    if kind in "UST":
        return (
            f"text such as {to_host(y)[0]!s:.20}: "
            f"number them by numpy.unique({name}, return_inverse=True)[1]"
        )
    return f"{y.dtype}"


def _out_of_range(y: Any, n_classes: int | None, name: str) -> str:
    low, high = int(y.min()), int(y.max())
    if n_classes is None:
        return f"{name} must hold labels >= 0; got labels {low}..{high}"
    text = f"{name} must hold labels 0..{n_classes - 1}; got labels {low}..{high}"
    if low == -1 and high == 1 and 0 not in y:
        return f"{text}: of -1 and 1 make 0 and 1 by ({name} + 1) // 2"
    if low == 1 and high == n_classes:
        return f"{text}, counted from 1 as in MATLAB: use {name} - 1"
    if low >= 0:
        k = int(np.flatnonzero(y >= n_classes)[0])
        return f"{text} (sample {k}): is n_classes the number of classes of the data?"
    return text
