"""``snode evaluate``, ``check`` and ``info``: numbers of a saved model and of the machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

import snode
from snode import runs
from snode.cli.console import app, friendly, new_table, out
from snode.cli.options import noise_levels
from snode.cli.samples import accuracy_rows, final_numbers, load_model, model_path
from snode.threads import default_threads


@app.command()
@friendly
def evaluate(
    model: Annotated[Path, typer.Argument(help="A model file, or the folder of a run.")],
    data: Annotated[str | None, typer.Option(help="As for train; default: what it was trained on, or mnist.")] = None,
    noise: Annotated[str, typer.Option(help="Noise levels, in units of the pixel range.")] = "",
    seed: Annotated[int, typer.Option(help="Decides the noise.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:  # fmt: skip
    """Measure the accuracy of a saved model."""
    loaded, dataset = load_model(model, data)
    numbers = final_numbers(loaded.field, dataset, noise_levels(noise), seed)
    if as_json:
        sys.stdout.write(json.dumps(runs.plain(numbers), indent=2) + "\n")
        return
    table = new_table(f"{model} on {dataset.name}")
    accuracy_rows(table, numbers)
    out.print(table)


@app.command()
@friendly
def check(
    model: Annotated[Path, typer.Argument(help="A model file, or the folder of a run.")],
) -> None:
    """Run the dot tests and Taylor tests on a saved model; exit code 1 if one fails."""
    report = snode.check(snode.load(model_path(model)).field, verbose=False)
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
        sys.stdout.write(json.dumps(environment, indent=2) + "\n")
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
