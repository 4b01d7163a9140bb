"""Table 2 and Figure 3: the accuracies are what they are called, the claims say what they mean."""

import copy

import numpy as np
import pytest

import snode

NAME = "snode/table02_fig03_accuracy_and_noise"


@pytest.fixture(scope="module")
def table02(demo):
    return demo(NAME)


@pytest.fixture(scope="module")
def numbers(table02, zoo):
    return table02.run(zoo, rng=3)


def test_clean_accuracy_is_the_share_of_largest_class_components(numbers, zoo):
    data = snode.datasets.load_mnist()
    for kind, _, field in (zoo[0], zoo[7], zoo[19]):
        entry = numbers["networks"][kind.name]
        for split, x, y in (
            ("test", data.x_test, data.y_test), ("train", data.x_train, data.y_train)
        ):  # fmt: skip
            state = np.ascontiguousarray(x[:, :500])
            cell = field.T / field.n_layers
            for W, b in zip(field.W, field.b, strict=True):
                state = state + cell * field.activation.value(W @ state + b[:, None])
            right = (state[:10].argmax(axis=0) == y[:500]).sum()
            assert abs(500 * entry[split][0] - right) <= 1  # a tie may fall either way


def test_all_twenty_are_measured_at_every_level(numbers, table02, zoo):
    assert set(numbers["networks"]) == {kind.name for kind, _, _ in zoo}
    assert len(zoo) == 20
    for entry in numbers["networks"].values():
        assert np.shape(entry["noise"]) == (1, 1, len(table02.STDS))
        assert np.shape(entry["test"]) == np.shape(entry["train"]) == (1,)


def test_no_noise_is_the_clean_accuracy_and_much_noise_is_worse(table02, zoo, monkeypatch):
    monkeypatch.setattr(table02, "STDS", (0.0, 3.0))
    found = table02.run(zoo[:5])["networks"]
    for entry in found.values():
        none, much = entry["noise"][0][0]
        assert none == entry["test"][0]
        assert much < none - 0.1


def test_every_network_gets_the_same_noise_and_another_seed_gives_other_noise(table02, zoo):
    (first, _, field), (second, _, _), *_ = zoo
    same = table02.run([(first, 1, field), (second, 1, field), (first, 2, field)], rng=5)
    assert same["networks"][first.name]["noise"][0] == same["networks"][second.name]["noise"][0]
    assert len(same["networks"][first.name]["test"]) == 2
    other = table02.run([(first, 1, field)], rng=6)["networks"][first.name]["noise"]
    assert other[0] != same["networks"][first.name]["noise"][0]


def test_full_takes_all_images_and_three_draws(table02, zoo, monkeypatch):
    monkeypatch.setattr(table02, "STDS", (0.3,))
    kind, seed, field = zoo[0]
    found = table02.run([(kind, seed, field)], quick=False)
    data = snode.datasets.load_mnist()
    assert found["test_images"] == 10_000
    assert found["training_images"] == 60_000
    entry = found["networks"][kind.name]
    assert entry["test"] == [snode.accuracy(field, data.x_test, data.y_test)]
    assert np.shape(entry["noise"]) == (1, 3, 1)
    assert 0 < np.std(entry["noise"]) < 0.02  # independent draws: sqrt(p q / 10000) is 0.005


def test_table_has_means_and_standard_deviations_of_the_seeds(table02, numbers):
    several = copy.deepcopy(numbers)
    several["networks"]["tanh-l2-ncg"]["test"] = [0.9, 0.94]
    assert table02.cell(several, "tanh-l2-ncg", "test") == "92.00 ± 2.00"
    several["networks"]["tanh-l2-ncg"]["noise"] = [[[0.2, 0.4]], [[0.5, 0.5]]]
    assert table02.score(several, "robustness", "tanh-l2-ncg") == pytest.approx(40.0)
    assert table02.score(several, "performance", "tanh-l2-ncg") == pytest.approx(92.0)
    text = table02.table(several)
    assert "92.00 ± 2.00" in text
    for entry in numbers["networks"].values():
        shown = f"({100 * entry['train'][0]:.2f})"
        assert shown in text


def world(table02, performance, robustness):
    """Return numbers with the given percentages for each network."""
    names = [kind.name for kind in KINDS(table02)]
    return {
        "networks": {
            name: {
                "test": [performance(*name.split("-", 2)) / 100],
                "train": [1.0],
                "noise": [[[robustness(*name.split("-", 2)) / 100] * 2]],
            }
            for name in names
        }
    }


def KINDS(table02):
    return [
        table02.Kind(c, a, t)
        for c in table02.COSTS
        for a in table02.ACTIVATIONS
        for t in table02.TRAININGS
    ]


@pytest.fixture
def papers(table02):
    """Numbers made up so that every claim of the paper holds."""

    def performance(_, cost, training):
        return 95.0 if cost == "ce" and training.startswith("sgd") else 97.0

    def robustness(activation, cost, training):
        if training.startswith("sgd"):
            return 70.0 if cost == "ce" else 65.0
        if training == "ncg-h1":
            return 75.0 if activation == "tanh" else 69.0
        return 60.0 if training == "ncg-wd" else 70.0

    return world(table02, performance, robustness)


def test_all_claims_hold_in_the_papers_world(table02, papers):
    found = table02.claims(papers)
    assert len(found) == 14
    assert [text for text, agrees, _ in found if not agrees] == []


PERFORMANCE, ROBUSTNESS = "test", "noise"


@pytest.mark.parametrize(
    ("name", "measure", "percent", "failing"),
    [
        # outperforming by less than a point is not enough
        ("relu-ce-ncg", PERFORMANCE, 95.9,
         {"CE: NCG outperforms SGD, both without", "L2 instead of CE has no significant effect on "
          "the performance", "w.d. has no significant effect"}),
        ("tanh-ce-sgd-wd", PERFORMANCE, 96.1,
         {"CE: NCG outperforms SGD, both with w.d.", "L2 instead of CE improves",
          "w.d. has no significant effect"}),
        ("relu-ce-sgd", ROBUSTNESS, 72.1,
         {"NCG has the same or better robustness", "CE: NCG and SGD have similar robustness"}),
        ("relu-ce-sgd", ROBUSTNESS, 67.9, {"CE: NCG and SGD have similar robustness"}),
        ("tanh-l2-sgd-wd", PERFORMANCE, 95.9,
         {"L2: NCG and SGD have similar performance", "L2 instead of CE improves",
          "w.d. has no significant effect"}),
        ("tanh-l2-sgd", ROBUSTNESS, 68.0,
         {"L2: NCG is more robust", "L2 instead of CE worsens"}),
        ("relu-l2-sgd-wd", ROBUSTNESS, 68.1, {"L2 instead of CE worsens"}),
        ("tanh-l2-ncg-wd", ROBUSTNESS, 62.1, {"L2 instead of CE has no significant effect on the "
                                              "robustness"}),
        ("relu-l2-ncg-wd", PERFORMANCE, 99.0,
         {"L2: NCG and SGD have similar performance", "L2 instead of CE has no significant effect "
          "on the performance", "w.d. has no significant effect"}),
        ("relu-ce-ncg-wd", ROBUSTNESS, 65.0,
         {"L2 instead of CE has no significant effect on the robustness", "w.d. strongly"}),
        ("relu-l2-ncg-h1", ROBUSTNESS, 75.1, {"NCG Sobolev with tanh"}),
        ("tanh-ce-ncg-h1", ROBUSTNESS, 69.9, {"NCG Sobolev with tanh"}),
        ("relu-l2-sgd", PERFORMANCE, 98.1,
         {"NCG has the same or better performance", "L2: NCG and SGD have similar performance",
          "w.d. has no significant effect"}),
        # the margin itself is no difference
        ("relu-l2-ncg", PERFORMANCE, 96.0, set()),
        # nothing is said of these
        ("relu-ce-ncg-h1", PERFORMANCE, 50.0, set()),
        ("relu-l2-ncg-h1", ROBUSTNESS, 10.0, set()),
    ],
)  # fmt: skip
def test_a_changed_number_breaks_the_claims_about_it_and_no_other(
    table02, papers, name, measure, percent, failing
):
    share = percent / 100
    papers["networks"][name][measure] = [share] if measure == PERFORMANCE else [[[share, share]]]
    broken = [text for text, agrees, _ in table02.claims(papers) if not agrees]
    assert len(broken) == len(failing)
    for start in failing:
        assert any(text.startswith(start) for text in broken), (start, broken)


def test_claims_show_the_differences_they_are_judged_by(table02, papers):
    shown = {text: measured for text, _, measured in table02.claims(papers)}
    assert shown["w.d. strongly decreases the robustness of NCG"] == (
        "4 of 4: relu-ce ncg-wd against ncg -10.0, tanh-ce ncg-wd against ncg -10.0, "
        "relu-l2 ncg-wd against ncg -10.0, tanh-l2 ncg-wd against ncg -10.0"
    )


def test_figure_shows_the_numbers(table02, numbers, tmp_path):
    figure = table02.plot(numbers)
    panels = [ax for ax in figure.axes if ax.lines]
    assert len(panels) == 4
    places = [(c, a) for c in table02.COSTS for a in table02.ACTIVATIONS]
    for ax, (cost, activation) in zip(panels, places, strict=True):
        drawn = {line.get_label(): line for line in ax.lines}
        assert set(drawn) == set(table02.TRAINING_NAMES.values())
        for training, title in table02.TRAINING_NAMES.items():
            entry = numbers["networks"][f"{activation}-{cost}-{training}"]
            expected = 100 * np.array([*entry["test"], *entry["noise"][0][0]])
            np.testing.assert_allclose(drawn[title].get_ydata(), expected)
            np.testing.assert_array_equal(drawn[title].get_xdata(), [0.0, *table02.STDS])
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
