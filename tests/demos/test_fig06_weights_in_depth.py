"""Figure 6: roughness is that of the inner products, the curves are weights of the networks."""

import numpy as np
import pytest

import snode


@pytest.fixture(scope="module")
def fig06(demo):
    return demo("snode/fig06_weights_in_depth")


@pytest.fixture(scope="module")
def numbers(fig06, zoo):
    return fig06.run(zoo)


def test_roughness_of_a_sine_is_its_frequency(fig06):
    T, K, omega = 3.0, 3000, 2 * np.pi * 4 / 3.0  # four whole periods: |cos| = |sin| in L2
    t = (np.arange(K) + 0.5) * T / K
    W = np.sin(omega * t)[:, None, None] * np.arange(1.0, 7.0).reshape(2, 3)
    assert fig06.roughness(W, T) == pytest.approx(omega, rel=1e-3)
    assert fig06.roughness(-7 * W, T) == pytest.approx(fig06.roughness(W, T), rel=1e-14)
    assert fig06.roughness(W, 2 * T) == pytest.approx(fig06.roughness(W, T) / 2, rel=1e-14)
    assert fig06.roughness(np.ones((5, 2, 2)), T) == 0.0


def test_roughness_is_the_difference_of_the_sobolev_and_the_l2_inner_product(numbers, zoo):
    for kind, _, field in zoo[::3]:
        W = {"W": field.W.astype(np.float64)}
        l2 = snode.L2().on(field).dot(W, W)
        seminorm = snode.H1(1.0).on(field).dot(W, W) - l2
        expected = np.sqrt(seminorm / l2)
        assert numbers["roughness"][kind.name][0] == pytest.approx(expected, rel=1e-6)


def test_start_is_where_training_starts(fig06, demo, zoo, tmp_path, monkeypatch):
    train_models = demo("snode/train_models")
    seen = []

    def stop(field, *_, **__):
        seen.append(field)
        raise KeyboardInterrupt

    kind, _, field = zoo[13]
    monkeypatch.setattr(snode, "train", stop)
    monkeypatch.setitem(train_models.LAYERS, "quick", field.n_layers)
    with pytest.raises(KeyboardInterrupt):
        train_models.train(kind, seed=4, folder=tmp_path, data=snode.datasets.load_mnist())
    start = fig06.start_of(kind, 4, field)
    np.testing.assert_array_equal(start.W, seen[0].W)
    np.testing.assert_array_equal(start.b, seen[0].b)
    found = fig06.run([*_three(zoo), (kind, 4, field)])
    assert found["start"][1] == fig06.roughness(start.W, field.T)


def _three(zoo):
    return [e for e in zoo if e[0].name in ("tanh-l2-ncg", "tanh-l2-ncg-h1", "tanh-l2-sgd")]


def test_sobolev_training_leaves_smoother_weights(numbers):
    for cost in ("ce", "l2"):
        for activation in ("relu", "tanh"):
            rough = {t: numbers["roughness"][f"{activation}-{cost}-{t}"] for t in ("ncg", "ncg-h1")}
            assert rough["ncg-h1"] < rough["ncg"]


def test_curves_are_weights_of_the_three_networks_and_vary_most(fig06, numbers, zoo):
    fields = {kind.training: field for kind, _, field in _three(zoo)}
    for name, part in numbers["curves"].items():
        assert len(set(part["entries"])) == fig06.N_CURVES
        spread = 0
        for training, field in fields.items():
            stack = field.parameters[name]
            for entry, curve in zip(part["entries"], part["values"][training], strict=True):
                np.testing.assert_array_equal(curve, stack[(slice(None), *entry)])
            deviation = stack.std(axis=0)
            spread = spread + deviation / deviation.mean()
        shown = [spread[entry] for entry in part["entries"]]
        assert shown == sorted(shown, reverse=True)
        assert shown[-1] == np.sort(spread, axis=None)[-fig06.N_CURVES]
    assert numbers["t"][0] == 0
    np.testing.assert_allclose(np.diff(numbers["t"]), 3.0 / len(numbers["t"]))


def test_size_of_a_networks_weights_does_not_decide_what_is_shown(fig06, numbers, zoo):
    large = [
        (kind, seed, field if kind.training != "sgd" else
         field.with_parameters(W=4096 * field.W, b=4096 * field.b))
        for kind, seed, field in _three(zoo)
    ]  # fmt: skip
    found = fig06.run(large)["curves"]
    for name, part in numbers["curves"].items():
        assert found[name]["entries"] == part["entries"]


def test_first_seed_is_shown_and_the_runs_are_averaged(fig06, zoo):
    three = _three(zoo)
    other = [(kind, 2, field.with_parameters(W=2 * field.W[::-1])) for kind, _, field in three]
    found = fig06.run([*three, *other])
    assert found["curves"] == fig06.run(three)["curves"]
    assert all(len(row) == 2 for row in found["roughness"].values())
    assert len(found["start"]) == 2
    for row in found["roughness"].values():  # depth reversed: as rough as before
        assert row[1] == pytest.approx(row[0], rel=1e-6)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, [True, True]),
        ({"tanh-ce-ncg": [0.9]}, [False, True]),
        ({"relu-l2-sgd": [0.9]}, [True, False]),
        ({"relu-l2-ncg-h1": [5.0, 3.0]}, [False, False]),
        ({"relu-l2-ncg-h1": [5.0, -3.2]}, [True, True]),  # the mean decides
        ({"tanh-l2-ncg-wd": [0.1], "tanh-l2-sgd-wd": [0.1]}, [True, True]),
    ],
)
def test_claims_hold_if_they_hold_for_every_activation_and_cost(fig06, changed, expected):
    level = {"sgd": 2.0, "sgd-wd": 2.0, "ncg": 3.0, "ncg-wd": 3.0, "ncg-h1": 1.0}
    rough = {f"{a}-{c}-{t}": [v] for c, a in fig06.COLUMNS for t, v in level.items()}
    found = fig06.claims({"roughness": {**rough, **changed}})
    assert [agrees for _, agrees, _ in found] == expected
    assert "L2" in found[0][0]
    assert "SGD" in found[1][0]


def test_figure_shows_the_numbers(fig06, numbers, tmp_path):
    figure = fig06.plot(numbers)
    panels = figure.axes[:6]
    for ax, (name, training) in zip(
        panels, [(n, t) for n in ("W", "b") for t in fig06.SHOWN], strict=True
    ):
        drawn = [line.get_ydata() for line in ax.lines]
        np.testing.assert_array_equal(drawn, numbers["curves"][name]["values"][training])
    points = sorted(float(line.get_ydata()[i]) for line in figure.axes[6].lines[:5]
                    for i in range(4))  # fmt: skip
    np.testing.assert_allclose(points, sorted(row[0] for row in numbers["roughness"].values()))
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_table_has_every_network(fig06, numbers):
    text = fig06.table(numbers)
    for row in numbers["roughness"].values():
        assert f"{row[0]:.2f}" in text
