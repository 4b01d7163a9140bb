r"""Functions of depth: how a stack of arrays becomes W(t), and inner products.

A weight function is :math:`W(t) = \sum_j \varphi_j(t) W_j` with scalar basis functions
:math:`\varphi_j`: indicators of the cells ("constant"), hats ("linear") or the cardinal
not-a-knot cubic splines ("cubic"). Values, tangents and transposes all use the same row
:math:`\varphi_j(t)`, so they are consistent to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from snode.backend import Array, array_namespace, is_on_device

__all__ = ["DepthBasis", "Gram"]

KINDS = ("constant", "linear", "cubic")


@dataclass(frozen=True)
class DepthBasis:
    """Scalar basis of the weight functions on [0, T].

    Parameters
    ----------
    kind : {"constant", "linear", "cubic"}
        Piecewise constant on cells, continuous piecewise linear, or not-a-knot cubic spline.
    n_cells : int
        Number K of equal cells.
    T : float
        Length of the depth interval.
    """

    kind: str
    n_cells: int
    T: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"interpolation must be one of {', '.join(KINDS)}; got {self.kind!r}")
        if self.n_cells < 1:
            raise ValueError(f"at least one depth cell is needed; got {self.n_cells}")

    @property
    def size(self) -> int:
        """Number of basis functions: K for "constant", K + 1 nodes otherwise."""
        return self.n_cells + (self.kind != "constant")

    @property
    def grid(self) -> np.ndarray[Any, Any]:
        """Cell boundaries, shape (K + 1,), float64."""
        return np.linspace(0.0, self.T, self.n_cells + 1)

    @property
    def cell(self) -> float:
        """Cell width h = T / K."""
        return self.T / self.n_cells

    def row(self, t: float) -> tuple[int, np.ndarray[Any, Any]]:
        """Return ``(j0, w)``: basis functions j0, j0+1, ... have the values `w` at depth `t`.

        At a cell boundary the piecewise constant basis takes the cell to the right (the last
        cell at t = T). Cardinal splines decay geometrically; values below 1e-17 are dropped.

        Raises
        ------
        ValueError
            If `t` is outside [0, T] (beyond rounding).
        """
        return _row(self, float(t))

    def row_derivative(self, t: float) -> tuple[int, np.ndarray[Any, Any]]:
        """Return ``(j0, w)`` as `row`, with the derivatives of the basis functions at depth `t`.

        Zero for the piecewise constant basis; at a node of the piecewise linear basis the
        derivative in the cell to the right (in the last cell at t = T).
        """
        return _row_derivative(self, float(t))

    def gram(self, length: float) -> Gram:
        r"""Return the Gram matrix of the H1 inner product with the given length.

        Entry (i, j) is :math:`\int_0^T \varphi_i\varphi_j + l^2 \varphi_i'\varphi_j' dt`; for the
        piecewise constant basis the second term is :math:`l^2` times the cell-centred second
        difference with Neumann ends. ``length=0`` is the L2 inner product.
        """
        return _gram(self, float(length))


@lru_cache(maxsize=4096)
def _row(basis: DepthBasis, t: float) -> tuple[int, np.ndarray[Any, Any]]:
    start, weights = _row_values(basis, t)
    weights = weights.copy()
    weights.flags.writeable = False  # it is shared by everybody who asks for this depth
    return start, weights


def _row_values(basis: DepthBasis, t: float) -> tuple[int, np.ndarray[Any, Any]]:
    K, T = basis.n_cells, basis.T
    slack = 1e-12 * T
    if not -slack <= t <= T + slack:
        raise ValueError(f"t must be in [0, {T}]; got {t}")
    grid = basis.grid
    cell = int(np.clip(np.searchsorted(grid, t, side="right") - 1, 0, K - 1))
    if basis.kind == "constant":
        return cell, np.ones(1)
    node = cell if t == grid[cell] else cell + 1 if t == grid[cell + 1] else None
    if node is not None:
        return node, np.ones(1)
    if basis.kind == "linear":
        s = (t - grid[cell]) / basis.cell
        return cell, np.array([1 - s, s])
    row = _cardinal_splines(K, T)(t)
    (keep,) = np.nonzero(np.abs(row) > 1e-17)
    return int(keep[0]), row[keep[0] : keep[-1] + 1]


@lru_cache(maxsize=256)
def _row_derivative(basis: DepthBasis, t: float) -> tuple[int, np.ndarray[Any, Any]]:
    start, weights = _row_values(basis, t)  # also checks that t is in [0, T]
    if basis.kind == "constant":
        return start, np.zeros(1)
    if basis.kind == "linear":
        cell = int(np.clip(np.searchsorted(basis.grid, t, side="right") - 1, 0, basis.n_cells - 1))
        return cell, np.array([-1.0, 1.0]) / basis.cell
    row = _cardinal_splines(basis.n_cells, basis.T)(t, 1)
    (keep,) = np.nonzero(np.abs(row) > 1e-17 / basis.cell)
    if len(keep) == 0:
        return start, np.zeros(len(weights))
    return int(keep[0]), row[keep[0] : keep[-1] + 1]


@lru_cache(maxsize=16)
def _cardinal_splines(n_cells: int, T: float) -> Any:
    from scipy.interpolate import CubicSpline

    nodes = np.linspace(0.0, T, n_cells + 1)
    return CubicSpline(nodes, np.eye(n_cells + 1), bc_type="not-a-knot")


class Gram:
    """Symmetric positive definite Gram matrix of a depth basis, applied along axis 0.

    The matrix is C^T A C with banded A (the matrix of a local basis) and C the change of basis;
    C is the identity except for cubic splines, where the local basis are the B-splines.

    On a device, where a recursion over the depths would be hundreds of small kernels and SciPy is
    not, the full (size, size) matrix or its inverse is made once and multiplied in float64.
    """

    def __init__(self, diagonals: np.ndarray[Any, Any], collocation: Any = None) -> None:
        from scipy.linalg import cholesky_banded

        self.diagonals = diagonals  # (bandwidth + 1, size), lower form of A
        self.collocation = collocation  # sparse N, nodal values = N @ B-spline coefficients
        self.size = diagonals.shape[1]
        self.factor = cholesky_banded(diagonals, lower=True)
        self._on_device: dict[bool, Array] = {}
        if len(diagonals) == 1:
            diagonals = np.vstack([diagonals, np.zeros(self.size)])
        if len(diagonals) == 2:
            self.pivots, self.ratios = _tridiagonal_factor(diagonals)

    @property
    def is_diagonal(self) -> bool:
        """True for L2 on cells."""
        return len(self.diagonals) == 1

    @property
    def is_tridiagonal(self) -> bool:
        """True for cells and hats: everything but cubic splines."""
        return len(self.diagonals) <= 2 and self.collocation is None

    def matvec(self, u: Array) -> Array:
        """Return G u, the same shape as `u` (size, ...)."""
        if self.collocation is not None and is_on_device(u):
            return self._multiply(u, inverse=False)
        if self.collocation is not None:
            return self._through_splines(u, self._banded_matvec, inverse=False)
        return _apply_tridiagonal(self.diagonals, u)

    def solve(self, r: Array) -> Array:
        """Return G^{-1} r, the same shape as `r` (size, ...), by O(size) operations a column."""
        if is_on_device(r):
            return self._multiply(r, inverse=True)
        if self.collocation is not None:
            return self._through_splines(r, self._banded_solve, inverse=True)
        return _solve_tridiagonal(self.pivots, self.ratios, r)

    def _multiply(self, u: Array, *, inverse: bool) -> Array:
        """Return G u or G^{-1} u for a device array, without leaving the device."""
        xp = array_namespace(u)
        if inverse not in self._on_device:
            eye = np.eye(self.size)
            full = self.solve(eye) if inverse else self.matvec(eye)
            self._on_device[inverse] = xp.asarray(full)
        product = self._on_device[inverse] @ u.reshape(self.size, -1).astype(np.float64)
        return product.astype(u.dtype).reshape(u.shape)

    def _banded_matvec(self, u: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        out: np.ndarray[Any, Any] = self.diagonals[0][:, None] * u
        for k in range(1, len(self.diagonals)):
            band = self.diagonals[k][:-k, None]
            out[k:] += band * u[:-k]
            out[:-k] += band * u[k:]
        return out

    def _banded_solve(self, r: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        from scipy.linalg import cho_solve_banded

        return np.asarray(cho_solve_banded((self.factor, True), r))

    def _through_splines(self, u: Array, middle: Any, *, inverse: bool) -> Array:
        # nodal Gram = N^{-T} A N^{-1}; its inverse = N A^{-1} N^T
        from scipy.sparse.linalg import splu

        flat = u.reshape(self.size, -1).astype(np.float64)
        N = self.collocation
        if inverse:
            out = N @ middle(N.T @ flat)
        else:
            lu: Any = splu(N.tocsc())
            out = lu.solve(middle(lu.solve(flat)), trans="T")
        return np.ascontiguousarray(out.reshape(u.shape), dtype=u.dtype)


def _tridiagonal_factor(
    diagonals: np.ndarray[Any, Any],
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """L D L^T of a tridiagonal matrix: the pivots D and the subdiagonal of L."""
    from scipy.linalg import get_lapack_funcs

    size = diagonals.shape[1]
    if size == 1:
        return diagonals[0].copy(), np.zeros(0)
    pttrf: Any = get_lapack_funcs("pttrf", (diagonals,))
    pivots, ratios, info = pttrf(diagonals[0], diagonals[1, :-1])
    if info:
        raise np.linalg.LinAlgError("the Gram matrix is not positive definite")
    return pivots, ratios


def _apply_tridiagonal(diagonals: np.ndarray[Any, Any], u: Array) -> Array:
    xp = array_namespace(u)
    shape = (-1,) + (1,) * (u.ndim - 1)

    def column(d: np.ndarray[Any, Any]) -> Array:
        return xp.asarray(d.astype(u.dtype)).reshape(shape)

    out = column(diagonals[0]) * u
    if len(diagonals) == 2 and len(u) > 1:
        off = column(diagonals[1, :-1])
        out[1:] += off * u[:-1]
        out[:-1] += off * u[1:]
    return out


def _solve_tridiagonal(
    pivots: np.ndarray[Any, Any], ratios: np.ndarray[Any, Any], r: Array
) -> Array:
    """Forward and back substitution, one depth at a time, all entries of a depth at once."""
    v = r.copy()
    for k in range(1, len(v)):
        v[k] -= float(ratios[k - 1]) * v[k - 1]
    v[-1] /= float(pivots[-1])
    for k in range(len(v) - 2, -1, -1):
        v[k] = v[k] / float(pivots[k]) - float(ratios[k]) * v[k + 1]
    return v


@lru_cache(maxsize=64)
def _gram(basis: DepthBasis, length: float) -> Gram:
    if not (np.isfinite(length) and length >= 0):
        raise ValueError(f"length must be finite and >= 0; got {length}")
    if basis.kind == "constant":
        return Gram(_constant_diagonals(basis, length))
    if basis.kind == "linear":
        return Gram(_linear_diagonals(basis, length))
    return _spline_gram(basis, length)


def _constant_diagonals(basis: DepthBasis, length: float) -> np.ndarray[Any, Any]:
    h, K = basis.cell, basis.n_cells
    mass = np.full(K, h)
    if length == 0:
        return mass[None]
    return np.stack(_neumann(mass, np.zeros(K), length**2 / h))


def _linear_diagonals(basis: DepthBasis, length: float) -> np.ndarray[Any, Any]:
    h, n = basis.cell, basis.size
    mass = np.full(n, 2 * h / 3)
    mass[[0, -1]] = h / 3
    off = np.full(n, h / 6)
    off[-1] = 0
    return np.stack(_neumann(mass, off, length**2 / h))


def _neumann(
    main: np.ndarray[Any, Any], off: np.ndarray[Any, Any], stiffness: float
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Add `stiffness` times the second difference with Neumann ends."""
    main, off = main.copy(), off.copy()
    main[:-1] += stiffness
    main[1:] += stiffness
    off[:-1] -= stiffness
    return main, off


def _spline_gram(basis: DepthBasis, length: float) -> Gram:
    """Gram matrix of the cubic B-splines by Gauss-Legendre quadrature, exact for degree 7."""
    from scipy.interpolate import BSpline, make_interp_spline
    from scipy.sparse import diags_array

    nodes = basis.grid
    degree = min(3, basis.n_cells)  # SciPy's not-a-knot spline through 2 or 3 points
    knots = make_interp_spline(nodes, nodes, k=degree).t
    xi, weight = np.polynomial.legendre.leggauss(4)
    edges = np.unique(knots)
    half = np.diff(edges)[:, None] / 2
    points = ((edges[:-1] + edges[1:])[:, None] / 2 + half * xi).ravel()
    weights = (half * weight).ravel()

    # sparse throughout: banded matrices, O(K)
    B = BSpline.design_matrix(points, knots, degree)
    ratios: Any = degree / (knots[degree + 1 : -1] - knots[1 : -degree - 1])
    differences = diags_array([-ratios, ratios], offsets=[0, 1], shape=(len(ratios), basis.size))
    dB = BSpline.design_matrix(points, knots[1:-1], degree - 1) @ differences
    W = diags_array(weights)
    A = B.T @ W @ B + length**2 * (dB.T @ W @ dB)
    diagonals = np.zeros((degree + 1, basis.size))
    for k in range(degree + 1):
        diagonals[k, : basis.size - k] = A.diagonal(-k)
    return Gram(diagonals, BSpline.design_matrix(nodes, knots, degree))
