"""The parts of notices that telemetry needs, for messages that a hub reads from the log and not from the notice."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from streams.notifiers import Notice

# The notices that are remembered. A hub that is further behind loses the oldest hints, and no message.
MAX_NOTICES = 1000


class Hint(NamedTuple):
    """The oldest commit of some messages, in seconds of the publisher's clock, or None; and their traces."""

    committed_at: float | None
    traces: Mapping[int, str]


@dataclass(eq=False, slots=True)
class Hints:
    """The notices that a hub could not apply, until it has read their messages."""

    _notices: deque[Notice] = field(default_factory=lambda: deque(maxlen=MAX_NOTICES))

    def add(self, notice: Notice) -> None:
        """Remember the notice, without its messages."""
        if notice.committed_at is not None or notice.traces:
            self._notices.append(
                Notice(notice.first, notice.last, committed_at=notice.committed_at, traces=notice.traces)
            )

    def take(self, through: int) -> Hint:
        """Return the hint for the messages up to the position `through`, and forget it."""
        if not self._notices:
            return Hint(None, {})
        known = [notice for notice in self._notices if notice.first <= through]
        left = [notice for notice in self._notices if notice.last > through]
        self._notices.clear()
        self._notices.extend(left)
        traces: dict[int, str] = {}
        for notice in known:
            traces.update(notice.traces)
        times = [notice.committed_at for notice in known if notice.committed_at is not None]
        return Hint(min(times, default=None), traces)
