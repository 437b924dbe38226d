"""Time travel: retention, tokens, broadcasts and limits see the shifted time, on each database."""

from __future__ import annotations

import datetime
import io
import time
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.test import AsyncClient, override_settings
from django.utils import timezone

from streams import log, publish, tokens
from streams.exceptions import InvalidToken
from streams.models import Broadcast, Message, RevokedToken
from streams.publishing import rate_limit
from streams.runtime import clock
from streams.testing import published, read_events, travel, travel_to

HOUR = datetime.timedelta(hours=1)

database = pytest.mark.django_db


in_each_transaction = pytest.mark.parametrize(
    "wrapped",
    [
        pytest.param(True, marks=pytest.mark.django_db, id="in the test's transaction"),
        pytest.param(False, marks=pytest.mark.django_db(transaction=True), id="committed"),
    ],
)


def prune(**limits: Any) -> list[str]:
    """Run the command for pruning, and return the data of the messages that are left."""
    with override_settings(STREAMS=limits):
        call_command("prune_messages", stdout=io.StringIO())
    return [message.data for message in published()]


@in_each_transaction
@pytest.mark.parametrize("use_tz", [True, False])
def test_messages_become_too_old(wrapped: bool, use_tz: bool, settings: Any) -> None:
    settings.USE_TZ = use_tz
    publish("news", "old")
    assert prune(RETENTION_SECONDS=7200) == ["old"]
    with travel(hours=1, minutes=59):
        assert prune(RETENTION_SECONDS=7200) == ["old"]
        publish("news", "newer")
        with travel(minutes=2):
            assert prune(RETENTION_SECONDS=7200) == ["newer"]
    publish("news", "of today")
    with travel(days=-1):
        assert prune(RETENTION_SECONDS=7200) == ["newer", "of today"]


@in_each_transaction
def test_messages_get_the_shifted_time(wrapped: bool) -> None:
    connection.ensure_connection()
    for _ in range(2):  # on one connection, PostgreSQL then uses the procedure, which leaves the time to the database
        publish("other", "before")
    with travel(days=3):
        message = publish("news", "later")
        keyed = publish("news", "with a key", idempotency_key="k")
    expected = timezone.now() + datetime.timedelta(days=3)
    for each in (message, keyed, *Message.objects.filter(channel="news")):
        assert abs(each.created_at - expected) < HOUR
    assert abs(publish("news", "now").created_at - timezone.now()) < HOUR


@database
def test_idempotency_key_is_free_once_its_message_is_pruned() -> None:
    assert publish("news", "a", idempotency_key="k").is_new
    with travel(hours=3):
        assert not publish("news", "a", idempotency_key="k").is_new
        assert prune(RETENTION_SECONDS=7200) == []
        assert publish("news", "a", idempotency_key="k").is_new


@database
def test_tokens_expire() -> None:
    token = tokens.make_token(read=["news"], seconds=600)
    with travel(minutes=9):
        assert tokens.read_token(token).read == ("news",)
    with travel(minutes=11), pytest.raises(InvalidToken, match="expired"):
        tokens.read_token(token)
    tokens.read_token(token)


@database
def test_rows_of_revoked_tokens_are_deleted_later() -> None:
    tokens.revoke("one", time.time() + 600)
    with travel(days=2):
        tokens.revoke("two")
    assert list(RevokedToken.objects.values_list("id", flat=True)) == ["two"]


@pytest.mark.django_db(transaction=True)
async def test_stream_is_refused_with_an_expired_token() -> None:
    url = f"/events/private/?replay=1&token={tokens.make_token(read=['private'], seconds=600)}"
    response = await AsyncClient().get(url)
    assert response.status_code == 200
    await read_events(response, 1, control=True)
    with travel(hours=1):
        response = await AsyncClient().get(url)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "expired-token")


@in_each_transaction
@pytest.mark.parametrize("use_tz", [True, False])
def test_scheduled_broadcast_becomes_due(wrapped: bool, use_tz: bool, settings: Any) -> None:
    settings.USE_TZ = use_tz
    send_at = timezone.now() + HOUR
    Broadcast.objects.create(
        title="x", channels=["news"], payload="due", state=Broadcast.State.SCHEDULED, send_at=send_at
    )

    def send() -> list[str]:
        call_command("send_due_broadcasts", stdout=io.StringIO())
        return [message.data for message in published()]

    assert send() == []
    with travel_to(send_at - datetime.timedelta(seconds=30)):
        assert send() == []
    with travel_to(send_at + datetime.timedelta(seconds=1)):
        assert send() == ["due"]
    assert Broadcast.objects.get().sent_at >= send_at


@pytest.mark.parametrize("cache", [None, "default"])
def test_limit_on_publishing_is_over_after_a_minute(cache: str | None, settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "PUBLISH_MESSAGES_PER_MINUTE": 2, "PUBLISH_RATE_CACHE": cache}
    caller = f"caller of {cache}"
    assert rate_limit.take(caller, 2) == 0
    assert rate_limit.take(caller, 2) > 0
    with travel(minutes=2):
        assert rate_limit.take(caller, 2) == 0
    rate_limit.take(caller, 1)  # back in time, it neither fails nor blocks for hours
    assert rate_limit.take(caller, 2) <= 60


@database
def test_time_is_shifted_and_shifted_back() -> None:
    before = clock.read()
    with travel(hours=1):
        with travel(days=-1, seconds=5):
            assert abs(clock.read() - before + 23 * HOUR) < HOUR / 2
            assert abs(clock.time() - time.time() + 23 * 3600) < 1800
        assert abs(clock.read() - before - HOUR) < HOUR / 2
    assert not clock.is_shifted()
    assert abs(clock.read() - before) < HOUR / 2


@database
def test_libraries_that_freeze_the_clock_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """They replace time.time() in this process. The database keeps its own time, unless the test travels."""
    publish("news", "old")
    later = time.time() + 3 * 3600
    monkeypatch.setattr(time, "time", lambda: later)
    assert prune(RETENTION_SECONDS=7200) == ["old"]
    with travel():
        assert clock.read().timestamp() == pytest.approx(later)
        assert prune(RETENTION_SECONDS=7200) == []


def test_naive_moments_are_refused_with_time_zones(settings: Any) -> None:
    naive = datetime.datetime(2030, 1, 1)
    with pytest.raises(ValueError, match="takes an aware datetime"), travel_to(naive):
        pass
    settings.USE_TZ = False
    with travel_to(naive):
        assert datetime.datetime.fromtimestamp(clock.time()).year in (2029, 2030)


def test_only_tests_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.runtime.test_run.TestRun.can_travel", False)
    with pytest.raises(RuntimeError, match="test runs only"), travel(hours=1):
        pass
    assert not clock.is_shifted()


@travel(hours=5)
def test_decorated_function_travels(db: None) -> None:
    assert clock.time() - time.time() > 4 * 3600
    assert log.head().head == 0
