"""``snode reproduce``: every figure and table of the papers by one command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from snode import reproduce as papers
from snode import runs
from snode.cli.console import app, err, friendly, out
from snode.progress import bar

EXAMPLES = """Examples:  snode reproduce  |  snode reproduce 001 fig05  |  snode reproduce 003 mnist --full"""


@app.command(epilog=EXAMPLES)
@friendly
def reproduce(
    paper: Annotated[str | None, typer.Argument(help="001, 003 or lessons; default: list everything.")] = None,
    item: Annotated[str | None, typer.Argument(help="A figure or table, such as fig05, or all; default: list those of the paper.")] = None,
    full: Annotated[bool, typer.Option("--full/--quick", help="The full size; quick takes under two minutes, too little to judge claims.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the networks and of everything random.")] = 1,
    folder: Annotated[Path, typer.Option("--out", help="Writes OUT/PAPER/ITEM.png and .json; trained networks in OUT/models.")] = Path("reproduced"),
    models: Annotated[Path | None, typer.Option(help="Folder of the trained networks of paper 001.")] = None,
    list_only: Annotated[bool, typer.Option("--list", help="List the figures and tables.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:  # fmt: skip
    """Make a figure or table of a paper again; without arguments: list them."""
    if paper is not None and paper not in papers.PAPERS:
        raise ValueError(f"paper must be one of {', '.join(papers.PAPERS)}; got {paper!r}")
    if list_only or paper is None or item is None:
        _list(paper, as_json)
        return
    wanted = (
        [i for i in papers.ITEMS if i.paper == paper]
        if item == "all"
        else [papers.find(paper, item)]
    )
    made = []
    for one in wanted:
        with bar(f"{one.paper} {one.name}", console=err, quiet=as_json) as report:
            try:
                made.append(
                    papers.reproduce(
                        one.paper,
                        one.name,
                        quick=not full,
                        seed=seed,
                        out=folder,
                        models=models,
                        callback=report,
                    )
                )
            except SystemExit as stopped:  # a demo that was stopped says how to go on
                raise KeyboardInterrupt(str(stopped)) from None
        if not as_json:
            _show(made[-1])
    if as_json:
        _print_json([json.loads(m.record.read_text(encoding="utf-8")) | _files(m) for m in made])


def _files(made: papers.Reproduction) -> dict[str, str]:
    return {"figure": str(made.figure), "record": str(made.record)}


def _print_json(content: Any) -> None:
    sys.stdout.write(json.dumps(runs.plain(content), indent=2) + "\n")


def _list(paper: str | None, as_json: bool) -> None:
    rows = [_row(item) for item in papers.ITEMS if paper in (None, item.paper)]
    if as_json:
        _print_json(rows)
        return
    for name, title in papers.PAPERS.items():
        chosen = [row for row in rows if row["paper"] == name]
        if not chosen:
            continue
        table = Table(
            title=escape(f"{name}: {title}"), title_justify="left", box=None, pad_edge=False
        )
        for head in ("item", "what it shows", "quick", "full", "recorded"):
            table.add_column(head, justify="right" if head in ("quick", "full") else "left")
        for row in chosen:
            table.add_row(
                row["item"],
                row["title"],
                row["quick"],
                row["full"],
                _verdicts(row["recorded"], _words(name)[0]),
            )
        out.print(table)
        out.print()
    out.print("snode reproduce PAPER ITEM, for example: snode reproduce 001 fig05", highlight=False)


def _row(item: papers.Item) -> dict[str, Any]:
    content = papers.recorded(item)
    claims = None if content is None else _claims(content)
    return {
        "paper": item.paper, "item": item.name, "title": item.title, "quick": item.quick,
        "full": item.full,
        "recorded": None if claims is None else {"claims": len(claims), "agree": sum(claims)},
    }  # fmt: skip


def _claims(content: dict[str, Any]) -> list[bool]:
    claims = content.get("claims", [])
    if isinstance(claims, dict):
        return [bool(agrees) for agrees in claims.values()]
    return [bool(claim["agrees"]) for claim in claims]


def _verdicts(found: dict[str, int] | None, word: str) -> str:
    if found is None:
        return "-"
    if not found["claims"]:
        return "yes"
    return f"{found['agree']} of {found['claims']} {word}"


def _words(paper: str) -> tuple[str, str]:
    """Return how a claim of the paper, or a statement of ours about its subject, fares."""
    return ("hold", "fails") if paper == "003" else ("agree", "disagrees")


def _show(made: papers.Reproduction) -> None:
    item = made.item
    out.print(f"[bold]{item.paper} {item.name}[/]: {escape(item.title)}", highlight=False)
    if made.claims and made.quick:
        out.print("quick: too small to judge the claims; --full does", highlight=False)
    for text, agrees, measured in made.claims:
        yes, no = _words(item.paper)
        verdict = f"[green]{yes}s[/]" if agrees else f"[red]{no}[/]"
        shown = f" ({measured})" if measured else ""
        out.print(f"  {verdict}: {escape(text + shown)}", highlight=False, soft_wrap=True)
    out.print(
        f"wrote {made.figure} and {made.record.name} ({made.seconds:.0f} s)",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
