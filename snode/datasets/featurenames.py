"""Names of features: the same feature in whatever column of another table."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from reprlib import repr as brief
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snode.datasets.classnames import some_names

__all__ = ["checked_feature_names", "feature_order", "storable_feature_names"]

_MOST = 2**19  # bytes of JSON: the names are half of the header of a model file at most


def checked_feature_names(names: Any, n: int, what: str = "feature_names") -> tuple[str, ...]:
    """Return the names of `n` features as a tuple; `what` they are is for the message.

    Raises
    ------
    ValueError
        If there are not `n`, one is no text or empty, or two are the same.
    """
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise ValueError(f"{what} must be a sequence of texts; got {brief(names)}")
    names = list(names)
    if len(names) != n:
        raise ValueError(f"{what} must have {n} entries, one for each feature; got {len(names)}")
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"{what} must be texts that are not empty; got {brief(names)}")
    names = [str(name).strip() for name in names]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{what} must be different; got more than one {some_names(twice)}")
    return tuple(names)


def storable_feature_names(names: Any, n: int) -> tuple[str, ...]:
    """Return the names as `checked_feature_names`; ValueError if a model file cannot hold them."""
    checked = checked_feature_names(names, n)
    size = len(json.dumps(checked))
    if size > _MOST:
        raise ValueError(f"feature_names must take at most {_MOST} bytes of JSON; got {size}")
    return checked


def feature_order(
    theirs: Sequence[str] | None, ours: Sequence[str] | None, what: str = "the data"
) -> NDArray[Any] | None:
    """Return, for each of our features, its place among theirs; None if it is the same.

    Features without names are taken by position, and so are those that are only counted, from 0 or
    1, as pandas writes columns without names - unless the others have the same numbers.

    Parameters
    ----------
    theirs, ours : sequences of different names, or None
    what : str
        What their features belong to, for the message.

    Raises
    ------
    ValueError
        If a name of one is not among the other; names it.

    Examples
    --------
    >>> from snode.datasets.featurenames import feature_order
    >>> feature_order(["width", "length"], ["length", "width"])
    array([1, 0])
    """
    if theirs is None or ours is None or list(theirs) == list(ours):
        return None
    if set(theirs) == set(ours):
        places = {name: i for i, name in enumerate(theirs)}
        return np.array([places[name] for name in ours], dtype=np.int64)
    if len(theirs) == len(ours) and (_only_count(theirs) or _only_count(ours)):
        return None
    wrong = []
    for label, one, other in (("lacks", ours, theirs), ("has the unknown", theirs, ours)):
        held = set(other)
        rest = [name for name in one if name not in held]
        if rest:
            wrong.append(f"{label} {some_names(map(repr, rest))}")
    raise ValueError(
        f"the features of {what} are not those of the model: it {' and '.join(wrong)}; the model "
        f"takes {some_names(ours)}"
    )


def _only_count(names: Sequence[str]) -> bool:
    """Return True for 0, 1, 2, ... or 1, 2, 3, ..., perhaps without the number of the labels."""
    if not all(name.isdecimal() and name.isascii() and len(name) < 10 for name in names):
        return False
    numbers = [int(name) for name in names]
    rising = all(a < b for a, b in itertools.pairwise(numbers))
    return rising and numbers[0] <= 1 and numbers[-1] <= len(numbers) + numbers[0]
