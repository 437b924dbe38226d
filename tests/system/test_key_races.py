"""Several threads and processes publish with the same idempotency keys at the same time."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time

import psycopg
import pytest
from django.db import connections, transaction

from streams import apublish, log, publish, publish_many
from streams.models import Message
from streams.protocol.events import NewMessage
from streams.runtime import executor
from tests.support.services import wait_until
from tests.support.sites import Site, finish
from tests.system.support import (
    RolledBack,
    assert_no_holes,
    expect_line_soon,
    hold_open,
    in_threads,
    publish_in_every_way,
    send_line,
    sequenced,
    wait_for_line,
)

pytestmark = pytest.mark.once


# --- The same keys everywhere -----------------------------------------------------------------------------------------


def publish_keys(process: str) -> None:
    """Publish the same twenty keys from four threads, each in another order. Prints the messages returned."""
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


def test_same_key_appends_once(site: Site) -> None:
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
    """Publish batches of the same twenty keys, forwards or backwards. Prints how many messages were returned."""
    send_line("ready")
    wait_for_line("go on")
    returned = 0
    for number in range(50):
        batch = [NewMessage("news", "x", idempotency_key=f"{number}.{key}") for key in range(20)]
        returned += len(publish_many(batch if order == "forwards" else batch[::-1]))
    print(returned)


def test_batches_in_reverse_order_do_not_deadlock(site: Site) -> None:
    processes = [site.call(publish_many_keys, order) for order in ("forwards", "backwards", "forwards", "backwards")]
    for process in processes:
        process.expect_line("ready")
    for process in processes:
        process.write_line("go on")
    assert [int(finish(process)) for process in processes] == [1000] * 4
    assert len(assert_no_holes(site)) == 1000


# --- A key that another transaction holds -----------------------------------------------------------------------------


def hold_key(how: str) -> None:
    """Publish a key in a transaction that stays open until the test sends a line; then commit or roll back."""
    try:
        with transaction.atomic():
            publish("news", "first", idempotency_key="key")
            send_line("published")
            wait_for_line("go on")
            if how == "roll back":
                raise RolledBack
    except RolledBack:
        pass


def publish_key(how: str) -> None:
    send_line("starting")
    if how == "inside":
        with transaction.atomic():
            publish("news", "before")
            message = publish("news", "second", idempotency_key="key")
    else:
        message = publish("news", "second", idempotency_key="key")
    print(json.dumps([message.data, message.position]))


@pytest.mark.parametrize("how", ["alone", "inside"])
@pytest.mark.parametrize(("outcome", "returned"), [("commit", "first"), ("roll back", "second")])
def test_publisher_waits_for_a_held_key(site: Site, how: str, outcome: str, returned: str) -> None:
    holding = site.call(hold_key, outcome)
    holding.expect_line("published")
    waiting = site.call(publish_key, how)
    waiting.expect_line("starting")
    time.sleep(0.5)  # usually, it is waiting by then; the outcome is the same if it is not
    holding.write_line("go on")
    finish(holding)
    [data, position] = json.loads(finish(waiting))
    before = ["before"] if how == "inside" else []
    expected = ["first", *before] if outcome == "commit" else [*before, "second"]
    assert data == returned
    assert assert_no_holes(site) == expected
    # Right after a transaction, the other process can still be numbering.
    assert position in {expected.index(returned) + 1, *([None] if how == "inside" else [])}


def wait_for_key_then_publish_others() -> None:
    """Wait in one thread for a key that another process holds, and publish from others. Prints a line after that."""
    waiting = threading.Thread(
        target=lambda: (publish("news", "second", idempotency_key="key"), connections.close_all())
    )
    waiting.start()
    time.sleep(1)  # until the thread waits
    publish_in_every_way("other")
    send_line("others are done")
    waiting.join()


def test_waiting_for_a_key_delays_no_thread(postgres_site: Site) -> None:
    holding = postgres_site.call(hold_key, "commit")
    holding.expect_line("published")
    others = postgres_site.call(wait_for_key_then_publish_others)
    wait_until(lambda: len(sequenced(postgres_site)) == 15, "the messages of the other threads")
    others.expect_line("others are done")
    holding.write_line("go on")
    finish(holding)
    finish(others)
    assert len(assert_no_holes(postgres_site)) == 16


def publish_and_read(keys: str) -> None:
    """Start ten apublish calls that must wait. Prints the head that is read during that time, then their results."""

    async def main() -> None:
        waiting = [
            asyncio.create_task(apublish("news", "waiting", idempotency_key="key" if keys == "keyed" else None))
            for _ in range(10)
        ]
        await asyncio.sleep(1)  # until the calls wait
        assert not any(task.done() for task in waiting)
        send_line(str((await executor.run(log.head)).head))
        if keys == "keyed":
            send_line(str((await apublish("news", "without a key")).position))
        send_line(json.dumps([message.position for message in await asyncio.gather(*waiting)]))

    asyncio.run(main())


def test_event_loop_works_while_key_is_held(postgres_site: Site) -> None:
    holding = postgres_site.call(hold_key, "commit")
    holding.expect_line("published")
    waiting = postgres_site.call(publish_and_read, "keyed")
    expect_line_soon(waiting, "0")
    expect_line_soon(waiting, "1")
    holding.write_line("go on")
    finish(holding)
    assert json.loads(finish(waiting)) == [2] * 10


def test_event_loop_works_while_sqlite_is_locked(sqlite_site: Site) -> None:
    holding = sqlite_site.call(hold_open, "news")
    holding.expect_line("published")
    waiting = sqlite_site.call(publish_and_read, "without keys")
    expect_line_soon(waiting, "0")
    holding.write_line("go on")
    finish(holding)
    assert sorted(json.loads(finish(waiting))) == list(range(2, 12))


def sequence_under_lock() -> None:
    """Commit a message with a key, without a position. Number it under the lock when the test sends a line."""
    log.current_head()  # creates the row of the head if it does not exist
    log.append([NewMessage("news", "first", idempotency_key="key")])
    with transaction.atomic():
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT head FROM streams_loghead WHERE id = 1 FOR UPDATE")
        send_line("locked")
        wait_for_line("go on")
        assert len(log.sequence()) == 1


def test_key_of_message_being_numbered_returns_position(postgres_site: Site) -> None:
    sequencing = postgres_site.call(sequence_under_lock)
    sequencing.expect_line("locked")
    waiting = postgres_site.call(publish_key, "alone")
    waiting.expect_line("starting")
    time.sleep(0.2)  # it tries the lock repeatedly, so that the database does not show that it waits
    sequencing.write_line("go on")
    finish(sequencing)
    assert json.loads(finish(waiting)) == ["first", 1]


HELD = 6


def publish_keys_beside_held_ones() -> None:
    """Publish with keys that an open transaction holds, with other keys, and without keys, at the same time."""

    async def main() -> None:
        held = [asyncio.create_task(apublish("news", "x", idempotency_key=f"held {n}")) for n in range(HELD)]
        await asyncio.sleep(0.2)
        others = [apublish("news", "x", idempotency_key=f"free {n}") for n in range(20)]
        async with asyncio.timeout(30):
            await asyncio.gather(*others, *(apublish("news", "x") for _ in range(20)))
        send_line(f"{sum(task.done() for task in held)} held done")
        await asyncio.gather(*held)
        send_line("all done")

    asyncio.run(main())


def test_held_keys_delay_no_publisher(postgres_site: Site) -> None:
    with psycopg.connect(postgres_site.database_url) as holding:
        for n in range(HELD):
            holding.execute(
                "INSERT INTO streams_message (channel, event, data, size, idempotency_key) "
                "VALUES ('news', 'message', 'first', 5, %s)",
                [f"held {n}"],
            )
        publisher = postgres_site.call(publish_keys_beside_held_ones)
        expect_line_soon(publisher, "0 held done")
        holding.rollback()
    expect_line_soon(publisher, "all done")
    finish(publisher)
    assert len(assert_no_holes(postgres_site)) == HELD + 40
