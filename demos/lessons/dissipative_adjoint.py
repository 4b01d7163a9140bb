"""The adjoint of a dissipative problem.

Why the state must not be integrated backwards:

    y' = -k (y - cos t),    y(0) = 1,    L = y(T),    T = 2,    wanted: dL/dk.

The adjoint problem -lam' = -k lam, lam(T) = 1 runs from T back to 0, and the gradient is

    dL/dk = int_0^T lam f_k dt,     f_k = -(y - cos t),

so y(t) must be known while t runs backwards. Three ways to know it:

backsolve   integrate y' = -k (y - cos t) backwards too, together with lam and the integral. It
            needs no memory and it is a mistake: forwards the errors decay like exp(-k t),
            backwards they *grow* like exp(k (T - t)). The gradient then carries the error of y(T),
            however small lam is there, and in the end y overflows. (The weakness of this
            reconstruction is discussed by Gholami, Keutzer, Biros, ANODE, IJCAI 2019.)
discrete    keep the steps of the forward solve and go through their transposes: the derivative of
            the numbers that were computed.                `solve_adjoint(sol, lam_T)`
continuous  keep a polynomial for each forward step and solve for lam along it, with steps of its
            own.                              `solve_adjoint(sol, lam_T, mode="continuous")`

All with Dormand-Prince, rtol = 1e-7, atol = 1e-9. The true value comes from the solution

    y(t) = (1 - A(k)) exp(-k t) + A(k) cos t + B(k) sin t,   A = k^2/(1 + k^2),   B = k/(1 + k^2).

Backsolve pays twice: it also needs many more evaluations, to follow an error that grows. (For small
k the continuous adjoint is the dearest: lam begins with its full exp(-k (T - t)), whereas y(0) = 1
lies close to the slow solution, so the forward solve may take long steps.)

Contractive networks are such problems, on purpose. Keeping the trajectory costs memory; where that
is short, checkpoints (`solve_direct(..., checkpoints="auto")`) give the same gradient.

Reference: Hairer, Norsett, Wanner, *Solving Ordinary Differential Equations I*, Section I.10 (error
growth of a perturbation); Sandu, *On the Properties of Runge-Kutta Discrete Adjoints*, ICCS 2006.

    python -m snode reproduce lessons dissipative_adjoint --full
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import snode
from snode.plotting import COLOURS

T, RTOL, ATOL = 2.0, 1e-7, 1e-9
METHODS = ("backsolve", "discrete", "continuous")


def f(t: float, y: Any, theta: Any) -> Any:
    """Return -k (y - cos t)."""
    return -theta["k"] * (y - np.cos(t))


def jvp(t: float, y: Any, theta: Any, dy: Any, dtheta: Any) -> Any:
    """Return f_y dy + f_k dk."""
    return -theta["k"] * dy - dtheta["k"] * (y - np.cos(t))


def vjp(t: float, y: Any, theta: Any, p: Any) -> tuple[Any, dict[str, Any]]:
    """Return f_y^T p and f_k^T p."""
    return -theta["k"] * p, {"k": -(p * (y - np.cos(t))).sum(axis=1)}


def exact(k: float) -> float:
    """Return dL/dk by differentiating the solution in closed form."""
    A, dA, dB = k**2 / (1 + k**2), 2 * k / (1 + k**2) ** 2, (1 - k**2) / (1 + k**2) ** 2
    return float((-dA - T * (1 - A)) * np.exp(-k * T) + dA * np.cos(T) + dB * np.sin(T))


def backsolve(k: float, y_T: float) -> tuple[float, int, str]:
    """Return dL/dk, evaluations and what went wrong. A WARNING, not an example to follow."""

    def backwards(t: float, z: Any) -> Any:
        y, lam, _ = z
        return np.array([-k * (y - np.cos(t)), k * lam, lam * (y - np.cos(t))])

    sol = snode.ode45(backwards, (T, 0), [y_T, 1.0, 0.0], rtol=RTOL, atol=ATOL,
                      max_steps=100_000, raise_on_failure=False)  # fmt: skip
    return float(sol.x_T[2]), sol.nfev, "" if sol.success else sol.status.name


def run(quick: bool = True, rng: Any = None) -> dict[str, Any]:
    """Return errors and evaluations of the three ways (nothing is random here)."""
    ks = [1, 5, 20, 50, 100, 200, 500] if quick else [1, 2, 5, 10, 20, 35, 50, 75, 100, 150,
                                                       200, 300, 350, 400, 500]  # fmt: skip
    ks = np.array(ks, dtype=float)
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in METHODS}
    failures = []
    for k in ks:
        field = snode.FunctionField(f, 1, parameters={"k": np.array([k])}, jvp=jvp, vjp=vjp, T=T)
        sol = snode.solve_direct(field, np.ones((1, 1)), method="ode45", rtol=RTOL, atol=ATOL,
                                 dense_output=True)  # fmt: skip
        lam_T = np.ones((1, 1))
        value, nfev, failure = backsolve(k, float(sol.x_T[0, 0]))
        failures.append(failure)
        found = {"backsolve": (value, nfev)}
        for mode in ("discrete", "continuous"):
            adjoint = snode.solve_adjoint(sol, lam_T, mode=mode)
            found[mode] = (float(adjoint.partials["k"][0]), adjoint.nvjp)
        for name, (value, evaluations) in found.items():
            rows[name].append((abs(value / exact(k) - 1), evaluations / sol.nfev))
    return {
        "k": ks,
        "failures": failures,  # names of the states in which backsolve ended; "" for success
        "error": {name: np.array(rows[name])[:, 0] for name in METHODS},
        "evaluations": {name: np.array(rows[name])[:, 1] for name in METHODS},
    }


def plot(numbers: dict[str, Any]) -> Any:
    """Draw the errors (left) and the evaluations (right) against k."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = dict(zip(METHODS, (("x-", COLOURS[1]), ("o-", COLOURS[0]), ("s--", COLOURS[3])),
                      strict=True))  # fmt: skip
    labels = {
        "backsolve": "backsolve: y integrated backwards",
        "discrete": "discrete adjoint, stored steps",
        "continuous": "continuous adjoint, dense trajectory",
    }
    k = numbers["k"]
    for name, (style, colour) in styles.items():
        left.loglog(k, numbers["error"][name], style, ms=6, color=colour, label=labels[name])
        right.loglog(k, numbers["evaluations"][name], style, ms=6, color=colour)
    failed = np.array([bool(failure) for failure in numbers["failures"]])
    if failed.any():
        left.plot(k[failed], np.ones(failed.sum()), "X", ms=10, color=COLOURS[1], mec="0.1")
        left.annotate(f"no result from k = {k[failed][0]:g} on:\ny blows up on its way back",
                      (k[failed][0], 1.0), (-12, 0), textcoords="offset points",
                      ha="right", va="center", fontsize=9)  # fmt: skip
        right.plot(k[failed], numbers["evaluations"]["backsolve"][failed], "X", ms=10,
                   color=COLOURS[1], mec="0.1")  # fmt: skip
    left.set(xlabel="decay rate k", ylabel="relative error of dL/dk", title="Error of the gradient")
    right.set(xlabel="decay rate k", ylabel="evaluations backward / forward", title="Cost")
    right.set_yticks([1, 2, 4, 8], [1, 2, 4, 8])
    right.minorticks_off()
    for ax in (left, right):
        ax.grid(alpha=0.3)
    handles, texts = left.get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=3, fontsize="small")
    return figure


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--quick", action="store_true", help="seven values of k (the default)")
    group.add_argument("--full", action="store_true", help="more values of k")
    parser.add_argument(
        "--out", type=Path, default=Path("dissipative_adjoint.png"), help="figure to write"
    )
    args = parser.parse_args()
    args.out = args.out.with_suffix(args.out.suffix or ".png")
    numbers = run(quick=not args.full)
    plot(numbers).savefig(args.out, dpi=110)
    print("relative error of dL/dk, and evaluations backward/forward")
    print("   k " + "".join(f"{name:>20s}" for name in METHODS))
    for i, k in enumerate(numbers["k"]):
        cells = [f"{numbers['error'][m][i]:.1e} {numbers['evaluations'][m][i]:8.2f}"
                 for m in METHODS]  # fmt: skip
        print(f"{k:5g}" + "".join(f"{cell:>20s}" for cell in cells), numbers["failures"][i])
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
