"""What the admin's pages share: base classes, rendering, and the URL of the stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.http import HttpRequest, JsonResponse
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, path, reverse
from django.utils.translation import gettext as _

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
            headers={"Cache-Control": "no-store"},
        )

    def url(self, name: str, *args: Any) -> str:
        """Return the URL of one of this model's pages: `changelist`, `change`, or a name passed to staff_path()."""
        return self.url_of(self.opts.model_name or "", name, *args)

    def url_of(self, model: str, name: str, *args: Any) -> str:
        """Return the URL of a page of another model in this app, such as url_of("message", "change", 7)."""
        return reverse(f"admin:{self.opts.app_label}_{model}_{name}", args=args, current_app=self.admin_site.name)

    def staff_path(self, route: str, view: Any, name: str) -> URLPattern:
        """Return a URL pattern for get_urls() whose view requires a staff user.

        The view runs outside the transaction that ATOMIC_REQUESTS opens, so that everything it sends is committed
        before it responds.
        """
        guarded: Any = self.admin_site.admin_view(view)
        pattern: URLPattern = path(
            route,
            non_atomic_requests(guarded),
            name=f"{self.opts.app_label}_{self.opts.model_name}_{name}",
        )
        return pattern


class ReadOnlyAdmin(StreamsAdmin):
    """For rows that only the site itself creates, changes and deletes."""

    actions = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def stream_url() -> str | None:
    """Return the URL that streams several channels; None if the site does not include `streams.urls`."""
    try:
        return reverse("streams:channels")
    except NoReverseMatch:
        return None


def no_stream_text() -> str:
    """Return the explanation for pages that need a stream, if stream_url() is None."""
    return _(
        "This site serves no streams, because its urls.py does not include streams.urls. "
        'Add path("events/", include("streams.urls")) to see events here.'
    )


def json_errors(errors: Iterable[str], status: int) -> JsonResponse:
    """Return an error response in the format that `Streams.fetchJSON()` in base.js reads."""
    return JsonResponse({"errors": list(errors)}, status=status)


def fetch_error_texts() -> dict[str, str]:
    """Return the texts that `Streams.fetchJSON()` in base.js shows if the server gives no usable response."""
    return {
        "bad-response": _("The server sent an unexpected response. Reload the page; you might have been logged out."),
        "no-connection": _("The server cannot be reached."),
    }


def users_by_pk(keys: Iterable[Any]) -> dict[Any, Any]:
    """Return {primary key: user} for the users that still exist."""
    # A query of its own, because the users can be in another database than the log.
    wanted = {*keys} - {None}
    return {user.pk: user for user in get_user_model()._base_manager.filter(pk__in=wanted)} if wanted else {}
