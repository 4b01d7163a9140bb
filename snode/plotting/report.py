"""Figures of trained networks: cost, accuracy, weights, confusion, images; the report of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from snode.backend import Array, is_array, own_error_state, to_host
from snode.plotting.canvas import COLOURS, axes_of, check_points

__all__ = [
    "plot_accuracy", "plot_confusion", "plot_cost", "plot_digits", "plot_history", "plot_images",
    "plot_weights",
]  # fmt: skip


@own_error_state
def plot_history(result: Any, ax: Any = None) -> Any:
    """Plot how the cost fell in a run of `train` or `ncg`.

    Parameters
    ----------
    result : TrainResult, NcgResult, or the history of one
    ax : matplotlib Axes, optional
        Default: the current ones if they are empty, else new ones.

    Returns
    -------
    Axes

    Raises
    ------
    TypeError
        If there is no history of costs in `result`.

    Examples
    --------
    .. plot::
       :include-source:

       >>> import snode
       >>> x, y = snode.datasets.two_moons(200, rng=0)
       >>> field = snode.StandaloneField.random(2, 3.0, 20, rng=0)
       >>> result = snode.ncg(field, x, y, snode.Cost(n_classes=2), n_iter=60)
       >>> ax = snode.plot_history(result)
    """
    history = getattr(result, "history", result)
    if isinstance(history, Mapping) and "cost_after" in history:
        return plot_cost(history, ax)
    cost = getattr(history, "cost", None)
    if cost is None or np.ndim(cost) != 1:
        raise TypeError(f"result must be that of train or ncg; got {type(result).__name__}")
    ax = axes_of(ax)
    cost = np.asarray(cost, dtype=float)
    ax.plot(np.arange(len(cost)), cost, "o-", color=COLOURS[0], ms=3, lw=1.2, label="cost E")
    if len(cost) and np.nanmin(cost) > 0:
        ax.set_yscale("log")
    ax.set(xlabel="iteration", ylabel="cost E", title="Cost")
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small")
    return ax


@own_error_state
def plot_images(
    images: Array,
    ax: Any = None,
    *,
    shape: tuple[int, int] | None = None,
    titles: Sequence[str] | None = None,
    n_columns: int = 8,
    vmin: float | None = None,
    vmax: float | None = None,
) -> Any:
    """Show images side by side on one Axes, large values dark.

    Parameters
    ----------
    images : array (n, k)
        One column an image, as in `Dataset.x_train` after `Dataset.decode`.
    ax : matplotlib Axes, optional
        Default: the current ones if they are empty, else new ones.
    shape : (int, int), optional
        Height and width; default a square.
    titles : sequence of str, optional
        One for each image.
    n_columns : int, optional
    vmin, vmax : float, optional
        Values shown white and black; default the smallest and the largest one.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit; names it.

    Examples
    --------
    .. plot::
       :include-source:

       >>> import numpy as np
       >>> import snode
       >>> v, u = np.mgrid[-1:1:16j, -1:1:16j]
       >>> waves = np.stack([np.cos(k * np.hypot(u, v)).ravel() for k in range(1, 13)], axis=1)
       >>> ax = snode.plot_images(waves, titles=[f"k = {k}" for k in range(1, 13)], n_columns=6)
    """
    images = check_points("images", images)
    n, count = images.shape
    if shape is None:
        shape = (round(n**0.5),) * 2
    if len(shape) != 2 or shape[0] * shape[1] != n:
        raise ValueError(f"shape must be (height, width) with {n} pixels; got {shape!r}")
    if titles is not None and len(titles) != count:
        raise ValueError(f"titles must be one for each of {count} images; got {len(titles)}")
    if n_columns < 1:
        raise ValueError(f"n_columns must be positive; got {n_columns!r}")
    ax = axes_of(ax)
    columns = min(n_columns, count)
    rows = -(-count // columns)
    gap = max(1, shape[1] // 10)
    above = gap if titles is None else max(gap, shape[0] // 4)
    height, width = shape[0] + above, shape[1] + gap
    sheet = np.full((rows * height, columns * width - gap), np.nan)
    for k in range(count):
        i, j = (k // columns) * height + above, (k % columns) * width
        sheet[i : i + shape[0], j : j + shape[1]] = images[:, k].reshape(shape)
        if titles is not None:
            ax.text(j + shape[1] / 2, i - 0.8, titles[k], ha="center", va="bottom", fontsize=8)
    ax.imshow(sheet, cmap="Greys", vmin=vmin, vmax=vmax, interpolation="nearest")
    ax.axis("off")
    return ax


@own_error_state
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
    ax = axes_of(ax)
    before, after = np.asarray(history["cost"]), np.asarray(history["cost_after"])
    ax.plot(history["epoch"], before, color=COLOURS[0], lw=0.8, label="before its iterations")
    ax.plot(history["epoch"], after, color=COLOURS[1], lw=0.8, ls="--", label="after")
    if np.nanmin(np.concatenate([before, after])) > 0:
        ax.set_yscale("log")
    ax.set(xlabel="epoch", ylabel="cost E of the minibatch", title="Cost")
    ax.legend(fontsize="small")
    return ax


@own_error_state
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

    Examples
    --------
    .. plot::
       :include-source:

       >>> import numpy as np
       >>> import snode
       >>> evaluations = {"epoch": np.arange(4), "train_accuracy": np.array([0.5, 0.8, 0.93, 0.97]),
       ...                "test_accuracy": np.array([0.5, 0.78, 0.9, 0.92])}
       >>> ax = snode.plot_accuracy(evaluations)
    """
    ax = axes_of(ax)
    for name, style, colour in (("train", "o-", COLOURS[0]), ("test", "s--", COLOURS[1])):
        values = 100 * np.asarray(evaluations[f"{name}_accuracy"])
        if values.size and not np.isnan(values).all():
            ax.plot(evaluations["epoch"], values, style, color=colour, ms=4, label=name)
    low, high = ax.get_ylim()
    margin = max(0.05 * (high - low), 0.5)
    ax.set_ylim(max(low, -margin), min(high, 100 + margin))
    ax.set(xlabel="epoch", ylabel="accuracy (%)", title="Accuracy")
    ax.legend(fontsize="small")
    ax.grid(alpha=0.3)
    return ax


@own_error_state
def plot_weights(field: Any, ax: Any = None, *, n_curves: int = 6) -> Any:
    """Plot the entries of W that vary most, as functions of depth.

    Parameters
    ----------
    field : StandaloneField
        Or a `Classifier` of one.
    ax : matplotlib Axes, optional
        Default: the current ones if they are empty, else new ones.
    n_curves : int, optional

    Returns
    -------
    Axes

    Raises
    ------
    TypeError
        If the weights of the field are not functions of depth.

    Examples
    --------
    .. plot::
       :include-source:

       >>> import snode
       >>> field = snode.StandaloneField.random(5, 3.0, 60, rng=0)
       >>> ax = snode.plot_weights(field)
    """
    if not hasattr(field, "W"):
        raise TypeError(f"field must have weights W in depth; got {type(field).__name__}")
    ax = axes_of(ax)
    W = to_host(field.W)
    flat = W.reshape(len(W), -1)
    most = np.argsort(flat.std(axis=0))[::-1][:n_curves]
    steps = field.interpolation == "constant"
    if steps:  # the last cell, too, ends where the depth ends
        flat = np.concatenate([flat, flat[-1:]])
    t = np.linspace(0.0, field.T, len(flat))
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


@own_error_state
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

    Raises
    ------
    ValueError
        If `counts` is not square, or `classes` has another length.

    Examples
    --------
    .. plot::
       :include-source:

       >>> import numpy as np
       >>> import snode
       >>> counts = np.array([[48, 2, 0], [1, 43, 6], [0, 4, 46]])
       >>> ax = snode.plot_confusion(counts, classes=["setosa", "versicolor", "virginica"])
    """
    counts = np.asarray(to_host(counts) if is_array(counts) else counts)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not counts.size:
        raise ValueError(f"counts must have shape (C, C); got {counts.shape}")
    if classes is not None and len(classes) != len(counts):
        raise ValueError(f"classes must have {len(counts)} names; got {len(classes)}")
    ax = axes_of(ax)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax.imshow(share, cmap="Greys", vmin=0, vmax=1)
    names = range(len(counts)) if classes is None else classes
    names = [name if len(name) <= 12 else name[:11] + "…" for name in map(str, names)]
    step = -(-len(counts) // 40)  # more names than this cannot be read
    turned = 45 if max(map(len, names)) > 4 else 0
    ax.set_xticks(range(0, len(counts), step), names[::step], rotation=turned)
    ax.set_yticks(range(0, len(counts), step), names[::step])
    if len(counts) <= 12:
        size = 10 if len(counts) <= 5 else 6
        for (i, j), count in np.ndenumerate(counts):
            if count:
                colour = "white" if share[i, j] > 0.5 else "black"
                ax.text(j, i, count, ha="center", va="center", fontsize=size, color=colour)
    ax.set(xlabel="predicted class", ylabel="true class", title="Confusion")
    return ax


@own_error_state
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
