r"""How far two trajectories can part: growth bounds, certified radii, measured gaps.

Two solutions u, v of :math:`x' = f(t, x)` satisfy :math:`(u - v)' = J (u - v)` with
:math:`J = D_k A_k \cdots D_1 A_1` and slopes in the interval of the activations (mean value theorem
in every unit). With f(t) a bound of the logarithmic norm of all these J,

.. math:: |u(t) - v(t)| \le \exp\Big(\int_{t_0}^t f(s)\, ds\Big)\, |u(t_0) - v(t_0)| .

Explicit Euler, which is what a network computes, has its own factor: the product of
:math:`\max_d |I + h J|_2`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field as entry
from itertools import pairwise
from typing import Any

import numpy as np

from snode.analysis.attack_result import check_count, norm2
from snode.analysis.growth_rates import Layers, Rates
from snode.analysis.rounding import Spread, gamma, spread_of_euler
from snode.analysis.slope_problem import SINGLE_THREADED
from snode.backend import (
    Array,
    array_namespace,
    follow,
    is_array,
    own_error_state,
    single_threaded_blas,
    to_host,
)
from snode.copying import Portable
from snode.fields.base import has_readout, is_shareable, outputs
from snode.labels import check_labels
from snode.ode.arguments import check_choice, check_state
from snode.ode.problems import Solver, as_solver, solve_direct
from snode.ode.tableaus import ADAPTIVE
from snode.predict import check_classes
from snode.progress import Callback, check_callback, tell
from snode.results import Status
from snode.threads import map_blocks

__all__ = [
    "CertifiedRadius", "GrowthBound", "TrajectoryGap",
    "certified_radius", "growth_bound", "trajectory_gap",
]  # fmt: skip

EPS = float(np.finfo(float).eps)
KINDS = ("flow", "euler")
METHODS = ("certificate", "norms")
BLOCK = 500


@dataclass(frozen=True, eq=False)
class GrowthBound(Portable):
    r"""How far trajectories can part along depth; result of `growth_bound`.

    Attributes
    ----------
    t : array (k,)
        Depths.
    log_factor : array (k,)
        Logarithm of the factor; 0 at ``t[0]``.
    ends : array (s + 1,)
        Ends of the segments on which the rates were bounded.
    upper : array (s,)
        Rate of growth on each segment: ``log_factor`` per depth.
    lower : array (s,)
        The same with the slopes that a local search found, for the flow: what a better certificate
        could at best reach. NaN for Euler and for ``method="norms"``.
    kind : str
        "flow" or "euler".
    method : str
    fingerprint : str
        Of grid, matrices and slopes: a bound serves only the field it was made for.
    status : Status
        ``STOPPED`` if the callback ended the certificate: the segments that were left have the
        bound by norms, so that all of it holds.
    """

    t: Array
    log_factor: Array
    ends: Array
    upper: Array
    lower: Array
    kind: str
    method: str
    fingerprint: str = entry(default="", repr=False)
    status: Status = Status.SUCCESS

    @property
    def factor(self) -> Array:
        """Bound of the distance relative to that at ``t[0]``, (k,); inf where it overflows."""
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(self.log_factor) * (1 + 4 * EPS))

    def __repr__(self) -> str:
        return (
            f"GrowthBound({self.kind}, {self.method}, t={self.t[0]:g}..{self.t[-1]:g}, "
            f"factor {self.factor[-1]:.6g}, rate {self.upper.min():.4g}..{self.upper.max():.4g})"
        )


@own_error_state
def growth_bound(
    field: Any,
    t: Sequence[float] | float | None = None,
    *,
    kind: str = "flow",
    method: str = "certificate",
    n_starts: int = 2,
    rng: Any = 0,
    callback: Callback | None = None,
) -> GrowthBound:
    r"""Return a certified bound of how far two trajectories of a field can part.

    Parameters
    ----------
    field : StandaloneField, MLPField, or Classifier of one of them
        The read-out of a classifier has no part in it.
    t : increasing sequence of float, or float, optional
        Depths; a single one means from the start of the grid to there. Default ``field.grid``. For
        "euler" they must be depths of the grid.
    kind : {"flow", "euler"}, optional
        The solution of the differential equation, or what explicit Euler computes on the grid of
        the field.
    method : {"certificate", "norms"}, optional
        The certificate of `max_log_norm`, or only the norms of the matrices: much faster and much
        coarser.
    n_starts : int, optional
        Starts of the local search that tells how tight the certificate is.
    rng : seed or numpy.random.Generator, optional
    callback : callable, optional
        Called with a `snode.progress.Progress` (layers done, of how many) before each layer. If it
        returns True, the rest is bounded by norms, with ``status=STOPPED``: valid, but coarser.

    Returns
    -------
    GrowthBound

    Raises
    ------
    TypeError
        If the field is of another kind.
    ValueError
        If an argument does not fit; names the argument.

    Notes
    -----
    *Between the nodes.* On a cell :math:`W(t) = \sum_j B_j(t) P_j` with the Bernstein polynomials
    :math:`B_j \ge 0`, :math:`\sum_j B_j = 1`, of degree p = 0 (constant), 1 (linear) or 3 (cubic).
    The bound f is a convex function of W (a maximum of linear ones), so
    :math:`f(W(t)) \le \sum_j B_j(t) f(P_j)`, and the integral over the cell is at most the mean
    of the :math:`f(P_j)` times the width.

    *Euler.* For one layer and slopes :math:`d = c + r e`, :math:`|e_i| \le 1`, with
    :math:`p = (I + hcW) x` and :math:`q = h r W x`,

    .. math:: |x + hDWx|^2 = |p + e * q|^2 \le \sum_i (1 + \alpha_i) p_i^2 + (1 + 1/\alpha_i) q_i^2

    for every :math:`\alpha > 0`: the largest eigenvalue of an n x n matrix, minimised over
    :math:`\alpha` and evaluated with outward rounding. For several layers, with a bound f of the
    logarithmic norm, :math:`|I + hJ|^2 \le 1 + 2hf + h^2 \prod_j \max|D_j|^2 |A_j|_2^2`; one layer
    takes the smaller of the two.

    The bounds hold for exact arithmetic of the network; the rounding of W(t) between the nodes is
    not included.

    References
    ----------
    .. [1] Guglielmi et al., arXiv 2402.13092.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> from snode.analysis.growth import growth_bound
    >>> field = snode.StandaloneField(-np.ones((5, 1, 1)), np.zeros((5, 1)), T=1.0,
    ...                               activation="identity")
    >>> bool(abs(growth_bound(field).factor[-1] - np.exp(-1)) < 1e-12)
    True
    >>> bool(abs(growth_bound(field, kind="euler").factor[-1] - 0.8**5) < 1e-12)
    True
    """
    check_choice("kind", kind, KINDS)
    check_choice("method", method, METHODS)
    check_callback(callback)
    layers = Layers.of(field)
    depths = _depths(t, layers.grid, kind)
    rates = Rates(layers, method, check_count("n_starts", n_starts), rng)
    inner = layers.grid[(layers.grid > depths[0]) & (layers.grid < depths[-1])]
    ends = np.union1d(inner, depths)
    widths = np.diff(ends)
    step = rates.flow_step if kind == "flow" else rates.euler_step
    pairs, status, count = [], Status.SUCCESS, len(widths)
    with single_threaded_blas(field.n <= SINGLE_THREADED):
        for k, (a, b) in enumerate(pairwise(ends)):
            what = f"bounding the growth, {kind}, layer {k + 1} of {count}"
            if status is Status.SUCCESS and tell(callback, k, count, what):
                rates.method, status = "norms", Status.STOPPED
            pairs.append(step(float(a), float(b)))
    upper, lower = np.array(pairs).reshape(-1, 2).T
    # every product and every sum is rounded
    slack = 4 * (len(widths) + 2) * EPS * np.cumsum(widths * np.abs(upper))
    total = np.concatenate([[0.0], np.cumsum(widths * upper) + slack])
    log_factor = total[np.searchsorted(ends, depths)]
    mark = layers.fingerprint()
    return GrowthBound(depths, log_factor, ends, upper, lower, kind, method, mark, status)


# --- certified radii ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class CertifiedRadius(Portable):
    """How far each input can be moved without changing its class; result of `certified_radius`.

    Attributes
    ----------
    radius : float64 array (m,)
        In the 2-norm; every perturbation that is shorter leaves the class that `predict` computes
        as it is. 0 for samples that are misclassified.
    margin : float64 array (m,)
        Smallest lead of the class over another one, in the outputs; negative for samples that are
        misclassified.
    label : int64 array (m,)
        Predicted class.
    y : int64 array (m,)
        The class that is to stay.
    growth : GrowthBound
    """

    radius: Array
    margin: Array
    label: Array
    y: Array
    growth: GrowthBound

    def accuracy(self, radii: Sequence[float]) -> Array:
        """Certified accuracy: share of samples whose radius is larger, an array like `radii`.

        Without labels `y` it is the share whose prediction, right or wrong, is certain to stay.
        """
        allowed = np.asarray(radii, dtype=np.float64)
        if not (allowed >= 0).all():
            raise ValueError(f"radii must be >= 0; got {radii!r}")
        return np.asarray((to_host(self.radius) > allowed[..., None]).mean(axis=-1))

    def __repr__(self) -> str:
        radius = to_host(self.radius)
        certified = radius[radius > 0]
        text = f"{len(certified)} of {len(radius)} samples certified"
        if len(certified):
            text += f", radius median {np.median(certified):.3g} max {certified.max():.3g}"
        return f"CertifiedRadius({text}, factor {self.growth.factor[-1]:.4g}, {self.growth.kind})"


@own_error_state
def certified_radius(
    field: Any,
    x: Array,
    y: Array | None = None,
    *,
    n_classes: int | None = None,
    solver: str | Solver = "euler",
    growth: GrowthBound | None = None,
    method: str = "certificate",
    callback: Callback | None = None,
) -> CertifiedRadius:
    r"""Return for each sample a radius within which no perturbation changes the predicted class.

    Parameters
    ----------
    field : StandaloneField, MLPField, or Classifier of one of them
    x : array (n, m)
    y : integer array (m,), optional
        True classes; misclassified samples get radius 0. Default: the predicted ones.
    n_classes : int, optional
        As for `predict`.
    solver : str or Solver, optional
        "euler": the prediction as the network computes it. "ode45" or "ode23": the exact flow; the
        error of the solver is not part of the certificate, so choose its tolerances small.
    growth : GrowthBound, optional
        To save computing it again.
    method : {"certificate", "norms"}, optional
        As for `growth_bound`.
    callback : callable, optional
        Called before each layer of the growth bound, which it may stop. The radii are then smaller,
        and hold.

    Returns
    -------
    CertifiedRadius

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit; names the argument.
    IntegrationError
        If the direct problem does not stay finite.

    Notes
    -----
    Let L be the growth factor of the whole depth, :math:`z = V x(T) + c` the outputs and i the
    predicted class. If the input moves by :math:`\delta`, then x(T) moves by at most
    :math:`L |\delta|`, and by Cauchy and Schwarz

    .. math:: z_i - z_j \;\ge\; (z_i - z_j)_{\delta = 0} - |V_i - V_j|\, L\, |\delta| ,

    which is positive as long as :math:`|\delta|` is less than

    .. math:: r = \min_{j \ne i} \frac{z_i - z_j}{|V_i - V_j|\, L} .

    As :math:`|V_i - V_j| \le \sqrt2\, |V|_2`, this is never less than
    :math:`\min_j (z_i - z_j) / (\sqrt2 |V|_2 L)`. Without a read-out, V is the first rows of the
    identity and :math:`|V_i - V_j| = \sqrt 2`.

    *Rounding.* For "euler" the guarantee is for what is *computed*: the class that `predict` gives
    to an array ``x + delta``, in any batch, does not change if its distance from x is less than
    `radius`. The computed states differ by at most :math:`G |\delta| + P` with G a little more than
    L and P a running bound of the rounding errors of both passes, valid inside of the whole ball;
    with :math:`\rho_i = \gamma (|V_i|\, |x(T)| + |c_i|)` for the outputs,

    .. math:: r = \min_{j \ne i} \frac{z_i - z_j - 2 (\rho_i + \rho_j) - v_{ij} P}{v_{ij} G},
              \qquad v_{ij} = |V_i - V_j| + \gamma (|V_i| + |V_j|) .

    The derivation is in :doc:`/contractivity_proofs`. It assumes IEEE arithmetic with sums in any
    order, and activations that are right to 16 roundings of their argument and value (the built-in
    ones are). In float32 and for large n the worst case that is bounded is far from what happens,
    and small leads are lost to it. For "ode45" and "ode23" the rounding of the outputs is bounded
    in the same way, while that of x(T), like the error of the solver, is not: 64 times the
    precision is taken off, which is a heuristic.

    References
    ----------
    .. [1] Tsuzuku, Sato, Sugiyama, *Lipschitz-margin training*, arXiv 1802.04034.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> from snode.analysis.growth import certified_radius
    >>> field = snode.StandaloneField(np.zeros((1, 2, 2)), np.zeros((1, 2)), T=1.0)
    >>> certified_radius(field, np.array([[0.4], [0.2]]), n_classes=2).radius.round(6)
    array([0.141421])
    """
    check_state(field, x, "x")
    if is_array(y):
        array_namespace(x, y)
    C, (chosen, kind) = check_classes(field, n_classes), _solver(solver)
    if C < 2:
        raise ValueError(f"n_classes must be at least 2; got {C}")
    check_callback(callback)
    growth = _growth(field, kind, method, growth, callback)
    spread = _spread(field, x, chosen, growth)
    z, error = _outputs(field, spread.x_T, C)
    label = z.argmax(axis=0)
    kept = label if y is None else to_host(check_labels(y, C, int(x.shape[1])))
    k = np.arange(z.shape[1])
    lead = z[kept, k] - z
    lead[kept, k] = np.inf
    distance = _distances(field, C)[kept].T
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        usable = lead * (1 - 4 * EPS) - 2 * (error[kept, k] + error) - distance * spread.offset
        radius = np.where(usable > 0, usable / (distance * spread.gain) * (1 - 16 * EPS), 0.0)
    radius[kept, k] = np.inf
    smallest, margin, label, kept = follow((radius.min(axis=0), lead.min(axis=0), label, kept), x)
    return CertifiedRadius(smallest, margin, label, kept, growth)


# --- trajectories against the bound ---------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class TrajectoryGap(Portable):
    """Distance of pairs of trajectories along depth, and its bound; result of `trajectory_gap`.

    Attributes
    ----------
    t : array (K + 1,)
    gap : array (K + 1, m)
        ``|u(t) - v(t)|`` of each pair.
    bound : array (K + 1,)
        Certified growth factor: ``gap <= bound * gap[0]``.
    growth : GrowthBound
    """

    t: Array
    gap: Array
    bound: Array
    growth: GrowthBound

    @property
    def ratio(self) -> Array:
        """``gap / gap[0]``, (K + 1, m)."""
        return self.gap / self.gap[0]

    @property
    def tightness(self) -> Array:
        """Largest ratio divided by the bound, (K + 1,): 1 where the bound is attained."""
        return np.asarray(to_host(self.ratio).max(axis=1) / self.bound)

    def __repr__(self) -> str:
        return (
            f"TrajectoryGap({self.gap.shape[1]} pairs, {self.growth.kind}, largest ratio at the "
            f"end {float(self.ratio[-1].max()):.4g}, bound {self.bound[-1]:.4g})"
        )


@own_error_state
def trajectory_gap(
    field: Any,
    u: Array,
    v: Array,
    *,
    solver: str | Solver = "euler",
    growth: GrowthBound | None = None,
    method: str = "certificate",
    callback: Callback | None = None,
) -> TrajectoryGap:
    """Follow pairs of trajectories and compare their distance with the certified bound.

    Parameters
    ----------
    field : StandaloneField, MLPField, or Classifier of one of them
    u, v : array (n, m)
        Initial states; a pair in each column, not equal.
    solver, growth, method, callback
        As for `certified_radius`.

    Returns
    -------
    TrajectoryGap
        On ``field.grid``.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit; names the argument.
    IntegrationError
        If a trajectory does not stay finite.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> from snode.analysis.growth import trajectory_gap
    >>> field = snode.StandaloneField.random(3, 1.0, 10, rng=0)
    >>> result = trajectory_gap(field, np.ones((3, 4)), np.zeros((3, 4)))
    >>> bool((result.ratio <= result.bound[:, None]).all())
    True
    """
    check_state(field, u, "u")
    check_state(field, v, "v")
    if u.shape != v.shape:
        raise ValueError(f"u and v must have the same shape; got {u.shape} and {v.shape}")
    chosen, kind = _solver(solver)
    grid = np.asarray(field.grid, dtype=np.float64)
    check_callback(callback)
    growth = _growth(field, kind, method, growth, callback)
    if not np.array_equal(growth.t, grid):
        raise ValueError("growth must be a bound on the grid of the field")
    m = u.shape[1]
    both = array_namespace(u, v).concatenate([u, v], axis=1)
    options: dict[str, Any] = {}
    if kind == "flow":
        options = {"rtol": chosen.rtol, "atol": chosen.atol, "max_step": chosen.max_step,
                   "max_steps": chosen.max_steps, "t": grid}  # fmt: skip
    sol = solve_direct(field, both, method=chosen.method, keep="trajectory", **options)
    states: Any = sol.x
    states = [states[int(i)] for i in np.flatnonzero(np.isin(sol.t, grid))]
    gap = np.stack([to_host(norm2(x[:, :m].astype(np.float64) - x[:, m:])) for x in states])
    if not (gap[0] > 0).all():
        raise ValueError("u and v must differ in every column")
    return TrajectoryGap(grid, follow(gap, both), growth.factor, growth)


# --- arguments ------------------------------------------------------------------------------------


def _depths(t: Any, grid: Array, kind: str) -> Array:
    if t is None:
        return grid
    try:
        depths = np.asarray(t, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"t must be depths: {error}") from None
    depths = np.array([grid[0], depths]) if depths.ndim == 0 else depths
    inside = depths.ndim == 1 and len(depths) > 1 and bool((np.diff(depths) > 0).all())
    if not inside or not (grid[0] <= depths[0] and depths[-1] <= grid[-1]):
        raise ValueError(
            f"t must be increasing depths in [{grid[0]:g}, {grid[-1]:g}], two or more; got {t!r}"
        )
    if kind == "euler" and not np.isin(depths, grid).all():
        raise ValueError("t must be depths of the grid of the field for kind='euler'")
    return depths


def _solver(solver: str | Solver) -> tuple[Solver, str]:
    chosen = as_solver(solver)
    if chosen.method == "euler":
        return chosen, "euler"
    if chosen.method in ADAPTIVE:
        return chosen, "flow"
    raise ValueError(
        f"solver must be 'euler', or for the exact flow 'ode23' or 'ode45'; got {chosen.method!r}"
    )


def _growth(
    field: Any, kind: str, method: str, growth: GrowthBound | None, callback: Callback | None
) -> GrowthBound:
    if growth is None:
        return growth_bound(field, kind=kind, method=method, callback=callback)
    if growth.kind != kind:
        raise ValueError(f"growth must be a bound for kind={kind!r}; got {growth.kind!r}")
    grid = np.asarray(field.grid, dtype=np.float64)
    if growth.t[0] != grid[0] or growth.t[-1] != grid[-1]:
        raise ValueError("growth must be a bound over the whole depth of the field")
    if growth.fingerprint != Layers.of(field).fingerprint():
        raise ValueError("growth must be a bound for this field; it was made for another one")
    return growth


def _spread(field: Any, x: Array, solver: Solver, growth: GrowthBound) -> Spread:
    """The states at T, and how far those of perturbed inputs can be from them."""
    if growth.kind == "euler":
        with np.errstate(over="ignore"):
            steps = np.exp(growth.upper * np.diff(growth.ends)) * (1 + 8 * EPS)
        return spread_of_euler(Layers.of(field), steps, field, x)
    xp = array_namespace(x)

    def end(start: int) -> Array:
        columns = xp.ascontiguousarray(x[:, start : start + BLOCK])
        return solver.solve(field, columns, keep="last").x_T

    starts = range(0, x.shape[1], BLOCK)
    ends = map_blocks(end, starts, shared=is_shareable(field) and xp is np)
    x_T = xp.concatenate(ends, axis=1)
    heuristic = 64 * float(np.finfo(x_T.dtype).eps)
    size = np.linalg.norm(to_host(x_T).astype(np.float64), axis=0)
    return Spread(x_T, float(growth.factor[-1]) * (1 + heuristic), heuristic * size)


def _outputs(field: Any, x_T: Array, n_classes: int) -> tuple[Array, Array]:
    """Outputs that are classes, in float64 on the host, and a bound of their rounding errors."""
    z = to_host(outputs(field, x_T)[:n_classes]).astype(np.float64)
    if not has_readout(field):
        return z, np.zeros_like(z)
    V, c = (np.abs(to_host(p)).astype(np.float64) for p in (field.V, field.c))
    size = V @ np.abs(to_host(x_T)).astype(np.float64) + c[:, None]
    tiny = float(np.finfo(x_T.dtype).tiny) * field.n
    return z, 1.01 * gamma(field.n + 4, x_T.dtype) * size + tiny


def _distances(field: Any, n_classes: int) -> Array:
    """How fast the computed lead of i over j falls with the states, (C, C)."""
    if not has_readout(field):
        V = np.eye(n_classes, field.n)
        return np.linalg.norm(V[:, None] - V, axis=2) * (1 + 4 * EPS)
    V = to_host(field.V).astype(np.float64)
    length = np.linalg.norm(V, axis=1)
    error = 1.01 * gamma(field.n + 4, field.V.dtype) * (length[:, None] + length)
    return np.linalg.norm(V[:, None] - V, axis=2) * (1 + 4 * field.n * EPS) + error
