"""Tokens do not get into `repr`, logs or exceptions: neither the source's own, nor those in a URL."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable

import pytest

from streams.exceptions import EventTooLarge, StreamRefused, StreamUnavailable
from tests.client.support import ENDED, HEAD, RESET, Kind, RawServer, status

pytestmark = pytest.mark.once

Serve = Callable[..., RawServer]

TOKEN = "streams.aGVsbG8gd29ybGQ:1abcde:signature"
SECRET = "aGVsbG8gd29ybGQ"


@pytest.fixture(params=["argument", "function", "query", "foreign"])
def options(request: pytest.FixtureRequest) -> dict[str, object]:
    """Return the arguments of a source that has a secret. "url" is added to the server's URL."""
    return {
        "argument": {"url": "", "token": TOKEN},
        "function": {"url": "", "token": lambda: TOKEN},
        "query": {"url": f"?token={TOKEN}"},
        "foreign": {"url": f"?token={SECRET}&a=b"},
    }[request.param]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([status("404 Not Found", f"No {TOKEN} here".encode())], StreamRefused),
        ([status("403 Forbidden", f'{{"error": {{"code": "x", "message": "{TOKEN}"}}}}'.encode())], StreamRefused),
        ([status("302 Found", Location=f"/?token={TOKEN}")], StreamRefused),
        ([[RESET]], StreamUnavailable),
        ([status("503 Unavailable", TOKEN.encode())], StreamUnavailable),
        ([[HEAD, f'event: stream-error\ndata: {{"code": "a", "message": "{TOKEN}"}}\n\n'.encode()]], StreamUnavailable),
        ([[HEAD, b"data:" + b"x" * 1000]], EventTooLarge),
        ([ENDED], StopIteration),
    ],
)
@pytest.mark.parametrize("kind", ["sync-httpx2", "async-httpx"])
def test_secrets_stay_out_of_texts(
    serve: Serve,
    options: dict[str, object],
    answers: list[bytes],
    expected: type[Exception],
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "streams.client")
    server = serve(*answers)
    arguments = {**options, "url": server.url + str(options["url"])}
    with Kind(kind)(**arguments, max_attempts=2, max_event_characters=100) as source:
        with pytest.raises(expected) as caught:
            next(source)
        texts = [repr(source), *traceback.format_exception(caught.value), str(vars(caught.value)), caplog.text]
    assert not [text for text in texts if SECRET in text]
    if answers != [[RESET]]:
        assert "HTTP Request: GET" in caplog.text, "the library's own log was looked at as well"
    sent = server.requests[0]
    assert SECRET in sent.target + sent.headers.get("authorization", ""), "it was sent"


def test_password_in_url_is_hidden(serve: Serve) -> None:
    server = serve(status("404 Not Found"))
    with Kind("sync-httpx2")(server.url.replace("127", "user:geheim@127")) as source:
        with pytest.raises(StreamRefused) as caught:
            next(source)
        assert "geheim" not in str(caught.value) + repr(source)
    assert server.requests[0].headers["authorization"].startswith("Basic ")
