"""The pages of a long replay: few reads, and frames that hold several messages within the limits of the queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import override_settings

from streams import NewMessage, apublish_many
from streams.delivery.reads import FramePage, read_page
from streams.delivery.replay import CHUNK_BYTES
from streams.runtime import executor
from tests.delivery.support import STREAMS, Reader, fill

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[FramePage]:
    """The pages that are read from the log."""
    found: list[FramePage] = []
    run = executor.run

    async def run_and_note(question: Callable[..., Any], *args: Any, **options: Any) -> Any:
        answer = await run(question, *args, **options)
        if question is read_page:
            found.append(answer)
        return answer

    monkeypatch.setattr(executor, "run", run_and_note)
    return found


def counts(pages: list[FramePage]) -> list[int]:
    return [sum(frame.messages for frame in page.frames) for page in pages]


@override_settings(STREAMS=STREAMS)
async def test_pages_of_small_messages_grow(pages: list[FramePage]) -> None:
    data = await fill(2300)
    reader = Reader("", 0)
    await reader.read_until(lambda: reader.messages() == data)
    await reader.stream.aclose()
    assert counts(pages) == [250, 1000, 1000, 50]
    assert max(len(chunk) for chunk in reader.chunks) <= CHUNK_BYTES
    assert [event.id for event in reader.events if event.event == "message"] == [str(n) for n in range(1, 2301)]


@override_settings(STREAMS=STREAMS)
async def test_pages_of_large_messages_do_not_grow(pages: list[FramePage]) -> None:
    await apublish_many([NewMessage("news", "x" * 50_000) for _ in range(50)])
    reader = Reader("", 0)
    await reader.read_until(lambda: len(reader.messages()) == 50)
    await reader.stream.aclose()
    assert counts(pages) == [20, 20, 10]
    assert reader.stream._page_messages == 250


@override_settings(STREAMS={**STREAMS, "QUEUE_MESSAGES": 7, "QUEUE_BYTES": 60})
async def test_queue_limits_bound_pages_and_frames(pages: list[FramePage]) -> None:
    data = await fill(40)
    reader = Reader("", 0)
    while reader.messages() != data:
        await reader.read()
        assert sum(frame.messages for frame in reader.stream._queue) <= 7
        assert reader.stream._queued_bytes <= 60
    await reader.stream.aclose()
    assert max(counts(pages)) <= 7
    assert max(len(frame.data) for page in pages for frame in page.frames) <= 60


@override_settings(STREAMS=STREAMS)
async def test_frames_join_all_kinds_of_messages() -> None:
    messages = [NewMessage("news", f"ü {n}\n{n}" * (n % 3), event="message" if n % 2 else "add") for n in range(300)]
    await apublish_many(messages)
    reader = Reader("", 0)
    received: list[tuple[str, str]] = []
    while len(received) < len(messages):
        await reader.read()
        received = [(event.event, event.data) for event in reader.events if not event.event.startswith("stream-")]
    await reader.stream.aclose()
    assert received == [(message.event, message.data) for message in messages]
