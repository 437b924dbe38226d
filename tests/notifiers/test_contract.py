"""What every notifier promises, against each of them; those that have a server, against a real one."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest
from channels.layers import channel_layers
from django.db import connections, transaction
from django.test import override_settings
from redis.exceptions import ConnectionError as RedisConnectionError

from streams import threads
from streams.events import StoredEvent
from streams.exceptions import InvalidSetting
from streams.models import Message
from streams.notifiers import BaseNotifier, Notice, channel_layer, postgres, wire
from streams.notifiers.channel_layer import ChannelLayerNotifier
from streams.notifiers.local import LocalNotifier
from streams.notifiers.postgres import PostgresNotifier
from tests.services import wait_until
from tests.services.postgres import PostgresServer
from tests.services.redis import RedisServer

pytestmark = pytest.mark.once

SECONDS = 40.0
Notices = AsyncGenerator[Notice | None, None]


@dataclass
class Kind:
    """A notifier, the server behind it, and how to make another as another process would have it."""

    make: Callable[[], BaseNotifier]
    server: PostgresServer | RedisServer | None = None


REDIS_LAYERS = {
    "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
    "redis": "channels_redis.core.RedisChannelLayer",
}


@pytest.fixture(scope="module")
def settings_database(request: pytest.FixtureRequest) -> Iterator[str]:
    """An alias in DATABASES for a PostgreSQL database of the module's own."""
    postgres: PostgresServer = request.getfixturevalue("postgres")
    name = postgres.create_database()
    connections.settings["notifiers"] = {
        **connections.settings["default"],
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "HOST": "127.0.0.1",
        "PORT": str(postgres.port),
        "USER": "streams",
        "PASSWORD": "rather-secret",
        "OPTIONS": {},
    }
    yield "notifiers"
    connections["notifiers"].close()
    del connections["notifiers"], connections.settings["notifiers"]


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
    """Another process's: it shares nothing with `notifier` but the server."""
    if kind.server is None:
        pytest.skip("reaches this process only")
    return kind.make()


@pytest.fixture(autouse=True)
def _database_in_threads(django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock():
        yield


def notice(number: int, data: str = "x") -> Notice:
    return Notice(number, number, (StoredEvent(number, "news", "message", data),))


def in_thread(call: Callable[[], None]) -> None:
    try:
        call()
    finally:
        connections.close_all()  # the thread's own


async def tell(notifier: BaseNotifier, *notices: Notice) -> None:
    def call() -> None:
        for one in notices:
            notifier.notify(one)

    await asyncio.to_thread(in_thread, call)


async def listening(notifier: BaseNotifier) -> Notices:
    notices = notifier.listen()
    async with asyncio.timeout(SECONDS):
        assert await anext(notices) is None, "it listens"
    return notices


async def hear(notices: Notices, *, until: int) -> list[Notice]:
    """What is heard up to the notice with that position, each once: an echo repeats it."""
    heard: list[Notice] = []
    async with asyncio.timeout(SECONDS):
        while not heard or heard[-1].last != until:
            one = await anext(notices)
            if one is not None and one not in heard:
                heard.append(one)
    return heard


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
    several = Notice(7, 8, (StoredEvent(7, "a.b", "é", TEXTS), StoredEvent(8, "c", "message", "")))
    async with aclosing(await listening(far)) as notices:
        await tell(notifier, Notice(3, 5), several)
        assert await hear(notices, until=8) == [Notice(3, 5), several]


@pytest.mark.parametrize("data", ["x" * 200_000, "雨" * 30_000], ids=["long", "long-when-encoded"])
async def test_too_large_a_notice_comes_with_its_positions_only(
    notifier: BaseNotifier, far: BaseNotifier, data: str
) -> None:
    async with aclosing(await listening(far)) as notices:
        await tell(notifier, notice(1, data))
        assert await hear(notices, until=1) == [Notice(1, 1)]


async def test_closed_listener_keeps_nothing_and_leaves_no_thread(notifier: BaseNotifier) -> None:
    class Text(str):
        """A text of which one can see whether anybody still holds it."""

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
            told = False
            while not told:
                try:
                    await tell(far, notice(2))
                    told = True
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
        text = wire.encode(notice(1), 1000)
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
        pytest.skip("what such a test may not use is another database; see below")
    async with aclosing(await listening(notifier)) as here, aclosing(await listening(far)) as there:
        await threads.run(notifier.notify, notice(1))
        assert await hear(here, until=1) == [notice(1)]
        await tell(notifier, notice(2))
        assert await hear(there, until=2) == [notice(2)]


def test_what_shows_a_notifier_shows_no_password(settings_database: str) -> None:
    shown = repr(PostgresNotifier("postgresql://me:secret@db/x", database=settings_database))
    layer = {"BACKEND": REDIS_LAYERS["pubsub"], "CONFIG": {"hosts": ["redis://:secret@redis/0"]}}
    with override_settings(CHANNEL_LAYERS={"default": layer}):
        shown += repr(ChannelLayerNotifier())
    assert "secret" not in shown


# --- What only one of them does ---------------------------------------------------------------------------------------


async def test_postgres_listens_where_the_dsn_says(settings_database: str, postgres: PostgresServer) -> None:
    name = connections.settings[settings_database]["NAME"]
    elsewhere = PostgresNotifier(postgres.dsn(postgres.create_database()), database=settings_database)
    there = PostgresNotifier(postgres.dsn(name), database=settings_database)
    async with aclosing(await listening(elsewhere)) as deaf, aclosing(await listening(there)) as notices:
        await tell(PostgresNotifier(database=settings_database), notice(1))
        assert await hear(notices, until=1) == [notice(1)]
        await tell(elsewhere, notice(2))
        assert await hear(deaf, until=2) == [notice(2)], "not the first"


async def test_postgres_sends_nothing_from_within_a_transaction(settings_database: str) -> None:
    notifier, far = PostgresNotifier(database=settings_database), PostgresNotifier(database=settings_database)

    def in_transaction() -> None:
        with transaction.atomic(using=settings_database):
            notifier.notify(notice(1))

    async with aclosing(await listening(notifier)) as here, aclosing(await listening(far)) as there:
        await asyncio.to_thread(in_thread, in_transaction)
        assert await hear(here, until=1) == [notice(1)]
        await tell(notifier, notice(2))
        assert await hear(there, until=2) == [notice(2)]


def test_wrong_options_are_refused_with_what_is_right(settings_database: str) -> None:
    with pytest.raises(InvalidSetting, match=r"an alias from DATABASES \(default"):
        PostgresNotifier(database="other")
    with pytest.raises(InvalidSetting, match="1 to 63 bytes; got 'x"):
        PostgresNotifier(channel="x" * 64, database=settings_database)
    with override_settings(CHANNEL_LAYERS={"bus": {}}), pytest.raises(InvalidSetting, match=r"\(bus\); got 'default'"):
        ChannelLayerNotifier()


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql//me:hunter2@db/x",
        "postgresql://me:100%hunter2@db/x",
        "postgresql://me:hun/ter2@db/x",
        "postgresql://me:h@hunter2@db/x",
        "host=db password=hunter2 prot=5432",
        7,
    ],
)
def test_dsn_that_libpq_cannot_read_is_refused_without_showing_it(dsn: Any, settings_database: str) -> None:
    with pytest.raises(InvalidSetting, match="such as 'postgresql://user@host:5432/name'") as error:
        PostgresNotifier(dsn, database=settings_database)
    assert "hun" not in str(error.value)
    assert error.value.__suppress_context__ or error.value.__context__ is None, "nor in the stack"


@pytest.mark.parametrize(
    "dsn", ["postgresql://me:h%40%2F@[::1]:5432/x", "host=/run/a,/run/b port=5432,5433", "service=x"]
)
def test_dsn_that_libpq_can_read_is_taken(dsn: str, settings_database: str) -> None:
    PostgresNotifier(dsn, database=settings_database)


class ToNotifiers:
    """A router that keeps the log in a database of its own."""

    def db_for_write(self, model: type, **hints: object) -> str | None:
        return "notifiers" if model is Message else None


async def test_postgres_goes_where_a_router_has_put_the_log(settings_database: str) -> None:
    far = PostgresNotifier(database=settings_database)
    with override_settings(DATABASE_ROUTERS=[f"{__name__}.ToNotifiers"]):
        notifier = PostgresNotifier()

        def within_an_atomic_request() -> None:
            with transaction.atomic():
                notifier.notify(notice(1))

        async with aclosing(await listening(far)) as notices:
            await asyncio.to_thread(in_thread, within_an_atomic_request)
            assert await hear(notices, until=1) == [notice(1)]


@pytest.mark.skipif(connections["default"].vendor == "postgresql", reason="it is what it should be")
def test_postgres_notifier_without_postgres_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="works on PostgreSQL; the database 'default' is sqlite"):
        PostgresNotifier()


async def test_outage_of_the_layer_does_not_hold_up_each_publisher(redis: RedisServer) -> None:
    config = {"BACKEND": REDIS_LAYERS["pubsub"], "CONFIG": {"hosts": [redis.url]}}
    with override_settings(CHANNEL_LAYERS={"default": config}), redis.hanging():
        notifier = ChannelLayerNotifier()
        began = time.monotonic()
        for number in range(50):
            with pytest.raises((TimeoutError, ConnectionError)):
                await tell(notifier, notice(number))
        assert time.monotonic() - began < 20, "one waited, and not 50"


@pytest.mark.parametrize(
    ("thread", "error", "told"),
    [
        ("streams-notifier", ConnectionRefusedError("no server"), False),
        ("streams-notifier", RedisConnectionError("no server"), False),
        ("streams-notifier", ValueError("what is this?"), True),
        ("MainThread", RedisConnectionError("of the site's own consumers"), True),
    ],
)
def test_of_what_a_layer_logs_only_our_own_lost_connection_is_left_out(
    thread: str, error: Exception, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def log() -> None:
        logging.getLogger("channels_redis.pubsub").error("Unexpected exception in receive task", exc_info=error)

    begun = threading.Thread(target=log, name=thread)
    begun.start()
    begun.join()
    assert bool(caplog.records) is told
