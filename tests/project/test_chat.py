"""The demo site's chat, tested with an HTTP client. See tests/system/browser/test_chat.py for its page in a browser."""

import logging
from typing import Any

import pytest
from django.test import AsyncClient, Client

from project import settings as project_settings
from project.chat import LINES
from streams.testing import read_events

SEND = "/chat/send"


@pytest.fixture(autouse=True)
def at_once(settings: Any) -> None:
    """Send the lines without pauses."""
    settings.CHAT_LINE_SECONDS = 0


def is_open_to_all_origins(response: Any) -> bool:
    return bool(response.headers["Access-Control-Allow-Origin"] == "*")


async def body_of(response: Any) -> bytes:
    return b"".join([chunk async for chunk in response])


# --- The article's endpoint, without an upstream ---


async def test_send_streams_the_thirteen_lines(async_client: AsyncClient) -> None:
    response = await async_client.post(SEND, {"msg": "你好"}, content_type="application/json")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert is_open_to_all_origins(response)
    assert "Access-Control-Allow-Credentials" not in response.headers
    events = "".join(f"data: {line}\n\n" for line in LINES)
    # A comment comes before the first line, so that servers and proxies send the headers at once.
    assert (await body_of(response)).decode() == f":\n{events}"
    assert len(LINES) == 13


def test_lines_are_a_second_apart_unless_the_environment_says_otherwise() -> None:
    assert project_settings.CHAT_LINE_SECONDS == 1


async def test_lines_come_one_by_one(async_client: AsyncClient, settings: Any) -> None:
    settings.CHAT_LINE_SECONDS = 1
    response = await async_client.post(SEND, {"msg": "?"}, content_type="application/json")
    [event] = await read_events(response, 1, timeout=10)  # all thirteen lines would take longer
    assert event.data == LINES[0]


def test_preflight_is_answered(client: Client) -> None:
    response = client.options(SEND, headers={"origin": "https://a.example", "access-control-request-method": "POST"})
    assert (response.status_code, response.content) == (200, b"")
    assert is_open_to_all_origins(response)
    assert response.headers["Access-Control-Allow-Methods"] == "POST, OPTIONS"
    assert response.headers["Access-Control-Allow-Headers"] == "Authorization, Content-Type"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid-json"),
        (b"msg=hello", "invalid-json"),
        (b'{"msg": "hello"', "invalid-json"),
        (b'{"msg": "\xff"}', "invalid-json"),
        (b"[" * 100_000, "invalid-json"),
        (b"null", "missing-msg"),
        (b"[]", "missing-msg"),
        (b'"hello"', "missing-msg"),
        (b"{}", "missing-msg"),
        (b'{"msg": null}', "missing-msg"),
        (b'{"msg": 7}', "missing-msg"),
        (b'{"msg": ["hello"]}', "missing-msg"),
        (b'{"msg": ""}', "missing-msg"),
        (b'{"msg": " \\n"}', "missing-msg"),
    ],
    ids=lambda value: value[:20].decode("latin-1") if isinstance(value, bytes) else value,
)
def test_body_without_a_message_is_refused_in_words(client: Client, body: bytes, code: str) -> None:
    response = client.post(SEND, body, content_type="application/json")
    assert response.status_code == 400
    assert response.json()["error"]["code"] == code
    words = "is not JSON" if code == "invalid-json" else '{"msg": "Hello"}'
    assert words in response.json()["error"]["message"]
    assert is_open_to_all_origins(response)


@pytest.mark.parametrize("size", [2_000, 3_000_000])  # over our limit, and over Django's limit
def test_body_that_is_too_large_is_refused(client: Client, settings: Any, size: int) -> None:
    settings.STREAMS = {**settings.STREAMS, "RELAY_MAX_REQUEST_BYTES": 1000}
    response = client.post(SEND, {"msg": "x" * size}, content_type="application/json")
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request-too-large"


@pytest.mark.parametrize("method", ["get", "put", "delete"])
def test_send_is_for_post(client: Client, method: str) -> None:
    response = getattr(client, method)(SEND)
    assert response.status_code == 405
    assert response.headers["Allow"] == "POST, OPTIONS"


def test_send_takes_no_account_of_cookies(db: None) -> None:
    client = Client(enforce_csrf_checks=True, headers={"origin": "https://a.example"})
    client.cookies["sessionid"] = "somebody's"
    assert client.post(SEND, {"msg": ""}, content_type="application/json").status_code == 400


async def test_crash_is_logged_with_its_stack_and_the_site_goes_on(
    async_client: AsyncClient, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.CHAT_LINE_SECONDS = "soon"
    response = await async_client.post(SEND, {"msg": "?"}, content_type="application/json")
    with caplog.at_level(logging.ERROR):
        body = (await body_of(response)).decode()
    assert "event: stream-error\n" in body
    assert "TypeError" not in body
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "TypeError" in (record.exc_text or "")
    assert "project/chat.py" in (record.exc_text or "")

    settings.CHAT_LINE_SECONDS = 0
    response = await async_client.post(SEND, {"msg": "?"}, content_type="application/json")
    assert LINES[-1] in (await body_of(response)).decode()
