"""Metrics for Prometheus: `path("metrics/", include("streams.metrics"))`. They need the extra `metrics`.

Importing this module turns them on in the process, so a process without URLs, such as a Celery worker, imports it too.
They are in prometheus_client's default registry, with those of other libraries. With PROMETHEUS_MULTIPROC_DIR, a scrape
of one process answers for all processes of the machine.

Nothing that a client or a user chooses becomes a label: all values of labels are fixed.
"""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Iterator
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.db import Error
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.utils.crypto import constant_time_compare

from streams.conf import settings
from streams.exceptions import HTTPError
from streams.http.json_responses import error_response
from streams.runtime import failures, readings
from streams.runtime.database import non_atomic_requests
from streams.runtime.resets import per_process
from streams.telemetry import recorder
from streams.telemetry.error_codes import CODES

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
    from prometheus_client.core import GaugeMetricFamily, Metric
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(
        'streams.metrics needs prometheus_client. Install the extra: pip install "django-sse-streams[metrics]"'
    ) from error

logger = logging.getLogger("streams")

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
RETRY_AFTER_SECONDS = 5

_PUBLISH_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_DELAY_BUCKETS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_GROUP_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

# In a directory for several processes, the "live" modes leave out processes that have ended.
OPEN = Gauge("streams_open_streams", "Streams that are open.", ["source"], multiprocess_mode="livesum")
OPENED = Counter("streams_opened_streams", "Streams that have sent their first bytes.", ["source"])
ENDED = Counter("streams_ended_streams", "Streams that have ended, by the reason.", ["source", "reason"])
REFUSALS = Counter("streams_refusals", "Requests that were answered with an error, by its code.", ["code"])
DELIVERIES = Counter(
    "streams_deliveries",
    "Messages that were handed to a stream: live ones by the hub, older ones from memory or the log (replay).",
    ["kind"],
)
DELIVERED_BYTES = Counter("streams_delivered_bytes", "The bytes of these deliveries on the wire.", ["kind"])
DELAY = Histogram(
    "streams_delivery_delay_seconds",
    "From the commit of a message to its delivery to all live streams of a process, once for each batch. By a notice: "
    "from the publishing process's clock just after the commit to the delivering process's clock. By a poll: from the "
    "insert to the delivery, by the database's clock.",
    ["found_by"],
    buckets=_DELAY_BUCKETS,
)
OVERFLOWS = Counter("streams_queue_overflows", "Streams that fell behind, because their queue was full.")
REPLAYS = Counter("streams_replays", "Streams that began with older messages, by where these were.", ["start"])
RESETS = Counter("streams_resets", "Streams that sent a stream-reset: messages can be missing.", ["reason"])
NOTIFIER = Gauge(
    "streams_notifier_processes",
    "Processes by the state of their notifier's listener. Idle: no stream is open.",
    ["state"],
    multiprocess_mode="livesum",
)
FAILED_NOTICES = Counter("streams_failed_notices", "Notices that the notifier could not send.")
PUBLISHED = Counter("streams_published_messages", "Messages for which publish() has returned.")
PUBLISHING = Histogram(
    "streams_publish_seconds",
    "The duration of publish(). In the caller's transaction it ends with the insert, otherwise with the commit.",
    ["transaction"],
    buckets=_PUBLISH_BUCKETS,
)
PUBLISH_FAILURES = Counter("streams_publish_failures", "Calls of publish() that raised, by the reason.", ["reason"])
GROUPS = Histogram(
    "streams_group_messages", "Messages that concurrent publishers stored in one transaction.", buckets=_GROUP_BUCKETS
)
PRUNED = Counter("streams_pruned_messages", "Messages that retention has deleted.")
GENERATIONS = Counter("streams_ended_generations", "Answers of language models that have ended.", ["state"])

_LABELS: dict[Any, list[tuple[str, ...]]] = {
    OPEN: [(source,) for source in recorder.SOURCES],
    OPENED: [(source,) for source in recorder.SOURCES],
    ENDED: [(source, reason) for source in recorder.SOURCES for reason in recorder.END_REASONS],
    DELIVERIES: [("live",), ("replay",)],
    DELIVERED_BYTES: [("live",), ("replay",)],
    DELAY: [(by,) for by in recorder.FINDERS],
    REPLAYS: [(start,) for start in recorder.REPLAY_STARTS],
    RESETS: [(reason,) for reason in recorder.RESET_REASONS],
    NOTIFIER: [(state,) for state in recorder.NOTIFIER_STATES],
    PUBLISHING: [("own",), ("caller",)],
    PUBLISH_FAILURES: [(reason,) for reason in recorder.PUBLISH_FAILURES],
    GENERATIONS: [(state,) for state in recorder.GENERATION_ENDS],
}


class PrometheusRecorder(recorder.Recorder):
    """Counts what happens in this process in the metrics above."""

    measures_polls = True

    def __init__(self) -> None:
        # All series exist from the start: Prometheus cannot see the increase of one that begins with 1.
        for metric, values in _LABELS.items():
            for labels in values:
                metric.labels(*labels)
        # A gauge's file can be left from an earlier process with the same pid.
        for source in recorder.SOURCES:
            OPEN.labels(source).set(0)
        self.notifier_state("idle")

    def stream_opened(self, source: str) -> None:
        OPEN.labels(source).inc()
        OPENED.labels(source).inc()

    def stream_ended(self, source: str, reason: str) -> None:
        OPEN.labels(source).dec()
        ENDED.labels(source, reason).inc()

    def refused(self, code: str) -> None:
        REFUSALS.labels(code if code in CODES else "other").inc()

    def replay_began(self, start: str) -> None:
        REPLAYS.labels(start).inc()

    def replayed(self, messages: int, size: int) -> None:
        DELIVERIES.labels("replay").inc(messages)
        DELIVERED_BYTES.labels("replay").inc(size)

    def reset(self, reason: str) -> None:
        RESETS.labels(reason).inc()

    def delivered(self, deliveries: int, size: int, overflows: int) -> None:
        DELIVERIES.labels("live").inc(deliveries)
        DELIVERED_BYTES.labels("live").inc(size)
        if overflows:
            OVERFLOWS.inc(overflows)

    def found(self, seconds: float, by: str) -> None:
        DELAY.labels(by).observe(max(0.0, seconds))  # clocks can differ

    def notifier_state(self, state: str) -> None:
        for each in recorder.NOTIFIER_STATES:
            NOTIFIER.labels(each).set(each == state)

    def notice_failed(self) -> None:
        FAILED_NOTICES.inc()

    def published(self, messages: int, seconds: float, *, in_transaction: bool) -> None:
        PUBLISHED.inc(messages)
        PUBLISHING.labels("caller" if in_transaction else "own").observe(seconds)

    def publish_failed(self, reason: str) -> None:
        PUBLISH_FAILURES.labels(reason).inc()

    def group_written(self, messages: int) -> None:
        GROUPS.observe(messages)

    def pruned(self, messages: int) -> None:
        PRUNED.inc(messages)

    def generation_ended(self, state: str) -> None:
        GENERATIONS.labels(state).inc()


class DatabaseCollector(Collector):
    """The figures of the log's database, read at the scrape. If it does not answer, there is only `database_up 0`."""

    def collect(self) -> Iterator[Metric]:
        found = readings.read()
        yield GaugeMetricFamily(
            "streams_database_up", "1 if the log's database has answered this scrape.", value=found is not None
        )
        for family, reading in self._families():
            for label, value in (found or {}).get(reading.name, {}).items():
                family.add_metric([label] if reading.label else [], value)
            if family.samples:
                yield family

    def describe(self) -> Iterator[Metric]:
        """Yield the metrics without values, so that no query runs when the collector is registered."""
        yield GaugeMetricFamily("streams_database_up", "")
        for family, _ in self._families():
            yield family

    def _families(self) -> Iterator[tuple[GaugeMetricFamily, readings.Reading]]:
        for reading in readings.registered():
            labels = [reading.label] if reading.label else []
            yield GaugeMetricFamily(f"streams_{reading.name}", reading.help, labels=labels), reading


DATABASE = DatabaseCollector()

REGISTRY.register(DATABASE)
recorder.install(per_process(PrometheusRecorder))


# --- The view ---------------------------------------------------------------------------------------------------------


@login_not_required
@non_atomic_requests  # a transaction would need the database, which can be away
def metrics(request: HttpRequest) -> HttpResponse:
    """Answer a scrape, in Prometheus's text format or in OpenMetrics.

    Allowed are requests with the bearer token STREAMS["METRICS_TOKEN"], and users who are logged in and `is_staff`.
    """
    try:
        _check(request)
    except HTTPError as error:
        return error_response(error)
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(encode(_registry()), content_type=content_type, headers={"Cache-Control": "no-store"})


def _check(request: HttpRequest) -> None:
    """Raise HTTPError if the request cannot have the metrics."""
    if request.method not in ("GET", "HEAD"):
        message = f"Metrics are read with GET; got {request.method}."
        raise HTTPError(405, "method-not-allowed", message, headers={"Allow": "GET, HEAD"})
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        expected = settings.METRICS_TOKEN
        if expected is not None and constant_time_compare(given.strip(), expected):
            return
        message = "The bearer token is not STREAMS['METRICS_TOKEN'], or that is not set."
        raise HTTPError(401, "authentication-failed", message, headers={"WWW-Authenticate": "Bearer"})
    try:
        user = getattr(request, "user", None)
        if user is not None and user.is_active and getattr(user, "is_staff", False):
            return
    except Error as error:
        failures.report(logger, "A user could not be loaded for a scrape.")
        text = failures.explain(error)
        raise HTTPError(503, "unavailable", text, retry_after_seconds=RETRY_AFTER_SECONDS) from None
    message = "Metrics are for staff, and for requests with the bearer token STREAMS['METRICS_TOKEN']."
    raise HTTPError(403, "forbidden", message)


def _registry() -> CollectorRegistry:
    """Return the default registry; or one of the metrics of all processes, if they share a directory."""
    folder = os.environ.get(MULTIPROCESS_VARIABLE)
    if not folder:
        return REGISTRY
    _forget_ended_processes(folder)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
    registry.register(DATABASE)
    return registry


def _forget_ended_processes(folder: str) -> None:
    """Leave out the open streams of processes that have ended. Not every server has a hook for that."""
    for name in glob.glob(os.path.join(glob.escape(folder), "gauge_live*_*.db")):
        if (found := re.search(r"_(\d+)\.db$", name)) is not None:
            try:
                os.kill(int(found[1]), 0)
            except ProcessLookupError:
                mark_process_dead(int(found[1]), folder)  # type: ignore[no-untyped-call]
            except OSError:
                pass  # another user's process


app_name = "streams_metrics"

urlpatterns = [path("", metrics, name="metrics")]
