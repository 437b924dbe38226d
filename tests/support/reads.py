"""Reads of the log that only tests make, and the work that a read makes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection

from streams import log
from streams.protocol.sse import StoredEvent


def tail(after: int) -> tuple[int, list[StoredEvent]]:
    """Number the waiting messages. Return the head, and the oldest messages above `after`, up to one page."""
    newest = log.current_head()
    return newest, log.between(after, newest)


@contextmanager
def sqlite_steps() -> Iterator[list[int]]:
    """Yield a list that gets an item for every 1,000 steps of SQLite's virtual machine, which show the work it does.

    A plan does not show how many rows are read.
    """
    steps: list[int] = []
    connection.ensure_connection()
    connection.connection.set_progress_handler(lambda: steps.append(1), 1000)
    try:
        yield steps
    finally:
        connection.connection.set_progress_handler(None, 0)
