"""Directives ``claims``, ``claims-total``, ``attack-table``, ``sklearn-table``: recorded runs."""

import json
from pathlib import Path
from statistics import mean, pstdev
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive, directives

RESULTS = Path(__file__).parent.parent / "demos" / "results"
BENCHMARKS = Path(__file__).parent.parent / "benchmarks" / "results"


PAPER_001 = (
    "fig02_table01_euler_vs_ode45",
    "table02_fig03_accuracy_and_noise",
    "propagation",
    "fig06_weights_in_depth",
    "fig05_fig12_table03_attacks",
    "fig11_noise_examples",
    "fig13_14_15_adversarial_images",
)
OURS = "can be used with"  # of fig02: the paper has a table there, but says nothing about it


def statements(names=PAPER_001, folder=RESULTS):
    """Return (statement, agrees, the paper's) of recorded runs, without those named as ours."""
    found = []
    for name in names:
        claims = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["claims"]
        if isinstance(claims, dict):
            claims = [{"claim": claim, "agrees": agrees} for claim, agrees in claims.items()]
        for c in claims:
            if not c["claim"].startswith("not in the paper"):
                found.append((c["claim"], bool(c["agrees"]), OURS not in c["claim"]))
    return found


def total():
    """Return how many statements of paper 001 agree, as a sentence."""
    found = statements()
    agree = sum(agrees for _, agrees, _ in found)
    papers = [agrees for _, agrees, paper in found if paper]
    return (
        f"{agree} of {len(found)} statements agree in the recorded runs: {sum(papers)} of the "
        f"{len(papers)} that the paper makes, and {agree - sum(papers)} of the "
        f"{len(found) - len(papers)} that we read from its Table 1."
    )


class ClaimsTotal(Directive):
    """The sentence of `total`."""

    def run(self):
        for name in PAPER_001:
            file = RESULTS / f"{name}.json"
            self.state.document.settings.record_dependencies.add(str(file))
        return [nodes.paragraph("", "", nodes.strong("", total()))]


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
    """Return a row of a table; between backticks is code."""
    paragraphs = (
        nodes.paragraph("", "", *(
            nodes.literal("", part) if k % 2 else nodes.Text(part)
            for k, part in enumerate(text.split("`"))
        ))
        for text in texts
    )  # fmt: skip
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
                rows.append((table, name, spread))
        head = ("table", "estimator", "accuracy in %, mean and spread of seeds")
        return [make_table(head, rows, (25, 35, 40))]


def setup(app):
    app.add_directive("claims", Claims)
    app.add_directive("claims-total", ClaimsTotal)
    app.add_directive("attack-table", AttackTable)
    app.add_directive("sklearn-table", SklearnTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
