r"""Logarithmic norms: of one matrix, and the largest one over all slopes of the activation.

Two trajectories of x' = sigma(Ax + b) with slopes sigma' in [lo, hi] part at most like
:math:`e^{ft}`, where f is the largest logarithmic 2-norm of D A over all diagonal D with entries in
[lo, hi]. Finding f is an eigenvalue optimisation with many local maxima [Guglielmi2026]_; here it
is enclosed from both sides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from dataclasses import field as entry
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular
from scipy.sparse.linalg import LinearOperator

from snode.analysis.attack_result import check_count
from snode.analysis.lognorm_path import LogNormPath, path_of
from snode.analysis.slope_bound import SlopeBound, slope_bound
from snode.analysis.slope_exact import branch_and_bound
from snode.analysis.slope_problem import (
    SINGLE_THREADED,
    Chain,
    flat,
    is_sparse,
    make_chain,
    unscale,
)  # fmt: skip
from snode.analysis.slope_search import Search, Trace, alternating, gradient_flow, refine, starts_of
from snode.backend import Array, follow, from_device, own_error_state, single_threaded_blas
from snode.copying import Portable
from snode.ode.arguments import check_choice, check_unmasked
from snode.progress import Callback, check_callback
from snode.results import Status
from snode.seeds import as_generator

__all__ = ["LogNormPath", "LogNormResult", "log_norm", "max_log_norm"]

METHODS = ("alternating", "flow", "exact")
LARGEST_SLOPE = 1e9
CLOSED = 1e-8
"""Relative to the size of the problem: where the gap is smaller, the search ends."""


@dataclass(frozen=True, eq=False)
class LogNormResult(Portable):
    """Two-sided bounds of f = max over the slopes d of the logarithmic 2-norm of D A.

    Attributes
    ----------
    lower, upper : float
        ``lower <= f <= upper``, rounding included (but for that of a `LinearOperator`). `upper` is
        inf without a certificate.
    d : array (n,), or tuple of array for several layers
        The slopes whose logarithmic norm is `lower`.
    z : array (n,)
        The unit eigenvector there.
    method : str
    n_eig : int
        Eigenpairs that the search computed.
    status : Status
        Of the search, or of branch and bound: ``MAX_NODES`` when it was stopped. The bounds hold
        in any case.
    multiplier : array (n,), or tuple of array, or None
        The multipliers L behind the certificate of the whole box; inf where the slope is fixed.
        None without a certificate.
    residual : float
        How far `d` is from stationary: the largest rate at which lambda still grows within the
        box.
    history : Trace
        Iterations of the run that found `d`: ``value``, ``n_active``, ``step``, ``residual``.
    n_nodes : int
        Boxes that were bounded: 1 for a plain certificate, 0 without one.
    """

    lower: float
    upper: float
    d: Any
    z: Array
    method: str
    n_eig: int
    status: Status
    multiplier: Any = None
    residual: float = math.nan
    history: Trace | None = entry(default=None, repr=False)
    n_nodes: int = 0

    @property
    def gap(self) -> float:
        """``upper - lower``."""
        return self.upper - self.lower

    @property
    def certified(self) -> bool:
        """Whether `upper` is a bound that says something."""
        return self.upper < math.inf

    @property
    def success(self) -> bool:
        """True if the computation ended as asked. The bounds hold in any case."""
        return self.status is Status.SUCCESS

    def __repr__(self) -> str:
        nodes = f", n_nodes={self.n_nodes}" if self.n_nodes > 1 else ""
        return (
            f"LogNormResult({self.lower:.10g} <= f <= {self.upper:.10g}, gap={self.gap:.3g}, "
            f"n={len(self.z)}, {self.method}, n_eig={self.n_eig}{nodes}, {self.status.name})"
        )


@own_error_state
def log_norm(A: Any, p: float = 2, *, weight: Any = None) -> Any:
    r"""Return the logarithmic norm of a matrix, or of each matrix of a stack.

    Parameters
    ----------
    A : array (n, n) or (..., n, n)
        Real numbers.
    p : {1, 2, inf}, optional
        Which norm.
    weight : array (n, n), optional
        A symmetric positive definite P: the norm is :math:`\sqrt{x^T P x}`. Only for ``p=2``.

    Returns
    -------
    float, or array (...)

    Raises
    ------
    ValueError
        If A is not square, finite and real, `p` is another number, or `weight` is not symmetric
        positive definite.

    Notes
    -----
    The largest eigenvalue of the symmetric part for p = 2,
    :math:`\max_j (a_{jj} + \sum_{i \ne j} |a_{ij}|)` for p = 1, and the same over rows for inf.
    With a weight :math:`P = C C^T` it is the logarithmic 2-norm of :math:`C^T A C^{-T}`.
    Device arrays are copied to the host, where the eigenvalues are computed, and the values back.

    Examples
    --------
    >>> from snode.analysis.lognorm import log_norm
    >>> A = [[-1.0, 1.0], [0.0, -1.0]]
    >>> log_norm(A), log_norm(A, p=1)
    (-0.5, 0.0)
    """
    stack = _as_stack(A)
    if p not in (1, 2, math.inf):
        raise ValueError(f"p must be 1, 2 or inf; got {p!r}")
    if weight is not None:
        if p != 2:
            raise ValueError(f"weight is for p=2; got p={p!r}")
        stack = _weighted(stack, weight)
    if p == 2:
        values = np.linalg.eigvalsh(0.5 * stack + 0.5 * stack.swapaxes(-1, -2))[..., -1]
    else:
        diagonal = np.diagonal(stack, axis1=-2, axis2=-1)
        moduli = np.abs(stack)
        i = np.arange(stack.shape[-1])
        moduli[..., i, i] = diagonal
        values = moduli.sum(axis=-2 if p == 1 else -1).max(axis=-1)
    return float(values) if values.ndim == 0 else follow(values, A, weight)


def _as_stack(A: Any) -> Array:
    array = _real(A, "A")
    if array.ndim < 2 or array.shape[-1] != array.shape[-2] or not array.shape[-1]:
        raise ValueError(f"A must be square, (n, n) or (..., n, n); got shape {array.shape}")
    return array


def _weighted(stack: Array, weight: Any) -> Array:
    P = _real(weight, "weight")
    n = stack.shape[-1]
    if P.shape != (n, n):
        raise ValueError(f"weight must have shape ({n}, {n}); got {P.shape}")
    if not np.allclose(P, P.T, rtol=1e-12, atol=0):
        raise ValueError("weight must be symmetric")
    try:
        C = np.linalg.cholesky(P)
    except np.linalg.LinAlgError:
        raise ValueError("weight must be positive definite") from None
    left = C.T @ stack
    rows = left.reshape(-1, n)  # r C^{-T} solves C y = r
    return solve_triangular(C, rows.T, lower=True).T.reshape(stack.shape)


def _real(A: Any, name: str) -> Array:
    """Return a finite float64 array on the host."""
    check_unmasked(A, name)
    A = from_device(A)
    if np.iscomplexobj(A):
        raise ValueError(f"{name} must be real; got complex numbers")
    try:
        array = np.asarray(A, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be an array of real numbers; got {A!r:.100}") from None
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite; it has NaN or inf")
    return array


@own_error_state
def max_log_norm(
    A: Any,
    slopes: Any = (0.1, 1.0),
    *,
    t: Any = None,
    method: str = "alternating",
    certify: bool = True,
    n_starts: int | None = None,
    n_rounds: int = 10,
    max_nodes: int = 10_000,
    d0: Any = None,
    multiplier0: Any = None,
    between: str | None = None,
    lipschitz: float | None = None,
    rng: Any = 0,
    callback: Callback | None = None,
) -> Any:
    r"""Enclose the largest logarithmic 2-norm of D A over all slopes.

    For one layer :math:`f = \max_D \lambda_{\max}(\mathrm{Sym}(DA))` over diagonal D with entries
    in [lo, hi]; for several layers the same of :math:`D_k A_k \cdots D_1 A_1`.

    Parameters
    ----------
    A : array (n, n), list of array, or callable
        A matrix; layers ``[A_1, ..., A_k]``, the first applied first; or a function of the depth
        that returns either. Sparse matrices and `LinearOperator` need ``certify=False``.
    slopes : (float, float), or one such pair for each layer, optional
        ``lo <= hi``: any finite numbers up to 1e9 in size. In the paper 0 < lo <= hi = 1.
    t : array (K + 1,), optional
        Increasing depths, for a callable A.
    method : {"alternating", "flow", "exact"}, optional
        How the lower bound is found: the sign iteration from many starts, the gradient system of
        the paper, or branch and bound, which also closes the gap.
    certify : bool, optional
        Whether to compute `upper`.
    n_starts : int, optional
        Starts of the search; 20, and 1 for the flow (the middle of the box).
    n_rounds : int, optional
        Rounds of as many starts again, near the best slopes so far; it stops earlier when several
        find nothing better. Not for the flow.
    max_nodes : int, optional
        Boxes that ``method="exact"`` may bound.
    d0, multiplier0 : array (n,) or tuple of array, optional
        Starts from a similar problem: `d` and `multiplier` of its result. `d0` is moved into the
        box.
    between : {"constant", "linear"}, optional
        What a callable A is between the depths: A(t_k) on [t_k, t_{k+1}), or linear. Without it and
        without `lipschitz` nothing is claimed between the depths.
    lipschitz : float, optional
        A number with :math:`|A(s) - A(t)|_2 \le` `lipschitz` :math:`|s - t|`, for a callable.
    rng : int or numpy.random.Generator, optional
    callback : callable, optional
        Called with a `snode.progress.Progress` (boxes bounded, of at most) before each split of
        ``method="exact"``. If it returns True, the bounds so far are returned, with
        ``status=STOPPED``.

    Returns
    -------
    LogNormResult, or LogNormPath for a callable

    Raises
    ------
    ValueError
        If an argument is not as described.

    Notes
    -----
    f is convex in the slopes of each layer, so it is attained at a vertex. `lower` is the Rayleigh
    quotient of a vertex minus its rounding error. `upper` follows from a diagonal multiplier L > 0,
    for one layer and slopes in [m, 1]

    .. math:: f \le \lambda_{\max}\bigl(\tfrac{1+m}{2} \mathrm{Sym}(A) + A^T L A
              + \tfrac{(1-m)^2}{16} L^{-1}\bigr).

    The work is LAPACK's: device arrays are copied to the host, and what belongs to units (`d`, `z`,
    `multiplier`) comes back to them.

    The best L is a semidefinite programme, solved by Newton's method; the bound is then evaluated
    again from the L that was found and verified with a Cholesky factorisation, so it does not rely
    on the solver. The proofs are in the documentation.

    References
    ----------
    The gradient system is that of [Guglielmi2026]_.

    Examples
    --------
    >>> from snode.analysis.lognorm import max_log_norm
    >>> result = max_log_norm([[-1.0, 1.0], [0.0, -1.0]], slopes=(0.25, 1.0))
    >>> abs(result.lower) < 1e-12, 0 <= result.upper < 1e-7
    (True, True)
    """
    check_choice("method", method, METHODS)
    check_callback(callback)
    options = _Options(
        method, bool(certify), _starts(method, n_starts), check_count("n_rounds", n_rounds, 0),
        check_count("max_nodes", max_nodes), as_generator(rng), callback,
    )  # fmt: skip
    if callable(A) and not isinstance(A, LinearOperator):
        made: list[Any] = []

        def on_host(depth: float) -> Any:
            made.append(A(depth))
            return from_device(made[-1])

        def solve(value: Any, near: LogNormResult | None) -> LogNormResult:
            d, L = (d0, multiplier0) if near is None else (near.d, near.multiplier)
            return _enclose(value, slopes, options, d, L)

        path = path_of(on_host, t, solve, slopes, between, lipschitz)
        return replace(path, results=follow(path.results, *made))
    for name, value in (("t", t), ("between", between), ("lipschitz", lipschitz)):
        if value is not None:
            raise ValueError(f"{name} is for a callable A; got {name}={value!r}")
    result = _enclose(from_device(A), slopes, options, d0, multiplier0)
    return follow(result, A, d0, multiplier0)


@dataclass(frozen=True)
class _Options:
    method: str
    certify: bool
    n_starts: int
    n_rounds: int
    max_nodes: int
    rng: np.random.Generator
    callback: Callback | None = None


def _starts(method: str, n_starts: int | None) -> int:
    if n_starts is None:
        return 1 if method == "flow" else 20
    return check_count("n_starts", n_starts)


def _enclose(A: Any, slopes: Any, options: _Options, d0: Any, multiplier0: Any) -> LogNormResult:
    layers, single = as_layers(A, options.certify or options.method == "exact")
    chain = make_chain(layers, as_slopes(slopes, len(layers)))
    with single_threaded_blas(chain.n <= SINGLE_THREADED):
        return _enclosed(chain, single, options, d0, multiplier0)


def _enclosed(
    chain: Chain, single: bool, options: _Options, d0: Any, multiplier0: Any
) -> LogNormResult:
    root = None
    if options.certify or options.method == "exact":
        root = slope_bound(chain, _multiplier_in(chain, multiplier0))
    search = _search(chain, options, root, _slopes_in(chain, d0))
    upper, status, n_nodes = math.inf, search.status, 0
    if root is not None:
        upper, n_nodes = root.upper, 1
    if options.method == "exact" and root is not None:
        exact = branch_and_bound(
            chain, root, search, max_nodes=options.max_nodes, rng=options.rng,
            callback=options.callback,
        )  # fmt: skip
        upper, search, n_nodes, status = exact
    e = chain.exponent
    with np.errstate(over="ignore"):
        trace = search.trace._replace(
            value=np.ldexp(search.trace.value, e), residual=np.ldexp(search.trace.residual, e)
        )
    multiplier = None if root is None else _multiplier_out(chain, root)
    return LogNormResult(
        unscale(search.lower, e, up=False), unscale(upper, e, up=True),
        search.d[0] if single else search.d, search.z, options.method, search.n_eig, status,
        multiplier[0] if single and multiplier else multiplier,
        float(np.ldexp(search.residual, e)), trace, n_nodes,
    )  # fmt: skip


def _search(
    chain: Chain, options: _Options, root: SlopeBound | None, d0: tuple[Array, ...] | None
) -> Search:
    if options.method == "flow":
        return _flows(chain, options, d0)
    starts = starts_of(chain, options.n_starts, options.rng)
    if root is not None:
        starts[:, 1:] = _near_the_bound(root.x, starts[:, 1:], options.rng)
    found = alternating(chain, starts, d0)
    ceiling = np.inf if root is None else root.upper - CLOSED * root.size
    return refine(chain, found, options.n_starts, options.n_rounds, options.rng, ceiling)


def _near_the_bound(x: Array, starts: Array, rng: np.random.Generator) -> Array:
    """Replace half of the starts by the best direction and random mixtures of all directions."""
    half = (starts.shape[1] + 1) // 2
    mixed = x @ rng.standard_normal((x.shape[1], half))
    mixed[:, :1] = x[:, :1]
    return np.concatenate([mixed, starts[:, half:]], axis=1)


def _flows(chain: Chain, options: _Options, d0: tuple[Array, ...] | None) -> Search:
    """The flow from `d0` or the middle of the box, then from random points of the box."""
    best = gradient_flow(chain, d0)
    n_eig = best.n_eig
    for _ in range(options.n_starts - 1):
        d = tuple(options.rng.uniform(lo, hi) for lo, hi in zip(chain.lo, chain.hi, strict=True))
        other = gradient_flow(chain, d)
        n_eig += other.n_eig
        best = other if other.lower > best.lower else best
    return best._replace(n_eig=n_eig)


# --- arguments ------------------------------------------------------------------------------------


def as_layers(A: Any, dense: bool) -> tuple[list[Any], bool]:
    """Return the layers as float64, and whether A was a single matrix."""
    single = not (isinstance(A, list | tuple) and len(A) > 0 and np.ndim(_example(A[0])) == 2)
    layers = [_as_layer(B, "A", dense) for B in ([A] if single else A)]
    if single and layers[0].shape[0] != layers[0].shape[1]:
        raise ValueError(f"A must be a square matrix (n, n); got shape {layers[0].shape}")
    inner = [B.shape for B in layers]
    for (rows, _), (_, columns) in zip(inner, inner[1:] + inner[:1], strict=True):
        if rows != columns:
            raise ValueError(
                "A: every layer must have as many columns as the one before has rows, and the "
                f"first as many as the last has rows; got shapes {inner}"
            )
    return layers, single


def _example(A: Any) -> Any:
    return np.empty((0, 0)) if is_sparse(A) or isinstance(A, LinearOperator) else A


def _as_layer(A: Any, name: str, dense: bool) -> Any:
    if not (is_sparse(A) or isinstance(A, LinearOperator)):
        array = _real(A, name)
        if array.ndim != 2 or not array.size:
            raise ValueError(f"{name} must be a matrix (n, n); got shape {array.shape}")
        return array
    if dense:
        raise ValueError(
            f"{name}: a certificate needs the entries as an array (n, n); for a sparse matrix or a "
            "LinearOperator ask for the lower bound only: certify=False, and not method='exact'"
        )
    if np.issubdtype(A.dtype, np.complexfloating):
        raise ValueError(f"{name} must be real; got {A.dtype}")
    if is_sparse(A):
        A = A.tocsr().astype(np.float64)
        if not np.isfinite(A.data).all():
            raise ValueError(f"{name} must be finite; it has NaN or inf")
    return A


def as_slopes(slopes: Any, count: int) -> list[tuple[float, float]]:
    """Return one pair (lo, hi) for each layer."""
    expected = "slopes must be (lo, hi), or one such pair for each layer"
    pairs = _real(slopes, "slopes")
    if pairs.shape == (2,):
        pairs = np.tile(pairs, (count, 1))
    if pairs.shape != (count, 2):
        raise ValueError(f"{expected} ({count}); got {slopes!r}")
    if not (pairs[:, 0] <= pairs[:, 1]).all():
        raise ValueError(f"{expected}, with lo <= hi; got {slopes!r}")
    if np.abs(pairs).max() > LARGEST_SLOPE:
        raise ValueError(f"{expected}, at most {LARGEST_SLOPE:g} in size; got {slopes!r}")
    return [(float(lo), float(hi)) for lo, hi in pairs]


def _parts(chain: Chain, value: Any, name: str) -> tuple[Array, ...]:
    check_unmasked(value, name)
    value = from_device(value)
    parts = value if isinstance(value, list | tuple) and np.ndim(value[0]) == 1 else (value,)
    arrays = tuple(np.asarray(part, dtype=np.float64) for part in parts)
    if tuple(a.shape for a in arrays) != tuple((size,) for size in chain.sizes):
        raise ValueError(
            f"{name} must have one array for each layer, of sizes {chain.sizes}; got shapes "
            f"{tuple(a.shape for a in arrays)}"
        )
    if any(np.isnan(a).any() for a in arrays):
        raise ValueError(f"{name} must not have NaN")
    return arrays


def _slopes_in(chain: Chain, d0: Any) -> tuple[Array, ...] | None:
    if d0 is None:
        return None
    parts = _parts(chain, d0, "d0")
    return tuple(np.clip(d, lo, hi) for d, lo, hi in zip(parts, chain.lo, chain.hi, strict=True))


def _units(chain: Chain) -> list[int]:
    """Exponents by which the multipliers of the layers scale."""
    sums = np.cumsum(chain.exponents)
    return [2 * int(s) - chain.exponent for s in sums]


def _multiplier_in(chain: Chain, multiplier0: Any) -> Array | None:
    if multiplier0 is None:
        return None
    parts = _parts(chain, multiplier0, "multiplier0")
    with np.errstate(over="ignore"):
        return flat(np.ldexp(L, e) for L, e in zip(parts, _units(chain), strict=True))


def _multiplier_out(chain: Chain, root: SlopeBound) -> tuple[Array, ...]:
    parts = chain.split(root.multiplier)
    with np.errstate(over="ignore"):
        return tuple(np.ldexp(L, -e) for L, e in zip(parts, _units(chain), strict=True))
