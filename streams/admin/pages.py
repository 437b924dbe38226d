"""What the admin's pages share: base classes, rendering, texts, dates, and the URL of the stream."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, path, reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext_lazy as _

from streams.exceptions import InvalidChannel
from streams.http.mounts import reverse_mounted
from streams.protocol.events import validate_channel
from streams.runtime.database import non_atomic_requests

# ModelAdmin is generic in django-stubs, but not in Django.
if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Any]
else:
    _ModelAdmin = admin.ModelAdmin


class StreamsAdmin(_ModelAdmin):
    """A ModelAdmin with custom pages, which replace or extend Django's."""

    show_add_link = True  # django-unfold's change lists link to the add page only if this is set

    def render_page(
        self, request: HttpRequest, template: str, title: str, context: dict[str, Any], *, status: int = 200
    ) -> TemplateResponse:
        """Render a page in the admin's layout. `template` is a path below the template folder `streams/admin/`."""
        return TemplateResponse(
            request,
            f"streams/admin/{template}",
            {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "title": title,
                "subtitle": None,
                "parent": {"title": str(self.opts.verbose_name_plural).capitalize(), "url": self.url("changelist")},
                **context,
            },
            status=status,
        )

    def url(self, name: str, *args: Any) -> str:
        """Return the URL of one of this model's pages: `changelist`, `change`, or a name passed to staff_path()."""
        return self.url_of(self.opts.model_name or "", name, *args)

    def url_of(self, model: str, name: str, *args: Any) -> str:
        """Return the URL of a page of another model in this app, such as url_of("message", "change", 7)."""
        return reverse(f"admin:{self.opts.app_label}_{model}_{name}", args=args, current_app=self.admin_site.name)

    def staff_path(
        self,
        route: str,
        view: Callable[..., HttpResponseBase],
        name: str,
        *,
        allowed: Callable[[HttpRequest], bool] | None = None,
        refusal: Any = "",
    ) -> URLPattern:
        """Return a URL pattern for get_urls() whose view requires a staff user with a permission.

        The view runs outside the transaction that ATOMIC_REQUESTS opens, so that everything it sends is committed
        before it responds. Its response is not cached.

        Args:
            route: the route below the model's pages.
            view: the view. It can check further permissions, such as those for one object.
            name: the name of the page for url().
            allowed: returns True if the request's user has the permission; None for has_view_permission().
            refusal: the error for other users, if the view responds with JSON.
        """
        is_allowed = allowed or self.has_view_permission

        @functools.wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if is_allowed(request):
                return view(request, *args, **kwargs)
            if refusal:
                return json_errors([refusal], 403)
            raise PermissionDenied

        page: Callable[..., HttpResponseBase] = non_atomic_requests(self.admin_site.admin_view(guarded))
        return path(route, page, name=f"{self.opts.app_label}_{self.opts.model_name}_{name}")


class ReadOnlyAdmin(StreamsAdmin):
    """For rows that only the site itself creates, changes and deletes."""

    actions = None

    def _never(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    has_add_permission = has_change_permission = has_delete_permission = _never


def stream_url() -> str | None:
    """Return the URL that streams several channels; None if the site does not include `streams.urls`."""
    try:
        return reverse_mounted("streams", "channels")
    except NoReverseMatch:
        return None


# The explanation for pages that need a stream, if stream_url() is None.
NO_STREAM = _(
    "This site serves no streams, because its urls.py does not include streams.urls. "
    'Add path("events/", include("streams.urls")) to see events here.'
)

# What `Streams.fetchJSON()` in base.js shows if the server gives no usable response.
FETCH_ERRORS = {
    "bad-response": _("The server sent an unexpected response. Reload the page; you might have been logged out."),
    "no-connection": _("The server cannot be reached."),
}


def json_errors(errors: Iterable[object], status: int) -> JsonResponse:
    """Return an error response in the format that `Streams.fetchJSON()` in base.js reads."""
    return JsonResponse({"errors": list(errors)}, status=status)


def is_valid_channel(name: str) -> bool:
    """Return True if `name` is a valid name of a channel."""
    try:
        validate_channel(name)
    except InvalidChannel:
        return False
    return True


def users_by_pk(keys: Iterable[Any]) -> dict[Any, Any]:
    """Return {primary key: user} for the users that still exist."""
    # A query of its own, because the users can be in another database than the log.
    wanted = {*keys} - {None}
    return {user.pk: user for user in get_user_model()._base_manager.filter(pk__in=wanted)} if wanted else {}


def to_local(moment: datetime.datetime) -> datetime.datetime:
    """Convert an aware datetime to the current time zone. Return a naive one (USE_TZ = False) unchanged."""
    return timezone.localtime(moment) if timezone.is_aware(moment) else moment


def format_local(moment: datetime.datetime, *, seconds: bool = True) -> str:
    """Format a datetime in the current time zone, followed by the zone's name: "2026-01-31 17:05:00 CET"."""
    return date_format(to_local(moment), "Y-m-d H:i:s T" if seconds else "Y-m-d H:i T").strip()
