"""Views that change the state of a broadcast: send, schedule, unschedule, cancel, and copy as a new draft.

Each view checks permissions. The change itself is made in streams/broadcasts/lifecycle.py.
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

from streams import presence
from streams.admin.broadcasts.forms import ScheduleForm, describe_refusal, refused_channels
from streams.admin.broadcasts.json_views import BroadcastJSONViews, preview_of
from streams.admin.broadcasts.warnings import INCOMPLETE_COUNT, find_warnings
from streams.admin.pages import FETCH_ERRORS, to_local
from streams.broadcasts import lifecycle
from streams.exceptions import BroadcastRefused, InvalidMessage
from streams.models import Broadcast
from streams.presence import totals
from streams.runtime import clock

State = Broadcast.State


class BroadcastTransitions(BroadcastJSONViews):
    """The views that move a broadcast from one state to the next."""

    def transition_urls(self) -> list[URLPattern]:
        can_schedule = self.has_schedule_permission
        return [
            self.staff_path("<int:pk>/send/", self.send_view, "send", allowed=self.has_send_permission),
            self.staff_path("<int:pk>/schedule/", self.schedule_view, "schedule", allowed=can_schedule),
            self.staff_path(
                "<int:pk>/unschedule/", require_POST(self.unschedule_view), "unschedule", allowed=can_schedule
            ),
            self.staff_path("<int:pk>/cancel/", require_POST(self.cancel_view), "cancel", allowed=can_schedule),
            self.staff_path("<int:pk>/copy/", require_POST(self.copy_view), "copy"),
        ]

    def get_broadcast(self, request: HttpRequest, pk: int | str) -> Broadcast:
        """Return the broadcast. Raise PermissionDenied if the user cannot view it, Http404 if it does not exist."""
        found: Broadcast | None = self.get_object(request, str(pk))
        if not self.has_view_permission(request, found):
            raise PermissionDenied
        if found is None:
            raise Http404(_("This broadcast does not exist. It might have been deleted."))
        return found

    def send_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """GET asks for confirmation and shows the audience. POST sends the broadcast, once."""
        broadcast = self.get_broadcast(request, pk)
        if request.method == "POST":
            return self._send(request, broadcast)
        if broadcast.state not in (State.DRAFT, State.SCHEDULED):
            return redirect(self.url("change", pk))
        return self._confirm(request, broadcast)

    def _confirm(self, request: HttpRequest, broadcast: Broadcast, problem: str = "") -> HttpResponse:
        audience = presence.audiences(broadcast.channels)
        refused = refused_channels(request, broadcast.channels)
        if refused:
            problem = describe_refusal(refused)
        preview = preview_of(broadcast)
        context = {
            "broadcast": broadcast,
            "preview": preview,
            "warnings": find_warnings(request, [] if refused else broadcast.channels),
            "audience": audience,
            "total": sum(audience.values()),
            "incomplete_count": "" if totals.is_audience_complete() else INCOMPLETE_COUNT,
            "problem": problem or preview["problem"],
            "can_send": not refused and not preview["problem"],
            "urls": {"audience": self.url("audience"), "back": self.url("change", broadcast.pk)},
            "texts": {
                **FETCH_ERRORS,
                "send-to-one": _("Send to 1 connection now"),
                "send-to": _("Send to {n} connections now"),
                "no-connections": _("Send, although no client is connected"),
                "unknown": _("Send now"),
            },
        }
        status = 422 if context["problem"] else 200
        return self.render_page(request, "broadcasts/send.html", _("Send this broadcast now?"), context, status=status)

    def _send(self, request: HttpRequest, broadcast: Broadcast) -> HttpResponse:
        if refused_channels(request, broadcast.channels):
            return self._confirm(request, broadcast)
        # The policy was asked about this revision, so send this revision only.
        seen = request.POST.get("revision", "")
        if broadcast.state in (State.DRAFT, State.SCHEDULED) and seen != str(broadcast.revision):
            problem = _("Another user has changed this broadcast. Check the new version, then confirm.")
            return self._confirm(request, broadcast, problem)
        try:
            sent = lifecycle.send(broadcast.pk, by=request.user, revision=broadcast.revision)
        except BroadcastRefused as error:
            broadcast = self.get_broadcast(request, broadcast.pk)
            if broadcast.state in (State.DRAFT, State.SCHEDULED):
                return self._confirm(request, broadcast, str(error))
            messages.warning(request, str(error))
        except InvalidMessage as error:
            return self._confirm(request, broadcast, str(error))
        else:
            n = sent.audience_size
            text = ngettext("Sent. %(n)d connection was open.", "Sent. %(n)d connections were open.", n)
            messages.success(request, text % {"n": n})
        return redirect(self.url("change", broadcast.pk))

    def schedule_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """GET asks for the time, in the current time zone. POST schedules the broadcast."""
        broadcast = self.get_broadcast(request, pk)
        refused = refused_channels(request, broadcast.channels)
        if request.method == "POST":
            form = ScheduleForm(request.POST, label_suffix="")
            if refused:
                form.add_error(None, describe_refusal(refused))
            if form.is_valid():
                try:
                    cleaned = form.cleaned_data
                    if broadcast.state == State.DRAFT and cleaned["revision"] != broadcast.revision:
                        raise BroadcastRefused(lifecycle.CHANGED)
                    # The policy was asked about this revision, so schedule this revision only.
                    lifecycle.schedule(pk, cleaned["send_at"], by=request.user, revision=broadcast.revision)
                except (BroadcastRefused, InvalidMessage) as error:
                    form.add_error(None, str(error))
                else:
                    messages.success(request, _("Scheduled. It will be sent automatically."))
                    return redirect(self.url("change", pk))
        elif broadcast.state != State.DRAFT:
            return redirect(self.url("change", pk))
        else:
            next_hour = (clock.read() + datetime.timedelta(hours=1)).replace(minute=0, second=0, microsecond=0)
            form = ScheduleForm(initial={"send_at": next_hour, "revision": broadcast.revision}, label_suffix="")
        context = {
            "broadcast": broadcast,
            "form": form,
            "preview": preview_of(broadcast),
            "warnings": find_warnings(request, [] if refused else broadcast.channels),
            "zone": zone_at(),
            "has_processes": totals.has_connections(),
            "urls": {"back": self.url("change", pk)},
            "texts": {**FETCH_ERRORS, "local-time": _("That is {time} in your time zone ({zone}).")},
        }
        status = 422 if form.errors else 200
        return self.render_page(
            request, "broadcasts/schedule.html", _("Schedule this broadcast"), context, status=status
        )

    def unschedule_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        return self._change_scheduled(request, pk, lifecycle.unschedule, _("It is a draft again and will not be sent."))

    def cancel_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        return self._change_scheduled(request, pk, lifecycle.cancel, _("Cancelled. It will not be sent."))

    def _change_scheduled(self, request: HttpRequest, pk: int, change: Any, done: str) -> HttpResponse:
        if refused_channels(request, self.get_broadcast(request, pk).channels):
            raise PermissionDenied
        try:
            change(pk, by=request.user)
        except BroadcastRefused as error:
            messages.error(request, str(error))
        else:
            messages.success(request, done)
        return redirect(self.url("change", pk))

    def copy_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Create a new draft with the same content."""
        broadcast = self.get_broadcast(request, pk)
        # The user could not even delete a draft for channels that they are not allowed to use.
        if not self.has_add_permission(request) or refused_channels(request, broadcast.channels):
            raise PermissionDenied
        draft = lifecycle.copy_as_draft(broadcast, by=request.user)
        self.log_addition(request, draft, [{"added": {}}])
        messages.success(request, _("Created a new draft with the same content. Nothing has been sent."))
        return redirect(self.url("change", draft.pk))


def zone_at(moment: datetime.datetime | None = None) -> dict[str, str]:
    """Return the name of the current time zone and its offset from UTC at `moment`."""
    name = timezone.get_current_timezone_name()
    then = to_local(moment or timezone.now())
    # With USE_TZ = False, the datetime is in the machine's time zone.
    offset = (then if timezone.is_aware(then) else then.astimezone()).strftime("%z")
    return {"name": name, "offset": f"UTC{offset[:3]}:{offset[3:]}"}
