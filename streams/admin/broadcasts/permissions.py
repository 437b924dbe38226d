"""Permissions for broadcasts: Django's permissions, the rights of an author, and the site's policy for channels."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

from streams.admin.broadcasts.forms import refused_channels
from streams.admin.pages import StreamsAdmin
from streams.broadcasts.lifecycle import DELETABLE_STATES, delete_broadcasts
from streams.exceptions import BroadcastRefused
from streams.models import Broadcast

State = Broadcast.State


class BroadcastPermissions(StreamsAdmin):
    """Viewing, writing, sending and scheduling are separate permissions."""

    def has_send_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("streams.send_broadcast")

    def has_schedule_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("streams.schedule_broadcast")

    def can_view_all(self, request: HttpRequest) -> bool:
        # Users who can send or schedule broadcasts need to see them.
        allowed = super().has_view_permission(request)
        return allowed or self.has_send_permission(request) or self.has_schedule_permission(request)

    def is_author(self, request: HttpRequest, obj: Any) -> bool:
        return self.has_add_permission(request) and (obj is None or obj.created_by_id == request.user.pk)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Authors can see their own drafts.
        return self.can_view_all(request) or self.is_author(request, obj)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return super().has_module_permission(request) or self.has_view_permission(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        if not (super().has_change_permission(request, obj) or (obj is not None and self.is_author(request, obj))):
            return False
        return obj is None or (obj.state == State.DRAFT and not refused_channels(request, obj.channels))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Sent broadcasts are kept as a record. Scheduled ones have to be cancelled first.
        allowed = super().has_delete_permission(request, obj)
        if obj is None:
            return allowed
        return allowed and obj.state in DELETABLE_STATES and not refused_channels(request, obj.channels)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        self.delete_queryset(request, Broadcast.objects.filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        try:
            delete_broadcasts(queryset)
        except BroadcastRefused as error:
            raise PermissionDenied(str(error)) from None

    def can_compose(self, request: HttpRequest) -> bool:
        return self.has_add_permission(request) or self.has_change_permission(request)
