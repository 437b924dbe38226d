"""Python processes that start in a tenth of a second: forked from one that has already imported the libraries.

A test starts some hundreds of processes that use Django, and each would spend most of a second on importing it. What
is forked has imported libraries only: it reads the settings, sets Django up and opens its connections by itself, as any
other process does. `nursery` runs in the process that is forked from, and `ForkedProcess` is the side of the tests.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

# Libraries that need no settings. None of them may start a thread or open a file as it is imported: what a process
# has open, its children share. (daphne.server would: it makes an event loop.)
LIBRARIES = [
    "OpenSSL.SSL",
    "asyncio",
    "autobahn.websocket.protocol",
    "channels.layers",
    "concurrent.futures.thread",
    "cryptography.x509",
    "django.contrib.admin.options",
    "django.contrib.admin.views.main",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.core.handlers.asgi",
    "django.core.mail",
    "django.core.management.commands.migrate",
    "django.db.backends.postgresql.psycopg_any",
    "django.db.backends.sqlite3.base",
    "django.db.migrations.executor",
    "django.db.models",
    "django.forms.models",
    "django.template.defaulttags",
    "django.test.client",
    "django.utils.autoreload",
    "django.utils.translation.trans_real",
    "django.views.debug",
    "http.client",
    "hypothesis",
    "logging.config",
    "playwright.async_api",
    "psutil",
    "psycopg",
    "psycopg.types.json",
    "pytest",
    "pytest_asyncio",
    "rest_framework",
    "rest_framework.compat",
    "twisted.internet.asyncioreactor",
    "twisted.internet.defer",
    "twisted.internet.endpoints",
    "twisted.logger",
    "twisted.protocols.tls",
    "twisted.web.http",
    "urllib.request",
    "uvicorn.lifespan.on",
    "uvicorn.main",
    "uvicorn.protocols.http.httptools_impl",
    "uvloop",
    "whitenoise.middleware",
]


MAIN = "import runpy, sys; runpy.run_path(sys.argv[0], run_name='__main__')"  # the program that argv names


class ForkedProcess:
    """A process that runs code, with pipes to it: what subprocess.Popen is, as far as the tests use it.

    Args:
        code: Python that it runs, in the folder of the project.
        argv: its sys.argv.
        env: its whole environment.
        log: the file to whose end it writes stdout and stderr, which are no pipes then.
    """

    def __init__(self, code: str, argv: list[str], env: dict[str, str], log: Path | None = None) -> None:
        self.args = [code, *argv]
        self.returncode: int | None = None
        stdin, stdout, stderr, fate = (os.pipe() for _ in range(4))
        theirs = [stdin[0], stdout[1], stderr[1], fate[1]]
        if log is not None:
            for end in theirs[1:3]:
                with log.open("ab") as file:
                    os.dup2(file.fileno(), end)
        self.stdin = os.fdopen(stdin[1], "w")
        self.stdout = os.fdopen(stdout[0])
        self.stderr = os.fdopen(stderr[0])
        self._fate = os.fdopen(fate[0], "rb", buffering=0)
        _Nursery.shared().bear({"code": code, "argv": argv, "env": env}, theirs)
        for end in theirs:
            os.close(end)
        self.pid = int(self._line())

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            byte = self._fate.read(1)
            if not byte:
                raise RuntimeError("The process that tests fork from has ended.")
            line += byte
        return line

    def hear(self, word: str) -> None:
        """Wait until it has printed `word`, as its next line."""
        line = self.stdout.readline().removesuffix("\n")
        assert line == word, f"expected {word!r}, got {line!r}; {self.communicate() if not line else ''}"

    def tell(self, word: str = "") -> None:
        """Write a line to its stdin."""
        self.stdin.write(f"{word}\n")
        self.stdin.flush()

    def poll(self) -> int | None:
        """The code with which it ended, a negative signal number where one ended it; None while it runs."""
        return self._ended(0)

    def _ended(self, seconds: float | None) -> int | None:
        if self.returncode is None and select.select([self._fate], [], [], seconds)[0]:
            self.returncode = os.waitstatus_to_exitcode(int(self._line()))
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, which: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, which)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """End it where it still runs, and close the pipes."""
        self.kill()
        self.wait()
        for stream in (self.stdin, self.stdout, self.stderr, self._fate):
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def communicate(self, input: str | None = None, timeout: float | None = None) -> tuple[str, str]:
        """Write `input`, close its stdin, and wait for its end; returns what it wrote on stdout and stderr."""
        written: dict[str, str] = {}

        def read(name: str) -> None:
            stream = getattr(self, name)
            written[name] = "" if stream.closed else stream.read()

        readers = [threading.Thread(target=read, args=(name,), daemon=True) for name in ("stdout", "stderr")]
        for reader in readers:
            reader.start()
        with contextlib.suppress(BrokenPipeError):
            if not self.stdin.closed:
                self.stdin.write(input or "")
                self.stdin.close()
        self.wait(timeout)
        for reader in readers:
            reader.join()
        self.close()
        return written["stdout"], written["stderr"]


class _Nursery:
    """The process that others are forked from: one for each process of pytest."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "tests.support.forks", str(theirs.fileno())]
            self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()])
        atexit.register(self.close)

    @staticmethod
    @functools.cache
    def shared() -> _Nursery:
        return _Nursery()

    def bear(self, what: dict[str, Any], ends: list[int]) -> None:
        self._socket.sendmsg(
            [json.dumps(what).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", ends))]
        )

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


def nursery(orders: socket.socket) -> dict[str, Any] | None:
    """Fork a process for each order. Returns the order in that process, and None when nobody is left to give one."""
    for name in LIBRARIES:
        importlib.import_module(name)
    assert threading.active_count() == 1
    assert "twisted.internet.reactor" not in sys.modules
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that see to one process each
    gc.freeze()
    while True:
        order, ends, _, _ = socket.recv_fds(orders, 1 << 20, 4)
        if not order:
            return None
        if os.fork() == 0:
            orders.close()
            _become(ends)
            return dict(json.loads(order))
        for end in ends:
            os.close(end)


def _become(ends: list[int]) -> None:
    """Fork once more, and return in that process; this one tells how it ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *standard, fate = ends
    pid = os.fork()
    if pid == 0:
        os.close(fate)
        for number, end in enumerate(standard):
            os.dup2(end, number)
            os.close(end)
        return
    for end in (0, 1, 2, *standard):
        os.close(end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(BrokenPipeError):
        os.write(fate, b"%d\n" % pid)
        os.write(fate, b"%d\n" % os.waitpid(pid, 0)[1])
    os._exit(0)


def run(order: dict[str, Any]) -> None:
    """Do what an interpreter does that has just started. It goes on to its natural end after this."""
    os.environ.clear()
    os.environ.update(order["env"])
    sys.argv[:] = order["argv"]
    sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    exec(compile(order["code"], "<code of a test>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    order = nursery(socket.socket(fileno=int(sys.argv[1])))
    if order is not None:
        run(order)
