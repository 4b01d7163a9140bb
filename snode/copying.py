"""Copies of the package's objects: what ``pickle`` and ``copy.deepcopy`` make of them.

Two things would not come through by themselves: a read-only mapping has no pickled form, and a
write-protected array comes back writable. `Portable` packs both. Nothing here reads a pickle.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from copy import deepcopy
from types import FunctionType, MappingProxyType
from typing import Any, NoReturn

import numpy as np

__all__ = ["LostFunction", "Portable", "is_importable", "left_behind"]


class Portable:
    """A class whose objects pickle and copy: read-only mappings and arrays stay read-only."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: _pack(value) for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: _unpack(value) for name, value in state.items()})


class LostFunction:
    """Stands where a function was that another process cannot import, such as a lambda.

    Parameters
    ----------
    name : str
        What it was called.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *arguments: Any) -> NoReturn:
        """Raise TypeError: the function is in the process that made it."""
        raise TypeError(
            f"{self.name} was left behind in the process that made it: another process can only "
            "import functions that are defined at the top of a module"
        )

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        self()

    def __repr__(self) -> str:
        return f"LostFunction({self.name!r})"


def is_importable(thing: Any) -> bool:
    """Return False if a function inside of `thing` is a lambda or defined within a function."""
    if isinstance(thing, FunctionType):
        return "<" not in thing.__qualname__
    if isinstance(thing, functools.partial):
        return all(map(is_importable, (thing.func, *thing.args, *thing.keywords.values())))
    if isinstance(thing, list | tuple):
        return all(map(is_importable, thing))
    if hasattr(type(thing), "is_importable"):
        return bool(thing.is_importable)
    if type(thing).__module__.startswith("snode."):
        return all(map(is_importable, getattr(thing, "__dict__", {}).values()))
    return True


def left_behind(thing: Any, substitute: Any = None) -> Any:
    """Return what copies as `thing` within the process, and as `substitute` to another one."""
    return _Packed(thing, _same, substitute)


# --- packing --------------------------------------------------------------------------------------


class _Packed:
    """Pickled, it becomes build(content) on the other side, and nothing else."""

    def __init__(self, value: Any, build: Callable[[Any], Any], content: Any) -> None:
        self.value, self.build, self.content = value, build, content

    def __reduce__(self) -> tuple[Any, ...]:
        return self.build, (self.content,)

    def __deepcopy__(self, memo: Any) -> Any:
        if self.build is _same:
            return deepcopy(self.value, memo)
        return self.build(deepcopy(self.content, memo))


def _pack(value: Any) -> Any:
    if type(value) is MappingProxyType:
        return _Packed(value, _mapping, {key: _pack(item) for key, item in value.items()})
    if type(value) is np.ndarray and not value.flags.writeable:
        return _Packed(value, _protected, value)
    if type(value) is tuple or type(value) is list:
        packed = [_pack(item) for item in value]
        changed = any(a is not b for a, b in zip(packed, value, strict=True))
        return type(value)(packed) if changed else value
    if type(value) is dict:
        entries = {key: _pack(item) for key, item in value.items()}
        return entries if any(entries[key] is not value[key] for key in value) else value
    return value


def _unpack(value: Any) -> Any:
    """Undo `_pack` where nothing was pickled, as in ``copy.copy``."""
    if isinstance(value, _Packed):
        return value.value
    if type(value) is tuple or type(value) is list:
        return type(value)([_unpack(item) for item in value])
    if type(value) is dict:
        return {key: _unpack(item) for key, item in value.items()}
    return value


def _mapping(content: dict[str, Any]) -> Any:
    return MappingProxyType(content)


def _protected(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array.flags.writeable = False
    return array


def _same(value: Any) -> Any:
    return value
