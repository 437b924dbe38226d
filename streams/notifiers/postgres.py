"""The notifier for sites on PostgreSQL. It uses LISTEN and NOTIFY, and needs no other server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
from django.db import connections
from django.utils.connection import ConnectionDoesNotExist
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from streams.exceptions import InvalidSetting
from streams.notifiers.base import Notice
from streams.notifiers.listener_thread import ListenerThread, ProcessNotifier
from streams.notifiers.pooler_detection import Connection, keeps_session, readable, server_process, within
from streams.runtime.database import database as log_database

# PostgreSQL refuses a payload of 8000 bytes.
MAX_BYTES = 7999
MAX_CHANNEL_BYTES = 63

# After QUIET_SECONDS without a notice, a query checks the connection and must be answered within ANSWER_SECONDS. A
# server that hangs, or a firewall that forgot the connection, does not close it.
QUIET_SECONDS = 5.0
ANSWER_SECONDS = 3.0

RECEIVES_NOTHING = (
    "PostgresNotifier cannot receive notices: its connection goes through a pooler that does not keep sessions, such "
    "as PgBouncer with pool_mode = transaction. In the OPTIONS of NOTIFIER, set 'dsn' to an address that connects to "
    "PostgreSQL directly. Until then, this process finds new messages by polling, every POLL_SECONDS."
)

# A listener sends this to itself through a pooler. It is not a notice: other listeners ignore it.
PING = "ping"

Take = Callable[[str], None]


class PostgresNotifier(ProcessNotifier):
    """A notifier over PostgreSQL's LISTEN and NOTIFY. Its arguments are the OPTIONS of STREAMS["NOTIFIER"].

    Args:
        dsn: A connection string for listening. It is needed behind a PgBouncer that pools transactions: LISTEN
            receives nothing there, so that the one listening connection of each process must go straight to
            PostgreSQL. Without a `dsn`, a connection that receives nothing is recognised and logged.
        channel: The name of PostgreSQL's channel. Another site in the same database needs another name.
        database: The alias of the database. The default is the log's database.
        carry_messages: See ProcessNotifier. Every role that can connect to the database can listen.

    NOTIFY is a statement of its own after the commit, because in a transaction it takes a lock on the whole server.
    """

    def __init__(
        self,
        dsn: str | None = None,
        channel: str = "streams",
        database: str | None = None,
        carry_messages: bool | None = None,
    ) -> None:
        super().__init__(carry_messages)
        database = database or log_database()
        if not 0 < len(channel.encode()) <= MAX_CHANNEL_BYTES:
            raise InvalidSetting(
                f"PostgresNotifier's option 'channel' must have 1 to {MAX_CHANNEL_BYTES} bytes; got {channel!r}."
            )
        if dsn is not None and not _is_dsn(dsn):
            raise InvalidSetting(
                "PostgresNotifier's option 'dsn' must be a connection string of PostgreSQL, such as "
                "'postgresql://user@host:5432/name'. In a password, write @ as %40, / as %2F and % as %25. libpq "
                "cannot read the given value, which is not shown because it can contain a password."
            )
        try:
            vendor = connections[database].vendor
        except ConnectionDoesNotExist:
            raise InvalidSetting(
                f"PostgresNotifier's option 'database' must be an alias from DATABASES ({', '.join(connections)}); "
                f"got {database!r}."
            ) from None
        if vendor != "postgresql":
            raise InvalidSetting(
                f"PostgresNotifier needs PostgreSQL; the database {database!r} is {vendor}. Set its option 'database' "
                "to another alias, or choose another NOTIFIER."
            )
        self._dsn = dsn
        self._channel = channel
        self._database = database

    def __repr__(self) -> str:  # without the dsn, which holds a password
        return f"<PostgresNotifier channel={self._channel!r} database={self._database!r}>"

    def send(self, notice: Notice) -> None:
        connection = connections[self._database]
        if connection.in_atomic_block or not connection.get_autocommit():
            return  # it would be sent with a commit that might never happen, as in a TestCase; hubs poll
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, %s)", [self._channel, self.encode(notice, MAX_BYTES)])

    async def receive(self, thread: ListenerThread) -> None:
        pinged = asyncio.Event()

        def take(payload: str) -> None:
            if payload == PING:
                pinged.set()
            else:
                self.take(thread, payload)

        connection = await self._connect_in_time()
        try:
            # Notifications that arrive while a statement runs are passed to this handler.
            connection.add_notify_handler(lambda heard: take(heard.payload))
            process = await server_process(connection, ANSWER_SECONDS)
            pooled = process != connection.info.backend_pid
            if pooled and not await keeps_session(connection, process, self._connect_in_time, ANSWER_SECONDS):
                raise ConnectionError(RECEIVES_NOTHING)
            listen = sql.SQL("LISTEN {}").format(sql.Identifier(self._channel))
            await within(ANSWER_SECONDS, connection.execute(listen), "LISTEN")
            if pooled:
                await self._check_reception(connection, pinged, take)
            thread.mark_listening()
            while True:
                if await readable(connection.fileno(), QUIET_SECONDS):
                    _read(connection, take)
                else:
                    await within(ANSWER_SECONDS, connection.execute("SELECT 1"), "SELECT 1")
        finally:
            connection.pgconn.finish()  # without a goodbye, because the server might not answer

    async def _check_reception(self, connection: Connection, pinged: asyncio.Event, take: Take) -> None:
        """Raise ConnectionError if a ping that another connection sends does not arrive through the pooler."""
        pinged.clear()
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
                raise ConnectionError(RECEIVES_NOTHING)
            _read(connection, take)

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


def _read(connection: Connection, take: Take) -> None:
    """Pass the payloads of the notifications that have arrived to `take`."""
    connection.pgconn.consume_input()
    while (heard := connection.pgconn.notifies()) is not None:
        take(heard.extra.decode(errors="replace"))


def _is_dsn(text: object) -> bool:
    """Return True if libpq can read the text. If not, libpq quotes it in errors, which are logged."""
    try:
        parts = conninfo_to_dict(str(text))
    except psycopg.Error:
        return False
    # If a password contains an unescaped @ or /, the rest of it is read as the host or the port.
    host, port = str(parts.get("host", "")), str(parts.get("port", ""))
    return isinstance(text, str) and "@" not in host[1:] and not port.replace(",", "").strip("0123456789")
