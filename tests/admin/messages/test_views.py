"""The permissions of the message pages, and the page of one message."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from streams import log, publish
from streams.models import Message
from tests.admin.messages.support import LIST, PAYLOADS, link, log_in, page, text_of

pytestmark = pytest.mark.django_db


def paths(message: Message) -> list[str]:
    own = [f"{message.pk}/{name}/" for name in ("change", "history", "data", "send-again")]
    return [LIST, *(LIST + name for name in ("diagnosis/", "prune/", f"event/{message.position}/", *own))]


def test_nobody_without_the_permission_sees_anything() -> None:
    message = publish("news", "secret")
    client = log_in("add_message", "change_message", "delete_message")
    for path in paths(message):
        if path.endswith("history/"):
            continue  # Django's own view, which is tested below
        for method in (client.get, client.post):
            answer = method(path)
            assert answer.status_code == 403, path
            assert b"secret" not in answer.content
    assert client.get(f"{LIST}{message.pk}/history/").status_code == 403


def test_non_staff_gets_the_login(client: Client) -> None:
    message = publish("news", "secret")
    client.force_login(get_user_model().objects.create_user("visitor"))
    for path in paths(message):
        answer = client.get(path)
        assert answer.status_code == 302, path
        assert answer.headers["Location"].startswith("/admin/login/")


def test_view_permission_allows_no_actions(reader: Client) -> None:
    message = publish("news", "old")
    assert "Delete expired messages" not in page(reader)
    assert "Send again" not in page(reader, f"{LIST}{message.pk}/change/")
    for path in (f"{LIST}prune/", f"{LIST}{message.pk}/send-again/"):
        assert reader.get(path).status_code == 403
        assert reader.post(path, {"key": "0" * 32}).status_code == 403
    assert Message.objects.count() == 1


def test_djangos_own_views_are_disabled(client: Client) -> None:
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


@pytest.mark.parametrize("payload", PAYLOADS)
def test_published_data_cannot_inject_markup(sender: Client, payload: str) -> None:
    message = publish("news", payload, event=payload)
    for path in (LIST, f"{LIST}{message.pk}/change/", f"{LIST}{message.pk}/send-again/"):
        html = page(sender, path)
        assert payload not in html or "{{" in payload
        assert payload in text_of(html).replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"')
    html = page(sender, f"{LIST}diagnosis/", message=message.position, user="", last_event_id=payload)
    assert payload not in html or "{{" in payload


def test_invisible_characters_are_written_out(sender: Client) -> None:
    message = publish("news", "safe‮txt.exe", event="a​b")
    for path in (LIST, f"{LIST}{message.pk}/change/", f"{LIST}{message.pk}/send-again/"):
        html = page(sender, path)
        assert "‮" not in html
        assert "​" not in html
        assert "U+202E" in html
        assert "U+200B" in html


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
    text = text_of(html)
    assert "Channel news ( all messages of this channel )" in text, (
        "without permission for the channel's page, there is no link to it"
    )
    assert "Event type alert" in text
    assert "Size 25 bytes" in text
    assert "Published by ada" in text
    assert "Idempotency key deploy-7" in text
    data, wire = re.findall(r"<pre[^>]*>\n(.*?)</pre>", html, re.S)
    assert data == "{\n  &quot;a&quot;: [\n    1,\n    2.50\n  ],\n  &quot;b&quot;: &quot;x\\ny&quot;\n}"
    assert wire == "event: alert\nid: 3\ndata: {&quot;a&quot;:[1,2.50],&quot;b&quot;:&quot;x\\ny&quot;}\n\n"
    older, newer = link(html, "Previous in this channel: 1"), link(html, "Next in this channel: 4")
    assert older is not None
    assert newer is not None
    assert "<h1>Event 1</h1>" in page(reader, older)
    assert "This is the oldest message in its channel" in text_of(page(reader, older))
    assert "This is the newest message in its channel" in text_of(page(reader, newer))


def test_page_shows_all_encoded_lines(reader: Client) -> None:
    message = publish("news", "one\n\n two\n")
    wire = re.findall(r"<pre[^>]*>\n(.*?)</pre>", page(reader, f"{LIST}{message.pk}/change/"), re.S)[1]
    assert wire == "id: 1\ndata: one\ndata: \ndata:  two\ndata: \n\n"


@pytest.mark.parametrize("channel", ["news", "a_b", "x_5Fy", "..", "-"])
def test_channel_link_needs_permission(channel: str) -> None:
    message = publish(channel, "x")
    client = log_in("view_message", "view_channelsettings")
    html = page(client, f"{LIST}{message.pk}/change/")
    path = re.search(r'href="([^"]*)"><code>', html)
    assert path is not None
    assert path[1].startswith("/admin/streams/channelsettings/")
    assert f"<h1>Channel {channel}</h1>" in page(client, path[1])


def test_long_data_is_cut_and_downloadable(reader: Client) -> None:
    data = "<script>" + "ü" * 100_000
    message = publish("news", data)
    html = page(reader, f"{LIST}{message.pk}/change/")
    assert len(html) < 100_000
    assert "80008 more characters are not shown." in text_of(html)
    answer = reader.get(link(html, "Download the complete data as a text file"))
    assert answer.content.decode() == data
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="message-{message.pk}.txt"'


def test_message_that_waits_has_a_page(reader: Client) -> None:
    message = Message.objects.create(channel="news", data="x", size=1)
    text = text_of(page(reader, f"{LIST}{message.pk}/change/"))
    assert "This message has no event id yet" in text
    assert "Event id none yet" in text


@pytest.mark.parametrize("pk", ["7", "x", "9" * 50, "-1", "%00", "1_2F2"])
@pytest.mark.parametrize("name", ["change", "data", "send-again", ""])
def test_unknown_message_redirects(sender: Client, pk: str, name: str) -> None:
    answer = sender.get(f"{LIST}{pk}/{name}/" if name else f"{LIST}{pk}/", follow=True)
    assert answer.status_code in (200, 404)


def test_message_that_is_gone_is_told(reader: Client) -> None:
    assert "The log has no such message. It was deleted, or it never existed." in page(reader, f"{LIST}7/change/")


def test_event_id_redirects_to_message_or_diagnosis(reader: Client) -> None:
    Message.objects.bulk_create([Message(id=5000, channel="news", data="x", size=1)])
    log.sequence()
    answer = reader.get(f"{LIST}event/1/")
    assert answer.headers["Location"] == f"{LIST}5000/change/"
    answer = reader.get(f"{LIST}event/99/")
    assert answer.headers["Location"] == f"{LIST}diagnosis/?message=99"
    assert reader.get(f"{LIST}event/{'9' * 400}/", follow=True).status_code == 200
