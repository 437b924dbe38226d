"""The hub reads the log and applies notices. Tests of the streams themselves are in tests/views and test_join.py."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest
import pytest_asyncio
from django.db import OperationalError
from django.test import override_settings

from streams import NewMessage, log
from streams.delivery.hub import Hub
from streams.delivery.subscriber import Subscriber, open_streams
from streams.delivery.window import Window
from streams.notifiers import BaseNotifier, Notice
from streams.presence import counter
from streams.protocol import sse
from streams.protocol.events import check
from streams.protocol.sse import EventStreamDecoder, StoredEvent
from streams.runtime import executor

pytestmark = pytest.mark.django_db(transaction=True)


def append_silently() -> None:
    """Publish like another process: this process sends no notice."""
    with log.own_transaction():
        log.append([check(NewMessage("news", "elsewhere"))])
        log.sequence()


@pytest_asyncio.fixture
async def hub() -> AsyncIterator[Hub]:
    """A hub with one subscriber. It reads the log only when a test calls `catch_up()`."""
    with override_settings(STREAMS={"POLL_SECONDS": 600}):
        subscriber = Subscriber(["news"])
        await subscriber.open()
        running = Hub.running()
        assert running is not None
        yield running
        await subscriber.aclose()


async def test_look_that_failed_is_not_shared(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    await executor.run(append_silently)
    looks: list[Any] = ["stale", "fails"]
    real = log.follow

    def follow(position: int, mark: int) -> log.News:
        match looks.pop(0) if looks else "real":
            case "stale":
                return log.News(log.Head(position, 0, False, times=(None, None)), None, [])
            case "fails":
                raise OperationalError("the connection was closed")
        return real(position, mark)

    monkeypatch.setattr(log, "follow", follow)
    asked = [asyncio.create_task(hub.catch_up()) for _ in range(3)]
    first, second, third = await asyncio.gather(*asked, return_exceptions=True)
    assert (first, third) == (None, None)
    assert isinstance(second, OperationalError)
    assert hub.position == 1


async def test_look_that_begins_after_one_has_asked_is_shared(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    real = log.follow

    def follow(position: int, mark: int) -> log.News:
        nonlocal looks
        looks += 1
        return real(position, mark)

    monkeypatch.setattr(log, "follow", follow)
    await asyncio.gather(*(hub.catch_up() for _ in range(100)))
    assert looks == 2  # one for the first call, and one that all later calls share


async def test_epoch_resets_only_streams_above_its_fork(hub: Hub) -> None:
    quiet, busy = Subscriber(["quiet"]), Subscriber(["news"])
    for subscriber in (quiet, busy):
        assert b"stream-checkpoint" in await anext(subscriber)  # both streams start at 0
    for _ in range(3):
        await executor.run(append_silently)
    await hub.catch_up()
    waiting = asyncio.ensure_future(anext(quiet))
    assert b"id: 3\n" in await anext(busy)
    start = await executor.run(partial(log.start_new_epoch, "restored", fork=2))
    await executor.run(append_silently)
    await hub.catch_up()
    assert (hub.position, hub.window.start) == (start + 1, start)
    seen = b""
    while f"id: {start + 1}\n".encode() not in seen:
        seen += await anext(busy)
    assert seen.startswith(b"event: stream-reset\n")
    assert json.loads(seen.split(b"data: ")[1].split(b"\n")[0])["requested"] == "3"
    assert [f"id: {n}\n".encode() in seen for n in (1, 2, 3)] == [True, True, True], "the log still contains all three"
    assert await waiting == sse.HEARTBEAT, "the quiet stream has missed nothing"
    for subscriber in (quiet, busy):
        await subscriber.aclose()


async def test_notice_of_another_history_is_not_applied(hub: Hub) -> None:
    """The first notice of a replaced log contradicts the window, and the second one would continue it."""
    await executor.run(append_silently)
    await hub.catch_up()
    frames = list(hub.window.after(0) or ())
    other = [StoredEvent(n, "news", "message", "of another history") for n in (1, 2)]
    for message in other:
        await hub._on_notice(Notice(message.position, message.position, (message,)))
    assert list(hub.window.after(0) or ()) == frames
    await hub.catch_up()  # this read of the log confirms the window
    await hub._on_notice(Notice(2, 2, (StoredEvent(2, "news", "message", "next"),)))
    assert hub.position == 2


async def test_stream_of_a_loop_that_has_ended_is_not_counted() -> None:
    async def leave_open() -> Subscriber:
        return Subscriber(["news"])

    before = open_streams()
    left = await asyncio.to_thread(asyncio.run, leave_open())
    here = Subscriber(["news"])
    assert open_streams() == before + 1
    await here.aclose()
    assert open_streams() == before
    assert left.cursor == 0  # keeps a reference to the stream until here


# --- Many messages at once --------------------------------------------------------------------------------------------


class Sent(BaseNotifier):
    """A notifier that delivers the notices in its queue, which a test fills."""

    notices: asyncio.Queue[Notice]

    def notify(self, notice: Notice) -> None:
        """Do nothing."""

    async def listen(self) -> AsyncGenerator[Notice | None, None]:
        type(self).notices = asyncio.Queue()
        yield None
        while True:
            yield await self.notices.get()


MANY = 3000


def batch(first: int, last: int, data: str = "x") -> Notice:
    return Notice(first, last, tuple(StoredEvent(n, "news", "message", data) for n in range(first, last + 1)))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use the notifier `Sent`, and let the hub yield to the event loop after each message."""
    monkeypatch.setattr("streams.delivery.follower.SLICE_SECONDS", 0.0)

    async def not_again(hub: Hub) -> None: ...

    # In tests, the hub reads its position from the log again when a stream opens. These messages are not in the log.
    monkeypatch.setattr(Hub, "_begin_again", not_again)
    streams = {"NOTIFIER": {"BACKEND": f"{__name__}.Sent"}, "POLL_SECONDS": 600, "QUEUE_MESSAGES": 2 * MANY}
    with override_settings(STREAMS=streams):
        yield


async def opened(**kwargs: Any) -> tuple[Subscriber, Hub]:
    subscriber = Subscriber(["news"], **kwargs)
    await subscriber.open()
    hub = Hub.running()
    assert hub is not None
    return subscriber, hub


async def read(subscriber: Subscriber, last: int) -> list[int]:
    """Return the ids of the messages that a stream sends, up to `last`."""
    decoder, ids = EventStreamDecoder(), list[int]()
    async with asyncio.timeout(60):
        while not ids or ids[-1] < last:
            decoded = decoder.feed(await subscriber.__anext__())
            ids += [int(event.id) for event in decoded if event.event == "message"]
    return ids


async def test_large_batch_leaves_the_loop_to_others(sent: None) -> None:
    """The hub's state is consistent whenever another task runs."""
    subscriber, hub = await opened()
    reading = asyncio.create_task(read(subscriber, MANY))
    await asyncio.sleep(0.05)
    Sent.notices.put_nowait(batch(1, MANY))
    between = set()
    async with asyncio.timeout(60):
        while hub.position < MANY:
            await asyncio.sleep(0)
            assert hub.window.end == hub.position
            between.add(hub.position)
    assert len(between) > 100
    assert await reading == list(range(1, MANY + 1))
    await subscriber.aclose()


async def test_streams_that_join_within_a_batch_miss_nothing(sent: None) -> None:
    first, hub = await opened()
    Sent.notices.put_nowait(batch(1, MANY))
    joined = []
    async with asyncio.timeout(60):
        while hub.position < MANY:
            await asyncio.sleep(0)
            if hub.position % 100 == 1 and len(joined) < 10:
                subscriber, _ = await opened()
                joined.append((subscriber, subscriber.cursor, asyncio.create_task(read(subscriber, MANY))))
    assert len(joined) == 10
    for subscriber, cursor, reading in joined:
        assert await reading == list(range(cursor + 1, MANY + 1))
        await subscriber.aclose()
    await first.aclose()


async def test_batch_that_was_overtaken_is_applied_once(sent: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub reads the log while it applies a notice, and the read gets ahead of the notice."""
    subscriber, hub = await opened()

    def follow(position: int, mark: int) -> log.News:
        head = log.Head(MANY, 0, unsequenced=False, times=(None, None))
        return log.News(head, None, list(batch(position + 1, min(position + 250, MANY)).messages))

    monkeypatch.setattr(log, "follow", follow)
    reading = asyncio.create_task(read(subscriber, MANY))
    await asyncio.sleep(0.05)
    Sent.notices.put_nowait(batch(1, MANY))
    async with asyncio.timeout(60):
        while hub.position < 10:
            await asyncio.sleep(0)
        await hub.catch_up()
    assert await reading == list(range(1, MANY + 1))
    await subscriber.aclose()


async def test_batch_of_a_log_that_was_replaced_is_dropped(sent: None) -> None:
    """It is dropped even if its next message has the next position of the new log."""
    subscriber, hub = await opened()
    Sent.notices.put_nowait(batch(1, MANY, data="old"))
    async with asyncio.timeout(60):
        while hub.position < 10:
            await asyncio.sleep(0)
    # _begin_at() replaces the window in the same way.
    hub.window = Window(hub.position, max_messages=100, max_bytes=10_000)
    async with asyncio.timeout(60):
        while hub.position not in (0, MANY):
            await asyncio.sleep(0)
    assert hub.position == 0, "the log is empty"
    await subscriber.aclose()


# --- A notifier that fails --------------------------------------------------------------------------------------------


class SlowToFail(BaseNotifier):
    """A notifier whose connection attempts time out until `let_in` is set."""

    attempts = 0
    let_in = False

    def notify(self, notice: Notice) -> None:
        """Do nothing."""

    async def listen(self) -> AsyncGenerator[Notice | None, None]:
        type(self).attempts += 1
        await asyncio.sleep(0.05)
        if not self.let_in:
            raise ConnectionError("the server at db.example does not answer")
        yield None
        await asyncio.Event().wait()


@override_settings(STREAMS={"NOTIFIER": {"BACKEND": f"{__name__}.SlowToFail"}, "POLL_SECONDS": 600})
async def test_listener_that_fails_is_told_of_until_it_listens_and_then_what_it_missed_is_read() -> None:
    SlowToFail.attempts, SlowToFail.let_in = 0, False
    subscriber = Subscriber(["news"])
    await subscriber.open()
    running = Hub.running()
    assert running is not None
    async with asyncio.timeout(30):
        while not counter.count().notifier_problem:
            await asyncio.sleep(0.01)
        while SlowToFail.attempts < 4:
            assert counter.count().notifier_problem == "ConnectionError", "it is reported during each attempt"
            await asyncio.sleep(0.01)
        await executor.run(append_silently)
        SlowToFail.let_in = True
        while running.position == 0:
            await asyncio.sleep(0.01)
    assert counter.count().notifier_problem == ""
    await subscriber.aclose()


class SlowToListen(SlowToFail):
    """A notifier that connects slowly: it waits until `let_in` is set. `attempts` shows that it has begun."""

    async def listen(self) -> AsyncGenerator[Notice | None, None]:
        type(self).attempts += 1
        while not self.let_in:
            await asyncio.sleep(0.01)
        yield None
        await asyncio.Event().wait()


@override_settings(STREAMS={"NOTIFIER": {"BACKEND": f"{__name__}.SlowToListen"}, "POLL_SECONDS": 600})
async def test_what_is_published_before_a_new_hub_listens_is_read_as_soon_as_it_does() -> None:
    SlowToListen.attempts, SlowToListen.let_in = 0, False
    subscriber = Subscriber(["news"])
    await subscriber.open()
    running = Hub.running()
    assert running is not None
    assert SlowToListen.attempts == 1
    await executor.run(append_silently)
    assert running.position == 0, "the hub has received no notice"
    SlowToListen.let_in = True
    async with asyncio.timeout(30):
        while running.position == 0:
            await asyncio.sleep(0.01)
    await subscriber.aclose()
