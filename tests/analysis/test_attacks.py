"""Adversarial attacks: the linear step, exact bounds, known distances, and what results say."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import minimize

import snode
from snode.analysis import attack_result, distance_attack, gradient_attacks, linear_attacks
from snode.analysis.attacks import (
    carlini_wagner,
    deepfool,
    fgsm,
    pgd,
    sensitivity_attack,
    success_curve,
)
from snode.analysis.rows import adjoint_rows
from snode.fields.base import n_outputs, outputs, outputs_vjp

pytestmark = pytest.mark.grid(3)

WIDE = (-50.0, 50.0)
INF = (-np.inf, np.inf)

# every attack with options that suit small networks; all take box, n_classes, solver
ATTACKS = {
    "sensitivity": lambda f, x, y, **o: sensitivity_attack(
        f, x, y, **{"step": 0.1, "n_iter": 8} | o
    ),
    "additive": lambda f, x, y, **o: sensitivity_attack(
        f, x, y, **{"step": 0.1, "n_iter": 8, "margin": 0.1, "margin_kind": "additive"} | o
    ),
    "every-target": lambda f, x, y, **o: sensitivity_attack(
        f, x, y, **{"step": 0.1, "n_iter": 8, "target": "all"} | o
    ),
    "deepfool": lambda f, x, y, **o: deepfool(f, x, y, **{"n_iter": 5} | o),
    "fgsm-inf": lambda f, x, y, **o: fgsm(f, x, y, **{"eps": 0.17} | o),
    "fgsm-2": lambda f, x, y, **o: fgsm(f, x, y, **{"eps": 0.37, "norm": "2"} | o),
    "pgd-inf": lambda f, x, y, **o: pgd(f, x, y, **{"eps": 0.17, "n_iter": 6} | o),
    "pgd-2": lambda f, x, y, **o: pgd(
        f, x, y, **{"eps": 0.37, "norm": "2", "n_iter": 6, "restarts": 2, "cost": "l2"} | o
    ),
    "cw": lambda f, x, y, **o: carlini_wagner(f, x, y, **{"n_search": 3, "n_iter": 8} | o),
}
EPS = {"fgsm-inf": (0.17, "inf"), "fgsm-2": (0.37, "2"), "pgd-inf": (0.17, "inf"),
       "pgd-2": (0.37, "2")}  # fmt: skip


@pytest.fixture(params=ATTACKS)
def attack(request):
    return ATTACKS[request.param]


def inputs(field, m=20, C=3, seed=0, low=-1.0, high=0.0):
    """Return inputs in a box with the predicted classes as true ones, so that all are attacked."""
    rng = np.random.default_rng(seed)
    dtype = next(iter(field.parameters.values())).dtype
    x = rng.uniform(low, high, (field.n, m)).astype(dtype)
    return x, snode.predict(field, x, n_classes=C)


def linear_field(n=5, C=3, seed=0):
    """Return a field whose outputs are A x + c, with A (C, n) and c."""
    rng = np.random.default_rng(seed)
    V, c = rng.standard_normal((C, n)), 0.3 * rng.standard_normal(C)
    W, b = 0.4 * rng.standard_normal((1, n, n)), 0.2 * rng.standard_normal((1, n))
    body = snode.StandaloneField(W, b, 1.0, activation="identity")
    return snode.Classifier(body, V, c), V @ (np.eye(n) + W[0]), V @ b[0] + c


def fields():
    rng = np.random.default_rng(3)

    def layered(kind):
        size = 4 + (kind != "constant")
        W, b = rng.standard_normal((size, 4, 4)), rng.standard_normal((size, 4))
        return snode.StandaloneField(W, b, 1.2, interpolation=kind)

    mlp = snode.MLPField((4, 6, 4), rng=0)
    return {
        "constant": layered("constant"),
        "linear": layered("linear"),
        "cubic": layered("cubic"),
        "classifier": snode.Classifier.random(layered("constant"), 3, rng=1),
        "mlp": mlp,
        "mlp-classifier": snode.Classifier.random(mlp, 3, rng=1),
    }


FIELDS = fields()
SOLVERS = {
    "euler": "euler",
    "rk4": "rk4",
    "ode45": snode.Solver("ode45", rtol=1e-10, atol=1e-12),
    "checkpoints": snode.Solver("heun", checkpoints=2),
}
THOUSAND_STEPS = ("linear", "cubic")
"""By ode45 with these tolerances: kinks of the weights at every node."""


# --- derivatives ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        pytest.param(
            name, solver, marks=[pytest.mark.slow] * (solver == "ode45" and name in THOUSAND_STEPS)
        )
        for name in FIELDS
        for solver in SOLVERS
    ],
)
def test_rows_and_gradients_are_central_differences(name, solver):
    field, solver = FIELDS[name], snode.ode.problems.as_solver(SOLVERS[solver])
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 5))
    p = rng.standard_normal((n_outputs(field), 5))

    def z(x):
        return outputs(field, solver.solve(field, x, keep="last").x_T)

    sol = solver.solve(field, x)
    rows, gradient = adjoint_rows(sol, 3), attack_result.input_gradient(sol, p)
    # step control chooses other steps for x + e: a difference of two errors near 1e-10
    h, tolerance = 1e-5, 1e-7 if solver.method != "ode45" else 1e-4
    for i in range(4):
        e = h * np.eye(4)[:, [i]]
        difference = (z(x + e) - z(x - e)) / (2 * h)
        assert np.allclose(rows[:, i], difference[:3], rtol=tolerance, atol=tolerance)
        assert np.allclose(
            gradient[i], (p * difference).sum(axis=0), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", FIELDS)
def test_rows_are_those_of_the_public_adjoint(name, solver):
    field, solver = FIELDS[name], snode.ode.problems.as_solver(SOLVERS[solver])
    sol = solver.solve(field, np.random.default_rng(0).standard_normal((4, 5)))
    rows = adjoint_rows(sol, 3)
    for c in range(3):
        p = np.zeros((n_outputs(field), 5))
        p[c] = 1
        lam_T = outputs_vjp(field, sol.x_T, p)
        lam = snode.solve_adjoint(sol, lam_T).lam[0]
        assert np.allclose(rows[c], lam, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("cost", ["ce", "l2"])
def test_loss_derivatives_are_parallel_to_central_differences(cost):
    rng = np.random.default_rng(1)
    z, labels = rng.standard_normal((6, 8)), rng.integers(0, 4, 8)
    loss = gradient_attacks._loss(cost, 4)
    value, p = loss(z, labels)
    numeric = np.zeros_like(z)
    for i in range(6):
        e = 1e-6 * np.eye(6)[:, [i]]
        numeric[i] = (loss(z + e, labels)[0] - loss(z - e, labels)[0]) / 2e-6
    assert np.allclose(p, numeric / abs(numeric).max(axis=0), atol=1e-8)
    training = snode.Cost(l2=float(cost == "l2"), ce=float(cost == "ce"), n_classes=4)
    field = snode.StandaloneField(np.zeros((1, 6, 6)), np.zeros((1, 6)), 1.0)
    assert np.isclose(value.mean(), training.value(field, z, labels))


def test_a_sure_network_has_a_gradient_too():
    # 1 - probability is 0 in double precision here
    z = np.array([[60.0], [0.0], [-5.0]], dtype=np.float32)
    _, p = gradient_attacks._loss("ce", 3)(z, np.array([0]))
    assert np.allclose(p[:, 0], [-1, 1, np.exp(-5)], rtol=0.01)


# --- the linear step ------------------------------------------------------------------------------


def step_of_14(z, p_i, p_j, margin, kind):
    """Return eq. (14) for class 0 against class 1, and whether there is a direction."""
    rows = np.stack([p_i, p_j], axis=1)[:, :, None]
    kappa = margin if kind == "multiplicative" else 1.0
    v, gap, length = linear_attacks._aim(
        np.asarray(z, float)[:, None], rows, np.array([0]), kappa, kind, margin
    )
    j, usable = linear_attacks._nearest(gap, length, np.array([0]))
    if not usable[0]:
        return None
    assert j[0] == 1
    return gap[1, 0] / length[1, 0] ** 2 * v[:, 1, 0]


def least_norm(z, p_i, p_j, margin, kind):
    """Return what SLSQP finds; where its line search gives up, it is at the solution too."""
    v = margin * p_j - p_i if kind == "multiplicative" else p_j - p_i
    start = margin * z[1] - z[0] if kind == "multiplicative" else z[1] - z[0] - margin
    solution = minimize(
        lambda xi: xi @ xi,
        np.zeros(len(p_i)),
        jac=lambda xi: 2 * xi,
        method="SLSQP",
        constraints={"type": "ineq", "fun": lambda xi: start + v @ xi, "jac": lambda xi: v},
        options={"ftol": 1e-12},
    )
    assert solution.success
    return solution.x


@pytest.mark.parametrize("kind", ["multiplicative", "additive"])
@pytest.mark.parametrize("case", ["general", "p_j = 0", "p_i = 0", "parallel", "opposite"])
@pytest.mark.parametrize("seed", range(5))
def test_step_is_the_least_norm_solution(case, kind, seed):
    rng = np.random.default_rng(seed)
    p_i, p_j = rng.standard_normal((2, 6))
    z, margin = (0.9, 0.2), 0.9 if kind == "multiplicative" else 0.3
    if case == "p_j = 0":
        p_j = np.zeros(6)
    elif case == "p_i = 0":
        p_i = np.zeros(6)
    elif case == "parallel":
        p_j = 0.4 * p_i
    elif case == "opposite":
        p_j = -2.0 * p_i
    ours = step_of_14(z, p_i, p_j, margin, kind)
    assert np.allclose(ours, least_norm(z, p_i, p_j, margin, kind), atol=1e-6)


@pytest.mark.parametrize(("kind", "margin"), [("multiplicative", 0.5), ("additive", 0.3)])
def test_no_step_where_the_margin_is_the_ratio_of_the_rows(kind, margin):
    # kappa p_j = p_i: the linear model cannot change the lead
    p_i = np.array([1.0, -2.0, 0.5])
    p_j = p_i / margin if kind == "multiplicative" else p_i
    assert step_of_14((0.9, 0.2), p_i, p_j, margin, kind) is None
    assert step_of_14((0.9, 0.2), 0 * p_i, 0 * p_i, margin, kind) is None
    assert step_of_14((0.9, 0.2), np.nan * p_i, p_i, margin, kind) is None


def test_tiny_and_huge_rows_keep_their_direction():
    rows = np.array([[1.0, 2.0], [-1.0, 0.5]], dtype=np.float32)
    for scale in (1e-30, 1e30):
        scaled = (rows * np.float32(scale))[:, :, None]
        v, _, length = linear_attacks._aim(
            np.array([[1.0], [0.0]]), scaled, np.array([0]), 1.0, "additive", 0.0
        )
        unit = attack_result.units(v[:, 1], length[1], np.array([True]))
        assert np.allclose(unit[:, 0], np.array([1, 1.5]) / np.hypot(1, 1.5), rtol=1e-6)


@pytest.mark.parametrize("target", [None, 1])
def test_each_step_has_the_length_and_direction_of_14(make_field, target):
    field = make_field(5, 4, seed=1)
    x, y = inputs(field, seed=2)
    keep = y != 1
    x, y = np.ascontiguousarray(x[:, keep]), y[keep]
    result = sensitivity_attack(
        field, x, y, step=1e-3, n_iter=1, box=INF, n_classes=3, target=target
    )
    assert (result.n_gradient == (1 if target else 3)).all()  # rows of all classes, or one product
    sol = snode.solve_direct(field, x)
    rows = adjoint_rows(sol, 3)
    for k in range(x.shape[1]):
        z, i = sol.x_T[:3, k], y[k]
        v = {j: 0.975 * rows[j, :, k] - rows[i, :, k] for j in range(3) if j != i}
        length = {j: (z[i] - 0.975 * z[j]) / np.linalg.norm(v[j]) for j in v}
        j = min(length, key=length.get) if target is None else target
        expected = 1e-3 * v[j] / np.linalg.norm(v[j])
        assert np.allclose(result.delta[:, k], expected, rtol=1e-8, atol=1e-15)
        # it raises z_j against z_i
        assert rows[j, :, k] @ expected * 0.975 > rows[i, :, k] @ expected


def test_random_direction_where_the_network_is_flat():
    # relu of a negative number: the outputs do not depend on the input
    W, b = np.zeros((1, 4, 4)), np.array([[3.0, 2.0, 1.0, 0.0]])
    body = snode.StandaloneField(W, b, 1.0, activation="relu")
    field = snode.Classifier(body, np.zeros((2, 4)), np.array([1.0, 0.0]))
    x = np.zeros((4, 3))
    options = {"step": 0.1, "n_iter": 2, "box": (-1, 1)}
    one = sensitivity_attack(field, x, np.zeros(3, int), rng=1, **options)
    assert not one.success.any()
    assert (one.norm2 > 0.01).all()
    assert np.isfinite(one.x_adv).all()
    assert len(np.unique(one.x_adv[0])) == 3
    same = sensitivity_attack(field, x, np.zeros(3, int), rng=1, **options)
    other = sensitivity_attack(field, x, np.zeros(3, int), rng=2, **options)
    assert np.array_equal(one.x_adv, same.x_adv)
    assert not np.array_equal(one.x_adv, other.x_adv)
    single = sensitivity_attack(field, x, np.zeros(3, int), **options | {"n_iter": 1})
    assert np.allclose(single.norm2, 0.1, rtol=1e-12)
    targeted = sensitivity_attack(field, x, np.zeros(3, int), target=1, **options)
    assert (targeted.norm2 > 0.01).all()


# --- the paper's rules ----------------------------------------------------------------------------


def reference(field, x0, i, *, step, n_iter, kappa, low, high, C):
    """Algorithm 2 for one sample, by n tangent columns and a loop."""
    x, best = x0, None
    for iteration in range(n_iter + 1):
        sol = snode.solve_direct(field, x[:, None])
        z = sol.x_T[:C, 0]
        if z.argmax() != i and (best is None or np.linalg.norm(x - x0) < np.linalg.norm(best - x0)):
            best = x
        if iteration == n_iter:
            break
        columns = [snode.solve_sensitivity(sol, dx0=e[:, None])[-1][:C, 0] for e in np.eye(len(x))]
        p = np.stack(columns, axis=1)
        v = {j: kappa * p[j] - p[i] for j in range(C) if j != i}
        j = min(v, key=lambda j: (z[i] - kappa * z[j]) / np.linalg.norm(v[j]))
        x = np.clip(x + step * v[j] / np.linalg.norm(v[j]), low, high)
    return x if best is None else best


def test_sensitivity_attack_is_algorithm_2(make_field):
    field = make_field(5, 5, scale=1.5, seed=4)
    x, y = inputs(field, 30, seed=5)
    result = sensitivity_attack(field, x, y, step=0.05, n_iter=8, box=(-1, 0), n_classes=3)
    assert 0.2 < result.success.mean() < 1
    assert ((result.x_adv == -1) | (result.x_adv == 0)).any()
    for k in range(x.shape[1]):
        expected = reference(
            field, x[:, k], y[k], step=0.05, n_iter=8, kappa=0.975, low=-1, high=0, C=3
        )
        assert np.allclose(result.x_adv[:, k], expected, atol=1e-11)


def test_nearest_point_is_kept_and_early_stop_is_never_nearer(make_field):
    field = make_field(5, 5, scale=1.5, seed=4)
    x, y = inputs(field, 60, seed=5)
    options = {"step": 0.1, "box": (-1, 0), "n_classes": 3}
    found = [sensitivity_attack(field, x, y, n_iter=n, **options) for n in (3, 6, 12, 24)]
    for less, more in pairwise(found):
        assert (more.success >= less.success).all()
        both = less.success & more.success
        assert (more.norm2[both] <= less.norm2[both]).all()
    stopped = sensitivity_attack(field, x, y, n_iter=24, early_stop=True, **options)
    assert np.array_equal(stopped.success, found[-1].success)
    assert (stopped.norm2 >= found[-1].norm2 - 1e-12)[stopped.success].all()
    assert (stopped.n_iter[stopped.success] < 24).any()
    assert (stopped.n_iter[~stopped.success] == 24).all()
    assert (found[-1].n_iter == 24).all()
    assert (found[-1].n_gradient == 72).all()


def test_the_nearest_of_scripted_points_is_kept(monkeypatch):
    # z = (0, x): class 1 for x > 0; the way from -1 goes to 2, 0.5, 3
    body = snode.StandaloneField(np.zeros((1, 1, 1)), np.zeros((1, 1)), 1.0)
    field = snode.Classifier(body, np.array([[0.0], [1.0]]), np.zeros(2))
    script = iter([3.0, -1.5, 2.5])
    monkeypatch.setattr(
        linear_attacks._Walk,
        "direction",
        lambda self, task, block: np.array([[next(script)]]),
    )
    x, y = np.array([[-1.0]]), np.array([0])
    result = sensitivity_attack(field, x, y, step=1.0, n_iter=3, box=WIDE)
    assert result.x_adv[0, 0] == 0.5


def test_beyond_the_boundary_the_original_class_is_still_the_one_to_beat():
    field, A, c = linear_field()
    x, y = inputs(field, 30, seed=1)
    walk = linear_attacks._Walk(0.1, 1, 0.975, "multiplicative", False, np.random.default_rng(0))
    task = attack_result.Task.of(
        "sensitivity_attack", field, x, y, box=WIDE, n_classes=3, solver="euler"
    )
    block = linear_attacks._Block(task, np.arange(30))
    block.x = np.random.default_rng(2).uniform(-2, 2, x.shape)
    block.outputs()
    unit = walk.direction(task, block)
    z = A @ block.x + c[:, None]
    assert (z.argmax(axis=0) != y).sum() > 10
    for k, i in enumerate(y):
        v = {j: 0.975 * A[j] - A[i] for j in range(3) if j != i}
        j = min(v, key=lambda j: (z[i, k] - 0.975 * z[j, k]) / np.linalg.norm(v[j]))
        assert np.allclose(unit[:, k], v[j] / np.linalg.norm(v[j]))


def test_targeted(make_field):
    field = make_field(5, 5, scale=1.5, seed=4)
    x, y = inputs(field, 40, seed=5)
    options = {"step": 0.1, "n_iter": 30, "box": (-2, 1), "n_classes": 3}
    for result in (
        sensitivity_attack(field, x, y, target=1, **options),
        sensitivity_attack(field, x, y, target=np.full(40, 1), **options),
        pgd(field, x, y, target=1, eps=1.0, box=(-2, 1), n_classes=3),
        carlini_wagner(field, x, y, target=1, box=(-2, 1), n_classes=3),
    ):
        assert np.array_equal(result.skipped, y == 1)
        assert (result.delta[:, y == 1] == 0).all()
        assert not result.success[y == 1].any()
        assert np.array_equal(result.success, (result.label == 1) & (y != 1))
        assert result.success.sum() > 5
        assert (result.target == 1).all()


def test_every_target_is_the_best_of_the_targeted_runs(make_field):
    field = make_field(5, 5, scale=1.5, seed=4)
    x, y = inputs(field, 40, seed=5)
    y[3] = (y[3] + 1) % 3
    options = {"step": 0.1, "n_iter": 12, "box": (-1, 0), "n_classes": 3}
    result = sensitivity_attack(field, x, y, target="all", **options)
    assert len(result.per_target) == 3
    for c, run in enumerate(result.per_target):
        assert (run.target == c).all()
        assert np.array_equal(run.skipped, (y == c) | result.skipped)
        assert np.array_equal(run.success, run.label != y)
        # started again from x: the same as alone, but for what counts as success
        alone = sensitivity_attack(field, x, y, target=c, **options)
        assert (run.success >= alone.success).all()
    norms = np.stack([np.where(r.success & ~r.skipped, r.norm2, np.inf) for r in result.per_target])
    assert np.array_equal(
        result.success | result.skipped, np.isfinite(norms.min(0)) | result.skipped
    )
    hit = result.success & ~result.skipped
    assert np.array_equal(result.norm2[hit], norms.min(axis=0)[hit])
    assert result.target[3] == -1
    assert (result.target != y).all()
    assert (result.n_iter[~result.skipped] == 24).all()


def test_skipped_samples_stay(attack, make_field):
    field = make_field(4, 3)
    x, y = inputs(field, 12)
    wrong = np.arange(12) % 3 == 0
    y[wrong] = (y[wrong] + 1) % 3
    result = attack(field, x, y, box=(-1, 0), n_classes=3)
    assert np.array_equal(result.skipped, wrong)
    assert result.success[wrong].all()
    assert (result.delta[:, wrong] == 0).all()
    assert (result.n_iter[wrong] == 0).all()
    assert (result.n_gradient[wrong] == 0).all()
    assert (result.n_iter[~wrong] > 0).all()
    assert "4 skipped" in repr(result)
    everything = attack(field, x, (snode.predict(field, x, n_classes=3) + 1) % 3, n_classes=3)
    assert everything.skipped.all()
    assert np.array_equal(everything.x_adv, x)
    assert "0 of 0" in repr(everything)


# --- exact bounds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ATTACKS)
def test_norm_and_box_are_exact(name, dtype, make_field):
    # 1,000 samples: 10 networks, boxes and radii with 100 samples each
    rng = np.random.default_rng(7)
    for case in range(10):
        field = make_field(4, 3, scale=2.0, seed=case, dtype=np.dtype(dtype))
        low = rng.uniform(-2, 0) * 10.0 ** rng.integers(-3, 2)
        high = low + rng.uniform(0.1, 1) * 10.0 ** rng.integers(-3, 2)
        x = rng.uniform(low, high, (4, 100)).astype(dtype)
        low, high = np.dtype(dtype).type(low), np.dtype(dtype).type(high)
        x = x.clip(low, high)
        x[rng.random(x.shape) < 0.2] = low
        x[rng.random(x.shape) < 0.2] = high
        y = snode.predict(field, x, n_classes=3)
        bound, norm = EPS.get(name, (None, None))
        options = {}
        if bound is not None:
            bound = options["eps"] = float(rng.uniform(0.1, 1) * 10.0 ** rng.integers(-8, 2))
        result = ATTACKS[name](field, x, y, box=(low, high), n_classes=3, **options)
        delta = result.delta.astype(np.float64)
        moved = result.x_adv.astype(np.float64) - x.astype(np.float64)
        assert result.x_adv.min() >= low
        assert result.x_adv.max() <= high
        for difference in (delta, moved):
            if norm == "inf":
                assert abs(difference).max() <= bound
                assert abs(result.delta).max() <= bound
            elif norm == "2":
                assert max(np.linalg.norm(column) for column in difference.T) <= bound
        if norm is not None:
            assert (result.norm2 if norm == "2" else result.norminf).max() <= bound
        assert np.array_equal(result.delta, result.x_adv - x)
        assert np.allclose(result.norm2, np.linalg.norm(delta, axis=0), rtol=1e-14)
        assert np.array_equal(result.norminf, abs(delta).max(axis=0))
        label = snode.predict(field, result.x_adv, n_classes=3)
        assert np.array_equal(result.label, label)
        assert np.array_equal(result.success, label != y)


def test_bounds_are_reached():
    field, _, _ = linear_field()
    x, y = inputs(field, 50)
    result = fgsm(field, x, y, eps=0.1, box=WIDE)
    assert np.allclose(abs(result.delta), 0.1, rtol=1e-12)
    result = fgsm(field, x, y, eps=0.1, norm="2", box=WIDE)
    assert np.allclose(result.norm2, 0.1, rtol=1e-12)
    result = fgsm(field, x, y, eps=0.0, box=WIDE)
    assert (result.delta == 0).all()


def test_a_bound_between_two_numbers_is_rounded_down():
    # float32(0.1) > 0.1
    body = snode.StandaloneField(*(np.zeros(s, np.float32) for s in ((1, 2, 2), (1, 2))), 1.0)
    V = np.array([[1, 2], [-1, 1]], np.float32)
    field = snode.Classifier(body, V, np.array([1, 0], np.float32))
    x = np.zeros((2, 1), np.float32)
    result = fgsm(field, x, np.array([0]), eps=0.1, box=(-1, 1))
    assert 0.0999999 < result.norminf[0] <= 0.1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_result_dtypes(attack, dtype, make_field):
    field = make_field(4, 3, dtype=np.dtype(dtype))
    x, y = inputs(field, 5)
    before = x.copy()
    result = attack(field, x, y.astype(np.int32), box=(-1, 0), n_classes=3)
    assert np.array_equal(x, before)
    assert result.x_adv.dtype == result.delta.dtype == dtype
    assert result.norm2.dtype == result.norminf.dtype == np.float64
    assert result.success.dtype == result.skipped.dtype == bool
    for name in ("label", "target", "n_iter", "n_gradient", "y"):
        assert getattr(result, name).dtype == np.int64
        assert getattr(result, name).shape == (5,)
    assert np.array_equal(result.y, y)
    assert not np.shares_memory(result.x_adv, x)
    with pytest.raises(AttributeError):
        result.label = None


# --- how good they are ----------------------------------------------------------------------------


def linear_distances(A, c, x, y):
    """Return the smallest perturbation that makes another row of A x + c the largest."""
    z, out = A @ x + c[:, None], []
    for k, i in enumerate(y):
        others = [j for j in range(len(c)) if j != i]
        out.append(min((z[i, k] - z[j, k]) / np.linalg.norm(A[j] - A[i]) for j in others))
    return np.array(out)


@pytest.mark.parametrize("C", [2, 3, 6])
def test_deepfool_reaches_the_distance_of_a_linear_model(C):
    field, A, c = linear_field(C=C)
    x, y = inputs(field, 100, C=C)
    result = deepfool(field, x, y, overshoot=1e-7, box=INF)
    assert result.success.all()
    assert (result.n_iter == 1).all()
    assert np.allclose(result.norm2, linear_distances(A, c, x, y), rtol=1e-6)


@pytest.mark.slow
def test_carlini_wagner_reaches_the_distance_of_a_linear_model():
    # two classes: with more, the method may settle for a class that is not the nearest
    field, A, c = linear_field(C=2)
    x, y = inputs(field, 60, C=2)
    exact = linear_distances(A, c, x, y)
    far = exact > 0.2  # Adam's first steps are as long as this
    x, y, exact = np.ascontiguousarray(x[:, far]), y[far], exact[far]
    options = {"box": (-3, 3), "n_search": 8, "n_iter": 500, "learning_rate": 0.01}
    for n_bisections, tolerance in ((0, 3e-4), (45, 1e-4)):
        result = carlini_wagner(field, x, y, n_bisections=n_bisections, **options)
        assert result.success.all()
        assert np.all(result.norm2 >= exact * (1 - 1e-12))
        assert np.allclose(result.norm2, exact, rtol=tolerance)
    assert np.median(result.norm2 / exact) - 1 < 1e-6


def test_sensitivity_attack_walks_straight_in_a_linear_model():
    field, A, c = linear_field()
    x, y = inputs(field, 50)
    result = sensitivity_attack(
        field, x, y, step=0.01, n_iter=400, margin=0.0, margin_kind="additive", box=INF
    )
    exact = linear_distances(A, c, x, y)
    near = exact < 3.9
    assert near.sum() > 20
    assert result.success[near].all()
    # the first multiple of the step behind the boundary
    assert np.allclose(result.norm2[near], np.ceil(exact[near] / 0.01) * 0.01, rtol=1e-9)


def test_pgd_is_perfect_on_a_linear_model_of_two_classes():
    field, A, c = linear_field(C=2)
    x, y = inputs(field, 100, C=2)
    z = A @ x + c[:, None]
    lead = abs(z[0] - z[1])
    for norm, dual in (("inf", 1), ("2", 2)):
        distance = lead / np.linalg.norm(A[0] - A[1], dual)
        eps = float(np.median(distance))
        clear = abs(distance / eps - 1) > 1e-3
        result = pgd(field, x, y, eps=eps, norm=norm, n_iter=100, box=INF)
        assert np.array_equal(result.success[clear], (distance < eps)[clear])
        assert clear.mean() > 0.9


def test_carlini_wagner_lowers_a_weight_that_is_too_high():
    field, _, _ = linear_field(C=2)
    x, y = inputs(field, 30, C=2)
    once, often = (
        carlini_wagner(field, x, y, box=(-3, 3), initial_c=1e3, n_search=n) for n in (1, 14)
    )
    assert (often.norm2 <= once.norm2).all()
    assert often.norm2.mean() < 0.95 * once.norm2.mean()


def test_confidence_is_kept():
    field, A, c = linear_field()
    x, y = inputs(field, 20)
    options = {"box": (-8, 8), "n_search": 8, "n_iter": 100}
    result = carlini_wagner(field, x, y, confidence=0.5, n_bisections=30, **options)
    z = A @ result.x_adv + c[:, None]
    own = z[y, np.arange(20)]
    z[y, np.arange(20)] = -np.inf
    assert result.success.all()
    assert (z.max(axis=0) - own >= 0.5).all()
    assert np.allclose(z.max(axis=0) - own, 0.5, atol=1e-6)


@pytest.mark.parametrize("norm", ["inf", "2"])
@pytest.mark.parametrize("cost", ["ce", "l2"])
@pytest.mark.parametrize("target", [None, 0])
def test_more_steps_and_restarts_are_never_worse(norm, cost, target, make_field):
    field = make_field(5, 5, scale=2.0, seed=4)
    x, y = inputs(field, 50, seed=5)
    labels = y if target is None else np.full_like(y, target)
    options = {
        "eps": 0.3 if norm == "inf" else 0.6, "norm": norm, "cost": cost, "box": (-1, 0),
        "n_classes": 3, "target": target, "step": 0.1,
    }  # fmt: skip
    runs = [pgd(field, x, y, n_iter=n, **options) for n in (1, 2, 5, 20)]
    for less, more in pairwise(runs):
        assert_not_worse(field, labels, cost, target, less, more)
    again = pgd(field, x, y, n_iter=5, restarts=3, **options)
    assert_not_worse(field, labels, cost, target, runs[2], again)
    assert (again.n_iter[~again.skipped] == 15).all()
    plain = pgd(field, x, y, n_iter=5, keep_best=False, **options)
    assert_not_worse(field, labels, cost, target, plain, runs[2])


def assert_not_worse(field, labels, cost, target, less, more):
    def value(result):
        z = snode.solve_direct(field, result.x_adv).x_T
        sign = 1 if target is None else -1
        return sign * gradient_attacks._loss(cost, 3)(z, labels)[0]

    assert (more.success >= less.success).all()
    same = more.success == less.success
    assert (value(more)[same] >= value(less)[same] - 1e-12).all()


def test_any_cost(make_field):
    field = make_field(5, 5, scale=2.0, seed=4)
    x, y = inputs(field, 30)

    def cost(z, labels):
        k = np.arange(len(labels))
        p = np.zeros_like(z)
        p[labels, k] = -1
        return -z[labels, k], p

    result = pgd(field, x, y, eps=0.5, cost=cost, n_classes=3, random_start=False)
    z0 = snode.solve_direct(field, x).x_T[y, np.arange(30)]
    z1 = snode.solve_direct(field, result.x_adv).x_T[y, np.arange(30)]
    assert (z1 <= z0)[~result.success].all()
    with pytest.raises(ValueError, match="cost must return"):
        pgd(field, x, y, eps=0.5, cost=lambda z, labels: (z[0], z[:2]), n_classes=3)


# --- many at once ---------------------------------------------------------------------------------


def test_batched_is_one_by_one(attack, make_field, monkeypatch):
    field = make_field(4, 4, scale=1.5, seed=2)
    x, y = inputs(field, 9, seed=3)
    options = {"box": (-1, 0), "n_classes": 3}
    if attack in (ATTACKS["pgd-inf"], ATTACKS["pgd-2"]):  # one stream of starts for the batch
        options |= {"random_start": False, "restarts": 1}
    together = attack(field, x, y, **options)
    for k in range(9):
        alone = attack(field, x[:, [k]].copy(), y[[k]], **options)
        assert np.allclose(alone.x_adv[:, 0], together.x_adv[:, k], atol=1e-9)
        assert alone.label[0] == together.label[k]
        assert alone.n_iter[0] == together.n_iter[k]
    monkeypatch.setattr(linear_attacks, "COLUMNS_PER_BLOCK", 6)
    for module in (gradient_attacks, distance_attack):
        monkeypatch.setattr(module, "SAMPLES_PER_BLOCK", 2)
    blocks = attack(field, x, y, **options)
    assert np.allclose(blocks.x_adv, together.x_adv, atol=1e-9)
    assert np.array_equal(blocks.label, together.label)


def test_deterministic_by_rng(attack, make_field):
    field = make_field(4, 4, scale=1.5, seed=2)
    x, y = inputs(field, 9, seed=3)
    runs = [attack(field, x, y, n_classes=3) for _ in range(2)]
    assert np.array_equal(runs[0].x_adv, runs[1].x_adv)


def test_random_starts_follow_rng(make_field):
    field = make_field(4, 4, scale=1.5, seed=2)
    x, y = inputs(field, 9, seed=3)
    options = {"eps": 0.01, "n_iter": 1, "n_classes": 3, "step": 1e-4, "box": INF}
    for norm in ("inf", "2"):
        one, two, three = (
            pgd(field, x, y, norm=norm, rng=rng, **options)
            for rng in (1, np.random.default_rng(1), 2)
        )
        assert np.array_equal(one.x_adv, two.x_adv)
        assert not np.array_equal(one.x_adv, three.x_adv)


@pytest.mark.parametrize("name", [name for name in FIELDS if name != "constant"])
def test_every_field(attack, name):
    field = FIELDS[name]
    x, y = inputs(field, 4)
    result = attack(field, x, y, n_classes=3)
    assert np.isfinite(result.x_adv).all()
    assert x.min() <= result.x_adv.min()
    assert result.x_adv.max() <= x.max()


def test_other_solvers(attack, make_field):
    field = make_field(4, 4)
    x, y = inputs(field, 4)
    options = {"n_classes": 3, "box": (-1, 0)}
    one = attack(field, x, y, solver="rk4", **options)
    two = attack(field, x, y, solver=snode.Solver("rk4", checkpoints="auto"), **options)
    assert np.allclose(one.x_adv, two.x_adv, atol=1e-10)
    assert np.array_equal(one.label, snode.predict(field, one.x_adv, n_classes=3, solver="rk4"))


# --- curves ---------------------------------------------------------------------------------------


def test_success_curve(make_field):
    field = make_field(5, 5, scale=1.5, seed=4)
    x, y = inputs(field, 40, seed=5)
    y[:4] = (y[:4] + 1) % 3
    result = sensitivity_attack(field, x, y, step=0.05, n_iter=8, box=(-1, 0), n_classes=3)
    assert not result.success.all()
    radii = [0.0, 0.3, 0.6, np.inf]
    for norm in ("2", "inf"):
        size = (result.norm2 if norm == "2" else result.norminf)[4:]
        hit = result.success[4:]
        expected = [(hit & (size <= r)).mean() for r in radii]
        assert np.allclose(success_curve(result, radii, norm=norm), expected)
    counted = success_curve(result, radii, count_skipped=True)
    assert counted[0] == 0.1
    assert counted[-1] == result.success.mean()
    other = deepfool(field, x, y, box=(-1, 0), n_classes=3)
    best = success_curve([result, other], radii)
    single = [success_curve(r, radii) for r in (result, other)]
    assert (best >= np.maximum(*single)).all()
    assert (best <= sum(single)).all()


def test_success_curve_errors(make_field):
    field = make_field(4, 3)
    x, y = inputs(field, 6)
    result = deepfool(field, x, y, n_classes=3)
    skipped = deepfool(field, x, (y + 1) % 3, n_classes=3)
    for bad, match in (
        ({"radii": [-1.0]}, "radii"),
        ({"radii": [np.nan]}, "radii"),
        ({"norm": "1"}, "norm"),
        ({"results": []}, "results"),
        ({"results": [result, skipped]}, "same samples"),
        ({"results": skipped}, "at least one"),
    ):
        with pytest.raises(ValueError, match=match):
            success_curve(**{"results": result, "radii": [0.1]} | bad)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"x": np.zeros((3, 2))}, "x must have shape"),
        ({"x": np.zeros((4, 2), np.float32)}, "float32"),
        ({"x": np.full((4, 2), np.nan)}, "x"),
        ({"y": np.zeros(3, int)}, "y must be integer labels"),
        ({"y": np.zeros(2)}, "y must be integer labels"),
        ({"y": [0, 1]}, "y must be integer labels"),
        ({"y": np.array([0, 3])}, r"y must hold labels 0\.\.2"),
        ({"n_classes": 5}, "n_classes"),
        ({"n_classes": 1}, "n_classes"),
        ({"n_classes": None}, "n_classes"),
        ({"box": (0.0, 1.0)}, "x must lie in the box"),
        ({"box": (1.0, -1.0)}, "low < high"),
        ({"box": (np.nan, 1.0)}, "box"),
        ({"box": 3.0}, "box"),
        ({"x": np.zeros((4, 2)), "box": None}, "box must be given"),
        ({"solver": "eul"}, "method"),
    ],
)
def test_errors_name_the_argument(attack, change, match, make_field):
    field = make_field(4, 3)
    x, y = inputs(field, 2)
    arguments = {"x": x, "y": y, "n_classes": 3, "box": (-1, 0)} | change
    with pytest.raises((ValueError, TypeError), match=match):
        attack(field, **arguments)


@pytest.mark.parametrize(
    ("function", "options", "match"),
    [
        (sensitivity_attack, {"step": 0}, "step"),
        (sensitivity_attack, {"step": "a"}, "step"),
        (sensitivity_attack, {"n_iter": 0}, "n_iter"),
        (sensitivity_attack, {"n_iter": 2.0}, "n_iter"),
        (sensitivity_attack, {"margin": 1.1}, "margin"),
        (sensitivity_attack, {"margin": 0}, "margin"),
        (sensitivity_attack, {"margin": -1, "margin_kind": "additive"}, "margin"),
        (sensitivity_attack, {"margin_kind": "added"}, "margin_kind"),
        (sensitivity_attack, {"target": "each"}, "target"),
        (sensitivity_attack, {"target": 3}, "target"),
        (sensitivity_attack, {"target": 1.0}, "target"),
        (sensitivity_attack, {"target": np.zeros(3, int)}, "target"),
        (deepfool, {"overshoot": -0.1}, "overshoot"),
        (deepfool, {"n_iter": 0}, "n_iter"),
        (fgsm, {"eps": -1}, "eps"),
        (fgsm, {"eps": 1, "norm": "1"}, "norm"),
        (fgsm, {"eps": 1, "cost": "hinge"}, "cost"),
        (pgd, {"eps": np.inf}, "eps"),
        (pgd, {"eps": 1, "step": 0}, "step"),
        (pgd, {"eps": 1, "restarts": 0}, "restarts"),
        (pgd, {"eps": 1, "restarts": 2, "random_start": False}, "restarts"),
        (carlini_wagner, {"confidence": -1}, "confidence"),
        (carlini_wagner, {"initial_c": 0}, "initial_c"),
        (carlini_wagner, {"learning_rate": 0}, "learning_rate"),
        (carlini_wagner, {"n_search": 0}, "n_search"),
        (carlini_wagner, {"n_bisections": -1}, "n_bisections"),
        (carlini_wagner, {"box": INF}, "box must be finite"),
    ],
)
def test_option_errors(function, options, match, make_field):
    field = make_field(4, 3)
    x, y = inputs(field, 2)
    with pytest.raises((ValueError, TypeError), match=match):
        function(field, x, y, **{"n_classes": 3, "box": (-1, 0)} | options)


# --- small things users met -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "leaky_relu"])
@pytest.mark.parametrize("readout", [True, False])
def test_deepfool_leaves_a_boundary_where_all_outputs_are_zero(dtype, activation, readout):
    rng = np.random.default_rng(0)
    W = (0.5 * rng.standard_normal((3, 4, 4))).astype(dtype)
    field = snode.StandaloneField(W, np.zeros((3, 4), dtype), 1.0, activation=activation)
    field = snode.Classifier.random(field, 3, rng=1) if readout else field
    x = np.zeros((4, 2), dtype)  # a black image
    y = snode.predict(field, x, n_classes=3)
    found = snode.deepfool(field, x, y, box=(0, 1), n_classes=3)
    assert found.success.all()
    assert found.norm2.max() < 100 * np.finfo(dtype).eps


@pytest.mark.parametrize(
    "box", [(np.zeros(4), np.ones(4)), ([0.0], [1.0]), (0,), (0, 1, 2), "ab", 3, (None, 1), (1j, 2)]
)
def test_a_box_must_be_two_numbers(box):
    field = snode.StandaloneField.random(4, 1.0, 3, rng=0)
    x, y = np.full((4, 2), 0.5), np.zeros(2, int)
    for attack in (
        lambda: snode.deepfool(field, x, y, box=box, n_classes=2),
        lambda: snode.fgsm(field, x, y, eps=0.1, box=box, n_classes=2),
        lambda: snode.carlini_wagner(field, x, y, box=box, n_classes=2),
    ):
        with pytest.raises(ValueError, match=r"box must be \(low, high\), two numbers; got"):
            attack()


@pytest.mark.parametrize("bad", [0, 3])
def test_a_sample_that_blows_up_is_named(bad):
    cube = snode.Activation("cube", lambda a: a**3, lambda a: 3 * a * a, (0.0, np.inf))
    field = snode.StandaloneField(np.full((3, 2, 2), 2.0), np.zeros((3, 2)), 1.0, activation=cube)
    x = np.full((2, 5), 1e-3) * [[2.0], [1.0]]
    x[:, bad] *= 1e25
    y = np.zeros(5, int)
    for attack, options in (
        (snode.sensitivity_attack, {"step": 1e30}),
        (snode.pgd, {"eps": 1e30}),
        (snode.deepfool, {"overshoot": 1e40}),
    ):
        box = (-1e60, 1e60)
        with pytest.raises(snode.IntegrationError, match=f"not finite .* for column {bad} of x;"):
            attack(field, x, y, box=box, n_classes=2, **options)
    others = np.delete(x, bad, axis=1)
    with pytest.raises(snode.IntegrationError, match=r"for column \d of x moved;") as failed:
        snode.sensitivity_attack(field, others, y[1:], step=1e50, box=box, n_classes=2)
    assert not failed.value.solution.success
