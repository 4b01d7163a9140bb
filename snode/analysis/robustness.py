"""Accuracy under Gaussian noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from snode.backend import Array, array_namespace
from snode.ode.problems import Solver
from snode.predict import accuracy

__all__ = ["accuracy_under_noise"]


def accuracy_under_noise(
    field: Any,
    x: Array,
    y: Array,
    stds: Sequence[float],
    *,
    n_classes: int | None = None,
    value_range: float = 1.0,
    solver: str | Solver = "euler",
    rng: Any = None,
) -> np.ndarray[Any, Any]:
    """Return the accuracy on inputs with independent Gaussian noise on every component.

    Parameters
    ----------
    field : VectorField
    x : array (n, m)
    y : integer array (m,)
    stds : sequence of float
        Standard deviations, in units of `value_range`. Noisy inputs are not clipped.
    n_classes : int, optional
        As for `predict`.
    value_range : float, optional
        Distance between background and ink in `x`; 1 for both [0, 1] and [-1, 0].
    solver : str or Solver, optional
        As for `predict`.
    rng : seed or numpy.random.Generator, optional
        One draw a standard deviation, on the host.

    Returns
    -------
    array, shape of `stds`

    Raises
    ------
    ValueError
        If a standard deviation is negative or not finite, or the data do not fit the field.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> field = snode.StandaloneField(np.zeros((1, 2, 2)), np.zeros((1, 2)), T=1.0)
    >>> x, y = np.array([[1.0, -1.0], [-1.0, 1.0]]), np.array([0, 1])
    >>> snode.accuracy_under_noise(field, x, y, [0.0, 0.1], n_classes=2, rng=0)
    array([1., 1.])
    """
    generator = np.random.default_rng(rng)
    xp = array_namespace(x)
    scores = []
    for std in stds:
        if not (np.isfinite(std) and std >= 0):
            raise ValueError(f"stds must be finite and >= 0; got {std!r}")
        noise = generator.standard_normal(x.shape) * (std * value_range)
        noisy = x + xp.asarray(noise.astype(x.dtype))
        scores.append(accuracy(field, noisy, y, n_classes=n_classes, solver=solver))
    return np.array(scores)
