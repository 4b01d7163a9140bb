"""The number of threads, and results that do not depend on it."""

import contextvars
import logging
import threading
import time
from functools import partial

import numpy as np
import pytest

import snode
from snode import threads
from snode.backend import _blas_libraries
from snode.threads import check_threads, default_threads, map_blocks, thread_limit

CORES = threads._cores()


def group(root, text, **files):
    """Make a file system with control groups."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(text)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("DOT", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


V2 = "0::/job/step\n"
V1 = "12:memory:/job\n5:cpu,cpuacct:/job\n1:name=systemd:/x\n"


@pytest.mark.parametrize(
    ("text", "files", "quota"),
    [
        (V2, {"job__step__cpuDOTmax": "150000 100000\n"}, 1.5),
        (V2, {"job__cpuDOTmax": "50000 100000", "job__step__cpuDOTmax": "max 100000"}, 0.5),
        ("0::/\n", {"cpuDOTmax": "300000 100000"}, 3.0),
        (V2, {"job__step__cpuDOTmax": "max 100000"}, None),
        (V2, {"job__step__cpuDOTmax": "nonsense"}, None),
        (V2, {"job__step__cpuDOTmax": "100000 0"}, None),
        (V2, {}, None),
        ("", {}, None),
        ("garbage\n", {}, None),
        (V1, {"cpu__job__cpuDOTcfs_quota_us": "250000",
              "cpu__job__cpuDOTcfs_period_us": "100000"}, 2.5),
        (V1, {"cpu,cpuacct__job__cpuDOTcfs_quota_us": "100000",
              "cpu,cpuacct__job__cpuDOTcfs_period_us": "50000"}, 2.0),
        (V1, {"cpu__cpuDOTcfs_quota_us": "100000", "cpu__cpuDOTcfs_period_us": "100000"}, 1.0),
        (V1, {"cpu__job__cpuDOTcfs_quota_us": "-1",
              "cpu__job__cpuDOTcfs_period_us": "100000"}, None),
    ],
)  # fmt: skip
def test_the_quota_of_a_control_group(tmp_path, text, files, quota):
    root = group(tmp_path, text, **files)
    assert threads._quota(root) == quota
    number, why = default_threads({}, root)
    wanted = CORES if quota is None else min(CORES, int(np.ceil(quota)))
    assert number == wanted
    if quota is not None and wanted < CORES:
        assert why == "CPU quota of the control group"


def test_no_proc_file_system(tmp_path):
    assert default_threads({}, tmp_path) == (CORES, "cores of this process")


@pytest.mark.parametrize("name", threads.OTHERS)
def test_the_environment_limits_threads(tmp_path, name):
    assert default_threads({name: "1"}, tmp_path)[0] == 1
    assert default_threads({name: "1,4"}, tmp_path)[0] == 1
    for useless in ("", "0", "-2", "many", "1.5", "99999999999999999999"):
        assert default_threads({name: useless}, tmp_path)[0] == CORES
    assert default_threads({name: str(CORES + 7)}, tmp_path)[0] == CORES
    several = dict.fromkeys(threads.OTHERS, "8") | {name: "1"}
    assert default_threads(several, tmp_path) == (1, name) if CORES > 1 else True


def test_the_own_variable_wins(tmp_path, monkeypatch):
    environ = {"SNODE_NUM_THREADS": "7", "OMP_NUM_THREADS": "1"}
    assert default_threads(environ, tmp_path) == (7, "SNODE_NUM_THREADS")
    monkeypatch.setenv("SNODE_NUM_THREADS", "3")
    assert check_threads(None) == 3
    for wrong in ("0", "two", "-1", "1.5", "5000"):
        with pytest.raises(ValueError, match="SNODE_NUM_THREADS must be an integer"):
            default_threads({"SNODE_NUM_THREADS": wrong}, tmp_path)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "two", True, np.nan, np.inf, 10**6, [2]])
def test_a_wrong_number_of_threads(wrong):
    with pytest.raises(ValueError, match=r"threads must be an integer in 1\.\.4096"):
        check_threads(wrong)


def test_more_threads_than_cores_are_allowed_and_logged(caplog):
    with caplog.at_level(logging.WARNING, "snode"):
        assert check_threads(CORES + 97) == CORES + 97
    assert f"threads={CORES + 97} is more than the {CORES} cores" in caplog.text
    caplog.clear()
    assert check_threads(np.int64(1)) == 1
    assert not caplog.text


# --- blocks ---------------------------------------------------------------------------------------


def test_blocks_keep_their_order_and_run_beside_each_other():
    together = threading.Barrier(3)

    def task(i):
        together.wait(timeout=60)
        return i, threading.get_ident()

    with thread_limit(3):
        found = map_blocks(task, range(6))
    assert [i for i, _ in found] == list(range(6))
    assert len({ident for _, ident in found}) == 3


def test_blocks_are_made_in_the_calling_thread_and_not_far_ahead():
    made, done = [], []

    def blocks():
        for i in range(40):
            made.append(threading.get_ident())
            assert len(made) - len(done) <= 2 + 2 + 2
            yield i

    def task(i):
        done.append(i)

    with thread_limit(2):
        map_blocks(task, blocks())
    assert set(made) == {threading.get_ident()}
    assert sorted(done) == list(range(40))


@pytest.mark.parametrize("n", [1, 3])
def test_blas_has_one_thread_within_and_as_many_as_before_afterwards(n):
    def count():
        return [library.get_num_threads() for library in _blas_libraries()]

    before = count()
    with thread_limit(n):
        assert all(set(seen) == {1} for seen in map_blocks(lambda _: count(), range(3)))
        assert map_blocks(lambda _: count(), range(1), shared=False) == [before]
    assert count() == before


def test_threads_of_threads_are_not_made():
    def outer(_):
        inner = map_blocks(lambda _: threading.get_ident(), range(3))
        return set(inner) == {threading.get_ident()}

    with thread_limit(2):
        assert all(map_blocks(outer, range(4)))


@pytest.mark.parametrize("n", [1, 2])
def test_the_first_error_counts_and_the_rest_is_not_started(n):
    started = []

    def task(i):
        started.append(i)
        if i >= 2:
            time.sleep(0.01)
            raise ValueError(f"block {i}")

    with thread_limit(n), pytest.raises(ValueError, match="block 2"):
        map_blocks(task, range(50))
    assert len(started) < 10


def test_the_error_state_of_numpy_goes_along():
    with thread_limit(2), np.errstate(over="raise"):
        states = map_blocks(lambda _: np.geterr()["over"], range(4))
    assert states == ["raise"] * 4


def test_a_limit_ends_with_its_block_and_belongs_to_its_context():
    before = check_threads(None)
    with thread_limit(5):
        assert threads._limit.get() == 5
        other = contextvars.Context()
        assert other.run(threads._limit.get) is None
    assert threads._limit.get() is None
    assert check_threads(None) == before


# --- results --------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
X = RNG.uniform(0, 1, (9, 1203))
Y = RNG.integers(0, 3, 1203)


def layered(dtype="float64", activation="tanh", **options):
    field = snode.StandaloneField.random(
        9, 1.0, 6, activation=activation, scale=1.0, rng=1, dtype=dtype, **options
    )
    return snode.Classifier.random(field, 3, rng=2)


FIELDS = {
    "layers": lambda dtype: layered(dtype).field,
    "read-out": layered,
    "relu": lambda dtype: layered(dtype, activation="relu"),
    "cubic": lambda dtype: layered(dtype, interpolation="cubic"),
    "MLP": lambda dtype: snode.MLPField((9, 20, 9), rng=3, dtype=dtype),
}
ATTACK = {"n_classes": 3, "box": (0.0, 1.0)}
WORK = {
    "predict": partial(snode.predict, n_classes=3),
    "ode45": partial(snode.predict, n_classes=3, solver=snode.Solver("ode45", rtol=1e-4)),
    "confusion": lambda f, x: snode.confusion(f, x, Y, n_classes=3),
    "noise": lambda f, x: snode.accuracy_under_noise(
        f, x, Y[: x.shape[1]], [0.1, 0.3], n_classes=3, rng=0),
    "fgsm": lambda f, x: snode.fgsm(f, x, Y[: x.shape[1]], eps=0.05, **ATTACK).x_adv,
    "pgd": lambda f, x: snode.pgd(
        f, x, Y[: x.shape[1]], eps=0.05, n_iter=3, restarts=2, random_start=True, rng=0,
        **ATTACK).x_adv,
    "pgd 2": lambda f, x: snode.pgd(
        f, x, Y[: x.shape[1]], eps=0.2, norm="2", n_iter=2, random_start=True, rng=0,
        **ATTACK).x_adv,
    "deepfool": lambda f, x: snode.deepfool(f, x, Y[: x.shape[1]], n_iter=3, **ATTACK).x_adv,
    "sensitivity": lambda f, x: snode.sensitivity_attack(
        f, x, Y[: x.shape[1]], n_iter=3, **ATTACK).x_adv,
    "carlini": lambda f, x: snode.carlini_wagner(
        f, x, Y[: x.shape[1]], n_iter=3, n_search=2, **ATTACK).x_adv,
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("work", ["predict", "ode45", "confusion", "noise", "fgsm"])
def test_results_do_not_depend_on_threads(work, field, dtype):
    _compare(WORK[work], FIELDS[field](dtype), X.astype(dtype))


@pytest.mark.parametrize("work", ["pgd", "pgd 2", "deepfool", "sensitivity", "carlini"])
@pytest.mark.parametrize("field", ["relu", "MLP"])
def test_attacks_do_not_depend_on_threads(work, field):
    _compare(WORK[work], FIELDS[field]("float32"), X.astype("float32"))


def test_random_directions_do_not_depend_on_threads():
    # a network without any slope: every direction of the attack is drawn
    still = snode.StandaloneField(np.zeros((2, 3, 3)), np.array([[1.0, 0.5, 0]] * 2), T=1.0)
    dead = snode.Classifier(still, np.zeros((2, 3)), np.array([1.0, 0.0]))
    x, y = RNG.uniform(0, 1, (3, 1500)), np.zeros(1500, dtype=int)

    def attack(field, x):
        found = snode.sensitivity_attack(field, x, y, n_iter=2, box=(0.0, 1.0), rng=4)
        return found.x_adv

    moved = _compare(attack, dead, x)
    assert not np.array_equal(moved, x)


def test_certified_radii_do_not_depend_on_threads():
    _compare(lambda f, x: snode.certified_radius(f, x, Y, n_classes=3).radius, layered(), X)


def _compare(work, field, x):
    found = []
    for n in (1, 2, 3):
        with thread_limit(n):
            found.append(work(field, x))
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
    return found[0]


def test_functions_of_a_user_are_never_called_by_two_threads():
    buffer, calls = np.empty((9, 500)), set()

    def f(t, x):
        calls.add(threading.get_ident())
        out = buffer[:, : x.shape[1]]
        np.tanh(x, out=out)
        return out

    def value(a):
        calls.add(threading.get_ident())
        return np.tanh(a)

    own = snode.Activation("own", value, lambda a: 1 - np.tanh(a) ** 2, (0.0, 1.0))
    mlp = snode.MLPField((9, 4, 9), output_activation=own, rng=0)
    fields = (
        snode.FunctionField(f, 9, n_layers=3),
        layered(activation=own),
        layered(activation=own).field,
        mlp,
        snode.Classifier.random(mlp, 3, rng=0),
    )
    for field in fields:
        calls.clear()
        with thread_limit(3):
            snode.predict(field, X, n_classes=3)
        assert calls == {threading.get_ident()}


def test_a_field_of_a_user_is_not_shared():
    class Own(snode.StandaloneField):
        def __call__(self, t, x):
            seen.add(threading.get_ident())
            return super().__call__(t, x)

    seen = set()
    with thread_limit(3):
        snode.predict(Own(np.zeros((2, 9, 9)), np.zeros((2, 9)), 1.0), X, n_classes=3)
    assert seen == {threading.get_ident()}


def test_training_evaluates_with_its_own_number_of_threads(monkeypatch):
    limits = []

    def spy(*arguments, **options):
        limits.append(threads._limit.get())
        return 0.5

    monkeypatch.setattr(snode.training.loop, "accuracy", spy)
    cost = snode.Cost(n_classes=3)
    snode.train(layered(), (X[:, :60], Y[:60]), cost, epochs=1, batch_size=30, rng=0, threads=1)
    assert limits
    assert set(limits) == {1}
