"""Small files that would become large ones: refused early, whatever they are packed in."""

import gzip
import io
import struct
import zipfile

import numpy as np
import pytest
from test_io import MEMORY, peak_memory
from test_mat5 import compressed, mat_file, mat_numeric

from snode import _expansion
from snode.datasets import load_dataset

MB = 10**6


def npy(shape, descr="|u1", body=b""):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * ((64 - (11 + len(header)) % 64) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def npz(path, x, y=None, method=zipfile.ZIP_DEFLATED):
    y = npy((3,), "<i8", struct.pack("<3q", 0, 1, 2)) if y is None else y
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("x_train.npy", x)
        archive.writestr("y_train.npy", y)
    return path


def idx(*shape, zeros):
    return struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape) + bytes(zeros)


def wide_npz(path):
    return npz(path / "a.npz", npy((3, 10 * MB), body=bytes(30 * MB)))


def long_npz(path):
    y = npy((30 * MB,), body=bytes(30 * MB))
    return npz(path / "a.npz", npy((30 * MB, 1), body=bytes(30 * MB)), y)


def npz_of_doubles(path):
    return npz(path / "a.npz", npy((3, MB), "<f8", bytes(24 * MB)))


def npz_of_labels(path):
    return npz(path / "a.npz", npy((3, 1), body=b"abc"), npy((3, 10 * MB), "|S1", bytes(30 * MB)))


def npz_of_text(path):
    return npz(path / "a.npz", npy((3, 1), body=b"abc"), npy((3,), "<U2000000", bytes(24 * MB)))


def lzma_npz(path):
    return npz(path / "a.npz", npy((3, MB), body=bytes(3 * MB)), method=zipfile.ZIP_LZMA)


def bzip2_npz(path):
    return npz(path / "a.npz", npy((3, 9 * MB), body=bytes(27 * MB)), method=zipfile.ZIP_BZIP2)


def idx_gz(path):
    (path / "a-labels.gz").write_bytes(gzip.compress(idx(3, zeros=3)))
    (path / "a-images.gz").write_bytes(gzip.compress(idx(3, 1000, 10_000, zeros=30 * MB)))
    return path / "a-images.gz"


def mat(path):
    x = compressed(mat_numeric("x", np.zeros((10, 2 * MB)), dtype="u1"))
    (path / "a.mat").write_bytes(mat_file(x, mat_numeric("y", np.arange(3.0))))
    return path / "a.mat"


def csv_gz(path):
    (path / "a.csv.gz").write_bytes(gzip.compress(b"1,2,0\n" * (5 * MB)))
    return path / "a.csv.gz"


def csv_gz_of_one_line(path):
    (path / "a.csv.gz").write_bytes(gzip.compress(b"1," * (15 * MB)))
    return path / "a.csv.gz"


def csv_gz_of_one_cell(path):
    (path / "a.csv.gz").write_bytes(gzip.compress(b"1" * (30 * MB)))
    return path / "a.csv.gz"


BOMBS = [
    wide_npz, long_npz, npz_of_doubles, npz_of_labels, npz_of_text, lzma_npz, bzip2_npz, idx_gz,
    mat, csv_gz, csv_gz_of_one_line, csv_gz_of_one_cell,
]  # fmt: skip


@pytest.mark.grid(3)
@pytest.mark.parametrize("make", BOMBS)
def test_bombs_are_refused_in_little_memory(tmp_path, make):
    path = make(tmp_path)
    assert path.stat().st_size < 100_000

    def load():
        with pytest.raises(ValueError, match=r"decompression bomb|NumPy does not use") as error:
            load_dataset(path)
        assert path.name in str(error.value)
        assert len(str(error.value)) < 1000
        raise error.value

    assert peak_memory(load, ValueError) < MEMORY


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_a_small_file_may_hold_takes_little_memory_too(tmp_path, dtype):
    """The largest that is read: no loop over a million features, no index for each pixel."""
    n = (_expansion.SMALL - 1000) // (3 * (1 + _expansion.NUMBER))
    path = npz(tmp_path / "a.npz", npy((3, n), body=bytes(3 * n)))
    found = []

    def load():
        found.append(load_dataset(path, dtype=dtype))
        raise ValueError

    assert peak_memory(load, ValueError) < 60e6
    assert found[0].x_train.shape == (n, 3)
    assert not found[0].x_train.any()


def test_data_that_shrink_well_are_read(tmp_path):
    """One-hot columns as doubles: 25 MB in a quarter of one, far below the limit."""
    y = np.random.default_rng(0).integers(0, 40, 80_000)
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.eye(40)[y], y=y)
    assert path.stat().st_size < 25.6e6 / 80
    assert np.array_equal(load_dataset(path).x_train.argmax(axis=0), y)


def test_what_is_not_compressed_has_no_limit(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((10, MB), np.uint8), y=np.arange(10))
    assert load_dataset(tmp_path / "a.npz").x_train.shape == (MB, 10)


def test_members_share_the_limit_of_their_file(tmp_path, monkeypatch):
    monkeypatch.setattr(_expansion, "SMALL", 300_000)
    monkeypatch.setattr(_expansion, "RATIO", 0)
    part = npy((3, 9000), body=bytes(27_000))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("x_train", "x_test"):
            archive.writestr(name + ".npy", part)
        for name in ("y_train", "y_test"):
            archive.writestr(name + ".npy", npy((3,), "|u1", b"\0\1\2"))
    (tmp_path / "a.npz").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match=r"variable x_test: .*decompression bomb"):
        load_dataset(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "header",
    [
        "-" * 9000 + "1\n",
        "(" * 9000 + "\n",
        "[" * 9000 + "]" * 900 + "\n",
        "{'descr':'<f8','fortran_order':False,'shape':(True,3)}\n",
        "{'descr':'<f8','fortran_order':False,'shape':(3,3),'shape':(3,1)}\n",
        "{'descr':'<f8','fortran_order':False}\n",
        "{'descr':'<f8','fortran_order':0,'shape':(3,1)}\n",
        "{'descr':(3,1),'fortran_order':False,'shape':(3,1)}\n",
        "{'descr':'<f8','fortran_order':False,'shape':3}\n",
        "{'descr':'<f8','fortran_order':False,'shape':(3,-1)}\n",
        "{'descr':'<f8','fortran_order':False,'shape':(9" + "9" * 5000 + ",)}\n",
        "{'descr':'<f8','fortran_order':False,'shape':(" + "9999999999," * 30 + ")}\n",
        "{'descr':'<f8','fortran_order':False,'shape':(" + "1," * 70 + ")}\n",
        "{'descr':'<f8','fortran_order':False,'shape':(1000000000000000000000,0)}\n",
        "{'descr':[('a','<f8')],'fortran_order':False,'shape':(3,)}\n",
        "{'descr':'<f3','fortran_order':False,'shape':(3,1)}\n",
        "{'descr':'S1000000000','fortran_order':False,'shape':(3,1)}\n",
        "{'descr':'S99999999999','fortran_order':False,'shape':(3,1)}\n",
        "{'descr':'<M8[s]','fortran_order':False,'shape':(3,1)}\n",
        "{'descr':'np.float64','fortran_order':False,'shape':(3,1)}\n",
        "{'descr': __import__('os').abort(), 'fortran_order':False,'shape':(3,1)}\n",
        "\x00" * 100,
        "",
    ],
)
def test_headers_of_arrays_are_matched_not_evaluated(tmp_path, header):
    raw = header.encode("latin-1")
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + bytes(24)
    path = npz(tmp_path / "a.npz", member)

    def load():
        with pytest.raises(ValueError, match=r"a\.npz: variable x_train: damaged") as error:
            load_dataset(path)
        assert len(str(error.value)) < 1000
        raise error.value

    assert peak_memory(load, ValueError) < MB


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 1), }",
        '{"shape": (3, 1), "descr": "<f8", "fortran_order": True}',
        "{'descr':'<f8','fortran_order':False,'shape':(3L,1L)}",  # Python 2
        "  {'descr': '=f8', 'fortran_order': False, 'shape': ( 3 , 1 , ), }  \n",
    ],
)
def test_other_spellings_of_a_header(tmp_path, header):
    body = np.array([1.0, 2.0, 3.0]).tobytes()
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + body
    assert load_dataset(npz(tmp_path / "a.npz", member)).x_train.tolist() == [[1.0, 2.0, 3.0]]


def test_arrays_come_back_in_both_orders(tmp_path):
    x = np.arange(24.0).reshape(4, 3, 2)
    for version, order in zip("abc", (x, np.asfortranarray(x), x[::-1]), strict=True):
        np.savez(tmp_path / f"{version}.npz", x=order, y=np.arange(4))
        data = load_dataset(tmp_path / f"{version}.npz", dtype="float64")
        assert np.array_equal(data.x_train.T, order.reshape(4, 6))


def test_a_variable_twice_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", npy((3, 1), body=b"abc"))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("x.npy", npy((3, 1), body=b"abc"))
    with pytest.raises(ValueError, match=r"a\.npz: has two variables of one name"):
        load_dataset(tmp_path / "a.npz")


def test_many_names_make_no_long_message(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for k in range(3000):
            archive.writestr(f"{'v' * 100}{k}.npy", b"")
    with pytest.raises(ValueError, match="and 2990 more") as error:
        load_dataset(tmp_path / "a.npz")
    assert len(str(error.value)) < 2000


def test_a_lying_directory_is_noticed(tmp_path):
    """The directory says that a member is smaller or larger than it is."""
    for lie in (100, 200_000):
        path = npz(tmp_path / "a.npz", npy((3, 1000), body=bytes(3000)))
        content = bytearray(path.read_bytes())
        place = content.index(b"PK\x01\x02") + 24
        content[place : place + 4] = struct.pack("<I", lie)
        path.write_bytes(content)
        with pytest.raises(ValueError, match="variable x_train: damaged"):
            load_dataset(path)


def test_a_damaged_stream_is_noticed(tmp_path):
    path = npz(tmp_path / "a.npz", npy((3, 1000), body=np.arange(3000).astype("u1").tobytes()))
    content = bytearray(path.read_bytes())
    content[200] ^= 0x55
    path.write_bytes(content)
    with pytest.raises(ValueError, match="variable x_train: damaged"):
        load_dataset(path)
