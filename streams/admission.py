"""By what a stream was admitted, and whether it still would be: its session, its user or its token, and the policy."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from streams import threads, tokens
from streams.callers import is_known, user_of
from streams.exceptions import InvalidToken
from streams.notifiers import Revocation
from streams.policies import BasePolicy
from streams.release import release_request
from streams.revocation import mark_of_session

NOBODY = ""


class Admission:
    """What admitted one stream. Made when the policy has said yes; asked again while the stream lives."""

    __slots__ = ("_channels", "_policy", "_request", "_session", "_token", "user")

    def __init__(self, request: HttpRequest, channels: Sequence[str], policy: BasePolicy) -> None:
        self._request = request
        self._channels = tuple(channels)
        self._policy = policy
        self._token = tokens.token_of(request)
        key = getattr(getattr(request, "session", None), "session_key", None)
        self._session = None if key is None else mark_of_session(key)
        # As text. NOBODY for somebody unknown; None where nobody has looked, so that it cost no query.
        self.user = known_user(request)

    def is_concerned(self, revocation: Revocation) -> bool | None:
        """Whether the stream is one of those meant. None: that depends on its user, who is still to be found out."""
        if revocation.channel is not None and revocation.channel not in self._channels:
            return False
        if revocation.token is not None and (self._token is None or self._token.id != revocation.token):
            return False
        if revocation.session is not None and revocation.session != self._session:
            return False
        if revocation.user is None:
            return True
        if self.user is not None:
            return self.user == revocation.user
        return None if self._session is not None else False

    async def holds(self, of_other_users_than: str | None = None) -> bool:
        """Whether the stream would still be admitted, by what the database says now.

        `of_other_users_than`: a primary key; it holds no more either where its user is this one.
        """
        async with _as_in_a_request():
            try:
                request = await self._anew()
                # Whoever was seen when the stream was opened: by a policy that does not ask for it as well, nobody goes
                # on reading who was deactivated, or whose session is another one's now.
                if self.user not in (None, NOBODY) or of_other_users_than is not None:
                    user = await sync_to_async(_look_at_user)(request)
                    if self.user not in (None, NOBODY, user) or user == of_other_users_than:
                        return False
                return not await self._policy.arefused(request, self._channels)
            except InvalidToken:
                return False

    async def _anew(self) -> HttpRequest:
        """The request as it would be if it came now: a copy with its session and its user still to be loaded."""
        # Not by copy.copy(), which leaves out what cannot be pickled, such as resolver_match.
        request = type(self._request).__new__(type(self._request))
        kept = request.__dict__
        kept.update(self._request.__dict__)
        if self._token is not None:
            await sync_to_async(tokens.put)(request, self._token)
        elif _is_lazy(request):
            for name in ("_cached_user", "_acached_user"):
                kept.pop(name, None)
            session: Any = kept["session"]
            kept["session"] = type(session)(session.session_key)
            AuthenticationMiddleware(lambda request: None).process_request(request)  # type: ignore[arg-type]
        elif (user := kept.get("user")) is not None and user.is_authenticated:
            # Somebody else's middleware has put it there, and we do not know from what. So much can be asked.
            kept["user"] = await sync_to_async(_active)(user)
        return request


def known_user(request: HttpRequest) -> str | None:
    """The primary key of the request's user, as text; NOBODY where there is none, None where nobody has asked yet."""
    if (user := user_of(request)) is not None:
        return str(user.pk)
    return NOBODY if is_known(request) else None


def _look_at_user(request: HttpRequest) -> str:
    if (user := tokens.user_of_token(request)) is not None:
        return str(user.pk)
    user = getattr(request, "user", None)
    return str(user.pk) if user is not None and user.is_authenticated and user.is_active else NOBODY


def _active(user: Any) -> Any:
    return type(user)._default_manager.filter(pk=user.pk, is_active=True).first() or AnonymousUser()


def _is_lazy(request: HttpRequest) -> bool:
    """Whether the request's user is the one of its session, as AuthenticationMiddleware has it."""
    kept = request.__dict__
    return isinstance(kept.get("user"), SimpleLazyObject) and getattr(request, "session", None) is not None


@contextlib.asynccontextmanager
async def _as_in_a_request() -> AsyncIterator[None]:
    """A thread and connections as those of a request, given back at the end."""
    if threads.in_test_run():  # which has them in a place of its own
        yield
        return
    async with ThreadSensitiveContext():
        try:
            yield
        finally:
            await release_request()
