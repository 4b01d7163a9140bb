"""The options of a training run, checked before its first minibatch."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from snode.io import check_destination, load_arrays
from snode.ode.problems import Solver, check_choice
from snode.results import ModelFormatError
from snode.training.firstorder import FIRST_ORDER
from snode.training.ncg import CG_RULES

__all__ = ["CHECKPOINT", "METHODS", "Options", "check_checkpoint", "check_evaluations"]

METHODS = ("ncg", *FIRST_ORDER)
CHECKPOINT = "snode checkpoint"
MAX_EPOCHS = 1e9  # the number of minibatches must be one that can be counted to


@dataclass(frozen=True)
class Options:
    """What decides the numbers of a run besides field, data, cost, metric and seed."""

    method: str
    rule: str
    epochs: float
    batch_size: int
    n_iter: int
    learning_rate: float | None
    restart: bool
    threads: int
    solver: Solver
    block_size: int | None = None

    def __post_init__(self) -> None:
        check_choice("method", self.method, METHODS)
        check_choice("rule", self.rule, tuple(CG_RULES))
        for name in ("batch_size", "n_iter"):
            value = getattr(self, name)
            if not (is_integer(value) and value >= 1):
                raise ValueError(f"{name} must be a positive integer; got {value!r}")
        if not is_real(self.epochs):
            raise TypeError(f"epochs must be a number; got {self.epochs!r}")
        if not 0 < self.epochs < math.inf:
            raise ValueError(f"epochs must be positive and finite; got {self.epochs!r}")
        if self.epochs > MAX_EPOCHS:
            raise ValueError(f"epochs must be at most {MAX_EPOCHS:g}; got {self.epochs!r}")
        if not isinstance(self.restart, bool | np.bool_):
            raise TypeError(f"restart must be True or False; got {self.restart!r}")
        rate = self.learning_rate
        if self.method == "ncg" and rate is not None:
            raise ValueError("learning_rate is for the first-order methods; NCG has none")
        if rate is not None and not is_real(rate):
            raise TypeError(f"learning_rate must be a number or None; got {rate!r}")
        if rate is not None and not 0 < rate < math.inf:
            raise ValueError(f"learning_rate must be positive and finite; got {rate!r}")


def is_integer(value: Any) -> bool:
    """Return True for Python's and NumPy's integers; a bool is none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_real(value: Any) -> bool:
    """Return True for Python's and NumPy's real numbers; a bool is none."""
    return isinstance(value, float | np.floating) or is_integer(value)


def check_evaluations(eval_every: Any, eval_samples: Any) -> None:
    """Raise unless it is known when, and on how many samples, the accuracy is measured."""
    if eval_every is not None and not (is_real(eval_every) and 0 < eval_every < math.inf):
        raise ValueError(f"eval_every must be positive and finite, or None; got {eval_every!r}")
    if eval_samples is not None and not (is_integer(eval_samples) and eval_samples >= 1):
        raise ValueError(f"eval_samples must be a positive integer or None; got {eval_samples!r}")


def check_checkpoint(checkpoint: Any, resume: Any) -> None:
    """Raise unless a checkpoint can be written at this path: the end of a run is too late."""
    if not isinstance(resume, bool | np.bool_):
        raise TypeError(f"resume must be True or False; got {resume!r}")
    if checkpoint is None:
        if resume:
            raise ValueError("checkpoint must be given to resume from it")
        return
    if not isinstance(checkpoint, str | os.PathLike):
        raise TypeError(f"checkpoint must be a path or None; got {checkpoint!r}")
    check_destination(checkpoint, "checkpoint")
    path = Path(checkpoint)
    if resume or not path.exists() or path.stat().st_size == 0:
        return  # reading it says what is wrong with it; an empty file was made for this
    try:
        _, header = load_arrays(path)
    except ModelFormatError:
        header = {}
    if header.get("kind") != CHECKPOINT:
        raise FileExistsError(
            f"checkpoint: {path} exists and is not a checkpoint of snode, so it is not "
            "overwritten; give another path or remove the file"
        )
