"""The command line, ``python -m snode train | evaluate | attack | ...``; no mathematics."""

from __future__ import annotations

from snode.cli import attack, certify, evaluate, reproduce, train  # noqa: F401  each adds its commands
from snode.cli.console import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line."""
    app()
