"""Order of convergence.

How fast does the error fall when the steps get shorter? One line for each method.

A Runge-Kutta method of order p, with N equal steps of length h = T/N, leaves the error

    |x_N - x(T)| = C h^p + O(h^(p+1)),      so      log(error) = const - p log(N),

a straight line of slope -p on doubly logarithmic axes, until rounding (about 1e-16) ends it. Left:
all tableaus of `snode.TABLEAUS` on a planet's way from perihelion to aphelion,

    q'' = -q / |q|^3,    q(0) = (1 - e, 0),    q'(0) = (0, sqrt((1 + e)/(1 - e))),

whose end is known without solving anything (Kepler): after half a period, T = pi, the planet is at
q = (-(1 + e), 0) with velocity (0, -sqrt((1 - e)/(1 + e))). Here e = 0.3.

Right: what an answer costs (work-precision). With step control one chooses the tolerance, not N;
the error follows, and what counts is the number of evaluations of f. A method of order p needs
about error^(-1/p) of them: the slope again tells the order.

Reference: Hairer, Norsett, Wanner, *Solving Ordinary Differential Equations I*, 2nd ed.,
Sections II.3 (order), II.4 (step control) and II.10 (work-precision diagrams).

    python -m snode reproduce lessons order_of_convergence --full
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import snode
from snode.plotting import COLOURS

ECCENTRICITY, T = 0.3, np.pi
START = np.array([1 - ECCENTRICITY, 0, 0, np.sqrt((1 + ECCENTRICITY) / (1 - ECCENTRICITY))])
END = np.array([-1 - ECCENTRICITY, 0, 0, -np.sqrt((1 - ECCENTRICITY) / (1 + ECCENTRICITY))])


def planet(t: float, x: Any) -> Any:
    """Return (q', v') = (v, -q/|q|^3) for the state x = (q, v)."""
    q, v = x[:2], x[2:]
    return np.concatenate([v, -q / np.hypot(*q) ** 3])


def run(quick: bool = True, rng: Any = None) -> dict[str, Any]:
    """Return errors against steps and evaluations (nothing is random here)."""
    n_steps = 2 ** np.arange(4, 12 if quick else 14)
    tolerances = 10.0 ** -np.arange(3, 10 if quick else 13)
    field = snode.FunctionField(planet, 4, T=T)
    fixed, control = {}, {}
    for name, tableau in snode.TABLEAUS.items():

        @cache
        def end(k: int, name: str = name) -> Any:
            grid = np.linspace(0, T, k + 1)
            return snode.solve_direct(field, START[:, None], method=name, t=grid).x_T[:, 0]

        error = np.array([np.linalg.norm(end(int(k)) - END) for k in n_steps])
        # the shortest four steps before rounding: there C h^p dominates
        straight = n_steps[error > 1e-12][-4:]
        fixed[name] = {
            "order": tableau.order,
            "error": error,
            "observed": snode.observed_order(end, straight, exact=END),
        }
    for name, solve in (("ode23", snode.ode23), ("ode45", snode.ode45)):
        sols = [solve(planet, (0, T), START, rtol=tol, atol=tol) for tol in tolerances]
        control[name] = {
            "nfev": np.array([sol.nfev for sol in sols]),
            "error": np.array([np.linalg.norm(sol.x_T - END) for sol in sols]),
        }
    return {"n_steps": n_steps, "fixed": fixed, "tolerances": tolerances, "control": control}


def plot(numbers: dict[str, Any]) -> Any:
    """Draw error against steps (left) and against evaluations (right)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    n_steps = numbers["n_steps"]
    styles = zip(
        ("-", "--", "-.", "-", "--", "-"),
        "osv^Dx",
        (*COLOURS, "0.45", "black"),
        strict=True,
    )
    for (name, row), (line, marker, colour) in zip(numbers["fixed"].items(), styles, strict=True):
        left.loglog(
            n_steps, row["error"], ls=line, marker=marker, ms=5, color=colour, lw=1.2,
            label=f"{name}: order {row['order']}, measured {row['observed']:.2f}",
        )  # fmt: skip
    left.set(xlabel="number of equal steps N", ylabel="error $|x_N - x(T)|$",
             title="Equal steps: the slope is the order")  # fmt: skip
    left.set_xticks(n_steps, n_steps)
    left.minorticks_off()
    for (name, row), (style, colour) in zip(
        numbers["control"].items(), (("o--", COLOURS[1]), ("s-", COLOURS[0])), strict=True
    ):
        right.loglog(row["nfev"], row["error"], style, ms=5, color=colour, label=name)
    nfev, error = (numbers["control"]["ode45"][key] for key in ("nfev", "error"))
    for i in (0, len(nfev) - 1):
        tolerance = numbers["tolerances"][i]
        right.annotate(f"tolerance {tolerance:.0e}", (nfev[i], error[i]), (-6, -4),
                       textcoords="offset points", ha="right", va="top", fontsize=8)  # fmt: skip
    right.set(xlabel="evaluations of f", title="Step control: what an error costs")
    right.set_xlim(left=0.15 * nfev[0])
    for ax in (left, right):
        ax.grid(alpha=0.3)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, fontsize="small")
    return figure


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--quick", action="store_true", help="up to 2048 steps (the default)")
    group.add_argument("--full", action="store_true", help="up to 8192 steps: rounding is seen")
    parser.add_argument(
        "--out", type=Path, default=Path("order_of_convergence.png"), help="figure to write"
    )
    args = parser.parse_args()
    args.out = args.out.with_suffix(args.out.suffix or ".png")
    numbers = run(quick=not args.full)
    plot(numbers).savefig(args.out, dpi=110)
    for name, row in numbers["fixed"].items():
        print(f"{name:17s} order {row['order']}, measured {row['observed']:.3f}")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
