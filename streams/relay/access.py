"""Who may have an answer: by a key in the Authorization header, or by the session's user and the CSRF token.

Models cost money, so that nobody may who is not admitted. What is refused, and why, is decided here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from asgiref.sync import sync_to_async
from django.core import signing
from django.http import HttpRequest
from django.middleware.csrf import CsrfViewMiddleware
from django.utils.module_loading import import_string

from streams.addresses import address_key, client_address
from streams.exceptions import HTTPError
from streams.relay.conf import settings
from streams.tokens import mark_of, user_of

KEY_SALT = "streams.relay.key"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `user` is None for somebody unknown. Limits count by `key`, and tables hold it: it has no address."""

    user: Any
    key: str


class BaseAccess:
    """Decides who may have answers. Subclass it, and name the subclass in STREAMS['RELAY_ACCESS']."""

    def may_use(self, request: HttpRequest, user: Any) -> bool:
        """Whether `user`, None for somebody unknown, may. May use the ORM."""
        return False


class SignedIn(BaseAccess):
    """Users who are signed in, or whose key the request carries."""

    def may_use(self, request: HttpRequest, user: Any) -> bool:
        return user is not None


class Everyone(BaseAccess):
    """Everyone. For upstreams that cost nothing."""

    def may_use(self, request: HttpRequest, user: Any) -> bool:
        return True


async def admit(request: HttpRequest) -> Principal:
    """The caller who asks for an answer. Raises HTTPError: 401 or 403."""
    try:
        principal = await identify(request)
    except HTTPError as refusal:
        # Clients such as OpenAI's always send a key. Where everybody may ask, one that is none of ours asks as nobody.
        principal = _nobody(request)
        if refusal.status != 401 or not await _may_use(request, principal):
            raise
    await check_access(request, principal)
    return principal


async def check_access(request: HttpRequest, principal: Principal) -> None:
    """Raise HTTPError, 401 or 403, where the site's RELAY_ACCESS does not admit the principal."""
    if not await _may_use(request, principal):
        if principal.user is None:
            raise HTTPError(
                401, "not-signed-in", "Sign in, or send a key as `Authorization: Bearer …`, to have an answer."
            )
        raise HTTPError(403, "forbidden", "You may not have answers here (STREAMS['RELAY_ACCESS']).")


async def _may_use(request: HttpRequest, principal: Principal) -> bool:
    access: BaseAccess = import_string(settings.RELAY_ACCESS)()
    return bool(await sync_to_async(access.may_use)(request, principal.user))


async def identify(request: HttpRequest) -> Principal:
    """Who asks, by the key or by the session. Raises HTTPError: 401 for a key that is none, 403 without CSRF token.

    A request that names a key is judged by it alone. One that comes with a session may come from another site's page,
    unless it is a safe one or carries the token (RFC 9110, section 9.2.1).
    """
    if (key := bearer(request)) is not None:
        user = await sync_to_async(user_of_key)(key)
    else:
        user = await request.auser()
        user = user if user.is_authenticated and user.is_active else None
        if user is not None:
            await sync_to_async(_check_csrf)(request)
    return _nobody(request) if user is None else Principal(user, f"user {user.pk}")


def _nobody(request: HttpRequest) -> Principal:
    return Principal(None, address_key(client_address(request)))


def bearer(request: HttpRequest) -> str | None:
    """The credentials of the Authorization header, where it has some of the kind Bearer (RFC 6750)."""
    kind, _, credentials = request.headers.get("Authorization", "").partition(" ")
    return credentials.strip() if kind.lower() == "bearer" else None


class _CsrfCheck(CsrfViewMiddleware):
    def _reject(self, request: HttpRequest, reason: str) -> Any:
        return reason  # in place of the middleware's page


def _check_csrf(request: HttpRequest) -> None:
    """What CsrfViewMiddleware does, for a view that is exempt because others come to it without cookies."""
    check = _CsrfCheck(lambda request: None)  # type: ignore[arg-type]
    check.process_request(request)
    reason = check.process_view(request, None, (), {})  # type: ignore[arg-type]
    if reason is not None:
        raise HTTPError(403, "csrf", f"Send the CSRF token as the header X-CSRFToken. {reason}")


# --- Keys: what programs send, such as the `openai` client ---


def make_key(user: Any, seconds: float) -> str:
    """A key with which programs ask in the name of `user`, for so many seconds, or until the password changes."""
    told = {"user": str(user.pk), "hash": mark_of(user), "until": time.time() + seconds}
    return signing.dumps(told, salt=KEY_SALT)


def user_of_key(key: str) -> Any:
    """The active user in whose name `key` was made. Raises HTTPError: 401. Uses the ORM."""
    refusal = HTTPError(
        401, "invalid-key", "This key is none of this site's, or has expired. `manage.py create_relay_key` makes one."
    )
    try:
        told = signing.loads(key, salt=KEY_SALT)
    except signing.BadSignature:
        raise refusal from None
    user = user_of(told["user"], told["hash"])
    if user is None or told["until"] < time.time():
        raise refusal
    return user
