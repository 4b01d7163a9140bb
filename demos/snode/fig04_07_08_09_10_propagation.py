"""Figures 4 and 7 to 10: noise on its way through a network, and its prediction.

Paper 001 (Jaroudi et al., arXiv 2205.13933), section 5 and appendix C: Gaussian noise is added to
test images. The sensitivity problem (2), solved along the clean trajectory, predicts the
perturbation |xi(t)|; a second, noisy solution of (1) measures it, |dx(t)|. Figure 4 shows both for
the networks trained with squared distance, figures 7 (SGD) and 8 (NCG) for those trained with cross
entropy, figures 9 (cross entropy) and 10 (squared distance) the relative error of the prediction.
Dashed: with weight decay. The paper claims that the prediction is good; that weight decay makes
NCG-trained networks with tanh less sensitive, and does nothing for SGD-trained ones; that cross
entropy makes SGD-trained networks with ReLU less sensitive, and does nothing for NCG-trained ones.

Known: what is drawn; mean and standard deviation over five test-runs. Not available to us and
chosen here: the noise, of standard deviation 0.01 on every pixel (the pixels' range is 1), not
clipped; the formula of the relative error, | |xi| - |dx| | / |dx|. Mean and standard deviation are
over the first 1000 test images, of all runs (seeds) together; the noise is the same for all
networks of a run. A network's sensitivity is the mean of |dx(T)| / |dx(0)|, with all components of
x(T); the largest mean of |dx(t)| / |dx(0)| over depth is given beside it.

Not in the paper: the size of the noise is varied, in double precision, for the first run. For a
smooth activation the relative error must fall linearly with it; with ReLU the prediction is exact
until some unit changes its sign. The figure named by --out shows that; fig04.png, fig07.png and so
on are written beside it.

    python demos/snode/fig04_07_08_09_10_propagation.py --full --out results/propagation.png
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import common
import numpy as np
import train_models
from train_models import ACTIVATIONS, COST_NAMES, COSTS, TRAINING_NAMES, Kind

import snode

ZOO: dict[str, Any] = {}  # all twenty
STD = 0.01
SIZES = 10.0 ** np.arange(-6, 0.1, 0.5)
FIT = slice(2, 7)  # sizes 1e-5 to 1e-3: above rounding, below curvature
EXACT = 1e-9
SMALL, EFFECT = 0.05, 0.1
EVERY = 5
FAMILIES = {"SGD": ("sgd", "sgd-wd"), "NCG": ("ncg", "ncg-wd", "ncg-h1")}
FIGURES = {
    "fig04": ("l2", ("SGD", "NCG"), "propagation"),
    "fig07": ("ce", ("SGD",), "propagation"),
    "fig08": ("ce", ("NCG",), "propagation"),
    "fig09": ("ce", ("SGD", "NCG"), "error"),
    "fig10": ("l2", ("SGD", "NCG"), "error"),
}
"""Cost, ways of training and what is drawn, for each of the paper's figures."""
CURVES = ("predicted", "measured", "relative_error", "relative_vector_error")


# --- numbers --------------------------------------------------------------------------------------


def run(zoo: Any, quick: bool = True, rng: Any = 1, std: float = STD) -> dict[str, Any]:
    """Send noise of standard deviation `std` through each network, and noise of other sizes."""
    data = snode.datasets.load_mnist()
    x, _ = common.some(data.x_test, data.y_test, 200 if quick else 1000)
    generator = np.random.default_rng(rng)
    noise = {s: generator.standard_normal(x.shape) for s in sorted({s for _, s, _ in zoo})}
    found: dict[str, list[snode.Propagation]] = {}
    sizes: dict[str, Any] = {}
    for kind, seed, field in zoo:
        dx = (std * noise[seed]).astype(x.dtype)
        found.setdefault(kind.name, []).append(snode.propagate(field, x, dx))
        if kind.name not in sizes:
            few = 50 if quick else 200
            sizes[kind.name] = _sizes(field, x[:, :few], noise[seed][:, :few])
    return {
        "samples": x.shape[1], "runs": len(noise), "std": std, "sizes": SIZES.tolist(),
        "networks": {
            name: {"kind": _kind(name), **_summary(runs), **sizes[name]}
            for name, runs in found.items()
        },
    }  # fmt: skip


def _kind(name: str) -> dict[str, str]:
    activation, cost, training = name.split("-", 2)
    return {"cost": cost, "activation": activation, "training": training}


def _summary(runs: list[snode.Propagation]) -> dict[str, Any]:
    """Return curves along depth and the growth from 0 to T, over the samples of all runs."""
    pooled = {c: np.concatenate([getattr(p, c) for p in runs], axis=1) for c in CURVES}
    gain = [p.measured[-1] / p.measured[0] for p in runs]
    predicted = [p.predicted[-1] / p.predicted[0] for p in runs]
    return {
        "t": runs[0].t[::EVERY].tolist(),
        "depth": {
            c: {"mean": _short(v.mean(axis=1)[::EVERY]), "std": _short(v.std(axis=1)[::EVERY])}
            for c, v in pooled.items()
        },
        "worst": {c: float(pooled[c].mean(axis=1).max()) for c in CURVES[2:]},
        "peak": float((pooled["measured"] / pooled["measured"][0]).mean(axis=1).max()),
        "gain": _spread(gain),
        "predicted_gain": _spread(predicted),
    }


def _spread(runs: list[Any]) -> dict[str, Any]:
    mean, std = common.mean_std(np.concatenate(runs))
    return {"mean": mean, "std": std, "runs": [float(r.mean()) for r in runs]}


def _short(values: Any) -> list[float]:
    return [float(f"{v:.4g}") for v in values]


def _sizes(field: Any, x: Any, noise: Any) -> dict[str, Any]:
    """Return the relative errors at T for noise of all `SIZES`, in double precision."""
    double = field.with_parameters(**{k: np.float64(p) for k, p in field.parameters.items()})
    x = np.ascontiguousarray(x, dtype=np.float64)
    results = [snode.propagate(double, x, size * noise) for size in SIZES]
    errors = {c: [float(getattr(p.mean, c)[-1]) for p in results] for c in CURVES[2:]}
    return {
        "by_size": errors,
        "slope": {c: _slope(e) for c, e in errors.items()},
        "exact": [float((p.relative_vector_error[-1] < EXACT).mean()) for p in results],
    }


def _slope(errors: list[float]) -> float:
    """Return the order at which the error falls with the size of the noise."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.polyfit(np.log10(SIZES[FIT]), np.log10(errors[FIT]), 1)[0])


# --- claims ---------------------------------------------------------------------------------------


def claims(numbers: dict[str, Any]) -> list[common.Claim]:
    """Return the paper's claims, whether these numbers agree, and the numbers."""
    return [*_prediction(numbers), *_decay(numbers), *_cost(numbers), _order(numbers)]


def _prediction(numbers: dict[str, Any]) -> Iterator[common.Claim]:
    for cost, figure in (("ce", 9), ("l2", 10)):
        worst = {
            name: network["worst"]["relative_error"]
            for name, network in numbers["networks"].items()
            if network["kind"]["cost"] == cost
        }
        name = max(worst, key=lambda n: worst[n])
        yield (
            f"the sensitivity problem predicts the noise well, {COST_NAMES[cost]}, figure {figure} "
            f"(here: mean relative error at most {SMALL:.0%} at all depths, all networks)",
            worst[name] <= SMALL,
            f"at most {worst[name]:.2%}, {name}",
        )
    off = {
        name: abs(network["predicted_gain"]["mean"] / network["gain"]["mean"] - 1)
        for name, network in numbers["networks"].items()
    }
    name = max(off, key=lambda n: off[n])
    yield (
        "it measures a network's sensitivity without noisy inference (here: predicted and measured "
        f"mean growth differ by at most {SMALL:.0%}, all networks)",
        off[name] <= SMALL,
        f"at most {off[name]:.2%}, {name}",
    )


def _decay(numbers: dict[str, Any]) -> Iterator[common.Claim]:
    for cost in ("l2", "ce"):
        ratio, text = _ratio(numbers, (f"tanh-{cost}-ncg-wd", f"tanh-{cost}-ncg"))
        yield (
            f"weight decay lowers the sensitivity of NCG with tanh, {COST_NAMES[cost]} "
            f"(here: by more than {EFFECT:.0%})",
            ratio < 1 - EFFECT,
            text,
        )
    for cost in ("l2", "ce"):
        pairs = [_ratio(numbers, (f"{a}-{cost}-sgd-wd", f"{a}-{cost}-sgd")) for a in ACTIVATIONS]
        yield (
            f"weight decay has no effect on the sensitivity of SGD, {COST_NAMES[cost]} "
            f"(here: at most {EFFECT:.0%}, both activations)",
            all(abs(ratio - 1) <= EFFECT for ratio, _ in pairs),
            "; ".join(text for _, text in pairs),
        )


def _cost(numbers: dict[str, Any]) -> Iterator[common.Claim]:
    pairs = [_ratio(numbers, (f"relu-ce-{t}", f"relu-l2-{t}")) for t in FAMILIES["SGD"]]
    yield (
        "cross entropy makes SGD with ReLU less sensitive than squared distance "
        f"(here: by more than {EFFECT:.0%}, without and with weight decay)",
        all(ratio < 1 - EFFECT for ratio, _ in pairs),
        "; ".join(text for _, text in pairs),
    )
    pairs = [
        _ratio(numbers, (f"{a}-ce-{t}", f"{a}-l2-{t}"))
        for a in ACTIVATIONS
        for t in FAMILIES["NCG"]
    ]
    yield (
        "the cost has no significant effect on the sensitivity of NCG "
        f"(here: at most {EFFECT:.0%}, all six)",
        all(abs(ratio - 1) <= EFFECT for ratio, _ in pairs),
        "; ".join(text for _, text in pairs),
    )


def _order(numbers: dict[str, Any]) -> common.Claim:
    slopes = [
        slope
        for network in numbers["networks"].values()
        if network["kind"]["activation"] == "tanh"
        for slope in network["slope"].values()
    ]
    return (
        "not in the paper: with tanh the relative errors fall linearly with the noise "
        "(slope 1 +- 0.1, all networks)",
        all(abs(slope - 1) <= 0.1 for slope in slopes),
        f"slopes {min(slopes):.3f} to {max(slopes):.3f}",
    )


def _ratio(numbers: dict[str, Any], names: tuple[str, str]) -> tuple[float, str]:
    """Return how much more sensitive the first network is than the second, and both in words."""
    first, second = (numbers["networks"][name] for name in names)
    text = ", ".join(f"{name} {_words(numbers['networks'][name])}" for name in names)
    return first["gain"]["mean"] / second["gain"]["mean"], text


def _words(network: dict[str, Any]) -> str:
    """Return the mean growth, how much that of several runs varies, and the largest over depth."""
    runs = network["gain"]["runs"]
    between = f" +- {np.std(runs):.3f}" if len(runs) > 1 else ""
    return f"{network['gain']['mean']:.3f}{between} (largest {network['peak']:.3f})"


# --- figures --------------------------------------------------------------------------------------


def plot(numbers: dict[str, Any], which: str = "sizes") -> Any:
    """Draw one of the paper's `FIGURES`, or "sizes": the error against the size of the noise."""
    from matplotlib.figure import Figure

    if which == "sizes":
        return _plot_sizes(numbers, Figure(figsize=(9, 7), layout="constrained"))
    cost, families, what = FIGURES[which]
    figure = Figure(figsize=(9, 0.9 + 3.1 * len(families)), layout="constrained")
    sharey: Any = "row" if what == "propagation" else False  # errors differ a hundredfold
    panels = figure.subplots(len(families), 2, squeeze=False, sharex=True, sharey=sharey)
    draw = _draw_propagation if what == "propagation" else _draw_error
    for row, family in zip(panels, families, strict=True):
        for ax, activation in zip(row, ACTIVATIONS, strict=True):
            for training in FAMILIES[family]:
                kind = Kind(cost, activation, training)
                draw(ax, numbers["networks"][kind.name], training)
            ax.set_title(f"{family}, {common.heading(kind)}", fontsize="medium")
            ax.grid(alpha=0.3)
            ax.set_ylim(bottom=0)
            ax.legend(fontsize="small", loc="lower left" if what == "propagation" else "upper left")
        row[0].set_ylabel("|ξ(t)|, |δx(t)|" if what == "propagation" else "relative error in %")
    for ax in panels[-1]:
        ax.set_xlabel("depth t")
    figure.suptitle(_title(numbers, what), fontsize="medium")
    return figure


def _title(numbers: dict[str, Any], what: str) -> str:
    noise = f"noise of std {numbers['std']:g} (pixel range 1)"
    runs = f", {numbers['runs']} runs" if numbers["runs"] > 1 else ""
    over = f"{numbers['samples']} test images{runs}"
    if what == "propagation":
        return (
            f"Propagation of {noise}; mean ± std over {over}\n"
            "lines and bands: |ξ| predicted; marks and bars: |δx| measured"
        )
    return f"Relative error of the predicted size, {noise}\n(mean and, as band, std over {over})"


def _draw_propagation(ax: Any, network: dict[str, Any], training: str) -> None:
    style, t = dict(common.STYLES[training]), np.asarray(network["t"])
    mean, std = (np.asarray(network["depth"]["predicted"][k]) for k in ("mean", "std"))
    marker = {k: style.pop(k) for k in ("marker", "markerfacecolor") if k in style}
    ax.plot(t, mean, **style)
    ax.fill_between(t, mean - std, mean + std, color=style["color"], alpha=0.1, linewidth=0)
    order = list(common.STYLES).index(training)
    some = slice(order % 3, None, max(len(t) // 8, 1))
    measured = {k: np.asarray(v)[some] for k, v in network["depth"]["measured"].items()}
    ax.errorbar(
        t[some], measured["mean"], measured["std"], color=style["color"], **marker,
        linestyle="none", markersize=4.5, capsize=2, elinewidth=0.8,
    )  # fmt: skip
    ax.plot([], [], **common.STYLES[training], markersize=4.5, label=TRAINING_NAMES[training])
    ax.margins(y=0.12)


def _draw_error(ax: Any, network: dict[str, Any], training: str) -> None:
    style, t = common.STYLES[training], np.asarray(network["t"])
    error = network["depth"]["relative_error"]
    mean, std = (100 * np.asarray(error[k]) for k in ("mean", "std"))
    ax.plot(t, mean, **style, markersize=4, markevery=0.12, label=TRAINING_NAMES[training])
    ax.fill_between(
        t, np.maximum(mean - std, 0), mean + std, color=style["color"], alpha=0.1, linewidth=0
    )


def _plot_sizes(numbers: dict[str, Any], figure: Any) -> Any:
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    sizes = np.asarray(numbers["sizes"])
    for row, cost in zip(panels, COSTS, strict=True):
        for ax, activation in zip(row, ACTIVATIONS, strict=True):
            kinds = [Kind(cost, activation, training) for training in common.STYLES]
            networks = [numbers["networks"][kind.name] for kind in kinds]
            for kind, network in zip(kinds, networks, strict=True):
                slope = network["slope"]["relative_vector_error"]
                ax.loglog(
                    sizes, network["by_size"]["relative_vector_error"],
                    **common.STYLES[kind.training], markersize=4,
                    label=f"{TRAINING_NAMES[kind.training]}, slope {slope:.2f}",
                )  # fmt: skip
            ax.loglog(sizes, sizes, ":", color="grey", linewidth=2, label="slope 1")
            exact = np.mean([network["exact"][FIT.start] for network in networks])
            ax.set_title(
                f"{common.heading(kinds[0])}: {exact:.0%} exact at {sizes[FIT.start]:.0e}",
                fontsize="medium",
            )
            ax.set_ylim(1e-9, 3)
            ax.grid(alpha=0.3)
            ax.legend(fontsize="small", loc="lower right")
        row[0].set_ylabel("relative error |ξ(T) - δx(T)| / |δx(T)|")
    for ax in panels[-1]:
        ax.set_xlabel("std of the noise (pixel range 1)")
    figure.suptitle(
        "Error of the prediction against the size of the noise (mean over images;\n"
        f"slopes from {sizes[FIT][0]:.0e} to {sizes[FIT][-1]:.0e}; exact: error below {EXACT:.0e})",
        fontsize="medium",
    )
    return figure


# --- command line ---------------------------------------------------------------------------------


def print_table(numbers: dict[str, Any]) -> None:
    """Print a line for each network."""
    print(f"noise of std {numbers['std']:g}, {numbers['samples']} images, {numbers['runs']} run(s)")
    print(
        f"{'network':16s} |dx(T)|/|dx(0)|        largest  predicted  error, vector   slope   exact"
    )
    for name, network in numbers["networks"].items():
        gain, worst = network["gain"], network["worst"]
        print(
            f"{name:16s} {gain['mean']:7.3f} +- {gain['std']:.3f}"
            f"  {network['peak']:14.3f}  {network['predicted_gain']['mean']:9.3f}"
            f"  {worst['relative_error']:7.2%}, {worst['relative_vector_error']:6.2%}"
            f"  {network['slope']['relative_vector_error']:6.3f}"
            f"  {network['exact'][FIT.start]:6.1%}"
        )


def main() -> None:
    """Run from the command line."""

    def change(parser: Any) -> None:
        parser.add_argument(
            "--std", type=float, default=STD, help="standard deviation of the noise"
        )

    args = common.options(__doc__, "propagation.png", change)
    zoo = list(train_models.models(args.size, seeds=args.seeds, folder=args.folder))
    numbers = run(zoo, quick=args.size == "quick", std=args.std)
    print_table(numbers)
    figures = {args.out.stem: plot(numbers), **{w: plot(numbers, w) for w in FIGURES}}
    common.finish(args, figures, numbers, claims(numbers))


if __name__ == "__main__":
    main()
