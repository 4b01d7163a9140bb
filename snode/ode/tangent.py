"""Tangent-linear of a stored Euler solution: the derivative of the numbers computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from snode.backend import Array, array_namespace

__all__ = ["euler_tangent"]


def euler_tangent(
    t: Array, linearizations: Iterable[Any], xi0: Array, dtheta: Mapping[str, Array] | None
) -> Array:
    """Return xi (K + 1, n, m) with xi_{i+1} = xi_i + h_i (f_x xi_i + f_theta dtheta)."""
    xi = array_namespace(xi0).empty((len(t), *xi0.shape), dtype=xi0.dtype)
    xi[0] = xi0
    for i, lin in enumerate(linearizations):
        xi[i + 1] = xi[i] + float(t[i + 1] - t[i]) * lin.jvp(xi[i], dtheta)
    return xi
