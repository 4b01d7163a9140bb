"""Every demo runs quickly, shows what its figure claims, and draws."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

DEMOS = Path(__file__).parent.parent / "demos"


def _demo(path):
    spec = importlib.util.spec_from_file_location(path.replace("/", "_"), DEMOS / f"{path}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def digits():
    demo = _demo("snode/digits_through_depth")
    return demo, demo.run(quick=True)


def test_digits_the_cost_falls_on_every_minibatch(digits):
    _, numbers = digits
    assert (numbers["cost_after"] < numbers["cost"]).all()


def test_digits_most_test_images_are_classified_after_a_fiftieth_of_an_epoch(digits):
    _, numbers = digits
    assert numbers["evaluations"]["test_accuracy"][-1] > 0.75  # chance is 0.1


def test_digits_relu_only_brightens_and_the_ink_fades(digits):
    _, numbers = digits
    x = numbers["x"]
    assert (np.diff(x, axis=0) >= 0).all()  # sigma >= 0: every component can only grow
    assert np.abs(x[-1]).sum() < 0.5 * np.abs(x[0]).sum()


def test_digits_figure_draws(digits, tmp_path):
    demo, numbers = digits
    demo.plot(numbers).savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
