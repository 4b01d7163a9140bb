"""What a caller of ode45 and ode23 sees: dense output, where f is asked, breakpoints, events."""

from itertools import pairwise

import numpy as np
import pytest

import snode
from snode import Event, Status

EPS = np.finfo(np.float64).eps

both = pytest.mark.parametrize("solver", [snode.ode45, snode.ode23], ids=["ode45", "ode23"])


def rotation(t, x):
    return np.stack([x[1], -x[0]])


class Recorder:
    """A right-hand side that notes where it was asked."""

    def __init__(self, f):
        self.f, self.t = f, []

    def __call__(self, t, x):
        assert type(t) is float
        self.t.append(t)
        return self.f(t, x)


# --- dense output ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("solver", "order"), [(snode.ode45, 5), (snode.ode23, 3)])
def test_dense_output_has_its_order(solver, order):
    # steps of one length by first_step = max_step with tolerances that accept all of them; between
    # the nodes the error is that of the nodes (h^5, h^3) and of the polynomial (h^5, h^4)
    def solve(k):
        h = 1.5 / k
        sol = solver(
            lambda t, x: x * np.cos(t), (0, 1.5), [1.0], rtol=1.0, atol=1.0,
            first_step=h, max_step=h, dense_output=True,
        )  # fmt: skip
        assert np.diff(sol.t) == pytest.approx(h, rel=1e-9)
        t = 0.3 * h + np.arange(k) * h
        return abs(sol(t)[:, 0] - np.exp(np.sin(t))).max()

    errors = np.array([solve(k) for k in (20, 40, 80)])
    orders = np.log2(errors[:-1] / errors[1:])
    assert (orders >= order - 0.2).all()


@pytest.mark.parametrize(("solver", "degree"), [(snode.ode45, 4), (snode.ode23, 3)])
def test_dense_output_reproduces_polynomials(solver, degree):
    options = {"rtol": 1.0, "atol": 1.0, "first_step": 0.9, "dense_output": True}
    p = np.polynomial.Polynomial([0.3, -1.0, 0.7, 2.0, -0.9][: degree + 1])
    sol = solver(lambda t, x: [p.deriv()(t)], (0, 2), [p(0.0)], **options)
    assert sol.n_accepted < 5
    t = np.linspace(0, 2, 57)
    assert sol(t)[:, 0] == pytest.approx(p(t), abs=100 * EPS * abs(p(t)).max())
    # one degree more is not: the test above can fail
    q = p * np.polynomial.Polynomial([0.0, 1.0])
    sol = solver(lambda t, x: [q.deriv()(t)], (0, 2), [q(0.0)], **options)
    assert abs(sol(t)[:, 0] - q(t)).max() > 1e-3


@both
@pytest.mark.parametrize("span", [(0, 3), (3, -1)])
def test_dense_output_is_continuous_and_smooth_at_the_nodes(solver, span):
    sol = solver(rotation, span, [1.0, 0.2], rtol=1e-4, dense_output=True)
    assert np.array_equal(sol(sol.t), sol.x)
    for t, x in zip(sol.t[1:-1], sol.x[1:-1], strict=True):
        # one rounding of t to the side moves x by |x'| eps t, and sums of a few terms round
        for side in (np.nextafter(t, span[0]), np.nextafter(t, span[1])):
            assert sol(side) == pytest.approx(x, abs=20 * EPS)
        # both polynomials have the slope f at the node
        d = 1e-6
        left, right = (sol(t) - sol(t - d)) / d, (sol(t + d) - sol(t)) / d
        assert left == pytest.approx(rotation(t, x), abs=2e-6)  # d / 2 times x''
        assert right == pytest.approx(rotation(t, x), abs=2e-6)


@both
def test_calling_a_solution(solver):
    sol = solver(rotation, (0, 3), np.ones((2, 4)), dense_output=True)
    assert sol(1.0).shape == (2, 4)
    assert sol([1.0, 2.0]).shape == (2, 2, 4)
    assert sol([]).shape == (0, 2, 4)
    assert np.array_equal(sol([2.0, 0.5]), [sol(2.0), sol(0.5)])  # in any order
    value = sol(0.0)
    value[:] = 7  # a copy
    assert np.array_equal(sol(0.0), np.ones((2, 4)))
    for t in (-0.01, 3.01, [1.0, 3.01], np.nan):
        with pytest.raises(ValueError, match=r"t must be in \[0, 3\]"):
            sol(t)
    with pytest.raises(ValueError, match=r"t must be a number or an array \(k,\)"):
        sol([[1.0]])
    with pytest.raises(ValueError, match="dense_output=True"):
        solver(rotation, (0, 3), [1.0, 1.0])(1.0)


@both
@pytest.mark.parametrize("span", [(0.0, 4.0), (4.0, -1.0)])
def test_t_eval_is_the_dense_output(solver, span):
    t = np.linspace(*span, 23)
    dense = solver(rotation, span, [1.0, 0.2], dense_output=True)
    t = np.sort(np.append(t, dense.t[3]))[:: 1 if span[1] > span[0] else -1]  # a node as well
    sol = solver(rotation, span, [1.0, 0.2], t_eval=t)
    assert np.array_equal(sol.t, t)
    assert np.array_equal(sol.x, dense(t))
    assert np.array_equal(sol.x_T, dense.x_T)
    assert sol.nfev == dense.nfev  # no step lands there
    matlab = solver(rotation, t, [1.0, 0.2])
    assert np.array_equal(matlab.t, t)
    assert np.array_equal(matlab.x, sol.x)


@both
def test_t_eval_need_not_reach_the_ends(solver):
    sol = solver(rotation, (0, 4), [1.0, 0.2], t_eval=[1.0, 1.0, 2.5])
    assert sol.x.shape == (3, 2)
    assert np.array_equal(sol.x[0], sol.x[1])
    assert np.array_equal(sol.x_T, solver(rotation, (0, 4), [1.0, 0.2]).x_T)


@pytest.mark.parametrize(
    ("span", "t_eval", "message"),
    [
        ((0, 1), [0.5, 0.2], "t_eval must be a list of depths in the order of t_span"),
        ((0, 1), [], "t_eval must be a list"),
        ((0, 1), [0.5, 1.1], r"t_eval must lie in t_span \(0, 1\)"),
        ((0, 1), [-0.1, 1.0], "t_eval must lie in t_span"),
        ((1, 0), [0.2, 0.5], "t_eval must be a list of depths in the order"),
        ((0, 1), [0.2, np.nan], "t_eval must be a list of finite numbers"),
        ((0, 1), "abc", "t_eval must be"),
        ((0, 0.5, 1), [0.2], "t_span must be .start, end. when t_eval is given"),
        ((0,), None, "t_span must be .start, end."),
        ((0, np.inf), None, "t_span must be a list of finite numbers"),
        ((0, "x"), None, "t_span must be numbers"),
        (1.0, None, "t_span must be a list"),
    ],
)
def test_bad_depths(span, t_eval, message):
    with pytest.raises(ValueError, match=message):
        snode.ode45(rotation, span, [1.0, 0.0], t_eval=t_eval)


# --- the interval ---------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "span", [(0.0, 1 / 3), (0.1, 0.7), (1e9, 1e9 + 1), (0, -np.pi), (-1e-9, 0)]
)
def test_the_end_is_exact_and_f_is_asked_inside_only(solver, span):
    f = Recorder(rotation)
    sol = solver(f, span, [1.0, 0.2], rtol=1e-7, atol=1e-9)
    assert sol.t[0] == span[0]
    assert sol.t[-1] == span[1]
    assert min(span) <= min(f.t)
    assert max(f.t) <= max(span)
    assert (np.diff(sol.t) * (span[1] - span[0]) > 0).all()
    assert sol.nfev == len(f.t)
    assert np.array_equal(sol.x[-1], sol.x_T)


@both
def test_rounding_never_asks_f_outside(solver):
    # t + (t1 - t) may lie beyond t1
    rng = np.random.default_rng(0)
    ends = rng.standard_normal((300, 2)) * 10 ** rng.uniform(-6, 0, (300, 2))
    assert sum(t0 + (t1 - t0) > t1 > t0 for t0, t1 in ends) > 10
    for t0, t1 in ends:
        f = Recorder(rotation)
        solver(f, (t0, t1), [1.0, 0.2], first_step=5.0, rtol=1.0, atol=1.0)  # in one step
        assert min(t0, t1) <= min(f.t)
        assert max(f.t) <= max(t0, t1)


@both
def test_no_sliver_before_the_end(solver):
    # a last step of rounding length would cost and help nothing
    for end in np.linspace(1, 2, 23):
        sol = solver(rotation, (0, end), [1.0, 0.0], max_step=0.1, first_step=0.1)
        assert np.diff(sol.t).min() >= 0.05 * (1 - 1e-9)


@both
@pytest.mark.parametrize("tol", [1e-4, 1e-8])
def test_forward_then_backward_is_the_identity(solver, tol):
    def f(t, x):  # not autonomous, not linear
        return np.stack([x[1], np.cos(2 * t) - np.sin(x[0])])

    there = solver(f, (0, 5), [1.0, 0.2], rtol=tol, atol=tol)
    back = solver(f, (5, 0), there.x_T, rtol=tol, atol=tol)
    assert back.x_T == pytest.approx([1.0, 0.2], abs=100 * tol)
    assert np.abs(there.x_T - [1.0, 0.2]).max() > 0.1  # it went somewhere


@both
def test_reversed_time_is_the_reflected_problem_bit_for_bit(solver):
    backward = solver(lambda t, x: np.cos(t) * x, (0, -2), [1.0], rtol=1e-6)
    forward = solver(lambda t, x: -np.cos(-t) * x, (0, 2), [1.0], rtol=1e-6)
    assert np.array_equal(backward.t, -forward.t)
    assert np.array_equal(backward.x, forward.x)


@both
def test_zero_interval(solver):
    sol = solver(rotation, (2, 2), [1.0, 0.5], dense_output=True, events=lambda t, x: x[0])
    assert sol.success
    assert np.array_equal(sol.t, [2.0])
    assert np.array_equal(sol.x, [[1.0, 0.5]])
    assert np.array_equal(sol(2.0), [1.0, 0.5])
    assert sol.n_accepted == sol.n_rejected == 0
    there = solver(rotation, (2, 2), [1.0, 0.5], t_eval=[2.0])
    assert np.array_equal(there.x, [[1.0, 0.5]])
    sol = solver(rotation, (2, 2), np.ones((2, 3)), batch="independent")
    assert np.array_equal(sol.x_T, np.ones((2, 3)))


# --- step lengths ---------------------------------------------------------------------------------


@both
def test_max_step_and_first_step(solver):
    sol = solver(rotation, (0, 5), [1.0, 0.0], max_step=0.2)
    assert np.diff(sol.t).max() <= 0.2 * (1 + 4 * EPS)
    assert np.diff(solver(rotation, (0, 5), [1.0, 0.0], rtol=1e-2).t).max() > 0.2
    sol = solver(rotation, (0, 5), [1.0, 0.0], first_step=1e-3)
    assert sol.t[1] == 1e-3
    # one evaluation less: nothing had to be found
    assert sol.nfev == 1 + (6 if solver is snode.ode45 else 3) * (sol.n_accepted + sol.n_rejected)
    assert solver(rotation, (0, 0.01), [1.0, 0.0], first_step=1.0).t.tolist() == [0.0, 0.01]


@both
@pytest.mark.parametrize("max_steps", [1, 7])
def test_max_steps(solver, max_steps):
    sol = solver(rotation, (0, 50), [1.0, 0.0], max_steps=max_steps, raise_on_failure=False)
    assert sol.status is Status.MAX_STEPS
    assert sol.n_accepted + sol.n_rejected == max_steps
    full = solver(rotation, (0, 50), [1.0, 0.0])
    need = full.n_accepted + full.n_rejected
    assert solver(rotation, (0, 50), [1.0, 0.0], max_steps=need).success
    assert not solver(
        rotation, (0, 50), [1.0, 0.0], max_steps=need - 1, raise_on_failure=False
    ).success


def test_more_steps_than_the_default_are_allowed_by_inf():
    options = {"rtol": 1e-3, "max_step": 1e-3}
    sol = snode.ode23(rotation, (0, 11), [1.0, 0.0], max_steps=np.inf, **options)
    assert sol.n_accepted >= 11_000
    sol = snode.ode23(rotation, (0, 11), [1.0, 0.0], raise_on_failure=False, **options)
    assert sol.status is Status.MAX_STEPS


@pytest.mark.parametrize("name", ["first_step", "max_step", "max_steps"])
@pytest.mark.parametrize("value", [0, -1.0, np.nan, "x"])
def test_bad_step_lengths(name, value):
    with pytest.raises(ValueError, match=f"{name} must be positive"):
        snode.ode45(rotation, (0, 1), [1.0, 0.0], **{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rtol": -1e-3}, "rtol must be 0, or finite and >= 2.2e-15"),
        ({"rtol": 1e-16}, "rtol must be 0, or finite and >= 2.2e-15"),
        ({"rtol": np.nan}, "rtol must be 0, or finite"),
        ({"rtol": "x"}, "rtol must be 0, or finite"),
        ({"atol": -1.0}, "atol must be finite and >= 0"),
        ({"atol": np.inf}, "atol must be finite and >= 0"),
        ({"atol": [1e-3]}, r"atol must be a number or an array \(2,\)"),
        ({"atol": [1e-3, np.nan]}, r"atol must be a number or an array \(2,\)"),
        ({"rtol": 0, "atol": 0}, "rtol and atol must not both be 0"),
        ({"rtol": 0, "atol": [0, 1.0]}, "atol must be positive where rtol is 0"),
        ({"batch": "alone"}, "batch must be one of 'shared', 'independent'; got 'alone'"),
        ({"first_step": np.inf}, "first_step must be finite"),
        ({"breakpoints": [np.nan]}, "breakpoints must be a list of finite numbers"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        snode.ode45(rotation, (0, 1), [1.0, 0.0], **options)


# --- breakpoints ----------------------------------------------------------------------------------

JUMPS = (0.3, 1.1, 1.7)
LEVELS = np.array([1.0, -40.0, 3.0, 1e3])


def levels(t, closed):
    """A step function that has the value of the piece to the left or right at its jumps."""
    side = "left" if closed == "t <= s" else "right"
    return LEVELS[np.searchsorted(JUMPS, t, side=side)]


def area(t):
    return sum(
        level * (min(max(t, a), b) - a)
        for level, a, b in zip(LEVELS, (0, *JUMPS), (*JUMPS, 2), strict=True)
    )


@both
@pytest.mark.parametrize("closed", ["t <= s", "t < s"])
def test_piecewise_constant_is_integrated_exactly(solver, closed):
    f = Recorder(lambda t, x: levels(t, closed) + 0 * x)
    sol = solver(f, (0, 2), [0.0], breakpoints=JUMPS, dense_output=True)
    assert set(JUMPS) <= set(sol.t)
    assert sol.n_rejected == 0
    for t in [*np.linspace(0, 2, 17), *JUMPS]:
        # sums of a few terms of size up to 1000
        assert sol(t)[0] == pytest.approx(area(t), abs=1e5 * EPS)
    other = "t < s" if closed == "t <= s" else "t <= s"
    twin = solver(lambda t, x: levels(t, other) + 0 * x, (0, 2), [0.0], breakpoints=JUMPS)
    assert np.array_equal(twin.t, sol.t)
    assert np.array_equal(twin.x, sol.x)
    # without them the jumps are found the hard way
    blind = solver(lambda t, x: levels(t, closed) + 0 * x, (0, 2), [0.0])
    assert blind.n_rejected > 3


@both
@pytest.mark.parametrize("closed", ["t <= s", "t < s"])
@pytest.mark.parametrize("span", [(0, 2), (2, 0), (0.3, 1.1), (1.1, 0.3), (0.3, 2), (1, 1.7)])
def test_the_conventions_at_a_jump_give_the_same_numbers(solver, closed, span):
    # a jump may be an end of the interval as well: it is approached from the inside
    def f(t, x):
        return np.cos(t) * x + levels(t, closed)

    def smooth_pieces(x):
        inner = [s for s in sorted(JUMPS) if min(span) < s < max(span)]
        ends = [min(span), *inner, max(span)][:: 1 if span[1] > span[0] else -1]
        for a, b in pairwise(ends):
            level = levels((a + b) / 2, closed)
            piece = solver(
                lambda t, x, level=level: np.cos(t) * x + level, (a, b), x, rtol=1e-8, atol=1e-8
            )
            x = piece.x_T
        return x

    sol = solver(f, span, [1.0], breakpoints=JUMPS, rtol=1e-8, atol=1e-8)
    other = "t < s" if closed == "t <= s" else "t <= s"
    twin = solver(
        lambda t, x: np.cos(t) * x + levels(t, other), span, [1.0],
        breakpoints=JUMPS, rtol=1e-8, atol=1e-8,
    )  # fmt: skip
    assert np.array_equal(sol.x, twin.x)
    # the steps differ, so the errors do: both are a few tolerances, and f goes up to 1000
    assert sol.x_T == pytest.approx(smooth_pieces(np.array([1.0])), rel=2e-6, abs=1e-6)


@both
@pytest.mark.parametrize("span", [(0, 2), (2, 0)])
def test_f_is_never_asked_on_the_wrong_side(solver, span):
    """The pieces are not defined beyond their ends; which one holds at the very end is open."""
    s, stage = 0.7, []

    def f(t, x):
        if t == s:
            raise AssertionError("asked on the jump itself, where f has two values")
        stage.append(t > s)
        return x if t < s else -x

    sol = solver(f, span, [1.0], breakpoints=[s], rtol=1e-6)
    assert s in sol.t
    # all of one side first, then all of the other: none is probed too early
    assert stage == sorted(stage, reverse=span[0] > span[1])
    growth = np.exp(0.7 - 1.3)
    assert sol.x_T[0] == pytest.approx(growth if span == (0, 2) else 1 / growth, rel=1e-5)


@both
def test_a_field_with_jumps_ends_on_one(solver, make_field):
    # the end of a part of the interval is a jump of the field: f there belongs to the next layer
    field = make_field(3, 4, scale=3.0)
    x0 = np.random.default_rng(1).standard_normal((3, 2))
    name, end = solver.__name__, float(field.grid[1])
    sol = snode.solve_direct(field, x0, method=name, t=(0, end), rtol=1e-8, atol=1e-8)
    W, b = field.W[0], field.b[0][:, None]
    piece = solver(lambda t, x: field.activation(W @ x + b), (0, end), x0, rtol=1e-8, atol=1e-8)
    assert sol.nfev == piece.nfev
    assert sol.x_T == pytest.approx(piece.x_T, rel=1e-10)


@both
def test_breakpoints_outside_do_nothing(solver):
    plain = solver(rotation, (0, 2), [1.0, 0.0])
    sol = solver(rotation, (0, 2), [1.0, 0.0], breakpoints=[-1.0, 2.5])
    assert np.array_equal(sol.t, plain.t)


# --- events ---------------------------------------------------------------------------------------


def parabola(t, x):
    """A throw: height 1 + 3 t - 5 t^2."""
    return np.array([x[1], -10.0])


HEIGHT = np.polynomial.Polynomial([1.0, 3.0, -5.0])
LANDING = (3 + np.sqrt(29)) / 10


@both
def test_a_terminal_event_on_a_parabola_is_exact(solver):
    # both methods are exact for it, and so is their dense output
    ground = Event(lambda t, x: x[0], terminal=True, direction=-1)
    sol = solver(parabola, (0, 5), [1.0, 3.0], events=ground, dense_output=True)
    assert sol.status is Status.EVENT
    assert sol.success
    assert "event 0" in sol.message
    assert sol.t[-1] == pytest.approx(LANDING, abs=1e-12)
    assert sol.t_events[0] == pytest.approx([LANDING], abs=1e-12)
    assert np.array_equal(sol.x_events[0][0], sol.x_T)
    assert np.array_equal(sol.x[-1], sol.x_T)
    assert sol.x_T == pytest.approx([0.0, 3 - 10 * LANDING], abs=1e-11)
    # the dense output of the cut step is that of the whole one
    t = np.linspace(0, sol.t[-1], 40)
    assert sol(t)[:, 0] == pytest.approx(HEIGHT(t), abs=1e-12)
    with pytest.raises(ValueError, match="t must be in"):
        sol(sol.t[-1] + 0.01)


@both
@pytest.mark.parametrize(("direction", "which"), [(0, (0, 1)), (1, (0,)), (-1, (1,))])
def test_directions_and_both_in_one_step(solver, direction, which):
    # the height passes 1.3 upwards and downwards within one long step
    times = np.sort((HEIGHT - 1.3).roots())
    event = Event(lambda t, x: x[0] - 1.3, direction=direction)
    free = solver(parabola, (0, 1), [1.0, 3.0], events=event, first_step=0.3, max_step=0.3)
    assert free.status is Status.SUCCESS
    assert free.t_events[0] == pytest.approx(times[list(which)], abs=1e-12)
    assert free.x_events[0][:, 0] == pytest.approx(1.3, abs=1e-12)
    assert free.x_events[0].shape == (len(which), 2)


@both
def test_direction_is_meant_along_the_integration(solver):
    # backwards in time the height falls through 1.3 where it rose
    times = np.sort((HEIGHT - 1.3).roots())
    x1 = [HEIGHT(1.0), -7.0]
    for direction, time in ((1, times[1]), (-1, times[0])):
        event = Event(lambda t, x: x[0] - 1.3, direction=direction)
        sol = solver(parabola, (1, 0), x1, events=event, first_step=0.3, max_step=0.3)
        assert sol.t_events[0] == pytest.approx([time], abs=1e-12)


@both
@pytest.mark.parametrize("span", [(0, 3), (3, 0)])
def test_several_events_in_one_step_come_in_order(solver, span):
    # x = t: three levels within one step, the second in order terminal
    events = [
        Event(lambda t, x: x[0] - 2.0),
        Event(lambda t, x: x[0] - 1.5, terminal=True),
        Event(lambda t, x: x[0] - 1.0),
    ]
    sol = solver(lambda t, x: [1.0], span, [span[0]], events=events, first_step=3.0)
    assert sol.n_accepted == 1
    assert sol.status is Status.EVENT
    assert sol.t[-1] == pytest.approx(1.5, abs=1e-14)
    first, never = (2, 0) if span == (0, 3) else (0, 2)
    assert sol.t_events[first] == pytest.approx([1.0 if first == 2 else 2.0], abs=1e-14)
    assert sol.t_events[never].shape == (0,)
    assert sol.x_events[never].shape == (0, 1)


@both
def test_events_on_the_end_point_and_at_the_start(solver):
    # x = t exactly: the zero is at T itself, counted once; the one at t0 is none
    sol = solver(lambda t, x: [1.0], (0, 1), [0.0], events=[
        Event(lambda t, x: t - 1.0, terminal=True), Event(lambda t, x: t)])  # fmt: skip
    assert sol.status is Status.EVENT
    assert sol.t_events[0].tolist() == [1.0]
    assert sol.t[-1] == 1.0
    assert len(sol.t_events[1]) == 0


@both
def test_an_event_on_a_node_is_found_once(solver):
    event = Event(lambda t, x: t - 0.5)
    sol = solver(lambda t, x: [1.0], (0, 1), [0.0], events=event, first_step=0.25, max_step=0.25)
    assert 0.5 in sol.t
    assert sol.t_events[0].tolist() == [0.5]


@both
def test_scipys_attributes(solver):
    def ground(t, x):
        return x[0]

    ground.terminal, ground.direction = True, -1

    def top(t, x):
        return x[1]

    sol = solver(parabola, (0, 5), [1.0, 3.0], events=[top, ground])
    assert sol.t_events[0] == pytest.approx([0.3], abs=1e-12)
    assert sol.t_events[1] == pytest.approx([LANDING], abs=1e-12)
    assert sol.status is Status.EVENT
    ground.direction = 1
    sol = solver(parabola, (0, 5), [1.0, 3.0], events=(ground,))
    assert sol.status is Status.SUCCESS


@both
def test_no_events_no_lists(solver):
    sol = solver(parabola, (0, 5), [1.0, 3.0])
    assert sol.t_events is None
    assert sol.x_events is None


@both
def test_t_eval_ends_at_a_terminal_event(solver):
    ground = Event(lambda t, x: x[0], terminal=True, direction=-1)
    t = np.linspace(0, 2, 21)
    sol = solver(parabola, (0, 2), [1.0, 3.0], events=ground, t_eval=t)
    assert np.array_equal(sol.t, t[t <= LANDING])
    assert sol.x[:, 0] == pytest.approx(HEIGHT(sol.t), abs=1e-12)
    assert sol.x_T == pytest.approx([0, 3 - 10 * LANDING], abs=1e-11)


@both
def test_events_of_batches(solver):
    # one number for the whole batch: when the first of them lands
    x0 = np.array([[1.0, 2.0], [3.0, 3.0]])
    ground = Event(lambda t, x: x[0].min(), terminal=True)
    sol = solver(parabola_batch, (0, 5), x0, events=ground)
    assert sol.t[-1] == pytest.approx(LANDING, abs=1e-12)
    assert sol.x_events[0].shape == (1, 2, 2)
    alone = solver(parabola_batch, (0, 5), x0, events=ground, batch="independent")
    assert alone.status is Status.EVENT
    ends = [column.t[-1] for column in alone.columns]
    assert ends == pytest.approx([LANDING, (3 + 7) / 10], abs=1e-12)


def parabola_batch(t, x):
    return np.stack([x[1], np.full_like(x[0], -10.0)])


@pytest.mark.parametrize(
    ("events", "error", "message"),
    [
        (3, TypeError, "events must be callables or Event; got int"),
        ([3], TypeError, "events must be callables or Event; got int"),
    ],
)
def test_bad_events(events, error, message):
    with pytest.raises(error, match=message):
        snode.ode45(rotation, (0, 1), [1.0, 0.0], events=events)
    with pytest.raises(TypeError, match="g must be callable"):
        Event(3)
    with pytest.raises(ValueError, match="direction must be -1, 0 or 1"):
        Event(rotation, direction=2)


# --- callback -------------------------------------------------------------------------------------


@both
def test_the_callback_sees_a_consistent_state(solver):
    seen, f = [], Recorder(rotation)

    def callback(state):
        seen.append((state.t, state.x.copy(), state.h, state.n_accepted))
        assert state.nfev == len(f.t)
        assert state.n_accepted == len(seen)

    sol = solver(f, (0, 5), [1.0, 0.0], callback=callback, rtol=1e-5)
    t, x, h, n = zip(*seen, strict=True)
    assert np.array_equal(t, sol.t[1:])
    assert np.array_equal(x, sol.x[1:])
    assert np.array_equal(h, np.diff(sol.t))
    assert n[-1] == sol.n_accepted
    backwards = []
    solver(rotation, (5, 0), [1.0, 0.0], callback=lambda state: backwards.append(state.h))
    assert min(map(abs, backwards)) > 0


@both
def test_the_callback_stops(solver):
    full = solver(rotation, (0, 5), [1.0, 0.0], dense_output=True)
    sol = solver(
        rotation, (0, 5), [1.0, 0.0], dense_output=True,
        callback=lambda state: state.n_accepted == 3,
    )  # fmt: skip
    assert sol.status is Status.STOPPED
    assert sol.success
    assert np.array_equal(sol.t, full.t[:4])
    assert np.array_equal(sol.x, full.x[:4])
    assert np.array_equal(sol.x_T, full.x[3])
    assert np.array_equal(sol(sol.t[-1] / 2), full(sol.t[-1] / 2))
    t = np.linspace(0, 5, 50)
    there = solver(
        rotation, (0, 5), [1.0, 0.0], t_eval=t, callback=lambda state: state.n_accepted == 3
    )
    assert np.array_equal(there.t, t[t <= full.t[3]])
    assert np.isfinite(there.x).all()


# --- states ---------------------------------------------------------------------------------------


@both
def test_lists_and_integers(solver):
    reference = solver(lambda t, x: np.array([x[1], -x[0]]), (0, 2), np.array([1.0, 2.0]))
    for x0 in ([1, 2], (1.0, 2.0), np.array([1, 2])):
        sol = solver(lambda t, x: [x[1], -x[0]], (0, 2), x0)
        assert sol.x_T.dtype == np.float64
        assert np.array_equal(sol.x, reference.x)
    assert solver(lambda t, x: -x[0], (0, 1), [1.0]).x_T.shape == (1,)  # a number for n = 1


@both
def test_vectors_and_single_columns_agree(solver):
    flat = solver(rotation, (0, 4), np.array([1.0, 0.3]), rtol=1e-6, dense_output=True)
    column = solver(rotation, (0, 4), np.array([[1.0], [0.3]]), rtol=1e-6, dense_output=True)
    assert column.x.shape == (*flat.x.shape, 1)
    # the sums of the norm may be rounded differently: known to eps / rtol
    assert column.t == pytest.approx(flat.t, rel=1e-8)
    assert column.x_T[:, 0] == pytest.approx(flat.x_T, rel=1e-9)
    assert column(2.0)[:, 0] == pytest.approx(flat(2.0), rel=1e-6)


@both
@pytest.mark.parametrize("shape", [(2,), (2, 3)])
def test_float32_stays_float32(solver, shape):
    seen = set()

    def f(t, x):
        seen.add(x.dtype)
        return rotation(t, x)

    x0 = np.ones(shape, np.float32)
    sol = solver(
        f, (0, 3), x0, rtol=1e-4, dense_output=True, t_eval=[0, 1.5, 3], events=lambda t, x: x.min()
    )
    assert seen == {np.dtype(np.float32)}
    assert sol.x.dtype == sol.x_T.dtype == sol(1.0).dtype == sol.x_events[0].dtype == np.float32
    assert sol.t.dtype == np.float64
    double = solver(rotation, (0, 3), np.ones(shape), rtol=1e-8, atol=1e-8)
    assert sol.x_T == pytest.approx(double.x_T, abs=2e-3)
    # f that computes in float64 does not turn it into float64
    sol = solver(lambda t, x: rotation(t, x) * np.float64(1), (0, 3), x0)
    assert sol.x_T.dtype == np.float32
    with pytest.raises(ValueError, match=r"rtol must be 0, or finite and >= 1\.2e-06"):
        solver(f, (0, 3), x0, rtol=1e-8)


@both
def test_arguments_are_not_changed_nor_kept(solver):
    x0 = np.array([1.0, 0.5])
    sol = solver(rotation, (0, 3), x0, dense_output=True)
    assert x0.tolist() == [1.0, 0.5]
    x0[:] = 9
    assert sol.x[0].tolist() == [1.0, 0.5]
    assert sol(0.0).tolist() == [1.0, 0.5]


@both
def test_f_may_return_the_same_array_again_and_again(solver):
    buffer = np.empty(2)

    def f(t, x):
        buffer[:] = x[1], -x[0]
        return buffer

    assert np.array_equal(solver(f, (0, 3), [1.0, 0.5]).x, solver(rotation, (0, 3), [1.0, 0.5]).x)


def test_representation():
    sol = snode.ode45(rotation, (0, 2), [1.0, 0.0], dense_output=True)
    assert repr(sol).startswith(f"OdeSolution(ode45, {sol.n_accepted} steps to T=2, n=2, ")
    assert repr(sol).endswith("dense output, SUCCESS)")


# --- scales ---------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("scale", [1e-300, 1e-12, 1e12, 1e300])
def test_any_unit_of_time(solver, scale):
    sol = solver(lambda t, x: -x / scale, (0, scale), [1.0], rtol=1e-8, atol=1e-10)
    assert sol.x_T == pytest.approx(np.exp(-1), rel=1e-6)


@both
@pytest.mark.parametrize("k", [4, 20, 200])
def test_faster_by_a_power_of_two_takes_the_same_steps(solver, k):
    # the first step is chosen in the time scale of the problem; all else is exact
    one = solver(rotation, (0, 5), [1.0, 0.2], rtol=1e-6)
    fast = solver(lambda t, x: 2.0**k * rotation(t, x), (0, 5 * 2.0**-k), [1.0, 0.2], rtol=1e-6)
    assert np.array_equal(fast.t * 2.0**k, one.t)
    assert np.array_equal(fast.x, one.x)


@both
@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300])
def test_any_unit_of_the_state(solver, scale):
    one = solver(rotation, (0, 3), [1.0, 0.5], rtol=1e-6, atol=1e-9)
    sol = solver(rotation, (0, 3), [scale, 0.5 * scale], rtol=1e-6, atol=1e-9 * scale)
    assert sol.x_T / scale == pytest.approx(one.x_T, rel=1e-6, abs=1e-6)


@both
@pytest.mark.parametrize(
    ("f", "x0", "exact"),
    [
        (lambda t, x: [-x[0], 0.0], [1.0, 0.0], [np.exp(-1), 0.0]),  # 0 stays 0
        (lambda t, x: [-x[0], x[0]], [1.0, 0.0], [np.exp(-1), 1 - np.exp(-1)]),  # 0 is left
        (lambda t, x: [x[1], -x[0]], [1.0, 0.0], [np.cos(1), -np.sin(1)]),
    ],
)
def test_relative_tolerance_alone(solver, f, x0, exact):
    # atol = 0: a component that is 0 has the weight 0 (a division by zero, once)
    sol = solver(f, (0, 1), x0, rtol=1e-6, atol=0)
    assert sol.x_T == pytest.approx(exact, rel=1e-5)


@both
def test_f_that_overflows_the_norm_at_the_start(solver):
    sol = solver(lambda t, x: -1e200 * x, (0, 1e-200), [1e100], rtol=1e-6, atol=1e-6)
    assert sol.x_T == pytest.approx(1e100 * np.exp(-1), rel=1e-4)
