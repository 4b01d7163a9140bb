"""Figure 6: weights through depth.

Trained with L2, with the Sobolev gradient, by SGD.

Paper 001 (Jaroudi et al., arXiv 2205.13933), appendix B.2: an example of trained weights. The
paper's claim: with the Sobolev gradient they are smoother than with the L2 gradient, and than those
of a ResNet trained by SGD. Which weights of which network the figure shows is not available to us.

Chosen here: tanh with the squared distance, without weight decay; of W and of b the three entries
that vary most along depth (the standard deviations in the three networks added, each divided by its
mean over all entries), the same for all networks. A claim is tested on W of every network, with a
number, the roughness |W'| / |W| in L2(0, T): the H1 seminorm over the norm. Our weights are
constant on cells, so W' is the difference of neighbouring cells over the cell width; a jump from
cell to cell counts the more the finer the grid. A claim holds if it holds for each activation and
cost; roughness is averaged over the runs.

    python demos/snode/fig06_weights_in_depth.py --full
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import common
import numpy as np
from train_models import ACTIVATIONS, COSTS, TRAINING_NAMES, Kind, models

import snode

SHOWN = {"ncg": "NCG, $L^2$ gradient", "ncg-h1": "NCG, Sobolev gradient ($H^1$)", "sgd": "SGD"}
ZOO: dict[str, Any] = {}  # all twenty
COST, ACTIVATION = "l2", "tanh"
N_CURVES = 3
LINES = (("-", "#1b1b3a"), ("--", "#b3446c"), (":", "#c08510"))
COLUMNS = [(c, a) for c in COSTS for a in ACTIVATIONS]


def roughness(W: Any, T: float) -> float:
    """Return |W'| / |W| in L2(0, T) of weights that are constant on cells of equal width.

    Parameters
    ----------
    W : array (K, ...)
        Not zero everywhere.
    T : float
    """
    W = np.asarray(W, dtype=np.float64)
    cell = T / len(W)
    return float(np.linalg.norm(np.diff(W, axis=0)) / (cell * np.linalg.norm(W)))


def start_of(kind: Kind, seed: int, field: Any) -> Any:
    """Return the untrained network that train_models.py starts from."""
    return snode.StandaloneField.random(
        field.n, field.T, field.n_layers, activation=kind.activation, rng=seed, dtype="float32"
    )


def run(zoo: Iterable[Any], quick: bool = True, rng: Any = 1) -> dict[str, Any]:
    """Measure the roughness of each network and pick the weights to show.

    Nothing is drawn at random and nothing is costly: `quick` and `rng` change nothing.

    Returns
    -------
    dict
        ``roughness``: for each network a list with an entry for each seed; ``start``: the same for
        the untrained weights of each seed; ``t``, ``curves``: what the figure shows, of the first
        seed.
    """
    rough: dict[str, list[float]] = {}
    start: dict[int, float] = {}
    shown: dict[str, Any] = {}
    for kind, seed, field in zoo:
        rough.setdefault(kind.name, []).append(roughness(field.W, field.T))
        if seed not in start:
            start[seed] = roughness(start_of(kind, seed, field).W, field.T)
        if kind.training in SHOWN and (kind.cost, kind.activation) == (COST, ACTIVATION):
            shown.setdefault(kind.training, field)
    return {
        "roughness": rough,
        "start": list(start.values()),
        "t": shown["ncg"].grid[:-1].tolist(),
        "curves": {name: _curves(shown, name) for name in ("W", "b")},
    }


def _curves(fields: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the entries of a parameter that vary most, for each network."""
    stacks: dict[str, Any] = {key: np.asarray(f.parameters[name]) for key, f in fields.items()}
    spreads = [stack.std(axis=0) for stack in stacks.values()]
    total = np.sum([s / s.mean() for s in spreads], axis=0)
    most = np.argsort(total, axis=None)[::-1][:N_CURVES]
    entries = [tuple(map(int, np.unravel_index(e, total.shape))) for e in most]
    values = {key: [s[(slice(None), *e)].tolist() for e in entries] for key, s in stacks.items()}
    return {"entries": entries, "values": values}


def claims(numbers: dict[str, Any]) -> list[common.Claim]:
    """Return the paper's claims and whether these numbers agree."""
    text = "weights trained with the Sobolev gradient are smoother than "
    return [
        (text + "those trained with the L2 gradient", *_smoother(numbers, "ncg")),
        (text + "those of a ResNet trained by SGD", *_smoother(numbers, "sgd")),
    ]


def _smoother(numbers: dict[str, Any], other: str) -> tuple[bool, str]:
    rows = [
        (f"{a}-{c}", *(np.mean(numbers["roughness"][f"{a}-{c}-{t}"]) for t in ("ncg-h1", other)))
        for c, a in COLUMNS
    ]
    shown = ", ".join(f"{name} {h1:.2f} against {rest:.2f}" for name, h1, rest in rows)
    return all(h1 < rest for _, h1, rest in rows), f"roughness of W: {shown}"


def table(numbers: dict[str, Any]) -> str:
    """Return the roughness of W of every network, mean +- standard deviation if there are runs."""
    lines = [f"{'roughness of W':16s}" + "".join(f"{a + ', ' + c:>16s}" for c, a in COLUMNS)]
    for training, title in TRAINING_NAMES.items():
        rows = (numbers["roughness"][Kind(c, a, training).name] for c, a in COLUMNS)
        lines.append(f"{title:16s}" + "".join(f"{_mean_std(row):>16s}" for row in rows))
    return "\n".join([*lines, f"{'before training':16s}{_mean_std(numbers['start']):>16s}"])


def _mean_std(values: list[float]) -> str:
    mean, std = common.mean_std(values)
    return f"{mean:.2f}" + (f" +- {std:.2f}" if len(values) > 1 else "")


def plot(numbers: dict[str, Any]) -> Any:
    """Draw a few weights and biases through depth for three networks, and every roughness."""
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(11, 9), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(2, 1))
    axes = top.subplots(2, 3, sharex=True)
    for row, name in zip(axes, ("W", "b"), strict=True):
        for ax, training in zip(row, SHOWN, strict=True):
            _draw_curves(ax, numbers, name, training)
        row[0].set_ylabel({"W": "weight", "b": "bias"}[name])
        row[0].legend(fontsize="small")
    for ax, title in zip(axes[0], SHOWN.values(), strict=True):
        ax.set_title(title, fontsize=10)
    for ax in axes[1]:
        ax.set_xlabel("depth t")
    heading = common.heading(Kind(COST, ACTIVATION, "ncg"))
    top.suptitle(f"{heading}: the entries that vary most, each panel on its own scale", fontsize=10)
    _draw_roughness(bottom.subplots(), numbers)
    return figure


def _draw_curves(ax: Any, numbers: dict[str, Any], name: str, training: str) -> None:
    part = numbers["curves"][name]
    for entry, curve, line in zip(part["entries"], part["values"][training], LINES, strict=True):
        style, colour = line
        label = f"${name}_{{{','.join(map(str, entry))}}}$"
        ax.plot(numbers["t"], curve, style, color=colour, lw=1.3, label=label)
    ax.grid(alpha=0.3)


def _draw_roughness(ax: Any, numbers: dict[str, Any]) -> None:
    for i, (training, title) in enumerate(TRAINING_NAMES.items()):
        rows = [numbers["roughness"][Kind(c, a, training).name] for c, a in COLUMNS]
        style = {**common.STYLES[training], "linestyle": ""}
        x, mean, std = np.arange(4) + 0.12 * (i - 2), np.mean(rows, axis=1), np.std(rows, axis=1)
        ax.errorbar(x, mean, std, label=title, ms=7, **style)
    start = float(np.mean(numbers["start"]))
    ax.axhline(start, color="0.5", ls=":", lw=1, label="before training")
    ax.set_xticks(range(4), [common.heading(Kind(c, a, "ncg")) for c, a in COLUMNS])
    ax.set(yscale="log", ylabel="roughness $|W'|/|W|$\n(1 / unit of depth)", xlim=(-0.5, 4.2))
    ax.set_title("Roughness of the weights W of every network", fontsize=10)
    ax.legend(fontsize="small", loc="center right")
    ax.grid(alpha=0.3, axis="y")


def recorded(numbers: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers that are kept: no curves."""
    keep = {key: numbers[key] for key in ("roughness", "start")}
    keep["entries"] = {name: part["entries"] for name, part in numbers["curves"].items()}
    return keep


def main() -> None:
    """Run from the command line."""
    args = common.options(__doc__, "fig06_weights_in_depth.png")
    numbers = run(models(args.size, seeds=args.seeds, folder=args.folder), quick=not args.full)
    print(table(numbers))
    common.finish(args, plot(numbers), recorded(numbers), claims(numbers))


if __name__ == "__main__":
    main()
