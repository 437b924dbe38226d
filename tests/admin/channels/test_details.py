"""The descriptions of durations and retention, and the order of channel names."""

from __future__ import annotations

from typing import Any

import pytest

from streams import publish
from streams.admin.channels.details import describe_retention, describe_seconds
from streams.log.catalog import known_names
from streams.models import ChannelSettings

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "forever"),
        (0, "forever"),
        (1, "1 second"),
        (90, "90 seconds"),
        (0.5, "0.5 seconds"),
        (60, "1 minute"),
        (5400, "90 minutes"),
        (7200, "2 hours"),
        (86_400, "1 day"),
        (604_800, "7 days"),
        (31_536_000, "1 year"),
        (1e15, "1,000,000,000,000,000 seconds"),
    ],
)
def test_describe_seconds(seconds: float | None, words: str) -> None:
    assert describe_seconds(seconds).replace(",", "") == words.replace(",", "")


def test_retention_says_whose_it_is(settings: Any) -> None:
    settings.STREAMS = {"RETENTION_SECONDS": 3600, "RETENTION_MESSAGES_PER_CHANNEL": 100}
    assert describe_retention(None) == "1 hour, at most 100 messages (site setting)"
    assert describe_retention(ChannelSettings(retention_messages=0)) == "1 hour (own setting)"
    assert describe_retention(ChannelSettings(retention_seconds=0)) == "forever, at most 100 messages (own setting)"


def test_names_follow_database_order() -> None:
    for name in ("b", "a", "B", "a.b", "a-b", "ab", "A"):
        publish(name, "x")
    everything = known_names({}, limit=100)
    pages = [known_names({}, after=after, limit=1) for after in ["", *everything]]
    assert pages == [*([name] for name in everything), []]
