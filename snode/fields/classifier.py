r"""A field with a linear read-out: logits :math:`z = V x(T) + c`, trained together."""

from __future__ import annotations

import copy
from types import MappingProxyType
from typing import Any

import numpy as np

from snode.backend import Array, array_namespace, is_array, product, read_only
from snode.copying import Portable
from snode.fields.base import (
    Linearization,
    Parameters,
    check_drawn,
    check_scale,
    is_shareable,
)
from snode.partials import Partials
from snode.seeds import as_generator

__all__ = ["Classifier"]

OWN = ("V", "c")


class Classifier(Portable):
    r"""A field whose outputs are :math:`z = V x(T) + c` instead of x(T).

    The cost acts on z (all C of them), and predictions are the largest z. V and c are parameters
    like those of the field, with the Euclidean inner product. The state is that of the field:
    solving, sensitivity and adjoint are the same.

    Parameters
    ----------
    field : VectorField
        The field; without a read-out of its own.
    V : array (C, n)
        Weights of the read-out, dtype and device of the field. Not copied; do not change it
        afterwards.
    c : array (C,)
        Biases of the read-out.

    Raises
    ------
    ValueError
        If a shape or dtype is wrong, an entry is not finite, or the field has a parameter called V
        or c; names the argument.
    TypeError
        If `field` does not follow the contract, or `V` or `c` is not an array.

    Notes
    -----
    With :math:`\hat p = \partial E/\partial z`, summed over the samples k:
    :math:`\lambda(T) = V^T \hat p`, :math:`\partial E/\partial V = \sum_k \hat p_k x_k(T)^T`,
    :math:`\partial E/\partial c = \sum_k \hat p_k`.

    What else the field has (``T``, ``n_layers``, ``activation``, ``depth_basis``, ...), the
    classifier has too.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> x, y = snode.datasets.two_moons(100, rng=0)
    >>> start = snode.Classifier.random(snode.MLPField((2, 8, 2), rng=0), 2, rng=1)
    >>> result = snode.ncg(start, x, y, snode.Cost(l2=0, ce=1, decay=1e-3, n_classes=2), n_iter=60)
    >>> snode.accuracy(result.field, x, y) > 0.95
    True
    """

    def __init__(self, field: Any, V: Array, c: Array) -> None:
        _check_field(field)
        taken = set(field.parameters) & set(OWN)
        if taken or hasattr(field, "readout"):
            raise ValueError(
                f"field must have no read-out of its own and no parameter called V or c; "
                f"got {field!r}"
            )
        _check_shapes(field, V, c)
        for name, array in (("V", V), ("c", c)):
            if not bool(array_namespace(array).isfinite(array).all()):
                raise ValueError(f"{name} must be finite; it has NaN or infinite entries")
        self._set(field, V, c)

    @classmethod
    def random(
        cls, field: Any, n_classes: int, *, rng: Any = None, scale: float | None = None
    ) -> Classifier:
        """Draw a read-out for a field: independent normal V, zero c.

        Parameters
        ----------
        field : VectorField
            Decides dtype and device.
        n_classes : int
            Number C of outputs.
        rng : seed or numpy.random.Generator, optional
            Drawn on the host: the same numbers on every device.
        scale : float, optional
            Standard deviation of the draws; default 1/sqrt(n).

        Returns
        -------
        Classifier

        Examples
        --------
        >>> import snode
        >>> field = snode.StandaloneField.random(4, 1.0, 10, rng=0)
        >>> snode.Classifier.random(field, 3, rng=0).parameters["V"].shape
        (3, 4)
        """
        if int(n_classes) != n_classes or n_classes < 1:
            raise ValueError(f"n_classes must be a positive integer; got {n_classes!r}")
        if scale is not None:
            check_scale(scale)
        _check_field(field)
        scale = field.n**-0.5 if scale is None else scale
        draws = as_generator(rng).standard_normal((int(n_classes), field.n))
        arrays = list(field.parameters.values())
        xp, dtype = array_namespace(*arrays), arrays[0].dtype if arrays else np.dtype("float64")
        with np.errstate(over="ignore"):
            V, c = (draws * scale).astype(dtype), np.zeros(int(n_classes), dtype)
        check_drawn(V, scale)
        return cls(field, xp.asarray(V), xp.asarray(c))

    # --- the contract ---------------------------------------------------------------------------

    @property
    def n(self) -> int:
        """State dimension."""
        return int(self._field.n)

    @property
    def grid(self) -> Array:
        """The grid of the field."""
        return self._field.grid

    @property
    def breakpoints(self) -> tuple[float, ...]:
        """The breakpoints of the field."""
        return tuple(self._field.breakpoints)

    @property
    def parameters(self) -> Parameters:
        """The parameters of the field, and ``V`` and ``c``; read-only."""
        return self._parameters

    def with_parameters(self, **parameters: Array) -> Classifier:
        """Return this classifier with some parameters of the field, ``V`` or ``c`` replaced.

        Only names, shapes and dtypes are checked, as in the fields.

        Raises
        ------
        ValueError
            If a name is unknown or a shape is wrong.
        """
        unknown = set(parameters) - set(self._parameters)
        if unknown:
            raise ValueError(
                f"unknown parameter {sorted(unknown)}; this field has {', '.join(self._parameters)}"
            )
        V, c = (parameters.pop(name, self._parameters[name]) for name in OWN)
        field = self._field.with_parameters(**parameters) if parameters else self._field
        _check_shapes(field, V, c)
        if V.shape != self.V.shape:
            raise ValueError(f"V must have shape {self.V.shape}; got {V.shape}")
        new = object.__new__(type(self))
        new._set(field, V, c)
        return new

    def __deepcopy__(self, memo: Any) -> Classifier:
        """Return the same classifier with arrays of its own."""
        new = object.__new__(type(self))
        new._set(copy.deepcopy(self._field, memo), self.V.copy(), self.c.copy())
        return new

    def __call__(self, t: float, x: Array) -> Array:
        """Return f(t, x) of the field, shape (n, m)."""
        value: Array = self._field(t, x)
        return value

    def linearize(self, t: float, x: Array) -> tuple[Array, ClassifierLinearization]:
        """Return f(t, x) and its linearisation, in which V and c have no part."""
        value, lin = self._field.linearize(t, x)
        return value, ClassifierLinearization(lin)

    # --- the read-out ---------------------------------------------------------------------------

    @property
    def n_outputs(self) -> int:
        """Number C of outputs."""
        return int(self.V.shape[0])

    @property
    def readout_parameters(self) -> tuple[str, ...]:
        """``("V", "c")``."""
        return OWN

    @property
    def rest(self) -> float:
        """0: the outputs when all parameters are zero."""
        return 0.0

    def readout(self, x_T: Array) -> Array:
        """Return z = V x(T) + c, shape (C, m)."""
        return self.V @ x_T + self.c[:, None]

    def readout_jvp(self, x_T: Array, dx_T: Array, dtheta: Parameters | None = None) -> Array:
        """Return dz = V dx(T) + dV x(T) + dc, shape (C, m)."""
        dz, dtheta = product(self.V, dx_T), dtheta or {}
        if "V" in dtheta:
            dz = dz + dtheta["V"] @ x_T
        if "c" in dtheta:
            dz = dz + dtheta["c"][:, None]
        return dz

    def readout_vjp(self, x_T: Array, p: Array, into: Partials | None = None) -> Array:
        """Return V^T p, shape (..., n, m), and add p x(T)^T and the sum of p over the samples."""
        if into is not None:
            into.outer("V", p, x_T)
            into.total("c", p)
        return product(self.V.T, p)

    # --- what it is -----------------------------------------------------------------------------

    @property
    def field(self) -> Any:
        """The field without the read-out."""
        return self._field

    @property
    def V(self) -> Array:
        """Weights of the read-out, (C, n)."""
        return self._parameters["V"]

    @property
    def c(self) -> Array:
        """Biases of the read-out, (C,)."""
        return self._parameters["c"]

    @property
    def dtype(self) -> Any:
        """float32 or float64."""
        return self.V.dtype

    def __getattr__(self, name: str) -> Any:
        # optional members of the contract: there if and only if the field has them
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._field, name)

    @property
    def is_shareable(self) -> bool:
        """True if several threads may use the field at once: no function of a user in it."""
        return is_shareable(self._field)

    def __repr__(self) -> str:
        return f"Classifier({self._field!r}, n_outputs={self.n_outputs})"

    def _set(self, field: Any, V: Array, c: Array) -> None:
        self._field = field
        own = {"V": read_only(V), "c": read_only(c)}
        self._parameters = MappingProxyType({**field.parameters, **own})


class ClassifierLinearization:
    """Derivative of the field of a `Classifier` at one (t, x)."""

    __slots__ = ("lin",)

    def __init__(self, lin: Linearization) -> None:
        self.lin = lin

    def jvp(self, dx: Array | None, dtheta: Parameters | None = None) -> Array:
        """Return f_x dx + f_theta dtheta; V and c have no part in it."""
        inner = {name: d for name, d in (dtheta or {}).items() if name not in OWN}
        return self.lin.jvp(dx, inner)

    def vjp(self, p: Array, into: Partials | None = None) -> Array:
        """Return f_x^T p, and add the parameter part, in which V and c have no share."""
        return self.lin.vjp(p, into)

    def __getattr__(self, name: str) -> Any:
        # e.g. time_derivative: there if and only if the field's linearisation has it
        if name in self.__slots__ or name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.lin, name)


def _check_field(field: Any) -> None:
    if not all(hasattr(field, name) for name in ("n", "parameters", "linearize")):
        raise TypeError(f"field must follow the vector-field contract; got {type(field)}")


def _check_shapes(field: Any, V: Array, c: Array) -> None:
    for name, array, shape in (("V", V, f"(C, {field.n})"), ("c", c, "(C,)")):
        if not is_array(array):
            raise TypeError(f"{name} must be a NumPy or CuPy array {shape}; got {type(array)}")
    arrays = list(field.parameters.values())
    array_namespace(V, c, *arrays)
    dtypes = (arrays[0].dtype,) if arrays else (np.float32, np.float64)
    if V.dtype not in dtypes:
        raise ValueError(
            f"V must be {' or '.join(str(np.dtype(d)) for d in dtypes)}, as the field; "
            f"got {V.dtype}"
        )
    if V.ndim != 2 or V.shape[0] == 0 or V.shape[1] != field.n:
        raise ValueError(f"V must have shape (C, {field.n}); got {V.shape}")
    if c.shape != V.shape[:1]:
        raise ValueError(f"c must have shape {V.shape[:1]} to fit V {V.shape}; got {c.shape}")
    if c.dtype != V.dtype:
        raise ValueError(f"V and c must have the same dtype; got {V.dtype} and {c.dtype}")
