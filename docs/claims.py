"""Directives ``claims``, ``attack-table``, ``sklearn-table``: recorded runs as tables."""

import json
from pathlib import Path
from statistics import mean, pstdev
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive, directives

RESULTS = Path(__file__).parent.parent / "demos" / "results"
BENCHMARKS = Path(__file__).parent.parent / "benchmarks" / "results"


def read(directive):
    """Return the recorded run that is the argument of a directive."""
    file = RESULTS / f"{directive.arguments[0]}.json"
    if not file.exists():
        raise directive.error(f"there is no recorded run {file.name}")
    directive.state.document.settings.record_dependencies.add(str(file))
    return json.loads(file.read_text())


def make_table(head, rows, widths):
    """Return a table of texts."""
    table = nodes.table()
    group = nodes.tgroup(cols=len(widths))
    group += [nodes.colspec(colwidth=width) for width in widths]
    group += [nodes.thead("", make_row(head)), nodes.tbody("", *map(make_row, rows))]
    table += group
    return table


def make_row(texts):
    """Return a row of a table."""
    paragraphs = (nodes.paragraph("", "", nodes.Text(text)) for text in texts)
    return nodes.row("", *(nodes.entry("", paragraph) for paragraph in paragraphs))


class Claims(Directive):
    """A table of what the paper says, whether our numbers agree, and the numbers.

    With the option ``ours`` the statements are our own: they hold or fail.
    """

    required_arguments = 1
    option_spec: ClassVar = {"ours": directives.flag}

    def run(self):
        ours = "ours" in self.options
        yes, no = ("holds", "fails") if ours else ("agrees", "disagrees")
        rows = [
            (c["claim"], yes if c["agrees"] else no, c["measured"]) for c in read(self)["claims"]
        ]
        head = ("statement" if ours else "the paper says", "here", "measured")
        return [make_table(head, rows, (45, 10, 45))]


class AttackTable(Directive):
    """Table 3: who can be fooled, and the sizes of the perturbations that do it."""

    required_arguments = 1

    def run(self):
        rows = []
        for name, runs in read(self)["networks"].items():
            for attack, found in runs[0].items():
                if attack != "attacked":
                    sizes = (
                        f"{found[k]:.3f}" if found[k] is not None else "" for k in ("mean", "max")
                    )
                    rows.append((name, attack, f"{100 * found['susceptible']:.1f} %", *sizes))
        head = ("network", "attack", "susceptible", "mean size", "largest")
        return [make_table(head, rows, (30, 25, 15, 15, 15))]


class SklearnTable(Directive):
    """Accuracies of ``benchmarks/results/tables.json``: our classifier beside scikit-learn's."""

    def run(self):
        file = BENCHMARKS / "tables.json"
        self.state.document.settings.record_dependencies.add(str(file))
        rows = []
        for table, found in json.loads(file.read_text())["results"].items():
            for name, scores in found["accuracy"].items():
                spread = f"{100 * mean(scores):.1f} ± {100 * pstdev(scores):.1f}"
                rows.append((table, name, spread, f"{found['seconds'][name]:.2f}"))
        head = ("table", "estimator", "accuracy in %, mean and spread of seeds", "seconds a fit")
        return [make_table(head, rows, (22, 28, 30, 20))]


def setup(app):
    app.add_directive("claims", Claims)
    app.add_directive("attack-table", AttackTable)
    app.add_directive("sklearn-table", SklearnTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
