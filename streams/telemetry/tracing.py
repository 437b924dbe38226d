"""OpenTelemetry: a span for publish(), and one for the delivery of the message in each process, as its child.

If the package `opentelemetry-api` is installed, this needs no configuration. Streams adds to traces and begins none:
without a recording span around publish(), there is no span of ours either. The context travels in the notice, as a W3C
`traceparent`. A notice is only a hint: if it is lost, the delivery has no span.

Names and attributes follow OpenTelemetry's semantic conventions for messaging.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from opentelemetry.trace import Span

try:
    from opentelemetry import context, trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    IS_INSTALLED = False
else:
    IS_INSTALLED = True

P = ParamSpec("P")
T = TypeVar("T")

SYSTEM = "streams"


def begin_publishing() -> Span | None:
    """Return a started span for publishing, a child of the current span, or None if that is not recording."""
    if not IS_INSTALLED or not trace.get_current_span().is_recording():
        return None
    attributes = {
        "messaging.system": SYSTEM,
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
    }
    span = _tracer().start_span("streams.publish", kind=trace.SpanKind.PRODUCER, attributes=attributes)
    return span if span.is_recording() else None


def carried(function: Callable[P, T]) -> Callable[P, T]:
    """Return `function`, to be called in another thread, with the current span as its own."""
    if not IS_INSTALLED or not trace.get_current_span().is_recording():
        return function
    current = context.get_current()

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        token = context.attach(current)
        try:
            return function(*args, **kwargs)
        finally:
            context.detach(token)

    return call


def traceparent(span: Span) -> str:
    """Return the context of a recording span as a W3C traceparent."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, trace.set_span_in_context(span))
    return carrier.get("traceparent", "")


def describe(span: Span, channels: Collection[str], messages: int) -> None:
    """Set the channel if there is only one, and the number of messages if there are several."""
    if len(channels) == 1:
        span.set_attribute("messaging.destination.name", next(iter(channels)))
    if messages > 1:
        span.set_attribute("messaging.batch.message_count", messages)


def end(span: Span, error: BaseException | None) -> None:
    """End the span. Only the error's class is recorded, because its text can quote the data."""
    if error is not None:
        span.set_attribute("error.type", type(error).__qualname__)
        span.set_status(trace.StatusCode.ERROR)
    span.end()


def delivered(parent: str, channel: str, position: int, streams: int, began_ns: int) -> None:
    """Record the delivery of one message to so many streams of this process.

    `parent` is the traceparent of its publishing. It began at `began_ns`, in nanoseconds of time.time_ns(), and ends
    now.
    """
    if not IS_INSTALLED:
        return
    published = TraceContextTextMapPropagator().extract({"traceparent": parent}, context.Context())
    if not trace.get_current_span(published).get_span_context().is_valid:
        return
    attributes: dict[str, str | int] = {
        "messaging.system": SYSTEM,
        "messaging.operation.name": "deliver",
        "messaging.operation.type": "process",
        "messaging.destination.name": channel,
        "messaging.message.id": str(position),
        "streams.deliveries": streams,
    }
    kind = trace.SpanKind.CONSUMER
    _tracer().start_span("streams.deliver", published, kind, attributes, start_time=began_ns).end()


def _tracer() -> trace.Tracer:
    # Not once: the site can set its tracer provider after this module was imported, and tests set several.
    return trace.get_tracer("streams")
