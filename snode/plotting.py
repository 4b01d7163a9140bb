"""Figures from results; matplotlib is imported inside the functions.

Each function draws on the Axes it is given, or on new ones, and returns them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from snode.backend import Array, to_host
from snode.predict import confusion, predict

__all__ = [
    "figure_of",
    "plot_accuracy",
    "plot_certified",
    "plot_confusion",
    "plot_cost",
    "plot_decision",
    "plot_digits",
    "plot_growth",
    "plot_propagation",
    "plot_success",
    "plot_trajectory_gap",
    "plot_weights",
    "training_report",
]

# dark to light, so that the order survives greyscale; line styles differ as well
COLOURS = ("#1b1b3a", "#b3446c", "#e0a030", "#4f9da6")

_KIND = {"flow": "flow", "euler": "explicit Euler"}


def plot_cost(history: Mapping[str, Array], ax: Any = None) -> Any:
    """Plot the cost of every minibatch before and after its iterations, against epochs.

    Parameters
    ----------
    history : mapping
        `TrainResult.history`.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
    """
    ax = _axes(ax)
    before, after = np.asarray(history["cost"]), np.asarray(history["cost_after"])
    ax.plot(history["epoch"], before, color=COLOURS[0], lw=0.8, label="before its iterations")
    ax.plot(history["epoch"], after, color=COLOURS[1], lw=0.8, ls="--", label="after")
    if np.nanmin(np.concatenate([before, after])) > 0:
        ax.set_yscale("log")
    ax.set(xlabel="epoch", ylabel="cost E of the minibatch", title="Cost")
    ax.legend(fontsize="small")
    return ax


def plot_accuracy(evaluations: Mapping[str, Array], ax: Any = None) -> Any:
    """Plot training and test accuracy against epochs.

    Parameters
    ----------
    evaluations : mapping
        `TrainResult.evaluations`.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
    """
    ax = _axes(ax)
    for name, style, colour in (("train", "o-", COLOURS[0]), ("test", "s--", COLOURS[1])):
        values = 100 * np.asarray(evaluations[f"{name}_accuracy"])
        if not np.isnan(values).all():
            ax.plot(evaluations["epoch"], values, style, color=colour, ms=4, label=name)
    low, high = ax.get_ylim()
    margin = max(0.05 * (high - low), 0.5)
    ax.set_ylim(max(low, -margin), min(high, 100 + margin))
    ax.set(xlabel="epoch", ylabel="accuracy (%)", title="Accuracy")
    ax.legend(fontsize="small")
    ax.grid(alpha=0.3)
    return ax


def plot_weights(field: Any, ax: Any = None, *, n_curves: int = 6) -> Any:
    """Plot the entries of W that vary most, as functions of depth.

    Parameters
    ----------
    field : StandaloneField
    ax : matplotlib Axes, optional
    n_curves : int, optional

    Returns
    -------
    Axes
    """
    ax = _axes(ax)
    W = to_host(field.W)
    flat = W.reshape(len(W), -1)
    most = np.argsort(flat.std(axis=0))[::-1][:n_curves]
    t = field.grid[: len(W)]
    steps = field.interpolation == "constant"
    for i, entry in enumerate(most):
        row, column = divmod(int(entry), field.n)
        ax.plot(
            t, flat[:, entry], color=COLOURS[i % len(COLOURS)], lw=1,
            ls=("-", "--", ":")[i % 3], drawstyle="steps-post" if steps else "default",
            label=f"$W_{{{row},{column}}}$",
        )  # fmt: skip
    ax.set(xlabel="depth t", ylabel="weight", title="Weights that vary most")
    ax.legend(fontsize="x-small", ncols=2)
    return ax


def plot_confusion(counts: Array, ax: Any = None, *, classes: Sequence[Any] | None = None) -> Any:
    """Show confusion counts; rows are true classes, columns predictions.

    Parameters
    ----------
    counts : integer array (C, C)
        From `snode.confusion`.
    ax : matplotlib Axes, optional
    classes : sequence, optional
        Names of the classes.

    Returns
    -------
    Axes
    """
    ax = _axes(ax)
    counts = np.asarray(counts)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax.imshow(share, cmap="Greys", vmin=0, vmax=1)
    names = range(len(counts)) if classes is None else classes
    ax.set_xticks(range(len(counts)), names)
    ax.set_yticks(range(len(counts)), names)
    if len(counts) <= 12:
        size = 10 if len(counts) <= 5 else 6
        for (i, j), count in np.ndenumerate(counts):
            if count:
                colour = "white" if share[i, j] > 0.5 else "black"
                ax.text(j, i, count, ha="center", va="center", fontsize=size, color=colour)
    ax.set(xlabel="predicted class", ylabel="true class", title="Confusion (test samples)")
    return ax


def plot_digits(
    images: Array, titles: Sequence[str], axes: Sequence[Any], shape: tuple[int, int]
) -> None:
    """Show images, ink dark on light ground, one on each of the Axes.

    Parameters
    ----------
    images : array (n, k)
        Intensities in [0, 1], one column an image.
    titles : sequence of str
    axes : sequence of Axes
    shape : (int, int)
        Height and width; n = height * width.
    """
    for ax in axes:
        ax.axis("off")
    for ax, image, title in zip(axes, np.asarray(images).T, titles, strict=False):
        ax.imshow(image.reshape(shape), cmap="Greys", vmin=0, vmax=1)
        ax.set_title(title, fontsize=8, pad=2)


def plot_decision(field: Any, x: Array, y: Array, ax: Any = None, *, n_classes: int = 2) -> Any:
    """Show the classes that a two-dimensional field gives to the plane, and samples.

    Parameters
    ----------
    field : VectorField
        With n = 2.
    x : array (2, m)
    y : integer array (m,)
    ax : matplotlib Axes, optional
    n_classes : int, optional

    Returns
    -------
    Axes
    """
    ax = _axes(ax)
    x, y = to_host(x), to_host(y)
    low, high = x.min(axis=1), x.max(axis=1)
    margin = 0.1 * (high - low)
    u, v = (np.linspace(a - d, b + d, 150) for a, b, d in zip(low, high, margin, strict=True))
    plane = np.stack([g.ravel() for g in np.meshgrid(u, v)]).astype(x.dtype)
    labels = predict(field, plane, n_classes=n_classes).reshape(150, 150)
    ax.contourf(u, v, labels, levels=np.arange(n_classes + 1) - 0.5, cmap="Greys", alpha=0.45)
    for c in range(n_classes):
        shown = np.flatnonzero(y == c)[:300]
        ax.plot(*x[:, shown], "os^Dv"[c % 5], ms=3, color=COLOURS[c % 4], label=f"class {c}")
    ax.set(xlabel="$x_0$", ylabel="$x_1$", title="Decision regions")
    ax.legend(fontsize="small")
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

    Cost and accuracy curves, weights against depth, confusion counts, and misclassified images
    (or decision regions for two-dimensional data).

    Parameters
    ----------
    result : TrainResult
    data : Dataset
    title : str, optional
    eval_samples : int, optional
        How many samples of each set the accuracy curves were measured on, for their title.
    n_digits : int, optional
        Number of misclassified images shown.

    Returns
    -------
    matplotlib Figure
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.5), layout="constrained")
    grid = figure.add_gridspec(2, 3)
    plot_cost(result.history, figure.add_subplot(grid[0, 0]))
    ax = plot_accuracy(result.evaluations, figure.add_subplot(grid[0, 1]))
    if eval_samples is not None and eval_samples < data.x_train.shape[1]:
        ax.set_title(f"Accuracy (first {eval_samples} samples of each set)")
    if hasattr(result.field, "W"):
        plot_weights(result.field, figure.add_subplot(grid[0, 2]))
    x, y = (data.x_train, data.y_train) if data.x_test is None else (data.x_test, data.y_test)
    counts = confusion(result.field, x, y, n_classes=data.n_classes)
    ax = figure.add_subplot(grid[1, 0])
    plot_confusion(counts, ax, classes=data.classes)
    if data.x_test is None:
        ax.set_title("Confusion (training samples)")
    if data.image_shape is not None:
        _misclassified(figure, grid[1, 1:], result.field, data, x, y, n_digits)
    elif result.field.n == 2:
        ax = figure.add_subplot(grid[1, 1:])
        plot_decision(result.field, x, y, ax, n_classes=data.n_classes)
    if title:
        figure.suptitle(title)
    return figure


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
    titles = [f"{y[k]} → {labels[k]}" for k in wrong]
    plot_digits(data.decode(to_host(x)[:, wrong]), titles, axes, data.image_shape)


def plot_success(result: Any, ax: Any = None, *, norm: str = "2", label: str = "") -> Any:
    """Plot the share of fooled samples against the size of the perturbation.

    Parameters
    ----------
    result : AttackResult
    ax : matplotlib Axes, optional
    norm : {"2", "inf"}, optional
    label : str, optional
        Default: the name of the attack.

    Returns
    -------
    Axes
    """
    ax = _axes(ax)
    fooled = to_host(result.success) & ~to_host(result.skipped)
    sizes = np.sort(to_host(result.norm2 if norm == "2" else result.norminf)[fooled])
    count = max(1, int((~to_host(result.skipped)).sum()))
    share = 100 * np.arange(len(sizes) + 1) / count
    ax.step(np.concatenate([[0.0], sizes]), share, where="post", color=COLOURS[0],
            label=label or result.method)  # fmt: skip
    name = r"$|\delta|_2$" if norm == "2" else r"$|\delta|_\infty$"
    ax.set(xlabel=f"size of the perturbation {name}", ylabel="fooled samples in %")
    ax.set(title=f"Success of the attack on {count} samples", ylim=(0, 103), xlim=(0, None))
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small", loc="lower right")
    return ax


def plot_propagation(result: Any, ax: Any = None) -> Any:
    """Plot the predicted and the measured size of a perturbation along depth.

    Parameters
    ----------
    result : Propagation
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
    """
    ax = _axes(ax)
    for name, symbol, style, colour in (
        ("predicted", r"$|\xi(t)|$", "-", COLOURS[0]),
        ("measured", r"$|\delta(t)|$", "--", COLOURS[1]),
    ):
        mean, std = (to_host(getattr(part, name)) for part in (result.mean, result.std))
        ax.plot(result.t, mean, style, color=colour, label=f"{name}, {symbol}")
        ax.fill_between(result.t, mean - std, mean + std, color=colour, alpha=0.12)
    ax.set(xlabel="depth t", ylabel="size of the perturbation",
           title=f"Mean and standard deviation of {result.predicted.shape[1]} samples")  # fmt: skip
    ax.set_ylim(0)
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small")
    return ax


def plot_trajectory_gap(result: Any, ax: Any = None, *, n_curves: int = 30) -> Any:
    """Plot the distance of pairs of trajectories along depth, below its certified bound.

    Parameters
    ----------
    result : TrajectoryGap
    ax : matplotlib Axes, optional
    n_curves : int, optional
        Pairs drawn one by one, the first ones; the largest distance is that of all pairs.

    Returns
    -------
    Axes
        Logarithmic in distances that are more than tenfold apart; where the bound overflows it is
        not drawn.
    """
    ax = _axes(ax)
    ratio = to_host(result.ratio)
    count = ratio.shape[1]
    lines = ax.plot(result.t, ratio[:, :n_curves], color="0.65", lw=0.6)
    for line in lines[:1]:
        line.set_label(f"{len(lines)} of {count} pairs" if len(lines) < count else f"{count} pairs")
    ax.plot(result.t, ratio.max(axis=1), color=COLOURS[1], lw=1.8, label="largest of all pairs")
    ax.plot(result.t, result.bound, "--", color=COLOURS[0], lw=1.8, label="certified bound")
    if result.bound.max() > 10 or ratio.min() < 0.1:
        ax.set_yscale("log")
    ax.set(xlabel="depth t", ylabel="$|u(t) - v(t)| \\, / \\, |u(0) - v(0)|$",
           title=f"Trajectories under the bound ({_KIND[result.growth.kind]})")  # fmt: skip
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small")
    return ax


def plot_growth(result: Any, ax: Any = None) -> Any:
    """Plot the bounds of the rate at which trajectories part, along depth.

    Parameters
    ----------
    result : GrowthBound or sequence of GrowthBound
        Two at most: of the flow, of Euler's method.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
        Upper bounds, and what the slopes that were found give where they are known.
    """
    ax = _axes(ax)
    bounds = result if isinstance(result, Sequence) else [result]
    for bound, style, colour in zip(bounds, ("-", "--"), COLOURS, strict=False):
        name = _KIND[bound.kind]
        ax.stairs(bound.upper, bound.ends, baseline=None, ls=style, lw=1.4, color=colour,
                  label=f"{name}: at most")  # fmt: skip
        if not np.isnan(bound.lower).all():
            ax.stairs(bound.lower, bound.ends, baseline=None, ls=":", lw=1.4, color=COLOURS[2],
                      label=f"{name}: slopes found")  # fmt: skip
    ax.set(xlabel="depth t", ylabel="rate of growth per depth",
           title="How fast trajectories can part")  # fmt: skip
    ax.margins(y=0.15)
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small")
    return ax


def plot_certified(result: Any, ax: Any = None, *, attack: Any = None) -> Any:
    """Plot the certified accuracy against the size of the perturbation.

    Parameters
    ----------
    result : CertifiedRadius
    ax : matplotlib Axes, optional
    attack : AttackResult, optional
        Of the same samples: the accuracy it leaves is drawn as well. The true accuracy is between
        the two curves.

    Returns
    -------
    Axes
        Logarithmic in the size if those of the attack are much larger.

    Raises
    ------
    ValueError
        If the attack was on another number of samples.
    """
    ax = _axes(ax)
    count = len(result.radius)
    radius = to_host(result.radius)
    curves = [(np.sort(radius[radius > 0]), int((radius > 0).sum()))]
    if attack is not None:
        kept, fooled = ~to_host(attack.skipped), to_host(attack.success)
        if len(kept) != count:
            raise ValueError(f"attack must be of the same {count} samples; got {len(kept)}")
        curves.append((np.sort(to_host(attack.norm2)[kept & fooled]), int(kept.sum())))
    seen = [sizes[np.isfinite(sizes)] for sizes, _ in curves if np.isfinite(sizes).any()]
    start, left, end = 0.0, 0.0, 1.05 * max((sizes[-1] for sizes in seen), default=1.0)
    if len(seen) == 2 and np.median(seen[1]) > 20 * np.median(seen[0]):
        start, left, end = 0.5 * seen[0][0], 0.5 * np.quantile(seen[0], 0.1), 2 * seen[1][-1]
        ax.set_xscale("log")
    else:
        ax.locator_params(axis="x", nbins=6)
    labels = ("certified", "" if attack is None else f"left by {attack.method}")
    looks = zip(labels, ("-", "--"), COLOURS, strict=False)
    for (steps, first), (label, style, colour) in zip(curves, looks, strict=False):
        x = np.concatenate([[start], steps[np.isfinite(steps)]])
        share = 100 * (first - np.arange(len(x))) / count
        ax.step(np.append(x, end), np.append(share, share[-1]), style, where="post", color=colour,
                label=label)  # fmt: skip
    ax.set(xlabel=r"size of the perturbation $|\delta|_2$", ylabel="correct samples in %",
           title=f"Accuracy of {count} samples under any perturbation",
           xlim=(left, end), ylim=(0, 103))  # fmt: skip
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small")
    return ax


def figure_of(*draw: Callable[[Any], Any]) -> Any:
    """Return a Figure with one Axes for each function, side by side, drawn by ``draw(ax)``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * len(draw), 4), layout="constrained")
    for one, ax in zip(draw, figure.subplots(1, len(draw), squeeze=False)[0], strict=True):
        one(ax)
    return figure


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]
