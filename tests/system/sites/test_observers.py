"""What Sentry, OpenTelemetry and django-prometheus report about streams, and that their reports contain no tokens."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from streams.tokens import make_token
from tests.support.clients import StreamClient
from tests.system.sites.conftest import Start
from tests.system.sites.running import Running

pytestmark = pytest.mark.once

APP = "tests.system.sites.asgi_observed:application"


@pytest.fixture(scope="module")
def running(start: Start) -> Running:
    return start("observed", app=APP)


async def reports(running: Running, *, sentry: int = 0, spans: int = 0, about: str) -> dict[str, list[Any]]:
    """Wait until there are as many reports that contain this text, and return all that do, of each kind."""
    found: dict[str, list[Any]] = {"sentry": [], "spans": []}
    async with asyncio.timeout(30):
        while len(found["sentry"]) < sentry or len(found["spans"]) < spans:
            for kind, new in (await running.ask("reports/")).items():
                found[kind] += [report for report in new if about in json.dumps(report)]
            await asyncio.sleep(0.05)
    return found


def token() -> str:
    return make_token(read=["*"])


async def read(running: Running, path: str, count: int = 0) -> None:
    """Read a stream while messages are published, and leave it."""
    client = await running.connect(path)
    await client.read_control(1)
    for number in range(count):
        await running.publish("observed", f"{number}")
    await client.read_until(count)
    client.abort()


async def test_sentry_reports_nothing_at_the_start(running: Running) -> None:
    """Django's own application raises for the lifespan protocol, and Sentry reports this."""
    await running.ask("process/")
    assert [report for report in (await running.ask("reports/"))["sentry"] if report["type"] == "event"] == []


async def test_stream_is_one_transaction_in_sentry(running: Running) -> None:
    """It ends with the stream, and does not grow while the stream is open."""
    await read(running, f"/events/observed/?token={token()}", 30)
    [report] = (await reports(running, sentry=1, about="/events/{channel}/"))["sentry"]
    assert report["type"] == "transaction"
    assert len(report["spans"]) < 15
    assert not (report.get("breadcrumbs") or {}).get("values")


async def test_reads_of_the_log_belong_to_no_request(running: Running) -> None:
    """The log's threads serve many streams, so they must not keep the scope of the one that has started them."""
    await running.publish("replayed", "x")
    async with asyncio.timeout(30):
        while "streams-log" in (await running.holdings())["python_threads"]:
            await asyncio.sleep(0.2)
    await running.ask("reports/")
    clients = [await running.connect(f"/events/replayed/?token={token()}&last_event_id=0") for _ in range(5)]
    for client in clients:
        await client.read_until(1)
        client.abort()
    found = (await reports(running, sentry=len(clients), about="/events/{channel}/"))["sentry"]
    assert not [span for report in found for span in report["spans"] if "streams_message" in span["description"]]


async def test_sampler_leaves_streams_out(running: Running) -> None:
    await read(running, f"/quiet/observed/?token={token()}")
    found = await reports(running, spans=2, about="/quiet/")
    assert found["sentry"] == []


async def test_exception_of_a_snapshot_reaches_sentry_once(running: Running) -> None:
    given = token()
    client = await running.connect(f"/failing/observed/?token={given}")
    [event] = await client.read_control(1)
    assert event.event == "stream-error"
    client.abort()
    found = await reports(running, sentry=2, spans=2, about="/failing/")  # a transaction and an event
    events = [report for report in found["sentry"] if report["type"] == "event"]
    assert [report["exception"]["values"][-1]["value"] for report in events] == ["no snapshot"]
    assert given not in json.dumps(found)


async def test_reports_have_no_tokens(running: Running) -> None:
    """Also those about a request that fails before Streams has seen its token."""
    given = token()
    client = await StreamClient(running.server.port, f"/broken/?token={given}").connect()
    assert client.status == 500
    broken = await reports(running, sentry=2, spans=2, about="/broken/")
    await read(running, f"/events/observed/?token={given}")
    streamed = await reports(running, sentry=1, spans=2, about="/events/observed/")
    assert given not in json.dumps([broken, streamed])


async def test_stream_is_two_spans_in_opentelemetry(running: Running) -> None:
    """The server's span ends with the stream, and the view's span with the first byte. No event has a span."""
    await running.ask("reports/")
    await read(running, f"/events/observed/?token={token()}", 20)
    found = (await reports(running, spans=2, about="/events/observed/"))["spans"]
    assert sorted(span["kind"] for span in found) == ["SpanKind.INTERNAL", "SpanKind.SERVER"]
    view, server = sorted(found, key=lambda span: span["kind"])
    assert view["parent_id"] == server["context"]["span_id"]
    assert view["end_time"] < server["end_time"]


async def test_prometheus_measures_the_time_to_the_first_byte(running: Running) -> None:
    client = await running.stream("public.measured")
    async with running.browser() as browser:
        metrics = (await browser.get("/metrics")).text
    client.abort()
    name = 'django_http_requests_latency_seconds_by_view_method_count{method="GET",view="streams:channel"}'
    assert name in metrics
    assert "django_http_responses_streaming_total" in metrics
    assert "django_db_execute_total" in metrics


async def test_prometheus_backend_of_sqlite(start: Start) -> None:
    running = start("observed", on="sqlite")
    assert (await running.ask("checks/"))["messages"] == []
    client = await running.stream("public.counted")
    await running.publish("public.counted", "one")
    assert [event.data for event in await client.read_until(1)] == ["one"]
    async with running.browser() as browser:
        assert 'django_db_execute_total{alias="default",vendor="sqlite"}' in (await browser.get("/metrics")).text
