"""Send scheduled broadcasts when they are due."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from django.db.models import QuerySet

from streams.broadcasts import lifecycle
from streams.exceptions import BroadcastRefused, InvalidMessage
from streams.models import Broadcast
from streams.runtime import clock, executor
from streams.runtime.executor import database
from streams.telemetry.log_fields import fields

logger = logging.getLogger("streams.broadcasts")

State = Broadcast.State

_failing: set[int] = set()  # due broadcasts that this process could not send


def send_due() -> Iterator[Broadcast]:
    """Send all due broadcasts, oldest first, and yield each one that this call has sent.

    Any number of processes can do this at the same time. A broadcast that is not valid becomes a draft again, with the
    reason. If sending fails for another reason, the remaining broadcasts are sent before the first error is raised.
    """
    failed: Exception | None = None
    for pk in _due_pks():
        try:
            if (sent := _send(pk)) is not None:
                yield sent
        except Exception as error:  # the other broadcasts must not wait for this one
            failed = failed or error
    if failed is not None:
        raise failed


def _send(pk: int) -> Broadcast | None:
    """Send a due broadcast. Return None if it was not sent by this call. Log and raise unexpected errors."""
    try:
        sent = lifecycle.send_if_due(pk)
    except BroadcastRefused:
        return None  # another process has sent it, or a user has cancelled it
    except InvalidMessage as error:
        lifecycle.return_to_draft(pk, str(error))
        return None
    except Exception:  # a signal receiver of the site failed, or the database
        if pk not in _failing:  # log the first failure, not each retry
            _failing.add(pk)
            extra = fields(event="broadcast-delayed", broadcast=pk)
            logger.exception("Broadcast %s is due but could not be sent. Trying again later.", pk, extra=extra)
        raise
    _failing.discard(pk)
    return sent


def due(now: Any) -> QuerySet[Broadcast]:
    """Return the broadcasts that are due at `now` (for example `clock.now()`), oldest first."""
    rows = Broadcast.objects.using(database()).filter(state=State.SCHEDULED, send_at__lte=now)
    return rows.order_by("send_at", "pk")


def sent_since(moment: Any) -> QuerySet[Broadcast]:
    """Return the broadcasts that were sent at or after `moment`, in no particular order."""
    # With the model's ordering, SQLite would read all broadcasts instead of finding these few by the index.
    return Broadcast.objects.using(database()).filter(state=State.SENT, sent_at__gte=moment).order_by()


def _due_pks() -> list[int]:
    return list(due(clock.now()).values_list("pk", flat=True))


def _any_due() -> bool:
    return due(clock.now()).exists()


async def send_due_periodically() -> None:
    """Send the broadcasts that are due. A periodic task of each hub."""
    if await executor.run(_any_due, pool=executor.PERIODIC):
        await executor.run(_send_all_due, pool=executor.WAITING)


def _send_all_due() -> None:
    for pk in _due_pks():
        # Errors are logged already. If the hub saw them, it would wait longer before it runs this task again.
        with contextlib.suppress(Exception):
            _send(pk)
