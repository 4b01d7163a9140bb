"""Lower bounds: slopes with a large logarithmic norm, found by local search."""

# ruff: noqa: N803, N806  (the symbols of the proofs)

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import eigh
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh

from snode.analysis.slope_problem import EPS, TINY, Chain, flat, is_zero, moduli
from snode.backend import Array
from snode.results import Status

__all__ = ["Search", "Trace", "alternating", "at_slopes", "gradient_flow", "refine", "starts_of"]

STACKED = 40
"""Up to this n the eigenpairs of all starts come from one stacked call of LAPACK.

Lanczos steps are faster from n = 20 on, but up to about here LAPACK finds larger values
(``benchmarks/lognorm.py --choices``), and needs no kernel to be loaded.
"""

DIRECT = 400
"""Up to this n a single eigenpair comes from LAPACK, beyond from ARPACK (measured)."""

KRYLOV = 10
"""Lanczos steps between two updates of the slopes, for larger n."""

MAX_UPDATES = 200
SPREAD = 0.1, 0.6
"""How far from the best eigenvector the starts of `refine` are, relative to its length."""

PATIENCE = 4
"""Rounds without progress after which `refine` stops."""

Slopes = tuple[Array, ...]


class Trace(NamedTuple):
    """What happened from iteration to iteration of one run.

    Attributes
    ----------
    value : array (k,)
        Largest eigenvalue lambda; it never falls.
    n_active : array (k,)
        Slopes that stand at an end.
    step : array (k,)
        Step of the gradient flow; NaN for the alternating iteration.
    residual : array (k,)
        How far from stationary.
    """

    value: Array
    n_active: Array
    step: Array
    residual: Array


class Search(NamedTuple):
    """Slopes, their eigenvector, and a number that is certainly not above the maximum."""

    lower: float
    d: Slopes
    z: Array
    residual: float
    n_eig: int
    status: Status
    trace: Trace


def starts_of(chain: Chain, count: int, rng: np.random.Generator) -> Array:
    """Unit vectors (n, count): the top eigenvector of Sym(A) for equal slopes, then random ones."""
    first = top_pair(chain, chain.hi)[1] if count else np.zeros(chain.n)
    X = rng.standard_normal((chain.n, count))
    X[:, :1] = first[:, None]
    return X / np.linalg.norm(X, axis=0)


def top_pair(chain: Chain, d: Slopes, z0: Array | None = None) -> tuple[float, Array]:
    """Largest eigenvalue of Sym(J(d)) and a unit eigenvector."""
    n = chain.n
    if not chain.dense:
        return _lanczos_pair(chain, d, z0)
    J = chain.jacobian(d)
    S = 0.5 * (J + J.T)
    if n > DIRECT:
        try:
            w, V = eigsh(S, k=1, which="LA", v0=_start(n, z0), tol=1e-10)
            return float(w[0]), V[:, 0]
        except ArpackError:
            pass
    w, V = eigh(S, subset_by_index=[n - 1, n - 1], check_finite=False)
    return float(w[0]), V[:, 0]


def _start(n: int, z0: Array | None) -> Array:
    """A vector near z0 that is orthogonal to no invariant subspace."""
    noise = np.random.default_rng(0).standard_normal(n) / n**0.5
    return noise if z0 is None else z0 + 1e-3 * noise


def _lanczos_pair(chain: Chain, d: Slopes, z0: Array | None) -> tuple[float, Array]:
    n = chain.n
    if n <= STACKED:
        dense = np.stack([chain.product(d, e) for e in np.eye(n)])
        w, V = np.linalg.eigh(0.5 * (dense + dense.T))
        return float(w[-1]), V[:, -1]
    S: Any = LinearOperator((n, n), matvec=lambda x: chain.product(d, x.ravel()), dtype=float)
    v0 = _start(n, z0)
    try:
        w, V = eigsh(S, k=1, which="LA", v0=v0)
    except ArpackNoConvergence as failure:
        if not len(failure.eigenvalues):
            return float(v0 @ chain.product(d, v0) / (v0 @ v0)), v0 / np.linalg.norm(v0)
        w, V = failure.eigenvalues, failure.eigenvectors
    return float(w[-1]), V[:, -1]


def residual_of(chain: Chain, d: Slopes, g: Slopes) -> float:
    """Largest rate at which lambda still grows inside of the box: 0 at a stationary point."""
    inward = _inward(chain, d, g)
    return max(float(np.abs(part).max(initial=0.0)) for part in inward)


def _inward(chain: Chain, d: Slopes, g: Slopes) -> Slopes:
    """The gradient without the components that point out of the box."""
    return tuple(
        np.where(((dj >= hi) & (gj > 0)) | ((dj <= lo) & (gj < 0)), 0.0, gj)
        for dj, gj, lo, hi in zip(d, g, chain.lo, chain.hi, strict=True)
    )


def proven_value(chain: Chain, d: Slopes, z: Array) -> float:
    """The Rayleigh quotient of z, rounded down by more than its rounding error.

    What a LinearOperator rounds is not known.
    """
    bound = np.abs(z)
    for A, dj in zip(chain.A, d, strict=True):
        bound = np.abs(dj * (moduli(A) @ bound))
    value, length = float(z @ chain.forward(d, z)[1]), float(z @ z)
    if any(map(is_zero, chain.A)):
        return 0.0
    # every product of the sum passes through at most this many roundings
    roundings = sum(A.shape[1] + 4 for A in chain.A) + 2 * chain.n + 8
    slack = roundings * EPS * float(np.abs(z) @ bound) + TINY
    return float((value - slack) / length - 4 * EPS * (abs(value) + slack) / length)


def alternating(chain: Chain, starts: Array, d0: Slopes | None = None) -> Search:
    """Alternate between the top eigenvector and the slopes it favours, from several starts.

    Parameters
    ----------
    chain : Chain
    starts : array (n, s)
        Directions; each gives its first slopes.
    d0 : tuple of array, optional
        One more start, by its slopes.
    """
    if d0 is not None:
        _, z = top_pair(chain, d0)
        starts = np.concatenate([z[:, None], starts], axis=1)
    X = starts / np.maximum(np.linalg.norm(starts, axis=0), 1e-300)
    d = tuple(np.repeat(hi[:, None], X.shape[1], axis=1) for hi in chain.hi)
    if chain.n <= STACKED and chain.dense:
        found = _alternate_stacked(chain, _favoured(chain, d, X))
    else:
        found = _alternate_krylov(chain, _favoured(chain, d, X), X)
    return found._replace(n_eig=found.n_eig + (d0 is not None))


def at_slopes(chain: Chain, d: Slopes) -> Search:
    """No search: what the slopes d give."""
    value, z = top_pair(chain, d)
    return _result(chain, d, z, 1, Status.SUCCESS, [value])


def refine(
    chain: Chain, found: Search, count: int, rounds: int, rng: np.random.Generator,
    ceiling: float = np.inf,
) -> Search:  # fmt: skip
    """Alternate again from directions near the best eigenvector, in rounds of `count` starts."""
    idle = 0
    for _ in range(rounds):
        if idle == PATIENCE or found.lower >= ceiling:
            break
        noise = rng.standard_normal((chain.n, count))
        noise *= rng.uniform(*SPREAD, count) / np.linalg.norm(noise, axis=0)
        other = alternating(chain, found.z[:, None] + noise)
        n_eig = found.n_eig + other.n_eig
        better = other.lower > found.lower + 1e-12 * abs(found.lower)
        idle = 0 if better else idle + 1
        found = (other if better else found)._replace(n_eig=n_eig)
    return found


def _favoured(chain: Chain, d: Slopes, X: Array) -> Slopes:
    """Layer by layer, the slopes that maximise x^T J(d) x; X is (n,) or (n, s)."""
    for j in range(len(d)):
        g = chain.gradient(d, X)[j]
        d = (*d[:j], chain.clamp(j, g), *d[j + 1 :])
    return d


def _equal(d: Slopes, e: Slopes) -> Any:
    """Whether all slopes agree: a bool, or one for each column."""
    return np.all([(a == b).all(axis=0) for a, b in zip(d, e, strict=True)], axis=0)


def _columns(d: Slopes, which: Any) -> Slopes:
    return tuple(part[:, which] for part in d)


def _alternate_stacked(chain: Chain, d: Slopes) -> Search:
    """All starts at once, with the eigenpairs of stacked matrices."""
    s = d[0].shape[1]
    running, values = np.arange(s), np.full((0, s), np.nan)
    Z = np.empty((chain.n, s))
    n_eig = 0
    for _ in range(MAX_UPDATES):
        w, Z[:, running] = _stacked_pairs(chain, _columns(d, running))
        n_eig += len(running)
        row = np.full(s, np.nan)
        row[running] = w
        values = np.concatenate([values, row[None]])
        new = _favoured(chain, _columns(d, running), Z[:, running])
        moved = ~_equal(new, _columns(d, running))
        if len(values) > 1:  # rounding may make it swing between equal vertices
            moved &= w > values[-2, running]
        running = running[moved]
        if not len(running):
            break
        for part, update in zip(d, new, strict=True):
            part[:, running] = update[:, moved]
    last = np.nanmax(values, axis=0)
    best = int(np.argmax(last))
    status = Status.MAX_STEPS if best in running else Status.SUCCESS
    run = values[:, best][~np.isnan(values[:, best])]
    return _result(chain, _columns(d, best), Z[:, best], n_eig, status, list(run))


def _stacked_pairs(chain: Chain, d: Slopes) -> tuple[Array, Array]:
    """Largest eigenvalues (s,) and eigenvectors (n, s)."""
    J = d[0].T[:, :, None] * chain.A[0]
    for A, dj in zip(chain.A[1:], d[1:], strict=True):
        J = dj.T[:, :, None] * (A @ J)
    w, V = np.linalg.eigh(0.5 * (J + J.transpose(0, 2, 1)))
    return w[:, -1], V[:, :, -1].T


def _alternate_krylov(chain: Chain, d: Slopes, X: Array) -> Search:
    """All starts roughly, by a few Lanczos steps an update; the best one then accurately."""
    running = np.arange(X.shape[1])
    values = np.full(X.shape[1], -np.inf)
    for _ in range(MAX_UPDATES):
        part = _columns(d, running)
        w, Z, rough = lanczos(chain, part, X[:, running], KRYLOV)
        new = _favoured(chain, part, Z)
        moved = ~_equal(new, part) | (rough > 0.02 * np.abs(w - values[running]) + 1e-3)
        moved &= w > values[running] + 1e-6 * np.abs(w)
        values[running], X[:, running] = w, Z
        for whole, update in zip(d, new, strict=True):
            whole[:, running] = update
        running = running[moved]
        if not len(running):
            break
    best = int(np.argmax(values))
    return _polish(chain, _columns(d, best), X[:, best])


def _polish(chain: Chain, d: Slopes, z: Array) -> Search:
    """The alternating iteration with accurate eigenpairs."""
    values: list[float] = []
    status = Status.MAX_STEPS
    for _ in range(MAX_UPDATES):
        value, z = top_pair(chain, d, z)
        new = _favoured(chain, d, z)
        same = _equal(new, d) or (values and value <= values[-1])
        values.append(value)
        if same:
            status = Status.SUCCESS
            break
        d = new
    return _result(chain, d, z, len(values), status, values)


def _result(
    chain: Chain, d: Slopes, z: Array, n_eig: int, status: Status, values: list[float]
) -> Search:
    residual = residual_of(chain, d, chain.gradient(d, z))
    units = sum(chain.sizes)
    k = len(values)
    trace = Trace(
        np.array(values), np.full(k, units), np.full(k, np.nan),
        np.array([np.nan] * (k - 1) + [residual]),
    )  # fmt: skip
    return Search(proven_value(chain, d, z), d, z, residual, n_eig, status, trace)


def lanczos(chain: Chain, d: Slopes, X: Array, steps: int) -> tuple[Array, Array, Array]:
    """Ritz values, vectors and residuals of the columns of X (n, s), after `steps` products."""
    from snode._kernels import lanczos_step

    n, s = X.shape
    steps = min(steps, n)
    Q, T = np.zeros((steps + 1, n, s)), np.zeros((s, steps, steps))
    alpha, beta = np.zeros(s), np.zeros(s)
    Q[0] = X
    for k in range(steps):
        v = np.ascontiguousarray(chain.product(d, Q[k]), dtype=np.float64)
        lanczos_step(Q, k, v, alpha, beta)
        T[:, k, k] = alpha
        if k + 1 < steps:
            T[:, k, k + 1] = T[:, k + 1, k] = beta
    _forbid_empty(T, Q)
    w, Y = np.linalg.eigh(T)
    top = Y[:, :, -1]
    Z = np.einsum("kns,sk->ns", Q[:steps], top)
    return w[:, -1], Z / np.linalg.norm(Z, axis=0), beta * np.abs(top[:, -1])


def _forbid_empty(T: Array, Q: Array) -> None:
    """Keep the zero vectors that an invariant subspace leaves from winning with the value 0."""
    k = np.arange(T.shape[1])
    empty = ~Q[:-1].any(axis=1).T
    T[:, k, k] = np.where(empty, -1e3 - np.abs(T).max(axis=(1, 2))[:, None], T[:, k, k])


def gradient_flow(
    chain: Chain, d0: Slopes | None = None, *, tol: float = 1e-8, max_steps: int = 5000
) -> Search:
    """Follow d' = grad lambda, frozen at the ends of the box where it points outward.

    A step is taken if lambda grows by at least half of what the gradient promises, so lambda is
    monotone; it is halved if not, or if the free gradient turned by more than a quarter.
    """
    d = d0
    if d is None:
        d = tuple(0.5 * lo + 0.5 * hi for lo, hi in zip(chain.lo, chain.hi, strict=True))
    value, z = top_pair(chain, d)
    free = _inward(chain, d, chain.gradient(d, z))
    h = 0.1 * _width(chain) / max(_norm(free), 1e-300)
    n_eig, rows, status = 1, [], Status.MAX_STEPS
    for _ in range(max_steps):
        residual = max(float(np.abs(part).max(initial=0.0)) for part in free)
        rows.append((value, _n_active(chain, d), h, residual))
        if residual <= tol:
            status = Status.SUCCESS
            break
        step = _flow_step(chain, d, free, value, z, h)
        n_eig += step.n_eig
        if step.d is d:
            status = Status.NO_DESCENT
            break
        turned = _norm(tuple(a - b for a, b in zip(step.free, free, strict=True)))
        h = step.h * (2.0 if turned <= 0.25 * _norm(free) else 0.7)
        d, value, z, free = step.d, step.value, step.z, step.free
    columns = (np.array(column) for column in zip(*rows, strict=True))
    lower = proven_value(chain, d, z)
    return Search(lower, d, z, residual, n_eig, status, Trace(*columns))


class _Step(NamedTuple):
    d: Slopes
    value: float
    z: Array
    free: Slopes
    h: float
    n_eig: int


def _flow_step(chain: Chain, d: Slopes, free: Slopes, value: float, z: Array, h: float) -> _Step:
    """One accepted Euler step, cut to the box; the same `d` if none is accepted."""
    smallest = 1e-14 * _width(chain) / _norm(free)
    n_eig = 0
    while h > smallest:
        new = tuple(
            np.clip(dj + h * gj, lo, hi)
            for dj, gj, lo, hi in zip(d, free, chain.lo, chain.hi, strict=True)
        )
        new_value, new_z = top_pair(chain, new, z)
        n_eig += 1
        promised = sum(float(gj @ (b - a)) for gj, a, b in zip(free, d, new, strict=True))
        if new_value >= value + 0.5 * promised - 8 * EPS * abs(value) and new_value >= value:
            inward = _inward(chain, new, chain.gradient(new, new_z))
            return _Step(new, new_value, new_z, inward, h, n_eig)
        h /= 2
    return _Step(d, value, z, free, h, n_eig)


def _width(chain: Chain) -> float:
    return float(np.linalg.norm(flat(chain.hi) - flat(chain.lo)))


def _norm(parts: Slopes) -> float:
    return float(np.linalg.norm(flat(parts)))


def _n_active(chain: Chain, d: Slopes) -> int:
    every = flat(d)
    return int(((every == flat(chain.lo)) | (every == flat(chain.hi))).sum())
