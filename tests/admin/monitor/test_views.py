"""The live monitor's pages: the selection of channels, and the data for its script.

The tests of the script are in tests/system/browser.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext
from django.utils.html import escape

from streams import NewMessage, log, publish, publish_many
from streams.models import LogHead, Message
from streams.policies import DefaultPolicy
from tests.admin.people import staff

pytestmark = pytest.mark.django_db

MONITOR = "/admin/streams/monitor/"
GARBAGE = ["", "%00", "-1", "1.5", "0x1", "９", "1" * 400, "a", "%F0%9F%92%A9", "1;DROP", "%ED%A0%80", "null", "[]"]


def watch(client: Client, query: str) -> dict[str, Any]:
    """Return the data that the page contains for its script."""
    response = client.get(f"{MONITOR}{query}")
    assert response.status_code == 200
    watched: dict[str, Any] = response.context["watch"]
    return watched


class Closed(DefaultPolicy):
    """Refuse one channel to all users, including staff."""

    def can_subscribe(self, request: Any, channel: str) -> bool:
        return channel != "closed" and super().can_subscribe(request, channel)

    def denied_message(self, channels: Any) -> str:
        return f"Nobody reads <{', '.join(channels)}>."


# --- Permission -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "?channel=news", "types/?channel=news&after=0", "events/?ids=1"])
def test_monitor_needs_permission(path: str) -> None:
    publish("news", "secret")
    others = staff("add_message", "change_message", "delete_message", "view_channelsettings", "view_node")
    assert others.get(MONITOR + path).status_code == 403
    assert Client().get(MONITOR + path).status_code == 302
    User.objects.create_user("plain")
    plain = Client()
    plain.force_login(User.objects.get(username="plain"))
    assert plain.get(MONITOR + path).status_code == 302
    assert staff("view_message").get(MONITOR + path).status_code == 200


def test_index_shows_monitor_by_permission() -> None:
    assert MONITOR in staff("view_message").get("/admin/").content.decode()
    assert MONITOR not in staff("view_node").get("/admin/").content.decode()


@pytest.mark.parametrize("path", ["add/", "1/", "1/change/", "1/delete/", "1/history/"])
def test_processes_cannot_be_edited(path: str) -> None:
    publish("news", "x")
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    assert client.get(MONITOR + path).status_code == 404


# --- Selected channels ------------------------------------------------------------------------------------------------


def test_page_without_channels_suggests_some() -> None:
    publish_many([NewMessage("news", "x"), NewMessage("weather", "x")])
    response = staff("view_message").get(MONITOR)
    text = response.content.decode()
    assert "watch" not in response.context
    assert '<option value="news">' in text
    assert '<option value="weather">' in text
    assert "monitor.js" not in text


@pytest.mark.parametrize(
    "query", ["?channel=a+b,c", "?channel=a&channel=b&channel=c", "?channel=%20a,,b%0Ac%20", "?channel=a+b+c+a"]
)
def test_channels_are_separated_or_repeated(query: str) -> None:
    watched = watch(staff("view_message"), query)
    assert watched["channels"] == ["a", "b", "c"]
    assert watched["stream"] == "/events/?channel=a&channel=b&channel=c"


def test_start_is_head_id_or_newest() -> None:
    publish_many([NewMessage("news", "x") for _ in range(5)])
    client = staff("view_message")
    now = watch(client, "?channel=news")
    assert (now["after"], now["replay"]) == (5, 0)
    after = watch(client, "?channel=news&start=after&id=2")
    assert (after["after"], after["replay"]) == (2, 0)
    newest = watch(client, "?channel=news&start=newest&n=3")
    assert (newest["after"], newest["replay"]) == (5, 3)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("channel=", "Enter at least one channel"),
        ("channel=%20,%20", "Enter at least one channel"),
        ("channel=caf%C3%A9", "“café” is not a valid channel name. Use A-Z a-z 0-9 . _ - and at most 99 characters."),
        ("channel=%00", "is not a valid channel name"),
        ("channel=" + "a" * 100, "is not a valid channel name"),
        ("channel=<script>alert(1)</script>", "“<script>alert(1)</script>” is not"),
        ("channel=a&start=after&id=", "Enter an event id (a whole number, 0 or more); got “”."),
        ("channel=a&start=after&id=-1", "Enter an event id (a whole number, 0 or more); got “-1”."),
        ("channel=a&start=after&id=" + "9" * 19, "Enter an event id"),
        ("channel=a&start=after&id=%D9%A3", "Enter an event id"),
        ("channel=a&start=newest&n=0", "Enter a whole number from 1 to 1000 (MAX_REPLAY_MESSAGES); got “0”."),
        ("channel=a&start=newest&n=1001", "Enter a whole number from 1 to 1000"),
        ("channel=a&start=newest&n=x", "Enter a whole number from 1 to 1000"),
        ("channel=a&start=tomorrow", "Choose where to start"),
        ("channel=a&start=%00", "Choose where to start"),
    ],
    ids=lambda text: quote(text)[:40],
)
def test_invalid_selection_shows_field_error(query: str, expected: str) -> None:
    response = staff("view_message").get(f"{MONITOR}?{query}")
    assert response.status_code == 400
    assert escape(expected) in response.content.decode()
    assert "watch" not in response.context


@override_settings(STREAMS={"MAX_CHANNELS_PER_STREAM": 2})
def test_too_many_channels_are_refused() -> None:
    response = staff("view_message").get(f"{MONITOR}?channel=a+b+c")
    expected = "A stream can have at most 2 channels (MAX_CHANNELS_PER_STREAM); got 3."
    assert expected in response.content.decode()
    assert watch(staff("view_message"), "?channel=a+b")["channels"] == ["a", "b"]


@override_settings(STREAMS={"POLICY": f"{__name__}.Closed"})
def test_refused_channel_quotes_the_policy() -> None:
    client = staff("view_message")
    response = client.get(f"{MONITOR}?channel=news+closed")
    text = response.content.decode()
    assert response.status_code == 200
    assert "You do not have permission to read this stream" in text
    assert escape("Nobody reads <closed>.") in text
    assert "watch" not in response.context
    assert watch(client, "?channel=news")["channels"] == ["news"]


class Broken(DefaultPolicy):
    """Raise an exception for every request."""

    def can_subscribe(self, request: Any, channel: str) -> bool:
        raise ZeroDivisionError("secret")


@override_settings(STREAMS={"POLICY": f"{__name__}.Broken"})
def test_failing_policy_opens_nothing(caplog: pytest.LogCaptureFixture) -> None:
    response = staff("view_message").get(f"{MONITOR}?channel=news")
    assert response.status_code == 200
    assert "policy failed with ZeroDivisionError" in response.content.decode()
    assert "secret" not in response.content.decode()
    assert "watch" not in response.context
    assert "Broken failed" in caplog.text
    assert "secret" in caplog.text


@override_settings(ROOT_URLCONF="tests.admin.urls_without_streams")
def test_page_explains_missing_streams() -> None:
    response = staff("view_message").get(f"{MONITOR}?channel=news")
    assert "its urls.py does not include streams.urls" in response.content.decode()
    assert "watch" not in response.context


def test_script_data_cannot_inject_markup() -> None:
    hostile = "</script><script>alert(1)</script>"
    publish("news", "x", event=hostile)
    response = staff("view_message").get(f"{MONITOR}?channel=news")
    assert hostile in response.context["watch"]["types"]
    assert hostile not in response.content.decode()


def test_recent_types_are_known_from_start() -> None:
    publish_many([NewMessage("a", "x", event="alert"), NewMessage("b", "x", event="note"), NewMessage("c", "x", "no")])
    assert watch(staff("view_message"), "?channel=a+b")["types"] == ["alert", "message", "note"]


# --- types/ -----------------------------------------------------------------------------------------------------------


def types(client: Client, query: str) -> Any:
    response = client.get(f"{MONITOR}types/?{query}")
    assert response.status_code == 200, response.content
    return response.json()


def test_types_have_their_first_id() -> None:
    kinds = [("a", "one"), ("b", "two"), ("a", "three"), ("a", "one"), ("b", "three"), ("c", "four")]
    publish_many([NewMessage(channel, "x", event=kind) for channel, kind in kinds])
    client = staff("view_message")
    everything = types(client, "channel=a&channel=b&after=0")
    assert everything == {"types": {"one": 1, "two": 2, "three": 3}, "through": 6, "head": 6, "floor": 0}
    assert types(client, "channel=a+b&after=3")["types"] == {"one": 4, "three": 5}
    assert types(client, "channel=a&after=6") == {"types": {}, "through": 6, "head": 6, "floor": 6}
    assert types(client, "channel=a&after=999999999999999999")["types"] == {}


def test_types_response_has_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.admin.monitor.views.RECENT_MESSAGES", 3)
    publish_many([NewMessage("abc"[n % 3], "x") for n in range(12)])  # a has the ids 1 4 7 10, and b has 2 5 8 11
    client = staff("view_message")
    assert types(client, "channel=a+b&after=0")["floor"] == 7
    assert types(client, "channel=a&after=9")["floor"] == 3


def test_many_messages_take_several_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.admin.monitor.views.SEARCHED_MESSAGES", 4)
    publish_many([NewMessage("ab"[n % 2], "x", event=f"t{n}") for n in range(10)])
    client, found, after = staff("view_message"), {}, 0
    while True:
        answer = types(client, f"channel=a&channel=b&after={after}")
        found.update(answer["types"])
        if answer["through"] == answer["head"]:
            break
        assert answer["through"] == after + 4
        after = answer["through"]
    assert found == {f"t{n}": n + 1 for n in range(10)}


@pytest.mark.parametrize("after", GARBAGE)
def test_invalid_id_is_refused(after: str) -> None:
    response = staff("view_message").get(f"{MONITOR}types/?channel=a&after={after}")
    assert response.status_code == 400
    assert "“after” must be an event id (a whole number)" in json.loads(response.content)["errors"][0]


@pytest.mark.parametrize("channel", ["", "%00", "a/b", "%ED%A0%80", "a" * 100])
def test_invalid_channel_is_refused(channel: str) -> None:
    response = staff("view_message").get(f"{MONITOR}types/?channel={channel}&after=0")
    assert response.status_code == 400
    assert response.json()["errors"]
    assert staff("view_message").get(f"{MONITOR}types/?after=0").json()["errors"] == [
        "Add at least one channel to the URL, such as ?channel=news."
    ]


# --- events/ ----------------------------------------------------------------------------------------------------------


def test_channel_time_and_publisher_of_ids() -> None:
    author = User.objects.create_user("</script>ada")
    rows = [publish("a", "x"), publish("b", "x", published_by=author)]
    log.append([NewMessage("a", "unsequenced")])
    answer = staff("view_message").get(f"{MONITOR}events/?ids=2,1,77").json()["events"]
    assert answer == {
        "1": {"pk": rows[0].pk, "channel": "a", "at": rows[0].created_at.isoformat(), "by": ""},
        "2": {"pk": rows[1].pk, "channel": "b", "at": rows[1].created_at.isoformat(), "by": "</script>ada"},
    }


@pytest.mark.parametrize("ids", [*GARBAGE, ",", "1,,2", "1, 2", ",".join(["1"] * 201)], ids=lambda text: text[:20])
def test_invalid_ids_are_refused(ids: str) -> None:
    response = staff("view_message").get(f"{MONITOR}events/?ids={ids}")
    assert response.status_code == 400
    assert "at most 200 event ids" in response.json()["errors"][0]


def test_two_hundred_ids_need_one_query(django_assert_max_num_queries: Any) -> None:
    publish_many([NewMessage("a", "x") for _ in range(200)])
    client = staff("view_message")
    with django_assert_max_num_queries(5):
        answer = client.get(f"{MONITOR}events/?ids={','.join(map(str, range(1, 201)))}")
    assert len(answer.json()["events"]) == 200


def test_publishers_are_queried_separately() -> None:
    publish("a", "x", published_by=User.objects.create_user("ada"))
    client = staff("view_message")
    with CaptureQueriesContext(connection) as queries:
        answer = client.get(f"{MONITOR}events/?ids=1").json()["events"]
    assert answer["1"]["by"] == "ada"
    log_queries = [query["sql"] for query in queries if "streams_message" in query["sql"]]
    assert log_queries
    assert not [sql for sql in log_queries if "auth_user" in sql], "users can be in another database"


def test_looking_writes_nothing() -> None:
    log.append([NewMessage("a", "waits to be sequenced")])
    client = staff("view_message")
    for path in ("?channel=a", "types/?channel=a&after=0", "events/?ids=1"):
        client.get(MONITOR + path)
    assert Message.objects.get().position is None
    assert not LogHead.objects.filter(head__gt=0).exists()
