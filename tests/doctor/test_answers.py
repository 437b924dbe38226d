"""What the doctor says about answers that are not a stream, and about the headers of a stream."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from typing import Any

import pytest

from streams.doctor import stream
from streams.doctor.answers import check_redirect
from streams.doctor.connection import Target
from streams.doctor.findings import Finding
from streams.doctor.stream import Options, check_stream
from tests.doctor.support import FIRST, complaints, http, of, serving, stream_head
from tests.support.services import free_port

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "FIRST_SECONDS", 0.5)


def examine(response: bytes, **options: object) -> list[Finding]:
    with serving(lambda head: response) as url:
        return list(check_stream(Options(url, seconds=0.2, **options)))


def own(code: str) -> str:
    return json.dumps({"error": {"code": code, "message": "…"}})


REFUSALS = [
    (http("502 Bad Gateway", Server="nginx"), "answers 502 by nginx", "`server` lines of `upstream`"),
    (http("503 Service Unavailable"), "answers 503", "Start the site's servers."),
    (http("504 Gateway Timeout"), "waited too long", "`error_page 502 503 504 = @away;`"),
    (http("500 Error", own("asgi-required")), "runs WSGI", "`uvicorn project.asgi:application"),
    (http("500 Error"), "answers 500", "logs of the proxy and the site"),
    (http("503 Unavailable", own("undecided")), "The database does not answer", "findings about the database"),
    (http("429 Too Many", own("too-many-streams")), "Too many streams are open", "MAX_STREAMS_PER_PROCESS"),
    (http("429 Too Many", Server="nginx"), "A proxy limits", "`limit_conn streams 2000;`"),
    (http("403 Forbidden", own("forbidden")), "(forbidden)", "STREAMS['PUBLIC_CHANNELS']"),
    (http("403 Forbidden", "<h1>no</h1>"), "not from Streams", "--token"),
    (http("401 Unauthorized"), "not from Streams", "Exempt the streams"),
    (http("404 Not Found"), "answers 404", "The site's streams are at /events/"),
    (http("406 Not Acceptable"), "refuses text/event-stream", "streams.views.EventStreamView"),
    (http("204 No Content"), "tells clients not to reconnect", "`final_events`"),
    (http("200 OK", "<html>", Content_Type="text/html"), "is a page", "If it is a login page"),
    (http("200 OK", "{}", Content_Type="application/json"), "“application/json”", "Check the URL"),
    (http("400 Bad Request", own("invalid-channel")), "(invalid-channel)", "Error codes"),
    (http("200 OK", "retry: 2000\n", Content_Type="text/event-stream"), "in place of", "`upstream=502`"),
    (http("200 OK", "", Content_Type="text/event-stream"), "ended at once", "Look into the logs"),
]


@pytest.mark.parametrize(("response", "text", "remedy"), REFUSALS)
def test_refusal_is_explained(response: bytes, text: str, remedy: str) -> None:
    findings = examine(response)
    assert ("problem", "answer") in complaints(findings)
    assert text in of(findings, "answer").text
    assert remedy in of(findings, "answer").remedy


REDIRECTS = [
    ("/accounts/login/?next=/events/news/", "problem", "login page", "--token"),
    ("/admin/login/", "problem", "login page", "--token"),
    ("https://elsewhere.example/events/news/", "problem", "another site", "https://elsewhere.example/events/news/"),
    ("http://[", "problem", "invalid URL", "Correct the redirect"),
    ("/events/news/", "problem", "redirects to itself", "SECURE_PROXY_SSL_HEADER"),
]


@pytest.mark.parametrize(("location", "level", "text", "remedy"), REDIRECTS)
def test_redirect_is_explained(location: str, level: str, text: str, remedy: str) -> None:
    found = of(examine(http("302 Found", Location=location)), "redirects")
    assert found.level.name.lower() == level
    assert text in found.text
    assert remedy in found.remedy


@pytest.mark.parametrize("location", ["/accounts/login/?next=/", "/en/"])
def test_redirect_of_another_page_names_the_streams_path(location: str) -> None:
    def answer(head: str) -> bytes:
        return http("302 Found", Location=location) if head.startswith("GET / ") else http("404 Not Found")

    with serving(answer) as url:
        findings = list(check_stream(Options(url.replace("/events/news/", "/"), seconds=0.2)))
    assert of(findings, "redirects").remedy == "Check the URL: the site's streams are at /events/."


def test_redirect_to_other_site_gets_no_credentials() -> None:
    heads = []

    def other(head: str) -> bytes:
        heads.append(head)
        return http("404 Not Found")

    with serving(other) as elsewhere, serving(lambda head: http("302 Found", Location=elsewhere)) as url:
        findings = list(check_stream(Options(url, headers={"Cookie": "sessionid=secret"})))
    assert complaints(findings)[0] == ("problem", "redirects")
    assert heads == []


def test_missing_slash_is_followed() -> None:
    def answer(head: str) -> bytes:
        path = head.split()[1]
        return stream_head() + FIRST if path.endswith("/") else http("301 Moved", Location=f"{path}/")

    with serving(answer, hold_seconds=5) as url:
        findings = list(check_stream(Options(url.rstrip("/"), seconds=0.2)))
    assert "because of the missing slash" in of(findings, "redirects").text
    assert of(findings, "answer").text.endswith("/events/news/ is a stream.")


def test_endless_redirect_ends() -> None:
    """Each redirect adds a character."""
    with serving(lambda head: http("302 Found", Location=f"{head.split()[1]}x")) as url:
        findings = list(check_stream(Options(url)))
    assert "without an end" in findings[-1].text
    assert complaints(findings)[-1] == ("problem", "redirects")


@pytest.mark.parametrize(
    ("url", "is_local"),
    [
        ("http://127.0.0.1:8001/", True),
        ("http://[::1]/", True),
        ("http://localhost/", True),
        ("http://10.0.0.1/", False),
    ],
)
def test_local_address_is_recognised(url: str, is_local: bool) -> None:
    assert Target.parse(url).is_local is is_local
    assert Target.parse("http://a.example/").is_local is False


def test_redirect_to_plain_http_is_not_followed() -> None:
    target = Target.parse("https://a.example/events/news/")
    steps = check_redirect(target, "http://a.example/events/news/")
    assert "redirects to plain http" in next(steps).text
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value is None


HEADERS = [
    ({"Cache_Control": "max-age=60"}, "caching", "“max-age=60”", "`proxy_cache off;`"),
    ({"Cache_Control": "public, no-cache"}, "caching", "could store", "exclude this path"),
    ({"Age": "3"}, "caching", "came out of a cache (Age: 3)", "`proxy_cache off;`"),
    ({"X_Cache": "Hit from cloudfront"}, "caching", "came out of a cache", "`proxy_cache off;`"),
    ({"Set_Cookie": "sessionid=secret; Path=/"}, "cookies", "sessionid", "SESSION_SAVE_EVERY_REQUEST"),
    ({"Content_Encoding": "br"}, "compression", "(br)", "`gzip off;`"),
]


@pytest.mark.parametrize(("headers", "check", "text", "remedy"), HEADERS)
def test_header_is_judged(headers: dict[str, str], check: str, text: str, remedy: str) -> None:
    with serving(lambda head: stream_head(**headers) + FIRST, hold_seconds=5) as url:
        found = of(list(check_stream(Options(url, seconds=0.2))), check)
    assert found.level.name in ("WARNING", "PROBLEM")
    assert text in found.text
    assert "secret" not in found.text
    assert remedy in found.remedy


def test_stream_in_brotli_is_examined_without_it() -> None:
    """The standard library cannot decompress it, so that the rest is checked on a second stream."""

    def answer(head: str) -> bytes:
        if "br," in head:
            return stream_head(Content_Encoding="br") + b"\x0b\x02\x80"
        return stream_head() + (FIRST.replace(b"checkpoint", b"reset") if "ID: streams-doctor" in head else FIRST)

    with serving(answer, hold_seconds=2) as url:
        findings = list(check_stream(Options(url, seconds=0.2)))
    assert of(findings, "compression").level.name == "WARNING"
    assert "continued at its last id" in of(findings, "reconnect").text


ORIGIN = "https://app.example"
CORS = [
    ({}, "problem", "CORS_ALLOWED_ORIGINS = ['https://app.example']"),
    ({"Access_Control_Allow_Origin": "https://other.example"}, "problem", "CORS_ALLOWED_ORIGINS"),
    ({"Access_Control_Allow_Origin": ORIGIN}, "warning", "CORS_ALLOW_CREDENTIALS"),
    ({"Access_Control_Allow_Origin": ORIGIN, "Access_Control_Allow_Credentials": "true"}, "ok", ""),
]


@pytest.mark.parametrize(("headers", "level", "remedy"), CORS)
def test_cors_is_judged(headers: dict[str, str], level: str, remedy: str) -> None:
    with serving(lambda head: stream_head(**headers) + FIRST, hold_seconds=5) as url:
        found = of(list(check_stream(Options(url, seconds=0.2, origin=ORIGIN))), "CORS")
    assert found.level.name.lower() == level
    assert remedy in found.remedy


def test_connection_failures_are_explained() -> None:
    refused = list(check_stream(Options(f"http://127.0.0.1:{free_port()}/")))
    assert "refuses connections" in of(refused, "connection").text
    unknown = list(check_stream(Options("http://no-such-host.invalid/")))
    assert "has no address" in of(unknown, "connection").text
    with serving(lambda head: b"SSH-2.0-OpenSSH\r\n") as url:
        other = list(check_stream(Options(url)))
        assert "did not answer in HTTP/1.1" in of(other, "connection").text
        no_tls = list(check_stream(Options(url.replace("http:", "https:"))))
        assert "does not speak TLS" in of(no_tls, "connection").text


def test_silent_server_is_found_in_time() -> None:
    with serving(lambda head: None) as url:
        findings = list(check_stream(Options(url)))
    assert "did not answer within 0.5 s" in of(findings, "answer").text


def test_head_that_drips_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes before the timeout of the socket, and the end never comes."""
    listening = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        connection, _ = listening.accept()
        with connection, listening, contextlib.suppress(OSError):
            for _ in range(600):
                connection.sendall(b"H")
                time.sleep(0.05)

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    findings = list(check_stream(Options(f"http://127.0.0.1:{listening.getsockname()[1]}/")))
    thread.join(20)
    assert not thread.is_alive()
    assert complaints(findings)[0][0] == "problem"


@pytest.mark.parametrize(
    "url", ["example.com/events/", "ftp://example.com/", "https://user:pw@example.com/", "http:///"]
)
def test_wrong_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL must") as caught:
        list(check_stream(Options(url)))
    assert "pw@" not in str(caught.value)


def test_channel_is_added_to_the_mount(settings: Any) -> None:
    settings.STREAMS = {"PUBLIC_CHANNELS": ["score.*", "news"]}

    def answer(head: str) -> bytes:
        if "channel=news" in head.split()[1]:
            return stream_head() + FIRST
        return http("400 Bad Request", own("missing-channel"))

    with serving(answer, hold_seconds=5) as url:
        assert of(list(check_stream(Options(url, seconds=0.2))), "answer").text.endswith("is a stream.")
        settings.STREAMS = {"PUBLIC_CHANNELS": ["score.*"]}
        assert "names no channel" in of(list(check_stream(Options(url, seconds=0.2))), "answer").text
