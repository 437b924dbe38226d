"""The broadcast desk: the list, the page on which staff compose, and the page that says what came of it.

Who may is broadcast_permissions.py's, what moves a broadcast on broadcast_steps.py's, what the scripts ask for
broadcast_scripts.py's.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.urls import URLPattern
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from streams import broadcasts, clock, deliveries, presence
from streams.admin.broadcast_forms import BroadcastForm, refused_channels
from streams.admin.broadcast_scripts import (
    compose_texts,
    is_counted,
    known_channels,
    known_types,
    own_channel,
    preview_of,
)
from streams.admin.broadcast_steps import BroadcastSteps, zone_at
from streams.admin.broadcast_warnings import audience_in_words, warnings_of
from streams.admin.pages import ask_texts, stream_missing, stream_url
from streams.exceptions import BroadcastRefused
from streams.models import Broadcast, Message
from streams.references import with_references
from streams.threads import database
from streams.times import in_words

State = Broadcast.State


class BroadcastAdmin(BroadcastSteps):
    """Broadcasts: the list, composing, and looking at what came of one."""

    actions = None  # deleting many at once could not say why one of them stays
    list_display = ["title", "shown_state", "shown_channels", "event", "when", "who", "shown_listened"]
    list_filter = ["state", "payload_type"]
    search_fields = ["title", "payload"]
    ordering = ["-id"]

    def get_queryset(self, request: HttpRequest) -> Any:
        rows = with_references(super().get_queryset(request).using(database()), "created_by", "scheduled_by", "sent_by")
        if not self.may_see_all(request):
            rows = rows.filter(created_by_id=request.user.pk)
        match = request.resolver_match
        name = f"{self.opts.app_label}_{self.opts.model_name}_changelist"
        # A list of payloads may be megabytes.
        return rows.defer("payload", "problem") if match is not None and match.url_name == name else rows

    class Media:
        css = {"all": ["streams/admin.css"]}

    # --- The list ---

    @admin.display(description=gettext_lazy("state"), ordering="state")
    def shown_state(self, broadcast: Broadcast) -> str:
        state = '<span class="streams"><span class="state" data-state="{}">{}</span></span>'
        return format_html(state, broadcast.state, broadcast.get_state_display())

    @admin.display(description=gettext_lazy("channels"))
    def shown_channels(self, broadcast: Broadcast) -> str:
        more = len(broadcast.channels) - 5
        return ", ".join(broadcast.channels[:5]) + (f" +{more}" if more > 0 else "")

    @admin.display(description=gettext_lazy("when"), ordering=Coalesce("sent_at", "send_at"))
    def when(self, broadcast: Broadcast) -> str | None:
        moment = broadcast.sent_at or broadcast.send_at
        return None if moment is None else in_words(moment, seconds=False)

    @admin.display(description=gettext_lazy("who"))
    def who(self, broadcast: Broadcast) -> Any:
        return broadcast.sent_by or broadcast.scheduled_by or broadcast.created_by

    @admin.display(description=gettext_lazy("listened"))
    def shown_listened(self, broadcast: Broadcast) -> int | None:
        return broadcast.listened if broadcast.state == State.SENT else None

    # --- Pages ---

    def get_urls(self) -> list[Any]:
        own: list[URLPattern] = [
            self.own_page("add/", self.add_view, "add"),
            self.own_page("<int:pk>/change/", self._change_by_number, "change"),
        ]
        return [*self.script_urls(), *self.step_urls(), *own, *super().get_urls()]

    def _change_by_number(self, request: HttpRequest, pk: int) -> HttpResponseBase:
        answer: HttpResponseBase = self.change_view(request, str(pk))
        return answer

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> Any:
        """Compose a new broadcast."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        return self._compose(request, Broadcast(created_by_id=request.user.pk))

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> Any:
        """Compose on, or look at what cannot be changed any more."""
        broadcast = self.find(request, object_id)
        if self.has_change_permission(request, broadcast):
            return self._compose(request, broadcast)
        if request.method == "POST":
            may = super().has_change_permission(request) or self.wrote(request, broadcast)
            if not may or refused_channels(request, broadcast.channels):
                raise PermissionDenied
            # It was a draft when the page was loaded. What was typed must not be lost without a word.
            return self._compose(
                request, broadcast, refusal=_("This is no draft any more: it was sent, scheduled or cancelled.")
            )
        return self._detail(request, broadcast)

    def _compose(self, request: HttpRequest, broadcast: Broadcast, refusal: str = "") -> HttpResponse:
        # What cannot be saved any more, since somebody else was quicker, can be kept as a draft of one's own.
        if "_copy" in request.POST and self.has_add_permission(request):
            broadcast, refusal = Broadcast(created_by_id=request.user.pk), ""
        is_new = broadcast.pk is None
        form = BroadcastForm(request.POST or None, instance=broadcast, request=request)
        is_refused = False
        if request.method == "POST":
            is_refused = bool(refusal)
            if refusal:
                form.add_error(None, refusal)
            elif form.is_valid():
                try:
                    revision = None if is_new else form.cleaned_data["revision"] or 0
                    broadcasts.save_draft(form.instance, revision=revision)
                except BroadcastRefused as error:
                    is_refused = True
                    form.add_error(None, str(error))
                else:
                    return self._saved(request, broadcast, form, is_new=is_new)
        # Without the script, they are of the channels as they were saved or sent.
        channels = form.cleaned_data.get("channels", []) if form.is_bound else broadcast.channels
        audience = presence.audiences(channels)
        context = {
            "form": form,
            "broadcast": broadcast,
            "warnings": warnings_of(request, channels),
            "audience": audience_in_words(audience, is_whole=presence.is_audience_whole()),
            "is_refused": is_refused,
            "may_copy": is_refused and self.has_add_permission(request),
            "has_field_problems": any(field.errors for field in form),
            "preview": None if is_new or form.is_bound else preview_of(broadcast),
            "known_types": known_types(),
            "known_channels": known_channels(request),
            "own_channel": own_channel(request),
            "stream": stream_url(),
            "stream_missing": stream_missing(),
            "may_send": self.has_send_permission(request),
            "may_schedule": self.has_schedule_permission(request),
            "may_delete": not is_new and self.has_delete_permission(request, broadcast),
            "texts": compose_texts(),
            "urls": {name: self.url(name) for name in ("preview", "test", "known", "audience")},
        }
        title = _("Compose a broadcast") if is_new else str(broadcast)
        status = 422 if form.is_bound and form.errors else 200
        return self.page(request, "broadcast_form.html", title, context, status=status)

    def _saved(self, request: HttpRequest, broadcast: Broadcast, form: BroadcastForm, *, is_new: bool) -> HttpResponse:
        if is_new:
            self.log_addition(request, broadcast, [{"added": {}}])
        elif form.changed_data:
            said = self.construct_change_message(request, form, [])  # type: ignore[arg-type]  # any form will do
            self.log_change(request, broadcast, said)
        if "_send" in request.POST and self.has_send_permission(request):
            return redirect(self.url("send", broadcast.pk))
        if "_schedule" in request.POST and self.has_schedule_permission(request):
            return redirect(self.url("schedule", broadcast.pk))
        messages.success(request, _("Saved as a draft. Nothing has been sent."))
        return redirect(self.url("change", broadcast.pk))

    def _detail(self, request: HttpRequest, broadcast: Broadcast) -> HttpResponse:
        places = [
            {"channel": channel, "position": position, "listened": broadcast.audience.get(channel, 0)}
            for channel, position in broadcast.places.items()
        ]
        stored = Message.objects.using(database()).filter(position__in=broadcast.positions)
        links = {
            position: self.url_of("message", "change", pk) for pk, position in stored.values_list("pk", "position")
        }
        for place in places:
            place["url"] = links.get(place["position"])
        is_allowed = not refused_channels(request, broadcast.channels)
        may_schedule = is_allowed and self.has_schedule_permission(request)
        is_open = broadcast.state in (State.DRAFT, State.SCHEDULED)
        context = {
            "broadcast": broadcast,
            "preview": preview_of(broadcast),
            "places": places,
            "may_view_messages": request.user.has_perm("streams.view_message"),
            "served": broadcast.served,
            "counting": is_counted(broadcast),
            "counted_seconds": deliveries.COUNTED_SECONDS,
            "may_send": is_allowed and is_open and self.has_send_permission(request),
            "may_schedule": may_schedule and broadcast.state == State.DRAFT,
            "may_take_back": may_schedule and broadcast.state == State.SCHEDULED,
            "may_use_again": is_allowed and self.has_add_permission(request),
            "may_delete": self.has_delete_permission(request, broadcast),
            "urls": {
                name: self.url(name, broadcast.pk)
                for name in ("send", "schedule", "unschedule", "cancel", "again", "served", "history", "delete")
            },
            "zone": zone_at(broadcast.send_at),
            "is_overdue": broadcast.send_at is not None and broadcast.send_at <= clock.read(),
            "nodes": presence.is_anybody_there(),
            "texts": {**ask_texts(), "served": _("Connections served: {n}.")},
        }
        return self.page(request, "broadcast.html", str(broadcast), context)
