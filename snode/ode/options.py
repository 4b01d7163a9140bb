"""MATLAB's habits: options made by `odeset`, and what to say where a habit has no counterpart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from inspect import signature
from math import inf
from typing import Any, ParamSpec, TypeVar

import numpy as np

from snode.backend import is_array, own_error_state, to_host
from snode.copying import Portable
from snode.ode.control import StepControl
from snode.ode.events import as_events

__all__ = ["ABSENT", "OdeOptions", "apply_options", "matlab_habits", "odeset"]

P = ParamSpec("P")
T = TypeVar("T")

# Objects of their own, so that a keyword the caller gave is told from one that was left out, even
# if it has the value of the default.
RTOL, ATOL, MAX_STEP = float("1e-3"), float("1e-6"), float("inf")

KEYWORDS = {
    "AbsTol": "atol",
    "RelTol": "rtol",
    "InitialStep": "first_step",
    "MaxStep": "max_step",
    "Events": "events",
}
DEFAULTS = {"atol": ATOL, "rtol": RTOL, "first_step": None, "max_step": MAX_STEP, "events": None}
VALUES = {
    "AbsTol": "number or vector {1e-06}",
    "RelTol": "number {0.001}",
    "InitialStep": "number {chosen from f}",
    "MaxStep": "number {inf}",
    "Events": "function, snode.Event or list of them {none}",
}

_EXPLICIT = (
    "the methods are explicit and need no Jacobian; for a stiff problem use SciPy's "
    "solve_ivp(method='Radau')"
)
_MASS = "let f return the solution of M x' = ..., as by numpy.linalg.solve"
REFUSED = {
    "BDF": _EXPLICIT,
    "InitialSlope": _MASS,
    "JConstant": _EXPLICIT,
    "JPattern": _EXPLICIT,
    "Jacobian": _EXPLICIT,
    "MStateDependence": _MASS,
    "Mass": _MASS,
    "MassSingular": "equations with a singular mass matrix cannot be solved",
    "MaxOrder": "the order is that of the method: 5 for ode45, 3 for ode23",
    "MvPattern": _MASS,
    "NonNegative": "no component is held back; solve for its logarithm, or end at 0 by snode.Event",
    "NormControl": "the norm of the error is always the root mean square, see help(snode.ode45)",
    "OutputFcn": "use callback=, called with a snode.OdeState after each accepted step",
    "OutputSel": "choose components from sol.x, as sol.x[:, 0]",
    "Refine": "ask for more depths by t_eval=, or solve with dense_output=True and call sol(t)",
    "Stats": "the solution has sol.nfev, sol.n_accepted and sol.n_rejected",
    "Vectorized": "f is always given the whole state, shape (n,) or (n, m)",
}
NAMES = (*KEYWORDS, *REFUSED)

_STIFF = "for stiff problems use scipy.integrate.solve_ivp(..., method='Radau') or 'BDF'"
_ORDER = "for high accuracy lower rtol, or use scipy.integrate.solve_ivp(..., method='DOP853')"
_HERE = "there are snode.ode45 and snode.ode23"
ABSENT = {
    "ode113": f"{_HERE}; {_ORDER}",
    "ode15i": f"{_HERE} for x' = f(t, x); implicit equations must be solved for x' first",
    "ode15s": f"{_HERE}; {_STIFF}",
    "ode23s": f"{_HERE}; {_STIFF}",
    "ode23t": f"{_HERE}; {_STIFF}",
    "ode23tb": f"{_HERE}; {_STIFF}",
    "ode78": f"{_HERE}; {_ORDER}",
    "ode89": f"{_HERE}; {_ORDER}",
    "deval": "solve with dense_output=True and call the solution, sol(t)",
    "odeget": "options are attributes, as in snode.odeset(RelTol=1e-6).RelTol",
}
"""MATLAB's functions that are not here, and what is."""


@dataclass(frozen=True, repr=False)
class OdeOptions(Portable):
    """Options of `ode45` and `ode23` under MATLAB's names; made by `odeset`.

    Printed, it shows what is set, and in braces the default of what is not.

    Attributes
    ----------
    AbsTol : float, tuple of float or None
        The keyword ``atol``; None stands for the default, here and below.
    RelTol : float or None
        The keyword ``rtol``.
    InitialStep : float or None
        The keyword ``first_step``.
    MaxStep : float or None
        The keyword ``max_step``.
    Events : Event, callable, tuple of them or None
        The keyword ``events``.
    """

    AbsTol: float | tuple[float, ...] | None = None
    RelTol: float | None = None
    InitialStep: float | None = None
    MaxStep: float | None = None
    Events: Any = None

    def __post_init__(self) -> None:
        for name in KEYWORDS:
            value = getattr(self, name)
            is_unset = value is None or (isinstance(value, list | tuple) and len(value) == 0)
            object.__setattr__(self, name, None if is_unset else _checked(name, value))

    def __repr__(self) -> str:
        lines = ["OdeOptions"]
        for name in KEYWORDS:
            value = getattr(self, name)
            shown = f"[ {VALUES[name]} ]" if value is None else _shown(value)
            lines.append(f"{name:>16}: {shown}")
        return "\n".join(lines)


@own_error_state
def odeset(*arguments: Any, **options: Any) -> OdeOptions:
    """Return options for `ode45` and `ode23`, as MATLAB's function of this name.

    Parameters
    ----------
    *arguments
        At first one or two `OdeOptions` to start from, the second over the first; then, as in
        MATLAB, names and values in turn.
    **options
        ``AbsTol``, ``RelTol``, ``InitialStep``, ``MaxStep``, ``Events``. Capitals do not matter,
        and the beginning of a name will do if only one name begins so. None or ``[]`` is the
        default again.

    Returns
    -------
    OdeOptions

    Raises
    ------
    TypeError
        If a name is unknown or has no counterpart here; the message says what to use instead.
    ValueError
        If a value does not fit.

    Examples
    --------
    >>> import snode
    >>> opts = snode.odeset(RelTol=1e-8, AbsTol=1e-10)
    >>> opts
    OdeOptions
              AbsTol: 1e-10
              RelTol: 1e-08
         InitialStep: [ number {chosen from f} ]
             MaxStep: [ number {inf} ]
              Events: [ function, snode.Event or list of them {none} ]
    >>> snode.odeset(opts, "RelTol", 1e-4).RelTol
    0.0001
    >>> sol = snode.ode45(lambda t, x: -x, [0, 1], [1.0], opts)
    >>> float(sol.x_T[0].round(8))
    0.36787944
    """
    rest = list(arguments)
    made: dict[str, Any] = {}
    while rest and isinstance(rest[0], OdeOptions) and len(arguments) - len(rest) < 2:
        before = rest.pop(0)
        made.update({name: v for name in KEYWORDS if (v := getattr(before, name)) is not None})
    if len(rest) % 2 or not all(isinstance(name, str) for name in rest[::2]):
        raise TypeError(
            "odeset takes options made before, and then names with their values: "
            f"odeset(RelTol=1e-6) or odeset('RelTol', 1e-6); got {arguments!r}"
        )
    pairs = [*zip(rest[::2], rest[1::2], strict=True), *options.items()]
    seen: dict[str, str] = {}
    for given, value in pairs:
        name = _full_name(given)
        if name in seen:
            raise TypeError(f"{name} is given twice, by {seen[name]!r} and {given!r}")
        seen[name] = given
        made[name] = value
    return replace(OdeOptions(), **made)


def _full_name(given: str) -> str:
    """Return the option that `given` stands for; raise TypeError if it is not one of ours."""
    start = given.lower()
    found = [name for name in NAMES if name.lower().startswith(start)] if start else []
    exact = [name for name in found if name.lower() == start]
    if not found:
        raise TypeError(f"odeset knows no option {given!r}; there are {', '.join(KEYWORDS)}")
    if len(found) > 1 and not exact:
        raise TypeError(f"{given!r} may be each of the options {', '.join(found)}")
    (name,) = exact or found
    if name in REFUSED:
        raise TypeError(f"odeset has no option {name} here: {REFUSED[name]}")
    return name


def _checked(name: str, value: Any) -> Any:
    if name == "Events":
        as_events(value)
        return tuple(value) if isinstance(value, list) else value
    values = np.asarray(to_host(value) if is_array(value) else value)
    is_right = values.dtype.kind in "fiu" and values.ndim <= (name == "AbsTol") and values.size > 0
    may_vanish, largest = name.endswith("Tol"), inf if name == "MaxStep" else np.finfo(float).max
    if is_right:
        is_right = bool(((values >= 0) & (values <= largest)).all())
    if not is_right or not (may_vanish or (values > 0).all()):
        kind = "a number or a vector" if name == "AbsTol" else "a number"
        limits = ">= 0" if may_vanish else "> 0"
        finite = "" if name == "MaxStep" else "finite and "
        raise ValueError(f"{name} must be {kind}, {finite}{limits}; got {value!r}")
    return tuple(map(float, values)) if values.ndim else float(values)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return str(getattr(value, "__qualname__", None) or repr(value))


# --- in the solvers -------------------------------------------------------------------------------


def apply_options(options: Any, control: StepControl, events: Any) -> tuple[StepControl, Any]:
    """Return step control and events with those of `options` that are set.

    Raises
    ------
    TypeError
        If `options` are no `OdeOptions`.
    ValueError
        If a keyword says something else; names both.
    """
    if options is None:
        return control, events
    if not isinstance(options, OdeOptions):
        raise TypeError(
            "options must be made by snode.odeset, as in snode.odeset(RelTol=1e-6); got "
            f"{type(options).__name__}"
        )
    taken: dict[str, Any] = {}
    for name, keyword in KEYWORDS.items():
        wanted = getattr(options, name)
        given = events if keyword == "events" else getattr(control, keyword)
        if wanted is None:
            continue
        if given is not DEFAULTS[keyword] and not _is_same(given, wanted):
            raise ValueError(
                f"{keyword}={_shown(given)} contradicts {name}={_shown(wanted)} of the options: "
                "give one of them"
            )
        taken[keyword] = wanted
    events = taken.pop("events", events)
    return replace(control, **taken), events


def _is_same(a: Any, b: Any) -> bool:
    a, b = (tuple(v) if isinstance(v, list) else v for v in (a, b))
    if isinstance(a, tuple) or not is_array(a):
        return bool(a == b)
    return np.shape(a) == np.shape(b) and bool((to_host(a) == np.asarray(b)).all())


def matlab_habits(solver: Callable[P, T]) -> Callable[P, T]:
    """Return `solver`, which then names its own keyword if it is called with one of MATLAB's.

    What a call costs is one look at its arguments, a step costs nothing.
    """
    name = getattr(solver, "__name__", "solver")
    parameters = signature(solver).parameters
    most = sum(p.kind is not p.KEYWORD_ONLY for p in parameters.values())
    by_lower = {n.lower(): n for n in NAMES}

    @wraps(solver)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if len(args) > most:
            raise TypeError(
                f"{name} takes {most} arguments by position, {', '.join(list(parameters)[:most])}; "
                "further arguments of f go into args=(...), all else by name"
            )
        for given in kwargs:
            if given not in parameters and given.lower() in by_lower:
                raise TypeError(_advice(name, by_lower[given.lower()], "options" in parameters))
        return solver(*args, **kwargs)

    return call


def _advice(solver: str, option: str, has_control: bool) -> str:
    if not has_control:
        return f"{solver} steps on the grid t and takes no {option}; snode.ode45 has step control"
    if option in REFUSED:
        return f"{solver} takes no {option}: {REFUSED[option]}"
    return (
        f"{solver} takes no {option}: the keyword is {KEYWORDS[option]}=, or pass "
        f"snode.odeset({option}=...) as the fourth argument"
    )
