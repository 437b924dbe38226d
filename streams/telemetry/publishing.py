"""One call of publish(): its time and its outcome, and its span if the caller is being traced."""

from __future__ import annotations

import time
from collections.abc import Collection
from types import TracebackType

from django.db import Error

from streams.exceptions import IdempotencyKeyInUse, InvalidMessage, NotMigrated
from streams.telemetry import recorder, tracing


class Publishing:
    """A context for one call of publish(). Set the attributes before the end, except for `traceparent`.

    messages: the number of messages.
    in_transaction: True if they belong to the caller's transaction.
    traceparent: the trace context for the messages, or "".
    """

    __slots__ = ("_began", "_span", "in_transaction", "messages", "traceparent")

    def __init__(self) -> None:
        self.messages = 0
        self.in_transaction = False
        self.traceparent = ""
        self._span = tracing.begin_publishing()
        if self._span is not None:
            self.traceparent = tracing.traceparent(self._span)

    def __enter__(self) -> Publishing:
        self._began = time.perf_counter()
        return self

    def name(self, channels: Collection[str]) -> None:
        """Give the channels of the messages to the span. Call it only if there is a `traceparent`."""
        if self._span is not None:
            tracing.describe(self._span, channels, self.messages)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            recorder.current.publish_failed(_reason(error))
        elif self.messages:
            seconds = time.perf_counter() - self._began
            recorder.current.published(self.messages, seconds, in_transaction=self.in_transaction)
        if self._span is not None:
            tracing.end(self._span, error)


def _reason(error: BaseException) -> str:
    if isinstance(error, InvalidMessage):
        return "invalid"
    if isinstance(error, IdempotencyKeyInUse):
        return "key-in-use"
    return "database" if isinstance(error, Error | NotMigrated) else "other"
