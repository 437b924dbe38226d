"""Retention: what may go by age, count and bytes, who prunes and when, and that nobody has to wait for it."""

from __future__ import annotations

import datetime
import itertools
import json
import sys
import threading
import time
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from streams import NewMessage, log, publish, publish_many
from streams.log import retention
from streams.log.pruning import MAX_PRUNED_CHANNELS
from streams.models import Channel, ChannelSettings, Lease, LogHead, LogSize, Message
from tests.support.reads import tail
from tests.support.services import wait_until
from tests.support.sites import Site, finish

CHANNELS = MAX_PRUNED_CHANNELS

database = pytest.mark.django_db(transaction=True)


@pytest.fixture
def keep(settings: Any) -> Any:
    """Sets the retention settings; what is not named is unlimited."""

    def set_limits(**limits: float) -> None:
        names = ("RETENTION_SECONDS", "RETENTION_MESSAGES_PER_CHANNEL", "RETENTION_BYTES")
        settings.STREAMS = {**settings.STREAMS, **dict.fromkeys(names), **limits}

    set_limits()
    return set_limits


def age(seconds: float, *positions: int) -> None:
    Message.objects.filter(position__in=positions).update(
        created_at=timezone.now() - datetime.timedelta(seconds=seconds)
    )


def left() -> list[int]:
    return list(Message.objects.order_by("position").values_list("position", flat=True))


def publish_some(count: int, channels: str = "a", data: str = "x") -> None:
    publish_many([NewMessage(channels[n % len(channels)], data) for n in range(count)])


# --- What may go ------------------------------------------------------------------------------------------------------


@database
def test_nothing_goes_where_nothing_is_limited(keep: Any) -> None:
    publish_some(5)
    age(10**9, 1, 2, 3, 4, 5)
    assert retention.prune() == 0
    assert left() == [1, 2, 3, 4, 5]


@database
def test_messages_older_than_the_limit_go(keep: Any) -> None:
    keep(RETENTION_SECONDS=3600)
    publish_some(5, "ab")
    age(4000, 1, 2)
    age(3000, 3)
    assert retention.prune() == 2
    assert left() == [3, 4, 5]
    assert log.pruned(["a", "b"], 0) == {"a": 1, "b": 2}
    assert retention.prune() == 0


@database
def test_all_messages_may_be_too_old(keep: Any) -> None:
    keep(RETENTION_SECONDS=3600)
    publish_some(3)
    age(4000, 1, 2, 3)
    assert retention.prune() == 3
    assert tail(0) == (3, [])
    assert publish("a", "x").position == 4


@database
def test_only_the_beginning_of_the_log_goes_by_age(keep: Any) -> None:
    # A long transaction's message is older than its place in the log says. Nothing before it is lost for it.
    keep(RETENTION_SECONDS=3600)
    publish_some(4)
    age(4000, 1, 3)
    assert retention.prune() == 1
    assert left() == [2, 3, 4]


YEARS = -10 * 366 * 86_400.0


@database
@pytest.mark.parametrize("future", [1, 2, 4])
def test_message_dated_ten_years_ahead_stops_no_pruning(keep: Any, future: int) -> None:
    """It goes with the expired messages behind it."""
    keep(RETENTION_SECONDS=3600)
    publish_some(6, "ab")
    age(4000, 1, 2, 3, 4, 5)
    age(YEARS, future)
    assert retention.prune() == 5
    assert left() == [6]
    assert log.pruned(["a", "b"], 0) == {"a": 5, "b": 4}


@database
def test_message_dated_ahead_stays_while_those_behind_it_are_fresh(keep: Any) -> None:
    keep(RETENTION_SECONDS=3600)
    publish_some(5)
    age(4000, 1)
    age(YEARS, 2, 3)
    assert retention.prune() == 1
    assert left() == [2, 3, 4, 5]
    age(4000, 4)
    assert retention.prune() == 3
    assert left() == [5]


@database
@pytest.mark.parametrize("own", [None, 3600])
def test_newest_message_grows_old_though_it_is_dated_ahead(keep: Any, own: int | None) -> None:
    """It has none behind it that would show its age, and is given the present time."""
    keep(RETENTION_SECONDS=3600 if own is None else None)
    if own is not None:
        settle("a", seconds=own)
    publish_some(3)
    age(4000, 1)
    age(YEARS, 2, 3)
    assert [cut.through for cut in retention.cuts()] == [1]
    assert retention.prune() == 1
    assert left() == [2, 3]
    dated = Message.objects.get(position=3).created_at
    assert abs(timezone.now() - dated) < datetime.timedelta(minutes=5)
    age(4000, 3)
    assert retention.prune() == 2


@database
def test_age_beyond_all_dates_keeps_everything(keep: Any) -> None:
    publish_some(1)
    for seconds in (10**12, 10**15):
        keep(RETENTION_SECONDS=seconds)
        assert retention.prune() == 0
    assert left() == [1]


@database
def test_messages_are_kept_for_a_week_by_default(settings: Any) -> None:
    assert "RETENTION_SECONDS" not in settings.STREAMS
    publish_some(2)
    age(8 * 86_400, 1)
    age(6 * 86_400, 2)
    assert retention.prune() == 1
    assert left() == [2]


@database
def test_each_channel_keeps_its_newest(keep: Any) -> None:
    keep(RETENTION_MESSAGES_PER_CHANNEL=3)
    publish_some(9, "aab")  # a: 1 2 4 5 7 8, b: 3 6 9
    publish("quiet", "x")
    assert retention.prune() == 3
    assert left() == [3, 5, 6, 7, 8, 9, 10]
    assert log.pruned(["a", "b", "quiet"], 0) == {"a": 4}
    assert retention.prune() == 0


@database
def test_log_keeps_within_its_bytes(keep: Any) -> None:
    keep(RETENTION_BYTES=10)
    publish_some(5, "ab", "üü")  # four bytes each
    assert retention.prune() == 3
    assert left() == [4, 5]
    assert retention.prune() == 0
    publish("a", "exactly 10")
    assert retention.prune() == 2
    assert left() == [6]


@database
def test_message_larger_than_all_the_bytes_goes(keep: Any) -> None:
    keep(RETENTION_BYTES=10)
    publish("a", "x" * 11)
    assert retention.prune() == 1
    assert left() == []


def counted() -> int:
    """The log's own sum, after a pruning has counted what is new."""
    while log.count_size(step=7):
        pass
    return LogSize.objects.get().bytes


@database
def test_bytes_are_counted_exactly_through_all_changes(keep: Any) -> None:
    def check() -> None:
        actual = sum(Message.objects.exclude(position=None).values_list("size", flat=True))
        assert log.size() == log.size(scan=True) == actual

    for round in range(1, 6):
        publish_some(20, "abc", "ü" * round)
        check()
        log.count_size(step=13)  # a part
        check()
        log.delete_through(round * 10, channel="a", limit=5)
        check()
        log.delete_through(round * 18, start=round * 12, spared=["b"], limit=4)
        log.append([NewMessage("a", "not sequenced")])
        check()
        assert counted() == log.size(scan=True)
        check()


@database
def test_bytes_that_were_counted_are_not_read_again(keep: Any) -> None:
    keep(RETENTION_BYTES=10**6)
    publish_some(1000)
    retention.prune()
    publish_some(5)
    with CaptureQueriesContext(connection) as queries:
        retention.prune()
    sums = [query["sql"] for query in queries.captured_queries if "SUM(" in query["sql"]]
    assert sums
    with connection.cursor() as cursor:
        for statement in sums:
            cursor.execute("SELECT count(*) FROM streams_message " + statement[statement.index("WHERE") :])
            assert cursor.fetchone()[0] <= 5, statement


@database
def test_rows_deleted_by_hand_cost_no_other_message(keep: Any) -> None:
    """The sum is too large then."""
    keep(RETENTION_BYTES=100)
    publish_some(100)
    assert retention.prune() == 0
    Message.objects.filter(position__lte=90).delete()
    publish_some(50)
    assert [cut.messages() for cut in retention.cuts()] == []
    assert retention.prune() == 0
    assert len(left()) == 60


@database
@pytest.mark.parametrize("days", [-2, 2])
def test_bytes_are_counted_anew_every_day(keep: Any, days: int) -> None:
    publish_some(100)
    assert counted() == 100
    Message.objects.filter(position__lte=5).delete()
    assert counted() == 100
    LogSize.objects.update(counted_from=timezone.now() + datetime.timedelta(days=days))
    assert counted() == 95


@database
def test_limits_hold_together(keep: Any) -> None:
    keep(RETENTION_SECONDS=3600, RETENTION_MESSAGES_PER_CHANNEL=3, RETENTION_BYTES=6)
    publish_some(10, "ab")
    age(4000, 1, 2)
    assert retention.prune() == 4  # two by age, two by bytes; then each channel has three
    assert left() == [5, 6, 7, 8, 9, 10]
    keep(RETENTION_MESSAGES_PER_CHANNEL=1)
    assert retention.prune() == 4
    assert left() == [9, 10]


@database
def test_message_that_is_published_meanwhile_stays(keep: Any) -> None:
    keep(RETENTION_SECONDS=3600)
    publish_some(3)
    age(4000, 1, 2, 3)
    asked = itertools.count()

    def publish_after_the_second_look(execute: Any, sql: str, *args: Any) -> Any:
        result = execute(sql, *args)
        if sql.startswith("SELECT") and "created_at" in sql and next(asked) == 1:
            publish("a", "fresh")
        return result

    with connection.execute_wrapper(publish_after_the_second_look):
        assert retention.prune() == 3
    assert left() == [4]


@database
def test_messages_that_wait_to_be_sequenced_stay(keep: Any) -> None:
    keep(RETENTION_SECONDS=1, RETENTION_MESSAGES_PER_CHANNEL=1, RETENTION_BYTES=1)
    log.append([NewMessage("a", "waiting")])
    Message.objects.update(created_at=timezone.now() - datetime.timedelta(days=1))
    assert retention.prune() == 0
    assert Message.objects.count() == 1


@database
def test_cuts_say_what_would_go_and_delete_nothing(keep: Any) -> None:
    keep(RETENTION_SECONDS=3600, RETENTION_MESSAGES_PER_CHANNEL=2)
    publish_some(6)
    age(4000, 1)
    cuts = list(retention.cuts())
    assert cuts == [retention.Cut(1, None, "age"), retention.Cut(4, "a", "count")]
    assert [cut.messages() for cut in cuts] == [1, 4]
    assert left() == [1, 2, 3, 4, 5, 6]


# --- Channels that have a retention of their own ----------------------------------------------------------------------


def settle(channel: str, seconds: int | None = None, messages: int | None = None) -> None:
    ChannelSettings.objects.create(channel=channel, retention_seconds=seconds, retention_messages=messages)


@database
def test_channel_may_keep_its_messages_longer_than_the_site(keep: Any) -> None:
    keep(RETENTION_SECONDS=3600)
    settle("b", seconds=10_000)
    publish_some(6, "ab")  # a: 1 3 5, b: 2 4 6
    age(20_000, 2)
    age(4000, 1, 3, 4)
    assert retention.prune() == 3
    assert left() == [4, 5, 6]
    assert log.pruned(["a", "b"], 0) == {"a": 3, "b": 2}


@database
def test_channel_may_keep_its_messages_for_a_shorter_time_than_the_site(keep: Any) -> None:
    keep(RETENTION_SECONDS=3600)
    settle("b", seconds=60)
    publish_some(6, "ab")
    age(100, 1, 2, 3, 4)
    assert retention.prune() == 2
    assert left() == [1, 3, 5, 6]


@database
def test_channel_may_have_an_age_where_the_site_has_none(keep: Any) -> None:
    settle("b", seconds=60)
    publish_some(4, "ab")
    age(100, 1, 2, 3, 4)
    assert retention.prune() == 2
    assert left() == [1, 3]


@database
def test_channel_may_keep_its_messages_for_ever(keep: Any) -> None:
    keep(RETENTION_SECONDS=3600, RETENTION_MESSAGES_PER_CHANNEL=1)
    settle("b", seconds=0, messages=0)
    publish_some(6, "ab")
    age(10**8, 1, 2, 3, 4, 5, 6)
    assert retention.prune() == 3
    assert left() == [2, 4, 6]
    assert retention.prune() == 0


@database
def test_channel_may_keep_more_or_fewer_messages_than_the_site(keep: Any) -> None:
    keep(RETENTION_MESSAGES_PER_CHANNEL=2)
    settle("b", messages=3)
    settle("c", messages=1)
    publish_some(12, "abc")  # a: 1 4 7 10, b: 2 5 8 11, c: 3 6 9 12
    assert retention.prune() == 2 + 1 + 3
    assert left() == [5, 7, 8, 10, 11, 12]


@database
def test_what_a_channel_leaves_open_is_as_the_site_says(keep: Any) -> None:
    keep(RETENTION_SECONDS=3600, RETENTION_MESSAGES_PER_CHANNEL=2)
    settle("b", messages=0)  # how many, but not for how long
    settle("c", seconds=0)  # for how long, but not how many
    settle("d")
    publish_many([NewMessage(channel, "x") for channel in "bbbbccccdddd"])
    age(4000, 1, 5, 9)
    retention.prune()
    assert left() == [2, 3, 4, 7, 8, 11, 12]


@database
def test_bytes_bound_the_whole_log_whatever_a_channel_is_to_keep(keep: Any) -> None:
    keep(RETENTION_BYTES=2)
    settle("b", seconds=0, messages=0)
    publish_some(5, "ab")
    assert retention.prune() == 3
    assert left() == [4, 5]


@database
def test_messages_that_are_spared_are_passed_over_by_every_batch(keep: Any) -> None:
    keep(RETENTION_SECONDS=3600)
    settle("b", seconds=0)
    count = 2 * retention.BATCH_MESSAGES + 10
    publish_some(2 * count, "ab")
    Message.objects.update(created_at=timezone.now() - datetime.timedelta(days=1))
    assert retention.prune() == count
    assert set(Message.objects.values_list("channel", flat=True)) == {"b"}
    assert Message.objects.count() == count
    assert log.pruned(["a", "b"], 0) == {"a": 2 * count - 1}


@database
def test_old_message_of_a_channel_that_keeps_longer_holds_up_nobody_elses_pruning(keep: Any) -> None:
    keep(RETENTION_SECONDS=3600)
    settle("b", seconds=10_000)
    publish_some(3, "ba")  # b, a, b
    publish("a", "x")
    age(4000, 2, 4)
    assert retention.prune() == 2
    assert left() == [1, 3]


@database
def test_cuts_name_the_channels_that_they_spare(keep: Any) -> None:
    keep(RETENTION_SECONDS=3600)
    settle("b", seconds=60)
    settle("c", seconds=0)
    publish_some(3, "abc")
    age(4000, 1, 2, 3)
    assert list(retention.cuts()) == [retention.Cut(1, None, "age", ("b", "c")), retention.Cut(2, "b", "age")]
    assert [cut.messages() for cut in retention.cuts()] == [1, 1]


# --- In batches -------------------------------------------------------------------------------------------------------


@database
def test_pruning_goes_in_batches_each_a_transaction_with_its_record(keep: Any) -> None:
    keep(RETENTION_MESSAGES_PER_CHANNEL=1)
    publish_some(2 * retention.BATCH_MESSAGES + 2)
    with CaptureQueriesContext(connection) as queries:
        assert retention.prune() == 2 * retention.BATCH_MESSAGES + 1
    statements = [query["sql"].split()[0] for query in queries.captured_queries]
    deletes = [index for index, word in enumerate(statements) if word == "DELETE"]
    assert len(deletes) == 3
    for earlier, later in itertools.pairwise(deletes):
        assert "COMMIT" in statements[earlier:later]
    assert left() == [2 * retention.BATCH_MESSAGES + 2]


@database
def test_message_is_never_gone_without_a_record_of_it(keep: Any) -> None:
    # What a reader sees that looks after each batch.
    publish_some(1000, "ab")
    while log.delete_through(1000, limit=7):
        remaining = left()
        first = remaining[0] if remaining else 1001
        assert max(log.pruned(["a", "b"], 0).values()) == first - 1


# --- Who and when -----------------------------------------------------------------------------------------------------


@database
def test_pruning_that_is_not_due_is_left_alone(keep: Any, settings: Any) -> None:
    keep(RETENTION_MESSAGES_PER_CHANNEL=1, PRUNE_SECONDS=60)
    publish_some(3)
    assert retention.prune_if_due() == 2
    publish_some(3)
    assert retention.prune_if_due() == 0
    Lease.objects.update(expires_at=timezone.now() - datetime.timedelta(seconds=1))
    assert retention.prune_if_due() == 3


@pytest.fixture
def between_batches(monkeypatch: Any) -> Any:
    """Has a function called before each batch is deleted; each batch is one message."""
    real = log.delete_through

    def set_function(function: Any) -> None:
        def delete_through(*args: Any, **kwargs: Any) -> int:
            function()
            return real(*args, **kwargs)

        monkeypatch.setattr(log, "delete_through", delete_through)
        monkeypatch.setattr(retention, "BATCH_MESSAGES", 1)

    return set_function


def expires_at() -> datetime.datetime:
    moment = Lease.objects.get(name=retention.LEASE).expires_at
    assert moment is not None
    return moment


@database
def test_pruning_that_takes_longer_than_its_interval_stays_the_only_one(keep: Any, between_batches: Any) -> None:
    keep(RETENTION_MESSAGES_PER_CHANNEL=1, PRUNE_SECONDS=0.01)
    publish_some(4)
    others = []

    def try_as_another_process() -> None:
        time.sleep(0.05)
        if not others:
            others.append(0)
            others.append(retention.prune_if_due())

    between_batches(try_as_another_process)
    assert retention.prune_if_due() == 3
    assert others == [0, 0]


@database
def test_lease_is_renewed_while_the_pruning_goes_on(keep: Any, between_batches: Any, monkeypatch: Any) -> None:
    keep(RETENTION_MESSAGES_PER_CHANNEL=1, PRUNE_SECONDS=3600)
    monkeypatch.setattr(retention, "RENEW_SECONDS", 0.0)
    publish_some(4)
    seen = []

    def look_and_let_it_expire() -> None:
        seen.append(expires_at() - timezone.now())
        Lease.objects.update(expires_at=timezone.now())

    between_batches(look_and_let_it_expire)
    assert retention.prune_if_due() == 3
    # A process that dies holds the others up for some minutes, however seldom they prune.
    assert all(datetime.timedelta(seconds=150) < left <= datetime.timedelta(seconds=301) for left in seen)
    # At its end it rests.
    assert expires_at() - timezone.now() > datetime.timedelta(seconds=3000)
    assert retention.prune_if_due() == 0


@database
def test_pruning_stops_when_another_process_has_its_lease(keep: Any, between_batches: Any, monkeypatch: Any) -> None:
    keep(RETENTION_MESSAGES_PER_CHANNEL=1, PRUNE_SECONDS=60)
    monkeypatch.setattr(retention, "RENEW_SECONDS", 0.0)
    publish_some(6)
    between_batches(lambda: Lease.objects.update(holder="another"))
    assert retention.prune_if_due() == 1
    assert Lease.objects.get().holder == "another"
    assert retention.prune() == 4  # by hand it needs none


@database
def test_claim_of_a_time_to_come_holds_nothing_up(keep: Any) -> None:
    keep(RETENTION_MESSAGES_PER_CHANNEL=1, PRUNE_SECONDS=60)
    publish_some(3)
    Lease.objects.create(name="prune", holder="", expires_at=timezone.now() + datetime.timedelta(hours=5))
    assert retention.prune_if_due() == 2


def prune_and_hang() -> None:
    def hang(**kwargs: Any) -> bool:
        print("pruning", flush=True)
        sys.stdin.readline()
        return True

    log.forget_pruned_channels = hang  # type: ignore[assignment]
    retention.prune_if_due()


@pytest.mark.once
def test_pruning_of_a_process_that_died_is_taken_over(site: Site) -> None:
    finish(site.call(fill, 1000))
    site.settings(RETENTION_MESSAGES_PER_CHANNEL=500, PRUNE_SECONDS=3600)
    dying = site.call(prune_and_hang)
    dying.hear("pruning")
    dying.kill()
    site.settings(RETENTION_MESSAGES_PER_CHANNEL=100)
    assert finish(site.call(prune_once)) == "0\n"
    then = "now() + interval '301 seconds'" if site.is_postgres else "datetime('now', '301 seconds')"
    assert site.execute(f"SELECT expires_at < {then} FROM streams_lease") == [(1,)]
    site.execute("UPDATE streams_lease SET expires_at = '2001-01-01'")
    assert finish(site.call(prune_once)) == "400\n"


def prune_once() -> None:
    print(retention.prune_if_due())


def count_and_print() -> None:
    while log.count_size(step=50):
        pass
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(200):
        log.count_size(step=7)


@pytest.mark.once
def test_bytes_are_counted_exactly_beside_deletions_in_other_processes(site: Site) -> None:
    finish(site.call(fill, 3000))
    processes = [site.call(count_and_print) for _ in range(2)]
    processes += [site.call(prune_all, 1500, "busy"), site.call(prune_all, 2000, "")]
    for process in processes:
        process.hear("ready")
    for process in processes:
        process.tell()
    finish(site.call(fill, 1000))
    for process in processes:
        finish(process)
    finish(site.call(count_all))
    [(total,)] = site.execute("SELECT sum(size) FROM streams_message")
    assert site.execute("SELECT through, bytes FROM streams_logsize") == [(4000, total)]


def count_all() -> None:
    while log.count_size():
        pass


@database
def test_pruning_by_itself_can_be_turned_off(keep: Any) -> None:
    keep(RETENTION_MESSAGES_PER_CHANNEL=1, PRUNE_SECONDS=None)
    publish_some(3)
    assert retention.prune_if_due() == 0
    assert retention.prune() == 2


@database
def test_pruning_an_empty_log_without_a_head_is_no_error(keep: Any) -> None:
    keep(RETENTION_SECONDS=1, RETENTION_MESSAGES_PER_CHANNEL=1, RETENTION_BYTES=1)
    LogHead.objects.all().delete()
    assert retention.prune_if_due() == 0
    assert retention.prune() == 0


@database
def test_pruning_forgets_the_channels_that_were_pruned_longest_ago(keep: Any) -> None:
    log.current_head()  # makes the head's row, where there is none
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            INSERT INTO streams_channel (name, pruned_through)
            WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {CHANNELS + 10})
            SELECT 'once.' || n, n FROM numbers
            """
        )
    retention.prune()
    assert Channel.objects.count() == CHANNELS
    assert log.head().floor == 10
    assert log.pruned(["once.11"], 10) == {"once.11": 11}


def claim() -> None:
    """Wait for the word, then prune if it is due. Prints how many went."""
    print("ready", flush=True)
    sys.stdin.readline()
    print(retention.prune_if_due())


def fill(count: str) -> None:
    for start in range(0, int(count), 1000):
        publish_many([NewMessage("busy", f"{start + n} " + "x" * 200) for n in range(1000)])


@pytest.mark.once
def test_of_many_processes_one_prunes(site: Site) -> None:
    finish(site.call(fill, 2000))
    site.settings(RETENTION_MESSAGES_PER_CHANNEL=500)
    processes = [site.call(claim) for _ in range(3)]
    for process in processes:
        process.hear("ready")
    for process in processes:
        process.tell()
    assert sorted(int(finish(process)) for process in processes) == [0, 0, 1500]
    assert site.execute("SELECT min(position), count(*) FROM streams_message") == [(1501, 500)]


@pytest.mark.once
async def test_process_with_a_stream_prunes_by_itself(site: Site) -> None:
    from tests.support.clients import StreamClient

    finish(site.call(fill, 1000))
    site.settings(RETENTION_MESSAGES_PER_CHANNEL=10, PRUNE_SECONDS=0.2)
    server = site.serve()
    client = await StreamClient(server.port, "/events/news/").connect()
    await client.read_control(1)
    for _ in range(300):
        if site.execute("SELECT count(*) FROM streams_message") == [(10,)]:
            break
        await client.read_for(0.1)
    assert site.execute("SELECT count(*) FROM streams_message") == [(10,)]
    assert site.execute("SELECT name, pruned_through FROM streams_channel") == [("busy", 990)]
    await client.close()


# --- In nobody's way --------------------------------------------------------------------------------------------------


def publish_until_told() -> None:
    """Publish all the while. Prints how often, and the longest that one publish took, in seconds."""
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
    print("ready", flush=True)
    took = []
    while not stop.is_set():
        begun = time.monotonic()
        publish("live", "x")
        took.append(time.monotonic() - begun)
        time.sleep(0.005)
    print(json.dumps([len(took), max(took)]))


@pytest.mark.once
@pytest.mark.slow
def test_publishers_go_on_while_a_large_log_is_pruned(site: Site) -> None:
    finish(site.call(fill, 20_000))
    site.settings(RETENTION_MESSAGES_PER_CHANNEL=100)
    publishing = site.call(publish_until_told)
    publishing.hear("ready")
    before = site.execute("SELECT count(*) FROM streams_message WHERE channel = 'live'")[0][0]
    pruned = site.manage("prune_messages").stdout
    during = site.execute("SELECT count(*) FROM streams_message WHERE channel = 'live'")[0][0] - before
    publishing.tell()
    count, longest = json.loads(finish(publishing))
    assert site.execute("SELECT count(*) FROM streams_message WHERE channel = 'busy'") == [(100,)], pruned
    assert during > 5
    assert longest < 5, f"one of {count} took {longest} s"
    (head,) = site.execute("SELECT head FROM streams_loghead")[0]
    assert head == 20_000 + count


def prune_all(through: str, channel: str) -> None:
    print("ready", flush=True)
    sys.stdin.readline()
    while log.delete_through(int(through), channel=channel or None, limit=50):
        pass


@pytest.mark.once
def test_prunings_at_the_same_time_record_the_furthest(site: Site) -> None:
    finish(site.call(fill, 2000))
    processes = [site.call(prune_all, 1500, "busy"), site.call(prune_all, 1000, ""), site.call(prune_all, 500, "")]
    for process in processes:
        process.hear("ready")
    for process in processes:
        process.tell()
    for process in processes:
        finish(process)
    assert site.execute("SELECT min(position), count(*) FROM streams_message") == [(1501, 500)]
    assert site.execute("SELECT name, pruned_through FROM streams_channel") == [("busy", 1500)]


def overtake() -> None:
    """Hold the lock of prunings while another one begins, and then prune further than that one will."""
    log.delete_through(1, channel="busy", limit=1)  # makes the records
    with transaction.atomic():
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT * FROM streams_logsize FOR UPDATE")
        print("locked", flush=True)
        sys.stdin.readline()
        log.delete_through(50, channel="busy", limit=100)


@pytest.mark.once
def test_pruning_that_was_overtaken_does_not_take_the_record_back(postgres_site: Site) -> None:
    # A reader with a cursor in between would never be told that something is missing.
    finish(postgres_site.call(fill, 1000))
    overtaking = postgres_site.call(overtake)
    overtaking.hear("locked")
    slow = postgres_site.call(prune_all, 20, "")
    slow.hear("ready")
    slow.tell()
    blocked = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    wait_until(lambda: postgres_site.execute(blocked), "waiting for the record")
    overtaking.tell()
    finish(overtaking)
    finish(slow)
    assert postgres_site.execute("SELECT min(position) FROM streams_message") == [(51,)]
    assert postgres_site.execute("SELECT name, pruned_through FROM streams_channel") == [("busy", 50)]


@database
def test_what_staff_set_to_be_kept_while_a_pruning_is_under_way_is_kept(keep: Any, monkeypatch: Any) -> None:
    publish_some(6, channels="ab")
    age(100, *range(1, 7))
    keep(RETENTION_SECONDS=50)
    monkeypatch.setattr(retention, "BATCH_MESSAGES", 1)
    real = log.delete_through

    def delete_through(*args: Any, **kwargs: Any) -> int:
        count = real(*args, **kwargs)
        ChannelSettings.objects.get_or_create(channel="b", retention_seconds=0)  # after the first batch
        return count

    monkeypatch.setattr(log, "delete_through", delete_through)
    assert retention.prune() == 3
    assert left() == [2, 4, 6]


@database
def test_pruning_stops_when_its_time_is_over(keep: Any) -> None:
    publish_some(5)
    age(100, *range(1, 6))
    keep(RETENTION_SECONDS=50, RETENTION_MESSAGES_PER_CHANNEL=1)
    assert retention.prune(max_seconds=-1) == 0
    assert len(left()) == 5
    assert retention.prune() == 5
