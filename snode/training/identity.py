"""What makes a resumed run the run that it was: its data and its field."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from snode.backend import Array, to_host

__all__ = ["checksum", "data_identity", "field_identity"]


def data_identity(x: Array, y: Array, x_test: Array | None, y_test: Array | None) -> dict[str, int]:
    """Return the number of samples, and checksums of all entries of the four arrays."""
    return {
        "number of samples": int(x.shape[1]),
        "checksum of x": checksum(x),
        "checksum of y": _of_labels(y),
        "checksum of x_test": checksum(x_test),
        "checksum of y_test": _of_labels(y_test),
    }


def _of_labels(y: Array | None) -> int:
    # not their dtype: a file of int32 labels is the same data as one of int64
    return checksum(y, None if y is None or y.dtype.kind == "f" else np.int64)


def checksum(array: Array | None, dtype: Any = None) -> int:
    """Return the CRC-32 of shape, dtype and all entries; a gigabyte takes about a second.

    Examples
    --------
    >>> import numpy as np
    >>> from snode.training.identity import checksum
    >>> x = np.arange(6.0).reshape(2, 3)
    >>> checksum(x) == checksum(np.asfortranarray(x)), checksum(x) == checksum(x + 1)
    (True, False)
    """
    if array is None:
        return 0
    host = to_host(array)
    dtype = host.dtype if dtype is None else np.dtype(dtype)
    crc = zlib.crc32(f"{host.shape} {dtype}".encode())
    for row in host if host.ndim > 1 else (host,):  # copies a row at most, whatever the order
        crc = zlib.crc32(np.ascontiguousarray(row, dtype=dtype).data.cast("B"), crc)
    return crc


def field_identity(field: Any) -> list[Any]:
    """Return what, besides its parameters, makes a field the same as another."""
    # the repr is for people: it rounds T and leaves the activation's parameters out
    activation = getattr(field, "activation", None)
    identity = [repr(field), getattr(field, "T", None), getattr(activation, "spec", None)]
    if hasattr(field, "output_activation"):
        identity.append(field.output_activation.spec)
    return identity
