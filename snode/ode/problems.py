"""The three problems of paper 001: direct (1), sensitivity (2) and adjoint (8).

They work on anything that follows the vector-field contract. The sensitivity and the adjoint take
a solution: nothing is integrated again behind the caller's back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from snode.backend import Array, array_namespace, is_array, to_host
from snode.ode.adjoint import euler_adjoint
from snode.ode.fixed import euler, euler_last, euler_linearized
from snode.ode.tangent import euler_tangent
from snode.results import AdjointSolution, IntegrationError, OdeSolution, Status

__all__ = ["solve_adjoint", "solve_direct", "solve_sensitivity"]

METHODS = ("euler",)
KEEP = ("all", "trajectory", "last")


def solve_direct(
    field: Any,
    x0: Array,
    *,
    method: str = "euler",
    t: Array | None = None,
    keep: str = "all",
    raise_on_failure: bool = True,
) -> OdeSolution:
    """Solve the direct problem x' = f(t, x), x(0) = x0, for all samples at once.

    Parameters
    ----------
    field : VectorField
        The right-hand side.
    x0 : array (n, m)
        Initial states, one **column** per sample; the dtype of the field's parameters.
    method : {"euler"}, optional
        Explicit Euler on the grid.
    t : array (K + 1,), optional
        Grid; default ``field.grid``. It must contain ``field.breakpoints``.
    keep : {"all", "trajectory", "last"}, optional
        What the solution stores: the trajectory and the linearisation of every step (what the
        sensitivity and the adjoint need, so they cost no evaluation of f), the trajectory, or the
        final state only.
    raise_on_failure : bool, optional
        Raise `IntegrationError` when the state becomes NaN or infinite; otherwise return the
        solution with ``success=False``.

    Returns
    -------
    OdeSolution

    Raises
    ------
    ValueError
        If an argument has a wrong shape, dtype or value; the message names it.
    TypeError
        If `x0` is not an array.
    IntegrationError
        See `raise_on_failure`.

    References
    ----------
    .. [1] Jaroudi et al., arXiv 2205.13933, eq. (1).

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> field = snode.StandaloneField.random(3, 1.0, 10, rng=0)
    >>> snode.solve_direct(field, np.ones((3, 5)))
    OdeSolution(euler, 10 steps to T=1, n=3, m=5, trajectory and linearisations, SUCCESS)
    """
    check_choice("method", method, METHODS)
    check_choice("keep", keep, KEEP)
    check_state(field, x0, "x0")
    t = check_grid(field, t)
    x, lins = None, None
    with np.errstate(over="ignore", invalid="ignore"):  # reported below, by name
        if keep == "all":
            x, lins = euler_linearized(field, t, x0)
        elif keep == "trajectory":
            x = euler(field, t, x0)
        x_T = euler_last(field, t, x0) if x is None else x[-1]
    status, message = _diagnose(x_T, x, t)
    sol = OdeSolution(t, x, x_T, status, message, len(t) - 1, method, field, lins)
    if raise_on_failure and not sol.success:
        raise IntegrationError(sol)
    return sol


def solve_sensitivity(
    sol: OdeSolution, *, dx0: Array | None = None, dtheta: Mapping[str, Array] | None = None
) -> Array:
    """Solve the sensitivity problem (2) along a solution.

    The result is the derivative of the computed trajectory in the direction
    x0 -> x0 + eps dx0, theta -> theta + eps dtheta.

    Parameters
    ----------
    sol : OdeSolution
        A solution of `solve_direct` that kept its trajectory.
    dx0 : array (n, m), optional
        Perturbation of the initial states; zero if omitted.
    dtheta : mapping of str to array, optional
        Perturbation of the parameters, e.g. ``{"W": dW, "b": db}``, shapes as the parameters;
        what is omitted is zero.

    Returns
    -------
    xi : array (K + 1, n, m)

    Raises
    ------
    ValueError
        If a shape, dtype or name is wrong, or `sol` did not keep its trajectory.

    References
    ----------
    .. [1] Jaroudi et al., arXiv 2205.13933, Lemma 3.1, eq. (2).

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> field = snode.StandaloneField.random(3, 1.0, 10, rng=0)
    >>> sol = snode.solve_direct(field, np.ones((3, 5)))
    >>> snode.solve_sensitivity(sol, dx0=np.ones((3, 5))).shape
    (11, 3, 5)
    """
    if dx0 is None:
        dx0 = array_namespace(sol.x_T).zeros_like(sol.x_T)
    _check_like(dx0, sol.x_T, "dx0")
    _check_parameters(sol.field, dtheta, "dtheta")
    return euler_tangent(sol.t, _linearizations(sol), dx0, dtheta)


def solve_adjoint(sol: OdeSolution, lam_T: Array) -> AdjointSolution:
    """Solve the adjoint problem (8) along a solution.

    For a function E of x(T) with derivative `lam_T`, the result holds the derivative of E with
    respect to the initial states (``.lam[0]``) and the parameters (``.partials``): the exact
    transpose of `solve_sensitivity`.

    Parameters
    ----------
    sol : OdeSolution
        A solution of `solve_direct` that kept its trajectory.
    lam_T : array (n, m)
        Terminal value, dE/dx(T).

    Returns
    -------
    AdjointSolution

    Raises
    ------
    ValueError
        If the shape or dtype is wrong, or `sol` did not keep its trajectory.

    References
    ----------
    .. [1] Jaroudi et al., arXiv 2205.13933, Lemma 4.1, eqs. (6)-(8).

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> field = snode.StandaloneField.random(3, 1.0, 10, rng=0)
    >>> sol = snode.solve_direct(field, np.ones((3, 5)))
    >>> snode.solve_adjoint(sol, np.ones((3, 5)))
    AdjointSolution(lam (11, 3, 5), partials: W (10, 3, 3), b (10, 3))
    """
    _check_like(lam_T, sol.x_T, "lam_T")
    xp = array_namespace(lam_T)
    partials = {name: xp.zeros_like(array) for name, array in sol.field.parameters.items()}
    lam = euler_adjoint(sol.t, _linearizations(sol), lam_T, partials)
    return AdjointSolution(sol.t, lam, partials)


# --- checks -------------------------------------------------------------------------------------


def check_choice(name: str, value: Any, valid: Sequence[str]) -> None:
    """Raise ValueError unless `value` is one of `valid`."""
    if value not in valid:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, valid))}; got {value!r}")


def check_state(field: Any, x: Array, name: str) -> None:
    """Raise unless `x` is a finite (n, m) array of the field's dtype on the field's device."""
    n = field.n
    if not is_array(x):
        raise TypeError(
            f"{name} must be a NumPy or CuPy array of shape ({n}, m); got {type(x).__name__}"
        )
    if x.ndim != 2 or x.shape[0] != n or x.shape[1] == 0:
        raise ValueError(
            f"{name} must have shape ({n}, m), one column per sample; got {x.shape}"
            + _shape_hint(name, x.shape, n)
        )
    parameters = list(field.parameters.values())
    array_namespace(x, *parameters)
    if x.dtype not in (np.float32, np.float64):
        raise ValueError(f"{name} must be float32 or float64; got {x.dtype}")
    if parameters and x.dtype != parameters[0].dtype:
        raise ValueError(
            f"{name} is {x.dtype} but the field is {parameters[0].dtype}; nothing is converted "
            f"silently: use {name}.astype({str(parameters[0].dtype)!r})"
        )
    _check_finite(x, name)


def check_grid(field: Any, t: Array | None) -> Array:
    """Return the float64 grid: `t`, or the field's own."""
    if t is None:
        t = getattr(field, "grid", None)
        if t is None:
            raise ValueError("t must be given: this field has no grid of its own")
    t = np.asarray(t, dtype=np.float64)
    steps = np.diff(t)
    if t.ndim != 1 or len(t) < 2 or not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError("t must be a strictly monotone grid of at least two depths")
    inner = [s for s in field.breakpoints if t.min() < s < t.max()]
    if inner:
        distance = np.abs(t[:, None] - np.asarray(inner)).min(axis=0)
        if distance.max() > 1e-12 * np.abs(t).max():
            miss = inner[int(distance.argmax())]
            raise ValueError(f"t must contain the field's breakpoints; {miss:g} is missing")
    return t


def _shape_hint(name: str, shape: tuple[int, ...], n: int) -> str:
    if len(shape) == 2 and shape[1] == n:
        return f"; did you mean {name}.T?"
    if shape == (n,):
        return f"; use {name}[:, None] for a single sample"
    return ""


def _check_finite(x: Array, name: str) -> None:
    xp = array_namespace(x)
    bad = ~xp.isfinite(x)
    if bool(bad.any()):
        i, j = (int(k[0]) for k in map(to_host, xp.nonzero(bad)))
        raise ValueError(f"{name} must be finite; component {i} of sample {j} is {float(x[i, j])}")


def _check_like(a: Array, reference: Array, name: str) -> None:
    if not is_array(a):
        raise TypeError(
            f"{name} must be an array of shape {reference.shape}; got {type(a).__name__}"
        )
    array_namespace(a, reference)
    if a.shape != reference.shape or a.dtype != reference.dtype:
        raise ValueError(
            f"{name} must be {reference.dtype} of shape {reference.shape}; "
            f"got {a.dtype} of shape {a.shape}"
        )


def _check_parameters(field: Any, theta: Mapping[str, Array] | None, name: str) -> None:
    known = field.parameters
    for key, value in (theta or {}).items():
        if key not in known:
            raise ValueError(f"{name} has an unknown parameter {key!r}; known: {', '.join(known)}")
        _check_like(value, known[key], f"{name}[{key!r}]")


def _linearizations(sol: OdeSolution) -> tuple[Any, ...]:
    if sol.linearizations is not None:
        return sol.linearizations
    if sol.x is None:
        raise ValueError('sol must keep its trajectory: solve_direct(..., keep="all")')
    x = sol.x
    return tuple(sol.field.linearize(float(t), x[i])[1] for i, t in enumerate(sol.t[:-1]))


def _diagnose(x_T: Array, x: Array | None, t: Array) -> tuple[Status, str]:
    """Name the first non-finite component; NaN and inf never heal, so x(T) tells."""
    xp = array_namespace(x_T)
    if bool(xp.isfinite(x_T).all()):
        return Status.SUCCESS, f"solved to T={float(t[-1]):g}"
    if x is None:
        return Status.NONFINITE_RHS, f"the state is not finite at t={float(t[-1]):g}"
    finite = to_host(xp.isfinite(x).all(axis=(1, 2)))
    i = int(np.argmin(finite))
    component, sample = (int(k[0]) for k in map(to_host, xp.nonzero(~xp.isfinite(x[i]))))
    x[i:] = np.nan
    return Status.NONFINITE_RHS, (
        f"the state is not finite at t={float(t[i]):g}: component {component} of sample {sample}, "
        f"after the step from t={float(t[i - 1]):g}"
    )
