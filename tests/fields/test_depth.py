"""Depth bases: values by SciPy, Gram matrices by quadrature, solves by their residual."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import CubicSpline

from snode.fields.depth import KINDS, DepthBasis

pytestmark = pytest.mark.grid(4)

EPS = np.finfo(np.float64).eps
CELLS = [1, 2, 3, 4, 5, 9, 40]
T = 1.7


def dense_row(basis, t):
    start, weights = basis.row(t)
    row = np.zeros(basis.size)
    row[start : start + len(weights)] = weights
    return row


def interpolant(basis, values):
    """The same function of depth by SciPy or NumPy."""
    if basis.kind == "linear":
        return lambda t: np.interp(t, basis.grid, values)
    if basis.kind == "cubic":
        return CubicSpline(basis.grid, values, bc_type="not-a-knot")
    return lambda t: values[min(int(np.floor(t / basis.cell)), basis.n_cells - 1)]


def gauss_points(basis, order=6):
    """Quadrature on every cell, exact for polynomials of degree 11 on a cell."""
    xi, w = np.polynomial.legendre.leggauss(order)
    grid, h = basis.grid, basis.cell
    points = (grid[:-1, None] + h * (xi + 1) / 2).ravel()
    return points, np.tile(w * h / 2, basis.n_cells)


def derivative_rows(basis, points):
    if basis.kind == "cubic":
        return CubicSpline(basis.grid, np.eye(basis.size), bc_type="not-a-knot")(points, 1)
    rows = np.zeros((len(points), basis.size))  # hats
    cells = np.minimum((points / basis.cell).astype(int), basis.n_cells - 1)
    rows[np.arange(len(points)), cells] = -1 / basis.cell
    rows[np.arange(len(points)), cells + 1] = 1 / basis.cell
    return rows


def brute_force_gram(basis, length):
    if basis.kind == "constant":
        K, h = basis.n_cells, basis.cell
        difference = np.diff(np.eye(K), axis=0)
        return h * np.eye(K) + length**2 / h * difference.T @ difference
    points, weights = gauss_points(basis)
    phi = np.stack([dense_row(basis, t) for t in points])
    dphi = derivative_rows(basis, points)
    return phi.T @ (weights[:, None] * phi) + length**2 * dphi.T @ (weights[:, None] * dphi)


def dense(gram):
    return gram.matvec(np.eye(gram.size))


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("K", CELLS)
def test_row_reproduces_the_interpolant(kind, K):
    basis = DepthBasis(kind, K, T)
    rng = np.random.default_rng(K)
    values = rng.standard_normal(basis.size)
    reference = interpolant(basis, values)
    for t in np.concatenate([rng.uniform(0, T, 60), [1e-9, T - 1e-9]]):
        # a spline solve has a condition number below 10 in its data
        assert dense_row(basis, t) @ values == pytest.approx(float(reference(t)), abs=200 * EPS)


@pytest.mark.parametrize("kind", ["linear", "cubic"])
@pytest.mark.parametrize("K", CELLS)
def test_nodes_are_taken_exactly(kind, K):
    basis = DepthBasis(kind, K, T)
    rows = np.stack([dense_row(basis, t) for t in basis.grid])
    assert np.array_equal(rows, np.eye(K + 1))


@pytest.mark.parametrize("K", CELLS)
def test_constant_takes_the_cell_to_the_right_and_the_last_at_the_end(K):
    basis = DepthBasis("constant", K, T)
    cells = [basis.row(t)[0] for t in basis.grid]
    assert cells == [*range(K), K - 1]
    just_before = [basis.row(np.nextafter(t, 0))[0] for t in basis.grid[1:]]
    assert just_before == list(range(K))


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, database=None, max_examples=60)
@given(K=st.integers(1, 30), fraction=st.floats(0, 1), length=st.floats(0.01, 1000))
def test_partition_of_unity(kind, K, fraction, length):
    row = dense_row(DepthBasis(kind, K, length), fraction * length)
    # cardinal splines sum to one; at most K of them, each rounded
    assert row.sum() == pytest.approx(1.0, abs=40 * EPS)


@pytest.mark.parametrize("K", [3, 6, 25])
def test_cubic_reproduces_cubic_polynomials(K):
    basis = DepthBasis("cubic", K, T)
    p = np.polynomial.Polynomial([0.3, -1.0, 0.7, 0.4])
    for t in np.linspace(0, T, 23):
        assert dense_row(basis, t) @ p(basis.grid) == pytest.approx(p(t), abs=100 * EPS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("t", [-1e-6, T + 1e-6, np.inf, -np.inf, np.nan])
def test_depth_outside_is_refused(kind, t):
    with pytest.raises(ValueError, match=r"t must be in \[0, 1.7\]"):
        DepthBasis(kind, 4, T).row(t)


@pytest.mark.parametrize("kind", KINDS)
def test_depth_may_miss_the_ends_by_rounding(kind):
    basis = DepthBasis(kind, 7, T)
    for t, end in ((np.nextafter(T, 2 * T), T), (-1e-17, 0.0)):
        assert dense_row(basis, t) == pytest.approx(dense_row(basis, end), abs=1e-12)


def test_grid_and_sizes():
    for kind in KINDS:
        basis = DepthBasis(kind, 5, T)
        assert basis.size == (5 if kind == "constant" else 6)
        assert basis.grid[0] == 0.0
        assert basis.grid[-1] == T
        assert basis.grid.dtype == np.float64
        assert basis.cell == T / 5


def test_wrong_kind_lists_the_valid_ones():
    with pytest.raises(ValueError, match="interpolation must be one of constant, linear, cubic"):
        DepthBasis("quadratic", 3, T)
    with pytest.raises(ValueError, match="at least one depth cell"):
        DepthBasis("constant", 0, T)


# --- Gram matrices --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("K", CELLS)
@pytest.mark.parametrize("length", [0.0, 0.3, 1.0])
def test_gram_equals_brute_force(kind, K, length):
    basis = DepthBasis(kind, K, T)
    computed, expected = dense(basis.gram(length)), brute_force_gram(basis, length)
    # the nodal matrix of a cubic basis passes through two solves with the collocation matrix
    assert np.abs(computed - expected).max() <= 1e3 * EPS * np.abs(expected).max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("K", CELLS)
@pytest.mark.parametrize("length", [0.0, 0.3, 1.0, 20.0])
def test_gram_is_symmetric_positive_definite(kind, K, length):
    G = dense(DepthBasis(kind, K, T).gram(length))
    assert np.abs(G - G.T).max() <= 100 * EPS * np.abs(G).max()
    assert np.linalg.eigvalsh((G + G.T) / 2).min() > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("K", [1, 2, 3, 4, 7, 50])
@pytest.mark.parametrize("length", [0.0, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_solve_inverts_matvec(kind, K, length, shape, dtype):
    basis = DepthBasis(kind, K, T)
    gram = basis.gram(length)
    u = np.random.default_rng(3).standard_normal((basis.size, *shape)).astype(dtype)
    cond = np.linalg.cond(dense(gram))
    back, forth = gram.solve(gram.matvec(u)), gram.matvec(gram.solve(u))
    for out in (back, forth):
        assert out.dtype == dtype
        assert out.shape == u.shape
        # forward error of a solve: eps times the condition number
        assert np.abs(out - u).max() <= 10 * np.finfo(dtype).eps * cond * np.abs(u).max()


@pytest.mark.parametrize("kind", KINDS)
def test_matvec_and_solve_leave_their_argument_alone(kind):
    gram = DepthBasis(kind, 6, T).gram(1.0)
    u = np.random.default_rng(0).standard_normal((gram.size, 2))
    before = u.copy()
    gram.matvec(u)
    gram.solve(u)
    assert np.array_equal(u, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [-1.0, np.nan, np.inf])
def test_wrong_length_is_named(kind, length):
    with pytest.raises(ValueError, match="length must be finite and >= 0"):
        DepthBasis(kind, 3, T).gram(length)


@pytest.mark.parametrize("kind", KINDS)
def test_long_intervals_do_not_overflow(kind):
    # the cosh formula of eq. (9) overflows beyond T = 700; the banded solve must not
    basis = DepthBasis(kind, 500, 2000.0)
    load = basis.gram(0.0).matvec(np.ones(basis.size))
    assert np.abs(basis.gram(1.0).solve(load) - 1).max() <= 1e-12


def test_flags():
    assert DepthBasis("constant", 4, T).gram(0.0).is_diagonal
    assert not DepthBasis("constant", 4, T).gram(1.0).is_diagonal
    assert DepthBasis("constant", 4, T).gram(1.0).is_tridiagonal
    assert DepthBasis("linear", 4, T).gram(0.0).is_tridiagonal
    assert not DepthBasis("cubic", 4, T).gram(0.0).is_tridiagonal


def test_hidden_rows_cannot_be_damaged_by_a_caller():
    # rows are cached: writing into one must not change what the next caller gets
    basis = DepthBasis("linear", 3, T)
    _, weights = basis.row(0.3)
    before = weights.copy()
    try:
        weights[:] = 7.0
    except ValueError:
        return  # read-only is the best answer
    after = basis.row(0.3)[1].copy()
    weights[:] = before  # leave the cache as it was for the other tests
    assert np.array_equal(after, before)
