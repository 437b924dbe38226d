"""The states of a broadcast, from a draft to messages in the log. Each change of state happens once.

Every change first locks the broadcast's row, in a transaction of its own, and then checks the state. So a double click,
two users or two processes cannot make the same change twice. Sending appends the messages, gives them their positions,
writes the admin's log entry and changes the state in one transaction: after a crash, nothing was sent.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.conf import settings
from django.db import connections, router, transaction
from django.db.models import F, QuerySet
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from streams import log, presence
from streams.exceptions import BroadcastRefused, InvalidChannel
from streams.models import Broadcast
from streams.private.django import in_callers_transaction
from streams.protocol.events import NewMessage, check, validate_channels
from streams.protocol.json_bodies import check_json
from streams.runtime import clock
from streams.runtime.executor import database
from streams.telemetry.log_fields import fields

logger = logging.getLogger("streams.broadcasts")

State = Broadcast.State

MAX_CHANNELS = 50

# The reason for refusing a change of a revision that the user has not seen.
CHANGED = gettext_lazy("Another user has changed this broadcast. Check the new version first.")

DELETABLE_STATES = frozenset({State.DRAFT, State.CANCELLED})


# --- The messages of a broadcast --------------------------------------------------------------------------------------


def messages_of(broadcast: Broadcast) -> list[NewMessage]:
    """Return the messages that sending would append, one for each channel. Raise InvalidMessage if one is not valid."""
    channels = validate_channels(broadcast.channels)
    if not channels:
        raise InvalidChannel(_("Enter at least one channel."))
    if len(channels) > MAX_CHANNELS:
        rule = _("A broadcast can have at most %(limit)d channels; got %(n)d.")
        raise InvalidChannel(rule % {"limit": MAX_CHANNELS, "n": len(channels)})
    if broadcast.payload_type == Broadcast.PayloadType.JSON:
        check_json(broadcast.payload)
    return [
        check(NewMessage(channel, broadcast.payload, broadcast.event, published_by=broadcast.sent_by))
        for channel in channels
    ]


# --- Changes of state -------------------------------------------------------------------------------------------------


def save_draft(broadcast: Broadcast, *, revision: int | None) -> None:
    """Save a draft. `revision` is the one that the user has edited; None for a new draft.

    Raises BroadcastRefused if another user has changed the broadcast since then, or if it is not a draft any more.
    """
    if revision is None:
        broadcast.save(using=database())
        return
    with _change(broadcast.pk, revision, State.DRAFT) as stored:
        broadcast.revision, broadcast.state, broadcast.problem = stored.revision, State.DRAFT, ""
        broadcast.save(using=database())


def send(pk: int, *, by: Any, revision: int | None = None) -> Broadcast:
    """Send a draft, or send a scheduled broadcast early. Return the sent broadcast.

    Args:
        pk: the broadcast's primary key.
        by: the user who sends it; None if no user is known.
        revision: the revision that the user has seen; None to send any revision.

    Raises:
        BroadcastRefused: it was sent or cancelled already, or its revision is another one.
        InvalidMessage: its channels, event type or payload are not valid.
    """
    return _send(pk, by=by, revision=revision)


def send_if_due(pk: int) -> Broadcast:
    """Send a scheduled broadcast whose time has come, in the name of the user who scheduled it.

    Raises InvalidMessage as send() does, and BroadcastRefused if it is not due or another process is sending it.
    """
    return _send(pk, only_due=True)


def schedule(pk: int, send_at: datetime.datetime, *, by: Any, revision: int | None = None) -> Broadcast:
    """Schedule a draft. Raise BroadcastRefused or InvalidMessage as send() does."""
    if send_at <= clock.read():
        raise BroadcastRefused(_("This time is in the past. Choose a later time, or send the broadcast now."))
    with _change(pk, revision, State.DRAFT) as broadcast:
        messages_of(broadcast)
        broadcast.state, broadcast.send_at, broadcast.scheduled_by, broadcast.problem = State.SCHEDULED, send_at, by, ""
        broadcast.save(using=database())
        log_change(broadcast, by, _("Scheduled for %(time)s.") % {"time": send_at.isoformat()})
    return broadcast


def unschedule(pk: int, *, by: Any) -> Broadcast:
    """Make a scheduled broadcast a draft again."""
    with _change(pk, None, State.SCHEDULED) as broadcast:
        broadcast.state, broadcast.send_at, broadcast.scheduled_by = State.DRAFT, None, None
        broadcast.save(using=database())
        log_change(broadcast, by, _("Changed back to a draft."))
    return broadcast


def cancel(pk: int, *, by: Any) -> Broadcast:
    """Cancel a scheduled broadcast. It stays in the list but is never sent."""
    with _change(pk, None, State.SCHEDULED) as broadcast:
        broadcast.state = State.CANCELLED
        broadcast.save(using=database())
        log_change(broadcast, by, _("Cancelled."))
    return broadcast


def return_to_draft(pk: int, problem: str) -> None:
    """Make a scheduled broadcast that cannot be sent a draft again. Store `problem` for its authors to read."""
    extra = fields(event="broadcast-refused", broadcast=pk)
    logger.error("Broadcast %s was due but cannot be sent. It is a draft again: %s", pk, problem, extra=extra)
    with contextlib.suppress(BroadcastRefused), _change(pk, None, State.SCHEDULED) as broadcast:
        by, broadcast.scheduled_by = broadcast.scheduled_by, None
        broadcast.state, broadcast.problem = State.DRAFT, problem
        broadcast.save(using=database())
        log_change(broadcast, by, _("Could not be sent; it is a draft again: %(problem)s") % {"problem": problem})


def delete_broadcasts(chosen: QuerySet[Broadcast]) -> None:
    """Delete drafts and cancelled broadcasts. Raise BroadcastRefused, and delete none, if one has another state."""
    alias = database()
    with transaction.atomic(using=alias):
        # Check the states under the lock: one might have been sent while the user was confirming.
        states = chosen.using(alias).select_for_update().values_list("state", flat=True)
        if not DELETABLE_STATES.issuperset(states):
            raise BroadcastRefused(_("It was not deleted, because it has been sent or scheduled in the meantime."))
        chosen.using(alias).delete()


def copy_as_draft(broadcast: Broadcast, *, by: Any) -> Broadcast:
    """Create a new draft with the same content, whatever the state of `broadcast`."""
    return Broadcast.objects.using(database()).create(
        title=broadcast.title,
        channels=broadcast.channels,
        event=broadcast.event,
        payload_type=broadcast.payload_type,
        payload=broadcast.payload,
        created_by=by,
    )


def _send(pk: int, *, by: Any = None, revision: int | None = None, only_due: bool = False) -> Broadcast:
    # Count before taking the lock: counting does not need the transaction.
    channels = Broadcast.objects.using(database()).filter(pk=pk).values_list("channels", flat=True).first() or []
    audience = presence.audiences(channels)
    allowed = (State.SCHEDULED,) if only_due else (State.DRAFT, State.SCHEDULED)
    with _change(pk, revision, *allowed, skip_locked=only_due) as broadcast:
        now = clock.read()
        if only_due and (broadcast.send_at is None or broadcast.send_at > now):
            raise BroadcastRefused(_("This broadcast is not due."))
        broadcast.sent_by = broadcast.scheduled_by if only_due else by
        messages = messages_of(broadcast)
        rows = log.append(messages)
        broadcast.state, broadcast.sent_at, broadcast.problem = State.SENT, now, ""
        broadcast.channels = [message.channel for message in messages]
        broadcast.audience = {channel: audience.get(channel, 0) for channel in broadcast.channels}
        broadcast.save(using=database())
        log_change(broadcast, broadcast.sent_by, _sent_text(broadcast))
        # Take the head's lock last. All publishers wait for it, so the site's signal receivers must not run under it.
        positions = log.sequence()
        broadcast.positions = [positions[row.pk] for row in rows]
        Broadcast.objects.using(database()).filter(pk=pk).update(positions=broadcast.positions)
    log.finish(positions, rows)
    return broadcast


def _sent_text(broadcast: Broadcast) -> str:
    audience = ", ".join(
        ngettext("%(channel)s (%(n)d connection)", "%(channel)s (%(n)d connections)", n) % {"channel": channel, "n": n}
        for channel, n in broadcast.audience.items()
    )
    return _("Sent “%(event)s” to %(audience)s.") % {"event": broadcast.event, "audience": audience}


@contextlib.contextmanager
def _change(pk: int, revision: int | None, *allowed: str, skip_locked: bool = False) -> Iterator[Broadcast]:
    """Change a broadcast in a transaction: lock its row, check its state and revision, and increment the revision."""
    alias = database()
    connection: Any = connections[alias]
    if in_callers_transaction(connection):
        raise RuntimeError("Changing a broadcast commits its own transaction. Call this outside atomic().")
    if not connection.in_atomic_block and not connection.get_autocommit():
        raise RuntimeError("Changing a broadcast commits its own transaction. Call this with autocommit on.")
    rows = Broadcast.objects.using(alias).filter(pk=pk)
    with log.sequencing_transaction():
        if connection.vendor == "postgresql":
            broadcast = rows.select_for_update(skip_locked=skip_locked).first()
        else:
            # Write first, so that SQLite takes its write lock at once. Upgrading a read lock later could fail.
            rows.update(revision=F("revision"))
            broadcast = rows.first()
        if broadcast is None:
            raise BroadcastRefused(_("This broadcast does not exist. It might have been deleted."))
        if broadcast.state not in allowed:
            raise BroadcastRefused(_wrong_state_text(broadcast))
        if revision is not None and revision != broadcast.revision:
            raise BroadcastRefused(CHANGED)
        broadcast.revision += 1
        yield broadcast


def _wrong_state_text(broadcast: Broadcast) -> str:
    if broadcast.state == State.SENT:
        sent_at = broadcast.sent_at
        assert sent_at is not None
        return _("This broadcast was already sent, at %(time)s by %(user)s.") % {
            "time": date_format(timezone.localtime(sent_at) if settings.USE_TZ else sent_at, "Y-m-d H:i:s T").strip(),
            "user": broadcast.sent_by or _("a user who does not exist any more"),
        }
    return {
        State.CANCELLED: _("This broadcast was cancelled. You can copy it as a new draft."),
        State.SCHEDULED: _("This broadcast is scheduled. Change it back to a draft first."),
        State.DRAFT: _("This broadcast is a draft. It is not scheduled."),
    }[State(broadcast.state)]


def log_change(broadcast: Broadcast, user: Any, text: str) -> None:
    """Write a LogEntry in the current transaction, or after it commits if the admin's log is in another database.

    If the admin is not installed or `user` is None, the change is recorded by the logger `streams.broadcasts` only.
    """
    extra = fields(event="broadcast-changed", broadcast=broadcast.pk)
    logger.info("Broadcast %s, by %s: %s", broadcast.pk, user, text, extra=extra)
    if user is None or not apps.is_installed("django.contrib.admin"):
        return
    from django.contrib.admin.models import CHANGE, LogEntry

    def write() -> None:
        LogEntry.objects.log_actions(user.pk, [broadcast], CHANGE, text)

    connection: Any = connections[database()]
    if router.db_for_write(LogEntry) != connection.alias:
        transaction.on_commit(write, using=connection.alias, robust=True)
        return
    write()
    if connection.vendor == "postgresql":
        # Check the reference to the user now. At COMMIT, the check could wait for a lock on the user's row while this
        # transaction holds the lock on the head of the log.
        connection.check_constraints()


def forget_user(user_pk: Any) -> None:
    """Remove a deleted user from all broadcasts."""
    for name in ("created_by", "scheduled_by", "sent_by"):
        Broadcast.objects.using(database()).filter(**{name: user_pk}).update(**{name: None})
