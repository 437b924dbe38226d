"""The live monitor shows the events of chosen channels as they are published.

Its script opens the site's public stream, and requests from the JSON views here what a stream does not contain.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from asgiref.sync import async_to_sync
from django.core.exceptions import ValidationError
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import URLPattern
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from streams import log
from streams.admin.messages.listing import parse_position
from streams.admin.monitor.texts import TEXTS
from streams.admin.pages import NO_STREAM, ReadOnlyAdmin, json_errors, stream_url, users_by_pk
from streams.conf import settings
from streams.log import catalog
from streams.models import Message
from streams.models.channels import check_channel_name
from streams.policies import get_policy
from streams.presence import totals
from streams.runtime.executor import database

logger = logging.getLogger("streams")

KNOWN_CHANNELS = 200
RECENT_MESSAGES = 1000  # the newest messages of each channel, whose event types are known from the start
SEARCHED_MESSAGES = 5000  # messages that one request searches for new event types
MAX_IDS = 200
DEFAULT_NEWEST = 20

NOW, AFTER, NEWEST = "now", "after", "newest"


@dataclass
class Selection:
    """The channels and the start that the query selects. `errors` has a sentence for each field that is not valid."""

    channels_text: str
    channels: tuple[str, ...]
    start: str
    after: str
    newest: str
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        return bool(self.channels) and not self.errors


class MonitorAdmin(ReadOnlyAdmin):
    """For staff with the permission to view messages. The site's policy decides whether they can open the stream."""

    def get_urls(self) -> list[URLPattern]:
        refusal = gettext_lazy("You do not have permission to view messages.")
        return [
            self.staff_path("", self.changelist_view, "changelist"),
            self.staff_path("types/", self.types_view, "types", refusal=refusal),
            self.staff_path("events/", self.events_view, "events", refusal=refusal),
        ]

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("streams.view_message")

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        selection = _read_selection(request)
        url = stream_url()
        refusal = _refusal(request, selection.channels) if selection.is_complete and url else ""
        log_query = f"?{urlencode({'channel': selection.channels[0]})}" if len(selection.channels) == 1 else ""
        context: dict[str, Any] = {
            "selection": selection,
            "known": catalog.known_names(totals.audience_by_channel(), limit=KNOWN_CHANNELS),
            "max_channels": settings.MAX_CHANNELS_PER_STREAM,
            "max_newest": settings.MAX_REPLAY_MESSAGES,
            "missing": NO_STREAM if url is None else "",
            "refusal": refusal,
            "log_url": self.url_of("message", "changelist") + log_query,
            "texts": TEXTS,
        }
        if selection.is_complete and url and not refusal:
            context["watch"] = self._watch(selection, url)
        return self.render_page(
            request, "monitor/page.html", _("Live monitor"), context, status=400 if selection.errors else 200
        )

    def _watch(self, selection: Selection, url: str) -> dict[str, Any]:
        """Return the data for the script. The stream starts at the current head, so that no event is missed."""
        head = log.head().head
        newest = int(selection.newest) if selection.start == NEWEST else 0
        channels = [("channel", name) for name in selection.channels]
        return {
            "stream": f"{url}?{urlencode(channels)}",
            "types_url": f"{self.url('types')}?{urlencode(channels)}",
            "events_url": self.url("events"),
            "message_url": self.url_of("message", "change", 0),
            "channels": list(selection.channels),
            "replay": newest,
            "after": int(selection.after) if selection.start == AFTER else head,
            "types": sorted({"message", *catalog.types_of_newest(selection.channels, max(newest, RECENT_MESSAGES))}),
        }

    # --- JSON for the script ---

    def types_view(self, request: HttpRequest) -> HttpResponse:
        """Return the event types of the messages after the id `after`, each with its first id, for the script.

        The search ends at the id `through`. The newest messages of the channels start after the id `floor`.
        """
        selection = _read_selection(request)
        after = parse_position(request.GET.get("after", ""))
        errors = list(selection.errors.values())
        if not selection.channels and not errors:
            errors.append(_("Add at least one channel to the URL, such as ?channel=news."))
        if after is None:
            errors.append(
                _("“after” must be an event id (a whole number); got “%(value)s”.") % _value(request, "after")
            )
        if errors or after is None:
            return json_errors(errors, 400)
        first, through = catalog.first_of_types(selection.channels, after, SEARCHED_MESSAGES)
        head = log.head().head
        # The page does not need older events, because its list would drop them again.
        floor = log.start_of_newest(selection.channels, RECENT_MESSAGES, head) if first else head
        return JsonResponse({"types": first, "through": through, "head": head, "floor": floor})

    def events_view(self, request: HttpRequest) -> HttpResponse:
        """Return the channel, the time and the publisher of events by id, because a stream does not contain them."""
        text = request.GET.get("ids", "")
        ids = [parse_position(part) for part in text.split(",")[: MAX_IDS + 1]]
        if None in ids or len(ids) > MAX_IDS:
            rule = _("“ids” must be at most %(limit)s event ids, separated by commas; got “%(value)s”.")
            return json_errors([rule % {"limit": MAX_IDS, **_value(request, "ids")}], 400)
        stored = Message.objects.using(database()).filter(position__in=ids)
        found = stored.values("position", "pk", "channel", "created_at", "published_by_id")
        users = users_by_pk(row["published_by_id"] for row in found)
        events = {
            row["position"]: {
                "pk": row["pk"],
                "channel": row["channel"],
                "at": row["created_at"].isoformat(),
                "by": str(users.get(row["published_by_id"], "")),
            }
            for row in found
        }
        return JsonResponse({"events": events})


def _value(request: HttpRequest, key: str) -> dict[str, str]:
    return {"value": request.GET.get(key, "")[:100]}


def _read_selection(request: HttpRequest) -> Selection:
    """Read the query. `channel` can be repeated, and can contain several names."""
    query = request.GET
    names = [name for text in query.getlist("channel") for name in re.split(r"[\s,]+", text) if name]
    selection = Selection(
        channels_text=" ".join(names),
        channels=(),
        start=query.get("start", NOW),
        after=query.get("id", "").strip(),
        newest=query.get("n", str(DEFAULT_NEWEST)).strip(),
    )
    try:
        for name in names:
            check_channel_name(name)
        selection.channels = tuple(dict.fromkeys(names))
    except ValidationError as error:
        selection.errors["channel"] = " ".join(error.messages)
    if len(selection.channels) > (limit := settings.MAX_CHANNELS_PER_STREAM):
        rule = ngettext(
            "A stream can have at most %(limit)s channel (MAX_CHANNELS_PER_STREAM); got %(n)s.",
            "A stream can have at most %(limit)s channels (MAX_CHANNELS_PER_STREAM); got %(n)s.",
            limit,
        )
        selection.errors["channel"] = rule % {"limit": limit, "n": len(selection.channels)}
    elif "channel" in query and not names:
        selection.errors["channel"] = _("Enter at least one channel, such as news.")
    _check_start(selection)
    return selection


def _check_start(selection: Selection) -> None:
    if selection.start == AFTER and parse_position(selection.after) is None:
        rule = _("Enter an event id (a whole number, 0 or more); got “%(value)s”.")
        selection.errors["id"] = rule % {"value": selection.after[:100]}
    elif selection.start == NEWEST:
        limit = settings.MAX_REPLAY_MESSAGES
        number = parse_position(selection.newest)
        if number is None or not 1 <= number <= limit:
            rule = _("Enter a whole number from 1 to %(limit)s (MAX_REPLAY_MESSAGES); got “%(value)s”.")
            selection.errors["n"] = rule % {"limit": limit, "value": selection.newest[:100]}
    elif selection.start not in (NOW, AFTER):
        selection.errors["start"] = _("Choose where to start: now, after an event, or with the newest messages.")


def _refusal(request: HttpRequest, channels: Sequence[str]) -> str:
    """Return the policy's reason for refusing the stream to this user; "" if it allows the stream."""
    try:
        policy = get_policy()
        refused = async_to_sync(policy.adenied_channels)(request, channels)
        return policy.denied_message(refused) if refused else ""
    except DatabaseError:
        return _("Cannot check whether you are allowed to read this: the database does not respond. Try again later.")
    except Exception as error:  # it is the site's own code
        logger.exception("The policy %s failed, so the live monitor does not open a stream.", settings.POLICY)
        text = _(
            "Cannot check whether you are allowed to read this: the site’s policy failed with %(error)s. See the "
            "site’s log for details."
        )
        return text % {"error": type(error).__name__}
