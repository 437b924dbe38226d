"""Other programs on a notifier's bus can read public messages, but only the positions of all other messages."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis as redis_client
from django.db import OperationalError
from django.test import override_settings

from streams.channels import rules
from streams.exceptions import InvalidSetting
from streams.models import ChannelSettings
from streams.notifiers.channel_layer import ChannelLayerNotifier
from streams.notifiers.listener_thread import ProcessNotifier
from streams.policies import DefaultPolicy, are_known_to_be_open
from tests.support import clients
from tests.support.clients import StreamClient
from tests.support.notices import notice
from tests.support.services.postgres import PostgresServer
from tests.support.services.redis import RedisServer
from tests.support.sites import Server, Site, copy_sqlite, finish
from tests.system.servers.holdings import publish

NOTIFIERS = {
    "postgres": "streams.notifiers.postgres.PostgresNotifier",
    "redis": "streams.notifiers.channel_layer.ChannelLayerNotifier",
}

# --- On a real bus ----------------------------------------------------------------------------------------------------

Overhear = Callable[[], str]


def listen_to_postgres(server: PostgresServer, database: str) -> Iterator[Overhear]:
    """Listen as a role that has no right except to connect."""
    if not server.execute("SELECT 1 FROM pg_roles WHERE rolname = 'plain'"):
        server.execute("CREATE ROLE plain LOGIN")
    with psycopg.connect(server.dsn(database).replace("streams@", "plain@"), autocommit=True) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT data FROM streams_message")
        connection.execute("LISTEN streams")
        yield lambda: "\n".join(notification.payload for notification in connection.notifies(timeout=1))


def listen_to_redis(server: RedisServer) -> Iterator[Overhear]:
    with closing(redis_client.Redis.from_url(server.url).pubsub()) as pubsub:
        pubsub.psubscribe("*")

        def overhear() -> str:
            received = []
            while (message := pubsub.get_message(timeout=1)) is not None:
                received.append(str(message["data"]))
            return "\n".join(received)

        yield overhear


@pytest.fixture(params=NOTIFIERS)
def bus(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Site, Overhear]]:
    """A site whose processes poll every ten minutes, and a function that returns the recent traffic on its bus."""
    server: PostgresServer | RedisServer = request.getfixturevalue(request.param)
    if isinstance(server, PostgresServer):
        database = server.create_database(template=request.getfixturevalue("migrated_postgres"))
        site = Site(server.dsn(database), tmp_path, server)
        listening = listen_to_postgres(server, database)
    else:
        copy_sqlite(request.getfixturevalue("migrated_sqlite"), tmp_path / "db.sqlite3")
        site = Site(f"sqlite:///{tmp_path / 'db.sqlite3'}", tmp_path)
        site.env["REDIS_URL"] = server.url
        listening = listen_to_redis(server)
    set_notifier(site)
    for overhear in listening:
        yield site, overhear
    site.close()


def set_notifier(site: Site, **options: Any) -> None:
    backend = NOTIFIERS["postgres" if site.is_postgres else "redis"]
    site.settings(NOTIFIER={"BACKEND": backend, "OPTIONS": options}, POLL_SECONDS=600, HEARTBEAT_SECONDS=0.5)


@pytest.fixture(autouse=True)
async def leave() -> AsyncIterator[None]:
    yield
    clients.leave_all()


def restrict() -> None:
    """Let only staff read a channel of PUBLIC_CHANNELS. Print a token for it and for a private channel."""
    from streams.tokens import make_token

    ChannelSettings.objects.create(channel="public.restricted", access="staff")
    print(make_token(read=["private", "public.restricted"]))


async def opened(server: Server, channel: str, token: str = "") -> StreamClient:
    query = f"?token={token}" if token else ""
    client = await StreamClient(server.port, f"/events/{channel}/{query}").connect()
    assert client.status == 200
    await client.read_control(1)
    return client


async def notices_arrive(client: StreamClient, publisher: Server, channel: str) -> None:
    """Publish until a notice reaches the client's process. The first stream does not wait for its notifier."""
    while not client.events:
        await publish(publisher, channel)
        await client.read_for(0.3)
    await client.read_for(0.5)
    client.events.clear()


async def carried(client: StreamClient, publisher: Server, channel: str, overhear: Overhear) -> str:
    """Publish while the publishing process knows the channels' settings, and return the traffic on the bus."""
    second = await opened(publisher, "public.open")
    overhear()
    position = await publish(publisher, channel, bytes=40)
    assert (await client.read_until(1))[0].id == str(position)
    text = await asyncio.to_thread(overhear)
    assert str(position) in text, "the bus carried no notice"
    second.abort()
    return text


@pytest.mark.once
async def test_private_messages_are_not_heard_on_the_bus(bus: tuple[Site, Overhear]) -> None:
    """They still reach the clients of another process."""
    site, overhear = bus
    token = finish(site.call(restrict)).strip()
    one, other = site.serve(), site.serve()
    for channel, is_carried in (("public.open", True), ("private", False), ("public.restricted", False)):
        client = await opened(one, channel, token if channel != "public.open" else "")
        await notices_arrive(client, other, channel)
        async with asyncio.timeout(60):
            # A process forgets the channels' settings when its listener starts, and reads them for the next stream.
            while (text := await carried(client, other, channel, overhear)) and is_carried and channel not in text:
                client.events.clear()
        assert (channel in text, "x" * 40 in text) == (is_carried, is_carried), text
        client.abort()


@pytest.mark.once
@pytest.mark.parametrize("carries", [True, False])
async def test_option_decides_what_is_carried(bus: tuple[Site, Overhear], carries: bool) -> None:
    site, overhear = bus
    set_notifier(site, carry_messages=carries)
    server = site.serve()
    client = await opened(server, "public.open")
    for channel in ("public.open", "private"):
        overhear()
        position = await publish(server, channel, bytes=40)
        text = await asyncio.to_thread(overhear)
        assert str(position) in text
        assert (channel in text) is carries, text
    client.abort()


@pytest.mark.once
async def test_replayed_notices_change_nothing(bus: tuple[Site, Overhear]) -> None:
    """A program that can write to the bus repeats all notices: those with messages, and the end of a user's streams."""
    site, _ = bus
    set_notifier(site, carry_messages=True)
    server, other = site.serve(), site.serve()
    session = server.log_in("reader")
    pk = site.execute("SELECT id FROM auth_user WHERE username = 'reader'")[0][0]
    client = await opened(server, "public.open")
    await notices_arrive(client, other, "public.open")
    recorded = Recorder(site)
    positions = [await publish(server, "public.open") for _ in range(3)]
    user = await StreamClient(server.port, f"/events/user.{pk}/", headers={"Cookie": session}).connect()
    await user.read_control(1)
    await asyncio.to_thread(site.manage, "shell", "-v0", "-c", f"from streams import disconnect; disconnect(user={pk})")
    await asyncio.wait_for(until_end(user), 30)
    again = await StreamClient(server.port, f"/events/user.{pk}/", headers={"Cookie": session}).connect()
    await again.read_control(1)
    assert await asyncio.to_thread(recorded.repeat, 2) >= 4
    positions.append(await publish(server, "public.open"))
    await client.read_until(len(positions))
    await client.read_for(0.5)
    assert [int(event.id) for event in client.events] == positions
    with pytest.raises(TimeoutError):  # the copy of the control notice does not end this stream
        await asyncio.wait_for(until_end(again), 2)


async def until_end(client: StreamClient) -> None:
    while await client.read():
        pass


class Recorder:
    """Records the notices on the bus, and sends them again."""

    def __init__(self, site: Site) -> None:
        if site.postgres is not None:
            self._dsn = site.database_url
            self._connection = psycopg.connect(self._dsn, autocommit=True)
            self._connection.execute("LISTEN streams")
        else:
            self._redis = redis_client.Redis.from_url(site.env["REDIS_URL"])
            self._pubsub = self._redis.pubsub()
            self._pubsub.psubscribe("*streams*")
        self._is_postgres = site.is_postgres

    def repeat(self, times: int) -> int:
        """Send the recorded notices again, and return their number."""
        if self._is_postgres:
            payloads = [notification.payload for notification in self._connection.notifies(timeout=1)]
            for payload in payloads * times:
                self._connection.execute("SELECT pg_notify('streams', %s)", [payload])
            self._connection.close()
            return len(payloads)
        messages = []
        while (message := self._pubsub.get_message(timeout=1)) is not None:
            if message["type"] == "pmessage" and b"streams.notice" in message["data"]:
                messages.append(message)
        for message in messages * times:
            self._redis.publish(message["channel"], message["data"])
        self._pubsub.close()
        return len(messages)


# --- Channels that are known to be open -------------------------------------------------------------------------------


class OwnPolicy(DefaultPolicy):
    """A site's own policy. Its decisions do not matter here."""


@pytest.fixture
def rules_are_known(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_rules", {"public.staff": rules.Rule("staff"), "opened": rules.Rule("public")})
    monkeypatch.setattr(rules, "_confirmed_at", time.monotonic())


@pytest.mark.usefixtures("rules_are_known")
@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["public.a"], True),
        (["public.a", "news", "opened"], True),
        (["private"], False),
        (["public.a", "private"], False),
        (["public.staff"], False),
    ],
)
def test_open_channels_are_known_without_a_query(
    names: list[str], expected: bool, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(0):
        assert are_known_to_be_open(names) is expected


@pytest.mark.usefixtures("rules_are_known")
def test_no_channel_is_known_to_be_open_under_an_own_policy() -> None:
    with override_settings(STREAMS={"PUBLIC_CHANNELS": ["*"], "POLICY": f"{__name__}.OwnPolicy"}):
        assert not are_known_to_be_open(["public.a"])


@pytest.mark.usefixtures("rules_are_known")
def test_no_channel_is_known_to_be_open_by_old_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_confirmed_at", time.monotonic() - rules.KNOWN_SECONDS)
    assert not are_known_to_be_open(["public.a"])
    monkeypatch.setattr(rules, "_confirmed_at", time.monotonic())
    rules.forget_rules()  # as when staff change a channel's settings in this process
    assert not are_known_to_be_open(["public.a"])


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("rules_are_known")
def test_no_channel_is_known_to_be_open_after_failed_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last known rules still apply to readers, but they could be older than the latest change."""

    def fail() -> Any:
        raise OperationalError("The database does not answer.")

    rules.forget_rules()
    monkeypatch.setattr(rules, "_read", fail)
    assert rules.access_rules()
    assert not are_known_to_be_open(["public.a"])


class Silent(ProcessNotifier):
    """Sends nothing."""

    def send(self, notice: Any) -> None:
        raise NotImplementedError

    async def receive(self, thread: Any) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(("option", "public", "private"), [(None, 1, 0), (True, 1, 1), (False, 0, 0)])
def test_option_decides_what_is_encoded(option: bool | None, public: int, private: int) -> None:
    notifier = Silent(option)
    sent = notifier._decoder.decode(notifier.encode(notice(7), 1000))
    assert sent is not None
    assert len(sent.messages) == public
    sent = notifier._decoder.decode(notifier.encode(replace(notice(7), is_public=False), 1000))
    assert sent is not None
    assert (sent.first, sent.last, len(sent.messages)) == (7, 7, private)


def test_wrong_option_is_refused() -> None:
    with (
        override_settings(CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}),
        pytest.raises(InvalidSetting, match=re.escape("option 'carry_messages' must be True, False or None; got 'no'")),
    ):
        ChannelLayerNotifier(carry_messages="no")  # type: ignore[arg-type]
