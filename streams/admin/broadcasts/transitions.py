"""The steps of a broadcast in the admin: confirm and send, choose a time, take back, cancel, use again.

Each asks who may, and has broadcasts.py do it, once.
"""

from __future__ import annotations

import datetime
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_POST

from streams import broadcasts, clock, presence
from streams.admin.broadcast_forms import ScheduleForm, refused_channels
from streams.admin.broadcast_scripts import BroadcastScripts, preview_of
from streams.admin.broadcast_warnings import more_may_listen, warnings_of
from streams.admin.pages import ask_texts
from streams.exceptions import BroadcastRefused, InvalidMessage
from streams.models import Broadcast
from streams.times import local

State = Broadcast.State


class BroadcastSteps(BroadcastScripts):
    """The pages on which a broadcast goes from one state to the next."""

    def step_urls(self) -> list[URLPattern]:
        return [
            self.own_page("<int:pk>/send/", self.send_view, "send"),
            self.own_page("<int:pk>/schedule/", self.schedule_view, "schedule"),
            self.own_page("<int:pk>/unschedule/", require_POST(self.unschedule_view), "unschedule"),
            self.own_page("<int:pk>/cancel/", require_POST(self.cancel_view), "cancel"),
            self.own_page("<int:pk>/again/", require_POST(self.again_view), "again"),
        ]

    def find(self, request: HttpRequest, pk: int | str) -> Broadcast:
        found: Broadcast | None = self.get_object(request, str(pk))
        if not self.has_view_permission(request, found):
            raise PermissionDenied
        if found is None:
            raise Http404(_("There is no such broadcast; somebody may have deleted it."))
        return found

    def send_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """GET asks: to whom, and how many. POST sends, once."""
        if not self.has_send_permission(request):
            raise PermissionDenied
        broadcast = self.find(request, pk)
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
            "warnings": warnings_of(request, [] if refused else broadcast.channels),
            "audience": audience,
            "total": sum(audience.values()),
            "more_may_listen": "" if presence.is_audience_whole() else more_may_listen(),
            "problem": problem or preview["problem"],
            "may_go_on": not refused and not preview["problem"],
            "urls": {"audience": self.url("audience"), "back": self.url("change", broadcast.pk)},
            "texts": {
                **ask_texts(),
                "send-to-one": _("Send to 1 connection now"),
                "send-to": _("Send to {n} connections now"),
                "nobody": _("Send, although nobody listens now"),
                "unknown": _("Send now"),
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
            broadcast = self.find(request, broadcast.pk)
            if broadcast.state in (State.DRAFT, State.SCHEDULED):
                return self._ask(request, broadcast, str(error))
            messages.warning(request, str(error))
        except InvalidMessage as error:
            return self._ask(request, broadcast, str(error))
        else:
            n = sent.listened
            said = ngettext("Sent. %(n)d connection was open.", "Sent. %(n)d connections were open.", n)
            messages.success(request, said % {"n": n})
        return redirect(self.url("change", broadcast.pk))

    def schedule_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Choose the time; the current time zone is shown, and so is the time in UTC."""
        if not self.has_schedule_permission(request):
            raise PermissionDenied
        broadcast = self.find(request, pk)
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
            "warnings": warnings_of(request, [] if refused else broadcast.channels),
            "zone": zone_at(),
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
        if refused_channels(request, self.find(request, pk).channels):
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
        broadcast = self.find(request, pk)
        # Of one to other channels they could not even delete the draft.
        if not self.has_add_permission(request) or refused_channels(request, broadcast.channels):
            raise PermissionDenied
        draft = broadcasts.use_again(broadcast, by=request.user)
        self.log_addition(request, draft, [{"added": {}}])
        messages.success(request, _("A new draft with the same text. Nothing has been sent."))
        return redirect(self.url("change", draft.pk))


def _next_hour() -> datetime.datetime:
    return (clock.read() + datetime.timedelta(hours=1)).replace(minute=0, second=0, microsecond=0)


def zone_at(moment: datetime.datetime | None = None) -> dict[str, str]:
    """The current time zone, by name and by its distance from UTC at `moment`."""
    name = timezone.get_current_timezone_name()
    then = local(moment or timezone.now())
    # A site without time zones runs by its machine's clock.
    offset = (then if timezone.is_aware(then) else then.astimezone()).strftime("%z")
    return {"name": name, "offset": f"UTC{offset[:3]}:{offset[3:]}"}
