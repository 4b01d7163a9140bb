"""The set of Jacobians D_k A_k ... D_1 A_1 with slopes in boxes: what searches and bounds share."""

# ruff: noqa: N806  (the symbols of the proofs)

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import issparse
from scipy.sparse.linalg import LinearOperator

from snode.backend import Array

__all__ = ["EPS", "TINY", "Chain", "make_chain"]

EPS = float(np.finfo(float).eps)
SINGLE_THREADED = 500
"""Up to this n BLAS gets one thread: its threads wait for each other longer than they work."""

TINY = 2.0**-600
"""More than everything that underflow can take away from a scaled problem."""


@dataclass(frozen=True, eq=False)
class Chain:
    """Layers scaled by powers of two, with the slopes of every unit in [lo, hi].

    Attributes
    ----------
    A : tuple of array (n_j, n_{j-1})
        Layers, the first applied first; every entry is at most 1 in size. n_0 = n_k = n.
    lo, hi : tuple of array (n_j,)
        Ends of the slopes.
    exponents : tuple of int
        The layers of the original problem are ``2**e`` times these.
    """

    A: tuple[Array, ...]
    lo: tuple[Array, ...]
    hi: tuple[Array, ...]
    exponents: tuple[int, ...]

    @property
    def n(self) -> int:
        """Dimension of the state."""
        return int(self.A[0].shape[1])

    @property
    def exponent(self) -> int:
        """Values of the original problem are ``2**exponent`` times those of this one."""
        return sum(self.exponents)

    @property
    def dense(self) -> bool:
        """Whether all layers are arrays."""
        return all(isinstance(A, np.ndarray) for A in self.A)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Units of each layer."""
        return tuple(int(A.shape[0]) for A in self.A)

    def split(self, flat: Array) -> tuple[Array, ...]:
        """Cut an array over all units into layers."""
        return tuple(np.split(flat, np.cumsum(self.sizes)[:-1]))

    def clamp(self, j: int, g: Array) -> Array:
        """Slopes of layer j that maximise a linear function with gradient g (n_j,) or (n_j, s)."""
        lo, hi = self.lo[j], self.hi[j]
        return np.where(g > 0, *(end.reshape((-1,) + (1,) * (g.ndim - 1)) for end in (hi, lo)))

    def jacobian(self, d: Sequence[Array]) -> Array:
        """Return D_k A_k ... D_1 A_1."""
        J = d[0][:, None] * self.A[0]
        for A, dj in zip(self.A[1:], d[1:], strict=True):
            J = dj[:, None] * (A @ J)
        return J

    def forward(self, d: Sequence[Array], x: Array) -> tuple[list[Array], Array]:
        """Return the inputs u_j = A_j y_{j-1} of the slopes, and y_k, for x (n,) or (n, s)."""
        inputs = []
        for A, dj in zip(self.A, d, strict=True):
            u = A @ x
            inputs.append(u)
            x = dj * u
        return inputs, x

    def backward(self, d: Sequence[Array], x: Array) -> tuple[list[Array], Array]:
        """Return p_j = L_j^T x, and J^T x; L_j is the Jacobian from y_j to y_k."""
        outputs = []
        for A, dj in zip(self.A[::-1], d[::-1], strict=True):
            outputs.append(x)
            x = A.T @ (dj * x)
        return outputs[::-1], x

    def gradient(self, d: Sequence[Array], z: Array) -> tuple[Array, ...]:
        """Derivatives of z^T J(d) z with respect to every d_j: (L_j^T z) * (R_j z)."""
        u, _ = self.forward(d, z)
        p, _ = self.backward(d, z)
        return tuple(a * b for a, b in zip(u, p, strict=True))

    def product(self, d: Sequence[Array], x: Array) -> Array:
        """Return Sym(J(d)) x."""
        return 0.5 * (self.forward(d, x)[1] + self.backward(d, x)[1])

    def with_box(self, lo: Array, hi: Array) -> Chain:
        """The same layers with other slopes, given flat over all units."""
        return Chain(self.A, self.split(lo), self.split(hi), self.exponents)


def make_chain(layers: Sequence[Any], slopes: Sequence[tuple[float, float]]) -> Chain:
    """Scale arrays and sparse matrices by powers of two: exactly, but for numbers below 2**-1022.

    What underflows changes no value by more than `TINY`.
    """
    exponents = [exponent_of(A) for A in layers]
    scaled = tuple(_ldexp(A, -e) for A, e in zip(layers, exponents, strict=True))
    lo = tuple(np.full(A.shape[0], low) for A, (low, _) in zip(layers, slopes, strict=True))
    hi = tuple(np.full(A.shape[0], high) for A, (_, high) in zip(layers, slopes, strict=True))
    return Chain(scaled, lo, hi, tuple(exponents))


def _ldexp(A: Any, e: int) -> Any:
    if isinstance(A, LinearOperator):
        return A
    if is_sparse(A):
        S: Any = A
        S = S.copy()
        S.data = np.ldexp(S.data, e)
        return S
    return np.ldexp(A, e)


def is_sparse(A: Any) -> bool:
    """Whether A is a sparse matrix or array of SciPy."""
    return bool(issparse(A))


def is_zero(A: Any) -> bool:
    """Whether all entries are known to be zero."""
    if isinstance(A, LinearOperator):
        return False
    return not (A.data if is_sparse(A) else A).any()


def exponent_of(A: Any) -> int:
    """Return e with max |A| in [2**(e-1), 2**e); 0 for a zero matrix or a LinearOperator."""
    if isinstance(A, LinearOperator):
        return 0
    size = float(np.abs(A.data if is_sparse(A) else A).max(initial=0.0))
    return math.frexp(size)[1] if size else 0


def unscale(value: float, exponent: int, *, up: bool) -> float:
    """Return value * 2**exponent, rounded towards +inf (`up`) or -inf where it is not exact."""
    try:
        result = math.ldexp(value, exponent)
    except OverflowError:
        result = math.copysign(math.inf, value)
    if math.isinf(result):
        largest = math.copysign(np.finfo(float).max, value)
        return result if up == (value > 0) else largest
    if value != 0 and math.ldexp(result, -exponent) != value:
        return math.nextafter(result, math.inf if up else -math.inf)
    return result


def flat(arrays: Iterable[Array]) -> Array:
    """Join the layers."""
    return np.concatenate(list(arrays))


def moduli(A: Any) -> Any:
    """Return |A| entry by entry; a LinearOperator stands for itself."""
    return A if isinstance(A, LinearOperator) else abs(A)
