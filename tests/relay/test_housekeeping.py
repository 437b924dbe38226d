"""Housekeeping ends generations without a worker, and compacts and deletes old ones."""

from __future__ import annotations

import datetime
import time
from typing import Any

import pytest
from django.db.models.functions import Now
from django.test import override_settings
from django.utils import timezone

from streams import publish
from streams.models import Message
from streams.relay.generations import housekeeping, store
from streams.relay.generations.endings import Ending
from streams.relay.models import Generation, Usage
from tests.relay.stored import State, ask, database, expire_lease, messages_of, pieces, running, text_of


@database
def test_generation_of_dead_worker_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "CONFIRM_SECONDS", 0.0)
    one = running()
    store.write("w", [pieces(one, "a")])
    expire_lease(one)
    assert not housekeeping.reap()
    assert [event for event, _ in messages_of(one)] == ["message", "end"]
    one.refresh_from_db()
    assert (one.state, one.error_code, one.text) == (State.INTERRUPTED, "interrupted", "a")
    [cost] = Usage.objects.all()
    assert (cost.outcome, cost.is_estimated) == ("interrupted", True)


@database
def test_unclaimed_generation_fails_in_time() -> None:
    old, young = ask(), ask()
    Generation.objects.filter(pk=old.pk).update(created_at=timezone.now() - datetime.timedelta(seconds=601))
    assert housekeeping.reap()
    old.refresh_from_db()
    young.refresh_from_db()
    assert (old.state, old.error_code, young.state) == (State.FAILED, "no-worker", State.QUEUED)
    assert [event for event, _ in messages_of(old)] == ["end"]
    assert not Usage.objects.exists()


@database
def test_reaping_reports_waiting_generations() -> None:
    assert not housekeeping.reap()
    running()
    assert not housekeeping.reap()
    ask()
    assert housekeeping.reap()


@database
def test_expired_lease_is_checked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """During a database outage no worker can renew its lease. A living worker retries every second."""
    monkeypatch.setattr(housekeeping, "CONFIRM_SECONDS", 0.5)
    dead, alive = running("dead"), running("alive")
    for each in (dead, alive):
        expire_lease(each)
    for _ in range(2):
        housekeeping.reap()
        assert set(Generation.objects.values_list("state", flat=True)) == {State.RUNNING}
        time.sleep(0.6)  # after such a pause, the database could have been unavailable
    housekeeping.reap()
    store.write("alive", [pieces(alive)], renew=True)
    for _ in range(4):
        time.sleep(0.2)
        housekeeping.reap()
    assert [each.state for each in Generation.objects.order_by("created_at")] == [State.INTERRUPTED, State.RUNNING]
    expire_lease(alive)
    housekeeping.reap()
    assert Generation.objects.get(pk=alive.pk).state == State.RUNNING, "the two checks start again"


@database
def test_failed_ending_does_not_block_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "CONFIRM_SECONDS", 0.0)
    one, two, waiting = running(), running(), ask()
    for each in (one, two):
        expire_lease(each)
    end = store.end

    def fail_once(id: str, *args: Any, **kwargs: Any) -> Generation:
        if id == one.pk:
            raise ZeroDivisionError
        return end(id, *args, **kwargs)

    monkeypatch.setattr(store, "end", fail_once)
    assert housekeeping.reap(), "one generation waits"
    states = dict(Generation.objects.values_list("pk", "state"))
    assert states == {one.pk: State.RUNNING, two.pk: State.INTERRUPTED, waiting.pk: State.QUEUED}


def end_long_ago(generation: Generation, seconds: float) -> None:
    ended_at = Now() - datetime.timedelta(seconds=seconds)
    Generation.objects.filter(pk=generation.pk).update(ended_at=ended_at)


@database
@override_settings(STREAMS={"GENERATION_COMPACT_SECONDS": 60})
def test_compacted_generation_keeps_its_text() -> None:
    """The messages are deleted from the log."""
    publish("news", "stays")
    old, young, under_way = running(), running(), running()
    for each in (old, young):
        store.write("w", [pieces(each, "a", "b", text="ab", ending=Ending(State.DONE))])
    store.write("w", [pieces(under_way, "x")])
    end_long_ago(old, 61)
    housekeeping.compact()
    assert [len(messages_of(each)) for each in (old, young, under_way)] == [0, 3, 1]
    assert Message.objects.filter(channel="news").count() == 1
    assert text_of(old) == "ab"
    assert [bool(each.compacted_at) for each in Generation.objects.order_by("created_at")] == [True, False, False]


@database
@override_settings(STREAMS={"GENERATION_COMPACT_SECONDS": None, "GENERATION_RETENTION_SECONDS": 60})
def test_generations_are_deleted_in_time() -> None:
    """The usage is kept."""
    old, young, under_way = running(), running(), running()
    for each in (old, young):
        store.write("w", [pieces(each, "a", text="a", ending=Ending(State.DONE))])
        end_long_ago(each, 61 if each is old else 59)
    housekeeping.compact()
    assert {each.pk for each in Generation.objects.all()} == {young.pk, under_way.pk}
    assert messages_of(old) == []
    assert messages_of(young) != []
    assert Usage.objects.count() == 2, "the usage is kept"


@database
@override_settings(STREAMS={"GENERATION_COMPACT_SECONDS": None, "GENERATION_RETENTION_SECONDS": None})
def test_generations_are_kept_without_limits() -> None:
    one = running()
    store.write("w", [pieces(one, "a", text="a", ending=Ending(State.DONE))])
    end_long_ago(one, 10**9)
    housekeeping.compact()
    assert len(messages_of(one)) == 2
