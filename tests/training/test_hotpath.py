"""The CPU hot path equals the generic problem to rounding, for everything it can be asked."""

import itertools

import numpy as np
import pytest

import snode
from snode import CG_RULES, H1, L2, Cost, Euclidean
from snode.training import hotpath
from snode.training.costs import LineModel
from snode.training.gradients import FieldProblem
from snode.training.hotpath import EulerProblem, Workspace
from snode.training.ncg import minimize

pytestmark = pytest.mark.grid(5)

EPS = np.finfo(np.float64).eps
FAMILIES = ["relu", "leaky_relu", "tanh", "softplus"]  # two kernels, tanh, and the general one
INNERS = [L2(), H1(0.7), Euclidean()]
COSTS = [
    Cost(n_classes=3),
    Cost(l2=0, ce=1, n_classes=3),
    Cost(l2=0.8, ce=0.5, output=0.1, decay=0.05, n_classes=3),
]
THREADS = [1, 2, 3]
SAMPLES_PER_THREAD, COLUMNS_PER_BLOCK = 16, 100
HISTORY = ("cost", "step", "beta", "slope", "grad_norm")


@pytest.fixture(autouse=True)
def many_small_shares(monkeypatch):
    """Make small problems go the ways of large ones: split samples, shared vector operations."""
    monkeypatch.setattr(hotpath, "MIN_SAMPLES_PER_THREAD", SAMPLES_PER_THREAD)
    monkeypatch.setattr(hotpath, "MIN_ENTRIES_TO_SHARE", 8)
    monkeypatch.setattr(hotpath, "MIN_WORK_PER_THREAD", 1)
    monkeypatch.setattr(hotpath, "MIN_WIDTH", 9)
    monkeypatch.setattr(hotpath, "COLUMNS_PER_BLOCK", COLUMNS_PER_BLOCK)


def data(m, n=4, dtype=np.float64):
    rng = np.random.default_rng(m)
    return rng.uniform(-1, 1, (n, m)).astype(dtype), np.arange(m) % 3


def close(a, b, factor):
    return np.abs(a - b).max() <= factor * EPS * max(np.abs(b).max(), 1e-300)


def assert_same_run(field, x, y, cost, inner, rule, threads, n_iter=3):
    keep = CG_RULES[rule].needs_previous
    hot = EulerProblem(field, x, y, cost, inner, keep_gradient=keep, threads=threads)
    slow = FieldProblem(field, x, y, cost, inner, keep_gradient=keep)
    runs = [minimize(problem, rule=rule, n_iter=n_iter) for problem in (hot, slow)]
    # rounding of the first iteration, amplified by a few hundred in each further one
    for name in HISTORY:
        mine, theirs = (getattr(run.history, name) for run in runs)
        scale = np.abs(theirs).max()
        assert np.abs(mine - theirs).max() <= 1e-9 * max(scale, 1e-12), name
    for name in ("capped", "restarted", "halvings"):
        assert np.array_equal(*(getattr(run.history, name) for run in runs)), name
    for name in "Wb":
        assert close(*(run.field.parameters[name] for run in runs), factor=1e7)
    assert runs[0].status is runs[1].status
    assert runs[0].nfev == runs[1].nfev


# --- one iteration, to rounding -------------------------------------------------------------------


@pytest.mark.parametrize("cost", COSTS, ids=["l2", "ce", "all"])
@pytest.mark.parametrize("inner", INNERS, ids=repr)
def test_every_quantity_of_one_iteration(
    make_field, activation, interpolation, inner, cost, random_like
):
    field = make_field(4, 6, activation=activation, interpolation=interpolation)
    x, y = data(50)
    d, g = random_like(field.parameters, 1), random_like(field.parameters, 2)
    seen = []
    for make in (
        lambda: EulerProblem(field, x, y, cost, inner, keep_gradient=True, threads=2),
        lambda: FieldProblem(field, x, y, cost, inner, keep_gradient=True),
    ):
        problem = make()
        problem.restore({k: v.copy() for k, v in d.items()}, {k: v.copy() for k, v in g.items()})
        fun, dots, line = problem.direct(), problem.gradient(), problem.line()
        gradient = {k: v.copy() for k, v in problem.g.items()}
        problem.set_direction(0.3)
        direction = {k: v.copy() for k, v in problem.d.items()}
        problem.move(0.01)
        moved = {k: v.copy() for k, v in problem.trial.parameters.items()}
        seen.append((fun, dots, line, gradient, direction, moved, problem.direct()))
    hot, slow = seen
    assert hot[0] == pytest.approx(slow[0], rel=100 * EPS)
    assert hot[6] == pytest.approx(slow[6], rel=100 * EPS)
    for hot_arrays, slow_arrays in zip(hot[3:6], slow[3:6], strict=True):
        for k in hot_arrays:
            assert close(hot_arrays[k], slow_arrays[k], factor=2000)
    # sums of products of both signs: rounding relative to the norms
    bound = inner.on(field)
    norm_g = slow[1].gg ** 0.5
    for name, other in (("gg", slow[3]), ("g_old", g), ("gd", d)):
        difference = abs(getattr(hot[1], name) - getattr(slow[1], name))
        assert difference <= 1e-13 * norm_g * bound.norm(other)
    for name in ("constant", "linear", "move", "scale"):
        mine, theirs = getattr(hot[2], name), getattr(slow[2], name)
        assert mine == pytest.approx(theirs, rel=1e-12, abs=1e-13 * norm_g * bound.norm(d))


@pytest.mark.parametrize("cost", COSTS, ids=["l2", "ce", "all"])
@pytest.mark.parametrize("inner", INNERS, ids=repr)
def test_float32_is_as_exact_as_on_the_plain_path(
    make_field, activation, interpolation, inner, cost, random_like
):
    # both against float64: the hot path may round elsewhere, but not more
    narrow = make_field(4, 6, activation=activation, interpolation=interpolation, dtype=np.float32)
    wide = narrow.with_parameters(W=narrow.W.astype(float), b=narrow.b.astype(float))
    x, y = data(50, dtype=np.float32)
    d = random_like(narrow.parameters, 1)
    gradients, values = [], []
    for make, field, dtype in (
        (EulerProblem, narrow, np.float32),
        (FieldProblem, narrow, np.float32),
        (FieldProblem, wide, np.float64),
    ):
        problem = make(field, x.astype(dtype), y, cost, inner)
        problem.restore({k: v.astype(dtype) for k, v in d.items()}, {})
        values.append([problem.direct(), problem.gradient().gg, problem.line().slope])
        gradients.append({k: v.astype(float) for k, v in problem.g.items()})
    bound = inner.on(wide)
    size = bound.norm(gradients[2])
    hot, plain = (
        bound.norm({k: g[k] - exact for k, exact in gradients[2].items()}) / size
        for g in gradients[:2]
    )
    eps = float(np.finfo(np.float32).eps)
    assert hot <= 4 * plain + 4 * eps
    scale = np.array([values[2][0], size**2, size * bound.norm(d)])
    errors = np.abs(np.array(values[:2]) - values[2]) / scale
    assert (errors[0] <= 4 * errors[1] + 40 * eps).all()


@pytest.mark.parametrize("inner", INNERS, ids=repr)
def test_slope_is_the_derivative_along_any_direction(
    make_field, activation, interpolation, inner, random_like
):
    # phi(0) = <E', d>, in the hot path too
    field = make_field(4, 6, activation=activation, interpolation=interpolation)
    x, y = data(50)
    problem = EulerProblem(field, x, y, COSTS[2], inner, threads=2)
    problem.restore(random_like(field.parameters), {})
    problem.direct()
    dots = problem.gradient()
    slope = problem.line().slope
    bound = inner.on(field)
    size = bound.norm(problem.g) * bound.norm(problem.d)
    assert abs(slope - bound.dot(problem.g, problem.d)) <= 1e-12 * size
    assert abs(slope - dots.gd) <= 1e-12 * size
    problem.set_direction(0.0)
    assert problem.line().slope == pytest.approx(-dots.gg, rel=1e-11)


# --- runs -----------------------------------------------------------------------------------------

REST = list(itertools.product(CG_RULES, COSTS, THREADS))


@pytest.mark.parametrize("inner", INNERS, ids=repr)
@pytest.mark.parametrize("family", FAMILIES)
def test_runs_agree(make_field, family, interpolation, inner):
    # every rule, cost and thread count meets every other pair over the 36 cases; all: slow test
    field = make_field(4, 6, activation=family, interpolation=interpolation, scale=0.6)
    offset = FAMILIES.index(family) + INNERS.index(inner) + len(interpolation)
    for rule, cost, threads in REST[offset % 5 :: 5]:
        assert_same_run(field, *data(50), cost, inner, rule, threads)


@pytest.mark.slow
@pytest.mark.parametrize("inner", INNERS, ids=repr)
def test_all_runs_agree(make_field, activation, interpolation, inner):
    field = make_field(4, 6, activation=activation, interpolation=interpolation, scale=0.6)
    for rule, cost, threads in REST:
        assert_same_run(field, *data(50), cost, inner, rule, threads)


# without relu: a dead relu under decay steps exactly onto its kink, where rounding decides
@pytest.mark.parametrize("family", FAMILIES[1:])
@pytest.mark.parametrize(
    ("n", "K", "m"),
    [(1, 1, 1), (1, 5, 3), (3, 1, 40), (3, 1, 1), (3, 4, 1), (3, 4, 2), (3, 4, 33), (3, 2, 97)],
)
def test_corner_sizes(make_field, interpolation, family, n, K, m):
    field = make_field(n, K, activation=family, interpolation=interpolation, scale=0.6)
    x, _ = data(m, n)
    y = np.random.default_rng(1).standard_normal((n, m))
    for inner, threads in itertools.product(INNERS, (1, 3)):
        assert_same_run(field, x, y, Cost(decay=0.1), inner, "FR-PR", threads, n_iter=2)


@pytest.mark.parametrize("depth", [1, 4, 7, 8])
@pytest.mark.parametrize("inner", INNERS, ids=repr)
def test_several_rounds_of_gradient_products(make_field, interpolation, inner, depth, monkeypatch):
    monkeypatch.setattr(hotpath, "MAX_PENDING", depth * 40 * 3 * 8)
    field = make_field(3, 8, interpolation=interpolation, scale=0.6)
    problem = EulerProblem(field, *data(40, 3), COSTS[2])
    assert max(stop - start for start, stop in problem.rounds) <= depth
    assert len(problem.rounds) == -(-8 // depth)
    for threads in THREADS:
        assert_same_run(field, *data(40, 3), COSTS[2], inner, "PR+", threads, n_iter=2)


@pytest.mark.parametrize("inner", INNERS, ids=repr)
def test_several_blocks_of_columns(make_field, interpolation, inner):
    n = int(np.ceil(np.sqrt(COLUMNS_PER_BLOCK))) + 1
    assert n * n > COLUMNS_PER_BLOCK
    field = make_field(n, 4, interpolation=interpolation, scale=0.6)
    for threads in THREADS:
        assert_same_run(field, *data(40, n), COSTS[2], inner, "HS", threads, n_iter=2)


def test_more_threads_than_samples(make_field):
    field = make_field(4, 6)
    for m in (1, 2, SAMPLES_PER_THREAD, 3 * SAMPLES_PER_THREAD + 1):
        assert_same_run(field, *data(m), COSTS[0], L2(), "FR", 7)


def test_the_samples_are_split(make_field):
    # else the comparisons above compare less than they say
    for threads, shares in ((1, 1), (2, 2), (3, 3), (7, 3)):
        problem = EulerProblem(make_field(4, 6), *data(50), COSTS[0], threads=threads)
        assert problem.shares == shares


def test_threads_change_rounding_only(make_field):
    field, (x, y) = make_field(4, 40), data(100)
    runs = [snode.ncg(field, x, y, COSTS[2], threads=threads, n_iter=4) for threads in (1, 2, 3, 6)]
    for run in runs[1:]:
        assert run.history.cost == pytest.approx(runs[0].history.cost, rel=1e-11)


def test_inputs_in_any_memory_order(make_field):
    field, (x, y) = make_field(4, 6), data(50)
    wide = np.repeat(x, 2, axis=1)[:, ::2]
    runs = [
        snode.ncg(field, a, y, COSTS[2], threads=2, n_iter=3)
        for a in (x, np.asfortranarray(x), wide)
    ]
    for run in runs[1:]:
        assert run.history.cost == pytest.approx(runs[0].history.cost, rel=1e-12)


# --- when it applies ------------------------------------------------------------------------------


def test_applies_to_plain_fields_on_the_host(make_field):
    field = make_field(4, 6)
    assert EulerProblem.applies_to(field, data(3)[0])

    class Derived(snode.StandaloneField):
        pass

    assert not EulerProblem.applies_to(Derived(field.W, field.b, field.T), data(3)[0])
    assert not EulerProblem.applies_to(field, [[1.0]])


def test_weights_in_any_memory_order(make_field):
    field, (x, y) = make_field(4, 6), data(20)
    swapped = np.ascontiguousarray(field.W.transpose(0, 2, 1)).transpose(0, 2, 1)
    wide = np.repeat(field.W, 2, axis=0)[::2]
    results = [
        snode.ncg(snode.StandaloneField(W, field.b, field.T), x, y, COSTS[2], n_iter=3)
        for W in (field.W, swapped, wide)
    ]
    for result in results:
        assert np.array_equal(result.history.cost, results[0].history.cost)
        assert np.array_equal(result.field.W, results[0].field.W)
        assert result.field.W.flags.c_contiguous  # whatever the hot path does inside


def test_an_activation_of_ones_own_keeps_its_own_formula(make_field):
    mine = snode.Activation("tanh", np.sin, np.cos, (-1.0, 1.0))
    field = make_field(4, 6, activation=mine)
    assert_same_run(field, *data(20), COSTS[0], L2(), "FR", 1)


def test_relu_of_minus_infinity(make_field):
    # W x overflows to -inf in float32, where relu is 0
    W, b = np.full((2, 3, 3), -1e38, np.float32), np.zeros((2, 3), np.float32)
    field = snode.StandaloneField(W, b, 1.0, activation="relu")
    x, y = np.full((3, 4), 100, np.float32), np.arange(4) % 3
    problems = (make(field, x, y, COSTS[0]) for make in (EulerProblem, FieldProblem))
    with np.errstate(over="ignore"):
        hot, slow = (problem.direct() for problem in problems)
    assert hot == slow


# --- one workspace, many batches ------------------------------------------------------------------


@pytest.mark.parametrize("keep", [False, True])
def test_batches_of_changing_size_share_one_workspace(make_field, keep):
    rule = "PR+" if keep else "FR"
    fields = {}
    for make in (EulerProblem, FieldProblem):
        field, x, y = make_field(4, 6, scale=0.6), *data(70)
        options = {"keep_gradient": keep}
        if make is EulerProblem:
            options["workspace"] = Workspace(2)
        problem = make(field, x, y, COSTS[2], H1(), **options)
        for m in (70, 33, 1, 70, 16):
            problem.set_data(field, x[:, :m], y[:m])
            problem.forget()
            field = minimize(problem, rule=rule, n_iter=2).field
        fields[make] = field
    for name in "Wb":
        assert close(*(f.parameters[name] for f in fields.values()), factor=1e8)


def test_the_best_iterate_survives_in_the_buffers(make_field):
    # best, base and trial live in three buffers; a rise of the cost must not overwrite the best
    for seed in range(8):
        field = make_field(3, 6, T=3.0, activation="relu", seed=seed)
        x, y = data(40, 3)
        result = snode.ncg(field, x, y, COSTS[0], n_iter=10, threads=2)
        best = COSTS[0].value(result.field, snode.solve_direct(result.field, x).x_T, y)
        assert result.fun == result.history.cost.min()
        assert best == pytest.approx(result.fun, rel=1e-12)


def test_carry_and_restore(make_field):
    field, (x, y) = make_field(4, 6, scale=0.6), data(40)
    problem = EulerProblem(field, x, y, COSTS[2], H1(), keep_gradient=True, threads=2)
    assert problem.carry() == {"d": {}, "g": {}}
    minimize(problem, rule="PR+", n_iter=2)
    carried = {
        group: {k: v.copy() for k, v in arrays.items()} for group, arrays in problem.carry().items()
    }
    other = EulerProblem(problem.base, x, y, COSTS[2], H1(), keep_gradient=True, threads=2)
    other.restore(**carried)
    for p in (problem, other):
        p.direct()
    one, two = problem.gradient(), other.gradient()
    assert one == two
    for p in (problem, other):
        p.set_direction(0.4)
    assert all(np.array_equal(problem.d[k], other.d[k]) for k in "Wb")
    problem.forget()
    assert problem.carry() == {"d": {}, "g": {}}


def test_workspace_checks_its_threads():
    for threads in (0, -1, 1.5):
        with pytest.raises(ValueError, match=r"threads must be an integer in 1\.\.4096, or None"):
            Workspace(threads)
    assert Workspace(None).threads >= 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_products_of_numba_do_as_well(make_field, family, dtype):
    # where NumPy's BLAS is not the one of its wheels
    field = make_field(4, 6, activation=family, dtype=dtype)
    x, y = data(50, dtype=dtype)
    runs = []
    for found in (True, False):
        problem = EulerProblem(field, x, y, COSTS[2], threads=2, block_size=30)
        if not found:
            problem.gemm = None
        runs.append(minimize(problem, n_iter=2))
    assert runs[0].history.cost == pytest.approx(
        runs[1].history.cost, rel=100 * float(np.finfo(dtype).eps)
    )


def test_what_a_callback_kept_of_the_last_iteration_stays_right(make_field):
    field, (x, y) = make_field(4, 6), data(50)
    kept = []
    result = snode.ncg(
        field, x, y, COSTS[0], n_iter=3, callback=lambda s: kept.append(s.field) and None
    )
    assert np.array_equal(kept[-1].W, result.field.W)
    before = result.field.W.copy()
    snode.ncg(result.field, x, y, COSTS[0], n_iter=3)
    assert np.array_equal(result.field.W, before)


def test_the_result_of_training_is_contiguous(make_field):
    field, (x, y) = make_field(4, 6), data(50)
    result = snode.train(field, (x, y), COSTS[0], batch_size=20, rng=0)
    assert result.field.W.flags.c_contiguous


# --- blocks of samples ----------------------------------------------------------------------------


@pytest.mark.parametrize("inner", INNERS, ids=repr)
@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_of_samples_change_rounding_only(make_field, family, interpolation, inner):
    field = make_field(4, 6, activation=family, interpolation=interpolation, scale=0.6)
    x, y = data(50)
    offset = FAMILIES.index(family) + INNERS.index(inner) + len(interpolation)
    for rule, cost in list(itertools.product(CG_RULES, COSTS))[offset % 4 :: 4]:
        options = {"inner": inner, "rule": rule, "n_iter": 3, "threads": 2}
        whole = snode.ncg(field, x, y, cost, **options)
        for block_size in (1, 16, 49):
            run = snode.ncg(field, x, y, cost, block_size=block_size, **options)
            for name in HISTORY:
                mine, theirs = (getattr(r.history, name) for r in (run, whole))
                assert np.abs(mine - theirs).max() <= 1e-9 * max(np.abs(theirs).max(), 1e-12), name
            for name in "Wb":
                assert close(run.field.parameters[name], whole.field.parameters[name], factor=1e7)


def test_blocks_of_the_whole_batch_are_no_blocks(make_field):
    field, (x, y) = make_field(4, 6), data(50)
    runs = [snode.ncg(field, x, y, COSTS[2], block_size=size) for size in (None, 50, 1000)]
    assert all(np.array_equal(run.history.cost, runs[0].history.cost) for run in runs)


def test_large_batches_are_divided_by_themselves(make_field, monkeypatch):
    field, (x, y) = make_field(4, 6), data(50)
    per_sample = (2 * 6 + 1) * 4 * 8
    for limit, blocks in ((50 * per_sample, 1), (50 * per_sample - 1, 2), (1, 50)):
        monkeypatch.setattr(hotpath, "MAX_TRAJECTORY", limit)
        problem = EulerProblem(field, x, y, COSTS[0])
        sizes = [block.stop - block.start for block in problem.blocks]
        assert len(sizes) == blocks
        assert sum(sizes) == 50
        assert max(sizes) - min(sizes) <= 1
        assert problem._x.nbytes + problem._slope.nbytes <= max(limit, per_sample)


@pytest.mark.parametrize("rule", ["FR", "PR+"])
@pytest.mark.parametrize("inner", INNERS, ids=repr)
def test_blocks_when_steps_are_halved(make_field, inner, rule, monkeypatch):
    minimizer = LineModel.minimizer
    too_long = lambda model, trust: (30 * minimizer(model, trust)[0], True)  # noqa: E731
    monkeypatch.setattr(LineModel, "minimizer", too_long)
    cost = Cost(l2=0, ce=1, n_classes=3)
    halved = 0
    for seed in range(4):
        field = make_field(4, 5, T=4.0, activation="relu", seed=seed)
        x, y = data(40)
        options = {"inner": inner, "rule": rule, "n_iter": 3, "threads": 2}
        whole, run = (snode.ncg(field, x, y, cost, block_size=size, **options) for size in (40, 9))
        halved += whole.history.halvings.sum()
        assert np.array_equal(run.history.halvings, whole.history.halvings)
        assert run.history.cost == pytest.approx(whole.history.cost, rel=1e-8)
    assert halved > 0


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("inner", INNERS, ids=repr)
def test_the_gradient_of_a_refused_step_does_not_remain(make_field, interpolation, inner, keep):
    field, (x, y) = make_field(4, 6, interpolation=interpolation), data(40)
    problem = EulerProblem(
        field, x, y, COSTS[2], inner, keep_gradient=keep, threads=2, block_size=9
    )
    problem.direct()
    problem.gradient()
    gradient = {name: g.copy() for name, g in problem.g.items()}
    problem.set_direction(0.0)
    problem.line()
    problem.move(0.5)
    problem.direct()  # refused: back to the base, and again along -g
    problem.move(0.0)
    problem.direct()
    problem.set_direction(0.0)
    for name, g in gradient.items():
        assert close(problem.d[name], -g, factor=100)


def test_blocks_of_training(make_field):
    field, (x, y) = make_field(4, 6, scale=0.6), data(50)
    seen = []
    for size in (50, 7):
        problem = EulerProblem(field, x, y, COSTS[2], H1(), threads=2, block_size=size)
        start = field
        for m in (50, 20, 3):
            problem.set_data(start, x[:, :m], y[:m])
            start = minimize(problem, n_iter=2).field
        seen.append(start)
    for name in "Wb":
        assert close(*(f.parameters[name] for f in seen), factor=1e7)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("inner", INNERS, ids=repr)
def test_the_gradient_of_blocks_can_be_asked_for_again(make_field, interpolation, inner, keep):
    field, (x, y) = make_field(4, 6, interpolation=interpolation), data(40)
    problem = EulerProblem(field, x, y, COSTS[2], inner, keep_gradient=keep, block_size=9)
    problem.direct()
    first = problem.gradient()
    gradient = {name: g.copy() for name, g in problem.g.items()}
    again = problem.gradient()
    problem.set_direction(0.0)
    problem.line()
    after_a_line = problem.gradient()
    for dots in (again, after_a_line):
        assert dots.gg == pytest.approx(first.gg, rel=1e-13)
    for name, g in gradient.items():
        assert close(problem.g[name], g, factor=10)


def test_blocks_solve_no_adjoint_problem_that_nobody_needs(make_field, monkeypatch):
    field, (x, y) = make_field(4, 6), data(40)
    solved = []
    adjoint = EulerProblem._adjoint_block
    monkeypatch.setattr(
        EulerProblem, "_adjoint_block", lambda self, j: (solved.append(j), adjoint(self, j))
    )
    snode.ncg(field, x, y, COSTS[0], n_iter=3, block_size=10)
    assert len(solved) == 3 * 4


def test_bad_block_sizes(make_field):
    field, (x, y) = make_field(4, 6), data(5)
    for size in (0, -1, 2.5, "a", np.inf, True):
        with pytest.raises(ValueError, match="block_size must be a positive integer or None"):
            snode.ncg(field, x, y, COSTS[0], block_size=size)
    with pytest.raises(ValueError, match="block_size is for a StandaloneField"):
        snode.ncg(field, x, y, COSTS[0], block_size=3, solver="ode45")
