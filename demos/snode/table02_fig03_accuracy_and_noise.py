"""Table 2 and Figure 3: accuracy and noise.

Twenty networks, on clean and on noisy images.

Paper 001 (Jaroudi et al., arXiv 2205.13933), section 5: ResNets trained by SGD (RMSprop) and
standalone neural ODEs trained by nonlinear conjugate gradients (NCG), with relu and tanh, cross
entropy (CE) and squared distance (L2), with and without weight decay (w.d.), and NCG with the
Sobolev gradient. Table 2 has their accuracy, Figure 3 their accuracy on images with Gaussian noise
of several standard deviations. The numbers and the standard deviations are not available to us.

Chosen here: six standard deviations from 0.05 to 0.5, where a pixel has 0 without and 1 with full
ink; noisy pixels are not clipped; all networks get the same noise. Words are made numbers so:

- performance is the accuracy on clean test images, robustness the mean accuracy over the six
  standard deviations, both averaged over the runs of a network;
- performance is better, or changed significantly, if it differs by more than 1 point, robustness if
  it differs by more than 2 points; otherwise it is similar; "strongly" means more than 5 points;
- a claim about several networks holds if it holds for each of them; "SGD" and "NCG" mean without
  and with w.d. where the paper does not say which, and NCG is without the Sobolev gradient.

The paper also notes that the length in its Sobolev gradient may not be the best one for CE; one
length cannot tell.

On 10,000 images the standard error of an accuracy is at most 0.5 points; that of training, between
runs, is seen with several --seeds only.

    python demos/snode/table02_fig03_accuracy_and_noise.py --full
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import common
import numpy as np
from train_models import ACTIVATIONS, COSTS, TRAINING_NAMES, TRAININGS, Kind, models

import snode

ZOO: dict[str, Any] = {}  # all twenty
STDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
MARGIN = {"performance": 1.0, "robustness": 2.0}
STRONGLY = 5.0
Pair = tuple[str, str, str]
"""What is compared, and the names of two networks."""


def run(zoo: Iterable[Any], quick: bool = True, rng: Any = 1) -> dict[str, Any]:
    """Measure the accuracies of each network: test, training and with noise.

    Returns
    -------
    dict
        ``networks[name]`` has lists with an entry for each seed: ``test`` and ``train`` with the
        accuracies, ``noise`` with the accuracies for each draw and standard deviation.
    """
    data = snode.datasets.load_mnist()
    test = common.some(data.x_test, data.y_test, 500 if quick else 10_000)
    train = common.some(data.x_train, data.y_train, 500 if quick else 60_000)
    n_draws = 1 if quick else 3
    noise_seed = int(np.random.default_rng(rng).integers(2**31))
    networks: dict[str, dict[str, list[Any]]] = {}
    for kind, _, field in zoo:
        entry = networks.setdefault(kind.name, {"test": [], "train": [], "noise": []})
        entry["test"].append(snode.accuracy(field, *test))
        entry["train"].append(snode.accuracy(field, *train))
        noisy: Any = snode.accuracy_under_noise(field, *test, STDS, rng=noise_seed, n_draws=n_draws)
        entry["noise"].append(getattr(noisy, "draws", np.atleast_2d(noisy)).tolist())
    return {
        "stds": list(STDS), "draws": n_draws, "networks": networks,
        "test_images": len(test[1]), "training_images": len(train[1]),
    }  # fmt: skip


def score(numbers: dict[str, Any], what: str, name: str) -> float:
    """Return performance or robustness of a network, in percent."""
    entry = numbers["networks"][name]
    return 100 * float(np.mean(entry["test" if what == "performance" else "noise"]))


VERDICTS = {
    "better": lambda d, margin: d > margin,
    "worse": lambda d, margin: d < -margin,
    "similar": lambda d, margin: abs(d) <= margin,
    "same or better": lambda d, margin: d >= -margin,
    "strongly worse": lambda d, margin: d < -STRONGLY,
}


def between_trainings(first: str, second: str, costs: Iterable[str] = tuple(COSTS)) -> list[Pair]:
    """Return pairs of networks that differ in their training, for each activation and cost."""
    return [
        (f"{a}-{c} {first} against {second}", f"{a}-{c}-{first}", f"{a}-{c}-{second}")
        for c in costs
        for a in ACTIVATIONS
    ]


def between_costs(*of: str) -> list[Pair]:
    """Return pairs of networks, L2 to CE, for each activation and each training in `of`."""
    return [
        (f"{a} {t} l2 against ce", f"{a}-l2-{t}", f"{a}-ce-{t}") for t in of for a in ACTIVATIONS
    ]


PLAIN, DECAYED = ("ncg", "sgd"), ("ncg-wd", "sgd-wd")
CLAIMS: tuple[tuple[str, str, str, list[Pair]], ...] = (
    ("NCG has the same or better performance than SGD",
     "performance", "same or better", between_trainings(*PLAIN) + between_trainings(*DECAYED)),
    ("NCG has the same or better robustness than SGD, both without w.d.",
     "robustness", "same or better", between_trainings(*PLAIN)),
    ("CE: NCG outperforms SGD, both without w.d.",
     "performance", "better", between_trainings(*PLAIN, ("ce",))),
    ("CE: NCG outperforms SGD, both with w.d.",
     "performance", "better", between_trainings(*DECAYED, ("ce",))),
    ("CE: NCG and SGD have similar robustness without w.d.",
     "robustness", "similar", between_trainings(*PLAIN, ("ce",))),
    ("L2: NCG and SGD have similar performance",
     "performance", "similar",
     between_trainings(*PLAIN, ("l2",)) + between_trainings(*DECAYED, ("l2",))),
    ("L2: NCG is more robust than SGD, both without w.d.",
     "robustness", "better", between_trainings(*PLAIN, ("l2",))),
    ("L2 instead of CE improves the performance of SGD",
     "performance", "better", between_costs("sgd", "sgd-wd")),
    ("L2 instead of CE worsens the robustness of SGD",
     "robustness", "worse", between_costs("sgd", "sgd-wd")),
    ("L2 instead of CE has no significant effect on the performance of NCG",
     "performance", "similar", between_costs("ncg", "ncg-wd")),
    ("L2 instead of CE has no significant effect on the robustness of NCG",
     "robustness", "similar", between_costs("ncg", "ncg-wd")),
    ("w.d. has no significant effect on the performance of any model",
     "performance", "similar",
     between_trainings("sgd-wd", "sgd") + between_trainings("ncg-wd", "ncg")),
    ("w.d. strongly decreases the robustness of NCG",
     "robustness", "strongly worse", between_trainings("ncg-wd", "ncg")),
)  # fmt: skip
"""Text, measure, verdict, and the pairs of networks for which it has to hold."""


def claims(numbers: dict[str, Any]) -> list[common.Claim]:
    """Return the paper's claims and whether these numbers agree; differences are in points."""
    found = []
    for text, what, verdict, pairs in CLAIMS:
        differences = [_difference(numbers, what, a, b) for _, a, b in pairs]
        holds = [VERDICTS[verdict](d, MARGIN[what]) for d in differences]
        shown = (f"{p[0]} {d:+.1f}" for p, d in zip(pairs, differences, strict=True))
        found.append((text, all(holds), f"{sum(holds)} of {len(holds)}: {', '.join(shown)}"))
    return [*found, _sobolev(numbers)]


def _difference(numbers: dict[str, Any], what: str, first: str, second: str) -> float:
    # a difference of exactly the margin is similar, whatever the rounding
    return round(score(numbers, what, first) - score(numbers, what, second), 6)


def _sobolev(numbers: dict[str, Any]) -> common.Claim:
    best, shown = [], []
    for cost in COSTS:
        names = [Kind(cost, a, t).name for a in ACTIVATIONS for t in TRAININGS]
        names.sort(key=lambda name: score(numbers, "robustness", name), reverse=True)
        best.append(names[0])
        shown += [f"{name} {score(numbers, 'robustness', name):.1f}" for name in names[:2]]
        shown.append(f"tanh Sobolev is number {names.index(f'tanh-{cost}-ncg-h1') + 1} of 10")
    agrees = best == [f"tanh-{cost}-ncg-h1" for cost in COSTS]
    return (
        "NCG Sobolev with tanh is the most robust with CE and with L2",
        agrees,
        ", ".join(shown),
    )


def cell(numbers: dict[str, Any], name: str, split: str) -> str:
    """Return an entry of the table in percent, mean ± standard deviation if there are runs."""
    values = numbers["networks"][name][split]
    mean, std = common.mean_std(values)
    return f"{100 * mean:.2f}" + (f" ± {100 * std:.2f}" if len(values) > 1 else "")


def table(numbers: dict[str, Any]) -> str:
    """Return Table 2 as text: test (training) accuracy, then robustness."""
    columns = [(c, a) for c in COSTS for a in ACTIVATIONS]
    lines = [f"{'test (training) %':18s}" + "".join(f"{a + ', ' + c:>34s}" for c, a in columns)]
    for training, title in TRAINING_NAMES.items():
        names = [Kind(c, a, training).name for c, a in columns]
        cells = (f"{cell(numbers, n, 'test')} ({cell(numbers, n, 'train')})" for n in names)
        lines.append(f"{title:18s}" + "".join(f"{text:>34s}" for text in cells))
    lines.append("robustness %, the mean over the noise levels")
    for training, title in TRAINING_NAMES.items():
        names = [Kind(c, a, training).name for c, a in columns]
        scores = (f"{score(numbers, 'robustness', n):34.2f}" for n in names)
        lines.append(f"{title:18s}" + "".join(scores))
    return "\n".join(lines)


def plot(numbers: dict[str, Any]) -> Any:
    """Draw accuracy against the standard deviation of the noise, and the table."""
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(10, 9.2), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(3, 1))
    axes = top.subplots(2, 2, sharex=True, sharey=True)
    for row, cost in zip(axes, COSTS, strict=True):
        for ax, activation in zip(row, ACTIVATIONS, strict=True):
            _draw_noise(ax, numbers, cost, activation)
    for ax in axes[1]:
        ax.set_xlabel("standard deviation of the noise (full ink is 1)")
    for ax in axes[:, 0]:
        ax.set_ylabel("test accuracy in %")
    axes[0, 0].legend(fontsize="small", loc="lower left")
    _draw_table(bottom.subplots(), numbers)
    return figure


def _draw_noise(ax: Any, numbers: dict[str, Any], cost: str, activation: str) -> None:
    stds = [0.0, *numbers["stds"]]
    for training, title in TRAINING_NAMES.items():
        entry = numbers["networks"][Kind(cost, activation, training).name]
        rows = np.array(
            [[clean, *draw] for clean, draws in zip(entry["test"], entry["noise"], strict=True)
             for draw in draws]
        ) * 100  # fmt: skip
        mean, std = rows.mean(axis=0), rows.std(axis=0)
        style = common.STYLES[training]
        ax.plot(stds, mean, label=title, ms=5, lw=1.3, **style)
        ax.fill_between(stds, mean - std, mean + std, color=style["color"], alpha=0.12, lw=0)
    ax.set_title(common.heading(Kind(cost, activation, "ncg")), fontsize=10)
    ax.grid(alpha=0.3)


def _draw_table(ax: Any, numbers: dict[str, Any]) -> None:
    ax.axis("off")
    columns = [(c, a) for c in COSTS for a in ACTIVATIONS]
    head = ["", *(f"{common.heading(Kind(c, a, 'ncg'))}" for c, a in columns)]
    cells = [
        [title] + [
            f"{cell(numbers, f'{a}-{c}-{t}', 'test')} ({cell(numbers, f'{a}-{c}-{t}', 'train')})"
            for c, a in columns
        ]
        for t, title in TRAINING_NAMES.items()
    ]  # fmt: skip
    drawn = ax.table(cells, colLabels=head, loc="center", cellLoc="center",
                     colWidths=(0.14, *(0.215,) * 4))  # fmt: skip
    drawn.scale(1, 1.4)
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(8)
    test, train = numbers["test_images"], numbers["training_images"]
    ax.set_title(
        f"Accuracy in % on {test:,} test (and {train:,} training) images without noise", fontsize=10
    )


def main() -> None:
    """Run from the command line."""
    args = common.options(__doc__, "table02_fig03_accuracy_and_noise.png")
    zoo = models(args.size, seeds=args.seeds, folder=args.folder)
    numbers = run(zoo, quick=not args.full)
    print(table(numbers))
    common.finish(args, plot(numbers), numbers, claims(numbers))


if __name__ == "__main__":
    main()
