"""Draw the figures of the documentation into ``docs/_static``: ``python docs/figures.py``.

Toy data and the quick versions of the lessons, half a minute. Colours differ in lightness, markers
and line styles differ as well, so the figures can be read in greyscale.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import snode

FOLDER = Path(__file__).parent / "_static"
LESSONS = (
    "order_of_convergence", "stability_regions", "step_control_van_der_pol",
    "adjoint_by_hand_one_neuron", "dissipative_adjoint",
)  # fmt: skip
DARK, RED, LIGHT = "#1b1b3a", "#b3446c", "#e0a030"


def moons_through_depth() -> Any:
    """Two moons at five depths of a trained field."""
    x, y = snode.datasets.two_moons(400, noise=0.1, rng=0)
    field = snode.StandaloneField.random(2, 3.0, 60, rng=0)
    result = snode.train(field, (x, y), inner="h1", epochs=15, batch_size=100, rng=0)
    sol = snode.solve_direct(result.field, x, keep="trajectory")

    figure, axes = plt.subplots(
        1, 5, figsize=(9, 2.7), sharex=True, sharey=True, layout="constrained"
    )
    for ax, i in zip(axes, (0, 15, 30, 45, 60), strict=True):
        for c, (marker, colour) in enumerate((("o", DARK), ("^", LIGHT))):
            ax.plot(*sol.x[i][:, y == c], marker, color=colour, ms=3, label=f"class {c}")
        ax.plot([1, 0], [0, 1], "x", color=RED, ms=9, mew=2, label="targets")
        ax.set(title=f"depth t = {sol.t[i]:.2f}", xlabel="$x_0$", aspect="equal")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("$x_1$")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def sobolev_gradient() -> Any:
    """A gradient in L2 and in H1, and the weight that training in either metric makes of it."""
    x, y = snode.datasets.two_moons(200, rng=0)
    x = x - 3.0  # with relu the state only grows, so the inputs start below the targets
    field = snode.StandaloneField.random(2, 3.0, 60, activation="relu", rng=0)
    cost = snode.Cost(n_classes=2)
    t = field.grid[:-1]

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.3), layout="constrained")
    right.step(t, field.W[:, 0, 1], ":", where="post", color="0.5", label="start")
    for inner, style, colour in (("l2", "-", RED), ("h1", "--", DARK)):
        label = {"l2": "$L^2$", "h1": "$H^1$, length 1"}[inner]
        _, g = snode.gradient(field, x, y, cost, inner=inner)
        left.step(t, g["W"][:, 0, 1], style, where="post", color=colour, label=label)
        trained = snode.train(field, (x, y), cost, inner=inner, epochs=5, batch_size=50, rng=0)
        W = trained.field.W
        right.step(t, W[:, 0, 1], style, where="post", color=colour, label=label)
    left.set(xlabel="depth t", ylabel="gradient, entry (0, 1)", title="Gradient at the start")
    right.set(xlabel="depth t", ylabel="weight $W_{01}(t)$", title="Weight after 5 epochs")
    for ax in (left, right):
        ax.legend(fontsize="small")
        ax.grid(alpha=0.3)
    return figure


def lesson(name: str) -> Any:
    """The quick figure of a lesson."""
    path = FOLDER.parent.parent / "demos" / "lessons" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.plot(module.run(quick=True))


def main() -> None:
    """Write all figures."""
    FOLDER.mkdir(exist_ok=True)
    for name in LESSONS:
        lesson(name).savefig(FOLDER / f"lesson_{name}.png", dpi=110)
    for name, draw in (("moons", moons_through_depth), ("sobolev", sobolev_gradient)):
        draw().savefig(FOLDER / f"{name}.png", dpi=110)


if __name__ == "__main__":
    main()
