"""The pages of messages: the list, a page for each message, and sending a message again. Messages cannot be edited."""

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

from streams import log, presence, publish
from streams.admin.channels.views import ChannelAdmin
from streams.admin.diagnosis.views import DiagnosisViews
from streams.admin.messages import listing
from streams.admin.messages.pruning import PruningViews
from streams.admin.pages import ReadOnlyAdmin, users_by_pk
from streams.exceptions import InvalidMessage
from streams.log import catalog
from streams.models import ChannelSettings, Message
from streams.policies import get_policy
from streams.presence import totals
from streams.protocol.sse import StoredEvent
from streams.runtime.executor import database
from streams.templatetags.streams_admin import beginning, pretty

logger = logging.getLogger("streams")

# How much of the data a page shows. A link leads to the complete data.
SHOWN_CHARACTERS = 20_000

KNOWN_CHANNELS = 100

DATA_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
}


class MessageAdmin(DiagnosisViews, PruningViews, ReadOnlyAdmin):
    """The pages of messages, for staff with the permission to view messages."""

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.has_perm("streams.view_message"))

    def can_send_again(self, request: HttpRequest, channel: str) -> bool:
        if not request.user.has_perm("streams.add_message"):
            return False
        try:
            return not get_policy().denied_publish_channels(request, [channel])
        except Exception:
            # The page must stay usable if the site's policy fails.
            logger.exception("The policy failed while checking whether the user can publish to %s.", channel)
            return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Message]:
        return Message.objects.using(database())

    def get_urls(self) -> list[Any]:
        own: list[URLPattern] = [
            self.staff_path("", self.changelist_view, "changelist"),
            self.staff_path("diagnosis/", self.diagnosis_view, "diagnosis"),
            self.staff_path("prune/", self.prune_view, "prune", allowed=self.can_prune),
            self.staff_path("event/<int:position>/", self.event_view, "event"),
            self.staff_path("<path:object_id>/change/", self.change_view, "change"),
            self.staff_path("<int:pk>/data/", self.data_view, "data"),
            self.staff_path("<int:pk>/send-again/", self.send_again_view, "send_again"),
        ]
        return own + super().get_urls()

    # --- The list ---

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        form = listing.FilterForm(request.GET, label_suffix="")
        filters = form.filters()
        page = listing.Page([])
        if filters is not None:
            before, after = (listing.parse_position(request.GET.get(name)) for name in ("before", "after"))
            page = listing.find_page(filters, before=before, after=after)
        context = {
            "form": form,
            "is_filtered": filters != listing.Filters(),
            "page": page,
            "links": self._links(request, page),
            "shown_characters": listing.SHOWN_CHARACTERS,
            "unsequenced": listing.count_unsequenced(),
            "max_unsequenced": listing.MAX_UNSEQUENCED_COUNTED,
            "head": log.head().head,
            "zone": timezone.get_current_timezone_name(),
            "known_channels": catalog.channel_names(limit=KNOWN_CHANNELS),
            "diagnosis_url": self.url("diagnosis"),
            "prune_url": self.url("prune") if self.can_prune(request) else None,
        }
        return self.render_page(request, "messages/list.html", _("Messages"), context)

    def _links(self, request: HttpRequest, page: listing.Page) -> dict[str, str]:
        """Return the URLs of the other pages of the list, with the same filters."""
        kept = [(name, value) for name in listing.FilterForm.base_fields if (value := request.GET.get(name))]

        def url_with(**position: int) -> str:
            query = urlencode([*kept, *position.items()])
            return f"{self.url('changelist')}?{query}" if query else self.url("changelist")

        links = {"all": self.url("changelist"), "newest": url_with(), "oldest": url_with(after=0)}
        if page.older is not None:
            links["older"] = url_with(before=page.older)
        if page.newer is not None:
            links["newer"] = url_with(after=page.newer)
        return links

    # --- A message ---

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        message: Message | None = self.get_object(request, unquote(object_id))
        if message is None:
            return self._missing(request)
        encoded = ""
        if message.position is not None:
            encoded = StoredEvent(message.position, message.channel, message.event, message.data).encode().decode()
        context = {
            "message": message,
            "published_by": users_by_pk([message.published_by_id]).get(message.published_by_id),
            **_shown_data(message),
            "encoded": (shown := beginning(encoded, SHOWN_CHARACTERS)),
            "encoded_omitted": len(encoded) - len(shown),
            "neighbours": self._neighbours(message),
            "channel_url": self._channel_url(request, message.channel),
            "list_url": f"{self.url('changelist')}?{urlencode({'channel': message.channel})}",
            "data_url": self.url("data", message.pk),
            "history_url": self.url("history", message.pk),
            "diagnosis_url": f"{self.url('diagnosis')}?{urlencode({'message': message.position or ''})}",
            "send_again_url": self.url("send_again", message.pk)
            if self.can_send_again(request, message.channel)
            else None,
        }
        return self.render_page(request, "messages/detail.html", _title(message), context)

    def _neighbours(self, message: Message) -> dict[str, Message | None]:
        rows = Message.objects.using(database()).filter(channel=message.channel).only("pk", "position")
        if message.position is None:
            return {}
        return {
            "older": rows.filter(position__lt=message.position).order_by("-position").first(),
            "newer": rows.filter(position__gt=message.position).order_by("position").first(),
        }

    def _channel_url(self, request: HttpRequest, channel: str) -> str | None:
        """Return the URL of the channel's page; None if the site has no such page or the user cannot view it."""
        try:
            channels = self.admin_site.get_model_admin(ChannelSettings)
        except NotRegistered:
            return None
        if isinstance(channels, ChannelAdmin) and channels.has_view_permission(request):
            return channels.url_of_channel(channel)
        return None

    def _missing(self, request: HttpRequest) -> HttpResponse:
        self.message_user(
            request, _("The log has no such message. It was deleted, or it never existed."), messages.WARNING
        )
        return redirect(self.url("changelist"))

    def event_view(self, request: HttpRequest, position: int) -> HttpResponse:
        """Redirect to the message with this event id. If there is none, redirect to the page that explains why."""
        message = self.get_queryset(request).filter(position=position).only("pk").first()
        if message is not None:
            return redirect(self.url("change", message.pk))
        return redirect(f"{self.url('diagnosis')}?{urlencode({'message': position})}")

    def data_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Return the complete data as a download, so that browsers never render it as a page of the site."""
        message: Message | None = self.get_object(request, str(pk))
        if message is None:
            return self._missing(request)
        headers = {**DATA_HEADERS, "Content-Disposition": f'attachment; filename="message-{message.pk}.txt"'}
        return HttpResponse(message.data, content_type="text/plain; charset=utf-8", headers=headers)

    # --- Sending a message again ---

    def send_again_view(self, request: HttpRequest, pk: int) -> HttpResponseBase:
        """GET asks for confirmation. POST publishes the message, once for each key in the form."""
        if not request.user.has_perm("streams.add_message"):
            raise PermissionDenied
        message: Message | None = self.get_object(request, str(pk))
        if message is None:
            return self._missing(request)
        if not self.can_send_again(request, message.channel):
            raise PermissionDenied
        if request.method != "POST":
            return self._confirm(request, message)
        key = request.POST.get("key", "")
        if not _is_valid_key(key):
            return self._confirm(request, message, _("The form was incomplete, so nothing was sent. Try again."))
        try:
            sent = publish(
                message.channel,
                message.data,
                event=message.event,
                idempotency_key=f"again-{message.pk}-{key}",
                published_by=request.user,
            )
        except InvalidMessage as error:
            return self._confirm(request, message, str(error))
        text = _("Sent again as event %(id)s.") % {"id": sent.position}
        # Log only the first submit. A repeated one returns the stored message, with another user object.
        if sent.published_by is request.user:
            self.log_change(request, message, text)
        self.message_user(request, text, messages.SUCCESS)
        return redirect(self.url("change", sent.pk))

    def _confirm(self, request: HttpRequest, message: Message, problem: str = "") -> HttpResponse:
        context = {
            "message": message,
            "problem": problem,
            **_shown_data(message),
            "connections": presence.audience(message.channel),
            "is_complete": totals.is_audience_complete(),
            "key": uuid.uuid4().hex,
            "message_url": self.url("change", message.pk),
            "readers": get_policy().describe_readers(message.channel),
        }
        return self.render_page(
            request, "messages/send_again.html", _("Send again"), context, status=400 if problem else 200
        )


def _title(message: Message) -> str:
    if message.position is None:
        return _("Message without an event id")
    return _("Event %(id)s") % {"id": message.position}


def _shown_data(message: Message) -> dict[str, Any]:
    data = pretty(message.data)
    shown = beginning(data, SHOWN_CHARACTERS)
    return {"data": shown, "data_omitted": len(data) - len(shown)}


def _is_valid_key(text: str) -> bool:
    return len(text) == 32 and text.isascii() and text.isalnum()
