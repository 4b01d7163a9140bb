"""Partials: what is added, with which factor, to which rows; several directions; `(..., n, m)`."""

import itertools

import numpy as np
import pytest
from transposes import pulled

import snode
from snode import Partials
from snode.fields.depth import DepthBasis

A, B, M, K, T = 3, 4, 5, 6, 1.5
EPS = np.finfo(np.float64).eps
LEADING = [(), (1,), (4,), (2, 3), (2, 1, 3)]


def draw(*shape, seed=0):
    return np.random.default_rng([9, seed, *shape]).standard_normal(shape)


def start():
    """Arrays that are not zero: what is there stays there."""
    return {"W": draw(A, B), "b": draw(A), "stack": draw(K + 1, A, B), "row": draw(K + 1, A)}


def added(action, name):
    """What `action` adds to an array; the others do not change, and no array moves."""
    arrays, before = start(), start()
    kept = dict(arrays)
    action(Partials(arrays))
    assert all(arrays[key] is kept[key] for key in kept)
    assert all(np.array_equal(arrays[key], before[key]) for key in arrays if key != name)
    return arrays[name] - before[name]


def close(a, b):
    assert a.shape == b.shape
    return np.abs(a - b).max() <= 100 * EPS * max(np.abs(b).max(), 1.0)


def loop(q, z):
    """Sum q z^T over directions and samples, by entries; either may have one direction only."""
    result = np.zeros((A, B))
    leading = q.shape[:-2] or z.shape[:-2]
    for index in itertools.product(*map(range, leading)):
        one = q[index] if q.ndim > 2 else q
        other = z[index] if z.ndim > 2 else z
        for k in range(M):
            for i in range(A):
                result[i] += one[i, k] * other[:, k]
    return result


# --- what is added --------------------------------------------------------------------------------


def test_of_makes_zeros_of_the_same_kind():
    parameters = {"W": np.ones((2, 3), np.float32), "b": np.ones(4)}
    arrays = Partials.of(parameters).arrays
    assert list(arrays) == ["W", "b"]
    for name, array in arrays.items():
        assert array.shape == parameters[name].shape
        assert array.dtype == parameters[name].dtype
        assert not array.any()
        assert not np.shares_memory(array, parameters[name])


def test_names_give_the_arrays_themselves():
    arrays = start()
    into = Partials(arrays)
    assert into.arrays is arrays
    assert into["W"] is arrays["W"]
    with pytest.raises(KeyError, match="V"):
        into.add("V", np.ones(1))


def test_repr():
    into = Partials.of({"a.W": np.ones(1), "b": np.ones(1)}).under("a").times(0.5)
    assert repr(into) == "Partials(['a.W', 'b'], prefix='a', weight=0.5)"


def test_add_adds():
    a = draw(A, B, seed=1)
    kept = a.copy()
    assert close(added(lambda into: [into.add("W", a), into.add("W", a)], "W"), 2 * a)
    assert np.array_equal(a, kept)


def test_total_is_the_sum_over_the_samples():
    q = draw(A, M)
    expected = sum(q[:, k] for k in range(M))
    assert close(added(lambda into: into.total("b", q), "b"), expected)


def test_outer_is_the_sum_of_products():
    q, z = draw(A, M), draw(B, M)
    assert close(added(lambda into: into.outer("W", q, z), "W"), loop(q, z))


@pytest.mark.parametrize("leading", LEADING)
@pytest.mark.parametrize("which", ["q", "z", "both"])
def test_directions_are_summed_over(leading, which):
    q = draw(*(leading if which != "z" else ()), A, M)
    z = draw(*(leading if which != "q" else ()), B, M, seed=1)
    kept = q.copy(), z.copy()
    assert close(added(lambda into: into.outer("W", q, z), "W"), loop(q, z))
    expected = q.reshape(-1, A, M).sum(axis=(0, 2))
    assert close(added(lambda into: into.total("b", q), "b"), expected)
    assert np.array_equal(q, kept[0])
    assert np.array_equal(z, kept[1])


def test_views_count_as_arrays():
    q, z = draw(M, A, 2).T, draw(M, B, 2)[::-1].T  # (2, A, M) and (2, B, M), not contiguous
    assert close(added(lambda into: into.outer("W", q, z), "W"), loop(q, z))
    assert close(added(lambda into: into.total("b", q), "b"), q.sum(axis=(0, 2)))


def test_at_is_a_part_of_the_parameter():
    q, z = draw(A, M), draw(B - 1, M)
    change = added(lambda into: into.outer("W", q, z, at=(slice(None), slice(B - 1))), "W")
    assert close(change[:, :-1], q @ z.T)
    assert not change[:, -1].any()
    change = added(lambda into: into.total("W", q, at=(slice(None), 2)), "W")
    assert close(change[:, 2], q.sum(axis=1))
    assert not change[:, [0, 1, 3]].any()
    change = added(lambda into: into.add("b", 0.5, at=1), "b")
    assert close(change, np.array([0, 0.5, 0]))


# --- functions of depth ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["constant", "linear", "cubic"])
@pytest.mark.parametrize("t", [0.0, 0.25, 0.31, 1.1, T])
def test_rows(kind, t):
    """The transpose of the value at a depth: every row takes its weight."""
    basis = DepthBasis(kind, K, T)
    q, z, row = draw(A, M), draw(B, M), basis.row(t)
    first, weights = row
    own = np.zeros(K + 1)
    own[first : first + len(weights)] = weights
    if t == 0.31 and kind != "constant":
        assert np.unique(weights).size == len(weights) > 1
    change = added(lambda into: into.outer("stack", q, z, row=row), "stack")
    assert close(change, own[:, None, None] * (q @ z.T))
    change = added(lambda into: into.total("row", q, row=row), "row")
    assert close(change, own[:, None] * q.sum(axis=1))
    change = added(lambda into: into.times(0.25).add("row", q[:, 0], row=row), "row")
    assert close(change, 0.25 * own[:, None] * q[:, 0])


def test_rows_of_directions():
    q, z, row = draw(2, 3, A, M), draw(2, 3, B, M), DepthBasis("cubic", K, T).row(0.31)
    change = added(lambda into: into.outer("stack", q, z, row=row), "stack")
    assert close(change[0], row[1][0] * loop(q, z))


def test_part_of_a_row():
    q, row = draw(A, M), DepthBasis("linear", K, T).row(0.31)
    change = added(lambda into: into.total("stack", q, at=(slice(None), 2), row=row), "stack")
    first, weights = row
    for i, w in enumerate(weights, start=first):
        assert close(change[i, :, 2], w * q.sum(axis=1))
    assert np.count_nonzero(change) == A * len(weights)
    change = added(lambda into: into.add("row", 1.0, at=1, row=row), "row")
    assert close(change[first : first + 2, 1], weights)
    assert np.count_nonzero(change) == len(weights)


def test_a_parameter_of_one_number_a_row():
    arrays = {"u": np.ones(K)}
    Partials(arrays).times(2).add("u", 3.0, row=DepthBasis("constant", K, T).row(0.31))
    assert np.array_equal(arrays["u"], [1, 7, 1, 1, 1, 1])


# --- factors and names ----------------------------------------------------------------------------


def test_times_multiplies():
    q, z = draw(A, M), draw(B, M)
    for change in (
        added(lambda into: into.times(0.5).times(-3).outer("W", q, z), "W"),
        added(lambda into: into.times(0.5).times(np.float64(-3)).add("W", q @ z.T), "W"),
        added(lambda into: Partials(into.arrays, weight=-3).times(0.5).outer("W", q, z), "W"),
    ):
        assert close(change, -1.5 * loop(q, z))
    assert close(added(lambda into: into.times(-2).total("b", q), "b"), -2 * q.sum(axis=1))
    assert not added(lambda into: into.times(0).total("b", q), "b").any()


def test_times_leaves_the_first_one_alone():
    into = Partials(start())
    half = into.times(0.5)
    assert (into.weight, half.weight) == (1.0, 0.5)
    assert half.arrays is into.arrays


def test_prefixes_nest():
    arrays = {name: np.zeros(2) for name in ("w", "a.w", "a.b.w", "b.w")}
    into = Partials(arrays)
    inner = into.times(2).under("a")
    inner.add("w", np.ones(2))
    inner.under("b").times(5).add("w", np.ones(2))
    into.under("b").add("w", np.ones(2))
    assert {name: array[0] for name, array in arrays.items()} == {
        "w": 0, "a.w": 2, "a.b.w": 10, "b.w": 1
    }  # fmt: skip
    assert inner["w"] is arrays["a.w"]
    assert inner.under("b")["w"] is arrays["a.b.w"]
    with pytest.raises(KeyError, match=r"a\.c"):
        inner.add("c", np.ones(2))


# --- dtype and device -----------------------------------------------------------------------------


def everything(into, put):
    """Use all there is."""
    row = DepthBasis("cubic", K, T).row(0.31)
    for k, leading in enumerate(LEADING):
        q, z = put(draw(*leading, A, M)), put(draw(*leading, B, M))
        one, other = put(draw(A, M)), put(draw(B, M))
        scaled = into.times(np.float64(0.1 + k))
        for each in (into, scaled):
            for pair in ((q, z), (one, z), (q, other)):
                each.outer("W", *pair)
                each.outer("stack", *pair, row=row)
            each.total("b", q)
            each.total("row", q, row=row)
            each.total("W", q, at=(slice(None), 1))
            each.total("stack", q, at=(slice(None), 1), row=row)
            each.add("W", put(draw(A, B)))
    return into.arrays


def test_float32_is_not_widened():
    kinds = []

    class Watched(Partials):
        def add(self, name, a, **options):
            kinds.append(a.dtype)
            super().add(name, a, **options)

        def times(self, weight):
            return Watched(self.arrays, weight=self.weight * float(weight))

    def put(array):
        return array.astype(np.float32)

    arrays = everything(Watched({k: put(p) for k, p in start().items()}, weight=np.float64(2)), put)
    assert set(kinds) == {np.dtype(np.float32)}
    assert type(Partials({}, weight=np.float64(2)).weight) is float  # or it would widen the sums
    wide = everything(Partials(start(), weight=2), np.asarray)
    for name, array in arrays.items():
        assert array.dtype == np.float32
        assert np.abs(array - wide[name]).max() <= 1e-5 * np.abs(wide[name]).max()


def test_device(cp):
    on_device = {name: cp.asarray(array) for name, array in start().items()}
    mine = everything(Partials(on_device), cp.asarray)
    theirs = everything(Partials(start()), np.asarray)
    for name, array in theirs.items():
        assert isinstance(mine[name], cp.ndarray)
        assert np.abs(cp.asnumpy(mine[name]) - array).max() <= 1e-13 * np.abs(array).max()
    zeros = Partials.of(on_device).arrays
    assert all(isinstance(array, cp.ndarray) for array in zeros.values())


# --- fields and several directions ----------------------------------------------------------------


def f(t, x, theta):
    return np.tanh(theta["A"] @ x) * (1 + t) + theta["k"][:, None] * x**2


def f_jvp(t, x, theta, dx, dtheta):
    slope = (1 - np.tanh(theta["A"] @ x) ** 2) * (1 + t)
    of_x = slope * (theta["A"] @ dx) + 2 * theta["k"][:, None] * x * dx
    return of_x + slope * (dtheta["A"] @ x) + dtheta["k"][:, None] * x**2


def f_vjp(t, x, theta, p):
    q = (1 - np.tanh(theta["A"] @ x) ** 2) * (1 + t) * p
    pull = theta["A"].T @ q + 2 * theta["k"][:, None] * x * p
    return pull, {"A": q @ x.T, "k": (x**2 * p).sum(axis=1)}


N = 3


def layered(interpolation, dtype):
    return snode.StandaloneField.random(
        N, T, 4, rng=0, scale=0.7, interpolation=interpolation, dtype=dtype
    )


def mlp(time, dtype):
    return snode.MLPField((N, 5, 4, N), T=T, n_layers=4, rng=0, time=time, dtype=dtype)


def function(dtype, **options):
    parameters = {"A": draw(N, N).astype(dtype), "k": (0.1 * draw(N)).astype(dtype)}
    return snode.FunctionField(f, N, parameters=parameters, T=T, **options)


FIELDS = {
    **{kind: lambda d, kind=kind: layered(kind, d) for kind in ("constant", "linear", "cubic")},
    "mlp": lambda d: mlp("none", d),
    "mlp of t": lambda d: mlp("concat", d),
    "function": lambda d: function(d, jvp=f_jvp, vjp=f_vjp),
    "central": lambda d: function(d, linearization="central differences"),
    "forward": lambda d: function(d, linearization="forward differences"),
    "classifier of a layer": lambda d: snode.Classifier.random(layered("cubic", d), 2, rng=0),
    "classifier of an mlp": lambda d: snode.Classifier.random(mlp("concat", d), 2, rng=0),
    "classifier of a function": lambda d: snode.Classifier.random(FIELDS["function"](d), 2, rng=0),
}
STACKS = [(), (1,), (2,), (2, 3)]
DIFFER = {"float64": 1e-13, "float32": 2e-5}


def each(function, stack):
    """Apply a function of (n, m) to every direction of a stack."""
    flat = [function(one) for one in stack.reshape(-1, *stack.shape[-2:])]
    return np.stack(flat).reshape(*stack.shape[:-2], *flat[0].shape)


def agree(mine, theirs, dtype):
    assert mine.shape == theirs.shape
    assert mine.dtype == theirs.dtype == np.dtype(dtype)
    return np.abs(mine - theirs).max() <= DIFFER[dtype] * max(np.abs(theirs).max(), 1.0)


@pytest.fixture(params=DIFFER)
def dtype(request):
    return request.param


@pytest.fixture(params=FIELDS)
def field(request, dtype):
    return FIELDS[request.param](dtype)


@pytest.mark.parametrize("leading", STACKS)
def test_jvp_of_several_directions(field, dtype, leading, random_like):
    x, dx = draw(N, M).astype(dtype), draw(*leading, N, M, seed=1).astype(dtype)
    lin, kept = field.linearize(0.4, x)[1], dx.copy()
    assert agree(lin.jvp(dx), each(lin.jvp, dx), dtype)
    d = random_like(field.parameters)
    for names in ([], list(d), [next(iter(d))]):
        some = {name: d[name] for name in names}
        assert agree(lin.jvp(dx, some), each(lambda one, s=some: lin.jvp(one, s), dx), dtype)
    assert np.array_equal(dx, kept)


@pytest.mark.parametrize("leading", STACKS)
def test_vjp_of_several_directions(field, dtype, leading):
    x, p = draw(N, M).astype(dtype), draw(*leading, N, M, seed=1).astype(dtype)
    lin, kept = field.linearize(0.4, x)[1], p.copy()
    one = Partials.of(field.parameters)
    expected = each(lambda v: lin.vjp(v, one.times(0.5)), p)
    assert agree(lin.vjp(p), expected, dtype)
    assert agree(lin.vjp(p), each(lin.vjp, p), dtype)
    pull, partials = pulled(field, lin, p, 0.5)
    assert agree(pull, expected, dtype)
    assert set(partials) == set(field.parameters)
    for name, partial in partials.items():
        assert agree(partial, one[name], dtype), name
        assert partial.any() == (name not in getattr(field, "readout_parameters", ()))
    assert np.array_equal(p, kept)


@pytest.mark.parametrize("leading", STACKS)
@pytest.mark.parametrize("name", [name for name in FIELDS if name.startswith("classifier")])
def test_read_out_of_several_directions(name, dtype, leading, random_like):
    field = FIELDS[name](dtype)
    x, dx = draw(N, M).astype(dtype), draw(*leading, N, M, seed=1).astype(dtype)
    p, d = draw(*leading, 2, M, seed=2).astype(dtype), random_like(field.parameters)
    assert agree(field.readout_jvp(x, dx), each(lambda v: field.readout_jvp(x, v), dx), dtype)
    expected = each(lambda v: field.readout_jvp(x, v, d), dx)
    assert agree(field.readout_jvp(x, dx, d), expected, dtype)
    one, all_ = Partials.of(field.parameters), Partials.of(field.parameters)
    expected = each(lambda v: field.readout_vjp(x, v, one), p)
    assert agree(field.readout_vjp(x, p), expected, dtype)
    assert agree(field.readout_vjp(x, p, all_), expected, dtype)
    for key in field.parameters:
        assert agree(all_[key], one[key], dtype)
        assert all_[key].any() == (key in ("V", "c"))


@pytest.mark.parametrize("name", FIELDS)
def test_check_passes(name):
    report = snode.check(FIELDS[name]("float64"), verbose=False, derivative_error=1e-5)
    assert report.passed, str(report)
    assert "several directions at once, (..., n, m)" in [row.name for row in report.rows]


@pytest.mark.parametrize("given", [False, True], ids=["differences", "given"])
def test_given_functions_see_one_direction_at_a_time(given):
    shapes = []

    def seen(t, x, theta, p):
        shapes.append(p.shape)
        return f_vjp(t, x, theta, p)

    options = {"vjp": seen} if given else {"linearization": "central differences"}
    lin = function("float64", jvp=f_jvp, **options).linearize(0.4, draw(N, M))[1]
    lin.vjp(draw(2, 3, N, M))
    assert shapes == [(N, M)] * 6 * given
    with pytest.raises(ValueError, match=rf"p must be float64 of shape \({N}, {M}\)"):
        lin.vjp(draw(2, N, M + 1))
    with pytest.raises(ValueError, match=rf"dx must be float64 of shape \({N}, {M}\)"):
        lin.jvp(draw(2, N, M + 1))
