"""`Dataset` and `train_test_split`: shapes, labels, and the split."""

import dataclasses

import numpy as np
import pytest

from snode.datasets import Dataset, train_test_split


def columns(n, m, dtype=np.float64):
    return np.arange(n * m, dtype=dtype).reshape(n, m)


def test_fields_are_kept_and_frozen():
    x, y = columns(2, 3), np.array([0, 2, 1])
    data = Dataset(x, y, x[:, :1], y[:1], name="a", image_shape=(1, 2))
    assert data.x_train is x
    assert data.n_classes == 3
    assert data.encoding == (0.0, 1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "b"


def test_repr_is_one_short_line():
    x, y = columns(2, 3), np.array([0, 2, 1])
    assert repr(Dataset(x, y, x, y, name="a")) == (
        "Dataset('a': 2 features, 3 training + 3 test samples, 3 classes, float64)"
    )
    assert "2 targets" in repr(Dataset(x, columns(2, 3)))


def test_float_targets_have_no_classes():
    assert Dataset(columns(2, 3), columns(1, 3)).n_classes == 0
    with pytest.raises(ValueError, match="n_classes=2"):
        Dataset(columns(2, 3), columns(1, 3), n_classes=2)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (columns(3, 2), np.array([0, 1, 1]), r"2 columns.*3 entries.*x_train\.T"),
        (columns(2, 4), np.array([0, 1, 1]), "4 columns .* 3 entries$"),
        (np.zeros(3), np.array([0, 1, 1]), r"shape \(n, m\).*got float64 of shape \(3,\)"),
        (np.zeros((2, 0)), np.zeros(0, int), "non-empty"),
        (np.zeros((2, 3), int), np.array([0, 1, 1]), "float array.*got int64"),
        (columns(2, 3), np.array([0.0, 1.0, 1.0]), "integer labels"),
        (columns(2, 3), np.array([[0, 1, 1]]), "integer labels"),
        (columns(2, 3), np.array(["a", "b", "c"]), "integer labels"),
        (columns(2, 3), np.array([0, -1, 1]), "found -1 to 1"),
        ([[0.0, 1.0]], np.array([0, 1]), "x_train must be an array; got list"),
        (columns(2, 2), [0, 1], "y_train must be an array; got list"),
    ],
)
def test_wrong_training_arrays_are_named(x, y, message):
    with pytest.raises(ValueError, match=message):
        Dataset(x, y)


@pytest.mark.parametrize(
    ("x_test", "y_test", "message"),
    [
        (columns(2, 3), None, "both be given"),
        (None, np.array([0, 1, 1]), "both be given"),
        (columns(3, 3), np.array([0, 1, 1]), "x_test must have 2 rows"),
        (columns(2, 3, np.float32), np.array([0, 1, 1]), "one dtype"),
        (columns(2, 3), columns(1, 3), "one kind"),
        (columns(2, 3), np.array([0, 1]), "x_test has 3 columns"),
    ],
)
def test_wrong_test_arrays_are_named(x_test, y_test, message):
    with pytest.raises(ValueError, match=message):
        Dataset(columns(2, 3), np.array([0, 1, 1]), x_test, y_test)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_classes": 2}, r"0, \.\.\., 1; found 0 to 2"),
        ({"image_shape": (3, 3)}, "does not have 2 pixels"),
        ({"classes": np.array([1, 2])}, "3 entries"),
        ({"encoding": (1.0, 1.0)}, "two different finite numbers"),
        ({"encoding": (0.0, np.nan)}, "two different finite numbers"),
        ({"encoding": 3.0}, "two numbers"),
    ],
)
def test_wrong_descriptions_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Dataset(columns(2, 3), np.array([0, 2, 1]), **options)


def test_decode_inverts_the_affine_encoding():
    u = np.linspace(0.0, 1.0, 11)[None, :]
    for lo, hi in [(0.0, -1.0), (-1.0, 1.0), (0.3, 0.7), (2.0, -3.0)]:
        data = Dataset(lo + (hi - lo) * u, np.zeros(11, int), encoding=(lo, hi))
        # one rounding in each of the four operations, amplified by 1 / |hi - lo|
        bound = 4 * np.finfo(float).eps * max(abs(lo), abs(hi)) / abs(hi - lo)
        assert np.abs(data.decode(data.x_train) - u).max() <= bound
        assert data.decode(np.float32([lo, hi])).dtype == np.float32


def test_decoded_background_is_plus_zero():
    data = Dataset(np.zeros((1, 1)), np.zeros(1, int), encoding=(0.0, -1.0))
    assert not np.signbit(data.decode(data.x_train)).any()


@pytest.mark.parametrize(("m", "fraction", "m_test"), [(8, 0.25, 2), (101, 0.5, 50), (2, 0.5, 1)])
def test_split_is_a_partition_that_keeps_pairs(m, fraction, m_test):
    x = np.stack([np.arange(m, dtype=float), np.arange(m) % 2])
    y = np.arange(m) % 2
    data = train_test_split(x, y, test_fraction=fraction, rng=3)
    assert data.x_test.shape == (2, m_test)
    together = np.concatenate([data.x_train[0], data.x_test[0]])
    assert np.array_equal(np.sort(together), x[0])
    assert np.array_equal(data.x_train[1], data.y_train)
    assert np.array_equal(data.x_test[1], data.y_test)
    assert data.x_train.flags.c_contiguous
    assert data.x_test.flags.c_contiguous


def test_split_is_seeded():
    x, y = columns(2, 50), np.arange(50) % 3
    a, b, c = (train_test_split(x, y, rng=seed) for seed in (0, 0, 1))
    assert np.array_equal(a.x_test, b.x_test)
    assert not np.array_equal(a.x_test, c.x_test)


def test_split_takes_columns_of_float_targets():
    x = columns(2, 8)
    data = train_test_split(x, 2.0 * x, rng=0)
    assert np.array_equal(data.y_test, 2.0 * data.x_test)


def test_split_method_keeps_the_descriptions():
    whole = Dataset(
        columns(4, 8),
        np.arange(8) % 2,
        encoding=(0.0, -1.0),
        name="a",
        image_shape=(2, 2),
        classes=np.array(["p", "q"]),
        n_classes=2,
    )
    data = whole.split(0.25, rng=0)
    for field in ("encoding", "name", "image_shape", "n_classes"):
        assert getattr(data, field) == getattr(whole, field)
    assert data.classes is whole.classes
    with pytest.raises(ValueError, match="has a test set already"):
        data.split(0.25)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, np.nan, 0.01, 0.99])
def test_empty_parts_are_refused(fraction):
    with pytest.raises(ValueError, match="test_fraction"):
        train_test_split(columns(2, 8), np.arange(8) % 2, test_fraction=fraction)
