"""The doctor finds what a proxy does to streams. nginx runs the configuration of the docs, with one thing wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.services import free_port, missing, nginx
from tests.support.services.nginx import NginxServer
from tests.support.sites import Server, Site
from tests.system.doctor.support import Report, examine

pytestmark = pytest.mark.once

# In the documented file, these lines of the location of the streams.
UNBUFFERED = "proxy_buffering off;        # send each event at once"
TIMEOUT = "proxy_read_timeout 60s;     # four heartbeats"

# nginx passes chunks on, also if it buffers (seen in 1.22). It collects the bytes of a response without chunks, such as
# daphne's over HTTP/1.0, which is the default of this nginx.
BUFFERED = "proxy_ignore_headers X-Accel-Buffering; proxy_buffering on;  #"
BUFFERED_BYTES = f"proxy_http_version 1.0; {BUFFERED}"

MakeProxy = Callable[..., NginxServer]


@pytest.fixture
def site(sqlite_site: Site) -> Site:
    return sqlite_site.settings(HEARTBEAT_SECONDS=2, PRESENCE_SECONDS=1, TRUSTED_PROXIES=["127.0.0.1"])


@pytest.fixture
def server(site: Site) -> Server:
    return site.serve()


@pytest.fixture
def proxy() -> Iterator[MakeProxy]:
    if nginx.program() is None:
        missing("nginx", "nginx")
    started: list[NginxServer] = []

    def make(server: int | Server, **options: Any) -> NginxServer:
        port = server if isinstance(server, int) else server.port
        started.append(NginxServer([port] * 4, **options).start())
        return started[-1]

    yield make
    for each in started:
        each.remove()


def through(site: Site, proxy: NginxServer) -> Report:
    """Examine a stream through the proxy, for two heartbeats."""
    return examine(site, f"http://127.0.0.1:{proxy.port}/events/news/", "--seconds", "4.5")


def test_documented_proxy_has_no_complaint(postgres_site: Site, proxy: MakeProxy) -> None:
    """Over TLS with HTTP/2, on PostgreSQL, with test messages. The certificate is self-signed."""
    postgres_site.settings(HEARTBEAT_SECONDS=2, PRESENCE_SECONDS=1, TRUSTED_PROXIES=["127.0.0.1"], POLL_SECONDS=30)
    postgres_site.settings(NOTIFIER={"BACKEND": "streams.notifiers.postgres.PostgresNotifier"})
    url = f"https://127.0.0.1:{proxy(postgres_site.serve(), secure=True).secure_port}/events/news/"
    report = examine(postgres_site, url, "--insecure", "--publish", "news")
    # On a busy machine the first event can be late.
    assert [each for each in report.findings if each["level"] != "ok" and each["check"] != "first event"] == []
    assert report.code == 0
    assert "Heartbeats arrive" in report.of("heartbeat")["text"]
    assert "got the 2 messages" in report.of("reconnect")["text"]
    assert "Browsers use HTTP/2" in report.of("HTTP/2")["text"]
    assert "does not pass on addresses" in report.of("client address")["text"]


def test_own_certificate_is_refused_without_insecure(site: Site, server: Server, proxy: MakeProxy) -> None:
    report = examine(site, f"https://127.0.0.1:{proxy(server, secure=True).secure_port}/events/news/")
    assert report.problems() == ["certificate"]
    assert "`ssl_certificate`" in report.of("certificate")["remedy"]
    assert report.code == 1


def test_buffering_proxy_is_found(site: Site, proxy: MakeProxy) -> None:
    report = through(site, proxy(site.serve("daphne"), changes={UNBUFFERED: BUFFERED_BYTES}))
    assert report.problems() == ["buffering"]
    assert "`proxy_buffering off;`" in report.of("buffering")["remedy"]
    assert "proxy_ignore_headers X-Accel-Buffering" in report.of("buffering")["remedy"]


COMPRESS = {"gzip off;  ": "gzip on; gzip_proxied any; gzip_min_length 0; gzip_types text/event-stream; "}


def test_compressing_proxy_is_found(site: Site, server: Server, proxy: MakeProxy) -> None:
    """nginx passes each event on if it compresses without buffering, so that this is only a warning."""
    report = through(site, proxy(server, changes=COMPRESS))
    assert report.problems() == []
    assert report.of("compression")["level"] == "warning"
    assert "(gzip)" in report.of("compression")["text"]
    assert "`gzip off;`" in report.of("compression")["remedy"]
    assert "continued at its last id" in report.of("reconnect")["text"]


def test_compressor_that_holds_events_back_is_found(site: Site, server: Server, proxy: MakeProxy) -> None:
    """With buffering, nginx does not flush its compressor after each event. Clients without compression get them."""
    report = through(site, proxy(server, changes={**COMPRESS, UNBUFFERED: BUFFERED}))
    assert report.problems() == ["compression"]
    assert "Without compression, it arrived at once" in report.of("compression")["text"]
    assert "remove `text/event-stream` from `gzip_types`" in report.of("compression")["remedy"]


def test_short_timeout_of_the_proxy_is_found(site: Site, server: Server, proxy: MakeProxy) -> None:
    report = through(site, proxy(server, changes={TIMEOUT: "proxy_read_timeout 1s; #"}))
    assert report.problems() == ["heartbeat"]
    assert "The server sends a heartbeat after 2 s, which is too late" in report.of("heartbeat")["text"]
    assert "`proxy_read_timeout 8s;`" in report.of("heartbeat")["remedy"]


def test_proxy_without_servers_is_found(site: Site, proxy: MakeProxy) -> None:
    """The documented proxy answers in their place, and another one with 502."""
    report = through(site, proxy(free_port()))
    assert report.problems() == ["answer"]
    assert "in place of the site's servers" in report.of("answer")["text"]
    assert "`upstream=502`" in report.of("answer")["remedy"]

    report = through(site, proxy(free_port(), changes={"error_page 502 503 504 = @away;": ""}))
    assert report.problems() == ["answer"]
    assert "answers 502" in report.of("answer")["text"]
    assert "`server` lines of `upstream`" in report.of("answer")["remedy"]
    assert "`error_page 502 503 504 = @away;`" in report.of("answer")["remedy"]


def test_proxy_that_drops_the_cursor_is_found(site: Site, server: Server, proxy: MakeProxy) -> None:
    """The messages of each interruption are lost, although every connection looks good."""
    line = 'proxy_set_header Connection "";'
    changes = {line: f'{line} proxy_set_header Last-Event-ID "";'}
    report = through(site, proxy(server, changes=changes))
    assert report.problems() == ["reconnect"]
    assert "Last-Event-ID" in report.of("reconnect")["remedy"]


def test_forwarded_address_of_clients_is_found(site: Site, server: Server, proxy: MakeProxy) -> None:
    changes = {"X-Forwarded-For $remote_addr;": "X-Forwarded-For $http_x_forwarded_for;"}
    report = through(site, proxy(server, changes=changes))
    assert report.problems() == ["client address"]
    assert "`proxy_set_header X-Forwarded-For $remote_addr;`" in report.of("client address")["remedy"]


def test_unnamed_proxy_is_found(sqlite_site: Site, proxy: MakeProxy) -> None:
    sqlite_site.settings(HEARTBEAT_SECONDS=1)
    report = through(sqlite_site, proxy(sqlite_site.serve()))
    assert report.problems() == []
    assert report.of("client address")["level"] == "warning"
    assert "'TRUSTED_PROXIES': ['127.0.0.1']" in report.of("client address")["remedy"]


def test_cached_and_cookied_streams_are_found(site: Site, server: Server, proxy: MakeProxy) -> None:
    added = (
        'add_header Set-Cookie "visitor=1"; proxy_hide_header Cache-Control; add_header Cache-Control "max-age=60"; #'
    )
    report = through(site, proxy(server, changes={"proxy_cache off;\n            proxy_read": f"{added}\nproxy_read"}))
    assert report.problems() == ["caching"]
    assert "`proxy_cache off;`" in report.of("caching")["remedy"]
    assert "visitor" in report.of("cookies")["text"]
    assert "SESSION_SAVE_EVERY_REQUEST" in report.of("cookies")["remedy"]


def test_tls_without_http2_is_found(site: Site, server: Server, proxy: MakeProxy) -> None:
    made = proxy(server, secure=True, http2=False)
    report = examine(site, f"https://127.0.0.1:{made.secure_port}/events/news/", "--insecure", "--seconds", "1")
    assert report.problems() == []
    assert "six connections" in report.of("HTTP/2")["text"]
    assert "`http2 on;`" in report.of("HTTP/2")["remedy"]
