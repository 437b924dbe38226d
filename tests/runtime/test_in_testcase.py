"""Streams in a site's tests: Django's TestCase and TransactionTestCase, with async and sync test methods."""

from __future__ import annotations

import contextlib
import threading

from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import OperationalError, connections, transaction
from django.test import AsyncClient, TestCase, TransactionTestCase, override_settings

from streams import apublish, publish
from streams.models import LogHead, Message
from streams.testing import read_events
from tests.support.in_users_tests import PublishAndRead, PublishAndReadWithQueries, publish_in_transaction, texts

quick_polls = override_settings(STREAMS={**settings.STREAMS, "POLL_SECONDS": 0.1})
sync_middleware = override_settings(MIDDLEWARE=["tests.support.middleware.sync_only", *settings.MIDDLEWARE])


class FromSyncTests:
    def setUp(self):
        assert Message.objects.count() == 0, "an earlier test has left messages behind"

    def test_published_message_is_in_the_log_at_once(self):
        message = publish("news", {"a": 1})
        stored = Message.objects.get()
        assert (stored.position, stored.data) == (message.position, '{"a":1}')
        assert publish("news", "next").position == message.position + 1

    def test_message_is_read_by_async_code_that_a_sync_test_runs(self):
        publish("news", "hello")

        async def read():
            return await texts(await AsyncClient().get("/events/news/?replay=1"), 1)

        assert async_to_sync(read)() == ["hello"]
        assert async_to_sync(read)() == ["hello"]

    def test_view_that_publishes_is_called_by_the_sync_client(self):
        self.client.get("/test/response/publish-in-transaction/?data=one")
        self.client.get("/test/response/apublish/?data=two")
        assert list(Message.objects.order_by("id").values_list("data", flat=True)) == ["one", "two"]

    def test_sync_client_is_told_to_be_async_where_it_opens_a_stream(self):
        response = self.client.get("/events/news/")
        assert response.status_code == 500
        assert "AsyncClient" in response.json()["error"]["message"]

    def test_sync_client_does_not_wait_for_a_stream_of_a_views_own(self):
        response = self.client.get("/test/response/endless/?key=sync-client")
        self.assertContains(response, "AsyncClient", status_code=500)

    def test_rolled_back_message_is_not_in_the_log(self):
        try:
            publish_in_transaction("news", "never", fail=True)
        except ArithmeticError:
            message = publish("news", "after it")
        assert list(Message.objects.values_list("data", "position")) == [("after it", message.position)]

    def test_missing_head_row_is_made_again_by_sync_code(self):
        first = publish("news", "one")
        LogHead.objects.all().delete()
        assert publish("news", "two").position == first.position + 1


@quick_polls
class InTestCase(PublishAndRead, PublishAndReadWithQueries, FromSyncTests, TestCase):
    def test_message_published_in_a_transaction_has_a_position_once_its_hooks_were_run(self):
        with self.captureOnCommitCallbacks(execute=True), transaction.atomic():
            message = publish("news", "hello")
            assert message.position is None
        assert message.position == Message.objects.get().position is not None

    def test_message_whose_hooks_do_not_run_is_in_the_log_nevertheless(self):
        publish_in_transaction("news", "hello")
        assert Message.objects.get().position is None
        assert publish("news", "later").position == 2

    def test_thread_that_publishes_neither_waits_for_the_test_nor_disturbs_it(self):
        """The thread's message can become part of the test or be refused. In both cases, the test continues."""

        def publish_one():
            with contextlib.suppress(OperationalError):
                publish("news", "of a thread")
            connections.close_all()

        user = get_user_model().objects.create(username="ada")
        publish("news", "first of the test")
        publisher = threading.Thread(target=publish_one, daemon=True)
        publisher.start()
        for n in range(20):
            publish("news", f"{n} of the test")
            user.last_name = str(n)
            with transaction.atomic():
                user.save()
        publisher.join(60)
        assert not publisher.is_alive()
        assert Message.objects.filter(data__endswith="of the test").count() == 21
        positions = list(Message.objects.order_by("position").values_list("position", flat=True))
        assert positions == list(range(1, len(positions) + 1))
        assert get_user_model().objects.get().last_name == "19"

    async def test_message_whose_hooks_were_run_is_read(self):
        response = await self.async_client.get("/events/news/")

        def publish_and_run_hooks():
            with self.captureOnCommitCallbacks(execute=True):
                publish_in_transaction("news", "hello")

        await sync_to_async(publish_and_run_hooks)()
        assert await texts(response, 1) == ["hello"]


@quick_polls
@sync_middleware
class InTestCaseWithSyncMiddleware(PublishAndRead, PublishAndReadWithQueries, FromSyncTests, TestCase):
    pass


class InTestCaseWithDefaultSettings(TestCase):
    async def test_message_published_in_a_transaction_is_read(self):
        response = await self.async_client.get("/events/news/")
        await sync_to_async(publish_in_transaction)("news", "hello")
        assert await texts(response, 1) == ["hello"]


@override_settings(STREAMS={**settings.STREAMS, "MAX_STREAMS_PER_PROCESS": 1})
class WithOneStreamAtATime(TestCase):
    """The streams of an earlier test do not count, even if they were left open and are still referenced."""

    left_open = []

    async def open(self):
        response = await self.async_client.get("/events/news/")
        assert response.status_code == 200
        chunks = aiter(response)
        await anext(chunks)
        self.left_open += [response, chunks]
        assert (await self.async_client.get("/events/news/")).status_code == 429

    async def test_stream_of_one_test(self):
        await self.open()

    async def test_stream_of_another_test(self):
        await self.open()


class WithMessagesOfTheClass(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.first = publish("news", "of the class")

    def test_message_of_the_class_is_there(self):
        assert Message.objects.get() == self.first
        assert publish("news", "of the test").position == self.first.position + 1

    async def test_message_of_the_class_is_replayed(self):
        await apublish("news", "of the test")
        response = await self.async_client.get("/events/news/?replay=10")
        assert await texts(response, 2) == ["of the class", "of the test"]

    async def test_stream_goes_on_from_a_message_of_the_class(self):
        response = await self.async_client.get(f"/events/news/?last_event_id={self.first.position}")
        await apublish("news", "of the test")
        [event] = await read_events(response, 1)
        assert (event.data, event.id) == ("of the test", str(self.first.position + 1))


class InTransactionTestCase(PublishAndRead, PublishAndReadWithQueries, FromSyncTests, TransactionTestCase):
    def test_message_published_in_a_transaction_has_a_position_after_it(self):
        with transaction.atomic():
            message = publish("news", "hello")
            assert message.position is None
        assert message.position == Message.objects.get().position is not None


@sync_middleware
class InTransactionTestCaseWithSyncMiddleware(
    PublishAndRead, PublishAndReadWithQueries, FromSyncTests, TransactionTestCase
):
    pass
