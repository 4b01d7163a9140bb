"""Data and models by name, and how well they go together."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

import snode
from snode import datasets
from snode.backend import to_host
from snode.cli.console import err
from snode.datasets.classnames import some_names
from snode.datasets.featurenames import feature_order
from snode.datasets.headers import label_column_beside, names_features
from snode.datasets.table import first_row
from snode.fields.base import n_outputs
from snode.model import Model
from snode.progress import Callback, tell

TOYS = ("two_moons", "spirals", "annulus", "broken_annulus", "swiss_roll")
TOY_SAMPLES = 2000
TOY_TEST_FRACTION = 0.25
PIXEL_ENCODING = (0.0, -1.0)
_ARGUMENTS = ("samples", "task", "label_column", "delimiter", "test_fraction", "encoding")


@dataclass(frozen=True)
class Source:
    """Where samples come from, and how they are read."""

    data: str = "mnist"
    encoding: tuple[float, float] | None = None
    dtype: str = "float32"
    seed: int = 1
    task: str = "classification"
    label_column: str | None = None
    samples: str | None = None
    delimiter: str | None = None
    test_fraction: float | None = None

    @classmethod
    def of(cls, options: Any) -> Source:
        """Return the source in the options of a run, of an older version, too."""
        get = options.get if isinstance(options, Mapping) else lambda name: getattr(options, name)
        found = {name: get(name) for name in cls.__dataclass_fields__}
        if found["encoding"] is not None:
            found["encoding"] = tuple(found["encoding"])
        return cls(**{name: value for name, value in found.items() if value is not None})

    def is_same_data(self, name: str) -> bool:
        """Whether this name stands for the data of the source."""
        if name in (*TOYS, "mnist") or self.data in (*TOYS, "mnist"):
            return name == self.data
        return Path(name).resolve() == Path(self.data).resolve()


def load_data(source: Source, model: Model | None = None) -> Any:
    """Return the data set of this name or file, divided into two parts if that was asked for.

    The names that a model knows tell the labels in a table with its features in any order.
    """
    name, fraction = source.data, source.test_fraction
    if name == "mnist":
        if fraction:
            raise ValueError("--test-fraction: mnist has a test set already")
        return datasets.load_mnist(encoding=source.encoding or PIXEL_ENCODING, dtype=source.dtype)
    if name in TOYS:
        x, y = getattr(datasets, name)(TOY_SAMPLES, rng=source.seed, dtype=source.dtype)
        data = datasets.Dataset(x, y, name=name, classes=np.arange(int(y.max()) + 1))
        fraction = TOY_TEST_FRACTION if fraction is None else fraction
        return data.split(fraction, rng=source.seed) if fraction else data
    if not Path(name).exists():
        raise FileNotFoundError(
            f"data {name!r} is neither a file or folder nor one of mnist, {', '.join(TOYS)}"
        )
    try:
        with warnings_as_lines():
            data = _load_file(source, model)
        return divided(data, fraction, source.seed) if fraction else data
    except ValueError as error:
        raise ValueError(_with_options(str(error))) from error


def divided(data: Any, fraction: float, seed: int) -> Any:
    """Return the data with this part of each class as a test set."""
    return data.split(fraction, rng=seed, stratified=bool(data.n_classes))


def _load_file(source: Source, model: Model | None) -> Any:
    column = as_column(source.label_column)
    options: dict[str, Any] = {
        "encoding": source.encoding, "dtype": source.dtype, "task": source.task,
        "label_column": column, "samples": source.samples, "delimiter": source.delimiter,
    }  # fmt: skip
    if model is not None and model.feature_names is not None and is_table(source.data):
        row, _ = first_row(Path(source.data), source.delimiter)
        label = column if isinstance(column, str) else label_name(model)
        if names_features(row, model.feature_names, label):
            label = label_column_beside(source.data, row, model.feature_names, label)
            if label is None:
                raise ValueError(f"{source.data}: has no column of labels beside the features")
            options["label_column"] = label
    return datasets.load_dataset(source.data, image_encoding=PIXEL_ENCODING, **options)


def as_column(column: str | None) -> int | str | None:
    """Return the number or the name of a column that was typed."""
    return int(column) if column is not None and re.fullmatch(r"[+-]?\d+", column) else column


def _with_options(message: str) -> str:
    """Return the message of a reader with the options of the command line for its arguments."""
    names = "|".join(_ARGUMENTS)
    pattern = rf"\b({names})=(?:'(\w+)'|\"(\w+)\"|(\.\.\.)|([^\s,;)]+))"

    def option(match: re.Match[str]) -> str:
        value = next((group for group in match.groups()[1:] if group), "")
        return f"--{match[1].replace('_', '-')} {value}"

    message = re.sub(pattern, option, message)
    return re.sub(r"(--[\w-]+ [\w.]*) \(\1[^)]*\)", r"\1", message)  # it names the option, too


def shown_path(path: Path, length: int = 40) -> str:
    """Return a path for a title: its end, if it is long."""
    text = str(path)
    return text if len(text) <= length else "..." + text[3 - length :]


def shown_name(data: str) -> str:
    """Return a short name for the data, for folders and titles."""
    if data in (*TOYS, "mnist"):
        return data
    name = Path(data).resolve().name or "data"
    return name.removesuffix(".gz").split(".")[0] or name


def label_column_name(source: Source, data: Any) -> str | None:
    """Return what the header of a table calls the column of the labels, or None."""
    if data.feature_names is None or not is_table(source.data):
        return None
    row, _ = first_row(Path(source.data), source.delimiter)
    if not set(data.feature_names) <= set(row):  # one has no name in the header
        return None
    return label_column_beside(source.data, row, data.feature_names, as_column(source.label_column))


def class_names(data: Any) -> Any:
    """Return the names of the classes; of data without any, their numbers."""
    if not data.n_classes:
        return None
    return np.arange(data.n_classes) if data.classes is None else data.classes


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Print what the package warns the user of as lines, not as Python's warnings."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Any, category: Any, *rest: Any, **more: Any) -> None:
            if issubclass(category, UserWarning):
                warn(_with_options(str(message)))
            else:
                usual(message, category, *rest, **more)

        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield


def warn(text: str) -> None:
    """Print a line of warning."""
    err.print(f"[bold yellow]warning:[/] {escape(text)}", highlight=False, soft_wrap=True)


# --- models and their data ------------------------------------------------------------------------


def model_path(path: Path) -> Path:
    """Return the file of a model, which may be given by the folder of its run."""
    return path / "model.safetensors" if path.is_dir() else path


def trained_on(model: Model) -> Source:
    """Return the source of the data that a model was trained on, as its manifest says."""
    options = model.manifest.get("options", {})
    known = dict(options) if isinstance(options, dict) else {}
    known["dtype"] = str(model.field.dtype)
    if model.encoding is not None:
        known["encoding"] = model.encoding
    return Source.of(known)


def load_model(path: Path, data: str | None) -> tuple[Model, Any]:
    """Return the model and the data it was trained on, or those that are asked for.

    The data are what the field takes, and their labels are numbered as its outputs.
    """
    model = snode.load(model_path(path))
    source = trained_on(model)
    if data is None or source.is_same_data(data):
        dataset = _in_order(model, load_data(source, model))
        if model.classes is not None and dataset.n_classes:
            dataset = dataset.with_classes(model.classes)
    else:
        dataset = _in_order(model, load_data(other_source(source, data), model))
        dataset = _with_classes_of(model, source, dataset)
    if model.standardisation is not None:
        dataset = dataset.standardised(model.standardisation)
    return model, dataset


def is_other_data(model: Model, data: str | None) -> bool:
    """Whether these are not the data that the model was trained on."""
    return data is not None and not trained_on(model).is_same_data(data)


def other_source(source: Source, data: str) -> Source:
    """Return the source of another file, read like that of the training data if it can be."""
    other = replace(source, data=data, test_fraction=None)
    if is_table(data) != is_table(source.data):
        return replace(other, label_column=None, delimiter=None, samples=None)
    return other


def is_table(name: str) -> bool:
    """Whether a file of this name is a table."""
    return Path(name.removesuffix(".gz")).suffix.lower() in (".csv", ".tsv", ".txt")


def label_name(model: Model) -> str | None:
    """Return what the column of the labels was called where the model was trained, or None."""
    name = model.manifest.get("label_name")
    return name if isinstance(name, str) else None


def _in_order(model: Model, data: Any) -> Any:
    """Return the data with the features of the model, matched by name if both have names."""
    if model.feature_names is not None and data.feature_names is not None:
        say_order(data.feature_names, model, data.name)
        data = data.with_feature_names(model.feature_names)
    if data.x_train.shape[0] != model.field.n:
        found = data.x_train.shape[0]
        raise ValueError(f"{data.name} has {found} features; the model takes {model.field.n}")
    return data


def say_order(feature_names: Sequence[str] | None, model: Model, what: str) -> None:
    """Print a line if features with these names are not in the order of the model."""
    if feature_order(feature_names, model.feature_names, what) is not None:
        err.print("columns put in the model's order", highlight=False)


def _with_classes_of(model: Model, source: Source, data: Any) -> Any:
    """Return the data with the labels of the model, matched by name."""
    if not data.n_classes:
        return data
    if model.classes is not None:
        return data.with_classes(model.classes)
    # a file of an older version: the data it was trained on know the names, if they are there
    own = data.classes if data.classes is not None else np.arange(data.n_classes)
    classes = _classes_of(model, source)
    if classes is not None and len(classes) <= n_outputs(model.field):
        if list(map(str, own)) != list(map(str, classes)):
            warn(
                f"the model does not hold the names of its classes; the labels of {data.name} "
                f"are matched with those of {source.data!r}: {some_names(classes)}"
            )
        return data.with_classes(classes)
    if list(map(str, own)) != list(map(str, range(len(own)))):
        warn(
            "the model does not hold the names of its classes; the labels of "
            f"{data.name} are taken for its classes in this order: {some_names(own)}"
        )
    return data


def _classes_of(model: Model, source: Source) -> Any:
    """Return the names in the data of the manifest, or None."""
    options = model.manifest.get("options")
    if not isinstance(options, dict) or "data" not in options:
        return None
    try:
        return load_data(source).classes
    except (OSError, ValueError):
        return None


def need_classes(data: Any, what: str) -> None:
    """Raise ValueError for the targets of a regression."""
    if not data.n_classes:
        raise ValueError(f"{what} needs classes; {data.name} has the targets of a regression")


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


# --- numbers --------------------------------------------------------------------------------------


def final_numbers(
    field: Any, data: Any, noise: tuple[float, ...], seed: int, callback: Callback | None = None
) -> dict[str, Any]:
    """Return the accuracies of a trained field, also under noise; the errors of a regression.

    A callback is told how far it is.
    """
    numbers: dict[str, Any] = {"train_accuracy": None, "test_accuracy": None}
    parts = {"train": (data.x_train, data.y_train)}
    if data.x_test is not None:
        parts["test"] = (data.x_test, data.y_test)
    names = {"train": "training samples", "test": "test samples"}
    for i, (part, (x, y)) in enumerate(parts.items()):
        tell(callback, i, 3, f"measuring accuracy, {names[part]}")
        if data.n_classes:
            classes = class_count(field, data)
            numbers[f"{part}_accuracy"] = snode.accuracy(field, x, y, n_classes=classes)
        else:
            numbers |= {f"{part}_{name}": v for name, v in _errors(field, x, y).items()}
    tell(callback, 2, 3, "measuring accuracy under noise")
    scores = _noise_numbers(field, data, noise, seed) if data.n_classes else {}
    return numbers | {"noise_accuracy": scores}


def _errors(field: Any, x: Any, y: Any) -> dict[str, float]:
    """Return the root mean square error, and the share of the variance that is explained."""
    found = to_host(Model(field, None, {}, None).outputs(x)).astype(np.float64)
    targets = to_host(y).astype(np.float64)
    error = float(((found - targets) ** 2).mean())
    spread = float(((targets - targets.mean(axis=1, keepdims=True)) ** 2).mean())
    return {"rmse": error**0.5, "r2": 1 - error / spread if spread > 0 else float("nan")}


def check_noise(noise: tuple[float, ...], data: Any) -> None:
    """Raise ValueError if noisy samples would overflow: before anything long is computed."""
    low, high = data.encoding or (0.0, 1.0)
    largest = 1e-2 * float(np.finfo(data.x_train.dtype).max) / max(abs(high - low), 1.0)
    if any(level > largest for level in noise):
        raise ValueError(
            f"noise must be at most {largest:.0e} for data of {data.x_train.dtype}; "
            f"got {max(noise):g}"
        )


def _noise_numbers(field: Any, data: Any, noise: tuple[float, ...], seed: int) -> dict[str, float]:
    x, y = held_out(data)
    low, high = data.encoding or (0.0, 1.0)
    scores = snode.accuracy_under_noise(
        field,
        x,
        y,
        noise,
        n_classes=class_count(field, data),
        value_range=1.0 if data.standardisation is not None else abs(high - low),
        rng=seed,
    )
    return {f"{std:g}": float(score) for std, score in zip(noise, scores, strict=True)}


def noise_unit(data: Any) -> str:
    """Say what a noise level is measured in."""
    if data.standardisation is not None:
        return "standard deviations of the features"
    return "the pixel range" if data.image_shape is not None else "the features"


def input_unit(data: Any) -> str:
    """Say in which units the inputs of the field are."""
    if data.standardisation is not None:
        return "in standard deviations of the features"
    return "in units of the encoded pixels" if data.is_pixels else "in units of the features"


def accuracy_rows(table: Table, numbers: dict[str, Any], unit: str = "", name: str = "") -> None:
    """Add the accuracies of `final_numbers` to a table.

    A file that the model was not trained on has one accuracy, under the key ``accuracy``.
    """
    is_other = "accuracy" in numbers or "rmse" in numbers
    parts = {"": f" on {name}"} if is_other else {"train_": "training ", "test_": "test "}
    for part, label in parts.items():
        before, after = ("", label) if is_other else (label, "")
        if numbers.get(f"{part}accuracy") is not None:
            table.add_row(f"{before}accuracy{after}", f"{100 * numbers[f'{part}accuracy']:.2f} %")
        if f"{part}rmse" in numbers:
            table.add_row(f"{before}root mean square error{after}", f"{numbers[f'{part}rmse']:.4g}")
            table.add_row(
                f"{before}variance explained{after}", f"{100 * numbers[f'{part}r2']:.1f} %"
            )
    for i, (std, score) in enumerate(numbers["noise_accuracy"].items()):
        of = f" (in {unit})" if unit and i == 0 else ""
        table.add_row(f"accuracy, noise {std}{of}", f"{100 * score:.2f} %")
