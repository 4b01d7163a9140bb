"""The fast path of the attacks is the solver and its adjoint, to rounding."""

from dataclasses import replace

import numpy as np
import pytest

import snode
from snode.analysis import attack_result, layers
from snode.analysis.attacks import carlini_wagner, deepfool, fgsm, pgd, sensitivity_attack
from snode.analysis.layers import LayerPass
from snode.analysis.rows import adjoint_rows, pull_back

EULER = snode.Solver()
BOX = {"box": (-1.0, 0.0), "n_classes": 3}


def states(field, m, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 0, (field.n, m)).astype(field.dtype)


def far(a, b):
    """Return the largest difference, relative to the largest entry."""
    return abs(a - b).max() / abs(b).max()


@pytest.mark.parametrize(("dtype", "rounding"), [(np.float64, 1e-14), (np.float32, 3e-6)])
def test_same_as_the_stored_solution(activation, make_field, dtype, rounding):
    field = make_field(6, 9, T=2.0, activation=activation, seed=4, dtype=dtype)
    x = states(field, 11)
    there = LayerPass(field)
    assert there.solve(x)
    sol = snode.solve_direct(field, x)
    assert there.x_T.dtype == dtype
    assert far(there.x_T, sol.x_T) < rounding
    p = np.random.default_rng(1).standard_normal((4, 6, 11)).astype(dtype)
    back = pull_back(there, p)
    assert back.dtype == dtype
    assert back.shape == (4, 6, 11)
    assert far(back, pull_back(sol, p)) < rounding
    assert far(adjoint_rows(there, 3), adjoint_rows(sol, 3)) < rounding
    assert np.array_equal(x, states(field, 11))


def test_parts_change_rounding_only(make_field, monkeypatch):
    field = make_field(5, 7, seed=2)
    x, p = states(field, 23), np.random.default_rng(3).standard_normal((2, 5, 23))
    whole = LayerPass(field)
    whole.solve(x)
    monkeypatch.setattr(layers, "SAMPLES_PER_PART", 4)
    parts = LayerPass(field)
    parts.solve(x)
    assert far(parts.x_T, whole.x_T) < 1e-14
    assert far(parts.pull_back(p), whole.pull_back(p)) < 1e-14


def test_memory_is_used_again_for_any_number_of_samples(make_field):
    field = make_field(5, 7, seed=2)
    again = LayerPass(field)
    for m in (8, 3, 1, 12, 8):
        x, p = states(field, m, seed=m), np.random.default_rng(m).standard_normal((2, 5, m))
        again.solve(x)
        once = LayerPass(field)
        once.solve(x)
        assert np.array_equal(again.x_T, once.x_T)
        assert np.array_equal(again.pull_back(p), once.pull_back(p))


def test_where_it_applies(make_field):
    field = make_field(4, 5)
    x = states(field, 3)
    assert LayerPass.applies_to(field, x, EULER)
    linear = make_field(4, 5, interpolation="linear")
    readout = snode.Classifier(field, np.eye(4)[:3], np.zeros(3))
    for other in (linear, readout, snode.MLPField((4, 5, 4), rng=0)):
        assert not LayerPass.applies_to(other, x, EULER)
    for solver in (snode.Solver("heun"), snode.Solver("ode45"), snode.Solver(checkpoints=2)):
        assert not LayerPass.applies_to(field, x, solver)


@pytest.mark.parametrize(
    "attack",
    [
        lambda f, x, y: sensitivity_attack(f, x, y, step=0.1, n_iter=8, **BOX),
        lambda f, x, y: sensitivity_attack(f, x, y, step=0.1, n_iter=8, early_stop=True, **BOX),
        lambda f, x, y: sensitivity_attack(f, x, y, step=0.1, n_iter=8, target="all", **BOX),
        lambda f, x, y: deepfool(f, x, y, n_iter=6, **BOX),
        lambda f, x, y: fgsm(f, x, y, eps=0.4, norm="2", **BOX),
        lambda f, x, y: pgd(f, x, y, eps=0.4, norm="2", n_iter=8, **BOX),
        lambda f, x, y: carlini_wagner(f, x, y, n_search=3, n_iter=8, **BOX),
    ],
    ids=["sensitivity", "early stop", "all", "deepfool", "fgsm", "pgd", "cw"],
)
def test_attacks_find_the_same_by_either_path(attack, make_field, monkeypatch):
    field = make_field(5, 6, scale=1.5, seed=1)
    x = states(field, 40, seed=5)
    y = snode.predict(field, x, n_classes=3)
    fast = attack(field, x, y)
    monkeypatch.setattr(LayerPass, "applies_to", staticmethod(lambda *_: False))
    slow = attack(field, x, y)
    assert fast.success.sum() > 0
    assert np.array_equal(fast.success, slow.success)
    assert np.array_equal(fast.n_iter, slow.n_iter)
    assert np.allclose(fast.x_adv, slow.x_adv, atol=1e-10)


def test_the_fast_path_is_the_one_taken(make_field, monkeypatch):
    field = make_field(5, 6, scale=1.5, seed=1)
    x = states(field, 4)
    y = snode.predict(field, x, n_classes=3)
    monkeypatch.setattr(type(field), "linearize", None)
    assert pgd(field, x, y, eps=0.1, n_iter=2, **BOX).n_iter.max() == 2
    assert sensitivity_attack(field, x, y, n_iter=2, **BOX).n_iter.max() == 2


def test_what_is_not_finite_is_named(make_field):
    field = make_field(3, 4, activation="relu")
    huge = field.with_parameters(W=np.abs(field.W) * 1e200)
    x, y = np.ones((3, 2)), np.zeros(2, dtype=np.int64)
    assert not LayerPass(huge).solve(x)
    task = attack_result.Task.of(
        "pgd", field, x, y, box=(0, 1), n_classes=3, solver="euler"
    )  # fmt: skip
    with pytest.raises(snode.IntegrationError, match="the state is not finite"):
        replace(task, field=huge).solve(x, np.arange(2))


def test_an_infinite_preactivation_takes_the_slow_path(make_field):
    # relu(-inf) is 0, and the state stays finite; 0 * -inf is not
    field = make_field(2, 1, activation="relu", dtype=np.float32)
    field = field.with_parameters(W=np.full((1, 2, 2), -3e38, np.float32))
    x, y = np.full((2, 1), 1.5, np.float32), np.zeros(1, dtype=np.int64)
    assert not LayerPass(field).solve(x)
    task = attack_result.Task.of("pgd", field, x, y, box=(0, 2), n_classes=2, solver="euler")
    assert np.array_equal(task.solve(x, np.arange(1)).x_T, x)
