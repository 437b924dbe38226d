"""Authentication: signed tokens come first, then the site's authentication classes. Only sessions need a CSRF token."""

from __future__ import annotations

from base64 import b64encode

import pytest
from asgiref.sync import async_to_sync
from django.http import HttpRequest
from django.test import Client, override_settings

from streams.models import Message
from streams.policies import DefaultPolicy
from streams.tokens import make_token, read_token, revoke
from tests.api.callers import CHANNEL_MESSAGES, FAST, bearer, code, get, key, post, user

pytestmark = pytest.mark.django_db

BODY = {"data": "hello"}


@pytest.mark.parametrize("path", [CHANNEL_MESSAGES, FAST])
def test_signed_token_is_taken_from_the_header_and_from_the_url(path: str) -> None:
    assert post(path, BODY, bearer()).status_code == 201
    assert post(f"{path}?token={make_token(publish=['news'])}", BODY).status_code == 201


@pytest.mark.parametrize("path", [CHANNEL_MESSAGES, FAST])
def test_bad_token_is_401_with_the_reason_and_a_challenge(path: str) -> None:
    revoked = make_token(publish=["news"])
    revoke(read_token(revoked).id)
    gone = user("gone")
    of_gone = make_token(publish=["news"], user=gone)
    gone.set_password("another")
    gone.save()
    expected = {
        "streams.nonsense": "invalid-token",
        "of-another-site": "invalid-token",
        make_token(publish=["news"], seconds=0.0005): "expired-token",
        revoked: "revoked-token",
        of_gone: "revoked-token",
    }
    for text, reason in expected.items():
        answer = post(path, BODY, {"authorization": f"Bearer {text}"})
        assert code(answer) == (401, reason), text
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert not Message.objects.exists()


def test_bad_token_is_no_better_where_everyone_may() -> None:
    assert get(CHANNEL_MESSAGES).status_code == 200
    assert code(get(CHANNEL_MESSAGES, {"authorization": "Bearer streams.x"})) == (401, "invalid-token")


def test_session_needs_the_csrf_token_and_other_credentials_do_not() -> None:
    editor = user("editor", "add_message", is_staff=True)
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(editor)
    refused = post(CHANNEL_MESSAGES, BODY, client=browser)
    assert code(refused) == (403, "permission-denied")
    assert "CSRF" in refused.json()["error"]["message"]
    browser.get("/")  # the page has a form, which sets the cookie
    token = browser.cookies["csrftoken"].value
    assert post(CHANNEL_MESSAGES, BODY, {"X-CSRFToken": token}, browser).status_code == 201

    strict = Client(enforce_csrf_checks=True)
    basic = {"authorization": "Basic " + b64encode(b"editor:secret").decode()}
    for headers in (basic, key(editor), bearer()):
        assert post(CHANNEL_MESSAGES, BODY, headers, strict).status_code == 201


def test_published_by_is_the_authenticated_user() -> None:
    editor = user("editor", "add_message", is_staff=True)
    post(CHANNEL_MESSAGES, BODY, key(editor))
    post(CHANNEL_MESSAGES, BODY, bearer(publish=["*"], user=editor))
    post(FAST, BODY, bearer(publish=["*"], user=editor))
    post(FAST, BODY, bearer())
    assert [row.published_by for row in Message.objects.order_by("position")] == [editor, editor, editor, None]


def test_signed_token_is_judged_by_what_it_names_whoever_is_signed_in() -> None:
    browser = Client()
    browser.force_login(user("root", is_superuser=True, is_staff=True))
    assert code(post(CHANNEL_MESSAGES, BODY, bearer(read=["*"]), browser)) == (403, "forbidden")


def test_wrong_password_and_wrong_key_are_401() -> None:
    for credentials in ("Basic " + b64encode(b"a:b").decode(), "Token 123"):
        assert code(post(CHANNEL_MESSAGES, BODY, {"authorization": credentials})) == (401, "authentication-failed")


def test_fast_path_takes_signed_tokens_only() -> None:
    root = user("root", is_superuser=True, is_staff=True)
    browser = Client()
    browser.force_login(root)
    assert code(post(FAST, BODY, client=browser)) == (401, "not-authenticated")
    assert code(post(FAST, BODY, key(root))) == (401, "not-authenticated")


class AsksAsync(DefaultPolicy):
    """Decides by the user that `request.auser()` returns."""

    def can_publish(self, request: HttpRequest, channel: str) -> bool:
        return async_to_sync(self.acan_publish)(request, channel)

    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        return async_to_sync(self.acan_subscribe)(request, channel)

    async def acan_publish(self, request: HttpRequest, channel: str) -> bool:
        return channel == f"inbox.{(await request.auser()).username}"

    acan_subscribe = acan_publish


@override_settings(STREAMS={"POLICY": f"{__name__}.AsksAsync"})
def test_policy_that_asks_async_is_asked_about_who_has_authenticated_and_not_about_the_cookie() -> None:
    ann, root = bearer(read=["other"], user=user("ann")), user("root")
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(root)
    for name, status in (("root", 403), ("ann", 200)):
        assert browser.get(f"/api/channels/inbox.{name}/messages/", headers=ann).status_code == status
    url = f"/api/channels/inbox.root/messages/?token={make_token(publish=['other'])}"
    assert post(url, BODY, client=browser).status_code == 403
