"""Figures of fields, solutions and samples: what is drawn is what was given; bad input by name."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

import snode
from snode.plotting.canvas import CLASS_COLOURS, axes_of


@pytest.fixture
def ax():
    return Figure().subplots()


@pytest.fixture(scope="module")
def moons():
    return snode.datasets.two_moons(60, rng=0)


@pytest.fixture(scope="module")
def field():
    return snode.StandaloneField.random(2, 1.0, 6, rng=0)


def pendulum(t, x):
    return np.array([x[1], -np.sin(x[0]) - 0.1 * t])


def test_every_figure_is_public_and_drawn_on_demand():
    from snode import plotting

    names = [name for name in snode.__all__ if name.startswith(("plot_", "animate_"))]
    assert len(names) >= 16
    assert all(getattr(snode, name) is getattr(plotting, name) for name in names)
    code = "import snode, sys; snode.plot_growth; print('matplotlib' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


# --- fields ---------------------------------------------------------------------------------------


def test_arrows_are_f(ax):
    assert (
        snode.plot_vector_field(pendulum, ax, t=2.0, xlim=(-4, 4), ylim=(-3, 1), n_arrows=9) is ax
    )
    (arrows,) = ax.collections
    points = np.stack([arrows.X, arrows.Y])
    expected = np.array([points[1], -np.sin(points[0]) - 0.2])
    size = np.hypot(*expected)
    assert np.allclose(arrows.get_array(), size)
    assert np.allclose(arrows.U * size, expected[0])
    assert np.allclose(arrows.V * size, expected[1])
    assert (points.min(), points.max(), len(points[0])) == (-4, 4, 81)
    assert "t = 2" in ax.get_title()


def test_arrows_of_a_field_and_of_a_function_of_one_point(ax, field):
    snode.plot_vector_field(field, ax, n_arrows=3)
    both = ax.collections[0].get_array()
    other = Figure().subplots()
    snode.plot_vector_field(lambda t, x: list(field(t, x.reshape(2, 1))[:, 0]), other, n_arrows=3)
    assert np.allclose(both, other.collections[0].get_array())


def test_solutions_of_a_portrait(ax):
    turn = lambda t, x: np.array([-x[1], x[0]])  # noqa: E731
    x0 = np.array([[1.0, 0.0], [0.0, -1.5]])
    assert snode.plot_phase_portrait(turn, ax, x0=x0, T=1.0) is ax
    paths = [line.get_xydata().T for line in ax.lines if line.get_marker() == "None"]
    starts = [line.get_xydata()[0] for line in ax.lines if line.get_marker() == "o"]
    assert np.array_equal(starts, x0.T)
    for path, start in zip(paths, x0.T, strict=True):
        assert np.array_equal(path[:, 0], start)
        c, s = np.cos(1.0), np.sin(1.0)
        assert np.allclose(path[:, -1], np.array([[c, -s], [s, c]]) @ start, atol=1e-5)


def test_a_solution_that_blows_up_is_drawn_as_far_as_it_goes(ax):
    snode.plot_phase_portrait(lambda t, x: np.array([x[0] ** 2, 0 * x[1]]), ax,
                              x0=np.array([[1.0], [0.5]]), T=5.0)  # fmt: skip
    (path,) = [line.get_xydata() for line in ax.lines if line.get_marker() == "None"]
    assert np.isfinite(path).all()
    assert path[-1, 0] > 10


# --- samples --------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [False, True])
def test_decision_regions_are_the_predictions(ax, field, moons, named):
    x, y = moons
    labels = np.array(["no", "yes"])[y] if named else y
    assert snode.plot_decision_regions(field, x, labels, ax) is ax
    mesh = ax.collections[0]
    centres = np.asarray(mesh.get_coordinates())
    centres = 0.25 * sum(
        centres[i : i - 1 or None, j : j - 1 or None] for i in (0, 1) for j in (0, 1)
    )
    drawn = np.asarray(mesh.get_array()).reshape(centres.shape[:2])
    some = centres[::23, ::19].reshape(-1, 2).T.copy()
    expected = snode.predict(field, some, n_classes=2)
    assert (drawn[::23, ::19].ravel() == expected).mean() > 0.99
    assert set(np.unique(drawn)) <= {0, 1}
    for c, line in enumerate(ax.lines):
        assert np.array_equal(line.get_xydata().T, x[:, y == c])
        assert line.get_label() == f"class {['no', 'yes'][c] if named else c}"
    colours = [line.get_color() for line in ax.lines]
    assert colours == list(CLASS_COLOURS[:2])


def test_a_class_without_samples_keeps_its_colour(ax, moons):
    x, y = moons
    body = snode.StandaloneField.random(2, 1.0, 3, rng=0)
    field = snode.Classifier.random(body, 3, rng=0)
    snode.plot_decision_regions(field, x, 2 * y, ax)
    assert ax.lines[2].get_color() == CLASS_COLOURS[2]
    assert len(ax.lines[1].get_xdata()) == 0
    assert len(ax.lines[2].get_xdata()) == (y == 1).sum()


@pytest.mark.parametrize("solver", ["euler", "rk4", "ode45"])
def test_trajectories_are_those_of_the_solver(ax, field, moons, solver):
    x, y = moons
    assert snode.plot_trajectories(field, x, y, ax, solver=solver) is ax
    x_T = snode.solve_direct(field, x, method=solver, keep="last").x_T
    ends = [line for line in ax.lines if line.get_label().startswith("class")]
    for c, line in enumerate(ends):
        assert np.allclose(line.get_xydata().T, x_T[:, y == c])
    paths = [line.get_xydata() for line in ax.lines if line.get_marker() == "None"]
    assert len(paths) == 60
    assert sorted(p[0].tolist() for p in paths) == sorted(x.T.tolist())


def test_trajectories_of_other_dimensions(ax):
    line = snode.FunctionField(lambda t, x: -x, n=1, T=2.0)
    snode.plot_trajectories(line, np.ones((1, 3)), ax=ax)
    assert ax.get_xlabel() == "depth t"
    path = ax.lines[0].get_xydata()
    assert (path[0] == [0, 1]).all()
    assert path[-1, 0] == 2.0
    wide = snode.StandaloneField.random(5, 1.0, 4, rng=0)
    other = Figure().subplots()
    x = np.random.default_rng(0).standard_normal((5, 7))
    snode.plot_trajectories(wide, x, ax=other, components=(3, 1), n_curves=4)
    starts = np.array([line.get_xydata()[0] for line in other.lines[:4]])
    assert np.array_equal(starts, x[[3, 1]][:, [0, 2, 4, 6]].T)
    assert (other.get_xlabel(), other.get_ylabel()) == ("$x_{4}$", "$x_{2}$")


def test_animation_moves_the_samples_and_is_written(tmp_path, field, moons):
    from PIL import Image

    x, y = moons
    path = tmp_path / "moons.gif"
    animation = snode.animate_trajectories(field, x, y, path=path, n_frames=5, dpi=40)
    with Image.open(path) as image:
        assert image.format == "GIF"
        assert image.n_frames >= 5
    ax = animation._fig.axes[0]
    x_T = snode.solve_direct(field, x, keep="last").x_T
    for depth, expected in ((0.0, x), (1.0, x_T)):
        animation._func(depth)
        for c, line in enumerate(ax.lines):
            assert np.allclose(line.get_xydata().T, expected[:, y == c])
        assert ax.get_title() == f"depth t = {depth:.2f}"


def test_solution_with_and_without_dense_output(ax):
    sol = snode.ode45(pendulum, (0.0, 3.0), np.array([1.0, 0.0]), dense_output=True)
    assert snode.plot_solution(sol, ax) is ax
    curves = {line.get_label(): line.get_xydata() for line in ax.lines}
    assert np.allclose(curves["$x_{1}(t)$"][300], [curves["$x_{1}(t)$"][300, 0],
                       sol(curves["$x_{1}(t)$"][300, 0])[0]])  # fmt: skip
    dots = [line.get_xydata() for line in ax.lines if line.get_marker() == "."]
    assert np.array_equal(dots[1], np.stack([sol.t, sol.x[:, 1]], axis=1))
    batch = snode.rk4(lambda t, x: -x, np.linspace(0, 1, 6), np.arange(6.0).reshape(3, 2))
    other = Figure().subplots()
    snode.plot_solution(batch, other, components=[2], sample=1)
    (curve,) = [line.get_xydata() for line in other.lines if line.get_label()[0] == "$"]
    assert np.array_equal(curve, np.stack([batch.t, batch.x[:, 2, 1]], axis=1))


# --- training -------------------------------------------------------------------------------------


def test_history_of_ncg_and_of_train(ax, field, moons):
    x, y = moons
    result = snode.ncg(field, x, y, snode.Cost(n_classes=2), n_iter=5)
    snode.plot_history(result, ax)
    assert np.array_equal(ax.lines[0].get_ydata(), result.history.cost)
    assert ax.get_yscale() == "log"
    history = {"epoch": np.arange(3), "cost": np.array([3.0, 2, 1]), "cost_after": np.ones(3)}
    other = Figure().subplots()
    assert snode.plot_history(history, other) is other
    assert np.array_equal(other.lines[0].get_ydata(), history["cost"])


def test_images_stand_in_their_places(ax):
    images = np.arange(1.0, 37.0).reshape(6, 6)
    snode.plot_images(images, ax, shape=(2, 3), n_columns=4, titles=list("abcdef"))
    sheet = np.asarray(ax.images[0].get_array().filled(0))
    assert [text.get_text() for text in ax.texts] == list("abcdef")
    assert np.array_equal(sheet[1:3, :3], images[:, 0].reshape(2, 3))
    assert np.array_equal(sheet[4:6, 4:7], images[:, 5].reshape(2, 3))
    assert (sheet > 0).sum() == 36


def test_weights_reach_the_end_of_the_depth(ax):
    field = snode.StandaloneField.random(3, 2.0, 5, rng=0)
    snode.plot_weights(field, ax, n_curves=9)
    entries = {line.get_label(): line.get_xydata() for line in ax.lines}
    drawn = entries["$W_{1,2}$"]
    assert drawn[-1, 0] == 2.0
    assert np.array_equal(drawn[:5, 1], field.W[:, 1, 2])


# --- where it is drawn ----------------------------------------------------------------------------


def test_without_axes_the_empty_current_ones_are_taken_and_full_ones_left_alone():
    import matplotlib.pyplot as plt

    plt.close("all")
    try:
        _, (first, second) = plt.subplots(1, 2)
        assert snode.plot_confusion(np.eye(2, dtype=int)) is second
        plt.sca(first)
        assert axes_of(None) is first
        first.plot([1, 2])
        assert axes_of(None) not in (first, second)
        assert len(plt.get_fignums()) == 2
    finally:
        plt.close("all")


def test_with_axes_pyplot_stays_out(field, moons):
    code = (
        "import sys, numpy as np, snode\n"
        "from matplotlib.figure import Figure\n"
        "ax = Figure().subplots()\n"
        "snode.plot_confusion(np.eye(2), ax)\n"
        "f = snode.StandaloneField.random(2, 1.0, 3, rng=0)\n"
        "x, y = snode.datasets.two_moons(20, rng=0)\n"
        "snode.plot_decision_regions(f, x, y, ax)\n"
        "snode.plot_trajectories(f, x, y, ax)\n"
        "snode.plot_phase_portrait(f, ax)\n"
        "snode.animate_trajectories(f, x, y)._draw_was_started = True\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda f, x, y: snode.plot_vector_field(3), "f must be a field or a function"),
        (lambda f, x, y: snode.plot_vector_field(snode.MLPField((3, 3), rng=0)), "two components"),
        (lambda f, x, y: snode.plot_vector_field(lambda t, x: np.zeros(3)), "two components"),
        (lambda f, x, y: snode.plot_vector_field(f, xlim=(1, 0)), "xlim must be"),
        (lambda f, x, y: snode.plot_vector_field(f, ylim=(0, np.inf)), "ylim must be"),
        (lambda f, x, y: snode.plot_vector_field(f, n_arrows=1), "n_arrows must be"),
        (lambda f, x, y: snode.plot_phase_portrait(f, x0=np.ones(2)), "x0 must have shape"),
        (lambda f, x, y: snode.plot_phase_portrait(f, T=0), "T must be positive"),
        (lambda f, x, y: snode.plot_decision_regions(f, x.T, y), r"x must have shape \(2, m\)"),
        (lambda f, x, y: snode.plot_decision_regions(f, x, y[:3]), "y must have shape"),
        (lambda f, x, y: snode.plot_decision_regions(f, x, y + 1), "y must hold 2 classes"),
        (lambda f, x, y: snode.plot_decision_regions(f, x * np.nan, y), "x must be finite"),
        (lambda f, x, y: snode.plot_trajectories(f, [[1.0]], y), "x must be an array"),
        (lambda f, x, y: snode.plot_trajectories(f, x, components=(0, 0)), "components must be"),
        (lambda f, x, y: snode.plot_trajectories(f, x, solver="no"), "method must be"),
        (lambda f, x, y: snode.animate_trajectories(f, x, path="a.png"), "path must end in"),
        (lambda f, x, y: snode.animate_trajectories(f, x, path="no/a.gif"), "path must be in"),
        (lambda f, x, y: snode.animate_trajectories(f, x, n_frames=0), "n_frames must be"),
        (lambda f, x, y: snode.plot_solution(snode.solve_direct(f, x, keep="last")), "trajectory"),
        (lambda f, x, y: snode.plot_solution(x), "sol must be a solution"),
        (lambda f, x, y: snode.plot_solution(snode.solve_direct(f, x), sample=99), "sample must"),
        (lambda f, x, y: snode.plot_solution(snode.solve_direct(f, x), components=[2]), "compon"),
        (lambda f, x, y: snode.plot_images(x, shape=(3, 3)), "shape must be"),
        (lambda f, x, y: snode.plot_images(x, shape=(2, 1), titles=["a"]), "titles must be"),
        (lambda f, x, y: snode.plot_confusion(x), "counts must have shape"),
        (lambda f, x, y: snode.plot_confusion(np.eye(2), classes="abc"), "classes must have 2"),
        (lambda f, x, y: snode.plot_weights(snode.MLPField((2, 2), rng=0)), "weights W in depth"),
        (lambda f, x, y: snode.plot_history(3), "result must be"),
        (lambda f, x, y: snode.plot_images(x, ax=7, shape=(2, 1)), "ax must be Axes"),
    ],
)
def test_bad_input_is_named(field, moons, draw, message):
    with pytest.raises((ValueError, TypeError), match=message):
        draw(field, *moons)
