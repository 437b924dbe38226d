"""Trace the functions of `streams/` that a message passes, from publish() to the bytes that an ASGI server gets.

A function counts when it gets the message as an argument, when it returns or yields the message without having got it,
or when it hands the message to a function that counts. Every form of the message is recognized by the text of its data:
a str or bytes, and every container, dataclass and row that holds them. The `self` of a method counts as an argument
only if it is such a form, and not for example the hub, which remembers messages.

The trace begins with the call of publish() in a new thread. It goes on in the event loop's thread once that is woken
up, and ends when the ASGI application sends the bytes. The stream is open and idle, on a public channel.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import sys
import threading
from collections.abc import Collection
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from django.core.handlers.asgi import ASGIHandler
from django.db.models import Model

from tests.support.sites import ROOT

PACKAGE = ROOT / "streams"
MARK = "the traced message"
MAX_DEPTH = 6

SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "GET",
    "path": "/events/news/",
    "query_string": b"",
    "headers": [(b"host", b"localhost")],
}


def carries(value: object, depth: int = MAX_DEPTH) -> bool:
    """Return True if `value` is a form of the message."""
    if isinstance(value, str):
        return MARK in value
    if isinstance(value, bytes):
        return MARK.encode() in value
    return depth > 0 and any(carries(part, depth - 1) for part in parts(value))


def parts(value: object) -> Collection[object]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, tuple | list | set | frozenset):
        return list(value)
    if isinstance(value, functools.partial):
        return value.args
    if isinstance(value, Model):
        return list(vars(value).values())
    if dataclasses.is_dataclass(value):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    return ()


def is_ours(code: CodeType) -> bool:
    """Return True for a function of `streams/`, except for lambdas and comprehensions."""
    return code.co_filename.startswith(f"{PACKAGE}/") and not code.co_name.startswith("<")


def gets_message(frame: FrameType) -> bool:
    """Return True if the message is among the arguments of a call."""
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return any(carries(frame.f_locals.get(name)) for name in names)


class Tracer:
    """Collects the functions in the order in which they pass the message on."""

    def __init__(self) -> None:
        self.found: list[CodeType] = []
        self._receiver: FrameType | None = None  # the function that a message was returned to last

    def begin(self) -> None:
        """Trace the calling thread."""
        sys.setprofile(self._profile)

    def end(self) -> None:
        sys.setprofile(None)

    def _profile(self, frame: FrameType, event: str, arg: object) -> None:
        code, caller = frame.f_code, frame.f_back
        if event == "call" and code.co_name == "call_soon_threadsafe":
            self.end()  # the message goes on in the event loop
        if not is_ours(code):
            return
        if event == "call" and gets_message(frame):
            if caller is not None and is_ours(caller.f_code) and caller.f_code not in self.found:
                self.found.append(caller.f_code)
            if self.found[-1:] != [code]:
                self.found.append(code)
        elif event == "return":
            # Python wraps a value that an async generator yields, so that only the type of the wrapper is known.
            is_yielded = type(arg).__name__ == "async_generator_wrapped_value" and frame is self._receiver
            if is_yielded or carries(arg):
                self._receiver = caller
                if code not in self.found:
                    self.found.append(code)


async def trace() -> list[CodeType]:
    """Publish a message to an open stream, and return the functions that it passes, with repetitions."""
    from streams import publish
    from streams.delivery.hub import Hub

    tracer = Tracer()
    sent: asyncio.Queue[bytes] = asyncio.Queue()
    request = asyncio.Queue[dict[str, Any]]()
    request.put_nowait({"type": "http.request"})

    async def send(message: dict[str, Any]) -> None:
        if MARK.encode() in message.get("body", b""):
            tracer.end()
        sent.put_nowait(message.get("body", b""))

    async def wait_for(text: str) -> None:
        while text.encode() not in await sent.get():
            pass

    def publish_traced() -> None:
        tracer.begin()
        publish("news", MARK)

    async with asyncio.timeout(60):
        serving = asyncio.create_task(ASGIHandler()(SCOPE, request.get, send))
        await wait_for("stream-checkpoint")
        await asyncio.to_thread(publish, "news", "The first message opens what is opened once.")
        await wait_for("The first message")
        hub = Hub.running()
        assert hub is not None
        while hub._news.is_set() or hub._reading.locked():  # no read of the log must find the message first
            await asyncio.sleep(0.01)
        thread = threading.Thread(target=publish_traced)
        tracer.begin()
        thread.start()
        await wait_for(MARK)
        await asyncio.to_thread(thread.join)
        serving.cancel()
        await asyncio.wait([serving])
    return tracer.found


def main() -> None:
    """Print the path as JSON: [file, function] in order."""
    found = asyncio.run(trace())
    print(json.dumps([(str(Path(code.co_filename).relative_to(PACKAGE)), code.co_qualname) for code in found]))
