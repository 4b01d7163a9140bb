"""Which array library: the only file that names CuPy.

Functions follow the arrays they are given (`array_namespace`). `use_backend` decides only what
*creators* (data sets, random fields) make.

A copy from the device to the host makes the host wait until the device has done all that was asked
of it. There are two such copies here, `to_host` and `to_host_together`, and `as_number` leaves a
number where it is.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache, wraps
from types import ModuleType
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np

__all__ = ["array_namespace", "creator_namespace", "get_backend", "to_host", "use_backend"]

Array = Any
"""A `numpy.ndarray` or a `cupy.ndarray`."""

T = TypeVar("T")
P = ParamSpec("P")

_BACKENDS = ("numpy", "cupy")
_creator_backend = "numpy"


def _cupy_if_loaded() -> ModuleType | None:
    # A CuPy array can only exist when CuPy has been imported, so we never import it to find out.
    return sys.modules.get("cupy")


def is_array(x: object) -> bool:
    """Return True for a NumPy or CuPy array, mapped from a file or not.

    Lists, scalars, `numpy.matrix` and masked arrays are none.
    """
    cp = _cupy_if_loaded()
    return type(x) in (np.ndarray, np.memmap) or (cp is not None and isinstance(x, cp.ndarray))


def plain(x: Any) -> Any:
    """Return an array mapped from a file as an ordinary one, without a copy; all else as it is."""
    return x.view(np.ndarray) if type(x) is np.memmap else x


def array_namespace(*arrays: Array) -> Any:
    """Return the module (`numpy` or `cupy`) that owns the given arrays.

    Parameters
    ----------
    *arrays : array
        NumPy or CuPy arrays; anything that is neither counts as NumPy.

    Returns
    -------
    module
        `cupy` if all arrays live on the device, else `numpy`.

    Raises
    ------
    TypeError
        If host and device arrays are mixed: nothing is copied between devices silently.

    Examples
    --------
    >>> import numpy as np
    >>> from snode.backend import array_namespace
    >>> array_namespace(np.ones(3)).__name__
    'numpy'
    """
    cp = _cupy_if_loaded()
    if cp is None:
        return np
    if getattr(_fusing, "now", False):
        return cp
    on_device = [isinstance(a, cp.ndarray) for a in arrays]
    if not any(on_device):
        return np
    if not all(on_device):
        raise TypeError(
            "host (NumPy) and device (CuPy) arrays are mixed; move all of them with "
            "cupy.asarray(...) or all of them back with cupy.asnumpy(...)"
        )
    return cp


def use_backend(name: str) -> None:
    """Choose what creators (data sets, random fields) return: ``"numpy"`` or ``"cupy"``.

    Everything else follows the arrays it is given.

    Raises
    ------
    ValueError
        If `name` is not one of the two.
    ImportError
        If CuPy is asked for and not installed.
    """
    global _creator_backend
    if name not in _BACKENDS:
        raise ValueError(f"name must be one of {', '.join(_BACKENDS)}; got {name!r}")
    if name == "cupy":
        try:
            import cupy  # noqa: F401
        except ImportError as error:
            raise ImportError(
                "the CuPy backend needs CuPy: pip install 'snode[gpu12]' or 'snode[gpu13]'"
            ) from error
    _creator_backend = name


def get_backend() -> str:
    """Return the name of the backend that creators use."""
    return _creator_backend


def creator_namespace() -> Any:
    """Return the array module that creators should make their results with."""
    if _creator_backend == "cupy":
        import cupy

        return cupy
    return np


def to_host(x: Array) -> np.ndarray[Any, Any]:
    """Return `x` as a NumPy array; the one explicit device-to-host copy."""
    cp = _cupy_if_loaded()
    if cp is not None and isinstance(x, cp.ndarray):
        host: np.ndarray[Any, Any] = cp.asnumpy(x)
        return host
    return np.asarray(x)


def to_host_together(*values: Any) -> list[Any]:
    """Return numbers and arrays as float64 arrays on the host, with one copy for all of them.

    Each result has the shape of its value. What is on the host already, `None` and Python numbers
    among it, is returned as it is.
    """
    cp = _cupy_if_loaded()
    there = [] if cp is None else [v for v in values if isinstance(v, cp.ndarray)]
    if cp is None or not there:
        return list(values)
    flat = to_host(cp.concatenate([v.astype(np.float64).reshape(-1) for v in there]))
    ends = np.cumsum([v.size for v in there])
    parts = iter(np.split(flat, ends[:-1]))
    return [next(parts).reshape(v.shape) if isinstance(v, cp.ndarray) else v for v in values]


def as_number(x: Any) -> Any:
    """Return a sum as a float; on a device it stays an array of dimension 0, and nobody waits."""
    cp = _cupy_if_loaded()
    return x if cp is not None and isinstance(x, cp.ndarray) else float(x)


def from_device(value: Any) -> Any:
    """Return a device array, or a list or tuple of them, as NumPy arrays; all else as it is.

    For what works on the host by nature, such as the eigenvalues of LAPACK; `follow` is its way
    back.
    """
    if isinstance(value, list | tuple):
        return [from_device(item) for item in value]
    return to_host(value) if is_on_device(value) else value


def follow(value: T, *arrays: Any) -> T:
    """Return `value` with its NumPy arrays moved to where `arrays` are.

    Goes into tuples and dataclasses. What is no array, named tuples (tables of a history) among it,
    stays as it is; so do `arrays` that are no arrays.
    """
    xp = array_namespace(*_arrays_in(arrays))
    return value if xp is np else cast(T, _moved(value, xp))


def _arrays_in(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _arrays_in(value)
        elif is_array(value):
            yield value


def _moved(value: Any, xp: Any) -> Any:
    if isinstance(value, np.ndarray):
        return xp.asarray(value)
    if type(value) is tuple:
        return tuple(_moved(item, xp) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _moved(getattr(value, f.name), xp) for f in fields(value)})
    return value


def is_on_device(x: Any) -> bool:
    """Return True for a CuPy array."""
    cp = _cupy_if_loaded()
    return cp is not None and isinstance(x, cp.ndarray)


# --- fused elementwise functions ------------------------------------------------------------------

_fusing = threading.local()


def fuse(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` as one kernel on a device (`cupy.fuse`), and as it is on the host.

    It may use arithmetic, comparisons, ``astype`` and elementwise functions of
    `array_namespace`, take arrays and Python numbers, and write its results with ``out[...] =``
    to arrays that it is given. It must not look at shapes.
    """
    kernels: dict[Any, Callable[..., Any]] = {}

    @wraps(function)
    def traced(*arguments: Any) -> Any:
        # CuPy calls this once for each combination of dtypes, with placeholders for the arrays
        _fusing.now = True
        try:
            return function(*arguments)
        finally:
            _fusing.now = False

    @wraps(function)
    def call(*arguments: Any) -> Any:
        xp = array_namespace(*(a for a in arguments if hasattr(a, "ndim")))
        if xp is np:
            return function(*arguments)
        if xp not in kernels:
            kernels[xp] = xp.fuse(traced)
        return kernels[xp](*arguments)

    return call


def describe_devices() -> str:
    """Return one line about the GPU: its name, or why none is used."""
    try:
        import cupy
    except ImportError:
        return "none (CuPy is not installed)"
    try:
        properties = cupy.cuda.runtime.getDeviceProperties(0)
    except Exception as error:  # any driver failure means: no usable device
        return f"none ({type(error).__name__}: {error})"
    return str(properties["name"].decode())


# --- NumPy's error state --------------------------------------------------------------------------


def own_error_state(function: Callable[P, T]) -> Callable[P, T]:
    """Return `function` with NumPy's default error state: a door of the package.

    What comes out must not depend on ``np.seterr`` of the caller, whose harmless underflows would
    end a training. The functions of a user that are called on the way run in this state, too.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"):
            return function(*args, **kwargs)

    return call


# --- threads of BLAS ------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _blas_libraries() -> list[Any]:
    import scipy.linalg.cython_blas  # noqa: F401  # Numba may use it: it must be there to be found
    from threadpoolctl import ThreadpoolController

    found = ThreadpoolController().lib_controllers
    return [library for library in found if library.user_api == "blas"]


class _SingleThreadedBlas:
    """Within it BLAS has one thread. The limit is the whole process's, so threads share it.

    The libraries are asked directly: threadpoolctl's own context manager takes a tenth of an
    iteration of a small network.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.threads: list[int] = []

    @contextmanager
    def __call__(self, wanted: bool = True) -> Iterator[None]:
        if not wanted:
            yield
            return
        with self.lock:
            self.users += 1
            if self.users == 1:
                self.threads = [library.get_num_threads() for library in _blas_libraries()]
                for library in _blas_libraries():
                    library.set_num_threads(1)
        try:
            yield
        finally:
            with self.lock:
                self.users -= 1
                if self.users == 0:
                    for library, count in zip(_blas_libraries(), self.threads, strict=True):
                        library.set_num_threads(count)


single_threaded_blas = _SingleThreadedBlas()


def product(A: Array, x: Array) -> Array:
    """Return A x for x of shape (..., n, m), as one product of matrices.

    Examples
    --------
    >>> import numpy as np
    >>> from snode.backend import product
    >>> product(np.ones((4, 3)), np.ones((5, 3, 2))).shape
    (5, 4, 2)
    """
    if x.ndim == 2:
        return A @ x
    xp = array_namespace(A, x)
    columns = xp.moveaxis(x, -2, 0)
    result = (A @ columns.reshape(x.shape[-2], -1)).reshape(len(A), *columns.shape[1:])
    return xp.moveaxis(result, 0, -2)


def read_only(array: Array) -> Array:
    """Return a view that cannot be written to; CuPy arrays as they are."""
    if type(array) is not np.ndarray:
        return array
    view = array.view()
    view.flags.writeable = False
    return view
