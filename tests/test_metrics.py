"""The metrics: what each of them counts, and that no value of a label comes from a client."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import subprocess
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest
from django.test import AsyncClient, override_settings
from prometheus_client import REGISTRY

from streams import EventStreamResponse, NewMessage, apublish, apublish_many, metrics, publish
from streams.delivery.hub import Hub
from streams.delivery.subscriber import Subscriber
from streams.exceptions import InvalidChannel
from streams.http.response import _Body
from streams.log import retention
from streams.notifiers import get_notifier
from streams.runtime import executor
from streams.telemetry import recorder
from streams.telemetry.error_codes import CODES
from streams.testing import read_events
from tests.support.sites import PYTHON, ROOT

pytestmark = pytest.mark.django_db(transaction=True)


def values() -> dict[str, float]:
    """Return the value of each series that does not come from the database, by its name with its labels."""
    found = {}
    for family in REGISTRY.restricted_registry([name for name in names() if name.startswith("streams_")]).collect():
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def names() -> list[str]:
    """Return the names of all series of the process, without those of the database's figures."""
    own = (metrics.OPEN, metrics.NOTIFIER, *metrics._LABELS, metrics.REFUSALS, metrics.OVERFLOWS, metrics.PRUNED)
    others = (metrics.FAILED_NOTICES, metrics.PUBLISHED, metrics.GROUPS)
    return [name for metric in {*own, *others} for name in REGISTRY._get_names(metric)]


class Changes:
    """The changes of the metrics since it was made, without those that did not change."""

    def __init__(self) -> None:
        self._before = values()

    def __call__(self, pattern: str = "") -> dict[str, float]:
        found = {name: value - self._before.get(name, 0) for name, value in values().items()}
        kept = {name.removeprefix("streams_"): value for name, value in found.items() if re.search(pattern, name)}
        return {
            name: value for name, value in kept.items() if value and "_bucket" not in name and "_created" not in name
        }


async def open_stream(**arguments: Any) -> Any:
    """Return an iterator of a stream's chunks that is live, and has sent its first bytes."""
    response = EventStreamResponse(Subscriber(["news"], **arguments))
    chunks = aiter(response)
    await anext(chunks)
    return chunks


async def wait_for(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def begin_reading(chunks: Any) -> asyncio.Future[bytes]:
    """Return a future of the next message. The stream is live, and waits for it."""
    reading = asyncio.ensure_future(anext(chunks))
    await wait_for(lambda: chunks.source._waiter is not None)
    return reading


async def end_by_client(chunks: _Body) -> None:
    await chunks.aclose()


async def end_by_lifetime(chunks: _Body) -> None:
    chunks.expire()
    await chunks.aclose()


async def end_by_shutdown(chunks: _Body) -> None:
    chunks.stop(b"retry: 1\n")
    await chunks.aclose()


async def end_by_revocation(chunks: _Body) -> None:
    chunks.source.revoke()  # type: ignore[attr-defined]
    await chunks.aclose()


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (end_by_client, "client"),
        (end_by_lifetime, "lifetime"),
        (end_by_shutdown, "shutdown"),
        (end_by_revocation, "revoked"),
    ],
)
async def test_stream_is_open_until_it_ends_for_its_reason(end: Any, reason: str) -> None:
    changes = Changes()
    chunks = await open_stream()
    assert changes("_streams") == {'open_streams{source="log"}': 1, 'opened_streams_total{source="log"}': 1}
    await end(chunks)
    await chunks.aclose()  # once more: it is counted once
    assert changes("_streams") == {
        'opened_streams_total{source="log"}': 1,
        f'ended_streams_total{{reason="{reason}",source="log"}}': 1,
    }


async def test_stream_that_is_left_to_the_garbage_collector_ends() -> None:
    """Some middlewares wrap the iterator, and do not close it."""
    changes = Changes()
    chunks = await open_stream()
    stream = chunks.source
    del chunks
    gc.collect()
    await asyncio.sleep(0)
    assert changes("_streams").keys() == {
        'opened_streams_total{source="log"}',
        'ended_streams_total{reason="client",source="log"}',
    }
    await stream.aclose()


async def test_stream_that_is_complete_or_fails_is_counted_so() -> None:
    async def items(fails: bool) -> Any:
        yield "one"
        if fails:
            raise RuntimeError("of the view")

    changes = Changes()
    for fails in (False, True):
        async with aclosing(aiter(EventStreamResponse(items(fails)))) as chunks:  # type: ignore[type-var]
            assert [chunk async for chunk in chunks]
    assert changes("ended") == {
        'ended_streams_total{reason="complete",source="iterator"}': 1,
        'ended_streams_total{reason="error",source="iterator"}': 1,
    }


@override_settings(STREAMS={"MAX_REPLAY_SECONDS": 0.000001, "WINDOW_MESSAGES": 1, "PUBLIC_CHANNELS": ["*"]})
async def test_stream_that_stays_behind_is_counted_so() -> None:
    await apublish_many([NewMessage("news", "x" * 100) for _ in range(600)])
    changes = Changes()
    async with aclosing(aiter(EventStreamResponse(Subscriber(["news"], last_event_id="1")))) as chunks:  # type: ignore[type-var]
        assert [chunk async for chunk in chunks]
    assert changes("ended") == {'ended_streams_total{reason="behind",source="log"}': 1}
    assert changes("replays") == {'replays_total{start="log"}': 1}


async def test_live_delivery_is_counted_with_its_bytes_and_its_delay() -> None:
    changes = Changes()
    streams = [await open_stream() for _ in range(3)]
    reading = [await begin_reading(chunks) for chunks in streams]
    await apublish("news", "hello")
    received = await asyncio.gather(*reading)
    await wait_for(lambda: changes("delay") != {})
    for chunks in streams:
        await chunks.aclose()
    assert changes("deliver(ies|ed)") == {
        'deliveries_total{kind="live"}': 3,
        'delivered_bytes_total{kind="live"}': sum(map(len, received)),
    }
    delay = changes("delay")
    [count] = [name for name in delay if "_count" in name]
    assert delay[count] == 1
    assert 0 <= delay[count.replace("_count", "_sum")] < 20


@override_settings(STREAMS={"POLL_SECONDS": 0.05})
async def test_delay_is_measured_for_a_lost_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the delays of a site whose notices do not arrive would look perfect."""
    changes = Changes()
    chunks = await open_stream()
    reading = await begin_reading(chunks)
    monkeypatch.setattr(type(get_notifier()), "notify", lambda self, notice: None)
    await apublish("news", "hello")
    assert b"hello" in await reading
    await wait_for(lambda: changes("delay.*poll") != {})
    await chunks.aclose()
    assert changes("delay_seconds_count") == {'delivery_delay_seconds_count{found_by="poll"}': 1}


async def test_replay_is_counted() -> None:
    data = [NewMessage("news", f"{n}") for n in range(5)]
    await apublish_many(data)
    changes = Changes()
    response = EventStreamResponse(Subscriber(["news"], replay=3))
    assert [event.data for event in await read_events(response, 3)] == ["2", "3", "4"]
    assert changes("replays|deliveries") == {'replays_total{start="memory"}': 1, 'deliveries_total{kind="replay"}': 3}


@override_settings(STREAMS={"QUEUE_MESSAGES": 2})
async def test_full_queue_is_an_overflow() -> None:
    changes = Changes()
    chunks = await open_stream()
    reading = await begin_reading(chunks)
    await apublish("news", "first")
    assert b"first" in await reading  # nobody asks for the following ones
    await apublish_many([NewMessage("news", f"{n}") for n in range(5)])
    await wait_for(lambda: changes("overflows") == {"queue_overflows_total": 1})
    await chunks.aclose()


@pytest.mark.parametrize(
    ("cursor", "reason"), [("x", "malformed-id"), ("999999999", "unknown-id"), ("1", "pruned")], ids=lambda each: each
)
async def test_reset_is_counted_by_its_reason(cursor: str, reason: str) -> None:
    for n in range(3):
        await apublish("news", f"{n}")
    if reason == "pruned":
        with override_settings(STREAMS={"RETENTION_MESSAGES_PER_CHANNEL": 1, "WINDOW_MESSAGES": 1}):
            await executor.run(retention.prune, pool=executor.WAITING)
    changes = Changes()
    chunks = await open_stream(last_event_id=cursor)
    await chunks.aclose()
    assert changes("resets") == {f'resets_total{{reason="{reason}"}}': 1}


def test_publishing_is_counted_by_its_outcome() -> None:
    from django.db import transaction

    changes = Changes()
    publish("news", "x")
    with transaction.atomic():
        publish("news", "x")
    with pytest.raises(InvalidChannel):
        publish("a b", "x")
    found = changes("publish|group")
    assert {name: value for name, value in found.items() if "_sum" not in name or "group" in name} == {
        "published_messages_total": 2,
        'publish_seconds_count{transaction="own"}': 1,
        'publish_seconds_count{transaction="caller"}': 1,
        'publish_failures_total{reason="invalid"}': 1,
        "group_messages_count": 1,
        "group_messages_sum": 1,
    }


def test_failed_notice_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, notice: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr(type(get_notifier()), "notify", fail)
    changes = Changes()
    publish("news", "x")
    assert changes("failed_notices") == {"failed_notices_total": 1}


@override_settings(STREAMS={"RETENTION_MESSAGES_PER_CHANNEL": 1})
def test_pruning_is_counted() -> None:
    for _ in range(3):
        publish("news", "x")
    changes = Changes()
    retention.prune()
    assert changes("pruned") == {"pruned_messages_total": 2}


async def test_notifier_state_follows_the_hub() -> None:
    states = 'streams_notifier_processes{state="%s"}'
    assert values()[states % "idle"] == 1
    chunks = await open_stream()
    await wait_for(lambda: values()[states % "ok"] == 1)
    assert values()[states % "idle"] == 0
    await chunks.aclose()
    await wait_for(lambda: Hub.running() is None)
    assert values()[states % "idle"] == 1


# --- Labels -----------------------------------------------------------------------------------------------------------


async def test_no_label_grows_with_what_clients_choose() -> None:
    """All series exist before anything happens, except for the codes of refusals, which are fixed as well."""
    before = set(values())
    client = AsyncClient()
    for path in ("/events/secret/", "/events/a b/", "/events/", "/events/news/?replay=x", "/events/?channel=a&end=b"):
        await client.get(path)
    recorder.current.refused("a code of the site's policy")
    await open_and_close_with(last_event_id="chosen by the client")
    await apublish("public.chosen-by-the-client", "x", event="chosen")
    new = set(values()) - before
    codes = {
        found[1] for name in new if (found := re.match(r'streams_refusals_(?:total|created)\{code="(.+)"\}', name))
    }
    assert codes <= {*CODES, "other"}
    assert {name for name in new if not name.startswith("streams_refusals_")} == set()
    assert 'streams_refusals_total{code="other"}' in values()


async def open_and_close_with(**arguments: Any) -> None:
    await (await open_stream(**arguments)).aclose()


@pytest.mark.once
def test_codes_are_those_of_the_reference() -> None:
    rows = re.findall(r"^\| \d{3} \| (.+?) \|", (ROOT / "docs" / "reference" / "errors.md").read_text(), re.M)
    assert {code for row in rows for code in re.findall(r"`([\w-]+)`", row)} == CODES


# --- Off --------------------------------------------------------------------------------------------------------------


@pytest.mark.once
def test_metrics_are_off_without_their_module(tmp_path: Any) -> None:
    code = "import django; django.setup(); import streams.urls, sys; from streams.telemetry import recorder\n"
    code += "print(type(recorder.current) is recorder.Recorder, 'prometheus_client' in sys.modules)"
    env = {
        **os.environ,
        "DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3",
        "DJANGO_SETTINGS_MODULE": "tests.support.settings_bare",
    }
    done = subprocess.run([PYTHON, "-c", code], cwd=ROOT, env=env, text=True, capture_output=True)
    assert (done.returncode, done.stdout) == (0, "True False\n"), done.stderr


@pytest.mark.once
def test_missing_library_is_an_error_with_the_remedy() -> None:
    code = "import sys; sys.modules['prometheus_client'] = None\nimport django; django.setup(); import streams.metrics"
    env = {**os.environ, "DATABASE_URL": "sqlite://:memory:", "DJANGO_SETTINGS_MODULE": "tests.support.settings_bare"}
    done = subprocess.run([PYTHON, "-c", code], cwd=ROOT, env=env, text=True, capture_output=True)
    assert done.returncode == 1
    assert 'Install the extra: pip install "django-sse-streams[metrics]"' in done.stderr


@pytest.mark.once
def test_recorder_overrides_every_method() -> None:
    """A method without a metric would be an event that is reported in vain."""
    methods = {name for name, value in vars(recorder.Recorder).items() if callable(value)}
    assert methods
    assert methods <= vars(metrics.PrometheusRecorder).keys()
