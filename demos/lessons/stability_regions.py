"""Stability regions.

How long may a step be before a decaying solution grows?

On the test equation x' = lambda x every Runge-Kutta step multiplies by the same number,

    x_(i+1) = R(h lambda) x_i,      R(z) = 1 + z b^T 1 + z^2 b^T A 1 + z^3 b^T A^2 1 + ...,

a polynomial, the *stability function*, which begins like exp(z). The numbers stay bounded if and
only if z = h lambda lies in the stability region |R(z)| <= 1. No explicit method has all of the
left half plane: if lambda is large and negative (a stiff problem), accuracy would allow long steps
and stability forbids them. On the negative real axis the methods end at

    Euler -2,   Heun and midpoint -2,   Bogacki-Shampine -2.51,   RK4 -2.79,   Dormand-Prince -3.31.

Dormand-Prince has two islands as well, where |R| happens to be small although exp(z) grows: no use.

The experiment: x' = -x with 200 steps of 0.95 and of 1.05 times that limit.

Reference: Hairer, Wanner, *Solving Ordinary Differential Equations II*, 2nd ed., Section IV.2
(Fig. 2.1 there shows the regions of the methods with as many stages as their order).

    python -m snode reproduce lessons stability_regions --full
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import brentq

import snode
from snode.plotting import COLOURS

N_STEPS = 200
INSIDE, OUTSIDE = 0.95, 1.05
BOX = (-4.5, 1.5, -4.2, 4.2)  # the part of the complex plane that is drawn


def real_limit(tableau: snode.ButcherTableau) -> float:
    """Return the left end of the stability region on the real axis: |R(z)| = 1, z < 0."""
    return float(brentq(lambda z: abs(tableau.stability(z)) - 1, -6.0, -0.5, xtol=1e-13))


def run(quick: bool = True, rng: Any = None) -> dict[str, Any]:
    """Return |R| on a grid, the limits, and the experiment (nothing is random here)."""
    points = 200 if quick else 600
    re, im = np.linspace(*BOX[:2], points), np.linspace(*BOX[2:], points)
    z = re + 1j * im[:, None]
    decay = snode.FunctionField(lambda t, x: -x, 1)
    methods = {}
    for name, tableau in snode.TABLEAUS.items():
        limit = real_limit(tableau)
        row = {"limit": limit, "R": np.abs(tableau.stability(z))}
        for key, factor in (("inside", INSIDE), ("outside", OUTSIDE)):
            h = -factor * limit
            grid = h * np.arange(N_STEPS + 1)
            sol = snode.solve_direct(decay, np.ones((1, 1)), method=name, t=grid)
            row[key] = np.abs(sol.x[:, 0, 0])
            row[f"{key}_power"] = abs(tableau.stability(-h)) ** np.arange(N_STEPS + 1)
        methods[name] = row
    return {"re": re, "im": im, "methods": methods}


def plot(numbers: dict[str, Any]) -> Any:
    """Draw the boundaries of the regions (left) and the experiment (right)."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(10, 5.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
    colours = (COLOURS[2], COLOURS[1], COLOURS[1], COLOURS[0], COLOURS[3], "0.3")
    lines = ("-", "--", "--", "-", ":", "-.")
    handles = []
    for (name, row), colour, line in zip(numbers["methods"].items(), colours, lines, strict=True):
        # midpoint and heun have the same R, 1 + z + z^2/2: one curve for both
        if name != "heun":
            left.contour(numbers["re"], numbers["im"], row["R"], levels=[1.0], colors=[colour],
                         linestyles=[line], linewidths=1.6)  # fmt: skip
            label = "midpoint and heun" if name == "midpoint" else name
            handles.append(
                Line2D([], [], color=colour, ls=line, label=f"{label}: {row['limit']:.3f}")
            )
        i = np.arange(N_STEPS + 1)
        for key in ("inside", "outside"):
            right.semilogy(i, row[key], color=colour, ls=line, lw=1.4)
    left.axhline(0, color="0.7", lw=0.8)
    left.axvline(0, color="0.7", lw=0.8)
    left.set(xlabel=r"Re $h\lambda$", ylabel=r"Im $h\lambda$", aspect="equal",
             title=r"Stable inside the curve: $|R(h\lambda)| \leq 1$")  # fmt: skip
    figure.legend(handles=handles, title="method: end of its region on the real axis",
                  loc="outside lower center", ncols=5, fontsize="small")  # fmt: skip
    right.axhline(1, color="0.7", lw=0.8)
    right.text(0.03, 0.95, f"steps {OUTSIDE} times the limit: every method grows",
               transform=right.transAxes, fontsize=9)  # fmt: skip
    right.text(0.03, 0.03, f"steps {INSIDE} times the limit: every method decays",
               transform=right.transAxes, fontsize=9)  # fmt: skip
    right.set(xlabel="step i", ylabel="$|x_i|$",
              title="$x' = -x$ just inside and just outside")  # fmt: skip
    return figure


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--quick", action="store_true", help="a coarse picture (the default)")
    group.add_argument("--full", action="store_true", help="smooth curves")
    parser.add_argument(
        "--out", type=Path, default=Path("stability_regions.png"), help="figure to write"
    )
    args = parser.parse_args()
    args.out = args.out.with_suffix(args.out.suffix or ".png")
    numbers = run(quick=not args.full)
    plot(numbers).savefig(args.out, dpi=110)
    print(f"{'method':17s}  real limit   |x| after {N_STEPS} steps inside / outside")
    for name, row in numbers["methods"].items():
        ends = f"{row['inside'][-1]:.1e} / {row['outside'][-1]:.1e}"
        print(f"{name:17s}  {row['limit']:10.4f}   {ends}")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
