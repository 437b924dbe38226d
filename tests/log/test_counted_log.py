"""Pruning by count counts the whole log once, and then only the channels with new messages."""

from __future__ import annotations

from typing import Any

import pytest

from streams.channels.rules import Retention
from streams.log import retention
from streams.log.retention import CountedLog
from streams.models import LogHead, Message
from tests.log.support import left, publish_some

pytestmark = pytest.mark.django_db(transaction=True)


def counted_from(counted: CountedLog) -> tuple[int, int]:
    """Prune. Return how many messages were deleted, and the position from which channels were counted."""
    starts: list[int] = []
    cuts = retention.cuts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retention, "cuts", lambda own, through: starts.append(through) or cuts(own, through))
        pruned = retention.prune(counted=counted)
    [start] = starts
    return pruned, start


def test_next_pruning_counts_channels_with_new_messages(keep: Any) -> None:
    keep(RETENTION_MESSAGES_PER_CHANNEL=2)
    counted = CountedLog()
    publish_some(9, "abc")
    assert counted_from(counted) == (3, 0)
    assert left() == [4, 5, 6, 7, 8, 9]
    publish_some(2, "a")
    assert counted_from(counted) == (2, 9)
    assert left() == [5, 6, 8, 9, 10, 11]
    assert counted_from(counted) == (0, 11)


def test_all_is_counted_for_another_limit(keep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(RETENTION_MESSAGES_PER_CHANNEL=3)
    counted = CountedLog()
    publish_some(6, "ab")
    assert counted_from(counted) == (0, 0)
    keep(RETENTION_MESSAGES_PER_CHANNEL=2)
    assert counted_from(counted) == (2, 0)
    own = {"b": Retention(None, 0)}
    monkeypatch.setattr("streams.channels.rules.retentions", lambda: own)
    assert counted_from(counted) == (0, 0)
    own.clear()
    assert counted_from(counted) == (0, 0)


def test_pruning_that_stops_counts_all_again(keep: Any) -> None:
    keep(RETENTION_MESSAGES_PER_CHANNEL=1)
    counted = CountedLog()
    publish_some(6, "ab")
    goes_on = iter([True, False, False, False])
    retention.prune(counted=counted, goes_on=lambda: next(goes_on))
    rest = len(left())
    assert rest > 2
    assert counted_from(counted) == (rest - 2, 0)
    assert left() == [5, 6]


def test_all_is_counted_in_another_log(keep: Any) -> None:
    keep(RETENTION_MESSAGES_PER_CHANNEL=1)
    counted = CountedLog()
    publish_some(4)
    assert counted_from(counted) == (3, 0)
    Message.objects.all().delete()
    LogHead.objects.all().delete()
    publish_some(3)
    assert counted_from(counted) == (2, 0)


def test_all_is_counted_again_after_a_day(keep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(RETENTION_MESSAGES_PER_CHANNEL=1)
    counted = CountedLog()
    publish_some(2)
    assert [counted_from(counted) for _ in range(2)] == [(1, 0), (0, 2)]
    monkeypatch.setattr(retention, "RECOUNT_SECONDS", 0.0)
    assert counted_from(counted) == (0, 0)
