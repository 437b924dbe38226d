"""Relayed answers end in time, with [DONE] or with an error in the stream. Over real sockets."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.relay.conftest import Relay
from tests.relay.steps import (
    CHUNKED,
    COMPLETION,
    DONE,
    END,
    HEAD,
    LAST,
    USAGE,
    Step,
    chunk,
    event,
    piece,
    raw,
    wait,
    whole,
)
from tests.system.relay.support import HEARTBEAT, error_in, events_of, text_of

pytestmark = pytest.mark.once


async def test_unreachable_upstream_is_a_502(relay: Relay) -> None:
    """The error does not name the upstream's address."""
    status, body, _ = await relay.answer([["reset"]])
    assert (status, json.loads(body)["error"]["code"]) == (502, "upstream-unreachable")
    assert str(relay.upstream.port).encode() not in body


async def test_late_failures_are_reported_in_stream(relay: Relay) -> None:
    """The status is held back for RELAY_HEADER_DELAY_SECONDS. Later failures cannot change it."""
    error = {"error": {"message": "late", "code": "c"}}
    (status, _, _), *late = await asyncio.gather(
        relay.answer([wait(0.2), *whole(429, error)]),
        relay.answer([wait(0.8), *whole(429, error)]),
        relay.answer([wait(0.8), ["close"]]),
        relay.answer([wait(0.8), *whole(200, COMPLETION)]),
    )
    assert status == 429
    assert [status for status, _, _ in late] == [200] * 3
    assert [error_in(body)["code"] for _, body, _ in late] == ["c", "upstream-unreachable", "upstream-malformed"]
    assert all(body.startswith(HEARTBEAT) for _, body, _ in late)


async def test_late_first_event_follows_heartbeats(relay: Relay) -> None:
    status, body, _ = await relay.answer([HEAD, wait(0.8), piece("Hi"), *END])
    assert (status, text_of(body), body[:2]) == (200, "Hi", HEARTBEAT)


async def test_comments_do_not_extend_time_limits(relay: Relay) -> None:
    comments: Step = ["repeat", 100, [chunk(": ping\n\n"), wait(0.1)]]
    answers = await asyncio.gather(
        relay.answer([wait(20)]),  # no head
        relay.answer([HEAD, comments]),  # no first event
        relay.answer([HEAD, piece("Hi"), comments]),  # silence
        relay.answer([HEAD, ["repeat", 100, [piece("x"), wait(0.1)]]]),  # total time
        relay.answer([wait(20)], stream=False),
        relay.answer([["head", 429, [["Content-Type", "application/json"], CHUNKED]], wait(20)]),
    )
    assert [status for status, _, _ in answers] == [200, 200, 200, 200, 504, 429]
    *streams, refusal, error_without_body = (body for _, body, _ in answers)
    assert json.loads(error_without_body)["error"]["code"] == "upstream-timeout"
    errors = [error_in(body) for body in streams] + [json.loads(refusal)["error"]]
    assert {error["code"] for error in errors} == {"upstream-timeout"}
    assert [error["message"].split(" within")[0].split(" than")[0] for error in errors] == [
        "The upstream did not answer",
        "The upstream sent no first event",
        "The upstream sent no event",
        "The answer exceeded the limit of its total time.",
        "The upstream did not answer",
    ]
    assert b"ping" not in b"".join(streams)
    assert streams[-1].count(b'"x"') >= 10


async def test_done_is_sent_once_after_usage(relay: Relay) -> None:
    steps = [HEAD, piece("Hi"), *END[:1], chunk(DONE + event("more") + DONE), LAST]
    _, body, _ = await relay.answer(steps, stream_options={"include_usage": True})
    assert events_of(body)[-2:] == [USAGE.strip(), "data: [DONE]"]
    assert body.count(b"[DONE]") == 1
    assert b"more" not in body


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": None}])
async def test_usage_is_sent_only_if_asked(relay: Relay, options: Any) -> None:
    """The site records the usage in every case."""
    empty = 'data: {"choices":[],"prompt_filter_results":[]}\n\n'
    more = {} if options is None else {"stream_options": options}
    before = len(await asyncio.to_thread(relay.usage, "bob"))
    _, body, _ = await relay.answer([HEAD, chunk(empty), piece("Hi"), *END], user="bob", **more)
    assert b"usage" not in body
    assert b'"choices":[]' not in body.replace(b" ", b"")
    assert body.endswith(DONE.encode())
    async with asyncio.timeout(20):
        while len(spent := await asyncio.to_thread(relay.usage, "bob")) == before:
            await asyncio.sleep(0.05)
    assert spent[0][:3] == ("done", 2, False)


@pytest.mark.parametrize("last", [[LAST], [["close"]], [["reset"]], [["chunk", "data: {"], LAST], [["send", "zz\r\n"]]])
async def test_unfinished_answer_is_an_error(relay: Relay, last: list[Step]) -> None:
    _, body, _ = await relay.answer([HEAD, piece("Hi"), wait(0.05), *last])
    assert error_in(body)["code"] in ("upstream-ended", "upstream-broken")
    assert b"Hi" in body


async def test_finish_reason_completes_the_answer(relay: Relay) -> None:
    """The body ends with the connection and without [DONE]."""
    head: Step = ["head", 200, [["Content-Type", "text/event-stream"]]]
    _, body, _ = await relay.answer([head, ["send", raw(event("Hi") + event(reason="stop"))], ["close"]])
    assert (text_of(body), events_of(body)[-1]) == ("Hi", "data: [DONE]")
    _, body, _ = await relay.answer([head, ["send", raw(event("Hi"))], ["close"]])
    assert error_in(body)["code"] == "upstream-ended"


@pytest.mark.parametrize(
    "error_event",
    ['data: {"error": {"message": "out of memory"}}\n\n', 'event:error\ndata:{"message":"out of memory"}\n\n'],
)
async def test_error_within_answer_ends_it(relay: Relay, error_event: str) -> None:
    _, body, _ = await relay.answer([HEAD, piece("Hi"), wait(0.05), chunk(error_event + event("more")), wait(1), LAST])
    assert error_in(body)["message"] == "out of memory"
    assert b"more" not in body


async def test_error_before_first_event_sets_status(relay: Relay) -> None:
    status, body, _ = await relay.answer([HEAD, chunk('data: {"error": {"message": "busy"}}\n\n'), LAST])
    assert (status, json.loads(body)["error"]["message"]) == (502, "busy")
