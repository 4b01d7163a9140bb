"""Attacks along the gradient of a cost, in a ball around the input: `fgsm` and `pgd`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from snode.analysis.attack_result import (
    NORMS,
    SAMPLES_PER_BLOCK,
    AttackResult,
    Task,
    check_count,
    check_number,
    input_gradient,
    norm2,
    units,
)
from snode.backend import Array, array_namespace, own_error_state
from snode.fields.base import outputs
from snode.ode.arguments import check_choice
from snode.ode.problems import Solver
from snode.progress import Callback
from snode.seeds import as_generator

__all__ = ["fgsm", "pgd"]

Loss = Callable[[Array, Array], tuple[Array, Array]]


@own_error_state
def fgsm(
    field: Any,
    x: Array,
    y: Array,
    *,
    eps: float,
    norm: str = "inf",
    cost: str | Loss = "ce",
    target: int | Array | None = None,
    box: tuple[float, float] | None = None,
    n_classes: int | None = None,
    solver: str | Solver = "euler",
    callback: Callback | None = None,
) -> AttackResult:
    """Make one step of size `eps` along the sign of the gradient of the cost.

    Parameters
    ----------
    field, x, y, box, n_classes, solver, callback
        As for `sensitivity_attack`.
    eps, norm, cost, target
        As for `pgd`. In the 2-norm, the step is along the gradient itself.

    Returns
    -------
    AttackResult

    Raises
    ------
    ValueError, TypeError, IntegrationError
        As `sensitivity_attack`.

    References
    ----------
    .. [1] Goodfellow, Shlens, Szegedy, *Explaining and harnessing adversarial examples*, ICLR 2015.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> from snode.analysis.attacks import fgsm
    >>> field = snode.StandaloneField(np.zeros((1, 2, 2)), np.zeros((1, 2)), T=1.0)
    >>> x, y = np.array([[0.5], [0.25]]), np.array([0])
    >>> fgsm(field, x, y, eps=0.25, box=(0, 1), n_classes=2).x_adv
    array([[0.25],
           [0.5 ]])
    """
    task = Task.of(
        "fgsm", field, x, y, target=target, box=box, n_classes=n_classes, solver=solver,
        callback=callback,
    )  # fmt: skip
    climb = _Climb(*_ball(eps, norm), step=float(eps), n_iter=1, loss=_loss(cost, task.n_classes),
                   is_shareable=not callable(cost))  # fmt: skip
    return climb.attack(task)


@own_error_state
def pgd(
    field: Any,
    x: Array,
    y: Array,
    *,
    eps: float,
    norm: str = "inf",
    step: float | None = None,
    n_iter: int = 40,
    cost: str | Loss = "ce",
    target: int | Array | None = None,
    random_start: bool = True,
    restarts: int = 1,
    keep_best: bool = True,
    box: tuple[float, float] | None = None,
    n_classes: int | None = None,
    solver: str | Solver = "euler",
    rng: Any = 0,
    callback: Callback | None = None,
) -> AttackResult:
    """Maximise the cost in a ball around x by projected gradient steps.

    Parameters
    ----------
    field, x, y, box, n_classes, solver, callback
        As for `sensitivity_attack`.
    eps : float
        Radius of the ball; ``norm(delta) <= eps`` holds exactly.
    norm : {"inf", "2"}, optional
        In the maximum norm a step is along the sign of the gradient, else along the gradient.
    step : float, optional
        Length of a step, in the same norm; default eps / 10.
    n_iter : int, optional
        Steps from each start.
    cost : {"ce", "l2"} or callable, optional
        The cross entropy of the class, or the squared distance of the outputs to its unit vector.
        Or a function ``cost(z, labels)`` of the outputs z (C, m) that returns its values (m,) and
        derivatives (C, m).
    target : int or array (m,), optional
        Minimise the cost of this class instead.
    random_start : bool, optional
        Start at a random point of the ball (before the box cuts it off) instead of x.
    restarts : int, optional
        Number of starts; more than 1 needs `random_start`.
    keep_best : bool, optional
        Return the best of all points on the way: one that fools, if there is any, and of these the
        one with the highest cost. Otherwise only the last point of each start counts.
    rng : seed or numpy.random.Generator, optional
        For the starts, drawn on the host.

    Returns
    -------
    AttackResult

    Raises
    ------
    ValueError, TypeError, IntegrationError
        As `sensitivity_attack`.

    References
    ----------
    .. [1] Madry et al., *Towards deep learning models resistant to adversarial attacks*, ICLR 2018.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> from snode.analysis.attacks import pgd
    >>> field = snode.StandaloneField(np.zeros((1, 2, 2)), np.zeros((1, 2)), T=1.0)
    >>> found = pgd(field, np.array([[0.4], [0.2]]), np.array([0]), eps=0.15, norm="2", n_classes=2)
    >>> bool(found.success[0]), bool(found.norm2[0] <= 0.15)
    (True, True)
    """
    if step is not None:
        step = check_number("step", step, above=0)
    restarts = check_count("restarts", restarts)
    if restarts > 1 and not random_start:
        raise ValueError(f"restarts must be 1 without random_start; got {restarts}")
    task = Task.of(
        "pgd", field, x, y, target=target, box=box, n_classes=n_classes, solver=solver,
        callback=callback,
    )  # fmt: skip
    eps, norm = _ball(eps, norm)
    climb = _Climb(
        eps, norm, eps / 10 if step is None else step, check_count("n_iter", n_iter),
        _loss(cost, task.n_classes), restarts=restarts, keep_best=bool(keep_best),
        generator=as_generator(rng) if random_start else None,
        is_shareable=not callable(cost),
    )  # fmt: skip
    return climb.attack(task)


# --- steps in a ball ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Climb:
    eps: float
    norm: str
    step: float
    n_iter: int
    loss: Loss
    restarts: int = 1
    keep_best: bool = False
    generator: np.random.Generator | None = None
    is_shareable: bool = True  # not with a cost of the user

    def attack(self, task: Task) -> AttackResult:
        # the starts are drawn here, in the order of the blocks: threads do not change them
        started = ((k, self.starts(task, k)) for k in task.blocks(SAMPLES_PER_BLOCK))
        task.each(lambda pair: self.climb(task, *pair), started, shared=self.is_shareable)
        return task.result()

    def starts(self, task: Task, k: Array) -> list[Any]:
        """Return the perturbation that each restart begins with; None: none."""
        if self.generator is None:
            return [None] * self.restarts
        shape = (task.x.shape[0], len(k))
        eps = float(_round_down(self.eps, task.x.dtype))
        return [_draw(self.generator, shape, eps, self.norm) for _ in range(self.restarts)]

    def climb(self, task: Task, k: Array, starts: list[Any]) -> None:
        """Keep the best point of all restarts."""
        best, score = None, None
        for start in starts:
            if best is not None and task.stopped:
                break
            for x, new in self.visit(task, k, start):
                if best is None or score is None:
                    best, score = x, new
                    continue
                better = (new[0] & ~score[0]) | ((new[0] == score[0]) & (new[1] > score[1]))
                best = task.xp.where(better, x, best)
                score = (new[0] | score[0], task.xp.where(better, new[1], score[1]))
        made = task.made.get(int(k[0]), 0)
        task.put(k, best, made, made)

    def visit(
        self, task: Task, k: Array, start: Any
    ) -> Iterator[tuple[Array, tuple[Array, Array]]]:
        """Yield points that count, whether they fool, and their cost (its negative, if aimed)."""
        xp = task.xp
        ball = _Ball(xp.ascontiguousarray(task.x[:, k]), self.eps, self.norm, task)
        aimed = not task.any_class
        labels, sign = (task.target[k], -1.0) if aimed else (task.y[k], 1.0)
        x = ball.x0
        if start is not None:
            x = ball.project(x + xp.asarray(start))
        for iteration in range(self.n_iter + 1):
            last = iteration == self.n_iter or not task.goes_on(k, self.n_iter * self.restarts)
            sol = task.solve(x, k)
            z = outputs(task.field, sol.x_T)
            value, p = self.loss(z, labels)
            if last or self.keep_best:
                label = z[: task.n_classes].argmax(axis=0)
                yield x, (task.fooled(label, task.y[k], task.target[k]), sign * value)
            if not last:
                x = ball.project(x + self.step * ball.steepest(sign * input_gradient(sol, p)))


class _Ball:
    """Points within `eps` of x0, in the box; exact in the dtype of x0."""

    def __init__(self, x0: Array, eps: float, norm: str, task: Task) -> None:
        xp = task.xp
        self.x0, self.norm, self.task, self.xp = x0, norm, task, xp
        self.eps = _round_down(eps, x0.dtype)
        if norm == "inf":
            # fl(x - x0) is monotone in x: what holds at the ends holds between them
            self.low = xp.maximum(task.low, self._end(-1))
            self.high = xp.minimum(task.high, self._end(1))
        else:
            # sums of n squares in any order: relative error below n eps
            self.limit = float(self.eps) * (1 - x0.shape[0] * float(np.finfo(np.float64).eps))

    def _end(self, sign: int) -> Array:
        """Return a number at the distance eps from x0 or a few roundings less, never more."""
        xp, exact = self.xp, self.x0.astype(np.float64)
        reach = xp.full(exact.shape, float(self.eps))
        for shrink in _shrinking(self.x0.dtype):
            end = (exact + sign * reach).astype(self.x0.dtype)
            far = abs(end.astype(np.float64) - exact) > float(self.eps)
            if not bool(far.any()):
                break
            reach = xp.where(far, reach * shrink, reach)
        return end

    def project(self, x: Array) -> Array:
        """Return a point of the ball and the box: the nearest, or almost."""
        if self.norm == "inf":
            return self.xp.clip(x.astype(self.x0.dtype, copy=False), self.low, self.high)
        xp, exact = self.xp, self.x0.astype(np.float64)
        delta = x.astype(np.float64) - exact
        size = norm2(delta)
        factor = xp.where(size > self.limit, self.limit / xp.where(size > 0, size, 1), 1.0)
        for shrink in _shrinking(self.x0.dtype):
            # the box holds x0, so that cutting off at the box brings x nearer to it
            x = self.task.clip((exact + factor * delta).astype(self.x0.dtype))
            far = xp.maximum(norm2(x.astype(np.float64) - exact), norm2(x - self.x0)) > self.limit
            if not bool(far.any()):
                break
            factor = xp.where(far, factor * shrink, factor)
        return x

    def steepest(self, gradient: Array) -> Array:
        """Return the direction of unit norm along which the cost grows fastest; 0 for 0."""
        xp = self.xp
        if self.norm == "inf":
            return xp.where(xp.isfinite(gradient), xp.sign(gradient), 0).astype(gradient.dtype)
        size = norm2(gradient)
        usable = (size > 0) & xp.isfinite(size)
        return units(gradient, size, usable)


def _draw(
    generator: np.random.Generator, shape: tuple[int, int], eps: float, norm: str
) -> np.ndarray[Any, Any]:
    """Return uniformly distributed perturbations of a ball."""
    n, m = shape
    if norm == "inf":
        return generator.uniform(-eps, eps, shape)
    normal = generator.standard_normal(shape)
    radius = eps * generator.uniform(size=m) ** (1 / n)
    return np.asarray(normal / np.linalg.norm(normal, axis=0) * radius)


def _ball(eps: float, norm: str) -> tuple[float, str]:
    check_choice("norm", norm, NORMS)
    return check_number("eps", eps, least=0), norm


def _round_down(value: float, dtype: Any) -> Any:
    """Return the largest number of the dtype that is not above `value`."""
    rounded = dtype.type(value)
    return np.nextafter(rounded, dtype.type(-np.inf)) if float(rounded) > value else rounded


def _shrinking(dtype: Any) -> Iterator[float]:
    """Yield factors from just below 1 down to 0: rounding must not carry x out of its ball."""
    loss = float(np.finfo(dtype).eps)
    while True:
        yield max(0.0, 1 - loss)
        loss *= 2


# --- costs ----------------------------------------------------------------------------------------


def _cross_entropy(z: Array, labels: Array) -> tuple[Array, Array]:
    """Return -log softmax of the label and its derivative, in float64.

    The entry of the label is minus the sum of the others, not 1 less than its probability: that
    would be 0 for a network that is sure.
    """
    xp, k = array_namespace(z), array_namespace(z).arange(z.shape[1])
    shifted = z - z.max(axis=0)
    e = xp.exp(shifted)
    total = e.sum(axis=0)
    p = e / total
    p[labels, k] = 0
    p[labels, k] = -p.sum(axis=0)
    return xp.log(total) - shifted[labels, k], p


def _squared_distance(z: Array, labels: Array) -> tuple[Array, Array]:
    xp = array_namespace(z)
    residual = z.copy()
    residual[labels, xp.arange(z.shape[1])] -= 1
    return 0.5 * xp.square(residual).sum(axis=0), residual


def _loss(cost: str | Loss, n_classes: int) -> Loss:
    """Return a function of all outputs, whose derivative has size 1: only directions matter."""
    if not callable(cost):
        check_choice("cost", cost, ("ce", "l2"))

    def loss(z: Array, labels: Array) -> tuple[Array, Array]:
        xp, exact = array_namespace(z), z.astype(np.float64)
        if cost == "ce":
            value, some = _cross_entropy(exact[:n_classes], labels)
            p = xp.zeros_like(exact)
            p[:n_classes] = some
        elif cost == "l2":
            value, p = _squared_distance(exact, labels)
        else:
            assert callable(cost)
            value, p = cost(exact, labels)
            if value.shape != z.shape[1:] or p.shape != z.shape:
                raise ValueError(
                    f"cost must return values {z.shape[1:]} and derivatives {z.shape}; "
                    f"got {value.shape} and {p.shape}"
                )
        size = abs(p).max(axis=0)
        return value, (p / xp.where(size > 0, size, 1)).astype(z.dtype)

    return loss
