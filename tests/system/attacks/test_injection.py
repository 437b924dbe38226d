"""Injection: text from a user never becomes an SSE field, an event, an HTTP header or a line of the log."""

from __future__ import annotations

import json
import re
from urllib.parse import quote, urlencode

import pytest

from streams.protocol.events import Event, normalize_newlines
from streams.protocol.sse import DecodedEvent, EventStreamDecoder
from tests.system.attacks.conftest import Attacked
from tests.system.attacks.raw import TOKEN, Answer, form, request

pytestmark = pytest.mark.once

FORGED = "event: stream-reset\ndata: forged\nid: 999\nretry: 1\n\n"

TEXTS = (
    f"a\n\n{FORGED}",
    f"a\r\n\r\n{FORGED}".replace("\n", "\r\n"),
    f"a\r\r{FORGED}".replace("\n", "\r"),
    f"\n\r{FORGED}",
    f"a\u2028\u2028{FORGED}".replace("\n", "\u2028"),
    f"a\u2029\u0085\v\f\x1c\x1d\x1e{FORGED}".replace("\n", "\x85"),
    "\ufeffevent: x",
    "id: 999",
    "id",
    "data",
    ": comment",
    ":",
    "",
    " ",
    "event: stream-error\ndata",
    "retry: 0",
    "a\x01\x1b[2J\x7f",
    "\\n\\nevent: x",
    "%0A%0Aevent: x",
    "x" * 70_000 + "\n\n" + FORGED,
)

# Every line of a stream must match: data, or one of the lines that Streams itself writes.
LINE = re.compile(r"(data: .*|id: \d+|event: (message|alert|stream-(checkpoint|reset|snapshot|error))|retry: \d+|:|)")


def events_of(answer: Answer) -> list[DecodedEvent]:
    """Check each line of a stream, and return its events."""
    assert b"\r" not in answer.body
    for line in answer.body.decode().split("\n"):
        assert LINE.fullmatch(line.replace("\u2028", "").replace("\u2029", "").replace("\x85", "").replace("\v", "")), (
            line[:100]
        )
    return EventStreamDecoder().feed(answer.body)


def published(attacked: Attacked, data: str | bytes, event: str = "message") -> Answer:
    """Publish by the board's form as a staff member, and return the answer. Bytes in `data` are already quoted."""
    cookie = f"{attacked.editor.cookie}; csrftoken={TOKEN}"
    headers = {"Cookie": cookie, "X-CSRFToken": TOKEN, "Accept": "application/json"}
    body = (
        urlencode({"event": event}).encode() + b"&data=" + (data if isinstance(data, bytes) else quote(data).encode())
    )
    return attacked.ask(form("/publish/", body, headers))


def test_data_stays_data(attacked: Attacked) -> None:
    before = attacked.stream("/events/news/")
    positions = []
    for text in TEXTS:
        answer = published(attacked, text)
        assert answer.status == (201 if text else 422)
        if answer.status == 201:
            positions.append(answer.json["position"])
    positions.append(published(attacked, "the last one").json["position"])
    cursor = EventStreamDecoder()
    cursor.feed(before.body)
    got = attacked.stream("/events/news/", {"Last-Event-ID": cursor.last_event_id}, until=b"data: the last one\n\n")
    events = [event for event in events_of(got) if event.event != "stream-checkpoint"]
    sent = [normalize_newlines(text) for text in TEXTS if text]
    assert [event.data for event in events] == [*sent, "the last one"]
    assert [int(event.id) for event in events] == positions
    assert {event.event for event in events} == {"message"}


def test_what_no_stream_can_carry_is_refused_and_told(attacked: Attacked) -> None:
    before = attacked.messages()
    for data in ("a\x00b", "\x00"):
        assert published(attacked, data).status == 422
    for event in ("x\ny", "x\r\ndata: y", "x\x00", "stream-reset", "stream-", "Alert", "message\n"):
        assert published(attacked, "a", event).status == 422
    assert attacked.messages() == before
    # A percent-encoded lone surrogate: Django decodes it to replacement characters.
    assert published(attacked, b"a%ED%A0%80b").status == 201


ARGUMENTS = """
import json, sys
from streams import publish
from streams.exceptions import InvalidMessage
for fields in json.load(sys.stdin):
    try:
        publish(**fields)
    except InvalidMessage as error:
        print(type(error).__name__)
    else:
        print("published")
"""


def test_publishing_code_that_passes_on_what_it_was_given_is_told(attacked: Attacked) -> None:
    before = attacked.messages()
    refused = [
        *({"event": event} for event in ("x\ny", "x\ry", "x\0y", "", "stream-x", "x\ud800", "x" * 100)),
        *({"channel": channel} for channel in ("a\nb", "news\n", "a b", "", "a/b", "néws", "x" * 100, "*", "news\0")),
        *({"data": data} for data in ("a\0", "a\ud800", "x" * 262_145, {"a": "\ud800"})),
        *({"idempotency_key": key} for key in ("", "a\0", "a\ud800", "x" * 256)),
    ]
    process = attacked.site.script(ARGUMENTS)
    out, errors = process.communicate(json.dumps([{"channel": "news", "data": "a", **fields} for fields in refused]))
    assert errors == ""
    assert "published" not in out
    assert len(out.split()) == len(refused)
    assert attacked.messages() == before


# Invalid cursors, sent in the query and in the header. Servers refuse some of them in a header.
CURSORS = (
    f"1\n\n{FORGED}",
    f"1\r\n\r\n{FORGED}",
    f"1\r\r{FORGED}",
    f"1\u2028{FORGED}",
    "1\0",
    "\0",
    "\ufeff1",
    "-1",
    "+1",
    "1 2",
    "1_0",
    "٣",
    "１",
    "1.0",
    "1e3",
    "0x10",
    "9" * 19,
    "9" * 5000,
    "<script>",
    '"}\n\n' + FORGED,
    "event: x",
)


def test_last_event_id_that_is_none_comes_back_as_a_text_inside_of_json(attacked: Attacked) -> None:
    for cursor in CURSORS:
        by_query = attacked.stream(f"/events/news/?last_event_id={quote(cursor)}")
        resets = [event for event in events_of(by_query) if event.event == "stream-reset"]
        assert len(resets) == 1, cursor[:20]
        reset_data = json.loads(resets[0].data)
        assert cursor.startswith(reset_data["requested"].removesuffix("…")), cursor[:20]
        assert len(reset_data["requested"]) <= 200
        assert reset_data["reason"] in ("malformed-id", "unknown-id")

        by_header = attacked.stream("/events/news/", {"Last-Event-ID": cursor.encode()})
        if by_header.status == 200:  # the server itself refuses some of them
            assert [event.data for event in events_of(by_header) if event.data == "forged"] == []
            assert {event.event for event in events_of(by_header)} <= {"stream-reset", "stream-checkpoint", "message"}
        else:
            assert by_header.status in (0, 400)
    # A lone surrogate in a URL is decoded to replacement characters as well.
    answer = attacked.stream("/events/news/?last_event_id=%ED%A0%80%0A")
    [reset] = [event for event in events_of(answer) if event.event == "stream-reset"]
    assert json.loads(reset.data)["requested"] == "\ufffd\ufffd\ufffd\n"


def test_snapshot_stays_one_event(attacked: Attacked) -> None:
    for text in TEXTS:
        answer = attacked.stream(
            f"/test/attacks/snapshot/?text={quote(text[:2000])}", until=b"event: stream-checkpoint"
        )
        snapshots = [event for event in events_of(answer) if event.event == "stream-snapshot"]
        assert [event.data for event in snapshots] == [normalize_newlines(text[:2000])]


def test_views_own_event_with_a_field_of_two_lines_ends_the_stream(attacked: Attacked) -> None:
    """The field is an error in the view. Event raises ValueError, so the field is never sent."""
    for name in ("event", "id"):
        for value in ("x\ny", "x\ry", "x\r\n\r\ndata: forged", "x\n\ndata: forged"):
            with pytest.raises(ValueError, match="one line"):
                Event(**{"data": "a", name: value}).encode()
    for name, value in (("event", "a\u2028b"), ("id", "a\u2028b"), ("data", f"a\n\n{FORGED}")):
        query = "&".join(f"{key}={quote(text)}" for key, text in {"data": "a", name: value}.items())
        answer = attacked.get(f"/test/attacks/event/?{query}", until=b"\n\n")
        [event] = EventStreamDecoder().feed(answer.body)
        assert getattr(event, name) == value


CHANNELS = (
    "news%0A",
    "news%0D%0ASet-Cookie:%20forged=1",
    "news%0D%0A%0D%0Aevent:%20x",
    "news%00",
    "%E2%80%A8news",
    "%EF%BB%BFnews",
    "%ED%A0%80",
    "%FF",
    "news%20",
    "%3Cscript%3E",
    "a" * 100,
)


def test_name_of_a_channel_becomes_no_header_and_no_field(attacked: Attacked) -> None:
    for name in CHANNELS:
        for path in (f"/events/{name}/", f"/events/?channel={name}", f"/events/?channel=news&channel={name}"):
            answer = attacked.get(path)
            assert answer.status == 400
            assert answer.code == "invalid-channel"
            assert answer.header("content-type") == "application/json"
            assert answer.header("set-cookie") is None
        # Without the slash, Django redirects to the address with the slash.
        redirect = attacked.get(f"/events/{name}")
        assert redirect.status == 301
        assert (redirect.header("location") or "").startswith("/events/")
        assert redirect.header("set-cookie") is None
    for path in (
        "//evil.example/events/news",
        "//evil.example/%2e%2e/events/news",
        "/%0d%0aLocation:%20//evil.example",
    ):
        location = attacked.get(path).header("location")
        assert location is None or re.match(r"/(?!/)", location)


def test_log_has_no_line_that_a_request_wrote(attacked: Attacked) -> None:
    line = "2026-01-01 00:00:00,000 ERROR root: forged"
    for path in (f"/none%0A{quote(line)}", f"/events/x%0D%0A{quote(line)}/", f"/ai/generations/%0A{quote(line)}/"):
        attacked.get(path)
    attacked.ask(request(f"/publish/?%0A{quote(line)}", method="POST"))
    attacked.get("/", {"Host": "x\n2026-01-01 forged"})
    attacked.get("/", {"Host": "evil.example", "User-Agent": quote(line)})
    assert attacked.serves()
    lines = attacked.server.log.read_text().splitlines()
    assert any("/none" in each for each in lines)  # the server does log requests
    assert [each for each in lines if each.startswith("2026-01-01")] == []
