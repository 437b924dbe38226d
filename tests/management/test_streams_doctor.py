"""manage.py streams_doctor: its output, its exit status, and its options. tests/doctor has the checks."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from streams.doctor.findings import Finding, ok, problem, warning
from streams.management.commands import streams_doctor

pytestmark = pytest.mark.once

GOOD = ok("migrations", "All migrations of Streams are applied.")
DOUBTFUL = warning("HTTP/2", "Six connections.", "Write `http2 on;`.")
BAD = problem("heartbeat", "The stream was cut.", "Write `proxy_read_timeout 60s;`.")


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """Return the list of findings that the checks of the site yield."""
    given: list[Finding] = []
    monkeypatch.setattr(streams_doctor, "check_site", lambda: iter(given))
    return given


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the list of options with which streams are checked."""
    given: list[Any] = []

    def check(options: Any) -> Iterator[Finding]:
        given.append(options)
        yield GOOD

    monkeypatch.setattr(streams_doctor, "check_stream", check)
    return given


def run(*args: str, **options: Any) -> str:
    out = io.StringIO()
    call_command("streams_doctor", *args, stdout=out, no_color=True, **options)
    return out.getvalue()


def test_findings_are_printed_with_their_remedies(findings: list[Finding]) -> None:
    findings += [GOOD, DOUBTFUL]
    assert run() == (
        "ok       migrations        All migrations of Streams are applied.\n"
        "warning  HTTP/2            Six connections.\n"
        "                           → Write `http2 on;`.\n"
        "Found 0 problems, 1 warning, 1 ok.\n"
    )


def test_problem_fails_the_command(findings: list[Finding]) -> None:
    findings += [GOOD, BAD]
    with pytest.raises(CommandError, match=r"^Found 1 problem, 0 warnings, 1 ok\.$") as caught:
        run()
    assert caught.value.returncode == 1


def test_warning_fails_only_if_asked(findings: list[Finding]) -> None:
    findings += [GOOD, DOUBTFUL]
    run()
    with pytest.raises(CommandError):
        run("--fail-level", "WARNING")
    findings.clear()
    run("--fail-level", "WARNING")


def test_json_is_for_machines(findings: list[Finding]) -> None:
    findings += [DOUBTFUL, GOOD]
    assert json.loads(run("--json")) == [
        {"level": "warning", "check": "HTTP/2", "text": "Six connections.", "remedy": "Write `http2 on;`."},
        {"level": "ok", "check": "migrations", "text": "All migrations of Streams are applied.", "remedy": ""},
    ]


def test_log_is_silent_and_comes_back(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def check() -> Iterator[Finding]:
        logging.getLogger("streams").error("during")
        yield GOOD

    monkeypatch.setattr(streams_doctor, "check_site", check)
    run()
    assert caplog.messages == []
    run(verbosity=2)
    assert caplog.messages == ["during"]
    logging.getLogger("streams").error("after")
    assert caplog.messages == ["during", "after"]


def test_options_reach_the_check(findings: list[Finding], opened: list[Any], tmp_path: Path) -> None:
    (tmp_path / "headers").write_text("X-A: 1\n\nCookie: sessionid=s; b=c\n")
    args = ["--header", "X-B:2", "--headers-from", str(tmp_path / "headers"), "--token", "streams.x", "--seconds", "7"]
    run("https://example.com/events/news/", *args, "--publish", "news", "--origin", "https://a.example", "--insecure")
    [options] = opened
    assert options.url == "https://example.com/events/news/"
    assert options.headers == {
        "X-A": "1",
        "X-B": "2",
        "Cookie": "sessionid=s; b=c",
        "Authorization": "Bearer streams.x",
    }
    assert (options.seconds, options.publish, options.origin) == (7, "news", "https://a.example")
    assert options.insecure is True
    assert "sessionid" not in repr(options)


def test_headers_are_read_from_standard_input(
    findings: list[Finding], opened: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("X-A: 1\n"))
    run("https://example.com/", "--headers-from", "-")
    assert opened[0].headers == {"X-A": "1"}


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["not-a-url"], "URL must be an absolute URL, such as https://example.com/events/news/."),
        (["https://u:secret@example.com/"], "URL must not contain a password"),
        (["http://a.example/", "--header", "Cookie secret"], "A header must be 'NAME: VALUE'"),
        (["http://a.example/", "--header", "Cookie: secret\r\nX: 1"], "A header must be 'NAME: VALUE'"),
        (["http://a.example/", "--header", "Co kie: secret"], "A header must be 'NAME: VALUE'"),
        (["http://a.example/", "--token", "sécret"], "A header must be 'NAME: VALUE'"),
        (["http://a.example/", "--headers-from", "/no/such/file"], "FileNotFoundError"),
        (["http://a.example/", "--seconds", "0"], "--seconds must be a number above 0"),
        (["http://a.example/", "--seconds", "nan"], "--seconds must be a number above 0"),
        (["http://a.example/", "--publish", "a b"], "Channel names use"),
        (["--publish", "news"], "These options need a URL"),
    ],
)
def test_wrong_option_is_refused(findings: list[Finding], args: list[str], text: str) -> None:
    with pytest.raises(CommandError) as caught:
        run(*args)
    assert text in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "sécret" not in str(caught.value)
