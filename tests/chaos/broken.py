"""Switches that break Streams where it is delicate, so that the suite can be seen to fail. Only tests install them.

`lock`: no lock of the head; two processes number the same rows.
`ids`: what the lock is there for. A position is the row's id, given in the order of inserts and not of commits.
`join`: an await between the look at the hub's position and the admission.
`gap`: a notice's messages are applied whatever the hub's position is.
"""

from __future__ import annotations

import asyncio
from typing import Any

from streams import log
from streams.hub import Hub
from streams.notifiers import Notice
from streams.subscriber import Subscriber
from streams.window import Window

BREAKS = ("lock", "ids", "join", "gap")

JOIN_SECONDS = 0.05


def install(which: str) -> None:
    """Break this process, for good."""
    if which not in BREAKS:
        raise ValueError(f"CHAOS_BREAK is one of {', '.join(BREAKS)}; got {which!r}.")
    {"lock": _break_lock, "ids": _break_ids, "join": _break_join, "gap": _break_gap}[which]()


def _break_lock() -> None:
    locked = log._number_on_postgresql

    class Unlocked:
        def __init__(self, cursor: Any) -> None:
            self._cursor = cursor

        def execute(self, statement: str, parameters: Any = None) -> Any:
            return self._cursor.execute(statement.replace(" FOR UPDATE", ""), parameters)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._cursor, name)

    log._number_on_postgresql = lambda cursor: locked(Unlocked(cursor))


def _break_ids() -> None:
    def number(cursor: Any) -> dict[int, int] | None:
        cursor.execute("SELECT head FROM streams_loghead WHERE id = 1")
        if cursor.fetchone() is None:
            return None
        cursor.execute("UPDATE streams_message SET position = id WHERE position IS NULL RETURNING id, position")
        numbered = dict(sorted(cursor.fetchall()))
        newest = max(numbered.values(), default=0)
        cursor.execute("UPDATE streams_loghead SET head = %s WHERE id = 1 AND head < %s", [newest, newest])
        return numbered

    log._number_on_postgresql = number


def _break_join() -> None:
    whole = Subscriber._read_on

    async def read_on(self: Subscriber) -> bytes | None:
        assert self._hub is not None
        if self._stretch is None and self.cursor == self._hub.position:
            await asyncio.sleep(JOIN_SECONDS)
            self._live = True
            self._hub.admit(self)
            return None
        return await whole(self)

    Subscriber._read_on = read_on  # type: ignore[method-assign]


def _break_gap() -> None:
    async def hear(self: Hub, notice: Notice) -> None:
        if notice.messages and self._started is not None and self._started.done():
            if notice.first != self.position + 1:
                self.position = notice.first - 1
                self.window = Window(self.position, max_messages=100, max_bytes=1_000_000)
            await self._apply(notice.messages)
        else:
            self._news.set()

    Hub._hear = hear  # type: ignore[method-assign]
