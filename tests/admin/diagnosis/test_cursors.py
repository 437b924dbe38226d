"""Findings about the client's last event id, compared with real streams."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.test import AsyncClient, AsyncRequestFactory

from streams import apublish, log, publish
from streams.admin.diagnosis.findings import Verdict
from streams.testing import iterate_events
from streams.views import EventStreamView
from tests.admin.diagnosis.support import about, as_text, ask

pytestmark = pytest.mark.django_db(transaction=True)


async def stream(cursor: str, **query: str) -> tuple[str | None, list[int]]:
    """Open a stream of `news` with this cursor, and return the reason of a reset and the ids of the events."""
    response = await AsyncClient().get("/events/news/", {"last_event_id": cursor, **query})
    reason, ids, begun = None, [], False
    async with asyncio.timeout(30):
        async for event in iterate_events(response, control=True):
            if not begun:
                begun = True
                await apublish("news", "end")
            if event.event == "stream-reset":
                reason = json.loads(event.data)["reason"]
            elif event.data == "end":
                break
            elif not event.event.startswith("stream-"):
                ids.append(int(event.id))
    return reason, ids


@pytest.mark.parametrize("pruned", [0, 3, 6, 9], ids=lambda n: f"pruned-{n}")
@pytest.mark.parametrize("cursor", ["", "0", "2", "3", "4", "6", "006", "7", "8", "10", "11", "9" * 18, "9" * 19])
def test_cursor_does_what_is_said(cursor: str, pruned: int) -> None:
    for n in range(1, 11):
        publish("news" if n % 2 else "other", n)
    log.delete_through(pruned, channel="news", limit=10)
    _agrees(11 if pruned == 9 else 7, cursor)


@pytest.mark.parametrize("cursor", ["abc", "-1", "1.5", "٧", "7 8", "<b>"])
def test_malformed_cursor_does_what_is_said(cursor: str) -> None:
    for n in range(1, 11):
        publish("news" if n % 2 else "other", n)
    _agrees(7, cursor)


def _agrees(position: int, cursor: str) -> None:
    """Compare the finding about the cursor with the events of a real stream."""
    if position == 11:
        publish("news", "after everything was pruned")
    findings = ask(position, last_event_id=cursor)
    about_cursor = next(
        each
        for each in findings
        if re.search("^No last event id|all events up to|that resumes from|starts with a", each.sentence)
    )
    reason, ids = async_to_sync(stream)(cursor)
    if cursor:
        assert (position in ids) == (about_cursor.verdict is not Verdict.BAD), (about_cursor, ids)
    else:
        assert (about_cursor.verdict, ids) == (Verdict.NOTE, [])
    reset = re.search(r"stream-reset event \(([\w-]+)\)", about_cursor.sentence)
    assert (reset and reset[1]) == reason
    if position in ids:
        before = re.search(r"after (\d+) other messages? of this channel", about_cursor.sentence)
        assert before is not None
        assert int(before[1]) == ids.index(position)


def test_missing_cursor_suggests_replay() -> None:
    for n in range(1, 11):
        publish("news" if n % 2 else "other", n)
    finding = about(ask(5), "No last event id was given: the client has none, or you do not know it.")
    assert finding.verdict is Verdict.NOTE, "the client can have a cursor that the staff user does not know"
    assert "under “Network”" in finding.remedy
    assert "unless the view sends a snapshot (get_snapshot)" in finding.remedy
    assert "starts at the newest event, now 10" in finding.sentence
    assert "?replay=3 or more delivers this event now" in finding.remedy
    assert "stream_url" in finding.remedy

    assert async_to_sync(stream)("", replay="3") == (None, [5, 7, 9])


def test_missing_cursor_beyond_replay_explains(settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "MAX_REPLAY_MESSAGES": 3}
    for n in range(4):
        publish("news", n)
    assert "?replay= cannot reach this event" in about(ask(1), "No last event id").remedy
    assert "?replay=3 or more" in about(ask(2), "No last event id").remedy


@pytest.mark.parametrize("cursor", ["x", "9" * 18, "1"], ids=["malformed", "unknown", "pruned"])
def test_reset_finding_mentions_snapshots(cursor: str) -> None:
    for n in range(5):
        publish("news", n)
    log.delete_through(3, limit=10)
    finding = about(ask(4, last_event_id=cursor), "starts with a stream-reset event")
    assert (
        "this event too, after 0 other messages of this channel, unless the view sends a snapshot" in finding.sentence
    )

    async def begin() -> list[str]:
        response = await snapshots(AsyncRequestFactory().get("/", {"last_event_id": cursor}))
        seen = []
        async with asyncio.timeout(30):
            async for event in iterate_events(response, control=True):
                if event.event == "stream-snapshot":
                    await apublish("news", "end")
                seen.append(event.data if event.event == "message" else event.event)
                if event.data == "end":
                    break
        return [each for each in seen if each != "stream-open"]

    assert async_to_sync(begin)()[-3:] == ["stream-reset", "stream-snapshot", "end"]


class Snapshots(EventStreamView):
    def get_channels(self, request: Any, **kwargs: Any) -> list[str]:
        return ["news"]

    async def get_snapshot(self, request: Any, channels: Any) -> str:
        return "the state"


snapshots = Snapshots.as_view()


def test_long_cursor_is_shortened() -> None:
    publish("news", "x")
    assert len(as_text(ask(1, last_event_id="x" * 1000))) < 3000
