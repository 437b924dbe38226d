"""The database connections of the log threads: limited in time, cleaned up after each job, and closed when idle."""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
from typing import Any

from django.db import connections

from streams.conf import settings
from streams.runtime.database import database


def shut_down(connection: Any) -> None:
    """Wake the thread that waits for this connection. Otherwise it would wait for hours."""
    with contextlib.suppress(Exception):  # it was closed just now, or has no socket
        number = connection.connection.fileno()
        with socket.socket(fileno=os.dup(number)) as copy:
            if connection.connection.fileno() == number:  # it is still open, so the number belongs to it
                copy.shutdown(socket.SHUT_RDWR)
    if is_pooled(connection):
        with contextlib.suppress(Exception):  # psycopg_pool before 3.3 has no drain()
            connection.pool.drain()


def limit_connecting() -> None:
    """Set a `connect_timeout` for this thread's connection to the log's database, if the site has set none.

    A thread that is connecting cannot be woken, and psycopg's default is 130 s. Django has no public way to set an
    option for the connection of one thread: all threads share one dict of settings, so this connection gets a copy.
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
    """Clean up the calling thread's connections after a job, as Django does after a request."""
    for connection in connections.all(initialized_only=True):
        if connection.errors_occurred:
            connection.close_if_unusable_or_obsolete()
        if is_pooled(connection) and not connection.in_atomic_block:
            connection.close()  # returns it to the pool: this thread can be idle for long, and requests need it
        connection.queries_log.clear()  # with DEBUG, Django collects queries until a request ends; none ends here


def close_ended_connections() -> None:
    """Close the calling thread's connections that the server has closed while they were idle.

    So a job does not fail because the database was restarted in the meantime. On an idle connection the server sends
    only the reason for closing it, so a connection that is readable was closed. A connection that has fallen silent
    cannot be recognised.
    """
    for connection in connections.all(initialized_only=True):
        if connection.vendor == "postgresql" and connection.connection is not None and not connection.in_atomic_block:
            with contextlib.suppress(Exception):  # the driver knows that it was closed, and it has no file descriptor
                if _is_readable(connection.connection.fileno()):
                    connection.close()


def _is_readable(file: int) -> bool:
    if not hasattr(select, "poll"):
        return bool(select.select([file], [], [], 0)[0])
    waiting = select.poll()
    waiting.register(file, select.POLLIN)
    return bool(waiting.poll(0))


def close_connections() -> None:
    """Close the calling thread's connections, except those inside an atomic block."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()
