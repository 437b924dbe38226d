"""Views of all sites: a page with a stream, and what the tests need of a running server."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.core.checks import run_checks
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template import engines
from django.views.decorators.cache import never_cache

from tests.support import views

PAGE = """{% load streams %}<!doctype html><title>A page</title><p id="stream" data-url="{% stream_url channel %}">"""


@login_not_required
def page(request: HttpRequest) -> HttpResponse:
    """Show a page whose stream continues where the page ends."""
    template = engines["django"].from_string(PAGE)
    return HttpResponse(template.render({"channel": request.GET["channel"]}, request))


@login_not_required
@never_cache
def checks(request: HttpRequest) -> JsonResponse:
    """Return the messages of `manage.py check`."""
    return JsonResponse(
        {"messages": [str(message) for message in run_checks(databases=["default"]) if not message.is_silenced()]}
    )


def for_tests(view: Any) -> Any:
    return transaction.non_atomic_requests(login_not_required(never_cache(view)))  # some are async


burst, process, log_in, log_out, publish = map(
    for_tests, (views.burst, views.process, views.log_in, views.log_out, views.publish)
)
