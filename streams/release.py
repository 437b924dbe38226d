"""Giving back what an ASGI request holds, its thread and its database connections, while its response goes on."""

from __future__ import annotations

import asyncio
from typing import Any

from asgiref.sync import sync_to_async

from streams.private.asgiref import executor_of, has_thread, take_executor
from streams.private.asgiref import request_context as request_context
from streams.threads import close_connections


async def release_request(*, only_idle: bool = False) -> None:
    """Give back the thread and the database connections that the running ASGI request holds. They come back by need.

    Django keeps one thread for every request, for its signals at the least, and whatever connections that thread has
    opened, until the response ends: with streams that is hours. The connections are closed in their own thread, but
    for those inside an atomic block; then asgiref's executor of this request is taken out of its table and let go.

    Does nothing outside an ASGI request, and costs next to nothing where the request holds nothing; with `only_idle`,
    nothing either where the thread is at work.
    """
    context = request_context()
    if only_idle and not await _has_idle_thread(context):
        return
    if await close_request_connections() and (executor := take_executor(context)) is not None:
        executor.shutdown(wait=False)


def abandon_thread() -> None:
    """Let go of the running request's thread, which may be busy for good. When it comes to it, it closes its
    connections; nobody waits for that."""
    if (executor := take_executor(request_context())) is not None:
        executor.submit(close_connections)
        executor.shutdown(wait=False)


async def _has_idle_thread(context: Any) -> bool:
    """Whether the request has a thread that answers at once. One that does not may be in the middle of a query."""
    if (executor := executor_of(context)) is None:
        return False
    try:
        await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(executor, int), 0.01)
    except TimeoutError:
        return False
    return True


async def close_request_connections() -> bool:
    """Close the connections that the running ASGI request holds, in its thread. Whether it has a thread."""
    if not has_thread(request_context()):
        return False
    await sync_to_async(close_connections)()
    return True
