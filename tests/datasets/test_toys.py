"""The toy sets lie where their docstrings say, balanced, seeded and in the dtype asked for."""

import sys
import types

import numpy as np
import pytest

from snode.datasets import annulus, broken_annulus, spirals, swiss_roll, toys, two_moons

ALL = [two_moons, spirals, annulus, broken_annulus, swiss_roll]
# a point on a curve is computed with a few roundings of numbers of size <= 2
ROUNDING = 8 * np.finfo(np.float64).eps


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("m", [2, 3, 7, 200, 1001])
def test_shapes_and_balance(make, m):
    x, y = make(m, rng=0)
    assert x.shape == (2, m)
    assert y.shape == (m,)
    assert x.flags.c_contiguous
    assert y.dtype == np.int64
    assert np.isfinite(x).all()
    counts = np.bincount(y, minlength=2)
    assert counts.size == 2
    assert np.ptp(counts) <= 1


@pytest.mark.parametrize("make", ALL)
def test_seeded_and_independent_of_global_state(make):
    x, y = make(50, rng=5)
    np.random.seed(0)  # noqa: NPY002 (the point is that it has no effect)
    again, y_again = make(50, rng=np.random.default_rng(5))
    assert np.array_equal(x, again)
    assert np.array_equal(y, y_again)
    assert not np.array_equal(x, make(50, rng=6)[0])


@pytest.mark.parametrize("make", ALL)
def test_dtype(make):
    x = make(20, rng=0)[0]
    narrow = make(20, rng=0, dtype=np.float32)[0]
    assert x.dtype == np.float64
    assert narrow.dtype == np.float32
    assert np.array_equal(x.astype(np.float32), narrow)


@pytest.mark.parametrize("make", ALL)
def test_noise_is_normal_with_the_given_deviation(make):
    m, sigma = 4000, 0.05
    noise = make(m, noise=sigma, rng=1)[0] - make(m, noise=0.0, rng=1)[0]
    # mean and standard deviation of 2m normals: five standard errors
    assert abs(noise.mean()) <= 5 * sigma / np.sqrt(2 * m)
    assert abs(noise.std() - sigma) <= 5 * sigma / np.sqrt(4 * m)


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_samples": 1}, "n_samples must be at least 2; got 1"),
        ({"n_samples": 0}, "n_samples"),
        ({"n_samples": 2.5}, "n_samples must be an integer; got 2.5"),
        ({"noise": -0.1}, "noise"),
        ({"noise": np.nan}, "noise"),
        ({"noise": np.inf}, "noise"),
        ({"dtype": "float16"}, "dtype must be 'float32' or 'float64'; got 'float16'"),
        ({"dtype": "nonsense"}, "dtype"),
        ({"dtype": int}, "dtype"),
    ],
)
def test_wrong_options_are_named(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (spirals, {"n_classes": 1}),
        (spirals, {"n_classes": 3, "n_samples": 2}),
        (spirals, {"turns": 0.0}),
        (spirals, {"turns": np.inf}),
        (spirals, {"inner_radius": 1.0}),
        (annulus, {"disk_radius": 0.0}),
        (annulus, {"disk_radius": 1.0}),
        (annulus, {"ring": (1.5, 1.0)}),
        (annulus, {"ring": (1.0, np.inf)}),
        (broken_annulus, {"gap": 0.0}),
        (broken_annulus, {"gap": 7.0}),
        (broken_annulus, {"gap_direction": np.nan}),
        (swiss_roll, {"turns": -1.0}),
        (swiss_roll, {"offset": 0.0}),
        (swiss_roll, {"offset": 0.5}),
    ],
)
def test_wrong_geometry_is_named(make, options):
    name = "disk_radius" if make is annulus else next(iter(options))
    name = "n_samples" if "n_samples" in options else name
    with pytest.raises(ValueError, match=name):
        make(**options)


def test_moons_are_half_circles():
    x, y = two_moons(501, noise=0.0, rng=0)
    upper, lower = x[:, y == 0], x[:, y == 1]
    assert np.abs(np.hypot(*upper) - 1.0).max() <= ROUNDING
    assert upper[1].min() >= 0.0
    assert np.abs(np.hypot(lower[0] - 1.0, lower[1] - 0.5) - 1.0).max() <= ROUNDING
    assert lower[1].max() <= 0.5


@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_spiral_angle_is_linear_in_radius(n_classes):
    turns, inner = 1.25, 0.2
    x, y = spirals(400, n_classes=n_classes, turns=turns, inner_radius=inner, noise=0.0, rng=0)
    radius = np.hypot(*x)
    assert radius.min() >= inner - ROUNDING
    assert radius.max() <= 1.0 + ROUNDING
    s = (radius - inner) / (1.0 - inner)
    angle = 2.0 * np.pi * (turns * s + y / n_classes)
    # the error of the recovered s is amplified by the winding, 2 pi turns / (1 - inner)
    bound = 10 * ROUNDING
    assert np.abs(x - radius * np.array([np.cos(angle), np.sin(angle)])).max() <= bound


def test_annulus_radii():
    x, y = annulus(2000, disk_radius=0.4, ring=(0.8, 1.2), rng=0)
    inside, ring = np.hypot(*x[:, y == 0]), np.hypot(*x[:, y == 1])
    assert inside.max() <= 0.4 + ROUNDING
    assert ring.min() >= 0.8 - ROUNDING
    assert ring.max() <= 1.2 + ROUNDING


def test_annulus_is_uniform_by_area():
    m = 20000
    x, y = annulus(m, rng=0)
    for label, (low, high) in enumerate([(0.0, 0.5), (1.0, 1.5)]):
        area = (np.hypot(*x[:, y == label]) ** 2 - low**2) / (high**2 - low**2)
        # mean of m/2 uniforms: five standard errors
        assert abs(area.mean() - 0.5) <= 5 * np.sqrt(1 / 12 / (m / 2))


def test_a_thin_ring_is_a_circle():
    x, y = annulus(100, ring=(1.0, 1.0), rng=0)
    assert np.abs(np.hypot(*x[:, y == 1]) - 1.0).max() <= ROUNDING


@pytest.mark.parametrize("direction", [0.0, 2.0, -10.0])
@pytest.mark.parametrize("gap", [0.3, np.pi / 2, 5.0])
def test_gap_is_empty_and_everything_else_is_not(gap, direction):
    x, y = broken_annulus(4000, gap=gap, gap_direction=direction, rng=0)
    ring = x[:, y == 1]
    away = np.abs(np.angle(np.exp(1j * (np.arctan2(ring[1], ring[0]) - direction))))
    assert away.min() >= gap / 2 - 20 * ROUNDING
    assert away.min() <= gap / 2 + 0.05
    assert away.max() >= np.pi - 0.05
    disk = x[:, y == 0]
    assert np.hypot(*disk).max() <= 0.5 + ROUNDING
    assert np.ptp(np.arctan2(disk[1], disk[0])) >= 2 * np.pi - 0.05


def test_swiss_roll_windings():
    x, y = swiss_roll(400, rng=0)
    radius = np.hypot(*x)
    s = radius - 0.2 * y
    assert s.min() >= -ROUNDING
    assert s.max() <= 1.0 + ROUNDING
    angle = 4.0 * np.pi * s
    assert np.abs(x - radius * np.array([np.cos(angle), np.sin(angle)])).max() <= 20 * ROUNDING


def test_swiss_rolls_never_meet():
    # Along any ray class 0 has radii k/turns + c and class 1 the same plus the offset.
    x, y = swiss_roll(4000, turns=2.0, offset=0.2, rng=0)
    a, b = x[:, y == 0], x[:, y == 1]
    squared = ((a[:, :, None] - b[:, None, :]) ** 2).sum(0)
    assert np.sqrt(squared.min()) >= 0.1


def test_backend_decides_what_is_made(monkeypatch):
    class Device(np.ndarray):
        """Stands for an array on a device."""

    device = types.SimpleNamespace(asarray=lambda a: np.asarray(a).view(Device))
    monkeypatch.setattr(toys, "creator_namespace", lambda: device)
    assert "cupy" not in sys.modules
    for make in ALL:
        x, y = make(4, rng=0)
        assert type(x) is Device
        assert type(y) is Device
