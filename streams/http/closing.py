"""Close the source of a response that was dropped before it was iterated."""

from __future__ import annotations

import asyncio
import contextlib

from streams.http.source import Closable
from streams.private.asgiref import main_event_loop
from streams.runtime.tasks import spawn


def close_later(source: Closable, loop: asyncio.AbstractEventLoop | None) -> None:
    """Close the source of a dropped response, on its event loop. Called by the garbage collector, from any thread."""
    if loop is not None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: spawn(source.aclose()))


def serving_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that serves this request, also in the thread of a sync view, or None under WSGI."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return main_event_loop()
