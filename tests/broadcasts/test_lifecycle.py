"""A broadcast's steps: each once, whoever asks and however often, and sent in one transaction with its record."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection, transaction
from django.db.models.signals import post_save
from django.test import override_settings
from django.utils import timezone

from streams import broadcasts, deliveries
from streams.exceptions import BroadcastRefused, InvalidChannel, InvalidJSON, InvalidMessage
from streams.models import Broadcast, Delivery, Message
from tests.clients import StreamClient, leave_all
from tests.services import wait_until
from tests.sites import Site, finish

database = pytest.mark.django_db(transaction=True)
State = Broadcast.State


@pytest.fixture(autouse=True)
async def leave() -> AsyncIterator[None]:
    yield
    leave_all()


@pytest.fixture
def editor(db: None) -> User:
    return User.objects.create(username="editor", is_staff=True)


def draft(**fields: Any) -> Broadcast:
    defaults = {"title": "Night works", "channels": ["news"], "payload": "No trains after 22:00."}
    return Broadcast.objects.create(**{**defaults, **fields})


def in_an_hour() -> datetime.datetime:
    return timezone.now() + datetime.timedelta(hours=1)


def make_due(broadcast: Broadcast, by: User | None = None, seconds: float = 1) -> None:
    send_at = timezone.now() - datetime.timedelta(seconds=seconds)
    Broadcast.objects.filter(pk=broadcast.pk).update(state=State.SCHEDULED, send_at=send_at, scheduled_by=by)


def stored() -> list[tuple[Any, ...]]:
    return list(Message.objects.order_by("position").values_list("position", "channel", "event", "data"))


# --- Sending ----------------------------------------------------------------------------------------------------------


@database
def test_sending_appends_one_message_for_each_channel_and_says_so(editor: User) -> None:
    made = draft(channels=["weather", "news"], event="alert", payload="a\r\nb")
    sent = broadcasts.send(made.pk, by=editor)
    assert stored() == [(1, "weather", "alert", "a\nb"), (2, "news", "alert", "a\nb")]
    assert {message.published_by for message in Message.objects.all()} == {editor}
    sent.refresh_from_db()
    assert (sent.state, sent.sent_by, sent.positions) == (State.SENT, editor, [1, 2])
    assert sent.places == {"weather": 1, "news": 2}
    assert sent.audience == {"weather": 0, "news": 0}
    assert sent.sent_at is not None


@database
def test_a_channel_that_is_named_twice_gets_it_once(editor: User) -> None:
    sent = broadcasts.send(draft(channels=["news", "weather", "news"]).pk, by=editor)
    assert [row[1] for row in stored()] == ["news", "weather"]
    assert sent.channels == ["news", "weather"]


@database
def test_json_goes_out_as_it_was_written(editor: User) -> None:
    payload = '{"price": 1.10,\n "big": 12345678901234567890.5}'
    broadcasts.send(draft(payload_type="json", payload=payload).pk, by=editor)
    assert stored() == [(1, "news", "message", payload)]


@database
def test_who_sent_what_to_whom_is_recorded(editor: User) -> None:
    sent = broadcasts.send(draft(event="alert", channels=["news", "weather"]).pk, by=editor)
    [entry] = LogEntry.objects.all()
    assert (entry.user, entry.object_id, entry.object_repr) == (editor, str(sent.pk), "Night works")
    assert entry.get_edited_object() == sent
    assert entry.get_change_message() == ("Sent “alert” to news (0 connections), weather (0 connections).")


@database
def test_what_was_sent_is_not_sent_again(editor: User) -> None:
    made = draft()
    broadcasts.send(made.pk, by=editor)
    with pytest.raises(BroadcastRefused, match=r"was sent already, at .* by editor"):
        broadcasts.send(made.pk, by=editor)
    assert len(stored()) == 1
    assert LogEntry.objects.count() == 1


@database
def test_what_has_changed_since_it_was_looked_at_is_not_sent(editor: User) -> None:
    made = draft()
    seen = made.revision
    made.payload = "Something else."
    broadcasts.save_draft(made, revision=seen)
    with pytest.raises(BroadcastRefused, match="Somebody has changed this broadcast"):
        broadcasts.send(made.pk, by=editor, revision=seen)
    assert stored() == []
    broadcasts.send(made.pk, by=editor, revision=seen + 1)
    assert [row[3] for row in stored()] == ["Something else."]


@database
@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"channels": []}, InvalidChannel),
        ({"channels": ["news room"]}, InvalidChannel),
        ({"channels": [f"c{n}" for n in range(51)]}, InvalidChannel),
        ({"event": "stream-reset"}, InvalidMessage),
        ({"payload_type": "json", "payload": "{"}, InvalidJSON),
        ({"payload": "x" * 262_145}, InvalidMessage),
    ],
    ids=["none", "name", "many", "type", "json", "size"],
)
def test_what_cannot_be_sent_stays_a_draft(editor: User, fields: dict[str, Any], error: type[Exception]) -> None:
    made = draft(**fields)
    with pytest.raises(error):
        broadcasts.send(made.pk, by=editor)
    with pytest.raises(error):
        broadcasts.schedule(made.pk, in_an_hour(), by=editor)
    made.refresh_from_db()
    assert made.state == State.DRAFT
    assert stored() == []
    assert not LogEntry.objects.exists()


@database
def test_where_the_record_cannot_be_written_nothing_is_sent() -> None:
    stranger = User(pk=999_999, username="deleted meanwhile")
    made = draft()
    with pytest.raises(Exception, match=r"FOREIGN KEY|foreign key|scheduled_by|sent_by"):
        broadcasts.send(made.pk, by=stranger)
    made.refresh_from_db()
    assert (made.state, stored()) == (State.DRAFT, [])


@database
def test_a_step_inside_of_somebody_elses_transaction_is_refused(editor: User) -> None:
    """It would hold the log's lock until that transaction ends."""
    made = draft()
    with transaction.atomic(), pytest.raises(RuntimeError, match="outside of atomic"):
        broadcasts.send(made.pk, by=editor)
    assert stored() == []


@database
def test_no_such_broadcast(editor: User) -> None:
    with pytest.raises(BroadcastRefused, match="no such broadcast"):
        broadcasts.send(7, by=editor)


# --- Drafts, schedules ------------------------------------------------------------------------------------------------


@database
def test_two_who_edit_the_same_draft_do_not_overwrite_each_other() -> None:
    made = draft()
    mine, theirs = Broadcast.objects.get(pk=made.pk), Broadcast.objects.get(pk=made.pk)
    theirs.payload = "theirs"
    broadcasts.save_draft(theirs, revision=1)
    mine.payload = "mine"
    with pytest.raises(BroadcastRefused, match="Somebody has changed"):
        broadcasts.save_draft(mine, revision=1)
    made.refresh_from_db()
    assert (made.payload, made.revision) == ("theirs", 2)


@database
def test_what_was_sent_cannot_be_edited(editor: User) -> None:
    made = draft()
    sent = broadcasts.send(made.pk, by=editor)
    made.payload = "another story"
    with pytest.raises(BroadcastRefused):
        broadcasts.save_draft(made, revision=sent.revision)
    sent.refresh_from_db()
    assert (sent.state, sent.payload) == (State.SENT, "No trains after 22:00.")


@database
def test_scheduled_is_not_sent_before_its_time(editor: User) -> None:
    made = draft()
    broadcasts.schedule(made.pk, in_an_hour(), by=editor)
    assert list(broadcasts.send_due()) == []
    assert stored() == []
    made.refresh_from_db()
    assert (made.state, made.scheduled_by) == (State.SCHEDULED, editor)


@database
def test_scheduled_is_sent_once_when_it_is_due_in_the_name_of_who_scheduled_it(editor: User) -> None:
    later, earlier = draft(title="later", payload="2"), draft(title="earlier", payload="1")
    make_due(later, editor, seconds=5)
    make_due(earlier, editor, seconds=50)
    assert [sent.title for sent in broadcasts.send_due()] == ["earlier", "later"]
    assert list(broadcasts.send_due()) == []
    assert [row[3] for row in stored()] == ["1", "2"]
    later.refresh_from_db()
    assert (later.state, later.sent_by) == (State.SENT, editor)
    assert {entry.user for entry in LogEntry.objects.all()} == {editor}


@database
def test_scheduled_in_the_past_is_refused(editor: User) -> None:
    with pytest.raises(BroadcastRefused, match="in the past"):
        broadcasts.schedule(draft().pk, timezone.now() - datetime.timedelta(seconds=1), by=editor)


@database
def test_taken_back_and_cancelled_are_never_sent(editor: User) -> None:
    back, gone = draft(), draft()
    for made in (back, gone):
        broadcasts.schedule(made.pk, in_an_hour(), by=editor)
    assert broadcasts.unschedule(back.pk, by=editor).send_at is None
    broadcasts.cancel(gone.pk, by=editor)
    Broadcast.objects.update(send_at=timezone.now() - datetime.timedelta(hours=1))
    assert list(broadcasts.send_due()) == []
    assert stored() == []
    assert set(Broadcast.objects.values_list("state", flat=True)) == {State.DRAFT, State.CANCELLED}
    with pytest.raises(BroadcastRefused, match="was cancelled"):
        broadcasts.send(gone.pk, by=editor)
    assert [entry.get_change_message() for entry in LogEntry.objects.order_by("pk")][2:] == [
        "Taken back: a draft again.",
        "Cancelled.",
    ]


@database
def test_due_and_impossible_becomes_a_draft_that_says_why_and_keeps_no_other_back(editor: User) -> None:
    bad, good = draft(payload="x" * 100), draft(payload="ok")
    make_due(bad, editor, seconds=9)
    make_due(good, editor)
    with override_settings(STREAMS={"MAX_MESSAGE_BYTES": 50}):
        assert [sent.pk for sent in broadcasts.send_due()] == [good.pk]
        assert list(broadcasts.send_due()) == []
    bad.refresh_from_db()
    assert bad.state == State.DRAFT
    assert "MAX_MESSAGE_BYTES" in bad.problem


@database
def test_user_who_was_deleted_keeps_nothing_back(editor: User) -> None:
    made = draft()
    broadcasts.schedule(made.pk, in_an_hour(), by=editor)
    editor.delete()
    make_due(made)
    assert [sent.pk for sent in broadcasts.send_due()] == [made.pk]
    assert len(stored()) == 1


@database
def test_use_again_makes_a_draft_of_what_was_sent(editor: User) -> None:
    sent = broadcasts.send(draft(channels=["a", "b"], event="alert").pk, by=editor)
    again = broadcasts.use_again(sent, by=editor)
    assert (again.state, again.channels, again.event, again.payload) == ("draft", ["a", "b"], "alert", sent.payload)
    assert (again.positions, again.audience, again.sent_by, again.revision) == ([], {}, None, 1)
    broadcasts.send(again.pk, by=editor)
    assert len(stored()) == 4


@database
def test_command_sends_what_is_due_and_says_what(editor: User, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("send_due_broadcasts")
    made = draft(channels=["news", "weather"])
    make_due(made, editor)
    call_command("send_due_broadcasts")
    nothing, sent = capsys.readouterr().out.splitlines()
    assert nothing == "Nothing is due."
    assert sent == f"Sent broadcast {made.pk}, 'Night works', to news (event 1), weather (event 2)."


# --- Several processes ------------------------------------------------------------------------------------------------


def prepare(due: str = "yes", channels: str = "news") -> None:
    made = draft(channels=channels.split())
    if due == "yes":
        make_due(made)
    print(made.pk)


def send_all_due_when_told() -> None:
    sys.stdin.readline()
    print(len(list(broadcasts.send_due())))


@pytest.mark.once
def test_many_processes_send_what_is_due_once(site: Site) -> None:
    for _ in range(5):
        finish(site.call(prepare))
    processes = [site.call(send_all_due_when_told) for _ in range(6)]
    for process in processes:
        process.tell()
    assert sum(int(finish(process)) for process in processes) == 5
    assert site.execute("SELECT count(*) FROM streams_message") == [(5,)]
    assert site.execute("SELECT count(*) FROM streams_broadcast WHERE state = 'sent'") == [(5,)]


def die_while_sending() -> None:
    """Send what is due; when the record of it is written, the last thing before the commit, be gone."""

    def die(sender: Any, instance: Any, **kwargs: Any) -> None:
        if instance.state == State.SENT:
            os._exit(9)

    post_save.connect(die, sender=Broadcast)
    list(broadcasts.send_due())


@pytest.mark.once
def test_process_that_dies_while_it_sends_leaves_it_to_the_next(site: Site) -> None:
    finish(site.call(prepare))
    dying = site.call(die_while_sending)
    dying.communicate(timeout=60)
    assert dying.returncode == 9
    assert site.execute("SELECT state FROM streams_broadcast") == [("scheduled",)]
    assert site.execute("SELECT count(*) FROM streams_message") == [(0,)]
    assert "Sent broadcast" in site.manage("send_due_broadcasts").stdout
    assert site.execute("SELECT channel, position FROM streams_message") == [("news", 1)]


def schedule_soon(seconds: str) -> None:
    made = draft(channels=["news"])
    broadcasts.schedule(made.pk, timezone.now() + datetime.timedelta(seconds=float(seconds)), by=None)


@pytest.mark.once
async def test_scheduled_goes_out_once_from_processes_that_stream(site: Site) -> None:
    servers = [site.settings(POLL_SECONDS=0.3).serve() for _ in range(2)]
    clients = [await StreamClient(server.port, "/events/news/").connect() for server in servers]
    for client in clients:
        await client.read_control(1)
    await asyncio.to_thread(finish, site.call(schedule_soon, 1))
    for client in clients:
        await client.read_until(1)
    [(late,)] = site.execute(
        "SELECT extract(epoch FROM sent_at - send_at) FROM streams_broadcast"
        if site.is_postgres
        else "SELECT (julianday(sent_at) - julianday(send_at)) * 86400 FROM streams_broadcast"
    )
    assert 0 <= float(late) < 10  # by POLL_SECONDS, on a machine that is busy with other tests
    for client in clients:
        await client.read_for(1)  # no second one
        assert [event.data for event in client.events] == ["No trains after 22:00."]
    assert site.execute("SELECT count(*) FROM streams_message") == [(1,)]


def send_first() -> None:
    print(broadcasts.send(Broadcast.objects.get().pk, by=None).listened)


@pytest.mark.once
async def test_whom_it_reached_is_counted_over_all_processes_each_connection_once(site: Site) -> None:
    await asyncio.to_thread(finish, site.call(prepare, "no", "news public.b"))
    servers = [site.settings(POLL_SECONDS=0.3, PRESENCE_SECONDS=0.3).serve() for _ in range(2)]
    paths = ["/events/news/", "/events/public.b/", "/events/?channel=news&channel=public.b", "/events/public.other/"]
    clients = [await StreamClient(server.port, path).connect() for server in servers for path in paths]
    for client in clients:
        await client.read_control(1)
    listening = "SELECT sum(connections) FROM streams_node"
    await asyncio.to_thread(wait_until, lambda: site.execute(listening) == [(8,)], "both processes' rows")
    listened = await asyncio.to_thread(finish, site.call(send_first))
    assert int(listened) == 8  # one that has both channels counts for each
    reading = [asyncio.create_task(client.read_until(1)) for client in clients if "other" not in client.path]
    await asyncio.gather(*reading)
    served = "SELECT coalesce(sum(connections), 0) FROM streams_delivery"
    await asyncio.to_thread(wait_until, lambda: site.execute(served) == [(6,)], "the count of those it reached")
    # Who leaves has been served all the same.
    leave_all()
    await asyncio.sleep(1)
    assert site.execute(served) == [(6,)]


@pytest.mark.once
async def test_client_that_takes_nothing_is_not_counted_as_served(sqlite_site: Site) -> None:
    await asyncio.to_thread(finish, sqlite_site.call(prepare, "no"))
    server = sqlite_site.settings(POLL_SECONDS=0.3).serve()
    reads = await StreamClient(server.port, "/events/news/").connect()
    await reads.read_control(1)
    stuck = await StreamClient(server.port, "/events/news/").connect(receive_buffer=4096)
    # More than the kernel holds for it.
    await asyncio.to_thread(server.json, "/test/burst/?n=60&bytes=200000")
    await reads.read_until(60)
    await asyncio.to_thread(finish, sqlite_site.call(send_first))
    await reads.read_until(61)
    served = "SELECT coalesce(sum(connections), 0) FROM streams_delivery"
    await asyncio.to_thread(wait_until, lambda: sqlite_site.execute(served) != [(0,)], "the count")
    await asyncio.sleep(1)
    assert sqlite_site.execute(served) == [(1,)]
    assert stuck.events == []


@database
def test_served_is_the_sum_over_processes() -> None:
    made = draft()
    assert made.served == 0
    for node, n in (("a", 3), ("b", 4)):
        Delivery.objects.create(broadcast=made, node=node, connections=n)
    assert made.served == 7


@pytest.mark.once
def test_looking_for_what_is_due_reads_no_history(postgres_site: Site) -> None:
    """Each process asks every POLL_SECONDS, for ever."""
    postgres_site.execute(
        "INSERT INTO streams_broadcast (title, channels, event, payload_type, payload, state, revision, problem, "
        "created_at, sent_at, positions, audience) SELECT 'old', '[]', 'message', 'text', '', 'sent', 1, '', now(), "
        "now() - interval '1 day', '[]', '{}' FROM generate_series(1, 20000)"
    )
    postgres_site.execute("ANALYZE streams_broadcast")
    plans = finish(postgres_site.call(print_plans))
    assert plans.count("using streams_broadcast_due") == 1, plans
    assert plans.count("using streams_broadcast_sent") == 1, plans


def print_plans() -> None:
    for looked_for in (broadcasts.due, broadcasts.sent_since):
        print(looked_for(timezone.now()).explain())


@database
@pytest.mark.skipif(connection.vendor != "sqlite", reason="of SQLite's plans")
def test_looking_for_what_is_due_reads_no_history_on_sqlite_either() -> None:
    """SQLite knows nothing of how many rows there are, until somebody runs ANALYZE."""
    assert "streams_broadcast_due" in broadcasts.due(timezone.now()).explain()
    assert "streams_broadcast_sent" in broadcasts.sent_since(timezone.now()).explain()


@contextlib.contextmanager
def a_receiver_that_fails() -> Iterator[None]:
    """A site's own, that fails for the broadcast that is called "bad"."""

    def fails(instance: Broadcast, **kwargs: Any) -> None:
        if instance.title == "bad":
            raise ValueError("a receiver of the site's")

    post_save.connect(fails, sender=Broadcast)
    yield
    post_save.disconnect(fails, sender=Broadcast)


@database
def test_one_that_fails_holds_up_no_other_and_is_tried_again(editor: User) -> None:
    bad, good = draft(title="bad"), draft()
    make_due(bad, editor, seconds=9)
    make_due(good, editor)

    with a_receiver_that_fails():
        due = broadcasts.send_due()
        assert next(due).pk == good.pk
        with pytest.raises(ValueError, match="a receiver"):
            next(due)
    bad.refresh_from_db()
    assert (bad.state, len(stored())) == (State.SCHEDULED, 1)
    assert [sent.pk for sent in broadcasts.send_due()] == [bad.pk]


@database
def test_process_that_streams_goes_on_at_once_after_one_that_fails(
    editor: User, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing reaches the hub, which would wait longer after each failure, and let what comes due wait as well."""
    bad = draft(title="bad")
    make_due(bad, editor)

    with a_receiver_that_fails():
        for turn in range(1, 4):
            good = draft()
            make_due(good, editor)
            broadcasts._send_all_due()
            assert len(stored()) == turn
    assert caplog.text.count("is due and could not be sent; it is tried again.") == 1
    broadcasts._send_all_due()
    assert len(stored()) == 4


def test_whom_it_reached_is_counted_several_times_also_where_the_log_is_polled_seldom() -> None:
    for poll, often in ((0.3, 0.3), (1, 1), (600, 6)):
        with override_settings(STREAMS={"POLL_SECONDS": poll}):
            assert deliveries.chore_seconds() == often


@database
def test_steps_need_autocommit(editor: User) -> None:
    """They would be told of before they are committed."""
    made = draft()
    transaction.set_autocommit(False)
    try:
        with pytest.raises(RuntimeError, match="autocommit"):
            broadcasts.send(made.pk, by=editor)
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)


SEND_BY_CODE = """
from django.contrib.auth.models import User
from streams import broadcasts
from streams.models import Broadcast
made = Broadcast.objects.create(title="Night works", channels=["news"], payload="No trains after 22:00.")
broadcasts.send(made.pk, by=User.objects.create(username="ada"))
"""


@pytest.mark.once
async def test_site_without_the_admin_sends_and_streams(site: Site) -> None:
    site.env["DJANGO_SETTINGS_MODULE"] = "tests.settings_bare"
    site.manage("check", "--fail-level", "WARNING")
    site.settings(POLL_SECONDS=0.3)
    server = site.serve(app="tests.asgi:application")
    client = await StreamClient(server.port, "/events/news/").connect()
    await client.read_control(1)
    await asyncio.to_thread(finish, site.script(SEND_BY_CODE))
    await client.read_until(1)
    assert [event.data for event in client.events] == ["No trains after 22:00."]
    assert site.execute("SELECT count(*) FROM django_admin_log") == [(0,)]
