"""The thread of a relayed request: how often its code moves there, and when the request gives it back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.contrib.auth import get_user_model
from django.test import AsyncClient, AsyncRequestFactory

from streams.private import asgiref
from streams.relay.access import Everyone, LoggedIn, Principal, make_key
from streams.relay.proxy import views
from streams.relay.proxy.views import relay
from streams.runtime import request_resources
from tests.relay.answering import DONE, GivenResponse, GivenUpstream, event

User = get_user_model()

PAYLOAD = {"stream": True, "messages": [{"role": "user", "content": "Hi"}]}
SCRIPTED = {"BACKEND": "streams.relay.upstreams.ScriptedUpstream", "OPTIONS": {"answer": "a", "seconds": 0.001}}


class OnlyAnn(LoggedIn):
    """A rule that uses the ORM, which Django allows in threads only."""

    def may_use(self, request: Any, user: Any) -> bool:
        return User.objects.filter(username="ann").exists() and (user is None or user.username == "ann")


class OpenWhileAnnExists(Everyone):
    may_use = OnlyAnn.may_use


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the functions of Streams that sync_to_async has run."""
    found: list[str] = []
    original = SyncToAsync.__call__

    async def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(self.func, "__module__", "").startswith("streams."):
            found.append(self.func.__name__)
        return await original(self, *args, **kwargs)

    monkeypatch.setattr(SyncToAsync, "__call__", counting)
    return found


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("access", "by", "status", "count"),
    [
        ("streams.relay.access.Everyone", None, 200, 0),
        ("streams.relay.access.LoggedIn", None, 401, 0),
        ("streams.relay.access.LoggedIn", "key", 200, 1),
        ("streams.relay.access.LoggedIn", "session", 200, 1),
        (f"{__name__}.OpenWhileAnnExists", None, 200, 1),
        (f"{__name__}.OnlyAnn", None, 200, 1),
        (f"{__name__}.OnlyAnn", "key", 200, 1),
    ],
)
async def test_admitting_changes_threads_once_at_most(
    settings: Any, calls: list[str], access: str, by: str | None, status: int, count: int
) -> None:
    settings.STREAMS = {"RELAY_ACCESS": access, "UPSTREAMS": {"default": SCRIPTED}}
    ann = await User.objects.acreate(username="ann")
    client, headers = AsyncClient(), {}
    if by == "session":
        await client.aforce_login(ann)
    elif by == "key":
        headers = {"Authorization": f"Bearer {make_key(ann, 60)}"}
    calls.clear()
    response: Any = await client.post(
        "/ai/v1/chat/completions", PAYLOAD, content_type="application/json", headers=headers
    )
    assert response.status_code == status
    assert len(calls) == count, calls
    response.close()


class Waiting(GivenUpstream):
    """Answers when `go` is set."""

    def __init__(self) -> None:
        super().__init__([event("a"), DONE])
        self.go = asyncio.Event()

    async def send(self, body: Any) -> Any:
        self.asked.append(body)
        await self.go.wait()
        return GivenResponse(self)


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    waiting = Waiting()
    monkeypatch.setattr(views, "upstream_for", lambda model: waiting)
    return waiting


def ask() -> asyncio.Task[Any]:
    """Start to relay a request, in a task."""
    return asyncio.create_task(relay(AsyncRequestFactory().post("/"), Principal(None, "test"), PAYLOAD))  # type: ignore[arg-type]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.django_db(transaction=True)
async def test_prompt_answer_leaves_the_thread_to_the_middleware(upstream: Waiting) -> None:
    upstream.go.set()
    async with ThreadSensitiveContext() as context:
        thread = await sync_to_async(threading.current_thread)()
        response = await ask()
        assert await sync_to_async(threading.current_thread)() is thread
        assert b'"a"' in await anext(aiter(response))
        assert not asgiref.has_thread(context), "the first byte gives it back"
        response.close()


@pytest.mark.django_db(transaction=True)
async def test_slow_answer_holds_no_thread(upstream: Waiting, settings: Any) -> None:
    settings.STREAMS = {"RELAY_HEADER_DELAY_SECONDS": 60}
    async with ThreadSensitiveContext() as context:
        await sync_to_async(threading.current_thread)()
        asking = ask()
        await until(lambda: not asgiref.has_thread(context))
        assert not asking.done()
        upstream.go.set()
        (await asking).close()


@pytest.mark.django_db(transaction=True)
async def test_connections_are_closed_while_the_upstream_works(
    upstream: Waiting, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed_in: list[threading.Thread] = []
    monkeypatch.setattr(request_resources, "close_connections", lambda: closed_in.append(threading.current_thread()))
    monkeypatch.setattr(views, "KEEP_THREAD_SECONDS", 60)
    settings.STREAMS = {"RELAY_HEADER_DELAY_SECONDS": 60}
    async with ThreadSensitiveContext():
        thread = await sync_to_async(threading.current_thread)()
        asking = ask()
        await until(lambda: upstream.asked and closed_in)
        assert closed_in == [thread]
        assert not asking.done()
        upstream.go.set()
        (await asking).close()
