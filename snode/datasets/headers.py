"""What the first row and the first columns of a table are: names, an index, labels, or data.

Tables come from pandas, R, MATLAB, spreadsheets and by hand, and none says what it holds. The rules
here decide where the table itself leaves one reading, and refuse where it leaves two.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snode.datasets.classnames import some_names

__all__ = [
    "COUNTERS",
    "MISSING",
    "Guess",
    "counts_rows",
    "first_row_is_header",
    "is_name",
    "is_number",
    "label_column_beside",
    "label_column_of",
    "leading_index_columns",
    "names_features",
    "number",
    "warn_of_counter",
    "warn_of_labels",
]

MISSING = ("", "na", "n/a", "nan", "null", "none", "?", "-", "--", ".", "#n/a", "<na>")
COUNTERS = ("id", "index", "row", "row_id", "rowid", "no", "no.", "nr", "obs", "#")
_LABEL_NAMES = (
    ("label", "labels", "class", "classes", "target", "targets"),
    ("species", "category", "diagnosis", "outcome", "response", "variety", "digit"),
)
_UNNAMED = re.compile(r"|unnamed: \d+(\.\d+)*|\.\.\.1|rownames|row\.names", re.IGNORECASE)
_NUMBER_LIKE = re.compile(
    r"[+-]?[$€£]?(0x[0-9a-f]+|\d+([.,'_ ]\d*)*(e[+-]?\d+)?\s*%?|\d+[-/.:]\d+([-/.:]\d+)*.*)",
    re.IGNORECASE,
)


def number(cell: str) -> float:
    """Return the number in a cell, or raise ValueError; no digits are grouped."""
    if "_" in cell:  # float() accepts 1_000
        raise ValueError(cell)
    return float(cell)


def is_number(cell: str) -> bool:
    """Return True if `number` can read the cell."""
    try:
        number(cell)
    except ValueError:
        return False
    return True


def is_name(cell: str) -> bool:
    """Return True for a text that is neither missing nor a number in another notation."""
    if is_number(cell) or cell.lower() in MISSING:
        return False
    return _NUMBER_LIKE.fullmatch(cell) is None


# --- columns --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Guess:
    """The column of the labels, and what it was told by."""

    column: int
    by_name: bool = False
    by_position: bool = False


def leading_index_columns(names: Sequence[str], header: bool | None) -> int:
    """Return how many first columns are an index: those that a header leaves without a name."""
    if header is False:
        return 0
    count = 0
    while count < len(names) - 2 and _UNNAMED.fullmatch(names[count]):
        count += 1
    rest = names[count:]
    named = header or any(map(is_name, rest)) or _counts_columns(rest)
    return count if named else 0


def label_column_of(
    source: str, wanted: int | str | None, names: Sequence[str], header: bool | None, index: int
) -> Guess:
    """Return the column of the labels: as the caller says, as the header says, or the last.

    Raises
    ------
    ValueError
        If the column asked for does not exist, or the header names two.
    """
    if isinstance(wanted, str):
        if header is False or names.count(wanted) != 1:
            raise ValueError(
                f"{source}: label_column={wanted!r} must name one column of the header row; the "
                f"first row is {', '.join(names[:10])}"
            )
        return Guess(names.index(wanted), by_name=True)
    if wanted is not None:
        if isinstance(wanted, bool) or not isinstance(wanted, int | np.integer):
            raise ValueError(f"{source}: label_column must be an index or a name; got {wanted!r}")
        if not -len(names) <= wanted < len(names):
            raise ValueError(
                f"{source}: label_column={wanted} is out of range for {len(names)} columns"
            )
        if wanted % len(names) < index:
            raise ValueError(
                f"{source}: label_column={wanted} is the column without a name, an index; give it "
                "a name if it holds the labels"
            )
        return Guess(int(wanted) % len(names))
    return _named_labels(source, names, header, index)


def names_features(row: Sequence[str], features: Sequence[str], label: str | None) -> bool:
    """Tell whether a first row names all these features, whatever else.

    Numbers alone tell no header, they could be a sample, unless the name of the labels is there.
    """
    told_by = [*features, label] if label in row and label is not None else features
    return any(map(is_name, told_by)) and set(features) <= set(row)


def label_column_beside(
    source: str,
    row: Sequence[str],
    features: Sequence[str],
    wanted: int | str | None = None,
    *,
    required: bool = True,
) -> str | None:
    """Return the column of the labels, if there is any, in a header that names these features.

    Parameters
    ----------
    source : str
        File, for messages.
    row : sequence of str
        The header.
    features : sequence of str
        Names that are known.
    wanted : int, str or None
        The column of the labels in tables like this one. A name rules out a guess by position.
    required : bool
        Whether there must be labels: then a column that is left alone holds them, wherever it is.

    Returns
    -------
    str or None
        Of the columns that are left, but for an index, the one that is wanted, has a name of
        labels, or is the last.

    Raises
    ------
    ValueError
        If any other column is left; names it.
    """
    known, index = set(features), leading_index_columns(row, True)
    if isinstance(wanted, int):
        wanted = row[wanted] if -len(row) <= wanted < len(row) else None
    rest = [k for k in range(index, len(row)) if row[k] not in known]
    # the first column may count the rows, or the second behind the labels
    leading = [k for i, k in enumerate(rest[:2]) if k == index + i]
    counters = [k for k in leading if row[k].lower() in COUNTERS and row[k] != wanted]
    rest = [k for k in rest if k not in counters[:1]]
    told = [k for k in rest if row[k] == wanted]
    if rest and not told and not (required and len(rest) == 1):
        others = [name if k in rest else "" for k, name in enumerate(row)]
        guess = _named_labels(source, others, True, index)
        told = [] if guess.by_position and isinstance(wanted, str) else [guess.column]
    elif rest and not told:
        told = rest
    label = told[0] if told else None
    extra = [row[k] for k in rest if k != label]
    if extra:
        hint = ", or name that of the labels by label_column (--label-column)"
        raise ValueError(
            f"{source}: not among the features of the model: {some_names(map(repr, extra))}; it "
            f"takes {some_names(features)}; delete the others{'' if label in rest else hint}"
        )
    return row[label] if label in rest and label is not None else None


def _named_labels(source: str, names: Sequence[str], header: bool | None, index: int) -> Guess:
    last = Guess(len(names) - 1, by_position=True)
    if header is False or (header is None and any(map(is_number, names[index:-1]))):
        lone = names[-1].lower() in _LABEL_NAMES[0] + _LABEL_NAMES[1]
        return last if not lone or header is False else Guess(len(names) - 1, by_name=True)
    for tier in (*_LABEL_NAMES, ("y",)):
        found = [k for k, name in enumerate(names) if name.lower() in tier and k >= index]
        if tier == ("y",) and any(name.lower() == "x" for name in names):
            continue  # coordinates
        if len(found) > 1:
            raise ValueError(
                f"{source}: the columns {', '.join(repr(names[k]) for k in found)} could all hold "
                "the labels; name one by label_column (--label-column)"
            )
        if found:
            return Guess(found[0], by_name=True)
    return last


# --- the first row --------------------------------------------------------------------------------


def first_row_is_header(
    source: str,
    names: Sequence[str],
    label: int,
    index: int,
    labels: Sequence[str],
    features: NDArray[np.float64],
) -> bool:
    """Tell whether the first row holds names; `labels` and `features` are those of the rest.

    Raises
    ------
    ValueError
        If it could be either.
    """
    cells = [cell for k, cell in enumerate(names) if k >= index and k != label]
    if index and (any(map(is_name, cells)) or _counts_columns(names[index:])):
        return True
    if all(map(is_number, cells)):
        return _numbers_are_names(source, names, label, labels, features)
    if any(map(is_number, cells)) or not any(map(is_name, cells)):
        return False
    # names in all columns of features: then in that of the labels, too, and none of theirs
    return is_name(names[label]) and names[label] not in labels


def _numbers_are_names(
    source: str,
    names: Sequence[str],
    label: int,
    labels: Sequence[str],
    features: NDArray[np.float64],
) -> bool:
    """Tell whether a first row of numbers, but for its label perhaps, is a header."""
    numeric = bool(labels) and all(map(is_number, labels))
    if not is_number(names[label]):
        others = [cell for k, cell in enumerate(names) if k != label]
        if not numeric or names[label].lower() in MISSING:
            return False
        if _counts_columns(others) or names[label].lower() in _LABEL_NAMES[0] + _LABEL_NAMES[1]:
            return True
        raise _undecided(source, f"its label {names[label]!r} is a text, all others are numbers")
    if not labels or not _counts_columns(names):
        return False
    fractions = (features != np.rint(features)).any(axis=0).all()
    if not numeric or fractions or len(names) > 3:
        return True
    raise _undecided(source, f"it is {', '.join(names)}")


def _undecided(source: str, what: str) -> ValueError:
    return ValueError(
        f"{source}: row 1 could be a sample or, as pandas writes them, the names of the columns "
        f"({what}); give the columns names that are no numbers, or in Python pass header=True "
        "or header=False"
    )


def _counts_columns(names: Sequence[str]) -> bool:
    return len(names) > 1 and list(names) == [str(k) for k in range(len(names))]


# --- what looks odd -------------------------------------------------------------------------------


def counts_rows(column: NDArray[np.float64]) -> bool:
    """Return True for a column 0, 1, 2, ... or 1, 2, 3, ..."""
    start = column[0]
    return start in (0.0, 1.0) and np.array_equal(column, start + np.arange(len(column)))


def warn_of_counter(
    source: str, features: NDArray[np.float64], columns: Sequence[tuple[int, str]]
) -> None:
    """Warn of a first feature that only counts the rows."""
    if features.shape[1] > 1 and len(features) >= 4 and counts_rows(features[:, 0]):
        column, name = columns[0]
        warnings.warn(
            f"{source}: column {column}{f' ({name})' if name else ''} counts the rows and was "
            "taken for a feature; delete it if it is an index",
            stacklevel=2,
        )


def warn_of_labels(source: str, labels: NDArray[np.generic]) -> None:
    """Warn of a last column, taken for the labels, that tells nothing or everything apart."""
    m, count = len(labels), len(np.unique(labels))
    if m < 4 or 1 < count <= max(10, m // 4):
        return
    found = (
        f"is {str(labels[0]).removesuffix('.0')} in every row"
        if count == 1
        else f"has {count} classes in {m} rows"
    )
    warnings.warn(
        f"{source}: the last column was taken for the labels and {found}; name another by "
        "label_column (--label-column), or pass task='regression' (--task regression)",
        stacklevel=2,
    )
