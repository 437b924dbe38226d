"""The live monitor: any channels as they come, over the public stream. It decides what to watch and where to begin;
the script opens the stream, and asks the pages here for what a stream does not say.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from asgiref.sync import async_to_sync
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import URLPattern
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from streams import log, presence, survey
from streams.admin.message_list import position_in
from streams.admin.monitor_texts import texts
from streams.admin.pages import LookOnlyAdmin, error_json, stream_missing, stream_url, users_of
from streams.conf import settings
from streams.models import Message
from streams.models.channels import check_channel_name
from streams.policies import get_policy
from streams.threads import database

logger = logging.getLogger("streams")

KNOWN_CHANNELS = 200
RECENT_MESSAGES = 1000  # of each channel, in which to look for types
TYPED_MESSAGES = 5000  # that one answer about new types looks at
MAX_IDS = 200
DEFAULT_NEWEST = 20

NOW, AFTER, NEWEST = "now", "after", "newest"


@dataclass
class Choice:
    """What the query asks for: which channels, and from where on. `problems` by field, in words."""

    written: str
    channels: tuple[str, ...]
    start: str
    after: str
    newest: str
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def is_made(self) -> bool:
        return bool(self.channels) and not self.problems


class MonitorAdmin(LookOnlyAdmin):
    """For staff who may view messages. The stream itself is the public one, under the site's policy."""

    def get_urls(self) -> list[URLPattern]:
        return [
            self.own_page("", self.changelist_view, "changelist"),
            self.own_page("types/", self.types_view, "types"),
            self.own_page("events/", self.events_view, "events"),
        ]

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("streams.view_message")

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        choice = _choice(request)
        url = stream_url()
        missing = stream_missing() if url is None else ""
        refusal = _refusal(request, choice.channels) if choice.is_made and url else ""
        log_query = f"?{urlencode({'channel': choice.channels[0]})}" if len(choice.channels) == 1 else ""
        context: dict[str, Any] = {
            "choice": choice,
            "known": survey.known_names(presence.channels(), limit=KNOWN_CHANNELS),
            "max_channels": settings.MAX_CHANNELS_PER_STREAM,
            "max_newest": settings.MAX_REPLAY_MESSAGES,
            "missing": missing,
            "refusal": refusal,
            "log_url": self.url_of("message", "changelist") + log_query,
            "texts": texts(),
        }
        if choice.is_made and url and not refusal:
            context["watch"] = self._watch(choice, url)
        return self.page(request, "monitor.html", _("Live monitor"), context, status=400 if choice.problems else 200)

    def _watch(self, choice: Choice, url: str) -> dict[str, Any]:
        """What the script needs. From the head as it stands now, so that nothing is missed while the page loads."""
        head = log.head().head
        newest = int(choice.newest) if choice.start == NEWEST else 0
        channels = [("channel", name) for name in choice.channels]
        return {
            "stream": f"{url}?{urlencode(channels)}",
            "types_url": f"{self.url('types')}?{urlencode(channels)}",
            "events_url": self.url("events"),
            "message_url": self.url_of("message", "change", 0),
            "channels": list(choice.channels),
            "replay": newest,
            "after": int(choice.after) if choice.start == AFTER else head,
            "types": sorted({"message", *survey.types_of_newest(choice.channels, max(newest, RECENT_MESSAGES))}),
        }

    # --- What the script asks for ---

    def types_view(self, request: HttpRequest) -> HttpResponse:
        """The types of messages after `after`, each with its first id, and through which id that is all. `floor`: the
        id after which the newest messages of the channels begin."""
        if not self.has_view_permission(request):
            return error_json([_("This needs the permission to view messages.")], 403)
        choice = _choice(request)
        after = position_in(request.GET.get("after", ""))
        problems = list(choice.problems.values())
        if not choice.channels and not problems:
            problems.append(_("Name the channels, as in ?channel=news."))
        if after is None:
            problems.append(_("“after” is an event id, a whole number; got “%(value)s”.") % _got(request, "after"))
        if problems or after is None:
            return error_json(problems, 400)
        first, through = survey.first_of_types(choice.channels, after, TYPED_MESSAGES)
        head = log.head().head
        # Farther back a page need not go for events of a new type: they would be off its list again.
        floor = log.start_of_newest(choice.channels, RECENT_MESSAGES, head) if first else head
        return _json({"types": first, "through": through, "head": head, "floor": floor})

    def events_view(self, request: HttpRequest) -> HttpResponse:
        """What a stream does not say of events: channel, time and publisher, by id."""
        if not self.has_view_permission(request):
            return error_json([_("This needs the permission to view messages.")], 403)
        written = request.GET.get("ids", "")
        ids = [position_in(part) for part in written.split(",")[: MAX_IDS + 1]]
        if None in ids or len(ids) > MAX_IDS:
            rule = _("“ids” is a list of at most %(most)s event ids with commas between them; got “%(value)s”.")
            return error_json([rule % {"most": MAX_IDS, **_got(request, "ids")}], 400)
        stored = Message.objects.using(database()).filter(position__in=ids)
        found = list(stored.values("position", "pk", "channel", "created_at", "published_by_id"))
        users = users_of(row["published_by_id"] for row in found)
        return _json(
            {
                "events": {
                    str(row["position"]): {
                        "pk": row["pk"],
                        "channel": row["channel"],
                        "at": row["created_at"].isoformat(),
                        "by": str(users.get(row["published_by_id"], "")),
                    }
                    for row in found
                }
            }
        )


def _json(data: dict[str, Any]) -> JsonResponse:
    return JsonResponse(data, headers={"Cache-Control": "no-store"})


def _got(request: HttpRequest, key: str) -> dict[str, str]:
    return {"value": request.GET.get(key, "")[:100]}


def _choice(request: HttpRequest) -> Choice:
    """Read the query. `channel` may come several times, and have several names in it."""
    query = request.GET
    names = [name for text in query.getlist("channel") for name in re.split(r"[\s,]+", text) if name]
    choice = Choice(
        written=" ".join(names),
        channels=(),
        start=query.get("start", NOW),
        after=query.get("id", "").strip(),
        newest=query.get("n", str(DEFAULT_NEWEST)).strip(),
    )
    try:
        for name in names:
            check_channel_name(name)
        choice.channels = tuple(dict.fromkeys(names))
    except ValidationError as error:
        choice.problems["channel"] = " ".join(error.messages)
    if len(choice.channels) > (most := settings.MAX_CHANNELS_PER_STREAM):
        rule = ngettext(
            "A stream has at most %(most)s channel (MAX_CHANNELS_PER_STREAM); got %(got)s. Name fewer.",
            "A stream has at most %(most)s channels (MAX_CHANNELS_PER_STREAM); got %(got)s. Name fewer.",
            most,
        )
        choice.problems["channel"] = rule % {"most": most, "got": len(choice.channels)}
    elif "channel" in query and not names:
        choice.problems["channel"] = _("Name at least one channel, such as news.")
    _check_start(choice)
    return choice


def _check_start(choice: Choice) -> None:
    if choice.start == AFTER and position_in(choice.after) is None:
        rule = _("An event id is a whole number, 0 or more; got “%(value)s”.")
        choice.problems["id"] = rule % {"value": choice.after[:100]}
    elif choice.start == NEWEST:
        most = settings.MAX_REPLAY_MESSAGES
        number = position_in(choice.newest)
        if number is None or not 1 <= number <= most:
            rule = _("A whole number from 1 to %(most)s (MAX_REPLAY_MESSAGES); got “%(value)s”.")
            choice.problems["n"] = rule % {"most": most, "value": choice.newest[:100]}
    elif choice.start not in (NOW, AFTER):
        choice.problems["start"] = _("Choose where to begin: now, after an event, or with the newest messages.")


def _refusal(request: HttpRequest, channels: Sequence[str]) -> str:
    """What the site's policy says where it refuses this user the stream; else nothing."""
    try:
        policy = get_policy()
        refused = async_to_sync(policy.aask_to_read)(request, channels)
        return policy.refusal(refused) if refused else ""
    except DatabaseError:
        return _("Whether you may read this could not be decided: the database does not answer. Try again later.")
    except Exception as error:  # it is the site's own code
        logger.exception("The policy %s failed; the monitor opens no stream.", settings.POLICY)
        words = _(
            "Whether you may read this could not be decided: the site’s policy failed with %(error)s. The server’s log "
            "says more."
        )
        return words % {"error": type(error).__name__}
