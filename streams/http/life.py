"""The life of a stream, for metrics: when it opens, and when and why it ends."""

from __future__ import annotations

from dataclasses import dataclass

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
