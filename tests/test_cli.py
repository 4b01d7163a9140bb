"""The command line: exit codes, one-line errors, files of a run, resuming."""

import csv
import dataclasses
import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

import snode
from snode.analysis.growth import GrowthBound
from snode.cli import app
from snode.cli.certify import _factor, _growth_numbers, _ladder, _outward
from snode.fields import activations

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
    np.testing.assert_array_equal(ours.V, theirs.V)
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
        ([*QUICK, "--l2", "0", "--ce", "0"], "at least one of l2"),
        (["train", "--data", "no/such/file", "--epochs", "-1"], "epochs must be positive"),
        (["train", "--data", "no/such/file", "--method", "foo"], "method must be one of"),
        (["train", "--data", "no/such/file", "--rule", "foo"], "rule must be one of"),
        (["train", "--data", "no/such/file", "--depth", "0"], "depth must be positive"),
        ([*QUICK, "--seed", "-1"], "--seed must be 0 or larger"),
        ([*QUICK, "--test-fraction", "1"], "--test-fraction must be"),
        ([*QUICK, "--task", "regression", "--ce", "1"], "a regression needs l2"),
        ([*QUICK, "--noise", "a,b"], "noise must be numbers"),
        ([*QUICK, "--noise=-1"], "noise must be finite"),
        ([*QUICK, "--noise", "0.1,1e308"], "noise must be at most"),
        ([*QUICK, "--dtype", "float32", "--noise", "1e38"], "noise must be at most 3e+36"),
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


@pytest.mark.parametrize("bad", [["--l2", "1e308"], ["--ce", "1", "--scale", "1e30"]])
def test_a_run_that_learnt_nothing_has_failed(tmp_path, bad):
    where = ["--name", "r", "--out", tmp_path, "--epochs", 0.5, "--noise", "0"]
    result = run("train", "--data", "two_moons", "--n-layers", 3, *where, *bad, code=1)
    assert "no update was made" in result.stderr
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
    assert manifest["status"] == "NONFINITE_RHS"


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


# --- certify --------------------------------------------------------------------------------------


def certify(model, *args):
    result = run("certify", model, "--json", *args)
    assert result.stderr == ""
    return json.loads(result.stdout)


@pytest.fixture
def saved(tmp_path):
    def save(field, name="model"):
        path = tmp_path / f"{name}.safetensors"
        snode.save(path, field, manifest={"options": {"data": "two_moons"}})
        return path

    return save


def tied(b, activation="leaky", K=4, **options):
    if activation == "leaky":
        activation = snode.get_activation("leaky_tanh", alpha=0.2)
    A = np.array([[-1.0, b], [0.0, -1.0]])
    nodes = K + (options.get("interpolation", "constant") != "constant")
    biases = np.random.default_rng(0).standard_normal((nodes, 2))
    return snode.StandaloneField(
        A[None].repeat(nodes, axis=0), biases, 1.0, activation=activation, **options
    )


@pytest.mark.parametrize(("solver", "kind"), [("euler", "euler"), ("ode45", "flow")])
def test_certify_reports_what_the_functions_return(moons, tmp_path, solver, kind):
    numbers = certify(moons, "--n", 60, "--solver", solver, "--radii", "0,0.005,0.01",
                      "--out", tmp_path / "c")  # fmt: skip
    field = snode.load(moons / "model.safetensors").field
    x, y = snode.datasets.two_moons(2000, rng=1, dtype="float32")
    data = snode.datasets.train_test_split(x, y, test_fraction=0.25, rng=1)
    x, y = snode.load(moons / "model.safetensors").prepare(data.x_test[:, :60]), data.y_test[:60]
    for k, part in numbers["growth"].items():
        bound = snode.growth_bound(field, kind=k)
        assert part["log_factor"] == pytest.approx(bound.log_factor[-1], rel=1e-12)
        assert part["factor"] == pytest.approx(np.exp(part["log_factor"]))
        assert part["rate"] == pytest.approx([bound.upper.min(), bound.upper.max()], rel=1e-12)
    flow = snode.growth_bound(field)
    found = numbers["growth"]["flow"]
    assert found["rate_found"] == pytest.approx([flow.lower.min(), flow.lower.max()])
    assert found["rate_gap"] == pytest.approx((flow.upper - flow.lower).max(), abs=1e-9)
    assert found["log_factor_found"] == pytest.approx(0.1 * flow.lower.sum())
    assert "rate_found" not in numbers["growth"]["euler"]
    accurate = snode.Solver("ode45", rtol=1e-5, atol=1e-6)
    radius = snode.certified_radius(
        field, x, y, n_classes=2, solver={"euler": "euler", "ode45": accurate}[solver],
        growth=snode.growth_bound(field, kind=kind),
    )  # fmt: skip
    with np.load(tmp_path / "c.npz") as file:
        arrays = dict(file)
    assert arrays["radius"] == pytest.approx(radius.radius, rel=1e-9)
    assert arrays[f"{kind}_log_factor"][-1] == numbers["growth"][kind]["log_factor"]
    assert numbers["samples"] == 60
    assert numbers["correct"] == (radius.label == y).sum() > 30
    assert numbers["certified"] == (radius.radius > 0).sum() > 30
    assert numbers["median_radius"] == pytest.approx(np.median(radius.radius[radius.radius > 0]))
    assert numbers["largest_radius"] == pytest.approx(radius.radius.max())
    shares = {size: (radius.radius > float(size)).mean() for size in ("0", "0.005", "0.01")}
    assert numbers["certified_accuracy"] == pytest.approx(shares)
    assert shares["0"] > shares["0.01"] > 0
    assert numbers["layer"] is None
    assert (tmp_path / "c.png").stat().st_size > 5_000


def test_growth_is_told_from_both_sides():
    upper, lower = np.array([1.0, 3.0, 2.0]), np.array([0.5, 1.0, 1.75])
    bound = GrowthBound(
        np.array([0.0, 2.0]), np.array([0.0, 4.0]), np.array([0.0, 0.5, 1.5, 2.0]), upper, lower,
        "flow", "certificate",
    )  # fmt: skip
    numbers = _growth_numbers(bound)
    assert numbers["rate_gap"] == 2.0
    assert numbers["log_factor_found"] == 0.25 + 1.0 + 0.875
    assert numbers["rate_found"] == [0.5, 1.75]
    assert numbers["rate"] == [1.0, 3.0]
    one_side = _growth_numbers(dataclasses.replace(bound, lower=np.full(3, np.nan)))
    assert set(one_side) == {"factor", "log_factor", "rate"}


def test_certified_samples_keep_their_class(moons, tmp_path):
    certify(moons, "--n", 40, "--out", tmp_path / "c")
    with np.load(tmp_path / "c.npz") as file:
        arrays = dict(file)
    model = snode.load(moons / "model.safetensors")
    field = model.field
    x, y = snode.datasets.two_moons(2000, rng=1, dtype="float32")
    x = snode.datasets.train_test_split(x, y, test_fraction=0.25, rng=1).x_test[:, :40]
    x = model.prepare(x)
    certified = arrays["radius"] > 0
    assert np.array_equal(arrays["label"][certified], arrays["y"][certified])
    for angle in np.linspace(0, 2 * np.pi, 32):
        direction = np.array([[np.cos(angle)], [np.sin(angle)]])
        moved = (x + 0.999 * arrays["radius"] * direction).astype(np.float32)
        kept = snode.predict(field, moved, n_classes=2) == arrays["y"]
        assert kept[certified].all()


@pytest.mark.parametrize(
    "field",
    [
        tied(1.5),
        tied(1.5, interpolation="linear"),
        tied(1.5, K=1),
        snode.Classifier.random(tied(1.5), 2, rng=0),
        snode.MLPField.from_parameters(
            {"W1": np.array([[-1.0, 1.5], [0.0, -1.0]]), "b1": np.ones(2)},
            activation="tanh", output_activation=snode.get_activation("leaky_tanh", alpha=0.2),
        ),
    ],
    ids=["constant", "linear", "one-cell", "classifier", "mlp"],
)  # fmt: skip
def test_certify_one_layer_against_closed_forms(saved, field):
    """A = [[-1, b], [0, -1]] has m* = b^2/4; slopes (1, m), (m, m) or (1, 1) are extreme."""
    layer = certify(saved(field), "--n", 5)["layer"]
    vertices = [np.array([p, q]) for p in (0.2, 1.0) for q in (0.2, 1.0)]
    A = np.array([[-1.0, 1.5], [0.0, -1.0]])
    true = max(snode.log_norm(d[:, None] * A) for d in vertices)
    assert layer["slopes"] == [0.2, 1.0]
    assert layer["log_norm"]["lower"] - 1e-12 <= true <= layer["log_norm"]["upper"] + 1e-12
    assert layer["log_norm"]["gap"] < 1e-6
    assert layer["interval"]["m"] == pytest.approx(1.5**2 / 4, abs=1e-8)
    assert layer["interval"]["status"] == "FOUND"
    # with the shift, (1 + tau)^2 m = b^2/4
    assert layer["shift"]["tau"] == pytest.approx(0.75 / 0.2**0.5 - 1, abs=1e-6)
    assert layer["shift"]["lower"] == pytest.approx(layer["shift"]["tau"], abs=1e-6)


def test_certify_says_when_there_is_no_layer_of_its_own(saved):
    field = tied(1.5)
    W = field.W.copy()
    W[2, 0, 0] += 1e-9
    varying = snode.StandaloneField(W, field.b, 1.0, activation="leaky_tanh")
    assert certify(saved(varying), "--n", 5)["layer"] is None
    assert certify(saved(snode.MLPField((2, 4, 2), rng=0)), "--n", 5)["layer"] is None


def test_certify_prints_every_verdict(saved):
    rows = {
        "none: the smallest slope is not positive": tied(0.5, "relu"),
        "slopes in [m, 1], m any": snode.StandaloneField(
            np.zeros((2, 2, 2)), np.zeros((2, 2)), 1.0
        ),
        "none: the log norm of A is positive": tied(2.5),
        "undecided: the log norm of A is 0": tied(2.0),
        "0.5626, not below 0.5625": tied(1.5),
    }
    for says, field in rows.items():
        result = run("certify", saved(field), "--n", 5)
        assert says in " ".join(result.stdout.replace("│", " ").split()), result.stdout
        assert "log norm, slopes in [0" in result.stdout
        assert "contractive for slopes in [m, 1], m" in result.stdout
        assert "bounding the layer" in result.stderr


def test_certify_by_norms_is_coarser(moons, tmp_path):
    fine, coarse = (
        certify(moons, "--n", 30, "--method", method, "--out", tmp_path / "c")
        for method in ("certificate", "norms")
    )
    for kind in ("flow", "euler"):
        assert coarse["growth"][kind]["log_factor"] > fine["growth"][kind]["log_factor"]
        assert "rate_found" not in coarse["growth"][kind] or kind == "flow"
    assert coarse["largest_radius"] < fine["largest_radius"]


def test_certify_survives_growth_that_overflows(saved):
    field = snode.StandaloneField(5e3 * np.ones((2, 2, 2)), np.zeros((2, 2)), 1.0)
    model = saved(snode.Classifier.random(field, 2, rng=0))
    numbers = certify(model, "--n", 20, "--solver", "ode45", "--method", "norms")
    assert numbers["growth"]["flow"]["factor"] is None  # infinite
    assert numbers["growth"]["flow"]["log_factor"] > 5e3
    assert numbers["certified"] == numbers["largest_radius"] == 0
    result = run("certify", model, "--n", 20, "--solver", "ode45", "--method", "norms")
    assert "at most 10^" in result.stdout
    assert "0 of 20" in result.stdout


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["{run}", "--method", "foo"], "method must be one of certificate, norms"),
        (["{run}", "--solver", "rk4"], "solver must be one of euler, ode45"),
        (["{run}", "--radii", "a"], "radii must be numbers"),
        (["{run}", "--radii=-1"], "radii must be finite and >= 0"),
        (["{run}", "--n", "0"], "n must be positive"),
        (["nowhere"], "nowhere"),
    ],
)
def test_bad_input_to_certify(args, says, moons):
    result = run("certify", *[arg.format(run=moons) for arg in args], code=2)
    assert says in result.stderr
    assert result.stderr.count("error:") == 1
    assert "bounding" not in result.stderr


def test_certify_refuses_slopes_without_bound(saved, monkeypatch):
    monkeypatch.setattr(activations, "_TABLE", dict(activations._TABLE))
    cube = snode.register_activation(
        "cube", lambda a: a**3, lambda a: 3 * a**2, (0.0, float("inf"))
    )
    result = run("certify", saved(tied(0.5, cube)), "--n", 5, code=2)
    assert "the activation of layer 1 has slopes in [0, inf]" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("up", [True, False])
def test_printed_bounds_are_rounded_to_the_side_on_which_they_hold(up):
    values = np.random.default_rng(0).standard_normal(300) * 10.0 ** np.arange(-150, 150)
    for value in [*values, 0.0, np.inf, 5e-324]:
        shown = float(_outward(value, up=up))
        assert shown >= value if up else shown <= value
        assert shown == pytest.approx(value, rel=1.01e-3, abs=1e-323)
    assert _outward(0.12341, up=True) == "0.1235"
    assert _outward(-0.12341, up=True) == "-0.1234"
    assert _outward(1.5, up=False) == "1.5"


def test_printed_factors_are_bounds():
    assert _factor(np.log(2.0)) == "2"
    assert _factor(np.log(2.00001)) == "2.001"
    assert _factor(1000.0) == "10^434.3"
    assert _factor(1000 * np.log(10) + 1) == "10^1001"
    assert _factor(-50.0) == "10^-21.71"


@pytest.mark.parametrize("top", [0.0102, 0.01, 1.0, 4.9e-41, 7e12])
def test_default_radii_end_below_the_largest(top):
    radii = _ladder(np.array([top / 3, top, np.inf]))
    assert len(radii) == 5
    assert top / 2.51 <= radii[-1] < top
    assert all(1.99 < b / a < 2.51 for a, b in itertools.pairwise(radii))
    assert _ladder(np.array([])) == ()
