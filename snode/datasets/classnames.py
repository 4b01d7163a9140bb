"""Names of classes: the same class under the numbers of two files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["match_names", "some_names"]


def match_names(theirs: Iterable[Any], ours: Iterable[Any], what: str = "classes") -> NDArray[Any]:
    """Return, for each of their names, its place among ours.

    A name is what is written: 1, 1.0, "1" and " 1 " are the same class, unless one of the two
    lists tells "1" from "1.0".

    Parameters
    ----------
    theirs, ours : iterables of str or numbers
    what : str
        What their names are, for the message.

    Returns
    -------
    int64 array, one entry for each of theirs

    Raises
    ------
    ValueError
        If a name is not among ours; names it.
    """
    left, right = [_written(name) for name in theirs], [_written(name) for name in ours]
    if not (_are_different(map(_plain, left)) and _are_different(map(_plain, right))):
        places = {name: i for i, name in enumerate(right)}
        found = [places.get(name) for name in left]
    else:
        places = {_plain(name): i for i, name in enumerate(right)}
        found = [places.get(_plain(name)) for name in left]
    unknown = [name for name, place in zip(left, found, strict=True) if place is None]
    if unknown:
        raise ValueError(f"{what} {some_names(unknown)} not among the classes {some_names(right)}")
    return np.array(found, dtype=np.int64)


def some_names(names: Iterable[Any], count: int = 10) -> str:
    """Return the first names, for a message."""
    names = [_written(name) for name in names]
    return ", ".join(names[:count]) + (f", ... ({len(names)})" if len(names) > count else "")


def _written(name: Any) -> str:
    return str(name.item() if isinstance(name, np.generic) else name).strip()


def _plain(name: str) -> str:
    """Return 1 for 1.0, 01 and +1; other names as they are."""
    try:
        number = float(name) if "_" not in name else np.nan
    except ValueError:
        return name
    if abs(number) <= 2.0**53:
        return str(int(number)) if number == int(number) else repr(number)
    return name


def _are_different(names: Iterable[str]) -> bool:
    return max(Counter(names).values(), default=1) == 1
