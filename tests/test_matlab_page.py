"""The table of docs/matlab.rst: everything in its column for Python runs.

(What stands after >>> on the page is run with the doctests of the documentation.)
"""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import snode

PAGE = (Path(__file__).parents[1] / "docs" / "matlab.rst").read_text(encoding="utf-8")
TABLE = PAGE[PAGE.index("Name by name") : PAGE.index("Functions return one result")]
ROWS = re.findall(r"^   \* - (.*?)^     - (.*?)(?=^   \* - |^\S)", TABLE, re.MULTILINE | re.DOTALL)
SNIPPETS = [
    " ".join(snippet.split())
    for _, here in ROWS[1:]
    for snippet in re.findall(r"``(.*?)``", here, re.DOTALL)
]
KEYWORDS = {
    name
    for function in (snode.ode45, snode.StandaloneField.random, np.max)
    for name in inspect.signature(function).parameters
}


def names(cp):
    """Return what the snippets speak of."""
    import matplotlib.pyplot as plt
    import scipy

    n, m, K, T = 12, 12, 4, 1.0  # square, for W * x
    x, rng = np.linspace(-1, 1, n * m).reshape(n, m), np.random.default_rng(0)
    field = snode.StandaloneField.random(n, T, K, rng=0)

    def f(t, x):
        return -x

    x0, i = x[:, 0], 1
    sol = snode.ode45(f, [0, T], x0, dense_output=True, events=lambda t, x: x[0] - 0.3)
    return {
        "np": np, "snode": snode, "cupy": cp, "scipy": scipy, "plt": plt, "n": n, "m": m, "K": K,
        "T": T, "x": x, "field": field, "f": f, "x0": x0, "i": i, "sol": sol, "t": 0.3, "axis": 0,
        "W": np.eye(n) + 0.1 * rng.standard_normal((n, n)), "b": x[:, 1], "r": x[:, 2], "a": x,
        "g": lambda t, x: x[0], "h": lambda t, x, a, b: -x, "M": np.eye(n), "inf": np.inf,
        "opts": snode.odeset(), "data": (x, np.arange(m) % 2),
    }  # fmt: skip


def test_the_table_is_read_whole():
    assert len(ROWS) == TABLE.count("* - ") > 40
    assert len(SNIPPETS) > 60


@pytest.mark.filterwarnings("ignore::snode.TrainingWarning")
def test_every_snippet_of_the_table_runs(cp, capsys):
    known = names(cp)
    for snippet in SNIPPETS:
        scope = dict(known)
        if re.match(r"\w+=", snippet):
            options = eval(f"dict({snippet})", scope)
            assert set(options) <= KEYWORDS, snippet
            continue
        try:
            exec(snippet, scope)
        except Exception as error:
            raise AssertionError(f"{snippet}: {type(error).__name__}: {error}") from error


def test_every_name_of_the_page_is_there():
    found = set(re.findall(r"\bsnode\.(\w+)", PAGE))
    assert len(found) > 15
    assert not [name for name in found if not hasattr(snode, name)]
