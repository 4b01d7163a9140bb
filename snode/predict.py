"""Classes from outputs: prediction, accuracy, confusion counts."""

from __future__ import annotations

from typing import Any

import numpy as np

from snode.backend import Array, array_namespace, own_error_state, to_host
from snode.fields.base import has_readout, is_shareable, n_outputs, outputs
from snode.labels import check_labels, check_order
from snode.ode.problems import Solver, as_solver, check_state
from snode.threads import map_blocks

__all__ = ["accuracy", "confusion", "predict"]

BLOCK = 500


@own_error_state
def predict(
    field: Any, x: Array, *, n_classes: int | None = None, solver: str | Solver = "euler"
) -> Array:
    """Return the class of each column of `x`: the largest of the first `n_classes` of x(T).

    For a field with a read-out, it is the largest of its outputs.

    Parameters
    ----------
    field : VectorField
    x : array (n, m)
    n_classes : int, optional
        Default 10, or all outputs of a read-out.
    solver : str or Solver, optional
        How the direct problem is solved: the name of a method of `solve_direct`, or a `Solver`
        with tolerances.

    Returns
    -------
    labels : int64 array (m,)

    Raises
    ------
    ValueError, TypeError
        If `x` does not fit the field, or `n_classes` is not in 1..n, or not the number of outputs
        of a read-out.
    IntegrationError
        If the direct problem does not stay finite.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> field = snode.StandaloneField(np.zeros((1, 3, 3)), np.array([[0.0, 2.0, 1.0]]), T=1.0)
    >>> snode.predict(field, np.zeros((3, 2)), n_classes=3)
    array([1, 1])
    """
    check_state(field, x, "x")
    n_classes, chosen = check_classes(field, n_classes), as_solver(solver)
    xp = array_namespace(x)
    labels = xp.empty(x.shape[1], dtype=np.int64)

    def label(start: int) -> None:
        columns = xp.ascontiguousarray(x[:, start : start + BLOCK])
        x_T = chosen.solve(field, columns, keep="last").x_T
        labels[start : start + BLOCK] = outputs(field, x_T)[:n_classes].argmax(axis=0)

    map_blocks(label, range(0, x.shape[1], BLOCK), shared=is_shareable(field) and xp is np)
    return labels


def check_classes(field: Any, n_classes: int | None) -> int:
    """Return the number of classes to choose from, or raise ValueError if it does not fit."""
    size = n_outputs(field)
    if n_classes is None:
        n_classes = size if has_readout(field) else 10
    if has_readout(field) and n_classes != size:
        raise ValueError(
            f"n_classes must be the number of outputs of the field, {size}; got {n_classes!r}"
        )
    if not 1 <= n_classes <= size:
        raise ValueError(f"n_classes must be in 1..{size}; got {n_classes!r}")
    return n_classes


@own_error_state
def accuracy(
    field: Any, x: Array, y: Array, *, n_classes: int | None = None, solver: str | Solver = "euler"
) -> float:
    """Return the share of columns of `x` whose predicted class is `y`.

    Parameters
    ----------
    field : VectorField
    x : array (n, m)
    y : integer array (m,)
    n_classes : int, optional
        As for `predict`.
    solver : str or Solver, optional
        As for `predict`.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError, TypeError
        As `predict`, and if `y` does not hold one label 0..C-1 for each column.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> field = snode.StandaloneField(np.zeros((1, 3, 3)), np.array([[0.0, 2.0, 1.0]]), T=1.0)
    >>> snode.accuracy(field, np.zeros((3, 2)), np.array([1, 2]), n_classes=3)
    0.5
    """
    labels = check_scored(field, x, y, n_classes)
    return float((predict(field, x, n_classes=n_classes, solver=solver) == labels).mean())


@own_error_state
def confusion(
    field: Any, x: Array, y: Array, *, n_classes: int | None = None, solver: str | Solver = "euler"
) -> np.ndarray[Any, Any]:
    """Return counts (C, C): entry (i, j) counts samples of class i predicted as j.

    Parameters and errors as for `accuracy`.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> field = snode.StandaloneField(np.zeros((1, 2, 2)), np.array([[0.0, 2.0]]), T=1.0)
    >>> snode.confusion(field, np.zeros((2, 3)), np.array([0, 1, 1]), n_classes=2)
    array([[0, 1],
           [0, 2]])
    """
    true = check_scored(field, x, y, n_classes)
    n_classes = check_classes(field, n_classes)
    found = to_host(predict(field, x, n_classes=n_classes, solver=solver))
    counts = np.zeros((n_classes, n_classes), dtype=np.int64)
    np.add.at(counts, (to_host(true), found), 1)
    return counts


def check_scored(
    field: Any, x: Array, y: Array, n_classes: int | None, names: tuple[str, str] = ("x", "y")
) -> Array:
    """Return the labels `y` of samples `x` as int64; raise if one of them does not fit."""
    check_order(x, y)
    check_state(field, x, names[0])
    labels = check_labels(y, check_classes(field, n_classes), int(x.shape[1]), names[1])
    array_namespace(x, labels)
    return labels
