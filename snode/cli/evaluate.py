"""``snode evaluate``, ``check`` and ``info``: numbers of a saved model and of the machine."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

import snode
from snode import runs
from snode.cli.console import app, err, friendly, new_table, out, print_json
from snode.cli.options import check_seed, noise_levels
from snode.cli.samples import (
    accuracy_rows,
    final_numbers,
    is_other_data,
    load_model,
    model_path,
    noise_unit,
    shown_path,
)
from snode.progress import bar, tell
from snode.threads import default_threads


@app.command()
@friendly
def evaluate(
    model: Annotated[Path, typer.Argument(help="A model file, or the folder of a run.")],
    data: Annotated[str | None, typer.Option(help="As for train; default: what it was trained on, or mnist.")] = None,
    noise: Annotated[str, typer.Option(help="Noise levels, in units of the pixel range, or of the standard deviation of a feature.")] = "",
    seed: Annotated[int, typer.Option(help="Decides the noise.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:  # fmt: skip
    """Measure the accuracy of a saved model."""
    check_seed(seed)
    levels = noise_levels(noise)
    loaded, dataset = load_model(model, data)
    with bar(console=err, quiet=as_json) as callback:
        numbers = final_numbers(loaded.field, dataset, levels, seed, callback=callback)
    if is_other_data(loaded, data) and dataset.x_test is None:
        numbers = _on_all_samples(numbers)
    if as_json:
        print_json(numbers)
        return
    table = new_table(f"{shown_path(model)} on {dataset.name}")
    accuracy_rows(table, numbers, noise_unit(dataset), dataset.name)
    out.print(table)


def _on_all_samples(numbers: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of a file that the model was not trained on, and that has one part."""
    names = ("accuracy", "rmse", "r2")
    return {n: numbers[f"train_{n}"] for n in names if f"train_{n}" in numbers} | numbers


@app.command()
@friendly
def check(
    model: Annotated[Path, typer.Argument(help="A model file, or the folder of a run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:  # fmt: skip
    """Run the dot tests and Taylor tests on a saved model; exit code 1 if one fails."""
    field = snode.load(model_path(model)).field
    with bar(console=err, quiet=as_json) as callback:
        tell(callback, 0, None, "dot tests and Taylor tests")
        report = snode.check(field, verbose=False)
    if as_json:
        rows = [asdict(row) | {"exact": math.isinf(row.measured)} for row in report.rows]
        print_json({"field": report.field, "passed": report.passed, "rows": rows})
        raise typer.Exit(0 if report.passed else 1)
    out.print(str(report), highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(0 if report.passed else 1)


@app.command()
@friendly
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Print versions, BLAS, threads and GPU."""
    environment = runs.environment()
    environment["threads"], environment["threads_from"] = default_threads()
    if as_json:
        print_json(environment)
        return
    table = Table(show_header=False)
    table.add_column(style="bold")
    for key, value in environment.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        elif isinstance(value, list):
            value = ", ".join(value)
        table.add_row(key, str(value))
    out.print(table)
