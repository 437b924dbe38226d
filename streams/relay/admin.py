"""Answers and what they have cost, in Django's admin, to look at: under the permissions to view them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin
from django.http import HttpRequest

from streams.relay.models import Generation, Usage

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin


class _LookOnly(ModelAdmin):
    show_full_result_count = False  # it would count the whole table for every page

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Generation)
class GenerationAdmin(_LookOnly):
    """Who has asked what, and what came of it."""

    list_display = ("created_at", "state", "owner", "model", "pieces", "ended_at", "error_code")
    list_filter = ("state", "upstream")
    list_select_related = ("owner",)
    search_fields = ("id", "text")
    fieldsets: ClassVar = (
        (None, {"fields": ("id", "state", "owner", "caller", "upstream", "model", "request", "text")}),
        (None, {"fields": ("finish_reason", "error_code", "error_message", "usage")}),
        (None, {"fields": ("created_at", "started_at", "ended_at", "compacted_at", "worker", "lease_until")}),
        (None, {"fields": ("pieces", "start_position", "end_position", "text_position")}),
    )


@admin.register(Usage)
class UsageAdmin(_LookOnly):
    """What answers have cost, one by one."""

    list_display = (
        "created_at",
        "user",
        "model",
        "outcome",
        "prompt_tokens",
        "completion_tokens",
        "is_estimated",
        "seconds",
    )
    list_filter = ("outcome", "upstream", "model", "is_estimated")
    list_select_related = ("user",)
    date_hierarchy = "created_at"
