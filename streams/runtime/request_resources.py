"""Release the thread and the database connections of an ASGI request while its response is still being sent."""

from __future__ import annotations

import asyncio
from typing import Any

from asgiref.sync import sync_to_async

from streams.private.asgiref import executor_of, has_thread, take_executor
from streams.private.asgiref import request_context as request_context
from streams.runtime.executor import close_connections


async def release_request(*, only_idle: bool = False) -> None:
    """Release the thread and the database connections of the running ASGI request. A later use creates new ones.

    Django keeps a thread for every request, and the connections that this thread has opened, until the response ends:
    for a stream that is hours. The connections are closed in their own thread, except inside an atomic block. Then
    asgiref's executor of this request is taken out of its table and shut down.

    Does nothing outside an ASGI request. It is cheap if the request holds nothing.

    Args:
        only_idle: do nothing if the thread is busy.
    """
    context = request_context()
    if only_idle and not await _has_idle_thread(context):
        return
    if await close_request_connections() and (executor := take_executor(context)) is not None:
        executor.shutdown(wait=False)


def abandon_thread() -> None:
    """Release the running request's thread without waiting for it, because it might never return.

    The thread closes its connections and ends when its current job is done.
    """
    if (executor := take_executor(request_context())) is not None:
        executor.submit(close_connections)
        executor.shutdown(wait=False)


async def _has_idle_thread(context: Any) -> bool:
    """Return True if the request has a thread that answers at once. Another thread can be in the middle of a query."""
    if (executor := executor_of(context)) is None:
        return False
    try:
        await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(executor, int), 0.01)
    except TimeoutError:
        return False
    return True


async def close_request_connections() -> bool:
    """Close the connections of the running ASGI request, in its thread. Return False if it has no thread."""
    if not has_thread(request_context()):
        return False
    await sync_to_async(close_connections)()
    return True
