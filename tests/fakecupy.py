"""A stand-in for CuPy on the CPU: the same calls, and the same refusals.

What CuPy refuses is refused here: an implicit copy to the host (`np.asarray(device_array)`, passing
one to SciPy), and host arrays among device arrays in an operation, a function or an assignment.
What CuPy does differently from NumPy is done: a reduction or an element is an array of dimension 0,
never a NumPy scalar, and arrays have no writeable flag.

Only names that are known to exist in CuPy are offered, so that code using another one fails here
before it fails on a device. Explicit copies to the host are logged in `copies`, and all that makes
the host wait for a device, these copies among it, in `waits`.

`fuse` gives the function placeholders that can do no more than those of `cupy.fuse`.
"""

import os
import sys
import threading
import types

import numpy as np


def _words(text):
    return frozenset(text.split())


# functions and types with NumPy's meaning; all are in CuPy 14.2 (compared without a device)
NAMES = _words(
    """
    abs absolute add all allclose amax amin any arange argmax argmin argsort array_equal atleast_1d
    atleast_2d bincount bool_ broadcast_to ceil clip column_stack concatenate copysign cos cosh
    count_nonzero cumsum diag diagonal diff divide dot dtype e einsum empty empty_like equal exp
    expand_dims expm1 eye finfo float16 float32 float64 floating floor full full_like greater hstack
    identity inexact inf inner int16 int32 int64 int8 integer isfinite isinf isnan issubdtype kron
    less linspace log log1p logaddexp logical_and logical_not logical_or matmul max maximum mean
    median min minimum moveaxis multiply nan nanmax nanmin negative newaxis nonzero not_equal ones
    ones_like outer pad pi power prod ravel repeat reshape rint roll round searchsorted
    shares_memory sign signbit sin sinh sort sqrt square squeeze stack std subtract sum swapaxes
    take tan tanh tensordot tile trace transpose tril triu uint16 uint32 uint64 uint8 unique
    vdot vstack where zeros zeros_like
    """
)

ELEMENTWISE = _words(
    """
    abs absolute add ceil clip copysign cos cosh divide equal exp expm1 floor greater isfinite isinf
    isnan less log log1p logaddexp logical_and logical_not logical_or maximum minimum multiply
    negative not_equal power rint sign signbit sin sinh sqrt square subtract tan tanh where
    """
)
"""What may stand in a fused function, besides operators."""

WAITING = _words("bincount nonzero unique")
"""Functions whose result has a size that only the device knows: CuPy waits for it."""

copies: list[int] = []
"""Sizes of the arrays that were copied to the host, explicitly."""

waits: list[str] = []
"""What made the host wait for the device, and where: "float() at costs.py:12"."""


def _wait(what):
    frame = sys._getframe(1)
    while frame.f_code.co_filename == __file__:
        frame = frame.f_back
    waits.append(f"{what} at {os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}")


class ndarray:
    """A device array: a NumPy array that nobody else can see."""

    __hash__ = None

    def __init__(self, array):
        self._a = array

    # --- refusals -------------------------------------------------------------------------------

    def __array__(self, *args, **kwargs):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        outs = () if out is None else out
        if out is not None:
            kwargs["out"] = tuple(_unwrap(o) for o in outs)
        result = getattr(ufunc, method)(*map(_unwrap, inputs), **_unwrap(kwargs))
        return outs[0] if len(outs) == 1 else _wrap(result)

    def __array_function__(self, function, kinds, args, kwargs):
        if function.__name__ not in NAMES or not all(issubclass(k, ndarray) for k in kinds):
            return NotImplemented
        return _wrap(function(*_unwrap(args), **_unwrap(kwargs)))

    # --- what any array has ---------------------------------------------------------------------

    def __getattr__(self, name):
        if name not in _ATTRIBUTES and name not in _METHODS:
            raise AttributeError(f"'cupy.ndarray' object has no attribute {name!r}")
        if name in _WAITING_METHODS:
            _wait(f".{name}()")
        value = getattr(self._a, name)
        return _call(value) if name in _METHODS else _wrap(value)

    def get(self):
        _wait("a copy to the host")
        copies.append(self._a.size)
        return self._a.copy()

    @property
    def flags(self):
        own = self._a.flags
        return types.SimpleNamespace(
            c_contiguous=own.c_contiguous, f_contiguous=own.f_contiguous, owndata=own.owndata
        )

    def __getitem__(self, index):
        if _has_mask(index):
            _wait("a mask as index")
        return _wrap(self._a[_unwrap(index)])

    def __setitem__(self, index, value):
        if _has_mask(index) and isinstance(value, ndarray) and value.size > 1:
            _wait("a mask as index")
        self._a[_unwrap(index)] = _unwrap(value)

    def __len__(self):
        return len(self._a)

    def __iter__(self):
        return (_wrap(row) for row in self._a)

    def __bool__(self):
        _wait("bool()")
        return bool(self._a)

    def __float__(self):
        _wait("float()")
        return float(self._a)

    def __int__(self):
        _wait("int()")
        return int(self._a)

    def __repr__(self):
        _wait("repr()")
        return f"device {self._a!r}"

    def __str__(self):
        _wait("str()")
        return str(self._a)

    def __format__(self, spec):
        _wait("format()")
        return format(self._a.item() if self._a.ndim == 0 else self._a, spec)


_METHODS = _words(
    """
    all any argmax argmin argsort astype clip conj copy cumsum diagonal dot fill flatten item max
    mean min nonzero prod ravel repeat reshape round searchsorted sort squeeze std sum swapaxes take
    tobytes tolist trace transpose var view
    """
)
_WAITING_METHODS = _words("item nonzero tobytes tolist")
_ATTRIBUTES = _words("T dtype itemsize nbytes ndim shape size strides")


def _has_mask(index):
    return any(
        isinstance(i, ndarray) and i._a.dtype == bool
        for i in (index if isinstance(index, tuple) else (index,))
    )


class Placeholder:
    """What a fused function gets for an array: operators and elementwise functions, no more."""

    __hash__ = None
    __array_ufunc__ = None  # `np.sin(placeholder)` is refused, as by CuPy

    def __init__(self, array):
        self._a = array
        self.dtype, self.ndim = array.dtype, array.ndim

    def astype(self, dtype):
        return Placeholder(self._a.astype(dtype))

    def copy(self):
        return Placeholder(self._a.copy())

    def __bool__(self):
        raise TypeError("Can't cast to bool")

    def __setitem__(self, index, value):
        if index is not Ellipsis:
            raise ValueError("The fusion supports `[...]` or `[:]`.")
        self._a[...] = _unwrap(value)


def _operators():
    """Give `ndarray` NumPy's operators, through the same checks."""
    binary = "add sub mul truediv floordiv mod pow matmul and or xor lt le eq ne gt ge"
    for name in binary.split():
        for prefix in ("", "r", "i"):
            operator = f"__{prefix}{name}__"
            if hasattr(np.ndarray, operator) and operator != "__imatmul__":
                function = _operator(operator, in_place=prefix == "i")
                setattr(ndarray, operator, function)
                if name not in ("matmul", "and", "or", "xor"):
                    setattr(Placeholder, operator, function)
    for name in ("__neg__", "__pos__", "__abs__", "__invert__"):
        setattr(ndarray, name, _operator(name, in_place=False))
    Placeholder.__neg__ = ndarray.__neg__


def _operator(name, *, in_place):
    def apply(self, *others):
        result = getattr(self._a, name)(*(_unwrap(o) for o in others))
        if result is NotImplemented:
            return result
        return self if in_place else _wrap(result)

    apply.__name__ = name
    return apply


_operators()


_fusing = threading.local()


def _unwrap(x):
    if isinstance(x, ndarray | Placeholder):
        return x._a
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}")
    if isinstance(x, tuple | list):
        return type(x)(_unwrap(i) for i in x)
    if isinstance(x, dict):
        return {k: _unwrap(v) for k, v in x.items()}
    return x


def _wrap(x):
    if isinstance(x, np.ndarray | np.generic):
        return (Placeholder if getattr(_fusing, "now", False) else ndarray)(np.asarray(x))
    if isinstance(x, tuple | list) and any(isinstance(i, np.ndarray) for i in x):
        return type(x)(_wrap(i) for i in x)
    return x


def _call(function):
    def wrapped(*args, **kwargs):
        out = kwargs.get("out")
        result = _wrap(function(*_unwrap(args), **_unwrap(kwargs)))
        return result if out is None else out

    return wrapped


class _Module(types.ModuleType):
    def __getattr__(self, name):
        if name not in NAMES:
            raise AttributeError(f"module 'cupy' has no attribute {name!r} (as far as we know)")
        value = getattr(np, name)
        if not callable(value) or isinstance(value, type):
            return value
        if getattr(_fusing, "now", False) and name not in ELEMENTWISE:
            raise TypeError(f"{name} cannot be fused")
        return _logged(_call(value), name)


def _logged(function, name):
    def logged(*args, **kwargs):
        if name in WAITING or (name == "where" and len(args) == 1):
            _wait(f"{name}()")
        return function(*args, **kwargs)

    return logged


def _fuse(function):
    """Call `function` with placeholders, every time: a test of what it does with them."""

    def fused(*args):
        _fusing.now = True
        try:
            out = function(*(Placeholder(a._a) if isinstance(a, ndarray) else a for a in args))
        finally:
            _fusing.now = False
        if isinstance(out, tuple):
            return tuple(ndarray(o._a) for o in out)
        return None if out is None else ndarray(out._a)

    return fused


def _asarray(a, dtype=None):
    """Copy to the device; a device array is returned as it is."""
    if isinstance(a, ndarray):
        return a if dtype is None or a.dtype == np.dtype(dtype) else a.astype(dtype)
    return ndarray(np.array(a, dtype=dtype))


def _array(a, dtype=None, copy=True):
    return ndarray(np.array(a._a if isinstance(a, ndarray) else a, dtype=dtype))


def _ascontiguousarray(a, dtype=None):
    return ndarray(np.ascontiguousarray(_asarray(a)._a, dtype=dtype))


def _asnumpy(a):
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def make():
    """Return a fresh module to put into ``sys.modules["cupy"]``."""
    module = _Module("cupy")
    module.ndarray = ndarray
    module.array, module.asarray, module.asnumpy = _array, _asarray, _asnumpy
    module.ascontiguousarray, module.fuse = _ascontiguousarray, _fuse
    module.get_array_module = lambda *arrays: (
        module if any(isinstance(a, ndarray) for a in arrays) else np
    )
    copies.clear()
    waits.clear()
    return module


def install():
    """Put the stand-in where `import cupy` finds it; for experiments by hand."""
    sys.modules["cupy"] = make()
    return sys.modules["cupy"]
