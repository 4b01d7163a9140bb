"""The command line: exit codes, one-line errors, files of a run, resuming."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

import snode
from snode.cli import app

QUICK = ["train", "--data", "two_moons", "--n-layers", "10", "--eval-every", "1",
         "--activation", "tanh", "--batch-size", "250"]  # fmt: skip


def run(*args, code=0):
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == code, result.output + result.stderr
    return result


@pytest.fixture(scope="module")
def moons(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    run(*QUICK, "--epochs", 4, "--name", "moons", "--out", folder)
    return folder / "moons"


def test_run_folder_is_complete(moons):
    assert {p.name for p in moons.iterdir()} == {
        "model.safetensors", "checkpoint.safetensors", "options.json", "history.csv",
        "manifest.json", "report.png",
    }  # fmt: skip
    manifest = json.loads((moons / "manifest.json").read_text())
    assert 0.5 < manifest["train_accuracy"] <= 1
    assert 0.5 < manifest["test_accuracy"] <= 1
    assert manifest["seed"] == 1
    assert manifest["status"] == "SUCCESS"
    assert manifest["minibatches"] == 24
    assert "numpy" in manifest["environment"]["packages"]
    assert set(manifest["noise_accuracy"]) == {"0.1", "0.2", "0.4"}


def test_history_has_a_line_for_every_minibatch(moons):
    with (moons / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    assert all(float(r["cost_after"]) < float(r["cost"]) for r in rows)
    assert [r["batch"] for r in rows if r["test_accuracy"]] == ["6", "12", "18", "24"]


def test_manifest_accuracy_is_that_of_the_saved_model(moons):
    manifest = json.loads((moons / "manifest.json").read_text())
    result = run("evaluate", moons, "--noise", "0", "--json")
    numbers = json.loads(result.stdout)
    assert numbers["test_accuracy"] == manifest["test_accuracy"]
    assert numbers["noise_accuracy"]["0"] == manifest["test_accuracy"]
    assert snode.load(moons / "model.safetensors").manifest["seed"] == 1


def test_json_output_is_only_json(tmp_path):
    result = run(*QUICK, "--epochs", 1, "--name", "a", "--out", tmp_path, "--json")
    assert json.loads(result.stdout)["minibatches"] == 6


def test_resumed_run_is_bit_identical(moons, tmp_path):
    run(*QUICK, "--epochs", 2, "--name", "half", "--out", tmp_path)
    run("train", "--resume", tmp_path / "half", "--epochs", 4)
    ours, theirs = (snode.load(p / "model.safetensors").field for p in (tmp_path / "half", moons))
    np.testing.assert_array_equal(ours.W, theirs.W)
    assert (tmp_path / "half" / "history.csv").read_text() == (moons / "history.csv").read_text()


def test_check_passes_on_a_trained_model(moons):
    assert "all passed" in run("check", moons).stdout


@pytest.mark.parametrize("n_outputs", [None, 2, 3])
def test_evaluate_and_check_of_other_fields(tmp_path, n_outputs):
    """A read-out may have more outputs than the data have classes."""
    field = snode.MLPField((2, 4, 2), rng=0, time="concat")
    if n_outputs is not None:
        field = snode.Classifier.random(field, n_outputs, rng=2)
    path = tmp_path / "model.safetensors"
    snode.save(path, field, manifest={"options": {"data": "two_moons"}})
    assert "all passed" in run("check", path).stdout
    numbers = json.loads(run("evaluate", path, "--noise", "0,0.1", "--json").stdout)
    x, y = snode.datasets.two_moons(2000, rng=1)
    data = snode.datasets.train_test_split(x, y, test_fraction=0.25, rng=1)
    expected = snode.accuracy(field, data.x_test, data.y_test, n_classes=n_outputs or 2)
    assert numbers["test_accuracy"] == numbers["noise_accuracy"]["0"] == expected
    assert set(numbers["noise_accuracy"]) == {"0", "0.1"}
    assert "test accuracy" in run("evaluate", path).stdout


def test_a_read_out_with_too_few_outputs_is_refused(tmp_path):
    field = snode.Classifier.random(snode.MLPField((2, 4, 2), rng=0), 1, rng=2)
    path = tmp_path / "model.safetensors"
    snode.save(path, field)
    result = run("evaluate", path, "--data", "two_moons", code=2)
    assert "n_classes must be the number of outputs of the field, 1; got 2" in result.stderr


def test_info_names_versions_and_threads():
    numbers = json.loads(run("info", "--json").stdout)
    assert numbers["packages"]["numpy"] == np.__version__
    assert numbers["threads"] >= 1
    run("info")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["train", "--activation", "foo"], "activation must be one of"),
        (["train", "--activation", "elu:0.2"], "elu:alpha=0.2"),
        (["train", "--data", "no/such/file"], "no/such/file"),
        ([*QUICK, "--rule", "foo"], "rule must be one of"),
        ([*QUICK, "--epochs", "-1"], "epochs must be positive"),
        ([*QUICK, "--l2", "0"], "at least one of l2"),
        ([*QUICK, "--noise", "a,b"], "noise must be numbers"),
        ([*QUICK, "--noise=-1"], "noise must be finite"),
        (["train", "--data", "[/x]"], "[/x]"),
        ([*QUICK, "--dtype", "float16"], "dtype"),
        ([*QUICK, "--inner", "h2"], "inner must be one of"),
        ([*QUICK, "--learning-rate", "0.1"], "learning_rate is for the first-order"),
        (["train", "--resume", "nowhere"], "options.json"),
        (["train", "--resume", "x", "--seed", "2"], "seed cannot change"),
        (["evaluate", "nowhere"], "nowhere"),
        (["check", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_friendly_line(args, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*args, code=2)
    assert says in result.stderr
    assert "Traceback" not in result.output + result.stderr
    assert result.stderr.count("error:") == 1
    assert list(tmp_path.rglob("options.json")) == []


def test_existing_run_is_not_overwritten(moons):
    result = run(*QUICK, "--name", moons.name, "--out", moons.parent, code=2)
    assert "--resume" in result.stderr


def test_damaged_model_is_refused(moons, tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes((moons / "model.safetensors").read_bytes()[:-5])
    assert "bad.safetensors" in run("check", path, code=2).stderr


def test_first_order_method_and_sobolev_options(tmp_path):
    run(*QUICK, "--method", "rmsprop", "--epochs", 1, "--name", "r", "--out", tmp_path)
    run(*QUICK, "--inner", "h1", "--length", 0.5, "--rule", "PR+", "--ce", 1, "--l2", 0,
        "--epochs", 1, "--name", "h", "--out", tmp_path)  # fmt: skip


def test_module_runs_as_a_program():
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", "snode", "train", "--help"],
        capture_output=True, text=True, env=environment, check=True,
    )  # fmt: skip
    for option in ("--activation", "--resume", "--json", "--inner", "--n-layers"):
        assert option in done.stdout


@pytest.mark.parametrize("method", ["sensitivity", "deepfool", "pgd", "fgsm", "cw"])
def test_attack_writes_what_it_reports(moons, tmp_path, method):
    result = run("attack", moons, "--method", method, "--n", 30, "--eps", 0.3,
                 "--out", tmp_path / "a")  # fmt: skip
    assert "fooled" in result.stdout
    assert (tmp_path / "a.png").stat().st_size > 5_000
    with np.load(tmp_path / "a.npz") as file:
        arrays = dict(file)
    field = snode.load(moons / "model.safetensors").field
    labels = snode.predict(field, arrays["x_adv"], n_classes=2)
    np.testing.assert_array_equal(labels, arrays["label"])
    np.testing.assert_array_equal(labels != arrays["y"], arrays["success"])
    fooled = arrays["success"] & ~arrays["skipped"]
    assert f"{fooled.sum()} (" in result.stdout
    if method in ("pgd", "fgsm"):
        assert arrays["norminf"].max() <= 0.3 + 1e-6


def test_attacks_are_written_beside_the_model(moons):
    run("attack", moons, "--n", 5, "--method", "fgsm")
    assert (moons / "attack_fgsm.npz").exists()


def test_sensitivity_follows_a_perturbation(moons, tmp_path):
    result = run("sensitivity", moons, "--n", 20, "--noise", 0.001, "--out", tmp_path / "s")
    assert "relative error at T" in result.stdout
    with np.load(tmp_path / "s.npz") as file:
        arrays = dict(file)
    assert arrays["predicted"].shape == (len(arrays["t"]), 20)
    assert arrays["predicted"][0] == pytest.approx(arrays["measured"][0], rel=1e-3)
    assert (tmp_path / "s.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["attack", "{run}", "--method", "foo"], "method must be one of sensitivity"),
        (["attack", "{run}", "--n", "0"], "n must be positive"),
        (["attack", "{run}", "--method", "pgd", "--eps=-1"], "eps"),
        (["sensitivity", "{run}", "--noise", "0"], "noise must be positive"),
        (["sensitivity", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_to_the_analysis(args, says, moons):
    result = run(*[arg.format(run=moons) for arg in args], code=2)
    assert says in result.stderr
    assert result.stderr.count("error:") == 1
