"""References to users and groups: no lock on a user stops anything, and a row that is deleted leaves none behind.

tests/system/test_own_database.py runs all this once more with the log in a database of its own.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core.management import call_command
from django.db import connections, transaction
from django.test import Client

from streams import publish
from streams.broadcasts import lifecycle, schedule
from streams.channels import rules
from streams.models import Broadcast, ChannelGroup, ChannelSettings, Message
from streams.relay import usage
from streams.relay.access import Principal
from streams.relay.generations import store
from streams.relay.generations import tokens as answer_tokens
from streams.relay.models import Generation, Usage
from streams.runtime.database import database
from tests.support.sites import PYTHON, ROOT, Site

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")

BODY = {"model": "small", "messages": [{"role": "user", "content": "Hi"}], "stream": True}


def spend(user: User) -> None:
    usage.record(
        user_id=user.pk, caller="", upstream="default", model="m", outcome="done", usage=None, chunks=1, seconds=1
    )


@pytest.fixture
def ann() -> User:
    """A user to whom something of every kind refers."""
    ann = User.objects.create(username="ann")
    publish("news", "by ann", published_by=ann)
    Broadcast.objects.using(database()).create(title="t", created_by=ann, scheduled_by=ann, sent_by=ann)
    store.create(Principal(ann, f"user {ann.pk}"), BODY, "default")
    spend(ann)
    return ann


def referring() -> list[Any]:
    """The users to whom rows of each kind refer."""
    return [
        *Message.objects.values_list("published_by"),
        *Broadcast.objects.values_list("created_by", "scheduled_by", "sent_by"),
        *Generation.objects.values_list("owner"),
        *Usage.objects.values_list("user"),
    ]


NOBODY = [(None,), (None, None, None), (None,)]  # and the generations are gone


# --- Deleting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["one", "many", "admin"])
def test_deleted_user_leaves_no_reference(ann: User, how: str) -> None:
    if how == "one":
        ann.delete()
    elif how == "many":
        User.objects.all().delete()
    else:
        client = Client()
        client.force_login(User.objects.create(username="root", is_staff=True, is_superuser=True))
        url = f"/admin/auth/user/{ann.pk}/delete/"
        assert client.get(url).status_code == 200
        assert None not in {key for row in referring() for key in row}, "the page only asks"
        assert client.post(url, {"post": "yes"}).status_code == 302
    assert not User.objects.filter(username="ann").exists()
    assert referring() == NOBODY


def test_other_users_references_stay(ann: User) -> None:
    bob = User.objects.create(username="bob")
    publish("news", "by bob", published_by=bob)
    ann.delete()
    assert dict(Message.objects.values_list("data", "published_by")) == {"by ann": None, "by bob": bob.pk}


def test_rolled_back_deletion_changes_nothing(ann: User) -> None:
    before = referring()

    def delete_and_fail() -> None:
        with transaction.atomic():
            ann.delete()
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        delete_and_fail()
    assert referring() == before


def test_user_deleted_in_the_transaction_of_their_message(ann: User) -> None:
    with transaction.atomic():
        publish("news", "in the transaction", published_by=ann)
        ann.delete()
    assert {key for (key,) in Message.objects.values_list("published_by")} == {None}


def test_deleted_group_reads_no_channel() -> None:
    group, other = Group.objects.create(name="club"), Group.objects.create(name="other")
    ChannelSettings.objects.create(channel="club", access="groups")
    rules.set_groups("club", [group, other])
    Group.objects.filter(pk=group.pk).delete()
    assert list(ChannelGroup.objects.values_list("group", flat=True)) == [other.pk]
    assert list(rules.groups_of("club")) == [other]


PROXIES = """
import django
django.setup()
from django.core.management import call_command
from streams import publish
from streams.models import Message
from tests.system.own_user.models import Employee, Member, Person

call_command("migrate", run_syncdb=True, verbosity=0)
for name in ("person", "proxy", "employee", "kept"):
    made = (Employee if name in ("employee", "kept") else Person).objects.create(email=name)
    publish(name, "x", published_by=Person.objects.get(pk=made.pk))
Person.objects.get(email="person").delete()
Member.objects.get(email="proxy").delete()
Employee.objects.get(email="employee").delete()
Employee.objects.get(email="kept").delete(keep_parents=True)
print([row.published_by and row.published_by.email for row in Message.objects.all()])
"""


@pytest.mark.once
def test_users_of_a_sites_own_kind_their_proxies_and_children(tmp_path: Path) -> None:
    env = os.environ | {
        "DJANGO_SETTINGS_MODULE": "tests.system.own_user.settings",
        "TEST_DATABASE": str(tmp_path / "db"),
    }
    done = subprocess.run([PYTHON, "-c", PROXIES], cwd=ROOT, env=env, text=True, capture_output=True, timeout=120)
    assert (done.stdout, done.stderr) == ("[None, None, None, 'kept']\n", "")


def test_deletion_reads_the_index_of_publishers() -> None:
    rows = Message.objects.filter(published_by__in=[1, 2])
    connection = connections[database()]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":  # it would rather read a table of one page
            cursor.execute("SET enable_seqscan = off")
        try:
            sql, params = rows.order_by().query.sql_with_params()
            prefix = "EXPLAIN" if connection.vendor == "postgresql" else "EXPLAIN QUERY PLAN"
            for one in (sql, sql.replace(" WHERE ", " WHERE position IS NOT NULL AND ")):
                cursor.execute(f"{prefix} {one}", params)
                assert "streams_message_publisher" in str(cursor.fetchall())
        finally:
            if connection.vendor == "postgresql":
                cursor.execute("RESET enable_seqscan")


# --- A reference whose row is gone ------------------------------------------------------------------------------------


@pytest.fixture
def gone(ann: User) -> int:
    """The key of a user that was deleted without Django, so that the references are still there."""
    key: int = ann.pk
    with connections["default"].cursor() as cursor:
        cursor.execute("DELETE FROM auth_user WHERE id = %s", [key])
    return key


def test_reference_to_a_row_that_is_gone_reads_as_none(gone: int) -> None:
    message = Message.objects.get()
    assert (message.published_by_id, message.published_by) == (gone, None)
    assert Message.objects.prefetch_related("published_by").get().published_by is None
    assert Broadcast.objects.get().sent_by is None


@pytest.mark.usefixtures("gone")
def test_admin_shows_references_to_rows_that_are_gone() -> None:
    client = Client()
    client.force_login(User.objects.create(username="root", is_staff=True, is_superuser=True))
    Broadcast.objects.using(database()).update(state="sent", sent_at="2026-01-01T00:00:00Z")
    [message], [broadcast] = Message.objects.all(), Broadcast.objects.all()
    [generation], [cost] = Generation.objects.all(), Usage.objects.all()
    for page in (
        *("streams/message/", f"streams/message/{message.pk}/change/", "streams/monitor/events/?ids=1"),
        *("streams/broadcast/", f"streams/broadcast/{broadcast.pk}/change/", "streams_relay/generation/"),
        *(f"streams_relay/generation/{generation.pk}/change/", "streams_relay/usage/"),
        f"streams_relay/usage/{cost.pk}/change/",
    ):
        assert client.get(f"/admin/{page}").status_code == 200, page


def test_answer_of_a_user_who_is_gone_is_gone(gone: int, settings: Any) -> None:
    """Also for its token, which stands for that user."""
    settings.STREAMS = {"RELAY_ACCESS": "streams.relay.access.Everyone", "GENERATION_WORKER": "command"}
    generation = Generation.objects.get()
    generation.owner = User(pk=gone, username="ann")
    url = f"/ai/generations/{generation.pk}/?token={answer_tokens.make(generation)}"
    assert Client().get(url).status_code in (403, 404)


@pytest.mark.usefixtures("gone")
def test_broadcast_of_a_user_who_is_gone_is_sent() -> None:
    rows = Broadcast.objects.using(database())
    rows.update(state="scheduled", send_at="2026-01-01T00:00:00Z", channels=["news"], payload="x")
    [sent] = schedule.send_due()
    assert (sent.state, sent.sent_by) == ("sent", None)


# --- Reading and assigning --------------------------------------------------------------------------------------------


def test_user_is_assigned_and_read(ann: User) -> None:
    message = publish("news", "x", published_by=ann)
    assert message.published_by is ann
    stored = Message.objects.get(pk=message.pk)
    assert stored.published_by == ann
    assert Message.objects.prefetch_related("published_by").get(pk=message.pk).published_by == ann
    stored.full_clean(exclude=["position"])
    stored.published_by = None
    assert stored.published_by_id is None
    with pytest.raises(ValueError, match='must be a "User" instance'):
        stored.published_by = "ann"


# --- Locks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def locked(ann: User) -> Iterator[User]:
    """A user whose row another session holds, as `select_for_update()` does."""
    if connections["default"].vendor != "postgresql":
        pytest.skip("SQLite locks no rows")
    is_held, is_free, is_done = threading.Event(), threading.Event(), threading.Event()

    def hold() -> None:
        try:
            with transaction.atomic():
                User.objects.select_for_update().get(pk=ann.pk)
                is_held.set()
                is_free.wait(60)
        finally:
            connections.close_all()
            is_done.set()

    threading.Thread(target=hold).start()
    assert is_held.wait(30)
    yield ann
    is_free.set()
    assert is_done.wait(30)
    while _threads:
        _threads.pop().join(30)


def in_thread(function: Any, *args: Any, **kwargs: Any) -> threading.Thread:
    def run() -> None:
        try:
            function(*args, **kwargs)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    _threads.append(thread)
    return thread


_threads: list[threading.Thread] = []


def ends(thread: threading.Thread) -> bool:
    thread.join(15)
    return not thread.is_alive()


@pytest.mark.parametrize("key", [None, "key"])
def test_locked_user_can_publish(locked: User, key: str | None) -> None:
    assert ends(in_thread(publish, "news", "x", published_by=locked, idempotency_key=key))
    assert Message.objects.filter(data="x", position__isnull=False).exists()


def test_locked_user_can_ask_the_relay(locked: User) -> None:
    assert ends(in_thread(store.create, Principal(locked, "user"), BODY, "default"))
    assert ends(in_thread(spend, locked))
    assert (Generation.objects.count(), Usage.objects.count()) == (2, 2)


def test_locked_user_can_save_a_draft(locked: User) -> None:
    assert ends(in_thread(lifecycle.save_draft, Broadcast(title="t", created_by=locked), revision=None))


def test_broadcast_of_a_locked_user_stops_no_publisher(locked: User) -> None:
    """The admin's own record of it may wait for that user, and then does so before the head of the log is locked."""
    draft = Broadcast.objects.using(database()).create(title="t", channels=["news"], payload="x")
    in_thread(lifecycle.send, draft.pk, by=locked)
    # Nothing shows from outside how far it has come. A message a moment later would wait for it.
    threading.Event().wait(1)
    assert ends(in_thread(publish, "news", "another's"))


# --- Migrating --------------------------------------------------------------------------------------------------------


@pytest.mark.once
def test_constraints_of_an_early_version_are_dropped(site: Site) -> None:
    """Its tables were made with them. Going back to that version's end leaves them out."""
    site.manage("publish", "news", "first")
    site.manage("migrate", "streams_relay", "0001")
    site.manage("migrate", "streams", "0004")
    if not site.is_postgres:
        site.execute("ALTER TABLE streams_message RENAME COLUMN published_by_id TO old")
        site.execute(
            'ALTER TABLE streams_message ADD COLUMN published_by_id integer NULL REFERENCES "auth_user" ("id")'
        )
        site.execute("ALTER TABLE streams_message DROP COLUMN old")
    else:
        for table, column, target in (
            ("streams_message", "published_by_id", "auth_user"),
            ("streams_broadcast", "sent_by_id", "auth_user"),
            ("streams_channelsettings_groups", "group_id", "auth_group"),
            ("streams_relay_generation", "owner_id", "auth_user"),
        ):
            site.execute(
                f"ALTER TABLE {table} ADD FOREIGN KEY ({column}) REFERENCES {target} (id) DEFERRABLE INITIALLY DEFERRED"
            )
    assert constraints(site)
    site.manage("migrate")
    assert constraints(site) == []
    assert site.execute("SELECT data, position FROM streams_message") == [("first", 1)]


def constraints(site: Site) -> list[Any]:
    """The constraints from tables of ours to those of other apps."""
    if site.is_postgres:
        return site.execute(
            "SELECT conname FROM pg_constraint WHERE contype = 'f' AND conrelid::regclass::text LIKE 'streams_%' "
            "AND confrelid::regclass::text LIKE 'auth_%'"
        )
    return site.execute(
        "SELECT name FROM sqlite_master WHERE name LIKE 'streams_%' AND sql LIKE '%REFERENCES \"auth_%'"
    )


def test_no_migration_has_a_constraint(capsys: pytest.CaptureFixture[str]) -> None:
    for app, migration in (("streams", "0001"), ("streams", "0002"), ("streams_relay", "0001")):
        call_command("sqlmigrate", app, migration, database=database())
    assert 'REFERENCES "auth_' not in capsys.readouterr().out
