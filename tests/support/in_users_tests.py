"""Tests as users of Streams write them. They run in Django's test cases and with pytest."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.db import transaction
from django.test import AsyncClient

from streams import NewMessage, apublish, apublish_many, publish, subscribe
from streams.models import LogHead
from streams.testing import read_events


async def texts(response: object, count: int) -> list[str]:
    """Return the data of the next `count` events."""
    return [event.data for event in await read_events(response, count)]


def publish_in_transaction(channel: str, data: str, *, fail: bool = False) -> None:
    with transaction.atomic():
        publish(channel, data)
        if fail:
            raise ArithmeticError("rolls the transaction back")


C = TypeVar("C", bound=type)


def each_in_time(cls: C) -> C:
    """Give each async test of a class a time limit."""

    def limit(test: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(test)
        async def limited(*args: Any, **kwargs: Any) -> None:
            async with asyncio.timeout(30):
                await test(*args, **kwargs)

        return limited

    for name, test in list(vars(cls).items()):
        if name.startswith("test_") and inspect.iscoroutinefunction(test):
            setattr(cls, name, limit(test))
    return cls


@each_in_time
class PublishAndRead:
    """Async tests for classes that provide a database."""

    async def test_message_published_after_the_stream_was_opened_is_read(self):
        response = await AsyncClient().get("/events/news/")
        assert response.status_code == 200
        message = await apublish("news", "hello")
        [event] = await read_events(response, 1)
        assert (event.data, event.id) == ("hello", str(message.position))

    async def test_message_published_before_the_stream_was_opened_is_replayed(self):
        first = await apublish("news", "one")
        await apublish("news", "two")
        assert await texts(await AsyncClient().get("/events/news/?replay=2"), 2) == ["one", "two"]
        after_first = await AsyncClient().get("/events/news/", headers={"Last-Event-ID": str(first.position)})
        assert await texts(after_first, 1) == ["two"]

    async def test_subscription_reads_messages(self):
        await apublish("news", "one")
        async with subscribe("news", replay=1) as events:
            await apublish("news", "two")
            assert [(await anext(events)).data for _ in range(2)] == ["one", "two"]

    async def test_subscription_left_open_disturbs_no_other_test(self):
        await apublish("news", "one")
        async for event in subscribe("news", replay=1):
            assert event.data == "one"
            break

    async def test_message_is_read_while_the_test_waits_for_it(self):
        response = await AsyncClient().get("/events/news/")
        reading = asyncio.create_task(texts(response, 2))
        await apublish("news", "one")
        await asyncio.sleep(0.05)
        await apublish("news", "two")
        assert await reading == ["one", "two"]

    async def test_two_streams_are_read_at_once(self):
        client = AsyncClient()
        news, both = await asyncio.gather(
            client.get("/events/news/"), client.get("/events/?channel=news&channel=public.weather")
        )
        await apublish_many([NewMessage("public.weather", "rain"), NewMessage("news", "hello")])
        assert await asyncio.gather(texts(news, 1), texts(both, 2)) == [["hello"], ["rain", "hello"]]

    async def test_concurrent_publishes_all_arrive(self):
        response = await AsyncClient().get("/events/news/")
        await asyncio.gather(*(apublish("news", str(n)) for n in range(50)))
        assert sorted(map(int, await texts(response, 50))) == list(range(50))

    async def test_async_view_that_publishes(self):
        client = AsyncClient()
        response = await client.get("/events/news/")
        assert (await client.get("/test/response/apublish/?data=hello")).status_code == 200
        assert await texts(response, 1) == ["hello"]

    async def test_stream_that_nobody_reads_is_left_open(self):
        await AsyncClient().get("/events/news/")
        await apublish("news", "hello")

    async def test_stream_that_was_read_in_part_is_left_open(self):
        response = await AsyncClient().get("/events/news/")
        await apublish("news", "hello")
        chunks = aiter(response)
        await anext(chunks)
        self.__class__.left_open = chunks  # so that it is not collected before the event loop ends

    async def test_reading_task_is_left_running(self):
        response = await AsyncClient().get("/events/news/")
        self.__class__.left_running = asyncio.create_task(texts(response, 1))
        await asyncio.sleep(0.05)

    async def test_view_with_an_iterator_of_its_own(self):
        response = await AsyncClient().get("/test/response/numbers/")
        assert await texts(response, 3) == ["0", "1", "2"]

    async def test_sync_code_that_publishes(self):
        response = await AsyncClient().get("/events/news/")
        await apublish("news", "one")
        await sync_to_async(publish)("news", "two")
        await apublish("news", "three")
        assert await texts(response, 3) == ["one", "two", "three"]

    async def test_sync_view_that_publishes(self):
        client = AsyncClient()
        response = await client.get("/events/news/")
        await apublish("news", "one")
        assert (await client.get("/test/response/publish/?data=two")).status_code == 200
        assert await texts(response, 2) == ["one", "two"]


@each_in_time
class PublishAndReadWithQueries:
    """Async tests that also query or open transactions, for test cases in which Django uses the test's connection."""

    async def test_message_published_in_a_transaction_is_read(self):
        response = await AsyncClient().get("/events/news/")
        await sync_to_async(publish_in_transaction)("news", "hello")
        assert await texts(response, 1) == ["hello"]

    async def test_sync_view_that_publishes_in_a_transaction(self):
        client = AsyncClient()
        response = await client.get("/events/news/")
        assert (await client.get("/test/response/publish-in-transaction/?data=hello")).status_code == 200
        assert await texts(response, 1) == ["hello"]

    async def test_rolled_back_message_is_never_read(self):
        response = await AsyncClient().get("/events/news/")
        try:
            await sync_to_async(publish_in_transaction)("news", "never", fail=True)
        except ArithmeticError:
            await apublish("news", "after it")
        assert await texts(response, 1) == ["after it"]

    async def test_users_own_channel(self):
        user = await get_user_model().objects.acreate(username="ada")
        client = AsyncClient()
        assert (await client.get(f"/events/user.{user.pk}/")).status_code == 403
        await client.aforce_login(user)
        response = await client.get(f"/events/user.{user.pk}/")
        await apublish(f"user.{user.pk}", "for you", published_by=user)
        assert await texts(response, 1) == ["for you"]

    async def test_missing_head_row_is_made_again(self):
        await LogHead.objects.all().adelete()
        response = await AsyncClient().get("/events/news/")
        await apublish("news", "hello")
        assert await texts(response, 1) == ["hello"]
