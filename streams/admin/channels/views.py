"""The pages of channels: a list of all known channels, and a page with the details and settings of each."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from streams.admin.channels.access import PERMISSION, allows_more_readers, rule_of
from streams.admin.channels.details import (
    COUNT_TO,
    channel_details,
    describe_retention,
    describe_settings,
    details_of_channels,
)
from streams.admin.channels.forms import (
    ChannelForm,
    MoreReadersRefused,
    SettingsChanged,
    delete_settings,
    digest_of,
)
from streams.admin.pages import StreamsAdmin, is_valid_channel, stream_url
from streams.channels.rules import groups_of, rule_decides
from streams.conf import settings
from streams.exceptions import InvalidChannel
from streams.log import catalog
from streams.models import ChannelSettings, Message
from streams.policies import DefaultPolicy, get_policy
from streams.presence import totals
from streams.protocol.events import CHANNEL_MAX_LENGTH, validate_channel
from streams.runtime.executor import database

PAGE_CHANNELS = 50
NEWEST_MESSAGES = 5
SHOWN_CHARACTERS = 300

_PART_OF_NAME = re.compile(rf"[A-Za-z0-9._-]{{0,{CHANNEL_MAX_LENGTH}}}")

# Browsers remove `/./` and `/../` from a path. quote() never returns these two, because it writes `_` as `_5F`.
_DOTS = {".": "_2E", "..": "_2E_2E"}
_DOTS_BACK = {quoted: name for name, quoted in _DOTS.items()}


MORE_READERS = gettext_lazy(
    "This would let more people read the channel. For that, you also need the permission “Can view message”. "
    "Without it, you can only choose fewer readers."
)


class ChannelAdmin(StreamsAdmin):
    """Every channel has a page, even if it has no settings."""

    def get_urls(self) -> list[URLPattern]:
        return [
            self.staff_path("", self.changelist_view, "changelist"),
            self.staff_path("<path:object_id>/history/", self.history_view, "history"),
            self.staff_path("<path:object_id>/delete/", self.reset_view, "delete", allowed=self.can_reset),
            self.staff_path("<path:object_id>/change/", self.channel_view, "change"),
        ]

    def url_of_channel(self, channel: str, page: str = "change") -> str:
        """Return the URL of a channel's page."""
        return self.url(page, _DOTS.get(channel) or quote(channel))

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> ChannelSettings | None:
        """Return the settings of the channel with this name; None if it has none."""
        return ChannelSettings.objects.using(database()).filter(channel=object_id).first()

    # --- The list ---

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        after, prefix = request.GET.get("after", ""), request.GET.get("q", "").strip()
        connections = totals.audience_by_channel()
        names: list[str] = []
        if _PART_OF_NAME.fullmatch(after) and _PART_OF_NAME.fullmatch(prefix):
            names = catalog.known_names(connections, after=after, prefix=prefix, limit=PAGE_CHANNELS + 1)
        shown = names[:PAGE_CHANNELS]
        details = details_of_channels(shown, connections)
        following = {"after": shown[-1], **({"q": prefix} if prefix else {})} if len(names) > len(shown) else None
        context = {
            "channels": [(channel, self.url_of_channel(channel.name)) for channel in details],
            "count_to": COUNT_TO,
            "after": after,
            "q": prefix,
            "first_url": f"?{urlencode({'q': prefix})}" if prefix else self.url("changelist"),
            "next_url": f"?{urlencode(following)}" if following else "",
            "page_url": self.url_of_channel(prefix) if is_valid_channel(prefix) and prefix not in shown else "",
            "site_retention": describe_retention(None),
        }
        return self.render_page(request, "channels/list.html", _("Channels"), context)

    # --- One channel ---

    def channel_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        channel = _channel_from_url(object_id)
        row = self.get_object(request, channel)
        form, seen, status = None, digest_of(row), 200
        # This includes channels without settings: the permission to change settings allows creating them.
        if self.has_change_permission(request, row):
            form = ChannelForm(
                request.POST if request.method == "POST" else None,
                instance=row or ChannelSettings(channel=channel),
                can_allow_more_readers=request.user.has_perm(PERMISSION),
            )
        if request.method == "POST":
            if form is None:
                raise PermissionDenied
            seen, status = request.POST.get("seen", ""), 422
            if form.is_valid():
                try:
                    self._store(request, form, seen)
                    return redirect(self.url_of_channel(channel))
                except SettingsChanged:
                    status = 409
                except MoreReadersRefused:
                    form.add_error("access", MORE_READERS)
            row = self.get_object(request, channel)  # the form has changed the other instance
            if status == 409:
                seen = digest_of(row)  # the page shows the new settings, so the user can now overwrite them
        context = {
            **self._channel_context(request, channel, row, form),
            "seen": seen,
            "stored": describe_settings(row) if status == 409 else None,
        }
        return self.render_page(
            request, "channels/detail.html", _("Channel %(channel)s") % {"channel": channel}, context, status=status
        )

    def _store(self, request: HttpRequest, form: ChannelForm, seen: str) -> None:
        """Save the form and write the admin's log entry. Raise the same errors as ChannelForm.store()."""
        is_new = form.store(seen)
        changed: Any = form
        message = self.construct_change_message(request, changed, [], add=is_new)
        if is_new:
            self.log_addition(request, form.instance, message)
        elif form.has_changed():
            self.log_change(request, form.instance, message)
        text = _(
            "Saved. This takes effect within %(seconds)s s. Open streams of users who cannot read the channel any more "
            "are closed."
        )
        messages.success(request, text % {"seconds": f"{settings.POLL_SECONDS:g}"})

    def _channel_context(
        self, request: HttpRequest, channel: str, row: ChannelSettings | None, form: ChannelForm | None
    ) -> dict[str, Any]:
        can_view_messages = request.user.has_perm("streams.view_message")
        newest: list[tuple[Message, str]] = []
        if can_view_messages:
            stored = Message.objects.using(database()).filter(channel=channel, position__isnull=False)
            newest = [
                (message, self.url_of("message", "change", message.pk))
                for message in stored.order_by("-position")[:NEWEST_MESSAGES]
            ]
        query = urlencode({"channel": channel})
        stream = stream_url()
        return {
            "details": channel_details(channel),
            "row": row,
            "groups": [str(group) for group in groups_of(channel)] if row and rule_decides(channel) else [],
            "has_no_effect": bool(row and row.access) and not rule_decides(channel),
            "form": form,
            "count_to": COUNT_TO,
            "poll_seconds": f"{settings.POLL_SECONDS:g}",
            "can_view_messages": can_view_messages,
            "newest": newest,
            "shown_characters": SHOWN_CHARACTERS,
            "monitor_url": f"{self.url_of('monitor', 'changelist')}?{query}" if can_view_messages else "",
            "messages_url": f"{self.url_of('message', 'changelist')}?{query}" if can_view_messages else "",
            "subscribe_url": request.build_absolute_uri(f"{stream}?{query}") if stream else "",
            "own_policy": "" if isinstance(get_policy(), DefaultPolicy) else settings.POLICY,
            "history_url": self.url_of_channel(channel, "history") if row else "",
            "reset_url": self.url_of_channel(channel, "delete") if row and self.has_delete_permission(request) else "",
            "parent": {"title": _("Channels"), "url": self.url("changelist")},
        }

    def can_reset(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request) and self.has_delete_permission(request)

    def reset_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """GET asks for confirmation. POST deletes the channel's settings."""
        channel = _channel_from_url(object_id)
        row = self.get_object(request, channel)
        if row is None:
            messages.info(
                request,
                _("Channel %(channel)s has no settings of its own. The site’s settings apply.") % {"channel": channel},
            )
            return redirect(self.url_of_channel(channel))
        can_allow_more_readers = request.user.has_perm(PERMISSION)
        is_refused = not can_allow_more_readers and allows_more_readers(channel, None, rule_of(row))
        if request.method == "POST":
            try:
                delete_settings(channel, can_allow_more_readers=can_allow_more_readers)
            except MoreReadersRefused:
                is_refused = True
            else:
                rows: Any = [row]
                self.log_deletions(request, rows)
                text = _("Reset. The site’s settings now apply to %(channel)s.")
                messages.success(request, text % {"channel": channel})
                return redirect(self.url_of_channel(channel))
        context = {
            "details": channel_details(channel),
            "row": row,
            "site_retention": describe_retention(None),
            "channel_url": self.url_of_channel(channel),
            "poll_seconds": f"{settings.POLL_SECONDS:g}",
            "refusal": MORE_READERS if is_refused else "",
            "parent": {"title": channel, "url": self.url_of_channel(channel)},
        }
        status = 403 if request.method == "POST" else 200
        return self.render_page(
            request, "channels/reset.html", _("Reset to the site’s settings"), context, status=status
        )

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """Show who changed the settings, on Django's history page."""
        return super().history_view(request, quote(_channel_from_url(object_id)), extra_context)


def _channel_from_url(object_id: str) -> str:
    """Return the channel name in a URL. Raise Http404 if it is not valid."""
    try:
        return validate_channel(_DOTS_BACK.get(object_id) or unquote(object_id))
    except InvalidChannel as error:
        raise Http404(str(error)) from None
