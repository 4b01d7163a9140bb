"""`.npz` files: names, orientation, and hostile or damaged archives."""

import io
import pickle
import struct
import zipfile

import numpy as np
import pytest

from snode.datasets import load_dataset

X = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
Y = np.array([0, 1, 1])


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_rows_become_columns(tmp_path):
    data = load_dataset(save(tmp_path / "a.npz", x_train=X, y_train=Y, x_test=X + 1, y_test=Y))
    assert np.array_equal(data.x_train, X.T)
    assert np.array_equal(data.x_test, X.T + 1)
    assert data.x_train.dtype == np.float32
    assert data.x_train.flags.c_contiguous
    assert data.name == "a"
    assert data.encoding == (0.0, 1.0)


def test_columns_stay_columns(tmp_path):
    data = load_dataset(save(tmp_path / "a.npz", x=X.T, y=Y), samples="columns")
    assert np.array_equal(data.x_train, X.T)


@pytest.mark.parametrize("names", [("x", "y"), ("X", "labels"), ("Xtrain", "ytrain")])
def test_other_names(tmp_path, names):
    path = save(tmp_path / "a.npz", **dict(zip(names, (X, Y), strict=True)), extra=np.ones(3))
    assert np.array_equal(load_dataset(path).x_train, X.T)


def test_compressed_and_big_endian(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=X.astype(">f8"), y=Y.astype(">i2"))
    data = load_dataset(tmp_path / "a.npz", dtype="float64")
    assert np.array_equal(data.x_train, X.T)
    assert data.x_train.dtype.isnative
    assert np.array_equal(data.y_train, Y)


def test_images_are_flattened_row_by_row(tmp_path):
    images = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
    data = load_dataset(save(tmp_path / "a.npz", x=images, y=np.arange(4)))
    assert data.image_shape == (2, 3)
    assert np.allclose(255 * data.x_train[:, 1], np.arange(6, 12), atol=1e-5)
    moved = np.moveaxis(images, 0, -1)
    other = load_dataset(save(tmp_path / "b.npz", x=moved, y=np.arange(4)), samples="columns")
    assert np.array_equal(other.x_train, data.x_train)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, "no variable for y_train; looked for .*labels; the file has x"),
        ({"y": Y}, "no variable for x_train"),
        ({}, "the file has none"),
        ({"x": X, "X": X, "y": Y}, "both x and X could be x_train"),
        ({"x": X, "y": Y, "x_test": X}, "has x_test but no y_test"),
        ({"x": X, "y": Y, "y_test": Y}, "has y_test but no x_test"),
        ({"x": X, "y": Y[:1]}, r"3 samples .*y_train has shape \(1,\).*samples='columns'"),
        ({"x": X.T, "y": Y, "x_test": X, "y_test": Y}, r"2 samples .*pass samples='columns'"),
        ({"x": X[0], "y": Y}, r"features \(m, n\) or images"),
        ({"x": X[:0], "y": Y[:0]}, r"got shape \(0, 2\)"),
        ({"x": X, "y": Y, "x_test": X[:, :1], "y_test": Y}, r"shape \(1,\), those of x_train"),
        ({"x": X, "y": Y, "x_test": X.astype(np.uint8), "y_test": Y}, "both must be uint8"),
        ({"x": X.astype(complex), "y": Y}, "real numbers; got complex128"),
        ({"x": X.astype(str), "y": Y}, "real numbers; got <U"),
        ({"x": X, "y": np.array([b"a", b"b", b"c"])}, "integers or strings; got |S1"),
    ],
)
def test_wrong_content_is_named(tmp_path, arrays, message):
    path = save(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message) as error:
        load_dataset(path)
    assert str(path) in str(error.value)


class Bomb:
    """Unpickling this would be noticed."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def test_object_arrays_are_refused_unread(tmp_path):
    objects = np.array([Bomb(), Bomb(), Bomb()], dtype=object)
    path = tmp_path / "a.npz"
    np.savez(path, x=X, y=objects, allow_pickle=True)
    with pytest.raises(ValueError, match=r"a\.npz: variable y: .*pickle.*never loaded"):
        load_dataset(path)


def test_a_bare_pickle_is_refused_unread(tmp_path):
    (tmp_path / "a.npz").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="looks like a pickle"):
        load_dataset(tmp_path / "a.npz")


def test_a_single_npy_is_explained(tmp_path):
    np.save(tmp_path / "a.npy", X)
    with pytest.raises(ValueError, match=r"one \.npy array: save x_train and y_train together"):
        load_dataset(tmp_path / "a.npy")


def npy(header, body=b""):
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def write_zip(path, compression=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name + ".npy", content)
    return path


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (npy(b"{'descr':'<f8','fortran_order':False,'shape':(1000000000000,8)}\n"), "needs 64"),
        (npy(b"{'descr':'<f8','fortran_order':False,'shape':(-1,-1)}\n", bytes(8)), "shape"),
        (npy(b"{'descr':'<U0','fortran_order':False,'shape':(9999999,)}\n"), "shape"),
        (npy(b"{'descr':'<f8','fortran_order':False,'shape':(2,2)}\n", bytes(31)), "has 31"),
        (npy(b"__import__('os').abort()\n"), "damaged"),
        (npy(b"{'descr':'|O','fortran_order':False,'shape':(1,)}\n", b"x"), "pickle"),
        (b"\x93NUMPY\x09\x00", "version"),
        (b"not an array", "damaged"),
        (b"", "damaged"),
    ],
)
def test_lying_members(tmp_path, member, message):
    path = write_zip(tmp_path / "a.npz", x=member, y=member)
    with pytest.raises(ValueError, match=message):
        load_dataset(path)


def test_claimed_size_beyond_compression_is_refused(tmp_path):
    path = write_zip(tmp_path / "a.npz", zipfile.ZIP_DEFLATED, x=bytes(100), y=bytes(100))
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = struct.pack("<I", 2**31)  # uncompressed size
    path.write_bytes(content)
    with pytest.raises(ValueError, match="claims 2147483648 bytes"):
        load_dataset(path)


def test_every_truncation_is_an_error(tmp_path):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=X, y=Y)
    content = buffer.getvalue()
    path = tmp_path / "a.npz"
    for cut in range(0, len(content), 7):
        path.write_bytes(content[:cut])
        with pytest.raises(ValueError, match=r"a\.npz: not an \.npz file"):
            load_dataset(path)


def test_a_flipped_bit_is_noticed(tmp_path):
    path = save(tmp_path / "a.npz", x=X, y=Y)
    content = bytearray(path.read_bytes())
    content[content.index(X.tobytes()) + 3] ^= 4
    path.write_bytes(content)
    with pytest.raises(ValueError, match="variable x: damaged"):
        load_dataset(path)
