"""Findings about the message in the log."""

from __future__ import annotations

import re

import pytest

from streams import log, publish
from streams.admin.diagnosis.findings import Verdict
from streams.models import Channel, LogHead, Message
from tests.admin.diagnosis.support import about, as_text, ask

pytestmark = pytest.mark.django_db(transaction=True)


def test_message_in_the_log() -> None:
    publish("news", "x")
    first = ask(1)[0]
    assert first.verdict is Verdict.GOOD
    assert re.search(r"Event 1 is in the log, in channel news. It was published at .* UTC\.$", first.sentence)


def test_id_that_was_never_given() -> None:
    publish("news", "x")
    [finding] = ask(2)
    assert finding.verdict is Verdict.BAD
    assert "There is no event 2. The newest event is 1." in finding.sentence
    assert "rolled back" in finding.remedy


def test_id_of_lost_history() -> None:
    publish("news", "x")
    publish("news", "y")
    log.start_new_epoch("restored", fork=1)
    position = publish("news", "z").position
    assert position is not None
    finding = ask(position - 5)[0]
    assert (finding.verdict, "belongs to a lost history" in finding.sentence) == (Verdict.BAD, True)
    assert about(ask(position, last_event_id="2"), "“2” belongs to a lost history").verdict is Verdict.NOTE
    assert about(ask(position, last_event_id="1"), "A stream that resumes from 1").verdict is Verdict.GOOD
    assert about(ask(position, last_event_id=str(position - 1)), "resumes from").verdict is Verdict.GOOD


def test_empty_log() -> None:
    assert "There is no event 1. The newest event is 0." in ask(1)[0].sentence


def test_message_that_waits_for_its_place() -> None:
    publish("news", "x")
    Message.objects.create(channel="news", data="waits", size=5)
    findings = ask(2)
    assert [each.verdict for each in findings] == [Verdict.BAD, Verdict.NOTE]
    assert "Some messages have no event id yet" in findings[1].sentence
    assert Message.objects.filter(position=None).count() == 1, "the diagnosis does not change the log"
    log.sequence()
    assert ask(2)[0].verdict is Verdict.GOOD


def test_message_that_was_pruned() -> None:
    for n in range(3):
        publish("news", n)
    log.delete_through(2, limit=10)
    [finding] = ask(1)
    assert finding.verdict is Verdict.BAD
    assert (
        "is no longer in the log. It expired and was deleted, unless its row was deleted in another way."
        in finding.sentence
    )
    assert "stream-reset" in finding.remedy
    assert ask(3)[0].verdict is Verdict.GOOD


def test_message_pruned_below_floor_is_recognised() -> None:
    publish("news", "x")
    publish("other", "x")
    log.delete_through(2, limit=10)
    log.forget_pruned_channels(keep=0)
    assert not Channel.objects.exists()
    assert LogHead.objects.get().floor == 2
    assert "It expired" in ask(1)[0].sentence


def test_message_that_somebody_deleted_by_hand() -> None:
    publish("news", "x")
    publish("news", "y")
    Message.objects.filter(position=1).delete()
    [finding] = ask(1)
    assert "it did not expire. Its row was deleted in another way" in finding.sentence


def test_neighbours_in_the_channel() -> None:
    for channel in ("news", "other", "news", "other", "news"):
        publish(channel, "x")
    assert "The next event in this channel is 5." in as_text(ask(3))
    assert "This is the newest event in its channel. The previous one is 3." in as_text(ask(5))
    publish("alone", "x")
    assert "event in this channel is" not in as_text(ask(6))
    assert "The previous one" not in as_text(ask(6))
