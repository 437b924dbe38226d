"""Epochs: recognise that the log is another copy than before, and start a new history that no old position is part of.

A restored backup, a failover to a copy that lags, or a power cut takes the newest messages away. The positions of those
messages must not be given again: a client that has had them would take the new messages for known ones. So a new epoch
gives positions from a place that no earlier epoch can have reached. It keeps the fork: the position up to which the old
and the new history are the same. A client at or below the fork goes on exactly; a client above it gets a reset.

A new epoch without need is harmless, because its fork is the head: every client goes on exactly.
"""

from __future__ import annotations

import logging
import os
import secrets
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from django.db import NotSupportedError, OperationalError, ProgrammingError, connections, transaction
from django.db.backends.signals import connection_created

from streams.log import low_water, postgresql, sqlite
from streams.log.files import birth
from streams.log.transactions import own_transaction
from streams.runtime import test_run
from streams.runtime.executor import database
from streams.telemetry.log_fields import fields

logger = logging.getLogger("streams")

# The parts of PostgreSQL's identity. Each is NULL or left out if the server does not know it or does not show it.
_ON_POSTGRESQL = {
    "system": "(SELECT system_identifier FROM pg_control_system())",
    # A promoted standby and a point-in-time recovery begin a new timeline. Standbys cannot be asked, and give no
    # positions either.
    "timeline": "CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END",
    "database": "(SELECT oid FROM pg_database WHERE datname = current_database())",
    "table": "to_regclass('streams_message')::oid",
    # The second time changes if only the backends crashed: PostgreSQL then drops its statistics.
    "run": (
        "extract(epoch FROM pg_postmaster_start_time())::text || '/'"
        " || COALESCE((SELECT extract(epoch FROM stats_reset) FROM pg_stat_bgwriter)::text, '')"
    ),
    "durable": ("CASE WHEN 'off' IN (current_setting('fsync'), current_setting('synchronous_commit')) THEN 'off' END"),
}

# Parts that change whenever the server or the machine starts again. They are stored only by a session whose commits can
# be lost by that, and compared by every session.
_OF_ONE_RUN = ("run", "boot")

# Positions per second of the clock: see _start_above().
_PER_SECOND = 1 << 20
_SECONDS = {
    "postgresql": "extract(epoch FROM clock_timestamp()) - 1577836800",
    "sqlite": "(julianday('now') - 2458849.5) * 86400",
}


@dataclass(frozen=True, slots=True)
class Epochs:
    """The epochs of the log. `number` and `start` are those of the current one: 1 and 0 for the first.

    `start` identifies the epoch. Its number does not, because a backup takes the number back.
    """

    number: int = 1
    start: int = 0
    lost: tuple[tuple[int, int], ...] = ()

    def is_lost(self, position: int) -> bool:
        """Return True if the position belongs to a history that the log does not continue."""
        return any(fork < position < start for fork, start in self.lost)


def read_epochs() -> Epochs:
    """Read the epochs. Call it before head(), so that a newer epoch is noticed the next time."""
    with connections[database()].cursor() as cursor:
        cursor.execute("SELECT number, start, fork FROM streams_epoch ORDER BY start")
        rows = cursor.fetchall()
    return Epochs(rows[-1][0], rows[-1][1], tuple((fork, start) for _, start, fork in rows)) if rows else Epochs()


# --- The identity of the database -------------------------------------------------------------------------------------


def identity_sql(connection: Any) -> str:
    """Return an SQL expression for the database's identity, to be selected together with LogHead's row.

    Its value is passed to `check()` and `differs()`. On SQLite it is empty, because the identity is that of the file.
    """
    if connection.vendor != "postgresql":
        return "''"
    parts = (f"'{name}=' || ({_ON_POSTGRESQL[name]})" for name in _available(connection.alias))
    return f"concat_ws(' ', {', '.join(parts)})"


@cache
def _available(alias: str) -> tuple[str, ...]:
    """Return the parts that this server lets us read. Hosted servers do not allow every function."""
    if _can_select(alias, ", ".join(_ON_POSTGRESQL.values())) is None:
        return tuple(_ON_POSTGRESQL)
    names = []
    for name, expression in _ON_POSTGRESQL.items():
        if (error := _can_select(alias, expression)) is None:
            names.append(name)
        else:
            logger.info("The database does not show %r, by which copies of the log are recognised: %s", name, error)
    return tuple(names)


def _can_select(alias: str, expressions: str) -> Exception | None:
    """Return None if the server allows the expressions, and its error if not."""
    try:
        with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
            cursor.execute(f"SELECT {expressions}")
    except (ProgrammingError, NotSupportedError) as error:
        return error
    return None


def identity(connection: Any, found: str | None = None) -> str:
    """Return the identity of the database, as `key=value` pairs. `found` is the value of identity_sql()."""
    if connection.vendor == "postgresql":
        if found is None:
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT {identity_sql(connection)}")
                [(found,)] = cursor.fetchall()
        return found
    return _identity_of_file(connection)


def differs(stored: str, found: str) -> bool:
    """Return True if two identities are of different databases. Only keys that both of them have count."""
    before, now = _pairs(stored), _pairs(found)
    return any(before[key] != now[key] for key in before.keys() & now.keys())


def _pairs(identity: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in identity.split())


def _kept(found: str) -> dict[str, str]:
    """Return the pairs that are to be stored."""
    pairs = _pairs(found)
    if pairs.pop("durable", "on") != "off":
        for key in _OF_ONE_RUN:
            pairs.pop(key, None)
    return pairs


def _text(pairs: dict[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(pairs.items()))


def _identity_of_file(connection: Any) -> str:
    connection.ensure_connection()
    raw = connection.connection
    opened = _opened.get(connection)
    if opened is None or opened.raw is not raw:
        opened = _remember_file(connection=connection)
    if opened.file != _file(opened.path):
        del _opened[connection]
        connection.close()
        raise OperationalError(
            f"The database file {opened.path} was replaced while this process had it open. The connection was closed; "
            "the next one opens the new file."
        )
    if not opened.path:
        return ""  # in memory
    [(synchronous,)] = raw.execute("PRAGMA synchronous").fetchall()
    # FULL is 2. Below that, a power cut can take commits away.
    durable = "" if synchronous >= 2 else "off"
    pairs = {**opened.file, "boot": _boot(), "durable": durable}
    return _text({key: value for key, value in pairs.items() if value})


def _remember_file(*, connection: Any, **signal: object) -> Any:
    if connection.vendor != "sqlite":
        return None
    raw = connection.connection
    path = next((file for _, name, file in raw.execute("PRAGMA database_list") if name == "main"), "")
    _opened[connection] = _Opened(raw, path, _file(path))
    return _opened[connection]


# When the connection is opened, because later another file can have this path.
connection_created.connect(_remember_file, dispatch_uid="streams.log.epochs")


def _file(path: str) -> dict[str, str]:
    try:
        # A new file often gets the number of the one that was just deleted, but never its time of birth.
        return {"inode": str(os.stat(path).st_ino), "born": birth(path)} if path else {}
    except FileNotFoundError:
        return {}


class _Opened(NamedTuple):
    """A connection of sqlite3's, and its file as it was when we first saw it."""

    raw: Any
    path: str
    file: dict[str, str]


# By Django's connection. Messages that are written to a replaced file would be lost.
_opened: WeakKeyDictionary[Any, _Opened] = WeakKeyDictionary()


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


# --- Starting an epoch ------------------------------------------------------------------------------------------------


def check(cursor: Any, head: int, epoch: int, stored: str) -> int:
    """Start a new epoch if the database is another one than before. Return the head from which positions are given.

    Called with the lock of LogHead's row held, before any position is given. `head`, `epoch` and `stored` are from the
    row.
    """
    found = identity(cursor.db)
    if differs(stored, found):
        return _begin(cursor, head, epoch, head, "The database is another one, or an older copy.", found)
    merged = _pairs(stored) | _kept(found)
    if (text := _text(merged)) != stored:
        cursor.execute("UPDATE streams_loghead SET identity = %s WHERE id = 1", [text])
    return head


def start_new_epoch(reason: str, *, fork: int | None = None, seen: int | None = None) -> int | None:
    """Start a new epoch, and return its start. Positions up to `fork` stay common to both histories; None: all of them.

    If `seen` is given and the current epoch starts elsewhere, another process was quicker: do nothing and return None.
    Waits for the head's lock. The caller then looks for messages that wait for a position, as after any lock on it.
    """
    with own_transaction() as connection, connection.cursor() as cursor:
        wait_for_lock = (postgresql if connection.vendor == "postgresql" else sqlite).wait_for_lock
        row = wait_for_lock(cursor)
        if row is None:
            create_head()
            row = wait_for_lock(cursor)
        assert row is not None
        if seen is not None and read_epochs().start != seen:
            return None
        if fork is None:
            fork = row.head
        elif not 0 <= fork <= row.head:
            raise ValueError(f"An epoch forks from a position between 0 and the head, which is {row.head}; got {fork}.")
        return _begin(cursor, row.head, row.epoch, fork, reason, identity(connection))


def _begin(cursor: Any, head: int, epoch: int, fork: int, reason: str, found: str) -> int:
    start = _start_above(cursor, head)
    number = max(epoch, read_epochs().number) + 1
    cursor.execute(
        "INSERT INTO streams_epoch (number, fork, start, reason) VALUES (%s, %s, %s, %s)",
        [number, fork, start, reason[:255]],
    )
    cursor.execute(
        "UPDATE streams_loghead SET head = %s, epoch = %s, identity = %s WHERE id = 1",
        [start, number, _text(_kept(found))],
    )
    logger.warning(
        "The log starts epoch %d at position %d; it continues the history up to position %d. Clients that have ids "
        "above that get a stream-reset. The reason: %s",
        number,
        start,
        fork,
        reason,
        extra=fields(event="epoch-started"),
    )
    return start


def _start_above(cursor: Any, head: int) -> int:
    """Return a position past every one that an earlier epoch can have given, lost epochs included.

    The lost ones cannot be asked, so that the clock answers: 2**20 positions for each second since 2020. An epoch that
    gives fewer than a million positions a second never catches up with it. It stays below 2**53, up to which numbers
    are exact in JavaScript, for 272 years. If the clock does not lie above the head, it is wrong now or was wrong when
    an epoch started. Then a leap of random length keeps two epochs apart that fork from one backup.
    """
    cursor.execute(f"SELECT {_SECONDS[cursor.db.vendor]}")
    clock = int(cursor.fetchone()[0] * _PER_SECOND)
    return clock if head < clock < 1 << 53 else head + ((1 + secrets.randbelow(1 << 16)) << 24)


def create_head() -> None:
    """Make LogHead's row if it is missing. Its migration makes it, so that the tables were emptied since.

    Clients can then have any position, and a new epoch starts. In a test run the head starts at the newest message,
    because Django's TransactionTestCase empties all tables, and tests count on small ids (see test_run.py).
    """
    with own_transaction() as connection, connection.cursor() as cursor:
        number = read_epochs().number
        # Two may find it missing at once; the second waits for the first, and keeps what that one wrote.
        cursor.execute(
            """
            INSERT INTO streams_loghead (id, head, floor, epoch, identity)
            SELECT 1, COALESCE(max(position), 0), 0, %s, '' FROM streams_message WHERE TRUE ON CONFLICT DO NOTHING
            """,
            [number],
        )
        low_water.LOW_WATER.forget()  # the ids can begin again
        if cursor.rowcount == 1 and test_run.strategy().starts_new_epochs:
            cursor.execute("SELECT head FROM streams_loghead WHERE id = 1")
            head = cursor.fetchone()[0]
            _begin(cursor, head, number, head, "The log's tables were emptied.", identity(connection))
