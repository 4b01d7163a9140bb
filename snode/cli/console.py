"""What every command shares: the application, its consoles, errors in one line, tables."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_type_hints

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup
from typer.models import OptionInfo

import snode
from snode import runs

ORDER = ("train", "evaluate", "predict", "attack", "sensitivity", "certify", "check", "reproduce",
         "info")  # fmt: skip

EXAMPLES = """Examples:

snode train --data two_moons --epochs 5

snode evaluate runs/NAME --noise 0.1,0.2

snode certify runs/NAME --json

snode train --resume runs/NAME --epochs 10"""


class _Ordered(TyperGroup):
    """Commands in the order in which they are needed."""

    def list_commands(self, context: Any) -> list[str]:
        names = list(super().list_commands(context))
        return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


app = typer.Typer(
    cls=_Ordered,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_columns = os.environ.get("COLUMNS", "")
if _columns.isdigit() and int(_columns) < 20:  # rich would print nothing, or single letters
    del os.environ["COLUMNS"]
out = Console()
err = Console(stderr=True)

start_of_process: float | None = None
"""Set by the program, for whose user the imports are part of the time."""

_start_of_command = time.perf_counter()


def seconds() -> float:
    """Return how long the command has taken."""
    return time.perf_counter() - (start_of_process or _start_of_command)


def _print_version(asked: bool) -> None:
    if asked:
        out.print(f"snode {snode.__version__}", highlight=False)
        raise typer.Exit


@app.callback(epilog=EXAMPLES)
def root(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")] = False,
) -> None:  # fmt: skip
    """Standalone neural ODEs: networks that are differential equations."""


def grouped(**panels: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Show options under headings in the help: heading -> names, separated by blanks."""
    heading = {name: title for title, names in panels.items() for name in names.split()}

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        command.__annotations__ = get_type_hints(command, include_extras=True)
        for name, hint in command.__annotations__.items():
            for part in get_args(hint):
                if isinstance(part, OptionInfo) and name in heading:
                    part.rich_help_panel = heading[name].replace("_", " ")
        return command

    return decorate


def print_json(content: Any) -> None:
    """Print strict JSON (NaN becomes null), and nothing else."""
    sys.stdout.write(json.dumps(runs.plain(content), indent=2, allow_nan=False) + "\n")


def friendly(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn errors into one line: exit code 2 for bad input, 1 for a run that failed."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        global _start_of_command
        _start_of_command = time.perf_counter()
        try:
            return command(*args, **kwargs)
        except (ValueError, TypeError, OSError, ImportError) as error:
            fail(error, 2)
        except MemoryError as error:
            fail(f"not enough memory: {error}", 1)
        except ArithmeticError as error:
            fail(error, 1)
        except KeyboardInterrupt as error:
            fail(str(error) or "interrupted", 1)

    return wrapped


def say(text: str) -> None:
    """Print a line of error output from a signal handler."""
    try:
        err.print(text, highlight=False, markup=False, soft_wrap=True)
    except RuntimeError:  # the signal came in the middle of a write
        os.write(2, f"{text}\n".encode(errors="replace"))


def fail(error: object, code: int) -> None:
    """Print one line of error and leave with this exit code."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        error = f"{error.filename}: {error.strerror}"
    text = escape(" ".join(str(error).split()))
    err.print(f"[bold red]error:[/] {text}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)


def new_table(title: str) -> Table:
    """Return an empty table of two columns, name and value."""
    table = Table(title=escape(title), show_header=False, min_width=min(len(title), out.width))
    table.add_column(style="bold")
    table.add_column(justify="right")
    return table
