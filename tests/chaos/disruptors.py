"""What goes wrong, at random by the seed: processes die, hang and come back while everything goes on."""

from __future__ import annotations

import asyncio
import http.client
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from tests.chaos.judge import Fault
from tests.chaos.world import SETTINGS, World
from tests.clients import StreamClient

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
        """A client that asks for megabytes and takes nothing: more than the kernel and nginx hold, and for longer than
        it is given. What it then finds on its connection is the beginning, and that it was cut."""
        client = StreamClient(self._world.nginx.port, f"/events/?channel={FLOODED}")
        try:
            async with asyncio.timeout(10):
                await client.connect(receive_buffer=4096)
                await client.read_control(1)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError, IndexError):
            return
        if client.status != 200:
            client.abort()
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
        is_cut = await _is_cut(client)
        had = len(client.events)
        client.abort()
        if had >= FLOOD_MESSAGES:
            self._tell("the kernel and nginx had room for all of it; it was not slow")
        elif not is_cut:
            self.faults.append(Fault("not cut", f"a client that took nothing, and had {had} large messages afterwards"))
        else:
            self._tell(f"it was cut, and had had {had} of {FLOOD_MESSAGES} large messages")
            self.done[self.read_nothing.__name__] += 1


async def _is_cut(client: StreamClient) -> bool:
    """Read what has been sent, to its end. Return False if the connection stays open, and nothing comes any more.

    On a busy machine that takes a while. And its server can be stopped: it cuts the client when it goes on.
    """
    client.widen(2**20)
    had = -1
    while had < len(client.events):
        had, began = len(client.events), time.monotonic()
        await client.read_for(PATIENCE_SECONDS)
        if time.monotonic() - began < PATIENCE_SECONDS:
            return True
    return False
