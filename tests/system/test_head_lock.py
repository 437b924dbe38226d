"""The lock of the head: publishers try to take it, and its holder numbers the messages of all publishers."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Iterator

import psycopg
import pytest
from django.db import connection, transaction

from streams import log, publish, publish_many
from streams.log import sequencing, transactions
from streams.models import Message
from streams.notifiers import get_notifier
from streams.protocol.events import NewMessage, check
from tests.support.clients import StreamClient
from tests.support.services import wait_until
from tests.support.sites import Site, finish
from tests.system.support import assert_no_holes, expect_line_soon, send_line, wait_for_line

pytestmark = pytest.mark.once

# Takes the lock of the head, as a publisher does.
LOCK = "SELECT head FROM streams_loghead WHERE id = 1 FOR UPDATE"


def unnumbered(site: Site) -> int:
    """Return how many messages have no position."""
    [(count,)] = site.execute("SELECT count(*) FROM streams_message WHERE position IS NULL")
    return int(count)


@pytest.fixture
def lock(postgres_site: Site) -> Iterator[psycopg.Connection]:
    """A session that holds the lock of the head until it rolls back. It numbers no messages."""
    postgres_site.manage("publish", "news", "first")
    with psycopg.connect(postgres_site.database_url) as session:
        session.execute(LOCK)
        yield session


# --- Publishers while the lock is taken -------------------------------------------------------------------------------


def publish_in_transaction(text: str) -> None:
    with transaction.atomic():
        message = publish("news", text)
    print(json.dumps(message.position))


def publish_alone(text: str) -> None:
    send_line("starting")
    print(publish("news", text).position)


def test_transaction_does_not_wait_for_the_lock(postgres_site: Site, lock: psycopg.Connection) -> None:
    """Its messages are committed, and the holder of the lock or the next publisher numbers them."""
    assert finish(postgres_site.call(publish_in_transaction, "second")) == "null\n"
    assert unnumbered(postgres_site) == 1
    lock.rollback()
    assert finish(postgres_site.call(publish_in_transaction, "third")) == "3\n"
    assert assert_no_holes(postgres_site) == ["first", "second", "third"]


def test_publish_commits_before_it_waits(postgres_site: Site, lock: psycopg.Connection) -> None:
    """Commits that wait for one lock cannot share a flush to the disk."""
    waiting = [postgres_site.call(publish_alone, number) for number in range(3)]
    for process in waiting:
        process.expect_line("starting")
    wait_until(lambda: unnumbered(postgres_site) == 3, "three commits under a lock that is taken")
    lock.rollback()
    assert sorted(int(finish(process)) for process in waiting) == [2, 3, 4]
    assert len(assert_no_holes(postgres_site)) == 4


def publish_many_in_a_transaction_that_another_numbers(count: str) -> None:
    """Publish in a transaction. Prints how many queries follow the commit."""
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as queries, transaction.atomic():
        for n in range(int(count)):
            publish("news", str(n))
        send_line("published")
        wait_for_line("go on")
    statements = [query["sql"] for query in queries]
    print(len(statements) - statements.index("COMMIT") - 1)


def test_few_queries_follow_a_commit(postgres_site: Site, lock: psycopg.Connection) -> None:
    publisher = postgres_site.call(publish_many_in_a_transaction_that_another_numbers, 300)
    expect_line_soon(publisher, "published")
    publisher.write_line("go on")
    assert int(finish(publisher)) <= 6


async def test_new_stream_does_not_wait_for_the_lock(postgres_site: Site, lock: psycopg.Connection) -> None:
    """This is so even if messages wait for positions, which a reader normally numbers."""
    finish(postgres_site.call(publish_in_transaction, "waits"))
    server = postgres_site.serve()
    client = await StreamClient(server.port, "/events/news/").connect()
    [checkpoint] = await client.read_control(1)
    assert checkpoint.id == "1"
    lock.rollback()
    assert [event.data for event in await client.read_until(1)] == ["waits"]
    await client.close()


def publish_many_while_others_do() -> None:
    """Publish 600 messages, the last of which cannot be stored. Prints how many messages are stored."""
    from django.contrib.auth import get_user_model
    from django.db import DataError

    for _ in range(3):
        publish("news", "x")
    send_line("published")
    wait_for_line("go on")
    too_large = NewMessage("news", "x", published_by=get_user_model()(pk=2**70))
    with pytest.raises(DataError):
        publish_many([*[NewMessage("news", n) for n in range(599)], too_large])
    print(Message.objects.count())


def test_publisher_stores_all_or_none(postgres_site: Site) -> None:
    publisher = postgres_site.call(publish_many_while_others_do)
    publisher.expect_line("published")
    with psycopg.connect(postgres_site.database_url) as session:
        session.execute(LOCK)
        publisher.write_line("go on")
        assert finish(publisher) == "3\n"


# --- The holder of the lock -------------------------------------------------------------------------------------------


def hold_the_lock(end: str) -> None:
    """Append and number a message, and hold the lock until the test sends a line."""
    with contextlib.suppress(ValueError):
        with log.sequencing_transaction():
            rows = log.append([NewMessage("news", "holder")])
            numbered = log.sequence()
            send_line("locked")
            wait_for_line("go on")
            if end == "fails":
                raise ValueError
        log.finish(numbered, rows)


@pytest.mark.parametrize(("end", "stored"), [("commits", ["holder"]), ("fails", [])])
def test_holder_checks_again_after_its_end(postgres_site: Site, end: str, stored: list[str]) -> None:
    """Other publishers left their messages to the holder, and no other process would number them."""
    holder = postgres_site.call(hold_the_lock, end)
    holder.expect_line("locked")
    assert finish(postgres_site.call(publish_in_transaction, "left to the holder")) == "null\n"
    holder.write_line("go on")
    finish(holder)
    assert assert_no_holes(postgres_site) == [*stored, "left to the holder"]


def test_nothing_to_number_is_not_committed(postgres_site: Site) -> None:
    """A commit would write the lock to the disk."""
    postgres_site.manage("publish", "news", "x")
    code = (
        "from django.db import connection\n"
        "from django.test.utils import CaptureQueriesContext\n"
        "from streams.log import current_head, sequencing\n"
        "current_head()\n"
        "with CaptureQueriesContext(connection) as queries: sequencing.sequence_waiting()\n"
        "print([q['sql'] for q in queries if q['sql'] in ('COMMIT', 'ROLLBACK')])"
    )
    assert finish(postgres_site.script(code)) == "['ROLLBACK']\n"


def publish_in_one_transaction(count: str) -> None:
    """Publish in one transaction. Prints the sizes of the notices, and whether all messages have positions."""
    sequencing.LOOK_SECONDS = 60.0  # on a busy machine, the publisher would leave the last steps to others
    sizes: list[int] = []
    notifier = get_notifier()
    notifier.notify = lambda notice: sizes.append(notice.last - notice.first + 1)  # type: ignore[method-assign]
    with transaction.atomic():
        messages = publish_many([NewMessage("news", n) for n in range(int(count))])
    print(json.dumps([sizes, [message.position for message in messages] == list(range(1, int(count) + 1))]))


def test_large_transaction_is_numbered_in_steps(site: Site) -> None:
    """The lock is released after each step, so that other publishers do not wait for all of them."""
    count = 2 * sequencing.STEP_MESSAGES + 500
    sizes, all_numbered = json.loads(finish(site.call(publish_in_one_transaction, count)))
    assert sizes == [sequencing.STEP_MESSAGES, sequencing.STEP_MESSAGES, 500]
    assert all_numbered
    assert len(assert_no_holes(site)) == count


def stop_with_the_lock() -> None:
    transactions.IDLE_SECONDS = 1
    with log.own_transaction():
        log.append([NewMessage("news", "never committed")])
        log.sequence()
        send_line("locked")
        time.sleep(600)


def test_stopped_process_loses_the_lock(postgres_site: Site) -> None:
    """This also happens if its machine fails. By default, PostgreSQL waits without a limit."""
    holder = postgres_site.call(stop_with_the_lock)
    holder.expect_line("locked")
    holder.send_signal(signal.SIGSTOP)
    publisher = postgres_site.call(publish_alone, "goes on")
    assert finish(publisher, seconds=30) == "starting\n1\n"
    assert assert_no_holes(postgres_site) == ["goes on"]


# --- Other locks ------------------------------------------------------------------------------------------------------


def append_two_unsequenced() -> None:
    with log.own_transaction():
        log.append([check(NewMessage("news", text)) for text in ("deleted", "kept")])


def publish_and_print(text: str) -> None:
    print(publish("news", text).position)


def test_row_being_deleted_stops_no_publisher(postgres_site: Site) -> None:
    """The row is skipped, and numbered later if the deletion is rolled back."""
    assert finish(postgres_site.call(append_two_unsequenced)) == ""
    with psycopg.connect(postgres_site.database_url) as other:
        other.execute("DELETE FROM streams_message WHERE data = 'deleted'")
        assert finish(postgres_site.call(publish_and_print, "first")) == "2\n"
        other.rollback()
    assert finish(postgres_site.call(publish_and_print, "second")) == "4\n"
    assert assert_no_holes(postgres_site) == ["kept", "first", "deleted", "second"]


def publish_beside_a_locked_row() -> None:
    began = time.monotonic()
    message = publish("news", "x")
    print(json.dumps([message.position, time.monotonic() - began < sequencing.POSITION_SECONDS / 2]))


def test_locked_row_delays_no_publisher(postgres_site: Site) -> None:
    postgres_site.manage("publish", "news", "first")
    postgres_site.execute(
        "INSERT INTO streams_message (channel, event, data, size) VALUES ('news', 'message', 'waits', 5)"
    )
    with psycopg.connect(postgres_site.database_url) as other:
        other.execute("SELECT 1 FROM streams_message WHERE data = 'waits' FOR UPDATE")
        assert json.loads(finish(postgres_site.call(publish_beside_a_locked_row))) == [2, True]
