r"""Explicit Runge-Kutta methods as data: Butcher tableaus that check themselves.

One step of size h from (t, x) is

.. math::

   K_i = f\Big(t + c_i h,\; x + h \sum_{j<i} a_{ij} K_j\Big), \qquad
   x_{new} = x + h \sum_i b_i K_i .

A new method is a new entry of `TABLEAUS`: every solver, the tangent and the adjoint read the
coefficients and nothing else. The coefficients are exact fractions, so the order conditions hold
exactly or not at all (`ButcherTableau.defects`).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

__all__ = ["ADAPTIVE", "TABLEAUS", "ButcherTableau", "rooted_trees"]

Row = tuple[Fraction, ...]
Tree = tuple[Any, ...]


def _row(text: str) -> Row:
    return tuple(Fraction(word) for word in text.split())


@dataclass(frozen=True, repr=False)
class ButcherTableau:
    r"""Coefficients of an explicit Runge-Kutta method.

    Parameters
    ----------
    name : str
    order : int
        Order p of the method: the error of one step is :math:`O(h^{p+1})`.
    a : tuple of tuple of Fraction
        Row i holds :math:`a_{i1}, \dots, a_{i,i-1}`; the first row is empty.
    b : tuple of Fraction
        Weights of the solution that is carried on.
    e : tuple of Fraction, optional
        Weights of the error estimate, b minus those of the embedded method. Empty for methods
        without one.
    embedded_order : int, optional
    dense : tuple of tuple of Fraction, optional
        Row i holds the coefficients of :math:`\theta, \theta^2, \dots` in :math:`b_i(\theta)`, so
        that :math:`x(t + \theta h) \approx x + h \sum_i b_i(\theta) K_i`.
    dense_order : int, optional
    reference : str

    Raises
    ------
    ValueError
        If the sizes do not fit, or a dense output does not end at b.

    Examples
    --------
    >>> from snode.ode.tableaus import TABLEAUS
    >>> TABLEAUS["rk4"].defects()
    []
    >>> TABLEAUS["heun"].order, TABLEAUS["heun"].b
    (2, (Fraction(1, 2), Fraction(1, 2)))
    """

    name: str
    order: int
    a: tuple[Row, ...]
    b: Row
    e: Row = ()
    embedded_order: int = 0
    dense: tuple[Row, ...] = ()
    dense_order: int = 0
    reference: str = ""

    def __post_init__(self) -> None:
        s = len(self.b)
        if len(self.a) != s or any(len(row) != i for i, row in enumerate(self.a)):
            raise ValueError(f"a must be strictly lower triangular with {s} rows")
        if self.e and len(self.e) != s:
            raise ValueError(f"e must have {s} weights; got {len(self.e)}")
        if self.dense and (len(self.dense) != s or tuple(map(sum, self.dense)) != self.b):
            raise ValueError("dense must have a row per stage and equal b at theta = 1")

    @cached_property
    def c(self) -> Row:
        """Nodes, the row sums of a."""
        return tuple(sum(row, Fraction(0)) for row in self.a)

    @property
    def stages(self) -> int:
        """Number of stages, the ones of the error estimate included."""
        return len(self.b)

    @cached_property
    def first_same_as_last(self) -> bool:
        """True if the last stage is f at the new point, so the next step gets it for nothing."""
        return self.stages > 1 and (*self.a[-1], Fraction(0)) == self.b

    @cached_property
    def active_stages(self) -> int:
        """Number of stages that the new state depends on."""
        return max(i + 1 for i, weight in enumerate(self.b) if weight)

    def defects(self) -> list[str]:
        """Return the order conditions that do not hold; an empty list for a right tableau.

        There is one condition for each rooted tree with at most p vertices [1]_; they are tested
        for b, for the embedded method, and for the dense output as polynomials in theta.

        References
        ----------
        .. [1] Hairer, Norsett, Wanner, *Solving Ordinary Differential Equations I*, section II.2.
        """
        weights = [("b", self.b, self.order)]
        if self.e:
            embedded = tuple(b - e for b, e in zip(self.b, self.e, strict=True))
            weights.append(("embedded", embedded, self.embedded_order))
        found = [
            f"{name}: {tree}"
            for name, row, order in weights
            for tree in rooted_trees(order)
            if _dot(row, self._weight(tree)) != Fraction(1, _density(tree))
        ]
        return found + [
            f"dense: {tree}" for tree in rooted_trees(self.dense_order) if not self._is_dense(tree)
        ]

    def _is_dense(self, tree: Tree) -> bool:
        """True if sum_i b_i(theta) weight_i = theta^|tree| / density."""
        degree = len(self.dense[0])
        if _order(tree) > degree:
            return False
        found = [_dot([row[k] for row in self.dense], self._weight(tree)) for k in range(degree)]
        wanted = [Fraction(0)] * degree
        wanted[_order(tree) - 1] = Fraction(1, _density(tree))
        return found == wanted

    def _weight(self, tree: Tree) -> list[Fraction]:
        """Return the elementary weights of the stages: products over the branches of a @ weight."""
        weight = [Fraction(1)] * self.stages
        for branch in tree:
            below = self._weight(branch)
            weight = [w * _dot(row, below) for w, row in zip(weight, self.a, strict=True)]
        return weight

    def __repr__(self) -> str:
        order = f"{self.order}({self.embedded_order})" if self.e else f"{self.order}"
        return f"ButcherTableau({self.name}, order {order}, {self.stages} stages)"

    def numbers(self) -> Numbers:
        """Return the coefficients as float64 arrays, made once."""
        return _numbers(self)

    def stability(self, z: Any) -> Any:
        r"""Return the stability function R(z): :math:`x_1 = R(h\lambda) x_0` for x' = lambda x.

        Parameters
        ----------
        z : array or complex

        Returns
        -------
        array or complex
            :math:`R(z) = 1 + \sum_k z^k\, b^T A^{k-1} 1`, a polynomial.

        Examples
        --------
        >>> from snode.ode.tableaus import TABLEAUS
        >>> TABLEAUS["euler"].stability(-0.5)
        0.5
        """
        stage, total = [Fraction(1)] * self.stages, [Fraction(1)]
        for _ in range(self.stages):
            total.append(_dot(self.b, stage))
            stage = [_dot(row, stage) for row in self.a]
        value = 0.0 * z
        for coefficient in reversed(total):
            value = value * z + float(coefficient)
        return value


@dataclass(frozen=True)
class Numbers:
    """A tableau in float64: a (s, s), b, c, e (s,), dense (s, degree)."""

    a: np.ndarray[Any, Any]
    b: np.ndarray[Any, Any]
    c: tuple[float, ...]
    e: np.ndarray[Any, Any]
    dense: np.ndarray[Any, Any]


@lru_cache(maxsize=64)
def _numbers(tableau: ButcherTableau) -> Numbers:
    a = np.zeros((tableau.stages, tableau.stages))
    for i, row in enumerate(tableau.a):
        a[i, :i] = [float(value) for value in row]
    return Numbers(
        a,
        np.array([float(v) for v in tableau.b]),
        tuple(float(v) for v in tableau.c),
        np.array([float(v) for v in tableau.e]),
        np.array([[float(v) for v in row] for row in tableau.dense]),
    )


# --- rooted trees ---------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def rooted_trees(order: int) -> tuple[Tree, ...]:
    """Return all rooted trees with at most `order` vertices; a tree is the tuple of its branches.

    Examples
    --------
    >>> from snode.ode.tableaus import rooted_trees
    >>> [len(rooted_trees(p)) for p in (1, 2, 3, 4, 5)]
    [1, 2, 4, 8, 17]
    """
    return tuple(tree for p in range(1, order + 1) for tree in _trees(p))


@lru_cache(maxsize=16)
def _trees(vertices: int) -> tuple[Tree, ...]:
    return tuple(sorted(set(_forests(vertices - 1)), key=repr))


def _forests(vertices: int) -> list[Tree]:
    """Return all multisets of trees with `vertices` vertices together, as sorted tuples."""
    if vertices == 0:
        return [()]
    return [
        tuple(sorted((*rest, tree), key=repr))
        for size in range(1, vertices + 1)
        for tree in _trees(size)
        for rest in _forests(vertices - size)
    ]


def _order(tree: Tree) -> int:
    return 1 + sum(map(_order, tree))


def _density(tree: Tree) -> int:
    product = _order(tree)
    for branch in tree:
        product *= _density(branch)
    return product


def _dot(row: Any, column: Any) -> Fraction:
    # a row of `a` is shorter: an explicit stage sees the earlier ones only
    return sum((r * v for r, v in zip(row, column, strict=False)), Fraction(0))


# --- the methods ----------------------------------------------------------------------------------

EULER = ButcherTableau(
    name="euler", order=1, a=((),), b=_row("1"),
    reference="Euler 1768",
)  # fmt: skip

MIDPOINT = ButcherTableau(
    name="midpoint", order=2, a=((), _row("1/2")), b=_row("0 1"),
    reference="Runge 1895",
)  # fmt: skip

HEUN = ButcherTableau(
    name="heun", order=2, a=((), _row("1")), b=_row("1/2 1/2"),
    reference="Heun 1900; the explicit trapezoidal rule",
)  # fmt: skip

RK4 = ButcherTableau(
    name="rk4", order=4,
    a=((), _row("1/2"), _row("0 1/2"), _row("0 0 1")),
    b=_row("1/6 1/3 1/3 1/6"),
    reference="Kutta 1901; the classical method",
)  # fmt: skip

BOGACKI_SHAMPINE = ButcherTableau(
    name="bogacki_shampine", order=3, embedded_order=2, dense_order=3,
    a=((), _row("1/2"), _row("0 3/4"), _row("2/9 1/3 4/9")),
    b=_row("2/9 1/3 4/9 0"),
    e=_row("-5/72 1/12 1/9 -1/8"),
    dense=(_row("1 -4/3 5/9"), _row("0 1 -2/3"), _row("0 4/3 -8/9"), _row("0 -1 1")),
    reference="Bogacki, Shampine, Appl. Math. Lett. 2 (1989) 321-325; MATLAB's ode23",
)  # fmt: skip

DORMAND_PRINCE = ButcherTableau(
    name="dormand_prince", order=5, embedded_order=4, dense_order=4,
    a=(
        (),
        _row("1/5"),
        _row("3/40 9/40"),
        _row("44/45 -56/15 32/9"),
        _row("19372/6561 -25360/2187 64448/6561 -212/729"),
        _row("9017/3168 -355/33 46732/5247 49/176 -5103/18656"),
        _row("35/384 0 500/1113 125/192 -2187/6784 11/84"),
    ),
    b=_row("35/384 0 500/1113 125/192 -2187/6784 11/84 0"),
    e=_row("71/57600 0 -71/16695 71/1920 -17253/339200 22/525 -1/40"),
    dense=(
        _row("1 -183/64 37/12 -145/128"),
        _row("0 0 0 0"),
        _row("0 1500/371 -1000/159 1000/371"),
        _row("0 -125/32 125/12 -375/64"),
        _row("0 9477/3392 -729/106 25515/6784"),
        _row("0 -11/7 11/3 -55/28"),
        _row("0 3/2 -4 5/2"),
    ),
    reference="Dormand, Prince, J. Comput. Appl. Math. 6 (1980) 19-26; MATLAB's ode45",
)  # fmt: skip

TABLEAUS = {
    tableau.name: tableau
    for tableau in (EULER, MIDPOINT, HEUN, RK4, BOGACKI_SHAMPINE, DORMAND_PRINCE)
}
"""The methods by name; each can be used with fixed steps."""

ADAPTIVE = {"ode23": BOGACKI_SHAMPINE, "ode45": DORMAND_PRINCE}
"""The methods with step control, by their MATLAB names."""
