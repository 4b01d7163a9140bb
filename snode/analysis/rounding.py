r"""What rounding does to the states that Euler's method computes, for a whole ball of inputs.

Let :math:`\hat x_k(\delta)` be what the computer gets after k steps from the input
:math:`x_0 + \delta`, :math:`|\delta| \le r`, and :math:`D_k` a bound of
:math:`|\hat x_k(\delta) - \hat x_k(0)|` over that ball, :math:`D_0 = r`. The exact step spreads two
states by the factor :math:`F_k` at most (`growth_bound`), and each of the two computed steps misses
the exact one by a local error. That of the centre is at most :math:`\alpha_k`; that of the other
is at most :math:`\alpha_k + \beta_k D_k`, because the numbers that are rounded are larger by what
the states differ. So

.. math:: D_{k+1} \le (1 + 4\epsilon)\, \big( (F_k + \beta_k) D_k + 2 \alpha_k \big),
          \qquad\text{hence}\qquad D_K \le G r + P .

The local error is the standard one (Higham, *Accuracy and Stability of Numerical Algorithms*,
Section 3.1), for sums in any order, with or without fused multiply-add: for a layer
:math:`y = \sigma(a)`, :math:`a = A y_{-} + b`, with :math:`M \ge |A| |\hat y_{-}| + |b|` and the
error :math:`E_{-}` of its input,

.. math:: E = S\, (|A| E_{-} + \gamma\, M) + 16\, \epsilon\, (\max(1, S) M + |\sigma(0)|),
          \qquad \gamma = \frac{k \epsilon}{1 - k \epsilon},

k being the number of columns plus 4, S the largest slope, and :math:`\epsilon` twice the unit
roundoff. The last term is what an activation may err by.
"""

# ruff: noqa: N806  (the symbols of the derivation)

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from snode.analysis.growth_rates import Layers
from snode.backend import Array, array_namespace, to_host
from snode.fields.mlp import MLPField
from snode.ode.problems import solve_direct

__all__ = ["Spread", "gamma", "spread_of_euler"]

EPS = float(np.finfo(float).eps)
ACTIVATION = 16.0
"""Roundings of an activation, relative to its argument and its value; a test measures them."""

MEMORY, BLOCK = 2**27, 500
"""Bytes of trajectories, and samples, that are looked at together."""


class Spread(NamedTuple):
    """``|x^(delta) - x^(0)| <= gain * |delta| + offset`` for the computed states at T.

    Attributes
    ----------
    x_T : array (n, m)
        The computed states of the unperturbed inputs.
    gain : float
    offset : float64 array (m,)
    """

    x_T: Array
    gain: float
    offset: Array


def gamma(k: int, dtype: Any) -> float:
    """Bound of the relative error of k roundings: twice Higham's; inf where it says nothing."""
    error = k * float(np.finfo(dtype).eps)
    return error / (1 - error) if error < 1 else np.inf


def spread_of_euler(layers: Layers, factors: Array, field: Any, x: Array) -> Spread:
    """Follow the computed states, their local errors, and how both spread.

    Parameters
    ----------
    layers : Layers
        Of `field`.
    factors : array (K,)
        Certified factors of the exact steps.
    field : VectorField
    x : array (n, m)

    Returns
    -------
    Spread
    """
    steps = [_Step.of(layers, a, b) for a, b in pairwise(layers.grid)]
    size = len(layers.grid) * x.shape[0] * x.dtype.itemsize
    block = int(np.clip(MEMORY // size, 1, BLOCK))
    xp = array_namespace(x)
    ends, offsets, gain = [], [], 1.0
    for start in range(0, x.shape[1], block):
        columns = xp.ascontiguousarray(x[:, start : start + block])
        sol = solve_direct(field, columns, method="euler", keep="trajectory")
        gain, offset = _followed(steps, factors, to_host(sol.x))
        ends.append(sol.x_T)
        offsets.append(offset)
    return Spread(xp.concatenate(ends, axis=1), gain, np.concatenate(offsets))


def _followed(steps: list[_Step], factors: Array, states: Array) -> tuple[float, Array]:
    """G and P of the module's docstring."""
    eps = float(np.finfo(states.dtype).eps)
    gain, offset = 1.0, np.zeros(states.shape[2])
    with np.errstate(over="ignore", invalid="ignore"):
        for step, factor, x, after in zip(steps, factors, states[:-1], states[1:], strict=True):
            alpha, beta = step.local_error(x, after)
            total = (float(factor) + beta) * (1 + 4 * eps + 16 * EPS)
            gain, offset = total * gain, total * offset + 2.01 * alpha
    unknown = np.isnan(offset)
    return gain if np.isfinite(gain) else np.inf, np.where(unknown, np.inf, offset)


class _Step(NamedTuple):
    """One step of Euler's method: moduli of its layers, and its width."""

    moduli: list[Array]
    biases: list[Array]
    slopes: list[float]
    at_zero: list[float]
    functions: list[tuple[Array, Any]]
    width: float

    @classmethod
    def of(cls, layers: Layers, a: float, b: float) -> _Step:
        """Read the layers at depth a."""
        field = layers.field
        if isinstance(field, MLPField):
            parts = [(to_host(W), to_host(c), sigma) for W, c, sigma in field._layers(float(a))]
        else:
            W, c = field._at(float(a))
            parts = [(to_host(W), to_host(c)[:, None], field.activation)]
        return cls(
            [np.abs(W) for W, _, _ in parts], [np.abs(c) for _, c, _ in parts],
            [max(abs(lo), abs(hi)) for lo, hi in layers.slopes],
            [abs(sigma.at_zero()) for _, _, sigma in parts],
            [(W, (c, sigma)) for W, c, sigma in parts], float(b - a),
        )  # fmt: skip

    def local_error(self, x: Array, after: Array) -> tuple[Array, float]:
        """Return alpha (m,), and beta but for its part that is in the factor 1 + 4 eps."""
        eps, tiny = float(np.finfo(x.dtype).eps), float(np.finfo(x.dtype).tiny)
        y, Y, E = x, np.abs(x), np.zeros_like(x)  # values, bounds of what was computed, errors
        grows, errs = 1.0, 0.0  # how Y and E grow, per |d|
        last = len(self.moduli) - 1
        for j, (A, b) in enumerate(zip(self.moduli, self.biases, strict=True)):
            S, g = self.slopes[j], gamma(A.shape[1] + 4, x.dtype)
            own = ACTIVATION * eps * max(1.0, S)
            up = 1 + 2 * g  # the bounds are sums of positive numbers, rounded in this dtype
            M = (A @ Y + b) * up
            E = (S * (A @ E + g * M) + own * M + ACTIVATION * eps * self.at_zero[j] + tiny) * up
            size = float(np.sqrt(A.sum(axis=0).max()) * np.sqrt(A.sum(axis=1).max())) * up
            errs = (S * (size * errs + g * size * grows) + own * size * grows) * up
            grows = (S * size * grows + 2 * errs) * up
            if j == last:
                Y = (S * M + self.at_zero[j] + E) * up
            else:
                W, (c, sigma) = self.functions[j]
                y = sigma.value(W @ y + c)
                Y = (np.abs(y) + 2 * E) * up
        h = self.width
        alpha = 1.01 * h * E + 2 * eps * (np.abs(after) + 4 * h * Y) + tiny
        beta = 1.01 * h * errs + 8 * eps * h * grows
        return 1.01 * np.linalg.norm(alpha.astype(np.float64), axis=0), 1.01 * beta
