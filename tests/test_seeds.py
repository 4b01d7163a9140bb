"""Seeds and scales of a wrong kind are named by every function that draws."""

import math

import numpy as np
import pytest

import snode

X, Y = snode.datasets.two_moons(20, rng=0)
FIELD = snode.StandaloneField.random(2, 1.0, 3, rng=0)
COST = snode.Cost(n_classes=2)

DRAWING = {
    "StandaloneField.random": lambda rng: snode.StandaloneField.random(2, 1.0, 3, rng=rng),
    "MLPField": lambda rng: snode.MLPField((2, 3, 2), rng=rng),
    "Classifier.random": lambda rng: snode.Classifier.random(FIELD, 2, rng=rng),
    "two_moons": lambda rng: snode.datasets.two_moons(20, rng=rng),
    "train_test_split": lambda rng: snode.datasets.train_test_split(X, Y, rng=rng),
    "accuracy_under_noise": lambda rng: snode.accuracy_under_noise(
        FIELD, X, Y, (0.1,), n_classes=2, rng=rng
    ),
    "train": lambda rng: snode.train(FIELD, (X, Y), COST, rng=rng),
    "check": lambda rng: snode.check(FIELD, rng=rng, verbose=False),
}


@pytest.mark.parametrize("name", list(DRAWING))
@pytest.mark.parametrize(
    ("rng", "error"),
    [
        ("abc", TypeError),
        (1.5, TypeError),
        (-1, ValueError),
        ({}, TypeError),
        (object(), TypeError),
    ],
)
def test_a_seed_of_a_wrong_kind_is_named(name, rng, error):
    with pytest.raises(error, match=r"rng must be a seed .* or a numpy\.random\.Generator; got"):
        DRAWING[name](rng)


SCALED = {
    "StandaloneField": lambda scale, dtype: snode.StandaloneField.random(
        2, 1.0, 3, scale=scale, rng=0, dtype=dtype
    ),
    "StandaloneField, linear": lambda scale, dtype: snode.StandaloneField.random(
        2, 1.0, 3, scale=scale, rng=0, dtype=dtype, interpolation="linear"
    ),
    "StandaloneField, constant in t": lambda scale, dtype: snode.StandaloneField.random(
        5, 1.0, 3, scale=scale, rng=0, dtype=dtype, knots=1
    ),
    "MLPField": lambda scale, dtype: snode.MLPField((2, 8, 2), scale=scale, rng=0, dtype=dtype),
    "Classifier": lambda scale, dtype: snode.Classifier.random(
        snode.StandaloneField.random(2, 1.0, 3, rng=0, dtype=dtype), 9, scale=scale, rng=0
    ),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", list(SCALED))
@pytest.mark.parametrize(
    ("scale", "dtype"), [(1.7e308, "float64"), (1e308, "float32"), (1e39, "float32")]
)
def test_a_scale_that_overflows_is_named(name, scale, dtype):
    with pytest.raises(ValueError, match="scale must be so small that the weights are finite as"):
        SCALED[name](scale, dtype)


@pytest.mark.parametrize("name", list(SCALED))
@pytest.mark.parametrize(
    ("scale", "error", "message"),
    [
        ("1", TypeError, "scale must be a number; got '1'"),
        ([1.0], TypeError, "scale must be a number"),
        (1j, TypeError, "scale must be a number"),
        (True, TypeError, "scale must be a number; got True"),
        (math.nan, ValueError, "scale must be finite and >= 0; got nan"),
        (math.inf, ValueError, "scale must be finite and >= 0; got inf"),
        (-1.0, ValueError, "scale must be finite and >= 0; got -1.0"),
    ],
)
def test_a_scale_of_a_wrong_kind_is_named(name, scale, error, message):
    with pytest.raises(error, match=message.replace("[", r"\[")):
        SCALED[name](scale, "float64")


def test_a_large_scale_that_fits_is_taken():
    W = snode.StandaloneField.random(2, 1.0, 3, scale=1e30, rng=0, dtype="float32").W
    assert 1e29 < np.abs(W).max() < 1e31
