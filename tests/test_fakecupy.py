"""Everything that follows the arrays it is given runs on a device and equals NumPy.

The device is a stand-in (`fakecupy.py`) that refuses what CuPy refuses; with CuPy and a GPU the
same tests run there (`pytest -m gpu`).
"""

import sys

import fakecupy
import numpy as np
import pytest
from transposes import pulled

import snode
from snode import CG_RULES, FIRST_ORDER, H1, L2, Cost, Euclidean
from snode.backend import array_namespace, creator_namespace, is_array, to_host
from snode.training.gradients import FieldProblem
from snode.training.hotpath import EulerProblem

pytestmark = pytest.mark.grid(3)

COST = Cost(l2=0.8, ce=0.5, output=0.1, decay=0.05, n_classes=3)
INNERS = [L2(), H1(0.5), Euclidean()]
EPS = np.finfo(np.float64).eps


@pytest.fixture
def fake(cp):
    if type(cp).__module__ != "fakecupy":
        pytest.skip("a test of the stand-in")
    return cp


@pytest.fixture
def pair_of_fields(make_field, cp):
    """Return make(...) -> (host field, the same field on the device)."""

    def make(**options):
        host = make_field(4, 6, **options)
        return host, to_device(cp, host)

    return make


def to_device(cp, field):
    return snode.StandaloneField(
        cp.asarray(field.W), cp.asarray(field.b), field.T,
        activation=field.activation, interpolation=field.interpolation,
    )  # fmt: skip


def data(m=9):
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (4, m)), np.arange(m) % 3


def assert_same(cp, device, host, rel=1e-12):
    """Equal, on the device, and of the same dtype; sums may be taken in another order."""
    assert isinstance(device, cp.ndarray)
    assert device.dtype == host.dtype
    assert device.shape == host.shape
    assert np.abs(cp.asnumpy(device) - host).max() <= rel * max(np.abs(host).max(), 1e-3)


def assert_same_mapping(cp, device, host, rel=1e-12):
    assert set(device) == set(host)
    for name in host:
        assert_same(cp, device[name], host[name], rel)


# --- the stand-in refuses what CuPy refuses -------------------------------------------------------

REFUSED = {
    "np.asarray(device)": lambda cp, d, h: np.asarray(d),
    "np.array(device)": lambda cp, d, h: np.array(d),
    "device + host": lambda cp, d, h: d + h,
    "host + device": lambda cp, d, h: h + d,
    "host @ device": lambda cp, d, h: h @ d,
    "device += host": lambda cp, d, h: d.__iadd__(h),
    "host += device": lambda cp, d, h: h.__iadd__(d),
    "device[...] = host": lambda cp, d, h: d.__setitem__(Ellipsis, h),
    "host[...] = device": lambda cp, d, h: h.__setitem__(Ellipsis, d),
    "device[host]": lambda cp, d, h: d[h.astype(int)],
    "np.add(device, host)": lambda cp, d, h: np.add(d, h),
    "cp.add(device, host)": lambda cp, d, h: cp.add(d, h),
    "cp.stack of both": lambda cp, d, h: cp.stack([d, h]),
    "np.stack of both": lambda cp, d, h: np.stack([d, h]),
    "device.dot(host)": lambda cp, d, h: d.dot(h),
    "host.dot(device)": lambda cp, d, h: h.dot(d),
    "host.dot of device rows": lambda cp, d, h: np.linalg.solve(h, d),
    "setflags": lambda cp, d, h: d.setflags(write=False),
    "an unknown function": lambda cp, d, h: cp.frobnicate(d),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(fake, name):
    host = np.eye(3) + 1
    with pytest.raises((TypeError, AttributeError)):
        REFUSED[name](fake, fake.asarray(host), host)


def test_the_stand_in_computes(fake):
    host = np.arange(12.0).reshape(3, 4)
    device = fake.asarray(host)
    assert isinstance(device.sum(), fake.ndarray)  # a reduction stays on the device
    assert isinstance(device[1, 2], fake.ndarray)
    assert float(device[1, 2]) == 6.0
    assert isinstance(np.sin(device), fake.ndarray)
    assert isinstance(np.float64(2) * device, fake.ndarray)
    view = device[1]
    view += 1  # views are views
    device *= 2
    host[1] += 1
    assert fake.asnumpy(device).tolist() == (2 * host).tolist()
    assert fake.asnumpy(device.T @ device).tolist() == (4 * host.T @ host).tolist()
    assert fake.asarray(device) is device
    out = fake.zeros(4)
    assert fake.add(device[0], 1.0, out=out) is out


def test_explicit_copies_are_logged(fake):
    fakecupy.copies.clear()
    fake.asnumpy(fake.zeros((2, 3)))
    assert fakecupy.copies == [6]


# --- the backend ----------------------------------------------------------------------------------


def test_namespace_follows_the_arrays(cp):
    assert array_namespace(np.ones(2)) is np
    assert array_namespace(cp.ones(2), cp.ones(3)) is cp
    assert is_array(cp.ones(2))
    assert not is_array([1.0])
    with pytest.raises(TypeError, match=r"host \(NumPy\) and device \(CuPy\) arrays are mixed"):
        array_namespace(np.ones(2), cp.ones(2))
    assert type(to_host(cp.ones(2))) is np.ndarray


@pytest.fixture
def device_backend(cp):
    before = snode.get_backend()
    snode.use_backend("cupy")
    yield
    snode.use_backend(before)


def test_creators_follow_the_backend(cp, device_backend, interpolation):
    assert snode.get_backend() == "cupy"
    assert creator_namespace() is cp
    device = snode.StandaloneField.random(3, 1.0, 5, interpolation=interpolation, rng=0)
    snode.use_backend("numpy")
    host = snode.StandaloneField.random(3, 1.0, 5, interpolation=interpolation, rng=0)
    assert isinstance(device.W, cp.ndarray)
    assert type(host.W) is np.ndarray
    for name in "Wb":  # drawn on the host: the same bits
        assert np.array_equal(cp.asnumpy(device.parameters[name]), host.parameters[name])


def test_unknown_backend():
    with pytest.raises(ValueError, match="name must be one of numpy, cupy; got 'torch'"):
        snode.use_backend("torch")
    assert snode.get_backend() == "numpy"


def test_backend_without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r"pip install 'snode\[gpu12\]'"):
        snode.use_backend("cupy")
    assert snode.get_backend() == "numpy"


# --- fields and the three problems ----------------------------------------------------------------


def test_activations(cp, activation):
    a = np.concatenate([np.linspace(-3, 3, 50), [-1e4, 1e4, 0.0]])
    assert_same(cp, activation(cp.asarray(a)), activation(a))
    assert_same(cp, activation.slope(cp.asarray(a)), activation.slope(a))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_three_problems(cp, pair_of_fields, activation, interpolation, dtype, random_like):
    host, device = pair_of_fields(activation=activation, interpolation=interpolation, dtype=dtype)
    x = data()[0].astype(dtype)
    lam_T, dx0 = np.ones_like(x), 2 * x
    d = random_like(host.parameters)
    on_device = {k: cp.asarray(v) for k, v in d.items()}
    rel = 20 * np.finfo(dtype).eps * 100
    a, b = snode.solve_direct(host, x), snode.solve_direct(device, cp.asarray(x))
    assert_same(cp, b.x, a.x, rel)
    assert_same(cp, b.x_T, a.x_T, rel)
    assert type(b.t) is np.ndarray  # depth is the host's business
    xi = snode.solve_sensitivity(b, dx0=cp.asarray(dx0), dtheta=on_device)
    assert_same(cp, xi, snode.solve_sensitivity(a, dx0=dx0, dtheta=d), rel)
    assert_same(
        cp, snode.solve_sensitivity(b, dtheta=on_device), snode.solve_sensitivity(a, dtheta=d), rel
    )
    theirs, mine = snode.solve_adjoint(a, lam_T), snode.solve_adjoint(b, cp.asarray(lam_T))
    assert_same(cp, mine.lam, theirs.lam, rel)
    assert_same_mapping(cp, mine.partials, theirs.partials, rel)
    last = snode.solve_direct(device, cp.asarray(x), keep="last")
    assert_same(cp, last.x_T, a.x_T, rel)


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_off_the_nodes(cp, pair_of_fields, interpolation, random_like):
    host, device = pair_of_fields(interpolation=interpolation)
    x, d = data()[0], random_like(host.parameters)
    lin_host, lin = (f.linearize(0.4, v)[1] for f, v in ((host, x), (device, cp.asarray(x))))
    assert_same(cp, device(0.4, cp.asarray(x)), host(0.4, x))
    assert_same(cp, lin.jvp(None, {k: cp.asarray(v) for k, v in d.items()}), lin_host.jvp(None, d))
    assert_same_mapping(cp, pulled(device, lin, cp.asarray(x))[1], pulled(host, lin_host, x)[1])


def test_nothing_is_copied_to_the_host_on_the_way(fake, pair_of_fields):
    _, device = pair_of_fields()
    x = fake.asarray(data()[0])
    fakecupy.copies.clear()
    sol = snode.solve_direct(device, x)
    snode.solve_sensitivity(sol, dtheta=dict(device.parameters))
    snode.solve_adjoint(sol, x)
    assert fakecupy.copies == []


def test_failure_is_located(cp, pair_of_fields):
    _, device = pair_of_fields(activation="relu")
    W = device.W.copy()
    W[2, 1, 0] = float("nan")
    with pytest.raises(snode.IntegrationError, match=r"not finite at t=0\.75: component 1") as info:
        snode.solve_direct(device.with_parameters(W=W), cp.asarray(data()[0]))
    assert np.isnan(cp.asnumpy(info.value.solution.x_T)).all()


def test_bad_states_are_named(cp, pair_of_fields):
    _, device = pair_of_fields()
    x = data()[0]
    x[1, 3] = np.nan
    with pytest.raises(ValueError, match="x0 must be finite; component 1 of sample 3 is nan"):
        snode.solve_direct(device, cp.asarray(x))


# --- integrators ----------------------------------------------------------------------------------

ODE_METHODS = ["heun", "rk4", "dormand_prince", "ode23", "ode45"]


@pytest.mark.parametrize("method", ODE_METHODS)
def test_every_method_and_its_derivatives(cp, pair_of_fields, interpolation, method, random_like):
    host, device = pair_of_fields(interpolation=interpolation)
    x, lam_T = data()[0], np.cos(data()[0])
    d = random_like(host.parameters)
    on_device = {k: cp.asarray(v) for k, v in d.items()}
    a = snode.solve_direct(host, x, method=method, dense_output=True)
    b = snode.solve_direct(device, cp.asarray(x), method=method, dense_output=True)
    assert b.t == pytest.approx(a.t, rel=1e-9)
    assert type(b.t) is np.ndarray
    assert_same(cp, b.x, a.x, 1e-9)
    assert_same(cp, b(0.7), a(0.7), 1e-9)
    assert_same(cp, b([0.2, 0.7]), a([0.2, 0.7]), 1e-9)
    for mode in ("discrete", "continuous"):
        options = {"dx0": x, "dtheta": d, "dT": 0.5, "mode": mode}
        theirs = snode.solve_sensitivity(a, **options)
        options |= {"dx0": cp.asarray(x), "dtheta": on_device}
        assert_same(cp, snode.solve_sensitivity(b, **options), theirs, 1e-7)
        theirs = snode.solve_adjoint(a, lam_T, mode=mode)
        mine = snode.solve_adjoint(b, cp.asarray(lam_T), mode=mode)
        assert_same(cp, mine.lam, theirs.lam, 1e-7)
        assert_same_mapping(cp, mine.partials, theirs.partials, 1e-7)
        assert type(mine.end_time) is float
        assert mine.end_time == pytest.approx(theirs.end_time, rel=1e-7)


@pytest.mark.parametrize("options", [{"checkpoints": 2}, {"batch": "independent"}])
def test_checkpoints_and_independent_columns(cp, pair_of_fields, options):
    host, device = pair_of_fields(interpolation="cubic")
    x = data()[0]
    a = snode.solve_direct(host, x, method="ode45", **options)
    b = snode.solve_direct(device, cp.asarray(x), method="ode45", **options)
    theirs, mine = snode.solve_adjoint(a, x), snode.solve_adjoint(b, cp.asarray(x))
    assert_same(cp, mine.lam, theirs.lam, 1e-9)
    assert_same_mapping(cp, mine.partials, theirs.partials, 1e-9)


@pytest.mark.parametrize("batch", ["shared", "independent"])
def test_ode45_of_a_function(cp, batch):
    x0 = np.array([[1.0, 2.0], [0.5, -1.0]])

    def solve(xp, **options):
        return snode.ode45(
            lambda t, x: xp.stack([x[1], -x[0]]), (0, 3), xp.asarray(x0), batch=batch,
            t_eval=[1.0, 2.0, 3.0], atol=np.array([1e-6, 1e-7]), **options,
        )  # fmt: skip

    host, device = solve(np), solve(cp)
    assert_same(cp, device.x, host.x, 1e-9)
    if batch == "shared":
        event = snode.Event(lambda t, x: float(x[0, 0]), terminal=True)
        host, device = solve(np, events=event), solve(cp, events=event)
        assert device.status is snode.Status.EVENT
        assert_same(cp, device.x_events[0], host.x_events[0], 1e-9)


def test_failures_of_step_control_on_a_device(cp):
    for f, status in (
        (lambda t, x: x**2, snode.Status.BLOW_UP),
        (lambda t, x: x * float("nan"), snode.Status.NONFINITE_RHS),
        (lambda t, x: -1e6 * x, snode.Status.MAX_STEPS),
    ):
        sol = snode.ode45(f, (0, 2), cp.ones((1, 2)), raise_on_failure=False)
        assert sol.status is status
        assert np.isnan(cp.asnumpy(sol.x_T)).all()


def test_training_with_a_solver(cp, pair_of_fields):
    host, device = pair_of_fields(scale=0.6, interpolation="cubic")
    x, y = data()
    theirs = snode.ncg(host, x, y, COST, solver="ode45", n_iter=3)
    mine = snode.ncg(device, cp.asarray(x), cp.asarray(y), COST, solver="ode45", n_iter=3)
    assert mine.history.cost == pytest.approx(theirs.history.cost, rel=1e-7)
    assert_same(cp, mine.field.W, theirs.field.W, 1e-6)


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", INNERS, ids=repr)
def test_inner_products(cp, pair_of_fields, interpolation, inner, random_like):
    host, device = pair_of_fields(interpolation=interpolation)
    u, v = random_like(host.parameters, 1), random_like(host.parameters, 2)
    on_device = [{k: cp.asarray(a) for k, a in w.items()} for w in (u, v)]
    a, b = inner.on(host), inner.on(device)
    assert b.dot(*on_device) == pytest.approx(a.dot(u, v), rel=1e-11)
    assert type(b.norm(on_device[0])) is float
    assert_same_mapping(cp, b.riesz(on_device[0]), a.riesz(u), 1e-11)


@pytest.mark.parametrize("inner", INNERS, ids=repr)
@pytest.mark.parametrize("kind", ["labels", "targets"])
def test_cost_and_gradient(cp, pair_of_fields, interpolation, inner, kind):
    host, device = pair_of_fields(interpolation=interpolation, activation="sigmoid")
    x, y = data()
    cost = COST
    if kind == "targets":
        y, cost = np.cos(x), Cost(output=0.2, decay=0.1)
    value, g = snode.gradient(host, x, y, cost, inner=inner)
    mine, on_device = snode.gradient(device, cp.asarray(x), cp.asarray(y), cost, inner=inner)
    assert type(mine) is float
    assert mine == pytest.approx(value, rel=1e-13)
    assert_same_mapping(cp, on_device, g, 1e-11)


@pytest.mark.parametrize("inner", INNERS, ids=repr)
@pytest.mark.parametrize("rule", CG_RULES)
def test_ncg(cp, pair_of_fields, interpolation, inner, rule):
    host, device = pair_of_fields(interpolation=interpolation, scale=0.6)
    x, y = data()
    on_device = cp.asarray(x), cp.asarray(y)
    assert not EulerProblem.applies_to(device, on_device[0])
    theirs = snode.ncg(host, x, y, COST, inner=inner, rule=rule, n_iter=3)
    mine = snode.ncg(device, *on_device, COST, inner=inner, rule=rule, n_iter=3)
    assert mine.history.cost == pytest.approx(theirs.history.cost, rel=1e-9)
    assert type(mine.history.cost) is np.ndarray
    assert type(mine.fun) is float
    assert mine.status is theirs.status
    assert_same(cp, mine.field.W, theirs.field.W, 1e-8)
    assert_same(cp, mine.field.b, theirs.field.b, 1e-8)


def test_ncg_copies_only_logits_and_scalars(fake, pair_of_fields):
    _, device = pair_of_fields()
    x, y = data(9)
    problem = FieldProblem(device, fake.asarray(x), fake.asarray(y), COST)
    fakecupy.copies.clear()
    problem.direct()
    problem.gradient()
    problem.set_direction(0.0)
    problem.line()
    assert max(fakecupy.copies, default=0) <= 2 * 3 * 9 + 4  # (C, m) logits, theirs along d


@pytest.mark.parametrize("method", ["ncg", *FIRST_ORDER])
def test_train(cp, pair_of_fields, method):
    host, device = pair_of_fields(scale=0.6)
    x, y = data(20)
    options = {"method": method, "batch_size": 8, "n_iter": 2, "rng": 0, "eval_every": 1}
    theirs = snode.train(host, (x, y, x, y), COST, **options)
    on_device = cp.asarray(x), cp.asarray(y)
    mine = snode.train(device, on_device * 2, COST, **options)
    assert mine.history["cost"] == pytest.approx(theirs.history["cost"], rel=1e-8)
    assert mine.evaluations["test_accuracy"] == pytest.approx(theirs.evaluations["test_accuracy"])
    assert_same(cp, mine.field.W, theirs.field.W, 1e-7)


@pytest.mark.parametrize("options", [{"restart": False, "rule": "PR+"}, {"method": "adam"}])
def test_checkpoint(cp, pair_of_fields, tmp_path, options):
    _, device = pair_of_fields(scale=0.6)
    x, y = data(20)
    on_device, file = (cp.asarray(x), cp.asarray(y)), tmp_path / "run.safetensors"
    options = options | {"batch_size": 8, "n_iter": 2, "rng": 0}
    whole = snode.train(device, on_device, COST, epochs=2, **options)
    snode.train(device, on_device, COST, epochs=1, checkpoint=file, **options)
    resumed = snode.train(
        device, on_device, COST, epochs=2, checkpoint=file, resume=True, **options
    )
    assert isinstance(resumed.field.W, cp.ndarray)
    assert np.array_equal(cp.asnumpy(resumed.field.W), cp.asnumpy(whole.field.W))


def test_predict(cp, pair_of_fields):
    host, device = pair_of_fields()
    x, y = data(30)
    labels = snode.predict(device, cp.asarray(x), n_classes=3)
    assert isinstance(labels, cp.ndarray)
    assert np.array_equal(cp.asnumpy(labels), snode.predict(host, x, n_classes=3))
    on_device = cp.asarray(x), cp.asarray(y)
    assert snode.accuracy(device, *on_device, n_classes=3) == snode.accuracy(
        host, x, y, n_classes=3
    )
    counts = snode.confusion(device, *on_device, n_classes=3)
    assert np.array_equal(counts, snode.confusion(host, x, y, n_classes=3))


def test_check(cp, pair_of_fields, interpolation):
    _, device = pair_of_fields(interpolation=interpolation)
    report = snode.check(device, verbose=False)
    assert report.passed, str(report)


def test_noise(cp, pair_of_fields):
    host, device = pair_of_fields()
    x, y = data(30)
    options = {"n_classes": 3, "rng": 0}
    theirs = snode.accuracy_under_noise(host, x, y, [0.1, 0.5], **options)
    mine = snode.accuracy_under_noise(device, cp.asarray(x), cp.asarray(y), [0.1, 0.5], **options)
    assert np.array_equal(mine, theirs)


# --- multilayer fields and read-outs --------------------------------------------------------------

KINDS = ("mlp", "mlp of t", "classifier of a layer", "classifier of an mlp")


@pytest.fixture(params=KINDS)
def others(request, cp, make_field):
    """A host field and the same field on the device."""
    host = make_field(4, 6, scale=0.6, activation="sigmoid")
    device = to_device(cp, host)
    if "mlp" in request.param:
        time = "concat" if "of t" in request.param else "none"
        host = snode.MLPField((4, 5, 4), time=time, n_layers=6, rng=0, output_activation="tanh")
        host = host.with_parameters(b1=np.linspace(-1, 1, 5), b2=np.linspace(-0.5, 0.5, 4))
        device = mlp_to_device(cp, host)
    if "classifier" in request.param:
        V, c = np.random.default_rng(1).standard_normal((3, 4)), np.linspace(-1, 1, 3)
        host = snode.Classifier(host, V, c)
        device = snode.Classifier(device, cp.asarray(V), cp.asarray(c))
    return host, device


def mlp_to_device(cp, field):
    return snode.MLPField.from_parameters(
        {k: cp.asarray(p) for k, p in field.parameters.items()}, time=field.time,
        output_activation=field.output_activation, n_layers=field.n_layers,
    )  # fmt: skip


def test_other_fields(cp, others, random_like):
    host, device = others
    x, p = data(5)[0], np.cos(data(5)[0])
    d = random_like(host.parameters)
    d_device = {k: cp.asarray(v) for k, v in d.items()}
    assert_same(cp, device(0.3, cp.asarray(x)), host(0.3, x))
    value, theirs = host.linearize(0.3, x)
    on_device, mine = device.linearize(0.3, cp.asarray(x))
    assert_same(cp, on_device, value)
    assert_same(cp, mine.jvp(cp.asarray(p), d_device), theirs.jvp(p, d))
    pull, partials = pulled(host, theirs, p)
    pull_device, partials_device = pulled(device, mine, cp.asarray(p))
    assert_same(cp, pull_device, pull)
    assert_same_mapping(cp, partials_device, partials)
    assert_same(cp, mine.vjp(cp.asarray(p)), pull)
    stack = np.stack([p, x])
    on_device = cp.asarray(stack)
    assert_same(cp, mine.jvp(on_device, d_device), theirs.jvp(stack, d))
    pull, partials = pulled(host, theirs, stack)
    pull_device, partials_device = pulled(device, mine, on_device)
    assert_same(cp, pull_device, pull)
    assert_same_mapping(cp, partials_device, partials)
    if hasattr(theirs, "time_derivative"):
        assert_same(cp, mine.time_derivative(), theirs.time_derivative())


def test_other_fields_train_on_the_device(cp, others, tmp_path):
    host, device = others
    x, y = data()
    on_device = cp.asarray(x), cp.asarray(y)
    assert not EulerProblem.applies_to(device, on_device[0])
    value, g = snode.gradient(host, x, y, COST)
    mine, g_device = snode.gradient(device, *on_device, COST)
    assert mine == pytest.approx(value, rel=1e-12)
    assert_same_mapping(cp, g_device, g, 1e-11)
    for method in ("ncg", "adam"):
        options = {"method": method, "batch_size": 5, "n_iter": 2, "rng": 0}
        theirs = snode.train(host, (x, y), COST, **options)
        ours = snode.train(device, on_device, COST, **options)
        assert ours.history["cost"] == pytest.approx(theirs.history["cost"], rel=1e-8)
        assert_same_mapping(cp, ours.field.parameters, theirs.field.parameters, 1e-7)
        assert np.array_equal(
            cp.asnumpy(snode.predict(ours.field, on_device[0], n_classes=3)),
            snode.predict(theirs.field, x, n_classes=3),
        )
    file = tmp_path / "model.safetensors"
    snode.save(file, device)
    assert_same_mapping(cp, device.parameters, snode.load(file).field.parameters, 0)


def test_other_fields_on_the_device_copy_only_logits_and_scalars(fake, others):
    _, device = others
    x, y = data(9)
    problem = FieldProblem(device, fake.asarray(x), fake.asarray(y), COST)
    fakecupy.copies.clear()
    problem.direct()
    problem.gradient()
    problem.set_direction(0.0)
    problem.line()
    problem.move(0.1)
    assert max(fakecupy.copies, default=0) <= 2 * 3 * 9 + 4  # (C, m) logits, theirs along d


def test_creators_of_other_fields(cp, device_backend, tmp_path):
    snode.use_backend("numpy")
    host = snode.Classifier.random(snode.MLPField((4, 5, 4), rng=0), 3, rng=1)
    snode.save(tmp_path / "model.safetensors", host)
    snode.use_backend("cupy")
    device = snode.Classifier.random(snode.MLPField((4, 5, 4), rng=0), 3, rng=1)
    assert_same_mapping(cp, device.parameters, host.parameters, 0)
    loaded = snode.load(tmp_path / "model.safetensors").field
    assert_same_mapping(cp, loaded.parameters, host.parameters, 0)


def test_read_outs_and_fields_do_not_mix(cp):
    host = snode.MLPField((4, 5, 4), rng=0)
    V, c = np.ones((3, 4)), np.ones(3)
    for make in (
        lambda: snode.Classifier(host, cp.asarray(V), cp.asarray(c)),
        lambda: snode.Classifier(mlp_to_device(cp, host), V, c),
        lambda: snode.Classifier(host, V, cp.asarray(c)),
        lambda: host.with_parameters(b1=cp.ones(5)),
        lambda: snode.Classifier(host, V, c).with_parameters(V=cp.asarray(V)),
    ):
        with pytest.raises(TypeError, match=r"host \(NumPy\) and device \(CuPy\) arrays are mixed"):
            make()


# --- host and device do not mix -------------------------------------------------------------------

MIXED = {
    "weights": lambda cp, h, d, x, y: snode.StandaloneField(cp.asarray(h.W), h.b, 1.0),
    "direct": lambda cp, h, d, x, y: snode.solve_direct(d, x),
    "direct the other way": lambda cp, h, d, x, y: snode.solve_direct(h, cp.asarray(x)),
    "parameters": lambda cp, h, d, x, y: d.with_parameters(W=h.W),
    "labels": lambda cp, h, d, x, y: snode.ncg(d, cp.asarray(x), y, COST),
    "inputs": lambda cp, h, d, x, y: snode.ncg(d, x, cp.asarray(y), COST),
    "training": lambda cp, h, d, x, y: snode.train(d, (x, y), COST),
    "prediction": lambda cp, h, d, x, y: snode.predict(d, x, n_classes=3),
    "certified radius": lambda cp, h, d, x, y: snode.certified_radius(
        d, cp.asarray(x), y, n_classes=3
    ),
    "slopes of a logarithmic norm": lambda cp, h, d, x, y: snode.max_log_norm(
        cp.asarray(h.W[0]), d0=np.ones(4)
    ),
    "adjoint": lambda cp, h, d, x, y: snode.solve_adjoint(snode.solve_direct(d, cp.asarray(x)), x),
    "sensitivity": lambda cp, h, d, x, y: snode.solve_sensitivity(
        snode.solve_direct(d, cp.asarray(x)), dtheta={"W": h.W}
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_mixing_is_refused(cp, pair_of_fields, name):
    host, device = pair_of_fields()
    with pytest.raises(TypeError, match=r"host \(NumPy\) and device \(CuPy\) arrays are mixed"):
        MIXED[name](cp, host, device, *data())
