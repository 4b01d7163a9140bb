"""Training on several machines: the samples of a minibatch are split over dask workers.

The driver keeps the parameters, the gradient and the direction. A worker keeps its columns, a copy
of the parameters, and the trajectory. In each iteration the partial derivatives come back from the
workers and are summed once, the direction goes out once, the models of the cost along it come back
and are summed once, and from then on a step length is all that is sent: the workers form
theta + step d themselves, by the same function as the driver, so the bits are the same.

A worker that is lost costs time only, and so does one that stops answering: its order is given to
another one too, and the first answer counts. Everything that is sent has a number, an order names
the numbers it needs, and a worker without them says so and gets them. The split of the columns and
the order of the sums never depend on which worker does what, so nor does the result.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count, pairwise
from statistics import median_low
from threading import Lock
from typing import Any
from uuid import uuid4

import numpy as np

from snode.backend import Array, single_threaded_blas
from snode.ode.problems import Solver
from snode.threads import check_threads
from snode.training.cluster import (
    check_client,
    check_losses,
    everywhere,
    submit,
    wait_for_any,
    workers_of,
)
from snode.training.costs import Cost, LineModel, TerminalCost, parameter_line
from snode.training.gradients import EULER, FieldProblem, moved
from snode.training.hotpath import Workspace
from snode.training.innerproducts import Euclidean, InnerProduct
from snode.training.ncg import make_problem

__all__ = ["DistributedProblem", "Team"]

_log = logging.getLogger("snode")

PATIENCE = 20.0
"""Seconds after which a worker that has not answered an order is taken for silent ..."""

USUAL_TIMES = 10.0
"""... or this many times the usual seconds of such an order, if that is longer."""

REMEMBERED = 9
"""Orders of a kind whose median time is the usual one."""

HERE = "here"
"""The home of a part that no worker can do."""

MAX_PARTS = 8
"""Parts that a worker keeps; one that it has dropped is sent again when it is needed."""


@dataclass(frozen=True)
class _Share(Cost):
    """A cost for some of `m` samples: the mean is over all of them, and there is no decay term."""

    m: int = 1

    @staticmethod
    def of(cost: Cost, m: int) -> _Share:
        return _Share(cost.l2, cost.ce, cost.output, 0.0, cost.n_classes, m)

    def __post_init__(self) -> None:
        pass  # where decay is the only term, nothing is left for the workers, and that is right

    def at(self, field: Any, y: Array) -> TerminalCost:
        """Return the cost of these samples."""
        terminal = super().at(field, y)
        terminal.m = self.m
        return terminal


# --- on the worker --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Order:
    """What a worker is asked to do, with the numbers of the things it needs for that.

    `recipe` is (base, step, direction): how to form the parameters `theta` where they are not
    known. `parcels` are the things that the driver believes the worker lacks. All but those with
    a number in `keep` may be dropped.
    """

    run: str
    part: int
    what: str
    cost: _Share
    solver: Solver
    threads: int
    batch: int
    theta: int
    direction: int
    recipe: tuple[int, float, int] | None
    keep: frozenset[int]
    parcels: dict[int, Any]


@dataclass(frozen=True, eq=False)
class _Reply:
    worker: str
    value: Any
    missing: bool = False


class _Part:
    """A worker's columns of one run, and what it knows about them."""

    def __init__(self, threads: int) -> None:
        self.store: dict[int, Any] = {}
        self.workspace = Workspace(threads)
        self.lock = Lock()
        self.problem: Any = None
        self.batch: int | None = None
        self.solved: tuple[int, int] | None = None
        self.cost = 0.0

    def carry_out(self, order: _Order) -> tuple[Any, bool]:
        """Return the answer, and whether it is missing because something else is."""
        known = self.store | order.parcels
        self.store = {number: known[number] for number in known if number in order.keep}
        field = self._field(order)
        wanted = {order.batch} | ({order.direction} if order.what == "line" else set())
        if field is None or not wanted <= set(self.store):
            return None, True
        if self.solved != (order.theta, order.batch):
            self._solve(field, order)
        return getattr(self, order.what)(order), False

    def _field(self, order: _Order) -> Any:
        if order.theta not in self.store and order.recipe is not None:
            base, step, d = order.recipe
            if base in self.store and d in self.store:
                self.store[order.theta] = moved(self.store[base], step, self.store[d])
        return self.store.get(order.theta)

    def _solve(self, field: Any, order: _Order) -> None:
        if self.batch != order.batch:
            x, y = self.store[order.batch]
            # the metric is the driver's: a Euclidean gradient is the partial derivatives
            self.problem = make_problem(
                field, x, y, order.cost, Euclidean(), False,
                workspace=self.workspace, solver=order.solver,
            )  # fmt: skip
            self.batch = order.batch
        self.problem.base = self.problem.trial = self.problem.best = field
        self.cost = self.problem.direct()
        self.solved = order.theta, order.batch

    def direct(self, order: _Order) -> float:
        return self.cost

    def gradient(self, order: _Order) -> dict[str, Array]:
        self.problem.forget()
        self.problem.gradient()
        partials: dict[str, Array] = self.problem.g
        return partials

    def line(self, order: _Order) -> LineModel:
        self.problem.restore(self.store[order.direction], {})
        model: LineModel = self.problem.line()
        return model


_parts: dict[tuple[str, int], _Part] = {}


def _carry_out(order: _Order) -> _Reply:
    """Run an order; this is the task that dask sees."""
    from distributed import get_worker

    key = order.run, order.part
    part = _parts.pop(key, None) or _Part(order.threads)
    _parts[key] = part  # the last one used stands last
    while len(_parts) > MAX_PARTS:
        del _parts[next(iter(_parts))]
    return _Reply(get_worker().address, *_work(part, order))


def _work(part: _Part, order: _Order) -> tuple[Any, bool]:
    quiet = np.errstate(over="ignore", invalid="ignore")  # it shows in the cost, which is checked
    with part.lock, quiet, single_threaded_blas(order.threads == 1):
        return part.carry_out(order)


def _forget_run(run: str) -> None:
    for key in [key for key in _parts if key[0] == run]:
        _parts.pop(key, None)


# --- on the driver --------------------------------------------------------------------------------


@dataclass(eq=False)
class _Sent:
    """An order on its way: what dask promised, the worker that has it, and since when."""

    what: str
    future: Any
    home: str
    at: float


class Team:
    """The workers of one run: sends orders, and sends again what was lost with a worker.

    Parameters
    ----------
    client : dask.distributed.Client
    threads : int, optional
        Threads of a worker for its columns; default the smallest number of threads that a worker
        of the cluster has.

    Attributes
    ----------
    parts : int
        Into how many parts a minibatch is split: the number of workers at the start.
    homes : list of str
        The worker of each part, or `HERE`.
    sent : Counter
        How many weights, columns, directions and orders were sent, counted for each part.
    lost : int
        How often a worker did not have what it needed, so that it was sent again.
    """

    def __init__(self, client: Any, threads: int | None = None) -> None:
        check_client(client)
        workers = workers_of(client)
        self.client, self.run = client, uuid4().hex
        self.threads = check_threads(min(workers.values()) if threads is None else threads)
        self.sent: Counter[str] = Counter()
        self.lost = 0
        self.silent: dict[str, Any] = {}  # workers that do not answer, what they have not answered
        self.foreign: dict[str, str] = {}  # workers that cannot read an order, and why
        self.times: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self.split_into(len(workers))

    def split_into(self, parts: int) -> None:
        """Change the number of parts (before the first order)."""
        workers = list(workers_of(self.client))
        self.parts = parts
        self.homes = [workers[part % len(workers)] for part in range(parts)]
        self.holds: list[set[int]] = [set() for _ in range(parts)]
        self.here = [_Part(self.threads) for _ in range(parts)]

    def settle(self) -> None:
        """Give parts that share a worker, or have none, one of their own where there is one."""
        if len(set(self.homes)) == self.parts and HERE not in self.homes:
            return
        free = [worker for worker in self._able() if worker not in self.homes]
        for part, home in enumerate(self.homes):
            if free and (home == HERE or home in self.homes[:part]):
                self._move(part, free.pop())

    def ask(self, order_for: Callable[[int, set[int]], _Order], parts: int) -> list[Any]:
        """Return the answers of the parts, in their order.

        ``order_for(part, holds)`` makes the order for a part that has the things numbered `holds`.
        """
        sent = [self._send(order_for, part) for part in range(parts)]
        return [self._answer(order_for, part, first) for part, first in enumerate(sent)]

    def _send(self, order_for: Callable[[int, set[int]], _Order], part: int) -> _Sent | None:
        home = self.homes[part]
        if home == HERE:
            return None  # it is done when its turn comes
        order = order_for(part, self.holds[part])
        held = self.holds[part] | set(order.parcels) | {order.theta}
        self.holds[part] = held & order.keep
        self.sent[order.what] += 1
        # to nobody else: dask would count one that hangs among the idle ones
        future = submit(self.client, _carry_out, order, sealed=True, workers=[home])
        return _Sent(order.what, future, home, time.monotonic())

    def _answer(
        self, order_for: Callable[[int, set[int]], _Order], part: int, first: _Sent | None
    ) -> Any:
        newest, open_, lost = first, [first] if first else [], []
        try:
            while newest is not None:
                done = self._wait(open_, newest)
                for sent in done:
                    open_.remove(sent)
                    reply = self._read(sent)
                    if reply is not None and not reply.missing:
                        return reply.value
                if not done and newest.home not in self.silent:
                    open_.remove(newest)
                    newest.future.cancel()  # it waits for a worker that never comes back
                    lost.append(newest.home)
                    check_losses(self.client, lost, f"part {part + 1}, {newest.what}")
                if not done or newest in done:
                    newest = self._send_again(order_for, part)
                    open_ += [newest] if newest else []
        finally:
            for sent in open_:
                if sent.future is not self.silent.get(sent.home):
                    sent.future.cancel()
        # the whole order, which a part in this process takes without copying anything
        return _work(self.here[part], order_for(part, set()))[0]

    def _send_again(self, order_for: Callable[[int, set[int]], _Order], part: int) -> _Sent | None:
        self.lost += 1
        workers, home = self._able(), self.homes[part]
        if home not in workers:
            home = min(workers, key=self.homes.count) if workers else HERE
        self._move(part, home)
        return self._send(order_for, part)

    def _wait(self, open_: list[_Sent], newest: _Sent) -> list[_Sent]:
        """Return those that are done; none if the newest is lost, or its worker silent."""
        usual = median_low(self.times[newest.what] or [0.0])
        patience = max(PATIENCE, USUAL_TIMES * usual)
        due = newest.at + patience * 2 ** (len(open_) - 1)
        futures = [sent.future for sent in open_]
        done = wait_for_any(self.client, futures, newest.home, due)
        if not done and newest.home in self.client.nthreads():
            self.silent[newest.home] = newest.future
            _log.warning(
                "worker %s has not answered an order for %.0f seconds; another does its work",
                newest.home, time.monotonic() - newest.at,
            )  # fmt: skip
        return [sent for sent in open_ if sent.future in done]

    def _read(self, sent: _Sent) -> _Reply | None:
        """Return the reply; None if there is none, but another worker may have one."""
        try:
            reply = sent.future.result()
        except CancelledError:  # by a restart of the cluster
            return None
        if isinstance(reply, _Reply):
            if not reply.missing:
                self.times[sent.what].append(time.monotonic() - sent.at)
            return reply
        why = f"worker {sent.home} cannot read an order: {reply}; it needs the snode of the caller"
        self.foreign[sent.home] = why
        _log.warning("%s; it is left out", why)
        return None

    def _able(self) -> list[str]:
        """Return the workers that answer and understand.

        Raises
        ------
        RuntimeError
            If no worker understands.
        """
        workers = workers_of(self.client)
        for worker, future in list(self.silent.items()):
            if worker not in workers or future.done():
                future.cancel()
                del self.silent[worker]
        if set(workers) <= set(self.foreign):
            raise RuntimeError(self.foreign[next(iter(workers))])
        return [w for w in workers if w not in self.silent and w not in self.foreign]

    def _move(self, part: int, home: str) -> None:
        if home == HERE != self.homes[part]:
            _log.warning("no worker answers; part %d is computed in this process", part + 1)
        self.homes[part] = home
        self.holds[part].clear()

    def close(self) -> None:
        """Free the memory of the workers; those that do not answer free theirs when they do."""
        with suppress(OSError, TimeoutError, CancelledError):
            for future in self.silent.values():
                future.cancel()
            if self.client.status == "running":
                everywhere(self.client, _forget_run, self.run, silent=self.silent)


class DistributedProblem(FieldProblem):
    """A `FieldProblem` whose three problems are solved by a team; works for any field.

    The decay term, the metric, the gradient and the direction are the driver's.
    """

    def __init__(
        self,
        field: Any,
        x: Array,
        y: Array,
        cost: Cost,
        inner: str | InnerProduct = "l2",
        *,
        team: Team,
        keep_gradient: bool = False,
        solver: Solver = EULER,
    ) -> None:
        self.team = team
        self.numbers: dict[int, Any] = {}
        self.next_number = count(1)
        self.recipe: tuple[Any, int, float, int] | None = None
        super().__init__(field, x, y, cost, inner, keep_gradient=keep_gradient, solver=solver)

    def set_data(self, field: Any, x: Array, y: Array) -> None:
        """Start again from `field` on other data; the direction stays."""
        super().set_data(field, x, y)
        m = int(x.shape[1])
        self.share = _Share.of(self.cost, m)
        bounds = np.linspace(0, m, min(self.team.parts, m) + 1).astype(int)
        self.slices = [slice(a, b) for a, b in pairwise(bounds)]
        # Columns go to their worker with the minibatch: in an epoch each is sent once, as it would
        # be if the data were sent at the start, and no worker has to hold more than its share.
        self.batch = (x, y)
        self.team.settle()

    def direct(self) -> float:
        """Solve the direct problem for the trial parameters and return the cost."""
        cost: float = sum(self._ask("direct"))
        return cost + self.cost.decay_value(self.trial)

    def terminal_partials(self) -> dict[str, Array]:
        """Solve the adjoint problem; return the partial derivatives of the cost without decay."""
        first, *others = self._ask("gradient")
        partials = {name: partial.copy() for name, partial in first.items()}
        for other in others:
            for name, partial in other.items():
                partials[name] += partial
        return partials

    def line(self) -> LineModel:
        """Solve the sensitivity problem along d and return the model of the cost."""
        model = LineModel.combine(self._ask("line"))
        slope, curvature = parameter_line(self.cost, self.trial, self.d)
        return replace(model, constant=model.constant + slope, linear=model.linear + curvature)

    def move(self, step: float) -> None:
        """Set the trial parameters to base + step d."""
        super().move(step)
        self.recipe = self.trial, self._number(self.base), step, self._number(self.d)

    # --- what the workers are told --------------------------------------------------------------

    def _number(self, thing: Any) -> int:
        """Return the number under which the workers know a thing; a new one if they do not."""
        for number, known in self.numbers.items():
            if known is thing:
                return number
        number = next(self.next_number)
        self.numbers[number] = thing
        return number

    def _ask(self, what: str) -> list[Any]:
        used = (self.base, self.trial, self.best, self.d, self.batch)
        keep = frozenset(self._number(thing) for thing in used)
        self.numbers = {number: self.numbers[number] for number in keep}
        return self.team.ask(
            lambda part, holds: self._order(what, keep, part, holds), len(self.slices)
        )

    def _order(self, what: str, keep: frozenset[int], part: int, holds: set[int]) -> _Order:
        batch, theta, d = (self._number(t) for t in (self.batch, self.trial, self.d))
        recipe = None
        if self.recipe is not None and self.recipe[0] is self.trial:
            _, base, step, direction = self.recipe
            recipe = (base, step, direction) if {base, direction} <= keep else None
        needs = {batch} | ({d} if what == "line" else set())
        if theta not in holds:
            needs |= {theta} if recipe is None else {recipe[0], recipe[2]}
        return _Order(
            self.team.run, part, what, self.share, self.solver, self.team.threads,
            batch, theta, d, recipe, keep, self._parcels(needs - holds, part),
        )  # fmt: skip

    def _parcels(self, numbers: set[int], part: int) -> dict[int, Any]:
        parcels = {}
        for number in numbers:
            thing = self.numbers[number]
            if thing is self.batch:
                columns, (x, y) = self.slices[part], thing
                thing = np.ascontiguousarray(x[:, columns]), np.ascontiguousarray(y[..., columns])
                self.team.sent["columns"] += 1
            else:
                self.team.sent["directions" if thing is self.d else "weights"] += 1
            parcels[number] = thing
        return parcels
