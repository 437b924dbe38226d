"""What the doctor says about the life of a stream: heartbeats, cuts, and reconnects."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest
from django.db import OperationalError

from streams.doctor import addresses, heartbeat, messages, stream
from streams.doctor.connection import Target
from streams.doctor.findings import Finding
from streams.doctor.stream import Options, check_stream
from tests.doctor.support import FIRST, complaints, of, serving, stream_head

pytestmark = pytest.mark.once

RESET = b"event: stream-reset\nid: 5\ndata: {}\n\n"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    monkeypatch.setattr(stream, "FIRST_SECONDS", 0.5)
    monkeypatch.setattr(addresses, "check", lambda response, forged: iter(()))
    settings.STREAMS = {"HEARTBEAT_SECONDS": 0.2}


def answer(head: str) -> bytes:
    """Answer as a server of Streams does."""
    return stream_head() + (RESET if "Last-Event-ID: streams-doctor" in head else FIRST)


def examine(*steps: tuple[float, bytes], seconds: float = 0.6) -> list[Finding]:
    """Examine a stream that sends `steps`, pairs of a pause in seconds and bytes, and then ends."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listening:
            while True:
                connection, _ = listening.accept()
                with connection:
                    head = connection.recv(65_536).decode()
                    if head.startswith("STOP"):
                        return
                    try:
                        connection.sendall(answer(head))
                        for pause, data in () if "Last-Event-ID" in head else steps:
                            time.sleep(pause)
                            connection.sendall(data)
                    except OSError:
                        pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    port = listening.getsockname()[1]
    try:
        return list(check_stream(Options(f"http://127.0.0.1:{port}/events/news/", seconds=seconds)))
    finally:
        with socket.create_connection(("127.0.0.1", port)) as last:
            last.sendall(b"STOP")
        thread.join(10)


BEAT = (0.2, b":\n")


def test_stream_with_heartbeats_is_good() -> None:
    findings = examine(BEAT, BEAT, BEAT, BEAT)
    assert complaints(findings) == []  # HTTP/2 does not matter on the machine itself
    assert "Heartbeats arrive" in of(findings, "heartbeat").text
    assert "continued at its last id" in of(findings, "reconnect").text


def test_cut_before_heartbeat_is_found() -> None:
    found = of(examine((0.1, b"")), "heartbeat")
    assert "was cut after 0.1 s without an event" in found.text
    assert "`proxy_read_timeout 1s;`" in found.remedy


def test_cut_of_stream_that_lives_is_found() -> None:
    found = of(examine(BEAT, (0.1, b"")), "heartbeat")
    assert "although it was not silent" in found.text
    assert "limit" in found.remedy


def test_cut_in_silence_after_events_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "SILENT_SECONDS", 0.05)
    found = of(examine((0.1, b"id: 6\ndata: x\n\n"), (0.1, b"")), "heartbeat")
    assert "was cut after 0.1 s without an event" in found.text


def test_end_by_the_server_is_recognised() -> None:
    found = of(examine(BEAT, (0.1, b"retry: 812\n")), "heartbeat")
    assert found.level.name == "WARNING"
    assert "The server ended the stream" in found.text
    assert "MAX_STREAM_SECONDS" in found.remedy


def test_missing_heartbeat_is_found() -> None:
    found = of(examine((2, b"")), "heartbeat")
    assert "No heartbeat arrived within 0.6 s" in found.text
    assert "`proxy_buffering off;`" in found.remedy


def test_short_look_is_not_a_verdict() -> None:
    found = of(examine((2, b""), seconds=0.1), "heartbeat")
    assert found.level.name == "WARNING"
    assert found.remedy == "Use --seconds 5.2."


def test_failing_database_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor runs on another machine, without the site's database."""

    def fail(*args: Any) -> None:
        raise OperationalError("connection refused")

    monkeypatch.setattr(messages, "publish_many", fail)
    monkeypatch.setattr(messages, "in_time", lambda function: function())
    with serving(answer, hold_seconds=2) as url:
        found = of(list(check_stream(Options(url, seconds=0.1, publish="news"))), "messages")
    assert "could not be published (OperationalError)" in found.text


def test_wrong_setting_is_no_traceback(settings: Any) -> None:
    settings.STREAMS = {"HEARTBEAT_SECONDS": "15"}
    with serving(answer, hold_seconds=2) as url:
        assert "HEARTBEAT_SECONDS" in of(list(check_stream(Options(url))), "settings").text


def test_busy_stream_needs_no_heartbeat() -> None:
    found = of(examine(*[(0.1, b"id: 6\ndata: x\n\n")] * 9), "heartbeat")
    assert found.level.name == "OK"
    assert "It had events" in found.text


def test_late_first_event_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "LATE_SECONDS", 0.0)
    assert of(examine(BEAT, BEAT, BEAT, BEAT), "first event").level.name == "WARNING"


def test_stream_without_ids_is_reported() -> None:
    with serving(lambda head: stream_head() + b"data: 1\n\n", hold_seconds=2) as url:
        found = of(list(check_stream(Options(url, seconds=0.1))), "reconnect")
    assert "no ids" in found.text
    assert "EventStreamView" in found.remedy


def test_reset_after_reconnect_is_found() -> None:
    """Two servers with different databases do this."""

    def other(head: str) -> bytes:
        return stream_head() + (RESET if "Last-Event-ID" in head else FIRST)

    with serving(other, hold_seconds=2) as url:
        found = of(list(check_stream(Options(url, seconds=0.1))), "reconnect")
    assert "did not continue there (stream-reset" in found.text
    assert "same database" in found.remedy


def test_older_position_after_reconnect_is_found() -> None:
    def other(head: str) -> bytes:
        return stream_head() + (FIRST.replace(b"id: 5", b"id: 4") if "Last-Event-ID: 5" in head else FIRST)

    with serving(other, hold_seconds=2) as url:
        assert of(list(check_stream(Options(url, seconds=0.1))), "reconnect").level.name == "PROBLEM"


def test_lost_cursor_is_found() -> None:
    with serving(lambda head: stream_head() + FIRST, hold_seconds=2) as url:
        found = of(list(check_stream(Options(url, seconds=0.1))), "reconnect")
    assert "the header does not reach the server" in found.text
    assert "Last-Event-ID" in found.remedy


def test_silence_of_one_method_is_buffering() -> None:
    """HEAD is answered, and the stream's bytes are not."""
    with serving(lambda head: stream_head() if head.startswith("HEAD") else None) as url:
        found = of(list(check_stream(Options(url))), "buffering")
    assert "`proxy_buffering off;`" in found.remedy


def test_head_without_bytes_is_buffering() -> None:
    with serving(lambda head: stream_head(), hold_seconds=5) as url:
        assert of(list(check_stream(Options(url))), "buffering").level.name == "PROBLEM"


def test_forged_address_is_sent_once() -> None:
    heads: list[str] = []

    def record(head: str) -> bytes:
        heads.append(head)
        return answer(head)

    with serving(record, hold_seconds=2) as url:
        list(check_stream(Options(url, seconds=0.1, headers={"X-Forwarded-For": "10.0.0.1"})))
    assert all(head.count("X-Forwarded-For: 10.0.0.1\r\n") == 1 for head in heads)
    assert not any("203.0.113" in head for head in heads)


@pytest.mark.parametrize(("host", "levels"), [("a.example", ["warning"]), ("127.0.0.1", []), ("localhost", [])])
def test_plain_http_matters_on_other_machines(host: str, levels: list[str]) -> None:
    url = f"http://{host}/events/news/"
    checking = stream._StreamCheck(Options(url), Target.parse(url))
    assert [level for level, _ in complaints(list(checking._check_http2()))] == levels
