"""Dense output: the solution between the nodes, one polynomial a step."""

from __future__ import annotations

from typing import Any

import numpy as np

from snode.backend import Array, array_namespace

__all__ = ["DenseOutput", "hermite"]


class DenseOutput:
    r"""Piecewise polynomial :math:`x(t_i + \theta h_i) = x_i + \sum_k \theta^k q_{ik}`.

    Parameters
    ----------
    t : array (N + 1,)
        Nodes, strictly monotone (or a single one).
    x : sequence of N + 1 arrays
        States at the nodes.
    coefficients : sequence of N arrays (degree, ...)
    """

    def __init__(self, t: Array, x: Any, coefficients: Any) -> None:
        self.t, self.x, self.coefficients = np.asarray(t, dtype=np.float64), x, coefficients
        self._sign = 1.0 if len(t) < 2 or t[-1] > t[0] else -1.0
        self._keys = self._sign * self.t

    def __call__(self, t: Any) -> Array:
        """Return x at one depth, or at an array (k,) of depths."""
        if np.ndim(t) == 0:
            return self._at(float(t))
        depths = np.asarray(t, dtype=np.float64)
        if depths.ndim != 1:
            raise ValueError(f"t must be a number or an array (k,); got shape {depths.shape}")
        xp = array_namespace(self.x[0])
        if len(depths) == 0:
            return xp.empty((0, *self.x[0].shape), dtype=self.x[0].dtype)
        return xp.stack([self._at(float(s)) for s in depths])

    def _at(self, t: float) -> Array:
        slack = 1e-12 * (abs(self.t[-1] - self.t[0]) + abs(self.t[0]))
        key = self._sign * t
        if not self._keys[0] - slack <= key <= self._keys[-1] + slack:
            raise ValueError(f"t must be in [{self.t[0]:g}, {self.t[-1]:g}]; got {t:g}")
        i = int(np.searchsorted(self._keys, key, side="right")) - 1
        i = min(max(i, 0), len(self.t) - 1)
        if t == self.t[i] or i == len(self.t) - 1:
            return self.x[i].copy()
        theta = (t - float(self.t[i])) / float(self.t[i + 1] - self.t[i])
        return evaluate(self.x[i], self.coefficients[i], theta)


def evaluate(x: Array, coefficients: Array, theta: float) -> Array:
    """Return x + sum_k theta^k coefficients[k - 1] by Horner's rule."""
    value = theta * coefficients[-1]
    for row in coefficients[-2::-1]:
        value = theta * (value + row)
    return x + value


def hermite(x: Array, x_next: Array, slope: Array, slope_next: Array, h: float) -> Array:
    """Return the coefficients (3, ...) of the cubic with these values and slopes at the ends."""
    rise, left, right = x_next - x, h * slope, h * slope_next
    return array_namespace(x).stack([left, 3 * rise - 2 * left - right, left + right - 2 * rise])
