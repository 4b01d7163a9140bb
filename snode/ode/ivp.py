"""ode45 and ode23: the initial value problem for any right-hand side, with MATLAB's names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from snode.backend import Array, array_namespace, own_error_state
from snode.ode.adaptive import solve_adaptive
from snode.ode.arguments import as_state, check_choice, check_state, with_arguments
from snode.ode.control import MAX_STEPS, OdeState, StepControl
from snode.ode.events import Event, EventFinder, as_events
from snode.ode.options import (
    ATOL,
    MAX_STEP,
    RTOL,
    OdeOptions,
    apply_options,
    matlab_habits,
)
from snode.results import IntegrationError, OdeSolution, Status

__all__ = ["BATCH", "join_columns", "ode23", "ode45"]

BATCH = ("shared", "independent")


@own_error_state
@matlab_habits
def ode45(
    f: Callable[..., Any],
    t_span: Any,
    x0: Any,
    options: OdeOptions | None = None,
    *,
    args: Sequence[Any] = (),
    rtol: float = RTOL,
    atol: Any = ATOL,
    t_eval: Any = None,
    dense_output: bool = False,
    first_step: float | None = None,
    max_step: float = MAX_STEP,
    max_steps: float = MAX_STEPS,
    breakpoints: Sequence[float] = (),
    events: Event | Callable[..., Any] | Sequence[Any] | None = None,
    batch: str = "shared",
    raise_on_failure: bool = True,
    callback: Callable[[OdeState], object] | None = None,
) -> OdeSolution:
    r"""Integrate x' = f(t, x) with the Dormand-Prince pair 5(4) and step control.

    Parameters
    ----------
    f : callable
        ``f(t, x)`` returns dx/dt, shaped like x. It is never evaluated outside of `t_span`.
    t_span : (float, float) or sequence of float
        Start and end; the end may lie before the start. With more than two numbers, as in MATLAB,
        the solution is returned there (as with `t_eval`).
    x0 : array (n,) or (n, m)
        Initial state; with m columns, m samples at once. float32 stays float32.
    options : OdeOptions, optional
        Tolerances, steps and events under MATLAB's names, made by `odeset`. What is set there and
        given by a keyword, too, must agree.
    args : tuple, optional
        Further arguments of f, ``f(t, x, *args)``, and of the functions in `events`.
    rtol : float, optional
        Relative tolerance for the error of a step.
    atol : float or array (n,), optional
        Absolute tolerance.
    t_eval : array (k,), optional
        Depths at which the solution is wanted; default: at every step.
    dense_output : bool, optional
        Keep a polynomial of order 4 for each step, so that ``sol(t)`` works anywhere.
    first_step : float, optional
        Length of the first step; default: chosen from f.
    max_step : float, optional
        Longest step.
    max_steps : int, optional
        Steps (rejected ones too) after which to give up; ``inf`` never to.
    breakpoints : sequence of float, optional
        Where f jumps or has a kink in t: steps end there, see f from their own side only, and the
        method starts anew.
    events : Event, callable or sequence of them, optional
        Functions g(t, x) whose zeros are wanted; see `Event`. SciPy's function attributes
        ``terminal`` and ``direction`` are understood.
    batch : {"shared", "independent"}, optional
        With "shared" all samples take the steps of the most difficult one. With "independent"
        every column is solved by itself, as a state (n, 1): it meets its own tolerance with its
        own steps, and is bit-identical alone, in any batch and in any order. The result then has
        the two ends (or `t_eval`); ``sol.columns`` holds the solutions.
    raise_on_failure : bool, optional
        Raise `IntegrationError` on a failure; else return what was computed, with its status.
    callback : callable, optional
        Called with an `OdeState` after each accepted step; stops if it returns True.

    Returns
    -------
    OdeSolution

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit; names the argument.
    IntegrationError
        See `raise_on_failure`; ``error.solution`` holds what was computed.

    Notes
    -----
    The error of a step is measured by the root mean square over the components of
    ``error / (atol + rtol * |x|)``, and over a batch by the largest of the samples. A failure is
    named by its status: ``NONFINITE_RHS``, ``BLOW_UP``, ``STEP_UNDERFLOW`` or ``MAX_STEPS``. A run
    that could not arrive with many times `max_steps` (ten times if it is stiff or its steps are
    often rejected, else a hundred times) ends early.

    References
    ----------
    .. [1] J. R. Dormand, P. J. Prince, *A family of embedded Runge-Kutta formulae*, J. Comput.
       Appl. Math. 6 (1980), 19-26.
    .. [2] Hairer, Norsett, Wanner, *Solving Ordinary Differential Equations I*, section II.4.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> sol = snode.ode45(lambda t, x: [x[1], -x[0]], (0, np.pi), [1.0, 0.0], rtol=1e-8, atol=1e-8)
    >>> sol.x_T.round(6) + 0.0
    array([-1.,  0.])
    >>> sol = snode.ode45(lambda t, x: x**2, (0, 2), [1.0], raise_on_failure=False)
    >>> sol.status, round(float(sol.t[-1]), 3)
    (Status.BLOW_UP, 1.0)
    """
    control = StepControl(rtol, atol, first_step, max_step, max_steps)
    return _solve(
        "ode45", f, t_span, x0, control, t_eval, dense_output, breakpoints, events, batch,
        raise_on_failure, callback, options, args,
    )  # fmt: skip


@own_error_state
@matlab_habits
def ode23(
    f: Callable[..., Any],
    t_span: Any,
    x0: Any,
    options: OdeOptions | None = None,
    *,
    args: Sequence[Any] = (),
    rtol: float = RTOL,
    atol: Any = ATOL,
    t_eval: Any = None,
    dense_output: bool = False,
    first_step: float | None = None,
    max_step: float = MAX_STEP,
    max_steps: float = MAX_STEPS,
    breakpoints: Sequence[float] = (),
    events: Event | Callable[..., Any] | Sequence[Any] | None = None,
    batch: str = "shared",
    raise_on_failure: bool = True,
    callback: Callable[[OdeState], object] | None = None,
) -> OdeSolution:
    """Integrate x' = f(t, x) with the Bogacki-Shampine pair 3(2) and step control.

    Better than `ode45` for crude tolerances and right-hand sides that are not smooth; its dense
    output has order 3. Parameters, results and errors as for `ode45`.

    References
    ----------
    .. [1] P. Bogacki, L. F. Shampine, *A 3(2) pair of Runge-Kutta formulas*, Appl. Math. Lett. 2
       (1989), 321-325.

    Examples
    --------
    >>> import snode
    >>> sol = snode.ode23(lambda t, x: -x, (0, 1), [1.0], rtol=1e-6)
    >>> float(sol.x_T[0].round(5))
    0.36788
    """
    control = StepControl(rtol, atol, first_step, max_step, max_steps)
    return _solve(
        "ode23", f, t_span, x0, control, t_eval, dense_output, breakpoints, events, batch,
        raise_on_failure, callback, options, args,
    )  # fmt: skip


def _solve(
    method: str, f: Any, t_span: Any, x0: Any, control: StepControl, t_eval: Any, dense: bool,
    breakpoints: Sequence[float], events: Any, batch: str, raise_on_failure: bool,
    callback: Callable[[OdeState], object] | None, options: Any, args: Any,
) -> OdeSolution:  # fmt: skip
    control, events = apply_options(options, control, events)
    check_choice("batch", batch, BATCH)
    if not callable(f):
        raise TypeError(f"f must be callable, f(t, x); got {type(f).__name__}")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable; got {type(callback).__name__}")
    f = with_arguments(f, args)
    x0 = as_state(x0, "x0")
    if hasattr(f, "linearize") and hasattr(f, "parameters"):
        check_state(f, x0, "x0")
    t0, t1, t_eval = _as_interval(t_span, t_eval)
    jumps = _as_depths(breakpoints, "breakpoints")
    watched = as_events(events, args)

    def solve(start: Array) -> OdeSolution:
        return solve_adaptive(
            f, method, t0, t1, start, control, jumps=jumps, dense=dense, t_eval=t_eval,
            events=EventFinder(watched) if watched else None, callback=callback,
        )  # fmt: skip

    if batch == "shared":
        sol = solve(x0)
    elif x0.ndim != 2:
        raise ValueError(f"x0 must have shape (n, m) for batch='independent'; got {x0.shape}")
    else:
        columns = tuple(solve(x0[:, j : j + 1].copy()) for j in range(x0.shape[1]))
        sol = join_columns(f, method, x0, columns, t0, t1, t_eval)
    if raise_on_failure and not sol.success:
        raise IntegrationError(sol)
    return sol


def join_columns(
    f: Any, method: str, x0: Array, columns: tuple[OdeSolution, ...],
    t0: float, t1: float, t_eval: Array | None = None,
) -> OdeSolution:  # fmt: skip
    """Return one solution made of those of the columns: at `t_eval`, or at the two ends.

    The last depth is NaN if the columns did not all reach t1.
    """
    xp = array_namespace(x0)
    x_T = xp.stack([column.x_T.reshape(-1) for column in columns], axis=-1)
    worst = next((c for c in columns if not c.success), None)
    worst = worst or next((c for c in columns if c.status is not Status.SUCCESS), columns[0])
    j = columns.index(worst)
    if t_eval is not None:
        t, x = t_eval, xp.full((len(t_eval), *x0.shape), np.nan, dtype=x0.dtype)
        for k, column in enumerate(columns):  # NaN beyond the end of a column
            x[: len(column.t), :, k : k + 1] = column.x
    elif t0 == t1:
        t, x = np.array([t0]), x0[None].copy()
    else:
        reached = all(c.steps.t[-1] == t1 for c in columns)
        t, x = np.array([t0, t1 if reached else np.nan]), xp.stack([x0, x_T])
    message = worst.message
    if worst.status is not Status.SUCCESS:
        count = sum(c.status is not Status.SUCCESS for c in columns)
        message = f"sample {j}: {message.replace(' of sample 0', '')}"
        message += f" (and {count - 1} more samples)" if count > 1 else ""
    return OdeSolution(
        t, x, x_T, worst.status, message, sum(c.nfev for c in columns), method, f,
        n_accepted=sum(c.n_accepted for c in columns),
        n_rejected=sum(c.n_rejected for c in columns),
        n_linearized=sum(c.n_linearized for c in columns), columns=columns,
    )  # fmt: skip


def _as_interval(t_span: Any, t_eval: Any) -> tuple[float, float, Array | None]:
    span = _as_depths(t_span, "t_span")
    if len(span) < 2:
        raise ValueError(f"t_span must be (start, end); got {t_span!r}")
    if len(span) > 2:
        if t_eval is not None:
            raise ValueError("t_span must be (start, end) when t_eval is given")
        t_eval = span
    t0, t1 = float(span[0]), float(span[-1])
    if t_eval is None:
        return t0, t1, None
    depths = _as_depths(t_eval, "t_eval")
    sign = 1.0 if t1 >= t0 else -1.0
    if len(depths) == 0 or (sign * np.diff(depths) < 0).any():
        name = "t_span" if depths is span or np.array_equal(depths, span) else "t_eval"
        raise ValueError(f"{name} must be a list of depths in the order of t_span")
    return t0, t1, _within(depths, t0, t1, t_eval)


def _within(depths: Array, t0: float, t1: float, given: Any) -> Array:
    """Return the depths; those outside of the span by no more than their rounding are its ends."""
    low, high = min(t0, t1), max(t0, t1)
    dtype = getattr(given, "dtype", np.dtype(float))
    eps = np.finfo(dtype if dtype.kind == "f" else float).eps
    slack = 4 * float(eps) * max(abs(t0), abs(t1))
    outside = (depths < low - slack) | (depths > high + slack)
    if outside.any():
        worst = depths[outside][0]
        raise ValueError(f"t_eval must lie in t_span ({t0:g}, {t1:g}); got {float(worst)!r}")
    return np.clip(depths, low, high)


def _as_depths(values: Any, name: str) -> Array:
    try:
        depths = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers: {error}") from None
    if depths.ndim != 1 or not np.isfinite(depths).all():
        raise ValueError(f"{name} must be a list of finite numbers; got {values!r}")
    return depths
