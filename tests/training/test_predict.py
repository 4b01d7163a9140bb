"""Prediction, accuracy, confusion counts."""

import numpy as np
import pytest

import snode


@pytest.fixture
def field(make_field):
    return make_field(4, 5)


def states(m):
    return np.random.default_rng(m).uniform(-1, 1, (4, m))


@pytest.mark.parametrize("m", [1, 2, 499, 500, 501, 1300])  # around and beyond one block
@pytest.mark.parametrize("n_classes", [1, 2, 4])
def test_predict_is_the_largest_component(field, m, n_classes):
    x = states(m)
    labels = snode.predict(field, x, n_classes=n_classes)
    x_T = np.concatenate(
        [snode.solve_direct(field, x[:, k : k + 1].copy()).x_T for k in range(m)], axis=1
    )
    assert np.array_equal(labels, x_T[:n_classes].argmax(axis=0))
    assert labels.dtype == np.int64
    assert labels.shape == (m,)


def test_accuracy_and_confusion(field):
    x = states(60)
    predicted = snode.predict(field, x, n_classes=3)
    y = np.random.default_rng(0).integers(0, 3, 60)
    counts = snode.confusion(field, x, y, n_classes=3)
    expected = [[np.sum((y == i) & (predicted == j)) for j in range(3)] for i in range(3)]
    assert counts.tolist() == expected
    assert counts.sum() == 60
    assert snode.accuracy(field, x, y, n_classes=3) == np.trace(counts) / 60
    assert snode.accuracy(field, x, predicted, n_classes=3) == 1.0
    assert type(snode.accuracy(field, x, y, n_classes=3)) is float


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_label_types(field, dtype):
    x = states(10)
    y = (np.arange(10) % 3).astype(dtype)
    assert snode.accuracy(field, x, y, n_classes=3) == snode.accuracy(
        field, x, y.astype(int), n_classes=3
    )


def test_float32(make_field):
    field = make_field(4, 5, dtype=np.float32)
    assert snode.predict(field, states(7).astype(np.float32), n_classes=3).dtype == np.int64


@pytest.mark.parametrize("function", [snode.accuracy, snode.confusion])
@pytest.mark.parametrize("y", [np.zeros(9, int), np.zeros((10, 1), int), [0] * 10, None])
def test_labels_are_checked(field, function, y):
    error = ValueError if isinstance(y, np.ndarray) else TypeError
    with pytest.raises(error, match=r"y must be integer labels of shape \(10,\)"):
        function(field, states(10), y, n_classes=3)


@pytest.mark.parametrize("n_classes", [0, -1, 5])
def test_classes_are_checked(field, n_classes):
    with pytest.raises(ValueError, match=r"n_classes must be in 1\.\.4"):
        snode.predict(field, states(3), n_classes=n_classes)


def test_states_are_checked(field):
    with pytest.raises(ValueError, match=r"did you mean x\.T"):
        snode.predict(field, states(3).T, n_classes=2)
    with pytest.raises(TypeError, match="x must be"):
        snode.predict(field, [[1.0]], n_classes=2)


def test_failure_is_named(make_field):
    field = make_field(4, 9, activation="identity", scale=1e200)
    with pytest.raises(snode.IntegrationError, match="not finite"):
        snode.predict(field, states(3), n_classes=2)
