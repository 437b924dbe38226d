"""The relay over real sockets, against an upstream that does the nasty thing: what the client gets of its answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.relay.conftest import SECRET, Relay
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

pytestmark = pytest.mark.once

HEARTBEAT = b":\n"


def text_of(body: bytes) -> str:
    """What a client that knows the format by heart has for a text: events are as we write them, one line of data."""
    text = ""
    for block in body.decode().split("\n\n"):
        data = "\n".join(line.removeprefix("data: ") for line in block.split("\n") if line.startswith("data: "))
        if data and data != "[DONE]" and (choices := json.loads(data).get("choices")):
            text += choices[0]["delta"].get("content", "")
    return text


def events_of(body: bytes) -> list[str]:
    """The events, without heartbeats."""
    blocks = body.decode().removesuffix("\n\n").split("\n\n")
    return ["\n".join(line for line in block.split("\n") if line != ":") for block in blocks]


def error_in(body: bytes) -> Any:
    """The error that a stream ends with, before its only [DONE]."""
    assert body.count(b"[DONE]") == 1
    *_, told, done = events_of(body)
    assert done == "data: [DONE]"
    return json.loads(told.removeprefix("data: "))["error"]


# --- The request ---


async def test_request_to_the_upstream_is_ours_and_holds_nothing_of_the_clients(relay: Relay) -> None:
    asked = relay.asking([HEAD, piece("Hi"), *END], temperature=0.5, stream_options={"include_usage": False})
    asked.headers |= {"X-Secret": "mine", "Cookie": "sessionid=mine", "User-Agent": "mine", "Accept-Encoding": "gzip"}
    await (await (await asked.ask()).head()).rest()
    seen = await relay.seen(asked)
    headers = dict(seen["headers"])
    assert len(headers) == len(seen["headers"])
    assert seen["line"] == "POST /v1/chat/completions HTTP/1.1"
    assert set(headers) == {
        *("host", "authorization", "accept", "accept-encoding", "content-type", "content-length", "user-agent")
    }
    assert headers["authorization"] == f"Bearer {SECRET}"
    assert headers["accept-encoding"] == "identity"
    assert "mine" not in json.dumps(headers)
    assert seen["body"] == {
        "user": asked.name,
        "temperature": 0.5,
        "model": "m1",
        "messages": seen["body"]["messages"],
        "max_tokens": 4096,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"base_url": "http://127.0.0.1:1"}, 400),
        ({"api_base": "http://127.0.0.1:1"}, 400),
        ({"api_key": "sk-other"}, 400),
        ({"model": "gpt-99"}, 404),
        ({"max_tokens": 4097}, 400),
        ({"messages": [{"role": "user", "content": "x"}] * 201}, 400),
    ],
)
async def test_request_outside_the_rules_never_comes_to_the_upstream(
    relay: Relay, more: dict[str, Any], status: int
) -> None:
    asked = relay.asking([HEAD, *END], **more)
    await (await asked.ask()).head()
    assert (asked.status, asked.response_headers["content-type"]) == (status, "application/json")
    assert set(json.loads(await asked.rest())["error"]) == {"message", "type", "param", "code"}
    assert await relay.upstream.seen(asked.name) == []


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 400), (b"{", 400), (b"[]", 400), (b" " * 1_048_577, 413), (b" " * 3_000_000, 413)]
)
async def test_body_that_is_no_request_is_refused(relay: Relay, body: bytes, status: int) -> None:
    asked = await (await relay.posting(body).ask()).head()
    assert asked.status == status
    assert json.loads(await asked.rest())["error"]["message"]


async def test_nobody_is_refused_and_other_methods_as_well(relay: Relay) -> None:
    asked = await (await relay.posting(b"{}", user="").ask()).head()
    assert (asked.status, asked.response_headers["www-authenticate"]) == (401, "Bearer")
    asked = await (await relay.posting(b"{}", user="", Authorization="Bearer sk-wrong").ask()).head()
    assert asked.status == 401
    client = await asyncio.to_thread(relay.server.log_in, "carl")
    asked = await (await relay.posting(b"{}", user="", Cookie=client).ask()).head()
    assert (asked.status, json.loads(await asked.rest())["error"]["code"]) == (403, "csrf")
    asked = relay.posting(b"{}")
    asked.path = "/ai/v1/models"
    assert (await (await asked.ask()).head()).status == 405
    assert asked.response_headers["allow"] == "GET"


# --- Status and headers ---


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
@pytest.mark.parametrize("stream", [True, False])
async def test_upstreams_error_comes_back_with_its_status_and_json(relay: Relay, status: int, stream: bool) -> None:
    body = {"error": {"message": "no, by é", "type": "t", "param": None, "code": "c"}}
    steps = whole(status, body, ["Retry-After", "7"], ["X-Request-Id", "r1"])
    assert (await relay.answer(steps, stream=stream))[:2] == (status, json.dumps(body).encode())
    asked = await relay.ask(steps, stream=stream)
    assert asked.response_headers["content-type"] == "application/json"
    assert (asked.response_headers["retry-after"], asked.response_headers["x-request-id"]) == ("7", "r1")


async def test_error_that_came_as_a_stream_is_json_with_its_status(relay: Relay) -> None:
    head: Step = ["head", 400, [["Content-Type", "text/event-stream"], CHUNKED]]
    status, body, headers = await relay.answer([head, chunk('event: error\ndata: {"error": {"code": "x"}}\n\n'), LAST])
    assert (status, json.loads(body), headers["content-type"]) == (400, {"error": {"code": "x"}}, "application/json")


async def test_content_type_decides_and_not_the_status(relay: Relay) -> None:
    status, body, headers = await relay.answer(whole(200, COMPLETION))
    assert (status, json.loads(body), headers["content-type"]) == (200, COMPLETION, "application/json")


async def test_error_with_a_status_of_success_is_one_to_the_client(relay: Relay) -> None:
    """Whose parser would find no event in it, and take the answer for an empty one."""
    for stream in (True, False):
        status, body, _ = await relay.answer(
            whole(200, {"error": {"message": "No quota", "code": "quota"}}), stream=stream
        )
        assert (status, json.loads(body)["error"]["message"]) == (502, "No quota")
    late = await relay.ask([wait(1), *whole(200, {"error": {"message": "No quota"}})])
    assert error_in(await late.rest())["message"] == "No quota"


async def test_stream_that_nobody_asked_for_is_no_answer(relay: Relay) -> None:
    for pause in (0.0, 0.2):
        steps = [HEAD, piece("Hel"), wait(pause), piece("lo"), *END]
        status, body, _ = await relay.answer(steps, stream=False)
        assert (status, json.loads(body)["error"]["code"]) == (502, "upstream-malformed")


async def test_number_that_is_not_json_is_not_passed_on(relay: Relay) -> None:
    status, body, _ = await relay.answer(whole(200, '{"a": NaN}'), stream=False)
    assert (status, json.loads(body)["error"]["code"]) == (502, "upstream-malformed")


@pytest.mark.parametrize("status", [200, 429])
async def test_body_that_breaks_off_is_an_error(relay: Relay, status: int) -> None:
    head: Step = [
        "head",
        status,
        [["Content-Type", "application/json"], ["Content-Length", "100"], ["Retry-After", "9"]],
    ]
    found, body, headers = await relay.answer([head, ["send", '{"error": '], ["reset"]], stream=False)
    assert (found, json.loads(body)["error"]["code"]) == (429 if status == 429 else 502, "upstream-broken")
    assert headers["retry-after"] == "9"


@pytest.mark.parametrize(("status", "expected"), [(502, 502), (200, 502), (302, 502)])
async def test_what_is_not_json_is_not_passed_on(relay: Relay, status: int, expected: int) -> None:
    steps = whole(status, "<html>inside 10.0.0.7</html>", ["Location", "http://127.0.0.1:1/"])
    found, body, headers = await relay.answer(steps)
    assert (found, headers["content-type"]) == (expected, "application/json")
    assert b"10.0.0.7" not in body
    assert "location" not in headers


async def test_error_body_is_read_within_bounds(relay: Relay) -> None:
    status, body, _ = await relay.answer(whole(418, json.dumps({"error": "x" * 100_000})))
    assert (status, json.loads(body)["error"]["code"]) == (418, "upstream-too-large")


async def test_only_headers_that_concern_the_client_pass(relay: Relay) -> None:
    passed = {
        "x-request-id": "r1",
        "x-ratelimit-remaining-tokens": "9",
        "x-dashscope-request-id": "d",
        "retry-after": "3",
    }
    kept = {
        "Server": "nginx",
        "Date": "x",
        "Set-Cookie": "a=b",
        "Strict-Transport-Security": "max-age=1",
        "Access-Control-Allow-Origin": "*",
        "Keep-Alive": "5",
        "Trailer": "x",
        "Upgrade": "h2c",
        "Via": "1.1 x",
        "X-Ratelimit-Hop": "1",
        "Connection": "X-Ratelimit-Hop",
        "OpenAI-Organization": "ours",
        "Alt-Svc": "h3",
        "Content-Security-Policy": "x",
        "X-Accel-Redirect": "/etc",
        "X-Request-Id-Of": SECRET,
    }
    for head in (HEAD, ["head", 500, [["Content-Type", "application/json"], CHUNKED]]):
        _, status, fields = head
        steps: list[Step] = [["head", status, [*fields, *map(list, {**passed, **kept}.items())]]]
        steps += [piece("Hi"), *END] if status == 200 else [chunk("{}"), LAST]
        found = (await relay.ask(steps)).response_headers
        assert passed.items() <= found.items()
        ours = {"date", "server"}  # uvicorn's
        assert not {name.lower() for name in kept} & (set(found) - ours)
        assert (found["server"], found["date"][-3:]) == ("uvicorn", "GMT")


async def test_compressed_answer_is_refused_and_never_inflated(relay: Relay) -> None:
    status, body, _ = await relay.answer(whole(200, "xxxx", ["Content-Encoding", "gzip"]))
    assert (status, json.loads(body)["error"]["code"]) == (502, "upstream-malformed")


async def test_key_that_the_upstream_repeats_is_hidden(relay: Relay) -> None:
    told = {"error": {"message": f"Wrong key: {SECRET}"}}
    spelt = json.dumps(told).replace("sk-very", "\\u0073k\\u002dvery")
    for steps in (
        whole(401, spelt),
        [HEAD, chunk(f"data: {spelt}\n\n")],
        [HEAD, chunk(event(f"It is {SECRET}").replace("sk-very", "sk\\u002dvery")), *END],
        whole(401, told, ["X-Request-Id", SECRET]),
        [HEAD, piece(f"Your key is {SECRET}"), chunk(f"data: {json.dumps(told)}\n\n")],
        [HEAD, piece("Hi"), wait(0.1), chunk(f"data: {json.dumps(told)}\n\n")],
    ):
        asked = await relay.ask(steps)
        body = await asked.rest()
        assert SECRET.encode() not in body
        assert b"very-secret-key" not in body
        assert b"[key]" in body
        assert SECRET not in str(asked.response_headers)


# --- Framing ---


async def test_bytes_one_by_one_give_the_same_events(relay: Relay) -> None:
    sent = event("H\u2028\u0085é😀") + ": comment\n\n" + event("!") + event(reason="stop") + USAGE + DONE
    for end in ("\n", "\r", "\r\n"):
        data = raw("\ufeff" + sent.replace("\n", end))
        steps = [HEAD, *[["chunk", byte] for byte in data], LAST]
        status, body, _ = await relay.answer(steps, stream_options={"include_usage": True})
        assert (status, text_of(body)) == (200, "H\u2028\u0085é😀!")
        assert events_of(body)[-2:] == [USAGE.strip(), "data: [DONE]"]


async def test_crlf_and_characters_that_are_cut_in_two(relay: Relay) -> None:
    data = raw(event("é").replace("\n", "\r\n"))
    steps: list[Step] = [HEAD]
    for at in range(1, len(data), 7):
        steps += [["chunk", data[:at]], wait(0.005), ["chunk", data[at:]]]
    _, body, _ = await relay.answer([*steps, *END])
    assert text_of(body) == "é" * len(range(1, len(data), 7))


async def test_lines_of_a_mebibyte_pass_and_longer_ones_are_a_clean_error(relay: Relay) -> None:
    before, after = raw(event("@")).split("@")
    long: list[Step] = [["chunk", before], ["repeat", 64, [chunk("x" * 16_384)]], ["chunk", after]]
    _, body, _ = await relay.answer([HEAD, *long, *END])
    assert text_of(body) == "x" * 1_048_576
    endless: list[Step] = [HEAD, piece("Hi"), chunk("data: "), ["repeat", 300, [chunk("x" * 10_000)]]]
    status, body, _ = await relay.answer(endless)
    assert (status, error_in(body)["code"]) == (200, "upstream-too-large")


async def test_dashscopes_form_and_typed_events_keep_their_type(relay: Relay) -> None:
    sent = "".join(f"id:{n}\nevent:result\n:HTTP_STATUS/200\n{event(text)}" for n, text in ((1, "a"), (2, "b")))
    _, body, _ = await relay.answer([HEAD, chunk(sent), *END])
    events = events_of(body)
    assert [each.split("\n")[0] for each in events[:2]] == ["event: result"] * 2
    assert b"id:" not in body
    assert b"HTTP_STATUS" not in body
    assert text_of(body) == "ab"


async def test_heartbeats_of_one_newline_stand_between_events_only(relay: Relay) -> None:
    first, second = raw(event("ab")), raw(event("cd"))
    steps: list[Step] = [HEAD, ["chunk", first + second[:30]], wait(0.7), ["chunk", second[30:]], *END]
    asked = await relay.ask(steps)
    body = await asked.rest()
    assert body.count(HEARTBEAT) >= 3
    assert b":\n\n" not in body
    assert [each for each in body.decode().replace(":\n", "").split("\n\n") if each][:2] == [
        first.encode("latin-1").decode().strip(),
        second.encode("latin-1").decode().strip(),
    ]


async def test_each_event_is_passed_on_as_it_comes(relay: Relay) -> None:
    asked = await relay.ask([HEAD, piece("one"), wait(0.3), piece("two"), wait(3)])
    await asked.has(b"one")
    assert b"two" not in asked.raw
    await asked.has(b"two")


# --- Time ---


async def test_upstream_that_cannot_be_reached_is_a_502_and_is_not_named(relay: Relay) -> None:
    status, body, _ = await relay.answer([["reset"]])
    assert (status, json.loads(body)["error"]["code"]) == (502, "upstream-unreachable")
    assert str(relay.upstream.port).encode() not in body


async def test_status_is_held_back_for_a_while_and_then_failures_are_told_in_band(relay: Relay) -> None:
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


async def test_late_first_event_comes_after_heartbeats(relay: Relay) -> None:
    status, body, _ = await relay.answer([HEAD, wait(0.8), piece("Hi"), *END])
    assert (status, text_of(body), body[:2]) == (200, "Hi", HEARTBEAT)


async def test_limits_of_time_are_not_reset_by_comments(relay: Relay) -> None:
    comments: Step = ["repeat", 100, [chunk(": ping\n\n"), wait(0.1)]]
    answers = await asyncio.gather(
        relay.answer([wait(20)]),  # no head
        relay.answer([HEAD, comments]),  # no first event
        relay.answer([HEAD, piece("Hi"), comments]),  # silence
        relay.answer([HEAD, ["repeat", 100, [piece("x"), wait(0.1)]]]),  # as a whole
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


# --- The end ---


async def test_one_done_after_the_usage(relay: Relay) -> None:
    steps = [HEAD, piece("Hi"), *END[:1], chunk(DONE + event("more") + DONE), LAST]
    _, body, _ = await relay.answer(steps, stream_options={"include_usage": True})
    assert events_of(body)[-2:] == [USAGE.strip(), "data: [DONE]"]
    assert body.count(b"[DONE]") == 1
    assert b"more" not in body


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": None}])
async def test_no_event_without_choice_unless_asked(relay: Relay, options: Any) -> None:
    """Usage is counted for the site all the same."""
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
async def test_end_without_a_terminal_event_is_an_error(relay: Relay, last: list[Step]) -> None:
    _, body, _ = await relay.answer([HEAD, piece("Hi"), wait(0.05), *last])
    assert error_in(body)["code"] in ("upstream-ended", "upstream-broken")
    assert b"Hi" in body


async def test_body_that_ends_with_the_connection_is_whole_after_a_finish_reason(relay: Relay) -> None:
    head: Step = ["head", 200, [["Content-Type", "text/event-stream"]]]
    _, body, _ = await relay.answer([head, ["send", raw(event("Hi") + event(reason="stop"))], ["close"]])
    assert (text_of(body), events_of(body)[-1]) == ("Hi", "data: [DONE]")
    _, body, _ = await relay.answer([head, ["send", raw(event("Hi"))], ["close"]])
    assert error_in(body)["code"] == "upstream-ended"


@pytest.mark.parametrize(
    "told", ['data: {"error": {"message": "out of memory"}}\n\n', 'event:error\ndata:{"message":"out of memory"}\n\n']
)
async def test_error_in_the_middle_is_told_and_ends_the_stream(relay: Relay, told: str) -> None:
    _, body, _ = await relay.answer([HEAD, piece("Hi"), wait(0.05), chunk(told + event("more")), wait(1), LAST])
    assert error_in(body)["message"] == "out of memory"
    assert b"more" not in body


async def test_error_before_anything_was_sent_has_a_status(relay: Relay) -> None:
    status, body, _ = await relay.answer([HEAD, chunk('data: {"error": {"message": "busy"}}\n\n'), LAST])
    assert (status, json.loads(body)["error"]["message"]) == (502, "busy")


# --- What it has cost ---


async def test_usage_is_written_down_for_every_answer(relay: Relay) -> None:
    async def newest(count: int) -> tuple[Any, ...]:
        async with asyncio.timeout(10):
            while len(found := await asyncio.to_thread(relay.usage, "cleo")) < count:
                await asyncio.sleep(0.05)
        return found[0]

    await relay.answer([HEAD, piece("Hi"), *END], model="m2", user="cleo")
    assert await newest(1) == ("done", 2, 0, "m2")
    parts = [HEAD, piece("a"), wait(0.05), piece("b"), wait(0.05), piece("c")]
    await relay.answer([*parts, LAST], user="cleo")
    assert await newest(2) == ("failed", 3, 1, "m1")
    asked = await relay.ask([*parts, wait(9)], user="cleo")
    await asked.has(b'"c"')
    await asked.close()
    assert await newest(3) == ("cancelled", 3, 1, "m1")
    await relay.answer(whole(200, COMPLETION), stream=False, user="cleo")
    assert await newest(4) == ("done", 2, 0, "m1")
    await relay.answer(whole(401, {}), user="cleo")
    await relay.answer([HEAD, piece("Hi"), *END], user="cleo")
    assert len(await asyncio.to_thread(relay.usage, "cleo")) <= 5, "a refusal costs nothing"


async def test_usage_is_written_down_where_the_answer_came_too_late(relay: Relay) -> None:
    before = len(await asyncio.to_thread(relay.usage, "cleo"))
    for stream in (True, False):
        await relay.answer([wait(9)], stream=stream, user="cleo")
    async with asyncio.timeout(10):
        while len(found := await asyncio.to_thread(relay.usage, "cleo")) < before + 2:
            await asyncio.sleep(0.05)
    assert [row[0] for row in found[:2]] == ["failed", "failed"]


# --- Limits ---


async def test_streams_are_limited_for_each_user_and_in_all(relay: Relay) -> None:
    steps: list[Step] = [HEAD, ["repeat", 30, [piece("x"), wait(0.5)]]]

    async def fill(user: str, count: int) -> list[Any]:
        return await asyncio.gather(*(relay.ask(steps, user=user) for _ in range(count)))

    def refused(asked: Any) -> bool:
        return asked.status == 429 and int(asked.response_headers["retry-after"]) > 0

    open_ones = await fill("ann", 50)
    assert {asked.status for asked in open_ones} == {200}
    over = await relay.ask(steps)
    assert refused(over)
    assert "RELAY_MAX_STREAMS_PER_USER" in json.loads(await over.rest())["error"]["message"]
    others = await fill("bob", 12)
    assert [asked.status for asked in others].count(200) == 10
    assert [refused(asked) for asked in others].count(True) == 2
    for asked in open_ones + others:
        asked.abort()
    async with asyncio.timeout(10):
        while (asked := await relay.ask([HEAD, piece("x"), *END])).status != 200:
            await asyncio.sleep(0.05)
