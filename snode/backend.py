"""Which array library: the only file that names CuPy.

Functions follow the arrays they are given (`array_namespace`). `use_backend` decides only what
*creators* (data sets, random fields) make.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["array_namespace", "creator_namespace", "get_backend", "to_host", "use_backend"]

Array = Any
"""A `numpy.ndarray` or a `cupy.ndarray`."""

_BACKENDS = ("numpy", "cupy")
_creator_backend = "numpy"


def _cupy_if_loaded() -> ModuleType | None:
    # A CuPy array can only exist when CuPy has been imported, so we never import it to find out.
    return sys.modules.get("cupy")


def is_array(x: object) -> bool:
    """Return True for a NumPy or CuPy array (lists, matrices and scalars are not)."""
    cp = _cupy_if_loaded()
    return type(x) is np.ndarray or (cp is not None and isinstance(x, cp.ndarray))


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


# --- threads of BLAS ------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _blas_controller() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


class _SingleThreadedBlas:
    """Within it BLAS has one thread. The limit is the whole process's, so threads share it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.limiter: Any = None

    @contextmanager
    def __call__(self, wanted: bool = True) -> Iterator[None]:
        if not wanted:
            yield
            return
        with self.lock:
            self.users += 1
            if self.users == 1:
                self.limiter = _blas_controller().limit(limits=1, user_api="blas")
        try:
            yield
        finally:
            with self.lock:
                self.users -= 1
                if self.users == 0:
                    self.limiter.restore_original_limits()


single_threaded_blas = _SingleThreadedBlas()
