"""Streams in a site's tests with pytest-django: `db` and `transactional_db`, in sync and async test functions.

pytest-asyncio runs an async test's event loop in the thread in which `db` opens its transaction. Sync code below an
async test runs in a thread of asgiref, on another connection. It needs `transactional_db`, as all queries there do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import SyncToAsync
from django.db import connection, connections, transaction

from streams import apublish, publish
from streams.models import Message
from tests.support.in_users_tests import PublishAndRead, PublishAndReadWithQueries, publish_in_transaction, texts
from tests.support.services import wait_until
from tests.support.users_runner import others, wait_for_log_threads


@pytest.fixture(scope="class", autouse=True)
def nothing_is_left_behind(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Check after a class's last test that no messages, threads or connections are left.

    An open connection would prevent that the test database is dropped.
    """
    yield
    with django_db_blocker.unblock():
        assert Message.objects.count() == 0
        if connection.vendor == "postgresql":
            wait_until(lambda: not others(), "the end of all connections but this one")
    wait_for_log_threads()


@pytest.fixture
def async_queries() -> Iterator[None]:
    """Close the connections of asgiref's thread, which runs the async queries of a test."""
    yield
    SyncToAsync.single_thread_executor.submit(connections.close_all).result(30)


@pytest.fixture
def empty_log(request: pytest.FixtureRequest) -> None:
    """Check that no messages of an earlier test are left."""
    request.getfixturevalue("transactional_db" if "transactional_db" in request.fixturenames else "db")
    assert Message.objects.count() == 0


class SyncTests:
    def test_published_message_is_in_the_log_at_once(self):
        message = publish("news", {"a": 1})
        stored = Message.objects.get()
        assert (stored.position, stored.data) == (message.position, '{"a":1}')
        assert publish("news", "next").position == message.position + 1

    def test_rolled_back_message_is_not_in_the_log(self):
        with pytest.raises(ArithmeticError):
            publish_in_transaction("news", "never", fail=True)
        message = publish("news", "after it")
        assert list(Message.objects.values_list("data", "position")) == [("after it", message.position)]

    def test_view_that_publishes_is_called_by_the_sync_client(self, client):
        client.get("/test/response/publish-in-transaction/?data=one")
        client.get("/test/response/apublish/?data=two")
        assert list(Message.objects.order_by("id").values_list("data", flat=True)) == ["one", "two"]


class EndsEarly:
    """Tests that end while their publishes and streams still use the log.

    These tests do not run with a sync middleware: asgiref's thread would wait forever for a request whose event loop
    has ended (seen in asgiref 3.13).
    """

    @pytest.mark.parametrize("milliseconds", [0, 1, 2, 3, 5, 8, 13, 21])
    async def test_publishes_and_streams_are_left_to_themselves(self, async_client, milliseconds):
        self.__class__.left = [
            asyncio.create_task(left)
            for left in (apublish("news", "hello"), async_client.get("/events/news/?replay=1"))
        ]
        await asyncio.sleep(milliseconds / 1000)


@pytest.mark.usefixtures("db", "empty_log")
class TestWithDb(PublishAndRead, EndsEarly, SyncTests):
    def test_message_published_in_a_transaction_has_a_position_once_its_hooks_were_run(
        self, django_capture_on_commit_callbacks
    ):
        with django_capture_on_commit_callbacks(execute=True), transaction.atomic():
            message = publish("news", "hello")
            assert message.position is None
        assert message.position == Message.objects.get().position is not None

    async def test_message_of_a_sync_fixture_is_replayed(self, published, async_client):
        assert await texts(await async_client.get("/events/news/?replay=1"), 1) == ["of the fixture"]

    async def test_message_that_a_sync_fixture_published_in_a_transaction_is_replayed(
        self, published_in_transaction, async_client
    ):
        assert await texts(await async_client.get("/events/news/?replay=1"), 1) == ["of the fixture"]


@pytest.fixture
def published(db: None) -> None:
    publish("news", "of the fixture")


@pytest.fixture
def published_in_transaction(db: None) -> None:
    publish_in_transaction("news", "of the fixture")


@pytest.fixture
def with_sync_middleware(settings: Any) -> None:
    settings.MIDDLEWARE = ["tests.support.middleware.sync_only", *settings.MIDDLEWARE]


@pytest.mark.usefixtures("db", "empty_log", "with_sync_middleware")
class TestWithDbAndSyncMiddleware(PublishAndRead):
    pass


@pytest.mark.usefixtures("transactional_db", "empty_log")
class TestWithTransactionalDb(PublishAndRead, EndsEarly, SyncTests):
    pass


@pytest.mark.usefixtures("transactional_db", "empty_log", "with_sync_middleware")
class TestWithTransactionalDbAndSyncMiddleware(PublishAndRead):
    pass


@pytest.mark.usefixtures("transactional_db", "empty_log", "async_queries")
class TestWithQueriesInTransactionalDb(PublishAndReadWithQueries):
    pass


@pytest.mark.usefixtures("transactional_db", "empty_log", "async_queries", "with_sync_middleware")
class TestWithQueriesInTransactionalDbAndSyncMiddleware(PublishAndReadWithQueries):
    pass


class OnOneEventLoop:
    """Tests that share an event loop. Each leaves a stream open, and must read only its own messages."""

    @pytest.mark.asyncio(loop_scope="class")
    @pytest.mark.parametrize("n", range(4))
    async def test_messages_are_those_of_the_test(self, async_client, n):
        live = await async_client.get("/events/news/")
        for text in ("one", "two"):
            await apublish("news", f"{text} of {n}")
        replayed = await async_client.get("/events/news/?replay=9")
        assert await texts(replayed, 2) == [f"one of {n}", f"two of {n}"]
        assert await texts(live, 2) == [f"one of {n}", f"two of {n}"]
        self.__class__.left_open = [*getattr(self, "left_open", []), await async_client.get("/events/news/")]


@pytest.mark.usefixtures("db", "empty_log")
class TestOnOneEventLoopWithDb(OnOneEventLoop):
    pass


@pytest.mark.usefixtures("transactional_db", "empty_log")
class TestOnOneEventLoopWithTransactionalDb(OnOneEventLoop):
    pass
