"""What the admin's own pages have in common: how they are rendered, where they live, and how they find the stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.http import HttpRequest, JsonResponse
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, path, reverse
from django.utils.translation import gettext as _

from streams.databases import non_atomic_requests

# django-stubs make it generic; Django itself does not.
if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Any]
else:
    _ModelAdmin = admin.ModelAdmin


class StreamsAdmin(_ModelAdmin):
    """A ModelAdmin with pages of its own beside, or in place of, Django's."""

    show_add_link = True  # django-unfold's lists have their link to the page for a new one only where this says so

    def page(
        self, request: HttpRequest, template: str, title: str, context: dict[str, Any], *, status: int = 200
    ) -> TemplateResponse:
        """A page in the admin's frame. `template` is one of streams/admin/, which extends streams/admin/base.html."""
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
        """The URL of one of this model's pages: `changelist`, `change`, or the name that own_page() gave."""
        return self.url_of(self.opts.model_name or "", name, *args)

    def url_of(self, model: str, name: str, *args: Any) -> str:
        """The URL of a page of another of our models, as in url_of("message", "change", 7)."""
        return reverse(f"admin:{self.opts.app_label}_{model}_{name}", args=args, current_app=self.admin_site.name)

    def own_page(self, route: str, view: Any, name: str) -> URLPattern:
        """A URL pattern for get_urls(), for staff only. The view is outside of the transaction that a site may have
        around each request (ATOMIC_REQUESTS): what it sends is sent before it answers."""
        guarded: Any = self.admin_site.admin_view(view)
        pattern: URLPattern = path(
            route,
            non_atomic_requests(guarded),
            name=f"{self.opts.app_label}_{self.opts.model_name}_{name}",
        )
        return pattern


class LookOnlyAdmin(StreamsAdmin):
    """Of what comes and goes by itself: staff look, and neither add, change nor delete."""

    actions = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def stream_url() -> str | None:
    """Where streams of several channels are served; None where the site has not mounted `streams.urls`."""
    try:
        return reverse("streams:channels")
    except NoReverseMatch:
        return None


def error_json(problems: Iterable[str], status: int) -> JsonResponse:
    """Problems, in the one shape that our scripts read."""
    return JsonResponse({"errors": list(problems)}, status=status)


def users_of(keys: Iterable[Any]) -> dict[Any, Any]:
    """{primary key: user} of those who are still there."""
    # By a query of their own: the users may be in another database than the log.
    wanted = {*keys} - {None}
    return {user.pk: user for user in get_user_model()._base_manager.filter(pk__in=wanted)} if wanted else {}


def ask_texts() -> dict[str, str]:
    """What Streams.ask() in admin.js says where the server gives no answer."""
    return {
        "no-answer": _("The server did not answer as expected. Load the page again; you may have been logged out."),
        "no-connection": _("The server cannot be reached."),
    }


def stream_missing() -> str:
    """What a page says that needs the stream, where there is none."""
    return _(
        "This site serves no streams: its urls.py does not include streams.urls. "
        'Add path("events/", include("streams.urls")) to see events here.'
    )
