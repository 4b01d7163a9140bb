r"""Local methods against all vertices.

How often do local methods miss the largest logarithmic norm?

f = max lambda_max(Sym(D A)) over d in [m, 1]^n is attained at a vertex, d_i in {m, 1}: for small n
all 2^n can be tried, which gives the truth. Against it:

    flow            the paper's gradient system from the middle of the box,
    sign, 1 start   d_i <- 1 if z_i (Az)_i > 0, else m, from D = I,
    sign, 10 starts the same from D = I and nine random directions,
    default         what `max_log_norm` does: 20 starts, half of them from the certificate, and
                    further rounds near the best, until the gap is closed,
    exact           branch and bound.

A local answer that misses the maximum is a lower bound: as a bound of the growth it is wrong. The
certified upper bound is not. Where its gap is zero it proves that the local answer is the maximum.

Paper 003 (Guglielmi et al.; arXiv 2402.13092) uses the flow; how often it misses is not said in the
text that is available to us. Chosen here: A = G/sqrt(n) - s I with standard normal G, s = 0 or 1.5
in turn, m = 0.1; shares with the 95 % interval of Wilson. An earlier prototype, on 60 other random
problems with n = 4..10, found the maximum in 24 (sign, 1 start), 48 (10 starts), 38 (flow).

    python demos/contractivity/exact_vs_local.py --full --out figure.png
"""

from __future__ import annotations

from typing import Any

import contractivity_common as common
import numpy as np

import snode

M = 0.1
SAME = 1e-9
METHODS: dict[str, dict[str, Any]] = {
    "flow": {"method": "flow", "certify": False},
    "sign, 1 start": {"n_starts": 1, "n_rounds": 0, "certify": False},
    "sign, 10 starts": {"n_starts": 10, "n_rounds": 0, "certify": False},
    "default": {},
    "exact": {"method": "exact"},
}
PROTOTYPE = {"sign, 1 start": 24, "sign, 10 starts": 48, "flow": 38}
"""Of 60, with other matrices, n = 4..10."""


def run(quick: bool = True, rng: Any = 1) -> dict[str, Any]:
    """Try all methods and all vertices on random matrices."""
    sizes, count = (range(4, 9), 12) if quick else (range(4, 13), 100)
    generator = np.random.default_rng(rng)
    problems = []
    for n in sizes:
        for k in range(count):
            shift = 1.5 * (k % 2)
            A, seed = common.gaussian(n, generator, shift), int(generator.integers(2**31))
            problems.append({"n": n, "shift": shift, **_solve(A, seed)})
    numbers: dict[str, Any] = {"m": M, "problems": problems}
    numbers["found"] = {
        name: {n: shares(numbers, name, (n,)) for n in sizes} for name in METHODS
    }  # of each n, in how many of how many
    return numbers


def _solve(A: Any, seed: int) -> dict[str, Any]:
    """Return the truth and the bounds of every method."""
    true = common.brute_force([A], M)
    found = {
        name: snode.max_log_norm(A, (M, 1.0), rng=seed, **options)
        for name, options in METHODS.items()
    }
    return {
        "true": true,
        "missing": {name: true - f.lower for name, f in found.items()},
        "above": {name: found[name].upper - true for name in ("default", "exact")},
        "n_eig": {name: f.n_eig for name, f in found.items()},
    }


def shares(numbers: dict[str, Any], name: str, sizes: Any = None) -> tuple[int, int]:
    """Return in how many of how many problems a method found the maximum."""
    chosen = [p for p in numbers["problems"] if sizes is None or p["n"] in sizes]
    return sum(p["missing"][name] <= SAME for p in chosen), len(chosen)


def _percent(found: int, of: int) -> str:
    low, high = common.wilson(found, of)
    return f"{found} of {of}: {100 * found / of:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def claims(numbers: dict[str, Any]) -> list[common.Claim]:
    """Return what should hold and whether it does."""
    problems = numbers["problems"]
    highest = max(-p["missing"][name] for p in problems for name in METHODS)
    lowest = min(p["above"][name] for p in problems for name in ("default", "exact"))
    above = np.array([p["above"]["default"] for p in problems])
    proved = int((above <= SAME).sum())
    exact = shares(numbers, "exact")
    ends = max(p["above"]["exact"] for p in problems)
    return [
        ("lower bounds are never above the truth", highest <= 1e-12,
         f"{len(problems)} matrices; largest excess {highest:.1g} (rounding of the truth)"),
        ("certified upper bounds are never below the truth", lowest >= -1e-12,
         f"smallest distance {lowest:.1g}"),
        ("branch and bound finds and proves the maximum", exact[0] == exact[1] and ends < 1e-8,
         f"{exact[0]} of {exact[1]}; largest upper - true {ends:.1g}"),
        *(_missed(numbers, name) for name in PROTOTYPE),
        ("the default search finds it more often than 10 starts",
         shares(numbers, "default")[0] >= shares(numbers, "sign, 10 starts")[0],
         _percent(*shares(numbers, "default"))),
        ("the plain certificate is close to the truth", float(np.median(above)) < 0.02,
         f"upper - true: median {np.median(above):.1g}, largest {above.max():.3f}; "
         f"below {SAME:g} in {_percent(proved, len(above))}"),
    ]  # fmt: skip


def _missed(numbers: dict[str, Any], name: str) -> common.Claim:
    """Say how often a local method misses the maximum, and by how much."""
    found, of = shares(numbers, name)
    worst = max(p["missing"][name] for p in numbers["problems"])
    small = shares(numbers, name, range(4, 11))
    return (
        f"a local method misses the maximum: {name}", found < of,
        f"found in {_percent(found, of)}; misses by up to {worst:.3f}; n <= 10: "
        f"{_percent(*small)}, the prototype {PROTOTYPE[name]} of 60",
    )  # fmt: skip


STYLES = {
    "flow": (common.COLOURS[1], "s", "--"),
    "sign, 1 start": (common.COLOURS[2], "^", "-."),
    "sign, 10 starts": (common.COLOURS[3], "D", ":"),
    "default": (common.COLOURS[0], "o", "-"),
}


def plot(numbers: dict[str, Any]) -> Any:
    """Draw how often the maximum is found, by how much it is missed, and the gap."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    share, missing, gap = figure.subplots(1, 3)
    sizes = sorted({p["n"] for p in numbers["problems"]})
    for shift, (name, (colour, marker, line)) in zip(
        (-0.15, -0.05, 0.05, 0.15), STYLES.items(), strict=True
    ):
        counts = [shares(numbers, name, (n,)) for n in sizes]
        p = np.array([found / of for found, of in counts])
        low, high = np.array([common.wilson(*count) for count in counts]).T
        share.errorbar(np.array(sizes) + shift, 100 * p, 100 * np.maximum([p - low, high - p], 0),
                       color=colour, marker=marker, ls=line, ms=4, capsize=2,
                       label=name)  # fmt: skip
        _draw_tail(missing, [p["missing"][name] for p in numbers["problems"]], name)
    share.set(xlabel="n", xticks=sizes, ylabel="maximum found in % (95 % interval)", ylim=(0, 104),
              title=f"{counts[0][1]} random matrices for each n")  # fmt: skip
    share.legend(fontsize="small", loc="lower left")
    missing.set(xscale="log", xlabel="true maximum - found, larger than",
                ylabel="% of the matrices", title="What is missed")  # fmt: skip
    missing.legend(fontsize="small")
    _draw_gap(gap, numbers, sizes)
    for ax in (share, missing, gap):
        ax.grid(alpha=0.3)
    return figure


def _draw_tail(ax: Any, values: list[float], name: str) -> None:
    """Draw in how many problems more than x is missing."""
    colour, _, line = STYLES[name]
    x = np.logspace(-5, 0, 200)
    tail = (np.asarray(values) > x[:, None]).mean(axis=1)
    ax.plot(x, 100 * tail, ls=line, color=colour, label=name)


def _draw_gap(ax: Any, numbers: dict[str, Any], sizes: list[int]) -> None:
    """Draw upper - true of the plain certificate, every matrix and the median."""
    groups = [[p["above"]["default"] for p in numbers["problems"] if p["n"] == n] for n in sizes]
    floor = 1e-10
    for n, group in zip(sizes, groups, strict=True):
        spread = n + np.linspace(-0.25, 0.25, len(group))
        ax.semilogy(spread, np.maximum(np.sort(group), floor), ".", ms=3, color="0.5")
    ax.semilogy(sizes, [max(float(np.median(g)), floor) for g in groups], "o-",
                color=common.COLOURS[0], label="median")  # fmt: skip
    ax.set(xlabel="n", xticks=sizes, ylabel=f"upper - true (below {floor:g}: drawn there)",
           title="Gap of the certificate")  # fmt: skip
    ax.legend(fontsize="small", loc="lower right")


def main() -> None:
    """Run from the command line."""
    args = common.options(__doc__, "exact_vs_local")
    numbers = run(quick=not args.full, rng=args.seed)
    for name in METHODS:
        work = np.mean([p["n_eig"][name] for p in numbers["problems"]])
        print(f"{name:16s} {_percent(*shares(numbers, name))}, {work:.0f} eigenpairs on average")
    common.finish(args, plot(numbers), numbers, claims(numbers), leave_out=("problems",))


if __name__ == "__main__":
    main()
