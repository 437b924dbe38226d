"""PostgresNotifier: its options, the database that it uses, and transactions in this database."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from django.db import connections, transaction
from django.test import override_settings

from streams.exceptions import InvalidSetting
from streams.models import Message
from streams.notifiers.postgres import PostgresNotifier
from tests.support.notices import hear, in_thread, listening, notice, tell
from tests.support.services.postgres import PostgresServer

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("database_in_threads")]


async def test_postgres_listens_where_the_dsn_says(settings_database: str, postgres: PostgresServer) -> None:
    name = connections.settings[settings_database]["NAME"]
    elsewhere = PostgresNotifier(postgres.dsn(postgres.create_database()), database=settings_database)
    there = PostgresNotifier(postgres.dsn(name), database=settings_database)
    async with aclosing(await listening(elsewhere)) as other_notices, aclosing(await listening(there)) as notices:
        await tell(PostgresNotifier(database=settings_database), notice(1))
        assert await hear(notices, until=1) == [notice(1)]
        await tell(elsewhere, notice(2))
        assert await hear(other_notices, until=2) == [notice(2)], "the other database receives only the second notice"


async def test_postgres_sends_nothing_from_within_a_transaction(settings_database: str) -> None:
    notifier, far = PostgresNotifier(database=settings_database), PostgresNotifier(database=settings_database)

    def in_transaction() -> None:
        with transaction.atomic(using=settings_database):
            notifier.notify(notice(1))

    async with aclosing(await listening(notifier)) as here, aclosing(await listening(far)) as there:
        await asyncio.to_thread(in_thread, in_transaction)
        assert await hear(here, until=1) == [notice(1)]
        await tell(notifier, notice(2))
        assert await hear(there, until=2) == [notice(2)]


def test_wrong_options_are_refused_with_what_is_right(settings_database: str) -> None:
    with pytest.raises(InvalidSetting, match=r"an alias from DATABASES \(default"):
        PostgresNotifier(database="other")
    with pytest.raises(InvalidSetting, match="1 to 63 bytes; got 'x"):
        PostgresNotifier(channel="x" * 64, database=settings_database)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql//me:hunter2@db/x",
        "postgresql://me:100%hunter2@db/x",
        "postgresql://me:hun/ter2@db/x",
        "postgresql://me:h@hunter2@db/x",
        "host=db password=hunter2 prot=5432",
        7,
    ],
)
def test_dsn_that_libpq_cannot_read_is_refused_without_showing_it(dsn: Any, settings_database: str) -> None:
    with pytest.raises(InvalidSetting, match="such as 'postgresql://user@host:5432/name'") as error:
        PostgresNotifier(dsn, database=settings_database)
    assert "hun" not in str(error.value)
    assert error.value.__suppress_context__ or error.value.__context__ is None, "the traceback must not show it either"


@pytest.mark.parametrize(
    "dsn", ["postgresql://me:h%40%2F@[::1]:5432/x", "host=/run/a,/run/b port=5432,5433", "service=x"]
)
def test_dsn_that_libpq_can_read_is_taken(dsn: str, settings_database: str) -> None:
    PostgresNotifier(dsn, database=settings_database)


class ToNotifiers:
    """A router that stores the log in a separate database."""

    def db_for_write(self, model: type, **hints: object) -> str | None:
        return "notifiers" if model is Message else None


async def test_postgres_goes_where_a_router_has_put_the_log(settings_database: str) -> None:
    far = PostgresNotifier(database=settings_database)
    with override_settings(DATABASE_ROUTERS=[f"{__name__}.ToNotifiers"]):
        notifier = PostgresNotifier()

        def within_an_atomic_request() -> None:
            with transaction.atomic():
                notifier.notify(notice(1))

        async with aclosing(await listening(far)) as notices:
            await asyncio.to_thread(in_thread, within_an_atomic_request)
            assert await hear(notices, until=1) == [notice(1)]


@pytest.mark.skipif(connections["default"].vendor == "postgresql", reason="the default database is PostgreSQL")
def test_postgres_notifier_without_postgres_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="needs PostgreSQL; the database 'default' is sqlite"):
        PostgresNotifier()
