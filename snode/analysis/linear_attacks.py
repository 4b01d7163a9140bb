r"""Attacks by the linearised network: `sensitivity_attack` walks, `deepfool` leaps.

With the outputs z and p_j the derivative of z_j with respect to the input, the least-norm
perturbation after which class j beats the class i with a margin kappa is (paper 001, eqs.
(13)-(15))

.. math::

   \xi_0 = \frac{z_i - \kappa z_j}{|\kappa p_j - p_i|^2} (\kappa p_j - p_i)^T, \qquad
   |\xi_0| = \frac{z_i - \kappa z_j}{|\kappa p_j - p_i|} .
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from snode.analysis.attack_result import (
    SAMPLES_PER_BLOCK,
    AttackResult,
    Task,
    behind,
    check_count,
    check_number,
    input_gradient,
    norm2,
    units,
)
from snode.analysis.rows import adjoint_rows
from snode.backend import Array, array_namespace, own_error_state
from snode.fields.base import outputs
from snode.ode.arguments import check_choice
from snode.ode.problems import Solver
from snode.progress import Callback
from snode.seeds import as_generator

__all__ = ["deepfool", "sensitivity_attack"]

MARGIN_KINDS = ("multiplicative", "additive")

COLUMNS_PER_BLOCK = 1000
"""Adjoint columns that are solved for at once where all C rows are needed: 1000 / C samples."""


@own_error_state
def sensitivity_attack(
    field: Any,
    x: Array,
    y: Array,
    *,
    step: float = 0.03,
    n_iter: int = 30,
    margin: float = 0.975,
    margin_kind: str = "multiplicative",
    target: int | str | Array | None = None,
    box: tuple[float, float] | None = None,
    early_stop: bool = False,
    n_classes: int | None = None,
    solver: str | Solver = "euler",
    rng: Any = 0,
    callback: Callback | None = None,
) -> AttackResult:
    """Step along the least-norm perturbation of the linearised network, again and again.

    Each step has length `step` and the direction of eq. (14). Without a target, the class that
    eq. (15) says to be nearest is aimed at, chosen anew in every iteration. Of all points on the
    way that fool the network, the one nearest to x is returned; if none does, the last point.

    Parameters
    ----------
    field : VectorField
    x : array (n, m)
    y : integer array (m,)
        True classes. A sample that is misclassified to begin with is not attacked; see
        `AttackResult.skipped`.
    step : float, optional
        Length of a step (before it is cut off at the box).
    n_iter : int, optional
    margin : float, optional
        By which the new class must win: the kappa of eq. (13), in (0, 1], or delta >= 0 in
        z_j - z_i >= delta.
    margin_kind : {"multiplicative", "additive"}, optional
        Eq. (13) means what it should only for positive outputs, as after training with the L2
        cost; for logits, which have any sign, "additive" is the one to use.
    target : int, array (m,) or "all", optional
        Class to aim at. "all" aims at each other class in turn, starting again from x, and returns
        the best of these runs; it counts any wrong class as success.
    box : (float, float), optional
        Smallest and largest valid input, rounded to the dtype of `x`; default the smallest and
        largest entry of `x`, which then has to be representative.
    early_stop : bool, optional
        Stop with a sample at the first point that fools. Otherwise all iterations are made, which
        can only find a smaller perturbation.
    n_classes : int, optional
        As for `predict`.
    solver : str or Solver, optional
        As for `predict`.
    rng : seed or numpy.random.Generator, optional
        For the random direction that is taken where the linear model has none.
    callback : callable, optional
        Called with a `snode.progress.Progress` (samples done, of how many) before each iteration on
        each block of samples, from one thread at a time. If it returns True, what was found so far
        is returned, with ``status=STOPPED``.

    Returns
    -------
    AttackResult

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit; names the argument.
    IntegrationError
        If the direct problem does not stay finite.

    References
    ----------
    .. [1] Jaroudi et al., arXiv 2205.13933, section 5 and appendix D.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> from snode.analysis.attacks import sensitivity_attack
    >>> field = snode.StandaloneField(np.zeros((1, 2, 2)), np.zeros((1, 2)), T=1.0)
    >>> x, y = np.array([[0.4], [0.2]]), np.array([0])
    >>> sensitivity_attack(field, x, y, box=(0, 1), n_classes=2)
    AttackResult(sensitivity_attack: 1 of 1 attacked samples fooled, |delta|_2 median 0.15 max \
0.15, |delta|_inf median 0.107 max 0.107)
    """
    check_choice("margin_kind", margin_kind, MARGIN_KINDS)
    walk = _Walk(
        check_number("step", step, above=0), check_count("n_iter", n_iter),
        _margin(margin, margin_kind), margin_kind, bool(early_stop), as_generator(rng),
    )  # fmt: skip
    options: dict[str, Any] = {
        "box": box, "n_classes": n_classes, "solver": solver, "callback": callback
    }  # fmt: skip
    if isinstance(target, str):
        check_choice("target", target, ("all",))
        return _towards_each(walk, field, x, y, options)
    return walk.attack(Task.of("sensitivity_attack", field, x, y, target=target, **options))


@own_error_state
def deepfool(
    field: Any,
    x: Array,
    y: Array,
    *,
    overshoot: float = 0.02,
    n_iter: int = 50,
    box: tuple[float, float] | None = None,
    n_classes: int | None = None,
    solver: str | Solver = "euler",
    callback: Callback | None = None,
) -> AttackResult:
    """Step to the boundary of the linearised network until the prediction changes (DeepFool).

    Parameters
    ----------
    field, x, y, box, n_classes, solver, callback
        As for `sensitivity_attack`.
    overshoot : float, optional
        Each step is longer by this share, so that it ends behind the boundary.
    n_iter : int, optional
        Largest number of steps.

    Returns
    -------
    AttackResult
        Where nothing fools, ``x_adv`` is the last point.

    Raises
    ------
    ValueError, TypeError, IntegrationError
        As `sensitivity_attack`.

    Notes
    -----
    The step is eq. (14) of paper 001 with kappa = 1, with its own length instead of a fixed one:
    `sensitivity_attack` walks, `deepfool` leaps. For a linear network and no active box it finds
    the smallest perturbation there is in one step. The overshoot is applied to each step, not to
    their sum.

    References
    ----------
    .. [1] Moosavi-Dezfooli, Fawzi, Frossard, *DeepFool: a simple and accurate method to fool deep
       neural networks*, CVPR 2016.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> from snode.analysis.attacks import deepfool
    >>> field = snode.StandaloneField(np.zeros((1, 2, 2)), np.zeros((1, 2)), T=1.0)
    >>> found = deepfool(field, np.array([[0.4], [0.2]]), np.array([0]), n_classes=2, overshoot=0)
    >>> bool(abs(found.norm2[0] - 0.1 * 2**0.5) < 1e-12)
    True
    """
    overshoot = check_number("overshoot", overshoot, least=0)
    n_iter = check_count("n_iter", n_iter)
    task = Task.of(
        "deepfool", field, x, y, box=box, n_classes=n_classes, solver=solver, callback=callback
    )
    # where all outputs are zero there is no rounding of theirs to step over
    least = 4 * float(np.finfo(x.dtype).eps) * _extent(task)

    def leap(k: Array) -> None:
        block = _Block(task, k)
        for _ in range(n_iter):
            block.stop(block.fooled(block.outputs()))
            if not block.alive.size or not task.goes_on(k, n_iter):
                break
            z, rows = block.rows()
            v, gap, length = _aim(z, rows, block.labels, 1.0, "additive", margin=0.0)
            behind_it = task.xp.maximum(behind(z.astype(x.dtype)), least * length)
            gap = task.xp.maximum(gap, 0) + behind_it
            j, usable = _nearest(gap, length, block.labels)
            unit = units(_pick(v, j), _pick(length, j), usable)
            block.move(unit * task.xp.where(usable, (1 + overshoot) * _pick(gap, j), 0)
                       / task.xp.where(usable, _pick(length, j), 1))  # fmt: skip
        task.put(k, block.x, block.n_iter, block.n_iter * task.n_classes)

    task.each(leap, task.blocks(max(1, COLUMNS_PER_BLOCK // task.n_classes)))
    return task.result()


def _extent(task: Task) -> float:
    """The size of inputs: the larger end of the box, 1 where it is infinite."""
    size = max(abs(float(task.low)), abs(float(task.high)))
    return size if np.isfinite(size) else 1.0


def _margin(margin: float, kind: str) -> float:
    if kind == "additive":
        return check_number("margin", margin, least=0)
    margin = check_number("margin", margin, above=0)
    if margin > 1:
        raise ValueError(f"margin must be in (0, 1] where it multiplies; got {margin!r}")
    return margin


# --- where the samples are ------------------------------------------------------------------------


class _Block:
    """Some samples of a task, where they are now, and which of them still move."""

    def __init__(self, task: Task, k: Array, generator: Any = None) -> None:
        xp, self.generator = task.xp, generator
        self.task, self.k = task, k
        self.x0 = xp.ascontiguousarray(task.x[:, k])
        self.x = self.x0.copy()
        self.alive = xp.arange(len(k))
        self.n_iter = xp.zeros(len(k), dtype=np.int64)
        self.sol: Any = None

    @property
    def labels(self) -> Array:
        """True classes of the samples that still move."""
        return self.task.y[self.k[self.alive]]

    def outputs(self) -> Array:
        """Solve the direct problem; return the outputs that are classes, in float64."""
        x = self.task.xp.ascontiguousarray(self.x[:, self.alive])
        self.sol = self.task.solve(x, self.k[self.alive])
        z = outputs(self.task.field, self.sol.x_T)[: self.task.n_classes]
        return z.astype(np.float64)

    def rows(self) -> tuple[Array, Array]:
        """Return the outputs, and their derivatives (n, C, b), after `outputs`."""
        z = outputs(self.task.field, self.sol.x_T)[: self.task.n_classes].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is no direction
            rows = adjoint_rows(self.sol, self.task.n_classes)
        return z, rows.swapaxes(0, 1)

    def towards(self, j: Array, kappa: float) -> tuple[Array, Array]:
        """Return v = kappa p_j - p_i (n, b) by one adjoint solve, and |v|; after `outputs`."""
        xp, k = self.task.xp, self.task.xp.arange(len(j))
        p = xp.zeros_like(outputs(self.task.field, self.sol.x_T))
        p[j, k] = kappa
        p[self.labels, k] = -1
        v = input_gradient(self.sol, p)
        return v, _length(v)

    def fooled(self, z: Array) -> Array:
        """Return which of the samples that still move are a success where they are."""
        k = self.k[self.alive]
        return self.task.fooled(z.argmax(axis=0), self.task.y[k], self.task.target[k])

    def stop(self, finished: Array) -> None:
        """Let some of the samples rest; the last solution keeps only the others."""
        if bool(finished.any()):
            self.alive = self.alive[~finished]
            if self.alive.size:
                self.outputs()

    def move(self, step: Array) -> None:
        """Make a step and cut it off at the box."""
        self.x[:, self.alive] = self.task.clip(self.x[:, self.alive] + step)
        self.n_iter[self.alive] += 1


# --- one short step after another (paper 001) -----------------------------------------------------


@dataclass(frozen=True)
class _Walk:
    step: float
    n_iter: int
    margin: float
    margin_kind: str
    early_stop: bool
    generator: np.random.Generator

    @property
    def kappa(self) -> float:
        """The factor of z_j and p_j."""
        return self.margin if self.margin_kind == "multiplicative" else 1.0

    def attack(self, task: Task) -> AttackResult:
        solves = 1 if task.is_targeted else task.n_classes
        blocks = task.blocks(max(1, min(SAMPLES_PER_BLOCK, COLUMNS_PER_BLOCK // solves)))
        # a generator for each block: which of them is done first must not matter
        seeded = ((k, np.random.default_rng(self.generator.integers(2**63))) for k in blocks)
        task.each(lambda pair: self.walk(task, *pair, solves=solves), seeded)
        return task.result()

    def walk(self, task: Task, k: Array, generator: np.random.Generator, *, solves: int) -> None:
        """Keep the nearest point that fools; i stays the class of the start."""
        xp, block = task.xp, _Block(task, k, generator)
        best, smallest = block.x.copy(), xp.full(len(block.k), np.inf)
        for iteration in range(self.n_iter + 1):
            fooled = block.fooled(block.outputs())
            here = block.alive[fooled]
            size = norm2(block.x[:, here] - block.x0[:, here])
            nearer = size < smallest[here]
            here = here[nearer]
            best[:, here], smallest[here] = block.x[:, here], size[nearer]
            if self.early_stop:
                block.stop(fooled)
            if iteration == self.n_iter or not block.alive.size:
                break
            if not task.goes_on(k, self.n_iter):
                break
            block.move(self.step * self.direction(task, block))
        found = xp.where(xp.isfinite(smallest), best, block.x)
        task.put(block.k, found, block.n_iter, block.n_iter * solves)

    def direction(self, task: Task, block: _Block) -> Array:
        """Return the unit vectors of eq. (14), or random ones where there is none."""
        if task.is_targeted:
            v, length = block.towards(task.target[block.k[block.alive]], self.kappa)
            usable = (length > 0) & task.xp.isfinite(length)
        else:
            z, rows = block.rows()
            v, gap, length = _aim(
                z, rows, block.labels, self.kappa, self.margin_kind, margin=self.margin
            )
            j, usable = _nearest(gap, length, block.labels)
            v, length = _pick(v, j), _pick(length, j)
        unit = units(v, length, usable)
        lost = int((~usable).sum())
        if lost:
            draws = block.generator.standard_normal((unit.shape[0], lost))
            draws /= np.linalg.norm(draws, axis=0)
            unit[:, ~usable] = task.xp.asarray(draws)
        return unit.astype(v.dtype)


def _towards_each(
    walk: _Walk, field: Any, x: Array, y: Array, options: dict[str, Any]
) -> AttackResult:
    """Run once for each class; return the best for each sample."""
    task = Task.of("sensitivity_attack", field, x, y, **options)
    xp, runs = task.xp, []
    for c in range(task.n_classes):
        aim = xp.full_like(task.y, c)
        one = replace(
            task, target=aim, skipped=task.skipped | (task.y == c), stopped=task.stopped,
            method=f"{task.method}, class {c} of {task.n_classes}",
        )  # fmt: skip
        runs.append(replace(walk.attack(one), method=task.method))
        task.reached |= one.reached & (task.y != c)
        task.stopped = one.stopped
    failed = np.finfo(np.float64).max  # still better than the true class, which no run aims at
    size = xp.stack([xp.where(run.success, run.norm2, failed) for run in runs])
    size[task.y, xp.arange(len(task.y))] = np.inf
    best = size.argmin(axis=0)
    task.target = xp.where(task.skipped, -1, best)
    for c, run in enumerate(runs):
        k = xp.nonzero((best == c) & ~task.skipped)[0]
        task.x_adv[:, k] = run.x_adv[:, k]
        task.n_iter += run.n_iter
        task.n_gradient += run.n_gradient
    return replace(task.result(), per_target=tuple(runs))


# --- the linear model -----------------------------------------------------------------------------


def _aim(
    z: Array, rows: Array, i: Array, kappa: float, kind: str, margin: float
) -> tuple[Array, Array, Array]:
    """Return v = kappa p_j - p_i (n, C, b), what is missing to win, and |v|, both (C, b).

    Eq. (14) is gap / |v|^2 v, eq. (15) is gap / |v|.
    """
    k = array_namespace(z).arange(z.shape[1])
    v = kappa * rows - rows[:, i, k][:, None]
    gap = z[i, k] - kappa * z + (margin if kind == "additive" else 0.0)
    return v, gap, _length(v)


def _length(v: Array) -> Array:
    """Return the 2-norms along the first axis, without overflow, in float64."""
    xp = array_namespace(v)
    scale = abs(v).max(axis=0)
    safe = xp.where((scale > 0) & xp.isfinite(scale), scale, 1)
    with np.errstate(over="ignore", invalid="ignore"):  # shows in |v|
        return xp.sqrt(xp.square(v / safe).sum(axis=0)).astype(np.float64) * safe


def _usable(gap: Array, length: Array, i: Array) -> Array:
    """Return (C, b): the linear model has a direction towards class j."""
    xp = array_namespace(gap)
    usable = (length > 0) & xp.isfinite(length) & xp.isfinite(gap)
    usable[i, xp.arange(len(i))] = False
    return usable


def _nearest(gap: Array, length: Array, i: Array) -> tuple[Array, Array]:
    """Return the class with the smallest gap / |v|, and whether there is one."""
    xp, usable = array_namespace(gap), _usable(gap, length, i)
    distance = xp.where(usable, gap, np.inf) / xp.where(usable, length, 1)
    return distance.argmin(axis=0), usable.any(axis=0)


def _pick(values: Array, j: Array) -> Array:
    """Return entry j[k] of the classes for each sample k, the last axis."""
    return values[..., j, array_namespace(values).arange(len(j))]
