"""``snode predict``: the classes of samples without labels."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import snode
from snode import runs
from snode.backend import creator_namespace, to_host
from snode.cli.attack import has_logits
from snode.cli.console import app, friendly, out
from snode.cli.samples import as_column, label_name, model_path, say_order, trained_on
from snode.datasets.features import load_features
from snode.io import replacing


@app.command()
@friendly
def predict(
    model: Annotated[Path, typer.Argument(help="A model file, or the folder of a run.")],
    file: Annotated[Path, typer.Argument(help="Samples: a table, npz, mat or IDX file, with or without labels.")],
    label_column: Annotated[str | None, typer.Option(help="Tables with labels: their column, which is left out; default as trained.")] = None,
    samples: Annotated[str | None, typer.Option(help="npz and mat: rows or columns, where the samples are.")] = None,
    delimiter: Annotated[str | None, typer.Option(help="Tables: what separates the cells.")] = None,
    written: Annotated[Path | None, typer.Option("--out", help="Write a table there; default: print it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:  # fmt: skip
    """Predict the classes of samples: names, and probabilities where the model was trained for them."""
    loaded = snode.load(model_path(model))
    source = trained_on(loaded)
    column = source.label_column if label_column is None else label_column
    x, names = load_features(
        file, loaded.field.n, label_column=as_column(column),
        samples=source.samples if samples is None else samples,
        delimiter=source.delimiter if delimiter is None else delimiter,
        feature_names=loaded.feature_names, label_name=label_name(loaded),
    )  # fmt: skip
    say_order(names, loaded, str(file))
    table = _answers(loaded, source.task == "regression", creator_namespace().asarray(x), names)
    if as_json:
        sys.stdout.write(json.dumps(runs.plain(table), indent=2) + "\n")
    if written is not None:
        with replacing(written) as temporary:
            temporary.write_text(_as_csv(table), encoding="utf-8")
    if written is None and not as_json:
        sys.stdout.write(_as_csv(table))
    elif not as_json:
        out.print(
            f"{_summary(table)}\nwrote {written}", highlight=False, markup=False, soft_wrap=True
        )


def _answers(model: Any, is_regression: bool, x: Any, features: Any) -> dict[str, list[Any]]:
    """Return the columns of the answer: classes and probabilities, or outputs."""
    z = to_host(model.outputs(x, feature_names=features)).astype(np.float64)
    if is_regression:
        names = ["output"] if len(z) == 1 else [f"output_{i + 1}" for i in range(len(z))]
        return {name: row.tolist() for name, row in zip(names, z, strict=True)}
    if model.classes is not None:
        classes = model.classes.tolist()
    else:
        classes = list(range(len(z) if hasattr(model.field, "readout") else min(len(z), 10)))
    z = z[: len(classes)]
    answers: dict[str, list[Any]] = {"class": [classes[i] for i in z.argmax(axis=0)]}
    if has_logits(model, read_out_alone=False):
        p = np.exp(z - z.max(axis=0))
        p /= p.sum(axis=0)
        answers |= {f"p({name})": row.tolist() for name, row in zip(classes, p, strict=True)}
    return answers


def _as_csv(table: dict[str, list[Any]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(table)
    for row in zip(*table.values(), strict=True):
        writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in row])
    return stream.getvalue()


def _summary(table: dict[str, list[Any]]) -> str:
    count = len(next(iter(table.values())))
    if "class" not in table:
        return f"{count} samples"
    shares = Counter(map(str, table["class"])).most_common(10)
    return f"{count} samples: " + ", ".join(f"{number} {name}" for name, number in shares)
