"""The vector-field contract: what a network must offer to be solved, trained and analysed."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any, Protocol, runtime_checkable

import numpy as np

from snode.backend import Array
from snode.partials import Partials

__all__ = ["Linearization", "Readout", "VectorField"]

Parameters = Mapping[str, Array]


@runtime_checkable
class Linearization(Protocol):
    """The derivative of f at one (t, x), with everything it needs remembered."""

    def jvp(self, dx: Array | None, dtheta: Parameters | None = None) -> Array:
        """Return f_x dx + f_theta dtheta; either part may be None.

        `dx` may have axes before the last two, (..., n, m): several directions for each sample.
        """

    def vjp(self, p: Array, into: Partials | None = None) -> Array:
        """Return f_x^T p, and add f_theta^T p, summed over the samples, to `into`.

        Without `into` no parameter part is formed. `p` may have axes before the last two, as `dx`.

        A linearisation may also have ``time_derivative()``, which returns f_t, shape (n, m).
        """


@runtime_checkable
class VectorField(Protocol):
    """The right-hand side f(t, x; theta) of x' = f and its derivatives.

    Fields are immutable values. What follows is optional:

    - ``depth_basis`` names the parameters that are functions of depth; the others are plain
      numbers with the Euclidean inner product;
    - ``rest``, a number, is x(T) for x(0) = 0 when all parameters are zero: what the output term
      of the cost compares x(T) with;
    - the members of `Readout`.
    """

    @property
    def n(self) -> int:
        """State dimension."""

    @property
    def grid(self) -> Array:
        """Depths (K + 1,) at which fixed-step methods step unless they are told otherwise."""

    @property
    def breakpoints(self) -> tuple[float, ...]:
        """Interior depths where f jumps; fixed steps must land on them."""

    @property
    def parameters(self) -> Parameters:
        """Flat mapping name -> array."""

    def with_parameters(self, **parameters: Array) -> Any:
        """Return the same field with some parameters replaced."""

    def __call__(self, t: float, x: Array) -> Array:
        """Return f(t, x), shape (n, m), for x of shape (n, m)."""

    def linearize(self, t: float, x: Array) -> tuple[Array, Linearization]:
        """Return f(t, x) and the linearisation there; nothing is computed twice."""


@runtime_checkable
class Readout(Protocol):
    """What a field has more when the cost and the predictions act on z(x(T)), not on x(T)."""

    @property
    def n_outputs(self) -> int:
        """Number C of components of z."""

    @property
    def readout_parameters(self) -> tuple[str, ...]:
        """Names of the parameters that the read-out uses; they are among ``parameters``."""

    def readout(self, x_T: Array) -> Array:
        """Return z, shape (C, m), for final states x(T) of shape (n, m)."""

    def readout_jvp(self, x_T: Array, dx_T: Array, dtheta: Parameters | None = None) -> Array:
        """Return z_x dx(T) + z_theta dtheta, shape (C, m)."""

    def readout_vjp(self, x_T: Array, p: Array, into: Partials | None = None) -> Array:
        """Return z_x^T p, shape (..., n, m), and add z_theta^T p to `into`."""


def is_shareable(field: Any) -> bool:
    """Return True if several threads may use the field at once.

    Not where a function of a user takes part: it may work in one buffer again and again.
    """
    own = type(field).__module__.startswith("snode.")
    return own and bool(getattr(type(field), "is_shareable", False) and field.is_shareable)


def has_readout(field: Any) -> bool:
    """Return True if the cost acts on ``field.readout(x_T)``."""
    return hasattr(field, "readout")


def n_outputs(field: Any) -> int:
    """Return the number of components that the cost acts on."""
    return int(field.n_outputs if has_readout(field) else field.n)


def outputs(field: Any, x_T: Array) -> Array:
    """Return what the cost acts on: the read-out of x(T), or x(T) itself."""
    return field.readout(x_T) if has_readout(field) else x_T


def outputs_jvp(field: Any, x_T: Array, dx_T: Array, dtheta: Parameters | None = None) -> Array:
    """Return the derivative of `outputs` along (dx(T), dtheta)."""
    return field.readout_jvp(x_T, dx_T, dtheta) if has_readout(field) else dx_T


def outputs_vjp(field: Any, x_T: Array, p: Array, into: Partials | None = None) -> Array:
    """Return the transpose of `outputs_jvp` times p, and add its parameter part to `into`."""
    return field.readout_vjp(x_T, p, into) if has_readout(field) else p


def check_scale(scale: Any) -> None:
    """Raise unless `scale` can be a standard deviation of drawn weights."""
    if not _is_number(scale):
        raise TypeError(f"scale must be a number; got {scale!r}")
    if not (np.isfinite(scale) and scale >= 0):
        raise ValueError(f"scale must be finite and >= 0; got {scale!r}")


def check_drawn(values: np.ndarray[Any, Any], scale: float) -> None:
    """Raise ValueError if drawn weights have overflowed."""
    if not np.isfinite(values).all():
        raise ValueError(
            f"scale must be so small that the weights are finite as {values.dtype}; got {scale!r}"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
