"""A site for one test: a database, and the servers, commands and scripts that use it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.support.forks import MAIN, ForkedProcess
from tests.support.services import accepts, free_port, wait_until
from tests.support.services.postgres import PostgresServer

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable
BIN = Path(PYTHON).parent

# Programs that are Python scripts. granian is one too, but it starts its workers from a program of its own.
FORKED = ("daphne", "uvicorn", "hypercorn", "gunicorn")

SERVERS = ("daphne", "uvicorn", "granian", "hypercorn")


def command(server: str, app: str, port: int) -> list[str]:
    """Return the command line that serves `app` on loopback."""
    if server == "daphne":
        return [str(BIN / "daphne"), "-b", "127.0.0.1", "-p", str(port), "-v", "0", app]
    if server == "uvicorn":
        return [str(BIN / "uvicorn"), app, "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    if server == "granian":
        return [str(BIN / "granian"), "--interface", "asgi", "--host", "127.0.0.1", "--port", str(port), app]
    if server == "hypercorn":
        return [str(BIN / "hypercorn"), "--bind", f"127.0.0.1:{port}", app]
    if server == "uvicorn with 4 workers":
        return [*command("uvicorn", app, port), "--workers", "4"]
    if server == "gunicorn":
        return [str(BIN / "gunicorn"), "--worker-class", "asgi", "--bind", f"127.0.0.1:{port}", app]
    raise ValueError(f"Unknown server {server!r}. Servers: {', '.join(SERVERS)}.")


class Server:
    """A server process. `port` stays the same when it is started again."""

    def __init__(self, argv: list[str], port: int, env: dict[str, str], log: Path) -> None:
        self.port = port
        self.log = log
        self._argv = argv
        self._env = env
        self._process: ForkedProcess | subprocess.Popen[bytes] | None = None

    def start(self) -> Server:
        if Path(self._argv[0]).name in FORKED:
            self._process = ForkedProcess(MAIN, self._argv, self._env, self.log)
        else:
            with self.log.open("ab") as output:
                self._process = subprocess.Popen(self._argv, stdout=output, stderr=output, env=self._env, cwd=ROOT)
        wait_until(lambda: self._died() or accepts(self.port), f"the start of {self._argv[0]}")
        return self

    def _died(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError(f"{self._argv[0]} ended at once:\n{self.log.read_text()[-4000:]}")
        return False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def exit_code(self) -> int | None:
        """Return the exit code, or None while it runs and after stop()."""
        return None if self._process is None else self._process.poll()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self, how: signal.Signals = signal.SIGKILL, *, patient: bool = False) -> None:
        """Stop the server. With `patient`, its workers are not killed, so that they end by themselves."""
        if self.exit_code() is not None:
            self._process = None
        if self._process is not None:
            workers = psutil.Process(self.pid).children(recursive=True)
            self._process.send_signal(how)
            self._process.wait(timeout=60)
            self._process = None
            for worker in () if patient else workers:  # granian's workers survive if the main process is killed
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.kill()

    def json(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=60) as response:
            return json.load(response)

    def json_as(self, cookie: str, path: str) -> Any:
        """Like json(), with a Cookie header."""
        request = urllib.request.Request(f"{self.url}{path}", headers={"Cookie": cookie})
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def log_in(self, name: str, **attributes: Any) -> str:
        """Log in as a user, who is created if necessary, and return the Cookie header of the session."""
        query = urllib.parse.urlencode({"name": name, "is": json.dumps(attributes)})
        with urllib.request.urlopen(f"{self.url}/test/login/?{query}", timeout=60) as response:
            cookies = [header.split(";")[0] for header in response.headers.get_all("Set-Cookie")]
        return next(cookie for cookie in cookies if cookie.startswith("sessionid="))  # not the cookie for CSRF


class Site:
    """A migrated database and the environment of the processes that use it."""

    def __init__(self, database_url: str, folder: Path, postgres: PostgresServer | None = None) -> None:
        self.database_url = database_url
        self.folder = folder
        self.postgres = postgres
        self.env = {
            **os.environ,
            "DATABASE_URL": database_url,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "SECRET_KEY": "for-tests-only",
            "PYTHONUNBUFFERED": "1",
        }
        self._servers: list[Server] = []
        self._processes: list[ForkedProcess] = []

    @property
    def is_postgres(self) -> bool:
        return self.postgres is not None

    def settings(self, **streams: Any) -> Site:
        """Set keys of STREAMS for the processes that are started from now on."""
        self.env["TEST_STREAMS"] = json.dumps({**json.loads(self.env.get("TEST_STREAMS", "{}")), **streams})
        return self

    def manage(self, *args: str, input: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        argv = ["manage.py", *args]
        process = ForkedProcess(MAIN, argv, self.env)
        self._processes.append(process)
        out, errors = process.communicate(input)
        done = subprocess.CompletedProcess(argv, process.wait(), out, errors)
        if check:
            done.check_returncode()
        return done

    def script(self, code: str, *args: str) -> ForkedProcess:
        """Start a Python process that runs `code` after django.setup(), with `args` in sys.argv[1:]."""
        process = ForkedProcess(f"import django; django.setup()\n{code}", ["-c", *args], self.env)
        self._processes.append(process)
        return process

    def call(self, function: Callable[..., object], *args: object) -> ForkedProcess:
        """Start a process that calls a test module's function after django.setup(), with the arguments as strings."""
        name, module = function.__name__, function.__module__
        return self.script(f"import sys\nfrom {module} import {name}\n{name}(*sys.argv[1:])", *map(str, args))

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run SQL without Django, and return the rows."""
        if self.postgres is not None:
            return self.postgres.execute(statement, self.database_url.rpartition("/")[2])
        with contextlib.closing(
            sqlite3.connect(self.database_url.removeprefix("sqlite:///"), timeout=30)
        ) as connection:
            rows = connection.execute(statement).fetchall()
            connection.commit()
            return rows

    def serve(
        self, server: str = "uvicorn", app: str = "project.asgi:application", *arguments: str, **env: str
    ) -> Server:
        """Start a server with more arguments. With `tests.support.asgi:application`, it runs Django's stock handler."""
        port = free_port()
        argv = [*command(server, app, port), *arguments]
        running = Server(argv, port, {**self.env, **env}, self.folder / f"{server}.log")
        self._servers.append(running)
        return running.start()

    def close(self) -> None:
        for server in self._servers:
            server.stop()
        for process in self._processes:
            process.kill()
            process.close()


def finish(process: ForkedProcess, seconds: float = 120.0, input: str = "") -> str:
    """Wait for a process to succeed, and return its output."""
    out, errors = process.communicate(input, timeout=seconds)
    assert process.returncode == 0, errors
    return out


def copy_sqlite(source: Path, target: Path) -> None:
    shutil.copy(source, target)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)
