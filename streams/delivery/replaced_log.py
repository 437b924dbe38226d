"""Recognise that the log was replaced by an older copy, where the database itself cannot tell: by what a hub remembers.

The database knows nothing of it if a file was copied over in place, or a volume was put back. A hub that keeps running
does: it remembers when some messages were made, and has the newest ones in its window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streams import log
from streams.delivery.window import Frame, Window
from streams.log import Epochs, News

# How many are remembered. Beyond that, every other one of the older half is dropped: the past thins out.
MAX_MARKS = 1000

REASON = "A process remembers another history of the log: it was replaced by an older copy."


class Marks:
    """Positions in ascending order, each with the time of its message. The time is compared, and nothing else."""

    def __init__(self) -> None:
        self.all: list[tuple[int, Any]] = []

    @property
    def newest(self) -> tuple[int, Any]:
        return self.all[-1] if self.all else (0, None)

    def add(self, position: int, time: Any) -> None:
        """Remember a message, if the log has it. One that is not above the newest mark is known."""
        if time is not None and position > self.newest[0]:
            self.all.append((position, time))
            if len(self.all) > MAX_MARKS:
                half = MAX_MARKS // 2
                self.all = self.all[:half:2] + self.all[half:]

    def forget_lost(self, epochs: Epochs) -> None:
        self.all = [mark for mark in self.all if not epochs.is_lost(mark[0])]


def contradicts(news: News, position: int, marks: Marks, window: Window) -> bool:
    """Return True if the log that `news` is from is not the one that a hub at `position` has followed.

    A message that is not in the log any more shows nothing: it was pruned.
    """
    then, _ = news.head.times
    if news.head.head < position or (then is not None and then != marks.newest[1]):
        return True
    return news.anchor is not None and window.contradicts(news.anchor)


def find_fork(marks: Sequence[tuple[int, Any]], frames: Sequence[Frame]) -> int:
    """Return the newest position up to which the log is known to be the one that was followed; 0 for none. Blocks.

    A message that was made at the same time is the same, and so is everything before it. From there on the frames are
    compared. Where each message has the same text, frames are alike in both histories: they count only up to a
    difference.
    """
    head = log.head().head
    times = log.times_of([position for position, _ in marks])
    common, other = 0, head + 1
    for position, time in reversed(marks):
        if times.get(position) == time:
            common = position
            break
        if position in times:  # else it was pruned, or lies above the head
            other = position
    newer = [frame for frame in frames if common < frame.position <= other]
    if not newer or (common and newer[0].position > common + 1):
        return common
    first, last = newer[0].position, newer[-1].position
    fork = common
    while messages := log.between(max(fork, first - 1), last):
        for message in messages:
            if message.encode() != newer[message.position - first].data:
                return fork
            fork = message.position
    return fork if head < last else common
