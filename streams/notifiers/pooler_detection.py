"""Detect connection poolers that give each transaction another connection to PostgreSQL.

LISTEN succeeds through such a pooler, but stays with a connection that other clients use. The listener then receives
nothing. A client that sends notices over that connection gets them back, and psycopg stores them until that client
disconnects. So a pooler must be detected before LISTEN.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import psycopg

T = TypeVar("T")
Connection = psycopg.AsyncConnection[Any]

ROUNDS = 5


async def server_process(connection: Connection, seconds: float) -> int:
    """Return the id of the server's process that serves `connection` now.

    It differs from `connection.info.backend_pid` if there is a pooler in between, which invents that id.
    """
    # Not prepared: a pooler can hand the next query to a process that does not know the statement.
    asked = connection.execute("SELECT pg_backend_pid()", prepare=False)
    row = await (await within(seconds, asked, "pg_backend_pid()")).fetchone()
    return -1 if row is None else int(row[0])


async def keeps_session(
    connection: Connection, process: int, connect: Callable[[], Awaitable[Connection]], seconds: float
) -> bool:
    """Return False if a pooler gives sessions away. `process` served the last query on `connection`.

    A pooler serves the next query with the session that was idle for the longest time, which is another one, or with
    the one that was used last, which a second connection then gets as well. So the first round usually decides. If
    other clients use the pooler in between, it misses about one pooler in six, and a listener tries again every few
    seconds.

    A message that the listener sends to itself shows the same, but only after LISTEN has changed a session that other
    clients use.
    """
    other = await connect()
    try:
        for _ in range(ROUNDS):
            if process != await server_process(connection, seconds) or process == await server_process(other, seconds):
                return False
    finally:
        other.pgconn.finish()
    return True


async def readable(descriptor: int, seconds: float) -> bool:
    """Return True if data arrived within `seconds`. psycopg's own notifies() would wake up ten times a second."""
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


async def within(seconds: float, coroutine: Coroutine[Any, Any, T], what: str) -> T:
    """Return the coroutine's result; raise TimeoutError after `seconds`. `what` names it in the error.

    asyncio.timeout() is not enough. When psycopg is cancelled, it asks the server over another connection to cancel the
    statement, and waits for the answer, which a server that hangs does not give.
    """
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
            task.exception()  # or asyncio would log that it was never retrieved
