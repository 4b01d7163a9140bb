"""Training: minibatches, determinism, stopping, resuming bit-identically, honest errors."""

import math
import os
import signal

import numpy as np
import pytest

import snode
from snode import FIRST_ORDER, Cost, ModelFormatError, Status
from snode.datasets import Dataset
from snode.io import load_arrays, save_arrays

pytestmark = pytest.mark.grid(2)

M, BATCH = 50, 8  # the last batch of an epoch has 2 samples
PER_EPOCH = math.ceil(M / BATCH)
COST = Cost(n_classes=3)

RUNS = {
    "ncg": {},
    "ncg h1 PR+": {"inner": "h1", "rule": "PR+"},
    "ncg HS": {"rule": "HS"},
    "ncg on": {"restart": False},
    "ncg on PR+": {"restart": False, "rule": "PR+"},
    "ncg on h1 DY": {"restart": False, "rule": "DY", "inner": "h1"},
    "ncg on cubic": {"restart": False, "rule": "FR-PR", "interpolation": "cubic"},
    "ncg generic": {"restart": False, "rule": "PR+", "generic": True},
    "sgd": {"method": "sgd"},
    "momentum": {"method": "momentum"},
    "rmsprop": {"method": "rmsprop"},
    "adam": {"method": "adam"},
    "adam h1": {"method": "adam", "inner": "h1"},
}


class Derived(snode.StandaloneField):
    """Takes the generic path."""

    def with_parameters(self, **parameters):
        new = super().with_parameters(**parameters)
        new.__class__ = Derived
        return new


@pytest.fixture(params=RUNS.values(), ids=list(RUNS))
def options(request):
    return dict(request.param)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    y = np.arange(M + 20) % 3
    x = rng.normal(0, 0.4, (4, M + 20)) + np.eye(4)[y].T
    return x[:, :M], y[:M], x[:, M:], y[M:]


@pytest.fixture
def run(make_field, data):
    """Return run(**options) -> TrainResult of a small network."""

    def start(*, interpolation="constant", generic=False, epochs=2.0, **options):
        field = make_field(4, 5, interpolation=interpolation, scale=0.5)
        if generic:
            field = Derived(field.W, field.b, field.T)
        chosen = {"batch_size": BATCH, "n_iter": 2, "rng": 3, "threads": 2} | options
        return snode.train(field, data, COST, epochs=epochs, **chosen)

    return start


def assert_identical(one, two, *, evaluations=True):
    assert np.array_equal(one.field.W, two.field.W)
    assert np.array_equal(one.field.b, two.field.b)
    assert one.history.keys() == two.history.keys()
    for name in one.history:
        assert np.array_equal(one.history[name], two.history[name], equal_nan=True), name
    if evaluations:
        for name in one.evaluations:
            mine, theirs = one.evaluations[name], two.evaluations[name]
            assert np.array_equal(mine, theirs, equal_nan=True), name
    assert (one.n_batches, one.epochs) == (two.n_batches, two.epochs)


# --- minibatches ----------------------------------------------------------------------------------


def test_counts_and_history(run):
    result = run(epochs=2.0, eval_every=0.5)
    assert result.status is Status.SUCCESS
    assert result.success
    assert result.n_batches == 2 * PER_EPOCH
    assert result.epochs == 2.0
    for name in ("epoch", "cost", "cost_after", "step", "grad_norm", "capped", "restarted"):
        assert result.history[name].shape == (2 * PER_EPOCH,)
    expected = np.arange(1, 2 * PER_EPOCH + 1) / PER_EPOCH
    assert result.history["epoch"] == pytest.approx(expected, rel=1e-15)
    assert (result.history["cost_after"] <= result.history["cost"]).all()
    assert result.evaluations["epoch"][-1] == 2.0
    assert "14 batches" in repr(result)


@pytest.mark.parametrize(
    ("epochs", "batches"), [(0.5, 4), (1.0, 7), (0.01, 1), (1 / 7, 1), (2.3, 16)]
)
def test_fractional_epochs(run, epochs, batches):
    assert run(epochs=epochs).n_batches == batches  # round(epochs * 7), at least one


def test_each_epoch_is_a_partition_in_an_order_of_its_own(make_field):
    # the samples carry their number; sgd with a tiny rate only looks at them
    seen = []

    class Spy(snode.StandaloneField):
        def with_parameters(self, **parameters):
            new = super().with_parameters(**parameters)
            new.__class__ = Spy
            return new

        def linearize(self, t, x):
            if t == 0:
                seen.append(x[0].round().astype(int).tolist())
            return super().linearize(t, x)

    field = make_field(2, 1, scale=1e-6)
    field = Spy(field.W, field.b, field.T)
    x = np.stack([np.arange(23.0), np.zeros(23)])
    snode.train(
        field, (x, np.zeros((2, 23))), Cost(), method="sgd", learning_rate=1e-12, n_iter=1,
        batch_size=5, epochs=3, rng=0,
    )  # fmt: skip
    batches = seen[::2]  # each batch is solved before and after its step
    assert [len(b) for b in batches] == [5, 5, 5, 5, 3] * 3
    epochs = [[k for batch in batches[i : i + 5] for k in batch] for i in (0, 5, 10)]
    assert all(sorted(e) == list(range(23)) for e in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_one_batch_of_ncg_is_ncg(run, make_field, data):
    x, y, *_ = data
    result = run(batch_size=1000, epochs=1, n_iter=4)
    alone = snode.ncg(make_field(4, 5, scale=0.5), x, y, COST, n_iter=4)
    assert result.n_batches == 1
    # the samples come in another order: rounding
    assert np.abs(result.field.W - alone.field.W).max() <= 1e-10 * np.abs(alone.field.W).max()
    assert result.history["cost"][0] == pytest.approx(alone.history.cost[0], rel=1e-13)
    assert result.history["cost_after"][0] == pytest.approx(alone.fun, rel=1e-10)


@pytest.mark.parametrize("method", FIRST_ORDER)
def test_one_batch_of_first_order_is_the_rule(run, make_field, data, method):
    from snode.training.firstorder import FirstOrderOptimizer

    x, y, *_ = data
    field = make_field(4, 5, scale=0.5)
    result = run(method=method, batch_size=1000, epochs=1, n_iter=3)
    optimizer = FirstOrderOptimizer(method, None, field.parameters)
    for _ in range(3):
        _, g = snode.gradient(field, x, y, COST, inner="euclidean")
        steps = optimizer.steps(g)
        field = field.with_parameters(**{k: p + steps[k] for k, p in field.parameters.items()})
    # rmsprop and adam divide by roots of squares: relative rounding of small gradients
    for ours, theirs in zip(
        result.field.parameters.values(), field.parameters.values(), strict=True
    ):
        assert ours == pytest.approx(theirs, abs=1e-10)


def test_restart_false_continues_conjugacy(run):
    one, on = run(restart=True), run(restart=False)
    assert one.history["cost_after"][0] == on.history["cost_after"][0]  # the first batch
    assert not np.array_equal(one.field.W, on.field.W)


def test_training_learns(run):
    for method in ("ncg", *FIRST_ORDER):
        result = run(method=method, epochs=6)
        assert result.evaluations["test_accuracy"][-1] >= 0.7
        assert result.history["cost"][-1] < result.history["cost"][0]


def test_targets_instead_of_labels(make_field, data):
    x, y, *_ = data
    field, targets = make_field(4, 5, scale=0.5), np.eye(4)[y].T
    options = {"batch_size": BATCH, "rng": 0, "n_iter": 2}
    one = snode.train(field, (x, y), COST, **options)
    two = snode.train(field, (x, targets), COST, **options)
    assert np.array_equal(one.field.W, two.field.W)
    assert np.isnan(two.evaluations["train_accuracy"]).all()  # targets have no classes


def test_default_cost_takes_the_classes_of_the_data(make_field, data):
    x, y, *_ = data
    field = make_field(4, 5, scale=0.5)
    options = {"batch_size": BATCH, "rng": 0, "n_iter": 2}
    one = snode.train(field, (x, y), **options)
    two = snode.train(field, (x, y), COST, **options)
    assert_identical(one, two)


def test_a_dataset_object_and_a_tuple_are_the_same_data(run, make_field, data):
    x, y, x_test, y_test = data
    dataset = Dataset(x, y, x_test, y_test, n_classes=3)
    field = make_field(4, 5, scale=0.5)
    options = {"batch_size": BATCH, "n_iter": 2, "rng": 3, "threads": 2, "epochs": 2}
    assert_identical(snode.train(field, dataset, COST, **options), run())


def test_the_start_is_not_changed(make_field, data, options):
    options.pop("generic", None)
    field = make_field(4, 5, interpolation=options.pop("interpolation", "constant"))
    before = field.W.copy(), field.b.copy(), data[0].copy()
    result = snode.train(field, data, COST, batch_size=BATCH, rng=0, n_iter=2, **options)
    assert np.array_equal(field.W, before[0])
    assert np.array_equal(field.b, before[1])
    assert np.array_equal(data[0], before[2])
    assert not np.shares_memory(result.field.W, field.W)


# --- determinism ----------------------------------------------------------------------------------


def test_same_seed_same_bits(run, options):
    assert_identical(run(**options), run(**options))


def test_seeds_matter_and_global_state_does_not(run):
    one = run()
    np.random.seed(0)  # noqa: NPY002 (the point is that it has no effect)
    assert_identical(one, run())
    assert not np.array_equal(one.field.W, run(rng=4).field.W)
    assert_identical(one, run(rng=np.random.default_rng(3)))


# --- stop and resume ------------------------------------------------------------------------------


def stop_at(batch):
    return lambda state: state.batch == batch


def test_train_20_is_train_10_and_resume(run, options, tmp_path):
    file = tmp_path / "run.safetensors"
    whole = run(epochs=20 / 7, **options)
    assert whole.n_batches == 20
    half = run(epochs=10 / 7, checkpoint=file, **options)
    assert half.n_batches == 10
    resumed = run(epochs=20 / 7, checkpoint=file, resume=True, **options)
    assert_identical(whole, resumed)


@pytest.mark.parametrize("batch", [1, 6, 7, 8, 13])
def test_stopped_by_the_callback_and_resumed(run, options, tmp_path, batch):
    file = tmp_path / "run.safetensors"
    options |= {"eval_every": 0.4}
    whole = run(**options)
    stopped = run(checkpoint=file, callback=stop_at(batch), **options)
    assert stopped.status is Status.STOPPED
    assert stopped.success
    assert stopped.n_batches == batch
    assert f"stopped after {batch} of 14 minibatches" in stopped.message
    assert stopped.evaluations["epoch"][-1] == stopped.epochs  # evaluated where it stopped
    resumed = run(checkpoint=file, resume=True, **options)
    assert_identical(whole, resumed)
    assert resumed.status is Status.SUCCESS


def test_stopped_at_every_batch(run, tmp_path):
    # as hostile as can be: one batch, then a new process, and so on
    file = tmp_path / "run.safetensors"
    options = {"restart": False, "rule": "PR+", "eval_every": 1.0}
    whole = run(**options)
    for _ in range(20):
        result = run(checkpoint=file, resume=True, callback=lambda s: True, **options)
        if result.n_batches == whole.n_batches:
            break
    assert_identical(whole, run(checkpoint=file, resume=True, **options))


def test_a_resume_that_has_nothing_to_do_changes_nothing(run, options, tmp_path, request):
    file = tmp_path / "run.safetensors"
    half = run(epochs=10 / 7, checkpoint=file, **options)
    again = run(epochs=10 / 7, checkpoint=file, resume=True, **options)
    assert_identical(half, again)
    shorter = run(epochs=5 / 7, checkpoint=file, resume=True, **options)
    assert np.array_equal(shorter.field.W, half.field.W)
    # ... and the run can still go on from there
    resumed = run(epochs=20 / 7, checkpoint=file, resume=True, **options)
    assert_identical(run(epochs=20 / 7, **options), resumed)


def test_resume_without_a_file_starts_anew(run, tmp_path):
    file = tmp_path / "none.safetensors"
    assert_identical(run(), run(checkpoint=file, resume=True))
    assert file.exists()


def test_the_generator_is_part_of_the_checkpoint(run, tmp_path):
    # resuming needs no seed: the state of the generator is in the file
    file = tmp_path / "run.safetensors"
    run(epochs=0.5, checkpoint=file)  # the second epoch is drawn after the resume
    assert_identical(run(epochs=2), run(epochs=2, checkpoint=file, resume=True, rng=999))


def test_checkpoint_keeps_float32(make_field, data, tmp_path):
    x, y, *_ = data
    x, file = x.astype(np.float32), tmp_path / "run.safetensors"
    field = make_field(4, 5, dtype=np.float32)
    options = {"batch_size": BATCH, "rng": 0, "method": "adam", "threads": 1}
    whole = snode.train(field, (x, y), COST, epochs=2, **options)
    snode.train(field, (x, y), COST, epochs=1, checkpoint=file, **options)
    resumed = snode.train(field, (x, y), COST, epochs=2, checkpoint=file, resume=True, **options)
    assert resumed.field.dtype == np.float32
    assert_identical(whole, resumed)


@pytest.mark.parametrize("path_type", [str, lambda p: p])
def test_checkpoint_paths(run, tmp_path, path_type):
    file = tmp_path / "run.safetensors"
    run(epochs=0.1, checkpoint=path_type(file))
    assert file.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["run.safetensors"]  # no litter


@pytest.mark.parametrize("name", ["MT19937", "Philox", "SFC64", "PCG64DXSM"])
def test_checkpoint_with_any_generator(run, tmp_path, request, name):
    file = tmp_path / "run.safetensors"

    def generator():
        return np.random.Generator(getattr(np.random, name)(5))

    whole = run(rng=generator())
    run(epochs=1, rng=generator(), checkpoint=file)
    for rng in (generator(), 0, None):  # the one in the checkpoint counts
        file_of_one = tmp_path / "copy"
        file_of_one.write_bytes(file.read_bytes())
        assert_identical(whole, run(rng=rng, checkpoint=file_of_one, resume=True))


@pytest.mark.parametrize(
    ("cost", "options"),
    [
        ({"n_classes": np.int64(3)}, {}),
        ({"l2": np.float32(1)}, {}),
        ({}, {"batch_size": np.int64(25)}),
        ({}, {"n_iter": np.int64(2)}),
        ({}, {"method": "sgd", "learning_rate": np.float32(0.1)}),
    ],
)
def test_checkpoint_with_numpy_numbers(make_field, data, tmp_path, cost, options):
    # Cost(n_classes=y.max() + 1) is what people write
    cost, file = Cost(**{"n_classes": 3} | cost), tmp_path / "run.safetensors"
    options = {"batch_size": 25, "rng": 0, "checkpoint": file, "resume": True} | options
    for epochs in (1, 2):
        result = snode.train(make_field(4, 5), data, cost, epochs=epochs, **options)
        assert result.n_batches == 2 * epochs


# --- a checkpoint of another run ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"batch_size": 9}, "batch_size"),
        ({"n_iter": 3}, "n_iter"),
        ({"rule": "PR+"}, "rule"),
        ({"inner": "h1"}, "inner"),
        ({"restart": False}, "restart"),
        ({"method": "adam"}, "method"),
        ({"threads": 1}, "threads"),
        ({"interpolation": "linear"}, "field"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(run, tmp_path, change, word):
    file = tmp_path / "run.safetensors"
    run(epochs=1, checkpoint=file)
    before = file.read_bytes()
    with pytest.raises(ModelFormatError, match=f"belongs to another run: {word}"):
        run(checkpoint=file, resume=True, **change)
    assert file.read_bytes() == before


def test_a_checkpoint_of_other_data_or_another_field_is_refused(make_field, data, tmp_path):
    x, y, *_ = data
    file, field = tmp_path / "run.safetensors", make_field(4, 5)
    snode.train(field, (x, y), COST, batch_size=BATCH, checkpoint=file)

    def resume(field=field, x=x, y=y, cost=COST):
        snode.train(field, (x, y), cost, batch_size=BATCH, checkpoint=file, resume=True, epochs=2)

    other = x.copy()
    other[2, 17] += 1e-9
    for change, word in (
        ({"x": other}, "checksum of x"),
        ({"y": (y + 1) % 3}, "checksum of y"),
        ({"x": x[:, 1:], "y": y[1:]}, "number of samples"),
        ({"cost": Cost(decay=0.1, n_classes=3)}, "cost"),
        ({"field": make_field(4, 6)}, "field"),
        ({"field": make_field(4, 5, T=2.0)}, "field"),
        ({"field": make_field(4, 5, activation="relu")}, "field"),
    ):
        with pytest.raises(ModelFormatError, match=f"belongs to another run: {word}"):
            resume(**change)
    resume()  # and the right one is not


def _changed(array, index):
    array = array.copy()
    array[index] = array[index] + 1 if array.dtype.kind == "f" else 1 - array[index]
    return array


@pytest.mark.parametrize(
    ("name", "index"),
    [("x", (1, 399)), ("x", (0, 100)), ("y", 11_000), ("y", -1), ("x_test", (1, 7)), ("y_test", 9)],
)
def test_every_entry_of_the_data_is_compared(tmp_path, name, index):
    x, y = snode.datasets.two_moons(12_000, rng=0)
    data = {"x": x, "y": y, "x_test": x[:, :10].copy(), "y_test": y[:10].copy()}
    field = snode.StandaloneField.random(2, 1.0, 3, rng=0)
    options = {"batch_size": 50, "n_iter": 1, "rng": 0, "threads": 1, "eval_samples": 10}
    options |= {"checkpoint": tmp_path / "run", "epochs": 0.005}

    def start(data, **more):
        return snode.train(field, tuple(data.values()), Cost(n_classes=2), **options | more)

    start(data)
    with pytest.raises(ModelFormatError, match=f"another run: checksum of {name} is"):
        start(data | {name: _changed(data[name], index)}, resume=True)
    # the same data in another order in memory, and labels of another dtype
    same = data | {"x": np.asfortranarray(x), "y": y.astype(np.uint8)}
    assert start(same, resume=True, epochs=0.01).n_batches == 2


def test_changed_targets_and_left_out_tests_are_seen(make_field, data, tmp_path):
    x, y, *test = data
    targets = np.eye(4)[:, y]
    options = {"batch_size": BATCH, "checkpoint": tmp_path / "run", "rng": 0}
    snode.train(make_field(4, 5), (x, targets), COST, **options)
    with pytest.raises(ModelFormatError, match="checksum of y is"):
        snode.train(make_field(4, 5), (x, _changed(targets, (3, 49))), COST, resume=True, **options)
    with pytest.raises(ModelFormatError, match="checksum of x_test is"):
        snode.train(make_field(4, 5), (x, targets, test[0], targets[:, :20]), COST,
                    resume=True, **options)  # fmt: skip


@pytest.mark.parametrize(("number", "age"), [(None, "an older"), (1, "an older"), (3, "a newer"),
                                             ("two", "an older")])  # fmt: skip
def test_checkpoints_of_other_versions_are_refused(run, tmp_path, number, age):
    file = tmp_path / "run"
    run(epochs=0.2, checkpoint=file)
    arrays, header = load_arrays(file)
    header = {k: v for k, v in header.items() if k != "format"}
    save_arrays(file, arrays, header if number is None else header | {"format": number})
    with pytest.raises(ModelFormatError, match=f"written by {age} snode.* begin again without"):
        run(checkpoint=file, resume=True)


@pytest.mark.parametrize("change", ["alpha", "T", "length"])
def test_finer_differences_are_seen_too(make_field, data, tmp_path, change):
    file = tmp_path / "run.safetensors"

    def start(alpha=0.2, T=1.5, length=1.0, **options):
        field = make_field(4, 5, T=T, activation=snode.get_activation("elu", alpha=alpha))
        inner = snode.H1(length)
        return snode.train(
            field, data, COST, batch_size=25, inner=inner, checkpoint=file, **options
        )

    start()
    other = {"alpha": 0.7, "T": 1.50000001, "length": 1.00000001}[change]
    with pytest.raises(ModelFormatError, match="belongs to another run"):
        start(**{change: other}, resume=True, epochs=2)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\0" * 100])
def test_a_file_that_is_no_checkpoint_is_refused(run, tmp_path, content):
    file = tmp_path / "run.safetensors"
    file.write_bytes(content)
    with pytest.raises(ModelFormatError, match=r"run\.safetensors"):
        run(checkpoint=file, resume=True)


def test_a_model_is_no_checkpoint(run, make_field, tmp_path):
    file = tmp_path / "model.safetensors"
    snode.save(file, make_field(4, 5))
    with pytest.raises(ModelFormatError, match="is not a checkpoint"):
        run(checkpoint=file, resume=True)


def test_a_truncated_checkpoint_is_refused(run, tmp_path):
    file = tmp_path / "run.safetensors"
    run(epochs=1, checkpoint=file)
    whole = file.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 9):
        file.write_bytes(whole[:size])
        with pytest.raises(ModelFormatError):
            run(checkpoint=file, resume=True)


@pytest.mark.parametrize("missing", ["order", "theta W", "history cost", "evaluation epoch"])
def test_a_checkpoint_that_lacks_an_array_is_refused(run, tmp_path, missing):
    file = tmp_path / "run.safetensors"
    run(epochs=1, checkpoint=file)
    arrays, header = load_arrays(file)
    del arrays[missing]
    save_arrays(file, arrays, header)
    with pytest.raises(ModelFormatError, match=r"run\.safetensors"):
        run(checkpoint=file, resume=True)


# --- callback and Ctrl-C --------------------------------------------------------------------------


def test_callback_sees_every_batch(run):
    states = []
    result = run(callback=states.append, eval_every=1.0)
    assert [s.batch for s in states] == list(range(1, 15))
    assert all(s.n_batches == 14 for s in states)
    for name in ("epoch", "cost", "cost_after", "step", "grad_norm"):
        seen = np.array([getattr(s, name) for s in states])
        assert np.array_equal(seen, result.history[name])
    assert math.isnan(states[0].test_accuracy)
    assert states[7].test_accuracy == result.evaluations["test_accuracy"][0]
    assert isinstance(states[0].field, snode.StandaloneField)


def test_ignored_interrupts_stay_ignored(run, interrupts):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a job in the background
    result = run(callback=lambda state: os.kill(os.getpid(), signal.SIGINT))
    assert result.status is Status.SUCCESS


def test_ctrl_c_ends_the_run_cleanly(run, options, tmp_path, interrupts):
    file = tmp_path / "run.safetensors"
    before = signal.getsignal(signal.SIGINT)

    def press(state):
        if state.batch == 5:
            os.kill(os.getpid(), signal.SIGINT)

    result = run(checkpoint=file, callback=press, **options)
    assert result.status is Status.STOPPED
    assert result.n_batches == 5
    assert signal.getsignal(signal.SIGINT) is before
    assert_identical(run(**options), run(checkpoint=file, resume=True, **options))


def test_a_second_ctrl_c_interrupts_at_once(run, interrupts):
    before = signal.getsignal(signal.SIGINT)

    def press_twice(state):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(10_000):  # signals are handled between bytecodes
            pass

    with pytest.raises(KeyboardInterrupt):
        run(callback=press_twice)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_error_in_the_callback_comes_through_and_restores_the_handler(run):
    before = signal.getsignal(signal.SIGINT)

    def fail(state):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(callback=fail)
    assert signal.getsignal(signal.SIGINT) is before


def test_training_in_another_thread(run):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        assert_identical(pool.submit(run).result(), run())


# --- evaluation -----------------------------------------------------------------------------------


def test_evaluations(run, data):
    x, y, x_test, y_test = data
    result = run(eval_every=0.5)
    # every round(3.5) = 4 batches, and at the end
    assert result.evaluations["epoch"] == pytest.approx([4 / 7, 8 / 7, 12 / 7, 2.0])
    last = snode.accuracy(result.field, x_test, y_test, n_classes=3)
    assert result.evaluations["test_accuracy"][-1] == last
    assert result.evaluations["train_accuracy"][-1] == snode.accuracy(
        result.field, x, y, n_classes=3
    )


def test_evaluation_on_the_first_samples_only(run, data):
    x, y, x_test, y_test = data
    result = run(eval_samples=5)
    expected = snode.accuracy(result.field, x[:, :5], y[:5], n_classes=3)
    assert result.evaluations["train_accuracy"].tolist() == [expected]
    everything = run(eval_samples=None)
    expected = snode.accuracy(everything.field, x_test, y_test, n_classes=3)
    assert everything.evaluations["test_accuracy"].tolist() == [expected]


def test_without_test_data(make_field, data):
    x, y, *_ = data
    result = snode.train(make_field(4, 5), (x, y), COST, batch_size=25)
    assert np.isnan(result.evaluations["test_accuracy"]).all()
    assert np.isfinite(result.evaluations["train_accuracy"]).all()


def test_an_evaluation_that_overflows_is_nan_and_loses_nothing(make_field, data):
    x, y, *_ = data
    field, huge = make_field(4, 5, activation="identity"), np.full((4, 2), 1.7e308)
    huge[1:3] *= -1
    result = snode.train(field, (x, y, huge, y[:2]), COST, batch_size=25, n_iter=1)
    assert np.isnan(result.evaluations["test_accuracy"]).all()
    assert np.isfinite(result.evaluations["train_accuracy"]).all()
    assert result.success


# --- batches that overflow ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ncg", "sgd"])
def test_a_batch_without_a_finite_cost_is_skipped(make_field, method):
    # one huge sample overflows whatever batch it is in; the others train on
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 1, (3, 40)), np.arange(40) % 3
    x[:, 7] = 1e200
    field = make_field(3, 5, activation="relu", scale=0.5)
    result = snode.train(field, (x, y), COST, method=method, batch_size=8, epochs=2, rng=0)
    skipped = np.isnan(result.history["cost"])
    assert skipped.sum() == 2  # once an epoch
    assert "2 of 10 skipped because their cost was not finite" in result.message
    assert np.isfinite(result.field.W).all()
    assert (result.history["cost_after"] <= result.history["cost"])[~skipped].all() or (
        method == "sgd"
    )


@pytest.mark.parametrize("method", ["ncg", "adam"])
def test_ten_bad_batches_in_a_row_end_the_run(make_field, method):
    x, y = np.full((3, 400), 1e200), np.arange(400) % 3
    field = make_field(3, 5, activation="relu")
    result = snode.train(field, (x, y), COST, method=method, batch_size=8, epochs=2, rng=0)
    assert result.status is Status.NONFINITE_RHS
    assert not result.success
    assert result.n_batches == 10
    assert np.array_equal(result.field.W, field.W)


BAD = {
    "cost": lambda m: ({"activation": "relu"}, np.full((3, m), 1e200)),
    "weights": lambda m: ({"activation": "relu", "scale": 1e160}, np.ones((3, m))),
}


@pytest.mark.filterwarnings("ignore::snode.results.TrainingWarning")
@pytest.mark.parametrize("method", ["ncg", "sgd", "adam"])
@pytest.mark.parametrize("batches", [1, 3, 9])
@pytest.mark.parametrize("bad", list(BAD))
def test_a_run_that_skipped_all_is_no_success(make_field, method, batches, bad):
    options, x = BAD[bad](8 * batches)
    field, y = make_field(3, 5, **options), np.arange(8 * batches) % 3
    result = snode.train(field, (x, y), COST, method=method, batch_size=8, rng=0)
    assert (result.status, result.success) == (Status.NONFINITE_RHS, False)
    assert f"no update was made: none of {batches} minibatches had a finite cost" in result.message
    assert result.n_batches == batches
    assert np.array_equal(result.field.W, field.W)


def test_a_skipped_run_stays_failed_when_it_is_resumed(make_field, tmp_path):
    x, y = np.full((3, 24), 1e200), np.arange(24) % 3
    options = {"batch_size": 8, "checkpoint": tmp_path / "run", "rng": 0}
    for epochs, resume in ((1, False), (1, True), (2, True)):
        result = snode.train(make_field(3, 5, activation="relu"), (x, y), COST, epochs=epochs,
                             resume=resume, **options)  # fmt: skip
        assert result.status is Status.NONFINITE_RHS, (epochs, resume)


@pytest.mark.filterwarnings("ignore::snode.results.TrainingWarning")
@pytest.mark.parametrize("l2", [1e200, 1e300])
def test_a_run_whose_gradients_overflow_is_no_success(make_field, l2):
    # each cost is finite, so nothing is skipped, but no step can be made
    x, y = np.zeros((3, 24)), np.arange(24) % 3
    field = make_field(3, 5, scale=0.1)
    result = snode.train(field, (x, y), Cost(l2=l2, n_classes=3), batch_size=8, rng=0)
    assert (result.status, result.success) == (Status.NO_DESCENT, False)
    assert "no update was made" in result.message
    assert np.array_equal(result.field.W, field.W)
    assert np.isnan(result.history["grad_norm"]).all()  # not 0, which would say converged


def test_a_start_that_is_the_minimum_is_a_success():
    field = snode.StandaloneField(np.zeros((5, 3, 3)), np.zeros((5, 3)), 1.0, activation="relu")
    x = np.random.default_rng(0).uniform(-1, 1, (3, 24))  # x(T) = x
    result = snode.train(field, (x, x.copy()), COST, batch_size=8, rng=0, threads=1)
    assert (result.status, result.message) == (Status.SUCCESS, "3 minibatches done")
    assert np.array_equal(result.history["grad_norm"], np.zeros(3))


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"method": "lbfgs"}, ValueError, "method must be one of 'ncg', 'sgd', 'momentum'"),
        ({"rule": "CG"}, ValueError, "rule must be one of 'FR'"),
        ({"inner": "h2"}, ValueError, "inner must be one of"),
        ({"inner": 3}, TypeError, "inner must be"),
        ({"batch_size": 0}, ValueError, "batch_size must be a positive integer; got 0"),
        ({"batch_size": 2.5}, ValueError, "batch_size must be a positive integer"),
        ({"n_iter": -1}, ValueError, "n_iter must be a positive integer; got -1"),
        ({"epochs": 0}, ValueError, "epochs must be positive and finite"),
        ({"epochs": -1.0}, ValueError, "epochs must be positive and finite"),
        ({"epochs": math.nan}, ValueError, "epochs must be positive and finite"),
        ({"epochs": math.inf}, ValueError, "epochs must be positive and finite"),
        ({"learning_rate": 0.1}, ValueError, "learning_rate is for the first-order methods"),
        ({"method": "sgd", "learning_rate": 0}, ValueError, "learning_rate must be positive"),
        ({"method": "sgd", "learning_rate": math.nan}, ValueError, "learning_rate must be"),
        ({"threads": 0}, ValueError, "threads must be an integer in 1..4096, or None; got 0"),
        ({"n_iter": math.nan}, ValueError, "n_iter must be a positive integer"),
        ({"eval_every": math.nan}, ValueError, "eval_every must be positive and finite, or None"),
        ({"eval_every": -1.0}, ValueError, "eval_every must be positive and finite, or None"),
        ({"eval_samples": 0}, ValueError, "eval_samples must be a positive integer or None"),
        ({"resume": True}, ValueError, "checkpoint must be given"),
        ({"resume": "no"}, TypeError, "resume must be True or False; got 'no'"),
        ({"restart": "no"}, TypeError, "restart must be True or False; got 'no'"),
        ({"restart": 2}, TypeError, "restart must be True or False; got 2"),
        ({"epochs": 1e308}, ValueError, "epochs must be at most"),
        ({"epochs": 10**400}, ValueError, "epochs must be"),
        ({"epochs": "2"}, TypeError, "epochs must be a number; got '2'"),
        ({"epochs": None}, TypeError, "epochs must be a number; got None"),
        ({"epochs": True}, TypeError, "epochs must be a number; got True"),
        ({"batch_size": True}, ValueError, "batch_size must be a positive integer; got True"),
        ({"batch_size": "8"}, ValueError, "batch_size must be a positive integer; got '8'"),
        ({"n_iter": True}, ValueError, "n_iter must be a positive integer; got True"),
        ({"n_iter": None}, ValueError, "n_iter must be a positive integer; got None"),
        ({"learning_rate": "1", "method": "sgd"}, TypeError, "learning_rate must be a number"),
        ({"eval_every": math.inf}, ValueError, "eval_every must be positive and finite"),
        ({"eval_every": "1"}, ValueError, "eval_every must be positive and finite"),
        ({"eval_samples": 1.5}, ValueError, "eval_samples must be a positive integer or None"),
        ({"eval_samples": "9"}, ValueError, "eval_samples must be a positive integer or None"),
        ({"eval_samples": True}, ValueError, "eval_samples must be a positive integer or None"),
        ({"callback": 5}, TypeError, "callback must be a function"),
        ({"progress": 5}, TypeError, "callback must be a function"),
        ({"rng": "abc"}, TypeError, "rng must be a seed .* got 'abc'"),
        ({"rng": -1}, ValueError, "rng must be a seed .* got -1"),
        ({"rng": 1.5}, TypeError, "rng must be a seed .* got 1.5"),
    ],
)
def test_options_are_named(run, change, error, message):
    with pytest.raises(error, match=message):
        run(**change)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda x, y: None, TypeError, "data must be a Dataset"),
        (lambda x, y: (x,), TypeError, "data must be a Dataset"),
        (lambda x, y: (x, y, x), TypeError, "data must be a Dataset"),
        (
            lambda x, y: (x, y.tolist()),
            TypeError,
            r"y must be labels .* got list: use numpy.asarray\(y\)",
        ),
        (lambda x, y: (x.T, y), ValueError, "x must have shape"),
        (lambda x, y: (x.astype(np.float32), y), ValueError, "x is float32 but the field"),
        (lambda x, y: (x, y.astype(float)), ValueError, "y must be integer labels"),
        (lambda x, y: (x, y + 1), ValueError, r"y must hold labels 0\.\.2; got labels 1\.\.3"),
        (lambda x, y: (x[:, :0], y[:0]), ValueError, "x must have shape"),
    ],
)
def test_data_are_named(make_field, data, make, error, message):
    x, y, *_ = data
    with pytest.raises(error, match=message):
        snode.train(make_field(4, 5), make(x, y), COST)


def _nan_late(x):
    x = x.copy()
    x[0, 40] = np.nan
    return x


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x, y, *t: (x.tolist(), y), "x must be"),
        (lambda x, y, *t: (x[0], y), "x must have shape"),
        (lambda x, y, *t: (x, y[:40]), "y must have one entry per column"),
        (lambda x, y, *t: (x[:, :40], y), "y must have one entry per column"),
        (lambda x, y, *t: (_nan_late(x), y), "x must be finite; component 0 of sample 40"),
        (lambda x, y, xt, yt: (x, y, xt.T, yt), "x_test must"),
        (lambda x, y, xt, yt: (x, y, xt, yt[:3]), "y_test must"),
        (lambda x, y, xt, yt: (x, y, xt.astype(np.float32), yt), "x_test is float32"),
        (lambda x, y, xt, yt: (x, y, xt, None), "x_test and y_test must both be arrays"),
        (lambda x, y, xt, yt: (x, y, None, yt), "x_test and y_test must both be arrays"),
        (lambda x, y, xt, yt: (x, y, xt, yt.tolist()), "y_test must be labels .* got list"),
    ],
)
def test_data_are_named_before_the_first_batch(make_field, data, make, message):
    calls = []
    with pytest.raises((ValueError, TypeError), match=message):
        snode.train(make_field(4, 5), make(*data), COST, batch_size=8, rng=0, callback=calls.append)
    assert not calls


def _write_protected(folder):
    file = folder / "protected"
    file.write_bytes(b"")
    file.chmod(0o444)
    return file


def _link(folder, target):
    link = folder / "link"
    link.symlink_to(target)
    return link


def _file(folder, content):
    file = folder / "file"
    file.write_bytes(content)
    return file


def _model(folder):
    snode.save(folder / "model", snode.StandaloneField.random(2, 1.0, 3, rng=0))
    return folder / "model"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda d: d / "no" / "run", FileNotFoundError, "folder .*no does not exist"),
        (lambda d: _file(d, b"") / "run", FileNotFoundError, "does not exist"),
        (lambda d: d, IsADirectoryError, "is a folder"),
        (lambda d: ".", IsADirectoryError, "is a folder"),
        (lambda d: "", ValueError, "must be the path of a file; got an empty one"),
        (lambda d: str(d / "a\0b"), ValueError, "must be the path of a file.* null"),
        (lambda d: d / ("x" * 300), OSError, "File name too long"),
        (lambda d: d / ("x" * 250), OSError, "File name too long"),  # with that of the writer
        (_write_protected, PermissionError, "write-protected"),
        (lambda d: _link(d, _write_protected(d)), PermissionError, "write-protected"),
        (lambda d: _link(d, d / "no" / "run"), FileNotFoundError, "does not exist"),
        (lambda d: _link(d, d / "link"), OSError, "loop"),
        (lambda d: _file(d, b"year,price\n2020,1\n"), FileExistsError, "not overwritten"),
        (_model, FileExistsError, "is not a checkpoint of snode"),
        (lambda d: 5, TypeError, "checkpoint must be a path or None; got 5"),
        (lambda d: b"run", TypeError, "checkpoint must be a path or None"),
    ],
)
@pytest.mark.parametrize("resume", [False, True])
def test_bad_checkpoint_paths_are_found_before_the_first_batch(
    run, tmp_path, make, error, message, resume
):
    path = make(tmp_path)
    if resume and error is FileExistsError:
        error, message = ModelFormatError, "file|model"
    seen, before = [], sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=message) as caught:
        run(epochs=0.2, checkpoint=path, resume=resume, callback=seen.append)
    assert not seen
    assert (
        error is ModelFormatError
        or str(caught.value).startswith("checkpoint ")
        or "checkpoint:" in str(caught.value)
    )
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="a folder that lets nobody write")
def test_a_folder_that_lets_nobody_write(run):
    seen = []
    with pytest.raises(OSError, match="checkpoint cannot be written: /proc/self/run"):
        run(epochs=0.2, checkpoint="/proc/self/run", callback=seen.append)
    assert not seen


def test_checkpoints_of_ours_and_empty_files_are_overwritten(run, tmp_path):
    file = _file(tmp_path, b"")
    run(epochs=0.2, checkpoint=file)
    first = load_arrays(file)[1]["batch"]
    run(epochs=0.5, checkpoint=file)
    assert (first, load_arrays(file)[1]["batch"]) == (1, 4)


def test_minibatches_in_blocks():
    x, y = snode.datasets.two_moons(200, rng=0)
    field = snode.StandaloneField.random(2, 3.0, 6, rng=0)
    options = {"batch_size": 100, "epochs": 1.5, "rng": 0, "threads": 1}
    whole, run = (
        snode.train(field, (x, y), Cost(n_classes=2), block_size=size, **options)
        for size in (None, 30)
    )
    assert run.history["cost"] == pytest.approx(whole.history["cost"], rel=1e-9)
    assert not np.array_equal(run.field.W, whole.field.W)  # it was not ignored
    with pytest.raises(ValueError, match="block_size must be a positive integer or None"):
        snode.train(field, (x, y), Cost(n_classes=2), block_size=0)
