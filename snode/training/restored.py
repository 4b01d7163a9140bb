"""What a checkpoint may hold: every value is checked before a training run goes on with it.

A checkpoint is a file like any other. Its generator is rebuilt only from the names of NumPy's own
and from numbers in their ranges (a position outside of its buffer would be read from foreign
memory), its counts must fit each other, and its arrays must be those of the field.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from reprlib import repr as brief
from typing import Any

import numpy as np

from snode.backend import Array
from snode.io import parse_json

__all__ = [
    "count_from",
    "generator_from_text",
    "generator_to_text",
    "numbers_from",
    "table_from",
    "tensors_from",
]

_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
_LARGEST = {"pos": 624, "buffer_pos": 4, "has_uint32": 1, "uinteger": 2**32 - 1}
_MOST = 2**128 - 1  # of the integers without a limit of their own


# --- counts and tables ----------------------------------------------------------------------------


def count_from(value: Any, name: str, largest: float = math.inf) -> int:
    """Return an integer in 0..largest, or raise ValueError with its name."""
    if type(value) is not int or not 0 <= value <= largest:
        limit = "" if largest == math.inf else f" and at most {largest}"
        raise ValueError(f"its {name} must be an integer >= 0{limit}; got {brief(value)}")
    return value


def numbers_from(texts: Any, name: str, count: int) -> list[float]:
    """Return the numbers that stand in hexadecimal, as ``float.hex`` writes them."""
    if not (isinstance(texts, list) and len(texts) == count):
        raise ValueError(f"its {name} must be {count} numbers; got {brief(texts)}")
    try:
        return [float.fromhex(text) for text in texts]
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"its {name} must be numbers; got {brief(texts)}") from None


def table_from(
    arrays: Mapping[str, Array], prefix: str, names: Iterable[str], rows: int | None = None
) -> dict[str, list[float]]:
    """Return columns of float64 of one length (`rows`, if it is known)."""
    table: dict[str, list[float]] = {}
    for name in names:
        column = arrays[f"{prefix} {name}"]
        if column.dtype != np.float64 or column.shape != (column.size if rows is None else rows,):
            expected = "one dimension" if rows is None else f"shape ({rows},)"
            raise ValueError(
                f"its {prefix} {name} must be float64 of {expected}; got {column.dtype} of shape "
                f"{column.shape}"
            )
        rows = column.size
        table[name] = column.tolist()
    return table


def tensors_from(
    found: Mapping[str, Array], like: Mapping[str, Array], what: str
) -> dict[str, Array]:
    """Return finite arrays with the names, shapes and dtypes of `like`."""
    if set(found) != set(like):
        raise ValueError(f"it holds the {what} {brief(sorted(found))}, not {sorted(like)}")
    for name, own in like.items():
        array = found[name]
        if array.shape != own.shape or array.dtype != own.dtype:
            raise ValueError(
                f"its {what} {name} must be {own.dtype} of shape {own.shape}; got {array.dtype} "
                f"of shape {array.shape}"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"its {what} {name} must be finite; it has NaN or infinite entries")
    return dict(found)


# --- the generator --------------------------------------------------------------------------------


def generator_to_text(rng: np.random.Generator) -> str:
    """Return the state of a generator as JSON."""
    return json.dumps(rng.bit_generator.state, default=_array_to_json)


def _array_to_json(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": str(value.dtype)}
    return value.item()


def generator_from_text(text: Any, current: np.random.Generator) -> np.random.Generator:
    """Return the generator that a checkpoint describes: of NumPy's kinds, or of the current one.

    Raises
    ------
    ValueError
        If the kind is unknown, or an entry is not of the type, size and range of its kind.
    """
    if not isinstance(text, str):
        raise ValueError(f"its rng must be a text; got {brief(text)}")
    state = parse_json(text)
    name = state.get("bit_generator") if isinstance(state, dict) else None
    if name == type(current.bit_generator).__name__:
        kind = type(current.bit_generator)
    elif isinstance(name, str) and name in _GENERATORS:
        kind = getattr(np.random, name)
    else:
        raise ValueError(f"its rng must be one of {', '.join(_GENERATORS)}; got {brief(name)}")
    bits = kind(0)
    try:
        bits.state = _state_like(state, bits.state, "rng")
    except (TypeError, OverflowError) as error:
        raise ValueError(f"its rng cannot be used: {error}") from error
    return np.random.Generator(bits)


def _state_like(value: Any, own: Any, name: str) -> Any:
    """Return `value` with the structure, types and ranges of a real state."""
    if isinstance(own, dict):
        if not isinstance(value, dict) or set(value) != set(own):
            raise ValueError(f"its {name} must have {sorted(own)}; got {brief(value)}")
        return {key: _state_like(value[key], own[key], f"{name} {key}") for key in own}
    if isinstance(own, np.ndarray):
        return _array_like(value, own, name)
    if isinstance(own, str):
        return own  # the kind, which has been compared
    return count_from(value, name, _LARGEST.get(name.rsplit(" ", 1)[-1], _MOST))


def _array_like(value: Any, own: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    numbers = value.get("array") if isinstance(value, dict) else None
    # only the list is used: the dtype is known, and a claimed one may be of any size
    if not isinstance(numbers, list) or len(numbers) != own.size:
        raise ValueError(f"its {name} must be {own.size} integers; got {brief(value)}")
    largest = int(np.iinfo(own.dtype).max)
    return np.array([count_from(v, name, largest) for v in numbers], own.dtype)
