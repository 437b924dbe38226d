"""Channels in the admin: which are listed, what their pages say, and who may settle what."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.contrib.auth.models import Group
from django.test import Client
from django.urls import reverse
from django.utils.html import escape

from streams import NewMessage, log, presence, publish, publish_many
from streams.admin.channel_facts import retention_in_words, seconds_in_words
from streams.admin.channel_form import ChangedMeanwhile, ChannelForm, digest_of
from streams.models import Channel, ChannelSettings, LogHead, Message, Node
from streams.survey import known_names
from tests.admin.people import node, staff

pytestmark = pytest.mark.django_db

LIST = "/admin/streams/channelsettings/"
EDITOR = (
    *("view_channelsettings", "add_channelsettings", "change_channelsettings", "delete_channelsettings"),
    "view_message",  # to let more people read
)
HOSTILE = "</script><img src=x onerror=alert(1)> {{ 7|add:7 }} {% now %} \u202e\u200b \"'&"


def page(channel: str, kind: str = "change") -> str:
    return f"{LIST}{channel.replace('_', '_5F')}/{kind}/"


def text_of(response: Any) -> str:
    return " ".join(response.content.decode().split())


def save(client: Client, channel: str, fields: dict[str, Any], **kwargs: Any) -> Any:
    """Load the page of a channel, and save its form with these values."""
    seen = client.get(page(channel)).context["seen"]
    return client.post(page(channel), {**fields, "seen": seen}, **kwargs)


def listed(client: Client, query: str = "") -> list[str]:
    response = client.get(f"{LIST}{query}")
    assert response.status_code == 200
    return [fact.name for fact, _ in response.context["channels"]]


# --- The list ---------------------------------------------------------------------------------------------------------


def test_list_says_so_where_there_are_no_channels() -> None:
    assert "No channels yet." in text_of(staff("view_channelsettings").get(LIST))


def test_list_has_channels_with_messages_with_settings_and_with_listeners_each_once() -> None:
    publish("in.log", "x")
    publish("in-all", "x")
    ChannelSettings.objects.create(channel="settled")
    ChannelSettings.objects.create(channel="in-all")
    node({"heard": 3, "in-all": 2})
    assert sorted(listed(staff("view_channelsettings"))) == ["heard", "in-all", "in.log", "settled"]


def test_pages_of_the_list_lose_no_name_and_show_none_twice() -> None:
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


def test_search_is_by_the_beginning_of_the_name_and_case_counts() -> None:
    publish_many([NewMessage(name, "x") for name in ("new", "news", "News", "news.a", "NEWS.b", "old.news")])
    ChannelSettings.objects.create(channel="news-settled")
    ChannelSettings.objects.create(channel="NEWS-settled")
    ChannelSettings.objects.create(channel="newsX")
    node({"news.heard": 1, "News.heard": 1})
    client = staff("view_channelsettings")
    assert sorted(listed(client, "?q=news")) == ["news", "news-settled", "news.a", "news.heard", "newsX"]
    assert sorted(listed(client, "?q=news.")) == ["news.a", "news.heard"]
    assert "No channel begins with “newz”" in text_of(client.get(f"{LIST}?q=newz"))


def test_search_goes_on_over_pages() -> None:
    publish_many([NewMessage(f"user.{n}", "x") for n in range(120)])
    publish_many([NewMessage(f"aser.{n}", "x") for n in range(60)])
    client, found, query = staff("view_channelsettings"), [], "?q=user."
    while query:
        response = client.get(f"{LIST}{query}")
        found += [fact.name for fact, _ in response.context["channels"]]
        query = response.context["next_url"]
    assert sorted(found) == sorted(f"user.{n}" for n in range(120))


def test_search_for_a_name_that_is_unknown_leads_to_its_page() -> None:
    response = staff("view_channelsettings").get(f"{LIST}?q=some_new.name")
    assert response.context["named_url"] == page("some_new.name")


@pytest.mark.parametrize("text", ["%00", "%3Cscript%3E", "%F0%9F%92%A9", "a" * 500, "%25", "*", "%ED%A0%80"])
def test_garbage_finds_nothing_and_breaks_nothing(text: str) -> None:
    publish("news", "x")
    client = staff("view_channelsettings")
    assert listed(client, f"?q={text}") == []
    assert listed(client, f"?after={text}") == []


def test_row_says_what_is_known_of_the_channel() -> None:
    publish_many([NewMessage("news", "x"), NewMessage("other", "x"), NewMessage("news", "y")])
    log.delete_through(1, channel="news", limit=1)
    ChannelSettings.objects.create(channel="news", title=HOSTILE, access="staff", retention_seconds=86_400)
    node({"news": 7})
    response = staff("view_channelsettings").get(f"{LIST}?q=news")
    ((fact, _),) = response.context["channels"]
    assert (fact.newest, fact.count, fact.pruned_through, fact.listeners) == (3, 1, 1, 7)
    text = text_of(response)
    assert "1 day (its own)" in text
    assert "staff, by the channel&#x27;s settings" in text
    assert "<img src=x" not in text
    assert "U+202E" in text
    assert "{{ 7|add:7 }}" in text


def test_listeners_are_not_known_where_a_process_has_more_channels_than_it_lists() -> None:
    publish("quiet", "x")
    client = staff("view_channelsettings")
    node({"busy": 7})
    assert {fact.name: fact.listeners for fact, _ in client.get(LIST).context["channels"]} == {"busy": 7, "quiet": 0}
    Node.objects.update(channels_left_out=3)
    response = client.get(LIST)
    assert {fact.name: fact.listeners for fact, _ in response.context["channels"]} == {"busy": 7, "quiet": None}
    assert "not known" in text_of(response)
    assert "not known" in text_of(client.get(page("quiet")))
    assert "not known" not in text_of(client.get(page("busy")))
    Node.objects.update(id=presence.node_id())
    assert client.get(page("quiet")).context["fact"].listeners == 0, "of its own streams, a process knows all"


def test_what_was_pruned_is_known_from_the_floor_as_well() -> None:
    publish("news", "x")
    LogHead.objects.update(floor=40)
    Channel.objects.create(name="news", pruned_through=50)
    ChannelSettings.objects.create(channel="other")
    facts = [fact for fact, _ in staff("view_channelsettings").get(LIST).context["channels"]]
    assert {fact.name: fact.pruned_through for fact in facts} == {"news": 50, "other": 40}


def test_messages_are_counted_up_to_a_limit() -> None:
    publish_many([NewMessage("busy", "x") for _ in range(10_000)])
    client = staff("view_channelsettings")
    assert ">10000<" in client.get(LIST).content.decode()
    publish("busy", "x")
    assert ">10000+<" in client.get(LIST).content.decode()


def test_ids_are_written_as_they_are_also_where_numbers_have_separators(settings: Any) -> None:
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


def test_list_costs_the_same_for_fifty_channels_as_for_one(django_assert_max_num_queries: Any) -> None:
    # In a test the policy's rules are not kept, so that each channel's words for its readers cost a query of their own.
    client = staff("view_channelsettings")
    publish_many([NewMessage(f"c{n}", "x") for n in range(60)])
    with django_assert_max_num_queries(17 + 50):
        assert len(listed(client)) == 50


# --- A channel's page -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["news", "a.b-c_d", "_5F", ".", "..", "add", "-", "A" * 99])
def test_every_channel_has_a_page_that_the_list_leads_to(channel: str) -> None:
    publish(channel, "hello")
    client = staff("view_channelsettings", "view_message")
    ((_, url),) = client.get(LIST).context["channels"]
    assert "/./" not in url
    assert "/../" not in url
    response = client.get(url)
    assert response.status_code == 200
    assert response.context["fact"].name == channel
    assert response.context["fact"].count == 1


@pytest.mark.parametrize("name", ["news room", "a" * 100, "%00", "ü", "a%2Fb", "%3Cscript%3E"])
def test_name_that_is_none_is_not_found(name: str) -> None:
    for kind in ("change", "delete", "history"):
        assert staff(*EDITOR).get(f"{LIST}{name}/{kind}/").status_code == 404


def test_page_of_a_channel_that_nobody_knows_is_empty_and_says_so() -> None:
    text = text_of(staff("view_channelsettings", "view_message").get(page("nowhere")))
    assert "No messages of this channel are in the log." in text
    assert "nothing was pruned" in text
    assert "http://testserver/events/?channel=nowhere" in text


def test_newest_messages_are_shown_as_text_and_to_whom_may_see_messages_alone() -> None:
    rows = publish_many([NewMessage("news", f"{n} {HOSTILE}") for n in range(7)])
    text = text_of(staff("view_channelsettings", "view_message").get(page("news")))
    assert "<img src=x" not in text
    assert f'href="{reverse("admin:streams_message_change", args=[rows[6].pk])}"' in text
    assert [f">{position}</a>" in text for position in range(1, 8)] == [False, False, True, True, True, True, True]
    assert "Monitor this channel" in text
    without = text_of(staff("view_channelsettings").get(page("news")))
    assert "Newest messages" not in without
    assert "Monitor this channel" not in without
    assert "onerror" not in without


# --- Who may ----------------------------------------------------------------------------------------------------------


def test_without_a_permission_nothing_is_shown_or_stored() -> None:
    ChannelSettings.objects.create(channel="news")
    nobody = staff("view_message", "delete_channelsettings", "add_channelsettings")
    for url in (LIST, page("news"), page("news", "delete"), page("news", "history")):
        assert nobody.get(url).status_code == 403
        assert nobody.post(url, {"access": "public"}).status_code == 403
    assert Client().get(LIST).status_code == 302
    assert ChannelSettings.objects.get().access == ""


def test_viewer_sees_the_settings_as_facts_and_stores_none() -> None:
    ChannelSettings.objects.create(channel="news", access="signed-in", retention_seconds=0)
    client = staff("view_channelsettings")
    text = text_of(client.get(page("news")))
    assert '<form method="post" id="settings"' not in text
    assert "Users who are signed in. for ever (its own)" in text
    assert "“Can change channel”" in text
    assert "“Can change channel”" in text_of(client.get(page("other")))
    assert client.post(page("news"), {"access": "public"}).status_code == 403
    assert client.post(page("other"), {"access": "public"}).status_code == 403
    assert client.post(page("news", "delete")).status_code == 403
    assert ChannelSettings.objects.get().access == "signed-in"


def test_who_may_change_settings_may_settle_something_for_any_channel_and_nobody_else_may() -> None:
    ChannelSettings.objects.create(channel="settled")
    adds = staff("view_channelsettings", "add_channelsettings")
    changes = staff("change_channelsettings", "view_message")
    for channel in ("settled", "new"):
        assert save(adds, channel, {"access": "public"}).status_code == 403
        assert "“Can change channel”" in text_of(adds.get(page(channel)))
        assert save(changes, channel, {"access": "staff"}).status_code == 302
        assert changes.post(page(channel, "delete")).status_code == 403
    assert set(ChannelSettings.objects.values_list("channel", "access")) == {("new", "staff"), ("settled", "staff")}
    assert "also delete messages by keeping them for a shorter time" in text_of(changes.get(page("other")))


# --- Saving -----------------------------------------------------------------------------------------------------------


def test_settings_are_stored_and_who_has_done_it_is_noted() -> None:
    group = Group.objects.create(name="Editors")
    client = staff(*EDITOR)
    response = save(
        client,
        "news",
        {"title": HOSTILE, "access": "groups", "groups": [group.pk], "keep": "3600", "retention_messages": "10"},
        follow=True,
    )
    assert "Saved. This process obeys at once, others within" in text_of(response)
    row = ChannelSettings.objects.get(channel="news")
    assert (row.title, row.access, row.retention_seconds, row.retention_messages) == (HOSTILE, "groups", 3600, 10)
    assert list(row.groups.all()) == [group]
    entry = LogEntry.objects.get()
    assert (entry.action_flag, entry.object_id, entry.object_repr) == (ADDITION, "news", "news")

    save(client, "news", {"title": HOSTILE, "access": "public", "keep": "other", "keep_seconds": "90"})
    row.refresh_from_db()
    assert (row.access, row.retention_seconds, row.retention_messages) == ("public", 90, None)
    assert list(row.groups.all()) == []
    entry = LogEntry.objects.first()
    assert entry is not None
    assert entry.action_flag == CHANGE
    assert entry.get_change_message() == (
        "Changed Who may read, Groups, Keep at most, in messages, Keep messages for and Other: seconds."
    )
    assert "Editors" not in text_of(client.get(page("news", "history")))


@pytest.mark.parametrize(
    ("keep", "other", "stored"), [("", "", None), ("0", "", 0), ("31536000", "", 31_536_000), ("other", "5", 5)]
)
def test_retention_is_a_choice_or_a_number_and_is_shown_again(keep: str, other: str, stored: int | None) -> None:
    client = staff(*EDITOR)
    save(client, "news", {"keep": keep, "keep_seconds": other})
    assert ChannelSettings.objects.get().retention_seconds == stored
    form = client.get(page("news")).context["form"]
    assert (form["keep"].value(), str(form["keep_seconds"].value() or "")) == (keep, other)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"access": "groups"}, "Choose the groups whose members may read"),
        ({"access": "groups", "groups": ["99999"]}, "99999"),
        ({"access": "groups", "groups": ["x"]}, "x"),
        ({"access": "groups", "groups": [str(2**63)]}, "9223372036854775808 is not one of the available choices"),
        ({"access": "groups", "groups": ["9" * 100]}, "is not one of the available choices"),
        ({"access": "groups", "groups": ["-" + "9" * 30]}, "is not one of the available choices"),
        ({"access": "everybody"}, "everybody is not one of the available choices"),
        ({"keep": "other"}, "Write for how many seconds messages are kept"),
        ({"keep": "other", "keep_seconds": "0"}, "greater than or equal to 1"),
        ({"keep": "other", "keep_seconds": "1e9"}, "Enter a whole number"),
        ({"keep": "other", "keep_seconds": "9" * 30}, "less than or equal to 3153600000"),
        ({"keep": "7"}, "7 is not one of the available choices"),
        ({"retention_messages": "-1"}, "greater than or equal to 0"),
        ({"retention_messages": "9" * 30}, "less than or equal to 1000000000"),
        ({"title": "x" * 201}, "at most 200 characters"),
        ({"title": "\0"}, "Null characters are not allowed"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_in_words_and_nothing_is_stored(fields: dict[str, Any], says: str) -> None:
    response = save(staff(*EDITOR), "news", fields)
    assert response.status_code == 422
    assert escape(says) in text_of(response)
    assert "Not saved." in text_of(response)
    assert not ChannelSettings.objects.exists()
    assert not LogEntry.objects.exists()


def test_post_without_a_csrf_token_is_refused() -> None:
    client = staff(*EDITOR)
    client.handler.enforce_csrf_checks = True
    assert client.post(page("news"), {"access": "public"}).status_code == 403
    assert not ChannelSettings.objects.exists()


def test_policy_of_the_sites_own_may_not_ask_and_the_page_says_so(settings: Any) -> None:
    client = staff(*EDITOR)
    assert "has a policy of its own" not in text_of(client.get(page("news")))
    settings.STREAMS = {"POLICY": "streams.policies.BasePolicy"}
    assert "has a policy of its own, streams.policies.BasePolicy" in text_of(client.get(page("news")))


def test_reset_asks_first_and_then_the_sites_settings_hold() -> None:
    ChannelSettings.objects.create(channel="news", access="staff")
    client = staff(*EDITOR)
    asked = text_of(client.get(page("news", "delete")))
    assert "No message is deleted by it now." in asked
    assert ChannelSettings.objects.exists()
    done = client.post(page("news", "delete"), follow=True)
    assert "The site’s settings hold for news again." in text_of(done)
    assert not ChannelSettings.objects.exists()
    assert LogEntry.objects.get().action_flag == DELETION
    again = client.post(page("news", "delete"), follow=True)
    assert "Nothing is settled for news" in text_of(again)


def test_history_is_of_the_channel_that_is_named() -> None:
    for channel in ("a_5F", "a_"):
        save(staff(*EDITOR), channel, {"title": channel})
    response = staff(*EDITOR).get(page("a_5F", "history"))
    assert response.status_code == 200
    assert [entry.object_id for entry in response.context["action_list"]] == ["a_5F"]


# --- Two at once ------------------------------------------------------------------------------------------------------


def test_nobody_overwrites_what_another_has_settled_since_the_page_was_loaded() -> None:
    group = Group.objects.create(name="Editors <b>")
    ChannelSettings.objects.create(channel="news", access="public")
    one, other = staff(*EDITOR), staff(*EDITOR)
    seen = one.get(page("news")).context["seen"]
    save(other, "news", {"access": "groups", "groups": [group.pk], "keep": "3600"})

    response = one.post(page("news"), {"title": "Mine", "access": "public", "seen": seen})
    assert response.status_code == 409
    text = text_of(response)
    assert "Somebody has changed these settings since you loaded the page." in text
    stored = text[text.index('id="stored"') : text.index("</dl>", text.index('id="stored"'))]
    assert "Members of the groups below" in stored
    assert "Editors &lt;b&gt;" in stored
    assert "1 hour" in stored
    assert response.context["form"]["title"].value() == "Mine"
    row = ChannelSettings.objects.get()
    assert (row.title, row.access, row.retention_seconds, list(row.groups.all())) == ("", "groups", 3600, [group])
    assert LogEntry.objects.count() == 1

    # Who has seen that and saves again, means it.
    again = {"title": "Mine", "access": "public", "seen": response.context["seen"]}
    assert one.post(page("news"), again).status_code == 302
    row.refresh_from_db()
    assert (row.title, row.access, row.retention_seconds, list(row.groups.all())) == ("Mine", "public", None, [])


@pytest.mark.parametrize("fields", [{"title": "T"}, {"retention_messages": 5}, {"retention_seconds": 5}])
def test_change_of_any_value_is_told(fields: dict[str, Any]) -> None:
    row = ChannelSettings.objects.create(channel="news", access="groups")
    row.groups.add(Group.objects.create(name="A"))
    client = staff(*EDITOR)
    seen = [client.get(page("news")).context["seen"]]
    ChannelSettings.objects.update(**fields)
    seen.append(client.get(page("news")).context["seen"])
    row.groups.add(Group.objects.create(name="B"))
    seen.append(client.get(page("news")).context["seen"])
    assert len(set(seen)) == 3
    for old in [*seen[:2], "", "nothing", "x"]:
        assert client.post(page("news"), {"access": "public", "seen": old}).status_code == 409
    assert ChannelSettings.objects.get().access == "groups"


def test_settings_that_were_reset_meanwhile_are_not_made_anew() -> None:
    ChannelSettings.objects.create(channel="news", access="staff")
    one, other = staff(*EDITOR), staff(*EDITOR)
    seen = one.get(page("news")).context["seen"]
    other.post(page("news", "delete"))
    response = one.post(page("news"), {"access": "public", "seen": seen})
    assert response.status_code == 409
    assert "Nothing: the site’s settings hold." in text_of(response)
    assert not ChannelSettings.objects.exists()


def test_row_that_another_makes_after_this_one_was_looked_for_is_not_overwritten() -> None:
    form = ChannelForm({"access": "public"}, instance=ChannelSettings(channel="news"))
    assert form.is_valid()
    ChannelSettings.objects.create(channel="news", access="staff")
    with pytest.raises(ChangedMeanwhile):
        form.store(digest_of(None))
    assert ChannelSettings.objects.get().access == "staff"


def test_what_was_seen_stays_the_same_through_a_form_with_mistakes() -> None:
    ChannelSettings.objects.create(channel="news", access="public")
    one, other = staff(*EDITOR), staff(*EDITOR)
    seen = one.get(page("news")).context["seen"]
    save(other, "news", {"access": "staff"})
    response = one.post(page("news"), {"access": "everybody", "seen": seen})
    assert response.status_code == 422
    again = {"access": "public", "seen": response.context["seen"]}
    assert one.post(page("news"), again).status_code == 409
    assert ChannelSettings.objects.get().access == "staff"


# --- Words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "for ever"),
        (0, "for ever"),
        (1, "1 second"),
        (90, "90 seconds"),
        (0.5, "0.5 seconds"),
        (60, "1 minute"),
        (5400, "90 minutes"),
        (7200, "2 hours"),
        (86_400, "1 day"),
        (604_800, "7 days"),
        (31_536_000, "1 year"),
        (1e15, "1,000,000,000,000,000 seconds"),
    ],
)
def test_seconds_in_words(seconds: float | None, words: str) -> None:
    assert seconds_in_words(seconds).replace(",", "") == words.replace(",", "")


def test_retention_says_whose_it_is(settings: Any) -> None:
    settings.STREAMS = {"RETENTION_SECONDS": 3600, "RETENTION_MESSAGES_PER_CHANNEL": 100}
    assert retention_in_words(None) == "1 hour, at most 100 messages (the site’s)"
    assert retention_in_words(ChannelSettings(retention_messages=0)) == "1 hour (its own)"
    assert retention_in_words(ChannelSettings(retention_seconds=0)) == "for ever, at most 100 messages (its own)"


def test_names_follow_the_databases_order_page_by_page() -> None:
    for name in ("b", "a", "B", "a.b", "a-b", "ab", "A"):
        publish(name, "x")
    everything = known_names({}, limit=100)
    pages = [known_names({}, after=after, limit=1) for after in ["", *everything]]
    assert pages == [*([name] for name in everything), []]
