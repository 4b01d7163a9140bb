"""The continuous mode, and the dissipative case on which others' gradients fail."""

import numpy as np
import pytest
from textbook import FIELDS, FROZEN, T, direction, inner, make, states

import snode
from snode.ode.problems import METHODS

pytestmark = pytest.mark.grid(4)

# --- y' = -k (y - cos t): mathematics.md section 6 ------------------------------------------------

END = 2.0
KS = (1.0, 10.0, 100.0, 200.0, 500.0)


class Relaxation:
    """y' = -k (y - cos t), with k = unit * parameter, and what was asked of it counted."""

    n, breakpoints, grid = 1, (), np.array([0.0, END])

    def __init__(self, k, unit=1.0):
        self.parameters = {"k": np.array([k / unit])}
        self.unit, self.k = unit, k
        self.linearized = self.pulled = 0

    def __call__(self, t, y):
        return -self.k * (y - np.cos(t))

    def linearize(self, t, y):
        self.linearized += 1
        return self(t, y), RelaxationLinearization(self, y - np.cos(t))


class RelaxationLinearization:
    def __init__(self, field, gap):
        self.field, self.gap = field, gap

    def jvp(self, dy, dtheta=None):
        total = -self.field.k * dy
        return total - self.field.unit * dtheta["k"] * self.gap if dtheta else total

    def vjp(self, p, into=None):
        self.field.pulled += 1
        if into is not None:
            into.add("k", -self.field.unit * np.sum(p * self.gap))
        return -self.field.k * p


def exact(k, y0):
    """y(2); k may be complex."""
    particular = (k * k * np.cos(END) + k * np.sin(END)) / (k * k + 1)
    return particular + (y0 - k * k / (k * k + 1)) * np.exp(-k * END)


def relaxation(k, y0=1.0, **options):
    options = {"rtol": 1e-7, "atol": 1e-9} | options
    field = Relaxation(k)
    return snode.solve_direct(field, np.array([[y0]]), method="ode45", dense_output=True, **options)


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize(
    ("y0", "bound"),
    [(1.0, 1e-5),  # quality.md
     (0.3, 1e-4)],  # a fast transient before; the derivative, 1 / k^2, is as small as ever
)  # fmt: skip
@pytest.mark.parametrize("mode", ["discrete", "continuous"])
@pytest.mark.parametrize("loss", ["y", "y^2/2"])
def test_dissipative_case(k, y0, bound, mode, loss):
    sol = relaxation(k, y0)
    y, dy = exact(k, y0), exact(k + 1e-30j, y0).imag / 1e-30
    lam_T = np.ones((1, 1)) if loss == "y" else sol.x_T
    expected = dy if loss == "y" else y * dy
    sol.field.linearized = sol.field.pulled = 0
    adjoint = snode.solve_adjoint(sol, lam_T, mode=mode)
    assert adjoint.partials["k"] == pytest.approx([expected], rel=bound)
    # the numbers it reports are the numbers counted
    assert adjoint.n_linearized == sol.field.linearized
    assert adjoint.nvjp == sol.field.pulled
    assert adjoint.n_linearized <= 1.5 * sol.nfev  # quality.md
    if mode == "discrete":
        assert adjoint.n_linearized == 0
        assert adjoint.nvjp <= sol.nfev
    else:  # with the quadrature, five of the six stages of an accepted step twice
        assert adjoint.nvjp <= (1 + 5 / 6) * adjoint.n_linearized


@pytest.mark.parametrize("k", KS)
def test_dissipative_case_from_checkpoints(k):
    sol = snode.solve_direct(
        Relaxation(k), np.ones((1, 1)), method="ode45", rtol=1e-7, atol=1e-9, checkpoints="auto"
    )
    adjoint = snode.solve_adjoint(sol, np.ones((1, 1)))
    assert adjoint.partials["k"] == pytest.approx([exact(k + 1e-30j, 1.0).imag / 1e-30], rel=1e-5)
    assert adjoint.n_linearized <= 1.5 * sol.nfev


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("mode", ["discrete", "continuous"])
def test_dissipative_sensitivity(k, mode):
    sol = relaxation(k)
    xi = snode.solve_sensitivity(sol, dtheta={"k": np.ones(1)}, mode=mode)
    # the source of the continuous problem, y - cos t, is O(1/k), and y is known to rtol = 1e-7
    bound = 1e-5 if mode == "discrete" else 1e-5 + 2e-7 * k
    assert xi[-1, 0] == pytest.approx([exact(k + 1e-30j, 1.0).imag / 1e-30], rel=bound)


# --- accuracy -------------------------------------------------------------------------------------


@pytest.fixture(params=FIELDS)
def field(request):
    return make(request.param)


def derivatives(sol, **options):
    """All derivatives in one vector: of the adjoint, of the tangent."""
    adjoint = snode.solve_adjoint(sol, states(seed=1), **options)
    xi = snode.solve_sensitivity(sol, dx0=states(seed=2), dtheta=direction(sol.field), **options)
    backward = np.concatenate([adjoint.lam[0].ravel(), *map(np.ravel, adjoint.partials.values())])
    return backward, xi[-1].ravel()


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("backwards", [False, True])
def test_the_error_is_that_of_the_tolerances(field, backwards):
    t = (T, 0.0) if backwards else (0.0, T)

    def solve(rtol):
        return snode.solve_direct(
            field, states(), method="ode45", t=t, rtol=rtol, atol=rtol / 100, dense_output=True
        )

    best = derivatives(solve(1e-12))
    sol = solve(1e-11)
    # quality.md; the quadrature, without step control, sees the kinks of the hat functions
    factor = 30 if getattr(field, "interpolation", "") == "linear" else 10
    for k in range(2):
        errors = []
        for rtol in (1e-4, 1e-6, 1e-8):
            found = derivatives(sol, mode="continuous", rtol=rtol, atol=rtol / 100)[k]
            errors.append(relative(found, best[k]))
            assert errors[-1] <= factor * rtol
        assert errors[2] <= errors[0] / 100


def test_the_tolerances_of_the_solution_are_the_default(field):
    sol = snode.solve_direct(
        field, states(), method="ode45", rtol=1e-7, atol=1e-9, dense_output=True
    )
    named = {"mode": "continuous", "rtol": 1e-7, "atol": 1e-9}
    for a, b in zip(derivatives(sol, mode="continuous"), derivatives(sol, **named), strict=True):
        assert np.array_equal(a, b)
    fixed = snode.solve_direct(field, states(), method="rk4", dense_output=True)
    named = {"mode": "continuous", "rtol": 1e-6, "atol": 1e-9}
    for a, b in zip(
        derivatives(fixed, mode="continuous"), derivatives(fixed, **named), strict=True
    ):
        assert np.array_equal(a, b)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_discrete_and_continuous_meet_with_the_order_of_the_method(method, order):
    # the cubic Hermite interpolant has the order 4 too
    field = make("mlp of t")

    def gap(k):
        t = np.linspace(0, T, k + 1)
        sol = snode.solve_direct(field, states(), method=method, t=t, dense_output=True)
        tight = {"mode": "continuous", "rtol": 1e-12, "atol": 1e-13}
        return np.concatenate(derivatives(sol)) - np.concatenate(derivatives(sol, **tight))

    assert abs(snode.observed_order(gap, (40, 80, 160), exact=0.0) - order) <= 0.2


@pytest.mark.parametrize("method", METHODS)
def test_jumps_are_never_stepped_over(method):
    # 40 cells, each with weights of its own: one evaluation on the wrong side would be seen
    field = make("constant", K=40)
    t = np.linspace(0, T, 1001 if method in ("bogacki_shampine", "dormand_prince", "rk4") else 41)
    options = {"t": t}
    if method in FROZEN:
        options = {"rtol": 1e-10 if method == "ode45" else 1e-8, "atol": 1e-12}
    sol = snode.solve_direct(field, states(), method=method, dense_output=True, **options)
    tight = {"mode": "continuous", "rtol": 1e-9, "atol": 1e-12}
    for a, b in zip(derivatives(sol), derivatives(sol, **tight), strict=True):
        # Euler, midpoint and Heun: order 1 and 2 with h = 1/27
        bound = 1e-8 if len(sol.t) > 41 else 0.1
        assert relative(a, b) <= bound


def test_trajectories_are_those_of_the_discrete_mode(field):
    sol = snode.solve_direct(
        field, states(), method="ode45", rtol=1e-9, atol=1e-11, dense_output=True
    )
    lam = [snode.solve_adjoint(sol, states(seed=1), mode=m) for m in ("discrete", "continuous")]
    assert np.array_equal(lam[0].t, lam[1].t)
    # between the nodes of the adjoint's own steps its dense output has order 4
    assert np.abs(lam[0].lam - lam[1].lam).max() <= 1e-6 * np.abs(lam[0].lam).max()
    d = {"dx0": states(seed=2), "dtheta": direction(field)}
    xi = [snode.solve_sensitivity(sol, mode=m, **d) for m in ("discrete", "continuous")]
    assert np.abs(xi[0] - xi[1]).max() <= 1e-6 * np.abs(xi[0]).max()


def test_independent_columns(field):
    lam_T = states(seed=1)
    tight = {"rtol": 1e-9, "atol": 1e-11}
    sol = snode.solve_direct(
        field, states(), method="ode45", batch="independent", dense_output=True, **tight
    )
    a, b = (snode.solve_adjoint(sol, lam_T, mode=m) for m in ("discrete", "continuous"))
    assert a.lam.shape == b.lam.shape == (2, 3, 4)
    assert relative(b.lam[0], a.lam[0]) <= 1e-7
    for name in a.partials:  # kinks of the hat functions included
        assert relative(b.partials[name], a.partials[name]) <= 1e-6
    total = sum(
        snode.solve_adjoint(column, lam_T[:, j : j + 1].copy(), mode="continuous").nvjp
        for j, column in enumerate(sol.columns)
    )
    assert b.nvjp == total


def test_duality_up_to_the_tolerance(field):
    tight = {"rtol": 1e-9, "atol": 1e-11}
    sol = snode.solve_direct(field, states(), method="ode45", dense_output=True, **tight)
    dx0, d, lam_T = states(seed=1), direction(field), states(seed=2)
    xi = snode.solve_sensitivity(sol, dx0=dx0, dtheta=d, mode="continuous")[-1]
    adjoint = snode.solve_adjoint(sol, lam_T, mode="continuous")
    right = np.sum(dx0 * adjoint.lam[0]) + inner(d, adjoint.partials)
    difference = abs(np.sum(xi * lam_T) - right)
    assert difference <= 1e-7 * np.linalg.norm(xi) * np.linalg.norm(lam_T)


# --- step control ---------------------------------------------------------------------------------


def test_the_quadrature_takes_no_part_in_the_step_control():
    # the same problem with the parameter in other units: its gradient is larger, no step changes
    unit, y0 = 2.0**20, np.ones((1, 1))
    found = []
    for field in (Relaxation(10.0), Relaxation(10.0, unit)):
        sol = snode.solve_direct(field, y0, method="ode45", dense_output=True)
        field.linearized = 0
        adjoint = snode.solve_adjoint(sol, y0, mode="continuous")
        found.append((adjoint, field.linearized))
    (plain, evaluations), (scaled, evaluations_scaled) = found
    assert evaluations == evaluations_scaled
    assert plain.nvjp == scaled.nvjp
    assert np.array_equal(plain.lam, scaled.lam)
    assert scaled.partials["k"] == unit * plain.partials["k"]


@pytest.mark.parametrize("size", [2.0**-60, 2.0**60])
def test_the_problem_is_linear_so_its_steps_do_not_depend_on_its_size(field, size):
    sol = snode.solve_direct(field, states(), method="ode45", dense_output=True)
    lam_T, d = states(seed=1), direction(field)
    plain = snode.solve_adjoint(sol, lam_T, mode="continuous")
    scaled = snode.solve_adjoint(sol, size * lam_T, mode="continuous")
    assert plain.n_linearized == scaled.n_linearized
    assert scaled.lam == pytest.approx(size * plain.lam, rel=1e-9, abs=0)
    xi = snode.solve_sensitivity(sol, dx0=lam_T, dtheta=d, mode="continuous")
    d = {name: size * change for name, change in d.items()}
    large = snode.solve_sensitivity(sol, dx0=size * lam_T, dtheta=d, mode="continuous")
    assert np.abs(large / size - xi).max() <= 1e-9 * np.abs(xi).max()


def test_zero_gives_zero(field):
    sol = snode.solve_direct(field, states(), method="ode45", dense_output=True)
    adjoint = snode.solve_adjoint(sol, np.zeros((3, 4)), mode="continuous")
    assert not adjoint.lam.any()
    assert not any(p.any() for p in adjoint.partials.values())
    assert not snode.solve_sensitivity(sol, mode="continuous").any()


def test_arguments_are_not_changed(field):
    sol = snode.solve_direct(field, states(), method="ode45", dense_output=True)
    x, lam_T, d = sol.x.copy(), states(seed=1), direction(field)
    copies = {name: change.copy() for name, change in d.items()}
    snode.solve_adjoint(sol, lam_T, mode="continuous")
    snode.solve_sensitivity(sol, dx0=lam_T, dtheta=d, mode="continuous")
    assert np.array_equal(sol.x, x)
    assert np.array_equal(lam_T, states(seed=1))
    assert all(np.array_equal(d[name], copies[name]) for name in d)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_dense_output_is_needed(field, method):
    sol = snode.solve_direct(field, states(), method=method)
    for work in (
        lambda: snode.solve_adjoint(sol, states(), mode="continuous"),
        lambda: snode.solve_sensitivity(sol, mode="continuous"),
    ):
        with pytest.raises(ValueError, match=r"solve_direct\(\.\.\., dense_output=True\)"):
            work()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rtol": -1.0}, "rtol must be"), ({"atol": np.nan}, "atol must be"),
     ({"rtol": 0, "atol": 0}, "must not both be 0")],
)  # fmt: skip
def test_wrong_tolerances_are_named(options, message):
    sol = snode.solve_direct(make("mlp"), states(), method="ode45", dense_output=True)
    with pytest.raises(ValueError, match=message):
        snode.solve_adjoint(sol, states(), mode="continuous", **options)


def test_an_adjoint_that_fails_says_so():
    class Broken(Relaxation):
        def linearize(self, t, y):
            value, lin = super().linearize(t, y)
            if self.linearized > 30:
                lin.gap = np.full_like(y, np.nan)
                lin.field = Relaxation(np.nan)
            return value, lin

    field = Broken(1.0)
    sol = snode.solve_direct(
        field, np.ones((1, 1)), method="ode45", keep="trajectory", dense_output=True
    )
    for work in (
        lambda: snode.solve_adjoint(sol, np.ones((1, 1)), mode="continuous", rtol=1e-8),
        lambda: snode.solve_sensitivity(sol, dx0=np.ones((1, 1)), mode="continuous", rtol=1e-8),
    ):
        field.linearized = 0
        with pytest.raises(snode.IntegrationError) as caught:
            work()
        assert caught.value.solution.status is snode.Status.NONFINITE_RHS
