"""Cost, gradient, NCG, training and prediction of fields with a read-out."""

import numpy as np
import pytest
from scipy import special

import snode
from snode import H1, L2, Classifier, Cost, Euclidean, MLPField
from snode.training.costs import TerminalCost
from snode.training.gradients import FieldProblem, value_and_partials
from snode.training.hotpath import EulerProblem
from snode.training.innerproducts import pair

pytestmark = pytest.mark.grid(3)

EPS = np.finfo(np.float64).eps
N, C, M = 3, 4, 6  # more outputs than components of the state
INNERS = [L2(), H1(0.5), Euclidean()]
COSTS = {
    "l2": Cost(n_classes=C),
    "ce": Cost(l2=0, ce=1, n_classes=C),
    "output": Cost(l2=0, output=1, n_classes=C),
    "all": Cost(l2=0.5, ce=0.7, output=0.3, decay=0.2, n_classes=C),
}
FIELDS = {
    "layer": lambda: snode.StandaloneField.random(
        N, 1.5, 4, rng=0, scale=0.7, activation="sigmoid"
    ),
    "linear in depth": lambda: snode.StandaloneField.random(
        N, 1.5, 4, rng=0, scale=0.7, activation="sigmoid", interpolation="linear"
    ),
    "mlp": lambda: MLPField((N, 5, N), T=1.5, n_layers=4, rng=0, activation="sigmoid"),
    "mlp of t": lambda: MLPField(
        (N, 5, N), T=1.5, n_layers=4, rng=0, time="concat", output_activation="tanh"
    ),
}


@pytest.fixture(params=FIELDS)
def field(request):
    start = Classifier.random(FIELDS[request.param](), C, rng=1, scale=1.0)
    return start.with_parameters(c=np.random.default_rng(2).standard_normal(C))


@pytest.fixture(params=COSTS)
def cost(request):
    return COSTS[request.param]


def data(m=M, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (N, m)), np.arange(m) % C


def logits(field, x):
    x_T = snode.solve_direct(field, x, keep="last").x_T
    return field.parameters["V"] @ x_T + field.parameters["c"][:, None]


def value(field, x, y, cost):
    """The formula, sample by sample."""
    z, total = logits(field, x), 0.0
    for k in range(x.shape[1]):
        target = np.eye(C)[y[k]] if y.ndim == 1 else y[:, k]
        total += cost.l2 / 2 * np.sum((z[:, k] - target) ** 2)
        if cost.ce:
            total -= cost.ce * special.log_softmax(z[:, k])[y[k]]
        total += cost.output / 2 * np.sum(z[:, k] ** 2)
    inner = L2().on(field.field)
    decay = inner.norm(field.field.parameters) ** 2 + np.sum(field.V**2) + np.sum(field.c**2)
    return total / x.shape[1] + cost.decay / 2 * decay


# --- cost and gradient ----------------------------------------------------------------------------


def test_value(field, cost):
    x, y = data()
    expected = value(field, x, y, cost)
    x_T = snode.solve_direct(field, x).x_T
    assert cost.value(field, x_T, y) == pytest.approx(expected, rel=1e-13)
    assert snode.gradient(field, x, y, cost)[0] == pytest.approx(expected, rel=1e-13)
    assert FieldProblem(field, x, y, cost).direct() == pytest.approx(expected, rel=1e-13)


def test_targets_of_the_shape_of_the_outputs(field):
    x, cost = data()[0], Cost(output=0.2)
    y = np.random.default_rng(1).standard_normal((C, M))
    assert snode.gradient(field, x, y, cost)[0] == pytest.approx(value(field, x, y, cost))
    with pytest.raises(ValueError, match=r"targets \(4, m\)"):
        snode.gradient(field, x, y[:N], cost)


def test_one_output_and_targets():
    """Regression; there are no classes, so `n_classes` is not looked at."""
    field = Classifier.random(MLPField((N, 5, N), rng=0), 1, rng=0)
    x = data()[0]
    y = x[:1] * x[1:2]
    result = snode.ncg(field, x, y, n_iter=20)
    assert result.fun < 0.1 * result.history.cost[0]


def test_every_entry_by_central_differences(field, cost):
    x, y = data()
    h = 1e-4
    _, partials = value_and_partials(field, x, y, cost)
    assert set(partials) == set(field.parameters)
    for name, theta in field.parameters.items():
        exact = np.zeros_like(theta)
        for index in np.ndindex(theta.shape):
            e = np.zeros_like(theta)
            e[index] = h
            # fourth order: truncation h^4 times a fifth derivative, rounding eps / h
            at = [
                value(field.with_parameters(**{name: theta + s * e}), x, y, cost)
                for s in (2, 1, -1, -2)
            ]
            exact[index] = (-at[0] + 8 * at[1] - 8 * at[2] + at[3]) / (12 * h)
        # relative to the whole derivative: one of its parts may vanish (tails of the sigmoid)
        size = max(np.abs(p).max() for p in partials.values())
        assert np.abs(partials[name] - exact).max() <= 1e-8 * np.abs(exact).max() + 1e-11 * size


@pytest.mark.parametrize("inner", INNERS, ids=repr)
def test_taylor_order(field, cost, inner, moved, random_like):
    x, y = data()
    bound = inner.on(field)
    fun, g = snode.gradient(field, x, y, cost, inner=inner)
    for seed in range(3):
        d = random_like(field.parameters, seed)
        slope = bound.dot(g, d)
        order = snode.taylor_test(
            lambda e, d=d: value(moved(field, d, e), x, y, cost),
            slope,
            steps=tuple(1e-3 / 2**k for k in range(6)),
        )
        assert order >= 1.95
        assert slope == pytest.approx(pair(value_and_partials(field, x, y, cost)[1], d), rel=1e-10)
    assert fun > 0


def test_gradient_of_the_read_out_alone_is_that_of_linear_regression(field):
    x, y = data()
    x_T = snode.solve_direct(field, x).x_T
    residual = field.V @ x_T + field.c[:, None] - np.eye(C)[y].T
    _, g = snode.gradient(field, x, y, Cost(n_classes=C))
    assert g["V"] == pytest.approx(residual @ x_T.T / M, rel=1e-12)
    assert g["c"] == pytest.approx(residual.mean(axis=1), rel=1e-12)


# --- the line model -------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", INNERS, ids=repr)
def test_phi_at_zero_is_the_derivative_along_the_direction(field, cost, inner, random_like):
    x, y = data()
    problem = FieldProblem(field, x, y, cost, inner)
    for seed in range(3):
        problem.direct()
        problem.gradient()
        partials = value_and_partials(field, x, y, cost)[1]
        problem.d = random_like(field.parameters, seed)
        slope = pair(partials, problem.d)
        size = sum(np.abs(p * problem.d[k]).sum() for k, p in partials.items())
        assert abs(problem.line().slope - slope) <= 1e-12 * size


def test_phi_sees_the_trial_read_out_and_not_the_base(field, random_like):
    x, y = data()
    cost = COSTS["all"]
    problem = FieldProblem(field, x, y, cost)
    problem.direct()
    problem.gradient()
    problem.d = random_like(field.parameters)
    problem.move(0.3)
    assert problem.base is field
    assert problem.direct() == pytest.approx(value(problem.trial, x, y, cost), rel=1e-13)
    partials = value_and_partials(problem.trial, x, y, cost)[1]
    assert problem.line().slope == pytest.approx(pair(partials, problem.d), rel=1e-12)
    gg = problem.gradient().gg
    assert gg == pytest.approx(L2().on(field).norm(problem.inner.riesz(partials)) ** 2, rel=1e-12)


def test_phi_is_the_derivative_of_the_cost_of_the_linearised_outputs(field, random_like):
    x, y = data()
    problem = FieldProblem(field, x, y, COSTS["all"])
    problem.direct()
    problem.gradient()
    problem.d = d = random_like(field.parameters)
    line, h = problem.line(), 1e-5
    sol = snode.solve_direct(field, x)
    xi_T = snode.solve_sensitivity(sol, dtheta=d)[-1]
    z = field.V @ sol.x_T + field.c[:, None]
    dz = field.V @ xi_T + d["V"] @ sol.x_T + d["c"][:, None]
    terminal, inner = TerminalCost(COSTS["all"], field, y), L2().on(field)

    def model(eta):
        theta = {k: p + eta * d[k] for k, p in field.parameters.items()}
        return terminal.value(z + eta * dz) + 0.1 * inner.norm(theta) ** 2

    for eta in (0.0, 0.4, 1.3):
        assert line.phi(eta) == pytest.approx((model(eta + h) - model(eta - h)) / (2 * h), rel=1e-7)
    assert line.move == pytest.approx(np.sqrt(np.sum(dz**2) / M))
    assert line.scale == pytest.approx(1 + np.sqrt(np.sum(z**2) / M))


# --- minimising -----------------------------------------------------------------------------------


def moons_start(n_outputs, dtype="float64", time="none"):
    return Classifier.random(MLPField((2, 8, 2), rng=0, dtype=dtype, time=time), n_outputs, rng=1)


@pytest.mark.parametrize("n_outputs", [2, 3])
@pytest.mark.parametrize("weights", [{}, {"l2": 0, "ce": 1, "decay": 1e-3}], ids=["l2", "ce"])
def test_ncg_learns_two_moons(n_outputs, weights):
    x, y = snode.datasets.two_moons(100, rng=0)
    start = moons_start(n_outputs)
    result = snode.ncg(start, x, y, Cost(**weights, n_classes=n_outputs), n_iter=60)
    assert (np.diff(result.history.cost) < 0).mean() > 0.9
    assert result.fun < 0.35 * result.history.cost[0]
    assert snode.accuracy(result.field, x, y) >= 0.9
    assert not np.array_equal(result.field.V, start.V)
    assert not np.array_equal(result.field.c, start.c)
    assert result.fun == Cost(**weights, n_classes=n_outputs).value(
        result.field, snode.solve_direct(result.field, x).x_T, y
    )


@pytest.mark.parametrize("time", ["none", "concat"])
def test_adam_learns_two_moons(time):
    x, y = snode.datasets.two_moons(100, rng=0)
    result = snode.train(
        moons_start(2, time=time), (x, y), Cost(l2=0, ce=1, n_classes=2), method="adam",
        learning_rate=0.02, epochs=40, batch_size=50, n_iter=2, rng=0,
    )  # fmt: skip
    assert result.history["cost_after"][-1] < 0.5 * result.history["cost"][0]
    assert result.evaluations["train_accuracy"][-1] >= 0.85


def test_a_field_without_read_out_learns_too():
    x, y = snode.datasets.two_moons(100, rng=0)
    result = snode.ncg(MLPField((2, 16, 2), T=3.0, rng=0), x, y, Cost(n_classes=2), n_iter=60)
    assert result.fun < 0.5 * result.history.cost[0]


def test_float32_stays_float32():
    x, y = snode.datasets.two_moons(60, rng=0, dtype="float32")
    cost = Cost(l2=0.5, ce=0.5, output=0.1, decay=1e-3, n_classes=2)
    for field in (moons_start(2, "float32"), moons_start(2, "float32", "concat")):
        assert {g.dtype for g in snode.gradient(field, x, y, cost)[1].values()} == {x.dtype}
        for method in ("ncg", "adam"):
            result = snode.train(field, (x, y), cost, method=method, batch_size=30, rng=0)
            assert {p.dtype for p in result.field.parameters.values()} == {x.dtype}


def test_the_fast_path_does_not_take_them():
    x = np.ones((2, 3))
    plain = snode.StandaloneField.random(2, 1.0, 4, rng=0)
    assert EulerProblem.applies_to(plain, x)
    assert not EulerProblem.applies_to(Classifier.random(plain, 2), x)
    assert not EulerProblem.applies_to(moons_start(2).field, x)


def test_an_overflow_in_the_read_out_is_an_infinite_cost(recwarn):
    x, y = data()
    field = Classifier(FIELDS["mlp"](), np.full((C, N), 1e308), np.full(C, 1e308))
    problem = FieldProblem(field, 100 * np.abs(x), y, Cost(n_classes=C))
    assert problem.direct() == np.inf
    with pytest.raises(snode.NonFiniteCostError):
        snode.ncg(field, 100 * np.abs(x), y, Cost(n_classes=C))
    assert not recwarn.list


# --- training and resuming ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"restart": False, "rule": "PR+"}, {"method": "adam"}, {"method": "momentum"}],
    ids=["ncg", "ncg on PR+", "adam", "momentum"],
)
@pytest.mark.parametrize("kind", FIELDS)
def test_train_20_is_train_10_and_resume(tmp_path, options, kind):
    x, y = data(50)
    start = Classifier.random(FIELDS[kind](), C, rng=1)
    file = tmp_path / "run.safetensors"

    def run(batches, **more):
        return snode.train(
            start, (x, y), COSTS["all"], epochs=batches / 7, batch_size=8, n_iter=2, rng=3,
            **options, **more,
        )  # fmt: skip

    whole = run(20)
    assert run(10, checkpoint=file).n_batches == 10
    resumed = run(20, checkpoint=file, resume=True)
    assert whole.n_batches == resumed.n_batches == 20
    for name, p in whole.field.parameters.items():
        assert p.tobytes() == resumed.field.parameters[name].tobytes(), name
        assert not np.array_equal(p, start.parameters[name]), name
    for name, column in whole.history.items():
        assert np.array_equal(column, resumed.history[name], equal_nan=True)


def test_a_checkpoint_of_another_output_activation_is_refused(tmp_path):
    x, y = data(20)
    file = tmp_path / "run.safetensors"

    def run(alpha):
        output = snode.get_activation("elu", alpha=alpha)
        start = Classifier.random(MLPField((N, 4, N), rng=0, output_activation=output), C, rng=1)
        snode.train(start, (x, y), COSTS["l2"], checkpoint=file, resume=True, rng=0)

    run(1.0)
    run(1.0)
    with pytest.raises(snode.ModelFormatError, match="belongs to another run: field"):
        run(0.5)


# --- prediction -----------------------------------------------------------------------------------


def test_predictions_take_the_largest_of_all_outputs(field):
    x, y = data(700)  # more than a block
    # biases that give every output its turn
    field = field.with_parameters(c=field.c - np.median(logits(field, x), axis=1))
    expected = logits(field, x).argmax(axis=0)
    assert set(expected.tolist()) == set(range(C))
    assert np.array_equal(snode.predict(field, x), expected)
    assert np.array_equal(snode.predict(field, x, n_classes=C), expected)
    assert snode.accuracy(field, x, y) == np.mean(expected == y)
    counts = snode.confusion(field, x, y)
    assert counts.shape == (C, C)
    assert counts[1, 2] == np.sum((y == 1) & (expected == 2))
    assert counts.sum() == 700
    scores = snode.accuracy_under_noise(field, x, y, [0.0, 0.2], rng=0)
    assert scores[0] == np.mean(expected == y)
    assert snode.accuracy_under_noise(field, x, y, [0.2], n_classes=C, rng=0).shape == (1,)


def test_without_read_out_ten_classes_are_the_default(make_field):
    field, x = make_field(12, 2), np.ones((12, 2))
    assert np.array_equal(snode.predict(field, x), snode.predict(field, x, n_classes=10))
    assert snode.confusion(field, x, np.zeros(2, int)).shape == (10, 10)
    with pytest.raises(ValueError, match=r"n_classes must be in 1\.\.3; got 10"):
        snode.predict(make_field(3, 2), np.ones((3, 1)))


def test_default_costs_have_the_classes_of_the_read_out():
    x, y = snode.datasets.two_moons(30, rng=0)
    field = moons_start(5)
    cost = Cost(n_classes=5)
    assert snode.ncg(field, x, y, n_iter=2).fun == snode.ncg(field, x, y, cost, n_iter=2).fun
    one, two = (snode.train(field, (x, y), *c, rng=0) for c in ((), (cost,)))
    assert np.array_equal(one.history["cost"], two.history["cost"])


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, N, C + 1, 10])
def test_the_number_of_classes_must_be_that_of_the_outputs(field, n_classes):
    x, y = data()
    message = f"n_classes must be the number of outputs of the field, 4; got {n_classes}"
    for call in (
        lambda: snode.gradient(field, x, y % 2, Cost(n_classes=n_classes)),
        lambda: snode.ncg(field, x, y % 2, Cost(n_classes=n_classes)),
        lambda: snode.train(field, (x, y % 2), Cost(n_classes=n_classes)),
        lambda: snode.predict(field, x, n_classes=n_classes),
        lambda: snode.confusion(field, x, y, n_classes=n_classes),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_labels_beyond_the_outputs_are_refused(field):
    x, y = data()
    with pytest.raises(ValueError, match=r"y must hold labels 0\.\.3; got labels 1\.\.4"):
        snode.gradient(field, x, y + 1, Cost(n_classes=C))


# --- what the output term compares with -----------------------------------------------------------


def test_rest(make_field):
    y = np.zeros((N, 1))

    def rest(field, y=y):
        return TerminalCost(Cost(), field, y).rest

    assert rest(make_field(N, 2, activation="sigmoid", T=1.5)) == 0.75
    assert rest(MLPField((N, 5, N), activation="sigmoid", T=1.5)) == 0
    activated = MLPField((N, 5, N), activation="tanh", output_activation="sigmoid", T=1.5)
    assert rest(activated) == 0.75
    assert rest(Classifier.random(activated, C), np.zeros((C, 1))) == 0
