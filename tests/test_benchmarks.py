"""The benchmarks run in their smallest setting without any peer, and say who is missing."""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info

import snode

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "benchmarks"
PEERS = ("art", "cupy", "cvxpy", "diffrax", "jax", "sklearn", "torch", "torchdiffeq")
MISSING = {
    "attack": {"ART"},
    "lognorm": {"CVXPY"},
    "ncg_iteration": {"jax", "torch"},
    "ode": {"diffrax", "torchdiffeq"},
    "small": {"jax", "torch"},
    "tables": {"scikit-learn"},
}
NAMES = sorted(path.stem for path in FOLDER.glob("[!_]*.py") if path.stem != "harness")


def strict(text):
    """Return the content of strict JSON."""

    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def load(monkeypatch):
    """Import a benchmark where no peer is installed."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    loaded = [name for name in sys.modules if name.partition(".")[0] in PEERS]
    for name in {*PEERS, *loaded}:
        monkeypatch.setitem(sys.modules, name, None)
    yield importlib.import_module
    for name in (*NAMES, "harness"):
        sys.modules.pop(name, None)


@pytest.fixture
def runner():
    spec = importlib.util.spec_from_file_location("benchmarks_main", FOLDER / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_smallest_setting_without_peers(name, load, tmp_path, capsys):
    out = tmp_path / "numbers.json"
    load(name).main(["--quick", "--json", str(out)])
    found, printed = strict(out.read_text()), capsys.readouterr().out
    assert {"environment", "date", "options", "results"} <= set(found)
    assert found["options"]["quick"] is True
    assert MISSING.get(name, set()) <= set(found["not_compared"])
    for peer in found["not_compared"]:
        assert f"{peer} is not compared: " in printed


def test_list_names_every_benchmark():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "list"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert all(len(line.split()) > 3 for line in lines)


def test_runs_as_a_package(tmp_path):
    # peers that cannot be imported: the process is started in seconds
    for peer in PEERS:
        (tmp_path / f"{peer}.py").write_text("raise ImportError('taken away')\n")
    path = os.pathsep.join([str(tmp_path), str(Path(snode.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "all", "--only", "small", "--quick", "--json"],
        cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = strict(done.stdout)
    assert set(found) == {"environment", "date", "results"}
    small = found["results"]["small"]
    assert small["not_compared"] == {"torch": "taken away", "jax": "taken away"}
    assert small["results"]["ms"]["float32"]["2"]["snode"] > 0


def test_a_benchmark_that_fails_is_an_entry(runner, tmp_path, capfd):
    (tmp_path / "a_broken.py").write_text("print('starts')\nraise RuntimeError('broke here')\n")
    (tmp_path / "a_late.py").write_text(
        "import sys\nopen(sys.argv[2], 'w').write('{}')\nsys.exit(3)\n"
    )
    (tmp_path / "b_silent.py").write_text('"""Writes nothing."""\n')
    (tmp_path / "c_good.py").write_text(
        "import sys\nopen(sys.argv[2], 'w').write('{\"results\": 1}')\nprint(sys.argv[3:])\n"
    )
    assert runner.main(["all", "--json", "--quick"], folder=tmp_path) == 1
    out, err = capfd.readouterr()
    results = strict(out)["results"]  # nothing but the object
    assert results["a_broken"]["failed"] == "exit status 1"
    assert "broke here" in results["a_broken"]["errors"]
    assert results["a_late"]["failed"] == "exit status 3"  # what it wrote may be half
    assert results["b_silent"]["failed"] == "wrote no numbers"
    assert results["c_good"] == {"results": 1}
    assert "starts" in err
    assert "['--quick']" in err
    assert "failed: a_broken, a_late, b_silent" in err
    good = ["all", "--json", str(tmp_path / "all.json"), "--only", "c_good"]
    assert runner.main(good, folder=tmp_path) == 0
    assert strict((tmp_path / "all.json").read_text())["results"] == {"c_good": {"results": 1}}


def test_medians_in_turns(load):
    harness = load("harness")
    order, times = [], {"a": iter([9.0, 1.0, 3.0, 2.0]), "b": iter([0.0, 5.0, 5.0, 5.0])}

    def clock(name):
        def read():
            order.append(name)
            return next(times[name])

        return read

    found = harness.medians({"a": clock("a"), "b": clock("b")}, 3)
    assert found == {"a": 2.0, "b": 5.0}  # the first turn warms up
    assert "".join(order) == "abababab"


def test_what_is_short_runs_for_a_while_before_the_time_that_counts(load):
    harness = load("harness")
    again = iter([0.1, 0.1, 0.5, 0.1, 0.1, 0.7])
    assert harness.medians({"it": again.__next__}, 1, settle=1.0) == {"it": 0.7}
    short, long = iter([7.0, 0.1, 8.0, 0.2, 9.0, 0.3]), iter([7.0, 5.0, 6.0, 4.0])
    found = harness.medians({"short": short.__next__, "long": long.__next__}, 2, settle=1.0)
    assert found["short"] == pytest.approx(0.25)
    assert found["long"] == 5.0


def test_in_turns_returns_the_last_value(load):
    values = iter(range(10))
    timed = load("harness").in_turns({"it": values.__next__}, 3)
    assert timed["it"][1] == 3
    assert timed["it"][0] >= 0


def test_a_peer_that_breaks_is_an_entry(load, tmp_path, capsys):
    harness = load("harness")

    def broken():
        raise ZeroDivisionError("in the peer")

    assert harness.available({"bad": broken, "good": lambda: 1}) == {"good": 1}
    args = argparse.Namespace(json=str(tmp_path / "x.json"), threads=None)
    found = harness.report(args, {"nan": np.nan})
    assert found["not_compared"] == {"bad": "ZeroDivisionError: in the peer"}
    assert strict((tmp_path / "x.json").read_text())["results"] == {"nan": None}
    assert harness.report(argparse.Namespace(json="-"), {"inf": np.inf})["not_compared"] == {}
    printed = capsys.readouterr().out
    assert strict(printed[printed.index("{") :])["results"] == {"inf": None}


def test_exponent_of_a_power(load):
    sizes = [10, 20, 50, 100]
    assert load("harness").exponent(sizes, [3e-3 * s**1.5 for s in sizes]) == pytest.approx(1.5)


def blas_libraries():
    return [library for library in threadpool_info() if library["user_api"] == "blas"]


@pytest.mark.skipif(not blas_libraries(), reason="needs a BLAS that threadpoolctl knows")
def test_variants_of_the_hot_path_take_effect(load):
    ideas = load("ideas")
    p, work = ideas.Problem(20, 4, 25), ideas.Workspace(2)
    found = {}
    for name, variant in ideas.VARIANTS.items():
        with variant.setting(work):
            problem = variant.problem(p.field, p.x, p.labels, p.cost, workspace=work)
            with ideas.hotpath.single_threaded_blas():
                blas = {library["num_threads"] for library in blas_libraries()}
            found[name] = (problem.gemm is None, len(problem.rounds), work.threads, blas)
    assert found.pop("threads inside of BLAS, not parts of the batch") == (False, 1, 1, {2})
    assert found.pop("products by Numba's np.dot (SciPy's BLAS)") == (True, 1, 2, {1})
    assert found.pop("gradient products every 10 layers") == (False, 3, 2, {1})
    assert all(value == (False, 1, 2, {1}) for value in found.values())
    assert len({variant.problem for variant in ideas.VARIANTS.values()}) == 6


def test_a_variant_with_other_numbers_is_refused(load, monkeypatch):
    ideas = load("ideas")
    p, work = ideas.Problem(20, 4, 5), ideas.Workspace(1)
    monkeypatch.setattr(ideas.NumpyInPlace, "_tangent", lambda *arguments: None)
    with pytest.raises(ArithmeticError, match="NumPy, no temporaries: other numbers"):
        ideas.iterations(p, 0, work)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_resident_memory_is_measured(load):
    memory = load("memory")
    before = memory.resident("VmRSS")
    block = np.ones(8_000_000)
    assert memory.resident("VmRSS") - before == pytest.approx(block.nbytes / 1e6, abs=2)
    del block
    assert memory.resident("VmHWM") >= before + 62  # the peak stays


def test_training_run_goes_on(load, tmp_path):
    memory = load("memory")
    options = ["--images", "50", "--depth", "4", "--every", "2", "--out", str(tmp_path)]
    memory.main(["--train", "2", *options])
    first = strict((tmp_path / "curve.json").read_text())
    memory.main(["--train", "3", *options])
    second = strict((tmp_path / "curve.json").read_text())
    assert second["rows"][:3] == first["rows"]
    assert [row["iteration"] for row in second["rows"]] == [0, 1, 2, 3]
    assert [row["test_accuracy"] is None for row in second["rows"]] == [False, True, False, False]
    assert (first["restarts"], second["restarts"]) == ([], [2])
    assert (tmp_path / "curve.png").stat().st_size > 1000
    # the rows belong to the model: its cost is the last one
    data, model = snode.datasets.load_mnist(), snode.load(tmp_path / "model.safetensors")
    x, y = data.x_train[:, :50], data.y_train[:50]
    x_T = snode.solve_direct(model.field, x).x_T
    assert snode.Cost().value(model.field, x_T, y) == pytest.approx(
        second["rows"][-1]["cost"], rel=1e-5
    )
    with pytest.raises(SystemExit, match="--images 50"):
        memory.main(["--train", "4", "--images", "60", *options[2:]])


def test_rows_after_the_model_are_dropped(load, tmp_path):
    # stopped between the two files: the model is of the iteration before
    memory = load("memory")
    options = ["--images", "50", "--depth", "4", "--out", str(tmp_path)]
    memory.main(["--train", "1", *options])
    model = (tmp_path / "model.safetensors").read_bytes()
    memory.main(["--train", "3", *options])
    (tmp_path / "model.safetensors").write_bytes(model)
    memory.main(["--train", "2", *options])
    found = strict((tmp_path / "curve.json").read_text())
    assert [row["iteration"] for row in found["rows"]] == [0, 1, 2]
    assert found["restarts"] == [1, 1]
