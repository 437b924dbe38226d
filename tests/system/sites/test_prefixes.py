"""A site below a prefix: FORCE_SCRIPT_NAME, the servers' options for it, and proxies that remove the prefix."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.support.clients import StreamClient
from tests.support.services import missing
from tests.support.services.nginx import NginxServer, below, program
from tests.system.sites.conftest import Start
from tests.system.sites.running import Running

pytestmark = pytest.mark.once

# For each server: its options, and whether its proxy removes the prefix. uvicorn needs a proxy that does, because it
# puts `--root-path` in front of the path itself.
SITES = {
    "uvicorn": (["--root-path", "/app"], [True]),
    "hypercorn": (["--root-path", "/app"], [True, False]),
    "daphne": (["--root-path", "/app"], [True, False]),
    "granian": (["--url-path-prefix", "/app"], [True, False]),
    "FORCE_SCRIPT_NAME": ([], [True, False]),
}


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest, start: Start) -> Running:
    if request.param == "FORCE_SCRIPT_NAME":
        return start("prefix", prefix="/app", pages="/en")
    return start("base", *SITES[request.param][0], server=request.param, prefix="/app")


@pytest.mark.parametrize(
    ("running", "removes"),
    [(name, removes) for name, (_, ways) in SITES.items() for removes in ways],
    indirect=["running"],
)
async def test_urls_have_the_prefix(running: Running, removes: bool) -> None:
    channel = "public.kept" if not removes else "public.removed"

    async def remove_prefix(request: httpx.Request) -> None:
        request.url = request.url.copy_with(raw_path=request.url.raw_path.removeprefix(b"/app"))

    async with running.browser(event_hooks={"request": [remove_prefix] if removes else []}) as client:
        url = await running.stream_url(channel, client)
        assert url.startswith(f"/app{running.pages}/events/{channel}/?last_event_id=")
        stream = await StreamClient(running.server.port, url.removeprefix("/app") if removes else url).connect()
        assert stream.status == 200
        await publish(client, channel, "a", "b", "c")
        assert [event.data for event in await stream.read_until(3)] == ["a", "b", "c"]
        stream.abort()

        history = await client.get(f"/app/api/channels/{channel}/messages/", params={"limit": 2})
        assert history.status_code == 200
        assert history.json()["next"].startswith(f"/app/api/channels/{channel}/messages/?")
        assert len((await client.get(history.json()["next"])).json()["messages"]) == 1
        assert (await client.get("/app/api/channels/?limit=1")).status_code == 200
        document = json.loads((await client.get("/app/api/schema/")).text)
        assert document["servers"] == [{"url": "/app/api"}]

        await running.log_in(client, "root", is_staff=True, is_superuser=True)
        files = await running.files_of(client, f"{running.admin}/streams/monitor/?channel={channel}")
        assert all(file.startswith("/app/static/") for file in files)


@pytest.mark.parametrize("running", ["uvicorn"], indirect=True)
async def test_uvicorn_adds_its_root_path_itself(running: Running) -> None:
    async with running.browser() as client:
        assert (await client.get("/test/process/")).status_code == 200
        assert (await client.get("/app/test/process/")).status_code == 404


async def publish(client: httpx.AsyncClient, channel: str, *lines: str) -> None:
    for line in lines:
        assert (await client.post(f"/app/test/publish/?channel={channel}", content=line)).status_code == 200


async def test_streams_below_a_prefix_of_nginx(start: Start) -> None:
    """The documented configuration, with the prefix in its locations."""
    if program() is None:
        missing("nginx", "nginx")
    running = start("below", prefix="/app")
    proxy = NginxServer([running.server.port] * 4, changes=below("/app")).start()
    try:
        running.port = proxy.port
        client = await running.stream("public.proxied")
        assert "x-accel-buffering" not in client.response_headers  # nginx keeps this header for itself
        await running.publish("public.proxied", "one", "two")
        assert [event.data for event in await client.read_until(2)] == ["one", "two"]
        client.abort()
        await running.publish("public.proxied", "three")
        await client.connect()
        assert [event.data for event in await client.read_until(3)] == ["one", "two", "three"]
        assert client.path.startswith("/app/events/")
    finally:
        proxy.remove()
