"""A procedure in PostgreSQL publishes in one round trip."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import pytest
from django.db import OperationalError, connection, connections, transaction

from streams import log, publish, publish_many
from streams.log import known
from streams.models import Message
from streams.protocol.events import NewMessage
from tests.support.services.postgres import PostgresServer
from tests.support.sites import Site, finish
from tests.system.support import assert_no_holes, send_line, wait_for_line

pytestmark = pytest.mark.once


def publish_and_count_queries() -> None:
    """Print how many queries a publish takes, outside a transaction and inside one."""
    from django.test.utils import CaptureQueriesContext

    for _ in range(2):
        publish("news", "x")  # the first one reads the identity of the database, and the second one compares it
    with CaptureQueriesContext(connection) as queries:
        publish_many([NewMessage("news", "x"), NewMessage("news", "y")])
        alone = len(queries)
        with transaction.atomic():
            publish("news", "z")
    print(alone, len(queries) - alone)


def test_publish_is_one_round_trip(postgres_site: Site) -> None:
    """Inside a transaction it takes four: BEGIN, INSERT, COMMIT, and one that numbers the message."""
    assert finish(postgres_site.call(publish_and_count_queries)) == "1 4\n"


def publish_with_all_columns() -> None:
    from django.contrib.auth import get_user_model

    user = get_user_model().objects.create(username="ada")
    publish("news", "x")
    awkward = "1;' \\ %s {} \"\n"
    rows = publish_many([NewMessage("news", awkward, "e", None, user), NewMessage("other", {"n": 1})])
    assert known.for_one_trip() is not None
    for row in rows:
        stored = Message.objects.get(pk=row.pk)
        for field in Message._meta.concrete_fields:
            assert getattr(row, field.attname) == getattr(stored, field.attname), field
    assert [rows[0].data, rows[0].event, rows[0].published_by_id, rows[1].event] == [awkward, "e", user.pk, "message"]
    assert [row.position for row in rows] == [2, 3]


def test_procedure_stores_every_column(postgres_site: Site) -> None:
    finish(postgres_site.call(publish_with_all_columns))


def publish_by_prepared_statements() -> None:
    connections.settings["default"]["OPTIONS"] |= {"server_side_binding": True, "prepare_threshold": 2}
    print([publish("news", "x").position for _ in range(8)], known.for_one_trip() is not None)


def test_procedure_accepts_server_side_binding(postgres_site: Site) -> None:
    """With Django's option server_side_binding, psycopg sends parameters separately from the statement."""
    assert finish(postgres_site.call(publish_by_prepared_statements)) == "[1, 2, 3, 4, 5, 6, 7, 8] True\n"


def finish_inside_a_transaction() -> None:
    for _ in range(2):
        publish("news", "x")
    assert known.for_one_trip() is not None
    with transaction.atomic():
        log.finish({}, [])
        publish("news", "inside")
    transaction.set_autocommit(False)
    log.finish({}, [])
    transaction.commit()
    transaction.set_autocommit(True)


def test_procedure_is_not_called_in_transactions(postgres_site: Site) -> None:
    """The call would fail, and with it the transaction of the caller."""
    finish(postgres_site.call(finish_inside_a_transaction))
    assert assert_no_holes(postgres_site) == ["x", "x", "inside"]


def publish_ten(role: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET ROLE {role}")
    for number in range(10):
        publish("news", number)
    print(known.for_one_trip())


@pytest.mark.parametrize(
    "how", ["DROP PROCEDURE streams_publish", "REVOKE EXECUTE ON PROCEDURE streams_publish FROM PUBLIC"]
)
def test_database_without_the_procedure_works(postgres_site: Site, how: str) -> None:
    """A test run without migrations does not create it, and a role can lack the permission to call it."""
    postgres_site.execute(how)
    role = f"publisher_{time.monotonic_ns()}"
    postgres_site.execute(f"CREATE ROLE {role}")
    try:
        postgres_site.execute(f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {role}")
        postgres_site.execute(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}")
        publishers = [postgres_site.call(publish_ten, role) for _ in range(2)]
        assert [finish(publisher) for publisher in publishers] == ["None\n"] * 2
        assert len(assert_no_holes(postgres_site)) == 20
    finally:
        postgres_site.execute(f"DROP OWNED BY {role}")
        postgres_site.execute(f"DROP ROLE {role}")


def publish_again_after_a_crash() -> None:
    for _ in range(4):
        publish("news", "before")
    send_line("published")
    wait_for_line("go on")
    for _ in range(20):
        with contextlib.suppress(OperationalError):
            print(publish("news", "after").position)
            return
        connection.close()
        time.sleep(0.5)


def test_crash_starts_an_epoch(postgres: PostgresServer, postgres_site: Site) -> None:
    """Without durable commits, PostgreSQL can lose commits in a crash of one process, without a restart."""
    name = postgres_site.database_url.rpartition("/")[2]
    postgres_site.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    publisher = postgres_site.call(publish_again_after_a_crash)
    publisher.expect_line("published")
    postgres_site.execute("CHECKPOINT")  # keeps the commits so far
    [(pid,)] = postgres_site.execute(
        f"SELECT pid FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()"
    )
    os.kill(pid, signal.SIGKILL)
    publisher.write_line("go on")
    position = int(finish(publisher))
    assert [(position - 1,)] == postgres_site.execute("SELECT start FROM streams_epoch")
