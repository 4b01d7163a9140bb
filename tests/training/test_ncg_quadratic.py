"""Conjugate gradients end on an n-dimensional quadratic in n steps, in L2 and in H1.

The field x' = V_i u_i on cell i, with one number u_i a cell, makes x(T) linear in u and the
squared distance a quadratic of K unknowns. It follows the vector-field contract and nothing else.
"""

from itertools import pairwise

import numpy as np
import pytest

import snode
from snode import H1, L2, Cost
from snode.fields.depth import DepthBasis
from snode.training.gradients import Dots, FieldProblem
from snode.training.innerproducts import pair
from snode.training.ncg import minimize

K, N, M, T = 12, 5, 6, 12.0  # h = 1: with l = 1 the condition number stays moderate
RULES = ["FR", "PR+", "FR-PR", "HS", "DY"]


class Lever:
    """x' = u(t) V(t), one scalar parameter a cell."""

    n = N
    breakpoints = ()

    def __init__(self, V, u):
        self.V = V
        self.parameters = {"u": u}
        self.basis = DepthBasis("constant", K, T)
        self.depth_basis = {"u": self.basis}
        self.grid = self.basis.grid

    def with_parameters(self, u):
        return Lever(self.V, u)

    def __call__(self, t, x):
        i = self.basis.row(t)[0]
        return self.parameters["u"][i] * self.V[i]

    def linearize(self, t, x):
        return self(t, x), LeverLinearization(self, self.basis.row(t)[0])


class LeverLinearization:
    def __init__(self, field, i):
        self.field, self.i = field, i

    def jvp(self, dx, dtheta=None):
        return 0 * self.field.V[self.i] + (
            dtheta["u"][self.i] * self.field.V[self.i] if dtheta else 0
        )

    def vjp(self, p, into=None):
        if into is not None:
            into.add("u", np.sum(p * self.field.V[self.i]), at=self.i)
        return np.zeros_like(p)


@pytest.fixture
def quadratic():
    """Return the field, the data, and the exact minimiser and minimum of the cost."""
    rng = np.random.default_rng(3)
    V, x0, y = rng.standard_normal((K, N, M)), *rng.standard_normal((2, N, M))
    field = Lever(V, rng.standard_normal(K))
    A = T / K * V.reshape(K, -1).T  # x(T) - x0 = A u
    u, *_ = np.linalg.lstsq(A, (y - x0).ravel())
    minimum = np.sum((A @ u + x0.ravel() - y.ravel()) ** 2) / (2 * M)
    return field, x0, y, u, minimum


@pytest.mark.parametrize("inner", [L2(), H1(0.5), H1(1.0), H1(2.0)], ids=repr)
@pytest.mark.parametrize("rule", RULES)
def test_ends_in_n_steps(quadratic, inner, rule):
    field, x0, y, u, minimum = quadratic
    result = snode.ncg(field, x0, y, Cost(), inner=inner, rule=rule, n_iter=K)
    start = result.history.cost[0] - minimum
    # exact but for rounding, which conjugacy amplifies; mathematics.md: 3e-11
    assert result.fun - minimum <= 1e-10 * start
    assert np.abs(result.field.parameters["u"] - u).max() <= 1e-4
    assert (np.diff(result.history.cost) <= 1e-14).all()
    # one step less does not do
    earlier = snode.ncg(field, x0, y, Cost(), inner=inner, rule=rule, n_iter=K - 3)
    assert earlier.fun - minimum > 1e-10 * start


@pytest.mark.parametrize("inner", [L2(), H1(1.0)], ids=repr)
def test_all_rules_are_one_on_a_quadratic(quadratic, inner):
    field, x0, y, *_ = quadratic
    runs = [snode.ncg(field, x0, y, Cost(), inner=inner, rule=r, n_iter=8) for r in RULES]
    for run in runs[1:]:
        # orthogonality of the gradients holds to rounding, amplified by the condition number
        assert run.history.beta == pytest.approx(runs[0].history.beta, rel=1e-6, abs=1e-12)
        assert run.history.step == pytest.approx(runs[0].history.step, rel=1e-6)
        u = run.field.parameters["u"]
        assert u == pytest.approx(runs[0].field.parameters["u"], abs=1e-6)


def test_steepest_descent_does_not_end(quadratic):
    field, x0, y, _, minimum = quadratic
    result = snode.ncg(field, x0, y, Cost(), rule="SD", n_iter=K)
    assert result.fun - minimum > 1e-8 * (result.history.cost[0] - minimum)
    assert not result.history.beta.any()


def test_plain_norms_of_the_transformed_gradient_do_not_end(quadratic):
    """The authors' script measures the Sobolev gradient in L2: no longer conjugate gradients."""

    class PlainNorms(FieldProblem):
        def gradient(self):
            dots = super().gradient()
            norm = L2().on(self.base).dot
            return Dots(norm(self.g, self.g), dots.g_old, dots.gd)

    field, x0, y, _, minimum = quadratic
    good = minimize(FieldProblem(field, x0, y, Cost(), H1(1.0)), rule="FR", n_iter=K)
    plain = minimize(PlainNorms(field, x0, y, Cost(), H1(1.0)), rule="FR", n_iter=K)
    start = good.history.cost[0] - minimum
    assert good.fun - minimum <= 1e-10 * start
    assert plain.fun - minimum >= 1e-6 * start


@pytest.mark.parametrize("inner", [L2(), H1(1.0)], ids=repr)
def test_gradients_are_orthogonal_and_directions_conjugate(quadratic, inner):
    class Recording(FieldProblem):
        def set_direction(self, beta):
            super().set_direction(beta)
            log.append((self.g, self.d))

    log = []
    field, x0, y, *_ = quadratic
    minimize(Recording(field, x0, y, Cost(), inner), rule="FR", n_iter=6)
    bound = inner.on(field)
    A = T / K * field.V.reshape(K, -1).T
    for i, (g, d) in enumerate(log):
        for g_before, d_before in log[:i]:
            size = bound.norm(g) * bound.norm(g_before)
            assert abs(bound.dot(g, g_before)) <= 1e-9 * size
            Ad, Ae = A @ d["u"], A @ d_before["u"]
            assert abs(Ad @ Ae) <= 1e-9 * np.linalg.norm(Ad) * np.linalg.norm(Ae)


def test_the_step_of_a_quadratic_is_the_line_minimum(quadratic):
    field, x0, y, *_ = quadratic
    states = []
    snode.ncg(field, x0, y, Cost(), n_iter=5, callback=states.append)
    fields = [field] + [s.field for s in states]
    for before, after in pairwise(fields):
        d = {"u": after.parameters["u"] - before.parameters["u"]}
        slopes = [
            pair(snode.gradient(f, x0, y, Cost(), inner="euclidean")[1], d) for f in (before, after)
        ]
        assert abs(slopes[1]) <= 1e-12 * abs(slopes[0])
