"""No log record about a request contains a token, on any server."""

from __future__ import annotations

import asyncio
import logging
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote

import pytest

from streams.redaction import HideTokens, hide, hide_in
from streams.tokens import make_token
from tests.support.clients import StreamClient
from tests.support.services import free_port, missing, nginx, wait_until
from tests.support.sites import Server, Site, command

TEXT = "streams.eyJpIjoiYSJ9:1tABCD:xyz_-0123456789"


@pytest.mark.parametrize(
    ("logged", "left"),
    [
        (f"GET /events/?channel=a&token={TEXT}&x=1 HTTP/1.1", "GET /events/?channel=a&token=…&x=1 HTTP/1.1"),
        (f"Authorization: Bearer {TEXT}", "Authorization: Bearer …"),
        ("GET /events/?token=cut-off", "GET /events/?token=…"),
        ("token=abc&x=1", "token=…&x=1"),
        (f"/login/?next={quote(f'/a/?x=1&token={TEXT}', safe='')}", "/login/?next=%2Fa%2F%3Fx%3D1%26token%3D…"),
        (f"?next={quote(quote(f'/?token={TEXT}', safe=''), safe='')}", "?next=%252F%253Ftoken%253D…"),
        (f"?%74oken={TEXT}", "?%74oken=…"),
        ("/events/?csrftoken=abc streams.hub streams.views", "/events/?csrftoken=abc streams.hub streams.views"),
        ("streams.subscriber_connected", "streams.subscriber_connected"),
    ],
)
def test_tokens_are_hidden_and_nothing_else(logged: str, left: str) -> None:
    assert hide(logged) == left


class _Atoms(dict[str, object]):
    """A dict subclass, like the log arguments of hypercorn and gunicorn."""


def test_tokens_are_hidden_in_nested_data() -> None:
    url = f"/events/?token={TEXT}"
    event = {
        "request": {"url": url, "n": 1},
        "frames": [{"vars": {"request": f"<ASGIRequest: GET '{url}'>"}}, (url, None)],
    }
    hidden = {"request": {"url": "/events/?token=…", "n": 1}}
    hidden["frames"] = [{"vars": {"request": "<ASGIRequest: GET '/events/?token=…'>"}}, ("/events/?token=…", None)]
    assert hide_in(event) == hidden
    assert event["request"]["url"] == url


@pytest.mark.parametrize(
    ("message", "args"),
    [
        (f"GET /?token={TEXT}", ()),
        ('%s "%s" %d %.2f', ("1.2.3.4", f"/?token={TEXT}", 200, 0.5)),
        ("%(path)s %(status)d", ({"path": f"/?token={TEXT}", "status": 200},)),
        ("%(path)s", (_Atoms(path=f"/?token={TEXT}"),)),
        ("%s", (ValueError(f"/?token={TEXT}"),)),
        ("%s", (f"/?token={TEXT}".encode(),)),
        ("GET /?token=%s done", (TEXT,)),
        (ValueError(f"/?token={TEXT}"), ()),
    ],
)
def test_records_lose_their_tokens_in_text_and_arguments(message: Any, args: tuple[object, ...]) -> None:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, message, args, None)
    kind = type(record.args)
    assert HideTokens().filter(record)
    assert "xyz_" not in record.getMessage()
    assert "…" in record.getMessage() or "\\xe2\\x80\\xa6" in record.getMessage()
    assert type(record.args) is kind


class _WithoutText:
    def __str__(self) -> str:
        raise RuntimeError("not now")


def test_argument_that_has_no_text_is_loggings_business() -> None:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "%s", (_WithoutText(),), None)
    assert HideTokens().filter(record)


ACCESS_LOGS = {
    "uvicorn": ["--log-level", "info"],
    "granian": ["--access-log", "--access-log-fmt", "%(path)s?%(query_string)s"],
    "hypercorn": ["--access-logfile", "-"],
    "daphne": ["--access-log", "-"],
}


@pytest.mark.once
@pytest.mark.parametrize("server", ACCESS_LOGS)
async def test_token_in_a_url_is_in_no_log(sqlite_site: Site, server: str) -> None:
    """The access log is on and has lines for the requests, but none contains a token, not even of a refused request."""
    running = _serve(sqlite_site, server)
    good, bad = make_token(read=["job.1"], seconds=60), "streams.forged-and-long-enough"
    client = await StreamClient(running.port, f"/events/job.1/?token={good}").connect()
    assert client.status == 200
    await client.read_control(1)
    await client.close()
    for path in (f"/events/job.1/?token={bad}", f"/no-such-page/?token={good}", f"/admin/?token={good}"):
        try:
            urllib.request.urlopen(f"{running.url}{path}", timeout=30).close()
        except urllib.error.HTTPError as error:
            error.close()
    running.stop()
    log = running.log.read_text()
    assert "/no-such-page/" in log
    assert good.split(":")[1] not in log
    assert good[-20:] not in log
    assert bad not in log


def _serve(site: Site, server: str) -> Server:
    port = free_port()
    argv = command(server, "project.asgi:application", port)
    argv += ACCESS_LOGS[server]
    running = Server(argv, port, site.env, site.folder / f"{server}.log")
    site._servers.append(running)
    return running.start()


@pytest.mark.once
async def test_token_in_a_url_is_not_in_the_access_log_of_nginx(sqlite_site: Site) -> None:
    """nginx runs with the configuration file in docs/operations/deploying."""
    if nginx.program() is None:
        missing("nginx", "nginx")
    running = sqlite_site.serve()
    proxy = nginx.NginxServer([running.port] * 4).start()
    try:
        token = make_token(read=["job.1"])
        client = await StreamClient(proxy.port, f"/events/job.1/?token={token}").connect()
        assert client.status == 200
        await client.close()
        urllib.request.urlopen(f"http://127.0.0.1:{proxy.port}/?token={token}", timeout=30).close()
        log = proxy.folder / "access.log"
        await asyncio.to_thread(wait_until, lambda: "/events/job.1/ HTTP" in log.read_text(), "the stream's line")
        assert token[-20:] not in log.read_text()
    finally:
        proxy.remove()
