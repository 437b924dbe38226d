"""Each state change of a broadcast happens once, in the same transaction as its log entry."""

from __future__ import annotations

import asyncio
import datetime
import os
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models.signals import post_save
from django.utils import timezone

from streams.broadcasts import lifecycle, schedule
from streams.exceptions import BroadcastRefused, InvalidChannel, InvalidJSON, InvalidMessage
from streams.models import Broadcast, Message
from tests.broadcasts.support import State, database, draft, in_an_hour, make_due, prepare, stored
from tests.support.clients import StreamClient
from tests.support.sites import Site, finish


@database
def test_sending_appends_one_message_per_channel(editor: User) -> None:
    made = draft(channels=["weather", "news"], event="alert", payload="a\r\nb")
    sent = lifecycle.send(made.pk, by=editor)
    assert stored() == [(1, "weather", "alert", "a\nb"), (2, "news", "alert", "a\nb")]
    assert {message.published_by for message in Message.objects.all()} == {editor}
    sent.refresh_from_db()
    assert (sent.state, sent.sent_by, sent.positions) == (State.SENT, editor, [1, 2])
    assert sent.positions_by_channel == {"weather": 1, "news": 2}
    assert sent.audience == {"weather": 0, "news": 0}
    assert sent.sent_at is not None


@database
def test_repeated_channel_gets_one_message(editor: User) -> None:
    sent = lifecycle.send(draft(channels=["news", "weather", "news"]).pk, by=editor)
    assert [row[1] for row in stored()] == ["news", "weather"]
    assert sent.channels == ["news", "weather"]


@database
def test_json_is_sent_unchanged(editor: User) -> None:
    payload = '{"price": 1.10,\n "big": 12345678901234567890.5}'
    lifecycle.send(draft(payload_type="json", payload=payload).pk, by=editor)
    assert stored() == [(1, "news", "message", payload)]


@database
def test_sending_is_logged(editor: User) -> None:
    sent = lifecycle.send(draft(event="alert", channels=["news", "weather"]).pk, by=editor)
    [entry] = LogEntry.objects.all()
    assert (entry.user, entry.object_id, entry.object_repr) == (editor, str(sent.pk), "Night works")
    assert entry.get_edited_object() == sent
    assert entry.get_change_message() == ("Sent “alert” to news (0 connections), weather (0 connections).")


@database
def test_sent_broadcast_is_not_sent_again(editor: User) -> None:
    made = draft()
    lifecycle.send(made.pk, by=editor)
    with pytest.raises(BroadcastRefused, match=r"was already sent, at .* by editor"):
        lifecycle.send(made.pk, by=editor)
    assert len(stored()) == 1
    assert LogEntry.objects.count() == 1


@database
def test_changed_broadcast_is_not_sent(editor: User) -> None:
    made = draft()
    seen = made.revision
    made.payload = "Something else."
    lifecycle.save_draft(made, revision=seen)
    with pytest.raises(BroadcastRefused, match="Another user has changed this broadcast"):
        lifecycle.send(made.pk, by=editor, revision=seen)
    assert stored() == []
    lifecycle.send(made.pk, by=editor, revision=seen + 1)
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
def test_invalid_broadcast_stays_a_draft(editor: User, fields: dict[str, Any], error: type[Exception]) -> None:
    made = draft(**fields)
    with pytest.raises(error):
        lifecycle.send(made.pk, by=editor)
    with pytest.raises(error):
        lifecycle.schedule(made.pk, in_an_hour(), by=editor)
    made.refresh_from_db()
    assert made.state == State.DRAFT
    assert stored() == []
    assert not LogEntry.objects.exists()


@database
def test_failed_log_entry_prevents_sending() -> None:
    stranger = User(pk=999_999, username="deleted meanwhile")
    made = draft()
    with pytest.raises(Exception, match=r"FOREIGN KEY|foreign key|scheduled_by|sent_by"):
        lifecycle.send(made.pk, by=stranger)
    made.refresh_from_db()
    assert (made.state, stored()) == (State.DRAFT, [])


@database
def test_change_inside_callers_transaction_is_refused(editor: User) -> None:
    """The change would hold the log's lock until that transaction ends."""
    made = draft()
    with transaction.atomic(), pytest.raises(RuntimeError, match=r"outside atomic"):
        lifecycle.send(made.pk, by=editor)
    assert stored() == []


@database
def test_no_such_broadcast(editor: User) -> None:
    with pytest.raises(BroadcastRefused, match="does not exist"):
        lifecycle.send(7, by=editor)


@database
def test_concurrent_edits_do_not_overwrite() -> None:
    made = draft()
    mine, theirs = Broadcast.objects.get(pk=made.pk), Broadcast.objects.get(pk=made.pk)
    theirs.payload = "theirs"
    lifecycle.save_draft(theirs, revision=1)
    mine.payload = "mine"
    with pytest.raises(BroadcastRefused, match="Another user has changed"):
        lifecycle.save_draft(mine, revision=1)
    made.refresh_from_db()
    assert (made.payload, made.revision) == ("theirs", 2)


@database
def test_what_was_sent_cannot_be_edited(editor: User) -> None:
    made = draft()
    sent = lifecycle.send(made.pk, by=editor)
    made.payload = "another story"
    with pytest.raises(BroadcastRefused):
        lifecycle.save_draft(made, revision=sent.revision)
    sent.refresh_from_db()
    assert (sent.state, sent.payload) == (State.SENT, "No trains after 22:00.")


@database
def test_scheduled_in_the_past_is_refused(editor: User) -> None:
    with pytest.raises(BroadcastRefused, match="in the past"):
        lifecycle.schedule(draft().pk, timezone.now() - datetime.timedelta(seconds=1), by=editor)


@database
def test_unscheduled_and_cancelled_are_never_sent(editor: User) -> None:
    unscheduled, cancelled = draft(), draft()
    for made in (unscheduled, cancelled):
        lifecycle.schedule(made.pk, in_an_hour(), by=editor)
    assert lifecycle.unschedule(unscheduled.pk, by=editor).send_at is None
    lifecycle.cancel(cancelled.pk, by=editor)
    Broadcast.objects.update(send_at=timezone.now() - datetime.timedelta(hours=1))
    assert list(schedule.send_due()) == []
    assert stored() == []
    assert set(Broadcast.objects.values_list("state", flat=True)) == {State.DRAFT, State.CANCELLED}
    with pytest.raises(BroadcastRefused, match="was cancelled"):
        lifecycle.send(cancelled.pk, by=editor)
    assert [entry.get_change_message() for entry in LogEntry.objects.order_by("pk")][2:] == [
        "Changed back to a draft.",
        "Cancelled.",
    ]


@database
def test_deleted_user_does_not_block_sending(editor: User) -> None:
    made = draft()
    lifecycle.schedule(made.pk, in_an_hour(), by=editor)
    editor.delete()
    make_due(made)
    assert [sent.pk for sent in schedule.send_due()] == [made.pk]
    assert len(stored()) == 1


@database
def test_copy_makes_a_new_draft(editor: User) -> None:
    sent = lifecycle.send(draft(channels=["a", "b"], event="alert").pk, by=editor)
    again = lifecycle.copy_as_draft(sent, by=editor)
    assert (again.state, again.channels, again.event, again.payload) == ("draft", ["a", "b"], "alert", sent.payload)
    assert (again.positions, again.audience, again.sent_by, again.revision) == ([], {}, None, 1)
    lifecycle.send(again.pk, by=editor)
    assert len(stored()) == 4


def die_while_sending() -> None:
    """Send due broadcasts, and exit when the broadcast's row is saved, which is the last step before the commit."""

    def die(sender: Any, instance: Any, **kwargs: Any) -> None:
        if instance.state == State.SENT:
            os._exit(9)

    post_save.connect(die, sender=Broadcast)
    list(schedule.send_due())


@pytest.mark.once
def test_crash_while_sending_sends_nothing(site: Site) -> None:
    finish(site.call(prepare))
    dying = site.call(die_while_sending)
    dying.communicate(timeout=60)
    assert dying.returncode == 9
    assert site.execute("SELECT state FROM streams_broadcast") == [("scheduled",)]
    assert site.execute("SELECT count(*) FROM streams_message") == [(0,)]
    assert "Sent broadcast" in site.manage("send_due_broadcasts").stdout
    assert site.execute("SELECT channel, position FROM streams_message") == [("news", 1)]


@database
def test_steps_need_autocommit(editor: User) -> None:
    """Without autocommit, processes would be notified before the change is committed."""
    made = draft()
    transaction.set_autocommit(False)
    try:
        with pytest.raises(RuntimeError, match="autocommit"):
            lifecycle.send(made.pk, by=editor)
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)


SEND_BY_CODE = """
from django.contrib.auth.models import User
from streams.broadcasts import lifecycle, schedule
from streams.models import Broadcast
made = Broadcast.objects.create(title="Night works", channels=["news"], payload="No trains after 22:00.")
lifecycle.send(made.pk, by=User.objects.create(username="ada"))
"""


@pytest.mark.once
async def test_site_without_admin_can_send(site: Site) -> None:
    site.env["DJANGO_SETTINGS_MODULE"] = "tests.support.settings_bare"
    site.manage("check", "--fail-level", "WARNING")
    site.settings(POLL_SECONDS=0.3)
    server = site.serve(app="tests.support.asgi:application")
    client = await StreamClient(server.port, "/events/news/").connect()
    await client.read_control(1)
    await asyncio.to_thread(finish, site.script(SEND_BY_CODE))
    await client.read_until(1)
    assert [event.data for event in client.events] == ["No trains after 22:00."]
    assert site.execute("SELECT count(*) FROM django_admin_log") == [(0,)]
