"""Error reports without secrets: for Django's debug page and for its emails to the admins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.utils.html import escape
from django.views.debug import ExceptionReporter, SafeExceptionReporterFilter

from streams.redaction import hide

HIDDEN = SafeExceptionReporterFilter.cleansed_substitute

# Shorter secrets would match many unrelated parts of a report.
MIN_SECRET_CHARACTERS = 6


class Reporter(ExceptionReporter):
    """Hide the values of secrets anywhere in a report, for example in a URL or in a local variable.

    Django itself only hides settings and variables whose names suggest a secret.
    """

    def get_traceback_html(self) -> str:
        return self._hidden(super().get_traceback_html(), escape)

    def get_traceback_text(self) -> str:
        return self._hidden(super().get_traceback_text(), str)

    def _hidden(self, report: str, quote: Any) -> str:
        for secret in (*_site_secrets(), *_request_secrets(self.request)):
            if secret and len(secret) >= MIN_SECRET_CHARACTERS:
                for spelling in (secret, unquote(secret), repr(secret)[1:-1]):
                    report = report.replace(quote(spelling), HIDDEN)
        return hide(report)  # the signed tokens of streams can be part of URLs


def _site_secrets() -> Iterator[str | None]:
    yield settings.SECRET_KEY
    yield from settings.SECRET_KEY_FALLBACKS
    for database in settings.DATABASES.values():
        yield database.get("PASSWORD")
    yield urlsplit(settings.REDIS_URL).password
    for upstream in settings.STREAMS.get("UPSTREAMS", {}).values():
        yield upstream.get("OPTIONS", {}).get("api_key")


def _request_secrets(request: Any) -> Iterator[str | None]:
    if request is not None:
        yield request.COOKIES.get(settings.SESSION_COOKIE_NAME)
        yield request.headers.get("Authorization", "").partition(" ")[2]
