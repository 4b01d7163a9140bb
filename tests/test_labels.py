"""Labels are checked in one place, and every function that takes labels goes there."""

import functools
import sys

import fakecupy
import numpy as np
import pytest

import snode
from snode.analysis import attacks
from snode.analysis.growth import certified_radius
from snode.analysis.robustness import accuracy_under_attack
from snode.analysis.sensitivity import saliency
from snode.labels import check_labels

pytestmark = pytest.mark.grid(3)

C, M = 3, 6
Y = np.array([0, 1, 2, 0, 1, 2])
FIELD = snode.StandaloneField.random(4, 1.0, 5, rng=0)
X = np.random.default_rng(1).standard_normal((4, M))
COST = snode.Cost(n_classes=C)
QUICK = {"epochs": 1, "batch_size": M, "n_iter": 1, "rng": 0, "threads": 1}


def under_attack(y):
    attack = functools.partial(attacks.fgsm, n_classes=C, eps=0.1)
    return accuracy_under_attack(FIELD, X, y, attack, [0.1])


TAKERS = {
    "accuracy": lambda y: snode.accuracy(FIELD, X, y, n_classes=C),
    "confusion": lambda y: snode.confusion(FIELD, X, y, n_classes=C),
    "noise": lambda y: snode.accuracy_under_noise(FIELD, X, y, [0.1], n_classes=C, rng=0),
    "attack": under_attack,
    "fgsm": lambda y: attacks.fgsm(FIELD, X, y, eps=0.1, n_classes=C),
    "deepfool": lambda y: attacks.deepfool(FIELD, X, y, n_classes=C),
    "radius": lambda y: certified_radius(FIELD, X, y, n_classes=C),
    "gradient": lambda y: snode.gradient(FIELD, X, y, COST),
    "ncg": lambda y: snode.ncg(FIELD, X, y, COST, n_iter=1),
    "train": lambda y: snode.train(FIELD, (X, y), COST, **QUICK),
    "test labels": lambda y: snode.train(FIELD, (X, Y, X, y), COST, **QUICK),
    "sweep": lambda y: snode.sweep(FIELD, (X, y), {"seed": [0]}, COST, epochs=1, batch_size=M),
    "sweep, test": lambda y: snode.sweep(FIELD, (X, Y, X, y), {"seed": [0]}, COST, batch_size=M),
    "saliency": lambda y: saliency(FIELD, X, label=y, n_classes=C),
}
WRONG = {
    "from 1": (Y + 1, ValueError, r"(y|label|y_test) must hold labels 0\.\.2; .* use \w+ - 1"),
    "-1, 1": (np.where(Y > 0, 1, -1), ValueError, "must hold labels .*; got labels -1..1"),
    "negative": (Y - 3, ValueError, r"must hold labels (0\.\.2|>= 0); got labels -3\.\.-1"),
    "too large": (Y * 7, ValueError, r"got labels 0\.\.14 \(sample 1\)"),
    "unsigned": ((Y + 250).astype(np.uint8), ValueError, r"got labels 250\.\.252"),
    "text": (Y.astype(str), ValueError, "got text such as 0: number them by numpy.unique"),
    "NaN": (np.where(Y > 1, np.nan, Y), ValueError, "float64: entry 2 is nan"),
    "infinite": (np.where(Y > 1, np.inf, Y), ValueError, "float64: entry 2 is inf"),
    "halves": (Y / 2, ValueError, "float64: entry 1 is 0.5"),
    "whole floats": (Y.astype(np.float32), ValueError, r"float32: use \w+.astype\(int\)"),
    "bool": (Y > 0, ValueError, r"bool: use \w+.astype\(int\)"),
    "objects": (Y.astype(object), ValueError, "got object"),
    "too few": (Y[:-1], ValueError, r"must (be integer labels of shape|have one entry per)"),
    "column": (Y[:, None], ValueError, r"must (be integer labels of shape|have one entry per)"),
    "scalar": (np.array(1), ValueError, r"must (be integer labels of shape|have one entry per)"),
    "hidden": (np.ma.masked_array(Y, Y > 1), ValueError, "2 of 6 are masked"),
    "masked": (np.ma.masked_array(Y), TypeError, r"in a plain array: use \w+.data"),
    "list": (Y.tolist(), TypeError, r"got list: use numpy.asarray\(\w+\)"),
    "number": (3.5, TypeError, "got float$"),
}


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("kind", WRONG)
def test_every_function_names_wrong_labels(taker, kind):
    y, error, message = WRONG[kind]
    with pytest.raises(error, match=message) as found:
        TAKERS[taker](y)
    name = {"test labels": "y_test", "sweep, test": "y_test", "saliency": "label"}
    assert str(found.value).startswith(f"{name.get(taker, 'y')} must ")


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_any_integers_are_labels(taker, dtype):
    TAKERS[taker](Y.astype(dtype))


def test_two_classes_coded_by_signs():
    with pytest.raises(ValueError, match=r"make 0 and 1 by \(y \+ 1\) // 2"):
        check_labels(np.array([-1, 1, 1]), 2, 3)


def test_hints_for_other_shapes():
    with pytest.raises(ValueError, match=r"use y\.ravel\(\)"):
        check_labels(Y[:, None], C, M)
    for hot, axis in ((np.eye(C, dtype=int)[:, Y], 0), (np.eye(C, dtype=int)[Y], 1)):
        with pytest.raises(ValueError, match=rf"use y\.argmax\(axis={axis}\)"):
            check_labels(hot, C, M)


def test_without_a_number_of_classes_only_the_sign_is_wrong():
    assert check_labels(np.array([7, 0]), None, 2).tolist() == [7, 0]
    with pytest.raises(ValueError, match=r"labels >= 0; got labels -1\.\.0"):
        check_labels(np.array([0, -1]), None, 2)


@pytest.mark.parametrize("function", [snode.accuracy, snode.confusion, "noise"])
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (X.tolist(), TypeError, "x must be a NumPy or CuPy array .* got list"),
        (np.ma.masked_array(X), TypeError, "x must be a NumPy or CuPy array"),
        (None, TypeError, "x must be"),
        (X.T, ValueError, r"did you mean x\.T"),
        (Y, ValueError, "x must have shape"),
        (X.astype(np.float32), ValueError, "x is float32 but"),
    ],
)
def test_wrong_samples_are_named_before_the_labels(function, x, error, message):
    if function == "noise":
        function = functools.partial(snode.accuracy_under_noise, stds=[0.1], rng=0)
    with pytest.raises(error, match=message):
        function(FIELD, x, y=Y, n_classes=C)


def test_swapped_samples_and_labels():
    for call in (
        lambda: snode.accuracy(FIELD, Y, X, n_classes=C),
        lambda: snode.gradient(FIELD, Y, X, COST),
        lambda: attacks.deepfool(FIELD, Y, X, n_classes=C),
    ):
        with pytest.raises(ValueError, match="are they swapped"):
            call()


def test_labels_on_a_device_wait_once(monkeypatch):
    cupy = fakecupy.make()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    y = cupy.asarray(Y)
    fakecupy.waits.clear()
    assert isinstance(check_labels(y, C, M), cupy.ndarray)
    assert len(fakecupy.waits) == 1
    with pytest.raises(ValueError, match="counted from 1"):
        check_labels(y + 1, C, M)
    with pytest.raises(ValueError, match="entry 2 is nan"):
        check_labels(cupy.asarray(np.where(Y > 1, np.nan, Y)), C, M)
