"""Every Numba kernel against its NumPy twin, in float32 and float64, on awkward shapes."""

import numpy as np
import pytest
from scipy.linalg import solveh_banded

from snode import _kernels
from snode.fields.depth import DepthBasis

pytestmark = pytest.mark.grid(4)


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


@pytest.fixture(params=["BLAS of NumPy", "Numba"])
def gemm(request, dtype):
    """The product as kernels get it: NumPy's own BLAS where that is found, or None."""
    if request.param == "Numba":
        return None
    found = _kernels.blas_gemm(np.dtype(dtype).name)
    if found is None:
        pytest.skip("NumPy has another BLAS than its wheels bring")
    return found


# --- products -------------------------------------------------------------------------------------

SIZES = [(1, 1, 1), (3, 5, 2), (7, 1, 4), (40, 33, 17)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("alpha", "beta"), [(1, 0), (0.5, 0), (1, 1), (0.5, 1)])
def test_product(draw, dtype, gemm, size, alpha, beta):
    m, k, n = size
    a, b, out = draw(m, k), draw(k, n), draw(m, n)
    expected = alpha * (a.astype(float) @ b) + beta * out
    if beta == 0:
        out[...] = np.nan  # it is not read
    _kernels.product(gemm, dtype(alpha), a, b, dtype(beta), out)
    assert_rounding(out, expected, dtype, factor=4 * k)


@pytest.mark.parametrize("size", SIZES)
def test_product_nt(draw, dtype, gemm, size):
    m, k, n = size
    a, b, out = draw(m, k), draw(n, k), draw(m, n)
    expected = out + 0.5 * (a.astype(float) @ b.T)
    _kernels.product_nt(gemm, dtype(0.5), a, b, out)
    assert_rounding(out, expected, dtype, factor=4 * k)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("beta", [0, 1])
def test_product_tn(draw, dtype, gemm, size, beta):
    m, k, n = size
    a, b, out = draw(k, m), draw(k, n), draw(m, n)
    expected = a.T.astype(float) @ b + beta * out
    _kernels.product_tn(gemm, a, b, dtype(beta), out)
    assert_rounding(out, expected, dtype, factor=4 * k)


def test_products_of_samples_in_the_middle_of_an_array(draw, dtype, gemm):
    a, b, out = draw(9, 4), draw(4, 3), np.zeros((9, 3), dtype)
    _kernels.product(gemm, dtype(1), a[2:5], b, dtype(0), out[2:5])
    assert_rounding(out[2:5], a[2:5].astype(float) @ b, dtype, factor=16)
    assert not out[:2].any()
    assert not out[5:].any()


# --- elementwise ----------------------------------------------------------------------------------

LENGTHS = [1, 3, 17, 1000]


@pytest.mark.parametrize("size", LENGTHS)
@pytest.mark.parametrize("alpha", [0.0, 0.01, 0.3])
def test_leaky_step(draw, dtype, size, alpha):
    a, bias, x = draw(size), draw(size), draw(size)
    x_next, v = np.empty_like(x), a + bias
    _kernels.leaky_step(a, bias, dtype(0.1), dtype(alpha), x, x_next)
    assert_rounding(a, np.where(v > 0, dtype(1), dtype(alpha)), dtype)
    assert_rounding(x_next, x + dtype(0.1) * np.where(v > 0, v, dtype(alpha) * v), dtype)


def test_leaky_step_at_the_kink(dtype):
    # as the activation: sigma'(0) = alpha
    a, out = np.zeros(1, dtype), np.empty(1, dtype)
    _kernels.leaky_step(a, np.zeros(1, dtype), dtype(1), dtype(0.25), a.copy(), out)
    assert (a[0], out[0]) == (0.25, 0.0)


@pytest.mark.parametrize("alpha", [0.0, 0.01])
def test_leaky_step_keeps_nan(dtype, alpha):
    a, out = np.full(1, np.nan, dtype), np.ones(1, dtype)
    x = np.ones(1, dtype)
    _kernels.leaky_step(a, np.zeros(1, dtype), dtype(1), dtype(alpha), x, out)
    assert np.isnan(out[0])


def tanh_by_kernel(v):
    x, out, slope = np.zeros_like(v), np.empty_like(v), v.copy()
    _kernels.tanh_step(slope, np.zeros_like(v), np.float32(1), x, out)
    return out, slope


def test_tanh_step():
    v = np.concatenate([np.linspace(-12, 12, 1_000_001), np.logspace(-37, 38, 100_001)])
    v = v.astype(np.float32)
    out, slope = tanh_by_kernel(v)
    exact = np.tanh(v.astype(float))
    units = np.abs(out - exact) / np.spacing(np.abs(exact).astype(np.float32))
    assert units.max() <= 1.5
    assert np.abs(out).max() == 1
    assert_rounding(slope, 1 - out * out, np.float32, factor=1)
    assert_rounding(slope, 1 - exact * exact, np.float32)
    # all of a step
    rng = np.random.default_rng(0)
    a, bias, x = rng.standard_normal((3, 777)).astype(np.float32)
    got, h = np.empty_like(x), np.float32(0.1)
    expected = x + h * np.tanh((a + bias).astype(float))
    _kernels.tanh_step(a, bias, h, x, got)
    assert_rounding(got, expected, np.float32)


def test_tanh_step_beyond_all_numbers():
    v = np.array([np.nan, np.inf, -np.inf, 0.0] * 9, np.float32)
    out, slope = tanh_by_kernel(v)
    assert np.array_equal(out, np.tanh(v), equal_nan=True)
    assert np.array_equal(slope, 1 - np.tanh(v) ** 2, equal_nan=True)


@pytest.mark.parametrize(("size", "times"), [(1, 1), (3, 1), (3, 4), (17, 2)])
def test_repeat_row(draw, dtype, size, times):
    row, out = draw(size), np.empty(size * times, dtype)
    _kernels.repeat_row(row, out)
    assert np.array_equal(out, np.tile(row, times))


@pytest.mark.parametrize("size", LENGTHS)
def test_scaled_step(draw, dtype, size):
    slope, lam, acc = draw(size), draw(size), draw(size)
    q, expected = np.empty(size, dtype), acc + slope * lam
    _kernels.scaled_step(slope, lam, q, acc)
    assert np.array_equal(q, slope * lam)
    assert_rounding(acc, expected, dtype)


@pytest.mark.parametrize("size", LENGTHS)
def test_tangent_step(draw, dtype, size):
    u, db, slope, xi = (draw(size) for _ in range(4))
    expected = xi + dtype(0.1) * (slope * (u + db))
    _kernels.tangent_step(u, db, dtype(0.1), slope, xi)
    assert_rounding(xi, expected, dtype)


# --- sweeps: some layers of some samples ----------------------------------------------------------

K, N, M = 5, 3, 8
SAMPLES = [(0, M), (3, 7), (2, 3)]
RANGES = [(0, K, 0, M), (0, K, 3, 7), (2, 4, 0, M), (1, 3, 2, 3)]
WIDTHS = [N, 4 * N]  # one sample or four at a time; four do not divide the samples


@pytest.mark.parametrize("samples", SAMPLES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("is_tanh", [False, True])
def test_forward_sweep(draw, dtype, gemm, samples, width, is_tanh):
    if is_tanh and dtype is np.float64:
        pytest.skip("the kernel of tanh is for float32")
    r0, r1 = samples
    W, b, x, slope = draw(K, N, N), draw(K, N), draw(K + 1, M, N), draw(K, M, N)
    expected_x, expected_slope = x.copy(), slope.copy()
    for k in range(K):
        a = expected_x[k, r0:r1] @ W[k] + b[k]
        y = np.tanh(a) if is_tanh else np.where(a > 0, a, dtype(0.2) * a)
        expected_slope[k, r0:r1] = 1 - y * y if is_tanh else np.where(a > 0, 1, 0.2)
        expected_x[k + 1, r0:r1] = expected_x[k, r0:r1] + dtype(0.1) * y
    _kernels.forward_sweep(
        gemm, is_tanh, dtype(0.2), dtype(0.1), W, b, x, slope, r0, r1,
        np.empty(width, dtype),
    )  # fmt: skip
    assert_rounding(x, expected_x, dtype, factor=40)
    assert_rounding(slope, expected_slope, dtype, factor=40)


@pytest.mark.parametrize("layers_and_samples", RANGES)
@pytest.mark.parametrize("width", WIDTHS)
def test_adjoint_sweep(draw, dtype, gemm, layers_and_samples, width):
    k0, k1, r0, r1 = layers_and_samples
    W, slope, lam, q, gb = draw(K, N, N), draw(K, M, N), draw(M, N), draw(K, M, N), draw(K, N)
    expected = [a.copy() for a in (lam, q, gb)]
    for k in reversed(range(k0, k1)):
        step = slope[k, r0:r1] * expected[0][r0:r1]
        expected[1][k - k0, r0:r1] = step
        expected[2][k] += step.sum(axis=0)
        expected[0][r0:r1] += dtype(0.1) * (step @ W[k].T)
    _kernels.adjoint_sweep(
        gemm, dtype(0.1), W, slope, lam, q, gb, k0, k1, r0, r1, np.empty(width, dtype)
    )
    for got, wanted in zip((lam, q, gb), expected, strict=True):
        assert_rounding(got, wanted, dtype, factor=40)


@pytest.mark.parametrize("samples", SAMPLES)
@pytest.mark.parametrize("width", WIDTHS)
def test_tangent_sweep(draw, dtype, gemm, samples, width):
    r0, r1 = samples
    W, dW, db = draw(K, N, N), draw(K, N, N), draw(K, N)
    x, slope, xi = draw(K + 1, M, N), draw(K, M, N), draw(M, N)
    expected = xi.copy()
    for k in range(K):
        u = expected[r0:r1] @ W[k] + x[k, r0:r1] @ dW[k] + db[k]
        expected[r0:r1] += dtype(0.1) * (slope[k, r0:r1] * u)
    _kernels.tangent_sweep(
        gemm, dtype(0.1), W, dW, db, x, slope, xi, np.empty_like(xi), r0, r1,
        np.empty(width, dtype),
    )  # fmt: skip
    assert_rounding(xi, expected, dtype, factor=40)


@pytest.mark.parametrize("beta", [0, 1])
@pytest.mark.parametrize("finish", [False, True])
@pytest.mark.parametrize("given", ["none", "both"])
def test_gradient_layers(draw, dtype, gemm, beta, finish, given):
    x, q, g = draw(K + 1, M, N), draw(4, M, N), draw(K, N, N)
    m = M - 2  # the buffers may be wider than the batch
    theta, d, g_old = draw(K, N, N), draw(K, N, N), draw(K, N, N)
    expected = g.copy()
    for k in (2, 4):  # of the layers 1..4, those of the second of two threads
        expected[k] = x[k, :m].T @ q[k - 1, :m] + beta * g[k] + finish * dtype(0.3) * theta[k]
    dots = np.zeros(3)
    some = slice(K if given == "both" else 0)
    _kernels.gradient_layers(
        gemm, x, q, m, dtype(beta), g, 1, 5, 1, 2, finish, dtype(0.3), theta, d[some], g_old[some],
        np.empty((3, N)), dots,
    )  # fmt: skip
    assert_rounding(g, expected, dtype, factor=100)
    sums = [float(np.sum(g[[2, 4]].astype(float) * other[[2, 4]])) for other in (g, g_old, d)]
    if given == "none":
        sums[1:] = 0, 0
    assert dots == pytest.approx(np.array(sums) * finish, rel=1e-12, abs=1e-12)


# --- parameters -----------------------------------------------------------------------------------


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


@pytest.mark.parametrize("size", [1, 17, 1000])
def test_add_products(draw, size):
    a, b = draw(size), draw(size)
    acc = np.random.default_rng(1).standard_normal(size)
    expected = acc + a.astype(float) * b.astype(float)
    _kernels.add_products(a, b, acc)
    assert_rounding(acc, expected, np.float64)  # float64 also for float32 arguments


@pytest.mark.parametrize("n", [1, 2, 23])
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("given", [(), ("d",), ("g_old",), ("d", "g_old")])
def test_finish_layer(draw, dtype, n, decay, given):
    g, theta = draw(n, n), draw(n, n)
    arrays = {name: draw(n, n)[: n * (name in given)] for name in ("d", "g_old")}
    expected = g + dtype(decay) * theta
    dots = np.array([1.0, 2.0, 3.0])  # added to
    _kernels.finish_layer(
        g,
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
