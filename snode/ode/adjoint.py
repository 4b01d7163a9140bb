"""Exact transpose of a stored Euler solution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from snode.backend import Array, array_namespace

__all__ = ["euler_adjoint"]


def euler_adjoint(
    t: Array, linearizations: Sequence[Any], lam_T: Array, partials: dict[str, Array]
) -> Array:
    """Return lam (K + 1, n, m) and add the parameter derivatives to `partials`.

    lam_i = lam_{i+1} + h_i f_x^T lam_{i+1}, partials += h_i f_theta^T lam_{i+1}: the transpose
    pairs lam_{i+1} with x_i.
    """
    lam = array_namespace(lam_T).empty((len(t), *lam_T.shape), dtype=lam_T.dtype)
    lam[-1] = lam_T
    for i in range(len(t) - 2, -1, -1):
        h = float(t[i + 1] - t[i])
        pull, _ = linearizations[i].vjp(lam[i + 1], into=partials, weight=h)
        lam[i] = lam[i + 1] + h * pull
    return lam
