"""Answers that are not an event stream: refusals, redirects, and new tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from streams.client import DecodedEvent
from streams.exceptions import StreamRefused
from tests.client.support import ENDED, HEAD, Kind, RawServer, status

pytestmark = pytest.mark.once

Serve = Callable[..., RawServer]

FORBIDDEN = json.dumps({"error": {"code": "forbidden", "message": "You cannot read 'news'."}}).encode()
EVENT = [HEAD, b"id: 3\ndata: a\n\n"]


# --- Statuses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", ["400 Bad Request", "403 Forbidden", "404 Not Found", "405 No", "410 Gone", "201 Made"]
)
def test_permanent_status_raises(new_source: Kind, serve: Serve, line: str) -> None:
    server = serve(status(line, FORBIDDEN))
    with new_source(server.url) as source, pytest.raises(StreamRefused) as caught:
        next(source)
    error = caught.value
    assert (error.status, error.code, error.message) == (int(line[:3]), "forbidden", "You cannot read 'news'.")
    assert str(error) == f"{server.url} answered {line[:3]} (forbidden): You cannot read 'news'."
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "line", ["408 Timeout", "425 Early", "429 Many", "500 Error", "502 Bad", "503 Not now", "599 No"]
)
def test_passing_status_is_tried_again(new_source: Kind, serve: Serve, line: str) -> None:
    server = serve(EVENT, status(line, b"<html>nginx</html>"), [HEAD, b"data: b\n\n"], ENDED)
    with new_source(server.url) as source:
        assert [event.data for event in source] == ["a", "b"]
    assert [request.headers.get("last-event-id") for request in server.requests] == [None, "3", "3", "3"]


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Content_Type": "text/html"}, "content-type"),
        ({"Content_Type": "text/event-stream-x"}, "content-type"),
        ({"Content_Type": "x-text/event-stream; a=b"}, "content-type"),
        ({}, "content-type"),
        ({"Content_Type": "text/event-stream", "Content_Encoding": "gzip"}, "compressed"),
    ],
)
def test_anything_but_an_event_stream_raises(serve: Serve, headers: dict[str, str], code: str) -> None:
    server = serve(status("200 OK", b"data: a\n\n", **headers))
    with Kind("sync-httpx2")(server.url) as source, pytest.raises(StreamRefused, match=code) as caught:
        next(source)
    assert (caught.value.status, caught.value.code) == (200, code)


@pytest.mark.parametrize("body", [b"\xff" * 2_000_000, b"[" * 100_000, b'{"error": 3}', b'{"error": {}}', b"null", b""])
def test_any_error_body_is_bounded(new_source: Kind, serve: Serve, body: bytes) -> None:
    server = serve(status("404 Not Found", body))
    with new_source(server.url) as source, pytest.raises(StreamRefused) as caught:
        next(source)
    assert caught.value.code == ""
    assert len(str(caught.value)) < 700


def test_refused_source_can_be_iterated_again(new_source: Kind, serve: Serve) -> None:
    server = serve(status("404 Not Found"), EVENT, ENDED)
    with new_source(server.url) as source:
        with pytest.raises(StreamRefused):
            next(source)
        assert [event.data for event in source] == ["a"]


def test_wrong_url_raises(new_source: Kind) -> None:
    """The library's own errors: no later attempt can succeed."""
    for url in ("ftp://127.0.0.1/", "/events/news/"):
        with new_source(url) as source, pytest.raises(new_source.library.UnsupportedProtocol):
            next(source)


# --- Redirects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["301 Moved", "302 Found", "303 Other", "307 Temporary", "308 Permanent"])
def test_redirects_are_followed_at_each_attempt(new_source: Kind, serve: Serve, line: str) -> None:
    """By the standard, the source asks at its own URL again."""
    redirect = status(line, b"x" * 100_000, Location="../other/?a=b")
    server = serve(redirect, EVENT, redirect, ENDED)
    with new_source(server.url, token="streams.abcdefghi:x", headers={"X-A": "1"}) as source:
        assert list(source) == [DecodedEvent("a", id="3")]
    targets = ["/events/news/", "/events/other/?a=b"] * 2
    assert [request.target for request in server.requests] == targets
    assert server.requests[1].headers["authorization"] == "Bearer streams.abcdefghi:x"
    assert server.requests[3].headers["last-event-id"] == "3"


@pytest.mark.parametrize("by", ["token", "client"])
def test_redirect_to_another_origin_gets_no_credentials(new_source: Kind, serve: Serve, by: str) -> None:
    other = serve(EVENT, ENDED)
    server = serve(status("307 Temporary Redirect", Location=other.url))
    options: dict[str, Any] = {"token": "streams.abcdefghi:x"}
    if by == "client":
        options = {"client": new_source.new_client(auth=("user", "password"))}
    with new_source(server.url, **options) as source:
        assert next(source).data == "a"
    assert server.requests[0].headers["authorization"].startswith("B")
    assert "authorization" not in other.requests[0].headers
    assert other.requests[0].headers["accept"] == "text/event-stream"


@pytest.mark.parametrize("location", ["", "/again/"], ids=["missing", "circle"])
def test_endless_redirect_raises(new_source: Kind, serve: Serve, location: str) -> None:
    server = serve(status("302 Found", **({"Location": location} if location else {})))
    with new_source(server.url) as source, pytest.raises(StreamRefused, match=r"302 \(redirect\)"):
        next(source)
    assert len(server.requests) == (21 if location else 1)


# --- Tokens -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tokens() -> Callable[[], str]:
    """Return a function that returns another token at each call."""
    texts: Iterator[str] = (f"streams.token-{number}:x" for number in range(1, 100))
    return lambda: next(texts)


def sent(server: RawServer) -> list[str]:
    return [request.headers["authorization"] for request in server.requests]


@pytest.mark.parametrize("line", ["401 Unauthorized", "403 Forbidden"])
def test_new_token_is_tried_once(new_source: Kind, serve: Serve, tokens: Callable[[], str], line: str) -> None:
    refused = status(line, FORBIDDEN)
    server = serve(EVENT, [HEAD], refused, EVENT, refused, refused, EVENT)
    with new_source(server.url, token=tokens) as source:
        assert [next(source).data for _ in range(2)] == ["a", "a"]
        with pytest.raises(StreamRefused) as caught:
            next(source)
    assert caught.value.status == int(line[:3])
    assert sent(server) == [f"Bearer streams.token-{number}:x" for number in (1, 1, 1, 2, 2, 3)]


def test_async_function_returns_the_token(serve: Serve, tokens: Callable[[], str]) -> None:
    async def get_token() -> str:
        return tokens()

    server = serve(EVENT, ENDED)
    with Kind("async-httpx2")(server.url, token=get_token) as source:
        assert len(list(source)) == 1
    assert sent(server) == ["Bearer streams.token-1:x"] * 2


def test_fixed_token_is_not_renewed(new_source: Kind, serve: Serve) -> None:
    server = serve(status("403 Forbidden", FORBIDDEN))
    with new_source(server.url, token="streams.fixed:x\n") as source, pytest.raises(StreamRefused):
        next(source)
    assert sent(server) == ["Bearer streams.fixed:x"], "without the line end of the file in which it was"


def test_token_function_can_fail_for_a_moment(new_source: Kind, serve: Serve, tokens: Callable[[], str]) -> None:
    """Network errors pass. Others reach the caller."""
    failures = [ConnectionError("refused"), new_source.library.ConnectError("refused"), LookupError("no user")]

    def get_token() -> str:
        if failures:
            raise failures.pop(0)
        return tokens()

    server = serve(EVENT, ENDED)
    with new_source(server.url, token=get_token) as source:
        with pytest.raises(LookupError):
            next(source)
        assert len(list(source)) == 1


@pytest.mark.parametrize("token", ["", " ", "a b", "geheim\nX-A: 1", "geheım"])
def test_token_that_cannot_be_sent_is_refused(new_source: Kind, token: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII characters") as caught:
        new_source("http://127.0.0.1:1/", token=token)
    assert not token.strip() or token not in str(caught.value)
    with new_source("http://127.0.0.1:1/", token=lambda: 3) as source, pytest.raises(TypeError, match="got int"):
        next(source)
