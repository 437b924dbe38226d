"""This process's row in the table of nodes. It is renewed regularly; a row that is not renewed expires."""

from __future__ import annotations

import datetime
import logging
import os
import socket
import time
from collections import Counter
from typing import Any

from django.db.models import Q
from django.db.models.functions import Now

from streams.conf import settings
from streams.models import Node
from streams.presence.counter import ConnectionCounter, OtherProcesses, connections, count, process
from streams.runtime import executor, failures, test_run
from streams.runtime.executor import database

logger = logging.getLogger("streams")

# The channels in a row: those with most connections.
MAX_CHANNELS = 500

# The callers in a row: those with most streams.
MAX_CALLERS = 300

# A row expires if it was not renewed for this number of periods: its process has ended, or hangs.
PERIODS_UNTIL_EXPIRED = 3

# Expired rows are deleted after this time.
DELETE_SECONDS = 3600

# The assumed period of other processes if this one has PRESENCE_SECONDS = None.
DEFAULT_SECONDS = 5.0


async def renew_periodically() -> None:
    """Renew this process's row, unless another of its event loops has just done so."""
    interval = settings.PRESENCE_SECONDS
    if interval is None:
        return
    own = process
    with own.lock:
        now = time.monotonic()
        if now - own.renewed_at < interval / 2:
            return
        own.renewed_at = now
    # No other process writes this row, so other periodic tasks wait only for SQLite's write lock.
    try:
        await executor.run(_write_and_read, pool=executor.PERIODIC)
    except BaseException:
        own.renewed_at = float("-inf")  # otherwise the retry would do nothing and count as a success
        raise


def _write_and_read() -> None:
    write()
    limits = settings.MAX_STREAMS, settings.MAX_STREAMS_PER_USER, settings.MAX_STREAMS_PER_ADDRESS
    if any(limit is not None for limit in limits):
        read_others()


def write() -> None:
    """Write this process's row now, and delete old rows of other processes. Blocks."""
    own, now = process, count()
    own.head = own.head if now.head is None else now.head
    own.samples.append([int(time.time()), now.connections, own.head])
    listed = Counter(now.channels).most_common(MAX_CHANNELS)
    fields: dict[str, Any] = {
        "seen_at": Now(),  # the database's clock, because those of the machines can differ
        "connections": now.connections,
        "channels": dict(listed),
        "channels_left_out": len(now.channels) - len(listed),
        "callers": dict(own.slots.counts().most_common(MAX_CALLERS)),
        "notifier": settings.NOTIFIER["BACKEND"],
        "notifier_problem": now.notifier_problem[:255],
        "samples": list(own.samples),
    }
    rows = Node.objects.using(database())
    if not rows.filter(id=own.node_id).update(**fields):
        node = Node(
            id=own.node_id,
            host=socket.gethostname()[:255],
            pid=os.getpid(),
            started_at=Now() - datetime.timedelta(seconds=time.monotonic() - own.started),
            **fields,
        )
        rows.bulk_create([node], ignore_conflicts=True)
    if time.monotonic() - own.cleaned_at > DELETE_SECONDS / 2:
        own.cleaned_at = time.monotonic()
        rows.filter(seen_at__lt=Now() - datetime.timedelta(seconds=DELETE_SECONDS)).delete()


def close_counter(counter: ConnectionCounter) -> None:
    """Remove the counter of an event loop without streams. If it was the last one, the row is written at once.

    It can be called twice.
    """
    own = process
    with own.lock:
        if counter not in own.counters:
            return
        own.counters.remove(counter)
        is_last = not own.counters
        if is_last:
            own.renewed_at = float("-inf")  # so that the next hub renews the row at once
    if is_last and settings.PRESENCE_SECONDS is not None and test_run.strategy().works_unattended:
        # In a thread and without a task, because the event loop can be closing.
        try:
            executor.PERIODIC.submit(_write_if_no_connections)
        except RuntimeError:  # the interpreter is exiting
            logger.info("Could not clear this process's presence row; it will expire.", exc_info=True)


def _write_if_no_connections() -> None:
    try:
        if not connections():
            write()
    except Exception:
        failures.report(logger, "Could not clear this process's presence row; it will expire.")


# --- The rows of other processes --------------------------------------------------------------------------------------


def others() -> OtherProcesses:
    """Return the streams of the other processes, as this process last read them. Uses no query.

    If that is too long ago, return an empty result: the other processes can have ended, and no stream must be refused
    because of them.
    """
    known = process.others
    return known if time.monotonic() - known.read_at < expiry_seconds() else OtherProcesses()


def read_others() -> None:
    """Read the rows of the other processes now. Blocks."""
    own, began = process, time.monotonic()
    total, callers = 0, Counter[str]()
    rows = valid_rows().exclude(id=own.node_id).filter(connections__gt=0).values_list("connections", "callers")
    for streams, theirs in rows:
        total += streams
        callers.update(theirs)
    own.others = OtherProcesses(total, callers, began)


def expiry_seconds() -> float:
    """Return the age at which a row expires."""
    return PERIODS_UNTIL_EXPIRED * (settings.PRESENCE_SECONDS or DEFAULT_SECONDS)


def valid_rows() -> Any:
    """Return a queryset of the rows that have not expired."""
    newer = Q(seen_at__gte=Now() - datetime.timedelta(seconds=expiry_seconds()))
    return Node.objects.using(database()).filter(newer)
