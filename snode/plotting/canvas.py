"""What all figures share: colours, the Axes to draw on, and checks of what is drawn."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from snode.backend import Array, is_array, to_host

__all__ = [
    "CLASS_COLOURS",
    "COLOURS",
    "MARKERS",
    "axes_of",
    "check_points",
    "figure_of",
    "new_figure",
]

# dark to light, so that the order survives greyscale; line styles differ as well
COLOURS = ("#1b1b3a", "#b3446c", "#e0a030", "#4f9da6")

# those of Okabe and Ito, which all eyes tell apart; markers differ as well
CLASS_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f",
                 "#000000", "#f0e442")  # fmt: skip
MARKERS = "os^DvPX<>*"


def new_figure(**options: Any) -> Any:
    """Return a Figure for files: without a window, whatever backend the environment names."""
    backend = os.environ.get("MPLBACKEND")
    try:
        from matplotlib.figure import Figure
    except ValueError:  # a notebook hands its backend down to programs that do not have it
        if backend is None:
            raise
        del os.environ["MPLBACKEND"]
        try:
            from matplotlib.figure import Figure
        finally:
            os.environ["MPLBACKEND"] = backend
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = Figure(**options)
    FigureCanvasAgg(figure)
    return figure


def figure_of(*draw: Callable[[Any], Any]) -> Any:
    """Return a Figure with one Axes for each function, side by side, drawn by ``draw(ax)``."""
    figure = new_figure(figsize=(6 * len(draw), 4), layout="constrained")
    for one, ax in zip(draw, figure.subplots(1, len(draw), squeeze=False)[0], strict=True):
        one(ax)
    return figure


def axes_of(ax: Any) -> Any:
    """Return the Axes to draw on.

    Those given; without any the current ones of pyplot if nothing is on them yet, as after
    ``plt.subplots()``, else those of a new figure. With Axes given pyplot is not touched.
    """
    if ax is None:
        import matplotlib.pyplot as plt

        if plt.get_fignums() and not plt.gca().has_data():
            return plt.gca()
        return plt.subplots(layout="constrained")[1]
    if not hasattr(ax, "plot"):
        raise TypeError(f"ax must be Axes of matplotlib; got {type(ax).__name__}")
    return ax


def check_points(name: str, x: Any, n: int | None = None) -> Array:
    """Return finite points (n, m) on the host, or raise and name the argument."""
    if not is_array(x):
        raise TypeError(
            f"{name} must be an array (n, m), one column a point; got {type(x).__name__}"
        )
    x = to_host(x)
    if x.ndim != 2 or not x.size or (n is not None and x.shape[0] != n):
        raise ValueError(f"{name} must have shape ({'n' if n is None else n}, m); got {x.shape}")
    if x.dtype.kind not in "fiu":
        raise TypeError(f"{name} must hold real numbers; got {x.dtype}")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} must be finite; it has NaN or infinite entries")
    return x


def check_range(name: str, ends: Any) -> tuple[float, float]:
    """Return (low, high), or raise and name the argument."""
    try:
        low, high = (float(end) for end in ends)
    except (TypeError, ValueError):
        low, high = 1.0, 0.0
    if not (low < high and np.isfinite([low, high]).all()):
        raise ValueError(f"{name} must be (low, high), finite, with low < high; got {ends!r}")
    return low, high


def check_classes_of(y: Any, m: int) -> tuple[Array, list[Any]]:
    """Return the number of each sample's class, and the classes in order."""
    y = np.asarray(to_host(y) if is_array(y) else y)
    if y.shape != (m,):
        raise ValueError(f"y must have shape ({m},), one class for each column of x; got {y.shape}")
    names, numbers = np.unique(y, return_inverse=True)
    if len(names) > len(MARKERS):
        raise ValueError(
            f"y must have at most {len(MARKERS)} classes to be drawn; got {len(names)}"
        )
    return numbers, names.tolist()


def class_look(k: int) -> dict[str, Any]:
    """Colour and marker of class k."""
    return {"color": CLASS_COLOURS[k % len(CLASS_COLOURS)], "marker": MARKERS[k % len(MARKERS)]}


def tints(count: int) -> Any:
    """A colour map of the classes, pale enough for points to stand on it."""
    from matplotlib.colors import ListedColormap, to_rgb

    pale = [0.68 + 0.32 * np.array(to_rgb(CLASS_COLOURS[k % len(CLASS_COLOURS)]))
            for k in range(count)]  # fmt: skip
    return ListedColormap(pale)


def at_most(indices: Any, count: int) -> Array:
    """Evenly chosen ones of many."""
    chosen = np.asarray(indices)
    return (
        chosen
        if len(chosen) <= count
        else chosen[np.linspace(0, len(chosen) - 1, count).astype(int)]
    )
