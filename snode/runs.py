"""The folder of a run: options, model, history, manifest, figure.

A run can be repeated: the manifest holds the seed, versions, dtype, threads, options and numbers.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import platform
import sys
import tempfile
from dataclasses import fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from reprlib import repr as brief
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from snode.backend import describe_devices
from snode.io import read_json, replacing
from snode.results import ModelFormatError, TrainResult

Record = TypeVar("Record")

__all__ = [
    "check_writable", "environment", "new_folder", "plain", "read_options", "read_record",
    "write_history", "write_json",
]  # fmt: skip

OPTIONS = "options.json"

PACKAGES = ("snode", "numpy", "scipy", "numba", "matplotlib", "safetensors", "threadpoolctl")


def environment() -> dict[str, Any]:
    """Return versions, processor, BLAS and GPU: what a number may depend on."""
    from threadpoolctl import threadpool_info

    blas = [
        f"{i['internal_api']} {i['version']}" for i in threadpool_info() if "blas" in i["user_api"]
    ]
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "blas": sorted(set(blas)),
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}",
        "cores": os.cpu_count(),
        "gpu": describe_devices(),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except ImportError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def check_writable(folder: Path) -> None:
    """Raise OSError, naming the folder, if files cannot be written to it; it is made if missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        name = error.filename if isinstance(error, FileExistsError) else folder
        raise OSError(error.errno, error.strerror, str(name)) from error


def new_folder(parent: Path, name: str, *, given: bool) -> Path:
    """Make the folder of a run, which no other run has or gets.

    Parameters
    ----------
    parent : Path
    name : str
    given : bool
        The user chose this very name: a folder of that name must be empty. Otherwise ``-2``,
        ``-3``, ... is appended until the name is free.

    Raises
    ------
    FileExistsError
        If the folder that was asked for holds something.
    """
    check_writable(parent)
    if given:
        folder = parent / name
        folder.mkdir(exist_ok=True)
        try:
            if any(folder.iterdir()):
                raise FileExistsError
            (folder / OPTIONS).touch(exist_ok=False)  # of two runs that come this far, one passes
        except FileExistsError:
            raise FileExistsError(
                f"{folder} is not empty; choose another --name, or --resume {folder}"
            ) from None
        return folder
    for count in itertools.count(1):
        folder = parent / (name if count == 1 else f"{name}-{count}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON (NaN becomes null), replacing the file in one go."""
    text = json.dumps(plain(content), indent=2, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """Return JSON-able data: NumPy scalars become numbers, tuples lists, NaN and inf None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def write_history(path: Path, result: TrainResult) -> None:
    """Write one line a minibatch; accuracies stand on the lines where they were measured."""
    scores = result.evaluations
    at = {float(e): i for i, e in enumerate(scores["epoch"])}
    names = [*result.history, "train_accuracy", "test_accuracy"]
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["batch", *names])
        for k in range(len(result.history["epoch"])):
            row = [repr(float(column[k])) for column in result.history.values()]
            i = at.get(float(result.history["epoch"][k]))
            measured = ["", ""] if i is None else [repr(float(scores[n][i])) for n in names[-2:]]
            writer.writerow([k + 1, *row, *measured])


def read_options(folder: Path) -> dict[str, Any]:
    """Return the options a run was started with.

    Raises
    ------
    FileNotFoundError
        If the folder or its ``options.json`` does not exist.
    ModelFormatError
        If the file is not a JSON object.
    """
    path = folder / OPTIONS
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not the folder of a run: it has no {OPTIONS}")
    return read_json(path)


def read_record(kind: type[Record], stored: dict[str, Any], where: Path) -> Record:
    """Return a dataclass from what a JSON file holds; entries that are missing have the default.

    Raises
    ------
    ModelFormatError
        If an entry is unknown or of another type; names the file and the entry.
    """
    types = get_type_hints(kind)
    unknown = sorted(set(stored) - {f.name for f in fields(kind)})  # type: ignore[arg-type]
    if unknown:
        raise ModelFormatError(f"{where} has unknown options {brief(unknown)}")
    try:
        return kind(**{name: _typed(types[name], value) for name, value in stored.items()})
    except _WrongTypeError as error:
        name = next(n for n, v in stored.items() if not _fits(types[n], v))
        raise ModelFormatError(
            f"{where}: {name} must be {error}; got {brief(stored[name])}"
        ) from None


class _WrongTypeError(Exception):
    """What was expected instead."""


def _fits(kind: Any, value: Any) -> bool:
    try:
        _typed(kind, value)
    except _WrongTypeError:
        return False
    return True


def _typed(kind: Any, value: Any) -> Any:
    """Return a JSON value as this type: a number, text, a flag, an optional, a tuple of these."""
    parts = get_args(kind)
    if type(None) in parts:
        if value is None:
            return None
        (kind,) = (part for part in parts if part is not type(None))
        return _typed(kind, value)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise _WrongTypeError("a list")
        if parts[-1] is ...:
            parts = parts[:1] * len(value)
        if len(value) != len(parts):
            raise _WrongTypeError(f"a list of {len(parts)}")
        return tuple(_typed(part, entry) for part, entry in zip(parts, value, strict=True))
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and number and abs(value) <= sys.float_info.max:
        return float(value)
    if kind is int and number and isinstance(value, int) and abs(value) < 2**63:
        return value
    if kind in (str, bool) and isinstance(value, kind):
        return value
    raise _WrongTypeError(_WORDS[kind])


_WORDS = {
    float: "a finite number",
    int: "an integer below 2^63",
    str: "text",
    bool: "true or false",
}
