"""Each process counts its connections and reports them in one row, which expires after the process has ended."""

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
from streams.presence import counter, node_row, totals
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
        assert counter.count().connections == 3
        await subscribers[1].aclose()
        await subscribers[1].aclose()
        assert await executor.run(presence.audience, "news") == 1
    finally:
        for subscriber in subscribers:
            await subscriber.aclose()
    assert (counter.count().connections, dict(counter.count().channels)) == (0, {})


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
        assert counter.count().channels["news"] == 2
    finally:
        leave.set()
        await asyncio.to_thread(thread.join)
        await here.aclose()


@database
def test_streams_of_an_event_loop_that_has_ended_are_not_counted() -> None:
    async def leave_open() -> Subscriber:
        subscriber = Subscriber(["left.open"])
        await subscriber.open()
        assert counter.count().channels["left.open"] == 1
        return subscriber

    loop = asyncio.new_event_loop()
    left = loop.run_until_complete(leave_open())
    loop.close()
    assert left.channels == ("left.open",)
    assert "left.open" not in counter.count().channels


@database
def test_audience_is_the_sum_over_processes_that_are_alive() -> None:
    other_process("a", connections=5, channels={"news": 5})
    other_process("b", connections=3, channels={"news": 2, "weather": 1})
    other_process("dead", seen_ago=60, connections=100, channels={"news": 100})
    assert presence.audience("news") == 7
    assert totals.has_connections()
    assert presence.audiences(["news", "weather", "none"]) == {"news": 7, "weather": 1, "none": 0}
    assert totals.audience_by_channel() == {"news": 7, "weather": 1}
    assert [node.id for node in presence.nodes()] == ["a", "b"]
    assert presence.audiences([]) == {}


@database
@override_settings(STREAMS={"PRESENCE_SECONDS": 40})
def test_a_row_fades_after_three_beats() -> None:
    other_process("slow", seen_ago=100)
    other_process("dead", seen_ago=140)
    assert [node.id for node in presence.nodes()] == ["slow"]
    Node.objects.filter(id="slow").delete()
    assert not totals.has_connections()


# --- Rows -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def connection_counter() -> Iterator[counter.ConnectionCounter]:
    """Return a connection counter of this process that no hub writes to."""
    loop = asyncio.new_event_loop()
    made = counter.open_counter(loop, set())
    yield made
    node_row.close_counter(made)
    loop.close()


def own_row() -> Node:
    return Node.objects.get(id=counter.process.node_id)


@database
def test_a_process_describes_itself(connection_counter: counter.ConnectionCounter) -> None:
    connection_counter.add(["news", "weather"])
    connection_counter.add(["news"])
    connection_counter.head, connection_counter.notifier_problem = 12, "ConnectionError: it has gone"
    node_row.write()
    row = own_row()
    assert (row.connections, row.channels, row.channels_left_out) == (2, {"news": 2, "weather": 1}, 0)
    assert (row.notifier, row.notifier_problem) == (
        "streams.notifiers.local.LocalNotifier",
        "ConnectionError: it has gone",
    )
    assert row.samples[-1][1:] == [2, 12]
    connection_counter.remove(["news"])
    node_row.write()
    assert Node.objects.count() == 1
    assert own_row().channels == {"news": 1, "weather": 1}
    assert own_row().started_at == row.started_at
    assert own_row().seen_at >= row.seen_at


@database
def test_process_whose_last_stream_has_ended_keeps_the_head_that_it_knew(
    connection_counter: counter.ConnectionCounter,
) -> None:
    """Without it, the chart would count the whole log as new messages when the next stream is opened."""
    connection_counter.add(["news"])
    connection_counter.head = 1_000_000
    node_row.write()
    node_row.close_counter(connection_counter)
    node_row.write()
    assert [sample[2] for sample in own_row().samples[-2:]] == [1_000_000, 1_000_000]


@database
def test_a_row_lists_the_channels_that_have_most(connection_counter: counter.ConnectionCounter) -> None:
    for n in range(node_row.MAX_CHANNELS + 100):
        connection_counter.add([f"user.{n}", "news"])
    for n in range(50):
        connection_counter.add([f"crowded.{n}"])
        connection_counter.add([f"crowded.{n}"])
    node_row.write()
    row = own_row()
    assert len(row.channels) == node_row.MAX_CHANNELS
    assert row.channels_left_out == 100 + 50 + 1
    assert row.channels["news"] == node_row.MAX_CHANNELS + 100
    assert all(row.channels[f"crowded.{n}"] == 2 for n in range(50))


@database
def test_writing_costs_as_many_statements_for_many_clients_as_for_one(
    connection_counter: counter.ConnectionCounter,
) -> None:
    connection_counter.add(["news"])
    node_row.write()  # the first write inserts the row

    def statements() -> list[str]:
        with CaptureQueriesContext(
            connection,
        ) as seen:
            node_row.write()
        return [query["sql"].split()[0] for query in seen]

    with_one = statements()
    for n in range(5000):
        connection_counter.add(["news", f"user.{n}"])
    assert statements() == with_one == ["UPDATE"]


@database
def test_rows_of_processes_that_ended_long_ago_are_deleted(connection_counter: counter.ConnectionCounter) -> None:
    other_process("dead", seen_ago=2 * node_row.DELETE_SECONDS)
    other_process("lately", seen_ago=60)
    counter.process.cleaned_at = float("-inf")
    node_row.write()
    assert {node.id for node in Node.objects.all()} == {"lately", counter.process.node_id}


@database
def test_a_row_lists_the_callers_that_have_most() -> None:
    before = sum(counter.slots().counts().values())  # slots of other tests, whose streams are still open
    taken = [counter.slots().take(f"user {n}") for n in range(node_row.MAX_CALLERS + 100) for _ in range(2)]
    taken += [counter.slots().take("address a", "user x") for _ in range(3)]
    try:
        node_row.write()
        callers = own_row().callers
        assert len(callers) == node_row.MAX_CALLERS
        assert (callers["address a"], callers["user x"]) == (3, 3)
    finally:
        for slot in taken:
            slot.release()
    node_row.write()
    assert sum(own_row().callers.values()) == before


@database
def test_others_are_what_the_rows_that_are_alive_say_and_not_the_own_one() -> None:
    other_process("a", connections=5, callers={"user 1": 3, "address x": 5})
    other_process("b", connections=2, callers={"user 1": 1})
    other_process("dead", seen_ago=60, connections=100, callers={"user 1": 100})
    other_process(counter.process.node_id, connections=9, callers={"user 1": 9})
    with CaptureQueriesContext(connection) as seen:
        node_row.read_others()
    assert len(seen) == 1
    assert (node_row.others().connections, dict(node_row.others().callers)) == (7, {"user 1": 4, "address x": 5})


@database
@override_settings(STREAMS={"PRESENCE_SECONDS": 0.1})
def test_others_that_were_read_too_long_ago_are_none() -> None:
    other_process("a", connections=5, callers={"user 1": 3})
    node_row.read_others()
    assert node_row.others().connections == 5
    time.sleep(0.31)
    assert (node_row.others().connections, dict(node_row.others().callers)) == (0, {})


@pytest.mark.once
def test_row_is_cleared_after_the_last_stream(site: Site) -> None:
    assert finish(site.call(leave_twice)).split() == ["1", "1"]


@pytest.mark.once
def test_row_that_cannot_be_cleared_is_logged(site: Site) -> None:
    site.execute("ALTER TABLE streams_node RENAME TO away")
    _, errors = site.call(leave_twice).communicate(timeout=60)
    assert errors.count("Could not clear this process's presence row; it will expire.") == 1


def leave_twice() -> None:
    """Close a connection counter twice, and print the number of submitted writes and the number of stored samples."""
    submitted: list[Future[Any]] = []
    submit = executor.PERIODIC.submit
    executor.PERIODIC.submit = lambda *args: submitted.append(submit(*args))  # type: ignore[method-assign, assignment, func-returns-value]

    async def leave() -> None:
        connection_counter = counter.open_counter(asyncio.get_running_loop(), set())
        node_row.close_counter(connection_counter)
        node_row.close_counter(connection_counter)

    asyncio.run(leave())
    print(len(submitted))
    for future in submitted:
        future.result()
    print(len(Node.objects.get().samples))


@database
async def test_nothing_is_written_after_the_last_stream_of_a_test() -> None:
    """A test does not write the row after its last stream: the write could run after the tables were emptied."""
    subscriber = Subscriber(["news"])
    await subscriber.open()
    async with asyncio.timeout(30):
        while not await Node.objects.filter(connections=1).aexists():
            await asyncio.sleep(0.01)
    await subscriber.aclose()
    await executor.run(int, pool=executor.PERIODIC)  # the pool's only thread has finished all earlier writes
    assert (await Node.objects.aget()).connections == 1
