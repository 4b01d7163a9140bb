"""The cost functional, its derivative at x(T), and its model along a direction."""

import itertools
import math

import numpy as np
import pytest
from scipy import optimize, special

import snode
from snode import Cost
from snode.training.costs import LineModel, parameter_line

pytestmark = pytest.mark.grid(4)

EPS = np.finfo(np.float64).eps
N, M, C = 5, 7, 3
WEIGHTS = [w for w in itertools.product((0.0, 0.7), repeat=4) if any(w)]
WITHOUT_CE = [w for w in WEIGHTS if not w[1]]
CASES = [(w, "labels") for w in WEIGHTS] + [(w, "targets") for w in WITHOUT_CE]


@pytest.fixture(params=["sigmoid", "tanh"])
def field(make_field, request, interpolation):
    # sigmoid: T sigma(0) = 0.75, so the output term has a target that is not zero
    return make_field(N, 4, activation=request.param, interpolation=interpolation)


@pytest.fixture
def states():
    rng = np.random.default_rng(0)
    x_T, xi_T = 2 * rng.standard_normal((2, N, M))
    return x_T, xi_T, rng.integers(0, C, M), rng.standard_normal((N, M))


def make_cost(weights):
    return Cost(*weights, n_classes=C)


def brute_force(cost, field, x_T, y):
    """The formula of mathematics.md 1.1, sample by sample and depth by depth."""
    total = 0.0
    for k in range(x_T.shape[1]):
        x = x_T[:, k]
        target = y[:, k] if y.ndim == 2 else np.eye(N)[y[k]]
        total += cost.l2 / 2 * np.sum((x - target) ** 2)
        if cost.ce:
            total -= cost.ce * special.log_softmax(x[:C])[y[k]]
        rest = field.T * field.activation(np.zeros(1))[0]
        total += cost.output / 2 * np.sum((x - rest) ** 2)
    integral = 0.0
    points, w = np.polynomial.legendre.leggauss(4)  # exact for the squares of cubics
    h = field.T / field.n_layers
    for cell in range(field.n_layers):
        for point, weight in zip(points, w, strict=True):
            W, b = field._at(h * (cell + (point + 1) / 2))
            integral += weight * h / 2 * (np.sum(W**2) + np.sum(b**2))
    return total / x_T.shape[1] + cost.decay / 2 * integral


# --- the value and its derivative -----------------------------------------------------------------


@pytest.mark.parametrize("weights", WEIGHTS)
def test_value_with_labels(field, states, weights):
    x_T, _, labels, _ = states
    cost = make_cost(weights)
    expected = brute_force(cost, field, x_T, labels)
    assert cost.value(field, x_T, labels) == pytest.approx(expected, rel=100 * EPS)


@pytest.mark.parametrize("weights", WITHOUT_CE)
def test_value_with_targets(field, states, weights):
    x_T, _, _, targets = states
    cost = make_cost(weights)
    expected = brute_force(cost, field, x_T, targets)
    assert cost.value(field, x_T, targets) == pytest.approx(expected, rel=100 * EPS)


@pytest.mark.parametrize(("weights", "kind"), CASES)
def test_terminal_is_the_derivative(make_field, states, weights, kind):
    field = make_field(N, 4, activation="sigmoid")
    x_T, _, labels, targets = states
    y = labels if kind == "labels" else targets
    terminal_cost = make_cost(weights).at(field, y)
    lam, h = terminal_cost.terminal(x_T), 1e-5
    assert lam.shape == x_T.shape
    for index in np.ndindex(x_T.shape):
        e = np.zeros_like(x_T)
        e[index] = h
        difference = terminal_cost.value(x_T + e) - terminal_cost.value(x_T - e)
        # truncation h^2/6 * 1/4, rounding eps * value / h
        assert lam[index] == pytest.approx(difference / (2 * h), abs=1e-9)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_terminal_is_the_printed_formula(make_field, states, weights):
    field = make_field(N, 4, activation="softplus")
    x_T, _, labels, _ = states
    cost, onehot = make_cost(weights), np.eye(N)[labels].T
    lam = cost.l2 * (x_T - onehot) + cost.output * (x_T - field.T * np.log(2))
    lam[:C] += cost.ce * (special.softmax(x_T[:C], axis=0) - onehot[:C])
    computed = cost.at(field, labels).terminal(x_T)
    assert computed == pytest.approx(lam / M, abs=20 * EPS)


def test_labels_and_their_one_hot_targets_are_the_same_data(field, states):
    x_T, _, labels, _ = states
    cost = Cost(l2=1.3, output=0.2, n_classes=C)
    onehot = np.eye(N)[labels].T
    assert cost.value(field, x_T, labels) == cost.value(field, x_T, onehot)
    a, b = (cost.at(field, y).terminal(x_T) for y in (labels, onehot))
    assert np.array_equal(a, b)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "uint64"])
def test_any_integer_type_of_labels(field, states, dtype):
    x_T, _, labels, _ = states
    cost = Cost(l2=1, ce=1, n_classes=C)
    assert cost.value(field, x_T, labels.astype(dtype)) == cost.value(field, x_T, labels)


def test_cross_entropy_is_safe_for_large_logits(field):
    x_T = np.zeros((N, 2))
    x_T[0] = [1e4, -1e4]
    terminal = Cost(l2=0, ce=1, n_classes=C).at(field, np.array([0, 0]))
    with np.errstate(all="raise", under="ignore"):
        # log softmax = 0 for the first; -1e4 - log 2 for the second
        assert terminal.value(x_T) == pytest.approx((1e4 + np.log(2)) / 2, rel=4 * EPS)
        assert np.isfinite(terminal.terminal(x_T)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("component", [0, N - 1])  # a logit, and a component that is none
@pytest.mark.parametrize("weights", [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0)])
def test_states_that_are_not_finite_never_give_a_finite_cost(
    make_field, request, weights, component, value
):
    x_T = np.zeros((N, 2))
    x_T[component, 1] = value
    cost = Cost(*weights, n_classes=C).at(make_field(N, 2), np.array([0, 1]))
    assert not np.isfinite(cost.value(x_T))  # and no warning: filterwarnings = error


def test_decay_partials_are_the_derivative(field, random_like, moved):
    cost, h = Cost(l2=0, decay=0.7), 1e-4
    partials = {k: np.zeros_like(p) for k, p in field.parameters.items()}
    cost.add_decay_partials(field, partials)
    d = random_like(field.parameters)
    difference = cost.decay_value(moved(field, d, h)) - cost.decay_value(moved(field, d, -h))
    slope = sum(np.sum(partials[k] * d[k]) for k in d)
    assert slope == pytest.approx(difference / (2 * h), rel=1e-10)  # exact for a quadratic
    again = {k: p.copy() for k, p in partials.items()}
    cost.add_decay_partials(field, again)  # adds, does not replace
    assert all(again[k] == pytest.approx(2 * partials[k], rel=4 * EPS) for k in d)


def test_no_decay_no_partials(field):
    partials = {k: np.zeros_like(p) for k, p in field.parameters.items()}
    Cost().add_decay_partials(field, partials)
    assert not any(p.any() for p in partials.values())
    assert Cost().decay_value(field) == 0.0


# --- the model along a direction ------------------------------------------------------------------


def line_of(cost, field, states, random_like, y=None):
    x_T, xi_T, labels, _ = states
    decay = parameter_line(cost, field, random_like(field.parameters))
    return cost.at(field, labels if y is None else y).line(x_T, xi_T, *decay)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_phi_is_the_derivative_of_the_cost_of_the_linearised_state(
    field, states, weights, random_like, moved
):
    x_T, xi_T, labels, _ = states
    cost, d, h = make_cost(weights), random_like(field.parameters), 1e-5
    line = line_of(cost, field, states, random_like)

    def value(eta):
        return cost.value(moved(field, d, eta), x_T + eta * xi_T, labels)

    for eta in (0.0, 0.3, -0.2, 2.0):
        difference = (value(eta + h) - value(eta - h)) / (2 * h)
        assert line.phi(eta) == pytest.approx(difference, rel=1e-8, abs=1e-8)
    assert line.slope == line.phi(0.0)


@pytest.mark.parametrize("weights", WITHOUT_CE)
def test_phi_with_targets(field, states, weights, random_like, moved):
    x_T, xi_T, _, targets = states
    cost, d, h = make_cost(weights), random_like(field.parameters), 1e-5
    line = line_of(cost, field, states, random_like, targets)

    def value(eta):
        return cost.value(moved(field, d, eta), x_T + eta * xi_T, targets)

    difference = (value(0.3 + h) - value(0.3 - h)) / (2 * h)
    assert line.phi(0.3) == pytest.approx(difference, rel=1e-8)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_phi_is_strictly_increasing(field, states, weights, random_like):
    line = line_of(make_cost(weights), field, states, random_like)
    values = [line.phi(eta) for eta in np.linspace(-2, 2, 81)]
    assert (np.diff(values) > 0).all()


@pytest.mark.parametrize("weights", WITHOUT_CE)
def test_closed_form_is_the_root(field, states, weights, random_like):
    line = line_of(make_cost(weights), field, states, random_like)
    if line.slope > 0:  # walk the other way
        line = LineModel(-line.constant, line.linear, line.move, line.scale)
    step, capped = line.minimizer(1.0)
    assert not capped
    assert abs(line.phi(step)) <= 8 * EPS * abs(line.slope)
    assert step == pytest.approx(line.root(10 * step), rel=1e-12)
    # the printed formula: -phi(0) / [(l2 + output) mean |xi|^2 + decay |d|^2]
    assert step == pytest.approx(-line.slope / line.linear, rel=4 * EPS)


@pytest.mark.parametrize("weights", WITHOUT_CE)
def test_curvature_is_the_printed_one(field, states, weights, random_like):
    _, xi_T, *_ = states
    cost, d = make_cost(weights), random_like(field.parameters)
    norm = snode.L2().on(field).norm(d)
    expected = (cost.l2 + cost.output) * np.sum(xi_T**2) / M + cost.decay * norm**2
    assert line_of(cost, field, states, random_like).linear == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("weights", [w for w in WEIGHTS if w[1]])
def test_root_with_cross_entropy_is_the_minimum_of_the_model(field, states, weights, random_like):
    line = line_of(make_cost(weights), field, states, random_like)
    if line.slope > 0:  # walk the other way
        line = LineModel(
            -line.constant, line.linear, line.move, line.scale,
            line.ce, line.logits, -line.dlogits, line.labels,
        )  # fmt: skip
    root = line.root(50.0)
    independent = optimize.brentq(line.phi, 0.0, 50.0, xtol=1e-14)
    assert root == pytest.approx(independent, rel=1e-10)
    assert line.phi(root * (1 - 1e-6)) < 0 < line.phi(root * (1 + 1e-6))


def test_a_separating_direction_has_no_root_and_is_capped(make_field):
    field = make_field(N, 2)
    labels = np.array([0, 1, 2])
    x_T, xi_T = np.zeros((N, 3)), np.eye(N)[labels].T  # every logit gap only grows
    line = Cost(l2=0, ce=1, n_classes=C).at(field, labels).line(x_T, xi_T)
    assert all(line.phi(eta) < 0 for eta in (0.0, 1.0, 10.0, 30.0))
    trust = 0.5
    step, capped = line.minimizer(trust)
    assert capped
    # |xi| = 1 in every sample, x = 0: the move of x(T) is the step, and may be trust * (1 + 0)
    assert step == pytest.approx(trust, rel=4 * EPS)


def test_a_distant_root_is_capped_and_a_near_one_is_not(make_field):
    field = make_field(N, 2)
    labels = np.array([0, 1, 2])
    x_T = np.zeros((N, 3))
    xi_T = np.eye(N)[[0, 1, 0]].T  # the third sample stops the first two at a finite step
    line = Cost(l2=0, ce=1, n_classes=C).at(field, labels).line(x_T, xi_T)
    free = line.root(1e3)
    assert free < 1e3
    assert line.minimizer(10 * free) == (pytest.approx(free, rel=1e-12), False)
    assert line.minimizer(free / 2) == (pytest.approx(free / 2, rel=1e-12), True)


def test_move_and_scale(make_field, states):
    x_T, xi_T, labels, _ = states
    line = Cost(n_classes=C).at(make_field(N, 2), labels).line(x_T, xi_T)
    assert line.move == pytest.approx(np.sqrt(np.mean(np.sum(xi_T**2, axis=0))), rel=1e-14)
    assert line.scale == pytest.approx(1 + np.sqrt(np.mean(np.sum(x_T**2, axis=0))), rel=1e-14)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["l2", "ce", "output", "decay"])
@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_weights_are_checked(name, value):
    with pytest.raises(ValueError, match=f"{name} must be finite and >= 0"):
        Cost(**{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"l2": 0}, "at least one of l2, ce, output, decay must be positive"),
        ({"n_classes": 1}, "n_classes must be an integer >= 2"),
        ({"n_classes": 2.5}, "n_classes must be an integer >= 2"),
        ({"n_classes": -3}, "n_classes must be an integer >= 2"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        Cost(**options)


@pytest.mark.parametrize(
    ("cost", "y", "message"),
    [
        (Cost(n_classes=C), np.array([0, 1, 3]), r"y must hold labels 0..2; got labels 0..3"),
        (Cost(n_classes=C), np.array([-1, 1, 2]), r"y must hold labels 0..2; got labels -1..2"),
        (Cost(n_classes=C), np.array([], int), "y must hold labels 0..2; got no labels"),
        (Cost(n_classes=6), np.array([0, 1]), "n_classes must be at most the state dimension 5"),
        (Cost(), np.array([0, 1]), "n_classes must be at most the state dimension 5; got 10"),
        (Cost(l2=0, ce=1, n_classes=C), np.zeros((N, 2)), r"y must be integer labels \(m,\) when"),
        (
            Cost(n_classes=C),
            np.zeros(4),
            r"y must be integer labels of shape \(4,\) or targets \(5, m",
        ),
        (Cost(n_classes=C), np.zeros((4, N)), r"y must be integer labels.*of shape \(4, 5\)"),
        (Cost(n_classes=C), np.zeros((N, 2, 1)), "y must be integer labels"),
        (Cost(n_classes=C), np.array([True, False]), "y must be integer labels"),
    ],
)
def test_data_are_checked(make_field, cost, y, message):
    with pytest.raises(ValueError, match=message):
        cost.at(make_field(N, 2), y)


def test_cost_is_a_value():
    assert Cost() == Cost(l2=1.0)
    with pytest.raises(AttributeError):
        Cost().l2 = 2.0


# --- parts of the samples -------------------------------------------------------------------------


@pytest.mark.parametrize(("weights", "kind"), CASES)
def test_parts_add_up(field, states, weights, kind):
    x_T, xi_T, labels, targets = states
    cost, y = make_cost(weights), labels if kind == "labels" else targets
    whole = cost.at(field, y)
    pieces = [slice(0, 3), slice(3, 4), slice(4, M)]
    parts = [whole.part(piece) for piece in pieces]
    values = [part.value(x_T[:, piece]) for part, piece in zip(parts, pieces, strict=True)]
    assert sum(values) == pytest.approx(whole.value(x_T), rel=1e-14)
    terminal = [part.terminal(x_T[:, piece]) for part, piece in zip(parts, pieces, strict=True)]
    assert np.allclose(np.hstack(terminal), whole.terminal(x_T), rtol=1e-14, atol=0)
    models = [
        part.line(x_T[:, piece], xi_T[:, piece], *((0.3, 0.7) if i == 0 else ()))
        for i, (part, piece) in enumerate(zip(parts, pieces, strict=True))
    ]
    sum_of_models, model = LineModel.combine(models), whole.line(x_T, xi_T, 0.3, 0.7)
    for name in ("constant", "linear", "move", "scale"):
        assert getattr(sum_of_models, name) == pytest.approx(getattr(model, name), rel=1e-13)
    for eta in (0.0, 0.4, 3.0):
        assert sum_of_models.phi(eta) == pytest.approx(model.phi(eta), rel=1e-12, abs=1e-13)


# --- what is no cost ------------------------------------------------------------------------------

NOT_COSTS = [
    (lambda x, y: 0.0, "got function"),
    (np.mean, "got _ArrayFunctionDispatcher"),
    ("ce", "got str"),
    (1.0, "got float"),
    ({"ce": 1}, "got dict"),
    (Cost, r"got Cost, the class: use snode.Cost\(...\)"),
    (np.ones(3), "got ndarray"),
    (0, "got int"),
    (False, "got bool"),
]


@pytest.mark.parametrize(("cost", "says"), NOT_COSTS)
@pytest.mark.parametrize("where", ["train", "ncg", "gradient", "sweep", "run of a sweep"])
def test_what_is_no_cost_is_named(where, cost, says):
    field = snode.StandaloneField.random(2, 1.0, 3, rng=0)
    x, y = snode.datasets.two_moons(20, rng=0)
    call = {
        "train": lambda: snode.train(field, (x, y), cost),
        "ncg": lambda: snode.ncg(field, x, y, cost),
        "gradient": lambda: snode.gradient(field, x, y, cost),
        "sweep": lambda: snode.sweep(field, (x, y), {"seed": [0]}, cost),
        "run of a sweep": lambda: snode.sweep(field, (x, y), [{"cost": cost}]),
    }[where]
    with pytest.raises(TypeError, match=f"cost must be a snode.Cost, such as .*{says}"):
        call()


@pytest.mark.parametrize("name", ["l2", "ce", "output", "decay"])
@pytest.mark.parametrize("value", ["1", None, True, [1.0], np.ones(2), 1j])
def test_weights_are_numbers(name, value):
    with pytest.raises(TypeError, match=f"{name} must be a number; got"):
        Cost(**{name: value})


@pytest.mark.parametrize("value", ["3", None, 2.5, True, math.inf, math.nan, [3]])
def test_the_number_of_classes_is_an_integer(value):
    with pytest.raises(ValueError, match="n_classes must be an integer >= 2; got"):
        Cost(n_classes=value)


class Doubled(Cost):
    """A loss of one's own."""


def test_a_loss_of_ones_own_has_a_checkpoint_of_its_own(tmp_path):
    field = snode.StandaloneField.random(2, 1.0, 3, rng=0)
    data = snode.datasets.two_moons(20, rng=0)
    options = {"checkpoint": tmp_path / "run", "rng": 0, "threads": 1}
    whole = snode.train(field, data, Doubled(n_classes=2), epochs=2, rng=0, threads=1)
    snode.train(field, data, Doubled(n_classes=2), **options)
    with pytest.raises(snode.ModelFormatError, match="belongs to another run: cost is"):
        snode.train(field, data, Cost(n_classes=2), resume=True, **options)
    done = snode.train(field, data, Doubled(n_classes=2), resume=True, epochs=2, **options)
    assert np.array_equal(done.field.W, whole.field.W)
    with pytest.raises(TypeError, match=r"a snode\.Cost itself with an executor; got Doubled"):
        snode.train(field, data, Doubled(n_classes=2), executor=object())
