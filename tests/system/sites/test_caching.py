"""The per-site cache stores no stream, and no answer of the HTTP API. A cached page misses no message."""

from __future__ import annotations

import pytest

from streams.tokens import make_token
from tests.system.sites.conftest import Start
from tests.system.sites.running import Running

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def running(start: Start) -> Running:
    return start("caching")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/channels/private/messages/", 403),
        ("GET", "/api/channels/", 200),
        ("GET", "/api/schema/", 200),
        ("GET", "/api/health/ready", 200),
        ("HEAD", "/events/private/", 403),
    ],
)
async def test_answer_is_for_its_caller_only(running: Running, method: str, path: str, status: int) -> None:
    await running.publish("private", "secret")
    credentials = {"Authorization": f"Bearer {make_token(read=['*'])}"}
    async with running.browser() as client:
        allowed = await client.request(method, path, headers=credentials)
        assert allowed.status_code == 200
        assert "expires" not in allowed.headers  # the cache's middleware adds it to what it stores
        other = await client.request(method, path)
        assert other.status_code == status
        assert "secret" not in other.text


async def test_cached_page_misses_nothing(running: Running) -> None:
    """Every visitor gets the cursor of the first one, and so all messages since."""
    first = await running.stream_url("public.page")
    await running.publish("public.page", "one", "two")
    assert await running.stream_url("public.page") == first
    client = await running.connect(first)
    assert [event.data for event in await client.read_until(2)] == ["one", "two"]
