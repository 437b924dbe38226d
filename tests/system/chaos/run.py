"""A run: connect clients, publish and disrupt the site for some time, let the clients catch up, judge the result."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import http.client
import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.system.chaos import judge
from tests.system.chaos.audit import EPOCHS, POSITIONS, PRUNED, Audit, Published
from tests.system.chaos.disruptors import Disruptor
from tests.system.chaos.judge import Fault, Outcome
from tests.system.chaos.listeners import Listener
from tests.system.chaos.publishers import CHANNELS, GROUPED, KEYED, text
from tests.system.chaos.world import PUBLISHERS, SETTINGS, World
from tests.system.servers.holdings import until

# For how long a run continues after its time, if it has not seen enough for a verdict.
SHOWING_SECONDS = 30.0

# The most that a server can hold after all clients have left. `objects` are requests, responses and subscribers.
MAX_LEFT = {"streams": 0, "subscribers": 0, "queued_bytes": 0, "objects": 8, "tasks": 12, "threads": 20, "fds": 60}


@dataclass
class Verdict:
    """The result of a run. Its `str()` is a report for the person who analyses a failure."""

    seed: int
    again: str
    faults: list[Fault]
    published: int
    pruned: int
    delivered: int
    connections: int
    resets: int
    lost: int
    disowned: int
    cuts: int
    answered: int
    growth: int
    seconds: float
    done: collections.Counter[str] = field(default_factory=collections.Counter)
    story: list[tuple[float, str]] = field(default_factory=list)

    def __str__(self) -> str:
        counts = collections.Counter(fault.kind for fault in self.faults)
        lines = [
            f"seed {self.seed}, {self.seconds:.0f} s: {self.published} messages ({self.pruned} pruned), "
            f"{self.answered} publishes answered, {self.delivered} deliveries, {self.connections} connections, "
            f"{self.cuts} cut within an event, {self.resets} resets ({self.disowned} of a lost history, of "
            f"{self.lost} messages), processes grew by {self.growth >> 20} MiB at most",
            ", ".join(f"{count} {kind}" for kind, count in sorted(self.done.items())) or "nothing disrupted",
            ", ".join(f"{count} {kind}" for kind, count in counts.items())
            or "0 lost, 0 repeated, 0 out of order, 0 silent gaps",
        ]
        if self.faults:
            shown: collections.Counter[str] = collections.Counter()
            for fault in self.faults:
                shown[fault.kind] += 1
                if shown[fault.kind] <= 2:
                    lines += [f"{fault.kind}: {fault.story}"]
            lines += [f"{at:.3f} {what}" for at, what in self.story]
            lines += [f"Again: {self.again}"]
        return "\n".join(lines)


async def run(
    world: World,
    *,
    seconds: float,
    clients: int = 200,
    disrupted: bool = True,
    messages: int = 0,
    settle_seconds: float = 30.0,
) -> Verdict:
    """Run for `seconds`, continue until there are `messages`, and judge the result.

    `settle_seconds` limits each wait at the end. A message that has not reached a client by then counts as lost.
    """
    began = time.monotonic()
    for number in range(PUBLISHERS):
        await asyncio.to_thread(world.publish, number)
    listeners = [Listener(world.nginx.port, number, world.seed) for number in range(clients)]
    over = asyncio.Event()
    disruptor = Disruptor(world)
    roaming = [asyncio.create_task(listener.roam(over)) for listener in listeners]
    answered: list[str] = []
    others = [asyncio.create_task(_publish_by_post(world, over, number, answered)) for number in range(2)]
    others += [asyncio.create_task(_publish_together(world, over, number, answered)) for number in range(2)]
    await asyncio.sleep(min(seconds, 3))  # the memory that each process needs to start does not count as growth
    world.weigh()
    first = dict(world.max_rss)
    weighing = asyncio.create_task(_weigh(world))
    await (disruptor.disrupt(seconds) if disrupted else asyncio.sleep(seconds))
    with contextlib.suppress(TimeoutError):  # a broken log might accept no more messages
        async with asyncio.timeout(SHOWING_SECONDS):
            while not await asyncio.to_thread(_is_conclusive, world, listeners, messages, disrupted):
                await asyncio.sleep(0.2)
    world.look_for_dead()
    weighing.cancel()
    over.set()
    await asyncio.gather(*roaming, *others)
    await asyncio.to_thread(world.stop_publishing)
    faults = [Fault("died", f"{name}: {why}") for name, why in world.died.items()] + disruptor.faults
    async with Listener(world.nginx.port, clients, world.seed).staying():  # hubs run only while a client is connected
        if not await all_sequenced(world, settle_seconds):
            faults.append(Fault("left without a position", "at the end of the run"))
    audit = await asyncio.to_thread(read_audit, world)
    await asyncio.gather(*(listener.settle(audit.newest, settle_seconds) for listener in listeners))
    world.weigh()
    faults += await _left_over(world)
    audit = await asyncio.to_thread(read_audit, world, audit.horizon)  # messages were pruned while they settled
    outcome = Outcome([*answered, *world.returned()], await asyncio.to_thread(world.committed))
    records = [listener.record for listener in listeners]
    faults += judge.silent(audit, [*(f"publisher-{number}" for number in range(PUBLISHERS)), "post-0", "group-0"])
    faults += judge.judge(audit, records, outcome)
    faults += judge.growth(first, world.max_rss)
    return Verdict(
        seed=world.seed,
        again=_command(world, seconds, clients, disrupted),
        faults=faults,
        published=len(audit.published),
        pruned=len(audit.pruned),
        delivered=sum(len(record.seen) for record in records),
        connections=sum(len(record.connections) for record in records),
        resets=sum(len(record.resets) for record in records),
        lost=sum(len(loss.published) for loss in world.losses),
        disowned=sum(reset.reason == "unknown-id" for record in records for reset in record.resets),
        cuts=sum(record.cuts for record in records),
        answered=len(outcome.returned),
        growth=max(rss - first.get(name, rss) for name, rss in world.max_rss.items()),
        seconds=time.monotonic() - began,
        done=disruptor.done,
        story=disruptor.story,
    )


async def _left_over(world: World) -> list[Fault]:
    """Return a fault for each server that keeps resources after all clients have left."""
    faults = []
    for number, server in enumerate(world.servers):
        try:
            await until(
                server,
                lambda found: all(found[key] <= limit for key, limit in MAX_LEFT.items()),
                f"at most {MAX_LEFT}",
                60,
            )
        except TimeoutError as error:
            faults.append(Fault("left over", f"server-{number}: {error}"))
    return faults


def _is_conclusive(world: World, listeners: Sequence[Listener], messages: int, disrupted: bool) -> bool:
    """Return True if the run has seen enough messages, cuts and resets for a verdict."""
    audit = read_audit(world)
    records = [listener.record for listener in listeners]
    resets = {reset.reason for record in records for reset in record.resets}
    enough = not disrupted or (any(record.cuts for record in records) and {"pruned", "unknown-id"} <= resets)
    return len(audit.published) >= messages and enough


async def _publish_by_post(world: World, over: asyncio.Event, number: int, answered: list[str]) -> None:
    """Publish one message after another in the server processes, whose own hubs are notified at once.

    A request that fails, for example because its server was killed, is sent again with the same idempotency key. Its
    text is added to `answered` when it succeeds.
    """
    choice = random.Random(f"{world.seed} posts {number}")
    for count in itertools.count(1):
        name = text(f"post-{number}", count, KEYED)
        path = f"/test/publish/?channel={choice.choice(CHANNELS)}"
        while not over.is_set():
            if await asyncio.to_thread(_succeeds, world, path, name, Idempotency_Key=name):
                answered.append(name)
                break
            await asyncio.sleep(choice.uniform(0, 0.5))
        if over.is_set():
            return
        await asyncio.sleep(choice.uniform(0, 0.1))


async def _publish_together(world: World, over: asyncio.Event, number: int, answered: list[str]) -> None:
    """Publish several messages at the same time in a server, which shares a transaction. Send no message twice."""
    choice = random.Random(f"{world.seed} groups {number}")
    for count in itertools.count(1):
        names = [text(f"group-{number}.{count}", place, GROUPED) for place in range(choice.randint(2, 8))]
        path = f"/test/publish/?channel={choice.choice(CHANNELS)}"
        if await asyncio.to_thread(_succeeds, world, path, "\n".join(names)):
            answered += names
        if over.is_set():
            return
        await asyncio.sleep(choice.uniform(0, 0.2))


def _succeeds(world: World, path: str, body: str, **headers: str) -> bool:
    try:
        world.get(path, body.encode(), 5, **headers)
    except (OSError, http.client.HTTPException, ValueError):  # connection refused, closed early, or body incomplete
        return False
    return True


async def _weigh(world: World) -> None:
    while True:
        await asyncio.sleep(1)
        world.weigh()


async def all_sequenced(world: World, seconds: float) -> bool:
    """Return True if the hubs give positions to all messages of dead publishers. A client must keep a hub running."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        left = "SELECT count(*) FROM streams_message WHERE position IS NULL"
        if await asyncio.to_thread(world.site.execute, left) == [(0,)]:
            return True
        await asyncio.sleep(0.2)
    return False


def _command(world: World, seconds: float, clients: int, disrupted: bool) -> str:
    words = [f"python -m tests.system.chaos --seed {world.seed} --seconds {seconds:g} --clients {clients}"]
    words += [f"--notifier {world.notifier}"]
    words += [f"--break {world.broken}"] if world.broken else []
    words += [] if disrupted else ["--calm"]
    return " ".join(words)


def read_audit(world: World, horizon: int | None = None) -> Audit:
    """Read the audit from the database. `horizon` is explained in Audit; the default is the current head."""
    published = [Published(*row) for row in world.site.execute(POSITIONS)]
    gone, epochs = world.site.execute(PRUNED), world.site.execute(EPOCHS)
    if horizon is None:
        horizon = max((message.position for message in published), default=0)
    return Audit(published, dict(gone), horizon, epochs, world.losses, SETTINGS["RETENTION_MESSAGES_PER_CHANNEL"])
