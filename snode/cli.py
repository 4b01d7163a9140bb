"""The command line, ``python -m snode train | evaluate | attack | ...``; no mathematics."""

from __future__ import annotations

import decimal
import functools
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
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import snode
from snode import datasets, plotting, runs
from snode.backend import to_host
from snode.fields.layer import StandaloneField
from snode.results import Status
from snode.training.hotpath import check_threads

app = typer.Typer(
    help="Standalone neural ODEs: networks that are differential equations.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console()
err = Console(stderr=True)

TOYS = ("two_moons", "spirals", "annulus", "broken_annulus", "swiss_roll")
TOY_SAMPLES = 2000


def main() -> None:
    """Run the command line."""
    app()


def _friendly(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn errors into one line: exit code 2 for bad input, 1 for a run that failed."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (ValueError, TypeError, OSError, ImportError) as error:
            _fail(error, 2)
        except MemoryError as error:
            _fail(f"not enough memory: {error}", 1)
        except ArithmeticError as error:
            _fail(error, 1)
        except KeyboardInterrupt:
            _fail("interrupted", 1)

    return wrapped


def _fail(error: object, code: int) -> None:
    if isinstance(error, OSError) and error.strerror and error.filename:
        error = f"{error.filename}: {error.strerror}"
    text = escape(" ".join(str(error).split()))
    err.print(f"[bold red]error:[/] {text}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)


# --- options ------------------------------------------------------------------------------------


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


def _numbers(name: str, text: str, count: int | None = None) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        raise ValueError(f"{name} must be numbers separated by commas; got {text!r}") from None
    if count is not None and len(values) != count:
        raise ValueError(f"{name} must be {count} numbers separated by commas; got {text!r}")
    return values


def _noise(text: str) -> tuple[float, ...]:
    levels = _numbers("noise", text)
    if not all(math.isfinite(level) and level >= 0 for level in levels):
        raise ValueError(f"noise must be finite and >= 0; got {text!r}")
    return levels


def _activation(text: str) -> snode.Activation:
    """Read "relu", or "elu:alpha=0.2" with parameters."""
    name, _, rest = text.partition(":")
    params = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"activation must look like elu:alpha=0.2; got {text!r}")
        params[key] = _numbers("activation", value, 1)[0]
    return snode.get_activation(name, **params)


def _load_data(name: str, encoding: tuple[float, float] | None, dtype: str, seed: int) -> Any:
    if name == "mnist":
        return datasets.load_mnist(encoding=encoding or (0.0, -1.0), dtype=dtype)
    if name in TOYS:
        x, y = getattr(datasets, name)(TOY_SAMPLES, rng=seed, dtype=dtype)
        return datasets.train_test_split(x, y, test_fraction=0.25, rng=seed, name=name)
    if not Path(name).exists():
        raise FileNotFoundError(
            f"data {name!r} is neither a file or folder nor one of mnist, {', '.join(TOYS)}"
        )
    data = datasets.load_dataset(name, encoding=encoding, dtype=dtype)
    if encoding is None and data.image_shape is not None:
        return datasets.load_dataset(name, encoding=(0.0, -1.0), dtype=dtype)
    return data


# --- train --------------------------------------------------------------------------------------


@app.command()
@_friendly
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
            data, _pair(encoding), activation, depth, n_layers, interpolation, scale, knots, l2, ce,
            output, decay, method, inner, length, rule, D.epochs if epochs is None else epochs,
            batch_size, n_iter, learning_rate, restart, seed, dtype, threads, eval_every,
            eval_samples, _noise(noise),
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


def _pair(text: str) -> tuple[float, float] | None:
    values = _numbers("encoding", text, 2) if text.strip() else None
    return None if values is None else (values[0], values[1])


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
    data = _load_data(options.data, options.encoding, options.dtype, options.seed)
    rng = np.random.default_rng(options.seed)
    field = StandaloneField.random(
        data.x_train.shape[0], options.depth, options.n_layers,
        activation=_activation(options.activation), interpolation=options.interpolation,
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
    numbers = _final_numbers(result.field, data, options.noise, options.seed)
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


def _final_numbers(field: Any, data: Any, noise: tuple[float, ...], seed: int) -> dict[str, Any]:
    classes = _classes(field, data)
    train_accuracy = snode.accuracy(field, data.x_train, data.y_train, n_classes=classes)
    numbers: dict[str, Any] = {"train_accuracy": train_accuracy, "test_accuracy": None}
    if data.x_test is not None:
        numbers["test_accuracy"] = snode.accuracy(
            field, data.x_test, data.y_test, n_classes=classes
        )
    return numbers | {"noise_accuracy": _noise_numbers(field, data, noise, seed)}


def _classes(field: Any, data: Any) -> int:
    """Return the classes of the data; a read-out may have more than occur in it."""
    return max(data.n_classes or 2, getattr(field, "n_outputs", 0))


def _held_out(data: Any) -> tuple[Any, Any]:
    """Return the test samples, or the training samples of data without any."""
    return (data.x_train, data.y_train) if data.x_test is None else (data.x_test, data.y_test)


def _noise_numbers(field: Any, data: Any, noise: tuple[float, ...], seed: int) -> dict[str, float]:
    x, y = _held_out(data)
    low, high = data.encoding or (0.0, 1.0)
    scores = snode.accuracy_under_noise(
        field, x, y, noise, n_classes=_classes(field, data), value_range=abs(high - low), rng=seed
    )
    return {f"{std:g}": float(score) for std, score in zip(noise, scores, strict=True)}


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
    table = _table(f"run {folder}")
    _accuracy_rows(table, manifest)
    table.add_row("minibatches", str(manifest["minibatches"]))
    table.add_row("capped steps", str(manifest["capped_steps"]))
    table.add_row("training time (this session)", f"{manifest['train_seconds']:.1f} s")
    table.add_row("run time", f"{manifest['total_seconds']:.1f} s")
    out.print(table)
    out.print(f"{folder}/: model.safetensors, history.csv, manifest.json, report.png",
              highlight=False, markup=False, soft_wrap=True)  # fmt: skip


def _table(title: str) -> Table:
    table = Table(title=escape(title), show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    return table


def _accuracy_rows(table: Table, numbers: dict[str, Any]) -> None:
    for key, label in (("train_accuracy", "training accuracy"), ("test_accuracy", "test accuracy")):
        if numbers.get(key) is not None:
            table.add_row(label, f"{100 * numbers[key]:.2f} %")
    for std, score in numbers["noise_accuracy"].items():
        table.add_row(f"accuracy, noise {std}", f"{100 * score:.2f} %")


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


# --- attack, sensitivity ------------------------------------------------------------------------


def _model_path(path: Path) -> Path:
    return path / "model.safetensors" if path.is_dir() else path


def _load_model(model: Path, data: str | None) -> tuple[Any, Any]:
    """Return the model and the data it was trained on, or those that are asked for."""
    loaded = snode.load(_model_path(model))
    options = loaded.manifest.get("options", {})
    options = options if isinstance(options, dict) else {}
    encoding = loaded.encoding
    if encoding is None and options.get("encoding") is not None:
        encoding = tuple(options["encoding"])
    dataset = _load_data(
        data or options.get("data", "mnist"), encoding, str(loaded.field.dtype),
        options.get("seed", 1),
    )  # fmt: skip
    return loaded, dataset


def _has_logits(loaded: Any) -> bool:
    """Whether the outputs of a model are logits: a read-out, or trained by cross entropy."""
    options = loaded.manifest.get("options", {})
    ce = options.get("ce", 0) if isinstance(options, dict) else 0
    return hasattr(loaded.field, "readout") or bool(ce)


def _test_samples(dataset: Any, count: int) -> tuple[Any, Any]:
    if count < 1:
        raise ValueError(f"n must be positive; got {count}")
    x, y = _held_out(dataset)
    return np.ascontiguousarray(x[:, :count]), y[:count]


def _write_results(
    prefix: Path, arrays: dict[str, Any], *draw: Callable[[Any], Any], quiet: bool = False
) -> None:
    prefix.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(f"{prefix}.npz", **arrays)
    plotting.figure_of(*draw).savefig(f"{prefix}.png", dpi=110)
    if not quiet:
        written = f"wrote {prefix}.npz, {prefix}.png"
        out.print(written, highlight=False, markup=False, soft_wrap=True)


def _prefix(model: Path, asked: Path | None, name: str) -> Path:
    return asked or (model if model.is_dir() else model.parent) / name


@app.command()
@_friendly
def attack(
    model: Annotated[Path, typer.Argument(help="A model file, or the folder of a run.")],
    method: Annotated[str, typer.Option(help="sensitivity, deepfool, pgd, fgsm, cw.")] = "sensitivity",
    n: Annotated[int, typer.Option("--n", help="Number of test samples.")] = 200,
    eps: Annotated[float, typer.Option(help="Largest change of a component, for pgd and fgsm.")] = 0.1,
    data: Annotated[str | None, typer.Option(help="As for evaluate.")] = None,
    seed: Annotated[int, typer.Option(help="Decides random starts.")] = 0,
    prefix: Annotated[Path | None, typer.Option("--out", help="Where to write, without suffix; default beside the model.")] = None,
) -> None:  # fmt: skip
    """Look for small perturbations that change the predictions: table, figure, npz."""
    attacks: dict[str, Callable[..., Any]] = {
        "sensitivity": functools.partial(snode.sensitivity_attack, rng=seed),
        "deepfool": snode.deepfool,
        "pgd": functools.partial(snode.pgd, eps=eps, rng=seed),
        "fgsm": functools.partial(snode.fgsm, eps=eps),
        "cw": snode.carlini_wagner,
    }
    if method not in attacks:
        raise ValueError(f"method must be one of {', '.join(attacks)}; got {method!r}")
    loaded, dataset = _load_model(model, data)
    x, y = _test_samples(dataset, n)
    if method == "sensitivity" and _has_logits(loaded):
        # a margin that multiplies makes no sense for outputs of any sign
        attacks[method] = functools.partial(attacks[method], margin_kind="additive", margin=0.025)
    is_encoded = dataset.image_shape is not None and loaded.encoding is not None
    box = (min(loaded.encoding), max(loaded.encoding)) if is_encoded else None
    started = time.perf_counter()
    result = attacks[method](loaded.field, x, y, box=box, n_classes=_classes(loaded.field, dataset))
    attacked = int((~result.skipped).sum())
    fooled = result.success & ~result.skipped
    table = _table(f"{method} attack on {model}, {len(y)} samples of {dataset.name}")
    table.add_row("misclassified to begin with", str(int(result.skipped.sum())))
    table.add_row("attacked", str(attacked))
    table.add_row("fooled", f"{int(fooled.sum())} ({100 * fooled.sum() / max(attacked, 1):.1f} %)")
    if fooled.any():
        for name, sizes in (("2", result.norm2), ("inf", result.norminf)):
            table.add_row(f"|delta|_{name} of the fooled, mean", f"{sizes[fooled].mean():.4g}")
            table.add_row(f"|delta|_{name} of the fooled, max", f"{sizes[fooled].max():.4g}")
    table.add_row("time", f"{time.perf_counter() - started:.1f} s")
    out.print(table)
    names = ("x_adv", "delta", "norm2", "norminf", "success", "label", "target", "y", "skipped")
    _write_results(
        _prefix(model, prefix, f"attack_{method}"),
        {name: getattr(result, name) for name in names},
        functools.partial(plotting.plot_success, result),
    )


@app.command()
@_friendly
def sensitivity(
    model: Annotated[Path, typer.Argument(help="A model file, or the folder of a run.")],
    n: Annotated[int, typer.Option("--n", help="Number of test samples.")] = 200,
    noise: Annotated[float, typer.Option(help="Standard deviation of the perturbation of the inputs.")] = 0.01,
    data: Annotated[str | None, typer.Option(help="As for evaluate.")] = None,
    seed: Annotated[int, typer.Option(help="Decides the perturbation.")] = 0,
    prefix: Annotated[Path | None, typer.Option("--out", help="Where to write, without suffix; default beside the model.")] = None,
) -> None:  # fmt: skip
    """Follow a random perturbation of the inputs through the network: table, figure, npz."""
    if not (math.isfinite(noise) and noise > 0):
        raise ValueError(f"noise must be positive and finite; got {noise!r}")
    loaded, dataset = _load_model(model, data)
    x, _ = _test_samples(dataset, n)
    draw = np.random.default_rng(seed).standard_normal(x.shape) * noise
    result = snode.propagate(loaded.field, x, draw.astype(x.dtype))
    mean, std = result.mean, result.std
    table = _table(f"{model}: noise of standard deviation {noise:g} on {x.shape[1]} samples")
    for label, name in (("predicted |xi(T)|", "predicted"), ("measured |delta(T)|", "measured"),
                        ("relative error at T", "relative_error")):  # fmt: skip
        table.add_row(label, f"{getattr(mean, name)[-1]:.4g} +- {getattr(std, name)[-1]:.2g}")
    table.add_row("growth |delta(T)| / |delta(0)|", f"{mean.measured[-1] / mean.measured[0]:.4g}")
    out.print(table)
    names = ("t", "predicted", "measured", "relative_error", "relative_vector_error")
    _write_results(
        _prefix(model, prefix, "sensitivity"),
        {name: getattr(result, name) for name in names},
        functools.partial(plotting.plot_propagation, result),
    )


# --- certify ------------------------------------------------------------------------------------

KINDS = {"euler": "euler", "ode45": "flow"}
KIND_NAMES = {"flow": "flow", "euler": "explicit Euler"}
BOUNDS = ("certificate", "norms")
VERDICTS = {
    "EVERY": "any",
    "NONE": "none: the log norm of A is positive",
    "UNDECIDED": "undecided: the log norm of A is 0 to rounding",
}


@app.command()
@_friendly
def certify(
    model: Annotated[Path, typer.Argument(help="A model file, or the folder of a run.")],
    solver: Annotated[str, typer.Option(help="Whose predictions: euler, as the network computes, or ode45, the exact flow.")] = "euler",
    method: Annotated[str, typer.Option(help="certificate, or norms: much faster, in general much coarser.")] = "certificate",
    radii: Annotated[str, typer.Option(help="Sizes |delta|_2 at which to print the certified accuracy, e.g. 0.01,0.1; default: five below the largest radius.")] = "",
    n: Annotated[int, typer.Option("--n", help="Number of test samples.")] = 200,
    data: Annotated[str | None, typer.Option(help="As for evaluate.")] = None,
    seed: Annotated[int, typer.Option(help="Decides the local search, which says how tight a bound is.")] = 0,
    prefix: Annotated[Path | None, typer.Option("--out", help="Where to write, without suffix; default beside the model.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:  # fmt: skip
    """Bound what any perturbation can do: growth, contractivity, certified radii."""
    for name, value, known in (("solver", solver, KINDS), ("method", method, BOUNDS)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")
    sizes = _numbers("radii", radii)
    if not all(math.isfinite(size) and size >= 0 for size in sizes):
        raise ValueError(f"radii must be finite and >= 0; got {radii!r}")
    loaded, dataset = _load_model(model, data)
    x, y = _test_samples(dataset, n)
    field = loaded.field
    layers = _bounded_layers(field)
    started = time.perf_counter()
    work = f"{len(layers.grid) - 1} steps, n = {field.n}"
    growth = {}
    for kind, name in KIND_NAMES.items():
        with _stage(f"bounding the growth, {name}: {work}", as_json):
            growth[kind] = snode.growth_bound(field, kind=kind, method=method, rng=seed)
    layer = None
    if _is_one_matrix(layers):
        with _stage("bounding the layer, the same at every depth", as_json):
            layer = _layer_numbers(layers, seed)
    with _stage(f"predicting {len(y)} samples", as_json):
        found = snode.certified_radius(
            field, x, y, n_classes=_classes(field, dataset), solver=_accurate(solver, x.dtype),
            growth=growth[KINDS[solver]],
        )  # fmt: skip
    numbers = {
        "solver": solver,
        "method": method,
        "growth": {kind: _growth_numbers(bound) for kind, bound in growth.items()},
        "layer": layer,
        **_radius_numbers(found, sizes),
        "seconds": round(time.perf_counter() - started, 3),
    }
    if as_json:
        sys.stdout.write(json.dumps(runs.plain(numbers), indent=2) + "\n")
    else:
        _show_certificate(f"{model}, {len(y)} samples of {dataset.name}", numbers)
    _write_results(
        _prefix(model, prefix, "certify"),
        _certificate_arrays(found, growth),
        functools.partial(plotting.plot_growth, [growth["flow"], growth["euler"]]),
        functools.partial(plotting.plot_certified, found),
        quiet=as_json,
    )


@contextmanager
def _stage(text: str, quiet: bool) -> Iterator[None]:
    """Say what is being computed; on a terminal with a sign of life."""
    if quiet:
        yield
    elif err.is_terminal:
        with err.status(escape(text)):
            yield
    else:
        err.print(f"{text} ...", highlight=False, markup=False, soft_wrap=True)
        yield


def _bounded_layers(field: Any) -> Any:
    """Return the layers of a field, whose slopes must be bounded."""
    from snode.analysis.growth_rates import Layers

    layers = Layers.of(field)
    for i, (low, high) in enumerate(layers.slopes):
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(
                f"the activation of layer {i + 1} has slopes in [{low:g}, {high:g}]: without a "
                "finite interval there is no bound"
            )
    return layers


def _accurate(solver: str, dtype: Any) -> Any:
    if solver == "euler":
        return solver
    rtol = 1e-5 if dtype == np.float32 else 1e-9
    return snode.Solver("ode45", rtol=rtol, atol=0.1 * rtol)


def _growth_numbers(bound: Any) -> dict[str, Any]:
    widths = np.diff(bound.ends)
    numbers = {
        "factor": bound.factor[-1],
        "log_factor": bound.log_factor[-1],
        "rate": [bound.upper.min(), bound.upper.max()],
    }
    if not np.isnan(bound.lower).all():
        numbers |= {
            "log_factor_found": float(widths @ bound.lower),
            "rate_found": [bound.lower.min(), bound.lower.max()],
            "rate_gap": (bound.upper - bound.lower).max(),
        }
    return numbers


def _is_one_matrix(layers: Any) -> bool:
    if not isinstance(layers.field, StandaloneField):
        return len(layers.slopes) == 1
    W = to_host(layers.field.W)
    return bool((W[:1] == W).all())


def _layer_numbers(layers: Any, seed: int) -> dict[str, Any]:
    """Bounds for x' = sigma(Ax + b)."""
    A, slopes = layers.at(float(layers.grid[0]))[0], layers.slopes[0]
    f = snode.max_log_norm(A, slopes, rng=seed)
    interval = snode.contractivity_interval(A, rng=seed)
    numbers: dict[str, Any] = {
        "slopes": slopes,
        "log_norm": {"lower": f.lower, "upper": f.upper, "gap": f.gap},
        "interval": {"status": interval.status.name, "m": interval.m, "lower": interval.lower},
        "shift": None,
    }  # fmt: skip
    if slopes[0] > 0:
        shift = snode.contracting_shift(A, slopes, rng=seed)
        numbers["shift"] = {"tau": shift.tau, "lower": shift.lower}
    return numbers


def _radius_numbers(found: Any, sizes: tuple[float, ...]) -> dict[str, Any]:
    certified = found.radius[found.radius > 0]
    sizes = sizes or _ladder(certified)
    return {
        "samples": len(found.y),
        "correct": int((found.label == found.y).sum()),
        "certified": len(certified),
        "median_radius": np.median(certified) if len(certified) else 0.0,
        "largest_radius": certified.max(initial=0.0),
        "certified_accuracy": {f"{size:.12g}": float(found.accuracy(size)) for size in sizes},
    }


def _ladder(radii: Any, count: int = 5) -> tuple[float, ...]:
    """Return the largest numbers 1, 2 or 5 times a power of ten below the largest radius."""
    radii = radii[np.isfinite(radii)]
    if not len(radii) or radii.max() < 1e-300:
        return ()
    top = math.floor(math.log10(radii.max()))
    steps = [float(f"{digit}e{k}") for k in range(top - count, top + 1) for digit in (1, 2, 5)]
    return tuple(step for step in steps if step < radii.max())[-count:]


def _certificate_arrays(found: Any, growth: dict[str, Any]) -> dict[str, Any]:
    arrays = {name: getattr(found, name) for name in ("radius", "margin", "label", "y")}
    for kind, bound in growth.items():
        for name in ("t", "log_factor", "ends", "upper", "lower"):
            arrays[f"{kind}_{name}"] = getattr(bound, name)
    return arrays


def _show_certificate(title: str, numbers: dict[str, Any]) -> None:
    table = _table(title)
    for kind, name in KIND_NAMES.items():
        _growth_rows(table, name, numbers["growth"][kind])
    table.add_section()
    if numbers["layer"] is not None:
        _layer_rows(table, numbers["layer"])
        table.add_section()
    samples, correct = numbers["samples"], numbers["correct"]
    table.add_row(f"correct, {numbers['solver']}", f"{correct} of {samples}")
    table.add_row("certified", f"{numbers['certified']} of {samples}")
    for name in ("median", "largest"):
        table.add_row(f"certified radius, {name}", _outward(numbers[f"{name}_radius"], up=False))
    for size, score in numbers["certified_accuracy"].items():
        table.add_row(f"certified accuracy, |delta|_2 <= {size}", f"{100 * score:.2f} %")
    table.add_row("time", f"{numbers['seconds']:.1f} s")
    out.print(table)


def _growth_rows(table: Table, name: str, numbers: dict[str, Any]) -> None:
    low, high = (_outward(rate, up=True) for rate in numbers["rate"])
    table.add_row(f"growth over the depth, {name}", f"at most {_factor(numbers['log_factor'])}")
    table.add_row("  rate, upper bound", f"{low} .. {high}")
    if "rate_found" in numbers:
        low, high = (_outward(rate, up=False) for rate in numbers["rate_found"])
        gap = _outward(numbers["rate_gap"], up=True, digits=2)
        table.add_row("  rate, slopes found", f"{low} .. {high}, gap {gap}")


def _layer_rows(table: Table, numbers: dict[str, Any]) -> None:
    f, interval, shift = numbers["log_norm"], numbers["interval"], numbers["shift"]
    low, high = numbers["slopes"]
    bounds = f"{_outward(f['lower'], up=False)} .. {_outward(f['upper'], up=True)}"
    gap = _outward(f["gap"], up=True, digits=2)
    table.add_row(escape(f"log norm, slopes in [{low:g}, {high:g}]"), f"{bounds}, gap {gap}")
    if interval["status"] == "FOUND":
        text = _least(interval["m"], interval["lower"])
    else:
        text = VERDICTS[interval["status"]]
    table.add_row(r"contractive for slopes in \[m, 1], m", text)
    if shift is None:
        table.add_row("contractive after a shift by", "none: the smallest slope is not positive")
    else:
        text = _least(shift["tau"], shift["lower"]) if shift["tau"] else "0"
        table.add_row("contractive after a shift by", text)


def _least(value: float, lower: float) -> str:
    return f"{_outward(value, up=True)}, not below {_outward(lower, up=False)}"


def _outward(value: float, *, up: bool, digits: int = 4) -> str:
    """Round a bound to the side on which it holds."""
    side = decimal.ROUND_CEILING if up else decimal.ROUND_FLOOR
    rounded = decimal.Context(prec=digits, rounding=side).create_decimal_from_float(float(value))
    return f"{float(rounded):.{digits}g}"


def _factor(log_factor: float) -> str:
    power = log_factor / math.log(10)
    if abs(power) > 6:
        return f"10^{_outward(power, up=True)}"
    return _outward(math.exp(log_factor), up=True)


# --- evaluate, check, info ----------------------------------------------------------------------


@app.command()
@_friendly
def evaluate(
    model: Annotated[Path, typer.Argument(help="A model file, or the folder of a run.")],
    data: Annotated[str | None, typer.Option(help="As for train; default: what it was trained on, or mnist.")] = None,
    noise: Annotated[str, typer.Option(help="Noise levels, in units of the pixel range.")] = "",
    seed: Annotated[int, typer.Option(help="Decides the noise.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:  # fmt: skip
    """Measure the accuracy of a saved model."""
    loaded, dataset = _load_model(model, data)
    numbers = _final_numbers(loaded.field, dataset, _noise(noise), seed)
    if as_json:
        sys.stdout.write(json.dumps(runs.plain(numbers), indent=2) + "\n")
        return
    table = _table(f"{model} on {dataset.name}")
    _accuracy_rows(table, numbers)
    out.print(table)


@app.command()
@_friendly
def check(
    model: Annotated[Path, typer.Argument(help="A model file, or the folder of a run.")],
) -> None:
    """Run the dot tests and Taylor tests on a saved model; exit code 1 if one fails."""
    report = snode.check(snode.load(_model_path(model)).field, verbose=False)
    out.print(str(report), highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(0 if report.passed else 1)


@app.command()
@_friendly
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Print versions, BLAS, threads and GPU."""
    environment = runs.environment()
    environment["threads"] = check_threads(None)
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
