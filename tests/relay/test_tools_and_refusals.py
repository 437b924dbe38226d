"""Answers that a generation cannot store unchanged: tool calls and refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streams.relay import upstreams
from streams.relay.models import Generation
from tests.relay.answering import DONE, USAGE, GivenUpstream, event
from tests.relay.test_worker import ask, ended, working

pytestmark = pytest.mark.django_db(transaction=True)


def delta(reason: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": fields, "finish_reason": reason}
    return f"data: {json.dumps({'model': 'small', 'choices': [choice]})}\n\n".encode()


async def answered(monkeypatch: pytest.MonkeyPatch, *chunks: bytes) -> Generation:
    monkeypatch.setitem(upstreams._upstreams, "default", GivenUpstream(chunks))
    pk = await ask()
    async with working():
        return await ended(pk)


CALL = {"index": 0, "id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "chunks",
    [
        [event("Let me see."), delta(tool_calls=[CALL]), delta("tool_calls"), USAGE, DONE],
        [event("Let me see."), delta(function_call={"name": "f", "arguments": "{}"}), delta("function_call"), DONE],
        [event("Let me see."), delta("tool_calls"), USAGE, DONE],
    ],
)
async def test_tool_calls_end_as_failed(monkeypatch: pytest.MonkeyPatch, chunks: list[bytes]) -> None:
    generation = await answered(monkeypatch, *chunks)
    assert (generation.state, generation.error_code) == ("failed", "tool-calls-unsupported")
    assert "tool" in generation.error_message
    assert generation.text == "Let me see."


async def test_refusal_is_kept_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = [delta(refusal="I will "), delta(refusal="not."), delta("stop"), USAGE, DONE]
    generation = await answered(monkeypatch, *chunks)
    assert (generation.state, generation.error_code, generation.text) == ("failed", "refusal", "I will not.")
    assert generation.usage == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


async def test_empty_lists_of_calls_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = [delta(content="Hi", tool_calls=[], function_call=None, refusal=None), delta("stop"), USAGE, DONE]
    generation = await answered(monkeypatch, *chunks)
    assert (generation.state, generation.text) == ("done", "Hi")
