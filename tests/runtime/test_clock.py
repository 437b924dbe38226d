"""Wrong clocks: all stored and compared times come from the database's clock, and not from the process."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from streams import publish_many, tokens
from streams.broadcasts import lifecycle, reach, schedule
from streams.exceptions import BroadcastRefused
from streams.log import retention
from streams.models import Broadcast, Node, RevokedToken
from streams.presence import counter, node_row
from streams.protocol.events import NewMessage
from streams.relay.access import Principal
from streams.relay.generations import housekeeping, store
from streams.relay.generations.endings import Ending
from streams.relay.models import Generation, Usage
from streams.runtime import clock
from tests.support.sites import Site, finish

database = pytest.mark.django_db(transaction=True)

HOUR = 3600.0
DAY = 86_400.0


@contextlib.contextmanager
def wrong_clock(seconds: float) -> Iterator[None]:
    """Set the clock of this process forward by so many seconds. The database's clock stays right."""
    real_now, real_time = timezone.now, time.time
    with (
        mock.patch.object(timezone, "now", side_effect=lambda: real_now() + datetime.timedelta(seconds=seconds)),
        mock.patch.object(time, "time", side_effect=lambda: real_time() + seconds),
    ):
        yield


def is_now(moment: datetime.datetime | None) -> bool:
    return moment is not None and abs(timezone.now() - moment) < datetime.timedelta(minutes=5)


def scheduled(seconds: float) -> Broadcast:
    """Return a broadcast that is scheduled to be sent in so many seconds."""
    return Broadcast.objects.create(
        title="Night works",
        channels=["news"],
        payload="No trains",
        state=Broadcast.State.SCHEDULED,
        send_at=timezone.now() + datetime.timedelta(seconds=seconds),
    )


@database
@pytest.mark.parametrize("seconds", [-8 * DAY, 8 * DAY])
def test_the_databases_clock_does_not_follow_the_process(seconds: float) -> None:
    with wrong_clock(seconds):
        read = clock.read()
        [stored] = Broadcast.objects.filter(pk=scheduled(-seconds).pk).values_list(clock.now(), flat=True)
    assert is_now(read)
    assert is_now(stored)


# --- Pruning ----------------------------------------------------------------------------------------------------------


def publish_ten() -> None:
    publish_many([NewMessage("news", n) for n in range(10)])


def prune_with_clock(seconds: str) -> None:
    with wrong_clock(float(seconds)):
        print(retention.prune_if_due())


@pytest.mark.once
@pytest.mark.parametrize("seconds", [-8 * DAY, 8 * DAY])
def test_pruning_by_a_wrong_clock_deletes_nothing_fresh(site: Site, seconds: float) -> None:
    finish(site.call(publish_ten))
    site.settings(RETENTION_SECONDS=7 * DAY)
    assert finish(site.call(prune_with_clock, seconds)) == "0\n"
    assert site.execute("SELECT count(*) FROM streams_message") == [(10,)]


@pytest.mark.once
def test_pruning_by_a_wrong_clock_keeps_no_one_else_from_pruning(site: Site) -> None:
    finish(site.call(publish_ten))
    site.settings(RETENTION_MESSAGES_PER_CHANNEL=20, PRUNE_SECONDS=0.001)
    assert finish(site.call(prune_with_clock, 5 * HOUR)) == "0\n"
    site.settings(RETENTION_MESSAGES_PER_CHANNEL=3)
    assert finish(site.call(prune_with_clock, 0)) == "7\n"


# --- Broadcasts -------------------------------------------------------------------------------------------------------


@database
def test_broadcast_is_not_sent_early_by_a_fast_clock() -> None:
    made = scheduled(HOUR)
    with wrong_clock(2 * HOUR):
        assert not schedule._any_due()
        assert list(schedule.send_due()) == []
        with pytest.raises(BroadcastRefused):
            lifecycle.send_if_due(made.pk)
    made.refresh_from_db()
    assert made.state == Broadcast.State.SCHEDULED


@database
def test_broadcast_is_not_sent_late_by_a_slow_clock() -> None:
    made = scheduled(-1)
    with wrong_clock(-2 * HOUR):
        assert schedule._any_due()
        assert [sent.pk for sent in schedule.send_due()] == [made.pk]
    made.refresh_from_db()
    assert is_now(made.sent_at)


@database
@pytest.mark.parametrize("seconds", [-2 * HOUR, 2 * HOUR])
def test_broadcast_is_scheduled_by_the_databases_clock(seconds: float) -> None:
    editor = User.objects.create(username="editor", is_staff=True)
    draft = Broadcast.objects.create(title="Night works", channels=["news"], payload="No trains")
    with wrong_clock(seconds):
        with pytest.raises(BroadcastRefused, match="in the past"):
            lifecycle.schedule(draft.pk, datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1), by=editor)
        soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
        assert lifecycle.schedule(draft.pk, soon, by=editor).send_at == soon


@database
@pytest.mark.parametrize("seconds", [-2 * HOUR, 2 * HOUR])
def test_broadcast_is_counted_while_it_is_fresh(seconds: float) -> None:
    fresh, old = (lifecycle.send(scheduled(HOUR).pk, by=None) for _ in range(2))
    Broadcast.objects.filter(pk=old.pk).update(sent_at=timezone.now() - datetime.timedelta(hours=1))
    with wrong_clock(seconds):
        assert reach._recent() == {fresh.pk: {"news": 1}}


# --- Tokens, processes ------------------------------------------------------------------------------------------------


@database
def test_revoked_token_is_not_forgotten_by_a_fast_clock(settings: Any) -> None:
    """A forgotten token would be valid again."""
    settings.STREAMS = {**settings.STREAMS, "POLL_SECONDS": 0.001}
    token = tokens.read_token(tokens.make_token(read=["news"], seconds=HOUR))
    tokens.revoke(token.id, token.expires_at)
    with wrong_clock(30 * DAY):
        tokens.revoke("another")
    assert tokens.is_revoked(token.id)


@database
def test_revocation_lasts_as_long_as_any_token_by_a_slow_clock() -> None:
    with wrong_clock(-300 * DAY):
        tokens.revoke("whose end is not known")
    [row] = RevokedToken.objects.all()
    assert row.expires_at > timezone.now()


@database
def test_process_has_started_by_the_databases_clock() -> None:
    with wrong_clock(5 * HOUR):
        node_row.write()
    uptime = datetime.timedelta(seconds=time.monotonic() - counter.process.started)
    assert is_now(Node.objects.get().started_at + uptime)


# --- The relay --------------------------------------------------------------------------------------------------------


def ask() -> Generation:
    body = {"model": "small", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    return store.create(Principal(None, "address 192.0.2.1"), body, "default")[0]


@database
@pytest.mark.parametrize("seconds", [-5 * HOUR, 5 * HOUR])
def test_question_waits_for_a_worker_by_the_databases_clock(seconds: float) -> None:
    with wrong_clock(seconds):
        late, fresh = ask(), ask()
    Generation.objects.filter(pk=late.pk).update(created_at=timezone.now() - datetime.timedelta(hours=1))
    with wrong_clock(-seconds):
        assert housekeeping.reap()
    late.refresh_from_db()
    fresh.refresh_from_db()
    assert (late.state, fresh.state) == (Generation.State.FAILED, Generation.State.QUEUED)
    assert is_now(fresh.created_at)


@database
@pytest.mark.parametrize("seconds", [-5 * HOUR, 5 * HOUR])
def test_cost_of_an_answer_has_the_databases_time(seconds: float) -> None:
    ask()
    [generation] = store.claim("w", 1)
    with wrong_clock(seconds):
        store._record(generation, Ending(Generation.State.CANCELLED))
    [cost] = Usage.objects.all()
    assert 0 <= cost.seconds < 300
    assert is_now(cost.created_at)
