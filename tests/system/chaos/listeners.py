"""The clients. Each keeps its Last-Event-ID when it reconnects, and records the events that it received and when."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from streams.protocol.sse import DecodedEvent
from tests.support.clients import StreamClient
from tests.system.chaos.publishers import CHANNELS


@dataclass(frozen=True, slots=True)
class Seen:
    """A message that a client received."""

    position: int
    digest: str
    at: float
    connection: int


@dataclass(frozen=True, slots=True)
class Reset:
    """A stream-reset that a client received. `cursor` is its cursor, and `before` the number of earlier messages."""

    reason: str
    cursor: int
    before: int
    at: float


@dataclass(frozen=True, slots=True)
class Connection:
    server: str
    cursor: str
    at: float

    def __str__(self) -> str:
        return f"{self.at:.3f} to {self.server} with cursor {self.cursor or 'none'}"


@dataclass
class Record:
    """Everything that one client has recorded."""

    name: str
    channels: list[str]
    start: int | None = None
    seen: list[Seen] = field(default_factory=list)
    resets: list[Reset] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    cuts: int = 0  # connections that it closed in the middle of an event


class _Reader(StreamClient):
    """A StreamClient that keeps no bytes, and keeps events only in its record, in order of arrival."""

    record: Record

    def _take(self, data: bytes) -> bool:
        for event in self._decoder.feed(data):
            self._note(event)
        self.last_event_id = self._decoder.last_event_id
        return bool(data)

    @property
    def is_within_an_event(self) -> bool:
        return self._decoder.held > 0

    @property
    def retry_seconds(self) -> float | None:
        """The reconnection time that the server sent on this connection."""
        milliseconds = self._decoder.retry_milliseconds
        return None if milliseconds is None else milliseconds / 1000

    def _note(self, event: DecodedEvent) -> None:
        record, now = self.record, time.time()
        if event.event == "stream-reset":
            reset = json.loads(event.data)
            cursor = int(reset["requested"]) if str(reset["requested"]).isdigit() else 0
            record.resets.append(Reset(reset["reason"], cursor, len(record.seen), now))
        elif event.event == "stream-checkpoint":
            if record.start is None:
                record.start = int(event.id)
        elif event.event == "message":
            digest = hashlib.md5(event.data.encode(), usedforsecurity=False).hexdigest()
            record.seen.append(Seen(int(event.id), digest, now, len(record.connections)))


class Listener:
    """One client. roam() disconnects and reconnects at random, stay() reconnects as a browser does, settle() ends."""

    def __init__(self, port: int, number: int, seed: int) -> None:
        self._choice = random.Random(f"{seed} client {number}")
        channels = self._choice.sample(CHANNELS, self._choice.choice([1, 1, 2, 3]))
        self.record = Record(f"client {number}", channels)
        query = "&".join(f"channel={name}" for name in channels)
        self._reader = _Reader(port, f"/events/?{query}")
        self._reader.record = self.record
        self.waits: list[float] = []

    async def roam(self, over: asyncio.Event) -> None:
        choice = self._choice
        while not over.is_set():
            if await self._connect():
                await self._attend(over, choice.choice([0.05, choice.uniform(0, 2), choice.uniform(0, 8)]))
                await self._leave()
            await _rest(over, choice.choice([0, 0, 0.3, choice.uniform(0, 2), choice.uniform(0, 2), 11]))

    async def stay(self, over: asyncio.Event) -> None:
        """Stay connected. When the server ends the stream, reconnect after its `retry` time, recorded in `waits`."""
        while not over.is_set():
            if await self._connect():
                await self._attend(over)
                self._cut()
                if not over.is_set():
                    self.waits.append(self._reader.retry_seconds or 0.0)
                    await _rest(over, self.waits[-1])

    @contextlib.asynccontextmanager
    async def staying(self) -> AsyncIterator[None]:
        """Keep this client connected inside the `with` block."""
        over = asyncio.Event()
        task = asyncio.create_task(self.stay(over))
        try:
            yield
        finally:
            over.set()
            await task

    async def _attend(self, over: asyncio.Event, seconds: float | None = None) -> None:
        """Read until the stream ends, for at most `seconds`, or until the run is over."""
        reading = asyncio.create_task(self._read_for(seconds))
        ending = asyncio.create_task(over.wait())
        await asyncio.wait([reading, ending], return_when=asyncio.FIRST_COMPLETED)
        for task in (reading, ending):
            task.cancel()
        await asyncio.gather(reading, ending, return_exceptions=True)

    async def settle(self, newest: dict[str, int], seconds: float) -> None:
        """Reconnect and read until the cursor has reached the newest message of the channels.

        A message that has not arrived by then is missing.
        """
        wanted = max(newest.get(channel, 0) for channel in self.record.channels)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not (await self._connect() and await self._read_to(wanted)):
                    pass
                await self._read_for(0.3)  # a repeated message would arrive now
        self._cut()

    async def _connect(self) -> bool:
        cursor = self._reader.last_event_id
        try:
            async with asyncio.timeout(8):
                await self._reader.connect()
        except (OSError, asyncio.IncompleteReadError, TimeoutError, IndexError, ValueError):
            self._cut()
            await asyncio.sleep(0.1)
            return False
        server = self._reader.response_headers.get("x-server", "?")
        if self._reader.status != 200 or server == "?":  # nginx itself has answered, because it reaches no server
            self._cut()
            await asyncio.sleep(self._choice.uniform(0.05, 0.3))
            return False
        self.record.connections.append(Connection(server, cursor, time.time()))
        return True

    async def _read_to(self, wanted: int) -> bool:
        while self.record.start is None or int(self._reader.last_event_id or -1) < wanted:
            if not await self._reader.read():
                return False
        return True

    async def _read_for(self, seconds: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while await self._reader.read():
                    pass

    async def _leave(self) -> None:
        way = self._choice.choice(["fin", "rst", "within an event"])
        if way == "within an event":
            bite = asyncio.create_task(self._reader.bite(self._choice.randint(1, 60)))
            await asyncio.wait([bite], timeout=0.5)
            bite.cancel()
            await asyncio.gather(bite, return_exceptions=True)
            self.record.cuts += self._reader.is_within_an_event
        if way == "fin":
            await self._reader.close()
        else:
            self._cut()

    def _cut(self) -> None:
        self._reader.leave()


async def _rest(over: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(over.wait(), seconds)
