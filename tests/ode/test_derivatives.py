"""Tangent and adjoint of every method: transposes of each other, and derivatives of the numbers."""

import numpy as np
import pytest
from textbook import FIELDS, FROZEN, direction, formula, inner, make, moved, runge_kutta, states

import snode
from snode import TABLEAUS, Status
from snode.ode.problems import METHODS

pytestmark = pytest.mark.grid(5)

DUALITY = 1e-12  # quality.md
ORDER = 1.95  # quality.md
ROUNDING = 1e-13  # some 500 operations in a row at eps = 2e-16


@pytest.fixture(params=FIELDS)
def field(request):
    return make(request.param)


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


def solve(field, x0, method, t=None, **options):
    if method in FROZEN:
        options = {"rtol": 1e-6, "atol": 1e-8} | options
    return snode.solve_direct(field, x0, method=method, t=t, **options)


def grid(field, kind):
    """Return other depths to step on; all of them keep the breakpoints."""
    nodes = field.grid
    if kind == "backwards":
        return nodes[::-1]
    if kind == "refined":
        return np.linspace(0, nodes[-1], 3 * len(nodes) - 2)
    if kind == "uneven":
        inside = np.random.default_rng(3).uniform(0, nodes[-1], 7)
        return np.sort(np.concatenate([nodes, inside]))
    return None


# --- transposes -----------------------------------------------------------------------------------


def mismatch(sol, x0):
    """Both sides of the duality in all directions at once, relative to what was added up."""
    rng = np.random.default_rng(9)
    dx0, lam_T = rng.standard_normal((2, *x0.shape))
    d, dT = direction(sol.field), 0.7
    xi = snode.solve_sensitivity(sol, dx0=dx0, dtheta=d, dT=dT)[-1]
    adjoint = snode.solve_adjoint(sol, lam_T)
    right = np.sum(dx0 * adjoint.lam[0]) + inner(d, adjoint.partials) + dT * adjoint.end_time
    return abs(np.sum(xi * lam_T) - right) / (np.linalg.norm(xi) * np.linalg.norm(lam_T))


@pytest.mark.parametrize("kind", ["own", "backwards", "refined", "uneven"])
def test_dot_test(field, method, kind):
    x0 = states()
    assert mismatch(solve(field, x0, method, grid(field, kind)), x0) <= DUALITY


@pytest.mark.parametrize(
    "options", [{"keep": "trajectory"}, {"checkpoints": 2}, {"checkpoints": "auto"}], ids=str
)
def test_dot_test_whatever_is_kept(field, method, options):
    x0 = states()
    assert mismatch(solve(field, x0, method, **options), x0) <= DUALITY


@pytest.mark.parametrize("method", FROZEN)
@pytest.mark.parametrize("t", [None, (1.5, 0.0), (1.3, 0.1)])
def test_dot_test_of_independent_columns(field, method, t):
    x0 = states()
    sol = solve(field, x0, method, t, batch="independent")
    assert len({len(column.t) for column in sol.columns}) > 1  # they do step on their own
    assert mismatch(sol, x0) <= DUALITY


def test_each_part_alone(field, method):
    x0, lam_T = states(), states(seed=1)
    sol = solve(field, x0, method)
    adjoint = snode.solve_adjoint(sol, lam_T)
    size = np.linalg.norm(lam_T)
    dx0 = states(seed=2)
    xi = snode.solve_sensitivity(sol, dx0=dx0)[-1]
    difference = np.sum(xi * lam_T) - np.sum(dx0 * adjoint.lam[0])
    assert abs(difference) <= DUALITY * size * np.linalg.norm(xi)
    for name, change in direction(field).items():
        xi = snode.solve_sensitivity(sol, dtheta={name: change})[-1]
        difference = np.sum(xi * lam_T) - np.sum(change * adjoint.partials[name])
        assert abs(difference) <= DUALITY * size * np.linalg.norm(xi), name


def test_the_product_of_tangent_and_adjoint_is_the_same_at_every_node(field, method):
    # <lam(t), xi(t)> does not depend on t where only x0 is perturbed
    sol = solve(field, states(), method)
    xi = snode.solve_sensitivity(sol, dx0=states(seed=1))
    adjoint = snode.solve_adjoint(sol, states(seed=2))
    assert np.array_equal(adjoint.t, sol.t)
    products = np.einsum("tij,tij->t", xi, adjoint.lam)
    size = np.linalg.norm(xi[0]) * np.linalg.norm(adjoint.lam[0])
    assert np.abs(products - products[0]).max() <= DUALITY * size


def test_every_sample_of_a_batch_is_on_its_own(field, method):
    x0, lam_T = states(), states(seed=1)
    sol = solve(field, x0, method)
    lam = snode.solve_adjoint(sol, lam_T).lam
    only = np.zeros_like(lam_T)
    only[:, 1] = lam_T[:, 1]
    alone = snode.solve_adjoint(sol, only).lam
    assert np.abs(alone[:, :, 1] - lam[:, :, 1]).max() <= ROUNDING * np.abs(lam).max()
    assert not alone[:, :, [0, 2, 3]].any()


# --- the derivative of the numbers, by another implementation -------------------------------------


@pytest.mark.parametrize("kind", ["own", "backwards", "uneven"])
def test_solution_and_tangent_are_those_of_the_textbook(field, method, kind):
    x0, dx0, d = states(), states(seed=1), direction(field)
    sol = solve(field, x0, method, grid(field, kind))
    xi = snode.solve_sensitivity(sol, dx0=dx0, dtheta=d)
    eps = 1e-30
    theta = {name: p + eps * 1j * d[name] for name, p in field.parameters.items()}
    tableau = TABLEAUS[FROZEN.get(method, method)]
    x = runge_kutta(formula(field, theta), tableau, sol.t, x0 + eps * 1j * dx0)
    assert np.abs(sol.x - x.real).max() <= ROUNDING * np.abs(x.real).max()
    assert np.abs(xi - x.imag / eps).max() <= ROUNDING * np.abs(xi).max()


def test_independent_columns_are_those_of_the_textbook(field):
    x0, dx0, d = states(), states(seed=1), direction(field)
    sol = solve(field, x0, "ode45", batch="independent")
    xi = snode.solve_sensitivity(sol, dx0=dx0, dtheta=d)
    assert xi.shape == (2, *x0.shape)
    eps = 1e-30
    theta = {name: p + eps * 1j * d[name] for name, p in field.parameters.items()}
    for j, column in enumerate(sol.columns):
        start = (x0 + eps * 1j * dx0)[:, j : j + 1]
        x = runge_kutta(formula(field, theta), TABLEAUS["dormand_prince"], column.t, start)
        assert np.abs(xi[1, :, j] - x[-1, :, 0].imag / eps).max() <= ROUNDING * np.abs(xi).max()


# --- Taylor ---------------------------------------------------------------------------------------


def parts(field):
    return ["x0", *field.parameters]


def along(field, x0, name):
    """Return eps -> (field, x0) moved in one part, and the direction as arguments of the tangent.

    The direction has the size of what it moves, so that eps is a relative change.
    """
    if name == "x0":
        dx0 = states(seed=4)
        return lambda eps: (field, x0 + eps * dx0), {"dx0": dx0}
    d = {name: direction(field)[name]}
    return lambda eps: (moved(field, d, eps), x0), {"dtheta": d}


def test_taylor_on_frozen_steps(field, method):
    x0 = states()
    sol = solve(field, x0, method)
    fixed = FROZEN.get(method, method)
    adjoint = snode.solve_adjoint(sol, sol.x_T)  # of |x(T)|^2 / 2
    for name in parts(field):
        at, options = along(field, x0, name)

        def x_T(eps, at=at):
            return snode.solve_direct(*at(eps), method=fixed, t=sol.t, keep="last").x_T

        assert np.abs(x_T(0.0) - sol.x_T).max() <= ROUNDING * np.abs(sol.x_T).max()
        xi = snode.solve_sensitivity(sol, **options)[-1]
        assert snode.taylor_test(x_T, xi) >= ORDER, name
        gradient = adjoint.lam[0] if name == "x0" else adjoint.partials[name]
        d = options["dx0"] if name == "x0" else options["dtheta"][name]

        def cost(eps, x_T=x_T):
            return float(np.sum(x_T(eps) ** 2)) / 2

        assert snode.taylor_test(cost, float(np.sum(gradient * d))) >= ORDER, name


@pytest.mark.parametrize("method", FROZEN)
def test_taylor_on_the_adaptive_solve_itself(field, method):
    # the steps move with eps; that noise is far below the remainder, eps^2 = 3e-5 and more
    rtol = 1e-12 if method == "ode45" else 1e-7
    tight = {"rtol": rtol, "atol": rtol / 10}
    x0, steps = states(), (2e-2, 1e-2, 5e-3)
    sol = solve(field, x0, method, **tight)
    for name in parts(field):
        at, options = along(field, x0, name)

        def x_T(eps, at=at):
            return solve(*at(eps), method, keep="last", **tight).x_T

        xi = snode.solve_sensitivity(sol, **options)[-1]
        assert snode.taylor_test(x_T, xi, steps=steps) >= ORDER, name


# --- all ways to one number -----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rk4", "ode45"])
def test_all_ways_agree(field, method):
    """Tangent, adjoint, both again in continuous time, a complex step, a central difference."""
    x0, dx0, d, lam_T = states(), states(seed=1), direction(field), states(seed=2)
    tight = {"rtol": 1e-10, "atol": 1e-12}
    if method == "rk4":  # 600 steps: h^4 = 4e-11, of rk4 and of its dense output
        sol = solve(field, x0, "rk4", np.linspace(0, 1.5, 601), dense_output=True)
    else:
        sol = solve(field, x0, "ode45", dense_output=True, **tight)
    found = {}
    for mode, options in (("discrete", {}), ("continuous", tight)):
        xi = snode.solve_sensitivity(sol, dx0=dx0, dtheta=d, mode=mode, **options)[-1]
        adjoint = snode.solve_adjoint(sol, lam_T, mode=mode, **options)
        found[mode, "tangent"] = np.sum(xi * lam_T)
        found[mode, "adjoint"] = np.sum(adjoint.lam[0] * dx0) + inner(d, adjoint.partials)
    fixed = FROZEN.get(method, method)
    eps = 1e-30
    theta = {name: p + eps * 1j * d[name] for name, p in field.parameters.items()}
    x = runge_kutta(formula(field, theta), TABLEAUS[fixed], sol.t, x0 + eps * 1j * dx0)
    found["complex step"] = np.sum(x[-1].imag / eps * lam_T)
    h = 1e-5
    plus, minus = (
        snode.solve_direct(moved(field, d, e), x0 + e * dx0, method=fixed, t=sol.t, keep="last").x_T
        for e in (h, -h)
    )
    found["central difference"] = np.sum((plus - minus) / (2 * h) * lam_T)
    size = np.linalg.norm(x[-1].imag / eps) * np.linalg.norm(lam_T)
    values = np.array(list(found.values()))
    assert np.abs(values - values[0]).max() <= 1e-8 * size, found


def test_partials_are_added_up_over_the_columns(field):
    x0, lam_T = states(), states(seed=1)
    sol = solve(field, x0, "ode23", batch="independent")
    adjoint = snode.solve_adjoint(sol, lam_T)
    total = {name: np.zeros_like(p) for name, p in field.parameters.items()}
    for j, column in enumerate(sol.columns):
        alone = snode.solve_adjoint(column, lam_T[:, j : j + 1].copy())
        assert np.array_equal(adjoint.lam[:, :, j], alone.lam[[0, -1], :, 0])
        for name in total:
            total[name] += alone.partials[name]
    for name, value in total.items():
        assert adjoint.partials[name] == pytest.approx(value, rel=1e-12, abs=1e-12)
    assert adjoint.nvjp == sum((len(c.t) - 1) * 3 for c in sol.columns)
    assert adjoint.n_linearized == 0


def test_float32_stays_float32(method):
    field = make("cubic")
    single = field.__class__(
        field.W.astype(np.float32), field.b.astype(np.float32), field.T, interpolation="cubic"
    )
    x0, lam_T = states().astype(np.float32), states(seed=1).astype(np.float32)
    options = {"rtol": 1e-4, "atol": 1e-5} if method in FROZEN else {}
    sol = solve(single, x0, method, **options)
    xi = snode.solve_sensitivity(sol, dx0=lam_T, dT=1.0)
    adjoint = snode.solve_adjoint(sol, lam_T)
    arrays = [sol.x, xi, adjoint.lam, *adjoint.partials.values()]
    assert {a.dtype for a in arrays} == {np.dtype(np.float32)}
    double = solve(field, states(), FROZEN.get(method, method), sol.t)
    reference = snode.solve_sensitivity(double, dx0=states(seed=1), dT=1.0)
    assert np.abs(xi - reference).max() <= 1e-5 * np.abs(reference).max()  # 100 eps


# --- what is refused ------------------------------------------------------------------------------

x1 = np.ones((2, 3))


def decay(t, x):
    return -x


def derivatives(sol):
    return (
        lambda: snode.solve_sensitivity(sol, dx0=np.ones_like(sol.x_T)),
        lambda: snode.solve_adjoint(sol, np.ones_like(sol.x_T)),
        lambda: snode.end_time_derivative(sol),
        lambda: snode.solve_sensitivity(sol, dx0=np.ones_like(sol.x_T), mode="continuous"),
        lambda: snode.solve_adjoint(sol, np.ones_like(sol.x_T), mode="continuous"),
    )


@pytest.mark.parametrize("which", range(5))
@pytest.mark.parametrize("dense", [True, False])
def test_plain_functions_are_pointed_to_function_field(which, dense):
    sol = snode.ode45(decay, (0, 1), x1, dense_output=dense)
    with pytest.raises(ValueError, match=r"snode\.FunctionField"):
        derivatives(sol)[which]()


@pytest.mark.parametrize("which", range(5))
def test_failed_solutions_are_refused(which):
    blow_up = snode.FunctionField(
        lambda t, x: x**2, 2, jvp=lambda t, x, dx: 2 * x * dx, vjp=lambda t, x, p: 2 * x * p, T=2.0
    )
    for options in ({"dense_output": True}, {"checkpoints": 3}):
        if which > 2 and "checkpoints" in options:
            continue
        sol = snode.solve_direct(blow_up, x1, method="ode45", raise_on_failure=False, **options)
        with pytest.raises(ValueError, match="sol must have reached its end; it is BLOW_UP"):
            derivatives(sol)[which]()
    sol = snode.solve_direct(
        blow_up, x1, method="ode45", raise_on_failure=False, batch="independent", dense_output=True
    )
    with pytest.raises(ValueError, match="it is BLOW_UP"):
        derivatives(sol)[which]()


@pytest.mark.parametrize("which", range(5))
def test_solutions_that_ended_early_are_refused(which):
    field = snode.FunctionField(decay, 2, linearization="central differences", T=1.0)
    half = snode.Event(lambda t, x: float(x[0, 0]) - 0.5, terminal=True)
    sol = snode.ode45(field, (0, 1), x1, events=half, dense_output=True)
    assert sol.status is Status.EVENT
    with pytest.raises(ValueError, match="it is EVENT"):
        derivatives(sol)[which]()
    sol = snode.ode45(field, (0, 1), x1, callback=lambda state: True, dense_output=True)
    assert sol.status is Status.STOPPED
    with pytest.raises(ValueError, match="it is STOPPED"):
        derivatives(sol)[which]()


def test_an_event_that_is_not_terminal_does_no_harm():
    field = snode.FunctionField(decay, 2, linearization="central differences", T=1.0)
    watch = snode.Event(lambda t, x: float(x[0, 0]) - 0.5)
    sol = snode.ode45(field, (0, 1), x1, events=watch, rtol=1e-8, atol=1e-10)
    adjoint = snode.solve_adjoint(sol, x1)
    assert adjoint.lam[0] == pytest.approx(np.full((2, 3), np.exp(-1)), rel=1e-7)


@pytest.mark.parametrize("which", range(3))
def test_the_last_state_alone_is_not_enough(field, method, which):
    sol = solve(field, states(), method, keep="last")
    with pytest.raises(ValueError, match="sol must keep its trajectory"):
        derivatives(sol)[which]()


def test_wrong_arguments_are_named(field):
    sol = solve(field, states(), "rk4")
    ok = np.ones((3, 4))
    name, p = next(iter(field.parameters.items()))
    for options, message in (
        ({"dx0": np.ones((3, 5))}, r"dx0 must be float64 of shape \(3, 4\); got float64 of shape"),
        ({"dx0": ok.astype(np.float32)}, "dx0 must be float64"),
        ({"dtheta": {name: p[..., :-1]}}, f"dtheta\\['{name}'\\] must be float64 of shape"),
        ({"dtheta": {"V": p}}, f"dtheta has an unknown parameter 'V'; known: {name}"),
        ({"mode": "backsolve"}, "mode must be one of 'discrete', 'continuous'; got 'backsolve'"),
        ({"rtol": 1e-3}, "rtol and atol are for mode='continuous'"),
        ({"atol": 1e-3}, "rtol and atol are for mode='continuous'"),
    ):
        with pytest.raises(ValueError, match=message):
            snode.solve_sensitivity(sol, **options)
    for lam_T, options, message in (
        (ok[:, :2], {}, r"lam_T must be float64 of shape \(3, 4\)"),
        (ok[:, 0], {}, "lam_T must be float64 of shape"),
        (ok.astype(np.float32), {}, "lam_T must be float64"),
        (ok, {"mode": "reversed"}, "mode must be one of"),
        (ok, {"rtol": 1e-3}, "rtol and atol are for mode='continuous'"),
    ):
        with pytest.raises(ValueError, match=message):
            snode.solve_adjoint(sol, lam_T, **options)
    with pytest.raises(TypeError, match="lam_T must be an array"):
        snode.solve_adjoint(sol, ok.tolist())
    with pytest.raises(ValueError, match="mode must be one of"):
        snode.end_time_derivative(sol, mode="frozen")
