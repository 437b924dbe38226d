"""Errors of the HTTP API: each has the right status and the same JSON structure, for any Accept header."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.db import DataError, OperationalError, connection
from django.http import Http404
from django.test import Client, override_settings
from rest_framework.permissions import BasePermission, IsAuthenticated
from rest_framework.throttling import BaseThrottle

from streams.api.errors import as_http_error, handle
from streams.api.views.fast import FastMessages
from streams.api.views.messages import ChannelMessages
from streams.exceptions import IdempotencyKeyInUse
from streams.models import Message
from streams.runtime import failures
from tests.api.callers import CHANNEL_MESSAGES, CHANNELS, FAST, bearer, code, get, post, user

pytestmark = pytest.mark.django_db

BODY = {"data": "hello"}


@pytest.mark.parametrize("accept", ["text/event-stream", "text/html", "image/png", "application/xml;q=0.1", "x", ""])
def test_json_is_answered_whatever_is_asked_for(accept: str) -> None:
    headers = {**bearer(), "accept": accept}
    for answer in (get(CHANNELS, headers), get(f"{CHANNELS}a b/", headers), post(CHANNEL_MESSAGES, b"", headers)):
        assert answer.headers["Content-Type"] == "application/json"
    assert post(CHANNEL_MESSAGES, BODY, headers).status_code == 201


def test_other_methods_are_405_with_what_is_allowed() -> None:
    for path, allowed in (
        (CHANNEL_MESSAGES, {"GET", "POST", "HEAD", "OPTIONS"}),
        (FAST, {"POST", "OPTIONS"}),
        (CHANNELS, {"GET", "HEAD", "OPTIONS"}),
        ("/api/tokens/", {"POST", "OPTIONS"}),
    ):
        for method in ("PUT", "DELETE", "PATCH", "TRACE", "BREW"):
            answer = Client(headers=bearer()).generic(method, path)
            assert code(answer) == (405, "method-not-allowed")
            assert set(answer.headers["Allow"].split(", ")) == allowed
        answer = Client().options(path)
        assert (answer.status_code, answer.content) == (204, b"")
        assert set(answer.headers["Allow"].split(", ")) == allowed


def test_database_that_does_not_answer_is_503_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    def fail(*args: Any) -> Any:
        raise OperationalError("server closed the connection")

    caplog.set_level(logging.INFO, "streams")
    failures.DATABASE.forget()
    headers = bearer()
    with connection.execute_wrapper(fail):
        answers = [post(path, BODY, headers) for path in (CHANNEL_MESSAGES, FAST, CHANNEL_MESSAGES, FAST)]
        answers.append(get(CHANNEL_MESSAGES))
        # These responses need no database, so they must not report that it is available again.
        assert [Client().options(path).status_code for path in (CHANNEL_MESSAGES, FAST)] == [204, 204]
        assert get("/api/schema/").status_code == get("/api/docs/").status_code == 200
        assert "The database answers again." not in caplog.messages
    for answer in answers:
        assert code(answer) == (503, "unavailable")
        assert answer.headers["Retry-After"] == "5"
        assert "closed the connection" not in answer.content.decode()
    logged = [record for record in caplog.records if record.name.startswith("streams") and record.exc_info]
    assert len(logged) == 1
    assert post(FAST, BODY, headers).status_code == 201
    assert "The database answers again." in caplog.messages


def test_faults_of_our_own_are_not_dressed_up() -> None:
    assert as_http_error(DataError("a query is wrong")) is None
    assert as_http_error(KeyError("x")) is None


def test_what_djangos_code_raises_is_answered_as_well() -> None:
    for error, status in ((Http404(), 404), (PermissionDenied(), 403)):
        answer = handle(error)
        assert answer is not None
        assert answer.status_code == status
        assert json.loads(answer.content)["error"].keys() == {"code", "message"}


# --- The site's own rules ---------------------------------------------------------------------------------------------


class OnTuesdays(BasePermission):
    message = "Come again on Tuesday."
    code = "not-today"

    def has_permission(self, request: Any, view: Any) -> bool:
        assert view.kwargs == {"channel": "news"}
        return False


class Slow(BaseThrottle):
    def allow_request(self, request: Any, view: Any) -> bool:
        return False

    def wait(self) -> float:
        return 6.2


@pytest.mark.parametrize(("view", "path"), [(ChannelMessages, CHANNEL_MESSAGES), (FastMessages, FAST)])
def test_the_sites_permissions_and_throttles_hold_on_top_of_the_policy(
    view: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "permission_classes", [OnTuesdays])
    assert code(post(path, BODY, bearer())) == (403, "not-today")
    monkeypatch.setattr(view, "permission_classes", [IsAuthenticated])
    assert code(post(path, BODY, bearer())) == (403, "permission-denied")
    assert post(path, BODY, bearer(publish=["news"], user=user("ann"))).status_code == 201
    monkeypatch.setattr(view, "throttle_classes", [Slow])
    answer = post(path, BODY, bearer(publish=["news"], user=user("bob")))
    assert code(answer) == (429, "throttled")
    assert answer.headers["Retry-After"] == "7"
    assert Message.objects.count() == 1


MIDDLEWARE = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]


@override_settings(MIDDLEWARE=MIDDLEWARE)
def test_site_whose_pages_are_for_users_only_has_programs_still() -> None:
    assert Client().get("/api/health/live").status_code == 200
    for path in (CHANNEL_MESSAGES, FAST):
        assert post(path, BODY, bearer()).status_code == 201


@override_settings(REST_FRAMEWORK={**settings.REST_FRAMEWORK, "UNAUTHENTICATED_USER": None})
def test_site_without_anonymous_users() -> None:
    assert get(CHANNEL_MESSAGES).status_code == 200
    assert code(post(CHANNEL_MESSAGES, BODY)) == (403, "forbidden")
    assert code(post("/api/tokens/", {"read": ["news"]})) == (401, "not-authenticated")
    assert code(post("/api/streams/disconnect/", {"channel": "news"})) == (401, "not-authenticated")


def test_key_that_is_in_use_is_409(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another transaction has used the key and stays open for longer than a publisher waits."""

    def in_use(messages: object) -> None:
        raise IdempotencyKeyInUse("It is in use.")

    async def ain_use(messages: object) -> None:
        in_use(messages)

    monkeypatch.setattr("streams.api.views.messages.publish_many", in_use)
    monkeypatch.setattr("streams.api.views.fast.apublish_many", ain_use)
    for path in (CHANNEL_MESSAGES, FAST):
        answer = post(path, BODY, bearer())
        assert (code(answer), answer.headers["Retry-After"]) == ((409, "idempotency-key-in-use"), "1")
