"""`check` must find planted mistakes and pass correct fields; orders are observed as they are."""

import dataclasses
import itertools
import sys

import fakecupy
import numpy as np
import pytest

import snode
from snode.checks import check, dot_test, observed_order, taylor_test
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
    def vjp(self, p, into=None):
        return -super().vjp(p, into)


class _MissingTranspose(LayerLinearization):
    def vjp(self, p, into=None):
        super().vjp(p, into)
        return self.W @ (self.slope * p)


class _ForgottenBatchSum(LayerLinearization):
    def vjp(self, p, into=None):
        if into is not None:
            q = self.slope * p
            into.outer("W", q, self.x, row=self.row)
            into.total("b", q[..., :1], row=self.row)  # one sample instead of the sum
        return super().vjp(p)


class _SecondDirectionLost(LayerLinearization):
    def vjp(self, p, into=None):
        super().vjp(p if p.ndim == 2 else p[0], into)
        return super().vjp(p)


class _OneDirectionOnly(LayerLinearization):
    def vjp(self, p, into=None):
        if into is not None:
            q = self.slope * p
            into.outer("W", q, self.x, row=self.row)
            into.add("b", q.sum(axis=1), row=self.row)  # the sum over the samples of a matrix
        return super().vjp(p)


class _ForgottenBias(LayerLinearization):
    def jvp(self, dx, dtheta=None):
        dtheta = {k: v for k, v in (dtheta or {}).items() if k != "b"}
        if dx is None and not dtheta:
            return np.zeros_like(self.x)
        return super().jvp(dx, dtheta)


def _as(kind):
    def change(lin):
        wrong = object.__new__(kind)
        for name in LayerLinearization.__slots__:
            setattr(wrong, name, getattr(lin, name))
        return wrong

    return change


def _scaled_slope(lin):
    lin.slope = 1.01 * lin.slope
    return lin


MISTAKES = {
    "wrong sign": (_as(_WrongSign), "vjp in x"),
    "missing transpose": (_as(_MissingTranspose), "vjp in x"),
    "forgotten batch sum": (_as(_ForgottenBatchSum), "vjp in b"),
    "forgotten bias": (_as(_ForgottenBias), "jvp in b"),
    "second direction lost": (_as(_SecondDirectionLost), "several directions"),
    "one direction only": (_as(_OneDirectionOnly), "several directions"),
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


@pytest.mark.parametrize("kind", [_SecondDirectionLost, _OneDirectionOnly])
def test_what_is_wrong_with_several_directions_is_no_other_row(kind):
    report = check(_with_linearization(_as(kind)), verbose=False)
    (row,) = [row for row in report.rows if not row.passed]
    assert row.name == "several directions at once, (..., n, m)"
    assert ("ValueError" in row.hint) == (kind is _OneDirectionOnly)


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
    wrong = snode.get_activation("relu")
    object.__setattr__(wrong, "slope", lambda a: 1.001 * (a > 0))  # the constructor would refuse it
    object.__setattr__(wrong, "kernel", None)
    report = check(_field(activation=wrong), verbose=False)
    failed = [row.name for row in report.rows if not row.passed]
    assert any("jvp in x" in name for name in failed), str(report)
    assert any("gradient" in name for name in failed), str(report)
    assert "slopes of relu in [0, 1]" in failed


@pytest.mark.parametrize("which", ["activation", "output_activation"])
@pytest.mark.parametrize("interval", [(0.0, 0.9), (0.1, 1.0), (1e-6, 1.0), (0.0, 1 - 1e-6)])
def test_slopes_outside_of_the_interval_are_reported(which, interval):
    wrong = dataclasses.replace(snode.get_activation("leaky_tanh", alpha=0.0), name="mine")
    object.__setattr__(wrong, "slope_interval", interval)
    field = snode.MLPField((2, 3, 2), rng=0, **{"activation": "tanh", which: wrong})
    failed = [row for row in check(field, verbose=False).rows if not row.passed]
    (row,) = failed
    assert row.name == f"slopes of mine in [{interval[0]:g}, {interval[1]:g}]"
    assert row.measured == pytest.approx(max(interval[0], 1 - interval[1]), rel=1e-5)
    assert "is outside" in row.hint


def test_a_changed_activation_loses_its_kernel():
    relu = snode.get_activation("relu")
    assert relu.kernel == "leaky"
    assert (
        dataclasses.replace(
            relu, value=np.sin, slope=np.cos, slope_interval=(-1.0, 1.0), kinks=()
        ).kernel
        is None
    )


# --- approximate derivatives ----------------------------------------------------------------------


def test_taylor_test_forgives_what_it_is_told_to():
    linear = lambda e: 3.0 * e  # noqa: E731
    assert taylor_test(linear, 3.0 * (1 + 1e-9)) == pytest.approx(1, abs=0.1)
    assert taylor_test(linear, 3.0 * (1 + 1e-9), derivative_error=1e-8) == np.inf
    assert taylor_test(linear, 3.0 * (1 + 1e-7), derivative_error=1e-8) == pytest.approx(1, abs=0.1)
    assert taylor_test(np.exp, 1.0, derivative_error=1e-8) == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("error", [-1e-9, 1.0, float("nan")])
def test_check_refuses_a_wrong_derivative_error(error):
    with pytest.raises(ValueError, match="derivative_error"):
        check(_field(), derivative_error=error)


# --- observed order -------------------------------------------------------------------------------


def _euler(f, t, x):
    for a, b in itertools.pairwise(t):
        x = x + (b - a) * f(a, x)
    return x


def _heun(f, t, x, weights=(0.5, 0.5)):
    for a, b in itertools.pairwise(t):
        k1 = f(a, x)
        k2 = f(b, x + (b - a) * k1)
        x = x + (b - a) * (weights[0] * k1 + weights[1] * k2)
    return x


def _rk4(f, t, x):
    for a, b in itertools.pairwise(t):
        h, mid = b - a, 0.5 * (a + b)
        k1 = f(a, x)
        k2 = f(mid, x + 0.5 * h * k1)
        k3 = f(mid, x + 0.5 * h * k2)
        k4 = f(b, x + h * k3)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def _spiral(t, x):
    """x' = (0 -1; 1 0) x cos t, the rotation by sin t."""
    return np.cos(t) * np.stack([-x[1], x[0]])


START = np.array([[1.0, 0.3], [0.2, -0.8]])
ROTATION = np.array([[np.cos(np.sin(1.5)), -np.sin(np.sin(1.5))],
                     [np.sin(np.sin(1.5)), np.cos(np.sin(1.5))]])  # fmt: skip


def _solver(method, **options):
    return lambda k: method(_spiral, np.linspace(0, 1.5, k + 1), START, **options)


@pytest.mark.parametrize(("method", "order"), [(_euler, 1), (_heun, 2), (_rk4, 4)])
@pytest.mark.parametrize("n_steps", [(20, 40, 80, 160), (30, 90, 270), np.array([96, 144, 216])])
def test_observed_order_is_the_order(method, order, n_steps):
    solve = _solver(method)
    assert observed_order(solve, n_steps, exact=ROTATION @ START) == pytest.approx(order, abs=0.1)
    assert observed_order(solve, n_steps) == pytest.approx(order, abs=0.1)


def test_observed_order_default_steps_and_numbers():
    asked = []

    def solve(k):
        asked.append(k)
        return 2.0 + 3.0 * (1.5 / k) ** 3

    assert observed_order(solve) == pytest.approx(3, abs=1e-6)
    assert asked == [20, 40, 80, 160]
    assert all(type(k) is int for k in asked)
    assert observed_order(solve, exact=2) == pytest.approx(3, abs=1e-6)
    assert observed_order(solve, (7, 20, 33), exact=2.0) == pytest.approx(3, abs=1e-6)
    assert observed_order(solve, (20, 40), exact=2.0) == pytest.approx(3, abs=1e-6)


def test_observed_order_sees_a_wrong_scheme():
    wrong = _solver(_heun, weights=(0.4, 0.6))  # consistent, but the quadrature is not of order 2
    assert observed_order(wrong, exact=ROTATION @ START) == pytest.approx(1, abs=0.1)
    assert observed_order(wrong) == pytest.approx(1, abs=0.1)
    inconsistent = _solver(_heun, weights=(0.5, 0.6))
    assert abs(observed_order(inconsistent, exact=ROTATION @ START)) < 0.2


def test_observed_order_sees_a_jump_inside_a_step():
    jump = lambda t, x: np.where(t < 0.512, 1.0, 5.0) * x  # noqa: E731
    exact = np.exp(0.512 + 5 * 0.488)
    for method in (_heun, _rk4):
        solve = lambda k: method(jump, np.linspace(0, 1, k + 1), np.ones((1, 1)))  # noqa: B023, E731
        assert observed_order(solve, exact=exact) < 1.7


def test_observed_order_leaves_rounding_out():
    # x' = 1: every method is exact
    solve = lambda k: _heun(lambda t, x: 1.0, np.linspace(0, 1, k + 1), 0.0)  # noqa: E731
    assert observed_order(solve, exact=1.0) == np.inf
    assert observed_order(solve) == np.inf
    assert observed_order(lambda k: 0.0) == np.inf
    # the last two errors are rounding: the slope is that of the others
    errors = {20: 1e-8, 40: 1e-8 / 16, 80: 5e-15, 160: 7e-15}
    assert observed_order(lambda k: 1.0 + errors[k], exact=1.0) == pytest.approx(4, abs=1e-3)
    # a single error above rounding is no slope
    assert observed_order(lambda k: 1.0 + errors[2 * k], (20, 40), exact=1.0) == np.inf
    # tiny results are not rounding, and huge ones do not overflow
    for size in (1e-200, 1e200, np.full((2, 1), 1e-200), np.full((2, 1), 1e200)):
        solve = lambda k: size * (1 + 1 / k)  # noqa: B023, E731
        assert observed_order(solve) == pytest.approx(1, abs=1e-6)


def test_observed_order_knows_float32():
    errors = {20: 1e-2, 40: 2.5e-3, 80: 9e-6, 160: 9e-6}
    solve = lambda k: np.full(3, 1 + errors[k], np.float32)  # noqa: E731
    assert observed_order(solve, exact=1.0) == pytest.approx(2, abs=1e-3)
    assert observed_order(solve, exact=np.ones(3)) == pytest.approx(2, abs=1e-3)


@pytest.mark.parametrize(
    ("n_steps", "exact", "message"),
    [
        ((20, 40), None, "n_steps must have at least three"),
        ((20,), 1.0, "n_steps must have at least two"),
        ((), 1.0, "n_steps must have at least two"),
        (20, 1.0, "n_steps must have at least two"),
        ((20, 10, 5), 1.0, "n_steps must be increasing"),
        ((20, 20, 40), 1.0, "n_steps must be increasing"),
        ((0, 1, 2), 1.0, "n_steps must be increasing positive"),
        ((20.0, 40.0, 80.0), 1.0, "n_steps must be increasing positive integers"),
        ((True, 2, 4), 1.0, "n_steps must be increasing positive integers"),
        ((20, 40, 60), None, "n_steps must grow by one ratio"),
        ((20, 40, 80), np.ones(2), "exact must be a number or have the shape"),
        ((20, 40, 80), np.ones(0), "exact is empty"),
    ],
)
def test_observed_order_errors_name_the_argument(n_steps, exact, message):
    with pytest.raises(ValueError, match=message):
        observed_order(lambda k: np.ones(3) / k, n_steps, exact=exact)


def test_observed_order_errors_of_results():
    with pytest.raises(ValueError, match=r"solve\(20\) has \(21,\), solve\(40\) has \(41,\)"):
        observed_order(lambda k: np.ones(k + 1))
    with pytest.raises(TypeError, match=r"the result of solve\(20\) must be a number or an array"):
        observed_order(lambda k: [1.0])
    for bad in (np.nan, np.inf, np.array([1.0, np.nan])):
        with pytest.raises(ArithmeticError, match=r"solve\(40\) is not finite"):
            observed_order(lambda k, bad=bad: bad if k == 40 else np.ones(np.shape(bad)))
    with pytest.raises(ArithmeticError, match="exact is not finite"):
        observed_order(lambda k: 1.0 / k, exact=np.inf)


def test_observed_order_on_a_device(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fakecupy.make())
    cp = sys.modules["cupy"]
    solve = lambda k: cp.asarray(_solver(_heun)(k))  # noqa: E731
    assert observed_order(solve) == pytest.approx(2, abs=0.1)
    assert observed_order(solve, exact=cp.asarray(ROTATION @ START)) == pytest.approx(2, abs=0.1)
