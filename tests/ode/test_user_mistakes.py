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
