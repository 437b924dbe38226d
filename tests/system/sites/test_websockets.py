"""A router of Channels: streams and WebSockets on the same server, and consumers that publish."""

from __future__ import annotations

import json
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.system.sites.conftest import Start
from tests.system.sites.running import Running

pytestmark = pytest.mark.once

ROUTER = "tests.system.sites.asgi_websockets"


@pytest.fixture(
    scope="module", params=[("daphne", "application"), ("uvicorn", "application"), ("daphne", "inside")], ids="-".join
)
def running(request: pytest.FixtureRequest, start: Start) -> Running:
    server, name = request.param
    return start("websockets", server=server, app=f"{ROUTER}:{name}")


async def say(running: Running, path: str, channel: str, *texts: str) -> list[Any]:
    """Send texts over a WebSocket, and return the answers."""
    url = f"ws://127.0.0.1:{running.server.port}{path}"
    answers = []
    async with connect(url, origin=running.url, proxy=None) as socket:  # type: ignore[arg-type]
        for text in texts:
            await socket.send(json.dumps({"channel": channel, "text": text}))
            answers.append(json.loads(await socket.recv()))
    return answers


@pytest.mark.parametrize("path", ["/ws/async/", "/ws/sync/"])
async def test_consumers_publish_to_streams(running: Running, path: str) -> None:
    channel = f"public.{path.split('/')[2]}"
    client = await running.stream(channel)
    answers = await say(running, path, channel, "one", "two")
    events = await client.read_until(2)
    assert [event.data for event in events] == ["one", "two"]
    assert [event.id for event in events] == [str(answer["position"]) for answer in answers]
    assert [answer["stored"] for answer in answers] == [["one"], ["one", "two"]]
    client.abort()
    await say(running, path, channel, "three")
    await client.connect()
    assert [event.data for event in await client.read_until(3)] == ["one", "two", "three"]


async def test_streams_end_beside_websockets(running: Running) -> None:
    """The client's leaving ends the stream. Nothing is logged as an error."""
    client = await running.stream("public.left")
    await say(running, "/ws/async/", "public.left", "x")
    await client.read_until(1)
    client.abort()
    await running.until(streams=0, subscribers=0)
    assert (await running.ask("checks/"))["messages"] == []
    log = running.server.log.read_text()
    assert "Traceback" not in log, log
