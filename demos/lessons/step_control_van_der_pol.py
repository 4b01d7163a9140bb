"""Step control on van der Pol's oscillator.

How does ode45 choose its steps?

    x'' = mu (1 - x^2) x' - x,     as a system     x' = v,   v' = mu (1 - x^2) v - x

creeps for a long while and then jumps. ode45 computes in each step two results, of orders 5 and 4,
from the same stages K_i. Their difference estimates the local error, the error made in this step
alone, measured in units of the tolerance:

    d = h sum_i e_i K_i,      err = root mean square of  d / (atol + rtol |x|)  over the components

(e_i: the difference of the two rows of weights of the Butcher tableau).

The step is accepted if err <= 1, else rejected and tried again shorter. Since err grows like h^5,
the next length is about h (1/err)^(1/5), with a safety factor. The result of order 5 is carried
on, so the true local error is mostly smaller still (bottom panel; found by solving each step once
more with a tolerance of 1e-12).

The price of equal steps: how many steps of the same formula (Dormand-Prince) would reach the same
error at the end? They must all be as short as the jump wants them. In the middle panel the dashed
line is 3.31/|lambda|, the longest stable step (see the lesson on stability regions); lambda, the
fast eigenvalue of f_x, is about mu (1 - x^2) where that is negative. With mu = 50 the slow part is
stiff: it is stability that limits the step there, not accuracy.

Reference: Hairer, Norsett, Wanner, *Solving Ordinary Differential Equations I*, 2nd ed.,
Section II.4; II, Section IV.1 and IV.2 for the stiff side of van der Pol.

    python -m snode reproduce lessons step_control_van_der_pol --full
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import snode
from snode.plotting import COLOURS

RTOL, ATOL = 1e-5, 1e-7
START = np.array([2.0, 0.0])
DORMAND_PRINCE = snode.TABLEAUS["dormand_prince"]
REAL_LIMIT = 3.31  # of Dormand-Prince, on the negative real axis


def van_der_pol(mu: float) -> Any:
    """Return f(t, (x, v)) = (v, mu (1 - x^2) v - x)."""
    return lambda t, x: np.stack([x[1], mu * (1 - x[0] ** 2) * x[1] - x[0]])


def run(quick: bool = True, rng: Any = None) -> dict[str, Any]:
    """Return the solution, its steps and their errors (nothing is random here)."""
    mu, T = (5.0, 20.0) if quick else (50.0, 100.0)
    f = van_der_pol(mu)
    rejected = [0]  # how many rejections there were before each accepted step
    sol = snode.ode45(f, (0, T), START, rtol=RTOL, atol=ATOL,
                      callback=lambda state: rejected.append(state.n_rejected))  # fmt: skip
    estimate, true = _local_errors(f, sol)
    reference = snode.ode45(f, (0, T), START, rtol=1e-12, atol=1e-12, max_steps=100_000).x_T
    error = np.linalg.norm(sol.x_T - reference)
    return {
        "mu": mu, "t": sol.t, "x": sol.x[:, 0], "v": sol.x[:, 1], "h": np.diff(sol.t),
        "rejections": np.diff(rejected), "estimate": estimate, "local_error": true,
        "error": error, "nfev": sol.nfev,
        "equal_steps": _equal_steps(f, T, reference, error, longest=np.diff(sol.t).max()),
    }  # fmt: skip


def _local_errors(f: Any, sol: snode.OdeSolution) -> tuple[Any, Any]:
    """Return the estimated and the true local error of each step, in units of the tolerance."""
    estimate, true = [], []
    for i in range(len(sol.t) - 1):
        t, h, x, x_new = sol.t[i], sol.t[i + 1] - sol.t[i], sol.x[i], sol.x[i + 1]
        unit = ATOL + RTOL * np.maximum(abs(x), abs(x_new))
        exact = snode.ode45(f, (t, t + h), x, rtol=1e-12, atol=1e-12, first_step=h / 8).x_T
        estimate.append(np.sqrt(np.mean((_error_estimate(f, t, x, h) / unit) ** 2)))
        true.append(np.sqrt(np.mean(((x_new - exact) / unit) ** 2)))
    return np.array(estimate), np.array(true)


def _error_estimate(f: Any, t: float, x: Any, h: float) -> Any:
    """Return the difference of the two results of Dormand-Prince, straight from the tableau."""
    a, e, c = (DORMAND_PRINCE.numbers().a, DORMAND_PRINCE.numbers().e, DORMAND_PRINCE.numbers().c)
    K = np.zeros((DORMAND_PRINCE.stages, len(x)))
    for i in range(len(K)):
        K[i] = f(t + c[i] * h, x + h * a[i] @ K)
    return h * e @ K


def _equal_steps(f: Any, T: float, reference: Any, error: float, longest: float) -> int:
    """Return how many equal steps reach `error`, to within 5 percent."""
    field = snode.FunctionField(f, 2, T=T)

    def reaches(k: int) -> bool:
        grid = np.linspace(0, T, k + 1)
        sol = snode.solve_direct(field, START[:, None], method="dormand_prince", t=grid,
                                 keep="last", raise_on_failure=False)  # fmt: skip
        return bool(np.linalg.norm(sol.x_T[:, 0] - reference) <= error)

    few = many = int(T / longest)
    while not reaches(many):
        few, many = many, 2 * many
    while many > 1.05 * few:
        middle = (few + many) // 2
        few, many = (few, middle) if reaches(middle) else (middle, many)
    return many


def plot(numbers: dict[str, Any]) -> Any:
    """Draw the solution, the steps and the errors over the same depths."""
    from matplotlib.figure import Figure

    t, h, mu = numbers["t"], numbers["h"], numbers["mu"]
    n_rejected = numbers["rejections"].sum()
    figure = Figure(figsize=(10, 8), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(1, 1.2, 1.2))
    small = 2.5 if len(h) > 400 else 3.5
    top.plot(t, numbers["x"], "o-", ms=small, lw=1, color=COLOURS[0])
    top.set(ylabel="x")
    top.set_title(
        f"van der Pol, mu = {mu:g}: {len(h)} steps (marked), {n_rejected} rejected; "
        f"the same error at the end, {numbers['error']:.0e}, takes {numbers['equal_steps']} equal "
        "steps",
        fontsize=10,
    )

    middle.semilogy(t[:-1], h, "o-", ms=small, lw=1, color=COLOURS[0], label="accepted step h")
    again = numbers["rejections"] > 0
    middle.semilogy(t[:-1][again], h[again], "x", ms=7, mew=1.5, color=COLOURS[1],
                    label="accepted only after a rejection")  # fmt: skip
    slope = mu * (1 - numbers["x"] ** 2)
    stable = np.where(slope < 0, REAL_LIMIT / np.maximum(-slope, 1e-12), np.nan)
    low, high = h.min() / 2, 3 * h.max()
    middle.semilogy(t, np.where(stable < high, stable, np.nan), "--", color=COLOURS[2],
                    lw=2, zorder=3, label=r"longest stable step, $3.31/|\lambda|$")  # fmt: skip
    middle.set(ylabel="step length h", ylim=(low, 6 * high))
    middle.legend(fontsize="small", loc="upper center", ncols=3)

    bottom.semilogy(t[:-1], numbers["estimate"], "o", ms=small, color=COLOURS[3],
                    label="estimated, must be at most 1")  # fmt: skip
    bottom.semilogy(t[:-1], np.maximum(numbers["local_error"], 1e-6), "s", ms=small,
                    mfc="none", color=COLOURS[0], label="true")  # fmt: skip
    bottom.axhline(1, color="0.3", ls="--", lw=1)
    bottom.set(xlabel="t", ylabel="local error / tolerance", ylim=(None, 60))
    bottom.legend(fontsize="small", loc="upper center", ncols=2)
    return figure


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--quick", action="store_true", help="mu = 5 (the default)")
    group.add_argument("--full", action="store_true", help="mu = 50, half a minute")
    parser.add_argument(
        "--out", type=Path, default=Path("step_control_van_der_pol.png"), help="figure to write"
    )
    args = parser.parse_args()
    args.out = args.out.with_suffix(args.out.suffix or ".png")
    numbers = run(quick=not args.full)
    plot(numbers).savefig(args.out, dpi=110)
    h = numbers["h"]
    n_rejected = numbers["rejections"].sum()
    print(f"{len(h)} steps from {h.min():.1e} to {h.max():.1e}, {n_rejected} rejected")
    print(f"the same error, {numbers['error']:.1e}, takes {numbers['equal_steps']} equal steps")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
