r"""Explicit Euler on a given grid."""

from __future__ import annotations

from typing import Any

from snode.backend import Array, array_namespace

__all__ = ["euler"]


def euler(f: Any, t: Array, x0: Array) -> Array:
    """Integrate x' = f(t, x) by explicit Euler on the grid `t`.

    Parameters
    ----------
    f : callable
        ``f(t, x)`` returns an array shaped like x.
    t : array (K + 1,)
        Depths, increasing or decreasing.
    x0 : array (n, m)
        Initial states, one column a sample.

    Returns
    -------
    array (K + 1, n, m)

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> x = snode.euler(lambda t, x: -x, np.linspace(0, 1, 11), np.ones((1, 1)))
    >>> float(x[-1, 0, 0].round(4))  # 0.9**10
    0.3487
    """
    x = array_namespace(x0).empty((len(t), *x0.shape), dtype=x0.dtype)
    x[0] = x0
    for i in range(len(t) - 1):
        x[i + 1] = x[i] + float(t[i + 1] - t[i]) * f(float(t[i]), x[i])
    return x


def euler_linearized(field: Any, t: Array, x0: Array) -> tuple[Array, tuple[Any, ...]]:
    """As `euler`, and keep the linearisation of every step."""
    linearizations = []

    def f(ti: float, xi: Array) -> Array:
        value, lin = field.linearize(ti, xi)
        linearizations.append(lin)
        return value

    x = euler(f, t, x0)
    return x, tuple(linearizations)


def euler_last(f: Any, t: Array, x0: Array) -> Array:
    """As `euler`, but keep only the last state."""
    x = x0
    for i in range(len(t) - 1):
        x = x + float(t[i + 1] - t[i]) * f(float(t[i]), x)
    return x
