"""Tables that scikit-learn ships: SnodeClassifier beside MLPClassifier, five folds, several seeds.

Both have their own default settings and features standardised by the training part of each fold;
nothing is tuned. The seed decides folds, first weights and minibatches.

Run: python benchmarks/tables.py --json benchmarks/results/tables.json
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from harness import leave_out, make_parser, parse, print_machine, print_table, report

NAMES = {"iris": "load_iris", "wine": "load_wine", "breast cancer": "load_breast_cancer",
         "digits": "load_digits"}  # fmt: skip


def estimators() -> dict[str, Callable[[int], Any]]:
    """Return the candidates, made for a seed."""
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from snode.sklearn import SnodeClassifier

    return {
        "SnodeClassifier": lambda seed: SnodeClassifier(random_state=seed),
        "MLPClassifier": lambda seed: make_pipeline(
            StandardScaler(), MLPClassifier(random_state=seed, max_iter=1000)
        ),
    }


def measure(table: str, seeds: int, folds: int) -> dict[str, Any]:
    """Return accuracy (mean over the folds of each seed) and seconds of a fit (median)."""
    from sklearn import datasets
    from sklearn.model_selection import StratifiedKFold

    X, y = getattr(datasets, NAMES[table])(return_X_y=True)
    made = estimators()
    scores: dict[str, list[float]] = {name: [] for name in made}
    times: dict[str, list[float]] = {name: [] for name in made}
    for seed in range(seeds):
        split = StratifiedKFold(folds, shuffle=True, random_state=seed)
        for name, make in made.items():
            of_folds = []
            for train, test in split.split(X, y):
                start = time.perf_counter()
                fitted = make(seed).fit(X[train], y[train])
                times[name].append(time.perf_counter() - start)
                of_folds.append(fitted.score(X[test], y[test]))
            scores[name].append(float(np.mean(of_folds)))
    return {
        "samples": len(X), "features": X.shape[1],
        "accuracy": scores,
        "seconds": {name: float(np.median(t)) for name, t in times.items()},
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, 3)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--tables", nargs="+", choices=NAMES, default=list(NAMES))
    args = parse(parser, argv, repeats=1, folds=2, tables=["iris"])
    try:
        estimators()
    except ImportError as error:
        leave_out("scikit-learn", str(error))
        report(args, {})
        return
    print_machine(("scikit-learn",))
    results = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLPClassifier says when 1000 iterations were too few
        for table in args.tables:
            results[table] = measure(table, args.repeats, args.folds)
    rows = []
    for table, found in results.items():
        for name, scores in found["accuracy"].items():
            spread = f"{100 * np.mean(scores):.1f} +- {100 * np.std(scores):.1f}"
            rows.append([table, name, spread, f"{found['seconds'][name]:.2f}"])
    print_table(["table", "estimator", "accuracy, %", "seconds a fit"], rows)
    report(args, results, ("scikit-learn",))


if __name__ == "__main__":
    main()
