"""publish and publish_many outside a transaction: their return values and the stored messages."""

from __future__ import annotations

import datetime
import decimal

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from streams import NewMessage, publish, publish_many
from streams.exceptions import InvalidMessage
from streams.models import LogHead, Message
from tests.publishing.support import UNSTORABLE, in_thread, stored
from tests.support.reads import tail

pytestmark = pytest.mark.django_db(transaction=True)


# --- One message ------------------------------------------------------------------------------------------------------


def test_publish_returns_the_stored_message() -> None:
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


def test_published_by_is_stored() -> None:
    """The message stays when the user is deleted."""
    user = get_user_model().objects.create(username="editor")
    message = publish("news", "signed", published_by=user)
    assert Message.objects.get().published_by == user
    user.delete()
    message.refresh_from_db()
    assert message.published_by is None


@pytest.mark.parametrize("who", [AnonymousUser(), "editor"])
def test_publisher_must_be_a_user(who: object) -> None:
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
def test_data_is_stored_as_text(data: object, text: str) -> None:
    assert publish("news", data).data == text
    row = Message.objects.get()
    assert (row.data, row.size) == (text, len(text.encode()))


def publish_statements() -> list[str]:
    with CaptureQueriesContext(connection) as queries:
        publish("news", "counted")
    return [query["sql"] for query in queries.captured_queries]


def test_publish_takes_few_statements() -> None:
    publish("news", "the first one creates the row of the head")
    if connection.vendor == "postgresql":
        # The first publishes compare the identity of the database. This is repeated whenever a thread connects, also
        # a thread of an earlier test.
        tries = [publish_statements() for _ in range(20)]
        [call] = min(tries, key=len)  # one round trip
        assert call.split()[:1] == ["CALL"]
        return
    statements = publish_statements()
    assert [sql for sql in statements if sql in ("COMMIT", "ROLLBACK")] == ["COMMIT"]
    assert len([sql for sql in statements if not sql.startswith(("BEGIN", "COMMIT"))]) <= 3
    assert statements[-1] == "COMMIT"


def test_manual_transaction_is_sequenced_after_commit() -> None:
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


# --- Several messages -------------------------------------------------------------------------------------------------


def test_publish_many_is_one_transaction() -> None:
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


def test_publish_many_accepts_any_iterable() -> None:
    assert publish_many([]) == []
    assert stored() == []
    messages = publish_many(NewMessage("news", n) for n in range(2500))
    assert [message.position for message in messages] == list(range(1, 2501))
    assert [data for _, data in stored()] == [str(n) for n in range(2500)]


@pytest.mark.parametrize("bad", [NewMessage("news room", "x"), NewMessage("news", "nul \0"), NewMessage("news", set())])
def test_one_invalid_message_stores_none(bad: NewMessage) -> None:
    with pytest.raises(InvalidMessage):
        publish_many([NewMessage("news", "good"), bad, NewMessage("news", "good")])
    assert stored() == []
    assert publish("news", "next").position == 1


def test_one_unstorable_message_stores_none() -> None:
    impossible_user = get_user_model()(pk=2**70)  # too large for the column
    with pytest.raises(UNSTORABLE):
        publish_many([NewMessage("news", "good"), NewMessage("news", "bad", published_by=impossible_user)])
    assert stored() == []
    assert publish("news", "next").position == 1


# --- A log without its head -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["outside", "inside", "tail", "keyed"])
def test_missing_head_is_created_again(how: str) -> None:
    """The positions continue after the last message."""
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
