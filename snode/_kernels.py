"""Numba kernels of the CPU hot path; the only file that imports Numba.

Arrays in, outputs filled; sums are not reordered, the GIL is released. Each kernel has a NumPy twin
in the tests. Scalars must come in the dtype of the arrays.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import math
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial, wraps
from pathlib import Path
from typing import Any, ClassVar

import numba
import numba.experimental.function_type  # functions as arguments of kernels
import numpy as np
from numba import types
from numba.core import caching
from numba.extending import typeof_impl
from numba.misc import appdirs

# --- the cache of compiled code -------------------------------------------------------------------
# It is a convenience: whatever is wrong with it, the kernels are compiled and the run goes on.


_caching: Any = caching
_config: Any = numba.config
_AppDirs: Any = appdirs.AppDirs


class _Files(_caching.IndexDataCacheFile):  # type: ignore[misc]
    """The files of one kernel, each with a checksum: damaged machine code must not be run."""

    def _save_data(self, name: str, data: Any) -> None:
        content = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(content + hashlib.sha256(content).digest())  # who reads it stops before

    def _load_data(self, name: str) -> Any:
        content = Path(self._data_path(name)).read_bytes()
        if content[-32:] != hashlib.sha256(content[:-32]).digest():
            raise ValueError(f"{name}: the checksum is wrong")
        return super()._load_data(name)


_Provided: Any = _caching.CompileResultCacheImpl._locator_classes[0]  # the user's


class _OwnFolder(_Provided):  # type: ignore[misc]
    """``NUMBA_CACHE_DIR``, else a folder of the user; never that of the package.

    Files beside the modules would stay behind when the package is uninstalled. The folder is named
    after the content of the module, so that copies of it share what is compiled.
    """

    def __init__(self, py_func: Any, py_file: str, folder: Path) -> None:
        self._py_file, self._lineno = py_file, py_func.__code__.co_firstlineno
        self._content = _content(py_file)
        self._cache_path = str(folder / f"kernels-{self._content}")

    def get_source_stamp(self) -> str:
        """Return what must be the same for a compiled function to be used."""
        return self._content

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> Any:
        """Return a locator whose folder can be written; None: no cache."""
        if not os.path.exists(py_file):  # in a zip archive, for example
            return None
        for folder in _folders():
            self = cls(py_func, py_file, folder)
            with contextlib.suppress(OSError):
                self.ensure_cache_path()
                return self
        return None


@cache
def _content(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]


def _folders() -> Iterator[Path]:
    if _config.CACHE_DIR:
        yield Path(_config.CACHE_DIR)
        return
    with contextlib.suppress(RuntimeError, OSError):
        yield Path(_AppDirs(appname="snode", appauthor=False).user_cache_dir, "numba")
    with contextlib.suppress(OSError, AttributeError):  # no home: a folder that is ours alone
        folder = Path(tempfile.gettempdir(), f"snode-{os.getuid()}")
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o77:
            yield folder


class _Implementation(_caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes: ClassVar = [_OwnFolder]


class _Cache(_caching.FunctionCache):  # type: ignore[misc]
    """A cache that may be damaged, full or read-only."""

    _impl_class = _Implementation
    _cache_file: Any

    def __init__(self, py_func: Any) -> None:
        super().__init__(py_func)
        old: Any = self._cache_file
        self._cache_file = _Files(old._cache_path, self._impl.filename_base, old._source_stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled function, or None if there is none that can be used."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # damaged content can raise anything
            _report(f"{self._cache_file._index_path} cannot be read", error)
            with contextlib.suppress(Exception):
                self.flush()  # the next process finds an empty cache
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the compiled function, if that is possible."""
        try:
            super().save_overload(sig, data)
        except Exception as error:  # no room, read-only, ...
            _report(f"{self._cache_file._index_path} cannot be written", error)
            self.disable()


def _report(what: str, error: Exception) -> None:
    """Log the first fault of the cache in this process."""
    if not _reported:
        _reported.append(what)
        reason = f"{type(error).__name__}: {error}"
        _log.warning("the cache of compiled code %s (%s); compiling without it", what, reason)


_reported: list[str] = []
_log = logging.getLogger("snode")


def _kernel(function: Callable[..., Any], **options: Any) -> Any:
    # NumPy's error model: a division needs no test for zero, and vectorises
    options |= {"nogil": True, "error_model": "numpy"}
    if _config.DISABLE_JIT:  # to debug: slow, and right
        return _plain(function)
    dispatcher = numba.njit(**options)(function)
    try:
        dispatcher._cache = _Cache(function)
    except (RuntimeError, OSError) as error:  # no folder: compile in every process
        _report(f"has no folder that can be written: {', '.join(map(str, _folders()))}", error)
    return dispatcher


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function as it is, as silent as compiled code."""

    @wraps(function)
    def call(*arguments: Any) -> Any:
        with np.errstate(all="ignore"):
            return function(*arguments)

    return call


# --- products: BLAS called from compiled code ----------------------------------------------------

_ROWS, _PLAIN, _TRANSPOSED = np.int32(101), np.int32(111), np.int32(112)


class _Gemm(types.WrapperAddressProtocol):
    """The function cblas_?gemm of the BLAS that NumPy has loaded, as a value for kernels.

    It is an argument of the kernels, not a constant in them, so that they can be cached.
    """

    def __init__(self, function: Any, number: Any) -> None:
        i, size, pointer = types.int32, types.int64, types.uintp
        self.function = function  # keeps the library loaded
        self.address = ctypes.cast(function, ctypes.c_void_p).value
        arguments = (i, i, i, size, size, size, number, pointer, size, pointer, size)
        signature = types.void(*arguments, number, pointer, size)
        self.type = types.FunctionType(signature)

    def __wrapper_address__(self) -> Any:
        return self.address

    def signature(self) -> Any:
        return self.type.signature


@typeof_impl.register(_Gemm)
def _typeof_gemm(value: _Gemm, _: Any) -> Any:
    return value.type  # made once: Numba would make it at every call of a kernel


@cache
def blas_gemm(dtype: str) -> _Gemm | None:
    """Return NumPy's matrix product for "float32" or "float64"; None: use SciPy's, via Numba.

    NumPy's wheels bring OpenBLAS with 64-bit integers, a newer one than SciPy's.
    """
    from threadpoolctl import threadpool_info

    if _config.DISABLE_JIT:
        return None
    letter, number = ("s", types.float32) if dtype == "float32" else ("d", types.float64)
    for library in threadpool_info():
        if library["user_api"] != "blas":
            continue
        loaded = ctypes.CDLL(library["filepath"])
        for name in (f"scipy_cblas_{letter}gemm64_", f"cblas_{letter}gemm64_"):
            if hasattr(loaded, name):
                return _Gemm(getattr(loaded, name), number)
    return None


@_kernel
def product(gemm, alpha, a, b, beta, out):  # type: ignore[no-untyped-def]
    """Out = alpha a b + beta out, with beta 0 or 1."""
    if gemm is None:
        if beta == 0:
            np.dot(a, b, out)
            if alpha != 1:
                out *= alpha
        else:
            out += alpha * np.dot(a, b)
    else:
        gemm(
            _ROWS, _PLAIN, _PLAIN, a.shape[0], b.shape[1], a.shape[1], alpha, a.ctypes.data,
            a.shape[1], b.ctypes.data, b.shape[1], beta, out.ctypes.data, b.shape[1],
        )  # fmt: skip


@_kernel
def product_nt(gemm, alpha, a, b, out):  # type: ignore[no-untyped-def]
    """Out += alpha a b^T."""
    if gemm is None:
        out += alpha * np.dot(a, b.T)
    else:
        gemm(
            _ROWS, _PLAIN, _TRANSPOSED, a.shape[0], b.shape[0], a.shape[1], alpha, a.ctypes.data,
            a.shape[1], b.ctypes.data, b.shape[1], out.dtype.type(1), out.ctypes.data, b.shape[0],
        )  # fmt: skip


@_kernel
def product_tn(gemm, a, b, beta, out):  # type: ignore[no-untyped-def]
    """Out = a^T b + beta out, with beta 0 or 1."""
    if gemm is None:
        if beta == 0:
            np.dot(a.T, b, out)
        else:
            out += np.dot(a.T, b)
    else:
        gemm(
            _ROWS, _TRANSPOSED, _PLAIN, a.shape[1], b.shape[1], a.shape[0], out.dtype.type(1),
            a.ctypes.data, a.shape[1], b.ctypes.data, b.shape[1], beta, out.ctypes.data, b.shape[1],
        )  # fmt: skip


# --- elementwise, over whole samples: flat arrays, `bias` repeated along them ---------------------


@_kernel
def leaky_step(a, bias, h, alpha, x, x_next):  # type: ignore[no-untyped-def]
    """One Euler step of (leaky) ReLU: x_next = x + h sigma(a+b), and a = sigma'(a+b), in place.

    One name for what is one array: with two, the loop would be run without vectors.
    """
    one, zero = a.dtype.type(1), a.dtype.type(0)
    for j in range(a.size):
        v = a[j] + bias[j]
        s = one if v > 0 else alpha
        a[j] = s
        # relu(-inf) is 0, not 0 * -inf; NaN stays NaN
        y = zero if s == 0 and v < 0 else s * v
        x_next[j] = x[j] + h * y


@partial(_kernel, fastmath={"contract"})  # a * b + c may be rounded once; nothing else
def tanh_step(a, bias, h, x, x_next):  # type: ignore[no-untyped-def]
    """As `leaky_step` for tanh in float32, within 1.5 units of rounding.

    A loop over the C library's tanh would not vectorise. Below 0.625 a polynomial, fitted to the
    relative error; above, 1 - 2 / (exp(2 |v|) + 1), with exp(r + k log 2) = 2^k exp(r).
    """
    zero, half = np.float32(0), np.float32(0.5)
    one, two, top = np.float32(1), np.float32(2), np.float32(20)
    for j in range(a.size):
        v = a[j] + bias[j]
        size = -v if v < zero else v
        t = v * v
        s = np.float32(-0.00570498)
        s = s * t + np.float32(0.02063908)
        s = s * t + np.float32(-0.05373971)
        s = s * t + np.float32(0.13331442)
        s = s * t + np.float32(-0.33333282)
        small = v + v * (t * s)
        z = size + size
        z = z if z < top else top
        k = np.floor(z * np.float32(1 / math.log(2)) + half)
        r = z - k * np.float32(0.693359375)  # log 2 in two parts: the first times k is exact
        r = r - k * np.float32(math.log(2) - 0.693359375)
        e = np.float32(1 / 5040)
        e = e * r + np.float32(1 / 720)
        e = e * r + np.float32(1 / 120)
        e = e * r + np.float32(1 / 24)
        e = e * r + np.float32(1 / 6)
        e = e * r + half
        e = e * r + one
        e = e * r + one
        power = np.int32((np.int32(k) + np.int32(127)) << np.int32(23)).view(np.float32)
        large = one - two / (e * power + one)
        large = -large if v < zero else large
        y = small if size < np.float32(0.625) else large
        y = y if v == v else v  # NaN stays NaN
        x_next[j] = x[j] + h * y
        a[j] = one - y * y


@_kernel
def repeat_row(row, out):  # type: ignore[no-untyped-def]
    """Out = (row, row, ...)."""
    for start in range(0, out.size, row.size):
        for j in range(row.size):
            out[start + j] = row[j]


@_kernel
def scaled_step(slope, lam, q, acc):  # type: ignore[no-untyped-def]
    """Q = slope * lam and acc += q, flat arrays."""
    for j in range(q.size):
        v = slope[j] * lam[j]
        q[j] = v
        acc[j] += v


@_kernel
def tangent_step(u, bias, h, slope, xi):  # type: ignore[no-untyped-def]
    """Xi += h sigma'(a) * (u + db), flat arrays."""
    for j in range(xi.size):
        xi[j] += h * (slope[j] * (u[j] + bias[j]))


# --- sweeps through the layers for the samples r0..r1 ---------------------------------------------
# States are (m, n), a sample a row, and W holds the transposed weights: then the products of the
# direct and the sensitivity problem need no transposition, and the samples of one thread are one
# piece of memory. Inside of a sweep the interpreter is not asked for anything.


@_kernel
def forward_sweep(gemm, is_tanh, alpha, h, W, b, x, slope, r0, r1, bias):  # type: ignore[no-untyped-def]
    """Euler steps: x[k+1] = x[k] + h sigma(x[k] W + b), slope[k] = sigma'."""
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for k in range(slope.shape[0]):
        product(gemm, one, x[k][r0:r1], W[k], zero, slope[k][r0:r1])
        repeat_row(b[k], bias)
        before, after = x[k][r0:r1].reshape(-1), x[k + 1][r0:r1].reshape(-1)
        a = slope[k][r0:r1].reshape(-1)
        for i in range(0, a.size, bias.size):
            j = min(i + bias.size, a.size)
            if is_tanh:
                tanh_step(a[i:j], bias, h, before[i:j], after[i:j])
            else:
                leaky_step(a[i:j], bias, h, alpha, before[i:j], after[i:j])


@_kernel
def adjoint_sweep(gemm, h, W, slope, lam, q, gb, k0, k1, r0, r1, acc):  # type: ignore[no-untyped-def]
    """Adjoint steps k1-1, ..., k0: q[k-k0] = slope[k] * lam, lam += h q W^T; gb[k] += sum(q)."""
    for k in range(k1 - 1, k0 - 1, -1):
        part = q[k - k0][r0:r1]
        qk, sk, lk = part.reshape(-1), slope[k][r0:r1].reshape(-1), lam[r0:r1].reshape(-1)
        acc[:] = 0
        for i in range(0, qk.size, acc.size):
            j = min(i + acc.size, qk.size)
            scaled_step(sk[i:j], lk[i:j], qk[i:j], acc)
        g = gb[k]
        for i in range(0, acc.size, g.size):
            for j in range(g.size):
                g[j] += acc[i + j]
        product_nt(gemm, h, part, W[k], lam[r0:r1])


@_kernel
def tangent_sweep(gemm, h, W, dW, db, x, slope, xi, u, r0, r1, bias):  # type: ignore[no-untyped-def]
    """Sensitivity steps: xi += h slope[k] * (xi W + x[k] dW + db)."""
    zero, one = x.dtype.type(0), x.dtype.type(1)
    z, v = xi[r0:r1], u[r0:r1]
    zf, vf = z.reshape(-1), v.reshape(-1)
    for k in range(slope.shape[0]):
        product(gemm, one, x[k][r0:r1], dW[k], zero, v)
        product(gemm, one, z, W[k], one, v)
        repeat_row(db[k], bias)
        sk = slope[k][r0:r1].reshape(-1)
        for i in range(0, zf.size, bias.size):
            j = min(i + bias.size, zf.size)
            tangent_step(vf[i:j], bias, h, sk[i:j], zf[i:j])


@_kernel
def add_products(a, b, acc):  # type: ignore[no-untyped-def]
    """Acc += a * b in float64, flat arrays."""
    for c in range(acc.size):
        acc[c] += np.float64(a[c]) * np.float64(b[c])


@_kernel
def finish_layer(g, decay, theta, d, g_old, acc, dots):  # type: ignore[no-untyped-def]
    """For one layer: g += decay theta; dots += (g.g, g.g_old, g.d) in float64.

    `d` and `g_old` may have no rows, then they count as zero. `acc` holds (3, columns) numbers:
    one sum per column vectorises, a single sum would not.
    """
    n, m = g.shape
    acc[:] = 0.0
    for i in range(n):
        row = g[i]
        if decay != 0:
            for j in range(m):
                row[j] += decay * theta[i, j]
        add_products(row, row, acc[0])
        if g_old.shape[0] > 0:
            add_products(row, g_old[i], acc[1])
        if d.shape[0] > 0:
            add_products(row, d[i], acc[2])
    for i in range(3):
        dots[i] += acc[i].sum()


@_kernel
def gradient_layers(  # type: ignore[no-untyped-def]
    gemm, x, q, m, beta, g, k0, k1, first, step, finish, decay, theta, d, g_old, acc, dots
):
    """Sum over m samples: g[k] = x[k]^T q[k-k0] + beta g[k], for k = k0 + first, + step, ...

    If `finish`, each layer goes through `finish_layer`; `d` and `g_old` may have no layers.
    """
    for k in range(k0 + first, k1, step):
        product_tn(gemm, x[k][:m], q[k - k0][:m], beta, g[k])
        if finish:
            none = g[k][:0]
            dk = d[k] if d.shape[0] > 0 else none
            old = g_old[k] if g_old.shape[0] > 0 else none
            finish_layer(g[k], decay, theta[k], dk, old, acc, dots)


# --- parameters: flat arrays ----------------------------------------------------------------------


@_kernel
def add_scaled(step, base, direction, out):  # type: ignore[no-untyped-def]
    """Out = base + step * direction, flat arrays; `out` may be `base`."""
    for i in range(base.size):
        out[i] = base[i] + step * direction[i]


@_kernel
def scale_and_subtract(beta, direction, gradient):  # type: ignore[no-untyped-def]
    """Direction = beta * direction - gradient, flat arrays."""
    for i in range(direction.size):
        direction[i] = beta * direction[i] - gradient[i]


@_kernel
def riesz_block(inverse_pivots, ratios, r, d, g_old, c0, c1, work, dots):  # type: ignore[no-untyped-def]
    """Solve the tridiagonal systems of columns c0..c1 of `r` in place, and form three dot products.

    With p the right-hand sides and g the solutions, dots = (p.g, p.g_old, p.d), in float64. `d`
    and `g_old` may be empty (their dot products stay 0). `work` holds (K, c1 - c0) numbers. Rows
    are sliced before the inner loops: only then does the compiler know that the indices are not
    negative, and vectorises.
    """
    K = r.shape[0]
    width = c1 - c0
    acc = np.zeros((3, width))
    work[0, :width] = r[0, c0:c1]
    for k in range(1, K):
        e = ratios[k - 1]
        row, before, now = r[k, c0:c1], work[k - 1], work[k]
        for c in range(width):
            now[c] = row[c] - e * before[c]
    now = work[K - 1]
    for c in range(width):
        now[c] *= inverse_pivots[K - 1]
    for k in range(K - 1, -1, -1):
        now = work[k]
        if k < K - 1:
            e, p, after = ratios[k], inverse_pivots[k], work[k + 1]
            for c in range(width):
                now[c] = now[c] * p - e * after[c]
        row = r[k, c0:c1]
        add_products(row, now, acc[0])
        if g_old.size > 0:
            add_products(row, g_old[k, c0:c1], acc[1])
        if d.size > 0:
            add_products(row, d[k, c0:c1], acc[2])
        for c in range(width):
            row[c] = now[c]
    for i in range(3):
        dots[i] = acc[i].sum()


@_kernel
def lanczos_step(basis, k, v, alpha, beta):  # type: ignore[no-untyped-def]
    """Alpha = basis[k].v; v loses its parts along basis[0..k], twice; beta = |v|.

    Then basis[k+1] = v / beta, or zero where beta vanishes. `basis` is (steps + 1, n, s) and v
    (n, s), overwritten; every column is a Lanczos process of its own.
    """
    n, s = v.shape
    parts = np.empty((k + 1, s), v.dtype)
    for turn in range(2):
        parts[:] = 0
        for j in range(k + 1):
            part, q = parts[j], basis[j]
            for i in range(n):
                row, column = v[i], q[i]
                for c in range(s):
                    part[c] += column[c] * row[c]
        if turn == 0:
            alpha[:] = parts[k]
        for j in range(k + 1):
            part, q = parts[j], basis[j]
            for i in range(n):
                row, column = v[i], q[i]
                for c in range(s):
                    row[c] -= part[c] * column[c]
    beta[:] = 0
    for i in range(n):
        add_products(v[i], v[i], beta)
    scale = parts[0]
    for c in range(s):
        beta[c] = np.sqrt(beta[c])
        scale[c] = 1 / beta[c] if beta[c] > 1e-14 else 0
    for i in range(n):
        row, new = v[i], basis[k + 1, i]
        for c in range(s):
            new[c] = row[c] * scale[c]
