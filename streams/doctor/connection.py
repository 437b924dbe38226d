"""An HTTP client that reads a stream as it arrives, and measures. It uses the standard library only.

It uses no proxy of the environment, and follows no redirect: the caller decides.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from streams.protocol.sse import DecodedEvent, EventStreamDecoder

CONNECT_SECONDS = 10.0

# What a browser accepts, so that a proxy compresses for us as it would for a browser.
BROWSER_ENCODINGS = "gzip, deflate, br, zstd"
UNCOMPRESSED = "identity"

# The encodings that Response decodes. The standard library of Python 3.11 has no others.
DECODED = ("", "gzip", "deflate")

MAX_BODY_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Target:
    """A URL to open. str() shows it without its query, which can contain a token."""

    scheme: str
    host: str
    port: int
    path: str  # with the query

    @classmethod
    def parse(cls, url: str) -> Target:
        """Raise ValueError if `url` is not an absolute http or https URL."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("URL must be an absolute URL, such as https://example.com/events/news/.")
        if parts.username is not None:
            raise ValueError("URL must not contain a password. Use --header 'Authorization: Basic …'.")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if any(character <= " " or character > "~" for character in path):
            raise ValueError("URL must be percent-encoded: it contains a space or a character that is not ASCII.")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return cls(parts.scheme, parts.hostname, port, path)

    @property
    def is_local(self) -> bool:
        """True for an address of this machine, such as that of a server behind the proxy."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def join(self, location: str) -> Target:
        """Return the target of a redirect. Raise ValueError if it is not valid."""
        return Target.parse(urljoin(self.url, location))

    def is_same_site(self, other: Target) -> bool:
        """Return True if credentials for this URL can be sent to `other`: the same host, and TLS if this one has it."""
        has_port = self.port in (80, 443) and other.port in (80, 443)
        return self.host == other.host and (has_port or self.port == other.port) and self.scheme <= other.scheme

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path.partition('?')[0]}"


@dataclass(frozen=True, slots=True)
class Piece:
    """The events that a piece of the body completes, which arrived `seconds` after the request was sent."""

    seconds: float
    events: list[DecodedEvent]

    @property
    def is_quiet(self) -> bool:
        """Return True if it holds only a heartbeat: a comment, or a checkpoint."""
        return all(event.event == "stream-checkpoint" for event in self.events)


class Response:
    """An open response. `pieces()` reads it."""

    def __init__(self, connection: http.client.HTTPConnection, sent_at: float) -> None:
        self._socket = connection.sock  # getresponse() can take it away from the connection
        self._response = connection.getresponse()
        self._sent_at = sent_at
        self.head_seconds = time.monotonic() - sent_at
        self.status = self._response.status
        self.headers = self._response.headers
        self.body = b""  # the first bytes, decompressed
        self.has_ended = False
        self.decoder = EventStreamDecoder()
        self._zlib = zlib.decompressobj(47) if self.encoding in DECODED[1:] else None

    @property
    def encoding(self) -> str:
        """Return the Content-Encoding in lower case, or "" for none."""
        value = self.headers.get("Content-Encoding", "").strip().lower()
        return "" if value == "identity" else value

    @property
    def content_type(self) -> str:
        return self.headers.get_content_type() if "Content-Type" in self.headers else ""

    @property
    def seconds(self) -> float:
        """Return the seconds since the request was sent."""
        return time.monotonic() - self._sent_at

    def pieces(self, seconds: float) -> Iterator[Piece]:
        """Yield each piece that arrives within `seconds` of the request. `has_ended` is True if the body has ended.

        Do not call it again after it has waited for the whole time: http.client cannot read on after a timeout.
        """
        with _deadline(self._socket, seconds - self.seconds + 1):
            while (remaining := seconds - self.seconds) > 0 and not self.has_ended:
                try:
                    self._socket.settimeout(remaining)
                    data = self._response.read1(65_536)
                except TimeoutError:
                    return
                except (OSError, http.client.HTTPException, ValueError):
                    data = b""
                if not data:
                    self.has_ended = True
                    return
                plain = self._decompress(data)
                if len(self.body) < MAX_BODY_BYTES:
                    self.body += plain
                yield Piece(self.seconds, self.decoder.feed(plain))

    def close(self) -> None:
        self._response.close()

    def _decompress(self, data: bytes) -> bytes:
        if self._zlib is None:
            return b"" if self.encoding else data
        plain = b""
        with contextlib.suppress(zlib.error):
            while data:
                plain += self._zlib.decompress(data)
                data = self._zlib.unused_data
                if data:  # some servers compress each chunk by itself
                    self._zlib = zlib.decompressobj(47)
        return plain


def tls_context(*, insecure: bool, protocols: list[str]) -> ssl.SSLContext:
    """Return a context that offers `protocols` by ALPN. `insecure`: accept any certificate."""
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(protocols)
    return context


@contextlib.contextmanager
def request(
    target: Target, headers: Mapping[str, str], *, seconds: float, insecure: bool = False, method: str = "GET"
) -> Iterator[Response]:
    """Send a request, and yield its response once its head has arrived.

    Raises OSError or HTTPException, and TimeoutError if there is no head within `seconds`. The connection is shut down
    `seconds` plus a second after the request at the latest, however slowly bytes arrive, unless the head arrived.
    """
    if target.scheme == "https":
        context = tls_context(insecure=insecure, protocols=["http/1.1"])
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            target.host, target.port, timeout=min(seconds, CONNECT_SECONDS), context=context
        )
    else:
        connection = http.client.HTTPConnection(target.host, target.port, timeout=min(seconds, CONNECT_SECONDS))
    given = {name.lower() for name in headers}
    try:
        connection.connect()
        connection.putrequest(method, target.path, skip_host="host" in given, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        sent_at = time.monotonic()
        connection.sock.settimeout(seconds)
        with _deadline(connection.sock, seconds + 1):
            response = Response(connection, sent_at)
        with contextlib.closing(response):
            yield response
    finally:
        connection.close()


@contextlib.contextmanager
def _deadline(sock: socket.socket, seconds: float) -> Iterator[None]:
    """Shut the socket down after `seconds`: a head that arrives byte by byte never exceeds the socket's timeout."""

    def shut_down() -> None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not that of SSLSocket, which takes its state apart

    timer = threading.Timer(seconds, shut_down)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def offers_http2(target: Target, *, insecure: bool) -> bool:
    """Return True if the server chooses HTTP/2 by ALPN, as it would for a browser. Raises OSError."""
    context = tls_context(insecure=insecure, protocols=["h2", "http/1.1"])
    with (
        socket.create_connection((target.host, target.port), timeout=CONNECT_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=target.host) as secure,
    ):
        return secure.selected_alpn_protocol() == "h2"
