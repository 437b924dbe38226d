"""JSON views for the scripts of the broadcast pages: previews, suggestions, audience counts and test messages."""

from __future__ import annotations

import datetime
from dataclasses import asdict
from itertools import islice
from typing import Any

from django.forms.models import model_to_dict
from django.http import HttpRequest, JsonResponse
from django.urls import URLPattern
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_GET, require_POST

from streams import log, presence, publish
from streams.admin.broadcasts.forms import BroadcastForm, PayloadForm, refused_channels
from streams.admin.broadcasts.permissions import BroadcastPermissions
from streams.admin.broadcasts.warnings import audience_sentences, find_warnings
from streams.admin.pages import FETCH_ERRORS, json_errors
from streams.broadcasts import lifecycle, reach
from streams.exceptions import InvalidMessage
from streams.log import catalog
from streams.models import Broadcast, Message
from streams.presence import totals
from streams.protocol.events import USER_PREFIX
from streams.protocol.sse import EventStreamDecoder, StoredEvent
from streams.runtime import clock
from streams.runtime.executor import database

MAX_SUGGESTIONS = 20
# The policy is asked about at most this many names.
MAX_NAMES = 500
RECENT_MESSAGES = 1000
RECENT_BROADCASTS = 100

NO_VIEW = _("You do not have permission to view broadcasts.")


class BroadcastJSONViews(BroadcastPermissions):
    """The views that respond with JSON."""

    def json_urls(self) -> list[URLPattern]:
        write: Any = {"allowed": self.can_compose, "refusal": _("You do not have permission to write broadcasts.")}
        return [
            self.staff_path("preview/", require_POST(self.preview_json), "preview", **write),
            self.staff_path("test/", require_POST(self.test_json), "test", **write),
            self.staff_path("known/", require_GET(self.known_json), "known", **write),
            self.staff_path("audience/", require_GET(self.audience_json), "audience", refusal=NO_VIEW),
            self.staff_path("<int:pk>/reached/", require_GET(self.reached_json), "reached", refusal=NO_VIEW),
        ]

    def preview_json(self, request: HttpRequest) -> JsonResponse:
        """Check the form while the user is typing. Return its errors and the bytes that would be sent."""
        form = BroadcastForm(request.POST, request=request)
        errors = {name: [str(error) for error in found] for name, found in form.errors.items()}
        # The title is not part of the message. It is required only when the draft is saved.
        errors.pop("title", None)
        position = {"line": form.json_error.line, "column": form.json_error.column} if form.json_error else None
        # Show the preview even if the channels are not valid yet.
        payload = PayloadForm(request.POST)
        preview = preview_of(payload.instance) if payload.is_valid() else None
        return JsonResponse({"errors_by_field": errors, "json_error": position, "preview": preview})

    def test_json(self, request: HttpRequest) -> JsonResponse:
        """Publish a test message to the user's own channel."""
        form = PayloadForm(request.POST)
        if not form.is_valid():
            return json_errors([str(error) for found in form.errors.values() for error in found], 422)
        channel, found = own_channel(request), form.cleaned_data
        try:
            message = publish(channel, found["payload"], event=found["event"], published_by=request.user)
        except InvalidMessage as error:  # for example, the user's primary key is not valid in a channel name
            return json_errors([str(error)], 422)
        return JsonResponse({"channel": channel, "position": message.position}, status=201)

    def known_json(self, request: HttpRequest) -> JsonResponse:
        """Return channels whose names start with the text that was typed."""
        return JsonResponse({"channels": known_channels(request, request.GET.get("q", ""))})

    def audience_json(self, request: HttpRequest) -> JsonResponse:
        """Return the number of connections of each channel, and warnings about the channels."""
        wanted = request.GET.getlist("channel")[: lifecycle.MAX_CHANNELS]
        # Do not reveal the audience of channels to which the user cannot broadcast.
        refused = refused_channels(request, wanted)
        audience = presence.audiences(channel for channel in wanted if channel not in refused)
        is_complete = totals.is_audience_complete()
        found = {
            "channels": audience,
            "total": sum(audience.values()),
            "is_complete": is_complete,
            "sentences": audience_sentences(audience, is_complete=is_complete),
            "warnings": [asdict(warning) for warning in find_warnings(request, audience)],
        }
        return JsonResponse(found)

    def reached_json(self, request: HttpRequest, pk: int) -> JsonResponse:
        """Return how many connections have received a broadcast so far."""
        broadcast: Broadcast | None = self.get_object(request, str(pk))
        if not self.has_view_permission(request, broadcast):
            return json_errors([NO_VIEW], 403)
        if broadcast is None:
            return json_errors([_("This broadcast does not exist. It might have been deleted.")], 404)
        return JsonResponse(
            {"reached": broadcast.reached, "counting": is_counting(broadcast), "state": broadcast.state}
        )


# For the script compose.js.
COMPOSE_TEXTS = {
    **FETCH_ERRORS,
    "remove": _("Remove {name}"),
    "added": _("Added {name}."),
    "removed": _("Removed {name}."),
    "no-channels": _("Enter a channel to see how many connections it has."),
    "use-name": _("Use “{name}”"),
    "test-opening": _("Opening your own channel, {channel} …"),
    "test-sending": _("Sending …"),
    "test-sent": _("Sent to {channel} as event {id}. Waiting for it …"),
    "test-received": _("Received event {id} with type {type}, {ms} ms after it was sent."),
    "test-refused": _(
        "Your own channel {channel} cannot be read. The site’s policy does not allow it, or the site serves no streams."
    ),
    "test-lost": _("The connection was lost. The browser is reconnecting."),
    "unsaved": _("You have unsaved changes."),
}


def own_channel(request: HttpRequest) -> str:
    """Return the user's own channel. The default policy lets them and staff who can view messages read it."""
    return f"{USER_PREFIX}{request.user.pk}"


def preview_of(broadcast: Broadcast) -> dict[str, Any]:
    """Return the bytes that a client would receive, and the `event.data` that they decode to.

    The key `problem` says why a saved broadcast cannot be sent. It is "" if it can be sent, or was sent already.
    """
    problem = ""
    if broadcast.pk and broadcast.state != Broadcast.State.SENT:
        try:
            lifecycle.messages_of(broadcast)
        except InvalidMessage as error:
            # The form has the same checks, and its messages are translated.
            form = PayloadForm(model_to_dict(broadcast))
            problem = " ".join(str(text) for found in form.errors.values() for text in found) or str(error)
    position = broadcast.positions[0] if broadcast.positions else log.head().head + 1
    encoded = StoredEvent(position, "", broadcast.event, broadcast.payload).encode()  # without the channel
    [event] = EventStreamDecoder().feed(encoded)
    return {"problem": problem, "encoded": encoded.decode(), "data": event.data, "bytes": len(encoded)}


def known_channels(request: HttpRequest, prefix: str = "") -> list[str]:
    """Return channels that start with `prefix` and to which the request's user can broadcast."""
    prefix = prefix.strip().replace("\0", "")[:200]
    # The script requests this at each pause in typing, so the search is limited.
    found = catalog.known_names(totals.audience_by_channel(), prefix=prefix, limit=MAX_NAMES)
    allowed = (name for name in found if not refused_channels(request, [name]))
    return list(islice(allowed, MAX_SUGGESTIONS))


def known_types() -> list[str]:
    """Return the event types of recent messages and broadcasts, and "message"."""
    newest = Message.objects.using(database()).filter(position__isnull=False).order_by("-position")
    written = Broadcast.objects.using(database()).order_by("-id")
    recent = {
        *newest.values_list("event", flat=True)[:RECENT_MESSAGES],
        *written.values_list("event", flat=True)[:RECENT_BROADCASTS],
    }
    return sorted({"message", *recent})


def is_counting(broadcast: Broadcast) -> bool:
    """Return True while the processes still count the connections that received the broadcast."""
    period = datetime.timedelta(seconds=reach.COUNT_SECONDS + 5)
    return broadcast.sent_at is not None and clock.read() - broadcast.sent_at < period
