"""Generations that are cancelled or interrupted, and the usage that is recorded for them."""

from __future__ import annotations

from django.contrib.auth.models import User

from streams.relay.access import Principal
from streams.relay.generations import housekeeping, store
from streams.relay.generations.endings import Ending
from streams.relay.models import Generation, Usage
from tests.relay.stored import State, ask, database, messages_of, pieces, running
from tests.support.metrics import Changes


@database
def test_cancelled_generation_keeps_its_text() -> None:
    one = running()
    store.write("w", [pieces(one, "Hel", "lo")])
    ended = store.cancel(one.pk)
    assert (ended.state, ended.text, ended.chunks, ended.end_position) == (State.CANCELLED, "Hello", 2, 3)
    assert messages_of(one)[-1] == ("end", {"state": "cancelled", "finish_reason": None, "usage": None, "error": None})
    [cost] = Usage.objects.all()
    assert (cost.outcome, cost.completion_tokens, cost.is_estimated) == ("cancelled", 2, True)


@database
def test_worker_corrects_usage_after_cancel() -> None:
    one = running()
    store.cancel(one.pk)
    store.correct(one, None, 9, 2.0)
    [cost] = Usage.objects.all()
    assert (cost.outcome, cost.completion_tokens, cost.is_estimated, cost.seconds) == ("cancelled", 9, True, 2.0)


@database
def test_usage_survives_deletion_of_owner() -> None:
    ann = User.objects.create(username="ann")
    one = ask(Principal(ann, f"user {ann.pk}"))
    store.claim("w", 1)
    ann.delete()
    assert not Generation.objects.exists()
    for _ in range(2):
        store.correct(one, {"completion_tokens": 9}, 3, 2.0)
    [cost] = Usage.objects.all()
    assert (cost.user, cost.generation, cost.completion_tokens, cost.is_estimated) == (None, one.pk, 9, False)


@database
def test_generation_cancelled_early_costs_nothing() -> None:
    made = ask()
    assert store.cancel(made.pk).state == State.CANCELLED
    assert not Usage.objects.exists()
    assert store.claim("w", 1) == []


@database
def test_ended_generation_is_not_changed() -> None:
    one = running()
    store.write("w", [pieces(one, "a", text="a", ending=Ending(State.DONE))])
    assert store.cancel(one.pk).state == State.DONE
    assert [event for event, _ in messages_of(one)] == ["message", "end"]


@database
def test_living_worker_is_not_interrupted() -> None:
    one, waiting = running(), ask()
    assert store.interrupt(one.pk).state == State.RUNNING
    assert store.interrupt(waiting.pk).state == State.QUEUED


@database
def test_metrics_count_active_and_ended_generations() -> None:
    changes = Changes()
    one, waiting = running(), ask()
    assert housekeeping.count_active() == {"queued": 1, "running": 1}
    store.write("w", [pieces(one, "Hello", text="Hello", ending=Ending(State.DONE))])
    store.cancel(waiting.pk)
    store.cancel(waiting.pk)
    assert housekeeping.count_active() == {"queued": 0, "running": 0}
    assert changes("generations") == {
        'ended_generations_total{state="done"}': 1,
        'ended_generations_total{state="cancelled"}': 1,
    }
