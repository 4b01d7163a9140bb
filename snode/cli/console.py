"""What every command shares: the application, its consoles, errors in one line, tables."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

app = typer.Typer(
    help="Standalone neural ODEs: networks that are differential equations.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console()
err = Console(stderr=True)


def friendly(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn errors into one line: exit code 2 for bad input, 1 for a run that failed."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
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


def fail(error: object, code: int) -> None:
    """Print one line of error and leave with this exit code."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        error = f"{error.filename}: {error.strerror}"
    text = escape(" ".join(str(error).split()))
    err.print(f"[bold red]error:[/] {text}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)


def new_table(title: str) -> Table:
    """Return an empty table of two columns, name and value."""
    table = Table(title=escape(title), show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    return table
