"""Explicit Runge-Kutta methods with fixed steps on a given grid: Euler, Heun, RK4 and others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from snode.backend import Array, array_namespace, own_error_state, to_host
from snode.ode.arguments import as_grid, as_state, describe, first_true, with_arguments
from snode.ode.dense import DenseOutput, hermite
from snode.ode.options import matlab_habits
from snode.ode.stages import Checkpoint, Limits, Rhs, Stages, Steps, inside
from snode.ode.tableaus import TABLEAUS, ButcherTableau
from snode.results import IntegrationError, OdeSolution, Status

__all__ = ["euler", "heun", "rk4", "solve_fixed", "sweep"]

HUGE = 1e8
"""A state that grew by this factor before it overflowed has blown up."""

STATES_PER_STAGE = 2
"""What a linearisation is taken to hold when memory is shared out: the state and the slopes."""


@own_error_state
@matlab_habits
def euler(
    f: Callable[..., Any], t: Array, x0: Array, *, args: Sequence[Any] = (),
    breakpoints: Sequence[float] = (), dense_output: bool = False, raise_on_failure: bool = True,
) -> OdeSolution:  # fmt: skip
    r"""Integrate x' = f(t, x) by explicit Euler on the grid `t`, order 1.

    .. math:: x_{i+1} = x_i + h_i f(t_i, x_i)

    Parameters
    ----------
    f : callable
        ``f(t, x)`` returns dx/dt, shaped like x.
    t : array (K + 1,)
        Depths, increasing or decreasing.
    x0 : array (n,) or (n, m)
        Initial state; with m columns, m samples at once.
    args : tuple, optional
        Further arguments of f, ``f(t, x, *args)``.
    breakpoints : sequence of float, optional
        Points of the grid where f jumps: a step never sees f from the other side of them.
    dense_output : bool, optional
        Keep a cubic Hermite interpolant (a straight line would do for Euler); one more
        evaluation a step.
    raise_on_failure : bool, optional
        Raise `IntegrationError` if the state does not stay finite; else return what there is.

    Returns
    -------
    OdeSolution
        ``sol.t``, ``sol.x`` of shape (K + 1, n) or (K + 1, n, m).

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit; names the argument.
    IntegrationError
        See `raise_on_failure`.

    References
    ----------
    .. [1] Hairer, Norsett, Wanner, *Solving Ordinary Differential Equations I*, section II.1.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> sol = snode.euler(lambda t, x: -x, np.linspace(0, 1, 11), np.ones(1))
    >>> float(sol.x_T[0].round(4))  # 0.9**10
    0.3487
    """
    return _solve("euler", f, t, x0, args, breakpoints, dense_output, raise_on_failure)


@own_error_state
@matlab_habits
def heun(
    f: Callable[..., Any], t: Array, x0: Array, *, args: Sequence[Any] = (),
    breakpoints: Sequence[float] = (), dense_output: bool = False, raise_on_failure: bool = True,
) -> OdeSolution:  # fmt: skip
    r"""Integrate x' = f(t, x) by Heun's method (explicit trapezoidal rule), order 2.

    .. math:: K_1 = f(t_i, x_i),\quad K_2 = f(t_{i+1}, x_i + h K_1),\quad
              x_{i+1} = x_i + \tfrac h2 (K_1 + K_2)

    Parameters, results and errors as for `euler`.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> sol = snode.heun(lambda t, x: -x, np.linspace(0, 1, 11), np.ones(1))
    >>> float(sol.x_T[0].round(4))
    0.3685
    """
    return _solve("heun", f, t, x0, args, breakpoints, dense_output, raise_on_failure)


@own_error_state
@matlab_habits
def rk4(
    f: Callable[..., Any], t: Array, x0: Array, *, args: Sequence[Any] = (),
    breakpoints: Sequence[float] = (), dense_output: bool = False, raise_on_failure: bool = True,
) -> OdeSolution:  # fmt: skip
    r"""Integrate x' = f(t, x) by the classical Runge-Kutta method, order 4.

    .. math:: x_{i+1} = x_i + \tfrac h6 (K_1 + 2 K_2 + 2 K_3 + K_4)

    Parameters, results and errors as for `euler`.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> sol = snode.rk4(lambda t, x: -x, np.linspace(0, 1, 11), np.ones(1))
    >>> bool(abs(sol.x_T[0] - np.exp(-1)) < 1e-6)
    True
    """
    return _solve("rk4", f, t, x0, args, breakpoints, dense_output, raise_on_failure)


def _solve(
    name: str, f: Any, t: Array, x0: Array, args: Any, breakpoints: Sequence[float],
    dense_output: bool, raise_on_failure: bool,
) -> OdeSolution:  # fmt: skip
    x0 = as_state(x0, "x0")
    if not callable(f):
        raise TypeError(f"f must be callable, f(t, x); got {type(f).__name__}")
    f = with_arguments(f, args)
    sol = solve_fixed(
        f, TABLEAUS[name], as_grid(t, breakpoints), x0, breakpoints, dense=dense_output
    )
    if raise_on_failure and not sol.success:
        raise IntegrationError(sol)
    return sol


def solve_fixed(
    f: Any,
    tableau: ButcherTableau,
    t: Array,
    x0: Array,
    breakpoints: Sequence[float] = (),
    *,
    keep: str = "trajectory",
    dense: bool = False,
    checkpoints: int | str | None = None,
    trusted: bool = False,
) -> OdeSolution:
    """Solve on a checked grid; `keep` as in `solve_direct`.

    If f is `trusted`, neither its first value nor x(T) is looked at, and the status is SUCCESS
    whatever happens: on a device nothing is waited for, and the caller looks at x(T).
    """
    rhs = Rhs(f, x0, linearize=keep == "all" and checkpoints is None, trusted=trusted)
    jumps = frozenset(breakpoints)
    store = thinned(checkpoints, x0, tableau, len(t) - 1)
    with np.errstate(over="ignore", invalid="ignore"):  # reported below, by name
        if keep == "last" or store is not None:
            x, x_T = None, sweep_last(rhs, tableau, t, x0, jumps, store)
        else:
            x = sweep(rhs, tableau, t, x0, jumps)
            x_T = x[-1]
        polynomials = _hermite(rhs, t, x, jumps) if dense and x is not None else None
    status, message, failed = Status.SUCCESS, "not looked at", len(t) - 1
    if not trusted:
        status, message, failed = _diagnose(x_T, x, t, x0)
    stages = tableau.active_stages
    lins = None
    if rhs.linearize:
        made = rhs.linearizations[: (len(t) - 1) * stages]
        lins = tuple(tuple(made[i : i + stages]) for i in range(0, len(made), stages))
    steps = Steps(
        tableau, t, jumps, x, lins,
        checkpoints=None if store is None else tuple(store.kept),
        dense=None if polynomials is None else DenseOutput(t, x, polynomials),
    )  # fmt: skip
    return OdeSolution(
        t, x, x_T, status, message, rhs.nfev, tableau.name, f, lins,
        n_accepted=failed, n_linearized=rhs.nfev if rhs.linearize else 0, steps=steps,
    )  # fmt: skip


def sweep(rhs: Rhs, tableau: ButcherTableau, t: Array, x0: Array, jumps: frozenset[float]) -> Array:
    """Step through the grid and return the trajectory (K + 1, ...)."""
    stages = Stages(rhs, tableau, x0)
    x = array_namespace(x0).empty((len(t), *x0.shape), dtype=x0.dtype)
    x[0] = x0
    for i in range(len(t) - 1):
        x[i + 1] = stages.step(t, i, x[i], jumps)
    return x


def sweep_last(
    rhs: Rhs, tableau: ButcherTableau, t: Array, x0: Array, jumps: frozenset[float],
    store: Thinned | None = None,
) -> Array:  # fmt: skip
    """As `sweep`, but keep only the last state, and checkpoints in `store`."""
    stages, x = Stages(rhs, tableau, x0), x0
    for i in range(len(t) - 1):
        x = stages.step(t, i, x, jumps)
        if store is not None and i + 1 < len(t) - 1:
            store.offer(i + 1, x)
    return x


class Thinned:
    """Checkpoints, evenly spread over however many nodes there will be.

    A state is kept at every `stride`-th node; when there are too many, every other one is dropped
    and the stride doubled. Too many is more than `count`, or with "auto" so many that they take
    more memory than the linearisations of one stride of steps.

    Parameters
    ----------
    count : int or "auto"
    x0 : array
    per_step : int
        Size of the linearisations of one step, in states.
    n_steps : int, optional
        Number of steps, where it is known beforehand: then the stride is right from the start.
    """

    def __init__(
        self, count: int | str, x0: Array, per_step: int, n_steps: int | None = None
    ) -> None:
        self.count, self.per_step, self.stride = count, per_step, 1
        if n_steps is not None:
            wanted = (n_steps * per_step) ** 0.5 if count == "auto" else int(count)
            self.stride = max(1, math.ceil(n_steps / wanted))
        self.kept = [Checkpoint(0, x0.copy())]

    def offer(self, index: int, x: Array) -> None:
        """Keep the state at node `index` if it is its turn."""
        if index % self.stride:
            return
        self.kept.append(Checkpoint(index, x.copy()))
        while len(self.kept) > self._most():
            self.stride *= 2
            self.kept = [c for c in self.kept if c.index % self.stride == 0]

    def _most(self) -> int:
        return self.stride * self.per_step if self.count == "auto" else int(self.count)


def thinned(
    checkpoints: int | str | None, x0: Array, tableau: ButcherTableau, n_steps: int | None = None
) -> Thinned | None:
    """Return a store for checkpoints, or None for None; raise ValueError for anything else."""
    if checkpoints is None:
        return None
    if checkpoints != "auto" and not (
        isinstance(checkpoints, int | np.integer) and not isinstance(checkpoints, bool)
        and checkpoints >= 1
    ):  # fmt: skip
        raise ValueError(
            f"checkpoints must be None, a positive integer or 'auto'; got {checkpoints!r}"
        )
    return Thinned(checkpoints, x0, STATES_PER_STAGE * tableau.active_stages, n_steps)


def _hermite(rhs: Rhs, t: Array, x: Array, jumps: frozenset[float]) -> list[Array]:
    """Return cubic coefficients for each step; slopes on the step's own side of a jump."""
    out = []
    for i in range(len(t) - 1):
        start, stop = float(t[i]), float(t[i + 1])
        limits = Limits.between(start, stop, jumps)
        if i == 0 or start in jumps:
            left = rhs(inside(start, limits), x[i])
        right = rhs(inside(stop, limits), x[i + 1])
        out.append(hermite(x[i], x[i + 1], left, right, stop - start))
        left = right
    return out


def _diagnose(x_T: Array, x: Array | None, t: Array, x0: Array) -> tuple[Status, str, int]:
    """Name the first non-finite component; NaN and inf never heal, so x(T) tells."""
    xp, K = array_namespace(x_T), len(t) - 1
    if bool(xp.isfinite(x_T).all()):
        return Status.SUCCESS, f"solved to T={float(t[-1]):g}", K
    if x is None:
        return Status.NONFINITE_RHS, f"the state is not finite at t={float(t[-1]):g}", K
    finite = to_host(xp.isfinite(x.reshape(K + 1, -1)).all(axis=1))
    i = int(np.argmin(finite))
    where = describe(first_true(~xp.isfinite(x[i])))
    text = (
        f"the state is not finite at t={float(t[i]):g}: {where}, "
        f"after the step from t={float(t[i - 1]):g}"
    )
    size, before = float(abs(x0).max()), float(abs(x[i - 1]).max())
    x[i:] = np.nan
    if before > HUGE * max(size, 1.0):
        return Status.BLOW_UP, f"the solution blows up: {text}, where it was {before:.1e}", i - 1
    return Status.NONFINITE_RHS, text, i - 1
