"""The life of a stream: when it opens, and when and why it ends."""

from __future__ import annotations

import datetime
import time
from dataclasses import dataclass

from django.utils import timezone

from streams.http.source import Source
from streams.telemetry import recorder


@dataclass(slots=True, eq=False)
class Life:
    """The life of one stream. It holds no reference to the response, so that it can outlive it."""

    source: Source
    reason: str = ""  # one of recorder.END_REASONS, if the response ends the stream
    is_open: bool = False

    def begin(self) -> None:
        """Count the stream as open."""
        self.is_open = True
        recorder.current.stream_opened(self.source.kind)

    def note(self, reason: str) -> None:
        """Note why the response ends the stream. The first reason counts."""
        self.reason = self.reason or reason

    def end(self) -> None:
        """Count the stream as ended, if it was open. Can be called twice, and from any thread."""
        if self.is_open:
            self.is_open = False
            own = self.source.stop_reason or ("complete" if self.source.is_complete() else "client")
            recorder.current.stream_ended(self.source.kind, self.reason or own)


def end_of(timeout: float | None, deadline: datetime.datetime | None) -> float | None:
    """Return when the stream ends, in time.monotonic() seconds, or None without a limit."""
    if timeout is not None and timeout <= 0:
        raise ValueError(f"timeout is a number of seconds above 0; got {timeout!r}.")
    if deadline is not None and timezone.is_naive(deadline):
        raise ValueError(f"deadline is an aware datetime (see django.utils.timezone); got {deadline!r}.")
    # From now on and not from the first byte, because the first reads can take a while.
    limits = [] if timeout is None else [timeout]
    if deadline is not None:
        limits.append((deadline - timezone.now()).total_seconds())
    return time.monotonic() + min(limits) if limits else None
