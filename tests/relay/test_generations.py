"""A generation in the database: creating it, claiming it, writing its pieces and its end, and reading it."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import override_settings

from streams import log, publish
from streams.exceptions import HTTPError
from streams.relay.access import Principal
from streams.relay.generations import chunks as reading
from streams.relay.generations import endings, store
from streams.relay.generations.endings import Ending
from streams.relay.models import Generation, Usage
from tests.relay.stored import ANN, BODY, KEY, State, ask, database, expire_lease, messages_of, pieces, running, text_of


@database
def test_new_generation_waits_with_its_request() -> None:
    publish("news", "before")
    made = ask(temperature=0.5)
    found = Generation.objects.get()
    assert (found.pk, found.state, found.model, found.upstream) == (made.pk, State.QUEUED, "small", "default")
    assert found.request == {**BODY, "temperature": 0.5}
    assert (found.start_position, found.owner, found.caller) == (1, None, "address 192.0.2.1")
    assert messages_of(made) == []


@database
def test_same_key_returns_first_generation() -> None:
    first, is_new = store.create(ANN, BODY, "default", KEY)
    again, is_new_again = store.create(ANN, BODY, "default", KEY)
    assert (first.pk, is_new, is_new_again) == (again.pk, True, False)
    store.cancel(first.pk)
    assert store.create(ANN, BODY, "default", KEY)[0].pk == first.pk, (
        "the key is still valid after the generation has ended"
    )


@database
def test_key_of_another_request_is_refused() -> None:
    ask(key=KEY)
    with pytest.raises(HTTPError) as refusal:
        ask(key=KEY, temperature=1)
    assert (refusal.value.status, refusal.value.code) == (422, "idempotency-key-reused")


@database
def test_keys_belong_to_their_owners() -> None:
    ann, bob = (User.objects.create(username=name) for name in ("ann", "bob"))
    made = [ask(Principal(user, f"user {user.pk}"), key="1") for user in (ann, bob)]
    assert made[0].pk != made[1].pk
    assert store.create(Principal(bob, "user 2"), BODY, "default", "1")[0].pk == made[1].pk


@database
@pytest.mark.parametrize("key", ["", "1", "a" * 31, "a" * 256, "a" * 40 + "\n", "a" * 40 + "\0"])
def test_short_key_without_owner_is_refused(key: str) -> None:
    """Other anonymous callers must not be able to guess the key."""
    with pytest.raises(HTTPError, match="An Idempotency-Key has 32 to 255 printable characters"):
        ask(key=key)
    assert not Generation.objects.exists()


@database
@override_settings(STREAMS={"RELAY_MAX_STREAMS_PER_USER": 2})
def test_caller_has_limited_active_generations() -> None:
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
def test_site_has_limited_active_generations() -> None:
    ask()
    with pytest.raises(HTTPError, match="GENERATION_MAX_ACTIVE"):
        ask(Principal(None, "address 192.0.2.2"))


@database
def test_oldest_are_claimed_first() -> None:
    made = [ask().pk for _ in range(3)]
    assert [each.pk for each in store.claim("w", 2)] == made[:2]


@database
def test_pieces_are_messages_of_their_channel() -> None:
    one, two = running(), running()
    newest = store.write("w", [pieces(one, "a", "b"), pieces(two, "x")])
    assert newest == {one.pk: 2, two.pk: 3}
    assert store.write("w", [pieces(one, "c", number=2)]) == {one.pk: 4}
    assert messages_of(one) == [("message", {"n": n, "text": text}) for n, text in enumerate("abc")]
    assert (text_of(one), text_of(two)) == ("abc", "x")


@database
def test_last_piece_and_end_are_transactional() -> None:
    one = running()
    store.write("w", [pieces(one, "Hel")])
    end = Ending(State.DONE, "stop", usage={"prompt_tokens": 3, "completion_tokens": 2}, tokens=2, seconds=1.5)
    assert store.write("w", [pieces(one, "lo", number=1, text="Hello", ending=end)]) == {one.pk: 3}
    assert messages_of(one)[-1] == (
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
    assert endings.end_data(one) == messages_of(one)[-1][1]


@database
def test_worker_without_lease_writes_nothing() -> None:
    """The worker's other generations are still written."""
    one, two = running(), running()
    store.write("w", [pieces(one, "a"), pieces(two, "x")])
    expire_lease(one)
    assert store.interrupt(one.pk).state == State.INTERRUPTED
    late = [pieces(one, "b", number=1, text="ab", ending=Ending(State.DONE)), pieces(two, "y", number=1)]
    assert store.write("w", late, renew=True) == {two.pk: 4}
    assert [event for event, _ in messages_of(one)] == ["message", "end"]
    assert (text_of(one), text_of(two)) == ("a", "xy")
    one.refresh_from_db()
    assert (one.state, one.text) == (State.INTERRUPTED, "a")


@database
def test_other_worker_writes_nothing() -> None:
    one = running()
    assert store.write("other", [pieces(one, "b")]) == {}
    assert messages_of(one) == []


@database
def test_renewing_covers_only_known_generations() -> None:
    """A claim can be stored although its worker did not receive the database's reply."""
    one, two, unheard = running("w"), running("other"), running("w")
    for each in (one, two, unheard):
        expire_lease(each)
    store.write("w", [pieces(one)], renew=True)
    states = [store.interrupt(each.pk).state for each in (one, two, unheard)]
    assert states == [State.RUNNING, State.INTERRUPTED, State.INTERRUPTED]


@database
def test_large_piece_stores_nothing_of_batch() -> None:
    one = running()
    with override_settings(STREAMS={"MAX_MESSAGE_BYTES": 100}), pytest.raises(ValueError, match="MAX_MESSAGE_BYTES"):
        store.write("w", [pieces(one, "a", "b" * 100)])
    assert messages_of(one) == []


@database
def test_unconfirmed_batch_is_found() -> None:
    """The connection broke during the commit, so that the worker does not know its result."""
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
def test_foreign_end_is_not_taken_as_own() -> None:
    one = running()
    store.cancel(one.pk)
    assert store.find(pieces(one, "a", text="a", ending=Ending(State.DONE))) is None


@database
def test_text_joins_row_and_log() -> None:
    one = running()
    store.write("w", [pieces(one, "a", "b")])
    publish("news", "between")
    store.write("w", [pieces(one, "c", number=2, position=2, text="ab")], renew=True)
    store.write("w", [pieces(one, number=3, text="abc", position=4)], renew=True)
    store.write("w", [pieces(one, "d", number=3, position=4)])
    answer = reading.read(one.pk)
    assert (answer.text, answer.chunks) == ("abcd", 4)
    one.refresh_from_db()
    assert (one.text, one.chunks, one.text_position) == ("abc", 3, 4)


@database
def test_text_survives_retention_of_its_pieces() -> None:
    one = running()
    store.write("w", [pieces(one, "a", "b")])
    store.write("w", [pieces(one, "c", number=2, position=2, text="ab")])
    log.delete_through(2, channel=one.channel, limit=10)
    assert text_of(one) == "abc"
    assert store.cancel(one.pk).text == "abc"


@database
def test_foreign_messages_are_no_pieces() -> None:
    one = running()
    store.write("w", [pieces(one, "a")])
    for data in ("no JSON", "[1]", '{"n": "x"}', '{"n": 1}'):
        publish(one.channel, data)
    publish(one.channel, {"n": 0, "text": "again"})
    store.write("w", [pieces(one, "b", number=1, position=1)])
    assert text_of(one) == "ab"
    assert store.cancel(one.pk).text == "ab"


@database
def test_unknown_generation_does_not_exist() -> None:
    for step in (reading.read, reading.get, store.cancel, store.interrupt):
        with pytest.raises(Generation.DoesNotExist):
            step("0" * 32)
