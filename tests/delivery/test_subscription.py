"""streams.subscribe(): the messages of channels on an event loop, without HTTP."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError, connection
from django.test import override_settings

import streams
from streams import NewMessage, apublish, apublish_many, log
from streams.delivery import subscription
from streams.delivery.hub import Hub
from streams.delivery.subscription import Subscription, subscribe
from streams.exceptions import EventsMissed, InvalidChannel
from streams.presence import counter
from streams.protocol.sse import StoredEvent
from streams.runtime import executor
from streams.signals import subscriber_connected
from tests.support.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)


async def take(events: Subscription, count: int) -> list[StoredEvent]:
    async with asyncio.timeout(30):
        return [await anext(events) for _ in range(count)]


async def data(events: Subscription, count: int) -> list[str]:
    return [event.data for event in await take(events, count)]


async def fill(*texts: str, channel: str = "news") -> None:
    await apublish_many([NewMessage(channel, text) for text in texts])


# --- Messages ---------------------------------------------------------------------------------------------------------


async def test_messages_come_with_all_their_fields() -> None:
    async with streams.subscribe("news", "weather") as events:
        await apublish("news", {"a": [1]}, event="alert")
        await apublish("other", "not for us")
        await apublish("weather", "\ufeff two\nlines \n")
        first, second = await take(events, 2)
    assert (first.position, first.id, first.channel, first.event) == (1, "1", "news", "alert")
    assert (first.data, first.json()) == ('{"a":[1]}', {"a": [1]})
    assert second == StoredEvent(3, "weather", "message", "\ufeff two\nlines \n")


async def test_messages_after_the_cursor_come_first() -> None:
    await fill("1", "2", "3")
    for after in (1, "1"):
        async with subscribe("news", after=after) as events:
            assert await data(events, 2) == ["2", "3"]
            assert events.position == 3
    async with subscribe("news", after=0) as events:
        assert await data(events, 3) == ["1", "2", "3"]
        await fill("4")
        assert await data(events, 1) == ["4"]


async def test_newest_messages_are_replayed() -> None:
    await fill("1", "2", "3")
    async with subscribe("news", replay=2) as events:
        assert events.position == 1
        await fill("4")
        assert await data(events, 3) == ["2", "3", "4"]


async def test_without_cursor_only_new_messages_come() -> None:
    await fill("old")
    events = subscribe("news")
    assert events.position is None
    task = asyncio.create_task(anext(events))  # type: ignore[arg-type]
    await wait_for(lambda: events.position == 1)
    await fill("new")
    assert (await task).data == "new"
    await events.aclose()


async def test_position_moves_on_a_quiet_channel() -> None:
    with override_settings(STREAMS={"HEARTBEAT_SECONDS": 0.05}):
        async with subscribe("news") as events:
            await fill("1", "2", channel="other")
            task = asyncio.create_task(anext(events))  # type: ignore[arg-type]
            await wait_for(lambda: events.position == 2)
            await fill("3")
            assert (await task).data == "3"


async def test_cancelled_wait_loses_nothing() -> None:
    found = []
    async with subscribe("news") as events:
        publishing = asyncio.create_task(publish_slowly(20))
        while len(found) < 20:
            try:
                found.append((await asyncio.wait_for(anext(events), 0.002)).data)  # type: ignore[arg-type]
            except TimeoutError:
                continue
        await publishing
    assert found == [str(number) for number in range(20)]


async def publish_slowly(count: int) -> None:
    for number in range(count):
        await apublish("news", str(number))
        await asyncio.sleep(0.002)


async def test_slow_consumer_reads_on_from_the_log() -> None:
    texts = [f"{number} {'x' * 1000}" for number in range(60)]
    with override_settings(STREAMS={"QUEUE_MESSAGES": 5, "WINDOW_MESSAGES": 1}):
        async with subscribe("news") as events:
            found = []
            for number in range(0, 60, 20):
                await fill(*texts[number : number + 20])
                await wait_for(lambda: Hub.running().position >= number + 20)  # type: ignore[union-attr]  # noqa: B023
                source = events._source
                assert source is not None
                assert len(source._queue) + len(source.frames) <= 5
                found += await data(events, 10)
            found += await data(events, 30)
    assert found == texts


# --- Gaps -------------------------------------------------------------------------------------------------------------


def prune(through: int) -> None:
    while log.delete_through(through, channel=None, limit=10):
        pass


async def test_gap_raises_and_the_iteration_goes_on() -> None:
    await fill("1", "2", "3", "4")
    await executor.run(prune, 2)
    async with subscribe("news", after=1) as events:
        assert events.position == 1, "the gap was not reported yet"
        with pytest.raises(EventsMissed) as caught:
            await anext(events)
        assert vars(caught.value) == {"reason": "pruned", "requested": "1", "earliest": 3, "head": 4}
        assert await data(events, 2) == ["3", "4"]


@pytest.mark.parametrize("is_async", [True, False])
async def test_gap_calls_on_reset(is_async: bool) -> None:
    gaps: list[EventsMissed] = []

    async def note(gap: EventsMissed) -> None:
        gaps.append(gap)

    on_reset: Any = note if is_async else gaps.append
    await fill("1", "2")
    async with subscribe("news", after=99, on_reset=on_reset) as events:
        assert await data(events, 2) == ["1", "2"], "all that are stored, because 99 is of another log"
    assert [(gap.reason, gap.requested) for gap in gaps] == [("unknown-id", "99")]


# --- Failures ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list with one number: how many of the next reads of the log fail."""
    monkeypatch.setattr(subscription, "RETRY_SECONDS", 0.01)
    run, left = executor.run, [0]

    async def fail_at_times(question: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if left[0] > 0 and question.__module__ in ("streams.delivery.reads", "streams.log.reading"):
            left[0] -= 1
            raise OperationalError("the database is away")
        return await run(question, *args, **options)

    monkeypatch.setattr(executor, "run", fail_at_times)
    return left


async def test_subscription_goes_on_after_an_outage(failures: list[int]) -> None:
    with override_settings(STREAMS={"QUEUE_MESSAGES": 3, "WINDOW_MESSAGES": 1, "POLL_SECONDS": 0.02}):
        await fill(*map(str, range(5)))
        failures[0] = 3
        found = []
        async with subscribe("news", after=0) as events:
            for number in range(5, 30, 5):
                await fill(*map(str, range(number, number + 5)))
                failures[0] = 2
                found += await data(events, 3)
            failures[0] = 2
            found += await data(events, 15)
        assert failures[0] == 0
    assert found == [str(number) for number in range(30)]


async def test_failed_reset_repeats_nothing(failures: list[int]) -> None:
    """The reset had moved the cursor to the start of the log before it failed."""
    async with subscribe("news", after=0) as events:
        await fill("1", "2")
        assert await data(events, 2) == ["1", "2"]
        hub, source = Hub.running(), events._source
        assert hub is not None
        assert source is not None
        failures[0] = 1
        source.log_replaced()
        hub._send_back_all()
        await fill("3")
        assert await data(events, 1) == ["3"]
        assert failures[0] == 0


@pytest.mark.parametrize("arguments", [{"after": "x"}, {"after": -1}, {"after": True}, {"replay": -1}, {"replay": "1"}])
def test_wrong_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"(after|replay) is .*; got"):
        subscribe("news", **arguments)


@pytest.mark.parametrize("channels", [(), ("news room",)])
def test_wrong_channels_are_refused(channels: tuple[str, ...]) -> None:
    with pytest.raises(InvalidChannel):
        subscribe(*channels)


async def test_two_tasks_cannot_iterate_at_a_time() -> None:
    async with subscribe("news") as events:
        task = asyncio.create_task(anext(events))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one task at a time"):
            await anext(events)
        await fill("1")
        assert (await task).data == "1"


# --- What it costs, and what does not see it --------------------------------------------------------------------------


def sessions() -> int:
    """Return the number of connections to the database, if it counts them."""
    if connection.vendor != "postgresql":
        return 0
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        return int(cursor.fetchone()[0])


async def test_idle_subscriptions_hold_no_threads_and_no_connections() -> None:
    async with subscribe("news"):
        before, sessions_before = threading.active_count(), await sync_to_async(sessions)()
        others = [subscribe(f"channel.{number}") for number in range(50)]
        for events in others:
            await events.__aenter__()
        tasks: list[Awaitable[Any]] = [asyncio.ensure_future(anext(events)) for events in others]  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        assert threading.active_count() <= before + 4, "those that read the log"
        assert await sync_to_async(sessions)() <= sessions_before + 4
        for events in others:
            await events.aclose()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_subscription_is_no_connection_of_a_client() -> None:
    seen: list[object] = []

    def note(**kwargs: object) -> None:
        seen.append(kwargs)

    subscriber_connected.connect(note)
    try:
        async with subscribe("news"):
            assert (counter.count().connections, dict(counter.count().channels)) == (0, {})
            assert counter.open_streams() == []
            assert await sync_to_async(streams.presence.audience)("news") == 0
            await asyncio.sleep(0.05)
        assert counter.count().connections == 0
        assert seen == []
    finally:
        subscriber_connected.disconnect(note)
