"""Accuracy under Gaussian noise and under attack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np

from snode.analysis.attacks import AttackResult, success_curve
from snode.backend import Array, array_namespace, own_error_state
from snode.copying import Portable
from snode.labels import check_labels, check_order
from snode.ode.problems import Solver, check_state
from snode.predict import accuracy, check_scored
from snode.seeds import as_generator

__all__ = ["NoiseAccuracy", "accuracy_under_attack", "accuracy_under_noise"]


@dataclass(frozen=True, eq=False)
class NoiseAccuracy(Portable):
    """Accuracy over several draws of the noise.

    Attributes
    ----------
    stds : array (s,)
        Standard deviations of the noise.
    draws : array (n_draws, s)
        Accuracy for each draw.
    """

    stds: np.ndarray[Any, Any]
    draws: np.ndarray[Any, Any]

    @property
    def mean(self) -> np.ndarray[Any, Any]:
        """Mean over the draws, (s,)."""
        return np.asarray(self.draws.mean(axis=0))

    @property
    def std(self) -> np.ndarray[Any, Any]:
        """Standard deviation between the draws, (s,), with n_draws - 1 in the denominator."""
        return np.asarray(self.draws.std(axis=0, ddof=1))

    def __repr__(self) -> str:
        rows = zip(self.stds, self.mean, self.std, strict=True)
        scores = ", ".join(f"{s:g}: {mean:.4f} +- {std:.4f}" for s, mean, std in rows)
        return f"NoiseAccuracy({len(self.draws)} draws; {scores})"


@overload
def accuracy_under_noise(
    field: Any, x: Array, y: Array, stds: Sequence[float], *, n_classes: int | None = None,
    value_range: float = 1.0, solver: str | Solver = "euler", rng: Any = None,
    n_draws: Literal[1] = 1,
) -> np.ndarray[Any, Any]: ...  # fmt: skip


@overload
def accuracy_under_noise(
    field: Any, x: Array, y: Array, stds: Sequence[float], *, n_classes: int | None = None,
    value_range: float = 1.0, solver: str | Solver = "euler", rng: Any = None,
    n_draws: int,
) -> np.ndarray[Any, Any] | NoiseAccuracy: ...  # fmt: skip


@own_error_state
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
    n_draws: int = 1,
) -> np.ndarray[Any, Any] | NoiseAccuracy:
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
        For the noise, drawn on the host, anew for each standard deviation and draw.
    n_draws : int, optional
        How often all of it is repeated.

    Returns
    -------
    array, shape of `stds`, or NoiseAccuracy
        The accuracy for one draw; for more, all of them with their mean and standard deviation.

    Raises
    ------
    ValueError
        If a standard deviation is negative or not finite, `n_draws` is not a positive integer, or
        the data do not fit the field.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> field = snode.StandaloneField(np.zeros((1, 2, 2)), np.zeros((1, 2)), T=1.0)
    >>> x, y = np.array([[1.0, -1.0], [-1.0, 1.0]]), np.array([0, 1])
    >>> snode.accuracy_under_noise(field, x, y, [0.0, 0.1], n_classes=2, rng=0)
    array([1., 1.])
    """
    if isinstance(n_draws, bool) or not isinstance(n_draws, int | np.integer) or n_draws < 1:
        raise ValueError(f"n_draws must be a positive integer; got {n_draws!r}")
    check_scored(field, x, y, n_classes)
    generator = as_generator(rng)
    xp = array_namespace(x)

    def score(std: float) -> float:
        if not (np.isfinite(std) and std >= 0):
            raise ValueError(f"stds must be finite and >= 0; got {std!r}")
        noise = generator.standard_normal(x.shape) * (std * value_range)
        noisy = x + xp.asarray(noise.astype(x.dtype))
        return accuracy(field, noisy, y, n_classes=n_classes, solver=solver)

    draws = np.array([[score(std) for std in stds] for _ in range(n_draws)])
    return draws[0] if n_draws == 1 else NoiseAccuracy(np.asarray(stds, np.float64), draws)


@own_error_state
def accuracy_under_attack(
    field: Any,
    x: Array,
    y: Array,
    attack: Callable[..., AttackResult],
    radii: Sequence[float],
    *,
    norm: str = "2",
    per_radius: bool = False,
) -> np.ndarray[Any, Any]:
    """Return the accuracy against an attacker who may move each input by at most a radius.

    Parameters
    ----------
    field : VectorField
    x : array (n, m)
    y : integer array (m,)
    attack : callable
        ``attack(field, x, y)`` returns an `AttackResult`. Set its options with
        `functools.partial`, the number of classes among them.
    radii : sequence of float
        Radius 0 is the accuracy without attack.
    norm : {"2", "inf"}, optional
        What the radii measure.
    per_radius : bool, optional
        Call ``attack(field, x, y, eps=radius)`` for each radius, which `fgsm` and `pgd` need. What
        is found with a small radius counts also with a larger one.

    Returns
    -------
    array, shape of `radii`
        An upper bound of the true robust accuracy: a better attack may find more.

    Raises
    ------
    ValueError, TypeError
        If a radius is negative or NaN, or as the attack raises.

    Examples
    --------
    >>> import functools
    >>> import numpy as np
    >>> import snode
    >>> from snode.analysis.attacks import deepfool
    >>> from snode.analysis.robustness import accuracy_under_attack
    >>> field = snode.StandaloneField(np.zeros((1, 2, 2)), np.zeros((1, 2)), T=1.0)
    >>> x, y = np.array([[0.4, 0.9, 0.2], [0.2, 0.1, 0.7]]), np.array([0, 0, 0])
    >>> attack = functools.partial(deepfool, n_classes=2)
    >>> accuracy_under_attack(field, x, y, attack, [0.0, 0.2, 0.6]).round(2)
    array([0.67, 0.33, 0.  ])
    """
    check_order(x, y)
    check_state(field, x, "x")
    check_labels(y, None, int(x.shape[1]))  # how many classes there are, only the attack knows
    sizes = np.asarray(radii, dtype=np.float64)
    if not (sizes >= 0).all():
        raise ValueError(f"radii must be >= 0; got {radii!r}")
    if per_radius:
        results = [attack(field, x, y, eps=float(radius)) for radius in sizes.ravel()]
    else:
        results = [attack(field, x, y)]
    return np.asarray(1.0 - success_curve(results, radii, norm=norm, count_skipped=True))
