r"""Exact transpose of a stored Runge-Kutta solution.

The transpose of the tangent of one step (see `snode.ode.tangent`), stages in reverse order:

.. math::

   g_i = h b_i \lambda + h \sum_{j>i} a_{ji} \ell_j, \qquad \ell_i = J_i^T g_i, \qquad
   \frac{dE}{d\theta} \mathrel{+}= P_i^T g_i, \qquad
   \lambda_{old} = \lambda + \sum_i \ell_i .

For Euler this is lam_i = lam_{i+1} + h f_x^T lam_{i+1}: the transpose pairs lam_{i+1} with x_i.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from snode.backend import Array, array_namespace
from snode.ode.replay import Replay
from snode.partials import Partials

__all__ = ["rk_adjoint"]


def rk_adjoint(replay: Replay, lam_T: Array, partials: Partials | None = None) -> Iterator[Array]:
    """Yield lam at the nodes, from the last but one down, and add to `partials` on the way.

    `lam_T` may have axes before the last two, (..., n, m): several adjoints for each sample.
    """
    steps, numbers = replay.steps, replay.steps.tableau.numbers()
    xp, s = array_namespace(lam_T), replay.steps.tableau.active_stages
    # row i holds what g_i is made of: a_ji of the later stages, then b_i of lam
    transpose = np.hstack([numbers.a[:s, :s].T, numbers.b[:s, None]])
    rows = xp.asarray(transpose.astype(lam_T.dtype))
    pulls = xp.empty((s + 1, *lam_T.shape), dtype=lam_T.dtype)
    flat = pulls.reshape(s + 1, -1)
    # times h the rows are made once a step, and seen through views made once
    scaled, ones = xp.empty_like(rows), xp.ones(s + 1, dtype=lam_T.dtype)
    stages = [(i, scaled[i, i + 1 :], flat[i + 1 :]) for i in range(s - 1, -1, -1)]
    pulls[s] = lam_T
    for n, lins in replay.backwards():
        xp.multiply(rows, float(steps.t[n + 1] - steps.t[n]), out=scaled)
        for i, row, later in stages:
            g = row.dot(later).reshape(lam_T.shape)
            pulls[i] = lins[i].vjp(g, partials)
        lam = ones.dot(flat).reshape(lam_T.shape)
        pulls[s] = lam
        yield lam
