"""Direct, sensitivity and adjoint problem: explicit formulas, duality, brute force, any field."""

import numpy as np
import pytest

import snode
from snode.fields.base import VectorField
from snode.ode.adjoint import rk_adjoint
from snode.ode.replay import Replay
from snode.ode.tangent import rk_tangent

pytestmark = pytest.mark.grid(4)

EPS = np.finfo(np.float64).eps
DUALITY = 1e-12  # quality.md


@pytest.fixture
def case(make_field, activation, interpolation):
    field = make_field(4, 6, activation=activation, interpolation=interpolation)
    return field, np.random.default_rng(11).uniform(-1, 1, (4, 5))


def residual_network(field, x0):
    """A ResNet whose activation carries the factor h, sample by sample, layer by layer."""
    h = field.T / field.n_layers
    out = np.empty((field.n_layers + 1, *x0.shape))
    for k, sample in enumerate(x0.T):
        x = sample.copy()
        out[0, :, k] = x
        for i in range(field.n_layers):
            x = x + h * field.activation(field.W[i] @ x + field.b[i])
            out[i + 1, :, k] = x
    return out


def slopes(field, x):
    """sigma'(W_i x_i + b_i) of every layer; nodal weights are read at the left ends."""
    K = field.n_layers
    return field.activation.slope(field.W[:K] @ x[:K] + field.b[:K, :, None])


# --- explicit formulas of mathematics.md 1.1 ------------------------------------------------------


def test_direct_is_the_residual_network(case):
    field, x0 = case
    sol = snode.solve_direct(field, x0)
    assert sol.x == pytest.approx(residual_network(field, x0), rel=100 * EPS, abs=100 * EPS)
    assert np.array_equal(sol.x[0], x0)
    assert np.array_equal(sol.t, field.grid)
    assert sol.nfev == field.n_layers


def test_sensitivity_is_the_printed_recursion(case, random_like):
    field, x0 = case
    d, dx0 = random_like(field.parameters), np.random.default_rng(1).standard_normal(x0.shape)
    sol = snode.solve_direct(field, x0)
    s, h = slopes(field, sol.x), field.T / field.n_layers
    xi = dx0.copy()
    rows = [xi]
    for i in range(field.n_layers):
        total = field.W[i] @ xi + d["W"][i] @ sol.x[i] + d["b"][i][:, None]
        xi = xi + h * s[i] * total
        rows.append(xi)
    computed = snode.solve_sensitivity(sol, dx0=dx0, dtheta=d)
    assert computed == pytest.approx(np.stack(rows), rel=1e3 * EPS, abs=1e3 * EPS)


def test_adjoint_is_the_printed_recursion_and_pairs_the_next_lam(case):
    field, x0 = case
    lam_T = np.random.default_rng(2).standard_normal(x0.shape)
    sol = snode.solve_direct(field, x0)
    s, h = slopes(field, sol.x), field.T / field.n_layers
    lam = np.empty_like(sol.x)
    lam[-1] = lam_T
    dW, db = np.zeros_like(field.W), np.zeros_like(field.b)
    for i in range(field.n_layers - 1, -1, -1):
        lam[i] = lam[i + 1] + h * field.W[i].T @ (s[i] * lam[i + 1])
        for k in range(x0.shape[1]):
            q = s[i, :, k] * lam[i + 1, :, k]
            dW[i] += h * np.outer(q, sol.x[i, :, k])
            db[i] += h * q
    adjoint = snode.solve_adjoint(sol, lam_T)
    assert adjoint.lam == pytest.approx(lam, rel=1e3 * EPS, abs=1e3 * EPS)
    assert adjoint.partials["W"] == pytest.approx(dW, rel=1e3 * EPS, abs=1e3 * EPS)
    assert adjoint.partials["b"] == pytest.approx(db, rel=1e3 * EPS, abs=1e3 * EPS)
    assert np.array_equal(adjoint.t, sol.t)


# --- duality --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_dot_test(case, random_like, seed):
    field, x0 = case
    rng = np.random.default_rng(seed)
    dx0, lam_T = rng.standard_normal((2, *x0.shape))
    d = random_like(field.parameters, seed)
    sol = snode.solve_direct(field, x0)
    xi = snode.solve_sensitivity(sol, dx0=dx0, dtheta=d)
    adjoint = snode.solve_adjoint(sol, lam_T)
    left = np.sum(xi[-1] * lam_T)
    right = np.sum(dx0 * adjoint.lam[0]) + sum(np.sum(d[k] * adjoint.partials[k]) for k in d)
    assert abs(left - right) <= DUALITY * np.linalg.norm(xi[-1]) * np.linalg.norm(lam_T)


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
@pytest.mark.parametrize("points", [3, 11, 40])
def test_dot_test_on_another_grid(make_field, interpolation, random_like, points):
    # off the nodes every step touches several parameters
    field = make_field(3, 7, interpolation=interpolation)
    rng = np.random.default_rng(points)
    x0, dx0, lam_T = rng.standard_normal((3, 3, 4))
    d = random_like(field.parameters)
    t = np.concatenate([[0.0], np.sort(rng.uniform(0, field.T, points)), [field.T]])
    sol = snode.solve_direct(field, x0, t=t)
    xi = snode.solve_sensitivity(sol, dx0=dx0, dtheta=d)[-1]
    adjoint = snode.solve_adjoint(sol, lam_T)
    right = np.sum(dx0 * adjoint.lam[0]) + sum(np.sum(d[k] * adjoint.partials[k]) for k in d)
    assert abs(np.sum(xi * lam_T) - right) <= DUALITY * np.linalg.norm(xi) * np.linalg.norm(lam_T)


@pytest.mark.parametrize("part", ["x0", "W", "b"])
def test_each_part_has_its_own_transpose(case, random_like, part):
    field, x0 = case
    rng = np.random.default_rng(5)
    d = rng.standard_normal(x0.shape) if part == "x0" else random_like(field.parameters)[part]
    lam_T = rng.standard_normal(x0.shape)
    sol = snode.solve_direct(field, x0)
    options = {"dx0": d} if part == "x0" else {"dtheta": {part: d}}
    xi = snode.solve_sensitivity(sol, **options)[-1]
    adjoint = snode.solve_adjoint(sol, lam_T)
    pulled = adjoint.lam[0] if part == "x0" else adjoint.partials[part]
    size = np.linalg.norm(xi) * np.linalg.norm(lam_T)
    assert abs(np.sum(xi * lam_T) - np.sum(d * pulled)) <= DUALITY * size


# --- brute force ----------------------------------------------------------------------------------


def jacobian(function, array, h=1e-5):
    columns = []
    for index in np.ndindex(array.shape):
        e = np.zeros_like(array)
        e[index] = h
        columns.append(((function(array + e) - function(array - e)) / (2 * h)).ravel())
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("part", ["x0", "W", "b"])
def test_full_jacobian_by_central_differences(make_smooth_case, activation, interpolation, part):
    field, x0 = make_smooth_case(activation, interpolation=interpolation, n=2, K=3, m=2)

    def x_T(array):
        if part == "x0":
            return snode.solve_direct(field, array, keep="last").x_T
        return snode.solve_direct(field.with_parameters(**{part: array}), x0, keep="last").x_T

    start = x0 if part == "x0" else field.parameters[part]
    expected = jacobian(x_T, start)
    sol = snode.solve_direct(field, x0)
    for row, index in enumerate(np.ndindex(x0.shape)):  # adjoint: row by row
        e = np.zeros_like(x0)
        e[index] = 1.0
        adjoint = snode.solve_adjoint(sol, e)
        got = adjoint.lam[0] if part == "x0" else adjoint.partials[part]
        # truncation h^2/6 times a third derivative of a few tens, rounding eps / h
        assert got.ravel() == pytest.approx(expected[row], abs=2e-8)
    for column, index in enumerate(np.ndindex(start.shape)):  # tangent: column by column
        e = np.zeros_like(start)
        e[index] = 1.0
        options = {"dx0": e} if part == "x0" else {"dtheta": {part: e}}
        xi = snode.solve_sensitivity(sol, **options)[-1]
        assert xi.ravel() == pytest.approx(expected[:, column], abs=2e-8)


def test_sensitivity_is_the_derivative_of_the_whole_trajectory(
    make_smooth_case, activation, interpolation, moved, random_like
):
    field, x0 = make_smooth_case(activation, interpolation=interpolation)
    dx0 = np.random.default_rng(8).standard_normal(x0.shape)
    d, h = random_like(field.parameters), 1e-5
    xi = snode.solve_sensitivity(snode.solve_direct(field, x0), dx0=dx0, dtheta=d)
    plus, minus = (snode.solve_direct(moved(field, d, e), x0 + e * dx0).x for e in (h, -h))
    scale = np.abs(xi).max()
    assert np.abs((plus - minus) / (2 * h) - xi).max() <= 1e-7 * max(scale, 1)


def test_samples_do_not_influence_each_other(case, random_like):
    field, x0 = case
    d = random_like(field.parameters)
    whole = snode.solve_direct(field, x0)
    xi = snode.solve_sensitivity(whole, dtheta=d)
    lam = snode.solve_adjoint(whole, np.ones_like(x0)).lam
    for k in range(x0.shape[1]):
        one = snode.solve_direct(field, x0[:, k : k + 1])
        pick = slice(k, k + 1)
        assert one.x == pytest.approx(whole.x[:, :, pick], rel=1e3 * EPS, abs=1e3 * EPS)
        alone = snode.solve_sensitivity(one, dtheta=d)
        assert alone == pytest.approx(xi[:, :, pick], rel=1e3 * EPS, abs=1e3 * EPS)
        alone = snode.solve_adjoint(one, np.ones((4, 1))).lam
        assert alone == pytest.approx(lam[:, :, pick], rel=1e3 * EPS, abs=1e3 * EPS)


def test_nothing_given_gives_zero(case):
    field, x0 = case
    sol = snode.solve_direct(field, x0)
    assert not snode.solve_sensitivity(sol).any()
    assert not snode.solve_sensitivity(sol, dtheta={}).any()


def test_arguments_are_not_changed(case, random_like):
    field, x0 = case
    given = [x0, np.ones_like(x0), np.ones_like(x0), *random_like(field.parameters).values()]
    copies = [g.copy() for g in given]
    sol = snode.solve_direct(field, x0)
    trajectory = sol.x.copy()
    snode.solve_sensitivity(sol, dx0=given[1], dtheta={"W": given[3], "b": given[4]})
    snode.solve_adjoint(sol, given[2])
    assert all(np.array_equal(a, b) for a, b in zip(given, copies, strict=True))
    assert np.array_equal(sol.x, trajectory)


# --- what is kept ---------------------------------------------------------------------------------


def test_keep_decides_what_is_stored_not_what_is_computed(case, random_like):
    field, x0 = case
    full, path, last = (
        snode.solve_direct(field, x0, keep=keep) for keep in ("all", "trajectory", "last")
    )
    assert np.array_equal(full.x, path.x)
    assert np.array_equal(full.x_T, path.x_T)
    assert np.array_equal(full.x_T, last.x_T)
    assert last.x is None
    assert (len(full.linearizations), path.linearizations, last.linearizations) == (6, None, None)
    d = random_like(field.parameters)
    assert np.array_equal(
        snode.solve_sensitivity(full, dtheta=d), snode.solve_sensitivity(path, dtheta=d)
    )
    lam_T = np.ones_like(x0)
    assert np.array_equal(
        snode.solve_adjoint(full, lam_T).lam, snode.solve_adjoint(path, lam_T).lam
    )


@pytest.mark.parametrize("solve", [snode.solve_sensitivity, snode.solve_adjoint])
def test_a_solution_without_trajectory_is_refused(make_field, solve):
    sol = snode.solve_direct(make_field(), np.ones((3, 2)), keep="last")
    arguments = (np.ones((3, 2)),) if solve is snode.solve_adjoint else ()
    with pytest.raises(ValueError, match="sol must keep its trajectory"):
        solve(sol, *arguments)


def test_representations(make_field):
    sol = snode.solve_direct(make_field(), np.ones((3, 2)))
    assert repr(sol) == (
        "OdeSolution(euler, 4 steps to T=1.5, n=3, m=2, trajectory and linearisations, SUCCESS)"
    )
    adjoint = snode.solve_adjoint(sol, np.ones((3, 2)))
    assert repr(adjoint) == "AdjointSolution(lam (5, 3, 2), partials: W (4, 3, 3), b (4, 3))"


# --- anything that follows the contract -----------------------------------------------------------


class Logistic:
    """x' = k x (1 - x) with a parameter of shape (1,) that is no function of depth."""

    def __init__(self, k):
        self.parameters = {"k": np.array([k])}
        self.n = 1
        self.grid = np.linspace(0.0, 1.0, 401)
        self.breakpoints = ()

    def with_parameters(self, k):
        return Logistic(float(k[0]))

    def __call__(self, t, x):
        return self.parameters["k"] * x * (1 - x)

    def linearize(self, t, x):
        return self(t, x), LogisticLinearization(self.parameters["k"], x)


class LogisticLinearization:
    def __init__(self, k, x):
        self.k, self.x = k, x

    def jvp(self, dx, dtheta=None):
        total = 0 * self.x if dx is None else self.k * (1 - 2 * self.x) * dx
        return total + (dtheta["k"] * self.x * (1 - self.x) if dtheta else 0)

    def vjp(self, p, into=None):
        if into is not None:
            into.add("k", np.array([np.sum(p * self.x * (1 - self.x))]))
        return self.k * (1 - 2 * self.x) * p


def test_a_users_own_field_is_solved_and_differentiated():
    field, x0 = Logistic(1.3), np.array([[0.2, 0.6]])
    assert isinstance(field, VectorField)
    sol = snode.solve_direct(field, x0)
    growth = np.exp(1.3)
    exact = x0 * growth / (1 - x0 + x0 * growth)
    assert sol.x_T == pytest.approx(exact, abs=2e-3)  # order 1, h = 1/400
    d_k = x0 * (1 - x0) * growth / (1 - x0 + x0 * growth) ** 2  # T d(exact)/d(kT)
    assert snode.solve_sensitivity(sol, dtheta={"k": np.ones(1)})[-1] == pytest.approx(
        d_k, abs=2e-3
    )
    adjoint = snode.solve_adjoint(sol, np.ones((1, 2)))
    assert adjoint.partials["k"] == pytest.approx([d_k.sum()], abs=4e-3)
    d_x0 = growth / (1 - x0 + x0 * growth) ** 2
    assert adjoint.lam[0] == pytest.approx(d_x0, abs=1e-2)


def test_a_field_without_a_grid_needs_one():
    field = Logistic(1.0)
    del field.grid
    with pytest.raises(ValueError, match="t must be given"):
        snode.solve_direct(field, np.ones((1, 1)))
    assert snode.solve_direct(field, np.ones((1, 1)), t=[0.0, 1.0]).success


@pytest.mark.parametrize("method", ["euler", "rk4"])
@pytest.mark.parametrize("keep", ["all", "trajectory"])
def test_several_tangents_and_adjoints_at_once(case, method, keep):
    field, x0 = case
    sol = snode.solve_direct(field, x0, method=method, keep=keep)
    stack = np.random.default_rng(5).standard_normal((2, 3, *x0.shape))
    each = stack.reshape(-1, *x0.shape)
    *_, xi = rk_tangent(Replay(sol), stack, None)
    expected = np.stack([snode.solve_sensitivity(sol, dx0=dx)[-1] for dx in each])
    assert np.abs(xi.reshape(expected.shape) - expected).max() <= 1e-12 * np.abs(expected).max()
    partials = snode.Partials.of(field.parameters)
    *_, lam = rk_adjoint(Replay(sol), stack, partials)
    *_, alone = rk_adjoint(Replay(sol), stack)
    assert np.array_equal(lam, alone)
    adjoints = [snode.solve_adjoint(sol, p) for p in each]
    expected = np.stack([adjoint.lam[0] for adjoint in adjoints])
    assert np.abs(lam.reshape(expected.shape) - expected).max() <= 1e-12 * np.abs(expected).max()
    for name, total in partials.arrays.items():
        expected = sum(adjoint.partials[name] for adjoint in adjoints)
        assert np.abs(total - expected).max() <= 1e-12 * np.abs(expected).max()
