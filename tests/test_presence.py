"""Who listens: each process keeps one row, cheaply, and the rows of processes that have ended fade."""

from __future__ import annotations

import asyncio
import datetime
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import AsyncClient, override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from streams import announcer, presence, threads
from streams.models import Node
from streams.signals import subscriber_connected, subscriber_disconnected
from streams.subscriber import Subscriber
from tests.clients import StreamClient, leave_all
from tests.services import wait_until
from tests.sites import Site, finish

database = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
async def leave() -> AsyncIterator[None]:
    yield
    leave_all()


def other_process(id: str, seen_ago: float = 0, **fields: Any) -> Node:
    now = timezone.now()
    return Node.objects.create(
        id=id, host="elsewhere", pid=7, started_at=now, seen_at=now - datetime.timedelta(seconds=seen_ago), **fields
    )


# --- Counting ---------------------------------------------------------------------------------------------------------


@database
async def test_own_streams_are_counted_at_once() -> None:
    subscribers = [Subscriber(["news"]), Subscriber(["news", "weather"]), Subscriber(["weather"])]
    for subscriber in subscribers:
        await subscriber.open()
    try:
        wanted = ["news", "weather", "none"]
        counts = await threads.run(presence.audiences, wanted)
        assert counts == {"news": 2, "weather": 2, "none": 0}
        assert presence.count().connections == 3
        await subscribers[1].aclose()
        await subscribers[1].aclose()
        assert await threads.run(presence.audience, "news") == 1
    finally:
        for subscriber in subscribers:
            await subscriber.aclose()
    assert (presence.count().connections, dict(presence.count().channels)) == (0, {})


@database
async def test_streams_of_several_event_loops_are_counted_together() -> None:
    opened, leave = threading.Event(), threading.Event()

    async def elsewhere() -> None:
        subscriber = Subscriber(["news"])
        await subscriber.open()
        opened.set()
        await asyncio.to_thread(leave.wait)
        await subscriber.aclose()

    thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    here = Subscriber(["news"])
    await here.open()
    thread.start()
    try:
        assert await asyncio.to_thread(opened.wait, 30)
        assert presence.count().channels["news"] == 2
    finally:
        leave.set()
        await asyncio.to_thread(thread.join)
        await here.aclose()


@database
def test_streams_of_an_event_loop_that_has_ended_are_not_counted() -> None:
    async def leave_open() -> Subscriber:
        subscriber = Subscriber(["left.open"])
        await subscriber.open()
        assert presence.count().channels["left.open"] == 1
        return subscriber

    loop = asyncio.new_event_loop()
    left = loop.run_until_complete(leave_open())
    loop.close()
    assert left.channels == ("left.open",)
    assert "left.open" not in presence.count().channels


@database
def test_audience_is_the_sum_over_processes_that_are_alive() -> None:
    other_process("a", connections=5, channels={"news": 5})
    other_process("b", connections=3, channels={"news": 2, "weather": 1})
    other_process("dead", seen_ago=60, connections=100, channels={"news": 100})
    assert presence.audience("news") == 7
    assert presence.is_anybody_there()
    assert presence.audiences(["news", "weather", "none"]) == {"news": 7, "weather": 1, "none": 0}
    assert presence.channels() == {"news": 7, "weather": 1}
    assert [node.id for node in presence.nodes()] == ["a", "b"]
    assert presence.audiences([]) == {}


@database
@override_settings(STREAMS={"PRESENCE_SECONDS": 40})
def test_a_row_fades_after_three_beats() -> None:
    other_process("slow", seen_ago=100)
    other_process("dead", seen_ago=140)
    assert [node.id for node in presence.nodes()] == ["slow"]
    Node.objects.filter(id="slow").delete()
    assert not presence.is_anybody_there()


# --- The row ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def census() -> Iterator[presence.Census]:
    """A census of this process that no hub writes."""
    loop = asyncio.new_event_loop()
    made = presence.open_census(loop, set())
    yield made
    presence.close_census(made)
    loop.close()


def own_row() -> Node:
    return Node.objects.get(id=presence.node_id())


@database
def test_a_process_describes_itself(census: presence.Census) -> None:
    census.add(["news", "weather"])
    census.add(["news"])
    census.head, census.notifier_problem = 12, "ConnectionError: it has gone"
    presence.write()
    row = own_row()
    assert (row.connections, row.channels, row.channels_left_out) == (2, {"news": 2, "weather": 1}, 0)
    assert (row.notifier, row.notifier_problem) == (
        "streams.notifiers.local.LocalNotifier",
        "ConnectionError: it has gone",
    )
    assert row.samples[-1][1:] == [2, 12]
    census.remove(["news"])
    presence.write()
    assert Node.objects.count() == 1
    assert own_row().channels == {"news": 1, "weather": 1}
    assert own_row().started_at == row.started_at
    assert own_row().seen_at >= row.seen_at


@database
def test_process_whose_last_stream_has_ended_keeps_the_head_that_it_knew(census: presence.Census) -> None:
    """Else the chart would show the whole log as the messages of one moment when a stream comes back."""
    census.add(["news"])
    census.head = 1_000_000
    presence.write()
    presence.close_census(census)
    presence.write()
    assert [sample[2] for sample in own_row().samples[-2:]] == [1_000_000, 1_000_000]


@database
def test_a_row_lists_the_channels_that_have_most(census: presence.Census) -> None:
    for n in range(presence.MAX_CHANNELS + 100):
        census.add([f"user.{n}", "news"])
    for n in range(50):
        census.add([f"crowded.{n}"])
        census.add([f"crowded.{n}"])
    presence.write()
    row = own_row()
    assert len(row.channels) == presence.MAX_CHANNELS
    assert row.channels_left_out == 100 + 50 + 1
    assert row.channels["news"] == presence.MAX_CHANNELS + 100
    assert all(row.channels[f"crowded.{n}"] == 2 for n in range(50))


@database
def test_writing_costs_as_many_statements_for_many_clients_as_for_one(census: presence.Census) -> None:
    census.add(["news"])
    presence.write()  # the first one inserts

    def statements() -> list[str]:
        with CaptureQueriesContext(
            connection,
        ) as seen:
            presence.write()
        return [query["sql"].split()[0] for query in seen]

    with_one = statements()
    for n in range(5000):
        census.add(["news", f"user.{n}"])
    assert statements() == with_one == ["UPDATE"]


@database
def test_rows_of_processes_that_ended_long_ago_are_deleted(census: presence.Census) -> None:
    other_process("dead", seen_ago=2 * presence.FORGET_SECONDS)
    other_process("lately", seen_ago=60)
    presence._process.cleaned_at = float("-inf")
    presence.write()
    assert {node.id for node in Node.objects.all()} == {"lately", presence.node_id()}


@database
def test_a_row_lists_the_callers_that_have_most() -> None:
    before = sum(presence.places().counts().values())  # those of other tests, whose streams are still open
    taken = [presence.places().take(f"user {n}") for n in range(presence.MAX_CALLERS + 100) for _ in range(2)]
    taken += [presence.places().take("address a", "user x") for _ in range(3)]
    try:
        presence.write()
        callers = own_row().callers
        assert len(callers) == presence.MAX_CALLERS
        assert (callers["address a"], callers["user x"]) == (3, 3)
    finally:
        for place in taken:
            place.release()
    presence.write()
    assert sum(own_row().callers.values()) == before


@database
def test_others_are_what_the_rows_that_are_alive_say_and_not_the_own_one() -> None:
    other_process("a", connections=5, callers={"user 1": 3, "address x": 5})
    other_process("b", connections=2, callers={"user 1": 1})
    other_process("dead", seen_ago=60, connections=100, callers={"user 1": 100})
    other_process(presence.node_id(), connections=9, callers={"user 1": 9})
    with CaptureQueriesContext(connection) as seen:
        presence.read_others()
    assert len(seen) == 1
    assert (presence.others().connections, dict(presence.others().callers)) == (7, {"user 1": 4, "address x": 5})


@database
@override_settings(STREAMS={"PRESENCE_SECONDS": 0.1})
def test_others_that_were_read_too_long_ago_are_none() -> None:
    other_process("a", connections=5, callers={"user 1": 3})
    presence.read_others()
    assert presence.others().connections == 5
    time.sleep(0.31)
    assert (presence.others().connections, dict(presence.others().callers)) == (0, {})


@pytest.mark.once
def test_process_says_once_that_its_last_stream_has_ended(site: Site) -> None:
    assert finish(site.call(leave_twice)).split() == ["1", "1"]


@pytest.mark.once
def test_process_that_cannot_say_that_its_last_stream_has_ended_logs_it(site: Site) -> None:
    site.execute("ALTER TABLE streams_node RENAME TO away")
    _, errors = site.call(leave_twice).communicate(timeout=60)
    assert errors.count("That nobody listens here any more could not be written; the row will fade.") == 1


def leave_twice() -> None:
    """Close a census twice, and print how many beats were begun and how many written."""
    begun: list[Future[Any]] = []
    submit = threads.CHORES.submit
    threads.CHORES.submit = lambda *args: begun.append(submit(*args))  # type: ignore[method-assign, assignment, func-returns-value]

    async def leave() -> None:
        census = presence.open_census(asyncio.get_running_loop(), set())
        presence.close_census(census)
        presence.close_census(census)

    asyncio.run(leave())
    print(len(begun))
    for beat in begun:
        beat.result()
    print(len(Node.objects.get().samples))


@database
async def test_users_tests_find_no_rows_that_they_did_not_make() -> None:
    subscriber = Subscriber(["news"])
    await subscriber.open()
    await presence.beat()
    await subscriber.aclose()
    assert not await Node.objects.aexists()


# --- Over processes ---------------------------------------------------------------------------------------------------


def print_audience() -> None:
    print(presence.audience("news"), len(presence.nodes()))


@pytest.mark.once
async def test_audience_over_processes_and_a_process_that_dies(site: Site) -> None:
    site.settings(PRESENCE_SECONDS=0.3)
    one, two = site.serve(), site.serve()
    for server, n in ((one, 2), (two, 3)):
        for _ in range(n):
            await (await StreamClient(server.port, "/events/news/").connect()).read_control(1)

    def seen() -> str:
        return finish(site.call(print_audience)).strip()

    await asyncio.to_thread(wait_until, lambda: seen() == "5 2", "both processes' rows")
    hosts = site.execute("SELECT DISTINCT pid FROM streams_node ORDER BY pid")
    assert [pid for (pid,) in hosts] == sorted([one.pid, two.pid])
    two.stop()
    await asyncio.to_thread(wait_until, lambda: seen() == "2 1", "the fading of the dead process")
    leave_all()  # the last stream of a process: its row says so at once, and fades then
    await asyncio.to_thread(wait_until, lambda: seen().startswith("0 "), "nobody listening")


@pytest.mark.once
async def test_presence_that_is_switched_off_writes_nothing(sqlite_site: Site) -> None:
    server = sqlite_site.settings(PRESENCE_SECONDS=None).serve()
    client = await StreamClient(server.port, "/events/news/").connect()
    await client.read_control(1)
    await client.close()
    await asyncio.sleep(1)
    assert sqlite_site.execute("SELECT count(*) FROM streams_node") == [(0,)]


@pytest.mark.once
async def test_a_beat_costs_the_same_for_many_clients(sqlite_site: Site) -> None:
    """One statement to write, and one to read the others' streams, for MAX_STREAMS_PER_USER is set by default."""
    server = sqlite_site.settings(PRESENCE_SECONDS=0.5, POLL_SECONDS=600).serve()

    async def statements_a_beat() -> set[str]:
        await asyncio.to_thread(server.json, "/test/queries/")  # it counts from here on
        await asyncio.sleep(3)
        found = (await asyncio.to_thread(server.json, "/test/queries/"))["queries"]
        return {sql.split('"streams_node"')[0] for sql in found if "streams_node" in sql}

    await asyncio.to_thread(server.json, "/test/queries/")  # before there are connections that it would not see
    await (await StreamClient(server.port, "/events/news/").connect()).read_control(1)
    row = "SELECT connections, seen_at FROM streams_node"
    await asyncio.to_thread(wait_until, lambda: sqlite_site.execute(row), "the row of this process")
    first = sqlite_site.execute(row)  # with it go the rows of processes that ended long ago
    await asyncio.to_thread(wait_until, lambda: sqlite_site.execute(row) != first, "a second beat")
    with_one = await statements_a_beat()
    for _ in range(200):
        await (await StreamClient(server.port, "/events/news/").connect()).read_control(1)
    await asyncio.to_thread(
        wait_until,
        lambda: sqlite_site.execute(row)[0][0] == 201,
        "the row of all clients",
    )
    assert await statements_a_beat() == with_one == {"UPDATE ", "SELECT "}


# --- Signals ----------------------------------------------------------------------------------------------------------


class Heard:
    """What the receivers were told, and on which thread."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[str, ...], int]] = []
        self.threads: set[threading.Thread] = set()
        self.users: list[str] = []

    def connected(self, sender: type, channels: tuple[str, ...], connections: int, request: Any, **_: Any) -> None:
        self.threads.add(threading.current_thread())
        self.calls.append(("connected", channels, connections))
        if request is not None:
            self.users.append(request.user.username)  # queries

    def disconnected(self, sender: type, channels: tuple[str, ...], connections: int, **_: Any) -> None:
        User.objects.create(username=f"left {len(self.calls)}")  # the ORM may be used
        self.calls.append(("disconnected", channels, connections))

    async def until(self, n: int) -> list[tuple[str, tuple[str, ...], int]]:
        async with asyncio.timeout(30):
            while len(self.calls) < n:
                await asyncio.sleep(0.01)
        return self.calls


@pytest.fixture
def heard() -> Iterator[Heard]:
    ear = Heard()
    subscriber_connected.connect(ear.connected)
    subscriber_disconnected.connect(ear.disconnected)
    yield ear
    subscriber_connected.disconnect(ear.connected)
    subscriber_disconnected.disconnect(ear.disconnected)


@database
async def test_signals_tell_of_each_stream_in_order_and_away_from_the_event_loop(heard: Heard) -> None:
    first, second = Subscriber(["news"]), Subscriber(["a", "b"])
    await first.open()
    await second.open()
    await first.aclose()
    await first.aclose()
    await second.aclose()
    assert await heard.until(4) == [
        ("connected", ("news",), 1),
        ("connected", ("a", "b"), 2),
        ("disconnected", ("news",), 1),
        ("disconnected", ("a", "b"), 0),
    ]
    assert threading.current_thread() not in heard.threads
    assert await User.objects.filter(username__startswith="left").acount() == 2


@database
@override_settings(STREAMS={"PUBLIC_CHANNELS": ["news"]})
async def test_signals_bring_the_request(heard: Heard, async_client: AsyncClient) -> None:
    user = await User.objects.acreate(username="ada")
    await async_client.aforce_login(user)
    response: Any = await async_client.get("/events/news/")
    await anext(aiter(response))
    await response.aclose()
    await heard.until(2)
    assert heard.users == ["ada"]


@database
async def test_receiver_that_fails_keeps_nothing_from_anybody(heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
    def fails(**kwargs: Any) -> None:
        raise ValueError("not today")

    subscriber_connected.connect(fails)
    try:
        subscriber = Subscriber(["news"])
        await subscriber.open()
        await subscriber.aclose()
        assert [call[0] for call in await heard.until(2)] == ["connected", "disconnected"]
    finally:
        subscriber_connected.disconnect(fails)
    assert "not today" in caplog.text


@database
async def test_signals_go_on_after_one_that_could_not_be_sent(
    heard: Heard, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = threads.run
    failing = [True, True]

    async def run(fn: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(fn, "func", None) == subscriber_connected.send_robust and failing and failing.pop():
            raise RuntimeError("can't start new thread")  # as a machine says that has none left
        return await real(fn, *args, **kwargs)

    monkeypatch.setattr(threads, "run", run)
    subscribers = [Subscriber(["news"]) for _ in range(4)]
    for subscriber in subscribers:
        await subscriber.open()
    assert [call[0] for call in await heard.until(2)] == ["connected"] * 2
    for subscriber in subscribers:
        await subscriber.aclose()
    await heard.until(6)
    assert "A signal could not be sent." in caplog.text


@database
async def test_signals_that_wait_for_slow_receivers_have_an_end(
    heard: Heard, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.announcer.MAX_WAITING_SIGNALS", 5)
    subscriber = Subscriber(["news"])
    for _ in range(20):  # faster than any receiver: none of them is called meanwhile
        announcer.announce(subscriber_connected, subscriber)
    assert caplog.text.count("are too slow: 5 signals wait, and more are dropped.") == 1
    await heard.until(5)
    announcer.announce(subscriber_disconnected, subscriber)
    calls = [call[0] for call in await heard.until(6)]
    assert calls == ["connected"] * 5 + ["disconnected"]


@database
async def test_async_receivers_are_called_too() -> None:
    told: list[Any] = []

    async def receive(channels: tuple[str, ...], **kwargs: Any) -> None:
        await asyncio.sleep(0)
        told.append(channels)

    subscriber_connected.connect(receive)
    try:
        subscriber = Subscriber(["news"])
        await subscriber.open()
        async with asyncio.timeout(30):
            while not told:
                await asyncio.sleep(0.01)
        await subscriber.aclose()
    finally:
        subscriber_connected.disconnect(receive)
    assert told == [("news",)]
