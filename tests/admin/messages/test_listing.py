"""The list of messages: its pages, its filters and its searches."""

from __future__ import annotations

import datetime
import re
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from streams import log, publish
from streams.admin.messages import listing
from streams.models import LogHead, Message
from tests.admin.messages.support import LIST, ids, link, page, publish_some, text_of
from tests.support.reads import sqlite_steps

pytestmark = pytest.mark.django_db


def test_list_shows_what_was_published(reader: Client) -> None:
    user = get_user_model().objects.create_user("ada")
    publish("news", "hello", event="alert", published_by=user)
    publish("user.7", "x" * 300)
    html = page(reader)
    assert ids(html) == [2, 1]
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC news alert hello 5 ada", text_of(html))
    assert f"user.7 message {'x' * 200}… 300 –" in text_of(html)


def test_list_shows_local_time(reader: Client, settings: Any) -> None:
    settings.TIME_ZONE = "Asia/Tokyo"
    message = publish("news", "x")
    local = message.created_at.astimezone(ZoneInfo("Asia/Tokyo"))
    assert f"{local:%Y-%m-%d %H:%M:%S} JST" in text_of(page(reader))
    assert "Day (Asia/Tokyo)" in text_of(page(reader))


def test_pages_have_no_gaps(reader: Client) -> None:
    publish_some(250)
    html = page(reader)
    assert ids(html) == list(range(250, 150, -1))
    assert link(html, "Newer") is None
    html = page(reader, link(html, "Older"))
    assert ids(html) == list(range(150, 50, -1))
    html = page(reader, link(html, "Older"))
    assert ids(html) == list(range(50, 0, -1))
    assert link(html, "Older") is None
    html = page(reader, link(html, "Newer"))
    assert ids(html) == list(range(150, 50, -1))
    html = page(reader, link(html, "Newer"))
    assert ids(html) == list(range(250, 150, -1))
    html = page(reader, link(html, "Oldest"))
    assert ids(html) == list(range(100, 0, -1))
    assert link(html, "Older") is None
    html = page(reader, link(html, "Newer"))
    assert ids(html) == list(range(200, 100, -1))
    html = page(reader, link(html, "Newer"))
    assert ids(html) == list(range(250, 150, -1)), "the newest full page, and not only the fifty newer messages"
    html = page(reader, link(html, "Newest"))
    assert ids(html) == list(range(250, 150, -1))


def test_filters_of_channel_type_and_text(reader: Client) -> None:
    publish("news", "Trains RUN again", event="alert")
    publish("news", "100% sure_of \\ it")
    publish("weather", "it runs dry", event="alert")
    assert ids(page(reader, channel="news")) == [2, 1]
    assert ids(page(reader, type="alert")) == [3, 1]
    assert ids(page(reader, text="run")) == [3, 1]
    assert ids(page(reader, text="run", channel="weather")) == [3]
    assert ids(page(reader, text="run", type="message")) == []
    for literal in ("100%", "sure_", "\\"):
        assert ids(page(reader, text=literal)) == [2]
    assert ids(page(reader, text="100_")) == []
    html = page(reader, channel="weather", text="run")
    assert 'value="weather"' in html
    assert 'value="run"' in html
    assert '<option value="news">' in html


def test_links_keep_the_filters(reader: Client) -> None:
    publish_some(150, event="a&b=c #")
    publish_some(3)
    html = page(reader, type="a&b=c #")
    assert ids(html) == list(range(150, 50, -1))
    html = page(reader, link(html, "Older"))
    assert ids(html) == list(range(50, 0, -1))
    assert link(html, "All messages") == LIST


def test_limited_search_can_be_continued(reader: Client, monkeypatch: Any) -> None:
    monkeypatch.setattr(listing, "SPAN_POSITIONS", 100)
    publish("news", "needle")
    publish_some(249)
    html = page(reader, text="needle")
    assert ids(html) == []
    assert "Searched events 151 to 250. No more messages match there." in text_of(html)
    html = page(reader, link(html, "Search older messages"))
    assert "Searched events 51 to 150. No more messages match there." in text_of(html)
    html = page(reader, link(html, "Search older messages"))
    assert ids(html) == [1]
    assert "Searched" not in text_of(html)

    html = page(reader, text="needle", after=0)
    assert ids(html) == [1]
    assert "Searched events 1 to 100. No more messages match there." in text_of(html)
    html = page(reader, link(html, "Search newer messages"))
    assert "Searched events 101 to 200. No more messages match there." in text_of(html)


@pytest.mark.parametrize("holes", [False, True], ids=["no-holes", "holes"])
@pytest.mark.parametrize("words", ["Search older messages", "Search newer messages"])
def test_continued_search_keeps_direction(reader: Client, monkeypatch: Any, words: str, holes: bool) -> None:
    monkeypatch.setattr(listing, "SPAN_POSITIONS", 10)
    publish_some(50)
    if holes:
        for first in (10, 20, 21, 30):  # at the edges of the searched ranges, and within them
            log.delete_through(first, start=first, limit=10)
    back = words == "Search older messages"
    html = page(reader, text="needle") if back else page(reader, text="needle", after=0)
    seen = []
    while (path := link(html, words)) is not None and len(seen) < 10:
        found = re.search(r"Searched events (\d+) to (\d+)\.", text_of(html))
        assert found is not None
        seen.append((int(found[1]), int(found[2])))
        html = page(reader, path)
    assert len(seen) >= 3, seen
    assert seen == sorted(set(seen), reverse=back), "each step searches another range, and all have the same direction"
    assert seen[-1][0] <= 20 if back else seen[-1][1] >= 40, "the search reaches the end of the log"
    assert "Searched" not in text_of(html), "the search ends there"
    assert "No more messages match the filter." in text_of(html)
    assert link(html, "Newer" if back else "Older") is not None


def test_large_messages_reduce_search_range(reader: Client, monkeypatch: Any) -> None:
    monkeypatch.setattr(listing, "SPAN_POSITIONS", 1000)
    monkeypatch.setattr(listing, "SPAN_BYTES", 10_000)
    for _ in range(120):
        publish("news", "x" * 100)
    assert "Searched events 21 to 120." in text_of(page(reader, text="needle"))
    assert "Searched" not in text_of(page(reader, type="needle")), "a filter by type reads no data"


@pytest.mark.parametrize("position", [{}, {"after": 0}], ids=["back", "on"])
def test_quiet_channel_is_searched_by_its_messages(reader: Client, monkeypatch: Any, position: dict[str, int]) -> None:
    monkeypatch.setattr(listing, "SPAN_POSITIONS", 10)
    monkeypatch.setattr(listing, "SPAN_OF_CHANNEL", 5)
    for n in range(4):
        publish("quiet", n, event="alert" if n in (0, 3) else "message")
        publish_some(40)
    assert ids(page(reader, channel="quiet", type="alert", **position)) == [124, 1]
    assert "Searched" not in text_of(page(reader, channel="quiet", type="alert", **position))
    assert ids(page(reader, channel="quiet", text="3", **position)) == [124]
    assert "Searched" not in text_of(page(reader, channel="quiet", text="3", **position))
    for n in range(4, 8):
        publish("quiet", n)
    html = page(reader, channel="quiet", text="none of them", **position)
    assert f"Searched events {'124 to 168' if not position else '1 to 165'}." in text_of(html)


def test_large_messages_of_channel_reduce_search_range(reader: Client, monkeypatch: Any) -> None:
    monkeypatch.setattr(listing, "SPAN_POSITIONS", 1000)
    monkeypatch.setattr(listing, "SPAN_OF_CHANNEL", 100)
    monkeypatch.setattr(listing, "SPAN_BYTES", 1_000)
    for _ in range(20):
        publish("quiet", "x" * 100)
        publish_some(10)
    assert "Searched events 111 to 210." in text_of(page(reader, channel="quiet", text="needle"))
    assert "Searched" not in text_of(page(reader, channel="quiet", type="needle")), "reads no data"


def test_pruned_positions_are_not_searched(reader: Client, monkeypatch: Any) -> None:
    monkeypatch.setattr(listing, "SPAN_POSITIONS", 100)
    publish("news", "needle")
    publish_some(300, "other")
    log.delete_through(300, start=2, limit=1000)
    publish_some(50)
    html = page(reader, text="needle")
    assert "Searched events 252 to 351." in text_of(html)
    html = page(reader, link(html, "Search older messages"))
    assert ids(html) == [1]


def test_day_filter_uses_current_time_zone(reader: Client, settings: Any) -> None:
    settings.TIME_ZONE = "America/New_York"
    rows = publish_some(6)
    times = ["03-01 04:59:59", "03-01 05:00:00", "03-02 04:59:59", "03-02 05:00:00", "03-02 12:00:00", "03-09 00:00:00"]
    for row, text in zip(rows, times, strict=True):
        moment = datetime.datetime.strptime(f"2026-{text}", "%Y-%m-%d %H:%M:%S").replace(tzinfo=datetime.UTC)
        Message.objects.filter(pk=row.pk).update(created_at=moment)
    assert ids(page(reader, day="2026-03-01")) == [3, 2]
    assert ids(page(reader, day="2026-03-02")) == [5, 4]
    assert ids(page(reader, day="2026-03-08")) == [6], (
        "published at 20:00 local time, on the day when summer time starts"
    )
    assert ids(page(reader, day="2026-03-05")) == []
    assert "No messages match the filter." in text_of(page(reader, day="2026-03-05"))


def test_day_filter_handles_late_commits_and_holes(reader: Client) -> None:
    rows = publish_some(300)
    start = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
    for n, row in enumerate(rows):
        Message.objects.filter(pk=row.pk).update(created_at=start + datetime.timedelta(hours=n))
    # This message was inserted on the second day, and committed twenty hours later.
    Message.objects.filter(position=60).update(created_at=start + datetime.timedelta(hours=40))
    log.delete_through(200, start=100, limit=1000)
    assert ids(page(reader, day="2026-03-02")) == [60, *range(48, 24, -1)]
    assert ids(page(reader, day="2026-03-03")) == [n for n in range(72, 48, -1) if n != 60]
    assert ids(page(reader, day="2026-03-07")) == []
    assert ids(page(reader, day="2026-03-09")) == list(range(216, 200, -1))
    assert ids(page(reader, day="2026-03-09", after=0)) == list(range(216, 200, -1))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"channel": "news room"}, "“news room” is not a valid channel name"),
        ({"channel": "x" * 100}, "at most 99 characters"),
        ({"day": "yesterday"}, "Enter a date such as 2026-01-31."),
        ({"day": "9999-12-31"}, "less than or equal to"),
        ({"day": "0001-01-01"}, "greater than or equal to"),
        ({"text": "x" * 201}, "at most 200 characters"),
        ({"text": "a\0b"}, "Null characters are not allowed"),
        ({"channel": "‮news"}, "U+202E"),
    ],
    ids=["channel", "long-channel", "no-day", "last-day", "first-day", "long-text", "nul", "bidi"],
)
def test_invalid_filter_explains(reader: Client, query: dict[str, str], expected: str) -> None:
    publish("news", "x")
    html = page(reader, **query)
    assert expected in text_of(html)
    assert "Please correct the filter above." in text_of(html)
    assert 'aria-invalid="true"' in html
    assert ids(html) == []


@pytest.mark.parametrize("cursor", ["x", "-1", "", "9" * 18, "9" * 4000, "1.5", "%00", "١"])
@pytest.mark.parametrize("name", ["before", "after"])
def test_any_cursor_gives_a_page(reader: Client, name: str, cursor: str) -> None:
    publish_some(3)
    assert set(ids(page(reader, **{name: cursor}))) <= {1, 2, 3}


def test_empty_log_says_so(reader: Client) -> None:
    assert "No messages have been published yet." in text_of(page(reader))
    publish_some(3)
    log.delete_through(3, limit=10)
    assert "all of them have expired. The newest event id was 3." in text_of(page(reader))
    for query in ({"channel": "news"}, {"day": "2026-01-01"}, {"text": "x", "after": 0}):
        assert "No messages match the filter." in text_of(page(reader, **query))


def test_unsequenced_messages_are_counted(reader: Client) -> None:
    publish("news", "there")
    for n in range(2):
        Message.objects.create(channel="news", data=f"waiting {n}", size=9)
    html = page(reader)
    assert ids(html) == [1]
    assert "2 messages have no event id yet" in text_of(html)
    Message.objects.bulk_create([Message(channel="news", data="w", size=1) for _ in range(150)])
    assert "At least 100 messages have no event id yet" in text_of(page(reader))
    log.sequence()
    assert "no event id yet" not in text_of(page(reader))


def test_list_reads_only_shown_data(reader: Client) -> None:
    for _ in range(20):
        publish("news", "x" * 200_000)
    with CaptureQueriesContext(connection) as queries:
        html = page(reader)
    assert len(html) < 60_000
    assert not [q["sql"] for q in queries if '"streams_message"."data",' in q["sql"] and "SUBSTR" not in q["sql"]]
    assert not [q["sql"] for q in queries if "COUNT(" in q["sql"] and "streams_message" in q["sql"]]


@pytest.mark.skipif(connection.vendor != "sqlite", reason="It counts the steps of SQLite.")
def test_page_within_a_day_starts_at_its_position() -> None:
    rows = [Message(position=n, channel="news", data="x", size=1) for n in range(1, 20_001)]
    Message.objects.bulk_create(rows, batch_size=5000)
    LogHead.objects.update_or_create(id=LogHead.ROW, defaults={"head": 20_000})
    today = listing.Filters(day=timezone.localdate())
    with sqlite_steps() as steps:
        newest = listing.find_page(today)
    most = len(steps)
    with sqlite_steps() as steps:
        older = listing.find_page(today, before=1000)
    assert [found.rows[0]["position"] for found in (newest, older)] == [20_000, 999]
    assert len(steps) <= most + 20, "it does not read from the end of the day to the position"
