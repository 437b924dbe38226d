"""References to users and groups: deleting a row leaves no references to it.

tests/system/test_own_database.py repeats these tests with the log in a separate database.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core.management import call_command
from django.db import connections, transaction
from django.db.models import F
from django.test import Client

from streams import NewMessage, publish, publish_many
from streams.broadcasts import schedule
from streams.channels import rules
from streams.models import Broadcast, ChannelGroup, ChannelSettings, Message
from streams.relay.generations import tokens as answer_tokens
from streams.relay.models import Generation, Usage
from streams.runtime.database import database
from tests.support.sites import PYTHON, ROOT, Site

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")


def referring() -> list[Any]:
    """Return the keys of the users to whom rows of each kind refer."""
    return [
        *Message.objects.values_list("published_by"),
        *Broadcast.objects.values_list("created_by", "scheduled_by", "sent_by"),
        *Generation.objects.values_list("owner"),
        *Usage.objects.values_list("user"),
    ]


NOBODY = [(None,), (None, None, None), (None,)]  # the generations are deleted


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
        assert None not in {key for row in referring() for key in row}, "the page asks for confirmation"
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


def test_user_deleted_in_messages_transaction(ann: User) -> None:
    with transaction.atomic():
        publish("news", "in the transaction", published_by=ann)
        ann.delete()
    assert {key for (key,) in Message.objects.values_list("published_by")} == {None}


def test_deleted_group_can_read_nothing() -> None:
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
def test_custom_users_leave_no_references(tmp_path: Path) -> None:
    """This covers proxies and child models of a custom user model."""
    env = os.environ | {
        "DJANGO_SETTINGS_MODULE": "tests.system.own_user.settings",
        "TEST_DATABASE": str(tmp_path / "db"),
    }
    done = subprocess.run([PYTHON, "-c", PROXIES], cwd=ROOT, env=env, text=True, capture_output=True, timeout=120)
    assert (done.stdout, done.stderr) == ("[None, None, None, 'kept']\n", "")


def test_deletion_uses_an_index() -> None:
    publish_many([NewMessage("news", n) for n in range(500)])
    Message.objects.update(published_by=F("id"))
    rows = Message.objects.filter(published_by__in=[1, 2])
    connection = connections[database()]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":  # which chooses a plan by the statistics of the table
            cursor.execute("ANALYZE streams_message")
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
    """Return the key of a user that was deleted without Django, so that the references still exist."""
    key: int = ann.pk
    with connections["default"].cursor() as cursor:
        cursor.execute("DELETE FROM auth_user WHERE id = %s", [key])
    return key


def test_missing_row_reads_as_none(gone: int) -> None:
    message = Message.objects.get()
    assert (message.published_by_id, message.published_by) == (gone, None)
    assert Message.objects.prefetch_related("published_by").get().published_by is None
    assert Broadcast.objects.get().sent_by is None


@pytest.mark.usefixtures("gone")
def test_admin_shows_missing_rows() -> None:
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


def test_answer_of_missing_user_is_hidden(gone: int, settings: Any) -> None:
    """This includes requests with its token, which authenticates as that user."""
    settings.STREAMS = {"RELAY_ACCESS": "streams.relay.access.Everyone", "GENERATION_WORKER": "command"}
    generation = Generation.objects.get()
    generation.owner = User(pk=gone, username="ann")
    url = f"/ai/generations/{generation.pk}/?token={answer_tokens.make(generation)}"
    assert Client().get(url).status_code in (403, 404)


@pytest.mark.usefixtures("gone")
def test_broadcast_of_missing_user_is_sent() -> None:
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


# --- Migrating --------------------------------------------------------------------------------------------------------


@pytest.mark.once
def test_old_constraints_are_dropped(site: Site) -> None:
    """The old version created its tables with constraints. Migrating back does not create them again."""
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
    """Return the foreign keys from tables of Streams to those of other apps."""
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
