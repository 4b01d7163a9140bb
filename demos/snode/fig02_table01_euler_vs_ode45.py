"""Figure 2 and Table 1: training with Euler and with ODE45.

Paper 001 (Jaroudi et al., arXiv 2205.13933), section 5: a standalone neural ODE is trained on 14x14
MNIST once with explicit Euler and once with an adaptive solver (ODE45). Figure 2 shows the
accuracies during training, Table 1 the accuracies when a network that was trained with one solver
is used with the other. The paper's claim: Euler trains at least as well. Its numbers are not
available to us.

Known from the paper or its authors' code: tanh, squared distance without weight decay, L2 gradient,
Fletcher-Reeves, T = 3, 150 cells, batch 100, 6 iterations a batch, weights cubic in t through 151
nodes for ODE45, RelTol = AbsTol = 1e-3. Chosen here: cubic weights for both solvers (so that a
trained network can be used with either), MATLAB's default longest step T/10 for ODE45, fewer epochs
and runs than the paper. Our gradient is the exact derivative of the
numbers that each solver computes; theirs is (6) and (7) evaluated at the nodes.

    python demos/snode/fig02_table01_euler_vs_ode45.py --full --out figure.png
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

import snode

T, N_LAYERS = 3.0, 150
SOLVERS = {
    "Euler": snode.Solver("euler"),
    "ODE45": snode.Solver("ode45", rtol=1e-3, atol=1e-3, max_step=T / 10),
}
COLOURS = {"Euler": "#1b1b3a", "ODE45": "#b3446c"}
STYLES = {"train": "-", "test": "--"}


def run(
    quick: bool = True, rng: Any = 1, n_runs: int | None = None, epochs: float | None = None
) -> dict[str, Any]:
    """Train both ways from the same weights on the same batches, then exchange the solvers."""
    data = snode.datasets.load_mnist()
    n_runs = n_runs or (1 if quick else 3)
    epochs = epochs or (0.01 if quick else 0.25)
    every, samples = (epochs / 2, 300) if quick else (epochs / 10, 2000)
    runs = []
    for seed in np.random.default_rng(rng).integers(2**31, size=n_runs):
        start = snode.StandaloneField.random(
            196, T, N_LAYERS, interpolation="cubic", rng=int(seed), dtype="float32"
        )
        trained = {
            name: snode.train(
                start, data, snode.Cost(l2=1.0), solver=solver, epochs=epochs,
                n_iter=2 if quick else 6, rng=int(seed), eval_every=every, eval_samples=samples,
            )
            for name, solver in SOLVERS.items()
        }  # fmt: skip
        runs.append(
            {
                "evaluations": {name: result.evaluations for name, result in trained.items()},
                "cost": {name: result.history["cost"] for name, result in trained.items()},
                "table": _table(trained, data, 300 if quick else 10_000),
                "steps": _steps(trained["ODE45"].field, data.x_test[:, :100]),
            }
        )
    return {"runs": runs, "epochs": epochs, "samples": samples}


def _table(trained: dict[str, Any], data: Any, samples: int) -> dict[str, dict[str, float]]:
    """Return accuracies for each pair "trained with / used with"."""
    table = {}
    for trained_with, result in trained.items():
        for used_with, solver in SOLVERS.items():
            table[f"{trained_with} / {used_with}"] = {
                "train": _accuracy(result.field, data.x_train, data.y_train, samples, solver),
                "test": _accuracy(result.field, data.x_test, data.y_test, samples, solver),
            }
    return table


def _accuracy(field: Any, x: Any, y: Any, samples: int, solver: snode.Solver) -> float:
    try:
        return snode.accuracy(field, x[:, :samples], y[:samples], solver=solver)
    except snode.IntegrationError as error:
        print(f"not solved: {error}")
        return math.nan


def _steps(field: Any, x: Any) -> int:
    """Return how many steps ODE45 takes through the trained network."""
    sol = SOLVERS["ODE45"].solve(field, np.ascontiguousarray(x), keep="last")
    return int(sol.n_accepted)


def mean_std(numbers: dict[str, Any], pair: str, split: str) -> tuple[float, float]:
    """Return mean and standard deviation over the runs of an entry of the table."""
    values = [r["table"][pair][split] for r in numbers["runs"]]
    return float(np.mean(values)), float(np.std(values))


def claims(numbers: dict[str, Any]) -> list[tuple[str, bool]]:
    """Return the paper's claims and whether these numbers agree."""

    def test(pair: str) -> float:
        return mean_std(numbers, pair, "test")[0]

    return [
        ("Euler trains at least as well as ODE45", test("Euler / Euler") >= test("ODE45 / ODE45")),
        ("a network trained with Euler can be used with ODE45 (loses under 1 %)",
         test("Euler / ODE45") >= test("Euler / Euler") - 0.01),
        ("a network trained with ODE45 can be used with Euler (loses under 1 %)",
         test("ODE45 / Euler") >= test("ODE45 / ODE45") - 0.01),
    ]  # fmt: skip


def plot(numbers: dict[str, Any]) -> Any:
    """Draw accuracy against epochs, and the table."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    curves, table = figure.subplots(1, 2, width_ratios=(1.5, 1))
    for name, colour in COLOURS.items():
        for split, style in STYLES.items():
            key = f"{split}_accuracy"
            rows = np.array([r["evaluations"][name][key] for r in numbers["runs"]]) * 100
            epoch = np.asarray(numbers["runs"][0]["evaluations"][name]["epoch"])
            mean, std = rows.mean(axis=0), rows.std(axis=0)
            curves.plot(epoch, mean, style, color=colour, label=f"{name}, {split}",
                        marker={"Euler": "o", "ODE45": "^"}[name], ms=3.5)  # fmt: skip
            curves.fill_between(epoch, mean - std, mean + std, color=colour, alpha=0.12)
    curves.set_xlabel("epoch")
    curves.set_ylabel(f"accuracy in % (first {numbers['samples']} samples)")
    n_runs = len(numbers["runs"])
    curves.set_title(
        "Training with two solvers" + (f", mean and std of {n_runs} runs" if n_runs > 1 else "")
    )
    curves.legend(fontsize="small", loc="lower right")
    curves.grid(alpha=0.3)
    _draw_table(table, numbers)
    return figure


def _draw_table(ax: Any, numbers: dict[str, Any]) -> None:
    ax.axis("off")
    pairs = list(numbers["runs"][0]["table"])
    cells = []
    for pair in pairs:
        row = pair.split(" / ")
        for split in ("train", "test"):
            mean, std = mean_std(numbers, pair, split)
            spread = f" ± {100 * std:.2f}" if len(numbers["runs"]) > 1 else ""
            row.append(f"{100 * mean:.2f}{spread}")
        cells.append(row)
    head = ["trained\nwith", "used\nwith", "training %", "test %"]
    drawn = ax.table(cells, colLabels=head, loc="center", cellLoc="center",
                     colWidths=(0.17, 0.17, 0.33, 0.33))  # fmt: skip
    drawn.scale(1, 1.9)
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(8.5)
    ax.set_title("Accuracy after training")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--quick", action="store_true", help="a few seconds (the default)")
    group.add_argument("--full", action="store_true", help="a quarter of an epoch, three runs")
    parser.add_argument("--runs", type=int, help="number of training runs of each kind")
    parser.add_argument(
        "--out", type=Path, default=Path("fig02_table01_euler_vs_ode45.png"), help="figure to write"
    )
    parser.add_argument("--epochs", type=float, help="length of each training run")
    args = parser.parse_args()
    args.out = args.out.with_suffix(args.out.suffix or ".png")
    numbers = run(quick=not args.full, n_runs=args.runs, epochs=args.epochs)
    plot(numbers).savefig(args.out, dpi=110)
    summary: dict[str, Any] = {"epochs": numbers["epochs"], "runs": len(numbers["runs"])}
    print("trained with / used with: training, test accuracy in %")
    for pair in numbers["runs"][0]["table"]:
        row = [mean_std(numbers, pair, split) for split in ("train", "test")]
        summary[pair] = row
        print(f"  {pair:14s}", "   ".join(f"{100 * m:.2f} +- {100 * s:.2f}" for m, s in row))
    summary["steps of ODE45"] = [r["steps"] for r in numbers["runs"]]
    print("steps of ODE45 through the trained network:", summary["steps of ODE45"])
    if not args.full:
        print("quick: too small to judge the claims; the tests look only at gross features")
    for claim, agrees in claims(numbers) if args.full else ():
        print(f"  {'agrees' if agrees else 'DISAGREES'}: {claim}")
    summary["claims"] = dict(claims(numbers))
    summary["versions"] = {"snode": snode.__version__, "numpy": np.__version__}
    args.out.with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n")
    print(f"wrote {args.out} and {args.out.with_suffix('.json')}")


if __name__ == "__main__":
    main()
