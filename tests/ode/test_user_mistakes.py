"""Slips that users make with ode45 and its relatives, and names that must not mislead them."""

import numpy as np
import pytest

import snode
from snode import Event, Status


def decay(t, x):
    return -x


def ball(t, x):
    return np.stack([x[1], 0 * x[1] - 9.81])


# --- functions that misbehave ---------------------------------------------------------------------


@pytest.mark.parametrize("solve", [snode.ode45, snode.ode23, snode.euler, snode.rk4])
def test_changing_x_in_place_is_refused_and_the_callers_array_is_safe(solve):
    def f(t, x):
        x *= -1
        return x

    x0 = np.ones(2)
    with pytest.raises(ValueError, match="f must not change x in place"):
        solve(f, [0.0, 0.5, 1.0], x0)
    assert x0.tolist() == [1, 1]


def test_returning_x_itself_is_fine():
    sol = snode.ode45(lambda t, x: x, (0, 1), [1.0], rtol=1e-9, atol=1e-12)
    assert sol.x_T[0] == pytest.approx(np.e, rel=1e-8)


@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
@pytest.mark.parametrize("solve", [snode.ode45, snode.ode23])
def test_values_that_turn_complex_or_vanish_are_named(solve):
    with pytest.raises(ValueError, match=r"f must return real numbers; got complex128 at t=1"):
        solve(lambda t, x: np.array([1.0]) * (1 - t) ** 0.5, (0, 2), [0.0])
    with pytest.raises(ValueError, match=r"f must return real numbers; got None at t="):
        solve(lambda t, x: -x if t < 1 else None, (0, 2), [1.0])


def test_noise_is_not_called_stiff():
    rng = np.random.default_rng(0)
    sol = snode.ode45(
        lambda t, x: 1e3 * rng.standard_normal(1), (0, 2), [1.0], rtol=1e-9, raise_on_failure=False
    )
    assert not sol.success
    assert "different values at the same point" in sol.message
    assert "stiff" not in sol.message


def test_an_oscillator_is_not_called_stiff():
    sol = snode.ode45(
        lambda t, x: [x[1], -x[0]], (0, 1e4), [1.0, 0.0], max_steps=500, raise_on_failure=False
    )
    assert sol.status is Status.MAX_STEPS
    assert "stiff" not in sol.message


def test_a_fast_initial_layer_on_a_long_interval_is_no_failure():
    sol = snode.ode45(lambda t, x: -1e5 * (x - np.cos(t)) * (t < 0.01), (0, 1000), [1.0])
    assert sol.success


def test_growth_that_ends_is_no_blow_up():
    # x' = x^2 as long as x << c, then x' = c^2
    sol = snode.ode45(lambda t, x: x**2 / (1 + (x / 1e12) ** 2), (0, 2), [1.0])
    assert sol.x_T[0] == pytest.approx(1e24, rel=1e-3)


@pytest.mark.parametrize("solve", [snode.ode45, snode.ode23])
def test_an_exponential_that_overflows_is_named(solve):
    sol = solve(lambda t, x: 1e6 * x, (0, 1), [1.0], raise_on_failure=False)
    assert sol.status is Status.BLOW_UP
    assert "exp(1e+06 t)" in sol.message
    assert sol.nfev < 5000


# --- events ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("g", "message"),
    [
        (lambda t, x: x, r"events\[0\] must return one number; got float64 of shape \(2,\)"),
        (lambda t, x: None, r"events\[0\] must return one number; got object"),
        (lambda t, x: float("nan"), r"events\[0\] must not be NaN; it is at t=0"),
    ],
)
def test_event_functions_must_return_a_number(g, message):
    with pytest.raises(ValueError, match=message):
        snode.ode45(ball, (0, 1), [1.0, 0.0], events=g)


def test_an_array_of_one_number_will_do():
    sol = snode.ode45(
        ball, (0, 5), [[1.0], [0.0]], events=Event(lambda t, x: x[0], True), batch="independent"
    )
    assert sol.status is Status.EVENT
    assert sol.columns[0].t[-1] == pytest.approx((2 / 9.81) ** 0.5, rel=1e-12)


@pytest.mark.parametrize("first_step", [None, 1.0])
def test_a_flight_from_the_zero_itself(first_step):
    ground = Event(lambda t, x: x[0], terminal=True, direction=-1)
    sol = snode.ode45(ball, (0, 5), [0.0, 1.0], events=ground, first_step=first_step)
    assert sol.status is Status.EVENT
    assert sol.t[-1] == pytest.approx(2 / 9.81, rel=1e-12)


def test_resting_on_the_zero_is_no_event():
    sol = snode.ode45(lambda t, x: 0 * x, (0, 1), [0.0], events=lambda t, x: x[0])
    assert [len(t) for t in sol.t_events] == [0]


# --- what a joined result says --------------------------------------------------------------------


def test_independent_samples_that_end_early_have_no_common_end():
    x0 = np.array([[1.0, 2.0], [0.0, 0.0]])
    ground = Event(lambda t, x: x[0], terminal=True)
    sol = snode.ode45(ball, (0, 2), x0, events=ground, batch="independent")
    ends = [(2 * h / 9.81) ** 0.5 for h in (1, 2)]
    assert sol.t[0] == 0
    assert np.isnan(sol.t[1])
    assert [c.t[-1] for c in sol.columns] == pytest.approx(ends, rel=1e-12)
    assert "to T=0.451524..0.638551, n=2, m=2, independent samples" in repr(sol)
    assert "1 more sample" in sol.message
    at = snode.ode45(
        ball, (0, 2), x0, events=ground, batch="independent", t_eval=[0.0, 0.1, 0.5, 1.0]
    )
    assert at.t.tolist() == [0.0, 0.1, 0.5, 1.0]
    assert np.isfinite(at.x[:2]).all()
    assert np.isnan(at.x[2, :, 0]).all()
    assert np.isfinite(at.x[2, :, 1]).all()
    assert np.isnan(at.x[3]).all()


def test_a_failing_sample_is_named():
    sol = snode.ode45(
        lambda t, x: x**2, (0, 2), np.array([[0.1, 1.0]]), batch="independent",
        raise_on_failure=False,
    )  # fmt: skip
    assert sol.status is Status.BLOW_UP
    assert sol.message.startswith("sample 1: the solution blows up")
    assert "sample 0" not in sol.message


def test_the_repr_of_an_event_before_all_output_depths():
    ground = Event(lambda t, x: x[0], terminal=True)
    sol = snode.ode45(ball, (0, 2), [1.0, 0.0], events=ground, t_eval=[1.0, 2.0])
    assert len(sol.t) == 0
    assert "to T=0.451524" in repr(sol)


def test_the_repr_shows_how_far_the_solution_goes_not_the_last_output():
    sol = snode.ode45(decay, (0, 1), [1.0], t_eval=[0.5])
    assert "to T=1," in repr(sol)


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: snode.ode45(decay, [0, 2, 1], [1.0]), ValueError, "t_span must be a list"),
        (lambda: snode.ode45(decay, (0, 1), 1.0), ValueError, r"x0 .*got \(\); use \[x0\]"),
        (lambda: snode.ode45(decay, (0, 1), [1.0], atol="a"), ValueError, "atol must be"),
        (lambda: snode.ode45(decay, (0, 1), [1.0], callback=3), TypeError, "callback must be"),
        (lambda: snode.ode45(decay, (0, 1), [1.0], max_steps=True), ValueError, "max_steps must"),
        (lambda: snode.euler(decay, 1.0, [1.0]), ValueError, "t must be a strictly monotone grid"),
        (lambda: snode.rk4(decay, [0, 1], [1.0], breakpoints="ab"), ValueError, "breakpoints must"),
        (lambda: snode.solve_direct(decay, np.ones((1, 1))), TypeError, "snode.FunctionField"),
        (lambda: snode.solve_adjoint(None, np.ones((1, 1))), TypeError, "sol must be an OdeSol"),
    ],
)
def test_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_field_needs_a_batch(make_field):
    with pytest.raises(ValueError, match=r"x0 must have shape \(3, m\).*use x0\[:, None\]"):
        snode.ode45(make_field(3, 4), (0, 1), np.ones(3))


@pytest.mark.parametrize("options", [{"atol": np.ones(3)}, {"rtol": 1e-6}, {"max_step": 0.1}])
def test_step_control_for_a_grid_method_is_refused(make_field, options):
    with pytest.raises(ValueError, match="are for the methods with step control, ode23, ode45"):
        snode.solve_direct(make_field(3, 4), np.ones((3, 1)), method="rk4", **options)


@pytest.mark.parametrize(
    "options", [{"dtheta": 3}, {"dT": "a"}, {"dT": float("nan")}], ids=lambda o: next(iter(o))
)
def test_sensitivity_options(make_field, options):
    sol = snode.solve_direct(make_field(3, 4), np.ones((3, 1)))
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        snode.solve_sensitivity(sol, **options)


def test_continuous_mode_with_its_defaults_in_float32(make_field):
    field = make_field(3, 4, dtype=np.float32, interpolation="cubic")
    x0 = np.ones((3, 2), np.float32)
    sol = snode.solve_direct(field, x0, method="rk4", t=np.linspace(0, 1.5, 41), dense_output=True)
    discrete = snode.solve_adjoint(sol, x0).lam[0]
    continuous = snode.solve_adjoint(sol, x0, mode="continuous").lam[0]
    assert continuous.dtype == np.float32
    assert continuous == pytest.approx(discrete, rel=1e-3)


def test_check_says_when_a_field_cannot_be_solved():
    def cube(t, x):
        return x**3

    field = snode.FunctionField(
        cube, 2, jvp=lambda t, x, dx: 3 * x**2 * dx, vjp=lambda t, x, p: 3 * x**2 * p, T=50.0
    )
    report = snode.check(field, verbose=False)
    failed = [row for row in report.rows if not row.passed]
    assert [row.name for row in failed] == ["the direct problem is solved by Euler"]
    assert "pass t=" in failed[0].hint
    assert snode.check(field, t=np.linspace(0, 0.01, 5), verbose=False).passed


# --- every evaluation is looked at ----------------------------------------------------------------

SOLVERS = [snode.ode45, snode.ode23, snode.euler, snode.heun, snode.rk4]
GRID = np.linspace(0, 2, 21)


def later(value, when=1.0):
    """Return f = -1 that does something else after a while."""

    def f(t, x):
        return value(x) if t > when else -np.ones_like(x)

    return f


def clipped(x):
    np.maximum(x, 0, out=x)
    return -np.ones_like(x)


def shifted(x):
    x -= 1
    return x


def through_a_view(x):
    x.reshape(-1)[0] = 0.0
    return -x


@pytest.mark.parametrize("solve", SOLVERS)
@pytest.mark.parametrize("change", [clipped, shifted, through_a_view])
@pytest.mark.parametrize("shape", [(2,), (2, 3)])
def test_a_change_of_x_is_found_whenever_it_happens(solve, change, shape):
    with pytest.raises(ValueError, match=r"f must not change x in place.*\(at t="):
        solve(later(change), GRID, np.ones(shape))


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of numpy.matrix
@pytest.mark.parametrize("solve", SOLVERS)
@pytest.mark.parametrize(
    ("value", "says"),
    [
        (lambda x: 0.0, r"shape \(2,\), that of the state; got \(\) at t=1"),
        (lambda x: [0.0], r"shape \(2,\), that of the state; got \(1,\) at t=1"),
        (lambda x: x[:, None], r"shape \(2,\), that of the state; got \(2, 1\) at t=1"),
        (lambda x: [1.0, [2.0]], r"shape \(2,\), that of the state, at t=1"),
        (lambda x: x + 0j, r"real numbers; got complex128 at t=1"),
        (lambda x: np.emath.sqrt(x - 5), r"real numbers; got complex128 at t=1"),
        (lambda x: x > 0, r"real numbers; got bool at t=1"),
        (lambda x: None, r"real numbers; got None at t=1"),
        (lambda x: ["a", "b"], r"real numbers; got <U1 at t=1"),
        (lambda x: np.asmatrix(x), r"plain array; got a matrix at t=1.*: use np.asarray"),
        (lambda x: np.ma.masked_greater(x, -9), r"plain array; got a MaskedArray at t=1"),
    ],
)
def test_a_value_that_goes_wrong_later_is_named_with_its_depth(solve, value, says):
    with pytest.raises(ValueError, match=says):
        solve(later(value), GRID, np.ones(2))


@pytest.mark.parametrize("solve", [snode.ode45, snode.ode23, snode.rk4])
def test_a_value_that_goes_wrong_between_the_nodes_only_is_named(solve):
    def f(t, x):  # an inner stage of every method, never its first or last one
        return x + 0j if 0.15 < t < 0.6 else -x

    options = {} if solve is snode.rk4 else {"first_step": 1.0}
    with pytest.raises(ValueError, match=r"real numbers; got complex128 at t=0\.[25]"):
        solve(f, [0.0, 1.0], [1.0], **options)


@pytest.mark.parametrize("solve", SOLVERS)
@pytest.mark.parametrize(
    "value",
    [
        lambda x: list(-x), lambda x: tuple(-x), lambda x: np.ma.array(-x),
        lambda x: (-x).astype(np.float32), lambda x: (-x).astype(np.longdouble),
        lambda x: np.array([-1, -2]) * 0 - x,
    ],
)  # fmt: skip
def test_values_that_are_numbers_of_the_right_shape_are_taken(solve, value):
    sol = solve(lambda t, x: value(x), GRID, [1.0, 2.0])
    expected = solve(lambda t, x: -x, GRID, [1.0, 2.0])
    np.testing.assert_allclose(sol.x_T, expected.x_T, rtol=1e-6)


@pytest.mark.parametrize("solve", SOLVERS)
def test_one_buffer_and_the_state_itself_may_be_returned(solve):
    buffer = np.empty(2)
    one = solve(lambda t, x: np.multiply(x, -1, out=buffer), GRID, [1.0, 2.0])
    np.testing.assert_array_equal(one.x_T, solve(lambda t, x: -x, GRID, [1.0, 2.0]).x_T)
    assert np.isfinite(solve(lambda t, x: x[:], GRID, [1.0, 2.0]).x_T).all()


def test_the_solution_may_be_changed_by_its_owner():
    sol = snode.ode45(lambda t, x: -x, (0, 1), [1.0])
    for array in (sol.x, sol.x_T, sol.t):
        array *= 2


@pytest.mark.parametrize("solve", SOLVERS)
def test_errors_of_f_pass_through_with_the_depth_noted(solve):
    class MyError(Exception):
        pass

    def f(t, x):
        if t > 1:
            raise MyError("mine")
        return -x

    with pytest.raises(MyError, match=r"^mine") as caught:
        solve(f, GRID, [1.0])
    assert any(note.startswith("raised by f at t=1") for note in caught.value.__notes__)


def test_callbacks_and_events_cannot_change_the_solution_either():
    def g(t, x):
        x[0] = 7.0
        return 1.0

    with pytest.raises(ValueError, match="read-only"):
        snode.ode45(lambda t, x: -x, (0, 1), [1.0], events=g)
    with pytest.raises(ValueError, match="read-only"):
        snode.ode45(lambda t, x: -x, (0, 1), [1.0], callback=lambda s: s.x.fill(0))


# --- events that are conditions, counts, or flat --------------------------------------------------


@pytest.mark.parametrize("solve", [snode.ode45, snode.ode23])
@pytest.mark.parametrize(
    "g",
    [lambda t, x: x[0] < 0.3, lambda t, x: bool(x[0] > 0.3), lambda t, x: x > 0.3,
     lambda t, x: np.array(x[0] < 0.3)],
)  # fmt: skip
def test_a_condition_is_no_event_function(solve, g):
    with pytest.raises(ValueError, match=r"events\[0\] must return a number that crosses zero"):
        solve(lambda t, x: [-1.0], (0, 2), [1.0], events=Event(g, terminal=True))


@pytest.mark.parametrize("solve", [snode.ode45, snode.ode23])
@pytest.mark.parametrize(
    "g",
    [
        lambda x: max(x - 0.3, 0.0), lambda x: min(0.3 - x, 0.0), lambda x: x - 0.3,
        lambda x: 1e-200 * (x - 0.3), lambda x: 1e200 * (x - 0.3), lambda x: (x - 0.3) ** 3,
        lambda x: np.inf if x > 0.3 else -1.0, lambda x: np.sign(x - 0.3),
        lambda x: 1 if x > 0.3 else -1, lambda x: 1.0 if x > 0.3 else 0.0,
    ],
)  # fmt: skip
def test_an_event_is_found_where_its_sign_ends(solve, g):
    for t_span, x0 in (((0, 2), 1.0), ((2, 0), 1.0)):
        slope = -1.0 if t_span[0] == 0 else 1.0
        sol = solve(
            lambda t, x, slope=slope: [slope], t_span, [x0],
            events=Event(lambda t, x: g(float(x[0])), terminal=True),
        )  # fmt: skip
        assert sol.status is Status.EVENT
        assert abs(sol.t[-1] - t_span[0]) == pytest.approx(0.7, rel=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e-160, 1e-300, 1e160, 1e300, -1e-170])
def test_the_place_of_an_event_does_not_depend_on_the_size_of_g(scale):
    sol = snode.ode45(
        lambda t, x: [x[1], -x[0]], (0, 2), [1.0, 0.0], rtol=1e-9, atol=1e-9, max_step=0.25,
        events=lambda t, x: scale * (x[0] - 0.8),
    )  # fmt: skip
    assert sol.t_events[0] == pytest.approx([np.arccos(0.8)], rel=1e-8)


@pytest.mark.parametrize("count", [1, 2, 3, 2.0, np.int64(3), True, False, None, 0, 50])
def test_a_terminal_count_is_that_of_scipy(count):
    from scipy.integrate import solve_ivp

    def g(t, x):
        return x[0]

    g.terminal = count

    def f(t, x):
        return [x[1], -x[0]]

    ours = snode.ode45(f, (0, 12), [1.0, 0.0], events=g, rtol=1e-8, atol=1e-10)
    theirs = solve_ivp(f, (0, 12), [1.0, 0.0], events=g, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(ours.t_events[0], theirs.t_events[0], rtol=1e-6)
    assert ours.t[-1] == pytest.approx(theirs.t[-1], rel=1e-6)


@pytest.mark.parametrize("terminal", [-1, 1.5, "yes"])
def test_other_counts_are_refused(terminal):
    with pytest.raises(ValueError, match="terminal must be True, False or a number of zeros"):
        Event(lambda t, x: x[0], terminal=terminal)


# --- depths one rounding outside ------------------------------------------------------------------


@pytest.mark.parametrize("end", [0.3, 0.7, 1.1, 3.3])
def test_depths_one_rounding_beyond_the_end_are_the_end(end):
    for t_eval in (
        np.array([0.0, np.nextafter(end, np.inf)]),
        np.linspace(0, end, 7, dtype=np.float32),
        np.arange(0, 1.0000000001, 0.1) * end,
    ):
        sol = snode.ode45(lambda t, x: -x, (0, end), [1.0], t_eval=t_eval)
        assert sol.t[-1] <= end
        assert sol.x[-1, 0] == pytest.approx(np.exp(-end), rel=1e-3)
    back = snode.ode45(lambda t, x: -x, (end, 0), [1.0], t_eval=[end, np.nextafter(0, -1)])
    assert back.t[-1] == 0


def test_a_depth_that_is_out_is_shown():
    with pytest.raises(ValueError, match=r"t_eval must lie in t_span \(0, 0.3\); got 0.31"):
        snode.ode45(lambda t, x: -x, (0, 0.3), [1.0], t_eval=[0.1, 0.31])
    with pytest.raises(ValueError, match=r"got -1e-08"):
        snode.ode45(lambda t, x: -x, (0, 0.3), [1.0], t_eval=[-1e-8, 0.3])
