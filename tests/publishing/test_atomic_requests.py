"""ATOMIC_REQUESTS on any database: no view of Streams runs in a request's transaction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connections
from django.test import AsyncClient, Client

from streams import publish
from streams.models import Message
from streams.testing import read_events
from streams.tokens import make_token

pytestmark = pytest.mark.django_db(transaction=True)

ALIAS = "another"


@pytest.fixture(autouse=True)
def _another_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[None]:
    """Add a database with ATOMIC_REQUESTS that cannot be opened. A transaction there would cause a 500."""
    options = {**connections.settings["default"], "ENGINE": "django.db.backends.sqlite3", "OPTIONS": {}}
    options |= {"NAME": tmp_path / "no such folder" / "db.sqlite3", "ATOMIC_REQUESTS": True}
    monkeypatch.setitem(connections.settings, ALIAS, options)
    yield
    if hasattr(connections._connections, ALIAS):
        del connections[ALIAS]


@pytest.mark.parametrize("url", ["/events/news/", "/events/?channel=news"])
async def test_streams(url: str) -> None:
    response = await AsyncClient().get(f"{url}{'&' if '?' in url else '?'}last_event_id=0")
    assert response.status_code == 200
    await AsyncClient().post(
        "/api/fast/channels/news/messages/",
        {"data": "hello"},
        content_type="application/json",
        headers={"Authorization": f"Bearer {make_token(publish=['*'])}"},
    )
    assert [event.data for event in await read_events(response, 1)] == ["hello"]


@pytest.mark.parametrize(
    ("method", "url", "status"),
    [
        ("get", "/api/health/live", 200),
        ("get", "/api/health/ready", 200),
        ("get", "/api/channels/", 200),
        ("post", "/api/channels/news/messages/", 201),
        ("post", "/api/fast/channels/news/messages/", 201),
        ("post", "/ai/v1/chat/completions", 400),
        ("get", "/ai/v1/models", 200),
        ("post", "/ai/generations/", 400),
        ("get", "/ai/generations/unknown/", 404),
        ("post", "/chat/send", 400),
    ],
)
def test_answers(method: str, url: str, status: int) -> None:
    token = make_token(read=["*"], publish=["*"])
    headers = {"Authorization": f"Bearer {token}"} if url.startswith("/api/") else {}
    sent = {"data": {"data": "x"}, "content_type": "application/json"} if method == "post" else {}
    answer = getattr(Client(), method)(url, headers=headers, **sent)
    assert answer.status_code == status, answer.content


def test_pages_of_the_admin() -> None:
    client = Client()
    client.force_login(User.objects.create(username="root", is_staff=True, is_superuser=True))
    message = publish("news", "x")
    for page in ("broadcast/add/", "monitor/", "channelsettings/", "node/", f"message/{message.pk}/send-again/"):
        assert client.get(f"/admin/streams/{page}").status_code == 200, page
    text = {"title": "t", "channels": "news", "event": "message", "payload_type": "text", "payload": "sent"}
    assert client.post("/admin/streams/broadcast/test/", text).json()["position"] == 2
    assert Message.objects.count() == 2
