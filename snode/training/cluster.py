"""What a dask cluster is asked and told: workers, tasks, waiting, and why a worker was lost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Container, Iterable, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any

__all__ = ["check_client", "check_losses", "everywhere", "submit", "wait_for_any", "workers_of"]

WORKER_TIMEOUT = 60.0
"""Seconds that a run waits while the cluster has no worker at all."""

POLL = 1.0
"""Seconds between two looks at the cluster while an answer is awaited."""

MAX_LOSSES = 4
"""Workers that one order may cost; dask's own default for a task is the same."""

CLOSE_TIMEOUT = 5.0
"""Seconds that the end of a run waits for workers to free their memory."""


def check_client(executor: Any) -> None:
    """Raise unless `executor` is a client of dask that waits for its answers.

    Raises
    ------
    ImportError
        If dask.distributed is not installed; names the extra.
    TypeError
        If `executor` is anything else.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError(
            'executor needs dask.distributed: pip install "snode[distributed]"'
        ) from error
    if not isinstance(executor, Client) or executor.asynchronous:
        raise TypeError(
            "executor must be a dask.distributed.Client that is not asynchronous; "
            f"got {type(executor).__name__}"
        )


def workers_of(client: Any) -> dict[str, int]:
    """Return the addresses of the workers and their numbers of threads, waiting for the first."""
    try:
        client.wait_for_workers(1, timeout=WORKER_TIMEOUT)
    except TimeoutError:
        raise TimeoutError(_no_worker(client)) from None
    return dict(sorted(client.nthreads().items()))


def wait_for_any(
    client: Any, futures: Iterable[Any], home: str | None = None, due: float = math.inf
) -> list[Any]:
    """Return those that are done, once there is one; none if `home` is gone, or it is `due`.

    `home` is the address of a worker, `due` a time of the monotonic clock.

    Raises
    ------
    TimeoutError
        If the cluster had no worker for WORKER_TIMEOUT seconds.
    ConnectionError
        If the scheduler is gone.
    """
    import distributed

    wait: Any = distributed.wait
    futures, seen = list(futures), time.monotonic()
    while not any(future.done() for future in futures):
        with suppress(TimeoutError, CancelledError):
            rest = min(POLL, max(due - time.monotonic(), 0.01))
            wait(futures, timeout=rest, return_when="FIRST_COMPLETED")
            continue
        if client.status != "running":
            raise ConnectionError("the connection to the dask scheduler is lost")
        if time.monotonic() >= due:
            break
        workers = client.nthreads()
        if workers and home is not None and home not in workers:
            break
        if workers:
            seen = time.monotonic()
        elif time.monotonic() - seen > WORKER_TIMEOUT:
            raise TimeoutError(_no_worker(client))
    return [future for future in futures if future.done()]


def _no_worker(client: Any) -> str:
    return f"executor has had no worker for {WORKER_TIMEOUT:g} seconds{_last_words(client)}"


def check_losses(client: Any, lost: Sequence[str], order: str) -> None:
    """Raise if `MAX_LOSSES` workers were lost while they worked on one order.

    Raises
    ------
    RuntimeError
        With the cause, as far as dask knows it.
    """
    if len(lost) >= MAX_LOSSES:
        raise RuntimeError(
            f"{len(lost)} workers were lost while they worked on the same order ({order}), the "
            f"last {lost[-1]}{_last_words(client)}"
        )


def _last_words(client: Any) -> str:
    """Return what dask knows of the end of the last worker that was lost at work, or ''."""
    memory = [event for _, event in _events(client, "worker-restart-memory")]
    if memory:
        worker, size = memory[-1].get("worker"), memory[-1].get("rss", 0) / 1e9
        return (
            f"; dask ended {worker}, which used {size:.3g} GB: more than its memory_limit allows "
            "(smaller minibatches or more workers need less)"
        )
    for _, event in reversed(_events(client, "all")):
        lost = event.get("action") == "remove-worker" and not event.get("expected", False)
        if lost and event.get("processing-tasks"):
            return (
                f"; {event.get('worker')} was lost at work: killed, out of memory, or it could not "
                "read what it was sent (another version of snode, dask or Python); see its log"
            )
    return ""


def _events(client: Any, topic: str) -> list[Any]:
    """Return the events of a topic, oldest first; none if the scheduler does not say."""
    with suppress(Exception):  # this words an error, and must not replace it
        return [(at, event) for at, event in client.get_events(topic) if isinstance(event, dict)]
    return []


def _open(sealed: bytes) -> Any:
    """Carry out what was sent; return why, as text, if it cannot be read."""
    from distributed.protocol import pickle

    loads: Any = pickle.loads
    try:
        task, args = loads(sealed)
    except Exception as error:
        from importlib.metadata import PackageNotFoundError, version

        try:
            has = f"snode {version('snode')}"
        except PackageNotFoundError:
            has = "no snode"
        return f"{type(error).__name__}: {error} (it has {has})"
    return task(*args)


# So that its code is sent, not its name: a worker with another snode, or none, can run it too. A
# worker that cannot read a task by itself would leave the cluster and say why only in its log.
_open.__module__ = "__main__"


def submit(
    client: Any, task: Callable[..., Any], *args: Any, sealed: bool = False, **options: Any
) -> Any:
    """Hand a task to dask, its arguments within it.

    Arguments that are scattered instead would be lost with the worker that holds them. If `sealed`,
    a worker that cannot read the task returns the cause, a text.
    """
    import dask

    if sealed:
        from distributed.protocol import pickle

        dumps: Any = pickle.dumps
        task, args = _open, (dumps((task, args)),)
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}):
        return client.submit(task, *args, pure=False, **options)


def everywhere(
    client: Any, task: Callable[..., Any], *args: Any, silent: Container[str] = ()
) -> None:
    """Run a task on every worker, and wait `CLOSE_TIMEOUT` seconds for all but the silent ones."""
    import distributed

    forget: Any = distributed.fire_and_forget
    wait: Any = distributed.wait
    futures = {w: submit(client, task, *args, sealed=True, workers=[w]) for w in client.nthreads()}
    forget(list(futures.values()))
    with suppress(TimeoutError):
        wait([f for w, f in futures.items() if w not in silent], timeout=CLOSE_TIMEOUT)
