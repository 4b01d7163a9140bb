"""The solver option: the same training with any method, on exact gradients of what it computes."""

import numpy as np
import pytest

import snode
from snode import Cost, ModelFormatError, Solver
from snode.training.gradients import FieldProblem
from snode.training.hotpath import EulerProblem
from snode.training.ncg import make_problem

COST = Cost(l2=0.7, ce=0.4, decay=0.05, n_classes=3)
FIXED = ["midpoint", "heun", "rk4", "dormand_prince"]
TIGHT = Solver("ode45", rtol=1e-11, atol=1e-13)


@pytest.fixture
def case(make_field):
    field = make_field(4, 5, interpolation="cubic", seed=3)
    rng = np.random.default_rng(0)
    return field, rng.uniform(-1, 1, (4, 6)), np.arange(6) % 3


def central(field, x, y, solver, moved, d, eps=1e-5):
    def value(e):
        f = moved(field, d, e)
        return COST.value(f, solver.solve(f, x, keep="last").x_T, y)

    return (value(eps) - value(-eps)) / (2 * eps)


@pytest.mark.parametrize("solver", [*map(Solver, FIXED), TIGHT], ids=[*FIXED, "ode45"])
def test_gradient_is_the_central_difference(case, random_like, moved, solver):
    field, x, y = case
    d = random_like(field.parameters)
    _, partials = snode.gradient(field, x, y, COST, inner="euclidean", solver=solver)
    slope = sum(float((partials[k] * d[k]).sum()) for k in d)
    # truncation of the difference 1e-10; adaptive steps add the tolerance over the step, 1e-6
    tolerance = 1e-8 if solver.method in FIXED else 1e-6
    assert slope == pytest.approx(central(field, x, y, solver, moved, d), rel=tolerance)


def test_the_name_is_a_solver(case):
    field, x, y = case
    by_name = snode.gradient(field, x, y, COST, solver="rk4")
    by_object = snode.gradient(field, x, y, COST, solver=Solver("rk4"))
    assert by_name[0] == by_object[0]
    assert np.array_equal(by_name[1]["W"], by_object[1]["W"])
    assert by_name[0] != snode.gradient(field, x, y, COST)[0]


@pytest.mark.parametrize("solver", [Solver("rk4"), TIGHT, Solver("ode45", checkpoints=2)])
def test_the_slope_of_the_line_is_the_gradient_along_it(case, solver):
    field, x, y = case
    problem = FieldProblem(field, x, y, COST, "l2", solver=solver)
    problem.direct()
    dots = problem.gradient()
    problem.set_direction(0.0)
    assert problem.line().slope == pytest.approx(-dots.gg, rel=1e-12)


def test_checkpoints_change_no_number(case):
    field, x, y = case
    stored = snode.ncg(field, x, y, COST, solver=Solver("ode45"), n_iter=4)
    thin = snode.ncg(field, x, y, COST, solver=Solver("ode45", checkpoints="auto"), n_iter=4)
    assert np.array_equal(stored.history.cost, thin.history.cost)
    assert np.array_equal(stored.field.W, thin.field.W)


def test_the_fast_path_is_for_plain_euler_only(case):
    field, x, y = case
    fast = make_problem(field, x, y, COST, "l2", False)
    assert isinstance(fast, EulerProblem)
    for solver in (Solver("rk4"), Solver("euler", checkpoints=3)):
        assert isinstance(make_problem(field, x, y, COST, "l2", False, solver=solver), FieldProblem)


# adam has come only to the share of the larger class by then: what is looked at is its cost
@pytest.mark.filterwarnings("ignore:the training accuracy:snode.TrainingWarning")
@pytest.mark.parametrize("method", ["ncg", "adam"])
def test_training_lowers_the_cost(method):
    x, y = snode.datasets.two_moons(100, rng=0)
    field = snode.StandaloneField.random(2, 3.0, 10, interpolation="cubic", rng=0)
    result = snode.train(
        field, (x, y), Cost(n_classes=2), method=method, solver="ode45", epochs=4,
        batch_size=50, rng=0, eval_every=1.0,
    )  # fmt: skip
    assert result.success
    assert result.history["cost_after"][-1] < 0.8 * result.history["cost"][0]
    # the evaluations use the solver, too
    accuracy = snode.accuracy(result.field, x, y, n_classes=2, solver="ode45")
    assert result.evaluations["train_accuracy"][-1] == accuracy


def test_a_solver_that_fails_is_a_cost_that_is_not_finite(case):
    field, x, y = case
    hopeless = Solver("ode45", rtol=1e-10, atol=1e-12, max_steps=2)
    with pytest.raises(snode.NonFiniteCostError):
        snode.ncg(field, x, y, COST, solver=hopeless)
    with pytest.raises(snode.IntegrationError, match="2 steps were not enough"):
        snode.gradient(field, x, y, COST, solver=hopeless)


@pytest.mark.slow
def test_resuming_with_a_solver_is_bit_identical(tmp_path):
    x, y = snode.datasets.two_moons(100, rng=0)
    field = snode.StandaloneField.random(2, 3.0, 10, interpolation="cubic", rng=0)
    options = {
        "cost": Cost(n_classes=2),
        "solver": Solver("ode23", rtol=1e-4),
        "batch_size": 25,
        "rng": 0,
    }
    whole = snode.train(field, (x, y), epochs=2, **options)
    path = tmp_path / "run.safetensors"
    snode.train(field, (x, y), epochs=1, checkpoint=path, **options)
    resumed = snode.train(field, (x, y), epochs=2, checkpoint=path, resume=True, **options)
    assert np.array_equal(whole.field.W, resumed.field.W)
    for other in ("ode45", "euler", Solver("ode23", rtol=1e-5)):
        with pytest.raises(ModelFormatError, match=r"another run: solver is .*ode23"):
            snode.train(field, (x, y), checkpoint=path, resume=True, **options | {"solver": other})


def test_a_checkpoint_of_an_euler_run_names_the_default(tmp_path):
    x, y = snode.datasets.two_moons(50, rng=0)
    field = snode.StandaloneField.random(2, 3.0, 5, rng=0)
    options = {"cost": Cost(n_classes=2), "batch_size": 25, "rng": 0}
    path = tmp_path / "run.safetensors"
    snode.train(field, (x, y), checkpoint=path, **options)
    snode.train(field, (x, y), checkpoint=path, resume=True, epochs=2, solver="euler", **options)
    with pytest.raises(ModelFormatError, match=r"solver is \"Solver\(method='euler'.*'rk4'"):
        snode.train(field, (x, y), checkpoint=path, resume=True, solver="rk4", **options)


def test_prediction_uses_the_solver():
    # x' = 50 (1 - x) on cells of 0.1: Euler is unstable, ode45 is not
    W, b = np.full((10, 1, 1), -50.0), np.full((10, 1), 50.0)
    field = snode.StandaloneField(
        np.concatenate([np.concatenate([W, 0 * W], 2), np.zeros((10, 1, 2))], 1),
        np.concatenate([b, 0.5 * np.ones((10, 1))], 1), T=1.0, activation="identity",
    )  # fmt: skip
    x = np.zeros((2, 3))  # the truth: x_0(1) = 1 > x_1(1) = 0.5
    assert snode.predict(field, x, n_classes=2, solver="ode45").tolist() == [0, 0, 0]
    assert snode.predict(field, x, n_classes=2).tolist() == [1, 1, 1]
    y = np.zeros(3, int)
    assert snode.accuracy(field, x, y, n_classes=2, solver="ode45") == 1.0
    assert snode.confusion(field, x, y, n_classes=2, solver="ode45")[0, 0] == 3
    noisy = snode.accuracy_under_noise(field, x, y, [0.0], n_classes=2, solver="ode45", rng=0)
    assert noisy.tolist() == [1.0]


@pytest.mark.parametrize(
    ("solver", "error", "message"),
    [
        ("ode54", ValueError, "method must be one of 'euler'.*'ode45'; got 'ode54'"),
        (None, TypeError, "solver must be the name of a method or a Solver; got None"),
        (3, TypeError, "solver must be"),
    ],
)
def test_wrong_solvers(case, solver, error, message):
    field, x, y = case
    with pytest.raises(error, match=message):
        snode.gradient(field, x, y, COST, solver=solver)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "ode45", "rtol": -1.0}, "rtol must be"),
        ({"method": "ode45", "max_steps": True}, "max_steps must be positive"),
        ({"method": "euler", "rtol": 1e-6}, "rtol.* are for the methods with step control"),
        ({"method": "ode45", "checkpoints": 0}, "checkpoints must be None, a positive"),
    ],
)
def test_a_wrong_option_of_a_solver_is_found_when_it_is_made(options, message):
    with pytest.raises(ValueError, match=message):
        Solver(**options)
