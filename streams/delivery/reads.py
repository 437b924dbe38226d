"""Reads of the log for streams that are not live, and the order in which they run.

A client chooses its cursor, so one address can ask for thousands of different reads. Reads therefore take turns: round
robin over the callers, and each caller has one read at a time: the others find free log threads, and the event loop
finds the interpreter's lock free, however many streams the caller has. A turn lasts for one read, so a client that
takes its messages slowly holds no turn.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, TypeVar

from streams import log
from streams.conf import settings
from streams.delivery.window import Frame
from streams.protocol import sse
from streams.runtime import executor
from streams.runtime.tasks import spawn

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FramePage:
    """A log.Page with its messages encoded. `is_full`: it has as many messages as it was allowed to have."""

    frames: list[Frame]
    through: int
    pruned: dict[str, int]
    is_full: bool


def read_page(channels: tuple[str, ...], after: int, through: int, limit: int, frame_bytes: int) -> FramePage:
    """Read the next page of the log, at most `limit` messages. Blocks.

    A frame holds as many messages as fit into `frame_bytes`, at least one.
    """
    page = log.page(channels, after, through, limit)
    frames = list(_frames(page.rows, frame_bytes))
    return FramePage(frames, page.through, page.pruned, len(page.rows) == limit)


def _frames(rows: Sequence[log.Row], frame_bytes: int) -> Iterator[Frame]:
    blocks = sse.encode_rows(rows)
    ends = [0, *accumulate(map(len, blocks))]
    start = 0
    while start < len(rows):
        end = max(start + 1, bisect_right(ends, ends[start] + frame_bytes) - 1)
        position, channel = rows[end - 1][:2]
        yield Frame(position, channel, b"".join(blocks[start:end]), end - start)
        start = end


class Reads:
    """The reads of one event loop. All methods are called on that loop.

    Equal questions share one read, also those of different callers: it runs when the first of them has its turn. A
    question whose askers have all left does not run.
    """

    def __init__(self) -> None:
        self._reads: dict[tuple[Any, ...], _Read] = {}  # waiting or running, by their question
        # The waiting ones by caller. A dict keeps its order: the caller with the next turn is first.
        self._queues: dict[str, dict[_Read, None]] = {}
        self._running: set[str] = set()  # the callers for whom a read runs

    async def ask(self, caller: str, question: Callable[..., T], *args: Any) -> T:
        """Return `question(*args)`, called in a log thread once it is the caller's turn."""
        executor.sync_caller()  # if one waits for this loop, the read needs that thread: let it know the way to it
        key = (question, *args)
        if (read := self._reads.get(key)) is None:
            read = self._reads[key] = _Read(key)
        read.askers += 1
        if not read.is_running and caller not in read.callers:
            read.callers.add(caller)
            self._queues.setdefault(caller, {})[read] = None
        self._begin_next()
        try:
            # Shielded: a client that leaves does not take the answer away from the others.
            answer: T = await asyncio.shield(read.answer)
            return answer
        finally:
            read.askers -= 1
            if not read.askers and not read.is_running:
                self._withdraw(read)
                self._reads.pop(key, None)

    def waiting(self) -> int:
        """Return how many reads wait for a turn."""
        return sum(not read.is_running for read in self._reads.values())

    def _begin_next(self) -> None:
        while len(self._running) < settings.DATABASE_THREADS:
            caller = next((caller for caller in self._queues if caller not in self._running), None)
            if caller is None:
                return
            read = next(iter(self._queues[caller]))
            self._withdraw(read)
            read.is_running = True
            self._running.add(caller)
            spawn(self._run(caller, read))

    def _withdraw(self, read: _Read) -> None:
        for caller in read.callers:
            self._queues[caller].pop(read)
            if not self._queues[caller]:
                del self._queues[caller]
        read.callers.clear()

    async def _run(self, caller: str, read: _Read) -> None:
        try:
            result = await executor.run(*read.key)
        except asyncio.CancelledError:  # the loop is ending, and so are all who wait
            read.answer.cancel()
            raise
        except Exception as error:
            self._end(caller, read)
            if read.askers:
                read.answer.set_exception(error)
        else:
            self._end(caller, read)
            read.answer.set_result(result)

    def _end(self, caller: str, read: _Read) -> None:
        del self._reads[read.key]
        self._running.remove(caller)
        if queue := self._queues.pop(caller, None):
            self._queues[caller] = queue  # the last of all callers
        self._begin_next()


@dataclass(eq=False, slots=True)
class _Read:
    key: tuple[Any, ...]
    answer: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    askers: int = 0
    callers: set[str] = field(default_factory=set)  # those in whose queues it waits
    is_running: bool = False
