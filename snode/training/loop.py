"""Training: epochs, minibatches, callbacks, stopping and resuming.

The paper's scheme (001, Algorithm 1): random minibatches, a few NCG iterations on each, conjugacy
restarted at every batch. First-order methods run on the same batches with the same exact gradient.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from dataclasses import field as entry
from pathlib import Path
from typing import Any

import numpy as np

from snode.backend import Array, array_namespace, own_error_state, plain, to_host
from snode.copying import Portable
from snode.fields.base import n_outputs
from snode.interrupts import StopFlag, stop_on_signals
from snode.io import load_arrays, save_arrays
from snode.labels import check_labels, check_plain
from snode.ode.problems import Solver, as_solver, check_state
from snode.predict import accuracy, check_classes
from snode.progress import Callback, bar, check_callback, tell
from snode.results import IntegrationError, ModelFormatError, NcgResult, Status, TrainResult
from snode.seeds import as_generator
from snode.threads import check_threads, thread_limit
from snode.training.advice import advise_after, advise_before, announce
from snode.training.costs import Cost, check_cost, check_targets, default_cost
from snode.training.distributed import DistributedProblem, Team
from snode.training.firstorder import FirstOrderOptimizer
from snode.training.gradients import EULER, check_data
from snode.training.hotpath import Workspace, check_block_size
from snode.training.identity import data_identity, field_identity
from snode.training.innerproducts import InnerProduct, as_inner_product
from snode.training.ncg import (
    CG_RULES,
    Memory,
    NonFiniteCostError,
    make_problem,
    minimize,
    released,
)
from snode.training.options import CHECKPOINT, Options, check_checkpoint, check_evaluations
from snode.training.restored import (
    count_from,
    generator_from_text,
    generator_to_text,
    numbers_from,
    table_from,
    tensors_from,
)

__all__ = ["TrainState", "train"]

_log = logging.getLogger("snode")

MAX_SKIPPED = 10
FORMAT = 2  # of the checkpoints; 1 had a checksum of some of the data only
HISTORY = ("epoch", "cost", "cost_after", "step", "grad_norm", "capped", "restarted")
EVALUATIONS = ("epoch", "train_accuracy", "test_accuracy")


@dataclass(frozen=True)
class TrainState(Portable):
    """What a callback sees after each minibatch.

    Attributes
    ----------
    batch, n_batches : int
        Minibatches done and planned.
    epoch : float
        Epochs done.
    cost, cost_after, step, grad_norm : float
        As in `TrainResult.history`.
    train_accuracy, test_accuracy : float
        Of the last evaluation; NaN before the first.
    field : VectorField
        The field after the batch. Its arrays are reused by the next batch: keep
        ``copy.deepcopy(state.field)``.
    """

    batch: int
    n_batches: int
    epoch: float
    cost: float
    cost_after: float
    step: float
    grad_norm: float
    train_accuracy: float
    test_accuracy: float
    field: Any = entry(repr=False)

    @property
    def done(self) -> int:
        """As `batch`: a state is a `snode.progress.Progress`, too."""
        return self.batch

    @property
    def total(self) -> int:
        """As `n_batches`."""
        return self.n_batches

    @property
    def what(self) -> str:
        """What is done."""
        return "training"

    @property
    def detail(self) -> str:
        """Epoch, cost, step and accuracy in a line."""
        score = self.train_accuracy if math.isnan(self.test_accuracy) else self.test_accuracy
        shown = [("cost", f"{self.cost_after:.4f}", self.cost_after),
                 ("step", f"{self.step:.3g}", self.step),
                 ("accuracy", f"{100 * score:.1f} %", score)]  # fmt: skip
        numbers = [f"{name} {'-' if math.isnan(v) else text}" for name, text, v in shown]
        return " ".join([f"epoch {self.epoch:.3f}", *numbers])


@own_error_state
def train(
    field: Any,
    data: Any,
    cost: Cost | None = None,
    *,
    method: str = "ncg",
    inner: str | InnerProduct | None = None,
    rule: str = "FR",
    epochs: float = 1.0,
    batch_size: int = 100,
    n_iter: int = 6,
    learning_rate: float | None = None,
    restart: bool = True,
    solver: str | Solver = "euler",
    rng: Any = None,
    threads: int | None = None,
    block_size: int | None = None,
    executor: Any = None,
    callback: Callable[[TrainState], object] | None = None,
    progress: bool | Callback = False,
    eval_every: float | None = None,
    eval_samples: int | None = 10_000,
    checkpoint: str | Path | None = None,
    resume: bool = False,
) -> TrainResult:
    """Train a field on minibatches.

    Parameters
    ----------
    field : VectorField
        Start; it is not changed.
    data : Dataset or tuple
        A `snode.datasets.Dataset`, or ``(x, y)``, or ``(x, y, x_test, y_test)`` with x of shape
        (n, m), one column a sample, and integer labels (m,) or targets (n, m).
    cost : Cost, optional
        Default: squared distance to one-hot targets, with the classes of the data or of the
        field's read-out.
    method : {"ncg", "sgd", "momentum", "rmsprop", "adam"}, optional
    inner : {"l2", "h1", "euclidean"} or InnerProduct, optional
        Metric of the gradient. Default "l2" for NCG and "euclidean" (plain partial derivatives,
        as in deep learning) for the first-order methods.
    rule : str, optional
        CG rule, for ``method="ncg"``; see `ncg`.
    epochs : float, optional
        May be fractional.
    batch_size : int, optional
        Samples in a minibatch; each epoch is a random partition of the data.
    n_iter : int, optional
        Iterations on each minibatch.
    learning_rate : float, optional
        For the first-order methods; NCG has none.
    restart : bool, optional
        Restart conjugacy at every minibatch, as the paper does; False continues.
    solver : str or Solver, optional
        How the direct problem is solved, in training and in the evaluations; see `gradient`.
    rng : seed or numpy.random.Generator, optional
        Decides the minibatches.
    threads : int, optional
        Worker threads; default all cores. With an executor: threads of each worker, by default
        the smallest number that a worker of the cluster was given.
    block_size : int, optional
        Samples whose trajectory is stored at a time, for minibatches that do not fit the memory;
        see `ncg`. Not with an executor, whose workers divide what is above 1 GB.
    executor : dask.distributed.Client, optional
        Split each minibatch over the workers of this cluster (extra ``distributed``). The result
        is that of one process to rounding, and does not depend on workers that are lost on the
        way. The arrays must be NumPy's.
    callback : callable, optional
        Called with a `TrainState` after each minibatch; stops if it returns True.
    progress : bool or callable, optional
        True: show a bar with the time left on the error stream, also while functions are compiled
        and accuracies are measured. A function is called with a `snode.progress.Progress` instead,
        also between these phases; True from it stops the run.
    eval_every : float, optional
        Evaluate accuracy every so many epochs; always at the end.
    eval_samples : int, optional
        Number of training and of test samples to evaluate on (the first ones); None for all.
    checkpoint : path, optional
        File that is written at every evaluation, when the run is stopped, and at the end.
    resume : bool, optional
        Continue from `checkpoint` if it exists; then `rng` comes from there. The result is
        bit-identical to a run that was not interrupted (same options, data, number of threads,
        also of BLAS); `epochs` may be larger. With an executor a minibatch is split into as many
        parts as before, whatever the number of workers is now.

    Returns
    -------
    TrainResult

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit; names the argument.
    FileNotFoundError, IsADirectoryError, FileExistsError, PermissionError, OSError
        If no checkpoint can be written at the path, or another file is there; before training.
    ModelFormatError
        If the checkpoint is damaged, belongs to another run or was written by an older snode.
    ImportError
        If there is an executor and the extra is not installed.
    TimeoutError, ConnectionError
        If the cluster of the executor has no worker for 60 s, or its scheduler is lost.

    Warns
    -----
    TrainingWarning
        If the activation cannot reach the targets, the features have very different scales, most
        minibatches found no step, or the accuracy at the end is not above chance. The sentences
        stand in ``message``, too.

    Notes
    -----
    Ctrl-C ends the run after the current minibatch, writes the checkpoint and returns the result
    with ``status=STOPPED``; a second Ctrl-C interrupts at once. SIGTERM (how clusters end a job)
    and SIGHUP do the same. A checkpoint that cannot be written (a full disk) does not end the run:
    a warning in the log names the file, the last checkpoint stays, and if the one at the end fails,
    ``result.message`` says so. A minibatch whose cost is not
    finite at its start is skipped and counted in the message. Ten in a row end the run, and one
    that skipped all has changed nothing: the status of both is NONFINITE_RHS, no success.

    References
    ----------
    .. [1] Jaroudi et al., arXiv 2205.13933, section 5 and Algorithm 1.

    Examples
    --------
    >>> import snode
    >>> x, y = snode.datasets.two_moons(200, rng=0)
    >>> field = snode.StandaloneField.random(2, 3.0, 20, rng=0)
    >>> result = snode.train(field, (x, y), snode.Cost(n_classes=2), epochs=3, batch_size=50, rng=0)
    >>> result.n_batches
    12
    """
    split = as_split(data)
    if cost is None:
        cost = default_cost(field, split.n_classes)
    check_cost(cost)
    check_callback(callback)
    if not isinstance(progress, bool):
        check_callback(progress)
    check_evaluations(eval_every, eval_samples)
    check_checkpoint(checkpoint, resume)
    rng = as_generator(rng)
    team = None
    if executor is not None:
        if array_namespace(split.x) is not np:
            raise TypeError("x must be a NumPy array with an executor: use cupy.asnumpy(...)")
        if block_size is not None:
            raise ValueError("block_size must be None with an executor; its workers choose it")
        if type(cost) is not Cost:  # the workers divide its weights among them
            raise TypeError(
                f"cost must be a snode.Cost itself with an executor; got {type(cost).__name__}"
            )
        team = Team(executor, threads)
        threads = team.threads
    options = Options(
        method=method, rule=rule, epochs=epochs, batch_size=batch_size, n_iter=n_iter,
        learning_rate=learning_rate, restart=restart, threads=check_threads(threads),
        solver=as_solver(solver), block_size=check_block_size(block_size),
    )  # fmt: skip
    check_split(field, split, cost)
    if inner is None:
        inner = "l2" if method == "ncg" else "euclidean"
    run = _Training(field, split, cost, options, as_inner_product(inner, field), rng, team)
    run.eval_every, run.eval_samples = eval_every, eval_samples
    if resume and Path(str(checkpoint)).exists():
        run.restore(Path(str(checkpoint)))
    shown = bar() if progress is True else nullcontext(progress or None)
    try:
        advice = advise_before(field, split.x, split.y, cost)
        announce(advice)
        with shown as report:
            run.report = report
            result = run.go(callback, None if checkpoint is None else Path(checkpoint))
    finally:
        if team is not None:
            team.close()
    late = advise_after(result.history, result.evaluations, split.y[..., :eval_samples])
    announce(late)
    warned = "".join(f"; warning: {sentence}" for sentence in [*advice, *late])
    return replace(result, message=result.message + warned)


@dataclass(frozen=True)
class _Split:
    x: Array
    y: Array
    x_test: Array | None
    y_test: Array | None
    n_classes: int


def as_split(data: Any) -> _Split:
    if hasattr(data, "x_train"):
        return _Split(data.x_train, data.y_train, data.x_test, data.y_test, data.n_classes or 2)
    if not (isinstance(data, tuple | list) and len(data) in (2, 4)):
        raise TypeError("data must be a Dataset, (x, y) or (x, y, x_test, y_test)")
    x, y, x_test, y_test = map(plain, (*data, None, None)[:4])
    check_plain(y, "y", "labels (m,) or targets (n, m)")
    labels = y.ndim == 1 and y.size and y.dtype.kind in "iu"
    return _Split(x, y, x_test, y_test, max(2, int(y.max()) + 1) if labels else 2)


def check_split(field: Any, split: _Split, cost: Cost) -> None:
    """Find bad data before the first minibatch."""
    check_data(field, split.x, split.y)
    cost.at(field, split.y)
    x, y = split.x_test, split.y_test
    if x is None and y is None:
        return
    if x is None or y is None:
        raise TypeError("x_test and y_test must both be arrays, or both be left out")
    check_state(field, x, "x_test")
    m = int(x.shape[1])
    check_plain(y, "y_test", f"labels ({m},) or targets ({n_outputs(field)}, {m})")
    array_namespace(x, y)
    if y.ndim == 2 and y.dtype.kind == "f":
        check_targets(y, n_outputs(field), m, "y_test")
    else:
        check_labels(y, check_classes(field, cost.n_classes), m, "y_test")


class _Training:
    """The state of a training run between two minibatches."""

    def __init__(
        self,
        field: Any,
        split: _Split,
        cost: Cost,
        options: Options,
        inner: InnerProduct,
        rng: np.random.Generator,
        team: Team | None = None,
    ) -> None:
        self.field, self.split, self.cost, self.options = field, split, cost, options
        self.inner, self.team = inner, team
        self.rng = rng
        self.eval_every: float | None = None
        self.eval_samples: int | None = None
        self.m = int(split.x.shape[1])
        self.per_epoch = math.ceil(self.m / min(options.batch_size, self.m))
        self.n_batches = max(1, round(options.epochs * self.per_epoch))
        self.order = np.empty(0, np.int64)
        self.batch = self.skipped = self.skipped_in_row = 0
        self.history: dict[str, list[float]] = {name: [] for name in HISTORY}
        self.evaluations: dict[str, list[float]] = {name: [] for name in EVALUATIONS}
        self.memory = Memory()
        self.optimizer: FirstOrderOptimizer | None = None
        if options.method != "ncg":
            self.optimizer = FirstOrderOptimizer(
                options.method, options.learning_rate, field.parameters
            )
        self.problem: Any = None
        self.carried: dict[str, dict[str, Array]] = {}
        self.report: Callback | None = None  # of the progress, also between minibatches
        self.wish = False  # of the report, to stop
        self.interrupted = StopFlag()
        self.data_identity: dict[str, int] | None = None  # once a run: the data do not change
        self.unwritten = ""  # why there is no checkpoint of now

    @property
    def epoch(self) -> float:
        return self.batch / self.per_epoch

    # --- the loop -------------------------------------------------------------------------------

    def go(
        self, callback: Callable[[TrainState], object] | None, checkpoint: Path | None
    ) -> TrainResult:
        status = Status.SUCCESS
        written = -1
        with stop_on_signals() as interrupted:
            self.interrupted = interrupted
            self._tell("compiling")
            while self.batch < self.n_batches:
                self._one_batch()
                if self._evaluation_due():
                    self._evaluate()
                    if checkpoint is not None and self._keep(checkpoint):
                        written = self.batch
                state = self._state()
                stop = callback is not None and callback(state)
                if self.report is not None and self.report(state):
                    stop = True
                if stop or self.wish or interrupted():
                    status = Status.STOPPED
                    break
                if self.skipped_in_row >= MAX_SKIPPED:
                    status = Status.NONFINITE_RHS
                    break
        if status is Status.SUCCESS:
            status = self._status_of_updates()
        # The closing evaluation is not part of the checkpoint: a longer run resumed from it
        # must be the run that never ended here.
        if checkpoint is not None and written != self.batch:
            self._keep(checkpoint)
        if not self.evaluations["epoch"] or self.evaluations["epoch"][-1] != self.epoch:
            self._evaluate()
        if self.problem is not None:
            self.field = released(self.problem, self.field)
        return self._result(status)

    def _tell(self, what: str) -> None:
        self.wish |= tell(self.report, self.batch, self.n_batches, what)

    def _keep(self, checkpoint: Path) -> bool:
        """Write the checkpoint; a full disk must not cost the field that is in memory."""
        try:
            self.write(checkpoint)
        except OSError as error:
            named = error.strerror and f"{error.filename or checkpoint}: {error.strerror}"
            self.unwritten = named or str(error)
            _log.warning("minibatch %d: checkpoint not written: %s", self.batch, self.unwritten)
            return False
        self.unwritten = ""
        return True

    def _one_batch(self) -> None:
        index = self._next_indices()
        xp = array_namespace(self.split.x)
        index = xp.asarray(index)
        x = xp.ascontiguousarray(xp.take(self.split.x, index, axis=1))
        y = xp.take(self.split.y, index, axis=-1)
        self.batch += 1
        try:
            row = self._ncg(x, y) if self.optimizer is None else self._first_order(x, y)
        except NonFiniteCostError:
            self.skipped += 1
            self.skipped_in_row += 1
            row = dict.fromkeys(HISTORY, math.nan)
            _log.warning("minibatch %d skipped: its cost is not finite", self.batch)
        else:
            self.skipped_in_row = 0
        for name in HISTORY:
            self.history[name].append(self.epoch if name == "epoch" else float(row[name]))

    def _next_indices(self) -> np.ndarray[Any, Any]:
        position = self.batch % self.per_epoch
        if position == 0:
            self.order = self.rng.permutation(self.m)
        size = self.options.batch_size
        return self.order[position * size : (position + 1) * size]

    def _problem(self, x: Array, y: Array) -> Any:
        if self.problem is None:
            self.problem = self._make_problem(x, y)
            if self.carried:
                self.problem.restore(self.carried.get("d", {}), self.carried.get("g", {}))
                self.carried = {}
        else:
            self.problem.set_data(self.field, x, y)
        return self.problem

    def _make_problem(self, x: Array, y: Array) -> Any:
        keep = self.optimizer is None and CG_RULES[self.options.rule].needs_previous
        solver = self.options.solver
        if self.team is not None:
            return DistributedProblem(
                self.field, x, y, self.cost, self.inner,
                team=self.team, keep_gradient=keep, solver=solver,
            )  # fmt: skip
        return make_problem(
            self.field, x, y, self.cost, self.inner, keep,
            workspace=Workspace(self.options.threads), solver=solver,
            block_size=self.options.block_size,
        )  # fmt: skip

    def _ncg(self, x: Array, y: Array) -> dict[str, float]:
        problem = self._problem(x, y)
        if self.options.restart:
            problem.forget()
            self.memory = Memory()
        result: NcgResult = minimize(
            problem, rule=self.options.rule, n_iter=self.options.n_iter, memory=self.memory
        )
        self.field = result.field
        h = result.history
        # without an iteration the gradient was 0, or no step lowered the cost
        without_step = 0.0 if result.status is Status.CONVERGED else math.nan
        return {
            "cost": h.cost[0],
            "cost_after": result.fun,
            "step": h.step[-1] if result.nit else math.nan,
            "grad_norm": h.grad_norm[0] if result.nit else without_step,
            "capped": int(h.capped.sum()),
            "restarted": int(h.restarted.sum()),
        }

    def _first_order(self, x: Array, y: Array) -> dict[str, float]:
        assert self.optimizer is not None
        problem = self._problem(x, y)
        before = self.optimizer.count, dict(self.optimizer.state)
        costs, norms = [], []
        for _ in range(self.options.n_iter):
            costs.append(problem.direct())
            if not math.isfinite(costs[-1]):
                break
            problem.forget()
            norms.append(math.sqrt(problem.gradient().gg))
            steps = self.optimizer.steps(problem.g)
            theta = {name: p + steps[name] for name, p in problem.trial.parameters.items()}
            problem.trial = problem.trial.with_parameters(**theta)
        costs.append(problem.direct())
        if not math.isfinite(costs[-1]):  # keep field and moments from before this batch
            self.optimizer.count, self.optimizer.state = before
            raise NonFiniteCostError(costs[-1])
        self.field = problem.base = problem.best = problem.trial
        return {
            "cost": costs[0],
            "cost_after": costs[-1],
            "step": self.optimizer.learning_rate,
            "grad_norm": norms[0],
            "capped": 0,
            "restarted": 0,
        }

    # --- evaluation and results -----------------------------------------------------------------

    def _evaluation_due(self) -> bool:
        if self.eval_every is None:
            return False
        every = max(1, round(self.eval_every * self.per_epoch))
        return self.batch % every == 0

    def _evaluate(self) -> None:
        s = self.split
        self._tell("measuring accuracy")
        self.evaluations["epoch"].append(self.epoch)
        self.evaluations["train_accuracy"].append(self._accuracy(s.x, s.y))
        self.evaluations["test_accuracy"].append(self._accuracy(s.x_test, s.y_test))

    def _accuracy(self, x: Array | None, y: Array | None) -> float:
        if x is None or y is None or y.ndim != 1:
            return math.nan
        first = slice(self.eval_samples)
        try:
            with thread_limit(self.options.threads):
                return accuracy(
                    self.field, x[:, first], y[first],
                    n_classes=self.cost.n_classes, solver=self.options.solver,
                )  # fmt: skip
        except IntegrationError:
            return math.nan

    def _state(self) -> TrainState:
        last = {k: v[-1] for k, v in self.history.items()}
        scores = {k: v[-1] if v else math.nan for k, v in self.evaluations.items()}
        return TrainState(
            self.batch, self.n_batches, self.epoch, last["cost"], last["cost_after"],
            last["step"], last["grad_norm"], scores["train_accuracy"], scores["test_accuracy"],
            self.field,
        )  # fmt: skip

    def _result(self, status: Status) -> TrainResult:
        message = {
            Status.SUCCESS: f"{self.batch} minibatches done",
            Status.STOPPED: f"stopped after {self.batch} of {self.n_batches} minibatches",
            Status.NONFINITE_RHS: self._why_no_cost(),
            Status.NO_DESCENT: f"no update was made: none of {self.batch} minibatches had a finite "
            "cost and a step that lowers it",
        }[status]
        if status is Status.STOPPED and self.interrupted.name:
            message += f" by {self.interrupted.name}"
        if self.unwritten:
            message += f"; the last checkpoint could not be written ({self.unwritten})"
        if self.skipped and status is not Status.NONFINITE_RHS:
            message += f", {self.skipped} of {self.batch} skipped because their cost was not finite"
        return TrainResult(
            self.field,
            {name: np.array(values) for name, values in self.history.items()},
            {name: np.array(values) for name, values in self.evaluations.items()},
            status,
            message,
            self.batch,
            self.epoch,
        )

    def _status_of_updates(self) -> Status:
        """Return whether the run that came to its end has changed anything."""
        if self.skipped == self.batch:
            return Status.NONFINITE_RHS
        rows = zip(self.history["step"], self.history["grad_norm"], strict=True)
        if all(math.isnan(step) and math.isnan(norm) for step, norm in rows):
            return Status.NO_DESCENT
        return Status.SUCCESS

    def _why_no_cost(self) -> str:
        if self.skipped < self.batch:
            return (
                f"{self.skipped} of {self.batch} minibatches had no finite cost, the last "
                f"{self.skipped_in_row} of them in a row"
            )
        return (
            f"no update was made: none of {self.batch} minibatches had a finite cost; start from "
            "smaller weights or a smaller T, or take smaller weights in the cost"
        )

    # --- checkpoints ----------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a resumed run to be the same run."""
        options = {k: v for k, v in asdict(self.options).items() if k not in ("epochs", "solver")}
        if self.options.solver != EULER:
            options["solver"] = repr(self.options.solver)
        if self.data_identity is None:
            split = self.split
            self.data_identity = data_identity(split.x, split.y, split.x_test, split.y_test)
        # a loss of one's own has the same weights as another
        own = {} if type(self.cost) is Cost else {"class": type(self.cost).__qualname__}
        identity = options | {
            "inner": [type(self.inner).__name__, self.inner.length],
            "cost": asdict(self.cost) | own,
            "field": field_identity(self.field),
            **self.data_identity,
        }
        if self.team is not None:
            identity["parts"] = self.team.parts
        plain: dict[str, Any] = _plain(identity)
        return plain

    def write(self, path: Path) -> None:
        """Write everything that the rest of the run depends on."""
        arrays = {f"theta {k}": to_host(v) for k, v in self.field.parameters.items()}
        arrays["order"] = self.order
        for group, table in (("history", self.history), ("evaluation", self.evaluations)):
            arrays |= {f"{group} {k}": np.array(v, dtype=np.float64) for k, v in table.items()}
        if self.optimizer is not None:
            for name, slots in self.optimizer.state.items():
                arrays |= {f"slot {s} {name}": to_host(v) for s, v in slots.items()}
        elif not self.options.restart:
            carried = self.carried if self.problem is None else self.problem.carry()
            for group, table in carried.items():
                arrays |= {f"carry {group} {k}": to_host(v) for k, v in table.items()}
        header = {
            "identity": self._identity(),
            "batch": self.batch,
            "skipped": [self.skipped, self.skipped_in_row],
            "count": self.optimizer.count if self.optimizer else 0,
            "memory": [float(v).hex() for v in (self.memory.gg_old, self.memory.gd_old)],
            "rng": generator_to_text(self.rng),
        }
        save_arrays(path, arrays, {"kind": CHECKPOINT, "format": FORMAT, **header})

    def restore(self, path: Path) -> None:
        """Continue from a file written by `write`."""
        arrays, header = load_arrays(path)
        if header.get("kind") != CHECKPOINT:
            raise ModelFormatError(f"{path} is not a checkpoint of a training run")
        if (found := header.get("format", 1)) != FORMAT:
            age = "a newer" if isinstance(found, int) and found > FORMAT else "an older"
            raise ModelFormatError(
                f"{path} was written by {age} snode, whose checkpoints this one cannot resume: "
                "begin again without resume, with another checkpoint"
            )
        if not isinstance(header.get("identity"), dict):
            raise ModelFormatError(f"{path} is damaged: it does not say which run it is of")
        parts = header["identity"].get("parts")
        if self.team is not None and type(parts) is int and 1 <= parts <= self.m:
            self.team.split_into(parts)  # the split decides the bits, not the number of workers
        self._check_identity(path, header)
        try:
            self._restore(arrays, header)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise ModelFormatError(f"{path} is damaged: {error}") from error

    def _check_identity(self, path: Path, header: dict[str, Any]) -> None:
        ours, theirs = self._identity(), header.get("identity", {})
        different = [k for k in dict.fromkeys([*ours, *theirs]) if ours.get(k) != theirs.get(k)]
        if "parts" in different and None in (ours.get("parts"), theirs.get("parts")):
            one, other = "with", "without"
            if theirs.get("parts") is None:
                one, other = other, one
            raise ModelFormatError(
                f"{path} belongs to another run: that was {one} an executor, this is {other} one"
            )
        if different:
            k = different[0]
            default = repr(EULER) if k == "solver" else None
            there = theirs.get(k, default)
            hint = ""
            if k == "threads":  # decides the rounding; the default follows the cores
                hint = f"; pass threads={there} (--threads {there}) to go on"
            raise ModelFormatError(
                f"{path} belongs to another run: {k} is {there!r} there "
                f"and {ours.get(k, default)!r} here{hint}"
            )

    def _restore(self, arrays: dict[str, Array], header: dict[str, Any]) -> None:
        xp = array_namespace(self.split.x)
        own = self.field.parameters

        def group(prefix: str, what: str) -> dict[str, Array]:
            found = {k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)}
            return {k: xp.asarray(v) for k, v in tensors_from(found, own, what).items()}

        self.field = self.field.with_parameters(**group("theta ", "parameters"))
        self.order = arrays["order"]
        if self.order.dtype != np.int64 or not np.array_equal(
            np.sort(self.order), np.arange(self.m)
        ):
            raise ValueError("its order is not a permutation of the samples")
        self.batch = count_from(header["batch"], "batch")
        self.skipped = count_from(header["skipped"][0], "skipped", self.batch)
        self.skipped_in_row = count_from(header["skipped"][1], "skipped", self.skipped)
        self.history = table_from(arrays, "history", HISTORY, self.batch)
        self.evaluations = table_from(arrays, "evaluation", EVALUATIONS)
        self.memory = Memory(*numbers_from(header["memory"], "memory", 2))
        self.rng = generator_from_text(header["rng"], self.rng)
        if self.optimizer is not None:
            self.optimizer.count = count_from(header["count"], "count")
            for slot in self.optimizer.rule.slots:
                for name, array in group(f"slot {slot} ", slot).items():
                    self.optimizer.state[name][slot] = array
        self.carried = {
            g: group(f"carry {g} ", "direction") if any(k.startswith(f"carry {g} ") for k in arrays)
            else {} for g in ("d", "g")
        }  # fmt: skip


def _plain(value: Any) -> Any:
    """Return `value` as JSON will give it back; NumPy numbers become Python's."""
    return json.loads(json.dumps(value, default=lambda number: number.item()))
