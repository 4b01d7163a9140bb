"""Figures 4 and 7 to 10: the numbers against loops written here, and what the claims look at."""

import copy
import json

import numpy as np
import pytest

import snode

T, LAYERS, N = 3.0, 8, 196
ALL = ("predicted", "measured", "relative_error", "relative_vector_error")


@pytest.fixture(scope="module")
def propagation(demo):
    return demo("snode/fig04_07_08_09_10_propagation")


@pytest.fixture(scope="module")
def numbers(propagation, zoo):
    return propagation.run(zoo, rng=5)


def decaying(activation="identity", rate=0.5):
    """x' = -rate x with the identity: every perturbation shrinks by (1 - rate h) a layer."""
    W = np.tile(-rate * np.eye(N, dtype=np.float32), (LAYERS, 1, 1))
    return snode.StandaloneField(W, np.zeros((LAYERS, N), np.float32), T, activation=activation)


def kind(demo, cost="l2", activation="tanh", training="ncg"):
    return demo("snode/train_models").Kind(cost, activation, training)


def images(count):
    return np.ascontiguousarray(snode.datasets.load_mnist().x_test[:, :count])


# --- numbers --------------------------------------------------------------------------------------


def test_linear_network_has_known_growth_and_no_error(propagation, demo):
    numbers = propagation.run([(kind(demo), 1, decaying())])
    network = numbers["networks"]["tanh-l2-ncg"]
    growth = (1 - 0.5 * T / LAYERS) ** LAYERS
    for name in ("gain", "predicted_gain"):
        assert network[name]["mean"] == pytest.approx(growth, rel=1e-4)
        assert network[name]["std"] < 1e-4
    assert network["worst"]["relative_vector_error"] < 1e-4  # rounding of float32
    assert network["exact"] == [1.0] * len(numbers["sizes"])  # double precision


def test_curves_are_those_of_a_loop_over_layers(propagation, demo, zoo):
    """Both propagations and their errors, written out in double precision."""
    chosen, _, field = next(z for z in zoo if z[0] == kind(demo, activation="tanh"))
    network = propagation.run([(chosen, 3, field)], rng=7, std=0.4)["networks"][chosen.name]
    x = images(200).astype(float)
    xi = 0.4 * np.random.default_rng(7).standard_normal(x.shape)
    noisy, h = x + xi, T / LAYERS
    W, b = np.float64(field.W), np.float64(field.b)
    curves = {name: [] for name in ALL}
    for layer in range(LAYERS + 1):
        delta = noisy - x
        size = np.sqrt((delta**2).sum(axis=0))
        predicted = np.sqrt((xi**2).sum(axis=0))
        curves["predicted"].append(predicted)
        curves["measured"].append(size)
        curves["relative_error"].append(abs(predicted - size) / size)
        curves["relative_vector_error"].append(np.sqrt(((xi - delta) ** 2).sum(axis=0)) / size)
        if layer < LAYERS:
            a = W[layer] @ x + b[layer][:, None]
            xi = xi + h * (1 - np.tanh(a) ** 2) * (W[layer] @ xi)
            noisy = noisy + h * np.tanh(W[layer] @ noisy + b[layer][:, None])
            x = x + h * np.tanh(a)
    for name, rows in curves.items():
        rows = np.array(rows)
        drawn = network["depth"][name]
        kept = rows[:: propagation.EVERY]
        np.testing.assert_allclose(drawn["mean"], kept.mean(axis=1), rtol=2e-3, atol=2e-6)
        np.testing.assert_allclose(drawn["std"], kept.std(axis=1), rtol=2e-3, atol=2e-6)
        if name in network["worst"]:
            assert network["worst"][name] == pytest.approx(rows.mean(axis=1).max(), rel=2e-3)
    growth = np.array(curves["measured"]) / curves["measured"][0]
    assert network["peak"] == pytest.approx(growth.mean(axis=1).max(), rel=1e-4)
    gain = growth[-1]
    assert network["gain"]["mean"] == pytest.approx(gain.mean(), rel=1e-4)
    assert network["gain"]["std"] == pytest.approx(gain.std(), rel=1e-3)
    gain = curves["predicted"][-1] / curves["predicted"][0]
    assert network["predicted_gain"]["mean"] == pytest.approx(gain.mean(), rel=1e-4)
    assert network["t"] == pytest.approx(T * np.arange(0, LAYERS + 1, propagation.EVERY) / LAYERS)


def test_all_networks_of_a_run_get_the_same_noise(numbers, propagation):
    """Of the size asked for: |dx(0)| has mean std sqrt(n) nearly."""
    assert len(numbers["networks"]) == 20
    first = {network["depth"]["predicted"]["mean"][0] for network in numbers["networks"].values()}
    assert len(first) == 1
    assert first.pop() == pytest.approx(propagation.STD * np.sqrt(N), rel=0.01)


def test_runs_are_pooled(propagation, demo, zoo):
    """Two runs of one network: own noise each, mean and std over the samples of both."""
    chosen = kind(demo, training="sgd")
    field = next(f for k, _, f in zoo if k == chosen)
    network = propagation.run([(chosen, s, field) for s in (1, 2)])["networks"][chosen.name]
    gain = network["gain"]
    assert len(gain["runs"]) == 2
    assert gain["runs"][0] != gain["runs"][1]
    assert gain["mean"] == pytest.approx(np.mean(gain["runs"]))
    # a second network that shrinks everything: the std is that of both together
    mixed = propagation.run([(chosen, 1, decaying()), (chosen, 2, decaying(rate=-0.5))])
    gain = mixed["networks"][chosen.name]["gain"]
    assert gain["std"] == pytest.approx(abs(gain["runs"][1] - gain["runs"][0]) / 2, rel=1e-3)
    both = mixed["networks"][chosen.name]["depth"]["measured"]
    assert both["std"][-1] > 0.3 * both["mean"][-1]


def test_rng_decides_the_noise(propagation, demo, zoo):
    some = [zoo[0]]
    first, again, other = (propagation.run(some, rng=rng) for rng in (1, 1, 2))
    assert first == again
    assert first["networks"] != other["networks"]


def test_full_takes_a_thousand_images(propagation, demo):
    numbers = propagation.run([(kind(demo), 1, decaying())], quick=False)
    assert numbers["samples"] == 1000


def test_errors_fall_linearly_for_tanh_and_relu_is_exact_for_some(numbers):
    for network in numbers["networks"].values():
        if network["kind"]["activation"] == "tanh":
            for slope in network["slope"].values():
                assert slope == pytest.approx(1, abs=0.1)
            assert network["exact"] == [0.0] * len(numbers["sizes"])
        else:
            assert network["exact"][0] > 0.5
            assert network["exact"][-1] == 0
            assert list(network["exact"]) == sorted(network["exact"], reverse=True)


def test_error_at_the_drawn_size_is_the_same_in_both_studies(numbers):
    """Float32 on 200 images, double precision on 50 of them; both largest at T here."""
    i = int(np.argmin(np.abs(np.log(np.asarray(numbers["sizes"]) / numbers["std"]))))
    assert numbers["sizes"][i] == pytest.approx(numbers["std"])
    for network in numbers["networks"].values():
        ratio = (
            network["by_size"]["relative_vector_error"][i]
            / (network["worst"]["relative_vector_error"])
        )
        assert 0.5 < ratio < 2


# --- claims ---------------------------------------------------------------------------------------


def agreeing(propagation, demo):
    """Numbers with which every claim agrees."""
    networks = {}
    for k in demo("snode/train_models").KINDS:
        gain = 1.0
        if k.activation == "tanh" and k.training == "ncg-wd":
            gain = 0.8
        if k.activation == "relu" and k.cost == "ce" and k.training.startswith("sgd"):
            gain = 0.8
        networks[k.name] = {
            "kind": {"cost": k.cost, "activation": k.activation, "training": k.training},
            "worst": {"relative_error": 0.01, "relative_vector_error": 0.02},
            "peak": 2 * gain,
            "gain": {"mean": gain, "std": 0.1, "runs": [gain]},
            "predicted_gain": {"mean": gain, "std": 0.1, "runs": [gain]},
            "slope": {"relative_error": 1.0, "relative_vector_error": 1.0},
        }
    return {"networks": networks}


def set_gain(network, value):
    network["gain"]["mean"] = network["predicted_gain"]["mean"] = value


def test_all_claims_can_agree(propagation, demo):
    claims = propagation.claims(agreeing(propagation, demo))
    assert len(claims) == 10
    assert all(agrees for _, agrees, _ in claims)
    assert len({text for text, _, _ in claims}) == 10


@pytest.mark.parametrize(
    ("name", "change", "failing"),
    [
        ("tanh-ce-sgd", lambda n: n["worst"].update(relative_error=0.06), {0}),
        ("relu-l2-ncg", lambda n: n["worst"].update(relative_error=0.06), {1}),
        ("relu-l2-ncg-h1", lambda n: n["predicted_gain"].update(mean=0.94), {2}),
        ("relu-l2-ncg-h1", lambda n: n["predicted_gain"].update(mean=1.06), {2}),
        ("tanh-l2-ncg-wd", lambda n: set_gain(n, 0.95), {3, 8}),  # and not as with the other cost
        ("tanh-l2-ncg-wd", lambda n: set_gain(n, 1.2), {3, 8}),
        ("tanh-ce-ncg-wd", lambda n: set_gain(n, 0.95), {4, 8}),
        ("tanh-l2-sgd-wd", lambda n: set_gain(n, 1.2), {5}),
        ("tanh-l2-sgd-wd", lambda n: set_gain(n, 0.8), {5}),
        ("tanh-ce-sgd-wd", lambda n: set_gain(n, 0.8), {6}),
        ("relu-ce-sgd", lambda n: set_gain(n, 0.95), {6, 7}),
        ("relu-ce-sgd-wd", lambda n: set_gain(n, 0.95), {6, 7}),
        ("relu-ce-ncg-h1", lambda n: set_gain(n, 0.8), {8}),
        ("tanh-l2-ncg-h1", lambda n: set_gain(n, 0.8), {8}),
        ("tanh-l2-sgd", lambda n: n["slope"].update(relative_error=0.85), {9}),
        ("tanh-ce-ncg", lambda n: n["slope"].update(relative_vector_error=1.15), {9}),
        ("relu-ce-ncg", lambda n: n["slope"].update(relative_vector_error=0.5), set()),
    ],
)
def test_each_claim_looks_at_its_numbers(propagation, demo, name, change, failing):
    numbers = agreeing(propagation, demo)
    change(numbers["networks"][name])
    claims = propagation.claims(numbers)
    assert {i for i, (_, agrees, _) in enumerate(claims) if not agrees} == failing


def test_claims_name_what_was_measured(propagation, demo):
    numbers = agreeing(propagation, demo)
    numbers["networks"]["tanh-ce-sgd"]["worst"]["relative_error"] = 0.0321
    claims = propagation.claims(numbers)
    assert claims[0][2] == "at most 3.21%, tanh-ce-sgd"
    assert claims[3][2] == "tanh-l2-ncg-wd 0.800 (largest 1.600), tanh-l2-ncg 1.000 (largest 2.000)"
    numbers["networks"]["tanh-l2-ncg"]["gain"]["runs"] = [0.9, 1.1]
    assert propagation.claims(numbers)[3][2].endswith("1.000 +- 0.100 (largest 2.000)")


# --- figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "cost", "families", "what"),
    [
        ("fig04", "l2", ("SGD", "NCG"), "propagation"),
        ("fig07", "ce", ("SGD",), "propagation"),
        ("fig08", "ce", ("NCG",), "propagation"),
        ("fig09", "ce", ("SGD", "NCG"), "error"),
        ("fig10", "l2", ("SGD", "NCG"), "error"),
    ],
)
def test_figures_draw_the_numbers(propagation, demo, numbers, which, cost, families, what):
    panels = propagation.plot(numbers, which).axes
    assert len(panels) == 2 * len(families)
    for i, ax in enumerate(panels):
        activation = ("relu", "tanh")[i % 2]
        trainings = propagation.FAMILIES[families[i // 2]]
        lines = [line for line in ax.lines if len(line.get_xdata()) == len(range(0, LAYERS + 1, 5))
                 and line.get_linestyle() != "None"]  # fmt: skip
        assert len(lines) == len(trainings)
        for line, training in zip(lines, trainings, strict=True):
            network = numbers["networks"][kind(demo, cost, activation, training).name]
            curve = "predicted" if what == "propagation" else "relative_error"
            scale = 1 if what == "propagation" else 100
            np.testing.assert_allclose(
                line.get_ydata(), scale * np.array(network["depth"][curve]["mean"])
            )
            assert (line.get_linestyle() == "--") == training.endswith("-wd")
        labels = [text.get_text() for text in ax.get_legend().get_texts()]
        names = demo("snode/train_models").TRAINING_NAMES
        assert labels == [names[training] for training in trainings]


def test_measured_marks_lie_on_measured_curves(propagation, numbers):
    """The marks are not the prediction drawn a second time."""
    changed = copy.deepcopy(numbers)
    for network in changed["networks"].values():
        network["depth"]["measured"]["mean"] = [9.0] * len(network["t"])
    ax = propagation.plot(changed, "fig08").axes[0]
    marks = [c for c in ax.containers if hasattr(c, "has_yerr")]
    assert len(marks) == 3
    assert all(np.all(np.asarray(c.lines[0].get_ydata()) == 9) for c in marks)


def test_sizes_figure_has_all_twenty(propagation, numbers):
    panels = propagation.plot(numbers).axes
    assert len(panels) == 4
    drawn = {tuple(line.get_ydata()) for ax in panels for line in ax.lines}
    for network in numbers["networks"].values():
        assert tuple(network["by_size"]["relative_vector_error"]) in drawn


def test_main_writes_figures_and_numbers(
    propagation, demo, zoo, numbers, tmp_path, monkeypatch, capsys
):
    asked = {}

    def models(size, **options):
        asked.update(options, size=size)
        return iter(zoo)

    def run(networks, **options):
        asked.update(options, networks=networks)
        return numbers

    monkeypatch.setattr(demo("snode/train_models"), "models", models)
    monkeypatch.setattr(propagation, "run", run)
    few = {which: propagation.FIGURES[which] for which in ("fig04", "fig09")}
    monkeypatch.setattr(propagation, "FIGURES", few)
    out = tmp_path / "results" / "check.png"
    argv = ["x", "--full", "--seeds", "4", "5", "--std", "0.02", "--folder", "f", "--out", str(out)]
    monkeypatch.setattr("sys.argv", argv)
    propagation.main()
    assert (asked["size"], asked["seeds"], asked["std"]) == ("full", (4, 5), 0.02)
    assert asked["quick"] is False
    assert (str(asked["folder"]), asked["networks"]) == ("f", zoo)
    files = {file.name for file in out.parent.iterdir()}
    assert files == {"check.png", "check.json", "fig04.png", "fig09.png"}
    written = json.loads((out.parent / "check.json").read_text())
    assert written["networks"]["relu-ce-sgd"] == numbers["networks"]["relu-ce-sgd"]
    assert len(written["claims"]) == 10
    printed = capsys.readouterr().out
    assert all(name in printed for name in numbers["networks"])
