"""``snode train``: train a network, write the folder of the run, resume it."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import snode
from snode import runs
from snode.cli.console import app, err, friendly, new_table, out
from snode.cli.options import encoding_pair, noise_levels, read_activation
from snode.cli.samples import TOYS, accuracy_rows, final_numbers, load_data
from snode.fields.layer import StandaloneField
from snode.results import Status
from snode.threads import check_threads


@dataclass(frozen=True)
class TrainOptions:
    """Everything that decides the numbers of a run; written to ``options.json``."""

    data: str = "mnist"
    encoding: tuple[float, float] | None = None
    activation: str = "relu"
    depth: float = 3.0
    n_layers: int = 150
    interpolation: str = "constant"
    scale: float | None = None
    knots: int = 4
    l2: float = 1.0
    ce: float = 0.0
    output: float = 0.0
    decay: float = 0.0
    method: str = "ncg"
    inner: str | None = None
    length: float = 1.0
    rule: str = "FR"
    epochs: float = 0.25
    batch_size: int = 100
    n_iter: int = 6
    learning_rate: float | None = None
    restart: bool = True
    seed: int = 1
    dtype: str = "float32"
    threads: int | None = None
    eval_every: float = 0.05
    eval_samples: int = 2000
    noise: tuple[float, ...] = (0.1, 0.2, 0.4)


D = TrainOptions()


@app.command()
@friendly
def train(
    context: typer.Context,
    data: Annotated[str, typer.Option(help=f"mnist, {', '.join(TOYS)}, or a file (npz, IDX, mat, csv).")] = D.data,
    encoding: Annotated[str, typer.Option(help="Values of background and ink, e.g. 0,-1; default 0,-1 for images, other data as they are.")] = "",
    activation: Annotated[str, typer.Option(help="Name, or name:parameter=value (elu:alpha=0.2).")] = D.activation,
    depth: Annotated[float, typer.Option(help="Length T of the depth interval.")] = D.depth,
    n_layers: Annotated[int, typer.Option(help="Number K of depth cells (Euler steps).")] = D.n_layers,
    interpolation: Annotated[str, typer.Option(help="Weights in depth: constant, linear, cubic.")] = D.interpolation,
    scale: Annotated[float | None, typer.Option(help="Standard deviation of the first weights; default 1/n.")] = D.scale,
    knots: Annotated[int, typer.Option(help="Depths at which the first weights are drawn.")] = D.knots,
    l2: Annotated[float, typer.Option(help="Weight of the squared distance to the targets.")] = D.l2,
    ce: Annotated[float, typer.Option(help="Weight of the cross entropy.")] = D.ce,
    output: Annotated[float, typer.Option(help="Weight of the size of the output.")] = D.output,
    decay: Annotated[float, typer.Option(help="Weight of the size of W and b.")] = D.decay,
    method: Annotated[str, typer.Option(help="ncg, sgd, momentum, rmsprop, adam.")] = D.method,
    inner: Annotated[str | None, typer.Option(help="l2, h1 (Sobolev gradient), euclidean; default l2 for ncg.")] = D.inner,
    length: Annotated[float, typer.Option(help="Length of the Sobolev inner product, with --inner h1.")] = D.length,
    rule: Annotated[str, typer.Option(help="CG rule: FR, PR+, FR-PR, HS, DY, SD.")] = D.rule,
    epochs: Annotated[float | None, typer.Option(help="May be fractional.  [default: 0.25]", show_default=False)] = None,
    batch_size: Annotated[int, typer.Option(help="Samples in a minibatch.")] = D.batch_size,
    n_iter: Annotated[int, typer.Option(help="Iterations on each minibatch.")] = D.n_iter,
    learning_rate: Annotated[float | None, typer.Option(help="For the first-order methods only.")] = D.learning_rate,
    restart: Annotated[bool, typer.Option(help="Restart conjugacy at every minibatch.")] = D.restart,
    seed: Annotated[int, typer.Option(help="Decides first weights and minibatches.")] = D.seed,
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = D.dtype,
    threads: Annotated[int | None, typer.Option(help="Worker threads; default all cores.")] = D.threads,
    eval_every: Annotated[float, typer.Option(help="Epochs between accuracy measurements and checkpoints.")] = D.eval_every,
    eval_samples: Annotated[int, typer.Option(help="Samples of each set in those measurements.")] = D.eval_samples,
    noise: Annotated[str, typer.Option(help="Noise levels of the final table, in units of the pixel range.")] = "0.1,0.2,0.4",
    name: Annotated[str | None, typer.Option(help="Name of the folder of the run; default from options and time.")] = None,
    folder: Annotated[Path, typer.Option("--out", help="Where the folders of runs are.")] = Path("runs"),
    resume: Annotated[Path | None, typer.Option(help="Folder of a run to go on with; its options are used again (--epochs may be raised).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON and nothing else.")] = False,
) -> None:  # fmt: skip
    """Train a standalone neural ODE; without options: 14x14 MNIST by conjugate gradients."""
    if resume is not None:
        _check_resume_options(context)
        options, run_folder = _resumed_options(resume, epochs), resume
    else:
        options = TrainOptions(
            data, encoding_pair(encoding), activation, depth, n_layers, interpolation, scale, knots, l2, ce,
            output, decay, method, inner, length, rule, D.epochs if epochs is None else epochs,
            batch_size, n_iter, learning_rate, restart, seed, dtype, threads, eval_every,
            eval_samples, noise_levels(noise),
        )  # fmt: skip
        if name is not None and (Path(name).name != name or name in (".", "..")):
            raise ValueError(f"name must be a plain folder name; got {name!r}; see --out")
        run_folder = folder / (name or _default_name(options))
        if run_folder.exists() and any(run_folder.iterdir()):
            raise FileExistsError(
                f"{run_folder} is not empty; choose another --name, or --resume {run_folder}"
            )
    with _removed_on_error(run_folder):
        finished = _train(options, run_folder, resume is not None, as_json)
    raise typer.Exit(0 if finished else 1)


@contextmanager
def _removed_on_error(folder: Path) -> Iterator[None]:
    """Leave no empty run behind when the input turns out to be bad."""
    try:
        yield
    except Exception:
        if folder.is_dir() and {p.name for p in folder.iterdir()} <= {"options.json"}:
            (folder / "options.json").unlink(missing_ok=True)
            folder.rmdir()
        raise


def _default_name(options: TrainOptions) -> str:
    activation = options.activation.replace(":", "-").replace("=", "").replace(",", "-")
    return (
        f"{Path(options.data).stem}-{activation}-{options.method}-{time.strftime('%Y%m%d-%H%M%S')}"
    )


def _check_resume_options(context: typer.Context) -> None:
    free = {"resume", "epochs", "as_json"}
    given = [
        name for name in context.params
        if name not in free
        and getattr(context.get_parameter_source(name), "name", "DEFAULT") == "COMMANDLINE"
    ]  # fmt: skip
    if given:
        raise ValueError(
            f"{', '.join(given)} cannot change when a run is resumed; only epochs may be given"
        )


def _resumed_options(folder: Path, epochs: float | None) -> TrainOptions:
    stored = runs.read_options(folder)
    unknown = set(stored) - {f.name for f in fields(TrainOptions)}
    if unknown:
        raise ValueError(f"{folder / 'options.json'} has unknown options {sorted(unknown)}")
    for key in ("encoding", "noise"):
        if stored.get(key) is not None:
            stored[key] = tuple(stored[key])
    if epochs is not None:
        stored["epochs"] = epochs
    return TrainOptions(**stored)


def _train(options: TrainOptions, folder: Path, resume: bool, as_json: bool) -> bool:
    started = time.perf_counter()
    # the number of threads decides the rounding, so a resumed run must use the same
    options = replace(options, threads=check_threads(options.threads))
    data = load_data(options.data, options.encoding, options.dtype, options.seed)
    rng = np.random.default_rng(options.seed)
    field = StandaloneField.random(
        data.x_train.shape[0], options.depth, options.n_layers,
        activation=read_activation(options.activation), interpolation=options.interpolation,
        scale=options.scale, knots=options.knots, rng=rng, dtype=options.dtype,
    )  # fmt: skip
    cost = snode.Cost(
        l2=options.l2, ce=options.ce, output=options.output, decay=options.decay,
        n_classes=data.n_classes or 2,
    )  # fmt: skip
    inner: Any = options.inner
    if inner == "h1":
        inner = snode.H1(options.length)
    folder.mkdir(parents=True, exist_ok=True)
    runs.write_json(folder / "options.json", asdict(options))
    if not as_json:
        out.print(f"{data}\n{field}\n{cost}", highlight=False, markup=False, soft_wrap=True)
    with _progress(quiet=as_json) as report:
        result = snode.train(
            field, data, cost,
            method=options.method, inner=inner, rule=options.rule, epochs=options.epochs,
            batch_size=options.batch_size, n_iter=options.n_iter,
            learning_rate=options.learning_rate, restart=options.restart, rng=rng,
            threads=options.threads, callback=report, eval_every=options.eval_every,
            eval_samples=options.eval_samples, checkpoint=folder / "checkpoint.safetensors",
            resume=resume,
        )  # fmt: skip
    trained = time.perf_counter() - started
    numbers = final_numbers(result.field, data, options.noise, options.seed)
    numbers |= {"cost_last_batch": float(result.history["cost_after"][-1])}
    manifest = {
        "status": result.status.name,
        "message": result.message,
        **numbers,
        "seed": options.seed,
        "dtype": options.dtype,
        "threads": options.threads,
        "epochs": result.epochs,
        "minibatches": result.n_batches,
        "capped_steps": _total(result.history["capped"]),
        "restarted_directions": _total(result.history["restarted"]),
        "train_seconds": round(trained, 3),
        "total_seconds": round(time.perf_counter() - started, 3),
        "finished": runs.now(),
        "options": asdict(options),
        "field": repr(field),
        "cost": asdict(cost),
        "environment": runs.environment(),
    }
    _write_run(folder, result, data, manifest)
    _show_run(folder, manifest, as_json)
    if result.status is Status.STOPPED:
        err.print(
            escape(f"stopped; go on with: python -m snode train --resume {folder}"), soft_wrap=True
        )
    return result.status is Status.SUCCESS


def _total(column: Any) -> int:
    return int(np.nansum(column))


def _write_run(folder: Path, result: Any, data: Any, manifest: dict[str, Any]) -> None:
    from snode.plotting import training_report

    encoding = data.encoding if data.image_shape is not None else None
    snode.save(folder / "model.safetensors", result.field, encoding=encoding,
               manifest=runs.plain(manifest))  # fmt: skip
    runs.write_history(folder / "history.csv", result)
    runs.write_json(folder / "manifest.json", manifest)
    test = manifest["test_accuracy"]
    shown = "" if test is None else f", test accuracy {100 * test:.2f} %"
    title = f"{folder.name}: {result.epochs:g} epochs{shown}"
    samples = manifest["options"]["eval_samples"]
    figure = training_report(result, data, title=title, eval_samples=samples)
    figure.savefig(folder / "report.png", dpi=110)


def _show_run(folder: Path, manifest: dict[str, Any], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(runs.plain(manifest), indent=2) + "\n")
        return
    table = new_table(f"run {folder}")
    accuracy_rows(table, manifest)
    table.add_row("minibatches", str(manifest["minibatches"]))
    table.add_row("capped steps", str(manifest["capped_steps"]))
    table.add_row("training time (this session)", f"{manifest['train_seconds']:.1f} s")
    table.add_row("run time", f"{manifest['total_seconds']:.1f} s")
    out.print(table)
    out.print(f"{folder}/: model.safetensors, history.csv, manifest.json, report.png",
              highlight=False, markup=False, soft_wrap=True)  # fmt: skip


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[Any], None]]:
    columns = (
        TextColumn("epoch {task.fields[epoch]:.3f}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("cost {task.fields[cost]:.4f} step {task.fields[step]:.3g} "
                   "accuracy {task.fields[accuracy]}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=err, disable=quiet) as bar:
        task = bar.add_task("", total=None, epoch=0.0, cost=math.nan, step=math.nan, accuracy="-")

        def report(state: Any) -> None:
            score = state.test_accuracy
            score = state.train_accuracy if math.isnan(score) else score
            bar.update(
                task, completed=state.batch, total=state.n_batches, epoch=state.epoch,
                cost=state.cost_after, step=state.step,
                accuracy="-" if math.isnan(score) else f"{100 * score:.1f} %",
            )  # fmt: skip

        yield report
