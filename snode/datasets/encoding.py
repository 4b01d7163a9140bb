"""The affine pixel encoding: the one place where its formula stands.

A pixel intensity u in [0, 1] (0 background, 1 ink) becomes ``x = lo + (hi - lo) u``, where
``encoding = (lo, hi)`` holds the value of the background and the value of the ink.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from snode.backend import Array

__all__ = ["check_encoding", "decode", "encode"]

AS_IS = (0.0, 1.0)
"""The encoding under which values and intensities are the same numbers."""


def check_encoding(encoding: Any) -> tuple[float, float]:
    """Return `encoding` as two floats, or raise ValueError if it cannot be inverted."""
    try:
        background, ink = (float(value) for value in encoding)
    except (TypeError, ValueError):
        raise ValueError(
            f"encoding must be two numbers (background, ink); got {encoding!r}"
        ) from None
    if not (math.isfinite(background) and math.isfinite(ink)) or background == ink:
        raise ValueError(
            f"encoding must be two different finite numbers (background, ink); got {encoding!r}"
        )
    return background, ink


def encode(intensity: Array, encoding: tuple[float, float]) -> Array:
    """Return the encoded value of an intensity in [0, 1]; both ends are hit exactly."""
    background, ink = encoding
    return (1.0 - intensity) * background + intensity * ink


def decode(x: Array, encoding: tuple[float, float]) -> Array:
    """Return the intensity in [0, 1] of an encoded value."""
    background, ink = encoding
    return (x - background) / (ink - background) + 0.0  # + 0.0 turns -0.0 into 0.0


def check_float_dtype(dtype: Any) -> np.dtype[Any]:
    """Return float32 or float64 as a `numpy.dtype`, or raise ValueError."""
    for allowed in (np.dtype(np.float32), np.dtype(np.float64)):
        try:
            if np.dtype(dtype) == allowed:
                return allowed
        except TypeError:
            break
    raise ValueError(f"dtype must be 'float32' or 'float64'; got {dtype!r}")
