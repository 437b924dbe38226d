"""The status, headers and errors that the client gets for an upstream's answer. Over real sockets."""

from __future__ import annotations

import json

import pytest

from tests.relay.conftest import SECRET, Relay
from tests.relay.steps import (
    CHUNKED,
    COMPLETION,
    END,
    HEAD,
    LAST,
    Step,
    chunk,
    event,
    piece,
    wait,
    whole,
)
from tests.system.relay.support import error_in

pytestmark = pytest.mark.once


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
@pytest.mark.parametrize("stream", [True, False])
async def test_upstream_error_keeps_status_and_json(relay: Relay, status: int, stream: bool) -> None:
    body = {"error": {"message": "no, by é", "type": "t", "param": None, "code": "c"}}
    steps = whole(status, body, ["Retry-After", "7"], ["X-Request-Id", "r1"])
    assert (await relay.answer(steps, stream=stream))[:2] == (status, json.dumps(body).encode())
    asked = await relay.ask(steps, stream=stream)
    assert asked.response_headers["content-type"] == "application/json"
    assert (asked.response_headers["retry-after"], asked.response_headers["x-request-id"]) == ("7", "r1")


async def test_streamed_error_becomes_json(relay: Relay) -> None:
    head: Step = ["head", 400, [["Content-Type", "text/event-stream"], CHUNKED]]
    status, body, headers = await relay.answer([head, chunk('event: error\ndata: {"error": {"code": "x"}}\n\n'), LAST])
    assert (status, json.loads(body), headers["content-type"]) == (400, {"error": {"code": "x"}}, "application/json")


async def test_content_type_decides_over_status(relay: Relay) -> None:
    status, body, headers = await relay.answer(whole(200, COMPLETION))
    assert (status, json.loads(body), headers["content-type"]) == (200, COMPLETION, "application/json")


async def test_error_with_success_status_is_502(relay: Relay) -> None:
    """Otherwise the client's parser would find no event and see an empty answer."""
    for stream in (True, False):
        status, body, _ = await relay.answer(
            whole(200, {"error": {"message": "No quota", "code": "quota"}}), stream=stream
        )
        assert (status, json.loads(body)["error"]["message"]) == (502, "No quota")
    late = await relay.ask([wait(1), *whole(200, {"error": {"message": "No quota"}})])
    assert error_in(await late.rest())["message"] == "No quota"


async def test_unrequested_stream_is_malformed(relay: Relay) -> None:
    for pause in (0.0, 0.2):
        steps = [HEAD, piece("Hel"), wait(pause), piece("lo"), *END]
        status, body, _ = await relay.answer(steps, stream=False)
        assert (status, json.loads(body)["error"]["code"]) == (502, "upstream-malformed")


async def test_invalid_json_number_is_malformed(relay: Relay) -> None:
    status, body, _ = await relay.answer(whole(200, '{"a": NaN}'), stream=False)
    assert (status, json.loads(body)["error"]["code"]) == (502, "upstream-malformed")


@pytest.mark.parametrize("status", [200, 429])
async def test_truncated_body_is_an_error(relay: Relay, status: int) -> None:
    head: Step = [
        "head",
        status,
        [["Content-Type", "application/json"], ["Content-Length", "100"], ["Retry-After", "9"]],
    ]
    found, body, headers = await relay.answer([head, ["send", '{"error": '], ["reset"]], stream=False)
    assert (found, json.loads(body)["error"]["code"]) == (429 if status == 429 else 502, "upstream-broken")
    assert headers["retry-after"] == "9"


@pytest.mark.parametrize(("status", "expected"), [(502, 502), (200, 502), (302, 502)])
async def test_other_content_is_not_passed_on(relay: Relay, status: int, expected: int) -> None:
    steps = whole(status, "<html>inside 10.0.0.7</html>", ["Location", "http://127.0.0.1:1/"])
    found, body, headers = await relay.answer(steps)
    assert (found, headers["content-type"]) == (expected, "application/json")
    assert b"10.0.0.7" not in body
    assert "location" not in headers


async def test_error_body_is_bounded(relay: Relay) -> None:
    status, body, _ = await relay.answer(whole(418, json.dumps({"error": "x" * 100_000})))
    assert (status, json.loads(body)["error"]["code"]) == (418, "upstream-too-large")


async def test_only_client_headers_are_passed_on(relay: Relay) -> None:
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
        added = {"date", "server"}  # uvicorn adds these
        assert not {name.lower() for name in kept} & (set(found) - added)
        assert (found["server"], found["date"][-3:]) == ("uvicorn", "GMT")


async def test_compressed_answer_is_refused(relay: Relay) -> None:
    """The relay never decompresses an answer."""
    status, body, _ = await relay.answer(whole(200, "xxxx", ["Content-Encoding", "gzip"]))
    assert (status, json.loads(body)["error"]["code"]) == (502, "upstream-malformed")


async def test_repeated_key_is_hidden(relay: Relay) -> None:
    """The upstream sends its API key back in an error, an event or a header."""
    error = {"error": {"message": f"Wrong key: {SECRET}"}}
    spelt = json.dumps(error).replace("sk-very", "\\u0073k\\u002dvery")
    for steps in (
        whole(401, spelt),
        [HEAD, chunk(f"data: {spelt}\n\n")],
        [HEAD, chunk(event(f"It is {SECRET}").replace("sk-very", "sk\\u002dvery")), *END],
        whole(401, error, ["X-Request-Id", SECRET]),
        [HEAD, piece(f"Your key is {SECRET}"), chunk(f"data: {json.dumps(error)}\n\n")],
        [HEAD, piece("Hi"), wait(0.1), chunk(f"data: {json.dumps(error)}\n\n")],
    ):
        asked = await relay.ask(steps)
        body = await asked.rest()
        assert SECRET.encode() not in body
        assert b"very-secret-key" not in body
        assert b"[key]" in body
        assert SECRET not in str(asked.response_headers)
