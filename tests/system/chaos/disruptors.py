"""What goes wrong, at random by the seed: processes die, hang and come back while everything goes on."""

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

# Fifteen megabytes: an unread connection over loopback takes four and more, and behind nginx there are two of them.
FLOODED = "public.flood"
FLOOD_MESSAGES = 150
FLOOD_BYTES = 100_000

# How many messages a restored copy takes away at least, if they come within 10 seconds.
LOST_MESSAGES = 40

# How long it may go on after its time, until each kind has been seen; and what a flood may take.
PATIENCE_SECONDS = 60.0

Disruption = Callable[[], Coroutine[Any, Any, None]]


class Disruptor:
    """Does one thing after the other until it is time, each kind once before any comes again.

    `done` counts them by name, `story` tells of them, and `faults` has what should not have come of them.
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
        """For so long, and within PATIENCE_SECONDS until each kind was done once; when it returns, everything is up."""
        end = time.monotonic() + seconds
        last = end + PATIENCE_SECONDS
        bag: list[Disruption] = []
        async with asyncio.TaskGroup() as lasting:
            while time.monotonic() < (last if len(self.done) < len(self.kinds) else end):
                if not bag:
                    bag = self._choice.sample(self.kinds, len(self.kinds))
                kind = bag.pop()
                if kind == self.read_nothing:
                    lasting.create_task(kind())  # it counts itself, when it has seen what it is there for
                else:
                    self._world.look_for_dead()
                    self.done[kind.__name__] += 1
                    await kind()
                await asyncio.sleep(self._choice.uniform(0.2, 1.0))

    def _tell(self, what: str) -> None:
        self.story.append((time.time(), what))

    async def kill_server(self) -> None:
        number = self._choice.randrange(len(self._world.servers))
        server = self._world.servers[number]
        self._tell(f"SIGKILL of server-{number}")
        await asyncio.to_thread(server.stop)
        await asyncio.sleep(self._choice.uniform(0, 1))
        await asyncio.to_thread(server.start)
        self._tell(f"server-{number} is back as process {server.pid}")

    async def freeze_server(self) -> None:
        number = self._choice.randrange(len(self._world.servers))
        pid = self._world.servers[number].pid
        self._tell(f"SIGSTOP of server-{number}")
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(self._choice.uniform(2, 4))
        finally:
            os.kill(pid, signal.SIGCONT)
            self._tell(f"SIGCONT of server-{number}")

    async def kill_publisher(self) -> None:
        for number in self._choice.sample(sorted(self._world.publishing), 2):
            self._tell(f"SIGKILL of a publisher, number {number}")
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
        self._tell(f"{how.name} of PostgreSQL")
        await asyncio.to_thread(postgres.stop, how)
        await asyncio.sleep(self._choice.uniform(0, 1))
        await asyncio.to_thread(postgres.start)
        self._tell("PostgreSQL is back")

    async def restore_older_copy(self) -> None:
        """Put a copy of the database in its place that is some seconds old, as a restored backup is."""
        while not await asyncio.to_thread(self._world.head):  # nothing was published: there is no history to lose yet
            await asyncio.sleep(0.2)
        fork = await asyncio.to_thread(self._world.back_up)
        self._tell(f"a copy of the database has the head {fork}")
        last = time.monotonic() + 10
        while await asyncio.to_thread(self._world.head) < fork + LOST_MESSAGES and time.monotonic() < last:
            await asyncio.sleep(self._choice.uniform(0.2, 1))
        await asyncio.to_thread(self._world.restore, fork)
        self._tell(f"the copy is restored, and {len(self._world.losses[-1].published)} messages are lost")

    async def kill_redis(self) -> None:
        redis = self._world.redis
        assert redis is not None
        self._tell("SIGKILL of Redis")
        await asyncio.to_thread(redis.stop, signal.SIGKILL)
        await asyncio.sleep(self._choice.uniform(0, 1))
        await asyncio.to_thread(redis.start)
        self._tell("Redis is back")

    async def read_nothing(self) -> None:
        """Connect a client that takes nothing, and publish megabytes for it: more than the kernel and nginx hold.

        The server must cut it. When the client reads at last, it finds the beginning, and the end of the stream.
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
        self._tell("a client reads nothing")
        flood = f"/test/burst/?channel={FLOODED}&n={FLOOD_MESSAGES // 5}&bytes={FLOOD_BYTES}"
        sent, last = 0, time.monotonic() + PATIENCE_SECONDS
        while sent < 5 and time.monotonic() < last:
            try:
                await asyncio.to_thread(self._world.get, flood)
                sent += 1
            except (OSError, http.client.HTTPException):  # a server was killed under it, or has no database just now
                await asyncio.sleep(0.5)
        await asyncio.sleep(3.5 * SETTINGS["SEND_TIMEOUT_SECONDS"])
        outcome = await read_rest(client, self._newest_of_flood)
        had = len(client.events)
        client.abort()
        if outcome == "cut":
            self._tell(f"it was cut, and had had {had} of {FLOOD_MESSAGES} large messages")
            self.done[self.read_nothing.__name__] += 1
        elif outcome == "complete":
            self._tell("the kernel and nginx had room for all that was left of the flood; it was not slow")
        else:
            self.faults.append(Fault("not cut", f"a client that took nothing, and had {had} large messages afterwards"))

    async def _newest_of_flood(self) -> int:
        """The newest position of the flooded channel. Waits while another disruptor has stopped PostgreSQL."""
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
    """Read what was sent to a client that took nothing for long, until the stream ends or nothing more comes.

    Args:
        newest: Returns the newest position of the client's channel.
        patience: For how many seconds nothing comes, before it counts as nothing. A busy machine needs a while, and a
            stopped server cuts the client only when it goes on.

    Returns:
        "cut": The server ended the stream.
        "complete": The stream is open, and the client has the newest message. It was not slow: retention deletes
            most of a flood, and if the server was late, the buffers had room for all the rest.
        "open": The stream is open, and does not deliver what the log holds.
    """
    client.widen(2**20)
    while True:
        had, before = len(client.events), await newest()
        began = time.monotonic()
        await client.read_for(patience)
        if time.monotonic() - began < patience:
            return "cut"
        if len(client.events) == had:
            break
    position = int(client.events[-1].id) if client.events else 0
    # The smaller one, because an older copy of the log could have been restored in between.
    return "complete" if position >= min(before, await newest()) else "open"
