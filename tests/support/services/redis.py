"""A Redis server for the tests."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import AbstractContextManager

from tests.support.services import free_port, suspended, wait_until


def program() -> str | None:
    return shutil.which("redis-server")


class RedisServer:
    """A server on a free port, without persistence, that tests can stop, kill, suspend and start again."""

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = tempfile.mkdtemp(prefix="streams-redis-")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        found = program()
        assert found is not None
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen([found, *options, "--dir", self.folder], stdout=subprocess.DEVNULL)
        wait_until(self.is_ready, "Redis's start")

    def is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as probe:
                probe.sendall(b"PING\r\n")
                return probe.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=30)
            self._process = None

    def hanging(self) -> AbstractContextManager[None]:
        """Suspend the server: it answers no client, and closes no connection."""
        return suspended(self.pid)

    def remove(self) -> None:
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)
