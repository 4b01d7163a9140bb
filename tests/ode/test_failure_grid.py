"""Every way a solve can fail, for every method: the right name, at the right depth, soon.

What is asked of each failure: a named status with success=False, the solution up to there, NaN
after it and never memory that was not written, no warning (filterwarnings = error), and at most
5,000 evaluations, counted from outside.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import snode
from snode import IntegrationError, Status
from snode.ode.problems import METHODS
from snode.ode.stages import Rhs, Stages
from snode.ode.tableaus import ADAPTIVE, TABLEAUS

pytestmark = pytest.mark.grid(4)

NAMES = [*METHODS, "snode.euler", "snode.heun", "snode.rk4", "snode.ode23", "snode.ode45"]
BUDGET = 5_000

every = pytest.mark.parametrize("name", NAMES)
adaptive = pytest.mark.parametrize("name", [n for n in NAMES if "ode2" in n or "ode4" in n])
both = pytest.mark.parametrize("solver", [snode.ode45, snode.ode23], ids=["ode45", "ode23"])


@dataclass
class Plain:
    """A field that has no derivatives, only a right-hand side."""

    f: Any
    n: int
    grid: Any
    parameters = {}  # noqa: RUF012
    breakpoints = ()

    def __call__(self, t, x):
        return self.f(t, x)


def is_adaptive(name):
    return name.removeprefix("snode.") in ADAPTIVE


def run(name, f, x0, T=1.0, *, steps=50, **options):
    """Solve x' = f(t, x) on [0, T] by any method; x0 of shape (n, m); count the evaluations."""
    count = [0]

    def counted(t, x):
        count[0] += 1
        return f(t, x)

    options = {"raise_on_failure": False, **options}
    if name.startswith("snode."):
        solve = getattr(snode, name.removeprefix("snode."))
        span = (0.0, T) if is_adaptive(name) else np.linspace(0, T, steps + 1)
        sol = solve(counted, span, x0, **options)
    else:
        field = Plain(counted, len(x0), np.linspace(0, T, steps + 1))
        sol = snode.solve_direct(field, x0, method=name, keep="trajectory", **options)
    assert count[0] <= BUDGET
    assert sol.nfev == count[0]
    return sol


def check_failure(sol, status, message="", x0=None):
    """What all failures have in common."""
    assert sol.status is status
    assert not sol.success
    assert message in sol.message
    assert np.isnan(sol.x_T).all()
    healthy = np.isfinite(sol.x.reshape(len(sol.t), -1)).all(axis=1)
    if is_adaptive(sol.method):
        assert healthy.all()  # the accepted steps
    else:
        first_bad = int(np.argmin(healthy)) if not healthy.all() else len(healthy)
        assert np.isnan(sol.x[first_bad:]).all()
        assert np.isfinite(sol.x[:first_bad]).all()
    if x0 is not None:
        assert np.array_equal(sol.x[0], x0)


X0 = np.array([[1.0, 0.5], [2.0, -1.0]])  # (n, m): two samples of two components


# --- initial states -------------------------------------------------------------------------------


def spoiled(value):
    x = X0.copy()
    x[1, 0] = value
    return x


BAD_STATES = [
    (spoiled(np.nan), "x0 must be finite; component 1 of sample 0 is nan"),
    (spoiled(np.inf), "x0 must be finite; component 1 of sample 0 is inf"),
    (spoiled(-np.inf), "x0 must be finite; component 1 of sample 0 is -inf"),
    (np.ones((2, 2, 2)), r"x0 must have shape .*got \(2, 2, 2\)"),
    (np.array(1.0), r"x0 must have shape .*got \(\)"),
    (np.ones((2, 0)), r"x0 must have shape .*got \(2, 0\)"),
    (X0.astype(complex), "x0 must be float32 or float64; got complex128"),
    (X0.astype(object), "x0 must be float32 or float64; got object"),
    (X0.astype(np.float16), "x0 must be float32 or float64; got float16"),
    (X0.astype(bool), "x0 must be float32 or float64; got bool"),
    (X0.astype(str), "x0 must be float32 or float64; got <U"),
]


@every
@pytest.mark.parametrize(("x0", "message"), BAD_STATES)
def test_bad_states_are_refused_before_f_is_asked(name, x0, message):
    def f(t, x):
        raise AssertionError("f was asked")

    if name.startswith("snode."):
        solve = getattr(snode, name.removeprefix("snode."))
        with pytest.raises(ValueError, match=message):
            solve(f, [0.0, 1.0], x0)
    else:
        with pytest.raises(ValueError, match=message):
            snode.solve_direct(Plain(f, 2, np.linspace(0, 1, 3)), x0, method=name)


@every
@pytest.mark.parametrize("x0", [None, "abc", [[1.0], [1.0, 2.0]], {"a": 1}, []])
def test_what_is_no_array_is_refused(name, x0):
    def f(t, x):
        raise AssertionError("f was asked")

    def solve():
        if name.startswith("snode."):
            return getattr(snode, name.removeprefix("snode."))(f, [0.0, 1.0], x0)
        return snode.solve_direct(Plain(f, 2, np.linspace(0, 1, 3)), x0, method=name)

    with pytest.raises((TypeError, ValueError), match="x0 must"):
        solve()


def test_f_must_be_callable():
    for solve in (snode.euler, snode.heun, snode.rk4, snode.ode23, snode.ode45):
        with pytest.raises(TypeError, match="f must be callable"):
            solve(3, [0.0, 1.0], [1.0])


# --- f returns what it must not -------------------------------------------------------------------


@every
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ones((3, 2)), r"f must return shape \(2, 2\), that of the state; got \(3, 2\)"),
        (np.ones(2), r"f must return shape \(2, 2\), that of the state; got \(2,\)"),
        (1.0, r"f must return shape \(2, 2\), that of the state; got \(\)"),
        (np.ones((2, 2), complex), "f must return real numbers; got complex128"),
        (np.ones((2, 2), object), "f must return real numbers; got object"),
        (None, "f must return real numbers; got None"),
        ("x", "f must return real numbers; got <U1"),
    ],
)
def test_wrong_values_of_f(name, value, message):
    with pytest.raises(ValueError, match=message):
        run(name, lambda t, x: value, X0)


@every
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_f_not_finite_at_the_start(name, value):
    def f(t, x):
        out = -x
        out[1, 1] = value
        return out

    sol = run(name, f, X0)
    check_failure(sol, Status.NONFINITE_RHS, "component 1 of sample 1", X0)
    if is_adaptive(name):
        assert f"f is {value} at t=0" in sol.message
        assert len(sol.t) == 1
        assert sol.nfev == 1
    else:
        assert np.isnan(sol.x[1:]).all()


DEPTH = 0.637


@every
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("one_component", [True, False])
def test_f_not_finite_from_a_depth_on(name, value, one_component):
    def healthy(t, x):
        return -np.sin(x) + t

    def f(t, x):
        out = healthy(t, x)
        if t >= DEPTH:
            out[(1, 0) if one_component else slice(None)] = value
        return out

    sol = run(name, f, X0)
    where = "component 1 of sample 0" if one_component else "component 0 of sample 0"
    check_failure(sol, Status.NONFINITE_RHS, where, X0)
    kept = np.isfinite(sol.x[:, 1, 0])
    last = sol.t[kept][-1]
    if is_adaptive(name):
        assert DEPTH - 1e-6 <= last < DEPTH  # as near as steps can come
        assert f"f is {value} at t=0.637" in sol.message
        control = run(name, healthy, X0, T=last)
        assert sol.x[-1] == pytest.approx(control.x_T, abs=1e-2)
    else:
        h = 1 / 50
        assert DEPTH - h - 1e-9 <= last <= DEPTH + h  # within the step
        # up to there bit for bit what a healthy f gives
        control = run(name, healthy, X0)
        assert np.array_equal(sol.x[kept], control.x[kept])
        assert "after the step from t=" in sol.message


@adaptive
def test_f_not_finite_at_the_very_end(name):
    sol = run(name, lambda t, x: x * (np.nan if t >= 1.0 else -1.0), X0)
    check_failure(sol, Status.NONFINITE_RHS, "f is nan at t=1", X0)
    assert 1 - 1e-6 <= sol.t[-1] < 1


@pytest.mark.parametrize("solver", [snode.ode45, snode.ode23])
def test_rows_after_the_failure_are_nan(solver):
    t = np.linspace(0, 1, 11)
    sol = solver(
        lambda t, x: -x if t < DEPTH else x * np.nan, (0, 1), [1.0], t_eval=t,
        rtol=1e-6, raise_on_failure=False,
    )  # fmt: skip
    assert np.array_equal(sol.t, t)
    assert sol.x[:7, 0] == pytest.approx(np.exp(-t[:7]), rel=1e-4)
    assert np.isnan(sol.x[7:]).all()
    assert np.isnan(sol.x_T).all()
    # with batch="independent" the healthy columns are whole
    sol = solver(
        lambda t, x: -x if t < DEPTH or x[0, 0] < 1 else x * np.nan, (0, 1), [[1.0, 9.0]],
        t_eval=t, rtol=1e-6, raise_on_failure=False, batch="independent",
    )  # fmt: skip
    assert sol.status is Status.NONFINITE_RHS
    assert "sample 1" in sol.message
    assert sol.x[:, 0, 0] == pytest.approx(np.exp(-t), rel=1e-4)
    assert np.isnan(sol.x[7:, 0, 1]).all()


@pytest.mark.parametrize("solver", [snode.ode45, snode.ode23])
def test_the_dense_output_of_a_failure_ends_where_it_does(solver):
    sol = solver(
        lambda t, x: -x if t < DEPTH else x * np.nan, (0, 1), [1.0], dense_output=True,
        rtol=1e-6, raise_on_failure=False,
    )  # fmt: skip
    assert sol(0.6)[0] == pytest.approx(np.exp(-0.6), rel=1e-4)
    with pytest.raises(ValueError, match="t must be in"):
        sol(0.7)


@adaptive
def test_f_that_recovers_is_no_failure(name):
    """Only a trial step leaves the domain of f: a shorter one stays inside."""
    trials = []

    def f(t, x):  # log x falls like exp(-50 t)
        if (x < 0).any():
            trials.append(t)
        return -50 * x * np.log(x)

    sol = run(name, f, np.array([[5.0, 1.0]]), T=0.1, first_step=0.1)
    assert trials
    assert sol.status is Status.SUCCESS
    exact = 5 ** np.exp(-50 * sol.t)
    assert sol.x[:, 0, 0] == pytest.approx(exact, rel=2e-2)  # rtol = 1e-3, a few of them
    assert (sol.x[:, 0, 1] == 1).all()
    assert np.isfinite(sol.x).all()


@adaptive
@pytest.mark.parametrize("call", range(3, 10))
def test_a_nan_in_any_one_stage_costs_a_step(name, call):
    # with comparisons f hides that its argument is NaN: the next stages are finite
    def f(t, x):
        f.count += 1
        return np.where(x > 0, -x, np.where(x < 0, -x, 0)) if f.count != call else x * np.nan

    f.count = 0
    sol = run(name, f, X0)
    assert sol.success
    assert sol.n_rejected >= 1
    assert sol.x_T == pytest.approx(X0 * np.exp(-1), rel=1e-2)


def test_a_stage_that_nothing_weighs_is_looked_at():
    # b_2 = e_2 = 0 in Dormand-Prince, and a sum over the stages may leave out weights of 0
    x = np.ones((2, 3))
    stages = Stages(Rhs(lambda t, x: x, x), TABLEAUS["dormand_prince"], x)
    stages.K[:] = 1e300  # the square of it overflows
    with np.errstate(over="ignore"):  # as in a run
        assert stages.unseen_are_finite()
        for value in (np.nan, np.inf):
            stages.K[1, 1, 2] = value
            assert not stages.unseen_are_finite()


# --- blow-up --------------------------------------------------------------------------------------

BLOW_UPS = {
    "x^2": (lambda t, x: x**2, 1.0, 1.0, 2.0),
    "-x^2": (lambda t, x: -(x**2), -1.0, 1.0, 2.0),
    "tan": (lambda t, x: 1 + x**2, 0.0, np.pi / 2, 3.0),
    "x^3": (lambda t, x: x**3, 1.0, 0.5, 2.0),
    "x^1.5": (lambda t, x: x**1.5, 1.0, 2.0, 5.0),
    "x^10": (lambda t, x: x**10, 1.0, 1 / 9, 2.0),
    "exp": (lambda t, x: np.exp(x), 0.0, 1.0, 2.0),
    "x^2 from 1e-3": (lambda t, x: x**2, 1e-3, 1e3, 2e3),
    "x^2 from 1e3": (lambda t, x: x**2, 1e3, 1e-3, 1.0),
    "x^2 beside 1e6": (lambda t, x: np.array([x[0] ** 2, 1e6 - x[1]]), 1.0, 1.0, 2.0),
}


@pytest.mark.parametrize("case", BLOW_UPS)
@pytest.mark.parametrize(
    ("solver", "rtol"),
    [
        (snode.ode45, 1e-3), (snode.ode45, 1e-5), (snode.ode45, 1e-7), (snode.ode45, 1e-9),
        (snode.ode23, 1e-3), (snode.ode23, 1e-5),
    ],
)  # fmt: skip
def test_blow_up(solver, rtol, case):
    f, start, end, T = BLOW_UPS[case]
    x0 = [start, 1e6] if "beside" in case else [start]
    count = []

    def counted(t, x):
        count.append(t)
        return f(t, x)

    sol = solver(counted, (0, T), x0, rtol=rtol, raise_on_failure=False)
    check_failure(sol, Status.BLOW_UP, "blows up at about t=")
    # ode23 with rtol = 1e-3 is itself no better than a few tolerances
    assert sol.t[-1] == pytest.approx(
        end, rel=3e-3 if (solver, rtol) == (snode.ode23, 1e-3) else 1e-3
    )
    assert len(count) == sol.nfev <= BUDGET
    assert "|x| is largest in component 0" in sol.message


@pytest.mark.parametrize("case", ["x^2", "tan", "x^3"])
def test_blow_up_is_told_by_ode23_for_fine_tolerances_too(case):
    # a method of order 3 pays more for 1e-9 than the budget, even where nothing fails
    f, start, end, T = BLOW_UPS[case]
    sol = snode.ode23(f, (0, T), [start], rtol=1e-9, atol=1e-9, raise_on_failure=False)
    assert sol.status is Status.BLOW_UP
    assert sol.t[-1] == pytest.approx(end, rel=1e-3)


@both
def test_blow_up_of_reversed_time_and_of_a_batch(solver):
    sol = solver(lambda t, x: -(x**2), (5, 2), [1.0], rtol=1e-6, raise_on_failure=False)
    check_failure(sol, Status.BLOW_UP, "blows up at about t=")
    assert sol.t[-1] == pytest.approx(4.0, abs=1e-3)
    x0 = np.array([[0.1, 0.2, 1.0, 0.3]])
    sol = solver(lambda t, x: x**2, (0, 2), x0, rtol=1e-6, raise_on_failure=False)
    check_failure(sol, Status.BLOW_UP, "component 0 of sample 2")
    assert sol.t[-1] == pytest.approx(1.0, abs=1e-3)


@both
def test_blow_up_into_overflow_and_nan(solver):
    # f itself overflows or gives up before the step gets too short
    f = lambda t, x: np.where(abs(x) > 1e6, np.nan, x**2)  # noqa: E731
    sol = solver(f, (0, 2), [1.0], rtol=1e-6, raise_on_failure=False)
    assert sol.status in (Status.BLOW_UP, Status.NONFINITE_RHS)
    assert sol.t[-1] == pytest.approx(1.0, abs=1e-3)
    sol = solver(lambda t, x: np.exp(x), (0, 2), [600.0], rtol=1e-6, raise_on_failure=False)
    assert sol.status is Status.BLOW_UP  # at once: exp(-600)
    assert sol.t[-1] < 1e-250


GROWING = {
    "50 x": (lambda t, x: 50 * x, 1.0, 2.0, np.exp(100)),
    "300 x": (lambda t, x: 300 * x, 1.0, 2.0, np.exp(600)),
    "1e6 (1e6 - x)": (lambda t, x: 1e6 * (1e6 - x), 0.0, 1e-4, 1e6 * (1 - np.exp(-100))),
    "x log x": (lambda t, x: x * np.log(x), 2.0, 4.0, 2 ** np.exp(4.0)),
    "x (1e6 - x)": (lambda t, x: x * (1e6 - x), 1e-3, 1e-4, 1e6),
    "2 t x": (lambda t, x: 2 * t * x, 1.0, 15.0, np.exp(225)),
    "flame": (lambda t, x: x**2 - x**3, 1e-3, 2e3, 1.0),
}


@pytest.mark.parametrize("case", GROWING)
@pytest.mark.parametrize(("solver", "rtol"), [(snode.ode45, 1e-7), (snode.ode23, 1e-4)])
def test_growth_that_is_no_blow_up(solver, rtol, case):
    f, start, T, end = GROWING[case]
    sol = solver(f, (0, T), [start], rtol=rtol, atol=1e-9, max_steps=1e5)
    assert sol.status is Status.SUCCESS
    # a relative error of rtol a step, over many e-folds of growth that also moves in time
    assert np.log(sol.x_T[0]) == pytest.approx(np.log(end), rel=1e-2, abs=1e-3)


@both
def test_a_stiff_plateau_after_fast_growth_is_no_blow_up(solver):
    # a flame: x grows by 1e6 at a rate like a blow-up, and then stays at 1 for 1e6 of its times
    sol = solver(
        lambda t, x: x**2 - x**3, (0, 2e6), [1e-6], rtol=1e-3, atol=1e-9, raise_on_failure=False
    )
    check_failure(sol, Status.MAX_STEPS, "stiff")
    assert sol.t[-1] > 1e6
    assert sol.x[-1, 0] == pytest.approx(1.0, abs=1e-2)


@both
def test_an_exponential_that_overflows_is_a_blow_up(solver):
    sol = solver(lambda t, x: 1000 * x, (0, 2), [1.0], raise_on_failure=False)
    check_failure(sol, Status.BLOW_UP)
    end = np.log(np.finfo(float).max) / 1000
    assert sol.t[-1] == pytest.approx(end, rel=0.02)
    # told before it happens, in the direction of the integration
    for share in (0.6, 0.9):
        options = {"max_steps": int(share * (sol.n_accepted + sol.n_rejected))}
        for sign in (1, -1):
            early = solver(
                lambda t, x, sign=sign: 1000 * sign * x, (0, 2 * sign), [1.0],
                raise_on_failure=False, **options,
            )  # fmt: skip
            check_failure(early, Status.BLOW_UP, "the solution grows like exp(1e+03 t)")
            told = float(early.message.split("overflows at about t=")[1].split(";")[0])
            assert told == pytest.approx(sign * end, rel=0.02)
            assert abs(early.t[-1]) < end


@pytest.mark.parametrize("name", [n for n in NAMES if not is_adaptive(n)])
def test_blow_up_with_fixed_steps(name):
    # x' = x^2 from 1: the steps jump over t = 1, and the state overflows soon after
    sol = run(name, lambda t, x: x**2, np.array([[1.0]]), T=2.0, steps=400)
    check_failure(sol, Status.BLOW_UP, "blows up", [[1.0]])
    kept = np.isfinite(sol.x[:, 0, 0])
    assert 0.99 <= sol.t[kept][-1] <= 1.1
    before = sol.t < 0.9
    # the global error of Euler is about h x^2 log x = 0.05 x at x = 10; others have less
    assert sol.x[before, 0, 0] == pytest.approx(1 / (1 - sol.t[before]), rel=0.1)


# --- too small, too many --------------------------------------------------------------------------


@both
@pytest.mark.parametrize("rtol", [1e-3, 1e-6])
def test_stiff_problems_say_so(solver, rtol):
    for rate in (1e5, 1e8):
        f = lambda t, x, rate=rate: -rate * (x - np.cos(t))  # noqa: E731
        sol = solver(f, (0, 100), [2.0], rtol=rtol, raise_on_failure=False)
        check_failure(sol, Status.MAX_STEPS, f"stiff: rates up to {rate:.1e}")
        assert sol.nfev <= BUDGET
        assert "loosen the tolerances, or raise max_steps" in sol.message
        assert "|x| is largest in component 0" in sol.message
        assert sol.x[-1] == pytest.approx(np.cos(sol.t[-1]), abs=10 * rtol)


@both
def test_stiffness_of_one_component_of_one_sample(solver):
    rates = np.array([[1.0, 1.0], [1.0, 1e7]])
    sol = solver(
        lambda t, x: -rates * (x - 1.0), (0, 10), np.full((2, 2), 2.0), raise_on_failure=False
    )
    check_failure(sol, Status.MAX_STEPS, "stiff: rates up to 1.0e+07")
    assert sol.nfev <= BUDGET


@both
def test_max_steps_without_stiffness_gives_no_such_hint(solver):
    sol = solver(
        lambda t, x: np.array([x[1], -x[0]]), (0, 1000), [1.0, 0.0], rtol=1e-8,
        max_steps=200, raise_on_failure=False,
    )  # fmt: skip
    check_failure(sol, Status.MAX_STEPS, "200 steps were not enough to reach T=1000")
    assert "stiff" not in sol.message
    # the numbers kept are right
    assert sol.x[:, 0] == pytest.approx(np.cos(sol.t), abs=2e-4)  # 200 steps of atol = 1e-6


@both
def test_a_fast_phase_is_not_taken_for_the_whole(solver):
    # the first hundreds of steps would go on for 1e5 and more; then they grow
    sol = solver(lambda t, x: -1000 * x, (0, 1), [1.0], rtol=1e-9, atol=1e-9)
    assert sol.success
    assert sol.x_T == pytest.approx(0, abs=1e-8)
    # and a state that hardly changes: the steps grow from the shortest ones, tenfold each
    sol = solver(lambda t, x: -1e-300 * x, (0, 1e300), [1.0], rtol=1e-6)
    assert sol.x_T == pytest.approx(np.exp(-1), rel=1e-4)


@both
@pytest.mark.parametrize("rtol", [1e-3, 1e-6])
def test_noise_and_sliding_modes_end_soon(solver, rtol):
    rng = np.random.default_rng(0)
    sol = solver(
        lambda t, x: rng.standard_normal(2), (0, 1), [0.0, 1.0], rtol=rtol, atol=1e-9,
        raise_on_failure=False,
    )  # fmt: skip
    check_failure(sol, Status.MAX_STEPS, "more steps would be needed")
    assert sol.nfev <= BUDGET
    sol = solver(
        lambda t, x: -np.sign(x), (0, 10), [1.0], rtol=rtol, atol=1e-9, raise_on_failure=False
    )
    check_failure(sol, Status.MAX_STEPS, "more steps would be needed")
    assert sol.nfev <= BUDGET
    assert sol.t[-1] == pytest.approx(1.0, abs=1e-3)  # up to where it slides


@both
def test_a_jump_without_breakpoints_is_found(solver):
    sol = solver(lambda t, x: [1.0 if t < 0.3 else -2.0], (0, 1), [0.0], rtol=1e-6)
    assert sol.x_T == pytest.approx(0.3 - 1.4, abs=1e-4)


@both
def test_step_underflow_at_a_singularity(solver):
    # x' = -1 / x ends at x = 0, t = 1/2, with an infinite slope; nothing grows
    options = {"rtol": 1e-6, "atol": 1e-9, "raise_on_failure": False}
    sol = solver(lambda t, x: -1 / x, (0, 1), [1.0], **options)
    check_failure(sol, Status.STEP_UNDERFLOW, "f may jump, oscillate or be singular there")
    assert sol.t[-1] == pytest.approx(0.5, abs=1e-3)
    assert sol.nfev <= BUDGET
    # a pole of f in t: no blow-up by its own size
    sol = solver(lambda t, x: [1 / (1 - t)], (0, 2), [1.0], **options)
    check_failure(sol, Status.STEP_UNDERFLOW)
    assert sol.t[-1] == pytest.approx(1.0, abs=1e-3)


@both
def test_underflow_where_numbers_are_too_far_apart(solver):
    # between 1e16 and the next number there are 2: no step resolves a rate of 10
    sol = solver(lambda t, x: -10 * x, (1e16, 1e16 + 20), [1.0], rtol=1e-6, raise_on_failure=False)
    check_failure(sol, Status.STEP_UNDERFLOW)


# --- raising --------------------------------------------------------------------------------------


@every
def test_failures_are_raised_by_default(name):
    def f(t, x):
        return -x if t < DEPTH else x * np.nan

    quiet = run(name, f, X0)
    with pytest.raises(IntegrationError) as caught:
        run(name, f, X0, raise_on_failure=True)
    assert str(caught.value) == quiet.message
    assert caught.value.solution.status is quiet.status
    assert np.array_equal(caught.value.solution.x, quiet.x, equal_nan=True)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("keep", ["last", "all"])
def test_what_is_kept_does_not_change_the_failure(method, keep, make_field):
    field = make_field(3, 4, activation="relu")
    W = field.W.copy()
    W[2, 1, 0] = np.nan
    bad = field.with_parameters(W=W)
    x0 = np.ones((3, 2))
    sol = snode.solve_direct(bad, x0, method=method, keep=keep, raise_on_failure=False)
    assert sol.status is Status.NONFINITE_RHS
    assert not np.isfinite(sol.x_T).all()
    assert (sol.x is None) == (keep == "last")
    for solve in (snode.solve_sensitivity, lambda sol: snode.solve_adjoint(sol, x0)):
        with pytest.raises(ValueError, match="sol must"):
            solve(sol)


# --- huge weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("activation", ["tanh", "relu", "softplus"])
@pytest.mark.parametrize("interpolation", ["constant", "cubic"])
def test_huge_weights_finish_or_fail_by_name(make_field, method, activation, interpolation):
    field = make_field(4, 6, scale=1e6, activation=activation, interpolation=interpolation)
    x0 = np.random.default_rng(2).standard_normal((4, 5))
    sol = snode.solve_direct(field, x0, method=method, keep="trajectory", raise_on_failure=False)
    assert sol.nfev <= BUDGET
    assert sol.success == np.isfinite(sol.x_T).all()
    if sol.success:
        assert np.isfinite(sol.x).all()
    else:
        assert sol.status in (
            Status.BLOW_UP, Status.NONFINITE_RHS, Status.MAX_STEPS, Status.STEP_UNDERFLOW
        )  # fmt: skip
        assert np.isnan(sol.x_T).all()
    if activation == "tanh" and method in TABLEAUS:
        assert sol.success  # |f| <= 1
        assert abs(sol.x_T).max() <= abs(x0).max() + field.T
