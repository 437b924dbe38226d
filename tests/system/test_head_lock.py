"""Publishing with many processes: the head's lock is tried and not waited for, and its holder numbers for all.

Each test is about what other processes do in the meantime, so that it starts some. Most of it is PostgreSQL's alone:
SQLite has one write lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator

import psycopg
import pytest
from django.db import OperationalError, connection, connections, transaction

from streams import apublish, log, publish, publish_many
from streams.log import known, low_water, sequencing, transactions
from streams.models import Message
from streams.notifiers import get_notifier
from streams.protocol.events import NewMessage
from tests.support.clients import StreamClient
from tests.support.services import wait_until
from tests.support.services.postgres import PostgresServer
from tests.support.sites import Site, finish
from tests.system.test_concurrency import assert_no_holes, hear_soon, say, wait_for_word

pytestmark = pytest.mark.once

LOCK = "SELECT head FROM streams_loghead WHERE id = 1 FOR UPDATE"


def unnumbered(site: Site) -> int:
    [(count,)] = site.execute("SELECT count(*) FROM streams_message WHERE position IS NULL")
    return int(count)


@pytest.fixture
def lock(postgres_site: Site) -> Iterator[psycopg.Connection]:
    """A session that holds the head's lock until it rolls back, and numbers nothing."""
    postgres_site.manage("publish", "news", "first")
    with psycopg.connect(postgres_site.database_url) as session:
        session.execute(LOCK)
        yield session


# --- What waits for the lock, and what does not -----------------------------------------------------------------------


def publish_in_transaction(text: str) -> None:
    with transaction.atomic():
        message = publish("news", text)
    print(json.dumps(message.position))


def publish_alone(text: str) -> None:
    say("starting")
    print(publish("news", text).position)


def test_transaction_does_not_wait_for_the_lock(postgres_site: Site, lock: psycopg.Connection) -> None:
    """Its messages are committed, and the holder of the lock or the next publisher numbers them."""
    assert finish(postgres_site.call(publish_in_transaction, "second")) == "null\n"
    assert unnumbered(postgres_site) == 1
    lock.rollback()
    assert finish(postgres_site.call(publish_in_transaction, "third")) == "3\n"
    assert assert_no_holes(postgres_site) == ["first", "second", "third"]


def test_publish_commits_at_once_and_then_waits_for_its_position(postgres_site: Site, lock: psycopg.Connection) -> None:
    """Commits that wait for one lock cannot share a flush to the disk."""
    waiting = [postgres_site.call(publish_alone, number) for number in range(3)]
    for process in waiting:
        process.hear("starting")
    wait_until(lambda: unnumbered(postgres_site) == 3, "three commits under a lock that is taken")
    lock.rollback()
    assert sorted(int(finish(process)) for process in waiting) == [2, 3, 4]
    assert len(assert_no_holes(postgres_site)) == 4


def hold_the_lock(end: str) -> None:
    with contextlib.suppress(ValueError):
        with log.sequencing_transaction():
            rows = log.append([NewMessage("news", "holder")])
            numbered = log.sequence()
            say("locked")
            wait_for_word("go on")
            if end == "fails":
                raise ValueError
        log.finish(numbered, rows)


@pytest.mark.parametrize(("end", "stored"), [("commits", ["holder"]), ("fails", [])])
def test_holder_looks_once_more_after_the_end(postgres_site: Site, end: str, stored: list[str]) -> None:
    """No other process would number what was left to it: there is no hub here."""
    holder = postgres_site.call(hold_the_lock, end)
    holder.hear("locked")
    assert finish(postgres_site.call(publish_in_transaction, "left to the holder")) == "null\n"
    holder.tell("go on")
    finish(holder)
    assert assert_no_holes(postgres_site) == [*stored, "left to the holder"]


async def test_new_stream_does_not_wait_for_the_lock(postgres_site: Site, lock: psycopg.Connection) -> None:
    """Even if messages wait for positions, which a reader would give them."""
    finish(postgres_site.call(publish_in_transaction, "waits"))
    server = postgres_site.serve()
    client = await StreamClient(server.port, "/events/news/").connect()
    [checkpoint] = await client.read_control(1)
    assert checkpoint.id == "1"
    lock.rollback()
    assert [event.data for event in await client.read_until(1)] == ["waits"]
    await client.close()


def test_nothing_to_number_is_not_committed(postgres_site: Site) -> None:
    """A commit would flush the record of the lock to the disk."""
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


# --- Bounds -----------------------------------------------------------------------------------------------------------


def publish_in_one_transaction(count: str) -> None:
    """Print the sizes of the notices, and whether all messages have positions."""
    sizes: list[int] = []
    notifier = get_notifier()
    notifier.notify = lambda notice: sizes.append(notice.last - notice.first + 1)  # type: ignore[method-assign]
    with transaction.atomic():
        messages = publish_many([NewMessage("news", n) for n in range(int(count))])
    print(json.dumps([sizes, [message.position for message in messages] == list(range(1, int(count) + 1))]))


def test_large_transaction_is_numbered_in_steps(site: Site) -> None:
    """The lock is held for a step at a time, so that other publishers come in between."""
    count = 2 * sequencing.STEP_MESSAGES + 500
    sizes, all_numbered = json.loads(finish(site.call(publish_in_one_transaction, count)))
    assert sizes == [sequencing.STEP_MESSAGES, sequencing.STEP_MESSAGES, 500]
    assert all_numbered
    assert len(assert_no_holes(site)) == count


def publish_many_in_a_transaction_that_another_numbers(count: str) -> None:
    """Print how many queries follow the commit."""
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as queries, transaction.atomic():
        for n in range(int(count)):
            publish("news", str(n))
        say("published")
        wait_for_word("go on")
    statements = [query["sql"] for query in queries]
    print(len(statements) - statements.index("COMMIT") - 1)


def test_few_queries_follow_a_commit_however_many_messages(postgres_site: Site, lock: psycopg.Connection) -> None:
    publisher = postgres_site.call(publish_many_in_a_transaction_that_another_numbers, 300)
    hear_soon(publisher, "published")
    publisher.tell("go on")
    assert int(finish(publisher)) <= 6


def fail_to_number() -> None:
    """Publish ten messages in a transaction whose numbering fails; print how often it was tried."""
    tried: list[int] = []

    def fail(*args: object, **kwargs: object) -> None:
        tried.append(1)
        raise ConnectionError

    log.sequence_after_commit = fail  # type: ignore[assignment]
    with transaction.atomic():
        for n in range(10):
            publish("news", str(n))
    print(len(tried))


def test_numbering_that_fails_is_tried_once(site: Site) -> None:
    assert finish(site.call(fail_to_number)) == "1\n"
    assert site.manage("publish", "news", "next").stdout == "11\n"
    assert len(assert_no_holes(site)) == 11


async def publish_large(count: int) -> None:
    await asyncio.gather(*(apublish("news", "x" * 1_000_000) for _ in range(count)))


def publish_large_together(count: str) -> None:
    asyncio.run(publish_large(int(count)))


def test_shared_transactions_are_bounded_in_bytes(postgres_site: Site) -> None:
    postgres_site.settings(MAX_MESSAGE_BYTES=1_000_000)
    finish(postgres_site.call(publish_large_together, 16))
    # A row's xmin is the transaction that wrote it last: the one that has numbered it.
    groups = postgres_site.execute("SELECT sum(size) FROM streams_message GROUP BY xmin::text")
    assert max(int(size) for (size,) in groups) <= 4_194_304


# --- Processes that stop, and settings of the database ----------------------------------------------------------------


def stop_with_the_lock() -> None:
    transactions.IDLE_SECONDS = 1
    with log.own_transaction():
        log.append([NewMessage("news", "never committed")])
        log.sequence()
        say("locked")
        time.sleep(600)


def test_process_that_stops_with_the_lock_loses_it(postgres_site: Site) -> None:
    """As if its machine had vanished. PostgreSQL's default is to wait for ever."""
    holder = postgres_site.call(stop_with_the_lock)
    holder.hear("locked")
    holder.send_signal(signal.SIGSTOP)
    publisher = postgres_site.call(publish_alone, "goes on")
    assert finish(publisher, seconds=30) == "starting\n1\n"
    assert assert_no_holes(postgres_site) == ["goes on"]


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_isolation_level_of_the_database_fails_no_publisher(postgres_site: Site, level: str) -> None:
    """It can be set where Django does not see it: for a database, a role or a session."""
    name = postgres_site.database_url.rpartition("/")[2]
    postgres_site.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'")
    processes = [postgres_site.call(publish_forty, number) for number in range(4)]
    assert [finish(process) for process in processes] == ["40\n"] * 4
    assert len(assert_no_holes(postgres_site)) == 160


def publish_forty(name: str) -> None:
    print(sum(publish("news", f"{name} {n}").position is not None for n in range(40)))


# --- Idempotency keys -------------------------------------------------------------------------------------------------

HELD = 6


def publish_keys_beside_held_ones() -> None:
    """Publish under keys that an open transaction holds, and beside them under other keys and without any."""

    async def main() -> None:
        held = [asyncio.create_task(apublish("news", "x", idempotency_key=f"held {n}")) for n in range(HELD)]
        await asyncio.sleep(0.2)
        others = [apublish("news", "x", idempotency_key=f"free {n}") for n in range(20)]
        async with asyncio.timeout(30):
            await asyncio.gather(*others, *(apublish("news", "x") for _ in range(20)))
        say(f"{sum(task.done() for task in held)} held done")
        await asyncio.gather(*held)
        say("all done")

    asyncio.run(main())


def test_keys_that_are_in_use_hold_up_no_other_publisher(postgres_site: Site) -> None:
    with psycopg.connect(postgres_site.database_url) as holding:
        for n in range(HELD):
            holding.execute(
                "INSERT INTO streams_message (channel, event, data, size, idempotency_key) "
                "VALUES ('news', 'message', 'first', 5, %s)",
                [f"held {n}"],
            )
        publisher = postgres_site.call(publish_keys_beside_held_ones)
        hear_soon(publisher, "0 held done")
        holding.rollback()
    hear_soon(publisher, "all done")
    finish(publisher)
    assert len(assert_no_holes(postgres_site)) == HELD + 40


def publish_hundred_keys_together() -> None:
    async def main() -> None:
        await asyncio.gather(*(apublish("news", str(n), idempotency_key=str(n)) for n in range(100)))

    asyncio.run(main())


def test_publishes_with_keys_share_transactions(postgres_site: Site) -> None:
    finish(postgres_site.call(publish_hundred_keys_together))
    [(count,)] = postgres_site.execute("SELECT count(DISTINCT xmin::text) FROM streams_message")
    assert count <= 20
    assert len(assert_no_holes(postgres_site)) == 100


# --- The low-water mark -----------------------------------------------------------------------------------------------


def commit_late() -> None:
    """Commit a message whose id other processes' searches have passed, as if after more than a minute."""
    low_water.DELAY_SECONDS = 0.0
    with transaction.atomic():
        message = publish("news", "late")
        say("published")
        wait_for_word("go on")
    print(message.position)


def test_message_below_the_mark_is_numbered_by_its_own_process(postgres_site: Site) -> None:
    late = postgres_site.call(commit_late)
    late.hear("published")
    postgres_site.manage("publish", "news", "first")
    late.tell("go on")
    assert finish(late) == "2\n"
    assert assert_no_holes(postgres_site) == ["first", "late"]


def search_with_and_without_the_mark() -> None:
    low_water._STEP_SECONDS = 0.0
    low_water.DELAY_SECONDS = 0.0
    for _ in range(3):  # from the third on, the database's identity is known, and the mark is used
        publish("news", "moves the mark")
    log.head()  # the first poll searches without the mark
    mark = low_water.LOW_WATER.mark()
    assert mark == Message.objects.order_by("-pk").values_list("pk", flat=True)[0]
    Message.objects.filter(pk=mark).update(position=None)
    assert not log.head().unsequenced, "it is not looked for below the mark"
    publish("news", "numbered without it")
    low_water.FULL_SEARCH_SECONDS = 0.0
    assert log.current_head() == 5, "a poll without the mark finds it, and has it numbered"
    assert Message.objects.get(pk=mark).position == 5


def test_mark_hides_no_message_for_long(postgres_site: Site) -> None:
    finish(postgres_site.call(search_with_and_without_the_mark))


def test_mark_is_of_one_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A restored copy of the log gives ids again."""
    monkeypatch.setattr(low_water, "DELAY_SECONDS", 0.0)
    water = low_water.LowWater()
    assert water.mark() == 0
    water.record(100, 1)
    assert water.mark() == 100
    water.record(7, 2)
    assert water.mark() == 7


# --- The procedure of the database ------------------------------------------------------------------------------------


def publish_and_count_queries() -> None:
    """Print how many queries a publish takes, outside a transaction and inside one."""
    from django.test.utils import CaptureQueriesContext

    for _ in range(2):
        publish("news", "x")  # the first stores what the database says of itself, and the second compares it
    with CaptureQueriesContext(connection) as queries:
        publish_many([NewMessage("news", "x"), NewMessage("news", "y")])
        alone = len(queries)
        with transaction.atomic():
            publish("news", "z")
    print(alone, len(queries) - alone)


def test_publish_is_one_round_trip(postgres_site: Site) -> None:
    """Inside a transaction: BEGIN, INSERT, COMMIT, and one that numbers."""
    assert finish(postgres_site.call(publish_and_count_queries)) == "1 4\n"


def publish_with_all_columns() -> None:
    from django.contrib.auth import get_user_model

    user = get_user_model().objects.create(username="ada")
    publish("news", "x")
    awkward = "1;' \\ %s {} \"\n"
    rows = publish_many([NewMessage("news", awkward, "e", None, user), NewMessage("other", {"n": 1})])
    assert known.for_one_trip() is not None
    for row in rows:
        stored = Message.objects.get(pk=row.pk)
        for field in Message._meta.concrete_fields:
            assert getattr(row, field.attname) == getattr(stored, field.attname), field
    assert [rows[0].data, rows[0].event, rows[0].published_by_id, rows[1].event] == [awkward, "e", user.pk, "message"]
    assert [row.position for row in rows] == [2, 3]


def test_procedure_stores_every_column(postgres_site: Site) -> None:
    finish(postgres_site.call(publish_with_all_columns))


def publish_by_prepared_statements() -> None:
    connections.settings["default"]["OPTIONS"] |= {"server_side_binding": True, "prepare_threshold": 2}
    print([publish("news", "x").position for _ in range(8)], known.for_one_trip() is not None)


def test_procedure_takes_parameters_that_the_server_binds(postgres_site: Site) -> None:
    """As Django's option has it: psycopg's extended query protocol."""
    assert finish(postgres_site.call(publish_by_prepared_statements)) == "[1, 2, 3, 4, 5, 6, 7, 8] True\n"


def finish_inside_a_transaction() -> None:
    for _ in range(2):
        publish("news", "x")
    assert known.for_one_trip() is not None
    with transaction.atomic():
        log.finish({}, [])
        publish("news", "inside")
    transaction.set_autocommit(False)
    log.finish({}, [])
    transaction.commit()
    transaction.set_autocommit(True)


def test_procedure_is_not_called_inside_a_transaction(postgres_site: Site) -> None:
    """It would fail, and the caller's transaction with it: an answer can be ended beneath somebody's atomic()."""
    finish(postgres_site.call(finish_inside_a_transaction))
    assert assert_no_holes(postgres_site) == ["x", "x", "inside"]


def publish_ten(role: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET ROLE {role}")
    for number in range(10):
        publish("news", number)
    print(known.for_one_trip())


@pytest.mark.parametrize(
    "how", ["DROP PROCEDURE streams_publish", "REVOKE EXECUTE ON PROCEDURE streams_publish FROM PUBLIC"]
)
def test_database_without_the_procedure_works(postgres_site: Site, how: str) -> None:
    """It is missing in a test run without migrations, and a role can be forbidden to call it."""
    postgres_site.execute(how)
    role = f"publisher_{time.monotonic_ns()}"
    postgres_site.execute(f"CREATE ROLE {role}")
    try:
        postgres_site.execute(f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {role}")
        postgres_site.execute(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}")
        publishers = [postgres_site.call(publish_ten, role) for _ in range(2)]
        assert [finish(publisher) for publisher in publishers] == ["None\n"] * 2
        assert len(assert_no_holes(postgres_site)) == 20
    finally:
        postgres_site.execute(f"DROP OWNED BY {role}")
        postgres_site.execute(f"DROP ROLE {role}")


# --- Outcomes that must not be mistaken -------------------------------------------------------------------------------


def publish_many_while_others_do() -> None:
    """Publish 600 messages, the last of which cannot be stored, while the lock is taken."""
    from django.contrib.auth import get_user_model
    from django.db import DataError

    for _ in range(3):
        publish("news", "x")
    say("published")
    wait_for_word("go on")
    too_large = NewMessage("news", "x", published_by=get_user_model()(pk=2**70))
    with pytest.raises(DataError):
        publish_many([*[NewMessage("news", n) for n in range(599)], too_large])
    print(Message.objects.count())


def test_busy_publisher_stores_all_messages_or_none(postgres_site: Site) -> None:
    publisher = postgres_site.call(publish_many_while_others_do)
    publisher.hear("published")
    with psycopg.connect(postgres_site.database_url) as session:
        session.execute(LOCK)
        publisher.tell("go on")
        assert finish(publisher) == "3\n"


def publish_again_after_a_crash() -> None:
    for _ in range(4):
        publish("news", "before")
    say("published")
    wait_for_word("go on")
    for _ in range(20):
        with contextlib.suppress(OperationalError):
            print(publish("news", "after").position)
            return
        connection.close()
        time.sleep(0.5)


def test_same_process_starts_an_epoch_after_a_crash(postgres: PostgresServer, postgres_site: Site) -> None:
    """Without durable commits, a crash of one server process can take commits away, and the server's start stays."""
    name = postgres_site.database_url.rpartition("/")[2]
    postgres_site.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    publisher = postgres_site.call(publish_again_after_a_crash)
    publisher.hear("published")
    postgres_site.execute("CHECKPOINT")  # what was committed so far is kept
    [(pid,)] = postgres_site.execute(
        f"SELECT pid FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()"
    )
    os.kill(pid, signal.SIGKILL)
    publisher.tell("go on")
    position = int(finish(publisher))
    assert [(position - 1,)] == postgres_site.execute("SELECT start FROM streams_epoch")


def publish_beside_a_locked_row() -> None:
    began = time.monotonic()
    message = publish("news", "x")
    print(json.dumps([message.position, time.monotonic() - began < sequencing.POSITION_SECONDS / 2]))


def test_locked_row_makes_no_publisher_wait(postgres_site: Site) -> None:
    postgres_site.manage("publish", "news", "first")
    postgres_site.execute(
        "INSERT INTO streams_message (channel, event, data, size) VALUES ('news', 'message', 'waits', 5)"
    )
    with psycopg.connect(postgres_site.database_url) as other:
        other.execute("SELECT 1 FROM streams_message WHERE data = 'waits' FOR UPDATE")
        assert json.loads(finish(postgres_site.call(publish_beside_a_locked_row))) == [2, True]
