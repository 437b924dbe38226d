"""Admission: matching revocations to streams, and checking that the user is still authorized."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.db import SessionStore
from django.http import HttpRequest
from django.test import AsyncClient, RequestFactory, override_settings
from django.utils.functional import SimpleLazyObject

from streams.access.admission import ANONYMOUS, Admission, are_still_authorized, known_user
from streams.notifiers import Revocation
from streams.policies import BasePolicy, DefaultPolicy
from streams.testing import read_events
from streams.tokens import make_token

pytestmark = pytest.mark.django_db(transaction=True)


class Everyone(BasePolicy):
    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        return True


class Active(BasePolicy):
    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        return bool(request.user.is_authenticated and request.user.is_active)


class Stateless:
    """A user without a database table. Some middleware creates such users from tokens."""

    pk = 7
    is_authenticated = is_active = True


def request_of(user: Any) -> HttpRequest:
    """Return a request with this user."""
    request = RequestFactory().get("/")
    request.user = user
    return request


async def is_still_authorized(admission: Admission) -> bool:
    """Return True if the stream would be allowed if it were opened now."""
    return (await are_still_authorized([(admission, None)])) == [True]


# --- Matching revocations ---------------------------------------------------------------------------------------------


def test_revocation_matches_if_all_fields_match(user: User) -> None:
    admission = Admission(request_of(user), ("a", "b"), Everyone())
    pk = str(user.pk)
    assert [
        admission.matches(revocation)
        for revocation in (
            Revocation(),
            Revocation(user=pk),
            Revocation(user=pk, channel="b"),
            Revocation(user=pk, channel="c"),
            Revocation(channel="c"),
            Revocation(user="0"),
            Revocation(token="x"),
            Revocation(session="x"),
        )
    ] == [True, True, True, False, False, False, False, False]
    anonymous = Admission(request_of(AnonymousUser()), ("a",), Everyone())
    assert (anonymous.user, anonymous.matches(Revocation(user=pk))) == (ANONYMOUS, False)


def test_lazy_user_is_not_evaluated() -> None:
    def evaluate() -> Any:
        raise AssertionError("the user was evaluated")

    assert known_user(request_of(SimpleLazyObject(evaluate))) is None
    assert known_user(RequestFactory().get("/")) == ANONYMOUS


# --- Checking the user again ------------------------------------------------------------------------------------------


async def test_user_of_other_middleware_is_refreshed(user: User) -> None:
    """Streams cannot authenticate the user again, but it checks that the user is active."""
    admission = Admission(request_of(user), ("a",), Everyone())
    assert await is_still_authorized(admission)
    await get_user_model().objects.aupdate(is_active=False)
    assert not await is_still_authorized(admission)


async def test_lazy_user_of_other_middleware_is_refreshed(user: User) -> None:
    """The user comes from a token or impersonation. The session can be missing, or belong to another user."""
    for session in (None, SessionStore()):
        lazy = SimpleLazyObject(lambda: User.objects.get(pk=user.pk))
        await sync_to_async(str)(lazy)
        request = request_of(lazy)
        if session is not None:
            request.session = session
            AuthenticationMiddleware(lambda request: None).process_request(request)  # type: ignore[arg-type]
            request.user = lazy
        admission = Admission(request, ("a",), Active())
        assert await is_still_authorized(admission)
        await User.objects.aupdate(is_active=False)
        assert not await is_still_authorized(admission)
        await User.objects.aupdate(is_active=True)


async def test_user_without_a_table_is_kept() -> None:
    assert await is_still_authorized(Admission(request_of(Stateless()), ("a",), Active()))


@override_settings(STREAMS={"POLICY": f"{__name__}.Active"})
async def test_unused_token_does_not_prevent_revocation(user: User) -> None:
    client = AsyncClient()
    await client.aforce_login(user)
    response = await client.get("/events/a/", {"token": make_token(read=["b"])})
    assert response.status_code == 200, "the policy does not use tokens"
    user.is_active = False
    await user.asave()
    assert (await read_events(response, 9, timeout=20, control=True))[-1].event == "stream-error"


async def test_policy_gets_the_streams_request(user: User) -> None:
    class ByHeader(DefaultPolicy):
        def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
            seen.append((request.headers.get("Tenant"), request.user.pk, request.resolver_match))
            return True

    seen: list[Any] = []
    request = RequestFactory().get("/", headers={"Tenant": "one"})
    request.user, request.resolver_match = user, "match"  # type: ignore[assignment]
    assert await is_still_authorized(Admission(request, ("a",), ByHeader()))
    assert seen == [("one", user.pk, "match")]
