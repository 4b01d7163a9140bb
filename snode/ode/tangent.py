r"""Tangent-linear of a stored Runge-Kutta solution: the derivative of the numbers computed.

With :math:`J_i`, :math:`P_i` the derivatives of f with respect to x and theta at stage i, the
derivative of one step on its frozen length h is

.. math::

   \dot K_i = J_i \Big( \xi + h \sum_{j<i} a_{ij} \dot K_j \Big) + P_i\, \dot\theta, \qquad
   \xi_{new} = \xi + h \sum_i b_i \dot K_i .
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from snode.backend import Array, array_namespace
from snode.ode.replay import Replay

__all__ = ["end_time_tangent", "rk_tangent"]


def rk_tangent(replay: Replay, xi0: Array, dtheta: Mapping[str, Array] | None) -> Iterator[Array]:
    """Yield xi at the nodes, from the second on."""
    steps = replay.steps
    xp, numbers = array_namespace(xi0), steps.tableau.numbers()
    s = steps.tableau.active_stages
    a = xp.asarray(numbers.a.astype(xi0.dtype))
    b = xp.asarray(numbers.b[:s].astype(xi0.dtype))
    dK = xp.empty((s, *xi0.shape), dtype=xi0.dtype)
    flat = dK.reshape(s, -1)
    xi = xi0
    for n, lins in replay.forwards():
        h = float(steps.t[n + 1] - steps.t[n])
        ha = h * a
        dK[0] = lins[0].jvp(xi, dtheta)
        for i in range(1, s):
            y = xi + ha[i, :i].dot(flat[:i]).reshape(xi.shape)
            dK[i] = lins[i].jvp(y, dtheta)
        xi = xi + (h * b).dot(flat).reshape(xi.shape)
        yield xi


def end_time_tangent(replay: Replay) -> Array:
    r"""Return dx(T)/dT when the last step is stretched and all other steps are frozen.

    .. math:: \frac{dx_N}{dh} = \sum_i b_i (K_i + h \dot K_i), \qquad
       \dot K_i = c_i f_t + J_i \sum_{j<i} a_{ij} (K_j + h \dot K_j)
    """
    steps = replay.steps
    K, lins = replay.last_step()
    numbers, h = steps.tableau.numbers(), float(steps.t[-1] - steps.t[-2])
    moved: list[Any] = []  # K_j + h dK_j
    total = array_namespace(K).zeros_like(K[0])
    for i, lin in enumerate(lins):
        push = sum(float(numbers.a[i, j]) * moved[j] for j in range(i))
        dK = 0 * K[i] if i == 0 else lin.jvp(push)
        if numbers.c[i]:
            if not hasattr(lin, "time_derivative"):
                raise ValueError(
                    "the end time derivative needs lin.time_derivative() of the field; a field "
                    "that does not depend on t returns zeros"
                )
            dK = dK + numbers.c[i] * lin.time_derivative()
        moved.append(K[i] + h * dK)
        total = total + float(numbers.b[i]) * moved[i]
    return total
