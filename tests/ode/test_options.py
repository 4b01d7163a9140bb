"""MATLAB's habits: odeset, options by position, further arguments of f, names that exist there."""

import copy
import inspect
import pickle

import numpy as np
import pytest

import snode
from snode import Event, OdeOptions, Status

adaptive = pytest.mark.parametrize("solve", [snode.ode45, snode.ode23], ids=["ode45", "ode23"])
fixed = pytest.mark.parametrize("solve", [snode.euler, snode.heun, snode.rk4])
every = pytest.mark.parametrize(
    "solve", [snode.ode45, snode.ode23, snode.euler, snode.heun, snode.rk4]
)
GRID = [0.0, 0.5, 1.0]


def decay(t, x, rate=1.0, power=1):
    return -rate * x**power


# --- the record -----------------------------------------------------------------------------------


def test_it_prints_what_is_set_and_the_defaults_of_the_rest():
    shown = str(snode.odeset(RelTol=1e-6, AbsTol=[1e-8, 1e-9], Events=decay))
    lines = [line.strip() for line in shown.splitlines()]
    assert lines == [
        "OdeOptions",
        "AbsTol: [1e-08, 1e-09]",
        "RelTol: 1e-06",
        "InitialStep: [ number {chosen from f} ]",
        "MaxStep: [ number {inf} ]",
        "Events: decay",
    ]
    assert shown == repr(snode.odeset(RelTol=1e-6, AbsTol=[1e-8, 1e-9], Events=decay))


def test_the_defaults_that_are_printed_are_those_of_the_solvers():
    shown = dict(line.strip().split(": ", 1) for line in repr(snode.odeset()).splitlines()[1:])
    for solve in (snode.ode45, snode.ode23):
        default = {n: p.default for n, p in inspect.signature(solve).parameters.items()}
        assert f"{{{default['rtol']}}}" in shown["RelTol"]
        assert f"{{{default['atol']}}}" in shown["AbsTol"]
        assert f"{{{default['max_step']}}}" in shown["MaxStep"]


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        ({"RelTol": 1e-6}, "RelTol", 1e-6),
        ({"reltol": 1e-6}, "RelTol", 1e-6),
        ({"REL": 1e-6}, "RelTol", 1e-6),
        ({"a": 1e-6}, "AbsTol", 1e-6),
        ({"MaxS": 1}, "MaxStep", 1.0),
        ({"InitialSt": np.float32(0.5)}, "InitialStep", 0.5),
        ({"e": decay}, "Events", decay),
        ({"Events": [decay, Event(decay)]}, "Events", (decay, Event(decay))),
        ({"AbsTol": np.array([1e-6, 1])}, "AbsTol", (1e-6, 1.0)),
        ({"RelTol": 0}, "RelTol", 0.0),
        ({"MaxStep": np.inf}, "MaxStep", np.inf),
    ],
)
def test_names_are_read_as_matlab_reads_them(options, name, value):
    assert getattr(snode.odeset(**options), name) == value
    assert snode.odeset(*next(iter(options.items()))) == snode.odeset(**options)


def test_options_are_changed_merged_and_taken_back():
    old = snode.odeset(RelTol=1e-6, MaxStep=0.1)
    assert snode.odeset(old, RelTol=1e-8) == snode.odeset("RelTol", 1e-8, "MaxStep", 0.1)
    assert snode.odeset(old, "rel", 1e-8, AbsTol=1) == OdeOptions(1.0, 1e-8, None, 0.1)
    assert snode.odeset(old, snode.odeset(MaxStep=1, AbsTol=2)) == OdeOptions(2.0, 1e-6, None, 1.0)
    assert snode.odeset(old, MaxStep=None, RelTol=[]) == snode.odeset()
    assert old == OdeOptions(RelTol=1e-6, MaxStep=0.1)
    with pytest.raises(AttributeError):
        old.RelTol = 1.0
    assert copy.deepcopy(old) == old == pickle.loads(pickle.dumps(old))
    assert len({old, snode.odeset(old)}) == 1


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("Refine", "t_eval="),
        ("OutputFcn", "callback="),
        ("OutputSel", "sol.x"),
        ("Jacobian", "Radau"),
        ("JPattern", "Radau"),
        ("BDF", "Radau"),
        ("Vectorized", "whole state"),
        ("Mass", "solve"),
        ("MStateDependence", "solve"),
        ("MaxOrder", "ode23"),
        ("NonNegative", "logarithm"),
        ("NormControl", "root mean square"),
        ("Stats", "sol.nfev"),
    ],
)
def test_options_without_a_counterpart_name_what_is_there(name, instead):
    for given in (name, name.lower(), name[:-1] if name not in ("BDF", "Mass") else name):
        with pytest.raises(TypeError, match=rf"no option {name} here.*{instead}"):
            snode.odeset(**{given: "on"})
    with pytest.raises(TypeError, match=rf"ode23 takes no {name}.*{instead}"):
        snode.ode23(decay, GRID, [1.0], **{name: "on"})


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((), {"Re": 1}, r"'Re' may be each of the options RelTol, Refine"),
        ((), {"Ma": 1}, r"'Ma' may be each of the options MaxStep, Mass, MassSingular, MaxOrder"),
        ((), {"InitialS": 1}, r"'InitialS' may be each of the options InitialStep, InitialSlope"),
        ((), {"rtol": 1}, r"no option 'rtol'; there are AbsTol, RelTol, InitialStep"),
        (("", 1), {}, r"no option ''"),
        (("RelTol",), {}, r"names with their values"),
        ((1e-6,), {}, r"names with their values"),
        (({"RelTol": 1},), {}, r"names with their values"),
        ((OdeOptions(),) * 3, {}, r"names with their values"),
        (("RelTol", 1, "rel", 2), {}, r"RelTol is given twice, by 'RelTol' and 'rel'"),
        (("RelTol", 1), {"reltol": 2}, r"RelTol is given twice, by 'RelTol' and 'reltol'"),
    ],
)
def test_names_that_are_none_or_several(arguments, options, message):
    with pytest.raises(TypeError, match=message):
        snode.odeset(*arguments, **options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RelTol", -1e-6),
        ("RelTol", np.nan),
        ("RelTol", np.inf),
        ("RelTol", True),
        ("RelTol", "1e-6"),
        ("RelTol", [1e-6, 1e-6]),
        ("AbsTol", [1e-6, -1]),
        ("AbsTol", np.ones((2, 2))),
        ("AbsTol", np.array([])),
        ("InitialStep", 0),
        ("InitialStep", np.inf),
        ("MaxStep", 0.0),
        ("MaxStep", np.nan),
        ("MaxStep", 1j),
    ],
)
def test_values_that_do_not_fit_are_named(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be a number"):
        snode.odeset(**{name: value})
    with pytest.raises(ValueError, match=rf"^{name} must be a number"):
        OdeOptions(**{name: value})


def test_events_that_are_none():
    with pytest.raises(TypeError, match="events must be callables or Event; got int"):
        snode.odeset(Events=3)


# --- in the solvers -------------------------------------------------------------------------------


@adaptive
def test_every_option_does_what_its_keyword_does(solve):
    f, end = lambda t, x: [x[1], -x[0]], Event(lambda t, x: x[0], terminal=True)
    for options, keywords in [
        ({"RelTol": 1e-7}, {"rtol": 1e-7}),
        ({"AbsTol": 1e-2}, {"atol": 1e-2}),
        ({"AbsTol": [1e-9, 1e-2]}, {"atol": [1e-9, 1e-2]}),
        ({"InitialStep": 0.01}, {"first_step": 0.01}),
        ({"MaxStep": 0.05}, {"max_step": 0.05}),
        ({"Events": end}, {"events": end}),
        ({"Events": [end]}, {"events": [end]}),
    ]:
        opts = snode.odeset(**options)
        a, b = solve(f, [0, 2], [1.0, 0.0], opts), solve(f, [0, 2], [1.0, 0.0], **keywords)
        plain = solve(f, [0, 2], [1.0, 0.0])
        assert a.t.tolist() == b.t.tolist() != plain.t.tolist()
        assert (a.x == b.x).all()
        assert a.status is b.status
        both = solve(f, [0, 2], [1.0, 0.0], options=opts, **keywords)  # they agree
        assert (both.x == a.x).all()
    empty = solve(f, [0, 2], [1.0, 0.0], snode.odeset())
    assert (empty.x == plain.x).all()


@adaptive
@pytest.mark.parametrize(
    ("options", "keywords", "message"),
    [
        ({"RelTol": 1e-6}, {"rtol": 1e-5}, r"rtol=1e-05 contradicts RelTol=1e-06"),
        ({"RelTol": 1e-6}, {"rtol": 1e-3}, r"rtol=0.001 contradicts RelTol=1e-06"),  # the default
        ({"AbsTol": 1e-7}, {"atol": [1e-7, 1e-7]}, r"atol=\[1e-07, 1e-07\] contradicts AbsTol"),
        ({"AbsTol": [1, 2]}, {"atol": np.array([1.0, 3])}, r"atol=.* contradicts AbsTol=\[1.0"),
        ({"AbsTol": [1, 2]}, {"atol": np.ones(3)}, r"atol=.* contradicts AbsTol=\[1.0"),
        ({"InitialStep": 1}, {"first_step": 2}, r"first_step=2 contradicts InitialStep=1.0"),
        ({"MaxStep": 1}, {"max_step": np.inf}, r"max_step=inf contradicts MaxStep=1.0"),
        ({"Events": decay}, {"events": np.sin}, r"events=sin contradicts Events=decay"),
    ],
)
def test_a_keyword_that_contradicts_the_options_is_refused(solve, options, keywords, message):
    with pytest.raises(ValueError, match=message):
        solve(decay, [0, 1], [1.0, 1.0], snode.odeset(**options), **keywords)


@adaptive
@pytest.mark.parametrize("value", [{"RelTol": 1e-6}, [0, 0.5], 1e-6, "RelTol"])
def test_a_fourth_argument_must_be_options(solve, value):
    with pytest.raises(TypeError, match=r"options must be made by snode.odeset.*got "):
        solve(decay, [0, 1], [1.0], value)


@adaptive
def test_a_fifth_argument_is_told_of_args(solve):
    with pytest.raises(TypeError, match=r"takes 4 arguments by position, f, t_span, x0, options;"):
        solve(decay, [0, 1], [1.0], snode.odeset(), 2.0)
    with pytest.raises(TypeError, match=r"further arguments of f go into args=\(...\)"):
        solve(decay, [0, 1], [1.0], None, 2.0, 3)


@adaptive
@pytest.mark.parametrize(
    ("name", "keyword"),
    [
        ("RelTol", "rtol"),
        ("reltol", "rtol"),
        ("AbsTol", "atol"),
        ("InitialStep", "first_step"),
        ("MaxStep", "max_step"),
        ("Events", "events"),
    ],
)
def test_matlabs_name_as_a_keyword_is_told_of_ours(solve, name, keyword):
    message = rf"takes no \w+: the keyword is {keyword}=, or pass snode.odeset\(\w+=...\)"
    with pytest.raises(TypeError, match=message):
        solve(decay, [0, 1], [1.0], **{name: 0.1})


@fixed
@pytest.mark.parametrize("name", ["RelTol", "Refine", "Events"])
def test_methods_on_the_grid_say_that_they_have_no_options(solve, name):
    with pytest.raises(TypeError, match=rf"steps on the grid t and takes no {name}"):
        solve(decay, GRID, [1.0], **{name: 0.1})
    with pytest.raises(TypeError, match="takes 3 arguments by position, f, t, x0;"):
        solve(decay, GRID, [1.0], snode.odeset())


@every
def test_other_names_are_refused_by_python(solve):
    with pytest.raises(TypeError, match="unexpected keyword argument 'methode'"):
        solve(decay, GRID, [1.0], methode=1)


# --- further arguments ----------------------------------------------------------------------------


@every
@pytest.mark.parametrize("args", [(2.0,), [0.5, 2], (np.array([3.0, 0.1]), 1)])
def test_args_go_to_f(solve, args):
    a = solve(decay, GRID, [1.0, 0.5], args=args, dense_output=True)
    b = solve(lambda t, x: decay(t, x, *args), GRID, [1.0, 0.5], dense_output=True)
    plain = solve(decay, GRID, [1.0, 0.5])
    assert (a.x == b.x).all()
    assert (a(0.3) == b(0.3)).all()
    assert not np.array_equal(a.x, plain.x)


@every
@pytest.mark.parametrize("args", [2.0, np.array([2.0]), "ab", None, {"rate": 2.0}])
def test_args_that_are_no_tuple_are_refused(solve, args):
    with pytest.raises(TypeError, match=r"args must be a tuple, for one argument args=\(value,\)"):
        solve(decay, GRID, [1.0], args=args)


@every
def test_a_field_takes_no_args(solve):
    field = snode.StandaloneField.random(2, 1.0, 2, rng=0)
    with pytest.raises(TypeError, match=r"args must be \(\) for a vector field"):
        solve(field, GRID, np.ones((2, 1)), args=(1.0,))


@adaptive
@pytest.mark.parametrize("batch", ["shared", "independent"])
def test_args_go_to_the_events_as_in_scipy(solve, batch):
    def level(t, x, rate, height):
        return x[0, 0] - height

    level.terminal = True
    never = Event(lambda t, x, rate, height: 1.0)
    for events in (level, [level, never], Event(level, terminal=True)):
        sol = solve(
            lambda t, x, rate, height: -rate * x, [0, 9], np.ones((1, 1)), args=(2.0, 0.25),
            events=events, rtol=1e-10, atol=1e-12, batch=batch,
        )  # fmt: skip
        assert sol.status is Status.EVENT
        assert (sol.columns or [sol])[0].t[-1] == pytest.approx(np.log(4) / 2, rel=1e-7)


def test_a_solution_with_args_travels():
    sol = snode.ode45(decay, [0, 1], [1.0], args=(2.0,), dense_output=True)
    there = pickle.loads(pickle.dumps(sol))
    assert there.field(0.0, np.ones(1)) == [-2.0]
    assert there(0.5) == sol(0.5)
    assert pickle.loads(pickle.dumps(snode.ode45(lambda t, x, a: -a * x, [0, 1], [1.0], args=(2,))))


@adaptive
def test_without_args_f_is_called_itself(solve):
    assert solve(decay, [0, 1], [1.0]).field is decay


# --- what else comes from MATLAB ------------------------------------------------------------------


@adaptive
@pytest.mark.parametrize("span", [[0, 0.5, 2], np.linspace(2, 0, 7), (1.0, 1.5, 1.5, 3.0)])
def test_more_than_two_times_are_the_ones_returned(solve, span):
    sol = solve(decay, span, [1.0], snode.odeset(RelTol=1e-9, AbsTol=1e-12))
    assert sol.t.tolist() == list(map(float, span))
    assert sol.x[:, 0] == pytest.approx(np.exp(span[0] - np.asarray(span)), rel=1e-7)


def results():
    field, (x, y) = snode.StandaloneField.random(2, 1.0, 4, rng=0), snode.datasets.two_moons(9)
    cost = snode.Cost(n_classes=2)
    sol = snode.solve_direct(field, x)
    yield "sol.t, sol.x", sol
    yield "sol.t, sol.x", snode.ode45(decay, [0, 1], [1.0])
    yield "sol.t, sol.x", snode.rk4(decay, GRID, [1.0])
    yield "adj.t, adj.lam", snode.solve_adjoint(sol, np.ones_like(sol.x_T))
    yield "result.field, result.fun", snode.ncg(field, x, y, cost, n_iter=1)
    yield "result.field, result.history", snode.train(field, (x, y), cost, epochs=1)


def test_results_that_are_unpacked_name_their_parts():
    for parts, result in results():
        message = f"{type(result).__name__} is one result and cannot be unpacked; use {parts}"
        with pytest.raises(TypeError, match=message):
            _a, _b = result
        with pytest.raises(TypeError, match=message):
            list(result)


@adaptive
@pytest.mark.parametrize(
    "value",
    [
        lambda x: (x[0], 1, -1),
        lambda x: [x[0], True, 0],
        lambda x: (x[0], True, None),
        lambda x: (x[0], 1),
        lambda x: (x, [1, 1], [0, 0]),
        lambda x: (x, 1, 0),
        lambda x: [x[:, None], [True], []],
    ],
)
def test_matlabs_event_functions_are_told_of_event(solve, value):
    message = r"events\[0\] must return one number; .*snode.Event\(g, terminal=True, direction=-1\)"
    with pytest.raises(ValueError, match=message):
        solve(decay, [0, 1], [1.0, 2.0], snode.odeset(Events=lambda t, x: value(x)))


def test_an_array_from_an_event_function_is_no_habit_of_matlab():
    with pytest.raises(ValueError, match=r"for a state of shape \(3,\)$"):
        snode.ode45(decay, [0, 1], [1.0, 2.0, 3.0], events=lambda t, x: x)


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("ode15s", r"snode.ode45 and snode.ode23; .*method='Radau'"),
        ("ode23s", r"snode.ode45 and snode.ode23; .*method='Radau'"),
        ("ode23t", r"snode.ode45 and snode.ode23; .*method='Radau'"),
        ("ode23tb", r"snode.ode45 and snode.ode23; .*method='Radau'"),
        ("ode15i", r"snode.ode45 and snode.ode23 for x' = f\(t, x\)"),
        ("ode113", r"snode.ode45 and snode.ode23; .*method='DOP853'"),
        ("ode78", r"method='DOP853'"),
        ("ode89", r"method='DOP853'"),
        ("deval", r"sol\(t\)"),
        ("odeget", r"snode.odeset"),
    ],
)
def test_functions_of_matlab_that_are_missing_name_what_is_there(name, instead):
    with pytest.raises(AttributeError, match=rf"no attribute '{name}': .*{instead}"):
        getattr(snode, name)
    assert not hasattr(snode, name)
    assert name not in dir(snode)


def test_other_missing_names_have_no_hint():
    with pytest.raises(AttributeError, match=r"no attribute 'ode99'$"):
        _ = snode.ode99


# --- tolerances below what float32 resolves -------------------------------------------------------


FIELDS = [
    snode.StandaloneField.random(3, 1.0, 4, rng=0, dtype="float32"),
    snode.StandaloneField.random(3, 1.0, 4, rng=0, dtype="float32", interpolation="cubic"),
    snode.MLPField((3, 5, 3), rng=0, dtype="float32"),
    snode.Classifier.random(snode.StandaloneField.random(3, 1.0, 4, dtype="float32"), 2),
]
WAY_OUT = "field.with_parameters(**{k: v.astype('float64') for k, v in field.parameters.items()})"


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: type(f).__name__)
def test_a_field_in_float32_is_told_how_to_meet_a_fine_tolerance(field):
    x = np.linspace(-1, 1, 6, dtype="float32").reshape(3, 2)
    with pytest.raises(ValueError, match=r"rtol must be 0, or .* >= 1.2e-06 for float32") as error:
        snode.solve_direct(field, x, method="ode45", rtol=1e-6)
    assert WAY_OUT in str(error.value)
    fine = eval(WAY_OUT, {"field": field})
    sol = snode.solve_direct(fine, x.astype("float64"), method="ode45", rtol=1e-6)
    rough = snode.solve_direct(field, x, method="ode45", rtol=1e-5)
    assert sol.x_T.dtype == np.float64
    assert sol.x_T == pytest.approx(rough.x_T, abs=1e-4)


@adaptive
def test_a_plain_function_in_float32_too(solve):
    x0 = np.ones(1, "float32")
    with pytest.raises(ValueError, match=r">= 1.2e-06 for float32; .*x0.astype\('float64'\)"):
        solve(decay, [0, 1], x0, snode.odeset(RelTol=1e-8))
    sol = solve(decay, [0, 1], x0.astype("float64"), snode.odeset(RelTol=1e-8, AbsTol=0))
    assert sol.x_T == pytest.approx(np.exp(-1), rel=1e-6)


@pytest.mark.parametrize("rtol", [-1.0, 1e-20, np.nan, "a"])
def test_what_float64_cannot_meet_either_has_no_such_hint(rtol):
    for dtype in ("float32", "float64"):
        with pytest.raises(ValueError, match="rtol must be 0, or finite") as error:
            snode.ode45(decay, [0, 1], np.ones(1, dtype), rtol=rtol)
        assert "astype" not in str(error.value)
