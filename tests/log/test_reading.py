"""Reading the log: the tail, pages, and the newest and earliest messages."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from streams import NewMessage, log, publish_many
from streams.log import reading
from streams.protocol.sse import StoredEvent
from tests.log.support import positions
from tests.support.reads import tail

pytestmark = pytest.mark.django_db(transaction=True)


# --- Which messages a read returns ------------------------------------------------------------------------------------


def test_tail_returns_pages_of_all_channels() -> None:
    publish_many([NewMessage(f"channel.{n % 3}", n, event="alert") for n in range(600)])
    head, first = tail(0)
    assert (head, positions(first)) == (600, list(range(1, log.PAGE_MESSAGES + 1)))
    assert first[4] == StoredEvent(5, "channel.1", "alert", "4")
    _, second = tail(first[-1].position)
    _, third = tail(second[-1].position)
    assert positions(first + second + third) == list(range(1, 601))
    assert tail(600) == (600, [])
    assert tail(10_000) == (600, [])


def test_newest_reads_backwards() -> None:
    publish_many([NewMessage("news", n) for n in range(600)])
    assert positions(log.newest(600)) == list(range(600, 600 - log.PAGE_MESSAGES, -1))
    assert positions(log.newest(3)) == [3, 2, 1]


def test_page_has_only_its_channels() -> None:
    """Their messages are in the order of the log."""
    publish_many([NewMessage("abc"[n % 3], n) for n in range(30)])
    assert positions(log.page(["a"], 0, 30).messages) == list(range(1, 31, 3))
    both = log.page(["c", "a"], 0, 30)
    assert positions(both.messages) == [n for n in range(1, 31) if n % 3 != 2]
    assert [message.channel for message in both.messages][:4] == ["a", "c", "a", "c"]
    assert (both.through, both.pruned) == (30, {})
    assert log.page(["nobody's"], 0, 30) == log.Page([], 30, {})
    assert log.page(["nobody's", "nor this"], 0, 30) == log.Page([], 30, {})


def test_reads_accept_the_most_channels() -> None:
    channels = [f"c{number}" for number in range(500)]  # the largest MAX_CHANNELS_PER_STREAM
    publish_many([NewMessage(channels[number], "x") for number in (499, 0, 250)])
    assert [message.position for message in log.page(channels, 0, 3).messages] == [1, 2, 3]
    assert log.earliest(channels) == 1
    assert log.start_of_newest(channels, 2, 3) == 1


def test_page_stays_within_its_bounds() -> None:
    publish_many([NewMessage("ab"[n % 2], n) for n in range(20)])
    for channels in (["a", "b"], ["b"]):
        page = log.page(channels, 5, 12)
        assert positions(page.messages) == [n for n in range(6, 13) if "ab"[(n - 1) % 2] in channels]
        assert page.through == 12


def test_full_page_reports_its_end() -> None:
    publish_many([NewMessage("ab"[n % 2], n) for n in range(3 * log.PAGE_MESSAGES)])
    for channels, step in ((["a"], 2), (["a", "b"], 1)):
        page = log.page(channels, 0, 3 * log.PAGE_MESSAGES)
        assert len(page.messages) == log.PAGE_MESSAGES
        assert page.through == page.messages[-1].position == (log.PAGE_MESSAGES - 1) * step + 1
    seen: list[int] = []
    cursor = 0
    while cursor < 3 * log.PAGE_MESSAGES:
        page = log.page(["a", "b"], cursor, 3 * log.PAGE_MESSAGES)
        seen += positions(page.messages)
        cursor = page.through
    assert seen == list(range(1, 3 * log.PAGE_MESSAGES + 1))


def test_start_of_newest_is_a_cursor() -> None:
    publish_many([NewMessage("abc"[n % 3], n) for n in range(30)])
    for channels in (["a"], ["a", "b"], ["a", "b", "c"]):
        start = log.start_of_newest(channels, 4, 30)
        assert len(log.page(channels, start, 30).messages) == 4
    assert positions(log.page(["a"], log.start_of_newest(["a"], 2, 20), 20).messages) == [16, 19]
    assert log.start_of_newest(["a"], 1000, 30) == 0
    assert log.start_of_newest(["nobody's"], 5, 30) == 30


def test_earliest_is_the_oldest_left() -> None:
    publish_many([NewMessage("ab"[n % 2], n) for n in range(6)])
    assert log.earliest(["b"]) == 2
    assert log.earliest(["b", "a"]) == 1
    log.delete_through(3, limit=10)
    assert log.earliest(["a"]) == 5
    assert log.earliest(["nobody's"]) is None


# --- Large messages ---------------------------------------------------------------------------------------------------


LARGE = "ü" * 100_000  # 200 kB in UTF-8: a page holds five of them


def test_page_is_bounded_by_bytes() -> None:
    publish_many([NewMessage("ab"[n % 2], f"{n} {LARGE if n % 10 == 0 else ''}") for n in range(150)])
    for channels in (["a", "b"], ["a"]):
        seen: list[StoredEvent] = []
        cursor = reads = 0
        while cursor < 150:
            page = log.page(channels, cursor, 150)
            assert sum(len(message.data.encode()) for message in page.messages) <= log.PAGE_BYTES
            cursor, reads, seen = page.through, reads + 1, seen + page.messages
        assert reads == 3  # the queries for fifteen large messages
        assert positions(seen) == [n for n in range(1, 151) if "ab"[(n - 1) % 2] in channels]
        assert all((LARGE in message.data) == ((message.position - 1) % 10 == 0) for message in seen)


def test_tail_and_newest_are_bounded_by_bytes() -> None:
    publish_many([NewMessage("news", LARGE) for _ in range(12)])
    assert positions(tail(0)[1]) == [1, 2, 3, 4, 5]
    assert positions(tail(10)[1]) == [11, 12]
    assert positions(log.newest(12)) == [12, 11, 10, 9, 8]


def test_very_large_message_is_a_page(settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "MAX_MESSAGE_BYTES": 10 * log.PAGE_BYTES}
    publish_many([NewMessage("news", "small"), NewMessage("news", 10 * LARGE), NewMessage("news", "small")])
    assert positions(log.page(["news"], 0, 3).messages) == [1]
    assert positions(log.page(["news"], 1, 3).messages) == [2]
    assert positions(log.page(["news"], 2, 3).messages) == [3]


def test_small_messages_cost_one_read() -> None:
    publish_many([NewMessage("news", "x" * reading.SMALL_BYTES) for _ in range(log.PAGE_MESSAGES)])
    with CaptureQueriesContext(connection) as queries:
        assert len(log.newest(log.PAGE_MESSAGES)) == log.PAGE_MESSAGES
    assert len(queries) == 1


def test_message_pruned_during_read_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data of a large message is read by a second query."""
    publish_many([NewMessage("news", LARGE), NewMessage("news", LARGE)])
    real = log.rows_of

    def rows_of(*args: Any, **kwargs: Any) -> list[tuple[Any, ...]]:
        rows = real(*args, **kwargs)
        log.delete_through(1, limit=1)
        return rows

    monkeypatch.setattr(reading, "rows_of", rows_of)
    page = log.page(["news"], 0, 2)
    assert (positions(page.messages), page.pruned) == ([2], {"news": 1})
