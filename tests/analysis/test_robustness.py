"""Accuracy under noise and under attack."""

import functools

import numpy as np
import pytest

import snode
from snode.analysis.attacks import deepfool, fgsm, pgd, success_curve
from snode.analysis.robustness import accuracy_under_attack, accuracy_under_noise


@pytest.fixture
def case(make_field):
    field = make_field(4, 4, scale=1.5, seed=2)
    x = np.random.default_rng(0).uniform(-1, 0, (4, 60))
    y = snode.predict(field, x, n_classes=3)
    y[:6] = (y[:6] + 1) % 3
    return field, x, y


def test_one_draw_is_an_array_as_before(case):
    field, x, y = case
    scores = accuracy_under_noise(field, x, y, [0.0, 0.3], n_classes=3, rng=0)
    assert scores.shape == (2,)
    assert scores[0] == 0.9
    rng = np.random.default_rng(0)
    rng.standard_normal(x.shape)
    noisy = x + 0.3 * rng.standard_normal(x.shape)
    assert scores[1] == snode.accuracy(field, noisy, y, n_classes=3)


def test_many_draws_have_mean_and_standard_deviation(case):
    field, x, y = case
    options = {"n_classes": 3, "rng": 0}
    scores = accuracy_under_noise(field, x, y, [0.0, 0.3], n_draws=5, **options)
    assert scores.draws.shape == (5, 2)
    assert np.array_equal(scores.draws[0], accuracy_under_noise(field, x, y, [0.0, 0.3], **options))
    assert np.allclose(scores.mean, np.mean(scores.draws, axis=0))
    assert np.allclose(scores.std, np.std(scores.draws, axis=0, ddof=1))
    assert scores.std[0] == 0
    assert scores.std[1] > 0
    assert np.array_equal(scores.stds, [0.0, 0.3])
    assert repr(scores).startswith("NoiseAccuracy(5 draws; 0: 0.9000 +- 0.0000, 0.3: ")


@pytest.mark.parametrize("n_draws", [0, -1, 1.5, True])
def test_number_of_draws_is_checked(case, n_draws):
    with pytest.raises(ValueError, match="n_draws"):
        accuracy_under_noise(*case, [0.1], n_classes=3, n_draws=n_draws)


def test_accuracy_under_attack_counts_what_is_not_fooled(case):
    field, x, y = case
    attack = functools.partial(deepfool, n_classes=3, box=(-3, 2))
    radii = [0.0, 0.1, 0.5, 100.0]
    scores = accuracy_under_attack(field, x, y, attack, radii)
    result = attack(field, x, y)
    assert scores[0] == snode.accuracy(field, x, y, n_classes=3)
    expected = [1 - (result.success & (result.norm2 <= r)).mean() for r in radii]
    assert np.allclose(scores, expected)
    assert np.allclose(scores, 1 - success_curve(result, radii, count_skipped=True))
    assert (np.diff(scores) <= 0).all()
    assert scores[-1] < scores[1] < scores[0]


@pytest.mark.parametrize("attack", [fgsm, pgd])
@pytest.mark.parametrize("norm", ["2", "inf"])
def test_attacks_in_a_ball_run_once_a_radius(case, attack, norm):
    field, x, y = case
    bound = functools.partial(attack, n_classes=3, norm=norm, box=(-1, 0))
    radii = [0.0, 0.1, 0.3]
    scores = accuracy_under_attack(field, x, y, bound, radii, norm=norm, per_radius=True)
    fooled = np.zeros(60, bool)
    for radius, score in zip(radii, scores, strict=True):
        fooled |= bound(field, x, y, eps=radius).success
        assert np.isclose(score, 1 - fooled.mean())
    assert scores[0] == 0.9
    assert scores[2] < scores[0]


@pytest.mark.parametrize("radii", [[-0.1], [np.nan]])
def test_radii_are_checked(case, radii):
    with pytest.raises(ValueError, match="radii"):
        accuracy_under_attack(*case, deepfool, radii)
