r"""Several layers.

x' = sigma(A_k ... sigma(A_1 x)): a two-sided bound, and what was there before.

The Jacobians are J = D_k A_k ... D_1 A_1 with slopes in [m, 1] in every D_j. Paper 003 (Guglielmi
et al.; arXiv 2402.13092) extends its two levels to this case. The gradient of z^T J z with respect
to the diagonal of D_j is (L_j^T z) * (R_j z) with L_j = D_k A_k ... D_(j+1) A_(j+1) and
R_j = A_j D_(j-1) ... D_1 A_1. The function is convex in the slopes of each layer, so the maximum
is at a vertex; a search gives a lower bound. The upper bound is a certificate with one multiplier
for each unit (the proof is in the documentation).

Without it one has the product of norms, |A_k| ... |A_1| in the 2-norm, which is a bound of any
Jacobian, and of its logarithmic norm. It is positive, so it never shows that a field contracts. For
one layer there is (1+m)/2 mu_2(A) + (1-m)/2 |A| too.

Known from the paper: the form of the field. Chosen here: layers I + 0.5 G/sqrt(n) with Gaussian G,
the last one negated (a field that pulls back), m = 0.5; the paper's matrices and numbers are not
available to us. For n = 3 the truth is known from all vertices.

    python demos/contractivity/multilayer.py --full --out figure.png
"""

from __future__ import annotations

import math
from typing import Any

import contractivity_common as common
import numpy as np

import snode

M = 0.5
DEPTHS = (1, 2, 3, 4)


def stack(n: int, depth: int, rng: np.random.Generator) -> list[Any]:
    """Return the layers A_1, ..., A_k."""
    layers = [np.eye(n) + 0.5 * rng.standard_normal((n, n)) / math.sqrt(n) for _ in range(depth)]
    return [*layers[:-1], -layers[-1]]


def run(quick: bool = True, rng: Any = 1) -> dict[str, Any]:
    """Bound stacks of 1 to 4 layers, and two layers for all m."""
    generator = np.random.default_rng(rng)
    n, n_stacks, n_m = (6, 3, 6) if quick else (12, 10, 13)
    pair = stack(n, 2, generator)
    slopes = np.linspace(0.1, 1, n_m)
    return {
        "n": n, "m": M, "two_layers": [_both(pair, float(m)) for m in slopes],
        "small": [_small(stack(3, k, generator)) for k in DEPTHS for _ in range(n_stacks)],
        "large": [_both(stack(n, k, generator), M) for k in DEPTHS for _ in range(n_stacks)],
    }  # fmt: skip


def _both(layers: list[Any], m: float) -> dict[str, Any]:
    """Return lower and upper bound of a stack, and the product of norms."""
    f = snode.max_log_norm(layers, (m, 1.0))
    norms = math.prod(float(np.linalg.norm(A, 2)) for A in layers)
    return {"depth": len(layers), "m": m, "lower": f.lower, "upper": f.upper, "norms": norms}


def _small(layers: list[Any]) -> dict[str, Any]:
    """The same with the truth from all vertices."""
    return {**_both(layers, M), "true": common.brute_force(layers, M)}


def claims(numbers: dict[str, Any]) -> list[common.Claim]:
    """Return what should hold and whether it does."""
    small, large, two = numbers["small"], numbers["large"], numbers["two_layers"]
    inside = all(r["lower"] <= r["true"] + 1e-12 and r["true"] <= r["upper"] + 1e-12 for r in small)
    missed = sum(r["true"] - r["lower"] > 1e-9 for r in small)
    every = small + large + two
    share = [_share(r) for r in large]
    contracting = [r for r in large if r["upper"] < 0]
    return [
        (f"lower <= true <= upper for {len(small)} stacks of n = 3, all vertices tried", inside,
         f"the search misses the maximum in {missed}; largest gap "
         f"{max(r['upper'] - r['lower'] for r in small):.3f}"),
        ("the certificate is below the product of norms",
         all(r["upper"] < r["norms"] for r in every),
         f"{len(every)} stacks, smallest difference "
         f"{min(r['norms'] - r['upper'] for r in every):.3f}"),
        ("the gap is a small part of what the product of norms leaves open",
         max(share) < 0.1,
         f"n = {numbers['n']}: {100 * min(share):.2g} % to {100 * max(share):.2g} %"),
        ("some stacks are proved contractive, which the product of norms cannot do",
         len(contracting) > 0, f"{len(contracting)} of {len(large)} with m = {M}, depths "
         f"{sorted({r['depth'] for r in contracting})}"),
    ]  # fmt: skip


def _share(row: dict[str, Any]) -> float:
    return float((row["upper"] - row["lower"]) / (row["norms"] - row["lower"]))


def plot(numbers: dict[str, Any]) -> Any:
    """Draw two layers against m, and the bounds and the gap against the depth of the stack."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    two, depth, gap = figure.subplots(1, 3)
    rows = numbers["two_layers"]
    m = [r["m"] for r in rows]
    for key, (style, label) in STYLES.items():
        two.plot(m, [r[key] for r in rows], ms=4, label=label, **style)
    two.set(xlabel="smallest slope $m$", ylabel="logarithmic norm",
            title=f"Two layers, n = {numbers['n']}")  # fmt: skip
    _draw_depth(depth, numbers)
    _draw_gap(gap, numbers)
    for ax in (two, depth):
        ax.axhline(0, color="0.6", lw=0.8, zorder=0)
    for ax in (two, depth, gap):
        ax.grid(alpha=0.3)
        ax.legend(fontsize="small", loc="lower right" if ax is gap else None)
    return figure


STYLES: dict[str, tuple[dict[str, Any], str]] = {
    "norms": ({"color": "0.5", "marker": "^", "ls": "-."}, "product of norms"),
    "upper": ({"color": common.COLOURS[0], "marker": "o", "ls": "-"}, "certified upper bound"),
    "lower": (
        {"color": common.COLOURS[1], "marker": "s", "ls": "--", "mfc": "white"}, "lower bound"
    ),
}  # fmt: skip


def _draw_depth(ax: Any, numbers: dict[str, Any]) -> None:
    """Mean over the stacks, with bars from the smallest to the largest."""
    for shift, (key, (style, label)) in zip((-0.08, 0, 0.08), STYLES.items(), strict=True):
        values = _by_depth(numbers["large"], lambda r, key=key: r[key])
        mean = np.array([np.mean(v) for v in values])
        ends = np.array([(np.min(v), np.max(v)) for v in values]).T
        ax.errorbar(np.array(DEPTHS) + shift, mean, np.abs(ends - mean), ms=4, capsize=3,
                    label=label, **style)  # fmt: skip
    count = len(numbers["large"]) // len(DEPTHS)
    ax.set(xlabel="layers $k$", xticks=DEPTHS, ylabel="logarithmic norm",
           title=f"{count} stacks each, n = {numbers['n']}, m = {numbers['m']:g}")  # fmt: skip


def _draw_gap(ax: Any, numbers: dict[str, Any]) -> None:
    groups = (
        ("large", "o", common.COLOURS[0], f"n = {numbers['n']}: upper - lower", "lower"),
        ("small", "s", common.COLOURS[1], "n = 3: upper - true", "true"),
    )
    for shift, (name, marker, colour, label, reference) in zip((-0.08, 0.08), groups, strict=True):
        rows = numbers[name]
        k = np.array([r["depth"] for r in rows]) + shift
        gap = [max(r["upper"] - r[reference], 1e-10) for r in rows]
        ax.semilogy(k, gap, marker, ms=5, color=colour, mfc="white", label=label)
    left = _by_depth(numbers["large"], lambda r: r["norms"] - r["lower"])
    ax.semilogy(DEPTHS, [np.mean(v) for v in left], "^-.", color="0.5",
                label="product of norms - lower, mean")  # fmt: skip
    ax.set(xlabel="layers $k$", xticks=DEPTHS, ylabel="gap (below 1e-10: drawn there)",
           ylim=(1e-15, None), title="What is not known")  # fmt: skip


def _by_depth(rows: list[dict[str, Any]], value: Any) -> list[list[float]]:
    return [[value(r) for r in rows if r["depth"] == k] for k in DEPTHS]


def main() -> None:
    """Run from the command line."""
    args = common.options(__doc__, "multilayer")
    numbers = run(quick=not args.full, rng=args.seed)
    print("layers   lower    upper    product of norms (means)")
    for k in DEPTHS:
        rows = [r for r in numbers["large"] if r["depth"] == k]
        means = (np.mean([r[key] for r in rows]) for key in ("lower", "upper", "norms"))
        print(f"{k:6d}", *(f"{mean:8.4f}" for mean in means))
    common.finish(args, plot(numbers), numbers, claims(numbers))


if __name__ == "__main__":
    main()
