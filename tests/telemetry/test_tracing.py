"""OpenTelemetry: the spans of a message, from publish() to its delivery."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.db import transaction
from django.test import override_settings
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from streams import NewMessage, apublish, publish, publish_many
from streams.delivery.subscriber import Subscriber
from streams.exceptions import InvalidData
from streams.notifiers import Notice, get_notifier
from tests.support.sites import PYTHON, ROOT

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Have the SDK record all spans."""
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Callable[[], dict[str, ReadableSpan]]:
    """Return a function that returns the finished spans of Streams by their names."""

    def found() -> dict[str, ReadableSpan]:
        ended = [span for span in exporter.get_finished_spans() if span.name.startswith("streams.")]
        assert len({span.name for span in ended}) == len(ended), "one of each"
        return {span.name: span for span in ended}

    return found


def within_a_span() -> Any:
    return trace.get_tracer("of the site").start_as_current_span("a request")


class Streams:
    """Open streams of a channel that wait for its next message."""

    def __init__(self, count: int, channel: str = "news") -> None:
        self._streams = [Subscriber([channel]) for _ in range(count)]

    async def __aenter__(self) -> Streams:
        for stream in self._streams:
            await anext(stream)
        self._reading = [asyncio.ensure_future(anext(stream)) for stream in self._streams]
        async with asyncio.timeout(20):
            while any(stream._waiter is None for stream in self._streams):
                await asyncio.sleep(0.01)
        return self

    async def receive(self) -> None:
        async with asyncio.timeout(20):
            for chunk in await asyncio.gather(*self._reading):
                assert b"hello" in chunk
        await asyncio.sleep(0)

    async def __aexit__(self, *args: object) -> None:
        for task, stream in zip(self._reading, self._streams, strict=True):
            task.cancel()
            await stream.aclose()


async def test_delivery_is_a_child_of_publishing(spans: Any) -> None:
    async with Streams(3) as streams:
        with within_a_span() as request:
            message = await apublish("news", "hello")
        await streams.receive()
    published, delivered = spans()["streams.publish"], spans()["streams.deliver"]
    assert published.parent == request.get_span_context()
    assert published.kind == trace.SpanKind.PRODUCER
    assert dict(published.attributes) == {
        "messaging.system": "streams",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "news",
    }
    assert delivered.parent.span_id == published.context.span_id
    assert delivered.context.trace_id == request.get_span_context().trace_id
    assert delivered.kind == trace.SpanKind.CONSUMER
    assert dict(delivered.attributes) == {
        "messaging.system": "streams",
        "messaging.operation.name": "deliver",
        "messaging.operation.type": "process",
        "messaging.destination.name": "news",
        "messaging.message.id": str(message.position),
        "streams.deliveries": 3,
    }
    assert published.start_time <= delivered.start_time <= delivered.end_time


async def test_messages_without_a_trace_have_no_spans(spans: Any) -> None:
    async with Streams(1) as streams:
        await apublish("news", "hello")
        await streams.receive()
    assert spans() == {}


async def test_trace_that_is_not_sampled_costs_nothing(spans: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", TracerProvider(sampler=ALWAYS_OFF))
    notices: list[Notice] = []
    monkeypatch.setattr(type(get_notifier()), "notify", lambda self, notice: notices.append(notice))
    with within_a_span():
        await apublish("news", "hello")
    assert [notice.traces for notice in notices] == [{}]
    assert spans() == {}


async def test_message_that_is_read_from_the_log_keeps_its_trace(spans: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is with private messages, which are not part of notices to other processes."""
    notify = type(get_notifier()).notify
    monkeypatch.setattr(type(get_notifier()), "notify", lambda self, notice: notify(self, replace(notice, messages=())))
    async with Streams(1) as streams:
        with within_a_span():
            await apublish("news", "hello")
        await streams.receive()
    assert spans()["streams.deliver"].parent.span_id == spans()["streams.publish"].context.span_id


@override_settings(STREAMS={"POLL_SECONDS": 0.05})
async def test_lost_notice_loses_only_the_span(spans: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(get_notifier()), "notify", lambda self, notice: None)
    async with Streams(1) as streams:
        with within_a_span():
            await apublish("news", "hello")
        await streams.receive()
    assert spans().keys() == {"streams.publish"}


async def test_message_without_streams_has_no_delivery(spans: Any) -> None:
    async with Streams(1) as streams:
        with within_a_span():
            await apublish("other", "x")
        await apublish("news", "hello")
        await streams.receive()
    assert spans().keys() == {"streams.publish"}


def test_batch_has_its_number_and_no_single_channel(spans: Any) -> None:
    with within_a_span():
        publish_many([NewMessage("a", "x"), NewMessage("b", "x")])
    attributes = spans()["streams.publish"].attributes
    assert attributes["messaging.batch.message_count"] == 2
    assert "messaging.destination.name" not in attributes


def test_failure_is_recorded_by_its_class_alone(spans: Any) -> None:
    """The text of an error can quote the data."""
    with within_a_span(), pytest.raises(InvalidData):
        publish("news", {"secret": float("nan")})
    span = spans()["streams.publish"]
    assert span.status.status_code == trace.StatusCode.ERROR
    assert span.attributes["error.type"] == "InvalidData"
    assert span.events == ()
    assert "secret" not in span.to_json()


def test_each_message_of_a_group_keeps_its_own_trace(monkeypatch: pytest.MonkeyPatch, exporter: Any) -> None:
    """Publishers that share a transaction share a notice."""
    notices: list[Notice] = []
    monkeypatch.setattr(type(get_notifier()), "notify", lambda self, notice: notices.append(notice))

    async def publish_both() -> None:
        async def one(name: str) -> None:
            with within_a_span():
                await apublish(name, "x")

        await asyncio.gather(one("a"), apublish("b", "x"), one("c"))

    asyncio.run(publish_both())
    traces = [
        (message.channel, notice.traces.get(message.position)) for notice in notices for message in notice.messages
    ]
    found = dict(traces)
    assert found["b"] is None
    assert found["a"][:35] != found["c"][:35]
    parents = {f"00-{s.context.trace_id:032x}-{s.context.span_id:016x}" for s in exporter.get_finished_spans()}
    assert {found["a"][:-3], found["c"][:-3]} <= parents


def test_message_in_the_callers_transaction_keeps_its_trace(monkeypatch: pytest.MonkeyPatch, spans: Any) -> None:
    """On SQLite the notice after a commit has no messages and no traces."""
    from django.db import connection

    notices: list[Notice] = []
    monkeypatch.setattr(type(get_notifier()), "notify", lambda self, notice: notices.append(notice))
    with within_a_span(), transaction.atomic():
        publish("news", "x")
    [notice] = notices
    assert len(notice.traces) == (connection.vendor == "postgresql")
    assert "streams.publish" in spans()


@pytest.mark.once
def test_site_without_the_library_publishes_as_well(tmp_path: Any) -> None:
    code = "import sys; sys.modules['opentelemetry'] = None\nimport django; django.setup()\n"
    code += "from streams import publish\nfrom streams.telemetry import tracing\n"
    code += "print(publish('news', 'x').position, tracing.IS_INSTALLED)"
    env = {
        **os.environ,
        "DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3",
        "DJANGO_SETTINGS_MODULE": "tests.support.settings_bare",
    }
    subprocess.run([PYTHON, "manage.py", "migrate", "-v0"], cwd=ROOT, env=env, check=True)
    done = subprocess.run([PYTHON, "-c", code], cwd=ROOT, env=env, text=True, capture_output=True)
    assert (done.returncode, done.stdout) == (0, "1 False\n"), done.stderr
