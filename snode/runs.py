"""The folder of a run: options, model, history, manifest, figure.

A run can be repeated: the manifest holds the seed, versions, dtype, threads, options and numbers.
"""

from __future__ import annotations

import csv
import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from snode.backend import describe_devices
from snode.io import read_json, replacing
from snode.results import TrainResult

__all__ = ["environment", "plain", "read_options", "write_history", "write_json"]

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
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
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
    path = folder / "options.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not the folder of a run: it has no options.json")
    return read_json(path)
