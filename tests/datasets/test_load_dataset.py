"""What all formats share: telling the format, scaling, labels, options."""

import subprocess
import sys
import types

import numpy as np
import pytest

from snode.datasets import assembly, load_dataset

X = np.array([[0.0, 0.5], [0.25, 1.0], [0.125, 0.75]])
Y = np.array([0, 1, 1])
PIXELS = np.array([[0, 255], [51, 102], [204, 153]], np.uint8)


@pytest.fixture
def load(tmp_path):
    def save_and_load(x, y=Y, x_test=None, y_test=None, **options):
        test = {} if x_test is None else {"x_test": x_test, "y_test": y_test}
        np.savez(tmp_path / "a.npz", x_train=x, y_train=y, **test)
        return load_dataset(tmp_path / "a.npz", **options)

    return save_and_load


def test_format_by_first_bytes(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    (tmp_path / "a.npz").rename(tmp_path / "data")
    assert load_dataset(tmp_path / "data").n_classes == 2


@pytest.mark.parametrize("name", ["a.pkl", "a", "a.parquet"])
def test_unknown_format_lists_the_known_ones(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x04abcdefgh")
    with pytest.raises(ValueError, match=r"unknown format .*80 04 61.*expected \.npz, \.mat"):
        load_dataset(tmp_path / name)


def test_missing_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path: no file or folder .*nothing\.csv"):
        load_dataset(tmp_path / "nothing.csv")


def test_pixels_become_intensities_by_default(load):
    data = load(PIXELS, dtype="float64")
    assert np.array_equal(data.x_train, PIXELS.T / 255)
    assert data.encoding == (0.0, 1.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("encoding", [(0.0, -1.0), (-1.0, 1.0), (0.1, 0.7), (3.0, 2.0)])
def test_pixels_in_an_encoding(load, encoding, dtype):
    lo, hi = encoding
    data = load(PIXELS, encoding=encoding, dtype=dtype)
    assert data.x_train.dtype == dtype
    expected = lo + (hi - lo) * (PIXELS.T / 255.0)
    # the same formula in another order: a few roundings of numbers up to max |encoding|
    assert np.abs(data.x_train - expected).max() <= 2 * np.finfo(dtype).eps * max(
        map(abs, encoding)
    )
    assert data.x_train[0, 0] == np.dtype(dtype).type(lo)
    assert data.x_train[1, 0] == np.dtype(dtype).type(hi)
    assert data.encoding == encoding


def test_floats_are_left_alone_by_default(load):
    data = load(1000 * X - 3, dtype="float64")
    assert np.array_equal(data.x_train, 1000 * X.T - 3)
    assert data.encoding == (0.0, 1.0)


def test_wide_integers_are_left_alone_by_default(load):
    assert load(PIXELS.astype(int)).x_train.max() == 255.0


def test_floats_with_an_encoding_are_intensities(load):
    assert np.array_equal(load(X, encoding=(0.0, -1.0)).x_train, -X.T)
    data = load(16 * X, encoding=(0.0, -1.0), full_scale=16)
    assert np.array_equal(data.x_train, -X.T)
    assert np.array_equal(load(16 * X, full_scale=16).x_train, X.T)


def test_full_scale_of_pixels(load):
    data = load(np.array([[0, 16], [8, 4]], np.uint8), np.array([0, 1]), full_scale=16)
    assert np.array_equal(data.x_train, [[0.0, 0.5], [1.0, 0.25]])


@pytest.mark.parametrize("bad", [-0.5, 1.5, np.nan, np.inf])
def test_values_outside_the_scale_are_named(load, bad):
    x = X.copy()
    x[1, 0] = bad
    with pytest.raises(ValueError, match=rf"x_train: .*found {bad} at sample 2, feature 1"):
        load(x, encoding=(0.0, -1.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": (1.0, 1.0)}, "encoding"),
        ({"full_scale": 0.0}, "full_scale"),
        ({"full_scale": np.nan}, "full_scale"),
        ({"dtype": "int8"}, "dtype"),
        ({"task": "guess"}, "task must be one of classification, regression; got 'guess'"),
        ({"samples": "up"}, "samples must be 'rows' or 'columns'; got 'up'"),
        ({"label_column": 1}, r"label_column does not apply .*\(npz\); it takes samples"),
        ({"header": True}, "header does not apply"),
        ({"delimiter": ","}, "delimiter does not apply"),
    ],
)
def test_wrong_options_are_named(load, options, message):
    with pytest.raises(ValueError, match=message):
        load(X, **options)


@pytest.mark.parametrize("part", ["train", "test"])
def test_non_finite_values_are_placed(load, part):
    bad = X.copy()
    bad[2, 1] = np.nan
    arrays = (bad, Y, X, Y) if part == "train" else (X, Y, bad, Y)
    with pytest.raises(ValueError, match=f"x_{part}: 1 values .* nan at sample 3, feature 2"):
        load(*arrays)


def test_overflow_to_float32_is_an_error(load):
    with pytest.raises(ValueError, match=r"not finite float32 numbers; the first is 1e\+300"):
        load(1e300 * (X + 1))
    assert load(1e300 * (X + 1), dtype="float64").x_train.max() == 2e300


@pytest.mark.parametrize(
    ("labels", "expected", "classes"),
    [
        ([0, 1, 2], [0, 1, 2], [0, 1, 2]),
        ([1, 2, 3], [0, 1, 2], [1, 2, 3]),
        ([-7, 100, -7], [0, 1, 0], [-7, 100]),
        ([3.0, 1.0, 3.0], [1, 0, 1], [1, 3]),
        ([True, False, True], [1, 0, 1], [0, 1]),
        (["b", "a", "b"], [1, 0, 1], ["a", "b"]),
        (np.array([2**64 - 1, 0, 5], np.uint64), [2, 0, 1], [0, 5, 2**64 - 1]),
    ],
)
def test_labels_are_numbered(load, labels, expected, classes):
    data = load(X, np.array(labels))
    assert data.y_train.tolist() == expected
    assert data.y_train.dtype == np.int64
    assert data.classes.tolist() == classes
    assert data.n_classes == len(classes)
    assert data.classes[data.y_train].tolist() == np.array(labels).tolist()


def test_training_and_test_labels_share_their_numbers(load):
    data = load(X, np.array([5, 7, 9]), X, np.array([9, 9, 5]))
    assert data.y_test.tolist() == [2, 2, 0]
    assert data.n_classes == 3


@pytest.mark.parametrize(
    ("y", "y_test", "message"),
    [
        (Y, np.array([0, 1, 2]), "y_test has labels that y_train lacks: 2"),
        (Y, np.array(["0", "1", "1"]), "y_train has int64 labels, y_test <U1 labels"),
        (np.array([0.0, 0.5, 1.0]), Y, "y_train: labels must be integers; found 0.5 at sample 2"),
        (np.array([0.0, np.inf, 1.0]), Y, "found inf at sample 2"),
        (np.array([0.0, 1e300, 1.0]), Y, r"found 1e\+300"),
        (np.eye(3), Y, r"one label per sample; got shape \(3, 3\).*one-hot"),
        (Y + 1j, Y, "integers or strings; got complex128"),
    ],
)
def test_wrong_labels_are_named(load, y, y_test, message):
    with pytest.raises(ValueError, match=message):
        load(X, y, X, y_test)


def test_regression_targets(load):
    data = load(X, 3 * X, X, X, task="regression", dtype="float64")
    assert np.array_equal(data.y_train, 3 * X.T)
    assert np.array_equal(data.y_test, X.T)
    assert data.classes is None
    data = load(X, X[:, 0], task="regression", dtype="float32")
    assert data.y_train.shape == (1, 3)
    assert data.y_train.dtype == np.float32


def test_wrong_targets_are_named(load):
    with pytest.raises(ValueError, match="targets must be real numbers; got <U1"):
        load(X, np.array(["a", "b", "c"]), task="regression")
    with pytest.raises(ValueError, match="y_train: 1 values are not finite"):
        load(X, np.array([0.0, np.nan, 1.0]), task="regression")


def test_backend_decides_what_is_made(load, monkeypatch):
    made = []

    def asarray(values):
        made.append(values.shape)
        return values

    monkeypatch.setattr(
        assembly, "creator_namespace", lambda: types.SimpleNamespace(asarray=asarray)
    )
    load(X, Y, X, Y)
    assert made == [(2, 3), (3,), (2, 3), (3,)]


def test_import_loads_no_reader():
    code = (
        "import sys, snode.datasets;"
        "print([m for m in ('scipy.io', 'gzip', 'cupy', 'numba', 'matplotlib', 'pandas')"
        " if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
