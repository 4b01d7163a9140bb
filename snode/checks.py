"""Dot tests, Taylor tests and observed orders, for the package's own and for a user's.

Every derivative that this package prints can be checked by two identities: a transpose by
<A u, v> = <u, A^T v> (dot test), a linearisation by the order of its remainder (Taylor test).
A method is checked by the order at which its error falls (observed order).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from snode.backend import Array, array_namespace, is_array, own_error_state
from snode.fields.activations import Activation
from snode.fields.base import has_readout, outputs, outputs_jvp, outputs_vjp
from snode.fields.slopes import slope_excess
from snode.ode.problems import solve_adjoint, solve_direct, solve_sensitivity
from snode.partials import Partials
from snode.results import IntegrationError
from snode.seeds import as_generator

__all__ = ["CheckReport", "CheckRow", "check", "dot_test", "observed_order", "taylor_test"]

ORDER = 1.9
DOT_TOLERANCE = 1e-11
EXACT = 1e-9
STEPS = tuple(1e-2 * 2.0**-k for k in range(8))
SHORT_STEPS = tuple(1e-6 * 2.0**-k for k in range(8))
"""For activations with kinks: so short that hardly a unit crosses its kink (a crossing leaves a
remainder of order 1 to 1.5), long enough to show a relative error of 1e-5 in a derivative."""

SLOPE_TOLERANCE = 1e-13
"""Rounding of a slope, relative to the larger end of its interval, or to 1."""

ATTEMPTS = 5


@own_error_state
def dot_test(
    forward: Callable[[Array], Array], transpose: Callable[[Array], Array], u: Array, v: Array
) -> float:
    """Return how far two linear maps A and B are from being transposes of each other.

    Parameters
    ----------
    forward, transpose : callable
        u -> A u and v -> B v: ``forward(u)`` is shaped like `v`, ``transpose(v)`` like `u`.
    u, v : array
        Vectors to test with; take random ones.

    Returns
    -------
    float
        ``|<A u, v> - <u, B v>|`` divided by the size of the terms that were added up, so that
        rounding alone gives about 1e-16.

    Notes
    -----
    The transpose is *defined* by <A u, v> = <u, A^T v> for all u and v, so the test needs no
    matrix: it works for any two functions that claim to be transposes, such as the sensitivity and
    the adjoint problem. If B is not the transpose, the two sides differ for almost all u and v;
    with random ones a mistake goes unseen with probability zero.

    Read the result by its exponent: 1e-14 and below is rounding, so B = A^T. A mistake (a sign, a
    missing transpose, a sum over half the samples) gives 1e-3 to 1. A number in between is an
    approximation: two maps that are transposes only up to a discretisation, or finite differences.
    The test says nothing about A being right: a wrong A with its true transpose passes. That is
    what `taylor_test` is for.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> A = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> snode.dot_test(lambda u: A @ u, lambda v: A.T @ v, np.ones(2), np.ones(3)) < 1e-15
    True
    """
    return _mismatch([(forward(u), v)], [(u, transpose(v))])


@own_error_state
def taylor_test(
    function: Callable[[float], Any],
    derivative: Any,
    *,
    steps: tuple[float, ...] = STEPS,
    derivative_error: float = 0.0,
) -> float:
    r"""Return the observed order of the first-order Taylor remainder; 2 for a right derivative.

    Parameters
    ----------
    function : callable
        ``function(eps)`` is the value (a number or an array) at the point moved by eps along some
        direction.
    derivative : float or array
        The claimed derivative at eps = 0.
    steps : tuple of float, optional
        Values of eps, decreasing.
    derivative_error : float, optional
        Relative error of `derivative` that is forgiven, for derivatives that are approximations
        themselves; 0 for exact ones.

    Returns
    -------
    float
        Median of the observed orders between successive steps. ``inf`` if the remainder is zero
        up to rounding (the function is linear along the direction).

    Notes
    -----
    By Taylor's theorem

    .. math:: r(\varepsilon) = | g(\varepsilon) - g(0) - \varepsilon\, g'(0) | = O(\varepsilon^2),

    and with a wrong derivative d in place of g'(0) the term :math:`\varepsilon\, (g'(0) - d)` is
    left, which is of order 1. So halve eps: a right derivative divides the remainder by 4
    (order 2), a wrong one by 2 (order 1), however small its mistake is once eps is smaller still.
    The order between two steps is :math:`\log(r_1/r_2) / \log(\varepsilon_1/\varepsilon_2)`.

    This is sharper than comparing d with one finite difference, which must tell a wrong derivative
    from the error of the difference: here no tolerance has to be guessed. An order above 2 means
    that the second derivative along the direction vanishes; an order between 1 and 2 most often
    that the function has a kink nearby, as relu has.

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
    forgiven = derivative_error * _size(derivative) * np.abs(steps)
    usable = remainders > rounding + forgiven
    if usable.sum() < 3:
        return float("inf")
    r, e = remainders[usable], np.asarray(steps)[usable]
    return float(np.median(np.diff(np.log(r)) / np.diff(np.log(e))))


@own_error_state
def observed_order(
    solve: Callable[[int], Any],
    n_steps: Sequence[int] = (20, 40, 80, 160),
    *,
    exact: Any = None,
) -> float:
    r"""Return the order p at which the error of a method falls, error ~ C h^p, as measured.

    Parameters
    ----------
    solve : callable
        ``solve(k)`` returns the numerical result with k steps: a number, or an array of a shape
        that does not depend on k (the state at T, not the trajectory).
    n_steps : sequence of int, optional
        Numbers of steps, increasing, at least two; without `exact` at least three, with one ratio
        (20, 40, 80: doubled each time).
    exact : float or array, optional
        The true result, or one computed far more accurately. If omitted, the results are compared
        with each other.

    Returns
    -------
    float
        The slope of the error against the step in a doubly logarithmic plot. ``inf`` if fewer than
        two errors are above rounding: the method is exact here, or the steps are too small.

    Raises
    ------
    ValueError
        If `n_steps` or the shape of a result or of `exact` is wrong.
    TypeError
        If a result or `exact` is neither a number nor an array.
    ArithmeticError
        If a result is not finite; the message says for which k.

    Notes
    -----
    A method of order p with step h = T/k leaves the error ([1]_, Section II.3)

    .. math:: e(h) = C h^p + O(h^{p+1})
              \quad\Longrightarrow\quad \log e \approx \log C - p \log k,

    a straight line of slope -p in log k, fitted by least squares to the Euclidean norms of the
    errors. If the true result is not known, take the difference of successive results: with
    :math:`k_{i+1} = q k_i` it is

    .. math:: u_{k_i} - u_{k_{i+1}} \approx C (1 - q^{-p})\, h_i^p,

    with the same slope (the idea of Richardson). It shows that the method converges at that order,
    not that it converges to the solution: a wrong right-hand side goes unseen.

    Errors of at most 100 machine epsilons of the size of the result are left out: they are
    rounding, and would flatten the line. Expect p to within 0.1. If it is smaller than the theory
    says, the scheme is wrong, the solution is less smooth than the theory assumes (a jump of f
    inside a step costs every method its order), or the steps are still too large: take more.

    References
    ----------
    .. [1] Hairer, Norsett, Wanner, *Solving Ordinary Differential Equations I*, 2nd ed.,
       Sections II.3 and II.4.

    Examples
    --------
    Explicit Euler for x' = -x, x(0) = 1 multiplies by 1 - 1/k in each of k steps to T = 1:

    >>> import math
    >>> import snode
    >>> def solve(k):
    ...     return (1 - 1 / k) ** k
    >>> round(snode.observed_order(solve, exact=math.exp(-1)), 1)
    1.0
    >>> round(snode.observed_order(solve), 1)
    1.0
    """
    steps = _checked_steps(n_steps, has_exact=exact is not None)
    results = [_checked_value(f"the result of solve({k})", solve(k)) for k in steps]
    for k, result in zip(steps[1:], results[1:], strict=True):
        if _shape(result) != _shape(results[0]):
            raise ValueError(
                f"solve must return one shape for every k; solve({steps[0]}) has "
                f"{_shape(results[0])}, solve({k}) has {_shape(result)}"
            )
    if exact is None:
        pairs = list(pairwise(results))
    else:
        exact = _checked_value("exact", exact)
        if _shape(exact) not in ((), _shape(results[0])):
            raise ValueError(
                f"exact must be a number or have the shape {_shape(results[0])} of the results; "
                f"got {_shape(exact)}"
            )
        pairs = [(result, exact) for result in results]
    points = []
    for k, (a, b) in zip(steps, pairs, strict=False):
        error = _norm(a - b)
        if error > 100 * max(_epsilon(a), _epsilon(b)) * max(_norm(a), _norm(b)):
            points.append((math.log(k), math.log(error)))
    if len(points) < 2:
        return math.inf
    log_k, log_error = np.array(points).T
    log_k -= log_k.mean()
    return -float(log_k @ log_error / (log_k @ log_k))


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
            measured, expected = f"{row.measured:.2e}", row.expected
            if math.isinf(row.measured) and row.passed:  # the order of a remainder of zero
                measured, expected = "exact", "linear here: no remainder"
            lines.append(f"  {mark} {row.name:<46} {measured:>9}  ({expected})")
            if not row.passed:
                lines.append(f"       {row.hint}")
        lines.append("all passed" if self.passed else "SOMETHING IS WRONG")
        return "\n".join(lines)


@own_error_state
def check(
    field: Any,
    *,
    n_samples: int = 5,
    t: Array | None = None,
    derivative_error: float = 0.0,
    rng: Any = 0,
    verbose: bool = True,
) -> CheckReport:
    """Check a field: values, linearisation, transposes, and the three problems built on them.

    It finds a wrong sign, a missing transpose, a forgotten sum over the samples, a wrong slope,
    samples that influence each other, a value that changes when it is linearised, and slopes of an
    activation outside of the interval that certificates rely on (on a dense grid, see
    `register_activation`).

    Parameters
    ----------
    field : VectorField
        Any field that follows the contract. float32 parameters are checked in float64.
    n_samples : int, optional
        Columns of the random states.
    t : array, optional
        Grid for the solves; default ``field.grid``.
    derivative_error : float, optional
        Relative error that the field's derivatives are allowed: 0 for exact ones; for a
        `FunctionField` 1e-8 suits central and 1e-5 forward differences.
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
    if not 0 <= derivative_error < 1:
        raise ValueError(f"derivative_error must be in [0, 1); got {derivative_error!r}")
    generator = as_generator(rng)
    tester = _Tester(_in_float64(field), n_samples, t, derivative_error, generator)
    report = CheckReport(repr(field), tuple(tester.rows()))
    if verbose:
        print(report)
    return report


class _Tester:
    def __init__(
        self, field: Any, m: int, t: Array | None, error: float, rng: np.random.Generator
    ) -> None:
        self.field, self.m, self.t, self.rng = field, m, t, rng
        self.error, self.dot_tolerance = error, max(DOT_TOLERANCE, error)
        self.xp = array_namespace(*field.parameters.values())
        grid = field.grid if t is None else t
        found = [getattr(field, f"{k}activation", None) for k in ("", "output_")]
        self.activations = {a.name: a for a in found if isinstance(a, Activation)}
        kinks = any(getattr(activation, "kinks", ()) for activation in found)
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
        rows = [self.slopes_row(activation) for activation in self.activations.values()]
        rows += [self.value_row(), self.columns_row(), self.jvp_row("x", None)]
        rows += [self.jvp_row(name, name) for name in names]
        rows.append(self.vjp_row("x", None))
        rows += [self.vjp_row(name, name) for name in names]
        rows.append(self.stack_row())
        failure = self.unsolved_row()
        if failure is not None:
            return [*rows, failure]
        rows += [self.duality_row(), self.gradient_row("x0", [])]
        rows += [self.gradient_row(name, [name]) for name in names]
        return rows + (self.readout_rows() if has_readout(self.field) else [])

    def slopes_row(self, activation: Activation) -> CheckRow:
        lo, hi = activation.slope_interval
        excess, place = slope_excess(activation.slope, (lo, hi))
        return self.small(f"slopes of {activation.name} in [{lo:g}, {hi:g}]", excess,
                          SLOPE_TOLERANCE, f"the slope at {place:.9g} is outside")  # fmt: skip

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
                return self.taylor(lambda e: self.field(self.depth, x + e * dx), lin.jvp(dx))
            d = self.small_theta([name])
            return self.taylor(lambda e: self.moved(d, e)(self.depth, x), lin.jvp(None, d))

        return self.order(f"jvp in {label}: order of the remainder", attempt,
                          f"f and jvp disagree in {label}: slope, sign or factor")  # fmt: skip

    def vjp_row(self, label: str, name: str | None) -> CheckRow:
        x, p = self.random(self.field.n, self.m), self.random(self.field.n, self.m)
        lin = self.field.linearize(self.depth, x)[1]
        into = Partials.of(self.field.parameters)
        pull = lin.vjp(p, into)
        if name is None:
            dx = self.random(self.field.n, self.m)
            error = _mismatch([(lin.jvp(dx), p)], [(dx, pull)])
        else:
            d = self.random_theta([name])
            error = _mismatch([(lin.jvp(None, d), p)], [(d[name], into[name])])
        return self.small(f"vjp in {label} is the transpose of jvp", error, self.dot_tolerance,
                          "a missing transpose, a wrong sign, or a sum over samples")  # fmt: skip

    def stack_row(self) -> CheckRow:
        name, hint = "several directions at once, (..., n, m)", "that of one after the other"
        try:
            error = self.stack_error()
        except Exception as failure:  # of an array with an axis more
            error, hint = math.nan, f"{type(failure).__name__}: {failure}"
        return self.small(name, error, self.dot_tolerance, f"jvp or vjp of a stack is not {hint}")

    def stack_error(self) -> float:
        """Return the largest difference between a stack of directions and each by itself."""
        x = self.random(self.field.n, self.m)
        lin, stack = self.field.linearize(self.depth, x)[1], self.random(2, self.field.n, self.m)
        one, all_ = Partials.of(self.field.parameters), Partials.of(self.field.parameters)
        pairs = [
            (lin.jvp(stack), self.xp.stack([lin.jvp(v) for v in stack])),
            (lin.vjp(stack, all_), self.xp.stack([lin.vjp(v, one) for v in stack])),
            (lin.vjp(stack), self.xp.stack([lin.vjp(v) for v in stack])),
            *((all_[name], one[name]) for name in self.field.parameters),
        ]
        return max(_size(a - b) / max(_size(b), 1e-300) for a, b in pairs)

    def readout_rows(self) -> list[CheckRow]:
        x, dx = (self.random(self.field.n, self.m) for _ in range(2))
        p = self.random(self.field.n_outputs, self.m)
        d = self.small_theta(self.field.readout_parameters)
        dz = outputs_jvp(self.field, x, dx, d)
        order = self.taylor(lambda e: outputs(self.moved(d, e), x + e * dx), dz)
        into = Partials.of(self.field.parameters)
        pull = outputs_vjp(self.field, x, p, into)
        error = _mismatch([(dz, p)], [(dx, pull)] + [(d[k], into[k]) for k in d])
        return [
            self.order("read-out, jvp: order of the remainder", lambda: order,
                       "readout and readout_jvp disagree"),
            self.small("read-out, vjp is the transpose of jvp", error, self.dot_tolerance,
                       "a missing transpose, a wrong sign, or a sum over samples"),
        ]  # fmt: skip

    # --- the three problems ---------------------------------------------------------------------

    def unsolved_row(self) -> CheckRow | None:
        try:
            solve_direct(self.field, self.random(self.field.n, self.m), t=self.t, keep="last")
        except IntegrationError as error:
            return CheckRow("the direct problem is solved by Euler", math.nan, "finite", False,
                            f"{error}; pass t=, a finer or shorter grid")  # fmt: skip
        return None

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
        return self.small("adjoint is the transpose of sensitivity", error, self.dot_tolerance,
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

            return self.taylor(cost, slope)

        return self.order(f"gradient of |x(T)|^2/2 in {label}: order", attempt,
                          f"the adjoint gradient in {label} is not the derivative")  # fmt: skip

    # --- helpers --------------------------------------------------------------------------------

    def moved(self, d: Mapping[str, Array], e: float) -> Any:
        if not d:
            return self.field
        theta = {k: self.field.parameters[k] + e * v for k, v in d.items()}
        return self.field.with_parameters(**theta)

    def taylor(self, function: Callable[[float], Any], derivative: Any) -> float:
        return taylor_test(function, derivative, steps=self.steps, derivative_error=self.error)

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


def _checked_steps(n_steps: Sequence[int], *, has_exact: bool) -> list[int]:
    steps = list(n_steps) if isinstance(n_steps, Iterable) else []
    integers = all(isinstance(k, int | np.integer) and not isinstance(k, bool) for k in steps)
    if not integers or any(k < 1 for k in steps) or sorted(set(steps)) != steps:
        raise ValueError(f"n_steps must be increasing positive integers; got {n_steps!r}")
    steps = [int(k) for k in steps]
    if len(steps) < (2 if has_exact else 3):
        need = "two numbers" if has_exact else "three numbers when exact is not given"
        raise ValueError(f"n_steps must have at least {need}; got {n_steps!r}")
    ratios_agree = all(a * c == b * b for a, b, c in zip(steps, steps[1:], steps[2:], strict=False))
    if not (has_exact or ratios_agree):
        raise ValueError(
            f"n_steps must grow by one ratio, as 20, 40, 80, when exact is not given; "
            f"got {n_steps!r}"
        )
    return steps


def _checked_value(name: str, value: Any) -> Any:
    """Return a finite number or array, or raise."""
    if not (is_array(value) or isinstance(value, int | float | np.number)):
        raise TypeError(f"{name} must be a number or an array; got {type(value).__name__}")
    if is_array(value):
        if value.size == 0:
            raise ValueError(f"{name} is empty: its shape is {value.shape}")
        finite = bool(array_namespace(value).isfinite(value).all())
    else:
        finite = bool(np.isfinite(value))
    if not finite:
        raise ArithmeticError(f"{name} is not finite")
    return value


def _shape(a: Any) -> tuple[int, ...]:
    return tuple(getattr(a, "shape", ()))


def _norm(a: Any) -> float:
    """Euclidean norm that neither overflows nor underflows."""
    if not is_array(a):
        return float(abs(a))
    largest = float(abs(a).max())
    return largest * _size(a / largest) if largest > 0 else 0.0


def _epsilon(a: Any) -> float:
    """Machine epsilon of the dtype; that of float64 for integers and Python's numbers."""
    dtype = getattr(a, "dtype", None)
    is_float = dtype is not None and dtype.kind == "f"
    return float(np.finfo(dtype if is_float else np.float64).eps)
