"""Signed tokens over HTTP: users can grant only their own rights, and a token cannot create tokens."""

from __future__ import annotations

import datetime

import pytest
from django.http import HttpRequest
from django.test import override_settings

from streams.policies import DefaultPolicy
from streams.tokens import read_token
from tests.api.callers import CHANNEL_MESSAGES, TOKENS, bearer, code, get, key, post, user

pytestmark = pytest.mark.django_db


def test_user_makes_a_token_for_what_the_user_may_read() -> None:
    ann = user("ann")
    answer = post(TOKENS, {"read": ["news", f"user.{ann.pk}"], "seconds": 60}, key(ann))
    created = answer.json()
    token = read_token(created["token"])
    assert answer.status_code == 201
    assert answer.headers["Cache-Control"] == "no-store"
    assert created == {
        "token": created["token"],
        "id": token.id,
        "expires_at": created["expires_at"],
        "read": ["news", f"user.{ann.pk}"],
        "publish": [],
        "user": str(ann.pk),
    }
    left = datetime.datetime.fromisoformat(created["expires_at"]) - datetime.datetime.now(datetime.UTC)
    assert 50 < left.total_seconds() < 61
    headers = {"authorization": f"Bearer {created['token']}"}
    assert get(f"/api/channels/user.{ann.pk}/messages/", headers).status_code == 200
    assert code(post(CHANNEL_MESSAGES, {"data": 1}, headers)) == (403, "forbidden")


def test_nobody_gives_away_what_they_may_not_do_themselves() -> None:
    ann = key(user("ann"))
    answer = post(TOKENS, {"read": ["news", "user.999", "staff"]}, ann)
    assert code(answer) == (403, "forbidden")
    assert "You do not have permission to read user.999, staff." in answer.json()["error"]["message"]
    answer = post(TOKENS, {"read": ["news"], "publish": ["news"]}, ann)
    assert answer.json()["error"]["message"] == "You do not have permission to publish to news."


def test_patterns_take_a_right_of_their_own() -> None:
    assert code(post(TOKENS, {"read": ["new*"]}, key(user("ann"))))[0] == 403
    reader, editor = user("reader", "view_message", is_staff=True), user("editor", "add_message", is_staff=True)
    reads = key(reader)
    assert post(TOKENS, {"read": ["score.*"]}, reads).status_code == 201
    assert code(post(TOKENS, {"publish": ["score.*"]}, reads))[0] == 403
    assert post(TOKENS, {"publish": ["score.*"]}, key(editor)).status_code == 201


class NoPatternsPolicy(DefaultPolicy):
    def can_grant_pattern(self, request: HttpRequest, pattern: str, *, to_publish: bool) -> bool:
        return pattern == "score.*" and not to_publish and request.user.is_authenticated


@override_settings(STREAMS={"POLICY": "tests.api.test_tokens.NoPatternsPolicy"})
def test_the_sites_policy_decides_over_patterns() -> None:
    ann = key(user("ann"))
    assert post(TOKENS, {"read": ["score.*"]}, ann).status_code == 201
    assert code(post(TOKENS, {"read": ["sc*"]}, ann))[0] == 403


def test_signed_token_makes_no_token_also_in_the_name_of_a_superuser() -> None:
    root = user("root", is_superuser=True, is_staff=True)
    for rights in ({"read": ["*"], "publish": ["*"], "user": root}, {"read": ["*"]}):
        assert code(post(TOKENS, {"read": ["news"]}, bearer(**rights))) == (403, "signed-token")


def test_nobody_at_all_makes_no_token() -> None:
    answer = post(TOKENS, {"read": ["news"]})
    assert code(answer) == (401, "not-authenticated")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_in_whose_name_takes_a_permission() -> None:
    ann, clerk = user("ann"), user("clerk", "issue_token")
    own_key = key(ann)
    own = post(TOKENS, {"read": ["news"], "user": clerk.pk}, own_key)
    assert code(own) == (403, "forbidden")
    assert "streams.issue_token" in own.json()["error"]["message"]
    assert code(post(TOKENS, {"read": ["news"], "user": None}, own_key))[0] == 403
    assert post(TOKENS, {"read": ["news"], "user": ann.pk}, own_key).json()["user"] == str(ann.pk)
    clerk_key = key(clerk)
    for_ann = post(TOKENS, {"read": ["news"], "user": str(ann.pk)}, clerk_key).json()
    assert (for_ann["user"], read_token(for_ann["token"]).user) == (str(ann.pk), str(ann.pk))
    assert post(TOKENS, {"read": ["news"], "user": None}, clerk_key).json()["user"] is None


@pytest.mark.parametrize("pk", [999, 10**40, "nobody", -1, "1.5", "٣٣٣"])
def test_user_who_is_not_there_is_422(pk: object) -> None:
    clerk = key(user("clerk", "issue_token"))
    assert code(post(TOKENS, {"read": ["news"], "user": pk}, clerk)) == (422, "unknown-user")


def test_inactive_user_gets_no_token() -> None:
    gone = user("gone", is_active=False)
    clerk = key(user("clerk", "issue_token"))
    assert code(post(TOKENS, {"read": ["news"], "user": gone.pk}, clerk)) == (422, "unknown-user")


def test_lifetime_is_bounded_and_names_the_setting() -> None:
    ann = key(user("ann"))
    with override_settings(STREAMS={"PUBLIC_CHANNELS": ["news"], "TOKEN_SECONDS": 30, "MAX_TOKEN_SECONDS": 100}):
        answer = post(TOKENS, {"read": ["news"], "seconds": 101}, ann)
        assert code(answer) == (400, "invalid-request")
        assert "MAX_TOKEN_SECONDS" in answer.json()["error"]["fields"]["seconds"]
        expires = datetime.datetime.fromisoformat(post(TOKENS, {"read": ["news"]}, ann).json()["expires_at"])
    assert (expires - datetime.datetime.now(datetime.UTC)).total_seconds() < 31


def test_token_that_fits_into_no_url_is_422() -> None:
    root = key(user("root", is_superuser=True, is_staff=True))
    names = [f"{n:02}{'x' * 97}" for n in range(50)]
    assert code(post(TOKENS, {"read": names, "publish": names}, root)) == (422, "unusable-token")
