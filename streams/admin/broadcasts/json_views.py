"""What the broadcast desk's scripts ask for: previews, suggestions, counts, and a test to oneself."""

from __future__ import annotations

import datetime
from dataclasses import asdict
from itertools import islice
from typing import Any

from django.forms.models import model_to_dict
from django.http import HttpRequest, JsonResponse
from django.urls import URLPattern
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from streams import broadcasts, clock, deliveries, log, presence, publish, survey
from streams.admin.broadcast_forms import BroadcastForm, PayloadForm, refused_channels
from streams.admin.broadcast_permissions import BroadcastPermissions
from streams.admin.broadcast_warnings import audience_in_words, warnings_of
from streams.admin.pages import ask_texts, error_json
from streams.events import USER_PREFIX, NewMessage
from streams.exceptions import InvalidMessage
from streams.models import Broadcast, Message
from streams.sse import EventStreamDecoder
from streams.threads import database

KNOWN_CHANNELS = 20
MOST_FOUND = 500
MOST_LOOKED_AT = 5000
RECENT_MESSAGES = 1000


class BroadcastScripts(BroadcastPermissions):
    """The part of the desk that answers in JSON."""

    def script_urls(self) -> list[URLPattern]:
        return [
            self.own_page("preview/", require_POST(self.preview_json), "preview"),
            self.own_page("test/", require_POST(self.test_json), "test"),
            self.own_page("known/", require_GET(self.known_json), "known"),
            self.own_page("audience/", require_GET(self.audience_json), "audience"),
            self.own_page("<int:pk>/served/", require_GET(self.served_json), "served"),
        ]

    def preview_json(self, request: HttpRequest) -> JsonResponse:
        """What sending would put on the wire, and what is wrong, for the text as it is being typed."""
        if not self.may_compose(request):
            return error_json([_("You may not compose broadcasts.")], 403)
        form = BroadcastForm(request.POST, request=request)
        problems = {name: [str(problem) for problem in found] for name, found in form.errors.items()}
        # An empty title is no problem of the message; it is asked for when the draft is saved.
        problems.pop("title", None)
        place = {"line": form.mistake.line, "column": form.mistake.column} if form.mistake else None
        # What can be shown already is shown already, whatever is wrong with the channels.
        payload = PayloadForm(request.POST)
        preview = preview_of(payload.instance) if payload.is_valid() else None
        return JsonResponse({"problems": problems, "mistake": place, "preview": preview})

    def test_json(self, request: HttpRequest) -> JsonResponse:
        """Publish type and payload to the user's own channel."""
        if not self.may_compose(request):
            return error_json([_("You may not compose broadcasts.")], 403)
        form = PayloadForm(request.POST)
        if not form.is_valid():
            return error_json([str(problem) for found in form.errors.values() for problem in found], 422)
        channel, found = own_channel(request), form.cleaned_data
        try:
            message = publish(channel, found["payload"], event=found["event"], published_by=request.user)
        except InvalidMessage as error:  # such as a primary key that no channel can be named after
            return error_json([str(error)], 422)
        return JsonResponse({"channel": channel, "position": message.position}, status=201)

    def known_json(self, request: HttpRequest) -> JsonResponse:
        """Channels whose names begin with what was typed."""
        if not self.may_compose(request):
            return error_json([_("You may not compose broadcasts.")], 403)
        return JsonResponse({"channels": known_channels(request, request.GET.get("q", ""))})

    def audience_json(self, request: HttpRequest) -> JsonResponse:
        """How many listen to channels now, and what to know of the channels before sending."""
        if not (self.may_compose(request) or self.has_view_permission(request)):
            return error_json([_("You may not see broadcasts.")], 403)
        wanted = request.GET.getlist("channel")[: broadcasts.MAX_CHANNELS]
        # Who listens to what they may not broadcast to is not their business.
        refused = refused_channels(request, wanted)
        audience = presence.audiences(channel for channel in wanted if channel not in refused)
        is_whole = presence.is_audience_whole()
        found = {
            "channels": audience,
            "total": sum(audience.values()),
            "is_whole": is_whole,
            "words": audience_in_words(audience, is_whole=is_whole),
            "warnings": [asdict(warning) for warning in warnings_of(request, audience)],
        }
        return JsonResponse(found)

    def served_json(self, request: HttpRequest, pk: int) -> JsonResponse:
        """How many connections a broadcast was handed to, so far."""
        broadcast: Broadcast | None = self.get_object(request, str(pk))
        if not self.has_view_permission(request, broadcast):
            return error_json([_("You may not see broadcasts.")], 403)
        if broadcast is None:
            return error_json([_("There is no such broadcast; somebody may have deleted it.")], 404)
        served, counting = broadcast.served, is_counted(broadcast)
        return JsonResponse({"served": served, "counting": counting, "state": broadcast.state})


def compose_texts() -> dict[str, str]:
    """What the compose page's script says."""
    return {
        **ask_texts(),
        "remove": _("Remove {name}"),
        "added": _("Added {name}."),
        "removed": _("Removed {name}."),
        "no-channels": _("Name a channel to see how many listen."),
        "use-name": _("Use “{name}”"),
        "test-opening": _("Opening your own channel, {channel} …"),
        "test-sending": _("Sending …"),
        "test-sent": _("Sent to {channel} as event {id}. Waiting for it to arrive …"),
        "test-arrived": _("Arrived: event {id} of type {type}, {ms} ms after it was sent."),
        "test-refused": _(
            "Your own channel {channel} cannot be read: the site's policy refuses it, or no stream is served."
        ),
        "test-lost": _("The connection was lost; the browser tries again."),
        "unsaved": _("There are changes that have not been saved."),
    }


def own_channel(request: HttpRequest) -> str:
    """The channel of the request's user. By the default policy they read it, and staff who may view all messages."""
    return f"{USER_PREFIX}{request.user.pk}"


def preview_of(broadcast: Broadcast) -> dict[str, Any]:
    """The bytes as a client would get them, and what its `event.data` would be, by our own decoder.

    `problem`: why a stored broadcast cannot be sent as it is; "" where it can, or has been.
    """
    problem = ""
    if broadcast.pk and broadcast.state != Broadcast.State.SENT:
        try:
            broadcasts.messages_of(broadcast)
        except InvalidMessage as error:
            # As the form says it, in the reader's language, where it is the form's to say.
            form = PayloadForm(model_to_dict(broadcast))
            problem = " ".join(str(text) for found in form.errors.values() for text in found) or str(error)
    position = broadcast.positions[0] if broadcast.positions else log.head().head + 1
    try:
        # The channel is not part of what goes over the wire.
        wire = broadcasts.wire_form(NewMessage("", broadcast.payload, broadcast.event), position)
    except UnicodeError:
        return {"problem": problem, "wire": "", "data": "", "bytes": 0}
    [event] = EventStreamDecoder().feed(wire)
    return {"problem": problem, "wire": wire.decode(), "data": event.data, "bytes": len(wire)}


def known_channels(request: HttpRequest, prefix: str = "") -> list[str]:
    """Names that begin with `prefix`, of channels to which the request's user may broadcast."""
    prefix = prefix.strip().replace("\0", "")[:200]
    # Asked at each pause in typing: not all of a hundred thousand channels are looked through for it.
    found = survey.known_names(presence.channels(), prefix=prefix, limit=MOST_FOUND, most=MOST_LOOKED_AT)
    allowed = (name for name in found if not refused_channels(request, [name]))
    return list(islice(allowed, KNOWN_CHANNELS))


def known_types() -> list[str]:
    """The event types that were published or written lately, and the usual one."""
    newest = Message.objects.using(database()).filter(position__isnull=False).order_by("-position")
    written = Broadcast.objects.using(database()).order_by("-id")
    recent = {*newest.values_list("event", flat=True)[:RECENT_MESSAGES], *written.values_list("event", flat=True)[:100]}
    return sorted({"message", *recent})


def is_counted(broadcast: Broadcast) -> bool:
    """Whether the processes still count whom they have handed it to."""
    if broadcast.sent_at is None:
        return False
    return clock.read() - broadcast.sent_at < datetime.timedelta(seconds=deliveries.COUNTED_SECONDS + 5)
