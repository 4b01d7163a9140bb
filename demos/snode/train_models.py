"""The twenty networks of paper 001's Table 2: train them once, for all demos that look at them.

Paper 001 (Jaroudi et al., arXiv 2205.13933), section 5: two costs (cross entropy, squared
distance), two activations (ReLU, tanh), five ways of training: SGD with RMSprop without and with
weight decay (a residual network: the same Euler steps, plain partial derivatives), NCG without and
with weight decay, NCG with the Sobolev gradient. Within a column all five start from the same
weights and see the same minibatches, six iterations on each.

Known from the paper or its authors' code: 14x14 MNIST, background 0 and ink -1, T = 3, 150 cells,
batch 100, 6 iterations a batch, Fletcher-Reeves, Sobolev length 1, RMSprop. Not available to us and
chosen here after a search at 0.1 epoch: weight of the output term with cross entropy 0.01, of
weight decay 0.001, RMSprop's rate 0.001. The authors' script trains for ten epochs and the paper
averages five runs; here it is one epoch, and as many runs as seeds are asked for. The networks of
--quick have 50 cells and see a fortieth of the images: enough to try everything, not to judge.

    python demos/snode/train_models.py --full

Each network is a file ``<folder>/<quick|full>/<name>-seed<seed>.safetensors``; one that is there is
not trained again, one that was interrupted goes on from its checkpoint (stop with Ctrl-C).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import snode
from snode import io

T = 3.0
LAYERS = {"quick": 50, "full": 150}
FOLDER = Path("runs/models")
EPOCHS = {"quick": 0.025, "full": 1.0}
CHECKPOINTS = {"quick": 1, "full": 10}
COSTS: dict[str, dict[str, Any]] = {"ce": {"l2": 0.0, "ce": 1.0, "output": 0.01}, "l2": {"l2": 1.0}}
COST_NAMES = {"ce": "cross entropy", "l2": "squared distance"}
ACTIVATIONS = ("relu", "tanh")
DECAY = 1e-3
TRAININGS: dict[str, dict[str, Any]] = {
    "sgd": {"method": "rmsprop", "learning_rate": 1e-3},
    "sgd-wd": {"method": "rmsprop", "learning_rate": 1e-3},
    "ncg": {"inner": "l2"},
    "ncg-wd": {"inner": "l2"},
    "ncg-h1": {"inner": "h1"},
}
TRAINING_NAMES = {
    "sgd": "SGD", "sgd-wd": "SGD w.d.", "ncg": "NCG", "ncg-wd": "NCG w.d.", "ncg-h1": "NCG Sobolev",
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """One of the twenty: a cost, an activation and a way of training."""

    cost: str
    activation: str
    training: str

    @property
    def name(self) -> str:
        """E.g. ``relu-l2-ncg-wd``."""
        return f"{self.activation}-{self.cost}-{self.training}"

    @property
    def objective(self) -> snode.Cost:
        """The cost functional."""
        return snode.Cost(**COSTS[self.cost], decay=DECAY * self.training.endswith("-wd"))


KINDS = tuple(Kind(c, a, t) for c in COSTS for a in ACTIVATIONS for t in TRAININGS)


def train(
    kind: Kind,
    size: str = "quick",
    seed: int = 1,
    folder: Path = FOLDER,
    data: Any = None,
    callback: Callable[[Any], object] | None = None,
) -> io.Model | None:
    """Return a network, trained if its file is not there; None if the training was stopped."""
    path = _path(kind, size, seed, folder)
    if path.exists():
        return io.load(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = snode.datasets.load_mnist() if data is None else data
    checkpoint = path.with_suffix(".checkpoint")
    start = snode.StandaloneField.random(
        data.x_train.shape[0],
        T,
        LAYERS[size],
        activation=kind.activation,
        rng=seed,
        dtype="float32",
    )
    result = snode.train(
        start, data, kind.objective, epochs=EPOCHS[size], rng=seed,
        eval_every=EPOCHS[size] / CHECKPOINTS[size], eval_samples=2000, checkpoint=checkpoint,
        resume=True, callback=callback, **TRAININGS[kind.training],
    )  # fmt: skip
    if result.status is snode.Status.STOPPED:
        return None
    manifest = {
        "model": kind.name, "seed": seed, "epochs": EPOCHS[size], "status": result.status.name,
        "cost_after": [float(c) for c in result.history["cost_after"][-10:]],
        "capped": int(sum(result.history["capped"])), "snode": snode.__version__,
    }  # fmt: skip
    io.save(path, result.field, encoding=data.encoding, manifest=manifest)
    checkpoint.unlink(missing_ok=True)
    return io.load(path)


def _path(kind: Kind, size: str, seed: int, folder: Path) -> Path:
    return folder / size / f"{kind.name}-seed{seed}.safetensors"


def models(
    size: str = "quick",
    *,
    seeds: tuple[int, ...] = (1,),
    folder: Path = FOLDER,
    trainings: tuple[str, ...] = tuple(TRAININGS),
    costs: tuple[str, ...] = tuple(COSTS),
    activations: tuple[str, ...] = ACTIVATIONS,
    data: Any = None,
    callback: Callable[[float, float, str], object] | None = None,
) -> Iterator[tuple[Kind, int, Any]]:
    """Yield (kind, seed, field), trained where need be; ends early if a training is stopped.

    The callback is called as ``callback(done, total, what)``, counted in networks.
    """
    chosen = [
        (seed, kind)
        for seed in seeds
        for kind in KINDS
        if kind.training in trainings and kind.cost in costs and kind.activation in activations
    ]
    for i, (seed, kind) in enumerate(chosen):
        if data is None and not _path(kind, size, seed, folder).exists():
            data = snode.datasets.load_mnist()  # once, and only where there is something to train
        report = None if callback is None else _share(callback, i, len(chosen), kind.name)
        model = train(kind, size, seed, folder, data, report)
        if model is None:
            raise SystemExit("stopped; the same command goes on from here")
        yield kind, seed, model.field


def _share(
    callback: Callable[[float, float, str], object], i: int, count: int, name: str
) -> Callable[[Any], object]:
    """Return a callback of one training that counts in networks."""

    def report(state: Any) -> object:
        what = f"training network {i + 1} of {count}, {name}"
        return callback(i + state.batch / state.n_batches, count, what)

    return report


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--quick", action="store_true", help="50 cells, 0.025 epoch (the default)")
    group.add_argument("--full", action="store_true", help="one epoch, about 4 minutes a network")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="a run for each")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the networks are")
    parser.add_argument("--trainings", choices=tuple(TRAININGS), nargs="+", default=list(TRAININGS))
    parser.add_argument(
        "--activations",
        choices=ACTIVATIONS,
        nargs="+",
        default=list(ACTIVATIONS),
        help="a second process may train the other half, each on its own core",
    )
    args = parser.parse_args()
    size = "full" if args.full else "quick"
    data = snode.datasets.load_mnist()
    start = time.perf_counter()
    chosen = models(
        size,
        seeds=tuple(args.seeds),
        folder=args.folder,
        data=data,
        trainings=tuple(args.trainings),
        activations=tuple(args.activations),
    )
    for kind, seed, field in chosen:
        test = snode.accuracy(field, data.x_test, data.y_test)
        seconds = time.perf_counter() - start
        print(
            f"{kind.name:16s} seed {seed}: test {100 * test:.2f} %  ({seconds:.0f} s)", flush=True
        )
        start = time.perf_counter()


if __name__ == "__main__":
    main()
