"""Reports of errors without secrets: Django's page where DEBUG is true, and its mails to the admins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.utils.html import escape
from django.views.debug import ExceptionReporter, SafeExceptionReporterFilter

from streams.redaction import hide

HIDDEN = SafeExceptionReporterFilter.cleansed_substitute

# Shorter ones would be found all over a report, in what is none.
MIN_SECRET_CHARACTERS = 6


class Reporter(ExceptionReporter):
    """Django hides what has the name of a secret. This hides the secrets themselves, wherever they stand: a password
    within an address, a key in a variable of one of the stack's functions."""

    def get_traceback_html(self) -> str:
        return self._hidden(super().get_traceback_html(), escape)

    def get_traceback_text(self) -> str:
        return self._hidden(super().get_traceback_text(), str)

    def _hidden(self, report: str, spelt: Any) -> str:
        for secret in (*_of_the_site(), *_of_the_request(self.request)):
            if secret and len(secret) >= MIN_SECRET_CHARACTERS:
                for spelling in (secret, unquote(secret), repr(secret)[1:-1]):
                    report = report.replace(spelt(spelling), HIDDEN)
        return hide(report)  # signed tokens of streams, which may stand in addresses


def _of_the_site() -> Iterator[str | None]:
    yield settings.SECRET_KEY
    yield from settings.SECRET_KEY_FALLBACKS
    for database in settings.DATABASES.values():
        yield database.get("PASSWORD")
    yield urlsplit(settings.REDIS_URL).password
    for upstream in settings.STREAMS.get("UPSTREAMS", {}).values():
        yield upstream.get("OPTIONS", {}).get("api_key")


def _of_the_request(request: Any) -> Iterator[str | None]:
    if request is not None:
        yield request.COOKIES.get(settings.SESSION_COOKIE_NAME)
        yield request.headers.get("Authorization", "").partition(" ")[2]
