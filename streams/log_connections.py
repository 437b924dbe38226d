"""The database connections of the log threads: bounded in time, tidied after each job, and given back."""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
from typing import Any

from django.db import connections

from streams.conf import settings
from streams.databases import database


def shut_down(connection: Any) -> None:
    """Wake the thread that waits for this connection. Otherwise it would wait until the kernel gives up: for hours."""
    with contextlib.suppress(Exception):  # it was closed in this moment, or has no socket
        number = connection.connection.fileno()
        with socket.socket(fileno=os.dup(number)) as copy:
            if connection.connection.fileno() == number:  # and so it is still open, and the number not another's
                copy.shutdown(socket.SHUT_RDWR)
    if is_pooled(connection):
        with contextlib.suppress(Exception):  # psycopg_pool before 3.3 has no drain()
            connection.pool.drain()


def limit_connecting() -> None:
    """Give this thread's connection to the log's database a `connect_timeout`, if the site has set none.

    A thread that connects cannot be woken, and psycopg's default is 130 s. Django has no public way to give an option
    to the connection of one thread: the settings are one dict for all threads, so this connection gets its own copy.
    """
    seconds, connection = settings.DATABASE_TIMEOUT_SECONDS, connections[database()]
    options = connection.settings_dict["OPTIONS"]
    if seconds is None or connection.vendor != "postgresql" or is_pooled(connection):
        return
    if "connect_timeout" not in options and "PGCONNECT_TIMEOUT" not in os.environ:
        limited = {**options, "connect_timeout": max(2, math.ceil(seconds))}
        connection.settings_dict = {**connection.settings_dict, "OPTIONS": limited}


def is_pooled(connection: Any) -> bool:
    """Return True if the connection comes from a pool that all threads of the process share."""
    return bool(connection.settings_dict["OPTIONS"].get("pool"))


def tidy_connections() -> None:
    for connection in connections.all(initialized_only=True):
        if connection.errors_occurred:
            connection.close_if_unusable_or_obsolete()
        if is_pooled(connection) and not connection.in_atomic_block:
            connection.close()  # back to the pool: the site's requests need it, and this thread can be idle for long
        connection.queries_log.clear()  # DEBUG collects every query, and no request ends here to forget them


def close_ended_connections() -> None:
    """Close those of the calling thread's connections that the server has ended while they were idle.

    So a job does not fail because the database was restarted in the meantime. The server sends nothing on an idle
    connection but the reason for its end, so that a connection with something to read has ended. A connection that has
    fallen silent looks like a good one.
    """
    for connection in connections.all(initialized_only=True):
        if connection.vendor == "postgresql" and connection.connection is not None and not connection.in_atomic_block:
            with contextlib.suppress(Exception):  # it knows of its end, and has no file any more
                if _is_readable(connection.connection.fileno()):
                    connection.close()


def _is_readable(file: int) -> bool:
    if not hasattr(select, "poll"):
        return bool(select.select([file], [], [], 0)[0])
    waiting = select.poll()
    waiting.register(file, select.POLLIN)
    return bool(waiting.poll(0))


def close_connections() -> None:
    """Close the calling thread's connections, but for those inside an atomic block."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()
