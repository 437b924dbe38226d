"""HTTP over a bare socket: whatever bytes a test sends, and what the server makes of them."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from tests.support.sites import connect

TOKEN = "t" * 32  # a CSRF token is good that comes twice: by a cookie and by a header
WITH_TOKEN = {"Cookie": f"csrftoken={TOKEN}", "X-CSRFToken": TOKEN}


@dataclass(frozen=True)
class Answer:
    """What came back. `status` is 0 where the connection was closed without an answer."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The header's value, of all that have this name; None where there is none."""
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
        """The word of an error, as ours have one."""
        return str(self.json["error"]["code"])


def request(
    path: str | bytes, headers: Mapping[str, str | bytes] | None = None, *, method: str = "GET", body: bytes = b""
) -> bytes:
    """A request's bytes. Path and headers go out as they are."""
    given: dict[str, str | bytes] = {"Host": "127.0.0.1", "Connection": "close", **(headers or {})}
    if body or method == "POST":
        given.setdefault("Content-Length", str(len(body)))
    lines = [_bytes(method) + b" " + _bytes(path) + b" HTTP/1.1"]
    lines += [_bytes(name) + b": " + _bytes(value) for name, value in given.items()]
    return b"\r\n".join([*lines, b"", b""]) + body


def form(path: str, fields: Mapping[str, str] | bytes, headers: Mapping[str, str | bytes] | None = None) -> bytes:
    """A POST of a form's fields."""
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
    """Send `data`, in pieces where it comes in pieces, and read the answer: to its end, or until a stream has `until`.

    A server may answer before it has read everything, and close: then the rest is not sent.
    """
    has_enough = (lambda body: until in body) if isinstance(until, bytes) else until
    with connect(port) as connection:
        connection.settimeout(seconds)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in [data] if isinstance(data, bytes) else data:
                connection.sendall(piece)
        return read(connection, has_enough)


def get(port: int, path: str | bytes, headers: Mapping[str, str | bytes] | None = None, **how: Any) -> Answer:
    """The answer to a GET."""
    return ask(port, request(path, headers), **how)


def stream(port: int, path: str | bytes, headers: Mapping[str, str | bytes] | None = None, **how: Any) -> Answer:
    """As much of a stream as comes before its first checkpoint, and that; or the refusal."""
    return ask(port, request(path, headers, method=how.pop("method", "GET")), **{"until": is_open, **how})


def is_open(body: bytes) -> bool:
    """Whether a stream's body has had a whole checkpoint."""
    return b"\n\n" in body.partition(b"event: stream-checkpoint\n")[2]


def read(connection: socket.socket, has_enough: Callable[[bytes], bool] | None = None) -> Answer:
    """The answer that comes over a connection."""
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
    """The whole chunks' content, and whether the last one is among them."""
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
