r"""Trajectories before and after.

Pairs under the bound, before and after a field is made contractive.

x' = sigma(Ax + b) with slopes of sigma in [m, 1]: |u(t) - v(t)| <= exp(f t) |u(0) - v(0)| with f
the largest logarithmic norm of D A (paper 003, Guglielmi et al.; arXiv 2402.13092). Where f > 0,
two changes make the field contractive with f <= c < 0:

    shift          A - tau I with the smallest tau,
    perturbation   A + Delta with the smallest |Delta|_F (De Marinis et al., arXiv 2501.10740).

Both are verified with the certified upper bound. The shift is one of the perturbations, so the best
perturbation is not larger: |Delta|_F <= tau sqrt(n).

Known from the paper: the bound and the shift. Chosen here: a 2 x 2 matrix that can be drawn and
Gaussian matrices, m = 0.1, c = -0.1, leaky_tanh (the paper's activation, matrices and numbers are
not available to us).

    python demos/contractivity/trajectories.py --full --out figure.png
"""

from __future__ import annotations

from typing import Any

import contractivity_common as common
import numpy as np

import snode

M, C, T, N_LAYERS = 0.1, -0.1, 6.0, 120
PLANE = np.array([[-1.0, 2.2], [0.6, -1.0]])
BIAS = np.array([0.2, -0.3])
NAMES = ("original", "shift", "perturbation")


def run(quick: bool = True, rng: Any = 1) -> dict[str, Any]:
    """Change the 2 x 2 matrix and Gaussian ones, and follow pairs of trajectories."""
    sizes, n_pairs = ((4,), 30) if quick else ((4, 6, 8, 10), 300)
    generator = np.random.default_rng(rng)
    cases = [(PLANE, BIAS)]
    cases += [(common.gaussian(n, generator), generator.standard_normal(n)) for n in sizes]
    return {
        "m": M, "c": C, "t": np.linspace(0, T, N_LAYERS + 1),
        "cases": [_case(A, b, n_pairs, generator) for A, b in cases],
        "paths": _paths(PLANE, BIAS),
    }  # fmt: skip


def changed(A: Any) -> tuple[dict[str, Any], float, float]:
    """Return the three matrices, the shift, and a lower bound of the smallest |Delta|_F."""
    shift = snode.contracting_shift(A, (M, 1.0), C)
    small = snode.minimal_perturbation(A, (M, 1.0), C)
    return dict(zip(NAMES, (A, shift.matrix, small.matrix), strict=True)), shift.tau, small.lower


def make_field(A: Any, b: Any) -> snode.StandaloneField:
    """Return x' = leaky_tanh(Ax + b)."""
    activation = snode.get_activation("leaky_tanh", alpha=M)
    W, bias = np.tile(A, (N_LAYERS, 1, 1)), np.tile(b, (N_LAYERS, 1))
    return snode.StandaloneField(W, bias, T, activation=activation)


def _case(A: Any, b: Any, n_pairs: int, rng: np.random.Generator) -> dict[str, Any]:
    """Return bounds, sizes of the changes, and growth of the same pairs for each field."""
    n = len(A)
    matrices, tau, least = changed(A)
    u = 3 * rng.standard_normal((n, n_pairs))
    v = u + rng.standard_normal((n, n_pairs)) * 10.0 ** rng.uniform(-3, 0.5, n_pairs)
    solver = snode.Solver("ode45", rtol=1e-9, atol=1e-12)
    fields = {}
    for name, B in matrices.items():
        f = snode.max_log_norm(B, (M, 1.0))
        found = snode.trajectory_gap(make_field(B, b), u, v, solver=solver)
        fields[name] = {
            "lower": f.lower, "upper": f.upper, "size": float(np.linalg.norm(B - A)),
            "bound": found.bound, "worst": found.ratio.max(axis=1),
            "median": np.median(found.ratio, axis=1),
        }  # fmt: skip
    return {"n": n, "n_pairs": n_pairs, "tau": tau, "least": least, "fields": fields}


def _paths(A: Any, b: Any) -> dict[str, Any]:
    """Return trajectories in the plane that start on two circles around the origin."""
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    starts = np.concatenate([2 * circle, 3.5 * circle], axis=1)
    matrices, *_ = changed(A)
    return {
        name: snode.solve_direct(make_field(B, b), starts, method="ode45", rtol=1e-6).x
        for name, B in matrices.items()
    }


def claims(numbers: dict[str, Any]) -> list[common.Claim]:
    """Return what should hold and whether it does."""
    cases = numbers["cases"]
    fields = [f for case in cases for f in case["fields"].values()]
    pairs = sum(case["n_pairs"] for case in cases) * len(NAMES)
    held = all((np.asarray(f["worst"]) <= f["bound"]).all() for f in fields)
    at_T = [f["worst"][-1] / f["bound"][-1] for f in fields]
    made = [case["fields"][name] for case in cases for name in NAMES[1:]]
    rates = [np.log(f["worst"][-1]) / T for f in made]
    sizes = [(case["fields"]["perturbation"]["size"], case["fields"]["shift"]["size"])
             for case in cases]  # fmt: skip
    gaps = [size - case["least"] for (size, _), case in zip(sizes, cases, strict=True)]
    return [
        ("no pair parts more than the certified bound", held,
         f"{pairs} pairs in {len(fields)} fields; at T the worst pair of a field has "
         f"{100 * min(at_T):.2g} to {100 * max(at_T):.2g} % of the bound"),
        ("the original fields are not contractive",
         all(case["fields"]["original"]["lower"] > 0 for case in cases),
         f"f at least {min(case['fields']['original']['lower'] for case in cases):.3f}"),
        (f"after either change every logarithmic norm is at most c = {C}",
         all(f["upper"] <= C + 1e-9 for f in made),
         f"largest certified bound - c {max(f['upper'] - C for f in made):.1g}"),
        ("then all pairs approach each other at the rate c or faster",
         all(rate <= C for rate in rates), f"slowest pair: rate {max(rates):.3f}"),
        ("the perturbation is not larger than the shift",
         all(small <= shift for small, shift in sizes),
         ", ".join(f"{small:.3f} against {shift:.3f}" for small, shift in sizes)),
        ("the smallest possible perturbation is enclosed", all(gap >= -1e-9 for gap in gaps),
         f"found - lower bound {min(gaps):.1g} to {max(gaps):.1g}"),
    ]  # fmt: skip


def plot(numbers: dict[str, Any]) -> Any:
    """Draw the plane and the growth of the distances for the 2 x 2 fields, and the sizes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7.2), layout="constrained")
    axes = figure.subplots(2, 4, width_ratios=(1, 1, 1, 1.1))
    plane = numbers["cases"][0]
    for column, name in enumerate(NAMES):
        _draw_plane(axes[0, column], numbers, name)
        _draw_growth(axes[1, column], numbers["t"], plane, name)
    axes[1, 0].set_ylabel("distance / first distance")
    axes[1, 0].legend(fontsize="small", loc="lower left")
    _draw_sizes(axes[0, 3], numbers["cases"])
    _draw_rates(axes[1, 3], numbers["cases"])
    return figure


def _draw_plane(ax: Any, numbers: dict[str, Any], name: str) -> None:
    x = np.asarray(numbers["paths"][name])
    for k in range(x.shape[2]):
        ax.plot(*x[:, :, k].T, lw=0.8, color=common.COLOURS[k >= x.shape[2] // 2])
    ax.plot(*x[0], "o", ms=3, color="0.6", mfc="white")
    ax.plot(*x[-1], "x", ms=4, color="black")
    f = numbers["cases"][0]["fields"][name]
    ax.set(xlim=(-5.2, 5.2), ylim=(-5.2, 5.2), aspect="equal", xlabel="$x_1$", ylabel="$x_2$",
           title=f"{name}\n$f$ in [{f['lower']:.4f}, {f['upper']:.4f}]")  # fmt: skip
    ax.grid(alpha=0.3)


def _draw_growth(ax: Any, t: Any, case: dict[str, Any], name: str) -> None:
    f = case["fields"][name]
    ax.semilogy(t, f["bound"], "-", color=common.COLOURS[0], label="certified bound")
    ax.semilogy(t, f["worst"], "--", color=common.COLOURS[1],
                label=f"largest of {case['n_pairs']} pairs")  # fmt: skip
    ax.semilogy(t, f["median"], ":", color=common.COLOURS[1], label="median pair")
    ax.axhline(1, color="0.6", lw=0.8, zorder=0)
    tops = max(g["bound"][-1] for g in case["fields"].values())
    ends = min(g["median"][-1] for g in case["fields"].values())
    ax.set(xlabel="depth t", ylim=(0.5 * ends, 2 * tops))
    ax.grid(alpha=0.3)


def _draw_sizes(ax: Any, cases: list[dict[str, Any]]) -> None:
    n = [case["n"] for case in cases]
    for name, marker, line, colour in (
        ("shift", "s", "--", common.COLOURS[1]), ("perturbation", "o", "-", common.COLOURS[0]),
    ):  # fmt: skip
        size = [case["fields"][name]["size"] for case in cases]
        ax.plot(n, size, marker=marker, ls=line, color=colour, label=name)
    ax.plot(n, [case["least"] for case in cases], "k_", ms=12, label="none is smaller")
    ax.set(xlabel="n", xticks=n, ylabel="Frobenius norm of the change", title="What it costs")
    ax.set_ylim(bottom=0)
    ax.legend(fontsize="small")
    ax.grid(alpha=0.3)


def _draw_rates(ax: Any, cases: list[dict[str, Any]]) -> None:
    """Rate of the slowest pair against the certified rate."""
    n = np.array([case["n"] for case in cases])
    styles = (("D", "0.5"), ("s", common.COLOURS[1]), ("o", common.COLOURS[0]))
    for shift, name, (marker, colour) in zip((-0.2, 0, 0.2), NAMES, styles, strict=True):
        fields = [case["fields"][name] for case in cases]
        ax.plot(n + shift, [f["upper"] for f in fields], "_", ms=10, mew=2, color=colour)
        rate = [np.log(f["worst"][-1]) / T for f in fields]
        ax.plot(n + shift, rate, marker, ms=5, color=colour, mfc="white", label=name)
    ax.plot([], [], "_", ms=10, mew=2, color="black", label="certified")
    ax.axhline(0, color="0.6", lw=0.8, zorder=0)
    ax.set(xlabel="n", xticks=n, ylabel="rate", title=f"Slowest pair at t = {T:g}")
    ax.set_ylim(top=2.6)  # room for the legend
    ax.legend(fontsize="small", loc="upper right")
    ax.grid(alpha=0.3)


def main() -> None:
    """Run from the command line."""
    args = common.options(__doc__, "trajectories")
    numbers = run(quick=not args.full, rng=args.seed)
    print("   n   f of the original     |tau I|   |Delta|   at least")
    for case in numbers["cases"]:
        f = case["fields"]
        bounds = f"[{f['original']['lower']:.4f}, {f['original']['upper']:.4f}]"
        sizes = f"{f['shift']['size']:9.4f} {f['perturbation']['size']:9.4f} {case['least']:9.4f}"
        print(f"{case['n']:4d}   {bounds}   {sizes}")
    common.finish(args, plot(numbers), numbers, claims(numbers), leave_out=("paths",))


if __name__ == "__main__":
    main()
