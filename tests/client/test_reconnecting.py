"""An event source reconnects with its cursor, after the time that the server asks for."""

from __future__ import annotations

import datetime
import email.utils
import json
from collections.abc import Callable
from typing import Any

import pytest

from streams.client import DecodedEvent
from streams.exceptions import EventsMissed, EventTooLarge, StreamUnavailable
from streams.http import reconnection
from streams.http.reconnection import Reconnection
from tests.client.support import ENDED, HEAD, HOLD, RESET, Kind, RawServer, status

pytestmark = pytest.mark.once

Serve = Callable[..., RawServer]


def cursors(server: RawServer) -> list[str | None]:
    return [request.headers.get("last-event-id") for request in server.requests]


# --- The cursor -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [[], [RESET], [b"id: 3\ndata: unfinished\n"]], ids=["clean", "reset", "unfinished"])
def test_last_id_is_sent_after_each_end(new_source: Kind, serve: Serve, end: list[Any]) -> None:
    server = serve([HEAD, b"id: 1\ndata: a\n\n", b"id: 2\ndata: b\n\ndata: c\n\n", *end], [HEAD, b"data: d\n\n"], ENDED)
    with new_source(server.url) as source:
        assert [(event.id, event.data) for event in source] == [("1", "a"), ("2", "b"), ("2", "c"), ("2", "d")]
        assert list(source) == [], "a 204 ends it permanently"
    assert cursors(server) == [None, "2", "2"]


def test_incomplete_body_is_an_error_that_passes(new_source: Kind, serve: Serve) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    server = serve([head, b"11\r\nid: 7\ndata: abc\n\n\r\n", b"20\r\ndata: cut"], ENDED)
    with new_source(server.url) as source:
        assert list(source) == [DecodedEvent("abc", id="7")]
    assert cursors(server) == [None, "7"]


def test_first_request_has_the_given_cursor(new_source: Kind, serve: Serve) -> None:
    server = serve([HEAD, b"data: a\n\n"], ENDED)
    with new_source(server.url + "?a=b#c", last_event_id=41, channels=["x", "y z"], replay=3) as source:
        assert source.last_event_id == "41"
        assert list(source) == [DecodedEvent("a", id="41")]
    assert cursors(server) == ["41", "41"]
    assert server.requests[0].target == "/events/news/?a=b&channel=x&channel=y+z&replay=3"


def test_requests_are_as_the_standard_asks(new_source: Kind, serve: Serve) -> None:
    server = serve(ENDED)
    with new_source(server.url, headers={"X-A": "1", "accept": "text/html", "last-event-id": "9"}) as source:
        assert list(source) == []
    [request] = server.requests
    assert request.method == "GET"
    assert request.headers["accept"] == "text/event-stream"
    assert request.headers["cache-control"] == "no-cache"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["x-a"] == "1"
    assert "authorization" not in request.headers


def test_empty_id_forgets_the_cursor(new_source: Kind, serve: Serve) -> None:
    server = serve([HEAD, b"id: 1\ndata: a\n\nid\ndata: b\n\n"], ENDED)
    with new_source(server.url) as source:
        assert [event.id for event in source] == ["1", ""]
    assert cursors(server) == [None, None]


def test_id_is_sent_in_utf_8(new_source: Kind, serve: Serve) -> None:
    server = serve([HEAD, "id:  …  \ndata: a\n\n".encode()], ENDED)
    with new_source(server.url) as source:
        assert [event.id for event in source] == [" …  "]
    assert server.requests[1].headers["last-event-id"].encode("latin-1").decode() == "…"


def test_checkpoints_only_move_the_cursor(new_source: Kind, serve: Serve) -> None:
    server = serve(
        [HEAD, b"id: 1\ndata: a\n\nevent: stream-checkpoint\nid: 5\ndata: {}\n\nid: 6\ndata: b\n\nid: 8\n\n"], ENDED
    )
    with new_source(server.url) as source:
        assert next(source).data == "a"
        assert source.last_event_id == "1", "it counts what was returned, and not what has arrived"
        assert next(source).data == "b"
        assert source.last_event_id == "8"
        assert list(source) == []
    assert cursors(server) == [None, "8"]


def test_network_errors_pass(new_source: Kind, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = serve([RESET], b"no HTTP at all\r\n\r\n", [HEAD, b"data: a\n\n"], ENDED)
    with new_source(server.url) as source:
        assert list(source) == [DecodedEvent("a")]
    warnings = [record.message for record in caplog.records if record.name == "streams.client"]
    assert len(warnings) == 2
    assert warnings[0].startswith(f"The stream {server.url} failed: ")
    assert "Reconnecting in 0." in warnings[0]


def test_silent_connection_is_opened_again(new_source: Kind, serve: Serve) -> None:
    server = serve([HEAD, b"id: 1\ndata: a\n\n", HOLD], ENDED)
    with new_source(server.url, timeout_seconds=0.2) as source:
        assert list(source) == [DecodedEvent("a", id="1")]
    assert server.left.wait(5)


def test_server_that_never_answers_is_left(new_source: Kind, serve: Serve) -> None:
    server = serve([HOLD], ENDED)
    with new_source(server.url, timeout_seconds=0.2) as source:
        assert list(source) == []


# --- Waits ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list of the waits in seconds, without jitter. None of them is waited for."""
    found: list[float] = []
    original = Reconnection.wait_seconds

    def wait_seconds(self: Reconnection, error: BaseException | None = None) -> float:
        found.append(original(self, error))
        return 0.0

    monkeypatch.setattr(Reconnection, "wait_seconds", wait_seconds)
    monkeypatch.setattr(reconnection.random, "uniform", lambda low, high: low)
    return found


def test_retry_sets_the_wait(new_source: Kind, serve: Serve, waits: list[float]) -> None:
    server = serve([HEAD, b"retry: 250\ndata: a\n\n"], [HEAD, b"data: b\n\n"], ENDED)
    with new_source(server.url, retry_seconds=7) as source:
        assert len(list(source)) == 2
    assert waits == [0.25, 0.25]


def test_waits_grow_until_an_event_arrives(new_source: Kind, serve: Serve, waits: list[float]) -> None:
    empty = [HEAD, b": no event\n\n"]
    server = serve(*[[RESET]] * 3, *[empty] * 3, [HEAD, b"data: a\n\n"], [RESET], ENDED)
    with new_source(server.url, retry_seconds=3) as source:
        assert list(source) == [DecodedEvent("a")]
    assert waits == [3, 6, 12, 24, 48, 60, 3, 3]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        ("9999999999999999", 3600),
        ("-7", 3),
        ("soon", 3),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 3),
        ("Fri, 99 Nov 1994 08:49:37 GMT", 3),
    ],
)
def test_retry_after_is_honoured(serve: Serve, waits: list[float], value: str, seconds: float) -> None:
    server = serve(status("429 Too Many Requests", Retry_After=value), ENDED)
    with Kind("sync-httpx2")(server.url, retry_seconds=3) as source:
        assert list(source) == []
    assert waits == [seconds]


def test_retry_after_can_be_a_date(serve: Serve, waits: list[float]) -> None:
    then = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=100)
    server = serve(
        status("503 Unavailable", Retry_After=email.utils.format_datetime(then, usegmt=True)), [RESET], ENDED
    )
    with Kind("sync-httpx2")(server.url, retry_seconds=3) as source:
        assert list(source) == []
    assert 80 < waits[0] < 101
    assert waits[1] == 6, "it counts for one wait"


def test_jitter_never_comes_before_the_time() -> None:
    state = Reconnection("http://x/", retry_seconds=2, max_event_characters=10)
    waits = [state.wait_seconds(OSError()) for _ in range(2)]
    assert 2 <= waits[0] <= 3
    assert 4 <= waits[1] <= 6
    state.feed(b"data:x\n\n")
    assert 2 <= state.wait_seconds() <= 3


def test_zero_retry_does_not_busy_wait() -> None:
    state = Reconnection("http://x/", retry_seconds=0, max_event_characters=10)
    waits = [state.wait_seconds(OSError()) for _ in range(40)]
    assert waits[0] == 0
    assert all(after > 0 for after in waits[1:])
    assert waits[-1] >= 60


@pytest.mark.parametrize("answer", [[RESET], [HEAD], status("503 Service Unavailable")], ids=["reset", "empty", "503"])
def test_max_attempts_gives_up(new_source: Kind, serve: Serve, waits: list[float], answer: Any) -> None:
    server = serve([HEAD, b"data: a\n\n"], answer)
    with new_source(server.url, max_attempts=3) as source:
        assert next(source).data == "a"
        with pytest.raises(StreamUnavailable, match=r"could not be read in 3 attempts \(max_attempts\)") as caught:
            next(source)
    assert caught.value.attempts == 3
    assert caught.value.status == (503 if isinstance(answer, bytes) else None)
    assert len(server.requests) == 4


# --- Control events ---------------------------------------------------------------------------------------------------

GAP = {"reason": "pruned", "requested": "1", "earliest": 7, "head": 9}
RESET_EVENT = f"event: stream-reset\nid: 6\ndata: {json.dumps(GAP)}\n\n".encode()


def test_reset_raises_and_the_iteration_goes_on(new_source: Kind, serve: Serve) -> None:
    server = serve([HEAD, RESET_EVENT, b"id: 7\ndata: b\n\n"], ENDED)
    with new_source(server.url, last_event_id="1") as source:
        with pytest.raises(EventsMissed, match=r"Messages after '1' can have been missed \(pruned\)") as caught:
            next(source)
        assert vars(caught.value) == GAP
        assert source.last_event_id in ("6", "7")
        assert list(source) == [DecodedEvent("b", id="7")]
    assert cursors(server) == ["1", "7"]


def test_reset_calls_on_reset(new_source: Kind, serve: Serve) -> None:
    gaps: list[EventsMissed] = []
    server = serve([HEAD, RESET_EVENT, b"event: stream-snapshot\nid: 9\ndata: {}\n\nid: 10\ndata: b\n\n"], ENDED)
    with new_source(server.url, last_event_id="1", on_reset=gaps.append) as source:
        assert [(event.event, event.id) for event in source] == [("stream-snapshot", "9"), ("message", "10")]
    assert [gap.earliest for gap in gaps] == [7]


@pytest.mark.parametrize("data", [b"[]", b"no JSON", b"[" * 100_000, b'{"reason": 1}'])
def test_any_reset_is_a_reset(serve: Serve, data: bytes) -> None:
    server = serve([HEAD, b"event: stream-reset\ndata: " + data + b"\n\n"], ENDED)
    with Kind("sync-httpx2")(server.url) as source, pytest.raises(EventsMissed):
        next(source)


def test_stream_error_is_logged_and_waited_for(
    new_source: Kind, serve: Serve, waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """Also if the server sends a refusal in band: as the only event of a stream with the status 200."""
    error = b'retry: 4000\nevent: stream-error\ndata: {"code":"too-many-streams","message":"Try later."}\n\n'
    server = serve([HEAD, error], [HEAD, error], [HEAD, b"data: a\n\n"], ENDED)
    with new_source(server.url) as source:
        assert list(source) == [DecodedEvent("a")]
    assert waits == [4, 8, 4]
    assert "failed: too-many-streams: Try later. Reconnecting in 4.0 s." in caplog.text


# --- Limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "endless",
    [b"data: " + b"x" * 70_000, b"data: x\n" * 9_000, b": " + b"x" * 70_000, b"id: " + b"x" * 70_000],
    ids=["line", "lines", "comment", "id"],
)
def test_endless_event_is_refused(new_source: Kind, serve: Serve, endless: bytes) -> None:
    server = serve([HEAD, b"id: 4\ndata: a\n\n", endless, HOLD])
    with new_source(server.url, max_event_characters=10_000) as source:
        assert next(source).data == "a"
        with pytest.raises(EventTooLarge, match="at most 10000 characters") as caught:
            next(source)
        assert "after the id '4'" in str(caught.value)
    assert server.left.wait(5)


def test_large_events_take_linear_time() -> None:
    """A quadratic decoder would need minutes: 8 MB in a single line, and in a million of them, in small chunks."""
    for body in (b"data: " + b"x" * 8_000_000 + b"\n\n", b"data: xx\n" * 900_000 + b"\n"):
        state = Reconnection("http://x/", max_event_characters=10_000_000)
        for at in range(0, len(body), 4096):
            state.feed(body[at : at + 4096])
        event = state.take()
        assert event is not None
        assert len(event.data) > 2_000_000
