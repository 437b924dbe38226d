"""Findings about the user: can they read the channel?"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from asgiref.sync import async_to_sync
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.backends.base import SessionBase
from django.http import HttpRequest, QueryDict
from django.utils.translation import gettext as _

from streams.admin.diagnosis.findings import SHOWN_CHARACTERS, Finding, bad, good
from streams.policies import get_policy
from streams.private.django import empty_form
from streams.protocol.events import private_prefix
from streams.templatetags.streams_admin import shorten

logger = logging.getLogger("streams")

# The parts of a request that identify its sender: headers, their copies in META, and additions to an ASGI scope.
PRIVATE_HEADERS = (b"cookie", b"authorization", b"proxy-authorization")
PRIVATE_META = ("HTTP_COOKIE", "HTTP_AUTHORIZATION", "HTTP_PROXY_AUTHORIZATION", "REMOTE_USER")
PRIVATE_SCOPE = ("cookies", "session", "user")


def check_user(channel: str, request: HttpRequest, user: Any, label: str) -> Iterator[Finding]:
    """Check whether `user` can read the channel. `label` names the user in the findings; "" for the username."""
    name = (label or user.get_username()) if user.is_authenticated else _("A visitor who is not logged in")
    values = {"user": name, "channel": channel}
    if user.is_authenticated and not user.is_active:
        yield bad(
            _("The account of %(user)s is not active. They are treated as a visitor who is not logged in.") % values,
            _("Activate the account if it should be used."),
        )
        user = AnonymousUser()  # as in ModelBackend.get_user()
    try:
        refused = channels_refused_to(request, user, (channel,))
        readers = get_policy().describe_readers(channel) if refused else ""
    except Exception as error:
        logger.warning("The policy failed during a diagnosis.", exc_info=True)
        yield bad(
            _("Cannot check whether %(user)s can read %(channel)s: the policy raised %(error)s.")
            % {**values, "error": shorten(f"{type(error).__name__}: {error}", SHOWN_CHARACTERS)},
            _("Fix the policy in STREAMS['POLICY']. Until then, such requests get an error instead of a stream."),
        )
        return
    if not refused:
        yield good(
            _("%(user)s can read %(channel)s according to the current policy.") % values,
            _(
                "A policy that checks more than the user, such as an address or a token, might decide differently for "
                "their requests."
            ),
        )
        return
    remedy = _(
        "Change the readers in the channel’s settings, or change the policy. A stream of several channels is refused "
        "if one of them is refused."
    )
    if private_prefix(channel):
        remedy = _(
            "The channel belongs to one user or to one answer, so its settings cannot open it to others. Publish to a "
            "channel that they can read, or change the policy."
        )
    yield bad(
        _("%(user)s cannot read %(channel)s. Readers: %(readers)s.") % {**values, "readers": readers},
        remedy,
    )


def channels_refused_to(request: HttpRequest, user: Any, channels: Sequence[str]) -> list[str]:
    """Return those of `channels` that `user` cannot read. `request` can be any request to this site. This blocks."""
    # The same method of the policy that the view of a stream calls.
    return async_to_sync(get_policy().adenied_channels)(_request_for(request, user), channels)


def _request_for(request: HttpRequest, user: Any) -> HttpRequest:
    """Return a plain GET request like `request` that belongs to `user`, without any data of the original sender."""
    copied = copy.copy(request)
    empty_form(copied)

    async def auser() -> Any:
        return user

    copied.user, copied.auser = user, auser
    copied.session = SessionBase()  # an empty session
    copied.method = "GET"
    copied.GET, copied.COOKIES = QueryDict(), {}
    copied.META = {name: value for name, value in request.META.items() if name not in PRIVATE_META}
    copied.META["QUERY_STRING"] = ""
    # WSGIRequest and ASGIRequest also keep the server's original data.
    if hasattr(request, "environ"):
        copied.environ = copied.META  # type: ignore[attr-defined]
    if hasattr(request, "scope"):
        copied.scope = _scope_for(request.scope)  # type: ignore[attr-defined]
    return copied


def _scope_for(scope: Mapping[str, Any]) -> dict[str, Any]:
    headers = [(name, value) for name, value in scope.get("headers", ()) if name.lower() not in PRIVATE_HEADERS]
    kept = {name: value for name, value in scope.items() if name not in PRIVATE_SCOPE}
    return {**kept, "method": "GET", "query_string": b"", "headers": headers}
