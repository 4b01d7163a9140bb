"""Folders of runs: nobody shares one, nothing is lost, and a run can always go on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import snode
from snode import runs
from snode.cli import app, streams
from snode.cli import output as cli_output
from snode.cli import train as cli_train

SMALL = [
    *["train", "--data", "two_moons", "--activation", "tanh", "--n-layers", "4", "--threads", "1"],
    *["--noise=", "--eval-every", "0.25", "--n-iter", "1", "--batch-size", "250"],
]


def run(*args, code=0):
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == code, result.output + result.stderr
    if code == 2:
        assert result.stderr.count("error:") == 1
        assert len(result.stderr.splitlines()) == 1
    return result


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    run(*SMALL, "--epochs", 1, "--name", "m", "--out", folder)
    return folder / "m"


# --- folders --------------------------------------------------------------------------------------


def test_default_names_get_a_suffix(tmp_path):
    folders = [runs.new_folder(tmp_path / "a", "x", given=False) for _ in range(4)]
    assert [f.name for f in folders] == ["x", "x-2", "x-3", "x-4"]


@pytest.mark.parametrize("given", [True, False])
def test_many_at_once_never_share(tmp_path, given):
    got, lock, count = [], threading.Barrier(12), []

    def claim():
        lock.wait()
        try:
            got.append(runs.new_folder(tmp_path, "x", given=given))
        except FileExistsError as error:
            count.append(str(error))

    threads = [threading.Thread(target=claim) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(got)) == len(got) == (1 if given else 12)
    assert len(count) == 12 - len(got)
    assert all("is not empty; choose another --name" in text for text in count)


def test_runs_of_one_second(tmp_path, monkeypatch):
    monkeypatch.setattr(cli_train.time, "strftime", lambda *_: "now")
    for seed in (3, 4, 4):
        run(*SMALL, "--epochs", 0.2, "--seed", seed, "--out", tmp_path)
    names = ("options.json", "manifest.json")
    found = {
        f.name: [json.loads((f / n).read_text())["seed"] for n in names] for f in tmp_path.iterdir()
    }
    assert found == {
        "two_moons-tanh-ncg-seed3-now": [3, 3],
        "two_moons-tanh-ncg-seed4-now": [4, 4],
        "two_moons-tanh-ncg-seed4-now-2": [4, 4],
    }


def test_an_empty_folder_may_be_named_and_a_full_one_may_not(tmp_path):
    (tmp_path / "mine").mkdir()
    run(*SMALL, "--epochs", 0.2, "--name", "mine", "--out", tmp_path)
    assert "--resume" in run(*SMALL, "--name", "mine", "--out", tmp_path, code=2).stderr


@pytest.mark.parametrize(
    "args",
    [
        [*SMALL, "--out", "{bad}/runs"],
        ["attack", "{model}", "--out", "{bad}/a"],
        ["sensitivity", "{model}", "--out", "{bad}/a"],
        ["certify", "{model}", "--out", "{bad}/a"],
    ],
)
def test_where_nothing_can_be_written_nothing_is_computed(args, model, tmp_path, monkeypatch):
    for name in ("train", "sensitivity_attack", "propagate", "growth_bound"):
        monkeypatch.setattr(snode, name, lambda *_, **__: pytest.fail("computed"), raising=False)
    (tmp_path / "file").touch()
    args = [a.format(bad=tmp_path / "file", model=model) for a in args]
    assert str(tmp_path / "file") in run(*args, code=2).stderr


@pytest.mark.parametrize("command", ["attack", "sensitivity", "certify", "resume"])
def test_read_only_folders_are_refused_first(command, model, monkeypatch):
    def denied(**_):
        raise PermissionError(13, "Permission denied", "/x/tmp1234")

    monkeypatch.setattr(runs.tempfile, "TemporaryFile", denied)
    args = ["train", "--resume", model] if command == "resume" else [command, model]
    assert run(*args, code=2).stderr == f"error: {model}: Permission denied\n"


# --- options.json ---------------------------------------------------------------------------------

BAD = {
    "nested": ("[" * 100_000, "options.json"),
    "nested in a key": ('{"activation": ' + "[" * 5000 + "]" * 5000 + "}", "options.json"),
    "not an object": ("[1, 2]", "object"),
    "not JSON": ("{", "JSON"),
    "unknown": ('{"colour": 1}', "colour"),
    "number for text": ('{"activation": 5}', "activation must be text; got 5"),
    "null": ('{"activation": null}', "activation must be text"),
    "text for number": ('{"depth": "3"}', "depth must be a finite number"),
    "flag for number": ('{"n_layers": true}', "n_layers must be an integer"),
    "float for integer": ('{"n_layers": 2.5}', "n_layers must be an integer"),
    "number for flag": ('{"restart": 1}', "restart must be true or false"),
    "list for text": ('{"data": ["two_moons"]}', "data must be text"),
    "object for number": ('{"l2": {}}', "l2 must be a finite number"),
    "NaN": ('{"l2": NaN}', "options.json"),
    "infinite": ('{"depth": 1e400}', "options.json"),
    "huge integer": ('{"n_layers": 1' + 400 * "0" + "}", "n_layers must be an integer below"),
    "huge as float": ('{"depth": 1' + 400 * "0" + "}", "depth must be a finite number"),
    "too many layers": ('{"n_layers": 1000000000000000}', "n_layers"),
    "short list": ('{"encoding": [0]}', "encoding must be a list of 2"),
    "text in list": ('{"noise": [0.1, "a"]}', "noise must be a finite number"),
    "text for list": ('{"noise": "0.1"}', "noise must be a list"),
}


@pytest.mark.parametrize("kind", BAD)
def test_damaged_options_are_named_and_nothing_is_deleted(kind, tmp_path):
    text, says = BAD[kind]
    if kind not in ("unknown", "list for text") and text.startswith('{"'):
        text = '{"data": "two_moons", ' + text[1:]
    path = tmp_path / "options.json"
    path.write_text(text)
    assert says in run("train", "--resume", tmp_path, code=2).stderr
    assert path.read_text() == text


def test_a_record_is_read_as_it_was_written(tmp_path):
    options = cli_train.TrainOptions(encoding=(0.0, 1.0), noise=(), scale=2.0, depth=1)
    runs.write_json(tmp_path / "options.json", cli_train.asdict(options))
    found = runs.read_record(cli_train.TrainOptions, runs.read_options(tmp_path), tmp_path)
    assert found == options
    assert isinstance(found.depth, float)
    assert runs.read_record(cli_train.TrainOptions, {}, tmp_path) == cli_train.TrainOptions()


# --- resume ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"data": "gone.csv"}, {"activation": "nothing"}])
@pytest.mark.parametrize("epochs", ["nan", "0.2"])
def test_a_failed_resume_deletes_nothing(options, epochs, tmp_path):
    stored = json.dumps({"data": "two_moons", "n_layers": 3, "threads": 1, "noise": []} | options)
    (tmp_path / "options.json").write_text(stored)
    failed = bool(options) or epochs == "nan"
    run("train", "--resume", tmp_path, "--epochs", epochs, code=2 if failed else 0)
    if failed:
        assert (tmp_path / "options.json").read_text() == stored


def test_moved_data(tmp_path, monkeypatch):
    x, y = snode.datasets.two_moons(100, rng=0)
    monkeypatch.chdir(tmp_path)
    table = np.column_stack([x.T, y])
    np.savetxt("d.csv", table, delimiter=",")
    (tmp_path / "other").mkdir()
    args = [*SMALL, "--batch-size", 25, "--name", "r"]
    args[args.index("two_moons")] = "d.csv"
    run(*args, "--epochs", 0.5)
    monkeypatch.chdir(tmp_path / "other")
    folder = tmp_path / "runs" / "r"
    run("train", "--resume", folder, "--epochs", 0.75)  # from another folder
    (tmp_path / "d.csv").rename(tmp_path / "other" / "e.csv")
    before = (folder / "options.json").read_text()
    assert f"--resume {folder} --data PATH" in run("train", "--resume", folder, code=2).stderr
    table[7, 0] += 1e-3
    np.savetxt("wrong.csv", table, delimiter=",")
    refused = run("train", "--resume", folder, "--epochs", 1, "--data", "wrong.csv", code=2)
    assert "data" in refused.stderr
    assert (folder / "options.json").read_text() == before
    run("train", "--resume", folder, "--epochs", 1, "--data", "e.csv")
    assert json.loads((folder / "options.json").read_text())["data"] == str(Path.cwd() / "e.csv")
    assert json.loads((folder / "manifest.json").read_text())["epochs"] == 1
    assert "seed cannot change" in run("train", "--resume", folder, "--seed", 5, code=2).stderr


# --- signals --------------------------------------------------------------------------------------


@pytest.fixture
def killed(monkeypatch, interrupts):
    def at(minibatch, *names):
        call = cli_train._Kept.__call__

        def report(self, state):
            if state.what == "training" and state.done == minibatch:
                for name in names:
                    os.kill(os.getpid(), getattr(signal, name))
            return call(self, state)

        monkeypatch.setattr(cli_train._Kept, "__call__", report)

    return at


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_a_run_as_it_should(name, killed, tmp_path):
    killed(2, name)
    before = signal.getsignal(signal.SIGTERM)
    result = run(*SMALL, "--epochs", 2, "--name", "r", "--out", tmp_path, code=1)
    said = result.stderr
    assert f"{name.replace('SIGINT', 'Ctrl-C')}: finishes this minibatch, writes checkpoint" in said
    assert said.count(f"go on with: python -m snode train --resume {tmp_path / 'r'}") == 2
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
    assert manifest["minibatches"] == 2
    assert manifest["status"] == "STOPPED"
    assert (manifest["train_accuracy"] is None) == (name != "SIGINT")  # killed soon: no time
    assert snode.load(tmp_path / "r" / "model.safetensors").field.n == 2
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_ctrl_c_says_how_to_go_on(killed, tmp_path):
    killed(2, "SIGINT", "SIGINT")
    said = run(*SMALL, "--epochs", 2, "--name", "r", "--out", tmp_path, code=1).stderr
    last = said.splitlines()[-1]
    assert "interrupted: the last checkpoint is kept; go on with: " in last
    assert f"--resume {tmp_path / 'r'}" in last


def test_ctrl_c_while_accuracies_are_measured(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_train, "final_numbers", interrupted)
    said = run(*SMALL, "--epochs", 0.5, "--name", "r", "--out", tmp_path, code=1).stderr
    assert "checkpoint and model are written, the accuracies are not measured" in said
    assert json.loads((tmp_path / "r" / "manifest.json").read_text())["test_accuracy"] is None
    monkeypatch.undo()
    run("train", "--resume", tmp_path / "r")
    assert json.loads((tmp_path / "r" / "manifest.json").read_text())["test_accuracy"] is not None


@pytest.mark.parametrize("command", ["attack", "certify"])
def test_ctrl_c_shows_what_was_found(command, model, tmp_path, monkeypatch, interrupts):
    bar = cli_output.bar

    def killing(*args, **options):
        os.kill(os.getpid(), signal.SIGINT)
        return bar(*args, **options)

    monkeypatch.setattr(cli_output, "bar", killing)
    result = run(command, model, "--n", 20, "--json", "--out", tmp_path / "a")
    assert "Ctrl-C: stops; what was found until now is shown" in result.stderr
    assert json.loads(result.stdout)["stopped"] is True
    assert (tmp_path / "a.npz").exists()
    monkeypatch.undo()
    result = run(command, model, "--n", 20, "--json", "--out", tmp_path / "a")
    assert json.loads(result.stdout)["stopped"] is False


@pytest.mark.parametrize("stage", ["numpy", "typer"])
def test_ctrl_c_while_importing_is_one_line(stage, tmp_path):
    (tmp_path / f"{stage}.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)\n"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(snode.__file__).parent.parent)])
    starts = [[sys.executable, "-m", "snode", "info"]]
    if stage == "typer":  # as the script of the console does
        (tmp_path / "snode-console").mkdir()
        script = tmp_path / "snode-console" / "snode"
        script.write_text("from snode.__main__ import main\nmain()\n")
        starts.append([sys.executable, str(script), "info"])
    for start in starts:
        done = subprocess.run(
            start, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (1, "error: interrupted\n")


# --- full disks -----------------------------------------------------------------------------------


def test_a_disk_that_is_full_at_the_end(tmp_path, monkeypatch):
    def full(path, *_, **__):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(snode, "save", full)
    said = run(*SMALL, "--epochs", 0.5, "--name", "r", "--out", tmp_path, code=1).stderr
    assert f"{tmp_path / 'r' / 'model.safetensors'}: No space left on device; the last" in said
    assert "checkpoint is kept; go on with: " in said
    monkeypatch.undo()
    run("train", "--resume", tmp_path / "r")


def test_a_figure_that_cannot_be_drawn_costs_the_figure(model, tmp_path, monkeypatch):
    from snode import plotting

    def broken(*_, **__):
        raise RuntimeError("bad\nmatplotlibrc")

    monkeypatch.setattr(plotting, "training_report", broken)
    monkeypatch.setattr(plotting, "figure_of", broken)
    result = run(*SMALL, "--epochs", 0.5, "--name", "r", "--out", tmp_path)
    assert "report.png was not drawn: RuntimeError: bad matplotlibrc" in result.stderr
    assert "report.png" not in result.stdout
    assert (tmp_path / "r" / "manifest.json").exists()
    result = run("sensitivity", model, "--out", tmp_path / "s")
    assert "s.png was not drawn" in result.stderr
    assert (tmp_path / "s.npz").exists()


# --- streams and environment ----------------------------------------------------------------------


def test_a_closed_pipe_swallows_and_a_full_disk_is_remembered(tmp_path):
    read, write = os.pipe()
    os.close(read)
    raw = streams._Raw(write, "w")
    assert raw.write(b"abc") == 3
    assert raw.error.errno in streams.NOBODY
    assert raw.write(memoryview(b"more")) == 4
    raw.close()


PYTHON = f"{sys.executable} -m snode"


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        (f"{PYTHON} info --json >&-", 0, ""),
        (f"{PYTHON} check --help > /dev/full", 1,
         "error: the output could not be written: No space left on device\n"),
        (f"set -o pipefail; {PYTHON} info | true", 0, ""),
        (f"PYTHONUNBUFFERED=1 {PYTHON} --version > /dev/full", 1,
         "error: the output could not be written: No space left on device\n"),
        (f"{PYTHON} evaluate nowhere 2>&-", 2, ""),
    ],
)  # fmt: skip
def test_closed_and_full_streams(command, code, says):
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (code, says)


def test_a_run_goes_on_without_readers(tmp_path):
    args = " ".join([*SMALL, "--epochs 0.5 --name r --out", str(tmp_path)])
    environment = {**os.environ, "MPLBACKEND": "module://nowhere", "COLUMNS": "0"}
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {PYTHON} {args} 2>&1 | true"],
        capture_output=True, text=True, timeout=100, env=environment,
    )  # fmt: skip
    assert done.returncode == 0
    assert (tmp_path / "r" / "report.png").exists()


def test_figures_need_no_backend():
    code = (
        "from snode import plotting; import os\n"
        "figure = plotting.figure_of(lambda ax: ax.plot([0, 1]))\n"
        "print(type(figure.canvas).__name__, os.environ['MPLBACKEND'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "MPLBACKEND": "module://nowhere"},
    )  # fmt: skip
    assert done.stdout == "FigureCanvasAgg module://nowhere\n"


# --- help, version, JSON --------------------------------------------------------------------------


def test_version():
    assert run("--version").stdout == f"snode {snode.__version__}\n"


def test_help_has_an_order_examples_and_groups():
    text = run("--help").stdout
    commands = [line.split()[1] for line in text.splitlines() if line.startswith("│ ")]
    order = [c for c in commands if c in ("train", "evaluate", "attack", "certify", "info")]
    assert order == ["train", "evaluate", "attack", "certify", "info"]
    assert "snode train --resume" in text
    text = run("train", "--help").stdout
    for heading in ("Data", "Network", "Cost", "Method", "Measuring", "Folder of the run"):
        assert f"─ {heading} ─" in text


@pytest.mark.parametrize(
    "args",
    [[*SMALL, "--seed", "-1"], ["attack", "{model}", "--seed", "-1"],
     ["sensitivity", "{model}", "--seed", "-1"], ["certify", "{model}", "--seed", "-1"],
     ["evaluate", "{model}", "--seed", "-1"]],
)  # fmt: skip
def test_bad_seeds_name_the_option(args, model):
    assert (
        "--seed must be 0 or larger; got -1"
        in run(*[a.format(model=model) for a in args], code=2).stderr
    )


@pytest.mark.parametrize("command", ["attack", "sensitivity", "certify"])
def test_bad_counts_name_the_option(command, model):
    assert "--n must be positive; got 0" in run(command, model, "--n", 0, code=2).stderr


@pytest.mark.parametrize("value", ["1e300", "inf", "nan", "-1", "0"])
@pytest.mark.parametrize("interpolation", ["constant", "linear", "cubic"])
def test_bad_depths_name_the_option(value, interpolation, tmp_path):
    said = run(
        *SMALL, f"--depth={value}", "--interpolation", interpolation, "--out", tmp_path, code=2
    )
    assert "--depth" in said.stderr
    assert not list(tmp_path.iterdir())


def test_attack_sensitivity_and_check_as_json(model, tmp_path):
    out = ("--json", "--n", 25, "--out", tmp_path / "a")
    attack = run("attack", model, "--method", "deepfool", *out)
    numbers = json.loads(attack.stdout)
    with np.load(tmp_path / "a.npz") as file:
        fooled = file["success"] & ~file["skipped"]
        assert numbers["fooled"] == fooled.sum()
        assert numbers["norm2"]["max"] == pytest.approx(file["norm2"][fooled].max())
        assert numbers["attacked"] == (~file["skipped"]).sum()
    assert numbers["misclassified"] + numbers["attacked"] == numbers["samples"] == 25
    assert numbers["not_reached"] == 0
    noise = run("sensitivity", model, *out)
    numbers = json.loads(noise.stdout)
    with np.load(tmp_path / "a.npz") as file:
        assert numbers["measured"]["mean"] == pytest.approx(file["measured"][-1].mean())
    check = run("check", model, "--json")
    report = snode.check(snode.load(model / "model.safetensors").field, verbose=False)
    numbers = json.loads(check.stdout)
    assert numbers["passed"] is report.passed is True
    assert [row["name"] for row in numbers["rows"]] == [row.name for row in report.rows]
    assert attack.stderr == noise.stderr == check.stderr == ""


def test_check_says_what_no_remainder_means(tmp_path):
    field = snode.StandaloneField(np.zeros((3, 2, 2)), np.zeros((3, 2)), 1.0, activation="identity")
    snode.save(tmp_path / "m", field)
    text = run("check", tmp_path / "m").stdout
    assert "exact  (linear here: no remainder)" in text
    assert " inf" not in text


def test_run_time_is_that_of_the_command(tmp_path, monkeypatch):
    draw = cli_train._draw_report

    def slow(*args):
        time.sleep(0.5)
        draw(*args)

    monkeypatch.setattr(cli_train, "_draw_report", slow)
    started = time.perf_counter()
    text = run(*SMALL, "--epochs", 0.2, "--name", "r", "--out", tmp_path).stdout
    taken = time.perf_counter() - started
    shown = float(text.split("run time")[1].split("│")[1].split()[0])
    assert 0.5 <= shown <= taken + 0.06
