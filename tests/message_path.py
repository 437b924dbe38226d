"""Trace the functions of `streams/` that a message passes, from publish() to the bytes that an ASGI server gets.

A function counts if the message, in any of its forms, is among its arguments, or if it returns or yields the message
without having been called with it. The forms are the text of its data, and every object of `streams` and container
that holds this text. The object of a method counts as an argument only if it is a form of the message itself, and not
for example a hub that remembers messages.

The trace begins at the call of publish() in a thread. It changes to the event loop where that thread wakes the loop up,
and ends when the ASGI application sends the bytes. The stream is open and idle before, on a public channel.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import sys
import threading
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from tests.sites import ROOT

PACKAGE = ROOT / "streams"
MARK = "the traced message"
MAX_DEPTH = 6


def carries(value: object, depth: int = MAX_DEPTH) -> bool:
    """Return True if `value` is a form of the message."""
    if isinstance(value, str):
        return MARK in value
    if isinstance(value, bytes):
        return MARK.encode() in value
    if depth > 2 and not isinstance(value, tuple | list | dict | functools.partial):
        depth = 3
    return depth > 0 and any(carries(part, depth - 1) for part in parts(value))


def parts(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, tuple | list | set | frozenset | deque):
        return list(value)
    if isinstance(value, functools.partial):
        return value.args
    if dataclasses.is_dataclass(value) or type(value).__module__.startswith("streams."):
        return _state(value)
    return ()


def _state(value: object) -> list[object]:
    slots = [getattr(value, name, None) for name in getattr(type(value), "__slots__", ())]
    return [*slots, *getattr(value, "__dict__", {}).values()]


def arguments(frame: FrameType) -> Iterable[object]:
    """Return the arguments of a call, without an object that is no form of the message."""
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    for name in names:
        value = frame.f_locals.get(name)
        if name != "self" or isinstance(value, tuple) or dataclasses.is_dataclass(value):
            yield value


class Tracer:
    def __init__(self, everything: bool = False) -> None:
        self.found: list[CodeType] = []
        self.everything = everything

    def begin(self) -> None:
        sys.setprofile(self._profile)

    def end(self) -> None:
        sys.setprofile(None)

    def _is_ours(self, code: CodeType) -> bool:
        return code.co_filename.startswith(str(PACKAGE)) and not code.co_name.startswith("<")

    def _yields(self, code: CodeType, value: object) -> bool:
        # An async generator yields an opaque object.
        return type(value).__name__ == "async_generator_wrapped_value"

    def _profile(self, frame: FrameType, event: str, arg: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_name == "call_soon_threadsafe":
            self.end()
        if not self._is_ours(code):
            return
        if event == "call" and any(map(carries, arguments(frame))):
            caller = frame.f_back
            if caller is not None and self._is_ours(caller.f_code) and caller.f_code not in self.found:
                self.found.append(caller.f_code)
            if not self.found or self.found[-1] is not code:
                self.found.append(code)
        elif event == "return" and code not in self.found and (carries(arg) or self._yields(code, arg)):
            self.found.append(code)


async def trace(tracer) -> list[CodeType]:
    from django.core.handlers.asgi import ASGIHandler

    from streams import publish

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": "/events/news/",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
    }
    sent: asyncio.Queue[Any] = asyncio.Queue()
    request = iter([{"type": "http.request"}])

    async def receive() -> dict[str, Any]:
        return next(request, None) or await asyncio.Future()

    async def send(message: dict[str, Any]) -> None:
        if MARK.encode() in message.get("body", b""):
            tracer.end()
        sent.put_nowait(message)

    serving = asyncio.create_task(ASGIHandler()(scope, receive, send))
    while b"stream-checkpoint" not in (await sent.get()).get("body", b""):
        pass
    await asyncio.to_thread(publish, "news", "warm up: the lock, the rules and the notifier are known")
    while b"warm up" not in (await sent.get()).get("body", b""):
        pass
    await asyncio.sleep(0.1)

    def publishing() -> None:
        tracer.begin()
        publish("news", MARK)

    thread = threading.Thread(target=publishing)
    tracer.begin()
    thread.start()
    while MARK.encode() not in (await sent.get()).get("body", b""):
        pass
    tracer.end()
    await asyncio.to_thread(thread.join)
    serving.cancel()
    await asyncio.wait([serving])
    return tracer.found


def name_of(code: CodeType) -> tuple[str, str]:
    return str(Path(code.co_filename).relative_to(PACKAGE)), code.co_qualname


def main(everything: str = "") -> None:
    print(json.dumps([name_of(code) for code in asyncio.run(trace(Tracer(bool(everything))))]))
