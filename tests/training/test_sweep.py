"""Sweeps in this process: equal to loops of `train`, failures as rows, folders that go on."""

import functools
import json
import math
import os
import signal
import sys

import numpy as np
import pytest

import snode
from snode import Cost, ModelFormatError
from snode.training import sweep as module

COST = Cost(n_classes=3)
GRID = {"seed": [0, 1], "rule": ["FR", "SD"]}
OPTIONS = {"epochs": 2, "batch_size": 20, "n_iter": 2}


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    y = np.arange(70) % 3
    x = rng.normal(0, 0.4, (4, 70)) + np.eye(4)[y].T
    return x[:, :50], y[:50], x[:, 50:], y[50:]


def start(seed, n_layers=5):
    return snode.StandaloneField.random(4, 2.0, n_layers, rng=seed)


def assert_same_field(one, two):
    assert type(one) is type(two)
    for name, array in one.parameters.items():
        assert np.array_equal(array, two.parameters[name]), name


@pytest.fixture
def trained(monkeypatch):
    """Return the list of calls of `train` that follow."""
    calls = []

    @functools.wraps(snode.train)
    def spy(field, data, **options):
        calls.append(options)
        return snode.train(field, data, **options)

    monkeypatch.setattr(module, "train", spy)
    return calls


def without_seconds(rows):
    return [{k: v for k, v in vars(row).items() if k != "seconds"} for row in rows]


# --- what a sweep is ------------------------------------------------------------------------------


def test_a_sweep_is_a_loop_of_train(data):
    seen = []
    result = snode.sweep(start, data, GRID, COST, callback=seen.append, **OPTIONS)
    assert result.success
    assert tuple(seen) == result.rows
    cases = [(seed, rule) for seed in (0, 1) for rule in ("FR", "SD")]
    assert [(r.options["seed"], r.options["rule"]) for r in result.rows] == cases
    for i, (seed, rule) in enumerate(cases):
        alone = snode.train(start(seed), data, COST, rule=rule, rng=seed, threads=1, **OPTIONS)
        assert_same_field(result.field(i), alone.field)
        row = result.rows[i]
        assert row.status == "SUCCESS"
        assert row.message == alone.message
        assert row.train_accuracy == alone.evaluations["train_accuracy"][-1]
        assert row.test_accuracy == alone.evaluations["test_accuracy"][-1]
        assert row.cost_after == alone.history["cost_after"][-1]
        assert row.n_batches == alone.n_batches
        assert row.seconds > 0
    assert result.files == (None,) * 4
    best = max(row.test_accuracy for row in result.rows)
    assert f"4 of 4 runs finished, best test accuracy {best:.4f}" in repr(result)


def test_a_list_of_runs_and_options_of_their_own(data):
    field = start(3)
    cost = Cost(l2=0, ce=1, n_classes=3)
    runs = [{}, {"cost": cost}, {"method": "adam", "batch_size": 10}]
    result = snode.sweep(field, data, runs, COST, **OPTIONS)
    options = [{"cost": COST}, {"cost": cost}, {"cost": COST, "method": "adam", "batch_size": 10}]
    for i, own in enumerate(options):
        alone = snode.train(field, data, rng=0, threads=1, **OPTIONS | own)
        assert_same_field(result.field(i), alone.field)
    assert result.rows[0].options == {"seed": 0}


def test_options_that_are_not_trains_make_the_field(data):
    result = snode.sweep(start, data, {"n_layers": [3, 6]}, COST, **OPTIONS)
    assert [result.field(i).n_layers for i in (0, 1)] == [3, 6]
    assert_same_field(
        result.field(1), snode.train(start(0, 6), data, COST, rng=0, threads=1, **OPTIONS).field
    )


def test_a_run_that_fails_is_a_row(data):
    runs = [{"batch_size": 0}, {"batch_size": 20}, {"n_layers": -1}]
    result = snode.sweep(start, data, runs, COST, epochs=1)
    assert [row.status for row in result.rows] == ["FAILED", "SUCCESS", "FAILED"]
    assert not result.success
    message = result.rows[0].message
    assert message == "ValueError: batch_size must be a positive integer; got 0"
    assert math.isnan(result.rows[0].test_accuracy)
    assert "1 of 3 runs finished" in repr(result)
    with pytest.raises(ValueError, match="run 0 has no field: FAILED, ValueError: batch_size"):
        result.field(0)


def test_the_callback_stops_a_sweep(data):
    seen = []
    result = snode.sweep(
        start, data, GRID, COST, callback=lambda row: seen.append(row) or len(seen) == 2, **OPTIONS
    )
    assert [row.status for row in result.rows] == ["SUCCESS", "SUCCESS", "NOT_RUN", "NOT_RUN"]
    assert not result.success


# --- folders --------------------------------------------------------------------------------------


def test_a_folder_is_gone_on_with(data, tmp_path, trained):
    whole = snode.sweep(start, data, GRID, COST, **OPTIONS)
    folder, seen = tmp_path / "new" / "sweep", []
    trained.clear()

    def stop(row):
        seen.append(row)
        return len(seen) == 3

    first = snode.sweep(start, data, GRID, COST, folder=folder, callback=stop, **OPTIONS)
    assert len(trained) == 3
    assert [f is not None and f.exists() for f in first.files] == [True, True, True, False]
    second = snode.sweep(start, data, GRID, COST, folder=folder, **OPTIONS)
    assert len(trained) == 4
    third = snode.sweep(start, data, GRID, COST, folder=folder, **OPTIONS)
    assert len(trained) == 4  # nothing was left to do
    for result in (second, third):
        assert without_seconds(result.rows) == without_seconds(whole.rows)
        for i in range(4):
            assert_same_field(result.field(i), whole.field(i))
    manifest = snode.load(third.files[1]).manifest
    assert manifest == {"options": {"seed": 0, "rule": "SD"}}
    # more runs may join them
    more = GRID | {"seed": [0, 1, 2]}
    assert snode.sweep(start, data, more, COST, folder=folder, **OPTIONS).success
    assert len(trained) == 6
    assert sorted(p.suffix for p in folder.iterdir()) == [".json"] * 7 + [".safetensors"] * 6


def test_a_failed_run_is_run_again(data, tmp_path, monkeypatch):
    broken = []

    def sometimes(seed):
        if seed == 1 and not broken:
            broken.append(seed)
            raise MemoryError("for now")
        return start(seed)

    runs = {"seed": [0, 1]}
    first = snode.sweep(sometimes, data, runs, COST, folder=tmp_path, **OPTIONS)
    assert [row.status for row in first.rows] == ["SUCCESS", "FAILED"]
    assert first.rows[1].message == "MemoryError: for now"
    assert first.files[1] is None
    second = snode.sweep(sometimes, data, runs, COST, folder=tmp_path, **OPTIONS)
    assert second.success


def test_no_test_data_in_a_folder(data, tmp_path):
    x, y, *_ = data
    for _ in range(2):
        (row,) = snode.sweep(start, (x, y), [{}], COST, folder=tmp_path, **OPTIONS).rows
        assert math.isnan(row.test_accuracy)
        assert math.isfinite(row.train_accuracy)
    (file,) = tmp_path.glob("run_*.json")
    assert json.loads(file.read_text())["test_accuracy"] is None


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"epochs": 3}, "options"),
        ({"cost": Cost(n_classes=4)}, "options"),
        ({"inner": snode.H1(0.12345678)}, "options"),
        ({"field": start(5)}, "field"),
        ({"field": start(0).with_parameters(b=start(0).b + 1e-9)}, "field"),
        ({"data": 1e-9}, "data"),
    ],
)
def test_a_folder_of_another_sweep_is_refused(data, tmp_path, change, word):
    here = {"field": start(0), "data": data, "runs": [{}], "cost": COST, **OPTIONS}
    here["inner"] = snode.H1(0.12345679)
    here["folder"] = tmp_path
    snode.sweep(**here)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    if "data" in change:
        x, *others = data
        change = {"data": (x + change["data"], *others)}
    with pytest.raises(ModelFormatError, match=f"belongs to another sweep: {word} is"):
        snode.sweep(**here | change)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_another_function_is_noticed(data, tmp_path):
    snode.sweep(start, data, [{}], COST, folder=tmp_path, **OPTIONS)
    with pytest.raises(ModelFormatError, match="the run began at another field"):
        snode.sweep(lambda seed: start(seed + 1), data, [{}], COST, folder=tmp_path, **OPTIONS)


def test_a_folder_of_something_else_is_refused(data, tmp_path):
    (tmp_path / "thesis.txt").write_text("do not touch")
    with pytest.raises(
        ModelFormatError, match=r"is not the folder of a sweep: it has no sweep\.json"
    ):
        snode.sweep(start, data, [{}], COST, folder=tmp_path)


@pytest.mark.parametrize("text", ["{", "[1]", '{"options": {"seed": 0}}'])
def test_a_damaged_row_is_refused(data, tmp_path, text):
    snode.sweep(start, data, [{}], COST, folder=tmp_path, **OPTIONS)
    (file,) = tmp_path.glob("run_*.json")
    file.write_text(text)
    with pytest.raises(ModelFormatError, match=file.name):
        snode.sweep(start, data, [{}], COST, folder=tmp_path, **OPTIONS)


def test_a_field_that_cannot_be_saved_is_known_before_it_runs(data, tmp_path, trained):
    field = snode.FunctionField(lambda t, x: -x, 4)
    with pytest.raises(TypeError, match="FunctionField"):
        snode.sweep(field, data, [{}], COST, folder=tmp_path / "s", **OPTIONS)
    assert not trained
    assert not (tmp_path / "s").exists()


def test_ctrl_c_ends_the_sweep_and_it_can_go_on(data, tmp_path, monkeypatch, interrupts):
    calls = []

    @functools.wraps(snode.train)
    def interrupted(field, data, **options):
        calls.append(options)
        if len(calls) == 2:
            options["callback"] = lambda state: os.kill(os.getpid(), signal.SIGINT)
        return snode.train(field, data, **options)

    monkeypatch.setattr(module, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        snode.sweep(start, data, GRID, COST, folder=tmp_path, **OPTIONS)
    assert len(list(tmp_path.glob("run_*.json"))) == 1  # the one that was cut off is not a result
    assert snode.sweep(start, data, GRID, COST, folder=tmp_path, **OPTIONS).success
    assert len(calls) == 5


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"runs": []}, ValueError, "runs must hold at least one run"),
        ({"runs": {"seed": []}}, ValueError, "runs must hold at least one run"),
        (
            {"runs": {"rule": "FR"}},
            TypeError,
            "runs must map each option to a list of values; rule",
        ),
        ({"runs": {"seed": 3}}, TypeError, "runs must map each option to a list of values; seed"),
        ({"runs": 3}, TypeError, "runs must be a mapping of lists or a list of mappings"),
        ({"runs": [{"seed": 1}, {"seed": 1}]}, ValueError, "runs must be different; .* is there"),
        ({"runs": [{"rng": 1}]}, ValueError, "rng cannot be an option of a run; use seed"),
        ({"checkpoint": "x"}, ValueError, "checkpoint cannot be an option of a run"),
        ({"seed": 1}, ValueError, "seed must be given in runs"),
        ({"n_layers": 1}, ValueError, "'n_layers' is not an option of train"),
        ({"field": start(0), "runs": [{"n_layers": 1}]}, ValueError, "'n_layers' is not an option"),
        ({"field": 3}, TypeError, "field must be a vector field or return one; got int"),
    ],
)
def test_mistakes_are_named(data, trained, change, error, message):
    with pytest.raises(error, match=message):
        snode.sweep(**{"field": start, "data": data, "runs": [{}]} | change)
    assert not trained


def test_the_extra_is_named(data, trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)  # as if it were missing
    message = r"pip install \"snode\[distributed\]\""
    with pytest.raises(ImportError, match=message):
        snode.sweep(start, data, [{}], COST, executor=object())
    with pytest.raises(ImportError, match=message):
        snode.train(start(0), data, COST, executor=object())
    assert not trained


def test_mistakes_are_found_before_the_first_run(data):
    field = snode.StandaloneField.random(4, 1.0, 3, rng=0)
    x, y = data[:2] if isinstance(data, tuple) else (data.x_train, data.y_train)
    with pytest.raises(ValueError, match=r"threads must be an integer in 1\.\.4096"):
        snode.sweep(start, data, GRID, COST, threads=0, **OPTIONS)
    with pytest.raises(ValueError, match="y must have one entry per column of x"):
        snode.sweep(field, (x, y[:3]), [{"seed": 1}], COST, **OPTIONS)
    with pytest.raises(TypeError, match="data must"):
        snode.sweep(start, 3, GRID, COST, **OPTIONS)


def test_the_representation_says_why_a_run_failed(data):
    def broken(seed):
        raise ArithmeticError("no start today")

    result = snode.sweep(broken, data, [{"seed": 1}, {"seed": 2}], COST, **OPTIONS)
    assert "0 of 2 runs finished; run 0 failed: " in repr(result)
    assert "no start today" in repr(result)
