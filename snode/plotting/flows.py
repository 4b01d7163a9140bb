"""Figures of what a field does: its arrows, its flow, a solution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from snode.backend import Array, own_error_state, to_host
from snode.ode.ivp import ode45
from snode.plotting.canvas import CLASS_COLOURS, axes_of, check_points, check_range
from snode.results import IntegrationError

__all__ = ["plot_phase_portrait", "plot_solution", "plot_vector_field"]


@own_error_state
def plot_vector_field(
    f: Any,
    ax: Any = None,
    *,
    t: float = 0.0,
    xlim: tuple[float, float] = (-2.0, 2.0),
    ylim: tuple[float, float] = (-2.0, 2.0),
    n_arrows: int = 17,
) -> Any:
    """Plot f(t, x) of two components as arrows; their colour is its size.

    Parameters
    ----------
    f : VectorField or callable
        ``f(t, x)`` with x of shape (2, m) or, for a plain function, (2,).
    ax : matplotlib Axes, optional
        Default: the current ones if they are empty, else new ones.
    t : float, optional
        Depth.
    xlim, ylim : (float, float), optional
    n_arrows : int, optional
        In each direction.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError, TypeError
        If f does not have two components, or an argument does not fit; names it.

    Examples
    --------
    .. plot::
       :include-source:

       >>> import numpy as np
       >>> import snode
       >>> def pendulum(t, x):
       ...     return np.array([x[1], -np.sin(x[0])])
       >>> ax = snode.plot_vector_field(pendulum, xlim=(-4, 4), ylim=(-3, 3))
    """
    (u, v), value = _arrows(f, t, xlim, ylim, n_arrows)
    ax = axes_of(ax)
    size = np.hypot(*value)
    safe = np.where(size > 0, size, 1)
    arrows = ax.quiver(
        u, v, *(value / safe), size, cmap="viridis", pivot="mid", angles="xy",
        scale=1.25 * n_arrows, width=0.004,
    )  # fmt: skip
    ax.figure.colorbar(arrows, ax=ax, label=r"speed $|f(t, x)|$", pad=0.02)
    return _plane(ax, xlim, ylim, f"Vector field at t = {t:g}")


@own_error_state
def plot_phase_portrait(
    f: Any,
    ax: Any = None,
    *,
    x0: Array | None = None,
    t: float = 0.0,
    T: float = 10.0,
    xlim: tuple[float, float] = (-2.0, 2.0),
    ylim: tuple[float, float] = (-2.0, 2.0),
    density: float = 1.2,
) -> Any:
    """Plot the streamlines of f at one depth, and solutions from given points.

    Parameters
    ----------
    f : VectorField or callable
        As for `plot_vector_field`.
    ax : matplotlib Axes, optional
        Default: the current ones if they are empty, else new ones.
    x0 : array (2, m), optional
        Points from which solutions are drawn, by `ode45` from depth `t` on; a dot marks the start.
        If f depends on depth they leave the streamlines, which are those of depth `t`.
    t : float, optional
        Depth of the streamlines.
    T : float, optional
        Length of the solutions. One that blows up is drawn as far as it goes.
    xlim, ylim : (float, float), optional
    density : float, optional
        Of the streamlines.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError, TypeError
        If f does not have two components, or an argument does not fit; names it.

    Examples
    --------
    .. plot::
       :include-source:

       >>> import numpy as np
       >>> import snode
       >>> def van_der_pol(t, x):
       ...     return np.array([x[1], 2 * (1 - x[0] ** 2) * x[1] - x[0]])
       >>> ax = snode.plot_phase_portrait(van_der_pol, x0=np.array([[0.1, 2.5], [0.0, 3.5]]),
       ...                                T=15, xlim=(-3, 3), ylim=(-4, 4))
    """
    if not (np.isfinite(T) and T > 0):
        raise ValueError(f"T must be positive; got {T!r}")
    starts = None if x0 is None else check_points("x0", x0, 2)
    (u, v), value = _arrows(f, t, xlim, ylim, 40)
    ax = axes_of(ax)
    ax.streamplot(
        u[0], v[:, 0], *value, color="0.55", linewidth=0.8, arrowsize=0.9, density=density
    )
    for k, start in enumerate([] if starts is None else starts.T.astype(float)):
        path = _solution(f, t, T, start)
        colour = CLASS_COLOURS[k % len(CLASS_COLOURS)]
        ax.plot(*path, color=colour, lw=1.8)
        ax.plot(*start, "o", color=colour, ms=6)
    return _plane(ax, xlim, ylim, f"Phase portrait at t = {t:g}")


@own_error_state
def plot_solution(
    sol: Any,
    ax: Any = None,
    *,
    components: Sequence[int] | None = None,
    sample: int = 0,
) -> Any:
    """Plot the components of a solution against depth.

    Parameters
    ----------
    sol : OdeSolution
        From `ode45`, `rk4`, `solve_direct`, ..., with its trajectory.
    ax : matplotlib Axes, optional
        Default: the current ones if they are empty, else new ones.
    components : sequence of int, optional
        Which ones; default the first eight.
    sample : int, optional
        Which column, for states (n, m).

    Returns
    -------
    Axes
        Dots mark the accepted steps; between them it is the dense output where the solution has
        one.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit, or the solution has no trajectory; names the argument.

    Examples
    --------
    .. plot::
       :include-source:

       >>> import numpy as np
       >>> import snode
       >>> def lotka_volterra(t, x):
       ...     return np.array([x[0] * (1 - x[1]), x[1] * (x[0] - 1)])
       >>> sol = snode.ode45(lotka_volterra, (0.0, 15.0), np.array([0.5, 0.5]), dense_output=True)
       >>> ax = snode.plot_solution(sol)
    """
    if getattr(sol, "x", None) is None or not hasattr(sol, "t"):
        raise ValueError("sol must be a solution with its trajectory: keep='trajectory'")
    t, x = np.asarray(sol.t), to_host(sol.x)
    if x.ndim == 3:
        if not -x.shape[2] <= sample < x.shape[2]:
            raise ValueError(f"sample must be one of the {x.shape[2]} columns; got {sample!r}")
        x = x[:, :, sample]
    x = x.reshape(len(t), -1)
    shown = list(range(min(8, x.shape[1]))) if components is None else list(components)
    if not shown or not all(-x.shape[1] <= i < x.shape[1] for i in shown):
        raise ValueError(f"components must be some of 0..{x.shape[1] - 1}; got {components!r}")
    ax = axes_of(ax)
    dense = _dense(sol, t, sample)
    for k, i in enumerate(shown):
        colour, style = CLASS_COLOURS[k % len(CLASS_COLOURS)], ("-", "--", ":", "-.")[k % 4]
        ends, values = (t, x) if dense is None else dense
        ax.plot(ends, values[:, i], style, color=colour, lw=1.6, label=f"$x_{{{i + 1}}}(t)$")
        if len(t) <= 200:
            ax.plot(t, x[:, i], ".", color=colour, ms=5)
    steps = f"{len(t) - 1} steps of {sol.method}"
    ax.set(xlabel="depth t", ylabel="state x(t)", title=f"Solution: {steps}")
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small", framealpha=0.9)
    return ax


# --- what is drawn --------------------------------------------------------------------------------


def _arrows(
    f: Any, t: float, xlim: Any, ylim: Any, count: int
) -> tuple[tuple[Array, Array], Array]:
    """Points of the plane and f there, (2, count, count)."""
    if not callable(f):
        raise TypeError(f"f must be a field or a function f(t, x); got {type(f).__name__}")
    if getattr(f, "n", 2) != 2:
        raise ValueError(f"f must have two components; got a field with n = {f.n}")
    if isinstance(count, bool) or not isinstance(count, int) or count < 2:
        raise ValueError(f"n_arrows must be an integer >= 2; got {count!r}")
    u, v = np.meshgrid(
        np.linspace(*check_range("xlim", xlim), count),
        np.linspace(*check_range("ylim", ylim), count),
    )
    points = np.stack([u.ravel(), v.ravel()])
    value = _evaluated(f, float(t), points)
    return (u, v), value.reshape(2, count, count)


def _evaluated(f: Any, t: float, points: Array) -> Array:
    """Value at all points; a plain function may know one point only."""
    parameters = getattr(f, "parameters", None)
    if parameters:
        points = points.astype(next(iter(parameters.values())).dtype)
    try:
        value = np.asarray(to_host(np.asarray(f(t, points))), dtype=float)
    except (TypeError, ValueError):
        value = np.empty(0)
    if value.shape != points.shape:
        value = np.stack(
            [np.asarray(f(t, p.copy()), dtype=float).ravel() for p in points.T], axis=1
        )
    if value.shape != points.shape:
        raise ValueError(f"f must return two components; got shape {value[:, 0].shape}")
    return np.where(np.isfinite(value), value, np.nan)


def _solution(f: Any, t: float, T: float, start: Array) -> Array:
    """A solution (2, k) from one point, as far as it goes."""

    def one(depth: float, x: Array) -> Array:
        return np.asarray(_evaluated(f, depth, x[:, None])[:, 0])

    try:
        sol = ode45(one, (t, t + T), start, rtol=1e-6, atol=1e-9, dense_output=True)
    except IntegrationError as error:
        x = np.asarray(error.solution.x)
        return x[np.isfinite(x).all(axis=1)].T
    return np.stack([sol(s) for s in np.linspace(t, t + T, 800)], axis=1)


def _dense(sol: Any, t: Array, sample: int) -> tuple[Array, Array] | None:
    """The dense output between the steps, where there is one."""
    try:
        ends = np.linspace(t[0], t[-1], 600)
        values = np.stack([np.asarray(to_host(sol(s))) for s in ends])
    except (TypeError, ValueError):
        return None
    values = values[:, :, sample] if values.ndim == 3 else values
    return ends, values.reshape(len(ends), -1)


def _plane(ax: Any, xlim: Any, ylim: Any, title: str) -> Any:
    ax.set(xlim=xlim, ylim=ylim, xlabel="$x_1$", ylabel="$x_2$", title=title)
    return ax
