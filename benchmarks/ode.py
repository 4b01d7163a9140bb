"""`snode.ode45` and its gradient against SciPy, torchdiffeq and diffrax.

Every candidate solves the same problem with the Dormand-Prince pair 5(4) at the same tolerances and
the same dtype. The error, against a reference of much higher accuracy, and the number of
evaluations of f are printed beside the time. Where the error of a peer is more than three times
smaller or larger than that of snode, the peer is shown a second time ("equal error") with the
tolerance that makes the errors equal.

- spiral: x' = A^T x^3, T = 25, float64, one state of two components: the cost of a step;
- gradient: of |x(T)|^2 / 2 with respect to A for the same problem, by the discrete adjoint, by
  torchdiffeq's continuous adjoint and by backpropagation through its steps, and by diffrax's two;
- mlp: a network 2-64-64-2 with 1000 states, T = 1, forward; gradient of the mean of x(T)^2 with
  respect to all weights;
- overhead: x' = -x with a fixed step, microseconds per step.

diffrax compiles: "jit" is the time of a compiled call, and what the first call takes longer is
printed below the table; "eager" is the same call without an outer `jax.jit`.

Run: python benchmarks/ode.py
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from harness import (
    available,
    in_turns,
    make_parser,
    parse,
    print_machine,
    report,
    seconds,
    threads,
)
from scipy.integrate import solve_ivp

import snode

A0 = np.array([[-0.1, 2.0], [-2.0, -0.1]])
X0, T_SPIRAL = np.array([2.0, 0.0]), 25.0
WIDTHS, BATCH, T_MLP = (2, 64, 64, 2), 1000, 1.0
T_LINEAR, STEP = 2.0, 1e-3
PEERS = ("torch", "torchdiffeq", "jax", "diffrax")
SHORT = 0.1
"""Runs of fewer seconds are repeated at once and the second one counts."""

DIFFER = 3.0
"""Errors that differ by more than this factor are compared at equal error, too."""


@dataclass(frozen=True)
class Candidate:
    """One way to solve a problem: ``run(rtol)`` returns (result, evaluations of f or None)."""

    name: str
    run: Callable[[float], tuple[Any, int | None]]
    compiles: bool = False


def peers(makers: Mapping[str, Callable[[], list[Candidate]]]) -> list[Candidate]:
    """Return the candidates whose packages are there; say which are not."""
    return [candidate for found in available(makers).values() for candidate in found]


def error_of(value: Any, reference: np.ndarray) -> float:
    """Return the relative error in the 2-norm."""
    return float(np.linalg.norm(np.ravel(value) - reference) / np.linalg.norm(reference))


def compare(
    candidates: list[Candidate], reference: np.ndarray, rtol: float, repeats: int
) -> dict[str, dict[str, float | None]]:
    """Time the candidates in turns, print a table with ratios to the first, and return it."""
    rows: dict[str, dict[str, Any]] = {}
    runs: dict[str, Callable[[], Any]] = {}

    def add(name: str, candidate: Candidate, tolerance: float, first: float) -> None:
        value, nfev = candidate.run(tolerance)
        rows[name] = {"rtol": tolerance, "nfev": nfev, "error": error_of(value, reference)}
        if candidate.compiles and first:
            rows[name]["first_call"] = first
        runs[name] = lambda: candidate.run(tolerance)

    for candidate in candidates:
        add(candidate.name, candidate, rtol, seconds(lambda c=candidate: c.run(rtol)))
    wanted = rows[candidates[0].name]["error"]
    for candidate in candidates[1:]:
        ratio = rows[candidate.name]["error"] / wanted
        if not 1 / DIFFER < ratio < DIFFER:
            tolerance = equal_error(candidate, reference, rtol, wanted)
            add(f"{candidate.name}, equal error", candidate, tolerance, 0.0)
    for name, (value, _) in in_turns(runs, repeats, settle=SHORT).items():
        rows[name]["seconds"] = value
    show(rows)
    return rows


def equal_error(candidate: Candidate, reference: np.ndarray, rtol: float, wanted: float) -> float:
    """Return a tolerance at which the error is about `wanted`: it is nearly proportional."""
    best, best_miss = rtol, math.inf
    for _ in range(6):
        miss = wanted / error_of(candidate.run(rtol)[0], reference)
        if abs(math.log(miss)) < best_miss:
            best, best_miss = rtol, abs(math.log(miss))
        if best_miss < math.log(1.3):
            break
        rtol = min(max(rtol * miss, 1e-12), 0.1)
    return best


def show(rows: dict[str, dict[str, Any]]) -> None:
    own = next(iter(rows.values()))["seconds"]
    print(f"  {'':<54}{'ms':>9}{'x snode':>9}{'nfev':>8}{'rtol':>9}{'error':>9}")
    for name, row in rows.items():
        nfev = "" if row["nfev"] is None else str(row["nfev"])
        print(f"  {name:<54}{1e3 * row['seconds']:9.2f}{row['seconds'] / own:9.2f}"
              f"{nfev:>8}{row['rtol']:9.1e}{row['error']:9.1e}")  # fmt: skip
    for name, row in rows.items():
        if "first_call" in row:
            print(f"  {name}: the first call, compilation included, takes "
                  f"{row['first_call']:.2f} s")  # fmt: skip


# --- the spiral -----------------------------------------------------------------------------------


class Spiral:
    """x' = A^T x^3 as a vector field."""

    def __init__(self, A: np.ndarray) -> None:
        self.parameters = {"A": A}
        self.A, self.n, self.breakpoints = A, len(A), ()
        self.grid = np.linspace(0.0, T_SPIRAL, 101)

    def with_parameters(self, **parameters: np.ndarray) -> Spiral:
        return Spiral(**{**self.parameters, **parameters})

    def __call__(self, t: float, x: np.ndarray) -> np.ndarray:
        return self.A.T @ (x * x * x)

    def linearize(self, t: float, x: np.ndarray) -> tuple[np.ndarray, SpiralLinearization]:
        square = x * x
        cube = square * x
        return self.A.T @ cube, SpiralLinearization(self.A, square, cube)


class SpiralLinearization:
    """Derivative of `Spiral` at one x."""

    __slots__ = ("A", "cube", "square")

    def __init__(self, A: np.ndarray, square: np.ndarray, cube: np.ndarray) -> None:
        self.A, self.square, self.cube = A, square, cube

    def jvp(self, dx: Any, dtheta: Any = None) -> np.ndarray:
        out = 0 * self.cube if dx is None else self.A.T @ (3 * self.square * dx)
        return out + dtheta["A"].T @ self.cube if dtheta else out

    def vjp(self, p: np.ndarray, into: snode.Partials | None = None) -> np.ndarray:
        if into is not None:
            into.outer("A", self.cube, p)
        return 3 * self.square * (self.A @ p)


def spiral_reference() -> tuple[np.ndarray, np.ndarray]:
    """Return x(T) and the gradient, from x and all its sensitivities together."""

    def f(t: float, z: np.ndarray) -> np.ndarray:
        x, S = z[:2], z[2:].reshape(2, 4)  # S: dx / dA, row by row
        source = np.zeros((2, 4))
        for j in range(2):
            for i in range(2):
                source[i, 2 * j + i] = x[j] ** 3
        return np.concatenate([A0.T @ x**3, (A0.T @ (3 * x[:, None] ** 2 * S) + source).ravel()])

    z0 = np.concatenate([X0, np.zeros(8)])
    z = solve_ivp(f, (0, T_SPIRAL), z0, "DOP853", rtol=1e-13, atol=1e-14).y[:, -1]
    return z[:2], z[:2] @ z[2:].reshape(2, 4)


def spiral(repeats: int) -> Any:
    print("spiral: x' = A^T x^3 to T = 25, float64")

    def f(t: float, x: np.ndarray) -> np.ndarray:
        return (x * x * x) @ A0

    def ours(rtol: float) -> tuple[Any, int]:
        sol = snode.ode45(f, (0, T_SPIRAL), X0, rtol=rtol, atol=rtol / 100)
        return sol.x_T, sol.nfev

    def scipy(rtol: float) -> tuple[Any, int]:
        sol = solve_ivp(f, (0, T_SPIRAL), X0, "RK45", rtol=rtol, atol=rtol / 100)
        return sol.y[:, -1], sol.nfev

    candidates = [Candidate("snode.ode45", ours), Candidate("SciPy RK45", scipy)]
    candidates += peers({"torchdiffeq": torch_spiral, "diffrax": diffrax_spiral})
    return compare(candidates, spiral_reference()[0], 1e-7, repeats)


def torch_spiral() -> list[Candidate]:
    import torch
    from torchdiffeq import odeint

    A, x0 = torch.tensor(A0), torch.tensor(X0)
    t = torch.tensor([0.0, T_SPIRAL], dtype=torch.float64)

    def run(rtol: float) -> tuple[Any, int]:
        count = 0

        def f(t: Any, x: Any) -> Any:
            nonlocal count
            count += 1
            return (x * x * x) @ A

        with torch.no_grad():
            x = odeint(f, x0, t, rtol=rtol, atol=rtol / 100, method="dopri5")
        return x[-1].numpy(), count

    return [Candidate("torchdiffeq dopri5", run)]


def diffrax_solver() -> Callable[..., Any]:
    """Return solve(f, T, x0, args, rtol, atol, adjoint) -> (x(T), number of steps)."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import diffrax

    def solve(f: Any, T: float, x0: Any, args: Any, rtol: Any, atol: Any, adjoint: Any) -> Any:
        sol = diffrax.diffeqsolve(
            diffrax.ODETerm(f), diffrax.Dopri5(), 0.0, T, None, x0, args,
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol), adjoint=adjoint,
        )  # fmt: skip
        return sol.ys[-1], sol.stats["num_steps"]

    return solve


def diffrax_spiral() -> list[Candidate]:
    solve = diffrax_solver()
    import diffrax
    import jax
    import jax.numpy as jnp

    A, x0 = jnp.asarray(A0), jnp.asarray(X0)

    def f(t: Any, x: Any, A: Any) -> Any:
        return (x * x * x) @ A

    adjoint = diffrax.RecursiveCheckpointAdjoint()

    def eager(rtol: Any) -> Any:
        return solve(f, T_SPIRAL, x0, A, rtol, rtol / 100, adjoint)

    return diffrax_pair("diffrax Dopri5", eager, jax.jit(eager))


def diffrax_pair(name: str, eager: Callable[..., Any], compiled: Any) -> list[Candidate]:
    def finished(solve: Callable[..., Any]) -> Callable[[float], tuple[Any, int]]:
        def run(rtol: float) -> tuple[Any, int]:
            x, steps = solve(rtol)
            return np.asarray(x), 6 * int(steps) + 2  # two more to choose the first step

        return run

    return [
        Candidate(f"{name}, jit", finished(compiled), compiles=True),
        Candidate(f"{name}, eager", finished(eager)),
    ]


# --- its gradient ---------------------------------------------------------------------------------


def gradient(repeats: int) -> Any:
    print("gradient: d/dA of |x(T)|^2 / 2 for the spiral, float64; nfev: forward and backward")
    field, x0 = Spiral(A0), X0[:, None]

    def ours(rtol: float) -> tuple[Any, int]:
        sol = snode.solve_direct(
            field, x0, method="ode45", rtol=rtol, atol=rtol / 100, keep="all"
        )  # fmt: skip
        adjoint = snode.solve_adjoint(sol, sol.x_T)
        return adjoint.partials["A"], sol.nfev + 6 * sol.n_accepted

    candidates = [Candidate("snode, discrete adjoint", ours)]
    candidates += peers({"torchdiffeq": torch_gradient, "diffrax": diffrax_gradient})
    return compare(candidates, spiral_reference()[1], 1e-7, repeats)


def torch_gradient() -> list[Candidate]:
    import torch
    from torchdiffeq import odeint, odeint_adjoint

    class Cubic(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.A = torch.nn.Parameter(torch.tensor(A0))
            self.count = 0

        def forward(self, t: Any, x: Any) -> Any:
            self.count += 1
            return (x * x * x) @ self.A

    f, x0 = Cubic(), torch.tensor(X0)
    t = torch.tensor([0.0, T_SPIRAL], dtype=torch.float64)
    return torch_pair(f, [f.A], x0, t, lambda x: 0.5 * (x * x).sum(), odeint, odeint_adjoint)


def torch_pair(
    f: Any, weights: list[Any], x0: Any, t: Any, loss: Callable[[Any], Any], odeint: Any,
    odeint_adjoint: Any,
) -> list[Candidate]:  # fmt: skip
    import torch

    def by(solve: Any, backward: int) -> Callable[[float], tuple[Any, int]]:
        def run(rtol: float) -> tuple[Any, int]:
            f.count = 0
            x = solve(f, x0, t, rtol=rtol, atol=rtol * atol_of(x0.dtype), method="dopri5")[-1]
            g = torch.autograd.grad(loss(x), weights)
            return np.concatenate([v.numpy().ravel() for v in g]), backward * f.count

        return run

    return [
        Candidate("torchdiffeq odeint_adjoint", by(odeint_adjoint, 1)),
        Candidate("torchdiffeq, backpropagation", by(odeint, 2)),
    ]


def atol_of(dtype: Any) -> float:
    """Return atol / rtol: 1/100 for the spiral (float64), 1/1000 for the network (float32)."""
    return 1e-2 if "64" in str(dtype) else 1e-3


def diffrax_gradient() -> list[Candidate]:
    solve = diffrax_solver()
    import diffrax
    import jax
    import jax.numpy as jnp

    A, x0 = jnp.asarray(A0), jnp.asarray(X0)

    def f(t: Any, x: Any, A: Any) -> Any:
        return (x * x * x) @ A

    found = []
    for name in ("RecursiveCheckpointAdjoint", "BacksolveAdjoint"):
        make = getattr(diffrax, name)

        def eager(rtol: Any, make: Any = make) -> Any:
            def cost(A: Any) -> Any:
                x, _ = solve(f, T_SPIRAL, x0, A, rtol, rtol / 100, make())
                return 0.5 * (x * x).sum()

            return jax.grad(cost)(A)

        for suffix, call in (("jit", jax.jit(eager)), ("eager", eager)):
            found.append(
                Candidate(
                    f"diffrax {name}, {suffix}",
                    lambda rtol, call=call: (np.asarray(call(rtol)), None),
                    compiles=suffix == "jit",
                )
            )
    return found


# --- a network ------------------------------------------------------------------------------------


class Network:
    """The same network and states for every candidate."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.field = snode.MLPField(WIDTHS, activation="tanh", T=T_MLP, rng=rng)
        self.x0 = rng.standard_normal((2, BATCH))

    def cast(self, dtype: Any) -> tuple[dict[str, np.ndarray], np.ndarray]:
        theta = {name: p.astype(dtype) for name, p in self.field.parameters.items()}
        return theta, self.x0.astype(dtype)

    def reference(self) -> tuple[np.ndarray, np.ndarray]:
        """Return x(T) and the gradient, from float64 and tight tolerances."""
        theta, x0 = self.cast(np.float32)  # the numbers all candidates start from
        theta = {name: p.astype(np.float64) for name, p in theta.items()}
        field = self.field.with_parameters(**theta)
        sol = snode.solve_direct(
            field, x0.astype(np.float64), method="ode45", rtol=1e-11, atol=1e-13
        )  # fmt: skip
        partials = snode.solve_adjoint(sol, 2 * sol.x_T / sol.x_T.size).partials
        return sol.x_T.ravel(), flat(partials)


def flat(partials: Any) -> np.ndarray:
    return np.concatenate([np.ravel(partials[name]) for name in partials])


def mlp(repeats: int) -> Any:
    network = Network()
    x_T, g = network.reference()
    theta, x0 = network.cast(np.float32)
    field = network.field.with_parameters(**theta)
    tolerances = {"rtol": 1e-3, "atol": 1e-6}
    assert tolerances["atol"] == tolerances["rtol"] * atol_of(x0.dtype)

    def forward(rtol: float) -> tuple[Any, int]:
        sol = snode.solve_direct(
            field, x0, method="ode45", rtol=rtol, atol=rtol / 1000, keep="last"
        )  # fmt: skip
        return sol.x_T, sol.nfev

    def backward(rtol: float) -> tuple[Any, int]:
        sol = snode.solve_direct(field, x0, method="ode45", rtol=rtol, atol=rtol / 1000)
        adjoint = snode.solve_adjoint(sol, 2 * sol.x_T / sol.x_T.size)
        return flat(adjoint.partials), sol.nfev + 6 * sol.n_accepted

    def scipy(rtol: float) -> tuple[Any, int]:
        # SciPy has one flat state and computes in float64; f is evaluated in float32
        def f(t: float, x: np.ndarray) -> np.ndarray:
            return field(t, x.reshape(x0.shape).astype(np.float32)).ravel()

        sol = solve_ivp(f, (0, T_MLP), x0.ravel(), "RK45", rtol=rtol, atol=rtol / 1000)
        return sol.y[:, -1], sol.nfev

    makers = {
        "torchdiffeq": lambda: torch_mlp(theta, x0), "diffrax": lambda: diffrax_mlp(theta, x0),
    }  # fmt: skip
    others = peers(makers)
    forwards = [c for c in others if "forward" in c.name]
    backwards = [c for c in others if "forward" not in c.name]
    print(f"mlp: {'-'.join(map(str, WIDTHS))}, tanh, {BATCH} states to T = 1, float32; forward")
    first = [Candidate("snode.solve_direct", forward), Candidate("SciPy RK45", scipy)]
    result = {"forward": compare([*first, *forwards], x_T, 1e-3, repeats)}
    print("mlp: gradient of the mean of x(T)^2 with respect to all weights; nfev: both ways")
    ours = Candidate("snode, discrete adjoint", backward)
    result["gradient"] = compare([ours, *backwards], g, 1e-3, repeats)
    return result


def torch_mlp(theta: Any, x0: np.ndarray) -> list[Candidate]:
    import torch
    from torchdiffeq import odeint, odeint_adjoint

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Linear(a, b) for a, b in pairwise(WIDTHS))
            with torch.no_grad():
                for i, layer in enumerate(self.layers, start=1):
                    layer.weight.copy_(torch.tensor(theta[f"W{i}"]))
                    layer.bias.copy_(torch.tensor(theta[f"b{i}"]))
            self.count = 0

        def forward(self, t: Any, x: Any) -> Any:
            self.count += 1
            for layer in self.layers[:-1]:
                x = torch.tanh(layer(x))
            return self.layers[-1](x)

    net, x = Net(), torch.tensor(x0.T.copy())
    t = torch.tensor([0.0, T_MLP])
    weights = [p for layer in net.layers for p in (layer.weight, layer.bias)]

    def forward(rtol: float) -> tuple[Any, int]:
        net.count = 0
        with torch.no_grad():
            y = odeint(net, x, t, rtol=rtol, atol=rtol / 1000, method="dopri5")[-1]
        return y.numpy().T, net.count

    pair = torch_pair(net, weights, x, t, lambda y: (y * y).mean(), odeint, odeint_adjoint)
    return [Candidate("torchdiffeq dopri5, forward", forward), *pair]


def diffrax_mlp(theta: Any, x0: np.ndarray) -> list[Candidate]:
    solve = diffrax_solver()
    import diffrax
    import jax
    import jax.numpy as jnp

    x, weights = jnp.asarray(x0.T), {name: jnp.asarray(p) for name, p in theta.items()}
    last = len(WIDTHS) - 1

    def f(t: Any, x: Any, w: Any) -> Any:
        for i in range(1, last + 1):
            x = x @ w[f"W{i}"].T + w[f"b{i}"]
            x = x if i == last else jnp.tanh(x)
        return x

    def end(w: Any, rtol: Any, adjoint: Any) -> Any:
        T = jnp.asarray(T_MLP, jnp.float32)
        return solve(f, T, x, w, rtol, rtol / 1000, adjoint)

    forward = jax.jit(lambda rtol: end(weights, rtol, diffrax.RecursiveCheckpointAdjoint()))

    def run_forward(rtol: float) -> tuple[Any, int]:
        y, steps = forward(jnp.float32(rtol))
        return np.asarray(y).T, 6 * int(steps) + 2

    found = [Candidate("diffrax Dopri5, forward, jit", run_forward, compiles=True)]
    for name in ("RecursiveCheckpointAdjoint", "BacksolveAdjoint"):
        make = getattr(diffrax, name)

        def cost(w: Any, rtol: Any, make: Any = make) -> Any:
            return jnp.mean(end(w, rtol, make())[0] ** 2)

        compiled = jax.jit(jax.grad(cost))

        def run(rtol: float, compiled: Any = compiled) -> tuple[Any, None]:
            g = compiled(weights, jnp.float32(rtol))
            return flat({name: g[name] for name in theta}), None

        found.append(Candidate(f"diffrax {name}, jit", run, compiles=True))
    return found


# --- the cost of a step ---------------------------------------------------------------------------


def overhead(repeats: int) -> Any:
    print(f"overhead: x' = -x, one component, steps of {STEP:g} to T = {T_LINEAR:g}, float64")
    x0 = np.array([1.0])

    def f(t: float, x: np.ndarray) -> np.ndarray:
        return -x

    options = {"rtol": 1e-3, "atol": 1e-6, "first_step": STEP, "max_step": STEP}
    runs = {
        "snode.ode45": lambda: snode.ode45(f, (0, T_LINEAR), x0, **options),
        "SciPy RK45": lambda: solve_ivp(f, (0, T_LINEAR), x0, "RK45", **options),
    }
    steps = {name: len(run().t) - 1 for name, run in runs.items()}
    times = in_turns(runs, 4 * repeats, settle=SHORT)  # short runs
    own = times["snode.ode45"][0] / steps["snode.ode45"]
    rows = {}
    for name, (value, _) in times.items():
        each = value / steps[name]
        rows[name] = {"steps": steps[name], "microseconds_per_step": 1e6 * each}
        print(f"  {name:<40}{1e6 * each:9.1f} us a step{each / own:9.2f} x snode"
              f"{steps[name]:8d} steps")  # fmt: skip
    return rows


COMPARISONS = {"spiral": spiral, "gradient": gradient, "mlp": mlp, "overhead": overhead}


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, 7)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(COMPARISONS))
    parser.add_argument("--threads", type=int, help="of NumPy's BLAS and PyTorch; JAX takes all")
    args = parse(parser, argv, repeats=1)
    unknown = set(args.names) - set(COMPARISONS)
    if unknown:
        parser.error(f"unknown name {', '.join(sorted(unknown))}; known: {', '.join(COMPARISONS)}")
    print_machine(PEERS)
    print(f"medians of {args.repeats}, all candidates in turn; error: relative, in the 2-norm")
    with threads(args.threads):
        result = {name: COMPARISONS[name](args.repeats) for name in args.names or COMPARISONS}
    report(args, result, PEERS)


if __name__ == "__main__":
    main()
