"""Claims on the real data."""

import numpy as np
import pytest

import snode

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mnist():
    return snode.datasets.load_mnist()


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_pure_cross_entropy_does_not_break_down(mnist, activation):
    """200 iterations; without a safeguard phi often has no finite root here."""
    rng = np.random.default_rng(1)
    field = snode.StandaloneField.random(
        196, 3.0, 150, activation=activation, rng=rng, dtype="float32"
    )
    result = snode.train(field, mnist, snode.Cost(l2=0, ce=1), epochs=34 / 600, rng=rng)
    assert result.success
    assert result.n_batches * 6 >= 200
    assert (result.history["cost_after"] < result.history["cost"]).all()
    assert result.evaluations["test_accuracy"][-1] > 0.7


def test_safeguards_do_not_act_on_the_default_run(mnist):
    rng = np.random.default_rng(1)
    field = snode.StandaloneField.random(196, 3.0, 150, activation="relu", rng=rng, dtype="float32")
    result = snode.train(field, mnist, epochs=10 / 600, rng=rng)
    assert result.history["capped"].sum() == 0
    assert result.history["restarted"].sum() == 0


def test_float32_follows_float64(mnist):
    """The same batch in both precisions: costs agree to what float32 can give."""
    x, y = mnist.x_train[:, :100], mnist.y_train[:100]
    field = snode.StandaloneField.random(196, 3.0, 150, activation="relu", rng=1)
    theta = {k: v.astype("float32") for k, v in field.parameters.items()}
    double = snode.ncg(field, x.astype("float64"), y, n_iter=4)
    single = snode.ncg(field.with_parameters(**theta), x, y, n_iter=4)
    # 150 layers x eps 6e-8, amplified by the four nonlinear iterations
    np.testing.assert_allclose(single.history.cost, double.history.cost, rtol=1e-3)
