"""Close the source of a response that was dropped before it was iterated."""

from __future__ import annotations

import asyncio
import contextlib

from streams.http.source import Closable
from streams.private.asgiref import main_event_loop
from streams.runtime.tasks import spawn


def close_later(source: Closable, loop: asyncio.AbstractEventLoop | None) -> None:
    """Close the source of a dropped response, on its event loop. Called by the garbage collector, from any thread."""
    if loop is None or loop.is_closed():
        return

    def close() -> None:
        spawn(source.aclose())

    with contextlib.suppress(RuntimeError):  # the loop is just closing
        loop.call_soon_threadsafe(close)


def serving_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that serves this request, also in the thread of a sync view, or None under WSGI."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return main_event_loop()
