"""Time travel: shift the time that Streams sees in a test."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager

from django.utils import timezone

from streams.runtime import clock, test_run


@contextmanager
def travel(*, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0) -> Iterator[None]:
    """Let Streams see a later time, or with negative numbers an earlier one, in this process until the block ends.

        publish("news", "old")
        with travel(hours=8):
            call_command("prune_messages")      # by RETENTION_SECONDS
            call_command("send_due_broadcasts")
        assert published("news") == []

    Tokens expire, messages become too old, scheduled broadcasts become due, and messages that are published in the
    block get the shifted time. Blocks can be nested; the shifts add up. It also works as a decorator of a sync
    function, and `with` is right in async tests as well, because nothing waits.

    Only Streams travels: `timezone.now()` in your own code, the rows of your models and the sessions of Django do not.
    If a library such as time-machine or freezegun freezes the process's clock, Streams uses that clock for everything
    inside `with travel():`, with the shift added. Open streams keep the timers that they have set: open them again
    inside the block.

    Raise RuntimeError outside of a test run.
    """
    shift = datetime.timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds).total_seconds()
    with _shifted(clock.shift_seconds() + shift):
        yield


@contextmanager
def travel_to(moment: datetime.datetime) -> Iterator[None]:
    """Let Streams see the time `moment`, an aware datetime, and go on from there. See travel().

        with travel_to(broadcast.send_at):
            call_command("send_due_broadcasts")

    Raise ValueError if `moment` is naive and USE_TZ is True.
    """
    if timezone.is_naive(moment):
        if timezone.is_naive(timezone.now()):
            moment = timezone.make_aware(moment)
        else:
            raise ValueError(f"travel_to() takes an aware datetime (see django.utils.timezone); got {moment!r}.")
    with _shifted(moment.timestamp() - clock.time() + clock.shift_seconds()):
        yield


@contextmanager
def _shifted(seconds: float) -> Iterator[None]:
    if not test_run.strategy().can_travel:
        raise RuntimeError("The time can be shifted in test runs only: in Django's test runner or pytest-django.")
    before = clock.shift_seconds() if clock.is_shifted() else None
    clock.set_shift(seconds)
    try:
        yield
    finally:
        clock.set_shift(before)
