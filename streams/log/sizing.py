"""Size: how many bytes of data the log holds, without reading all of it each time.

A row of its own (LogSize) holds the exact sum up to a position. Only pruning writes it: counting moves the position on,
and deleting subtracts what it takes from below it. Publishers have no part in it, and it never needs the head's lock.
"""

from __future__ import annotations

import datetime

from django.db.models import F, Q, Sum
from django.db.models.functions import Now

from streams.log.appending import lock_sqlite
from streams.log.transactions import own_transaction
from streams.models import LogHead, LogSize, Message
from streams.runtime.executor import database

# How many messages one step counts. It holds the lock that deletions need, for a moment.
STEP_MESSAGES = 20_000

# The sum is only wrong if a program other than this package deletes or inserts messages. So it is counted again now and
# then.
RECOUNT_SECONDS = 86_400


def count_size(step: int = STEP_MESSAGES) -> bool:
    """Count the next messages that are not in the sum yet. Return True if there are more.

    Starts again from the beginning if the last count is older than RECOUNT_SECONDS.
    """
    alias = database()
    with own_transaction():
        lock_sqlite()
        size = lock_size()
        row = LogSize.objects.using(alias).filter(id=LogSize.ROW)
        due = Q(counted_from__isnull=True) | Q(counted_from__lt=Now() - datetime.timedelta(seconds=RECOUNT_SECONDS))
        # A date in the future is from a time when the database's clock was ahead.
        if row.filter(due | Q(counted_from__gt=Now())).update(through=0, bytes=0, counted_from=Now()):
            size.through = 0
        # Every message up to the head is there for the statements that follow.
        head = LogHead.objects.using(alias).filter(id=LogHead.ROW).values_list("head", flat=True).first() or 0
        if head <= size.through:
            return False
        more = Message.objects.using(alias).filter(position__gt=size.through)
        # By messages, not by positions: a new epoch can leave out a great many of these.
        in_order = more.filter(position__lte=head).order_by("position")
        last = in_order.values_list("position", flat=True)[step - 1 : step].first()
        through = head if last is None else last
        # Not of `in_order`: of two upper limits, SQLite can use the wrong one for the index, and read up to the head.
        counted = more.filter(position__lte=through).aggregate(total=Sum("size"))["total"] or 0
        row.update(through=through, bytes=F("bytes") + counted)
    return through < head


def size(*, scan: bool = False) -> int:
    """Return the bytes of data of all sequenced messages. `scan`: add up every message, whatever was counted before."""
    stored = None if scan else LogSize.objects.using(database()).filter(id=LogSize.ROW).first()
    through, counted = (0, 0) if stored is None else (stored.through, stored.bytes)
    rest = Message.objects.using(database()).filter(position__gt=through)
    return counted + (rest.aggregate(total=Sum("size"))["total"] or 0)


def lock_size() -> LogSize:
    """Lock the row until the transaction ends, and return it. Lock it before you delete messages.

    So a count includes either the message, or the sum without it.
    """
    rows = LogSize.objects.using(database())
    row = rows.select_for_update().filter(id=LogSize.ROW).first()
    if row is None:
        rows.bulk_create([LogSize()], ignore_conflicts=True)
        row = rows.select_for_update().get(id=LogSize.ROW)
    return row
