"""The reader of MATLAB 5 files: it agrees with SciPy, and nothing hostile comes in."""

import io
import struct
import zlib

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from test_io import MEMORY, damaged, peak_memory

from snode import _expansion
from snode._mat5 import MatFile, MatFileError

# --- files to read --------------------------------------------------------------------------------


def element(kind, payload, order="<"):
    return struct.pack(order + "II", kind, len(payload)) + payload + b"\0" * (-len(payload) % 8)


def mat_array(name, class_, shape, *parts, order="<", flags=0):
    """One array of a MATLAB 5 file."""
    head = element(6, struct.pack(order + "II", class_ | flags, 0), order)
    head += element(5, struct.pack(f"{order}{len(shape)}i", *shape), order)
    return element(14, head + element(1, name.encode(), order) + b"".join(parts), order)


def mat_numeric(name, value, *, order="<", dtype="f8", class_=6, flags=0):
    kind = {"i1": 1, "u1": 2, "i2": 3, "f4": 7, "f8": 9}[dtype]
    value = np.atleast_2d(value)
    data = element(kind, value.astype(order + dtype).tobytes("F"), order)
    return mat_array(name, class_, value.shape, data, order=order, flags=flags)


def mat_text(name, text, order="<"):
    codec = "utf-16-le" if order == "<" else "utf-16-be"
    return mat_array(name, 4, (1, len(text)), element(4, text.encode(codec), order), order=order)


def mat_cell(name, values, shape=None, order="<", **options):
    parts = [mat_numeric("", value, order=order, **options) for value in values]
    return mat_array(name, 1, shape or (1, len(values)), *parts, order=order)


def compressed(raw, order="<", lost=0):
    data = zlib.compress(raw)
    data = data[: len(data) - lost]
    return struct.pack(order + "II", 15, len(data)) + data


def mat_file(*variables, order="<"):
    mark = b"IM" if order == "<" else b"MI"
    head = b"MATLAB 5.0 MAT-file".ljust(116) + b"\0" * 8 + struct.pack(order + "H", 0x0100) + mark
    return head + b"".join(variables)


def nested_cells(name, depth):
    head = mat_array(name, 1, (1, 1))[8:]
    sizes = [(len(head) + 8) * level for level in range(depth, 0, -1)]
    return b"".join(struct.pack("<II", 14, size) + head for size in sizes) + element(14, b"")


# --- what it reads --------------------------------------------------------------------------------


def mat(content):
    return MatFile(io.BytesIO(content))


def saved(variables, **options):
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables, **options)
    return buffer.getvalue()


X = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.5]])
CELLS = [np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.0, 6.0], [7.0, 8.0]])]


@pytest.mark.parametrize("compression", [False, True])
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
def test_agrees_with_scipy(values, compression):
    content = saved(
        {"before": np.ones(3), "value": values, "after": "text"}, do_compression=compression
    )
    read = mat(content).array("value")
    assert np.array_equal(read, scipy.io.loadmat(io.BytesIO(content))["value"])
    assert read.dtype == values.dtype
    assert mat(content).shape("value") == values.shape


@pytest.mark.parametrize("pack", [lambda raw, order: raw, compressed])
@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders(order, pack):
    variables = (
        mat_numeric("x", X, order=order),
        mat_text("text", "tanh", order),
        mat_cell("cell", CELLS, order=order),
    )
    file = mat(mat_file(*(pack(raw, order) for raw in variables), order=order))
    assert list(file.names) == ["x", "text", "cell"]
    assert np.array_equal(file.array("x"), X)
    assert file.array("x").dtype.isnative
    assert file.text("text") == "tanh"
    assert np.array_equal(file.cell("cell"), CELLS)
    assert file.shape("cell") == (1, 2)


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({"dtype": "u1"}, "float64"),  # MATLAB stores whole doubles in the smallest type
        ({"dtype": "f4"}, "float64"),
        ({"dtype": "i2", "class_": 10}, "int16"),
        ({"dtype": "u1", "class_": 10}, "int16"),
        ({"dtype": "f4", "class_": 7}, "float32"),
        ({"dtype": "u1", "class_": 7}, "float32"),
        ({"dtype": "u1", "class_": 9, "flags": 0x0200}, "bool"),
    ],
)
def test_number_types(options, dtype):
    values = np.array([[0, 1], [1, 0]])
    file = mat(mat_file(mat_numeric("x", values, **options), mat_cell("c", [values], **options)))
    for read in (file.array("x"), *file.cell("c")):
        assert read.dtype == dtype
        assert np.array_equal(read, values)


def test_a_cell_may_be_a_column():
    assert np.array_equal(mat(mat_file(mat_cell("x", CELLS, (2, 1)))).cell("x"), CELLS)


def test_signalling_nan():
    raw = mat_array("x", 6, (1, 2), element(7, struct.pack("<II", 0x7F800001, 0xFFC00000)))
    assert np.isnan(mat(mat_file(raw)).array("x")).all()


@pytest.mark.parametrize(
    ("kind", "codec"), [(1, "ascii"), (2, "latin-1"), (4, "utf-16-le"), (16, "utf-8"),
                        (17, "utf-16-le"), (18, "utf-32-le")]
)  # fmt: skip
def test_texts(kind, codec):
    text = "relu" if codec == "ascii" else "reé"
    raw = mat_array("x", 4, (1, len(text)), element(kind, text.encode(codec)))
    assert mat(mat_file(raw)).text("x") == text
    assert mat(mat_file(mat_array("x", 4, (0, 0), element(16, b"")))).text("x") == ""


def test_unrelated_variables_are_skipped():
    opaque = element(14, element(6, struct.pack("<II", 17, 0)) + element(1, b"s") + b"?" * 64)
    struct_ = mat_array("option", 2, (1, 1), element(5, b"garbage!"))
    bomb = compressed(mat_array("junk", 6, (1, 2**21), element(9, bytes(2**24))))
    small_name = struct.pack("<HH4s", 1, 2, b"xy\0\0")
    small = element(14, mat_array("", 6, (0, 0))[8:-8] + small_name + element(9, b""))
    workspace = mat_array("", 9, (1, 8), element(2, b"?" * 8))
    file = mat(
        mat_file(opaque, compressed(opaque.replace(b"s", b"t", 1)), struct_, bomb, small,
                 workspace, workspace, mat_numeric("T", 2.0), compressed(mat_numeric("u", 3.0)))
    )  # fmt: skip
    assert list(file.names) == ["s", "t", "option", "junk", "xy", "T", "u"]
    assert (file.array("T"), file.array("u")) == (2.0, 3.0)
    with pytest.raises(MatFileError, match=r"variable s: must be a full real array; it is .*17"):
        file.array("s")


# --- what it refuses ------------------------------------------------------------------------------


def version_4(order, first):
    return struct.pack(order + "5I", first, 1, 1, 0, 2) + b"x\0" + bytes(200)


def x(class_, shape, *parts):
    return mat_array("x", class_, shape, *parts)


array, cell, text = MatFile.array, MatFile.cell, MatFile.text
HDF5, ONE = b"\x89HDF\r\n\x1a\n", (1, 1)
VALID = mat_file(mat_numeric("x", X), compressed(mat_cell("c", CELLS)))
LONG = mat_numeric("x", np.random.default_rng(0).random(1000))
FILES = {
    "empty": (b"", "not a MATLAB file of version 5 to 7"),
    "zeros": (bytes(200), "not a MATLAB file of version 5 to 7"),
    "text": (b"hello" * 100, "not a MATLAB file"),
    "zip": (b"PK\x03\x04" + bytes(200), "not a MATLAB file"),
    "octave text": (b"# Created by Octave 7.3.0\n", "Octave's text format; save it again with -v7"),
    "v7.3": (b"MATLAB 7.3 MAT-file".ljust(512) + HDF5, "version 7.3 .* again with -v7: .*'-v7'"),
    "HDF5": (HDF5 + bytes(600), "version 7.3 .*save it again with -v7"),
    "HDF5 after a block": (b" " * 512 + HDF5 + bytes(100), "version 7.3"),
    "v4": (version_4("<", 0), "version 4 file, which is not supported; save it again with -v7"),
    "v4 big-endian": (version_4(">", 1000), "version 4 file"),
    "v4 by SciPy": (saved({"x": X, "text": "abc"}, format="4"), "version 4 file"),
    "truncated": (VALID[:-1], "truncated"),
    "truncated variable": (VALID[:200], "truncated"),
    "cut tag": (VALID + b"\0" * 4, "truncated"),
    "not a variable": (mat_file(element(9, bytes(8))), "element of type 9"),
    "not compressed": (mat_file(struct.pack("<II", 15, 64) + b"x" * 64), "decompress"),
    "repeated": (mat_file(mat_numeric("T", 1.0), mat_numeric("T", 2.0)), "two variables 'T'"),
    "bomb in a bomb": (mat_file(compressed(compressed(mat_numeric("x", X)))), "damaged"),
    "empty variable": (mat_file(element(14, b"")), "must begin with its flags"),
    "no dimensions": (mat_file(element(14, x(6, ONE)[8:24])), r"wrong dimensions \(\)"),
    "negative dimensions": (mat_file(x(6, (-2, -3))), r"wrong dimensions \(-2, -3\)"),
    "one dimension": (mat_file(x(6, (3,))), r"wrong dimensions \(3,\)"),
    "many dimensions": (mat_file(x(6, (1,) * 33)), "wrong dimensions"),
    "packed": (mat_file(element(14, struct.pack("<HHI", 6, 5, 0))), "packed element claims 5"),
}
VARIABLES = {
    "array for a cell": (cell, mat_numeric("x", X), "must be a 1 x K cell; it is 2 x 3 numeric"),
    "cell is a matrix": (cell, mat_cell("x", CELLS * 2, (2, 2)), "K cell; it is 2 x 2 cell"),
    "empty cell": (cell, mat_cell("x", [], (1, 0)), "must be a 1 x K cell; it is 1 x 0 cell"),
    "cell of three dimensions": (cell, mat_cell("x", CELLS, (2, 1, 1)), "it is 2 x 1 x 1 cell"),
    "cell with too few": (cell, mat_cell("x", CELLS, (1, 3)), "2 entries of 3"),
    "cell with too many": (cell, mat_cell("x", CELLS, ONE), "2 entries of 1"),
    "huge cell": (cell, mat_cell("x", CELLS, (1, 2**31 - 1)), "2 entries of 2147483647"),
    "empty entry": (cell, x(1, ONE, element(14, b"")), "entry 1: is empty"),
    "entry that is no array": (cell, x(1, ONE, element(9, bytes(8))), "entry 1: is empty"),
    "text entry": (cell, x(1, ONE, mat_text("", "hello")), "entry 1: must be .* 1 x 5 char"),
    "cell in a cell": (cell, x(1, ONE, mat_cell("", CELLS)), "entry 1: must be .* 1 x 2 cell"),
    "complex entry": (cell, mat_cell("x", CELLS, flags=0x0800), "entry 1: .* 2 x 2 complex"),
    "unknown class": (array, x(99, ONE), "must be a full real array; it is 1 x 1 class 99"),
    "fewer values": (array, x(6, (2, 4), element(9, bytes(48))), r"shape \(2, 4\), but 48 bytes"),
    "more values": (array, x(6, (2, 2), element(9, bytes(48))), r"shape \(2, 2\), but 48 bytes"),
    "huge shape": (array, x(6, (2**31 - 1,) * 2, element(9, bytes(48))), "but 48 bytes of float64"),
    "empty and huge": (array, x(6, (0, *[2**31 - 1] * 9), element(9, b"")), ""),
    "no values": (array, x(6, ONE), "values of type 0"),
    "values of an unknown type": (array, x(6, ONE, element(8, bytes(8))), "values of type 8"),
    "fractions as integers": (array, mat_numeric("x", X, class_=12), "int32 stored as float64"),
    "doubles as singles": (array, mat_numeric("x", X, class_=7), "float32 stored as float64"),
    "values cut": (array, x(6, ONE, struct.pack("<II", 9, 2**31)), "truncated"),
    "number for a text": (text, mat_numeric("x", 1.0), "a short text; it is 1 x 1 numeric"),
    "handle for a text": (text, x(16, ONE), "a short text; it is 1 x 1 function handle"),
    "long text": (text, mat_text("x", "x" * 10**5), "a short text; it is 1 x 100000 char"),
    "text of two rows": (text, x(4, (2, 2)), "must be a short text; it is 2 x 2 char"),
    "text of numbers": (text, x(4, ONE, element(9, bytes(8))), "text of type 9"),
    "text of half a letter": (text, x(4, ONE, element(4, b"\xd8\xd8")), "'utf-16"),
    "compressed, cut": (array, compressed(mat_numeric("x", 1.0), lost=5), "64 bytes are expected"),
    "compressed, half": (array, compressed(LONG, lost=500), "8056 bytes are expected"),
    "compressed number": (array, compressed(element(9, x(6, ONE)[8:])), "element of type 9"),
    "more than claimed": (array, compressed(LONG + b"\0"), "8056 bytes are expected"),
    "less than claimed": (array, compressed(LONG[:5000]), "8056 bytes are expected"),
    "more claimed than possible": (
        cell,
        compressed(struct.pack("<II", 14, 2**30) + mat_cell("x", CELLS)[8:]),
        "claims 1073741824 bytes",
    ),
    "more than the shape needs": (array, compressed(x(6, ONE, bytes(2**20))), "claims 1048624"),
}


@pytest.mark.parametrize("case", FILES)
def test_file_is_refused_by_name(case):
    content, message = FILES[case]
    with pytest.raises(MatFileError, match=message) as caught:
        mat(content)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("case", VARIABLES)
def test_variable_is_refused_by_name(case):
    read, raw, message = VARIABLES[case]
    with pytest.raises(MatFileError, match=f"variable x: .*{message}") as caught:
        read(mat(mat_file(raw)), "x")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.array([["a", 1]], dtype=object), "1 x 2 cell"),
        ({"field": 1.0}, "1 x 1 struct"),
        ("text", "1 x 4 char"),
        (X + 1j, "2 x 3 complex"),
        (scipy.sparse.csc_array(X), "2 x 3 sparse"),
    ],
)
def test_kinds_that_scipy_writes(value, kind):
    with pytest.raises(MatFileError, match=f"variable x: must be a full real array; it is {kind}"):
        mat(saved({"x": value})).array("x")


def test_a_wrong_checksum_is_noticed():
    x = np.random.default_rng(0).random((300, 3))  # larger than what is read to find its name
    content = bytearray(saved({"y": 1.0, "x": x}, do_compression=True))
    content[-1] ^= 1  # in the checksum of the last variable
    with pytest.raises(MatFileError, match=r"variable x: .*incorrect data check"):
        mat(content).array("x")


@pytest.mark.parametrize(("read", "class_"), [(array, 4), (text, 4), (text, 6), (cell, 6)])
def test_bomb_of_another_kind_costs_little_memory(read, class_):
    content = mat_file(compressed(x(class_, (1, 2**25), element(2, bytes(2**25)))))
    assert peak_memory(lambda: read(mat(content), "x"), MatFileError) < 1e6


@pytest.mark.parametrize("shrink", [bytes, compressed])
def test_deeply_nested_cells(shrink):
    """A reader that calls itself for every level runs out of stack here."""
    content = mat_file(shrink(nested_cells("x", 100_000)))
    assert peak_memory(lambda: mat(content).cell("x"), MatFileError) < MEMORY


@pytest.mark.parametrize(
    ("read", "raw"),
    [
        (cell, mat_cell("x", [np.zeros((100, 100))] * 20)),  # 1.6 MB
        (array, mat_numeric("x", np.zeros((1, 2 * 10**5)), dtype="u1")),  # become 1.6 MB
        (cell, mat_cell("x", [np.zeros((0, 0))] * 500)),  # 32 kB, but many objects
    ],
)
def test_what_a_small_file_may_expand_to_is_limited(read, raw, monkeypatch):
    content = mat_file(compressed(raw))
    read(mat(content), "x")
    monkeypatch.setattr(_expansion, "SMALL", 2 * 10**6)
    with pytest.raises(MatFileError, match=r"expands far beyond .* save it with -v6"):
        read(mat(content), "x")


def test_advice_to_save_without_compression_helps(monkeypatch):
    monkeypatch.setattr(_expansion, "SMALL", 10**6)
    cells = [np.zeros((100, 100))] * 20
    assert np.array_equal(mat(mat_file(mat_cell("x", cells))).cell("x"), cells)


# --- fuzzing --------------------------------------------------------------------------------------


def outcomes(content):
    """Yield whether each way to read each variable succeeds, or that of opening the file."""
    try:
        file = mat(content)
    except MatFileError:
        yield False
        return
    for name in file.names:
        for read in (file.array, file.text, file.cell):
            try:
                read(name)
                yield True
            except MatFileError as error:
                assert len(str(error)) < 2000  # noqa: PT017
                yield False


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("pack", [lambda raw, order: raw, compressed])
def test_damaged_files_are_read_or_refused(order, pack):
    variables = (
        mat_numeric("x", X, order=order),
        mat_numeric("y", X, order=order, dtype="f4", class_=7),
        mat_numeric("n", [[1, 0]], order=order, dtype="u1", class_=9, flags=0x0200),
        mat_text("text", "tanh", order),
        mat_cell("cell", CELLS, order=order),
    )
    content = mat_file(*(pack(raw, order) for raw in variables), order=order)
    found = [ok for raw in damaged(content, 500, 1) for ok in outcomes(raw)]
    assert {True, False} == set(found)


@pytest.mark.parametrize("compression", [False, True])
def test_truncation_is_always_noticed(compression):
    content = saved({"x": X, "y": np.arange(3)}, do_compression=compression)
    assert len(mat(content).names) == 2
    whole = {128, 128 + 8 + struct.unpack("<I", content[132:136])[0]}  # between variables
    for cut in set(range(len(content))) - whole:
        with pytest.raises(MatFileError):
            mat(content[:cut])
