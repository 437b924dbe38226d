"""The texts of the live monitor's scripts."""

from django.utils.translation import gettext_lazy as _

from streams.admin.pages import FETCH_ERRORS

# {key: text} for `Streams.text()` in base.js, which fills in the names in braces.
TEXTS = {
    # The connection
    "live": _("Live"),
    "reconnecting": _("Reconnecting …"),
    "closed": _("Closed"),
    "lost": _("The connection was lost. Events that you miss now will be shown after reconnecting."),
    "refused": _(
        "The stream could not be opened. The site’s policy or a limit might have refused it, or a proxy might "
        "block it. Trying again in {seconds} seconds."
    ),
    "new-type": _("New event type: {types}. The stream was reopened to include these events."),
    "older": _("Some older events are not shown"),
    "older-more": _(
        "The new event type {types} was found late. Its events from {first} to {through} might not be shown here. "
        "See them in the list of messages."
    ),
    "types-failed": _("Could not check for new event types: {problem}"),
    "position": _("Last event: {id}."),
    **FETCH_ERRORS,
    # Events
    "event": _("Event {id}"),
    "publisher": _("by {name}"),
    "finding-channel": _("loading the channel …"),
    "no-channel": _("deleted from the log"),
    "show-all": _("Show all {n} characters"),
    "cut": _("{n} more characters are not shown."),
    "empty-data": _("(no data)"),
    "pause": _("Pause"),
    "resume": _("Resume"),
    "waiting": _("{n} waiting"),
    "waiting-dropped": _("{n} waiting; {dropped} older ones are not shown, but are in the list of messages"),
    "count": _("{n} received, {shown} shown"),
    "count-filtered": _("{n} received, {shown} of {kept} shown"),
    "rate": _("Messages per second in the last minute: {now} in the last second, maximum {maximum}, total {sum}."),
    "announce-one": _("New: event {id}, {type}."),
    "announce": _("{n} new events. Newest: event {id}, {type}."),
    # Notices
    "stream-reset": _("Gap: some events might be missing"),
    "pruned": _(
        "Events after {requested} were deleted from the log before they could be sent. The oldest remaining event "
        "is {earliest}, the newest is {head}."
    ),
    "unknown-id": _(
        "The log has no event {requested}; its newest event is {head}. The log might have been replaced or "
        "restored. The stream continues with the oldest event, {earliest}."
    ),
    "malformed-id": _("“{requested}” is not a valid event id. The stream continues with the oldest event, {earliest}."),
    "none": _("none"),
    "other-reason": _("Reason: {reason}. Requested: {requested}, oldest: {earliest}, newest: {head}."),
    "stream-error": _("The server ended the stream"),
    "stream-error-more": _("The browser will reconnect and continue after event {id}."),
    "stream-snapshot": _("Snapshot of the current state, at event {id}"),
}
