"""Defaults that follow the data, class names and scales in a model file, predictions of files."""

import csv
import json

import numpy as np
import pytest
from typer.testing import CliRunner

import snode
from snode.cli import app
from snode.cli.defaults import (
    IMAGES,
    TrainOptions,
    check_options,
    describe,
    resolve,
    stored_options,
)  # fmt: skip
from snode.cli.samples import Source, load_data, shown_name, shown_path
from snode.datasets import Dataset
from snode.datasets.classnames import match_names
from snode.datasets.features import load_features


def run(*args, code=0):
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == code, result.output + result.stderr
    return result


def write_table(path, x, y, names="abcdefgh"):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names[: x.shape[1]], "kind"])
        for row, label in zip(x, y, strict=True):
            writer.writerow([*map(repr, map(float, row)), label])
    return path


def blobs(count, classes, rng, scale=(1.0, 1000.0, 0.01)):
    """Features of very different scale around a centre for each class."""
    label = np.arange(count) % classes
    centres = 4 * np.array([[0, 0, 0], [1, 0, 1], [0, 1, 0], [1, 1, 1]])[label]
    return (centres + rng.standard_normal((count, 3))) * np.array(scale), label


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    x, label = blobs(150, 3, np.random.default_rng(0))
    path = write_table(folder / "pets.csv", x, np.array(["cat", "dog", "owl"])[label])
    result = run("train", "--data", path, "--out", folder, "--name", "run", "--noise", "0.1")
    return path, folder / "run", result


def test_a_table_is_learned_without_an_option(table):
    _, folder, result = table
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["test_accuracy"] >= 0.93
    options = manifest["options"]
    assert options["test_fraction"] == 0.2
    assert (options["activation"], options["l2"], options["ce"]) == ("tanh", 0.0, 1.0)
    assert options["read_out"] is options["standardise"] is True
    said = " ".join(result.stdout.split())
    for words in ("classes: cat, dog, owl", "20 % of each class", "features standardised",
                  "a linear read-out", "cross entropy", "standard deviations of the"):  # fmt: skip
        assert words in said
    assert "warning" not in result.stderr


def test_the_model_knows_names_and_scales(table):
    path, folder, _ = table
    model = snode.load(folder / "model.safetensors")
    assert model.classes.tolist() == ["cat", "dog", "owl"]
    data = load_data(Source(str(path), test_fraction=0.2))
    mean, scale = data.x_train.mean(axis=1), data.x_train.std(axis=1)
    np.testing.assert_allclose(model.standardisation[0], mean, rtol=1e-5)
    np.testing.assert_allclose(model.standardisation[1], scale, rtol=1e-5)
    raw = np.column_stack([data.x_test, data.x_train])
    names = model.classes[np.append(data.y_test, data.y_train)]
    assert (model.predict(raw) == names).mean() > 0.93
    prepared = model.prepare(raw.astype(np.float64))
    assert prepared.dtype == np.float32
    np.testing.assert_allclose(prepared[:, -120:].std(axis=1), 1, rtol=1e-4)
    with pytest.raises(ValueError, match=r"did you mean x\.T"):
        model.predict(raw.T)
    with pytest.raises(TypeError, match="real numbers"):
        model.prepare(raw.astype(str))


@pytest.mark.parametrize("classes", [[1, 2], [2, 1, 0], [0], [1]])
@pytest.mark.parametrize("suffix", ["csv", "npz"])
def test_labels_of_another_file_are_matched_by_name(table, tmp_path, classes, suffix):
    _, folder, _ = table
    x, label = blobs(300, 3, np.random.default_rng(1))
    kept = np.isin(label, classes)
    x, names = x[kept], np.array(["cat", "dog", "owl"])[label[kept]]
    path = tmp_path / f"other.{suffix}"
    if suffix == "csv":
        write_table(path, x, names)
    else:
        np.savez(path, x=x, y=names)
    numbers = json.loads(run("evaluate", folder, "--data", path, "--json").stdout)
    assert numbers["accuracy"] == numbers["train_accuracy"] > 0.9
    assert numbers["test_accuracy"] is None
    said = run("evaluate", folder, "--data", path).stdout
    assert "accuracy on other" in said
    assert "training" not in said
    result = run("attack", folder, "--data", path, "--method", "fgsm", "--n", 20,
                 "--out", tmp_path / "a")  # fmt: skip
    with np.load(tmp_path / "a.npz") as file:
        expected = [["cat", "dog", "owl"].index(name) for name in names[:20]]
        np.testing.assert_array_equal(file["y"], expected)
        assert file["skipped"].mean() < 0.2
    assert "correctly classified samples" in result.stdout or "None of the" in result.stdout


@pytest.mark.parametrize("command", ["evaluate", "attack", "sensitivity", "certify"])
def test_unknown_classes_and_other_features_are_refused_by_name(table, tmp_path, command):
    _, folder, _ = table
    x, label = blobs(30, 3, np.random.default_rng(1))
    path = write_table(tmp_path / "fish.csv", x, np.array(["cat", "cod", "owl"])[label])
    says = run(command, folder, "--data", path, code=2).stderr
    assert "labels cod not among the classes cat, dog, owl" in says
    path = write_table(tmp_path / "wide.csv", np.hstack([x, x]), ["cat"] * 30)
    says = run(command, folder, "--data", path, code=2).stderr
    assert "not among the features of the model" in says
    path.write_text(path.read_text().split("\n", 1)[1])  # no names
    says = run(command, folder, "--data", path, code=2).stderr
    assert "wide has 6 features; the model takes 3" in says


@pytest.mark.parametrize("trained", ["int", "text", "gap"])
@pytest.mark.parametrize("other", ["int", "float", "text", "float text"])
def test_numbers_are_one_name_however_they_are_written(trained, other):
    ours = {"int": [0, 1, 2], "text": ["0", "1", "2"], "gap": [1, 2, 7]}[trained]
    spelled = {"int": int, "float": float, "text": str, "float text": lambda k: f"{k}.0"}[other]
    theirs = [spelled(int(k)) for k in (ours[2], ours[1])]
    assert match_names(theirs, ours).tolist() == [2, 1]
    with pytest.raises(ValueError, match=r"classes 9.* not among the classes"):
        match_names([spelled(9)], ours)


def test_names_that_differ_in_writing_only_are_told_apart():
    assert match_names(["1.0", "1"], ["1", "1.0"]).tolist() == [1, 0]
    assert match_names([" dog"], ["cat", "dog"]).tolist() == [1]
    with pytest.raises(ValueError, match="01"):
        match_names(["01"], ["1", "1.0"])
    with pytest.raises(ValueError, match="Dog"):
        match_names(["Dog"], ["cat", "dog"])


def test_with_classes_keeps_samples_and_refuses_targets():
    data = Dataset(np.eye(3), np.array([0, 2, 2]), np.eye(3), np.array([2, 0, 0]))
    again = data.with_classes(["2", "1", "0"])
    assert again.y_train.tolist() == [2, 0, 0]
    assert again.y_test.tolist() == [0, 2, 2]
    assert again.n_classes == 3
    assert again.x_train is data.x_train
    assert data.with_classes(["0", "2"]).n_classes == 2  # class 1 has no sample
    with pytest.raises(ValueError, match="float targets"):
        Dataset(np.eye(3), np.ones((1, 3))).with_classes([1])


# --- standardising and splitting ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_standardised_with_the_training_numbers(dtype):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((3, 50)) * [[1], [1e3], [0]] + [[5], [1e4], [7.1]]).astype(dtype)
    data = Dataset(x[:, :40], np.arange(40) % 2, x[:, 40:], np.arange(10) % 2)
    ready = data.standardised()
    assert ready.x_train.dtype == np.dtype(dtype)
    np.testing.assert_allclose(ready.x_train.mean(axis=1), 0, atol=1e-4)
    np.testing.assert_allclose(ready.x_train[:2].std(axis=1), 1, rtol=1e-4)
    assert (ready.x_train[2] == 0).all()
    mean, scale = ready.standardisation
    np.testing.assert_allclose(ready.x_test, (x[:, 40:] - mean[:, None]) / scale[:, None])
    np.testing.assert_allclose(ready.decode(ready.x_test), x[:, 40:], rtol=1e-4)
    np.testing.assert_allclose(ready.decode(ready.x_test[:, 0]), x[:, 40], rtol=1e-4)
    common = data.standardised(common=True)
    assert (common.standardisation[1] == common.standardisation[1][0]).all()
    np.testing.assert_allclose(common.x_train.std(), 1, rtol=1e-4)
    with pytest.raises(ValueError, match="standardised already"):
        ready.standardised()
    with pytest.raises(ValueError, match="split first"):
        Dataset(x, np.arange(50) % 2).standardised().split(0.2)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        data.standardised((mean[:2], scale[:2]))
    with pytest.raises(ValueError, match="must be positive"):
        data.standardised((mean, 0 * scale))


@pytest.mark.parametrize("sizes", [(50, 50, 50), (90, 8, 2), (3, 1, 1), (17, 16, 1)])
@pytest.mark.parametrize("fraction", [0.2, 0.25])
def test_stratified_split_takes_the_share_of_each_class(sizes, fraction):
    y = np.repeat(np.arange(3), sizes)
    x = np.arange(len(y), dtype=float)[None]
    data = Dataset(x, y).split(fraction, rng=3, stratified=True)
    assert len(data.y_test) == round(fraction * len(y))
    counts = np.bincount(data.y_test, minlength=3)
    assert (np.abs(counts - fraction * np.array(sizes)) < 1 + (min(sizes) == 1)).all()
    assert (np.bincount(data.y_train, minlength=3) >= 1).all()
    np.testing.assert_array_equal(np.sort(np.hstack([data.x_train, data.x_test])), x)
    np.testing.assert_array_equal(y[data.x_test[0].astype(int)], data.y_test)
    other = Dataset(x, y).split(fraction, rng=4, stratified=True)
    assert min(sizes) == 1 or not np.array_equal(other.x_test, data.x_test)


def test_a_split_that_would_lose_a_class_is_refused():
    with pytest.raises(ValueError, match="without a training sample"):
        Dataset(np.zeros((1, 4)), np.arange(4)).split(0.5, rng=0, stratified=True)
    with pytest.raises(ValueError, match="needs classes"):
        Dataset(np.zeros((1, 4)), np.zeros((1, 4))).split(0.5, rng=0, stratified=True)


# --- options --------------------------------------------------------------------------------------


def test_mnist_and_pixels_keep_the_defaults_of_the_paper(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (30, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x=images, y=np.arange(30) % 2)
    for asked in (TrainOptions(), TrainOptions(data=str(tmp_path / "images.npz"))):
        data = load_data(Source.of(asked))
        used, same = resolve(asked, data)
        assert same is data
        for name, value in {"depth": 3.0, "n_layers": 150, "l2": 1.0, "ce": 0.0, "epochs": 0.25,
                            "batch_size": 100, "n_iter": 6, "activation": "relu", "decay": 0.0,
                            "eval_every": 0.05, "read_out": False, "standardise": False,
                            "test_fraction": None}.items():  # fmt: skip
            assert getattr(used, name) == value, name
        assert data.encoding == (0.0, -1.0)
        assert "encoding: background 0, ink -1" in describe(asked, used, data)[0]
    assert set(IMAGES) <= set(TrainOptions.__dataclass_fields__)


@pytest.mark.parametrize(
    ("asked", "weights"),
    [
        ({}, (0.0, 1.0)),
        ({"l2": 1.0}, (1.0, 0.0)),
        ({"l2": 0.5}, (0.5, 0.0)),
        ({"ce": 2.0}, (0.0, 2.0)),
        ({"ce": 0.0}, (1.0, 0.0)),
        ({"l2": 0.0}, (0.0, 1.0)),
        ({"l2": 1.0, "ce": 1.0}, (1.0, 1.0)),
    ],
)
def test_what_the_user_gives_wins(asked, weights):
    asked = {"activation": "relu", "depth": 2.0, "n_layers": 7, "batch_size": 33, "epochs": 1.5,
             "decay": 0.5, "n_iter": 3, "eval_every": 0.3, "read_out": False,
             "standardise": False, "data": "two_moons", **asked}  # fmt: skip
    options = TrainOptions(**asked)
    used, data = resolve(options, load_data(Source.of(options)))
    assert (used.l2, used.ce) == weights
    for name, value in asked.items():
        assert getattr(used, name) == value
    assert data.standardisation is None


@pytest.mark.parametrize("name", ["two_moons", "table", "images"])
def test_resolving_twice_changes_nothing(table, tmp_path, name):
    images = np.random.default_rng(0).standard_normal((40, 3, 3))
    np.savez(tmp_path / "images.npz", x=images, y=np.arange(40) % 2)
    path = {"two_moons": name, "table": str(table[0]), "images": str(tmp_path / "images.npz")}[name]
    asked = TrainOptions(data=path, standardise=True if name == "images" else None)
    used, data = resolve(asked, load_data(Source.of(asked)))
    again, same = resolve(used, load_data(Source.of(used)))
    assert again == used
    np.testing.assert_array_equal(data.x_train, same.x_train)
    np.testing.assert_array_equal(data.x_test, same.x_test)
    np.testing.assert_array_equal(data.y_test, same.y_test)
    stored = json.loads(json.dumps(used.__dict__))
    assert stored_options(stored) == used


def test_options_of_an_older_version_mean_what_they_meant(table):
    old = {"data": str(table[0]), "activation": "relu", "depth": 3.0, "n_layers": 150, "l2": 1.0,
           "ce": 0.0, "decay": 0.0, "epochs": 0.25, "batch_size": 100, "n_iter": 6,
           "eval_every": 0.05, "encoding": None, "noise": [0.1], "seed": 1}  # fmt: skip
    options = stored_options(old)
    used, data = resolve(options, load_data(Source.of(options)))
    assert data.x_test is None
    assert data.standardisation is None
    assert used == options
    moons = stored_options(old | {"data": "two_moons"})
    assert load_data(Source.of(moons)).x_test.shape[1] == 500
    with pytest.raises(ValueError, match=r"unknown options \['colour'\]"):
        stored_options(old | {"colour": "red"})


@pytest.mark.parametrize("value", [{"activation": 5}, {"activation": None, "seed": None},
                                   {"epochs": "2"}, {"epochs": True}, {"noise": [None]},
                                   {"noise": "x"}, {"data": 3}, {"encoding": [1.0]},
                                   {"batch_size": 1.5}])  # fmt: skip
def test_options_of_a_wrong_type_are_refused_by_name(value):
    with pytest.raises((ValueError, TypeError), match=r"must be|iterable"):
        check_options(stored_options({"data": "two_moons", **value}))


# --- reading --------------------------------------------------------------------------------------


def test_label_column_and_other_options_of_the_data(tmp_path):
    x, label = blobs(60, 2, np.random.default_rng(0), (1.0, 1.0, 1.0))
    rows = zip(np.array(["no", "yes"])[label], *x.T, strict=True)
    lines = ["kind;a;b;c", *(";".join(map(str, row)) for row in rows)]
    path = tmp_path / "first.csv"
    path.write_text("\n".join(lines))
    for column in ("kind", "0", "-4"):
        data = load_data(Source(str(path), label_column=column, delimiter=";"))
        assert data.x_train.shape == (3, 60)
        assert data.classes.tolist() == ["no", "yes"]
    args = ("train", "--data", path, "--label-column", "kind", "--epochs", 1, "--noise", "",
            "--out", tmp_path, "--name")  # fmt: skip
    run(*args, "run")
    assert "accuracy" in run("evaluate", tmp_path / "run").stdout
    copy = tmp_path / "copy.csv"
    copy.write_text("\n".join(lines))
    assert "accuracy on copy" in run("evaluate", tmp_path / "run", "--data", copy).stdout


def test_messages_name_options_that_exist(tmp_path):
    path = tmp_path / "real.csv"
    path.write_text("a,b\n1.0,0.5\n2.0,0.25\n3.5,0.1\n")
    says = run("train", "--data", path, code=2).stderr
    assert "--task regression" in says
    assert "task=" not in says
    x = np.random.default_rng(0).standard_normal((3, 40))
    np.savez(tmp_path / "columns.npz", x=x, y=np.arange(40) % 2)
    args = ("train", "--data", tmp_path / "columns.npz", "--epochs", 1, "--noise", "",
            "--out", tmp_path, "--name", "run")  # fmt: skip
    says = run(*args, "--samples", "rows", code=2).stderr
    assert "--samples" in says
    assert "samples=" not in says
    assert "3 features" in run(*args, "--samples", "columns").stdout


@pytest.mark.parametrize("kind", ["csv", "labelled csv", "npz", "labelled npz"])
def test_predict_reads_samples_with_and_without_labels(table, tmp_path, kind):
    _, folder, _ = table
    x, label = blobs(9, 3, np.random.default_rng(5))
    names = np.array(["cat", "dog", "owl"])[label]
    path = tmp_path / f"new.{kind.split()[-1]}"
    if kind == "csv":
        path.write_text("a,b,c\n" + "".join(",".join(map(repr, map(float, r))) + "\n" for r in x))
    elif kind == "labelled csv":
        write_table(path, x, names)
    elif kind == "npz":
        np.savez(path, x=x)
    else:
        np.savez(path, x=x, y=names)
    model = snode.load(folder / "model.safetensors")
    expected = model.predict(np.ascontiguousarray(x.T))
    answers = json.loads(run("predict", folder, path, "--json").stdout)
    assert answers["class"] == expected.tolist()
    assert (expected == names).mean() > 0.7
    p = np.array([answers[f"p({name})"] for name in model.classes])
    np.testing.assert_allclose(p.sum(axis=0), 1)
    assert model.classes[p.argmax(axis=0)].tolist() == answers["class"]
    result = run("predict", folder, path, "--out", tmp_path / "p.csv")
    assert "9 samples" in result.stdout
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == answers["class"]
    assert run("predict", folder, path).stdout == (tmp_path / "p.csv").read_text()


def test_predict_refuses_what_does_not_fit(table, tmp_path):
    _, folder, _ = table
    for text, says in (("1,2\n3,4\n", "has 2 columns; the model takes 3 features"),
                       ("1,2,x\n3,4,y\n", "not of numbers"),
                       ("1,2,3\n3,4,nan\n", "not a finite number")):  # fmt: skip
        (tmp_path / "bad.csv").write_text(text)
        assert says in run("predict", folder, tmp_path / "bad.csv", code=2).stderr
    assert "nowhere" in run("predict", folder, tmp_path / "nowhere.csv", code=2).stderr
    np.savez(tmp_path / "bad.npz", x=np.zeros((5, 4)))
    says = run("predict", folder, tmp_path / "bad.npz", code=2).stderr
    assert "has 4 features; the model takes 3" in says
    assert load_features(tmp_path / "bad.npz", 4)[0].shape == (4, 5)


def test_a_regression_ends_in_errors_not_accuracies(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, (300, 2)) * [1, 100]
    y = 1e4 + 300 * (np.sin(x[:, 0]) + x[:, 1] / 100)
    path = write_table(tmp_path / "curve.csv", x, map(repr, map(float, y)))
    run("train", "--data", path, "--task", "regression", "--out", tmp_path, "--name", "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["test_accuracy"] is None
    assert manifest["test_r2"] > 0.95
    model = snode.load(tmp_path / "run" / "model.safetensors")
    assert model.classes is None
    found = model.outputs(np.ascontiguousarray(x.T))[0]
    assert np.sqrt(np.mean((found - y) ** 2)) < 0.3 * y.std()
    numbers = json.loads(run("evaluate", tmp_path / "run", "--json").stdout)
    assert numbers["test_rmse"] == pytest.approx(manifest["test_rmse"])
    answers = json.loads(run("predict", tmp_path / "run", path, "--json").stdout)
    np.testing.assert_allclose(answers["output"], found, rtol=1e-6)
    assert "needs classes" in run("attack", tmp_path / "run", code=2).stderr
    assert "needs classes" in run("certify", tmp_path / "run", code=2).stderr


def test_a_model_without_names_is_matched_by_the_data_it_was_trained_on(table, tmp_path):
    _, folder, _ = table
    model = snode.load(folder / "model.safetensors")
    old = tmp_path / "old.safetensors"
    snode.save(old, model.field, manifest=model.manifest, standardisation=model.standardisation)
    x, label = blobs(40, 3, np.random.default_rng(1))
    kept = label > 0
    other = write_table(tmp_path / "o.csv", x[kept], np.array(["cat", "dog", "owl"])[label[kept]])
    result = run("evaluate", old, "--data", other, "--json")
    assert json.loads(result.stdout)["accuracy"] > 0.9
    assert "does not hold the names of its classes" in result.stderr
    bare = tmp_path / "bare.safetensors"
    snode.save(bare, model.field)
    says = run("evaluate", bare, "--data", other).stderr
    assert "taken for its classes in this order: dog, owl" in says


@pytest.mark.parametrize("data", [".", "a/b.c.csv.gz", "two_moons", "..", "data/x.npz"])
def test_names_of_runs_are_never_empty(data):
    assert shown_name(data)
    assert "/" not in shown_name(data)
    assert len(shown_path(snode.io.Path("x" * 300))) <= 40


def test_more_classes_of_hostile_files():
    field = snode.StandaloneField(np.zeros((1, 2, 2)), np.zeros((1, 2)), T=1.0)
    for bad in ([1, 1], ["a", 1], [None, "b"], [0, 1, 2], [], [float("nan"), 1.0], [2**70, 1]):
        with pytest.raises(ValueError, match="classes must"):
            snode.save("never.safetensors", field, classes=bad)
    zero, one = np.zeros(2), np.ones(2)
    for bad in ((zero, zero), (np.zeros(3), np.ones(3)), (zero + np.nan, one), (zero,),
                np.zeros((2, 2)), (zero, np.ones(2, int))):  # fmt: skip
        with pytest.raises(ValueError, match="standardisation"):
            snode.save("never.safetensors", field, standardisation=bad)


@pytest.mark.parametrize("whole", [True, False])
def test_targets_are_not_taken_for_hundreds_of_classes(tmp_path, whole):
    rng = np.random.default_rng(0)
    y = rng.permutation(60)[:40] + (0 if whole else 0.5)
    path = write_table(tmp_path / "prices.csv", rng.standard_normal((40, 3)), y)
    message = " ".join(run("train", "--data", path, "--out", tmp_path, code=2).stderr.split())
    assert ("--task regression" in message) or ("labels must be integers" in message)
    assert not (tmp_path / "prices").exists()
