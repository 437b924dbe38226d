"""The hub's memory of the newest messages, encoded: what clients that reconnect together are served from."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from streams.events import StoredEvent


class Frame(NamedTuple):
    """A message as it goes out. Its bytes are made once for each process and shared by all subscribers."""

    position: int
    channel: str
    data: bytes

    @classmethod
    def of(cls, message: StoredEvent) -> Frame:
        return cls(message.position, message.channel, message.encode())


class Window:
    """An unbroken run of frames: every position in (start, end], bounded by their number and their bytes."""

    def __init__(self, end: int, *, max_messages: int, max_bytes: int) -> None:
        self.end = end
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._frames: deque[Frame] = deque()
        self._bytes = 0

    @property
    def start(self) -> int:
        return self.end - len(self._frames)

    def append(self, frame: Frame) -> None:
        """Add the next position's frame; the oldest make room."""
        if frame.position != self.end + 1:
            raise ValueError(f"A window ends at {self.end} and takes the next position only; got {frame.position}.")
        self._frames.append(frame)
        self._bytes += len(frame.data)
        self.end = frame.position
        while len(self._frames) > self._max_messages or self._bytes > self._max_bytes:
            self._bytes -= len(self._frames.popleft().data)

    def extend_back(self, frame: Frame) -> bool:
        """Add the frame just before the oldest. False where there is no room, or where it is not the next one back."""
        fits = len(self._frames) < self._max_messages and self._bytes + len(frame.data) <= self._max_bytes
        if not fits or frame.position != self.start:
            return False
        self._frames.appendleft(frame)
        self._bytes += len(frame.data)
        return True

    def at(self, position: int) -> Frame | None:
        """Return the frame at `position`; None if the window does not have it."""
        return self._frames[position - self.start - 1] if self.start < position <= self.end else None

    def after(self, cursor: int) -> Iterator[Frame] | None:
        """The frames above `cursor`, of all channels; None where they reach further back than the window."""
        if not self.start <= cursor <= self.end:
            return None
        return islice(self._frames, cursor - self.start, None)
