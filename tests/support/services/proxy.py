"""A TCP proxy whose connections can fall silent, like connections to a machine that has vanished."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable


class Proxy:
    """Forwards connections to a port of this machine.

    A silent connection stays open and accepts data, but forwards neither data nor the end of the connection.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._accepts_silently = False
        self._links: list[_Link] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def fall_silent(self) -> None:
        """Make all connections silent, including new ones."""
        self._accepts_silently = True
        for link in self._links:
            link.silent = True

    def forward_new(self) -> None:
        """Forward new connections again. Connections that are silent stay silent."""
        self._accepts_silently = False

    def open(self, *, silent: bool) -> int:
        """Return how many connections have not been closed by the client."""
        return sum(link.open for link in self._links if link.silent is silent)

    def close(self) -> None:
        self._listening.close()
        for link in self._links:
            link.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the proxy was closed
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._links.append(_Link(client, server, silent=self._accepts_silently))


class _Link:
    def __init__(self, client: socket.socket, server: socket.socket, *, silent: bool) -> None:
        self.silent = silent
        self.open = True
        self._ends = client, server
        self._start(client, server, self._client_left)
        self._start(server, client, lambda: None)

    def _start(self, source: socket.socket, target: socket.socket, then: Callable[[], None]) -> None:
        threading.Thread(target=self._pump, args=[source, target, then], daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, then: Callable[[], None]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if not self.silent:
                    target.sendall(data)
        then()
        if not self.silent:
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_WR)

    def _client_left(self) -> None:
        self.open = False

    def close(self) -> None:
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
