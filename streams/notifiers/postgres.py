"""The notifier for sites whose database is PostgreSQL: LISTEN and NOTIFY, and no further server."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import psycopg
from django.db import connections
from django.utils.connection import ConnectionDoesNotExist
from psycopg import sql

from streams.exceptions import InvalidSetting
from streams.notifiers import wire
from streams.notifiers.base import Notice
from streams.notifiers.line import Line, LineNotifier

T = TypeVar("T")

# PostgreSQL refuses a payload of 8000 bytes.
MAX_BYTES = 7999
MAX_CHANNEL_BYTES = 63

# After so much silence the server is asked for a sign of life, and given so long for it. A server that hangs, or a
# machine between that forgot the connection, closes nothing.
QUIET_SECONDS = 5.0
ANSWER_SECONDS = 3.0


class PostgresNotifier(LineNotifier):
    """OPTIONS: `database`, the alias of the log's database; `channel`, the name that sites sharing a database must not
    share; `dsn`, where to listen, if not there: behind a PgBouncer that pools transactions nobody hears anything, so
    that this one connection of each process has to go past it.

    NOTIFY is a statement of its own, after the commit: within a transaction it takes a lock over the whole server.
    """

    def __init__(self, dsn: str | None = None, channel: str = "streams", database: str = "default") -> None:
        super().__init__()
        if not 0 < len(channel.encode()) <= MAX_CHANNEL_BYTES:
            raise InvalidSetting(
                f"PostgresNotifier's channel is a name of 1 to {MAX_CHANNEL_BYTES} bytes; got {channel!r}."
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
            cursor.execute("SELECT pg_notify(%s, %s)", [self._channel, wire.encode(notice, MAX_BYTES)])

    async def hear(self, line: Line) -> None:
        connection = await _within(2 * ANSWER_SECONDS, self._connect(), "connect")
        try:
            # What comes while a statement runs is handed over here.
            connection.add_notify_handler(lambda heard: _take(line, heard.payload))
            listen = sql.SQL("LISTEN {}").format(sql.Identifier(self._channel))
            await _within(ANSWER_SECONDS, connection.execute(listen), "LISTEN")
            line.begin()
            while True:
                if await _readable(connection.fileno(), QUIET_SECONDS):
                    connection.pgconn.consume_input()
                    while (heard := connection.pgconn.notifies()) is not None:
                        _take(line, heard.extra.decode(errors="replace"))
                else:
                    await _within(ANSWER_SECONDS, connection.execute("SELECT 1"), "SELECT 1")
        finally:
            connection.pgconn.finish()  # without a word to the server, which may not answer any more

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        if self._dsn is not None:
            parameters: dict[str, Any] = {"conninfo": self._dsn}
        else:
            parameters = connections[self._database].get_connection_params()
            for name in ("cursor_factory", "context"):  # Django's, for its own kind of connection
                parameters.pop(name, None)
        parameters["fallback_application_name"] = "streams notifier"
        return await psycopg.AsyncConnection.connect(**parameters, autocommit=True)


def _take(line: Line, payload: str) -> None:
    if (notice := wire.decode(payload)) is not None:
        line.take(notice)


async def _readable(descriptor: int, seconds: float) -> bool:
    """Whether something came. Without psycopg's own notifies(), which wakes up ten times a second."""
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    loop.add_reader(descriptor, came.set)
    try:
        async with asyncio.timeout(seconds):
            await came.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
    return True


async def _within(seconds: float, coroutine: Coroutine[Any, Any, T], what: str) -> T:
    """asyncio.timeout() that also ends what does not let itself be cancelled at once: psycopg first asks the server
    to cancel the statement, by another connection, and waits; a server that hangs does not answer there either."""
    task = asyncio.ensure_future(coroutine)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if task.done():
            return task.result()
        raise TimeoutError(f"PostgreSQL did not answer within {seconds:g} s: {what}.")
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=0.1)
        if not task.cancelled():
            task.exception()  # it was looked at
