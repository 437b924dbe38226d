"""Publishing on an event loop and from views."""

from __future__ import annotations

import asyncio
import threading

import pytest
from django.contrib.auth import get_user_model
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import AsyncClient, Client
from django.urls import path

from streams import NewMessage, apublish, apublish_many, publish, publish_many
from streams.exceptions import InvalidChannel, InvalidData
from streams.models import Message
from tests.publishing.support import UNSTORABLE, RolledBack, off_the_loop, stored
from tests.support.sites import Site, finish

pytestmark = pytest.mark.django_db(transaction=True)


# --- On an event loop -------------------------------------------------------------------------------------------------


async def test_publish_is_refused_on_event_loops() -> None:
    """The error names the remedy, to await apublish."""
    with pytest.raises(SynchronousOnlyOperation, match=r"await apublish\("):
        publish("news", "x")
    with pytest.raises(SynchronousOnlyOperation, match=r"await apublish\("):
        publish_many([NewMessage("news", "x")])
    assert await off_the_loop(stored) == []


async def test_notebooks_can_publish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    assert publish("news", "x").position == 1
    connection.close()


async def test_apublish_returns_the_stored_message() -> None:
    message = await apublish("news", {"n": 1}, event="alert")
    assert (message.position, message.event, message.data) == (1, "alert", '{"n":1}')
    assert await off_the_loop(stored) == [(1, '{"n":1}')]


async def test_apublish_many_keeps_the_order() -> None:
    assert await apublish_many([]) == []
    messages = await apublish_many([NewMessage("news", n) for n in range(10)])
    assert [message.position for message in messages] == list(range(1, 11))
    assert [data for _, data in await off_the_loop(stored)] == [str(n) for n in range(10)]


async def test_apublish_refuses_invalid_messages() -> None:
    with pytest.raises(InvalidChannel):
        await apublish("news room", "x")
    with pytest.raises(InvalidData):
        await apublish_many([NewMessage("news", "good"), NewMessage("news", "\0")])
    assert await off_the_loop(stored) == []


async def test_publish_works_in_a_thread() -> None:
    assert (await off_the_loop(publish, "news", "x")).position == 1


async def test_unstorable_message_harms_no_other() -> None:
    impossible_user = get_user_model()(pk=2**70)  # too large for the column
    calls = [apublish("news", str(n), published_by=impossible_user if n == 10 else None) for n in range(20)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    bad = results.pop(10)
    assert isinstance(bad, UNSTORABLE)
    rows = await off_the_loop(stored)
    assert [position for position, _ in rows] == list(range(1, 20))
    assert [(result.position, result.data) for result in results if isinstance(result, Message)] == rows


async def test_concurrent_calls_share_a_key() -> None:
    messages = await asyncio.gather(*(apublish("news", str(n), idempotency_key=f"key {n % 3}") for n in range(30)))
    rows = await off_the_loop(stored)
    assert len(rows) == 3
    assert {(message.position, message.data) for message in messages} == set(rows)


def publish_without_a_thread() -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                await apublish("news", "never")
        await apublish("news", "later")

    asyncio.run(main())


@pytest.mark.once
def test_message_without_a_thread_is_not_published(site: Site) -> None:
    """If no thread can start, apublish raises, and the message is not published with the next one."""
    finish(site.call(publish_without_a_thread))
    assert site.execute("SELECT data FROM streams_message ORDER BY position") == [("later",)]


# --- From views -------------------------------------------------------------------------------------------------------


def sync_view(request: HttpRequest) -> HttpResponse:
    message = publish("news", "sync view")
    if "fail" in request.GET:
        raise RolledBack
    return JsonResponse({"position": message.position})


async def async_view(request: HttpRequest) -> HttpResponse:
    message = await apublish("news", "async view")
    return JsonResponse({"position": message.position})


async def wrong_view(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"position": publish("news", "wrong").position})


urlpatterns = [path("sync/", sync_view), path("async/", async_view), path("wrong/", wrong_view)]


@pytest.mark.urls(__name__)
def test_views_publish_under_wsgi() -> None:
    client = Client()
    assert client.get("/sync/").json() == {"position": 1}
    assert client.get("/async/").json() == {"position": 2}
    assert stored() == [(1, "sync view"), (2, "async view")]


@pytest.mark.urls(__name__)
async def test_views_publish_under_asgi() -> None:
    client = AsyncClient()
    assert (await client.get("/sync/")).json() == {"position": 1}
    assert (await client.get("/async/")).json() == {"position": 2}
    with pytest.raises(SynchronousOnlyOperation, match="await apublish"):
        await client.get("/wrong/")
    assert await off_the_loop(stored) == [(1, "sync view"), (2, "async view")]


@pytest.mark.urls(__name__)
def test_failed_atomic_request_publishes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    client = Client()
    assert client.get("/sync/").json() == {"position": None}  # the view reads it before the commit
    with pytest.raises(RolledBack):
        client.get("/sync/?fail=1")
    assert stored() == [(1, "sync view")]
