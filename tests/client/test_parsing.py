"""Streams of exact bytes, read over HTTP: the cases of WPT (eventsource/format-*) and of LaunchDarkly's contract tests.

The decoder has its own tests in tests/protocol/test_decoding.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from streams.client import DecodedEvent
from tests.client.support import ENDED, HEAD, Kind, RawServer
from tests.support.event_stream_cases import CASES, Case

pytestmark = pytest.mark.once

Serve = Callable[..., RawServer]


def events(*texts: str) -> list[DecodedEvent]:
    return [DecodedEvent(text) for text in texts]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("piece", [0, 1, 3], ids=["chunks", "bytes", "threes"])
def test_bytes_become_events(serve: Serve, case: Case, piece: int) -> None:
    """In the chunks of the case, byte by byte, and in pieces of three bytes."""
    body = b"".join(case.chunks)
    if len(body) > 1000:
        piece *= 500
    pieces = [body[at : at + piece] for at in range(0, len(body), piece)] if piece else case.chunks
    kind = Kind("sync-httpx2" if piece else "async-httpx2")
    server = serve([HEAD, *pieces], ENDED)
    with kind(server.url) as source:
        assert [(event.event, event.data, event.id) for event in source] == list(case.events)


def test_split_crlf_is_one_line_end(new_source: Kind, serve: Serve) -> None:
    pieces = [b"data: Hello\r", b"\ndata: World\r", b"\n\r\ndata: OK\r", b"\n", b"\r", b"\n"]
    server = serve([HEAD, *pieces], ENDED)
    with new_source(server.url) as source:
        assert list(source) == events("Hello\nWorld", "OK")


@pytest.mark.parametrize("size", [1, 1023, 1024, 4096, 8195, 65_536, 262_144, 1_048_576])
def test_events_of_any_size_arrive(serve: Serve, size: int) -> None:
    """They arrive while the connection stays open."""
    server = serve([HEAD, b"data: " + b"x" * size + b"\n\n", "hold"])
    for kind in ("sync-httpx2", "async-httpx2"):
        with Kind(kind)(server.url) as source:
            assert next(source).data == "x" * size


def test_chunked_body_is_decoded(new_source: Kind, serve: Serve) -> None:
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: Text/Event-Stream;charset=windows-1252\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    server = serve([head, b"8\r\ndata: \xe2\x82\r\n", b"5\r\n\xac\n\nda\r\n", b"6\r\nta:b\n\n\r\n0\r\n\r\n"], ENDED)
    with new_source(server.url) as source:
        assert list(source) == events("€", "b"), "always UTF-8 by the standard"


def test_json_is_parsed(new_source: Kind, serve: Serve) -> None:
    server = serve([HEAD, b'data: {"a":\ndata: [1]}\n\ndata: no\n\n'], ENDED)
    with new_source(server.url) as source:
        first, second = source
    assert first.json() == {"a": [1]}
    with pytest.raises(ValueError, match="Expecting value"):
        second.json()
