"""Due broadcasts are sent once, and a failure of one does not block the others."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.db.models.signals import post_save
from django.test import override_settings
from django.utils import timezone

from streams.broadcasts import lifecycle, schedule
from streams.models import Broadcast
from tests.broadcasts.support import State, database, draft, in_an_hour, make_due, prepare, stored
from tests.support.clients import StreamClient
from tests.support.sites import Site, finish


@database
def test_scheduled_is_not_sent_early(editor: User) -> None:
    made = draft()
    lifecycle.schedule(made.pk, in_an_hour(), by=editor)
    assert list(schedule.send_due()) == []
    assert stored() == []
    made.refresh_from_db()
    assert (made.state, made.scheduled_by) == (State.SCHEDULED, editor)


@database
def test_due_broadcast_is_sent_once(editor: User) -> None:
    later, earlier = draft(title="later", payload="2"), draft(title="earlier", payload="1")
    make_due(later, editor, seconds=5)
    make_due(earlier, editor, seconds=50)
    assert [sent.title for sent in schedule.send_due()] == ["earlier", "later"]
    assert list(schedule.send_due()) == []
    assert [row[3] for row in stored()] == ["1", "2"]
    later.refresh_from_db()
    assert (later.state, later.sent_by) == (State.SENT, editor)
    assert {entry.user for entry in LogEntry.objects.all()} == {editor}


@database
def test_invalid_due_broadcast_becomes_draft(editor: User) -> None:
    bad, good = draft(payload="x" * 100), draft(payload="ok")
    make_due(bad, editor, seconds=9)
    make_due(good, editor)
    with override_settings(STREAMS={"MAX_MESSAGE_BYTES": 50}):
        assert [sent.pk for sent in schedule.send_due()] == [good.pk]
        assert list(schedule.send_due()) == []
    bad.refresh_from_db()
    assert bad.state == State.DRAFT
    assert "MAX_MESSAGE_BYTES" in bad.problem


@database
def test_command_sends_due_broadcasts(editor: User, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("send_due_broadcasts")
    made = draft(channels=["news", "weather"])
    make_due(made, editor)
    call_command("send_due_broadcasts")
    nothing, sent = capsys.readouterr().out.splitlines()
    assert nothing == "No broadcast is due."
    assert sent == f"Sent broadcast {made.pk}, 'Night works', to news (event 1), weather (event 2)."


def send_due_after_signal() -> None:
    sys.stdin.readline()
    print(len(list(schedule.send_due())))


@pytest.mark.once
def test_many_processes_send_due_once(site: Site) -> None:
    for _ in range(5):
        finish(site.call(prepare))
    processes = [site.call(send_due_after_signal) for _ in range(6)]
    for process in processes:
        process.write_line()
    assert sum(int(finish(process)) for process in processes) == 5
    assert site.execute("SELECT count(*) FROM streams_message") == [(5,)]
    assert site.execute("SELECT count(*) FROM streams_broadcast WHERE state = 'sent'") == [(5,)]


def schedule_soon(seconds: str) -> None:
    made = draft(channels=["news"])
    lifecycle.schedule(made.pk, timezone.now() + datetime.timedelta(seconds=float(seconds)), by=None)


@pytest.mark.once
async def test_streaming_processes_send_scheduled_once(site: Site) -> None:
    servers = [site.settings(POLL_SECONDS=0.3).serve() for _ in range(2)]
    clients = [await StreamClient(server.port, "/events/news/").connect() for server in servers]
    for client in clients:
        await client.read_control(1)
    await asyncio.to_thread(finish, site.call(schedule_soon, 1))
    for client in clients:
        await client.read_until(1)
    [(late,)] = site.execute(
        "SELECT extract(epoch FROM sent_at - send_at) FROM streams_broadcast"
        if site.is_postgres
        else "SELECT (julianday(sent_at) - julianday(send_at)) * 86400 FROM streams_broadcast"
    )
    assert 0 <= float(late) < 10  # POLL_SECONDS, plus a reserve for a busy machine
    for client in clients:
        await client.read_for(1)  # there is no second message
        assert [event.data for event in client.events] == ["No trains after 22:00."]
    assert site.execute("SELECT count(*) FROM streams_message") == [(1,)]


@pytest.mark.once
def test_due_query_uses_the_index(postgres_site: Site) -> None:
    """Each process runs these queries every POLL_SECONDS."""
    postgres_site.execute(
        "INSERT INTO streams_broadcast (title, channels, event, payload_type, payload, state, revision, problem, "
        "created_at, sent_at, positions, audience) SELECT 'old', '[]', 'message', 'text', '', 'sent', 1, '', now(), "
        "now() - interval '1 day', '[]', '{}' FROM generate_series(1, 20000)"
    )
    postgres_site.execute("ANALYZE streams_broadcast")
    plans = finish(postgres_site.call(print_plans))
    assert plans.count("using streams_broadcast_due") == 1, plans
    assert plans.count("using streams_broadcast_sent") == 1, plans


def print_plans() -> None:
    for query in (schedule.due, schedule.sent_since):
        print(query(timezone.now()).explain())


@database
@pytest.mark.skipif(connection.vendor != "sqlite", reason="checks the query plans of SQLite")
def test_due_query_uses_the_index_on_sqlite() -> None:
    """SQLite does not know the number of rows until ANALYZE has run."""
    assert "streams_broadcast_due" in schedule.due(timezone.now()).explain()
    assert "streams_broadcast_sent" in schedule.sent_since(timezone.now()).explain()


@contextlib.contextmanager
def failing_receiver() -> Iterator[None]:
    """Connect a signal receiver that fails for the broadcast with the title "bad"."""

    def fails(instance: Broadcast, **kwargs: Any) -> None:
        if instance.title == "bad":
            raise ValueError("a receiver of the site's")

    post_save.connect(fails, sender=Broadcast)
    yield
    post_save.disconnect(fails, sender=Broadcast)


@database
def test_failed_broadcast_is_retried(editor: User) -> None:
    bad, good = draft(title="bad"), draft()
    make_due(bad, editor, seconds=9)
    make_due(good, editor)

    with failing_receiver():
        due = schedule.send_due()
        assert next(due).pk == good.pk
        with pytest.raises(ValueError, match="a receiver"):
            next(due)
    bad.refresh_from_db()
    assert (bad.state, len(stored())) == (State.SCHEDULED, 1)
    assert [sent.pk for sent in schedule.send_due()] == [bad.pk]


@database
def test_task_continues_after_a_failure(editor: User, caplog: pytest.LogCaptureFixture) -> None:
    """The task lets no exception reach the hub. The hub would retry ever later, and delay other due broadcasts."""
    bad = draft(title="bad")
    make_due(bad, editor)

    with failing_receiver():
        for turn in range(1, 4):
            good = draft()
            make_due(good, editor)
            schedule._send_all_due()
            assert len(stored()) == turn
    assert caplog.text.count("is due but could not be sent. Trying again later.") == 1
    schedule._send_all_due()
    assert len(stored()) == 4
