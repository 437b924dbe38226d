"""publish and its forms, in one process: what they return, what they store, and to whose transaction it belongs."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import decimal
import logging
import threading
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import SynchronousOnlyOperation
from django.db import DataError, connection, connections, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import AsyncClient, Client
from django.test.utils import CaptureQueriesContext
from django.urls import path

from streams import NewMessage, apublish, apublish_many, log, publish, publish_many
from streams.exceptions import InvalidChannel, InvalidData, InvalidEventType, InvalidMessage
from streams.models import LogHead, Message
from streams.notifiers import BaseNotifier, Notice, get_notifier
from streams.testing import read_events
from tests.support.reads import tail
from tests.support.sites import Site, finish

pytestmark = pytest.mark.django_db(transaction=True)

# What the databases raise for a value that their columns cannot hold.
UNSTORABLE = (DataError, OverflowError)


class RolledBack(Exception):
    """Raised to leave a transaction by a rollback."""


class RecordingNotifier(BaseNotifier):
    """Keeps the notices, as another process's notifier would pass them on."""

    notices: list[Notice] = []

    def notify(self, notice: Notice) -> None:
        self.notices.append(notice)

    async def listen(self) -> AsyncGenerator[Notice | None, None]:
        await asyncio.Event().wait()
        yield self.notices[0]


class BrokenNotifier(RecordingNotifier):
    """Cannot reach its server."""

    def notify(self, notice: Notice) -> None:
        raise ConnectionError("no server")


class UnsteadyNotifier(RecordingNotifier):
    """Reaches its server at times."""

    works = True

    def notify(self, notice: Notice) -> None:
        if not self.works:
            raise ConnectionError("no server")


@pytest.fixture
def notices(settings: Any) -> Iterator[list[Notice]]:
    settings.STREAMS = {**settings.STREAMS, "NOTIFIER": {"BACKEND": f"{__name__}.RecordingNotifier"}}
    RecordingNotifier.notices.clear()
    yield RecordingNotifier.notices
    RecordingNotifier.notices.clear()


def stored() -> list[tuple[int | None, str]]:
    """(position, data) of all rows, in order."""
    return list(Message.objects.order_by("position", "pk").values_list("position", "data"))


@contextlib.contextmanager
def rolled_back() -> Iterator[None]:
    """A transaction, or a savepoint, that is rolled back."""
    with contextlib.suppress(RolledBack), transaction.atomic():
        yield
        raise RolledBack


async def off_the_loop(function: Any, *args: Any) -> Any:
    """Run a function of the database in a thread, and leave no connection behind there."""

    def run() -> Any:
        try:
            return function(*args)
        finally:
            connections.close_all()

    return await sync_to_async(run)()


def in_thread(function: Any) -> None:
    """Run a function in a thread, and so on a connection, of its own."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


# --- Outside a transaction --------------------------------------------------------------------------------------------


def test_publish_returns_the_stored_message_with_its_position() -> None:
    first = publish("news", "one")
    second = publish("user.7", {"n": 2}, event="alert")
    assert (first.position, second.position) == (1, 2)
    rows = list(Message.objects.order_by("position"))
    assert rows == [first, second]
    assert [(row.channel, row.event, row.data, row.size) for row in rows] == [
        ("news", "message", "one", 3),
        ("user.7", "alert", '{"n":2}', 7),
    ]
    assert rows[0].idempotency_key is None
    assert abs(rows[0].created_at - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(minutes=5)


def test_published_by_is_kept_and_outlives_the_user() -> None:
    user = get_user_model().objects.create(username="editor")
    message = publish("news", "signed", published_by=user)
    assert Message.objects.get().published_by == user
    user.delete()
    message.refresh_from_db()
    assert message.published_by is None


@pytest.mark.parametrize("who", [AnonymousUser(), "editor"])
def test_publisher_who_is_no_user_is_refused(who: object) -> None:
    with pytest.raises(ValueError, match="User"):
        publish("news", "x", published_by=who)
    assert stored() == []


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("as it is", "as it is"),
        ("", ""),
        ("one\r\ntwo\rthree\nfour\r\n", "one\ntwo\nthree\nfour\n"),
        ('"quoted" \\ ü 🎉 \u2028 \u0085 \ufeff', '"quoted" \\ ü 🎉 \u2028 \u0085 \ufeff'),
        ({"b": 1, "a": "ü\r\n\0"}, '{"b":1,"a":"ü\\r\\n\\u0000"}'),
        ([1, None, True, 1.5], "[1,null,true,1.5]"),
        (None, "null"),
        (5, "5"),
        (decimal.Decimal("1.10"), '"1.10"'),
        (datetime.date(2026, 11, 22), '"2026-11-22"'),
    ],
)
def test_data_is_stored_as_the_text_that_goes_on_the_wire(data: object, text: str) -> None:
    assert publish("news", data).data == text
    row = Message.objects.get()
    assert (row.data, row.size) == (text, len(text.encode()))


def statements_of_a_publish() -> list[str]:
    with CaptureQueriesContext(connection) as queries:
        publish("news", "counted")
    return [query["sql"] for query in queries.captured_queries]


def test_publish_outside_a_transaction_is_one_transaction_of_few_statements() -> None:
    publish("news", "the first makes the head's row")
    if connection.vendor == "postgresql":
        # The first ones compare the database's identity, and again if a thread of an earlier test connects just now.
        tries = [statements_of_a_publish() for _ in range(20)]
        [call] = min(tries, key=len)  # one round trip
        assert call.split()[:1] == ["CALL"]
        return
    statements = statements_of_a_publish()
    assert [sql for sql in statements if sql in ("COMMIT", "ROLLBACK")] == ["COMMIT"]
    assert len([sql for sql in statements if not sql.startswith(("BEGIN", "COMMIT"))]) <= 3
    assert statements[-1] == "COMMIT"


def test_publish_many_is_one_transaction_in_the_order_given() -> None:
    publish("news", "first")
    with CaptureQueriesContext(connection) as queries:
        messages = publish_many([NewMessage(f"channel.{n % 3}", n) for n in range(100)])
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(DISTINCT xmin::text) FROM streams_message WHERE channel <> 'news'")
            assert cursor.fetchone() == (1,)
    else:
        assert sum(query["sql"] == "COMMIT" for query in queries.captured_queries) == 1
    assert [message.position for message in messages] == list(range(2, 102))
    assert [data for _, data in stored()[1:]] == [str(n) for n in range(100)]


def test_publish_many_takes_any_number_and_any_iterable() -> None:
    assert publish_many([]) == []
    assert stored() == []
    messages = publish_many(NewMessage("news", n) for n in range(2500))
    assert [message.position for message in messages] == list(range(1, 2501))
    assert [data for _, data in stored()] == [str(n) for n in range(2500)]


@pytest.mark.parametrize("bad", [NewMessage("news room", "x"), NewMessage("news", "nul \0"), NewMessage("news", set())])
def test_bad_message_among_many_stores_none_of_them(bad: NewMessage) -> None:
    with pytest.raises(InvalidMessage):
        publish_many([NewMessage("news", "good"), bad, NewMessage("news", "good")])
    assert stored() == []
    assert publish("news", "next").position == 1


def test_message_among_many_that_cannot_be_stored_stores_none_of_them() -> None:
    nobody = get_user_model()(pk=2**70)  # larger than the column
    with pytest.raises(UNSTORABLE):
        publish_many([NewMessage("news", "good"), NewMessage("news", "bad", published_by=nobody)])
    assert stored() == []
    assert publish("news", "next").position == 1


def test_publish_with_manual_transaction_management_is_sequenced_after_its_commit() -> None:
    def manually() -> None:
        transaction.set_autocommit(False)
        message = publish("news", "manual")
        assert message.position is None
        transaction.commit()
        publish("news", "rolled back")
        transaction.rollback()
        transaction.set_autocommit(True)

    in_thread(manually)
    assert tail(0) == (1, [(1, "news", "message", "manual")])
    assert publish("news", "next").position == 2


# --- On an event loop -------------------------------------------------------------------------------------------------


async def test_publish_on_a_running_event_loop_says_to_await_apublish() -> None:
    with pytest.raises(SynchronousOnlyOperation, match=r"await apublish\("):
        publish("news", "x")
    with pytest.raises(SynchronousOnlyOperation, match=r"await apublish\("):
        publish_many([NewMessage("news", "x")])
    assert await off_the_loop(stored) == []


async def test_notebooks_may_publish_on_their_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    assert publish("news", "x").position == 1
    connection.close()


async def test_apublish_returns_the_stored_message_with_its_position() -> None:
    message = await apublish("news", {"n": 1}, event="alert")
    assert (message.position, message.event, message.data) == (1, "alert", '{"n":1}')
    assert await off_the_loop(stored) == [(1, '{"n":1}')]


async def test_apublish_many_keeps_the_order_given() -> None:
    assert await apublish_many([]) == []
    messages = await apublish_many([NewMessage("news", n) for n in range(10)])
    assert [message.position for message in messages] == list(range(1, 11))
    assert [data for _, data in await off_the_loop(stored)] == [str(n) for n in range(10)]


async def test_apublish_refuses_what_publish_refuses() -> None:
    with pytest.raises(InvalidChannel):
        await apublish("news room", "x")
    with pytest.raises(InvalidData):
        await apublish_many([NewMessage("news", "good"), NewMessage("news", "\0")])
    assert await off_the_loop(stored) == []


async def test_publish_works_in_a_thread_of_an_async_program() -> None:
    assert (await off_the_loop(publish, "news", "x")).position == 1


async def test_message_that_cannot_be_stored_harms_none_of_those_published_with_it() -> None:
    nobody = get_user_model()(pk=2**70)  # larger than the column
    calls = [apublish("news", str(n), published_by=nobody if n == 10 else None) for n in range(20)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    bad = results.pop(10)
    assert isinstance(bad, UNSTORABLE)
    rows = await off_the_loop(stored)
    assert [position for position, _ in rows] == list(range(1, 20))
    assert [(result.position, result.data) for result in results if isinstance(result, Message)] == rows


async def test_concurrent_apublish_calls_that_share_a_key_share_a_message() -> None:
    messages = await asyncio.gather(*(apublish("news", str(n), idempotency_key=f"key {n % 3}") for n in range(30)))
    rows = await off_the_loop(stored)
    assert len(rows) == 3
    assert {(message.position, message.data) for message in messages} == set(rows)


# --- Inside a transaction ---------------------------------------------------------------------------------------------


def test_message_has_its_position_when_its_transaction_has_committed() -> None:
    positions: list[int | None] = []
    with transaction.atomic():
        one = publish("news", "one")
        with transaction.atomic():
            two, three = publish_many([NewMessage("news", "two"), NewMessage("user.7", "three")])
        transaction.on_commit(lambda: positions.extend([one.position, two.position, three.position]))
        assert [one.position, two.position, three.position] == [None] * 3
    assert positions == [1, 2, 3]  # as a hook that was registered later sees them
    assert [one.position, two.position, three.position] == [1, 2, 3]
    assert stored() == [(1, "one"), (2, "two"), (3, "three")]


def test_rolled_back_message_never_was(notices: list[Notice]) -> None:
    publish("news", "before")
    with rolled_back():
        ghost = publish("news", "ghost")
        publish_many([NewMessage("news", "ghost")] * 3)
    assert ghost.position is None
    assert publish("news", "after").position == 2
    assert stored() == [(1, "before"), (2, "after")]
    assert tail(0)[1] == [(1, "news", "message", "before"), (2, "news", "message", "after")]
    assert [message.data for notice in notices for message in notice.messages] == ["before", "after"]


async def test_rolled_back_publish_is_never_delivered() -> None:
    def roll_back() -> None:
        with rolled_back():
            publish("news", "ghost")

    response = await AsyncClient().get("/events/news/")
    await off_the_loop(roll_back)
    await apublish("news", "first")
    await off_the_loop(roll_back)
    await apublish("news", "second")
    events = await read_events(response, 2)
    assert [(event.id, event.data) for event in events] == [("1", "first"), ("2", "second")]


def test_rolled_back_savepoint_takes_only_its_own_messages() -> None:
    with transaction.atomic():
        kept = [publish("news", "kept 1")]
        with rolled_back():
            lost = publish("news", "lost")
            with transaction.atomic():
                publish("news", "lost")
        kept.append(publish("news", "kept 2"))
        with transaction.atomic():
            kept.append(publish("news", "kept 3"))
    assert [message.position for message in kept] == [1, 2, 3]
    assert lost.position is None
    assert stored() == [(1, "kept 1"), (2, "kept 2"), (3, "kept 3")]


def test_first_publish_of_a_transaction_may_be_rolled_back_alone() -> None:
    with transaction.atomic():
        with rolled_back():
            publish("news", "lost")
        kept = publish("news", "kept")
    assert kept.position == 1
    assert stored() == [(1, "kept")]


def test_notices_carry_what_the_log_holds_also_where_a_savepoints_ids_are_given_again(notices: list[Notice]) -> None:
    # SQLite gives an id that was rolled back to the next row, which may be another process's.
    def elsewhere() -> None:
        in_thread(lambda: log.append([NewMessage("news", "another's")]))

    with transaction.atomic():
        transaction.on_commit(elsewhere)  # before publish's own hook, which then sequences both
        publish("news", "kept")
        with rolled_back():
            publish("news", "ghost")
    assert stored() == [(1, "kept"), (2, "another's")]
    for notice in notices:
        for message in notice.messages:
            assert (message.position, message.data) in stored()
    assert [(notice.first, notice.last) for notice in notices] == [(1, 2)]


def test_failed_publish_leaves_the_transaction_usable() -> None:
    with transaction.atomic():
        publish("news", "before")
        with pytest.raises(InvalidMessage):
            publish("news", "nul \0")
        publish("news", "after", idempotency_key="key")
        publish("news", "again", idempotency_key="key")
    assert stored() == [(1, "before"), (2, "after")]


def test_messages_of_one_transaction_are_one_notice(notices: list[Notice]) -> None:
    with transaction.atomic():
        publish("news", "one")
        publish("news", "two")
    publish_many([NewMessage("news", "three"), NewMessage("news", "four")])
    assert [(notice.first, notice.last) for notice in notices] == [(1, 2), (3, 4)]


def test_apublish_by_a_sync_caller_belongs_to_that_callers_transaction() -> None:
    with rolled_back():
        async_to_sync(apublish)("news", "ghost")
        async_to_sync(apublish_many)([NewMessage("news", "ghost")])
    with transaction.atomic():
        message = async_to_sync(apublish)("news", "kept")
        assert message.position is None
    assert message.position == 1
    assert stored() == [(1, "kept")]


def test_publish_in_a_hook_after_the_commit() -> None:
    published: list[Message] = []
    with transaction.atomic():
        transaction.on_commit(lambda: published.append(publish("news", "by the hook")))
        inside = publish("news", "inside")
    # The hook's publish sequences for all who are committed, in the order of their inserts.
    assert (inside.position, published[0].position) == (1, 2)


# --- Idempotency ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [False, True])
def test_same_key_on_the_same_channel_returns_the_first_message(inside: bool) -> None:
    first = publish("news", "first", idempotency_key="key")
    publish("news", "between")
    if inside:
        with transaction.atomic():
            second = publish("news", "second", event="other", idempotency_key="key")
            assert second.position == 1  # it has one already
    else:
        second = publish("news", "second", event="other", idempotency_key="key")
    assert (second, second.position, second.data, second.event) == (first, 1, "first", "message")
    assert stored() == [(1, "first"), (2, "between")]


def test_same_key_on_another_channel_is_another_message() -> None:
    assert publish("news", "x", idempotency_key="key").position == 1
    assert publish("news2", "x", idempotency_key="key").position == 2
    assert publish("news", "x", idempotency_key="Key").position == 3
    assert publish("news", "x").position == 4
    assert publish("news", "x").position == 5


def test_key_twice_in_one_transaction_appends_once() -> None:
    with transaction.atomic():
        first = publish("news", "first", idempotency_key="key")
        second = publish("news", "second", idempotency_key="key")
        assert second.pk == first.pk
    assert (first.position, second.position) == (1, 1)
    assert stored() == [(1, "first")]


def test_key_of_a_rolled_back_message_is_free_again() -> None:
    with rolled_back():
        publish("news", "ghost", idempotency_key="key")
    assert publish("news", "real", idempotency_key="key").data == "real"
    assert stored() == [(1, "real")]


@pytest.mark.parametrize("inside", [False, True])
def test_keys_among_many_keep_the_order_given(inside: bool) -> None:
    publish("news", "old", idempotency_key="old")
    new = [
        NewMessage("news", "a", idempotency_key="twice"),
        NewMessage("news", "b"),
        NewMessage("news", "c", idempotency_key="old"),
        NewMessage("news", "d", idempotency_key="twice"),
        NewMessage("other", "e", idempotency_key="twice"),
        NewMessage("news", "f"),
    ]
    if inside:
        with transaction.atomic():
            messages = publish_many(new)
    else:
        messages = publish_many(new)
    assert stored() == [(1, "old"), (2, "a"), (3, "b"), (4, "e"), (5, "f")]
    assert [message.position for message in messages] == [2, 3, 1, 2, 4, 5]


def test_any_number_of_keys_may_be_published_at_once() -> None:
    new = [NewMessage(f"channel.{n % 7}", n, idempotency_key=f"key {n}") for n in range(2500)]
    first = publish_many(new)
    assert [message.position for message in first] == list(range(1, 2501))
    assert publish_many(new) == first
    assert len(stored()) == 2500


def test_publishing_only_known_keys_appends_nothing(notices: list[Notice]) -> None:
    publish("news", "x", idempotency_key="key")
    notices.clear()
    assert publish_many([NewMessage("news", "y", idempotency_key="key")] * 3)[2].position == 1
    assert stored() == [(1, "x")]
    assert notices == []


def test_key_whose_message_was_left_unsequenced_comes_back_with_a_position() -> None:
    log.append([NewMessage("news", "left", idempotency_key="key")])  # as by a process that died after its commit
    message = publish("news", "again", idempotency_key="key")
    assert (message.data, message.position) == ("left", 1)


# --- Notifying --------------------------------------------------------------------------------------------------------


def test_notice_carries_the_range_and_its_messages(notices: list[Notice]) -> None:
    publish("news", {"n": 1}, event="alert")
    assert notices == [Notice(1, 1, ((1, "news", "alert", '{"n":1}'),))]  # type: ignore[arg-type]


def test_notice_of_a_range_that_is_not_all_ours_carries_no_messages(notices: list[Notice]) -> None:
    log.append([NewMessage("news", "left by another")])
    publish("news", "ours")
    assert notices == [Notice(1, 2)]


def test_nothing_is_notified_before_the_commit(notices: list[Notice]) -> None:
    with transaction.atomic():
        publish("news", "x")
        assert notices == []
    assert len(notices) == 1


@pytest.mark.parametrize("inside", [False, True])
def test_failing_notifier_is_logged_and_does_not_fail_the_publisher(
    settings: Any, caplog: pytest.LogCaptureFixture, inside: bool
) -> None:
    settings.STREAMS = {**settings.STREAMS, "NOTIFIER": {"BACKEND": f"{__name__}.BrokenNotifier"}}
    if inside:
        with transaction.atomic():
            message = publish("news", "x")
    else:
        message = publish("news", "x")
    assert message.position == 1
    assert stored() == [(1, "x")]
    [record] = [record for record in caplog.records if record.name.startswith("streams")]
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ConnectionError)


@pytest.mark.django_db(transaction=True)
def test_outage_of_the_notifier_is_logged_once_with_its_end(settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    settings.STREAMS = {**settings.STREAMS, "NOTIFIER": {"BACKEND": f"{__name__}.UnsteadyNotifier"}}
    notifier = get_notifier()
    assert isinstance(notifier, UnsteadyNotifier)
    with caplog.at_level(logging.INFO, "streams"):
        for works in (True, False, False, True, True, False, False, True):
            notifier.works = works
            publish("news", "x")
    levels = [record.levelname for record in caplog.records if record.name == "streams.publishing"]
    assert levels == ["ERROR", "INFO", "ERROR", "INFO"]


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channel", "shown"),
    [
        ("news room", "'news room'"),
        ("", "''"),
        ("x" * 100, "xxx"),
        ("ünews", "'ünews'"),
        ("news/1", "'news/1'"),
        ("news\n", r"'news\n'"),
        (7, "7"),
        (None, "None"),
    ],
)
def test_channel_outside_the_rule_is_refused(channel: Any, shown: str) -> None:
    with pytest.raises(InvalidChannel) as caught:
        publish(channel, "x")
    assert str(caught.value).startswith("Channel names use A-Z a-z 0-9 . _ - and at most 99 characters; got ")
    assert shown in str(caught.value)
    assert len(str(caught.value)) < 300
    assert stored() == []


@pytest.mark.parametrize("channel", ["a", "x" * 99, "A-Z_a.z-0..9", "-", "."])
def test_channel_within_the_rule_is_taken(channel: str) -> None:
    assert publish(channel, "x").channel == channel


@pytest.mark.parametrize(
    ("event", "rule"),
    [
        ("a\nb", r"one line without CR, LF and NUL; got 'a\nb'"),
        ("a\rb", r"one line without CR, LF and NUL; got 'a\rb'"),
        ("a\0", r"one line without CR, LF and NUL; got 'a\x00'"),
        (
            "stream-reset",
            "Types that begin with 'stream-' are the stream's own; choose another name; got 'stream-reset'",
        ),
        ("", "1 to 99 characters (the default is 'message'); got ''"),
        ("x" * 100, "1 to 99 characters"),
        (None, "1 to 99 characters (the default is 'message'); got None"),
        ("\ud800", "lone surrogate"),
    ],
)
def test_type_that_cannot_stand_in_a_stream_is_refused(event: Any, rule: str) -> None:
    with pytest.raises(InvalidEventType) as caught:
        publish("news", "x", event=event)
    assert rule in str(caught.value)
    assert stored() == []


@pytest.mark.parametrize("event", ["x" * 99, "mit Leerzeichen", "ünï 🎉", "streams", "Stream-x"])
def test_type_that_can_stand_in_a_stream_is_taken(event: str) -> None:
    publish("news", "x", event=event)
    assert Message.objects.get().event == event


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("a\0b", ["NUL (U+0000)", "PostgreSQL cannot store it", "Remove it, or send it as JSON"]),
        ("ab\ud83d", ["lone surrogate (U+D83D) at character 2", "UTF-8 cannot carry", "errors='replace'"]),
        ({"a": "\udc00"}, ["lone surrogate (U+DC00) at character 6", "errors='replace'"]),
        (b"bytes", ["Data is a str, or what DjangoJSONEncoder can make JSON of", "bytes"]),
        ({1, 2}, ["DjangoJSONEncoder", "set"]),
        (float("nan"), ["DjangoJSONEncoder", "float"]),
    ],
)
def test_data_that_cannot_be_carried_is_refused(data: Any, says: list[str]) -> None:
    with pytest.raises(InvalidData) as caught:
        publish("news", data)
    for part in says:
        assert part in str(caught.value)
    assert stored() == []


def test_data_that_contains_itself_is_refused() -> None:
    data: list[Any] = []
    data.append(data)
    with pytest.raises(InvalidData, match="Circular"):
        publish("news", data)


def test_size_is_bounded_in_bytes(settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "MAX_MESSAGE_BYTES": 10}
    assert publish("news", "ü" * 5).size == 10
    with pytest.raises(InvalidData) as caught:
        publish("news", "ü" * 5 + "x")
    assert str(caught.value) == (
        "Data is at most 10 bytes in UTF-8 (STREAMS['MAX_MESSAGE_BYTES']); got 11. "
        "Publish a reference to the large thing, or raise the setting."
    )
    assert len(stored()) == 1


def test_largest_message_by_default_is_taken_whole() -> None:
    data = "🎉" * (262_144 // 4)
    publish("news", data)
    assert Message.objects.get().data == data
    with pytest.raises(InvalidData, match="got 262145"):
        publish("news", data + "x")


@pytest.mark.parametrize("key", ["", "x" * 256, "nul \0", "\ud800", 7])
def test_key_outside_the_rule_is_refused(key: Any) -> None:
    with pytest.raises(InvalidMessage) as caught:
        publish("news", "x", idempotency_key=key)
    assert str(caught.value).startswith("An idempotency key is a text of 1 to 255 characters without NUL; got ")
    assert stored() == []


def test_longest_key_and_names_are_taken() -> None:
    for _ in range(2):
        message = publish("x" * 99, "x", event="🎉" * 99, idempotency_key="🎉" * 255)
        assert message.position == 1


# --- From views -------------------------------------------------------------------------------------------------------


def sync_view(request: HttpRequest) -> HttpResponse:
    message = publish("news", "sync view")
    if "fail" in request.GET:
        raise RolledBack
    return JsonResponse({"position": message.position})


async def async_view(request: HttpRequest) -> HttpResponse:
    message = await apublish("news", "async view")
    return JsonResponse({"position": message.position})


async def wrong_view(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"position": publish("news", "wrong").position})


urlpatterns = [path("sync/", sync_view), path("async/", async_view), path("wrong/", wrong_view)]


@pytest.mark.urls(__name__)
def test_views_publish_under_wsgi() -> None:
    client = Client()
    assert client.get("/sync/").json() == {"position": 1}
    assert client.get("/async/").json() == {"position": 2}
    assert stored() == [(1, "sync view"), (2, "async view")]


@pytest.mark.urls(__name__)
async def test_views_publish_under_asgi() -> None:
    client = AsyncClient()
    assert (await client.get("/sync/")).json() == {"position": 1}
    assert (await client.get("/async/")).json() == {"position": 2}
    with pytest.raises(SynchronousOnlyOperation, match="await apublish"):
        await client.get("/wrong/")
    assert await off_the_loop(stored) == [(1, "sync view"), (2, "async view")]


@pytest.mark.urls(__name__)
def test_view_that_fails_in_an_atomic_request_has_published_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    client = Client()
    assert client.get("/sync/").json() == {"position": None}  # it is told before the commit
    with pytest.raises(RolledBack):
        client.get("/sync/?fail=1")
    assert stored() == [(1, "sync view")]


# --- A log without its head -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["outside", "inside", "tail", "keyed"])
def test_missing_head_is_made_where_the_log_ends(how: str) -> None:
    publish_many([NewMessage("news", n) for n in range(3)])
    LogHead.objects.all().delete()
    if how == "tail":
        assert tail(2) == (3, [(3, "news", "message", "2")])
    elif how == "inside":
        with transaction.atomic():
            publish("news", "x")
    else:
        publish("news", "x", idempotency_key="key" if how == "keyed" else None)
    assert publish("news", "last").position == (4 if how == "tail" else 5)
    assert [position for position, _ in stored()] == list(range(1, len(stored()) + 1))
    assert LogHead.objects.get().head == len(stored())


@pytest.mark.once
def test_message_without_a_thread_is_not_published(site: Site) -> None:
    """If no thread can start, apublish raises, and the message does not go out with the next one."""
    finish(site.call(publish_without_a_thread))
    assert site.execute("SELECT data FROM streams_message ORDER BY position") == [("later",)]


def publish_without_a_thread() -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                await apublish("news", "never")
        await apublish("news", "later")

    asyncio.run(main())
