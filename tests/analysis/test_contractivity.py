"""Contractivity: closed forms, brute force over all vertices, monotone iterations, certificates."""

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import brentq, minimize

from snode.analysis import perturbation
from snode.analysis.contractivity import (
    ContractingShift,
    Verdict,
    contracting_shift,
    contractivity_interval,
)
from snode.analysis.lognorm import max_log_norm
from snode.analysis.perturbation import minimal_perturbation
from snode.analysis.slope_roots import Certificate

BOTH = pytest.mark.parametrize("certified", [True, False])


def vertices(n, slopes):
    return np.array(list(itertools.product(slopes, repeat=n)))


def brute(A, slopes):
    """The largest logarithmic norm, over all vertices."""
    product = vertices(len(A), slopes)[:, :, None] * A
    return float(np.linalg.eigvalsh(0.5 * (product + product.swapaxes(1, 2)))[:, -1].max())


def example(b):
    return np.array([[-1.0, b], [0.0, -1.0]])


def random_matrix(n, seed, shift=1.0, size=1.0):
    rng = np.random.default_rng([seed, n])
    return size * rng.standard_normal((n, n)) / np.sqrt(n) - shift * np.eye(n)


def rounding(A):
    return 1e-12 * max(1.0, float(np.abs(A).sum(axis=1).max()))


# --- the smallest m -------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("b", [0.3, 1.0, -1.2, 1.9])
def test_known_example(b, certified):
    found = contractivity_interval(example(b), certified=certified)
    assert found.status is Verdict.FOUND
    assert found.certified == certified
    assert abs(found.m - b * b / 4) <= 1e-10
    assert abs(found.lower - b * b / 4) <= 1e-10
    assert found.nit == len(found.history) - 1 <= 8
    for step in found.history:
        m, root = step.x, math.sqrt((1 - step.x) ** 2 + b * b)
        assert step.value == pytest.approx(-(1 + m) / 2 + root / 2, abs=1e-8)
        assert step.slope == pytest.approx(-1 / 2 - (1 - m) / (2 * root), abs=1e-4)
    if certified:
        assert found.value <= 0
        assert found.m >= b * b / 4


@pytest.mark.grid(4)
@pytest.mark.parametrize("n", range(2, 8))
@pytest.mark.parametrize("seed", range(3))
def test_the_true_m_is_between_the_bounds(n, seed):
    A = random_matrix(n, seed, shift=1.2)
    c = 0.5 * brute(A, (0.05, 1.0)) + 0.5 * brute(A, (1.0, 1.0))
    true = brentq(lambda m: brute(A, (m, 1.0)) - c, 0.0, 1.0, xtol=1e-13)
    found, local = (contractivity_interval(A, c, certified=flag) for flag in (True, False))
    assert found.lower - 1e-10 <= true <= found.m + 1e-13
    assert brute(A, (found.m, 1.0)) <= c + rounding(A)
    assert local.m <= true + 1e-10
    assert max_log_norm(A, (found.m, 1.0)).upper <= c + 1e-8
    assert found.gap == found.m - found.lower <= 0.15


@BOTH
@pytest.mark.grid(3)
@pytest.mark.parametrize("seed", range(5))
def test_newton_from_the_left_is_monotone(seed, certified):
    A = random_matrix(9, seed, shift=1.5)
    for found in (
        contractivity_interval(A, -0.05, certified=certified),
        contracting_shift(A, (0.2, 1.0), -0.4, certified=certified),
    ):
        kinds = [step.kind for step in found.history[1:]]
        count = kinds.index("bracket") if "bracket" in kinds else len(kinds)
        steps = found.history[: count + 1]
        assert count >= 2
        assert all(kind == "Newton" for kind in kinds[:count])
        assert (np.diff([step.x for step in steps]) > 0).all()
        assert (np.diff([step.value for step in steps]) < 0).all()
        if certified:  # a local search may jump to a better pattern of slopes
            assert (np.diff([step.slope for step in steps]) >= -1e-4).all()
        # a step that goes too far does so by what the certificate is inexact
        assert all(step.value >= found.c - 1e-8 for step in steps)


@BOTH
def test_matrices_by_hand(certified):
    skew = np.array([[0.0, 1.0], [-1.0, 0.0]])  # f(m) = (1 - m) / 2
    for c, m in ((0.0, 1.0), (0.1, 0.8), (0.45, 0.1)):
        assert contractivity_interval(skew, c, certified=certified).m == pytest.approx(m, abs=1e-9)
    every = contractivity_interval(skew, 0.6, certified=certified)
    assert (every.m, every.lower, every.status) == (0.0, 0.0, Verdict.EVERY)
    # diagonal, f(m) = -m times the smallest modulus
    diagonal = np.diag([-1.0, -2.0, -5.0])
    assert contractivity_interval(diagonal, -0.3, certified=certified).m == pytest.approx(0.3)
    assert contractivity_interval(diagonal, certified=certified).m <= 1e-11
    # normal: a rotation minus the identity, f(1) = -1
    normal = np.array([[-1.0, 0.5], [-0.5, -1.0]])
    found = contractivity_interval(normal, -0.6, certified=certified)
    assert found.m == pytest.approx(
        brentq(lambda m: brute(normal, (m, 1.0)) + 0.6, 0, 1, xtol=1e-13), abs=1e-9
    )
    assert contractivity_interval(np.array([[-2.0]]), -1.0, certified=certified).m == pytest.approx(
        0.5, abs=1e-10
    )
    zero = contractivity_interval(np.zeros((3, 3)), certified=certified)
    assert (zero.m, zero.status) == (0.0, Verdict.EVERY)


@BOTH
def test_nothing_works_where_the_logarithmic_norm_is_too_large(certified):
    found = contractivity_interval(np.diag([0.5, -1.0]), 0.4, certified=certified)
    assert math.isnan(found.m)
    assert found.status is Verdict.NONE
    assert found.lower == math.inf
    assert contractivity_interval(np.diag([0.5, -1.0]), 0.6, certified=certified).m <= 1


def test_equality_to_rounding_is_said_to_be_undecided():
    A = random_matrix(5, 1)
    c = float(np.linalg.eigvalsh(0.5 * (A + A.T))[-1])
    found = contractivity_interval(A, c)
    assert found.status is Verdict.UNDECIDED
    assert math.isnan(found.m)


@BOTH
@pytest.mark.grid(3)
@pytest.mark.parametrize("factor", [1e150, 1e-300, 2.0**40])
def test_size_does_not_matter(factor, certified):
    A, c = random_matrix(4, 2), -0.1
    one = contractivity_interval(A, c, certified=certified)
    other = contractivity_interval(factor * A, factor * c, certified=certified)
    assert other.m == pytest.approx(one.m, abs=1e-9)
    shift = contracting_shift(A, (0.3, 1.0), c, certified=certified)
    moved = contracting_shift(factor * A, (0.3, 1.0), factor * c, certified=certified)
    assert moved.tau == pytest.approx(factor * shift.tau, rel=1e-8)
    if factor == 1e150:
        return
    delta = minimal_perturbation(A, (0.3, 1.0), c, certified=certified)
    larger = minimal_perturbation(factor * A, (0.3, 1.0), factor * c, certified=certified)
    assert larger.norm == pytest.approx(factor * delta.norm, rel=1e-3)
    assert larger.lower == pytest.approx(factor * delta.lower, rel=1e-4)


def test_a_defective_matrix():
    A = np.diag(np.full(4, -1.0)) + np.diag(np.full(3, 0.9), 1)
    found = contractivity_interval(A)
    assert brute(A, (found.m, 1.0)) <= 1e-12
    assert brute(A, (found.lower - 1e-6, 1.0)) > 0


def test_integers_are_numbers():
    assert contractivity_interval(np.array([[-2, 2], [0, -2]])).m == pytest.approx(0.25, abs=1e-10)


def test_the_table_is_printed():
    text = repr(contractivity_interval(example(1.0)))
    assert "certified" in text
    assert "f(m)" in text
    assert len(text.splitlines()) >= 6
    assert "Newton" in text
    assert "no guarantee" in repr(contractivity_interval(example(1.0), certified=False))
    assert "g(tau)" in repr(contracting_shift(example(1.0), (0.1, 1.0)))
    assert "shift" in repr(minimal_perturbation(example(1.0), (0.1, 1.0)))


def test_the_result_does_not_depend_on_chance():
    A = random_matrix(8, 4)
    one, two = (contractivity_interval(A, -0.05, rng=3) for _ in range(2))
    assert one.history == two.history


# --- derivatives of the certificate ---------------------------------------------------------------


@pytest.mark.parametrize("slopes", [(0.1, 1.0), (0.0, 1.0), (0.3, 0.7), (1.0, 1.0)])
def test_gradient_of_the_certificate(slopes):
    rng = np.random.default_rng(5)
    for seed in range(4):
        A, G = random_matrix(6, seed), rng.standard_normal((6, 6))
        found, e = Certificate.of(A, slopes), 1e-4
        values = [Certificate.of(A + s * e * G, slopes).upper for s in (1, -1)]
        difference = (values[0] - values[1]) / (2 * e)
        assert float(np.vdot(found.gradient(A), G)) == pytest.approx(difference, abs=3e-4)


@pytest.mark.parametrize("slopes", [(0.1, 1.0), (0.3, 0.7)])
def test_gradient_of_the_smoothed_certificate(slopes):
    rng = np.random.default_rng(2)
    B, G = random_matrix(5, 1), rng.standard_normal((5, 5))
    multiplier, g = rng.uniform(0.1, 2, 5), rng.standard_normal(5)

    def bound(e):
        return perturbation._smoothed_bound(B + e * G, multiplier * np.exp(e * g), slopes, 0.05)

    value, slope, own = bound(0.0)
    e = 1e-5
    difference = (bound(e)[0] - bound(-e)[0]) / (2 * e)
    assert float(np.vdot(slope, G) + own @ g) == pytest.approx(difference, rel=1e-7)
    assert value >= brute(B, slopes)  # smoothed from above, for any multipliers


# --- the shift ------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("slopes", [(0.1, 1.0), (0.4, 1.0), (0.2, 0.5)])
@pytest.mark.parametrize("n", [2, 4, 7])
def test_shift(n, slopes, certified):
    A, c = random_matrix(n, 3, shift=0.3), -0.02
    lo, hi = slopes
    found = contracting_shift(A, slopes, c, certified=certified)
    true = brentq(lambda tau: brute(A - tau * np.eye(n), slopes) - c, 0, 100, xtol=1e-13)
    assert found.lower - 1e-9 <= true
    assert np.allclose(found.matrix, A - found.tau * np.eye(n), rtol=0, atol=1e-14)
    assert 0 <= found.tau <= (found.history[0].value - c) / lo + 1e-9
    assert all(-hi - 1e-6 <= step.slope <= -lo + 1e-6 for step in found.history)
    assert found.value <= c
    if certified:
        assert found.tau >= true - 1e-12
        assert brute(found.matrix, slopes) <= c + rounding(A)
        assert max_log_norm(found.matrix, slopes).upper <= c + 1e-8
    else:
        assert found.tau <= true + 1e-9


def test_no_shift_where_none_is_needed():
    found = contracting_shift(-np.eye(3), (0.1, 1.0), -0.05)
    assert isinstance(found, ContractingShift)
    assert (found.tau, found.lower, found.status) == (0.0, 0.0, Verdict.EVERY)
    assert np.array_equal(found.matrix, -np.eye(3))


def test_shift_of_equal_slopes_is_the_logarithmic_norm():
    A = random_matrix(6, 0, shift=0.0)
    mu = float(np.linalg.eigvalsh(0.5 * (A + A.T))[-1])
    assert contracting_shift(A, (1.0, 1.0), 0.1).tau == pytest.approx(mu - 0.1, abs=1e-9)
    assert contracting_shift(A, (0.5, 0.5), 0.1).tau == pytest.approx(mu - 0.2, abs=1e-9)


# --- the smallest perturbation --------------------------------------------------------------------


@BOTH
def test_perturbation_for_equal_slopes_is_the_closed_form(certified):
    A, c = random_matrix(7, 1, shift=0.2), 0.15
    w = np.linalg.eigvalsh(0.5 * (A + A.T))
    assert (w > c).sum() >= 2
    found = minimal_perturbation(A, (1.0, 1.0), c, certified=certified)
    assert found.source == "closed form"
    assert found.norm == pytest.approx(np.sqrt((np.maximum(w - c, 0) ** 2).sum()), abs=1e-9)
    assert found.gap <= 1e-9
    after = np.linalg.eigvalsh(0.5 * (found.matrix + found.matrix.T))
    assert after == pytest.approx(np.minimum(w, c), abs=1e-9)
    half = minimal_perturbation(A, (0.5, 0.5), c, certified=certified)
    assert half.norm == pytest.approx(np.sqrt((np.maximum(w - 2 * c, 0) ** 2).sum()), abs=1e-9)


@pytest.mark.grid(2)
@pytest.mark.parametrize("n", [2, 3, 6])
@pytest.mark.parametrize("slopes", [(0.1, 1.0), (0.5, 1.0), (0.2, 0.6)])
def test_perturbation_is_certified_and_smaller_than_the_shift(n, slopes):
    A = random_matrix(n, 7, shift=0.7, size=1.5)
    found = minimal_perturbation(A, slopes, -0.01)
    assert found.value <= -0.01
    assert brute(found.matrix, slopes) <= -0.01 + rounding(A)
    assert np.allclose(A + found.delta, found.matrix, rtol=0, atol=1e-14)
    assert found.norm == pytest.approx(np.linalg.norm(found.delta), rel=1e-12)
    assert found.lower <= found.norm <= found.shift_norm * (1 + 1e-12)
    assert found.gap <= 0.06 * found.norm


@pytest.mark.grid(4)
@pytest.mark.parametrize("seed", range(8))
def test_perturbation_is_never_larger_than_the_shift(seed):
    n = 2 + seed % 4
    A = random_matrix(n, seed, shift=0.5)
    for certified in (True, False):
        found = minimal_perturbation(A, (0.15, 1.0), certified=certified)
        assert found.lower <= found.norm <= found.shift_norm * (1 + 1e-12)


def test_a_matrix_whose_shift_is_best_for_no_good_reason_keeps_it(monkeypatch):
    # where cutting planes and certificate give nothing useful, the shift is what is returned
    A = random_matrix(4, 0, shift=0.0)
    monkeypatch.setattr(
        perturbation, "_least_certified", lambda problem, delta, tau, *_: -5 * tau * np.eye(4)
    )
    monkeypatch.setattr(
        perturbation._Cuts, "run", lambda self, tol, rounds, *_: (np.full((4, 4), 9.0), 0.0, ())
    )
    found = minimal_perturbation(A, (0.2, 1.0))
    assert found.source == "shift"
    assert found.norm == pytest.approx(found.shift_norm)
    assert brute(found.matrix, (0.2, 1.0)) <= rounding(A)


@pytest.mark.grid(3)
@pytest.mark.parametrize("seed", range(3))
def test_lower_bound_against_another_solver(seed):
    """All vertices as constraints of SLSQP: the optimum is between the two bounds."""
    n, slopes, c = 3, (0.2, 1.0), -0.05
    A = random_matrix(n, seed, shift=0.4, size=1.5)
    D = vertices(n, slopes)

    def slack(v):
        product = D[:, :, None] * (A + v.reshape(n, n))
        return c - np.linalg.eigvalsh(0.5 * (product + product.swapaxes(1, 2)))[:, -1]

    found = minimal_perturbation(A, slopes, c)
    other = minimize(
        lambda v: 0.5 * v @ v, found.delta.ravel(), jac=lambda v: v, method="SLSQP",
        constraints={"type": "ineq", "fun": slack}, options={"maxiter": 500, "ftol": 1e-12},
    )  # fmt: skip
    assert slack(other.x).min() >= -1e-7
    best = float(np.linalg.norm(other.x))
    assert found.lower <= best + 1e-5
    assert found.lower >= 0.99 * best
    local = minimal_perturbation(A, slopes, c, certified=False)
    assert local.norm == pytest.approx(best, rel=1e-2)


def test_cutting_planes_rise():
    found = minimal_perturbation(random_matrix(6, 1, size=1.5), (0.1, 1.0))
    lower = [step.lower for step in found.history]
    assert len(lower) >= 4
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(lower))
    assert found.history[-1].violation < found.history[0].violation


def test_no_perturbation_where_none_is_needed():
    found = minimal_perturbation(-np.eye(3), (0.1, 1.0), -0.05)
    assert (found.norm, found.lower, found.source) == (0.0, 0.0, "none needed")
    assert not found.delta.any()


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [contractivity_interval, lambda A: contracting_shift(A, (0.1, 1.0)), minimal_perturbation],
)
@pytest.mark.parametrize(
    ("A", "message"),
    [
        (np.ones((2, 3)), "A must be a square matrix"),
        (np.ones(3), "A must be a square matrix"),
        (np.empty((0, 0)), "A must be a square matrix"),
        (np.array([[1.0, np.nan], [0.0, 1.0]]), "A must be finite"),
        (np.array([[1.0, np.inf], [0.0, 1.0]]), "A must be finite"),
        (np.eye(2) * 1j, "A must be real"),
        ([["a", "b"], ["c", "d"]], "A must be a matrix of numbers"),
    ],
)
def test_wrong_matrices_are_named(call, A, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(A)


@pytest.mark.parametrize("call", [contracting_shift, minimal_perturbation])
@pytest.mark.parametrize(
    "slopes", [(0.0, 1.0), (-0.1, 1.0), (1.0, 0.5), (0.1, np.inf), (np.nan, 1.0), 0.1, "ab"]
)
def test_wrong_slopes_are_named(call, slopes):
    with pytest.raises(ValueError, match="slopes must be"):
        call(np.eye(2), slopes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"c": np.nan}, "c must be finite"),
        ({"tol": 0.0}, "tol must be"),
        ({"max_iter": 0}, "max_iter must be"),
        ({"n_starts": 1.5}, "n_starts must be"),
    ],
)
def test_wrong_options_are_named(options, message):
    for call in (contractivity_interval, contracting_shift, minimal_perturbation):
        with pytest.raises(ValueError, match=message):
            call(example(1.0), **options)
