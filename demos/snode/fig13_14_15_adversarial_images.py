"""Figures 13 to 15: adversarial images and their perturbations.

Paper 001 (Jaroudi et al., arXiv 2205.13933), appendix D: Figure 13 shows one test image that can be
fooled in networks trained by SGD, NCG and Sobolev NCG with perturbations of similar size, Figures
14 and 15 examples for an SGD and a Sobolev network. Which images and which networks is not
available to us; here the networks are tanh with the squared distance, the image of Figure 13 is the
one, of those that the sensitivity attack, PGD and CW fool in all three networks, whose
perturbations are most alike in size (of the half with the larger ones, which can be seen, and if
possible of those that the targeted attack fools, too), and
Figures 14 and 15 show such images of three digits.

The outputs are the first ten components of the state, so the pixels 0 to 9 of the top row lead
straight to them: that is where single pixels are changed most.

    python demos/snode/fig13_14_15_adversarial_images.py --full
"""

from __future__ import annotations

from typing import Any

import common
import numpy as np
import train_models

import snode

TRAININGS = ("sgd", "ncg", "ncg-h1")
OPTIONS: dict[str, Any] = {"box": (-1.0, 0.0), "n_classes": 10}
COST, ACTIVATION = "l2", "tanh"
ZOO: dict[str, Any] = {"trainings": TRAININGS, "costs": (COST,), "activations": (ACTIVATION,)}
DARKEST = 0.25
"""Change of a pixel that has the strongest colour."""


def attacks(field: Any, x: Any, y: Any) -> dict[str, Any]:
    """Attack one network in five ways, each with the budget of the paper's attack."""
    target = (y + 1) % 10  # "targeted": towards the next digit
    ball = {"eps": 0.9, "norm": "2", "cost": "ce", **OPTIONS}
    return {
        "moving target": snode.sensitivity_attack(field, x, y, **OPTIONS),
        "targeted": snode.sensitivity_attack(field, x, y, target=target, **OPTIONS),
        "PGD": snode.pgd(field, x, y, step=0.03, n_iter=30, random_start=False, **ball),
        "FGM": snode.fgsm(field, x, y, **ball),
        "CW": snode.carlini_wagner(field, x, y, n_search=4, n_iter=50, **OPTIONS),
    }


def run(zoo: list[Any], quick: bool = True, rng: Any = 1, n: int | None = None) -> dict[str, Any]:
    """Attack the three networks and choose images."""
    data = snode.datasets.load_mnist()
    x, y = common.some(data.x_test, data.y_test, n or (40 if quick else 200))
    found = {
        kind.training: attacks(field, x, y)
        for kind, _, field in reversed(zoo)  # the first seed of each kind
        if kind.training in TRAININGS and (kind.cost, kind.activation) == (COST, ACTIVATION)
    }
    usable = np.all([_fooled(r) for r in found.values()], axis=0)
    sizes = np.array([found[t]["moving target"].norm2 for t in TRAININGS])
    large = sizes.mean(axis=0) >= (np.median(sizes.mean(axis=0)[usable]) if usable.any() else 0)
    spread = sizes.max(axis=0) / np.maximum(sizes.min(axis=0), 1e-9)
    best = usable & large
    if (best & _all_five(found)).any():  # the targeted attack, too
        best &= _all_five(found)
    spread = np.where(best, spread, np.inf)
    order = np.flatnonzero(usable)
    firsts = [int(order[y[order] == c][0]) for c in np.unique(y[order])]
    return {
        "x": x, "y": y, "found": found, "usable": int(usable.sum()),
        "common": int(np.argmin(spread)), "examples": firsts[:3],
        "peak": {t: _peak(r["moving target"]) for t, r in found.items()},
        "mean_norm2": {t: {a: _size(r) for a, r in f.items()} for t, f in found.items()},
        "targeted_too": int(_all_five(found).sum()),
        "alike": _alike(found),
    }  # fmt: skip


def _fooled(results: dict[str, Any]) -> Any:
    """Return which images are right to begin with and fooled by the untargeted attacks."""
    ours = [results[a] for a in ("moving target", "PGD", "CW")]
    return np.all([r.success & ~r.skipped for r in ours], axis=0)


def _all_five(found: dict[str, Any]) -> Any:
    """Return which images every attack fools in every network, the targeted one included."""
    every = [r for results in found.values() for r in results.values()]
    return np.all([r.success & ~r.skipped for r in every], axis=0)


def _peak(result: Any) -> float:
    """Return how much of a perturbation is its largest pixel: mean |delta|_inf / |delta|_2."""
    fooled = result.success & ~result.skipped
    return float(np.mean(result.norminf[fooled] / result.norm2[fooled])) if fooled.any() else np.nan


def _size(result: Any) -> float:
    fooled = result.success & ~result.skipped
    return float(result.norm2[fooled].mean()) if fooled.any() else np.nan


def _alike(found: dict[str, Any]) -> float:
    """Return the mean cosine between the perturbations of one image in different networks."""
    deltas = [found[t]["moving target"].delta for t in TRAININGS]
    units = [d / np.maximum(np.linalg.norm(d, axis=0), 1e-12) for d in deltas]
    moved = np.all([np.linalg.norm(d, axis=0) > 0 for d in deltas], axis=0)
    pairs = [(units[i] * units[j]).sum(axis=0)[moved] for i in range(3) for j in range(i)]
    return float(np.mean(pairs))


def claims(numbers: dict[str, Any]) -> list[common.Claim]:
    """Return the paper's claims and whether these numbers agree."""
    peak, size = numbers["peak"], numbers["mean_norm2"]
    return [
        ("an image exists that untargeted and targeted attacks and PGD fool in all three networks",
         numbers["targeted_too"] > 0,
         f"{numbers['targeted_too']} of {len(numbers['y'])} images, the target being the next "
         f"digit; {numbers['usable']} without the targeted attack"),
        ("how a network was trained decides the form of the perturbation (mean cosine below 0.7)",
         numbers["alike"] < 0.7, f"cosine {numbers['alike']:.2f}"),
        ("an SGD network is attacked through single pixels more than NCG and Sobolev networks "
         "(by more than 0.05)", peak["sgd"] > max(peak["ncg"], peak["ncg-h1"]) + 0.05,
         f"|delta|_inf / |delta|_2: SGD {peak['sgd']:.3f}, NCG {peak['ncg']:.3f}, "
         f"Sobolev {peak['ncg-h1']:.3f}"),
        ("CW uses larger perturbations than the sensitivity attack",
         all(size[t]["CW"] > size[t]["moving target"] for t in TRAININGS),
         ", ".join(f"{t} {size[t]['CW']:.3f} / {size[t]['moving target']:.3f}" for t in TRAININGS)),
    ]  # fmt: skip


def plot(numbers: dict[str, Any]) -> dict[str, Any]:
    """Draw the three figures."""
    k = numbers["common"]
    names = train_models.TRAINING_NAMES
    rows = [(f"{names[t]}\nlabel {numbers['y'][k]}", t, k) for t in TRAININGS]
    figures = {"fig13_adversarial": _draw(numbers, rows, "One image, three networks")}
    for name, training in (("fig14_adversarial_sgd", "sgd"), ("fig15_adversarial_h1", "ncg-h1")):
        rows = [(f"label {numbers['y'][i]}", training, i) for i in numbers["examples"]]
        figures[name] = _draw(numbers, rows, f"{names[training]} network")
    return figures


def _draw(numbers: dict[str, Any], rows: list[tuple[str, str, int]], title: str) -> Any:
    """Draw two lines for each row: the images, and below each the change of its pixels."""
    from matplotlib.figure import Figure

    names = list(numbers["found"]["sgd"])
    figure = Figure(figsize=(10, 3.1 * len(rows) + 0.6), layout="constrained")
    axes = figure.subplots(2 * len(rows), len(names) + 1, squeeze=False)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    for r, (label, training, i) in enumerate(rows):
        images, deltas = axes[2 * r], axes[2 * r + 1]
        _image(images[0], numbers["x"][:, i], "original")
        images[0].set_ylabel(label)
        deltas[0].axis("off")
        for ax, below, name in zip(images[1:], deltas[1:], names, strict=True):
            result = numbers["found"][training][name]
            verdict = f"as {result.label[i]}" if result.success[i] else "not fooled"
            _image(ax, result.x_adv[:, i], f"{name}: {verdict}")
            change = -result.delta[:, i].reshape(14, 14)  # ink is negative: positive is more ink
            shown = below.imshow(change, cmap="PuOr", vmin=-DARKEST, vmax=DARKEST)
            below.set_xlabel(rf"$|\delta|_2$ = {result.norm2[i]:.2f}", fontsize=8)
    figure.colorbar(
        shown, ax=axes, shrink=0.5, extend="both", label="change of the ink (full ink is 1)"
    )
    figure.suptitle(title)
    return figure


def _image(ax: Any, x: Any, title: str) -> None:
    ax.imshow(-x.reshape(14, 14), cmap="Greys", vmin=0, vmax=1)
    ax.set_title(title, fontsize=8, pad=2)


def recorded(numbers: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers that are kept: no images, no attacks."""
    keep = ("usable", "targeted_too", "common", "examples", "peak", "mean_norm2", "alike")
    return {key: numbers[key] for key in keep}


def main() -> None:
    """Run from the command line."""
    args = common.options(__doc__, "fig13_14_15_adversarial_images.png")
    zoo = list(train_models.models(args.size, seeds=args.seeds[:1], folder=args.folder, **ZOO))
    numbers = run(zoo, quick=not args.full)
    common.finish(args, plot(numbers), recorded(numbers), claims(numbers))


if __name__ == "__main__":
    main()
