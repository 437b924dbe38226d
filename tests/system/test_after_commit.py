"""A process that dies or fails between the commit and the numbering loses no message."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3

import pytest
from django.db import connections, transaction

from streams import log, publish
from tests.support.clients import StreamClient
from tests.support.forks import ForkedProcess
from tests.support.sites import Site, finish
from tests.system.support import assert_no_holes

pytestmark = pytest.mark.once


def die_after_commit() -> None:
    with transaction.atomic():
        transaction.on_commit(lambda: os.kill(os.getpid(), signal.SIGKILL))  # runs before the hook of publish
        publish("news", "last words")


def assert_killed(process: ForkedProcess) -> None:
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


async def test_message_of_dead_process_is_delivered(site: Site) -> None:
    server = site.serve()
    client = await StreamClient(server.port, "/events/news/").connect()
    await client.read_control(1)
    await asyncio.to_thread(assert_killed, site.call(die_after_commit))
    [event] = await client.read_until(1)
    assert (event.data, event.id) == ("last words", "1")
    assert assert_no_holes(site) == ["last words"]
    await client.close()


def test_message_of_dead_process_comes_first(site: Site) -> None:
    assert_killed(site.call(die_after_commit))
    assert site.execute("SELECT position FROM streams_message") == [(None,)]
    assert site.manage("publish", "news", "next").stdout.strip() == "2"
    assert assert_no_holes(site) == ["last words", "next"]


def fail_to_sequence() -> None:
    """Lose the database after the commit. The caller's work is committed, so that publish must not fail."""
    locker = None

    def lose_database() -> None:
        nonlocal locker
        connection = connections["default"]
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SELECT pid FROM pg_stat_activity WHERE pid = pg_backend_pid()")
                [(pid,)] = cursor.fetchall()
            with connection.copy().cursor() as other:
                other.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
        else:
            connection.connection.execute("PRAGMA busy_timeout = 50")
            locker = sqlite3.connect(connection.settings_dict["NAME"])
            locker.execute("BEGIN IMMEDIATE")

    with transaction.atomic():
        transaction.on_commit(lose_database)
        message = publish("news", "committed")
    assert message.position is None
    if locker is not None:
        locker.close()
    print("went on")


def test_failure_after_commit_is_only_logged(site: Site) -> None:
    process = site.call(fail_to_sequence)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "went on\n"), errors
    assert "sequence_after_commit" in errors
    assert site.execute("SELECT position, data FROM streams_message") == [(None, "committed")]
    assert site.manage("publish", "news", "next").stdout.strip() == "2"
    assert assert_no_holes(site) == ["committed", "next"]


def fail_in_a_hook() -> None:
    """Commit a message in a transaction with a hook that fails before the hook of publish."""

    def fail() -> None:
        raise RuntimeError("a hook of the site")

    try:
        with transaction.atomic():
            transaction.on_commit(fail)  # without robust=True, Django does not run the later hooks
            publish("news", "committed")
    except RuntimeError:
        print("failed")


def test_reader_numbers_after_a_failed_hook(site: Site) -> None:
    assert finish(site.call(fail_in_a_hook)) == "failed\n"
    assert site.execute("SELECT position FROM streams_message") == [(None,)]
    assert finish(site.script("from tests.support.reads import tail\nprint(tail(0))")).startswith(
        "(1, [StoredEvent(position=1"
    )
    assert assert_no_holes(site) == ["committed"]


def fail_to_number() -> None:
    """Publish ten messages in a transaction whose numbering fails. Prints how often it was tried."""
    tried: list[int] = []

    def fail(*args: object, **kwargs: object) -> None:
        tried.append(1)
        raise ConnectionError

    log.sequence_after_commit = fail  # type: ignore[assignment]
    with transaction.atomic():
        for n in range(10):
            publish("news", str(n))
    print(len(tried))


def test_failing_numbering_is_tried_once(site: Site) -> None:
    assert finish(site.call(fail_to_number)) == "1\n"
    assert site.manage("publish", "news", "next").stdout == "11\n"
    assert len(assert_no_holes(site)) == 11
