"""A full disk is reported clearly: to publishers, to clients of the API, and in the server's log."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from django.db import InterfaceError, OperationalError, ProgrammingError, connection
from django.db.backends.signals import connection_created

from streams.runtime import failures
from tests.support.sites import Site, finish

FULL = "The database's disk is full, so that nothing can be stored: free space on it"

# PostgreSQL raises this error if a file cannot grow.
TRIGGER = """
    CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'could not extend file "base/5/1259": No space left on device' USING ERRCODE = 'disk_full';
    END $$;
    CREATE TRIGGER full_disk BEFORE INSERT ON streams_message EXECUTE FUNCTION full_disk()
"""


def fill_disk(page_count: int | None = None) -> None:
    """Make inserts fail as they do on a full disk."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(TRIGGER)
        return

    def limit(*, connection: Any, **kwargs: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA max_page_count = 1")  # SQLite keeps the existing pages

    connection.close()
    connection_created.connect(limit, weak=False, dispatch_uid="full")


def free_disk() -> None:
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER full_disk ON streams_message")
        return
    connection_created.disconnect(dispatch_uid="full")
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA max_page_count = 1000000")


def publish_to_full_disk() -> None:
    """Publish in several ways, and print the exceptions, the answers of the API and the log records."""
    from django.db import transaction
    from django.test import Client

    from streams import apublish, publish
    from streams.tokens import make_token

    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("streams").addHandler(handler)
    logging.getLogger("streams").setLevel("INFO")
    publish("news", "there is room")
    client = Client(SERVER_NAME="localhost")
    headers = {"Authorization": f"Bearer {make_token(publish=['news'], read=['news'])}"}
    large = "x" * 200_000
    fill_disk()

    def in_transaction() -> None:
        with transaction.atomic():
            publish("news", large)

    raised = []
    for way in (lambda: publish("news", large), in_transaction, lambda: asyncio.run(apublish("news", large))):
        try:
            way()
        except Exception as error:
            raised.append((type(error).__name__, str(error)))
    answers = []
    for _ in range(3):
        answer = client.post(
            "/api/channels/news/messages/", {"data": large}, content_type="application/json", headers=headers
        )
        answers.append((answer.status_code, answer.json()["error"]["message"]))
        assert client.get("/api/channels/news/messages/", headers=headers).status_code == 200, "reading still works"
    free_disk()
    publish("news", large)
    print(json.dumps({"raised": raised, "answers": answers, "logged": logged}))


@pytest.mark.once
def test_full_disk_is_reported_as_such(site: Site) -> None:
    result = json.loads(finish(site.call(publish_to_full_disk)))
    driver = "No space left on device" if site.is_postgres else "database or disk is full"
    assert len(result["raised"]) == 3
    for kind, text in result["raised"]:
        assert kind == "OperationalError", "the class stays the same, so that callers can catch it"
        assert text.startswith(FULL)
        assert driver in text
    for status, text in result["answers"]:
        assert status == 503
        assert text.startswith(FULL)
        assert driver not in text, "an answer must not contain paths of the server"
    reports = [line for line in result["logged"] if FULL in line]
    assert len(reports) == 1, "one report, although reads succeed in between"
    assert result["logged"][-1] == "The database can store again."


# --- Classification of errors -----------------------------------------------------------------------------------------


def from_driver(error: Exception, driver: Exception) -> Exception:
    """Return the error with the driver's error as its cause, as Django raises it."""
    error.__cause__ = driver
    return error


def drivers_error(sqlstate: str) -> Exception:
    psycopg = pytest.importorskip("psycopg")
    return psycopg.errors.lookup(sqlstate)("…")  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("sqlstate", "expected"),
    [
        ("53100", failures.DISK_FULL),
        ("53200", failures.NO_MEMORY),
        ("42P01", failures.NOT_MIGRATED),
        ("42703", failures.NOT_MIGRATED),
        ("57P01", failures.NO_ANSWER),
    ],
)
def test_errors_of_postgresql_are_explained(sqlstate: str, expected: str) -> None:
    assert failures.explain(from_driver(OperationalError("…"), drivers_error(sqlstate))) == expected


def test_mistake_in_a_query_is_no_outage() -> None:
    mistake = from_driver(ProgrammingError("…"), drivers_error("42601"))
    assert not failures.is_unavailable(mistake)
    assert failures.is_unavailable(from_driver(ProgrammingError("…"), drivers_error("42P01")))
    assert failures.is_unavailable(InterfaceError("the connection is closed"))
