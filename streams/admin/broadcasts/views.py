"""The pages of broadcasts: the list, the form for a draft, and the page of one broadcast with its result."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from streams import presence
from streams.admin.broadcasts.forms import BroadcastForm, refused_channels
from streams.admin.broadcasts.json_views import (
    COMPOSE_TEXTS,
    is_counting,
    known_channels,
    known_types,
    own_channel,
    preview_of,
)
from streams.admin.broadcasts.transitions import BroadcastTransitions, zone_at
from streams.admin.broadcasts.warnings import audience_sentences, find_warnings
from streams.admin.pages import FETCH_ERRORS, NO_STREAM, format_local, stream_url
from streams.broadcasts import reach
from streams.broadcasts.lifecycle import save_draft
from streams.exceptions import BroadcastRefused
from streams.models import Broadcast, Message
from streams.models.references import with_references
from streams.presence import totals
from streams.runtime import clock
from streams.runtime.executor import database

State = Broadcast.State


class BroadcastAdmin(BroadcastTransitions):
    """The list, the form, and the page of one broadcast. The base classes have the other views."""

    actions = None  # "delete selected" could not explain why one of them cannot be deleted
    list_display = ["title", "state_label", "channel_names", "event", "time", "user", "audience"]
    list_filter = ["state", "payload_type"]
    search_fields = ["title", "payload"]
    ordering = ["-id"]

    def get_queryset(self, request: HttpRequest) -> Any:
        rows = with_references(super().get_queryset(request).using(database()), "created_by", "scheduled_by", "sent_by")
        if not self.can_view_all(request):
            rows = rows.filter(created_by_id=request.user.pk)
        match = request.resolver_match
        name = f"{self.opts.app_label}_{self.opts.model_name}_changelist"
        # The payloads of a whole list could be megabytes.
        return rows.defer("payload", "problem") if match is not None and match.url_name == name else rows

    class Media:
        css = {"all": ["streams/admin/base.css"]}

    # --- The list ---

    @admin.display(description=gettext_lazy("state"), ordering="state")
    def state_label(self, broadcast: Broadcast) -> str:
        state = '<span class="streams"><span class="state" data-state="{}">{}</span></span>'
        return format_html(state, broadcast.state, broadcast.get_state_display())

    @admin.display(description=gettext_lazy("channels"))
    def channel_names(self, broadcast: Broadcast) -> str:
        more = len(broadcast.channels) - 5
        return ", ".join(broadcast.channels[:5]) + (f" +{more}" if more > 0 else "")

    @admin.display(description=gettext_lazy("time"), ordering=Coalesce("sent_at", "send_at"))
    def time(self, broadcast: Broadcast) -> str | None:
        moment = broadcast.sent_at or broadcast.send_at
        return None if moment is None else format_local(moment, seconds=False)

    @admin.display(description=gettext_lazy("user"))
    def user(self, broadcast: Broadcast) -> Any:
        return broadcast.sent_by or broadcast.scheduled_by or broadcast.created_by

    @admin.display(description=gettext_lazy("connections"))
    def audience(self, broadcast: Broadcast) -> int | None:
        return broadcast.audience_size if broadcast.state == State.SENT else None

    # --- Pages ---

    def get_urls(self) -> list[Any]:
        own: list[URLPattern] = [
            self.staff_path("add/", self.add_view, "add", allowed=self.has_add_permission),
            self.staff_path("<path:object_id>/change/", self.change_view, "change"),
        ]
        return [*self.json_urls(), *self.transition_urls(), *own, *super().get_urls()]

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> Any:
        """Show and save the form for a new draft."""
        return self._compose(request, Broadcast(created_by_id=request.user.pk))

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> Any:
        """Show the form if the user can change the broadcast, otherwise show its details."""
        broadcast = self.get_broadcast(request, object_id)
        if self.has_change_permission(request, broadcast):
            return self._compose(request, broadcast)
        if request.method == "POST":
            allowed = super().has_change_permission(request) or self.is_author(request, broadcast)
            if not allowed or refused_channels(request, broadcast.channels):
                raise PermissionDenied
            # It was a draft when the page was loaded. Show the form again, so that the user's text is not lost.
            refusal = _("This is not a draft any more: it was sent, scheduled or cancelled.")
            return self._compose(request, broadcast, refusal)
        return self._detail(request, broadcast)

    def _compose(self, request: HttpRequest, broadcast: Broadcast, refusal: str = "") -> HttpResponse:
        # If another user has changed or sent the broadcast, the text can be saved as a new draft.
        if "_copy" in request.POST and self.has_add_permission(request):
            broadcast, refusal = Broadcast(created_by_id=request.user.pk), ""
        is_new = broadcast.pk is None
        form = BroadcastForm(request.POST or None, instance=broadcast, request=request)
        is_refused = False
        if request.method == "POST":
            try:
                if refusal:
                    raise BroadcastRefused(refusal)
                if form.is_valid():
                    save_draft(broadcast, revision=None if is_new else form.cleaned_data["revision"] or 0)
                    return self._saved(request, broadcast, form, is_new=is_new)
            except BroadcastRefused as error:
                is_refused = True
                form.add_error(None, str(error))
        # These are of the saved or submitted channels. The script updates them while the user is typing.
        channels = form.cleaned_data.get("channels", []) if form.is_bound else broadcast.channels
        audience = presence.audiences(channels)
        context = {
            "form": form,
            "broadcast": broadcast,
            "warnings": find_warnings(request, channels),
            "audience": audience_sentences(audience, is_complete=totals.is_audience_complete()),
            "is_refused": is_refused,
            "can_save_as_new": is_refused and self.has_add_permission(request),
            "has_field_errors": any(field.errors for field in form),
            "preview": None if is_new or form.is_bound else preview_of(broadcast),
            "known_types": known_types(),
            "known_channels": known_channels(request),
            "own_channel": own_channel(request),
            "stream": stream_url(),
            "no_stream_text": NO_STREAM,
            "can_send": self.has_send_permission(request),
            "can_schedule": self.has_schedule_permission(request),
            "can_delete": not is_new and self.has_delete_permission(request, broadcast),
            "texts": COMPOSE_TEXTS,
            "urls": {name: self.url(name) for name in ("preview", "test", "known", "audience")},
        }
        title = _("New broadcast") if is_new else str(broadcast)
        status = 422 if form.is_bound and form.errors else 200
        return self.render_page(request, "broadcasts/compose.html", title, context, status=status)

    def _saved(self, request: HttpRequest, broadcast: Broadcast, form: BroadcastForm, *, is_new: bool) -> HttpResponse:
        if is_new:
            self.log_addition(request, broadcast, [{"added": {}}])
        elif form.changed_data:
            message = self.construct_change_message(request, form, [])  # type: ignore[arg-type]  # any form will do
            self.log_change(request, broadcast, message)
        if "_send" in request.POST and self.has_send_permission(request):
            return redirect(self.url("send", broadcast.pk))
        if "_schedule" in request.POST and self.has_schedule_permission(request):
            return redirect(self.url("schedule", broadcast.pk))
        messages.success(request, _("Saved as a draft. Nothing has been sent."))
        return redirect(self.url("change", broadcast.pk))

    def _detail(self, request: HttpRequest, broadcast: Broadcast) -> HttpResponse:
        stored = Message.objects.using(database()).filter(position__in=broadcast.positions)
        urls = {row.position: self.url_of("message", "change", row.pk) for row in stored.only("pk", "position")}
        results = [
            {
                "channel": channel,
                "position": position,
                "connections": broadcast.audience.get(channel, 0),
                "url": urls.get(position),
            }
            for channel, position in broadcast.positions_by_channel.items()
        ]
        is_allowed = not refused_channels(request, broadcast.channels)
        can_schedule = is_allowed and self.has_schedule_permission(request)
        is_open = broadcast.state in (State.DRAFT, State.SCHEDULED)
        context = {
            "broadcast": broadcast,
            "preview": preview_of(broadcast),
            "results": results,
            "can_view_messages": request.user.has_perm("streams.view_message"),
            "reached": broadcast.reached,
            "counting": is_counting(broadcast),
            "count_seconds": reach.COUNT_SECONDS,
            "can_send": is_allowed and is_open and self.has_send_permission(request),
            "can_schedule": can_schedule and broadcast.state == State.DRAFT,
            "can_unschedule": can_schedule and broadcast.state == State.SCHEDULED,
            "can_copy": is_allowed and self.has_add_permission(request),
            "can_delete": self.has_delete_permission(request, broadcast),
            "urls": {
                name: self.url(name, broadcast.pk)
                for name in ("send", "schedule", "unschedule", "cancel", "copy", "reached", "history", "delete")
            },
            "zone": zone_at(broadcast.send_at),
            "is_overdue": broadcast.send_at is not None and broadcast.send_at <= clock.read(),
            "has_processes": totals.has_connections(),
            "texts": {**FETCH_ERRORS, "reached": _("Connections reached: {n}.")},
        }
        return self.render_page(request, "broadcasts/detail.html", str(broadcast), context)
