"""Everything public pickles and deep-copies: a new class of `snode` needs an entry in `MAKERS`."""

import copy
import functools
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from types import MappingProxyType

import numpy as np
import pytest

import snode
from snode.copying import LostFunction

pytestmark = pytest.mark.grid(2)


def square(t, x):
    return x**2


def turn(t, x, theta):
    return theta["A"] @ x


def turn_jvp(t, x, theta, dx, dtheta):
    return theta["A"] @ dx + dtheta["A"] @ x


def turn_vjp(t, x, theta, p):
    return theta["A"].T @ p, {"A": p @ x.T}


def first(t, x):
    return x[0] - 0.5


def cube(a):
    return a**3 / 3


def cube_slope(a):
    return a**2


def layered(**options):
    return snode.StandaloneField.random(2, 1.0, 4, knots=2, rng=0, **options)


def rotation():
    return snode.FunctionField(
        turn, 2, parameters={"A": np.array([[0.0, -1.0], [1.0, 0.0]])}, jvp=turn_jvp,
        vjp=turn_vjp, n_layers=4,
    )  # fmt: skip


def columns():
    return np.random.default_rng(0).uniform(-1, 1, (2, 6)), np.array([0, 1, 0, 1, 1, 0])


COST = snode.Cost(n_classes=2)


def trained(**options):
    return snode.train(layered(), columns(), COST, epochs=1, batch_size=3, rng=0, **options)


def seen(run):
    states = []
    run(lambda state: states.append(state) or False)
    return states[-1]


def solution(field=None, **options):
    return snode.solve_direct(field or layered(), columns()[0], **options)


def events():
    event = snode.Event(first, terminal=True)
    return snode.ode45(square, (0, 1), [0.3], events=event, dense_output=True)


def blown_up():
    try:
        snode.ode45(square, (0, 2), [1.0])
    except snode.IntegrationError as error:
        return error
    raise AssertionError


def not_finite():
    return snode.NonFiniteCostError(float("nan"))


def loaded(tmp):
    snode.save(tmp / "model", layered(), manifest={"seed": 0})
    return snode.load(tmp / "model")


def swept():
    return snode.sweep(layered(), columns(), {"seed": [0]}, COST, epochs=1, batch_size=3)


MAKERS = {
    "Activation": lambda: snode.get_activation("leaky_relu", alpha=0.2),
    "AdjointSolution": lambda: snode.solve_adjoint(solution(), np.ones((2, 6))),
    "AttackResult": lambda: snode.fgsm(layered(), *columns(), eps=0.1, n_classes=2),
    "ButcherTableau": lambda: snode.TABLEAUS["rk4"],
    "CgRule": lambda: snode.CG_RULES["HS"],
    "CgTerms": lambda: snode.CgTerms(1.0, 2.0, 3.0, 4.0, 5.0),
    "CheckReport": lambda: snode.check(layered(), verbose=False),
    "Classifier": lambda: snode.Classifier.random(layered(), 3, rng=0),
    "Cost": lambda: COST,
    "Euclidean": snode.Euclidean,
    "Event": lambda: snode.Event(first, terminal=True),
    "FunctionField": rotation,
    "H1": lambda: snode.H1(0.5),
    "IntegrationError": blown_up,
    "L2": snode.L2,
    "LogNormResult": lambda: snode.max_log_norm(np.array([[0.0, 1.0], [-1.0, 0.2]]), (0.1, 1.0)),
    "MLPField": lambda: snode.MLPField((2, 3, 2), time="concat", rng=0),
    "ModelFormatError": lambda: snode.ModelFormatError("model: damaged"),
    "NcgHistory": lambda: snode.ncg(layered(), *columns(), COST, n_iter=2).history,
    "NcgResult": lambda: snode.ncg(layered(), *columns(), COST, n_iter=2),
    "NcgState": lambda: seen(lambda see: snode.ncg(layered(), *columns(), COST, callback=see)),
    "NoiseAccuracy": lambda: snode.accuracy_under_noise(
        layered(), *columns(), [0.1], n_classes=2, rng=0, n_draws=2),
    "NonFiniteCostError": not_finite,
    "OdeOptions": lambda: snode.odeset(RelTol=1e-6, AbsTol=[1, 2], Events=square),
    "OdeSolution": lambda: solution(keep="all"),
    "OdeState": lambda: seen(lambda see: snode.ode45(square, (0, 0.5), [1.0], callback=see)),
    "Partials": lambda: snode.Partials.of(layered().parameters).under("inner").times(0.5),
    "Propagation": lambda: snode.propagate(layered(), columns()[0], 1e-3 * columns()[0]),
    "Solver": lambda: snode.Solver("ode45", rtol=1e-5),
    "StandaloneField": lambda: layered(interpolation="cubic"),
    "Status": lambda: snode.Status.SUCCESS,
    "SweepResult": swept,
    "SweepRow": lambda: swept().rows[0],
    "TrainResult": trained,
    "TrainState": lambda: seen(lambda see: trained(callback=see)),
    "Uncertainty": lambda: snode.output_uncertainty(
        layered(), columns()[0], 0.1, n_classes=2, rng=0),
}  # fmt: skip
CLASSES = {name for name in snode.__all__ if isinstance(getattr(snode, name), type)}
ELSEWHERE = {"Model", "VectorField", "TrainingWarning"}  # needs a file; a protocol; a name only
MORE = {
    "adaptive solution": lambda: solution(method="ode45", rtol=1e-4, keep="all"),
    "solution of an MLP": lambda: solution(MAKERS["MLPField"](), keep="all", method="rk4"),
    "solution of a classifier": lambda: solution(MAKERS["Classifier"](), checkpoints=2),
    "independent samples": lambda: solution(method="ode45", batch="independent"),
    "solution with events": events,
    "solution of a FunctionField": lambda: solution(rotation(), method="rk4", keep="all"),
    "data set": lambda: snode.datasets.Dataset(*columns()),
    "first order": lambda: snode.FIRST_ORDER["adam"],
    "float32": lambda: layered(dtype="float32"),
    "interval": lambda: snode.contractivity_interval(-np.eye(2)),
    "shift": lambda: snode.contracting_shift(np.array([[0.5, 1.0], [-0.3, 0.1]])),
    "perturbation": lambda: snode.minimal_perturbation(np.array([[0.5, 1.0], [-0.3, 0.1]])),
    "growth": lambda: snode.growth_bound(layered()),
    "radius": lambda: snode.certified_radius(layered(), *columns(), n_classes=2),
    "gap": lambda: snode.trajectory_gap(layered(), columns()[0], 1e-3 * columns()[0]),
    **{f"rule {name}": functools.partial(snode.CG_RULES.get, name) for name in snode.CG_RULES},
    **{f"{name}()": functools.partial(snode.get_activation, name) for name in (
        "sigmoid", "tanh", "relu", "leaky_relu", "smooth_relu", "smooth_leaky_relu", "leaky_tanh",
        "leaky_tanh_c1", "elu", "softplus", "identity")},
}  # fmt: skip


def pickled(thing):
    return pickle.loads(pickle.dumps(thing))


HOW = {"pickle": pickled, "deepcopy": copy.deepcopy, "copy": copy.copy}


def same(a, b, seen=None):
    """Compare all that two objects hold."""
    seen = set() if seen is None else seen
    if a is b or (id(a), id(b)) in seen:
        return True
    seen.add((id(a), id(b)))
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b, equal_nan=a.dtype.kind == "f") and a.dtype == b.dtype
    if isinstance(a, snode.Activation):
        grid = np.linspace(-3, 3, 31)
        return a.spec == b.spec and np.array_equal(a.slope(grid), b.slope(grid))
    if isinstance(a, dict | MappingProxyType):
        return set(a) == set(b) and all(same(a[key], b[key], seen) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y, seen) for x, y in zip(a, b, strict=True))
    if isinstance(a, functools.partial):
        return a.func is b.func and same(a.args, b.args, seen)
    if isinstance(a, BaseException) and str(a) != str(b):
        return False
    slots = [name for kind in type(a).__mro__ for name in getattr(kind, "__slots__", ())]
    if hasattr(a, "__dict__") or slots:
        own = {name: getattr(a, name) for name in slots} | getattr(a, "__dict__", {})
        other = {name: getattr(b, name) for name in slots} | getattr(b, "__dict__", {})
        return same(own, other, seen)
    return a == b or (a != a and b != b)


def test_no_class_is_forgotten():
    assert set(MAKERS) == CLASSES - ELSEWHERE


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", [*MAKERS, *MORE])
def test_a_copy_is_the_same(name, how):
    thing = (MAKERS | MORE)[name]()
    copied = HOW[how](thing)
    assert same(thing, copied)
    assert repr(copied) == repr(thing)


@pytest.mark.parametrize("how", [pickled, copy.deepcopy])
def test_arrays_and_mappings_stay_protected(how):
    for field in (layered(), MAKERS["MLPField"](), rotation(), MAKERS["Classifier"]()):
        copied = how(field)
        assert type(copied.parameters) is MappingProxyType
        for array in copied.parameters.values():
            assert not array.flags.writeable
            assert not any(np.shares_memory(array, p) for p in field.parameters.values())
        with pytest.raises(TypeError):
            copied.parameters["W"] = 0
    assert not how(MAKERS["MLPField"]()).grid.flags.writeable


def test_a_copied_field_computes_bit_for_bit_the_same():
    for field in (layered(interpolation="linear"), rotation(), MAKERS["Classifier"]()):
        sol, other = solution(field, keep="all"), solution(pickled(field), keep="all")
        np.testing.assert_array_equal(sol.x, other.x)
        adjoint = snode.solve_adjoint(pickled(sol), np.ones((2, 6)))
        np.testing.assert_array_equal(adjoint.lam, snode.solve_adjoint(sol, np.ones((2, 6))).lam)
    copied = pickled(snode.solve_adjoint(solution(), np.ones((2, 6))))
    assert copied.end_time == snode.solve_adjoint(solution(), np.ones((2, 6))).end_time
    dense = pickled(events())
    np.testing.assert_array_equal(dense(0.2), events()(0.2))


# --- activations of one's own ---------------------------------------------------------------------


def forget(name):
    snode.fields.activations._TABLE.pop(name)


def test_own_activations_of_a_module_need_no_registration_where_they_arrive():
    own = snode.Activation("cube", cube, cube_slope, (0.0, np.inf), kinks=(0.5,))
    arrived = pickled(layered(activation=own)).activation
    assert (arrived.value, arrived.slope, arrived.kinks) == (cube, cube_slope, (0.5,))
    ufunc = pickled(snode.Activation("sin", np.sin, np.cos, (-1.0, 1.0)))
    assert ufunc.value is np.sin


def test_a_registered_activation_of_lambdas_goes_by_name():
    own = snode.register_activation("half", lambda a: a / 2, lambda a: 0 * a + 0.5, (0.5, 0.5))
    try:
        assert pickled(own) is own
        data = pickle.dumps(layered(activation=own))
    finally:
        forget("half")
    arrived = pickle.loads(data)
    assert arrived.activation.name == "half"
    with pytest.raises(TypeError, match=r"'half'.*register_activation"):
        arrived(0.0, np.ones((2, 1)))


def test_a_changed_copy_of_a_built_in_activation_is_not_taken_for_it():
    import dataclasses

    relu = snode.get_activation("relu")
    changed = dataclasses.replace(
        relu, value=cube, slope=cube_slope, slope_interval=(0.0, np.inf), kinks=()
    )
    assert pickled(changed).value is cube


# --- errors ---------------------------------------------------------------------------------------


def with_notes(error):
    error.add_note("member 3")
    return error


@pytest.mark.parametrize("make", [blown_up, not_finite, lambda: snode.ModelFormatError("a.mat: b")])
@pytest.mark.parametrize("how", [pickled, copy.deepcopy, copy.copy])
def test_errors_arrive_as_they_left(make, how):
    error = with_notes(make())
    arrived = how(how(error))
    assert (type(arrived), str(arrived)) == (type(error), str(error))
    assert arrived.__notes__ == ["member 3"]
    if isinstance(error, snode.IntegrationError):
        assert arrived.solution.status is snode.Status.BLOW_UP
        np.testing.assert_array_equal(arrived.solution.t, error.solution.t)
    if isinstance(error, snode.NonFiniteCostError):
        assert np.isnan(arrived.cost)


def raise_named(x0):
    snode.ode45(square, (0, 2), [x0])


def raise_of_lambda(x0):
    snode.ode45(lambda t, x: x**2, (0, 2), [x0])


def raise_of_closure(x0):
    def f(t, x, theta):
        return theta["k"] * x**2

    field = snode.FunctionField(f, 1, parameters={"k": np.ones(1)}, T=2.0)
    snode.solve_direct(field, np.array([[x0]]), method="ode45", keep="all")


def raise_cost(x0):
    raise snode.NonFiniteCostError(x0)


def member(which):
    {"f": raise_named, "l": raise_of_lambda, "c": raise_of_closure, "n": raise_cost}[which](1.0)


def test_errors_cross_a_process_pool():
    start = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=start) as pool:
        for which in "flc":
            with pytest.raises(snode.IntegrationError, match="blows up") as caught:
                pool.submit(member, which).result(timeout=120)
            solution = caught.value.solution
            assert solution.status is snode.Status.BLOW_UP
            assert solution.t[-1] == pytest.approx(1.0, abs=1e-2)
            assert isinstance(solution.field, LostFunction) == (which != "f")
        with pytest.raises(snode.NonFiniteCostError, match=r"^the cost is 1\.0: the direct"):
            pool.submit(member, "n").result(timeout=120)
        arrived = pool.submit(copy.copy, layered()).result(timeout=120)
        assert same(arrived, layered())


def test_a_lost_function_says_so():
    sol = snode.ode45(lambda t, x: -x, (0, 1), [1.0], dense_output=True)
    arrived = pickled(sol)
    np.testing.assert_array_equal(arrived.x, sol.x)
    np.testing.assert_array_equal(arrived(0.3), sol(0.3))
    with pytest.raises(TypeError, match=r"the right-hand side .*<lambda> was left behind"):
        arrived.field(0.0, np.ones(1))
    assert copy.deepcopy(sol).field is sol.field
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        pickle.dumps(snode.FunctionField(lambda t, x: -x, 1))


def test_a_model_and_its_immutability(tmp_path):
    model = loaded(tmp_path)
    for how in HOW.values():
        copied = how(model)
        assert same(copied, model)
        with pytest.raises(AttributeError):
            copied.field = None
