"""Facts about the MNIST images that come with the package, and about a user's own files."""

import gzip
import struct

import numpy as np
import pytest

from snode.datasets import load_mnist, mnist


@pytest.fixture(scope="module")
def digits():
    return load_mnist()


def test_shapes_and_types(digits):
    assert digits.x_train.shape == (196, 60000)
    assert digits.y_train.shape == (60000,)
    assert digits.x_test.shape == (196, 10000)
    assert digits.y_test.shape == (10000,)
    assert digits.n_classes == 10
    assert digits.image_shape == (14, 14)
    assert digits.name == "MNIST 14x14"
    assert digits.x_train.dtype == digits.x_test.dtype == np.float32
    assert digits.y_train.dtype == digits.y_test.dtype == np.int64
    assert digits.x_train.flags.c_contiguous
    assert np.array_equal(digits.classes, np.arange(10))


def test_first_labels_and_class_counts(digits):
    assert digits.y_train[:5].tolist() == [5, 0, 4, 1, 9]
    assert digits.y_test[:5].tolist() == [7, 2, 1, 0, 4]
    # known counts of the training set, digits 0 to 9
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(digits.y_train).tolist() == counts


@pytest.mark.parametrize("part", ["x_train", "x_test"])
def test_background_is_zero_and_ink_minus_one(digits, part):
    x = getattr(digits, part)
    assert x.max() == 0.0
    assert x.min() == -1.0
    assert digits.encoding == (0.0, -1.0)
    assert (x == 0.0).mean() > 0.5  # most of an image is background


def test_encoding_round_trip_gives_whole_pixels(digits):
    pixels = 255.0 * digits.decode(digits.x_train[:, :1000].astype(np.float64))
    # x is a float32: pixel/255 is rounded once, which 255 scales up
    assert np.abs(pixels - np.rint(pixels)).max() <= 255 * np.finfo(np.float32).eps
    assert pixels.min() == 0.0
    assert pixels.max() == 255.0


def test_an_image_stands_upright(digits):
    # The first test image is a 7: the bar is at the top, the foot is one stroke.
    seven = digits.decode(digits.x_test[:, 0]).reshape(digits.image_shape)
    assert (seven[4] > 0.3).sum() >= 5
    assert (seven[11] > 0.3).sum() <= 3


def test_other_encoding_and_dtype(digits):
    data = load_mnist(encoding=(-1.0, 1.0), dtype="float64")
    assert data.x_train.dtype == np.float64
    assert (data.x_train.min(), data.x_train.max()) == (-1.0, 1.0)
    difference = data.decode(data.x_train[:, :100]) - digits.decode(digits.x_train[:, :100])
    assert np.abs(difference).max() <= np.finfo(np.float32).eps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side": 20}, "side must be 14 or 28; got 20"),
        ({"encoding": (0.0, 0.0)}, "encoding"),
        ({"encoding": (0.0, 1.0, 2.0)}, "encoding"),
        ({"encoding": "ab"}, "encoding"),
        ({"dtype": "int32"}, "dtype"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        load_mnist(**options)


def test_28_without_files_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"side=28 pass path=.*IDX"):
        load_mnist(28)
    with pytest.raises(FileNotFoundError, match="missing"):
        load_mnist(28, path=tmp_path / "missing")


def images(m, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (m, 28, 28), dtype=np.uint8)


def write_idx_folder(folder, m=20, m_test=10):
    for prefix, count in (("train", m), ("t10k", m_test)):
        head = struct.pack(">4B3I", 0, 0, 8, 3, count, 28, 28)
        pixels = images(count, seed=count).tobytes()
        with gzip.open(folder / f"{prefix}-images-idx3-ubyte.gz", "wb") as file:
            file.write(head + pixels)
        labels = (np.arange(count) % 10).astype(np.uint8).tobytes()
        head = struct.pack(">4BI", 0, 0, 8, 1, count)
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(head + labels)


def test_28_from_a_folder_of_idx_files(tmp_path):
    write_idx_folder(tmp_path)
    data = load_mnist(28, path=tmp_path)
    assert data.x_train.shape == (784, 20)
    assert data.x_test.shape == (784, 10)
    assert data.image_shape == (28, 28)
    expected = images(20, seed=20).reshape(20, 784).T / -255.0
    assert np.array_equal(data.x_train, expected.astype(np.float32))


def test_14_from_28_is_the_block_mean_rounded_half_to_even(tmp_path):
    write_idx_folder(tmp_path)
    data = load_mnist(14, path=tmp_path)
    blocks = images(20, seed=20).reshape(20, 14, 2, 14, 2).astype(float).mean(axis=(2, 4))
    expected = np.round(blocks).reshape(20, 196).T / -255.0
    assert np.array_equal(data.x_train, expected.astype(np.float32))
    assert data.image_shape == (14, 14)


@pytest.mark.parametrize(
    ("total", "rounded"), [(1, 0), (2, 0), (3, 1), (5, 1), (6, 2), (10, 2), (14, 4), (1020, 255)]
)
def test_halves_round_to_even(total, rounded):
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, :2, :2] = [
        [min(total, 255), min(max(total - 255, 0), 255)],
        [min(max(total - 510, 0), 255), max(total - 765, 0)],
    ]
    assert mnist._halved(image)[0, 0, 0] == rounded


@pytest.mark.parametrize("shape", [(20, 784), (20, 28, 28)])
def test_28_from_npz(tmp_path, shape):
    x, y = images(20).reshape(shape), np.arange(20) % 10
    np.savez(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    data = load_mnist(28, (0.0, 1.0), path=str(tmp_path / "own.npz"))
    assert np.array_equal(data.x_train, (x.reshape(20, 784).T / 255.0).astype(np.float32))
    assert np.array_equal(data.y_test, y)


def test_wrong_images_are_refused(tmp_path):
    y = np.arange(20) % 10
    np.savez(tmp_path / "small.npz", x_train=np.zeros((20, 196), np.uint8), y_train=y)
    with pytest.raises(ValueError, match="side=28 needs the 28x28 images"):
        load_mnist(28, path=tmp_path / "small.npz")
    np.savez(tmp_path / "odd.npz", x_train=np.zeros((20, 100), np.uint8), y_train=y)
    with pytest.raises(ValueError, match=r"14x14 or 28x28 pixels; got uint8.*\(100,\)"):
        load_mnist(14, path=tmp_path / "odd.npz")
    np.savez(tmp_path / "float.npz", x_train=np.zeros((20, 784)), y_train=y)
    with pytest.raises(ValueError, match="got float64"):
        load_mnist(14, path=tmp_path / "float.npz")
