"""Checks of what a caller passes to the solvers; every message names the argument."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from snode.backend import Array, array_namespace, is_array, to_host
from snode.copying import Portable

__all__ = [
    "as_grid", "as_state", "as_tolerance", "check_choice", "check_finite", "check_grid",
    "check_like", "check_parameters", "check_state", "check_unmasked", "with_arguments",
]  # fmt: skip


def check_choice(name: str, value: Any, valid: Sequence[str]) -> None:
    """Raise ValueError unless `value` is one of `valid`."""
    if value not in valid:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, valid))}; got {value!r}")


@dataclass(frozen=True)
class WithArguments(Portable):
    """f(t, x, *args) as a function of t and x."""

    f: Callable[..., Any]
    args: tuple[Any, ...]

    def __call__(self, t: float, x: Array) -> Any:
        return self.f(t, x, *self.args)


def with_arguments(f: Any, args: Any) -> Any:
    """Return f itself if `args` is empty, else a function (t, x) that calls f(t, x, *args)."""
    if not isinstance(args, tuple | list):
        raise TypeError(
            f"args must be a tuple, for one argument args=(value,); got {type(args).__name__}"
        )
    if not args:
        return f
    if hasattr(f, "linearize"):
        raise TypeError(f"args must be () for a vector field, which takes t and x; got {args!r}")
    return WithArguments(f, tuple(args))


def as_state(x: Any, name: str) -> Array:
    """Return a finite floating state (n,) or (n, m) for a plain right-hand side.

    Lists and integers become float64, as in SciPy.
    """
    if not is_array(x):
        if isinstance(x, np.ma.MaskedArray):
            raise TypeError(f"{name} must be a plain array; got {type(x).__name__}")
        try:
            x = np.asarray(x)
        except ValueError as error:
            raise ValueError(f"{name} must be numbers of shape (n,) or (n, m): {error}") from None
    if x.dtype.kind in "iu":
        x = x.astype(np.float64)
    if x.dtype not in (np.float32, np.float64):
        raise ValueError(f"{name} must be float32 or float64; got {x.dtype}")
    if x.ndim not in (1, 2) or x.size == 0:
        raise ValueError(
            f"{name} must have shape (n,) or (n, m), one column per sample; got {x.shape}"
            + (f"; use [{name}] for a single number" if x.ndim == 0 else "")
        )
    check_finite(x, name)
    return array_namespace(x).ascontiguousarray(x).copy()  # the caller may change theirs


def check_state(field: Any, x: Array, name: str) -> None:
    """Raise unless `x` is a finite (n, m) array of the field's dtype on the field's device."""
    if not (hasattr(field, "n") and hasattr(field, "parameters")):
        raise TypeError(
            f"field must follow the vector-field contract; got {type(field).__name__}. Wrap a "
            "plain function in snode.FunctionField, or solve it by snode.ode45"
        )
    n = field.n
    if not is_array(x):
        raise TypeError(
            f"{name} must be a NumPy or CuPy array of shape ({n}, m), as numpy.asarray({name}) "
            f"makes it; got {type(x).__name__}"
        )
    if x.ndim != 2 or x.shape[0] != n or x.shape[1] == 0:
        raise ValueError(
            f"{name} must have shape ({n}, m), one column per sample; got {x.shape}"
            + _shape_hint(name, x.shape, n)
        )
    parameters = list(field.parameters.values())
    array_namespace(x, *parameters)
    if x.dtype not in (np.float32, np.float64):
        raise ValueError(f"{name} must be float32 or float64; got {x.dtype}")
    if parameters and x.dtype != parameters[0].dtype:
        raise ValueError(
            f"{name} is {x.dtype} but the field is {parameters[0].dtype}; nothing is converted "
            f"silently: use {name}.astype({str(parameters[0].dtype)!r})"
        )
    check_finite(x, name)


def _shape_hint(name: str, shape: tuple[int, ...], n: int) -> str:
    if len(shape) == 2 and shape[1] == n:
        return f"; did you mean {name}.T?"
    if shape == (n,):
        return f"; use {name}[:, None] for a single sample"
    return ""


def check_finite(x: Array, name: str) -> None:
    """Raise ValueError naming the first entry that is not finite."""
    bad = ~array_namespace(x).isfinite(x)
    if bool(bad.any()):
        index = first_true(bad)
        raise ValueError(f"{name} must be finite; {describe(index)} is {float(x[index])}")


def check_unmasked(value: Any, name: str) -> None:
    """Raise TypeError for masked arrays, whose hidden entries would be computed with."""
    parts = value if isinstance(value, list | tuple) else (value,)
    if any(isinstance(part, np.ma.MaskedArray) for part in parts):
        raise TypeError(
            f"{name} must be a plain array; got a MaskedArray. Hidden entries are not left out: "
            f"fill them with .filled(...), or use .data"
        )


def first_true(mask: Array) -> tuple[int, ...]:
    """Return the index of the first True entry."""
    return tuple(int(k[0]) for k in map(to_host, array_namespace(mask).nonzero(mask)))


def describe(index: Sequence[Any]) -> str:
    """Return "component i of sample j" for an index into a state (n,) or (n, m)."""
    return f"component {index[0]}" + "".join(f" of sample {j}" for j in index[1:])


def as_grid(t: Any, breakpoints: Iterable[float]) -> Array:
    """Return the strictly monotone float64 grid `t`; it must contain the breakpoints inside it."""
    check_unmasked(t, "t")
    try:
        t = np.asarray(t, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"t must be a grid of numbers: {error}") from None
    steps = np.diff(t) if t.ndim == 1 else t
    if t.ndim != 1 or len(t) < 2 or not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError("t must be a strictly monotone grid of at least two depths")
    if not np.isfinite(t).all():
        raise ValueError("t must be finite")
    try:
        breakpoints = [float(s) for s in breakpoints]
    except (TypeError, ValueError) as error:
        raise ValueError(f"breakpoints must be numbers: {error}") from None
    inner = [s for s in breakpoints if t.min() < s < t.max()]
    if inner:
        distance = np.abs(t[:, None] - np.asarray(inner)).min(axis=0)
        if distance.max() > 1e-12 * np.abs(t).max():
            miss = inner[int(distance.argmax())]
            raise ValueError(f"t must contain the field's breakpoints; {miss:g} is missing")
        t = t.copy()  # the very numbers, so that a step knows that it ends at a jump
        t[[int(np.abs(t - s).argmin()) for s in inner]] = inner
    return t


def check_grid(field: Any, t: Any) -> Array:
    """Return the float64 grid: `t`, or the field's own."""
    return as_grid(own_grid(field) if t is None else t, field.breakpoints)


def own_grid(field: Any) -> Array:
    """Return the field's grid, or raise ValueError if it has none."""
    grid = getattr(field, "grid", None)
    if grid is None:
        raise ValueError("t must be given: this field has no grid of its own")
    return grid


def as_tolerance(rtol: Any, atol: Any, x0: Array) -> tuple[float, Any]:
    """Return rtol as a float and atol as a float or an array that fits x0."""
    smallest = 10 * float(np.finfo(x0.dtype).eps)
    if not _is_number(rtol) or not (rtol == 0 or smallest <= rtol < math.inf):
        raise ValueError(
            f"rtol must be 0, or finite and >= {smallest:.1e} for {x0.dtype}; got {rtol!r}"
            + _precision_hint(rtol, x0)
        )
    if _is_number(atol):
        if not 0 <= atol < math.inf:
            raise ValueError(f"atol must be finite and >= 0; got {atol!r}")
        if rtol == 0 and atol == 0:
            raise ValueError("rtol and atol must not both be 0")
        return float(rtol), float(atol)
    check_unmasked(atol, "atol")
    try:
        values = np.asarray(atol, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"atol must be a number or an array: {error}") from None
    if values.shape != x0.shape[:1] or not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError(
            f"atol must be a number or an array ({x0.shape[0]},), finite and >= 0; got {atol!r}"
        )
    if rtol == 0 and not values.all():
        raise ValueError("atol must be positive where rtol is 0")
    values = values.reshape(-1, *[1] * (x0.ndim - 1)).astype(x0.dtype)
    return float(rtol), array_namespace(x0).asarray(values)


def _precision_hint(rtol: Any, x0: Array) -> str:
    finest = 10 * float(np.finfo(np.float64).eps)
    if x0.dtype == np.float64 or not _is_number(rtol) or not finest <= rtol < math.inf:
        return ""
    return (
        ". For smaller ones solve in float64: x0.astype('float64'), and for a field "
        "field.with_parameters(**{k: v.astype('float64') for k, v in field.parameters.items()})"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def check_like(a: Array, reference: Array, name: str) -> None:
    """Raise unless `a` has shape, dtype and device of `reference`."""
    if not is_array(a):
        raise TypeError(
            f"{name} must be an array of shape {reference.shape}; got {type(a).__name__}"
        )
    array_namespace(a, reference)
    if a.shape != reference.shape or a.dtype != reference.dtype:
        raise ValueError(
            f"{name} must be {reference.dtype} of shape {reference.shape}; "
            f"got {a.dtype} of shape {a.shape}"
        )


def check_parameters(field: Any, theta: Mapping[str, Array] | None, name: str) -> None:
    """Raise unless `theta` names parameters of the field with arrays of their shapes."""
    known = field.parameters
    if theta is not None and not isinstance(theta, Mapping):
        raise TypeError(
            f"{name} must be a mapping from parameter name to array; got {type(theta).__name__}"
        )
    for key, value in (theta or {}).items():
        if key not in known:
            raise ValueError(f"{name} has an unknown parameter {key!r}; known: {', '.join(known)}")
        check_like(value, known[key], f"{name}[{key!r}]")
