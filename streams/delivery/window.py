"""The hub's memory of the newest messages, encoded. It serves clients that reconnect at the same time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from streams.protocol.sse import EventStreamDecoder, StoredEvent


class Frame(NamedTuple):
    """A message and its bytes on the wire. They are made once for each process, and all subscribers share them.

    A frame of a replay can hold several messages. Then `position` and `channel` are those of the last one.
    """

    position: int
    channel: str
    data: bytes
    messages: int = 1

    @classmethod
    def of(cls, message: StoredEvent) -> Frame:
        return cls(message.position, message.channel, message.encode())

    def message(self) -> StoredEvent:
        """Return the message that was encoded."""
        [event] = EventStreamDecoder().feed(self.data)
        return StoredEvent(self.position, self.channel, event.event, event.data)


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

    def append(self, message: StoredEvent) -> Frame:
        """Encode the message of the next position, remember its frame, and return it. The oldest frames make room."""
        if message.position != self.end + 1:
            raise ValueError(f"A window ends at {self.end} and takes the next position only; got {message.position}.")
        frame = Frame.of(message)
        self._frames.append(frame)
        self._bytes += len(frame.data)
        self.end = frame.position
        while len(self._frames) > self._max_messages or self._bytes > self._max_bytes:
            self._bytes -= len(self._frames.popleft().data)
        return frame

    def extend_back(self, frame: Frame) -> bool:
        """Add the frame just before the oldest. Return False if there is no room, or if another one comes before."""
        fits = len(self._frames) < self._max_messages and self._bytes + len(frame.data) <= self._max_bytes
        if not fits or frame.position != self.start:
            return False
        self._frames.appendleft(frame)
        self._bytes += len(frame.data)
        return True

    def contradicts(self, message: StoredEvent) -> bool:
        """Return True if the window has another message at the position of this one."""
        at = message.position - self.start - 1
        return 0 <= at < len(self._frames) and self._frames[at].data != message.encode()

    def after(self, cursor: int) -> Iterator[Frame] | None:
        """Return the frames above `cursor`, of all channels; None if the window does not reach back to it."""
        if not self.start <= cursor <= self.end:
            return None
        return islice(self._frames, cursor - self.start, None)
