"""`train` and `sweep` on a cluster: equal to one process, and workers may be lost."""

import functools
import logging
import os
import re
import signal
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import snode
from snode import CG_RULES, Cost, ModelFormatError, Status
from snode.training import cluster as cluster_module
from snode.training import distributed, loop
from snode.training import sweep as sweeping

dask_distributed = pytest.importorskip("distributed")
cloudpickle = pytest.importorskip("cloudpickle")
dask = pytest.importorskip("dask")

M, BATCH = 50, 12  # the last batch of an epoch has 2 samples
COST = Cost(n_classes=3)
ALL_TERMS = Cost(l2=0.5, ce=1.0, output=0.1, decay=0.01, n_classes=3)
NAMES = ("epoch", "cost", "cost_after", "step", "grad_norm", "capped", "restarted")


@pytest.fixture(scope="module")
def client():
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with (
        # else a worker that dies twice within this time is not started again
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1 hour"}),
        dask_distributed.LocalCluster(
            n_workers=2, processes=True, threads_per_worker=1, dashboard_address=":0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        dask_distributed.Client(cluster) as client,
    ):  # fmt: skip
        yield client


@pytest.fixture(autouse=True)
def two_workers(client, monkeypatch):
    monkeypatch.setattr(cluster_module, "POLL", 0.2)
    client.wait_for_workers(2, timeout=30)


@pytest.fixture
def lonely():
    """A cluster of one worker, in this process."""
    with (
        dask_distributed.LocalCluster(
            n_workers=1, processes=False, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
        dask_distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def teams(monkeypatch):
    """Return the list of teams that `train` makes from here on."""
    made = []

    class Spy(distributed.Team):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(loop, "Team", Spy)
    return made


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    y = np.arange(M + 20) % 3
    x = rng.normal(0, 0.4, (4, M + 20)) + np.eye(4)[y].T
    return x[:, :M], y[:M], x[:, M:], y[M:]


def layered(interpolation="constant", dtype=np.float64, n=4, K=6):
    rng = np.random.default_rng(5)
    size = K + (interpolation != "constant")
    W, b = 0.5 * rng.standard_normal((size, n, n)), 0.2 * rng.standard_normal((size, n))
    W, b = W.astype(dtype), b.astype(dtype)
    return snode.StandaloneField(W, b, 1.5, interpolation=interpolation)


def run(field, data, cost=COST, **options):
    chosen = {"batch_size": BATCH, "n_iter": 2, "rng": 3, "epochs": 1, "threads": 1}
    return snode.train(field, data, cost, **chosen | options)


def assert_identical(one, two):
    for name, array in one.field.parameters.items():
        assert np.array_equal(array, two.field.parameters[name]), name
    for name in NAMES:
        assert np.array_equal(one.history[name], two.history[name], equal_nan=True), name


def assert_close(one, two, tolerance):
    for name, array in one.field.parameters.items():
        other = two.field.parameters[name]
        assert array.dtype == other.dtype
        assert np.abs(array - other).max() <= tolerance * np.abs(array).max(), name
    for name in ("cost", "cost_after", "grad_norm"):
        assert two.history[name] == pytest.approx(one.history[name], rel=tolerance, abs=tolerance)


# --- the same numbers -----------------------------------------------------------------------------

FIELDS = {
    "cells": layered(),
    "linear": layered("linear"),
    "cubic": layered("cubic"),
    "mlp": snode.MLPField((4, 6, 4), rng=0),
    "read-out": snode.Classifier.random(layered(), 3, rng=0),
}


@pytest.mark.parametrize("rule", CG_RULES)
@pytest.mark.parametrize(
    ("cost", "options"),
    [(COST, {"n_iter": 3}), (ALL_TERMS, {"inner": "h1", "restart": False})],
    ids=["l2", "all terms"],
)
def test_every_rule_is_the_rule_of_one_process(client, data, rule, cost, options):
    one = run(FIELDS["cells"], data, cost, rule=rule, **options)
    two = run(FIELDS["cells"], data, cost, rule=rule, executor=client, **options)
    assert_close(one, two, 1e-9)
    assert np.array_equal(one.history["restarted"], two.history["restarted"])


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize(
    "options",
    [{}, {"inner": snode.H1(0.3)}, {"solver": "rk4"}, {"method": "adam"}],
    ids=["l2", "h1", "rk4", "adam"],
)
def test_every_field_is_the_field_of_one_process(client, data, name, options):
    options = {"epochs": 0.4} | options
    one = run(FIELDS[name], data, ALL_TERMS, **options)
    two = run(FIELDS[name], data, ALL_TERMS, executor=client, **options)
    assert_close(one, two, 1e-9)


def test_float32(client, data):
    x, y, *_ = data
    data32 = x.astype(np.float32), y
    one = run(layered(dtype=np.float32), data32, ALL_TERMS)
    two = run(layered(dtype=np.float32), data32, ALL_TERMS, executor=client)
    assert_close(one, two, 1e-4)


@pytest.mark.parametrize(
    "cost", [Cost(l2=0, decay=1, n_classes=3), Cost(l2=1, decay=5, n_classes=3)]
)
def test_decay_is_counted_once(client, data, cost):
    one = run(FIELDS["cells"], data, cost, epochs=0.5)
    two = run(FIELDS["cells"], data, cost, epochs=0.5, executor=client)
    assert_close(one, two, 1e-9)


def test_targets(client, data):
    x, y, *_ = data
    targets = np.eye(4)[y].T
    assert_identical(
        run(FIELDS["cells"], (x, y), executor=client),
        run(FIELDS["cells"], (x, targets), executor=client),
    )


def test_three_workers_of_one_process(data, teams):
    with (
        dask_distributed.LocalCluster(
            n_workers=3, processes=False, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
        dask_distributed.Client(cluster, set_as_default=False) as client,
    ):
        two = run(FIELDS["cells"], data, ALL_TERMS, executor=client)
    assert teams[-1].parts == 3
    assert teams[-1].sent["weights"] == 3
    assert_close(run(FIELDS["cells"], data, ALL_TERMS), two, 1e-9)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_fewer_samples_than_workers(client, data, m):
    x, y = data[0][:, :m], data[1][:m]
    one, two = run(FIELDS["cells"], (x, y)), run(FIELDS["cells"], (x, y), executor=client)
    assert_close(one, two, 1e-9)


def test_threads_of_a_worker(client, data, teams):
    one = run(FIELDS["cells"], data, executor=client, threads=None, batch_size=M)
    assert teams[-1].threads == 1  # a worker of the cluster has one
    two = run(FIELDS["cells"], data, executor=client, threads=2, batch_size=M)
    assert teams[-1].threads == 2
    assert_close(one, two, 1e-9)


def test_batches_without_a_finite_cost_are_skipped(client, data):
    field = snode.StandaloneField(1e80 * layered().W, layered().b, 1.5, activation="identity")
    one, two = run(field, data, epochs=2), run(field, data, epochs=2, executor=client)
    assert one.status is two.status is Status.NONFINITE_RHS
    assert two.message == one.message
    assert_identical(one, two)


# --- what is sent ---------------------------------------------------------------------------------


def test_weights_are_sent_once_and_sums_are_made_once(client, data, teams, monkeypatch):
    x = np.vstack([data[0]] * 5)  # n = 20
    field = layered(n=20, K=50)
    weights = field.W.nbytes + field.b.nbytes
    sizes, combined = defaultdict(list), []

    def spy(client, task, order, **options):
        sizes[order.what].append(len(cloudpickle.dumps(order, protocol=5)))
        return submit(client, task, order, **options)

    def combine(models):
        combined.append(len(models))
        return snode.training.costs.LineModel.combine(models)

    submit = distributed.submit
    monkeypatch.setattr(distributed, "submit", spy)
    monkeypatch.setattr(
        distributed, "LineModel", type("Spy", (), {"combine": staticmethod(combine)})
    )
    result = run(field, (x, data[1]), rule="FR", n_iter=3, executor=client)
    (team,) = teams
    batches, iterations = 5, 15
    assert result.n_batches == batches
    assert not result.history["restarted"].any()
    assert not result.history["capped"].any()
    assert team.sent == {
        "weights": 2,  # once to each worker
        "columns": 2 * batches,
        "direct": 2 * (batches + iterations),
        "gradient": 2 * iterations,
        "line": 2 * iterations,
        "directions": 2 * iterations,
    }
    assert team.lost == 0
    assert combined == [2] * iterations
    large = {what: [s for s in found if s > 0.9 * weights] for what, found in sizes.items()}
    assert [len(large[what]) for what in ("direct", "gradient", "line")] == [2, 0, 2 * iterations]
    assert max(s for found in large.values() for s in found) < 1.2 * weights
    # a step length, and columns at times: nothing near the weights
    assert sorted(sizes["direct"])[-3] < 0.1 * weights
    assert max(sizes["gradient"]) < 0.1 * weights


def test_workers_forget_a_run(client, data):
    run(FIELDS["cells"], data, executor=client)
    assert list(client.run(lambda: len(distributed._parts)).values()) == [0, 0]


def test_a_worker_that_forgot_is_told_again(client, data, teams):
    whole = run(FIELDS["cells"], data, ALL_TERMS, rule="PR+", restart=False, executor=client)

    def forget(state):
        client.run(lambda: distributed._parts.clear())

    forgetful = run(
        FIELDS["cells"], data, ALL_TERMS, rule="PR+", restart=False,
        executor=client, callback=forget,
    )  # fmt: skip
    assert_identical(whole, forgetful)
    assert teams[-1].lost == 2 * 4  # after each of 5 batches but the last
    assert teams[-1].sent["weights"] == 2 * 5


# --- workers that are lost ------------------------------------------------------------------------

LONG = {"rule": "PR+", "restart": False}


@pytest.mark.parametrize(("name", "killed"), [("cells", [0]), ("mlp", [0, 1])])
def test_a_killed_worker_loses_nothing(client, data, teams, name, killed):
    options = LONG | {"executor": client}
    whole = run(FIELDS[name], data, ALL_TERMS, **options)

    def kill(state):
        if state.batch == 2:
            pids = sorted(client.run(os.getpid).values())
            for i in killed:
                os.kill(pids[i], signal.SIGKILL)

    disturbed = run(FIELDS[name], data, ALL_TERMS, callback=kill, **options)
    assert_identical(whole, disturbed)
    assert teams[-1].lost >= 1
    assert teams[-1].parts == 2


def fall_dead(self, order):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("what", ["direct", "gradient", "line"])
def test_a_worker_that_dies_at_work_loses_nothing(client, data, teams, what):
    options = LONG | {"executor": client}
    whole = run(FIELDS["cells"], data, ALL_TERMS, **options)

    def plant(state):
        if state.batch == 2:
            first = min(client.nthreads())
            client.run(setattr, distributed._Part, what, fall_dead, workers=[first])

    disturbed = run(FIELDS["cells"], data, ALL_TERMS, callback=plant, **options)
    assert_identical(whole, disturbed)
    assert teams[-1].lost >= 1


def test_cancelled_orders_are_given_again(client, data, teams, monkeypatch):
    # this is what a restart of the cluster looks like from here
    whole = run(FIELDS["cells"], data, ALL_TERMS, executor=client)
    submit, orders = distributed.submit, []

    def cancels(*args, **options):
        future = submit(*args, **options)
        orders.append(future.key)
        if len(orders) in (5, 12, 13):
            future.cancel()
        return future

    monkeypatch.setattr(distributed, "submit", cancels)
    assert_identical(whole, run(FIELDS["cells"], data, ALL_TERMS, executor=client))
    assert teams[-1].lost == 3


def worker_pids(client):
    return client.run(os.getpid)


@pytest.fixture
def stop(client):
    """Return a function that stops workers; they go on at the end of the test."""
    stopped = []

    def stop(pid):
        stopped.append(pid)
        os.kill(pid, signal.SIGSTOP)

    yield stop
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    client.run(os.getpid)  # they answer again


@pytest.fixture
def short_patience(monkeypatch):
    for name, value in {"PATIENCE": 1.0, "USUAL_TIMES": 1.0}.items():
        monkeypatch.setattr(distributed, name, value)
    monkeypatch.setattr(cluster_module, "CLOSE_TIMEOUT", 1.0)


@pytest.mark.parametrize(
    ("name", "method"), [("cells", "ncg"), pytest.param("mlp", "adam", marks=pytest.mark.slow)]
)
def test_a_worker_that_hangs_costs_time_only(
    client, data, teams, stop, short_patience, caplog, name, method
):
    options = {"method": method, "executor": client}
    whole = run(FIELDS[name], data, ALL_TERMS, **options)
    address, pid = min(worker_pids(client).items())
    caplog.clear()

    def hang(state):
        if state.batch == 2:
            stop(pid)

    disturbed = run(FIELDS[name], data, ALL_TERMS, callback=hang, **options)
    assert_identical(whole, disturbed)
    assert address in caplog.text
    assert "has not answered an order" in caplog.text
    assert address not in teams[-1].homes  # nor was it asked again


def test_all_workers_hang(client, data, teams, stop, short_patience, caplog):
    whole = run(FIELDS["cells"], data, ALL_TERMS, executor=client)
    pids = worker_pids(client)

    def hang(state):
        if state.batch == 3:
            for pid in pids.values():
                stop(pid)

    disturbed = run(FIELDS["cells"], data, ALL_TERMS, callback=hang, executor=client)
    assert_identical(whole, disturbed)
    assert all(address in caplog.text for address in pids)
    assert "computed in this process" in caplog.text
    assert teams[-1].homes == [distributed.HERE] * 2


def test_a_worker_that_answers_again_gets_its_part_back(
    client, data, teams, stop, short_patience, monkeypatch
):
    whole = run(FIELDS["cells"], data, ALL_TERMS, executor=client, epochs=2)
    address, pid = min(worker_pids(client).items())

    def hang(state):
        if state.batch == 2:
            stop(pid)
        if state.batch == 4:
            assert address not in teams[-1].homes
            os.kill(pid, signal.SIGCONT)
            dask_distributed.wait(list(teams[-1].silent.values()), timeout=30)

    disturbed = run(FIELDS["cells"], data, ALL_TERMS, callback=hang, executor=client, epochs=2)
    assert_identical(whole, disturbed)
    assert address in teams[-1].homes


def test_a_worker_slow_with_its_first_orders_is_not_asked_forever(client, data, teams, monkeypatch):
    # each order takes longer than the patience at first: it grows, and late answers count
    for name in ("PATIENCE", "USUAL_TIMES"):
        monkeypatch.setattr(distributed, name, 1e-3)
    whole = run(FIELDS["cells"], data, ALL_TERMS, executor=client)
    monkeypatch.undo()
    assert_identical(whole, run(FIELDS["cells"], data, ALL_TERMS, executor=client))


# --- workers of another version -------------------------------------------------------------------


def take_away(name):
    setattr(distributed, "_kept" + name, getattr(distributed, name))
    delattr(distributed, name)


def give_back(name):
    setattr(distributed, name, getattr(distributed, "_kept" + name))


@pytest.mark.parametrize(
    "name", ["_Order", *(pytest.param(n, marks=pytest.mark.slow) for n in ("_carry_out", "_Share"))]
)
def test_a_worker_of_another_version_is_left_out(client, data, teams, caplog, name):
    whole = run(FIELDS["cells"], data, ALL_TERMS, executor=client)
    before, foreign = set(client.nthreads()), min(client.nthreads())
    client.run(take_away, name, workers=[foreign])
    try:
        assert_identical(whole, run(FIELDS["cells"], data, ALL_TERMS, executor=client))
        assert list(teams[-1].foreign) == [foreign]
        assert foreign in caplog.text
        client.run(take_away, name, workers=list(before - {foreign}))
        try:
            with pytest.raises(
                RuntimeError, match=rf"cannot read an order: .*{name}.*it has snode"
            ):
                run(FIELDS["cells"], data, executor=client)
        finally:
            client.run(give_back, name, workers=list(before - {foreign}))
    finally:
        client.run(give_back, name, workers=[foreign])
    assert set(client.nthreads()) == before  # none was lost by it


def test_an_order_that_kills_every_worker_says_so(client, data):
    def rhs(t, x):
        os.kill(os.getpid(), signal.SIGKILL)

    message = r"4 workers were lost while they worked on the same order \(part \d, direct\).*memory"
    with pytest.raises(RuntimeError, match=message):
        run(snode.FunctionField(rhs, 4), data, executor=client)


MEMORY = {"worker": "tcp://10.0.0.1:4000", "pid": 3, "rss": 3.2e9}
LOST = {
    "action": "remove-worker", "worker": "tcp://10.0.0.2:4000", "expected": False,
    "processing-tasks": {"some"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ({}, ""),
        ({"all": [LOST]}, r"tcp://10\.0\.0\.2:4000 was lost at work: killed, out of memory"),
        ({"all": [LOST | {"expected": True}]}, ""),
        ({"all": [LOST | {"processing-tasks": set()}]}, ""),
        (
            {"all": [LOST], "worker-restart-memory": [MEMORY]},
            r"dask ended tcp://10\.0\.0\.1:4000, which used 3\.2 GB: more than its memory_limit",
        ),
    ],
)
def test_the_cause_of_a_loss_is_in_the_error(events, words):
    class Client:
        def get_events(self, topic):
            return tuple((0.0, event) for event in events.get(topic, ()))

    message = cluster_module._no_worker(Client())
    assert re.search(words, message)
    assert (";" in message) == bool(words)


def test_no_worker_at_all(lonely, data, monkeypatch):
    monkeypatch.setattr(cluster_module, "WORKER_TIMEOUT", 0.5)

    def dismiss(state):
        # not retire_workers: the scheduler refuses it while the worker alone holds a result
        for worker in lonely.cluster.workers.values():
            lonely.cluster.sync(worker.close)

    for callback in (dismiss, None):  # in the middle, and from the start
        with pytest.raises(TimeoutError, match=r"executor has had no worker for 0\.5 seconds"):
            run(FIELDS["cells"], data, executor=lonely, callback=callback)


def test_an_error_of_the_field_comes_back(client, data):
    def rhs(t, x):
        raise RuntimeError("my own mistake")

    field = snode.FunctionField(rhs, 4)
    with pytest.raises(RuntimeError, match="my own mistake"):
        run(field, data, executor=client)
    run(FIELDS["cells"], data, executor=client)  # the cluster is as good as before


# --- checkpoints ----------------------------------------------------------------------------------


def test_a_run_goes_on_whatever_the_number_of_workers(client, lonely, data, tmp_path):
    for options in (LONG, {"method": "adam"}):
        file = tmp_path / f"{len(options)}.safetensors"
        whole = run(FIELDS["cells"], data, ALL_TERMS, executor=client, **options)
        for executor in (client, lonely, client):
            stopped = run(
                FIELDS["cells"], data, ALL_TERMS, executor=executor, checkpoint=file, resume=True,
                callback=lambda state: state.batch in (2, 4), **options,
            )  # fmt: skip
        assert stopped.status is Status.SUCCESS
        assert_identical(whole, stopped)


def test_a_run_of_one_process_is_another_run(client, data, tmp_path):
    file = tmp_path / "run.safetensors"
    run(FIELDS["cells"], data, checkpoint=file, epochs=0.4)
    with pytest.raises(ModelFormatError, match="that was without an executor, this is with one"):
        run(FIELDS["cells"], data, checkpoint=file, resume=True, executor=client)
    file.unlink()
    run(FIELDS["cells"], data, checkpoint=file, epochs=0.4, executor=client)
    with pytest.raises(ModelFormatError, match="that was with an executor, this is without one"):
        run(FIELDS["cells"], data, checkpoint=file, resume=True)


# --- sweeps ---------------------------------------------------------------------------------------

GRID = {"seed": [0, 1, 2], "rule": ["FR", "SD"], "batch_size": [10, 0]}


def start(seed):
    return snode.StandaloneField.random(4, 2.0, 5, rng=seed)


def assert_same_sweep(one, two):
    for i, (mine, theirs) in enumerate(zip(one.rows, two.rows, strict=True)):
        same = {k: v for k, v in vars(mine).items() if k != "seconds"}
        for name, value in same.items():
            assert repr(getattr(theirs, name)) == repr(value), (i, name)  # NaN is NaN
        if mine.finished:
            for name, array in one.field(i).parameters.items():
                assert np.array_equal(array, two.field(i).parameters[name])


def test_a_sweep_on_a_cluster_is_the_sweep_here(client, data, tmp_path):
    here = snode.sweep(start, data, GRID, COST, n_iter=2)
    assert [row.status for row in here.rows] == ["SUCCESS", "FAILED"] * 6
    seen = []
    there = snode.sweep(
        start, data, GRID, COST, n_iter=2, executor=client, folder=tmp_path, callback=seen.append
    )
    assert_same_sweep(here, there)
    assert sorted(map(id, seen)) == sorted(map(id, there.rows))
    # and one process goes on where the cluster stopped
    again = snode.sweep(start, data, GRID, COST, n_iter=2, folder=tmp_path)
    assert_same_sweep(here, again)
    assert [r.seconds for r in again.rows if r.finished] == [
        r.seconds for r in there.rows if r.finished
    ]


@functools.wraps(snode.train)
def die(*args, **options):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_sweep_survives_a_killed_worker(client, data):
    grid = {"seed": [0, 1, 2], "rule": ["FR", "SD"]}
    here = snode.sweep(start, data, grid, COST)
    client.run(setattr, sweeping, "train", die, workers=[min(client.nthreads())])
    before = set(client.nthreads())
    there = snode.sweep(start, data, grid, COST, executor=client)
    assert_same_sweep(here, there)
    assert set(client.nthreads()) != before


def test_a_stopped_sweep_leaves_no_work_behind(client, data):
    grid = {"seed": list(range(20))}
    result = snode.sweep(start, data, grid, COST, executor=client, callback=lambda row: True)
    assert sum(row.status == "SUCCESS" for row in result.rows) == 1
    assert sum(row.status == "NOT_RUN" for row in result.rows) == 19


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", [3, "tcp://localhost:1", ThreadPoolExecutor(1)])
def test_other_executors_are_refused(data, executor):
    message = r"executor must be a dask\.distributed\.Client .*; got " + type(executor).__name__
    with pytest.raises(TypeError, match=message):
        run(FIELDS["cells"], data, executor=executor)
    with pytest.raises(TypeError, match=message):
        snode.sweep(start, data, [{}], COST, executor=executor)
