"""The log in the admin: who may see and do what, what the list lists, a message's page, sending again, pruning."""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Iterator
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.db import OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from streams import log, publish, retention
from streams.admin import message_list
from streams.models import ChannelSettings, Message, Node
from streams.policies import BasePolicy, DefaultPolicy
from tests.admin.people import staff

pytestmark = pytest.mark.django_db

LIST = "/admin/streams/message/"

PAYLOADS = [
    "</script><script>window.hacked = 1</script>",
    '" onmouseover="window.hacked=1" x="',
    "{{ 7|add:1 }}{% debug %}",
]


def log_in(*permissions: str) -> Client:
    return staff(*permissions, name="editor")


@pytest.fixture
def reader() -> Client:
    return log_in("view_message")


@pytest.fixture
def sender() -> Client:
    return log_in("view_message", "add_message")


@pytest.fixture
def pruner() -> Client:
    return log_in("view_message", "delete_message")


def text_of(html: str) -> str:
    """What a page says, without its tags and with single spaces."""
    main = html.partition('id="content-main"')[2].partition("<footer")[0]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", main))


def page(client: Client, path: str = LIST, status: int = 200, **query: object) -> str:
    answer = client.get(path, query, follow=True)
    assert answer.status_code == status, answer.content.decode()[:2000]
    return answer.content.decode()


def ids(html: str) -> list[int]:
    return [int(number) for number in re.findall(r'/change/">(\d+)</a></th>', html)]


def link(html: str, text: str) -> str | None:
    found = re.search(rf'href="([^"]*)">{re.escape(text)}</a>', html)
    return found and found[1].replace("&amp;", "&")


def publish_some(n: int, channel: str = "news", **kwargs: Any) -> list[Message]:
    return [publish(channel, {"n": number}, **kwargs) for number in range(n)]


# --- Who may ----------------------------------------------------------------------------------------------------------


def paths(message: Message) -> list[str]:
    own = [f"{message.pk}/{name}/" for name in ("change", "history", "raw", "again")]
    return [LIST, *(LIST + name for name in ("why/", "prune/", f"event/{message.position}/", *own))]


def test_nobody_without_the_permission_sees_anything() -> None:
    message = publish("news", "secret")
    client = log_in("add_message", "change_message", "delete_message")
    for path in paths(message):
        if path.endswith("history/"):
            continue  # Django's own view, below
        for method in (client.get, client.post):
            answer = method(path)
            assert answer.status_code == 403, path
            assert b"secret" not in answer.content
    assert client.get(f"{LIST}{message.pk}/history/").status_code == 403


def test_who_is_not_staff_is_sent_to_the_login(client: Client) -> None:
    message = publish("news", "secret")
    client.force_login(get_user_model().objects.create_user("visitor"))
    for path in paths(message):
        answer = client.get(path)
        assert answer.status_code == 302, path
        assert answer.headers["Location"].startswith("/admin/login/")


def test_viewing_alone_shows_no_button_and_lets_nothing_be_done(reader: Client) -> None:
    message = publish("news", "old")
    assert "Prune the log" not in page(reader)
    assert "Send again" not in page(reader, f"{LIST}{message.pk}/change/")
    for path in (f"{LIST}prune/", f"{LIST}{message.pk}/again/"):
        assert reader.get(path).status_code == 403
        assert reader.post(path, {"key": "0" * 32}).status_code == 403
    assert Message.objects.count() == 1


def test_nothing_is_added_changed_or_deleted_by_djangos_own_views(client: Client) -> None:
    client.force_login(get_user_model().objects.create_superuser("root"))
    message = publish("news", "as it is")
    assert client.get(f"{LIST}add/").status_code == 403
    assert client.post(f"{LIST}add/", {"channel": "news", "data": "x"}).status_code == 403
    assert client.post(f"{LIST}{message.pk}/delete/", {"post": "yes"}).status_code == 403
    client.post(f"{LIST}{message.pk}/change/", {"data": "other"})
    client.post(LIST, {"action": "delete_selected", "_selected_action": [message.pk], "post": "yes"})
    assert list(Message.objects.values_list("data", flat=True)) == ["as it is"]
    html = page(client)
    assert 'name="action"' not in html
    assert "/add/" not in html.partition('id="content-main"')[2]


def test_history_stays(reader: Client) -> None:
    message = publish("news", "x")
    assert "Change history" in page(reader, f"{LIST}{message.pk}/history/")


# --- The list ---------------------------------------------------------------------------------------------------------


def test_list_shows_what_was_published(reader: Client) -> None:
    user = get_user_model().objects.create_user("ada")
    publish("news", "hello", event="alert", published_by=user)
    publish("user.7", "x" * 300)
    html = page(reader)
    assert ids(html) == [2, 1]
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC news alert hello 5 ada", text_of(html))
    assert f"user.7 message {'x' * 200}… 300 –" in text_of(html)


def test_time_is_in_the_current_time_zone(reader: Client, settings: Any) -> None:
    settings.TIME_ZONE = "Asia/Tokyo"
    message = publish("news", "x")
    local = message.created_at.astimezone(ZoneInfo("Asia/Tokyo"))
    assert f"{local:%Y-%m-%d %H:%M:%S} JST" in text_of(page(reader))
    assert "Day (Asia/Tokyo)" in text_of(page(reader))


def test_pages_go_back_and_forth_without_a_gap(reader: Client) -> None:
    publish_some(250)
    html = page(reader)
    assert ids(html) == list(range(250, 150, -1))
    assert link(html, "Newer") is None
    html = page(reader, link(html, "Older"))
    assert ids(html) == list(range(150, 50, -1))
    html = page(reader, link(html, "Older"))
    assert ids(html) == list(range(50, 0, -1))
    assert link(html, "Older") is None
    html = page(reader, link(html, "Newer"))
    assert ids(html) == list(range(150, 50, -1))
    html = page(reader, link(html, "Newer"))
    assert ids(html) == list(range(250, 150, -1))
    html = page(reader, link(html, "Oldest"))
    assert ids(html) == list(range(100, 0, -1))
    assert link(html, "Older") is None
    html = page(reader, link(html, "Newer"))
    assert ids(html) == list(range(200, 100, -1))
    html = page(reader, link(html, "Newer"))
    assert ids(html) == list(range(250, 150, -1)), "the newest page, and not the fifty that are newer"
    html = page(reader, link(html, "Newest"))
    assert ids(html) == list(range(250, 150, -1))


def test_filters_of_channel_type_and_text(reader: Client) -> None:
    publish("news", "Trains RUN again", event="alert")
    publish("news", "100% sure_of \\ it")
    publish("weather", "it runs dry", event="alert")
    assert ids(page(reader, channel="news")) == [2, 1]
    assert ids(page(reader, type="alert")) == [3, 1]
    assert ids(page(reader, text="run")) == [3, 1]
    assert ids(page(reader, text="run", channel="weather")) == [3]
    assert ids(page(reader, text="run", type="message")) == []
    for literal in ("100%", "sure_", "\\"):
        assert ids(page(reader, text=literal)) == [2]
    assert ids(page(reader, text="100_")) == []
    html = page(reader, channel="weather", text="run")
    assert 'value="weather"' in html
    assert 'value="run"' in html
    assert '<option value="news">' in html


def test_links_keep_the_filters(reader: Client) -> None:
    publish_some(150, event="a&b=c #")
    publish_some(3)
    html = page(reader, type="a&b=c #")
    assert ids(html) == list(range(150, 50, -1))
    html = page(reader, link(html, "Older"))
    assert ids(html) == list(range(50, 0, -1))
    assert link(html, "All messages") == LIST


def test_look_through_a_part_says_so_and_goes_on(reader: Client, monkeypatch: Any) -> None:
    monkeypatch.setattr(message_list, "SPAN_POSITIONS", 100)
    publish("news", "needle")
    publish_some(249)
    html = page(reader, text="needle")
    assert ids(html) == []
    assert "Looked through events 151 to 250; nothing more matched there." in text_of(html)
    html = page(reader, link(html, "Go on looking further back"))
    assert "Looked through events 51 to 150; nothing more matched there." in text_of(html)
    html = page(reader, link(html, "Go on looking further back"))
    assert ids(html) == [1]
    assert "Looked through" not in text_of(html)

    html = page(reader, text="needle", after=0)
    assert ids(html) == [1]
    assert "Looked through events 1 to 100; nothing more matched there." in text_of(html)
    html = page(reader, link(html, "Go on looking further on"))
    assert "Looked through events 101 to 200; nothing more matched there." in text_of(html)


@pytest.mark.parametrize("holes", [False, True], ids=["no-holes", "holes"])
@pytest.mark.parametrize("words", ["Go on looking further back", "Go on looking further on"])
def test_looking_further_keeps_its_direction_to_the_end(
    reader: Client, monkeypatch: Any, words: str, holes: bool
) -> None:
    monkeypatch.setattr(message_list, "SPAN_POSITIONS", 10)
    publish_some(50)
    if holes:
        for first in (10, 20, 21, 30):  # at the edges of parts, and within them
            log.delete_through(first, start=first, limit=10)
    back = words.endswith("back")
    html = page(reader, text="needle") if back else page(reader, text="needle", after=0)
    seen = []
    while (path := link(html, words)) is not None and len(seen) < 10:
        found = re.search(r"Looked through events (\d+) to (\d+);", text_of(html))
        assert found is not None
        seen.append((int(found[1]), int(found[2])))
        html = page(reader, path)
    assert len(seen) >= 3, seen
    assert seen == sorted(set(seen), reverse=back), "each is another part, and all go one way"
    assert seen[-1][0] <= 20 if back else seen[-1][1] >= 40, "to the end"
    assert "Looked through" not in text_of(html), "nor does it turn round there"
    assert "Nothing more in the log is like that." in text_of(html)
    assert link(html, "Newer" if back else "Older") is not None


def test_large_messages_are_looked_through_in_smaller_parts(reader: Client, monkeypatch: Any) -> None:
    monkeypatch.setattr(message_list, "SPAN_POSITIONS", 1000)
    monkeypatch.setattr(message_list, "SPAN_BYTES", 10_000)
    for _ in range(120):
        publish("news", "x" * 100)
    assert "Looked through events 21 to 120;" in text_of(page(reader, text="needle"))
    assert "Looked through" not in text_of(page(reader, type="needle")), "their data is not read"


@pytest.mark.parametrize("place", [{}, {"after": 0}], ids=["back", "on"])
def test_quiet_channel_is_looked_through_by_its_own_messages(
    reader: Client, monkeypatch: Any, place: dict[str, int]
) -> None:
    monkeypatch.setattr(message_list, "SPAN_POSITIONS", 10)
    monkeypatch.setattr(message_list, "SPAN_OF_CHANNEL", 5)
    for n in range(4):
        publish("quiet", n, event="alert" if n in (0, 3) else "message")
        publish_some(40)
    assert ids(page(reader, channel="quiet", type="alert", **place)) == [124, 1]
    assert "Looked through" not in text_of(page(reader, channel="quiet", type="alert", **place))
    assert ids(page(reader, channel="quiet", text="3", **place)) == [124]
    assert "Looked through" not in text_of(page(reader, channel="quiet", text="3", **place))
    for n in range(4, 8):
        publish("quiet", n)
    html = page(reader, channel="quiet", text="none of them", **place)
    assert f"Looked through events {'124 to 168' if not place else '1 to 165'};" in text_of(html)


def test_large_messages_of_a_channel_are_looked_through_in_smaller_parts(reader: Client, monkeypatch: Any) -> None:
    monkeypatch.setattr(message_list, "SPAN_POSITIONS", 1000)
    monkeypatch.setattr(message_list, "SPAN_OF_CHANNEL", 100)
    monkeypatch.setattr(message_list, "SPAN_BYTES", 1_000)
    for _ in range(20):
        publish("quiet", "x" * 100)
        publish_some(10)
    assert "Looked through events 111 to 210;" in text_of(page(reader, channel="quiet", text="needle"))
    assert "Looked through" not in text_of(page(reader, channel="quiet", type="needle")), "their data is not read"


def test_what_is_pruned_does_not_count_as_looked_through(reader: Client, monkeypatch: Any) -> None:
    monkeypatch.setattr(message_list, "SPAN_POSITIONS", 100)
    publish("news", "needle")
    publish_some(300, "other")
    log.delete_through(300, start=2, limit=1000)
    publish_some(50)
    html = page(reader, text="needle")
    assert "Looked through events 252 to 351;" in text_of(html)
    html = page(reader, link(html, "Go on looking further back"))
    assert ids(html) == [1]


def test_day_is_that_of_the_current_time_zone(reader: Client, settings: Any) -> None:
    settings.TIME_ZONE = "America/New_York"
    rows = publish_some(6)
    times = ["03-01 04:59:59", "03-01 05:00:00", "03-02 04:59:59", "03-02 05:00:00", "03-02 12:00:00", "03-09 00:00:00"]
    for row, text in zip(rows, times, strict=True):
        moment = datetime.datetime.strptime(f"2026-{text}", "%Y-%m-%d %H:%M:%S").replace(tzinfo=datetime.UTC)
        Message.objects.filter(pk=row.pk).update(created_at=moment)
    assert ids(page(reader, day="2026-03-01")) == [3, 2]
    assert ids(page(reader, day="2026-03-02")) == [5, 4]
    assert ids(page(reader, day="2026-03-08")) == [6], "at 20:00, in summer time from that day on"
    assert ids(page(reader, day="2026-03-05")) == []
    assert "No message in the log is like that." in text_of(page(reader, day="2026-03-05"))


def test_day_finds_messages_whose_transactions_were_long_and_passes_over_holes(reader: Client) -> None:
    rows = publish_some(300)
    start = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
    for n, row in enumerate(rows):
        Message.objects.filter(pk=row.pk).update(created_at=start + datetime.timedelta(hours=n))
    # Inserted on the second day, and committed twenty hours later.
    Message.objects.filter(position=60).update(created_at=start + datetime.timedelta(hours=40))
    log.delete_through(200, start=100, limit=1000)
    assert ids(page(reader, day="2026-03-02")) == [60, *range(48, 24, -1)]
    assert ids(page(reader, day="2026-03-03")) == [n for n in range(72, 48, -1) if n != 60]
    assert ids(page(reader, day="2026-03-07")) == []
    assert ids(page(reader, day="2026-03-09")) == list(range(216, 200, -1))
    assert ids(page(reader, day="2026-03-09", after=0)) == list(range(216, 200, -1))


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"channel": "news room"}, "“news room” cannot be a channel"),
        ({"channel": "x" * 100}, "at most 99 characters"),
        ({"day": "yesterday"}, "A day is written as 2026-01-31."),
        ({"day": "9999-12-31"}, "less than or equal to"),
        ({"day": "0001-01-01"}, "greater than or equal to"),
        ({"text": "x" * 201}, "at most 200 characters"),
        ({"text": "a\0b"}, "Null characters are not allowed"),
        ({"channel": "‮news"}, "U+202E"),
    ],
    ids=["channel", "long-channel", "no-day", "last-day", "first-day", "long-text", "nul", "bidi"],
)
def test_filter_that_is_wrong_says_how_to_mend_it(reader: Client, query: dict[str, str], says: str) -> None:
    publish("news", "x")
    html = page(reader, **query)
    assert says in text_of(html)
    assert "Nothing is listed until the filter is mended." in text_of(html)
    assert 'aria-invalid="true"' in html
    assert ids(html) == []


@pytest.mark.parametrize("cursor", ["x", "-1", "", "9" * 18, "9" * 4000, "1.5", "%00", "١"])
@pytest.mark.parametrize("name", ["before", "after"])
def test_any_cursor_in_the_url_gives_a_page(reader: Client, name: str, cursor: str) -> None:
    publish_some(3)
    assert set(ids(page(reader, **{name: cursor}))) <= {1, 2, 3}


def test_empty_log_says_so(reader: Client) -> None:
    assert "The log is empty: nothing has been published yet." in text_of(page(reader))
    publish_some(3)
    log.delete_through(3, limit=10)
    assert "everything that was published has been pruned. The newest event was 3." in text_of(page(reader))
    for query in ({"channel": "news"}, {"day": "2026-01-01"}, {"text": "x", "after": 0}):
        assert "No message in the log is like that." in text_of(page(reader, **query))


def test_messages_that_wait_are_counted_and_not_listed(reader: Client) -> None:
    publish("news", "there")
    for n in range(2):
        Message.objects.create(channel="news", data=f"waiting {n}", size=9)
    html = page(reader)
    assert ids(html) == [1]
    assert "2 messages wait for their place in the log." in text_of(html)
    Message.objects.bulk_create([Message(channel="news", data="w", size=1) for _ in range(150)])
    assert "100 messages or more wait for their place" in text_of(page(reader))
    log.sequence()
    assert "wait for" not in text_of(page(reader))


def test_list_reads_the_data_only_as_far_as_it_shows_it(reader: Client) -> None:
    for _ in range(20):
        publish("news", "x" * 200_000)
    with CaptureQueriesContext(connection) as queries:
        html = page(reader)
    assert len(html) < 60_000
    assert not [q["sql"] for q in queries if '"streams_message"."data",' in q["sql"] and "SUBSTR" not in q["sql"]]
    assert not [q["sql"] for q in queries if "COUNT(" in q["sql"] and "streams_message" in q["sql"]]


# --- What others have written -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_that_was_published_becomes_part_of_a_page(sender: Client, payload: str) -> None:
    message = publish("news", payload, event=payload)
    for path in (LIST, f"{LIST}{message.pk}/change/", f"{LIST}{message.pk}/again/"):
        html = page(sender, path)
        assert payload not in html or "{{" in payload
        assert payload in text_of(html).replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"')
    html = page(sender, f"{LIST}why/", message=message.position, user="", last_event_id=payload)
    assert payload not in html or "{{" in payload


def test_what_cannot_be_seen_is_written_out(sender: Client) -> None:
    message = publish("news", "safe‮txt.exe", event="a​b")
    for path in (LIST, f"{LIST}{message.pk}/change/", f"{LIST}{message.pk}/again/"):
        html = page(sender, path)
        assert "‮" not in html
        assert "​" not in html
        assert "U+202E" in html
        assert "U+200B" in html


# --- A message --------------------------------------------------------------------------------------------------------


def test_page_of_a_message(reader: Client) -> None:
    user = get_user_model().objects.create_user("ada")
    publish("news", "before")
    publish("other", "not of this channel")
    message = publish(
        "news", '{"a":[1,2.50],"b":"x\\ny"}', event="alert", idempotency_key="deploy-7", published_by=user
    )
    publish("news", "after")
    html = page(reader, f"{LIST}{message.pk}/change/")
    assert "<h1>Event 3</h1>" in html
    said = text_of(html)
    assert "Channel news ( its messages )" in said, "no link to what they may not see"
    assert "Type alert" in said
    assert "Size 25 bytes" in said
    assert "Published by ada" in said
    assert "Idempotency key deploy-7" in said
    data, wire = re.findall(r"<pre[^>]*>\n(.*?)</pre>", html, re.S)
    assert data == "{\n  &quot;a&quot;: [\n    1,\n    2.50\n  ],\n  &quot;b&quot;: &quot;x\\ny&quot;\n}"
    assert wire == "event: alert\nid: 3\ndata: {&quot;a&quot;:[1,2.50],&quot;b&quot;:&quot;x\\ny&quot;}\n\n"
    older, newer = link(html, "Older in this channel: 1"), link(html, "Newer in this channel: 4")
    assert older is not None
    assert newer is not None
    assert "<h1>Event 1</h1>" in page(reader, older)
    assert "The oldest that its channel still has" in text_of(page(reader, older))
    assert "The newest of its channel" in text_of(page(reader, newer))


def test_wire_form_has_every_line_of_the_data(reader: Client) -> None:
    message = publish("news", "one\n\n two\n")
    wire = re.findall(r"<pre[^>]*>\n(.*?)</pre>", page(reader, f"{LIST}{message.pk}/change/"), re.S)[1]
    assert wire == "id: 1\ndata: one\ndata: \ndata:  two\ndata: \n\n"


@pytest.mark.parametrize("channel", ["news", "a_b", "x_5Fy", "..", "-"])
def test_link_to_the_channel_is_for_those_who_may_see_it(channel: str) -> None:
    message = publish(channel, "x")
    client = log_in("view_message", "view_channelsettings")
    html = page(client, f"{LIST}{message.pk}/change/")
    path = re.search(r'href="([^"]*)"><code>', html)
    assert path is not None
    assert path[1].startswith("/admin/streams/channelsettings/")
    assert f"<h1>Channel {channel}</h1>" in page(client, path[1])


def test_long_data_is_cut_and_there_as_a_file(reader: Client) -> None:
    data = "<script>" + "ü" * 100_000
    message = publish("news", data)
    html = page(reader, f"{LIST}{message.pk}/change/")
    assert len(html) < 100_000
    assert "80008 characters more are not shown here." in text_of(html)
    answer = reader.get(link(html, "The whole data, as a text file"))
    assert answer.content.decode() == data
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="message-{message.pk}.txt"'


def test_message_that_waits_has_a_page(reader: Client) -> None:
    message = Message.objects.create(channel="news", data="x", size=1)
    said = text_of(page(reader, f"{LIST}{message.pk}/change/"))
    assert "This message waits for its place in the log." in said
    assert "Event id none yet" in said


@pytest.mark.parametrize("pk", ["7", "x", "9" * 50, "-1", "%00", "1_2F2"])
@pytest.mark.parametrize("name", ["change", "raw", "again", ""])
def test_page_of_no_message_is_no_error_of_the_server(sender: Client, pk: str, name: str) -> None:
    answer = sender.get(f"{LIST}{pk}/{name}/" if name else f"{LIST}{pk}/", follow=True)
    assert answer.status_code in (200, 404)


def test_message_that_is_gone_is_told(reader: Client) -> None:
    assert "There is no such message in the log: it was pruned, or it never was." in page(reader, f"{LIST}7/change/")


def test_event_id_leads_to_its_message_or_to_why_there_is_none(reader: Client) -> None:
    Message.objects.bulk_create([Message(id=5000, channel="news", data="x", size=1)])
    log.sequence()
    answer = reader.get(f"{LIST}event/1/")
    assert answer.headers["Location"] == f"{LIST}5000/change/"
    answer = reader.get(f"{LIST}event/99/")
    assert answer.headers["Location"] == f"{LIST}why/?message=99"
    assert reader.get(f"{LIST}event/{'9' * 400}/", follow=True).status_code == 200


# --- Sending again ----------------------------------------------------------------------------------------------------


def key_of(html: str) -> str:
    found = re.search(r'name="key" value="(\w+)"', html)
    assert found is not None
    return found[1]


def test_send_again_asks_and_then_appends_the_same(sender: Client) -> None:
    message = publish("news", "one\ntwo", event="alert", idempotency_key="k")
    Node.objects.create(
        id="n", host="h", pid=1, started_at=timezone.now(), seen_at=timezone.now(), channels={"news": 3}, connections=3
    )
    again = link(page(sender, f"{LIST}{message.pk}/change/"), "Send again")
    assert again is not None
    html = page(sender, again)
    assert "Send again to news" in text_of(html)
    assert "Who listens now 3 connections" in text_of(html)
    assert Message.objects.count() == 1
    answer = sender.post(again, {"key": key_of(html)}, follow=True)
    assert "Sent again as event 2." in answer.content.decode()
    assert "<h1>Event 2</h1>" in answer.content.decode()
    sent = Message.objects.get(position=2)
    assert (sent.channel, sent.event, sent.data) == ("news", "alert", "one\ntwo")
    assert sent.published_by.username == "editor"
    entry = LogEntry.objects.get()
    assert (entry.user.username, entry.object_id, entry.change_message) == (
        "editor",
        str(message.pk),
        "Sent again as event 2.",
    )
    assert "Sent again as event 2." in page(sender, f"{LIST}{message.pk}/history/")


def test_who_listens_is_not_known_where_a_process_does_not_name_all_channels(sender: Client) -> None:
    message, now = publish("news", "x"), timezone.now()
    path = f"{LIST}{message.pk}/again/"
    assert "Who listens now nobody; a browser that was connected before gets it when it connects again" in text_of(
        page(sender, path)
    )
    Node.objects.create(
        id="n", host="h", pid=1, started_at=now, seen_at=now, channels={"other": 3}, connections=4, channels_left_out=1
    )
    said = text_of(page(sender, path))
    assert "Who listens now not known: there are processes with so many channels" in said
    assert "nobody" not in said


def test_form_that_is_sent_twice_sends_once(sender: Client) -> None:
    message = publish("news", "x")
    path = f"{LIST}{message.pk}/again/"
    key = key_of(page(sender, path))
    for _ in range(2):
        assert "Sent again as event 2." in sender.post(path, {"key": key}, follow=True).content.decode()
    assert Message.objects.count() == 2
    assert LogEntry.objects.count() == 1
    sender.post(path, {"key": key_of(page(sender, path))})
    assert Message.objects.count() == 3
    assert LogEntry.objects.count() == 2


@pytest.mark.parametrize("key", [None, "", "x", "0" * 31, "0" * 33, "'" * 32, "ä" * 32])
def test_form_without_its_key_sends_nothing(sender: Client, key: str | None) -> None:
    message = publish("news", "x")
    answer = sender.post(f"{LIST}{message.pk}/again/", {} if key is None else {"key": key})
    assert answer.status_code == 400
    assert "nothing was sent" in answer.content.decode()
    assert Message.objects.count() == 1


def test_forgery_sends_nothing() -> None:
    message = publish("news", "x")
    log_in("view_message", "add_message", "delete_message")
    client = Client(enforce_csrf_checks=True)
    client.force_login(get_user_model().objects.get())
    assert client.post(f"{LIST}{message.pk}/again/", {"key": "0" * 32}).status_code == 403
    assert client.post(f"{LIST}prune/").status_code == 403
    assert Message.objects.count() == 1


def test_what_can_no_longer_be_published_is_told(sender: Client, settings: Any) -> None:
    message = publish("news", "x" * 100)
    settings.STREAMS = {**settings.STREAMS, "MAX_MESSAGE_BYTES": 50}
    path = f"{LIST}{message.pk}/again/"
    answer = sender.post(path, {"key": key_of(page(sender, path))})
    assert answer.status_code == 400
    assert "Data is at most 50 bytes in UTF-8" in answer.content.decode()


class OwnChannelOnly(DefaultPolicy):
    """Staff publish to the channel of their own name."""

    async def acan_publish(self, request: Any, channel: str) -> bool:
        return channel == (await request.auser()).username


def test_policy_says_to_which_channels_again(sender: Client, settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "POLICY": f"{__name__}.OwnChannelOnly"}
    own, other = publish("editor", "x"), publish("news", "x")
    assert "Send again" in page(sender, f"{LIST}{own.pk}/change/")
    assert "Send again" not in page(sender, f"{LIST}{other.pk}/change/")
    assert sender.get(f"{LIST}{other.pk}/again/").status_code == 403
    assert sender.post(f"{LIST}{other.pk}/again/", {"key": "0" * 32}).status_code == 403
    assert sender.post(f"{LIST}{own.pk}/again/", {"key": "0" * 32}).status_code == 302
    assert Message.objects.count() == 3


class NobodyPublishes(BasePolicy):
    pass


def test_policy_may_let_nobody(sender: Client, settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "POLICY": f"{__name__}.NobodyPublishes"}
    message = publish("news", "x")
    assert "Send again" not in page(sender, f"{LIST}{message.pk}/change/")
    assert sender.post(f"{LIST}{message.pk}/again/", {"key": "0" * 32}).status_code == 403


class Unsure(DefaultPolicy):
    def can_publish(self, request: Any, channel: str) -> bool:
        raise KeyError("tenant")


def test_policy_that_raises_takes_the_button_and_not_the_page(sender: Client, settings: Any, caplog: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "POLICY": f"{__name__}.Unsure"}
    message = publish("news", "look at me")
    html = page(sender, f"{LIST}{message.pk}/change/")
    assert "look at me" in text_of(html)
    assert "Send again" not in html
    assert "KeyError: 'tenant'" in caplog.text
    assert sender.get(f"{LIST}{message.pk}/again/").status_code == 403
    assert sender.post(f"{LIST}{message.pk}/again/", {"key": "0" * 32}).status_code == 403
    assert Message.objects.count() == 1


# --- Pruning ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def keep_two(settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "RETENTION_MESSAGES_PER_CHANNEL": 2}


@pytest.mark.usefixtures("keep_two")
def test_dry_run_says_what_would_go_and_deletes_nothing(pruner: Client) -> None:
    publish_some(5)
    publish_some(4, "weather")
    publish_some(3, "kept")
    ChannelSettings.objects.create(channel="kept", retention_messages=0)
    Message.objects.filter(position=1).update(created_at=timezone.now() - datetime.timedelta(days=30))
    path = link(page(pruner), "Prune the log")
    assert path is not None
    said = text_of(page(pruner, path))
    assert "all older than allowed 1 1" in said
    assert "news more than allowed 3 3" in said
    assert "weather more than allowed 2 7" in said
    assert "RETENTION_MESSAGES_PER_CHANNEL 2 how many messages a channel keeps" in said
    assert "RETENTION_SECONDS 604800" in said
    assert "RETENTION_BYTES no limit" in said
    assert "kept as the site no limit" in said
    assert Message.objects.count() == 12


@pytest.mark.usefixtures("keep_two")
def test_prune_now_prunes_and_says_how_many(pruner: Client) -> None:
    publish_some(5)
    answer = pruner.post(f"{LIST}prune/", follow=True)
    assert "Pruned 3 messages." in answer.content.decode()
    assert "There is more to prune" not in answer.content.decode()
    assert "Nothing would go" in text_of(answer.content.decode())
    assert list(Message.objects.values_list("position", flat=True)) == [4, 5]
    assert log.pruned(["news"], 0) == {"news": 3}
    entry = LogEntry.objects.get()
    assert (entry.user.username, entry.change_message, entry.object_id) == ("editor", "Pruned 3 messages.", None)
    assert entry.content_type.model == "message"
    assert "Pruned" not in page(pruner, "/admin/") or entry.get_admin_url() is None


@pytest.mark.usefixtures("keep_two")
def test_prune_that_is_not_done_in_time_says_so(pruner: Client, monkeypatch: Any) -> None:
    monkeypatch.setattr("streams.admin.pruning.MOST_SECONDS", 0)
    publish_some(5)
    answer = pruner.post(f"{LIST}prune/", follow=True)
    assert "Pruned 0 messages." in answer.content.decode()
    assert "There is more to prune than one request may take time for." in answer.content.decode()


def test_nothing_to_prune_says_so(pruner: Client) -> None:
    publish_some(2)
    assert "Nothing would go: all that is in the log is to be kept." in text_of(page(pruner, f"{LIST}prune/"))
    answer = pruner.post(f"{LIST}prune/", follow=True)
    assert "There was nothing to prune." in answer.content.decode()
    assert LogEntry.objects.count() == 0
    assert Message.objects.count() == 2
    assert list(retention.cuts()) == []


@contextlib.contextmanager
def stopped_after(batches: int, monkeypatch: Any, error: BaseException) -> Iterator[None]:
    """Prune in batches of two messages; the database takes so many, and then there is the error."""
    monkeypatch.setattr(retention, "BATCH_MESSAGES", 2)
    left = batches

    def execute(run: Any, sql: str, *args: Any) -> Any:
        nonlocal left
        if sql.startswith('DELETE FROM "streams_message"'):
            if not left:
                raise error
            left -= 1
        return run(sql, *args)

    with connection.execute_wrapper(execute):
        yield


@pytest.mark.usefixtures("keep_two")
def test_prune_that_fails_on_the_way_is_on_record(pruner: Client, monkeypatch: Any, caplog: Any) -> None:
    publish_some(9)
    with stopped_after(2, monkeypatch, OperationalError("the database went away")):
        answer = pruner.post(f"{LIST}prune/", follow=True)
    assert "Pruning was stopped by an error, which the site&#x27;s log has." in answer.content.decode()
    assert "the database went away" in caplog.text
    assert Message.objects.count() == 5
    entry = LogEntry.objects.get()
    assert (entry.user.username, entry.object_id) == ("editor", None)
    assert "What it had deleted before that stays deleted." in entry.change_message


@pytest.mark.usefixtures("keep_two")
def test_prune_that_ends_with_its_process_is_on_record(pruner: Client, monkeypatch: Any) -> None:
    publish_some(9)
    with stopped_after(1, monkeypatch, SystemExit(1)), pytest.raises(SystemExit):
        pruner.post(f"{LIST}prune/")
    assert Message.objects.count() == 7
    assert LogEntry.objects.get().user.username == "editor"


@pytest.mark.usefixtures("keep_two")
def test_prune_that_fails_at_once_has_done_nothing_to_be_recorded(pruner: Client, monkeypatch: Any) -> None:
    publish_some(9)
    with stopped_after(0, monkeypatch, OperationalError("the database went away")):
        answer = pruner.post(f"{LIST}prune/", follow=True)
    assert "Pruning was stopped by an error" in answer.content.decode()
    assert Message.objects.count() == 9
    assert LogEntry.objects.count() == 0
