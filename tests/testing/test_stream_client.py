"""StreamClient over Django's AsyncClient, in Django's test cases and with pytest-asyncio."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.test import AsyncClient, Client, TestCase, TransactionTestCase, override_settings

from streams import apublish, tokens
from streams.testing import StreamClient, StreamNotOpened, SyncStreamClient, travel
from tests.support.in_users_tests import publish_in_transaction


def data_of(events: Any) -> list[str]:
    return [event.data for event in events]


class Reading:
    """Async tests for classes that provide a database."""

    async def test_events_arrive_in_order(self):
        async with StreamClient(AsyncClient(), "/events/news/") as stream:
            for text in ("one", "two", "three"):
                await apublish("news", text)
            first = await stream.next()
            assert (first.data, first.event) == ("one", "message")
            assert data_of(await stream.take(2)) == ["two", "three"]
            await stream.expect_nothing()

    async def test_reconnecting_brings_what_was_missed_once(self):
        async with StreamClient(AsyncClient(), "/events/news/") as stream:
            await apublish("news", "one")
            assert (await stream.next()).data == "one"
            await stream.close()
            await apublish("news", "two")
            await stream.reconnect()
            await apublish("news", "three")
            assert data_of(await stream.take(2)) == ["two", "three"]
            await stream.expect_nothing()
            assert stream.opened == 2

    async def test_unexpected_event_is_named(self):
        async with StreamClient(AsyncClient(), "/events/news/") as stream:
            await stream.expect_nothing()
            await apublish("news", "surprise")
            with pytest.raises(AssertionError, match=r"Expected no event; got .*surprise"):
                await stream.expect_nothing()
            assert (await stream.next()).data == "surprise"
            await stream.expect_nothing()

    async def test_typed_events_are_awaited_by_their_type(self):
        async with StreamClient(AsyncClient(), "/events/news/") as stream:
            await apublish("news", "skipped")
            await apublish("news", "the one", event="update")
            assert (await stream.next("update")).data == "the one"
            with pytest.raises(TimeoutError, match=r"No event of the type 'update' arrived within 0\.05 s"):
                await stream.next("update", timeout=0.05)

    async def test_resets_are_seen_apart(self):
        message = await apublish("news", "one")
        async with StreamClient(AsyncClient(), "/events/news/", last_event_id=message.position + 50) as stream:
            assert (await stream.next()).data == "one"
            [reset] = stream.resets
            assert '"unknown-id"' in reset.data
            assert (await stream.next("stream-reset")) == reset
            await stream.expect_nothing()
            assert (await stream.next("stream-checkpoint")).id == str(message.position)
            assert [event.event for event in stream.control] == ["stream-reset", "stream-checkpoint"]

    async def test_snapshots_are_seen_apart(self):
        with override_settings(ROOT_URLCONF="tests.views.urls", STREAMS={"PUBLIC_CHANNELS": ["score.*"]}):
            async with StreamClient(AsyncClient(), "/scores/7/") as stream:
                assert (await stream.next("stream-snapshot")).event == "stream-snapshot"
                [snapshot] = stream.snapshots
                assert '"match":7' in snapshot.data
                await stream.expect_nothing()

    async def test_refusal_has_its_code(self):
        with pytest.raises(StreamNotOpened) as raised:
            async with StreamClient(AsyncClient(), "/events/private/"):
                pass
        assert (raised.value.status, raised.value.code) == (403, "forbidden")
        assert '"code": "forbidden"' in str(raised.value)

    async def test_token_is_sent_and_expires(self):
        token = tokens.make_token(read=["private"], seconds=600)
        async with StreamClient(AsyncClient(), "/events/private/?replay=1", token=token) as stream:
            await apublish("private", "for the bearer")
            assert (await stream.next()).data == "for the bearer"
            with travel(hours=1), pytest.raises(StreamNotOpened) as raised:
                await stream.reconnect()
        assert raised.value.code == "expired-token"
        assert token not in str(raised.value)

    async def test_stream_that_ends_is_opened_again(self):
        async with StreamClient(AsyncClient(), "/test/response/numbers/?n=2") as stream:
            assert data_of(await stream.take(5)) == ["0", "1", "0", "1", "0"]
            assert stream.opened >= 3

    async def test_end_is_an_error_if_it_does_not_reconnect(self):
        async with StreamClient(AsyncClient(), "/test/response/numbers/?n=2", reconnects=False) as stream:
            assert [event.data async for event in stream] == ["0", "1"]
            with pytest.raises(EOFError, match="The stream has ended"):
                await stream.next()

    async def test_too_few_events_are_named(self):
        async with StreamClient(AsyncClient(), "/events/news/", timeout=0.2) as stream:
            await apublish("news", "one")
            with pytest.raises(TimeoutError, match=r"1 of 2 events arrived: .*data='one'"):
                await stream.take(2)

    async def test_events_that_arrive_later_are_awaited(self):
        async with StreamClient(AsyncClient(), "/events/news/") as stream:
            reading = asyncio.create_task(stream.next())
            await asyncio.sleep(0.05)
            await apublish("news", "late")
            assert (await reading).data == "late"

    async def test_two_clients_read_at_once(self):
        client = AsyncClient()
        async with StreamClient(client, "/events/news/") as one, StreamClient(client, "/events/news/") as two:
            await apublish("news", "hello")
            assert [(await one.next()).data, (await two.next()).data] == ["hello", "hello"]
            await asyncio.gather(one.expect_nothing(), two.expect_nothing())


class ReadingWithQueries:
    async def test_message_of_a_transaction_is_expected_and_found(self):
        async with StreamClient(AsyncClient(), "/events/news/") as stream:
            await sync_to_async(publish_in_transaction)("news", "kept")
            with pytest.raises(AssertionError, match="kept"):
                await stream.expect_nothing()
            assert (await stream.next()).data == "kept"

    async def test_user_is_logged_in(self):
        user = await get_user_model().objects.acreate(username="ada")
        async with StreamClient(AsyncClient(), f"/events/user.{user.pk}/", user=user) as stream:
            await apublish(f"user.{user.pk}", "for you")
            assert (await stream.next()).data == "for you"


class ReadingInTestCase(Reading, ReadingWithQueries, TestCase):
    pass


class ReadingInTransactionTestCase(Reading, ReadingWithQueries, TransactionTestCase):
    pass


@pytest.mark.usefixtures("db")
class TestReadingWithDb(Reading):
    pass


@pytest.mark.usefixtures("transactional_db")
class TestReadingWithTransactionalDb(Reading):
    pass


# --- Arguments --------------------------------------------------------------------------------------------------------


async def test_sync_client_is_refused() -> None:
    with pytest.raises(TypeError, match="Django's sync Client runs under WSGI"):
        StreamClient(Client(), "/events/news/")
    with pytest.raises(ValueError, match="needs the path"):
        StreamClient(AsyncClient())
    with pytest.raises(TypeError, match="or from an http URL; got 'example"):
        StreamClient("example.com", "/events/news/")


@pytest.mark.parametrize("client", [Client(), AsyncClient()])
def test_sync_tests_are_pointed_to_a_live_server(client: Any) -> None:
    with pytest.raises(TypeError, match="reads a stream from a live server"):
        SyncStreamClient(client, "/events/news/")


async def test_stream_without_ids_is_awaited_for_a_moment() -> None:
    async with StreamClient(AsyncClient(), "/test/response/endless/?key=quiet") as stream:
        assert (await stream.next()).data == "first"
        await stream.expect_nothing()
        await stream.expect_nothing(0.05)
