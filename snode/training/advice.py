"""What a run is warned of by name: targets out of reach, scales, no progress, guessing."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from snode.backend import Array, to_host
from snode.fields.base import has_readout
from snode.results import TrainingWarning
from snode.training.costs import Cost, one_hot

__all__ = ["advise_after", "advise_before", "announce"]

_SAMPLES = 2000  # of the data, for what is measured on them
_MIN_SAMPLES = 50
_CHANCE_SAMPLES = 100  # fewer say nothing about chance
_MIN_BATCHES = 3
_RATIO, _LARGE = 100.0, 10.0


def announce(advice: Iterable[str]) -> None:
    """Warn of each sentence, at the line of the user that called the package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("snode."):
        frame, level = frame.f_back, level + 1
    for sentence in advice:
        warnings.warn(sentence, TrainingWarning, stacklevel=level)


def advise_before(field: Any, x: Array, y: Array, cost: Cost) -> list[str]:
    """Return what is wrong with the data for this field, before anything is computed."""
    x, y = to_host(x[:, :_SAMPLES]), to_host(y[..., :_SAMPLES])
    with np.errstate(over="ignore", invalid="ignore"):  # huge data are told of by their cost
        return [s for s in (_out_of_reach(field, x, y, cost), _different_scales(x)) if s]


def _out_of_reach(field: Any, x: Array, y: Array, cost: Cost) -> str:
    """Say so if x(T) can only move away from the targets.

    With an activation that is nowhere negative no component of x falls along the depth, so that a
    component above its target stays above: the squared distance has a lower bound. What a constant
    output would cost is the measure for it.
    """
    sign = _only_direction(field)
    if not sign or not cost.l2 or cost.ce or has_readout(field) or y.shape[-1] < _MIN_SAMPLES:
        return ""
    if y.ndim == 1:
        y = one_hot(y.astype(np.int64), field.n, x.dtype)
    bound = 0.5 * float((np.maximum(sign * (x - y), 0.0) ** 2).sum(axis=0).mean())
    guess = 0.5 * float(y.var(axis=1).sum())
    if not max(guess, 1e-12) < bound < math.inf:
        return ""
    verb, side = ("grow", "below") if sign > 0 else ("fall", "above")
    activation = _last_activation(field)
    return (
        f"the targets cannot be reached: with {activation.name} the components of the state can "
        f"only {verb}, and many targets lie {side} the inputs; the squared distance stays above "
        f"{bound:.3g}, and a constant output has {guess:.3g}. Take tanh, a read-out "
        "(snode.Classifier) with cross entropy, or shift the inputs"
    )


def _last_activation(field: Any) -> Any:
    return getattr(field, "output_activation", getattr(field, "activation", None))


def _only_direction(field: Any) -> int:
    """Return 1 if no component of the state can fall, -1 if none can grow, else 0."""
    activation = _last_activation(field)
    if activation is None or not hasattr(field, "T"):
        return 0
    a = np.linspace(-30.0, 30.0, 601)
    with np.errstate(all="ignore"):
        value = np.asarray(activation(a.copy()))
    return int((value >= 0).all()) - int((value <= 0).all())


def _different_scales(x: Array) -> str:
    if x.shape[0] < 2 or x.shape[1] < _MIN_SAMPLES:
        return ""
    spread = x.std(axis=1, dtype=np.float64)
    varied = spread[spread > 0]
    if not varied.size or not max(_LARGE, _RATIO * varied.min()) <= varied.max() < math.inf:
        return ""
    return (
        f"the features have very different scales: standard deviations from {varied.min():.3g} to "
        f"{varied.max():.3g}; standardise them (Dataset.standardised())"
    )


def advise_after(
    history: Mapping[str, Sequence[float]], scores: Mapping[str, Sequence[float]], y: Array
) -> list[str]:
    """Return what the numbers of a run say against it.

    Parameters
    ----------
    history, scores : mapping of str to sequence
        As `TrainResult.history` and `TrainResult.evaluations`.
    y : array
        Labels or targets that the training accuracy was measured on.
    """
    return [s for s in (_stands_still(history), _is_guessing(history, scores, y)) if s]


def _stands_still(history: Mapping[str, Sequence[float]]) -> str:
    """Say so if minibatches with a finite cost were left without a step; not at a minimum."""
    step, after = np.array(history["step"], float), np.array(history["cost_after"], float)
    cost = np.array(history["cost"], float)
    computed = np.isfinite(after)
    still = computed & np.isnan(step)
    # the minimum of a minibatch is no fault: the cost has fallen to nearly nothing
    start = cost[computed][0] if computed.any() else math.nan
    still &= after > 1e-3 * start
    count, total = int(still.sum()), int(computed.sum())
    if total < _MIN_BATCHES or 2 * count < total:
        return ""
    return (
        f"training stood still: {count} of {total} minibatches found no step (step nan), although "
        f"the cost is {after[still][-1]:.3g}. The gradient vanishes, as it does where all relus "
        "are off: take tanh, other weights to start from, or inputs of scale 1"
    )


def _is_guessing(
    history: Mapping[str, Sequence[float]], scores: Mapping[str, Sequence[float]], y: Array
) -> str:
    """Say so if the accuracy could be that of an answer that does not look at the sample."""
    accuracy = scores["train_accuracy"][-1] if len(scores["train_accuracy"]) else math.nan
    if y.ndim != 1 or len(y) < _CHANCE_SAMPLES or not math.isfinite(accuracy):
        return ""
    if int(np.isfinite(np.array(history["cost_after"], float)).sum()) < _MIN_BATCHES:
        return ""
    counts = np.unique(to_host(y), return_counts=True)[1]
    chance = counts.max() / counts.sum()
    if len(counts) < 2 or accuracy > chance + 0.5 / len(y):
        return ""
    return (
        f"the training accuracy, {100 * accuracy:.1f} %, is not above chance: always answering the "
        f"most frequent class gives {100 * chance:.1f} %. Standardise the features, take a "
        "read-out with cross entropy (snode.Classifier), or train for longer"
    )
