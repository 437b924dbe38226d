"""The metrics count what happens in the process."""

from __future__ import annotations

import asyncio
import gc
from contextlib import aclosing
from typing import Any

import pytest
from django.test import override_settings

from streams import EventStreamResponse, NewMessage, apublish, apublish_many, publish
from streams.delivery.hub import Hub
from streams.delivery.subscriber import Subscriber
from streams.exceptions import InvalidChannel
from streams.http.response import _Body
from streams.log import retention
from streams.notifiers import get_notifier
from streams.runtime import executor
from streams.testing import read_events
from tests.support.metrics import Changes, open_stream, values
from tests.support.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)


async def begin_reading(chunks: Any) -> asyncio.Future[bytes]:
    """Return a future of the next message. The stream is live, and waits for it."""
    reading = asyncio.ensure_future(anext(chunks))
    await wait_for(lambda: chunks.source._waiter is not None)
    return reading


async def end_by_client(chunks: _Body) -> None:
    await chunks.aclose()


async def end_by_lifetime(chunks: _Body) -> None:
    chunks.expire()
    await chunks.aclose()


async def end_by_shutdown(chunks: _Body) -> None:
    chunks.stop(b"retry: 1\n")
    await chunks.aclose()


async def end_by_cut(chunks: _Body) -> None:
    chunks.task = asyncio.ensure_future(asyncio.sleep(60))  # the server's, which serves the request
    chunks.cut("slow")
    await asyncio.wait([chunks.task])
    await chunks.aclose()


async def end_by_revocation(chunks: _Body) -> None:
    chunks.source.revoke()  # type: ignore[attr-defined]
    await chunks.aclose()


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (end_by_client, "client"),
        (end_by_lifetime, "lifetime"),
        (end_by_shutdown, "shutdown"),
        (end_by_revocation, "revoked"),
        (end_by_cut, "slow"),
    ],
)
async def test_stream_is_open_until_it_ends_for_its_reason(end: Any, reason: str) -> None:
    changes = Changes()
    chunks = await open_stream()
    assert changes("_streams") == {'open_streams{source="log"}': 1, 'opened_streams_total{source="log"}': 1}
    await end(chunks)
    await chunks.aclose()  # once more: it is counted once
    assert changes("_streams") == {
        'opened_streams_total{source="log"}': 1,
        f'ended_streams_total{{reason="{reason}",source="log"}}': 1,
    }


async def test_stream_that_is_left_to_the_garbage_collector_ends() -> None:
    """Some middlewares wrap the iterator, and do not close it."""
    changes = Changes()
    chunks = await open_stream()
    stream = chunks.source
    del chunks
    gc.collect()
    await asyncio.sleep(0)
    assert changes("_streams").keys() == {
        'opened_streams_total{source="log"}',
        'ended_streams_total{reason="client",source="log"}',
    }
    await stream.aclose()


async def test_stream_that_is_complete_or_fails_is_counted_so() -> None:
    async def items(fails: bool) -> Any:
        yield "one"
        if fails:
            raise RuntimeError("of the view")

    changes = Changes()
    for fails in (False, True):
        async with aclosing(aiter(EventStreamResponse(items(fails)))) as chunks:  # type: ignore[type-var]
            assert [chunk async for chunk in chunks]
    assert changes("ended") == {
        'ended_streams_total{reason="complete",source="iterator"}': 1,
        'ended_streams_total{reason="error",source="iterator"}': 1,
    }


@override_settings(STREAMS={"MAX_REPLAY_SECONDS": 0.000001, "WINDOW_MESSAGES": 1, "PUBLIC_CHANNELS": ["*"]})
async def test_stream_that_stays_behind_is_counted_so() -> None:
    await apublish_many([NewMessage("news", "x" * 100) for _ in range(600)])
    changes = Changes()
    async with aclosing(aiter(EventStreamResponse(Subscriber(["news"], last_event_id="1")))) as chunks:  # type: ignore[type-var]
        assert [chunk async for chunk in chunks]
    assert changes("ended") == {'ended_streams_total{reason="behind",source="log"}': 1}
    assert changes("replays") == {'replays_total{start="log"}': 1}


async def test_live_delivery_is_counted_with_its_bytes_and_its_delay() -> None:
    changes = Changes()
    streams = [await open_stream() for _ in range(3)]
    reading = [await begin_reading(chunks) for chunks in streams]
    await apublish("news", "hello")
    received = await asyncio.gather(*reading)
    await wait_for(lambda: changes("delay") != {})
    for chunks in streams:
        await chunks.aclose()
    assert changes("deliver(ies|ed)") == {
        'deliveries_total{kind="live"}': 3,
        'delivered_bytes_total{kind="live"}': sum(map(len, received)),
    }
    delay = changes("delay")
    [count] = [name for name in delay if "_count" in name]
    assert delay[count] == 1
    assert 0 <= delay[count.replace("_count", "_sum")] < 20


@override_settings(STREAMS={"POLL_SECONDS": 0.05})
async def test_delay_is_measured_for_a_lost_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the delays of a site whose notices do not arrive would look perfect."""
    changes = Changes()
    chunks = await open_stream()
    reading = await begin_reading(chunks)
    monkeypatch.setattr(type(get_notifier()), "notify", lambda self, notice: None)
    await apublish("news", "hello")
    assert b"hello" in await reading
    await wait_for(lambda: changes("delay.*poll") != {})
    await chunks.aclose()
    assert changes("delay_seconds_count") == {'delivery_delay_seconds_count{found_by="poll"}': 1}


async def test_replay_is_counted() -> None:
    data = [NewMessage("news", f"{n}") for n in range(5)]
    await apublish_many(data)
    changes = Changes()
    response = EventStreamResponse(Subscriber(["news"], replay=3))
    assert [event.data for event in await read_events(response, 3)] == ["2", "3", "4"]
    assert changes("replays|deliveries") == {'replays_total{start="memory"}': 1, 'deliveries_total{kind="replay"}': 3}


@override_settings(STREAMS={"QUEUE_MESSAGES": 2})
async def test_full_queue_is_an_overflow() -> None:
    changes = Changes()
    chunks = await open_stream()
    reading = await begin_reading(chunks)
    await apublish("news", "first")
    assert b"first" in await reading  # nobody asks for the following ones
    await apublish_many([NewMessage("news", f"{n}") for n in range(5)])
    await wait_for(lambda: changes("overflows") == {"queue_overflows_total": 1})
    await chunks.aclose()


@pytest.mark.parametrize(
    ("cursor", "reason"), [("x", "malformed-id"), ("999999999", "unknown-id"), ("1", "pruned")], ids=lambda each: each
)
async def test_reset_is_counted_by_its_reason(cursor: str, reason: str) -> None:
    for n in range(3):
        await apublish("news", f"{n}")
    if reason == "pruned":
        with override_settings(STREAMS={"RETENTION_MESSAGES_PER_CHANNEL": 1, "WINDOW_MESSAGES": 1}):
            await executor.run(retention.prune, pool=executor.WAITING)
    changes = Changes()
    chunks = await open_stream(last_event_id=cursor)
    await chunks.aclose()
    assert changes("resets") == {f'resets_total{{reason="{reason}"}}': 1}


def test_publishing_is_counted_by_its_outcome() -> None:
    from django.db import transaction

    changes = Changes()
    publish("news", "x")
    with transaction.atomic():
        publish("news", "x")
    with pytest.raises(InvalidChannel):
        publish("a b", "x")
    found = changes("publish|group")
    assert {name: value for name, value in found.items() if "_sum" not in name or "group" in name} == {
        "published_messages_total": 2,
        'publish_seconds_count{transaction="own"}': 1,
        'publish_seconds_count{transaction="caller"}': 1,
        'publish_failures_total{reason="invalid"}': 1,
        "group_messages_count": 1,
        "group_messages_sum": 1,
    }


def test_failed_notice_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, notice: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr(type(get_notifier()), "notify", fail)
    changes = Changes()
    publish("news", "x")
    assert changes("failed_notices") == {"failed_notices_total": 1}


@override_settings(STREAMS={"RETENTION_MESSAGES_PER_CHANNEL": 1})
def test_pruning_is_counted() -> None:
    for _ in range(3):
        publish("news", "x")
    changes = Changes()
    retention.prune()
    assert changes("pruned") == {"pruned_messages_total": 2}


async def test_notifier_state_follows_the_hub() -> None:
    states = 'streams_notifier_processes{state="%s"}'
    assert values()[states % "idle"] == 1
    chunks = await open_stream()
    await wait_for(lambda: values()[states % "ok"] == 1)
    assert values()[states % "idle"] == 0
    await chunks.aclose()
    await wait_for(lambda: Hub.running() is None)
    assert values()[states % "idle"] == 1
