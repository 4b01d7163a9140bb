import numpy as np
import pytest

import snode


@pytest.fixture(scope="module")
def attacked(demo, zoo, tmp_path_factory):
    figure = demo("snode/fig05_fig12_table03_attacks")
    few = [e for e in zoo if e[0].cost == "l2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure, "RADII", np.array([0.3, 0.9]))
        cache = tmp_path_factory.mktemp("attacks")
        return figure, few, cache, figure.run(few, n=25, cache=cache)


def test_networks_with_weight_decay_are_left_out(attacked):
    _, _, _, numbers = attacked
    names = {f"{a}-l2-{t}" for a in ("relu", "tanh") for t in ("sgd", "ncg", "ncg-h1")}
    assert set(numbers["networks"]) == names


def test_the_table_is_what_the_attacks_return(attacked):
    _, few, _, numbers = attacked
    data = snode.datasets.load_mnist()
    x, y = np.ascontiguousarray(data.x_test[:, :25]), data.y_test[:25]
    kind, _, field = next(e for e in few if e[0].name == "tanh-l2-ncg")
    direct = snode.sensitivity_attack(field, x, y, n_iter=15, box=(-1, 0), n_classes=10)
    fooled = direct.success & ~direct.skipped
    row = numbers["networks"][kind.name][0]["sensitivity"]
    assert row["susceptible"] == pytest.approx(fooled.sum() / (~direct.skipped).sum())
    assert row["mean"] == pytest.approx(direct.norm2[fooled].mean())
    assert row["max"] == pytest.approx(direct.norm2[fooled].max())
    assert row["curve"][1] == pytest.approx(
        (direct.norm2[fooled] <= 0.9).sum() / (~direct.skipped).sum()
    )
    assert row["gradients"] == 150  # ten rows, fifteen iterations
    assert numbers["networks"][kind.name][0]["each target"]["gradients"] == 135


def test_curves_rise_and_no_ball_is_left(attacked):
    figure, _, _, numbers = attacked
    for runs in numbers["networks"].values():
        for name in figure.ATTACKS:
            curve = runs[0][name]["curve"]
            assert curve[0] <= curve[1] <= runs[0][name]["susceptible"] + 1e-12
        for name in ("PGD", figure.LONG, "FGM"):
            assert (runs[0][name]["max"] or 0) <= 0.9


def test_a_kept_result_is_used_only_for_the_same_weights(attacked, monkeypatch):
    figure, few, cache, numbers = attacked
    monkeypatch.setattr(figure, "RADII", np.array([0.3, 0.9]))
    monkeypatch.setattr(figure, "attack", lambda *args: pytest.fail("attacked again"))
    assert figure.run(few, n=25, cache=cache)["networks"] == numbers["networks"]
    kind, seed, field = next(e for e in few if e[0].name == "tanh-l2-ncg")
    other = field.with_parameters(W=2 * field.W, b=field.b)
    with pytest.raises(pytest.fail.Exception, match="attacked again"):
        figure.run([(kind, seed, other)], n=25, cache=cache)


def test_claims_count_what_the_numbers_say(attacked):
    figure, _, _, numbers = attacked
    claims = figure.claims(numbers)
    assert len(claims) == 8
    sgd = [
        np.mean(numbers["networks"][f"{a}-l2-sgd"][0]["sensitivity"]["curve"])
        for a in ("relu", "tanh")
    ]
    ncg = [
        np.mean(numbers["networks"][f"{a}-l2-ncg"][0]["sensitivity"]["curve"])
        for a in ("relu", "tanh")
    ]
    wins = sum(s > n + figure.MARGIN for s, n in zip(sgd, ncg, strict=True))
    text, agrees, measured = claims[3]
    assert text.startswith("SGD networks are more susceptible than NCG")
    assert agrees == (wins == 2)
    assert measured.startswith(f"in {wins} of 2")


def test_figure_12_draws(attacked, tmp_path):
    figure, _, _, numbers = attacked
    drawn = figure.plot(numbers)
    assert len(drawn.axes) == 6
    drawn.savefig(tmp_path / "f.png")
    assert "tanh-l2-ncg-h1" in figure.table(numbers)


@pytest.fixture(scope="module")
def images(demo, zoo):
    figure = demo("snode/fig13_14_15_adversarial_images")
    return figure, figure.run(zoo, n=25)


def test_shown_images_are_fooled_in_all_three_networks(images):
    _, numbers = images
    for k in (numbers["common"], *numbers["examples"]):
        for results in numbers["found"].values():
            for name in ("moving target", "PGD", "CW"):
                result = results[name]
                assert result.label[k] != numbers["y"][k]
                assert not result.skipped[k]
                assert (result.x_adv[:, k] >= -1).all()
                assert (result.x_adv[:, k] <= 0).all()
    labels = [int(numbers["y"][k]) for k in numbers["examples"]]
    assert len(set(labels)) == len(labels)


def test_adversarial_figures_draw(images, tmp_path):
    figure, numbers = images
    drawn = figure.plot(numbers)
    assert list(drawn) == ["fig13_adversarial", "fig14_adversarial_sgd", "fig15_adversarial_h1"]
    for name, f in drawn.items():
        f.savefig(tmp_path / f"{name}.png")
    assert len(figure.claims(numbers)) == 4
