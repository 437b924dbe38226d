"""The worker: how it stores an upstream's answer, and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db.models.functions import Now

from streams.models import Message
from streams.relay import upstreams
from streams.relay.access import Principal
from streams.relay.generations import store
from streams.relay.generations.chunks import storable
from streams.relay.generations.worker import Worker
from streams.relay.models import Generation, Usage
from tests.relay.answering import DONE, USAGE, GivenUpstream, event

pytestmark = pytest.mark.django_db(transaction=True)

ANN = Principal(None, "address 192.0.2.1")
BODY = {"model": "small", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
FOREVER = 1000.0
JSON = "application/json"


@pytest.fixture
def answer_with(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Any:
    """Return a function that installs an upstream with these chunks, and sets the keys of STREAMS."""

    def answer(*chunks: bytes | float, streams: dict[str, Any] | None = None, **options: Any) -> GivenUpstream:
        settings.STREAMS = streams or {}
        upstream = GivenUpstream(chunks, **options)
        monkeypatch.setitem(upstreams._upstreams, "default", upstream)
        return upstream

    return answer


async def ask() -> str:
    made, _ = await sync_to_async(store.create)(ANN, BODY, "default")
    return made.pk


@contextlib.asynccontextmanager
async def working(**options: Any) -> AsyncIterator[Worker]:
    worker = Worker()
    serving = asyncio.create_task(worker.run(**options))
    try:
        yield worker
    finally:
        worker.stop()
        await serving


async def until(condition: Any, seconds: float = 30.0) -> Any:
    """Wait until `condition`, which queries the database, is true. Return its value."""
    async with asyncio.timeout(seconds):
        while not (found := await sync_to_async(condition)()):
            await asyncio.sleep(0.02)
    return found


async def ended(pk: str) -> Generation:
    found: Generation = await until(
        lambda: Generation.objects.filter(pk=pk).exclude(state__in=Generation.ACTIVE).first()
    )
    return found


async def finished(pk: str | None = None) -> Generation:
    """Run a worker until no generation is left, and return the ended generation."""
    pk = pk or await ask()
    async with asyncio.timeout(60):
        await Worker().run(linger=0)
    return await ended(pk)


@sync_to_async
def pieces(pk: str) -> list[str]:
    """Return the texts of the pieces in the log. The numbers must have no holes, and nothing can follow the end."""
    rows = list(Message.objects.filter(channel=f"generation.{pk}").order_by("position"))
    assert [row.event for row in rows[:-1]] == ["message"] * (len(rows) - 1)
    data = [json.loads(row.data) for row in rows if row.event == "message"]
    assert [piece["n"] for piece in data] == list(range(len(data)))
    return [piece["text"] for piece in data]


async def test_answer_is_written_as_it_comes_and_ends_with_its_usage(answer_with: Any) -> None:
    upstream = answer_with(event("Hel"), 0.2, event("lo"), event(reason="stop"), USAGE, DONE)
    done = await finished()
    assert (done.state, done.text, done.finish_reason, done.error_code) == ("done", "Hello", "stop", "")
    assert await pieces(done.pk) == ["Hel", "lo"]
    assert done.usage == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    cost = await Usage.objects.aget()
    assert (cost.outcome, cost.prompt_tokens, cost.completion_tokens) == ("done", 3, 2)
    assert upstream.asked == [BODY]
    assert upstream.closed == 1


async def test_pieces_that_come_together_are_one_message(answer_with: Any) -> None:
    answer_with(event("first "), 0.3, *(event(f"{n} ") for n in range(500)), event(reason="stop"), DONE)
    done = await finished()
    found = await pieces(done.pk)
    assert found[0] == "first "
    assert "".join(found) == done.text == "first " + "".join(f"{n} " for n in range(500))
    assert len(found) < 20


async def test_text_larger_than_a_message_becomes_several(answer_with: Any) -> None:
    text = "\u0001ä😀" * 2000
    answer_with(event(text), event(reason="stop"), DONE, streams={"MAX_MESSAGE_BYTES": 1000})
    done = await finished()
    assert (done.state, done.text) == ("done", text)
    assert "".join(await pieces(done.pk)) == text


async def test_text_is_stored_that_no_database_takes_as_it_is(answer_with: Any) -> None:
    halves = [
        b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % half for half in (b"a\\ud83d", b"\\ude00b\\u0000")
    ]
    answer_with(*halves, halves[0], event(reason="stop"), DONE)
    done = await finished()
    assert (done.state, done.text) == ("done", "a😀b\ufffda\ufffd")
    assert "".join(await pieces(done.pk)) == done.text


def test_text_that_can_be_stored_stays_as_it_is() -> None:
    assert storable("aä😀\u2028\r\n") == "aä😀\u2028\r\n"
    assert storable("\ude00\ud83d") == "\ufffd\ufffd"


@pytest.mark.parametrize(
    ("chunks", "options", "code", "words", "text"),
    [
        ([b'{"error":{"message":"No model"}}'], {"status": 404, "content_type": JSON}, "upstream-error", "No", ""),
        ([b"<h1>Bad gateway</h1>"], {"status": 502, "content_type": "text/html"}, "upstream-malformed", "not JSON", ""),
        ([event("a"), b'data: {"error":{"message":"Overloaded"}}\n\n'], {}, "upstream-error", "Overloaded", "a"),
        ([event("a")], {}, "upstream-ended", "ended before it was complete", "a"),
    ],
    ids=["refused", "not-json", "error-in-the-middle", "ended-early"],
)  # fmt: skip
async def test_failure_is_told_and_what_came_before_it_is_kept(
    answer_with: Any, chunks: list[bytes], options: dict[str, Any], code: str, words: str, text: str
) -> None:
    answer_with(*chunks, **options)
    failed = await finished()
    assert (failed.state, failed.error_code, failed.text) == ("failed", code, text)
    assert words in failed.error_message
    end = json.loads((await Message.objects.aget(event="end")).data)
    assert end["error"] == {"code": code, "message": failed.error_message}
    assert (await Usage.objects.aget()).outcome == "failed"


async def test_answer_that_takes_too_long_fails_and_its_upstream_is_left(answer_with: Any) -> None:
    upstream = answer_with(event("a"), FOREVER, streams={"GENERATION_SECONDS": 0.5})
    failed = await finished()
    assert (failed.state, failed.error_code, failed.text) == ("failed", "timeout", "a")
    assert upstream.closed


async def test_upstream_that_is_not_configured_any_more_fails_the_answer() -> None:
    made, _ = await sync_to_async(store.create)(ANN, BODY, "gone")
    failed = await finished(made.pk)
    assert (failed.state, failed.error_code) == ("failed", "internal")
    assert "gone" not in failed.error_message


async def test_cancelled_elsewhere_leaves_the_upstream_when_the_lease_is_renewed(answer_with: Any) -> None:
    upstream = answer_with(event("a"), FOREVER, streams={"GENERATION_LEASE_SECONDS": 0.8})
    async with working():
        pk = await ask()
        await until(lambda: Message.objects.exists())
        await sync_to_async(store.cancel)(pk)
        await until(lambda: upstream.closed)
    assert await pieces(pk) == ["a"]
    cost = await Usage.objects.aget()
    assert (cost.outcome, cost.completion_tokens) == ("cancelled", 1)


async def test_cancelled_here_leaves_the_upstream_at_once(answer_with: Any) -> None:
    upstream = answer_with(event("a"), FOREVER, streams={"GENERATION_LEASE_SECONDS": 600})
    async with working() as worker:
        pk = await ask()
        await until(lambda: Message.objects.exists())
        await sync_to_async(store.cancel)(pk)
        worker.forget(pk)
        await until(lambda: upstream.closed, seconds=5)


async def test_worker_that_is_stopped_stores_what_it_has_and_tells_the_clients(answer_with: Any) -> None:
    upstream = answer_with(event("a"), 0.2, event("b"), FOREVER, streams={"GENERATION_FLUSH_MILLISECONDS": 60_000})
    async with working():
        pk = await ask()
        await until(lambda: Message.objects.exists())
        await asyncio.sleep(0.5)  # so that "b" has arrived and waits to be stored
    stopped = await ended(pk)
    assert (stopped.state, stopped.text, stopped.error_code) == ("interrupted", "ab", "interrupted")
    assert await pieces(pk) == ["a", "b"]
    assert upstream.closed == 1


async def test_worker_that_is_stopped_lets_what_is_under_way_end(answer_with: Any) -> None:
    answer_with(event("a"), 0.5, event("b"), event(reason="stop"), DONE)
    async with working(grace=30):
        pk = await ask()
        await until(lambda: Message.objects.exists())
    assert (await ended(pk)).state == "done"


async def test_impatient_stop_interrupts(answer_with: Any) -> None:
    answer_with(event("a"), FOREVER)
    async with working(grace=600) as worker:
        pk = await ask()
        await until(lambda: Message.objects.exists())
        worker.stop()
        worker.interrupt()
    assert (await ended(pk)).state == "interrupted"


async def test_no_more_than_so_many_are_under_way(answer_with: Any) -> None:
    upstream = answer_with(event("a"), 0.4, event(reason="stop"), DONE, streams={"GENERATION_CONCURRENCY": 2})
    made = [await ask() for _ in range(3)]
    async with working(grace=30):
        await until(lambda: len(upstream.asked) == 2)
        assert await Generation.objects.filter(state="queued").acount() == 1
        for pk in made:
            await ended(pk)


async def test_lease_is_renewed_while_the_upstream_is_silent(answer_with: Any) -> None:
    answer_with(event("a"), 2.5, event("b"), event(reason="stop"), DONE, streams={"GENERATION_LEASE_SECONDS": 1})
    assert (await finished()).state == "done"


async def test_text_in_the_row_follows_while_the_answer_comes(answer_with: Any) -> None:
    answer_with(event("a"), 0.3, event("b"), FOREVER, streams={"GENERATION_LEASE_SECONDS": 1})
    async with working():
        pk = await ask()
        row = await until(lambda: Generation.objects.filter(pk=pk, text="ab").first())
        assert row.chunks == 2
        assert row.text_position == 2
    assert (await ended(pk)).text == "ab"


async def test_worker_whose_lease_was_lost_stops(answer_with: Any) -> None:
    upstream = answer_with(event("a"), 1.0, event("b"), FOREVER)
    async with working():
        pk = await ask()
        await until(lambda: Message.objects.exists())
        late = Now() - datetime.timedelta(seconds=1)
        await Generation.objects.filter(pk=pk).aupdate(lease_until=late)
        await sync_to_async(store.interrupt)(pk)
        await until(lambda: upstream.closed)
    assert await pieces(pk) == ["a"]


HUGE = {f"tokens_{n}": "x" * 1000 for n in range(1000)}


@pytest.mark.parametrize(
    "usage",
    [
        '{"completion_tokens": 2, "x": "\\u0000\\ud800"}',
        '{"completion_tokens": 2, "y": 1e400, "z": NaN}',
        json.dumps({**HUGE, "completion_tokens": 2}),
    ],
    ids=["texts", "numbers", "huge"],
)  # fmt: skip
async def test_usage_of_any_kind_is_stored_as_its_numbers(answer_with: Any, usage: str) -> None:
    usage_event = b'data: {"choices":[],"usage":%s}\n\n' % usage.encode()
    answer_with(event("a"), event(reason="st\0op\ud800"[:5]), usage_event, DONE)
    done = await finished()
    assert (done.state, done.text) == ("done", "a")
    assert set(done.usage or {}) <= {"completion_tokens"}


async def test_details_of_usage_are_kept(answer_with: Any) -> None:
    usage = {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1, "x": "y"}, "total_tokens": -1}
    answer_with(event("a", "stop"), f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n".encode(), DONE)
    assert (await finished()).usage == {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1}}


async def test_end_is_told_however_small_messages_must_be(answer_with: Any) -> None:
    error = b'data: {"error":{"message":"%s","code":"a\\u0000b"}}\n\n' % ("ü" * 5000).encode()
    answer_with(event("a"), error, streams={"MAX_MESSAGE_BYTES": 100})
    failed = await finished()
    assert (failed.state, failed.text, failed.error_code) == ("failed", "a", "a\ufffdb")


async def test_answer_that_cannot_be_stored_fails_alone(answer_with: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All answers of a worker share a transaction, but an error in one of them must not affect the others."""
    answer_with(event("a"), 0.3, event("b"), event(reason="stop"), DONE)
    bad, good = await ask(), await ask()
    check = store.messages_of

    def refuse(batch: store.Batch) -> Any:
        if batch.id == bad and batch.number == 1 and batch.chunks:
            raise ValueError("this cannot be stored")
        return check(batch)

    monkeypatch.setattr(store, "messages_of", refuse)
    async with asyncio.timeout(30):
        await Worker().run(linger=0)
    assert ((await ended(good)).state, (await ended(good)).text) == ("done", "ab")
    failed = await ended(bad)
    assert (failed.state, failed.text, failed.error_code) == ("failed", "a", "internal")


async def test_limit_of_a_generation_may_be_longer_than_that_of_the_relay(answer_with: Any) -> None:
    limits = {"RELAY_TOTAL_SECONDS": 0.2, "GENERATION_SECONDS": 60}
    answer_with(event("a"), 0.5, event("b"), event(reason="stop"), DONE, streams=limits)
    assert (await finished()).state == "done"


async def test_stop_does_not_wait_for_an_answer_that_was_cancelled_meanwhile(answer_with: Any) -> None:
    answer_with(event("a"), FOREVER, streams={"GENERATION_LEASE_SECONDS": 0.8})
    async with asyncio.timeout(30):
        async with working(grace=600) as worker:
            pk = await ask()
            await until(lambda: Message.objects.exists())
            worker.stop()
            await sync_to_async(store.cancel)(pk)
