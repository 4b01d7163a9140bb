"""L2(0,T) and H1(0,T): exact Riesz maps, analytic solutions of eq. (9), units of length."""

import numpy as np
import pytest

import snode
from snode import H1, L2, Euclidean
from snode.fields.depth import DepthBasis
from snode.training.innerproducts import as_inner_product, pair

pytestmark = pytest.mark.grid(3)

EPS = np.finfo(np.float64).eps
INNER = [L2(), H1(), H1(0.1), H1(7.0), Euclidean()]


class Profile:
    """Stands for a field with one parameter ``u`` of shape (size,): a scalar function of depth."""

    def __init__(self, kind, K, T):
        self.basis = DepthBasis(kind, K, T)
        self.depth_basis = {"u": self.basis}

    @property
    def points(self):
        """Where the entries of u are values: cell centres, or nodes."""
        grid = self.basis.grid
        return (grid[1:] + grid[:-1]) / 2 if self.basis.kind == "constant" else grid

    def sobolev(self, u, length=1.0):
        """The H1 representative v of the L2 density u: v - l^2 v'' = u."""
        partials = {"u": L2().on(self).gram("u").matvec(u)}
        return H1(length).on(self).riesz(partials)["u"]


# --- the Riesz map is exact -----------------------------------------------------------------------


@pytest.mark.parametrize("inner", INNER, ids=repr)
@pytest.mark.parametrize("K", [1, 2, 3, 30])
def test_riesz_represents_the_derivative(make_field, random_like, interpolation, inner, K):
    field = make_field(3, K, interpolation=interpolation)
    bound = inner.on(field)
    partials, d = random_like(field.parameters, 1), random_like(field.parameters, 2)
    g = bound.riesz(partials)
    # the error of the solve is at most eps * cond in the norm of g; cond <= 1 + 4 (l K / T)^2 * 10
    length = 0 if isinstance(inner, Euclidean) else inner.length
    cond = 40 * (1 + 4 * (length * K / field.T) ** 2)
    size = bound.norm(g) * bound.norm(d)
    assert abs(bound.dot(g, d) - pair(partials, d)) <= 10 * EPS * cond**0.5 * size


@pytest.mark.parametrize("inner", INNER, ids=repr)
def test_dot_is_an_inner_product(make_field, random_like, interpolation, inner):
    field = make_field(3, 6, interpolation=interpolation)
    bound = inner.on(field)
    u, v, w = (random_like(field.parameters, seed) for seed in range(3))
    mixed = {k: 2 * u[k] - 3 * v[k] for k in u}
    assert bound.dot(u, v) == pytest.approx(bound.dot(v, u), rel=1e-12)
    assert bound.dot(mixed, w) == pytest.approx(
        2 * bound.dot(u, w) - 3 * bound.dot(v, w), rel=1e-11
    )
    assert bound.dot(u, u) > 0
    assert bound.norm(u) == pytest.approx(bound.dot(u, u) ** 0.5, rel=4 * EPS)


def test_l2_is_the_integral(make_field, random_like, interpolation):
    field = make_field(2, 5, interpolation=interpolation)
    u, v = (random_like(field.parameters, seed) for seed in range(2))
    points, w = np.polynomial.legendre.leggauss(5)
    h = field.T / 5
    total = 0.0
    for cell in range(5):
        for point, weight in zip(points, w, strict=True):
            t = h * (cell + (point + 1) / 2)
            for name in u:
                start, row = field.depth_basis[name].row(t)
                window = slice(start, start + len(row))
                values = (np.tensordot(row, a[name][window], 1) for a in (u, v))
                total += weight * h / 2 * np.sum(np.multiply(*values))
    assert L2().on(field).dot(u, v) == pytest.approx(total, rel=1e-12)


def test_l2_riesz_of_cells_is_division_by_h(make_field, random_like):
    field = make_field(3, 6)
    partials = random_like(field.parameters)
    g = L2().on(field).riesz(partials)
    for name in partials:
        assert g[name] == pytest.approx(partials[name] / (field.T / 6), rel=4 * EPS)


def test_euclidean_is_a_plain_sum(make_field, random_like, interpolation):
    field = make_field(3, 6, interpolation=interpolation)
    u, v = (random_like(field.parameters, seed) for seed in range(2))
    bound = Euclidean().on(field)
    assert bound.dot(u, v) == pytest.approx(sum(np.sum(u[k] * v[k]) for k in u), rel=1e-13)
    g = bound.riesz(u)
    assert all(np.array_equal(g[k], u[k]) and not np.shares_memory(g[k], u[k]) for k in u)


@pytest.mark.parametrize("inner", INNER, ids=repr)
def test_parameters_without_a_basis_are_plain_numbers(inner):
    bound = inner.on(object())
    v = {"a": np.arange(3.0), "s": np.array(2.0)}
    u = {"a": np.array([1.0, -1.0, 2.0]), "s": np.array(3.0)}
    assert bound.dot(u, v) == pytest.approx(3.0 + 6.0, rel=4 * EPS)
    g = bound.riesz(u)
    assert all(np.array_equal(g[k], u[k]) for k in u)


@pytest.mark.parametrize("inner", INNER, ids=repr)
def test_arguments_are_not_changed(make_field, random_like, interpolation, inner):
    field = make_field(3, 6, interpolation=interpolation)
    u = random_like(field.parameters)
    before = {k: p.copy() for k, p in u.items()}
    inner.on(field).riesz(u)
    inner.on(field).dot(u, u)
    assert all(np.array_equal(u[k], before[k]) for k in u)


def test_sums_of_float32_are_accurate():
    # 1000 depths of 100 numbers: the depths are summed in float64
    u = {"W": np.full((1000, 10, 10), 0.1, np.float32)}
    exact = 1e5 * float(np.float32(0.1)) ** 2
    assert pair(u, u) == pytest.approx(exact, rel=25 * float(np.finfo(np.float32).eps))


# --- eq. (9) --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["constant", "linear", "cubic"])
@pytest.mark.parametrize("K", [1, 2, 3, 20, 150])
@pytest.mark.parametrize("length", [0.1, 1.0, 5.0])
def test_constants_are_fixed_points(kind, K, length):
    v = Profile(kind, K, 3.0).sobolev(np.full(K + (kind != "constant"), 2.5), length)
    # cond of the H1 matrix: about 1 + 4 (l K / T)^2 (ten times that for splines), eps for each
    assert np.abs(v - 2.5).max() <= 100 * EPS * (1 + 4 * (length * K / 3.0) ** 2)


def errors_of(kind, function, solution, cells, T, length=1.0):
    out = []
    for K in cells:
        profile = Profile(kind, K, T)
        v = profile.sobolev(function(profile.points), length)
        out.append(np.abs(v - solution(profile.points)).max())
    return np.array(out)


@pytest.mark.parametrize(
    # cardinal cubic splines interpolate at order 4
    ("kind", "order"),
    [("constant", 2), ("linear", 2), ("cubic", 4)],
)
@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("length", [0.3, 1.0])
def test_cosines_are_eigenfunctions(kind, order, k, length):
    T = 2.0

    def cosine(t):
        return np.cos(k * np.pi * t / T)

    factor = 1 / (1 + (length * k * np.pi / T) ** 2)
    cells = [80, 160, 320] if order == 2 else [40, 80, 160]
    errors = errors_of(kind, cosine, lambda t: factor * cosine(t), cells, T, length)
    orders = np.log2(errors[:-1] / errors[1:])
    assert orders.min() >= order - 0.2
    assert kind == "cubic" or orders.max() <= order + 0.1


def eq_9(u, t, T, length):
    """Closed form of the paper for l = 1, in units of l; Gauss quadrature of 60 points."""
    points, w = np.polynomial.legendre.leggauss(60)

    def integral(f, a, b):
        s = (a + b) / 2 + (b - a) / 2 * points
        return (b - a) / 2 * np.sum(w * f(s))

    out = []
    for depth in t / length:
        end = T / length
        left = integral(lambda s: np.cosh(s) * u(length * s), 0, depth)
        right = integral(lambda s, end=end: np.cosh(end - s) * u(length * s), depth, end)
        out.append((np.cosh(end - depth) * left + np.cosh(depth) * right) / np.sinh(end))
    return np.array(out)


@pytest.mark.parametrize("kind", ["constant", "linear", "cubic"])
@pytest.mark.parametrize("length", [1.0, 0.5])
def test_closed_form_of_the_paper(kind, length):
    T = 3.0

    def u(t):
        return np.exp(np.sin(2 * t)) + t

    cells = [40, 80, 160]
    errors = errors_of(kind, u, lambda t: eq_9(u, t, T, length), cells, T, length)
    orders = np.log2(errors[:-1] / errors[1:])
    assert orders.min() >= 1.85
    assert errors[-1] <= 1e-3 * np.abs(eq_9(u, np.linspace(0, T, 7), T, length)).max()


@pytest.mark.parametrize("kind", ["constant", "linear", "cubic"])
@pytest.mark.parametrize("factor", [0.25, 4.0, 10.0])
def test_length_has_the_unit_of_depth(kind, factor):
    # stretching depth and length together changes nothing
    u = np.random.default_rng(0).standard_normal(12 + (kind != "constant"))
    plain = Profile(kind, 12, 3.0).sobolev(u, 0.7)
    stretched = Profile(kind, 12, factor * 3.0).sobolev(u, factor * 0.7)
    assert stretched == pytest.approx(plain, rel=1e-11, abs=1e-12)


@pytest.mark.parametrize("kind", ["constant", "linear", "cubic"])
def test_short_and_long_lengths(kind):
    u = np.random.default_rng(0).standard_normal(12 + (kind != "constant"))
    profile = Profile(kind, 12, 3.0)
    mean = pair({"u": L2().on(profile).gram("u").matvec(u)}, {"u": np.ones_like(u)}) / 3.0
    assert profile.sobolev(u, 1e-6) == pytest.approx(u, abs=1e-8)
    # l^2 v'' balances u - mean: the deviation is of size (T / l)^2
    assert np.abs(profile.sobolev(u, 1e4) - mean).max() <= 1e-6


def test_smoothing_is_not_an_increase(make_field, random_like, interpolation):
    # <v, v>_H1 = <u, v>_L2 <= |u| |v|
    field = make_field(2, 9, interpolation=interpolation)
    partials = random_like(field.parameters)
    u, v = L2().on(field).riesz(partials), H1().on(field).riesz(partials)
    assert L2().on(field).norm(v) <= L2().on(field).norm(u) * (1 + 1e-12)


# --- names and errors -----------------------------------------------------------------------------


def test_names(make_field):
    field = make_field()
    for name, expected in (("l2", L2), ("H1", H1), ("euclidean", Euclidean)):
        inner = as_inner_product(name, field)
        assert type(inner) is expected
        assert inner.field is field
    assert as_inner_product("h1", field).length == 1.0
    assert as_inner_product(H1(0.3), field).length == 0.3
    assert [repr(i) for i in INNER[:2]] == ["L2()", "H1(length=1)"]


def test_errors_name_the_argument(make_field):
    field = make_field()
    with pytest.raises(ValueError, match=r"inner must be one of 'l2', 'h1', 'euclidean'.*'h2'"):
        as_inner_product("h2", field)
    with pytest.raises(TypeError, match="inner must be"):
        as_inner_product(3, field)
    with pytest.raises(TypeError, match="inner must be"):
        as_inner_product(H1, field)
    with pytest.raises(ValueError, match=r"L2\(\) does not know a field: use inner.on"):
        L2().dot(field.parameters, field.parameters)
    for length in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="length must be"):
            H1(length)
    with pytest.raises(ValueError, match="L2 has no length"):
        L2(1.0)


def test_binding_leaves_the_original_free(make_field):
    inner = snode.H1(0.5)
    inner.on(make_field())
    assert inner.field is None
