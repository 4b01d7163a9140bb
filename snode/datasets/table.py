"""Text tables (`.csv`, `.tsv`): one sample per line, one column of labels."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snode.datasets.assembly import RawData

__all__ = ["read_table"]

_DELIMITERS = "\t;, "
_SNIFFED_LINES = 20

Row = tuple[int, list[str]]
"""Line number in the file, from 1, and the cells."""


def read_table(
    path: Path,
    label_column: int | str = -1,
    delimiter: str | None = None,
    header: bool | None = None,
) -> RawData:
    """Return the table with its label column taken out.

    Raises
    ------
    ValueError
        If a line has the wrong number of cells, or a cell that is no number (named by row and
        column), or the label column does not exist.
    """
    rows = list(_rows(path, delimiter))
    if not rows:
        raise ValueError(f"{path}: empty table")
    width = len(rows[0][1])
    for line, cells in rows:
        if len(cells) != width:
            raise ValueError(
                f"{path}: row {line} has {len(cells)} cells, the first row has {width}"
            )
    if width < 2:
        raise ValueError(
            f"{path}: expected at least 2 columns (features and a label); got {width} (pass "
            "delimiter=... if the cells are not split right)"
        )
    column = _column_index(path, label_column, rows[0][1], header)
    if header is None:
        header = isinstance(label_column, str) or _has_header(rows, column)
    body = rows[1:] if header else rows
    if not body:
        raise ValueError(f"{path}: the table has a header row but no samples")
    labels = [cells.pop(column).strip() for _, cells in body]
    return RawData(str(path), _features(path, body, column), _labels(path, body, labels, column))


def _rows(path: Path, delimiter: str | None) -> Iterator[Row]:
    import csv

    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            if delimiter is None:
                delimiter = _sniff(list(islice(file, _SNIFFED_LINES)))
                file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, cells
    except (UnicodeDecodeError, csv.Error, TypeError) as error:
        raise ValueError(f"{path}: not a readable text table ({error})") from error


def _sniff(lines: list[str]) -> str:
    """Return the first delimiter that occurs equally often (at least once) in every line."""
    lines = [line.strip(" \r\n") for line in lines if line.strip()]
    for candidate in _DELIMITERS:
        counts = {line.count(candidate) for line in lines}
        if len(counts) == 1 and counts != {0}:
            return candidate
    return ","


def _column_index(
    path: Path, label_column: int | str, first: list[str], header: bool | None
) -> int:
    if isinstance(label_column, str):
        names = [cell.strip() for cell in first]
        if header is False or names.count(label_column) != 1:
            raise ValueError(
                f"{path}: label_column={label_column!r} must name one column of the header row; "
                f"the first row is {', '.join(names[:10])}"
            )
        return names.index(label_column)
    if not -len(first) <= label_column < len(first):
        raise ValueError(
            f"{path}: label_column={label_column} is out of range for {len(first)} columns"
        )
    return label_column % len(first)


def _has_header(rows: list[Row], column: int) -> bool:
    """Return True if the first row holds names: no numbers among them, or a lone label name.

    A first row with both numbers and text is data with a wrong cell, not a header.
    """
    first = rows[0][1]
    if not any(_is_number(cell) for i, cell in enumerate(first) if i != column):
        return True
    if len(rows) < 2:
        return False
    return not _is_number(first[column]) and all(_is_number(row[column]) for _, row in rows[1:])


def _number(cell: str) -> float:
    if "_" in cell:  # float() accepts 1_000
        raise ValueError(cell)
    return float(cell)


def _is_number(cell: str) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True


def _features(path: Path, body: list[Row], label: int) -> NDArray[np.float64]:
    values = array("d")
    for line, cells in body:
        try:
            values.extend([_number(cell) for cell in cells])
        except ValueError:
            i, bad = next((i, c) for i, c in enumerate(cells) if not _is_number(c))
            raise ValueError(
                f"{path}: row {line}, column {i + 1 + (i >= label)}: expected a number; got {bad!r}"
            ) from None
    return np.frombuffer(values, np.float64).reshape(len(body), -1)


def _labels(path: Path, body: list[Row], labels: list[str], column: int) -> NDArray[np.generic]:
    """Return the labels as numbers if all of them are, else as strings."""
    for (line, _), label in zip(body, labels, strict=True):
        if not label:
            raise ValueError(f"{path}: row {line}, column {column + 1}: the label is empty")
    if all(_is_number(label) for label in labels):
        return np.array([_number(label) for label in labels])
    return np.array(labels)
