"""Largest logarithmic norm over all slopes: `snode.max_log_norm` against what it replaces.

The matrices are Gaussian A / sqrt(n) - 1.5 I, the slopes [0.1, 1].

- lower: 20 starts. The sign iteration of snode, the same with LAPACK's eigenpairs one by one, and
  the gradient system of the paper, frozen at the ends of the box, integrated by SciPy's `solve_ivp`
  (RK45) until it is as stationary; eigenpairs from LAPACK's `syevr`, largest one only;
- certificate: the best multipliers by snode, L-BFGS on the smoothed problem, and a tree of boxes;
- sdp: the same convex problem through CVXPY with Clarabel and SCS; their times are those inside of
  the solver, the time of the whole call stands beside;
- exact: random matrices with n up to 20, m = 0.1 and 0.5, with and without the shift.

All candidates run with the same number of BLAS threads.

With --choices, instead: what was chosen, and by what measurement:

- eigenpairs: the top eigenpair at slopes met on the way, by LAPACK, ARPACK and LOBPCG, cold and
  from the eigenvector of the slopes before, and by the Lanczos steps of snode, alone and 20 starts
  at once;
- starts: the whole search with stacked LAPACK and with Lanczos steps: seconds, and which of the two
  found the larger value, over several matrices;
- kernel: the whole search, and both sides, with the orthogonalisation of the Lanczos steps by NumPy
  and by the Numba kernel; for the search also how much of its time products and that step take.

Run: python benchmarks/lognorm.py [--choices]
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from harness import available, in_turns, leave_out, make_parser, parse, report
from scipy.integrate import solve_ivp
from scipy.linalg import eigh
from scipy.optimize import minimize
from scipy.sparse.linalg import eigsh, lobpcg
from threadpoolctl import threadpool_limits

from snode import _kernels
from snode.analysis import slope_search
from snode.analysis.lognorm import max_log_norm
from snode.analysis.slope_problem import Chain, make_chain

M, SHIFT, STARTS = 0.1, 1.5, 20
STATIONARY = 1e-8
TOL = 1e-8
SLOPES = (M, 1.0)
PEERS = ("cvxpy", "clarabel", "scs")


def gaussian(n: int, seed: int = 0, shift: float = SHIFT) -> np.ndarray:
    rng = np.random.default_rng([n, seed])
    return rng.standard_normal((n, n)) / np.sqrt(n) - shift * np.eye(n)


def top_pair(A: np.ndarray, d: np.ndarray) -> tuple[float, np.ndarray]:
    n, B = len(A), d[:, None] * A
    w, V = eigh(0.5 * (B + B.T), subset_by_index=[n - 1, n - 1], check_finite=False)
    return float(w[0]), V[:, 0]


# --- lower bounds ---------------------------------------------------------------------------------


def sign_iteration(A: np.ndarray, starts: int) -> float:
    """The alternating iteration as it is written down: one eigenpair at a time."""
    rng = np.random.default_rng(0)
    best = -np.inf
    for _ in range(starts):
        z, d = rng.standard_normal(len(A)), None
        while True:
            new = np.where(z * (A @ z) > 0, 1.0, M)
            if d is not None and (new == d).all():
                break
            d = new
            value, z = top_pair(A, d)
        best = max(best, value)
    return best


def scipy_flow(A: np.ndarray, starts: int) -> tuple[float, int]:
    """The gradient system from random points of the box; the best value, and evaluations."""
    rng = np.random.default_rng(0)
    best, count = -np.inf, 0

    def rate(_: float, d: np.ndarray) -> np.ndarray:
        nonlocal count
        count += 1
        d = np.clip(d, M, 1.0)
        z = top_pair(A, d)[1]
        g = z * (A @ z)
        return np.where(((d >= 1) & (g > 0)) | ((d <= M) & (g < 0)), 0.0, g)

    def moving(t: float, d: np.ndarray) -> float:
        return float(np.abs(rate(t, d)).max()) - STATIONARY

    moving.terminal = True  # type: ignore[attr-defined]
    for _ in range(starts):
        end = solve_ivp(rate, (0, 1e6), rng.uniform(M, 1, len(A)), events=moving).y[:, -1]
        best = max(best, top_pair(A, np.clip(end, M, 1.0))[0])
    return best, count


def lower_bounds(sizes: list[int], repeats: int, flow_limit: int) -> dict[str, Any]:
    results = {}
    for n in sizes:
        A = gaussian(n)
        options: dict[str, Any] = {"certify": False, "n_starts": STARTS}
        runs: dict[str, Callable[[], Any]] = {
            "snode, sign iteration": lambda A=A, o=options: max_log_norm(
                A, SLOPES, n_rounds=0, **o
            ),
            "snode, and 10 rounds more": lambda A=A, o=options: max_log_norm(A, SLOPES, **o),
            "snode, flow": lambda A=A, o=options: max_log_norm(A, SLOPES, method="flow", **o),
            "sign iteration by LAPACK": lambda A=A: sign_iteration(A, STARTS),
        }
        slow = {"snode, flow", "sign iteration by LAPACK"} if n > flow_limit else set()
        timed = in_turns({k: run for k, run in runs.items() if k not in slow}, repeats)
        rows = {name: (s, value_of(value)) for name, (s, value) in timed.items()}
        if n <= flow_limit:  # long: once, right after the others
            seconds, (value, count) = in_turns({"": lambda A=A: scipy_flow(A, STARTS)}, 0)[""]
            rows[f"gradient system by solve_ivp ({count} eigenpairs)"] = seconds, value
        print(f"lower bound, n = {n}, {STARTS} starts")
        show(rows)
        results[str(n)] = rows
    return results


def value_of(value: Any) -> float:
    return value if isinstance(value, float) else value.lower


def show(rows: dict[str, tuple[float, float]]) -> None:
    first = next(iter(rows.values()))[0]
    for name, (seconds, value) in rows.items():
        print(f"  {name:52s} {seconds:9.4f} s {seconds / first:8.1f} x   {value:.6f}")


# --- certificates ---------------------------------------------------------------------------------


def smoothed(A: np.ndarray) -> float:
    """L-BFGS on the soft maximum of the eigenvalues, over log a."""
    S = 0.5 * (A + A.T)

    def matrix(a: np.ndarray) -> np.ndarray:
        return (1 + M) / 2 * S + (1 - M) / 4 * (np.diag(a) + A.T @ (A / a[:, None]))

    def cost(t: np.ndarray) -> tuple[float, np.ndarray]:
        a = np.exp(t)
        w, V = np.linalg.eigh(matrix(a))
        mu = 1e-3 * max(1.0, abs(w[-1]))
        e = np.exp((w - w[-1]) / mu)
        value = w[-1] + mu * np.log(e.sum())
        e /= e.sum()
        AV = A @ V
        return value, (1 - M) / 4 * ((a[:, None] * V * V) @ e - (AV * AV / a[:, None]) @ e)

    start = np.log(np.linalg.norm(A, axis=1))
    found = minimize(cost, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000})
    return float(np.linalg.eigvalsh(matrix(np.exp(found.x)))[-1])


def certificates(sizes: list[int], repeats: int, flow_limit: int) -> dict[str, Any]:
    results = {}
    for n in sizes:
        A = gaussian(n)
        runs: dict[str, Callable[[], Any]] = {
            "snode, both sides": lambda A=A: max_log_norm(A, SLOPES),
        }
        if n <= flow_limit:
            runs["snode, 50 boxes"] = lambda A=A: max_log_norm(
                A, SLOPES, method="exact", max_nodes=50
            )
            runs["smoothed problem by L-BFGS"] = lambda A=A: smoothed(A)
        timed = in_turns(runs, min(repeats, 3))
        lower = max(value.lower for _, value in timed.values() if not isinstance(value, float))
        print(f"certificate, n = {n}; best lower bound {lower:.6f}")
        results[str(n)] = {}
        for name, (seconds, value) in timed.items():
            upper = value if isinstance(value, float) else value.upper
            own = np.nan if isinstance(value, float) else value.gap
            print(f"  {name:30s} {seconds:9.3f} s   upper {upper:.6f}, to the best lower bound "
                  f"{upper - lower:.4f}, own gap {own:.4f}")  # fmt: skip
            results[str(n)][name] = {"seconds": seconds, "upper": upper, "gap": upper - lower}
    return results


# --- the semidefinite programme -------------------------------------------------------------------


def cvxpy_problem(A: np.ndarray) -> Any:
    import cvxpy as cp

    n, r = len(A), (1 - M) / 2
    lam, L = cp.Variable(), cp.Variable(n)
    S = (1 + M) / 4 * (A + A.T)
    top = lam * np.eye(n) - S - A.T @ cp.diag(L) @ A
    F = cp.bmat([[top, -r / 2 * np.eye(n)], [-r / 2 * np.eye(n), cp.diag(L)]])
    return cp.Problem(cp.Minimize(lam), [0.5 * (F + F.T) >> 0])


def semidefinite(sizes: list[int], repeats: int) -> dict[str, Any]:
    cvxpy = available({"CVXPY": lambda: import_module("cvxpy")}).get("CVXPY")
    if cvxpy is None:
        return {}
    results: dict[str, Any] = {}
    for n in sizes:
        A = gaussian(n)
        runs: dict[str, Callable[[], Any]] = {
            "snode": lambda A=A: max_log_norm(A, SLOPES, n_starts=1, n_rounds=0).upper,
        }
        inside: dict[str, list[float]] = {"CLARABEL": [], "SCS": []}
        for solver in inside:
            if solver not in cvxpy.installed_solvers():
                leave_out(solver, "not installed")
                continue

            def by(A: np.ndarray = A, solver: str = solver, log: Any = inside) -> float:
                problem = cvxpy_problem(A)
                problem.solve(solver=solver)
                log[solver].append(problem.solver_stats.solve_time)
                return float(problem.value)

            runs[solver] = by
        timed = in_turns(runs, min(repeats, 3))
        seconds, upper = timed.pop("snode")
        print(f"sdp, n = {n}: snode {seconds:.4f} s, upper {upper:.8f}")
        results[str(n)] = {"snode": {"seconds": seconds, "upper": upper}}
        for solver, (whole, value) in timed.items():
            inner = float(np.median(inside[solver]))
            relative = (upper - value) / abs(value)
            print(f"  {solver:10s} {inner:8.3f} s ({inner / seconds:6.1f} x), whole call "
                  f"{whole:8.3f} s, value {value:.8f}, snode above it by "
                  f"{relative:.1e}")  # fmt: skip
            results[str(n)][solver] = {
                "seconds": inner, "whole": whole, "value": value, "relative": relative,
            }  # fmt: skip
    return results


# --- exact ----------------------------------------------------------------------------------------


def exact(sizes: list[int], count: int) -> dict[str, Any]:
    results = {}
    for n in sizes:
        times, nodes, gaps, missed = [], [], [], 0
        for shift, m, seed in [
            (shift, m, seed) for shift in (0.0, 1.5) for m in (0.1, 0.5) for seed in range(count)
        ]:
            A = gaussian(n, seed, shift)
            local = max_log_norm(A, (m, 1.0), certify=False, n_starts=1, n_rounds=0)
            start = time.perf_counter()
            result = max_log_norm(A, (m, 1.0), method="exact")
            times.append(time.perf_counter() - start)
            nodes.append(result.n_nodes)
            gaps.append(result.gap)
            missed += local.lower < result.lower - 1e-9
        print(f"exact, n = {n}: {len(times)} matrices, {np.median(times):.3f} s (median), "
              f"{max(times):.3f} s (largest), at most {max(nodes)} boxes, gap at most "
              f"{max(gaps):.1e}; one local search missed the maximum in {missed}")  # fmt: skip
        results[str(n)] = {
            "median": float(np.median(times)), "largest": max(times), "nodes": max(nodes),
            "gap": max(gaps), "missed": missed, "of": len(times),
        }  # fmt: skip
    return results


# --- what was chosen ------------------------------------------------------------------------------


def favoured(A: np.ndarray, z: np.ndarray) -> np.ndarray:
    return np.where(z * (A @ z) > 0, 1.0, M)


def on_the_way(A: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Slopes after two updates from random starts, and the eigenvectors before, (n, count) each."""
    before = np.random.default_rng(1).standard_normal((len(A), count))
    before = np.stack([top_pair(A, favoured(A, z))[1] for z in before.T], axis=1)
    return favoured(A, before), before


def eigenpairs(sizes: list[int], repeats: int) -> dict[str, Any]:
    results = {}
    for n in sizes:
        A = gaussian(n)
        D, Z = on_the_way(A, STARTS)
        B = D[:, 0, None] * A
        S, near, far = 0.5 * (B + B.T), Z[:, :1], np.random.default_rng(2).standard_normal((n, 1))
        chain = make_chain([A], [SLOPES])
        scale = 2.0**chain.exponent
        iterative = {"which": "LA", "tol": TOL}

        def by_lobpcg(x: np.ndarray, S: np.ndarray = S) -> Any:
            with warnings.catch_warnings():  # for small n it uses LAPACK, and says so
                warnings.simplefilter("ignore")
                return lobpcg(S, x, tol=TOL, maxiter=1000)

        def by_snode(D: np.ndarray, X: np.ndarray, chain: Any = chain, scale: float = scale) -> Any:
            w, V, _ = slope_search.lanczos(chain, (D,), X, slope_search.KRYLOV)
            return scale * w, V

        def by_stack(chain: Any = chain, D: np.ndarray = D, scale: float = scale) -> Any:
            w, V = slope_search._stacked_pairs(chain, (D,))
            return scale * w, V

        together = f"{STARTS} at once"
        runs: dict[str, Callable[[], Any]] = {
            "LAPACK, largest pair (syevr)": lambda S=S, n=n: eigh(
                S, subset_by_index=[n - 1, n - 1], check_finite=False
            ),
            "LAPACK, all pairs (syevd)": lambda S=S: np.linalg.eigh(S),
            f"LAPACK, all pairs, {together}": by_stack,
            "ARPACK eigsh, cold": lambda S=S, v=far, o=iterative: eigsh(S, k=1, v0=v[:, 0], **o),
            "ARPACK eigsh, warm": lambda S=S, v=near, o=iterative: eigsh(S, k=1, v0=v[:, 0], **o),
            "LOBPCG, cold": lambda f=by_lobpcg, v=far: f(v),
            "LOBPCG, warm": lambda f=by_lobpcg, v=near: f(v),
            "snode, Lanczos steps, warm": lambda f=by_snode, D=D, v=near: f(D[:, :1], v),
            f"snode, Lanczos steps, warm, {together}": lambda f=by_snode, D=D, Z=Z: f(D, Z),
        }
        value, z = top_pair(A, D[:, 0])
        print(f"eigenpairs, n = {n}: seconds for one pair, error of the value, slopes that differ")
        results[str(n)] = {}
        for name, (whole, (w, V)) in in_turns(runs, repeats).items():
            column = 0 if V.shape[1] < n or together in name else -1
            found = {
                "seconds": whole / STARTS if together in name else whole,
                "error": abs(float(w[column]) - value),
                "slopes": int((favoured(A, V[:, column]) != favoured(A, z)).sum()),
            }
            print("  {:45s} {seconds:10.6f} s {error:9.1e} {slopes:4d}".format(name, **found))
            results[str(n)][name] = found
    return results


def with_patch(place: Any, name: str, value: Any, run: Callable[[], Any]) -> Callable[[], Any]:
    """Return `run` with another value of a global of the module `place`."""

    def patched() -> Any:
        own = getattr(place, name)
        setattr(place, name, value)
        try:
            return run()
        finally:
            setattr(place, name, own)

    return patched


def stacks(sizes: list[int], count: int, limit: int) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for n in sizes:
        if n > limit:
            continue
        seconds: dict[str, list[float]] = {"stacked LAPACK": [], "Lanczos steps": []}
        better = dict.fromkeys(seconds, 0)
        for seed in range(count):

            def search(n: int = n, seed: int = seed) -> Any:
                return max_log_norm(gaussian(n, seed), SLOPES, certify=False, n_starts=STARTS)

            runs = {
                name: with_patch(slope_search, "STACKED", largest, search)
                for name, largest in zip(seconds, (n, 0), strict=True)
            }
            timed = in_turns(runs, 1)
            best = max(value.lower for _, value in timed.values())
            for name, (t, value) in timed.items():
                seconds[name].append(t)
                # the other one found less
                better[name] += min(v.lower for _, v in timed.values()) < best - 1e-9 and (
                    value.lower == best
                )
        print(f"starts, n = {n}: snode takes stacked LAPACK up to n = {slope_search.STACKED}")
        results[str(n)] = {"of": count}
        for name, times in seconds.items():
            median = float(np.median(times))
            print(f"  {name:20s} {median:9.4f} s (median), better in {better[name]} of {count}")
            results[str(n)][name] = {"seconds": median, "better": better[name]}
    return results


def lanczos_step_by_numpy(
    basis: np.ndarray, k: int, v: np.ndarray, alpha: np.ndarray, beta: np.ndarray
) -> None:
    """What the kernel does."""
    Q = basis[: k + 1]
    alpha[:] = np.einsum("ns,ns->s", Q[k], v)
    for _ in range(2):
        v -= np.einsum("kns,ks->ns", Q, np.einsum("kns,ns->ks", Q, v))
    beta[:] = np.linalg.norm(v, axis=0)
    basis[k + 1] = v / np.where(beta > 1e-14, beta, np.inf)


def shares(run: Callable[[], Any], step: Any) -> dict[str, float]:
    """Share of the seconds of `run` within the products, and within `step` as the Lanczos step."""
    spent = {"products": 0.0, "orthogonalisation": 0.0}

    def timed(name: str, call: Any) -> Any:
        def wrapper(*args: Any) -> Any:
            start = time.perf_counter()
            value = call(*args)
            spent[name] += time.perf_counter() - start
            return value

        return wrapper

    run = with_patch(Chain, "product", timed("products", Chain.product), run)
    run = with_patch(_kernels, "lanczos_step", timed("orthogonalisation", step), run)
    start = time.perf_counter()
    run()
    whole = time.perf_counter() - start
    return {name: seconds / whole for name, seconds in spent.items()}


def kernel(sizes: list[int], repeats: int) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for n in sizes:
        if n <= slope_search.STACKED:  # no Lanczos steps
            continue
        results[str(n)] = {}
        for what, certify in (("lower bound", False), ("both sides", True)):

            def search(n: int = n, certify: bool = certify) -> Any:
                return max_log_norm(gaussian(n), SLOPES, certify=certify, n_starts=STARTS)

            by_numpy = with_patch(_kernels, "lanczos_step", lanczos_step_by_numpy, search)
            timed = in_turns({"Numba": search, "NumPy": by_numpy}, repeats)
            rows: Any = {name: (s, v.lower) for name, (s, v) in timed.items()}
            print(f"kernel, n = {n}, {what}")
            show(rows)
            steps = {"Numba": _kernels.lanczos_step, "NumPy": lanczos_step_by_numpy}
            for form, step in steps.items() if not certify else ():
                rows[f"shares, {form}"] = shares(search, step)
                texts = [f"{share:.0%} {part}" for part, share in rows[f"shares, {form}"].items()]
                print(f"  of it with {form}: {', '.join(texts)}")
            results[str(n)][what] = rows
    return results


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, 5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 196, 784])
    parser.add_argument("--sdp", type=int, nargs="+", default=[20, 40, 60])
    parser.add_argument("--exact", type=int, nargs="+", default=[12, 16, 20])
    parser.add_argument(
        "--count", type=int, default=10, help="matrices of each kind for exact and for starts"
    )
    parser.add_argument("--threads", type=int, default=1, help="of BLAS, for everything")
    parser.add_argument("--flow-limit", type=int, default=196, help="largest n for the slow ones")
    parser.add_argument("--choices", action="store_true", help="only what was chosen, and why")
    parser.add_argument("--choice-sizes", type=int, nargs="+", default=[20, 50, 196, 784])
    args = parse(
        parser, argv, sizes=[6], sdp=[6], exact=[4], count=1, repeats=1, choice_sizes=[6]
    )  # fmt: skip
    numbers: dict[str, Any] = {}
    with threadpool_limits(limits=args.threads):
        if args.choices:
            numbers["eigenpairs"] = eigenpairs(args.choice_sizes, args.repeats)
            numbers["starts"] = stacks(args.choice_sizes, args.count, args.flow_limit)
            numbers["kernel"] = kernel(args.choice_sizes, args.repeats)
        else:
            numbers["lower"] = lower_bounds(args.sizes, args.repeats, args.flow_limit)
            numbers["certificate"] = certificates(args.sizes, args.repeats, args.flow_limit)
            numbers["sdp"] = semidefinite(args.sdp, args.repeats)
            numbers["exact"] = exact(args.exact, args.count)
    report(args, numbers, PEERS)


if __name__ == "__main__":
    main()
