"""An event that the relay passes on unread is treated exactly as if it had been parsed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from streams.relay.errors import UpstreamError
from streams.relay.proxy import answers
from streams.relay.proxy.chunks import is_plain
from tests.relay.answering import answer_of

PLAIN = '{"choices":[{"index":0,"delta":{"content":"Hi"},"logprobs":null,"finish_reason":null}],"usage":null}'

# Names and values that the relay looks at, others, and spellings of names that only a parser understands.
NAMES = st.sampled_from(["choices", "usage", "error", "finish_reason", "delta", "output", "index", "content", "x"])
VALUES = st.recursive(
    st.sampled_from([None, True, 0, 1, "", "stop", "null", "error", 'a "quoted" word', "ü\n"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def written(draw: st.DrawFn, value: Any) -> str:
    """Write a value as JSON in any of the ways in which an upstream can: with spaces, escapes and repeated names."""

    def space() -> str:
        return draw(st.sampled_from(["", "", "", " ", "\n", "\t ", "\r"]))

    def text(plain: str) -> str:
        escape = draw(st.integers(0, 9)) if plain else 9
        if escape < 2:
            at = draw(st.integers(0, len(plain) - 1))
            code = f"{ord(plain[at]):04x}"
            first, last = (json.dumps(part, ensure_ascii=False)[1:-1] for part in (plain[:at], plain[at + 1 :]))
            return f'"{first}\\u{code.upper() if escape else code}{last}"'
        return json.dumps(plain, ensure_ascii=escape < 5)

    def write(value: Any) -> str:
        if isinstance(value, dict):
            fields = [f"{space()}{text(name)}{space()}:{space()}{write(each)}{space()}" for name, each in value.items()]
            repeated = draw(st.lists(st.sampled_from(fields), max_size=1)) if fields else []
            return "{" + (",".join([*repeated, *fields]) or space()) + "}"
        if isinstance(value, list):
            return "[" + (",".join(f"{space()}{write(each)}{space()}" for each in value) or space()) + "]"
        return text(value) if isinstance(value, str) else json.dumps(value)

    return write(value)


EVENTS = st.dictionaries(NAMES, VALUES, max_size=4).flatmap(written)


async def outcome(data: str) -> tuple[object, ...]:
    """Return everything that the relay finds in an event."""
    lines = data.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\ndata: ")
    answer = await answer_of(f"data: {lines}\n\n".encode())
    try:
        chunk = await anext(answer)
    except UpstreamError as error:
        return ("error", error.sent)
    finally:
        await answer.aclose()
    found = (chunk.data, chunk.event, chunk.text, chunk.refusal, chunk.calls_tools, chunk.is_empty)
    return (*found, answer.usage, answer.finish_reason)


@hypothesis_settings(max_examples=400, deadline=None)
@given(data=EVENTS | st.text(st.sampled_from('{}[]":, \n\\u0065eusagrochifnl_'), min_size=1).filter(str.strip))
@example(PLAIN)
@example('{"choices":[{"delta":{}}],"choices":[]}')
@example('{"usage":null,"usage" : {"total_tokens": 1}}')
@example('{"\\u0065rror":{"message":"no"}}')
@example('{"us\\u0061ge":{"total_tokens":1},"choices":[{"delta":{}}]}')
@example('{"output":{"choices":[{"finish_reason":"stop"}]}}')
@example('{"choices":[ \n ]}')
def test_nothing_changes_if_an_event_is_not_parsed(data: str) -> None:
    found = asyncio.run(outcome(data))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "is_plain", lambda data: False)
        assert found == asyncio.run(outcome(data))


@pytest.mark.parametrize("data", [PLAIN, json.dumps(json.loads(PLAIN)), PLAIN.replace('"Hi"', '"Grüße 😀"')])
async def test_common_events_are_not_parsed(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "parse_object", lambda data: pytest.fail("It was parsed."))
    answer = await answer_of(f"data: {data}\n\n".encode())
    assert (await anext(answer)).data == data
    await answer.aclose()


@pytest.mark.parametrize(
    "data",
    [
        '{"error":{"message":"no"}}',
        '{"error" : "no"}',
        '{"\\u0065rror":"no"}',
        '{"choices":[],"usage":{"total_tokens":1}}',
        '{"choices":[{"delta":{}}],"usage"\t:\n{}}',
        '{"choices":[{"finish_reason": "stop"}]}',
        '{"choices":[{"finish_reason":null},{"finish_reason":"stop"}]}',
        '{"choices": [\n]}',
        '{"choices":null}',
        '{"choices":[{"delta":{"content":"\\u0041"}}]}',
    ],
)
def test_notable_events_are_parsed(data: str) -> None:
    assert not is_plain(data)
