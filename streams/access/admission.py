"""What authorized a stream: its session, user or token, and the policy. While it is open, it is judged again."""

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
from streams.access.request_user import ANONYMOUS, known_user, set_user
from streams.access.revocation import session_fingerprint
from streams.notifiers import Revocation
from streams.policies import BasePolicy
from streams.private.django import forget_loaded_user, has_sessions_user, loaded_user
from streams.runtime import test_run
from streams.runtime.request_resources import abandon_thread, release_request


class Admission:
    """The authorization of one open stream. Create it when the policy has allowed the stream's channels.

    `decided_at`: when the policy was called last, in time.monotonic() seconds; the time before the call, and not after.
    `user`: the user in whose name the stream is open: the token's user, or without a token the logged-in user.
    `session_user`: the logged-in user. Both are primary keys as text, ANONYMOUS, or None if no code has loaded the user
    yet. They are not loaded here, because that costs queries.
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
        self._session = None if key is None else session_fingerprint(key)
        self.shared_key: Hashable | None = None  # the sharing_key() under which delivery/rechecks.py keeps the stream
        self.user = known_user(request)
        self.session_user = self.user
        if self._token is not None:
            self.session_user = None if (user := loaded_user(request)) is None else _key_of(user)

    def matches(self, revocation: Revocation) -> bool | None:
        """Return True if the revocation concerns this stream; None if that depends on a user who is not loaded yet."""
        if revocation.channel is not None and revocation.channel not in self._channels:
            return False
        if revocation.token is not None and (self._token is None or self._token.id != revocation.token):
            return False
        if revocation.session is not None and revocation.session != self._session:
            return False
        if revocation.user is None or revocation.user == self.user:
            return True
        if not revocation.ends:
            # If no code has loaded the session's user, the policy has not used it either.
            return revocation.user == self.session_user
        return None if self.user is None and self._session is not None else False

    def sharing_key(self) -> Hashable | None:
        """Return a key that is equal for streams that one decision can cover; None if this stream needs its own.

        Such streams have the same session and token, and a policy that depends on nothing else of a request. If other
        code than the session provides the user, the stream needs its own decision: that code can read anything.
        """
        if not self._policy.depends_only_on_user() or not has_sessions_user(self._request):
            return None
        session = self._request.__dict__["session"]
        return type(self._policy), type(self._request), type(session), session.session_key, self._token

    def _needs_user(self, ended_user: str | None) -> bool:
        # A user who was loaded when the stream was opened must still be active and the session's, whatever the policy.
        return self.user not in (None, ANONYMOUS) or ended_user is not None

    def _accepts_user(self, user: str, ended_user: str | None) -> bool:
        """Store the user that was loaded just now. Return False if the stream must end because of this user."""
        if self.user not in (None, ANONYMOUS, user) or user == ended_user:
            return False
        if self._token is None:
            self.user = self.session_user = user  # so that it need not be loaded again
        return True

    async def _fresh_request(self) -> HttpRequest:
        """Return a copy of the stream's request whose session and user are still to be loaded."""
        # copy.copy() would leave out attributes that cannot be pickled, such as resolver_match.
        request = type(self._request).__new__(type(self._request))
        request.__dict__.update(self._request.__dict__)
        if self._token is not None:
            await sync_to_async(tokens.attach_token)(request, self._token)
        if has_sessions_user(request):
            forget_loaded_user(request)
            request.session = _read_only(request.session)
            AuthenticationMiddleware(lambda request: None).process_request(request)  # type: ignore[arg-type]
        elif (user := loaded_user(request)) is not None and user.is_authenticated:
            # Other middleware set this user, in a way that is unknown here. At least the user's row can be read again.
            set_user(request, await sync_to_async(_reload)(user))
        return request


async def are_still_authorized(streams: Sequence[tuple[Admission, str | None]]) -> list[bool]:
    """Return for each stream whether it would be allowed if it were opened now.

    Call it within request_context().

    Args:
        streams: one or more admissions, all with the same sharing_key(), or only one. The second item of each pair is
            the primary key of a user whose streams end, or None.

    Raises:
        Exception: what the policy raises, except for PermissionDenied and Http404, which deny all of the streams.
    """
    first = streams[0][0]
    try:
        request = await first._fresh_request()
        user = None
        if any(admission._needs_user(ended_user) for admission, ended_user in streams):
            user = await sync_to_async(_active_user_key)(request)
        accepted = [
            user is None or not admission._needs_user(ended_user) or admission._accepts_user(user, ended_user)
            for admission, ended_user in streams
        ]
        channels = dict.fromkeys(
            channel
            for (admission, _), is_accepted in zip(streams, accepted, strict=True)
            if is_accepted
            for channel in admission._channels
        )
        denied = set(await first._policy.adenied_channels(request, tuple(channels)) if channels else ())
    except (PermissionDenied, Http404):  # InvalidToken is a PermissionDenied
        return [False] * len(streams)
    return [
        is_accepted and denied.isdisjoint(admission._channels)
        for (admission, _), is_accepted in zip(streams, accepted, strict=True)
    ]


@contextlib.asynccontextmanager
async def request_context() -> AsyncIterator[Callable[[], None]]:
    """Provide a thread and database connections as a request has them, and give them back at the end.

    It yields a function. Call that if the thread can stay blocked, so that the exit does not wait for it.
    """
    async with test_run.strategy().request_context():
        try:
            yield abandon_thread
        finally:
            await release_request()


def _key_of(user: Any) -> str:
    return str(user.pk) if user.is_authenticated else ANONYMOUS


def _active_user_key(request: HttpRequest) -> str:
    has_token = tokens.token_of(request) is not None
    user = tokens.user_of_token(request) if has_token else getattr(request, "user", None)
    return _key_of(user) if user is not None and user.is_active else ANONYMOUS


def _read_only(session: Any) -> Any:
    """Return the same session, still to be loaded, that Django cannot change.

    Django can give a session a new key, for example if it was signed with an older SECRET_KEY. The client would not
    learn this key, so that the session would be lost.
    """
    copy = type(session)(session.session_key)
    for name in ("cycle_key", "flush", "save", "create", "delete"):
        setattr(copy, name, lambda *args, **kwargs: None)
    return copy


def _reload(user: Any) -> Any:
    """Return the user as it is in the database now. A user without a table is returned unchanged."""
    model = user.__class__  # of the wrapped user, if `user` is lazy
    if getattr(model, "_default_manager", None) is None:
        return user
    return tokens.active_user(model, user.pk) or AnonymousUser()
