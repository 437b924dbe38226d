"""Count the open streams of this process. The hubs report each stream that opens and closes."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from streams.presence.slots import Slots
from streams.runtime.resets import per_process

# Entries of `Process.samples`, for the chart of the last minutes.
MAX_SAMPLES = 60


class OpenStream(Protocol):
    """An open stream, as other modules can look at it. See Subscriber."""

    is_counted: ClassVar[bool]  # False: it is not a connection of a client
    channels: tuple[str, ...]
    number: int

    def has_received(self, position: int) -> bool: ...


@dataclass(eq=False)
class ConnectionCounter:
    """The streams of one event loop. It is written on that loop, and can be read from any thread."""

    loop: asyncio.AbstractEventLoop
    subscribers: Collection[OpenStream]  # the hub's own set
    connections: int = 0
    channels: Counter[str] = field(default_factory=Counter)
    head: int = 0  # the log's head, as the hub knows it
    notifier_problem: str = ""

    def add(self, channels: Iterable[str]) -> None:
        """Count a stream that has opened."""
        self.connections += 1
        self.channels.update(channels)

    def remove(self, channels: Iterable[str]) -> None:
        """Stop counting a stream that has closed."""
        self.connections -= 1
        for channel in channels:
            self.channels[channel] -= 1
            if self.channels[channel] <= 0:
                del self.channels[channel]


@dataclass(frozen=True, slots=True)
class ProcessCount:
    """The streams of this process at one moment.

    connections: The number of open streams.
    channels: {channel: number of streams}.
    head: The log's head as a hub knows it, or None if no hub runs.
    notifier_problem: The name of the notifier's current error, or "".
    """

    connections: int
    channels: Mapping[str, int]
    head: int | None
    notifier_problem: str


@dataclass(frozen=True, slots=True)
class OtherProcesses:
    """The streams of all other processes, when this process last read their rows.

    connections: The number of their open streams.
    callers: {caller: number of streams}, for the callers with most streams.
    read_at: In time.monotonic() seconds.
    """

    connections: int = 0
    callers: Mapping[str, int] = field(default_factory=dict)
    read_at: float = float("-inf")


class Process:
    """The state of this process: its counters, and the data for its row."""

    def __init__(self) -> None:
        self.node_id = uuid.uuid4().hex
        self.started = time.monotonic()
        self.lock = threading.Lock()  # held for moments
        self.counters: set[ConnectionCounter] = set()
        self.slots = Slots()
        self.others = OtherProcesses()
        self.samples: deque[list[int | None]] = deque(maxlen=MAX_SAMPLES)
        self.head: int | None = None  # the log's head, as a hub of this process knew it last
        self.renewed_at = float("-inf")
        self.cleaned_at = float("-inf")


process = per_process(Process)


def open_counter(loop: asyncio.AbstractEventLoop, subscribers: Collection[OpenStream]) -> ConnectionCounter:
    """Return a counter for an event loop. `subscribers` is the set in which its hub keeps the open streams."""
    counter = ConnectionCounter(loop, subscribers)
    with process.lock:
        process.counters.add(counter)
    return counter


def counters() -> list[ConnectionCounter]:
    """Return the counters of all event loops of this process."""
    with process.lock:
        # An event loop can close before its streams do, as the loops of tests do.
        process.counters -= {counter for counter in process.counters if counter.loop.is_closed()}
        return list(process.counters)


def open_streams() -> list[OpenStream]:
    """Return all open streams of this process that are counted. It can be called from any thread."""
    # tuple() copies a set in one step, so that the loop's thread cannot change it in between.
    return [stream for counter in counters() for stream in tuple(counter.subscribers) if stream.is_counted]


def connections() -> int:
    """Return the number of open streams of this process. This is cheap, also with thousands of channels."""
    return sum(counter.connections for counter in counters())


def count() -> ProcessCount:
    """Count the open streams of this process, and those of each channel."""
    found = counters()
    channels: Counter[str] = Counter()
    for counter in found:
        channels.update(counter.channels.copy())  # copy() takes one step, as tuple() above
    problems = [counter.notifier_problem for counter in found if counter.notifier_problem]
    return ProcessCount(
        connections=sum(counter.connections for counter in found),
        channels=channels,
        head=max((counter.head for counter in found), default=None),
        notifier_problem=problems[0] if problems else "",
    )


def slots() -> Slots:
    """Return the connection slots of this process's streams. Only delivery/limits.py takes slots."""
    return process.slots
