r"""Time-dependent matrices.

Bounds along t, warm starts, and growth against the bound.

For x' = sigma(A(t) x + b(t)) with slopes in [m, 1], paper 003 (Guglielmi et al.; arXiv 2402.13092)
bounds the distance of two trajectories by

    |u(t) - v(t)| <= exp( int_0^t f(A(s)) ds ) |u(0) - v(0)|,    f(A) = max lambda_max(Sym(D A)).

f changes continuously with t, and so do good slopes: the search at a depth starts from the slopes
found at the one before. Work is counted in eigenpairs. A warm start can also stay with a local
maximum that has been overtaken; that is measured. Here A(t) is linear between nodes, and f is
convex in A, so the certified integral is a bound between the nodes too.

Known from the paper: the bound and the time-dependent case. Chosen here: A(t) turns once from one
Gaussian matrix to another and back, m = 0.1, leaky_tanh (the paper's matrices, numbers and
activation are not available to us).

    python demos/contractivity/time_dependent.py --full --out figure.png
"""

from __future__ import annotations

from typing import Any

import contractivity_common as common
import numpy as np

import snode

M, T = 0.1, 2.0
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sign iteration": ({"n_starts": 20, "n_rounds": 0}, {"n_starts": 1, "n_rounds": 0}),
    "flow": ({"method": "flow"}, {"method": "flow"}),
}
"""Options of each search from scratch, and from the slopes at the depth before."""


def make_field(n: int, n_layers: int, rng: np.random.Generator) -> snode.StandaloneField:
    """Return x' = sigma(A(t) x + b) with A linear between n_layers + 1 nodes."""
    first, second = common.gaussian(n, rng), common.gaussian(n, rng)
    angle = 2 * np.pi * np.arange(n_layers + 1)[:, None, None] / n_layers
    turn = 0.5 - 0.5 * np.cos(angle)
    A = (1 - turn) * first + turn * second
    b = np.tile(rng.standard_normal(n), (n_layers + 1, 1))
    activation = snode.get_activation("leaky_tanh", alpha=M)
    return snode.StandaloneField(A, b, T, activation=activation, interpolation="linear")


def run(quick: bool = True, rng: Any = 1) -> dict[str, Any]:
    """Bound f along t, count eigenpairs cold and warm, and follow pairs of trajectories."""
    n, n_layers, n_pairs = (8, 20, 50) if quick else (12, 60, 500)
    generator = np.random.default_rng(rng)
    field = make_field(n, n_layers, generator)
    nodes = dict(zip(field.grid.tolist(), field.W, strict=True))
    path = snode.max_log_norm(nodes.__getitem__, (M, 1.0), t=field.grid, between="linear")
    exact = [snode.max_log_norm(A, (M, 1.0), method="exact") for A in field.W]
    u = generator.standard_normal((n, n_pairs))
    v = u + 1e-3 * generator.standard_normal((n, n_pairs))
    gap = snode.trajectory_gap(field, u, v, solver=snode.Solver("ode45", rtol=1e-9, atol=1e-12))
    return {
        "n": n, "t": field.grid, "lower": path.lower, "upper": path.upper, "sup": path.sup,
        "true": [f.lower for f in exact], "rigorous": path.rigorous,
        "growth_lower": path.growth_lower, "growth_upper": path.growth_upper,
        "growth_bound": gap.bound, "n_pairs": n_pairs, "worst": gap.ratio.max(axis=1),
        "median": np.median(gap.ratio, axis=1),
        "norms": snode.growth_bound(field, method="norms").factor,
        "work": {name: _cold_and_warm(field.W, *ways) for name, ways in WAYS.items()},
    }  # fmt: skip


def _cold_and_warm(
    nodes: Any, cold: dict[str, Any], warm: dict[str, Any]
) -> dict[str, dict[str, list[Any]]]:
    """Search at every depth from scratch, and from the slopes at the depth before."""
    scratch = [snode.max_log_norm(A, (M, 1.0), certify=False, **cold) for A in nodes]
    tracked = scratch[:1]
    for A in nodes[1:]:
        d0 = tracked[-1].d
        tracked.append(snode.max_log_norm(A, (M, 1.0), certify=False, d0=d0, **warm))
    return {
        name: {"n_eig": [r.n_eig for r in results], "lower": [r.lower for r in results]}
        for name, results in (("cold", scratch), ("warm", tracked))
    }


def losses(numbers: dict[str, Any], name: str, how: str) -> Any:
    """Return how far below the true maximum a search ended, at each depth."""
    return np.asarray(numbers["true"]) - numbers["work"][name][how]["lower"]


def claims(numbers: dict[str, Any]) -> list[common.Claim]:
    """Return what should hold and whether it does."""
    lower, upper, true = (np.asarray(numbers[key]) for key in ("lower", "upper", "true"))
    largest = np.asarray(numbers["worst"])
    bound = np.asarray(numbers["growth_upper"])
    either = np.abs(np.log(bound / numbers["growth_bound"])).max()
    tracked = bool((lower <= true + 1e-9).all() and (true <= upper + 1e-9).all())
    return [
        ("lower <= true <= upper at every depth", tracked,
         f"{len(true)} depths, gap {(upper - lower).min():.1g} to {(upper - lower).max():.3f}"),
        ("no pair of trajectories parts more than the integrated bound allows",
         numbers["rigorous"] and bool((largest <= bound).all()),
         f"{numbers['n_pairs']} pairs; at T growth at most {largest[-1]:.3g}, "
         f"bound {bound[-1]:.3g}, by norms {numbers['norms'][-1]:.3g}"),
        ("`growth_bound` of the field is the same integral", either < 1e-6,
         f"logarithms differ by {either:.1g}"),
        *(_saved(numbers, name) for name in WAYS),
    ]  # fmt: skip


def _saved(numbers: dict[str, Any], name: str) -> common.Claim:
    """Compare the eigenpairs of warm and cold searches."""
    cold, warm = (sum(numbers["work"][name][how]["n_eig"]) for how in ("cold", "warm"))
    missed = [int((losses(numbers, name, how) > 1e-9).sum()) for how in ("cold", "warm")]
    worst = [float(losses(numbers, name, how).max()) for how in ("cold", "warm")]
    return (
        f"warm starts save eigenpairs: {name}", warm < cold,
        f"{warm} instead of {cold}; below the maximum at {missed[1]} instead of {missed[0]} of "
        f"{len(numbers['t'])} depths, by up to {worst[1]:.3f} instead of {worst[0]:.3f}",
    )  # fmt: skip


def plot(numbers: dict[str, Any]) -> Any:
    """Draw the bounds along t, the growth, and the work of cold and warm searches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7.2), layout="constrained")
    (rate, growth), (work, loss) = figure.subplots(2, 2)
    _draw_rate(rate, numbers)
    _draw_growth(growth, numbers)
    t = np.asarray(numbers["t"])
    for (name, how), style in LINES.items():
        counts = numbers["work"][name][how]["n_eig"]
        work.semilogy(t, counts, ms=3, label=f"{name}, {how}: {sum(counts)}", **style)
        below = np.maximum(losses(numbers, name, how), 1e-16)
        share = float((below > 1e-9).mean())
        loss.plot(t, below, ms=3, label=f"{name}, {how}: at {100 * share:.0f} %", **style)
    work.set(ylabel="eigenpairs", title="Work at each depth (legend: in all)")
    loss.set(ylabel="true maximum - found", title="What local searches miss (legend: how often)")
    work.set_ylim(top=2000)
    loss.set_ylim(top=1.5 * loss.get_ylim()[1])
    for ax in (rate, growth, work, loss):
        ax.set_xlabel("depth t")
        ax.grid(alpha=0.3)
        ax.legend(fontsize="small", ncols=2 if ax in (work, loss) else 1)
    return figure


LINES = {
    (name, how): {"color": colour, "ls": line, "marker": marker, "mfc": fill}
    for name, colour, marker in (
        ("sign iteration", common.COLOURS[0], "o"), ("flow", common.COLOURS[1], "s"),
    )
    for how, line, fill in (("cold", "--", "white"), ("warm", "-", colour))
}  # fmt: skip


def _draw_rate(ax: Any, numbers: dict[str, Any]) -> None:
    t = numbers["t"]
    ax.plot(t, numbers["upper"], "-", color=common.COLOURS[0], label="certified upper bound")
    ax.plot(t, numbers["true"], ":", color="black", lw=2, label="maximum, by branch and bound")
    ax.plot(t, numbers["lower"], "--", color=common.COLOURS[1], label="lower bound")
    ax.axhline(0, color="0.6", lw=0.8, zorder=0)
    ax.set(ylabel="$f(A(t))$", title=f"Largest logarithmic norm, n = {numbers['n']}")


def _draw_growth(ax: Any, numbers: dict[str, Any]) -> None:
    t = numbers["t"]
    ax.semilogy(t, numbers["norms"], "-.", color="0.5", label="bound by norms")
    ax.semilogy(t, numbers["growth_upper"], "-", color=common.COLOURS[0],
                label=r"$\exp \int f$, certified")  # fmt: skip
    ax.semilogy(t, numbers["growth_lower"], "--", color=common.COLOURS[0],
                label=r"$\exp \int f$, lower bound")  # fmt: skip
    ax.semilogy(t, numbers["worst"], "o-", ms=3, color=common.COLOURS[1],
                label=f"largest of {numbers['n_pairs']} pairs")  # fmt: skip
    ax.semilogy(t, numbers["median"], ":", color=common.COLOURS[1], label="median pair")
    ax.set(ylabel="distance / first distance", title="Growth of the distance of trajectories")


def main() -> None:
    """Run from the command line."""
    args = common.options(__doc__, "time_dependent")
    numbers = run(quick=not args.full, rng=args.seed)
    for name, ways in numbers["work"].items():
        print(f"{name}: eigenpairs", {how: sum(way["n_eig"]) for how, way in ways.items()})
    common.finish(args, plot(numbers), numbers, claims(numbers))


if __name__ == "__main__":
    main()
