"""Figures of certificates: what is drawn is what was computed."""

import dataclasses
import functools

import numpy as np
import pytest

import snode
from snode import plotting


@pytest.fixture(scope="module")
def field():
    rng = np.random.default_rng(0)
    W = rng.standard_normal((6, 3, 3)) - 0.4 * np.eye(3)
    body = snode.StandaloneField(W, np.zeros((6, 3)), 1.0, activation="leaky_tanh")
    return snode.Classifier.random(body, 3, rng=1)


@pytest.fixture(scope="module")
def samples(field):
    x = np.random.default_rng(1).standard_normal((3, 60))
    y = snode.predict(field, x)
    y[:7] = (y[:7] + 1) % 3
    return x, y


def drawn(draw):
    return plotting.figure_of(draw).axes[0]


def line(ax, label):
    (found,) = [c for c in ax.lines if c.get_label().startswith(label)]
    return np.asarray(found.get_xdata(), float), np.asarray(found.get_ydata(), float)


def step_at(curve, r):
    x, y = curve
    assert (np.diff(x) >= 0).all()
    return y[np.searchsorted(x, r, side="right") - 1]


# --- trajectories ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_curves", "says"), [(4, "4 of 40 pairs"), (100, "40 pairs")])
def test_trajectory_gap_shows_all_pairs_in_the_largest(field, n_curves, says):
    u, v = np.random.default_rng(2).standard_normal((2, 3, 40))
    result = snode.trajectory_gap(field, u, v)
    ax = drawn(lambda ax: plotting.plot_trajectory_gap(result, ax, n_curves=n_curves))
    t, largest = line(ax, "largest")
    assert np.array_equal(t, result.t)
    assert np.array_equal(largest, result.ratio.max(axis=1))
    assert np.array_equal(line(ax, "certified")[1], result.bound)
    assert np.array_equal(line(ax, says)[1], result.ratio[:, 0])
    assert len(ax.lines) == min(n_curves, 40) + 2
    assert "explicit Euler" in ax.get_title()


@pytest.mark.parametrize(("rate", "scale"), [(-0.5, "linear"), (-4.0, "log"), (4.0, "log")])
def test_trajectory_gap_is_logarithmic_where_distances_are_far_apart(rate, scale):
    W = rate * np.eye(2)[None].repeat(20, axis=0)
    field = snode.StandaloneField(W, np.zeros((20, 2)), 1.0, activation="identity")
    result = snode.trajectory_gap(field, np.ones((2, 3)), np.zeros((2, 3)), solver="ode45")
    ax = drawn(functools.partial(plotting.plot_trajectory_gap, result))
    assert ax.get_yscale() == scale
    assert "flow" in ax.get_title()


# --- growth ---------------------------------------------------------------------------------------


def test_growth_has_both_sides_where_they_are_known(field):
    flow, euler = (snode.growth_bound(field, kind=kind) for kind in ("flow", "euler"))
    ax = drawn(functools.partial(plotting.plot_growth, [flow, euler]))
    steps = {p.get_label(): p.get_data() for p in ax.patches}
    assert list(steps) == ["flow: at most", "flow: slopes found", "explicit Euler: at most"]
    for data, expected in zip(steps.values(), (flow.upper, flow.lower, euler.upper), strict=True):
        assert np.array_equal(data.values, expected)
        assert np.array_equal(data.edges, field.grid)
    alone = drawn(functools.partial(plotting.plot_growth, euler))
    assert [p.get_label() for p in alone.patches] == ["explicit Euler: at most"]


# --- certified accuracy ---------------------------------------------------------------------------


def test_certified_curve_is_the_certified_accuracy(field, samples):
    result = snode.certified_radius(field, *samples)
    ax = drawn(functools.partial(plotting.plot_certified, result))
    curve = line(ax, "certified")
    assert ax.lines[0].get_drawstyle() == "steps-post"
    radii = np.concatenate([[0.0], np.linspace(0, 1.04 * result.radius.max(), 50), result.radius])
    assert step_at(curve, radii) == pytest.approx(100 * result.accuracy(radii))
    assert step_at(curve, 0.0) == pytest.approx(100 * 53 / 60)
    assert curve[1][-1] == 0
    assert ax.get_xscale() == "linear"


def test_attack_stands_above_the_certificate(field, samples):
    result = snode.certified_radius(field, *samples)
    attack = snode.deepfool(field, *samples, box=(-20.0, 20.0))
    ax = drawn(lambda ax: plotting.plot_certified(result, ax, attack=attack))
    certified, left = line(ax, "certified"), line(ax, "left by deepfool")
    for r in np.linspace(0, attack.norm2.max(), 40):
        lost = attack.skipped | (attack.success & (attack.norm2 <= r))
        assert step_at(left, r) == pytest.approx(100 * (1 - lost.mean()))
        assert step_at(certified, r) <= step_at(left, r)
    small = dataclasses.replace(result, radius=1e-3 * result.radius)
    ax = drawn(lambda ax: plotting.plot_certified(small, ax, attack=attack))
    assert ax.get_xscale() == "log"
    r = 0.7 * small.radius.max()
    assert step_at(line(ax, "certified"), r) == pytest.approx(100 * small.accuracy(r))
    fewer = snode.deepfool(field, samples[0][:, :5], samples[1][:5], box=(-20.0, 20.0))
    with pytest.raises(ValueError, match="attack must be of the same 60 samples; got 5"):
        plotting.plot_certified(result, attack=fewer)


def test_radii_that_are_zero_or_infinite_are_drawn(field, samples):
    result = snode.certified_radius(field, *samples)
    none = dataclasses.replace(result, radius=np.zeros(60))
    assert line(drawn(functools.partial(plotting.plot_certified, none)), "certified")[1].max() == 0
    every = dataclasses.replace(result, radius=np.full(60, np.inf))
    curve = line(drawn(functools.partial(plotting.plot_certified, every)), "certified")
    assert (curve[1] == 100).all()


def test_figure_has_an_axes_for_each_function(field):
    bound = snode.growth_bound(field)
    draw = functools.partial(plotting.plot_growth, bound)
    assert [len(plotting.figure_of(*[draw] * k).axes) for k in (1, 2, 3)] == [1, 2, 3]
