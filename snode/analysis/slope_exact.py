"""Branch and bound over the slopes: the maximum is at a vertex, so every slope is lo or hi."""

from __future__ import annotations

import heapq
from itertools import count
from typing import NamedTuple

import numpy as np

from snode.analysis.slope_bound import SlopeBound, slope_bound
from snode.analysis.slope_problem import Chain, flat
from snode.analysis.slope_search import Search, alternating, at_slopes, refine
from snode.backend import Array
from snode.progress import Callback, tell
from snode.results import Status

__all__ = ["Exact", "branch_and_bound"]

TOL = 1e-9
"""Relative to the size of the scaled problem: boxes this close to `lower` are not split."""


STARTS = 20
"""Starts near the best slopes, for every box that is split."""


class Exact(NamedTuple):
    """Bounds of the scaled problem that hold whether or not the tree was finished."""

    upper: float
    search: Search
    n_nodes: int
    status: Status


class _Node(NamedTuple):
    lo: Array
    hi: Array
    bound: SlopeBound


def branch_and_bound(
    chain: Chain, root: SlopeBound, found: Search, *, max_nodes: int, rng: np.random.Generator,
    tol: float = TOL, callback: Callback | None = None,
) -> Exact:  # fmt: skip
    """Fix slopes one by one, the box with the largest bound first.

    Parameters
    ----------
    chain : Chain
    root : SlopeBound
        Of the whole box.
    found : Search
        The best slopes so far.
    max_nodes : int
        Boxes that may be bounded, the root among them. Every box that is left when they are used
        up keeps its bound, so the answer stays valid.
    rng : numpy.random.Generator
        For the searches on the way.
    tol : float, optional
    callback : callable, optional
        Called before each split; True ends the search as `max_nodes` does, with ``STOPPED``.
    """
    slack = tol * root.size
    number = count()
    heap = [(-root.upper, next(number), _Node(flat(chain.lo), flat(chain.hi), root))]
    closed = -np.inf  # the largest bound of a box that needed no split
    n_nodes = 1
    while heap and -heap[0][0] > found.lower + slack:
        wish = tell(callback, n_nodes, max_nodes, "branch and bound, boxes (at most)")
        if wish or n_nodes >= max_nodes:
            status = Status.STOPPED if wish else Status.MAX_NODES
            return Exact(max(-heap[0][0], closed, found.lower), found, n_nodes, status)
        bound, _, node = heapq.heappop(heap)
        if not (node.hi > node.lo).any():  # a vertex: what is left of its gap is rounding
            found = _better(found, at_slopes(chain, chain.split(node.lo)))
            closed = max(closed, -bound)
            continue
        found = refine(chain, found, STARTS, 1, rng)
        for child in _children(chain, node, -bound, found.lower):
            n_nodes += 1
            found = _improve(chain, found, child.bound.x[:, :2])
            if child.bound.upper > found.lower + slack:
                heapq.heappush(heap, (-child.bound.upper, next(number), child))
            else:
                closed = max(closed, child.bound.upper)
    closed = max(closed, found.lower, -heap[0][0] if heap else -np.inf)
    return Exact(closed, found, n_nodes, Status.SUCCESS)


def _children(chain: Chain, node: _Node, bound: float, target: float) -> list[_Node]:
    """The two halves of a box: the slope that spreads most is lo or hi."""
    free = node.hi > node.lo
    i = int(np.argmax(np.where(free, node.bound.spread, -1.0)))
    children = []
    for end in (node.lo[i], node.hi[i]):
        lo, hi = node.lo.copy(), node.hi.copy()
        lo[i] = hi[i] = end
        half = slope_bound(
            chain.with_box(lo, hi), node.bound.multiplier, tol=0.5 * TOL, target=target
        )
        # the bound of the parent holds, too
        children.append(_Node(lo, hi, half._replace(upper=min(half.upper, bound))))
    return children


def _improve(chain: Chain, found: Search, starts: Array) -> Search:
    return _better(found, alternating(chain, starts))


def _better(found: Search, other: Search) -> Search:
    best = other if other.lower > found.lower else found
    return best._replace(n_eig=found.n_eig + other.n_eig)
