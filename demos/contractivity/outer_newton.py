r"""The outer problem: the smallest slope.

The smallest slope m for which a matrix is contractive.

f(m) = max lambda_max(Sym(D A)) over d in [m, 1]^n. The outer level of the paper's method (Guglielmi
et al.; arXiv 2402.13092) looks for the smallest m with f(m) <= c, by Newton's method safeguarded
with bisection. f is convex in m and does not increase, f(1) = mu_2(A), and where the maximising d
is unique

    f'(m) = sum of z_i (Az)_i over the slopes d_i = m,

so Newton's method from the left climbs monotonically to the root m* and does not overshoot. The
paper evaluates f with a local method. If that misses the maximum, its m is too small and the
contraction is not guaranteed. Replaced by the certified upper bound U(m) >= f(m), which is convex
as well and falls, the same iteration gives an m with f(m) <= c for certain.

Exact test: A = [[-1, beta], [0, -1]] with 0 < beta < 2 has

    f(m) = max(-(1 + m)/2 + sqrt((1 - m)^2 + beta^2)/2, m (beta/2 - 1)),    m* = beta^2/4 for c = 0;

the first value belongs to the slopes (1, m), the second, which is negative, to (m, m).

Known from the paper: the two levels, Newton with bisection. Chosen here: the matrices (Gaussian,
the paper's matrices and numbers are not available to us), c = 0 and c = 0.2 (where the gap between
both bounds is larger), the start m = 0.

    python demos/contractivity/outer_newton.py --full --out figure.png
"""

from __future__ import annotations

from typing import Any

import contractivity_common as common
import numpy as np

import snode

LEVELS = (0.0, 0.2)


def run(quick: bool = True, rng: Any = 1) -> dict[str, Any]:
    """Sample f with both bounds, and iterate, for a random matrix; then the exact test."""
    n, n_m = (10, 9) if quick else (20, 41)
    generator = np.random.default_rng(rng)
    A = common.gaussian(n, generator)
    m = np.linspace(0, 1, n_m)
    m[0] = 1e-3
    bounds = [snode.max_log_norm(A, (float(k), 1.0)) for k in m]
    betas = np.linspace(0.1, 1.9, 7 if quick else 19)
    return {
        "n": n, "A": A, "m": m,
        "lower": [f.lower for f in bounds], "upper": [f.upper for f in bounds],
        "crude": [_crude(A, float(k)) for k in m], "mu_2": snode.log_norm(A),
        "levels": [
            {"c": c, "local": _newton(A, c, False), "certified": _newton(A, c, True)}
            for c in LEVELS
        ],
        "exact_test": [_exact_test(float(beta)) for beta in betas],
    }  # fmt: skip


def _crude(A: Any, m: float) -> float:
    """Return the bound by norms, (1+m)/2 mu_2(A) + (1-m)/2 |A|_2."""
    return 0.5 * (1 + m) * snode.log_norm(A) + 0.5 * (1 - m) * float(np.linalg.norm(A, 2))


def _newton(A: Any, c: float, certified: bool) -> dict[str, Any]:
    """Return the iteration table of `contractivity_interval`."""
    found = snode.contractivity_interval(A, c, certified=certified)
    names = ("iteration", "m", "value", "slope", "kind")
    return {
        "m": found.m, "lower": found.lower, "value": found.value, "nit": found.nit,
        "status": found.status.name,
        "history": [dict(zip(names, step, strict=True)) for step in found.history],
    }  # fmt: skip


def closed_form(beta: float, m: Any) -> Any:
    """Return f(m) of [[-1, beta], [0, -1]]."""
    return np.maximum(-(1 + m) / 2 + np.sqrt((1 - m) ** 2 + beta**2) / 2, m * (beta / 2 - 1))


def _exact_test(beta: float) -> dict[str, Any]:
    """Return m* by both iterations, and how far the bounds of f are from the closed form."""
    A = np.array([[-1.0, beta], [0.0, -1.0]])
    m = np.linspace(0.05, 1, 20)
    bounds = [snode.max_log_norm(A, (float(k), 1.0)) for k in m]
    f = closed_form(beta, m)
    return {
        "beta": beta, "m": beta**2 / 4,
        "local": snode.contractivity_interval(A, certified=False).m,
        "certified": snode.contractivity_interval(A).m,
        "f_minus_lower": float(np.max(f - [b.lower for b in bounds])),
        "upper_minus_f": float(np.max([b.upper for b in bounds] - f)),
        "valid": all(b.lower <= v + 1e-15 and v <= b.upper + 1e-15
                     for b, v in zip(bounds, f, strict=True)),
    }  # fmt: skip


def newton_points(run: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the start and the steps by Newton's method up to the first that is of another kind.

    The last digits, where a bracket is closed, are left out.
    """
    points = []
    for step in run["history"]:
        if step["kind"] not in ("start", "Newton"):
            break
        points.append(step)
    return points


def claims(numbers: dict[str, Any]) -> list[common.Claim]:
    """Return what should hold and whether it does."""
    tests = numbers["exact_test"]
    worst = max(abs(t[how] - t["m"]) for t in tests for how in ("local", "certified"))
    below = max(t["f_minus_lower"] for t in tests)
    above = max(t["upper_minus_f"] for t in tests)
    gap = np.subtract(numbers["upper"], numbers["lower"])
    bends = np.diff(numbers["upper"], 2)[1:]  # the first cell is shorter
    falls = np.diff(numbers["upper"])
    runs = [level[how] for level in numbers["levels"] for how in ("local", "certified")]
    return [
        (f"m* = beta^2/4 for [[-1, beta], [0, -1]] ({len(tests)} values of beta)", worst <= 1e-10,
         f"largest error {worst:.1g}"),
        ("f(m) is the closed form there, between both bounds", all(t["valid"] for t in tests),
         f"lower bound up to {below:.1g} below, upper bound up to {above:.1g} above"),
        ("lower <= upper at every m", bool((gap >= 0).all()),
         f"gap {gap.min():.1g} to {gap.max():.3f}"),
        ("the certified bound falls with m and is convex",
         bool((falls <= 1e-9).all() and (bends >= -1e-9).all()),
         f"largest rise {falls.max():.1g}, smallest second difference {bends.min():.1g}"),
        ("Newton's method from the left is monotone, for the local and the certified function",
         all(_is_monotone(one) for one in runs),
         f"{', '.join(str(len(newton_points(one)) - 1) for one in runs)} Newton steps"),
        *(_compared(level) for level in numbers["levels"]),
    ]  # fmt: skip


def _is_monotone(one: dict[str, Any]) -> bool:
    """Tell whether the iterates rise, fall in value, and stay on the left of the root."""
    points = newton_points(one)
    m, value = [p["m"] for p in points], [p["value"] for p in points]
    rises = (np.diff(m) > 0).all() and (np.diff(value) < 0).all()
    return one["status"] == "FOUND" and bool(rises) and m[-1] <= one["m"]


def _compared(level: dict[str, Any]) -> common.Claim:
    """Compare the certified m* with the local one."""
    local, certified = level["local"], level["certified"]
    refuted = ", so the local one is too small" if certified["lower"] > local["m"] + 1e-9 else ""
    return (
        f"the certified m* for c = {level['c']:g} is not below the local one",
        certified["m"] >= local["m"] - 2e-11,
        f"local {local['m']:.10f}, certified {certified['m']:.10f}; no m below "
        f"{certified['lower']:.10f} works{refuted}",
    )


def plot(numbers: dict[str, Any]) -> Any:
    """Draw f with both bounds, the iterates, their convergence, and the exact test."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7.6), layout="constrained")
    (whole, near), (convergence, test) = figure.subplots(2, 2)
    _draw_bounds(whole, numbers)
    whole.plot(numbers["m"], numbers["crude"], "-.", color="0.5", label="bound by norms")
    whole.set_title(f"Largest logarithmic norm, Gaussian matrix, n = {numbers['n']}")
    whole.legend(fontsize="small")
    _draw_iterates(near, numbers)
    _draw_convergence(convergence, numbers)
    _draw_test(test, numbers["exact_test"])
    return figure


RUNS = (("local", "s", "--", common.COLOURS[1]), ("certified", "o", "-", common.COLOURS[0]))


def _draw_bounds(ax: Any, numbers: dict[str, Any]) -> None:
    ax.plot(numbers["m"], numbers["upper"], "-", color=common.COLOURS[0], label="certified bound")
    ax.plot(numbers["m"], numbers["lower"], "--", color=common.COLOURS[1], label="local search")
    ax.axhline(0, color="0.6", lw=0.8, zorder=0)
    ax.set(xlabel="smallest slope $m$", ylabel="$f(m)$")
    ax.grid(alpha=0.3)


def _draw_iterates(ax: Any, numbers: dict[str, Any]) -> None:
    """Tangents from each iterate to the level c, with both functions."""
    _draw_bounds(ax, numbers)
    level = numbers["levels"][-1]
    c = level["c"]
    ax.axhline(c, color="0.3", lw=0.8, ls=":")
    for name, marker, line, colour in RUNS:
        points, m = newton_points(level[name]), level[name]["m"]
        for here, there in zip(points, [*points[1:], {"m": m}], strict=True):
            ax.plot([here["m"], there["m"]], [here["value"], c], ls=line, lw=0.8, color=colour)
        ax.plot([p["m"] for p in points], [p["value"] for p in points], marker, ls="none", ms=6,
                color=colour, mfc="white", label=f"Newton, {name}")  # fmt: skip
        ax.plot(m, c, "|", ms=16, mew=2, color=colour, label=f"$m^*$, {name}: {m:.4f}")
    top = max(level[name]["history"][0]["value"] for name, *_ in RUNS)
    right = 1.3 * level["certified"]["m"]
    ax.set(xlim=(-0.1 * right, right), ylim=(c - 0.3 * (top - c), top + 0.1 * (top - c)),
           title=f"Newton's method from the left, c = {c:g}")  # fmt: skip
    ax.legend(fontsize="small")


def _draw_convergence(ax: Any, numbers: dict[str, Any]) -> None:
    """Distance of the iterates to the root."""
    longest = 0
    for k, level in enumerate(numbers["levels"]):
        for name, marker, line, colour in RUNS:
            m = [p["m"] for p in newton_points(level[name])]
            error = np.maximum(level[name]["m"] - np.array(m), 1e-13)
            ax.semilogy(error, marker=marker, ls=line, color=colour,
                        mfc=(colour, "white")[k], label=f"{name}, c = {level['c']:g}")  # fmt: skip
            longest = max(longest, len(m))
    ax.set(xlabel="iteration", ylabel="distance to the root, $m^* - m_k$",
           title="The iterates stay to the left and converge", xticks=range(longest))  # fmt: skip
    ax.legend(fontsize="small")
    ax.grid(alpha=0.3)


def _draw_test(ax: Any, tests: list[dict[str, Any]]) -> None:
    beta = [t["beta"] for t in tests]
    for name, marker, line, colour in RUNS:
        error = [max(abs(t[name] - t["m"]), 1e-17) for t in tests]
        ax.semilogy(beta, error, marker=marker, ls=line, color=colour,
                    label=rf"$|m^* - \beta^2/4|$, {name}")  # fmt: skip
    ax.semilogy(beta, [t["upper_minus_f"] for t in tests], "^:", color=common.COLOURS[2],
                label=r"certified bound $-\, f(m)$, largest over $m$")  # fmt: skip
    ax.axhline(1e-10, color="0.5", lw=0.8)
    ax.text(beta[0], 1.3e-10, "asked for: $10^{-10}$", fontsize="small", va="bottom")
    ax.set(xlabel=r"$\beta$", ylabel="error",
           title=r"Exact test: $A = [[-1, \beta], [0, -1]]$, $m^* = \beta^2/4$")  # fmt: skip
    ax.legend(fontsize="small")
    ax.grid(alpha=0.3)


def main() -> None:
    """Run from the command line."""
    args = common.options(__doc__, "outer_newton")
    numbers = run(quick=not args.full, rng=args.seed)
    for level in numbers["levels"]:
        for name in ("local", "certified"):
            print(f"c = {level['c']:g}, {name}: m* = {level[name]['m']:.12f}")
            for step in level[name]["history"]:
                print("  {iteration:3d} {m:16.12f} {value:16.9g} {slope:12.6g}  {kind}"
                      .format(**step))  # fmt: skip
    common.finish(args, plot(numbers), numbers, claims(numbers))


if __name__ == "__main__":
    main()
