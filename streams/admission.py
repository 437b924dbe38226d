"""By what a stream was admitted, and whether it still would be: its session, its user or its token, and the policy."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest

from streams import tokens
from streams.callers import is_known, seen_user, user_of
from streams.notifiers import Revocation
from streams.policies import BasePolicy
from streams.private.django import forget_loaded_user, has_sessions_user
from streams.release import abandon_thread, release_request
from streams.revocation import mark_of_session
from streams.runtime import test_run

NOBODY = ""


class Admission:
    """What admitted one stream. Made when the policy has said yes; asked again while the stream lives.

    `decided_at`: when the policy began to be asked, in time.monotonic() seconds.
    """

    __slots__ = (
        "_channels",
        "_policy",
        "_request",
        "_session",
        "_token",
        "decided_at",
        "session_user",
        "shared_key",
        "user",
    )

    def __init__(
        self, request: HttpRequest, channels: Sequence[str], policy: BasePolicy, decided_at: float | None = None
    ) -> None:
        self._request = request
        self._channels = tuple(channels)
        self._policy = policy
        self._token = tokens.token_of(request)
        self.decided_at = time.monotonic() if decided_at is None else decided_at
        key = getattr(getattr(request, "session", None), "session_key", None)
        self._session = None if key is None else mark_of_session(key)
        self.shared_key: Hashable | None = None  # shared_by(), as rechecks.py has noted it
        # Both as text; NOBODY for somebody unknown, None where nobody has looked, so that it cost no query. `user`: in
        # whose name the stream is, the token's user, or without a token the one who is signed in.
        self.user = known_user(request)
        self.session_user = self.user if self._token is None else _key_of(seen_user(request))

    def is_concerned(self, revocation: Revocation) -> bool | None:
        """Whether the stream is one of those meant. None: that depends on its user, who is still to be found out."""
        if revocation.channel is not None and revocation.channel not in self._channels:
            return False
        if revocation.token is not None and (self._token is None or self._token.id != revocation.token):
            return False
        if revocation.session is not None and revocation.session != self._session:
            return False
        if revocation.user is None or revocation.user == self.user:
            return True
        if not revocation.ends:
            # Whom nobody has looked at, nobody has judged the stream by.
            return revocation.user == self.session_user
        return None if self.user is None and self._session is not None else False

    async def holds(self, ended_user: str | None = None) -> bool:
        """See hold()."""
        return (await hold([(self, ended_user)]))[0]

    def shared_by(self) -> Hashable | None:
        """Return a key that is the same for streams about which one decision is right; None if this one is alone.

        They have the same session and token, and their policy looks at nothing else of a request. A request whose user
        comes from other code than the session is alone: Streams cannot tell where that code found the user.
        """
        if not self._policy.reads_by_user_alone() or not has_sessions_user(self._request):
            return None
        session = self._request.__dict__["session"]
        return type(self._policy), type(self._request), type(session), session.session_key, self._token

    def _must_know_user(self, ended_user: str | None) -> bool:
        # The user who was seen when the stream was opened: also under a policy that does not ask for the user, a user
        # who was deactivated, or whose session belongs to another user now, must not go on reading.
        return self.user not in (None, NOBODY) or ended_user is not None

    def _accepts(self, user: str, ended_user: str | None) -> bool:
        """Take note of the user as the database has it now. False if the stream's right ends with that."""
        if self.user not in (None, NOBODY, user) or user == ended_user:
            return False
        if self._token is None:
            self.user = self.session_user = user  # so that it need not be found out again
        return True

    async def _anew(self) -> HttpRequest:
        """The request as it would be if it came now: a copy with its session and its user still to be loaded."""
        # Not by copy.copy(), which leaves out what cannot be pickled, such as resolver_match.
        request = type(self._request).__new__(type(self._request))
        kept = request.__dict__
        kept.update(self._request.__dict__)
        if self._token is not None:
            await sync_to_async(tokens.put)(request, self._token)
        if has_sessions_user(request):
            forget_loaded_user(request)
            kept["session"] = _unchangeable(kept["session"])
            AuthenticationMiddleware(lambda request: None).process_request(request)  # type: ignore[arg-type]
        elif (user := seen_user(request)) is not None and user.is_authenticated:
            # Somebody else's middleware has put it there, and we do not know from what. So much can be asked.
            found = await sync_to_async(_still)(user)

            async def auser() -> Any:
                return found

            kept["user"], kept["auser"] = found, auser
        return request


async def hold(asked: Sequence[tuple[Admission, str | None]]) -> list[bool]:
    """Return for each whether its stream would still be admitted, by what the database says now.

    Within as_in_a_request(). All have the same shared_by(), or there is only one. With each goes the primary key of a
    user whose streams end, or None. Raises what the policy raises, except for Django's ways to refuse.
    """
    first = asked[0][0]
    try:
        request = await first._anew()
        user = None
        if any(admission._must_know_user(ended) for admission, ended in asked):
            user = await sync_to_async(_look_at_user)(request)
        holding = [
            user is None or not admission._must_know_user(ended) or admission._accepts(user, ended)
            for admission, ended in asked
        ]
        kept = [admission for (admission, _), holds in zip(asked, holding, strict=True) if holds]
        channels = tuple(dict.fromkeys(channel for admission in kept for channel in admission._channels))
        refused = set(await first._policy.aask_to_read(request, channels)) if channels else set()
    except (PermissionDenied, Http404):  # a token that does not hold is one
        return [False] * len(asked)
    return [
        holds and refused.isdisjoint(admission._channels) for (admission, _), holds in zip(asked, holding, strict=True)
    ]


def known_user(request: HttpRequest) -> str | None:
    """The primary key of the request's user, as text; NOBODY where there is none, None where nobody has asked yet."""
    if (user := user_of(request)) is not None:
        return str(user.pk)
    return NOBODY if is_known(request) else None


@contextlib.asynccontextmanager
async def as_in_a_request() -> AsyncIterator[Callable[[], None]]:
    """A thread and connections as those of a request, given back at the end. Call what it yields where the thread may
    be busy for good: then nobody waits for it."""
    async with test_run.strategy().request_context():
        try:
            yield abandon_thread
        finally:
            await release_request()


def _key_of(user: Any) -> str | None:
    if user is None:
        return None
    return str(user.pk) if user.is_authenticated else NOBODY


def _look_at_user(request: HttpRequest) -> str:
    has_token = tokens.token_of(request) is not None
    user = tokens.user_of_token(request) if has_token else getattr(request, "user", None)
    return str(user.pk) if user is not None and user.is_authenticated and user.is_active else NOBODY


def _unchangeable(session: Any) -> Any:
    """The session, still to be loaded. Whatever Django would write into it has no response here to tell the client of:
    with a new key it would be lost, as where its user's signature is of a key before."""
    found = type(session)(session.session_key)
    for name in ("cycle_key", "flush", "save", "create", "delete"):
        setattr(found, name, _nothing)
    return found


def _nothing(*args: Any, **kwargs: Any) -> None:
    pass


def _still(user: Any) -> Any:
    """The user as the database has it now; as it is, where it is not of a table."""
    model = user.__class__  # the wrapped one's, where it is lazy
    if getattr(model, "_default_manager", None) is None:
        return user
    return tokens.active_user(model, user.pk) or AnonymousUser()
