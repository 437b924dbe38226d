"""Check the tables of the log: the clock, messages without a position, pruning, and the processes."""

from __future__ import annotations

import datetime
import time

from django.db.models import Min
from django.utils import timezone

from streams import presence
from streams.conf import settings
from streams.doctor.database import in_time, log_connection
from streams.doctor.findings import Findings, ok, problem, warning
from streams.log import low_water, retention
from streams.models import Lease, Message, Node
from streams.notifiers.signing import MAX_AGE_SECONDS
from streams.presence.node_row import DEFAULT_SECONDS
from streams.runtime import clock
from streams.runtime.executor import database

# A larger difference is not caused by the query itself.
CLOCK_SECONDS = 5.0

# A message without a position is numbered within this time if any process polls, also after a long transaction.
WAITING_SECONDS = low_water.FULL_SEARCH_SECONDS + 60.0

# Pruning is behind if no process has pruned for this many periods, and for at least this time.
MISSED_PERIODS = 5
MISSED_SECONDS = 600.0

# Messages are counted up to this number.
MAX_COUNTED = 10_000

# A process that has not reported for more intervals than this is late.
LATE_INTERVALS = 2

RUN_A_SERVER = "Start a server process and open a stream, or run `manage.py prune_messages` by cron."


def check_clock() -> Findings:
    """Compare this machine's clock with the database's."""
    if log_connection().vendor == "sqlite":
        yield ok("clock", "SQLite uses this machine's clock.")
        return
    began = time.monotonic()
    found = in_time(clock.read)
    elapsed = time.monotonic() - began
    # The clock was read at some moment of the query, so that the difference is known up to its duration.
    ahead = (timezone.now() - found).total_seconds() - elapsed / 2
    words = f"This machine's clock is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the database's."
    remedy = "Synchronise the clocks of all machines with NTP: `timedatectl set-ntp true`."
    if abs(ahead) > MAX_AGE_SECONDS:
        yield problem("clock", f"{words} Processes ignore revocations and tokens that seem too old.", remedy)
    elif abs(ahead) > CLOCK_SECONDS + elapsed:
        yield warning("clock", words, remedy)
    else:
        yield ok("clock", words)


def check_waiting() -> Findings:
    """Look for old messages without a position. No client gets them."""
    limit = datetime.timedelta(seconds=WAITING_SECONDS)

    def old() -> tuple[int, datetime.datetime | None]:
        rows = Message.objects.using(database()).filter(position__isnull=True, created_at__lt=clock.now() - limit)
        return rows[:MAX_COUNTED].count(), rows.aggregate(oldest=Min("created_at"))["oldest"]

    count, oldest = in_time(old)
    if count:
        # A long transaction that has just committed has old messages too. They get their positions in a moment.
        time.sleep(min(2 * settings.POLL_SECONDS, WAITING_SECONDS / 10))
        count, oldest = in_time(old)
    if not count or oldest is None:
        yield ok("waiting messages", "All messages have their positions.")
        return
    text = f"Messages without a position: {count}, the oldest from {_moment(oldest)}. No client gets them."
    if in_time(presence.nodes):
        yield problem(
            "waiting messages",
            f"{text} Processes serve streams, and should have numbered them.",
            "Look for errors of the logger `streams.hub` in the site's log, and for a transaction that is open for "
            "long: `SELECT pid, xact_start, query FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'`.",
        )
    else:
        yield warning(
            "waiting messages",
            f"{text} They get their positions when a process serves streams or publishes.",
            "Start a server process and open a stream, or run `manage.py publish CHANNEL DATA`.",
        )


def check_pruning() -> Findings:
    """Check that expired messages are being deleted."""
    interval = settings.PRUNE_SECONDS
    limits = (settings.RETENTION_SECONDS, settings.RETENTION_MESSAGES_PER_CHANNEL, settings.RETENTION_BYTES)
    if all(limit is None for limit in limits):
        yield warning(
            "pruning",
            "No message is ever deleted: all three RETENTION settings are None.",
            "Write STREAMS = {'RETENTION_SECONDS': 604800}, unless the disk can hold all messages.",
        )
        return

    def find() -> tuple[int, Lease | None]:
        expired = sum(cut.messages() for cut in retention.cuts())
        return expired, Lease.objects.using(database()).filter(name=retention.LEASE).first()

    expired, lease = in_time(find)
    if not expired:
        yield ok("pruning", "No expired message is left.")
        return
    last = None if lease is None or lease.expires_at is None else lease.expires_at
    missed = max(MISSED_SECONDS, MISSED_PERIODS * (interval or 0))
    if last is not None and in_time(clock.read) - last < datetime.timedelta(seconds=missed):
        yield ok("pruning", f"Expired messages since the last pruning: {expired}.")
        return
    since = "" if last is None else f" since {_moment(last)}"
    text = f"Expired messages: {expired}. No process has pruned{since}."
    if interval is None:
        yield warning("pruning", f"{text} PRUNE_SECONDS is None.", "Run `manage.py prune_messages` by cron.")
    elif in_time(presence.nodes):
        yield problem(
            "pruning",
            f"{text} Processes serve streams, and should prune every {interval:g} s.",
            "Look for “Pruning” in the site's log. To delete the messages now, run `manage.py prune_messages`.",
        )
    else:
        yield warning("pruning", f"{text} Only processes with open streams prune.", RUN_A_SERVER)


def check_processes() -> Findings:
    """Look at the rows of the processes that serve streams."""
    if settings.PRESENCE_SECONDS is None:
        yield ok("processes", "Not known, because PRESENCE_SECONDS is None.")
        return
    nodes = in_time(presence.nodes)
    for node in nodes:
        if node.notifier_problem:
            yield problem(
                "processes",
                f"The notifier of process {_name(node)} has failed ({node.notifier_problem}). It finds messages by "
                "polling.",
                "Look for the logger `streams.notifiers` in its log.",
            )
        if node.silent_for.total_seconds() > LATE_INTERVALS * (settings.PRESENCE_SECONDS or DEFAULT_SECONDS) + 1:
            yield warning(
                "processes",
                f"Process {_name(node)} has not reported for {node.silent_for.total_seconds():.0f} s. It has stopped, "
                "or it hangs.",
            )
    own = settings.NOTIFIER["BACKEND"]
    if others := sorted({node.notifier for node in nodes} - {own}):
        yield problem(
            "processes",
            f"This command uses {own}, but server processes use {', '.join(others)}. They do not notify each other.",
            "Use the same STREAMS['NOTIFIER'] in all processes, and restart them.",
        )
    elif own.endswith(".LocalNotifier") and len(nodes) > 1:
        yield warning(
            "notifier",
            f"{len(nodes)} processes serve streams, but LocalNotifier reaches only the process that publishes. The "
            f"others find a message by polling, after up to {settings.POLL_SECONDS:g} s.",
            "Write STREAMS = {'NOTIFIER': {'BACKEND': 'streams.notifiers.postgres.PostgresNotifier'}}, or use "
            "'streams.notifiers.channel_layer.ChannelLayerNotifier' with Redis.",
        )
    total = sum(node.connections for node in nodes)
    yield ok("processes", f"Processes that serve streams: {len(nodes)}. Open streams: {total}.")


def _moment(time: datetime.datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S %Z}".strip()


def _name(node: Node) -> str:
    return f"{node.host}:{node.pid}"
