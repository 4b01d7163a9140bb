"""float32 in, float32 everywhere out, in every function and on both paths; mixing is refused."""

import numpy as np
import pytest
from transposes import pulled

import snode
from snode import H1, L2, Cost, Euclidean
from snode.training.gradients import FieldProblem, value_and_partials
from snode.training.hotpath import EulerProblem
from snode.training.ncg import minimize

pytestmark = pytest.mark.grid(4)

EPS = float(np.finfo(np.float32).eps)
COST = Cost(l2=0.8, ce=0.5, output=0.1, decay=0.05, n_classes=3)
INNERS = [L2(), H1(0.5), Euclidean()]


@pytest.fixture
def pair_of_fields(make_field, activation, interpolation):
    """The same field in float32 and, with exactly the same weights, in float64."""
    narrow = make_field(4, 6, activation=activation, interpolation=interpolation, dtype=np.float32)
    wide = narrow.with_parameters(W=narrow.W.astype(np.float64), b=narrow.b.astype(np.float64))
    return narrow, wide


def data(dtype=np.float32, m=40):
    x = np.random.default_rng(0).uniform(-1, 1, (4, m)).astype(np.float32)
    return x.astype(dtype), np.arange(m) % 3


def assert_narrow(*arrays):
    for array in arrays:
        assert array.dtype == np.float32


def assert_close(narrow, wide, factor=200):
    # rounding of six layers; a kink crossed by rounding moves a term of size eps only
    assert np.abs(narrow - wide).max() <= factor * EPS * (1 + np.abs(wide).max())


def test_three_problems(pair_of_fields, random_like):
    field, wide = pair_of_fields
    x, _ = data()
    d = random_like(field.parameters)
    assert_narrow(*d.values())
    for keep in ("all", "trajectory", "last"):
        sol = snode.solve_direct(field, x, keep=keep)
        assert_narrow(sol.x_T)
        assert sol.t.dtype == np.float64  # time is always float64
        if keep != "last":
            assert_narrow(sol.x, snode.solve_sensitivity(sol, dtheta=d))
            assert_narrow(snode.solve_sensitivity(sol), snode.solve_sensitivity(sol, dx0=x))
            adjoint = snode.solve_adjoint(sol, np.ones_like(x))
            assert_narrow(adjoint.lam, *adjoint.partials.values())
    exact = snode.solve_direct(wide, x.astype(np.float64))
    assert_close(snode.solve_direct(field, x).x, exact.x)


def test_contract(pair_of_fields, random_like):
    field, _ = pair_of_fields
    x, _ = data()
    for t in (0.0, 0.4, field.T):
        value, lin = field.linearize(t, x)
        pull, partials = pulled(field, lin, x)
        assert_narrow(field(t, x), value, pull, *partials.values())
        assert_narrow(lin.jvp(x, random_like(field.parameters)), lin.jvp(x), lin.jvp(None, {}))


@pytest.mark.parametrize("inner", INNERS, ids=repr)
def test_gradient(pair_of_fields, inner):
    field, wide = pair_of_fields
    x, y = data()
    value, partials = value_and_partials(field, x, y, COST)
    _, g = snode.gradient(field, x, y, COST, inner=inner)
    assert type(value) is float
    assert_narrow(*partials.values(), *g.values())
    assert_narrow(COST.at(field, y).terminal(x), COST.at(field, y).target)
    exact_value, exact = snode.gradient(wide, x.astype(np.float64), y, COST, inner=inner)
    assert value == pytest.approx(exact_value, rel=200 * EPS)
    bound = inner.on(wide)
    difference = {k: g[k].astype(np.float64) - exact[k] for k in g}
    assert bound.norm(difference) <= 1e3 * EPS * bound.norm(exact)


@pytest.mark.parametrize("inner", INNERS, ids=repr)
@pytest.mark.parametrize("problem", [EulerProblem, FieldProblem])
def test_ncg_on_both_paths(pair_of_fields, inner, problem):
    field, wide = pair_of_fields
    run = problem(field, *data(), COST, inner, keep_gradient=True)
    result = minimize(run, rule="PR+", n_iter=3)
    assert_narrow(result.field.W, result.field.b, *run.g.values(), *run.d.values())
    exact = minimize(
        problem(wide, *data(np.float64), COST, inner, keep_gradient=True), rule="PR+", n_iter=3
    )
    # float32 rounding, amplified over three iterations
    assert result.history.cost == pytest.approx(exact.history.cost, rel=2e-3)
    assert result.history.cost[:2] == pytest.approx(exact.history.cost[:2], rel=1e-4)
    for column in ("cost", "step", "beta", "slope", "grad_norm"):
        assert getattr(result.history, column).dtype == np.float64


@pytest.mark.parametrize("problem", [EulerProblem, FieldProblem])
def test_buffers_of_both_paths(make_field, problem):
    run = problem(make_field(4, 6, dtype=np.float32), *data(), COST, "l2")
    minimize(run, n_iter=2)
    if problem is EulerProblem:
        buffers = list(run.work._buffers.values())
        assert len(buffers) >= 10
        assert_narrow(*buffers, run.terminal_cost.target)
    else:
        assert_narrow(run.sol.x)


@pytest.mark.parametrize("method", ["ncg", "sgd", "momentum", "rmsprop", "adam"])
def test_training(pair_of_fields, method):
    field, _ = pair_of_fields
    result = snode.train(field, data(), COST, method=method, batch_size=16, n_iter=2, rng=0)
    assert_narrow(result.field.W, result.field.b)


def test_targets_follow_the_field(make_field):
    field = make_field(4, 6, dtype=np.float32)
    x, _ = data()
    _, g = snode.gradient(field, x, x.astype(np.float64), Cost())
    assert_narrow(*g.values())


@pytest.mark.parametrize(
    "call",
    [
        lambda f, x, y: snode.solve_direct(f, x),
        lambda f, x, y: snode.gradient(f, x, y, COST),
        lambda f, x, y: snode.ncg(f, x, y, COST),
        lambda f, x, y: snode.train(f, (x, y), COST),
        lambda f, x, y: snode.predict(f, x, n_classes=3),
        lambda f, x, y: snode.accuracy(f, x, y, n_classes=3),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mixed_types_are_refused(make_field, call, dtype):
    field = make_field(4, 6, dtype=dtype)
    other = np.float64 if dtype == np.float32 else np.float32
    message = f"is {np.dtype(other)} but the field is {np.dtype(dtype)}; nothing is converted"
    with pytest.raises(ValueError, match=message):
        call(field, *data(other))
