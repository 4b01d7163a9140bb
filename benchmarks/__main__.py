"""Run one benchmark or all of them.

    python -m benchmarks list
    python -m benchmarks NAME [its options]
    python -m benchmarks all [--quick] [--json [FILE]] [--only NAME ...] [--skip NAME ...]

`all` runs one after another, each in a process of its own, so that none sees another's threads,
memory or settings. One that fails is an entry of the JSON, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import ast
import json
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

FOLDER = Path(__file__).resolve().parent
NO_BENCHMARK = ("harness",)
TAIL = 2000
"""Characters of the errors of a benchmark that failed."""


def scripts(folder: Path) -> dict[str, Path]:
    """Return the benchmarks by name."""
    paths = sorted(folder.glob("[!_]*.py"))
    return {path.stem: path for path in paths if path.stem not in NO_BENCHMARK}


def summary(path: Path) -> str:
    """Return the first line of the docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def show_list(folder: Path) -> None:
    """Print the names with their first lines."""
    for name, path in scripts(folder).items():
        print(f"{name:<14} {summary(path)}")


def run_one(path: Path, argv: Sequence[str]) -> None:
    """Run a benchmark as `python FILE argv` would."""
    sys.argv = [str(path), *argv]
    sys.path.insert(0, str(path.parent))
    runpy.run_path(str(path), run_name="__main__")


def run_apart(path: Path, quick: bool, tables: IO[str]) -> dict[str, Any]:
    """Run a benchmark in a process of its own and return its JSON, or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "numbers.json"
        command = [sys.executable, str(path), "--json", str(out), *["--quick"] * quick]
        tables.flush()
        done = subprocess.run(command, stdout=tables, stderr=subprocess.PIPE, text=True)
        sys.stderr.write(done.stderr)
        if done.returncode == 0 and out.exists():
            found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
            return found
    why = f"exit status {done.returncode}" if done.returncode else "wrote no numbers"
    return {"failed": why, "errors": done.stderr[-TAIL:]}


def run_all(folder: Path, argv: Sequence[str]) -> int:
    """Run the benchmarks one after another; print or write one JSON object. Return the status."""
    sys.path.insert(0, str(FOLDER))
    from harness import STDOUT, make_parser, write

    from snode.runs import environment, now

    known = scripts(folder)
    parser = make_parser("Run all benchmarks, each with its own settings.", 0)
    parser.add_argument("--only", nargs="+", choices=known, default=list(known), metavar="NAME")
    parser.add_argument("--skip", nargs="+", choices=known, default=[], metavar="NAME")
    args = parser.parse_args(argv)
    # what is printed beside one JSON object must not be on the same stream
    tables = sys.stderr if args.json == STDOUT else sys.stdout
    results = {}
    for name in args.only:
        if name not in args.skip:
            print(f"== {name}", file=tables)
            results[name] = run_apart(known[name], args.quick, tables)
    failed = [name for name, found in results.items() if "failed" in found]
    if failed:
        print(f"failed: {', '.join(failed)}", file=tables)
    if args.json:
        write(args.json, {"environment": environment(), "date": now(), "results": results})
    return 1 if failed else 0


def main(argv: Sequence[str] | None = None, folder: Path = FOLDER) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    known = scripts(folder)
    parser.add_argument("name", choices=["list", "all", *known], metavar="NAME")
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        parser.print_help()
        show_list(folder)
        return 0
    name = parser.parse_args(words[:1]).name
    if name == "list":
        show_list(folder)
    elif name == "all":
        return run_all(folder, words[1:])
    else:
        run_one(known[name], words[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
