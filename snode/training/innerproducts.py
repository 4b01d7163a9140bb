r"""L2(0,T) and H1(0,T) inner products of parameters that are functions of depth.

The gradient is the Riesz representative of the derivative: ``dot(riesz(dE), d) == dE . d``. The
discretisation makes this hold to rounding, so the descent test, the conjugate coefficients and the
Taylor test are exact in every metric.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snode.backend import Array, array_namespace, as_number, is_on_device
from snode.fields.depth import DepthBasis, Gram

__all__ = ["H1", "L2", "Euclidean", "InnerProduct", "pair"]

Parameters = Mapping[str, Array]


def pair(u: Parameters, v: Parameters) -> float:
    """Return the Euclidean pairing sum(u * v) over all parameters, summed in float64."""
    return float(pair_number(u, v))


def pair_number(u: Parameters, v: Parameters) -> Any:
    """Return `pair` as a number where the parameters live; see `as_number`."""
    return as_number(sum(_pair_arrays(u[name], v[name]) for name in u))


def _pair_arrays(a: Array, b: Array) -> Any:
    xp = array_namespace(a, b)
    if is_on_device(a):  # two kernels, not one for each depth
        return xp.sum(a * b, dtype="float64")
    if a.ndim < 2:
        return xp.vdot(a, b).astype("float64")
    # one dot product a depth (BLAS), the depths summed in float64: float32 sums stay accurate
    per_depth = xp.stack([xp.vdot(u, v) for u, v in zip(a, b, strict=True)])
    return xp.sum(per_depth, dtype="float64")


@dataclass(frozen=True)
class InnerProduct:
    r"""Inner product of H1(0,T) with a length l; l = 0 is L2(0,T).

    Use `L2` and `H1`. An inner product becomes usable when it knows the field whose parameters it
    multiplies: ``snode.H1(1.0).on(field)``.

    Parameters
    ----------
    length : float
        The length l in :math:`\langle u, v\rangle = \int u v + l^2 u' v' dt`.
    field : VectorField, optional
        Tells which parameters are functions of depth, and in which basis; see `on`. Other
        parameters get the Euclidean inner product.

    References
    ----------
    .. [1] Jaroudi et al., arXiv 2205.13933, Corollary 4.2 and eq. (9).
    """

    length: float = 0.0
    field: Any = None

    def __post_init__(self) -> None:
        if not 0 <= self.length < float("inf"):
            raise ValueError(f"length must be finite and >= 0; got {self.length!r}")

    def on(self, field: Any) -> InnerProduct:
        """Return this inner product for the parameters of `field`."""
        return type(self)(self.length, field)

    def gram(self, name: str) -> Gram | None:
        """Return the Gram matrix of the parameter `name`; None means the identity."""
        if self.field is None:
            raise ValueError(f"{self!r} does not know a field: use inner.on(field)")
        basis: DepthBasis | None = getattr(self.field, "depth_basis", {}).get(name)
        return None if basis is None else basis.gram(self.length)

    def apply(self, name: str, u: Array) -> Array:
        """Return the Gram matrix of the parameter `name` times `u`; None counts as identity."""
        gram = self.gram(name)
        return u if gram is None else gram.matvec(u)

    def dot(self, u: Parameters, v: Parameters) -> float:
        """Return <u, v> of two mappings of parameters."""
        return float(pair_number(u, {name: self.apply(name, v[name]) for name in u}))

    def norm(self, u: Parameters) -> float:
        """Return sqrt(<u, u>)."""
        return float(self.norm_number(u))

    def norm_number(self, u: Parameters) -> Any:
        """Return `norm` as a number where the parameters live."""
        square = pair_number(u, {name: self.apply(name, u[name]) for name in u})
        return square**0.5 if is_on_device(square) else math.sqrt(square)

    def riesz(self, partials: Parameters) -> dict[str, Array]:
        """Return the gradient: the g with <g, d> = sum(partials * d) for every d."""
        out = {}
        for name, p in partials.items():
            gram = self.gram(name)
            out[name] = p.copy() if gram is None else gram.solve(p)
        return out

    def __repr__(self) -> str:
        return "L2()" if self.length == 0 else f"H1(length={self.length:g})"


class L2(InnerProduct):
    """Inner product of L2(0,T): ``dot(u, v)`` is the integral of u v; the gradient is a density.

    Bind it to a field before use: ``snode.L2().on(field)``.

    Examples
    --------
    >>> import snode
    >>> field = snode.StandaloneField.random(2, 3.0, 6, rng=0)
    >>> inner = snode.L2().on(field)
    >>> ones = {name: 0 * p + 1 for name, p in field.parameters.items()}
    >>> inner.dot(ones, ones)  # T * (n * n + n)
    18.0
    """

    def __init__(self, length: float = 0.0, field: Any = None) -> None:
        if length != 0:
            raise ValueError("L2 has no length; use H1(length)")
        super().__init__(0.0, field)


class H1(InnerProduct):
    r"""Inner product of H1(0,T): :math:`\int u v + l^2 u' v' dt`, the Sobolev gradient.

    Parameters
    ----------
    length : float, optional
        The length l > 0; the paper has l = 1.

    Examples
    --------
    >>> import snode
    >>> field = snode.StandaloneField.random(2, 3.0, 6, rng=0)
    >>> snode.H1(length=1.0).on(field)
    H1(length=1)
    """

    def __init__(self, length: float = 1.0, field: Any = None) -> None:
        if not length > 0:
            raise ValueError(f"length must be positive; got {length!r}")
        super().__init__(length, field)


class Euclidean(InnerProduct):
    """Plain sum of products: the gradient is the array of partial derivatives.

    What first-order methods of deep learning use; on cells it is h times the L2 density.
    """

    def __init__(self, length: float = 0.0, field: Any = None) -> None:
        super().__init__(0.0, field)

    def gram(self, name: str) -> Gram | None:
        """Return None: the identity."""
        return None

    def __repr__(self) -> str:
        return "Euclidean()"


def as_inner_product(inner: str | InnerProduct, field: Any) -> InnerProduct:
    """Return `inner` ("l2", "h1", "euclidean" or an object) bound to `field`."""
    if isinstance(inner, str):
        table: dict[str, type[InnerProduct]] = {"l2": L2, "h1": H1, "euclidean": Euclidean}
        if inner.lower() not in table:
            raise ValueError(
                f"inner must be one of {', '.join(map(repr, table))} or an inner product; "
                f"got {inner!r}"
            )
        inner = table[inner.lower()]()
    if not isinstance(inner, InnerProduct):
        raise TypeError(f"inner must be 'l2', 'h1', L2() or H1(length); got {inner!r}")
    return inner.on(field)
