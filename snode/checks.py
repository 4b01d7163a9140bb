"""Dot tests and Taylor tests, for the package's fields and for a user's own.

Every derivative that this package prints can be checked by two identities: a transpose by
<A u, v> = <u, A^T v> (dot test), a linearisation by the order of its remainder (Taylor test).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from snode.backend import Array, array_namespace
from snode.ode.problems import solve_adjoint, solve_direct, solve_sensitivity

__all__ = ["CheckReport", "CheckRow", "check", "dot_test", "taylor_test"]

ORDER = 1.9
DOT_TOLERANCE = 1e-11
EXACT = 1e-9
STEPS = tuple(1e-2 * 2.0**-k for k in range(8))
SHORT_STEPS = tuple(1e-6 * 2.0**-k for k in range(8))
"""For activations with kinks: so short that hardly a unit crosses its kink (a crossing leaves a
remainder of order 1 to 1.5), long enough to show a relative error of 1e-5 in a derivative."""

ATTEMPTS = 5


def dot_test(
    forward: Callable[[Array], Array], transpose: Callable[[Array], Array], u: Array, v: Array
) -> float:
    """Return how far two linear maps are from being transposes of each other.

    Parameters
    ----------
    forward, transpose : callable
        ``forward(u)`` is shaped like `v`, ``transpose(v)`` like `u`.
    u, v : array
        Vectors to test with; take random ones.

    Returns
    -------
    float
        ``|<A u, v> - <u, B v>|`` divided by the size of the terms that were added up, so that
        rounding alone gives about 1e-16.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> A = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> snode.dot_test(lambda u: A @ u, lambda v: A.T @ v, np.ones(2), np.ones(3)) < 1e-15
    True
    """
    return _mismatch([(forward(u), v)], [(u, transpose(v))])


def taylor_test(
    function: Callable[[float], Any],
    derivative: Any,
    *,
    steps: tuple[float, ...] = STEPS,
) -> float:
    """Return the observed order of the first-order Taylor remainder; 2 for a right derivative.

    Parameters
    ----------
    function : callable
        ``function(eps)`` is the value (a number or an array) at the point moved by eps along some
        direction.
    derivative : float or array
        The claimed derivative at eps = 0.
    steps : tuple of float, optional
        Values of eps, decreasing.

    Returns
    -------
    float
        Median of the observed orders between successive steps. ``inf`` if the remainder is zero
        up to rounding (the function is linear along the direction).

    Notes
    -----
    A wrong derivative leaves a remainder proportional to eps, that is order 1.

    Examples
    --------
    >>> import math
    >>> import snode
    >>> round(snode.taylor_test(lambda eps: math.exp(eps), 1.0), 1)
    2.0
    >>> round(snode.taylor_test(lambda eps: math.exp(eps), 1.1), 1)
    1.0
    """
    base = function(0.0)
    remainders = np.array([_size(function(e) - base - e * derivative) for e in steps])
    scale = max(_size(base), _size(derivative), np.finfo(float).tiny)
    rounding = 64 * np.finfo(float).eps * scale
    usable = remainders > rounding
    if usable.sum() < 3:
        return float("inf")
    r, e = remainders[usable], np.asarray(steps)[usable]
    return float(np.median(np.diff(np.log(r)) / np.diff(np.log(e))))


@dataclass(frozen=True)
class CheckRow:
    """One line of a report: what was tested, the number measured, and whether it is good."""

    name: str
    measured: float
    expected: str
    passed: bool
    hint: str


@dataclass(frozen=True)
class CheckReport:
    """Result of `check`; printing it shows a table."""

    field: str
    rows: tuple[CheckRow, ...]

    @property
    def passed(self) -> bool:
        """True if every row passed."""
        return all(row.passed for row in self.rows)

    def __str__(self) -> str:
        lines = [self.field]
        for row in self.rows:
            mark = "ok  " if row.passed else "FAIL"
            lines.append(f"  {mark} {row.name:<46} {row.measured:>9.2e}  ({row.expected})")
            if not row.passed:
                lines.append(f"       {row.hint}")
        lines.append("all passed" if self.passed else "SOMETHING IS WRONG")
        return "\n".join(lines)


def check(
    field: Any, *, n_samples: int = 5, t: Array | None = None, rng: Any = 0, verbose: bool = True
) -> CheckReport:
    """Check a field: values, linearisation, transposes, and the three problems built on them.

    It finds a wrong sign, a missing transpose, a forgotten sum over the samples, a wrong slope,
    samples that influence each other, and a value that changes when it is linearised.

    Parameters
    ----------
    field : VectorField
        Any field that follows the contract. float32 parameters are checked in float64.
    n_samples : int, optional
        Columns of the random states.
    t : array, optional
        Grid for the solves; default ``field.grid``.
    rng : seed or numpy.random.Generator, optional
    verbose : bool, optional
        Print the report.

    Returns
    -------
    CheckReport

    Examples
    --------
    >>> import snode
    >>> field = snode.StandaloneField.random(3, 1.0, 5, rng=0)
    >>> snode.check(field, verbose=False).passed
    True
    """
    if n_samples < 2:
        raise ValueError(f"n_samples must be at least 2 to see sums over samples; got {n_samples}")
    generator = np.random.default_rng(rng)
    tester = _Tester(_in_float64(field), n_samples, t, generator)
    report = CheckReport(repr(field), tuple(tester.rows()))
    if verbose:
        print(report)
    return report


class _Tester:
    def __init__(self, field: Any, m: int, t: Array | None, rng: np.random.Generator) -> None:
        self.field, self.m, self.t, self.rng = field, m, t, rng
        self.xp = array_namespace(*field.parameters.values())
        grid = field.grid if t is None else t
        kinks = getattr(getattr(field, "activation", None), "kinks", ())
        self.steps = SHORT_STEPS if kinks else STEPS
        self.depth = float(grid[0] + 0.37 * (grid[-1] - grid[0]))

    def random(self, *shape: int) -> Array:
        return self.xp.asarray(self.rng.standard_normal(shape))

    def random_theta(self, names: Any) -> dict[str, Array]:
        return {k: self.random(*self.field.parameters[k].shape) for k in names}

    def small_theta(self, names: Any) -> dict[str, Array]:
        """Random directions of the size of the parameters, for the Taylor tests."""
        d = self.random_theta(names)
        for k in names:
            p = self.field.parameters[k]
            size = _size(p) / max(p.size, 1) ** 0.5
            d[k] = d[k] * size if size > 0 else d[k]
        return d

    def rows(self) -> list[CheckRow]:
        names = list(self.field.parameters)
        rows = [self.value_row(), self.columns_row(), self.jvp_row("x", None)]
        rows += [self.jvp_row(name, name) for name in names]
        rows.append(self.vjp_row("x", None))
        rows += [self.vjp_row(name, name) for name in names]
        rows += [self.duality_row(), self.gradient_row("x0", [])]
        rows += [self.gradient_row(name, [name]) for name in names]
        return rows

    # --- the field at one depth -----------------------------------------------------------------

    def value_row(self) -> CheckRow:
        x = self.random(self.field.n, self.m)
        value = self.field(self.depth, x)
        difference = _size(self.field.linearize(self.depth, x)[0] - value)
        error = difference / max(_size(value), 1e-300)
        return self.small("linearize(t, x)[0] equals f(t, x)", error, 1e-13,
                          "linearize and __call__ compute different values")  # fmt: skip

    def columns_row(self) -> CheckRow:
        x = self.random(self.field.n, self.m)
        whole = self.field(self.depth, x)
        parts = [self.field(self.depth, x[:, j : j + 1].copy()) for j in range(self.m)]
        error = _size(self.xp.concatenate(parts, axis=1) - whole) / max(_size(whole), 1e-300)
        return self.small("each sample is on its own", error, 1e-12,
                          "f(t, x) of one column depends on the other columns")  # fmt: skip

    def jvp_row(self, label: str, name: str | None) -> CheckRow:
        def attempt() -> float:
            x = self.random(self.field.n, self.m)
            lin = self.field.linearize(self.depth, x)[1]
            if name is None:
                dx = self.random(self.field.n, self.m)
                return taylor_test(
                    lambda e: self.field(self.depth, x + e * dx), lin.jvp(dx), steps=self.steps
                )
            d = self.small_theta([name])
            return taylor_test(
                lambda e: self.moved(d, e)(self.depth, x), lin.jvp(None, d), steps=self.steps
            )

        return self.order(f"jvp in {label}: order of the remainder", attempt,
                          f"f and jvp disagree in {label}: slope, sign or factor")  # fmt: skip

    def vjp_row(self, label: str, name: str | None) -> CheckRow:
        x, p = self.random(self.field.n, self.m), self.random(self.field.n, self.m)
        lin = self.field.linearize(self.depth, x)[1]
        pull, partials = lin.vjp(p)
        if name is None:
            dx = self.random(self.field.n, self.m)
            error = _mismatch([(lin.jvp(dx), p)], [(dx, pull)])
        else:
            d = self.random_theta([name])
            error = _mismatch([(lin.jvp(None, d), p)], [(d[name], partials[name])])
        return self.small(f"vjp in {label} is the transpose of jvp", error, DOT_TOLERANCE,
                          "a missing transpose, a wrong sign, or a sum over samples")  # fmt: skip

    # --- the three problems ---------------------------------------------------------------------

    def duality_row(self) -> CheckRow:
        x0, dx0, lam = (self.random(self.field.n, self.m) for _ in range(3))
        d = self.random_theta(self.field.parameters)
        sol = solve_direct(self.field, x0, t=self.t)
        xi = solve_sensitivity(sol, dx0=dx0, dtheta=d)
        adjoint = solve_adjoint(sol, lam)
        error = _mismatch(
            [(xi[-1], lam)],
            [(dx0, adjoint.lam[0])] + [(d[k], adjoint.partials[k]) for k in d],
        )
        return self.small("adjoint is the transpose of sensitivity", error, DOT_TOLERANCE,
                          "the partial derivatives do not add up along depth")  # fmt: skip

    def gradient_row(self, label: str, names: list[str]) -> CheckRow:
        def attempt() -> float:
            x0, dx0 = (self.random(self.field.n, self.m) for _ in range(2))
            d = self.small_theta(names)
            sol = solve_direct(self.field, x0, t=self.t)
            adjoint = solve_adjoint(sol, sol.x_T)
            slope = sum(float((adjoint.partials[k] * d[k]).sum()) for k in names)
            if not names:
                slope = float((adjoint.lam[0] * dx0).sum())

            def cost(e: float) -> float:
                start = x0 if names else x0 + e * dx0
                x_T = solve_direct(self.moved(d, e), start, t=self.t, keep="last").x_T
                return 0.5 * float((x_T * x_T).sum())

            return taylor_test(cost, slope, steps=self.steps)

        return self.order(f"gradient of |x(T)|^2/2 in {label}: order", attempt,
                          f"the adjoint gradient in {label} is not the derivative")  # fmt: skip

    # --- helpers --------------------------------------------------------------------------------

    def moved(self, d: Mapping[str, Array], e: float) -> Any:
        if not d:
            return self.field
        theta = {k: self.field.parameters[k] + e * v for k, v in d.items()}
        return self.field.with_parameters(**theta)

    def small(self, name: str, error: float, bound: float, hint: str) -> CheckRow:
        return CheckRow(name, error, f"<= {bound:.0e}", bool(error <= bound), hint)

    def order(self, name: str, attempt: Callable[[], float], hint: str) -> CheckRow:
        # A kink of the activation between two steps can spoil an order by chance, and never
        # repairs a wrong derivative: the best of a few draws is a fair answer.
        best = -np.inf
        for _ in range(ATTEMPTS):
            best = max(best, attempt())
            if best >= ORDER:
                break
        return CheckRow(name, best, f">= {ORDER}", bool(best >= ORDER), hint)


def _in_float64(field: Any) -> Any:
    parameters = field.parameters
    if all(p.dtype == np.float64 for p in parameters.values()):
        return field
    return field.with_parameters(**{k: p.astype(np.float64) for k, p in parameters.items()})


def _size(a: Any) -> float:
    if isinstance(a, float | int):
        return abs(float(a))
    return math.sqrt(float((a * a).sum()))


def _mismatch(left: list[tuple[Array, Array]], right: list[tuple[Array, Array]]) -> float:
    """|sum of products left - right| over the size of the products."""
    total = sum(float((a * b).sum()) for a, b in left) - sum(float((a * b).sum()) for a, b in right)
    size = sum(_size(a) * _size(b) for a, b in left + right)
    return abs(total) / max(size, 1e-300)
