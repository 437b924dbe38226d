"""Access to the relay: by a key in the Authorization header, or by the session's user and the CSRF token.

Models cost money, so access is denied by default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from django.core import signing
from django.http import HttpRequest
from django.middleware.csrf import CsrfViewMiddleware
from django.utils.module_loading import import_string

from streams.exceptions import HTTPError
from streams.http.client_address import address_key, client_address
from streams.relay.conf import settings
from streams.runtime import clock
from streams.tokens import bearer, fingerprint, user_with_fingerprint

KEY_SALT = "streams.relay.key"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Principal:
    """The user who makes a request, or None for an anonymous one. Limits count by `key`, which is stored in tables and
    therefore contains no IP address."""

    user: Any
    key: str


class BaseAccess:
    """Decides who can use the relay. Subclass it, and name the subclass in STREAMS['RELAY_ACCESS']."""

    def may_use(self, request: HttpRequest, user: Any) -> bool:
        """Return True if `user`, which is None for an anonymous request, can use the relay. It can use the ORM."""
        return False


class LoggedIn(BaseAccess):
    """Admits users who are logged in or whose key the request has."""

    def may_use(self, request: HttpRequest, user: Any) -> bool:
        return user is not None


class Everyone(BaseAccess):
    """Admits everyone. For upstreams that cost nothing."""

    def may_use(self, request: HttpRequest, user: Any) -> bool:
        return True


# These rules use no ORM, so they run on the event loop. A subclass with a rule of its own does not have these methods.
_RULES_WITHOUT_ORM = (LoggedIn.may_use, Everyone.may_use)


async def admit(request: HttpRequest) -> Principal:
    """Return the principal if RELAY_ACCESS admits it. Raises HTTPError: 401 or 403."""
    access = _access()
    key, user = await _sender(request)
    return await _run(_admitted, request, key, user, access, in_thread=_has_sender(key, user) or _uses_orm(access))


async def check_access(request: HttpRequest, principal: Principal) -> None:
    """Raise HTTPError, 401 or 403, if the site's RELAY_ACCESS does not admit the principal."""
    access = _access()
    await _run(_check_access, request, principal, access, in_thread=_uses_orm(access))


async def identify(request: HttpRequest) -> Principal:
    """Return the principal, by key or session. Raises HTTPError: 401 for an invalid key, 403 without the CSRF token.

    If the request has a key, its session does not count. An unsafe request with a session needs the CSRF token, because
    another site's page could have sent it (RFC 9110, section 9.2.1, defines safe methods).
    """
    key, user = await _sender(request)
    return await _run(_identified, request, key, user, in_thread=_has_sender(key, user))


async def _run(fn: Callable[..., T], *args: Any, in_thread: bool) -> T:
    """Call a function that uses the ORM. Call it only once in a request: each change of threads delays all requests."""
    return await sync_to_async(fn)(*args) if in_thread else fn(*args)


async def _sender(request: HttpRequest) -> tuple[str | None, Any]:
    """Return the request's key, unchecked, or the session's active user. Both are None for an anonymous request."""
    if (key := bearer(request)) is not None:
        return key, None
    user = await request.auser()
    return None, user if user.is_authenticated and user.is_active else None


def _has_sender(key: str | None, user: Any) -> bool:
    return key is not None or user is not None


def _access() -> BaseAccess:
    access: BaseAccess = import_string(settings.RELAY_ACCESS)()
    return access


def _uses_orm(access: BaseAccess) -> bool:
    return type(access).may_use not in _RULES_WITHOUT_ORM


def _admitted(request: HttpRequest, key: str | None, user: Any, access: BaseAccess) -> Principal:
    try:
        principal = _identified(request, key, user)
    except HTTPError as refusal:
        # Clients such as OpenAI's always send a key. If everyone is admitted, an unknown key counts as anonymous.
        principal = _anonymous(request)
        if refusal.status != 401 or not access.may_use(request, None):
            raise
    _check_access(request, principal, access)
    return principal


def _check_access(request: HttpRequest, principal: Principal, access: BaseAccess) -> None:
    if not access.may_use(request, principal.user):
        if principal.user is None:
            raise HTTPError(
                401, "not-logged-in", "Log in, or send a key as `Authorization: Bearer …`, to have an answer."
            )
        raise HTTPError(403, "forbidden", "You do not have permission to get answers here (STREAMS['RELAY_ACCESS']).")


def _identified(request: HttpRequest, key: str | None, user: Any) -> Principal:
    if key is not None:
        user = user_of_key(key)
    elif user is not None:
        _check_csrf(request)
    return _anonymous(request) if user is None else Principal(user, f"user {user.pk}")


def _anonymous(request: HttpRequest) -> Principal:
    return Principal(None, address_key(client_address(request)))


class _CsrfCheck(CsrfViewMiddleware):
    def _reject(self, request: HttpRequest, reason: str) -> Any:
        return reason  # instead of the middleware's HTML page


def _check_csrf(request: HttpRequest) -> None:
    """Check the CSRF token as CsrfViewMiddleware does. The views are exempt from it, because keys need no token."""
    check = _CsrfCheck(lambda request: None)  # type: ignore[arg-type]
    check.process_request(request)
    reason = check.process_view(request, None, (), {})  # type: ignore[arg-type]
    if reason is not None:
        raise HTTPError(403, "csrf", f"Send the CSRF token as the header X-CSRFToken. {reason}")


# --- Keys, for programs such as the `openai` client ---


def make_key(user: Any, seconds: float) -> str:
    """Return a key for programs of `user`. It is valid for `seconds`, and until the password changes."""
    content = {"user": str(user.pk), "hash": fingerprint(user), "until": clock.time() + seconds}
    return signing.dumps(content, salt=KEY_SALT)


def user_of_key(key: str) -> Any:
    """Return the active user for whom `key` was made. Raises HTTPError: 401. Uses the ORM."""
    refusal = HTTPError(
        401,
        "invalid-key",
        "This key has expired, or was not issued by this site. `manage.py create_relay_key` makes one.",
    )
    try:
        content = signing.loads(key, salt=KEY_SALT)
    except signing.BadSignature:
        raise refusal from None
    user = user_with_fingerprint(content["user"], content["hash"])
    if user is None or content["until"] < clock.time():
        raise refusal
    return user
