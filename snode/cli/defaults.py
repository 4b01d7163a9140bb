"""The options of a training run, and what follows from the data where the user asks for nothing.

Images of 8-bit pixels are trained as the paper trains MNIST. Tables, toy sets and other arrays get
what works for them without tuning: standardised features, tanh, a linear read-out, cross entropy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import snode
from snode import datasets, runs
from snode.cli.options import read_activation
from snode.cli.samples import PIXEL_ENCODING, TOYS, Source, divided, load_data
from snode.datasets.classnames import some_names
from snode.results import ModelFormatError

TEST_FRACTION = 0.2
MIN_SPLIT = 10  # samples; fewer are not divided
N_LAYERS = 10  # for tables
CHOICES = {
    "method": ("ncg", *snode.FIRST_ORDER),
    "rule": tuple(snode.CG_RULES),
    "inner": ("l2", "h1", "euclidean"),
    "interpolation": ("constant", "linear", "cubic"),
    "dtype": ("float32", "float64"),
    "task": ("classification", "regression"),
    "samples": ("rows", "columns"),
}


FEW, EACH = 20, 5
"""More classes than FEW with fewer than EACH samples are taken for the targets of a regression."""


@dataclass(frozen=True)
class TrainOptions:
    """Everything that decides the numbers of a run; written to ``options.json``.

    None where nothing was asked for: `resolve` fills it in.
    """

    data: str = "mnist"
    encoding: tuple[float, float] | None = None
    activation: str | None = None
    depth: float | None = None
    n_layers: int | None = None
    interpolation: str = "constant"
    scale: float | None = None
    knots: int = 4
    l2: float | None = None
    ce: float | None = None
    output: float = 0.0
    decay: float | None = None
    method: str = "ncg"
    inner: str | None = None
    length: float = 1.0
    rule: str = "FR"
    epochs: float | None = None
    batch_size: int | None = None
    n_iter: int | None = None
    learning_rate: float | None = None
    restart: bool = True
    seed: int = 1
    dtype: str = "float32"
    threads: int | None = None
    eval_every: float | None = None
    eval_samples: int = 2000
    noise: tuple[float, ...] = (0.1, 0.2, 0.4)
    task: str = "classification"
    label_column: str | None = None
    samples: str | None = None
    delimiter: str | None = None
    test_fraction: float | None = None
    read_out: bool | None = None
    standardise: bool | None = None


LEGACY: dict[str, Any] = {
    "task": "classification", "label_column": None, "samples": None, "delimiter": None,
    "test_fraction": None, "read_out": False, "standardise": False,
}  # fmt: skip
"""What the options mean that the ``options.json`` of an older version does not have."""


def _legacy_data(options: TrainOptions) -> dict[str, Any]:
    """Return how an older version read these data: no test set, and all images encoded."""
    name = options.data
    if name in TOYS or name == "mnist":
        return {}
    found: dict[str, Any] = {"test_fraction": 0.0}
    if options.encoding is None and Path(name).exists():
        data = load_data(Source.of(options))
        if data.image_shape is not None and not data.is_pixels:
            found["encoding"] = PIXEL_ENCODING
    return found


IMAGES: dict[str, Any] = {
    "activation": "relu", "depth": 3.0, "n_layers": 150, "l2": 1.0, "ce": 0.0, "decay": 0.0,
    "epochs": 0.25, "batch_size": 100, "n_iter": 6, "eval_every": 0.05, "read_out": False,
    "standardise": False,
}  # fmt: skip
"""Defaults for images of 8-bit pixels (paper 001, section 5)."""


def stored_options(stored: dict[str, Any], where: Path = Path("options.json")) -> TrainOptions:
    """Return the options in an ``options.json``, of an older version, too.

    Raises
    ------
    ModelFormatError
        If an option is unknown or of another type.
    """
    values = IMAGES | LEGACY | stored
    for name in IMAGES:
        if values[name] is None:
            kind = {str: "text", bool: "true or false"}.get(type(IMAGES[name]), "a number")
            raise ModelFormatError(f"{where}: {name} must be {kind}; got null")
    options = runs.read_record(TrainOptions, values, where)
    if "test_fraction" not in stored:
        options = replace(options, **_legacy_data(options))
    return options


def check_options(options: TrainOptions) -> None:
    """Raise ValueError for what can be refused before the data are loaded, by name.

    The types are those that are annotated.
    """
    for name, allowed in CHOICES.items():
        value = getattr(options, name)
        if value is not None and value not in allowed:
            raise ValueError(f"{_option(name)} must be one of {', '.join(allowed)}; got {value!r}")
    for name in ("epochs", "depth", "length", "learning_rate", "eval_every"):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{_option(name)} must be positive and finite; got {value!r}")
    for name in ("n_layers", "batch_size", "n_iter", "eval_samples", "knots", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"{_option(name)} must be a positive integer; got {value!r}")
    for name in ("l2", "ce", "output", "decay", "scale"):
        value = getattr(options, name)
        if value is not None and not 0 <= value < math.inf:
            raise ValueError(f"{_option(name)} must be finite and >= 0; got {value!r}")
    fraction = options.test_fraction
    if fraction is not None and not 0 <= fraction < 1:
        raise ValueError(f"--test-fraction must be at least 0 and below 1; got {fraction!r}")
    if options.method == "ncg" and options.learning_rate is not None:
        raise ValueError(
            "--learning-rate: learning_rate is for the first-order methods; NCG has none"
        )
    if options.activation is not None:
        read_activation(options.activation)
    if options.l2 == 0 and options.ce == 0:
        raise ValueError("at least one of l2 and ce must be positive")
    if options.task == "regression" and options.ce:
        raise ValueError("ce, the cross entropy, is for classes; a regression needs l2")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def resolve(options: TrainOptions, data: Any) -> tuple[TrainOptions, Any]:
    """Return options without gaps, and the data, divided and standardised as these say.

    Parameters
    ----------
    options : TrainOptions
    data : Dataset
        As `load_data` returns it for these options.

    Returns
    -------
    options : TrainOptions
        Resolving them again for the same data changes nothing.
    data : Dataset
    """
    _check_classes(options, data)
    if not is_pixels(options, data) and data.x_test is None and options.test_fraction is None:
        can_split = data.x_train.shape[1] >= MIN_SPLIT
        options = replace(options, test_fraction=TEST_FRACTION if can_split else 0.0)
        if can_split:
            try:
                data = divided(data, TEST_FRACTION, options.seed)
            except ValueError:  # a class with one sample in a small file
                options = replace(options, test_fraction=0.0)
    defaults = IMAGES if is_pixels(options, data) else _table_defaults(options, data)
    options = _filled(options, defaults)
    if options.standardise:
        data = data.standardised(common=data.image_shape is not None)
    return options, data


def _check_classes(options: TrainOptions, data: Any) -> None:
    """Refuse real targets taken for labels: many numbers, hardly ever the same."""
    m, classes = data.x_train.shape[1], data.classes
    count = 0 if classes is None or np.asarray(classes).dtype.kind not in "iuf" else len(classes)
    if options.task == "classification" and count > FEW and m < EACH * count:
        raise ValueError(
            f"{options.data}: {count} different numbers as labels of {m} samples: "
            "--task regression takes them for targets, --label-column names another column"
        )


def is_pixels(options: TrainOptions, data: Any) -> bool:
    """Whether the data are images of 8-bit pixels."""
    return options.data == "mnist" or (data.is_pixels and data.image_shape is not None)


def _table_defaults(options: TrainOptions, data: Any) -> dict[str, Any]:
    m = data.x_train.shape[1]
    batch = options.batch_size or batch_size_for(m)
    epochs = options.epochs or epochs_for(m, batch)
    return {
        "activation": "tanh",
        "depth": 1.0,
        "n_layers": N_LAYERS,
        "batch_size": batch,
        "epochs": epochs,
        "n_iter": 6,
        "eval_every": max(epochs / 10, 1e-6),
        "decay": decay_for(m),
        "read_out": True,
        # the pixels of an image have a common scale, and some are nearly constant
        "standardise": data.image_shape is None,
        **_cost_weights(options, data),
    }


def batch_size_for(m: int) -> int:
    """Return the samples of a minibatch: all of a small table, at most 500."""
    return min(m, 500)


def epochs_for(m: int, batch: int) -> float:
    """Return epochs for about 10 minibatches of a small table, never less than one epoch."""
    return float(max(1, round(10 / math.ceil(m / batch))))


def decay_for(m: int) -> float:
    """Return the weight of the decay: the fewer samples, the more the weights are held back."""
    return float(f"{min(0.01, 1 / m):.1g}")


def _cost_weights(options: TrainOptions, data: Any) -> dict[str, Any]:
    """Return l2 and ce: one of them, unless the user asks for both."""
    if not data.n_classes:
        return {"l2": 1.0, "ce": 0.0}
    if options.l2 or options.ce == 0:
        return {"l2": 1.0, "ce": 0.0}
    return {"l2": 0.0, "ce": 1.0}


def _filled(options: TrainOptions, values: dict[str, Any]) -> TrainOptions:
    return replace(
        options, **{name: v for name, v in values.items() if getattr(options, name) is None}
    )


# --- what the user is told ------------------------------------------------------------------------


def describe(asked: TrainOptions, used: TrainOptions, data: Any) -> list[str]:
    """Return lines that say what was chosen because of the data, and which options change it."""
    lines = [_about_data(asked, used, data)]
    if is_pixels(used, data):
        return lines
    chosen = list(_choices(asked, used, data))
    if chosen:
        kind = "this toy set" if used.data in TOYS else "a table of features"
        if data.image_shape is not None:
            kind = "images of real numbers"
        lines.append(f"chosen for {kind}: {'; '.join(chosen)}")
    return lines


def _about_data(asked: TrainOptions, used: TrainOptions, data: Any) -> str:
    text = str(data)
    if data.n_classes and data.classes is not None and data.n_classes <= 1000:
        text += f"\nclasses: {some_names(data.classes)}"
    if asked.test_fraction is None and used.test_fraction:
        of = " of each class" if data.n_classes else ""
        text += (
            f"\nno test set in the file: {100 * used.test_fraction:g} %{of}, drawn by the seed, is "
            "held out (--test-fraction)"
        )
    if data.image_shape is not None:
        low, high = data.encoding
        text += f"\nencoding: background {low:g}, ink {high:g}" if data.is_pixels or (
            used.encoding is not None
        ) else "\nencoding: values as they are in the file"  # fmt: skip
    return text


def _choices(asked: TrainOptions, used: TrainOptions, data: Any) -> Iterable[str]:
    def was_free(*names: str) -> bool:
        return any(getattr(asked, name) is None for name in names)

    if was_free("standardise") and used.standardise:
        yield "features standardised with the training part's numbers (--no-standardise)"
    if was_free("activation"):
        yield f"{used.activation} (--activation)"
    if was_free("read_out") and used.read_out:
        yield "a linear read-out (--no-read-out)"
    if was_free("l2") and was_free("ce"):
        yield "cross entropy (--ce, --l2)" if used.ce else "squared distance (--l2)"
    if was_free("depth", "n_layers"):
        yield f"{used.n_layers} layers of depth {used.depth:g} (--n-layers, --depth)"
    if was_free("epochs", "batch_size"):
        yield f"{used.epochs:g} epochs in batches of {used.batch_size} (--epochs, --batch-size)"
    if was_free("decay") and used.decay:
        yield f"decay {used.decay:g} (--decay)"


def unscaled_read_out(field: Any, target: tuple[Any, Any]) -> Any:
    """Return a field with the outputs of the original targets, ``outputs * scale + mean``."""
    mean, scale = target
    return field.with_parameters(
        V=field.parameters["V"] * scale[:, None], c=field.parameters["c"] * scale + mean
    )


def scaled_targets(data: Any) -> tuple[Any, tuple[Any, Any]]:
    """Return the data of a regression with standardised targets, and their (mean, scale)."""
    mean = data.y_train.mean(axis=1)
    scale = data.y_train.std(axis=1)
    scale[scale == 0] = 1

    def moved(y: Any) -> Any:
        return None if y is None else (y - mean[:, None]) / scale[:, None]

    changed = datasets.Dataset(data.x_train, moved(data.y_train), data.x_test, moved(data.y_test))
    return changed, (mean, scale)
