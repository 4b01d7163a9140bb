"""What callbacks are told, and the bar that shows it."""

import io
import os
import signal
import threading

import numpy as np
import pytest
from rich.console import Console

import snode
from snode.interrupts import NAMES, stop_on_signals
from snode.progress import Progress, bar, check_callback, tell


def shown(states, terminal, title="", stopped=None):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120, legacy_windows=False)
    with bar(title, console=console, stopped=stopped) as callback:
        answers = [callback(state) for state in states]
    return stream.getvalue(), answers


def test_tell_passes_the_state_and_the_wish():
    seen = []
    assert not tell(seen.append, 2, 5, "measuring", "cost 1")
    assert seen == [Progress(2, 5, "measuring", "cost 1")]
    assert tell(lambda state: np.bool_(state.done > 1), 2, 5, "x") is True
    assert tell(None, 2, 5, "x") is False


@pytest.mark.parametrize("wrong", [5, "bar", [print]])
def test_a_callback_must_be_a_function(wrong):
    with pytest.raises(TypeError, match="callback must be a function"):
        check_callback(wrong)


def test_without_a_terminal_each_kind_of_work_is_one_line():
    states = [Progress(k, 3, f"layer {k} of 3") for k in range(3)] + [Progress(0, 1, "[predict]")]
    text, answers = shown(states, False, "growth")
    assert text == "growth: layer 0 of 3 ...\ngrowth: [predict] ...\n"
    assert answers == [False] * 4


def test_on_a_terminal_there_is_a_bar_with_numbers():
    text, _ = shown([Progress(150, 200, "[layer] 150 of 200", "cost 0.25")], True, "growth")
    assert "growth: [layer] 150 of 200" in text
    assert "150/200" in text
    assert "cost 0.25" in text
    assert "nan" not in text


def test_the_bar_asks_whether_to_stop():
    _, answers = shown([Progress(1, 2, "a")] * 2, True, stopped=iter([False, True]).__next__)
    assert answers == [False, True]
    with bar(quiet=True, stopped=lambda: True) as callback:
        assert callback(Progress(0, None, "quiet"))


@pytest.mark.parametrize("name", NAMES)
def test_a_signal_becomes_a_flag_and_the_handlers_come_back(name, interrupts):
    number, heard = getattr(signal, name), []
    before = signal.getsignal(number)
    with stop_on_signals(heard.append) as stopped:
        assert not stopped()
        os.kill(os.getpid(), number)
        assert stopped()
    assert heard == [stopped.name] == [name]
    assert signal.getsignal(number) == before


def test_a_second_ctrl_c_interrupts_and_a_second_sigterm_does_not(interrupts):
    with stop_on_signals() as stopped:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stopped.name == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_work_inside_of_work_stops_both(interrupts):
    with stop_on_signals() as outer, stop_on_signals() as inner:
        os.kill(os.getpid(), signal.SIGTERM)
        assert inner()
        assert outer()


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with stop_on_signals() as stopped:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stopped()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_has_no_handlers():
    found = []

    def work():
        with stop_on_signals() as stopped:
            found.append(stopped())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]


# --- training -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moons():
    x, y = snode.datasets.two_moons(60, rng=0)
    return snode.StandaloneField.random(2, 1.0, 4, activation="tanh", rng=0), (x, y)


def train(moons, **options):
    options = {"n_iter": 1, "batch_size": 20, "epochs": 2, "rng": 0, "threads": 1} | options
    return snode.train(*moons, snode.Cost(n_classes=2), **options)


def test_train_tells_its_phases(moons):
    seen = []
    train(moons, progress=lambda state: seen.append((state.what, state.done, state.total)))
    assert seen == [
        ("compiling", 0, 6),
        *[("training", k, 6) for k in range(1, 7)],
        ("measuring accuracy", 6, 6),
    ]


def test_train_shows_a_bar(moons, capsys):
    train(moons, progress=True)
    error = capsys.readouterr().err
    assert "compiling ..." in error
    assert "measuring accuracy ..." in error
    train(moons)
    assert capsys.readouterr().err == ""


def test_details_of_training_have_no_nan(moons):
    details = []
    train(moons, epochs=1, progress=lambda state: details.append(state.detail))
    assert details[0] == details[-1] == ""
    assert "accuracy -" in details[1]
    assert not any("nan" in text for text in details)


@pytest.mark.parametrize("what", ["compiling", "training", "measuring accuracy"])
def test_progress_stops_the_training(moons, what):
    result = train(moons, eval_every=1, progress=lambda state: state.what == what)
    assert result.status is snode.Status.STOPPED
    assert result.n_batches == {"compiling": 1, "training": 1, "measuring accuracy": 3}[what]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_ends_a_run_with_its_checkpoint(moons, name, tmp_path, interrupts):
    path = tmp_path / "ck"

    def kill(state):
        if state.batch == 2:
            os.kill(os.getpid(), getattr(signal, name))

    result = train(moons, callback=kill, checkpoint=path)
    assert result.status is snode.Status.STOPPED
    assert result.message == f"stopped after 2 of 6 minibatches by {name}"
    rest, whole = train(moons, checkpoint=path, resume=True), train(moons)
    assert np.array_equal(rest.field.W, whole.field.W)


@pytest.mark.parametrize("wrong", [5, "yes", None])
def test_progress_must_be_a_flag_or_a_function(moons, wrong):
    if wrong is None:
        assert train(moons, progress=None).success
        return
    with pytest.raises(TypeError, match="callback must be"):
        train(moons, progress=wrong)


# --- full disks and killed writers ----------------------------------------------------------------


def full(monkeypatch, when):
    """Let writes of checkpoints fail as on a full disk, those that `when` says, counted from 1."""
    from snode.training import loop

    write, count = loop.save_arrays, iter(range(1, 100))

    def fails(path, *args):
        if when(next(count)):
            raise OSError(28, "No space left on device", str(path))
        write(path, *args)

    monkeypatch.setattr(loop, "save_arrays", fails)


def test_a_full_disk_keeps_the_field_and_the_last_checkpoint(moons, tmp_path, monkeypatch, caplog):
    whole, path = train(moons, eval_every=1 / 3), tmp_path / "ck"
    full(monkeypatch, lambda k: k >= 3)
    result = train(moons, eval_every=1 / 3, checkpoint=path)
    assert np.array_equal(result.field.W, whole.field.W)
    assert result.status is snode.Status.SUCCESS
    assert f"could not be written ({path}: No space left on device)" in result.message
    assert f"minibatch 3: checkpoint not written: {path}" in caplog.text
    assert "No space left on device" in caplog.text
    monkeypatch.undo()
    left = []
    again = train(moons, checkpoint=path, resume=True, callback=lambda s: left.append(s.batch))
    assert left == [3, 4, 5, 6]
    assert np.array_equal(again.field.W, whole.field.W)


def test_a_disk_that_was_full_for_a_while_is_forgotten(moons, tmp_path, monkeypatch):
    full(monkeypatch, lambda k: k < 3)
    result = train(moons, eval_every=1 / 3, checkpoint=tmp_path / "ck")
    assert result.message == "6 minibatches done"


def test_the_error_of_a_full_disk_names_the_file(tmp_path):
    resource = pytest.importorskip("resource")
    limits, path = resource.getrlimit(resource.RLIMIT_FSIZE), tmp_path / "arrays"
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    snode.io.save_arrays(path, {"a": np.zeros(3)}, {"kind": "test"})
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        with pytest.raises(OSError, match="File too large") as caught:
            snode.io.save_arrays(path, {"a": np.zeros(10_000)}, {"kind": "test"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert caught.value.filename == str(path)
    assert snode.io.load_arrays(path)[0]["a"].shape == (3,)
    assert os.listdir(tmp_path) == ["arrays"]


def test_files_of_killed_writers_are_removed_at_the_next_write(tmp_path):
    import platform

    path, node = tmp_path / "ck[1].s", platform.node()
    child = os.fork() if hasattr(os, "fork") else 0
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    dead = tmp_path / f".ck[1].s.{child}-{node}-00000000.tmp"
    old = tmp_path / ".ck[1].s.0badcafe.tmp"
    alive = tmp_path / f".ck[1].s.{os.getpid()}-{node}-00000000.tmp"
    young = tmp_path / ".ck[1].s.5-elsewhere-0badcafe.tmp"
    other = tmp_path / ".ck.s.0badcafe.tmp"
    for file in (dead, old, alive, young, other):
        file.write_bytes(b"")
    for file in (old, other):
        os.utime(file, (0, 0))
    snode.io.save_arrays(path, {}, {"kind": "test"})
    assert set(tmp_path.iterdir()) == {path, alive, young, other}


def test_another_number_of_threads_is_told_with_the_way_out(moons, tmp_path):
    train(moons, checkpoint=tmp_path / "ck", threads=2)
    with pytest.raises(snode.ModelFormatError, match=r"pass threads=2 \(--threads 2\) to go on"):
        train(moons, checkpoint=tmp_path / "ck", threads=1, resume=True)
