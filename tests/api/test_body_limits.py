"""Limits of request bodies: their size, by caller, and the number of their values."""

from __future__ import annotations

import io
import json
import threading
from typing import Any

import pytest
from django.http import HttpRequest
from django.test import AsyncRequestFactory, Client, RequestFactory, override_settings

from streams.api.requests import bodies
from streams.api.requests.bodies import SMALL_BODY_BYTES, parse_json, read_body
from streams.api.views import fast
from streams.api.views.disconnecting import Disconnect
from streams.api.views.messages import Messages
from streams.exceptions import HTTPError
from streams.models import Message
from streams.protocol import json_bodies
from tests.api.callers import CHANNEL_MESSAGES, DISCONNECT, FAST, MESSAGES, TOKENS, bearer, code, key, post, user

pytestmark = pytest.mark.django_db

MEBIBYTE = 2**20


def padded(body: Any, length: int) -> bytes:
    """Return the body as JSON, padded with spaces to this length."""
    return json.dumps(body).encode().ljust(length)


def lists(length: int) -> bytes:
    """Return `[[],[],…]` of about this length, which has the largest number of lists for its size."""
    return b"[" + b",".join([b"[]"] * (length // 3)) + b"]"


class Unread(io.RawIOBase):
    """A body that must not be read."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        raise AssertionError("the body was read")


# --- By caller --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [MESSAGES, DISCONNECT])
def test_anonymous_body_is_limited_to_64_kib(path: str) -> None:
    answer = post(path, b" " * (SMALL_BODY_BYTES + 1))
    assert code(answer) == (413, "request-too-large")
    assert "at most 65536 bytes" in answer.json()["error"]["message"]
    # A body within the limit is read and parsed.
    assert code(post(path, b" " * SMALL_BODY_BYTES)) == (400, "invalid-json")


@pytest.mark.parametrize("path", [TOKENS, DISCONNECT])
def test_small_requests_are_limited_for_everyone(path: str) -> None:
    root = key(user("root", is_superuser=True, is_staff=True))
    answer = post(path, padded({"read": ["news"]}, SMALL_BODY_BYTES + 1), root)
    assert code(answer) == (413, "request-too-large")
    assert "authenticate" not in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", [CHANNEL_MESSAGES, FAST])
def test_authenticated_body_has_one_mebibyte(path: str) -> None:
    assert post(path, padded({"data": 1}, MEBIBYTE), bearer()).status_code == 201
    answer = post(path, padded({"data": 1}, MEBIBYTE + 1), bearer())
    assert code(answer) == (413, "request-too-large")
    assert "STREAMS['MAX_REQUEST_BYTES']" in answer.json()["error"]["message"]


def test_key_of_a_user_and_a_session_count_as_credentials() -> None:
    editor = user("editor", "add_message", is_staff=True)
    browser = Client()
    browser.force_login(editor)
    body = padded({"data": 1}, MEBIBYTE)
    assert post(CHANNEL_MESSAGES, body, key(editor)).status_code == 201
    assert post(CHANNEL_MESSAGES, body, client=browser).status_code == 201


def test_lower_setting_holds_for_all() -> None:
    with override_settings(STREAMS={"MAX_REQUEST_BYTES": 1000}):
        for path, headers in ((MESSAGES, {}), (MESSAGES, bearer()), (DISCONNECT, {})):
            answer = post(path, b" " * 1001, headers)
            assert code(answer) == (413, "request-too-large")
            assert "at most 1000 bytes (STREAMS['MAX_REQUEST_BYTES'])" in answer.json()["error"]["message"]


@pytest.mark.parametrize("view", [Messages, Disconnect])
def test_declared_length_above_the_limit_is_refused_unread(view: Any) -> None:
    request = RequestFactory().generic("POST", "/", CONTENT_TYPE="application/json", CONTENT_LENGTH="70000")
    request._stream = Unread()  # type: ignore[attr-defined]
    assert view.as_view()(request).status_code == 413


def test_undeclared_length_is_read_to_the_limit_only() -> None:
    request = HttpRequest()
    request.content_type, request.content_params = "application/json", {}
    request._stream = stream = io.BytesIO(b" " * MEBIBYTE)  # type: ignore[attr-defined]
    with pytest.raises(HTTPError, match="at most 65536 bytes"):
        read_body(request, bodies.ANONYMOUS)
    assert stream.tell() == SMALL_BODY_BYTES + 1


def test_session_without_csrf_token_is_refused_unparsed() -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(user("editor", "add_message", is_staff=True))
    browser.get("/")  # sets the cookie with the CSRF token
    for path in (MESSAGES, DISCONNECT, TOKENS):
        assert code(post(path, b"{", client=browser)) == (403, "permission-denied")


# --- By content -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [MESSAGES, CHANNEL_MESSAGES, FAST])
def test_body_of_very_many_lists_is_refused_unparsed(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_bodies, "json", None)
    answer = post(path, lists(MEBIBYTE), bearer())
    assert code(answer) == (413, "too-many-values")
    assert "at most 209715 of the characters" in answer.json()["error"]["message"]


def test_largest_batch_of_readings_is_published() -> None:
    """The request has the maximum number of messages, and nearly the maximum size."""
    reading = {"temperature": 21.5, "humidity": 40, "at": "2026-11-27T09:30:00Z", "ok": True}
    item = {"channel": "sensor.17", "data": [reading] * 13}
    body = json.dumps({"messages": [item] * 1000}, separators=(",", ":")).encode()
    assert 0.9 * MEBIBYTE < len(body) < MEBIBYTE
    assert post(MESSAGES, body, bearer()).status_code == 201
    assert Message.objects.count() == 1000


def test_raised_setting_allows_more_values() -> None:
    body = lists(MEBIBYTE)
    with override_settings(STREAMS={"MAX_REQUEST_BYTES": 4 * MEBIBYTE}):
        assert len(parse_json(body)) > 300_000


def test_small_body_can_contain_anything() -> None:
    with override_settings(STREAMS={"MAX_REQUEST_BYTES": SMALL_BODY_BYTES}):
        assert len(parse_json(lists(SMALL_BODY_BYTES))) > 20_000


def test_too_many_names_for_a_token_are_one_error() -> None:
    answer = post(TOKENS, {"read": [0] * 20_000}, key(user("ann")))
    assert code(answer) == (400, "invalid-request")
    assert answer.json()["error"]["fields"].keys() == {"read"}
    assert "at most 50 channels" in answer.json()["error"]["message"]


# --- On the event loop ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "is_on_loop"), [(SMALL_BODY_BYTES, True), (SMALL_BODY_BYTES + 1, False)])
async def test_large_body_is_not_parsed_on_the_event_loop(
    length: int, is_on_loop: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def parse(body: bytes) -> Any:
        threads.append(threading.get_ident())
        return json.loads(body)

    monkeypatch.setattr(fast, "parse_json", parse)
    body = padded({"data": 1}, length)
    request = AsyncRequestFactory().post(FAST, body, content_type="application/json", headers=bearer())
    answer = await fast.fast_publish(request, channel="news")
    assert answer.status_code == 201
    assert [thread == threading.get_ident() for thread in threads] == [is_on_loop]
