"""Parsing an upstream's answer: its pieces, its end, and its limits."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from streams.exceptions import HTTPError
from streams.relay.errors import UpstreamError, openai_error
from streams.relay.proxy.answers import Answer, open_answer
from tests.relay.answering import DONE, USAGE, GivenUpstream, answer_of, event

WHOLE = event("Hello") + event(" wörld 😀\u2028\u0085") + event(reason="stop") + USAGE + DONE


async def read(answer: Answer) -> tuple[str, HTTPError | None]:
    """Return the text, and the error that ended it or None."""
    text = ""
    try:
        async for piece in answer:
            text += piece.text
    except HTTPError as error:
        return text, error
    finally:
        await answer.aclose()
    return text, None


async def failure_of(*chunks: bytes | float, **options: Any) -> HTTPError:
    error = (await read(await answer_of(*chunks, **options)))[1]
    assert error is not None
    return error


# --- Framing ---


@hypothesis_settings(max_examples=60)
@given(cuts=st.lists(st.integers(0, len(WHOLE)), max_size=12), end=st.sampled_from([b"\n", b"\r", b"\r\n"]))
def test_any_split_of_the_bytes_gives_the_same_text(cuts: list[int], end: bytes) -> None:
    stream = b"\xef\xbb\xbf" + WHOLE.replace(b"\n", end)
    places = [0, *sorted(cuts), len(stream)]
    pieces = [stream[a:b] for a, b in itertools.pairwise(places)]

    async def main() -> None:
        answer = await answer_of(*pieces)
        assert await read(answer) == ("Hello wörld 😀\u2028\u0085", None)
        assert answer.usage == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        assert answer.finish_reason == "stop"

    asyncio.run(main())


async def test_one_byte_at_a_time() -> None:
    answer = await answer_of(*(WHOLE[at : at + 1] for at in range(len(WHOLE))))
    assert await read(answer) == ("Hello wörld 😀\u2028\u0085", None)


async def test_comments_and_empty_events_are_no_pieces() -> None:
    answer = await answer_of(b": ping\n\n:\n\ndata:\n\ndata: \n\nevent: ping\n\n" + WHOLE)
    assert len([piece async for piece in answer]) == 4


async def test_pieces_keep_their_type_and_their_data_as_it_is() -> None:
    answer = await answer_of(b'event: extra\ndata: {"b": 1,\ndata: "a": 2}\n\ndata: no JSON\n\n', event(reason="stop"))
    pieces = [(piece.event, piece.data, piece.text) async for piece in answer]
    assert pieces[:2] == [("extra", '{"b": 1,\n"a": 2}', ""), ("message", "no JSON", "")]


async def test_dashscopes_own_form_is_understood() -> None:
    def native(number: int, text: str, reason: str) -> bytes:
        message = {"content": text, "role": "assistant"}
        data = {
            "output": {"choices": [{"message": message, "finish_reason": reason}]},
            "usage": {"total_tokens": number},
        }
        return f"id:{number}\nevent:result\n:HTTP_STATUS/200\ndata:{json.dumps(data)}\n\n".encode()

    answer = await answer_of(native(1, "Hi", "null"), native(2, "!", "stop"))
    assert await read(answer) == ("Hi!", None)
    assert (answer.finish_reason, answer.usage) == ("stop", {"total_tokens": 2})


async def test_reasoning_is_kept_apart_and_other_choices_are_not_the_answer() -> None:
    chunks = [
        {"choices": [{"index": 0, "delta": {"reasoning_content": "Hm.", "content": None}}]},
        {"choices": [{"index": 1, "delta": {"content": "another"}}]},
    ]
    answer = await answer_of(*(f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks), DONE)
    assert [piece.text async for piece in answer] == ["", ""]


@pytest.mark.parametrize(
    "chunk",
    ["[]", "5", "null", '{"choices":5}', '{"choices":[5]}', '{"choices":[{"delta":[]}]}', '{"usage":[]}', "[" * 99_999],
)
async def test_chunks_of_another_shape_are_pieces_without_text(chunk: str) -> None:
    answer = await answer_of(f"data: {chunk}\n\n".encode(), DONE)
    assert [(piece.data, piece.text) async for piece in answer] == [(chunk, "")]


# --- The end ---


async def test_nothing_is_read_into_an_answer_after_its_terminal_event() -> None:
    assert await read(await answer_of(event("a") + DONE + event("b") + DONE)) == ("a", None)


async def test_a_body_may_end_after_a_finish_reason() -> None:
    assert await read(await answer_of(event("a"), event(reason="length"))) == ("a", None)


@pytest.mark.parametrize("rest", [b"", b"data: [DONE]", b"data: [DO\n\n", b'data: {"choices"'])
async def test_an_answer_without_a_terminal_event_is_an_error(rest: bytes) -> None:
    text, error = await read(await answer_of(event("a"), rest))
    assert (text, error and error.code) == ("a", "upstream-ended")


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b'data: {"error": {"message": "out of tokens", "code": "quota", "secret": 1}}\n\n', "out of tokens"),
        (b'id:1\nevent:error\n:HTTP_STATUS/400\ndata:{"code":"InvalidParameter","message":"no"}\n\n', "no"),
        (b"event: error\ndata: plain words\n\n", "plain words"),
        (b'data: {"error": "short"}\n\n', "short"),
        (b'data: {"error": {"message": 5000}}\n\n', "5000"),
        (b'data: {"error": {"message": [], "code": {}}}\n\n', "The upstream ended its answer with an error."),
    ],
)
async def test_an_error_in_the_middle_is_told_in_the_upstreams_words(sent: bytes, message: str) -> None:
    text, error = await read(await answer_of(event("a") + sent + event("b") + DONE))
    assert text == "a"
    assert isinstance(error, UpstreamError)
    shown = openai_error(error)["error"]
    assert (str(shown["message"]), set(shown)) == (message, {"message", "type", "param", "code"})


async def test_a_failure_stays_one_when_it_is_asked_again() -> None:
    answer = await answer_of(event("a"))
    for _ in range(2):
        with pytest.raises(HTTPError):
            [piece async for piece in answer]


# --- Limits ---


async def test_limit_of_an_event_holds_while_it_comes_and_when_it_is_whole(settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "RELAY_MAX_EVENT_BYTES": 1000}
    assert (await failure_of(*[b"data: " + b"x" * 90 + b"\n"] * 20)).code == "upstream-too-large"
    assert (await failure_of(b"x" * 1001)).code == "upstream-too-large"
    assert (await failure_of(b"data: " + b"x" * 1001 + b"\n\n")).code == "upstream-too-large"
    assert (await failure_of("data: {}\n\n".format("é" * 501).encode())).code == "upstream-too-large"
    assert await read(await answer_of(b"data: " + b"x" * 1000 + b"\n\n", *[b": comment\n"] * 200, DONE)) == ("", None)


async def test_lines_of_a_mebibyte_pass() -> None:
    text = "x" * 1_048_576
    assert await read(await answer_of(event(text), DONE)) == (text, None)


async def test_limit_of_an_answer(settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "RELAY_MAX_ANSWER_BYTES": 1000}
    assert "RELAY_MAX_ANSWER_BYTES" in str(await failure_of(*[event("abc")] * 20))
    assert "RELAY_MAX_ANSWER_BYTES" in str(await failure_of(*[b": comment\n\n"] * 100))


async def test_limits_of_time_are_separate_and_comments_reset_none(settings: Any) -> None:
    short = {"RELAY_FIRST_EVENT_SECONDS": 0.2, "RELAY_SILENCE_SECONDS": 0.3, "RELAY_TOTAL_SECONDS": 0.8}
    settings.STREAMS = {**settings.STREAMS, **short}
    comments = [b": ping\n\n", 0.05] * 40
    assert "first event within 0.2" in str(await failure_of(*comments))
    assert "no event within 0.3" in str(await failure_of(event("a"), *comments))
    assert "total time" in str(await failure_of(*[event("a"), 0.1] * 20))
    assert (await failure_of(event("a"), 5)).status == 504


async def test_a_reader_that_takes_its_time_is_no_silence_of_the_upstream(settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "RELAY_SILENCE_SECONDS": 0.2}
    answer = await answer_of(event("a"), event("b"), 0.1, DONE)
    async for _ in answer:
        await asyncio.sleep(0.3)


# --- Closing ---


async def test_closing_closes_the_upstreams_response_once_and_ends_whoever_reads() -> None:
    upstream = GivenUpstream([event("a"), 0.2, event("b")])
    answer = await open_answer(upstream, {"stream": True})
    reading = asyncio.create_task(read(answer))
    await asyncio.sleep(0.05)
    await asyncio.gather(answer.aclose(), answer.aclose())
    assert upstream.closed == 1
    _, error = await reading
    assert error is not None


async def test_an_answer_that_is_dropped_is_closed() -> None:
    upstream = GivenUpstream([event("a"), 60.0])
    answer = await open_answer(upstream, {"stream": True})
    await anext(answer)
    del answer
    gc.collect()
    await asyncio.sleep(0.05)
    assert upstream.closed == 1


# --- Answers that are not streams ---


async def test_json_is_read_whole_and_within_bounds() -> None:
    async def body(*chunks: bytes, **options: Any) -> Any:
        answer = await answer_of(*chunks, **options)
        try:
            return await answer.read_json(100)
        finally:
            await answer.aclose()

    assert await body(b'{"error"', b": {}}", status=400, content_type="application/json") == {"error": {}}
    assert await body(b'data: {"error": {}}\n\n', status=429) == {"error": {}}, "never as a stream"
    for sent, status, expected in [(b"<html>", 503, 503), (b"<html>", 200, 502), (b" " * 101, 400, 400)]:
        with pytest.raises(HTTPError) as caught:
            await body(sent, status=status, content_type="text/html")
        assert caught.value.status == expected


async def test_answer_that_is_whole_does_not_wait_for_its_end() -> None:
    text, error = await read(await answer_of(event("Hi"), event(reason="stop"), USAGE, 1000.0))
    assert (text, error) == ("Hi", None)


async def test_limit_of_the_whole_holds_where_bytes_are_always_there() -> None:
    upstream = GivenUpstream([event("x")] * 10_000_000)
    answer = await open_answer(upstream, {"model": "small", "stream": True}, total_seconds=0.2)
    async with asyncio.timeout(20):
        _, error = await read(answer)
    assert error is not None
    assert error.code == "upstream-timeout"


async def test_limit_of_the_whole_holds_where_nobody_reads() -> None:
    upstream = GivenUpstream([event("a"), 1000.0])
    answer = await open_answer(upstream, {"model": "small", "stream": True}, total_seconds=0.2)
    assert (await anext(answer)).text == "a"
    async with asyncio.timeout(20):
        while not upstream.closed:
            await asyncio.sleep(0.02)
    with pytest.raises(HTTPError, match="exceeded the limit of its total time"):
        await anext(answer)
    await answer.aclose()
