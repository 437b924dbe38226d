"""Broadcasts: the way from a draft to messages in the log, each step once, whoever asks for it and however often.

Every step takes the broadcast's row first, in a transaction of its own, and then looks at its state: two people, a
double click and two processes meet at that lock. Sending appends the messages, gives them their positions, writes down
who sent what to whom, and moves the state, all in one transaction: a crash in the middle leaves it unsent.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.db import connections, router, transaction
from django.db.models import F, QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from streams import clock, log, presence, threads
from streams.events import NewMessage, StoredEvent, check, check_json, validate_channels
from streams.exceptions import BroadcastRefused, InvalidChannel, InvalidMessage
from streams.models import Broadcast
from streams.private.django import in_callers_transaction
from streams.threads import database
from streams.times import in_words

logger = logging.getLogger("streams.broadcasts")

State = Broadcast.State

MAX_CHANNELS = 50

DELETABLE = frozenset({State.DRAFT, State.CANCELLED})


# --- What a broadcast says --------------------------------------------------------------------------------------------


def messages_of(broadcast: Broadcast) -> list[NewMessage]:
    """The checked messages that sending would append, one for each channel. Raises InvalidMessage."""
    channels = validate_channels(broadcast.channels)
    if not channels:
        raise InvalidChannel(_("Name at least one channel to send to."))
    if len(channels) > MAX_CHANNELS:
        raise InvalidChannel(
            _("A broadcast goes to at most %(most)d channels; got %(n)d.") % {"most": MAX_CHANNELS, "n": len(channels)}
        )
    if broadcast.payload_type == Broadcast.PayloadType.JSON:
        check_json(broadcast.payload)
    return [
        check(NewMessage(channel, broadcast.payload, broadcast.event, published_by=broadcast.sent_by))
        for channel in channels
    ]


def wire_form(message: NewMessage, position: int) -> bytes:
    """The bytes that a client gets for a checked message."""
    return StoredEvent(position, message.channel, message.event, message.data).encode()


# --- The steps --------------------------------------------------------------------------------------------------------


def save_draft(broadcast: Broadcast, *, revision: int | None) -> Broadcast:
    """Store a draft. `revision`: that of the text which was edited; None for a new one.

    Raises BroadcastRefused where somebody else has changed it meanwhile, or it is no draft any more.
    """
    if revision is None:
        broadcast.save(using=database())
        return broadcast
    with _step(broadcast.pk, revision, State.DRAFT) as stored:
        broadcast.revision, broadcast.state, broadcast.problem = stored.revision, State.DRAFT, ""
        broadcast.save(using=database())
    return broadcast


def send(pk: int, *, by: Any, revision: int | None = None) -> Broadcast:
    """Send a draft, or a scheduled broadcast before its time. Returns it as it is afterwards.

    `by`: the user who sends. `revision`: what they have seen; None for whatever it is now.

    Raises:
        BroadcastRefused: it was sent or cancelled before, or is not what they have seen.
        InvalidMessage: it cannot be sent as it is.
    """
    return _send(pk, by=by, revision=revision)


def schedule(pk: int, send_at: datetime.datetime, *, by: Any, revision: int | None = None) -> Broadcast:
    """Have a draft sent at a time to come. Raises BroadcastRefused or InvalidMessage, as send() does."""
    if send_at <= clock.read():
        raise BroadcastRefused(_("The time to send it is in the past. Choose one to come, or send it now."))
    with _step(pk, revision, State.DRAFT) as broadcast:
        messages_of(broadcast)
        broadcast.state, broadcast.send_at, broadcast.scheduled_by, broadcast.problem = State.SCHEDULED, send_at, by, ""
        broadcast.save(using=database())
        record(broadcast, by, _("Scheduled for %(time)s.") % {"time": send_at.isoformat()})
    return broadcast


def unschedule(pk: int, *, by: Any) -> Broadcast:
    """Make a scheduled broadcast a draft again."""
    with _step(pk, None, State.SCHEDULED) as broadcast:
        broadcast.state, broadcast.send_at, broadcast.scheduled_by = State.DRAFT, None, None
        broadcast.save(using=database())
        record(broadcast, by, _("Taken back: a draft again."))
    return broadcast


def cancel(pk: int, *, by: Any) -> Broadcast:
    """Cancel a scheduled broadcast. It stays in the list, and is never sent."""
    with _step(pk, None, State.SCHEDULED) as broadcast:
        broadcast.state = State.CANCELLED
        broadcast.save(using=database())
        record(broadcast, by, _("Cancelled."))
    return broadcast


def discard(chosen: QuerySet[Broadcast]) -> None:
    """Delete drafts and cancelled ones, all that are chosen or none. What was sent is on record, and stays."""
    alias = database()
    with transaction.atomic(using=alias):
        # Locked, and looked at then: it may have been sent since somebody was asked whether to delete it.
        states = chosen.using(alias).select_for_update().values_list("state", flat=True)
        if not DELETABLE.issuperset(states):
            raise BroadcastRefused(_("It was sent or scheduled meanwhile, and stays."))
        chosen.using(alias).delete()


def use_again(broadcast: Broadcast, *, by: Any) -> Broadcast:
    """A new draft with what `broadcast` says, whatever became of that one."""
    return Broadcast.objects.using(database()).create(
        title=broadcast.title,
        channels=broadcast.channels,
        event=broadcast.event,
        payload_type=broadcast.payload_type,
        payload=broadcast.payload,
        created_by=by,
    )


def _send(pk: int, *, by: Any = None, revision: int | None = None, only_due: bool = False) -> Broadcast:
    # Before the lock: how many listen is nobody's transaction.
    wanted = Broadcast.objects.using(database()).filter(pk=pk).values_list("channels", flat=True).first() or []
    audience = presence.audiences(wanted)
    allowed = (State.SCHEDULED,) if only_due else (State.DRAFT, State.SCHEDULED)
    with _step(pk, revision, *allowed, skip_locked=only_due) as broadcast:
        now = clock.read()
        if only_due and (broadcast.send_at is None or broadcast.send_at > now):
            raise BroadcastRefused(_("It is not due."))
        broadcast.sent_by = broadcast.scheduled_by if only_due else by
        messages = messages_of(broadcast)
        rows = log.append(messages)
        broadcast.state, broadcast.sent_at, broadcast.problem = State.SENT, now, ""
        broadcast.channels = [message.channel for message in messages]
        broadcast.audience = {channel: audience.get(channel, 0) for channel in broadcast.channels}
        broadcast.save(using=database())
        record(broadcast, broadcast.sent_by, _what_was_sent(broadcast))
        # The head's lock last, for everybody else's messages wait for it; and no site's receiver runs under it.
        positions = log.sequence()
        broadcast.positions = [positions[row.pk] for row in rows]
        Broadcast.objects.using(database()).filter(pk=pk).update(positions=broadcast.positions)
    log.finish(positions, rows)
    return broadcast


def _what_was_sent(broadcast: Broadcast) -> str:
    to_whom = ", ".join(
        ngettext("%(channel)s (%(n)d connection)", "%(channel)s (%(n)d connections)", n) % {"channel": channel, "n": n}
        for channel, n in broadcast.audience.items()
    )
    return _("Sent “%(event)s” to %(to_whom)s.") % {"event": broadcast.event, "to_whom": to_whom}


@contextlib.contextmanager
def _step(pk: int, revision: int | None, *allowed: str, skip_locked: bool = False) -> Iterator[Broadcast]:
    """A transaction around one change of a broadcast, with its row locked, its state checked, its revision moved on."""
    alias = database()
    connection: Any = connections[alias]
    if in_callers_transaction(connection):
        raise RuntimeError("A broadcast's steps are transactions of their own; call them outside of atomic().")
    if not connection.in_atomic_block and not connection.get_autocommit():
        raise RuntimeError("A broadcast's steps commit by themselves; call them with autocommit switched on.")
    rows = Broadcast.objects.using(alias).filter(pk=pk)
    with log.sequencing_transaction():
        if connection.vendor == "postgresql":
            broadcast = rows.select_for_update(skip_locked=skip_locked).first()
        else:
            # A write first: SQLite takes its one lock at once, and never has to upgrade a read, which could fail.
            rows.update(revision=F("revision"))
            broadcast = rows.first()
        if broadcast is None:
            raise BroadcastRefused(_("There is no such broadcast; somebody may have deleted it."))
        if broadcast.state not in allowed:
            raise BroadcastRefused(_why_not(broadcast))
        if revision is not None and revision != broadcast.revision:
            raise BroadcastRefused(_("Somebody has changed this broadcast meanwhile. Look at it again first."))
        broadcast.revision += 1
        yield broadcast


def _why_not(broadcast: Broadcast) -> str:
    if broadcast.state == State.SENT:
        assert broadcast.sent_at is not None
        return _("This broadcast was sent already, at %(time)s by %(user)s.") % {
            "time": in_words(broadcast.sent_at),
            "user": broadcast.sent_by or _("nobody who is still known"),
        }
    return {
        State.CANCELLED: _("This broadcast was cancelled. “Use again” makes a draft of it."),
        State.SCHEDULED: _("This broadcast is scheduled. Make it a draft again first."),
        State.DRAFT: _("This broadcast is a draft, and not scheduled."),
    }[State(broadcast.state)]


def record(broadcast: Broadcast, user: Any, text: str) -> None:
    """Write a LogEntry: in the running transaction, or after its commit if the admin's log is in another database.

    Without the admin, or without a user, the logger `streams.broadcasts` is the only record.
    """
    logger.info("Broadcast %s, by %s: %s", broadcast.pk, user, text)
    if user is None or not apps.is_installed("django.contrib.admin"):
        return
    from django.contrib.admin.models import CHANGE, LogEntry
    from django.contrib.contenttypes.models import ContentType

    def write() -> None:
        LogEntry.objects.create(
            user_id=user.pk,
            content_type_id=ContentType.objects.get_for_model(Broadcast).pk,
            object_id=str(broadcast.pk),
            object_repr=str(broadcast)[:200],
            action_flag=CHANGE,
            change_message=text,
        )

    connection: Any = connections[database()]
    if router.db_for_write(LogEntry) != connection.alias:
        transaction.on_commit(write, using=connection.alias, robust=True)
        return
    write()
    if connection.vendor == "postgresql":
        # The entry's reference to the user is checked now. Checked at COMMIT, it would wait for a lock on the user's
        # row while the head of the log is locked.
        connection.check_constraints()


def forget_user(user_pk: Any) -> None:
    """Clear a deleted user from all broadcasts."""
    for name in ("created_by", "scheduled_by", "sent_by"):
        Broadcast.objects.using(database()).filter(**{name: user_pk}).update(**{name: None})


# --- What is due ------------------------------------------------------------------------------------------------------


_failing: set[int] = set()  # the broadcasts that are due and could not be sent by this process


def send_due() -> Iterator[Broadcast]:
    """Send what is due, the oldest first, and yield each that this call has sent. Safe in any number of processes.

    One that cannot be sent as it is becomes a draft again, and says why. Raises the first other error, when all others
    have been tried.
    """
    failed: Exception | None = None
    for pk in _due():
        try:
            if (sent := _send_if_due(pk)) is not None:
                yield sent
        except Exception as error:  # the others are not to wait for it
            failed = failed or error
    if failed is not None:
        raise failed


def _send_if_due(pk: int) -> Broadcast | None:
    """Send one, unless it is somebody else's to send, or cannot be sent. Raises what else went wrong, and logs it."""
    try:
        sent = _send(pk, only_due=True)
    except BroadcastRefused:
        return None  # another process was quicker, or somebody has taken it back
    except InvalidMessage as error:
        _give_back(pk, str(error))
        return None
    except Exception:  # a receiver of the site's, or the database
        if pk not in _failing:  # told once, and not at every turn
            _failing.add(pk)
            logger.exception("Broadcast %s is due and could not be sent; it is tried again.", pk)
        raise
    _failing.discard(pk)
    return sent


def _give_back(pk: int, problem: str) -> None:
    logger.error("Broadcast %s was due and cannot be sent; it is a draft again: %s", pk, problem)
    with contextlib.suppress(BroadcastRefused), _step(pk, None, State.SCHEDULED) as broadcast:
        by, broadcast.scheduled_by = broadcast.scheduled_by, None
        broadcast.state, broadcast.problem = State.DRAFT, problem
        broadcast.save(using=database())
        record(broadcast, by, _("It was due and could not be sent; a draft again: %(problem)s") % {"problem": problem})


def due(now: Any) -> QuerySet[Broadcast]:
    """The broadcasts that are due at `now`, such as clock.now(), the oldest first."""
    rows = Broadcast.objects.using(database()).filter(state=State.SCHEDULED, send_at__lte=now)
    return rows.order_by("send_at", "pk")


def sent_since(moment: Any) -> QuerySet[Broadcast]:
    """The broadcasts that were sent after `moment`."""
    # In no order: SQLite would rather read all of them in the model's order than look up these few and sort them.
    return Broadcast.objects.using(database()).filter(state=State.SENT, sent_at__gte=moment).order_by()


def _due() -> list[int]:
    return list(due(clock.now()).values_list("pk", flat=True))


def _is_due() -> bool:
    return due(clock.now()).exists()


async def send_as_chore() -> None:
    """Send what is due."""
    # Users' tests send what they want to be sent.
    if not threads.in_test_run() and await threads.run(_is_due, pool=threads.CHORES):
        await threads.run(_send_all_due, pool=threads.WAITING)


def _send_all_due() -> None:
    for pk in _due():
        # It has been logged. Were the hub told, it would wait longer and longer, and so would those that come due.
        with contextlib.suppress(Exception):
            _send_if_due(pk)
