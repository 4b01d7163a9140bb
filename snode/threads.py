"""How many threads, and work shared among them in blocks of samples.

What is computed never depends on the number of threads: blocks have the same size for any number,
and BLAS has one thread within them.
"""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from snode.backend import single_threaded_blas

__all__ = ["check_threads", "default_threads", "map_blocks", "thread_limit"]

OWN = "SNODE_NUM_THREADS"
OTHERS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
MOST = 4096

_log = logging.getLogger("snode")
_limit: ContextVar[int | None] = ContextVar("snode_thread_limit", default=None)

Block = TypeVar("Block")
Result = TypeVar("Result")


def check_threads(threads: int | None) -> int:
    """Return the number of threads; for None that of `default_threads`.

    More than there are cores are accepted, so that a run can be resumed with the same rounding on a
    smaller machine; the log says so.

    Raises
    ------
    ValueError
        If `threads` is no integer in 1..4096, or SNODE_NUM_THREADS is not one.

    Examples
    --------
    >>> from snode.threads import check_threads
    >>> check_threads(2)
    2
    """
    if threads is None:
        return default_threads()[0]
    number = _integer(threads)
    if isinstance(threads, bool) or number is None:
        raise ValueError(f"threads must be an integer in 1..{MOST}, or None; got {threads!r}")
    if number > (cores := _cores()):
        _warn_of_many(number, cores)
    return number


def default_threads(
    environ: Mapping[str, str] = os.environ, root: Path = Path("/")
) -> tuple[int, str]:
    """Return the number of threads where none is given, and what decides it.

    ``SNODE_NUM_THREADS`` of the environment wins. Otherwise it is the smallest of: the cores this
    process may use, the CPU quota of its control group (containers, SLURM), rounded up, and
    ``OMP_NUM_THREADS``, ``OPENBLAS_NUM_THREADS``, ``MKL_NUM_THREADS`` and ``NUMBA_NUM_THREADS``.

    Raises
    ------
    ValueError
        If SNODE_NUM_THREADS is no integer in 1..4096.

    Examples
    --------
    >>> from snode.threads import default_threads
    >>> default_threads({"SNODE_NUM_THREADS": "3"})
    (3, 'SNODE_NUM_THREADS')
    """
    if environ.get(OWN, "").strip():
        number = _integer(environ[OWN])
        if number is None:
            raise ValueError(f"{OWN} must be an integer in 1..{MOST}; got {environ[OWN]!r}")
        return number, OWN
    found = [(_cores(), "cores of this process")]
    quota = _quota(root)
    if quota is not None:
        found.append((max(1, math.ceil(quota)), "CPU quota of the control group"))
    for name in OTHERS:  # "4,2": a number for each level of nesting
        number = _integer(environ.get(name, "").split(",")[0])
        if number is not None:
            found.append((number, name))
    return min(found, key=lambda pair: pair[0])


def _integer(value: Any) -> int | None:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    exact = isinstance(value, str) or number == value
    return number if exact and 1 <= number <= MOST else None


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@lru_cache(maxsize=16)
def _warn_of_many(threads: int, cores: int) -> None:
    _log.warning("threads=%d is more than the %d cores this process may use", threads, cores)


# --- quota of a control group ---------------------------------------------------------------------


@lru_cache(maxsize=16)
def _quota(root: Path) -> float | None:
    """Return the CPUs that the control groups of this process allow; None without a limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    quotas = []
    for line in lines:
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            folders, read = [root / "sys/fs/cgroup"], _quota_v2
        elif "cpu" in controllers.split(","):
            folders = [root / "sys/fs/cgroup" / name for name in ("cpu", controllers)]
            read = _quota_v1
        else:
            continue
        for folder in folders:  # a group's limit holds for those inside of it
            inside = folder / path.strip("/")
            for place in (inside, *inside.parents):
                if place == folder or folder in place.parents:
                    quotas.append(read(place))
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return _share(float(quota), float(period))  # "max 100000": no limit
    except (OSError, ValueError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota, period = (
            float((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period")
        )
        return _share(quota, period)  # -1: no limit
    except (OSError, ValueError):
        return None


def _share(quota: float, period: float) -> float | None:
    return quota / period if quota > 0 and period > 0 and math.isfinite(quota) else None


# --- blocks of samples ----------------------------------------------------------------------------


@contextmanager
def thread_limit(threads: int | None) -> Iterator[None]:
    """Limit prediction, noise, attacks and analysis to so many threads within a ``with`` block.

    Examples
    --------
    >>> from snode.threads import thread_limit
    >>> with thread_limit(1):
    ...     pass  # snode.predict(...)
    """
    token = _limit.set(check_threads(threads))
    try:
        yield
    finally:
        _limit.reset(token)


def map_blocks(
    task: Callable[[Block], Result], blocks: Iterable[Block], *, shared: bool = True
) -> list[Result]:
    """Return [task(block) for block in blocks], the blocks shared out among threads.

    BLAS has one thread: several in every small product wait for each other, and collapse where
    other processes want the cores, too.

    Parameters
    ----------
    task : callable
        Must not depend on the order of the blocks.
    blocks : iterable
        Made one after the other in the calling thread, no more of them ahead than needed: the
        place for random numbers.
    shared : bool, optional
        False: one after the other, with BLAS as it is; for a device, and for functions of a user,
        which may use one buffer again and again.
    """
    if not shared:
        return [task(block) for block in blocks]
    threads = _limit.get() or check_threads(None)
    source = iter(blocks)
    with single_threaded_blas():
        first = list(islice(source, 2))
        if threads == 1 or len(first) < 2:
            return [task(block) for block in chain(first, source)]
        with ThreadPoolExecutor(threads) as pool:
            return _in_order(pool, task, chain(first, source), threads)


def _in_order(
    pool: ThreadPoolExecutor, task: Callable[[Block], Result], blocks: Iterator[Block], threads: int
) -> list[Result]:
    done: list[Result] = []
    waiting: deque[Future[Result]] = deque()
    try:
        for block in blocks:
            # the error state of NumPy belongs to the context; within, no threads of threads
            waiting.append(pool.submit(copy_context().run, _alone, task, block))
            if len(waiting) > threads:
                done.append(waiting.popleft().result())
        done += [future.result() for future in waiting]
    finally:
        for future in waiting:
            future.cancel()
    return done


def _alone(task: Callable[[Block], Result], block: Block) -> Result:
    _limit.set(1)
    return task(block)
