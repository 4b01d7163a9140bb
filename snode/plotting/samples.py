"""Figures of samples: where a field takes them, and which class it gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from snode.backend import Array, own_error_state, to_host
from snode.ode.problems import Solver, as_solver, solve_direct
from snode.plotting.canvas import (
    at_most,
    axes_of,
    check_classes_of,
    check_points,
    class_look,
    new_figure,
    tints,
)
from snode.predict import predict

__all__ = ["animate_trajectories", "plot_decision_regions", "plot_trajectories"]

WRITERS = {".gif": "pillow", ".mp4": "ffmpeg"}
RESOLUTION = 200
"""Points in each direction of the plane that are classified."""


@own_error_state
def plot_decision_regions(
    field: Any,
    x: Array,
    y: Any,
    ax: Any = None,
    *,
    n_classes: int | None = None,
    solver: str | Solver = "euler",
    n_points: int = 300,
) -> Any:
    """Show the classes that a field gives to the plane, and samples with their true classes.

    Parameters
    ----------
    field : VectorField
        With n = 2.
    x : array (2, m)
    y : array (m,)
        True classes, numbers or names; names stand for the classes in sorted order.
    ax : matplotlib Axes, optional
        Default: the current ones if they are empty, else new ones.
    n_classes : int, optional
        As for `predict`; default 2 without a read-out.
    solver : str or Solver, optional
        As for `predict`.
    n_points : int, optional
        Samples drawn of each class.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError, TypeError
        If the field does not have two components, or an argument does not fit; names it.

    Examples
    --------
    .. plot::
       :include-source:

       >>> import snode
       >>> x, y = snode.datasets.two_moons(200, rng=0)
       >>> field = snode.StandaloneField.random(2, 3.0, 20, rng=0)
       >>> cost = snode.Cost(n_classes=2)
       >>> field = snode.ncg(field, x, y, cost, n_iter=60).field
       >>> ax = snode.plot_decision_regions(field, x, y)
    """
    x = check_points("x", x, 2)
    if field.n != 2:
        raise ValueError(f"field must have n = 2 to be drawn in the plane; got n = {field.n}")
    numbers, names = check_classes_of(y, x.shape[1])
    if all(isinstance(name, int) and name >= 0 for name in names):  # labels 0..C-1: some may lack
        numbers, names = np.asarray(y).astype(int), list(range(max(names) + 1))
    count = n_classes
    if count is None:
        count = getattr(field, "n_outputs", 2) if hasattr(field, "readout") else 2
    if len(names) > count:
        raise ValueError(f"y must hold {count} classes at most, as the field; got {len(names)}")
    low, high = x.min(axis=1), x.max(axis=1)
    margin = 0.1 * np.maximum(high - low, 1e-3)
    u, v = (
        np.linspace(a - d, b + d, RESOLUTION) for a, b, d in zip(low, high, margin, strict=True)
    )
    dtype = next(iter(field.parameters.values())).dtype
    plane = np.stack([g.ravel() for g in np.meshgrid(u, v)]).astype(dtype)
    regions = to_host(predict(field, plane, n_classes=count, solver=solver))
    ax = axes_of(ax)
    ax.pcolormesh(
        u, v, regions.reshape(RESOLUTION, RESOLUTION), cmap=tints(count), vmin=-0.5,
        vmax=count - 0.5, shading="nearest", rasterized=True,
    )  # fmt: skip
    for c in range(len(names)):
        shown = at_most(np.flatnonzero(numbers == c), n_points)
        ax.plot(
            *x[:, shown], ls="none", ms=4, mec="white", mew=0.4, label=f"class {names[c]}",
            **class_look(c),
        )  # fmt: skip
    ax.set(xlabel="$x_1$", ylabel="$x_2$", title="Decision regions (shaded) and true classes")
    ax.legend(fontsize="small", framealpha=0.9)
    return ax


@own_error_state
def plot_trajectories(
    field: Any,
    x: Array,
    y: Any = None,
    ax: Any = None,
    *,
    components: tuple[int, int] = (0, 1),
    solver: str | Solver = "euler",
    n_curves: int = 100,
) -> Any:
    """Draw how samples travel through depth, from small open to filled markers.

    Parameters
    ----------
    field : VectorField
    x : array (n, m)
    y : array (m,), optional
        Classes, numbers or names, for the colours.
    ax : matplotlib Axes, optional
        Default: the current ones if they are empty, else new ones.
    components : (int, int), optional
        Which two of the n components are drawn. With n = 1 it is x(t) against t.
    solver : str or Solver, optional
        How the trajectories are computed.
    n_curves : int, optional
        Samples drawn, evenly chosen.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit; names it.
    IntegrationError
        If a trajectory does not stay finite.

    Examples
    --------
    .. plot::
       :include-source:

       >>> import snode
       >>> x, y = snode.datasets.two_moons(200, rng=0)
       >>> field = snode.StandaloneField.random(2, 3.0, 20, rng=0)
       >>> cost = snode.Cost(n_classes=2)
       >>> field = snode.ncg(field, x, y, cost, n_iter=60).field
       >>> ax = snode.plot_trajectories(field, x, y, n_curves=60)
    """
    t, paths, numbers, names = _travelled(field, x, y, components, solver, n_curves)
    ax = axes_of(ax)
    if paths.shape[1] == 1:
        paths = np.stack([np.broadcast_to(t[:, None], paths[:, 0].shape), paths[:, 0]], axis=1)
        ax.set(xlabel="depth t", ylabel="x(t)")
    else:
        ax.set(xlabel=f"$x_{{{components[0] + 1}}}$", ylabel=f"$x_{{{components[1] + 1}}}$")
    for c, name in enumerate(names):
        look = class_look(c)
        some = paths[:, :, numbers == c]
        ax.plot(some[:, 0], some[:, 1], color=look["color"], lw=0.7, alpha=0.45)
        ax.plot(*some[0], ls="none", ms=3.5, mfc="white", mew=0.8, **look)
        label = f"class {name}" if y is not None else "at the end"
        ax.plot(*some[-1], ls="none", ms=4.5, label=label, **look)
    span = f"t = {t[0]:g} (open) to {t[-1]:g} (filled)"
    ax.set(title=f"{paths.shape[2]} samples from {span}")
    ax.legend(fontsize="small", framealpha=0.9)
    return ax


@own_error_state
def animate_trajectories(
    field: Any,
    x: Array,
    y: Any = None,
    *,
    path: str | Path | None = None,
    components: tuple[int, int] = (0, 1),
    solver: str | Solver = "euler",
    n_points: int = 500,
    n_frames: int = 60,
    fps: int = 15,
    figsize: tuple[float, float] = (5.0, 4.5),
    dpi: float = 100.0,
) -> Any:
    """Let samples travel through depth in an animation, and write it to a file.

    Parameters
    ----------
    field, x, y, components, solver
        As for `plot_trajectories`; n must be 2 or more.
    path : str or Path, optional
        A file ``.gif``, or ``.mp4`` (needs the program ffmpeg). Without it nothing is written; in a
        notebook show ``IPython.display.HTML(animation.to_jshtml())``.
    n_points : int, optional
        Samples drawn, evenly chosen.
    n_frames : int, optional
        Depths shown; the first and the last rest for a moment.
    fps : int, optional
        Frames per second.
    figsize : (float, float), optional
        In inches.
    dpi : float, optional
        Pixels per inch.

    Returns
    -------
    matplotlib.animation.FuncAnimation
        Keep it as long as it is to move.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit; names it.
    IntegrationError
        If a trajectory does not stay finite.

    Examples
    --------
    >>> import snode
    >>> x, y = snode.datasets.two_moons(100, rng=0)
    >>> field = snode.StandaloneField.random(2, 3.0, 20, rng=0)
    >>> animation = snode.animate_trajectories(field, x, y, path="moons.gif")  # doctest: +SKIP
    """
    target = _target(path)
    for name, number in (("n_frames", n_frames), ("fps", fps), ("dpi", dpi)):
        if not (np.isfinite(number) and number > 0):
            raise ValueError(f"{name} must be positive; got {number!r}")
    t, paths, numbers, names = _travelled(field, x, y, components, solver, n_points)
    if paths.shape[1] != 2:
        raise ValueError("field must have n >= 2 to be animated in the plane; got n = 1")
    from matplotlib.animation import FuncAnimation

    depths = np.linspace(t[0], t[-1], int(n_frames))
    figure = new_figure(figsize=figsize, layout="constrained")
    ax = figure.subplots()
    low, high = paths.min(axis=(0, 2)), paths.max(axis=(0, 2))
    margin = 0.06 * np.maximum(high - low, 1e-3)
    ax.set(
        xlim=(low[0] - margin[0], high[0] + margin[0]),
        ylim=(low[1] - margin[1], high[1] + margin[1]),
        xlabel=f"$x_{{{components[0] + 1}}}$", ylabel=f"$x_{{{components[1] + 1}}}$",
    )  # fmt: skip
    dots = [
        ax.plot(
            [], [], ls="none", ms=4, mec="white", mew=0.3, label=f"class {name}", **class_look(c)
        )[0]
        for c, name in enumerate(names)
    ]
    if y is not None:
        ax.legend(fontsize="small", loc="upper right", framealpha=0.9)

    def draw(depth: float) -> list[Any]:
        here = _between(t, paths, depth)
        for c, line in enumerate(dots):
            line.set_data(*here[:, numbers == c])
        ax.set_title(f"depth t = {depth:.2f}")
        return dots

    rest = max(1, int(fps / 2))
    frames = [*[depths[0]] * rest, *depths, *[depths[-1]] * rest]
    animation = FuncAnimation(figure, draw, frames=frames, interval=1000 / fps)
    if target is not None:
        animation.save(target, writer=WRITERS[target.suffix.lower()], fps=fps, dpi=dpi)
    return animation


# --- what is drawn --------------------------------------------------------------------------------


def _travelled(
    field: Any, x: Array, y: Any, components: Any, solver: str | Solver, count: int
) -> tuple[Array, Array, Array, list[Any]]:
    """Depths, chosen components (K + 1, 2, m), numbers and names of the classes."""
    check_points("x", x, field.n)
    m = x.shape[1]
    numbers, names = (np.zeros(m, int), [""]) if y is None else check_classes_of(y, m)
    wanted = _components(components, field.n)
    chosen = as_solver(solver)
    some = at_most(np.arange(m), count)
    columns = np.ascontiguousarray(x[:, some])
    sol = solve_direct(
        field, columns, method=chosen.method, rtol=chosen.rtol, atol=chosen.atol,
        max_step=chosen.max_step, max_steps=chosen.max_steps, keep="trajectory",
    )  # fmt: skip
    paths = to_host(sol.x)[:, wanted].astype(float)
    return np.asarray(sol.t), paths, numbers[some], names


def _components(components: Any, n: int) -> list[int]:
    if n == 1:
        return [0]
    try:
        first, second = (int(i) for i in components)
    except (TypeError, ValueError):
        first = second = -1
    if not (0 <= first < n and 0 <= second < n and first != second):
        raise ValueError(f"components must be two different ones of 0..{n - 1}; got {components!r}")
    return [first, second]


def _between(t: Array, paths: Array, depth: float) -> Array:
    """Points at a depth, linear between the nodes."""
    k = int(np.clip(np.searchsorted(t, depth, side="right") - 1, 0, len(t) - 2))
    share = (depth - t[k]) / (t[k + 1] - t[k])
    return np.asarray((1 - share) * paths[k] + share * paths[k + 1])


def _target(path: Any) -> Path | None:
    if path is None:
        return None
    target = Path(path)
    if target.suffix.lower() not in WRITERS:
        raise ValueError(f"path must end in .gif or .mp4; got {str(path)!r}")
    if not target.parent.is_dir():
        raise ValueError(f"path must be in a folder that exists; got {str(path)!r}")
    if target.suffix.lower() == ".mp4":
        from matplotlib.animation import FFMpegWriter

        if not FFMpegWriter.isAvailable():
            raise ValueError("path ends in .mp4, which needs the program ffmpeg; use .gif")
    return target
