r"""The cost functional, its derivative at the outputs, and its model along a direction.

.. math::

   E = \frac1m \sum_k \Big[ \tfrac{l_2}{2} |x_k(T)-y_k|^2
       + ce\,(-\log \mathrm{softmax}_{c_k}(P x_k(T)))
       + \tfrac{output}{2} |x_k(T) - T\sigma(0)|^2 \Big]
       + \tfrac{decay}{2} \Big( \int |W|_F^2 + \int |b|^2 \Big)

with P the first C rows of the identity (paper 001, eq. (3); the weights of its terms are called
l2, ce, output and decay here). For a field with a read-out, z(x(T)) takes the place of x(T), all C
components of it are the logits, and the output term is |z|^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from snode.backend import (
    Array,
    array_namespace,
    as_number,
    is_on_device,
    to_host,
    to_host_together,
)
from snode.fields.base import has_readout, n_outputs, outputs
from snode.labels import check_labels, check_plain
from snode.ode.arguments import check_finite
from snode.training.innerproducts import L2, pair_number

__all__ = ["Cost", "LineModel", "TerminalCost"]


@dataclass(frozen=True)
class Cost:
    """Weights of the four terms of the cost functional.

    Parameters
    ----------
    l2 : float, optional
        Squared distance of x(T) to the target, all n components; of the outputs, for a field with
        a read-out.
    ce : float, optional
        Cross entropy of the softmax of the first `n_classes` components of x(T); of all outputs,
        for a field with a read-out.
    output : float, optional
        Squared distance of x(T) to T sigma(0), or of the outputs of a read-out to 0, which keeps
        them small.
    decay : float, optional
        Squared L2(0,T) norm of the parameters (Tikhonov regularisation, weight decay).
    n_classes : int, optional
        Number C of classes; for a field with a read-out, the number of its outputs.

    Raises
    ------
    ValueError
        If a weight is negative or not finite, all are zero, or `n_classes` < 2.

    Examples
    --------
    >>> import snode
    >>> snode.Cost(l2=0, ce=1, output=0.1)
    Cost(l2=0, ce=1, output=0.1, decay=0.0, n_classes=10)
    """

    l2: float = 1.0
    ce: float = 0.0
    output: float = 0.0
    decay: float = 0.0
    n_classes: int = 10

    def __post_init__(self) -> None:
        weights = {k: getattr(self, k) for k in ("l2", "ce", "output", "decay")}
        for name, value in weights.items():
            if not _is_number(value):
                raise TypeError(f"{name} must be a number; got {value!r}")
            if not (np.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be finite and >= 0; got {value!r}")
        if not any(weights.values()):
            raise ValueError("at least one of l2, ce, output, decay must be positive")
        is_integer = isinstance(self.n_classes, int | np.integer)
        if isinstance(self.n_classes, bool) or not is_integer or self.n_classes < 2:
            raise ValueError(f"n_classes must be an integer >= 2; got {self.n_classes!r}")

    def at(self, field: Any, y: Array) -> TerminalCost:
        """Return the cost as a function of the outputs, for the field's size and the data `y`.

        Raises
        ------
        ValueError
            If `y` does not fit; see `TerminalCost`.
        """
        return TerminalCost(self, field, y)

    def value(self, field: Any, x_T: Array, y: Array) -> float:
        """Return E for final states x(T) of the field."""
        return self.at(field, y).value(outputs(field, x_T)) + self.decay_value(field)

    def decay_value(self, field: Any) -> float:
        """Return the part of E that depends on the parameters only."""
        return float(self.decay_number(field))

    def decay_number(self, field: Any) -> Any:
        """Return `decay_value` as a number where the parameters live."""
        if self.decay == 0:
            return 0.0
        return 0.5 * self.decay * L2().on(field).norm_number(field.parameters) ** 2

    def add_decay_partials(self, field: Any, partials: dict[str, Array]) -> None:
        """Add the Euclidean derivative of the decay term to `partials`, in place."""
        if self.decay == 0:
            return
        inner = L2().on(field)
        for name, theta in field.parameters.items():
            partials[name] += self.decay * inner.apply(name, theta)


class TerminalCost:
    """The part of the cost that depends on the outputs, with the data `y` made ready.

    The outputs are x(T), with n components, or for a field with a read-out z, with n = C; in the
    methods, `x_T` and `xi_T` stand for the outputs and their sensitivity.

    Parameters
    ----------
    cost : Cost
    field : VectorField
        Gives n, and what the output term compares with: ``rest``, else T sigma(0), else (without
        ``T`` and ``activation``) 0.
    y : integer array (m,) or array (n, m)
        Labels 0..C-1 (embedded one-hot in R^n for the l2 term), or targets (l2 and output only).

    Raises
    ------
    ValueError
        If `y` has a wrong shape or range, is not finite, or the cross entropy is asked for without
        labels.
    """

    def __init__(self, cost: Cost, field: Any, y: Array) -> None:
        self.cost, self.n = cost, n_outputs(field)
        dtype = next((p.dtype for p in field.parameters.values()), np.dtype("float64"))
        self.labels: Array | None = None
        check_plain(y, "y", f"labels (m,) or targets ({self.n}, m)")
        if y.ndim == 1:
            if has_readout(field) and cost.n_classes != self.n:
                raise ValueError(
                    f"n_classes must be the number of outputs of the field, {self.n}; "
                    f"got {cost.n_classes}"
                )
            _check_size(cost.n_classes, self.n)
            self.labels = check_labels(
                y, cost.n_classes, int(y.shape[0]), otherwise=f" or targets ({self.n}, m)"
            )
            self.m = int(y.shape[0])
            self.target = None if cost.l2 == 0 else one_hot(self.labels, self.n, dtype)
        else:
            check_targets(y, self.n)
            if cost.ce > 0:
                raise ValueError("y must be integer labels (m,) when ce > 0; got targets (n, m)")
            self.m, self.target = int(y.shape[1]), y.astype(dtype, copy=False)
            if self.target.dtype.itemsize < y.dtype.itemsize:
                check_finite(self.target, f"y as {dtype}")  # 1e300 is not a float32
        self.rest = _rest(field)
        # root finding is scalar work: the labels go to the host once
        self.host_labels = to_host(self.labels) if cost.ce and self.labels is not None else None

    def part(self, columns: slice) -> TerminalCost:
        """Return this cost for some of the samples, its mean still taken over all of them.

        The values, the models along a line (`LineModel.combine`) and the terminal derivatives of
        parts that cover the samples once add up to those of the whole.
        """
        other = copy(self)
        other.labels = None if self.labels is None else self.labels[columns]
        other.host_labels = None if self.host_labels is None else self.host_labels[columns]
        other.target = None if self.target is None else self.target[:, columns]
        return other

    def value(self, x_T: Array) -> float:
        """Return the cost without the decay term; inf if x(T) is not finite."""
        return float(self.number(x_T))

    def number(self, x_T: Array) -> Any:
        """Return `value` as a number where x(T) lives: on a device nobody waits for it."""
        cost, total = self.cost, 0.0
        xp = array_namespace(x_T)
        finite = xp.isfinite(x_T).all()  # the cross entropy sees only some components
        if not is_on_device(x_T) and not finite:
            return float("inf")
        with np.errstate(over="ignore", invalid="ignore"):
            if cost.l2:
                total += 0.5 * cost.l2 * _square(x_T - self.target)
            if cost.output:
                total += 0.5 * cost.output * _square(x_T - self.rest)
            if cost.ce:
                total += cost.ce * self._cross_entropy(self._logits(x_T))
        total = total / self.m
        return xp.where(finite, total, float("inf")) if is_on_device(x_T) else total

    def terminal(self, x_T: Array) -> Array:
        """Return lam(T) = dE/dx(T), (n, m), in the dtype of `x_T`."""
        cost, xp = self.cost, array_namespace(x_T)
        lam = xp.zeros_like(x_T)
        if cost.l2:
            lam += (cost.l2 / self.m) * (x_T - self.target)
        if cost.output:
            lam += (cost.output / self.m) * (x_T - self.rest)
        if cost.ce:
            residual = softmax_residual(self._logits(x_T), self.labels)
            lam[: cost.n_classes] += ((cost.ce / self.m) * residual).astype(x_T.dtype)
        return lam

    def line(
        self, x_T: Array, xi_T: Array, decay_slope: float = 0.0, decay_curvature: float = 0.0
    ) -> LineModel:
        """Return the model of the cost along a direction whose sensitivity at T is `xi_T`.

        `decay_slope` is ``decay <theta, d>``, `decay_curvature` is ``decay <d, d>``, both in
        L2(0,T).
        """
        numbers = self.line_numbers(x_T, xi_T, decay_slope, decay_curvature)
        return self.line_model(to_host_together(*numbers))

    def line_numbers(
        self, x_T: Array, xi_T: Array, decay_slope: Any = 0.0, decay_curvature: Any = 0.0
    ) -> list[Any]:
        """Return what `line` is made of, where x(T) lives; see `line_model`."""
        cost = self.cost
        constant, linear = decay_slope, decay_curvature
        if cost.l2:
            constant = constant + cost.l2 * _dot(xi_T, x_T - self.target) / self.m
        if cost.output:
            constant = constant + cost.output * _dot(xi_T, x_T - self.rest) / self.m
        square = _square(xi_T) / self.m
        linear = linear + (cost.l2 + cost.output) * square
        scale = 1.0 + (_square(x_T) / self.m) ** 0.5
        numbers = [constant, linear, square**0.5, scale]
        return [*numbers, self._logits(x_T), self._logits(xi_T)] if cost.ce else numbers

    def line_model(self, numbers: Sequence[Any]) -> LineModel:
        """Return the model from its numbers, which have come to the host."""
        constant, linear, move, scale = (float(number) for number in numbers[:4])
        if not self.cost.ce:
            return LineModel(constant, linear, move, scale)
        z, dz = numbers[4:]
        return LineModel(constant, linear, move, scale, self.cost.ce, z, dz, self.host_labels)

    def _logits(self, x: Array) -> Array:
        return x[: self.cost.n_classes].astype(np.float64)

    def _cross_entropy(self, z: Array) -> Any:
        xp = array_namespace(z)
        shifted = z - z.max(axis=0)
        log_sum = xp.log(xp.exp(shifted).sum(axis=0))
        return as_number(xp.sum(log_sum - shifted[self.labels, xp.arange(z.shape[1])]))


@dataclass(frozen=True, eq=False)
class LineModel:
    r"""The cost along a direction, with x(T) replaced by its linearisation x(T) + eta xi(T).

    Its derivative phi is increasing; phi(0) is the exact derivative of the cost (paper 001,
    appendix B.1).

    Attributes
    ----------
    constant, linear : float
        phi(eta) = constant + linear * eta + cross entropy part.
    move, scale : float
        Root mean square over the samples of the norm of xi(T), and 1 + that of x(T): the step
        may be trusted while ``eta * move`` is not far above `scale`.
    ce, logits, dlogits, labels
        The cross entropy part; `ce` is 0 if there is none.
    """

    constant: float
    linear: float
    move: float
    scale: float
    ce: float = 0.0
    logits: Any = None
    dlogits: Any = None
    labels: Any = None

    @staticmethod
    def combine(models: Sequence[LineModel]) -> LineModel:
        """Return the model of the whole from those of its parts; see `TerminalCost.part`."""
        first = models[0]
        sums = (
            sum(model.constant for model in models),
            sum(model.linear for model in models),
            sum(model.move**2 for model in models) ** 0.5,
            1.0 + sum((model.scale - 1.0) ** 2 for model in models) ** 0.5,
        )
        if not first.ce:
            return LineModel(*sums)
        logits, dlogits, labels = (
            np.concatenate([getattr(model, name) for model in models], axis=-1)
            for name in ("logits", "dlogits", "labels")
        )
        return LineModel(*sums, first.ce, logits, dlogits, labels)

    @property
    def slope(self) -> float:
        """phi(0), the derivative of the cost along the direction."""
        return self.phi(0.0)

    def phi(self, eta: float) -> float:
        """Return the derivative of the model at step length `eta`."""
        value = self.constant + self.linear * eta
        if self.ce:
            residual = softmax_residual(self.logits + eta * self.dlogits, self.labels)
            value += self.ce * float((self.dlogits * residual).sum()) / len(self.labels)
        return value

    def root(self, max_step: float) -> float:
        """Return the root of phi in (0, max_step), or `max_step` if there is none below it."""
        from scipy.optimize import brentq

        if self.phi(max_step) <= 0:
            return max_step
        return float(brentq(self.phi, 0.0, max_step, xtol=1e-15 * max_step, rtol=1e-14))

    def minimizer(self, trust: float) -> tuple[float, bool]:
        """Return the step length and whether it was capped.

        Without cross entropy the step is -phi(0) / linear, never capped: it moves x(T) no
        further than the data ask. With cross entropy phi may have no finite root (xi separates
        the batch), so the move of x(T) is limited to ``trust * scale``.
        """
        if not self.ce or self.move == 0:
            # `linear` can only vanish by underflow; then any step must prove itself
            return (-self.constant / self.linear, False) if self.linear > 0 else (1.0, True)
        max_step = trust * self.scale / self.move
        step = self.root(max_step)
        return step, step == max_step


def default_cost(field: Any, n_classes: int = 10) -> Cost:
    """Return the squared distance to one-hot targets, for the outputs of a read-out if any."""
    return Cost(n_classes=max(2, n_outputs(field)) if has_readout(field) else n_classes)


def _rest(field: Any) -> float:
    if hasattr(field, "rest"):
        return float(field.rest)
    if hasattr(field, "activation") and hasattr(field, "T"):
        return float(field.T * field.activation.at_zero())
    return 0.0


def softmax_residual(z: Array, labels: Array) -> Array:
    """Return softmax(z) - onehot(labels), (C, m), for logits z."""
    xp = array_namespace(z)
    e = xp.exp(z - z.max(axis=0))
    e /= e.sum(axis=0)
    e[labels, xp.arange(z.shape[1])] -= 1
    return e


def one_hot(labels: Array, n: int, dtype: Any) -> Array:
    """Return unit vectors (n, m): component `labels[k]` of column k is 1."""
    xp = array_namespace(labels)
    out = xp.zeros((n, labels.shape[0]), dtype=dtype)
    out[labels, xp.arange(labels.shape[0])] = 1
    return out


def check_cost(cost: Any) -> None:
    """Raise TypeError unless `cost` is a `Cost`; one of a subclass is."""
    if isinstance(cost, Cost):
        return
    got = cost.__name__ if isinstance(cost, type) else type(cost).__name__
    hint = ". A loss of your own is a subclass of Cost: see 'A loss' in the page on adding to snode"
    if cost is Cost:
        hint = ", the class: use snode.Cost(...)"
    elif isinstance(cost, str):
        hint = ""
    raise TypeError(
        f"cost must be a snode.Cost, such as snode.Cost(l2=0, ce=1, n_classes=3); got {got}{hint}"
    )


def check_targets(y: Array, n: int, m: int | None = None, name: str = "y") -> None:
    """Raise unless `y` holds finite targets (n, m)."""
    expected = f"{name} must be integer labels (m,) or targets ({n}, m)"
    if y.ndim != 2 or y.shape[0] != n or (m is not None and y.shape[1] != m):
        hint = f"; did you mean {name}.T?" if y.ndim == 2 and y.shape[1] == n else ""
        raise ValueError(f"{expected}; got {y.dtype} of shape {y.shape}{hint}")
    if y.dtype.kind not in "fiub":
        raise ValueError(f"{expected}; got {y.dtype}: targets are real numbers")
    if y.dtype.kind == "f":
        check_finite(y, name)


def _check_size(n_classes: int, n: int) -> None:
    if n < n_classes:
        raise ValueError(
            f"n_classes must be at most the state dimension {n}; got {n_classes}. Give Cost the "
            "number of classes of your data, or pad the inputs with rows of zeros"
        )


def _dot(a: Array, b: Array) -> Any:
    return as_number(array_namespace(a, b).sum(a * b, dtype=np.float64))


def _square(a: Array) -> Any:
    return _dot(a, a)


def parameter_line(cost: Cost, field: Any, direction: dict[str, Array]) -> tuple[Any, Any]:
    """Return decay <theta, d> and decay |d|^2 in L2(0,T), numbers where the parameters live."""
    if cost.decay == 0:
        return 0.0, 0.0
    inner = L2().on(field)
    applied = {name: inner.apply(name, d) for name, d in direction.items()}
    return (
        cost.decay * pair_number(field.parameters, applied),
        cost.decay * pair_number(direction, applied),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
