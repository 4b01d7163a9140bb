"""Folders as others lay them out, images of floats, arrays mapped from a file, bad values."""

import gzip
import shutil
import struct

import numpy as np
import pytest

import snode
from snode.cli.samples import Source, load_data
from snode.datasets import Dataset, load_dataset
from snode.labels import check_labels

IMAGES = np.arange(36, dtype=np.uint8).reshape(4, 3, 3)
LABELS = np.array([0, 1, 0, 1], np.uint8)


def idx(array):
    head = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + array.tobytes()


def write_four(folder, dot="-", nested=False, zipped=False):
    for part in ("train", "t10k"):
        for kind, array in ((f"images{dot}idx3", IMAGES), (f"labels{dot}idx1", LABELS)):
            name = f"{part}-{kind}-ubyte" + (".gz" if zipped else "")
            place = folder / name if nested else folder
            place.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(gzip.compress(idx(array)) if zipped else idx(array))


@pytest.mark.parametrize("below", [".", "raw", "MNIST/raw", "FashionMNIST/raw", "archive"])
@pytest.mark.parametrize(
    "options", [{}, {"dot": "."}, {"nested": True}, {"nested": True, "dot": "."}, {"zipped": True}]
)
def test_usual_layouts(tmp_path, below, options):
    write_four(tmp_path / below, **options)
    data = load_dataset(tmp_path, dtype="float64")
    assert np.array_equal(data.x_train, IMAGES.reshape(4, 9).T / 255)
    assert data.y_test.tolist() == LABELS.tolist()


def test_the_folder_of_one_file(tmp_path):
    write_four(tmp_path, nested=True)
    assert load_dataset(tmp_path / "train-images-idx3-ubyte").x_test.shape == (9, 4)


def test_several_data_sets_below_are_named(tmp_path):
    for name in ("MNIST", "FashionMNIST"):
        write_four(tmp_path / name / "raw")
    with pytest.raises(ValueError, match=r"several data sets.*FashionMNIST.raw, .*MNIST.raw"):
        load_dataset(tmp_path)
    assert load_dataset(tmp_path / "MNIST").x_train.shape == (9, 4)
    shutil.rmtree(tmp_path / "MNIST")
    assert load_dataset(tmp_path).x_train.shape == (9, 4)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("digits.csv", r"can be given themselves, such as .*digits\.csv"),
        ("emnist-letters-train-images-idx3-ubyte", "images files, such as .*emnist-letters"),
        ("notes.pdf", r"it holds notes\.pdf"),
        (None, "it holds nothing"),
    ],
)
def test_a_hint_when_nothing_is_found(tmp_path, name, hint):
    if name:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=f"no IDX training files.*{hint}"):
        load_dataset(tmp_path)


# --- images of floats -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4"])
@pytest.mark.parametrize("scale", [(1.0, 0.0), (1 / 35, 0.0), (0.2, -2.0)])
def test_images_of_other_types_are_taken_as_they_are(tmp_path, dtype, scale):
    x = (IMAGES * scale[0] + scale[1]).astype(dtype)
    np.savez(tmp_path / "a.npz", x=x, y=LABELS)
    for data in (
        load_dataset(tmp_path / "a.npz", dtype="float64"),
        load_dataset(tmp_path / "a.npz", dtype="float64", encoding=(0.0, 1.0)),
        load_data(Source(str(tmp_path / "a.npz"), dtype="float64", seed=0)),
    ):
        assert np.array_equal(data.x_train, x.reshape(4, 9).T.astype(float))
        assert data.encoding == (0.0, 1.0)
        assert data.image_shape == (3, 3)


def test_images_of_bytes_are_encoded_on_the_command_line(tmp_path):
    np.savez(tmp_path / "a.npz", x=IMAGES, y=LABELS)
    data = load_data(Source(str(tmp_path / "a.npz"), dtype="float64", seed=0))
    assert np.array_equal(data.x_train, IMAGES.reshape(4, 9).T / -255)
    assert data.encoding == (0.0, -1.0)
    plain = load_data(Source(str(tmp_path / "a.npz"), encoding=(0.0, 1.0), dtype="float64"))
    assert plain.x_train.max() == 35 / 255
    np.savez(tmp_path / "b.npz", x=IMAGES.reshape(4, 9), y=LABELS)  # bytes, but no images
    flat = load_data(Source(str(tmp_path / "b.npz"), dtype="float64"))
    assert flat.encoding == (0.0, 1.0)


# --- arrays mapped from a file, and bad values ----------------------------------------------------


@pytest.fixture
def mapped(tmp_path):
    x, y = snode.datasets.two_moons(40, rng=0)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    return np.load(tmp_path / "x.npy", mmap_mode="r"), np.load(tmp_path / "y.npy", mmap_mode="r")


def test_a_memmap_is_an_array(mapped):
    x, y = mapped
    data = Dataset(x, y, x, y)
    assert type(data.x_train) is type(data.y_test) is np.ndarray
    assert np.shares_memory(data.x_train, x)
    field = snode.StandaloneField.random(2, 1.0, 3, rng=0)
    options = {"epochs": 1, "batch_size": 20, "n_iter": 1, "rng": 0, "threads": 1}
    ours = snode.train(field, mapped, snode.Cost(n_classes=2), **options)
    plain = snode.train(field, tuple(map(np.array, mapped)), snode.Cost(n_classes=2), **options)
    assert np.array_equal(ours.field.W, plain.field.W)
    assert snode.accuracy(field, x, y, n_classes=2) == snode.accuracy(
        field, np.array(x), np.array(y), n_classes=2
    )
    assert np.array_equal(
        snode.predict(field, x, n_classes=2), snode.predict(field, np.array(x), n_classes=2)
    )
    cost = snode.Cost(n_classes=2)
    targets = np.memmap(f"{y.filename}2", np.float64, "w+", shape=(2, 40))
    targets[:] = np.eye(2)[:, y]
    for mine in (y, targets):  # the fast path, too: bit for bit
        theirs = np.array(mine)
        assert np.array_equal(
            snode.ncg(field, x, mine, cost, n_iter=2, threads=1).field.W,
            snode.ncg(field, np.array(x), theirs, cost, n_iter=2, threads=1).field.W,
        )
        found = snode.gradient(field, x, mine, cost)[1]["W"]
        assert type(found) is np.ndarray
        assert np.array_equal(found, snode.gradient(field, np.array(x), theirs, cost)[1]["W"])
    assert type(check_labels(y, 2, 40)) is np.ndarray
    solution = snode.solve_direct(field, x)
    assert np.array_equal(solution.x_T, snode.solve_direct(field, np.array(x)).x_T)


@pytest.mark.parametrize("kind", [np.matrix, np.ma.MaskedArray, list])
def test_what_is_no_array_says_how_to_make_one(mapped, kind):
    x = np.array(mapped[0])
    wrong = x.tolist() if kind is list else x.view(kind)
    with pytest.raises(ValueError, match=r"x_train must be an array; .*use numpy\.asarray"):
        Dataset(wrong, np.array(mapped[1]))
    with pytest.raises(TypeError, match=r"numpy\.asarray\(x\)"):
        snode.predict(snode.StandaloneField.random(2, 1.0, 3, rng=0), wrong)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["x_train", "y_train", "x_test", "y_test"])
def test_values_that_are_not_finite_are_named(name, bad):
    arrays = {key: np.zeros((2, 3)) for key in ("x_train", "y_train", "x_test", "y_test")}
    arrays[name][1, 2] = bad
    with pytest.raises(ValueError, match=f"{name} must be finite.* 1 .*row 1, column 2"):
        Dataset(**arrays)


@pytest.mark.parametrize(
    ("x", "y", "hint"),
    [
        (np.zeros((5, 3)), np.arange(5) % 2, r"did you mean x_train\.T"),
        (np.zeros((5, 3)), np.zeros((3, 2)), r"did you mean y_train\.T"),
        (np.zeros((2, 3)), np.zeros((3, 1), int), r"use y_train\.ravel\(\)"),
        (np.zeros((2, 3)), np.zeros(3), r"labels are y_train\.astype\(int\), targets"),
        (np.zeros((3, 4, 4)), np.zeros(3, int), r"reshape\(len\(x_train\), -1\)\.T"),
        (np.zeros((2, 3), int), np.zeros(3, int), r"x_train\.astype\(float\)"),
        (np.zeros(3), np.zeros(3, int), r"x_train\[None\]"),
    ],
)
def test_wrong_shapes_say_what_was_meant(x, y, hint):
    with pytest.raises(ValueError, match=hint):
        Dataset(x, y)
