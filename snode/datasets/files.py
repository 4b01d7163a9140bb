"""`load_dataset`: a user's own data from any supported format."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

from snode.backend import own_error_state
from snode.datasets.assembly import RawData, Scaling, assemble
from snode.datasets.base import Dataset
from snode.datasets.headers import warn_of_labels
from snode.datasets.idx import is_idx, read_idx_folder, read_idx_pair
from snode.datasets.mat import read_mat
from snode.datasets.npz import read_npz
from snode.datasets.table import read_table

__all__ = ["load_dataset"]

_EXTENSIONS = {
    ".npz": "npz",
    ".npy": "npz",  # read_npz says what to do instead
    ".mat": "mat",
    ".csv": "table",
    ".tsv": "table",
    ".txt": "table",
}
_MAGIC = {b"PK\x03\x04": "npz", b"MATL": "mat", b"\x1f\x8b": "idx"}
_SUPPORTED = (
    ".npz, .mat (version 7 or older), .csv, .tsv or .txt or an IDX images file (gzipped or not), "
    "or a folder with IDX files"
)
_READERS: dict[str, tuple[Callable[..., RawData], tuple[str, ...]]] = {
    "folder": (read_idx_folder, ()),
    "idx": (read_idx_pair, ()),
    "npz": (read_npz, ("samples",)),
    "mat": (read_mat, ("samples",)),
    "table": (read_table, ("label_column", "delimiter", "header")),
}
"""Format -> its reader and the options of `load_dataset` that the reader takes."""


@own_error_state
def load_dataset(
    path: str | PathLike[str],
    *,
    encoding: tuple[float, float] | None = None,
    image_encoding: tuple[float, float] | None = None,
    full_scale: float | None = None,
    dtype: Any = "float32",
    name: str | None = None,
    task: str = "classification",
    samples: str | None = None,
    label_column: int | str | None = None,
    delimiter: str | None = None,
    header: bool | None = None,
) -> Dataset:
    """Load a data set from a file or folder; the format is told by extension or first bytes.

    Parameters
    ----------
    path : str or path-like
        One of

        - `.npz` (`numpy.savez`): arrays ``x_train, y_train`` and, optionally,
          ``x_test, y_test`` and the texts ``feature_names``;
        - `.mat` (MATLAB or Octave, ``-v7`` or older): variables of the same names;
        - `.csv`, `.tsv`, `.txt`, gzipped or not: one sample per line, a column of labels, perhaps
          a header row and an index in front, as pandas, R and `numpy.savetxt` write them;
        - an IDX images file, gzipped or not, beside its labels file (``images`` in the name
          replaced by ``labels``);
        - a folder with ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and, optionally,
          the two ``t10k-`` (or ``test-``) files, with ``-`` or ``.`` before ``idx``, gzipped or
          not, also below it in ``raw`` or ``NAME/raw`` as torchvision puts them.

        Reading a compressed file may take 24 MiB and 256 times its size. In `.npz` and
        `.mat` files `x_train` may also be called ``X_train, xtrain, Xtrain, x, X`` or ``images``,
        `y_train` likewise, or ``labels``.
    encoding : (float, float), optional
        Values (background, ink) that pixel intensities 0 and 1 become. By default uint8 data
        are pixels and become numbers in [0, 1], and all other data are left as they are. If
        given, other data are taken for intensities between 0 and `full_scale`, too ((0, 1) without
        a `full_scale` leaves them as they are).
    image_encoding : (float, float), optional
        The encoding of uint8 images, arrays (m, h, w), if `encoding` is not given. Images of floats
        are left as they are.
    full_scale : float, optional
        File value of full ink: by default 255 for uint8 data and 1 for others.
    dtype : {"float32", "float64"}
        Type of the features (and of float targets).
    name : str, optional
        Name of the data set, by default that of the file or folder.
    task : {"classification", "regression"}
        Whether y holds labels (integers or strings, sorted and numbered 0, ..., C-1, the
        originals kept in ``classes``) or float targets.
    samples : {"rows", "columns"}, optional
        `.npz` and `.mat` only: whether samples lie along the first axis of the file's arrays or
        along the last. By default as the number of labels says; where it leaves both, the first
        for `.npz` and the last for `.mat`. Images are (m, h, w) or
        (h, w, m), respectively.
    label_column : int or str, optional
        Tables only: index from 0 (negative from the end) or header name of the column of labels
        or targets. By default the column that the header calls label, class, target, species or
        similar, else the last.
    delimiter : str, optional
        Tables only: by default the one of tab, semicolon, comma and space that fits.
    header : bool, optional
        Tables only: whether the first row holds names. By default told by its cells; refused
        where it could be either.

    Returns
    -------
    Dataset
        One column per sample. Without a test set in the file, `Dataset.split` makes one. The header
        of a table gives its `feature_names`.

    Raises
    ------
    FileNotFoundError
        If `path`, or a file that belongs to it, does not exist.
    ValueError
        If the format is not supported, the file is damaged (or hostile: nothing in it is ever
        executed), counts do not match, or values are not finite numbers; the message names the
        file and the place.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from snode.datasets import load_dataset
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "tiny.npz")
    ...     np.savez(path, x=np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]), y=[1, 2, 2])
    ...     data = load_dataset(path)
    >>> data
    Dataset('tiny': 2 features, 3 training + 0 test samples, 2 classes, float32)
    >>> data.x_train[:, 0], data.y_train, data.classes
    (array([0., 1.], dtype=float32), array([0, 1, 1]), array([1, 2]))
    """
    path = Path(path)
    scaling = Scaling.checked(encoding, full_scale)
    kind = _format(path)
    reader, accepted = _READERS[kind]
    options = {
        "samples": samples,
        "label_column": label_column,
        "delimiter": delimiter,
        "header": header,
    }
    given = {key: value for key, value in options.items() if value is not None}
    for key in given:
        if key not in accepted:
            raise ValueError(
                f"{key} does not apply to this format ({kind}); it takes "
                f"{', '.join(accepted) or 'no such options'}"
            )
    raw = reader(path, **given)
    if encoding is None and raw.x_train.ndim == 3 and raw.x_train.dtype == "uint8":
        scaling = Scaling.checked(image_encoding, full_scale)
    data = assemble(
        raw, scaling=scaling, dtype=dtype, name=_name(path) if name is None else name, task=task
    )
    if raw.labels_guessed and task == "classification":
        warn_of_labels(raw.source, raw.y_train)
    return data


def _format(path: Path) -> str:
    if not path.exists():
        raise FileNotFoundError(f"path: no file or folder {path}")
    if path.is_dir():
        return "folder"
    extension = path.suffix.lower()
    if extension == ".gz":
        return _packed_format(path)
    if extension in _EXTENSIONS:
        return _EXTENSIONS[extension]
    with path.open("rb") as file:
        head = file.read(8)
    if is_idx(head):
        return "idx"
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    raise ValueError(
        f"{path}: unknown format (extension {extension!r}, first bytes "
        f"{head.hex(' ') or 'none'}); expected {_SUPPORTED}"
    )


def _packed_format(path: Path) -> str:
    """Return the format inside of a gzipped file, by the extension before .gz."""
    inner = _EXTENSIONS.get(Path(path.stem).suffix.lower(), "idx")
    if inner not in ("idx", "table"):
        raise ValueError(f"{path}: only tables and IDX files may be gzipped; gunzip it")
    return inner


def _name(path: Path) -> str:
    return path.name.removesuffix(".gz").split(".")[0] or path.resolve().name
