"""Columns are matched with the features of a model by name, in every command and in Python."""

import copy
import gzip
import json
import pickle

import numpy as np
import pytest
from typer.testing import CliRunner

import snode
from snode.cli import app
from snode.cli.samples import load_model
from snode.datasets import Dataset, load_dataset
from snode.datasets.featurenames import feature_order
from snode.datasets.features import load_features
from snode.datasets.headers import names_features
from snode.results import ModelFormatError

NAMES = ("length", "width", "mass", "charge")
CENTRES = np.array([[0, 5, 100, -3], [2, 9, 200, 0], [4, 2, 300, 3.0]])
SCALES = np.array([0.5, 1, 20, 0.7])
KINDS = np.array(["u", "v", "w"])


def samples():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 60)
    return CENTRES[y] + rng.normal(size=(60, 4)) * SCALES, y


def table(columns, delimiter=",", index=False, header=None, rename=()):
    """Return the text of a table with these columns of `samples`, in this order."""
    x, y = samples()
    cells = dict(zip(NAMES, x.T.tolist(), strict=True)) | {
        "kind": KINDS[y].tolist(), "note": [0.5 + i for i in range(60)], "id": list(range(60)),
        "": list(range(60)),
    }  # fmt: skip
    columns = columns.split()
    names = [dict(rename).get(name, name) for name in columns] if header is None else header
    rows = [names, *zip(*(map(str, cells[name]) for name in columns), strict=True)]
    if index:
        rows = [[["", *map(str, range(60))][i], *row] for i, row in enumerate(rows)]
    return "".join(delimiter.join(row) + "\n" for row in rows)


def run(*args, code=0):
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == code, result.output + result.stderr
    return result


def answers(*args):
    return json.loads(run(*args, "--json").stdout)


def refused(*args):
    """Return the message, without the line breaks of a narrow terminal."""
    message = " ".join(run(*args, code=2).stderr.split())
    assert "error: " in message
    return message


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    (folder / "train.csv").write_text(table("length width mass charge kind"))
    run("train", "--data", folder / "train.csv", "--epochs", 5, "--n-layers", 5, "--out", folder,
        "--name", "run", "--test-fraction", 0, "--noise", "")  # fmt: skip
    return folder / "run"


@pytest.fixture(scope="module")
def plain(trained, tmp_path_factory):
    """Samples in the model's order in a file that is not the training file."""
    file = tmp_path_factory.mktemp("plain") / "plain.csv"
    file.write_text(table("length width mass charge kind"))
    return file


ORDERS = {
    "reversed": table("charge mass width length kind"),
    "labels first": table("kind mass length charge width"),
    "labels within": table("mass length kind charge width"),
    "index of pandas": table("kind charge mass length width", index=True),
    "row names of R": table("kind charge mass length width", index=True).replace(",", "", 1),
    "counter": table("id mass length charge width kind"),
    "counter behind the labels": table("kind id mass length charge width"),
    "semicolons": table("mass length charge width kind", ";"),
    "a name in front": "# " + table("mass length charge width kind"),
}


@pytest.mark.parametrize("order", ORDERS)
def test_columns_in_another_order_give_the_same_answers(order, trained, plain, tmp_path):
    file = tmp_path / "mixed.csv"
    file.write_text(ORDERS[order])
    expected = answers("evaluate", trained, "--data", plain)
    assert expected["accuracy"] > 0.95
    result = run("evaluate", trained, "--data", file, "--json")
    assert json.loads(result.stdout) == expected
    assert result.stderr.count("columns put in the model's order") == 1
    result = run("predict", trained, file, "--json")
    assert json.loads(result.stdout) == answers("predict", trained, plain)
    assert result.stderr == "columns put in the model's order\n"


def test_nothing_is_said_of_columns_in_order(trained, plain):
    assert "order" not in run("evaluate", trained, "--data", plain).stderr
    assert "order" not in run("predict", trained, plain).stderr


@pytest.mark.parametrize("command", ["attack", "sensitivity", "certify"])
def test_every_command_puts_columns_in_order(command, trained, plain, tmp_path):
    found = {}
    for order in ("reversed", "plain"):
        file = tmp_path / "same.csv"
        file.write_text(ORDERS.get(order) or plain.read_text())
        out = tmp_path / "o"
        found[order] = answers(command, trained, "--data", file, "--n", 4, "--out", out)
        found[order].pop("seconds", None)
    assert found["reversed"] == found["plain"]


def test_gzipped_table_in_another_order(trained, plain, tmp_path):
    file = tmp_path / "mixed.csv.gz"
    file.write_bytes(gzip.compress(ORDERS["labels first"].encode()))
    assert answers("evaluate", trained, "--data", file) == answers(
        "evaluate", trained, "--data", plain
    )
    assert answers("predict", trained, file) == answers("predict", trained, plain)


def test_training_file_may_be_rewritten_in_another_order(trained, tmp_path):
    file = trained.parent / "train.csv"
    before, text = answers("evaluate", trained), file.read_text()
    try:
        file.write_text(ORDERS["labels first"])
        assert answers("evaluate", trained) == before
    finally:
        file.write_text(text)


def test_samples_without_labels(trained, plain, tmp_path):
    file = tmp_path / "new.csv"
    for text in (table("width charge length mass"), table("id width charge length mass")):
        file.write_text(text)
        assert answers("predict", trained, file) == answers("predict", trained, plain)
    assert "no column of labels" in refused("evaluate", trained, "--data", file)


def test_labels_of_another_name(trained, plain, tmp_path):
    file, expected = tmp_path / "new.csv", answers("predict", trained, plain)
    file.write_text(table("mass kind charge length width", rename={"kind": "form"}))
    assert answers("evaluate", trained, "--data", file)["accuracy"] > 0.95
    assert "'form'" in refused("predict", trained, file)
    for column in ("form", 1, -4):
        assert answers("predict", trained, file, "--label-column", column) == expected
    file.write_text(table("mass kind charge length width", rename={"kind": "species"}))
    assert answers("predict", trained, file) == expected


@pytest.mark.parametrize(
    ("columns", "rename", "says"),
    [
        ("length width mass kind", {}, "lacks 'charge'"),
        ("width mass kind", {}, "lacks 'length', 'charge'"),
        ("length width mass note kind", {}, "lacks 'charge' and has the unknown 'note'"),
        ("length width note mass charge kind", {}, "model: 'note';"),
        ("note length width mass charge id kind", {}, "model: 'note', 'id';"),
        ("length width note mass charge kind", {"note": "mass"}, "more than one mass"),
        ("length width mass charge kind", {"charge": "mass"}, "more than one mass"),
        ("length width mass charge kind", {"charge": "Charge"}, "unknown 'Charge'"),
        ("length width mass charge kind", {"charge": ""}, "unknown 'column 4'"),
    ],
)
def test_other_columns_are_refused_by_name(columns, rename, says, trained, tmp_path):
    file = tmp_path / "other.csv"
    file.write_text(table(columns, rename=rename))
    for command in (("evaluate", trained, "--data", file), ("predict", trained, file)):
        assert says in refused(*command), command


def test_a_column_too_much_is_no_label(trained, tmp_path):
    file = tmp_path / "other.csv"
    for columns in ("length width mass charge note", "length note width mass charge"):
        file.write_text(table(columns))
        assert "'note'" in refused("predict", trained, file)


@pytest.mark.parametrize("header", [None, ["0", "1", "2", "3", "4"]])
def test_tables_without_names_are_taken_by_position(header, trained, plain, tmp_path):
    file = tmp_path / "bare.csv"
    text = table("length width mass charge kind", header=header)
    file.write_text(text if header else text.split("\n", 1)[1])
    assert answers("evaluate", trained, "--data", file) == answers(
        "evaluate", trained, "--data", plain
    )
    if header is None:
        assert answers("predict", trained, file) == answers("predict", trained, plain)


def test_npz_with_names(trained, plain, tmp_path):
    x, y = samples()
    order, file = [2, 0, 3, 1], tmp_path / "data.npz"
    names = [NAMES[i] for i in order]
    expected = answers("evaluate", trained, "--data", plain)
    np.savez(file, x=x[:, order], y=KINDS[y], feature_names=names)
    assert answers("evaluate", trained, "--data", file) == expected
    assert answers("predict", trained, file) == answers("predict", trained, plain)
    np.savez(file, x=x[:, order], feature_names=names)
    assert answers("predict", trained, file) == answers("predict", trained, plain)
    np.savez(file, x=x, y=KINDS[y])
    assert answers("evaluate", trained, "--data", file) == expected
    np.savez(file, x=x, y=KINDS[y], feature_names=["length", "width", "mass", "age"])
    assert "lacks 'charge'" in refused("evaluate", trained, "--data", file)
    np.savez(file, x=x, y=KINDS[y], feature_names=NAMES[:3])
    assert "4 entries" in refused("evaluate", trained, "--data", file)


def test_a_model_without_names_takes_columns_by_position(trained, plain, tmp_path):
    model = snode.load(trained / "model.safetensors")
    old = tmp_path / "old.safetensors"
    snode.save(old, model.field, classes=model.classes, standardisation=model.standardisation)
    assert snode.load(old).feature_names is None
    assert answers("evaluate", old, "--data", plain)["train_accuracy"] > 0.95
    file = tmp_path / "mixed.csv"
    file.write_text(ORDERS["reversed"])
    assert answers("evaluate", old, "--data", file)["train_accuracy"] < 0.9


# --- from Python ----------------------------------------------------------------------------------


def test_the_model_file_holds_the_names(trained, tmp_path):
    model = snode.load(trained / "model.safetensors")
    assert model.feature_names == NAMES
    assert json.loads((trained / "manifest.json").read_text())["label_name"] == "kind"
    x, y = samples()
    order = [3, 1, 0, 2]
    found = model.predict(x.T[order], feature_names=[NAMES[i] for i in order])
    assert (found == model.predict(x.T)).all()
    assert (found == KINDS[y]).mean() > 0.95
    with pytest.raises(ValueError, match="lacks 'charge' and has the unknown 'age'"):
        model.outputs(x.T, feature_names=[*NAMES[:3], "age"])
    with pytest.raises(ValueError, match="4 entries"):
        model.prepare(x.T, feature_names=NAMES[:3])
    assert pickle.loads(pickle.dumps(model)).feature_names == NAMES


@pytest.mark.parametrize("names", ["abcd", ["a", "b", "c", 4], ["a", "b", "c", "a"], ["a"], 4, {}])
def test_damaged_names_are_refused(names, trained, tmp_path):
    field = snode.load(trained / "model.safetensors").field
    with pytest.raises(ValueError, match="feature_names"):
        snode.save(tmp_path / "model.safetensors", field, feature_names=names)
    snode.save(tmp_path / "model.safetensors", field, feature_names=["a", "b", "c", "d"])
    content = (tmp_path / "model.safetensors").read_bytes()
    good = rb"[\"a\", \"b\", \"c\", \"d\"]"
    bad = json.dumps(names).replace('"', r"\"").encode().ljust(len(good))[: len(good)]
    assert good in content
    (tmp_path / "bad.safetensors").write_bytes(content.replace(good, bad))
    with pytest.raises(ModelFormatError, match="feature_names"):
        snode.load(tmp_path / "bad.safetensors")


def test_names_that_a_model_file_cannot_hold_are_refused_before_the_training(tmp_path):
    file = tmp_path / "long.csv"
    long = [c * 10**5 for c in "éè"]  # escaped as six characters each
    file.write_text(table("length width kind", header=[*long, "kind"]).replace('"', ""))
    data = load_dataset(file)
    assert [len(name) for name in data.feature_names] == [10**5, 10**5]
    error = refused("train", "--data", file, "--name", "r", "--out", tmp_path)
    assert "feature_names" in error
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("columns", "header"),
    [
        ("length width mass kind", ["length", "", "mass", "kind"]),
        ("kind length width mass", ["no", "length", "width", "mass"]),
        ("length kind", ["length", "no"]),
        ("kind id length", ["kind", "id", "length"]),
        ("note length width kind", ["id", "length", "width", "kind"]),
    ],
)
def test_odd_headers_train_and_are_evaluated(columns, header, tmp_path):
    file = tmp_path / "odd.csv"
    file.write_text(table(columns, header=header))
    column = ["--label-column", header[columns.split().index("kind")]]
    run("train", "--data", file, "--epochs", 1, "--n-layers", 2, "--out", tmp_path, "--name", "r",
        "--test-fraction", 0, "--noise", "", *column)  # fmt: skip
    before = answers("evaluate", tmp_path / "r")
    other = tmp_path / "other.csv"
    other.write_text(file.read_text())
    found = answers("evaluate", tmp_path / "r", "--data", other)
    assert found["accuracy"] == before["train_accuracy"]
    assert answers("predict", tmp_path / "r", other) == answers("predict", tmp_path / "r", file)


def test_names_go_where_the_features_go(tmp_path):
    x, y = samples()
    data = Dataset(x.T, y, x.T.copy(), y, feature_names=list(NAMES))
    assert data.feature_names == NAMES
    order = [1, 3, 2, 0]
    mixed = data.standardised().with_feature_names([NAMES[i] for i in order])
    np.testing.assert_array_equal(mixed.x_test, data.standardised().x_test[order])
    np.testing.assert_array_equal(mixed.decode(mixed.x_train), data.standardised().decode(
        data.standardised().x_train)[order])  # fmt: skip
    one = Dataset(x.T, y, feature_names=NAMES)
    for other in (
        one.split(0.2, rng=0), one.with_classes([0, 1, 2]), one.standardised(),
        pickle.loads(pickle.dumps(one)), copy.deepcopy(one),
    ):  # fmt: skip
        assert other.feature_names == NAMES
    np.savez(tmp_path / "a.npz", x_train=one.x_train.T, y_train=y, feature_names=NAMES)
    again = load_dataset(tmp_path / "a.npz", dtype="float64")
    assert again.feature_names == NAMES
    np.testing.assert_array_equal(again.x_train, one.x_train)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("abcd", "sequence of texts; got 'abcd'"),
        (["a", "b", "c"], "4 entries"),
        (["a", "b", "c", 4], "must be texts"),
        (["a", "b", "c", " "], "not empty"),
        (["a", "b", "c", "b"], "more than one b"),
    ],
)
def test_bad_names_of_a_data_set(names, says):
    x, y = samples()
    with pytest.raises(ValueError, match=f"feature_names.*{says}"):
        Dataset(x.T, y, feature_names=names)


def test_numbers_as_names_are_matched(tmp_path):
    file, (x, y) = tmp_path / "numbers.csv", samples()
    straight = ["0", "1", "2", "3", "label"]
    file.write_text(table("length width mass charge kind", header=straight))
    data = load_dataset(file, dtype="float64")
    assert data.feature_names == ("0", "1", "2", "3")
    file.write_text(table("mass length kind charge width", header=["2", "0", "label", "3", "1"]))
    mixed = load_dataset(file, dtype="float64", label_column="label")
    assert mixed.feature_names == ("2", "0", "3", "1")
    ordered = mixed.with_feature_names(data.feature_names)
    np.testing.assert_array_equal(ordered.x_train, data.x_train)
    np.testing.assert_array_equal(ordered.y_train, y)
    np.testing.assert_array_equal(ordered.x_train, x.T)


def test_numbers_as_names_of_a_model(tmp_path):
    file = tmp_path / "numbers.csv"
    file.write_text(table("length width mass charge kind", header=["0", "1", "2", "3", "label"]))
    run("train", "--data", file, "--epochs", 5, "--n-layers", 5, "--out", tmp_path, "--name", "r",
        "--test-fraction", 0, "--noise", "")  # fmt: skip
    expected = answers("predict", tmp_path / "r", file), answers("evaluate", tmp_path / "r")
    for header, columns in (
        (["2", "0", "label", "3", "1"], "mass length kind charge width"),
        (["2", "0", "3", "1", "label"], "mass length charge width kind"),
    ):
        other = tmp_path / "other.csv"
        other.write_text(table(columns, header=header))
        assert answers("predict", tmp_path / "r", other) == expected[0]
        found = answers("evaluate", tmp_path / "r", "--data", other)
        assert found["accuracy"] == expected[1]["train_accuracy"] > 0.95


def test_order_of_features():
    assert feature_order(None, NAMES) is None
    assert feature_order(NAMES, None) is None
    assert feature_order(NAMES, NAMES) is None
    assert feature_order("dba", "abd").tolist() == [2, 1, 0]
    # what only counts the columns is no name, unless the same numbers are in another order
    for counted in ("0123", "1234", "0124", "0234"):
        assert feature_order(counted, NAMES) is None
        assert feature_order(NAMES, counted) is None
    assert feature_order("2013", "0123").tolist() == [1, 2, 0, 3]
    for named in (["400", "410", "420"], ["1", "0", "2"], ["0", "2", "9"], ["0", "1", "x"]):
        with pytest.raises(ValueError, match="lacks 'a', 'b', 'c' and has the unknown"):
            feature_order(named, "abc")
    with pytest.raises(ValueError, match="has the unknown 'd'; the model takes a, b, c"):
        feature_order("abcd", "abc")


def test_numbers_in_a_first_row_are_no_header_for_their_sake():
    assert not names_features(["1", "0", "w"], ["0", "1"], None)
    assert not names_features(["1", "0", "w"], ["0", "1"], "label")
    assert names_features(["1", "0", "label"], ["0", "1"], "label")
    assert names_features(["b", "a", "w"], ["a", "b"], None)
    assert not names_features(["b", "w"], ["a", "b"], None)


def test_features_of_a_file_come_with_their_names(tmp_path):
    file = tmp_path / "new.csv"
    file.write_text("b,a\n1,2\n3,4\n")
    x, names = load_features(file, 2)
    assert names == ("b", "a")
    np.testing.assert_array_equal(x, [[1, 3], [2, 4]])
    file.write_text("1,2\n3,4\n")
    assert load_features(file, 2, feature_names=["a", "b"])[1] is None


def test_classes_and_features_are_matched_at_once(trained, tmp_path):
    file = tmp_path / "some.csv"
    text = ORDERS["labels first"].splitlines()
    file.write_text("\n".join([text[0], *(row for row in text[1:] if not row.startswith("u"))]))
    model, data = load_model(trained, str(file))
    assert data.feature_names == model.feature_names
    assert set(np.unique(data.y_train)) == {1, 2}
    assert snode.accuracy(model.field, data.x_train, data.y_train, n_classes=3) > 0.95
