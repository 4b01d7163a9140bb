"""Figure 11: the pictures are noisy test images, and below them is what the networks see."""

import numpy as np
import pytest

import snode


@pytest.fixture(scope="module")
def fig11(demo):
    return demo("snode/fig11_noise_examples")


@pytest.fixture(scope="module")
def numbers(fig11, zoo):
    return fig11.run(zoo)


def test_first_picture_of_a_row_is_the_test_image(fig11, numbers):
    data = snode.datasets.load_mnist()
    assert numbers["stds"][0] == 0
    assert numbers["labels"] == data.y_test[: fig11.N_IMAGES].tolist()
    images = np.array(numbers["images"])
    np.testing.assert_allclose(images[:, 0].T, -data.x_test[:, : fig11.N_IMAGES], atol=1e-7)


def test_noise_has_the_standard_deviations_of_figure_3(fig11, numbers, demo):
    stds = np.array(numbers["stds"][1:])
    assert tuple(stds) == demo("snode/table02_fig03_accuracy_and_noise").STDS
    images = np.array(numbers["images"])
    noise = (images[:, 1:] - images[:, :1]) / stds[:, None]
    # one pattern an image, scaled: equal to float32 rounding over the smallest std
    np.testing.assert_allclose(noise, np.broadcast_to(noise[:, -1:], noise.shape), atol=1e-5)
    patterns = noise[:, -1]
    assert patterns.std() == pytest.approx(1, abs=4 / np.sqrt(2 * patterns.size))
    assert abs(patterns.mean()) < 4 / np.sqrt(patterns.size)
    assert np.abs(np.corrcoef(patterns) - np.eye(fig11.N_IMAGES)).max() < 4 / np.sqrt(196)
    other = np.array(fig11.run([], rng=2)["images"])
    assert np.abs(other[:, 1:] - images[:, 1:]).min(axis=(0, 1)).max() > 0


def test_predictions_are_those_of_the_networks_for_the_pictures(fig11, numbers, zoo):
    images = np.array(numbers["images"], dtype=np.float32)
    count = 0
    for kind, _, field in zoo:
        if kind.name in ("tanh-l2-sgd", "tanh-l2-ncg", "tanh-l2-ncg-h1"):
            count += 1
            for i, row in enumerate(images):
                seen = snode.predict(field, np.ascontiguousarray(-row.T))
                assert seen.tolist() == numbers["predicted"][kind.training][i]
    assert count == len(numbers["predicted"]) == 3


def test_no_claims(fig11, numbers):
    assert fig11.claims(numbers) == []


def test_figure_brackets_the_wrong_predictions(fig11, numbers, tmp_path):
    figure = fig11.plot(numbers)
    axes = np.reshape(figure.axes, (fig11.N_IMAGES, len(numbers["stds"])))
    for i, row in enumerate(axes):
        for k, ax in enumerate(row):
            shown = np.asarray(ax.images[0].get_array()).ravel()
            np.testing.assert_allclose(shown, numbers["images"][i][k])
            words = ax.texts[0].get_text().split()
            for word, training in zip(words, fig11.SHOWN, strict=True):
                seen = numbers["predicted"][training][i][k]
                assert word == (str(seen) if seen == numbers["labels"][i] else f"[{seen}]")
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_table_has_a_line_for_each_image_and_network(fig11, numbers):
    lines = fig11.table(numbers).splitlines()
    assert len(lines) == 1 + 3 * fig11.N_IMAGES
    first = [str(c) for c in numbers["predicted"]["sgd"][0]]
    assert lines[1].split()[-len(first) :] == first
