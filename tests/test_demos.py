"""Every demo runs quickly, shows what its figure claims, and draws."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import snode

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


# --- lessons --------------------------------------------------------------------------------------


def _draws(demo, numbers, path):
    demo.plot(numbers).savefig(path / "figure.png")
    assert (path / "figure.png").stat().st_size > 10_000


@pytest.fixture(scope="module")
def convergence():
    demo = _demo("lessons/order_of_convergence")
    return demo, demo.run(quick=True)


def test_convergence_every_method_has_its_order(convergence):
    _, numbers = convergence
    assert set(numbers["fixed"]) == set(snode.TABLEAUS)
    for name, row in numbers["fixed"].items():
        # 5 is steep: few points lie between coarse steps and rounding
        assert row["observed"] == pytest.approx(row["order"], abs=0.2 if row["order"] == 5 else 0.1)
        assert row["observed"] >= row["order"] - 0.1, name


def test_convergence_a_smaller_tolerance_costs_more_and_gives_less_error(convergence):
    _, numbers = convergence
    for row in numbers["control"].values():
        assert (np.diff(row["nfev"]) > 0).all()
        assert (np.diff(row["error"]) < 0).all()


def test_convergence_the_higher_order_is_cheaper_where_much_is_asked(convergence):
    _, numbers = convergence
    low, high = (numbers["control"][name] for name in ("ode23", "ode45"))
    assert high["nfev"][-1] < low["nfev"][-1] / 5
    for p, row in ((3, low), (5, high)):  # error ~ nfev^-p, reached from above
        slope = np.polyfit(np.log(row["nfev"][-5:]), np.log(row["error"][-5:]), 1)[0]
        assert p - 0.3 < -slope < p + 1.5


def test_convergence_figure_draws(convergence, tmp_path):
    _draws(*convergence, tmp_path)


@pytest.fixture(scope="module")
def stability():
    demo = _demo("lessons/stability_regions")
    return demo, demo.run(quick=True)


def test_stability_the_regions_end_where_the_books_say(stability):
    _, numbers = stability
    limits = {name: row["limit"] for name, row in numbers["methods"].items()}
    assert limits == pytest.approx(
        {"euler": -2, "midpoint": -2, "heun": -2, "bogacki_shampine": -2.5127, "rk4": -2.7853,
         "dormand_prince": -3.3066}, abs=1e-4,
    )  # fmt: skip


def test_stability_inside_decays_outside_grows_by_the_stability_function(stability):
    _, numbers = stability
    for row in numbers["methods"].values():
        assert row["inside"][-1] < 1e-6
        assert row["outside"][-1] > 1e6
        for key in ("inside", "outside"):
            assert row[key] == pytest.approx(row[f"{key}_power"], rel=1e-11)


def test_stability_figure_draws(stability, tmp_path):
    _draws(*stability, tmp_path)


@pytest.fixture(scope="module")
def oscillator():
    demo = _demo("lessons/step_control_van_der_pol")
    return demo, demo.run(quick=True)


def test_oscillator_steps_are_short_where_the_solution_is_fast(oscillator):
    _, numbers = oscillator
    later = numbers["t"][:-1] > 2  # the first step is a cautious guess
    h, v = numbers["h"][later], np.abs(numbers["v"][:-1][later])
    assert np.median(h[v < 0.3]) > 3 * np.median(h[v > 1.5])
    assert h.max() > 8 * h.min()


def test_oscillator_every_accepted_step_meets_the_tolerance(oscillator):
    _, numbers = oscillator
    assert numbers["estimate"].max() <= 1 + 1e-6
    assert np.median(numbers["estimate"]) > 0.1  # and wastes little
    assert numbers["local_error"].max() < 2
    assert np.median(numbers["local_error"]) < np.median(numbers["estimate"])


def test_oscillator_rejections_happen_where_the_steps_must_become_shorter(oscillator):
    _, numbers = oscillator
    again = np.flatnonzero(numbers["rejections"][1:]) + 1
    assert 5 < len(again) < 0.25 * len(numbers["h"])
    assert np.mean(numbers["h"][again] < numbers["h"][again - 1]) > 0.7


def test_oscillator_equal_steps_cost_more(oscillator):
    _, numbers = oscillator
    assert numbers["equal_steps"] > 2 * len(numbers["h"])


def test_oscillator_figure_draws(oscillator, tmp_path):
    _draws(*oscillator, tmp_path)


@pytest.fixture(scope="module")
def neuron():
    demo = _demo("lessons/adjoint_by_hand_one_neuron")
    return demo, demo.run(quick=True)


def test_neuron_by_hand_is_the_package(neuron):
    _, numbers = neuron
    assert set(numbers["difference"]) == {"x", "xi", "lam", "E'_W", "E'_b", "duality"}
    assert max(numbers["difference"].values()) < 1e-14


def test_neuron_finite_differences_make_a_v(neuron):
    _, numbers = neuron
    eps = numbers["eps"]
    for key, order, best, good in (("one_sided", 1, 1e-8, 1e-5), ("central", 2, 1e-6, 1e-7)):
        error = numbers[key]
        assert error.min() < good
        assert best / 30 < eps[error.argmin()] < 30 * best
        assert error[-1] > 1e3 * error.min()  # rounding
        falling = (eps < 2e-2) & (eps > 5e-5)
        slope = np.polyfit(np.log(eps[falling]), np.log(error[falling]), 1)[0]
        assert slope == pytest.approx(order, abs=0.1)


def test_neuron_figure_draws(neuron, tmp_path):
    _draws(*neuron, tmp_path)


@pytest.fixture(scope="module")
def dissipative():
    demo = _demo("lessons/dissipative_adjoint")
    return demo, demo.run(quick=True)


def test_dissipative_the_closed_form_is_right(dissipative):
    demo, _ = dissipative

    def final(k):
        A, B = k**2 / (1 + k**2), k / (1 + k**2)
        return (1 - A) * np.exp(-k * demo.T) + A * np.cos(demo.T) + B * np.sin(demo.T)

    for k in (1.0, 20.0):
        assert snode.taylor_test(lambda eps, k=k: final(k * (1 + eps)), k * demo.exact(k)) > 1.9


def test_dissipative_stored_trajectories_are_accurate_for_all_k(dissipative):
    _, numbers = dissipative
    for mode in ("discrete", "continuous"):
        assert numbers["error"][mode].max() <= 1e-5  # quality.md
    assert numbers["evaluations"]["discrete"].max() <= 1.5
    assert numbers["evaluations"]["continuous"][numbers["k"] >= 50].max() <= 1.5


def test_dissipative_backsolve_loses_digits_and_time_and_then_blows_up(dissipative):
    _, numbers = dissipative
    at = list(numbers["k"]).index(200)
    stored = max(numbers["error"][mode][at] for mode in ("discrete", "continuous"))
    assert numbers["error"]["backsolve"][at] > 30 * stored
    assert numbers["evaluations"]["backsolve"][at] > 5
    assert numbers["failures"][at] == ""
    assert numbers["failures"][-1] == "BLOW_UP"
    assert np.isnan(numbers["error"]["backsolve"][-1])


def test_dissipative_figure_draws(dissipative, tmp_path):
    _draws(*dissipative, tmp_path)
