"""Deleting a user deletes all data of the user's answers. The rest of the log keeps its promises.

tests/system/test_own_database.py runs these tests again with the log in a separate database.
"""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connections, transaction
from django.test import AsyncClient, Client
from django.test.utils import CaptureQueriesContext

from streams import log, publish
from streams.exceptions import HTTPError
from streams.models import Message
from streams.relay import usage
from streams.relay.access import Principal
from streams.relay.generations import housekeeping, store
from streams.relay.generations.endings import Batch, Ending
from streams.relay.models import Generation, Usage
from streams.runtime.database import database
from streams.testing import read_events

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")

BODY = {"model": "small", "messages": [{"role": "user", "content": "the question"}], "stream": True}
SECRET = "what only ann was told"
DONE = Ending(Generation.State.DONE, usage={"completion_tokens": 1})


def answered(user: User | None, *, ends: bool = True, text: str = SECRET) -> Generation:
    """Return a generation with a piece in the log. By default it has ended."""
    key = "address 1" if user is None else f"user {user.pk}"
    generation, _ = store.create(Principal(user, key), BODY, "default")
    store.claim("w", 10)
    ending = DONE if ends else None
    assert store.write("w", [Batch(generation.pk, 0, (text,), text=text if ends else None, ending=ending)])
    return generation


def everything() -> str:
    """Return the contents of the tables of the log and of the relay as text."""
    models = (Message, Generation, Usage)
    return json.dumps([list(model.objects.using(database()).values()) for model in models], default=str)


@pytest.fixture
def ann(settings: Any) -> User:
    """A user with a finished answer, a running answer, and a message in the user's own channel."""
    settings.STREAMS = {"RELAY_MAX_STREAMS_PER_USER": 1000, "GENERATION_WORKER": "command"}
    ann = User.objects.create(username="ann")
    answered(ann)
    answered(ann, ends=False)
    publish(f"user.{ann.pk}", SECRET)
    return ann


@pytest.mark.parametrize("how", ["one", "many", "admin", "admin's action"])
def test_deletion_removes_answers_everywhere(ann: User, how: str) -> None:
    bob = User.objects.create(username="bob")
    kept = answered(bob, text="bob's")
    publish("news", "for all")
    if how == "one":
        ann.delete()
    elif how == "many":
        answered(cleo := User.objects.create(username="cleo"))
        User.objects.filter(pk__in=[ann.pk, cleo.pk]).delete()
    else:
        client = Client()
        client.force_login(User.objects.create(username="root", is_staff=True, is_superuser=True))
        if how == "admin":
            response = client.post(f"/admin/auth/user/{ann.pk}/delete/", {"post": "yes"})
        else:
            chosen = {"action": "delete_selected", "_selected_action": [ann.pk], "post": "yes"}
            response = client.post("/admin/auth/user/", chosen)
        assert response.status_code == 302
    assert set(User.objects.exclude(username="root").values_list("username", flat=True)) == {"bob"}
    left = everything()
    assert SECRET not in left
    assert list(Generation.objects.values_list("pk", flat=True)) == [kept.pk]
    assert set(Message.objects.values_list("channel", flat=True)) == {kept.channel, "news"}
    assert set(Usage.objects.values_list("user", "caller")) == {(None, ""), (bob.pk, f"user {bob.pk}")}


def test_deletion_that_is_rolled_back_removes_nothing(ann: User) -> None:
    if database() != "default":
        pytest.skip("Two databases share no transaction.")
    before = everything()

    def delete_and_fail() -> None:
        with transaction.atomic():
            ann.delete()
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        delete_and_fail()
    assert everything() == before
    assert log.pruning_marks() == {}


def test_message_of_the_same_transaction_is_removed(ann: User) -> None:
    with transaction.atomic():
        publish(f"user.{ann.pk}", "just now")
        ann.delete()
    log.current_head()
    assert not Message.objects.exists()


def test_answers_take_no_query_each(ann: User) -> None:
    def count() -> int:
        user = User.objects.create(username="many")
        for _ in range(answers):
            answered(user)
        with CaptureQueriesContext(connections[database()]) as log_queries:
            user.delete()
        return len(log_queries)

    answers = 2
    few = count()
    answers = 30
    assert count() <= few


def test_size_of_the_log_is_exact_after_deletion(ann: User) -> None:
    publish("news", "for all")
    while log.count_size():
        pass
    ann.delete()
    assert log.size() == log.size(scan=True) == len("for all")


async def test_reader_below_gets_a_reset_and_others_go_on(ann: User) -> None:
    """A client of the emptied channel learns that it missed messages. Clients of other channels see no reset."""
    from asgiref.sync import sync_to_async

    staff = await sync_to_async(User.objects.create)(username="root", is_staff=True, is_superuser=True)
    mine = f"user.{ann.pk}"
    last = (await sync_to_async(publish)("news", "before")).position
    await sync_to_async(ann.delete)()
    await sync_to_async(publish)("news", "after")
    client = AsyncClient()
    await sync_to_async(client.force_login)(staff)
    response = await client.get(f"/events/?channel={mine}&channel=news&last_event_id=1")
    events = [event for event in await read_events(response, 4, control=True) if event.event != "stream-checkpoint"]
    assert (events[0].event, json.loads(events[0].data)["reason"]) == ("stream-reset", "pruned")
    assert [event.data for event in events[1:]] == ["before", "after"]
    response = await client.get(f"/events/news/?last_event_id={last}")
    assert [event.data for event in await read_events(response, 1)] == ["after"]


def test_worker_of_a_deleted_users_answer_writes_nothing(ann: User) -> None:
    running = Generation.objects.get(state="running")
    ann.delete()
    assert store.write("w", [Batch(running.pk, 1, (SECRET,))]) == {}
    store.correct(running, None, 7, 1.0)
    assert SECRET not in everything()
    assert set(Usage.objects.values_list("user", "caller")) == {(None, "")}


async def test_answer_that_ends_after_the_deletion_names_no_user(ann: User) -> None:
    from asgiref.sync import sync_to_async

    key = ann.pk
    await sync_to_async(ann.delete)()
    answer = {"upstream": "u", "model": "m", "outcome": "done", "usage": None, "chunks": 1, "seconds": 1}
    await usage.record_soon(user_id=key, caller=f"user {key}", **answer)
    assert await sync_to_async(set)(Usage.objects.values_list("user", "caller")) == {(None, "")}


def test_question_after_the_deletion_leaves_nothing(ann: User) -> None:
    """The request's user was identified before the deletion."""
    caller = Principal(User.objects.get(pk=ann.pk), f"user {ann.pk}")
    ann.delete()
    with pytest.raises(HTTPError) as caught:
        store.create(caller, BODY, "default")
    assert caught.value.status == 401
    assert not Generation.objects.exists()


def test_question_during_the_deletion_leaves_nothing(ann: User) -> None:
    """The question's transaction commits between the deletion's statements and the deletion's commit."""
    if connections[database()].vendor != "postgresql" or database() != "default":
        pytest.skip("SQLite has one writer at a time, and two databases share no transaction.")
    caller = Principal(User.objects.get(pk=ann.pk), f"user {ann.pk}")

    def ask() -> None:
        try:
            store.create(caller, BODY, "default")
        finally:
            connections.close_all()

    with transaction.atomic():
        User.objects.get(pk=ann.pk).delete()
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(30)
    assert not Generation.objects.exists()


def test_compacted_answers_and_those_of_nobody(ann: User) -> None:
    """The text of a compacted answer is in its row only. Answers of clients without an account are kept."""
    kept = answered(None, text="nobody's")
    for generation in Generation.objects.filter(state="done", owner=ann):
        housekeeping._delete_messages(generation)
        store.mark_compacted(generation.pk)
    ann.delete()
    assert SECRET not in everything()
    assert list(Generation.objects.values_list("pk", flat=True)) == [kept.pk]


def test_open_deletion_stops_no_publisher(ann: User) -> None:
    if connections[database()].vendor != "postgresql" or database() != "default":
        pytest.skip("SQLite has one writer at a time, and two databases share no transaction.")
    done = threading.Event()

    def publish_to_all() -> None:
        try:
            publish("news", "while it is open")
            publish(f"user.{ann.pk}", "while it is open")
            done.set()
        finally:
            connections.close_all()

    with transaction.atomic():
        User.objects.get(pk=ann.pk).delete()
        thread = threading.Thread(target=publish_to_all)
        thread.start()
        assert done.wait(30)
    thread.join(30)
    assert list(Message.objects.values_list("channel", flat=True)) == ["news"]
