"""The contract of notifiers, tested with every notifier and with real servers."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest
from channels.layers import channel_layers
from django.db import connections
from django.test import override_settings

from streams.notifiers import BaseNotifier, Notice, Revocation, channel_layer, postgres, signing
from streams.notifiers.channel_layer import ChannelLayerNotifier
from streams.notifiers.local import LocalNotifier
from streams.notifiers.postgres import PostgresNotifier
from streams.protocol.sse import StoredEvent
from streams.runtime import executor
from tests.support.notices import REDIS_LAYERS, SECONDS, hear, listening, notice, tell
from tests.support.services import wait_until
from tests.support.services.postgres import PostgresServer
from tests.support.services.redis import RedisServer

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("database_in_threads")]


@dataclass
class Kind:
    """A kind of notifier, and its server. `make` returns a new notifier, such as another process has."""

    make: Callable[[], BaseNotifier]
    server: PostgresServer | RedisServer | None = None


@pytest.fixture(params=["local", "postgres", "pubsub", "redis", "memory"])
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    if request.param == "local":
        yield Kind(LocalNotifier)
    elif request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        alias = request.getfixturevalue("settings_database")
        yield Kind(lambda: PostgresNotifier(database=alias), server)
    else:
        config: dict[str, Any] = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
        redis = None
        if request.param in REDIS_LAYERS:
            redis = request.getfixturevalue("redis")
            config = {"BACKEND": REDIS_LAYERS[request.param], "CONFIG": {"hosts": [redis.url]}}
        with override_settings(CHANNEL_LAYERS={"default": config}):
            yield Kind(ChannelLayerNotifier, redis)


@pytest.fixture
def notifier(kind: Kind) -> BaseNotifier:
    return kind.make()


@pytest.fixture
def far(kind: Kind) -> BaseNotifier:
    """The notifier of another process: it shares only the server with `notifier`."""
    if kind.server is None:
        pytest.skip("this notifier reaches only its own process")
    return kind.make()


async def test_notices_come_in_the_order_in_which_they_were_given(notifier: BaseNotifier) -> None:
    async with aclosing(await listening(notifier)) as notices:
        await tell(notifier, *map(notice, range(1, 21)))
        assert await hear(notices, until=20) == [notice(number) for number in range(1, 21)]


async def test_another_process_hears_them_in_order(notifier: BaseNotifier, far: BaseNotifier) -> None:
    async with aclosing(await listening(far)) as notices:
        await tell(notifier, *map(notice, range(1, 21)))
        assert await hear(notices, until=20) == [notice(number) for number in range(1, 21)]


async def test_notices_come_from_any_thread(notifier: BaseNotifier) -> None:
    async with aclosing(await listening(notifier)) as notices:
        starts = (100, 200, 300, 400)
        await asyncio.gather(*(tell(notifier, *map(notice, range(start, start + 10))) for start in starts))
        await tell(notifier, notice(999))
        heard = [one.first for one in await hear(notices, until=999)][:-1]
    assert sorted(heard) == [number for start in starts for number in range(start, start + 10)]
    for start in starts:
        of_one = [number for number in heard if start <= number < start + 10]
        assert of_one == sorted(of_one)


async def test_every_event_loop_of_the_process_hears(notifier: BaseNotifier) -> None:
    ready, heard = threading.Event(), []

    async def other_loop() -> None:
        async with aclosing(await listening(notifier)) as notices:
            ready.set()
            heard.extend(await hear(notices, until=1))

    thread = threading.Thread(target=lambda: asyncio.run(other_loop()))
    thread.start()
    assert await asyncio.to_thread(ready.wait, SECONDS)
    async with aclosing(await listening(notifier)) as one, aclosing(await listening(notifier)) as two:
        await tell(notifier, notice(1))
        assert await hear(one, until=1) == await hear(two, until=1) == [notice(1)]
    await asyncio.to_thread(thread.join, SECONDS)
    assert heard == [notice(1)]


TEXTS = "line\u2028separator \x1f \U0001f30a \"quotes\" 'single' \\ %s %(a)s 雨\nNUL\\u0000"


async def test_text_and_positions_survive(notifier: BaseNotifier, far: BaseNotifier) -> None:
    messages = (StoredEvent(7, "a.b", "é", TEXTS), StoredEvent(8, "c", "message", ""))
    several = Notice(7, 8, messages, is_public=True)
    async with aclosing(await listening(far)) as notices:
        control = Notice(0, 0, revocation=Revocation(ends=True, user="7", channel="a.b"))
        await tell(notifier, Notice(3, 5), control, several)
        assert await hear(notices, until=8) == [Notice(3, 5), control, several]


@pytest.mark.parametrize("data", ["x" * 200_000, "雨" * 30_000], ids=["long", "long-when-encoded"])
async def test_too_large_a_notice_comes_with_its_positions_only(
    notifier: BaseNotifier, far: BaseNotifier, data: str
) -> None:
    async with aclosing(await listening(far)) as notices:
        await tell(notifier, notice(1, data))
        assert await hear(notices, until=1) == [Notice(1, 1)]


async def test_closed_listener_keeps_nothing_and_leaves_no_thread(notifier: BaseNotifier) -> None:
    class Text(str):
        """A string that can have a weak reference, which shows whether it is still in memory."""

    if isinstance(notifier, ChannelLayerNotifier):
        notifier.linger_seconds = 0
    before = set(threading.enumerate())
    for _ in range(3):
        await (await listening(notifier)).aclose()
    text = Text("data")
    seen = weakref.ref(text)
    if isinstance(notifier, LocalNotifier):
        await tell(notifier, notice(1, text))
    else:
        own = {thread for thread in threading.enumerate() if thread.name == "streams-notifier"} - before
        await asyncio.to_thread(wait_until, lambda: not any(thread.is_alive() for thread in own), "the thread's end")
    del text
    gc.collect()
    assert seen() is None


async def test_restarted_server_ends_the_listener_which_can_then_listen_again(
    kind: Kind, notifier: BaseNotifier, far: BaseNotifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kind.server is not None
    monkeypatch.setattr(channel_layer, "PING_SECONDS", 1.0)
    notices = await listening(notifier)
    await asyncio.to_thread(kind.server.stop)
    try:
        with pytest.raises(ConnectionError):
            await hear(notices, until=0)
    finally:
        await asyncio.to_thread(kind.server.start)
    async with aclosing(await listening(notifier)) as again:
        connections.close_all()
        async with asyncio.timeout(SECONDS):
            is_sent = False
            while not is_sent:
                try:
                    await tell(far, notice(2))
                    is_sent = True
                except Exception:
                    await asyncio.sleep(0.1)
        assert await hear(again, until=2) == [notice(2)]


async def test_server_that_hangs_is_noticed(
    kind: Kind, notifier: BaseNotifier, far: BaseNotifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kind.server is not None
    monkeypatch.setattr(postgres, "QUIET_SECONDS", 0.2)
    monkeypatch.setattr(postgres, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(channel_layer, "PING_SECONDS", 1.0)
    notices = await listening(notifier)
    with kind.server.hanging(), pytest.raises(ConnectionError):
        await hear(notices, until=0)


async def test_what_another_site_puts_on_the_bus_is_not_heard(
    kind: Kind, notifier: BaseNotifier, far: BaseNotifier
) -> None:
    with override_settings(SECRET_KEY="of another site"):
        text = signing.encode(notice(1), 1000)
    async with aclosing(await listening(far)) as notices:
        if isinstance(kind.server, PostgresServer):
            kind.server.execute(f"SELECT pg_notify('streams', '{text}')", connections.settings["notifiers"]["NAME"])
        else:
            layer = channel_layers.make_backend("default")
            await layer.group_send("streams", {"type": "streams.notice", "notice": text})
            await layer.group_send("streams", {"type": "chat.message", "text": "hello"})
        await tell(notifier, notice(2))
        assert await hear(notices, until=2) == [notice(2)]


async def test_what_a_tests_own_transaction_holds_is_told_to_this_process_alone(
    kind: Kind, notifier: BaseNotifier, far: BaseNotifier, db: None
) -> None:
    if isinstance(kind.server, PostgresServer):
        pytest.skip("pytest-django blocks the other database; see test_postgres.py")
    async with aclosing(await listening(notifier)) as here, aclosing(await listening(far)) as there:
        await executor.run(notifier.notify, notice(1))
        assert await hear(here, until=1) == [notice(1)]
        await tell(notifier, notice(2))
        assert await hear(there, until=2) == [notice(2)]


def test_what_shows_a_notifier_shows_no_password(settings_database: str) -> None:
    shown = repr(PostgresNotifier("postgresql://me:secret@db/x", database=settings_database))
    layer = {"BACKEND": REDIS_LAYERS["pubsub"], "CONFIG": {"hosts": ["redis://:secret@redis/0"]}}
    with override_settings(CHANNEL_LAYERS={"default": layer}):
        shown += repr(ChannelLayerNotifier())
    assert "secret" not in shown
