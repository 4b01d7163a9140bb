"""Data sets in `.mat` files: from Octave, from SciPy, and damaged ones."""

import random
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from snode.datasets import load_dataset

DATA = Path(__file__).parent / "data"
# The fixtures were made with GNU Octave 7.3 by
#   X = [1:5; (1:5)/10]; y = [1 2 3 1 2]; X_test = [7; 0.7]; y_test = 3;
#   save -v7 octave_v7.mat X y X_test y_test
#   images = uint8(reshape(0:17, 2, 3, 3)); labels = [4; 9; 4]; note = {'a', 'b'};
#   save -v6 octave_v6_images.mat images labels note
#   x = sparse(eye(3)); y = 1:3; save -v7 octave_v7_sparse.mat x y

X = np.array([[0.0, 1.0, 2.0], [3.0, 4.5, 5.0]])
Y = np.array([0, 1, 1])


def test_octave_v7():
    data = load_dataset(DATA / "octave_v7.mat", dtype="float64")
    assert np.array_equal(data.x_train, [[1, 2, 3, 4, 5], np.arange(1, 6) / 10])
    assert np.array_equal(data.x_test, [[7], [0.7]])
    # MATLAB's labels 1, 2, 3 become 0, 1, 2
    assert data.y_train.tolist() == [0, 1, 2, 0, 1]
    assert data.y_test.tolist() == [2]
    assert data.classes.tolist() == [1, 2, 3]


def test_octave_v6_images():
    data = load_dataset(DATA / "octave_v6_images.mat", encoding=(0.0, -1.0))
    assert data.image_shape == (2, 3)
    # images(:, :, k) holds 6 (k-1) + [0 2 4; 1 3 5]; rows of an image follow one another
    pixels = np.array([0, 2, 4, 1, 3, 5])[:, None] + np.array([0, 6, 12])
    assert np.array_equal(data.x_train, (pixels / -255.0).astype(np.float32))
    assert data.y_train.tolist() == [0, 1, 0]
    assert data.classes.tolist() == [4, 9]


def test_samples_as_rows(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"x": X.T, "y": Y})
    assert np.array_equal(load_dataset(tmp_path / "a.mat", samples="rows").x_train, X)
    assert np.array_equal(load_dataset(tmp_path / "a.mat").x_train, X)  # Y says which
    with pytest.raises(ValueError, match=r"taken along columns, pass samples='rows'"):
        load_dataset(tmp_path / "a.mat", samples="columns")


def test_columns_vectors_of_labels(tmp_path):
    for y in (Y[None, :], Y[:, None]):
        scipy.io.savemat(tmp_path / "a.mat", {"X": X, "labels": y.astype(float)})
        assert np.array_equal(load_dataset(tmp_path / "a.mat").y_train, Y)


def test_targets(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"X": X, "Y": 2 * X})
    data = load_dataset(tmp_path / "a.mat", task="regression", dtype="float64")
    assert np.array_equal(data.y_train, 2 * X)
    scipy.io.savemat(tmp_path / "a.mat", {"X": X, "Y": X[1]}, oned_as="column")
    data = load_dataset(tmp_path / "a.mat", task="regression", dtype="float64")
    assert np.array_equal(data.y_train, X[1:])


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"sparse\.mat: variable x: .*; it is 3 x 3 sparse"):
        load_dataset(DATA / "octave_v7_sparse.mat")
    (tmp_path / "a.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"a\.mat: .*version 7\.3 .*'-v7'"):
        load_dataset(tmp_path / "a.mat")


def test_missing_variable_lists_what_is_there(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"foo": X, "y": Y})
    with pytest.raises(ValueError, match=r"no variable for x_train.* the file has foo, y"):
        load_dataset(tmp_path / "a.mat")


@pytest.mark.parametrize("name", ["octave_v7.mat", "octave_v6_images.mat"])
def test_damage_is_an_error_or_harmless(tmp_path, name):
    # scipy.io.loadmat (1.17.1) dies of a segmentation fault on some of the uncompressed ones.
    content = (DATA / name).read_bytes()
    rng = random.Random(0)
    path = tmp_path / "a.mat"
    messages = []
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            load_dataset(path)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert all(str(path) in message for message in messages)
