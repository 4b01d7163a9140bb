"""``snode train``: train a network, write the folder of the run, resume it."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape

import snode
from snode import runs
from snode.cli.console import (
    app,
    err,
    fail,
    friendly,
    grouped,
    new_table,
    out,
    print_json,
    say,
    seconds,
)  # fmt: skip
from snode.cli.defaults import (
    TrainOptions,
    check_options,
    describe,
    resolve,
    scaled_targets,
    stored_options,
    unscaled_read_out,
)
from snode.cli.options import check_seed, encoding_pair, noise_levels, read_activation
from snode.cli.output import save_figure
from snode.cli.samples import (
    TOYS,
    Source,
    accuracy_rows,
    check_noise,
    class_names,
    final_numbers,
    label_column_name,
    load_data,
    noise_unit,
    shown_name,
    shown_path,
    warnings_as_lines,
)
from snode.datasets.featurenames import storable_feature_names
from snode.fields.layer import StandaloneField
from snode.interrupts import stop_on_signals
from snode.progress import Callback, bar, tell
from snode.results import Status
from snode.threads import check_threads

D = TrainOptions()


TRAIN_EXAMPLES = """Examples:

snode train --data two_moons --activation tanh --n-layers 30 --epochs 5

snode train --data table.csv --epochs 20

snode train --resume runs/NAME --epochs 10"""


@app.command(epilog=TRAIN_EXAMPLES)
@friendly
@grouped(
    Data="data encoding dtype",
    Network="activation depth n_layers interpolation scale knots",
    Cost="l2 ce output decay",
    Method="method inner length rule epochs batch_size n_iter learning_rate restart seed threads",
    Measuring="eval_every eval_samples noise",
    Folder_of_the_run="name folder resume as_json",
)
def train(
    context: typer.Context,
    data: Annotated[str, typer.Option(help=f"mnist, {', '.join(TOYS)}, or a file (npz, IDX, mat, csv).")] = D.data,
    encoding: Annotated[str, typer.Option(help="Values of background and ink, e.g. 0,-1; default 0,-1 for 8-bit images, other data as they are.")] = "",
    label_column: Annotated[str | None, typer.Option(help="Tables: name or number (from 0, or -1 for the last) of the column of labels.")] = D.label_column,
    samples: Annotated[str | None, typer.Option(help="npz and mat: rows or columns, where the samples are.")] = D.samples,
    delimiter: Annotated[str | None, typer.Option(help="Tables: what separates the cells; default: what fits.")] = D.delimiter,
    task: Annotated[str, typer.Option(help="classification, or regression for targets that are real numbers.")] = D.task,
    test_fraction: Annotated[float | None, typer.Option(help="Part held out where the file has no test set; default 0.2, none for 8-bit images.")] = D.test_fraction,
    standardise: Annotated[bool | None, typer.Option("--standardise/--no-standardise", help="Features of mean 0 and deviation 1; default: for tables and toy sets.")] = D.standardise,
    read_out: Annotated[bool | None, typer.Option("--read-out/--no-read-out", help="Outputs V x(T) + c; default: not for 8-bit images.")] = D.read_out,
    activation: Annotated[str | None, typer.Option(help="Name, or name:parameter=value (elu:alpha=0.2); default tanh, relu for 8-bit images.")] = D.activation,
    depth: Annotated[float | None, typer.Option(help="Length T of the depth interval; default 1, 3 for 8-bit images.")] = D.depth,
    n_layers: Annotated[int | None, typer.Option(help="Number K of depth cells (Euler steps); default 10, 150 for 8-bit images.")] = D.n_layers,
    interpolation: Annotated[str, typer.Option(help="Weights in depth: constant, linear, cubic.")] = D.interpolation,
    scale: Annotated[float | None, typer.Option(help="Standard deviation of the first weights; default 1/n.")] = D.scale,
    knots: Annotated[int, typer.Option(help="Depths at which the first weights are drawn.")] = D.knots,
    l2: Annotated[float | None, typer.Option(help="Weight of the squared distance to the targets; default 1 for 8-bit images and regression, else 0.")] = D.l2,
    ce: Annotated[float | None, typer.Option(help="Weight of the cross entropy; default 0 for 8-bit images and regression, else 1.")] = D.ce,
    output: Annotated[float, typer.Option(help="Weight of the size of the output.")] = D.output,
    decay: Annotated[float | None, typer.Option(help="Weight of the size of W and b; default 0.001, 0 for 8-bit images.")] = D.decay,
    method: Annotated[str, typer.Option(help="ncg, sgd, momentum, rmsprop, adam.")] = D.method,
    inner: Annotated[str | None, typer.Option(help="l2, h1 (Sobolev gradient), euclidean; default l2 for ncg.")] = D.inner,
    length: Annotated[float, typer.Option(help="Length of the Sobolev inner product, with --inner h1.")] = D.length,
    rule: Annotated[str, typer.Option(help="CG rule: FR, PR+, FR-PR, HS, DY, SD.")] = D.rule,
    epochs: Annotated[float | None, typer.Option(help="May be fractional; default by the number of samples, 0.25 for 8-bit images.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples in a minibatch; default all, at most 500; 100 for 8-bit images.")] = D.batch_size,
    n_iter: Annotated[int | None, typer.Option(help="Iterations on each minibatch; default 6.")] = D.n_iter,
    learning_rate: Annotated[float | None, typer.Option(help="For the first-order methods only.")] = D.learning_rate,
    restart: Annotated[bool, typer.Option(help="Restart conjugacy at every minibatch.")] = D.restart,
    seed: Annotated[int, typer.Option(help="Decides first weights and minibatches.")] = D.seed,
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = D.dtype,
    threads: Annotated[int | None, typer.Option(help="Worker threads; default all cores.")] = D.threads,
    eval_every: Annotated[float | None, typer.Option(help="Epochs between accuracy measurements and checkpoints; default a tenth of the epochs, 0.05 for 8-bit images.")] = D.eval_every,
    eval_samples: Annotated[int, typer.Option(help="Samples of each set in those measurements.")] = D.eval_samples,
    noise: Annotated[str, typer.Option(help="Noise levels of the final table, in units of the pixel range, or of the standard deviation of a feature.")] = "0.1,0.2,0.4",
    name: Annotated[str | None, typer.Option(help="Name of the folder of the run; default from options and time.")] = None,
    folder: Annotated[Path, typer.Option("--out", help="Where the folders of runs are.")] = Path("runs"),
    resume: Annotated[Path | None, typer.Option(help="Folder of a run to go on with; its options are used again (--epochs may be raised).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON and nothing else.")] = False,
) -> None:  # fmt: skip
    """Train a standalone neural ODE; without options: 14x14 MNIST by conjugate gradients.

    With --data FILE alone the rest follows from the data; what was chosen is printed.
    """
    if resume is not None:
        _check_resume_options(context)
        options = _resumed_options(resume, epochs, data if _is_given(context, "data") else None)
        started = _train(options, lambda: _reopened(resume), as_json, resumed=True)
        raise typer.Exit(0 if started else 1)
    options = TrainOptions(
        data=data, encoding=encoding_pair(encoding), activation=activation, depth=depth,
        n_layers=n_layers, interpolation=interpolation, scale=scale, knots=knots, l2=l2, ce=ce,
        output=output, decay=decay, method=method, inner=inner, length=length, rule=rule,
        epochs=epochs, batch_size=batch_size, n_iter=n_iter, learning_rate=learning_rate,
        restart=restart, seed=seed, dtype=dtype, threads=threads, eval_every=eval_every,
        eval_samples=eval_samples, noise=noise_levels(noise), task=task,
        label_column=label_column, samples=samples, delimiter=delimiter,
        test_fraction=test_fraction, read_out=read_out, standardise=standardise,
    )  # fmt: skip
    check_seed(seed)
    check_options(options)
    if name is not None:
        if Path(name).name != name or name in (".", ".."):
            raise ValueError(f"name must be a plain folder name; got {name!r}; see --out")
        if (folder / name).exists() and any((folder / name).iterdir()):  # before the data are read
            raise FileExistsError(
                f"{folder / name} is not empty; choose another --name, or --resume {folder / name}"
            )
    finished = _train(
        replace(options, data=_lasting_name(data)),
        lambda: runs.new_folder(folder, name or _default_name(options), given=name is not None),
        as_json,
    )
    raise typer.Exit(0 if finished else 1)


@contextmanager
def _removed_on_error(folder: Path, resumed: bool) -> Iterator[None]:
    """Leave no empty run behind when the input turns out to be bad; a run from before stays."""
    try:
        yield
    except Exception:
        if not resumed and {p.name for p in folder.iterdir()} <= {runs.OPTIONS}:
            (folder / runs.OPTIONS).unlink(missing_ok=True)
            folder.rmdir()
        raise


def _lasting_name(data: str) -> str:
    """Return the name of a data set, or a path that is right in every folder."""
    is_file = data != "mnist" and data not in TOYS and Path(data).exists()
    return str(Path(data).absolute()) if is_file else data


def _reopened(folder: Path) -> Path:
    runs.check_writable(folder)
    return folder


def _default_name(options: TrainOptions) -> str:
    chosen = options.activation or ("relu" if options.data == "mnist" else "tanh")
    activation = chosen.replace(":", "-").replace("=", "").replace(",", "-")
    stem = shown_name(options.data)[:40]
    now = time.strftime("%Y%m%d-%H%M%S")
    return f"{stem}-{activation}-{options.method}-seed{options.seed}-{now}"


def _is_given(context: typer.Context, name: str) -> bool:
    return getattr(context.get_parameter_source(name), "name", "DEFAULT") == "COMMANDLINE"


def _check_resume_options(context: typer.Context) -> None:
    free = {"resume", "epochs", "data", "as_json"}
    given = [name for name in context.params if name not in free and _is_given(context, name)]
    if given:
        raise ValueError(
            f"{', '.join(given)} cannot change when a run is resumed; only epochs may be given, "
            "and data whose file has moved"
        )


def _resumed_options(folder: Path, epochs: float | None, data: str | None) -> TrainOptions:
    options = stored_options(runs.read_options(folder), folder / runs.OPTIONS)
    if epochs is not None:
        options = replace(options, epochs=epochs)
    check_options(options)
    if data is not None:
        return replace(options, data=_lasting_name(data))
    if options.data != "mnist" and options.data not in TOYS and not Path(options.data).exists():
        raise FileNotFoundError(
            f"the data of the run, {options.data!r}, are not there; if they have moved: "
            f"--resume {folder} --data PATH"
        )
    return options


def _train(
    options: Any, open_folder: Callable[[], Path], as_json: bool, *, resumed: bool = False
) -> bool:
    # the number of threads decides the rounding, so a resumed run must use the same
    options = replace(options, threads=check_threads(options.threads))
    asked: TrainOptions = options
    options, data = resolve(asked, load_data(Source.of(asked)))
    if data.feature_names is not None:  # not after the training
        storable_feature_names(data.feature_names, len(data.x_train))
    label_name = label_column_name(Source.of(options), data)
    training_data, target = data, None
    if options.read_out and not data.n_classes:
        training_data, target = scaled_targets(data)
    check_noise(options.noise, data)
    rng = np.random.default_rng(options.seed)
    field = _first_field(options, data, rng)
    cost = snode.Cost(
        l2=options.l2, ce=options.ce, output=options.output, decay=options.decay,
        n_classes=data.n_classes or 2,
    )  # fmt: skip
    inner: Any = options.inner
    if inner == "h1":
        inner = snode.H1(options.length)
    folder = open_folder()
    ending = _Ending(folder)
    with _removed_on_error(folder, resumed), ending, bar(console=err, quiet=as_json) as report:
        if not resumed:
            runs.write_json(folder / runs.OPTIONS, asdict(options))
        if not as_json:
            text = "\n".join([*describe(asked, options, data), str(field), str(cost)])
            out.print(text, highlight=False, markup=False, soft_wrap=True)
        started = time.perf_counter()
        with warnings_as_lines():
            result = snode.train(
                field, training_data, cost,
                method=options.method, inner=inner, rule=options.rule, epochs=options.epochs,
                batch_size=options.batch_size, n_iter=options.n_iter,
                learning_rate=options.learning_rate, restart=options.restart, rng=rng,
                threads=options.threads, eval_every=options.eval_every,
                eval_samples=options.eval_samples, checkpoint=folder / "checkpoint.safetensors",
                resume=resumed, progress=_Kept(report, folder, options),
            )  # fmt: skip
        if target is not None:
            result = replace(result, field=unscaled_read_out(result.field, target))
        manifest = {
            "status": result.status.name,
            "message": result.message,
            "train_accuracy": None, "test_accuracy": None, "noise_accuracy": {},
            "cost_last_batch": float(result.history["cost_after"][-1]),
            "seed": options.seed,
            "dtype": options.dtype,
            "threads": options.threads,
            "epochs": result.epochs,
            "minibatches": result.n_batches,
            "capped_steps": _total(result.history["capped"]),
            "restarted_directions": _total(result.history["restarted"]),
            "train_seconds": round(time.perf_counter() - started, 3),
            "total_seconds": round(seconds(), 3),
            "finished": runs.now(),
            "options": asdict(options),
            "label_name": label_name,
            "field": repr(field),
            "cost": asdict(cost),
            "environment": runs.environment(),
        }  # fmt: skip
        try:
            _write_run(folder, result, data, manifest)  # what follows may take long, or be killed
        except OSError as error:  # a full disk
            fail(f"{error.filename}: {error.strerror}; {_kept(folder)}; {_go_on(folder)}", 1)
        ending.is_written = True
        if not ending.has_no_time:
            measured = final_numbers(
                result.field, data, options.noise, options.seed, callback=report
            )
            manifest |= measured | {"total_seconds": round(seconds(), 3), "finished": runs.now()}
            _write_run(folder, result, data, manifest)
            tell(report, 0, None, "drawing")
            _draw_report(folder, result, data, manifest)
    _show_run(folder, manifest, noise_unit(data), as_json)
    if result.status is not Status.SUCCESS or "could not be written" in result.message:
        err.print(escape(result.message), highlight=False, soft_wrap=True)
    if result.status is Status.STOPPED:
        err.print(escape(f"stopped; {_go_on(folder)}"), highlight=False, soft_wrap=True)
    return result.status is Status.SUCCESS


def _first_field(options: Any, data: Any, rng: np.random.Generator) -> Any:
    if not 0 < options.depth < 1e100:  # knots are interpolated: cubes of it are formed
        raise ValueError(f"--depth must be positive and below 1e100; got {options.depth!r}")
    try:
        field = StandaloneField.random(
            data.x_train.shape[0], options.depth, options.n_layers,
            activation=read_activation(options.activation), interpolation=options.interpolation,
            scale=options.scale, knots=options.knots, rng=rng, dtype=options.dtype,
        )  # fmt: skip
    except (MemoryError, OverflowError) as error:
        raise ValueError(
            f"depth, n_layers or knots is too large: {options.depth:g}, {options.n_layers}, "
            f"{options.knots}"
        ) from error
    if not options.read_out:
        return field
    return snode.Classifier.random(field, data.n_classes or len(data.y_train), rng=rng)


def _go_on(folder: Path) -> str:
    return f"go on with: python -m snode train --resume {shlex.quote(str(folder))}"


def _kept(folder: Path) -> str:
    if (folder / "checkpoint.safetensors").exists():
        return "the last checkpoint is kept"
    return "there is no checkpoint yet"


class _Kept:
    """Passes on how far the run is; when it has begun, its options are final."""

    def __init__(self, report: Callback, folder: Path, options: TrainOptions) -> None:
        self.report, self.folder, self.options = report, folder, options
        self.is_kept = False

    def __call__(self, state: Any) -> object:
        if not self.is_kept:  # a checkpoint of another run would have been refused by now
            runs.write_json(self.folder / runs.OPTIONS, asdict(self.options))
            self.is_kept = True
        return self.report(state)


class _Ending:
    """Says at once what a Ctrl-C or SIGTERM leads to, and how to go on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_written = False
        self.signals = ExitStack()

    def __enter__(self) -> _Ending:
        self.flag = self.signals.enter_context(stop_on_signals(self._answer))
        return self

    @property
    def has_no_time(self) -> bool:
        """Whether whoever ended the run will kill it soon; after this Ctrl-C ends at once."""
        self.signals.close()
        return self.flag.name in ("SIGTERM", "SIGHUP")

    def _answer(self, name: str) -> None:
        rest = "writes checkpoint and model"
        if name == "SIGINT":
            rest += ", measures the accuracies (Ctrl-C again: ends at once)"
        say(
            f"\n{name.replace('SIGINT', 'Ctrl-C')}: finishes this minibatch, {rest}; {_go_on(self.folder)}"
        )

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.signals.close()
        if kind is KeyboardInterrupt:
            kept = _kept(self.folder)
            if self.is_written:
                kept = "checkpoint and model are written, the accuracies are not measured"
            raise KeyboardInterrupt(f"interrupted: {kept}; {_go_on(self.folder)}") from None


def _total(column: Any) -> int:
    return int(np.nansum(column))


def _write_run(folder: Path, result: Any, data: Any, manifest: dict[str, Any]) -> None:
    is_encoded = data.is_pixels or manifest["options"]["encoding"] is not None
    encoding = data.encoding if data.image_shape is not None and is_encoded else None
    snode.save(folder / "model.safetensors", result.field, encoding=encoding,
               manifest=runs.plain(manifest), classes=class_names(data),
               standardisation=data.standardisation,
               feature_names=data.feature_names)  # fmt: skip
    runs.write_history(folder / "history.csv", result)
    runs.write_json(folder / "manifest.json", manifest)


def _draw_report(folder: Path, result: Any, data: Any, manifest: dict[str, Any]) -> None:
    from snode.plotting import training_report

    test = manifest["test_accuracy"]
    shown = "" if test is None else f", test accuracy {100 * test:.2f} %"
    title = f"{shown_path(Path(folder.name), 70)}: {result.epochs:g} epochs{shown}"
    samples = manifest["options"]["eval_samples"]
    save_figure(
        folder / "report.png",
        lambda: training_report(result, data, title=title, eval_samples=samples),
    )


def _show_run(folder: Path, manifest: dict[str, Any], unit: str, as_json: bool) -> None:
    if as_json:
        print_json(manifest)
        return
    table = new_table(f"run {folder}")
    accuracy_rows(table, manifest, unit)
    table.add_row("minibatches", str(manifest["minibatches"]))
    table.add_row("capped steps", str(manifest["capped_steps"]))
    table.add_row("training time (this session)", f"{manifest['train_seconds']:.1f} s")
    table.add_row("run time", f"{seconds():.1f} s")
    out.print(table)
    names = ("model.safetensors", "history.csv", "manifest.json", "report.png")
    out.print(f"{folder}/: {', '.join(name for name in names if (folder / name).exists())}",
              highlight=False, markup=False, soft_wrap=True)  # fmt: skip
