"""Data sets in MATLAB and Octave `.mat` files: full real arrays under the names of their roles."""

from __future__ import annotations

from pathlib import Path

from snode._mat5 import MatFile, MatFileError
from snode.datasets.assembly import RawData
from snode.datasets.variables import raw_from_variables

__all__ = ["read_mat"]


def read_mat(path: Path, samples: str | None = None) -> RawData:
    """Return the variables of a `.mat` file that play the four roles, samples first.

    Raises
    ------
    ValueError
        If the file is not of version 5 to 7, is damaged, or lacks a variable.
    """
    with path.open("rb") as file:
        try:
            mat = MatFile(file)
            return raw_from_variables(str(path), mat.names, mat.array, "columns", samples)
        except MatFileError as error:
            raise ValueError(f"{path}: {error}") from error
