"""Ending streams over HTTP: users can end their own streams, and with a permission those of other users."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client, override_settings

from streams.models import RevokedToken
from streams.notifiers import Notice, Revocation, get_notifier
from streams.tokens import make_token, read_token
from tests.api.callers import DISCONNECT, bearer, code, get, key, post, user

pytestmark = pytest.mark.django_db


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Revocation]:
    """Return the list of revocations that are sent to all processes."""
    found: list[Revocation] = []

    def notify(notice: Notice) -> None:
        assert notice.revocation is not None
        found.append(notice.revocation)

    monkeypatch.setattr(get_notifier(), "notify", notify)
    return found


def end(body: Any, headers: dict[str, str] | None = None) -> Any:
    return post(DISCONNECT, body, headers)


def test_who_has_the_permission_ends_streams_of_users_channels_and_tokens(told: list[Revocation]) -> None:
    warden = key(user("warden", "disconnect_stream"))
    told.clear()
    token = make_token(read=["news"])
    answer = end({"user": 7, "channel": "news", "token": token}, warden)
    assert answer.status_code == 202
    assert answer.json() == {"user": "7", "channel": "news", "token": read_token(token).id}
    assert told == [Revocation(ends=True, user="7", channel="news", token=read_token(token).id)]
    assert code(get("/api/channels/", {"authorization": f"Bearer {token}"})) == (401, "revoked-token")
    assert end({"channel": "news"}, warden).status_code == 202
    assert end({"token": "an-id"}, warden).json()["token"] == "an-id"


def test_users_end_their_own_streams(told: list[Revocation]) -> None:
    ann, bob = user("ann"), user("bob")
    told.clear()
    headers = key(ann)
    assert end({"user": ann.pk}, headers).status_code == 202
    assert end({"user": str(ann.pk), "channel": "news"}, headers).status_code == 202
    assert [each.user for each in told] == [str(ann.pk)] * 2
    for body in ({"user": bob.pk}, {"channel": "news"}, {"user": bob.pk, "channel": "news"}, {"token": "an-id"}):
        answer = end(body, headers)
        assert code(answer) == (403, "forbidden")
        assert "streams.disconnect_stream" in answer.json()["error"]["message"]
    assert len(told) == 2


def test_naming_oneself_as_well_is_no_right_to_a_token_of_another(told: list[Revocation]) -> None:
    """Ending a token's streams also revokes the token, which can belong to another user."""
    ann = user("ann")
    victim = read_token(make_token(read=["news"]))
    assert code(end({"user": ann.pk, "token": victim.id}, key(ann))) == (403, "forbidden")
    assert not RevokedToken.objects.exists()


def test_who_holds_a_token_ends_it(told: list[Revocation]) -> None:
    token = make_token(read=["news"])
    assert end({"token": token}).status_code == 202
    other = make_token(read=["news"])
    assert end({"token": read_token(other).id}, {"authorization": f"Bearer {other}"}).status_code == 202
    assert [each.token for each in told] == [read_token(token).id, read_token(other).id]


def test_signed_token_has_not_the_rights_of_its_user(told: list[Revocation]) -> None:
    root = user("root", is_superuser=True, is_staff=True)
    told.clear()
    headers = bearer(read=["*"], publish=["*"], user=root)
    for body in ({"user": root.pk}, {"channel": "news"}, {"token": "an-id"}):
        assert code(end(body, headers)) == (403, "forbidden")
    assert told == []


def test_nobody_at_all_ends_nothing(told: list[Revocation]) -> None:
    assert code(end({"channel": "news"})) == (401, "not-authenticated")
    assert code(end({"user": "None"})) == (401, "not-authenticated")
    assert told == []


def test_token_that_opens_nothing_is_422(told: list[Revocation]) -> None:
    warden = key(user("warden", "disconnect_stream"))
    told.clear()
    for token in ("streams.nonsense", make_token(read=["news"], seconds=0.0005)):
        assert code(end({"token": token}, warden)) == (422, "invalid-token")
    assert told == []


def test_session_needs_the_csrf_token(told: list[Revocation]) -> None:
    ann = user("ann")
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(ann)
    assert code(post(DISCONNECT, {"user": ann.pk}, client=browser))[0] == 403


def test_key_of_a_user_is_read_as_the_database_has_it(told: list[Revocation]) -> None:
    staff = key(user("staff", "disconnect_stream"))
    assert post(DISCONNECT, {"user": " 07"}, staff).status_code == 202
    assert told == [Revocation(ends=True, user="7")]
    for wrong in ("None", "seven"):
        assert code(post(DISCONNECT, {"user": wrong}, staff)) == (422, "unknown-user")


@override_settings(STREAMS={"PUBLISH_MESSAGES_PER_MINUTE": 3})
def test_whoever_needs_no_right_for_it_may_not_do_it_without_end(told: list[Revocation]) -> None:
    ann = user("ann")
    credentials = key(ann)
    answers = [post(DISCONNECT, {"user": ann.pk}, credentials) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [202, 202, 202, 429]
