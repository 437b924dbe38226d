"""Closing the source of a response that was dropped before anything has iterated it."""

from __future__ import annotations

import asyncio
import contextlib

from streams.feed import Closable
from streams.private.asgiref import main_event_loop
from streams.runtime.tasks import spawn


def close_later(source: Closable, loop: asyncio.AbstractEventLoop | None) -> None:
    """Close the source of a response that was dropped. Called by the garbage collector, from any thread."""
    if loop is None or loop.is_closed():
        return

    def close() -> None:
        spawn(source.aclose())

    with contextlib.suppress(RuntimeError):  # the loop is just closing
        loop.call_soon_threadsafe(close)


def serving_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that serves this request, also from a sync view's thread; None under WSGI."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return main_event_loop()
