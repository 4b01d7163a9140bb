"""The adjoint by hand.

The three problems of a neural ODE for one neuron: explicit Euler, ten lines each.

One neuron with weight W(t) and bias b(t), constant on each of K cells of width h = T/K. For a cost
E = (x(T) - y)^2 / 2, and with a_i = W_i x_i + b_i, s_i = tanh'(a_i) = 1 - tanh(a_i)^2:

    direct       x'  = tanh(W x + b)           x_(i+1)  = x_i + h tanh(a_i)
    sensitivity  xi' = s (W xi + dW x + db)    xi_(i+1) = xi_i + h s_i (W_i xi_i + dW_i x_i + db_i)
    adjoint    -lam' = W s lam                 lam_i    = lam_(i+1) + h W_i s_i lam_(i+1)
    gradient    E'_W = lam s x                 E'_W,i   = lam_(i+1) s_i x_i
                E'_b = lam s                   E'_b,i   = lam_(i+1) s_i

where the adjoint starts from lam_K = x_K - y and runs back.

The sensitivity answers "how does x(T) move if the weights move along (dW, db)?", the adjoint "which
way should *all* weights move?". They agree, exactly and not only up to O(h), because the second is
the transpose of the first (note that lam_(i+1) meets x_i):

    lam_K xi_K = h sum_i (E'_W,i dW_i + E'_b,i db_i)      when xi_0 = 0.

Right: the same number by finite differences, (E(W + eps dW, b + eps db) - E(W, b)) / eps. Its error
is a V: the Taylor remainder falls like eps (central differences: eps^2), rounding rises like
1e-16/eps, and the best step is at about 1e-8 (central: 1e-5) with half (two thirds) of the digits.

Reference: Jaroudi et al., *Standalone Neural ODEs with Sensitivity Analysis*, arXiv 2205.13933,
eqs. (1), (2), (6)-(8); for the V: Nocedal, Wright, *Numerical Optimization*, Section 8.1.

    python -m snode reproduce lessons adjoint_by_hand_one_neuron --full
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import snode
from snode.plotting import COLOURS

T, X0, TARGET = 2.0, 0.5, -0.2


def direct(W: Any, b: Any) -> Any:
    """Return x_0, ..., x_K."""
    h, x = T / len(W), [X0]
    for i in range(len(W)):
        x.append(x[i] + h * np.tanh(W[i] * x[i] + b[i]))
    return np.array(x)


def sensitivity(W: Any, b: Any, x: Any, dW: Any, db: Any) -> Any:
    """Return xi_0, ..., xi_K, the derivative of `direct` along (dW, db)."""
    h, xi = T / len(W), [0.0]
    for i in range(len(W)):
        s = 1 - np.tanh(W[i] * x[i] + b[i]) ** 2
        xi.append(xi[i] + h * s * (W[i] * xi[i] + dW[i] * x[i] + db[i]))
    return np.array(xi)


def adjoint(W: Any, b: Any, x: Any, lam_T: float) -> tuple[Any, Any, Any]:
    """Return lam_0, ..., lam_K and the gradient densities E'_W and E'_b on the cells."""
    K = len(W)
    h, lam, E_W, E_b = T / K, np.empty(K + 1), np.empty(K), np.empty(K)
    lam[K] = lam_T
    for i in reversed(range(K)):
        s = 1 - np.tanh(W[i] * x[i] + b[i]) ** 2
        lam[i] = lam[i + 1] + h * W[i] * s * lam[i + 1]
        E_W[i] = lam[i + 1] * s * x[i]
        E_b[i] = lam[i + 1] * s
    return lam, E_W, E_b


def cost(W: Any, b: Any) -> float:
    """Return E = (x(T) - y)^2 / 2."""
    return float((direct(W, b)[-1] - TARGET) ** 2 / 2)


def run(quick: bool = True, rng: Any = 0) -> dict[str, Any]:
    """Solve the three problems by hand and by the package; differences along a random direction."""
    K = 40 if quick else 400
    generator = np.random.default_rng(rng)
    t = T / K * np.arange(K)
    W, b = 1.5 * np.cos(2 * t), 0.5 - t
    dW, db = generator.standard_normal((2, K))

    x = direct(W, b)
    xi = sensitivity(W, b, x, dW, db)
    lam, E_W, E_b = adjoint(W, b, x, x[-1] - TARGET)
    slope = T / K * (E_W @ dW + E_b @ db)  # <E', d>

    field = snode.StandaloneField(W.reshape(K, 1, 1), b.reshape(K, 1), T)
    sol = snode.solve_direct(field, np.array([[X0]]))
    theirs = snode.solve_adjoint(sol, sol.x_T - TARGET)
    direction = {"W": dW.reshape(K, 1, 1), "b": db.reshape(K, 1)}
    pairs = {
        "x": (x, sol.x),
        "xi": (xi, snode.solve_sensitivity(sol, dtheta=direction)),
        "lam": (lam, theirs.lam),
        "E'_W": (E_W, theirs.partials["W"] * K / T),  # partials are h times the densities
        "E'_b": (E_b, theirs.partials["b"] * K / T),
        "duality": (slope, lam[-1] * xi[-1]),
    }
    eps = 10.0 ** -np.arange(0, 13.5, 0.5)
    one_sided = [(cost(W + e * dW, b + e * db) - cost(W, b)) / e for e in eps]
    central = [(cost(W + e * dW, b + e * db) - cost(W - e * dW, b - e * db)) / (2 * e) for e in eps]
    return {
        "t": T / K * np.arange(K + 1), "x": x, "lam": lam, "E_W": E_W, "E_b": E_b,
        "difference": {name: _relative(mine, theirs) for name, (mine, theirs) in pairs.items()},
        "eps": eps, "one_sided": np.abs(np.array(one_sided) / slope - 1),
        "central": np.abs(np.array(central) / slope - 1),
    }  # fmt: skip


def _relative(mine: Any, theirs: Any) -> float:
    return float(np.abs(mine - np.reshape(theirs, np.shape(mine))).max() / np.abs(mine).max())


def plot(numbers: dict[str, Any]) -> Any:
    """Draw the state, the adjoint, the gradient densities and the V of finite differences."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    left, right = figure.subfigures(1, 2)
    top, bottom = left.subplots(2, 1, sharex=True)
    t = numbers["t"]
    top.plot(t, numbers["x"], "-", color=COLOURS[0], label="state $x(t)$")
    top.plot(t, numbers["lam"], "--", color=COLOURS[1], label=r"adjoint $\lambda(t)$")
    top.plot(T, TARGET, "*", ms=12, color=COLOURS[2], mec="0.2", label="target $y$", clip_on=False)
    top.set(ylabel="value", title=r"Direct problem runs to $T$, adjoint back to 0")
    for key, line, colour, label in (
        ("E_W", "-", COLOURS[0], r"$E'_W = \lambda\,\sigma'\,x$"),
        ("E_b", "--", COLOURS[1], r"$E'_b = \lambda\,\sigma'$"),
    ):
        bottom.stairs(numbers[key], t, baseline=None, ls=line, color=colour, lw=1.5, label=label)
    bottom.axhline(0, color="0.7", lw=0.8, zorder=0)
    bottom.set(xlabel="depth t", ylabel="gradient density",
               title="Effect on the cost of a change at depth t")  # fmt: skip
    ax = right.subplots()
    eps = numbers["eps"]
    for key, style, colour in (("one_sided", "o-", COLOURS[0]), ("central", "s--", COLOURS[1])):
        ax.loglog(eps, np.maximum(numbers[key], 1e-16), style, ms=5, color=colour,
                  label=f"{key.replace('_', '-')} difference")  # fmt: skip
    worst = max(numbers["difference"].values())
    ax.axhline(worst, color=COLOURS[3], ls="-.", lw=1.5,
               label="by hand against snode, the worst of all")  # fmt: skip
    ax.set(xlabel=r"step $\varepsilon$ of the difference",
           ylabel="relative difference from the adjoint",
           title="Finite differences: Taylor and rounding")  # fmt: skip
    for ax_ in (top, bottom, ax):
        ax_.grid(alpha=0.3)
        ax_.legend(fontsize="small")
    return figure


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--quick", action="store_true", help="40 cells (the default)")
    group.add_argument("--full", action="store_true", help="400 cells")
    parser.add_argument(
        "--out", type=Path, default=Path("adjoint_by_hand_one_neuron.png"), help="figure to write"
    )
    args = parser.parse_args()
    args.out = args.out.with_suffix(args.out.suffix or ".png")
    numbers = run(quick=not args.full)
    plot(numbers).savefig(args.out, dpi=110)
    for name, difference in numbers["difference"].items():
        print(f"{name:8s} by hand and by snode differ by {difference:.1e} (relative)")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
