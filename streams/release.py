"""Giving back what an ASGI request holds, its thread and its database connections, while its response goes on."""

from __future__ import annotations

import asyncio
from typing import Any

from asgiref.sync import SyncToAsync, sync_to_async

from streams.threads import close_connections


def request_context() -> Any:
    """asgiref's context of the request that is being served by ASGI; None in Django's test client and elsewhere."""
    return SyncToAsync.thread_sensitive_context.get(None)


async def release_request(*, only_idle: bool = False) -> None:
    """Give back the thread and the database connections that the running ASGI request holds. They come back by need.

    Django keeps one thread for every request, for its signals at the least, and whatever connections that thread has
    opened, until the response ends: with streams that is hours. The connections are closed in their own thread, but
    for those inside an atomic block; then asgiref's executor of this request is taken out of its table and let go (seen
    in asgiref 3.8 to 3.13; a later sync_to_async of the request makes a new one).

    Does nothing outside an ASGI request, and costs next to nothing where the request holds nothing; with `only_idle`,
    nothing either where the thread is at work.
    """
    context = request_context()
    if only_idle and not await _has_idle_thread(context):
        return
    if not await close_request_connections() or getattr(context, "_executor", None) is not None:
        return  # no thread, or somebody else's that was handed to asgiref for this request
    executor = SyncToAsync.context_to_thread_executor.pop(context, None)
    if executor is not None:
        executor.shutdown(wait=False)


def abandon_thread() -> None:
    """Let go of the running request's thread, which may be busy for good. When it comes to it, it closes its
    connections; nobody waits for that."""
    executor = SyncToAsync.context_to_thread_executor.pop(request_context(), None)
    if executor is not None:
        executor.submit(close_connections)
        executor.shutdown(wait=False)


async def _has_idle_thread(context: Any) -> bool:
    """Whether the request has a thread that answers at once. One that does not may be in the middle of a query."""
    executor = None if context is None else SyncToAsync.context_to_thread_executor.get(context)
    if executor is None:
        return False
    try:
        await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(executor, int), 0.01)
    except TimeoutError:
        return False
    return True


async def close_request_connections() -> bool:
    """Close the connections that the running ASGI request holds, in its thread. Whether it has a thread."""
    context = request_context()
    if context is None or context not in SyncToAsync.context_to_thread_executor:
        return False
    await sync_to_async(close_connections)()
    return True
