"""Tests of a site whose log has its own database. tests/system/test_own_database.py runs them on each database."""

from __future__ import annotations

import json
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, User
from django.core.checks import run_checks
from django.db import connections, transaction
from django.test import AsyncClient, Client

from streams import apublish, publish
from streams.broadcasts import lifecycle
from streams.channels import rules
from streams.models import Broadcast, ChannelSettings, Message
from streams.relay.generations import store
from streams.relay.generations.endings import Batch, Ending
from streams.relay.models import Generation, Usage
from streams.runtime.database import database
from streams.testing import read_events
from tests.admin.test_pages import assert_all_are_there, fill

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")


@pytest.fixture
def root() -> User:
    return User.objects.create(username="root", is_staff=True, is_superuser=True)


@pytest.fixture
def admin(root: User) -> Client:
    client = Client()
    client.force_login(root)
    return client


def tables(alias: str) -> set[str]:
    return {name for name in connections[alias].introspection.table_names() if name.startswith(("streams_", "auth_"))}


def test_each_database_has_its_own_tables() -> None:
    assert database() == "log"
    assert {name.partition("_")[0] for name in tables("log")} == {"streams"}
    assert {name.partition("_")[0] for name in tables("default")} == {"auth"}


def test_checks_have_nothing_to_say() -> None:
    assert [check for check in run_checks(databases=["default", "log"]) if check.id and "streams" in check.id] == []


# --- Publishing and reading -------------------------------------------------------------------------------------------


def test_publish_by_a_user_inside_and_outside_of_transactions(root: User) -> None:
    publish("news", "outside", published_by=root)
    with transaction.atomic():
        publish("news", "in the users' database", published_by=root)
    with transaction.atomic(using="log"):
        publish("news", "in the log's", published_by=root, idempotency_key="key")
    assert [row.published_by for row in Message.objects.filter(position__isnull=False)] == [root] * 3


async def test_stream_replays_and_goes_on(root: User) -> None:
    await apublish("news", "one", published_by=root)
    response = await AsyncClient().get("/events/news/?replay=1")
    await apublish("news", "two", published_by=root)
    assert [event.data for event in await read_events(response, 2)] == ["one", "two"]


async def test_channel_for_members_of_a_group(root: User) -> None:
    def prepare() -> Client:
        group = Group.objects.create(name="club")
        ann = User.objects.create(username="ann")
        ann.groups.add(group)
        admin, client = Client(), AsyncClient()
        admin.force_login(root)
        page = admin.get("/admin/streams/channelsettings/club/change/")
        form = {"access": "groups", "groups": [group.pk], "seen": page.context["seen"]}
        assert admin.post("/admin/streams/channelsettings/club/change/", form).status_code == 302
        page = admin.get("/admin/streams/channelsettings/club/change/")
        assert "checked" in page.text.partition('name="groups"')[2].partition(">")[0]
        assert page.context["groups"] == ["club"]
        client.force_login(ann)
        return client

    client: Any = await sync_to_async(prepare)()
    assert (await AsyncClient().get("/events/club/")).status_code == 403
    response = await client.get("/events/club/")
    assert response.status_code == 200
    await apublish("club", "hello")
    assert [event.data for event in await read_events(response, 1)] == ["hello"]


# --- The admin --------------------------------------------------------------------------------------------------------


def test_pages_of_the_admin(admin: Client) -> None:
    assert_all_are_there(admin, fill())


def test_lists_of_the_admin_show_users_and_sort_by_them(admin: Client, root: User) -> None:
    Broadcast.objects.using("log").create(title="t", created_by=root)
    store.create(store.Principal(root, "user"), BODY, "default")
    Usage.objects.using("log").create(user=root, caller="", upstream="", model="", outcome="done", seconds=1)
    for page in ("streams/broadcast/", "streams_relay/generation/", "streams_relay/usage/"):
        for column in range(1, 9):
            answer = admin.get(f"/admin/{page}?o={column}")
            assert answer.status_code == 200, (page, column)
            assert answer.text.count("root") > 1, page


def test_broadcast_is_sent_and_recorded(admin: Client, root: User) -> None:
    text = {"title": "t", "channels": "news", "event": "message", "payload_type": "text", "payload": "sent"}
    assert admin.post("/admin/streams/broadcast/add/", text).status_code == 302
    draft = Broadcast.objects.get()
    assert admin.post(f"/admin/streams/broadcast/{draft.pk}/send/", {"revision": "1"}).status_code == 302
    draft.refresh_from_db()
    assert (draft.state, draft.sent_by, draft.created_by) == ("sent", root, root)
    assert [message.data for message in Message.objects.all()] == ["sent"]
    entries = LogEntry.objects.filter(object_id=draft.pk).order_by("pk")
    assert [entry.get_change_message() for entry in entries] == ["Added.", "Sent “message” to news (0 connections)."]
    assert admin.get(f"/admin/streams/broadcast/{draft.pk}/history/").status_code == 200


def test_broadcast_that_fails_is_not_recorded(root: User, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = Broadcast.objects.using("log").create(title="t", channels=["news"], payload="x")
    with monkeypatch.context() as patch:
        patch.setattr("streams.log.sequence", fail)
        with pytest.raises(ArithmeticError):
            lifecycle.send(draft.pk, by=root)
    assert not LogEntry.objects.exists()
    assert not Message.objects.exists()


def fail() -> None:
    raise ArithmeticError


def test_draft_is_deleted_in_the_admin(admin: Client) -> None:
    draft = Broadcast.objects.using("log").create(title="t")
    assert admin.post(f"/admin/streams/broadcast/{draft.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not Broadcast.objects.exists()


# --- The relay --------------------------------------------------------------------------------------------------------

BODY = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}], "stream": True}


def test_answer_from_the_question_to_the_end(admin: Client, root: User, settings: Any) -> None:
    settings.STREAMS = {"RELAY_ACCESS": "streams.relay.access.LoggedIn", "GENERATION_WORKER": "command"}
    headers = {"idempotency-key": "k"}
    for status in (201, 200):
        asked = admin.post("/ai/generations/", json.dumps(BODY), content_type="application/json", headers=headers)
        assert asked.status_code == status, asked.text
    [claimed] = store.claim("w", 10)
    ending = Ending(Generation.State.DONE, usage={"completion_tokens": 1})
    store.write("w", [Batch(claimed.pk, 0, ("Hello",), text="Hello", ending=ending)])
    answer = admin.get(f"/ai/generations/{claimed.pk}/").json()
    assert (answer["state"], answer["text"]) == ("done", "Hello")
    assert Client().get(f"/ai/generations/{claimed.pk}/").status_code == 403
    assert [(cost.user, cost.completion_tokens) for cost in Usage.objects.all()] == [(root, 1)]
    assert admin.get(f"/admin/streams_relay/generation/{claimed.pk}/change/").status_code == 200


# --- Deleting ---------------------------------------------------------------------------------------------------------


def test_deletion_outlives_a_log_that_does_not_answer(root: User, monkeypatch: pytest.MonkeyPatch) -> None:
    publish("news", "x", published_by=root)
    with monkeypatch.context() as patch:
        patch.setattr(connections["log"], "cursor", fail)
        root.delete()
    assert not User.objects.exists()
    assert Message.objects.get().published_by is None


def test_groups_of_a_channel_are_replaced() -> None:
    one, two = Group.objects.create(name="one"), Group.objects.create(name="two")
    ChannelSettings.objects.create(channel="club")
    for groups in ([one], [one, two], [two], []):
        rules.set_groups("club", groups)
        assert list(rules.groups_of("club")) == groups
