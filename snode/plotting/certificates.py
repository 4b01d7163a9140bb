"""Figures of attacks and certificates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from snode.backend import own_error_state, to_host
from snode.plotting.canvas import COLOURS, axes_of

__all__ = [
    "plot_certified", "plot_growth", "plot_propagation", "plot_success", "plot_trajectory_gap",
]  # fmt: skip

_KIND = {"flow": "flow", "euler": "explicit Euler"}


@own_error_state
def plot_success(result: Any, ax: Any = None, *, norm: str = "2", label: str = "") -> Any:
    """Plot the share of fooled samples against the size of the perturbation.

    Parameters
    ----------
    result : AttackResult
    ax : matplotlib Axes, optional
        Default: the current ones if they are empty, else new ones.
    norm : {"2", "inf"}, optional
    label : str, optional
        Default: the name of the attack.

    Returns
    -------
    Axes

    Examples
    --------
    .. plot::
       :include-source:

       >>> import numpy as np
       >>> import snode
       >>> rng = np.random.default_rng(0)
       >>> W = rng.standard_normal((6, 3, 3)) - 0.4 * np.eye(3)
       >>> body = snode.StandaloneField(W, np.zeros((6, 3)), 1.0, activation="leaky_tanh")
       >>> field = snode.Classifier.random(body, 3, rng=1)
       >>> x = rng.standard_normal((3, 60))
       >>> y = snode.predict(field, x)
       >>> ax = snode.plot_success(snode.deepfool(field, x, y, box=(-20.0, 20.0)))
    """
    ax = axes_of(ax)
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


@own_error_state
def plot_propagation(result: Any, ax: Any = None) -> Any:
    """Plot the predicted and the measured size of a perturbation along depth.

    Parameters
    ----------
    result : Propagation
    ax : matplotlib Axes, optional
        Default: the current ones if they are empty, else new ones.

    Returns
    -------
    Axes

    Examples
    --------
    .. plot::
       :include-source:

       >>> import numpy as np
       >>> import snode
       >>> rng = np.random.default_rng(0)
       >>> W = rng.standard_normal((6, 3, 3)) - 0.4 * np.eye(3)
       >>> body = snode.StandaloneField(W, np.zeros((6, 3)), 1.0, activation="leaky_tanh")
       >>> field = snode.Classifier.random(body, 3, rng=1)
       >>> x, dx = rng.standard_normal((2, 3, 60))
       >>> ax = snode.plot_propagation(snode.propagate(field, x, 0.1 * dx))
    """
    ax = axes_of(ax)
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


@own_error_state
def plot_trajectory_gap(result: Any, ax: Any = None, *, n_curves: int = 30) -> Any:
    """Plot the distance of pairs of trajectories along depth, below its certified bound.

    Parameters
    ----------
    result : TrajectoryGap
    ax : matplotlib Axes, optional
        Default: the current ones if they are empty, else new ones.
    n_curves : int, optional
        Pairs drawn one by one, the first ones; the largest distance is that of all pairs.

    Returns
    -------
    Axes
        Logarithmic in distances that are more than tenfold apart; where the bound overflows it is
        not drawn.

    Examples
    --------
    .. plot::
       :include-source:

       >>> import numpy as np
       >>> import snode
       >>> rng = np.random.default_rng(0)
       >>> W = rng.standard_normal((6, 3, 3)) - 0.4 * np.eye(3)
       >>> body = snode.StandaloneField(W, np.zeros((6, 3)), 1.0, activation="leaky_tanh")
       >>> field = snode.Classifier.random(body, 3, rng=1)
       >>> u, v = rng.standard_normal((2, 3, 40))
       >>> ax = snode.plot_trajectory_gap(snode.trajectory_gap(field, u, v))
    """
    ax = axes_of(ax)
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


@own_error_state
def plot_growth(result: Any, ax: Any = None) -> Any:
    """Plot the bounds of the rate at which trajectories part, along depth.

    Parameters
    ----------
    result : GrowthBound or sequence of GrowthBound
        Two at most: of the flow, of Euler's method.
    ax : matplotlib Axes, optional
        Default: the current ones if they are empty, else new ones.

    Returns
    -------
    Axes
        Upper bounds, and what the slopes that were found give where they are known.

    Examples
    --------
    .. plot::
       :include-source:

       >>> import numpy as np
       >>> import snode
       >>> rng = np.random.default_rng(0)
       >>> W = rng.standard_normal((6, 3, 3)) - 0.4 * np.eye(3)
       >>> body = snode.StandaloneField(W, np.zeros((6, 3)), 1.0, activation="leaky_tanh")
       >>> field = snode.Classifier.random(body, 3, rng=1)
       >>> ax = snode.plot_growth([snode.growth_bound(field, kind=k) for k in ("flow", "euler")])
    """
    ax = axes_of(ax)
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


@own_error_state
def plot_certified(result: Any, ax: Any = None, *, attack: Any = None) -> Any:
    """Plot the certified accuracy against the size of the perturbation.

    Parameters
    ----------
    result : CertifiedRadius
    ax : matplotlib Axes, optional
        Default: the current ones if they are empty, else new ones.
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

    Examples
    --------
    .. plot::
       :include-source:

       >>> import numpy as np
       >>> import snode
       >>> rng = np.random.default_rng(0)
       >>> W = rng.standard_normal((6, 3, 3)) - 0.4 * np.eye(3)
       >>> body = snode.StandaloneField(W, np.zeros((6, 3)), 1.0, activation="leaky_tanh")
       >>> field = snode.Classifier.random(body, 3, rng=1)
       >>> x = rng.standard_normal((3, 60))
       >>> y = snode.predict(field, x)
       >>> certified = snode.certified_radius(field, x, y)
       >>> attack = snode.deepfool(field, x, y, box=(-20.0, 20.0))
       >>> ax = snode.plot_certified(certified, attack=attack)
    """
    ax = axes_of(ax)
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
