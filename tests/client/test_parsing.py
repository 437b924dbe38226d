"""Streams of exact bytes, read over HTTP: the cases of WPT (eventsource/format-*) and of LaunchDarkly's contract tests.

The decoder has its own tests in tests/protocol/test_decoding.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from streams.client import DecodedEvent
from tests.client.support import ENDED, HEAD, Kind, RawServer

pytestmark = pytest.mark.once

Serve = Callable[..., RawServer]


def events(*texts: str) -> list[DecodedEvent]:
    return [DecodedEvent(text) for text in texts]


# The name of the case, the bytes, and the events.
CASES: dict[str, tuple[str | bytes, list[DecodedEvent]]] = {
    # --- WPT ---
    "bom": ("\ufeffdata:1\n\n\ufeffdata:2\n\ndata:3\n\n", events("1", "3")),
    "two boms": ("\ufeff\ufeffdata:1\n\ndata:2\n\ndata:3\n\n", events("2", "3")),
    "comments": (
        f"data:1\r:\0\n:\r\ndata:2\n:{'x' * 2050}\rdata:3\n:data:fail\r:{'x' * 2050}\ndata:4\n\n",
        events("1\n2\n3\n4"),
    ),
    "data before final empty line": ("retry:10\ndata:test1\n\nid:test\ndata:test2", events("test1")),
    "field data": ("data:\n\ndata\ndata\n\ndata:test\n\n", events("", "\n", "test")),
    "field event": ("event:test\ndata:x\n\ndata:x\n\n", [DecodedEvent("x", "test"), DecodedEvent("x")]),
    "field event empty": ("event: \ndata:data\n\n", events("data")),
    "field id": ("id: …\ndata:x\n\ndata:y\n\n", [DecodedEvent("x", id="…"), DecodedEvent("y", id="…")]),
    "field id reset": ("id: 1\ndata:x\n\nid\ndata:y\n\n", [DecodedEvent("x", id="1"), DecodedEvent("y")]),
    "field id with nul": ("id: a\0b\ndata:x\n\n", events("x")),
    "field parsing": (
        "data:\0\ndata:  2\rData:1\ndata\0:2\ndata:1\r\0data:4\nda-ta:3\rdata_5\ndata:3\rdata:\r\n data:32\ndata:4\n\n",
        events("\0\n 2\n1\n3\n\n4"),
    ),
    "field retry bogus": ("retry:0\nretry:1000x\ndata:x\n\n", events("x")),
    "field retry empty": ("retry:0\nretry\ndata:test\n\n", events("test")),
    "field unknown": ("data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\n\n", events("test\n")),
    "leading space": ("data:\ttest\rdata: \ndata:test\n\n", events("\ttest\n\ntest")),
    "newlines": ("data:test\r\ndata\ndata:test\r\n\r", events("test\n\ntest")),
    "null character": ("data:\0\n\n\n\n", events("\0")),
    "utf-8": ("data:ok…\n\n", events("ok…")),
    "data of several lines": (
        "data: msg\ndata: msg\n\n:\n\nfalsefield:msg\n\nfalsefield:msg\nData:data\n\ndata\n\ndata:end\n\n",
        events("msg\nmsg", "", "end"),
    ),
    # --- LaunchDarkly ---
    "two messages in one chunk": ("data: Hello\n\ndata: World\n\n", events("Hello", "World")),
    "two lines": ("data: Hello\ndata:World\n\n", events("Hello\nWorld")),
    "type and id": (
        "event: greeting\nid: abc\ndata: Hello\n\n",
        [DecodedEvent("Hello", "greeting", "abc")],
    ),
    "fields in reverse order": (
        "data: Hello\nid: abc\nevent: greeting\n\n",
        [DecodedEvent("Hello", "greeting", "abc")],
    ),
    "extra leading space": ("event:  greeting\ndata:  Hello\n\n", [DecodedEvent(" Hello", " greeting")]),
    "many messages": ("".join(f"data: {n}\n\n" for n in range(100)), events(*map(str, range(100)))),
    "comment before field": (":hello\ndata: Hello\n\n:\n\n", events("Hello")),
    "comment between fields": ("data: Hello\n:hello\nevent: a\n\n", [DecodedEvent("Hello", "a")]),
    "multi-byte characters": ("data: €豆腐\n\n", events("€豆腐")),
    **{
        f"{name} lines": (
            end.join(["data: 1", "", "data:", "data: 2", "", "data: 3", "", "", "", "data: 4", "", ""]),
            events("1", "\n2", "3", "4"),
        )
        for name, end in {"LF": "\n", "CRLF": "\r\n", "CR": "\r"}.items()
    },
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("piece", [0, 1, 3], ids=["whole", "bytes", "threes"])
def test_bytes_become_events(serve: Serve, name: str, piece: int) -> None:
    """In one piece, byte by byte, and in pieces of three bytes."""
    text, expected = CASES[name]
    body = text if isinstance(text, bytes) else text.encode()
    if len(body) > 1000:
        piece *= 500
    pieces = [body[at : at + piece] for at in range(0, len(body), piece)] if piece else [body]
    kind = Kind("sync-httpx2" if piece else "async-httpx2")
    server = serve([HEAD, *pieces], ENDED)
    with kind(server.url) as source:
        assert list(source) == expected


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
