"""Random generators from what a caller passes as ``rng``."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["as_generator"]


def as_generator(rng: Any) -> np.random.Generator:
    """Return the generator that `rng` is or seeds.

    Raises
    ------
    TypeError, ValueError
        If it is neither a generator nor a seed; names the argument.

    Examples
    --------
    >>> from snode.seeds import as_generator
    >>> int(as_generator(0).integers(10))
    8
    >>> as_generator("abc")
    Traceback (most recent call last):
    ...
    TypeError: rng must be a seed (an integer >= 0) or a numpy.random.Generator; got 'abc'
    """
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(
            f"rng must be a seed (an integer >= 0) or a numpy.random.Generator; got {rng!r}"
        ) from error
