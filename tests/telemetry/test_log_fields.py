"""Log records have fields for programs, and no secrets in them."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from django.db import OperationalError
from django.test import AsyncClient, override_settings

from streams import EventStreamResponse, publish
from streams.delivery.subscriber import Subscriber
from streams.log import retention
from streams.runtime import failures
from streams.telemetry.log_fields import PREFIX, Fields, fields
from streams.tokens import make_token

pytestmark = pytest.mark.django_db(transaction=True)


def found(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return the fields of each record that has any."""
    records = ({k: v for k, v in vars(record).items() if k.startswith(PREFIX)} for record in caplog.records)
    return [record for record in records if record]


@pytest.fixture(autouse=True)
def all_levels(caplog: pytest.LogCaptureFixture) -> Any:
    with caplog.at_level(logging.INFO, "streams"):
        yield


async def test_refusal_has_its_code_and_status(caplog: pytest.LogCaptureFixture) -> None:
    await AsyncClient().get("/events/secret/")
    assert {"streams_event": "refused", "streams_code": "forbidden", "streams_status": 403} in found(caplog)


async def test_reset_and_revocation_have_their_channels(caplog: pytest.LogCaptureFixture) -> None:
    stream = Subscriber(["news", "public.a"], last_event_id="x")
    async with asyncio.timeout(20):
        await anext(aiter(EventStreamResponse(stream)))
    stream.revoke()
    await stream.aclose()
    channels = ["news", "public.a"]
    assert found(caplog) == [
        {"streams_event": "reset", "streams_reason": "malformed-id", "streams_channels": channels},
        {"streams_event": "stream-revoked", "streams_channels": channels},
    ]


def test_outage_and_recovery_have_the_same_name(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise OperationalError("the server is away")
    except OperationalError:
        failures.report(logging.getLogger("streams"), "Could not read.")
    failures.DATABASE.recovered()
    assert found(caplog) == [
        {"streams_event": "outage", "streams_outage": "database"},
        {"streams_event": "recovered", "streams_outage": "database"},
    ]


@override_settings(STREAMS={"RETENTION_MESSAGES_PER_CHANNEL": 1})
def test_pruning_has_its_number(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        publish("news", "x")
    retention.prune()
    assert found(caplog) == [{"streams_event": "pruned", "streams_messages": 2}]


async def test_no_field_has_a_token(caplog: pytest.LogCaptureFixture) -> None:
    """A client can put a token anywhere, also where a channel or a number is expected."""
    token = make_token(read=["other"])
    for path in (f"/events/?channel={token}", f"/events/secret/?token={token}", f"/events/news/?replay={token}"):
        await AsyncClient().get(path)
        await AsyncClient().get(path, headers={"Authorization": f"Bearer {token}", "Last-Event-ID": token})
    records = found(caplog)
    assert len(records) >= 6
    assert token not in str(records)


@pytest.mark.once
def test_fields_have_the_prefix() -> None:
    assert fields(event="reset", channels=["a"]) == {"streams_event": "reset", "streams_channels": ["a"]}
    reserved = vars(logging.makeLogRecord({})).keys()
    assert {PREFIX + name for name in Fields.__annotations__}.isdisjoint(reserved)
