"""Explicit Euler on a grid: hand-written loops, closed forms, observed order."""

from itertools import pairwise

import numpy as np
import pytest

import snode
from snode import TABLEAUS, euler
from snode.ode.fixed import solve_fixed

EPS = np.finfo(np.float64).eps


def test_closed_form_of_the_linear_problem():
    # x' = -x: each step multiplies by exactly 1 - h
    t = np.linspace(0, 1, 9)
    x = euler(lambda t, x: -x, t, np.array([[1.0, -2.0]])).x
    expected = 0.875 ** np.arange(9)[:, None, None] * np.array([[1.0, -2.0]])
    assert x == pytest.approx(expected, rel=20 * EPS)


def test_uneven_and_decreasing_grids():
    def f(t, x):
        return np.cos(t) * x + t

    rng = np.random.default_rng(0)
    x0 = rng.standard_normal((2, 3))
    up = np.sort(rng.uniform(0, 2, 12))
    for t in (up, up[::-1]):
        x = x0.copy()
        for i in range(11):
            x = x + (t[i + 1] - t[i]) * f(t[i], x)
        assert euler(f, t, x0).x_T == pytest.approx(x, abs=20 * EPS)


def test_the_depth_given_to_f_is_the_left_end_as_a_float():
    seen = []

    def f(t, x):
        seen.append(t)
        return 0 * x

    t = np.linspace(0, 1, 5)
    euler(f, t, np.ones((1, 1)))
    assert seen == t[:-1].tolist()
    assert all(type(s) is float for s in seen)


def test_last_state_only_is_the_same_number():
    def f(t, x):
        return np.sin(x + t)

    t, x0 = np.linspace(0, 2, 30), np.random.default_rng(1).standard_normal((3, 4))
    before = x0.copy()
    last = solve_fixed(f, TABLEAUS["euler"], t, x0, keep="last")
    assert last.x is None
    assert np.array_equal(last.x_T, euler(f, t, x0).x[-1])
    assert np.array_equal(x0, before)


def test_order_one_on_a_closed_form():
    # x' = -x + sin t, x(0) = 1: x = (3 exp(-t) + sin t - cos t) / 2
    T = 2.0
    exact = (3 * np.exp(-T) + np.sin(T) - np.cos(T)) / 2
    errors = [
        abs(
            euler(lambda t, x: np.sin(t) - x, np.linspace(0, T, K + 1), np.ones((1, 1))).x_T - exact
        )
        for K in (100, 200, 400)
    ]
    orders = np.log2(np.ravel(errors[:-1]) / np.ravel(errors[1:]))
    assert np.abs(orders - 1).max() <= 0.05  # the next term is O(h) of the first


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softplus", "elu"])
def test_order_one_on_a_field_that_is_smooth_in_depth(name):
    # the same spline W(t), sampled ever finer: the network converges to its ODE
    x0 = np.random.default_rng(0).uniform(-1, 1, (3, 2))
    x_T = {
        K: snode.solve_direct(
            snode.StandaloneField.random(3, 2.0, K, activation=name, scale=0.8, rng=1), x0
        ).x_T
        for K in (80, 160, 320, 640)
    }
    # Richardson: differences of successive solutions shrink like the error
    steps = [np.linalg.norm(x_T[2 * K] - x_T[K]) for K in (80, 160, 320)]
    orders = np.log2(np.array(steps[:-1]) / np.array(steps[1:]))
    assert np.abs(orders - 1).max() <= 0.1


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_interpolated_fields_converge_to_one_ode(make_field, interpolation):
    # W(t) fixed by 5 nodes; finer grids solve the same ODE
    field = make_field(3, 4, interpolation=interpolation)
    x0 = np.random.default_rng(0).uniform(-1, 1, (3, 2))
    x_T = [
        snode.solve_direct(field, x0, t=np.linspace(0, field.T, K + 1)).x_T
        for K in (160, 320, 640, 1280)
    ]
    steps = [np.linalg.norm(b - a) for a, b in pairwise(x_T)]
    orders = np.log2(np.array(steps[:-1]) / np.array(steps[1:]))
    assert np.abs(orders - 1).max() <= 0.1
