"""Text tables (`.csv`, `.tsv`, also gzipped): one sample per line, one column of labels.

The rows are read once and turned into numbers as they come. What a table says about itself - names
in its first row, an index in its first columns, which column holds the labels - is decided in
`snode.datasets.headers`.
"""

from __future__ import annotations

import io
import zlib
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from snode._expansion import BoundedReader, Budget
from snode.datasets.assembly import RawData
from snode.datasets.headers import (
    COUNTERS,
    MISSING,
    Guess,
    counts_rows,
    first_row_is_header,
    is_name,
    is_number,
    label_column_of,
    leading_index_columns,
    number,
    warn_of_counter,
)

__all__ = ["first_row", "read_table"]

_DELIMITERS = "\t;, "
_SNIFFED_LINES = 20

Row = tuple[int, list[str]]
"""Line number in the file, from 1, and the cells."""


def read_table(
    path: Path,
    label_column: int | str | None = None,
    delimiter: str | None = None,
    header: bool | None = None,
) -> RawData:
    """Return the table with its label column taken out, and without its index.

    Raises
    ------
    ValueError
        If a line has the wrong number of cells, or a cell that is no number (named by row and
        column), or the label column does not exist, or what the first row is cannot be told.
    """
    with _text(path) as file:
        return _read(path, file, label_column, delimiter, header)


def first_row(path: Path, delimiter: str | None = None) -> tuple[list[str], bool]:
    """Return the cells of the first row, and whether `read_table` takes it for names in any case.

    Errors are those of `read_table`.
    """
    with _text(path) as file:
        _, top, header = _start(path, file, delimiter, None)
        return [cell.strip() for cell in top[0][1]], bool(header)


@contextmanager
def _text(path: Path) -> Iterator[io.TextIOBase]:
    try:
        with _opened(path) as file:
            yield file
    except (UnicodeDecodeError, zlib.error, EOFError, OSError, _CsvError) as error:
        raise ValueError(f"{path}: not a readable text table ({error})") from error
    except _ExpandedError as error:
        raise ValueError(f"{path}: {error}") from error


class _CsvError(Exception):
    """What the csv module says; its own exception needs an import of the module."""


class _ExpandedError(ValueError):
    """A gzipped table is a decompression bomb."""


class _GzipBudget(Budget):
    def spend(self, size: int) -> None:
        try:
            super().spend(size)
        except ValueError as error:
            raise _ExpandedError(error) from None


def _opened(path: Path) -> io.TextIOBase:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    if not zipped:
        return path.open(newline="", encoding="utf-8-sig")
    import gzip

    budget = _GzipBudget(path.stat().st_size, "gunzip it")
    unpacked = gzip.open(path)  # noqa: SIM115  # closed with what is returned
    stream = io.BufferedReader(BoundedReader(unpacked, budget))
    return io.TextIOWrapper(stream, newline="", encoding="utf-8-sig")


# --- lines and cells ------------------------------------------------------------------------------


def _read(
    path: Path,
    file: Iterable[str],
    label_column: int | str | None,
    delimiter: str | None,
    header: bool | None,
) -> RawData:
    rows, top, header = _start(path, file, delimiter, header)
    width = len(top[0][1])
    if width < 2:
        raise ValueError(
            f"{path}: expected at least 2 columns (features and a label); got {width} (pass "
            "delimiter=... (--delimiter) if the cells are not split right)"
        )
    names = [cell.strip() for cell in top[0][1]]
    index = leading_index_columns(names, header)
    guess = label_column_of(str(path), label_column, names, header, index)
    table = _Table(path, width, index, guess, top[0], header)
    for row in chain(top[1:], rows):
        table.add(*row)
    return table.finish()


def _start(
    path: Path, file: Iterable[str], delimiter: str | None, header: bool | None
) -> tuple[Iterator[Row], list[Row], bool | None]:
    """Return the rows that follow, the first ones, and whether these begin with names."""
    lines = _Lines(file)
    if delimiter is None:
        delimiter = _sniff(lines.peek(_SNIFFED_LINES))
    rows = _rows(lines, delimiter)
    top = list(islice(rows, 2))
    if not top:
        raise ValueError(f"{path}: empty table")
    top, header = _with_comment(top, lines.comments, delimiter, header)
    return rows, top, header


class _Lines:
    """Lines of a file with their numbers; those that begin with # are set aside.

    An empty line counts, although it holds no row.
    """

    def __init__(self, file: Iterable[str]) -> None:
        self._ahead: list[str] = []
        self._file = iter(file)
        self.number = 0
        self.comments: list[Row] = []
        self._leading = True

    def peek(self, count: int) -> list[str]:
        self._ahead = list(islice(self._file, count))
        return [line for line in self._ahead if not line.lstrip().startswith("#")]

    def __iter__(self) -> Iterator[str]:
        for line in chain(self._ahead, self._file):
            self.number += 1
            if line.lstrip().startswith("#"):
                if self._leading:
                    self.comments.append((self.number, [line]))
            else:
                self._leading = self._leading and not line.strip()
                yield line


def _rows(lines: _Lines, delimiter: str) -> Iterator[Row]:
    import csv

    text = (line.lstrip(" ") for line in lines) if delimiter == " " else iter(lines)
    try:
        reader = csv.reader(text, delimiter=delimiter, skipinitialspace=True, strict=True)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                if delimiter == " " and not cells[-1]:
                    del cells[-1]  # blanks at the end
                yield lines.number, cells
    except (csv.Error, TypeError) as error:
        raise _CsvError(error) from error


def _named(column: int, name: str) -> str:
    """Return the name of a column (from 1), also of one that the header leaves without."""
    return name or f"column {column}"


def _sniff(lines: list[str]) -> str:
    """Return the first delimiter that occurs equally often (at least once) in every line.

    In the first line it may occur once less: R names the columns, and not that of its row names.
    """
    lines = [line.strip(" \r\n") for line in lines if line.strip()]
    for candidate in _DELIMITERS:
        counts = [
            len(line.split()) - 1 if candidate == " " else line.count(candidate) for line in lines
        ]
        if counts and min(counts) > 0 and len(set(counts)) == 1:
            return candidate
    for candidate in _DELIMITERS:
        counts = [
            len(line.split()) - 1 if candidate == " " else line.count(candidate) for line in lines
        ]
        if counts and counts[0] > 0 and set(counts[1:]) == {counts[0] + 1}:
            return candidate
    return ","


def _with_comment(
    top: list[Row], comments: list[Row], delimiter: str, header: bool | None
) -> tuple[list[Row], bool | None]:
    """Put a line of names that begins with # before the rows, and R's missing name in its place."""
    width = len(top[0][1])
    if header is None and comments:
        import csv

        line, (text,) = comments[-1]
        bare = text.strip().lstrip("#").strip()
        for candidate in (bare, text.strip()):
            cells = next(csv.reader([candidate], delimiter=delimiter, skipinitialspace=True), [])
            if len(cells) == width and not any(is_number(cell) for cell in cells):
                return [(line, cells), *top], True
    if len(top) == 2 and len(top[1][1]) == width + 1 and header is not False:
        names = top[0][1]
        if not any(is_number(cell) for cell in names):
            return [(top[0][0], ["", *names]), top[1]], True
    return top, header


# --- numbers --------------------------------------------------------------------------------------


@dataclass
class _Table:
    """The columns of a table while its rows arrive; the first row waits for the end."""

    path: Path
    width: int
    index: int
    guess: Guess
    first: Row
    header: bool | None
    values: array[float] = field(default_factory=lambda: array("d"))
    labels: list[str] = field(default_factory=list)
    indices: list[list[str]] = field(default_factory=list)
    lines: array[int] = field(default_factory=lambda: array("q"))
    first_is_numeric: bool = False

    def __post_init__(self) -> None:
        self.indices = [[] for _ in range(self.index)]
        line, cells = self.first
        features = [cell for k, cell in enumerate(cells) if k >= self.index and k != self.label]
        self.first_is_numeric = all(map(is_number, features))
        if self.first_is_numeric:
            self.add(line, list(cells))
        elif self._first_is_data(features):
            raise self._wrong_cell(line, features, cells[self.label].strip())

    def _first_is_data(self, features: list[str]) -> bool:
        """Return True if the first row can only be a sample, although it is not all numbers."""
        if self.header is True or self.guess.by_name or self.index:
            return False
        return any(map(is_number, features)) or not any(is_name(c.strip()) for c in features)

    @property
    def label(self) -> int:
        return self.guess.column

    def add(self, line: int, cells: list[str]) -> None:
        """Take a row, whose list is used up."""
        if len(cells) != self.width:
            raise ValueError(
                f"{self.path}: row {line} has {len(cells)} cells, the first row has {self.width}"
            )
        label = cells.pop(self.label).strip()
        for k in range(self.index):
            self.indices[k].append(cells[k].strip())
        del cells[: self.index]
        try:
            if "_" in "".join(cells):  # float() accepts 1_000
                raise ValueError
            self.values.extend(map(float, cells))
        except ValueError:
            raise self._wrong_cell(line, cells, label) from None
        self.lines.append(line)
        self.labels.append(label)

    def _wrong_cell(self, line: int, cells: list[str], label: str) -> ValueError:
        i, bad = next((i, cell) for i, cell in enumerate(cells) if not is_number(cell))
        column = i + self.index
        column += column >= self.label
        hint = ""
        if self.guess.by_position and is_number(label) and is_name(bad.strip()):
            hint = (
                f"; if that column holds the labels, pass label_column={column} "
                f"(--label-column {column})"
            )
        return ValueError(
            f"{self.path}: row {line}, column {column + 1}: expected a number; got {bad!r}{hint}"
        )

    def finish(self) -> RawData:
        """Decide what the first row is, and return features and labels."""
        later = self.labels[1:] if self.first_is_numeric else self.labels
        names = [cell.strip() for cell in self.first[1]]
        features = np.frombuffer(self.values, np.float64)
        features = features.reshape(len(self.lines), -1) if len(self.lines) else features
        header = self.header
        if header is None:
            rest = features[1:] if self.first_is_numeric else features
            header = self.guess.by_name or first_row_is_header(
                str(self.path), names, self.label, self.index, later, rest
            )
        if header:
            if not later:
                raise ValueError(f"{self.path}: the table has a header row but no samples")
            if self.first_is_numeric:
                features, self.labels, self.lines = features[1:], later, self.lines[1:]
                self.indices = [column[1:] for column in self.indices]
        elif not self.first_is_numeric:
            self._refuse_first_row()
        features, columns = self._without_index(features, names if header else None)
        labels = self._label_array()
        warn_of_counter(str(self.path), features, columns)
        return RawData(
            str(self.path), features, labels, labels_guessed=self.guess.by_position,
            feature_names=tuple(_named(*column) for column in columns) if header else None,
            label_name=_named(self.label + 1, names[self.label]) if header else "",
        )  # fmt: skip

    def _refuse_first_row(self) -> NoReturn:
        line, cells = self.first
        k = next(k for k, c in enumerate(cells) if k != self.label and not is_number(c))
        raise ValueError(
            f"{self.path}: row {line}, column {k + 1}: expected a number; got {cells[k]!r} (if row "
            f"{line} holds the names of the columns, in Python pass header=True)"
        )

    def _without_index(
        self, features: NDArray[np.float64], names: list[str] | None
    ) -> tuple[NDArray[np.float64], list[tuple[int, str]]]:
        """Return the features and, for each, its column (from 1) and name."""
        for k, column in enumerate(self.indices):
            if len(set(column)) < len(column):
                raise ValueError(
                    f"{self.path}: column {k + 1} has no name of its own, as an index of pandas "
                    "or R, but its values repeat; name it, or delete it"
                )
        own = [k for k in range(self.index, self.width) if k != self.label]
        columns = [(k + 1, "" if names is None else names[k]) for k in own]
        counter = len(own) > 1 and columns[0][1].lower() in COUNTERS
        if counter and counts_rows(features[:, 0]):
            features, columns = features[:, 1:], columns[1:]
        if features.shape[1] == 0:
            raise ValueError(f"{self.path}: has no column of features beside its index and labels")
        return features, columns

    def _label_array(self) -> NDArray[Any]:
        """Return the labels as numbers if all of them are, else as strings."""
        numeric = [is_number(label) for label in self.labels]
        for line, label, is_one in zip(self.lines, self.labels, numeric, strict=True):
            where = f"{self.path}: row {line}, column {self.label + 1}: the label"
            if not label:
                raise ValueError(f"{where} is empty")
            if not is_one and label.lower() in MISSING:
                raise ValueError(f"{where} is missing: {label!r}")
        if all(numeric):
            return np.array([number(label) for label in self.labels])
        return np.array(self.labels)
