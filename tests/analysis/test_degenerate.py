"""Degenerate matrices: every function of contractivity answers, and its bounds hold."""

import itertools
import warnings

import numpy as np
import pytest

import snode
from snode.analysis.contractivity import Verdict
from snode.results import Status

pytestmark = pytest.mark.grid(3)

SLOPES = [(0.0, 1.0), (0.1, 1.0), (1.0, 1.0), (0.5, 0.5), (1 - 1e-12, 1.0), (-1.0, 1.0), (0.0, 0.0)]
POSITIVE = [(0.1, 1.0), (1.0, 1.0), (1 - 1e-12, 1.0), (1e-3, 1.0)]
SHIFTS = [0.0, 1.0, -1.0, -1e-8, 1e-301, -1e-301]


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def matrices(seed):
    rng = np.random.default_rng(seed)
    n = 1 + seed % 4
    R, one = rng.standard_normal((n, n)), np.eye(n)
    half = R.copy()
    half[: n // 2, n // 2 :] = half[n // 2 :, : n // 2] = 0
    return {
        "zero": 0 * R, "identity": one, "minus identity": -one,
        "diagonal": np.diag(rng.random(n)), "permutation": one[rng.permutation(n)],
        "signed permutation": one[rng.permutation(n)] * rng.choice([-1.0, 1.0], n),
        "skew": R - R.T, "nearly skew": R - R.T + 1e-14 * R, "rank one": np.outer(R[0], R[-1]),
        "one row": np.outer(one[0], R[-1]), "ones": np.ones((n, n)),
        "jordan": np.eye(n, k=1) - one, "nilpotent": np.triu(R, 1), "blocks": half,
        "hadamard": np.array([[1.0, 1.0], [1.0, -1.0]]),
        "zero rows": R * (rng.random((n, 1)) < 0.5),
        "zero columns": R * (rng.random(n) < 0.5), "rotation": np.linalg.qr(R)[0],
        "scaled rows": R * 10.0 ** rng.uniform(-8, 8, (n, 1)), "integers": np.round(R),
        "1e150": 1e150 * R, "1e-150": 1e-150 * R, "1e-300": 1e-300 * R, "1e-310": 1e-310 * R,
    }  # fmt: skip


CASES = [(seed, kind) for seed in range(3) for kind in matrices(0)]


def scaled(A):
    """A and the power of two that was taken out of it."""
    e = int(np.frexp(np.abs(A).max())[1]) if A.any() else 0
    return np.ldexp(A, -e), e


def largest(A, lo, hi):
    """Over all vertices."""
    d = np.array(list(itertools.product((lo, hi), repeat=len(A))))
    J = d[:, :, None] * A
    return np.linalg.eigvalsh(0.5 * (J + J.swapaxes(1, 2)))[:, -1].max()


@pytest.mark.parametrize(("seed", "kind"), CASES)
def test_largest_norm_over_the_slopes(seed, kind):
    A, e = scaled(matrices(seed)[kind])
    for k, method in enumerate(("alternating", "exact", "flow")):
        slopes = SLOPES[(seed + k + len(kind)) % len(SLOPES)] if k else SLOPES[seed]
        true = largest(A, *slopes)
        found = snode.max_log_norm(np.ldexp(A, e), slopes, method=method, max_nodes=200, n_rounds=2)
        lower, upper = np.ldexp(found.lower, -e), np.ldexp(found.upper, -e)
        assert lower <= true + 1e-14 * len(A)
        assert upper >= true - 1e-14 * len(A)
        if method == "exact":
            assert found.status is Status.SUCCESS
            assert upper - lower < 1e-8


@pytest.mark.parametrize("slopes", [(1.0, 1.0), (0.3, 0.3), (1 - 1e-12, 1.0), (0.0, 0.0)])
@pytest.mark.parametrize("n", [2, 3, 6])
def test_skew_matrix_with_fixed_slopes_is_one_box(slopes, n):
    R = np.random.default_rng(n).standard_normal((n, n))
    found = snode.max_log_norm(R - R.T, slopes, method="exact")
    assert (found.n_nodes, found.status) == (1, Status.SUCCESS)
    assert found.lower <= largest(R - R.T, *slopes) <= found.upper + 1e-13
    assert found.gap < 1e-10


def test_a_vertex_is_closed_with_its_own_value():
    # several layers: the alternating search from a vertex may end at a lesser one
    rng = np.random.default_rng(1208)
    for _ in range(3):
        A = [np.sign(rng.standard_normal((2, 2))) * rng.integers(0, 2, (2, 2)) for _ in range(3)]
        slopes = [(-0.1, 1.1), (-1.0, 1.0), (0.0, 1.0)]
        found = snode.max_log_norm(A, slopes, method="exact", n_rounds=0, n_starts=1)
        assert found.success
        assert found.gap < 1e-7
        assert -found.gap <= _largest_of(A, slopes) - found.upper <= 1e-12


def _largest_of(A, slopes):
    best = -np.inf
    ends = [pair for B, pair in zip(A, slopes, strict=True) for _ in range(len(B))]
    for d in itertools.product(*ends):
        J, d = np.eye(A[0].shape[1]), list(d)
        for B in A:
            J = np.array([d.pop(0) for _ in range(len(B))])[:, None] * (B @ J)
        best = max(best, np.linalg.eigvalsh(0.5 * (J + J.T))[-1])
    return best


@pytest.mark.parametrize("method", ["alternating", "exact"])
@pytest.mark.parametrize("seed", range(8))
def test_layers_that_annihilate_each_other(method, seed):
    rng = np.random.default_rng(seed)
    thin = [rng.standard_normal((3, 1)), rng.standard_normal((1, 3))]
    row = np.zeros((4, 4))
    row[0] = rng.standard_normal(4)
    for A, slopes in [
        (thin, [(0.0, 1.0)] * 2),
        ([np.eye(3, 2, k=1), np.eye(2, 3, k=1)], [(1 - 1e-14, 1.0), (0.5, 0.5)]),
        ([row, np.eye(4, k=1)], [(-1.0, 1.0), (1.0, 1.0)]),
        ([np.diag([1.0, 0.0]), np.diag([0.0, 1.0])], [(0.0, 1.0)] * 2),
        ([1e150 * thin[0], 1e-150 * thin[1]], [(0.0, 1.0)] * 2),
        ([np.zeros((2, 3)), np.ones((3, 2))], [(0.1, 1.0)] * 2),
    ]:
        found = snode.max_log_norm(A, slopes, method=method, n_rounds=1)
        true = _largest_of(A, slopes)
        assert found.lower <= true + 1e-13
        assert found.upper >= true - 1e-13
        assert method != "exact" or found.gap < 1e-7


@pytest.mark.parametrize(("seed", "kind"), CASES)
def test_interval(seed, kind):
    A = matrices(seed)[kind]
    c = SHIFTS[(seed + len(kind)) % len(SHIFTS)]
    found = snode.contractivity_interval(A, c, n_starts=3)
    B, _ = scaled(np.append(A, c))
    B, c = B[:-1].reshape(A.shape), B[-1]
    if found.status in (Verdict.FOUND, Verdict.EVERY):
        assert 0 <= found.lower <= found.m <= 1
        assert largest(B, found.m, 1.0) <= c + 1e-14 * len(A)
    else:
        assert largest(B, 1.0, 1.0) > c - 1e-13


@pytest.mark.grid(6)
@pytest.mark.parametrize("seed", range(30))
def test_interval_of_a_skew_matrix_is_its_end(seed):
    # f(1) = 0 = c; where f(m) > 0 for all m < 1, the answer is m = 1
    R = np.random.default_rng(seed).standard_normal((2 + seed % 6,) * 2)
    found = snode.contractivity_interval(R - R.T, n_starts=2)
    if found.status is Verdict.FOUND:
        assert found.m == pytest.approx(1, abs=1e-9)
        assert found.lower <= found.m
    else:
        assert found.status is Verdict.UNDECIDED


@pytest.mark.parametrize(("seed", "kind"), CASES)
def test_shift(seed, kind):
    A, slopes = matrices(seed)[kind], POSITIVE[(seed + len(kind)) % len(POSITIVE)]
    found = snode.contracting_shift(A, slopes, SHIFTS[seed], n_starts=2)
    B, _ = scaled(np.append(found.matrix, SHIFTS[seed]))
    assert largest(B[:-1].reshape(A.shape), *slopes) <= B[-1] + 1e-14 * len(A)
    assert 0 <= found.lower <= found.tau < np.inf


@pytest.mark.parametrize(("seed", "kind"), CASES[::3])
@pytest.mark.parametrize("certified", [True, False])
def test_perturbation(seed, kind, certified):
    A, slopes = matrices(seed)[kind], POSITIVE[seed % 3]
    found = snode.minimal_perturbation(A, slopes, certified=certified, max_iter=8, n_starts=2)
    assert np.isfinite(found.delta).all()
    assert found.lower <= found.norm <= found.shift_norm * (1 + 1e-12)
    if certified:
        assert largest(scaled(found.matrix)[0], *slopes) <= 1e-14 * len(A)


def test_perturbation_of_the_identity():
    # Sym(D (I + delta)) <= 0 for all D: trace(I + delta) <= 0, so |delta| >= sqrt(n)
    for n in (1, 2, 3):
        found = snode.minimal_perturbation(np.eye(n))
        assert found.norm == pytest.approx(n**0.5, rel=1e-6)
        assert found.lower == pytest.approx(n**0.5, rel=1e-5)


@pytest.mark.parametrize("c", [-1e-301, -1.0, -1e150])
def test_perturbation_of_zero_is_the_shift(c):
    # D delta = delta_ii d_i on the diagonal: -c / lo for each unit is needed
    found = snode.minimal_perturbation(np.zeros((2, 2)), (0.1, 1.0), c)
    assert found.norm == pytest.approx(-10 * c * 2**0.5, rel=1e-6)
