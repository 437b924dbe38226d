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
from django.db import connection
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from streams import presence
from streams.delivery.subscriber import Subscriber
from streams.models import Node
from streams.runtime import executor
from tests.support.clients import leave_all
from tests.support.sites import Site, finish

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
        counts = await executor.run(presence.audiences, wanted)
        assert counts == {"news": 2, "weather": 2, "none": 0}
        assert presence.count().connections == 3
        await subscribers[1].aclose()
        await subscribers[1].aclose()
        assert await executor.run(presence.audience, "news") == 1
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
    submit = executor.PERIODIC.submit
    executor.PERIODIC.submit = lambda *args: begun.append(submit(*args))  # type: ignore[method-assign, assignment, func-returns-value]

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
async def test_nothing_is_written_after_the_last_stream_of_a_test() -> None:
    """The row is written as on a site. But a write that nobody waits for could come after the tables were emptied."""
    subscriber = Subscriber(["news"])
    await subscriber.open()
    async with asyncio.timeout(30):
        while not await Node.objects.filter(connections=1).aexists():
            await asyncio.sleep(0.01)
    await subscriber.aclose()
    await executor.run(int, pool=executor.PERIODIC)  # its one thread has done what was submitted before
    assert (await Node.objects.aget()).connections == 1
