"""Asyncio tasks and threads that belong to the process and not to a request, and the periodic tasks of each hub.

A module registers its periodic tasks here, and each hub runs them. So the hub need not know of retention, presence or
broadcasts, and these need no process of their own.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from streams.runtime.resets import per_process

T = TypeVar("T")
logger = logging.getLogger("streams")


# The tasks that run now: an event loop keeps only a weak reference to its tasks.
_running = per_process(set[asyncio.Task[Any]])
_to_finish = per_process(set[asyncio.Task[Any]])


def spawn(coroutine: Coroutine[Any, Any, T], *, awaited: bool = False, finish: bool = False) -> asyncio.Task[T]:
    """Start a task of the process on the running event loop, and keep it alive until it ends.

    It has a context of its own: the task outlives the request that happened to start it, and must not keep that
    request's thread, its user or its trace alive. A task that is still running is cancelled when its loop is closed.

    Args:
        awaited: the caller awaits the task, and so gets its exception. Otherwise the exception is logged.
        finish: when the process is asked to end, the server waits for the task (see http/shutdown.py).
    """
    task = asyncio.get_running_loop().create_task(coroutine, context=contextvars.Context())
    tasks = _to_finish if finish else _running
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    if not awaited:
        task.add_done_callback(_log_failure)
    return task


def start_thread(target: Callable[[], object], name: str) -> threading.Thread:
    """Start a daemon thread of the process.

    It is started in a context of its own, for the same reason as in spawn(). Sentry and OpenTelemetry give a thread the
    scope of the code that starts it: errors in this thread would be reported with the URL and the user of one request.
    """
    thread = threading.Thread(target=target, name=name, daemon=True)
    contextvars.Context().run(thread.start)
    return thread


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("The task %s failed.", task.get_coro(), exc_info=error)


def must_finish() -> bool:
    """Return True if a task still runs that was spawned with `finish`, on any event loop. Can be called anywhere."""
    return any(not task.get_loop().is_closed() for task in tuple(_to_finish))


@dataclass(frozen=True, slots=True)
class PeriodicTask:
    """`run` is called on the hub's event loop every `seconds()` seconds, and never twice at a time in one hub.

    Several hubs, in this process and in others, run the same task. A task that must run only once takes care of that
    itself, in the database. If `seconds()` returns None, the task does not run. An exception is logged once for a
    series of failures. `at_start`: also run the task as soon as the hub has started.
    """

    name: str
    run: Callable[[], Awaitable[object]]
    seconds: Callable[[], float | None]
    at_start: bool = True


_periodic: dict[str, PeriodicTask] = {}


def register(task: PeriodicTask) -> None:
    """Have all hubs that start from now on run `task`. A registered task of the same name is replaced."""
    _periodic[task.name] = task


def registered() -> Iterable[PeriodicTask]:
    """Return all registered periodic tasks."""
    return tuple(_periodic.values())
