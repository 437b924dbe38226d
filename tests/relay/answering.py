"""An in-process upstream that sends given bytes, for tests of how the relay parses them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from streams.relay.proxy.answers import Answer, open_answer
from streams.relay.upstreams import BaseUpstream, UpstreamResponse

STREAM = "text/event-stream; charset=utf-8"


class GivenUpstream(BaseUpstream):
    """Sends `chunks`; a number is a pause in seconds. Records the requests, and how often its response was closed."""

    def __init__(self, chunks: Iterable[bytes | float], *, status: int = 200, content_type: str = STREAM) -> None:
        super().__init__("default", {})
        self.chunks = list(chunks)
        self.status = status
        self.content_type = content_type
        self.asked: list[Mapping[str, Any]] = []
        self.closed = 0

    @property
    def models(self) -> Sequence[str]:
        return ["small", "large"]

    async def send(self, body: Mapping[str, Any]) -> UpstreamResponse:
        self.asked.append(body)
        return GivenResponse(self)


class GivenResponse(UpstreamResponse):
    def __init__(self, upstream: GivenUpstream) -> None:
        self.status = upstream.status
        self.headers = [("content-type", upstream.content_type)]
        self._upstream = upstream
        self._chunks = iter(upstream.chunks)

    async def __anext__(self) -> bytes:
        for chunk in self._chunks:
            if isinstance(chunk, bytes):
                return chunk
            await asyncio.sleep(chunk)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._upstream.closed += 1


def event(text: str | None = None, reason: str | None = None, **more: Any) -> bytes:
    """Return a chunk of a chat completion as an event."""
    delta = {} if text is None else {"content": text}
    chunk = {"model": "small", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more}
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode()


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\n'
DONE = b"data: [DONE]\n\n"


async def answer_of(*chunks: bytes | float, **options: Any) -> Answer:
    return await open_answer(GivenUpstream(chunks, **options), {"model": "small", "stream": True})
