"""Files that are written: through links, over protected files, with their permissions."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest

import snode
from snode import io, runs
from snode.cli.output import write_results

FIELD = snode.StandaloneField.random(2, 1.0, 3, rng=0)
RESULT = snode.train(
    FIELD, (np.ones((2, 4)), np.array([0, 1, 0, 1])), snode.Cost(n_classes=2), epochs=1,
    batch_size=4, rng=0,
)  # fmt: skip


def save(path):
    snode.save(path, FIELD)


def save_arrays(path):
    io.save_arrays(path, {"a": np.arange(3)}, {"kind": "checkpoint"})


def export(path):
    snode.export_mat(path, FIELD, train_accuracy=0.5, test_accuracy=0.5)


def write_json(path):
    runs.write_json(Path(path), {"a": 1})


def history(path):
    runs.write_history(Path(path), RESULT)


def npz(path):
    write_results(Path(path).with_suffix(""), {"a": np.ones(2)}, _draw, quiet=True)


def checkpoint(path):
    x, y = np.ones((2, 4)), np.array([0, 1, 0, 1])
    cost = snode.Cost(n_classes=2)
    snode.train(FIELD, (x, y), cost, epochs=1, batch_size=4, rng=0, checkpoint=path)


def _draw(axes):
    axes.plot([0, 1])


WRITERS = [save, save_arrays, export, write_json, history, npz, checkpoint]


@pytest.fixture(params=WRITERS, ids=lambda write: write.__name__)
def write(request):
    return request.param


def test_a_link_is_followed(write, tmp_path):
    (tmp_path / "store").mkdir()
    store, link = tmp_path / "store" / "one.npz", tmp_path / "latest.npz"
    write(store)
    store.write_bytes(b"old")
    link.symlink_to(Path("store", "one.npz"))  # relative to the link
    (tmp_path / "again.npz").symlink_to(link)
    if write is checkpoint:
        store.unlink()
    write(tmp_path / "again.npz")
    assert link.is_symlink()
    assert (tmp_path / "again.npz").is_symlink()
    assert store.stat().st_size > 3
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_link_to_a_file_that_is_not_there_yet(write, tmp_path):
    link = tmp_path / "latest.npz"
    link.symlink_to(tmp_path / "new.npz")
    write(link)
    assert link.is_symlink()
    assert (tmp_path / "new.npz").is_file()


def test_a_protected_file_is_refused_and_stays(write, tmp_path):
    path = tmp_path / "kept.npz"
    write(path)
    path.write_bytes(path.read_bytes())
    before = path.read_bytes()
    path.chmod(0o444)
    link = tmp_path / "link.npz"
    link.symlink_to(path)
    for target in (path, link):
        with pytest.raises(PermissionError, match="write-protected") as caught:
            write(target)
        assert "kept.npz" in str(caught.value) or str(target) in str(caught.value)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix == ".npz") == [
        "kept.npz",
        "link.npz",
    ]


def test_links_that_lead_nowhere(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.symlink_to(b)
    b.symlink_to(a)
    with pytest.raises(OSError, match=r"form a loop.*a'"):
        save(a)
    (tmp_path / "self").symlink_to("self")
    with pytest.raises(OSError, match="form a loop"):
        save(tmp_path / "self")
    (tmp_path / "lost").symlink_to(tmp_path / "no" / "model")
    with pytest.raises(FileNotFoundError, match=r"lost \(a link to .*folder .*no does not exist"):
        save(tmp_path / "lost")
    (tmp_path / "folder").symlink_to(tmp_path)
    with pytest.raises(IsADirectoryError, match=r"folder \(a link to .*is a folder"):
        save(tmp_path / "folder")
    assert a.is_symlink()
    assert b.is_symlink()


def test_what_is_no_file_is_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "null").symlink_to("/dev/null")
    for path in (pipe, tmp_path / "null", "/dev/null"):
        with pytest.raises(OSError, match=r"no regular file|write-protected|folder"):
            save(path)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_permissions_stay(write, tmp_path, mode):
    path = tmp_path / "private.npz"
    write(path)
    if write is checkpoint:
        return
    path.chmod(mode)
    write(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_new_file_has_the_permissions_of_any_other(tmp_path):
    save(tmp_path / "model")
    (tmp_path / "other").write_text("")
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "other").stat().st_mode
