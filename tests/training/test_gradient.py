"""Gradients: adjoint = tangent = central difference, Taylor order, densities (6) and (7)."""

import numpy as np
import pytest

import snode
from snode import H1, L2, Cost, Euclidean
from snode.training.gradients import value_and_partials
from snode.training.innerproducts import pair

pytestmark = pytest.mark.grid(4)

EPS = np.finfo(np.float64).eps
C = 2
COSTS = [
    Cost(n_classes=C),
    Cost(l2=0, ce=1, n_classes=C),
    Cost(l2=0.5, ce=0.7, output=0.3, decay=0.2, n_classes=C),
]


def labels_for(x):
    return np.arange(x.shape[1]) % C


def value(field, x, y, cost):
    return cost.value(field, snode.solve_direct(field, x, keep="last").x_T, y)


@pytest.fixture(params=COSTS, ids=["l2", "ce", "all"])
def cost(request):
    return request.param


# --- three ways to one number ---------------------------------------------------------------------


def test_adjoint_tangent_and_difference_agree(
    make_smooth_case, activation, interpolation, cost, moved, random_like
):
    field, x = make_smooth_case(activation, interpolation=interpolation, m=4)
    y, d = labels_for(x), random_like(field.parameters)
    fun, partials = value_and_partials(field, x, y, cost)
    adjoint = pair(partials, d)

    sol = snode.solve_direct(field, x)
    xi_T = snode.solve_sensitivity(sol, dtheta=d)[-1]
    decay = cost.decay * L2().on(field).dot(field.parameters, d)
    tangent = np.sum(cost.at(field, y).terminal(sol.x_T) * xi_T) + decay

    h = 1e-5
    difference = (
        value(moved(field, d, h), x, y, cost) - value(moved(field, d, -h), x, y, cost)
    ) / (2 * h)
    assert fun == value(field, x, y, cost)
    size = max(abs(adjoint), 0.1 * fun)  # a slope that is small by chance
    assert abs(adjoint - tangent) <= 1e-12 * size
    assert abs(adjoint - difference) <= 1e-8 * size  # quality.md; truncation and rounding 1e-10


def test_every_entry_by_central_differences(make_smooth_case, activation, cost):
    field, x = make_smooth_case(activation, n=2, K=3, m=3)
    y, h = labels_for(x), 1e-5
    _, partials = value_and_partials(field, x, y, cost)
    for name, theta in field.parameters.items():
        for index in np.ndindex(theta.shape):
            e = np.zeros_like(theta)
            e[index] = h
            plus, minus = (
                value(field.with_parameters(**{name: theta + s * e}), x, y, cost) for s in (1, -1)
            )
            # rounding eps * E / h and truncation h^2/6 E''': both below 1e-9 here
            assert partials[name][index] == pytest.approx((plus - minus) / (2 * h), abs=2e-9)


def test_gradient_at_the_input(make_smooth_case, activation, cost):
    # lam(0) is the derivative with respect to x(0)
    field, x = make_smooth_case(activation, m=3)
    y, h = labels_for(x), 1e-5
    sol = snode.solve_direct(field, x)
    lam_0 = snode.solve_adjoint(sol, cost.at(field, y).terminal(sol.x_T)).lam[0]
    dx = np.random.default_rng(1).standard_normal(x.shape)
    difference = (value(field, x + h * dx, y, cost) - value(field, x - h * dx, y, cost)) / (2 * h)
    assert np.sum(lam_0 * dx) == pytest.approx(difference, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("inner", [L2(), H1(), H1(0.2), Euclidean()], ids=repr)
def test_gradient_represents_the_derivative(make_field, interpolation, inner, random_like):
    field = make_field(3, 6, interpolation=interpolation)
    x = np.random.default_rng(0).uniform(-1, 1, (3, 5))
    y, cost = labels_for(x), COSTS[2]
    fun, g = snode.gradient(field, x, y, cost, inner=inner)
    same, partials = value_and_partials(field, x, y, cost)
    assert fun == same
    bound = inner.on(field)
    for seed in range(3):
        d = random_like(field.parameters, seed)
        size = bound.norm(g) * bound.norm(d)
        assert abs(bound.dot(g, d) - pair(partials, d)) <= 1e-12 * size


# --- Taylor tests in the gradient's own inner product ---------------------------------------------


def taylor_orders(field, x, y, cost, inner, direction, moved, start):
    fun, g = snode.gradient(field, x, y, cost, inner=inner)
    slope = inner.on(field).dot(g, direction)
    scale = inner.on(field).norm(direction)
    steps = start * 0.5 ** np.arange(5) / scale
    remainders = [
        abs(value(moved(field, direction, e), x, y, cost) - fun - e * slope) for e in steps
    ]
    return np.log2(np.array(remainders[:-1]) / np.array(remainders[1:])), remainders


@pytest.mark.parametrize("inner", [L2(), H1(), H1(0.3)], ids=repr)
def test_taylor_order(make_smooth_case, activation, interpolation, inner, moved, random_like):
    cost = COSTS[2]
    field, x = make_smooth_case(activation, interpolation=interpolation, m=4)
    y, d = labels_for(x), random_like(field.parameters)
    for start in (1e-2, 1e-3):  # a small second derivative along d: only smaller steps show order 2
        orders, remainders = taylor_orders(field, x, y, cost, inner, d, moved, start)
        usable = np.array(remainders[1:]) > 1e3 * EPS
        assert usable.sum() >= 2
        if orders[usable].min() >= 1.95:
            break
    assert orders[usable].min() >= 1.95
    assert orders[usable].max() <= 2.3


@pytest.mark.parametrize("inner", ["l2", "h1"])
def test_taylor_along_the_gradient_itself(make_field, interpolation, inner, moved):
    field = make_field(3, 6, interpolation=interpolation)
    x = np.random.default_rng(0).uniform(-1, 1, (3, 5))
    y, cost = labels_for(x), COSTS[2]
    _, g = snode.gradient(field, x, y, cost, inner=inner)
    bound = {"l2": L2(), "h1": H1()}[inner]
    orders, _ = taylor_orders(field, x, y, cost, bound, {k: -v for k, v in g.items()}, moved, 1e-2)
    assert orders.min() >= 1.95


# --- eqs. (6) and (7) -----------------------------------------------------------------------------


def test_l2_gradient_is_the_density(make_field, activation):
    # E'_W(t_i) = sum_k (lam_{i+1} * sigma'(a_i)) x_i^T + decay W_i: no factor h
    cost = COSTS[2]
    field = make_field(4, 6, activation=activation)
    x0 = np.random.default_rng(0).uniform(-1, 1, (4, 5))
    y = labels_for(x0)
    sol = snode.solve_direct(field, x0)
    lam = snode.solve_adjoint(sol, cost.at(field, y).terminal(sol.x_T)).lam
    _, g = snode.gradient(field, x0, y, cost)
    for i in range(6):
        q = lam[i + 1] * activation.slope(field.W[i] @ sol.x[i] + field.b[i][:, None])
        density_W = sum(np.outer(q[:, k], sol.x[i][:, k]) for k in range(5)) + 0.2 * field.W[i]
        density_b = q.sum(axis=1) + 0.2 * field.b[i]
        assert g["W"][i] == pytest.approx(density_W, abs=100 * EPS)
        assert g["b"][i] == pytest.approx(density_b, abs=100 * EPS)


def test_density_does_not_depend_on_the_number_of_layers():
    # the same function W(t) on finer cells: the density converges, the partials shrink like h
    x = np.random.default_rng(0).uniform(-1, 1, (3, 5))
    y, cost = labels_for(x), COSTS[2]
    densities = []
    for K in (40, 80, 160):
        field = snode.StandaloneField.random(3, 2.0, K, scale=0.7, rng=1)
        densities.append(snode.gradient(field, x, y, cost)[1]["W"][0])
    steps = [np.abs(densities[i + 1] - densities[i]).max() for i in range(2)]
    assert np.log2(steps[0] / steps[1]) == pytest.approx(1.0, abs=0.15)  # order 1 of Euler


def test_mean_over_samples(make_field):
    # doubling the batch changes nothing: 1/m and the sum over samples go together
    field = make_field(3, 5)
    x = np.random.default_rng(0).uniform(-1, 1, (3, 4))
    y, cost = labels_for(x), COSTS[2]
    one, g = snode.gradient(field, x, y, cost)
    two, gg = snode.gradient(field, np.tile(x, 2), np.tile(y, 2), cost)
    assert two == pytest.approx(one, rel=20 * EPS)
    assert all(gg[k] == pytest.approx(g[k], abs=50 * EPS) for k in g)


def test_targets_instead_of_labels(make_field):
    field = make_field(3, 5)
    x = np.random.default_rng(0).uniform(-1, 1, (3, 4))
    y, cost = labels_for(x), Cost(n_classes=C)
    one = snode.gradient(field, x, y, cost)
    two = snode.gradient(field, x, np.eye(3)[y].T, cost)
    assert one[0] == two[0]
    assert all(np.array_equal(one[1][k], two[1][k]) for k in "Wb")


def test_gradient_vanishes_at_a_fit(make_field):
    field = make_field(3, 5)
    x = np.random.default_rng(0).uniform(-1, 1, (3, 4))
    fun, g = snode.gradient(field, x, snode.solve_direct(field, x).x_T, Cost())
    assert fun == 0.0
    assert not any(v.any() for v in g.values())


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": np.ones((4, 3))}, ValueError, r"x must have shape \(3, m\).*did you mean x.T"),
        ({"x": [[1.0]]}, TypeError, "x must be a NumPy or CuPy array"),
        ({"x": np.full((3, 4), np.nan)}, ValueError, "x must be finite"),
        ({"x": np.ones((3, 4), np.float32)}, ValueError, "x is float32 but the field is float64"),
        ({"y": [0, 1, 0, 1]}, TypeError, "y must be labels .* got list"),
        ({"y": np.zeros(5, int)}, ValueError, r"y must have one entry per column of x \(4\)"),
        ({"y": np.zeros((3, 5))}, ValueError, "y must have one entry per column"),
        ({"y": np.zeros((5, 4))}, ValueError, "y must be integer labels"),
        ({"y": np.full(4, 2)}, ValueError, r"y must hold labels 0\.\.1"),
        ({"inner": "h2"}, ValueError, "inner must be one of"),
    ],
)
def test_errors_name_the_argument(make_field, changes, error, message):
    arguments = {"x": np.ones((3, 4)), "y": np.zeros(4, int), "inner": "l2"} | changes
    with pytest.raises(error, match=message):
        snode.gradient(
            make_field(),
            arguments["x"],
            arguments["y"],
            Cost(n_classes=C),
            inner=arguments["inner"],
        )


def test_a_failed_solve_is_named(make_field):
    field = make_field(activation="identity", scale=1e200)
    with pytest.raises(snode.IntegrationError, match="not finite at t="):
        snode.gradient(field, np.ones((3, 2)), np.array([0, 1]), Cost(n_classes=C))
