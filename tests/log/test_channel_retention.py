"""Channels with their own retention settings."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from django.utils import timezone

from streams import NewMessage, log, publish, publish_many
from streams.log import retention
from streams.models import ChannelSettings, Message
from tests.log.support import age, left, publish_some, settle

pytestmark = pytest.mark.django_db(transaction=True)


def test_channel_can_keep_messages_longer(keep: Any) -> None:
    keep(RETENTION_SECONDS=3600)
    settle("b", seconds=10_000)
    publish_some(6, "ab")  # a: 1 3 5, b: 2 4 6
    age(20_000, 2)
    age(4000, 1, 3, 4)
    assert retention.prune() == 3
    assert left() == [4, 5, 6]
    assert log.pruned(["a", "b"], 0) == {"a": 3, "b": 2}


def test_channel_can_keep_messages_shorter(keep: Any) -> None:
    keep(RETENTION_SECONDS=3600)
    settle("b", seconds=60)
    publish_some(6, "ab")
    age(100, 1, 2, 3, 4)
    assert retention.prune() == 2
    assert left() == [1, 3, 5, 6]


def test_channel_can_have_the_only_age(keep: Any) -> None:
    settle("b", seconds=60)
    publish_some(4, "ab")
    age(100, 1, 2, 3, 4)
    assert retention.prune() == 2
    assert left() == [1, 3]


def test_channel_can_keep_all_messages(keep: Any) -> None:
    keep(RETENTION_SECONDS=3600, RETENTION_MESSAGES_PER_CHANNEL=1)
    settle("b", seconds=0, messages=0)
    publish_some(6, "ab")
    age(10**8, 1, 2, 3, 4, 5, 6)
    assert retention.prune() == 3
    assert left() == [2, 4, 6]
    assert retention.prune() == 0


def test_channel_can_keep_another_count(keep: Any) -> None:
    keep(RETENTION_MESSAGES_PER_CHANNEL=2)
    settle("b", messages=3)
    settle("c", messages=1)
    publish_some(12, "abc")  # a: 1 4 7 10, b: 2 5 8 11, c: 3 6 9 12
    assert retention.prune() == 2 + 1 + 3
    assert left() == [5, 7, 8, 10, 11, 12]


def test_channel_inherits_the_sites_limits(keep: Any) -> None:
    keep(RETENTION_SECONDS=3600, RETENTION_MESSAGES_PER_CHANNEL=2)
    settle("b", messages=0)  # a count, but no age
    settle("c", seconds=0)  # an age, but no count
    settle("d")
    publish_many([NewMessage(channel, "x") for channel in "bbbbccccdddd"])
    age(4000, 1, 5, 9)
    retention.prune()
    assert left() == [2, 3, 4, 7, 8, 11, 12]


def test_bytes_limit_includes_every_channel(keep: Any) -> None:
    keep(RETENTION_BYTES=2)
    settle("b", seconds=0, messages=0)
    publish_some(5, "ab")
    assert retention.prune() == 3
    assert left() == [4, 5]


def test_every_batch_skips_spared_messages(keep: Any) -> None:
    keep(RETENTION_SECONDS=3600)
    settle("b", seconds=0)
    count = 2 * retention.BATCH_MESSAGES + 10
    publish_some(2 * count, "ab")
    Message.objects.update(created_at=timezone.now() - datetime.timedelta(days=1))
    assert retention.prune() == count
    assert set(Message.objects.values_list("channel", flat=True)) == {"b"}
    assert Message.objects.count() == count
    assert log.pruned(["a", "b"], 0) == {"a": 2 * count - 1}


def test_spared_message_stops_no_other_pruning(keep: Any) -> None:
    keep(RETENTION_SECONDS=3600)
    settle("b", seconds=10_000)
    publish_some(3, "ba")  # b, a, b
    publish("a", "x")
    age(4000, 2, 4)
    assert retention.prune() == 2
    assert left() == [1, 3]


def test_cuts_name_spared_channels(keep: Any) -> None:
    keep(RETENTION_SECONDS=3600)
    settle("b", seconds=60)
    settle("c", seconds=0)
    publish_some(3, "abc")
    age(4000, 1, 2, 3)
    assert list(retention.cuts()) == [retention.Cut(1, None, "age", ("b", "c")), retention.Cut(2, "b", "age")]
    assert [cut.messages() for cut in retention.cuts()] == [1, 1]


def test_setting_changed_during_pruning_applies(keep: Any, monkeypatch: Any) -> None:
    publish_some(6, channels="ab")
    age(100, *range(1, 7))
    keep(RETENTION_SECONDS=50)
    monkeypatch.setattr(retention, "BATCH_MESSAGES", 1)
    real = log.delete_through

    def delete_through(*args: Any, **kwargs: Any) -> int:
        count = real(*args, **kwargs)
        ChannelSettings.objects.get_or_create(channel="b", retention_seconds=0)  # after the first batch
        return count

    monkeypatch.setattr(log, "delete_through", delete_through)
    assert retention.prune() == 3
    assert left() == [2, 4, 6]
