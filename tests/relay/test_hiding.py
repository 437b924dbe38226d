"""If an upstream sends its API key back, no client receives it, in any field and with any escapes."""

from __future__ import annotations

from typing import Any

import pytest

from streams.protocol import sse
from streams.relay.proxy.answers import Answer, open_answer
from streams.relay.upstreams import OpenAICompatible
from tests.relay.answering import GivenUpstream
from tests.relay.conftest import SECRET

OPTIONS: dict[str, Any] = {"base_url": "https://api.example.com/v1/", "api_key": SECRET, "models": ["m1"]}

BACKSLASH_U = "".join(f"\\u{ord(character):04x}" for character in SECRET)


@pytest.mark.parametrize(
    "event",
    [
        f"event: {SECRET}\ndata: {{}}",
        f"id: {SECRET}\n: {SECRET}\ndata: {{}}",
        f'data: {{"choices": [{{"delta": {{"content": "\\ud800{BACKSLASH_U}"}}}}]}}',
        f'data: {{"choices": [{{"delta": {{"content": "{BACKSLASH_U}\\udfff"}}}}]}}',
        f'data: {{"a": "{BACKSLASH_U}", "a": "x\\n"}}',
        f'data: {{"a": "{BACKSLASH_U}"',
        f'data: "{BACKSLASH_U}\\ud800"',
        f'data: ["{BACKSLASH_U}"]',
        f'data: {{"{BACKSLASH_U}": 1}}',
    ],
)
async def test_key_is_hidden_wherever_an_event_has_it(event: str) -> None:
    given = GivenUpstream([f"{event}\n\n".encode()])
    upstream = OpenAICompatible("default", OPTIONS)
    given.hide = upstream.hide  # type: ignore[method-assign]
    answer = await open_answer(given, {"model": "small", "stream": True})
    piece = await anext(answer)
    sent = sse.encode(piece.data, event=piece.event).decode()
    assert SECRET not in sent
    assert BACKSLASH_U not in sent
    assert SECRET not in piece.text
    await answer.aclose()


async def test_key_is_hidden_in_names_of_headers() -> None:
    given = GivenUpstream([])
    given.hide = OpenAICompatible("default", OPTIONS).hide  # type: ignore[method-assign]
    response = await given.send({})
    response.headers = [(f"{SECRET.lower()}-request-id", "1"), ("x-request-id", f"a{SECRET}")]
    answer = Answer(given, response, first_event_at=1e9, end_at=1e9)
    assert answer.headers == [("x-request-id", "a[key]")]
    await answer.aclose()
