"""The direct way gives the answers that Django gives through all of its middleware. It is no way around a refusal."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.sessions.backends.cache import SessionStore
from django.core.handlers.asgi import ASGIHandler
from django.db import OperationalError
from django.test import Client, override_settings

from streams import apublish, tokens
from streams.direct.application import with_direct_streams
from streams.policies import DefaultPolicy
from tests.views.support import SKIPPED, by_asgi

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.urls("tests.direct.urls")]

CORS = {
    "CORS_ALLOWED_ORIGINS": ["https://app.example"],
    "CORS_ALLOW_CREDENTIALS": True,
    "CORS_URLS_REGEX": "^/events/",
}
TLS = {"SECURE_SSL_REDIRECT": True, "SECURE_HSTS_SECONDS": 60}
PREFLIGHT = {"access-control-request-method": "GET", "access-control-request-headers": "last-event-id"}
LOCALE = "django.middleware.locale.LocaleMiddleware"


class NoDatabase(DefaultPolicy):
    def denied_channels(self, request: Any, channels: Any) -> list[str]:
        raise OperationalError("the connection is lost")


class Broken(DefaultPolicy):
    def denied_channels(self, request: Any, channels: Any) -> list[str]:
        raise ZeroDivisionError("a secret of the policy")


def named(kind: type) -> dict[str, Any]:
    return {"STREAMS": {"POLICY": f"{__name__}.{kind.__name__}"}}


def limit(**streams: Any) -> dict[str, Any]:
    return {"STREAMS": {"PUBLIC_CHANNELS": ["news"], **streams}}


# Name: the URL, the method, headers, settings, and the status.
Case = tuple[str, str, dict[str, str], dict[str, Any], int]
CASES: dict[str, Case] = {
    "stream": ("/events/news/", "GET", {}, {}, 200),
    "several channels": ("/events/?channel=news&channel=public.a", "GET", {}, {}, 200),
    "replay": ("/events/news/?replay=2", "GET", {}, {}, 200),
    "cursor": ("/events/news/", "GET", {"last-event-id": "1"}, {}, 200),
    "reset": ("/events/news/", "GET", {"last-event-id": "77"}, {}, 200),
    "end=error": ("/events/news/?end=error", "GET", {}, {}, 200),
    "snapshot": ("/scores/7/", "GET", {}, {"STREAMS": {"PUBLIC_CHANNELS": ["score.*"]}}, 200),
    "failing snapshot": ("/fails/news/", "GET", {}, {}, 200),
    "final": ("/final/news/", "GET", {"last-event-id": "3"}, {}, 204),
    "head": ("/events/news/", "HEAD", {}, {}, 200),
    "head of a refusal": ("/events/secret/", "HEAD", {}, {}, 403),
    "options": ("/events/news/", "OPTIONS", {}, {}, 200),
    "post": ("/events/news/", "POST", {}, {}, 403),  # the CSRF token is missing
    "put": ("/events/news/", "PUT", {}, {"MIDDLEWARE": ["django.middleware.common.CommonMiddleware"]}, 405),
    "missing-channel": ("/events/", "GET", {}, {}, 400),
    "invalid-channel": ("/events/?channel=no%20name", "GET", {}, {}, 400),
    "too-many-channels": ("/events/?channel=news&channel=public.a", "GET", {}, limit(MAX_CHANNELS_PER_STREAM=1), 400),
    "invalid-replay": ("/events/news/?replay=ten", "GET", {}, {}, 400),
    "invalid-end": ("/events/news/?end=never", "GET", {}, {}, 400),
    "invalid-refuse": ("/events/news/?refuse=no", "GET", {}, {}, 400),
    "too-many-parameters": ("/events/?channel=a&channel=b", "GET", {}, {"DATA_UPLOAD_MAX_NUMBER_FIELDS": 1}, 400),
    "forbidden": ("/events/secret/", "GET", {}, {}, 403),
    "own policy": ("/own-policy/news/", "GET", {}, {}, 403),
    "invalid-token": ("/events/news/?token={nonsense}", "GET", {}, {}, 403),
    "foreign token": ("/events/secret/?token={foreign}", "GET", {}, {}, 403),
    "expired-token": ("/events/secret/?token={expired}", "GET", {}, {}, 403),
    "revoked-token": ("/events/secret/?token={revoked}", "GET", {}, {}, 403),
    "token for another channel": ("/events/other/?token={token}", "GET", {}, {}, 403),
    "token": ("/events/secret/?token={token}", "GET", {}, {}, 200),
    "token in the header": ("/events/secret/", "GET", {"authorization": "Bearer {token}"}, {}, 200),
    "token of an inactive user": ("/events/secret/?token={inactive}", "GET", {}, {}, 403),
    "too-many-streams": ("/events/news/", "GET", {}, limit(MAX_STREAMS_PER_PROCESS=1), 429),
    "too-many-streams-of-address": ("/events/news/", "GET", {}, limit(MAX_STREAMS_PER_ADDRESS=1), 429),
    "too-many-streams-of-user": ("/events/user.{pk}/", "GET", {"cookie": "{user}"}, limit(MAX_STREAMS_PER_USER=1), 429),
    "refused in band": ("/events/news/?refuse=event", "GET", {}, limit(MAX_STREAMS_PER_PROCESS=1), 200),
    "undecided": ("/events/news/", "GET", {}, named(NoDatabase), 503),
    "broken policy": ("/events/news/", "GET", {}, named(Broken), 500),
    "404": ("/raises/404/", "GET", {}, {}, 404),
    "403": ("/raises/403/", "GET", {}, {}, 403),
    "400": ("/raises/400/", "GET", {}, {}, 400),
    "500": ("/raises/500/", "GET", {}, {}, 500),
    "misconfigured": ("/misconfigured/news/", "GET", {}, {}, 500),
    "bad host": ("/events/news/", "GET", {"host": "evil.example"}, {"ALLOWED_HOSTS": ["testserver"]}, 400),
    "bad query": ("/events/news/?a=\xff", "GET", {}, {}, 200),
    "no slash": ("/events/news", "GET", {}, {}, 301),
    "no such page": ("/nowhere/", "GET", {}, {}, 404),
    "user": ("/events/user.{pk}/", "GET", {"cookie": "{user}"}, {}, 200),
    "another user": ("/events/user.{pk}/", "GET", {"cookie": "{stranger}"}, {}, 403),
    "staff": ("/events/secret/", "GET", {"cookie": "{staff}"}, {}, 200),
    "inactive user": ("/events/user.{gone_pk}/", "GET", {"cookie": "{gone}"}, {}, 403),
    "logged out": ("/events/user.{pk}/", "GET", {"cookie": "{ended}"}, {}, 403),
    "no such session": ("/events/user.{pk}/", "GET", {"cookie": "sessionid=abcdefghijklmnopqrstuvwxyz012345"}, {}, 403),
    "session that is saved": ("/session/news/", "GET", {"cookie": "{user}"}, {}, 200),
    "login_required": ("/members/news/", "GET", {}, {"LOGIN_URL": "/log-in/"}, 302),
    "login_required with a user": ("/members/news/", "GET", {"cookie": "{user}"}, {}, 200),
    "no stream": ("/text/news/", "GET", {}, {}, 200),
    "origin": ("/events/news/", "GET", {"origin": "https://app.example"}, CORS, 200),
    "origin of a refusal": ("/events/secret/", "GET", {"origin": "https://app.example"}, CORS, 403),
    "foreign origin": ("/events/news/", "GET", {"origin": "https://evil.example"}, CORS, 200),
    "preflight": ("/events/news/", "OPTIONS", {"origin": "https://app.example", **PREFLIGHT}, CORS, 200),
    "foreign preflight": ("/events/news/", "OPTIONS", {"origin": "https://evil.example", **PREFLIGHT}, CORS, 200),
    "redirect to https": ("/events/news/", "GET", {}, TLS, 301),
    "language": ("/events/secret/", "GET", {"accept-language": "zh-hans"}, {"MIDDLEWARE": "with locale"}, 403),
    "login required": ("/session/news/", "GET", {}, {"MIDDLEWARE": "with login", "LOGIN_URL": "/log-in/"}, 302),
    "login not required": ("/events/news/", "GET", {}, {"MIDDLEWARE": "with login"}, 200),
}


# The cases that are left to Django.
LEFT = {"post", "put", "no slash", "no such page", "login required"}


@pytest.fixture(autouse=True)
def sessions_in_cache() -> Iterator[None]:
    """SQLite in memory can refuse to save a session while the hub reads. Django then answers with 400."""
    with override_settings(SESSION_ENGINE="django.contrib.sessions.backends.cache"):
        yield


@pytest.fixture
def texts(sessions_in_cache: None) -> dict[str, str]:
    """Create users, sessions and tokens, and return what the cases' URLs and headers name."""
    user_model, found = get_user_model(), {}
    users = {
        "user": user_model.objects.create_user("user"),
        "stranger": user_model.objects.create_user("stranger"),
        "staff": user_model.objects.create_superuser("staff"),
        "gone": user_model.objects.create_user("gone"),
        "ended": user_model.objects.create_user("ended"),
    }
    for name, user in users.items():
        (client := Client()).force_login(user)
        found[name] = f"sessionid={client.cookies['sessionid'].value}"
        if name == "ended":
            client.logout()
    found |= {"pk": str(users["user"].pk), "gone_pk": str(users["gone"].pk)}
    found["inactive"] = tokens.make_token(read=["secret"], user=users["gone"])
    user_model.objects.filter(username="gone").update(is_active=False)
    found["nonsense"] = f"{tokens.PREFIX}nonsense"
    found["token"] = tokens.make_token(read=["secret"])
    found["revoked"] = tokens.make_token(read=["secret"], id="revoked")
    tokens.revoke("revoked")
    found["expired"] = tokens.make_token(read=["secret"], seconds=0.001)
    time.sleep(0.01)
    with override_settings(SECRET_KEY="of another site"):
        found["foreign"] = tokens.make_token(read=["secret"])
    return found


Answer = tuple[int, list[tuple[str, str]], bytes]


async def answer(app: Any, url: str, method: str, headers: dict[str, str]) -> Answer:
    async with by_asgi(url, method=method, headers=headers, app=app) as opened:
        body = await opened.chunk()
        # The masked token differs in each page, and the session's time and the tokens of cookies in each answer.
        body = re.sub(rb"(retry: )\d+|csrfmiddlewaretoken.*|Request-Id.*", b"", body)
        sent = sorted((name, re.sub(r"expires=[^;]*", "", value)) for name, value in opened.headers.items())
        return opened.status, sent, body


@pytest.mark.parametrize("name", CASES)
async def test_answers_are_those_of_django(name: str, texts: dict[str, str]) -> None:
    url, method, headers, overrides, status = CASES[name]
    url = url.format_map(texts)
    headers = {key: value.format_map(texts) for key, value in headers.items()}
    overrides = {"STREAMS": {"PUBLIC_CHANNELS": ["news", "public.*"]}, **overrides}
    extra = {"with locale": LOCALE, "with login": "django.contrib.auth.middleware.LoginRequiredMiddleware"}
    if isinstance(middleware := overrides.get("MIDDLEWARE"), str):
        overrides["MIDDLEWARE"] = [*settings.MIDDLEWARE, extra[middleware]]
    with override_settings(**overrides):
        await apublish("news", "one")
        await apublish("news", "two")
        await apublish("news", "three", event="done")
        stock = ASGIHandler()
        left = []

        async def django(scope: Any, receive: Any, send: Any) -> None:
            left.append(scope["path"])
            await stock(scope, receive, send)  # type: ignore[arg-type]

        direct = with_direct_streams(django, SKIPPED)
        if status == 429 or name == "refused in band":
            who = {"cookie": texts["user"]} if "user" in name else {}
            taken = f"/events/user.{texts['pk']}/" if who else "/events/news/"
            async with by_asgi(taken, headers=who) as first:
                assert first.status == 200
                expected, got = (
                    await answer(stock, url, method, headers),
                    await answer(direct, url, method, headers),
                )
        else:
            expected, got = await answer(stock, url, method, headers), await answer(direct, url, method, headers)
    if name == "login not required":  # Before Django 6.1, its middleware loads the session although no view requires it
        expected[1][:] = [(key, value.replace("Cookie, origin", "origin")) for key, value in expected[1]]
    assert got == expected
    assert got[0] == status
    assert bool(left) == (name in LEFT)


async def test_changed_session_is_saved(texts: dict[str, str]) -> None:
    with override_settings(STREAMS={"PUBLIC_CHANNELS": ["news"]}):
        app = with_direct_streams(None, SKIPPED)  # type: ignore[arg-type]
        status, _, _ = await answer(app, "/session/news/", "GET", {"cookie": texts["user"]})
    store = SessionStore(texts["user"].partition("=")[2])
    assert (status, await sync_to_async(store.get)("seen")) == (200, 1)
