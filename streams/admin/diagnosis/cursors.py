"""Findings about the client's last event id: would a stream that resumes from it deliver the message?"""

from __future__ import annotations

from collections.abc import Iterator

from django.utils.translation import gettext as _

from streams import log
from streams.admin.diagnosis.findings import (
    MAX_COUNTED,
    SHOWN_CHARACTERS,
    Finding,
    bad,
    count_messages,
    describe_count,
    good,
    note,
)
from streams.conf import settings
from streams.protocol.sse import MAX_POSITION_DIGITS
from streams.templatetags.streams_admin import shorten


def check_cursor(channel: str, position: int, cursor: str) -> Iterator[Finding]:
    """Describe what a stream that resumes from `cursor` delivers. The cases have the same order as in a stream."""
    head = log.head().head
    if not cursor:
        yield _without_cursor(channel, position, head)
    elif not (cursor.isascii() and cursor.isdigit()):
        yield _after_reset(
            channel, position, "malformed-id", _("“%s” is not a valid event id.") % shorten(cursor, SHOWN_CHARACTERS)
        )
    elif len(cursor) > MAX_POSITION_DIGITS or int(cursor) > head:
        sentence = _("The log has no event “%(cursor)s”. Its newest event is %(head)s.")
        values = {"cursor": shorten(cursor, SHOWN_CHARACTERS), "head": head}
        yield _after_reset(channel, position, "unknown-id", sentence % values)
    elif log.read_epochs().is_lost(int(cursor)):
        sentence = _("The event “%s” belongs to a lost history: the log was emptied or replaced by an older copy.")
        yield _after_reset(channel, position, "unknown-id", sentence % shorten(cursor, SHOWN_CHARACTERS))
    elif int(cursor) >= position:
        yield bad(
            _("The client reports that it has received all events up to %(cursor)s, which includes this event.")
            % {"cursor": int(cursor)},
            _(
                "It is not sent again. If the page got this id from stream_url, the message was published before the "
                "page was rendered, so it belongs in the page’s own data. Otherwise the event has reached the browser: "
                "check what the page’s script did with it."
            ),
        )
    else:
        yield from _replay(channel, position, int(cursor))


def _without_cursor(channel: str, position: int, head: int) -> Finding:
    limit = settings.MAX_REPLAY_MESSAGES
    newest = count_messages(channel, position - 1, head, limit)
    start = _(
        "No last event id was given: the client has none, or you do not know it. Without one, its stream starts at the "
        "newest event, now %(head)s, and delivers only later messages. It delivered this event only if it was open "
        "when the message was published. The site’s view can send a snapshot first (get_snapshot)."
    ) % {"head": head}
    hint = _(
        "If the client has an id, the browser’s developer tools show it under “Network”, as Last-Event-ID or as "
        "last_event_id in the stream’s URL. Enter it here."
    )
    if newest > limit:
        remedy = _(
            "If it has none, ?replay= cannot reach this event, because it delivers at most the newest %(limit)d "
            "messages (MAX_REPLAY_MESSAGES). Show the message in the page’s own data, and connect with stream_url, "
            "which continues from there."
        ) % {"limit": limit}
    else:
        remedy = _(
            "If it has none, use stream_url in the page’s template. Its URL contains the newest event id, so that no "
            "message is missed between the page and the stream. Or request the newest messages: ?replay=%(n)d or more "
            "delivers this event now, unless the view sends a snapshot (get_snapshot) instead."
        ) % {"n": newest}
    return note(start, f"{hint} {remedy}")


def _after_reset(channel: str, position: int, reason: str, sentence: str) -> Finding:
    before = count_messages(channel, 0, position - 1, MAX_COUNTED)
    delivers = _(
        "The stream starts with a stream-reset event (%(reason)s) and then delivers all messages in the log: this "
        "event too, after %(before)s, unless the view sends a snapshot (get_snapshot) instead."
    ) % {"reason": reason, "before": describe_count(before)}
    return note(
        f"{sentence} {delivers}",
        _(
            "The page must store only ids that the stream has sent, and must handle stream-reset. After the log was "
            "replaced by an older copy, ids that the copy does not have are unknown, once for each client. If the "
            "database cannot detect the replacement, an operator has to run “manage.py start_new_epoch”."
        ),
    )


def _replay(channel: str, position: int, cursor: int) -> Iterator[Finding]:
    values = {"cursor": cursor, "before": describe_count(count_messages(channel, cursor, position - 1, MAX_COUNTED))}
    pruned = log.pruned([channel], cursor)
    if pruned:
        yield note(
            _(
                "Messages of this channel after %(cursor)s have expired and were deleted, up to event %(pruned)s. A "
                "stream that resumes from %(cursor)s starts with a stream-reset event (pruned), unless the process "
                "still has these messages in memory. It then delivers the remaining messages: this event too, after "
                "%(before)s, unless the view sends a snapshot (get_snapshot) instead."
            )
            % {**values, "pruned": pruned[channel]},
            _(
                "Let the page’s script handle stream-reset by reloading its data, and then process the following "
                "events."
            ),
        )
    else:
        yield good(
            _("A stream that resumes from %(cursor)s delivers this event, after %(before)s.") % values,
            _(
                "So the client receives it as soon as it connects. Check that it does: the browser’s developer tools "
                "show the stream and its response under “Network”."
            ),
        )
