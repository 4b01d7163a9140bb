"""Every public function follows its array, and a training iteration waits once for the device.

The device is a stand-in (`fakecupy.py`) that refuses what CuPy refuses and counts what CuPy waits
for; with CuPy and a GPU the same tests run there (``pytest -m gpu``).
"""

import dataclasses
import enum
import functools
import inspect
import itertools
import math

import fakecupy
import numpy as np
import pytest
from transposes import pulled

import snode
from snode import CG_RULES, H1, L2, Cost, Euclidean
from snode.backend import (
    array_namespace,
    as_number,
    follow,
    from_device,
    fuse,
    is_array,
    is_on_device,
    to_host_together,
)
from snode.training.device import DeviceProblem, EulerSweeps
from snode.training.gradients import FieldProblem
from snode.training.ncg import Memory, minimize

pytestmark = pytest.mark.grid(3)

ROOMS = ("fields", "partials", "ode", "training", "analysis", "predict", "checks")
N, K, M, C = 4, 6, 9, 3
COST = Cost(l2=0.8, ce=0.5, output=0.1, decay=0.05, n_classes=C)
REL = {"float64": 1e-10, "float32": 1e-5}


@pytest.fixture
def fake(cp):
    if type(cp).__module__ != "fakecupy":
        pytest.skip("a test of the stand-in")
    return cp


class Case:
    """The same field and data on the host or on a device."""

    def __init__(self, xp, dtype="float64", **options):
        self.xp, self.dtype = xp, dtype
        rng = np.random.default_rng(0)
        options = {"interpolation": "linear", "activation": "sigmoid"} | options
        size = K + (options["interpolation"] != "constant")
        W = 0.6 * rng.standard_normal((size, N, N)) / N**0.5
        b = 0.3 * rng.standard_normal((size, N))
        self.field = snode.StandaloneField(self.put(W), self.put(b), 1.5, **options)
        self.x = self.put(rng.uniform(-1, 1, (N, M)))
        self.p = self.put(rng.standard_normal((N, M)))
        self.y = xp.asarray(np.arange(M) % C)
        self.data = self.x, self.y
        self.d = {k: self.put(rng.standard_normal(p.shape)) for k, p in self.parameters.items()}
        self.A = self.put(rng.standard_normal((N, N)) - 2 * np.eye(N))
        self.V = self.put(rng.standard_normal((C, N)))
        self.c = self.put(rng.standard_normal(C))
        self.widths = [self.put(0.5 * rng.standard_normal(shape)) for shape in ((5, N), (N, 5))]
        self.biases = [self.put(rng.standard_normal(shape)) for shape in ((5,), (N,))]
        # a field of which the certificates know something
        self.flat = snode.StandaloneField(
            self.put(W[:2]), self.put(b[:2]), 0.5, activation="leaky_relu"
        )

    def put(self, array):
        return self.xp.asarray(array.astype(self.dtype))

    @property
    def parameters(self):
        return self.field.parameters

    @property
    def sol(self):
        return snode.solve_direct(self.field, self.x)

    @property
    def mlp(self):
        (W1, W2), (b1, b2) = self.widths, self.biases
        parameters = {"W1": W1, "b1": b1, "W2": W2, "b2": b2}
        return snode.MLPField.from_parameters(parameters, n_layers=4, output_activation="tanh")

    @property
    def classifier(self):
        return snode.Classifier(self.mlp, self.V, self.c)

    @property
    def function(self):
        return snode.FunctionField(
            lambda t, x, theta: theta["A"] @ x, N, parameters={"A": self.A}, n_layers=5,
            jvp=lambda t, x, theta, dx, dtheta: theta["A"] @ dx + dtheta["A"] @ x,
            vjp=lambda t, x, theta, p: (theta["A"].T @ p, {"A": p @ x.T}),
        )  # fmt: skip

    @property
    def growth(self):
        return snode.growth_bound(self.flat, n_starts=1)

    def oscillator(self, t, x):
        return self.xp.stack([x[1], -x[0]])

    def contract(self, field, t=0.3):
        """All that a field offers."""
        value, lin = field.linearize(t, self.x)
        d = {k: 0.1 * p + 1 for k, p in field.parameters.items()}
        derivatives = lin.jvp(self.p, d), *pulled(field, lin, self.p)
        return field(t, self.x), value, *derivatives, dict(field.parameters)


def attack(name, **options):
    def call(c):
        return getattr(snode, name)(c.field, *c.data, n_classes=C, **options)

    return call


def grid():
    return np.linspace(0.0, 1.0, 5)


# What each public name is called with. The result may be anything made of arrays and numbers.
TABLE = {
    "Activation": lambda c: (
        c.field.activation(c.x), c.field.activation.slope(c.x), c.field.activation.both(c.x.copy()),
    ),
    "get_activation": lambda c: [
        snode.get_activation(name)(c.x) for name in snode.activation_names() if name != "sine"
    ],
    "StandaloneField": lambda c: c.contract(c.field),
    "MLPField": lambda c: c.contract(c.mlp),
    "Classifier": lambda c: (c.contract(c.classifier), c.classifier.readout(c.x)),
    "FunctionField": lambda c: c.contract(c.function),
    "euler": lambda c: snode.euler(c.oscillator, grid(), c.x[:2]),
    "heun": lambda c: snode.heun(c.oscillator, grid(), c.x[:2], dense_output=True)(0.4),
    "rk4": lambda c: snode.rk4(c.oscillator, grid(), c.x[:2]),
    "ode23": lambda c: snode.ode23(c.oscillator, (0, 1), c.x[:2]),
    "ode45": lambda c: snode.ode45(
        c.oscillator, (0, 1), c.x[:2], batch="independent", t_eval=[0.5, 1]
    ),
    "odeset": lambda c: snode.ode45(
        c.oscillator, (0, 1), c.x[:2], snode.odeset(AbsTol=c.put(np.array([1e-6, 1e-5])))
    ),
    "Event": lambda c: snode.ode45(
        c.oscillator, (0, 3), c.x[:2, :1], events=snode.Event(lambda t, x: float(x[0, 0]))
    ).x_events,
    "solve_direct": lambda c: c.sol,
    "solve_sensitivity": lambda c: snode.solve_sensitivity(c.sol, dx0=c.p, dtheta=c.d),
    "solve_adjoint": lambda c: snode.solve_adjoint(c.sol, c.p),
    "end_time_derivative": lambda c: snode.end_time_derivative(c.sol),
    "Solver": lambda c: snode.Solver("heun", checkpoints=2).solve(c.field, c.x).x_T,
    "Cost": lambda c: (COST.value(c.field, c.x, c.y), COST.at(c.field, c.y).terminal(c.x)),
    "gradient": lambda c: snode.gradient(c.field, *c.data, COST, inner="h1"),
    "L2": lambda c: (L2().on(c.field).riesz(c.d), L2().on(c.field).dot(c.d, c.d)),
    "H1": lambda c: (H1(0.3).on(c.field).riesz(c.d), H1(0.3).on(c.field).norm(c.d)),
    "Euclidean": lambda c: (Euclidean().on(c.field).riesz(c.d), Euclidean().dot(c.d, c.d)),
    "ncg": lambda c: snode.ncg(c.field, *c.data, COST, n_iter=3),
    "train": lambda c: snode.train(
        c.field, c.data, COST, batch_size=5, n_iter=2, rng=0
    ).field.parameters,
    "sweep": lambda c: (
        lambda s: (s.field(1).parameters, [(r.status, r.cost_after) for r in s.rows])
    )(snode.sweep(c.field, c.data, {"seed": [0, 1]}, COST, batch_size=5, n_iter=2)),
    "predict": lambda c: snode.predict(c.field, c.x, n_classes=C),
    "accuracy": lambda c: snode.accuracy(c.field, *c.data, n_classes=C),
    "confusion": lambda c: snode.confusion(c.field, *c.data, n_classes=C),
    "check": lambda c: [row.passed for row in snode.check(c.field, verbose=False).rows],
    "dot_test": lambda c: snode.dot_test(lambda u: c.A @ u, lambda v: c.A.T @ v, c.x, c.p) < 1e-14,
    "taylor_test": lambda c: (
        snode.taylor_test(
            lambda eps: snode.solve_direct(c.field, c.x + eps * c.p).x_T,
            snode.solve_sensitivity(c.sol, dx0=c.p)[-1],
        ) > 1.9
    ),
    "propagate": lambda c: (
        lambda p: (p, p.mean, p.std)
    )(snode.propagate(c.field, c.x, 0.1 * c.p, dtheta={"W": 0.01 * c.d["W"]})),
    "input_jacobian": lambda c: [
        snode.input_jacobian(c.field, c.x, rows=C, method=m) for m in ("adjoint", "tangent")
    ],
    "output_uncertainty": lambda c: (
        lambda u: (u, u.std)
    )(snode.output_uncertainty(c.field, c.x, 0.1, n_classes=C, rng=0)),
    "saliency": lambda c: snode.saliency(c.classifier, c.x, kind="margin"),
    "fgsm": attack("fgsm", eps=0.1),
    "pgd": attack("pgd", eps=0.3, n_iter=4, rng=0),
    "deepfool": attack("deepfool"),
    "sensitivity_attack": attack("sensitivity_attack"),
    "carlini_wagner": attack("carlini_wagner", n_search=2, n_iter=5),
    "success_curve": lambda c: snode.success_curve(attack("deepfool")(c), [0.0, 0.5, 2.0]),
    "accuracy_under_noise": lambda c: snode.accuracy_under_noise(
        c.field, *c.data, [0.0, 0.3], n_classes=C, rng=0, n_draws=2
    ),
    "accuracy_under_attack": lambda c: snode.accuracy_under_attack(
        c.field, *c.data, functools.partial(snode.deepfool, n_classes=C), [0.0, 0.5]
    ),
    "log_norm": lambda c: (
        snode.log_norm(c.A), snode.log_norm(c.A[None] * 2, p=1),
        snode.log_norm(c.A[None], weight=c.A.T @ c.A),
    ),
    "max_log_norm": lambda c: (
        snode.max_log_norm(c.A), snode.max_log_norm([c.A, c.A]),
        snode.max_log_norm(lambda t: (1 + t) * c.A, t=[0, 1], between="linear"),
    ),
    "contractivity_interval": lambda c: snode.contractivity_interval(c.A),
    "contracting_shift": lambda c: snode.contracting_shift(c.A),
    "minimal_perturbation": lambda c: snode.minimal_perturbation(c.A),
    "growth_bound": lambda c: c.growth,
    "certified_radius": lambda c: (
        lambda r: (r, r.accuracy([0.0, 0.1]), repr(r))
    )(snode.certified_radius(c.flat, *c.data, n_classes=C)),
    "trajectory_gap": lambda c: (
        lambda g: (g, g.ratio, g.tightness, repr(g))
    )(snode.trajectory_gap(c.flat, c.x, c.p)),
}  # fmt: skip

# Public names that take and make no arrays, or are the results of names in the table.
NO_ARRAYS = {
    "CG_RULES", "FIRST_ORDER", "TABLEAUS", "CgRule", "CgTerms",  # tables of numbers and functions
    "ButcherTableau", "activation_names",
    "observed_order",  # works on errors; its function may return either kind of array
    "VectorField",  # a protocol
    "Partials",  # what the fields in the table add to
    "register_activation",  # its functions are tested on the host, as they are written
    "CheckReport", "TrainState", "NcgState", "OdeState",  # results and what callbacks see
    "OdeOptions",  # odeset makes them
    "AttackResult", "NoiseAccuracy", "Propagation", "Uncertainty",
    "LogNormResult", "NonFiniteCostError", "SweepResult", "SweepRow",
}  # fmt: skip

# What stays on the host, wherever the arrays are: depths, histories, counts and curves.
ON_THE_HOST = {
    "t", "nodes", "history", "log_factor", "ends", "upper", "lower", "bound of a depth",
    "t_events", "integral_lower", "integral_upper", "growth", "draws",
}  # fmt: skip
CURVES = {"confusion", "success_curve", "accuracy_under_noise", "accuracy_under_attack"}
HOST_PARTS = {("trajectory_gap", "bound"), ("trajectory_gap", "[2]"), ("certified_radius", "[1]")}


def public_names():
    """Names of ``snode`` whose code is in one of the rooms."""
    for name in snode.__all__:
        thing = getattr(snode, name)
        module = getattr(thing, "__module__", "") or ""
        room = module.split(".")[1] if module.startswith("snode.") else ""
        if room in ROOMS or (isinstance(thing, dict) and name.isupper()):
            yield name


def test_every_public_name_is_in_the_table():
    names = set(public_names())
    assert len(names) > 50
    missing = names - set(TABLE) - NO_ARRAYS
    assert not missing, f"say how they are called with device arrays: {sorted(missing)}"
    assert not set(TABLE) & NO_ARRAYS
    gone = (set(TABLE) | NO_ARRAYS) - names
    assert not gone, f"no longer public: {sorted(gone)}"


def leaves(value, path=()):
    """Yield (path, leaf) of everything that a result is made of."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for f in dataclasses.fields(value):
            if not f.name.startswith("_"):
                yield from leaves(getattr(value, f.name), (*path, f.name))
    elif isinstance(value, dict) or hasattr(value, "items"):
        for key in value:
            yield from leaves(value[key], (*path, str(key)))
    elif isinstance(value, tuple | list):
        names = getattr(value, "_fields", [f"[{i}]" for i in range(len(value))])
        for name, item in zip(names, value, strict=True):
            yield from leaves(item, (*path, name))
    elif is_array(value) or isinstance(value, int | float | str | np.number | enum.Enum):
        yield path, value
    elif hasattr(value, "parameters"):
        yield from leaves(dict(value.parameters), (*path, "parameters"))


def belongs_to_the_host(name, path):
    return (
        name in CURVES
        or bool(set(path) & ON_THE_HOST)
        or any(name == entry and part in path for entry, part in HOST_PARTS)
    )


@pytest.mark.parametrize("name", TABLE)
def test_every_public_function_follows_its_array(cp, name):
    compare(cp, name, "float64")


SINGLE = ["StandaloneField", "MLPField", "Classifier", "solve_direct", "solve_sensitivity",
          "solve_adjoint", "gradient", "ncg", "input_jacobian", "propagate", "saliency", "H1",
          "L2", "Cost"]  # fmt: skip


@pytest.mark.parametrize("name", SINGLE)
def test_in_single_precision(cp, name):
    compare(cp, name, "float32")


def compare(cp, name, dtype):
    host = list(leaves(TABLE[name](Case(np, dtype))))
    device = list(leaves(TABLE[name](Case(cp, dtype))))
    assert [path for path, _ in host] == [path for path, _ in device]
    assert host
    for (path, a), (_, b) in zip(host, device, strict=True):
        where = f"{name}: {'.'.join(path)}"
        if not is_array(a):
            assert not is_array(b), f"{where} is an array on the device only"
            same_number(a, b, dtype, where)
            continue
        on_host = belongs_to_the_host(name, path)
        assert isinstance(b, np.ndarray if on_host else cp.ndarray), f"{where}: {type(b)}"
        assert b.dtype == a.dtype, where
        assert b.shape == a.shape, where
        same_array(a, b if on_host else cp.asnumpy(b), dtype, where)


def same_number(a, b, dtype, where):
    if isinstance(a, float):
        assert b == pytest.approx(a, rel=100 * REL[dtype], abs=REL[dtype], nan_ok=True), where
    else:
        assert b == a, where


def same_array(a, b, dtype, where):
    if a.dtype.kind != "f":
        assert np.array_equal(a, b), where
        return
    finite = np.isfinite(a)
    assert np.array_equal(np.where(finite, 0, a), np.where(finite, 0, b), equal_nan=True), where
    size = np.abs(a[finite]).max(initial=1e-3)
    assert np.abs(a - b)[finite].max(initial=0) <= REL[dtype] * size, where


# --- creators -------------------------------------------------------------------------------------


@pytest.fixture
def device_backend(cp):
    snode.use_backend("cupy")
    yield
    snode.use_backend("numpy")


CREATORS = {
    "StandaloneField": lambda: snode.StandaloneField.random(3, 1.0, 5, rng=0).parameters,
    "MLPField": lambda: snode.MLPField((3, 4, 3), rng=0).parameters,
    "Classifier": lambda: (
        snode.Classifier.random(snode.MLPField((3, 4, 3), rng=0), 2, rng=1).parameters
    ),
    **{
        name: functools.partial(getattr(snode.datasets, name), 40, rng=0)
        for name in ("two_moons", "spirals", "annulus", "broken_annulus", "swiss_roll")
    },
}


@pytest.mark.parametrize("name", CREATORS)
def test_creators_make_the_same_numbers_on_the_device(cp, device_backend, name):
    device = [(p, v) for p, v in leaves(CREATORS[name]()) if is_array(v)]
    snode.use_backend("numpy")
    host = [(p, v) for p, v in leaves(CREATORS[name]()) if is_array(v)]
    assert [p for p, _ in device] == [p for p, _ in host] != []
    for (path, a), (_, b) in zip(host, device, strict=True):
        assert isinstance(b, cp.ndarray), path
        assert np.array_equal(a, cp.asnumpy(b)), path


def test_every_creator_is_in_the_table():
    made = {n for n in snode.datasets.__all__ if inspect.isfunction(getattr(snode.datasets, n))}
    from_files = {"load_mnist", "load_dataset", "train_test_split"}  # tests/datasets
    assert made - from_files <= set(CREATORS)


# --- how often a training iteration waits ---------------------------------------------------------


def waits_of(case, **options):
    """Return what each iteration of `ncg` from the second on waited for, and how many decided
    otherwise than was expected: a step was halved or a direction was reset."""
    marks = []
    result = snode.ncg(
        case.field, *case.data, **options, callback=lambda _: marks.append(len(fakecupy.waits))
    )
    assert len(marks) == result.nit == options["n_iter"]
    waits = [fakecupy.waits[a:b] for a, b in itertools.pairwise(marks)]
    h = result.history
    return waits, (h.restarted | (h.halvings > 0)).tolist()[1:]


def assert_one_wait(waits, surprised):
    assert len(waits) == len(surprised)
    assert False in surprised
    for found, surprise in zip(waits, surprised, strict=True):
        assert surprise or len(found) <= 1, found


@pytest.mark.parametrize("interpolation", ["constant", "linear", "cubic"])
@pytest.mark.parametrize("inner", [L2(), H1(0.5), Euclidean()], ids=repr)
@pytest.mark.parametrize("solver", ["euler", "rk4", snode.Solver("heun", checkpoints=2)], ids=str)
def test_an_iteration_waits_once(fake, interpolation, inner, solver):
    case = Case(fake, interpolation=interpolation)
    for rule in CG_RULES:
        assert_one_wait(*waits_of(case, cost=COST, inner=inner, rule=rule, solver=solver, n_iter=6))


@pytest.mark.parametrize("kind", ["mlp", "classifier", "function"])
def test_an_iteration_of_another_field_waits_once(fake, kind):
    case = Case(fake)
    case.field = getattr(case, kind)
    assert_one_wait(*waits_of(case, cost=COST, rule="PR+", n_iter=4))


def test_targets_need_one_copy_of_a_few_numbers(fake):
    case = Case(fake)
    case.data = case.x, case.p
    fakecupy.copies.clear()
    assert_one_wait(*waits_of(case, cost=Cost(l2=1.0, decay=0.1), n_iter=6))
    assert max(fakecupy.copies) <= 9


def test_the_data_are_looked_at_once(fake):
    case = Case(fake)
    counts = []
    for n_iter in (1, 2):
        before = len(fakecupy.waits)
        snode.ncg(case.field, *case.data, COST, n_iter=n_iter)
        counts.append(len(fakecupy.waits) - before)
    assert counts[1] == counts[0] + 1
    assert counts[0] <= 2 + 6


def test_the_last_iteration_computes_no_gradient_ahead(cp, monkeypatch):
    calls = []
    original = DeviceProblem.gradient_numbers
    monkeypatch.setattr(
        DeviceProblem, "gradient_numbers", lambda self: calls.append(1) or original(self)
    )
    case = Case(cp)
    snode.ncg(case.field, *case.data, COST, n_iter=4)
    assert len(calls) == 4


# --- looking ahead changes nothing ----------------------------------------------------------------


def pair_of_problems(cp, keep, **options):
    for xp, make in ((np, FieldProblem), (cp, DeviceProblem)):
        case = Case(xp, **options)
        yield make(case.field, *case.data, COST, H1(0.5), keep_gradient=keep)


def same_history(a, b, rel=1e-8):
    for name, column in vars(a.history).items():
        other = getattr(b.history, name)
        if column.dtype.kind == "f":
            assert other == pytest.approx(column, rel=rel), name
        else:
            assert np.array_equal(column, other), name
    assert a.status is b.status
    assert a.nit == b.nit
    assert a.nfev == b.nfev


@pytest.mark.parametrize("rule", CG_RULES)
def test_history_equals_that_of_the_generic_path(cp, rule):
    keep = CG_RULES[rule].needs_previous
    host, device = (
        minimize(problem, rule=rule, n_iter=6) for problem in pair_of_problems(cp, keep)
    )
    same_history(host, device)


def test_rejected_steps_are_those_of_the_generic_path(cp, monkeypatch):
    monkeypatch.setattr("snode.training.ncg.TRUST", 300.0)  # so large that steps must be halved
    cost = Cost(l2=0.0, ce=1.0, n_classes=C)
    results = []
    for xp, make in ((np, FieldProblem), (cp, DeviceProblem)):
        case = Case(xp)
        weights = {name: 4 * p for name, p in case.parameters.items()}
        problem = make(case.field.with_parameters(**weights), *case.data, cost, keep_gradient=True)
        results.append(minimize(problem, rule="HS", n_iter=12))
    same_history(*results, rel=1e-5)
    assert results[0].history.halvings.any()


@pytest.mark.parametrize("rule", ["FR", "PR+"])
def test_directions_that_do_not_descend_are_reset_as_on_the_generic_path(cp, rule):
    results = []
    for xp, make in ((np, FieldProblem), (cp, DeviceProblem)):
        case = Case(xp)
        problem = make(case.field, *case.data, COST, keep_gradient=True)
        results.append(minimize(problem, rule=rule, n_iter=12))
    same_history(*results, rel=1e-6)
    assert results[0].history.restarted.any()


def test_conjugacy_goes_on_over_minibatches(cp):
    runs = []
    for problem in pair_of_problems(cp, keep=True):
        memory, costs = Memory(), []
        for _ in range(3):
            run = minimize(problem, rule="PR+", n_iter=2, memory=memory)
            costs.extend(run.history.cost)
            problem.set_data(run.field, problem.x, problem.terminal_cost.labels)
        runs.append(costs)
    assert runs[1] == pytest.approx(runs[0], rel=1e-9)


def test_a_rule_of_ones_own_may_wait(cp, monkeypatch):
    rule = snode.CgRule(lambda c: max(0.0, math.sqrt(c.gg / c.gg_old)), False, "a test")
    monkeypatch.setitem(CG_RULES, "own", rule)
    host, device = (
        minimize(problem, rule="own", n_iter=4) for problem in pair_of_problems(cp, keep=False)
    )
    same_history(host, device)


def test_a_cost_that_overflows_is_refused(cp):
    case = Case(cp, activation="relu")
    huge = case.field.with_parameters(W=case.parameters["W"] * 1e200)
    with pytest.raises(snode.NonFiniteCostError):
        snode.ncg(huge, *case.data, COST)


def test_a_solver_that_gives_up_is_a_cost_that_is_not_finite(cp):
    for xp in (np, cp):
        case = Case(xp)
        with pytest.raises(snode.NonFiniteCostError):
            snode.ncg(case.field, *case.data, COST, solver=snode.Solver("ode45", max_steps=1))


# --- the sweeps of Euler --------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [M, 2000])
@pytest.mark.parametrize("interpolation", ["constant", "linear", "cubic"])
def test_sweeps_equal_the_generic_solver(cp, activation, interpolation, samples):
    for xp in (np, cp):
        case = Case(xp, activation=activation, interpolation=interpolation)
        x, p = (case.put(np.resize(np.cos(np.arange(400.0)), (N, samples))) for _ in range(2))
        sweeps, sol = EulerSweeps(), snode.solve_direct(case.field, x)
        sweeps.solve(case.field, x)
        partials = snode.solve_adjoint(sol, p).partials
        xi = snode.solve_sensitivity(sol, dtheta=case.d)[-1]
        found = {"x": sweeps.x_T, "xi": sweeps.tangent(case.d)} | sweeps.pull_back(p)
        for name, expected in ({"x": sol.x_T, "xi": xi} | dict(partials)).items():
            assert float(abs(found[name] - expected).max()) <= 1e-12 * float(
                abs(expected).max() + 1
            ), name


def test_memory_of_the_sweeps_is_used_again(cp):
    case, sweeps = Case(cp), EulerSweeps()
    sweeps.solve(case.field, case.x)
    first = sweeps.x
    sweeps.solve(case.field, case.x)
    assert sweeps.x is first
    sweeps.solve(case.field, case.x[:, :3])
    assert sweeps.x.shape == (K + 1, N, 3)
    single = Case(cp, "float32")
    sweeps.solve(single.field, single.x[:, :3])
    assert sweeps.x_T.dtype == np.float32


# --- the backend ----------------------------------------------------------------------------------


def test_fused_functions_are_the_functions(cp):
    @fuse
    def step(a, h, out):
        xp = array_namespace(a)
        out[...] = xp.tanh(a) * h
        return xp.where(a > 0, a, 2 * a)

    for xp in (np, cp):
        a = xp.asarray(np.linspace(-1, 1, 7))
        out = xp.zeros_like(a)
        assert float(abs(step(a, 0.5, out) - xp.where(a > 0, a, 2 * a)).max()) == 0
        assert float(abs(out - 0.5 * xp.tanh(a)).max()) < 1e-15
        assert array_namespace(a) is xp


BAD_FUSIONS = {
    "shape": lambda a: a * a.shape[0],
    "index": lambda a: a[0],
    "NumPy": lambda a: np.sin(a),
    "reduction by method": lambda a: a.dot(a),
    "creation": lambda a: array_namespace(a).zeros_like(a),
    "decision": lambda a: a if a > 0 else -a,
}


@pytest.mark.parametrize("name", BAD_FUSIONS)
def test_the_stand_in_refuses_what_cannot_be_fused(fake, name):
    with pytest.raises((TypeError, AttributeError)):
        fuse(BAD_FUSIONS[name])(fake.ones(3))
    assert array_namespace(np.ones(2)) is np  # the mark of a fusion is gone


def test_numbers_travel_together(fake):
    values = [fake.asarray(1.5), 2.0, fake.ones((2, 3), dtype=np.float32), None]
    fakecupy.waits.clear()
    one, two, ones, none = to_host_together(*values)
    assert len(fakecupy.waits) == 1
    assert (float(one), two, none) == (1.5, 2.0, None)
    assert ones.shape == (2, 3)
    assert ones.tolist() == np.ones((2, 3)).tolist()
    host = np.ones(2)
    assert to_host_together(host, 1.0)[0] is host


def test_as_number(fake):
    assert type(as_number(np.float32(2))) is float
    fakecupy.waits.clear()
    assert is_on_device(as_number(fake.ones(3).sum()))
    assert fakecupy.waits == []


def test_there_and_back(cp):
    a, b = cp.ones(2), np.zeros(3)
    there = from_device([a, "text", [a]])
    assert type(there[0]) is np.ndarray is type(there[2][0])
    back = follow((b, (b, "text"), 1), a)
    assert is_on_device(back[0])
    assert is_on_device(back[1][0])
    assert follow((b, 1), None, "text")[0] is b


WAITS = {
    "get": lambda cp, d: d.get(),
    "asnumpy": lambda cp, d: cp.asnumpy(d),
    "item": lambda cp, d: d[0].item(),
    "tolist": lambda cp, d: d.tolist(),
    "float": lambda cp, d: float(d[0]),
    "int": lambda cp, d: int(d[0]),
    "bool": lambda cp, d: bool(d[0] > 0),
    "if": lambda cp, d: 1 if (d > 0).all() else 0,
    "max of Python": lambda cp, d: max(0.0, d[0]),
    "format": lambda cp, d: f"{d[0]:g}",
    "repr": lambda cp, d: repr(d),
    "mask": lambda cp, d: d[d > 0],
    "nonzero": lambda cp, d: d.nonzero(),
    "cp.nonzero": lambda cp, d: cp.nonzero(d),
    "where of a condition": lambda cp, d: cp.where(d > 0),
    "unique": lambda cp, d: cp.unique(d),
}


@pytest.mark.parametrize("name", WAITS)
def test_the_stand_in_counts_what_waits(fake, name):
    device = fake.arange(3.0) + 1
    fakecupy.waits.clear()
    WAITS[name](fake, device)
    assert fakecupy.waits
    assert all(" at test_device.py:" in line for line in fakecupy.waits)


def test_what_does_not_wait_is_not_counted(fake):
    d = fake.arange(12.0).reshape(3, 4)
    fakecupy.waits.clear()
    d += d.sum() * fake.where(d > 0, d, 0) + d[fake.asarray([0, 1, 2])].max(axis=0)
    d[d > 3] = 0.0
    fake.matmul(d, d.T)
    assert fakecupy.waits == []


# --- planted mistakes -----------------------------------------------------------------------------


def test_a_planted_asarray_goes_red(fake, monkeypatch):
    """NumPy's asarray on a device array, deep inside of training, is refused, not copied."""
    from snode.training.costs import TerminalCost

    original = TerminalCost.terminal
    case = Case(fake)
    snode.ncg(case.field, *case.data, COST, n_iter=2)
    monkeypatch.setattr(TerminalCost, "terminal", lambda self, x_T: original(self, np.asarray(x_T)))
    with pytest.raises(TypeError, match="Implicit conversion to a NumPy array is not allowed"):
        snode.ncg(case.field, *case.data, COST, n_iter=2)


def test_a_planted_wait_is_seen(fake, monkeypatch):
    original = EulerSweeps.solve

    def looks(self, field, x0):
        original(self, field, x0)
        assert bool(array_namespace(x0).isfinite(self.x_T).all())

    monkeypatch.setattr(EulerSweeps, "solve", looks)
    waits, _ = waits_of(Case(fake), cost=COST, n_iter=3)
    assert min(map(len, waits)) == 2
