"""Views that publish, and views that return their own EventStreamResponse. They are mounted at /test/response/."""

from __future__ import annotations

import asyncio
import contextvars
import datetime
import itertools
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.urls import path
from django.utils import timezone

from streams import Event, EventStreamResponse, apublish, publish

# The iterators record here when they start and end. The `key` in the query string is the dict's key.
journal: defaultdict[str, list[Any]] = defaultdict(list)

SECRET = "the password is hunter2"


def read_journal(request: HttpRequest) -> JsonResponse:
    """Return the records with this `key`."""
    return JsonResponse({"journal": journal[request.GET["key"]]})


def _seconds(request: HttpRequest, name: str) -> float | None:
    return float(request.GET[name]) if name in request.GET else None


def _respond(request: HttpRequest, items: Any) -> EventStreamResponse:
    lives = _seconds(request, "lives")
    response = EventStreamResponse(
        items,
        heartbeat=_seconds(request, "heartbeat"),
        end=request.GET.get("end", "clean"),
        timeout=_seconds(request, "timeout"),
        deadline=None if lives is None else timezone.now() + datetime.timedelta(seconds=lives),
    )
    if "end" in request.GET:
        response.serve_to(getattr(request, "scope", {}))
    return response


# --- Publishing ---


async def apublish_one(request: HttpRequest) -> JsonResponse:
    message = await apublish("news", request.GET["data"])
    return JsonResponse({"position": message.position})


def publish_one(request: HttpRequest) -> JsonResponse:
    publish("news", request.GET["data"])
    return JsonResponse({})


publish_one_in_transaction = transaction.atomic(publish_one)


# --- Iterators that come to an end ---


async def _numbers(n: int, pause: float) -> AsyncIterator[int]:
    for number in range(n):
        yield number
        await asyncio.sleep(pause)


async def numbers(request: HttpRequest) -> EventStreamResponse:
    """Yield `n` numbers, `pause` seconds apart."""
    return _respond(request, _numbers(int(request.GET.get("n", 3)), _seconds(request, "pause") or 0.0))


def numbers_of_sync_view(request: HttpRequest) -> EventStreamResponse:
    """Like numbers(), but a sync view."""
    return _respond(request, _numbers(int(request.GET.get("n", 3)), _seconds(request, "pause") or 0.0))


async def kinds(request: HttpRequest) -> EventStreamResponse:
    """Yield one item of every supported kind."""

    async def items() -> AsyncIterator[Any]:
        yield "text"
        yield "two\nlines"
        yield {"a": [1, None, "é"]}
        yield [1, 2]
        yield 3.5
        yield b": a comment, as it is\n\n"
        yield Event("typed", event="greeting", id="7", retry=1234)
        yield Event({"day": datetime.date(2026, 11, 22)}, id=8)

    return _respond(request, items())


async def failing(request: HttpRequest) -> EventStreamResponse:
    """Fail after the first item."""

    async def items() -> AsyncIterator[str]:
        yield "before"
        raise LookupError(SECRET)

    return _respond(request, items())


# --- Iterators that go on until the client leaves ---


async def endless(request: HttpRequest) -> EventStreamResponse:
    """Yield one item and then wait. Record when the iterator is closed."""
    key = request.GET["key"]

    async def items() -> AsyncIterator[str]:
        journal[key].append("started")
        try:
            yield "first"
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # the cleanup of an iterator can wait for something
            journal[key].append("closed")

    return _respond(request, items())


async def chatty(request: HttpRequest) -> EventStreamResponse:
    """Yield numbers, padded with `bytes` bytes, as fast as they are read. Record how many, and when it is closed."""
    key, pad = request.GET["key"], "x" * int(request.GET.get("bytes", 10))

    async def items() -> AsyncIterator[str]:
        n = 0
        try:
            for n in itertools.count():
                journal[key][:] = [n]
                yield f"{n} {pad}"
                await asyncio.sleep(0)
        finally:
            journal[key][:] = [n, "closed"]

    return _respond(request, items())


class Held:
    """An iterator that holds a resource from its creation, like an upstream connection, and releases it in aclose()."""

    def __init__(self, key: str) -> None:
        self.key = key
        journal[key].append("held")

    def __aiter__(self) -> Held:
        return self

    async def __anext__(self) -> str:
        await asyncio.Event().wait()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        journal[self.key].append("let go")


async def held(request: HttpRequest) -> EventStreamResponse:
    return _respond(request, Held(request.GET["key"]))


def held_of_sync_view(request: HttpRequest) -> EventStreamResponse:
    return _respond(request, Held(request.GET["key"]))


# --- Other things that an iterator can do ---


async def database(request: HttpRequest) -> EventStreamResponse:
    """Query before each item. Record the thread, and whether its connection was already open."""
    key = request.GET["key"]

    def query() -> int:
        note = {"thread": threading.get_ident(), "was_open": connections["default"].connection is not None}
        journal[key].append(note)
        return get_user_model().objects.count()

    async def items() -> AsyncIterator[int]:
        while True:
            yield await sync_to_async(query)()
            await asyncio.sleep(1)

    return _respond(request, items())


async def busy_thread(request: HttpRequest) -> EventStreamResponse:
    """Occupy the request's thread for `seconds` with sync code before the only item."""

    async def items() -> AsyncIterator[str]:
        await sync_to_async(time.sleep)(float(request.GET["seconds"]))
        yield "done"

    return _respond(request, items())


_depth: contextvars.ContextVar[int] = contextvars.ContextVar("depth", default=0)


async def one_task(request: HttpRequest) -> EventStreamResponse:
    """Use a task group, a timeout and a context variable across several items."""

    async def items() -> AsyncIterator[Any]:
        token = _depth.set(1)
        async with asyncio.TaskGroup() as group:
            double = group.create_task(asyncio.sleep(0.01, result=2))
            yield _depth.get()
            _depth.set(_depth.get() + 1)
            yield await double
        try:
            async with asyncio.timeout(0.2):
                yield _depth.get()
                await asyncio.sleep(60)
        except TimeoutError:
            yield "timed out"
        _depth.reset(token)
        yield _depth.get()

    return _respond(request, items())


def threads(request: HttpRequest) -> JsonResponse:
    """Return the identifiers of this process's threads."""
    return JsonResponse({"threads": [thread.ident for thread in threading.enumerate()]})


def large(request: HttpRequest) -> HttpResponse:
    """Return an ordinary response of `bytes` bytes."""
    return HttpResponse(b"x" * int(request.GET["bytes"]), content_type="text/plain")


async def one_chunk(request: HttpRequest) -> EventStreamResponse:
    """Yield one chunk of `bytes` bytes, and end."""

    async def items() -> AsyncIterator[bytes]:
        yield b":" + b"x" * int(request.GET["bytes"]) + b"\n"

    return _respond(request, items())


async def quick(request: HttpRequest) -> HttpResponseBase:
    """Return an ordinary response."""
    return JsonResponse({})


urlpatterns = [
    path("journal/", read_journal),
    path("apublish/", apublish_one),
    path("publish/", publish_one),
    path("publish-in-transaction/", publish_one_in_transaction),
    path("numbers/", numbers),
    path("sync-numbers/", numbers_of_sync_view),
    path("kinds/", kinds),
    path("failing/", failing),
    path("endless/", endless),
    path("chatty/", chatty),
    path("held/", held),
    path("sync-held/", held_of_sync_view),
    path("database/", database),
    path("busy-thread/", busy_thread),
    path("one-task/", one_task),
    path("threads/", threads),
    path("large/", large),
    path("one-chunk/", one_chunk),
    path("quick/", quick),
]
