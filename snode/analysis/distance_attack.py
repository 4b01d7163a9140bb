"""Distance and lead minimised together: the attack of Carlini and Wagner."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
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
)
from snode.backend import Array, own_error_state
from snode.fields.base import outputs
from snode.ode.problems import Solver
from snode.progress import Callback

__all__ = ["carlini_wagner"]


@own_error_state
def carlini_wagner(
    field: Any,
    x: Array,
    y: Array,
    *,
    confidence: float = 0.0,
    initial_c: float = 0.1,
    n_search: int = 6,
    n_iter: int = 100,
    learning_rate: float = 0.02,
    n_bisections: int = 0,
    target: int | Array | None = None,
    box: tuple[float, float] | None = None,
    n_classes: int | None = None,
    solver: str | Solver = "euler",
    callback: Callback | None = None,
) -> AttackResult:
    r"""Minimise the squared distance to x plus c times the lead of the right class.

    Parameters
    ----------
    field, x, y, box, n_classes, solver, callback
        As for `sensitivity_attack`. The box must be finite.
    confidence : float, optional
        By how much another class (or the target) must lead.
    initial_c : float, optional
        First weight c; each sample has its own. It grows tenfold until the attack succeeds, then
        is halved between success and failure.
    n_search : int, optional
        Number of weights that are tried.
    n_iter : int, optional
        Iterations of Adam for each of them.
    learning_rate : float, optional
        Of Adam in w, see below; it falls linearly to zero over the iterations.
    n_bisections : int, optional
        Afterwards, draw each perturbation back towards x by that many bisections; not part of the
        original method.
    target : int or array (m,), optional
        Class to aim at; default any.

    Returns
    -------
    AttackResult
        Where nothing fools, ``x_adv`` is x.

    Raises
    ------
    ValueError, TypeError, IntegrationError
        As `sensitivity_attack`.

    Notes
    -----
    With x = (low + high)/2 + (high - low)/2 tanh(w), which is always inside the box,

    .. math:: \min_w\; |x - x_0|^2 + c \max(z_i - \max_{j \ne i} z_j + confidence,\; 0) .

    The class with the largest output is not always the nearest, so that more than two classes may
    have more than one minimum.

    References
    ----------
    .. [1] Carlini, Wagner, *Towards evaluating the robustness of neural networks*, IEEE Symposium
       on Security and Privacy 2017.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> from snode.analysis.attacks import carlini_wagner
    >>> field = snode.StandaloneField(np.zeros((1, 2, 2)), np.zeros((1, 2)), T=1.0)
    >>> x, y = np.array([[0.4], [0.2]]), np.array([0])
    >>> found = carlini_wagner(field, x, y, box=(0, 1), n_classes=2)
    >>> bool(found.success[0]), bool(found.norm2[0] < 1.02 * 0.1 * 2**0.5)
    (True, True)
    """
    search = _Search(
        check_number("confidence", confidence, least=0),
        check_number("initial_c", initial_c, above=0),
        check_count("n_search", n_search), check_count("n_iter", n_iter),
        check_number("learning_rate", learning_rate, above=0),
        check_count("n_bisections", n_bisections, least=0),
    )  # fmt: skip
    task = Task.of(
        "carlini_wagner", field, x, y, target=target, box=box, n_classes=n_classes, solver=solver,
        callback=callback,
    )  # fmt: skip
    if not (np.isfinite(task.low) and np.isfinite(task.high)):
        raise ValueError(f"box must be finite for this attack; got {box!r}")
    return search.attack(task)


@dataclass(frozen=True)
class _Search:
    confidence: float
    initial_c: float
    n_search: int
    n_iter: int
    learning_rate: float
    n_bisections: int

    def attack(self, task: Task) -> AttackResult:
        task.each(partial(self.find, task), task.blocks(SAMPLES_PER_BLOCK))
        return task.result()

    def find(self, task: Task, k: Array) -> None:
        """Search the constant c for the samples `k`."""
        xp = task.xp
        x0 = xp.ascontiguousarray(task.x[:, k])
        best, smallest = x0.copy(), xp.full(len(k), np.inf)
        c = xp.full(len(k), self.initial_c)
        below, above = xp.zeros(len(k)), xp.full(len(k), np.inf)
        for _ in range(self.n_search):
            found, size = self.minimize(task, k, x0, c)
            best = xp.where(size < smallest, found, best)
            smallest = xp.minimum(size, smallest)
            won = xp.isfinite(size)
            above, below = xp.where(won, c, above), xp.where(won, below, c)
            bounded = xp.isfinite(above)
            c = xp.where(bounded, (below + xp.where(bounded, above, 0)) / 2, 10 * c)
            if task.stopped:
                break
        best = self.draw_back(task, k, x0, best)
        made = task.made.get(int(k[0]), 0)
        task.put(k, best, made, made)

    def minimize(self, task: Task, k: Array, x0: Array, c: Array) -> tuple[Array, Array]:
        """Run Adam; return the nearest point that fools and its distance, inf if there is none."""
        xp = task.xp
        middle = 0.5 * (float(task.low) + float(task.high))
        half = 0.5 * (float(task.high) - float(task.low))
        exact = x0.astype(np.float64)
        start = xp.clip((exact - middle) / half, -1 + 1e-6, 1 - 1e-6)
        w = 0.5 * xp.log((1 + start) / (1 - start))  # arctanh
        first, second = xp.zeros_like(w), xp.zeros_like(w)
        best, smallest = x0.copy(), xp.full(len(k), np.inf)
        for iteration in range(self.n_iter + 1):
            tanh = xp.tanh(w)
            x = task.clip(middle + half * tanh)
            last = iteration == self.n_iter or not task.goes_on(k, self.n_search * self.n_iter)
            sol = task.solve(x, k)
            lead, p = self.lead(task, k, outputs(task.field, sol.x_T))
            size = xp.where(lead <= -self.confidence, norm2(x - x0), np.inf)
            best = xp.where(size < smallest, x, best)
            smallest = xp.minimum(size, smallest)
            if last:
                break
            pull = xp.where(lead + self.confidence > 0, c, 0) * input_gradient(sol, p)
            pull = xp.where(xp.isfinite(pull), pull, 0)
            gradient = (2 * (x.astype(np.float64) - exact) + pull) * half * (1 - xp.square(tanh))
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * xp.square(gradient)
            rate = self.learning_rate * (1 - iteration / self.n_iter)
            mean = first / (1 - 0.9 ** (iteration + 1))
            w = w - rate * mean / (xp.sqrt(second / (1 - 0.999 ** (iteration + 1))) + 1e-8)
        return best, smallest

    def lead(self, task: Task, k: Array, z: Array) -> tuple[Array, Array]:
        """Return the lead of the right class (or of all over the target), and its derivative.

        A tie is no success, so that its lead counts as one rounding.
        """
        xp, b = task.xp, task.xp.arange(z.shape[1])
        scores = z[: task.n_classes].astype(np.float64)
        fixed = task.y[k] if task.any_class else task.target[k]
        others = scores.copy()
        others[fixed, b] = -np.inf
        rival = others.argmax(axis=0)
        p = xp.zeros_like(z)
        p[fixed, b], p[rival, b] = 1, -1
        lead = scores[fixed, b] - scores[rival, b]
        if not task.any_class:
            p, lead = -p, -lead
        fooled = task.fooled(scores.argmax(axis=0), task.y[k], task.target[k])
        return xp.where(fooled, lead, xp.maximum(lead, np.finfo(np.float64).tiny)), p

    def draw_back(self, task: Task, k: Array, x0: Array, x: Array) -> Array:
        """Bisect between x0 and x, as long as it still fools."""
        xp, exact = task.xp, x0.astype(np.float64)
        delta = x.astype(np.float64) - exact
        short, long = xp.zeros(len(k)), xp.ones(len(k))
        for _ in range(0 if task.stopped else self.n_bisections):
            middle = 0.5 * (short + long)
            trial = task.clip(exact + middle * delta)
            sol = task.solve(trial, k, keep="last")
            z = outputs(task.field, sol.x_T)
            won = self.lead(task, k, z)[0] <= -self.confidence - behind(z)
            x = xp.where(won, trial, x)
            short, long = xp.where(won, short, middle), xp.where(won, middle, long)
        return x
