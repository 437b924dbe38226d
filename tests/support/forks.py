"""Start Python processes in a tenth of a second, by forking a server process that has already imported the libraries.

The tests start hundreds of processes that use Django, and importing Django takes most of a second in each. A forked
process has only imported the libraries: it reads the settings, sets up Django and opens its connections by itself, as
any other process does. `serve_forks()` runs in the fork server, and the tests use `ForkedProcess`.
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

# Libraries that need no settings. Importing them must not start a thread or open a file, because child processes
# inherit open files. (daphne.server is not here, because importing it creates an event loop.)
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


MAIN = "import runpy, sys; runpy.run_path(sys.argv[0], run_name='__main__')"  # runs the program in argv[0]


class ForkedProcess:
    """A process that runs Python code, with pipes to it. It has the methods of subprocess.Popen that the tests use.

    Args:
        code: The Python code to run, in the project's folder.
        argv: The process's sys.argv.
        env: The process's whole environment.
        log: A file to which stdout and stderr are appended, instead of to pipes.
        errors: Another file for stderr.
    """

    def __init__(
        self, code: str, argv: list[str], env: dict[str, str], log: Path | None = None, errors: Path | None = None
    ) -> None:
        self.args = [code, *argv]
        self.returncode: int | None = None
        stdin, stdout, stderr, status = (os.pipe() for _ in range(4))
        child_ends = [stdin[0], stdout[1], stderr[1], status[1]]
        for end, path in zip(child_ends[1:3], [log, errors or log], strict=True):
            if path is not None:
                with path.open("ab") as file:
                    os.dup2(file.fileno(), end)
        self.stdin = os.fdopen(stdin[1], "w")
        self.stdout = os.fdopen(stdout[0])
        self.stderr = os.fdopen(stderr[0])
        self._status = os.fdopen(status[0], "rb", buffering=0)  # the exit status pipe: the pid, then the exit status
        _ForkServer.shared().start({"code": code, "argv": argv, "env": env}, child_ends)
        for end in child_ends:
            os.close(end)
        self.pid = int(self._read_status())

    def _read_status(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            byte = self._status.read(1)
            if not byte:
                raise RuntimeError("The fork server has ended.")
            line += byte
        return line

    def expect_line(self, expected: str) -> None:
        """Wait for the process's next line of output, and assert that it is `expected`."""
        line = self.stdout.readline().removesuffix("\n")
        assert line == expected, f"expected {expected!r}, got {line!r}; {self.communicate() if not line else ''}"

    def write_line(self, line: str = "") -> None:
        """Write a line to the process's stdin."""
        self.stdin.write(f"{line}\n")
        self.stdin.flush()

    def poll(self) -> int | None:
        """Return the exit code, or a negative signal number if a signal ended the process, or None while it runs."""
        return self._exit_code(0)

    def _exit_code(self, seconds: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], seconds)[0]:
            self.returncode = os.waitstatus_to_exitcode(int(self._read_status()))
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        code = self._exit_code(timeout)
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
        """Kill the process if it still runs, and close the pipes."""
        self.kill()
        self.wait()
        for stream in (self.stdin, self.stdout, self.stderr, self._status):
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def communicate(self, input: str | None = None, timeout: float | None = None) -> tuple[str, str]:
        """Write `input`, close stdin and wait for the process to end. Return its stdout and stderr."""
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


class _ForkServer:
    """The process that forks all others. Each pytest process has one."""

    def __init__(self) -> None:
        self._socket, server_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with server_end:
            command = [sys.executable, "-m", "tests.support.forks", str(server_end.fileno())]
            self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=[server_end.fileno()])
        atexit.register(self.close)

    @staticmethod
    @functools.cache
    def shared() -> _ForkServer:
        return _ForkServer()

    def start(self, request: dict[str, Any], ends: list[int]) -> None:
        """Start a process. `ends` are its ends of the pipes: stdin, stdout, stderr and the exit status pipe."""
        self._socket.sendmsg(
            [json.dumps(request).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", ends))]
        )

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


def serve_forks(requests: socket.socket) -> dict[str, Any] | None:
    """Fork a process for each request. Return the request in the new process, or None when the socket is closed."""
    for name in LIBRARIES:
        importlib.import_module(name)
    assert threading.active_count() == 1
    assert "twisted.internet.reactor" not in sys.modules
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # this process does not wait for the supervisors that it forks
    gc.freeze()
    while True:
        request, ends, _, _ = socket.recv_fds(requests, 1 << 20, 4)
        if not request:
            return None
        if os.fork() == 0:
            requests.close()
            _supervise(ends)
            return dict(json.loads(request))
        for end in ends:
            os.close(end)


def _supervise(ends: list[int]) -> None:
    """Fork again and return in the new process only. This process waits for it and reports its exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *standard, status = ends
    pid = os.fork()
    if pid == 0:
        os.close(status)
        for number, end in enumerate(standard):
            os.dup2(end, number)
            os.close(end)
        return
    for end in (0, 1, 2, *standard):
        os.close(end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(BrokenPipeError):
        os.write(status, b"%d\n" % pid)
        os.write(status, b"%d\n" % os.waitpid(pid, 0)[1])
    os._exit(0)


def run(request: dict[str, Any]) -> None:
    """Run the requested code as a new interpreter would.

    If it ends without an exception, the process exits here: destroying all imported modules would take most of the time
    of a short process.
    """
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv[:] = request["argv"]
    if os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    exec(compile(request["code"], "<code of a test>", "exec"), {"__name__": "__main__"})
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    request = serve_forks(socket.socket(fileno=int(sys.argv[1])))
    if request is not None:
        run(request)
