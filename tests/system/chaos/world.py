"""The site under test: its database, its servers behind nginx, its publishers, and an audit of the log in triggers."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import psutil

from tests.support.forks import ForkedProcess
from tests.support.services.nginx import NginxServer
from tests.support.services.postgres import PostgresServer
from tests.support.sites import Server, Site
from tests.system.chaos import publishers
from tests.system.chaos.audit import POSITIONS, PRUNED, Loss, Published

LOCAL = "streams.notifiers.local.LocalNotifier"
POSTGRES = "streams.notifiers.postgres.PostgresNotifier"
CHANNEL_LAYER = "streams.notifiers.channel_layer.ChannelLayerNotifier"
SERVERS = 4
PUBLISHERS = 8

SETTINGS: dict[str, Any] = {
    "POLL_SECONDS": 0.2,
    "HEARTBEAT_SECONDS": 1,
    "RETRY_MILLISECONDS": 200,
    "SEND_TIMEOUT_SECONDS": 3,
    # Small, so that a client that is away for a few seconds must read the log, and after more time finds it pruned.
    "WINDOW_MESSAGES": 200,
    "QUEUE_MESSAGES": 50,
    "RETENTION_MESSAGES_PER_CHANNEL": 25,
    "RETENTION_SECONDS": 86400,  # no message becomes this old in a run, except by a wrong clock
    "PRUNE_SECONDS": 1,
}

# The processes with a wrong clock, and its error in seconds: 8 days ahead, which is more than RETENTION_SECONDS, or 5
# hours behind.
WRONG_CLOCKS = {"server-3": 8 * 86400, "publisher-2": 8 * 86400, "publisher-1": -5 * 3600}

# The database writes the audit itself, so that it is complete even if the writing process is killed. `by` is the
# process's PGAPPNAME.
AUDIT = """
CREATE TABLE chaos_positions (
    message bigint, position bigint, channel text, digest text, data text, by text, at double precision
);
CREATE TABLE chaos_pruned (position bigint, at double precision);
CREATE TABLE chaos_committed (data text);
CREATE FUNCTION chaos_audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO chaos_pruned VALUES (OLD.position, extract(epoch FROM clock_timestamp()));
    ELSE
        INSERT INTO chaos_positions VALUES (
            NEW.id, NEW.position, NEW.channel, md5(NEW.data), left(split_part(NEW.data, E'\\n', 1), 60),
            current_setting('application_name'), extract(epoch FROM clock_timestamp())
        );
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_positions AFTER INSERT OR UPDATE OF position ON streams_message
    FOR EACH ROW WHEN (NEW.position IS NOT NULL) EXECUTE FUNCTION chaos_audit();
CREATE TRIGGER chaos_pruned AFTER DELETE ON streams_message
    FOR EACH ROW WHEN (OLD.position IS NOT NULL) EXECUTE FUNCTION chaos_audit();
"""


class Redis(Protocol):
    """The interface of the tests' Redis server. The caller starts it before the run, and removes it afterwards."""

    @property
    def url(self) -> str: ...

    def start(self) -> object: ...

    def stop(self, how: signal.Signals) -> None: ...


@dataclass
class World:
    """A context manager that starts the whole site and stops it at the end.

    `broken` names a switch of tests.system.chaos.broken, which applies to all processes. `postgres` is a running
    server, and `template` a migrated database on it. Without them, the world starts its own server, which can be
    killed. `redis` and `notifier` choose the notifier.
    """

    seed: int
    broken: str = ""
    notifier: str = LOCAL
    postgres: PostgresServer | None = None
    template: str = ""
    redis: Redis | None = None
    servers: list[Server] = field(default_factory=list)
    publishing: dict[int, ForkedProcess] = field(default_factory=dict)
    max_rss: dict[str, int] = field(default_factory=dict)
    died: dict[str, str] = field(default_factory=dict)
    losses: list[Loss] = field(default_factory=list)

    def __enter__(self) -> World:
        self._closing = contextlib.ExitStack()
        try:
            self._start()
        except BaseException:
            self._closing.close()
            raise
        return self

    def _start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="streams-chaos-"))
        self._closing.callback(shutil.rmtree, self.folder, ignore_errors=True)
        if self.postgres is None:
            # With fsync, because without it each restart of the server starts a new epoch of the log.
            self.postgres = PostgresServer(fsync=True)
            self._closing.callback(self.postgres.remove)
            self.postgres.start()
        self._database = self.postgres.create_database(**({"template": self.template} if self.template else {}))
        self.site = Site(self.postgres.dsn(self._database), self.folder, self.postgres)
        self._closing.callback(self.site.close)
        if not self.template:
            self.site.manage("migrate", "-v0")
        self.site.execute(AUDIT)
        self.site.settings(**SETTINGS, NOTIFIER={"BACKEND": self.notifier})
        self.site.env |= {
            "TEST_MIDDLEWARE": json.dumps(["tests.system.chaos.middleware.name_the_server"]),
            "CHAOS_BREAK": self.broken,
            "CHAOS_LEASE_SECONDS": "3",  # short, because a process that holds the lease for pruning can be killed
            "REDIS_URL": self.redis.url if self.redis is not None else "",
            "LOG_LEVEL": "ERROR",
        }
        for number in range(SERVERS):
            name = f"server-{number}"
            clock = str(WRONG_CLOCKS.get(name, ""))
            self.servers.append(self.site.serve("uvicorn", PGAPPNAME=name, CHAOS_CLOCK_SECONDS=clock))
        self.nginx = NginxServer([server.port for server in self.servers])
        self._closing.callback(self.nginx.remove)
        self.nginx.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closing.close()

    def publish(self, number: int, generation: int = 0) -> None:
        """Start a publisher. Each generation has another name, so that no name is used twice."""
        name = f"publisher-{number}.{generation}"
        how = "in transactions" if number % 2 else "alone"
        self.site.env["PGAPPNAME"] = name
        self.site.env["CHAOS_CLOCK_SECONDS"] = str(WRONG_CLOCKS.get(f"publisher-{number}", ""))
        notes = self.folder / f"{name}.returned"
        self.publishing[number] = self.site.call(publishers.work, name, self.seed, how, notes)

    def get(self, path: str, body: bytes | None = None, timeout: float = 30, **headers: str) -> Any:
        """Send a request to a server through nginx: a POST if there is a body. Raise if the status is >= 400."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"http://127.0.0.1:{self.nginx.port}{path}", data=body, headers=names)
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return json.load(response)

    def back_up(self) -> int:
        """Copy the database, and return the copy's head. PostgreSQL can only copy a database without connections."""
        assert self.postgres is not None
        with self._closed(self._database):
            self.postgres.execute(f"CREATE DATABASE {self._database}_copy TEMPLATE {self._database}")
        return self.head(f"{self._database}_copy")

    def head(self, database: str = "") -> int:
        """Return the head of the site's database, or of another database."""
        assert self.postgres is not None
        [(head,)] = self.postgres.execute("SELECT head FROM streams_loghead", database or self._database)
        return int(str(head))

    def restore(self, fork: int) -> None:
        """Replace the database with the copy, and add the lost history to `losses`. `fork` is the copy's head."""
        postgres, name = self.postgres, self._database
        assert postgres is not None
        at = time.time()
        with self._closed(name), self._closed(f"{name}_copy"):
            postgres.execute(f"ALTER DATABASE {name} RENAME TO {name}_lost")
            postgres.execute(f"ALTER DATABASE {name}_copy RENAME TO {name}")
        self.losses.append(self._loss(f"{name}_lost", fork, at))
        postgres.execute(f"DROP DATABASE {name}_lost")

    def _loss(self, name: str, fork: int, at: float) -> Loss:
        assert self.postgres is not None
        rows = [Published(*row) for row in self.postgres.execute(POSITIONS, name)]
        published = [message for message in rows if message.position > fork]
        waiting = self.postgres.execute("SELECT data FROM streams_message WHERE position IS NULL", name)
        texts = {str(data).partition("\n")[0] for (data,) in waiting} | {message.text for message in published}
        return Loss(at, fork, self.head(name), published, dict(self.postgres.execute(PRUNED, name)), texts)

    @contextlib.contextmanager
    def _closed(self, name: str) -> Iterator[None]:
        """Close all connections to the database and refuse new ones until the end. It can be renamed in between."""
        assert self.postgres is not None
        [(oid,)] = self.postgres.execute(f"SELECT oid FROM pg_database WHERE datname = '{name}'")
        self.postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        try:
            connected = f"FROM pg_stat_activity WHERE datid = {oid} AND backend_type = 'client backend'"
            while self.postgres.execute(f"SELECT pg_terminate_backend(pid) {connected}"):
                time.sleep(0.02)
            yield
        finally:
            [(now,)] = self.postgres.execute(f"SELECT datname FROM pg_database WHERE oid = {oid}")
            self.postgres.execute(f"ALTER DATABASE {now} ALLOW_CONNECTIONS true")

    def stop_publishing(self) -> None:
        while self.publishing:
            _, process = self.publishing.popitem()
            process.close()

    def returned(self) -> list[str]:
        """Return the texts for which a publish call has returned."""
        return [line for path in self.folder.glob("*.returned") for line in path.read_text().splitlines()]

    def committed(self) -> list[str]:
        """Return the texts that publishers have committed in their own transactions."""
        return [line for (line,) in self.site.execute("SELECT data FROM chaos_committed")]

    def look_for_dead(self) -> None:
        """Record the processes that have ended, in `died`. Do not call this while a disruptor kills a process."""
        for number, process in self.publishing.items():
            if process.poll() is not None and f"publisher-{number}" not in self.died:
                self.died[f"publisher-{number}"] = f"exit {process.returncode} {process.communicate()[1][-2000:]}"
        for number, server in enumerate(self.servers):
            if server.exit_code() is not None:
                self.died[f"server-{number}"] = server.log.read_text()[-2000:]

    def weigh(self) -> None:
        """Record the largest memory use of each process so far, in `max_rss`."""
        processes: dict[str, Server | ForkedProcess] = {f"server-{n}": server for n, server in enumerate(self.servers)}
        processes |= {f"publisher-{number}": process for number, process in self.publishing.items()}
        for name, process in processes.items():
            with contextlib.suppress(psutil.Error, AssertionError):  # a disruptor has killed it
                rss = psutil.Process(process.pid).memory_info().rss
                self.max_rss[name] = max(rss, self.max_rss.get(name, 0))
