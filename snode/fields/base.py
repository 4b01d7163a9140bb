"""The vector-field contract: what a network must offer to be solved, trained and analysed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from snode.backend import Array

__all__ = ["Linearization", "VectorField"]

Parameters = Mapping[str, Array]


@runtime_checkable
class Linearization(Protocol):
    """The derivative of f at one (t, x), with everything it needs remembered."""

    def jvp(self, dx: Array | None, dtheta: Parameters | None = None) -> Array:
        """Return f_x dx + f_theta dtheta, shape (n, m); either part may be None."""

    def vjp(
        self, p: Array, into: dict[str, Array] | None = None, weight: float = 1.0
    ) -> tuple[Array, dict[str, Array]]:
        """Return ``(f_x^T p, f_theta^T p)``, the second summed over the samples.

        With `into`, ``weight * f_theta^T p`` is added to those arrays in place instead of making
        new ones (parameters of a layered field are large and each depth touches few of them).
        """


@runtime_checkable
class VectorField(Protocol):
    """The right-hand side f(t, x; theta) of x' = f and its derivatives.

    Fields are immutable values. `depth_basis` (optional) names the parameters that are functions
    of depth; the others are plain numbers with the Euclidean inner product.
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
