"""Attacks on a trained network: the paper's algorithm as written, and ART's PGD, against `snode`.

The network is 196 x 150, float32, the images are MNIST test images that it classifies correctly.
Every candidate attacks them in the same number of iterations; times are per image and iteration.

- moving target: `snode.sensitivity_attack` on all images, against algorithm 2 of paper 001 as it is
  written there: one image after another, in every iteration the direct problem and the sensitivity
  problem with Xi(0) = I, all n columns, in NumPy with the same dtype, with BLAS's own threads and
  with one. It is timed on a few images (--paper-images), all iterations, and scaled. Both
  must find the same adversarial images.
- gradients: `snode.pgd` against the Adversarial Robustness Toolbox's `ProjectedGradientDescent` on
  a PyTorch model with the same residual layers: same norm, radius, step and start, one gradient an
  iteration. ART runs with the gradients of the weights switched off, which is faster, in batches
  of 100 and of all images; and once with them on, as a model comes from its training.

Without --model, a network is trained for 0.05 epoch first, which is not timed. snode's times
include its predictions before and after the attack; ART makes none.

Run: python benchmarks/attack.py --model FILE
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import available, in_turns, make_parser, parse, print_machine, report, threads
from threadpoolctl import threadpool_limits

import snode

STEP, MARGIN, RADIUS, BOX, N_CLASSES = 0.03, 0.975, 1.0, (-1.0, 0.0), 10
SHORT = 0.05
"""Epochs of training without a model."""

PEERS = ("torch", "adversarial-robustness-toolbox")


@dataclass(frozen=True)
class Problem:
    """What all candidates attack."""

    field: Any
    x: np.ndarray
    y: np.ndarray
    n_iter: int


@dataclass(frozen=True)
class Candidate:
    """A whole attack, and the number of image-iterations it is made of."""

    name: str
    run: Callable[[], np.ndarray]
    count: int


# --- the paper's algorithm ------------------------------------------------------------------------


def direct_and_sensitivity(field: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return x(T) and Xi(T), all n columns, of one image: eqs. (1) and (2) with Xi(0) = I."""
    h = x.dtype.type(field.T / field.n_layers)
    Xi = np.eye(len(x), dtype=x.dtype)
    for W, b in zip(field.W, field.b, strict=True):
        a = W @ x + b
        Xi = Xi + h * (field.activation.slope(a)[:, None] * (W @ Xi))
        x = x + h * field.activation.value(a)
    return x, Xi


def as_written(field: Any, x0: np.ndarray, i: int, n_iter: int) -> np.ndarray:
    """Attack one image of class i with a moving target: algorithm 2 of the paper."""
    x, best, smallest = x0, x0, np.inf
    for iteration in range(n_iter + 1):
        z, p = direct_and_sensitivity(field, x)
        z, p = z[:N_CLASSES], p[:N_CLASSES]
        size = np.linalg.norm(x - x0)
        if z.argmax() != i and size < smallest:
            best, smallest = x, size
        if iteration == n_iter:
            return best if np.isfinite(smallest) else x
        v = x0.dtype.type(MARGIN) * p - p[i]
        length = np.linalg.norm(v, axis=1)
        distance = (z[i] - MARGIN * z) / length
        distance[i] = np.inf
        j = distance.argmin()
        x = np.clip(x + x0.dtype.type(STEP) * (v[j] / length[j]), *BOX).astype(x0.dtype)
    raise AssertionError("the loop returns")


def paper_candidates(p: Problem, images: int) -> list[Candidate]:
    def run() -> np.ndarray:
        found = [as_written(p.field, p.x[:, k].copy(), p.y[k], p.n_iter) for k in range(images)]
        return np.stack(found, axis=1)

    def run_alone() -> np.ndarray:
        with threadpool_limits(1, user_api="blas"):
            return run()

    # as it is written, the last point is solved for with all its columns, too
    count = images * (p.n_iter + 1)
    return [
        Candidate("paper 001, as written", run, count),
        Candidate("the same, BLAS with one thread", run_alone, count),
    ]


def snode_walk(p: Problem) -> Candidate:
    def run() -> np.ndarray:
        result = snode.sensitivity_attack(
            p.field, p.x, p.y, step=STEP, margin=MARGIN, n_iter=p.n_iter, box=BOX
        )
        assert not result.skipped.any()
        return result.x_adv

    return Candidate("snode.sensitivity_attack", run, p.x.shape[1] * p.n_iter)


# --- gradients ------------------------------------------------------------------------------------


def snode_pgd(p: Problem) -> Candidate:
    def run() -> np.ndarray:
        result = snode.pgd(
            p.field, p.x, p.y, eps=RADIUS, norm="2", step=STEP, n_iter=p.n_iter, box=BOX,
            random_start=False, keep_best=False,
        )  # fmt: skip
        assert (result.n_gradient == p.n_iter).all()
        return result.x_adv

    return Candidate("snode.pgd", run, p.x.shape[1] * p.n_iter)


def art_candidates(p: Problem) -> list[Candidate]:
    import torch
    from art.attacks.evasion import ProjectedGradientDescent

    m = p.x.shape[1]
    rows = np.ascontiguousarray(p.x.T)

    def candidate(name: str, batch: int, frozen: bool) -> Candidate:
        attack = ProjectedGradientDescent(
            art_classifier(p.field, torch, frozen), norm=2, eps=RADIUS, eps_step=STEP,
            max_iter=p.n_iter, num_random_init=0, batch_size=batch, verbose=False,
        )  # fmt: skip
        return Candidate(name, lambda: attack.generate(rows, p.y).T, m * p.n_iter)

    sizes = sorted({min(100, m), m})
    found = [candidate(f"ART PGD, batch {size}", size, True) for size in sizes]
    return [*found, candidate(f"ART PGD, batch {m}, weights too", m, False)]


def art_classifier(field: Any, torch: Any, frozen: bool) -> Any:
    """Return the residual network as ART sees it."""
    from art.estimators.classification import PyTorchClassifier

    n, h = field.n, field.T / field.n_layers

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Linear(n, n) for _ in field.W)
            with torch.no_grad():
                for layer, W, b in zip(self.layers, field.W, field.b, strict=True):
                    layer.weight.copy_(torch.tensor(W))
                    layer.bias.copy_(torch.tensor(b))
            self.requires_grad_(not frozen)
            self.sigma = getattr(torch, field.activation.name)

        def forward(self, x: Any) -> Any:
            for layer in self.layers:
                x = torch.add(x, self.sigma(layer(x)), alpha=h)
            return x[:, :N_CLASSES]

    loss = torch.nn.CrossEntropyLoss()
    return PyTorchClassifier(Net(), loss, (n,), N_CLASSES, clip_values=BOX)


# --- in turns -------------------------------------------------------------------------------------


def milliseconds(candidates: list[Candidate], repeats: int) -> dict[str, float]:
    """Return the median milliseconds per image and iteration."""
    timed = in_turns({c.name: c.run for c in candidates}, repeats)
    return {c.name: 1e3 * timed[c.name][0] / c.count for c in candidates}


def compare(p: Problem, repeats: int, paper_images: int) -> dict[str, Any]:
    walk, papers, pgd = snode_walk(p), paper_candidates(p, paper_images), snode_pgd(p)
    art = available({"ART": lambda: art_candidates(p)}).get("ART", [])
    agreement = {"paper": agree_with_paper(walk, papers[0]), "art": agree_with_art(p, pgd, art)}
    times = milliseconds([walk, *papers, pgd, *art], repeats)
    show("moving target", times, [walk, *papers], p)
    show("gradients", times, [pgd, *art], p)
    ratios = {"paper": min(times[c.name] for c in papers) / times[walk.name]}
    print(f"  faster of the paper's / snode.sensitivity_attack = {ratios['paper']:.1f}")
    if art:
        ratios["art"] = min(times[c.name] for c in art) / times[pgd.name]
        print(f"  fastest ART PGD / snode.pgd = {ratios['art']:.2f}")
    return {"ms_per_image_and_iteration": times, "ratios": ratios, "agreement": agreement}


def agree_with_paper(walk: Candidate, paper: Candidate) -> float:
    """Return the largest difference between the adversarial images of both."""
    theirs = paper.run()
    difference = float(abs(walk.run()[:, : theirs.shape[1]] - theirs).max())
    print(f"  moving target: largest difference between the adversarial images of snode and of the "
          f"paper's algorithm, {theirs.shape[1]} images: {difference:.1e}")  # fmt: skip
    return difference


def agree_with_art(p: Problem, pgd: Candidate, art: list[Candidate]) -> dict[str, float] | None:
    """Return the median difference of the images, and the shares that are fooled."""
    if not art:
        return None
    ours, theirs = pgd.run(), np.ascontiguousarray(art[-1].run(), dtype=p.x.dtype)
    difference = float(np.median(abs(ours - theirs).max(axis=0)))
    fooled = [float((snode.predict(p.field, x) != p.y).mean()) for x in (ours, theirs)]
    print(f"  PGD: largest difference between the adversarial images of snode and of ART, median "
          f"over the images: {difference:.1e}; fooled: snode {100 * fooled[0]:.1f} %, ART "
          f"{100 * fooled[1]:.1f} %")  # fmt: skip
    return {"median_difference": difference, "fooled_snode": fooled[0], "fooled_art": fooled[1]}


def show(title: str, times: dict[str, float], rows: list[Candidate], p: Problem) -> None:
    m, own = p.x.shape[1], times[rows[0].name]
    print(f"  {title + ', ms per image and iteration':<46}{'ms':>8}{f's for {m}':>12}{'x':>8}")
    for c in rows:
        ms = times[c.name]
        total = 1e-3 * ms * m * p.n_iter
        scaled = " (scaled)" if c.count < m * p.n_iter else ""
        print(f"    {c.name:<44}{ms:8.3f}{total:12.1f}{ms / own:8.2f}{scaled}")


# --- command line ---------------------------------------------------------------------------------


def network(path: Path | None, data: Any, quick: bool) -> tuple[Any, str]:
    """Return the network, and where it comes from."""
    if path is not None:
        return snode.load(path).field, path.name
    layers = 10 if quick else 150
    start = snode.StandaloneField.random(
        196, 3.0, layers, activation="relu", rng=1, dtype="float32"
    )  # fmt: skip
    if quick:
        return start, "random weights"
    result = snode.train(start, data, epochs=SHORT, rng=1, eval_every=SHORT)
    return result.field, f"trained here for {SHORT} epoch"


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, 5)
    parser.add_argument("--model", type=Path, help="a model file; default: train one shortly")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--paper-images", type=int, default=8)
    parser.add_argument("--threads", type=int, help="of NumPy's BLAS and PyTorch; default all")
    args = parse(parser, argv, images=10, iterations=2, paper_images=1, repeats=1)
    logging.getLogger("art").setLevel(logging.WARNING)
    data = snode.datasets.load_mnist()
    field, source = network(args.model, data, args.quick)
    correct = snode.predict(field, data.x_test) == data.y_test
    right = np.flatnonzero(correct)[: args.images]
    x, y = np.ascontiguousarray(data.x_test[:, right]), data.y_test[right]
    p = Problem(field, x, y, args.iterations)
    print_machine(PEERS)
    print(f"model: {source}, {field!r}, {100 * correct.mean():.1f} % of the test images right")
    print(f"{x.shape[1]} images, {args.iterations} iterations; medians of {args.repeats}, all "
          "candidates in turn")  # fmt: skip
    with threads(args.threads):
        result = compare(p, args.repeats, min(args.paper_images, x.shape[1]))
    report(args, {"model": source, "images": x.shape[1], **result}, PEERS)


if __name__ == "__main__":
    main()
