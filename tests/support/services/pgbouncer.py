"""A PgBouncer that the tests start in front of their PostgreSQL server."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from tests.support.services import accepts, free_port, wait_until
from tests.support.services.postgres import PostgresServer

CONFIGURATION = """
[databases]
* = host=127.0.0.1 port={server.port} user=streams

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
server_round_robin = {round_robin}
default_pool_size = {size}
max_client_conn = 1000
"""


def program() -> str | None:
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class PgBouncer:
    """Pools connections to the server.

    `mode` is session, transaction or statement, and `size` is the number of connections to each database. With
    `round_robin`, it uses the connection that was idle for longest, and otherwise the one that was used last.
    """

    def __init__(
        self, server: PostgresServer, mode: str = "transaction", size: int = 3, *, round_robin: bool = False
    ) -> None:
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="streams-pgbouncer-"))
        path = self._folder / "pgbouncer.ini"
        path.write_text(
            CONFIGURATION.format(server=server, port=self.port, mode=mode, size=size, round_robin=int(round_robin))
        )
        found = program()
        assert found is not None
        self._command = [found, str(path)]
        # PgBouncer refuses to run as root.
        self._as = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        if self._as:
            shutil.chown(self._folder, user=pwd.getpwnam("postgres").pw_uid)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> PgBouncer:
        with (self._folder / "output").open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output, cwd="/", **self._as)
        wait_until(self._accepts, "PgBouncer's start", 120)
        return self

    def _accepts(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"PgBouncer ended at once:\n{(self._folder / 'output').read_text()}")
        return accepts(self.port)

    def dsn(self, database: str) -> str:
        return f"postgresql://streams@127.0.0.1:{self.port}/{database}"

    def remove(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=30)
        shutil.rmtree(self._folder, ignore_errors=True)
