"""Activations: values by independent formulas, slopes by differences, safety, the table."""

import json

import numpy as np
import pytest
from scipy import special

import snode
from snode.fields import activations
from snode.fields.slopes import check_slopes

pytestmark = pytest.mark.grid(3)

EPS = np.finfo(np.float64).eps


def _smooth(a, alpha, width):
    """The C1 ramp, written out by cases."""
    inside = alpha * a + (1 - alpha) * (a + width) ** 2 / (4 * width)
    return np.where(a > width, a, np.where(a < -width, alpha * a, inside))


def _smooth_slope(a, alpha, width):
    inside = alpha + (1 - alpha) * (a + width) / (2 * width)
    return np.where(a > width, 1.0, np.where(a < -width, alpha, inside))


def _bend(alpha):
    """Where the slope of tanh has fallen to alpha, found without arccosh."""
    return np.arctanh(np.sqrt(1 - alpha))


def _leaky_tanh_c1(a, alpha):
    end = _bend(alpha)
    below = alpha * (a + end) - np.sqrt(1 - alpha)  # tanh(end)^2 = 1 - alpha
    return np.where(a >= 0, a, np.where(a >= -end, np.tanh(a), below))


def _leaky_tanh_c1_slope(a, alpha):
    inside = 1 / np.cosh(np.clip(a, -300, 300)) ** 2
    return np.where(a >= 0, 1.0, np.where(a >= -_bend(alpha), inside, alpha))


# name -> (sigma, sigma') written another way than in the package
INDEPENDENT = {
    "sigmoid": (special.expit, lambda a: special.expit(a) * special.expit(-a)),
    "tanh": (np.tanh, lambda a: 1 / np.cosh(np.clip(a, -300, 300)) ** 2),
    "relu": (lambda a: (a + np.abs(a)) / 2, lambda a: np.heaviside(a, 0.0)),
    "leaky_relu": (
        lambda a, alpha: np.maximum(a, 0) + alpha * np.minimum(a, 0),
        lambda a, alpha: np.where(a > 0, 1.0, alpha),
    ),
    "smooth_relu": (
        lambda a, width: _smooth(a, 0.0, width),
        lambda a, width: _smooth_slope(a, 0.0, width),
    ),
    "smooth_leaky_relu": (_smooth, _smooth_slope),
    "leaky_tanh": (
        lambda a, alpha: (
            np.maximum(a, 0) + alpha * np.minimum(a, 0) + (1 - alpha) * np.tanh(np.minimum(a, 0))
        ),
        lambda a, alpha: alpha + (1 - alpha) / np.cosh(np.clip(a, -300, 0)) ** 2,
    ),
    "leaky_tanh_c1": (_leaky_tanh_c1, _leaky_tanh_c1_slope),
    "elu": (
        lambda a, alpha: np.where(a > 0, a, alpha * special.expm1(np.clip(a, -700, 0))),
        lambda a, alpha: np.where(a > 0, 1.0, alpha * np.exp(np.clip(a, -700, 0))),
    ),
    "softplus": (lambda a: np.logaddexp(0.0, a), special.expit),
    "identity": (lambda a: a, lambda a: 1.0 + 0 * a),
}

# defaults of mathematics.md 1.4 and of the table's documentation
DEFAULTS = {
    "leaky_tanh": {"alpha": 0.1},
    "leaky_tanh_c1": {"alpha": 0.1},
    "leaky_relu": {"alpha": 0.01},
    "smooth_relu": {"width": 0.1},
    "smooth_leaky_relu": {"alpha": 0.01, "width": 0.1},
    "elu": {"alpha": 1.0},
}


# every activation with its defaults, and some with other parameters
SPECIMENS = (
    *((name, {}) for name in INDEPENDENT),
    ("leaky_relu", {"alpha": 0.2}),
    ("smooth_leaky_relu", {"alpha": 0.3, "width": 0.5}),
    ("leaky_tanh", {"alpha": 0.4}),
    ("leaky_tanh_c1", {"alpha": 0.4}),
    ("elu", {"alpha": 0.2}),
    ("elu", {"alpha": 1.7}),
)


@pytest.fixture(params=SPECIMENS, ids=str)
def activation(request):
    name, params = request.param
    return snode.get_activation(name, **params)


@pytest.fixture
def table(monkeypatch):
    """A table of this test's own, so that registering leaves nothing behind."""
    own = dict(activations._TABLE)
    monkeypatch.setattr(activations, "_TABLE", own)
    return own


def test_table_is_complete():
    assert set(snode.activation_names()) >= set(INDEPENDENT)


def test_default_parameters():
    for name in INDEPENDENT:
        assert dict(snode.get_activation(name).params) == DEFAULTS.get(name, {})


def test_value_and_slope_equal_independent_formulas(activation):
    a = np.concatenate([np.linspace(-30, 30, 2001), np.linspace(-0.6, 0.6, 777)])
    value, slope = INDEPENDENT[activation.name]
    # a handful of roundings of numbers of size max(1, |a|); sigma' is at most 1.7
    assert activation(a) == pytest.approx(value(a, **activation.params), rel=8 * EPS, abs=8 * EPS)
    assert activation.slope(a) == pytest.approx(slope(a, **activation.params), abs=8 * EPS)


def test_slope_is_the_central_difference(activation):
    a = np.random.default_rng(0).uniform(-6, 6, 4000)
    bends = [-_bend(0.1), -_bend(0.4)]
    breaks = np.array([0.0, -0.1, 0.1, -0.5, 0.5, *bends])
    a = a[np.abs(a[:, None] - breaks).min(axis=1) > 1e-3]
    h = 1e-5
    difference = (activation(a + h) - activation(a - h)) / (2 * h)
    # truncation h^2/6 |sigma'''| (at most 2 for tanh) and rounding eps |sigma| / h
    assert np.abs(activation.slope(a) - difference).max() <= h**2 / 3 + 4 * EPS * 6 / h


def test_slope_interval_holds_and_is_tight(activation):
    a = np.concatenate([np.linspace(-60, 60, 40_001), np.linspace(-1, 1, 40_001), [-1e4, 1e4]])
    slopes = activation.slope(a)
    lo, hi = activation.slope_interval
    assert lo - 2 * EPS <= slopes.min() <= lo + 1e-9
    assert hi - 1e-9 <= slopes.max() <= hi + 2 * EPS


def test_kinks_are_exactly_the_jumps_of_the_slope(activation):
    candidates = (0.0, -0.1, 0.1, -0.5, 0.5, -_bend(0.1), -_bend(0.4))
    step = 1e-9  # a continuous slope here changes by at most 5 * step
    jumps = tuple(
        point
        for point in candidates
        if abs(np.ptp(activation.slope(np.array([point - step, point + step])))) > 1e-3
    )
    assert jumps == activation.kinks


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_finite_and_dtype_kept_up_to_ten_thousand(activation, dtype):
    rng = np.random.default_rng(1)
    magnitudes = np.concatenate([np.geomspace(1e-30, 1e4, 500), [0.0, 88.8, 103.98, 709.8, 745.2]])
    a = np.concatenate([magnitudes, -magnitudes, rng.uniform(-1e4, 1e4, 500)]).astype(dtype)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        value, slope = activation(a), activation.slope(a)
    for out in (value, slope):
        assert out.dtype == dtype
        assert out.shape == a.shape
        assert np.isfinite(out).all()
    lo, hi = activation.slope_interval
    # |sigma(a) - sigma(0)| <= max slope * |a|, to rounding
    bound = max(abs(lo), abs(hi)) * np.abs(a.astype(float)) * (1 + 1e-6)
    assert (np.abs(value.astype(float) - activation.at_zero()) <= bound + 1e-6).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_argument_is_not_changed_nor_returned(activation, dtype):
    a = np.linspace(-2, 2, 12).reshape(3, 4).astype(dtype)
    before = a.copy()
    value, slope = activation(a), activation.slope(a)
    assert np.array_equal(a, before)
    assert not np.shares_memory(value, a)
    assert not np.shares_memory(slope, a)


def test_nan_stays_nan(activation):
    # a failure must be seen downstream, not turned into a number
    assert np.isnan(activation(np.array([np.nan])))[0]


def test_at_zero(activation):
    value, _ = INDEPENDENT[activation.name]
    expected = value(np.zeros(1), **activation.params)[0]
    assert activation.at_zero() == pytest.approx(expected, abs=2 * EPS)


def test_spec_round_trip_through_json(activation):
    again = snode.get_activation(json.loads(json.dumps(activation.spec)))
    a = np.linspace(-3, 3, 101)
    assert again.spec == activation.spec
    assert again.slope_interval == activation.slope_interval
    assert np.array_equal(again(a), activation(a))
    assert np.array_equal(again.slope(a), activation.slope(a))


def test_ready_activation_is_returned_as_it_is(activation):
    assert snode.get_activation(activation) is activation


def test_repr_can_be_evaluated(activation):
    assert eval(repr(activation), {"get_activation": snode.get_activation}).spec == activation.spec


# --- errors and registration ----------------------------------------------------------------------


def test_unknown_name_lists_the_valid_ones():
    with pytest.raises(ValueError, match="activation must be one of") as caught:
        snode.get_activation("gelu")
    for name in snode.activation_names():
        assert name in str(caught.value)
    assert "'gelu'" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("tanh", {"alpha": 1.0}, "alpha"),
        ("elu", {"beta": 1.0}, "beta"),
        ("elu", {"alpha": 0.0}, "alpha must be positive"),
        ("elu", {"alpha": -1.0}, "alpha must be positive"),
        ("elu", {"alpha": float("nan")}, "alpha must be positive"),
        ("leaky_relu", {"alpha": 1.5}, r"alpha must be in \[0, 1\]"),
        ("leaky_relu", {"alpha": -0.1}, r"alpha must be in \[0, 1\]"),
        ("smooth_leaky_relu", {"alpha": 2.0}, "alpha"),
        ("leaky_tanh", {"alpha": 1.5}, r"alpha must be in \[0, 1\]"),
        ("leaky_tanh_c1", {"alpha": 0.0}, r"alpha must be in \(0, 1\]"),
        ("leaky_tanh_c1", {"alpha": float("nan")}, r"alpha must be in \(0, 1\]"),
        ("smooth_relu", {"width": 0.0}, "width must be positive"),
        ("smooth_relu", {"width": float("nan")}, "width must be positive"),
    ],
)
def test_wrong_parameters_are_named(name, params, message):
    with pytest.raises(ValueError, match=message):
        snode.get_activation(name, **params)


def test_register_then_use_in_a_field(table):
    entry = snode.register_activation("sine", np.sin, np.cos, (-1.0, 1.0))
    assert snode.get_activation("sine") is entry
    assert "sine" in snode.activation_names()
    field = snode.StandaloneField(np.ones((1, 2, 2)), np.ones((1, 2)), 1.0, activation="sine")
    x = np.array([[0.1], [0.2]])
    assert field(0.0, x) == pytest.approx(np.sin(1.3 * np.ones((2, 1))), abs=4 * EPS)


@pytest.mark.parametrize("name", ["tanh", "sine"])
def test_register_refuses_a_taken_name(table, name):
    if name == "sine":
        snode.register_activation("sine", np.sin, np.cos, (-1.0, 1.0))
    with pytest.raises(ValueError, match=f"'{name}' is taken"):
        snode.register_activation(name, np.sin, np.cos, (-1.0, 1.0))


@pytest.mark.parametrize(
    ("value", "slope", "interval", "message"),
    [
        (np.sin, np.cos, (1.0, -1.0), "slope_interval"),
        (np.sin, np.cos, (0.0, float("nan")), "slope_interval"),
        (np.sin, np.sin, (-1.0, 1.0), "slope is not the derivative"),
        (np.sin, lambda a: -np.cos(a), (-1.0, 1.0), "slope is not the derivative"),
        (np.sin, lambda a: 1.00001 * np.cos(a), (-1.0, 1.0), "slope is not the derivative"),
        (lambda a: a * np.nan, lambda a: a * np.nan, (0.0, 1.0), "slope is not the derivative"),
    ],
)
def test_register_refuses_nonsense_and_leaves_no_trace(table, value, slope, interval, message):
    with pytest.raises(ValueError, match=message):
        snode.register_activation("mine", value, slope, interval)
    assert "mine" not in snode.activation_names()


# --- the activations of the contractivity paper ---------------------------------------------------


@pytest.mark.parametrize(("name", "order"), [("leaky_tanh", 2), ("leaky_tanh_c1", 1)])
@pytest.mark.parametrize("alpha", [0.05, 0.4])
def test_contractive_activations_are_as_smooth_as_they_claim(name, order, alpha):
    # jump of the k-th derivative at the joints by one-sided differences of sigma'
    entry = snode.get_activation(name, alpha=alpha)
    joints = {"leaky_tanh": (0.0,), "leaky_tanh_c1": (0.0, -_bend(alpha))}[name]
    e = 1e-5
    for joint in joints:
        left, middle, right = entry.slope(joint + e * np.array([-1.0, 0.0, 1.0]))
        assert abs(right - left) <= 4 * e
        second_jumps = abs((right - middle) - (middle - left)) / e > 1e-3
        assert second_jumps == (order == 1 and joint != 0.0)


@pytest.mark.parametrize("name", ["leaky_tanh", "leaky_tanh_c1", "leaky_relu"])
def test_difference_quotients_stay_in_the_slope_interval(name):
    # what contractivity needs, also across joints
    entry = snode.get_activation(name, alpha=0.3)
    a = np.random.default_rng(0).uniform(-4, 4, (2, 20_000))
    value = entry(a)
    quotient = (value[0] - value[1]) / (a[0] - a[1])
    slack = 8 * EPS / np.abs(a[0] - a[1])
    assert (quotient >= 0.3 - slack).all()
    assert (quotient <= 1 + slack).all()


@pytest.mark.parametrize("name", ["leaky_tanh", "leaky_tanh_c1"])
def test_alpha_one_is_the_identity(name):
    a = np.linspace(-5, 5, 101)
    assert snode.get_activation(name, alpha=1.0)(a) == pytest.approx(a, abs=4 * EPS)


@pytest.mark.parametrize("name", ["leaky_tanh", "leaky_tanh_c1"])
def test_contractive_activations_can_be_saved_and_loaded(name, tmp_path, make_field):
    entry = snode.get_activation(name, alpha=0.25)
    classifier = snode.Classifier.random(make_field(activation=entry), 2, rng=0)
    snode.save(tmp_path / "model.safetensors", classifier)
    field = snode.load(tmp_path / "model.safetensors").field
    assert field.activation.spec == {"name": name, "alpha": 0.25}
    x = np.random.default_rng(0).standard_normal((field.n, 5))
    assert np.array_equal(field(0.3, x), classifier(0.3, x))


# --- the slope interval is checked before a certificate rests on it -------------------------------


SPECS = [
    *({"name": name} for name in snode.activation_names()),
    *({"name": "elu", "alpha": alpha} for alpha in (0.3, 2.0)),
    *({"name": "leaky_relu", "alpha": alpha} for alpha in (0.0, 0.3, 1.0)),
    *({"name": "leaky_tanh", "alpha": alpha} for alpha in (0.0, 0.4)),
    *({"name": "leaky_tanh_c1", "alpha": alpha} for alpha in (1e-6, 0.4)),
    *({"name": "smooth_relu", "width": width} for width in (1e-7, 5.0)),
    {"name": "smooth_leaky_relu", "alpha": 0.1, "width": 10.0},
]


def _logistic(a):
    return 0.5 + 0.5 * np.tanh(0.5 * a)


def _swish(beta=1.0):
    """Slopes of a s(beta a) are those of swish for beta = 1."""
    return (
        lambda a: a * _logistic(beta * a),
        lambda a: _logistic(beta * a) * (1 + beta * a * (1 - _logistic(beta * a))),
    )


SWISH = (-0.09984, 1.09984)  # 1/2 -+ 0.59983932..., rounded outward


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_built_in_slopes_pass_and_are_tight(spec):
    entry = snode.get_activation(spec)
    check_slopes(entry.value, entry.slope, entry.slope_interval, entry.kinks)
    lo, hi = entry.slope_interval
    if hi - lo > 1e-3:
        for wrong in ((lo, hi - 1e-3 * (hi - lo)), (lo + 1e-3 * (hi - lo), hi)):
            with pytest.raises(ValueError, match="is refuted by slope"):
                check_slopes(entry.value, entry.slope, wrong, entry.kinks)


@pytest.mark.parametrize(
    ("functions", "right", "wrong"),
    [
        (_swish(), SWISH, [(0, 1), (-0.0998, 1.1), (-0.1, 1.0998), (-0.1, 1), (0, 1.1)]),
        (_swish(50.0), SWISH, [(0, 1), (-0.0998, 1.1), (-0.1, 1.0998)]),  # narrow, near zero
        ((np.sin, np.cos), (-1, 1), [(0, 1), (-1, 0), (-1, 0.99999), (-0.99999, 1)]),
        (
            (lambda a: a + np.sin(20 * a) / 20, lambda a: 1 + np.cos(20 * a)),
            (0, 2), [(0, 1), (1, 2), (1e-6, 2)],
        ),
        ((lambda a: 3 * a, lambda a: 3 + 0 * a), (3, 3), [(0, 1), (3.0001, 4), (0, 2.9999)]),
        ((lambda a: a**3, lambda a: 3 * a**2), (0, np.inf), [(0, 1e6), (1e-3, np.inf)]),
        ((lambda a: 1e-3 * np.tanh(a), lambda a: 1e-3 / np.cosh(a) ** 2), (0, 1e-3), [(0, 9.9e-4)]),
    ],
)  # fmt: skip
def test_register_compares_the_interval_with_the_slopes(table, functions, right, wrong):
    for k, interval in enumerate(wrong):
        with pytest.raises(ValueError, match=r"slope_interval .* is refuted by"):
            snode.register_activation(f"wrong{k}", *functions, interval)
        with pytest.raises(ValueError, match=r"slope_interval .* is refuted by"):
            snode.Activation("wrong", *functions, interval)
        assert f"wrong{k}" not in snode.activation_names()
    assert snode.register_activation("right", *functions, right).slope_interval == right
    assert snode.Activation("right", *functions, right).slope_interval == right


def test_refusal_says_where_and_what(table):
    with pytest.raises(ValueError) as refused:
        snode.register_activation("swish", *_swish(), (0.0, 1.0))
    said = str(refused.value)
    assert said.startswith("slope_interval (0, 1) is refuted by slope(-2.39936) = -0.0998393")
    assert said.endswith("the slopes seen reach from -0.0998393201 to 1.09983932")


@pytest.mark.parametrize("place", [0.3, -17.77, 4000.25])
def test_a_spike_between_the_points_needs_its_place_named(table, place):
    width = 1e-6 * max(1, abs(place))

    def value(a):
        return a + width * np.tanh((a - place) / width) / 2

    def slope(a):
        return 1 + 0.5 / np.cosh(np.clip((a - place) / width, -300, 300)) ** 2

    for kwargs in ({"test_points": [place]}, {"kinks": (place,)}):
        with pytest.raises(ValueError, match=r"is refuted by slope\(.*\) = 1\.5"):
            snode.register_activation("spike", value, slope, (1.0, 1.25), **kwargs)
        snode.register_activation(
            f"spike {len(kwargs)} {[*kwargs]}", value, slope, (1.0, 1.5), **kwargs
        )


@pytest.mark.parametrize("at", [0.0, 1.234567, -300.0])
def test_a_jump_is_an_infinite_slope(table, at):
    with pytest.raises(ValueError, match=r"is refuted by value, which rises|not the derivative"):
        snode.register_activation(
            "step", lambda a: a + 0.01 * (a > at), lambda a: 1 + 0 * a, (0.0, 1.0)
        )


@pytest.mark.parametrize(
    ("value", "slope"),
    [
        (np.tanh, lambda a: 1 - np.tanh(a)),
        (np.tanh, lambda a: (1 - np.tanh(a) ** 2) * (np.abs(a) < 3)),  # right at most points
        (lambda a: np.maximum(a, 0), lambda a: (a >= -0.01) * 1.0),
        (lambda a: np.maximum(a, 0), lambda a: (a < 0) * 1.0),
        (np.arctan, lambda a: 1 / (1 + a * a) + 1e-5),
        (lambda a: np.where(a > 20, 2 * a - 20, a), lambda a: np.ones_like(a)),
    ],
)
def test_a_slope_that_is_wrong_anywhere_on_the_grid_is_refused(table, value, slope):
    with pytest.raises(ValueError, match=r"slope is not the derivative of value: slope\(.*\) is"):
        snode.register_activation("mine", value, slope, (-3.0, 3.0))


def test_slopes_of_float32_are_looked_at(table):
    def slope(a):
        return np.ones_like(a) + (1e-3 if a.dtype == np.float32 else 0.0)

    with pytest.raises(ValueError, match=r"slope_interval \(0, 1\) is refuted"):
        snode.register_activation("mine", lambda a: +a, slope, (0.0, 1.0))


@pytest.mark.parametrize(
    ("value", "slope", "message"),
    [
        (np.tanh, lambda a: 1.0, r"slope must keep the shape"),
        (np.sum, lambda a: 1 + 0 * a, r"value must keep the shape"),
        (np.sqrt, lambda a: 0.5 / np.sqrt(a), r"value\(-1e-08\) is nan"),
        (np.arctan, lambda a: np.where(a == 0, np.nan, 1 / (1 + a * a)), r"slope\(0\) is nan"),
    ],
)
def test_functions_that_are_no_functions_of_the_line_are_refused(table, value, slope, message):
    with pytest.raises(ValueError, match=message):
        snode.register_activation("mine", value, slope, (0.0, 1.0))


def test_overflow_far_out_is_passed_over(table):
    snode.register_activation("naive", lambda a: np.log(1 + np.exp(a)), _logistic, (0.0, 1.0))


@pytest.mark.parametrize("interval", [(1.0, 0.0), (0.0,), 1.0, "ab", (0.0, np.nan), None])
def test_interval_must_be_one(interval):
    with pytest.raises(ValueError, match="slope_interval must be"):
        snode.Activation("mine", np.sin, np.cos, interval)


@pytest.mark.parametrize("point", [np.nan, np.inf])
def test_points_must_be_finite(table, point):
    with pytest.raises(ValueError, match="must be finite"):
        snode.register_activation("mine", np.sin, np.cos, (-1, 1), test_points=[point])
    with pytest.raises(ValueError, match="must be finite"):
        snode.register_activation("mine", np.sin, np.cos, (-1, 1), kinks=(point,))
