"""Many training runs, with other seeds and options, in this process or on a cluster."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from dataclasses import field as entry
from dataclasses import fields as entries_of
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from snode.backend import own_error_state, single_threaded_blas, to_host
from snode.copying import Portable
from snode.io import load, read_json, replacing, save
from snode.progress import check_callback
from snode.results import ModelFormatError, Status
from snode.threads import check_threads
from snode.training.cluster import check_client, submit, wait_for_any, workers_of
from snode.training.costs import Cost, check_cost, default_cost
from snode.training.identity import field_identity
from snode.training.loop import as_split, check_split, train

__all__ = ["SweepResult", "SweepRow", "sweep"]

_OWN = ("field", "data", "rng", "executor", "callback", "checkpoint", "resume")
"""Arguments of `train` that a run may not choose: the sweep does, or they make no sense there."""


@dataclass(frozen=True)
class SweepRow:
    """What became of one run.

    Attributes
    ----------
    options : dict
        The seed and the options of this run.
    status : str
        Name of the `Status`; "FAILED" if it raised an error, "NOT_RUN" if the sweep was stopped.
    message : str
        Of the result, or the error.
    train_accuracy, test_accuracy : float
        Of the last evaluation.
    cost_after : float
        Of the last minibatch, after its iterations.
    n_batches : int
    seconds : float
        Wall clock time of the training.
    start : int
        Checksum of the field that the run started from.
    """

    options: dict[str, Any]
    status: str
    message: str = ""
    train_accuracy: float = math.nan
    test_accuracy: float = math.nan
    cost_after: float = math.nan
    n_batches: int = 0
    seconds: float = 0.0
    start: int = 0

    @property
    def finished(self) -> bool:
        """True if the run ended without an error."""
        return self.status in Status.__members__


@dataclass(frozen=True, eq=False)
class SweepResult(Portable):
    """Result of `snode.sweep`.

    Attributes
    ----------
    rows : tuple of SweepRow
        One for each run, in the order of the runs.
    files : tuple of (Path or None)
        The saved models; None for a run without one, and without a folder.
    """

    rows: tuple[SweepRow, ...]
    files: tuple[Path | None, ...]
    _fields: tuple[Any, ...] = entry(default=(), repr=False)

    def field(self, i: int) -> Any:
        """Return the trained field of run `i`, from its file where there is one.

        Raises
        ------
        ValueError
            If the run has no field: it failed, or was not run.
        """
        file = self.files[i]
        if file is not None:
            return load(file).field
        if self._fields[i] is None:
            raise ValueError(f"run {i} has no field: {self.rows[i].status}, {self.rows[i].message}")
        return self._fields[i]

    @property
    def success(self) -> bool:
        """True if every run finished."""
        return all(row.finished for row in self.rows)

    def __repr__(self) -> str:
        finished = [i for i, row in enumerate(self.rows) if row.finished]
        text = f"SweepResult({len(finished)} of {len(self.rows)} runs finished"
        scored = [i for i in finished if math.isfinite(self.rows[i].test_accuracy)]
        if scored:
            best = max(scored, key=lambda i: self.rows[i].test_accuracy)
            row = self.rows[best]
            text += f", best test accuracy {row.test_accuracy:.4f} in run {best}: {row.options}"
        failed = [i for i, row in enumerate(self.rows) if row.status == "FAILED"]
        if failed:
            text += f"; run {failed[0]} failed: {self.rows[failed[0]].message}"
        return text + ")"


@own_error_state
def sweep(
    field: Any,
    data: Any,
    runs: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]],
    cost: Cost | None = None,
    *,
    executor: Any = None,
    folder: str | Path | None = None,
    threads: int = 1,
    callback: Callable[[SweepRow], object] | None = None,
    **options: Any,
) -> SweepResult:
    """Train many times, with other seeds and options.

    Parameters
    ----------
    field : VectorField or callable
        Start of every run; or ``field(seed=..., **others)`` returns the start, others being the
        options of the run that are not options of `train`.
    data
        As in `train`.
    runs : mapping or sequence of mappings
        ``{"seed": range(3), "rule": ["FR", "SD"]}`` is all 6 combinations; a sequence holds the
        options of each run. The seed (default 0) decides the minibatches, and the start if `field`
        is callable.
    cost : Cost, optional
        As in `train`; a run may have one of its own.
    executor : dask.distributed.Client, optional
        Run on the workers of this cluster, each run on one of them (extra ``distributed``).
    folder : path, optional
        Write each finished run there, its model and its row. A repeated call with the same field,
        data and options skips the runs that are there; a failed one is run again.
    threads : int, optional
        Threads of a run. One is the default, here and on a cluster, so that the numbers are equal.
    callback : callable, optional
        Called with the `SweepRow` of each run that ends here; stops the sweep if it returns True.
    **options
        Options of `train` for every run.

    Returns
    -------
    SweepResult
        With a row for every run. A run that raises an error is a row that says so.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit; names the argument.
    ModelFormatError
        If the folder belongs to another sweep, or a file in it is damaged.
    ImportError
        If there is an executor and the extra is not installed.
    TimeoutError
        If the cluster has no worker for 60 s.
    KeyboardInterrupt
        After Ctrl-C. With a folder, the same call goes on from there.

    Examples
    --------
    >>> import snode
    >>> data = snode.datasets.two_moons(200, rng=0)
    >>> def start(seed):
    ...     return snode.StandaloneField.random(2, 3.0, 20, rng=seed)
    >>> result = snode.sweep(
    ...     start, data, {"seed": [0, 1], "rule": ["FR", "PR+"]}, snode.Cost(n_classes=2), epochs=2
    ... )
    >>> [(row.options["seed"], row.options["rule"], row.status) for row in result.rows]
    [(0, 'FR', 'SUCCESS'), (0, 'PR+', 'SUCCESS'), (1, 'FR', 'SUCCESS'), (1, 'PR+', 'SUCCESS')]
    """
    table = _as_runs(runs)
    common = {"threads": threads} | options | ({} if cost is None else {"cost": cost})
    _check_options(field, table, common)
    check_threads(threads)
    check_callback(callback)
    for chosen in (common, *table):
        if "cost" in chosen:
            check_cost(chosen["cost"])
    split = as_split(data)
    if _is_field(field):
        check_split(field, split, default_cost(field, split.n_classes) if cost is None else cost)
    if executor is not None:
        check_client(executor)
    jobs = [_Job(run, common | run) for run in table]
    store = None if folder is None else _Folder(Path(folder), field, data, common)
    rows = [SweepRow(job.run, "NOT_RUN") for job in jobs]
    fields: list[Any] = [None] * len(jobs)
    todo = []
    for i, job in enumerate(jobs):
        row = None if store is None else store.read(job, field)
        if row is None:
            todo.append(i)
        else:
            rows[i] = row
    for i, row, trained in _results(executor, field, data, {i: jobs[i] for i in todo}):
        if row.status == Status.STOPPED.name:  # a run has no callback
            raise KeyboardInterrupt("the sweep was interrupted")
        if store is None:
            rows[i], fields[i] = row, trained
        else:
            rows[i] = store.write(jobs[i], row, trained) if row.finished else row
        if callback is not None and callback(rows[i]):
            break
    files = [store.model(jobs[i]) if store and row.finished else None for i, row in enumerate(rows)]
    return SweepResult(tuple(rows), tuple(files), tuple(fields))


# --- the runs -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    run: dict[str, Any]
    options: dict[str, Any]

    @property
    def key(self) -> str:
        """Name of the files of this run."""
        text = json.dumps(_described(self.run), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _as_runs(runs: Any) -> list[dict[str, Any]]:
    if isinstance(runs, Mapping):
        for name, values in runs.items():
            if isinstance(values, str) or not hasattr(values, "__iter__"):
                raise TypeError(f"runs must map each option to a list of values; {name} does not")
        rows = [dict(zip(runs, values, strict=True)) for values in product(*runs.values())]
    elif isinstance(runs, list | tuple) and all(isinstance(run, Mapping) for run in runs):
        rows = [dict(run) for run in runs]
    else:
        raise TypeError("runs must be a mapping of lists or a list of mappings")
    if not rows:
        raise ValueError("runs must hold at least one run")
    rows = [{"seed": 0} | row for row in rows]
    described = [_described(row) for row in rows]
    for i, row in enumerate(described):
        if row in described[:i]:
            raise ValueError(f"runs must be different; {rows[i]} is there twice")
    return rows


def _train_options() -> set[str]:
    return set(inspect.signature(train).parameters)


def _check_options(field: Any, table: list[dict[str, Any]], common: dict[str, Any]) -> None:
    if not (callable(field) or hasattr(field, "parameters")):
        raise TypeError(f"field must be a vector field or return one; got {type(field).__name__}")
    known = _train_options()
    for name in dict.fromkeys([*common, *(name for run in table for name in run)]):
        if name in _OWN:
            hint = "; use seed" if name == "rng" else ""
            raise ValueError(f"{name} cannot be an option of a run{hint}")
        if name == "seed" and name in common:
            raise ValueError("seed must be given in runs")
        unknown = name not in known and name != "seed"
        if unknown and (_is_field(field) or name in common):
            raise ValueError(f"{name!r} is not an option of train")


def _is_field(field: Any) -> bool:
    return hasattr(field, "parameters") and hasattr(field, "with_parameters")


def _start(field: Any, run: dict[str, Any]) -> Any:
    if _is_field(field):
        return field
    known = _train_options()
    return field(**{name: value for name, value in run.items() if name not in known})


def _checksum(field: Any) -> int:
    crc = 0
    for name, array in sorted(field.parameters.items()):
        host = np.ascontiguousarray(to_host(array))
        crc = zlib.crc32(host.tobytes(), zlib.crc32(name.encode(), crc))
    return zlib.crc32(repr(field_identity(field)).encode(), crc)


def _run(shared: tuple[Any, Any], job: _Job) -> tuple[SweepRow, Any]:
    """Train once; this is what a worker does."""
    began = time.perf_counter()
    options = {name: value for name, value in job.options.items() if name in _train_options()}
    try:
        field, data = shared
        start = _start(field, job.run)
        with single_threaded_blas(options["threads"] == 1):
            result = train(start, data, rng=job.run["seed"], **options)
    except Exception as error:
        return _failed(job, error, time.perf_counter() - began), None
    scores, history = result.evaluations, result.history
    row = SweepRow(
        job.run, result.status.name, result.message,
        float(scores["train_accuracy"][-1]), float(scores["test_accuracy"][-1]),
        float(history["cost_after"][-1]), result.n_batches,
        time.perf_counter() - began, _checksum(start),
    )  # fmt: skip
    return row, result.field


def _failed(job: _Job, error: BaseException, seconds: float = 0.0) -> SweepRow:
    return SweepRow(job.run, "FAILED", f"{type(error).__name__}: {error}", seconds=seconds)


def _results(
    client: Any, field: Any, data: Any, jobs: dict[int, _Job]
) -> Iterator[tuple[int, SweepRow, Any]]:
    """Yield number, row and trained field of each run as it ends; here if there is no client."""
    if client is None:
        for i, job in jobs.items():
            yield i, *_run((field, data), job)
        return
    workers_of(client)
    # a task, not scattered data: dask makes it again if its worker is lost
    shared = submit(client, _same, (field, data))
    pending = {submit(client, _run, shared, job): i for i, job in jobs.items()}
    try:
        while pending:
            for future in wait_for_any(client, pending):
                i = pending.pop(future)
                error = future.exception()  # of dask: `_run` keeps those of the run
                yield i, *((_failed(jobs[i], error), None) if error else future.result())
    finally:
        if pending:
            client.cancel(list(pending))


def _same(shared: Any) -> Any:
    return shared


# --- the folder -----------------------------------------------------------------------------------


def _described(value: Any) -> Any:
    """Return `value` as JSON can hold it: records by their entries, the rest by its repr."""
    if is_dataclass(value) and not isinstance(value, type):
        entries = {e.name: getattr(value, e.name) for e in entries_of(value)}
        return {"type": type(value).__name__} | _described(entries)
    if isinstance(value, Mapping):
        return {str(name): _described(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_described(item) for item in value]
    if isinstance(value, np.generic):
        return _described(value.item())
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return repr(value)


class _Folder:
    """The finished runs of a sweep on disk: ``sweep.json``, and a model and a row for each run."""

    def __init__(self, path: Path, field: Any, data: Any, common: dict[str, Any]) -> None:
        self.path = path
        identity = {
            "field": _checksum(field) if _is_field(field) else "made by a function",
            "data": _data_identity(data),
            "options": _described(common),
        }
        if path.exists() and any(path.iterdir()):
            self._check(identity)
            return
        if _is_field(field):  # one that cannot be saved is known before it runs
            with TemporaryDirectory() as folder:
                save(Path(folder, "start.safetensors"), field)
        path.mkdir(parents=True, exist_ok=True)
        _write_json(path / "sweep.json", {"kind": "snode sweep", "identity": identity})

    def _check(self, ours: dict[str, Any]) -> None:
        file = self.path / "sweep.json"
        if not file.is_file():
            raise ModelFormatError(
                f"{self.path} is not the folder of a sweep: it has no sweep.json"
            )
        theirs = read_json(file).get("identity")
        if not isinstance(theirs, dict):
            raise ModelFormatError(f"{file} does not say which sweep it is of")
        for name, value in ours.items():
            if theirs.get(name) != value:
                raise ModelFormatError(
                    f"{self.path} belongs to another sweep: {name} is {theirs.get(name)!r} there "
                    f"and {value!r} here"
                )

    def model(self, job: _Job) -> Path:
        return self.path / f"run_{job.key}.safetensors"

    def write(self, job: _Job, row: SweepRow, field: Any) -> SweepRow:
        """Write a run, the row last: it says that all is there. Return what became of it."""
        content = _described(asdict(row)) | {"options": _described(job.run)}
        try:
            save(self.model(job), field, manifest={"options": content["options"]})
        except (TypeError, ValueError) as error:
            return _failed(job, error, row.seconds)
        _write_json(self.model(job).with_suffix(".json"), content)
        return row

    def read(self, job: _Job, field: Any) -> SweepRow | None:
        """Return the row of a run that is finished."""
        file = self.model(job).with_suffix(".json")
        if not file.exists():
            return None
        content = read_json(file)
        if content.get("options") != _described(job.run) or set(content) != set(_ROW):
            raise ModelFormatError(f"{file} is not the row of the run {job.run}")
        row = SweepRow(**content | {"options": job.run} | _not_numbers(content))
        if row.start != _checksum(_start(field, job.run)):
            raise ModelFormatError(
                f"{file} belongs to another sweep: the run began at another field"
            )
        return row


_ROW = tuple(SweepRow.__dataclass_fields__)


def _not_numbers(content: dict[str, Any]) -> dict[str, float]:
    return {name: math.nan for name, value in content.items() if value is None}


def _data_identity(data: Any) -> list[Any]:
    names = ("x_train", "y_train", "x_test", "y_test")
    arrays = [getattr(data, name) for name in names] if hasattr(data, "x_train") else list(data)
    found: list[Any] = []
    for array in arrays:
        if array is None:
            continue
        host = np.ascontiguousarray(to_host(array))
        found.append([list(host.shape), str(host.dtype), zlib.crc32(host.tobytes())])
    return found


def _write_json(path: Path, content: Any) -> None:
    nan = {k: None for k, v in content.items() if isinstance(v, float) and not math.isfinite(v)}
    with replacing(path) as temporary:
        temporary.write_text(
            json.dumps(content | nan, indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )
