"""Readers of the event streams that the relay sends."""

from __future__ import annotations

import json
from typing import Any

HEARTBEAT = b":\n"


def text_of(body: bytes) -> str:
    """Return the text of the answer. Each event must have one line of data, as the relay writes it."""
    text = ""
    for block in body.decode().split("\n\n"):
        data = "\n".join(line.removeprefix("data: ") for line in block.split("\n") if line.startswith("data: "))
        if data and data != "[DONE]" and (choices := json.loads(data).get("choices")):
            text += choices[0]["delta"].get("content", "")
    return text


def events_of(body: bytes) -> list[str]:
    """Return the events, without heartbeats."""
    blocks = body.decode().removesuffix("\n\n").split("\n\n")
    return ["\n".join(line for line in block.split("\n") if line != ":") for block in blocks]


def error_in(body: bytes) -> Any:
    """Return the error at the end of the stream, before its only [DONE]."""
    assert body.count(b"[DONE]") == 1
    *_, error, done = events_of(body)
    assert done == "data: [DONE]"
    return json.loads(error.removeprefix("data: "))["error"]
