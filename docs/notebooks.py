"""Notebooks of the lessons and demos, and the directive ``gallery``: cards with downloads.

The scripts are the source: ``docs/notebooks`` is written anew by each build (and ignored by git).
The lessons are run by MyST-NB, a few seconds each; of the demos, which may take hours, the
gallery shows recorded pictures, and the notebooks are for downloading.
"""

import ast
from pathlib import Path

import jupytext
from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from nbformat import v4

DOCS = Path(__file__).parent
DEMOS = DOCS.parent / "demos"
FOLDER = DOCS / "notebooks"


def title_of(script):
    """Return the first line of the docstring of a script."""
    return ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))).splitlines()[0]


def cells_of(script):
    """Return (kind, text) of the cells: the header, the code without its command line, a run."""
    source = script.read_text(encoding="utf-8")
    lines, tree = source.splitlines(), ast.parse(source)
    title, _, header = ast.get_docstring(tree).partition("\n")
    yield "markdown", f"# {title.rstrip('.')}\n{header}"
    code, end, before = [], tree.body[0].end_lineno, False
    for node in tree.body[1:]:
        text = "\n".join(lines[end : node.end_lineno]).strip()
        end = node.end_lineno
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if node.name == "main":
                continue
            yield "code", "\n".join(code)
            code = []
        if isinstance(node, ast.If) or text.startswith(("import argparse", "from __future__")):
            continue
        imports = isinstance(node, ast.Import | ast.ImportFrom)
        if code and before and not imports:
            text = "\n" + text  # a blank line behind the imports
        before = imports
        code.append(text)
    yield "code", "\n".join(code)


def notebook(script, exercise=None):
    """Return the text of a notebook made of a script."""
    folder = script.parent.name
    first = "%matplotlib inline"
    if folder != "lessons":  # they import their neighbours
        first += (
            "\nimport sys\n\nfrom snode.reproduce import demos_folder\n\n"
            f'sys.path.insert(0, str(demos_folder() / "{folder}"))'
        )
    (head, *rest) = cells_of(script)
    cells = [head, ("code", first), *rest]
    if exercise is not None:
        cells += [("code", "numbers = run()\nplot(numbers)")]
        cells += [("markdown", exercise.read_text(encoding="utf-8"))]
    book = jupytext.reads("", fmt="py:percent")
    make = {"markdown": v4.new_markdown_cell, "code": v4.new_code_cell}
    book.cells = [make[kind](text.strip()) for kind, text in cells if text.strip()]
    for i, cell in enumerate(book.cells):
        cell["id"] = f"cell-{i}"
    book.metadata["kernelspec"] = {
        "name": "python3", "display_name": "Python 3", "language": "python",
    }  # fmt: skip
    return jupytext.writes(book, fmt="ipynb")


def write_notebooks(app=None, config=None):
    """Write every notebook that has changed."""
    for script in sorted(DEMOS.glob("*/*.py")):
        if "def run(" not in script.read_text(encoding="utf-8"):
            continue  # a module of helpers
        lesson = script.parent.name == "lessons"
        folder = FOLDER / script.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        exercise = DOCS / "exercises" / f"{script.stem}.md"
        text = notebook(script, exercise if lesson else None)
        file = folder / f"{script.stem}.ipynb"
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


class Gallery(Directive):
    """Cards of scripts: lines ``SCRIPT PICTURE PAGE``, without suffixes."""

    has_content = True

    def run(self):
        lines = [".. grid:: 1 2 2 3", "   :gutter: 3", ""]
        for entry in self.content:
            script, picture, page = entry.split()
            title = title_of(DEMOS / f"{script}.py").rstrip(".").replace(":", "\\:")
            lines += [
                f"   .. grid-item-card:: {title}",
                f"      :img-top: _static/{picture}.png",
                f"      :img-alt: {script}",
                "",
                f"      :doc:`{'open' if page.startswith('notebooks') else 'read'} <{page}>`,",
                f"      :download:`.py <../demos/{script}.py>`,",
                f"      :download:`.ipynb <notebooks/{script}.ipynb>`",
                "",
            ]
        container = nodes.container()
        self.state.nested_parse(StringList(lines, source="gallery"), 0, container)
        return container.children


def setup(app):
    app.connect("config-inited", write_notebooks)
    app.add_directive("gallery", Gallery)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
