"""The figures of the log for monitoring."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import override_settings
from django.utils import timezone

from streams import NewMessage, publish, publish_many
from streams.log import append, figures
from streams.models import ChannelSettings, Message
from streams.protocol.events import check

pytestmark = pytest.mark.django_db

HOUR = {"RETENTION_SECONDS": 3600}


def make_old(channel: str, hours: int) -> None:
    Message.objects.filter(channel=channel).update(created_at=timezone.now() - timedelta(hours=hours))


def test_empty_log_has_figures() -> None:
    assert (figures.head(), figures.unsequenced(), figures.pruning_lag()) == ({"": 0}, {"": 0}, {"": 0})


def test_head_and_waiting_messages_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    publish("news", "x")
    append([check(NewMessage("news", f"{n}")) for n in range(3)])
    assert (figures.head(), figures.unsequenced()) == ({"": 1}, {"": 3})
    monkeypatch.setattr(figures, "MAX_UNSEQUENCED", 2)
    assert figures.unsequenced() == {"": 2}, "the search is bounded"


@override_settings(STREAMS=HOUR)
def test_lag_is_the_age_beyond_the_retention() -> None:
    publish("news", "old")
    publish("other", "new")
    make_old("news", 3)
    assert 7190 < figures.pruning_lag()[""] < 7300


@override_settings(STREAMS=HOUR)
def test_channel_with_its_own_retention_is_no_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    publish_many([NewMessage("kept", "old"), NewMessage("kept", "old"), NewMessage("news", "old")])
    make_old("kept", 9)
    make_old("news", 2)
    ChannelSettings.objects.create(channel="kept", retention_seconds=0)
    assert 3590 < figures.pruning_lag()[""] < 3700
    monkeypatch.setattr(figures, "OLDEST_MESSAGES", 2)
    assert figures.pruning_lag() == {}, "the search is bounded"
    Message.objects.filter(channel="news").delete()
    monkeypatch.setattr(figures, "OLDEST_MESSAGES", 3)
    assert figures.pruning_lag() == {"": 0.0}


@override_settings(STREAMS={"RETENTION_SECONDS": None})
def test_log_without_retention_has_no_lag() -> None:
    publish("news", "x")
    assert figures.pruning_lag() == {}
