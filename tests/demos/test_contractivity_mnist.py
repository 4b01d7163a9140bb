"""The MNIST demo of paper 003 on a network that is hardly trained."""

import numpy as np
import pytest

import snode


@pytest.fixture(scope="module")
def mnist(demo):
    return demo("contractivity/mnist")


@pytest.fixture(scope="module")
def data():
    return snode.datasets.load_mnist(encoding=(0.0, 1.0), dtype="float32")


@pytest.fixture(scope="module")
def trained(mnist, data):
    return mnist.train(data, 0.02, 1)


def test_training_learns(mnist, data, trained):
    assert snode.accuracy(trained, data.x_test, data.y_test) > 0.5
    assert trained.parameters["W1"].shape == (196, 196)
    assert trained.grid[-1] == 1


def test_the_classifier_is_the_minimiser(mnist, data, trained):
    """Small changes of the fitted classifier do not lower its cost."""
    x, y = data.x_train[:, :600], data.y_train[:600]
    field = mnist.refitted(trained, data, 600)
    x_T = np.asarray(snode.solve_direct(field, x).x_T, float)
    size = x_T.std()

    def cost(V, c):
        z = V @ x_T + c[:, None]
        z = z - z.max(axis=0)
        entropy = np.log(np.exp(z).sum(axis=0)) - z[y, np.arange(600)]
        return entropy.mean() + 0.5 * mnist.RIDGE * size**2 * (V**2).sum()

    V, c = np.asarray(field.V, float), np.asarray(field.c, float)
    rng = np.random.default_rng(0)
    least = cost(V, c)
    for _ in range(5):
        dV, dc = rng.standard_normal(V.shape), rng.standard_normal(c.shape)
        step = 0.5 / np.linalg.norm(dV)
        assert cost(V + step * dV, c + step * dc) > least
        assert cost(V - step * dV, c - step * dc) > least


def test_measured_numbers_are_consistent(mnist, data, trained):
    found = mnist.measured(trained, data.x_test[:, :20], data.y_test[:20], quick=True)
    right = snode.predict(trained, data.x_test[:, :20]) == data.y_test[:20]
    assert found["correct"] == right.sum()
    assert found["violations"] == 0
    assert found["closest"] >= 1
    assert found["lower"] <= found["upper"]
    best = np.asarray(found["attacked"]["all 2"])
    assert best[0] == right.mean()
    assert (best <= np.asarray(found["attacked"]["PGD 2"])).all()
    assert (np.asarray(found["certified"]) <= best).all()
    assert (np.diff(best) <= 0).all()


def test_claims_see_a_violation(mnist):
    net = {"correct": 3, "violations": 0, "closest": 2.0, "lower": 1.0, "upper": 1.1, "euler": 3.0,
           "accuracy": 0.9, "change": 1.0, "certified": np.ones(7),
           "attacked": {"FGSM inf": np.ones(7), "PGD inf": np.ones(7)}}  # fmt: skip
    made = {**net, "lower": -1.0, "upper": -0.5}
    numbers = {"networks": {"original": net, "shift": made, "perturbation": made}}
    assert mnist.claims(numbers)[0][1]
    assert mnist.claims(numbers)[2][1]
    numbers["networks"]["shift"] = {**made, "violations": 1, "upper": 0.1}
    assert not mnist.claims(numbers)[0][1]
    assert not mnist.claims(numbers)[2][1]
