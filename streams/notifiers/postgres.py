"""The notifier for sites whose database is PostgreSQL: LISTEN and NOTIFY, and no further server."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
from django.db import connections
from django.utils.connection import ConnectionDoesNotExist
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from streams import databases
from streams.exceptions import InvalidSetting
from streams.notifiers.base import Notice
from streams.notifiers.line import Line, LineNotifier
from streams.notifiers.sessions import Connection, keeps_session, readable, server_process, within

# PostgreSQL refuses a payload of 8000 bytes.
MAX_BYTES = 7999
MAX_CHANNEL_BYTES = 63

# After so much silence the server is asked for a sign of life, and given so long for it. A server that hangs, or a
# machine between that forgot the connection, closes nothing.
QUIET_SECONDS = 5.0
ANSWER_SECONDS = 3.0

HEARS_NOTHING = (
    "PostgresNotifier hears nothing: its connection goes through a pooler that keeps no session, such as PgBouncer "
    "with pool_mode = transaction. Give NOTIFIER's OPTIONS a 'dsn' that goes straight to PostgreSQL. Until then "
    "subscribers are served by polling."
)

# A listener sends this to itself through a pooler. It is not a notice: other listeners ignore it.
PING = "ping"


class PostgresNotifier(LineNotifier):
    """OPTIONS: `database`, an alias, if not that of the log's database; `channel`, the name that sites sharing a
    database must not share; `dsn`, where to listen, if not there: behind a PgBouncer that pools transactions nobody
    hears anything, so that this one connection of each process has to go past it. Without a `dsn` it is found out, and
    said. `carry_messages`: see LineNotifier. Every role that can connect to the database can listen.

    NOTIFY is a statement of its own, after the commit: within a transaction it takes a lock over the whole server.
    """

    def __init__(
        self,
        dsn: str | None = None,
        channel: str = "streams",
        database: str | None = None,
        carry_messages: bool | None = None,
    ) -> None:
        super().__init__(carry_messages)
        database = database or databases.database()  # where a router has put it
        if not 0 < len(channel.encode()) <= MAX_CHANNEL_BYTES:
            raise InvalidSetting(
                f"PostgresNotifier's channel is a name of 1 to {MAX_CHANNEL_BYTES} bytes; got {channel!r}."
            )
        if dsn is not None and not _is_dsn(dsn):
            raise InvalidSetting(
                "PostgresNotifier's dsn is PostgreSQL's connection string, such as 'postgresql://user@host:5432/name', "
                "in which a password's @ is %40, its / %2F, and its % %25; libpq does not understand this one. (It may "
                "hold a password, and is not shown.)"
            )
        try:
            vendor = connections[database].vendor
        except ConnectionDoesNotExist:
            raise InvalidSetting(
                f"PostgresNotifier's database is an alias from DATABASES ({', '.join(connections)}); got {database!r}."
            ) from None
        if vendor != "postgresql":
            raise InvalidSetting(
                f"PostgresNotifier works on PostgreSQL; the database {database!r} is {vendor}. Name another alias "
                "in its OPTIONS, as 'database', or choose another NOTIFIER."
            )
        self._dsn = dsn
        self._channel = channel
        self._database = database

    def __repr__(self) -> str:  # without the dsn, which holds a password
        return f"<PostgresNotifier channel={self._channel!r} database={self._database!r}>"

    def carry(self, notice: Notice) -> None:
        connection = connections[self._database]
        if connection.in_atomic_block or not connection.get_autocommit():
            return  # a TestCase's, mostly. It would go out with a commit that may never come: hubs poll
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, %s)", [self._channel, self.encode(notice, MAX_BYTES)])

    async def hear(self, line: Line) -> None:
        connection = await self._connect_in_time()
        try:
            # What comes while a statement runs is handed over here.
            connection.add_notify_handler(lambda heard: self._take(line, heard.payload))
            process = await server_process(connection, ANSWER_SECONDS)
            pooled = process != connection.info.backend_pid
            if pooled and not await keeps_session(connection, process, self._connect_in_time, ANSWER_SECONDS):
                raise ConnectionError(HEARS_NOTHING)
            listen = sql.SQL("LISTEN {}").format(sql.Identifier(self._channel))
            await within(ANSWER_SECONDS, connection.execute(listen), "LISTEN")
            if pooled:
                await self._prove_to_hear(line, connection)
            line.begin()
            while True:
                if await readable(connection.fileno(), QUIET_SECONDS):
                    self._read(line, connection)
                else:
                    await within(ANSWER_SECONDS, connection.execute("SELECT 1"), "SELECT 1")
        finally:
            connection.pgconn.finish()  # without a word to the server, which may not answer any more

    async def _prove_to_hear(self, line: Line, connection: Connection) -> None:
        """Raise ConnectionError if a notice that another connection sends does not arrive through the pooler."""
        pinged = asyncio.Event()
        connection.add_notify_handler(lambda heard: pinged.set() if heard.payload == PING else None)
        other = await self._connect_in_time()
        try:
            ping = other.execute("SELECT pg_notify(%s, %s)", [self._channel, PING])
            await within(ANSWER_SECONDS, ping, "NOTIFY")
        finally:
            other.pgconn.finish()
        while not pinged.is_set():
            if not await readable(connection.fileno(), ANSWER_SECONDS):
                # This can reach another session than LISTEN did; there is no better way.
                await within(ANSWER_SECONDS, connection.execute("UNLISTEN *"), "UNLISTEN")
                raise ConnectionError(HEARS_NOTHING)
            if PING in self._read(line, connection):
                return

    def _read(self, line: Line, connection: Connection) -> list[str]:
        """Take the payloads that have come, and return them."""
        connection.pgconn.consume_input()
        payloads = []
        while (heard := connection.pgconn.notifies()) is not None:
            payloads.append(heard.extra.decode(errors="replace"))
            self._take(line, payloads[-1])
        return payloads

    def _take(self, line: Line, payload: str) -> None:
        if payload != PING and (notice := self.decode(payload)) is not None:
            line.take(notice)

    async def _connect_in_time(self) -> Connection:
        return await within(2 * ANSWER_SECONDS, self._connect(), "connect")

    async def _connect(self) -> Connection:
        if self._dsn is not None:
            parameters: dict[str, Any] = {"conninfo": self._dsn}
        else:
            parameters = connections[self._database].get_connection_params()
            for name in ("cursor_factory", "context"):  # Django's, for its own kind of connection
                parameters.pop(name, None)
        parameters["fallback_application_name"] = "streams notifier"
        return await psycopg.AsyncConnection.connect(**parameters, autocommit=True)


def _is_dsn(text: object) -> bool:
    """Whether libpq can read it. What it cannot read it quotes, also when it connects, in errors that are logged."""
    try:
        parts = conninfo_to_dict(str(text))
    except psycopg.Error:
        return False
    # Where a password has an @ or a / as it is, its rest is taken for the host or the port.
    host, port = str(parts.get("host", "")), str(parts.get("port", ""))
    return isinstance(text, str) and "@" not in host[1:] and not port.replace(",", "").strip("0123456789")
