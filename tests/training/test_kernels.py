"""Every Numba kernel against its NumPy twin, in float32 and float64, on awkward shapes."""

import numpy as np
import pytest
from scipy.linalg import solveh_banded

from snode import _kernels
from snode.fields.depth import DepthBasis

SHAPES = [(1, 1), (3, 5), (7, 1), (1, 9), (16, 33)]


@pytest.fixture(params=[np.float32, np.float64])
def dtype(request):
    return request.param


@pytest.fixture
def draw(dtype):
    rng = np.random.default_rng(0)
    return lambda *shape: rng.standard_normal(shape).astype(dtype)


def assert_rounding(got, expected, dtype, factor=4):
    assert got.dtype == dtype
    assert np.abs(got - expected).max() <= factor * np.finfo(dtype).eps * (
        1 + np.abs(expected).max()
    )


def test_every_kernel_is_tested_here():
    kernels = {name for name, f in vars(_kernels).items() if hasattr(f, "py_func")}
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert kernels <= tested


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("alpha", [0.0, 0.01, 0.3])
def test_leaky_step(draw, dtype, shape, alpha):
    a, bias, x = draw(*shape), draw(shape[0]), draw(*shape)
    x_next, slope = np.empty_like(x), np.empty_like(x)
    _kernels.leaky_step(a, bias, dtype(0.1), dtype(alpha), x, x_next, slope)
    v = a + bias[:, None]
    assert_rounding(slope, np.where(v > 0, dtype(1), dtype(alpha)), dtype)
    assert_rounding(x_next, x + dtype(0.1) * np.where(v > 0, v, dtype(alpha) * v), dtype)


def test_leaky_step_at_the_kink(dtype):
    # as the activation: sigma'(0) = alpha
    a, out, slope = np.zeros((1, 1), dtype), np.empty((1, 1), dtype), np.empty((1, 1), dtype)
    _kernels.leaky_step(a, np.zeros(1, dtype), dtype(1), dtype(0.25), a, out, slope)
    assert (slope[0, 0], out[0, 0]) == (0.25, 0.0)


@pytest.mark.parametrize("alpha", [0.0, 0.01])
def test_leaky_step_keeps_nan(dtype, alpha):
    a, out, slope = np.full((1, 1), np.nan, dtype), np.ones((1, 1), dtype), np.ones((1, 1), dtype)
    x = np.ones((1, 1), dtype)
    _kernels.leaky_step(a, np.zeros(1, dtype), dtype(1), dtype(alpha), x, out, slope)
    assert np.isnan(out[0, 0])


@pytest.mark.parametrize("shape", SHAPES)
def test_tanh_step(draw, dtype, shape):
    y, x = np.tanh(draw(*shape)), draw(*shape)
    x_next, slope = np.empty_like(x), np.empty_like(x)
    _kernels.tanh_step(y, dtype(0.1), x, x_next, slope)
    assert_rounding(slope, 1 - y * y, dtype)
    assert_rounding(x_next, x + dtype(0.1) * y, dtype)
    same = y.copy()
    _kernels.tanh_step(same, dtype(0.1), x, x_next, same)  # in place
    assert np.array_equal(same, slope)


@pytest.mark.parametrize("size", [0, 1, 17, 1000])
def test_add_scaled(draw, dtype, size):
    base, direction, out = draw(size), draw(size), np.empty(size, dtype)
    _kernels.add_scaled(dtype(0.3), base, direction, out)
    expected = base + dtype(0.3) * direction
    if size:
        assert_rounding(out, expected, dtype)
    _kernels.add_scaled(dtype(0.3), base, direction, base)  # in place
    assert np.array_equal(base, out)


@pytest.mark.parametrize("size", [1, 17, 1000])
def test_scale_and_subtract(draw, dtype, size):
    direction, gradient = draw(size), draw(size)
    expected = dtype(0.7) * direction - gradient
    _kernels.scale_and_subtract(dtype(0.7), direction, gradient)
    assert_rounding(direction, expected, dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_tangent_step(draw, dtype, shape):
    wx, dwx, slope, xi = (draw(*shape) for _ in range(4))
    db = draw(shape[0])
    expected = xi + dtype(0.1) * (slope * (wx + dwx + db[:, None]))
    _kernels.tangent_step(wx, dwx, db, slope, dtype(0.1), xi)
    assert_rounding(xi, expected, dtype)


@pytest.mark.parametrize("size", [1, 17, 1000])
def test_add_products(draw, size):
    a, b = draw(size), draw(size)
    acc = np.random.default_rng(1).standard_normal(size)
    expected = acc + a.astype(float) * b.astype(float)
    _kernels.add_products(a, b, acc)
    assert_rounding(acc, expected, np.float64)  # float64 also for float32 arguments


@pytest.mark.parametrize("shape", SHAPES)
def test_adjoint_step(draw, dtype, shape):
    u, lam, slope, q = (draw(*shape) for _ in range(4))
    expected = lam + dtype(0.1) * u
    _kernels.adjoint_step(dtype(0.1), u, lam, slope, q)
    assert_rounding(lam, expected, dtype)
    assert_rounding(q, slope * lam, dtype)


@pytest.mark.parametrize("n", [1, 2, 23])
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("given", [(), ("other",), ("d",), ("g_old",), ("other", "d", "g_old")])
def test_finish_layer(draw, dtype, n, decay, given):
    g, theta = draw(n, n), draw(n, n)
    arrays = {name: draw(n, n)[: n * (name in given)] for name in ("other", "d", "g_old")}
    expected = g + dtype(decay) * theta
    if "other" in given:
        expected += arrays["other"]
    dots = np.array([1.0, 2.0, 3.0])  # added to
    _kernels.finish_layer(
        g,
        arrays["other"],
        dtype(decay),
        theta,
        arrays["d"],
        arrays["g_old"],
        np.empty((3, n)),
        dots,
    )
    assert_rounding(g, expected, dtype)
    for start, value, other in zip(
        (1, 2, 3), dots, (g, *map(arrays.get, ("g_old", "d"))), strict=True
    ):
        products = g.astype(float)[: len(other)] * other
        size = 1e-13 * (10 + np.abs(products).sum())
        assert value == pytest.approx(start + products.sum(), abs=size)


@pytest.mark.parametrize("kind", ["constant", "linear"])
@pytest.mark.parametrize("K", [1, 2, 3, 40])
@pytest.mark.parametrize(("c0", "c1"), [(0, 6), (0, 1), (2, 5), (5, 6)])
@pytest.mark.parametrize("given", ["both", "d", "g_old", "none"])
def test_riesz_block(draw, dtype, kind, K, c0, c1, given):
    gram = DepthBasis(kind, K, 3.0).gram(0.5)
    size, factor = gram.size, 0.25
    p = draw(size, 6)
    empty = np.empty((0, 0), dtype)
    d = draw(size, 6) if given in ("both", "d") else empty
    g_old = draw(size, 6) if given in ("both", "g_old") else empty
    r, work, dots = p.copy(), np.empty((size, c1 - c0), dtype), np.full(3, np.nan)
    inverse_pivots, ratios = (a.astype(dtype) for a in (factor / gram.pivots, gram.ratios))
    _kernels.riesz_block(inverse_pivots, ratios, r, d, g_old, c0, c1, work, dots)
    pick = slice(c0, c1)
    bands = gram.diagonals[:2] if size > 1 else gram.diagonals[:1]
    expected = factor * solveh_banded(bands, p[:, pick].astype(float), lower=True)
    cond = 12 * (1 + 4 * (0.5 * K / 3) ** 2)
    assert_rounding(r[:, pick], expected, dtype, factor=cond)
    assert np.array_equal(np.delete(r, np.r_[pick], axis=1), np.delete(p, np.r_[pick], axis=1))
    for value, other in zip(dots, (r, g_old, d), strict=True):
        if other.size == 0:
            assert value == 0.0
        else:  # float64 sums of the numbers that were stored
            products = p[:, pick].astype(float) * other[:, pick]
            assert value == pytest.approx(products.sum(), abs=1e-13 * np.abs(products).sum())


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (40, 1), (33, 20)])
def test_lanczos_step(draw, dtype, shape):
    n, s = shape
    for k in range(min(4, n)):
        Q = np.zeros((k + 2, n, s), dtype)
        for c in range(s):
            Q[: k + 1, :, c] = np.linalg.qr(draw(n, k + 1))[0].T
        v = draw(n, s)
        alpha, beta = np.zeros(s), np.zeros(s)
        expected_alpha, w = (Q[k] * v).sum(axis=0), v.copy()
        for _ in range(2):
            w -= np.einsum("kns,ks->ns", Q[: k + 1], np.einsum("kns,ns->ks", Q[: k + 1], w))
        _kernels.lanczos_step(Q, k, v, alpha, beta)
        assert_rounding(alpha.astype(dtype), expected_alpha, dtype, factor=4 * n)
        assert_rounding(v, w, dtype, factor=4 * n)
        assert_rounding(beta, np.linalg.norm(v.astype(float), axis=0), np.float64)
        if n > k + 1:  # else nothing is left but rounding
            gram = np.einsum("ins,jns->sij", Q, Q)
            assert np.abs(gram - np.eye(k + 2)).max() <= 8 * n * np.finfo(dtype).eps


def test_lanczos_step_where_nothing_is_left(dtype):
    Q = np.zeros((2, 3, 2), dtype)
    Q[0, 0], Q[1] = 1, 7
    v = np.array([[2, 3], [0, 0], [0, 4]], dtype)  # the first column is a multiple of Q[0]
    alpha, beta = np.zeros(2), np.zeros(2)
    _kernels.lanczos_step(Q, 0, v, alpha, beta)
    assert np.array_equal(alpha, [2, 3])
    assert np.array_equal(beta, [0, 4])
    assert np.array_equal(Q[1], [[0, 0], [0, 0], [0, 1]])
