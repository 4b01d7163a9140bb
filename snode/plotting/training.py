"""The report of a training run, and its panels; images that were fooled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from snode.backend import Array, own_error_state, to_host
from snode.fields.base import outputs
from snode.ode.problems import solve_direct
from snode.plotting.canvas import COLOURS, axes_of, new_figure
from snode.plotting.report import plot_accuracy, plot_confusion, plot_cost, plot_digits
from snode.plotting.samples import plot_decision_regions
from snode.predict import confusion, predict

__all__ = ["plot_adversarial", "plot_classes", "plot_depth", "training_report"]


@own_error_state
def plot_depth(field: Any, x: Array, y: Array, ax: Any = None, *, n_classes: int = 10) -> Any:
    """Plot how well the state at depth t tells the classes apart, if one read it there.

    Parameters
    ----------
    field : VectorField
        Its outputs (the read-out, or the first components) are taken of x(t) instead of x(T).
    x : array (n, m)
    y : integer array (m,) of labels, or array (k, m) of targets
        Of targets, the share of their variance that the outputs explain is shown.
    ax : matplotlib Axes, optional
    n_classes : int, optional

    Returns
    -------
    Axes
    """
    ax = axes_of(ax)
    solution, y = solve_direct(field, x), to_host(y)
    scores = []
    assert solution.x is not None  # the whole trajectory was kept
    for state in solution.x:
        found = to_host(outputs(field, state))
        if y.ndim == 1:
            scores.append(100 * float((found[:n_classes].argmax(axis=0) == y).mean()))
        else:
            spread = ((y - y.mean(axis=1, keepdims=True)) ** 2).mean()
            scores.append(100 * max(0.0, 1 - float(((found - y) ** 2).mean() / spread)))
    ax.plot(solution.t, scores, color=COLOURS[0])
    ax.plot(solution.t[-1:], scores[-1:], "o", color=COLOURS[1], label=f"end: {scores[-1]:.1f} %")
    name = "accuracy (%)" if y.ndim == 1 else "variance explained (%)"
    ax.set(xlabel="depth t", ylabel=name, ylim=(0, 103),
           title=f"Read out at depth t ({x.shape[1]} samples)")  # fmt: skip
    ax.legend(fontsize="small", loc="lower right")
    ax.grid(alpha=0.3)
    return ax


@own_error_state
def plot_classes(
    x: Array, y: Array, ax: Any = None, *, classes: Sequence[Any] | None = None, title: str = ""
) -> Any:
    """Plot samples in the plane of their first two principal components, by class.

    Parameters
    ----------
    x : array (n, m)
        At most the first 1000 are drawn.
    y : integer array (m,)
    ax : matplotlib Axes, optional
    classes : sequence, optional
        Names of the classes.
    title : str, optional

    Returns
    -------
    Axes
    """
    ax = axes_of(ax)
    x, y = to_host(x)[:, :1000].astype(np.float64), to_host(y)[:1000]
    centred = x - x.mean(axis=1, keepdims=True)
    axes = np.linalg.svd(centred, full_matrices=False)[0][:, :2]
    plane = axes.T @ centred
    plane = np.vstack([plane, np.zeros_like(plane)])[:2]
    for i, c in enumerate(np.unique(y)):
        name = c if classes is None else _short(classes[c])
        ax.plot(*plane[:, y == c], "os^Dv"[i % 5], ms=3, ls="", color=COLOURS[i % 4],
                label=str(name) if i < 10 else None)  # fmt: skip
    ax.set(xlabel="principal component 1", ylabel="principal component 2", title=title)
    ax.legend(fontsize="x-small")
    return ax


def training_report(
    result: Any,
    data: Any,
    *,
    title: str = "",
    eval_samples: int | None = None,
    n_digits: int = 24,
) -> Any:
    """Draw the report of a training run.

    Cost and accuracy curves with the accuracy of all samples at the end, how well the state could
    be read along the depth, confusion counts, and misclassified images, decision regions (of two
    features), or the samples before and after the network. Of a regression: outputs and errors
    against targets.

    Parameters
    ----------
    result : TrainResult
    data : Dataset
    title : str, optional
    eval_samples : int, optional
        How many samples of each set the accuracy curves were measured on.
    n_digits : int, optional
        Number of misclassified images shown.

    Returns
    -------
    matplotlib Figure
    """
    figure = new_figure(figsize=(13, 7.5), layout="constrained")
    grid = figure.add_gridspec(2, 3)
    plot_cost(result.history, figure.add_subplot(grid[0, 0]))
    has_test = data.x_test is not None
    x, y = (data.x_test, data.y_test) if has_test else (data.x_train, data.y_train)
    part = "test" if has_test else "training"
    first = slice(_DEPTH_SAMPLES)
    ax = figure.add_subplot(grid[0, 2])
    plot_depth(result.field, x[:, first], y[..., first], ax, n_classes=data.n_classes)
    if not data.n_classes:
        found = to_host(_outputs(result.field, x))
        _targets(found, to_host(y), part, figure.add_subplot(grid[0, 1]))
        _errors(found, to_host(y), part, figure.add_subplot(grid[1, :]))
    else:
        counts = confusion(result.field, x, y, n_classes=data.n_classes)
        ax = figure.add_subplot(grid[0, 1])
        _accuracy_panel(result.evaluations, counts, part, eval_samples, data, ax)
        ax = figure.add_subplot(grid[1, 0])
        plot_confusion(counts, ax, classes=data.classes)
        ax.set_title(f"Confusion ({counts.sum()} {part} samples)")
        _samples_panel(figure, grid[1, 1:], result.field, data, x, y, n_digits)
    if title:
        figure.suptitle(title)
    return figure


_DEPTH_SAMPLES = 500  # whose trajectories are kept


def _outputs(field: Any, x: Array) -> Array:
    return outputs(field, solve_direct(field, x, keep="last").x_T)


def _accuracy_panel(
    evaluations: Mapping[str, Array], counts: Any, part: str, eval_samples: int | None, data: Any,
    ax: Any,
) -> None:  # fmt: skip
    """Draw the curves, and the accuracy of all samples of a set, which is that of the title."""
    plot_accuracy(evaluations, ax)
    score = 100 * np.trace(counts) / max(1, counts.sum())
    end = np.asarray(evaluations["epoch"])[-1:]
    if len(end):
        ax.plot(end, [score], "*", ms=11, color=COLOURS[2], zorder=3,
                label=f"all {counts.sum()} {part} samples: {score:.2f} %")  # fmt: skip
        low, high = ax.get_ylim()
        ax.set_ylim(min(low, score - 1), max(high, score + 1))
        ax.legend(fontsize="small")
    if eval_samples is not None and eval_samples < data.x_train.shape[1]:
        ax.set_title(f"Accuracy (curves: first {eval_samples} samples of each set)")


def _samples_panel(
    figure: Any, cell: Any, field: Any, data: Any, x: Array, y: Array, n_digits: int
) -> None:
    """Show the mistakes, the decision regions, or the samples before and after the network."""
    if data.image_shape is not None:
        _misclassified(figure, cell, field, data, x, y, n_digits)
        return
    is_scaled = data.standardisation is not None
    if field.n == 2:
        ax = plot_decision_regions(field, x, y, figure.add_subplot(cell), n_classes=data.n_classes)
        if is_scaled:
            ax.set(xlabel="$x_0$, standardised", ylabel="$x_1$, standardised")
        handles, labels = ax.get_legend_handles_labels()
        if data.classes is not None:
            labels = [_short(name) for name in data.classes]
        ax.legend(handles, labels, fontsize="small")
        return
    part = figure.add_subfigure(cell)
    one, other = part.subplots(1, 2)
    start = "Samples as they come in" + (" (standardised)" if is_scaled else "")
    plot_classes(x, y, one, classes=data.classes, title=start)
    x_T = solve_direct(field, x, keep="last").x_T
    plot_classes(x_T, y, other, classes=data.classes, title="The same at the end of the depth")


def _targets(found: Any, y: Any, part: str, ax: Any) -> None:
    for i, (a, b) in enumerate(zip(y, found, strict=False)):
        ax.plot(a[:2000], b[:2000], ".", ms=4, color=COLOURS[i % 4], alpha=0.6)
    ends = [float(y.min()), float(y.max())]
    ax.plot(ends, ends, color="0.5", lw=1)
    ax.set(xlabel="target", ylabel="output", title=f"Outputs against targets ({part} samples)")


def _errors(found: Any, y: Any, part: str, ax: Any) -> None:
    error = found[: len(y)] - y
    ax.hist(error.ravel(), bins=40, color=COLOURS[3])
    ax.axvline(0, color=COLOURS[0], lw=1)
    size = float((error**2).mean()) ** 0.5
    ax.set(xlabel="output - target", ylabel="samples",
           title=f"Errors of {y.shape[1]} {part} samples, root mean square {size:.3g}")  # fmt: skip


def _misclassified(
    figure: Any, cell: Any, field: Any, data: Any, x: Array, y: Array, n_digits: int
) -> None:
    labels, y = to_host(predict(field, x, n_classes=data.n_classes)), to_host(y)
    wrong = np.flatnonzero(labels != y)[:n_digits]
    columns = min(8, n_digits)
    rows = -(-n_digits // columns)
    part = figure.add_subfigure(cell)
    total = int((labels != y).sum())
    part.suptitle(f"{len(wrong)} of {total} misclassified images: true class → predicted class")
    axes = part.subplots(rows, columns, squeeze=False).ravel()
    names = range(data.n_classes) if data.classes is None else [_short(c) for c in data.classes]
    titles = [f"{names[y[k]]} → {names[labels[k]]}" for k in wrong]
    plot_digits(data.decode(to_host(x)[:, wrong]), titles, axes, data.image_shape)


@own_error_state
def plot_adversarial(result: Any, x: Array, data: Any, ax: Any = None, *, n_images: int = 6) -> Any:
    """Show images that were fooled: as they were, as they are, and the change.

    Parameters
    ----------
    result : AttackResult
        Of the samples `x`.
    x : array (n, m)
    data : Dataset
        Of images: how to show `x`, and the names of the classes.
    ax : matplotlib Axes, optional
    n_images : int, optional
        At most so many, the first ones.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the data are not images.
    """
    if data.image_shape is None:
        raise ValueError(f"data must be images, with an image_shape; got {data!r}")
    ax = axes_of(ax)
    fooled = np.flatnonzero(to_host(result.success) & ~to_host(result.skipped))[:n_images]
    before, after = (data.decode(to_host(v)[:, fooled]) for v in (x, result.x_adv))  # intensities
    change = after - before
    largest = float(np.abs(change).max(initial=0.0)) or 1.0
    height, width = data.image_shape
    tiles = np.full((3 * (height + 1) - 1, max(1, len(fooled)) * (width + 1) - 1), np.nan)
    for i, rows in enumerate((before, after, 0.5 + change / (2 * largest))):
        for j, image in enumerate(rows.T):
            top, left = i * (height + 1), j * (width + 1)
            tiles[top : top + height, left : left + width] = image.reshape(height, width)
    ax.imshow(tiles, cmap="Greys", vmin=0, vmax=1)
    names = range(10**6) if data.classes is None else [_short(c) for c in data.classes]
    y, label = to_host(result.y), to_host(result.label)
    places = np.arange(len(fooled)) * (width + 1) + 0.5 * width
    ax.set_xticks(places, [f"{names[y[k]]} → {names[label[k]]}" for k in fooled], fontsize=8)
    ax.set_yticks((np.arange(3) + 0.5) * (height + 1), ["image", "fooled", "change"], fontsize=8)
    ax.tick_params(length=0)
    ax.set(title=f"Fooled: true class → predicted class (change up to {largest:.2g} of the range)")
    ax.title.set_fontsize("medium")
    return ax


def _short(name: Any, length: int = 14) -> str:
    text = str(name)
    return text if len(text) <= length else text[: length - 1] + "…"
