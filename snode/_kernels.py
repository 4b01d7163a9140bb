"""Numba kernels of the CPU hot path; the only file that imports Numba.

Arrays in, outputs filled; no function arguments, no fastmath, the GIL is released. Each kernel
has a NumPy twin in the tests. Scalars must come in the dtype of the arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np


def _kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no writable cache folder: compile in every process
        return numba.njit(nogil=True)(function)


@_kernel
def leaky_step(a, bias, h, alpha, x, x_next, slope):  # type: ignore[no-untyped-def]
    """One Euler step of (leaky) ReLU: slope = sigma'(a+b), x_next = x + h sigma(a+b)."""
    one, zero = slope.dtype.type(1), slope.dtype.type(0)
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            v = a[i, j] + bias[i]
            s = one if v > 0 else alpha
            slope[i, j] = s
            # relu(-inf) is 0, not 0 * -inf; NaN stays NaN
            y = zero if s == 0 and v < 0 else s * v
            x_next[i, j] = x[i, j] + h * y


@_kernel
def tanh_step(y, h, x, x_next, slope):  # type: ignore[no-untyped-def]
    """As `leaky_step` for tanh, given y = tanh(a + b); `y` and `slope` may be one array."""
    one = slope.dtype.type(1)
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            v = y[i, j]
            x_next[i, j] = x[i, j] + h * v
            slope[i, j] = one - v * v


@_kernel
def add_scaled(step, base, direction, out):  # type: ignore[no-untyped-def]
    """Out = base + step * direction, flat arrays; `out` may be `base`."""
    for i in range(base.size):
        out[i] = base[i] + step * direction[i]


@_kernel
def scale_and_subtract(beta, direction, gradient):  # type: ignore[no-untyped-def]
    """Direction = beta * direction - gradient, flat arrays."""
    for i in range(direction.size):
        direction[i] = beta * direction[i] - gradient[i]


@_kernel
def tangent_step(wx, dwx, db, slope, h, xi):  # type: ignore[no-untyped-def]
    """Xi += h sigma'(a) * (W xi + dW x + db), given the two products."""
    for i in range(xi.shape[0]):
        for j in range(xi.shape[1]):
            xi[i, j] += h * (slope[i, j] * (wx[i, j] + dwx[i, j] + db[i]))


@_kernel
def add_products(a, b, acc):  # type: ignore[no-untyped-def]
    """Acc += a * b in float64, flat arrays."""
    for c in range(acc.size):
        acc[c] += np.float64(a[c]) * np.float64(b[c])


@_kernel
def adjoint_step(h, u, lam, slope, q):  # type: ignore[no-untyped-def]
    """Lam += h u, then q = slope * lam of the layer before: two adjoint steps in one pass."""
    for i in range(lam.shape[0]):
        for j in range(lam.shape[1]):
            v = lam[i, j] + h * u[i, j]
            lam[i, j] = v
            q[i, j] = slope[i, j] * v


@_kernel
def finish_layer(g, other, decay, theta, d, g_old, acc, dots):  # type: ignore[no-untyped-def]
    """For one layer: g += other + decay theta; dots += (g.g, g.g_old, g.d) in float64.

    `other`, `d` and `g_old` may have no rows, then they count as zero. `acc` holds (3, columns)
    numbers: one sum per column vectorises, a single sum would not.
    """
    n, m = g.shape
    acc[:] = 0.0
    for i in range(n):
        row = g[i]
        if other.shape[0] > 0:
            for j in range(m):
                row[j] += other[i, j]
        if decay != 0:
            for j in range(m):
                row[j] += decay * theta[i, j]
        add_products(row, row, acc[0])
        if g_old.shape[0] > 0:
            add_products(row, g_old[i], acc[1])
        if d.shape[0] > 0:
            add_products(row, d[i], acc[2])
    for i in range(3):
        dots[i] += acc[i].sum()


@_kernel
def riesz_block(inverse_pivots, ratios, r, d, g_old, c0, c1, work, dots):  # type: ignore[no-untyped-def]
    """Solve the tridiagonal systems of columns c0..c1 of `r` in place, and form three dot products.

    With p the right-hand sides and g the solutions, dots = (p.g, p.g_old, p.d), in float64. `d`
    and `g_old` may be empty (their dot products stay 0). `work` holds (K, c1 - c0) numbers. Rows
    are sliced before the inner loops: only then does the compiler know that the indices are not
    negative, and vectorises.
    """
    K = r.shape[0]
    width = c1 - c0
    acc = np.zeros((3, width))
    work[0, :width] = r[0, c0:c1]
    for k in range(1, K):
        e = ratios[k - 1]
        row, before, now = r[k, c0:c1], work[k - 1], work[k]
        for c in range(width):
            now[c] = row[c] - e * before[c]
    now = work[K - 1]
    for c in range(width):
        now[c] *= inverse_pivots[K - 1]
    for k in range(K - 1, -1, -1):
        now = work[k]
        if k < K - 1:
            e, p, after = ratios[k], inverse_pivots[k], work[k + 1]
            for c in range(width):
                now[c] = now[c] * p - e * after[c]
        row = r[k, c0:c1]
        add_products(row, now, acc[0])
        if g_old.size > 0:
            add_products(row, g_old[k, c0:c1], acc[1])
        if d.size > 0:
            add_products(row, d[k, c0:c1], acc[2])
        for c in range(width):
            row[c] = now[c]
    for i in range(3):
        dots[i] = acc[i].sum()


@_kernel
def lanczos_step(basis, k, v, alpha, beta):  # type: ignore[no-untyped-def]
    """Alpha = basis[k].v; v loses its parts along basis[0..k], twice; beta = |v|.

    Then basis[k+1] = v / beta, or zero where beta vanishes. `basis` is (steps + 1, n, s) and v
    (n, s), overwritten; every column is a Lanczos process of its own.
    """
    n, s = v.shape
    parts = np.empty((k + 1, s), v.dtype)
    for turn in range(2):
        parts[:] = 0
        for j in range(k + 1):
            part, q = parts[j], basis[j]
            for i in range(n):
                row, column = v[i], q[i]
                for c in range(s):
                    part[c] += column[c] * row[c]
        if turn == 0:
            alpha[:] = parts[k]
        for j in range(k + 1):
            part, q = parts[j], basis[j]
            for i in range(n):
                row, column = v[i], q[i]
                for c in range(s):
                    row[c] -= part[c] * column[c]
    beta[:] = 0
    for i in range(n):
        add_products(v[i], v[i], beta)
    scale = parts[0]
    for c in range(s):
        beta[c] = np.sqrt(beta[c])
        scale[c] = 1 / beta[c] if beta[c] > 1e-14 else 0
    for i in range(n):
        row, new = v[i], basis[k + 1, i]
        for c in range(s):
            new[c] = row[c] * scale[c]
