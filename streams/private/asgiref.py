"""Internals of asgiref: the threads in which sync_to_async and async_to_sync run their calls."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Executor
from typing import Any

from asgiref.sync import AsyncToSync, SyncToAsync

from streams.private import or_substitute

KEEPS_A_THREAD = "Each open stream keeps a thread."
OTHER_THREAD = "Sync code that waits for async code, as tests do, can find the log's reads outside of its transaction."

# Stands for a request's context if asgiref does not show the real one.
_UNKNOWN = object()


@or_substitute(_UNKNOWN, "asgiref", "SyncToAsync.thread_sensitive_context", KEEPS_A_THREAD)
def request_context() -> Any:
    """Return the context of the ASGI request that a server is handling here; None elsewhere, as in the test client.

    It is the key of the request's thread, and it shows if a server runs this code at all. Seen in asgiref 3.8 to
    3.13 (SyncToAsync.thread_sensitive_context). A public way to ask for the current ThreadSensitiveContext would
    make it unnecessary. If it is missing, a placeholder is returned: streams then end with their server, close their
    connections, and keep their threads.
    """
    return SyncToAsync.thread_sensitive_context.get(None)


def has_thread(context: Any) -> bool:
    """Return True if a request has a thread, or if that is not known.

    Seen in asgiref 3.8 to 3.13 (SyncToAsync.context_to_thread_executor). See take_executor().
    """
    if context is None:
        return False
    table = _executors()
    return table is None or context in table


def executor_of(context: Any) -> Executor | None:
    """Return the executor of a request's thread; None without a thread, or if it is unknown. See take_executor()."""
    table = _executors()
    return None if context is None or table is None else table.get(context)


def take_executor(context: Any) -> Executor | None:
    """Take the executor of a request's thread away from asgiref, so that it can be shut down before the response ends.

    A later sync_to_async of the request makes a new one. Returns None without an executor, for an executor that was
    passed to ThreadSensitiveContext (since asgiref 3.12), or if it is unknown. Seen in asgiref 3.8 to 3.13
    (SyncToAsync.context_to_thread_executor, ThreadSensitiveContext._executor). A public way to release the thread of a
    context would make it unnecessary. If it is missing, a stream keeps its thread.
    """
    table = _executors()
    if context is None or table is None or getattr(context, "_executor", None) is not None:
        return None
    executor: Executor | None = table.pop(context, None)
    return executor


@or_substitute(None, "asgiref", "SyncToAsync.context_to_thread_executor", KEEPS_A_THREAD)
def _executors() -> Any:
    return SyncToAsync.context_to_thread_executor


@or_substitute(None, "asgiref", "AsyncToSync.executors", OTHER_THREAD)
def innermost_caller() -> Executor | None:
    """Return the executor of the sync thread that waits in the innermost async_to_sync around this code; else None.

    The log's calls then run in that thread, on its connection, and so in its transaction. Seen in asgiref 3.8 to 3.13
    (AsyncToSync.executors, CurrentThreadExecutor._broken). A public way to run a function in the thread of the sync
    caller, without sync_to_async, would make it unnecessary. If it is missing, the calls run in the log's threads.
    """
    current: Executor | None = getattr(AsyncToSync.executors, "current", None)
    # A caller that has returned can leave a task behind in which it still seems to wait.
    return None if current is None or is_broken(current) else current


@or_substitute(None, "asgiref", "AsyncToSync.loop_thread_executors", OTHER_THREAD)
def outermost_caller(loop: asyncio.AbstractEventLoop) -> Executor | None:
    """Return the executor of the sync thread that started `loop` by async_to_sync and waits for it; else None.

    See innermost_caller(). Seen in asgiref 3.8 to 3.13 (AsyncToSync.loop_thread_executors).
    """
    return AsyncToSync.loop_thread_executors.get(loop)


@or_substitute(None, "asgiref", "SyncToAsync.single_thread_executor", OTHER_THREAD)
def shared_executor() -> Executor | None:
    """Return the executor of the one thread that sync_to_async uses outside of requests; None if it is unknown.

    An async test's own queries run there. Seen in asgiref 3.8 to 3.13 (SyncToAsync.single_thread_executor). A test
    database in memory whose connections wait for each other's locks would make it unnecessary.
    """
    return SyncToAsync.single_thread_executor


def is_broken(executor: Executor) -> bool:
    """Return True if the async_to_sync call of an executor has returned, so that it runs nothing any more.

    Seen in asgiref 3.8 to 3.13 (CurrentThreadExecutor._broken). If it is missing, submitting raises RuntimeError.
    """
    return bool(getattr(executor, "_broken", False))


def thread_of(executor: Any) -> threading.Thread | None:
    """Return the one thread of an asgiref executor; None if it has not started, or if it is unknown.

    Seen in asgiref 3.8 to 3.13 (CurrentThreadExecutor._work_thread) and in Python 3.11 to 3.13
    (ThreadPoolExecutor._threads).
    """
    return getattr(executor, "_work_thread", None) or next(iter(getattr(executor, "_threads", ())), None)


@or_substitute(None, "asgiref", "SyncToAsync.threadlocal", "Responses that a sync view drops are not closed at once.")
def main_event_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that has called this thread by sync_to_async; None without one, or if it is unknown.

    Seen in asgiref 3.8 to 3.13 (SyncToAsync.threadlocal.main_event_loop). Code that got the loop handed to it would
    make it unnecessary. If it is missing, a response that a sync view drops is closed by the garbage collector later.
    """
    return getattr(SyncToAsync.threadlocal, "main_event_loop", None)
