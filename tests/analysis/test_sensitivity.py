"""Propagation, Jacobian, uncertainty, saliency against differences, formulas and sampling."""

import numpy as np
import pytest
from scipy.special import ndtr

import snode
from snode import Solver
from snode.analysis.sensitivity import (
    Propagation,
    Uncertainty,
    input_jacobian,
    output_uncertainty,
    propagate,
    saliency,
)
from snode.analysis.uncertainty import _sample_union
from snode.backend import to_host
from snode.fields.base import outputs
from snode.fields.layer import LayerLinearization

pytestmark = pytest.mark.grid(3)

N, M, C = 4, 5, 3
ODE45 = Solver("ode45", rtol=1e-6, atol=1e-8)
SOLVERS = ["euler", "rk4", ODE45, Solver("heun", checkpoints=2)]
KINDS = [
    "constant", "linear", "cubic", "classifier", "mlp", "classifier of an mlp", "function",
]  # fmt: skip


@pytest.fixture
def make(make_field):
    """Return make(kind) -> field of state dimension 4."""

    def make(kind, **options):
        if kind.startswith("classifier"):
            rng = np.random.default_rng(3)
            inner = make("mlp" if "mlp" in kind else "constant", **options)
            return snode.Classifier(inner, rng.standard_normal((C, N)), rng.standard_normal(C))
        if kind == "mlp":
            return snode.MLPField((N, 6, N), time="concat", n_layers=6, rng=1, **options)
        if kind == "function":
            return snode.FunctionField(
                lambda t, x, theta: np.sin(theta["k"] * x[::-1]) + t, N,
                parameters={"k": np.array([1.3])}, T=1.0, n_layers=6,
                jvp=lambda t, x, theta, dx, dtheta: np.cos(theta["k"] * x[::-1]) * (
                    theta["k"] * dx[::-1] + dtheta["k"] * x[::-1]
                ),
                vjp=lambda t, x, theta, p: (
                    (np.cos(theta["k"] * x[::-1]) * theta["k"] * p)[::-1],
                    {"k": np.array([(np.cos(theta["k"] * x[::-1]) * x[::-1] * p).sum()])},
                ),
            )  # fmt: skip
        return make_field(N, 6, interpolation=kind, **options)

    return make


def inputs(m=M, seed=0, dtype=np.float64):
    return np.random.default_rng([5, seed]).uniform(-1, 1, (N, m)).astype(dtype)


def on_frozen_steps(field, x, solver):
    """Return x -> outputs, on the steps that the solver takes for this x."""
    if solver is ODE45:
        t = ODE45.solve(field, x).t
        return lambda y: outputs(
            field, snode.solve_direct(field, y, method="dormand_prince", t=t).x_T
        )
    method = solver if isinstance(solver, str) else solver.method
    return lambda y: outputs(field, snode.solve_direct(field, y, method=method).x_T)


def central_differences(function, x, eps=1e-5):
    """Return (C, n, m): derivatives of function(x), (C, m), sample by sample."""
    columns = []
    for j in range(len(x)):
        e = np.zeros_like(x)
        e[j] = eps
        columns.append((function(x + e) - function(x - e)) / (2 * eps))
    return np.stack(columns, axis=1)


# --- the Jacobian ---------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_jacobian_is_the_central_difference_and_the_tangent(make, kind, solver):
    field, x = make(kind), inputs()
    J = input_jacobian(field, x, solver=solver)
    expected = central_differences(on_frozen_steps(field, x, solver), x)
    assert J.shape == (C if "classifier" in kind else N, N, M)
    assert np.abs(J - expected).max() <= 1e-7
    tangent = input_jacobian(field, x, method="tangent", solver=solver)
    assert np.abs(J - tangent).max() <= 1e-12 * np.abs(J).max()


@pytest.mark.parametrize("method", ["adjoint", "tangent"])
@pytest.mark.parametrize("kind", ["linear", "classifier"])
def test_fewer_rows_are_the_first_rows(make, kind, method):
    field, x = make(kind), inputs()
    J = input_jacobian(field, x, method=method)
    assert np.array_equal(input_jacobian(field, x, rows=2, method=method), J[:2])


def test_ten_rows_unless_told_otherwise():
    field = snode.StandaloneField.random(12, 1.0, 2, knots=1, rng=0)
    assert input_jacobian(field, np.ones((12, 1))).shape == (10, 12, 1)
    assert input_jacobian(field, np.ones((12, 1)), rows=12).shape == (12, 12, 1)


def test_more_inputs_than_tangent_directions_at_once():
    field, x = snode.StandaloneField.random(40, 1.0, 3, knots=1, rng=0), np.ones((40, 2))
    J = input_jacobian(field, x, rows=3)
    assert np.abs(input_jacobian(field, x, rows=3, method="tangent") - J).max() <= 1e-13


@pytest.mark.parametrize("solver", ["euler", ODE45], ids=str)
@pytest.mark.parametrize("kind", ["constant", "classifier of an mlp"])
def test_blocks_do_not_change_numbers(make, kind, solver):
    field, x = make(kind), inputs(7)
    d = {name: 0.1 * np.cos(a) for name, a in field.parameters.items()}
    calls = {
        "jacobian": lambda **k: input_jacobian(field, x, **k),
        "tangent": lambda **k: input_jacobian(field, x, method="tangent", **k),
        "saliency": lambda **k: saliency(field, x, n_classes=C, **k),
        "given": lambda **k: saliency(field, x, label=np.arange(7) % C, n_classes=C, **k),
        "measured": lambda **k: propagate(field, x, 0.1 * x, dtheta=d, **k).measured,
        "predicted": lambda **k: propagate(field, x, 0.1 * x, dtheta=d, **k).predicted,
        "uncertain": lambda **k: output_uncertainty(field, x, 0.2, n_classes=C, rng=0, **k).mean,
        "covariance": lambda **k: (
            output_uncertainty(field, x, 0.2, n_classes=C, rng=0, **k).covariance
        ),
        "changed": lambda **k: (
            output_uncertainty(field, x, 0.2, n_classes=C, rng=0, **k).probability_changed
        ),
    }
    for name, call in calls.items():
        whole = call(solver=solver)
        for block in (1, 3, 7):
            parts = call(solver=solver, block=block)
            assert np.abs(parts - whole).max() <= 1e-12 * np.abs(whole).max(), (name, block)


def test_one_direct_solve_and_no_parameter_part(make_field, monkeypatch):
    field, x, made = make_field(N, 6), inputs(), []
    linearize = snode.StandaloneField.linearize

    def counted(self, t, x):
        made.append(t)
        return linearize(self, t, x)

    monkeypatch.setattr(snode.StandaloneField, "linearize", counted)
    vjp = LayerLinearization.vjp

    def without(self, p, into=None):
        assert into is None
        return vjp(self, p)

    monkeypatch.setattr(LayerLinearization, "vjp", without)
    input_jacobian(field, x)
    assert len(made) == 6
    head = snode.Classifier.random(field, C, rng=0)
    input_jacobian(head, x)
    saliency(head, x)
    output_uncertainty(head, x, 1.0)
    assert len(made) == 4 * 6


# --- propagation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("kind", ["cubic", "classifier of an mlp"])
def test_propagation_is_what_it_says(make, kind, solver):
    field, x, dx0 = make(kind), inputs(), 0.2 * inputs(seed=1)
    d = {name: 0.1 * np.cos(a) for name, a in field.parameters.items()}
    p = propagate(field, x, dx0, dtheta=d, solver=solver)
    moved = field.with_parameters(**{k: a + d[k] for k, a in field.parameters.items()})
    if solver is ODE45:
        sol = snode.solve_direct(field, x, method="ode45", rtol=1e-6, atol=1e-8)
        options = {"method": "dormand_prince", "t": sol.t}
    else:
        options = {"method": solver if isinstance(solver, str) else solver.method}
        sol = snode.solve_direct(field, x, **options)
    xi = snode.solve_sensitivity(sol, dx0=dx0, dtheta=d)
    delta = snode.solve_direct(moved, x + dx0, **options).x - sol.x
    size = np.linalg.norm(delta, axis=1)
    assert np.array_equal(p.t, sol.t)
    assert p.predicted == pytest.approx(np.linalg.norm(xi, axis=1), rel=1e-12)
    assert p.measured == pytest.approx(size, rel=1e-12)
    assert p.relative_error == pytest.approx(
        np.abs(np.linalg.norm(xi, axis=1) - size) / size, abs=1e-12
    )
    expected = np.linalg.norm(xi - delta, axis=1) / size
    assert p.relative_vector_error == pytest.approx(expected, abs=1e-12)
    assert (p.relative_vector_error >= p.relative_error - 1e-14).all()
    assert expected[-1].min() > 1e-3  # otherwise nothing was compared


@pytest.mark.parametrize("what", ["inputs", "weights", "both"])
@pytest.mark.parametrize("kind", ["constant", "linear", "cubic", "mlp"])
@pytest.mark.parametrize("solver", ["euler", ODE45], ids=str)
def test_relative_error_falls_linearly(make, kind, what, solver, random_like):
    field, x = make(kind), inputs(20)
    dx0, d = inputs(20, seed=1), random_like(field.parameters)
    sizes, size, vector = np.array([1e-2, 1e-3, 1e-4]), [], []
    for eps in sizes:
        p = propagate(
            field, x, eps * dx0 if what != "weights" else None, solver=solver,
            dtheta={k: eps * a for k, a in d.items()} if what != "inputs" else None,
        )  # fmt: skip
        size.append(p.mean.relative_error[-1])
        vector.append(p.mean.relative_vector_error[-1])
    for errors in (size, vector):
        slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
        assert abs(slope - 1) <= 0.1


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_a_linear_field_is_predicted_exactly(make_field, solver, random_like):
    field, x = make_field(N, 6, activation="identity"), inputs()
    b = {"b": 10 * random_like(field.parameters)["b"]}  # W would not be linear
    p = propagate(field, x, 10 * inputs(seed=1), dtheta=b, solver=solver)
    assert p.relative_vector_error.max() <= 1e-13
    assert p.relative_error.max() <= 1e-13


def test_nothing_measured(make_field, random_like):
    field, x, dx0 = make_field(N, 6), inputs(), inputs(seed=1)
    p = propagate(field, x, dtheta=random_like(field.parameters))
    for curve in p.mean:
        assert not curve[0].any()  # 0 / 0 is 0
        assert (curve[1:] > 0).all()
    dx0[:, 2] = 0
    p = propagate(field, x, dx0)
    for curve in (p.predicted, p.measured, p.relative_error, p.relative_vector_error):
        assert not curve[:, 2].any()
        assert np.isfinite(curve).all()
    small = make_field(N, 6, dtype=np.float32)
    p = propagate(small, np.ones((N, 1), np.float32), np.full((N, 1), 1e-12, np.float32))
    assert p.predicted[0, 0] > 0
    assert p.measured[0, 0] == 0
    assert np.isinf(p.relative_error[0, 0])
    assert np.isinf(p.mean.relative_error[0])
    assert np.isnan(p.std.relative_error[0])


def test_mean_and_std_are_over_the_samples(make_field):
    p = propagate(make_field(N, 6), inputs(), 0.1 * inputs(seed=1))
    for name in ("predicted", "measured", "relative_error", "relative_vector_error"):
        curve = getattr(p, name)
        assert curve.shape == (7, M)
        assert getattr(p.mean, name) == pytest.approx(np.mean(curve, axis=1))
        assert getattr(p.std, name) == pytest.approx(np.std(curve, axis=1))
    assert "Propagation(6 steps, m=5; mean at T=1.5: predicted 0." in repr(p)


def test_the_read_out_does_not_move_the_state(make):
    field = make("classifier")
    p = propagate(field, inputs(), dtheta={"V": np.ones((C, N))})
    assert not any(curve.any() for curve in (*p.mean, *p.std))


def test_a_perturbed_problem_that_fails_is_an_error(make_field):
    field, x = make_field(N, 6, activation="relu"), inputs()
    with pytest.raises(snode.IntegrationError, match=r"blows up|not finite"):
        propagate(field, x, dtheta={"W": np.full_like(field.W, 1e200)})
    failing = field.with_parameters(W=np.full_like(field.W, 1e200))
    for call in (
        lambda: input_jacobian(failing, x),
        lambda: saliency(failing, x, n_classes=C),
        lambda: output_uncertainty(failing, x, 1.0, n_classes=C),
        lambda: propagate(failing, x, x),
    ):
        with pytest.raises(snode.IntegrationError, match=r"blows up|not finite"):
            call()


# --- uncertainty ----------------------------------------------------------------------------------


def a_matrix(seed=2):
    root = np.random.default_rng(seed).standard_normal((N, N))
    return root @ root.T


def stands_still(n=N):
    """A field with x(T) = x(0)."""
    return snode.StandaloneField(np.zeros((1, n, n)), np.zeros((1, n)), 1.0)


@pytest.mark.parametrize("kind", ["constant", "classifier"])
def test_covariance_is_that_of_the_linear_model(make, kind):
    field, x = make(kind), inputs()
    J = input_jacobian(field, x, rows=C)
    sigma, variances = a_matrix(), np.array([0.5, 0.0, 2.0, 1.0])
    for covariance, full in (
        (0.3, 0.3 * np.eye(N)), (variances, np.diag(variances)), (sigma, sigma),
        (np.outer(variances, variances), np.outer(variances, variances)),  # of rank one
        (2, 2 * np.eye(N)), (np.float64(2), 2 * np.eye(N)),
    ):  # fmt: skip
        u = output_uncertainty(field, x, covariance, n_classes=C, rng=0)
        expected = np.einsum("ipk,pq,jqk->ijk", J, full, J)
        assert np.abs(u.covariance - expected).max() <= 1e-12 * np.abs(expected).max()
        assert np.array_equal(u.covariance, u.covariance.swapaxes(0, 1))
        assert u.std == pytest.approx(np.sqrt(np.einsum("iik->ik", expected)), abs=1e-7)
        assert u.mean == pytest.approx(outputs(field, snode.solve_direct(field, x).x_T)[:C])
        assert np.array_equal(u.label, snode.predict(field, x, n_classes=C))
        assert (u.probability_changed <= u.bound).all()


def test_covariance_by_sampling_through_the_network(make):
    field, x, sigma = make("classifier"), inputs(1), 1e-6 * a_matrix()
    u = output_uncertainty(field, x, sigma, rng=0)
    draws = np.random.default_rng(1).multivariate_normal(np.zeros(N), sigma, 40_000).T
    z = outputs(field, snode.solve_direct(field, x + draws, keep="last").x_T)
    # the standard error of an entry is at most sqrt(2 / 40,000) = 0.7 % of the variances
    scale = np.sqrt(np.outer(u.std[:, 0], u.std[:, 0]))
    assert np.abs((np.cov(z) - u.covariance[:, :, 0]) / scale).max() <= 0.035
    assert z.mean(axis=1) == pytest.approx(u.mean[:, 0], abs=5 * u.std.max() / 200)


@pytest.mark.parametrize("activation", ["identity", "tanh"])
def test_probability_by_sampling_through_the_network(make_field, activation):
    # samples near a boundary, so that a small error can change the label
    field = make_field(N, 6, activation=activation)
    x = near_the_boundary(field)
    sigma = 1e-4 * a_matrix()
    u = output_uncertainty(field, x, sigma, n_classes=C, rng=0)
    draws = np.random.default_rng(1).multivariate_normal(np.zeros(N), sigma, 40_000).T
    for k in range(x.shape[1]):
        labels = snode.predict(field, x[:, k : k + 1] + draws, n_classes=C)
        share = (labels != u.label[k]).mean()
        assert 0.02 < share < 0.98
        assert abs(share - u.probability_changed[k]) <= 5 * u.standard_error[k] + 5 * 0.5 / 200
    assert (u.standard_error < 0.01).all()


def near_the_boundary(field):
    """Return the points of segments between random inputs where the predicted class changes."""
    a, b, found = inputs(40, seed=3), inputs(40, seed=4), []
    s = np.linspace(0, 1, 2001)
    for k in range(40):
        line = a[:, k : k + 1] + s * (b[:, k : k + 1] - a[:, k : k + 1])
        labels = snode.predict(field, line, n_classes=C)
        (jumps,) = np.nonzero(np.diff(labels))
        found += [line[:, j] for j in jumps[:1]]
    assert len(found) >= 4
    return np.stack(found[:4], axis=1)


def test_two_classes_are_exact(make):
    field, x, sigma = make("cubic"), inputs(), a_matrix()
    u = output_uncertainty(field, x, sigma, n_classes=2)
    J = input_jacobian(field, x, rows=2)
    w = J[1] - J[0]
    s = np.sqrt(np.einsum("pk,pq,qk->k", w, sigma, w))
    assert u.probability_changed == pytest.approx(ndtr(-abs(u.mean[0] - u.mean[1]) / s), rel=1e-12)
    assert np.array_equal(u.bound, u.probability_changed)
    assert not u.standard_error.any()


@pytest.mark.parametrize("scale", [1.0, 3.0, 6.0])
def test_three_classes_with_independent_rivals(scale):
    # class 0 is certain, classes 1 and 2 are independent: p = 1 - (1 - p1) (1 - p2)
    field = stands_still(3)
    x, variances = scale * np.array([[2.0], [1.0], [0.5]]), np.array([0.0, 1.0, 2.25])
    u = output_uncertainty(field, x, variances, n_classes=3, rng=0, n_samples=20_000)
    p1, p2 = ndtr(-scale), ndtr(-scale)
    exact = p1 + p2 - p1 * p2
    assert u.bound[0] == pytest.approx(p1 + p2, rel=1e-12)
    assert abs(u.probability_changed[0] - exact) <= 5 * u.standard_error[0] + 1e-8 * exact
    assert u.probability_changed[0] == pytest.approx(exact, rel=0.05)  # in the tail too
    assert u.standard_error[0] <= 0.02 * exact


def test_no_uncertainty():
    x = np.array([[1.0, 1.0], [0.0, 1.0], [0.0, -1.0]])  # the second sample is a tie
    u = output_uncertainty(stands_still(3), x, 0.0, n_classes=3, rng=0)
    assert not u.covariance.any()
    assert not u.probability_changed.any()
    assert not u.bound.any()
    assert u.label.tolist() == [0, 0]


def test_one_class_never_changes(make):
    u = output_uncertainty(make("constant"), inputs(), 1.0, n_classes=1)
    assert u.covariance.shape == (1, 1, M)
    assert not u.probability_changed.any()


def test_a_rival_that_moves_along_does_no_harm():
    # the first two logits have the same error: their margin is certain
    field = snode.Classifier(stands_still(2), np.array([[1.0, 0], [1, 0], [0, 1]]), np.zeros(3))
    field = field.with_parameters(c=np.array([0.1, 0.0, 0.0]))
    x = np.array([[1.0], [0.0]])
    u = output_uncertainty(field, x, 1.0, rng=0)
    exact = ndtr(-1.1 / np.sqrt(2))
    assert u.bound[0] == pytest.approx(exact, rel=1e-12)
    assert u.probability_changed[0] == pytest.approx(exact, rel=1e-12)


def test_a_draw_on_the_edge_counts():
    # e on the boundary of a half-space: rounding must not put it outside of all of them
    rng, size = np.random.default_rng(0), 50
    for _ in range(20):
        mu, root = rng.uniform(0, 1, 2), rng.standard_normal((2, 3))
        pairwise = ndtr(-mu / np.linalg.norm(root, axis=1))
        draws = rng.standard_normal((size, 3)), np.ones(size), (np.arange(size) + 0.5) / size
        probability, error = _sample_union(mu, root, pairwise, draws)
        assert 0.5 - 1e-12 <= probability / pairwise.sum() <= 1 + 1e-12
        assert np.isfinite(error)


def test_probability_is_repeatable(make):
    field, x = make("classifier"), inputs()
    one, two, other = (
        output_uncertainty(field, x, 0.5, rng=seed).probability_changed for seed in (0, 0, 1)
    )
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)
    u = output_uncertainty(field, x, 0.5, rng=np.random.default_rng(0))
    assert np.array_equal(u.probability_changed, one)
    assert repr(u).startswith("Uncertainty(C=3, m=5, mean probability of a changed label 0.")


# --- saliency -------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("kind", ["constant", "cubic", "classifier", "mlp"])
def test_saliency_is_the_central_difference(make, kind, solver):
    field, x = make(kind), inputs()
    function = on_frozen_steps(field, x, solver)
    z, J, k = function(x)[:C], central_differences(function, x)[:C], np.arange(M)
    predicted = snode.predict(field, x, n_classes=C, solver=solver)
    given = np.arange(M) % C
    assert (predicted != given).any()
    for label, used in ((None, predicted), (given, given), (1, np.ones(M, int))):
        options = {"label": label, "n_classes": C, "solver": solver}
        assert np.abs(saliency(field, x, **options) - J[used, :, k].T).max() <= 1e-7
        rest = np.where(np.arange(C)[:, None] == used, -np.inf, z).argmax(axis=0)
        margin = saliency(field, x, kind="margin", **options)
        assert np.abs(margin - (J[used, :, k] - J[rest, :, k]).T).max() <= 1e-7


def test_saliency_is_one_adjoint_solve(make, monkeypatch):
    field, calls = make("mlp"), []
    linearization = type(field.linearize(0.0, inputs())[1])
    vjp = linearization.vjp
    monkeypatch.setattr(
        linearization, "vjp", lambda *args, **kwargs: (calls.append(1), vjp(*args, **kwargs))[1]
    )
    saliency(field, inputs(), n_classes=C, kind="margin")
    assert len(calls) == 6


# --- dtype and device -----------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["euler", Solver("ode45", rtol=1e-4)], ids=str)
def test_float32_stays_float32(make_field, solver):
    field, single = (make_field(N, 6, dtype=d) for d in (np.float64, np.float32))
    x, y = inputs(), inputs(dtype=np.float32)
    for call in (
        lambda f, x: input_jacobian(f, x, solver=solver),
        lambda f, x: input_jacobian(f, x, method="tangent", solver=solver),
        lambda f, x: saliency(f, x, n_classes=C, kind="margin", solver=solver),
    ):
        assert call(single, y).dtype == np.float32
        assert np.abs(call(single, y) - call(field, x)).max() <= 1e-3
    p, q = (
        propagate(f, z, 0.1 * z, dtheta={"b": 0.1 * f.b}, solver=solver)
        for f, z in ((field, x), (single, y))
    )
    assert q.t.dtype == np.float64
    for curve, other in zip((*p.mean, *p.std), (*q.mean, *q.std), strict=True):
        assert other.dtype == np.float32
        if solver == "euler":
            assert np.abs(curve - other).max() <= 1e-4
    for covariance in (0.1, np.full(N, 0.1, np.float32), 0.1 * np.eye(N)):
        u = output_uncertainty(field, x, covariance, n_classes=C, solver=solver, rng=0)
        v = output_uncertainty(single, y, covariance, n_classes=C, solver=solver, rng=0)
        assert v.label.dtype == np.int64
        for name in ("mean", "covariance", "probability_changed", "bound", "std", "standard_error"):
            assert getattr(v, name).dtype == np.float32
            assert np.abs(getattr(v, name) - getattr(u, name)).max() <= 1e-3


def to_device(cp, field):
    if isinstance(field, snode.Classifier):
        inner = to_device(cp, field.field)
        return snode.Classifier(inner, cp.asarray(field.V), cp.asarray(field.c))
    if isinstance(field, snode.MLPField):
        parameters = {k: cp.asarray(p) for k, p in field.parameters.items()}
        return snode.MLPField.from_parameters(parameters, time=field.time, n_layers=field.n_layers)
    return snode.StandaloneField(
        cp.asarray(field.W), cp.asarray(field.b), field.T, interpolation=field.interpolation
    )


@pytest.mark.parametrize("solver", ["euler", ODE45, Solver("heun", checkpoints=2)], ids=str)
@pytest.mark.parametrize("kind", ["linear", "classifier", "classifier of an mlp"])
def test_on_a_device(cp, make, kind, solver):
    host, x = make(kind), inputs()
    device, y = to_device(cp, host), cp.asarray(x)
    d = {name: 0.1 * np.cos(a) for name, a in host.parameters.items()}
    on_device = {k: cp.asarray(a) for k, a in d.items()}
    options = {"solver": solver, "block": 3}

    def same(mine, theirs):
        assert isinstance(mine, cp.ndarray)
        assert mine.dtype == theirs.dtype
        assert mine.shape == theirs.shape
        assert np.abs(cp.asnumpy(mine) - theirs).max() <= 1e-9 * max(np.abs(theirs).max(), 1e-3)

    for method in ("adjoint", "tangent"):
        same(
            input_jacobian(device, y, rows=C, method=method, **options),
            input_jacobian(host, x, rows=C, method=method, **options),
        )
    p = propagate(host, x, 0.1 * x, dtheta=d, **options)
    q = propagate(device, y, 0.1 * y, dtheta=on_device, **options)
    assert type(q.t) is np.ndarray
    for a, b in zip((*q.mean, *q.std), (*p.mean, *p.std), strict=True):
        same(a, b)
    assert repr(q) == repr(p)
    for label in (None, 1, np.arange(M) % C):
        given = cp.asarray(label) if isinstance(label, np.ndarray) else label
        for kind_ in ("logit", "margin"):
            same(
                saliency(device, y, label=given, n_classes=C, kind=kind_, **options),
                saliency(host, x, label=label, n_classes=C, kind=kind_, **options),
            )
    for covariance in (0.1, np.linspace(0, 1, N), a_matrix()):
        given = cp.asarray(covariance) if isinstance(covariance, np.ndarray) else covariance
        u = output_uncertainty(host, x, covariance, n_classes=C, rng=0, **options)
        v = output_uncertainty(device, y, given, n_classes=C, rng=0, **options)
        for name in (
            "mean", "covariance", "probability_changed", "bound", "label", "std", "standard_error",
        ):  # fmt: skip
            same(getattr(v, name), getattr(u, name))
        assert repr(v) == repr(u)


MIXED = {
    "inputs": lambda cp, f, x: input_jacobian(f, to_host(x)),
    "perturbation": lambda cp, f, x: propagate(f, x, to_host(x)),
    "weights": lambda cp, f, x: propagate(f, x, dtheta={"W": to_host(f.W)}),
    "covariance": lambda cp, f, x: output_uncertainty(f, x, np.ones(N), n_classes=C),
    "label": lambda cp, f, x: saliency(f, x, label=np.zeros(M, int), n_classes=C),
}


@pytest.mark.parametrize("name", MIXED)
def test_host_and_device_do_not_mix(cp, make, name):
    device = to_device(cp, make("constant"))
    with pytest.raises(TypeError, match=r"host \(NumPy\) and device \(CuPy\) arrays are mixed"):
        MIXED[name](cp, device, cp.asarray(inputs()))


# --- arguments ------------------------------------------------------------------------------------

X = inputs()
NOT_SYMMETRIC = np.eye(N) + np.eye(N, k=1)
WRONG = {
    "x": (lambda f: input_jacobian(f, X.T), r"x must have shape \(4, m\).*did you mean x\.T"),
    "x of one sample": (lambda f: saliency(f, X[:, 0]), r"use x\[:, None\]"),
    "x dtype": (lambda f: output_uncertainty(f, X.astype(np.float32), 1.0), "x is float32"),
    "x nan": (lambda f: propagate(f, X * np.nan, X), "x must be finite"),
    "x list": (lambda f: propagate(f, X.tolist(), X), "x must be a NumPy or CuPy array"),
    "solver": (lambda f: input_jacobian(f, X, solver="eulr"), "method must be one of"),
    "solver type": (lambda f: saliency(f, X, solver=3), "solver must be the name"),
    "block": (lambda f: input_jacobian(f, X, block=0), "block must be a positive integer; got 0"),
    "block type": (lambda f: propagate(f, X, X, block=2.5), "block must be a positive integer"),
    "nothing": (lambda f: propagate(f, X), "dx0 or dtheta must be given"),
    "no weights": (lambda f: propagate(f, X, dtheta={}), "dx0 or dtheta must be given"),
    "dx0": (lambda f: propagate(f, X, X[:, :2]), r"dx0 must be float64 of shape \(4, 5\)"),
    "dx0 nan": (lambda f: propagate(f, X, X * np.nan), "dx0 must be finite"),
    "dtheta name": (lambda f: propagate(f, X, dtheta={"U": X}), "dtheta has an unknown parameter"),
    "dtheta": (lambda f: propagate(f, X, dtheta={"b": X}), r"dtheta\['b'\] must be float64"),
    "dtheta nan": (
        lambda f: propagate(f, X, dtheta={"b": f.b * np.nan}), r"dtheta\['b'\] must be finite",
    ),
    "rows": (lambda f: input_jacobian(f, X, rows=5), r"rows must be in 1\.\.4; got 5"),
    "no rows": (lambda f: input_jacobian(f, X, rows=0), "rows must be a positive integer; got 0"),
    "method": (lambda f: input_jacobian(f, X, method="dual"), "method must be one of 'adjoint'"),
    "kind": (lambda f: saliency(f, X, kind="loss"), "kind must be one of 'logit', 'margin'"),
    "classes": (lambda f: saliency(f, X), r"n_classes must be in 1\.\.4; got 10"),
    "one class": (
        lambda f: saliency(f, X, n_classes=1, kind="margin"), "n_classes must be at least 2",
    ),
    "label": (lambda f: saliency(f, X, label=3, n_classes=C), r"label must hold labels 0\.\.2"),
    "negative label": (
        lambda f: saliency(f, X, label=np.full(M, -1), n_classes=C), "label must hold labels 0..2",
    ),
    "label type": (lambda f: saliency(f, X, label=[1], n_classes=C), "must be integer labels"),
    "label bool": (lambda f: saliency(f, X, label=True, n_classes=C), "must be integer labels"),
    "label shape": (
        lambda f: saliency(f, X, label=np.zeros(3, int), n_classes=C),
        r"label must be integer labels of shape \(5,\); got int64 of shape \(3,\)",
    ),
    "label dtype": (
        lambda f: saliency(f, X, label=np.zeros(M), n_classes=C), "label must be integer labels",
    ),
    "variance": (lambda f: output_uncertainty(f, X, -1.0, n_classes=C), "covariance must be fin"),
    "variance nan": (lambda f: output_uncertainty(f, X, np.nan, n_classes=C), "covariance must be"),
    "variances": (
        lambda f: output_uncertainty(f, X, -np.ones(N), n_classes=C),
        "covariance must have no negative variance; got -1",
    ),
    "infinite": (
        lambda f: output_uncertainty(f, X, np.full((N, N), np.inf), n_classes=C),
        "covariance must be finite",
    ),
    "covariance shape": (
        lambda f: output_uncertainty(f, X, np.eye(3), n_classes=C),
        r"covariance must be a variance, \(4,\) variances or a \(4, 4\) matrix; got float64 of",
    ),
    "covariance type": (
        lambda f: output_uncertainty(f, X, [1.0] * N, n_classes=C), "matrix; got list",
    ),
    "covariance dtype": (
        lambda f: output_uncertainty(f, X, np.eye(N, dtype=int), n_classes=C), "got int64",
    ),
    "symmetric": (
        lambda f: output_uncertainty(f, X, NOT_SYMMETRIC, n_classes=C), "must be symmetric",
    ),
    "semidefinite": (
        lambda f: output_uncertainty(f, X, np.diag([1.0, 1, 1, -1]), n_classes=C),
        "must be positive semidefinite; its smallest eigenvalue is -1",
    ),
    "samples": (
        lambda f: output_uncertainty(f, X, 1.0, n_classes=C, n_samples=0),
        "n_samples must be a positive integer; got 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_named(make_field, name):
    call, message = WRONG[name]
    with pytest.raises((ValueError, TypeError), match=message):
        call(make_field(N, 6))


def test_classes_of_a_read_out(make):
    with pytest.raises(ValueError, match="n_classes must be the number of outputs of the field, 3"):
        saliency(make("classifier"), X, n_classes=2)
    assert saliency(make("classifier"), X).shape == (N, M)


def test_results_are_frozen(make):
    p = propagate(make("constant"), X, X)
    u = output_uncertainty(make("constant"), X, 1.0, n_classes=2)
    for result, kind in ((p, Propagation), (u, Uncertainty)):
        assert type(result) is kind
        with pytest.raises(AttributeError):
            result.t = None
