"""Who listens, over all processes: each keeps one row fresh, and rows that are no longer renewed fade.

    presence.audience("news")   # connections that have this channel, in all processes
    presence.nodes()            # the processes

A process counts its own streams in memory as they come and go, and writes the counts every PRESENCE_SECONDS: one small
statement, however many clients there are. What is said of other processes is as old as that; of this one it is exact.
Where streams are limited over all processes, it reads the others' counts with it, and keeps them: see limits.py.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
import socket
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from django.db.models import DurationField, ExpressionWrapper, F, Q
from django.db.models.functions import Now

from streams.conf import settings
from streams.models import Node
from streams.presence.slots import Places
from streams.runtime import executor, failures, test_run
from streams.runtime.executor import database
from streams.runtime.resets import per_process

logger = logging.getLogger("streams")

# Channels that a row lists, those with most connections first.
MAX_CHANNELS = 500

# Callers that a row lists, those with most streams first. Whoever is left out has few.
MAX_CALLERS = 300

# Beats that a row remembers, for the chart of the last minutes.
MAX_SAMPLES = 60

# A row that was not renewed for so many beats is a process that has ended, or hangs.
BEATS_UNTIL_FADED = 3

# Rows of processes that ended are deleted after that.
FORGET_SECONDS = 3600

# What is assumed of other processes' beats where this one has PRESENCE_SECONDS = None.
DEFAULT_SECONDS = 5.0


class OpenStream(Protocol):
    """An open stream, as other modules can look at it. See Subscriber."""

    channels: tuple[str, ...]
    number: int

    def has_received(self, position: int) -> bool: ...


class Census:
    """The streams of one event loop, counted. Written on that loop; read from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, subscribers: Collection[OpenStream]) -> None:
        self.loop = loop
        self.subscribers = subscribers  # the hub's own set
        self.connections = 0
        self.channels: Counter[str] = Counter()
        self.head = 0  # of the log, as the hub knows it
        self.notifier_problem = ""

    def add(self, channels: Iterable[str]) -> None:
        self.connections += 1
        self.channels.update(channels)

    def remove(self, channels: Iterable[str]) -> None:
        self.connections -= 1
        for channel in channels:
            self.channels[channel] -= 1
            if self.channels[channel] <= 0:
                del self.channels[channel]


@dataclass(frozen=True, slots=True)
class Count:
    """This process's streams at one moment, over all its event loops."""

    connections: int
    channels: Mapping[str, int]
    head: int | None  # of the log; None where no stream is open, and so nobody follows it
    notifier_problem: str


@dataclass(frozen=True, slots=True)
class Others:
    """The streams of all other processes, as this one read it last."""

    connections: int = 0
    callers: Mapping[str, int] = field(default_factory=dict)
    read_at: float = float("-inf")  # in time.monotonic() seconds


class _Process:
    """What this process says of itself."""

    def __init__(self) -> None:
        self.node_id = uuid.uuid4().hex
        self.started = time.monotonic()
        self.lock = threading.Lock()  # held for moments
        self.censuses: set[Census] = set()
        self.places = Places()
        self.others = Others()
        self.samples: deque[list[int | None]] = deque(maxlen=MAX_SAMPLES)
        self.head: int | None = None  # of the log, as a hub of this process knew it last
        self.beat_at = float("-inf")
        self.cleaned_at = float("-inf")


_process = per_process(_Process)


def node_id() -> str:
    """The id of this process's row."""
    return _process.node_id


# --- Counting, called by the hub --------------------------------------------------------------------------------------


def open_census(loop: asyncio.AbstractEventLoop, subscribers: Collection[OpenStream]) -> Census:
    """A census for an event loop that begins to stream; `subscribers`: the set in which its hub keeps them."""
    census = Census(loop, subscribers)
    with _process.lock:
        _process.censuses.add(census)
    return census


def close_census(census: Census) -> None:
    """The event loop streams no more. Where it was the process's last, other processes are told at once.

    May be called twice.
    """
    process = _process
    with process.lock:
        if census not in process.censuses:
            return
        process.censuses.remove(census)
        last = not process.censuses
        if last:
            process.beat_at = float("-inf")  # who comes back beats at once
    if last and settings.PRESENCE_SECONDS is not None and test_run.strategy().works_unattended:
        # Straight to a thread: the loop may be ending, and would not come back to a task.
        try:
            executor.PERIODIC.submit(_write_if_nobody_came_back)
        except RuntimeError:  # the interpreter is ending
            logger.info("That nobody listens here any more could not be written; the row will fade.", exc_info=True)


def _censuses() -> list[Census]:
    with _process.lock:
        # A loop may end before its streams are closed, as tests' loops do.
        _process.censuses -= {census for census in _process.censuses if census.loop.is_closed()}
        return list(_process.censuses)


def subscribers() -> list[OpenStream]:
    """All open streams of this process, of all its event loops. From any thread."""
    # tuple() takes what is in a set in one step, whatever the loop's thread does meanwhile.
    return [subscriber for census in _censuses() for subscriber in tuple(census.subscribers)]


def connections() -> int:
    """How many streams this process has. Cheap, also where they are on thousands of channels."""
    return sum(census.connections for census in _censuses())


def count() -> Count:
    """How many streams this process has, and on which channels."""
    censuses = _censuses()
    channels: Counter[str] = Counter()
    for census in censuses:
        channels.update(census.channels.copy())  # a copy is made in one step, whatever the loop's thread does meanwhile
    problems = [census.notifier_problem for census in censuses if census.notifier_problem]
    return Count(
        connections=sum(census.connections for census in censuses),
        channels=channels,
        head=max((census.head for census in censuses), default=None),
        notifier_problem=problems[0] if problems else "",
    )


def places() -> Places:
    """The places of this process's streams, by caller. Only delivery/limits.py takes any."""
    return _process.places


# --- The row ----------------------------------------------------------------------------------------------------------


async def beat() -> None:
    """Renew this process's row, unless another of its event loops has just done so. A periodic task."""
    interval = settings.PRESENCE_SECONDS
    if interval is None:
        return
    process = _process
    with process.lock:
        now = time.monotonic()
        if now - process.beat_at < interval / 2:
            return
        process.beat_at = now
    # No other process writes this row, so other periodic tasks wait only for SQLite's one lock.
    try:
        await executor.run(_write_and_read, pool=executor.PERIODIC)
    except BaseException:
        process.beat_at = float("-inf")  # or the next try would find nothing to do, and pass for a success
        raise


def _write_and_read() -> None:
    write()
    if any(most is not None for most in _limits_over_processes()):
        read_others()


def _limits_over_processes() -> tuple[int | None, ...]:
    return settings.MAX_STREAMS, settings.MAX_STREAMS_PER_USER, settings.MAX_STREAMS_PER_ADDRESS


def write() -> None:
    """Write this process's row, now. Blocks."""
    process, now = _process, count()
    process.head = process.head if now.head is None else now.head
    process.samples.append([int(time.time()), now.connections, process.head])
    listed = Counter(now.channels).most_common(MAX_CHANNELS)
    callers = process.places.counts().most_common(MAX_CALLERS)
    fields: dict[str, Any] = {
        "seen_at": Now(),  # the database's clock: those of the machines may differ
        "connections": now.connections,
        "channels": dict(listed),
        "channels_left_out": len(now.channels) - len(listed),
        "callers": dict(callers),
        "notifier": settings.NOTIFIER["BACKEND"],
        "notifier_problem": now.notifier_problem[:255],
        "samples": list(process.samples),
    }
    rows = Node.objects.using(database())
    if not rows.filter(id=process.node_id).update(**fields):
        node = Node(
            id=process.node_id,
            host=socket.gethostname()[:255],
            pid=os.getpid(),
            started_at=Now() - datetime.timedelta(seconds=time.monotonic() - process.started),
            **fields,
        )
        rows.bulk_create([node], ignore_conflicts=True)
    if time.monotonic() - process.cleaned_at > FORGET_SECONDS / 2:
        process.cleaned_at = time.monotonic()
        rows.filter(seen_at__lt=Now() - datetime.timedelta(seconds=FORGET_SECONDS)).delete()


def _write_if_nobody_came_back() -> None:
    try:
        if not connections():
            write()
    except Exception:
        failures.report(logger, "That nobody listens here any more could not be written; the row will fade.")


# --- The others, as of the last beat ----------------------------------------------------------------------------------


def others() -> Others:
    """How many streams the other processes have, and of whom, as this one has read it at its last beat. No query.

    None at all where that was too long ago: of processes that may have ended since, nobody is to be refused.
    """
    known = _process.others
    return known if time.monotonic() - known.read_at < _faded_seconds() else Others()


def read_others() -> None:
    """Read them, now. Blocks."""
    process, began = _process, time.monotonic()
    total, callers = 0, Counter[str]()
    rows = _alive().exclude(id=process.node_id).filter(connections__gt=0).values_list("connections", "callers")
    for connections, theirs in rows:
        total += connections
        callers.update(theirs)
    process.others = Others(total, callers, began)


# --- Reading ----------------------------------------------------------------------------------------------------------


def nodes() -> list[Node]:
    """The processes that stream, as each described itself in the last beats. `silent_for`: how long ago that was."""
    # By the database's clock on both sides: those of the machines may differ.
    silent_for = ExpressionWrapper(Now() - F("seen_at"), output_field=DurationField())
    return list(_alive().annotate(silent_for=silent_for))


def is_anybody_there() -> bool:
    """Whether any process streams, this one or another."""
    return bool(connections()) or bool(_alive().exists())


def audience(channel: str) -> int:
    """How many connections have `channel`, over all processes.

    Where a process has more than MAX_CHANNELS channels, those of its channels with the fewest connections are not
    counted.
    """
    return audiences([channel])[channel]


def audiences(channels: Iterable[str]) -> dict[str, int]:
    """{channel: connections}, as audience() gives them, for several channels at once."""
    own = _censuses()
    totals = {channel: sum(census.channels[channel] for census in own) for channel in channels}
    if totals:
        for others in _alive().exclude(id=_process.node_id).values_list("channels", flat=True):
            for channel in totals:
                totals[channel] += others.get(channel, 0)
    return totals


def is_audience_whole() -> bool:
    """Whether audience() counts everybody: other processes list but the MAX_CHANNELS channels with most connections."""
    return not _alive().exclude(id=_process.node_id).filter(channels_left_out__gt=0).exists()


def channels() -> dict[str, int]:
    """{channel: connections} of all channels that anybody listens to, those that the rows list."""
    total = Counter(count().channels)
    for others in _alive().exclude(id=_process.node_id).values_list("channels", flat=True):
        total.update(others)
    return dict(total)


def _faded_seconds() -> float:
    return BEATS_UNTIL_FADED * (settings.PRESENCE_SECONDS or DEFAULT_SECONDS)


def _alive() -> Any:
    fresh = Q(seen_at__gte=Now() - datetime.timedelta(seconds=_faded_seconds()))
    return Node.objects.using(database()).filter(fresh)
