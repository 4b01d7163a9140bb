r"""First-order update rules: SGD, momentum, RMSprop, Adam.

A rule is data: a frozen record whose `update` maps a gradient and a state to a step and a new
state. The formulas and default constants are those of PyTorch's optimisers, so that a residual
network trained there and a field trained here see the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from snode.backend import Array, array_namespace

__all__ = ["FIRST_ORDER", "FirstOrderRule"]

State = dict[str, Array]
"""Arrays shaped like the gradient, by name; `count` is the number of updates so far."""


@dataclass(frozen=True)
class FirstOrderRule:
    """An entry of the table.

    Attributes
    ----------
    update : callable
        ``update(g, state, count, learning_rate) -> (step, state)`` for one array; `count` is 1 at
        the first update. The new parameter is the old one plus `step`.
    slots : tuple of str
        Names of the state arrays, zero at the start.
    learning_rate : float
        Default learning rate (ours: the papers state none).
    reference : str
    """

    update: Callable[[Array, State, int, float], tuple[Array, State]]
    slots: tuple[str, ...]
    learning_rate: float
    reference: str


def _sgd(g: Array, state: State, count: int, lr: float) -> tuple[Array, State]:
    return -lr * g, {}


def _momentum(g: Array, state: State, count: int, lr: float) -> tuple[Array, State]:
    velocity = 0.9 * state["velocity"] + g
    return -lr * velocity, {"velocity": velocity}


def _rmsprop(g: Array, state: State, count: int, lr: float) -> tuple[Array, State]:
    square = 0.99 * state["square"] + 0.01 * (g * g)
    return -lr * g / (array_namespace(g).sqrt(square) + 1e-8), {"square": square}


def _adam(g: Array, state: State, count: int, lr: float) -> tuple[Array, State]:
    mean = 0.9 * state["mean"] + 0.1 * g
    square = 0.999 * state["square"] + 0.001 * (g * g)
    root = array_namespace(g).sqrt(square / (1 - 0.999**count))
    step = (-lr / (1 - 0.9**count)) * mean / (root + 1e-8)
    return step, {"mean": mean, "square": square}


FIRST_ORDER: dict[str, FirstOrderRule] = {
    "sgd": FirstOrderRule(_sgd, (), 0.1, "Robbins and Monro 1951"),
    "momentum": FirstOrderRule(_momentum, ("velocity",), 0.01, "Polyak 1964"),
    "rmsprop": FirstOrderRule(_rmsprop, ("square",), 1e-3, "Hinton et al. 2012"),
    "adam": FirstOrderRule(_adam, ("mean", "square"), 1e-3, "Kingma and Ba 2015"),
}


class FirstOrderOptimizer:
    """A rule with its state for a mapping of parameters."""

    def __init__(self, method: str, learning_rate: float | None, parameters: Any) -> None:
        self.rule = FIRST_ORDER[method]
        self.learning_rate = self.rule.learning_rate if learning_rate is None else learning_rate
        self.count = 0
        self.state: dict[str, State] = {
            name: {slot: array_namespace(p).zeros_like(p) for slot in self.rule.slots}
            for name, p in parameters.items()
        }

    def steps(self, gradient: dict[str, Array]) -> dict[str, Array]:
        """Return what to add to each parameter, and advance the state."""
        self.count += 1
        steps = {}
        for name, g in gradient.items():
            steps[name], self.state[name] = self.rule.update(
                g, self.state[name], self.count, self.learning_rate
            )
        return steps
