"""The broadcast desk: staff compose, preview, test, schedule and send, and see whom it reached.

It shows and asks; what is done with a broadcast, and that it is done once, is broadcasts.py's.
"""

from __future__ import annotations

import datetime
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.urls import URLPattern
from django.utils import timezone
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.http import require_POST

from streams import broadcasts, presence
from streams.admin.broadcast_forms import BroadcastForm, ScheduleForm, refused_channels
from streams.admin.broadcast_scripts import (
    BroadcastScripts,
    is_counted,
    known_channels,
    known_types,
    own_channel,
    preview_of,
)
from streams.admin.pages import ask_texts, in_words, stream_missing, stream_url
from streams.exceptions import BroadcastRefused, InvalidMessage
from streams.models import Broadcast, Message
from streams.threads import database

State = Broadcast.State


class BroadcastAdmin(BroadcastScripts):
    """Broadcasts. Viewing, composing, sending and scheduling are separate permissions."""

    actions = None  # deleting many at once could not say why one of them stays
    list_display = ["title", "shown_state", "shown_channels", "event", "when", "who", "shown_listened"]
    list_filter = ["state", "payload_type"]
    search_fields = ["title", "payload"]
    list_select_related = ["created_by", "scheduled_by", "sent_by"]
    ordering = ["-id"]

    def get_queryset(self, request: HttpRequest) -> Any:
        rows = super().get_queryset(request).using(database())
        if not self._may_see_all(request):
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

    @admin.display(description=gettext_lazy("when"), ordering="send_at")
    def when(self, broadcast: Broadcast) -> str | None:
        moment = broadcast.sent_at or broadcast.send_at
        return None if moment is None else in_words(moment)

    @admin.display(description=gettext_lazy("who"))
    def who(self, broadcast: Broadcast) -> Any:
        return broadcast.sent_by or broadcast.scheduled_by or broadcast.created_by

    @admin.display(description=gettext_lazy("listened"))
    def shown_listened(self, broadcast: Broadcast) -> int | None:
        return broadcast.listened if broadcast.state == State.SENT else None

    # --- Who may ---

    def has_send_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("streams.send_broadcast")

    def has_schedule_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("streams.schedule_broadcast")

    def _may_see_all(self, request: HttpRequest) -> bool:
        # Who may send must see what; so must who may schedule.
        may = super().has_view_permission(request)
        return may or self.has_send_permission(request) or self.has_schedule_permission(request)

    def _wrote(self, request: HttpRequest, obj: Any) -> bool:
        return self.has_add_permission(request) and (obj is None or obj.created_by_id == request.user.pk)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Who may write sees what they have written.
        return self._may_see_all(request) or self._wrote(request, obj)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return super().has_module_permission(request) or self.has_view_permission(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        if not (super().has_change_permission(request, obj) or (obj is not None and self._wrote(request, obj))):
            return False
        return obj is None or (obj.state == State.DRAFT and not refused_channels(request, obj.channels))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # What was sent is on record; what is scheduled is cancelled first.
        may = super().has_delete_permission(request, obj)
        if obj is None:
            return may
        return may and obj.state in broadcasts.DELETABLE and not refused_channels(request, obj.channels)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        self.delete_queryset(request, Broadcast.objects.filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        try:
            broadcasts.discard(queryset)
        except BroadcastRefused as error:
            raise PermissionDenied(str(error)) from None

    # --- Pages ---

    def get_urls(self) -> list[Any]:
        own: list[URLPattern] = [
            self.own_page("add/", self.add_view, "add"),
            self.own_page("<int:pk>/send/", self.send_view, "send"),
            self.own_page("<int:pk>/schedule/", self.schedule_view, "schedule"),
            self.own_page("<int:pk>/unschedule/", require_POST(self.unschedule_view), "unschedule"),
            self.own_page("<int:pk>/cancel/", require_POST(self.cancel_view), "cancel"),
            self.own_page("<int:pk>/again/", require_POST(self.again_view), "again"),
            self.own_page("<int:pk>/change/", self._change_by_number, "change"),
        ]
        return [*self.script_urls(), *own, *super().get_urls()]

    def _change_by_number(self, request: HttpRequest, pk: int) -> HttpResponseBase:
        answer: HttpResponseBase = self.change_view(request, str(pk))
        return answer

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> Any:
        """Compose a new broadcast."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        return self._compose(request, Broadcast(created_by_id=request.user.pk, channels=request.GET.getlist("channel")))

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> Any:
        """Compose on, or look at what cannot be changed any more."""
        broadcast = self._find(request, object_id)
        if self.has_change_permission(request, broadcast):
            return self._compose(request, broadcast)
        if request.method == "POST":
            may = super().has_change_permission(request) or self._wrote(request, broadcast)
            if not may or refused_channels(request, broadcast.channels):
                raise PermissionDenied
            # It was a draft when the page was loaded. What was typed must not be lost without a word.
            return self._compose(
                request, broadcast, refusal=_("This is no draft any more: it was sent, scheduled or cancelled.")
            )
        return self._detail(request, broadcast)

    def _find(self, request: HttpRequest, pk: int | str) -> Broadcast:
        found: Broadcast | None = self.get_object(request, str(pk))
        if not self.has_view_permission(request, found):
            raise PermissionDenied
        if found is None:
            raise Http404(_("There is no such broadcast; somebody may have deleted it."))
        return found

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
        texts = {
            **ask_texts(),
            "remove": _("Remove {name}"),
            "added": _("Added {name}."),
            "removed": _("Removed {name}."),
            "no-channels": _("Name a channel to see how many listen."),
            "listen-now": _("{channel}: {n} listening now"),
            "in-all": _("In all: {n}"),
            "each-counts": _("A connection that has several of these channels counts for each."),
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
        context = {
            "form": form,
            "broadcast": broadcast,
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
            "texts": texts,
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
            "served": broadcasts.served(broadcast),
            "counting": is_counted(broadcast),
            "counted_seconds": broadcasts.COUNTED_SECONDS,
            "may_send": is_allowed and is_open and self.has_send_permission(request),
            "may_schedule": may_schedule and broadcast.state == State.DRAFT,
            "may_take_back": may_schedule and broadcast.state == State.SCHEDULED,
            "may_use_again": self.has_add_permission(request),
            "may_delete": self.has_delete_permission(request, broadcast),
            "urls": {
                name: self.url(name, broadcast.pk)
                for name in ("send", "schedule", "unschedule", "cancel", "again", "served", "history", "delete")
            },
            "zone": _zone(broadcast.send_at),
            "is_overdue": broadcast.send_at is not None and broadcast.send_at <= timezone.now(),
            "nodes": presence.is_anybody_there(),
            "texts": {**ask_texts(), "served": _("Connections served: {n}.")},
        }
        return self.page(request, "broadcast.html", str(broadcast), context)

    # --- Steps ---

    def send_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """GET asks: to whom, and how many. POST sends, once."""
        if not self.has_send_permission(request):
            raise PermissionDenied
        broadcast = self._find(request, pk)
        if request.method == "POST":
            return self._send(request, broadcast)
        if broadcast.state not in (State.DRAFT, State.SCHEDULED):
            return redirect(self.url("change", pk))
        return self._ask(request, broadcast)

    def _ask(self, request: HttpRequest, broadcast: Broadcast, problem: str = "") -> HttpResponse:
        audience = presence.audiences(broadcast.channels)
        refused = refused_channels(request, broadcast.channels)
        if refused:
            problem = _("You may not broadcast to %(channels)s.") % {"channels": ", ".join(refused)}
        preview = preview_of(broadcast)
        context = {
            "broadcast": broadcast,
            "preview": preview,
            "audience": audience,
            "total": sum(audience.values()),
            "problem": problem or preview["problem"],
            "may_go_on": not refused and not preview["problem"],
            "nodes": presence.is_anybody_there(),
            "urls": {"audience": self.url("audience"), "back": self.url("change", broadcast.pk)},
            "texts": {
                **ask_texts(),
                "send-to-one": _("Send to 1 connection now"),
                "send-to": _("Send to {n} connections now"),
                "nobody": _("Send, although nobody listens now"),
            },
        }
        status = 422 if context["problem"] else 200
        return self.page(request, "broadcast_send.html", _("Send this now?"), context, status=status)

    def _send(self, request: HttpRequest, broadcast: Broadcast) -> HttpResponse:
        if refused_channels(request, broadcast.channels):
            return self._ask(request, broadcast)
        # What was seen is what was loaded, and asked the policy about, just now; and that is what is sent.
        seen = request.POST.get("revision", "")
        if broadcast.state in (State.DRAFT, State.SCHEDULED) and seen != str(broadcast.revision):
            problem = _(
                "Somebody has changed this broadcast meanwhile. Look at what will be sent, and confirm it here."
            )
            return self._ask(request, broadcast, problem)
        try:
            sent = broadcasts.send(broadcast.pk, by=request.user, revision=broadcast.revision)
        except BroadcastRefused as error:
            broadcast = self._find(request, broadcast.pk)
            if broadcast.state in (State.DRAFT, State.SCHEDULED):
                return self._ask(request, broadcast, str(error))
            messages.warning(request, str(error))
        except InvalidMessage as error:
            return self._ask(request, broadcast, str(error))
        else:
            n = sent.listened
            said = ngettext("Sent. %(n)d connection listened.", "Sent. %(n)d connections listened.", n) % {"n": n}
            messages.success(request, said)
        return redirect(self.url("change", broadcast.pk))

    def schedule_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Choose the time; the current time zone is shown, and so is the time in UTC."""
        if not self.has_schedule_permission(request):
            raise PermissionDenied
        broadcast = self._find(request, pk)
        refused = refused_channels(request, broadcast.channels)
        if request.method == "POST":
            form = ScheduleForm(request.POST)
            if refused:
                form.add_error(None, _("You may not broadcast to %(channels)s.") % {"channels": ", ".join(refused)})
            if form.is_valid():
                try:
                    found = form.cleaned_data
                    if broadcast.state == State.DRAFT and found["revision"] != broadcast.revision:
                        raise BroadcastRefused(
                            _("Somebody has changed this broadcast meanwhile. Look at it again first.")
                        )
                    # What the policy was asked about just now is what is scheduled.
                    broadcasts.schedule(pk, found["send_at"], by=request.user, revision=broadcast.revision)
                except (BroadcastRefused, InvalidMessage) as error:
                    form.add_error(None, str(error))
                else:
                    messages.success(request, _("Scheduled. It goes out by itself."))
                    return redirect(self.url("change", pk))
        elif broadcast.state != State.DRAFT:
            return redirect(self.url("change", pk))
        else:
            form = ScheduleForm(initial={"send_at": _next_hour(), "revision": broadcast.revision})
        context = {
            "broadcast": broadcast,
            "form": form,
            "preview": preview_of(broadcast),
            "zone": _zone(),
            "nodes": presence.is_anybody_there(),
            "urls": {"back": self.url("change", pk)},
            "texts": {**ask_texts(), "elsewhere": _("That is {time} where you are ({zone}).")},
        }
        status = 422 if form.errors else 200
        return self.page(request, "broadcast_schedule.html", _("When is it to go out?"), context, status=status)

    def unschedule_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        return self._take_back(request, pk, broadcasts.unschedule, _("It is a draft again, and goes out no more."))

    def cancel_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        return self._take_back(request, pk, broadcasts.cancel, _("Cancelled. It will not be sent."))

    def _take_back(self, request: HttpRequest, pk: int, step: Any, done: str) -> HttpResponse:
        if not self.has_schedule_permission(request):
            raise PermissionDenied
        if refused_channels(request, self._find(request, pk).channels):
            raise PermissionDenied
        try:
            step(pk, by=request.user)
        except BroadcastRefused as error:
            messages.error(request, str(error))
        else:
            messages.success(request, done)
        return redirect(self.url("change", pk))

    def again_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """A new draft of what was sent or cancelled."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        draft = broadcasts.use_again(self._find(request, pk), by=request.user)
        self.log_addition(request, draft, [{"added": {}}])
        messages.success(request, _("A new draft with the same text. Nothing has been sent."))
        return redirect(self.url("change", draft.pk))


def _next_hour() -> datetime.datetime:
    return (timezone.now() + datetime.timedelta(hours=1)).replace(minute=0, second=0, microsecond=0)


def _zone(moment: datetime.datetime | None = None) -> dict[str, str]:
    """The current time zone, by name and by its distance from UTC at `moment`."""
    name = timezone.get_current_timezone_name()
    then = broadcasts.local(moment or timezone.now())
    # A site without time zones runs by its machine's clock.
    offset = (then if timezone.is_aware(then) else then.astimezone()).strftime("%z")
    return {"name": name, "offset": f"UTC{offset[:3]}:{offset[3:]}"}
