"""What the doctor says about the clock, messages without a position, pruning, and processes."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from django.utils import timezone

from streams import publish
from streams.doctor import log
from streams.doctor.findings import Finding
from streams.doctor.log import check_clock, check_pruning, check_waiting
from streams.log import retention
from streams.models import Lease, Message
from tests.admin.test_nodes import make

pytestmark = pytest.mark.django_db(transaction=True)


def ago(**parts: float) -> datetime.datetime:
    return timezone.now() - datetime.timedelta(**parts)


# --- The clock --------------------------------------------------------------------------------------------------------


def test_equal_clocks_are_good() -> None:
    [found] = check_clock()
    assert found.level.name == "OK"


@pytest.mark.parametrize(
    ("seconds", "level", "text"),
    [(-2, "OK", "behind"), (30, "WARNING", "30.0 s ahead of"), (-900, "PROBLEM", "900.0 s behind")],
)
def test_wrong_clock_is_found(monkeypatch: pytest.MonkeyPatch, seconds: float, level: str, text: str) -> None:
    class Far:
        vendor = "postgresql"

    monkeypatch.setattr(log, "log_connection", Far)
    monkeypatch.setattr(log, "in_time", lambda function: ago(seconds=seconds))
    [found] = check_clock()
    assert found.level.name == level
    assert text in found.text
    assert ("NTP" in found.remedy) == (level != "OK")


# --- Messages that wait -----------------------------------------------------------------------------------------------


def wait_for_position(created_at: datetime.datetime) -> None:
    """Take the position of a message away, as if the process had died before it gave one."""
    publish("news", "x")
    Message.objects.update(position=None, created_at=created_at)


def test_numbered_messages_are_good() -> None:
    publish("news", "x")
    [found] = check_waiting()
    assert found.text == "All messages have their positions."


def test_message_that_just_waits_is_good() -> None:
    wait_for_position(ago(seconds=10))
    [found] = check_waiting()
    assert found.level.name == "OK"


@pytest.mark.parametrize("has_process", [False, True])
def test_old_message_that_waits_is_found(settings: Any, has_process: bool) -> None:
    settings.STREAMS = {"POLL_SECONDS": 0.01}
    wait_for_position(ago(hours=1))
    if has_process:
        make()
    [found] = check_waiting()
    assert found.level.name == ("PROBLEM" if has_process else "WARNING")
    assert found.text.startswith("Messages without a position: 1, the oldest from ")
    assert ("pg_stat_activity" in found.remedy) == has_process
    assert ("`manage.py publish CHANNEL DATA`" in found.remedy) != has_process


def test_message_that_gets_its_position_is_good(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction of an hour has just committed, and the doctor looks a second time."""
    settings.STREAMS = {"POLL_SECONDS": 0.01}
    wait_for_position(ago(hours=1))
    monkeypatch.setattr(log.time, "sleep", lambda seconds: Message.objects.update(position=2))
    [found] = check_waiting()
    assert found.level.name == "OK"


# --- Pruning ----------------------------------------------------------------------------------------------------------


def expire(last: datetime.datetime | None) -> None:
    """Store a message that has expired. The next pruning was due at `last`; None if there was none."""
    publish("news", "x")
    Message.objects.update(created_at=ago(days=30))
    publish("news", "y")
    if last is not None:
        Lease.objects.update_or_create(name=retention.LEASE, defaults={"expires_at": last})


def test_log_without_expired_messages_is_good() -> None:
    publish("news", "x")
    [found] = check_pruning()
    assert found.text == "No expired message is left."


def test_expired_messages_before_next_pruning_are_good() -> None:
    expire(ago(seconds=30))
    [found] = check_pruning()
    assert (found.level.name, found.text) == ("OK", "Expired messages since the last pruning: 1.")


@pytest.mark.parametrize("last", [None, "long ago"])
def test_late_pruning_is_found(last: str | None) -> None:
    expire(None if last is None else ago(hours=3))
    [found] = check_pruning()
    assert found.level.name == "WARNING"
    assert "Expired messages: 1. No process has pruned" in found.text
    assert "`manage.py prune_messages` by cron" in found.remedy
    make()
    [found] = check_pruning()
    assert found.level.name == "PROBLEM"
    assert "should prune every 60 s" in found.text


def test_pruning_that_is_off_is_found(settings: Any) -> None:
    settings.STREAMS = {"PRUNE_SECONDS": None}
    expire(ago(hours=3))
    [found] = check_pruning()
    assert (found.level.name, found.remedy) == ("WARNING", "Run `manage.py prune_messages` by cron.")
    settings.STREAMS = {"RETENTION_SECONDS": None}
    [found] = check_pruning()
    assert "No message is ever deleted" in found.text
    assert "'RETENTION_SECONDS': 604800" in found.remedy


# --- Processes --------------------------------------------------------------------------------------------------------


def processes() -> list[Finding]:
    return list(log.check_processes())


def test_processes_that_work_are_good() -> None:
    make("a", connections=3)
    [found] = processes()
    assert found.text == "Processes that serve streams: 1. Open streams: 3."


def test_process_without_its_notifier_is_found() -> None:
    make("a", notifier_problem="ConnectionError")
    found, _ = processes()
    assert found.level.name == "PROBLEM"
    assert "The notifier of process web-1:7 has failed (ConnectionError)." in found.text
    assert "`streams.notifiers`" in found.remedy


def test_silent_process_is_found() -> None:
    make("a", seen_seconds_ago=13)
    found, _ = processes()
    assert found.level.name == "WARNING"
    assert "has not reported for 13 s" in found.text


def test_processes_with_different_notifiers_are_found() -> None:
    make("a", notifier="streams.notifiers.postgres.PostgresNotifier")
    found, _ = processes()
    assert found.level.name == "PROBLEM"
    assert "Use the same STREAMS['NOTIFIER']" in found.remedy


def test_several_processes_need_a_notifier() -> None:
    make("a")
    make("b")
    found, _ = processes()
    assert (found.level.name, found.check) == ("WARNING", "notifier")
    assert "PostgresNotifier" in found.remedy


def test_unknown_processes_are_not_counted(settings: Any) -> None:
    settings.STREAMS = {"PRESENCE_SECONDS": None}
    assert "PRESENCE_SECONDS is None" in processes()[0].text
