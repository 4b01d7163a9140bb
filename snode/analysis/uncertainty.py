"""Uncertainty of the outputs, to first order in an error of the inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from snode.analysis.blocks import BLOCK, check_positive, join_blocks, solve_blocks
from snode.analysis.rows import adjoint_rows
from snode.backend import Array, array_namespace, is_array, own_error_state, to_host
from snode.copying import Portable
from snode.fields.base import outputs
from snode.ode.arguments import check_state
from snode.ode.problems import Solver, as_solver
from snode.predict import check_classes
from snode.seeds import as_generator

__all__ = ["Uncertainty", "output_uncertainty"]

N_SAMPLES = 2000

Host = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Uncertainty(Portable):
    """First-order uncertainty of the logits; result of `output_uncertainty`.

    Attributes
    ----------
    mean : array (C, m)
        Logits of the unperturbed inputs.
    covariance : array (C, C, m)
        Covariance of the logits.
    probability_changed : array (m,)
        Probability that another class than `label` has the largest logit. Exact for C = 2,
        otherwise an estimate with the standard deviation `standard_error`.
    bound : array (m,)
        Upper bound of that probability: the sum over the other classes of the probability that
        this class alone overtakes `label`. Equal to `probability_changed` for C = 2.
    label : int64 array (m,)
        Class of the unperturbed inputs.
    standard_error : array (m,)
    """

    mean: Array
    covariance: Array
    probability_changed: Array
    bound: Array
    label: Array
    standard_error: Array

    @property
    def std(self) -> Array:
        """Standard deviation of each logit, (C, m)."""
        xp = array_namespace(self.covariance)
        return xp.sqrt(xp.diagonal(self.covariance).T)

    def __repr__(self) -> str:
        size, m = self.mean.shape
        changed = float(self.probability_changed.mean())
        return f"Uncertainty(C={size}, m={m}, mean probability of a changed label {changed:.3g})"


@own_error_state
def output_uncertainty(
    field: Any,
    x: Array,
    covariance: float | Array,
    *,
    n_classes: int | None = None,
    solver: str | Solver = "euler",
    n_samples: int = N_SAMPLES,
    rng: Any = None,
    block: int = BLOCK,
) -> Uncertainty:
    r"""Return the covariance of the logits, and the probability of a changed label, to first order.

    Inputs with a Gaussian error of covariance :math:`\Sigma` have, in the linearised network,
    logits with a Gaussian error of covariance :math:`J \Sigma J^T`, J the `input_jacobian`.

    Parameters
    ----------
    field : VectorField
    x : array (n, m)
        Inputs, one column a sample.
    covariance : float or array (n,) or (n, n)
        Covariance of the inputs, the same for all samples: a variance, variances, or a symmetric
        positive semidefinite matrix.
    n_classes : int, optional
        Number C of logits; as for `predict`, default 10, or all outputs of a read-out.
    solver : str or Solver, optional
        As for `input_jacobian`.
    n_samples : int, optional
        Number of draws for the probability, for C > 2; the same ones for every sample.
    rng : seed or numpy.random.Generator, optional
        Drawn on the host: the same numbers on every device.
    block : int, optional
        Number of samples at once; only memory and time depend on it.

    Returns
    -------
    Uncertainty

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit; names the argument.
    IntegrationError
        If the direct problem does not stay finite.

    Notes
    -----
    Class j overtakes class i with probability :math:`\Phi(-\mu/s)`, where
    :math:`\mu = z_i - z_j` and :math:`s^2 = (J_i - J_j) \Sigma (J_i - J_j)^T`. Their sum over j
    is the bound, their largest a lower bound. Between the two, the probability that any class
    overtakes is sampled as in [2]_, which draws only cases in which the label changes: the
    standard error is at most :math:`\sqrt{C / (4\,n_{samples})}` times the probability, however
    small that is.

    Larger errors need more than the first order: compare with `propagate`.

    References
    ----------
    .. [1] Jaroudi et al., arXiv 2205.13933, eq. (2) and section 5.
    .. [2] Owen, Maximov, Chertkov, *Importance sampling the union of rare events with an
       application to power systems analysis*, arXiv 1710.06965.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> from snode.analysis.uncertainty import output_uncertainty
    >>> field = snode.StandaloneField(np.zeros((1, 2, 2)), np.zeros((1, 2)), 1.0)  # x(T) = x(0)
    >>> u = output_uncertainty(field, np.array([[2.0], [0.0]]), 2.0, n_classes=2)
    >>> u.std[:, 0] ** 2, u.probability_changed.round(4)  # the margin is N(2, 4)
    (array([2., 2.]), array([0.1587]))
    """
    check_state(field, x, "x")
    chosen, block = as_solver(solver), check_positive("block", block)
    n_classes = check_classes(field, n_classes)
    root = _square_root(covariance, x)
    draws = _draw(check_positive("n_samples", n_samples), n_classes, rng)
    xp, parts = array_namespace(x), []
    for _, sol in solve_blocks(field, x, chosen, block):
        z = outputs(field, sol.x_T)[:n_classes]
        rows = xp.ascontiguousarray(xp.moveaxis(adjoint_rows(sol, n_classes), 2, 0))  # (m, C, n)
        A = rows @ root if getattr(root, "ndim", 0) == 2 else rows * root
        label = z.argmax(axis=0)
        samples = xp.arange(len(label))
        # over the other classes; zero for the class itself
        margins = A[samples, label][:, None, :] - A
        mu, cov = z[label, samples] - z, margins @ margins.swapaxes(1, 2)
        chances = _chance_of_change(to_host(mu).T, to_host(cov), draws)
        of_logits = xp.moveaxis(A @ A.swapaxes(1, 2), 0, 2)
        parts.append((z, of_logits, *(xp.asarray(c.astype(x.dtype)) for c in chances), label))
    mean, of_logits, probability, bound, error, label = join_blocks(parts)
    return Uncertainty(mean, of_logits, probability, bound, label.astype(np.int64), error)


def _chance_of_change(
    mu: Host, cov: Host, draws: tuple[Host, Host, Host]
) -> tuple[Host, Host, Host]:
    """Return probability, bound and standard error, each (m,), from the margins.

    They are Gaussian, with means `mu` (m, C) >= 0 and covariances `cov` (m, C, C).
    """
    from scipy.special import ndtr

    mu, cov = mu.astype(np.float64), cov.astype(np.float64)
    variance = cov.diagonal(axis1=1, axis2=2)
    can_fall = variance > 0  # not that of the class over itself
    pairwise = np.where(can_fall, ndtr(-mu / np.sqrt(np.where(can_fall, variance, 1.0))), 0.0)
    lower, bound = pairwise.max(axis=1), np.minimum(pairwise.sum(axis=1), 1.0)
    probability, error = lower.copy(), np.zeros_like(lower)
    if mu.shape[1] > 2:
        values, vectors = np.linalg.eigh(cov)
        roots = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
        for k, some in enumerate(can_fall):
            probability[k], error[k] = _sample_union(
                mu[k, some], roots[k, some], pairwise[k, some], draws
            )
    return np.clip(probability, lower, bound), bound, error


def _sample_union(
    mu: Host, root: Host, pairwise: Host, draws: tuple[Host, Host, Host]
) -> tuple[float, float]:
    """Return P(mu + root e < 0 in some component) for a standard normal e, and its standard error.

    A component j is drawn in proportion to its own probability, then e given that j is negative;
    the mean of 1 / (number of negative components) is the union divided by the sum.
    """
    from scipy.special import ndtri

    e, level, position = draws
    total = pairwise.sum()
    if not total > 0:
        return 0.0, 0.0
    j = np.searchsorted(pairwise.cumsum() / total, position).clip(max=len(mu) - 1)
    towards = -root / np.sqrt((root * root).sum(axis=1, keepdims=True))
    far = -ndtri(level * pairwise[j])  # how far e goes towards j: beyond mu_j / s_j
    e = e + (far - (e * towards[j]).sum(axis=1))[:, None] * towards[j]
    is_negative = mu + e @ root.T < 0
    is_negative[np.arange(len(j)), j] = True  # whatever the rounding
    share = total / is_negative.sum(axis=1)
    return share.mean(), share.std() / len(share) ** 0.5


def _draw(count: int, size: int, rng: Any) -> tuple[Host, Host, Host]:
    """Return normal numbers (count, size), and uniform and equally spaced ones (count,)."""
    generator = as_generator(rng)
    e, level = generator.standard_normal((count, size)), 1.0 - generator.random(count)
    return e, level, (np.arange(count) + generator.random()) / count


def _square_root(covariance: Any, x: Array) -> Any:
    """Return R with R R^T = covariance: a number, (n,) or (n, n), in the dtype of x."""
    n, xp = len(x), array_namespace(x)
    expected = f"covariance must be a variance, ({n},) variances or a ({n}, {n}) matrix"
    if not is_array(covariance):
        if not isinstance(covariance, int | float | np.integer | np.floating):
            raise TypeError(f"{expected}; got {type(covariance).__name__}")
        if not 0 <= covariance < np.inf:
            raise ValueError(f"covariance must be finite and >= 0; got {covariance!r}")
        return float(covariance) ** 0.5
    array_namespace(x, covariance)
    if covariance.shape not in ((n,), (n, n)) or covariance.dtype.kind != "f":
        raise ValueError(f"{expected}; got {covariance.dtype} of shape {covariance.shape}")
    eps = float(np.finfo(covariance.dtype).eps)
    sigma = to_host(covariance).astype(np.float64)
    if not np.isfinite(sigma).all():
        raise ValueError("covariance must be finite; it has NaN or infinite entries")
    if sigma.ndim == 1:
        if (sigma < 0).any():
            raise ValueError(f"covariance must have no negative variance; got {sigma.min():g}")
        return xp.asarray(np.sqrt(sigma).astype(x.dtype))
    slack = 10 * n * eps * np.abs(sigma).max()
    if np.abs(sigma - sigma.T).max() > slack:
        raise ValueError("covariance must be symmetric")
    values, vectors = np.linalg.eigh(sigma)
    if values[0] < -slack:
        raise ValueError(
            f"covariance must be positive semidefinite; its smallest eigenvalue is {values[0]:.3g}"
        )
    return xp.asarray((vectors * np.sqrt(np.maximum(values, 0.0))).astype(x.dtype))
