"""Noticing that a client has left while middleware still keeps the view's answer.

Where all middleware is async, Django cancels it, and the answer is dropped and so closed. Sync middleware cannot be
cancelled: it goes on in its thread, with the answer in its hands, for as long as it likes.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import Any, Protocol

from django.http import HttpRequest

# Between two looks at whether the client is still there.
LOOK_SECONDS = 0.15


class Waiting(Protocol):
    """What waits to be sent: an answer."""

    begun: bool
    closed: bool

    async def aclose(self) -> None: ...


def close_if_client_leaves(answer: Waiting, request: HttpRequest) -> None:
    """Close `answer` should the client of `request` leave before anybody has asked for its first bytes."""
    asyncio.get_running_loop().call_later(LOOK_SECONDS, _look, weakref.ref(answer), weakref.ref(request), None)


def _look(
    answer_ref: weakref.ref[Waiting], request_ref: weakref.ref[HttpRequest], handler: asyncio.Task[Any] | None
) -> None:
    answer, request = answer_ref(), request_ref()
    if answer is None or answer.begun or answer.closed or request is None:
        return
    handler = handler or _handler_of(request)
    if handler is None:
        return  # another handler than Django's
    if handler.done() or handler.cancelling():
        task = asyncio.get_running_loop().create_task(answer.aclose())
        _closing.add(task)
        task.add_done_callback(_closing.discard)
    else:
        asyncio.get_running_loop().call_later(LOOK_SECONDS, _look, answer_ref, request_ref, handler)


def _handler_of(request: HttpRequest) -> asyncio.Task[Any] | None:
    """The task in which Django's ASGI handler answers `request`, and which it cancels when the client leaves.

    Nothing names it, so that it is found by the variables of its coroutine (ASGIHandler.handle's process_request, seen
    in Django 5.2). An event for a client's leaving, which ASGI handlers could offer, would let this go.
    """
    for task in asyncio.all_tasks():
        coroutine: Any = task.get_coro()
        frame = getattr(coroutine, "cr_frame", None)
        if frame is not None and coroutine.__name__ == "process_request" and frame.f_locals.get("request") is request:
            return task
    return None


_closing: set[asyncio.Task[None]] = set()
