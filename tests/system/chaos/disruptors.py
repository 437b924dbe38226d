"""Disrupt the site at random, as the seed determines: kill, freeze and restart processes, and restore old copies."""

from __future__ import annotations

import asyncio
import http.client
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import psycopg

from tests.support.clients import StreamClient
from tests.system.chaos.judge import Fault
from tests.system.chaos.world import SETTINGS, World

# Fifteen megabytes, because the buffers of an unread loopback connection hold four or more, and nginx has two of them.
FLOODED = "public.flood"
FLOOD_MESSAGES = 150
FLOOD_BYTES = 100_000

# Restoring a copy loses at least this number of messages, if they are published within 10 seconds.
LOST_MESSAGES = 40

# The time limit for the kinds of disruption that are missing when the run's time is over, and for sending a flood.
PATIENCE_SECONDS = 60.0

Disruption = Callable[[], Coroutine[Any, Any, None]]


class Disruptor:
    """Makes one disruption after another, each kind once before any is repeated.

    `done` counts them by name, `story` is their log, and `faults` are the faults that they have found.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._choice = random.Random(f"{world.seed} disruptor")
        self._generation = 0
        self.done: Counter[str] = Counter()
        self.story: list[tuple[float, str]] = []
        self.faults: list[Fault] = []
        self.kinds: list[Disruption] = [
            self.kill_server,
            self.kill_publisher,
            self.stop_postgres_fast,
            self.stop_postgres_at_once,
            self.freeze_server,
            self.read_nothing,
            self.restore_older_copy,
        ]
        if world.redis is not None:
            self.kinds.append(self.kill_redis)

    async def disrupt(self, seconds: float) -> None:
        """Disrupt for `seconds`, and up to PATIENCE_SECONDS longer until each kind was done once."""
        end = time.monotonic() + seconds
        last = end + PATIENCE_SECONDS
        bag: list[Disruption] = [self.read_nothing]  # the first one, because it takes the longest
        async with asyncio.TaskGroup() as lasting:
            while time.monotonic() < (last if len(self.done) < len(self.kinds) else end):
                if not bag:
                    bag = self._choice.sample(self.kinds, len(self.kinds))
                kind = bag.pop()
                if kind == self.read_nothing:
                    lasting.create_task(kind())  # it runs in parallel, and counts itself only if the client was cut
                else:
                    self._world.look_for_dead()
                    self.done[kind.__name__] += 1
                    await kind()
                await asyncio.sleep(self._choice.uniform(0.2, 1.0))

    def _record(self, text: str) -> None:
        self.story.append((time.time(), text))

    async def kill_server(self) -> None:
        number = self._choice.randrange(len(self._world.servers))
        server = self._world.servers[number]
        self._record(f"SIGKILL of server-{number}")
        await asyncio.to_thread(server.stop)
        await asyncio.sleep(self._choice.uniform(0, 1))
        await asyncio.to_thread(server.start)
        self._record(f"server-{number} is back as process {server.pid}")

    async def freeze_server(self) -> None:
        number = self._choice.randrange(len(self._world.servers))
        pid = self._world.servers[number].pid
        self._record(f"SIGSTOP of server-{number}")
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(self._choice.uniform(2, 4))
        finally:
            os.kill(pid, signal.SIGCONT)
            self._record(f"SIGCONT of server-{number}")

    async def kill_publisher(self) -> None:
        for number in self._choice.sample(sorted(self._world.publishing), 2):
            self._record(f"SIGKILL of a publisher, number {number}")
            self._generation += 1
            await asyncio.to_thread(self._world.publishing[number].close)
            await asyncio.to_thread(self._world.publish, number, self._generation)

    async def stop_postgres_fast(self) -> None:
        await self._stop_postgres(signal.SIGINT)

    async def stop_postgres_at_once(self) -> None:
        await self._stop_postgres(signal.SIGQUIT)

    async def _stop_postgres(self, how: signal.Signals) -> None:
        postgres = self._world.postgres
        assert postgres is not None
        self._record(f"{how.name} of PostgreSQL")
        await asyncio.to_thread(postgres.stop, how)
        await asyncio.sleep(self._choice.uniform(0, 1))
        await asyncio.to_thread(postgres.start)
        self._record("PostgreSQL is back")

    async def restore_older_copy(self) -> None:
        """Replace the database with a copy that is a few seconds old, as restoring a backup does."""
        while not await asyncio.to_thread(self._world.head):  # nothing is published yet, so nothing could be lost
            await asyncio.sleep(0.2)
        fork = await asyncio.to_thread(self._world.back_up)
        self._record(f"a copy of the database has the head {fork}")
        last = time.monotonic() + 10
        while await asyncio.to_thread(self._world.head) < fork + LOST_MESSAGES and time.monotonic() < last:
            await asyncio.sleep(self._choice.uniform(0.2, 1))
        await asyncio.to_thread(self._world.restore, fork)
        self._record(f"the copy is restored, and {len(self._world.losses[-1].published)} messages are lost")

    async def kill_redis(self) -> None:
        redis = self._world.redis
        assert redis is not None
        self._record("SIGKILL of Redis")
        await asyncio.to_thread(redis.stop, signal.SIGKILL)
        await asyncio.sleep(self._choice.uniform(0, 1))
        await asyncio.to_thread(redis.start)
        self._record("Redis is back")

    async def read_nothing(self) -> None:
        """Connect a client that reads nothing, and publish more than the buffers of the kernel and nginx hold.

        The server must cut the client. When the client reads again, it receives the first messages and then the end.
        """
        client = StreamClient(self._world.nginx.port, f"/events/?channel={FLOODED}")
        try:
            async with asyncio.timeout(10):
                await client.connect(receive_buffer=4096)
                await client.read_control(1)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError, IndexError):
            client.status = 0
        if client.status != 200:
            client.leave()
            return
        self._record("a client reads nothing")
        flood = f"/test/burst/?channel={FLOODED}&n={FLOOD_MESSAGES // 5}&bytes={FLOOD_BYTES}"
        sent, last = 0, time.monotonic() + PATIENCE_SECONDS
        while sent < 5 and time.monotonic() < last:
            try:
                await asyncio.to_thread(self._world.get, flood)
                sent += 1
            except (OSError, http.client.HTTPException):  # the server was killed, or its database is stopped
                await asyncio.sleep(0.5)
        await asyncio.sleep(3.5 * SETTINGS["SEND_TIMEOUT_SECONDS"])
        outcome = await read_rest(client, self._newest_of_flood)
        had = len(client.events)
        client.abort()
        if outcome == "cut":
            self._record(f"it was cut, and had had {had} of {FLOOD_MESSAGES} large messages")
            self.done[self.read_nothing.__name__] += 1
        elif outcome == "complete":
            self._record("it was not slow: the buffers of the kernel and nginx held the rest of the flood")
        else:
            self.faults.append(Fault("not cut", f"a client that took nothing, and had {had} large messages afterwards"))

    async def _newest_of_flood(self) -> int:
        """Return the newest position of the flooded channel. Wait if another disruptor has stopped PostgreSQL."""
        newest = f"SELECT coalesce(max(position), 0) FROM streams_message WHERE channel = '{FLOODED}'"
        while True:
            try:
                [(position,)] = await asyncio.to_thread(self._world.site.execute, newest)
            except psycopg.OperationalError:
                await asyncio.sleep(0.5)
            else:
                return int(position)


async def read_rest(
    client: StreamClient, newest: Callable[[], Awaitable[int]], patience: float = PATIENCE_SECONDS
) -> str:
    """Read the bytes sent to a client that has not read for a long time, until the stream ends or falls silent.

    Args:
        newest: Returns the newest position of the client's channel.
        patience: A stream without the newest message counts as silent after this number of seconds. A busy machine
            needs time, and a frozen server cuts the client only after it continues.

    Returns:
        "cut": The server ended the stream.
        "complete": The stream is open, and the client has the newest message. It was not slow: retention deletes
            most of a flood, and if the server sent it late, the buffers held all of the rest.
        "open": The stream is open, but does not deliver the newest messages of the log.
    """
    client.widen(2**20)
    silent = 0.0
    while True:
        had, before = len(client.events), await newest()
        seconds = min(10.0, patience)
        began = time.monotonic()
        await client.read_for(seconds)
        if time.monotonic() - began < seconds:
            return "cut"
        if len(client.events) > had:
            silent = 0.0
            continue
        silent += seconds
        position = int(client.events[-1].id) if client.events else 0
        # Use the smaller position, because an older copy of the log could have been restored in between.
        if position >= min(before, await newest()):
            return "complete"
        if silent >= patience:
            return "open"
