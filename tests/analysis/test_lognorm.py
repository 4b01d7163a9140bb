"""Logarithmic norms over all slopes: closed forms, brute force over all vertices, exact arithmetic.

Brute force looks at every vertex; the certificates are checked in rational arithmetic, which knows
no rounding.
"""

import itertools
import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import aslinearoperator

from snode.analysis import slope_exact, slope_forms, slope_search
from snode.analysis.lognorm import LogNormPath, log_norm, max_log_norm
from snode.analysis.slope_bound import slope_bound
from snode.analysis.slope_forms import ChainForm, SingleForm
from snode.analysis.slope_problem import make_chain, unscale
from snode.analysis.slope_search import (
    alternating,
    lanczos,
    proven_value,
    residual_of,
    starts_of,
    top_pair,
)
from snode.results import Status

METHODS = ("alternating", "flow", "exact")


def gaussian(n, seed, shift=0.0):
    rng = np.random.default_rng([n, seed])
    return rng.standard_normal((n, n)) / np.sqrt(n) - shift * np.eye(n)


def top(B):
    return np.linalg.eigvalsh(0.5 * (B + np.swapaxes(B, -1, -2)))[..., -1]


def vertices(n, lo, hi):
    bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    return np.where(bits, hi, lo)


def brute_force(A, lo, hi):
    return top(vertices(len(A), lo, hi)[:, :, None] * A).max()


def brute_force_layers(layers, slopes):
    best = -np.inf
    ends = [vertices(len(A), lo, hi) for A, (lo, hi) in zip(layers, slopes, strict=True)]
    for d in itertools.product(*ends):
        J = np.eye(layers[0].shape[1])
        for A, dj in zip(layers, d, strict=True):
            J = dj[:, None] * (A @ J)
        best = max(best, top(J))
    return best


def some_layers(seed):
    rng = np.random.default_rng(seed)
    k = int(rng.integers(2, 4))
    sizes = [int(s) for s in rng.integers(2, 5 - (k == 3), k)]
    widths = [*sizes, sizes[0]]
    layers = [rng.standard_normal((b, a)) for a, b in itertools.pairwise(widths)]
    return layers, [(float(rng.choice([0.1, 0.5])), 1.0) for _ in layers]


# --- closed forms ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("b", [0.3, 1.0, 1.9])
@pytest.mark.parametrize("m", [0.05, 0.3, 0.8])
def test_closed_form_of_the_two_by_two_example(method, b, m):
    f = max(-(1 + m) / 2 + math.sqrt((1 - m) ** 2 + b * b) / 2, m * (b / 2 - 1))
    result = max_log_norm([[-1, b], [0, -1]], (m, 1.0), method=method)
    assert f - 1e-12 <= result.lower <= f + 1e-15
    assert f - 1e-15 <= result.upper <= f + 1e-10
    assert result.success


def test_the_example_is_contractive_from_b_squared_over_four_on():
    b = 1.2
    at = [max_log_norm([[-1, b], [0, -1]], (b * b / 4 + s, 1.0)) for s in (-1e-10, 0.0, 1e-10)]
    assert at[0].lower > 0
    assert abs(at[1].lower) < 1e-12
    assert at[2].upper < 0


@pytest.mark.parametrize("method", METHODS)
def test_diagonal_matrices_by_hand(method):
    for a in ([1.0, -2.0, 3.0], [-1.0, -2.0, -3.0], [0.5], [-0.5]):
        f = max(x if x > 0 else 0.1 * x for x in a)
        result = max_log_norm(np.diag(a), (0.1, 1.0), method=method)
        assert result.lower == pytest.approx(f, abs=1e-13)
        assert f <= result.upper <= f + 1e-10


@pytest.mark.parametrize("method", ["alternating", "exact"])
@pytest.mark.parametrize(("a", "b"), [(-1.0, 2.0), (-3.0, 0.5), (0.5, 1.0), (0.0, 1.0)])
def test_normal_and_skew_matrices_by_hand(a, b, method):
    # Sym(DA) has trace a (d1 + d2) and determinant a^2 d1 d2 - b^2 (d1 - d2)^2 / 4
    m = 0.2
    mixed = a * (1 + m) / 2 + math.hypot(a, b) * (1 - m) / 2
    f = max(a, m * a, mixed)
    result = max_log_norm([[a, b], [-b, a]], (m, 1.0), method=method)
    assert result.lower == pytest.approx(f, abs=1e-12)
    assert f - 1e-15 <= result.upper <= f + 1e-9


def test_equal_ends_are_one_logarithmic_norm():
    A = gaussian(7, 0)
    for s in (1.0, 0.3, -0.5):
        result = max_log_norm(A, (s, s))
        assert result.lower == pytest.approx(top(s * A), abs=1e-12)
        assert result.upper == pytest.approx(top(s * A), abs=1e-12)
        assert (result.d == s).all()
        assert np.isinf(result.multiplier).all()


def test_the_rotation_takes_a_quarter_turn_of_slopes():
    # J = D2 R D1 R with a quarter turn R: -D2 P D1 P is diagonal, with entries -d2_i d1_j
    R = np.array([[0.0, -1.0], [1.0, 0.0]])
    result = max_log_norm([R, R], (0.2, 1.0), method="exact")
    assert result.lower == pytest.approx(-0.04, abs=1e-12)
    assert result.gap < 1e-8


# --- brute force ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_vertices_of_200_random_matrices(record_property):
    rng = np.random.default_rng(7)
    missed = {"one start": 0, "flow": 0, "alternating": 0}
    for case in range(200):
        n = 2 + case % 11
        m = (0.02, 0.1, 0.5, 0.9)[case % 4]
        A = rng.standard_normal((n, n)) / np.sqrt(n) - (case % 2) * 1.5 * np.eye(n)
        f = brute_force(A, m, 1.0)
        results = {method: max_log_norm(A, (m, 1.0), method=method) for method in METHODS}
        results["one start"] = max_log_norm(A, (m, 1.0), certify=False, n_starts=1, n_rounds=0)
        for result in results.values():
            assert result.lower <= f + 1e-12
            assert f <= result.upper + 1e-12
            assert top(result.d[:, None] * A) == pytest.approx(result.lower, abs=1e-12)
        exact = results.pop("exact")
        assert exact.status is Status.SUCCESS
        assert exact.lower == pytest.approx(f, abs=1e-12)
        assert exact.upper == pytest.approx(f, abs=1e-8)
        for name, result in results.items():
            missed[name] += int(result.lower < f - 1e-9)
    record_property("local searches that missed the maximum, of 200", missed)
    print("missed the global maximum, of 200:", missed)
    assert missed["one start"] > 20  # a local answer is no certificate
    assert missed["alternating"] <= 10


@pytest.mark.grid(4)
@pytest.mark.parametrize("seed", range(20))
def test_all_vertices_of_several_layers(seed):
    layers, slopes = some_layers(seed)
    f = brute_force_layers(layers, slopes)
    for method in METHODS:
        result = max_log_norm(layers, slopes, method=method)
        assert result.lower <= f + 1e-12
        assert f <= result.upper + 1e-12
    assert result.method == "exact"
    assert result.lower == pytest.approx(f, abs=1e-11)
    assert result.upper == pytest.approx(f, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("slopes", [(0.0, 1.0), (-1.0, 1.0), (-2.0, -0.5), (1.0, 3.0), (2e3, 5e4)])
def test_slopes_outside_of_the_unit_interval(slopes):
    for seed in range(5):
        A = gaussian(6, seed, shift=0.5)
        f = brute_force(A, *slopes)
        result = max_log_norm(A, slopes, method="exact")
        size = max(map(abs, slopes))
        assert result.lower == pytest.approx(f, abs=1e-11 * size)
        assert f - 1e-12 * size <= result.upper <= f + 1e-7 * size


@pytest.mark.parametrize("max_nodes", [1, 2, 3, 7, 15])
def test_branch_and_bound_stopped_early_still_encloses(max_nodes):
    stopped = 0
    for seed in range(6):
        A = gaussian(12, seed, shift=1.5)
        f = brute_force(A, 0.1, 1.0)
        result = max_log_norm(A, (0.1, 1.0), method="exact", max_nodes=max_nodes)
        assert result.lower - 1e-12 <= f <= result.upper + 1e-12
        assert result.n_nodes <= max_nodes + 1
        if result.status is Status.MAX_NODES:
            stopped += 1
        else:
            assert result.gap < 1e-7
    assert stopped or max_nodes > 10


def test_boxes_that_are_put_aside_keep_their_bound(monkeypatch):
    # with a coarse tolerance and a poor lower bound, the maximum is in a box that was not split
    monkeypatch.setattr(slope_exact, "refine", lambda chain, found, *_: found)
    monkeypatch.setattr(slope_exact, "_improve", lambda chain, found, starts: found)
    split = 0
    for seed in range(8):
        A, rng = gaussian(8, seed), np.random.default_rng(0)
        chain = make_chain([A], [(0.1, 1.0)])
        root, found = slope_bound(chain), alternating(chain, starts_of(chain, 20, rng))
        gap = root.upper - found.lower
        if gap < 1e-4:
            continue
        poor, tol = found._replace(lower=found.lower - 0.5 * gap), 0.7 * gap / root.size
        exact = slope_exact.branch_and_bound(chain, root, poor, max_nodes=500, rng=rng, tol=tol)
        assert exact.status is Status.SUCCESS
        f = math.ldexp(brute_force(A, 0.1, 1.0), -chain.exponent)
        assert f - 1e-12 <= exact.upper <= poor.lower + 0.7 * gap + 1e-12
        split += exact.n_nodes > 1
    assert split >= 3


def test_more_nodes_lower_the_bound():
    A = gaussian(30, 3, shift=1.5)
    uppers = [
        max_log_norm(A, (0.1, 1.0), method="exact", max_nodes=k).upper for k in (1, 5, 15, 45)
    ]
    assert uppers == sorted(uppers, reverse=True)
    assert uppers[-1] < uppers[0] - 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("m", [0.1, 0.5])
@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_exact_for_n_up_to_20(m, shift):
    for n in (14, 17, 20):
        for seed in range(10):
            result = max_log_norm(gaussian(n, seed, shift), (m, 1.0), method="exact")
            assert result.success
            assert result.gap < 1e-7
    A = gaussian(14, 0, shift)
    f = brute_force(A, m, 1.0)
    assert max_log_norm(A, (m, 1.0), method="exact").lower == pytest.approx(f, abs=1e-12)


# --- gradients and local searches -----------------------------------------------------------------


def simple_case(seed, layers=1):
    """A chain with interior slopes whose largest eigenvalue is well separated."""
    rng = np.random.default_rng(seed)
    widths = [5, 4, 6][:layers]
    sizes = [*widths[1:], widths[0]] if layers > 1 else [5]
    A = [rng.standard_normal((b, a)) for a, b in zip(widths, sizes, strict=True)]
    chain = make_chain(A, [(0.1, 1.0)] * layers)
    d = tuple(rng.uniform(0.2, 0.9, size) for size in chain.sizes)
    return chain, d, rng


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_gradient_in_the_slopes_by_central_differences(layers):
    for seed in range(4):
        chain, d, _ = simple_case(seed, layers)
        g = chain.gradient(d, top_pair(chain, d)[1])
        h = 1e-5
        for j, i in [(j, i) for j, size in enumerate(chain.sizes) for i in range(size)]:
            ends = []
            for sign in (1, -1):
                moved = [part.copy() for part in d]
                moved[j][i] += sign * h
                ends.append(top_pair(chain, tuple(moved))[0])
            assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(g[j][i], abs=1e-7)


def test_gradient_in_the_matrix_by_central_differences():
    chain, (d,), rng = simple_case(3)
    A = chain.A[0]
    z = top_pair(chain, (d,))[1]
    for _ in range(5):
        E, h = rng.standard_normal(A.shape), 1e-5
        slope = (top(d[:, None] * (A + h * E)) - top(d[:, None] * (A - h * E))) / (2 * h)
        assert slope == pytest.approx((d * z) @ E @ z, abs=1e-7)


@pytest.mark.parametrize("layers", [1, 2])
def test_flow_is_monotone_and_ends_stationary(layers):
    for seed in range(6):
        A = [gaussian(9, seed + 50 * j) for j in range(layers)]
        result = max_log_norm(A, (0.1, 1.0), method="flow", certify=False)
        assert result.status is Status.SUCCESS
        assert len(result.history.value) > 3
        assert (np.diff(result.history.value) >= 0).all()
        assert result.residual <= 1e-6
        assert result.history.residual[-1] == pytest.approx(result.residual)
        chain = make_chain(A, [(0.1, 1.0)] * layers)
        for d, g in zip(result.d, chain.gradient(result.d, result.z), strict=True):
            assert (g[d == 1.0] >= -1e-7).all()
            assert (g[d == 0.1] <= 1e-7).all()
            assert (np.abs(g[(d > 0.1) & (d < 1.0)]) <= 1e-6).all()


def test_flow_follows_the_gradient_system():
    # small steps: the path is that of an accurate solver
    from scipy.integrate import solve_ivp

    A, lo, hi = gaussian(6, 2), 0.1, 1.0

    def rate(_, d):
        z = np.linalg.eigh(0.5 * (d[:, None] * A + A.T * d))[1][:, -1]
        g = z * (A @ z)
        return np.where(((d >= hi) & (g > 0)) | ((d <= lo) & (g < 0)), 0.0, g)

    end = solve_ivp(rate, (0, 200), np.full(6, 0.55), max_step=0.1).y[:, -1]
    flow = max_log_norm(A, (lo, hi), method="flow", certify=False)
    np.testing.assert_allclose(np.clip(end, lo, hi), flow.d, atol=1e-3)


def test_alternating_is_monotone_and_ends_at_a_stationary_vertex():
    for n, seed in ((8, 0), (30, 1), (70, 2)):
        A = gaussian(n, seed, shift=1.0)
        result = max_log_norm(A, (0.1, 1.0), certify=False)
        assert result.status is Status.SUCCESS
        assert np.isin(result.d, (0.1, 1.0)).all()
        assert (np.diff(result.history.value) >= -1e-14).all()
        s = result.z * (A @ result.z)
        assert ((s > 0) == (result.d == 1.0)).all()
        assert result.residual == 0


def test_more_starts_and_rounds_never_lose():
    A = gaussian(60, 4, shift=1.5)
    one = max_log_norm(A, (0.1, 1.0), certify=False, n_starts=1, n_rounds=0)
    many = max_log_norm(A, (0.1, 1.0), certify=False, n_starts=20, n_rounds=10)
    assert many.lower > one.lower


def test_d0_is_a_start():
    A = gaussian(12, 1, shift=1.5)
    best = max_log_norm(A, (0.1, 1.0), method="exact")
    plain = max_log_norm(A, (0.1, 1.0), certify=False, n_starts=1, n_rounds=0)
    warm = max_log_norm(A, (0.1, 1.0), certify=False, n_starts=1, n_rounds=0, d0=best.d)
    assert plain.lower < best.lower - 1e-6
    assert warm.lower == pytest.approx(best.lower, abs=1e-13)
    outside = max_log_norm(A, (0.2, 1.0), certify=False, n_starts=1, d0=best.d)
    assert ((outside.d >= 0.2) & (outside.d <= 1)).all()


def test_lanczos_agrees_with_dense_eigenpairs():
    A = gaussian(60, 0)
    chain = make_chain([A], [(0.1, 1.0)])
    rng = np.random.default_rng(0)
    d = rng.uniform(0.1, 1, (60, 3))
    X = rng.standard_normal((60, 3))
    w, Z, rough = lanczos(chain, (d,), X / np.linalg.norm(X, axis=0), 40)
    for i in range(3):
        value = top_pair(chain, (d[:, i],))[0]
        assert w[i] == pytest.approx(value, abs=1e-6)
        assert rough[i] < 1e-3
        S = chain.product((d[:, i],), Z[:, i])
        assert np.linalg.norm(S - w[i] * Z[:, i]) == pytest.approx(rough[i], abs=1e-10)


@pytest.mark.parametrize("kind", ["gaussian", "two blocks", "zero", "minus identity", "rank one"])
def test_both_eigensolvers_find_the_same_pair(monkeypatch, kind):
    n = 60
    A = {
        "gaussian": gaussian(n, 1, shift=1.5),
        "two blocks": np.kron(np.diag([1.0, 3.0]), gaussian(n // 2, 0)),
        "zero": np.zeros((n, n)),
        "minus identity": -np.eye(n),
        "rank one": np.ones((n, n)),
    }[kind]
    chain = make_chain([A], [(0.1, 1.0)])
    d = (np.random.default_rng(0).uniform(0.1, 1, n),)
    value, _ = top_pair(chain, d)
    S = 0.5 * (chain.jacobian(d) + chain.jacobian(d).T)
    monkeypatch.setattr(slope_search, "DIRECT", 10)
    far = np.zeros(n)  # in the block of the smaller eigenvalue
    far[: n // 2] = np.linalg.eigh(S[: n // 2, : n // 2])[1][:, -1]
    for z0 in (None, far):
        other, z = top_pair(chain, d, z0)
        assert other == pytest.approx(value, abs=1e-12)
        assert np.linalg.norm(S @ z - value * z) < 1e-8
        assert np.linalg.norm(z) == pytest.approx(1)


def test_lanczos_stops_in_an_invariant_subspace():
    A = np.diag([-1.0, -2.0, -3.0, -4.0])
    chain = make_chain([A], [(1.0, 1.0)])
    X = np.eye(4)[:, :1]
    w, _, _ = lanczos(chain, (np.ones((4, 1)),), X, 4)
    assert w[0] * 2.0**chain.exponent == pytest.approx(-1.0)


# --- the certificate ------------------------------------------------------------------------------


def fractions(array):
    return [[Fraction(float(x)) for x in row] for row in array]


def is_semidefinite(M):
    """Whether a symmetric matrix of fractions is positive semidefinite: exact elimination."""
    M = [list(row) for row in M]
    for k in range(len(M)):
        if M[k][k] < 0 or (M[k][k] == 0 and any(M[k][k:])):
            return False
        if M[k][k] == 0:
            continue
        for i in range(k + 1, len(M)):
            ratio = M[i][k] / M[k][k]
            for j in range(k, len(M)):
                M[i][j] -= ratio * M[k][j]
    return True


def exact_form(layers, slopes, L, lam):
    """F(lam, L) = lam E_0 - Q(L) in fractions; every slope is free."""
    n = layers[0].shape[1]
    order = n + sum(len(A) for A in layers)
    y = [[Fraction(int(i == j)) for j in range(order)] for i in range(n)]
    F = [[Fraction(0)] * order for _ in range(order)]
    w = n
    for A, (lo, hi), lj in zip(layers, slopes, L, strict=True):
        c, r = (Fraction(lo) + Fraction(hi)) / 2, (Fraction(hi) - Fraction(lo)) / 2
        u = [[sum(a * b for a, b in zip(row, col, strict=True)) for col in zip(*y, strict=True)]
             for row in fractions(A)]  # fmt: skip
        y = []
        for i, row in enumerate(u):
            li = Fraction(float(lj[i]))
            for p in range(order):
                for q in range(order):
                    F[p][q] -= li * row[p] * row[q]
            F[w + i][w + i] += li
            y.append([c * x + (r if p == w + i else 0) for p, x in enumerate(row)])
        w += len(A)
    for i in range(n):
        F[i][i] += Fraction(float(lam))
        for p in range(order):
            F[i][p] -= y[i][p] / 2
            F[p][i] -= y[i][p] / 2
    return F


@pytest.mark.parametrize("scale", [1.0, 1e150, 1e-150])
@pytest.mark.grid(2)
@pytest.mark.parametrize("seed", range(4))
def test_the_certificate_holds_in_exact_arithmetic(seed, scale):
    A = scale * gaussian(4, seed)
    result = max_log_norm(A, (0.1, 1.0))
    slopes = [(0.1, 1.0)]
    assert is_semidefinite(exact_form([A], slopes, [result.multiplier], result.upper))
    # ... and hardly more is claimed than holds
    below = result.upper - 1e-6 * abs(result.upper)
    assert not is_semidefinite(exact_form([A], slopes, [result.multiplier], below))


@pytest.mark.parametrize("seed", range(3))
def test_the_certificate_of_layers_holds_in_exact_arithmetic(seed):
    layers = [gaussian(3, seed), 1e3 * gaussian(3, seed + 10)]
    slopes = [(0.1, 1.0), (0.3, 0.8)]
    result = max_log_norm(layers, slopes)
    assert is_semidefinite(exact_form(layers, slopes, result.multiplier, result.upper))
    below = result.upper - 1e-5 * abs(result.upper)
    assert not is_semidefinite(exact_form(layers, slopes, result.multiplier, below))


@pytest.mark.grid(3)
@pytest.mark.parametrize("seed", range(5))
def test_the_lower_bound_holds_in_exact_arithmetic(seed):
    A = gaussian(6, seed)
    result = max_log_norm(A, (0.1, 1.0), certify=False)
    z = [Fraction(float(x)) for x in result.z]
    Az = [sum(a * b for a, b in zip(row, z, strict=True)) for row in fractions(A)]
    d = [Fraction(float(x)) for x in result.d]
    quotient = sum(x * y * s for x, y, s in zip(z, d, Az, strict=True)) / sum(x * x for x in z)
    assert Fraction(result.lower) <= quotient
    assert quotient - Fraction(result.lower) < Fraction(1, 10**13)


def test_the_eigenvalue_bound_covers_every_error_it_is_told():
    for seed in range(4):
        M = gaussian(5, seed)
        M += M.T
        for error in (0.0, 1e-9, 0.5):  # the worst error of this norm lifts the eigenvalue by it
            bound = slope_forms._eigenvalue_bound(M, error)
            assert top(M) + error <= bound <= top(M) + 1.02 * error + 1e-12
            F = [[-x for x in row] for row in fractions(M)]
            for i, row in enumerate(F):
                row[i] += Fraction(bound) - Fraction(error)
            assert is_semidefinite(F)


def test_semidefinite_means_that_every_error_is_covered():
    rng = np.random.default_rng(0)
    for _ in range(10):
        B = rng.standard_normal((5, 5))
        s = np.exp2(rng.integers(-30, 30, 5))
        F = s[:, None] * (B @ B.T + 0.1 * np.eye(5)) * s
        rows = s**2 * np.linalg.eigvalsh(B @ B.T + 0.1 * np.eye(5))[0]
        # F - diag(1.01 rows) has a negative eigenvalue
        assert not slope_forms._is_semidefinite(F, 1.01 * rows)
        assert slope_forms._is_semidefinite(F, np.zeros(5))
    assert slope_forms._is_semidefinite(np.eye(3), np.full(3, 0.9))


@pytest.mark.parametrize("error", [1e-3, 1e-6])
def test_the_certificate_does_not_rely_on_the_eigenvalue_solver(monkeypatch, error):
    A, layers = gaussian(6, 2), [gaussian(3, 1), gaussian(3, 2)]
    exact = brute_force(A, 0.1, 1.0), brute_force_layers(layers, [(0.1, 1.0)] * 2)
    solver = np.linalg.eigvalsh
    monkeypatch.setattr(np.linalg, "eigvalsh", lambda M: solver(M) - error)
    for problem, f in zip((A, layers), exact, strict=True):
        assert f <= max_log_norm(problem, (0.1, 1.0)).upper < math.inf


def test_middle_and_radius_contain_the_slopes_exactly():
    rng = np.random.default_rng(0)
    lo, hi = np.sort(rng.uniform(-1, 1, (2, 200)) * 10.0 ** rng.integers(-3, 4, 200), axis=0)
    c, r = (map(Fraction, part.tolist()) for part in slope_forms.middle(np.eye(200), lo, hi))
    for middle, radius, a, b in zip(c, r, lo.tolist(), hi.tolist(), strict=True):
        assert middle - radius <= Fraction(a)
        assert Fraction(b) <= middle + radius


def test_any_multiplier_gives_a_bound():
    rng = np.random.default_rng(1)
    for seed in range(10):
        A = gaussian(7, seed, shift=seed % 2)
        f = brute_force(A, 0.2, 1.0)
        chain = make_chain([A], [(0.2, 1.0)])
        form = SingleForm(chain)
        for _ in range(5):
            L = np.exp(2 * rng.standard_normal(7))
            upper = unscale(form.verified(L), chain.exponent, up=True)
            assert upper >= f
            smaller = min(form.value(L), form.crude)
            assert upper == pytest.approx(2.0**chain.exponent * smaller, rel=1e-12)


def test_any_multiplier_of_layers_gives_a_bound_or_falls_back():
    rng = np.random.default_rng(1)
    fallen = 0
    for seed in range(8):
        layers, slopes = some_layers(seed)
        f = brute_force_layers(layers, slopes)
        chain = make_chain(layers, slopes)
        form = ChainForm(chain)
        for spread in (0.0, 0.5, 3.0):
            L = form.default() * np.exp(spread * rng.standard_normal(form.count))
            upper = unscale(form.verified(L), chain.exponent, up=True)
            assert upper >= f
            fallen += form.verified(L) == form.crude
    assert 0 < fallen < 20


def test_one_layer_as_a_chain_gives_the_same_bound():
    for seed in range(3):
        chain = make_chain([gaussian(8, seed, shift=1.5)], [(0.1, 1.0)])
        single, several = SingleForm(chain), ChainForm(chain)
        L = single.default()
        assert several.value(L) == pytest.approx(single.value(L), rel=1e-12)
        assert several.verified(L) == pytest.approx(single.verified(L), rel=1e-9)


@pytest.mark.parametrize("n", [5, 20, 45])
@pytest.mark.parametrize("m", [0.1, 0.5])
def test_the_multipliers_are_optimal(n, m):
    # weak duality: every X >= 0 of trace 1 gives a number below the best bound
    for seed in range(3):
        A = gaussian(n, seed, shift=1.5 * (seed % 2))
        chain = make_chain([A], [(m, 1.0)])
        found = slope_bound(chain)
        X = found.x @ found.x.T
        X /= np.trace(X)
        B = chain.A[0]
        products = np.sqrt(np.diag(X) * np.diag(B @ X @ B.T))
        dual = (1 + m) / 2 * np.trace(B @ X) + (1 - m) / 2 * products.sum()
        assert dual <= found.upper
        assert found.upper - dual < 2e-7 * found.size


def test_the_crude_bound_is_a_special_case():
    # a = |A|_2 for all units: (1+m)/2 mu(A) + (1-m)/2 |A|_2
    for seed in range(5):
        A = gaussian(9, seed)
        crude = 0.55 * top(A) + 0.45 * np.linalg.norm(A, 2)
        assert max_log_norm(A, (0.1, 1.0)).upper <= crude + 1e-9


def test_warm_start_reaches_the_same_bound():
    A = gaussian(25, 1, shift=1.5)
    cold = max_log_norm(A, (0.1, 1.0))
    near = max_log_norm(1.01 * A, (0.1, 1.0), multiplier0=cold.multiplier)
    assert near.upper == pytest.approx(1.01 * cold.upper, abs=1e-8)
    bad = max_log_norm(A, (0.1, 1.0), multiplier0=np.full(25, 1e-30))
    assert bad.upper == pytest.approx(cold.upper, abs=1e-7)


def test_wider_slopes_have_a_larger_maximum():
    A = gaussian(10, 3, shift=1.5)
    exact = [max_log_norm(A, (m, 1.0), method="exact") for m in (0.1, 0.3, 0.6, 1.0)]
    values = [result.lower for result in exact]
    assert values == sorted(values, reverse=True)
    # convex in m
    assert values[1] <= values[0] + (values[3] - values[0]) * 0.2 / 0.9 + 1e-12


# --- scaling, degenerate and bad input ------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("power", [498, -960, 900])
def test_powers_of_two_only_shift_the_answer(power, method):
    A = gaussian(6, 0, shift=1.0)
    one = max_log_norm(A, (0.1, 1.0), method=method)
    other = max_log_norm(np.ldexp(A, power), (0.1, 1.0), method=method)
    assert other.lower == math.ldexp(one.lower, power)
    assert other.upper == math.ldexp(one.upper, power)
    np.testing.assert_array_equal(one.d, other.d)
    np.testing.assert_array_equal(np.ldexp(other.multiplier, power), one.multiplier)


def test_scaling_back_rounds_outward():
    least, largest = 5e-324, np.finfo(float).max
    for entry in (least, -least, 7 * least):  # f = 0.3 * entry is between two numbers
        result = max_log_norm([[entry]], (0.3, 0.3))
        f = Fraction(0.3) * Fraction(entry)
        assert Fraction(result.lower) <= f <= Fraction(result.upper)
        assert result.gap <= 2 * least
    result = max_log_norm(np.full((2, 2), 1e308), (0.5, 1.0))  # f = 2e308
    assert (result.lower, result.upper) == (largest, math.inf)


def test_layers_are_scaled_separately():
    layers, slopes = some_layers(0)
    one = max_log_norm(layers, slopes)
    scaled = [np.ldexp(layers[0], 700), *(np.ldexp(A, -650) for A in layers[1:])]
    other = max_log_norm(scaled, slopes)
    power = 700 - 650 * (len(layers) - 1)
    assert other.lower == math.ldexp(one.lower, power)
    assert other.upper == math.ldexp(one.upper, power)
    warm = max_log_norm(scaled, slopes, multiplier0=other.multiplier)
    assert warm.upper == pytest.approx(other.upper, rel=1e-7)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1e150, 1e307, 1e-300, 1e-315])
def test_huge_and_tiny(size, method):
    A = gaussian(5, 1)
    f = brute_force(A, 0.1, 1.0)
    result = max_log_norm(size * A, (0.1, 1.0), method=method)
    assert math.isfinite(result.upper)
    slack = 1e-12 if size > 1e-310 else 1e-6  # subnormal entries have few digits
    assert result.lower <= size * f * (1 + slack)
    assert size * f <= result.upper * (1 + slack)
    if method == "exact":
        assert result.gap <= 1e-5 * result.upper


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "A",
    [
        np.zeros((3, 3)),
        [[-2.0]],
        [[3]],
        np.eye(5, k=1) - np.eye(5),
        np.array([[1, 2], [3, 4]]),
        [[0, 0], [1, -1]],
        [[0, 1], [0, -1]],
        np.outer([1.0, 2, 3], [1.0, -1, 1]),
        np.eye(4),
        -np.eye(4),
        [[1e150, 1e-300], [1e-200, -1e150]],
        [[1.0, 1e-20], [0.0, -1.0]],
        np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32),
    ],
    ids=["zero", "1x1", "1x1 integer", "Jordan", "integer", "zero row", "zero column", "rank one",
         "identity", "minus identity", "mixed sizes", "nearly decoupled", "float32"],
)  # fmt: skip
def test_degenerate_matrices(A, method):
    dense = np.asarray(A, float)
    size = max(np.abs(dense).max(), 1e-300)
    f = brute_force(dense, 0.1, 1.0)
    result = max_log_norm(A, (0.1, 1.0), method=method)
    assert result.lower <= f + 1e-12 * size
    assert f <= result.upper + 1e-12 * size
    assert result.gap <= 1e-7 * size
    assert result.d.shape == (len(dense),)
    assert np.isfinite(result.z).all()


def test_a_zero_layer_makes_everything_zero():
    result = max_log_norm([np.eye(3), np.zeros((3, 3))], (0.1, 1.0))
    assert (result.lower, result.upper) == (0, 0)


@pytest.mark.parametrize(
    ("A", "options", "message"),
    [
        ([[np.nan]], {}, "A must be finite"),
        ([[np.inf, 0], [0, 1]], {}, "A must be finite"),
        (np.ones((2, 3)), {}, "square"),
        (np.ones(3), {}, "A must be a matrix"),
        (np.ones((2, 2, 2)), {}, "A must be a matrix"),
        (np.zeros((0, 0)), {}, "A must be a matrix"),
        (np.eye(2) * 1j, {}, "A must be real"),
        ([["a"]], {}, "A must be an array of real numbers"),
        ([np.ones((2, 3)), np.ones((2, 2))], {}, "as many columns"),
        ([np.eye(2), np.eye(2) * 1j], {}, "A must be real"),
        (np.eye(2), {"slopes": (2.0, 1.0)}, "lo <= hi"),
        (np.eye(2), {"slopes": (0.1, np.inf)}, "slopes must be finite"),
        (np.eye(2), {"slopes": (0.1,)}, "slopes must be"),
        (np.eye(2), {"slopes": 0.1}, "slopes must be"),
        (np.eye(2), {"slopes": (0.1, 1e10)}, "in size"),
        (np.eye(2), {"slopes": [(0.1, 1), (0.1, 1)]}, "slopes must be"),
        ([np.eye(2)] * 3, {"slopes": [(0.1, 1), (0.1, 1)]}, "one such pair for each layer"),
        (np.eye(2), {"method": "newton"}, "method must be one of 'alternating'"),
        (np.eye(2), {"n_starts": 0}, "n_starts must be"),
        (np.eye(2), {"n_rounds": -1}, "n_rounds must be"),
        (np.eye(2), {"max_nodes": 0}, "max_nodes must be"),
        (np.eye(2), {"d0": np.ones(3)}, "d0 must have"),
        (np.eye(2), {"multiplier0": [np.nan, 1.0]}, "multiplier0 must not have NaN"),
        (np.eye(2), {"t": [0, 1]}, "t is for a callable A"),
        (np.eye(2), {"lipschitz": 1.0}, "lipschitz is for a callable A"),
        (sp.eye(3).tocsr(), {}, "certify=False"),
        (sp.eye(3).tocsr(), {"certify": False, "method": "exact"}, "certificate needs"),
        (sp.csr_matrix(np.eye(2) * 1j), {"certify": False}, "real"),
        (sp.csr_matrix([[np.nan, 0], [0, 1]]), {"certify": False}, "finite"),
    ],
)
def test_bad_arguments_are_named(A, options, message):
    with pytest.raises(ValueError, match=message):
        max_log_norm(A, **options)


def test_the_result_says_what_it_is():
    A = gaussian(5, 0)
    certified, local = max_log_norm(A), max_log_norm(A, certify=False)
    assert certified.certified
    assert not local.certified
    assert local.upper == math.inf
    assert local.multiplier is None
    assert certified.gap == certified.upper - certified.lower
    assert "alternating" in repr(certified)
    assert "gap" in repr(certified)
    with pytest.raises(AttributeError):
        certified.upper = 0.0


def test_the_same_seed_gives_the_same_answer():
    A = gaussian(50, 0, shift=1.5)
    one, two = (max_log_norm(A, (0.1, 1.0), rng=3) for _ in range(2))
    assert (one.lower, one.upper) == (two.lower, two.upper)
    np.testing.assert_array_equal(one.d, two.d)


@pytest.mark.parametrize("n", [20, 120])
@pytest.mark.parametrize("method", ["alternating", "flow"])
def test_sparse_matrices_and_operators_have_a_lower_bound(n, method):
    A = sp.random(n, n, 0.1, random_state=0).tocsr() - sp.eye(n)
    options = {"method": method, "certify": False, "n_rounds": 2}
    dense = max_log_norm(A.toarray(), (0.1, 1.0), **options)
    for B in (A, sp.coo_array(A), aslinearoperator(A)):
        result = max_log_norm(B, (0.1, 1.0), **options)
        assert result.lower == pytest.approx(dense.lower, rel=0.05)
        assert result.lower == pytest.approx(top(result.d[:, None] * A.toarray()), abs=1e-9)
        assert result.lower <= top(result.d[:, None] * A.toarray()) + 1e-12


def test_proven_value_never_exceeds_the_eigenvalue():
    for seed in range(5):
        layers, slopes = some_layers(seed)
        chain = make_chain(layers, slopes)
        value, z = top_pair(chain, chain.hi)
        assert value - 1e-12 <= proven_value(chain, chain.hi, z) < value + 1e-15
        g = chain.gradient(chain.hi, z)
        assert residual_of(chain, chain.hi, g) == max(0, *(-part.min() for part in g))


# --- along the depth ------------------------------------------------------------------------------


def test_scalar_path_in_closed_form():
    # f(a I) = a or m a; a(t) = 1 - t is linear, so between="linear" is exact but for the kink
    m, t = 0.25, np.array([0.0, 0.5, 1.0, 2.0])
    path = max_log_norm(lambda s: (1 - s) * np.eye(3), (m, 1.0), t=t, between="linear")
    assert isinstance(path, LogNormPath)
    assert path.rigorous
    exact = np.where(t <= 1, t - t**2 / 2, 0.5 - m * (t - 1) ** 2 / 2)
    np.testing.assert_allclose(path.integral_upper, exact, atol=1e-9)
    np.testing.assert_allclose(path.integral_lower, exact, atol=1e-9)
    assert path.sup == pytest.approx(1.0)
    np.testing.assert_allclose(path.growth_upper, np.exp(exact), rtol=1e-8)
    assert (path.growth_lower <= path.growth_upper).all()


def test_growth_factors_are_rounded_outward():
    rates = np.random.default_rng(0).uniform(-3, 3, 40)
    path = max_log_norm(
        lambda s: np.array([[rates[int(s)]]]), (1.0, 1.0), t=np.arange(40.0), between="constant"
    )
    with localcontext() as context:
        context.prec = 40
        for k in range(40):
            assert Decimal(path.growth_upper[k]) >= Decimal(path.integral_upper[k]).exp()
            assert Decimal(path.growth_lower[k]) <= Decimal(path.integral_lower[k]).exp()


def fine_integral(A, ends, slopes, k=200):
    s = np.linspace(*ends, k + 1)
    values = [brute_force(A(x), *slopes) for x in s]
    h = s[1] - s[0]
    return h * (np.sum(values) - 0.5 * (values[0] + values[-1])), max(values)


def test_linear_pieces_enclose_the_integral():
    A0, A1 = gaussian(4, 0, shift=1.0), gaussian(4, 1)

    def linear(s):
        return (1 - s) * A0 + s * A1

    path = max_log_norm(linear, (0.1, 1.0), t=[0.0, 0.3, 1.0], between="linear")
    integral, largest = fine_integral(linear, (0, 1), (0.1, 1.0))
    assert path.integral_lower[-1] - 1e-4 <= integral <= path.integral_upper[-1] + 1e-4
    assert path.integral_upper[-1] - path.integral_lower[-1] < 0.2
    assert largest <= path.sup + 1e-12


def test_lines_that_cross_are_joined_from_below():
    # f = max(a, m a) + ..., here the two ends favour different slopes
    path = max_log_norm(
        lambda s: np.diag([1 - 2 * s, 2 * s - 1]), (0.1, 1.0), t=[0.0, 1.0], between="linear"
    )
    assert path.integral_upper[-1] == pytest.approx(1.0)  # the trapezoidal rule
    assert path.integral_lower[-1] == pytest.approx(0.5)  # the integral of |1 - 2s|


def test_constant_pieces_use_the_left_end():
    calls = []

    def A(s):
        calls.append(s)
        return np.diag([2.0 if s < 1 else -1.0])

    path = max_log_norm(A, (0.5, 1.0), t=[0.0, 1.0, 3.0], between="constant")
    assert calls == [0.0, 1.0, 3.0]
    np.testing.assert_allclose(path.integral_upper, [0.0, 2.0, 1.0], atol=1e-9)
    assert path.rigorous


def test_lipschitz_constant_bounds_what_the_grid_misses():
    B = gaussian(3, 2, shift=1.0)
    C = gaussian(3, 5)

    def A(s):
        return B + np.sin(3 * s) * C

    rate = 3 * np.linalg.norm(C, 2)
    t = np.linspace(0, 2, 9)
    path = max_log_norm(A, (0.1, 1.0), t=t, lipschitz=rate)
    integral, largest = fine_integral(A, (0, 2), (0.1, 1.0))
    assert path.rigorous
    assert path.integral_lower[-1] < integral < path.integral_upper[-1]
    assert largest <= path.sup
    finer = max_log_norm(A, (0.1, 1.0), t=np.linspace(0, 2, 33), lipschitz=rate)
    assert finer.integral_upper[-1] < path.integral_upper[-1]
    # a jump that the constant does allow, at the worst place: f = c - rate |s - 1/2|
    tent = max_log_norm(
        lambda s: np.diag([2 - abs(s - 0.5)]), (0.1, 1.0), t=[0.0, 1.0], lipschitz=1.0
    )
    assert tent.integral_upper[-1] == pytest.approx(1.75)
    assert tent.sup == pytest.approx(2.0)
    dip = max_log_norm(
        lambda s: np.diag([2 + abs(s - 0.5)]), (0.1, 1.0), t=[0.0, 1.0], lipschitz=1.0
    )
    assert dip.integral_lower[-1] == pytest.approx(2.25)


def test_nothing_is_claimed_between_the_depths_without_a_reason():
    path = max_log_norm(lambda s: np.diag([np.cos(9 * s)]), (0.1, 1.0), t=[0.0, 0.3, 1.0])
    assert not path.rigorous
    assert "estimates" in repr(path)
    local = max_log_norm(
        lambda s: np.eye(1), (0.1, 1.0), t=[0.0, 1.0], between="linear", certify=False
    )
    assert not local.rigorous


def test_layers_along_the_depth():
    def layers(s):
        return [gaussian(3, 0) * (1 + s), gaussian(3, 1)]

    path = max_log_norm(layers, (0.1, 1.0), t=[0.0, 1.0, 2.0], between="constant")
    assert path.rigorous
    for k, s in enumerate(path.t):
        alone = max_log_norm(layers(s), (0.1, 1.0))
        assert path.upper[k] == pytest.approx(alone.upper, rel=1e-6)
    with pytest.raises(ValueError, match="several layers"):
        max_log_norm(layers, (0.1, 1.0), t=[0.0, 1.0], between="linear")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "t must be given"),
        ({"t": [1.0, 0.0]}, "increasing"),
        ({"t": [0.0]}, "two depths"),
        ({"t": "abc"}, "t must be"),
        ({"t": [0.0, 1.0], "between": "cubic"}, "between must be one of"),
        ({"t": [0.0, 1.0], "between": "linear", "lipschitz": 1.0}, "exclude"),
        ({"t": [0.0, 1.0], "lipschitz": -1.0}, "lipschitz must be"),
    ],
)
def test_bad_arguments_of_a_path(options, message):
    with pytest.raises(ValueError, match=message):
        max_log_norm(lambda s: np.eye(2), (0.1, 1.0), **options)


# --- one matrix -----------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1, 2, np.inf])
def test_log_norm_is_the_derivative_of_the_norm(p):
    for seed in range(4):
        A = gaussian(5, seed)
        h = 1e-6
        slope = (np.linalg.norm(np.eye(5) + h * A, p) - 1) / h
        assert log_norm(A, p) == pytest.approx(slope, abs=1e-5)


def test_weighted_log_norm_is_the_one_in_other_coordinates():
    rng = np.random.default_rng(0)
    A, C = gaussian(5, 0), rng.standard_normal((5, 5))
    P = C @ C.T + np.eye(5)
    root = np.linalg.cholesky(P).T  # |x|_P = |root x|
    assert log_norm(A, weight=P) == pytest.approx(log_norm(root @ A @ np.linalg.inv(root)))
    assert log_norm(A, weight=7 * np.eye(5)) == pytest.approx(log_norm(A))
    # Lyapunov: A^T P + P A <= 2 mu P, with equality in some direction
    mu = log_norm(A, weight=P)
    gap = np.linalg.eigvalsh(2 * mu * P - A.T @ P - P @ A)
    assert abs(gap[0]) < 1e-9


def test_log_norm_of_a_stack():
    stack = np.stack([[gaussian(4, s) for s in range(3)] for _ in range(2)])
    weight = np.diag([1.0, 2, 3, 4])
    for p, W in ((1, None), (2, None), (np.inf, None), (2, weight)):
        values = log_norm(stack, p, weight=W)
        assert values.shape == (2, 3)
        assert values[1, 2] == pytest.approx(log_norm(stack[1, 2], p, weight=W))


def test_log_norm_of_huge_and_integer_matrices():
    assert log_norm([[1, 2], [2, 1]]) == pytest.approx(3)
    assert log_norm(np.eye(3) * 1e308) == pytest.approx(1e308)
    assert log_norm(np.eye(3) * 1e-300) == pytest.approx(1e-300, rel=1e-12)


@pytest.mark.parametrize(
    ("A", "options", "message"),
    [
        (np.ones((2, 3)), {}, "square"),
        (np.ones(3), {}, "square"),
        ([[np.nan]], {}, "finite"),
        ([[1j]], {}, "real"),
        (np.eye(2), {"p": 3}, "p must be"),
        (np.eye(2), {"p": 1, "weight": np.eye(2)}, "weight is for p=2"),
        (np.eye(2), {"weight": np.eye(3)}, "weight must have shape"),
        (np.eye(2), {"weight": [[1.0, 1.0], [0.0, 1.0]]}, "symmetric"),
        (np.eye(2), {"weight": -np.eye(2)}, "positive definite"),
    ],
)
def test_bad_arguments_of_log_norm(A, options, message):
    with pytest.raises(ValueError, match=message):
        log_norm(A, **options)


def test_a_start_that_stalls_is_given_up(monkeypatch):
    """Multipliers of another matrix may lead Newton's method to where it cannot go on."""
    from snode.analysis import slope_bound as module

    A = np.random.default_rng(8).standard_normal((12, 12))
    cold = max_log_norm(A, (0.0, 1.0))
    near = cold.multiplier * np.exp(0.1 * np.random.default_rng(9).standard_normal(12))
    own, warm = module._interior_point, []

    def stalling(form, L, distance, *rest):
        solved = own(form, L, distance, *rest)
        if distance != module.WARM:
            return solved
        warm.append(1)
        return solved._replace(L=L, done=False)

    monkeypatch.setattr(module, "_interior_point", stalling)
    again = max_log_norm(A, (0.0, 1.0), multiplier0=near)
    assert warm == [1]
    assert abs(again.upper - cold.upper) < 1e-9


def test_multipliers_worse_than_the_default_ones_are_not_used():
    A = np.random.default_rng(8).standard_normal((12, 12))
    cold = max_log_norm(A, (0.0, 1.0))
    far = cold.multiplier * np.exp(3 * np.random.default_rng(9).standard_normal(12))
    assert max_log_norm(A, (0.0, 1.0), multiplier0=far).upper == cold.upper


def test_blas_has_its_threads_again_afterwards():
    from threadpoolctl import threadpool_info

    before = [lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"]
    max_log_norm(np.eye(3))
    with pytest.raises(ValueError, match="finite"):
        max_log_norm(np.full((3, 3), np.nan))
    assert before == [lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"]
