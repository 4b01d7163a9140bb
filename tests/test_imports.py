"""The house plan of docs/architecture: an import only ever points down, and heavy libraries wait.

The imports are read from the source, those inside functions included.
"""

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import snode

ROOT = Path(snode.__file__).parent

# room -> floor; a room is a module or a folder of snode
FLOORS = {
    "_early": 0,
    "backend": 0,
    "interrupts": 0,
    "progress": 0,
    "copying": 0,
    "results": 0,
    "seeds": 0,
    "labels": 1,
    "partials": 1,
    "_kernels": 1,
    "_expansion": 0,
    "_mat5": 1,
    "threads": 1,
    "fields": 2,
    "ode": 2,
    "datasets": 2,
    "io": 3,
    "model": 3,
    "matlab": 3,
    "predict": 3,
    "checks": 3,
    "training": 4,
    "analysis": 4,
    "plotting": 5,
    "runs": 5,
    "reproduce": 5,
    "interop": 5,
    "sklearn": 5,
    "cli": 6,
    "__main__": 6,
}
# neighbours on one floor that may see each other, in this direction only
NEIGHBOURS = {
    ("results", "backend"),
    ("results", "copying"), ("model", "predict"), ("io", "model"), ("matlab", "model"),
    ("matlab", "io"), ("reproduce", "runs"), ("__main__", "cli"),
}  # fmt: skip
ONLY_IN = {
    "numba": {"_kernels"},
    "cupy": {"backend"},
    "matplotlib": {"plotting"},
    "typer": {"cli"},
    "rich": {"cli", "progress"},
    "art": {"interop"},
    "sklearn": {"sklearn"},
    "dask": {"training"},
    "distributed": {"training"},
}
NEVER = {"pickle", "marshal", "shelve", "torch", "jax", "importlib.util", "runpy"}


class Import(NamedTuple):
    room: str  # where it stands
    where: str  # file:line
    module: str  # what is imported, absolute
    at_top: bool  # runs when the module is imported


def imports_of(path):
    relative = path.relative_to(ROOT)
    room = relative.parts[0].removesuffix(".py")
    package = ("snode", *relative.parts[:-1])
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node, at_top in _walk(tree, True):
        where = f"{relative}:{node.lineno}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(room, where, alias.name, at_top)
        else:
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                # `from snode import datasets` imports a module, `from snode.x import f` a name
                name = f"{module}.{alias.name}"
                yield Import(room, where, name if module == "snode" else module, at_top)


def _walk(node, at_top):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, at_top
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from _walk(other, at_top)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _walk(child, at_top and not inside)


IMPORTS = [i for path in sorted(ROOT.rglob("*.py")) for i in imports_of(path)]


def target_room(module):
    parts = module.split(".")
    return parts[1] if parts[0] == "snode" and len(parts) > 1 else None


def test_the_walk_sees_what_it_should():
    # a walk that finds nothing would let everything pass
    assert any(i.module == "numba" and i.at_top for i in IMPORTS)
    assert any(i.module == "cupy" and not i.at_top for i in IMPORTS)
    assert any(i.room == "plotting" and "matplotlib" in i.module for i in IMPORTS)
    assert {i.where.split(":")[0] for i in IMPORTS if i.module.startswith("art.")} == {
        str(Path("interop", "art.py"))
    }
    hidden = [i for i in IMPORTS if i.room == "training" and i.module.startswith("snode._kernels")]
    assert hidden
    assert not any(i.at_top for i in hidden)


def test_every_room_is_on_the_plan():
    rooms = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in ROOT.rglob("*.py")}
    assert rooms - {"__init__"} == set(FLOORS)


def test_imports_point_down():
    wrong = []
    for i in IMPORTS:
        target = target_room(i.module)
        if target is None or i.room in ("__init__", target):
            continue
        down = FLOORS[target] < FLOORS[i.room] or (i.room, target) in NEIGHBOURS
        if not down:
            wrong.append(f"{i.where} ({i.room}, floor {FLOORS[i.room]}) imports {i.module}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("one", "other"), [("fields", "ode"), ("training", "analysis"), ("fields", "datasets")]
)
def test_neighbours_do_not_import_each_other(one, other):
    for a, b in ((one, other), (other, one)):
        assert not [i.where for i in IMPORTS if i.room == a and target_room(i.module) == b]


def test_only_the_top_floor_imports_the_whole_package():
    # `import snode` loads every room: below, it would be a cycle
    whole = {i.room for i in IMPORTS if i.module == "snode"}
    assert whole <= {"cli", "__main__"}


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_named_in_one_place(library):
    places = {i.room for i in IMPORTS if i.module.split(".")[0] == library}
    assert places <= ONLY_IN[library]


@pytest.mark.parametrize("library", ["matplotlib", "cupy"])
def test_heavy_libraries_are_imported_inside_functions(library):
    assert not [i.where for i in IMPORTS if i.module.split(".")[0] == library and i.at_top]


def test_numba_is_reached_only_through_functions():
    kernels = [i for i in IMPORTS if target_room(i.module) == "_kernels"]
    assert kernels
    assert not [i.where for i in kernels if i.at_top]


def test_nothing_that_runs_code_from_files():
    assert not [i.where for i in IMPORTS if i.module in NEVER or i.module.split(".")[0] in NEVER]
    for path in ROOT.rglob("*.py"):
        called = {
            node.func.id
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not called & {"eval", "exec", "__import__", "compile"}, path


def loaded_by(code):
    program = f"import sys\n{code}\nprint(*sys.modules, sep='\\n')"
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT.parent,
    )
    return set(run.stdout.split())


def test_import_snode_is_light():
    modules = loaded_by("import snode")
    assert "snode.training.ncg" in modules
    for heavy in ("numba", "llvmlite", "matplotlib", "cupy", "rich", "typer", "threadpoolctl"):
        assert heavy not in modules
    assert not [m for m in modules if m.split(".")[0] in ("scipy", "art")]
    assert not modules & {"snode._kernels", "snode.plotting", "snode.cli", "snode.interop"}


def test_solving_needs_no_numba():
    code = (
        "import numpy as np, snode\n"
        "field = snode.StandaloneField.random(2, 1.0, 3, knots=1, rng=0)\n"
        "x, y = np.ones((2, 3)), np.array([0, 1, 0])\n"
        "snode.gradient(field, x, y, snode.Cost(n_classes=2))\n"
        "snode.predict(field, x, n_classes=2)"
    )
    modules = loaded_by(code)
    assert not modules & {"numba", "matplotlib", "cupy"}
