"""HTTP over a bare socket: send arbitrary bytes, and parse the server's answer."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from tests.support.sites import connect

TOKEN = "t" * 32  # a CSRF token is valid if the cookie and the header have the same one
WITH_TOKEN = {"Cookie": f"csrftoken={TOKEN}", "X-CSRFToken": TOKEN}


@dataclass(frozen=True)
class Answer:
    """An HTTP response. `status` is 0 if the connection was closed without an answer."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """Return the values of all headers with this name, joined by commas, or None."""
        values = [value for known, value in self.headers if known == name]
        return ", ".join(values) if values else None

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Return the code of one of Streams' JSON errors."""
        return str(self.json["error"]["code"])


def request(
    path: str | bytes, headers: Mapping[str, str | bytes] | None = None, *, method: str = "GET", body: bytes = b""
) -> bytes:
    """Return a request's bytes. The path and the headers are not escaped."""
    given: dict[str, str | bytes] = {"Host": "127.0.0.1", "Connection": "close", **(headers or {})}
    if body or method == "POST":
        given.setdefault("Content-Length", str(len(body)))
    lines = [_bytes(method) + b" " + _bytes(path) + b" HTTP/1.1"]
    lines += [_bytes(name) + b": " + _bytes(value) for name, value in given.items()]
    return b"\r\n".join([*lines, b"", b""]) + body


def form(path: str, fields: Mapping[str, str] | bytes, headers: Mapping[str, str | bytes] | None = None) -> bytes:
    """Return the bytes of a POST of a form's fields."""
    body = fields if isinstance(fields, bytes) else urlencode(fields).encode()
    return request(
        path, {"Content-Type": "application/x-www-form-urlencoded", **(headers or {})}, method="POST", body=body
    )


def ask(
    port: int,
    data: bytes | Iterable[bytes],
    *,
    until: bytes | Callable[[bytes], bool] | None = None,
    seconds: float = 30,
) -> Answer:
    """Send `data`, or each piece of it, and read the answer to its end or until its body meets `until`.

    A server can answer and close the connection before it has read everything. Then the rest is not sent.
    """
    has_enough = (lambda body: until in body) if isinstance(until, bytes) else until
    with connect(port) as connection:
        connection.settimeout(seconds)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in [data] if isinstance(data, bytes) else data:
                connection.sendall(piece)
        return read(connection, has_enough)


def get(port: int, path: str | bytes, headers: Mapping[str, str | bytes] | None = None, **how: Any) -> Answer:
    """Send a GET request, and return the answer."""
    return ask(port, request(path, headers), **how)


def stream(port: int, path: str | bytes, headers: Mapping[str, str | bytes] | None = None, **how: Any) -> Answer:
    """Open a stream, and return its answer up to and including the first checkpoint; or return the refusal."""
    return ask(port, request(path, headers, method=how.pop("method", "GET")), **{"until": is_open, **how})


def is_open(body: bytes) -> bool:
    """Return True if a stream's body contains a complete checkpoint."""
    return b"\n\n" in body.partition(b"event: stream-checkpoint\n")[2]


def read(connection: socket.socket, has_enough: Callable[[bytes], bool] | None = None) -> Answer:
    """Read one answer from a connection."""
    received = bytearray()

    def more() -> bool:
        try:
            data = connection.recv(1 << 16)
        except ConnectionResetError:
            return False
        received.extend(data)
        return bool(data)

    while b"\r\n\r\n" not in received:
        if not more():
            return Answer(0, (), bytes(received))
    head, _, rest = bytes(received).partition(b"\r\n\r\n")
    line, *lines = head.decode("latin-1").split("\r\n")
    pairs = (each.partition(":") for each in lines)
    headers = tuple((name.strip().lower(), value.strip()) for name, _, value in pairs)
    answer = Answer(int(line.split()[1]), headers, b"")
    length, chunked = answer.header("content-length"), answer.header("transfer-encoding") == "chunked"
    received[:] = rest
    while True:
        body, is_whole = _dechunked(bytes(received)) if chunked else (bytes(received), False)
        if is_whole or (length is not None and len(body) >= int(length)) or (has_enough and has_enough(body)):
            break
        if not more():
            break
    return Answer(answer.status, headers, body)


def _dechunked(data: bytes) -> tuple[bytes, bool]:
    """Return the content of the complete chunks, and whether the last chunk is among them."""
    body = b""
    while b"\r\n" in data:
        size, _, rest = data.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        if length == 0:
            return body, True
        if len(rest) < length + 2:
            break
        body, data = body + rest[:length], rest[length + 2 :]
    return body, False


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")
