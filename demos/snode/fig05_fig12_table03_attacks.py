"""Figures 5 and 12, Table 3: attacks.

Which small perturbations fool which network?

Paper 001 (Jaroudi et al., arXiv 2205.13933), section 5 and appendix D: networks trained by SGD, by
NCG and by NCG with the Sobolev gradient, without weight decay, are attacked with the sensitivity
problem (moving target, and each of the other nine classes in turn), with projected gradient descent
(PGD, two step lengths), the fast gradient method (in the 2-norm: FGM) and the attack of Carlini and
Wagner (CW). Figure 12 shows the share of fooled images against the allowed perturbation for every
network, Figure 5 a part of it, Table 3 the share that can be fooled at all and the sizes of the
perturbations. The numbers are not available to us.

Known from the paper or its authors' code: 1000 test images, step 0.03, 30 iterations, margin 0.975,
box [-1, 0]. Chosen here: sizes are measured in the 2-norm; PGD and FGM get a ball of each radius
on the horizontal axis, PGD in the 2-norm starts at the image, its longer step is 0.1. Both climb
the cross entropy, also where the network was trained with the squared distance: climbing that cost
fools half as many images (40 instead of 98 of 98 of the first 100, ReLU, SGD, radius 0.4), since it
can grow without a change of class. CW makes 4 x 50 iterations; the margin is multiplicative for
networks trained with the squared distance and additive (0.025) for logits, which have any sign.
Images that are misclassified to begin with are left out.

    python demos/snode/fig05_fig12_table03_attacks.py --full --n 200

The results of each network are kept beside it (``*-attacks-n<n>.json``) and used again.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import common
import numpy as np
import train_models

import snode

STEP, N_ITER, LONG_STEP = 0.03, 30, 0.1
RADII = np.round(np.arange(1, 10) * 0.1, 1)  # 30 steps of 0.03 end at 0.9
TRAININGS = ("sgd", "ncg", "ncg-h1")
ATTACKS: dict[str, dict[str, Any]] = {
    "sensitivity": {"color": "#1b1b3a", "linestyle": "-", "marker": "o"},
    "each target": {"color": "#1b1b3a", "linestyle": ":", "marker": None},
    "PGD": {"color": "#b3446c", "linestyle": "-", "marker": "s"},
    f"PGD, step {LONG_STEP:g}": {"color": "#b3446c", "linestyle": "--", "marker": "s",
                                 "markerfacecolor": "white"},
    "FGM": {"color": "#e0a030", "linestyle": "-", "marker": "^"},
    "CW": {"color": "#4c9f9f", "linestyle": "-.", "marker": "D", "markerfacecolor": "white"},
}  # fmt: skip
LONG = f"PGD, step {LONG_STEP:g}"
MARGIN = 0.03
"""Smaller differences of success are no difference: a standard error of about 200 images."""
BOX = (-1.0, 0.0)
ZOO: dict[str, Any] = {"trainings": TRAININGS}


def attack(field: Any, cost: str, x: Any, y: Any, quick: bool = False) -> dict[str, Any]:
    """Attack one network in all six ways; quickly, with fewer balls, steps and searches."""
    radii, n_iter = (RADII[::3], N_ITER // 2) if quick else (RADII, N_ITER)
    search = {"n_search": 2, "n_iter": 25} if quick else {"n_search": 4, "n_iter": 50}
    options: dict[str, Any] = {"box": BOX, "n_classes": 10}
    margin: dict[str, Any] = {} if cost == "l2" else {"margin_kind": "additive", "margin": 0.025}
    walk = {"step": STEP, "n_iter": n_iter, **margin, **options}
    moving = snode.sensitivity_attack(field, x, y, **walk)
    climb: dict[str, Any] = {"norm": "2", "cost": "ce", **options}
    steps = {"random_start": False, "n_iter": n_iter, **climb}
    return {
        "attacked": int((~moving.skipped).sum()),
        "sensitivity": _nearest([moving]),
        "each target": _nearest([snode.sensitivity_attack(field, x, y, target="all", **walk)]),
        "PGD": _nearest([snode.pgd(field, x, y, eps=r, step=STEP, **steps) for r in radii]),
        LONG: _nearest([snode.pgd(field, x, y, eps=r, step=LONG_STEP, **steps) for r in radii]),
        "FGM": _nearest([snode.fgsm(field, x, y, eps=r, **climb) for r in radii]),
        "CW": _nearest([snode.carlini_wagner(field, x, y, **search, **options)]),
    }


def _nearest(results: list[Any]) -> dict[str, Any]:
    """Return the success curve, the sizes of the perturbations, and the gradients it took."""
    sizes = np.min([np.where(r.success, r.norm2, np.inf) for r in results], axis=0)
    sizes = sizes[~results[0].skipped]
    fooled = sizes[np.isfinite(sizes)]
    return {
        "curve": snode.success_curve(results, RADII).tolist(),
        "susceptible": len(fooled) / len(sizes),
        "mean": float(fooled.mean()) if len(fooled) else None,
        "max": float(fooled.max()) if len(fooled) else None,
        "gradients": int(np.sum([r.n_gradient.max() for r in results])),
    }


def run(
    zoo: list[Any],
    quick: bool = True,
    rng: Any = 1,
    n: int | None = None,
    cache: Path | None = None,
    callback: Any = None,
) -> dict[str, Any]:
    """Attack every network that was trained without weight decay."""
    data = snode.datasets.load_mnist()
    n = n or (20 if quick else 1000)
    x, y = common.some(data.x_test, data.y_test, n)
    networks: dict[str, list[Any]] = {}
    chosen = [member for member in zoo if member[0].training in TRAININGS]
    for i, (kind, seed, field) in enumerate(chosen):
        if callback is not None:
            callback(i, len(chosen), f"attacking network {i + 1} of {len(chosen)}, {kind.name}")
        file = None if cache is None else cache / f"{kind.name}-seed{seed}-attacks-n{n}.json"
        found = _cached(file, field, kind, (x, y), quick)
        networks.setdefault(kind.name, []).append(found)
    return {"n": n, "radii": RADII.tolist(), "networks": networks}


def _cached(file: Path | None, field: Any, kind: Any, xy: Any, quick: bool) -> Any:
    """Attack, or read what an earlier run found about the same weights."""
    weights = hashlib.sha256(field.W.tobytes() + field.b.tobytes()).hexdigest()
    if file is not None and file.exists():
        kept = json.loads(file.read_text())
        if kept["weights"] == weights and kept.get("quick", False) == quick:
            return kept["found"]
    found = attack(field, kind.cost, *xy, quick)
    if file is not None:
        file.write_text(json.dumps({"weights": weights, "quick": quick, "found": found}))
        print(f"{file.name}: {100 * found['sensitivity']['susceptible']:.1f} % fooled", flush=True)
    return found


def value(numbers: dict[str, Any], network: str, attack: str, key: str) -> float:
    """Return the mean over the runs of an entry; of a curve, also over the radii."""
    runs = [r[attack][key] for r in numbers["networks"][network]]
    return float(np.mean([np.nan if r is None else np.mean(r) for r in runs]))


def _columns(numbers: dict[str, Any]) -> list[str]:
    """Return ``relu-ce`` and so on, in the order of Table 3."""
    have = {name.rsplit("-", 2 if name.endswith("h1") else 1)[0] for name in numbers["networks"]}
    order = [f"{a}-{c}" for a in train_models.ACTIVATIONS for c in train_models.COSTS]
    return [column for column in order if column in have]


def claims(numbers: dict[str, Any]) -> list[common.Claim]:
    """Return the paper's claims. "Success" is the mean of the success curve over the radii."""
    columns = _columns(numbers)

    def count(
        text: str, most: int, pairs: list[tuple[float, float]], unit: str, names: Any = columns
    ) -> common.Claim:
        """Claim that in `most` of the pairs the first is larger, success by more than MARGIN."""
        margin = MARGIN if unit == "success" else 0.0
        yes = sum(a > b + margin for a, b in pairs)
        shown = ", ".join(
            f"{name} {a:.2f} / {b:.2f}" for name, (a, b) in zip(names, pairs, strict=True)
        )
        return text, yes >= most, f"in {yes} of {len(pairs)}; {unit}: {shown}"

    def curve(column: str, training: str, attack: str = "sensitivity") -> float:
        return value(numbers, f"{column}-{training}", attack, "curve")

    every = [(c, t) for t in TRAININGS for c in columns]
    ncg = [(c, t) for c, t in every if t != "sgd"]
    all_names = [f"{c}-{t}" for c, t in every]
    half = len(columns) // 2 + 1
    return [
        count("SGD networks: sensitivity attack beats PGD with the same step, for most", half,
              [(curve(c, "sgd"), curve(c, "sgd", "PGD")) for c in columns], "success"),
        count("all networks: sensitivity attack beats PGD with the same step (appendix D)",
              len(every), [(curve(c, t), curve(c, t, "PGD")) for c, t in every], "success",
              all_names),
        count("NCG networks: PGD with the longer step beats the sensitivity attack, for most",
              len(ncg) // 2 + 1, [(curve(c, t, LONG), curve(c, t)) for c, t in ncg], "success",
              [f"{c}-{t}" for c, t in ncg]),
        count("SGD networks are more susceptible than NCG networks", len(columns),
              [(curve(c, "sgd"), curve(c, "ncg")) for c in columns], "success"),
        count("SGD networks are more susceptible than Sobolev NCG networks", len(columns),
              [(curve(c, "sgd"), curve(c, "ncg-h1")) for c in columns], "success"),
        count("NCG networks are more susceptible than Sobolev NCG networks, for most", half,
              [(curve(c, "ncg"), curve(c, "ncg-h1")) for c in columns], "success"),
        _moving_target(numbers, every, curve),
        count("CW needs larger perturbations than the sensitivity attack", len(every),
              [(value(numbers, f"{c}-{t}", "CW", "mean"),
                value(numbers, f"{c}-{t}", "sensitivity", "mean")) for c, t in every],
              "mean size of those that fool", all_names),
    ]  # fmt: skip


def _moving_target(numbers: dict[str, Any], every: Any, curve: Any) -> common.Claim:
    loss = max(curve(c, t, "each target") - curve(c, t) for c, t in every)
    name = f"{every[0][0]}-{every[0][1]}"
    each, moving = (value(numbers, name, a, "gradients") for a in ("each target", "sensitivity"))
    text = "the moving target does as well as nine targets (success within 0.02), nine times faster"
    return (
        text,
        loss < 0.02 and each >= 8 * moving,
        (f"loses at most {loss:.3f}; {each:.0f} against {moving:.0f} adjoint solves an image"),
    )


def plot(numbers: dict[str, Any]) -> Any:
    """Draw Figure 12; its columns are Figure 5 for each cost and activation."""
    from matplotlib.figure import Figure

    columns = _columns(numbers)
    figure = Figure(figsize=(2.4 * len(columns) + 0.4, 9), layout="constrained")
    axes = figure.subplots(len(TRAININGS), len(columns), sharex=True, sharey=True, squeeze=False)
    for row, training in zip(axes, TRAININGS, strict=True):
        for ax, column in zip(row, columns, strict=True):
            runs = numbers["networks"].get(f"{column}-{training}")
            if runs:
                _curves(ax, runs, numbers["radii"])
            activation, cost = column.split("-")
            kind = train_models.Kind(cost, activation, training)
            ax.set_title(f"{train_models.TRAINING_NAMES[training]}\n{common.heading(kind)}",
                         fontsize=9)  # fmt: skip
            ax.grid(alpha=0.3)
    for ax in axes[-1]:
        ax.set_xlabel(r"allowed perturbation $|\delta|_2$")
    for ax in axes[:, 0]:
        ax.set_ylabel("fooled images in %")
    axes[0, 0].set(ylim=(0, 103), xlim=(0, RADII[-1]))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize="small")
    return figure


def _curves(ax: Any, runs: list[Any], radii: list[float]) -> None:
    for name, style in ATTACKS.items():
        curve = np.mean([r[name]["curve"] for r in runs], axis=0)
        ax.plot([0, *radii], [0, *(100 * curve)], label=name, ms=4, **style)


def table(numbers: dict[str, Any]) -> str:
    """Return Table 3 for every attack."""
    lines = [f"{'':18s}{'attack':16s}{'susceptible %':>14s}{'mean size':>11s}{'max size':>10s}"]
    for name in numbers["networks"]:
        for a in ATTACKS:
            share, mean, largest = (
                value(numbers, name, a, k) for k in ("susceptible", "mean", "max")
            )
            lines.append(f"{name:18s}{a:16s}{100 * share:14.1f}{mean:11.3f}{largest:10.3f}")
    return "\n".join(lines)


def main() -> None:
    """Run from the command line."""
    args = common.options(
        __doc__,
        "fig05_fig12_table03_attacks.png",
        lambda p: p.add_argument("--n", type=int, help="number of test images; full: 1000"),
    )
    zoo = list(train_models.models(args.size, seeds=args.seeds, folder=args.folder, **ZOO))
    numbers = run(zoo, quick=not args.full, n=args.n, cache=args.folder / args.size)
    print(table(numbers))
    common.finish(args, plot(numbers), numbers, claims(numbers))


if __name__ == "__main__":
    main()
