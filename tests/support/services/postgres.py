"""A PostgreSQL server for the tests. As a program, this module runs a command with DATABASE_URL set to such a server:

python -m tests.support.services.postgres pytest -m "not once"
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path

import psycopg

from tests.support.services import free_port, suspended, wait_until


def programs() -> Path | None:
    """Return the folder of initdb and postgres, or None if PostgreSQL is not installed."""
    if found := shutil.which("postgres"):
        return Path(found).parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[4]))
    return versions[-1].parent if versions else None


class PostgresServer:
    """A cluster in a temporary folder, on a free port, that tests can stop, kill and start again."""

    def __init__(self, *, fsync: bool = False, options: Mapping[str, str] | None = None) -> None:
        # Off by default: the tests only kill processes, and never crash the machine.
        self._fsync = fsync
        self._options = options or {}
        found = programs()
        assert found is not None
        self._bin = (found / "postgres").resolve().parent  # this folder also has the other programs
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="streams-postgres-"))
        # PostgreSQL refuses to run as root.
        self._as = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        if self._as:
            shutil.chown(self.folder, user=pwd.getpwnam("postgres").pw_uid)
        self._names = count()
        self._process: subprocess.Popen[bytes] | None = None
        self._make()

    def _make(self) -> None:
        self.run("initdb", "-D", self.folder / "data", "-U", "streams", "--auth=trust", "-E", "UTF8", "--no-sync")

    def run(self, program: str, *args: object) -> None:
        """Run one of PostgreSQL's programs, as the server's user."""
        command = [self._bin / program, *map(str, args)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **self._as)

    def start(self) -> None:
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.folder),
            "max_connections": "300",
            "fsync": "on" if self._fsync else "off",
            **self._options,
        }
        command = [str(self._bin / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port)]
        command += [f"--{name}={value}" for name, value in options.items()]
        log = (self.folder / "log").open("ab")
        self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **self._as)
        wait_until(self.is_ready, "PostgreSQL's start")

    def is_ready(self) -> bool:
        try:
            psycopg.connect(self.dsn("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server. SIGINT is a fast shutdown, and SIGQUIT an immediate one, as in a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=60)
            self._process = None

    def hanging(self) -> AbstractContextManager[None]:
        """Suspend the server: it answers no client, and closes no connection."""
        return suspended(self.pid)

    def remove(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def dsn(self, database: str) -> str:
        return f"postgresql://streams@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        with psycopg.connect(self.dsn(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def create_database(self, template: str = "template1") -> str:
        """Create a database, and return its name."""
        name = f"streams_{next(self._names)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def connections(self, database: str) -> int:
        """Return how many client connections the database has, except for the one of this query."""
        [(number,)] = self.execute(
            f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND pid <> pg_backend_pid()"
        )
        return int(str(number))


def main() -> int:
    if programs() is None:
        print("PostgreSQL is not installed; `apt-get install postgresql` brings it. Skipped.", file=sys.stderr)
        return 1 if os.environ.get("REQUIRE_SERVICES") == "1" else 0
    server = PostgresServer()
    try:
        server.start()
        return subprocess.call(sys.argv[1:], env={**os.environ, "DATABASE_URL": server.dsn("postgres")})
    finally:
        server.remove()


if __name__ == "__main__":
    sys.exit(main())
