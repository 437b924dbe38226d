"""Pruning by age, by count, and by several limits together."""

from __future__ import annotations

import datetime
import itertools
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from streams import NewMessage, log, publish
from streams.log import retention
from streams.models import Message
from tests.log.support import age, left, publish_some, settle
from tests.support.reads import tail

pytestmark = pytest.mark.django_db(transaction=True)


YEARS = -10 * 366 * 86_400.0


# --- By age -----------------------------------------------------------------------------------------------------------


def test_no_limits_prune_nothing(keep: Any) -> None:
    publish_some(5)
    age(10**9, 1, 2, 3, 4, 5)
    assert retention.prune() == 0
    assert left() == [1, 2, 3, 4, 5]


def test_messages_beyond_the_age_are_pruned(keep: Any) -> None:
    keep(RETENTION_SECONDS=3600)
    publish_some(5, "ab")
    age(4000, 1, 2)
    age(3000, 3)
    assert retention.prune() == 2
    assert left() == [3, 4, 5]
    assert log.pruned(["a", "b"], 0) == {"a": 1, "b": 2}
    assert retention.prune() == 0


def test_all_messages_can_expire(keep: Any) -> None:
    keep(RETENTION_SECONDS=3600)
    publish_some(3)
    age(4000, 1, 2, 3)
    assert retention.prune() == 3
    assert tail(0) == (3, [])
    assert publish("a", "x").position == 4


def test_age_prunes_only_the_beginning(keep: Any) -> None:
    """A message of a long transaction is older than its neighbors, and messages before it are still kept."""
    keep(RETENTION_SECONDS=3600)
    publish_some(4)
    age(4000, 1, 3)
    assert retention.prune() == 1
    assert left() == [2, 3, 4]


def test_age_beyond_all_dates_prunes_nothing(keep: Any) -> None:
    publish_some(1)
    for seconds in (10**12, 10**15):
        keep(RETENTION_SECONDS=seconds)
        assert retention.prune() == 0
    assert left() == [1]


def test_default_age_is_a_week(settings: Any) -> None:
    assert "RETENTION_SECONDS" not in settings.STREAMS
    publish_some(2)
    age(8 * 86_400, 1)
    age(6 * 86_400, 2)
    assert retention.prune() == 1
    assert left() == [2]


def test_message_published_during_pruning_stays(keep: Any) -> None:
    keep(RETENTION_SECONDS=3600)
    publish_some(3)
    age(4000, 1, 2, 3)
    queries = itertools.count()

    def publish_after_the_second_look(execute: Any, sql: str, *args: Any) -> Any:
        result = execute(sql, *args)
        if sql.startswith("SELECT") and "created_at" in sql and next(queries) == 1:
            publish("a", "fresh")
        return result

    with connection.execute_wrapper(publish_after_the_second_look):
        assert retention.prune() == 3
    assert left() == [4]


# --- Dates in the future ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("future", [1, 2, 4])
def test_future_date_stops_no_pruning(keep: Any, future: int) -> None:
    """It is pruned together with the expired messages that follow it."""
    keep(RETENTION_SECONDS=3600)
    publish_some(6, "ab")
    age(4000, 1, 2, 3, 4, 5)
    age(YEARS, future)
    assert retention.prune() == 5
    assert left() == [6]
    assert log.pruned(["a", "b"], 0) == {"a": 5, "b": 4}


def test_future_date_waits_for_later_messages(keep: Any) -> None:
    keep(RETENTION_SECONDS=3600)
    publish_some(5)
    age(4000, 1)
    age(YEARS, 2, 3)
    assert retention.prune() == 1
    assert left() == [2, 3, 4, 5]
    age(4000, 4)
    assert retention.prune() == 3
    assert left() == [5]


@pytest.mark.parametrize("own", [None, 3600])
def test_newest_future_date_is_corrected(keep: Any, own: int | None) -> None:
    """No later message shows its age, so that it gets the present time as its date."""
    keep(RETENTION_SECONDS=3600 if own is None else None)
    if own is not None:
        settle("a", seconds=own)
    publish_some(3)
    age(4000, 1)
    age(YEARS, 2, 3)
    assert [cut.through for cut in retention.cuts()] == [1]
    assert retention.prune() == 1
    assert left() == [2, 3]
    dated = Message.objects.get(position=3).created_at
    assert abs(timezone.now() - dated) < datetime.timedelta(minutes=5)
    age(4000, 3)
    assert retention.prune() == 2


# --- By count, and all limits together --------------------------------------------------------------------------------


def test_count_keeps_each_channels_newest(keep: Any) -> None:
    keep(RETENTION_MESSAGES_PER_CHANNEL=3)
    publish_some(9, "aab")  # a: 1 2 4 5 7 8, b: 3 6 9
    publish("quiet", "x")
    assert retention.prune() == 3
    assert left() == [3, 5, 6, 7, 8, 9, 10]
    assert log.pruned(["a", "b", "quiet"], 0) == {"a": 4}
    assert retention.prune() == 0


def test_limits_apply_together(keep: Any) -> None:
    keep(RETENTION_SECONDS=3600, RETENTION_MESSAGES_PER_CHANNEL=3, RETENTION_BYTES=6)
    publish_some(10, "ab")
    age(4000, 1, 2)
    assert retention.prune() == 4  # two by age, two by bytes; then each channel has three
    assert left() == [5, 6, 7, 8, 9, 10]
    keep(RETENTION_MESSAGES_PER_CHANNEL=1)
    assert retention.prune() == 4
    assert left() == [9, 10]


def test_unsequenced_messages_stay(keep: Any) -> None:
    keep(RETENTION_SECONDS=1, RETENTION_MESSAGES_PER_CHANNEL=1, RETENTION_BYTES=1)
    log.append([NewMessage("a", "waiting")])
    Message.objects.update(created_at=timezone.now() - datetime.timedelta(days=1))
    assert retention.prune() == 0
    assert Message.objects.count() == 1


def test_cuts_delete_nothing(keep: Any) -> None:
    """Cuts only describe the messages that a pruning would delete."""
    keep(RETENTION_SECONDS=3600, RETENTION_MESSAGES_PER_CHANNEL=2)
    publish_some(6)
    age(4000, 1)
    cuts = list(retention.cuts())
    assert cuts == [retention.Cut(1, None, "age"), retention.Cut(4, "a", "count")]
    assert [cut.messages() for cut in cuts] == [1, 4]
    assert left() == [1, 2, 3, 4, 5, 6]
