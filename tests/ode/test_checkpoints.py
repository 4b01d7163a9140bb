"""Checkpoints: the same gradient to the last bit, from fewer states and one more forward solve."""

import gc
import tracemalloc
import weakref
from math import ceil

import numpy as np
import pytest
from textbook import FIELDS, FROZEN, direction, make, states

import snode
from snode import TABLEAUS
from snode.ode.problems import METHODS

pytestmark = pytest.mark.grid(5)

N = 23  # steps of the fixed methods below: a prime number, so that nothing divides evenly
COUNTS = (1, 2, 5, N, N + 1, 1000, "auto")


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


def solve(field, method, **options):
    x0 = states()
    if method in FROZEN:
        options = {"rtol": 1e-7, "atol": 1e-9, "t": (0.0, 1.5)} | options
        return snode.solve_direct(field, x0, method=method, **options)
    t = np.linspace(0, 1.5, N + 1)
    if isinstance(field, snode.StandaloneField) and field.breakpoints:
        t = np.sort(np.concatenate([t, field.breakpoints]))[[*range(N), -1]]
    return snode.solve_direct(field, x0, method=method, t=t, **options)


# --- the numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FIELDS)
@pytest.mark.parametrize("count", COUNTS)
def test_the_gradient_is_the_stored_one_to_the_last_bit(kind, method, count):
    # the same operations on the same numbers in the same order
    field, lam_T = make(kind), states(seed=1)
    stored, sol = solve(field, method), solve(field, method, checkpoints=count)
    assert np.array_equal(sol.x_T, stored.x_T)
    a, b = snode.solve_adjoint(stored, lam_T), snode.solve_adjoint(sol, lam_T)
    assert np.array_equal(b.lam, a.lam[[0, -1]])
    assert np.array_equal(b.t, a.t[[0, -1]])
    for name in a.partials:
        assert np.array_equal(a.partials[name], b.partials[name])
    assert a.nvjp == b.nvjp
    assert a.end_time == b.end_time
    options = {"dx0": states(seed=2), "dtheta": direction(field), "dT": 0.3}
    xi = snode.solve_sensitivity(sol, **options)
    assert np.array_equal(xi, snode.solve_sensitivity(stored, **options)[[0, -1]])


@pytest.mark.parametrize("count", [1, 3, "auto"])
def test_independent_columns(count):
    field, lam_T = make("linear"), states(seed=1)
    stored = solve(field, "ode45", batch="independent")
    sol = solve(field, "ode45", batch="independent", checkpoints=count)
    a, b = snode.solve_adjoint(stored, lam_T), snode.solve_adjoint(sol, lam_T)
    assert np.array_equal(a.lam, b.lam)
    assert all(np.array_equal(a.partials[name], b.partials[name]) for name in a.partials)
    assert b.n_linearized == 6 * sol.n_accepted


@pytest.mark.parametrize("t", [(1.5, 0.0), (1.2, 0.3)])
def test_backwards_in_time(method, t):
    field, lam_T = make("cubic"), states(seed=1)
    options = {} if method in FROZEN else {"t": np.linspace(*t, 12)}
    if method in FROZEN:
        options = {"t": t}
    stored, sol = (
        snode.solve_direct(field, states(), method=method, checkpoints=c, **options)
        for c in (None, 3)
    )
    a, b = snode.solve_adjoint(stored, lam_T), snode.solve_adjoint(sol, lam_T)
    assert np.array_equal(a.lam[[0, -1]], b.lam)


# --- what is kept, what is made again -------------------------------------------------------------


@pytest.mark.parametrize("count", COUNTS)
def test_states_are_kept_evenly_and_no_more_than_asked_for(method, count):
    sol = solve(make("cubic"), method, checkpoints=count)
    steps = len(sol.steps.t) - 1
    index = [c.index for c in sol.steps.checkpoints]
    stride = index[1] if len(index) > 1 else 1 << (steps - 1).bit_length()
    assert index == list(range(0, steps, stride))  # the last node is never kept: x_T is known
    if count != "auto":
        assert len(index) <= count
        assert 2 * len(index) > min(count, steps - 1) or count == 1  # no fewer than half
    assert sol.x is None
    assert sol.steps.x is None
    assert sol.linearizations is None
    stored = solve(make("cubic"), method)
    for c in sol.steps.checkpoints:
        assert np.array_equal(c.x, stored.x[c.index])
    assert f"{len(index)} checkpoints" in repr(sol)


@pytest.mark.parametrize("name", TABLEAUS)
@pytest.mark.parametrize("steps", [1, 2, 10, 400, 2000])
def test_auto_balances_states_and_linearisations(name, steps):
    # c states and N / c steps of p = 2 s states: least, 2 (p N)^(1/2), for c = (p N)^(1/2)
    field = snode.FunctionField(lambda t, x: -x, 1, linearization="central differences", T=1.0)
    t = np.linspace(0, 1, steps + 1)
    sol = snode.solve_direct(field, np.ones((1, 1)), method=name, t=t, checkpoints="auto")
    per_step = 2 * TABLEAUS[name].active_stages
    index = [c.index for c in sol.steps.checkpoints]
    longest = max(np.diff([*index, steps]))
    least = 2 * np.sqrt(per_step * steps)
    # doubling the stride misses the best one by a factor of at most 2: (2 + 1/2) / 2 = 1.25 of it
    assert len(index) + per_step * longest <= 1.25 * least + per_step + 1
    # the shortest stride at which the states take no more than the linearisations of a stride
    assert len(index) <= per_step * longest
    if longest > 1 and len(index) > 1:
        assert ceil(steps / (longest / 2)) > per_step * longest / 2


@pytest.mark.parametrize("count", [1, 4, "auto"])
@pytest.mark.parametrize("keep", ["checkpoints", "trajectory", "all"])
def test_the_price_is_one_more_forward_solve(method, count, keep):
    counted = Counted(make("cubic"))
    options = {"checkpoints": count} if keep == "checkpoints" else {"keep": keep}
    sol = solve(counted, method, **options)
    stages = TABLEAUS[FROZEN.get(method, method)].active_stages
    steps = sol.n_accepted
    again = 0 if keep == "all" else steps * stages
    assert (counted.linearized > 0) == (keep == "all")
    counted.linearized = counted.pulled = 0
    adjoint = snode.solve_adjoint(sol, states(seed=1))
    assert adjoint.n_linearized == counted.linearized == again
    assert adjoint.nvjp == counted.pulled == steps * stages
    assert again <= sol.nfev  # so about one forward solve, less what was rejected
    counted.linearized = 0
    snode.solve_sensitivity(sol, dx0=states(seed=2))
    assert counted.linearized == again


class Counted:
    """A field that counts what is asked of it."""

    def __init__(self, field):
        self.field, self.linearized, self.pulled = field, 0, 0

    def __getattr__(self, name):
        return getattr(self.field, name)

    def __call__(self, t, x):
        return self.field(t, x)

    def linearize(self, t, x):
        self.linearized += 1
        value, lin = self.field.linearize(t, x)
        return value, CountedLinearization(self, lin)


class CountedLinearization:
    def __init__(self, owner, lin):
        self.owner, self.lin = owner, lin
        self.jvp = lin.jvp

    def vjp(self, *arguments, **options):
        self.owner.pulled += 1
        return self.lin.vjp(*arguments, **options)


# --- memory ---------------------------------------------------------------------------------------


def peak(work):
    """Return the largest number of bytes that `work` held at once, and its result."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    result = work()
    largest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return largest - before, result


@pytest.mark.slow
@pytest.mark.parametrize("method", ["euler", "rk4"])
def test_peak_memory(method):
    n = m = 64
    steps, state = 400, 8 * n * m
    field = snode.StandaloneField.random(n, 1.0, 4, rng=0)  # piecewise constant: W is never copied
    x0 = np.random.default_rng(0).standard_normal((n, m))
    lam_T, t = np.ones((n, m)), np.linspace(0, 1, steps + 1)

    def gradient(checkpoints):
        sol = snode.solve_direct(field, x0, method=method, t=t, checkpoints=checkpoints)
        adjoint = snode.solve_adjoint(sol, lam_T)
        count = None if sol.steps.checkpoints is None else len(sol.steps.checkpoints)
        return adjoint.partials["W"], count

    gradient("auto")  # caches of numbers are filled
    stored, (expected, _) = peak(lambda: gradient(None))
    made = {c: peak(lambda c=c: gradient(c)) for c in ("auto", 2, 10, 100)}
    stages = TABLEAUS[method].active_stages
    # a linearisation keeps x and sigma'(a); Euler's x is the state itself where that is stored
    one_step = 2 * stages * state
    # K of the stages, what is pulled back, lam and the temporaries of one product, the gradient
    buffers = (2 * stages + 8) * state
    assert stored >= steps * (one_step if stages > 1 else 2 * state)
    for bytes_, (partials, count) in made.values():
        assert np.array_equal(partials, expected)
        longest = ceil(steps / count)
        planned = count * state + longest * one_step + buffers
        assert bytes_ <= 1.25 * planned, (bytes_ / state, planned / state)
    assert made["auto"][0] <= stored / 8
    assert made["auto"][0] <= min(bytes_ for bytes_, _ in made.values()) * 1.25


def test_memory_of_a_sensitivity_from_checkpoints():
    n = m = 64
    field = snode.StandaloneField.random(n, 1.0, 4, rng=0)
    x0, t = np.random.default_rng(0).standard_normal((n, m)), np.linspace(0, 1, 401)
    d = {"b": np.ones_like(field.b)}
    sol = snode.solve_direct(field, x0, method="heun", t=t, checkpoints="auto")
    bytes_, xi = peak(lambda: snode.solve_sensitivity(sol, dtheta=d))
    assert xi.shape == (2, n, m)
    count = len(sol.steps.checkpoints)
    assert bytes_ <= 1.5 * (ceil(400 / count) * 4 + 12) * 8 * n * m


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, -1, 2.0, True, "all", "Auto", [3]], ids=repr)
@pytest.mark.parametrize("method", ["euler", "ode45"])
def test_wrong_counts_are_named(count, method):
    with pytest.raises(ValueError, match="checkpoints must be None, a positive integer or 'auto'"):
        solve(make("cubic"), method, checkpoints=count)


def test_numpy_integers_will_do():
    assert len(solve(make("cubic"), "rk4", checkpoints=np.int64(3)).steps.checkpoints) <= 3


@pytest.mark.parametrize("method", ["euler", "ode45"])
def test_dense_output_keeps_everything_anyway(method):
    with pytest.raises(ValueError, match="leave out checkpoints"):
        solve(make("cubic"), method, checkpoints=3, dense_output=True)


def test_a_checkpointed_solution_has_no_continuous_mode():
    sol = solve(make("cubic"), "ode45", checkpoints=3)
    for work in (
        lambda: snode.solve_sensitivity(sol, mode="continuous"),
        lambda: snode.solve_adjoint(sol, states(), mode="continuous"),
    ):
        with pytest.raises(ValueError, match="sol must have dense output for mode='continuous'"):
            work()


def test_the_kept_states_are_copies():
    field, x0 = make("cubic"), states()
    sol = snode.solve_direct(field, x0, method="rk4", checkpoints=2)
    expected = snode.solve_adjoint(sol, states(seed=1)).lam[0]
    x0 += 1.0
    assert np.array_equal(snode.solve_adjoint(sol, states(seed=1)).lam[0], expected)


@pytest.mark.parametrize("options", [{"method": "rk4"}, {"method": "ode45"}, {"checkpoints": 3}])
def test_a_solution_that_is_dropped_is_freed_at_once(make_field, options):
    """No reference cycle: large trajectories must not wait for the garbage collector."""
    field = make_field(3, 20, interpolation="cubic")

    class Marked:
        def __init__(self, field):
            self.n, self.parameters, self.breakpoints = field.n, field.parameters, ()
            self.grid, self.field, self.made = field.grid, field, []

        def __call__(self, t, x):
            return self.field(t, x)

        def linearize(self, t, x):
            value, lin = self.field.linearize(t, x)
            marked = type("Lin", (), {"jvp": lin.jvp, "vjp": lin.vjp})()
            self.made.append(weakref.ref(marked))
            return value, marked

    marked = Marked(field)
    gc.collect()
    gc.disable()
    try:
        sol = snode.solve_direct(marked, np.ones((3, 2)), **options)
        snode.solve_sensitivity(sol, dx0=np.ones((3, 2)))
        adjoint = snode.solve_adjoint(sol, np.ones((3, 2)))
        assert marked.made
        del sol, adjoint
        alive = sum(ref() is not None for ref in marked.made)
    finally:
        gc.enable()
    assert alive == 0
