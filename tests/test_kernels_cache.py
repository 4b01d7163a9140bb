"""The compiled kernels' cache: damaged, full, read-only, absent; and Numba switched off."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import snode
from snode import _kernels

TINY = """
def double(a, out):
    for i in range(a.size):
        out[i] = 2 * a[i]
"""


class Tiny:
    """One small kernel of a module of its own, with a cache in a folder."""

    def __init__(self, folder, monkeypatch, cache="cache"):
        self.folder = folder / cache
        (folder / "tiny.py").write_text(TINY)
        self.source = folder / "tiny.py"
        monkeypatch.setattr(_kernels._config, "CACHE_DIR", str(self.folder))
        monkeypatch.setattr(_kernels, "_reported", [])

    def run(self, dtype="float64"):
        """Return the kernel, made and called as in a new process."""
        spec = importlib.util.spec_from_file_location("tiny", self.source)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        _kernels._reported.clear()
        kernel, out = _kernels._kernel(module.double), np.zeros(3, dtype)
        kernel(np.arange(3, dtype=dtype), out)
        np.testing.assert_array_equal(out, [0, 2, 4])
        return kernel

    def files(self, suffix):
        return sorted(self.folder.rglob(f"*.{suffix}"))


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    return Tiny(tmp_path, monkeypatch)


def hits(kernel):
    return sum(kernel.stats.cache_hits.values())


def test_the_second_process_finds_what_the_first_compiled(tiny, caplog):
    assert hits(tiny.run()) == 0
    assert hits(tiny.run()) == 1
    assert hits(tiny.run("float32")) == 0
    assert len(tiny.files("nbc")) == 2
    assert not caplog.text


def _flip(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGE = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "one bit": _flip,
    "garbage": lambda data: b"garbage" * 100,
    "longer": lambda data: data + b"x",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("suffix", ["nbc", "nbi"])
def test_a_damaged_cache_is_said_once_and_heals(tiny, caplog, suffix, damage):
    tiny.run()
    for path in tiny.files(suffix):
        path.write_bytes(DAMAGE[damage](path.read_bytes()))
    again = tiny.run()
    if hits(again):  # an index with a bit flipped in a place that does not matter
        assert suffix == "nbi"
    else:
        assert len(caplog.records) <= 1
        assert suffix == "nbi" or str(tiny.folder) in caplog.text
        assert suffix == "nbi" or "cannot be read" in caplog.text
    caplog.clear()
    assert hits(tiny.run()) == 1
    assert not caplog.text


def test_a_cache_of_another_version_is_replaced(tiny, caplog, monkeypatch):
    monkeypatch.setattr(_kernels.numba, "__version__", "0.1")
    tiny.run()
    monkeypatch.undo()
    monkeypatch.setattr(_kernels._config, "CACHE_DIR", str(tiny.folder))
    assert hits(tiny.run()) == 0
    assert hits(tiny.run()) == 1
    assert not caplog.text


@pytest.mark.parametrize("what", ["_save_data", "_save_index"])
def test_no_room(tiny, caplog, monkeypatch, what):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_kernels._Files, what, full)
    tiny.run()
    assert len(caplog.records) == 1
    assert str(tiny.folder) in caplog.text
    assert "cannot be written (OSError: [Errno 28] No space left" in caplog.text


def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    Tiny(tmp_path, monkeypatch, cache="file").run()
    assert len(caplog.records) == 1
    assert f"no folder that can be written: {tmp_path / 'file'}" in caplog.text


def test_without_numba_kernels_are_python_and_silent(monkeypatch):
    monkeypatch.setattr(_kernels._config, "DISABLE_JIT", 1)

    def divide(a, b):
        return a / b

    kernel = _kernels._kernel(divide)
    with np.errstate(all="raise"):
        assert np.isinf(kernel(np.float64(1), np.float64(0)))
    assert _kernels.blas_gemm.__wrapped__("float32") is None


# --- whole programs -------------------------------------------------------------------------------

PROGRAM = """
import json, logging, sys
import snode
x, y = snode.datasets.two_moons(60, rng=0)
out = []
for dtype in ("float32", "float64"):
    for name in ("relu", "tanh"):
        field = snode.StandaloneField.random(2, 1.0, 5, activation=name, rng=0, dtype=dtype)
        options = {"n_iter": 3, "inner": "h1", "rule": "PR+"}
        found = snode.ncg(field, x.astype(dtype), y, snode.Cost(n_classes=2), **options)
        out.append(found.fun)
print(json.dumps(out))
"""


def run(limit=None, **environ):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        env=os.environ | environ, capture_output=True, text=True, preexec_fn=limit, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr.splitlines()


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    return run(NUMBA_CACHE_DIR=str(tmp_path_factory.mktemp("cache")))[0]


def _no_room():
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))


@pytest.mark.slow
def test_no_room_for_the_cache(numbers, tmp_path):
    found, said = run(_no_room, NUMBA_CACHE_DIR=str(tmp_path))
    assert found == numbers
    assert len(said) == 1
    assert "cannot be written" in said[0]
    assert not [path for path in tmp_path.rglob("*") if ".tmp." in path.name]


@pytest.mark.slow
def test_a_cache_folder_that_is_a_file(numbers, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    found, said = run(NUMBA_CACHE_DIR=str(blocked))
    assert found == numbers
    assert len(said) == 1
    assert str(blocked) in said[0]


@pytest.mark.slow
def test_without_numba_the_kernels_are_slow_and_right(numbers):
    found, said = run(NUMBA_DISABLE_JIT="1")
    assert not said
    np.testing.assert_allclose(found, numbers, rtol=1e-5)
    np.testing.assert_allclose(found[2:], numbers[2:], rtol=1e-12)  # float64


def test_nothing_is_written_beside_the_modules():
    package = Path(snode.__file__).parent
    for folder in (_kernels.product._cache.cache_path, *_kernels._folders()):
        assert package not in [Path(folder), *Path(folder).parents]


def test_folders(monkeypatch, tmp_path):
    monkeypatch.setattr(_kernels._config, "CACHE_DIR", str(tmp_path / "given"))
    assert list(_kernels._folders()) == [tmp_path / "given"]
    monkeypatch.setattr(_kernels._config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(_kernels.tempfile, "gettempdir", lambda: str(tmp_path))
    own = tmp_path / f"snode-{os.getuid()}"
    assert list(_kernels._folders()) == [tmp_path / "home" / "snode" / "numba", own]
    assert own.stat().st_mode & 0o777 == 0o700
    own.chmod(0o777)  # others could put machine code there
    assert own not in list(_kernels._folders())
    own.rmdir()
    own.symlink_to(tmp_path)
    assert own not in list(_kernels._folders())


def test_a_home_that_cannot_be_written(monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setattr(_kernels._config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setattr(_kernels.tempfile, "gettempdir", lambda: str(tmp_path))
    cache = _kernels._Cache(_kernels.product.py_func)
    assert Path(cache.cache_path).parent == tmp_path / f"snode-{os.getuid()}"
    monkeypatch.setattr(_kernels.tempfile, "gettempdir", lambda: str(blocked))
    with pytest.raises(RuntimeError, match="no locator"):
        _kernels._Cache(_kernels.product.py_func)
