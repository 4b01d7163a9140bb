"""Models in the variables of the authors' MATLAB script: `.mat` files, written and read."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snode._mat5 import MatFile
from snode.backend import creator_namespace, own_error_state, to_host
from snode.fields.activations import Activation, get_activation
from snode.fields.layer import StandaloneField
from snode.io import PathLike, as_encoding, check_reproducible, reading, replacing
from snode.model import Model

__all__ = ["export_mat", "import_mat"]

# Their names and ours. Their table lists "elu 0.2, elu 1" in this order, and that selu stands for
# the second is our reading.
_ACTIVATIONS: dict[str, dict[str, Any]] = {
    "tanh": {"name": "tanh"},
    "relu": {"name": "relu"},
    "sigmoid": {"name": "sigmoid"},
    "lrelu": {"name": "leaky_relu", "alpha": 0.01},
    "srelu": {"name": "smooth_relu", "width": 0.1},
    "slrelu": {"name": "smooth_leaky_relu", "alpha": 0.01, "width": 0.1},
    "elu": {"name": "elu", "alpha": 0.2},
    "selu": {"name": "elu", "alpha": 1.0},
    "softplus": {"name": "softplus"},
}
_REQUIRED = ("Wcell", "Bcell", "actFun", "T", "tResolution")
_ENCODING = ("inputBgEnc", "inputScaleFactor", "inputShift")
_ACCURACIES = ("trainAcc", "testAcc")
_MAX_HISTORY = 10**6
_MANY = 1000
_ZEROS = 96 * 2**20  # a net of zeros, 150 x 196 x 196, takes 122 MB packed in 50 kB


@own_error_state
def export_mat(
    path: PathLike,
    field: StandaloneField,
    *,
    encoding: tuple[float, float] | None = (0.0, -1.0),
    train_accuracy: float = math.nan,
    test_accuracy: float = math.nan,
) -> None:
    r"""Write a field in the variables of the authors' MATLAB script.

    Parameters
    ----------
    path : path
        By habit ``*.mat``; version 5 without compression, which MATLAB and Octave read.
    field : StandaloneField
        With ``interpolation="constant"``. float32 is written as single.
    encoding : (float, float) or None, optional
        Pixel encoding (background, ink) of the training data; None leaves the variables out.
    train_accuracy, test_accuracy : float, optional
        NaN stands for unknown.

    Raises
    ------
    TypeError
        If `field` is not a StandaloneField.
    ValueError
        If the interpolation is not constant, or the activation has no name in their script.
    FileNotFoundError
        If the folder does not exist.

    Notes
    -----
    Variables: cells ``Wcell`` (1 x K of n x n) and ``Bcell`` (1 x K of n x 1), ``actFun``, ``T``,
    ``tResolution`` = K/T, ``inputBgEnc``, ``inputScaleFactor``, ``inputShift``, ``trainAcc``,
    ``testAcc``. Their activation carries the step h and ours does not, so the weights are equal.

    How their script uses the three ``input...`` variables is not published. Our reading: a pixel
    p in [0, 1] becomes ``inputScaleFactor * p + inputShift``, and ``inputBgEnc`` is the value of
    the background, p = 0; thus (background, ink) = (shift, shift + scale).

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import snode
    >>> field = snode.StandaloneField.random(3, 2.0, 10, activation="relu", rng=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "model.mat")
    ...     snode.export_mat(path, field, test_accuracy=0.97)
    ...     model = snode.import_mat(path)
    >>> model.encoding, model.manifest["test_accuracy"], bool((model.field.W == field.W).all())
    ((0.0, -1.0), 0.97, True)
    """
    from scipy.io import savemat

    if type(field) is not StandaloneField:
        raise TypeError(f"field must be a StandaloneField; got {type(field)}")
    if field.interpolation != "constant":
        raise ValueError(
            "only weights that are constant on each cell can be exported; this field has "
            f"interpolation={field.interpolation!r}"
        )
    variables = {
        "Wcell": _to_cell(to_host(field.W)),
        "Bcell": _to_cell(to_host(field.b)[:, :, None]),
        "actFun": _activation_name(field.activation),
        "T": field.T,
        "tResolution": field.n_layers / field.T,
        "trainAcc": float(train_accuracy),
        "testAcc": float(test_accuracy),
        **_encoding_variables(as_encoding(encoding)),
    }
    with replacing(path) as temporary:
        savemat(str(temporary), variables, appendmat=False)


@own_error_state
def import_mat(path: PathLike) -> Model:
    """Read a field from a `.mat` file of the authors' MATLAB script.

    Parameters
    ----------
    path : path
        MATLAB version 5 to 7 (``save -v6``, ``save -v7``), written by MATLAB or Octave.

    Returns
    -------
    Model
        ``model.encoding`` is None unless ``inputScaleFactor`` and ``inputShift`` are there and
        agree with ``inputBgEnc``. ``model.manifest`` has ``train_accuracy`` and ``test_accuracy``
        (None if unknown, the last entry if the file has a history) and, under ``matlab``, the
        texts and numbers as they stood in the file, with None for an accuracy that is not finite.

    Raises
    ------
    ModelFormatError
        If a variable is missing or has the wrong shape, the activation is unknown, the cells do
        not fit T and tResolution, a weight is not finite, the file is damaged, hostile or of
        another version (7.3 is HDF5), or it expands to more than 120 MiB plus 256 times its size.
    FileNotFoundError, IsADirectoryError
        If there is no such file.

    Notes
    -----
    `export_mat` lists the variables and says what we read into them. The file is not read by
    `scipy.io.loadmat`, which a hostile one can crash.

    Examples
    --------
    See `export_mat`.
    """
    with reading(path) as file:
        mat = MatFile(file, _ZEROS)
        if missing := [name for name in _REQUIRED if name not in mat.names]:
            raise ValueError(f"has no variable {', '.join(missing)}")
        name = mat.text("actFun").strip()
        scalars = ("T", "tResolution", *_ENCODING)
        numbers = {key: _number(mat, key) for key in scalars if key in mat.names}
        field = _read_field(mat, name, numbers["T"], numbers["tResolution"])
        histories = {key: _history(mat, key) for key in _ACCURACIES if key in mat.names}
    known = {key: value for key, value in numbers.items() if math.isfinite(value)}
    last = {key: values[-1] for key, values in histories.items() if values}
    accuracies = {key: v[0] if len(v) == 1 else v for key, v in histories.items()}
    manifest = {
        "train_accuracy": last.get("trainAcc"),
        "test_accuracy": last.get("testAcc"),
        "matlab": {"actFun": name, **known, **accuracies},
    }
    return Model(field, _encoding(known), manifest, format_version=None)


# --- to their variables ---------------------------------------------------------------------------


def _to_cell(stack: NDArray[Any]) -> NDArray[Any]:
    cell = np.empty((1, len(stack)), dtype=object)
    for k, matrix in enumerate(stack):
        cell[0, k] = matrix
    return cell


def _activation_name(activation: Activation) -> str:
    for name, spec in _ACTIVATIONS.items():
        if spec == activation.spec:
            check_reproducible(activation)
            return name
    known = ", ".join(f"{spec}" for spec in _ACTIVATIONS.values())
    raise ValueError(f"{activation!r} has no name in the MATLAB script, which knows {known}")


def _encoding_variables(encoding: tuple[float, float] | None) -> dict[str, float]:
    if encoding is None:
        return {}
    background, ink = encoding
    return dict(zip(_ENCODING, (background, ink - background, background), strict=True))


# --- from their variables -------------------------------------------------------------------------


def _number(mat: MatFile, name: str) -> float:
    if math.prod(mat.shape(name)) != 1:
        raise ValueError(f"{name} must be one number; its shape is {mat.shape(name)}")
    return float(mat.array(name).item())


def _history(mat: MatFile, name: str) -> list[float | None]:
    """Return one number or many in their order, with None for those that are not finite."""
    if math.prod(mat.shape(name)) > _MAX_HISTORY:
        raise ValueError(f"{name} must be at most {_MAX_HISTORY} numbers")
    values = mat.array(name).ravel("F").tolist()
    return [float(value) if math.isfinite(value) else None for value in values]


def _encoding(numbers: dict[str, float]) -> tuple[float, float] | None:
    if "inputScaleFactor" not in numbers or "inputShift" not in numbers:
        return None
    scale, shift = numbers["inputScaleFactor"], numbers["inputShift"]
    if numbers.get("inputBgEnc", shift) != shift:  # then our reading of the three is wrong
        return None
    return shift, shift + scale


def _read_field(mat: MatFile, name: str, T: float, resolution: float) -> StandaloneField:
    if name not in _ACTIVATIONS:
        raise ValueError(f"actFun must be one of {', '.join(_ACTIVATIONS)}; got {name!r}")
    claimed = math.prod(mat.shape("Wcell")), math.prod(mat.shape("Bcell"))
    if max(claimed) > _MANY:  # they take time to read: only if they can be right
        _check_layers(*claimed, T, resolution)
    weights, biases = mat.cell("Wcell"), mat.cell("Bcell")
    n = weights[0].shape[0]
    W = _stack("Wcell", weights, [(n, n)])
    b = _stack("Bcell", biases, [(n, 1), (1, n)])
    _check_layers(len(W), len(b), T, resolution)
    xp, dtype = creator_namespace(), np.result_type(W, b)
    return StandaloneField(
        xp.asarray(W.astype(dtype, copy=False)),
        xp.asarray(b.reshape(len(W), n).astype(dtype, copy=False)),
        T,
        activation=get_activation(_ACTIVATIONS[name]),
    )


def _check_layers(weights: int, biases: int, T: float, resolution: float) -> None:
    if weights != biases:
        raise ValueError(f"Wcell has {weights} cells and Bcell {biases}")
    if not abs(T * resolution - weights) <= 0.5:
        raise ValueError(
            f"Wcell has {weights} cells, but T * tResolution = {T:g} * {resolution:g} = "
            f"{T * resolution:g}"
        )


def _stack(name: str, cells: list[NDArray[Any]], shapes: list[tuple[int, int]]) -> NDArray[Any]:
    """Return the matrices as one C-ordered array of float64, or float32 if they are single."""
    for k, cell in enumerate(cells, start=1):
        if cell.shape not in shapes:
            got = " x ".join(map(str, cell.shape))
            raise ValueError(f"{name}{{{k}}} must be {shapes[0][0]} x {shapes[0][1]}; it is {got}")
        if not np.isfinite(cell).all():
            raise ValueError(f"{name}{{{k}}} must be finite; it has NaN or infinite entries")
    stack = np.stack([cell.reshape(shapes[0]) for cell in cells])
    return np.ascontiguousarray(stack, np.float32 if stack.dtype == np.float32 else np.float64)
