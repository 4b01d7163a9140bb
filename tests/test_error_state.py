"""What comes out does not depend on NumPy's error state of the caller."""

import inspect
import threading

import numpy as np
import pytest

import snode

# they compute nothing
EXEMPT = {"activation_names", "get_backend", "use_backend", "get_activation"}
STATES = [{"all": "raise"}, {"all": "warn"}, {"all": "call"}, {"all": "ignore"}, {"under": "raise"}]

X, Y = snode.datasets.two_moons(60, rng=0)
X = 10 * X
COST = snode.Cost(l2=0, ce=1, n_classes=2)


def steep(activation="sigmoid", dtype="float64"):
    return snode.StandaloneField.random(
        2, 3.0, 10, activation=activation, scale=4.0, rng=0, dtype=dtype
    )


WORK = {
    "predict": lambda f, x: snode.predict(f, x, n_classes=2),
    "gradient": lambda f, x: snode.gradient(f, x, Y, COST)[1]["W"],
    "ncg": lambda f, x: snode.ncg(f, x, Y, COST, n_iter=2).history.cost,
    "train": lambda f, x: snode.train(
        f, (x, Y), COST, epochs=1, batch_size=30, rng=0).history["cost"],
    "adam": lambda f, x: snode.train(
        f, (x, Y), COST, method="adam", epochs=1, batch_size=30, rng=0).history["cost"],
    "noise": lambda f, x: snode.accuracy_under_noise(f, x, Y, [0.1], n_classes=2, rng=0),
    "fgsm": lambda f, x: snode.fgsm(f, x, Y, eps=0.1, n_classes=2).x_adv,
    "pgd": lambda f, x: snode.pgd(
        f, x, Y, eps=0.1, n_iter=3, random_start=True, rng=0, n_classes=2).x_adv,
    "deepfool": lambda f, x: snode.deepfool(f, x, Y, n_iter=3, n_classes=2).x_adv,
    "carlini": lambda f, x: snode.carlini_wagner(
        f, x, Y, n_iter=3, n_search=2, n_classes=2).x_adv,
    "propagate": lambda f, x: snode.propagate(f, x, 1e-3 * x).predicted,
    "jacobian": lambda f, x: snode.input_jacobian(f, x),
    "ode45": lambda f, x: snode.solve_direct(f, x, method="ode45").x_T,
    "plain function": lambda f, x: snode.ode45(_underflows, (0, 2), np.full(3, 30.0)).x_T,
    "radius": lambda f, x: snode.certified_radius(f, x, Y, n_classes=2).radius,
    "activation": lambda f, x: f.activation(np.linspace(-800, 800, 9, dtype=x.dtype)),
}  # fmt: skip


def _underflows(t, x):
    return -x * (1 + np.exp(-(x**2)))


def _public():
    for module in (snode, snode.datasets):
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isfunction(thing) and name not in EXEMPT:
                yield pytest.param(thing, id=name)


@pytest.mark.parametrize("function", list(_public()))
def test_every_public_function_is_a_door(function):
    code = function.__code__
    assert code.co_filename.endswith("backend.py"), "decorate it with own_error_state"
    assert function.__wrapped__.__name__ == function.__name__


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_numbers_do_not_depend_on_the_state(work, dtype):
    field, x = steep(dtype=dtype), X.astype(dtype)
    wanted = WORK[work](field, x)
    for state in STATES:
        with np.errstate(**state):
            np.testing.assert_array_equal(WORK[work](field, x), wanted)
            assert np.geterr() == {**np.geterr(), **_expanded(state)}


def _expanded(state):
    if "all" not in state:
        return state
    return dict.fromkeys(("divide", "over", "under", "invalid"), state["all"])


@pytest.mark.parametrize("activation", ["relu", "tanh", "softplus", "elu", "leaky_tanh"])
def test_all_activations_under_raise(activation):
    with np.errstate(all="raise"):
        field = steep(activation)
        for work in ("train", "predict", "fgsm", "propagate"):
            WORK[work](field, X)


def test_in_a_thread_of_the_user():
    failed = []

    def target():
        np.seterr(all="raise")  # of this thread
        try:
            WORK["train"](steep(), X)
        except FloatingPointError as error:
            failed.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    assert not failed
