"""The derivative with respect to the end of the interval, and the time derivatives it needs."""

import numpy as np
import pytest
from textbook import FIELDS, FROZEN, T, formula, make, runge_kutta, states

import snode
from snode import TABLEAUS
from snode.fields.depth import DepthBasis
from snode.ode.problems import METHODS

pytestmark = pytest.mark.grid(4)

ROUNDING = 1e-13


@pytest.fixture(params=FIELDS)
def field(request):
    return make(request.param)


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


def solve(field, method, end, **options):
    if method in FROZEN:
        return snode.solve_direct(
            field, states(), method=method, t=(0.0, end), rtol=1e-6, atol=1e-8, **options
        )
    inside = field.grid[field.grid < end]
    return snode.solve_direct(field, states(), method=method, t=[*inside, end], **options)


ENDS = (0.9 * T, 0.37 * T)  # inside a cell, so that the end may move both ways


# --- exact ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ENDS)
def test_complex_step_of_the_last_step(field, method, end):
    sol = solve(field, method, end)
    eps, t = 1e-30, sol.t.astype(complex)
    t[-1] += 1j * eps
    x = runge_kutta(
        formula(field, field.parameters), TABLEAUS[FROZEN.get(method, method)], t, states()
    )
    expected = x[-1].imag / eps
    found = snode.end_time_derivative(sol)
    assert np.abs(found - expected).max() <= ROUNDING * np.abs(expected).max()


@pytest.mark.parametrize("end", ENDS)
def test_taylor(field, method, end):
    sol = solve(field, method, end)
    fixed = FROZEN.get(method, method)

    def x_T(eps):
        t = sol.t.copy()
        t[-1] += eps
        return snode.solve_direct(field, states(), method=fixed, t=t, keep="last").x_T

    assert snode.taylor_test(x_T, snode.end_time_derivative(sol)) >= 1.95  # quality.md
    lam = snode.solve_adjoint(sol, sol.x_T)
    slope = snode.taylor_test(lambda eps: float(np.sum(x_T(eps) ** 2)) / 2, lam.end_time)
    assert slope >= 1.95


def test_the_way_it_was_stored_does_not_matter(field, method):
    expected = snode.end_time_derivative(solve(field, method, T))
    for options in ({"keep": "trajectory"}, {"checkpoints": 1}, {"checkpoints": 3}):
        sol = solve(field, method, T, **options)
        assert np.array_equal(snode.end_time_derivative(sol), expected)


@pytest.mark.parametrize("mode", ["discrete", "continuous"])
def test_sensitivity_and_adjoint_use_it(field, mode):
    sol = solve(field, "ode45", T, dense_output=True)
    v = snode.end_time_derivative(sol, mode=mode)
    xi = snode.solve_sensitivity(sol, dT=-2.0, mode=mode)
    assert np.array_equal(xi[-1], -2.0 * v)
    assert not xi[:-1].any()
    lam_T = states(seed=1)
    assert snode.solve_adjoint(sol, lam_T, mode=mode).end_time == np.sum(lam_T * v)


def test_independent_columns(field):
    sol = solve(field, "ode45", T, batch="independent")
    expected = [snode.end_time_derivative(column) for column in sol.columns]
    assert np.array_equal(snode.end_time_derivative(sol), np.concatenate(expected, axis=1))
    assert snode.end_time_derivative(sol, mode="continuous").shape == (3, 4)


def test_backwards_it_is_the_derivative_of_the_other_end(field):
    sol = snode.solve_direct(field, states(), method="rk4", t=[1.5, 1.125, 0.75, 0.375, 0.1])

    def x_0(eps):
        t = np.array([1.5, 1.125, 0.75, 0.375, 0.1 + eps])
        return snode.solve_direct(field, states(), method="rk4", t=t, keep="last").x_T

    assert snode.taylor_test(x_0, snode.end_time_derivative(sol)) >= 1.95


# --- near f(T, x(T)) ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLEAUS)
@pytest.mark.parametrize("kind", ["mlp of t", "function"])
def test_it_tends_to_f_with_the_order_of_the_method(name, kind):
    # one step has the error O(h^{p+1}), its derivative in h the error O(h^p)
    field = make(kind)

    def gap(k):
        t = np.linspace(0, T, k + 1)
        sol = snode.solve_direct(field, states(), method=name, t=t)
        return snode.end_time_derivative(sol) - field(T, sol.x_T)

    order = snode.observed_order(gap, (80, 160, 320), exact=0.0)
    assert abs(order - TABLEAUS[name].order) <= 0.2  # the next term is O(h) of the first


def test_continuous_is_f_at_the_end(field, method):
    sol = solve(field, method, T)
    found = snode.end_time_derivative(sol, mode="continuous")
    assert np.array_equal(found, field(T, sol.x_T))


def test_euler_is_f_at_the_last_node():
    field = make("constant")
    sol = solve(field, "euler", T)
    assert np.array_equal(snode.end_time_derivative(sol), field(float(sol.t[-2]), sol.x[-2]))


# --- f_t of the layer field -----------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.0, 0.11, 0.5, 0.8, 1.01, 1.37, 1.5])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus", "identity"])
def test_layer_time_derivative(make_field, interpolation, activation, t):
    field = make_field(4, 4, interpolation=interpolation, activation=activation)
    x, h = states(4), 1e-5
    found = field.linearize(t, x)[1].time_derivative()
    assert found.shape == x.shape
    if interpolation == "constant":
        assert not found.any()
        return
    if 0 < t < T:
        expected = (field(t + h, x) - field(t - h, x)) / (2 * h)
    else:  # one-sided, of order 2
        s = h if t == 0 else -h
        expected = (4 * field(t + s, x) - 3 * field(t, x) - field(t + 2 * s, x)) / (2 * s)
    # h^2/3 times a third derivative, of the size of the cube of the first
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("n_cells", [1, 2, 3, 7])
@pytest.mark.parametrize("kind", ["constant", "linear", "cubic"])
def test_row_derivative_is_that_of_the_row(kind, n_cells):
    basis, h = DepthBasis(kind, n_cells, 2.0), 1e-6

    def spread(j, w):
        values = np.zeros(basis.size)
        values[j : j + len(w)] = w
        return values

    for t in (0.013, 0.51, 0.93, 1.21, 1.77, 1.99):
        central = (spread(*basis.row(t + h)) - spread(*basis.row(t - h))) / (2 * h)
        # h^2/6 of a third derivative of the size (n_cells / 2)^3, and rounding eps / h
        assert spread(*basis.row_derivative(t)) == pytest.approx(central, abs=1e-9)
    for t in (0.0, 1.0, 2.0):  # a constant function has no slope
        assert abs(spread(*basis.row_derivative(t)).sum()) <= 1e-13 * n_cells
    with pytest.raises(ValueError, match="t must be in"):
        basis.row_derivative(2.1)


def test_linear_row_derivative_at_a_node_is_that_of_the_cell_to_the_right():
    basis = DepthBasis("linear", 4, 2.0)
    for t, cell in ((0.0, 0), (0.5, 1), (1.5, 3), (2.0, 3)):
        j, w = basis.row_derivative(t)
        assert j == cell
        assert w.tolist() == [-2.0, 2.0]


# --- fields that do not have it -------------------------------------------------------------------


class Halves:
    """x' = -x / 2, with no more than the contract asks for."""

    n, grid, breakpoints = 1, np.linspace(0.0, 1.0, 5), ()
    parameters = {"unused": np.zeros(1)}  # noqa: RUF012

    def __call__(self, t, x):
        return -x / 2

    def linearize(self, t, x):
        return self(t, x), HalvesLinearization()


class HalvesLinearization:
    def jvp(self, dx, dtheta=None):
        return -dx / 2

    def vjp(self, p, into=None):
        return -p / 2


def test_without_time_derivative_only_euler(method):
    field, x0 = Halves(), np.ones((1, 2))
    sol = snode.solve_direct(field, x0, method=method)
    if method == "euler":
        expected = np.full((1, 2), -(0.875**3) / 2)
        assert snode.end_time_derivative(sol) == pytest.approx(expected, rel=1e-14)
        return
    with pytest.raises(ValueError, match=r"needs lin\.time_derivative\(\) of the field"):
        snode.end_time_derivative(sol)
    with pytest.raises(ValueError, match="time_derivative"):
        snode.solve_sensitivity(sol, dT=1.0)
    adjoint = snode.solve_adjoint(sol, x0)  # is there all the same
    with pytest.raises(ValueError, match="time_derivative"):
        adjoint.end_time
    assert snode.solve_sensitivity(sol, dx0=x0).shape == (len(sol.t), 1, 2)
    continuous = snode.end_time_derivative(sol, mode="continuous")
    assert np.array_equal(continuous, -sol.x_T / 2)


def test_function_fields_need_df_dt_or_differences():
    options = {"jvp": lambda t, x, dx: -t * dx, "vjp": lambda t, x, p: -t * p, "T": 1.0}
    field = snode.FunctionField(lambda t, x: -t * x, 1, **options)
    sol = snode.solve_direct(field, np.ones((1, 1)), method="rk4")
    with pytest.raises(ValueError, match="df_dt"):
        snode.end_time_derivative(sol)


def test_a_zero_interval_has_no_step_to_stretch():
    field = make("cubic")
    sol = snode.solve_direct(field, states(), method="ode45", t=(0.5, 0.5))
    adjoint = snode.solve_adjoint(sol, states(seed=1))
    assert np.array_equal(adjoint.lam[0], states(seed=1))
    assert not any(p.any() for p in adjoint.partials.values())
    assert np.array_equal(snode.solve_sensitivity(sol, dx0=states(seed=2))[0], states(seed=2))
    with pytest.raises(ValueError, match="sol must have at least one step"):
        snode.end_time_derivative(sol)
