r"""The inner problem: a gradient flow for the slopes, and where it ends.

Paper 003 (Guglielmi et al.; arXiv 2402.13092): two trajectories of x' = sigma(Ax + b) with slopes
of sigma in [m, 1] part at most like exp(f t), with

    f = max lambda(d) over d in [m, 1]^n,    lambda(d) = lambda_max(Sym(D A)),   D = diag(d).

If the largest eigenvalue is simple, with unit eigenvector z, then d lambda / d d_i = z_i (Az)_i.
The inner level of the paper's method follows the gradient system

    d_i' = z_i (Az)_i,   but d_i' = 0 where d_i is at an end and the gradient points outward.

Along it lambda grows. It ends where z_i (Az)_i is >= 0 at the slopes that are 1, <= 0 at those that
are m, and 0 between. lambda is convex in d, so its maximum is at a vertex of the box, and the end
of the flow is a vertex too but for exceptions. Which one depends on the start: the end is a local
maximum. Here the flow starts at the middle of the box and at random points; the true maximum comes
from branch and bound, which is proved.

Known from the paper: the gradient system and its active set. Chosen here: the matrix (Gaussian, the
paper's matrices and numbers are not available to us), m = 0.1, the control of the step (accepted if
lambda grows by half of what the gradient promises).

    python demos/contractivity/inner_flow.py --full --out figure.png
"""

from __future__ import annotations

from typing import Any

import contractivity_common as common
import numpy as np

import snode

M = 0.1
SAME = 1e-9
"""Values closer than this are one maximum."""


def run(quick: bool = True, rng: Any = 1) -> dict[str, Any]:
    """Follow the flow from the middle of the box and from random points."""
    n, n_random = (10, 11) if quick else (12, 39)
    generator = np.random.default_rng(rng)
    A = common.gaussian(n, generator)
    starts = [np.full(n, 0.5 + 0.5 * M), *generator.uniform(M, 1, (n_random, n))]
    exact = snode.max_log_norm(A, (M, 1.0), method="exact")
    return {
        "A": A, "m": M, "lower": exact.lower, "upper": exact.upper,
        "flows": [_flow(A, d0) for d0 in starts],
    }  # fmt: skip


def _flow(A: Any, d0: Any) -> dict[str, Any]:
    """Return the history of one flow and its end."""
    result = snode.max_log_norm(A, (M, 1.0), method="flow", certify=False, d0=d0)
    h = result.history
    z = result.z
    moved = np.where(z * (A @ z) > 0, 1.0, M)
    return {
        "value": h.value, "n_active": h.n_active, "residual": h.residual,
        "end": result.lower, "d": result.d, "n_eig": result.n_eig, "status": result.status.name,
        "sign_step_moves": int((moved != result.d).sum()),
    }  # fmt: skip


def maxima(numbers: dict[str, Any]) -> list[float]:
    """Return the different values at which the flows end, the largest first."""
    found: list[float] = []
    for end in sorted((flow["end"] for flow in numbers["flows"]), reverse=True):
        if not found or found[-1] - end > SAME:
            found.append(end)
    return found


def claims(numbers: dict[str, Any]) -> list[common.Claim]:
    """Return what the gradient system should do and whether it does."""
    flows = numbers["flows"]
    increase = np.concatenate([np.diff(f["value"]) for f in flows])
    active = [int(f["n_active"][-1]) for f in flows]
    n = len(numbers["A"])
    residual = max(float(f["residual"][-1]) for f in flows)
    ends = [f["end"] for f in flows]
    best, missed = numbers["upper"], sum(e < numbers["lower"] - SAME for e in ends)
    worst = max(best - e for e in ends)
    return [
        ("the logarithmic norm never falls along the flow", bool((increase >= 0).all()),
         f"{len(flows)} flows, {len(increase)} steps, smallest change {increase.min():.2g}"),
        ("the flow ends at a stationary point", residual <= 1e-8,
         f"largest residual {residual:.1g}"),
        ("all slopes are at an end of [m, 1] when it ends", min(active) == n,
         f"{min(active)} to {max(active)} of {n}"),
        ("the end is stationary for the sign iteration, too",
         all(f["sign_step_moves"] == 0 for f in flows),
         f"{sum(f['sign_step_moves'] > 0 for f in flows)} of {len(flows)} would move"),
        ("no flow ends above the certified maximum", max(ends) <= best,
         f"largest end {max(ends):.6f}, upper bound {best:.6f}"),
        ("some flows end at a local maximum that is smaller", missed > 0,
         f"{missed} of {len(flows)}, by up to {worst:.3f}; {len(maxima(numbers))} different ends"),
    ]  # fmt: skip


STYLES = {
    True: {"color": common.COLOURS[0], "ls": "-", "lw": 1.3, "zorder": 2},
    False: {"color": common.COLOURS[1], "ls": "--", "lw": 0.8, "zorder": 1},
}
"""Lines of flows that end at the maximum, and of those that do not."""


def plot(numbers: dict[str, Any]) -> Any:
    """Draw objective, number of active slopes, residual, and where the flows end."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    (value, active), (residual, ends) = figure.subplots(2, 2)
    best, flows = numbers["lower"], numbers["flows"]
    for flow in flows:
        style = STYLES[flow["end"] >= best - SAME]
        value.plot(flow["value"], **style)
        active.step(range(len(flow["value"])), flow["n_active"], where="post", **style)
        residual.semilogy(np.maximum(flow["residual"], 1e-9), **style)
    value.plot(0, flows[0]["value"][0], "*", ms=13, color="white", mec="black", clip_on=False,
               zorder=5)  # fmt: skip
    value.annotate("middle of the box", (0, flows[0]["value"][0]), (12, -4),
                   textcoords="offset points", fontsize="small")  # fmt: skip
    value.axhline(best, color="black", ls=":", lw=1.5)
    value.set(ylabel=r"$\lambda_{\max}(\mathrm{Sym}(DA))$", title="The logarithmic norm grows")
    active.set(ylabel=f"active slopes, of {len(numbers['A'])}", title="Slopes at $m$ or 1")
    residual.set(ylabel="stationarity residual", title="Largest rate of growth left (0 as 1e-9)")
    for ax in (value, active, residual):
        ax.set(xlabel="accepted steps of the flow")
        ax.set_xlim(left=0)
    _draw_ends(ends, numbers)
    for ax in (value, active, residual, ends):
        ax.grid(alpha=0.3)
    return figure


def _draw_ends(ax: Any, numbers: dict[str, Any]) -> None:
    """Draw the ends of all flows in order, with the legend for the whole figure."""
    best = numbers["lower"]
    ends = np.sort([flow["end"] for flow in numbers["flows"]])[::-1]
    hit = int((ends >= best - SAME).sum())
    ax.axhline(best, color="black", ls=":", lw=1.5, label="maximum, by branch and bound")
    for is_hit, part, marker in ((True, slice(hit), "o"), (False, slice(hit, None), "s")):
        k = np.arange(1, len(ends) + 1)[part]
        ax.plot(k, ends[part], marker, ms=5, color=STYLES[is_hit]["color"],
                mfc=STYLES[is_hit]["color"] if is_hit else "white")  # fmt: skip
        name = "ends at the maximum" if is_hit else "ends at another local maximum"
        ax.plot([], [], marker=marker, mfc=STYLES[is_hit]["color"] if is_hit else "white",
                **STYLES[is_hit], label=f"{name} ({len(k)})")  # fmt: skip
    ax.set(xlabel="flows, ordered by their end", ylabel="value at the end",
           title="Where the flows end")  # fmt: skip
    ax.legend(fontsize="small", loc="lower left")


def main() -> None:
    """Run from the command line."""
    args = common.options(__doc__, "inner_flow")
    numbers = run(quick=not args.full, rng=args.seed)
    print(f"maximum in [{numbers['lower']:.10f}, {numbers['upper']:.10f}]; the flows end at")
    for level in maxima(numbers):
        count = sum(abs(f["end"] - level) <= SAME for f in numbers["flows"])
        print(f"  {level:.10f}  {count} times")
    common.finish(args, plot(numbers), numbers, claims(numbers))


if __name__ == "__main__":
    main()
