"""Assertions about published messages, in Django's test cases."""

from __future__ import annotations

import contextlib
import io
import threading

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connections, transaction
from django.test import AsyncClient, TestCase, TransactionTestCase

from streams import NewMessage, apublish, publish, publish_many
from streams.broadcasts import lifecycle
from streams.models import Broadcast
from streams.testing import assert_not_published, assert_published, published
from tests.support.in_users_tests import publish_in_transaction


def announce_after_commit(n: int) -> None:
    """Publish as sites do: after the commit of the transaction that changes something else."""
    with transaction.atomic():
        get_user_model().objects.create(username=f"customer {n}")
        transaction.on_commit(lambda: publish("orders", {"order": n}))


def failure_of(assertion, *calls) -> str:
    with pytest.raises(AssertionError) as raised, assertion:  # noqa: PT012
        for call in calls:
            call()
    return str(raised.value)


class InBoth:
    def test_published_message_is_found_and_returned(self):
        publish("orders", {"order": 1})
        with assert_published("orders", {"order": 17}) as messages:
            sent = publish("orders", {"order": 17}, event="paid")
        assert messages == [sent]
        assert messages[0].event == "paid"

    def test_earlier_message_does_not_count(self):
        publish("orders", {"order": 17})
        assert failure_of(assert_published("orders", {"order": 17})) == (
            "Expected messages on 'orders' with the data {'order': 17}; none was published.\nNothing was published."
        )

    def test_failure_lists_what_was_published_instead(self):
        def work():
            publish_many([NewMessage("orders", {"order": 18}), NewMessage("news", "hello", "greeting")])

        assert failure_of(assert_published("orders", {"order": 17}, event="paid"), work) == (
            "Expected messages on 'orders' of the type 'paid' with the data {'order': 17}; none was published.\n"
            'Published:\n  1. orders, message: {"order":18}\n  2. news, greeting: hello'
        )

    def test_count_is_exact(self):
        with assert_published("orders", count=2):
            publish_many([NewMessage("orders", n) for n in range(2)])
        text = failure_of(assert_published("orders", count=2), lambda: publish("orders", 1))
        assert text.startswith("Expected 2 messages on 'orders'; got 1.")

    def test_sequence_is_all_of_the_channel_in_order(self):
        def work():
            for n in (1, 2):
                publish("orders", {"order": n})
                publish("news", "between")

        with assert_published("orders", sequence=[{"order": 1}, lambda data: data["order"] == 2]):
            work()
        for wrong in ([{"order": 2}, {"order": 1}], [{"order": 1}], [{"order": 1}, {"order": 2}, {"order": 3}]):
            text = failure_of(assert_published("orders", sequence=wrong), work)
            assert text.startswith("Expected exactly these messages on 'orders', in this order: [{'order'")

    def test_not_published(self):
        with assert_not_published("orders"):
            publish("news", "hello")
        text = failure_of(assert_not_published("orders"), lambda: publish("orders", 1))
        assert text == "Expected no messages on 'orders'; got 1.\nPublished:\n  1. orders, message: 1"
        assert failure_of(assert_not_published(), lambda: publish("orders", 1)).startswith(
            "Expected no messages; got 1."
        )

    def test_rolled_back_message_does_not_count(self):
        with assert_not_published(), contextlib.suppress(ArithmeticError):
            publish_in_transaction("news", "never", fail=True)
        with assert_published("news", "kept"):
            publish_in_transaction("news", "kept")

    def test_after_the_fact(self):
        publish("orders", {"order": 17})
        publish("news", "hello")
        assert [message.channel for message in published()] == ["orders", "news"]
        assert [message.data for message in published("news")] == ["hello"]
        [message] = assert_published("orders", {"order": 17}).so_far()
        assert message.channel == "orders"
        with pytest.raises(AssertionError, match="hello"):
            assert_published("news", "goodbye").so_far()

    def test_views_commands_and_broadcasts_count(self):
        with assert_published("news", sequence=["from a view", "from a command", "from the admin"]):
            self.client.get("/test/response/publish/?data=from a view")
            call_command("publish", "news", "from a command", stdout=io.StringIO())
            broadcast = Broadcast.objects.create(title="x", channels=["news"], payload="from the admin")
            lifecycle.send(broadcast.pk, by=None)

    def test_blocks_own_exception_is_raised(self):
        with pytest.raises(ZeroDivisionError), assert_published("news"):
            publish("news", 1 / 0)

    async def test_in_async_tests(self):
        with assert_published("news", "one"):
            await apublish("news", "one")
        async with assert_published("news", "two") as messages:
            await apublish("news", "two")
            await sync_to_async(publish)("news", "three")
        assert [message.data for message in messages] == ["two"]
        assert [message.data for message in published("news")] == ["one", "two", "three"]
        with pytest.raises(AssertionError, match="four"):
            async with assert_not_published("news"):
                await apublish("news", "four")

    async def test_async_views_count(self):
        with assert_published("news", "from a view"):
            await AsyncClient().get("/test/response/apublish/?data=from a view")

    async def test_waiting_functions_run_in_async_tests(self):
        async with assert_published("orders", {"order": 3}, run_on_commit=True):
            await sync_to_async(announce_after_commit)(3)


class PublishedInTestCase(InBoth, TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.user = get_user_model().objects.create(username="ada")

    def test_functions_that_wait_for_a_commit_do_not_run_by_themselves(self):
        text = failure_of(assert_published("orders"), lambda: announce_after_commit(1))
        assert "Functions of transaction.on_commit() that wait for a commit: 1. A TestCase never commits" in text

    def test_waiting_functions_run_at_the_end(self):
        with assert_published("orders", {"order": 1}, count=1, run_on_commit=True):
            announce_after_commit(1)
        text = failure_of(assert_not_published(run_on_commit=True), lambda: announce_after_commit(2))
        assert '{"order":2}' in text

    def test_waiting_functions_that_others_pass_on_run_too(self):
        with assert_published("news", "last", run_on_commit=True):
            transaction.on_commit(lambda: transaction.on_commit(lambda: publish("news", "last")))

    def test_djangos_own_capture_counts(self):
        with assert_published("orders", {"order": 1}, count=1), self.captureOnCommitCallbacks(execute=True):
            announce_after_commit(1)

    def test_function_of_a_transaction_that_was_rolled_back_does_not_run(self):
        with assert_not_published(run_on_commit=True), contextlib.suppress(ArithmeticError), transaction.atomic():
            announce_after_commit(1)
            raise ArithmeticError

    def test_waiting_functions_do_not_run_after_an_exception(self):
        with pytest.raises(ZeroDivisionError), assert_published("orders", run_on_commit=True):
            announce_after_commit(1 // 0)
        assert published("orders") == []

    async def test_plain_with_cannot_run_functions_in_async_tests(self):
        with pytest.raises(RuntimeError, match="write `async with`"), assert_published("news", run_on_commit=True):
            pass


class PublishedInTransactionTestCase(InBoth, TransactionTestCase):
    def test_functions_run_at_the_commit(self):
        with assert_published("orders", {"order": 1}, count=1):
            announce_after_commit(1)
        with assert_published("orders", {"order": 2}, count=1, run_on_commit=True):
            announce_after_commit(2)

    def test_another_threads_message_counts(self):
        def work():
            publish("news", "of a thread")
            connections.close_all()

        with assert_published("news", "of a thread"):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
