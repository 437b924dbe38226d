"""Publishing and reading messages over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.http import HttpRequest
from django.test import AsyncClient, override_settings
from django.test.utils import CaptureQueriesContext

from streams import NewMessage, log, publish, publish_many
from streams.log.retention import prune
from streams.models import Message
from streams.policies import BasePolicy
from streams.testing import read_events
from tests.api.callers import CHANNEL_MESSAGES, FAST, MESSAGES, bearer, code, get, post

pytestmark = pytest.mark.django_db

ONE = pytest.mark.parametrize("path", [CHANNEL_MESSAGES, FAST])


# --- One message ------------------------------------------------------------------------------------------------------


@ONE
def test_published_message_is_answered_with_its_position(path: str) -> None:
    publish("other", "x")
    answer = post(path, {"data": {"a": "é"}, "event": "alert"}, bearer())
    row = Message.objects.get(channel="news")
    assert answer.status_code == 201
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == {
        "id": row.position,
        "channel": "news",
        "event": "alert",
        "created_at": row.created_at.isoformat().replace("+00:00", "Z"),
        "idempotency_key": None,
        "new": True,
    }
    assert (row.position, row.data, row.event) == (2, '{"a":"é"}', "alert")


async def test_published_message_reaches_a_stream() -> None:
    client = AsyncClient()
    stream = await client.get("/events/news/")
    for path in (CHANNEL_MESSAGES, FAST):
        answer = await client.post(path, {"data": path}, content_type="application/json", headers=bearer())
        assert answer.status_code == 201
    assert [event.data for event in await read_events(stream, 2)] == [CHANNEL_MESSAGES, FAST]


@ONE
def test_repeat_is_200_with_the_first_message(path: str) -> None:
    first = post(path, {"data": 1}, {**bearer(), "Idempotency-Key": "k"})
    again = post(path, {"data": 1}, {**bearer(), "Idempotency-Key": "k"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == {**first.json(), "new": False}
    assert Message.objects.count() == 1


@ONE
@pytest.mark.parametrize("body", [{"data": 2}, {"data": 1, "event": "alert"}])
def test_key_of_another_message_is_422(path: str, body: Any) -> None:
    post(path, {"data": 1}, {**bearer(), "Idempotency-Key": "k"})
    assert code(post(path, body, {**bearer(), "Idempotency-Key": "k"})) == (422, "idempotency-key-reused")
    assert Message.objects.count() == 1


@ONE
@pytest.mark.parametrize("key", ["", "x" * 256])
def test_key_that_is_none_is_400(path: str, key: str) -> None:
    answer = post(path, {"data": 1}, {**bearer(), "Idempotency-Key": key})
    assert code(answer) == (400, "invalid-request")
    assert set(answer.json()["error"]["fields"]) == {"Idempotency-Key"}


@ONE
def test_policy_refuses_before_the_body_is_looked_at(path: str) -> None:
    answer = post(path, b"{", bearer(publish=["other"]))
    assert code(answer) == (403, "forbidden")
    assert answer.json()["error"]["message"] == "You do not have permission to publish to news."


@ONE
def test_channel_that_is_none_is_400(path: str) -> None:
    assert code(post(path.replace("news", "n ews"), {"data": 1}, bearer())) == (400, "invalid-channel")


# --- Many messages ----------------------------------------------------------------------------------------------------


def item(channel: str, data: Any, **more: Any) -> dict[str, Any]:
    return {"channel": channel, "data": data, **more}


def test_many_are_published_in_order_and_each_is_told_of() -> None:
    publish("b", "first", idempotency_key="k")
    items = [item("a", 1), item("b", "first", idempotency_key="k"), item("a", 2, idempotency_key="k", event="alert")]
    answer = post(MESSAGES, {"messages": items}, bearer())
    assert answer.status_code == 201
    messages = answer.json()["messages"]
    assert [(each["id"], each["channel"], each["new"]) for each in messages] == [
        (2, "a", True),
        (1, "b", False),
        (3, "a", True),
    ]
    again = post(MESSAGES, {"messages": items[1:]}, bearer())
    assert again.status_code == 200
    assert [each["new"] for each in again.json()["messages"]] == [False, False]


def test_of_two_with_one_key_in_a_request_the_first_is_new() -> None:
    answer = post(MESSAGES, {"messages": [item("a", 1, idempotency_key="k")] * 2}, bearer())
    assert [(each["id"], each["new"]) for each in answer.json()["messages"]] == [(1, True), (1, False)]


@pytest.mark.parametrize(
    "items",
    [
        [item("a", "new"), item("b", "other", idempotency_key="k")],  # used by a message in the log
        [item("a", "new", idempotency_key="x"), item("a", "other", idempotency_key="x")],  # used in the same request
    ],
)
def test_key_of_another_message_refuses_all_of_them(items: Any) -> None:
    publish("b", "first", idempotency_key="k")
    assert code(post(MESSAGES, {"messages": items}, bearer())) == (422, "idempotency-key-reused")
    assert Message.objects.count() == 1


def test_key_in_the_header_would_be_of_no_message() -> None:
    answer = post(MESSAGES, {"messages": [item("a", 1)]}, {**bearer(), "Idempotency-Key": "k"})
    assert code(answer) == (400, "invalid-request")
    assert "idempotency_key" in answer.json()["error"]["fields"]["Idempotency-Key"]


def test_one_refused_channel_refuses_all() -> None:
    items = [item("a", 1), item("c", 1), item("b", 1), item("c", 2)]
    answer = post(MESSAGES, {"messages": items}, bearer(publish=["a"]))
    assert code(answer) == (403, "forbidden")
    assert answer.json()["error"]["message"] == "You do not have permission to publish to c, b."
    assert not Message.objects.exists()


class CountingPolicy(BasePolicy):
    asked: list[list[str]] = []

    def denied_publish_channels(self, request: HttpRequest, channels: Any) -> list[str]:
        self.asked.append(list(channels))
        assert isinstance(request, HttpRequest)
        return []


@override_settings(STREAMS={"POLICY": "tests.api.test_messages.CountingPolicy"})
def test_policy_is_asked_once_for_all_channels() -> None:
    CountingPolicy.asked.clear()
    assert post(MESSAGES, {"messages": [item(f"c{n % 3}", n) for n in range(1000)]}, bearer()).status_code == 201
    assert CountingPolicy.asked == [["c0", "c1", "c2"]]
    assert Message.objects.count() == 1000


# --- History ----------------------------------------------------------------------------------------------------------


def ids(answer: Any) -> list[int]:
    return [each["id"] for each in answer.json()["messages"]]


def test_history_is_followed_page_by_page() -> None:
    publish_many([NewMessage("news" if n % 2 else "other", n, event="alert") for n in range(1, 8)])
    answer = get(CHANNEL_MESSAGES, limit=3)
    page = answer.json()
    assert ids(answer) == [1, 3, 5]
    assert page["messages"][0] == {
        "id": 1,
        "event": "alert",
        "data": "1",
        "created_at": Message.objects.get(position=1).created_at.isoformat().replace("+00:00", "Z"),
    }
    assert (page["earliest"], page["head"], page["gap"]) == (1, 7, False)
    last = get(page["next"])
    assert (ids(last), last.json()["next"]) == ([7], None)


def test_history_is_followed_backwards() -> None:
    publish_many([NewMessage("news", n) for n in range(1, 8)])
    answer = get(CHANNEL_MESSAGES, before=999, limit=3)
    assert ids(answer) == [5, 6, 7]
    answer = get(answer.json()["next"])
    assert ids(answer) == [2, 3, 4]
    answer = get(answer.json()["next"])
    assert (ids(answer), answer.json()["next"]) == ([1], None)


def test_history_between_two_positions() -> None:
    publish_many([NewMessage("news", n) for n in range(1, 8)])
    answer = get(CHANNEL_MESSAGES, after=2, before=6, limit=2)
    assert ids(answer) == [3, 4]
    assert (ids(get(answer.json()["next"])), get(answer.json()["next"]).json()["next"]) == ([5], None)
    assert ids(get(CHANNEL_MESSAGES, after=6, before=2)) == []


def test_history_of_a_channel_that_nobody_has_used_is_empty() -> None:
    assert get("/api/channels/unused/messages/", bearer()).json() == {
        "messages": [],
        "earliest": None,
        "head": 0,
        "gap": False,
        "next": None,
    }


def test_history_never_hides_a_gap() -> None:
    publish_many([NewMessage("news", n) for n in range(1, 6)])
    log.delete_through(2, limit=10)
    assert get(CHANNEL_MESSAGES, after=1).json()["gap"] is True
    assert get(CHANNEL_MESSAGES, after=2).json()["gap"] is False
    assert get(CHANNEL_MESSAGES, after=6).json()["gap"] is True, "the position is above the head"
    assert get(CHANNEL_MESSAGES).json()["earliest"] == 3


def test_history_after_an_id_of_lost_history_has_a_gap() -> None:
    publish_many([NewMessage("news", n) for n in range(3)])
    log.start_new_epoch("restored", fork=2)
    publish("news", "new")
    assert get(CHANNEL_MESSAGES, after=3).json()["gap"] is True
    assert get(CHANNEL_MESSAGES, after=2).json()["gap"] is False


def test_page_of_large_messages_is_short() -> None:
    with override_settings(STREAMS={"PUBLIC_CHANNELS": ["news"], "MAX_MESSAGE_BYTES": 2_000_000}):
        publish_many([NewMessage("news", "x" * 400_000) for _ in range(3)])
        publish("news", "x" * 1_500_000)
        answer = get(CHANNEL_MESSAGES)
        assert ids(answer) == [1, 2]
        answer = get(answer.json()["next"])
        assert ids(answer) == [3]
        assert ids(get(answer.json()["next"])) == [4]


@pytest.mark.parametrize(
    "query",
    [
        *({"after": value} for value in ("-1", "x", "1" * 19, "٣")),
        *({"before": value} for value in ("", "\0", "1e3")),
        *({"limit": value} for value in ("0", "251", "9" * 30, "1.5")),
    ],
)
def test_position_and_limit_that_are_none_are_400(query: dict[str, str]) -> None:
    answer = get(CHANNEL_MESSAGES, **query)
    assert code(answer) == (400, "invalid-request")
    assert answer.json()["error"]["fields"].keys() == query.keys()


def test_largest_positions_are_taken() -> None:
    publish("news", "x")
    assert ids(get(CHANNEL_MESSAGES, before="9" * 18)) == [1]
    assert ids(get(CHANNEL_MESSAGES, after="9" * 18)) == []


def test_history_that_may_not_be_read_is_403_in_the_policys_words() -> None:
    answer = get("/api/channels/staff/messages/")
    assert code(answer) == (403, "forbidden")
    assert "You do not have permission to read staff." in answer.json()["error"]["message"]


def test_history_costs_the_same_however_long_it_is() -> None:
    counts = []
    for _ in range(2):
        publish_many([NewMessage("news", n) for n in range(100)])
        with CaptureQueriesContext(connection) as queries:
            get(CHANNEL_MESSAGES, limit=200)
        counts.append(len(queries))
    assert counts[0] == counts[1] <= 8


def test_history_after_pruning_by_age_goes_on() -> None:
    publish_many([NewMessage("news", n) for n in range(3)])
    with override_settings(STREAMS={"PUBLIC_CHANNELS": ["news"], "RETENTION_MESSAGES_PER_CHANNEL": 1}):
        prune()
        assert ids(get(CHANNEL_MESSAGES)) == [3]
