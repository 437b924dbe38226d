"""Findings about the log: is the message there, why not, and which messages are next to it?"""

from __future__ import annotations

from collections.abc import Iterator

from django.utils.translation import gettext as _

from streams import log
from streams.admin.diagnosis.findings import Finding, bad, good, note
from streams.admin.pages import format_local
from streams.models import Channel, Message
from streams.runtime.executor import database


def describe_message(message: Message) -> Finding:
    return good(
        _("Event %(id)s is in the log, in channel %(channel)s. It was published at %(time)s.")
        % {"id": message.position, "channel": message.channel, "time": format_local(message.created_at)},
    )


def explain_missing(position: int) -> Iterator[Finding]:
    """Explain why the log has no message at `position`."""
    head = log.head()
    if log.read_epochs().is_lost(position):
        yield bad(
            _("Event %(id)s belongs to a lost history: the log was emptied or replaced by an older copy.")
            % {"id": position},
            _(
                "Publish it again if it is still needed. Clients with an id from the lost history receive a "
                "stream-reset event with the reason “unknown-id” when they reconnect."
            ),
        )
    elif position > head.head:
        yield bad(
            _("There is no event %(id)s. The newest event is %(head)s.") % {"id": position, "head": head.head},
            _(
                "Search for the message in the list of messages. If publish() was called in a transaction that was "
                "rolled back, the message never existed. If publish() raised an error, the site’s log has the error."
            ),
        )
    else:
        yield _explain_deleted(position, head.floor)
    if head.unsequenced:
        yield note(
            _("Some messages have no event id yet, and no client has received them. It might be one of them."),
            _(
                "They get their ids in a moment if any process serves streams or publishes. If none does, open a "
                "stream or run “manage.py publish”."
            ),
        )


def _explain_deleted(position: int, floor: int) -> Finding:
    # The channel of a deleted message is not known, so any channel that was pruned this far is a possible explanation.
    pruned = Channel.objects.using(database()).filter(pruned_through__gte=position)
    if floor < position and not pruned.exists():
        return bad(
            _("Event %(id)s is missing from the log, but it did not expire. Its row was deleted in another way.")
            % {"id": position},
            _(
                "Find the code or the person that deletes rows of the log. Clients cannot be informed about messages "
                "that were deleted this way. Let only the retention settings delete messages."
            ),
        )
    return bad(
        _(
            "Event %(id)s is no longer in the log. It expired and was deleted, unless its row was deleted in another "
            "way. Clients that reconnect with an older id receive a stream-reset event with the reason “pruned”."
        )
        % {"id": position},
        _(
            "Let the page’s script handle stream-reset by reloading its data. To keep messages for a longer time, "
            "increase the retention of the channel, or RETENTION_SECONDS."
        ),
    )


def check_neighbours(channel: str, position: int) -> Iterator[Finding]:
    """Name the next or the previous message of the channel, to ask whether the client received that one."""
    rows = Message.objects.using(database()).filter(channel=channel).values_list("position", flat=True)
    newer = rows.filter(position__gt=position).order_by("position").first()
    older = rows.filter(position__lt=position).order_by("-position").first()
    if newer is not None:
        yield note(
            _("The next event in this channel is %(id)s.") % {"id": newer},
            _(
                "Ask whether they received that event. If they did, the connection works, and the page’s script lost "
                "this event. If they did not, check their connection."
            ),
        )
    elif older is not None:
        yield note(
            _("This is the newest event in its channel. The previous one is %(id)s.") % {"id": older},
            _("Ask whether they received the previous event, or send this one again as a test."),
        )
