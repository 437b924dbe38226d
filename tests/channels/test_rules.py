"""The access settings of channels apply to every request, in all processes, after at most POLL_SECONDS."""

from __future__ import annotations

import asyncio
import threading
import time
import urllib.error
import urllib.request
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group, Permission, User
from django.core.exceptions import ValidationError
from django.test import AsyncClient, override_settings

from streams import NewMessage, publish_many
from streams.channels.rules import Retention, access_rules, retentions
from streams.models import ChannelSettings
from streams.policies import get_policy
from tests.support.clients import StreamClient, leave_all
from tests.support.services import wait_until
from tests.support.services.postgres import PostgresServer
from tests.support.sites import Server, Site, finish

database = pytest.mark.django_db(transaction=True)

# --- One process ------------------------------------------------------------------------------------------------------

WHO = ["anonymous", "user", "member", "of another group", "staff", "staff who may view", "inactive staff"]
READERS = {
    "": {"staff who may view"},
    "public": set(WHO),
    "logged-in": {"user", "member", "of another group", "staff", "staff who may view"},
    "staff": {"staff", "staff who may view"},
    "groups": {"member", "staff who may view"},
}


def make(who: str) -> User | None:
    if who == "anonymous":
        return None
    user = User.objects.create(username=who, is_staff="staff" in who, is_active="inactive" not in who)
    if who == "member":
        user.groups.add(Group.objects.get(name="readers"))
    if who == "of another group":
        user.groups.add(Group.objects.create(name="others"))
    if who == "staff who may view":
        user.user_permissions.add(Permission.objects.get(codename="view_message"))
    return user


@database
@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("access", READERS)
async def test_those_may_read_whom_the_settings_name(access: str, who: str) -> None:
    def prepare() -> User | None:
        row = ChannelSettings.objects.create(channel="room.1", access=access)
        group = Group.objects.create(name="readers")
        if access == "groups":
            row.groups.add(group)
        return make(who)

    user = await sync_to_async(prepare)()
    client = AsyncClient()
    if user is not None:
        await sync_to_async(client.force_login)(user)
    response = await client.get("/events/room.1/")
    expected = 200 if who in READERS[access] else 403
    assert response.status_code == expected
    several = await client.get("/events/?channel=news&channel=room.1")
    assert several.status_code == expected
    for answer in (response, several):
        await sync_to_async(answer.close)()


@database
@override_settings(STREAMS={"PUBLIC_CHANNELS": ["*"]})
async def test_settings_stand_above_the_public_channels() -> None:
    client = AsyncClient()
    assert (await client.head("/events/room.1/")).status_code == 200
    await ChannelSettings.objects.acreate(channel="room.1", access="logged-in")
    assert (await client.head("/events/room.1/")).status_code == 403
    assert (await client.head("/events/room.10/")).status_code == 200
    assert (await client.head("/events/Room.1/")).status_code == 200


@database
async def test_users_own_channel_is_theirs_until_something_else_is_settled() -> None:
    user = await User.objects.acreate(username="one")
    client = AsyncClient()
    await sync_to_async(client.force_login)(user)
    assert (await client.head(f"/events/user.{user.pk}/")).status_code == 200
    await ChannelSettings.objects.acreate(channel=f"user.{user.pk}", access="staff")
    assert (await client.head(f"/events/user.{user.pk}/")).status_code == 403


@database
def test_groups_without_a_group_admit_nobody_but_who_may_view_messages() -> None:
    ChannelSettings.objects.create(channel="room", access="groups")
    assert access_rules()["room"].groups == frozenset()
    assert not access_rules()["room"].admits(User.objects.create(username="one"))


@database
def test_readers_are_told_in_words() -> None:
    readers = get_policy().describe_readers
    assert readers("news") == "everyone, by PUBLIC_CHANNELS"
    assert readers("room") == "staff with permission to view messages"
    assert readers("user.7") == "this user, and staff with permission to view messages"
    for access, words in (("public", "everyone"), ("logged-in", "logged in"), ("staff", "staff"), ("groups", "groups")):
        ChannelSettings.objects.update_or_create(channel="news", defaults={"access": access})
        assert words in readers("news")


@database
def test_settings_that_say_nothing_of_readers_are_no_rule() -> None:
    ChannelSettings.objects.create(channel="titled", title="A title", retention_seconds=5)
    assert access_rules() == {}
    assert retentions() == {"titled": Retention(5, None)}
    ChannelSettings.objects.create(channel="zero", retention_messages=0)
    ChannelSettings.objects.create(channel="nothing")
    assert retentions() == {"titled": Retention(5, None), "zero": Retention(None, 0)}


@pytest.mark.parametrize("name", ["", "news room", "a" * 100, "ü", "a\n", "a/b"])
def test_name_that_is_no_channels_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        ChannelSettings(channel=name).clean_fields()


# --- Several processes ------------------------------------------------------------------------------------------------


def set_access(channel: str, access: str) -> None:
    ChannelSettings.objects.update_or_create(channel=channel, defaults={"access": access})


def status(server: Server, channel: str, seconds: float = 60) -> int:
    request = urllib.request.Request(f"{server.url}/events/{channel}/", method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=seconds) as response:
            return int(response.status)
    except urllib.error.HTTPError as refusal:
        return refusal.code


@pytest.mark.once
def test_change_in_one_process_is_obeyed_by_another_within_a_poll(site: Site) -> None:
    server = site.settings(POLL_SECONDS=1).serve()
    assert status(server, "room") == 403
    for access, expected in (("public", 200), ("logged-in", 403), ("public", 200)):
        finish(site.call(set_access, "room", access))
        changed = time.monotonic()
        wait_until(lambda wanted=expected: status(server, "room") == wanted, f"{access} being obeyed")
        assert time.monotonic() - changed < 1 + 4, "POLL_SECONDS, plus a reserve for a busy machine"
    site.execute("DELETE FROM streams_channelsettings")
    wait_until(lambda: status(server, "room") == 403, "the deletion of the row being obeyed")


@pytest.mark.once
def test_rules_are_kept_between_requests(site: Site) -> None:
    finish(site.call(set_access, "room", "public"))
    server = site.settings(POLL_SECONDS=60).serve()
    server.json("/test/queries/")
    assert [status(server, "room") for _ in range(20)] == [200] * 20
    queries = [sql for sql in server.json("/test/queries/")["queries"] if "streams_channelsettings" in sql]
    assert len(queries) <= 1
    finish(site.call(set_access, "room", "staff"))
    assert status(server, "room") == 200, "cached rules are used for POLL_SECONDS"


def publish_to_many() -> None:
    publish_many([NewMessage(f"c.{n}", "x") for n in range(60)])


@pytest.mark.once
def test_list_of_fifty_channels_in_the_admin_costs_a_few_queries(site: Site) -> None:
    finish(site.call(publish_to_many))
    server = site.settings(POLL_SECONDS=60).serve()
    cookie = server.log_in("boss", is_staff=True, is_superuser=True)
    server.json("/test/queries/")
    request = urllib.request.Request(f"{server.url}/admin/streams/channelsettings/", headers={"Cookie": cookie})
    with urllib.request.urlopen(request, timeout=60) as response:
        assert response.read().decode().count("/change/") >= 50
    queries = server.json("/test/queries/")["queries"]
    assert 5 <= len(queries) <= 15, queries


@pytest.mark.once
def test_rules_that_cannot_be_read_any_more_hold_on(site: Site) -> None:
    finish(site.call(set_access, "open", "public"))
    server = site.settings(POLL_SECONDS=0.1, PUBLIC_CHANNELS=["closed"]).serve()
    finish(site.call(set_access, "closed", "staff"))
    wait_until(lambda: status(server, "closed") == 403, "the rule being known")
    site.execute("ALTER TABLE streams_channelsettings RENAME TO away")
    for _ in range(5):
        time.sleep(0.15)
        assert (status(server, "open"), status(server, "closed")) == (200, 403)
    assert server.log.read_text().count("The last known rules stay in force") == 1
    site.execute("ALTER TABLE away RENAME TO streams_channelsettings")
    finish(site.call(set_access, "closed", "public"))
    wait_until(lambda: status(server, "closed") == 200, "the rules being read again")


@pytest.mark.once
async def test_known_rules_hold_while_the_database_hangs(postgres_site: Site, postgres: PostgresServer) -> None:
    """Opening a public channel needs the database only for the access rules."""
    server = postgres_site.settings(POLL_SECONDS=1).serve()
    first = await StreamClient(server.port, "/events/news/").connect()
    await first.read_control(1)
    with postgres.hanging():
        await asyncio.sleep(1.5)  # so that the cached rules are older than POLL_SECONDS
        async with asyncio.timeout(30):
            second = await StreamClient(server.port, "/events/news/").connect()
            await second.read_control(1)
    assert second.status == 200
    leave_all()


@pytest.mark.once
def test_fresh_process_waits_for_its_database_before_it_admits_or_refuses(
    postgres_site: Site, postgres: PostgresServer
) -> None:
    site = postgres_site
    finish(site.call(set_access, "open", "public"))
    finish(site.call(set_access, "closed", "staff"))
    server = site.settings(PUBLIC_CHANNELS=["closed"]).serve()
    answers: dict[str, int] = {}
    asking = [
        threading.Thread(target=lambda name=name: answers.update({name: status(server, name)}))
        for name in ("open", "closed")
    ]
    with postgres.hanging():
        for thread in asking:
            thread.start()
        time.sleep(1.5)
        assert answers == {}, "no request is answered before the rules are known"
    for thread in asking:
        thread.join(60)
    assert answers == {"open": 200, "closed": 403}


def ask_for_rules_without_a_database() -> None:
    import asyncio

    from django.db import DatabaseError, OperationalError

    from streams.channels import rules

    def read() -> rules.Rules:
        raise OperationalError("the connection was refused")

    rules._read = read
    rules.WAIT_FOR_RULES_SECONDS = 1.0
    begun = time.monotonic()
    try:
        asyncio.run(_ask())
    except DatabaseError:
        print(time.monotonic() - begun)


async def _ask() -> Any:
    from streams.channels.rules import aaccess_rules

    return await aaccess_rules()


@pytest.mark.once
def test_process_that_waited_in_vain_says_so(site: Site) -> None:
    waited = float(finish(site.call(ask_for_rules_without_a_database)))
    assert 1 <= waited < 30


# --- Changes while the rules are being read ---------------------------------------------------------------------------


@pytest.mark.once
def test_answer_from_before_a_change_is_not_kept(site: Site) -> None:
    assert finish(site.settings(POLL_SECONDS=600).call(load_while_saving)).split() == ["[]", "['room']"]


def load_while_saving() -> None:
    """Read the rules while another user saves one, after the query and before its result is cached."""
    from streams.channels import rules

    real = rules._read

    def read() -> rules.Rules:
        found = real()
        ChannelSettings.objects.create(channel="room", access="staff")
        return found

    rules._read = read
    before = list(access_rules())
    rules._read = real
    print(before, list(access_rules()))


# --- Transactions of the caller ---------------------------------------------------------------------------------------


@pytest.mark.once
def test_rule_that_is_rolled_back_never_was(site: Site) -> None:
    assert finish(site.settings(POLL_SECONDS=600).call(read_rules_and_roll_back)).split() == ["['secret']", "[]"]


def read_rules_and_roll_back() -> None:
    from django.db import transaction

    with transaction.atomic():
        ChannelSettings.objects.create(channel="secret", access="public")
        inside = list(access_rules())
        transaction.set_rollback(True)
    print(inside, list(access_rules()))
