"""The list of channels over HTTP: readable channels only, in pages, with a constant number of queries."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.db import connection
from django.http import HttpRequest
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from streams import NewMessage, publish, publish_many
from streams.api.views import channels
from streams.models import ChannelSettings
from streams.policies import BasePolicy
from tests.admin.people import node
from tests.api.callers import CHANNELS, bearer, code, get, key, user

pytestmark = pytest.mark.django_db


def names(answer: Any) -> list[str]:
    return [each["channel"] for each in answer.json()["channels"]]


def test_channels_with_messages_settings_or_listeners_are_listed_with_their_heads() -> None:
    publish_many([NewMessage("b", 1), NewMessage("a", 1), NewMessage("b", 2)])
    ChannelSettings.objects.create(channel="settled")
    node({"a": 2, "heard": 1})
    assert get(CHANNELS, bearer()).json() == {
        "channels": [
            {"channel": "a", "head": 2, "listeners": 2},
            {"channel": "b", "head": 3, "listeners": 0},
            {"channel": "heard", "head": None, "listeners": 1},
            {"channel": "settled", "head": None, "listeners": 0},
        ],
        "next": None,
    }


def test_only_what_may_be_read_is_listed() -> None:
    group = Group.objects.create(name="crew")
    ChannelSettings.objects.create(channel="crew", access="groups").groups.add(group)
    plain, member = user("plain"), user("member")
    member.groups.add(group)
    publish_many([NewMessage(name, 1) for name in ("news", "staff", "crew", f"user.{plain.pk}")])
    assert names(get(CHANNELS)) == ["news"]
    assert names(get(CHANNELS, key(plain))) == ["news", f"user.{plain.pk}"]
    assert names(get(CHANNELS, key(member))) == ["crew", "news"]
    assert names(get(CHANNELS, bearer(read=["st*"]))) == ["news", "staff"]


def test_pages_are_full_whatever_lies_between() -> None:
    publish_many([NewMessage(f"{'public' if n % 3 else 'staff'}.{n:02}", n) for n in range(12)])
    with override_settings(STREAMS={"PUBLIC_CHANNELS": ["public.*"]}):
        found, url, plain = [], f"{CHANNELS}?limit=3", key(user("plain"))
        while url:
            answer = get(url, plain)
            found.append(names(answer))
            url = answer.json()["next"]
    assert [len(page) for page in found] == [3, 3, 2]
    assert [name for page in found for name in page] == [f"public.{n:02}" for n in range(12) if n % 3]


def test_work_for_a_page_is_bounded_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "MOST_NAMES", 4)
    monkeypatch.setattr(channels, "NAMES_AT_A_TIME", 2)
    publish_many([NewMessage(f"staff.{n}", n) for n in range(9)] + [NewMessage("the-last", 1)])
    rights = bearer(read=["the-la*"])
    answers = [get(CHANNELS, rights)]
    while url := answers[-1].json()["next"]:
        answers.append(get(url, rights))
    assert [names(answer) for answer in answers] == [[], [], ["the-last"]]


def test_prefix_and_after() -> None:
    publish_many([NewMessage(name, 1) for name in ("a.1", "a.2", "a.3", "b.1")])
    assert names(get(CHANNELS, bearer(), prefix="a.")) == ["a.1", "a.2", "a.3"]
    answer = get(CHANNELS, bearer(), prefix="a.", limit=2)
    assert names(get(answer.json()["next"], bearer())) == ["a.3"]
    assert names(get(CHANNELS, bearer(), after="a.3")) == ["b.1"]


# --- Secret names -----------------------------------------------------------------------------------------------------

OPEN = {"PUBLIC_CHANNELS": ["news", "job.*", "room.?", "day.[12]"]}


@override_settings(STREAMS=OPEN)
def test_anonymous_caller_gets_only_channels_that_are_named() -> None:
    """A channel that only matches a public pattern can be read, but the client must know or guess its name."""
    secret = "job.4f9a1c"
    publish_many([NewMessage(name, 1) for name in (secret, "room.1", "day.1", "staff")])
    node({"job.heard": 1})
    ChannelSettings.objects.create(channel="job.settled", title="A job")
    ChannelSettings.objects.create(channel="job.open", access="public")
    ChannelSettings.objects.create(channel="members", access="logged-in")
    assert get(f"{CHANNELS}{secret}/").status_code == 200
    assert names(get(CHANNELS)) == ["job.open", "news"]
    assert names(get(CHANNELS, prefix="job.")) == ["job.open"]
    assert names(get(CHANNELS, after="job.open")) == ["news"]
    assert secret in names(get(CHANNELS, key(user("plain"))))
    assert secret in names(get(CHANNELS, key(user("root", is_superuser=True, is_staff=True))))


@override_settings(STREAMS=OPEN)
def test_named_channel_that_staff_have_closed_is_not_listed() -> None:
    ChannelSettings.objects.create(channel="news", access="staff")
    assert names(get(CHANNELS)) == []


@override_settings(STREAMS=OPEN)
def test_token_lists_what_it_names_or_matches() -> None:
    publish_many([NewMessage(name, 1) for name in ("job.1", "job.2", "job.30", "news", "staff")])
    assert names(get(CHANNELS, bearer(read=["job.2", "new"]))) == ["job.2", "new", "news"]
    assert names(get(CHANNELS, bearer(read=["job.3*", "job.1"]))) == ["job.1", "job.30", "news"]
    assert names(get(CHANNELS, bearer(publish=["staff"]))) == ["news"]


class OpenToAll(BasePolicy):
    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        return channel != "named.2"


@override_settings(STREAMS={"POLICY": f"{__name__}.OpenToAll", "PUBLIC_CHANNELS": ["named.1", "named.2"]})
def test_policy_of_the_site_decides_among_named_channels() -> None:
    publish("not-named", 1)
    assert names(get(CHANNELS)) == ["named.1"]


def test_anonymous_call_does_not_look_through_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    publish_many([NewMessage(f"public.{n}", n) for n in range(50)])
    monkeypatch.setattr("streams.log.catalog.known_names", None)
    monkeypatch.setattr("streams.presence.totals.audience_by_channel", None)
    for query in ({}, {"prefix": "public."}, {"after": "public.1"}):
        assert get(CHANNELS, **query).status_code == 200
        assert get(CHANNELS, bearer(read=["public.1"]), **query).status_code == 200


def test_named_channels_come_page_by_page() -> None:
    public = [f"room.{n:02}" for n in range(7)]
    with override_settings(STREAMS={"PUBLIC_CHANNELS": public}):
        found, url = [], f"{CHANNELS}?limit=3"
        while url:
            answer = get(url)
            found.append(names(answer))
            url = answer.json()["next"]
    assert found == [public[:3], public[3:6], public[6:]]


def test_search_by_prefix_ends_with_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other names are not read, so they do not count towards the limit or cause empty pages."""
    monkeypatch.setattr(channels, "MOST_NAMES", 20)
    monkeypatch.setattr(channels, "NAMES_AT_A_TIME", 5)
    publish_many([NewMessage(f"a.{n:02}", n) for n in range(50)] + [NewMessage(f"b.{n:02}", n) for n in range(50)])
    answer = get(CHANNELS, bearer(), prefix="b.0")
    assert names(answer) == [f"b.{n:02}" for n in range(10)]
    assert answer.json()["next"] is None


# --- Requests in general ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", [{"after": "a b"}, {"prefix": "\0"}, {"prefix": "x" * 100}, {"limit": "x"}])
def test_what_is_no_name_is_400(query: dict[str, str]) -> None:
    assert code(get(CHANNELS, bearer(), **query)) == (400, "invalid-request")


def test_listing_costs_the_same_however_many_channels_there_are() -> None:
    reader = key(user("reader", "view_message", is_staff=True))
    counts = []
    for start in (0, 100):
        publish_many([NewMessage(f"c{start + n}", n) for n in range(60)])
        with CaptureQueriesContext(connection) as queries:
            assert get(CHANNELS, reader, limit=250).status_code == 200
        counts.append(len(queries))
    assert counts[0] == counts[1]


def test_a_channel_that_nobody_has_used_is_empty_and_no_error() -> None:
    publish("news", 1)
    publish("news", 2)
    assert get(f"{CHANNELS}news/").json() == {"channel": "news", "head": 2, "listeners": 0, "earliest": 1}
    assert get(f"{CHANNELS}unused/", bearer()).json() == {
        "channel": "unused",
        "head": None,
        "listeners": 0,
        "earliest": None,
    }
    assert code(get(f"{CHANNELS}unused/")) == (403, "forbidden")
    assert code(get(f"{CHANNELS}a b/", bearer())) == (400, "invalid-channel")
