"""The three problems of paper 001: direct (1), sensitivity (2) and adjoint (8).

They work on anything that follows the vector-field contract, with every method. The sensitivity and
the adjoint take a solution: nothing is integrated again behind the caller's back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import inf, isfinite
from typing import Any

import numpy as np

from snode.backend import Array, array_namespace, own_error_state
from snode.ode.adaptive import solve_adaptive
from snode.ode.adjoint import rk_adjoint
from snode.ode.arguments import (
    check_choice,
    check_finite,
    check_grid,
    check_like,
    check_parameters,
    check_state,
    own_grid,
)
from snode.ode.continuous import continuous_adjoint, continuous_tangent
from snode.ode.control import MAX_STEPS, StepControl, check_control
from snode.ode.fixed import solve_fixed
from snode.ode.ivp import BATCH, join_columns
from snode.ode.replay import Replay, check_differentiable
from snode.ode.solver import Solver, as_solver
from snode.ode.tableaus import ADAPTIVE, TABLEAUS
from snode.ode.tangent import end_time_tangent, rk_tangent
from snode.partials import Partials
from snode.results import AdjointSolution, IntegrationError, OdeSolution

__all__ = [
    "METHODS", "Solver", "as_solver", "check_choice", "check_grid", "check_state",
    "end_time_derivative", "solve_adjoint", "solve_direct", "solve_sensitivity",
]  # fmt: skip

METHODS = (*TABLEAUS, *ADAPTIVE)
"""The methods that come with the package; `TABLEAUS` may get more."""

KEEP = ("all", "trajectory", "last")
MODES = ("discrete", "continuous")


@own_error_state
def solve_direct(
    field: Any,
    x0: Array,
    *,
    method: str = "euler",
    t: Any = None,
    rtol: float = 1e-3,
    atol: Any = 1e-6,
    first_step: float | None = None,
    max_step: float = inf,
    max_steps: float = MAX_STEPS,
    batch: str = "shared",
    keep: str = "all",
    dense_output: bool = False,
    checkpoints: int | str | None = None,
    raise_on_failure: bool = True,
) -> OdeSolution:
    """Solve the direct problem x' = f(t, x), x(0) = x0, for all samples at once.

    Parameters
    ----------
    field : VectorField
        The right-hand side.
    x0 : array (n, m)
        Initial states, one **column** per sample; the dtype of the field's parameters.
    method : str, optional
        Fixed steps on the grid: "euler", "midpoint", "heun", "rk4", "bogacki_shampine",
        "dormand_prince". Step control: "ode23", "ode45".
    t : array (K + 1,), optional
        Grid of a fixed-step method; default ``field.grid``. It must contain
        ``field.breakpoints``. For "ode23" and "ode45": the two ends, default those of
        ``field.grid``; steps land on any depths between them.
    rtol, atol, first_step, max_step, max_steps
        Step control, as for `ode45`.
    batch : {"shared", "independent"}, optional
        As for `ode45`, for the methods with step control.
    keep : {"all", "trajectory", "last"}, optional
        What the solution stores: the trajectory and the linearisation of every stage (what the
        sensitivity and the adjoint need, so they cost no evaluation of f), the trajectory, or the
        final state only.
    dense_output : bool, optional
        Keep a polynomial for each step, so that ``sol(t)`` works anywhere: what
        ``mode="continuous"`` needs. Of order 4 for "ode45", cubic for all other methods.
    checkpoints : int or "auto", optional
        Instead of everything, keep at most so many states on the way; derivatives compute the
        steps between two of them again. "auto" balances the memory of both. Replaces `keep`.
    raise_on_failure : bool, optional
        Raise `IntegrationError` on a failure; else return the solution with ``success=False``.

    Returns
    -------
    OdeSolution

    Raises
    ------
    ValueError
        If an argument has a wrong shape, dtype or value; the message names it.
    TypeError
        If `x0` is not an array.
    IntegrationError
        See `raise_on_failure`.

    References
    ----------
    .. [1] Jaroudi et al., arXiv 2205.13933, eq. (1).

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> field = snode.StandaloneField.random(3, 1.0, 10, rng=0)
    >>> snode.solve_direct(field, np.ones((3, 5)))
    OdeSolution(euler, 10 steps to T=1, n=3, m=5, trajectory and linearisations, SUCCESS)
    """
    check_choice("method", method, (*TABLEAUS, *ADAPTIVE))
    check_choice("keep", keep, KEEP)
    check_choice("batch", batch, BATCH)
    check_state(field, x0, "x0")
    x0 = array_namespace(x0).ascontiguousarray(x0)
    control = StepControl(rtol, atol, first_step, max_step, max_steps)
    if checkpoints is not None and dense_output:
        raise ValueError("dense_output keeps the whole trajectory: leave out checkpoints")
    if dense_output and keep == "last":
        raise ValueError("keep must be 'all' or 'trajectory' for dense_output")
    if method in ADAPTIVE:
        sol = _solve_adaptive(field, x0, method, t, control, batch, keep, dense_output, checkpoints)
    else:
        check_control(method, control, batch)
        sol = solve_fixed(
            field, TABLEAUS[method], check_grid(field, t), x0, field.breakpoints,
            keep=keep, dense=dense_output, checkpoints=checkpoints,
        )  # fmt: skip
    if raise_on_failure and not sol.success:
        raise IntegrationError(sol)
    return sol


def _solve_adaptive(
    field: Any, x0: Array, method: str, t: Any, control: StepControl, batch: str, keep: str,
    dense: bool, checkpoints: int | str | None,
) -> OdeSolution:  # fmt: skip
    t0, t1, stops = _as_ends(field, t)

    def solve(start: Array) -> OdeSolution:
        return solve_adaptive(
            field, method, t0, t1, start, control, stops=stops, jumps=field.breakpoints,
            keep=keep, dense=dense, checkpoints=checkpoints,
        )  # fmt: skip

    if batch == "shared":
        return solve(x0)
    columns = tuple(solve(x0[:, j : j + 1].copy()) for j in range(x0.shape[1]))
    return join_columns(field, method, x0, columns, t0, t1)


def _as_ends(field: Any, t: Any) -> tuple[float, float, Sequence[float]]:
    if t is None:
        grid = own_grid(field)
        return float(grid[0]), float(grid[-1]), ()
    try:
        depths = np.asarray(t, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"t must be numbers: {error}") from None
    if depths.ndim != 1 or len(depths) < 2 or not np.isfinite(depths).all():
        raise ValueError(f"t must be (start, end), or more depths between them; got {t!r}")
    steps = np.diff(depths)
    if len(depths) > 2 and not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError("t must be strictly monotone")
    return float(depths[0]), float(depths[-1]), tuple(float(s) for s in depths[1:-1])


@own_error_state
def solve_sensitivity(
    sol: OdeSolution,
    *,
    dx0: Array | None = None,
    dtheta: Mapping[str, Array] | None = None,
    dT: float = 0.0,
    mode: str = "discrete",
    rtol: float | None = None,
    atol: float | None = None,
) -> Array:
    """Solve the sensitivity problem (2) along a solution.

    The result is the derivative of the computed trajectory in the direction
    x0 -> x0 + eps dx0, theta -> theta + eps dtheta, T -> T + eps dT.

    Parameters
    ----------
    sol : OdeSolution
        A solution of `solve_direct` that kept its trajectory or checkpoints.
    dx0 : array (n, m), optional
        Perturbation of the initial states; zero if omitted.
    dtheta : mapping of str to array, optional
        Perturbation of the parameters, e.g. ``{"W": dW, "b": db}``, shapes as the parameters;
        what is omitted is zero.
    dT : float, optional
        Perturbation of the end of the interval; see `end_time_derivative`.
    mode : {"discrete", "continuous"}, optional
        "discrete": the derivative of the numbers that were computed, on their frozen steps, exact
        to rounding. "continuous": the sensitivity problem solved by ode45 with steps of its own
        along the dense output of `sol`; exact up to both tolerances.
    rtol, atol : float, optional
        For "continuous": tolerances, `atol` relative to the size of the perturbation; default
        those of `sol` (1e-9 for an array), or 1e-6 and 1e-9 for fixed steps.

    Returns
    -------
    xi : array (K + 1, n, m)
        At the nodes ``sol.t``; at the two ends (2, n, m) for a solution with checkpoints or
        independent columns.

    Raises
    ------
    ValueError
        If a shape, dtype or name is wrong, or `sol` failed or did not keep what is needed.

    References
    ----------
    .. [1] Jaroudi et al., arXiv 2205.13933, Lemma 3.1, eq. (2).

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> field = snode.StandaloneField.random(3, 1.0, 10, rng=0)
    >>> sol = snode.solve_direct(field, np.ones((3, 5)))
    >>> snode.solve_sensitivity(sol, dx0=np.ones((3, 5))).shape
    (11, 3, 5)
    """
    check_choice("mode", mode, MODES)
    _check_solution(sol)
    check_differentiable(sol.field)
    xp = array_namespace(sol.x_T)
    if dx0 is None:
        dx0 = xp.zeros_like(sol.x_T)
    check_like(dx0, sol.x_T, "dx0")
    check_finite(dx0, "dx0")
    check_parameters(sol.field, dtheta, "dtheta")
    for name, array in (dtheta or {}).items():
        check_finite(array, f"dtheta[{name!r}]")
    if not (isinstance(dT, int | float | np.number) and isfinite(dT)):
        raise ValueError(f"dT must be a finite number; got {dT!r}")
    control = _continuous_control(sol, mode, rtol, atol)
    return sensitivity_of(sol, dx0, dtheta, dT, control)


def sensitivity_of(
    sol: OdeSolution,
    dx0: Array | None = None,
    dtheta: Mapping[str, Array] | None = None,
    dT: float = 0.0,
    control: StepControl | None = None,
) -> Array:
    """As `solve_sensitivity`, for arguments that were checked.

    In training a direction may overflow; it shows in the cost, which is looked at.
    """
    xp = array_namespace(sol.x_T)
    if dx0 is None:
        dx0 = xp.zeros_like(sol.x_T)
    if sol.columns is not None:
        parts = [
            _sensitivity(column, dx0[:, j : j + 1].copy(), dtheta, dT, control)
            for j, column in enumerate(sol.columns)
        ]
        return xp.concatenate([xp.stack([part[0], part[-1]]) for part in parts], axis=-1)
    return _sensitivity(sol, dx0, dtheta, dT, control)


def _check_solution(sol: Any) -> None:
    if not isinstance(sol, OdeSolution):
        raise TypeError(f"sol must be an OdeSolution of solve_direct; got {type(sol).__name__}")


def _sensitivity(
    sol: OdeSolution, dx0: Array, dtheta: Any, dT: float, control: StepControl | None
) -> Array:
    xp = array_namespace(dx0)
    if control is not None:
        xi = continuous_tangent(sol, dx0, dtheta, control)
    else:
        replay = Replay(sol)
        xi = dx0
        nodes = rk_tangent(replay, dx0, dtheta)
        if replay.is_checkpointed:
            for last in nodes:
                xi = last
            xi = xp.stack([dx0, xi])
        else:
            xi = xp.empty((len(sol.steps.t), *dx0.shape), dtype=dx0.dtype)
            xi[0] = dx0
            for i, value in enumerate(nodes, start=1):
                xi[i] = value
    if dT:
        xi[-1] += dT * _end_time(sol, "discrete" if control is None else "continuous")
    return xi


@own_error_state
def solve_adjoint(
    sol: OdeSolution,
    lam_T: Array,
    *,
    mode: str = "discrete",
    rtol: float | None = None,
    atol: float | None = None,
) -> AdjointSolution:
    """Solve the adjoint problem (8) along a solution.

    For a function E of x(T) with derivative `lam_T`, the result holds the derivative of E with
    respect to the initial states (``.lam[0]``), the parameters (``.partials``) and the end of the
    interval (``.end_time``): in "discrete" mode the exact transpose of `solve_sensitivity`.

    Parameters
    ----------
    sol : OdeSolution
        A solution of `solve_direct` that kept its trajectory or checkpoints.
    lam_T : array (n, m)
        Terminal value, dE/dx(T).
    mode : {"discrete", "continuous"}, optional
        As for `solve_sensitivity`. The continuous parameter gradient is a quadrature along the
        adjoint's own steps; x is never integrated backwards.
    rtol, atol : float, optional
        For "continuous", `atol` relative to the size of `lam_T`.

    Returns
    -------
    AdjointSolution

    Raises
    ------
    ValueError
        If the shape or dtype is wrong, or `sol` failed or did not keep what is needed.

    References
    ----------
    .. [1] Jaroudi et al., arXiv 2205.13933, Lemma 4.1, eqs. (6)-(8).

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> field = snode.StandaloneField.random(3, 1.0, 10, rng=0)
    >>> sol = snode.solve_direct(field, np.ones((3, 5)))
    >>> snode.solve_adjoint(sol, np.ones((3, 5)))
    AdjointSolution(lam (11, 3, 5), partials: W (10, 3, 3), b (10, 3))
    """
    check_choice("mode", mode, MODES)
    _check_solution(sol)
    check_differentiable(sol.field)
    check_like(lam_T, sol.x_T, "lam_T")
    check_finite(lam_T, "lam_T")
    return adjoint_of(sol, lam_T, mode, _continuous_control(sol, mode, rtol, atol))


def adjoint_of(
    sol: OdeSolution,
    lam_T: Array,
    mode: str = "discrete",
    control: StepControl | None = None,
) -> AdjointSolution:
    """As `solve_adjoint`, for arguments that were checked; see `sensitivity_of`."""
    xp, partials = array_namespace(lam_T), Partials.of(sol.field.parameters)
    if sol.columns is None:
        t, lam, made, products = _adjoint(sol, lam_T, partials, control)
    else:
        parts = [
            _adjoint(column, lam_T[:, j : j + 1].copy(), partials, control)
            for j, column in enumerate(sol.columns)
        ]
        t = sol.t[[0, -1]]
        lam = xp.concatenate([xp.stack([part[1][0], part[1][-1]]) for part in parts], axis=-1)
        made, products = sum(part[2] for part in parts), sum(part[3] for part in parts)
    end_time = partial(_end_time_part, sol, lam_T, mode)  # no closure: it can be pickled
    return AdjointSolution(t, lam, partials.arrays, made, products, end_time)


def _end_time_part(sol: OdeSolution, lam_T: Array, mode: str) -> float:
    return float((lam_T * end_time_derivative(sol, mode=mode)).sum())


def _adjoint(
    sol: OdeSolution, lam_T: Array, partials: Partials, control: StepControl | None
) -> tuple[Array, Array, int, int]:
    """Return depths, lam, and the number of linearisations and transposed products."""
    xp = array_namespace(lam_T)
    if control is not None:
        return sol.steps.t, *continuous_adjoint(sol, lam_T, partials, control)
    replay = Replay(sol)
    products = (len(sol.steps.t) - 1) * sol.steps.tableau.active_stages
    nodes = rk_adjoint(replay, lam_T, partials)
    if replay.is_checkpointed:
        last = lam_T
        for value in nodes:
            last = value
        lam = xp.stack([last, lam_T])
        return sol.steps.t[[0, -1]], lam, replay.n_linearized, products
    lam = xp.empty((len(sol.steps.t), *lam_T.shape), dtype=lam_T.dtype)
    lam[-1] = lam_T
    for i, value in enumerate(nodes, start=2):
        lam[-i] = value
    return sol.steps.t, lam, replay.n_linearized, products


@own_error_state
def end_time_derivative(sol: OdeSolution, *, mode: str = "discrete") -> Array:
    r"""Return dx(T)/dT, the derivative of the final state with respect to the end time.

    Parameters
    ----------
    sol : OdeSolution
        A solution of `solve_direct` that kept its trajectory or checkpoints.
    mode : {"discrete", "continuous"}, optional
        "discrete": the exact derivative of the number computed when the last step is stretched
        and the steps before it are frozen; it needs ``time_derivative()`` of the field's
        linearisation unless the method is Euler. "continuous": f(T, x(T)).

    Returns
    -------
    array (n, m)

    Raises
    ------
    ValueError
        If `sol` did not keep what is needed, has no step, or the field does not offer f_t.

    Notes
    -----
    The field is a fixed function of t: weights W(t) are not stretched with the interval.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> field = snode.StandaloneField.random(3, 1.0, 10, rng=0)
    >>> sol = snode.solve_direct(field, np.ones((3, 1)))
    >>> bool(np.allclose(snode.end_time_derivative(sol), field(0.9, sol.x[-2])))
    True
    """
    check_choice("mode", mode, MODES)
    if sol.columns is not None:
        xp = array_namespace(sol.x_T)
        return xp.concatenate([_end_time(column, mode) for column in sol.columns], axis=-1)
    return _end_time(sol, mode)


def _end_time(sol: OdeSolution, mode: str) -> Array:
    replay = Replay(sol)
    t = replay.steps.t
    if len(t) < 2:
        raise ValueError("sol must have at least one step to have a derivative in T")
    if mode == "continuous":
        return sol.field(float(t[-1]), sol.x_T)
    return end_time_tangent(replay)


def _continuous_control(
    sol: OdeSolution, mode: str, rtol: float | None, atol: float | None
) -> StepControl | None:
    """Return None for the discrete mode."""
    if mode == "discrete":
        if rtol is not None or atol is not None:
            raise ValueError("rtol and atol are for mode='continuous'; 'discrete' is exact")
        return None
    first = sol if sol.columns is None else sol.columns[0]
    own = (None, None) if first.steps is None else (first.steps.rtol, first.steps.atol)
    if rtol is None:
        smallest = 20 * float(np.finfo(sol.x_T.dtype).eps)
        rtol = max(1e-6 if own[0] is None else own[0], smallest)
    if atol is None:
        atol = own[1] if isinstance(own[1], float) and own[1] > 0 else 1e-9
    return StepControl(rtol, atol)
