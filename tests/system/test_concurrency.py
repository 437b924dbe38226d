"""The log under real concurrency: publishers in threads and processes, open transactions, and processes that die."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import select
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator

import psycopg
import pytest
from django.db import OperationalError, connections, transaction
from django.db.backends.signals import connection_created

from streams import apublish, log, publish, publish_many
from streams.models import Message
from streams.protocol.events import NewMessage, check
from streams.runtime import executor
from tests.support.clients import StreamClient
from tests.support.forks import ForkedProcess
from tests.support.reads import tail
from tests.support.services import wait_until
from tests.support.sites import Site, finish

pytestmark = pytest.mark.once

PROCESSES, THREADS, SHARE = 4, 4, 125


class RolledBack(Exception):
    """Raised to leave a transaction by a rollback."""


def say(word: str) -> None:
    print(word, flush=True)


def wait_for_word(word: str) -> None:
    """Wait until the test tells this process to go on."""
    line = sys.stdin.readline().strip()
    assert line == word, f"expected {word!r}, got {line!r}"


def hear_soon(process: ForkedProcess, word: str) -> None:
    """hear(), where what holds the process up would otherwise do so until the test lets go."""
    ready, _, _ = select.select([process.stdout], [], [], 60)
    assert ready, f"did not say {word!r}"
    process.hear(word)


def in_threads(*functions: object) -> None:
    """Run the functions at the same time, each in a thread; the first error of any is raised."""
    errors: list[BaseException] = []

    def run(function: object) -> None:
        try:
            function()  # type: ignore[operator]
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    running = [threading.Thread(target=run, args=[function]) for function in functions]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if errors:
        raise errors[0]


def sequenced(site: Site) -> list[tuple[int, str]]:
    """(position, data) of all messages, in order, as they stand in the table."""
    return site.execute("SELECT position, data FROM streams_message WHERE position IS NOT NULL ORDER BY position")


def assert_no_holes(site: Site) -> list[str]:
    """The positions are 1…n, the head is n, and nothing waits. Returns the data in order."""
    rows = sequenced(site)
    assert [position for position, _ in rows] == list(range(1, len(rows) + 1))
    assert site.execute("SELECT head FROM streams_loghead") == [(len(rows),)]
    assert site.execute("SELECT count(*) FROM streams_message WHERE position IS NULL") == [(0,)]
    return [data for _, data in rows]


# --- Sixteen publishers and a reader ----------------------------------------------------------------------------------


def transactions(messages: list[str], chance: random.Random) -> Iterator[list[str]]:
    while messages:
        size = chance.randint(1, 8)
        yield messages[:size]
        messages = messages[size:]


def publish_share(number: int) -> dict[str, int]:
    """One publisher's share. About half goes out in transactions, half of which are rolled back. {data: position}."""
    chance = random.Random(number)
    texts = [f"{number}.{index}" for index in range(SHARE)]
    rolled_back = 31 + (number % 4 == 0)
    inside = 62 + number % 2
    work: list[tuple[str, list[str]]] = [("alone", [text]) for text in texts[inside:]]
    work += [("rolled back", group) for group in transactions(texts[:rolled_back], chance)]
    work += [("committed", group) for group in transactions(texts[rolled_back:inside], chance)]
    chance.shuffle(work)
    published: list[Message] = []
    for how, group in work:
        if how == "alone":
            [text] = group
            if chance.random() < 0.2:
                published.append(asyncio.run(apublish(f"channel.{number}", text)))
            else:
                published.append(publish(f"channel.{number}", text))
            assert published[-1].position is not None
            continue
        try:
            with transaction.atomic():
                mine = []
                for text in group:
                    mine.append(publish(f"channel.{chance.randrange(16)}", text))
                    time.sleep(chance.random() * 0.01)
                assert all(message.position is None for message in mine)
                if how == "rolled back":
                    raise RolledBack
            published += mine
        except RolledBack:
            pass
    for message in published:  # after a transaction, another process can be giving the positions
        while message.position is None:
            message.refresh_from_db(fields=["position"])
            time.sleep(0.001)
    positions = [message.position for message in published]
    assert positions == sorted(positions, key=int)  # what one publisher publishes is in the order in which it did
    return {message.data: message.position for message in published if message.position is not None}


def publishers(process: str) -> None:
    """The publishers of one process; prints what they have published."""
    published: dict[str, int] = {}
    first = int(process) * THREADS
    in_threads(*(lambda n=n: published.update(publish_share(n)) for n in range(first, first + THREADS)))
    print(json.dumps(published))


def reader() -> None:
    """Poll the log until told to stop. Prints what the cursor brought, and the last look at the whole table."""
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
    say("ready")
    cursor, followed, whole, polls = 0, [], [], 0
    while True:
        last = stop.is_set()
        polls += 1
        head, messages = tail(cursor)
        for message in messages:
            cursor = message.position
            followed.append((message.position, message.data))
        assert cursor <= head
        if last or polls % 10 == 0:
            look = list(Message.objects.filter(position__isnull=False).order_by("position").values_list("pk", "data"))
            assert look[: len(whole)] == whole, "the log changed somewhere else than at its end"
            whole = look
        if last and cursor == head:
            break
        time.sleep(0.005)
    print(json.dumps({"followed": followed, "whole": [data for _, data in whole], "polls": polls}))


@pytest.mark.slow
def test_sixteen_publishers_leave_no_hole_and_readers_only_ever_see_the_log_grow(site: Site) -> None:
    following = site.call(reader)
    following.hear("ready")
    publishing = [site.call(publishers, number) for number in range(PROCESSES)]
    published: dict[str, int] = {}
    for process in publishing:
        published |= json.loads(finish(process))
    following.tell("stop")
    seen = json.loads(finish(following))

    assert len(published) == 1500  # of 2,000; 500 were rolled back
    data = assert_no_holes(site)
    assert Counter(data) == Counter(published.keys())
    assert dict(sequenced(site)) == {position: text for text, position in published.items()}
    assert seen["followed"] == [list(row) for row in sequenced(site)]
    assert seen["whole"] == data
    assert seen["polls"] > 20


# --- Open transactions ------------------------------------------------------------------------------------------------


def hold_open(*channels: str) -> None:
    """Publish to the channels in one transaction, pausing after each until the test lets it go on."""
    with transaction.atomic():
        for channel in channels:
            message = publish(channel, f"held {channel}")
            say("published")
            wait_for_word("go on")
    assert message.position is not None
    print(message.position)


def publish_in_every_way(prefix: str) -> None:
    """Publish fifteen messages: alone, in a transaction, several at once, from threads and from an event loop."""
    assert publish("news", f"{prefix} alone").position is not None
    with transaction.atomic():
        inside = publish("news", f"{prefix} inside")
    assert inside.position is not None
    publish_many([NewMessage("news", f"{prefix} many") for _ in range(3)])
    in_threads(*[lambda: publish("news", f"{prefix} thread")] * 5)

    async def together() -> None:
        await asyncio.gather(*(apublish("news", f"{prefix} task") for _ in range(5)))

    asyncio.run(together())


def test_open_transaction_that_has_published_delays_no_other_publisher(postgres_site: Site) -> None:
    holding = postgres_site.call(hold_open, "news")
    holding.hear("published")
    # Not a matter of time: the transaction stays open until all others have finished.
    assert finish(postgres_site.call(publish_in_every_way, "other")) == ""
    assert len(sequenced(postgres_site)) == 15
    holding.tell("go on")
    assert finish(holding).strip() == "16"
    assert assert_no_holes(postgres_site)[-1] == "held news"


def test_publishers_wait_out_an_open_transaction_on_sqlite_and_lose_nothing(sqlite_site: Site) -> None:
    # A transaction that has written holds SQLite's one write lock. What can hold there: the others wait and succeed.
    holding = sqlite_site.call(hold_open, "news")
    holding.hear("published")
    waiting = sqlite_site.call(publish_in_every_way, "other")
    time.sleep(2)
    assert sequenced(sqlite_site) == []
    holding.tell("go on")
    assert finish(holding).strip() == "1"
    assert finish(waiting) == ""
    data = assert_no_holes(sqlite_site)
    assert data[0] == "held news"
    assert len(data) == 16


def test_transactions_that_publish_to_the_same_channels_crosswise_do_not_deadlock(postgres_site: Site) -> None:
    one = postgres_site.call(hold_open, "a", "b")
    two = postgres_site.call(hold_open, "b", "a")
    for process in (one, two):
        process.hear("published")  # both have published their first, and both are open
    for process in (one, two):
        process.tell("go on")
    for process in (one, two):
        process.hear("published")
    two.tell("go on")
    assert finish(two).strip() == "2"  # the first to commit has the first positions, though it began last
    one.tell("go on")
    assert finish(one).strip() == "4"
    assert assert_no_holes(postgres_site) == ["held b", "held a", "held a", "held b"]


def cross(first: str, second: str) -> None:
    """Thirty transactions that publish to two channels."""
    for number in range(30):
        with transaction.atomic():
            publish(first, f"{first}{number}")
            time.sleep(0.002)
            publish(second, f"{second}{number}")


def test_crosswise_transactions_in_a_row_all_succeed(site: Site) -> None:
    for process in [site.call(cross, "a", "b"), site.call(cross, "b", "a")]:
        finish(process)
    assert len(assert_no_holes(site)) == 120


def test_message_of_the_transaction_that_commits_first_comes_first(postgres_site: Site) -> None:
    holding = postgres_site.call(hold_open, "news")
    holding.hear("published")
    [(held,)] = postgres_site.execute("SELECT last_value FROM streams_message_id_seq")
    postgres_site.manage("publish", "news", "later begun, earlier committed")
    holding.tell("go on")
    finish(holding)
    assert assert_no_holes(postgres_site) == ["later begun, earlier committed", "held news"]
    # A bare autoincrement id would have had them the other way round.
    ids = [pk for (pk,) in postgres_site.execute("SELECT id FROM streams_message ORDER BY position")]
    assert ids == [held + 1, held]


# --- Between the commit and the sequencing ----------------------------------------------------------------------------


def die_after_commit() -> None:
    with transaction.atomic():
        transaction.on_commit(lambda: os.kill(os.getpid(), signal.SIGKILL))  # before publish's own hook
        publish("news", "last words")


def assert_killed(process: ForkedProcess) -> None:
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


async def test_message_of_a_process_that_dies_right_after_its_commit_is_delivered(site: Site) -> None:
    server = site.serve()
    client = await StreamClient(server.port, "/events/news/").connect()
    await client.read_control(1)
    await asyncio.to_thread(assert_killed, site.call(die_after_commit))
    [event] = await client.read_until(1)
    assert (event.data, event.id) == ("last words", "1")
    assert assert_no_holes(site) == ["last words"]
    await client.close()


def test_message_of_a_process_that_died_gets_its_position_before_the_next_message(site: Site) -> None:
    assert_killed(site.call(die_after_commit))
    assert site.execute("SELECT position FROM streams_message") == [(None,)]
    assert site.manage("publish", "news", "next").stdout.strip() == "2"
    assert assert_no_holes(site) == ["last words", "next"]


def fail_to_sequence() -> None:
    """Lose the database in between; the caller's work is committed and must not fail."""
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


def test_failure_to_sequence_after_the_commit_is_logged_and_does_not_fail_the_caller(site: Site) -> None:
    process = site.call(fail_to_sequence)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "went on\n"), errors
    assert "sequence_after_commit" in errors
    assert site.execute("SELECT position, data FROM streams_message") == [(None, "committed")]
    assert site.manage("publish", "news", "next").stdout.strip() == "2"
    assert assert_no_holes(site) == ["committed", "next"]


def hook_before_fails() -> None:
    def fail() -> None:
        raise RuntimeError("a hook of somebody else's")

    try:
        with transaction.atomic():
            transaction.on_commit(fail)  # not robust: Django drops the hooks that come after it
            publish("news", "committed")
    except RuntimeError:
        print("failed")


def test_message_is_sequenced_by_the_next_reader_where_another_hook_took_ours_away(site: Site) -> None:
    assert finish(site.call(hook_before_fails)) == "failed\n"
    assert site.execute("SELECT position FROM streams_message") == [(None,)]
    assert finish(site.script("from tests.support.reads import tail\nprint(tail(0))")).startswith(
        "(1, [StoredEvent(position=1"
    )
    assert assert_no_holes(site) == ["committed"]


# --- Idempotency keys that race ---------------------------------------------------------------------------------------


def publish_keys(process: str) -> None:
    """Publish the same twenty keys from four threads, in another order each. Prints what came back."""
    returned: list[tuple[str, int, int | None]] = []

    def run(thread: int) -> None:
        chance = random.Random(int(process) * 100 + thread)
        for number in chance.sample(range(20), 20):
            key = f"key-{number}"
            text = f"{key} by {process}.{thread}"
            if chance.random() < 0.3:
                with transaction.atomic():
                    message = publish("news", text, idempotency_key=key)
                    time.sleep(chance.random() * 0.01)
            elif chance.random() < 0.3:
                message = asyncio.run(apublish("news", text, idempotency_key=key))
            else:
                message = publish("news", text, idempotency_key=key)
            if message.position is None:
                wait_until(lambda pk=message.pk: Message.objects.get(pk=pk).position, "the position")  # type: ignore[misc]
                message.refresh_from_db(fields=["position"])
            returned.append((key, message.pk, message.position))

    in_threads(*(lambda n=n: run(n) for n in range(4)))
    print(json.dumps(returned))


def test_same_key_from_many_threads_and_processes_appends_once(site: Site) -> None:
    returned: list[list[object]] = []
    for process in [site.call(publish_keys, number) for number in range(3)]:
        returned += json.loads(finish(process))
    assert len(returned) == 3 * 4 * 20
    assert len(assert_no_holes(site)) == 20
    rows = {key: (pk, position) for key, pk, position in site.execute(
        "SELECT idempotency_key, id, position FROM streams_message"
    )}  # fmt: skip
    assert len(rows) == 20
    for key, pk, position in returned:
        assert (pk, position) == rows[str(key)]


def publish_many_keys(order: str) -> None:
    """Publish batches of the same twenty keys, forwards or backwards. Prints how many messages came back."""
    say("ready")
    wait_for_word("go on")
    returned = 0
    for number in range(50):
        batch = [NewMessage("news", "x", idempotency_key=f"{number}.{key}") for key in range(20)]
        returned += len(publish_many(batch if order == "forwards" else batch[::-1]))
    print(returned)


def test_batches_with_the_same_keys_in_another_order_do_not_deadlock(site: Site) -> None:
    processes = [site.call(publish_many_keys, order) for order in ("forwards", "backwards", "forwards", "backwards")]
    for process in processes:
        process.hear("ready")
    for process in processes:
        process.tell("go on")
    assert [int(finish(process)) for process in processes] == [1000] * 4
    assert len(assert_no_holes(site)) == 1000


def hold_key(how: str) -> None:
    """Publish a key in a transaction that stays open until the test lets it go on; then commit or roll back."""
    try:
        with transaction.atomic():
            publish("news", "first", idempotency_key="key")
            say("published")
            wait_for_word("go on")
            if how == "roll back":
                raise RolledBack
    except RolledBack:
        pass


def publish_key(how: str) -> None:
    say("starting")
    if how == "inside":
        with transaction.atomic():
            publish("news", "before")
            message = publish("news", "second", idempotency_key="key")
    else:
        message = publish("news", "second", idempotency_key="key")
    print(json.dumps([message.data, message.position]))


@pytest.mark.parametrize("how", ["alone", "inside"])
@pytest.mark.parametrize(("outcome", "returned"), [("commit", "first"), ("roll back", "second")])
def test_key_that_another_transaction_holds_is_waited_for(site: Site, how: str, outcome: str, returned: str) -> None:
    holding = site.call(hold_key, outcome)
    holding.hear("published")
    waiting = site.call(publish_key, how)
    waiting.hear("starting")
    time.sleep(0.5)  # long enough to be waiting, mostly; the outcome is the same if it is not
    holding.tell("go on")
    finish(holding)
    [data, position] = json.loads(finish(waiting))
    before = ["before"] if how == "inside" else []
    expected = ["first", *before] if outcome == "commit" else [*before, "second"]
    assert data == returned
    assert assert_no_holes(site) == expected
    # Right after a transaction, the other process can still be giving the positions.
    assert position in {expected.index(returned) + 1, *([None] if how == "inside" else [])}


def wait_for_key_then_publish_others() -> None:
    """A thread waits for a key that another process holds; prints when other threads have published nevertheless."""
    waiting = threading.Thread(
        target=lambda: (publish("news", "second", idempotency_key="key"), connections.close_all())
    )
    waiting.start()
    time.sleep(1)  # until it waits
    publish_in_every_way("other")
    say("others are done")
    waiting.join()


def test_waiting_for_a_key_holds_up_nobody_else(postgres_site: Site) -> None:
    holding = postgres_site.call(hold_key, "commit")
    holding.hear("published")
    others = postgres_site.call(wait_for_key_then_publish_others)
    wait_until(lambda: len(sequenced(postgres_site)) == 15, "publishing by those who wait for nothing")
    others.hear("others are done")
    holding.tell("go on")
    finish(holding)
    finish(others)
    assert len(assert_no_holes(postgres_site)) == 16


def publish_and_read(keys: str) -> None:
    """Ten apublish calls that cannot go on; prints what a read of the log gives meanwhile, then their results."""

    async def main() -> None:
        waiting = [
            asyncio.create_task(apublish("news", "waiting", idempotency_key="key" if keys == "keyed" else None))
            for _ in range(10)
        ]
        await asyncio.sleep(1)  # until they wait
        assert not any(task.done() for task in waiting)
        say(str((await executor.run(log.head)).head))
        if keys == "keyed":
            say(str((await apublish("news", "without a key")).position))
        say(json.dumps([message.position for message in await asyncio.gather(*waiting)]))

    asyncio.run(main())


def test_event_loop_that_waits_for_a_key_reads_and_publishes_meanwhile(postgres_site: Site) -> None:
    holding = postgres_site.call(hold_key, "commit")
    holding.hear("published")
    waiting = postgres_site.call(publish_and_read, "keyed")
    hear_soon(waiting, "0")
    hear_soon(waiting, "1")
    holding.tell("go on")
    finish(holding)
    assert json.loads(finish(waiting)) == [2] * 10


def test_event_loop_that_waits_for_sqlites_write_lock_reads_meanwhile(sqlite_site: Site) -> None:
    holding = sqlite_site.call(hold_open, "news")
    holding.hear("published")
    waiting = sqlite_site.call(publish_and_read, "without keys")
    hear_soon(waiting, "0")
    holding.tell("go on")
    finish(holding)
    assert sorted(json.loads(finish(waiting))) == list(range(2, 12))


def sequence_under_lock() -> None:
    """Commit a message with a key, unsequenced; take the head's lock; when told, sequence it and let go."""
    log.current_head()  # makes the head's row, where there is none
    log.append([NewMessage("news", "first", idempotency_key="key")])
    with transaction.atomic():
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT head FROM streams_loghead WHERE id = 1 FOR UPDATE")
        say("locked")
        wait_for_word("go on")
        assert len(log.sequence()) == 1


def test_key_whose_message_another_process_is_just_sequencing_comes_back_with_its_position(postgres_site: Site) -> None:
    sequencing = postgres_site.call(sequence_under_lock)
    sequencing.hear("locked")
    waiting = postgres_site.call(publish_key, "alone")
    waiting.hear("starting")
    time.sleep(0.2)  # it tries the head's lock, and does not wait in it, so that nothing shows when it has begun
    sequencing.tell("go on")
    finish(sequencing)
    assert json.loads(finish(waiting)) == ["first", 1]


# --- Sharing transactions ---------------------------------------------------------------------------------------------


def publish_hundred_together() -> None:
    """A hundred concurrent apublish calls; prints how many COMMITs SQLite has seen (0 on PostgreSQL)."""
    statements: list[str] = []

    def trace(*, connection: object, **kwargs: object) -> None:
        if connection.vendor == "sqlite":  # type: ignore[attr-defined]
            connection.connection.set_trace_callback(statements.append)  # type: ignore[attr-defined]

    connection_created.connect(trace)

    async def together() -> list[Message]:
        return list(await asyncio.gather(*(apublish("news", str(number)) for number in range(100))))

    published = asyncio.run(together())
    assert sorted(message.position or 0 for message in published) == list(range(1, 101))
    print(sum(statement == "COMMIT" for statement in statements))


def test_hundred_concurrent_apublish_calls_share_a_few_transactions(site: Site) -> None:
    commits = int(finish(site.call(publish_hundred_together)))
    if site.is_postgres:
        # A row's xmin is the transaction that wrote it.
        [(commits,)] = site.execute("SELECT count(DISTINCT xmin::text) FROM streams_message")
    assert assert_no_holes(site) == [str(number) for number in range(100)]  # as they were enqueued
    assert 1 <= commits <= 10


def publish_from_threads_together() -> None:
    in_threads(*[lambda: [publish("news", "x") for _ in range(10)]] * 16)


def test_threads_that_publish_at_once_lose_nothing(site: Site) -> None:
    finish(site.call(publish_from_threads_together))
    assert len(assert_no_holes(site)) == 160


def cancel_before_it_begins() -> None:
    """Cancel an apublish whose turn has not come, and publish again later. Prints what was stored when."""

    async def main() -> None:
        release = threading.Event()
        occupied = [asyncio.create_task(executor.run(release.wait)) for _ in range(4)]  # all of DATABASE_THREADS
        await asyncio.sleep(0.1)
        cancelled = asyncio.create_task(apublish("news", "cancelled"))
        await asyncio.sleep(0.1)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        release.set()
        await asyncio.gather(*occupied)
        await asyncio.sleep(0.5)
        _, before = await executor.run(tail, 0)
        await apublish("news", "much later")
        _, after = await executor.run(tail, 0)
        print(json.dumps([[message.data for message in before], [message.data for message in after]]))

    asyncio.run(main())


def test_cancelled_apublish_publishes_at_once_or_never(site: Site) -> None:
    before, after = json.loads(finish(site.call(cancel_before_it_begins)))
    assert before in ([], ["cancelled"])
    assert after == [*before, "much later"]  # and not in somebody else's transaction, at any later time


def publish_twenty_without_an_answer() -> None:
    """Prints how many of twenty concurrent apublish calls failed."""

    async def together() -> list[object]:
        calls = (apublish("news", str(number)) for number in range(20))
        return list(await asyncio.gather(*calls, return_exceptions=True))

    asyncio.run(apublish("news", "before"))  # connected
    say("ready")
    wait_for_word("go on")
    results = asyncio.run(together())
    assert all(isinstance(result, Message | OperationalError) for result in results), results
    print(sum(isinstance(result, OperationalError) for result in results))


def test_messages_whose_commit_got_no_answer_are_not_published_again(postgres_site: Site) -> None:
    server = postgres_site.postgres
    assert server is not None
    publishing = postgres_site.call(publish_twenty_without_an_answer)
    publishing.hear("ready")
    # A commit that waits for a standby is durable already. Ended there, the client cannot know.
    server.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    server.execute("SELECT pg_reload_conf()")
    try:
        wait_until(lambda: server.execute("SHOW synchronous_standby_names") == [("nobody",)], "reloading")
        publishing.tell("go on")
        stuck = "FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND datname = current_database()"
        wait_until(lambda: postgres_site.execute(f"SELECT 1 {stuck}"), "a commit that waits")
    finally:
        server.execute("ALTER SYSTEM RESET synchronous_standby_names")
    ended = postgres_site.execute(f"SELECT pg_terminate_backend(pid) {stuck}")
    server.execute("SELECT pg_reload_conf()")
    assert ended
    assert int(finish(publishing)) >= 1
    data = assert_no_holes(postgres_site)
    assert len(set(data)) == len(data)


def interrupt_a_publisher() -> None:
    """Interrupt a publish that waits for another thread's, as a task's time limit does; then publish again."""

    class TimeLimit(Exception):
        pass

    def stop(*args: object) -> None:
        raise TimeLimit

    signal.signal(signal.SIGUSR1, stop)
    log.current_head()
    others = [threading.Thread(target=lambda: (publish("news", "other"), connections.close_all())) for _ in range(2)]
    others[0].start()
    time.sleep(1)  # until it waits for the database
    threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
    try:
        publish("news", "interrupted")
    except TimeLimit:
        say("interrupted")
    others[1].start()
    wait_for_word("go on")
    signal.alarm(30)  # ends a process that hangs
    for thread in others:
        thread.join()
    publish("news", "last")


def lock_the_log() -> None:
    """Hold what every publisher needs until the test lets go."""
    log.current_head()
    with transaction.atomic(), connections["default"].cursor() as cursor:
        cursor.execute("UPDATE streams_loghead SET head = head")
        say("locked")
        wait_for_word("go on")


def test_publisher_that_is_interrupted_while_it_waits_holds_up_nobody(site: Site) -> None:
    locking = site.call(lock_the_log)
    locking.hear("locked")
    interrupted = site.call(interrupt_a_publisher)
    hear_soon(interrupted, "interrupted")
    locking.tell("go on")
    finish(locking)
    interrupted.tell("go on")
    finish(interrupted)
    data = assert_no_holes(site)
    assert data == ["other", "other", "last"]  # what raised in its publisher's hands was not published by another


# --- Other ways to be called ------------------------------------------------------------------------------------------


def publish_in_four_threads() -> None:
    in_threads(*[lambda: [publish("news", "after") for _ in range(5)]] * 4)


def test_head_that_was_truncated_is_made_again_by_whoever_comes_first(site: Site) -> None:
    site.manage("publish", "news", "before")
    site.manage("publish", "news", "before")
    site.execute("DELETE FROM streams_loghead")
    for process in [site.call(publish_in_four_threads) for _ in range(2)]:
        finish(process)
    rows = sequenced(site)
    assert [data for _, data in rows] == ["before"] * 2 + ["after"] * 40
    # A head that is missing shows that the tables were emptied: a new epoch starts, once.
    [(start,)] = site.execute("SELECT start FROM streams_epoch")
    assert [position for position, _ in rows] == [1, 2, *range(start + 1, start + 41)]


def publish_under_repeatable_read() -> None:
    """Publish from threads where the site's own transactions keep one snapshot."""
    connections["default"].settings_dict["OPTIONS"]["isolation_level"] = 3  # psycopg.IsolationLevel.REPEATABLE_READ

    def run() -> None:
        for number in range(20):
            publish("news", "alone")
            with transaction.atomic():
                publish("news", "inside")
                publish("news", "keyed", idempotency_key=f"{os.getpid()} {threading.get_ident()} {number}")

    in_threads(*[run] * 4)


def test_isolation_level_of_the_site_does_not_matter(postgres_site: Site) -> None:
    for process in [postgres_site.call(publish_under_repeatable_read) for _ in range(2)]:
        finish(process)
    assert len(assert_no_holes(postgres_site)) == 2 * 4 * 20 * 3


def publish_in_deferred_transactions(process: str) -> None:
    """As with Django's default for SQLite, where a transaction takes the write lock with its first write."""
    connections["default"].settings_dict["OPTIONS"].pop("transaction_mode")

    def run() -> None:
        for number in range(40):
            publish("news", "x")
            publish("news", "keyed", idempotency_key=f"{process} {threading.get_ident()} {number}")
            with transaction.atomic():
                publish("news", "inside")

    in_threads(run, run)


def prune_in_deferred_transactions() -> None:
    connections["default"].settings_dict["OPTIONS"].pop("transaction_mode")
    for number in range(1, 100):
        log.delete_through(number * 2, limit=2)


def test_default_transaction_mode_of_sqlite_does_not_matter(sqlite_site: Site) -> None:
    running = [sqlite_site.call(publish_in_deferred_transactions, number) for number in range(2)]
    running.append(sqlite_site.call(prune_in_deferred_transactions))
    for process in running:
        finish(process)
    positions = [position for position, _ in sequenced(sqlite_site)]
    assert positions == list(range(positions[0], 2 * 2 * 40 * 3 + 1))


def forget_users_in_deferred_transactions() -> None:
    """As after a user is deleted whose row is in another database: then no transaction of the log's is open."""
    connections["default"].settings_dict["OPTIONS"].pop("transaction_mode")
    for number in range(100):
        Message.objects.create(channel=f"user.{number}", published_by_id=number, data="x", size=1)
        log.current_head()
        log.forget_publisher(number)
        log.forget_addressee(number)
    assert not Message.objects.filter(channel__startswith="user.").exists()


def test_users_are_forgotten_in_default_transaction_mode_of_sqlite(sqlite_site: Site) -> None:
    running = [sqlite_site.call(publish_in_deferred_transactions, number) for number in range(2)]
    running.append(sqlite_site.call(forget_users_in_deferred_transactions))
    for process in running:
        finish(process)


def publish_in_child() -> None:
    """Publish, fork as a pre-forking server does, and publish in the child."""
    publish("news", "parent")
    asyncio.run(apublish("news", "parent"))  # last, so that its thread still lingers when the process forks
    connections.close_all()
    if (child := os.fork()) == 0:
        signal.alarm(30)  # ends a child that hangs
        asyncio.run(apublish("news", "child"))
        publish("news", "child")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status


def test_forked_child_publishes(site: Site) -> None:
    finish(site.call(publish_in_child))
    assert assert_no_holes(site) == ["parent", "parent", "child", "child"]


def log_by_publishing() -> None:
    """A site that shows its own log live, with a notifier that fails: publishing logs, and logging publishes."""

    class Publisher(logging.Handler):
        publishing = False

        def emit(self, record: logging.LogRecord) -> None:
            if not self.publishing:
                self.publishing = True
                publish("log", record.getMessage())
                self.publishing = False

    logging.getLogger("streams").addHandler(Publisher())
    signal.alarm(30)  # ends a process that hangs
    publish("news", "one")
    with transaction.atomic():
        publish("news", "two")


def test_log_handler_may_publish_what_publishing_logs(site: Site) -> None:
    site.settings(NOTIFIER={"BACKEND": "tests.publishing.test_publish.BrokenNotifier"})
    finish(site.call(log_by_publishing))
    failed = "The notifier failed; subscribers will find the messages by polling the log."
    assert assert_no_holes(site) == ["one", failed, "two"], "once for all of an outage"


def test_publish_works_in_a_plain_script_and_in_its_threads(site: Site) -> None:
    code = """
import threading
from django.db import connections
from streams import publish
print(publish("news", {"from": "script"}).position)
thread = threading.Thread(target=lambda: (publish("news", {"from": "thread"}), connections.close_all()))
thread.start()
thread.join()
"""
    assert finish(site.script(code)) == "1\n"
    assert assert_no_holes(site) == ['{"from":"script"}', '{"from":"thread"}']


def append_two_unsequenced() -> None:
    with log.own_transaction():
        log.append([check(NewMessage("news", text)) for text in ("deleted", "kept")])


def publish_and_tell(text: str) -> None:
    print(publish("news", text).position)


def test_row_that_is_being_deleted_stops_no_publisher(postgres_site: Site) -> None:
    """Such as a row of a user whose deletion is under way: it is passed over, and numbered later if it stays."""
    assert finish(postgres_site.call(append_two_unsequenced)) == ""
    with psycopg.connect(postgres_site.database_url) as other:
        other.execute("DELETE FROM streams_message WHERE data = 'deleted'")
        assert finish(postgres_site.call(publish_and_tell, "first")) == "2\n"
        other.rollback()
    assert finish(postgres_site.call(publish_and_tell, "second")) == "4\n"
    assert assert_no_holes(postgres_site) == ["kept", "first", "deleted", "second"]
