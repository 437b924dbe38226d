"""A server with canned answers, to which the doctor is sent."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

from streams.doctor.findings import Finding, Level

Answer = Callable[[str, socket.socket], None]

FIRST = b"retry: 3000\nevent: stream-checkpoint\nid: 5\ndata: {}\n\n"


def http(status: str, body: str = "", **headers: str) -> bytes:
    """Return a whole response. Underscores in the names of headers stand for hyphens."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body.encode())}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", body]).encode()


def stream_head(**headers: str) -> bytes:
    given = {"Content_Type": "text/event-stream", "Cache_Control": "no-cache", "Connection": "close", **headers}
    lines = ["HTTP/1.1 200 OK", *(f"{name.replace('_', '-')}: {value}" for name, value in given.items())]
    return "\r\n".join([*lines, "", ""]).encode()


@contextlib.contextmanager
def serving(answer: Callable[[str], bytes | None], *, hold_seconds: float = 0.0) -> Iterator[str]:
    """Serve on a free port, and yield the URL of a stream.

    answer: called with the head of each request. It returns the bytes of the response, or None for no answer.
    hold_seconds: how long a connection stays open after the response.
    """
    is_over = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(0.1)

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(10)
            head = connection.recv(65_536).decode("latin-1")
            if (data := answer(head)) is not None:
                connection.sendall(data)
                is_over.wait(hold_seconds)
            else:
                is_over.wait(30)

    def accept() -> None:
        while not is_over.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = listening.accept()
                threading.Thread(target=serve, args=[connection], daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/events/news/"
    finally:
        is_over.set()
        thread.join()
        listening.close()


def of(findings: list[Finding], check: str) -> Finding:
    """Return the only finding of this check."""
    [found] = [finding for finding in findings if finding.check == check]
    return found


def complaints(findings: list[Finding]) -> list[tuple[str, str]]:
    """Return (level, check) of the findings that are not OK."""
    return [(each.level.name.lower(), each.check) for each in findings if each.level is not Level.OK]
