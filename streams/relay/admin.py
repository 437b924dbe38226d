"""Read-only admin pages of generations and of the usage of answers. They need Django's "view" permissions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from streams.models.references import with_references
from streams.relay.models import Generation, Usage
from streams.runtime.executor import database

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin


class _LookOnly(ModelAdmin):
    show_full_result_count = False  # Django would count the whole table for each page
    reference: str  # the field that refers to a user

    def get_queryset(self, request: HttpRequest) -> Any:
        return with_references(super().get_queryset(request).using(database()), self.reference)

    def _refuse(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    has_add_permission = has_change_permission = has_delete_permission = _refuse


@admin.register(Generation)
class GenerationAdmin(_LookOnly):
    """Requests, and the answers to them."""

    list_display = ("created_at", "state", "shown_owner", "model", "chunks", "ended_at", "error_code")
    list_filter = ("state", "upstream")
    reference = "owner"
    search_fields = ("id", "text")
    fieldsets: ClassVar = (
        (None, {"fields": ("id", "state", "owner", "caller", "upstream", "model", "request", "text")}),
        (None, {"fields": ("finish_reason", "error_code", "error_message", "usage")}),
        (None, {"fields": ("created_at", "started_at", "ended_at", "compacted_at", "worker", "lease_until")}),
        (None, {"fields": ("chunks", "start_position", "end_position", "text_position")}),
    )

    # Sorted by the key, because Django would look for the table of users in the log's database.
    @admin.display(description=_("owner"), ordering="owner_id")
    def shown_owner(self, generation: Generation) -> Any:
        return generation.owner


@admin.register(Usage)
class UsageAdmin(_LookOnly):
    """The usage of each answer."""

    list_display = (
        "created_at",
        "shown_user",
        "model",
        "outcome",
        "prompt_tokens",
        "completion_tokens",
        "is_estimated",
        "seconds",
    )
    list_filter = ("outcome", "upstream", "model", "is_estimated")
    reference = "user"
    date_hierarchy = "created_at"

    # Sorted by the key, because Django would look for the table of users in the log's database.
    @admin.display(description=_("user"), ordering="user_id")
    def shown_user(self, usage: Usage) -> Any:
        return usage.user
