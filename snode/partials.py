"""Where the parameter parts of transposed products are added up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from snode.backend import Array, array_namespace

__all__ = ["Partials"]

Row = tuple[int, "np.ndarray[Any, Any]"]
"""First row and weights of a function of depth at one depth; see `DepthBasis.row`."""


class Partials:
    r"""Sums of :math:`f_\theta^T p` over the calls of ``vjp``, by the name of the parameter.

    A linearisation says what is to be added, in the form in which it has it: an array, a product
    :math:`q z^T` or a sum over the samples. Sums go over all axes of q but the last two as well.

    Parameters
    ----------
    arrays : dict of str to array
        What is added to, in place.
    prefix : str, optional
        Stands before every name, with a dot: the map in a composition.
    weight : float, optional
        Factor of all that is added.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> field = snode.StandaloneField.random(2, 1.0, 1, rng=0)
    >>> value, lin = field.linearize(0.0, np.ones((2, 5)))
    >>> into = snode.Partials.of(field.parameters)
    >>> pull = lin.vjp(np.ones((2, 5)), into)
    >>> into.arrays["W"].shape
    (1, 2, 2)
    """

    __slots__ = ("arrays", "prefix", "weight")

    def __init__(self, arrays: dict[str, Array], *, prefix: str = "", weight: float = 1.0) -> None:
        self.arrays, self.prefix, self.weight = arrays, prefix, float(weight)

    @classmethod
    def of(cls, parameters: Mapping[str, Array]) -> Partials:
        """Return zeros, shaped like the parameters."""
        return cls({k: array_namespace(p).zeros_like(p) for k, p in parameters.items()})

    def __repr__(self) -> str:
        own = f"prefix={self.prefix!r}, weight={self.weight:g}"
        return f"Partials({list(self.arrays)}, {own})"

    def __getitem__(self, name: str) -> Array:
        return self.arrays[f"{self.prefix}.{name}" if self.prefix else name]

    def under(self, prefix: str) -> Partials:
        """Return the same for the parameters whose names begin with `prefix` and a dot."""
        inner = f"{self.prefix}.{prefix}" if self.prefix else prefix
        return Partials(self.arrays, prefix=inner, weight=self.weight)

    def times(self, weight: float) -> Partials:
        """Return the same with a further factor."""
        return Partials(self.arrays, prefix=self.prefix, weight=self.weight * float(weight))

    def add(self, name: str, a: Array, *, at: Any = ..., row: Row | None = None) -> None:
        """Add an array.

        Parameters
        ----------
        name : str
        a : array
        at : index, optional
            Part of the parameter, or of its rows, that it is added to.
        row : (int, array), optional
            For a parameter that is a function of depth: its rows from the first one on, with these
            weights.
        """
        target = self[name]
        if row is None:
            target[at] += a if self.weight == 1 else self.weight * a
            return
        first, weights = row
        rest = at if isinstance(at, tuple) else (at,)
        for i, w in enumerate(weights, start=first):
            factor = self.weight * float(w)
            target[(i, *rest)] += a if factor == 1 else factor * a

    def outer(
        self, name: str, q: Array, z: Array, *, at: Any = ..., row: Row | None = None
    ) -> None:
        """Add q z^T, for q of shape (..., a, m) and z of shape (..., b, m); see `add`."""
        if q.ndim > 2 and z.ndim > 2:
            q, z = _side_by_side(q), _side_by_side(z)
        self.add(name, _together(q) @ _together(z).T, at=at, row=row)

    def total(self, name: str, q: Array, *, at: Any = ..., row: Row | None = None) -> None:
        """Add the sum over the samples of q, of shape (..., a, m); see `add`."""
        self.add(name, _together(q).sum(axis=1), at=at, row=row)


def _together(q: Array) -> Array:
    """Return the sum over all axes but the last two."""
    return q if q.ndim == 2 else q.reshape(-1, *q.shape[-2:]).sum(axis=0)


def _side_by_side(q: Array) -> Array:
    """Return (a, r m) for (..., a, m)."""
    return array_namespace(q).moveaxis(q, -2, 0).reshape(q.shape[-2], -1)
