"""Bad arguments are refused by name; a solve that leaves the finite numbers says so."""

import numpy as np
import pytest

import snode
from snode import IntegrationError, Status


@pytest.fixture
def field(make_field):
    return make_field(3, 4)


X0 = np.ones((3, 5))


def _spoiled(value):
    x = X0.copy()
    x[1, 3] = value
    return x


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x0", "error", "message"),
    [
        (X0.tolist(), TypeError, r"x0 must be a NumPy or CuPy array of shape \(3, m\).*got list"),
        (None, TypeError, "x0 must be .* got NoneType"),
        (1.0, TypeError, "x0 must be .* got float"),
        (np.ma.masked_array(X0), TypeError, "x0 must be .* got MaskedArray"),
        (X0.T, ValueError, r"x0 must have shape \(3, m\).*got \(5, 3\); did you mean x0.T"),
        (X0[:, 0], ValueError, r"x0 must have shape.*got \(3,\); use x0\[:, None\]"),
        (np.ones(7), ValueError, r"x0 must have shape \(3, m\), one column per sample; got \(7,\)"),
        (np.ones((4, 5)), ValueError, r"x0 must have shape \(3, m\).*got \(4, 5\)"),
        (np.ones((3, 5, 1)), ValueError, r"x0 must have shape.*got \(3, 5, 1\)"),
        (np.array(1.0), ValueError, r"x0 must have shape.*got \(\)"),
        (np.ones((3, 0)), ValueError, r"x0 must have shape.*got \(3, 0\)"),
        (np.ones((0, 0)), ValueError, "x0 must have shape"),
        (X0.astype(object), ValueError, "x0 must be float32 or float64; got object"),
        (X0.astype(int), ValueError, "x0 must be float32 or float64; got int64"),
        (X0.astype(complex), ValueError, "x0 must be float32 or float64; got complex128"),
        (X0.astype(np.float16), ValueError, "x0 must be float32 or float64; got float16"),
        (
            X0.astype(np.float32),
            ValueError,
            r"x0 is float32 but the field is float64.*use x0.astype\('float64'\)",
        ),
        (_spoiled(np.nan), ValueError, "x0 must be finite; component 1 of sample 3 is nan"),
        (_spoiled(np.inf), ValueError, "x0 must be finite; component 1 of sample 3 is inf"),
        (_spoiled(-np.inf), ValueError, "x0 must be finite; component 1 of sample 3 is -inf"),
    ],
)
def test_initial_states(field, x0, error, message):
    with pytest.raises(error, match=message):
        snode.solve_direct(field, x0)


def test_a_square_batch_gets_no_hint_and_no_error(field):
    assert snode.solve_direct(field, np.ones((3, 3))).success


@pytest.mark.parametrize("name", ["method", "keep"])
def test_unknown_options_list_the_valid_ones(field, name):
    valid = {"method": ["'euler'"], "keep": ["'all'", "'trajectory'", "'last'"]}[name]
    with pytest.raises(ValueError, match=f"{name} must be one of") as caught:
        snode.solve_direct(field, X0, **{name: "rk5"})
    assert all(word in str(caught.value) for word in [*valid, "'rk5'"])


@pytest.mark.parametrize(
    ("t", "message"),
    [
        ([0.0], "t must be a strictly monotone grid"),
        ([], "t must be a strictly monotone grid"),
        ([0.0, 1.0, 1.0, 1.5], "t must be a strictly monotone grid"),
        ([0.0, 1.0, 0.5], "t must be a strictly monotone grid"),
        ([0.0, np.nan, 1.5], "t must be a strictly monotone grid"),
        ([[0.0, 1.5]], "t must be a strictly monotone grid"),
        ([0.0, 0.375, 1.125, 1.5], "t must contain the field's breakpoints; 0.75 is missing"),
        ([0.0, 0.375, 0.75, 1.125, 1.6, 2.0], r"t must be in \[0, 1.5\]"),
    ],
)
def test_grids(field, t, message):
    with pytest.raises(ValueError, match=message):
        snode.solve_direct(field, X0, t=t)


def test_a_refined_grid_is_allowed(field):
    fine = np.linspace(0, field.T, 4 * field.n_layers + 1)
    sol = snode.solve_direct(field, X0, t=fine)
    assert sol.x.shape == (17, 3, 5)
    part = snode.solve_direct(field, X0, t=field.grid[:3])  # half the way
    assert np.array_equal(part.x, snode.solve_direct(field, X0).x[:3])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dx0": X0.T}, ValueError, r"dx0 must be float64 of shape \(3, 5\); got float64 of shape"),
        ({"dx0": X0.astype(np.float32)}, ValueError, "dx0 must be float64.*got float32"),
        ({"dx0": X0.tolist()}, TypeError, "dx0 must be an array"),
        ({"dtheta": {"V": X0}}, ValueError, "dtheta has an unknown parameter 'V'; known: W, b"),
        ({"dtheta": {"W": np.ones((3, 3))}}, ValueError, r"dtheta\['W'\] must be float64 of shape"),
        ({"dtheta": {"b": [1.0]}}, TypeError, r"dtheta\['b'\] must be an array"),
        (
            {"dtheta": {"b": np.ones((4, 3), np.float32)}},
            ValueError,
            r"dtheta\['b'\] must be float64.*got float32",
        ),
    ],
)
def test_sensitivity_arguments(field, options, error, message):
    with pytest.raises(error, match=message):
        snode.solve_sensitivity(snode.solve_direct(field, X0), **options)


@pytest.mark.parametrize(
    ("lam_T", "error", "message"),
    [
        (X0.T, ValueError, "lam_T must be float64 of shape"),
        (X0[:, 0], ValueError, "lam_T must be float64 of shape"),
        (X0.astype(np.float32), ValueError, "lam_T must be float64.*got float32"),
        (X0.tolist(), TypeError, "lam_T must be an array"),
    ],
)
def test_adjoint_arguments(field, lam_T, error, message):
    with pytest.raises(error, match=message):
        snode.solve_adjoint(snode.solve_direct(field, X0), lam_T)


# --- leaving the finite numbers -------------------------------------------------------------------


def with_bad_layer(field, layer, value):
    W = field.W.copy()
    W[layer, 2, 0] = value
    return field.with_parameters(W=W)


@pytest.mark.parametrize("keep", ["all", "trajectory"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bad_weights_are_located(make_field, keep, value):
    field = make_field(3, 4, activation="relu")
    bad = with_bad_layer(field, 2, value)
    with pytest.raises(IntegrationError, match=r"not finite at t=1\.125") as caught:
        snode.solve_direct(bad, X0, keep=keep)
    assert "component 2 of sample 0" in str(caught.value)
    assert "after the step from t=0.75" in str(caught.value)
    sol = caught.value.solution
    assert sol.status is Status.NONFINITE_RHS
    assert not sol.success
    assert str(caught.value) == sol.message
    good = snode.solve_direct(field, X0).x
    assert np.array_equal(sol.x[:3], good[:3])  # kept up to t
    assert np.isnan(sol.x[3:]).all()  # NaN after, never garbage
    assert np.isnan(sol.x_T).all()


def test_failure_can_be_returned_instead_of_raised(field):
    sol = snode.solve_direct(with_bad_layer(field, 0, np.nan), X0, raise_on_failure=False)
    assert not sol.success
    assert sol.status is Status.NONFINITE_RHS
    assert "t=0.375" in sol.message
    assert np.array_equal(sol.x[0], X0)
    assert np.isnan(sol.x[1:]).all()


def test_failure_without_trajectory(field):
    with pytest.raises(IntegrationError, match=r"not finite at t=1\.5") as caught:
        snode.solve_direct(with_bad_layer(field, 1, np.nan), X0, keep="last")
    assert caught.value.solution.x is None
    assert not np.isfinite(caught.value.solution.x_T).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["relu", "softplus", "identity", "elu"])
def test_overflow_is_a_failure_without_warnings(make_field, dtype, name):
    # filterwarnings = error: a warning would fail this test
    field = make_field(3, 30, activation=name, scale=1e30, dtype=dtype)
    with pytest.raises(IntegrationError, match="not finite at t="):
        snode.solve_direct(field, X0.astype(dtype))


@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_bounded_activations_survive_huge_weights(make_field, name):
    field = make_field(3, 30, activation=name, scale=1e30)
    sol = snode.solve_direct(field, X0)
    assert sol.success
    assert np.abs(sol.x_T).max() <= 1 + field.T  # |f| <= 1


def test_one_bad_sample_is_enough(make_field):
    field = make_field(3, 4, activation="identity", scale=1e100)
    x0 = np.zeros((3, 5))
    x0[:, 4] = 1e200
    with pytest.raises(IntegrationError, match="of sample 4"):
        snode.solve_direct(field, x0)


def test_field_that_returns_nan_at_one_depth():
    class Sick:
        n, parameters, breakpoints, grid = 2, {}, (), np.linspace(0, 1, 11)

        def __call__(self, t, x):
            return x * (np.nan if t > 0.45 else 1.0)

        def linearize(self, t, x):
            return self(t, x), None

    with pytest.raises(IntegrationError, match=r"not finite at t=0\.6.*after the step from t=0.5"):
        snode.solve_direct(Sick(), np.ones((2, 1)))


def test_integration_error_is_an_arithmetic_error():
    assert issubclass(IntegrationError, ArithmeticError)
