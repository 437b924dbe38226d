"""Whether a connection to PostgreSQL has a session of its own, and how long we wait for what is asked of it.

A pooler between us and the server may give each transaction another of its connections. LISTEN succeeds there and stays
with a connection that others use. Nobody hears anything, and to whoever sends by that connection its own notices come
back, which psycopg keeps for as long as that client is connected. So it has to be known before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import psycopg

T = TypeVar("T")
Connection = psycopg.AsyncConnection[Any]

# How often each is asked. A pooler gives out the connection that has been back for the longest, or the shortest, time;
# where others use them meanwhile, it may by chance be the same one.
ROUNDS = 5


async def is_pooled(connection: Connection, seconds: float) -> bool:
    """Whether somebody stands between, who has given us another name for the server's process."""
    return await _process(connection, seconds) != connection.info.backend_pid


async def keeps_session(connection: Connection, connect: Callable[[], Awaitable[Connection]], seconds: float) -> bool:
    """Whether the pooler was not seen to give the process that serves `connection` to another, or to replace it.

    Each question is a transaction, and leaves nothing behind in whatever session it gets.
    """
    own: set[int] = set()
    others: set[int] = set()
    other = await connect()
    try:
        for _ in range(ROUNDS):
            own |= {await _process(connection, seconds), await _process(connection, seconds)}
            others.add(await _process(other, seconds))
            if len(own) > 1 or own & others:
                return False
    finally:
        other.pgconn.finish()
    return True


async def _process(connection: Connection, seconds: float) -> int:
    # Not prepared: the next time, it may be another session that is asked.
    asked = connection.execute("SELECT pg_backend_pid()", prepare=False)
    found = await within(seconds, asked, "pg_backend_pid()")
    row = await found.fetchone()
    return -1 if row is None else int(row[0])


async def readable(descriptor: int, seconds: float) -> bool:
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


async def within(seconds: float, coroutine: Coroutine[Any, Any, T], what: str) -> T:
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
