"""Text of the command line as values: numbers, noise levels, activations."""

from __future__ import annotations

import math

import snode


def read_numbers(name: str, text: str, count: int | None = None) -> tuple[float, ...]:
    """Read numbers separated by commas."""
    try:
        values = tuple(float(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        raise ValueError(f"{name} must be numbers separated by commas; got {text!r}") from None
    if count is not None and len(values) != count:
        raise ValueError(f"{name} must be {count} numbers separated by commas; got {text!r}")
    return values


def check_seed(seed: int) -> int:
    """Return a seed; raise ValueError for a negative one."""
    if seed < 0:
        raise ValueError(f"--seed must be 0 or larger; got {seed}")
    return seed


def encoding_pair(text: str) -> tuple[float, float] | None:
    """Read "0,-1", background and ink; nothing is None."""
    values = read_numbers("encoding", text, 2) if text.strip() else None
    return None if values is None else (values[0], values[1])


def noise_levels(text: str) -> tuple[float, ...]:
    """Read finite numbers >= 0."""
    levels = read_numbers("noise", text)
    if not all(math.isfinite(level) and level >= 0 for level in levels):
        raise ValueError(f"noise must be finite and >= 0; got {text!r}")
    return levels


def read_activation(text: str) -> snode.Activation:
    """Read "relu", or "elu:alpha=0.2" with parameters."""
    name, _, rest = text.partition(":")
    params = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"activation must look like elu:alpha=0.2; got {text!r}")
        params[key] = read_numbers("activation", value, 1)[0]
    return snode.get_activation(name, **params)
