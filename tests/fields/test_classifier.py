"""Classifier: the field's contract by delegation, and the read-out with its derivatives."""

import copy

import numpy as np
import pytest
from transposes import pulled

import snode
from snode import Classifier, MLPField
from snode.fields.base import Linearization, Readout, VectorField

EPS = np.finfo(np.float64).eps
C, N = 2, 3
FIELDS = {
    "layer": lambda dtype: snode.StandaloneField.random(N, 1.5, 4, rng=0, scale=0.7, dtype=dtype),
    "cubic": lambda dtype: snode.StandaloneField.random(
        N, 1.5, 4, rng=0, scale=0.7, dtype=dtype, interpolation="cubic"
    ),
    "mlp": lambda dtype: MLPField((N, 5, N), T=1.5, n_layers=4, rng=0, time="concat", dtype=dtype),
}


def make(kind="mlp", n_outputs=C, dtype="float64", seed=0):
    rng = np.random.default_rng([5, seed])
    V, c = rng.standard_normal((n_outputs, N)), rng.standard_normal(n_outputs)
    return Classifier(FIELDS[kind](dtype), V.astype(dtype), c.astype(dtype))


class Plain(MLPField):
    """Has no more than the contract asks for, and knows no names but its own."""

    def linearize(self, t, x):
        value, lin = super().linearize(t, x)
        return value, PlainLinearization(lin)


class PlainLinearization:
    def __init__(self, lin):
        self.lin = lin

    def jvp(self, dx, dtheta=None):
        assert not set(dtheta or {}) & {"V", "c"}
        return self.lin.jvp(dx, dtheta)

    def vjp(self, p, into=None):
        return self.lin.vjp(p, into)


@pytest.fixture(params=FIELDS)
def classifier(request):
    return make(request.param)


def states(m=4, seed=0):
    return np.random.default_rng(seed).standard_normal((N, m))


# --- the field's contract -------------------------------------------------------------------------


def test_follows_the_contract(classifier):
    assert isinstance(classifier, VectorField)
    assert isinstance(classifier, Readout)
    assert isinstance(classifier.linearize(0.1, states())[1], Linearization)
    assert not isinstance(classifier.field, Readout)


def test_is_the_field_where_it_delegates(classifier):
    field, x, p = classifier.field, states(), states(seed=1)
    assert np.array_equal(classifier(0.3, x), field(0.3, x))
    value, lin = classifier.linearize(0.3, x)
    theirs_value, theirs = field.linearize(0.3, x)
    assert np.array_equal(value, theirs_value)
    assert np.array_equal(lin.jvp(p), theirs.jvp(p))
    pull, partials = pulled(classifier, lin, p, 0.5)
    their_pull, their_partials = pulled(field, theirs, p, 0.5)
    assert np.array_equal(pull, their_pull)
    for name, partial in their_partials.items():
        assert np.array_equal(partials[name], partial)
    for name in ("n", "grid", "breakpoints", "T", "n_layers", "activation", "dtype"):
        assert np.array_equal(getattr(classifier, name), getattr(field, name)), name


def test_has_the_optional_members_that_the_field_has():
    assert set(make("cubic").depth_basis) == {"W", "b"}
    assert make("cubic").interpolation == "cubic"
    assert not hasattr(make("mlp"), "depth_basis")
    assert not hasattr(make("mlp"), "_anything")
    lin = make("mlp").linearize(0.2, states())[1]
    assert np.array_equal(
        lin.time_derivative(), make("mlp").field.linearize(0.2, states())[1].time_derivative()
    )
    plain = Classifier.random(Plain((N, 4, N), rng=0), C)
    assert not hasattr(plain.linearize(0.2, states())[1], "time_derivative")


def test_parameters_are_those_of_the_field_and_the_read_out(classifier):
    assert list(classifier.parameters) == [*classifier.field.parameters, "V", "c"]
    assert classifier.parameters["V"] is classifier.V
    assert classifier.readout_parameters == ("V", "c")
    assert classifier.n_outputs == C


def test_the_read_out_has_no_part_in_the_ode(classifier, random_like):
    x, p = states(), states(seed=1)
    d = random_like(classifier.parameters)
    lin = classifier.linearize(0.3, x)[1]
    inner = {k: v for k, v in d.items() if k not in ("V", "c")}
    assert np.array_equal(lin.jvp(p, d), lin.jvp(p, inner))
    assert np.array_equal(lin.jvp(None, {"V": d["V"], "c": d["c"]}), np.zeros((N, 4)))
    partials = pulled(classifier, lin, p)[1]
    assert {k: v.shape for k, v in partials.items()} == {k: v.shape for k, v in d.items()}
    assert not partials["V"].any()
    assert not partials["c"].any()


def test_a_field_that_knows_only_its_own_names(random_like):
    classifier = Classifier.random(Plain((N, 4, N), rng=0), C)
    sol = snode.solve_direct(classifier, states())
    snode.solve_sensitivity(sol, dtheta=random_like(classifier.parameters))


def test_vjp_adds_into_given_arrays(classifier, random_like):
    lin, p = classifier.linearize(0.3, states())[1], states(seed=1)
    start = random_like(classifier.parameters)
    into = {k: v.copy() for k, v in start.items()}
    lin.vjp(p, snode.Partials(into, weight=0.25))
    fresh = pulled(classifier, lin, p)[1]
    for k in start:
        assert into[k] == pytest.approx(start[k] + 0.25 * fresh[k], abs=100 * EPS)


def test_check_passes(classifier):
    report = snode.check(classifier, verbose=False)
    assert report.passed, str(report)


# --- the read-out ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n_outputs", [1, 2, 3, 7])
def test_read_out_is_the_formula(n_outputs):
    classifier, x = make(n_outputs=n_outputs), states()
    expected = np.stack([classifier.V @ column + classifier.c for column in x.T], axis=1)
    assert classifier.readout(x) == pytest.approx(expected, abs=50 * EPS)


def test_readout_jvp_is_the_derivative(classifier, moved, random_like):
    x, dx, h = states(), states(seed=1), 1e-3
    d = random_like(classifier.parameters)
    plus, minus = (moved(classifier, d, e).readout(x + e * dx) for e in (h, -h))
    # quadratic in the step: central differences have rounding only, eps / h
    assert (plus - minus) / (2 * h) == pytest.approx(classifier.readout_jvp(x, dx, d), abs=1e-11)


def test_readout_jvp_parts_add_up(classifier, random_like):
    x, dx = states(), states(seed=1)
    d = random_like(classifier.parameters)
    zero = np.zeros_like(x)
    parts = classifier.readout_jvp(x, dx) + sum(
        classifier.readout_jvp(x, zero, {name: d[name]}) for name in ("V", "c")
    )
    assert classifier.readout_jvp(x, dx, d) == pytest.approx(parts, abs=50 * EPS)
    assert not classifier.readout_jvp(x, zero, {}).any()


@pytest.mark.parametrize("name", ["x", "V", "c"])
def test_readout_vjp_is_the_transpose(classifier, random_like, name):
    x, dx = states(7), states(7, seed=1)
    p = np.random.default_rng(2).standard_normal((C, 7))
    d = random_like(classifier.parameters)
    into = {k: np.zeros_like(v) for k, v in d.items()}
    lam_T = classifier.readout_vjp(x, p, snode.Partials(into))
    zero = np.zeros_like(x)
    forward = (
        classifier.readout_jvp(x, dx)
        if name == "x"
        else classifier.readout_jvp(x, zero, {name: d[name]})
    )
    back = np.sum(dx * lam_T) if name == "x" else np.sum(d[name] * into[name])
    assert abs(np.sum(forward * p) - back) <= 1e-12 * np.linalg.norm(forward) * np.linalg.norm(p)
    assert not any(v.any() for k, v in into.items() if k not in ("V", "c"))


def test_readout_vjp_adds_in_place(classifier):
    x, p = states(), np.random.default_rng(2).standard_normal((C, 4))
    fresh = {"V": np.zeros((C, N)), "c": np.zeros(C)}
    classifier.readout_vjp(x, p, snode.Partials(fresh))
    into = {"V": np.ones((C, N)), "c": np.ones(C)}
    arrays = dict(into)
    classifier.readout_vjp(x, p, snode.Partials(into))
    for k in into:
        assert into[k] is arrays[k]
        assert into[k] == pytest.approx(1 + fresh[k], abs=50 * EPS)


def test_float32_stays_float32(random_like):
    for kind in FIELDS:
        classifier = make(kind, dtype="float32")
        x, d = states().astype(np.float32), random_like(classifier.parameters)
        into = {k: np.zeros_like(v) for k, v in d.items()}
        z = classifier.readout(x)
        assert z.dtype == np.float32
        assert classifier.readout_jvp(x, x, d).dtype == np.float32
        assert classifier.readout_vjp(x, z, snode.Partials(into)).dtype == np.float32
        assert {v.dtype for v in into.values()} == {np.dtype(np.float32)}


# --- a value that does not change -----------------------------------------------------------------


def test_with_parameters_splits_them(classifier):
    before = {k: p.copy() for k, p in classifier.parameters.items()}
    new = {k: p + 1 for k, p in before.items()}
    other = classifier.with_parameters(**new)
    assert type(other) is Classifier
    for k in before:
        assert np.array_equal(other.parameters[k], new[k])
        assert np.array_equal(classifier.parameters[k], before[k])
        assert not other.parameters[k].flags.writeable
    for k in other.field.parameters:
        assert np.array_equal(other.field.parameters[k], new[k])
    only_c = classifier.with_parameters(c=new["c"])
    assert np.array_equal(only_c.c, new["c"])
    assert only_c.field is classifier.field
    assert np.array_equal(only_c.V, before["V"])


def test_arrays_are_read_only(classifier):
    for array in classifier.parameters.values():
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 1
    for name in ("V", "c", "field", "n", "parameters", "n_outputs"):
        with pytest.raises(AttributeError):
            setattr(classifier, name, None)


def test_can_be_copied(classifier):
    other = copy.deepcopy(classifier)
    for k, p in classifier.parameters.items():
        assert np.array_equal(other.parameters[k], p)
        assert not np.shares_memory(other.parameters[k], p)
    assert copy.copy(classifier).V is classifier.V


def test_repr_names_the_field(classifier):
    assert repr(classifier) == f"Classifier({classifier.field!r}, n_outputs=2)"


# --- random read-outs and errors ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_random(dtype):
    field = MLPField((100, 100), dtype=dtype)
    classifier = Classifier.random(field, 200, rng=3)
    assert classifier.V.dtype == classifier.c.dtype == dtype
    assert classifier.V.std() == pytest.approx(0.1, rel=0.02)  # 1/sqrt(n), of 20000 draws
    assert not classifier.c.any()
    assert np.array_equal(Classifier.random(field, 200, rng=3).V, classifier.V)
    assert not np.array_equal(Classifier.random(field, 200, rng=4).V, classifier.V)
    scaled = Classifier.random(field, 200, rng=3, scale=1.0).V
    assert scaled == pytest.approx(10 * classifier.V, rel=1e-6)


V0, C0 = np.ones((C, N)), np.ones(C)


@pytest.mark.parametrize(
    ("V", "c", "error", "message"),
    [
        (V0.tolist(), C0, TypeError, "V must be a NumPy or CuPy array"),
        (V0, [1.0, 1.0], TypeError, "c must be a NumPy or CuPy array"),
        (V0.T, C0, ValueError, r"V must have shape \(C, 3\); got \(3, 2\)"),
        (V0[0], C0, ValueError, r"V must have shape \(C, 3\)"),
        (np.ones((0, N)), np.ones(0), ValueError, r"V must have shape \(C, 3\)"),
        (V0, np.ones(3), ValueError, r"c must have shape \(2,\) to fit V \(2, 3\); got \(3,\)"),
        (V0, np.ones((2, 1)), ValueError, r"c must have shape \(2,\)"),
        (V0.astype(np.float32), C0, ValueError, "V must be float64, as the field; got float32"),
        (V0.astype(int), C0, ValueError, "V must be float64, as the field; got int64"),
        (V0, C0.astype(np.float32), ValueError, "V and c must have the same dtype"),
        (V0 * np.nan, C0, ValueError, "V must be finite"),
        (V0, C0 * np.inf, ValueError, "c must be finite"),
    ],
)
def test_construction_errors(V, c, error, message):
    with pytest.raises(error, match=message):
        Classifier(FIELDS["mlp"]("float64"), V, c)


def test_the_field_is_checked():
    with pytest.raises(TypeError, match="field must follow the vector-field contract"):
        Classifier(lambda t, x: x, V0, C0)
    with pytest.raises(TypeError, match="field must follow the vector-field contract"):
        Classifier.random(3, 2)
    with pytest.raises(ValueError, match="field must have no read-out of its own"):
        Classifier(make(), V0, C0)

    class OwnReadout(MLPField):
        def readout(self, x_T):
            return x_T

    with pytest.raises(ValueError, match="field must have no read-out of its own"):
        Classifier(OwnReadout((N, N)), V0, C0)

    class Taken(MLPField):
        @property
        def parameters(self):
            return {**super().parameters, "c": np.ones(1)}

    with pytest.raises(ValueError, match="no parameter called V or c"):
        Classifier(Taken((N, N)), V0, C0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_classes": 0}, "n_classes must be a positive integer"),
        ({"n_classes": 2.5}, "n_classes must be a positive integer"),
        ({"n_classes": 2, "scale": -1.0}, "scale must be finite and >= 0"),
        ({"n_classes": 2, "scale": np.inf}, "scale must be finite and >= 0"),
    ],
)
def test_random_is_checked(options, message):
    with pytest.raises(ValueError, match=message):
        Classifier.random(FIELDS["mlp"]("float64"), **options)


def test_with_parameters_errors(classifier):
    with pytest.raises(ValueError, match=r"unknown parameter \['U'\]; this field has .*V, c"):
        classifier.with_parameters(U=V0)
    with pytest.raises(ValueError, match=r"V must have shape \(2, 3\); got \(4, 3\)"):
        classifier.with_parameters(V=np.ones((4, N)), c=np.ones(4))
    with pytest.raises(ValueError, match="c must have shape"):
        classifier.with_parameters(c=np.ones(4))
    with pytest.raises(TypeError, match="V must be a NumPy or CuPy array"):
        classifier.with_parameters(V=V0.tolist())


@pytest.mark.parametrize(
    "method", ["readout_jvp", "readout_vjp", "bias forgotten"], ids=lambda name: name
)
def test_check_finds_a_wrong_readout(make_field, method):
    class Wrong(snode.Classifier):
        def readout_jvp(self, x_T, dx_T, dtheta=None):
            right = super().readout_jvp(x_T, dx_T, dtheta)
            return 1.01 * right if method == "readout_jvp" else right

        def readout_vjp(self, x_T, p, into=None):
            before = None if into is None else into["c"].copy()
            pull = super().readout_vjp(x_T, p, into)
            if method == "bias forgotten" and into is not None:
                into["c"][...] = before
            return -pull if method == "readout_vjp" else pull

    field = make_field(3, 4)
    rng = np.random.default_rng(0)
    right = snode.Classifier(field, rng.standard_normal((2, 3)), rng.standard_normal(2))
    report = snode.check(right, verbose=False)
    assert report.passed
    assert sum("read-out" in row.name for row in report.rows) == 2
    wrong = Wrong(field, right.parameters["V"], right.parameters["c"])
    failed = [row.name for row in snode.check(wrong, verbose=False).rows if not row.passed]
    assert failed
    assert all("read-out" in name for name in failed)
