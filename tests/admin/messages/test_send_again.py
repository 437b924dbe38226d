"""Sending a message again."""

from __future__ import annotations

import re
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.test import Client
from django.utils import timezone

from streams import publish
from streams.models import Message, Node
from streams.policies import BasePolicy, DefaultPolicy
from tests.admin.messages.support import LIST, link, log_in, page, text_of

pytestmark = pytest.mark.django_db


def key_of(html: str) -> str:
    found = re.search(r'name="key" value="(\w+)"', html)
    assert found is not None
    return found[1]


def test_send_again_asks_then_publishes(sender: Client) -> None:
    message = publish("news", "one\ntwo", event="alert", idempotency_key="k")
    Node.objects.create(
        id="n", host="h", pid=1, started_at=timezone.now(), seen_at=timezone.now(), channels={"news": 3}, connections=3
    )
    again = link(page(sender, f"{LIST}{message.pk}/change/"), "Send again")
    assert again is not None
    html = page(sender, again)
    assert "Send again to news" in text_of(html)
    assert "Connections now 3" in text_of(html)
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


def test_incomplete_reports_make_audience_unknown(sender: Client) -> None:
    message, now = publish("news", "x"), timezone.now()
    path = f"{LIST}{message.pk}/send-again/"
    assert (
        "Connections now none. Browsers that were connected before receive the message when they reconnect."
        in text_of(page(sender, path))
    )
    Node.objects.create(
        id="n", host="h", pid=1, started_at=now, seen_at=now, channels={"other": 3}, connections=4, channels_left_out=1
    )
    text = text_of(page(sender, path))
    assert "Connections now unknown: some processes have so many channels" in text
    assert "Connections now none" not in text


def test_repeated_submit_publishes_once(sender: Client) -> None:
    message = publish("news", "x")
    path = f"{LIST}{message.pk}/send-again/"
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
    answer = sender.post(f"{LIST}{message.pk}/send-again/", {} if key is None else {"key": key})
    assert answer.status_code == 400
    assert "nothing was sent" in answer.content.decode()
    assert Message.objects.count() == 1


def test_forgery_sends_nothing() -> None:
    message = publish("news", "x")
    log_in("view_message", "add_message", "delete_message")
    client = Client(enforce_csrf_checks=True)
    client.force_login(get_user_model().objects.get())
    assert client.post(f"{LIST}{message.pk}/send-again/", {"key": "0" * 32}).status_code == 403
    assert client.post(f"{LIST}prune/").status_code == 403
    assert Message.objects.count() == 1


def test_unpublishable_message_shows_error(sender: Client, settings: Any) -> None:
    message = publish("news", "x" * 100)
    settings.STREAMS = {**settings.STREAMS, "MAX_MESSAGE_BYTES": 50}
    path = f"{LIST}{message.pk}/send-again/"
    answer = sender.post(path, {"key": key_of(page(sender, path))})
    assert answer.status_code == 400
    assert "Data is at most 50 bytes in UTF-8" in answer.content.decode()


class OwnChannelOnly(DefaultPolicy):
    """Users can publish only to the channel with their username."""

    def can_publish(self, request: Any, channel: str) -> bool:
        return async_to_sync(self.acan_publish)(request, channel)

    async def acan_publish(self, request: Any, channel: str) -> bool:
        return channel == (await request.auser()).username


def test_policy_says_to_which_channels_again(sender: Client, settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "POLICY": f"{__name__}.OwnChannelOnly"}
    own, other = publish("editor", "x"), publish("news", "x")
    assert "Send again" in page(sender, f"{LIST}{own.pk}/change/")
    assert "Send again" not in page(sender, f"{LIST}{other.pk}/change/")
    assert sender.get(f"{LIST}{other.pk}/send-again/").status_code == 403
    assert sender.post(f"{LIST}{other.pk}/send-again/", {"key": "0" * 32}).status_code == 403
    assert sender.post(f"{LIST}{own.pk}/send-again/", {"key": "0" * 32}).status_code == 302
    assert Message.objects.count() == 3


class NobodyPublishes(BasePolicy):
    pass


def test_policy_may_let_nobody(sender: Client, settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "POLICY": f"{__name__}.NobodyPublishes"}
    message = publish("news", "x")
    assert "Send again" not in page(sender, f"{LIST}{message.pk}/change/")
    assert sender.post(f"{LIST}{message.pk}/send-again/", {"key": "0" * 32}).status_code == 403


class Unsure(DefaultPolicy):
    def can_publish(self, request: Any, channel: str) -> bool:
        raise KeyError("tenant")


def test_failing_policy_hides_the_button(sender: Client, settings: Any, caplog: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "POLICY": f"{__name__}.Unsure"}
    message = publish("news", "look at me")
    html = page(sender, f"{LIST}{message.pk}/change/")
    assert "look at me" in text_of(html)
    assert "Send again" not in html
    assert "KeyError: 'tenant'" in caplog.text
    assert sender.get(f"{LIST}{message.pk}/send-again/").status_code == 403
    assert sender.post(f"{LIST}{message.pk}/send-again/", {"key": "0" * 32}).status_code == 403
    assert Message.objects.count() == 1
