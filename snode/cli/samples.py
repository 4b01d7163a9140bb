"""Data and models by name, and how well they go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

import snode
from snode import datasets
from snode.progress import Callback, tell

TOYS = ("two_moons", "spirals", "annulus", "broken_annulus", "swiss_roll")
TOY_SAMPLES = 2000


def load_data(name: str, encoding: tuple[float, float] | None, dtype: str, seed: int) -> Any:
    """Return the data set of this name or file."""
    if name == "mnist":
        return datasets.load_mnist(encoding=encoding or (0.0, -1.0), dtype=dtype)
    if name in TOYS:
        x, y = getattr(datasets, name)(TOY_SAMPLES, rng=seed, dtype=dtype)
        return datasets.train_test_split(x, y, test_fraction=0.25, rng=seed, name=name)
    if not Path(name).exists():
        raise FileNotFoundError(
            f"data {name!r} is neither a file or folder nor one of mnist, {', '.join(TOYS)}"
        )
    return datasets.load_dataset(name, encoding=encoding, image_encoding=(0.0, -1.0), dtype=dtype)


def model_path(path: Path) -> Path:
    """Return the file of a model, which may be given by the folder of its run."""
    return path / "model.safetensors" if path.is_dir() else path


def load_model(model: Path, data: str | None) -> tuple[Any, Any]:
    """Return the model and the data it was trained on, or those that are asked for."""
    loaded = snode.load(model_path(model))
    options = loaded.manifest.get("options", {})
    options = options if isinstance(options, dict) else {}
    encoding = loaded.encoding
    if encoding is None and options.get("encoding") is not None:
        encoding = tuple(options["encoding"])
    dataset = load_data(
        data or options.get("data", "mnist"), encoding, str(loaded.field.dtype),
        options.get("seed", 1),
    )  # fmt: skip
    return loaded, dataset


def class_count(field: Any, data: Any) -> int:
    """Return the classes of the data; a read-out may have more than occur in it."""
    return max(data.n_classes or 2, getattr(field, "n_outputs", 0))


def held_out(data: Any) -> tuple[Any, Any]:
    """Return the test samples, or the training samples of data without any."""
    return (data.x_train, data.y_train) if data.x_test is None else (data.x_test, data.y_test)


def first_samples(dataset: Any, count: int) -> tuple[Any, Any]:
    """Return the first `count` samples of the test set."""
    if count < 1:
        raise ValueError(f"--n must be positive; got {count}")
    x, y = held_out(dataset)
    return np.ascontiguousarray(x[:, :count]), y[:count]


def final_numbers(
    field: Any, data: Any, noise: tuple[float, ...], seed: int, callback: Callback | None = None
) -> dict[str, Any]:
    """Return the accuracies of a trained field, also under noise; tell a callback how far."""
    tell(callback, 0, 3, "measuring accuracy, training samples")
    classes = class_count(field, data)
    train_accuracy = snode.accuracy(field, data.x_train, data.y_train, n_classes=classes)
    numbers: dict[str, Any] = {"train_accuracy": train_accuracy, "test_accuracy": None}
    tell(callback, 1, 3, "measuring accuracy, test samples")
    if data.x_test is not None:
        numbers["test_accuracy"] = snode.accuracy(
            field, data.x_test, data.y_test, n_classes=classes
        )
    tell(callback, 2, 3, "measuring accuracy under noise")
    return numbers | {"noise_accuracy": _noise_numbers(field, data, noise, seed)}


def _noise_numbers(field: Any, data: Any, noise: tuple[float, ...], seed: int) -> dict[str, float]:
    x, y = held_out(data)
    low, high = data.encoding or (0.0, 1.0)
    scores = snode.accuracy_under_noise(
        field,
        x,
        y,
        noise,
        n_classes=class_count(field, data),
        value_range=abs(high - low),
        rng=seed,
    )
    return {f"{std:g}": float(score) for std, score in zip(noise, scores, strict=True)}


def accuracy_rows(table: Table, numbers: dict[str, Any]) -> None:
    """Add the accuracies of `final_numbers` to a table."""
    for key, label in (("train_accuracy", "training accuracy"), ("test_accuracy", "test accuracy")):
        if numbers.get(key) is not None:
            table.add_row(label, f"{100 * numbers[key]:.2f} %")
    for std, score in numbers["noise_accuracy"].items():
        table.add_row(f"accuracy, noise {std}", f"{100 * score:.2f} %")
