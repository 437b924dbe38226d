"""What the live monitor's script says, in the user's language."""

from __future__ import annotations

from django.utils.translation import gettext as _

from streams.admin.pages import ask_texts


def texts() -> dict[str, str]:
    """{key: text}, as Streams.text() reads them. {words} in braces are filled in by the script."""
    return {**_of_the_connection(), **_of_the_events(), **_of_gaps()}


def _of_the_connection() -> dict[str, str]:
    return {
        "live": _("Live"),
        "reconnecting": _("Reconnecting …"),
        "closed": _("Closed"),
        "lost": _("The connection was lost. What is published meanwhile will follow."),
        "refused": _(
            "The stream was refused, or is not served here: by the site’s policy, because the process is full, or by "
            "something between you and the site. Trying again in {seconds} seconds."
        ),
        "new-type": _("A new type of event: {types}. The stream was opened again from before its first."),
        "older": _("Older events are in the log"),
        "older-more": _(
            "A new type of event was found late: {types}. Its events from {first} through {through} may not be shown."
        ),
        "types-failed": _("Which types of events there are could not be asked: {problem}"),
        "stands": _("Stands at event {id}."),
        **ask_texts(),
    }


def _of_the_events() -> dict[str, str]:
    return {
        "event": _("Event {id}"),
        "publisher": _("by {name}"),
        "finding-channel": _("finding the channel …"),
        "no-channel": _("no longer in the log"),
        "show-all": _("Show all {n} characters"),
        "cut": _("{n} characters more are not shown."),
        "empty-data": _("(no data)"),
        "pause": _("Pause"),
        "resume": _("Resume"),
        "waiting": _("{n} waiting"),
        "waiting-dropped": _("{n} waiting; {dropped} older ones were let go, and are in the log"),
        "count": _("{n} received, {shown} shown"),
        "count-filtered": _("{n} received, {shown} of {kept} shown"),
        "rate": _("Messages a second in the last minute: {now} in the last second, {most} at most, {sum} in all."),
        "announce-one": _("New: event {id}, {type}."),
        "announce": _("{n} new events. The newest: {id}, {type}."),
    }


def _of_gaps() -> dict[str, str]:
    return {
        "stream-reset": _("Gap: events may have been missed"),
        "pruned": _(
            "Events after {requested} were deleted from the log before they could be sent. The oldest that is left is "
            "{earliest}, the newest event of the log is {head}."
        ),
        "unknown-id": _(
            "The log does not know the id {requested}; its newest is {head}. It may have been replaced or restored. "
            "What it has follows, from its oldest event, {earliest}."
        ),
        "malformed-id": _("“{requested}” is no id that the log has given. What it has follows, from {earliest}."),
        "none": _("none"),
        "other-reason": _("Reason: {reason}. Asked for {requested}; oldest {earliest}, newest {head}."),
        "stream-error": _("The stream failed on the server"),
        "stream-error-more": _("The browser will reconnect, and go on after event {id}."),
        "stream-snapshot": _("Snapshot of the state, at event {id}"),
    }
