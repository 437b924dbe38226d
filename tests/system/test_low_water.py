"""Searches for messages without a position start at the low-water mark."""

from __future__ import annotations

import pytest
from django.db import transaction

from streams import log, publish
from streams.log import low_water
from streams.models import Message
from tests.support.sites import Site, finish
from tests.system.support import assert_no_holes, send_line, wait_for_line

pytestmark = pytest.mark.once


def commit_late() -> None:
    """Commit a message after other processes have moved their mark past its id, as after a long transaction."""
    low_water.DELAY_SECONDS = 0.0
    with transaction.atomic():
        message = publish("news", "late")
        send_line("published")
        wait_for_line("go on")
    print(message.position)


def test_message_below_the_mark_is_numbered(postgres_site: Site) -> None:
    late = postgres_site.call(commit_late)
    late.expect_line("published")
    postgres_site.manage("publish", "news", "first")
    late.write_line("go on")
    assert finish(late) == "2\n"
    assert assert_no_holes(postgres_site) == ["first", "late"]


def search_with_and_without_the_mark() -> None:
    low_water._STEP_SECONDS = 0.0
    low_water.DELAY_SECONDS = 0.0
    for _ in range(3):  # the mark is used from the third one, when the identity of the database is known
        publish("news", "moves the mark")
    log.head()  # the first poll searches without the mark
    mark = low_water.LOW_WATER.mark()
    assert mark == Message.objects.order_by("-pk").values_list("pk", flat=True)[0]
    Message.objects.filter(pk=mark).update(position=None)
    assert not log.head().unsequenced, "the search starts at the mark"
    publish("news", "numbered without it")
    low_water.FULL_SEARCH_SECONDS = 0.0
    assert log.current_head() == 5, "a search without the mark finds and numbers it"
    assert Message.objects.get(pk=mark).position == 5


def test_mark_hides_no_message_for_long(postgres_site: Site) -> None:
    finish(postgres_site.call(search_with_and_without_the_mark))


def test_mark_belongs_to_one_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a restored copy of the log, the same ids are used again."""
    monkeypatch.setattr(low_water, "DELAY_SECONDS", 0.0)
    water = low_water.LowWater()
    assert water.mark() == 0
    water.record(100, 1)
    assert water.mark() == 100
    water.record(7, 2)
    assert water.mark() == 7
