"""An upstream inside this process: it sends a text from the settings, without a key or the network."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from streams.exceptions import InvalidSetting
from streams.relay.upstreams.base import BaseUpstream, UpstreamResponse

DEFAULT_ANSWER = (
    "You asked: “{question}”\n\nThis site has no model, so the answer is a fixed text. It arrives word by word, as a "
    "model's answer does, and each part is in the message log before you see it. Reload the page halfway, open it in "
    "another tab, or disconnect for a while: the answer continues where it was."
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
        kind = "chat.completion.chunk" if body.get("stream") else "chat.completion"
        head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": str(body["model"]),
        }
        if body.get("stream"):
            return _ScriptedResponse("text/event-stream", _stream(head, text), self._seconds)
        return _ScriptedResponse("application/json", iter([_whole(head, text)]), 0)


class _ScriptedResponse(UpstreamResponse):
    def __init__(self, content_type: str, chunks: Iterator[bytes], seconds: float) -> None:
        self.status = 200
        self.headers = [("content-type", content_type)]
        self._chunks = chunks
        self._next = next(chunks, None)
        self._seconds = seconds
        self._due = asyncio.get_running_loop().time()
        self._closed = asyncio.Event()

    async def __anext__(self) -> bytes:
        if self._next is None:
            raise StopAsyncIteration
        # Each time is computed from the last one, so that delays of the event loop do not add up.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._due + self._seconds):
                await self._closed.wait()
        if self._closed.is_set():
            raise StopAsyncIteration
        self._due += self._seconds
        chunk, self._next = self._next, next(self._chunks, None)
        return chunk

    async def aclose(self) -> None:
        self._closed.set()


def _words(text: str) -> list[str]:
    """Return each word of the text with the space after it, as models send tokens."""
    return re.split(r"(?<=\s)(?=\S)", text)


def _stream(head: Mapping[str, Any], text: str) -> Iterator[bytes]:
    """Yield an event for each word. The last one comes together with the end."""
    *choices, last = [_choice(None, delta={"content": word}) for word in _words(text)]
    for choice in choices:
        yield _event({**head, "choices": [choice]})
    end = _event({**head, "choices": [last]}) + _event({**head, "choices": [_choice("stop", delta={})]})
    usage = _event({**head, "choices": [], "usage": _usage(text)})
    yield end + usage + b"data: [DONE]\n\n"


def _whole(head: Mapping[str, Any], text: str) -> bytes:
    choice = _choice("stop", message={"role": "assistant", "content": text})
    return json.dumps({**head, "choices": [choice], "usage": _usage(text)}).encode()


def _choice(finish_reason: str | None, **content: Any) -> dict[str, Any]:
    return {"index": 0, **content, "finish_reason": finish_reason}


def _event(data: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


def _usage(text: str) -> dict[str, int]:
    words = len(_words(text))
    return {"prompt_tokens": 0, "completion_tokens": words, "total_tokens": words}
