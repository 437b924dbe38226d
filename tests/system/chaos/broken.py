"""Switches that break Streams in its most delicate code, to check that the suite fails. Only tests install them.

`lock`: The head's lock is released before the commit, so positions become visible out of order.
`ids`: There is no lock. A position is the row's id, which follows the order of inserts and not of commits.
`join`: There is an await between checking the hub's position and attaching the subscriber.
`gap`: A notice's messages are applied without comparing them with the hub's position.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from django.db import connections

from streams.delivery.hub import Hub
from streams.delivery.subscriber import Subscriber
from streams.delivery.window import Window
from streams.log import appending, epochs, known, postgresql
from streams.notifiers import Notice
from streams.runtime.executor import database

BREAKS = ("lock", "ids", "join", "gap")

JOIN_SECONDS = 0.05


def install(which: str) -> None:
    """Break this process until it ends."""
    if which not in BREAKS:
        raise ValueError(f"CHAOS_BREAK is one of {', '.join(BREAKS)}; got {which!r}.")
    {"lock": _break_lock, "ids": _break_ids, "join": _break_join, "gap": _break_gap}[which]()


def _break_lock() -> None:
    def number(cursor: Any, head: int, after_id: int, limit: int | None) -> dict[int, int]:
        cursor.execute("SELECT id FROM streams_message WHERE position IS NULL ORDER BY id FOR UPDATE SKIP LOCKED")
        if not (ids := [pk for (pk,) in cursor.fetchall()]):
            return {}
        other = connections[database()].copy()
        try:
            with other.cursor() as elsewhere:
                elsewhere.execute("UPDATE streams_loghead SET head = head + %s RETURNING head", [len(ids)])
                [(newest,)] = elsewhere.fetchall()
        finally:
            other.close()
        time.sleep(random.choice([0, JOIN_SECONDS]))
        numbered = {pk: newest - len(ids) + n for n, pk in enumerate(ids, 1)}
        for pk, position in numbered.items():
            cursor.execute("UPDATE streams_message SET position = %s WHERE id = %s", [position, pk])
        return numbered

    _number_by(number)


def _break_ids() -> None:
    def number(cursor: Any, head: int, after_id: int, limit: int | None) -> dict[int, int]:
        cursor.execute("UPDATE streams_message SET position = id WHERE position IS NULL RETURNING id, position")
        numbered = dict(sorted(cursor.fetchall()))
        newest = max(numbered.values(), default=0)
        cursor.execute("UPDATE streams_loghead SET head = %s WHERE id = 1 AND head < %s", [newest, newest])
        return numbered

    _number_by(number)


def _number_by(number: Any) -> None:
    """Give all positions with `number`, which is called without the lock."""

    def row(cursor: Any) -> postgresql.Row | None:
        cursor.execute("SELECT head, epoch, identity FROM streams_loghead WHERE id = 1")
        for head, epoch, identity in cursor.fetchall():
            return postgresql.Row(head, epoch, identity, "", None)
        return None

    postgresql.try_lock = postgresql.wait_for_lock = row
    postgresql.number = number
    # All messages are inserted before they are numbered.
    appending.QUICK_CHARACTERS = -1
    # one_trip.py takes the real lock, and is only used if the database is known.
    known.for_one_trip = lambda: None
    # Storing an identity would lock the head, and `number` would then wait for its own process.
    epochs.check = lambda cursor, head, *args: head


def _break_join() -> None:
    whole = Subscriber._read_on

    async def read_on(self: Subscriber) -> bytes | None:
        if self._begun and self._hub is not None and self._page is None and self.cursor == self._hub.position:
            await asyncio.sleep(JOIN_SECONDS)
            self._live = True
            self._hub.attach(self)
            return None
        return await whole(self)

    Subscriber._read_on = read_on  # type: ignore[method-assign]


def _break_gap() -> None:
    async def on_notice(self: Hub, notice: Notice) -> None:
        if notice.messages and self._started is not None and self._started.done():
            if notice.first != self.position + 1:
                self.position = notice.first - 1
                self.window = Window(self.position, max_messages=100, max_bytes=1_000_000)
            await self._apply(notice.messages)
        else:
            self._news.set()

    Hub._on_notice = on_notice  # type: ignore[method-assign]
