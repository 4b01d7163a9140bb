"""`check` must find planted mistakes, and pass correct fields."""

import dataclasses

import numpy as np
import pytest

import snode
from snode.checks import check, dot_test, taylor_test
from snode.fields.layer import LayerLinearization


def _field(**options):
    return snode.StandaloneField.random(4, 1.5, 6, rng=3, scale=0.6, **options)


@pytest.mark.parametrize("activation", snode.activation_names())
@pytest.mark.parametrize("interpolation", ["constant", "linear", "cubic"])
def test_correct_fields_pass(activation, interpolation):
    report = check(_field(activation=activation, interpolation=interpolation), verbose=False)
    assert report.passed, str(report)


def test_float32_field_is_checked_in_float64():
    assert check(_field(dtype="float32"), verbose=False).passed


def _with_linearization(change):
    """A StandaloneField whose linearisation has been changed by `change(lin)`."""

    class Wrong(snode.StandaloneField):
        def linearize(self, t, x):
            f, lin = super().linearize(t, x)
            return f, change(lin)

        def with_parameters(self, **parameters):
            good = super().with_parameters(**parameters)
            return Wrong(good.W, good.b, good.T, activation=good.activation)

    good = _field()
    return Wrong(good.W, good.b, good.T, activation=good.activation)


class _WrongSign(LayerLinearization):
    def vjp(self, p, into=None, weight=1.0):
        pull, partials = super().vjp(p, into, weight)
        return -pull, partials


class _MissingTranspose(LayerLinearization):
    def vjp(self, p, into=None, weight=1.0):
        _, partials = super().vjp(p, into, weight)
        return self.W @ (self.slope * p), partials


class _ForgottenBatchSum(LayerLinearization):
    def vjp(self, p, into=None, weight=1.0):
        pull, _ = super().vjp(p, None, weight)
        if into is None:
            into = {k: np.zeros_like(v) for k, v in self.field.parameters.items()}
        q = self.slope * p
        into["W"][self.row[0]] += weight * (q @ self.x.T)
        into["b"][self.row[0]] += weight * q[:, 0]  # one sample instead of the sum
        return pull, into


class _ForgottenBias(LayerLinearization):
    def jvp(self, dx, dtheta=None):
        dtheta = {k: v for k, v in (dtheta or {}).items() if k != "b"}
        if dx is None and not dtheta:
            return np.zeros_like(self.x)
        return super().jvp(dx, dtheta)


def _as(kind):
    return lambda lin: kind(lin.field, lin.row, lin.W, lin.x, lin.slope)


def _scaled_slope(lin):
    lin.slope = 1.01 * lin.slope
    return lin


MISTAKES = {
    "wrong sign": (_as(_WrongSign), "vjp in x"),
    "missing transpose": (_as(_MissingTranspose), "vjp in x"),
    "forgotten batch sum": (_as(_ForgottenBatchSum), "vjp in b"),
    "forgotten bias": (_as(_ForgottenBias), "jvp in b"),
    # consistent in jvp and vjp, so only the Taylor tests can see it
    "wrong slope": (_scaled_slope, "jvp in x"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_planted_mistake_is_found_and_named(name):
    change, expected = MISTAKES[name]
    report = check(_with_linearization(change), verbose=False)
    failed = [row.name for row in report.rows if not row.passed]
    assert not report.passed
    assert any(expected in row for row in failed), failed
    assert "FAIL" in str(report)


def test_samples_that_influence_each_other_are_found():
    class BatchNorm(snode.StandaloneField):
        def __call__(self, t, x):
            return super().__call__(t, x - x.mean(axis=1, keepdims=True))

    good = _field()
    report = check(BatchNorm(good.W, good.b, good.T), verbose=False)
    assert not next(r for r in report.rows if r.name == "each sample is on its own").passed


def test_report_is_printed(capsys):
    check(_field())
    assert "all passed" in capsys.readouterr().out


def test_check_needs_two_samples():
    with pytest.raises(ValueError, match="n_samples"):
        check(_field(), n_samples=1)


def test_dot_test_sees_a_missing_transpose():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((5, 5))
    u, v = rng.standard_normal((2, 5))
    assert dot_test(lambda u: A @ u, lambda v: A.T @ v, u, v) < 1e-15
    assert dot_test(lambda u: A @ u, lambda v: A @ v, u, v) > 1e-3


def test_taylor_test_orders():
    x, d = np.array([0.3, -0.8]), np.array([1.0, 2.0])
    right = np.cos(x) * d
    assert taylor_test(lambda e: np.sin(x + e * d), right) == pytest.approx(2, abs=0.05)
    assert taylor_test(lambda e: np.sin(x + e * d), 1.02 * right) == pytest.approx(1, abs=0.1)
    assert taylor_test(lambda e: 3 * (x + e * d), 3 * d) == np.inf


@pytest.mark.parametrize("seed", [1, 2])
def test_the_default_network_passes(seed):
    """Thousands of relu units: some always sit near their kink."""
    field = snode.StandaloneField.random(
        196, 3.0, 150, activation="relu", rng=seed, dtype="float32"
    )
    report = check(field, rng=seed, verbose=False)
    assert report.passed, str(report)


def test_a_wrong_slope_of_relu_is_found():
    relu = snode.get_activation("relu")
    wrong = dataclasses.replace(relu, slope=lambda a: 1.001 * (a > 0))
    report = check(_field(activation=wrong), verbose=False)
    failed = [row.name for row in report.rows if not row.passed]
    assert any("jvp in x" in name for name in failed), str(report)
    assert any("gradient" in name for name in failed), str(report)


def test_a_changed_activation_loses_its_kernel():
    relu = snode.get_activation("relu")
    assert relu.kernel == "leaky"
    assert dataclasses.replace(relu, value=np.sin, slope=np.cos).kernel is None
