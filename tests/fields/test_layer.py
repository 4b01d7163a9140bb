"""StandaloneField: the contract, its derivatives, its immutability, its errors, random fields."""

import copy

import numpy as np
import pytest
from scipy.interpolate import CubicSpline
from transposes import pulled

import snode
from snode import StandaloneField
from snode.fields.base import Linearization, VectorField

pytestmark = pytest.mark.grid(4)

EPS = np.finfo(np.float64).eps
DEPTHS = (0.0, 0.31, 0.77, 1.5)  # ends and off-node depths for T = 1.5


@pytest.fixture
def field(make_field, activation, interpolation):
    return make_field(4, 5, activation=activation, interpolation=interpolation)


def weights_at(field, t):
    """W(t) and b(t) by SciPy or NumPy."""
    if field.interpolation == "constant":
        k = min(int(t / field.T * field.n_layers), field.n_layers - 1)
        return field.W[k], field.b[k]
    if field.interpolation == "cubic":
        return CubicSpline(field.grid, field.W)(t), CubicSpline(field.grid, field.b)(t)
    flat = np.concatenate([field.W.reshape(len(field.W), -1), field.b], axis=1)
    values = np.array([np.interp(t, field.grid, column) for column in flat.T])
    return values[: field.n**2].reshape(field.n, field.n), values[field.n**2 :]


# --- values and derivatives -----------------------------------------------------------------------


def test_value_is_the_formula(field):
    x = np.random.default_rng(0).standard_normal((4, 6))
    for t in DEPTHS:
        W, b = weights_at(field, t)
        expected = np.stack([field.activation(W @ column + b) for column in x.T], axis=1)
        assert field(t, x) == pytest.approx(expected, abs=500 * EPS)


def test_follows_the_contract(field):
    assert isinstance(field, VectorField)
    x = np.ones((4, 2))
    assert isinstance(field.linearize(0.1, x)[1], Linearization)
    assert field.n == 4
    assert set(field.parameters) == {"W", "b"} == set(field.depth_basis)


def test_linearize_gives_the_same_value(field):
    x = np.random.default_rng(0).standard_normal((4, 6))
    for t in DEPTHS:
        assert np.array_equal(field.linearize(t, x)[0], field(t, x))


def test_jvp_is_the_derivative(make_smooth_case, activation, interpolation, moved, random_like):
    field, x = make_smooth_case(activation, interpolation=interpolation)
    dx = np.random.default_rng(1).standard_normal(x.shape)
    d = random_like(field.parameters)
    t = 0.0  # the case keeps away from kinks at the nodes; off-node depths: the dot tests
    jvp = field.linearize(t, x)[1].jvp(dx, d)
    h = 1e-5
    plus, minus = (moved(field, d, e)(t, x + e * dx) for e in (h, -h))
    # truncation h^2/6 sigma''' |da|^3 with |da| up to 10, rounding eps / h
    assert np.abs((plus - minus) / (2 * h) - jvp).max() <= 2e-7
    halves = [moved(field, d, e)(t, x + e * dx) - field(t, x) - e * jvp for e in (1e-4, 5e-5)]
    size = [np.abs(half).max() for half in halves]
    assert size[1] <= 10 * EPS or np.log2(size[0] / size[1]) > 1.95


@pytest.mark.parametrize("t", [0.31, 0.77, 1.5])
def test_jvp_off_the_nodes(make_field, interpolation, moved, random_like, t):
    field = make_field(interpolation=interpolation)
    rng = np.random.default_rng(1)
    x, dx = rng.standard_normal((2, 3, 5))
    d, h = random_like(field.parameters), 1e-5
    difference = (moved(field, d, h)(t, x + h * dx) - moved(field, d, -h)(t, x - h * dx)) / (2 * h)
    assert np.abs(difference - field.linearize(t, x)[1].jvp(dx, d)).max() <= 2e-7


def test_jvp_parts_add_up(field, random_like):
    rng = np.random.default_rng(2)
    x, dx = rng.standard_normal((2, 4, 3))
    d = random_like(field.parameters)
    for t in DEPTHS:
        lin = field.linearize(t, x)[1]
        parts = lin.jvp(dx) + lin.jvp(None, {"W": d["W"]}) + lin.jvp(None, {"b": d["b"]})
        assert lin.jvp(dx, d) == pytest.approx(parts, abs=100 * EPS)
        assert lin.jvp(None, None) == pytest.approx(np.zeros((4, 3)), abs=0)
        assert lin.jvp(None, {}) == pytest.approx(np.zeros((4, 3)), abs=0)


def test_vjp_is_the_transpose(field, random_like):
    rng = np.random.default_rng(3)
    x, dx, p = rng.standard_normal((3, 4, 7))
    d = random_like(field.parameters)
    for t in DEPTHS:
        lin = field.linearize(t, x)[1]
        pull, partials = pulled(field, lin, p)
        assert {k: v.shape for k, v in partials.items()} == {k: v.shape for k, v in d.items()}
        left = np.sum(lin.jvp(dx, d) * p)
        right = np.sum(dx * pull) + sum(np.sum(d[k] * partials[k]) for k in d)
        size = np.linalg.norm(lin.jvp(dx, d)) * np.linalg.norm(p)
        assert abs(left - right) <= 1e-13 * max(size, 1)


def test_vjp_adds_weighted_into_given_arrays(field, random_like):
    rng = np.random.default_rng(4)
    x, p = rng.standard_normal((2, 4, 3))
    for t in DEPTHS:
        lin = field.linearize(t, x)[1]
        fresh = pulled(field, lin, p)[1]
        start = random_like(field.parameters)
        into = {k: v.copy() for k, v in start.items()}
        lin.vjp(p, snode.Partials(into, weight=0.25))
        for k in start:
            assert into[k] == pytest.approx(start[k] + 0.25 * fresh[k], abs=50 * EPS)


def test_linearization_does_not_see_later_changes_of_the_argument_of_jvp(field):
    # jvp and vjp are linear maps: calling them twice gives the same answer
    rng = np.random.default_rng(5)
    x, p = rng.standard_normal((2, 4, 3))
    lin = field.linearize(0.31, x)[1]
    assert np.array_equal(lin.jvp(p), lin.jvp(p))
    assert np.array_equal(lin.vjp(p), lin.vjp(p))


@pytest.mark.parametrize("t", [-0.01, 1.51, np.nan])
def test_depth_outside_is_refused(field, t):
    with pytest.raises(ValueError, match="t must be in"):
        field(t, np.ones((4, 1)))
    with pytest.raises(ValueError, match="t must be in"):
        field.linearize(t, np.ones((4, 1)))


def test_breakpoints_are_where_the_field_jumps(make_field, interpolation):
    field = make_field(3, 6, interpolation=interpolation)
    x = np.ones((3, 1))
    jumps = tuple(
        t
        for t in np.linspace(0, field.T, 25)[1:-1]
        if np.abs(field(t - 1e-9, x) - field(t + 1e-9, x)).max() > 1e-3
    )
    assert field.breakpoints == pytest.approx(jumps, abs=1e-12)
    assert all(type(t) is float for t in field.breakpoints)
    assert (interpolation == "constant") == bool(jumps)


# --- a value that does not change -----------------------------------------------------------------


def test_weights_are_read_only_and_the_callers_arrays_stay_writeable(interpolation):
    size = 2 + (interpolation != "constant")
    W, b = np.zeros((size, 2, 2)), np.zeros((size, 2))
    field = StandaloneField(W, b, 1.0, interpolation=interpolation)
    for array in (field.W, field.b, *field.parameters.values()):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 1
    with pytest.raises(TypeError):
        field.parameters["W"] = W
    for name in ("W", "b", "T", "n", "grid", "activation", "interpolation", "parameters"):
        with pytest.raises(AttributeError):
            setattr(field, name, None)
    W[0, 0, 0] = 1.0
    b[0, 0] = 1.0


def test_with_parameters_makes_a_new_field(make_field, interpolation):
    field = make_field(interpolation=interpolation)
    before = {k: p.copy() for k, p in field.parameters.items()}
    other = field.with_parameters(b=field.b + 1)
    assert other is not field
    assert np.array_equal(other.b, before["b"] + 1)
    assert np.array_equal(other.W, before["W"])
    assert np.array_equal(field.b, before["b"])
    assert not other.b.flags.writeable
    same = ("T", "n_layers", "interpolation", "activation", "breakpoints", "dtype")
    assert all(getattr(field, name) == getattr(other, name) for name in same)


def test_a_field_can_be_copied(make_field):
    # callbacks are told to copy the field that they keep
    field = make_field()
    other = copy.deepcopy(field)
    assert np.array_equal(other.W, field.W)
    assert not np.shares_memory(other.W, field.W)


def test_with_parameters_errors(make_field):
    field = make_field(3, 4)
    with pytest.raises(ValueError, match=r"unknown parameter \['V'\]"):
        field.with_parameters(V=field.W)
    with pytest.raises(ValueError, match=r"W must have shape \(4, 3, 3\); got \(5, 3, 3\)"):
        field.with_parameters(W=np.zeros((5, 3, 3)), b=np.zeros((5, 3)))
    with pytest.raises(ValueError, match="b must have shape"):
        field.with_parameters(b=np.zeros((4, 2)))
    with pytest.raises(ValueError, match="same dtype"):
        field.with_parameters(b=field.b.astype(np.float32))


def test_derived_properties(make_field, interpolation):
    field = make_field(3, 5, T=2.5, interpolation=interpolation)
    assert (field.n, field.n_layers, field.T) == (3, 5, 2.5)
    assert field.grid == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5], abs=1e-15)
    assert repr(field) == (
        "StandaloneField(n=3, T=2.5, n_layers=5, activation='tanh', "
        f"interpolation='{interpolation}', float64)"
    )


# --- construction errors --------------------------------------------------------------------------

W0, B0 = np.zeros((3, 2, 2)), np.zeros((3, 2))


def _with(array, value):
    out = array.copy()
    out.flat[1] = value
    return out


@pytest.mark.parametrize(
    ("W", "b", "T", "options", "error", "message"),
    [
        (W0.tolist(), B0, 1.0, {}, TypeError, "W must be a NumPy or CuPy array"),
        (W0, B0.tolist(), 1.0, {}, TypeError, "b must be a NumPy or CuPy array"),
        (None, B0, 1.0, {}, TypeError, "W must be"),
        (np.matrix([[1.0]]), B0, 1.0, {}, TypeError, "W must be"),
        (W0.astype(int), B0, 1.0, {}, ValueError, "W must be float32 or float64; got int64"),
        (W0.astype(np.float16), B0, 1.0, {}, ValueError, "W must be float32 or float64"),
        (W0.astype(complex), B0, 1.0, {}, ValueError, "W must be float32 or float64"),
        (W0.astype(object), B0, 1.0, {}, ValueError, "W must be float32 or float64; got object"),
        (W0, B0.astype(object), 1.0, {}, ValueError, "b must be float32 or float64"),
        (W0.astype(np.float32), B0, 1.0, {}, ValueError, "W and b must have the same dtype"),
        (W0[0], B0, 1.0, {}, ValueError, r"W must have shape \(K, n, n\); got \(2, 2\)"),
        (np.zeros((3, 2, 3)), B0, 1.0, {}, ValueError, r"W must have shape \(K, n, n\)"),
        (np.zeros((0, 2, 2)), np.zeros((0, 2)), 1.0, {}, ValueError, "W must have shape"),
        (np.zeros((3, 0, 0)), np.zeros((3, 0)), 1.0, {}, ValueError, "W must have shape"),
        (W0, B0[:2], 1.0, {}, ValueError, r"b must have shape \(3, 2\) to fit W"),
        (W0, B0[:, :1], 1.0, {}, ValueError, "b must have shape"),
        (W0, np.zeros((3, 2, 1)), 1.0, {}, ValueError, "b must have shape"),
        (_with(W0, np.nan), B0, 1.0, {}, ValueError, "W must be finite"),
        (_with(W0, -np.inf), B0, 1.0, {}, ValueError, "W must be finite"),
        (W0, _with(B0, np.nan), 1.0, {}, ValueError, "b must be finite"),
        (W0, _with(B0, np.inf), 1.0, {}, ValueError, "b must be finite"),
        (W0, B0, 0.0, {}, ValueError, "T must be a positive finite number"),
        (W0, B0, -1.0, {}, ValueError, "T must be a positive finite number"),
        (W0, B0, np.nan, {}, ValueError, "T must be a positive finite number"),
        (W0, B0, np.inf, {}, ValueError, "T must be a positive finite number"),
        (W0, B0, 1.0, {"activation": "gelu"}, ValueError, "activation must be one of"),
        (W0, B0, 1.0, {"interpolation": "spline"}, ValueError, "interpolation must be one of"),
        (W0[:1], B0[:1], 1.0, {"interpolation": "linear"}, ValueError, "W must have at least 2"),
        (W0[:1], B0[:1], 1.0, {"interpolation": "cubic"}, ValueError, "W must have at least 2"),
    ],
)
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # np.matrix
def test_constructor_errors_name_the_argument(W, b, T, options, error, message):
    with pytest.raises(error, match=message):
        StandaloneField(W, b, T, **options)


@pytest.mark.parametrize("values", [(1e308, 1e308, 1e308), (np.inf, -np.inf, 0.0)])
def test_finiteness_check_warns_of_nothing(values):
    W = np.array(values).reshape(3, 1, 1)
    if np.isfinite(W).all():
        assert StandaloneField(W, np.zeros((3, 1)), 1.0).n == 1
    else:
        with pytest.raises(ValueError, match="W must be finite"):
            StandaloneField(W, np.zeros((3, 1)), 1.0)


# --- random fields --------------------------------------------------------------------------------


@pytest.mark.parametrize("knots", [1, 2, 3, 4, 7])
def test_random_is_the_spline_through_the_draws(interpolation, knots):
    n, T, K, scale = 3, 2.5, 8, 0.3
    field = StandaloneField.random(
        n, T, K, scale=scale, knots=knots, interpolation=interpolation, rng=5
    )
    rng = np.random.default_rng(5)
    drawn_W = scale * rng.standard_normal((knots, n, n))
    drawn_b = scale * rng.standard_normal((knots, n))
    depths = np.linspace(0, T, K + 1)[: K + (interpolation != "constant")]
    for drawn, theta in ((drawn_W, field.W), (drawn_b, field.b)):
        if knots == 1:
            expected = np.repeat(drawn, len(depths), axis=0)
        else:
            expected = CubicSpline(np.linspace(0, T, knots), drawn)(depths)
        assert theta == pytest.approx(expected, abs=50 * EPS)
    assert np.array_equal(field.W[0], drawn_W[0])  # t = 0 is a knot


def test_random_is_reproducible_and_global_state_plays_no_part():
    def draw(seed):
        return StandaloneField.random(3, 1.0, 6, rng=seed)

    one, again, other = draw(1), draw(np.random.default_rng(1)), draw(2)
    assert np.array_equal(one.W, again.W)
    assert np.array_equal(one.b, again.b)
    assert not np.array_equal(one.W, other.W)
    assert not np.array_equal(draw(None).W, draw(None).W)
    generator = np.random.default_rng(1)
    assert not np.array_equal(draw(generator).W, draw(generator).W)  # it advances


def test_random_does_not_touch_the_global_generator():
    np.random.seed(3)  # noqa: NPY002 (the legacy state is what is tested)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    StandaloneField.random(3, 1.0, 6, rng=1)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize("scale", [None, 0.5])
def test_random_scale(scale):
    n = 60
    field = StandaloneField.random(n, 3.0, 3, knots=4, scale=scale, rng=0)
    # with 3 cells of 4 knots, the left ends are knots: independent normal draws
    expected = 1 / n if scale is None else scale
    count = field.W.size
    assert abs(field.W.std() / expected - 1) <= 5 / np.sqrt(2 * count)
    assert abs(field.W.mean() / expected) <= 5 / np.sqrt(count)
    assert abs(field.b.std() / expected - 1) <= 5 / np.sqrt(2 * field.b.size)


@pytest.mark.parametrize("activation", ["relu", snode.get_activation("elu", alpha=0.2)])
def test_random_passes_options_on(activation, interpolation):
    field = StandaloneField.random(
        2, 1.5, 4, activation=activation, interpolation=interpolation, rng=0
    )
    assert field.activation.spec == snode.get_activation(activation).spec
    assert field.interpolation == interpolation
    assert (field.n, field.T, field.n_layers) == (2, 1.5, 4)


@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype("float32")])
def test_random_float32_is_the_rounded_float64(dtype, interpolation):
    def draw(dtype):
        return StandaloneField.random(3, 1.0, 6, interpolation=interpolation, rng=4, dtype=dtype)

    narrow, wide = draw(dtype), draw("float64")
    assert narrow.dtype == np.float32
    assert np.array_equal(narrow.W, wide.W.astype(np.float32))
    assert np.array_equal(narrow.b, wide.b.astype(np.float32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n must be a positive integer; got 0"),
        ({"n": 2.5}, "n must be a positive integer; got 2.5"),
        ({"n_layers": 0}, "n_layers must be a positive integer"),
        ({"knots": 0}, "knots must be a positive integer"),
        ({"knots": -3}, "knots must be a positive integer"),
        ({"activation": "gelu"}, "activation must be one of"),
        ({"interpolation": "spline"}, "interpolation must be one of"),
        ({"T": 0.0}, "T must be a positive finite number"),
        ({"T": -1.0}, "T must be a positive finite number"),
        ({"T": np.nan}, "T must be a positive finite number"),
        ({"scale": np.nan}, "scale must be finite"),
        ({"scale": -1.0}, "scale must be finite and >= 0"),
        ({"dtype": "int64"}, "must be float32 or float64"),
    ],
)
def test_random_errors_name_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        StandaloneField.random(**({"n": 2, "T": 1.0, "n_layers": 3, "rng": 0} | options))
