"""Shared parts of the comparisons: a database, a server process whose CPU is measured, clients, and a table."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.support.services import accepts, free_port, wait_until
from tests.support.services.postgres import PostgresServer
from tests.support.sites import PYTHON, ROOT, command

# What a measurement raises if its server does not start, ends, or does not answer.
FAILURES = (OSError, RuntimeError, psutil.Error)


@contextlib.contextmanager
def database(kind: str, tree: Path = ROOT, postgres: PostgresServer | None = None) -> Iterator[str]:
    """Yield the URL of a new, migrated database. `kind` is "sqlite" or "postgresql".

    `tree` is the checkout of Streams whose migrations run. `postgres` is a running server to use instead of a new one.
    """
    with contextlib.ExitStack() as stack:
        if kind == "sqlite":
            url = f"sqlite:///{stack.enter_context(tempfile.TemporaryDirectory(prefix='streams-bench-'))}/db.sqlite3"
        else:
            server = postgres or stack.enter_context(postgres_server())
            url = server.dsn(server.create_database())
        subprocess.run([PYTHON, "manage.py", "migrate", "-v0"], env=environment(url), cwd=tree, check=True)
        yield url


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Run a PostgreSQL server that flushes each commit to disk, as in production."""
    server = PostgresServer(fsync=True)
    try:
        server.start()
        yield server
    finally:
        server.remove()


def environment(url: str) -> dict[str, str]:
    return {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "benchmarks.settings", "SECRET_KEY": "bench"}


def family(pid: int) -> list[psutil.Process]:
    """Return a server's process and its workers."""
    main = psutil.Process(pid)
    return [main, *main.children(recursive=True)]


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """Return the user and system time that the processes have used."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def resident_bytes(processes: Sequence[psutil.Process]) -> int:
    return sum(process.memory_info().rss for process in processes)


class Server:
    """A server process whose CPU time and memory can be measured."""

    def __init__(self, argv: list[str], port: int, env: dict[str, str]) -> None:
        self.port = port
        self._argv, self._env = argv, env
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            self._argv, env=self._env, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.process = psutil.Process(self._process.pid)
        wait_until(self._accepts, f"the start of {self._argv[0]}")

    def _accepts(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"It ended at once: {' '.join(self._argv)}")
        return accepts(self.port)

    def restart(self) -> None:
        self.stop()
        self._start()

    def cpu_seconds(self) -> float:
        return cpu_seconds(family(self.process.pid))

    def resident_bytes(self) -> int:
        return resident_bytes(family(self.process.pid))

    def get(self, path: str, timeout: float = 120) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=timeout) as response:
            return json.load(response)

    def log_in(self) -> tuple[int, str]:
        """Log a user in, and return the primary key and the Cookie header of the session."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/log-in/", timeout=60) as response:
            # Logging in also sets the cookie of a CSRF token.
            [session] = [cookie for cookie in response.headers.get_all("Set-Cookie") if cookie.startswith("sessionid=")]
            return json.load(response)["pk"], f"Cookie: {session.split(';')[0]}"

    def stop(self) -> None:
        for process in family(self.process.pid):  # granian's workers outlive a main process that is killed
            process.kill()
        self._process.wait()


def asgi_command(kind: str, app: str, port: int) -> list[str]:
    argv = command(kind, app, port)
    if kind == "granian":
        argv += ["--backpressure", "16384"]  # its default accepts 1,024 streams and lets the others wait
    return argv


@contextlib.contextmanager
def server(kind: str, app: str, url: str, **env: str) -> Iterator[Server]:
    port = free_port()
    with running(asgi_command(kind, app, port), port, {**environment(url), **env}) as started:
        yield started


@contextlib.contextmanager
def running(argv: list[str], port: int, env: dict[str, str]) -> Iterator[Server]:
    running = Server(argv, port, env)
    try:
        yield running
    finally:
        running.stop()


@contextlib.contextmanager
def crowd(
    port: int,
    path: str,
    size: int,
    *phases: int,
    seconds: float = 120,
    headers: Sequence[str] = (),
    channels: int = 1,
    lossy: bool = False,
) -> Iterator[Any]:
    """Run a process with `size` open clients. `result()` waits until each has received the events of the next phase.

    With `lossy`, the server is allowed to lose or repeat events: a client has everything when it has the phase's last
    event, and the result comes also if nothing has arrived for a while.
    """
    events = ",".join(map(str, phases))
    argv = [PYTHON, "-m", "benchmarks.clients", str(port), path, str(size), events, str(seconds), *headers]
    argv += ["--channels", str(channels), *(["--quiet", "15"] if lossy else [])]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if process.stdout.readline().strip() != "READY":
        raise RuntimeError("The clients could not connect, or were refused.")

    class Handle:
        pid = process.pid

        @staticmethod
        def result() -> dict[str, float]:
            assert process.stdout is not None
            found: dict[str, float] = json.loads(process.stdout.readline())
            if not lossy and (found["events"] != found["expected"] or found["refused"]):
                raise RuntimeError(f"Not everything arrived: {found}")
            return found

    try:
        yield Handle
    finally:
        process.kill()
        process.wait()


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table in Markdown."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row) + " |")
    sys.stdout.flush()
