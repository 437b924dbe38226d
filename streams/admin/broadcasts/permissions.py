"""Who may do what with broadcasts: Django's permissions, what the author may, and the policy that limits channels."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

from streams import broadcasts
from streams.admin.broadcast_forms import refused_channels
from streams.admin.pages import StreamsAdmin
from streams.exceptions import BroadcastRefused
from streams.models import Broadcast

State = Broadcast.State


class BroadcastPermissions(StreamsAdmin):
    """Viewing, composing, sending and scheduling are separate permissions."""

    def has_send_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("streams.send_broadcast")

    def has_schedule_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("streams.schedule_broadcast")

    def may_see_all(self, request: HttpRequest) -> bool:
        # Who may send must see what; so must who may schedule.
        may = super().has_view_permission(request)
        return may or self.has_send_permission(request) or self.has_schedule_permission(request)

    def wrote(self, request: HttpRequest, obj: Any) -> bool:
        return self.has_add_permission(request) and (obj is None or obj.created_by_id == request.user.pk)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Who may write sees what they have written.
        return self.may_see_all(request) or self.wrote(request, obj)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return super().has_module_permission(request) or self.has_view_permission(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        if not (super().has_change_permission(request, obj) or (obj is not None and self.wrote(request, obj))):
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

    def may_compose(self, request: HttpRequest) -> bool:
        return self.has_add_permission(request) or self.has_change_permission(request)
