"""MLPField: values, derivatives in x, theta and t, immutability, errors, first weights."""

import copy

import numpy as np
import pytest
from transposes import pulled

import snode
from snode import MLPField
from snode.fields.base import Linearization, VectorField

pytestmark = pytest.mark.grid(3)

EPS = np.finfo(np.float64).eps
WIDTHS = (3, 5, 4, 3)
DEPTHS = (0.0, 0.31, 1.5)
SMOOTH = ("tanh", "sigmoid", "softplus", "identity")


def make(widths=WIDTHS, *, seed=0, dtype="float64", **options):
    """A field with large weights and biases that are not zero."""
    field = MLPField(widths, T=1.5, n_layers=6, scale=1.5, rng=seed, dtype=dtype, **options)
    rng = np.random.default_rng([1, seed])
    biases = {
        name: (0.5 * rng.standard_normal(p.shape)).astype(dtype)
        for name, p in field.parameters.items()
        if name.startswith("b")
    }
    return field.with_parameters(**biases)


@pytest.fixture(params=["none", "concat"])
def time(request):
    return request.param


@pytest.fixture(params=["identity", "tanh", "sigmoid"])
def field(request, time):
    return make(time=time, output_activation=request.param)


def transcription(field, t, x):
    """The formula, sample by sample, with [x; t] as one vector."""
    columns = []
    k = len(field.widths) - 1
    for h in x.T:
        for i in range(1, k + 1):
            if i == 1 and field.time == "concat":
                h = np.append(h, t)
            a = field.parameters[f"W{i}"] @ h + field.parameters[f"b{i}"]
            h = (field.output_activation if i == k else field.activation)(a)
        columns.append(h)
    return np.stack(columns, axis=1)


def states(m=4, seed=0, n=3):
    return np.random.default_rng(seed).standard_normal((n, m))


# --- values and derivatives -----------------------------------------------------------------------


@pytest.mark.parametrize("widths", [(3, 3), (3, 1, 3), (3, 7, 3), WIDTHS])
@pytest.mark.parametrize("output", ["identity", "sigmoid"])
def test_value_is_the_formula(widths, time, output):
    field = make(widths, time=time, output_activation=output, activation="softplus")
    x = states(6)
    for t in DEPTHS:
        assert field(t, x) == pytest.approx(transcription(field, t, x), abs=500 * EPS)


def test_every_activation(activation, time):
    field = make(activation=activation, output_activation=activation, time=time)
    x = states()
    assert field(0.4, x) == pytest.approx(transcription(field, 0.4, x), rel=1e-13, abs=500 * EPS)


def test_only_concat_depends_on_the_depth(field):
    x = states()
    assert np.array_equal(field(0.2, x), field(0.9, x)) == (field.time == "none")


def test_follows_the_contract(field):
    assert isinstance(field, VectorField)
    assert isinstance(field.linearize(0.1, states())[1], Linearization)
    assert list(field.parameters) == ["W1", "b1", "W2", "b2", "W3", "b3"]
    assert field.parameters["W1"].shape == (5, 3 + (field.time == "concat"))
    assert not hasattr(field, "depth_basis")
    assert field.breakpoints == ()
    assert field.grid == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1.25, 1.5], abs=1e-15)


def test_linearize_gives_the_same_value(field):
    for t in DEPTHS:
        assert np.array_equal(field.linearize(t, states())[0], field(t, states()))


@pytest.mark.parametrize("name", ["x", "W1", "b1", "W2", "b2", "W3", "b3"])
def test_jvp_is_the_derivative(field, moved, random_like, name):
    x, t, h = states(), 0.31, 1e-5
    dx = states(seed=1) if name == "x" else np.zeros_like(x)
    d = {k: v for k, v in random_like(field.parameters).items() if k == name}
    jvp = field.linearize(t, x)[1].jvp(dx if name == "x" else None, d)
    plus, minus = (moved(field, d, e)(t, x + e * dx) for e in (h, -h))
    # truncation h^2/6 times a third derivative up to 100, rounding eps / h
    assert np.abs((plus - minus) / (2 * h) - jvp).max() <= 1e-8
    assert np.abs(jvp).max() > 0.1


def test_jvp_parts_add_up(field, random_like):
    x, dx = states(), states(seed=1)
    d = random_like(field.parameters)
    lin = field.linearize(0.4, x)[1]
    parts = lin.jvp(dx) + sum(lin.jvp(None, {name: v}) for name, v in d.items())
    assert lin.jvp(dx, d) == pytest.approx(parts, abs=500 * EPS)
    for nothing in (None, {}):
        assert np.array_equal(lin.jvp(None, nothing), np.zeros((3, 4)))


@pytest.mark.parametrize("name", ["x", "W1", "b1", "W2", "b2", "W3", "b3"])
def test_vjp_is_the_transpose(field, random_like, name):
    x, p, dx = states(7), states(7, seed=1), states(7, seed=2)
    d = random_like(field.parameters)
    for t in DEPTHS:
        lin = field.linearize(t, x)[1]
        pull, partials = pulled(field, lin, p)
        assert {k: v.shape for k, v in partials.items()} == {k: v.shape for k, v in d.items()}
        forward = lin.jvp(dx) if name == "x" else lin.jvp(None, {name: d[name]})
        back = np.sum(dx * pull) if name == "x" else np.sum(d[name] * partials[name])
        size = np.linalg.norm(forward) * np.linalg.norm(p)
        assert abs(np.sum(forward * p) - back) <= 1e-13 * size


def test_vjp_adds_weighted_into_given_arrays(field, random_like):
    lin = field.linearize(0.31, states())[1]
    p = states(seed=1)
    pull, fresh = pulled(field, lin, p)
    start = random_like(field.parameters)
    into = {k: v.copy() for k, v in start.items()}
    arrays = dict(into)
    assert np.array_equal(lin.vjp(p, snode.Partials(into, weight=0.25)), pull)
    for k in start:
        assert into[k] is arrays[k]
        assert into[k] == pytest.approx(start[k] + 0.25 * fresh[k], abs=100 * EPS)


def test_linearization_is_linear_and_may_be_used_twice(field):
    x, p = states(), states(seed=1)
    kept = p.copy()
    lin = field.linearize(0.31, x)[1]
    assert np.array_equal(lin.jvp(p), lin.jvp(p))
    assert np.array_equal(lin.vjp(p), lin.vjp(p))
    assert np.array_equal(p, kept)


def test_time_derivative(field):
    x, t, h = states(), 0.4, 1e-5
    f_t = field.linearize(t, x)[1].time_derivative()
    assert f_t.shape == x.shape
    assert np.abs((field(t + h, x) - field(t - h, x)) / (2 * h) - f_t).max() <= 1e-8
    assert bool(np.abs(f_t).max() > 0.1) == (field.time == "concat")


@pytest.mark.parametrize("activation", SMOOTH)
@pytest.mark.parametrize("output", ["identity", "tanh", "softplus"])
def test_check_passes(activation, output, time):
    report = snode.check(
        make((2, 4, 2), activation=activation, output_activation=output, time=time), verbose=False
    )
    assert report.passed, str(report)


def test_check_passes_with_kinks(time):
    report = snode.check(make(activation="relu", time=time), verbose=False)
    assert report.passed, str(report)


# --- float32 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", snode.activation_names())
def test_float32_stays_float32(activation, time, random_like):
    field = make(activation=activation, output_activation=activation, time=time, dtype="float32")
    assert field.dtype == np.float32
    x, p = states().astype(np.float32), states(seed=1).astype(np.float32)
    t = np.float64(0.3)  # what a grid holds
    assert field(t, x).dtype == np.float32
    value, lin = field.linearize(t, x)
    assert value.dtype == np.float32
    assert lin.jvp(x, random_like(field.parameters)).dtype == np.float32
    assert lin.jvp(None).dtype == np.float32
    assert lin.time_derivative().dtype == np.float32
    pull, partials = pulled(field, lin, p, np.float64(0.1))
    assert {pull.dtype, *(v.dtype for v in partials.values())} == {np.dtype(np.float32)}
    sol = snode.solve_direct(field, x)
    assert sol.x_T.dtype == np.float32


def test_float32_is_close_to_float64(time):
    x = states()
    small = make(time=time, dtype="float32")(0.3, x.astype(np.float32))
    assert small == pytest.approx(make(time=time)(0.3, x), abs=1e-5)


# --- the three problems ---------------------------------------------------------------------------


def test_solve_is_euler_on_the_grid(time):
    field, x = make(time=time), states()
    expected = x
    for i in range(6):
        expected = expected + 0.25 * transcription(field, 0.25 * i, expected)
    assert snode.solve_direct(field, x).x_T == pytest.approx(expected, abs=1e-13)


def test_adjoint_is_the_transpose_of_sensitivity(field, random_like):
    x, dx0, lam_T = states(), states(seed=1), states(seed=2)
    d = random_like(field.parameters)
    sol = snode.solve_direct(field, x)
    xi_T = snode.solve_sensitivity(sol, dx0=dx0, dtheta=d)[-1]
    adjoint = snode.solve_adjoint(sol, lam_T)
    right = np.sum(dx0 * adjoint.lam[0]) + sum(np.sum(d[k] * adjoint.partials[k]) for k in d)
    size = np.linalg.norm(xi_T) * np.linalg.norm(lam_T)
    assert abs(np.sum(xi_T * lam_T) - right) <= 1e-12 * size


# --- a value that does not change -----------------------------------------------------------------


def test_parameters_are_read_only_and_the_callers_arrays_stay_writeable():
    mine = {"W1": np.eye(2), "b1": np.zeros(2)}
    field = MLPField.from_parameters(mine)
    for array in field.parameters.values():
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 1
    with pytest.raises(TypeError):
        field.parameters["W1"] = mine["W1"]
    with pytest.raises(ValueError, match="read-only"):
        field.grid[0] = 1
    names = ("n", "grid", "T", "n_layers", "activation", "output_activation", "widths", "time")
    for name in (*names, "parameters", "dtype", "breakpoints", "rest"):
        with pytest.raises(AttributeError):
            setattr(field, name, None)
    mine["W1"][0, 0] = 2.0


def test_with_parameters_makes_a_new_field(field):
    before = {k: p.copy() for k, p in field.parameters.items()}
    other = field.with_parameters(b2=field.parameters["b2"] + 1)
    assert other is not field
    for name, p in before.items():
        assert np.array_equal(field.parameters[name], p)
        assert np.array_equal(other.parameters[name], p + (name == "b2"))
        assert not other.parameters[name].flags.writeable
    assert list(other.parameters) == list(field.parameters)
    assert repr(other) == repr(field)
    assert np.array_equal(other.grid, field.grid)


def test_a_field_can_be_copied(field):
    other = copy.deepcopy(field)
    for name, p in field.parameters.items():
        assert np.array_equal(other.parameters[name], p)
        assert not np.shares_memory(other.parameters[name], p)


def test_from_parameters_gives_the_same_field(field):
    other = MLPField.from_parameters(
        dict(reversed(field.parameters.items())),
        activation=field.activation, time=field.time, output_activation=field.output_activation,
        T=field.T, n_layers=field.n_layers,
    )  # fmt: skip
    assert repr(other) == repr(field)
    assert list(other.parameters) == list(field.parameters)
    assert np.array_equal(other(0.3, states()), field(0.3, states()))


def test_derived_properties():
    field = MLPField((2, 4, 2), activation="elu", output_activation="sigmoid", T=2.5, n_layers=5)
    assert (field.n, field.T, field.n_layers, field.widths) == (2, 2.5, 5, (2, 4, 2))
    assert (field.activation.name, field.output_activation.name) == ("elu", "sigmoid")
    assert repr(field) == (
        "MLPField(widths=(2, 4, 2), T=2.5, n_layers=5, activation='elu', "
        "output_activation='sigmoid', time='none', float64)"
    )


# --- the first weights ----------------------------------------------------------------------------


def test_first_weights(time):
    field = MLPField((40, 300, 40), time=time, rng=0)
    p = field.parameters
    for name in ("W1", "W2"):
        columns = p[name].shape[1]
        # the standard deviation of a sample of 12000 numbers is known to 1 %
        assert p[name].std() * columns**0.5 == pytest.approx(1, abs=0.03)
        assert abs(p[name].mean()) * columns**0.5 <= 0.03
    assert not p["b1"].any()
    assert not p["b2"].any()


def test_first_weights_are_decided_by_rng_scale_and_nothing_else():
    def W1(**options):
        return MLPField((3, 4, 3), **options).parameters["W1"]

    assert np.array_equal(W1(rng=1), W1(rng=1))
    assert np.array_equal(W1(rng=1), W1(rng=np.random.default_rng(1)))
    assert not np.array_equal(W1(rng=1), W1(rng=2))
    assert W1(rng=1, scale=0.25) == pytest.approx(0.25 * W1(rng=1), rel=1e-15)
    assert np.array_equal(W1(rng=1, dtype="float32"), W1(rng=1).astype(np.float32))
    assert not W1(scale=0).any()


def test_rest_is_the_output_of_zero_parameters():
    for output in snode.activation_names():
        field = MLPField((2, 3, 2), output_activation=output, activation="sigmoid", T=1.7, scale=0)
        x_T = snode.solve_direct(field, np.zeros((2, 1))).x_T
        zero = field.with_parameters(**{k: 0 * p for k, p in field.parameters.items()})
        assert x_T == pytest.approx(snode.solve_direct(zero, np.zeros((2, 1))).x_T)
        assert x_T == pytest.approx(np.full((2, 1), field.rest), abs=1e-14)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (2,)}, "widths must be at least two"),
        ({"widths": ()}, "widths must be at least two"),
        ({"widths": 3}, "widths must be at least two"),
        ({"widths": "22"}, "widths must be at least two"),
        ({"widths": (2, 0, 2)}, "widths must be positive integers"),
        ({"widths": (2, 1.5, 2)}, "widths must be positive integers"),
        ({"widths": (2, 4, 3)}, "widths must begin and end with the state dimension"),
        ({"time": "append"}, "time must be one of 'none', 'concat'; got 'append'"),
        ({"activation": "swish"}, "activation must be one of"),
        ({"output_activation": "swish"}, "activation must be one of"),
        ({"T": 0.0}, "T must be a positive finite number"),
        ({"T": np.inf}, "T must be a positive finite number"),
        ({"n_layers": 0}, "n_layers must be a positive integer"),
        ({"n_layers": 1.5}, "n_layers must be a positive integer"),
        ({"scale": -1.0}, "scale must be finite"),
        ({"scale": np.nan}, "scale must be finite"),
        ({"dtype": "int64"}, "dtype must be float32 or float64"),
    ],
)
def test_options_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        MLPField(**{"widths": (2, 4, 2), **changes})


GOOD = {"W1": np.ones((4, 2)), "b1": np.ones(4), "W2": np.ones((2, 4)), "b2": np.ones(2)}


def without(name):
    return {k: v for k, v in GOOD.items() if k != name}


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ([1], TypeError, "parameters must be a mapping"),
        ({}, ValueError, "parameters must be W1, b1"),
        (without("b2"), ValueError, "parameters must be W1, b1, .* got W1, b1, W2"),
        (GOOD | {"W3": np.ones((2, 2))}, ValueError, "parameters must be W1, b1"),
        (without("b1") | {"b3": np.ones(2)}, ValueError, "parameters must be W1, b1"),
        (GOOD | {"W1": np.ones((4, 3))}, ValueError, r"W1 must have shape \(4, 2\); got \(4, 3\)"),
        (GOOD | {"W2": np.ones((4, 2))}, ValueError, r"W2 must have shape \(2, 4\)"),
        (GOOD | {"b1": np.ones((4, 1))}, ValueError, r"b1 must have shape \(width,\)"),
        (GOOD | {"b1": np.ones(0)}, ValueError, r"b1 must have shape \(width,\)"),
        (GOOD | {"b2": [1.0, 1.0]}, TypeError, "b2 must be a NumPy or CuPy array"),
        (GOOD | {"W1": [[1.0]]}, TypeError, "W1 must be a NumPy or CuPy array"),
        (GOOD | {"W2": np.ones((2, 4), int)}, ValueError, "W2 must be float32 or float64"),
        (GOOD | {"b2": np.ones(2, np.float32)}, ValueError, "same dtype; W1 is float64 and b2"),
        (GOOD | {"W2": np.full((2, 4), np.nan)}, ValueError, "W2 must be finite"),
        (GOOD | {"b1": np.full(4, -np.inf)}, ValueError, "b1 must be finite"),
    ],
)
def test_given_arrays_are_checked(parameters, error, message):
    with pytest.raises(error, match=message):
        MLPField.from_parameters(parameters)


def test_concat_needs_a_column_for_the_depth():
    with pytest.raises(ValueError, match=r"W1 must have shape \(4, 3\); got \(4, 2\)"):
        MLPField.from_parameters(GOOD, time="concat")
    with pytest.raises(ValueError, match="time must be one of"):
        MLPField.from_parameters(GOOD, time="both")


def test_with_parameters_errors(field):
    with pytest.raises(ValueError, match=r"unknown parameter \['W4'\]; this field has W1, b1"):
        field.with_parameters(W4=np.ones((3, 3)))
    with pytest.raises(ValueError, match=r"W2 must have shape \(4, 5\); got \(5, 4\)"):
        field.with_parameters(W2=np.ones((5, 4)))
    with pytest.raises(ValueError, match="same dtype"):
        field.with_parameters(b3=np.ones(3, np.float32))
    with pytest.raises(TypeError, match="b3 must be"):
        field.with_parameters(b3=[1.0, 2.0, 3.0])


def test_same_is_the_activation_of_the_hidden_layers():
    same = snode.MLPField((2, 5, 2), activation="sigmoid", output_activation="same", rng=0)
    named = snode.MLPField((2, 5, 2), activation="sigmoid", output_activation="sigmoid", rng=0)
    assert same.output_activation.spec == named.output_activation.spec
    x = np.ones((2, 3))
    assert np.array_equal(same(0.0, x), named(0.0, x))


def test_an_unknown_output_activation_is_named():
    with pytest.raises(ValueError, match=r"output_activation must be one of .*; or 'same'"):
        snode.MLPField((2, 5, 2), output_activation="some")
