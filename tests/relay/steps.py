"""The steps that the upstream in tests/relay/upstream.py follows."""

from __future__ import annotations

import json
from typing import Any

Step = list[Any]

CHUNKED = ["Transfer-Encoding", "chunked"]
HEAD: Step = ["head", 200, [["Content-Type", "text/event-stream; charset=utf-8"], CHUNKED]]
LAST: Step = ["chunk", ""]
DONE = "data: [DONE]\n\n"
USAGE = 'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\n'


def wait(seconds: float) -> Step:
    return ["wait", seconds]


def raw(data: bytes | str) -> str:
    """Return the bytes as text in Latin-1, as the steps contain them."""
    return (data.encode() if isinstance(data, str) else data).decode("latin-1")


def chunk(data: bytes | str) -> Step:
    return ["chunk", raw(data)]


def event(text: str | None = None, reason: str | None = None) -> str:
    """Return a chunk of a chat completion as an event."""
    delta = {} if text is None else {"content": text}
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m1"}
    body = {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def piece(text: str) -> Step:
    return chunk(event(text))


END: list[Step] = [chunk(event(reason="stop") + USAGE + DONE), LAST]


def whole(status: int, body: Any, *headers: list[str]) -> list[Step]:
    """Return the steps of an answer that is not streamed."""
    text = body if isinstance(body, str) else json.dumps(body)
    head = [["Content-Type", "application/json"], ["Content-Length", str(len(text.encode()))], *headers]
    return [["head", status, head], ["send", raw(text)]]


COMPLETION = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1,
    "model": "m1",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}
