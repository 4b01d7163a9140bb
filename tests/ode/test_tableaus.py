"""Tableaus check themselves: exactly, for every rooted tree, and find every changed coefficient."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

import snode
from snode.ode.fixed import solve_fixed
from snode.ode.tableaus import ADAPTIVE, TABLEAUS, ButcherTableau, rooted_trees

EPS = np.finfo(np.float64).eps

every = pytest.mark.parametrize("tableau", TABLEAUS.values(), ids=TABLEAUS.keys())


# --- rooted trees ---------------------------------------------------------------------------------


def test_number_of_rooted_trees():
    # 1, 1, 2, 4, 9, 20 trees with 1, ..., 6 vertices (OEIS A000081)
    assert [len(rooted_trees(p)) for p in range(1, 7)] == [1, 2, 4, 8, 17, 37]
    assert len(set(rooted_trees(6))) == 37


# --- order conditions -----------------------------------------------------------------------------


@every
def test_order_conditions_hold_exactly(tableau):
    assert tableau.defects() == []


@every
def test_the_order_is_not_higher_than_claimed(tableau):
    assert replace(tableau, order=tableau.order + 1).defects()
    if tableau.e:
        assert replace(tableau, embedded_order=tableau.embedded_order + 1).defects()
    if tableau.dense:
        assert replace(tableau, dense_order=tableau.dense_order + 1).defects()


def test_conditions_of_order_three_against_hand_written_ones():
    # sum b = 1, b c = 1/2, b c^2 = 1/3, b A c = 1/6: three of them for Heun's third-order method
    third = Fraction(1, 3)
    b = (Fraction(1, 4), Fraction(0), Fraction(3, 4))
    heun3 = ButcherTableau("heun3", 3, ((), (third,), (Fraction(0), 2 * third)), b)
    assert heun3.c == (0, third, 2 * third)
    assert heun3.defects() == []
    # a_32 moves b c^2 (the bushy tree) and b A c (the tall one), and b c as well
    wrong = replace(heun3, a=((), (third,), (Fraction(0), Fraction(1))))
    assert len(wrong.defects()) == 3


def entries(tableau):
    """Yield (name, tableau with one nonzero coefficient changed)."""
    change = Fraction(1, 10**6)

    def moved(row, i):
        return (*row[:i], row[i] + change, *row[i + 1 :])

    for k, row in enumerate(tableau.a):
        for i, value in enumerate(row):
            if value:
                a = (*tableau.a[:k], moved(row, i), *tableau.a[k + 1 :])
                yield f"a[{k}][{i}]", {"a": a}
    for i, value in enumerate(tableau.b):
        if value:
            yield f"b[{i}]", {"b": moved(tableau.b, i)}
    for i, value in enumerate(tableau.e):
        if value:
            yield f"e[{i}]", {"e": moved(tableau.e, i)}
    for k, row in enumerate(tableau.dense):
        for i, value in enumerate(row):
            if value:
                yield (
                    f"dense[{k}][{i}]",
                    {"dense": (*tableau.dense[:k], moved(row, i), *tableau.dense[k + 1 :])},
                )


CHANGES = [
    pytest.param(tableau, change, id=f"{name}-{where}")
    for name, tableau in TABLEAUS.items()
    for where, change in entries(tableau)
]


@pytest.mark.parametrize(("tableau", "change"), CHANGES)
def test_a_changed_coefficient_is_found(tableau, change):
    if tableau.dense and ("b" in change or "dense" in change):  # refused at once
        with pytest.raises(ValueError, match="equal b at theta = 1"):
            replace(tableau, **change)
    else:
        assert replace(tableau, **change).defects()


@pytest.mark.parametrize(
    ("tableau", "change"), [case for case in CHANGES if "dense" not in case.values[1]]
)
def test_a_changed_coefficient_is_found_without_the_dense_output(tableau, change):
    assert replace(tableau, dense=(), dense_order=0, **change).defects()


def test_the_changes_are_all_the_coefficients():
    counts = {"euler": 1, "midpoint": 2, "heun": 3, "rk4": 7}
    for name, count in counts.items():
        assert len(list(entries(TABLEAUS[name]))) == count
    # 20 + 6 (a and b), 6 (e), 18 of dense
    assert len(list(entries(TABLEAUS["dormand_prince"]))) == 20 + 6 + 6 + 18


def test_a_changed_dense_coefficient_that_still_ends_at_b_is_found():
    tableau = TABLEAUS["dormand_prince"]
    change = Fraction(1, 10**6)
    for k, row in enumerate(tableau.dense):
        if not any(row):
            continue
        moved = (row[0], row[1] + change, row[2] - change, row[3])
        dense = (*tableau.dense[:k], moved, *tableau.dense[k + 1 :])
        assert replace(tableau, dense=dense).defects()


# --- what the drivers rely on ---------------------------------------------------------------------


@pytest.mark.parametrize("tableau", ADAPTIVE.values(), ids=ADAPTIVE.keys())
def test_adaptive_methods_have_what_the_driver_relies_on(tableau):
    # the last stage of a step is used as the first of the next one
    assert tableau.first_same_as_last
    assert tableau.c[-1] == 1
    assert tableau.active_stages == tableau.stages - 1
    assert tableau.e
    assert tableau.embedded_order == tableau.order - 1
    # a dense output of the order of the embedded method, with the slopes of f at both ends
    assert tableau.dense_order >= tableau.order - 1
    first, last = [row[0] for row in tableau.dense], [
        sum((k + 1) * value for k, value in enumerate(row)) for row in tableau.dense
    ]  # fmt: skip
    assert first == [1, *[0] * (tableau.stages - 1)]
    assert last == [*[0] * (tableau.stages - 1), 1]


def test_names():
    assert all(name == tableau.name for name, tableau in TABLEAUS.items())
    assert {
        "ode23": TABLEAUS["bogacki_shampine"],
        "ode45": TABLEAUS["dormand_prince"],
    } == ADAPTIVE
    assert not TABLEAUS["euler"].first_same_as_last
    assert not TABLEAUS["rk4"].first_same_as_last


@every
def test_numbers_are_the_fractions(tableau):
    numbers = tableau.numbers()
    assert numbers is tableau.numbers()  # made once
    assert numbers.b.tolist() == [float(v) for v in tableau.b]
    for i, row in enumerate(tableau.a):
        assert numbers.a[i].tolist() == [*map(float, row), *[0.0] * (tableau.stages - i)]
    # row sums, up to the rounding of their terms (largest coefficient about 12)
    assert numbers.a.sum(axis=1) == pytest.approx(numbers.c, abs=100 * EPS)


# --- stability function ---------------------------------------------------------------------------


@every
@pytest.mark.parametrize("z", [-0.5 + 0.0j, -2.0 + 1.5j, 0.3 - 1.0j])
def test_stability_function_is_one_real_step(tableau, z):
    # x' = lambda x with complex lambda, as a real system
    A = np.array([[z.real, -z.imag], [z.imag, z.real]])
    x = solve_fixed(lambda t, x: A @ x, tableau, np.array([0.0, 1.0]), np.array([1.0, 0.0])).x_T
    R = tableau.stability(z)
    assert x == pytest.approx([R.real, R.imag], rel=1e3 * EPS, abs=1e3 * EPS)


@every
def test_stability_function_agrees_with_exp_to_the_order(tableau):
    # R(z) - exp(z) = C z^(p+1) + ...: halving z divides it by 2^(p+1), up to the next term, ~ z
    z = 0.02
    gaps = [abs(tableau.stability(s) - np.exp(s)) for s in (z, z / 2)]
    if tableau.order < 5:  # the gap of order 5 is at rounding
        assert np.log2(gaps[0] / gaps[1]) == pytest.approx(tableau.order + 1, abs=0.05)
    else:
        assert gaps[0] < 2 * z**6


def test_stability_of_arrays_and_the_real_limit_of_rk4():
    R = TABLEAUS["rk4"].stability(np.array([-2.785, -2.786, 0.0]))
    assert abs(R[0]) < 1 < abs(R[1])  # -2.7853 (Hairer, Wanner, table IV.2.1)
    assert R[2] == 1


# --- a user's own method --------------------------------------------------------------------------

F = Fraction
RALSTON = ButcherTableau("ralston", 2, ((), (F(2, 3),)), (F(1, 4), F(3, 4)))
KUTTA_38 = ButcherTableau(
    "kutta_38", 4,
    ((), (F(1, 3),), (F(-1, 3), F(1)), (F(1), F(-1), F(1))),
    (F(1, 8), F(3, 8), F(3, 8), F(1, 8)),
)  # fmt: skip


@pytest.mark.parametrize("tableau", [RALSTON, KUTTA_38], ids=lambda tableau: tableau.name)
def test_a_users_own_method_gets_its_order(tableau):
    assert tableau.defects() == []

    def solve(k):  # not autonomous: the nodes c count
        f = lambda t, x: x * np.cos(t)  # noqa: E731
        return solve_fixed(f, tableau, np.linspace(0, 2, k + 1), np.ones(1)).x_T

    exact = np.array([np.exp(np.sin(2.0))])
    order = snode.observed_order(solve, (80, 160, 320), exact=exact)
    assert order == pytest.approx(tableau.order, abs=0.1)


def test_a_wrong_method_does_not():
    wrong = replace(KUTTA_38, b=(F(1, 8), F(3, 8), F(2, 8), F(2, 8)))
    assert wrong.defects()

    def solve(k):
        return solve_fixed(
            lambda t, x: x * np.cos(t), wrong, np.linspace(0, 2, k + 1), np.ones(1)
        ).x_T

    exact = np.array([np.exp(np.sin(2.0))])
    assert snode.observed_order(solve, (20, 40, 80, 160), exact=exact) < 1.2  # b c is no longer 1/2


# --- refusals -------------------------------------------------------------------------------------

HALF = F(1, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"a": ((), (HALF,), ())}, "a must be strictly lower triangular with 2 rows"),
        ({"a": ((HALF,), (HALF,))}, "a must be strictly lower triangular"),
        ({"a": ((), (HALF, HALF))}, "a must be strictly lower triangular"),
        ({"b": (F(1),)}, "a must be strictly lower triangular with 1 rows"),
        ({"e": (F(1),)}, "e must have 2 weights; got 1"),
        ({"dense": ((F(0),),)}, "dense must have a row per stage"),
        ({"dense": ((F(1),), (F(1),))}, "equal b at theta = 1"),
    ],
)
def test_wrong_shapes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        replace(TABLEAUS["midpoint"], **options)
