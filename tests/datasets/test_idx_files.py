"""IDX files: every element type, gzip, names, and files that lie about themselves."""

import gzip
import struct
import time
import tracemalloc

import numpy as np
import pytest

from snode.datasets import load_dataset
from snode.datasets.idx import read_idx

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
PIXELS = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
LABELS = np.array([0, 1, 1, 2], np.uint8)


def idx(values):
    head = struct.pack(">4B", 0, 0, CODES[values.dtype.str[1:]], values.ndim)
    sizes = struct.pack(f">{values.ndim}I", *values.shape)
    return head + sizes + values.astype(values.dtype.newbyteorder(">")).tobytes()


def write(path, content, zipped=False):
    path.write_bytes(gzip.compress(content) if zipped else content)
    return path


def write_pair(folder, prefix="train", separator="-", suffix="", images=PIXELS, labels=LABELS):
    write(folder / f"{prefix}-images{separator}idx3-ubyte{suffix}", idx(images), bool(suffix))
    write(folder / f"{prefix}-labels{separator}idx1-ubyte{suffix}", idx(labels), bool(suffix))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("code", CODES)
def test_every_element_type(tmp_path, code, zipped):
    values = np.array([[1, 2, 3], [100, 5, 6]]).astype(code)
    read = read_idx(write(tmp_path / "a", idx(values), zipped))
    assert read.dtype == np.dtype(code)
    assert np.array_equal(read, values)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("separator", ["-", "."])
@pytest.mark.parametrize("test_prefix", ["t10k", "test"])
def test_folder(tmp_path, separator, suffix, test_prefix):
    write_pair(tmp_path, "train", separator, suffix)
    write_pair(tmp_path, test_prefix, separator, suffix, images=PIXELS[:2], labels=LABELS[:2])
    data = load_dataset(tmp_path, encoding=(0.0, -1.0), dtype="float64", name="mine")
    assert np.array_equal(data.x_train, PIXELS.reshape(4, 6).T / -255.0)
    assert np.array_equal(data.x_test, PIXELS[:2].reshape(2, 6).T / -255.0)
    assert data.image_shape == (2, 3)
    assert data.n_classes == 3
    assert data.name == "mine"


def test_folder_without_test_files(tmp_path):
    write_pair(tmp_path)
    data = load_dataset(str(tmp_path))
    assert data.x_test is None
    assert data.name == tmp_path.name


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_single_file_finds_its_labels(tmp_path, suffix):
    write_pair(tmp_path, "letters-train", suffix=suffix)
    data = load_dataset(tmp_path / f"letters-train-images-idx3-ubyte{suffix}")
    assert np.array_equal(data.y_train, LABELS)
    assert data.x_test is None
    # by default pixels become intensities
    assert np.array_equal(data.x_train, (PIXELS.reshape(4, 6).T / 255.0).astype(np.float32))


def test_gzipped_images_beside_plain_labels(tmp_path):
    write(tmp_path / "a-images.gz", idx(PIXELS), zipped=True)
    write(tmp_path / "a-labels", idx(LABELS))
    assert load_dataset(tmp_path / "a-images.gz").n_classes == 3


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte and"):
        load_dataset(tmp_path)
    write(tmp_path / "train-images-idx3-ubyte", idx(PIXELS))
    with pytest.raises(FileNotFoundError, match="file of labels that belongs to it is missing"):
        load_dataset(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"labels file .*train-labels-idx1-ubyte is"):
        load_dataset(tmp_path / "train-images-idx3-ubyte")
    write(tmp_path / "train-labels-idx1-ubyte", idx(LABELS))
    write(tmp_path / "t10k-labels-idx1-ubyte", idx(LABELS))
    with pytest.raises(FileNotFoundError, match=r"t10k.*file of images"):
        load_dataset(tmp_path)


def test_images_and_labels_must_match(tmp_path):
    write_pair(tmp_path, labels=LABELS[:3])
    with pytest.raises(ValueError, match=r"images-idx3-ubyte has 4 samples but .* has 3 labels"):
        load_dataset(tmp_path)
    write_pair(tmp_path, images=LABELS)
    with pytest.raises(ValueError, match="expected images"):
        load_dataset(tmp_path)
    write_pair(tmp_path, labels=PIXELS)
    with pytest.raises(ValueError, match="expected labels"):
        load_dataset(tmp_path)


def test_a_labels_file_alone_is_refused(tmp_path):
    write_pair(tmp_path)
    with pytest.raises(ValueError, match="expected images"):
        load_dataset(tmp_path / "train-labels-idx1-ubyte")
    with pytest.raises(ValueError, match="must contain 'images'"):
        load_dataset(write(tmp_path / "pictures", idx(PIXELS)))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("cut", [1, 3, 8, 15, 16, 20, 39])
def test_truncated(tmp_path, cut, zipped):
    path = write(tmp_path / "a", idx(PIXELS)[:cut], zipped)
    with pytest.raises(ValueError, match=r"a: (truncated IDX|not an IDX)"):
        read_idx(path)


@pytest.mark.parametrize("zipped", [False, True])
def test_trailing_bytes(tmp_path, zipped):
    path = write(tmp_path / "a", idx(PIXELS) + b"x", zipped)
    with pytest.raises(ValueError, match="need 24 bytes of data, found more"):
        read_idx(path)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"\x00\x00\x0a\x03", "got 00 00 0a 03"),
        (b"\x01\x00\x08\x03", "got 01 00 08 03"),
        (b"", "got nothing"),
        (b"\x00\x00\x08\x00", "1 to 3 dimensions; got 0"),
        (b"\x00\x00\x08\xff", "1 to 3 dimensions; got 255"),
    ],
)
def test_wrong_magic(tmp_path, head, message):
    with pytest.raises(ValueError, match=message):
        read_idx(write(tmp_path / "a", head + idx(PIXELS)[4:] if head else head))


@pytest.mark.parametrize("cut", [5, 20, -9, -1])
def test_truncated_gzip(tmp_path, cut):
    path = write(tmp_path / "a", gzip.compress(idx(PIXELS))[:cut])
    with pytest.raises(ValueError, match=r"a: (damaged gzip|truncated)"):
        read_idx(path)


def test_damaged_gzip(tmp_path):
    content = bytearray(gzip.compress(idx(PIXELS)))
    content[-6] ^= 1  # in the checksum
    with pytest.raises(ValueError, match="damaged gzip file"):
        read_idx(write(tmp_path / "a", bytes(content)))


@pytest.mark.parametrize("zipped", [False, True])
def test_huge_sizes_in_the_header_cost_nothing(tmp_path, zipped):
    content = struct.pack(">4B3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1)
    path = write(tmp_path / "a", content + bytes(30_000_000 if zipped else 100), zipped)
    with pytest.raises(ValueError, match="truncated IDX file or wrong header"):
        measured(read_idx, path)


def test_gzip_bomb_is_read_no_further_than_its_header_says(tmp_path):
    content = struct.pack(">4B1I", 0, 0, 8, 1, 1000) + bytes(30_000_000)
    path = write(tmp_path / "a", content, zipped=True)
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match="found more"):
        measured(read_idx, path)


def measured(function, *args):
    """Call and assert that it took under 1 s and 5 MB."""
    start = time.perf_counter()
    tracemalloc.start()
    try:
        return function(*args)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 5e6
        assert time.perf_counter() - start < 1.0
