"""A generation's steps in the database: fenced, and its pieces, its state and what is told in one transaction."""

from __future__ import annotations

import datetime
import json
import time
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db.models.functions import Now
from django.test import override_settings
from django.utils import timezone

from streams import log, publish
from streams.exceptions import HTTPError
from streams.models import Message
from streams.relay.access import Principal
from streams.relay.generations import chunks as reading
from streams.relay.generations import endings, housekeeping, store
from streams.relay.generations.endings import Batch, Ending
from streams.relay.models import Generation, Usage

database = pytest.mark.django_db(transaction=True)
State = Generation.State

BODY = {"model": "small", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
ANN = Principal(None, "address 192.0.2.1")
KEY = "5e9b3a46-1f1d-4d0a-9a8e-0d1f6a3f2b11"


def ask(caller: Principal = ANN, key: str | None = None, **body: Any) -> Generation:
    return store.create(caller, {**BODY, **body}, "default", key)[0]


def running(worker: str = "w") -> Generation:
    made = ask()
    [generation] = [each for each in store.claim(worker, 100) if each.pk == made.pk]
    return generation


def pieces(generation: Generation, *texts: str, number: int = 0, **more: Any) -> Batch:
    return Batch(generation.pk, number, texts, **more)


def told(generation: Generation) -> list[tuple[str, Any]]:
    """The type and the data of the generation's messages."""
    rows = Message.objects.filter(channel=generation.channel).order_by("position")
    return [(row.event, json.loads(row.data)) for row in rows]


def text_of(generation: Generation) -> str:
    return reading.read(generation.pk).text


def let_the_lease_run_out(generation: Generation) -> None:
    Generation.objects.filter(pk=generation.pk).update(lease_until=Now() - datetime.timedelta(seconds=1))


# --- Asking -----------------------------------------------------------------------------------------------------------


@database
def test_what_is_asked_waits_with_its_request() -> None:
    publish("news", "before")
    made = ask(temperature=0.5)
    found = Generation.objects.get()
    assert (found.pk, found.state, found.model, found.upstream) == (made.pk, State.QUEUED, "small", "default")
    assert found.request == {**BODY, "temperature": 0.5}
    assert (found.start_position, found.owner, found.caller) == (1, None, "address 192.0.2.1")
    assert told(made) == []


@database
def test_same_idempotency_key_returns_the_first() -> None:
    first, is_new = store.create(ANN, BODY, "default", KEY)
    again, is_new_again = store.create(ANN, BODY, "default", KEY)
    assert (first.pk, is_new, is_new_again) == (again.pk, True, False)
    store.cancel(first.pk)
    assert store.create(ANN, BODY, "default", KEY)[0].pk == first.pk, "also once it has ended"


@database
def test_idempotency_key_of_another_question_is_refused() -> None:
    ask(key=KEY)
    with pytest.raises(HTTPError) as refusal:
        ask(key=KEY, temperature=1)
    assert (refusal.value.status, refusal.value.code) == (422, "idempotency-key-reused")


@database
def test_idempotency_keys_are_their_owners() -> None:
    ann, bob = (User.objects.create(username=name) for name in ("ann", "bob"))
    made = [ask(Principal(user, f"user {user.pk}"), key="1") for user in (ann, bob)]
    assert made[0].pk != made[1].pk
    assert store.create(Principal(bob, "user 2"), BODY, "default", "1")[0].pk == made[1].pk


@database
@pytest.mark.parametrize("key", ["", "1", "a" * 31, "a" * 256, "a" * 40 + "\n", "a" * 40 + "\0"])
def test_key_of_nobody_is_one_that_nobody_guesses(key: str) -> None:
    with pytest.raises(HTTPError, match="An Idempotency-Key has 32 to 255 printable characters"):
        ask(key=key)
    assert not Generation.objects.exists()


@database
@override_settings(STREAMS={"RELAY_MAX_STREAMS_PER_USER": 2})
def test_caller_has_so_many_under_way() -> None:
    first = ask()
    ask()
    with pytest.raises(HTTPError, match="You have 2 answers in progress; the limit is 2") as refusal:
        ask()
    assert (refusal.value.status, refusal.value.headers) == (429, {"Retry-After": "5"})
    ask(Principal(None, "address 192.0.2.2"))
    store.cancel(first.pk)
    ask()


@database
@override_settings(STREAMS={"GENERATION_MAX_ACTIVE": 1})
def test_site_has_so_many_under_way() -> None:
    ask()
    with pytest.raises(HTTPError, match="GENERATION_MAX_ACTIVE"):
        ask(Principal(None, "address 192.0.2.2"))


# --- A worker's steps -------------------------------------------------------------------------------------------------


@database
def test_the_oldest_are_claimed_first() -> None:
    made = [ask().pk for _ in range(3)]
    assert [each.pk for each in store.claim("w", 2)] == made[:2]


@database
def test_pieces_are_messages_of_the_generations_channel() -> None:
    one, two = running(), running()
    newest = store.write("w", [pieces(one, "a", "b"), pieces(two, "x")])
    assert newest == {one.pk: 2, two.pk: 3}
    assert store.write("w", [pieces(one, "c", number=2)]) == {one.pk: 4}
    assert told(one) == [("message", {"n": n, "text": text}) for n, text in enumerate("abc")]
    assert (text_of(one), text_of(two)) == ("abc", "x")


@database
def test_last_piece_and_the_end_are_one_transaction() -> None:
    one = running()
    store.write("w", [pieces(one, "Hel")])
    end = Ending(State.DONE, "stop", usage={"prompt_tokens": 3, "completion_tokens": 2}, tokens=2, seconds=1.5)
    assert store.write("w", [pieces(one, "lo", number=1, text="Hello", ending=end)]) == {one.pk: 3}
    assert told(one)[-1] == (
        "end",
        {
            "state": "done",
            "finish_reason": "stop",
            "usage": {"prompt_tokens": 3, "completion_tokens": 2},
            "error": None,
        },
    )
    one.refresh_from_db()
    assert (one.state, one.text, one.chunks, one.end_position) == (State.DONE, "Hello", 2, 3)
    assert one.ended_at is not None
    [cost] = Usage.objects.all()
    assert (cost.generation, cost.outcome, cost.completion_tokens, cost.is_estimated) == (one.pk, "done", 2, False)
    assert endings.end_data(one) == told(one)[-1][1]


@database
def test_worker_that_lost_its_lease_writes_nothing_more() -> None:
    one, two = running(), running()
    store.write("w", [pieces(one, "a"), pieces(two, "x")])
    let_the_lease_run_out(one)
    assert store.interrupt(one.pk).state == State.INTERRUPTED
    late = [pieces(one, "b", number=1, text="ab", ending=Ending(State.DONE)), pieces(two, "y", number=1)]
    assert store.write("w", late, renew=True) == {two.pk: 4}
    assert [event for event, _ in told(one)] == ["message", "end"]
    assert (text_of(one), text_of(two)) == ("a", "xy")
    one.refresh_from_db()
    assert (one.state, one.text) == (State.INTERRUPTED, "a")


@database
def test_another_worker_writes_nothing() -> None:
    one = running()
    assert store.write("other", [pieces(one, "b")]) == {}
    assert told(one) == []


@database
def test_renewing_moves_the_leases_of_those_that_the_worker_knows_of() -> None:
    """A claim may have been stored without its worker having heard of it."""
    one, two, unheard = running("w"), running("other"), running("w")
    for each in (one, two, unheard):
        let_the_lease_run_out(each)
    store.write("w", [pieces(one)], renew=True)
    states = [store.interrupt(each.pk).state for each in (one, two, unheard)]
    assert states == [State.RUNNING, State.INTERRUPTED, State.INTERRUPTED]


@database
def test_piece_that_is_too_large_stores_nothing_of_the_batch() -> None:
    one = running()
    with override_settings(STREAMS={"MAX_MESSAGE_BYTES": 100}), pytest.raises(ValueError, match="MAX_MESSAGE_BYTES"):
        store.write("w", [pieces(one, "a", "b" * 100)])
    assert told(one) == []


# --- After a connection that broke ------------------------------------------------------------------------------------


@database
def test_batch_whose_commit_nobody_saw_is_found() -> None:
    one = running()
    batch = pieces(one, "a", "b")
    assert store.find(batch) is None
    store.write("w", [batch])
    assert store.find(batch) == 2
    after = pieces(one, "c", number=2, position=2, text="abc", ending=Ending(State.DONE))
    assert store.find(after) is None
    store.write("w", [after])
    assert store.find(after) == 4


@database
def test_end_that_somebody_else_wrote_is_not_taken_for_ones_own() -> None:
    one = running()
    store.cancel(one.pk)
    assert store.find(pieces(one, "a", text="a", ending=Ending(State.DONE))) is None


# --- Ends from outside ------------------------------------------------------------------------------------------------


@database
def test_cancelled_keeps_what_had_come_and_tells_it() -> None:
    one = running()
    store.write("w", [pieces(one, "Hel", "lo")])
    ended = store.cancel(one.pk)
    assert (ended.state, ended.text, ended.chunks, ended.end_position) == (State.CANCELLED, "Hello", 2, 3)
    assert told(one)[-1] == ("end", {"state": "cancelled", "finish_reason": None, "usage": None, "error": None})
    [cost] = Usage.objects.all()
    assert (cost.outcome, cost.completion_tokens, cost.is_estimated) == ("cancelled", 2, True)


@database
def test_worker_corrects_what_was_recorded_of_a_cancelled_answer() -> None:
    one = running()
    store.cancel(one.pk)
    store.correct(one, None, 9, 2.0)
    [cost] = Usage.objects.all()
    assert (cost.outcome, cost.completion_tokens, cost.is_estimated, cost.seconds) == ("cancelled", 9, True, 2.0)


@database
def test_answer_that_was_deleted_with_its_owner_has_cost_what_it_has_cost() -> None:
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
def test_cancelled_before_it_began_has_cost_nothing() -> None:
    made = ask()
    assert store.cancel(made.pk).state == State.CANCELLED
    assert not Usage.objects.exists()
    assert store.claim("w", 1) == []


@database
def test_what_has_ended_stays_as_it_is() -> None:
    one = running()
    store.write("w", [pieces(one, "a", text="a", ending=Ending(State.DONE))])
    assert store.cancel(one.pk).state == State.DONE
    assert [event for event, _ in told(one)] == ["message", "end"]


@database
def test_living_worker_is_not_interrupted() -> None:
    one, waiting = running(), ask()
    assert store.interrupt(one.pk).state == State.RUNNING
    assert store.interrupt(waiting.pk).state == State.QUEUED


@database
def test_dead_workers_generation_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "CONFIRM_SECONDS", 0.0)
    one = running()
    store.write("w", [pieces(one, "a")])
    let_the_lease_run_out(one)
    assert not housekeeping.reap()
    assert [event for event, _ in told(one)] == ["message", "end"]
    one.refresh_from_db()
    assert (one.state, one.error_code, one.text) == (State.INTERRUPTED, "interrupted", "a")
    [cost] = Usage.objects.all()
    assert (cost.outcome, cost.is_estimated) == ("interrupted", True)


@database
def test_answer_that_nobody_takes_fails_in_time() -> None:
    old, young = ask(), ask()
    Generation.objects.filter(pk=old.pk).update(created_at=timezone.now() - datetime.timedelta(seconds=601))
    assert housekeeping.reap()
    old.refresh_from_db()
    young.refresh_from_db()
    assert (old.state, old.error_code, young.state) == (State.FAILED, "no-worker", State.QUEUED)
    assert [event for event, _ in told(old)] == ["end"]
    assert not Usage.objects.exists()


@database
def test_reaping_tells_whether_something_waits() -> None:
    assert not housekeeping.reap()
    running()
    assert not housekeeping.reap()
    ask()
    assert housekeeping.reap()


@database
def test_lease_that_has_run_out_is_looked_at_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database may have been away, so that nobody could renew one; a worker that lives tries every second."""
    monkeypatch.setattr(housekeeping, "CONFIRM_SECONDS", 0.5)
    dead, alive = running("dead"), running("alive")
    for each in (dead, alive):
        let_the_lease_run_out(each)
    for _ in range(2):
        housekeeping.reap()
        assert set(Generation.objects.values_list("state", flat=True)) == {State.RUNNING}
        time.sleep(0.6)  # too long a pause: the database may have been away
    housekeeping.reap()
    store.write("alive", [pieces(alive)], renew=True)
    for _ in range(4):
        time.sleep(0.2)
        housekeeping.reap()
    assert [each.state for each in Generation.objects.order_by("created_at")] == [State.INTERRUPTED, State.RUNNING]
    let_the_lease_run_out(alive)
    housekeeping.reap()
    assert Generation.objects.get(pk=alive.pk).state == State.RUNNING, "the first look at it counts anew"


@database
def test_one_that_cannot_be_ended_keeps_nobody_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "CONFIRM_SECONDS", 0.0)
    one, two, waiting = running(), running(), ask()
    for each in (one, two):
        let_the_lease_run_out(each)
    end = store.end

    def fail_once(id: str, *args: Any, **kwargs: Any) -> Generation:
        if id == one.pk:
            raise ZeroDivisionError
        return end(id, *args, **kwargs)

    monkeypatch.setattr(store, "end", fail_once)
    assert housekeeping.reap(), "one waits"
    states = dict(Generation.objects.values_list("pk", "state"))
    assert states == {one.pk: State.RUNNING, two.pk: State.INTERRUPTED, waiting.pk: State.QUEUED}


@database
def test_what_others_publish_to_the_channel_is_no_piece() -> None:
    one = running()
    store.write("w", [pieces(one, "a")])
    for data in ("no JSON", "[1]", '{"n": "x"}', '{"n": 1}'):
        publish(one.channel, data)
    publish(one.channel, {"n": 0, "text": "again"})
    store.write("w", [pieces(one, "b", number=1, position=1)])
    assert text_of(one) == "ab"
    assert store.cancel(one.pk).text == "ab"


# --- Reading ----------------------------------------------------------------------------------------------------------


@database
def test_text_so_far_is_the_rows_and_what_the_log_has_after_it() -> None:
    one = running()
    store.write("w", [pieces(one, "a", "b")])
    publish("news", "between")
    store.write("w", [pieces(one, "c", number=2, position=2, text="ab")], renew=True)
    store.write("w", [pieces(one, number=3, text="abc", position=4)], renew=True)
    store.write("w", [pieces(one, "d", number=3, position=4)])
    answer = reading.read(one.pk)
    assert (answer.text, answer.chunks, answer.position) == ("abcd", 4, 5)
    assert (answer.generation.text, answer.generation.chunks, answer.generation.text_position) == ("abc", 3, 4)


@database
def test_text_is_whole_where_retention_has_taken_pieces_of_a_running_answer() -> None:
    one = running()
    store.write("w", [pieces(one, "a", "b")])
    store.write("w", [pieces(one, "c", number=2, position=2, text="ab")])
    log.delete_through(2, channel=one.channel, limit=10)
    assert text_of(one) == "abc"
    assert store.cancel(one.pk).text == "abc"


@database
def test_unknown_generation_is_said_to_be() -> None:
    for step in (reading.read, reading.get, store.cancel, store.interrupt):
        with pytest.raises(Generation.DoesNotExist):
            step("0" * 32)


# --- Afterwards -------------------------------------------------------------------------------------------------------


def end_long_ago(generation: Generation, seconds: float) -> None:
    ended_at = Now() - datetime.timedelta(seconds=seconds)
    Generation.objects.filter(pk=generation.pk).update(ended_at=ended_at)


@database
@override_settings(STREAMS={"GENERATION_COMPACT_SECONDS": 60})
def test_old_answers_messages_leave_the_log_and_the_text_stays() -> None:
    publish("news", "stays")
    old, young, under_way = running(), running(), running()
    for each in (old, young):
        store.write("w", [pieces(each, "a", "b", text="ab", ending=Ending(State.DONE))])
    store.write("w", [pieces(under_way, "x")])
    end_long_ago(old, 61)
    housekeeping.compact()
    assert [len(told(each)) for each in (old, young, under_way)] == [0, 3, 1]
    assert Message.objects.filter(channel="news").count() == 1
    assert text_of(old) == "ab"
    assert [bool(each.compacted_at) for each in Generation.objects.order_by("created_at")] == [True, False, False]


@database
@override_settings(STREAMS={"GENERATION_COMPACT_SECONDS": None, "GENERATION_RETENTION_SECONDS": 60})
def test_answers_are_kept_for_so_long() -> None:
    old, young, under_way = running(), running(), running()
    for each in (old, young):
        store.write("w", [pieces(each, "a", text="a", ending=Ending(State.DONE))])
        end_long_ago(each, 61 if each is old else 59)
    housekeeping.compact()
    assert {each.pk for each in Generation.objects.all()} == {young.pk, under_way.pk}
    assert told(old) == []
    assert told(young) != []
    assert Usage.objects.count() == 2, "what it has cost stays known"


@database
@override_settings(STREAMS={"GENERATION_COMPACT_SECONDS": None, "GENERATION_RETENTION_SECONDS": None})
def test_everything_is_kept_where_the_site_says_so() -> None:
    one = running()
    store.write("w", [pieces(one, "a", text="a", ending=Ending(State.DONE))])
    end_long_ago(one, 10**9)
    housekeeping.compact()
    assert len(told(one)) == 2
