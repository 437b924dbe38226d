"""Signed tokens, which allow a client to read and publish to some channels until they expire.

    make_token(read=["job.17"], user=request.user, seconds=600)

An EventSource cannot send headers, so that a token can stand in the URL: `events/job.17/?token=…`. Other clients send
`Authorization: Bearer …`. The policy decides what a token allows.
"""

from __future__ import annotations

import datetime
import secrets
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from django.contrib.auth import get_user_model
from django.core import signing
from django.core.exceptions import ValidationError
from django.http import HttpRequest, QueryDict
from django.utils.crypto import constant_time_compare

from streams.conf import settings
from streams.exceptions import InvalidChannel, InvalidToken
from streams.models import RevokedToken
from streams.protocol.events import validate_channel
from streams.redaction import PARAMETER, PREFIX
from streams.runtime import clock, executor, test_run
from streams.runtime.executor import database

SALT = "streams.tokens"

# A token can stand in a URL, and servers and proxies accept request lines of at least 8 KiB.
MAX_CHARACTERS = 4096

# The attribute in which a request caches its token and the token's user, None, or the InvalidToken.
CACHE_ATTRIBUTE = "_streams_token"

# The clocks of a site's machines can differ by this much.
CLOCK_SECONDS = 60.0

# The row of a revoked token is kept for this long after the token has expired, for processes whose clock is slow.
KEPT_REVOKED_SECONDS = 86_400.0

# The length of a fingerprint: enough to tell one password from another. It is signed, and need not be secret.
FINGERPRINT_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class Token:
    """The contents of a token. `fingerprint` is that of the user's password when the token was made."""

    id: str
    read: tuple[str, ...]  # names and patterns
    publish: tuple[str, ...]
    user: str | None  # a primary key
    expires_at: float  # in Unix seconds
    fingerprint: str | None = None

    def may_read(self, channel: str) -> bool:
        return any(fnmatchcase(channel, pattern) for pattern in self.read)

    def may_publish(self, channel: str) -> bool:
        return any(fnmatchcase(channel, pattern) for pattern in self.publish)


def make_token(
    *,
    read: Iterable[str] = (),
    publish: Iterable[str] = (),
    user: Any = None,
    seconds: float | None = None,
    id: str | None = None,
) -> str:
    """Return a token that allows its bearer to read some channels, and to publish to some, until it expires.

    No policy is called. Code that makes a token decides what its bearer can do.

    Args:
        read, publish: names of channels, or patterns in which `*` stands for any characters, such as `score.*`.
        user: the bearer acts as this user. The token is valid while the user is active and keeps the password.
        seconds: the lifetime, by default TOKEN_SECONDS, at most MAX_TOKEN_SECONDS.
        id: the id by which the token can be revoked, at most 64 characters; by default random.

    Raises:
        ValueError: a name or the lifetime is not valid, no channel is given, or the token is too long for a URL.
    """
    limit = settings.MAX_TOKEN_SECONDS
    seconds = min(settings.TOKEN_SECONDS, limit) if seconds is None else seconds
    if not 0 < seconds <= limit:
        raise ValueError(f"A token lives for above 0 and at most {limit} seconds (MAX_TOKEN_SECONDS); got {seconds!r}.")
    contents: dict[str, Any] = {
        "i": id or secrets.token_urlsafe(12),
        "r": _check_patterns(read),
        "p": _check_patterns(publish),
        "e": round(clock.time() + seconds, 3),
    }
    if not contents["r"] and not contents["p"]:
        raise ValueError("A token names at least one channel to read or to publish to.")
    if user is not None:
        contents |= {"u": str(user.pk), "m": fingerprint(user)}
    text = PREFIX + signing.dumps(contents, salt=SALT, compress=False)
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"A token has at most {MAX_CHARACTERS} characters, because it stands in URLs. Use patterns.")
    return text


def read_token(text: str) -> Token:
    """Return the contents of a token, without a query. See check_token() for the rest.

    Raise InvalidToken if it was not issued by this site, is truncated, or has expired.
    """
    try:
        if len(text) > MAX_CHARACTERS or not text.startswith(PREFIX):
            raise signing.BadSignature
        contents = signing.loads(text.removeprefix(PREFIX), salt=SALT)
        read, publish = tuple(contents["r"]), tuple(contents["p"])
        token = Token(contents["i"], read, publish, contents.get("u"), contents["e"], contents.get("m"))
    except (signing.BadSignature, KeyError, TypeError, ValueError):
        raise InvalidToken(
            "invalid-token", "Invalid token: it was not issued by this site, or it is truncated. Ask for a new one."
        ) from None
    remaining = token.expires_at - clock.time()
    # If the setting was lowered later, a token can live for longer than its revocation would be kept.
    if not 0 < remaining <= settings.MAX_TOKEN_SECONDS + CLOCK_SECONDS:
        raise InvalidToken("expired-token", "This token has expired. Ask for a new one.")
    return token


def is_pattern(name: str) -> bool:
    """Return True if `name` can match more than one channel."""
    return "*" in name


def _check_patterns(names: Iterable[str]) -> list[str]:
    if isinstance(names, str):
        raise ValueError(f"Channels are a list of names; got the text {names!r}.")
    checked = list(dict.fromkeys(names))
    if len(checked) > (limit := settings.MAX_CHANNELS_PER_STREAM):
        raise ValueError(f"A token names at most {limit} channels (MAX_CHANNELS_PER_STREAM); got {len(checked)}.")
    return [validate_pattern(name) for name in checked]


def validate_pattern(name: object) -> str:
    """Return `name`, the name of a channel or a pattern. Raise ValueError if it is not valid."""
    try:
        validate_channel(name.replace("*", "x") if isinstance(name, str) else name)
    except InvalidChannel:
        raise ValueError(
            "A channel's name uses A-Z a-z 0-9 . _ - and at most 99 characters; in a pattern, * stands for any of "
            f"them; got {name!r:.120}."
        ) from None
    return str(name)


# --- Users ------------------------------------------------------------------------------------------------------------


def fingerprint(user: Any) -> str:
    """Return a short hash that changes with the user's password."""
    return str(user.get_session_auth_hash())[:FINGERPRINT_CHARACTERS]


def user_with_fingerprint(pk: str, fingerprint: str | None) -> Any:
    """Return the active user with this key and password fingerprint; None if there is no such user. Uses the ORM."""
    user = active_user(get_user_model(), pk)
    if user is None or fingerprint is None:
        return None
    hashes = [user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()]
    return user if any(constant_time_compare(fingerprint, each[:FINGERPRINT_CHARACTERS]) for each in hashes) else None


def active_user(model: Any, pk: object) -> Any:
    """Return the active user of `model` with this primary key; None if there is no such user. Uses the ORM."""
    try:
        user = model._default_manager.filter(pk=pk).first()
    except (TypeError, ValueError, OverflowError, ValidationError):  # a key of another user model
        return None
    # This is not part of the query, because `is_active` of a custom user model need not be a column.
    return user if user is not None and user.is_active else None


# --- Revoking tokens --------------------------------------------------------------------------------------------------

MAX_ID_CHARACTERS = 64

# The ids of tokens that are not revoked, each with the time of the query. A process queries once in POLL_SECONDS.
_known_valid: dict[str, float] = {}
_changes = 0  # the number of revocations that this process knows of
_lock = threading.Lock()  # held only briefly
MAX_KNOWN_VALID = 10_000


def revoke(token_id: str, expires_at: float | None = None) -> None:
    """Revoke a token from the commit on. Other processes notice within POLL_SECONDS. disconnect() ends its streams too.

    `expires_at`: in Unix seconds, if it is known. Raise ValueError if `token_id` does not have 1 to 64 characters.
    """
    if not 0 < len(token_id) <= MAX_ID_CHARACTERS:
        raise ValueError(f"A token's id has 1 to {MAX_ID_CHARACTERS} characters; got {len(token_id)}.")
    until: Any = clock.stored_now() + datetime.timedelta(seconds=settings.MAX_TOKEN_SECONDS + CLOCK_SECONDS)
    if expires_at is not None:
        until = datetime.datetime.fromtimestamp(expires_at, datetime.UTC)
    rows = RevokedToken.objects.using(database())
    rows.bulk_create([RevokedToken(id=token_id, expires_at=until)], ignore_conflicts=True)
    # The database's clock decides, and rows stay for a while: to a process with a slow clock, the token is still valid.
    rows.filter(expires_at__lt=clock.stored_now() - datetime.timedelta(seconds=KEPT_REVOKED_SECONDS)).delete()
    forget_revoked()


def is_revoked(token_id: str) -> bool:
    """Return True if the token is revoked. The answer is at most POLL_SECONDS old. Uses the ORM."""
    if _is_known_valid(token_id):
        return False
    changes, queried_at = _changes, time.monotonic()
    if RevokedToken.objects.using(database()).filter(id=token_id).exists():
        return True
    with _lock:
        if changes == _changes:  # otherwise the answer can be older than a revocation
            _known_valid.pop(token_id, None)
            _known_valid[token_id] = queried_at  # at the end
            if len(_known_valid) > MAX_KNOWN_VALID:
                del _known_valid[next(iter(_known_valid))]
    return False


def _is_known_valid(token_id: str) -> bool:
    """Return True if a query in the last POLL_SECONDS found that the token is not revoked. Does not use the ORM."""
    queried_at = _known_valid.get(token_id, float("-inf"))
    return time.monotonic() - queried_at < test_run.strategy().cache_seconds(settings.POLL_SECONDS)


def forget_revoked() -> None:
    """Query the database again for every token."""
    global _changes
    with _lock:
        _changes += 1
        _known_valid.clear()


# --- Requests ---------------------------------------------------------------------------------------------------------


def check_token(token: Token) -> Any:
    """Return the token's user, or None if it has none. Uses the ORM.

    Raise InvalidToken if it has expired or is revoked, or if its user is inactive or has a new password.
    """
    if token.expires_at <= clock.time():
        raise InvalidToken("expired-token", "This token has expired. Ask for a new one.")
    if is_revoked(token.id):
        raise InvalidToken("revoked-token", "This token was revoked. Ask for a new one.")
    if token.user is None:
        return None
    if (user := user_with_fingerprint(token.user, token.fingerprint)) is None:
        raise InvalidToken("revoked-token", "This token's user is not active any more, or has a new password.")
    return user


def token_of(request: HttpRequest) -> Token | None:
    """Return the request's token, or None if it has none. It is checked at the first call. Uses the ORM.

    The token is removed from the request's query, so that no log or error report shows it. Raise InvalidToken as
    read_token() and check_token() do.
    """
    attributes = request.__dict__
    if CACHE_ATTRIBUTE not in attributes:
        try:
            if (token := _take_token(request)) is not None:
                attach_token(request, token)
        except InvalidToken as error:
            attributes[CACHE_ATTRIBUTE] = error
    if isinstance(found := attributes[CACHE_ATTRIBUTE], InvalidToken):
        raise found
    return None if found is None else found[0]


async def atoken_of(request: HttpRequest) -> Token | None:
    """See token_of(). It needs no thread if there is no token, and rarely one if the token has no user."""
    attributes = request.__dict__
    if CACHE_ATTRIBUTE not in attributes:
        try:
            if (token := _take_token(request)) is not None:
                is_checked = token.user is None and _is_known_valid(token.id)  # a moment ago
                attributes[CACHE_ATTRIBUTE] = token, None if is_checked else await executor.run(check_token, token)
        except InvalidToken as error:
            attributes[CACHE_ATTRIBUTE] = error
    return token_of(request)


def attach_token(request: HttpRequest, token: Token) -> None:
    """Check a token, and let it count as the request's own. Raises InvalidToken. Uses the ORM."""
    request.__dict__[CACHE_ATTRIBUTE] = (token, check_token(token))


def user_of_token(request: HttpRequest) -> Any:
    """Return the user of the token that token_of() has found, or None."""
    return found[1] if isinstance(found := request.__dict__.get(CACHE_ATTRIBUTE), tuple) else None


def bearer(request: HttpRequest) -> str | None:
    """Return the Authorization header's credentials if their scheme is Bearer (RFC 6750), or None."""
    kind, _, credentials = request.headers.get("Authorization", "").partition(" ")
    return credentials.strip() if kind.lower() == "bearer" else None


def find_text(request: HttpRequest) -> str | None:
    """Return the text of the signed token in the header or in the URL, unchecked, or None."""
    candidates = (bearer(request) or "", *request.GET.getlist(PARAMETER))
    return next((text for text in candidates if text.startswith(PREFIX)), None)


def _take_token(request: HttpRequest) -> Token | None:
    """Return the request's token, unchecked, and remove it from the query. If there is none, cache None."""
    text = find_text(request)
    if text is None:
        request.__dict__[CACHE_ATTRIBUTE] = None
        return None
    if PARAMETER in request.GET:
        _hide(request)
    return read_token(text)


def _hide(request: HttpRequest) -> None:
    """Remove the token from the query, wherever access logs, Django's error page and error trackers look for it."""
    query = request.GET.copy()
    query.pop(PARAMETER, None)
    text = query.urlencode()
    request.GET = QueryDict(text)
    request.META["QUERY_STRING"] = text
    scope = getattr(request, "scope", None)
    if isinstance(scope, dict) and "query_string" in scope:
        scope["query_string"] = text.encode("ascii")
