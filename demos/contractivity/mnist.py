r"""A neural ODE for MNIST, made contractive.

Attacks and certificates, before and after.

Paper 003 (Guglielmi et al., arXiv 2402.13092), last experiment: a weight-tied one-layer neural ODE

    x' = sigma(A x + b),   t in [0, 1],   x(0) the image,   class = argmax of V x(1) + c

with slopes of sigma in [m, 1] is trained; then A is changed such that the field is contractive, and
the linear classifier (V, c) is fitted again. Two changes, both verified by the certificate:

    shift          A - tau I with the smallest tau,
    perturbation   A + Delta with small |Delta|_F (De Marinis et al., arXiv 2501.10740).

The classifier of the unchanged field is fitted again, too, so that only A differs. Attacks give an
upper bound of the accuracy under perturbations, the certified radii (margin / (|V_i - V_j| L), with
the growth factor L of Euler's steps) a lower bound.

Known from the paper: the form of the network, MNIST, FGSM. Its architecture, its activation and its
accuracies under FGSM are not available to us. Chosen here: 14 x 14 pixels in [0, 1] (n = 196),
leaky_tanh with m = 0.1, 20 Euler steps, Adam with rate 1e-3 and weight decay 1e-3 on the cross
entropy, c = 0, ridge 1e-3 in the classifier, the first test images.

    python demos/contractivity/mnist.py --full --out figure.png
"""

from __future__ import annotations

import functools
from typing import Any

import contractivity_common as common
import numpy as np
from scipy.optimize import minimize

import snode

M, T, N_LAYERS, C = 0.1, 1.0, 20, 0.0
RATE, DECAY, RIDGE = 1e-3, 1e-3, 1e-3
BOX = (0.0, 1.0)
NAMES = ("original", "shift", "perturbation")
RADII = {
    "inf": np.array([0.0, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1]),
    "2": np.array([0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0]),
}
STYLES = (("s", "--"), ("^", "-."), ("o", "-"))


def run(
    quick: bool = True, rng: Any = 1, n: int | None = None, epochs: float | None = None
) -> dict[str, Any]:
    """Train, change, fit again; attack and certify the first `n` test images."""
    data = snode.datasets.load_mnist(encoding=BOX, dtype="float32")
    n = n or (50 if quick else 1000)
    epochs = epochs or (0.1 if quick else 1.0)
    trained = train(data, epochs, rng)
    A = np.asarray(trained.parameters["W1"], np.float64)
    fitted = 5000 if quick else 20_000
    numbers: dict[str, Any] = {
        "n": n, "epochs": epochs, "c": C, "m": M,
        "as_trained": snode.accuracy(trained, data.x_test, data.y_test),
        "networks": {},
    }  # fmt: skip
    for name, B in changed(A, quick).items():
        field = refitted(trained.with_parameters(W1=B.astype(np.float32)), data, fitted)
        numbers["networks"][name] = {
            "change": float(np.linalg.norm(B - A)),
            "accuracy": snode.accuracy(field, data.x_test, data.y_test),
            **measured(field, data.x_test[:, :n], data.y_test[:n], quick),
        }
    return numbers


def train(data: Any, epochs: float, rng: Any) -> snode.Classifier:
    """Train the network from random weights."""
    activation = snode.get_activation("leaky_tanh", alpha=M)
    field = snode.MLPField((196, 196), output_activation=activation, T=T, n_layers=N_LAYERS,
                           scale=0.3, rng=[rng, 1], dtype="float32")  # fmt: skip
    start = snode.Classifier.random(field, 10, rng=[rng, 2])
    cost = snode.Cost(l2=0, ce=1, decay=DECAY, n_classes=10)
    result = snode.train(start, data, cost, method="adam", learning_rate=RATE, epochs=epochs,
                         batch_size=100, rng=[rng, 3], threads=1)  # fmt: skip
    return result.field


def changed(A: Any, quick: bool = False) -> dict[str, Any]:
    """Return A, and A made contractive in both ways."""
    # few rounds: the cuts only give the lower bound of |Delta|, which is not needed here
    few = 1 if quick else 2
    small = snode.minimal_perturbation(A, (M, 1.0), C, max_iter=few, n_starts=few)
    return dict(zip(NAMES, (A, small.shift.matrix, small.matrix), strict=True))


def refitted(field: Any, data: Any, count: int) -> Any:
    """Return the network with the best linear classifier of x(1): multinomial logistic, ridge."""
    x = np.asarray(snode.solve_direct(field, data.x_train[:, :count]).x_T, np.float64)
    middle, size = x.mean(axis=1), x.std()
    features = np.vstack([(x - middle[:, None]) / size, np.ones(x.shape[1])])
    hot = np.eye(10)[:, data.y_train[:count]]

    def cost(v: Any) -> Any:
        U = v.reshape(10, -1)
        z = U @ features
        z -= z.max(axis=0)
        e = np.exp(z)
        total = e.sum(axis=0)
        gradient = (e / total - hot) @ features.T / x.shape[1]
        gradient[:, :-1] += RIDGE * U[:, :-1]
        entropy = (np.log(total) - (z * hot).sum(axis=0)).mean()
        return entropy + 0.5 * RIDGE * (U[:, :-1] ** 2).sum(), gradient.ravel()

    found = minimize(cost, np.zeros(10 * len(features)), jac=True, method="L-BFGS-B",
                     options={"maxiter": 300})  # fmt: skip
    U = found.x.reshape(10, -1)
    V = U[:, :-1] / size
    c = U[:, -1] - V @ middle
    return field.with_parameters(V=V.astype(np.float32), c=c.astype(np.float32))


def attacks(quick: bool) -> dict[str, Any]:
    """Return the attacks that look for the smallest perturbation in the 2-norm."""
    steps = 10 if quick else 40
    return {
        "sensitivity": functools.partial(
            snode.sensitivity_attack, margin_kind="additive", margin=1e-3, n_iter=steps
        ),
        "DeepFool": functools.partial(snode.deepfool, n_iter=steps),
        "CW": functools.partial(snode.carlini_wagner, n_search=4, n_iter=steps),
    }


def measured(field: Any, x: Any, y: Any, quick: bool) -> dict[str, Any]:
    """Bound the growth, attack with everything, compare what fools with the certified radius."""
    f = snode.max_log_norm(np.asarray(field.parameters["W1"], np.float64), (M, 1.0))
    flow, euler = (snode.growth_bound(field, kind=kind) for kind in ("flow", "euler"))
    curves, results = _attacked(field, x, y, quick)
    sizes = np.min([np.where(r.success & ~r.skipped, r.norm2, np.inf) for r in results], axis=0)
    found = snode.certified_radius(field, x, y, growth=euler)
    correct = found.radius > 0
    closest = sizes[correct] / found.radius[correct]
    return {
        "lower": f.lower, "upper": f.upper, "flow": flow.factor[-1], "euler": euler.factor[-1],
        "attacked": curves, "certified": found.accuracy(RADII["2"]),
        "correct": int(correct.sum()), "fooled": int(np.isfinite(closest).sum()),
        "violations": int((closest < 1).sum()), "closest": float(closest.min()),
        "median radius": float(np.median(found.radius[correct])),
        "median attack": _finite(np.median(sizes[correct])),
    }  # fmt: skip


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _attacked(field: Any, x: Any, y: Any, quick: bool) -> tuple[dict[str, Any], list[Any]]:
    """Return the accuracy that each attack leaves at each radius, and all results."""
    options: dict[str, Any] = {"box": BOX, "n_classes": 10}
    results = [attack(field, x, y, **options) for attack in attacks(quick).values()]
    curves = {}
    climb = {"n_iter": 10 if quick else 20, "random_start": False}
    for norm, radii in RADII.items():
        for name, attack, more in (("FGSM", snode.fgsm, {}), ("PGD", snode.pgd, climb)):
            found = [
                attack(field, x, y, eps=float(r), norm=norm, **more, **options) for r in radii[1:]
            ]
            results += found
            fooled = snode.success_curve(found, radii, norm=norm, count_skipped=True)
            curves[f"{name} {norm}"] = 1 - fooled
    curves["all 2"] = 1 - snode.success_curve(results, RADII["2"], count_skipped=True)
    return curves, results


def claims(numbers: dict[str, Any]) -> list[common.Claim]:
    """Return what should hold and whether it does."""
    nets = numbers["networks"]
    original, shift, small = (nets[name] for name in NAMES)
    both = (shift, small)
    return [
        ("no attack succeeds inside of a certified radius",
         all(net["violations"] == 0 for net in nets.values()),
         f"{sum(net['correct'] for net in nets.values())} radii; the smallest perturbation that "
         f"fools is {min(net['closest'] for net in nets.values()):.3g} radii long or longer"),
        ("the trained field is not contractive", original["lower"] > 0,
         f"f in [{original['lower']:.3f}, {original['upper']:.3f}]"),
        ("after either change it is, certified", all(net["upper"] <= 1e-6 for net in both),
         f"upper bounds of f {shift['upper']:.1g} and {small['upper']:.1g}; growth of Euler's "
         f"steps {original['euler']:.3g} before, {shift['euler']:.3g} and {small['euler']:.3g}"),
        ("the perturbation changes A less than the shift", small["change"] <= shift["change"],
         f"{small['change']:.3g} and {shift['change']:.3g} in the Frobenius norm"),
        ("the perturbation costs less accuracy than the shift",
         small["accuracy"] >= shift["accuracy"],
         f"all test images: original {100 * original['accuracy']:.2f} %, shift "
         f"{100 * shift['accuracy']:.2f} %, perturbation {100 * small['accuracy']:.2f} %"),
        *(
            _more(f"{name}: more accurate under {attack} than the original, at every size",
                  net["attacked"][f"{attack} inf"], original["attacked"][f"{attack} inf"],
                  RADII["inf"])
            for name, net in zip(NAMES[1:], both, strict=True)
            for attack in ("FGSM", "PGD")
        ),
        *(
            _more(f"{name}: more images certified than of the original, at every size",
                  net["certified"], original["certified"], RADII["2"])
            for name, net in zip(NAMES[1:], both, strict=True)
        ),
    ]  # fmt: skip


def _more(text: str, changed: Any, original: Any, radii: Any) -> common.Claim:
    """Compare two curves at the positive sizes; equal where both are 0 %."""
    pairs = [(a, b) for a, b in zip(changed, original, strict=True)][1:]
    shown = ", ".join(
        f"{r:g}: {100 * a:.1f} / {100 * b:.1f}" for r, (a, b) in zip(radii[1:], pairs, strict=True)
    )
    return text, all(a > b or a == b == 0 for a, b in pairs), f"size: % changed / original; {shown}"


def plot(numbers: dict[str, Any]) -> Any:
    """Draw the accuracy under attack, and between what bounds the true one is."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    titles = {"FGSM inf": "FGSM", "PGD inf": "PGD, maximum norm", "PGD 2": "PGD, 2-norm"}
    for ax, (key, title) in zip(axes.flat, titles.items(), strict=False):
        for (name, net), (marker, line), colour in zip(
            numbers["networks"].items(), STYLES, common.COLOURS, strict=False
        ):
            radii = RADII[key.split()[-1]]
            ax.plot(radii, 100 * np.asarray(net["attacked"][key]), ls=line, marker=marker,
                    color=colour, label=name, mfc="white")  # fmt: skip
        size = r"$|\delta|_\infty$" if key.endswith("inf") else r"$|\delta|_2$"
        ax.set(title=title, xlabel=f"size of the perturbation {size}")
    _draw_certified(axes[1, 1], numbers)
    for ax in axes.flat:
        ax.set(ylabel="accuracy in %", ylim=(-2, 102))
        ax.grid(alpha=0.3)
        ax.legend(fontsize="small")
    figure.suptitle(f"First {numbers['n']} test images, before and after")
    return figure


def _draw_certified(ax: Any, numbers: dict[str, Any]) -> None:
    for (name, net), (marker, line), colour in zip(
        numbers["networks"].items(), STYLES, common.COLOURS, strict=False
    ):
        low, high = (100 * np.asarray(c) for c in (net["certified"], net["attacked"]["all 2"]))
        ax.plot(RADII["2"], low, ls=line, marker=marker, color=colour, label=f"{name}: certified")
        ax.plot(RADII["2"], high, ls=line, lw=0.8, marker=marker, ms=4, color=colour, mfc="white",
                label=f"{name}: all attacks")  # fmt: skip
    ax.set(
        title="The true accuracy is between the two",
        xlabel=r"size of the perturbation $|\delta|_2$",
    )


def main() -> None:
    """Run from the command line."""

    def change(parser: Any) -> None:
        parser.add_argument("--n", type=int, help="test images; default 50, 1000 with --full")
        parser.add_argument("--epochs", type=float, help="of training; default 0.1 and 1")

    args = common.options(__doc__, "mnist", change)
    numbers = run(quick=not args.full, rng=args.seed, n=args.n, epochs=args.epochs)
    print(f"as trained: {100 * numbers['as_trained']:.2f} % of all test images right")
    print("network        |change|_F   accuracy    f in                  Euler   radius   attack")
    for name, net in numbers["networks"].items():
        attack = net["median attack"]
        shown = "-" if attack is None else f"{attack:8.3g}"
        print(f"{name:13s} {net['change']:11.3f} {100 * net['accuracy']:9.2f} %  "
              f"[{net['lower']:8.4f}, {net['upper']:8.4f}] {net['euler']:8.3g} "
              f"{net['median radius']:8.3g} {shown}")  # fmt: skip
    common.finish(args, plot(numbers), numbers, claims(numbers))


if __name__ == "__main__":
    main()
