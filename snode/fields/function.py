r"""A vector field from a plain function: :math:`f(t, x)` or :math:`f(t, x; \theta)`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from snode.backend import Array, array_namespace, is_array, read_only
from snode.copying import Portable
from snode.fields.base import Parameters
from snode.partials import Partials

__all__ = ["FunctionField"]

CENTRAL, FORWARD = "central differences", "forward differences"


class FunctionField(Portable):
    r"""A vector field given by a function, with derivatives that are given or asked for by name.

    It turns your own right-hand side into a field that can be solved, differentiated, checked and
    trained. All functions take the arguments of `f` first; ``theta`` is left out if the field has
    no parameters.

    Parameters
    ----------
    f : callable
        ``f(t, x)``, or ``f(t, x, theta)`` with parameters: the right-hand side, an array (n, m)
        for x of shape (n, m), one **column** per sample. ``theta`` is a read-only mapping of str
        to array. Each sample must be on its own: column j of the result depends on column j of x
        only.
    n : int
        State dimension.
    parameters : mapping of str to array, optional
        float32 or float64, NumPy or CuPy, all of one dtype, each of at least one axis (a single
        number k is ``np.array([k])``). Not copied; do not change them afterwards.
    jvp : callable, optional
        ``jvp(t, x, dx)`` returns :math:`f_x\,dx`; with parameters ``jvp(t, x, theta, dx, dtheta)``
        returns :math:`f_x\,dx + f_\theta\,d\theta`, (n, m). ``dx`` is always an array and
        ``dtheta`` always holds every parameter (zeros where nothing is perturbed).
    vjp : callable, optional
        ``vjp(t, x, p)`` returns :math:`f_x^T p`; with parameters ``vjp(t, x, theta, p)`` returns
        the pair :math:`f_x^T p` and ``{name: array}`` with :math:`f_\theta^T p` for every
        parameter, **summed over the samples**.
    df_dt : callable, optional
        ``df_dt(t, x)`` or ``df_dt(t, x, theta)`` returns :math:`\partial f/\partial t`, (n, m).
    linearization : {None, "central differences", "forward differences"}, optional
        How to find those of the three derivatives above that are not given. With None, asking
        for a derivative that is not given is an error.
    breakpoints : iterable of float, optional
        Depths in (0, T), increasing, where f jumps; there f takes the value of the piece to the
        right.
    T : float, optional
        Length of the depth interval [0, T].
    n_layers : int, optional
        Number of equal steps of `grid`.

    Raises
    ------
    ValueError
        If a value is wrong (the message names the argument); later, if a function returns a wrong
        shape or dtype, or a derivative is needed that is neither given nor to be found by
        differences.
    TypeError
        If a function is not callable or something is not an array where one is expected.

    Notes
    -----
    Central differences along a direction d are

    .. math:: f_x d = \frac{r}{2c} \Big( f(t, x + \tfrac{c}{r} d) - f(t, x - \tfrac{c}{r} d) \Big)
              + O(c^2), \qquad r = \max_i \frac{|d_i|}{\max(1, |x_i|)},

    separately for each sample, where c is the power of 2 nearest to the cube root of the machine
    epsilon: no component moves by more than the fraction c of its size, or of 1. This balances
    the remainder :math:`c^2` against the rounding :math:`\varepsilon/c`; the relative error is
    about 1e-10 (float32: 1e-4). Forward differences,
    :math:`(f(t, x + \tfrac{c}{r} d) - f(t, x))\,r/c` with c near the square root of epsilon, need
    half the evaluations and reach 1e-8 (float32: 1e-3).

    The state and the parameters are thus expected to vary on a scale of max(1, size), time on a
    scale of min(1, T). Rescale a problem that varies much faster, or give the derivatives. Also
    give them if the components of one state differ by more than about 1e4 in size, since the
    largest one then hardly moves along a direction.

    =================  =======================================  ==========================
    product            central differences                      forward differences
    =================  =======================================  ==========================
    jvp                2, and 2 per perturbed parameter array   1, and 1 per array
    vjp                2 n, and 2 per entry of the parameters   n, and 1 per entry
    time derivative    2                                        1
    =================  =======================================  ==========================

    evaluations of f, for all samples at once; 2 n (n) of a vjp if its part in the parameters is
    not asked for, and the number for one direction times that of the directions. Since jvp and vjp
    are found by different differences, they are transposes of each other only up to the error
    above; tell `check` so by ``snode.check(field, derivative_error=1e-8)`` (forward differences:
    1e-5).

    The result of a function is copied and has the dtype of x: a float64 number inside f
    (``np.sin(t)`` is one) does not turn a float32 solution into a float64 one. A result of lower
    precision than x is refused. NumPy's x and theta arrive write-protected.

    References
    ----------
    .. [1] Nocedal, Wright, *Numerical Optimization*, 2nd ed., Section 8.1.

    Examples
    --------
    A pendulum with friction; without derivatives it can be solved, not linearised:

    >>> import numpy as np
    >>> import snode
    >>> def pendulum(t, x, theta):
    ...     angle, speed = x
    ...     return np.stack([speed, -np.sin(angle) - theta["friction"] * speed])
    >>> theta = {"friction": np.array([0.3])}
    >>> field = snode.FunctionField(pendulum, 2, parameters=theta, T=5.0)
    >>> sol = snode.solve_direct(field, np.ones((2, 3)))
    >>> field.linearize(0.0, np.ones((2, 3)))[1].vjp(np.ones((2, 3)))
    Traceback (most recent call last):
        ...
    ValueError: no vjp was given: pass vjp=... or linearization='central differences'

    By name, differences are used:

    >>> field = snode.FunctionField(pendulum, 2, parameters=theta, T=5.0,
    ...                             linearization="central differences")
    >>> sol = snode.solve_direct(field, np.ones((2, 3)))
    >>> snode.solve_adjoint(sol, np.ones((2, 3))).partials["friction"].shape
    (1,)

    Exact derivatives are faster and more accurate:

    >>> def jvp(t, x, theta, dx, dtheta):
    ...     change = -np.cos(x[0]) * dx[0] - theta["friction"] * dx[1] - dtheta["friction"] * x[1]
    ...     return np.stack([dx[1], change])
    >>> def vjp(t, x, theta, p):
    ...     pull = np.stack([-np.cos(x[0]) * p[1], p[0] - theta["friction"] * p[1]])
    ...     return pull, {"friction": -(x[1] * p[1]).sum(keepdims=True)}
    >>> field = snode.FunctionField(pendulum, 2, parameters=theta, jvp=jvp, vjp=vjp, T=5.0)
    >>> snode.check(field, verbose=False).passed
    True
    """

    def __init__(
        self,
        f: Callable[..., Array],
        n: int,
        *,
        parameters: Parameters | None = None,
        jvp: Callable[..., Array] | None = None,
        vjp: Callable[..., Any] | None = None,
        df_dt: Callable[..., Array] | None = None,
        linearization: str | None = None,
        breakpoints: Iterable[float] = (),
        T: float = 1.0,
        n_layers: int = 100,
    ) -> None:
        if not callable(f):
            raise TypeError(f"f must be a function f(t, x) or f(t, x, theta); got {f!r}")
        for name, function in (("jvp", jvp), ("vjp", vjp), ("df_dt", df_dt)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be a function or None; got {function!r}")
        if linearization not in (None, CENTRAL, FORWARD):
            raise ValueError(
                f"linearization must be None, {CENTRAL!r} or {FORWARD!r}; got {linearization!r}"
            )
        if not (np.isfinite(T) and T > 0):
            raise ValueError(f"T must be a positive finite number; got {T!r}")
        self._f, self._jvp, self._vjp, self._df_dt = f, jvp, vjp, df_dt
        self._linearization = linearization
        self._n, self._n_layers = _positive_integer("n", n), _positive_integer("n_layers", n_layers)
        self._T = float(T)
        self._breakpoints = _inner_depths(breakpoints, self._T)
        self._grid = _grid(self._T, self._n_layers, self._breakpoints)
        self._parameters = _checked_parameters({} if parameters is None else parameters)
        for name, array in self._parameters.items():
            if not bool(array_namespace(array).isfinite(array).all()):
                raise ValueError(f"parameters[{name!r}] must be finite; it has NaN or infinities")

    # --- the contract ---------------------------------------------------------------------------

    @property
    def n(self) -> int:
        """State dimension."""
        return self._n

    @property
    def grid(self) -> Array:
        """`n_layers` equal cells on [0, T], cut at the breakpoints that fall inside a cell."""
        return self._grid

    @property
    def breakpoints(self) -> tuple[float, ...]:
        """Depths where f jumps."""
        return self._breakpoints

    @property
    def parameters(self) -> Parameters:
        """Name -> array, read-only."""
        return self._parameters

    def with_parameters(self, /, **parameters: Array) -> FunctionField:
        """Return this field with some parameters replaced by arrays of the same shapes.

        Raises
        ------
        ValueError
            If a name is unknown, a shape is wrong, or the dtypes differ.
        TypeError
            If something is not an array.
        """
        unknown = sorted(set(parameters) - set(self._parameters))
        if unknown:
            known = ", ".join(self._parameters) or "no parameters"
            raise ValueError(f"unknown parameter {unknown}; this field has {known}")
        new = _checked_parameters({**self._parameters, **parameters})
        for name, old in self._parameters.items():
            if new[name].shape != old.shape:
                raise ValueError(f"{name} must have shape {old.shape}; got {new[name].shape}")
        field: FunctionField = object.__new__(type(self))
        field.__dict__.update(self.__dict__, _parameters=new)
        return field

    def __deepcopy__(self, memo: Any) -> FunctionField:
        """Return the same field with arrays of its own; the functions are shared."""
        return self.with_parameters(**{name: p.copy() for name, p in self._parameters.items()})

    def __call__(self, t: float, x: Array) -> Array:
        """Return f(t, x), a new array of the shape and dtype of x."""
        self._check_like_state("x", x)
        return self._evaluate(t, x, self._parameters)

    def linearize(self, t: float, x: Array) -> tuple[Array, FunctionLinearization]:
        """Return f(t, x) and the linearisation there, which evaluates nothing until asked."""
        value = self(t, x)
        return value, FunctionLinearization(self, float(t), x, value)

    # --- what it is -----------------------------------------------------------------------------

    @property
    def T(self) -> float:
        """Length of the depth interval."""
        return self._T

    @property
    def n_layers(self) -> int:
        """Number of equal cells of [0, T]."""
        return self._n_layers

    @property
    def linearization(self) -> str | None:
        """How derivatives that are not given are found; None: they are not."""
        return self._linearization

    def __repr__(self) -> str:
        name = getattr(self._f, "__name__", type(self._f).__name__)
        otherwise = self._linearization or "missing"
        jvp, vjp = ("given" if g is not None else otherwise for g in (self._jvp, self._vjp))
        return (
            f"FunctionField({name}, n={self.n}, T={self.T:g}, n_layers={self.n_layers}, "
            f"parameters={list(self._parameters)}, jvp={jvp!r}, vjp={vjp!r})"
        )

    # --- for the linearisation ------------------------------------------------------------------

    def _evaluate(self, t: float, x: Array, theta: Parameters) -> Array:
        return _checked_result("f", self._f(*self._arguments(t, x, theta)), x)

    def _arguments(self, t: float, x: Array, theta: Parameters) -> tuple[Any, ...]:
        """Return what every function of the user is given first."""
        start = (float(t), read_only(x))
        return (*start, theta) if theta else start

    def _check_like_state(self, name: str, x: Array) -> None:
        if not is_array(x):
            raise TypeError(f"{name} must be an array of shape ({self.n}, m); got {type(x)}")
        array_namespace(x, *self._parameters.values())
        if x.ndim != 2 or x.shape[0] != self.n:
            hint = f"; did you mean {name}.T?" if x.ndim == 2 and x.shape[1] == self.n else ""
            raise ValueError(
                f"{name} must have shape ({self.n}, m), one column per sample; got {x.shape}{hint}"
            )
        if x.dtype not in (np.float32, np.float64):
            raise ValueError(f"{name} must be float32 or float64; got {x.dtype}")
        for key, array in self._parameters.items():
            if x.dtype != array.dtype:
                raise ValueError(f"{name} is {x.dtype} but parameters[{key!r}] is {array.dtype}")


class FunctionLinearization:
    """Derivative of `FunctionField` at one (t, x)."""

    __slots__ = ("field", "t", "value", "x")

    def __init__(self, field: FunctionField, t: float, x: Array, value: Array) -> None:
        self.field, self.t, self.x, self.value = field, t, x, value

    def jvp(self, dx: Array | None, dtheta: Parameters | None = None) -> Array:
        """Return f_x dx + f_theta dtheta; what is None or left out counts as zero."""
        if dx is not None and is_array(dx) and dx.ndim > 2:
            return self._each(lambda one: self.jvp(one, dtheta), dx)
        dtheta = {} if dtheta is None else dtheta
        self._check_direction(dx, dtheta)
        if self.field._jvp is None:
            return self._jvp_by_differences(dx, dtheta)
        xp, theta = array_namespace(self.x), self.field.parameters
        directions: list[Any] = [xp.zeros_like(self.x) if dx is None else dx]
        if theta:
            directions.append({k: dtheta[k] if k in dtheta else xp.zeros_like(theta[k])
                               for k in theta})  # fmt: skip
        result = self.field._jvp(*self._arguments(), *directions)
        return _checked_result("jvp", result, self.x)

    def vjp(self, p: Array, into: Partials | None = None) -> Array:
        """Return f_x^T p, and add the parameter part to `into`."""
        if is_array(p) and p.ndim > 2:
            return self._each(lambda one: self.vjp(one, into), p)
        _check_same("p", p, self.x)
        if self.field._vjp is None:
            pull, partials = self._vjp_by_differences(p, only_x=into is None)
        else:
            pull, partials = self._given_vjp(p)
        if into is not None:
            for name, array in partials.items():
                into.add(name, array)
        return pull

    def _each(self, function: Callable[[Array], Array], stack: Array) -> Array:
        """Apply a function of (n, m) to every vector of a stack (..., n, m)."""
        xp, shape = array_namespace(stack), stack.shape
        flat = xp.ascontiguousarray(stack).reshape(-1, *shape[-2:])
        return xp.stack([function(one) for one in flat]).reshape(shape)

    def time_derivative(self) -> Array:
        """Return the partial derivative of f in t, (n, m).

        Differences stay inside [0, T] and inside the piece between two breakpoints that t is in
        (a breakpoint belongs to the piece to its right): near an end they are one-sided.
        """
        if self.field._df_dt is not None:
            return _checked_result("df_dt", self.field._df_dt(*self._arguments()), self.x)
        self._require_differences("df_dt")
        return self._time_difference()

    # --- given derivatives ----------------------------------------------------------------------

    def _arguments(self) -> tuple[Any, ...]:
        return self.field._arguments(self.t, self.x, self.field.parameters)

    def _given_vjp(self, p: Array) -> tuple[Array, dict[str, Array]]:
        assert self.field._vjp is not None
        theta = self.field.parameters
        result = self.field._vjp(*self._arguments(), p)
        if not theta:
            return _checked_result("vjp", result, self.x), {}
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
            raise TypeError(
                "vjp must return the pair (f_x^T p, {name: f_theta^T p}) of a field with "
                f"parameters; got {type(result).__name__}"
            )
        pull, partials = result
        if set(partials) != set(theta):
            raise ValueError(
                f"vjp must return the parameters {', '.join(theta)}; got {', '.join(partials)}"
            )
        return _checked_result("vjp", pull, self.x), {
            name: _checked_result(f"vjp: {name}", partials[name], theta[name]) for name in theta
        }

    def _check_direction(self, dx: Array | None, dtheta: Parameters) -> None:
        theta = self.field.parameters
        if dx is not None:
            _check_same("dx", dx, self.x)
        for name, direction in dtheta.items():
            if name not in theta:
                known = ", ".join(theta) or "none"
                raise ValueError(f"dtheta has an unknown parameter {name!r}; known: {known}")
            _check_same(f"dtheta[{name!r}]", direction, theta[name])

    # --- finite differences ---------------------------------------------------------------------

    def _require_differences(self, name: str) -> None:
        if self.field._linearization is None:
            raise ValueError(f"no {name} was given: pass {name}=... or linearization={CENTRAL!r}")

    @property
    def _is_central(self) -> bool:
        return self.field._linearization == CENTRAL

    @property
    def _fraction(self) -> float:
        """The power of 2 nearest to eps^(1/3) (central) or eps^(1/2) (forward)."""
        bits = np.log2(float(np.finfo(self.x.dtype).eps))
        return float(2.0 ** round(bits / (3 if self._is_central else 2)))

    def _jvp_by_differences(self, dx: Array | None, dtheta: Parameters) -> Array:
        self._require_differences("jvp")
        xp = array_namespace(self.x)
        total = xp.zeros_like(self.x)
        if dx is not None:
            total += _along(self._along_x, dx, self.x, axis=0)
        for name, direction in dtheta.items():
            quotient = partial(self._along_parameter, name)
            total += _along(quotient, direction, self.field.parameters[name], axis=None)
        return total

    def _vjp_by_differences(self, p: Array, *, only_x: bool) -> tuple[Array, dict[str, Array]]:
        self._require_differences("vjp")
        xp = array_namespace(self.x)
        pull, sizes = xp.empty_like(self.x), _sizes(self.x)
        for i in range(self.field.n):
            step = xp.zeros_like(self.x)
            step[i] = sizes[i]
            pull[i] = (self._along_x(step) * p).sum(axis=0) / sizes[i]
        names = () if only_x else self.field.parameters
        return pull, {name: self._partial(name, p) for name in names}

    def _partial(self, name: str, p: Array) -> Array:
        xp, array = array_namespace(p), self.field.parameters[name]
        sizes = _sizes(array).reshape(-1)
        result = xp.empty_like(sizes)
        for i in range(array.size):
            step = xp.zeros_like(sizes)
            step[i] = sizes[i]
            change = self._along_parameter(name, step.reshape(array.shape))
            result[i] = (change * p).sum() / sizes[i]
        return result.reshape(array.shape)

    def _along_x(self, step: Array) -> Array:
        """Return f_x step."""
        theta = self.field.parameters
        return self._quotient(lambda c: self.field._evaluate(self.t, self.x + c * step, theta))

    def _along_parameter(self, name: str, step: Array) -> Array:
        """Return f_theta step for one parameter array."""
        theta = self.field.parameters

        def value(c: float) -> Array:
            moved = MappingProxyType({**theta, name: read_only(theta[name] + c * step)})
            return self.field._evaluate(self.t, self.x, moved)

        return self._quotient(value)

    def _quotient(self, value: Callable[[float], Array]) -> Array:
        c = self._fraction
        if self._is_central:
            return (value(c) - value(-c)) * (0.5 / c)
        return (value(c) - self.value) * (1 / c)

    def _time_difference(self) -> Array:
        start, end, closed = self._piece()
        t, before, after = self.t, self.t - start, end - self.t
        h = self._fraction * min(1.0, self.field.T)

        def value(s: float) -> Array:
            return self.field._evaluate(s, self.x, self.field.parameters)

        # divided by differences of the depths used: in a short piece, h is near the rounding of t
        inside = start <= t - h and (t + h < end or (closed and t + h == end))
        if self._is_central and inside:
            late, early = t + h, t - h
            return (value(late) - value(early)) * (1 / (late - early))
        # one-sided, towards the roomier side; the piece may be shorter than h
        h = min(h, 0.25 * max(before, after)) * (1.0 if after >= before else -1.0)
        near, far = t + h, t + 2 * h
        slope = (value(near) - self.value) * (1 / (near - t))
        if not self._is_central:
            return slope
        # extrapolated to second order: twice the slope to `near` minus the slope to `far`
        return 2 * slope - (value(far) - self.value) * (1 / (far - t))

    def _piece(self) -> tuple[float, float, bool]:
        """Return the ends of the piece that t is in, and whether it has its right end."""
        T, breakpoints = self.field.T, self.field.breakpoints
        slack = 1e-12 * T
        if not -slack <= self.t <= T + slack:
            raise ValueError(f"t must be in [0, {T:g}] to find df_dt by differences; got {self.t}")
        start = max((s for s in breakpoints if s <= self.t), default=0.0)
        end = min((s for s in breakpoints if s > self.t), default=T)
        return start, end, end == T


def _along(
    quotient: Callable[[Array], Array], direction: Array, at: Array, axis: int | None
) -> Array:
    """Return the derivative in `direction`, by `quotient` of a step with max |step| / size = 1.

    The length is split off first: a short direction at a huge state must not underflow.
    """
    length = abs(direction).max(axis=axis)
    unit = direction / (length + (length == 0))
    rate = (abs(unit) / _sizes(at)).max(axis=axis)
    return length * (rate * quotient(unit / (rate + (rate == 0))))


def _sizes(array: Array) -> Array:
    return array_namespace(array).maximum(abs(array), 1.0)


def _grid(T: float, n_layers: int, breakpoints: tuple[float, ...]) -> np.ndarray[Any, Any]:
    grid = np.linspace(0.0, T, n_layers + 1)
    for s in breakpoints:
        grid = grid[np.abs(grid - s) > 1e-12 * T]  # a node that is the breakpoint up to rounding
        grid = np.insert(grid, np.searchsorted(grid, s), s)
    grid.flags.writeable = False
    return grid


# --- checks -------------------------------------------------------------------------------------


def _positive_integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be a positive integer; got {value!r}")
    return int(value)


def _inner_depths(breakpoints: Iterable[float], T: float) -> tuple[float, ...]:
    depths = tuple(float(s) for s in breakpoints)
    # closer to each other or to an end than rounding, there would be no piece between them
    if not all(b - a > 1e-9 * T for a, b in zip((0.0, *depths), (*depths, T), strict=True)):
        raise ValueError(
            f"breakpoints must be increasing, distinct depths inside (0, {T:g}); got {depths}"
        )
    return depths


def _checked_parameters(parameters: Parameters) -> Parameters:
    if not isinstance(parameters, Mapping):
        raise TypeError(
            f"parameters must be a mapping of names to arrays; got {type(parameters).__name__}"
        )
    first: tuple[str, Any] | None = None
    for name, array in parameters.items():
        label = f"parameters[{name!r}]"
        if not isinstance(name, str):
            raise TypeError(f"parameters must have names of type str; got {name!r}")
        if not is_array(array):
            raise TypeError(f"{label} must be a NumPy or CuPy array; got {type(array).__name__}")
        if array.dtype not in (np.float32, np.float64):
            raise ValueError(f"{label} must be float32 or float64; got {array.dtype}")
        if array.ndim == 0 or array.size == 0:
            raise ValueError(
                f"{label} must have at least one axis and one entry (a number k is "
                f"np.array([k])); got shape {array.shape}"
            )
        first = first or (name, array.dtype)
        if array.dtype != first[1]:
            raise ValueError(
                f"parameters must have one dtype; {first[0]!r} is {first[1]} and {name!r} is "
                f"{array.dtype}"
            )
    array_namespace(*parameters.values())
    return MappingProxyType({name: read_only(array) for name, array in parameters.items()})


def _check_same(name: str, array: Array, like: Array) -> None:
    if not is_array(array):
        raise TypeError(f"{name} must be an array of shape {like.shape}; got {type(array)}")
    array_namespace(array, like)
    if array.shape != like.shape or array.dtype != like.dtype:
        raise ValueError(
            f"{name} must be {like.dtype} of shape {like.shape}; "
            f"got {array.dtype} of shape {array.shape}"
        )


def _checked_result(name: str, result: Any, like: Array) -> Array:
    """Return a copy of what a function of the user returned, in the dtype of `like`."""
    if not is_array(result):
        raise TypeError(
            f"{name} must return an array of shape {like.shape}; got {type(result).__name__}"
        )
    array_namespace(result, like)
    if result.shape != like.shape:
        raise ValueError(f"{name} must return an array of shape {like.shape}; got {result.shape}")
    if result.dtype not in (like.dtype, np.float64):
        raise ValueError(f"{name} must return {like.dtype} like its arguments; got {result.dtype}")
    # a copy, because the function may return its argument or use one array again and again
    return result.astype(like.dtype)
