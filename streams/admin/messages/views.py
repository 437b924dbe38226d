"""The log in the admin: the list, a page for each message, and sending one again. Nothing in it can be edited."""

from __future__ import annotations

import logging
import uuid
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.admin.exceptions import NotRegistered
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.urls import URLPattern
from django.utils import timezone
from django.utils.translation import gettext as _

from streams import log, presence, publish, survey
from streams.admin import message_list
from streams.admin.channels import ChannelAdmin
from streams.admin.pages import LookOnlyAdmin, users_of
from streams.admin.pruning import PruningPage
from streams.admin.why import WhyPage
from streams.events import StoredEvent
from streams.exceptions import InvalidMessage
from streams.models import ChannelSettings, Message
from streams.policies import get_policy
from streams.templatetags.streams_admin import beginning, pretty
from streams.threads import database

logger = logging.getLogger("streams")

# What a page shows of data; the rest is a link away.
SHOWN_CHARACTERS = 20_000

KNOWN_CHANNELS = 100

RAW_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
}


class MessageAdmin(WhyPage, PruningPage, LookOnlyAdmin):
    """The log as staff see it who may view messages."""

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.has_perm("streams.view_message"))

    def may_send_again(self, request: HttpRequest, channel: str) -> bool:
        if not request.user.has_perm("streams.add_message"):
            return False
        try:
            return not get_policy().ask_to_publish(request, [channel])
        except Exception:
            # The message is there to be looked at, whatever the policy cannot say about sending.
            logger.exception("The policy could not say whether messages may be sent to %s again.", channel)
            return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Message]:
        return Message.objects.using(database())

    def get_urls(self) -> list[Any]:
        own: list[URLPattern] = [
            self.own_page("why/", self.why_view, "why"),
            self.own_page("prune/", self.prune_view, "prune"),
            self.own_page("event/<int:position>/", self.event_view, "event"),
            self.own_page("<int:pk>/raw/", self.raw_view, "raw"),
            self.own_page("<int:pk>/again/", self.again_view, "again"),
        ]
        return own + super().get_urls()

    # --- The list ---

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        form = message_list.FilterForm(request.GET, label_suffix="")
        filters = form.filters()
        found = message_list.Listing([])
        if filters is not None:
            before, after = (message_list.position_in(request.GET.get(name)) for name in ("before", "after"))
            found = message_list.listing(filters, before=before, after=after)
        context = {
            "form": form,
            "filtered": filters != message_list.Filters(),
            "found": found,
            "links": self._links(request, found),
            "shown_characters": message_list.SHOWN_CHARACTERS,
            "waiting": message_list.waiting(),
            "most_waiting": message_list.MAX_WAITING_COUNTED,
            "head": log.head().head,
            "zone": timezone.get_current_timezone_name(),
            "known_channels": survey.channel_names(limit=KNOWN_CHANNELS),
            "why_url": self.url("why"),
            "prune_url": self.url("prune") if self.may_prune(request) else None,
        }
        return self.page(request, "message_list.html", _("Messages"), context)

    def _links(self, request: HttpRequest, found: message_list.Listing) -> dict[str, str]:
        """Where the links of the list lead: the same filters, another place."""
        kept = [(name, value) for name in message_list.FilterForm.base_fields if (value := request.GET.get(name))]

        def to(**place: int) -> str:
            query = urlencode([*kept, *place.items()])
            return f"{self.url('changelist')}?{query}" if query else self.url("changelist")

        links = {"all": self.url("changelist"), "newest": to(), "oldest": to(after=0)}
        if found.older is not None:
            links["older"] = to(before=found.older)
        if found.newer is not None:
            links["newer"] = to(after=found.newer)
        return links

    # --- A message ---

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        message: Message | None = self.get_object(request, unquote(object_id))
        if message is None:
            return self._gone(request)
        wire = ""
        if message.position is not None:
            wire = StoredEvent(message.position, message.channel, message.event, message.data).encode().decode()
        context = {
            "message": message,
            "published_by": users_of([message.published_by_id]).get(message.published_by_id),
            **_shown_data(message),
            "wire": (shown := beginning(wire, SHOWN_CHARACTERS)),
            "wire_left_out": len(wire) - len(shown),
            "neighbours": self._neighbours(message),
            "channel_url": self._channel_url(request, message.channel),
            "list_url": f"{self.url('changelist')}?{urlencode({'channel': message.channel})}",
            "raw_url": self.url("raw", message.pk),
            "history_url": self.url("history", message.pk),
            "why_url": f"{self.url('why')}?{urlencode({'message': message.position or ''})}",
            "again_url": self.url("again", message.pk) if self.may_send_again(request, message.channel) else None,
        }
        return self.page(request, "message_page.html", _title(message), context)

    def _neighbours(self, message: Message) -> dict[str, Message | None]:
        rows = Message.objects.using(database()).filter(channel=message.channel).only("pk", "position")
        if message.position is None:
            return {}
        return {
            "older": rows.filter(position__lt=message.position).order_by("-position").first(),
            "newer": rows.filter(position__gt=message.position).order_by("position").first(),
        }

    def _channel_url(self, request: HttpRequest, channel: str) -> str | None:
        """The channel's page; None for who may not see it, and where the site has none."""
        try:
            channels = self.admin_site.get_model_admin(ChannelSettings)
        except NotRegistered:
            return None
        if isinstance(channels, ChannelAdmin) and channels.has_view_permission(request):
            return channels.url_of_channel(channel)
        return None

    def _gone(self, request: HttpRequest) -> HttpResponse:
        self.message_user(
            request, _("There is no such message in the log: it was pruned, or it never was."), messages.WARNING
        )
        return redirect(self.url("changelist"))

    def event_view(self, request: HttpRequest, position: int) -> HttpResponse:
        """To the page of the message that has this event id; where there is none, to why there is none."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        place = message_list.position_in(str(position))
        pk = None if place is None else self.get_queryset(request).filter(position=place).values_list("pk").first()
        if pk is not None:
            return redirect(self.url("change", pk[0]))
        return redirect(f"{self.url('why')}?{urlencode({'message': position})}")

    def raw_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The whole data, as a file: nothing in it is ever shown as a page of the site's."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        message: Message | None = self.get_object(request, str(pk))
        if message is None:
            return self._gone(request)
        headers = {**RAW_HEADERS, "Content-Disposition": f'attachment; filename="message-{message.pk}.txt"'}
        return HttpResponse(message.data, content_type="text/plain; charset=utf-8", headers=headers)

    # --- Sending it again ---

    def again_view(self, request: HttpRequest, pk: int) -> HttpResponseBase:
        """GET asks, POST sends. The form's key makes it one message, however often the form is sent."""
        if not self.has_view_permission(request) or not request.user.has_perm("streams.add_message"):
            raise PermissionDenied
        message: Message | None = self.get_object(request, str(pk))
        if message is None:
            return self._gone(request)
        if not self.may_send_again(request, message.channel):
            raise PermissionDenied
        if request.method != "POST":
            return self._ask(request, message)
        key = request.POST.get("key", "")
        if not _is_key(key):
            return self._ask(request, message, _("The form came back incomplete, and nothing was sent. Try once more."))
        try:
            sent = publish(
                message.channel,
                message.data,
                event=message.event,
                idempotency_key=f"again-{message.pk}-{key}",
                published_by=request.user,
            )
        except InvalidMessage as error:
            return self._ask(request, message, str(error))
        text = _("Sent again as event %(id)s.") % {"id": sent.position}
        # A message that was there before has been read from the database, with another object for its user.
        if sent.published_by is request.user:
            self.log_change(request, message, text)
        self.message_user(request, text, messages.SUCCESS)
        return redirect(self.url("change", sent.pk))

    def _ask(self, request: HttpRequest, message: Message, problem: str = "") -> HttpResponse:
        context = {
            "message": message,
            "problem": problem,
            **_shown_data(message),
            "audience": presence.audience(message.channel),
            "audience_is_whole": presence.is_audience_whole(),
            "key": uuid.uuid4().hex,
            "message_url": self.url("change", message.pk),
            "readers": get_policy().readers(message.channel),
        }
        return self.page(request, "message_again.html", _("Send again"), context, status=400 if problem else 200)


def _title(message: Message) -> str:
    if message.position is None:
        return _("Message that waits for its place")
    return _("Event %(id)s") % {"id": message.position}


def _shown_data(message: Message) -> dict[str, Any]:
    data = pretty(message.data)
    shown = beginning(data, SHOWN_CHARACTERS)
    return {"data": shown, "data_left_out": len(data) - len(shown)}


def _is_key(text: str) -> bool:
    return len(text) == 32 and text.isascii() and text.isalnum()
