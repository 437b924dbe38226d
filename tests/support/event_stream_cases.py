"""Cases of parsing an event stream, as data: what bytes arrive, and which events a client dispatches.

The tests of each client and of the decoder use them. They cover the subjects of web-platform-tests (`eventsource/`) and
of LaunchDarkly's sse-contract-tests, and follow the text of WHATWG HTML, sections 9.2.5 and 9.2.6.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """`chunks` are the bytes of one response, as they arrive. `events` are (type, data, last event id).

    After them, the client reconnects with `last_event_id` and after `retry` milliseconds, if it is not None.
    """

    name: str
    chunks: tuple[bytes, ...]
    events: tuple[tuple[str, str, str], ...]
    last_event_id: str = ""
    retry: int | None = None


def case(
    name: str,
    *chunks: bytes | str,
    events: list[str | tuple[str, str] | tuple[str, str, str]],
    last: str = "",
    retry: int | None = None,
) -> Case:
    """Return a case. An event is its data, or (type, data), or (type, data, last event id)."""
    encoded = tuple(chunk.encode() if isinstance(chunk, str) else chunk for chunk in chunks)
    full = []
    for event in events:
        kind, data, *rest = ("message", event) if isinstance(event, str) else event
        full.append((kind, data, rest[0] if rest else ""))
    return Case(name, encoded, tuple(full), last, retry)


def bytewise(text: str) -> list[bytes]:
    return [bytes([byte]) for byte in text.encode()]


FIELDS = [
    case("one line", "data: Hello\n\n", events=["Hello"]),
    case("one line in two chunks", "data: Hel", "lo\n\n", events=["Hello"]),
    case("two events in one chunk", "data: Hello\n\ndata: World\n\n", events=["Hello", "World"]),
    case("two lines", "data: Hello\ndata:World\n\n", events=["Hello\nWorld"]),
    case("empty data", "data:\n\n", events=[""]),
    case("data without a colon", "data\n\ndata\ndata\n\ndata:test\n\n", events=["", "\n", "test"]),
    case("no space after the colon", "event:greeting\ndata:Hello\n\n", events=[("greeting", "Hello")]),
    case("only one space is removed", "event:  greeting\ndata:  Hello\n\n", events=[(" greeting", " Hello")]),
    case("a tab is data", "data:\ttest\rdata: \ndata:test\n\n", events=["\ttest\n\ntest"]),
    case("trailing spaces are data", "data: a \n\n", events=["a "]),
    case("colons in the value", "data: a: b:c\n\ndata::\n\n", events=["a: b:c", ":"]),
    case("type", "event: greeting\ndata: Hello\n\n", events=[("greeting", "Hello")]),
    case("the type is for one event", "event:test\ndata:x\n\ndata:x\n\n", events=[("test", "x"), "x"]),
    case("empty type", "event:\ndata: a\n\nevent: \ndata: b\n\nevent\ndata: c\n\n", events=["a", "b", "c"]),
    case("the last type counts", "event: a\nevent: b\ndata: c\n\n", events=[("b", "c")]),
    case("fields in another order", "data: Hello\nid: abc\nevent: hi\n\n", events=[("hi", "Hello", "abc")], last="abc"),
    case(
        "unknown fields and other capitals",
        "data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\nData:b\nDATA: c\ndata : d\n\n",
        events=["test\n"],
    ),
    case("NUL in data", "data:\0\n\n\n\n\ndata: a\0b\n\n", events=["\0", "a\0b"]),
    case("NUL in a field's name", "data:test\ndata\0: a\n\n", events=["test"]),
    case("no data, no event", "event: test\n\ndata: a\n\n", events=["a"]),
    case("empty blocks", "\n\n\n\ndata: a\n\n\n\n\ndata: b\n\n", events=["a", "b"]),
    case("unfinished block", "data: a\n\ndata: b\n", events=["a"]),
    case("unfinished line", "data: a\n\ndata: b", events=["a"]),
    case("a hundred events", *[f"data: {n}\n\n" for n in range(100)], events=[str(n) for n in range(100)]),
    case("types with the names of properties", "event: toString\ndata: a\n\n", events=[("toString", "a")]),
]

IDS = [
    case("id", "id: abc\ndata: Hello\n\n", events=[("message", "Hello", "abc")], last="abc"),
    case("id and type", "event: hi\nid: abc\ndata: a\n\n", events=[("hi", "a", "abc")], last="abc"),
    case(
        "id stays for later events",
        "id: 1\ndata: a\n\n",
        "data: b\n\n",
        events=[("message", "a", "1"), ("message", "b", "1")],
        last="1",
    ),
    case(
        "id changes and stays",
        "id: 1\ndata: a\n\nid: 2\ndata: b\n\ndata: c\n\n",
        events=[("message", "a", "1"), ("message", "b", "2"), ("message", "c", "2")],
        last="2",
    ),
    case(
        "empty id",
        "id: 1\ndata: a\n\nid:\ndata: b\n\ndata: c\n\n",
        events=[("message", "a", "1"), "b", "c"],
    ),
    case("id without a colon", "id: 1\ndata: a\n\nid\ndata: b\n\n", events=[("message", "a", "1"), "b"]),
    case("id without data", "id: 7\n\ndata: a\n\n", events=[("message", "a", "7")], last="7"),
    case(
        "NUL in an id",
        "id: a\0bc\ndata: a\n\nid: 1\ndata: b\n\nid: 2\0\ndata: c\n\nid: \0\ndata: d\n\n",
        events=["a", ("message", "b", "1"), ("message", "c", "1"), ("message", "d", "1")],
        last="1",
    ),
    case("unfinished id", "id: 1\ndata: a\n\nid: 2\ndata: b\n", events=[("message", "a", "1")], last="1"),
    case("letters beyond ASCII in an id", "id: …é\ndata: a\n\n", events=[("message", "a", "…é")], last="…é"),
]

RETRIES = [
    case("retry", "retry: 250\ndata: a\n\n", events=["a"], retry=250),
    case("retry without data", "data: a\n\nretry: 250\n", events=["a"], retry=250),
    case("retry with leading zeros", "retry:0250\ndata: a\n\n", events=["a"], retry=250),
    *(
        case(f"retry of {value!r}", f"retry: 260\nretry: {value}\ndata: a\n\n", events=["a"], retry=260)
        for value in ("", "1000x", " 10", "10 ", "-1", "+1", "1.5", "1e3", "0x10", "soon", "\u0663", "\u00b2")
    ),
]

COMMENTS = [
    case("comment before an event", ": Hello\n", "data: a\n\n", events=["a"]),
    case("comment after an event", "data: a\n\n", ":Hello\n", events=["a"]),
    case("comments within an event", "data:1\r:\0\n:\r\ndata:2\n:x\rdata:3\n\n", events=["1\n2\n3"]),
    case("long comment", "data: a\n:" + "x" * 5000 + "\ndata: b\n\n", events=["a\nb"]),
    case("comment that looks like a field", ":data: a\n: id: 1\ndata: b\n\n", events=["b"]),
    case("comment and a blank line", ":\n\n:\n\ndata: a\n\n", events=["a"]),
]

_LINES = "data: event 1\n\ndata:\ndata: line2\ndata: line3\n\n\ndata: a\ndata:\ndata: c\n\n\n\ndata: last\n\n"
_LINES_EVENTS: list[str | tuple[str, str] | tuple[str, str, str]] = [
    "event 1",
    "\nline2\nline3",
    "a\n\nc",
    "last",
]

LINE_ENDS = [
    *(
        case(f"{name}, {size}", *chunks(_LINES.replace("\n", end)), events=_LINES_EVENTS)
        for name, end in (("LF", "\n"), ("CR", "\r"), ("CRLF", "\r\n"))
        for size, chunks in (("in one chunk", lambda text: [text]), ("byte by byte", bytewise))
    ),
    case("mixed", "data: a\rdata: b\r\ndata: c\n\r\n", events=["a\nb\nc"]),
    case("LF and CR are two", "data: a\n\rdata: b\n\r", events=["a", "b"]),
    case(
        "CRLF in two chunks",
        *("data: Hello\r", "\ndata: World\r", "\n\r\ndata: OK\r", "\n", "\r", "\n"),
        events=["Hello\nWorld", "OK"],
    ),
    case(
        "other separators", "data: a\u2028b\u2029c\u0085d\ve\ff\x1cg\n\n", events=["a\u2028b\u2029c\u0085d\ve\ff\x1cg"]
    ),
]

ENCODINGS = [
    case("byte order mark", "\ufeffdata: 1\n\n\ufeffdata: 2\n\ndata: 3\n\n", events=["1", "3"]),
    case("two byte order marks", "\ufeff\ufeffdata: 1\n\ndata: 2\n\ndata: 3\n\n", events=["2", "3"]),
    case("byte order mark in three chunks", b"\xef", b"\xbb", b"\xbf", "data: 1\n\n", events=["1"]),
    case("byte order mark in data", "data: \ufeffa\n\n", events=["\ufeffa"]),
    case("several bytes", "data: €豆腐😀\n\n", events=["€豆腐😀"]),
    case("several bytes, byte by byte", *bytewise("data: €豆腐😀\n\n"), events=["€豆腐😀"]),
    case("ok…", "data:ok…\n\n", events=["ok…"]),
    case("invalid UTF-8", b"data: a\xffb\xe2\x82c\n\n", events=["a\ufffdb\ufffdc"]),
]

SIZES = [
    case("200 kB in a line", "data: " + "x" * 200_000 + "\n\n", events=["x" * 200_000]),
    case("a thousand lines", "data: y\n" * 1000 + "\n", events=["\n".join("y" * 1000)]),
]

CASES = [*FIELDS, *IDS, *RETRIES, *COMMENTS, *LINE_ENDS, *ENCODINGS, *SIZES]
