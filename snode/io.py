"""Saving and loading: fields and training checkpoints as safetensors files.

A model file is data, never a program: nothing in it is run, imported or unpickled, and no size it
claims is believed before it has been compared with the length of the file. Whatever is wrong with
the content is a `ModelFormatError` that names the file.

The container is a `safetensors <https://huggingface.co/docs/safetensors>`_ file whose metadata
holds one key, ``snode``, with a JSON text: format version and header.
"""

from __future__ import annotations

import errno
import glob
import json
import math
import os
import platform
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as brief
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from snode.backend import Array, creator_namespace, is_array, own_error_state, to_host
from snode.datasets.featurenames import checked_feature_names, storable_feature_names
from snode.fields.activations import Activation, get_activation
from snode.fields.classifier import Classifier
from snode.fields.layer import StandaloneField
from snode.fields.mlp import MLPField
from snode.model import Model, checked_classes, checked_standardisation
from snode.results import ModelFormatError

__all__ = ["Model", "load", "load_arrays", "save", "save_arrays"]

FORMAT_VERSION = 2
_FIRST_VERSION = 1  # still written where nothing of version 2 is in the file
_STANDARDISATION = ("standardisation mean", "standardisation scale")  # no parameter has a space
_MAX_HEADER = 2**20  # bytes; W and b need 200, the rest is the manifest
_MAX_JSON = 2**24  # bytes of a JSON file, such as the table of a sweep
_MAX_NESTING = 32
_MAX_LAYERS = 10**6  # cells of a grid whose size the arrays do not tell
_DTYPES = {
    code: np.dtype(f"<{kind}")
    for code, kind in (
        *(("BOOL", "b1"), ("F32", "f4"), ("F64", "f8")),
        *(("U8", "u1"), ("U16", "u2"), ("U32", "u4"), ("U64", "u8")),
        *(("I8", "i1"), ("I16", "i2"), ("I32", "i4"), ("I64", "i8")),
    )
}

PathLike = str | os.PathLike[str]


# --- fields ---------------------------------------------------------------------------------------


@own_error_state
def save(
    path: PathLike,
    field: Any,
    *,
    encoding: tuple[float, float] | None = None,
    manifest: Mapping[str, Any] | None = None,
    classes: Any = None,
    standardisation: tuple[Array, Array] | None = None,
    feature_names: Any = None,
) -> None:
    """Write a field to a safetensors file.

    The file appears complete or not at all; one that was there before is replaced. A symbolic link
    is followed.

    Parameters
    ----------
    path : path
        By habit ``*.safetensors``. The folder must exist.
    field : StandaloneField, MLPField or Classifier
        On the device or the host; dtype and values are kept bit for bit.
    encoding : (float, float), optional
        Pixel encoding (background, ink) of the data the field was trained on.
    manifest : mapping, optional
        Anything that JSON can hold, under 1 MiB: versions, seed, options, numbers.
    classes : sequence of str or numbers, optional
        Names of the classes in the order of the outputs, e.g. `Dataset.classes`.
    standardisation : (mean, scale), two (n,) float arrays, optional
        The field takes ``(sample - mean) / scale``: `Dataset.standardisation`. The file then has
        format version 2, which older versions of snode refuse.
    feature_names : sequence of n texts, optional
        Names of the features in the order of the inputs, e.g. `Dataset.feature_names`.

    Raises
    ------
    TypeError
        If this type of field cannot be saved, or the manifest is not JSON.
    ValueError
        If a weight is not finite, the encoding is not a pair of numbers, the manifest holds NaN,
        there are more classes than outputs or one twice, the standardisation or the names of the
        features do not fit, or the activation is not the one that its name stands for (see
        `register_activation`).
    FileNotFoundError
        If the folder does not exist.
    PermissionError
        If the file is there and write-protected.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import snode
    >>> from snode import io
    >>> field = snode.StandaloneField.random(3, 1.0, 10, rng=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "model.safetensors")
    ...     io.save(path, field, encoding=(0.0, -1.0), manifest={"seed": 0})
    ...     model = io.load(path)
    >>> model.manifest, bool((model.field.W == field.W).all())
    ({'seed': 0}, True)
    """
    field_header = _field_header(field)
    arrays = {key: to_host(array) for key, array in field.parameters.items()}
    for key, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{key} must be finite to be saved; it has NaN or infinite entries")
    header: dict[str, Any] = {
        "kind": "field",
        "field": field_header,
        "encoding": as_encoding(encoding),
        "manifest": dict(manifest or {}),
    }
    if classes is not None:
        header["classes"] = checked_classes(
            list(to_host(classes) if is_array(classes) else classes), field
        )
    if feature_names is not None:
        header["feature_names"] = storable_feature_names(feature_names, field.n)
    if standardisation is not None:
        numbers = checked_standardisation(standardisation, field)
        arrays |= dict(zip(_STANDARDISATION, map(to_host, numbers), strict=True))
    version = _FIRST_VERSION if standardisation is None else FORMAT_VERSION
    _write(path, arrays, header, version)


@own_error_state
def load(path: PathLike) -> Model:
    """Read a field that `save` wrote.

    Parameters
    ----------
    path : path

    Returns
    -------
    Model
        ``model.field``, ``model.encoding``, ``model.manifest``.

    Raises
    ------
    ModelFormatError
        If the content is damaged, hostile, not finite, of an unknown type or written by a newer
        snode, or if it needs an activation that has not been registered.
    FileNotFoundError, IsADirectoryError
        If there is no such file.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from snode import io
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "model.safetensors")
    ...     _ = path.write_bytes(b"not a model")
    ...     io.load(path)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    snode.results.ModelFormatError: ...model.safetensors: not a safetensors file (...)
    """
    with reading(path) as file:
        arrays, header, version = _read(file)
        if header["kind"] != "field":
            raise ValueError(f"holds {brief(header['kind'])}, not a field; read it by load_arrays")
        manifest = header.get("manifest")
        if not isinstance(manifest, dict):
            raise ValueError("has no manifest")
        numbers = [arrays.pop(name, None) for name in _STANDARDISATION]
        field = _build_field(header.get("field"), arrays)
        classes, names = header.get("classes"), header.get("feature_names")
        return Model(
            field=field,
            encoding=as_encoding(header.get("encoding")),
            manifest=manifest,
            format_version=version,
            classes=None if classes is None else np.array(checked_classes(classes, field)),
            standardisation=_built_standardisation(numbers, field),
            feature_names=None if names is None else checked_feature_names(names, field.n),
        )


def _built_standardisation(numbers: list[Any], field: Any) -> tuple[Array, Array] | None:
    if all(array is None for array in numbers):
        return None
    xp = creator_namespace()
    return checked_standardisation([None if a is None else xp.asarray(a) for a in numbers], field)


def _standalone_to_header(field: StandaloneField) -> dict[str, Any]:
    check_reproducible(field.activation)
    return {
        "T": field.T,
        "activation": field.activation.spec,
        "interpolation": field.interpolation,
    }


def _standalone_from_header(header: dict[str, Any], arrays: dict[str, Array]) -> StandaloneField:
    _check_names(header, {"type", "T", "activation", "interpolation"}, "field header")
    _check_names(arrays, {"W", "b"}, "arrays")
    if not isinstance(header["interpolation"], str):
        raise ValueError(f"interpolation must be a name; got {brief(header['interpolation'])}")
    return StandaloneField(
        arrays["W"],
        arrays["b"],
        _as_number(header["T"], "T"),
        activation=_build_activation(header["activation"]),
        interpolation=header["interpolation"],
    )


def _mlp_to_header(field: MLPField) -> dict[str, Any]:
    check_reproducible(field.activation)
    check_reproducible(field.output_activation)
    return {
        "T": field.T,
        "n_layers": field.n_layers,
        "activation": field.activation.spec,
        "output_activation": field.output_activation.spec,
        "time": field.time,
    }


def _mlp_from_header(header: dict[str, Any], arrays: dict[str, Array]) -> MLPField:
    names = {"type", "T", "n_layers", "activation", "output_activation", "time"}
    _check_names(header, names, "field header")
    n_layers = header["n_layers"]
    if type(n_layers) is not int or not 1 <= n_layers <= _MAX_LAYERS:
        raise ValueError(f"n_layers must be an integer in 1..{_MAX_LAYERS}; got {brief(n_layers)}")
    if not isinstance(header["time"], str):
        raise ValueError(f"time must be a name; got {brief(header['time'])}")
    k = len(arrays) // 2
    _check_names(arrays, {f"{kind}{i + 1}" for i in range(max(k, 1)) for kind in "Wb"}, "arrays")
    return MLPField.from_parameters(
        arrays,
        activation=_build_activation(header["activation"]),
        time=header["time"],
        output_activation=_build_activation(header["output_activation"]),
        T=_as_number(header["T"], "T"),
        n_layers=n_layers,
    )


def _classifier_to_header(field: Classifier) -> dict[str, Any]:
    return {"field": _field_header(field.field)}


def _classifier_from_header(header: dict[str, Any], arrays: dict[str, Array]) -> Classifier:
    _check_names(header, {"type", "field"}, "field header")
    if not {"V", "c"} <= set(arrays):
        raise ValueError(f"arrays must hold V and c; got {brief(sorted(arrays))}")
    inner = header["field"]
    if isinstance(inner, dict) and inner.get("type") == "Classifier":
        raise ValueError("a Classifier cannot hold a Classifier")
    rest = {name: array for name, array in arrays.items() if name not in ("V", "c")}
    return Classifier(_build_on_device(inner, rest), arrays["V"], arrays["c"])


# Name in the header -> class, how it becomes a header, how it is built again.
_FIELDS: dict[str, tuple[type, Callable[[Any], dict[str, Any]], Callable[..., Any]]] = {
    "StandaloneField": (StandaloneField, _standalone_to_header, _standalone_from_header),
    "MLPField": (MLPField, _mlp_to_header, _mlp_from_header),
    "Classifier": (Classifier, _classifier_to_header, _classifier_from_header),
}


def _field_header(field: Any) -> dict[str, Any]:
    name = type(field).__name__
    if name not in _FIELDS or type(field) is not _FIELDS[name][0]:
        raise TypeError(f"field must be one of {', '.join(_FIELDS)}; got {type(field)}")
    return {"type": name, **_FIELDS[name][1](field)}


def _build_field(header: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    xp = creator_namespace()
    return _build_on_device(header, {name: xp.asarray(array) for name, array in arrays.items()})


def _build_on_device(header: Any, arrays: dict[str, Array]) -> Any:
    if not isinstance(header, dict) or not isinstance(header.get("type"), str):
        raise ValueError("has no field type")
    if header["type"] not in _FIELDS:
        raise ValueError(
            f"unknown field type {brief(header['type'])}; this snode knows {', '.join(_FIELDS)}"
        )
    return _FIELDS[header["type"]][2](header, arrays)


def _build_activation(spec: Any) -> Activation:
    if not isinstance(spec, dict) or not isinstance(spec.get("name"), str):
        raise ValueError("has no activation name")
    params = {key: _as_number(spec[key], f"activation {key}") for key in spec if key != "name"}
    try:
        return get_activation(spec["name"], **params)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"cannot build its activation ({error}); one of your own must be registered with "
            "register_activation before loading"
        ) from error


def check_reproducible(activation: Activation) -> None:
    """Raise unless the table builds the same function again from the name and parameters."""
    try:
        rebuilt = get_activation(activation.spec)
    except ValueError as error:
        raise ValueError(
            f"{activation!r} cannot be saved: only its name is written; register it with "
            f"register_activation ({error})"
        ) from error
    a = np.linspace(-3.0, 3.0, 13)
    if not np.array_equal(rebuilt(a), activation(a)):
        raise ValueError(
            f"activation cannot be saved: the name {activation.name!r} stands for another function"
        )


# --- the container --------------------------------------------------------------------------------


def save_arrays(path: PathLike, arrays: Mapping[str, Array], header: Mapping[str, Any]) -> None:
    """Write named arrays and a JSON header to a safetensors file, e.g. a training checkpoint.

    Parameters
    ----------
    path : path
        Written as by `save`: complete or not at all.
    arrays : mapping of str to array
        Booleans, integers, float32 and float64 of any shape, NumPy or CuPy; NaN is allowed.
    header : mapping
        What JSON can hold, with a text ``kind`` that says what the file is. No NaN or infinity
        (put them in an array); tuples come back as lists.

    Raises
    ------
    TypeError
        If a value is not an array, or the header is not JSON.
    ValueError
        If a dtype is not supported, `header` has no ``kind``, holds NaN, or is over 1 MiB.
    FileNotFoundError
        If the folder does not exist.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from snode import io
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "checkpoint.safetensors")
    ...     io.save_arrays(path, {"order": np.arange(3)}, {"kind": "checkpoint", "epoch": 2})
    ...     io.load_arrays(path)
    ({'order': array([0, 1, 2])}, {'kind': 'checkpoint', 'epoch': 2})
    """
    _write(path, arrays, header, _FIRST_VERSION)


def _write(
    path: PathLike, arrays: Mapping[str, Array], header: Mapping[str, Any], version: int
) -> None:
    from safetensors.numpy import save as serialize

    if not isinstance(header.get("kind"), str):
        raise ValueError(f"header must have a text 'kind'; got {brief(header.get('kind'))}")
    text = _to_json({"format_version": version, "header": dict(header)})
    plain = {name: _as_plain(name, array) for name, array in arrays.items()}
    # not safetensors' save_file: what that writes, only the owner may read
    content = serialize(plain, metadata={"snode": text})
    length = int.from_bytes(content[:8], "little")
    if length > _MAX_HEADER:
        raise ValueError(f"the header takes {length} bytes of JSON, over {_MAX_HEADER}")
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def load_arrays(path: PathLike) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read what `save_arrays` wrote.

    Parameters
    ----------
    path : path

    Returns
    -------
    arrays : dict of str to numpy.ndarray
        On the host, writable, bit for bit what was saved.
    header : dict

    Raises
    ------
    ModelFormatError
        If the content is damaged, hostile or written by a newer snode.
    FileNotFoundError, IsADirectoryError
        If there is no such file.

    Examples
    --------
    See `save_arrays`.
    """
    with reading(path) as file:
        arrays, header, _ = _read(file)
    return arrays, header


@dataclass(frozen=True)
class _Tensor:
    """One checked line of a safetensors header."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


def _read(file: BinaryIO) -> tuple[dict[str, NDArray[Any]], dict[str, Any], int]:
    """Return arrays, header and format version; memory is bounded by the length of the file."""
    size = os.fstat(file.fileno()).st_size
    lines = _read_header(file, size)
    header, version = _open_envelope(lines.pop("__metadata__", None))
    tensors = [_check_tensor(name, line) for name, line in lines.items()]
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    _check_layout(tensors, size - file.tell())
    return {tensor.name: _read_tensor(file, tensor) for tensor in tensors}, header, version


def _read_header(file: BinaryIO, size: int) -> dict[str, Any]:
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > min(_MAX_HEADER, size - 8):
        raise ValueError(f"not a safetensors file ({_likely(start, length)})")
    lines = parse_json(file.read(length).decode("utf-8"))
    if not isinstance(lines, dict):
        raise ValueError("the header is not a JSON object")
    return lines


def _likely(start: bytes, length: int) -> str:
    for magic, what in (
        (b"\x80", "it looks like a pickle, which is never loaded: it could run any code"),
        (b"PK", "it is a zip archive, as .npz and PyTorch files are"),
        (b"MATLAB", "it is a MATLAB file: read it by import_mat"),
    ):
        if start.startswith(magic):
            return what
    return f"it claims a header of {length} bytes, more than it holds or over {_MAX_HEADER}"


def _open_envelope(metadata: Any) -> tuple[dict[str, Any], int]:
    text = metadata.get("snode") if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise ValueError("has no snode header: it was not written by snode")
    envelope = parse_json(text)
    version = envelope.get("format_version") if isinstance(envelope, dict) else None
    if type(version) is not int or version < 1:
        raise ValueError(f"the format version must be a positive integer; got {brief(version)}")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"written by a newer snode (format {brief(version)}; this one reads up to "
            f"{FORMAT_VERSION})"
        )
    header = envelope.get("header")
    if not isinstance(header, dict) or not isinstance(header.get("kind"), str):
        raise ValueError("its snode header has no kind")
    return header, version


def _check_tensor(name: str, line: Any) -> _Tensor:
    where = f"array {brief(name)}"
    if not isinstance(line, dict) or set(line) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{where}: must have dtype, shape and data_offsets")
    code, shape, offsets = line["dtype"], line["shape"], line["data_offsets"]
    if not isinstance(code, str) or code not in _DTYPES:
        raise ValueError(f"{where}: dtype must be one of {', '.join(_DTYPES)}; got {brief(code)}")
    if not _are_counts(shape) or len(shape) > 32:
        raise ValueError(f"{where}: shape must be at most 32 sizes; got {brief(shape)}")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"{where}: data_offsets must be two positions; got {brief(offsets)}")
    needed = math.prod(shape) * _DTYPES[code].itemsize
    if needed != offsets[1] - offsets[0]:
        raise ValueError(
            f"{where}: shape {brief(shape)} needs {brief(needed)} bytes, its place in the file "
            f"has {offsets[1] - offsets[0]}"
        )
    return _Tensor(name, _DTYPES[code], tuple(shape), *offsets)


def _check_layout(tensors: list[_Tensor], held: int) -> None:
    """Raise unless the tensors follow each other without gaps up to the end of the file."""
    position = 0
    for tensor in tensors:
        if tensor.begin != position:
            raise ValueError(f"array {brief(tensor.name)}: overlaps another or leaves a gap")
        position = tensor.end
    if position != held:
        raise ValueError(f"truncated or padded: the arrays take {position} bytes, it has {held}")


def _read_tensor(file: BinaryIO, tensor: _Tensor) -> NDArray[Any]:
    # every size has been checked: what is left is a plain read, without the copies of a parser
    array = np.fromfile(file, dtype=tensor.dtype, count=math.prod(tensor.shape))
    if tensor.dtype == np.bool_ and array.view(np.uint8).max(initial=0) > 1:
        raise ValueError(f"array {brief(tensor.name)}: booleans must be stored as 0 and 1")
    return array.reshape(tensor.shape)


def _as_plain(name: Any, array: Array) -> NDArray[Any]:
    """Return a host array that safetensors can write, C-ordered and little-endian."""
    if not isinstance(name, str) or name == "__metadata__":
        raise ValueError(f"an array cannot be called {name!r}")
    if not is_array(array):
        raise TypeError(f"array {name!r} must be a NumPy or CuPy array; got {type(array)}")
    dtype = array.dtype.newbyteorder("<")
    if dtype not in _DTYPES.values():
        raise ValueError(f"array {name!r} must have dtype {', '.join(_DTYPES)}; got {array.dtype}")
    return np.asarray(to_host(array), dtype=dtype, order="C")


# --- files ----------------------------------------------------------------------------------------


@contextmanager
def reading(path: PathLike) -> Iterator[BinaryIO]:
    """Yield the open file, and turn what is wrong with its content into a `ModelFormatError`."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a model file")
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise ModelFormatError(f"{path}: not a regular file")
    with path.open("rb") as file:
        try:
            yield file
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise ModelFormatError(f"{path}: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; raise ModelFormatError if it holds anything else."""
    with reading(path) as file:
        text = file.read(_MAX_JSON + 1)
        if len(text) > _MAX_JSON:
            raise ValueError(f"must hold at most {_MAX_JSON} bytes of JSON")
        try:
            content = parse_json(text.decode("utf-8"))
        except ValueError as error:
            raise ValueError(f"is not JSON: {error}") from error
        if not isinstance(content, dict):
            raise ValueError("must hold a JSON object")
        return content


@contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """Yield a temporary path in the same folder, and move the file there to `path` at the end.

    A symbolic link is followed; the permissions of a file that is replaced stay.

    Raises
    ------
    PermissionError
        If the file is write-protected: moving another one over it would not ask.
    OSError
        If the folder does not exist, or the path is no regular file or a loop of links.
    """
    path = _destination(Path(path))
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
    _remove_left_over(path)
    temporary = _temporary(path)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if mode is not None:
            temporary.chmod(mode)
        temporary.replace(path)
    except OSError as error:
        if error.filename is None:  # a full disk is reported without a name
            if error.errno is None:
                raise OSError(f"{path}: {error}") from error
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def check_destination(path: PathLike, name: str) -> None:
    """Raise unless `replacing` can write this file: a long computation must not find out late.

    Raises
    ------
    ValueError
        If the path is empty, or holds a null character.
    OSError
        As `replacing`; also if the name is too long, or the folder lets nobody write. `name`
        stands in the message.
    """
    if not os.fspath(path):
        raise ValueError(f"{name} must be the path of a file; got an empty one")
    try:
        file = _temporary(_destination(Path(path)))
        file.touch(exist_ok=False)
        file.unlink()
    except ValueError as error:
        raise ValueError(f"{name} must be the path of a file; got {path!r}: {error}") from error
    except OSError as error:
        why = error.strerror or str(error)
        where = f"{os.fspath(path)!s}: " if error.strerror else ""
        raise type(error)(f"{name} cannot be written: {where}{why}") from error


def _temporary(path: Path) -> Path:
    own = f"{os.getpid()}-{platform.node()}"
    return path.with_name(f".{path.name}.{own}-{os.urandom(4).hex()}.tmp")


def _destination(path: Path) -> Path:
    """Return the file that writing to `path` means, or raise if it must not be written."""
    named = str(path)
    if path.is_symlink():
        path = Path(os.path.realpath(path))
        if path.is_symlink():
            raise OSError(errno.ELOOP, "the symbolic links form a loop", named)
        named += f" (a link to {path})"
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{named}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise IsADirectoryError(f"{named} is a folder")
    if path.exists():
        if not path.is_file():
            raise OSError(errno.EINVAL, "is no regular file", named)
        # the mode, too: root may write to everything
        if not path.stat().st_mode & 0o222 or not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, "the file is write-protected", named)
    return path


def _remove_left_over(path: Path) -> None:
    """Remove temporary files of `path` whose writer was killed."""
    for old in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        try:
            pid, _, rest = old.name[len(path.name) + 2 :].partition("-")
            if pid.isdecimal() and rest.startswith(f"{platform.node()}-"):
                over = not _is_running(int(pid))
            else:  # another machine's, or an older snode's: no write takes that long
                over = time.time() - old.stat().st_mtime > 60
            if over:
                old.unlink()
        except OSError:
            continue  # someone else was faster, or may not


def _is_running(pid: int) -> bool:
    if os.name == "nt":  # os.kill would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


# --- JSON that can be trusted ---------------------------------------------------------------------


def _to_json(value: dict[str, Any]) -> str:
    """Return strict JSON that `parse_json` accepts."""
    try:
        text = json.dumps(value, allow_nan=False, default=_plain_number)
        parse_json(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the header or manifest cannot be stored as JSON: {error}") from error
    return text


def _plain_number(value: object) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"the header or manifest must be JSON; it holds {type(value)}")


def parse_json(text: str) -> Any:
    """Parse JSON that has no NaN, no infinity, no repeated key and little nesting."""
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_float=_finite_float,
            parse_constant=_finite_float,
        )
        _check_nesting(value, _MAX_NESTING)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError(f"a key is repeated; it has {brief([k for k, _ in pairs])}")
    return value


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is not finite")
    return value


def _check_nesting(value: Any, left: int) -> None:
    if not isinstance(value, dict | list):
        return
    if left == 0:
        raise ValueError(f"it is nested more than {_MAX_NESTING} deep")
    for item in value.values() if isinstance(value, dict) else value:
        _check_nesting(item, left - 1)


def _check_names(mapping: Mapping[str, Any], names: set[str], what: str) -> None:
    if set(mapping) != names:
        raise ValueError(f"{what} must be {sorted(names)}; got {brief(sorted(mapping))}")


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**62 for v in values)


def _as_number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise ValueError(f"{name} must be a number; got {brief(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite; got {brief(value)}")
    return number


def as_encoding(value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"encoding must be a pair (background, ink); got {brief(value)}")
    return _as_number(value[0], "background"), _as_number(value[1], "ink")
