"""FunctionField: given derivatives are used as documented, differences only by name, no silence."""

import copy
import itertools

import numpy as np
import pytest
from transposes import pulled

import snode
from snode import FunctionField
from snode.fields.base import Linearization, VectorField

N, M = 3, 4
CENTRAL, FORWARD = "central differences", "forward differences"


def f(t, x, theta):
    """tanh(A x + b) cos(3 t) + c x^3, with all its derivatives below; any array library."""
    return np.tanh(theta["A"] @ x + theta["b"][:, None]) * np.cos(3 * t) + theta["c"] * x**3


def jvp(t, x, theta, dx, dtheta):
    slope = (1 - np.tanh(theta["A"] @ x + theta["b"][:, None]) ** 2) * np.cos(3 * t)
    da = theta["A"] @ dx + dtheta["A"] @ x + dtheta["b"][:, None]
    return slope * da + 3 * theta["c"] * x**2 * dx + dtheta["c"] * x**3


def vjp(t, x, theta, p):
    q = (1 - np.tanh(theta["A"] @ x + theta["b"][:, None]) ** 2) * np.cos(3 * t) * p
    pull = theta["A"].T @ q + 3 * theta["c"] * x**2 * p
    return pull, {"A": q @ x.T, "b": q.sum(axis=1), "c": (x**3 * p).sum().reshape(1)}


def df_dt(t, x, theta):
    return -3 * np.sin(3 * t) * np.tanh(theta["A"] @ x + theta["b"][:, None])


EXACT = {"jvp": jvp, "vjp": vjp, "df_dt": df_dt}


def parameters(dtype="float64"):
    rng = np.random.default_rng(1)
    A, b, c = rng.standard_normal((N, N)), rng.standard_normal(N), np.array([-0.3])
    return {"A": A.astype(dtype), "b": b.astype(dtype), "c": c.astype(dtype)}


def make(dtype="float64", **options):
    return FunctionField(f, N, parameters=parameters(dtype), T=2.0, n_layers=8, **options)


def state(seed=0, dtype="float64"):
    return np.random.default_rng(seed).standard_normal((N, M)).astype(dtype)


def close(actual, expected, rel):
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    return np.abs(actual - expected).max() <= rel * max(np.abs(expected).max(), 1.0)


# --- the contract ---------------------------------------------------------------------------------


def test_contract():
    field = make(**EXACT)
    assert isinstance(field, VectorField)
    value, lin = field.linearize(0.3, state())
    assert isinstance(lin, Linearization)
    assert np.array_equal(value, f(0.3, state(), parameters()))
    assert (field.n, field.T, field.n_layers, field.breakpoints) == (N, 2.0, 8, ())
    assert np.array_equal(field.grid, np.linspace(0, 2, 9))
    assert field.linearization is None


def test_without_parameters_the_function_gets_two_arguments():
    field = FunctionField(lambda t, x: -t * x, 2)
    assert dict(field.parameters) == {}
    assert np.array_equal(field(0.5, np.ones((2, 3))), np.full((2, 3), -0.5))
    assert dict(FunctionField(lambda t, x: -x, 2, parameters={}).parameters) == {}


def test_parameters_are_read_only():
    mine = parameters()
    field = FunctionField(lambda t, x, theta: theta["c"] * x, N, parameters=mine)
    with pytest.raises(TypeError):
        field.parameters["c"] = np.zeros(1)
    with pytest.raises(ValueError, match="read-only"):
        field.parameters["c"][0] = 1.0
    assert np.shares_memory(field.parameters["A"], mine["A"])
    mine["A"][0, 0] += 0.0  # the caller's own array is still writeable
    mine["new"] = np.zeros(1)
    assert set(field.parameters) == {"A", "b", "c"}


@pytest.mark.parametrize("change", ["x", "theta"])
def test_a_function_cannot_change_what_it_is_given(change):
    def rude(t, x, theta):
        target = x if change == "x" else theta["c"]
        target *= 2
        return x

    with pytest.raises(ValueError, match="read-only"):
        FunctionField(rude, N, parameters=parameters())(0.0, state())


def test_a_function_may_reuse_its_array():
    buffer = np.empty((N, M))

    def reuse(t, x):
        buffer[:] = np.sin(x)
        return buffer

    field = FunctionField(reuse, N, linearization=CENTRAL)
    x, dx = state(), state(1)
    value, lin = field.linearize(0.0, x)
    assert close(lin.jvp(dx), np.cos(x) * dx, 1e-8)
    assert np.array_equal(value, np.sin(x))


def test_with_parameters():
    field = make(**EXACT, breakpoints=[0.7])
    c = np.array([2.0])
    other = field.with_parameters(c=c)
    assert np.array_equal(other.parameters["c"], c)
    assert np.array_equal(field.parameters["c"], [-0.3])
    assert np.array_equal(other(0.1, state()), f(0.1, state(), parameters() | {"c": c}))
    assert (other.T, other.n_layers, other.breakpoints) == (2.0, 8, (0.7,))
    assert not other.parameters["c"].flags.writeable
    assert np.array_equal(
        other.linearize(0.1, state())[1].vjp(state(1)),
        vjp(0.1, state(), parameters() | {"c": c}, state(1))[0],
    )
    named_self = FunctionField(lambda t, x, th: th["self"] * x, 1, parameters={"self": np.ones(1)})
    assert named_self.with_parameters(self=np.zeros(1))(0.0, np.ones((1, 1))) == 0


def test_deepcopy_has_its_own_arrays():
    field = make(**EXACT)
    other = copy.deepcopy(field)
    assert not np.shares_memory(other.parameters["A"], field.parameters["A"])
    assert np.array_equal(other(0.1, state()), field(0.1, state()))


def test_repr():
    assert repr(make(jvp=jvp)) == (
        "FunctionField(f, n=3, T=2, n_layers=8, parameters=['A', 'b', 'c'], jvp='given', "
        "vjp='missing')"
    )
    assert "vjp='central differences'" in repr(make(linearization=CENTRAL))

    class Callable:
        def __call__(self, t, x):
            return x

    assert "FunctionField(Callable, n=1" in repr(FunctionField(Callable(), 1))


def test_grid_is_cut_at_breakpoints():
    field = make(breakpoints=(0.3, 0.5 + 1e-14, 1.9))
    assert len(field.grid) == 8 + 2 + 1  # 0.5 is a node already
    assert set(field.breakpoints) <= set(field.grid)
    assert (np.diff(field.grid) > 1e-3).all()
    snode.solve_direct(field, 0.1 * state())  # lands on all of them


# --- given derivatives ----------------------------------------------------------------------------


def recorded(function, calls):
    def wrapped(*args):
        calls.append(args)
        return function(*args)

    return wrapped


def test_given_derivatives_are_called_as_documented():
    calls = []
    field = make(**{name: recorded(g, calls) for name, g in EXACT.items()}, linearization=CENTRAL)
    x, dx, p = state(), state(1), state(2)
    lin = field.linearize(0.3, x)[1]
    dc = np.array([0.7])
    zeros = {name: np.zeros_like(array) for name, array in parameters().items()}

    assert np.array_equal(
        lin.jvp(dx, {"c": dc}), jvp(0.3, x, field.parameters, dx, zeros | {"c": dc})
    )
    t, x_, theta, dx_, dtheta = calls.pop()
    assert (t, type(t)) == (0.3, float)
    assert np.array_equal(x_, x)
    assert theta is field.parameters
    assert dx_ is dx
    assert list(dtheta) == ["A", "b", "c"]
    assert dtheta["c"] is dc
    assert not dtheta["A"].any()

    assert np.array_equal(lin.jvp(dx), jvp(0.3, x, field.parameters, dx, zeros))
    assert set(calls.pop()[-1]) == {"A", "b", "c"}
    lin.jvp(None, {"c": dc})
    assert np.array_equal(calls.pop()[-2], np.zeros((N, M)))

    pull, partials = pulled(field, lin, p)
    expected = vjp(0.3, x, field.parameters, p)
    assert np.array_equal(pull, expected[0])
    assert all(np.array_equal(partials[k], expected[1][k]) for k in expected[1])
    t, x_, theta, p_ = calls.pop()
    assert t == 0.3
    assert np.array_equal(x_, x)
    assert theta is field.parameters
    assert p_ is p

    assert np.array_equal(lin.time_derivative(), df_dt(0.3, x, field.parameters))
    assert len(calls.pop()) == 3
    assert not calls  # every derivative was found by one call


def test_given_derivatives_without_parameters():
    calls = []
    field = FunctionField(
        lambda t, x: t * np.sin(x), 2,
        jvp=recorded(lambda t, x, dx: t * np.cos(x) * dx, calls),
        vjp=recorded(lambda t, x, p: t * np.cos(x) * p, calls),
        df_dt=recorded(lambda t, x: np.sin(x), calls),
    )  # fmt: skip
    x = state()[:2]
    lin = field.linearize(0.3, x)[1]
    assert np.array_equal(lin.jvp(x), 0.3 * np.cos(x) * x)
    assert np.array_equal(lin.jvp(None), np.zeros_like(x))
    pull, partials = pulled(field, lin, x)
    assert np.array_equal(pull, 0.3 * np.cos(x) * x)
    assert partials == {}
    assert np.array_equal(lin.time_derivative(), np.sin(x))
    assert [len(args) for args in calls] == [3, 3, 3, 2]


@pytest.mark.parametrize("options", [EXACT, {"linearization": CENTRAL}], ids=["exact", "central"])
def test_vjp_adds_in_place_with_weight(options):
    field, p = make(**options), state(1)
    lin = field.linearize(0.3, state())[1]
    pull, partials = pulled(field, lin, p)
    into = {name: np.ones_like(array) for name, array in parameters().items()}
    arrays = dict(into)
    assert np.array_equal(lin.vjp(p, snode.Partials(into, weight=0.25)), pull)
    for name in into:
        assert into[name] is arrays[name]
        assert np.allclose(into[name], 1 + 0.25 * partials[name], rtol=1e-14)


# --- finite differences ---------------------------------------------------------------------------

TOLERANCE = {CENTRAL: 1e-8, FORWARD: 1e-6}


@pytest.mark.parametrize("kind", TOLERANCE)
@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0])
def test_differences_agree_with_the_derivatives(kind, size):
    tolerance = TOLERANCE[kind]
    exact, approximate = make(**EXACT), make(linearization=kind)
    x, dx, p = size * state(), state(1), state(2)
    mine, theirs = (field.linearize(0.3, x)[1] for field in (approximate, exact))
    scale, cube = max(1.0, size**2), max(1.0, size**3)  # x^3 and its slope
    assert close(mine.jvp(dx) / scale, theirs.jvp(dx) / scale, tolerance)
    for name, array in parameters().items():
        d = {name: np.random.default_rng(5).standard_normal(array.shape)}
        for change in (None, dx):
            found, expected = mine.jvp(change, d), theirs.jvp(change, d)
            assert close(found / cube, expected / cube, tolerance)
    pull, partials = pulled(approximate, mine, p)
    their_pull, their_partials = pulled(exact, theirs, p)
    assert close(pull / scale, their_pull / scale, tolerance)
    for name in partials:
        assert close(partials[name] / cube, their_partials[name] / cube, tolerance)
    found, expected = mine.time_derivative(), theirs.time_derivative()
    assert close(found / cube, expected / cube, tolerance)


@pytest.mark.parametrize(("kind", "each"), [(CENTRAL, 2), (FORWARD, 1)])
def test_evaluations_are_as_many_as_documented(kind, each):
    calls = []
    field = FunctionField(recorded(f, calls), N, parameters=parameters(), linearization=kind)
    lin = field.linearize(0.3, state())[1]

    def count(action):
        calls.clear()
        action()
        return len(calls)

    assert count(lambda: field(0.3, state())) == 1
    assert count(lambda: field.linearize(0.3, state())) == 1
    assert count(lambda: lin.jvp(state(1))) == each
    assert count(lambda: lin.jvp(None)) == 0
    assert count(lambda: lin.jvp(state(1), {"A": np.ones((N, N)), "c": np.ones(1)})) == 3 * each
    assert count(lambda: pulled(field, lin, state(1))) == each * (N + N * N + N + 1)
    assert count(lambda: lin.vjp(state(1))) == each * N
    assert count(lambda: lin.vjp(np.ones((2, 3, N, M)))) == 6 * each * N
    assert count(lin.time_derivative) == each


def test_differences_only_for_what_is_missing():
    lin = make(jvp=jvp, linearization=CENTRAL).linearize(0.3, state())[1]
    theta = make().parameters
    zeros = {name: np.zeros_like(array) for name, array in theta.items()}
    exact = jvp(0.3, state(), theta, state(1), zeros)
    assert np.array_equal(lin.jvp(state(1)), exact)
    pull = lin.vjp(state(1))
    their_pull = vjp(0.3, state(), theta, state(1))[0]
    assert close(pull, their_pull, 1e-8)
    assert not np.array_equal(pull, their_pull)


@pytest.mark.parametrize("size", [1e-300, 1e-30, 1e-3, 1.0, 1e30, 1e200])
@pytest.mark.parametrize("length", [1e-320, 1e-200, 1.0, 1e100])
@pytest.mark.parametrize("kind", TOLERANCE)
def test_sizes_from_tiny_to_huge(kind, size, length):
    A = state()[:, :N]
    lin = FunctionField(lambda t, x: A @ x, N, linearization=kind).linearize(
        0.0, size * state(1)
    )[1]  # fmt: skip
    d = length * np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])[:, [0, 1, 0, 1]]
    tolerance = TOLERANCE[kind] if length > 1e-300 else 1e-2  # a subnormal has few digits
    assert np.abs(lin.jvp(d) / length - (A @ d) / length).max() <= tolerance
    assert np.abs(lin.vjp(state(2)) - A.T @ state(2)).max() <= TOLERANCE[kind]


@pytest.mark.parametrize("kind", TOLERANCE)
def test_zero_direction_gives_exactly_zero(kind):
    field = make(linearization=kind)
    lin = field.linearize(0.3, state())[1]
    zeros = {name: np.zeros_like(array) for name, array in parameters().items()}
    assert not lin.jvp(np.zeros((N, M)), zeros).any()
    assert not lin.jvp(None).any()
    one = np.zeros((N, M))
    one[:, 1] = 1.0
    assert not lin.jvp(one)[:, [0, 2, 3]].any()
    assert not pulled(field, lin, np.zeros((N, M)))[1]["A"].any()


def test_a_step_is_small_for_every_component():
    """exp overflows if the small component moves by a fraction of the large one."""
    field = FunctionField(lambda t, x: np.exp(x), 2, linearization=CENTRAL)
    x = np.array([[0.1], [1e-3]])
    big = FunctionField(
        lambda t, x: np.stack([x[0], np.exp(x[1])]), 2, linearization=CENTRAL
    ).linearize(0.0, np.array([[1e4], [0.1]]))[1]  # fmt: skip
    assert np.allclose(field.linearize(0.0, x)[1].jvp(x), np.exp(x) * x, rtol=1e-8)
    assert np.allclose(big.jvp(np.ones((2, 1))), [[1], [np.exp(0.1)]], rtol=1e-6)
    assert np.allclose(big.vjp(np.ones((2, 1))), [[1], [np.exp(0.1)]], rtol=1e-8)


def test_samples_do_not_share_a_step():
    """A column has the same derivative alone and beside a huge one."""
    field = FunctionField(lambda t, x: np.sin(x), 2, linearization=CENTRAL)
    x = np.array([[0.3, 1e9], [0.5, 1e9]])
    dx = np.array([[1.0, 1e12], [0.2, 1e-5]])
    both, alone = (field.linearize(0.0, x[:, :k])[1] for k in (2, 1))
    assert np.array_equal(both.jvp(dx)[:, :1], alone.jvp(dx[:, :1]))
    assert np.array_equal(both.vjp(dx)[:, :1], alone.vjp(dx[:, :1]))


# --- nothing is silent ----------------------------------------------------------------------------

MISSING = {
    "jvp": lambda lin: lin.jvp(state(1)),
    "vjp": lambda lin: lin.vjp(state(1)),
    "df_dt": lambda lin: lin.time_derivative(),
}


@pytest.mark.parametrize("missing", MISSING)
def test_a_missing_derivative_is_an_error_that_says_what_to_pass(missing):
    given = {name: g for name, g in EXACT.items() if name != missing}
    lin = make(**given).linearize(0.3, state())[1]
    with pytest.raises(ValueError, match=f"no {missing} was given: pass {missing}=... or linear"):
        MISSING[missing](lin)
    for name in given:
        MISSING[name](lin)
    lin = make(**given, linearization=FORWARD).linearize(0.3, state())[1]
    MISSING[missing](lin)


def test_check_does_not_hide_a_missing_derivative():
    with pytest.raises(ValueError, match="no vjp was given"):
        snode.check(make(jvp=jvp), verbose=False)
    sol = snode.solve_direct(make(), 0.1 * state())
    with pytest.raises(ValueError, match="no jvp was given"):
        snode.solve_sensitivity(sol, dx0=state())
    with pytest.raises(ValueError, match="no vjp was given"):
        snode.solve_adjoint(sol, state())


CONSTRUCTION = {
    "f": (TypeError, "f must be a function", {"f": 3}),
    "jvp": (TypeError, "jvp must be a function", {"jvp": "central differences"}),
    "vjp": (TypeError, "vjp must be a function", {"vjp": 1}),
    "df_dt": (TypeError, "df_dt must be a function", {"df_dt": 0.0}),
    "linearization": (ValueError, "linearization must be None, 'central", {"linearization": "fd"}),
    "n zero": (ValueError, "n must be a positive integer", {"n": 0}),
    "n float": (ValueError, "n must be a positive integer", {"n": 2.0}),
    "n_layers": (ValueError, "n_layers must be a positive integer", {"n_layers": True}),
    "T": (ValueError, "T must be a positive", {"T": 0.0}),
    "T nan": (ValueError, "T must be a positive", {"T": float("nan")}),
    "breakpoint 0": (ValueError, "breakpoints must be increasing", {"breakpoints": [0.0]}),
    "breakpoint T": (ValueError, "breakpoints must be increasing", {"breakpoints": [0.5, 1.0]}),
    "breakpoint order": (ValueError, "breakpoints must be incr", {"breakpoints": [0.5, 0.2]}),
    "breakpoint twice": (ValueError, "breakpoints must be incr", {"breakpoints": [0.5, 0.5]}),
    "breakpoint nan": (ValueError, "breakpoints must be incr", {"breakpoints": [np.nan]}),
    "list": (TypeError, "parameters must be a mapping", {"parameters": [np.ones(2)]}),
    "number": (TypeError, r"parameters\['k'\] must be a NumPy", {"parameters": {"k": 1.0}}),
    "0-d": (ValueError, r"np.array\(\[k\]\)", {"parameters": {"k": np.array(1.0)}}),
    "empty": (ValueError, "one entry", {"parameters": {"k": np.ones((0, 2))}}),
    "integer": (ValueError, "float32 or float64; got int64", {"parameters": {"k": np.arange(3)}}),
    "nan": (
        ValueError,
        r"parameters\['k'\] must be finite",
        {"parameters": {"k": np.array([np.nan])}},
    ),
    "name": (TypeError, "names of type str", {"parameters": {1: np.ones(2)}}),
    "two dtypes": (
        ValueError,
        "must have one dtype; 'k' is float64 and 'l' is float32",
        {"parameters": {"k": np.ones(2), "l": np.ones(2, "float32")}},
    ),
}


@pytest.mark.parametrize("name", CONSTRUCTION)
def test_construction_errors_name_the_argument(name):
    error, message, options = CONSTRUCTION[name]
    arguments = {"f": lambda t, x: x, "n": 2} | options
    with pytest.raises(error, match=message):
        FunctionField(**arguments)


def test_unknown_option_is_refused():
    with pytest.raises(TypeError, match="linearisation"):
        FunctionField(f, 2, linearisation=CENTRAL)


STATES = {
    "orientation": (ValueError, r"shape \(3, m\).*did you mean x.T", np.ones((4, 3))),
    "vector": (ValueError, r"shape \(3, m\), one column per sample", np.ones(3)),
    "dtype": (ValueError, r"x is float32 but parameters\['A'\] is float64", np.ones((3, 1), "f4")),
    "integers": (ValueError, "float32 or float64; got int64", np.ones((3, 1), int)),
    "list": (TypeError, "x must be an array", [[1.0], [1.0], [1.0]]),
}


@pytest.mark.parametrize("name", STATES)
def test_wrong_states(name):
    error, message, x = STATES[name]
    for action in (make(), make().linearize):
        with pytest.raises(error, match=message):
            action(0.0, x)


RESULTS = {
    "vector": (
        ValueError,
        r"{} must return an array of shape \(3, 4\).*; got \(4,\)",
        lambda: np.ones(4),
    ),
    "scalar": (TypeError, r"{} must return an array of shape \(3, 4\); got float", lambda: 1.0),
    "list": (
        TypeError,
        r"{} must return an array of shape \(3, 4\); got list",
        lambda: [[0.0] * 4] * 3,
    ),
    "nothing": (TypeError, "{} must return an array .*; got NoneType", lambda: None),
    "integers": (ValueError, "{} must return float64 .*; got int64", lambda: np.ones((3, 4), int)),
    "float32": (
        ValueError,
        "{} must return float64 .*; got float32",
        lambda: np.ones((3, 4), "f4"),
    ),
    "complex": (
        ValueError,
        "{} must return float64 .*; got complex",
        lambda: np.ones((3, 4), complex),
    ),
}


@pytest.mark.parametrize("function", ["f", *MISSING])
@pytest.mark.parametrize("name", RESULTS)
def test_wrong_results_name_the_function(name, function):
    error, message, result = RESULTS[name]
    functions = {"f": lambda t, x: x} | {function: lambda *args: result()}
    field = FunctionField(functions.pop("f"), N, **functions)
    with pytest.raises(error, match=message.format(function)):
        MISSING.get(function, id)(field.linearize(0.0, state())[1])


PARTS = {
    "array only": (TypeError, "vjp must return the pair", lambda p, th: p),
    "a sequence": (TypeError, "vjp must return the pair", lambda p, th: (p, [th["A"]])),
    "missing": (
        ValueError,
        "vjp must return the parameters A, b, c; got A",
        lambda p, th: (p, {"A": th["A"]}),
    ),
    "unknown": (ValueError, "vjp must return the parameters", lambda p, th: (p, {**th, "d": p})),
    "not summed": (
        ValueError,
        r"vjp: b must return an array of shape \(3,\)",
        lambda p, th: (p, {**th, "b": p}),
    ),
    "pull": (
        ValueError,
        r"vjp must return an array of shape \(3, 4\)",
        lambda p, th: (p[0], dict(th)),
    ),
}


@pytest.mark.parametrize("name", PARTS)
def test_wrong_parts_of_vjp(name):
    error, message, result = PARTS[name]
    lin = make(vjp=lambda t, x, theta, p: result(p, theta)).linearize(0.0, state())[1]
    with pytest.raises(error, match=message):
        lin.vjp(state())


@pytest.mark.parametrize("options", [EXACT, {"linearization": CENTRAL}], ids=["exact", "central"])
def test_wrong_directions(options):
    lin = make(**options).linearize(0.0, state())[1]
    with pytest.raises(ValueError, match=r"dx must be float64 of shape \(3, 4\)"):
        lin.jvp(np.ones((3, 1)))
    with pytest.raises(ValueError, match="unknown parameter 'B'; known: A, b, c"):
        lin.jvp(None, {"B": np.ones((3, 3))})
    with pytest.raises(ValueError, match=r"dtheta\['b'\] must be float64 of shape \(3,\)"):
        lin.jvp(None, {"b": np.ones((3, 1))})
    with pytest.raises(ValueError, match="p must be float64"):
        lin.vjp(state(dtype="float32"))
    with pytest.raises(TypeError, match="p must be an array"):
        lin.vjp(1.0)


def test_with_parameters_errors():
    field = make()
    with pytest.raises(ValueError, match=r"unknown parameter \['d'\]; this field has A, b, c"):
        field.with_parameters(d=np.ones(1))
    with pytest.raises(ValueError, match="has no parameters"):
        FunctionField(lambda t, x: x, 1).with_parameters(d=np.ones(1))
    with pytest.raises(ValueError, match=r"b must have shape \(3,\)"):
        field.with_parameters(b=np.ones((3, 1)))
    with pytest.raises(ValueError, match="one dtype"):
        field.with_parameters(b=np.ones(3, "float32"))
    with pytest.raises(TypeError, match="NumPy or CuPy array"):
        field.with_parameters(b=[1.0, 1.0, 1.0])


# --- the derivative in t --------------------------------------------------------------------------

T = 2.0
BREAKS = (0.3, 1.0, 1.0 + 1e-8, 1.7)
EDGES = (0.0, *BREAKS, T)


def depths():
    """Ends and breakpoints, and depths very near to them and between them."""
    for a, b in itertools.pairwise(EDGES):
        yield a, (a, b)
        for s in (1e-15, 1e-9, 1e-6, 0.25, 0.5, 0.99):
            yield a + s * (b - a), (a, b)
        yield b - 1e-7 * (b - a), (a, b)
    yield T, (BREAKS[-1], T)


@pytest.mark.parametrize("kind", TOLERANCE)
@pytest.mark.parametrize(("t", "piece"), list(depths()))
def test_time_differences_stay_in_their_piece(t, piece, kind):
    start, end = piece

    def guarded(s, x):
        assert start <= s, "left of the piece"
        assert s < end or s == end == T, "right of the piece"
        return np.sin(3 * s) * x + start

    x = state()
    field = FunctionField(guarded, N, T=T, breakpoints=BREAKS, linearization=kind)
    found = field.linearize(t, x)[1].time_derivative()
    # in the piece of width 1e-8 the step is at most 2.5e-9, and rounding 1e-7
    tolerance = 1e-5 if end - start < 1e-7 else 1e-6 if kind == FORWARD else 1e-8
    assert np.abs(found - 3 * np.cos(3 * t) * x).max() <= tolerance


def test_a_time_difference_does_not_touch_the_breakpoint_to_its_right():
    step = 2.0**-17  # that of central differences, so that t + h is the breakpoint exactly
    field = FunctionField(
        lambda t, x: np.where(t < 0.5 + step, t, 5.0) * x, N,
        T=2.0, breakpoints=[0.5 + step], linearization=CENTRAL,
    )  # fmt: skip
    for t in (0.5, 0.5 - step, 0.5 + step / 2):
        assert np.abs(field.linearize(t, state())[1].time_derivative() - state()).max() <= 1e-8


def test_time_derivative_outside_the_interval():
    lin = FunctionField(lambda t, x: t * x, N, linearization=CENTRAL).linearize(1.5, state())[1]
    with pytest.raises(ValueError, match=r"t must be in \[0, 1\]"):
        lin.time_derivative()


@pytest.mark.parametrize("length", [1e-6, 1.0, 1e3])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_time_derivative_on_short_and_long_intervals(length, share):
    field = FunctionField(
        lambda t, x: np.cos(2 * t / min(length, 1.0)) * x, N, T=length, linearization=CENTRAL
    )
    t, unit = share * length, min(length, 1.0)
    found = field.linearize(t, state())[1].time_derivative() * unit
    exact = -2 * np.sin(2 * t / unit) * state()
    assert np.abs(found - exact).max() <= 1e-8 * max(1.0, length / 10)


def test_an_autonomous_field_has_no_time_derivative():
    lin = FunctionField(lambda t, x: np.sin(x), N, linearization=CENTRAL).linearize(0.5, state())[1]
    assert not lin.time_derivative().any()


# --- the three problems ---------------------------------------------------------------------------


def test_check_passes_with_exact_derivatives():
    report = snode.check(make(**EXACT), verbose=False)
    assert report.passed, str(report)
    assert snode.check(make("float32", **EXACT), verbose=False).passed


@pytest.mark.parametrize(("kind", "error"), [(CENTRAL, 1e-8), (FORWARD, 1e-5)])
@pytest.mark.parametrize("rng", range(5))
def test_check_passes_with_differences_when_told_their_error(kind, error, rng):
    report = snode.check(make(linearization=kind), derivative_error=error, rng=rng, verbose=False)
    assert report.passed, str(report)


def test_check_sees_that_forward_differences_are_not_exact():
    report = snode.check(make(linearization=FORWARD), verbose=False)
    assert not report.passed


@pytest.mark.parametrize("wrong", ["jvp", "vjp"])
def test_check_finds_a_wrong_derivative_beside_differences(wrong):
    if wrong == "jvp":
        options = {"jvp": lambda *args: 1.001 * jvp(*args)}
    else:
        options = {"vjp": lambda *args: (1.001 * vjp(*args)[0], vjp(*args)[1])}
    field = make(**options, linearization=CENTRAL)
    assert not snode.check(field, derivative_error=1e-8, verbose=False).passed


def test_check_without_parameters():
    field = FunctionField(lambda t, x: np.cos(t) * np.sin(x), 2, linearization=CENTRAL, n_layers=5)
    assert snode.check(field, derivative_error=1e-8, verbose=False).passed


def test_three_problems_agree_with_a_standalone_field():
    """The paper's field, once as it is and once as a plain function."""
    W, b = 0.7 * state(8)[:, :N], state(9)[:, 0]
    layer = snode.StandaloneField(
        np.repeat(W[None], 5, axis=0), np.repeat(b[None], 5, axis=0), 1.0, activation="tanh"
    )
    x0, dx0, lam_T = state(), state(1), state(2)
    expected = snode.solve_direct(layer, x0)
    lam = snode.solve_adjoint(expected, lam_T)
    xi = snode.solve_sensitivity(expected, dx0=dx0)
    field = FunctionField(
        lambda t, x, theta: np.tanh(theta["W"] @ x + theta["b"][:, None]), N,
        parameters={"W": W, "b": b}, linearization=CENTRAL, n_layers=5,
    )  # fmt: skip
    for keep in ("all", "trajectory"):
        sol = snode.solve_direct(field, x0, keep=keep)
        assert np.allclose(sol.x, expected.x, rtol=1e-14)
        assert np.allclose(snode.solve_sensitivity(sol, dx0=dx0), xi, rtol=1e-8, atol=1e-9)
        adjoint = snode.solve_adjoint(sol, lam_T)
        assert np.allclose(adjoint.lam, lam.lam, rtol=1e-8, atol=1e-9)
        for name in ("W", "b"):  # constant in depth: the sum over the layers
            total = lam.partials[name].sum(axis=0)
            assert np.allclose(adjoint.partials[name], total, rtol=1e-8, atol=1e-9)


def test_it_can_be_trained():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (2, 30))
    y = (x[0] > 0).astype(int)

    def linear(t, x, theta):
        return theta["A"] @ x

    field = FunctionField(
        linear, 2, parameters={"A": np.zeros((2, 2))}, linearization=CENTRAL, n_layers=5
    )
    result = snode.ncg(field, x, y, snode.Cost(n_classes=2), n_iter=5)
    assert result.history.cost[-1] < 0.95 * result.history.cost[0]


# --- dtype and device -----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [EXACT, {"linearization": CENTRAL}, {"linearization": FORWARD}])
def test_float32_stays_float32(options):
    field = make("float32", **options)
    x, p = state(dtype="float32"), state(1, dtype="float32")
    value, lin = field.linearize(0.3, x)  # cos(3 t) inside f is a float64 number
    _, exact = make(**EXACT).linearize(0.3, x.astype("float64"))
    pull, partials = pulled(field, lin, p)
    d = {"b": np.ones(N, "float32")}
    assert value.dtype == field(0.3, x).dtype == np.float32
    found = [lin.jvp(p, d), lin.jvp(p), lin.time_derivative(), pull, *partials.values()]
    p64 = p.astype("float64")
    expected_pull, expected_partials = pulled(make(**EXACT), exact, p64)
    expected = [exact.jvp(p64, {"b": np.ones(N)}), exact.jvp(p64), exact.time_derivative(),
                expected_pull, *expected_partials.values()]  # fmt: skip
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == np.float32
        assert np.abs(mine - theirs).max() <= 5e-3 * np.abs(theirs).max()
    sol = snode.solve_direct(field, 0.1 * x)
    assert snode.solve_sensitivity(sol, dx0=p).dtype == np.float32
    assert snode.solve_adjoint(sol, p).partials["A"].dtype == np.float32


@pytest.mark.parametrize("options", [EXACT, {"linearization": CENTRAL}, {"linearization": FORWARD}])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_device(cp, options, dtype):
    host = make(dtype, **options)
    theta = {name: cp.asarray(array) for name, array in parameters(dtype).items()}
    device = FunctionField(f, N, parameters=theta, T=2.0, n_layers=8, **options)
    x, p = 0.1 * state(dtype=dtype), state(1, dtype=dtype)
    d = {"A": np.ones((N, N), dtype)}
    tolerance = 2e-2 if dtype == "float32" else 1e-6

    def same(mine, theirs):
        assert isinstance(mine, cp.ndarray)
        assert close(cp.asnumpy(mine), theirs, tolerance)

    def moved(mapping):
        return {name: cp.asarray(array) for name, array in mapping.items()}

    mine, theirs = (field.linearize(0.3, y)[1] for field, y in ((device, cp.asarray(x)), (host, x)))
    same(device(0.3, cp.asarray(x)), host(0.3, x))
    same(mine.jvp(cp.asarray(p), moved(d)), theirs.jvp(p, d))
    same(mine.time_derivative(), theirs.time_derivative())
    same(mine.vjp(cp.asarray(p)), theirs.vjp(p))
    sols = snode.solve_direct(device, cp.asarray(x)), snode.solve_direct(host, x)
    same(sols[0].x, sols[1].x)
    xi = snode.solve_sensitivity(sols[0], dx0=cp.asarray(p), dtheta=moved(d))
    same(xi, snode.solve_sensitivity(sols[1], dx0=p, dtheta=d))
    adjoints = snode.solve_adjoint(sols[0], cp.asarray(p)), snode.solve_adjoint(sols[1], p)
    for name in theta:
        same(adjoints[0].partials[name], adjoints[1].partials[name])


def test_host_and_device_do_not_mix(cp):
    theta = parameters() | {"c": cp.asarray(np.ones(1))}
    with pytest.raises(TypeError, match="mixed"):
        FunctionField(f, N, parameters=theta)
    with pytest.raises(TypeError, match="mixed"):
        make()(0.0, cp.asarray(state()))
    to_host = FunctionField(lambda t, x: np.ones((N, M)), N)
    with pytest.raises(TypeError, match="mixed"):
        to_host(0.0, cp.asarray(state()))
