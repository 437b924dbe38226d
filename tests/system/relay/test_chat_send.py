"""The demo site's POST /chat/send with a configured upstream. Over real sockets."""

import json
import time

import pytest

from tests.relay.conftest import Asking, Relay
from tests.relay.steps import CHUNKED, END, Step, event, piece, wait, whole

pytestmark = pytest.mark.once

STREAM = ["Content-Type", "text/event-stream"]


async def send(relay: Relay, steps: list[Step], *, user: str = "ann", **headers: str) -> Asking:
    """Request an answer that follows these steps, and read the head of the response."""
    authorization = {"Authorization": f"Bearer {relay.keys[user]}"} if user else {}
    body = json.dumps({"msg": json.dumps(steps)}).encode()
    return await (await Asking(relay.server.port, "/chat/send", {**authorization, **headers}, body=body).ask()).head()


async def test_stream_is_passed_on_with_its_headers_and_each_event_at_once(relay: Relay) -> None:
    head = ["head", 200, [STREAM, CHUNKED, ["X-Request-Id", "r1"], ["Set-Cookie", "a=b"]]]
    asked = await send(relay, [head, piece("Hel"), wait(0.7), piece("lo"), *END])
    assert asked.status == 200
    assert asked.response_headers["content-type"].startswith("text/event-stream")
    assert asked.response_headers["x-request-id"] == "r1"
    assert asked.response_headers["access-control-allow-origin"] == "*"
    assert "set-cookie" not in asked.response_headers
    await asked.has(event("Hel").encode())
    assert event("lo").encode() not in asked.raw
    body = await asked.rest()
    assert event("lo").encode() in body
    assert body.endswith(b"data: [DONE]\n\n")


async def test_refusal_is_passed_on_with_its_status(relay: Relay) -> None:
    asked = await send(relay, whole(429, {"error": {"message": "slow down"}}, ["Retry-After", "7"]))
    assert asked.status == 429
    assert asked.response_headers["retry-after"] == "7"
    assert asked.response_headers["access-control-allow-origin"] == "*"
    assert json.loads(await asked.rest())["error"]["message"] == "slow down"


async def test_who_may_have_no_answers_has_none(relay: Relay) -> None:
    asked = await send(relay, [], user="")
    assert asked.status == 401
    assert asked.response_headers["access-control-allow-origin"] == "*"  # so that a page can read the error
    assert json.loads(await asked.rest())["error"]["code"] == "not-logged-in"


async def test_session_needs_the_csrf_token(relay: Relay) -> None:
    session = relay.server.log_in("carl")
    asked = await send(relay, [], user="", Cookie=session)
    assert asked.status == 403
    assert json.loads(await asked.rest())["error"]["code"] == "csrf"
    token = "t" * 32
    headers = {"Cookie": f"{session}; csrftoken={token}", "X-CSRFToken": token}
    asked = await send(relay, whole(200, {"choices": []}), user="", **headers)
    assert asked.status == 200


async def test_request_is_closed_upstream_when_the_client_leaves(relay: Relay) -> None:
    before = await relay.upstream.connections()
    head = ["head", 200, [STREAM, CHUNKED]]
    asked = await send(relay, [head, piece("Hel"), wait(60)])
    await asked.has(b"Hel")
    asked.abort()
    end = time.monotonic() + 10
    while await relay.upstream.connections() > before:
        assert time.monotonic() < end, "the upstream's connection is still open"
