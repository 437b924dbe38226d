"""An upstream inside this process: it sends a text from the settings, without a key or the network."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from streams.exceptions import InvalidSetting
from streams.relay.upstreams.base import BaseUpstream, UpstreamResponse

DEFAULT_ANSWER = (
    "You asked: “{question}”\n\nNo model is configured here, so this answer is a script. It comes piece by piece, as a "
    "model's would, and each piece is in the message log before you see it. Reload the page in the middle, open it in "
    "another tab, or cut the network for a while: it goes on where it was."
)


class ScriptedUpstream(BaseUpstream):
    """Answers with the text `answer`, one word every `seconds` seconds. For sites without a key, and for tests.

    Options: `answer`, in which `{question}` is replaced by the last message; `times`, the number of repetitions (1);
    `seconds` between words (0.05); `models`.
    """

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        super().__init__(name, options)
        known = {"answer": DEFAULT_ANSWER, "times": 1, "seconds": 0.05, "models": ["scripted"]}
        if unknown := set(options) - set(known):
            raise InvalidSetting(
                f"STREAMS['UPSTREAMS'][{name!r}]['OPTIONS'] has no {sorted(unknown)[0]!r}; a ScriptedUpstream takes "
                f"{', '.join(known)}."
            )
        merged: dict[str, Any] = {**known, **options}
        self._answer: str = merged["answer"] * merged["times"]
        self._seconds: float = merged["seconds"]
        self._models: Sequence[str] = merged["models"]

    @property
    def models(self) -> Sequence[str]:
        return self._models

    async def send(self, body: Mapping[str, Any]) -> UpstreamResponse:
        messages = body.get("messages") or [{}]
        question = str(messages[-1].get("content", ""))
        text = self._answer.replace("{question}", question)
        if body.get("stream"):
            return _ScriptedResponse("text/event-stream", _stream(str(body["model"]), text, self._seconds))
        return _ScriptedResponse("application/json", _whole(str(body["model"]), text))


class _ScriptedResponse(UpstreamResponse):
    def __init__(self, content_type: str, chunks: AsyncIterator[bytes]) -> None:
        self.status = 200
        self.headers = [("content-type", content_type)]
        self._chunks = chunks
        self._next: asyncio.Future[bytes] | None = None

    async def __anext__(self) -> bytes:
        # In a task of its own, because cancelling the generator's step would end the generator.
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._chunks, b""))
        await asyncio.wait([self._next])
        if self._next.cancelled() or not (chunk := self._next.result()):  # it was closed, or is at its end
            raise StopAsyncIteration
        self._next = None
        return chunk

    async def aclose(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait([self._next])
        await self._chunks.aclose()  # type: ignore[attr-defined]  # it is a generator


def _words(text: str) -> Iterator[str]:
    """Yield each word of the text with the space after it, as models send tokens."""
    start = 0
    for index in range(1, len(text)):
        if text[index - 1].isspace() and not text[index].isspace():
            yield text[start:index]
            start = index
    yield text[start:]


async def _stream(model: str, text: str, seconds: float) -> AsyncIterator[bytes]:
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": model,
    }
    pieces = list(_words(text))
    loop = asyncio.get_running_loop()
    due = loop.time()
    for piece in pieces:
        due += seconds  # from the start, so that delays of sleep() do not add up
        await asyncio.sleep(due - loop.time())
        yield _event({**head, "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
    yield _event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    yield _event({**head, "choices": [], "usage": _usage(len(pieces))})
    yield b"data: [DONE]\n\n"


async def _whole(model: str, text: str) -> AsyncIterator[bytes]:
    message = {"role": "assistant", "content": text}
    yield json.dumps(
        {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": _usage(len(list(_words(text)))),
        }
    ).encode()


def _event(data: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


def _usage(words: int) -> dict[str, int]:
    return {"prompt_tokens": 0, "completion_tokens": words, "total_tokens": words}
