"""Signed tokens: what their bearer may read and publish, in whose name, and until when.

    make_token(read=["job.17"], user=request.user, seconds=600)

An EventSource can send no header, so that a token may stand in the URL: `events/job.17/?token=…`; whoever can sends
`Authorization: Bearer …`. This module makes them, reads them, takes them back, and finds them in requests; what they
are good for, the policy says.
"""

from __future__ import annotations

import datetime
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlencode

from django.contrib.auth import get_user_model
from django.core import signing
from django.core.exceptions import ValidationError
from django.db.models.functions import Now
from django.http import HttpRequest, QueryDict
from django.utils.crypto import constant_time_compare

from streams import threads
from streams.conf import settings
from streams.events import validate_channel
from streams.exceptions import InvalidChannel, InvalidToken
from streams.models import RevokedToken
from streams.redaction import PARAMETER, PREFIX
from streams.runtime import test_run
from streams.threads import database

SALT = "streams.tokens"

# Servers and proxies take request lines of 8 KiB at the least.
MAX_CHARACTERS = 4096

# Where a request keeps what was found: a token and its user, None, or the error.
KEPT = "_streams_token"

# By how much the clocks of a site's machines may differ.
CLOCK_SECONDS = 60.0

# For how long a revoked token's row outlives the token. Each process compares a token's end with its own clock, and one
# whose clock is slow by less than this still finds the row.
KEPT_REVOKED_SECONDS = 86_400.0

# As much of the hash of a password's hash as tells one password from another. It is signed, and no secret.
MARK_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says. `read`, `publish`: names of channels, or patterns. `user`: a primary key as text, or None.
    `expires_at`: in Unix seconds."""

    id: str
    read: tuple[str, ...]
    publish: tuple[str, ...]
    user: str | None
    expires_at: float
    mark: str | None = None  # of the user's password

    def may_read(self, channel: str) -> bool:
        return any(fnmatchcase(channel, pattern) for pattern in self.read)

    def may_publish(self, channel: str) -> bool:
        return any(fnmatchcase(channel, pattern) for pattern in self.publish)


# --- Making and reading them, without any I/O -------------------------------------------------------------------------


def make_token(
    *,
    read: Iterable[str] = (),
    publish: Iterable[str] = (),
    user: Any = None,
    seconds: float | None = None,
    id: str | None = None,
) -> str:
    """A token with which its bearer may read some channels and publish to some, for a while.

    Args:
        read, publish: names of channels, or patterns in which `*` stands for any characters, such as `score.*`.
        user: the user in whose name. The token holds for as long as this user is active and keeps the password.
        seconds: its lifetime; TOKEN_SECONDS where not given, at most MAX_TOKEN_SECONDS.
        id: the id by which it is revoked, at most 64 characters. By default it is random.

    Raises:
        ValueError: for what is no name, nothing to read or to publish, or too long a life. Nobody is asked whether the
            bearer may: whoever runs code can make tokens.
    """
    most = settings.MAX_TOKEN_SECONDS
    seconds = min(settings.TOKEN_SECONDS, most) if seconds is None else seconds
    if not 0 < seconds <= most:
        raise ValueError(f"A token lives for above 0 and at most {most} seconds (MAX_TOKEN_SECONDS); got {seconds!r}.")
    told: dict[str, Any] = {
        "i": id or secrets.token_urlsafe(12),
        "r": _check_patterns(read),
        "p": _check_patterns(publish),
        "e": round(time.time() + seconds, 3),
    }
    if not told["r"] and not told["p"]:
        raise ValueError("A token names at least one channel to read or to publish to.")
    if user is not None:
        told |= {"u": str(user.pk), "m": mark_of(user)}
    text = PREFIX + signing.dumps(told, salt=SALT, compress=False)
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"A token has at most {MAX_CHARACTERS} characters, for it stands in URLs; use patterns.")
    return text


def read_token(text: str) -> Token:
    """What a token says. Raises InvalidToken where it is none of this site's, or has expired.

    Whether it was revoked, and whether its user still is who it was, check_token() asks the database.
    """
    try:
        if len(text) > MAX_CHARACTERS or not text.startswith(PREFIX):
            raise signing.BadSignature
        told = signing.loads(text.removeprefix(PREFIX), salt=SALT)
        token = Token(told["i"], tuple(told["r"]), tuple(told["p"]), told.get("u"), told["e"], told.get("m"))
    except (signing.BadSignature, KeyError, TypeError, ValueError):
        raise InvalidToken(
            "invalid-token", "This token is none of this site's, or is not whole. Ask for a new one."
        ) from None
    left = token.expires_at - time.time()
    # A longer life is none of now: the setting was lowered since, and what was revoked is not kept for as long.
    if not 0 < left <= settings.MAX_TOKEN_SECONDS + CLOCK_SECONDS:
        raise InvalidToken("expired-token", "This token has expired. Ask for a new one.")
    return token


def is_pattern(name: str) -> bool:
    """Whether it may match more than one channel."""
    return "*" in name


def _check_patterns(names: Iterable[str]) -> list[str]:
    if isinstance(names, str):
        raise ValueError(f"Channels come as a list of names; got the text {names!r}.")
    checked = list(dict.fromkeys(names))
    if len(checked) > (most := settings.MAX_CHANNELS_PER_STREAM):
        raise ValueError(f"A token names at most {most} channels (MAX_CHANNELS_PER_STREAM); got {len(checked)}.")
    return [validate_pattern(name) for name in checked]


def validate_pattern(name: object) -> str:
    """Return `name`, a channel's or a pattern, or raise ValueError."""
    try:
        validate_channel(name.replace("*", "x") if isinstance(name, str) else name)
    except InvalidChannel:
        rule = "A channel's name uses A-Z a-z 0-9 . _ - and at most 99 characters; in a pattern, * is for any of them"
        raise ValueError(f"{rule}; got {name!r:.120}.") from None
    return str(name)


# --- Users ------------------------------------------------------------------------------------------------------------


def mark_of(user: Any) -> str:
    """What changes with the user's password."""
    mark: str = user.get_session_auth_hash()[:MARK_CHARACTERS]
    return mark


def user_of(pk: str, mark: str | None) -> Any:
    """The active user whose password had this mark; None where there is none. Uses the ORM."""
    user = active_user(get_user_model(), pk)
    if user is None or mark is None:
        return None
    hashes = [user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()]
    return user if any(constant_time_compare(mark, each[:MARK_CHARACTERS]) for each in hashes) else None


def active_user(model: Any, pk: object) -> Any:
    """The active user with this primary key; None where there is none. `model`: of any kind. Uses the ORM."""
    try:
        user = model._default_manager.filter(pk=pk).first()
    except (TypeError, ValueError, OverflowError, ValidationError):  # a key of another kind of user
        return None
    # Not asked of the database: a site's own kind of user may have `is_active` without a column.
    return user if user is not None and user.is_active else None


# --- Taking them back -------------------------------------------------------------------------------------------------

MAX_ID_CHARACTERS = 64

# The ids of tokens that were found not to be taken back, and when: each process asks once in POLL_SECONDS.
_found_good: OrderedDict[str, float] = OrderedDict()
_changes = 0  # that this process knows of
_lock = threading.Lock()  # held for moments

MAX_FOUND_GOOD = 10_000


def revoke(token_id: str, expires_at: float | None = None) -> None:
    """Have a token hold no more, from the commit on. Other processes find out within POLL_SECONDS.

    `expires_at`: the token's own, where it is known. Open streams of it are revocation.disconnect()'s business.
    """
    if not 0 < len(token_id) <= MAX_ID_CHARACTERS:
        raise ValueError(f"A token's id has 1 to {MAX_ID_CHARACTERS} characters; got {len(token_id)}.")
    until: Any = Now() + datetime.timedelta(seconds=settings.MAX_TOKEN_SECONDS + CLOCK_SECONDS)
    if expires_at is not None:
        until = datetime.datetime.fromtimestamp(expires_at, datetime.UTC)
    rows = RevokedToken.objects.using(database())
    rows.bulk_create([RevokedToken(id=token_id, expires_at=until)], ignore_conflicts=True)
    # By the database's clock, and not at once: a process with a slow clock still takes the token for valid.
    rows.filter(expires_at__lt=Now() - datetime.timedelta(seconds=KEPT_REVOKED_SECONDS)).delete()
    forget_revoked()


def is_revoked(token_id: str) -> bool:
    """Whether it was taken back, as of POLL_SECONDS ago at the most. Uses the ORM."""
    if _is_known_good(token_id):
        return False
    changes, asked_at = _changes, time.monotonic()
    if RevokedToken.objects.using(database()).filter(id=token_id).exists():
        return True
    with _lock:
        if changes == _changes:  # else what was read may be from before
            _found_good[token_id] = asked_at
            _found_good.move_to_end(token_id)
            while len(_found_good) > MAX_FOUND_GOOD:
                _found_good.popitem(last=False)
    return False


def _is_known_good(token_id: str) -> bool:
    """Whether that was found out, and not too long ago. Without the ORM."""
    asked_at = _found_good.get(token_id, float("-inf"))
    return time.monotonic() - asked_at < test_run.strategy().cache_seconds(settings.POLL_SECONDS)


def forget_revoked() -> None:
    """Ask the database again about every token."""
    global _changes
    with _lock:
        _changes += 1
        _found_good.clear()


# --- Requests ---------------------------------------------------------------------------------------------------------


def check_token(token: Token) -> Any:
    """The token's user, None where it has none. Raises InvalidToken where it holds no more. Uses the ORM."""
    if token.expires_at <= time.time():
        raise InvalidToken("expired-token", "This token has expired. Ask for a new one.")
    if is_revoked(token.id):
        raise InvalidToken("revoked-token", "This token was revoked. Ask for a new one.")
    if token.user is None:
        return None
    if (user := user_of(token.user, token.mark)) is None:
        raise InvalidToken("revoked-token", "This token's user is not active any more, or has a new password.")
    return user


async def _acheck_token(token: Token) -> Any:
    """See check_token(). Without a thread where the token has no user, and was looked at a moment ago."""
    if token.user is None and _is_known_good(token.id):
        return None
    return await threads.run(check_token, token)


def token_of(request: HttpRequest) -> Token | None:
    """The token that a request carries, checked once; None where it carries none. Raises InvalidToken. Uses the ORM.

    It is taken out of the request's query then, so that no log of it and no error report shows it.
    """
    kept = request.__dict__
    if KEPT not in kept:
        text = _take_text(request)
        try:
            kept[KEPT] = None if text is None else _checked(text)
        except InvalidToken as error:
            kept[KEPT] = error
    if isinstance(found := kept[KEPT], InvalidToken):
        raise found
    return None if found is None else found[0]


async def atoken_of(request: HttpRequest) -> Token | None:
    """See token_of(). Without a thread where there is no token, or mostly where it has no user."""
    kept = request.__dict__
    if KEPT not in kept:
        text = _take_text(request)
        try:
            if text is None:
                kept[KEPT] = None
            else:
                token = read_token(text)
                kept[KEPT] = token, await _acheck_token(token)
        except InvalidToken as error:
            kept[KEPT] = error
    return token_of(request)


def put(request: HttpRequest, token: Token) -> None:
    """Give a request a token that another one carried, checked anew. Raises InvalidToken. Uses the ORM."""
    request.__dict__[KEPT] = (token, check_token(token))


def user_of_token(request: HttpRequest) -> Any:
    """The user of the token that token_of() has found; None where there is none."""
    return found[1] if isinstance(found := request.__dict__.get(KEPT), tuple) else None


def _checked(text: str) -> tuple[Token, Any]:
    token = read_token(text)
    return token, check_token(token)


def bearer(request: HttpRequest) -> str | None:
    """Return the Authorization header's credentials if their scheme is Bearer (RFC 6750), or None."""
    kind, _, credentials = request.headers.get("Authorization", "").partition(" ")
    return credentials.strip() if kind.lower() == "bearer" else None


def find_text(request: HttpRequest) -> str | None:
    """Return the text of the signed token in the header or in the URL, unchecked, or None."""
    candidates = (bearer(request) or "", *request.GET.getlist(PARAMETER))
    return next((text for text in candidates if text.startswith(PREFIX)), None)


def _take_text(request: HttpRequest) -> str | None:
    text = find_text(request)
    if text is not None and PARAMETER in request.GET:
        _hide(request)
    return text


def _hide(request: HttpRequest) -> None:
    """Take the token out of the query, wherever somebody may read it later: a server that logs the request when it has
    been answered, Django's page for an error, a reporter of errors."""
    query = urlencode([(name, values) for name, values in request.GET.lists() if name != PARAMETER], doseq=True)
    request.GET = QueryDict(query, mutable=False)
    request.META["QUERY_STRING"] = query
    scope = getattr(request, "scope", None)
    if isinstance(scope, dict) and "query_string" in scope:
        scope["query_string"] = query.encode("ascii")
