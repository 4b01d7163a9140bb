"""Nonlinear conjugate gradients: rules, steps, safeguards, results.

The rules and the steps are recomputed from recorded gradients and directions; the safeguards are
provoked one by one with a scalar problem that follows the same protocol as a field.
"""

import math

import numpy as np
import pytest

import snode
from snode import CG_RULES, H1, L2, Cost, Euclidean, NonFiniteCostError, Status
from snode.training.costs import LineModel
from snode.training.gradients import Dots, FieldProblem
from snode.training.ncg import MAX_HALVINGS, Memory, minimize

pytestmark = pytest.mark.grid(3)

EPS = np.finfo(np.float64).eps
COST = Cost(l2=0.8, ce=0.5, output=0.1, decay=0.05, n_classes=3)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (4, 9)), np.arange(9) % 3


class Recording(FieldProblem):
    """A field problem that remembers every gradient, direction and base it went through."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.log = []

    def set_direction(self, beta):
        super().set_direction(beta)
        copies = ({k: v.copy() for k, v in a.items()} for a in (self.g, self.d))
        self.log.append((*copies, self.base))


# --- rules and steps from recorded gradients ------------------------------------------------------

# textbook formulas from g, g_old, d_old and an inner product
FORMULAS = {
    "FR": lambda dot, g, o, d: dot(g, g) / dot(o, o),
    "PR+": lambda dot, g, o, d: max(0.0, dot(g, minus(g, o)) / dot(o, o)),
    "FR-PR": lambda dot, g, o, d: min(
        max(dot(g, minus(g, o)) / dot(o, o), -dot(g, g) / dot(o, o)), dot(g, g) / dot(o, o)
    ),
    "HS": lambda dot, g, o, d: dot(g, minus(g, o)) / dot(d, minus(g, o)),
    "DY": lambda dot, g, o, d: dot(g, g) / dot(d, minus(g, o)),
    "SD": lambda dot, g, o, d: 0.0,
}


def minus(u, v):
    return {k: u[k] - v[k] for k in u}


def test_every_rule_has_a_formula_here():
    assert set(FORMULAS) == set(CG_RULES)


@pytest.mark.parametrize("inner", [L2(), H1(), Euclidean()], ids=repr)
@pytest.mark.parametrize("rule", CG_RULES)
def test_rules_and_directions(make_field, interpolation, batch, inner, rule):
    field = make_field(4, 6, interpolation=interpolation, scale=0.6)
    problem = Recording(field, *batch, COST, inner, keep_gradient=CG_RULES[rule].needs_previous)
    result = minimize(problem, rule=rule, n_iter=4)
    h, dot = result.history, inner.on(field).dot
    assert not h.restarted.any()  # so one record an iteration
    for j, (g, d, _) in enumerate(problem.log):
        beta = 0.0
        if j:
            g_old, d_old, _ = problem.log[j - 1]
            beta = FORMULAS[rule](dot, g, g_old, d_old)
        # differences of nearly equal numbers: eps * cond(Gram) * |g| |g_old| / |g_old|^2
        assert h.beta[j] == pytest.approx(beta, rel=1e-9, abs=1e-11)
        for name in d:
            expected = -g[name] + (h.beta[j] * problem.log[j - 1][1][name] if j else 0)
            assert d[name] == pytest.approx(expected, abs=1e-13 * np.abs(expected).max())
        assert h.grad_norm[j] == pytest.approx(inner.on(field).norm(g), rel=1e-11)
        size = inner.on(field).norm(g) * inner.on(field).norm(d)
        assert abs(h.slope[j] - dot(g, d)) <= 1e-12 * size


@pytest.mark.parametrize("inner", ["l2", "h1"])
def test_iterates_gradients_and_costs_are_what_they_say(make_field, interpolation, batch, inner):
    field = make_field(4, 6, interpolation=interpolation)
    problem = Recording(field, *batch, COST, inner)
    result = minimize(problem, n_iter=5)
    bases = [base for *_, base in problem.log] + [problem.base]
    for j, base in enumerate(bases):
        fun, g = snode.gradient(base, *batch, COST, inner=inner)
        assert result.history.cost[j] == pytest.approx(fun, rel=1e-14)
        if j < 5:
            recorded, d, _ = problem.log[j]
            step = result.history.step[j]
            for k in g:
                assert recorded[k] == pytest.approx(g[k], abs=1e-13)
                moved_to = base.parameters[k] + step * d[k]
                assert bases[j + 1].parameters[k] == pytest.approx(moved_to, abs=1e-14)


def test_step_is_the_root_of_phi(make_field, batch):
    x, y = batch
    field = make_field(4, 6)
    problem = Recording(field, x, y, COST)
    result = minimize(problem, n_iter=4)
    for j, (_, d, base) in enumerate(problem.log):
        step = result.history.step[j]
        sol = snode.solve_direct(base, x)
        xi_T = snode.solve_sensitivity(sol, dtheta=d)[-1]
        lam = COST.at(field, y).terminal(sol.x_T + step * xi_T)
        dot = L2().on(field).dot
        phi = np.sum(lam * xi_T) + COST.decay * (dot(base.parameters, d) + step * dot(d, d))
        assert abs(phi) <= 1e-11 * abs(result.history.slope[j])


@pytest.mark.parametrize("inner", [L2(), H1(), H1(0.2), Euclidean()], ids=repr)
def test_slope_is_the_derivative_along_the_direction(
    make_field, activation, interpolation, inner, batch, random_like
):
    # phi(0) = <E', d> to 1e-12, for any direction
    x, y = batch
    field = make_field(4, 6, activation=activation, interpolation=interpolation)
    problem = FieldProblem(field, x, y, COST, inner)
    problem.restore(d=random_like(field.parameters), g={})
    problem.direct()
    dots = problem.gradient()
    slope = problem.line().slope
    bound = inner.on(field)
    size = bound.norm(problem.g) * bound.norm(problem.d)
    assert abs(slope - bound.dot(problem.g, problem.d)) <= 1e-12 * size
    assert abs(slope - dots.gd) <= 1e-12 * size
    problem.set_direction(0.0)
    assert problem.line().slope == pytest.approx(-dots.gg, rel=1e-11)


# --- the history and the result -------------------------------------------------------------------


def test_history_and_counters(make_field, batch):
    result = snode.ncg(make_field(4, 6), *batch, COST, n_iter=7)
    h = result.history
    assert result.nit == 7
    assert h.cost.shape == (8,)
    for name in ("step", "beta", "slope", "grad_norm", "capped", "restarted", "halvings"):
        assert getattr(h, name).shape == (7,)
    assert (h.capped.dtype, h.restarted.dtype, h.halvings.dtype) == (bool, bool, np.int64)
    assert result.nfev == 1 + 7 + h.halvings.sum()
    assert result.status is Status.SUCCESS
    assert result.success
    assert h.beta[0] == 0.0
    assert result.fun == h.cost.min()
    assert "nit=7" in repr(result)


def test_safeguards_do_nothing_when_they_are_not_needed(make_field, batch):
    h = snode.ncg(make_field(4, 6, scale=0.3), *batch, Cost(n_classes=3), n_iter=6).history
    assert not h.capped.any()
    assert not h.restarted.any()
    assert not h.halvings.any()
    assert (np.diff(h.cost) < 0).all()


def test_best_iterate_is_returned_when_the_cost_rises(make_field):
    # a long step of a very nonlinear network overshoots; l2 alone is never capped
    rng = np.random.default_rng(0)
    x, y, found = rng.uniform(-1, 1, (3, 8)), np.arange(8) % 3, 0
    for seed in range(12):
        field = make_field(3, 6, T=3.0, activation="relu", seed=seed)
        result = snode.ncg(field, x, y, Cost(n_classes=3), n_iter=8)
        cost = result.history.cost
        best = Cost(n_classes=3).value(
            result.field, snode.solve_direct(result.field, x, keep="last").x_T, y
        )
        assert result.fun == cost.min()
        assert result.fun == pytest.approx(best, rel=1e-13)
        found += cost[-1] > cost.min()
    assert found >= 1  # else this test tests nothing


def test_converged_at_a_perfect_fit(make_field, batch):
    x, _ = batch
    field = make_field(4, 6)
    targets = snode.solve_direct(field, x).x_T
    for inner in ("l2", "h1"):
        result = minimize(FieldProblem(field, x, targets, Cost(), inner))
        assert result.status is Status.CONVERGED
        assert result.success
        assert (result.nit, result.fun, result.nfev) == (0, 0.0, 1)
        assert result.history.cost.tolist() == [0.0]
        assert result.history.step.shape == (0,)
        assert result.field is field


def test_repeats_are_bit_identical(make_field, batch):
    field = make_field(4, 6)
    one, two = (snode.ncg(field, *batch, COST, n_iter=6, threads=2) for _ in range(2))
    assert np.array_equal(one.field.W, two.field.W)
    assert np.array_equal(one.field.b, two.field.b)
    for name in ("cost", "step", "beta", "slope", "grad_norm"):
        assert np.array_equal(getattr(one.history, name), getattr(two.history, name))


@pytest.mark.parametrize("interpolation", ["constant", "cubic"])
def test_the_start_is_not_changed_and_nothing_is_shared(make_field, batch, interpolation):
    x, y = batch
    field = make_field(4, 6, interpolation=interpolation)
    before = [a.copy() for a in (field.W, field.b, x, y)]
    result = snode.ncg(field, x, y, COST, n_iter=3)
    assert all(np.array_equal(a, b) for a, b in zip((field.W, field.b, x, y), before, strict=True))
    for mine in (field.W, field.b, x):
        for theirs in (result.field.W, result.field.b):
            assert not np.shares_memory(mine, theirs)


def test_a_result_survives_later_runs(make_field, batch):
    first = snode.ncg(make_field(4, 6), *batch, COST, n_iter=3)
    kept = first.field.W.copy(), first.field.b.copy(), first.history.cost.copy()
    second = snode.ncg(first.field, *batch, COST, n_iter=3)
    snode.ncg(make_field(4, 6, seed=1), *batch, COST, n_iter=3)
    assert np.array_equal(first.field.W, kept[0])
    assert np.array_equal(first.field.b, kept[1])
    assert np.array_equal(first.history.cost, kept[2])
    assert not np.shares_memory(first.field.W, second.field.W)
    # the second run starts where the first ended
    assert second.history.cost[0] == pytest.approx(first.fun, rel=1e-14)


# --- callback -------------------------------------------------------------------------------------


def test_callback_sees_every_iteration(make_field, batch):
    states = []
    result = snode.ncg(make_field(4, 6), *batch, COST, n_iter=4, callback=states.append)
    assert [s.nit for s in states] == [1, 2, 3, 4]
    h = result.history
    for j, s in enumerate(states):
        assert (s.cost, s.step, s.beta) == (h.cost[j + 1], h.step[j], h.beta[j])
        assert (s.slope, s.grad_norm, s.capped) == (h.slope[j], h.grad_norm[j], h.capped[j])
    assert result.status is Status.SUCCESS


@pytest.mark.parametrize("yes", [True, np.True_, 1])
def test_callback_stops(make_field, batch, yes):
    field = make_field(4, 6)
    result = snode.ncg(field, *batch, COST, n_iter=50, callback=lambda s: s.nit == 3 and yes)
    assert result.nit == 3
    assert result.status is Status.STOPPED
    assert result.success
    short = snode.ncg(field, *batch, COST, n_iter=3)
    assert np.array_equal(result.field.W, short.field.W)


def test_an_error_in_the_callback_comes_through(make_field, batch):
    def fail(state):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        snode.ncg(make_field(4, 6), *batch, COST, callback=fail)


# --- cross entropy --------------------------------------------------------------------------------


def test_pure_cross_entropy_on_separable_data(make_field):
    # phi has no finite root along a separating direction: capped, and the cost falls every time
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(c, 0.3, (3, 15)) for c in (-1, 0, 1)], axis=1)
    y = np.repeat([0, 1, 2], 15)
    cost = Cost(l2=0, ce=1, n_classes=3)
    for rule in CG_RULES:
        result = snode.ncg(
            make_field(3, 10, activation="relu", scale=0.5), x, y, cost, rule=rule, n_iter=60
        )
        h = result.history
        assert h.capped.sum() >= 1
        assert (np.diff(h.cost)[h.capped] < 0).all()
        assert np.isfinite(h.cost).all()
        assert np.isfinite(result.field.W).all()
        assert result.fun < 0.1 * h.cost[0]
        assert snode.accuracy(result.field, x, y, n_classes=3) == 1.0


def test_dead_network_under_cross_entropy_and_decay(make_field, batch):
    # every slope is zero: xi = 0, only the decay moves the weights
    x, y = batch
    field = make_field(4, 6, activation="relu")
    field = field.with_parameters(b=np.full_like(field.b, -100.0))
    result = snode.ncg(field, x, y, Cost(l2=0, ce=1, decay=0.1, n_classes=3), n_iter=1)
    # a pure quadratic: one step of -phi(0) / (decay |d|^2) lands at zero weights
    assert result.nit == 1
    assert np.abs(result.field.W).max() <= 1e-13
    assert np.abs(result.field.b).max() <= 1e-12


# --- safeguards, one by one -----------------------------------------------------------------------


class Scalar:
    """The protocol on a function of one number; `curvature` is what the line model believes.

    A tuple of curvatures is used up one by one; the last one stays.
    """

    def __init__(self, function, derivative, start, curvature=1.0, ce_cap=None):
        self.function, self.derivative = function, derivative
        self.curvatures = list(curvature) if isinstance(curvature, tuple) else [curvature]
        self.ce_cap = ce_cap
        self.base = self.trial = self.best = start
        self.g = self.d = None

    def direct(self):
        return self.function(self.trial)

    def gradient(self):
        old, self.g = self.g, self.derivative(self.trial)
        return Dots(self.g**2, math.nan if old is None else self.g * old, self.g * (self.d or 0))

    def set_direction(self, beta):
        self.d = -self.g + (beta * self.d if beta else 0)

    def line(self):
        curvature = self.curvatures.pop(0) if len(self.curvatures) > 1 else self.curvatures[0]
        linear = curvature * self.d**2
        if self.ce_cap is None:
            return LineModel(self.g * self.d, linear, abs(self.d), 1.0)
        # a cross entropy without a root: one sample whose logits separate for ever; the weight
        # makes phi(0) = g d, and a move of 1 / ce_cap at step 1 puts the cap at ce_cap
        logits, dlogits = np.zeros((2, 1)), np.array([[1.0], [0.0]])
        weight = -2 * self.g * self.d
        return LineModel(0, 0, 1 / self.ce_cap, 1, weight, logits, dlogits, np.array([0]))

    def move(self, step):
        self.trial = self.base + step * self.d

    def accept(self, *, is_best):
        self.base = self.trial
        if is_best:
            self.best = self.trial


def test_a_step_to_an_infinite_cost_is_halved_until_it_falls():
    problem = Scalar(
        lambda x: (x - 1) ** 2 if abs(x) < 2 else math.inf, lambda x: 2 * (x - 1), 0.0, 1 / 16
    )
    result = minimize(problem, n_iter=1)
    # g = -2, step 16 moves to 32, halved to 16, 8, 4, 2 (infinite) and 1
    assert result.history.halvings.tolist() == [5]
    assert result.history.step.tolist() == [0.5]
    assert result.history.capped.tolist() == [True]
    assert (result.field, result.fun) == (1.0, 0.0)
    assert result.nfev == 1 + 6


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_no_step_lowers_the_cost(bad):
    problem = Scalar(lambda x: 1.0 if x == 0 else bad, lambda x: 1.0, 0.0)
    result = minimize(problem, n_iter=5)
    assert result.status is Status.NO_DESCENT
    assert not result.success
    assert (result.nit, result.fun, result.field) == (0, 1.0, 0.0)
    assert result.nfev == 2 + MAX_HALVINGS + 1  # start, tries, and back to the base
    assert problem.trial == problem.base == 0.0
    assert "no step lowers the cost" in result.message


def test_a_capped_step_must_lower_the_cost():
    # the model promises descent up to the cap at 8; the true cost has its minimum at 1
    problem = Scalar(lambda x: (x - 1) ** 2, lambda x: 2 * (x - 1), 0.0, ce_cap=8.0)
    result = minimize(problem, n_iter=1)
    # d = 2: steps 8, 4, 2, 1 reach 16, 8, 4, 2 (cost 1, not lower); 1/2 reaches 1
    assert result.history.halvings.tolist() == [4]
    assert result.history.capped.tolist() == [True]
    assert result.fun == 0.0


def test_a_capped_step_that_lowers_the_cost_is_taken_whole():
    problem = Scalar(lambda x: (x - 1) ** 2, lambda x: 2 * (x - 1), 0.0, ce_cap=0.25)
    result = minimize(problem, n_iter=1)
    assert result.history.halvings.tolist() == [0]
    assert result.history.capped.tolist() == [True]
    assert result.field == 0.5


def test_a_step_above_the_start_is_halved():
    # the model thinks the curvature is a fourth of what it is: from 1 to -3
    problem = Scalar(lambda x: x * x, lambda x: 2 * x, 1.0, curvature=0.5)
    h = minimize(problem, n_iter=1).history
    # steps 2, 1, 1/2 lead to -3, -1 (not lower) and 0
    assert h.halvings.tolist() == [2]
    assert h.capped.tolist() == [True]
    assert h.cost.tolist() == [1.0, 0.0]


OVERSHOOT = (4.0, 0.8)  # from 4 by a careful step to 2, then by a careless one to -3


def test_a_free_step_may_raise_the_cost_and_the_best_is_kept():
    problem = Scalar(lambda x: x * x, lambda x: 2 * x, 4.0, curvature=OVERSHOOT)
    result = minimize(problem, n_iter=2, rule="SD")
    assert result.history.cost.tolist() == [16.0, 4.0, 9.0]
    assert (result.field, result.fun) == (2.0, 4.0)
    assert problem.base == -3.0  # the iteration goes on from there
    assert result.history.capped.tolist() == [False, False]
    assert result.history.halvings.tolist() == [0, 0]


def test_a_direction_that_ascends_is_reset():
    # without conjugacy as above; then FR gives d = -g + 36/16 d_old = 6 - 9: uphill
    problem = Scalar(lambda x: x * x, lambda x: 2 * x, 2.0, curvature=(0.8, 2.0, 2.0))
    problem.function = lambda x: min(x * x, 4.0)  # the overshoot is no rise above the start
    h = minimize(problem, n_iter=2, rule="FR").history
    assert h.restarted.tolist() == [False, True]
    assert h.beta.tolist() == [0.0, 0.0]
    assert h.slope.tolist() == [-16.0, -36.0]  # -g^2 at 2 and at -3


def test_a_failing_direction_is_reset_once_before_giving_up():
    # along d = -g + beta d_old everything is infinite; along -g it is not
    class Picky(Scalar):
        def direct(self):
            bad = self.d is not None and self.d != -self.g and self.trial != self.base
            return math.inf if bad else super().direct()

    problem = Picky(lambda x: x * x, lambda x: 2 * x, 1.0, curvature=4.0)
    result = minimize(problem, n_iter=3, rule="FR")
    h = result.history
    assert h.restarted.tolist() == [False, True, True]
    assert h.beta.tolist() == [0.0, 0.0, 0.0]
    assert (np.diff(h.cost) < 0).all()
    assert result.status is Status.SUCCESS


def test_conjugacy_of_the_first_iteration_comes_from_the_memory():
    def run(memory):
        problem = Scalar(lambda x: x * x, lambda x: 2 * x, 1.0, curvature=4.0)
        problem.d = -1.0
        return minimize(problem, n_iter=1, memory=memory).history

    assert run(None).beta.tolist() == [0.0]
    assert run(Memory(gg_old=8.0, gd_old=-1.0)).beta.tolist() == [0.5]  # FR: 4 / 8


@pytest.mark.parametrize("rule", ["HS", "DY"])
def test_a_vanishing_denominator_means_steepest_descent(rule):
    # <g, d_old> = <g_old, d_old>
    problem = Scalar(lambda x: x * x, lambda x: 2 * x, 1.0, curvature=4.0)
    problem.g, problem.d = 1.0, -1.0
    history = minimize(problem, rule=rule, n_iter=1, memory=Memory(1.0, -2.0)).history
    assert history.beta.tolist() == [0.0]


def test_a_gradient_that_is_not_finite_ends_the_run():
    problem = Scalar(lambda x: x * x, lambda x: math.inf, 1.0)
    result = minimize(problem, n_iter=3)
    assert result.status is Status.NO_DESCENT
    assert (result.nit, result.fun) == (0, 1.0)


def test_a_line_that_is_not_finite_ends_the_run():
    problem = Scalar(lambda x: x * x, lambda x: 2 * x, 1.0, curvature=4.0)
    problem.line = lambda: LineModel(math.nan, 1.0, 1.0, 1.0)
    problem.d = -1.0
    result = minimize(problem, n_iter=3, memory=Memory(1.0, -1.0))
    assert result.status is Status.NO_DESCENT
    assert (result.nit, result.fun) == (0, 1.0)


def test_a_step_of_a_field_to_overflow_is_cut():
    # x' = W x with a distant target: the linear step overflows (1 + h W)^100
    field = snode.StandaloneField(
        np.full((100, 1, 1), 0.1), np.zeros((100, 1)), 10.0, activation="identity"
    )
    x, y = np.ones((1, 2)), np.full((1, 2), 1e6)
    result = snode.ncg(field, x, y, Cost(), n_iter=1)
    assert result.history.capped.tolist() == [True]
    assert result.history.halvings[0] >= 1
    assert result.fun < result.history.cost[0]
    assert np.isfinite(result.field.W).all()


def test_a_step_far_beyond_the_linearisation_does_not_end_the_run():
    # as above with a nearer target: the linear step leads from 5e5 to 3e111, which is finite
    field = snode.StandaloneField(
        np.full((100, 1, 1), 0.1), np.zeros((100, 1)), 10.0, activation="identity"
    )
    x, y = np.ones((1, 2)), np.full((1, 2), 1e3)
    result = snode.ncg(field, x, y, Cost(), n_iter=10)
    assert result.fun < result.history.cost[0]


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"rule": "CG"},
            ValueError,
            "rule must be one of 'FR', 'PR\\+', 'FR-PR', 'HS', 'DY', 'SD'",
        ),
        ({"inner": "h2"}, ValueError, "inner must be one of 'l2', 'h1', 'euclidean'"),
        ({"inner": None}, TypeError, "inner must be"),
        ({"n_iter": 0}, ValueError, "n_iter must be a positive integer; got 0"),
        ({"n_iter": 1.5}, ValueError, r"n_iter must be a positive integer; got 1\.5"),
        ({"threads": 0}, ValueError, "threads must be an integer in 1..4096, or None; got 0"),
        ({"threads": -2}, ValueError, "threads must be an integer in 1..4096, or None"),
        ({"threads": 1.5}, ValueError, "threads must be an integer in 1..4096, or None"),
    ],
)
def test_options_are_checked(make_field, batch, options, error, message):
    with pytest.raises(error, match=message):
        snode.ncg(make_field(4, 6), *batch, COST, **options)


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (np.ones((9, 4)), np.zeros(9, int), ValueError, "did you mean x.T"),
        (np.ones((4, 9)).tolist(), np.zeros(9, int), TypeError, "x must be"),
        (np.ones((4, 9), np.float32), np.zeros(9, int), ValueError, "x is float32 but the field"),
        (np.full((4, 9), np.inf), np.zeros(9, int), ValueError, "x must be finite"),
        (np.ones((4, 9)), np.zeros(8, int), ValueError, "y must have one entry per column"),
        (np.ones((4, 9)), [0] * 9, TypeError, "y must be labels .* got list"),
        (np.ones((4, 9)), np.full(9, 3), ValueError, r"y must hold labels 0\.\.2"),
        (np.ones((4, 9)), np.ones((4, 9)), ValueError, "y must be integer labels .* when ce > 0"),
    ],
)
def test_data_are_checked(make_field, x, y, error, message):
    with pytest.raises(error, match=message):
        snode.ncg(make_field(4, 6), x, y, COST)


def test_default_cost_asks_for_ten_classes(make_field, batch):
    with pytest.raises(ValueError, match="n_classes must be at most the state dimension 4; got 10"):
        snode.ncg(make_field(4, 6), *batch)


@pytest.mark.parametrize("activation", ["relu", "softplus"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_start_that_is_not_finite_is_an_error(make_field, batch, activation, dtype):
    x, y = batch
    field = make_field(4, 20, activation=activation, scale=1e30, dtype=dtype)
    with pytest.raises(NonFiniteCostError, match=r"the cost is (inf|nan)"):
        snode.ncg(field, x.astype(dtype), y, COST)


def test_overflow_in_worker_threads_is_as_silent_as_in_one(make_field):
    field = make_field(4, 20, activation="relu", scale=1e30, dtype=np.float32)
    x, y = np.ones((4, 64), np.float32), np.arange(64) % 3
    with pytest.raises(NonFiniteCostError):
        snode.ncg(field, x, y, COST, threads=2)


def test_targets_that_are_not_finite_are_an_error(make_field, batch):
    with pytest.raises((ValueError, NonFiniteCostError)):
        snode.ncg(make_field(4, 6), batch[0], np.full((4, 9), np.nan), Cost())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n_iter": True}, ValueError, "n_iter must be a positive integer; got True"),
        ({"n_iter": "abc"}, ValueError, "n_iter must be a positive integer; got 'abc'"),
        ({"n_iter": None}, ValueError, "n_iter must be a positive integer; got None"),
        ({"n_iter": math.inf}, ValueError, "n_iter must be a positive integer; got inf"),
        ({"callback": 5}, TypeError, "callback must be a function of one argument or None; got 5"),
    ],
)
def test_options_of_a_wrong_kind(change, error, message):
    field = snode.StandaloneField.random(2, 1.0, 3, rng=0)
    with pytest.raises(error, match=message):
        snode.ncg(field, np.ones((2, 4)), np.array([0, 1, 0, 1]), snode.Cost(n_classes=2), **change)
