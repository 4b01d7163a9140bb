"""The Python of README.md runs as it is printed, block after block as in one script."""

import dataclasses
import functools
import importlib.util
import re
from pathlib import Path

import pytest

import snode

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)


def test_all_python_is_found():
    assert len(BLOCKS) == len(re.findall("(?i)```py", TEXT)) >= 2
    assert ">>>" not in TEXT


def shortened(load, n_train=300, n_test=100):
    @functools.wraps(load)
    def call(*args, **kwargs):
        data = load(*args, **kwargs)
        return dataclasses.replace(
            data,
            x_train=data.x_train[:, :n_train], y_train=data.y_train[:n_train],
            x_test=data.x_test[:, :n_test], y_test=data.y_test[:n_test],
        )  # fmt: skip

    return call


def needed(block):
    """Return the modules of extras that a block imports, by itself or through ours."""
    return set(re.findall(r"^(?:from|import) (?:snode\.)?(sklearn|art|distributed)\b", block, re.M))


@pytest.mark.slow
def test_every_block_runs_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(snode.datasets, "load_mnist", shortened(snode.datasets.load_mnist))
    script = {"__name__": "readme"}
    for block in BLOCKS:
        if any(importlib.util.find_spec(module) is None for module in needed(block)):
            continue
        line = TEXT[: TEXT.index(block)].count("\n")
        code = compile("\n" * line + block, str(README), "exec")  # with README's line numbers
        exec(code, script)
    assert "sol" in script
