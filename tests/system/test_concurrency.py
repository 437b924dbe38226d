"""Publishing from many threads and processes, reading at the same time, and open transactions."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from django.db import transaction

from streams import apublish, publish
from streams.models import Message
from tests.support.reads import tail
from tests.support.sites import Site, finish
from tests.system.support import (
    RolledBack,
    assert_no_holes,
    hold_open,
    in_threads,
    publish_in_every_way,
    send_line,
    sequenced,
)

pytestmark = pytest.mark.once


# --- Sixteen publishers and a reader ----------------------------------------------------------------------------------


PROCESSES, THREADS, SHARE = 4, 4, 125


def transactions(messages: list[str], chance: random.Random) -> Iterator[list[str]]:
    while messages:
        size = chance.randint(1, 8)
        yield messages[:size]
        messages = messages[size:]


def publish_share(number: int) -> dict[str, int]:
    """Publish the share of one publisher, and return {data: position}.

    About half of the messages are published in transactions, and half of these are rolled back.
    """
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
    for message in published:  # after a transaction, another process can be numbering them
        while message.position is None:
            message.refresh_from_db(fields=["position"])
            time.sleep(0.001)
    positions = [message.position for message in published]
    assert positions == sorted(positions, key=int)  # the messages of one publisher stay in order
    return {message.data: message.position for message in published if message.position is not None}


def publishers(process: str) -> None:
    """Run the publishers of one process. Prints {data: position} for all of their messages."""
    published: dict[str, int] = {}
    first = int(process) * THREADS
    in_threads(*(lambda n=n: published.update(publish_share(n)) for n in range(first, first + THREADS)))
    print(json.dumps(published))


def reader() -> None:
    """Poll the log until a line arrives. Prints the messages that the polls returned, and those in the whole table."""
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
    send_line("ready")
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
            rows = list(Message.objects.filter(position__isnull=False).order_by("position").values_list("pk", "data"))
            assert rows[: len(whole)] == whole, "the log did not only grow at its end"
            whole = rows
        if last and cursor == head:
            break
        time.sleep(0.005)
    print(json.dumps({"followed": followed, "whole": [data for _, data in whole], "polls": polls}))


@pytest.mark.slow
def test_sixteen_publishers_leave_no_hole(site: Site) -> None:
    """A reader sees the log change only at its end."""
    following = site.call(reader)
    following.expect_line("ready")
    publishing = [site.call(publishers, number) for number in range(PROCESSES)]
    published: dict[str, int] = {}
    for process in publishing:
        published |= json.loads(finish(process))
    following.write_line("stop")
    seen = json.loads(finish(following))

    assert len(published) == 1500  # of 2,000; 500 were rolled back
    data = assert_no_holes(site)
    assert Counter(data) == Counter(published.keys())
    assert dict(sequenced(site)) == {position: text for text, position in published.items()}
    assert seen["followed"] == [list(row) for row in sequenced(site)]
    assert seen["whole"] == data
    assert seen["polls"] > 20


def publish_from_threads_together() -> None:
    in_threads(*[lambda: [publish("news", "x") for _ in range(10)]] * 16)


def test_threads_lose_no_message(site: Site) -> None:
    finish(site.call(publish_from_threads_together))
    assert len(assert_no_holes(site)) == 160


# --- Open transactions ------------------------------------------------------------------------------------------------


def test_open_transaction_delays_no_publisher(postgres_site: Site) -> None:
    holding = postgres_site.call(hold_open, "news")
    holding.expect_line("published")
    # This does not depend on timing: the transaction stays open until all others have finished.
    assert finish(postgres_site.call(publish_in_every_way, "other")) == ""
    assert len(sequenced(postgres_site)) == 15
    holding.write_line("go on")
    assert finish(holding).strip() == "16"
    assert assert_no_holes(postgres_site)[-1] == "held news"


def test_publishers_wait_for_sqlites_transaction(sqlite_site: Site) -> None:
    """A transaction that has written holds SQLite's only write lock. The others wait and then succeed."""
    holding = sqlite_site.call(hold_open, "news")
    holding.expect_line("published")
    waiting = sqlite_site.call(publish_in_every_way, "other")
    time.sleep(2)
    assert sequenced(sqlite_site) == []
    holding.write_line("go on")
    assert finish(holding).strip() == "1"
    assert finish(waiting) == ""
    data = assert_no_holes(sqlite_site)
    assert data[0] == "held news"
    assert len(data) == 16


def test_crosswise_transactions_do_not_deadlock(postgres_site: Site) -> None:
    one = postgres_site.call(hold_open, "a", "b")
    two = postgres_site.call(hold_open, "b", "a")
    for process in (one, two):
        process.expect_line("published")  # both transactions have published once and are open
    for process in (one, two):
        process.write_line("go on")
    for process in (one, two):
        process.expect_line("published")
    two.write_line("go on")
    assert finish(two).strip() == "2"  # the first to commit gets the first positions, although it began last
    one.write_line("go on")
    assert finish(one).strip() == "4"
    assert assert_no_holes(postgres_site) == ["held b", "held a", "held a", "held b"]


def cross(first: str, second: str) -> None:
    """Run thirty transactions, each of which publishes to both channels."""
    for number in range(30):
        with transaction.atomic():
            publish(first, f"{first}{number}")
            time.sleep(0.002)
            publish(second, f"{second}{number}")


def test_many_crosswise_transactions_succeed(site: Site) -> None:
    for process in [site.call(cross, "a", "b"), site.call(cross, "b", "a")]:
        finish(process)
    assert len(assert_no_holes(site)) == 120


def test_positions_follow_commit_order(postgres_site: Site) -> None:
    holding = postgres_site.call(hold_open, "news")
    holding.expect_line("published")
    [(held,)] = postgres_site.execute("SELECT last_value FROM streams_message_id_seq")
    postgres_site.manage("publish", "news", "later begun, earlier committed")
    holding.write_line("go on")
    finish(holding)
    assert assert_no_holes(postgres_site) == ["later begun, earlier committed", "held news"]
    # The ids are in the other order.
    ids = [pk for (pk,) in postgres_site.execute("SELECT id FROM streams_message ORDER BY position")]
    assert ids == [held + 1, held]
