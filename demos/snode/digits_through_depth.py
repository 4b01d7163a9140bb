"""Digits on their way through a network.

Paper 001 (Jaroudi et al., arXiv 2205.13933) writes a whole network as x' = sigma(W(t) x + b(t)):
an image is the initial value, the class is read off the first ten components of x(T). The paper
has no such figure; this one shows what its equation (1) does to digits after training with
nonlinear conjugate gradients on 14x14 MNIST (known: T = 3, 150 layers, batch 100, 6 iterations a
batch; chosen here: relu, squared distance, L2 gradient, Fletcher-Reeves, 0.25 epoch, seed 1).

    python demos/snode/digits_through_depth.py --full --out figure.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import snode
from snode.plotting import plot_accuracy

DIGITS = (7, 2, 1, 0)  # the first test images of these classes
DEPTHS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)


def run(quick: bool = True, rng: Any = 1) -> dict[str, Any]:
    """Train, then follow a few test digits; return the numbers of the figure."""
    data = snode.datasets.load_mnist()
    generator = np.random.default_rng(rng)
    field = snode.StandaloneField.random(
        196, 3.0, 150, activation="relu", rng=generator, dtype="float32"
    )
    result = snode.train(
        field,
        data,
        snode.Cost(l2=1.0),
        epochs=0.02 if quick else 0.25,
        rng=generator,
        eval_every=0.01 if quick else 0.025,
        eval_samples=1000 if quick else 10_000,
    )
    picked = [int(np.flatnonzero(data.y_test == digit)[0]) for digit in DIGITS]
    sol = snode.solve_direct(result.field, np.ascontiguousarray(data.x_test[:, picked]))
    return {
        "evaluations": result.evaluations,
        "cost": result.history["cost"],
        "cost_after": result.history["cost_after"],
        "t": sol.t,
        "x": sol.x,
        "labels": data.y_test[picked],
        "predicted": snode.predict(result.field, data.x_test[:, picked]),
    }


def plot(numbers: dict[str, Any]) -> Any:
    """Draw the states of the digits along depth, the class components of one, and accuracy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1))
    _plot_states(left, numbers)
    components, accuracy = right.subplots(2, 1)
    _plot_components(components, numbers)
    plot_accuracy(numbers["evaluations"], accuracy)
    accuracy.set_title("14x14 MNIST, trained by conjugate gradients")
    return figure


def _plot_states(part: Any, numbers: dict[str, Any]) -> None:
    axes = part.subplots(len(DIGITS), len(DEPTHS))
    for k, row in enumerate(axes):
        for t, ax in zip(DEPTHS, row, strict=True):
            i = int(np.argmin(np.abs(numbers["t"] - t)))
            image = ax.imshow(numbers["x"][i, :, k].reshape(14, 14), cmap="gray", vmin=-1, vmax=1)
            ax.set(xticks=[], yticks=[])
            if k == 0:
                ax.set_title(f"t = {t:g}", fontsize=9)
        row[0].set_ylabel(f"“{numbers['labels'][k]}”", rotation=0, labelpad=14, fontsize=11)
        row[-1].yaxis.set_label_position("right")
        row[-1].set_ylabel(f"→ {numbers['predicted'][k]}", rotation=0, labelpad=16, fontsize=11)
    part.colorbar(image, ax=axes, orientation="horizontal", label="state $x(t)$, 196 components",
                  shrink=0.5, aspect=40, pad=0.02)  # fmt: skip
    part.suptitle(
        "One ODE: the image is x(0); the class is the brightest\n"
        "of the first ten pixels (top row) of x(3)",
        fontsize=9,
    )


def _plot_components(ax: Any, numbers: dict[str, Any]) -> None:
    label = int(numbers["labels"][0])
    for c in range(10):
        own = c == label
        ax.plot(
            numbers["t"], numbers["x"][:, c, 0],
            color="#b3446c" if own else "0.6", lw=2 if own else 0.9, zorder=2 + own,
            label=f"component {c}" if own else "the other nine" if c == (label == 0) else None,
        )  # fmt: skip
    ax.set(
        xlabel="depth t", ylabel="state", title=f"Class components of the first digit (a {label})"
    )
    ax.legend(fontsize="small", loc="upper left")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--quick", action="store_true", help="a few seconds (the default)")
    group.add_argument("--full", action="store_true", help="the figure of the README, a minute")
    parser.add_argument(
        "--out", type=Path, default=Path("digits_through_depth.png"), help="figure to write"
    )
    args = parser.parse_args()
    args.out = args.out.with_suffix(args.out.suffix or ".png")
    numbers = run(quick=not args.full)
    plot(numbers).savefig(args.out, dpi=110)
    print(f"test accuracy {numbers['evaluations']['test_accuracy'][-1]:.4f}; wrote {args.out}")


if __name__ == "__main__":
    main()
