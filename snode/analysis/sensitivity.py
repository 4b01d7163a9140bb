r"""How perturbations travel through a field: predicted, measured, and what they do to the outputs.

Everything here is the sensitivity problem (2) of paper 001 and its transpose, the adjoint problem
(8). The outputs z are x(T), or the read-out of a field that has one. A few rows of the Jacobian
:math:`dz/dx_0` cost one adjoint solve each, on one direct solve for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from snode.analysis.blocks import BLOCK, check_positive, join_blocks, solve_blocks, solve_on
from snode.analysis.rows import adjoint_rows, pull_back, tangent_rows
from snode.analysis.uncertainty import Uncertainty, output_uncertainty
from snode.backend import Array, array_namespace, own_error_state
from snode.copying import Portable
from snode.fields.base import has_readout, n_outputs, outputs
from snode.labels import check_labels
from snode.ode.arguments import (
    check_choice,
    check_finite,
    check_like,
    check_parameters,
    check_state,
)
from snode.ode.problems import Solver, as_solver, solve_sensitivity
from snode.predict import check_classes

__all__ = [
    "Propagation", "PropagationCurves", "Uncertainty",
    "input_jacobian", "output_uncertainty", "propagate", "saliency",
]  # fmt: skip


# --- predicted and measured propagation -----------------------------------------------------------


class PropagationCurves(NamedTuple):
    """The four quantities of `Propagation` as functions of depth, each (K + 1,)."""

    predicted: Array
    measured: Array
    relative_error: Array
    relative_vector_error: Array


@dataclass(frozen=True, eq=False)
class Propagation(Portable):
    r"""Predicted and measured size of a perturbation along depth; result of `propagate`.

    With :math:`\xi` the solution of the sensitivity problem (2), and :math:`\delta` the difference
    between the perturbed and the unperturbed trajectory:

    Attributes
    ----------
    t : array (K + 1,)
        Depths, float64.
    predicted : array (K + 1, m)
        :math:`|\xi(t)|` of each sample.
    measured : array (K + 1, m)
        :math:`|\delta(t)|`.
    relative_error : array (K + 1, m)
        Error of the size, :math:`\big||\xi| - |\delta|\big| / |\delta|`.
    relative_vector_error : array (K + 1, m)
        Error of the direction too, :math:`|\xi - \delta| / |\delta|`; never less than
        `relative_error`.
    """

    t: Array
    predicted: Array
    measured: Array
    relative_error: Array
    relative_vector_error: Array

    @property
    def mean(self) -> PropagationCurves:
        """Mean over the samples."""
        return PropagationCurves(*(curve.mean(axis=1) for curve in self._curves()))

    @property
    def std(self) -> PropagationCurves:
        """Standard deviation over the samples (of these samples: divided by m)."""
        with np.errstate(invalid="ignore"):  # an infinite relative error has none: NaN
            return PropagationCurves(*(curve.std(axis=1) for curve in self._curves()))

    def _curves(self) -> tuple[Array, ...]:
        return self.predicted, self.measured, self.relative_error, self.relative_vector_error

    def __repr__(self) -> str:
        steps, m = len(self.t) - 1, self.predicted.shape[1]
        last = (float(curve[-1]) for curve in self.mean[:3])
        text = "predicted {:.3g}, measured {:.3g}, relative error {:.2g}".format(*last)
        return f"Propagation({steps} steps, m={m}; mean at T={self.t[-1]:g}: {text})"


@own_error_state
def propagate(
    field: Any,
    x: Array,
    dx0: Array | None = None,
    *,
    dtheta: Mapping[str, Array] | None = None,
    solver: str | Solver = "euler",
    block: int = BLOCK,
) -> Propagation:
    r"""Follow a perturbation of the inputs and/or the weights through depth, and its prediction.

    The prediction is the sensitivity problem (2) along the unperturbed trajectory: no inference
    with perturbed data. The measurement solves the direct problem (1) again, perturbed, on the
    same steps.

    Parameters
    ----------
    field : VectorField
    x : array (n, m)
        Inputs, one column a sample.
    dx0 : array (n, m), optional
        Perturbation of the inputs; zero if omitted.
    dtheta : mapping of str to array, optional
        Perturbation of the parameters, e.g. ``{"W": dW, "b": db}``; what is omitted is zero. The
        parameters of a read-out do not move the state.
    solver : str or Solver, optional
        How the direct problem is solved: the name of a method of `solve_direct`, or a `Solver`
        with tolerances. With step control the steps are those of the unperturbed problem;
        checkpoints are not used.
    block : int, optional
        Number of samples at once; only memory and time depend on it.

    Returns
    -------
    Propagation

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit, or nothing is perturbed; names the argument.
    IntegrationError
        If the direct problem, perturbed or not, does not stay finite.

    Notes
    -----
    For a smooth activation the relative errors fall linearly with the size of the perturbation.
    Where nothing was measured they are 0 if nothing was predicted (depth 0 of a perturbation of
    the weights), else infinite.

    References
    ----------
    .. [1] Jaroudi et al., arXiv 2205.13933, eq. (2), section 5 and appendix C (figures 4, 7-10).

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> from snode.analysis.sensitivity import propagate
    >>> field = snode.StandaloneField.random(3, 1.0, 10, rng=0)
    >>> x = np.ones((3, 5))
    >>> p = propagate(field, x, 0.01 * x)
    >>> p.predicted.shape, bool(p.mean.relative_error[-1] < 0.01)
    ((11, 5), True)
    """
    check_state(field, x, "x")
    chosen, block = replace(as_solver(solver), checkpoints=None), check_positive("block", block)
    xp = array_namespace(x)
    if dx0 is None and not dtheta:
        raise ValueError("dx0 or dtheta must be given: nothing is perturbed")
    if dx0 is None:
        dx0 = xp.zeros_like(x)
    check_like(dx0, x, "dx0")
    check_finite(dx0, "dx0")
    moved = _move(field, dtheta)
    t, parts = np.zeros(0), []
    for part, sol in solve_blocks(field, x, chosen, block):
        dx = xp.ascontiguousarray(dx0[:, part])
        xi = solve_sensitivity(sol, dx0=dx, dtheta=dtheta)
        t = sol.steps.t
        delta = solve_on(sol.steps, moved, x[:, part] + dx, keep="trajectory").steps.x
        delta -= sol.steps.x
        parts.append((_norm(xi), _norm(delta), _norm(xi - delta)))
    predicted, measured, error = join_blocks(parts)
    return Propagation(
        t, predicted, measured, _ratio(abs(predicted - measured), measured), _ratio(error, measured)
    )


def _move(field: Any, dtheta: Mapping[str, Array] | None) -> Any:
    """Return the field at theta + dtheta."""
    if not dtheta:
        return field
    check_parameters(field, dtheta, "dtheta")
    for name, d in dtheta.items():
        if not bool(array_namespace(d).isfinite(d).all()):
            raise ValueError(f"dtheta[{name!r}] must be finite; it has NaN or infinite entries")
    theta = field.parameters
    return field.with_parameters(**{name: theta[name] + d for name, d in dtheta.items()})


def _norm(x: Array) -> Array:
    """Return the norm of each column of a trajectory (K + 1, n, m)."""
    xp = array_namespace(x)
    return xp.sqrt(xp.sum(xp.square(x), axis=1))


def _ratio(error: Array, size: Array) -> Array:
    """Return error / size, where 0 / 0 is 0."""
    xp = array_namespace(error)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return xp.where(error == 0, xp.zeros_like(error), error / size)


# --- the Jacobian of the outputs ------------------------------------------------------------------


@own_error_state
def input_jacobian(
    field: Any,
    x: Array,
    *,
    rows: int | None = None,
    method: str = "adjoint",
    solver: str | Solver = "euler",
    block: int = BLOCK,
) -> Array:
    r"""Return the first rows of :math:`dz/dx_0`, the Jacobian of the outputs, for every sample.

    Parameters
    ----------
    field : VectorField
    x : array (n, m)
        Inputs, one column a sample.
    rows : int, optional
        Number of rows; default 10 as in `predict` (or n, if that is less), or all outputs of a
        read-out.
    method : {"adjoint", "tangent"}, optional
        `rows` adjoint solves, or n tangent solves: equal to rounding. The adjoint is the cheaper
        one when there are fewer rows than inputs.
    solver : str or Solver, optional
        As for `propagate`, checkpoints included. The Jacobian is the exact one of the numbers
        that are computed on these steps.
    block : int, optional
        Number of samples at once; only memory and time depend on it.

    Returns
    -------
    array (rows, n, m)
        Entry (i, j, k) is the derivative of output i of sample k with respect to its input j.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit; names the argument.
    IntegrationError
        If the direct problem does not stay finite.

    Notes
    -----
    There is one direct solve for all rows. A row is the solution lam(0) of the adjoint problem (8)
    with lam(T) the gradient of an output; the rows go through each layer together, as columns of
    one product. Nothing is computed for the parameters of `StandaloneField`; the linearisation of
    another field makes, row by row, a parameter part that is thrown away.

    Memory, besides the result: the linearisations of one block, for Euler 2 K n `block` numbers.

    References
    ----------
    .. [1] Jaroudi et al., arXiv 2205.13933, eqs. (2) and (8); section 5, the matrix of (10).

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> from snode.analysis.sensitivity import input_jacobian
    >>> field = snode.StandaloneField(np.array([[[0.0, 1.0], [0.0, 0.0]]]), np.zeros((1, 2)), 2.0)
    >>> input_jacobian(field, np.zeros((2, 1)))[:, :, 0]  # I + 2 W
    array([[1., 2.],
           [0., 1.]])
    """
    check_state(field, x, "x")
    check_choice("method", method, ("adjoint", "tangent"))
    chosen, block = as_solver(solver), check_positive("block", block)
    size = n_outputs(field)
    if rows is None:
        rows = size if has_readout(field) else min(10, size)
    if check_positive("rows", rows) > size:
        raise ValueError(f"rows must be in 1..{size}; got {rows!r}")
    jacobian = array_namespace(x).empty((rows, field.n, x.shape[1]), dtype=x.dtype)
    for part, sol in solve_blocks(field, x, chosen, block):
        jacobian[:, :, part] = (
            adjoint_rows(sol, rows) if method == "adjoint" else tangent_rows(sol, rows)
        )
    return jacobian


# --- which input matters --------------------------------------------------------------------------


@own_error_state
def saliency(
    field: Any,
    x: Array,
    *,
    label: Array | int | None = None,
    n_classes: int | None = None,
    kind: str = "logit",
    solver: str | Solver = "euler",
    block: int = BLOCK,
) -> Array:
    """Return the gradient of one logit of each sample with respect to its input.

    Parameters
    ----------
    field : VectorField
    x : array (n, m)
        Inputs, one column a sample.
    label : int or integer array (m,), optional
        The class whose logit is taken; default the predicted one.
    n_classes : int, optional
        As for `predict`: default 10, or all outputs of a read-out.
    kind : {"logit", "margin"}, optional
        The logit of the class, or what it has more than the largest of the others.
    solver : str or Solver, optional
        As for `input_jacobian`.
    block : int, optional
        Number of samples at once; only memory and time depend on it.

    Returns
    -------
    array (n, m)
        Signed: a saliency map often shows the absolute value.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit; names the argument.
    IntegrationError
        If the direct problem does not stay finite.

    Notes
    -----
    One adjoint solve (8) for all samples, whatever the number of classes.

    References
    ----------
    .. [1] Simonyan, Vedaldi, Zisserman, *Deep Inside Convolutional Networks: Visualising Image
       Classification Models and Saliency Maps*, arXiv 1312.6034.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> from snode.analysis.sensitivity import saliency
    >>> field = snode.StandaloneField(np.array([[[0.0, 1.0], [0.0, 0.0]]]), np.zeros((1, 2)), 2.0)
    >>> saliency(field, np.zeros((2, 1)), n_classes=2)
    array([[1.],
           [2.]])
    """
    check_state(field, x, "x")
    check_choice("kind", kind, ("logit", "margin"))
    chosen, block = as_solver(solver), check_positive("block", block)
    n_classes = check_classes(field, n_classes)
    if kind == "margin" and n_classes == 1:
        raise ValueError("n_classes must be at least 2 for kind='margin': there is no other logit")
    label = _check_label(label, x, n_classes)
    xp = array_namespace(x)
    gradient = xp.empty_like(x)
    for part, sol in solve_blocks(field, x, chosen, block):
        z = outputs(field, sol.x_T)
        logits = z[:n_classes]
        of_class = logits.argmax(axis=0) if label is None else label[part]
        samples, p = xp.arange(z.shape[1]), xp.zeros_like(z)
        p[of_class, samples] = 1
        if kind == "margin":
            others = xp.where(p[:n_classes] == 1, -xp.inf, logits)
            p[others.argmax(axis=0), samples] = -1
        gradient[:, part] = pull_back(sol, p[None])[0]
    return gradient


def _check_label(label: Any, x: Array, n_classes: int) -> Array | None:
    """Return one label for each column of x, or None."""
    xp, m = array_namespace(x), x.shape[1]
    if label is None:
        return None
    if isinstance(label, int | np.integer) and not isinstance(label, bool):
        label = xp.full(m, int(label))
    label = check_labels(label, n_classes, m, "label")
    array_namespace(x, label)
    return label
