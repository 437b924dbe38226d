"""A trace goes from the process that publishes to the process that delivers, by PostgreSQL's notices."""

from __future__ import annotations

import asyncio
import json

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.sites import Site, finish

pytestmark = pytest.mark.once

NOTIFIER = {"BACKEND": "streams.notifiers.postgres.PostgresNotifier", "OPTIONS": {}}


def record_spans() -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


def show(exporter: InMemorySpanExporter) -> None:
    spans = [span for span in exporter.get_finished_spans() if span.name.startswith("streams.")]
    print(json.dumps([[span.name, span.context.trace_id, span.context.span_id, span.parent.span_id] for span in spans]))


def publish_traced(channel: str) -> None:
    from streams import publish

    exporter = record_spans()
    with trace.get_tracer("of the site").start_as_current_span("a request"):
        publish(channel, "hello")
    show(exporter)


def deliver_traced(channel: str) -> None:
    from streams.delivery.subscriber import Subscriber

    async def follow() -> None:
        stream = Subscriber([channel])
        while b"hello" not in (chunk := await anext(stream)):
            print("ready" if b"checkpoint" in chunk else "quiet", flush=True)
        await asyncio.sleep(0)
        await stream.aclose()

    exporter = record_spans()
    asyncio.run(asyncio.wait_for(follow(), 60))
    show(exporter)


@pytest.mark.parametrize("channel", ["news", "private"])
def test_delivery_in_another_process_belongs_to_the_trace(postgres_site: Site, channel: str) -> None:
    """The notice of a message that not everyone can read has its trace, and not the message."""
    postgres_site.settings(NOTIFIER=NOTIFIER, POLL_SECONDS=600)
    following = postgres_site.call(deliver_traced, channel)
    assert following.stdout.readline() == "ready\n"
    [[_, trace_id, span_id, _]] = json.loads(finish(postgres_site.call(publish_traced, channel)))
    found = finish(following).splitlines()[-1]
    [[name, *context, parent]] = json.loads(found)
    assert (name, context[0], parent) == ("streams.deliver", trace_id, span_id)
