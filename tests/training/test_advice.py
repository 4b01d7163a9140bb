"""Runs that cannot go well are named; others are not."""

import warnings

import numpy as np
import pytest

import snode
from snode.training.advice import advise_before

CLASSES = snode.Cost(n_classes=2)


def moons(m=200, shift=0.0):
    x, y = snode.datasets.two_moons(m, noise=0.1, rng=0)
    return x + shift, y


def relu(n=2, activation="relu", **options):
    return snode.StandaloneField.random(n, 1.0, 5, activation=activation, rng=0, **options)


def advice(field, x, y, cost=CLASSES):
    return " ".join(advise_before(field, x, y, cost))


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "softplus"])
def test_targets_below_the_inputs_are_out_of_reach(activation):
    x, y = moons(shift=3.0)
    says = advice(relu(activation=activation), x, y)
    assert "the targets cannot be reached" in says
    assert activation in says
    assert "can only grow" in says
    targets = np.zeros((2, 200))
    targets[0] = np.linspace(0, 1, 200)
    assert "can only grow" in advice(relu(activation=activation), x, targets)


def test_what_the_warning_claims_is_true():
    """No weights bring the squared distance below the bound that is printed."""
    x, y = moons(shift=3.0)
    bound = float(advice(relu(), x, y).split("stays above ")[1].split(",")[0])
    rng = np.random.default_rng(0)
    one_hot = np.eye(2)[:, y]
    for scale in (0.0, 0.1, 1.0, 3.0):
        W, b = scale * rng.standard_normal((5, 2, 2)), scale * rng.standard_normal((5, 2))
        field = snode.StandaloneField(W, b, 1.0, activation="relu")
        distance = 0.5 * ((snode.solve_direct(field, x).x_T - one_hot) ** 2).sum(axis=0).mean()
        assert distance >= bound * (1 - 1e-3)


@pytest.mark.parametrize(
    "case", ["tanh", "read-out", "cross entropy", "inputs below", "reachable", "few", "elu"]
)
def test_targets_within_reach_are_not_warned_of(case):
    (x, y), field, cost = moons(shift=3.0), relu(), CLASSES
    if case in ("tanh", "elu"):
        field = relu(activation=case)
    elif case == "read-out":
        field = snode.Classifier.random(relu(), 2, rng=0)
    elif case == "cross entropy":
        cost = snode.Cost(l2=0, ce=1, n_classes=2)
    elif case == "inputs below":
        x = x - 6
    elif case == "reachable":
        x, y = np.zeros((2, 200)), np.arange(200) % 2
    else:
        x, y = x[:, :10], y[:10]
    assert "reached" not in advice(field, x, y, cost)


def test_an_mlp_is_judged_by_its_last_activation():
    x, y = moons(shift=3.0)
    options = {"W1": np.eye(2), "b1": np.zeros(2), "W2": np.eye(2), "b2": np.zeros(2)}
    for last, warned in (("relu", True), ("tanh", False)):
        field = snode.MLPField.from_parameters(
            options, activation="tanh", output_activation=snode.get_activation(last)
        )
        assert ("reached" in advice(field, x, y)) == warned


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_features_of_very_different_scale(scale):
    x, y = moons()
    x[1] *= scale
    assert ("very different scales" in advice(relu(activation="tanh"), x, y)) == (scale > 1)
    x[1] = 7.0  # constant: no scale
    assert "scales" not in advice(relu(activation="tanh"), x, y)


def test_sparse_pixels_are_no_fault():
    rng = np.random.default_rng(0)
    x = (rng.random((30, 200)) < 0.3).astype(float)
    x[0] = 0
    x[0, 0] = 0.004
    field = relu(30, activation="tanh")
    assert advice(field, x, np.arange(200) % 2) == ""


def test_a_run_that_stands_still_and_guesses_says_so():
    x, y = moons()
    dead = snode.StandaloneField(np.zeros((5, 2, 2)), np.full((5, 2), -5.0), 1.0, activation="relu")
    with pytest.warns(snode.TrainingWarning) as caught:
        result = snode.train(dead, (x, y), CLASSES, epochs=5, batch_size=50, rng=0)
    said = " ".join(str(w.message) for w in caught)
    assert "training stood still: 20 of 20 minibatches" in said
    assert "training stood still" in result.message
    assert caught[0].filename == __file__


def test_guessing_is_told_from_learning():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 300)), (np.arange(300) % 10 == 0).astype(int)
    field = snode.Classifier.random(relu(activation="tanh"), 2, rng=0)
    cost = snode.Cost(l2=0, ce=1, n_classes=2)
    options = {"epochs": 3, "batch_size": 100, "n_iter": 1, "rng": 0}
    with pytest.warns(snode.TrainingWarning, match=r"not above chance: .* gives 90.0 %"):
        result = snode.train(field, (x, y), cost, **options)
    assert "not above chance" in result.message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x, y = moons()
        result = snode.train(field, (x, y), cost, **options | {"n_iter": 6, "batch_size": 50})
    assert "warning" not in result.message


def test_reaching_the_minimum_is_not_standing_still():
    x, y = np.eye(2)[:, np.arange(100) % 2] * 3, np.arange(100) % 2
    field = snode.Classifier.random(relu(activation="tanh"), 2, rng=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        snode.train(field, (x, y), snode.Cost(l2=0, ce=1, n_classes=2), epochs=20, batch_size=50,
                    rng=0)  # fmt: skip
