"""The list of channels, the page of a channel, and their permissions."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import DELETION, LogEntry
from django.test import Client
from django.urls import reverse

from streams import NewMessage, log, publish, publish_many
from streams.models import Channel, ChannelSettings, LogHead, Message, Node
from streams.presence import counter
from tests.admin.channels.support import EDITOR, HOSTILE, LIST, listed, page, save, text_of
from tests.admin.people import node, staff

pytestmark = pytest.mark.django_db


def test_empty_list_explains() -> None:
    assert "There are no channels yet." in text_of(staff("view_channelsettings").get(LIST))


def test_list_shows_each_known_channel_once() -> None:
    publish("in.log", "x")
    publish("in-all", "x")
    ChannelSettings.objects.create(channel="settled")
    ChannelSettings.objects.create(channel="in-all")
    node({"heard": 3, "in-all": 2})
    assert sorted(listed(staff("view_channelsettings"))) == ["heard", "in-all", "in.log", "settled"]


def test_pages_show_each_channel_once() -> None:
    everything = [f"{a}{b}{n}" for a in "aAbB_" for b in (".", "-", "_", "x", "X") for n in range(8)]
    publish_many([NewMessage(name, "x") for name in everything[::3]])
    for name in everything[1::3]:
        ChannelSettings.objects.create(channel=name)
    node(dict.fromkeys(everything[2::3] + everything[:40:4], 1))
    client, found, query = staff("view_channelsettings"), [], ""
    while True:
        response = client.get(f"{LIST}{query}")
        found += [fact.name for fact, _ in response.context["channels"]]
        if not (query := response.context["next_url"]):
            break
        assert "Next page" in text_of(response)
    assert len(found) == len(everything)
    assert set(found) == set(everything)


def test_search_is_by_prefix_with_case() -> None:
    publish_many([NewMessage(name, "x") for name in ("new", "news", "News", "news.a", "NEWS.b", "old.news")])
    ChannelSettings.objects.create(channel="news-settled")
    ChannelSettings.objects.create(channel="NEWS-settled")
    ChannelSettings.objects.create(channel="newsX")
    node({"news.heard": 1, "News.heard": 1})
    client = staff("view_channelsettings")
    assert sorted(listed(client, "?q=news")) == ["news", "news-settled", "news.a", "news.heard", "newsX"]
    assert sorted(listed(client, "?q=news.")) == ["news.a", "news.heard"]
    assert "No channel name starts with “newz”" in text_of(client.get(f"{LIST}?q=newz"))


def test_search_goes_on_over_pages() -> None:
    publish_many([NewMessage(f"user.{n}", "x") for n in range(120)])
    publish_many([NewMessage(f"aser.{n}", "x") for n in range(60)])
    client, found, query = staff("view_channelsettings"), [], "?q=user."
    while query:
        response = client.get(f"{LIST}{query}")
        found += [fact.name for fact, _ in response.context["channels"]]
        query = response.context["next_url"]
    assert sorted(found) == sorted(f"user.{n}" for n in range(120))


def test_search_links_to_unknown_name() -> None:
    response = staff("view_channelsettings").get(f"{LIST}?q=some_new.name")
    assert response.context["page_url"] == page("some_new.name")


@pytest.mark.parametrize("text", ["%00", "%3Cscript%3E", "%F0%9F%92%A9", "a" * 500, "%25", "*", "%ED%A0%80"])
def test_garbage_finds_nothing_and_breaks_nothing(text: str) -> None:
    publish("news", "x")
    client = staff("view_channelsettings")
    assert listed(client, f"?q={text}") == []
    assert listed(client, f"?after={text}") == []


def test_row_shows_channel_details() -> None:
    publish_many([NewMessage("news", "x"), NewMessage("other", "x"), NewMessage("news", "y")])
    log.delete_through(1, channel="news", limit=1)
    ChannelSettings.objects.create(channel="news", title=HOSTILE, access="staff", retention_seconds=86_400)
    node({"news": 7})
    response = staff("view_channelsettings").get(f"{LIST}?q=news")
    ((fact, _),) = response.context["channels"]
    assert (fact.newest, fact.count, fact.pruned_through, fact.connections) == (3, 1, 1, 7)
    text = text_of(response)
    assert "1 day (own setting)" in text
    assert "staff, by the channel&#x27;s settings" in text
    assert "<img src=x" not in text
    assert "U+202E" in text
    assert "{{ 7|add:7 }}" in text


def test_incomplete_reports_make_connections_unknown() -> None:
    publish("quiet", "x")
    client = staff("view_channelsettings")
    node({"busy": 7})
    assert {fact.name: fact.connections for fact, _ in client.get(LIST).context["channels"]} == {"busy": 7, "quiet": 0}
    Node.objects.update(channels_left_out=3)
    response = client.get(LIST)
    assert {fact.name: fact.connections for fact, _ in response.context["channels"]} == {"busy": 7, "quiet": None}
    assert "unknown" in text_of(response)
    assert "unknown" in text_of(client.get(page("quiet")))
    assert "unknown" not in text_of(client.get(page("busy")))
    Node.objects.update(id=counter.process.node_id)
    assert client.get(page("quiet")).context["details"].connections == 0, (
        "a process knows all channels of its own streams"
    )


def test_pruned_mark_includes_the_floor() -> None:
    publish("news", "x")
    LogHead.objects.update(floor=40)
    Channel.objects.create(name="news", pruned_through=50)
    ChannelSettings.objects.create(channel="other")
    facts = [fact for fact, _ in staff("view_channelsettings").get(LIST).context["channels"]]
    assert {fact.name: fact.pruned_through for fact in facts} == {"news": 50, "other": 40}


def test_message_count_is_limited() -> None:
    publish_many([NewMessage("busy", "x") for _ in range(10_000)])
    client = staff("view_channelsettings")
    assert ">10000<" in client.get(LIST).content.decode()
    publish("busy", "x")
    assert ">10000+<" in client.get(LIST).content.decode()


def test_ids_have_no_thousand_separators(settings: Any) -> None:
    settings.USE_THOUSAND_SEPARATOR = True
    publish("news", "x")
    Message.objects.update(position=1_234_567)
    LogHead.objects.update(head=1_234_567)
    Channel.objects.create(name="news", pruned_through=1_234_566)
    client = staff("view_channelsettings", "view_message")
    for text in (text_of(client.get(LIST)), text_of(client.get(page("news")))):
        assert "Event 1234567" in text
        assert "1234566" in text
        assert "1,234,56" not in text


def test_list_uses_constant_number_of_queries(django_assert_max_num_queries: Any) -> None:
    # Tests do not cache the access rules, so that the description of each channel's readers needs a query.
    client = staff("view_channelsettings")
    publish_many([NewMessage(f"c{n}", "x") for n in range(60)])
    with django_assert_max_num_queries(17 + 50):
        assert len(listed(client)) == 50


@pytest.mark.parametrize("channel", ["news", "a.b-c_d", "_5F", ".", "..", "add", "-", "A" * 99])
def test_list_links_to_every_channel(channel: str) -> None:
    publish(channel, "hello")
    client = staff("view_channelsettings", "view_message")
    ((_, url),) = client.get(LIST).context["channels"]
    assert "/./" not in url
    assert "/../" not in url
    response = client.get(url)
    assert response.status_code == 200
    assert response.context["details"].name == channel
    assert response.context["details"].count == 1


@pytest.mark.parametrize("name", ["news room", "a" * 100, "%00", "ü", "a%2Fb", "%3Cscript%3E"])
def test_invalid_channel_name_is_not_found(name: str) -> None:
    for kind in ("change", "delete", "history"):
        assert staff(*EDITOR).get(f"{LIST}{name}/{kind}/").status_code == 404


def test_unknown_channel_has_an_empty_page() -> None:
    text = text_of(staff("view_channelsettings", "view_message").get(page("nowhere")))
    assert "This channel has no messages." in text
    assert "nothing was deleted" in text
    assert "http://testserver/events/?channel=nowhere" in text


def test_newest_messages_need_permission() -> None:
    rows = publish_many([NewMessage("news", f"{n} {HOSTILE}") for n in range(7)])
    text = text_of(staff("view_channelsettings", "view_message").get(page("news")))
    assert "<img src=x" not in text
    assert f'href="{reverse("admin:streams_message_change", args=[rows[6].pk])}"' in text
    assert [f">{position}</a>" in text for position in range(1, 8)] == [False, False, True, True, True, True, True]
    assert "Watch in live monitor" in text
    without = text_of(staff("view_channelsettings").get(page("news")))
    assert "Newest messages" not in without
    assert "Watch in live monitor" not in without
    assert "onerror" not in without


def test_pages_need_permissions() -> None:
    ChannelSettings.objects.create(channel="news")
    client = staff("view_message", "delete_channelsettings", "add_channelsettings")
    for url in (LIST, page("news"), page("news", "delete"), page("news", "history")):
        assert client.get(url).status_code == 403
        assert client.post(url, {"access": "public"}).status_code == 403
    assert Client().get(LIST).status_code == 302
    assert ChannelSettings.objects.get().access == ""


def test_viewer_cannot_save_settings() -> None:
    ChannelSettings.objects.create(channel="news", access="logged-in", retention_seconds=0)
    client = staff("view_channelsettings")
    text = text_of(client.get(page("news")))
    assert '<form method="post" id="settings"' not in text
    assert "Users who are logged in. forever (own setting)" in text
    assert "“Can change channel”" in text
    assert "“Can change channel”" in text_of(client.get(page("other")))
    assert client.post(page("news"), {"access": "public"}).status_code == 403
    assert client.post(page("other"), {"access": "public"}).status_code == 403
    assert client.post(page("news", "delete")).status_code == 403
    assert ChannelSettings.objects.get().access == "logged-in"


def test_change_permission_allows_any_channel() -> None:
    ChannelSettings.objects.create(channel="settled")
    adds = staff("view_channelsettings", "add_channelsettings")
    changes = staff("change_channelsettings", "view_message")
    for channel in ("settled", "new"):
        assert save(adds, channel, {"access": "public"}).status_code == 403
        assert "“Can change channel”" in text_of(adds.get(page(channel)))
        assert save(changes, channel, {"access": "staff"}).status_code == 302
        assert changes.post(page(channel, "delete")).status_code == 403
    assert set(ChannelSettings.objects.values_list("channel", "access")) == {("new", "staff"), ("settled", "staff")}
    assert "can delete messages by reducing how long they are kept" in text_of(changes.get(page("other")))


def test_post_without_csrf_token_is_refused() -> None:
    client = staff(*EDITOR)
    client.handler.enforce_csrf_checks = True
    assert client.post(page("news"), {"access": "public"}).status_code == 403
    assert not ChannelSettings.objects.exists()


def test_custom_policy_is_mentioned(settings: Any) -> None:
    client = staff(*EDITOR)
    assert "has a custom policy" not in text_of(client.get(page("news")))
    settings.STREAMS = {"POLICY": "streams.policies.BasePolicy"}
    assert "has a custom policy, streams.policies.BasePolicy" in text_of(client.get(page("news")))


def test_reset_asks_then_deletes_settings() -> None:
    ChannelSettings.objects.create(channel="news", access="staff")
    client = staff(*EDITOR)
    confirmation = text_of(client.get(page("news", "delete")))
    assert "It does not delete messages immediately." in confirmation
    assert ChannelSettings.objects.exists()
    answer = client.post(page("news", "delete"), follow=True)
    assert "The site’s settings now apply to news." in text_of(answer)
    assert not ChannelSettings.objects.exists()
    assert LogEntry.objects.get().action_flag == DELETION
    again = client.post(page("news", "delete"), follow=True)
    assert "Channel news has no settings of its own" in text_of(again)


def test_history_shows_the_named_channel() -> None:
    for channel in ("a_5F", "a_"):
        save(staff(*EDITOR), channel, {"title": channel})
    response = staff(*EDITOR).get(page("a_5F", "history"))
    assert response.status_code == 200
    assert [entry.object_id for entry in response.context["action_list"]] == ["a_5F"]
