"""Figure 11: noisy digits.

Paper 001 (Jaroudi et al., arXiv 2205.13933), appendix C: images with noise of several of the
standard deviations of Figure 3. The figure illustrates; the paper makes no claim about it. Its
images and standard deviations are not available to us.

Chosen here: the first four test images, the standard deviations of our Figure 3 (full ink is 1),
one noise pattern for each image, scaled. The networks get the noisy pixels as they are, the
pictures cut them off below 0 and above 1. Below each picture is what three networks see in it: tanh
with the squared distance, trained by SGD, NCG and NCG with the Sobolev gradient.

    python demos/snode/fig11_noise_examples.py --full
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import common
import numpy as np
from table02_fig03_accuracy_and_noise import STDS
from train_models import TRAINING_NAMES, models

import snode
from snode.plotting import plot_digits

SHOWN = ("sgd", "ncg", "ncg-h1")
COST, ACTIVATION = "l2", "tanh"
N_IMAGES = 4
ZOO: dict[str, Any] = {"trainings": SHOWN, "costs": (COST,), "activations": (ACTIVATION,)}


def run(zoo: Iterable[Any], quick: bool = True, rng: Any = 1) -> dict[str, Any]:
    """Add noise to the images and ask the networks; `quick` changes nothing.

    Returns
    -------
    dict
        ``images[i][k]``: intensities of image i with standard deviation ``stds[k]``;
        ``predicted[training][i][k]``: the class that the first network of that training gives.
    """
    data = snode.datasets.load_mnist()
    x, y = common.some(data.x_test, data.y_test, N_IMAGES)
    stds = np.array([0.0, *STDS])
    noise = np.random.default_rng(rng).standard_normal(x.shape)
    noisy = (x[:, :, None] + noise[:, :, None] * stds).astype(x.dtype)
    columns = noisy.reshape(len(x), -1)
    predicted: dict[str, Any] = {}
    for kind, _, field in zoo:
        wanted = kind.training in SHOWN and (kind.cost, kind.activation) == (COST, ACTIVATION)
        if wanted and kind.training not in predicted:
            labels = snode.predict(field, columns).reshape(N_IMAGES, len(stds))
            predicted[kind.training] = labels.tolist()
    return {
        "stds": stds.tolist(),
        "labels": y.tolist(),
        "images": data.decode(noisy).transpose(1, 2, 0).tolist(),
        "predicted": predicted,
    }


def claims(numbers: dict[str, Any]) -> list[common.Claim]:
    """Return nothing: the paper makes no claim about this figure."""
    return []


def table(numbers: dict[str, Any]) -> str:
    """Return the predictions as text, a line for each image and network."""
    lines = [f"{'':22s}" + "".join(f"{s:>6g}" for s in numbers["stds"])]
    for i, label in enumerate(numbers["labels"]):
        for training in SHOWN:
            cells = "".join(f"{c:6d}" for c in numbers["predicted"][training][i])
            lines.append(f"a {label}, {TRAINING_NAMES[training]:17s}{cells}")
    return "\n".join(lines)


def plot(numbers: dict[str, Any]) -> Any:
    """Draw the noisy images and what the networks see in them."""
    from matplotlib.figure import Figure

    labels, stds = numbers["labels"], numbers["stds"]
    figure = Figure(figsize=(1.35 * len(stds), 1.65 * len(labels) + 0.6), layout="constrained")
    axes = figure.subplots(len(labels), len(stds), squeeze=False)
    for i, row in enumerate(axes):
        titles = [f"std {s:g}" if s else "no noise" for s in stds] if i == 0 else [""] * len(stds)
        plot_digits(np.transpose(numbers["images"][i]), titles, row, (14, 14))
        for k, ax in enumerate(row):
            seen = [numbers["predicted"][training][i][k] for training in SHOWN]
            ax.text(0.5, -0.05, _verdicts(seen, labels[i]), transform=ax.transAxes, ha="center",
                    va="top", fontsize=10)  # fmt: skip
    names = ", ".join(TRAINING_NAMES[training] for training in SHOWN)
    figure.suptitle(
        "Gaussian noise on test images (full ink is 1)\n"
        f"below: the classes that {names} predict, [wrong ones in brackets]",
        fontsize=10,
    )
    return figure


def _verdicts(seen: list[int], label: int) -> str:
    return "  ".join(str(c) if c == label else f"[{c}]" for c in seen)


def recorded(numbers: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers that are kept: no images."""
    return {key: numbers[key] for key in ("stds", "labels", "predicted")}


def main() -> None:
    """Run from the command line."""
    args = common.options(__doc__, "fig11_noise_examples.png")
    zoo = models(args.size, seeds=args.seeds[:1], folder=args.folder, **ZOO)
    numbers = run(zoo, quick=not args.full)
    print(table(numbers))
    print("no claim: the paper's figure illustrates")
    common.finish(args, plot(numbers), recorded(numbers), claims(numbers))


if __name__ == "__main__":
    main()
