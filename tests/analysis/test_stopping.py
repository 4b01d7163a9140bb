"""Long analyses tell how far they are, and stop with a result that holds."""

import functools

import numpy as np
import pytest

import snode
from snode.threads import thread_limit

STOPPED = snode.Status.STOPPED


@pytest.fixture(scope="module")
def field():
    return snode.StandaloneField.random(3, 1.5, 12, scale=1.5, activation="tanh", rng=1)


@pytest.fixture(scope="module")
def samples(field):
    x = np.random.default_rng(0).standard_normal((3, 700))
    return x, snode.predict(field, x, n_classes=3)


ATTACKS = {
    "sensitivity": functools.partial(snode.sensitivity_attack, step=0.2, margin_kind="additive",
                                     margin=0.0),
    "all": functools.partial(snode.sensitivity_attack, step=0.2, margin_kind="additive",
                             margin=0.0, target="all"),
    "deepfool": snode.deepfool,
    "pgd": functools.partial(snode.pgd, eps=1.0, restarts=2, n_iter=5),
    "last": functools.partial(snode.pgd, eps=1.0, keep_best=False, n_iter=5),
    "fgsm": functools.partial(snode.fgsm, eps=1.0),
    "cw": functools.partial(snode.carlini_wagner, n_search=2, n_iter=10, n_bisections=2),
}  # fmt: skip


class Stop:
    """Stops at the call of this number; counts the calls."""

    def __init__(self, at):
        self.at, self.seen = at, []

    def __call__(self, state):
        self.seen.append((state.done, state.total, state.what))
        return len(self.seen) >= self.at


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("at", [1, 2, 4, 9])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_stopped_attack_is_a_valid_attack(field, samples, name, at, threads):
    x, y = samples
    stop = Stop(at)
    with thread_limit(threads):
        found = ATTACKS[name](field, x, y, n_classes=3, callback=stop)
    if len(stop.seen) < at:
        assert found.status is snode.Status.SUCCESS
        return
    assert len(stop.seen) == at
    assert found.status is STOPPED
    assert "stopped" in repr(found)
    label = snode.predict(field, found.x_adv, n_classes=3)
    assert np.array_equal(label, found.label)
    assert np.array_equal(found.success, label != y)
    assert not found.delta[:, found.skipped].any()
    assert not found.success[found.skipped].any()
    if threads == 1 and stop.seen[-1][0] < 400:  # before the last block
        assert found.skipped.any()
    if at == 1:
        assert found.skipped.all()
        assert not found.n_iter.any()


@pytest.mark.parametrize("name", ATTACKS)
def test_a_callback_sees_all_samples_and_changes_nothing(field, samples, name):
    x, y = np.ascontiguousarray(samples[0][:, :300]), samples[1][:300]
    watch = Stop(10**9)
    found = ATTACKS[name](field, x, y, n_classes=3, callback=watch)
    alone = ATTACKS[name](field, x, y, n_classes=3)
    assert np.array_equal(found.x_adv, alone.x_adv)
    assert np.array_equal(found.n_iter, alone.n_iter)
    assert found.status is alone.status is snode.Status.SUCCESS
    assert watch.seen[0][0] == 0
    assert all(0 <= done <= total <= 300 for done, total, _ in watch.seen)


def test_what_was_found_before_the_stop_stays(field, samples):
    x, y = samples
    attack = thread_limit(1)(functools.partial(snode.deepfool, field, x, y, n_classes=3))
    whole = attack()
    for block in range(2):  # of 666 samples
        stop = Stop(10**9)
        attack(callback=stop)
        first = next(k for k, (done, _, _) in enumerate(stop.seen) if done >= 666)
        found = attack(callback=Stop(first + 1 if block else 1))
        count = 666 * block
        assert np.array_equal(found.x_adv[:, :count], whole.x_adv[:, :count])
        assert found.skipped[count:].all()
        assert not found.skipped[:count].any()


@pytest.mark.parametrize("kind", ["flow", "euler"])
@pytest.mark.parametrize("layers", ["standalone", "mlp"])
def test_a_stopped_growth_bound_holds(field, kind, layers):
    if layers == "mlp":
        field = snode.MLPField((3, 5, 3), T=1.5, n_layers=12, rng=0)
    fine, coarse = (
        snode.growth_bound(field, kind=kind, method=m) for m in ("certificate", "norms")
    )
    stop = Stop(6)
    bound = snode.growth_bound(field, kind=kind, callback=stop)
    assert bound.status is STOPPED
    assert stop.seen[-1] == (5, 12, f"bounding the growth, {kind}, layer 6 of 12")
    assert len(stop.seen) == 6
    assert np.array_equal(bound.upper[:5], fine.upper[:5])
    if layers == "standalone":
        assert np.array_equal(bound.upper[5:], coarse.upper[5:])
    assert fine.log_factor[-1] <= bound.log_factor[-1] <= coarse.log_factor[-1]
    assert fine.status is coarse.status is snode.Status.SUCCESS


def test_a_certified_radius_with_a_stopped_bound_is_smaller(field, samples):
    x, y = samples
    full = snode.certified_radius(field, x, y, n_classes=3)
    found = snode.certified_radius(field, x, y, n_classes=3, callback=Stop(4))
    assert found.growth.status is STOPPED
    assert (found.radius <= full.radius).all()
    assert (found.radius < full.radius).any()
    gap = snode.trajectory_gap(field, x, x + 1, callback=Stop(4))
    assert gap.growth.status is STOPPED
    assert (gap.ratio <= gap.bound[:, None]).all()


@pytest.mark.parametrize("certified", [True, False])
@pytest.mark.parametrize("at", [1, 2, 10**9])
@pytest.mark.parametrize("search", [snode.contractivity_interval, snode.contracting_shift])
def test_a_stopped_search_has_an_answer_that_works(search, at, certified):
    A = np.random.default_rng(5).standard_normal((6, 6)) / 3
    A -= 1.01 * max(np.linalg.eigvalsh(A + A.T)[-1] / 2, 0) * np.eye(6)
    stop = Stop(at)
    found, full = search(A, certified=certified, callback=stop), search(A, certified=certified)
    assert full.status.name == "FOUND"
    assert found.status.name == ("STOPPED" if len(stop.seen) == at else "FOUND")
    assert [done for done, _, _ in stop.seen] == list(range(len(stop.seen)))
    if search is snode.contractivity_interval:
        answer, slopes, matrix = found.m, (found.m, 1), A
        assert full.m <= found.m <= 1
    else:
        answer, slopes, matrix = found.tau, (0.1, 1), found.matrix
        assert full.tau <= found.tau
    assert 0 <= found.lower <= full.lower <= answer
    assert snode.max_log_norm(matrix, slopes, method="exact").lower <= 1e-9
    if at < 10**9:
        assert found.nit == at - 1
        assert "no m <" in repr(found) or "no tau <" in repr(found)


@pytest.mark.parametrize("certified", [True, False])
@pytest.mark.parametrize("at", [1, 3, 60])
def test_a_stopped_perturbation_makes_the_matrix_contractive(at, certified):
    A = np.random.default_rng(3).standard_normal((5, 5))
    stop = Stop(at)
    found = snode.minimal_perturbation(A, certified=certified, callback=stop)
    full = snode.minimal_perturbation(A, certified=certified)
    assert found.status is (STOPPED if len(stop.seen) == at else snode.Status.SUCCESS)
    assert full.status is snode.Status.SUCCESS
    if certified:
        assert snode.max_log_norm(A + found.delta, method="exact").upper <= 1e-9
        assert found.norm <= found.shift_norm
    assert found.lower <= full.norm
    assert found.lower <= full.lower + 1e-12
    if at == 1:
        assert found.status is STOPPED
        assert found.lower == 0


def test_a_stopped_branch_and_bound_encloses():
    A = np.random.default_rng(1).standard_normal((12, 12))
    stop = Stop(3)
    found, full = (snode.max_log_norm(A, (-1, 1), method="exact", callback=c) for c in (stop, None))
    assert found.status is STOPPED
    assert full.status is snode.Status.SUCCESS
    assert found.n_nodes < full.n_nodes
    assert found.lower <= full.upper
    assert full.lower <= found.upper
    assert found.upper > full.upper + 1e-9
    assert not found.success


@pytest.mark.parametrize(
    "call",
    [
        lambda f, x, y: snode.pgd(f, x, y, eps=1, n_classes=3, callback=1),
        lambda f, x, y: snode.growth_bound(f, callback="bar"),
        lambda f, x, y: snode.certified_radius(f, x, n_classes=3, callback=[]),
        lambda f, x, y: snode.minimal_perturbation(np.eye(2), callback=1.0),
        lambda f, x, y: snode.contractivity_interval(-np.eye(2), callback="bar"),
        lambda f, x, y: snode.contracting_shift(np.eye(2), callback=0),
        lambda f, x, y: snode.max_log_norm(np.eye(2), callback=True),
    ],
)
def test_a_callback_must_be_a_function(field, samples, call):
    with pytest.raises(TypeError, match="callback must be a function"):
        call(field, *samples)
