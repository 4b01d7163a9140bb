"""What an attack works on and what it returns; `success_curve`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as entry
from typing import Any

import numpy as np

from snode.analysis.layers import LayerPass
from snode.analysis.rows import pull_back
from snode.backend import Array, array_namespace, own_error_state, to_host
from snode.copying import Portable
from snode.fields.base import is_shareable
from snode.labels import check_labels, check_order
from snode.ode.arguments import check_choice, check_state
from snode.ode.problems import Solver, as_solver
from snode.predict import check_classes, predict
from snode.progress import Callback, check_callback, tell
from snode.results import IntegrationError, OdeSolution, Status
from snode.threads import map_blocks

__all__ = ["AttackResult", "success_curve"]

NORMS = ("2", "inf")

SAMPLES_PER_BLOCK = 200
"""Samples solved at once where one gradient is needed."""


@dataclass(frozen=True, eq=False)
class AttackResult(Portable):
    """What an attack found; one entry per sample.

    Attributes
    ----------
    x_adv : array (n, m)
        The perturbed inputs, inside the box.
    delta : array (n, m)
        ``x_adv - x``.
    norm2, norminf : float64 array (m,)
        Norms of `delta`.
    success : bool array (m,)
        Whether the prediction for `x_adv` is wrong, and the target where one was asked for.
        Predicted from the returned array.
    label : int64 array (m,)
        Predicted class of `x_adv`.
    target : int64 array (m,)
        Class that was aimed at; -1 for any.
    n_iter : int64 array (m,)
        Iterations, restarts included.
    n_gradient : int64 array (m,)
        Adjoint solves; one iteration of an attack that needs the rows of all C classes has C,
        one towards a target has 1.
    y : int64 array (m,)
        True class.
    skipped : bool array (m,)
        Not attacked, with ``delta`` 0: the prediction for x is wrong already (a success, if no
        target was asked for), or the target is the true class (never a success), or the callback
        stopped the attack before it came to this sample (never a success).
    method : str
        Name of the attack.
    per_target : tuple of AttackResult or None
        With ``target="all"``: the runs, the one towards class c at place c. A run counts any wrong
        class as success.
    status : Status
        ``STOPPED`` if the callback ended the attack: what was found until then is here.
    """

    x_adv: Array
    delta: Array
    norm2: Array
    norminf: Array
    success: Array
    label: Array
    target: Array
    n_iter: Array
    n_gradient: Array
    y: Array
    skipped: Array
    method: str
    per_target: tuple[AttackResult, ...] | None = entry(default=None, repr=False)
    status: Status = Status.SUCCESS

    def __repr__(self) -> str:
        attacked = ~to_host(self.skipped)
        fooled = attacked & to_host(self.success)
        text = f"{int(fooled.sum())} of {int(attacked.sum())} attacked samples fooled"
        if not attacked.all():
            text += f", {int((~attacked).sum())} skipped"
        if fooled.any():
            norm2, norminf = (to_host(a)[fooled] for a in (self.norm2, self.norminf))
            text += f", |delta|_2 median {np.median(norm2):.3g} max {norm2.max():.3g}"
            text += f", |delta|_inf median {np.median(norminf):.3g} max {norminf.max():.3g}"
        if self.status is Status.STOPPED:
            text += ", stopped"
        return f"AttackResult({self.method}: {text})"


@own_error_state
def success_curve(
    results: AttackResult | Sequence[AttackResult],
    radii: Sequence[float],
    *,
    norm: str = "2",
    count_skipped: bool = False,
) -> np.ndarray[Any, Any]:
    """Return the share of fooled samples against the allowed size of the perturbation.

    Parameters
    ----------
    results : AttackResult or sequence of AttackResult
        Several on the same samples count together: the smallest perturbation that fools.
    radii : sequence of float
    norm : {"2", "inf"}, optional
    count_skipped : bool, optional
        Count also the samples that were not attacked; those that are misclassified to begin with
        are fooled at every radius. Otherwise they are left out.

    Returns
    -------
    array, shape of `radii`

    Raises
    ------
    ValueError
        If a radius is negative or NaN, the results are of different samples, or no sample is left.

    Examples
    --------
    >>> import numpy as np
    >>> import snode
    >>> from snode.analysis.attacks import deepfool, success_curve
    >>> field = snode.StandaloneField(np.zeros((1, 2, 2)), np.zeros((1, 2)), T=1.0)
    >>> x, y = np.array([[0.4, 0.9], [0.2, 0.1]]), np.array([0, 0])
    >>> success_curve(deepfool(field, x, y, n_classes=2), [0.1, 0.2, 0.6])
    array([0. , 0.5, 1. ])
    """
    check_choice("norm", norm, NORMS)
    allowed = np.asarray(radii, dtype=np.float64)
    if not (allowed >= 0).all():
        raise ValueError(f"radii must be >= 0; got {radii!r}")
    every = [results] if isinstance(results, AttackResult) else list(results)
    if not every or any(not np.array_equal(to_host(r.y), to_host(every[0].y)) for r in every):
        raise ValueError("results must be one or more attacks on the same samples")
    sizes = [
        np.where(to_host(r.success), to_host(r.norm2 if norm == "2" else r.norminf), np.inf)
        for r in every
    ]
    smallest = np.min(sizes, axis=0)
    if not count_skipped:
        smallest = smallest[~np.all([to_host(r.skipped) for r in every], axis=0)]
    if smallest.size == 0:
        raise ValueError("results must hold at least one sample that was attacked")
    fooled = (smallest[:, None] <= allowed.ravel()) & np.isfinite(smallest[:, None])
    return np.asarray(fooled.mean(axis=0).reshape(allowed.shape))


# --- what an attack works on ----------------------------------------------------------------------


@dataclass(eq=False)
class Task:
    """Checked arguments, and the result as it is put together."""

    method: str
    field: Any
    x: Array
    y: Array
    target: Array
    n_classes: int
    solver: Solver
    low: Any
    high: Any
    any_class: bool
    skipped: Array
    xp: Any
    callback: Callback | None = None
    stopped: bool = False

    @classmethod
    def of(
        cls, method: str, field: Any, x: Array, y: Array, *, box: Any, n_classes: int | None,
        solver: str | Solver, target: Any = None, any_class: bool = False,
        callback: Callback | None = None,
    ) -> Task:  # fmt: skip
        """Check the arguments; `any_class`: any wrong class is a success, whatever the target."""
        check_order(x, y)
        check_state(field, x, "x")
        check_callback(callback)
        chosen, C = as_solver(solver), check_classes(field, n_classes)
        if C < 2:
            raise ValueError(f"n_classes must be at least 2 to attack; got {C}")
        xp = array_namespace(x)
        m = int(x.shape[1])
        labels = check_labels(y, C, m)
        array_namespace(x, labels)
        low, high = _box(box, x)
        aim = xp.full(x.shape[1], -1, dtype=np.int64)
        if target is not None:
            single = isinstance(target, int | np.integer) and not isinstance(target, bool)
            aim = check_labels(xp.full(m, int(target)) if single else target, C, m, "target")
            array_namespace(x, aim)
        try:
            label = predict(field, x, n_classes=C, solver=chosen)
        except IntegrationError as error:
            raise _blown_up(field, chosen, x, np.arange(x.shape[1]), error) from None
        skipped = (label != labels) | (aim == labels)
        return cls(
            method, field, x, labels, aim, C, chosen, low, high,
            any_class or target is None, skipped, xp, callback,
        )  # fmt: skip

    def __post_init__(self) -> None:
        self.x_adv = self.x.copy()
        self.n_iter = self.xp.zeros(self.x.shape[1], dtype=np.int64)
        self.n_gradient = self.xp.zeros(self.x.shape[1], dtype=np.int64)
        fast = LayerPass.applies_to(self.field, self.x, self.solver)
        self._is_layered, self._own = fast, threading.local()
        self.reached = self.skipped.copy()
        self.made: dict[int, int] = {}  # iterations on a block, by its first sample
        self.done: dict[int, float] = {}  # its samples, as far as they are done
        self._lock = threading.Lock()

    @property
    def layers(self) -> LayerPass | None:
        """The fast way through the layers, with the buffers of this thread."""
        if self._is_layered and not hasattr(self._own, "layers"):
            self._own.layers = LayerPass(self.field)
        return getattr(self._own, "layers", None)

    @property
    def is_targeted(self) -> bool:
        """Whether every sample has a class to be aimed at."""
        return bool((self.target >= 0).all())

    def solve(self, x: Array, k: Array, *, keep: str = "all") -> OdeSolution | LayerPass:
        """Solve the direct problem for the samples k; forget the time before.

        With ``keep="all"`` derivatives can follow.
        """
        layers = self.layers if keep == "all" else None
        if layers is not None and layers.solve(x):
            return layers
        try:
            return self.solver.solve(self.field, x, keep=keep)
        except IntegrationError as error:
            raise _blown_up(self.field, self.solver, x, to_host(k), error, " moved") from None

    def blocks(self, size: int) -> Iterator[Array]:
        """Yield the indices of the samples to attack, at most `size` at once.

        Twice as many where less than half as much is kept of each.
        """
        size *= 2 if self._is_layered else 1
        chosen = np.flatnonzero(~to_host(self.skipped))
        for start in range(0, len(chosen), size):
            yield self.xp.asarray(chosen[start : start + size])

    def each(
        self, work: Callable[[Any], None], blocks: Iterable[Any], *, shared: bool = True
    ) -> None:
        """Call work(block) for all blocks, several at once where the field allows it."""
        both = is_shareable(self.field) and self.xp is np

        def begin(block: Any) -> None:
            k = block[0] if isinstance(block, tuple) else block
            if self.tell(k, 0.0):
                return
            self.reached[k] = True
            work(block)
            self.done[int(k[0])] = len(k)

        map_blocks(begin, blocks, shared=shared and both)

    def tell(self, k: Array, share: float) -> bool:
        """Tell the callback which share of the block `k` is done; return whether to stop."""
        if self.callback is None:
            return False
        with self._lock:  # blocks may be in several threads
            if not self.stopped:
                self.done[int(k[0])] = share * len(k)
                total = int((~self.skipped).sum())
                what = f"attack {self.method}"
                self.stopped = tell(self.callback, sum(self.done.values()), total, what)
            return self.stopped

    def goes_on(self, k: Array, count: int) -> bool:
        """Count an iteration on the block `k`, of `count`; False if it is not to be made."""
        made = self.made.setdefault(int(k[0]), 0)
        if self.tell(k, made / count):
            return False
        self.made[int(k[0])] = made + 1
        return True

    def put(self, k: Array, x_adv: Array, n_iter: Any, n_gradient: Any) -> None:
        """Store what was found for the samples `k`."""
        self.x_adv[:, k] = x_adv
        self.n_iter[k], self.n_gradient[k] = n_iter, n_gradient

    def clip(self, x: Array) -> Array:
        """Return the nearest point of the box, in the dtype of the inputs."""
        return self.xp.clip(x.astype(self.x.dtype, copy=False), self.low, self.high)

    def fooled(self, label: Array, y: Array, target: Array) -> Array:
        """Return True where a prediction counts as success."""
        wrong = label != y
        return wrong if self.any_class else wrong & (label == target)

    def result(self) -> AttackResult:
        """Predict the classes of what was stored, and measure it."""
        label = predict(self.field, self.x_adv, n_classes=self.n_classes, solver=self.solver)
        delta = self.x_adv - self.x
        return AttackResult(
            self.x_adv, delta, norm2(delta), abs(delta).max(axis=0).astype(np.float64),
            self.fooled(label, self.y, self.target), label, self.target,
            self.n_iter, self.n_gradient, self.y, self.skipped | ~self.reached, self.method,
            status=Status.STOPPED if self.stopped else Status.SUCCESS,
        )  # fmt: skip


def _blown_up(
    field: Any, solver: Solver, x: Array, k: Array, error: IntegrationError, how: str = ""
) -> IntegrationError:
    """The same error for one sample, named by its column k of the batch; found by halving."""
    found = error.solution
    while x.shape[1] > 1:
        half = x.shape[1] // 2
        for part in (slice(None, half), slice(half, None)):
            columns = array_namespace(x).ascontiguousarray(x[:, part])
            found = solver.solve(field, columns, keep="last", raise_on_failure=False)
            if not found.success:
                x, k = columns, k[part]
                break
        else:
            return error
    text = f"{found.message} for column {k[0]} of x{how}; attack the others without it"
    return IntegrationError(replace(found, message=text))


# --- directions and sizes -------------------------------------------------------------------------


def input_gradient(sol: OdeSolution | LayerPass, p: Array) -> Array:
    """Return the derivative with respect to x(0) of what has the derivative p at the outputs."""
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is no direction
        return pull_back(sol, p[None])[0]


def units(v: Array, length: Array, usable: Array) -> Array:
    """Return v / |v| in float64, 0 where it is not usable."""
    xp = array_namespace(v)
    return xp.where(usable, v.astype(np.float64), 0) / xp.where(usable, length, 1)


def norm2(delta: Array) -> Array:
    """Return the 2-norms of the columns, computed in float64."""
    xp = array_namespace(delta)
    return xp.sqrt(xp.square(delta.astype(np.float64)).sum(axis=0))


def behind(z: Array) -> Array:
    """Return a lead that the rounding of another batch does not turn into a tie."""
    return 64 * float(np.finfo(z.dtype).eps) * abs(z).max(axis=0).astype(np.float64)


# --- arguments ------------------------------------------------------------------------------------


def _box(box: Any, x: Array) -> tuple[Any, Any]:
    """Return the bounds as numbers of the dtype of `x`."""
    smallest, largest = float(x.min()), float(x.max())
    if box is None:
        if smallest == largest:
            raise ValueError("box must be given where all entries of x are equal")
        box = (smallest, largest)
    try:
        with np.errstate(over="ignore"):
            low, high = (x.dtype.type(float(bound)) for bound in box)
    except (TypeError, ValueError):
        raise ValueError(f"box must be (low, high), two numbers; got {box!r}") from None
    if not low < high:
        raise ValueError(f"box must be (low, high) with low < high; got {box!r}")
    if smallest < low or largest > high:
        raise ValueError(f"x must lie in the box {box!r}; it goes from {smallest} to {largest}")
    return low, high


def check_count(name: str, value: int, least: int = 1) -> int:
    """Return an integer that is not below `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}; got {value!r}")
    return int(value)


def check_number(
    name: str, value: float, *, above: float | None = None, least: float | None = None
) -> float:
    """Return a finite number above `above`, or not below `least`."""
    expected = f"> {above}" if above is not None else f">= {least}"
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number {expected}; got {value!r}") from None
    fits = number > above if above is not None else number >= (least or 0.0)
    if not (np.isfinite(number) and fits):
        raise ValueError(f"{name} must be finite and {expected}; got {value!r}")
    return number
