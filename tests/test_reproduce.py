"""Every figure and table by name: the list, the files that are written, what a user mistypes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from typer.testing import CliRunner

from snode import reproduce as papers
from snode.cli import app

ROOT = Path(__file__).parent.parent
NAMES = [f"{item.paper}/{item.name}" for item in papers.ITEMS]
HELPERS = {"common", "contractivity_common", "train_models"}


def run(*args, code=0):
    result = CliRunner().invoke(app, ["reproduce", *map(str, args)])
    assert result.exit_code == code, result.output + result.stderr
    return result


def test_every_demo_is_in_the_list():
    scripts = {
        f"{path.parent.name}/{path.stem}"
        for path in (ROOT / "demos").glob("*/*.py")
        if path.stem not in HELPERS
    }
    assert {item.script for item in papers.ITEMS} == scripts
    assert len(set(NAMES)) == len(NAMES)


def test_every_recorded_run_is_in_the_list():
    records = {path.stem for path in (ROOT / "demos" / "results").glob("*.json")}
    assert {item.record for item in papers.ITEMS if item.record} == records


def test_the_list_names_papers_items_times_and_verdicts():
    rows = json.loads(run("--list", "--json").stdout)
    assert [f"{row['paper']}/{row['item']}" for row in rows] == NAMES
    assert all(row["title"] and row["quick"] and row["full"] for row in rows)
    attacks = next(row for row in rows if row["item"] == "table03")
    record = json.loads(
        (ROOT / "demos/results/fig05_fig12_table03_attacks.json").read_text(encoding="utf-8")
    )
    verdicts = [claim["agrees"] for claim in record["claims"]]
    assert attacks["recorded"] == {"claims": len(verdicts), "agree": sum(verdicts)}
    text = run().stdout
    assert all(item.name in text for item in papers.ITEMS)
    assert "table03" not in run("003").stdout


@pytest.mark.parametrize(
    ("typed", "name"),
    [("fig5", "fig05"), ("FIG05", "fig05"), ("figure05", "fig05"), ("table2", "table02"),
     ("Table_2", "table02"), ("fig13", "fig13"), ("digits", "digits")],
)  # fmt: skip
def test_names_may_be_written_as_people_do(typed, name):
    assert papers.find("001", typed).name == name


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["005", "fig1"], "paper must be one of 001, 003, lessons; got '005'"),
        (["005"], "paper must be one of 001, 003, lessons; got '005'"),
        (["001", "fig99"], "item must be one of fig02, table01"),
        (["003", "fig05"], "item must be one of inner_flow"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(args, says):
    assert says in " ".join(run(*args, code=2).stderr.split())


def test_a_lesson_is_drawn_recorded_and_said(tmp_path):
    text = run("lessons", "adjoint_by_hand_one_neuron", "--out", tmp_path, "--seed", 3).stdout
    figure = tmp_path / "lessons" / "adjoint_by_hand_one_neuron.png"
    assert str(figure) in text.replace("\n", "")
    assert image.imread(figure).std() > 0.01
    record = json.loads(figure.with_suffix(".json").read_text(encoding="utf-8"))
    assert (record["paper"], record["size"], record["seed"]) == ("lessons", "quick", 3)
    assert record["environment"]["packages"]["numpy"] == np.__version__


def test_claims_are_printed_with_verdicts_and_kept(tmp_path):
    text = run("003", "inner_flow", "--out", tmp_path).stdout
    record = json.loads((tmp_path / "003/inner_flow.json").read_text(encoding="utf-8"))
    assert len(record["claims"]) == 6
    for claim in record["claims"]:
        verdict = "holds" if claim["agrees"] else "fails"
        assert f"{verdict}: {claim['claim']}" in text


def test_json_is_only_json(tmp_path):
    (record,) = json.loads(
        run("lessons", "dissipative_adjoint", "--out", tmp_path, "--json").stdout
    )
    assert Path(record["figure"]).is_file()
    assert record["item"] == "dissipative_adjoint"


@pytest.fixture
def small_networks(demo, monkeypatch):
    train_models = demo("snode/train_models")
    monkeypatch.setitem(train_models.LAYERS, "quick", 6)
    monkeypatch.setitem(train_models.EPOCHS, "quick", 0.01)
    return train_models


def test_networks_are_trained_once_and_progress_is_told(small_networks, tmp_path):
    seen = []
    papers.reproduce("001", "fig11", out=tmp_path, callback=seen.append)
    whats = [state.what for state in seen]
    assert [w for w in whats if "network 3 of 3" in w]
    assert all(0 <= state.done <= state.total for state in seen)
    seen.clear()
    papers.reproduce("001", "fig11", out=tmp_path, callback=seen.append)
    assert not [state for state in seen if "training" in state.what]


def test_a_stopped_training_says_that_the_same_command_goes_on(
    small_networks, tmp_path, monkeypatch
):
    monkeypatch.setattr(small_networks, "train", lambda *args: None)
    message = run("001", "fig11", "--out", tmp_path, code=1).stderr
    assert "goes on from here" in message


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_item_of_the_list_can_be_made(name, small_networks, tmp_path_factory):
    paper, item = name.split("/")
    out = tmp_path_factory.getbasetemp() / "reproduced"  # the networks are shared
    made = papers.reproduce(paper, item, out=out)
    assert made.figure == out / paper / f"{item}.png"
    assert image.imread(made.figure).std() > 0.01
    record = json.loads(made.record.read_text(encoding="utf-8"))
    assert record["claims"] == [
        {"claim": text, "agrees": agrees, "measured": measured}
        for text, agrees, measured in made.claims
    ]
    assert record["numbers"]


@pytest.mark.slow
def test_it_works_from_an_installed_package(tmp_path):
    """A wheel, unpacked elsewhere: the demos come with it."""
    wheel = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    source = tmp_path / "source"
    for path in ("snode", "demos", "pyproject.toml", "setup.py", "README.md", "LICENSE"):
        _copy(ROOT / path, source / path)
    built = subprocess.run([*wheel, "-w", tmp_path, source], capture_output=True, text=True)
    if "No module named" in built.stderr or "setuptools" in built.stderr:
        pytest.skip(f"no wheel can be built here: {built.stderr.splitlines()[-1]}")
    assert built.returncode == 0, built.stderr
    (file,) = tmp_path.glob("*.whl")
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run([sys.executable, "-m", "zipfile", "-e", file, site], check=True)
    env = {**os.environ, "PYTHONPATH": str(site), "HOME": "/nonexistent"}
    command = [sys.executable, "-m", "snode", "reproduce", "lessons", "stability_regions"]
    subprocess.run(command, cwd=elsewhere, env=env, check=True, capture_output=True)
    assert (elsewhere / "reproduced/lessons/stability_regions.png").is_file()


def _copy(source, target):
    import shutil

    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.nb?"))
    else:
        shutil.copy(source, target)
