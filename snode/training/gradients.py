"""Direct problem + adjoint problem -> cost and gradient; the problem that NCG works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from snode.backend import (
    Array,
    array_namespace,
    is_on_device,
    own_error_state,
    plain,
    to_host_together,
)
from snode.fields.base import outputs, outputs_jvp, outputs_vjp
from snode.labels import check_order, check_plain
from snode.ode.problems import Solver, adjoint_of, as_solver, check_state, sensitivity_of
from snode.partials import Partials
from snode.results import OdeSolution
from snode.training.costs import Cost, LineModel, TerminalCost, check_cost, parameter_line
from snode.training.innerproducts import InnerProduct, as_inner_product, pair_number

__all__ = ["Dots", "FieldProblem", "gradient"]

Parameters = Mapping[str, Array]

EULER = Solver()


@own_error_state
def gradient(
    field: Any,
    x: Array,
    y: Array,
    cost: Cost,
    *,
    inner: str | InnerProduct = "l2",
    solver: str | Solver = "euler",
) -> tuple[float, dict[str, Array]]:
    """Return the cost and its gradient with respect to the parameters.

    Parameters
    ----------
    field : VectorField
    x : array (n, m)
        Inputs, one column a sample.
    y : integer array (m,) or array (n, m)
        Labels or targets; see `Cost`.
    cost : Cost
    inner : {"l2", "h1", "euclidean"} or InnerProduct, optional
        The metric. The default is L2: the gradient is the density E'(t) of eqs. (6) and (7), which
        for weights constant on cells is the array of partial derivatives divided by the length of a
        cell. ``inner="euclidean"`` returns the partial derivatives themselves.
    solver : str or Solver, optional
        How the direct problem is solved: the name of a method of `solve_direct`, or a `Solver`
        with tolerances. The gradient is the exact one of the numbers it computes.

    Returns
    -------
    value : float
    gradient : dict of str to array
        Shapes as ``field.parameters``.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit; names the argument.
    IntegrationError
        If the direct problem does not stay finite.

    References
    ----------
    .. [1] Jaroudi et al., arXiv 2205.13933, Lemma 4.1.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> field = snode.StandaloneField.random(3, 1.0, 10, rng=0)
    >>> x, y = np.ones((3, 4)), np.array([0, 1, 2, 0])
    >>> value, g = snode.gradient(field, x, y, snode.Cost(n_classes=3))
    >>> g["W"].shape
    (10, 3, 3)

    Partial derivatives, one of them beside a central difference:

    >>> cost = snode.Cost(n_classes=3)
    >>> value, partials = snode.gradient(field, x, y, cost, inner="euclidean")
    >>> def value_with(w):
    ...     W = field.W.copy()
    ...     W[4, 0, 1] = w
    ...     return snode.gradient(field.with_parameters(W=W), x, y, cost)[0]
    >>> w, h = field.W[4, 0, 1], 1e-5
    >>> difference = (value_with(w + h) - value_with(w - h)) / (2 * h)
    >>> bool(np.isclose(partials["W"][4, 0, 1], difference, rtol=1e-7))
    True
    >>> bool(np.allclose(g["W"] * 0.1, partials["W"], rtol=1e-12))  # cells of length 0.1
    True
    """
    value, partials = value_and_partials(field, x, y, cost, as_solver(solver))
    return value, as_inner_product(inner, field).riesz(partials)


def value_and_partials(
    field: Any, x: Array, y: Array, cost: Cost, solver: Solver = EULER
) -> tuple[float, dict[str, Array]]:
    """Return the cost and its Euclidean partial derivatives."""
    check_cost(cost)
    check_data(field, x, y)
    x, y = plain(x), plain(y)
    terminal = cost.at(field, y)
    sol = solver.solve(field, x)
    partials = terminal_partials(sol, terminal)
    cost.add_decay_partials(field, partials)
    return terminal.value(outputs(field, sol.x_T)) + cost.decay_value(field), partials


def terminal_partials(sol: Any, terminal: TerminalCost) -> dict[str, Array]:
    """Solve the adjoint problem; return the partial derivatives of the cost without decay."""
    p = terminal.terminal(outputs(sol.field, sol.x_T))
    of_readout = Partials.of(
        {name: sol.field.parameters[name] for name in getattr(sol.field, "readout_parameters", ())}
    )
    partials = pull_back(sol, outputs_vjp(sol.field, sol.x_T, p, of_readout))
    for name, partial in of_readout.arrays.items():
        partials[name] += partial
    return partials


def pull_back(sol: Any, lam_T: Array) -> dict[str, Array]:
    """Return the partial derivatives of the function of x(T) whose derivative is `lam_T`."""
    if isinstance(sol, OdeSolution):
        return adjoint_of(sol, lam_T).partials
    return dict(sol.pull_back(lam_T))


def tangent(sol: Any, direction: Parameters) -> Array:
    """Return the derivative of x(T) along a direction of the parameters."""
    if isinstance(sol, OdeSolution):
        return sensitivity_of(sol, dtheta=direction)[-1]
    return sol.tangent(direction)


def moved(field: Any, step: float, direction: Parameters) -> Any:
    """Return the field at theta + step d."""
    xp, old = array_namespace(*direction.values()), field.parameters
    theta = {name: xp.asarray(old[name] + step * d) for name, d in direction.items()}
    return field.with_parameters(**theta)


def check_data(field: Any, x: Array, y: Array) -> None:
    """Raise unless `x` fits the field and `y` has one entry per column of `x`."""
    check_order(x, y)
    check_state(field, x, "x")
    check_plain(y, "y", "labels (m,) or targets (n, m)")
    array_namespace(x, y)
    if y.shape[-1:] != x.shape[1:]:
        raise ValueError(f"y must have one entry per column of x ({x.shape[1]}); got {y.shape}")


@dataclass(frozen=True)
class Dots:
    """Inner products that the conjugate coefficients are made of.

    Attributes
    ----------
    gg : float
        <g, g> of the new gradient with itself.
    g_old : float
        <g, g_prev>, NaN if it was not asked for.
    gd : float
        <g, d_prev>, 0 without a previous direction.
    """

    gg: float
    g_old: float
    gd: float


class FieldProblem:
    """What NCG needs of a field, data, cost and inner product; works for any field.

    The state is the current parameters, the direction d, the gradient g, and the trajectory of
    the last `direct`. A user's own problem may replace it: NCG calls nothing else.
    """

    def __init__(
        self,
        field: Any,
        x: Array,
        y: Array,
        cost: Cost,
        inner: str | InnerProduct = "l2",
        *,
        keep_gradient: bool = False,
        solver: Solver = EULER,
    ) -> None:
        self.cost, self.solver = cost, solver
        self.set_data(field, x, y)
        self.inner = as_inner_product(inner, field)
        self.keep_gradient = keep_gradient
        self.g: dict[str, Array] = {}
        self.d: dict[str, Array] = {}
        self.sol: Any = None

    def set_data(self, field: Any, x: Array, y: Array) -> None:
        """Start again from `field` on other data; the direction stays."""
        check_data(field, x, y)
        self.base = self.trial = self.best = field
        self.x, self.terminal_cost = x, self.cost.at(field, y)

    def forget(self) -> None:
        """Forget the direction and the previous gradient."""
        self.g, self.d = {}, {}

    def carry(self) -> dict[str, dict[str, Array]]:
        """Return what conjugacy needs to go on later."""
        return {"d": self.d, "g": self.g}

    def restore(self, d: dict[str, Array], g: dict[str, Array]) -> None:
        """Take back what `carry` returned."""
        self.d, self.g = dict(d), dict(g)

    def direct(self) -> float:
        """Solve the direct problem for the trial parameters and return the cost."""
        return float(self.cost_number())

    def gradient(self) -> Dots:
        """Solve the adjoint problem; keep the gradient and return its inner products."""
        self.g, dots = self.gradient_numbers()
        return Dots(*map(float, to_host_together(*dots)))

    def set_direction(self, beta: float) -> None:
        """Set d = -g + beta d."""
        self.d = self.direction(beta, self.g)

    def line(self) -> LineModel:
        """Solve the sensitivity problem along d and return the model of the cost."""
        return self.terminal_cost.line_model(to_host_together(*self.line_numbers(self.d)))

    # --- the same, in numbers that stay where the arrays are ------------------------------------

    def cost_number(self) -> Any:
        """Solve the direct problem for the trial parameters and return the cost."""
        self.sol = self.solve()
        with np.errstate(over="ignore", invalid="ignore"):  # then the cost is inf
            z = outputs(self.trial, self.sol.x_T)
        return self.terminal_cost.number(z) + self.cost.decay_number(self.trial)

    def solve(self) -> Any:
        """Return the solution of the direct problem."""
        return self.solver.solve(self.trial, self.x, raise_on_failure=False)

    def gradient_numbers(self) -> tuple[dict[str, Array], tuple[Any, Any, Any]]:
        """Solve the adjoint problem; return the gradient and what `Dots` is made of."""
        partials = self.terminal_partials()
        self.cost.add_decay_partials(self.trial, partials)
        g = self.inner.riesz(partials)
        dots = (
            pair_number(partials, g),
            pair_number(partials, self.g) if self.keep_gradient and self.g else float("nan"),
            pair_number(partials, self.d) if self.d else 0.0,
        )
        return g, dots

    def terminal_partials(self) -> dict[str, Array]:
        """Solve the adjoint problem; return the partial derivatives of the cost without decay."""
        return terminal_partials(self.sol, self.terminal_cost)

    def direction(self, beta: Any, gradient: dict[str, Array]) -> dict[str, Array]:
        """Return -g + beta d; -g for a `beta` of 0."""
        xp = array_namespace(*gradient.values())  # asarray: arithmetic makes scalars of 0-d arrays
        if is_on_device(beta):  # it is no Python number: it would widen float32
            return {name: beta.astype(g.dtype) * self.d[name] - g for name, g in gradient.items()}
        return {
            name: xp.asarray(beta * self.d[name] - g if beta else -g)
            for name, g in gradient.items()
        }

    def line_numbers(self, direction: dict[str, Array]) -> list[Any]:
        """Solve the sensitivity problem; return what the model of the cost is made of."""
        xi_T = tangent(self.sol, direction)
        z = outputs(self.trial, self.sol.x_T)
        dz = outputs_jvp(self.trial, self.sol.x_T, xi_T, direction)
        decay = parameter_line(self.cost, self.trial, direction)
        return self.terminal_cost.line_numbers(z, dz, *decay)

    # --- parameters -----------------------------------------------------------------------------

    def move(self, step: float) -> None:
        """Set the trial parameters to base + step d."""
        self.trial = moved(self.base, step, self.d)

    def accept(self, *, is_best: bool) -> None:
        """Make the trial parameters the base of the next iteration."""
        self.base = self.trial
        if is_best:
            self.best = self.trial
