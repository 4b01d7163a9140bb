"""`.mat` files: from Octave, from SciPy, and damaged ones."""

import io
import random
import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from snode.datasets import load_dataset
from snode.datasets.mat import read_variable, scan_variables

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
    with pytest.raises(ValueError, match=r"taken along columns, pass samples='rows'"):
        load_dataset(tmp_path / "a.mat")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    "values",
    [
        *(np.arange(6).reshape(2, 3).astype(code) for code in np.typecodes["AllInteger"]),
        np.array([[-1.5, 2.0, np.inf]]),
        np.array([[-1.5, 2.0, 0.1]], np.float32),
        np.array([[True, False, True]]),
        np.arange(24, dtype=np.int16).reshape(2, 3, 4),
        np.ones((200, 300)),
        np.zeros((0, 3)),
        np.array([[2**63 - 1, -(2**63)]]),
    ],
    ids=lambda values: f"{values.dtype}{values.shape}",
)
def test_agrees_with_scipy(tmp_path, values, compressed):
    path = tmp_path / "a.mat"
    content = {"before": np.ones(3), "value": values, "after": "text"}
    scipy.io.savemat(path, content, do_compression=compressed)
    read = read_variable(path, "value", scan_variables(path)["value"])
    assert np.array_equal(read, scipy.io.loadmat(path)["value"])
    assert read.dtype == values.dtype


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


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.array([["a", 1]], dtype=object), "cell"),
        ({"field": 1.0}, "struct"),
        ("text", "char"),
        (X + 1j, "complex"),
    ],
)
def test_other_kinds_are_named(tmp_path, value, kind):
    scipy.io.savemat(tmp_path / "a.mat", {"x": value, "y": Y})
    with pytest.raises(ValueError, match=rf"variable x: .* of kind {kind}"):
        load_dataset(tmp_path / "a.mat")


def test_sparse_is_named():
    with pytest.raises(ValueError, match=r"variable x: .* of kind sparse"):
        load_dataset(DATA / "octave_v7_sparse.mat")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n", "'-v7'"),
        (b" " * 512 + b"\x89HDF\r\n\x1a\n" + bytes(100), "version 7.3"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "version 7.3"),
        (b"# Created by Octave 7.3.0\n# name: x\n", "Octave's text format; save it again"),
        (b"", "version 5 to 7"),
        (bytes(200), "version 5 to 7"),
        (b"PK\x03\x04" + bytes(200), "version 5 to 7"),
    ],
)
def test_other_versions_say_what_to_do(tmp_path, content, message):
    path = tmp_path / "a.mat"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        load_dataset(path)
    assert str(path) in str(error.value)


def test_missing_variable_lists_what_is_there(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"foo": X, "y": Y})
    with pytest.raises(ValueError, match=r"no variable for x_train.* the file has foo, y"):
        load_dataset(tmp_path / "a.mat")


@pytest.mark.parametrize("compressed", [False, True])
def test_truncation_is_an_error(tmp_path, compressed):
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"x": X, "y": Y}, do_compression=compressed)
    content = buffer.getvalue()
    path = tmp_path / "a.mat"
    for cut in range(0, len(content), 5):
        path.write_bytes(content[:cut])
        with pytest.raises(ValueError, match=r"a\.mat"):
            load_dataset(path)


def test_a_wrong_checksum_is_noticed(tmp_path):
    buffer = io.BytesIO()
    x = np.random.default_rng(0).random((300, 3))  # larger than what is read to find its name
    scipy.io.savemat(buffer, {"y": Y, "x": x}, do_compression=True)
    content = bytearray(buffer.getvalue())
    content[-1] ^= 1  # in the checksum of the last variable
    path = tmp_path / "a.mat"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"variable x: .*incorrect data check"):
        load_dataset(path)


@pytest.mark.parametrize("shape", [(2, 4), (2, 2), (2**31 - 1, 2**31 - 1), (-2, -3)])
def test_wrong_dimensions_are_noticed(tmp_path, shape):
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"x": X, "y": Y})
    right, wrong = struct.pack("<2i", 2, 3), struct.pack("<2i", *shape)
    path = tmp_path / "a.mat"
    path.write_bytes(buffer.getvalue().replace(right, wrong, 1))
    with pytest.raises(ValueError, match=r"shape \(.*but 48 bytes|wrong dimensions \(-2, -3\)"):
        load_dataset(path)


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
