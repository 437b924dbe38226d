"""Signed tokens: their content, their expiry and revocation, and how a request carries one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.core import signing
from django.http import HttpRequest
from django.test import AsyncClient, AsyncRequestFactory, RequestFactory, override_settings

from streams import tokens
from streams.exceptions import InvalidToken
from streams.models import RevokedToken
from streams.relay.access import make_key
from streams.testing import read_events
from streams.tokens import atoken_of, check_token, make_token, read_token, token_of
from streams.views import EventStreamView

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def user() -> User:
    return User.objects.create_user("ann", password="one")


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidToken) as refusal:
        call()
    return refusal.value.code


# --- Content ----------------------------------------------------------------------------------------------------------


def test_token_says_what_it_was_made_for(user: User) -> None:
    token = read_token(make_token(read=["news", "score.*"], publish=["chat.7"], user=user, seconds=60))
    assert (token.read, token.publish, token.user) == (("news", "score.*"), ("chat.7",), str(user.pk))
    assert 50 < token.expires_at - time.time() < 61
    assert [token.may_read(name) for name in ("news", "score.1", "scores", "chat.7", "NEWS", "news.1")] == [
        *(True, True),
        *(False, False, False, False),
    ]
    assert [token.may_publish(name) for name in ("chat.7", "chat.77", "news")] == [True, False, False]


def test_each_token_has_an_id_of_its_own() -> None:
    assert len({read_token(make_token(read=["news"])).id for _ in range(100)}) == 100


def test_lifetime_where_none_is_given_is_the_settings() -> None:
    with override_settings(STREAMS={"TOKEN_SECONDS": 10}):
        assert 5 < read_token(make_token(read=["news"])).expires_at - time.time() < 11


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "at least one channel"),
        ({"read": "news"}, "a list of names"),
        ({"read": ["news room"]}, "got 'news room'"),
        ({"read": [7]}, "got 7"),
        ({"read": ["[a-z]"]}, "got '\\[a-z\\]'"),
        ({"read": [""]}, "got ''"),
        ({"read": [f"c{n}" for n in range(51)]}, "at most 50 channels .*got 51"),
        ({"read": ["news"], "seconds": 0}, "MAX_TOKEN_SECONDS"),
        ({"read": ["news"], "seconds": float("nan")}, "MAX_TOKEN_SECONDS"),
        ({"read": ["news"], "seconds": 2_592_001}, "MAX_TOKEN_SECONDS"),
        ({"read": ["a" * 98 + str(n % 10) for n in range(50)], "publish": ["b" * 99] * 2, "seconds": 1}, None),
    ],
)
def test_what_is_no_token_is_refused_with_the_rule(arguments: dict[str, Any], words: str | None) -> None:
    if words is None:
        make_token(**arguments)
        return
    with pytest.raises(ValueError, match=words):
        make_token(**arguments)


def test_token_that_fits_into_no_url_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 4096 characters"):
        make_token(read=[f"{n:099}" for n in range(50)])


# --- Expiry and revocation --------------------------------------------------------------------------------------------


def test_expired_token_says_so() -> None:
    text = make_token(read=["news"], seconds=0.01)
    time.sleep(0.02)
    assert code_of(lambda: read_token(text)) == "expired-token"


def test_forged_cut_and_foreign_tokens_are_none(user: User) -> None:
    text = make_token(read=["news"])
    body, rest = text.split(":", 1)
    other = signing.dumps({"i": "x", "r": ["*"], "p": [], "e": 9e9}, salt="another")
    with override_settings(SECRET_KEY="another"):
        foreign = make_token(read=["news"])
    wrong = [text[:-1], text + "A", text[1:], "streams.", f"streams.{other}", foreign, f"{body}A:{rest}", "x" * 5000]
    wrong += [f"streams.{make_key(user, 60)}", f"streams.{signing.dumps('no dict', salt=tokens.SALT)}"]
    assert {code_of(lambda text=text: read_token(text)) for text in wrong} == {"invalid-token"}


def test_token_that_lives_longer_than_one_may_now_holds_no_more() -> None:
    """If MAX_TOKEN_SECONDS is lowered, revoked tokens are also remembered for a shorter time than the old lifetime."""
    text = make_token(read=["news"], seconds=3600)
    with override_settings(STREAMS={"MAX_TOKEN_SECONDS": 60, "TOKEN_SECONDS": 60}):
        assert code_of(lambda: read_token(text)) == "expired-token"


def test_token_of_the_key_before_holds_while_that_is_a_fallback() -> None:
    with override_settings(SECRET_KEY="before"):
        text = make_token(read=["news"])
    assert code_of(lambda: read_token(text)) == "invalid-token"
    with override_settings(SECRET_KEY_FALLBACKS=["before"]):
        assert read_token(text).read == ("news",)


def test_revoked_token_holds_no_more_and_its_row_goes_a_day_after_it_has_expired() -> None:
    token = read_token(make_token(read=["news"]))
    check_token(token)
    tokens.revoke(token.id, token.expires_at)
    tokens.revoke(token.id)
    assert code_of(lambda: check_token(token)) == "revoked-token"
    tokens.revoke("expired", time.time() - 1)  # a process with a slow clock would still accept it
    tokens.revoke("old", time.time() - tokens.KEPT_REVOKED_SECONDS - 1)
    assert set(RevokedToken.objects.values_list("id", flat=True)) == {token.id, "expired"}


@pytest.mark.parametrize("change", ["inactive", "password", "gone"])
def test_token_of_a_user_ends_with_what_the_user_was(user: User, change: str) -> None:
    token = read_token(make_token(read=["news"], user=user))
    assert check_token(token) == user
    if change == "gone":
        user.delete()
    else:
        user.is_active = change != "inactive"
        user.set_password("two")
        user.save(update_fields=["is_active"] if change == "inactive" else ["password"])
    assert code_of(lambda: check_token(token)) == "revoked-token"


# --- In requests ------------------------------------------------------------------------------------------------------


def test_token_is_found_in_the_query_and_in_the_header_and_taken_out_of_the_query() -> None:
    text = make_token(read=["news"])
    request = RequestFactory().get(f"/events/?channel=a%26b&token={text}&x=1&channel=ü")
    assert token_of(request) == read_token(text)
    assert token_of(request) == read_token(text), "the second call did not return the token"
    assert request.GET.getlist("channel") == ["a&b", "ü"]
    assert request.get_full_path() == "/events/?channel=a%26b&channel=%C3%BC&x=1"
    assert text not in repr(request)
    assert text not in repr(request.META)
    request = RequestFactory().get("/events/", headers={"Authorization": f"bearer  {text}"})
    assert token_of(request) == read_token(text)


@pytest.mark.parametrize("other", ["Basic YTpi", "Bearer eyJhbGciOi", "Bearer"])
def test_what_is_no_token_of_ours_is_left_alone(other: str) -> None:
    request = RequestFactory().get("/events/?token=theirs", headers={"Authorization": other})
    assert token_of(request) is None
    assert request.GET["token"] == "theirs"


async def test_bad_token_is_refused_each_time_it_is_asked_for() -> None:
    request = RequestFactory().get("/events/?token=streams.forged")
    for _ in range(2):
        with pytest.raises(InvalidToken):
            await atoken_of(request)
    with pytest.raises(InvalidToken):
        token_of(request)


# --- Streams ----------------------------------------------------------------------------------------------------------


@override_settings(STREAMS={"PUBLIC_CHANNELS": ["news"]})
async def test_stream_opens_with_a_token_for_its_channels_and_with_no_other() -> None:
    client = AsyncClient()
    text = make_token(read=["job.*"], publish=["secret"])
    response = await client.get(f"/events/?channel=job.1&channel=job.2&channel=news&token={text}")
    assert response.status_code == 200
    await response.aclose()
    for path in (
        f"/events/secret/?token={text}",
        f"/events/?channel=job.1&channel=other&token={text}",
        "/events/job.1/",
    ):
        assert (await client.get(path)).status_code == 403, path
    bad = await client.get("/events/news/?token=streams.forged")
    assert (bad.status_code, bad.json()["error"]["code"]) == (403, "invalid-token")


@override_settings(STREAMS={})
async def test_request_with_a_token_is_judged_by_it_alone(user: User) -> None:
    """A person who passes on a URL with a token must not be able to use the session of the user who opens it."""
    client = AsyncClient()
    await client.aforce_login(user)
    assert (await client.get(f"/events/user.{user.pk}/?token={make_token(read=['job.1'])}")).status_code == 403


async def test_views_do_not_see_the_token() -> None:
    seen: list[str] = []

    class View(EventStreamView):
        def get_channels(self, request: HttpRequest, **kwargs: Any) -> list[str]:
            seen.append(request.get_full_path())
            return ["job.1"]

    response = await View.as_view()(AsyncRequestFactory().get("/", {"token": make_token(read=["job.*"])}))
    assert (response.status_code, seen) == (200, ["/"])
    await response.aclose()


@override_settings(STREAMS={})
async def test_what_comes_before_the_first_byte_counts_for_a_tokens_life() -> None:
    """The server can send the first byte late."""
    response = await AsyncClient().get("/events/job.1/", {"token": make_token(read=["job.1"], seconds=0.5)})
    await asyncio.sleep(1)
    began = time.monotonic()
    assert await read_events(response, 1, timeout=20) == []
    assert time.monotonic() - began < 10


@override_settings(STREAMS={})
async def test_stream_ends_when_its_token_expires() -> None:
    text = make_token(read=["job.1"], seconds=0.6)
    response = await AsyncClient().get(f"/events/job.1/?token={text}")
    began = time.monotonic()
    assert await read_events(response, 1, timeout=20) == []
    assert time.monotonic() - began < 15
    assert (await AsyncClient().get(f"/events/job.1/?token={text}")).json()["error"]["code"] == "expired-token"


def test_anonymous_requests_with_a_token_stay_anonymous() -> None:
    request = RequestFactory().get(f"/?token={make_token(read=['a'])}")
    request.user = AnonymousUser()
    token_of(request)
    assert tokens.user_of_token(request) is None
