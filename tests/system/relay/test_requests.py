"""The relay's request to its upstream, the requests that it refuses, and its limits. Over real sockets."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.relay.conftest import SECRET, Relay
from tests.relay.steps import (
    END,
    HEAD,
    Step,
    piece,
    wait,
)

pytestmark = pytest.mark.once


async def test_upstream_request_holds_nothing_of_clients(relay: Relay) -> None:
    """The request has only the relay's own headers, and the options that the relay adds."""
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
async def test_invalid_request_never_reaches_upstream(relay: Relay, more: dict[str, Any], status: int) -> None:
    asked = relay.asking([HEAD, *END], **more)
    await (await asked.ask()).head()
    assert (asked.status, asked.response_headers["content-type"]) == (status, "application/json")
    assert set(json.loads(await asked.rest())["error"]) == {"message", "type", "param", "code"}
    assert await relay.upstream.seen(asked.name) == []


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 400), (b"{", 400), (b"[]", 400), (b" " * 1_048_577, 413), (b" " * 3_000_000, 413)]
)
async def test_invalid_body_is_refused(relay: Relay, body: bytes, status: int) -> None:
    asked = await (await relay.posting(body).ask()).head()
    assert asked.status == status
    assert json.loads(await asked.rest())["error"]["message"]


async def test_anonymous_and_other_methods_are_refused(relay: Relay) -> None:
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


async def test_streams_are_limited_per_user_and_site(relay: Relay) -> None:
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
