"""The limits on open streams, per process, user and address. Rows in the database stand for other processes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import AnonymousUser, User
from django.db import OperationalError
from django.test import AsyncClient, AsyncRequestFactory, override_settings
from django.utils.functional import SimpleLazyObject

from streams import presence, tokens
from streams.access.request_user import user_of
from streams.delivery import limits
from streams.delivery.hub import Hub
from streams.delivery.subscriber import Subscriber
from streams.exceptions import HTTPError
from streams.http.client_address import address_key
from streams.presence import counter, node_row, totals
from streams.presence.slots import Slot
from tests.presence.test_presence import other_process

pytestmark = pytest.mark.django_db(transaction=True)

PUBLIC = {"PUBLIC_CHANNELS": ["*"], "POLL_SECONDS": 600}


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start without streams and other processes, and check that no stream is left at the end."""
    monkeypatch.setattr(counter, "process", fresh := counter.Process())
    monkeypatch.setattr(node_row, "process", fresh)
    monkeypatch.setattr(totals, "process", fresh)
    with override_settings(STREAMS=PUBLIC):
        yield
    assert (counter.slots().total(), counter.slots().counts()) == (0, {})


def limited(**streams: Any) -> override_settings:
    return override_settings(STREAMS={**PUBLIC, **streams})


class Client(AsyncClient):
    """Django's AsyncClient with a client address."""

    address = "127.0.0.1"

    def _base_scope(self, **request: Any) -> Any:
        return {**super()._base_scope(**request), "client": [self.address, 5000]}


class Answer:
    def __init__(self, response: Any) -> None:
        self.status = response.status_code
        self.retry_after = response.headers.get("Retry-After")
        self.error = None if response.streaming or not response.content else response.json()["error"]
        self._chunks = aiter(response) if response.streaming else None

    async def chunk(self) -> bytes:
        assert self._chunks is not None
        async with asyncio.timeout(20):
            return bytes(await anext(self._chunks))


@asynccontextmanager
async def opened(
    url: str = "/events/news/", client: Client | None = None, *, method: str = "GET", **headers: str
) -> AsyncIterator[Answer]:
    """Send a request from an address. Its stream is closed at the end of the block."""
    client = client or Client()
    client.address = headers.pop("address", "203.0.113.7")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response: Any = await client.generic(method, url, headers=named)
    try:
        yield Answer(response)
    finally:
        if response.streaming:
            await response.aclose()


async def signed_in(name: str) -> tuple[User, Client]:
    user, client = await User.objects.acreate(username=name), Client()
    await client.aforce_login(user)
    return user, client


def is_refused(answer: Answer, code: str, setting: str, number: int) -> None:
    assert (answer.status, answer.error and answer.error["code"]) == (429, code)
    assert answer.retry_after == "5"
    assert answer.error is not None
    assert f"STREAMS['{setting}']" in answer.error["message"]
    assert f" {number} " in answer.error["message"]


# --- One limit after the other ----------------------------------------------------------------------------------------


@limited(MAX_STREAMS_PER_PROCESS=2)
async def test_streams_of_a_process() -> None:
    async with opened(), opened(), opened() as third:
        is_refused(third, "too-many-streams", "MAX_STREAMS_PER_PROCESS", 2)
    async with opened() as again:
        assert again.status == 200


@limited(MAX_STREAMS=5)
async def test_streams_of_all_processes() -> None:
    other_row = await sync_to_async(other_process)("a", connections=3)
    await sync_to_async(node_row.read_others)()
    async with opened(), opened():
        async with opened() as third:
            is_refused(third, "too-many-streams", "MAX_STREAMS", 5)
        await other_row.adelete()
        await sync_to_async(node_row.read_others)()
        async with opened() as again:
            assert again.status == 200


@limited(PUBLIC_CHANNELS=[], MAX_STREAMS_PER_USER=3)
async def test_streams_of_a_user_over_all_processes() -> None:
    (one, client), (other, others_client) = await signed_in("one"), await signed_in("other")
    await sync_to_async(other_process)("a", connections=50, callers={f"user {one.pk}": 1, f"user {other.pk + 1}": 49})
    await sync_to_async(node_row.read_others)()
    url = f"/events/user.{one.pk}/"
    async with opened(url, client), opened(url, client, address="198.51.100.9"):
        async with opened(url, client) as refused:
            is_refused(refused, "too-many-streams-of-user", "MAX_STREAMS_PER_USER", 3)
        async with opened(f"/events/user.{other.pk}/", others_client) as stream_of_other:
            assert stream_of_other.status == 200
        assert counter.slots().counts() == {f"user {one.pk}": 2}
    async with opened(url, client) as again:
        assert again.status == 200


@limited(MAX_STREAMS_PER_ADDRESS=2)
async def test_streams_of_an_address_and_of_its_network() -> None:
    await sync_to_async(other_process)("a", connections=1, callers={address_key("198.51.100.9"): 1})
    await sync_to_async(node_row.read_others)()
    async with opened(address="2001:db8::1"), opened(address="2001:db8::ffff:1"):
        async with opened(address="2001:db8::2") as refused:
            is_refused(refused, "too-many-streams-of-address", "MAX_STREAMS_PER_ADDRESS", 2)
        async with opened(address="2001:db8:0:1::1") as next_network:
            assert next_network.status == 200
        async with opened(address="198.51.100.9") as with_one_elsewhere:
            assert with_one_elsewhere.status == 200
            async with opened(address="198.51.100.9") as refused:
                is_refused(refused, "too-many-streams-of-address", "MAX_STREAMS_PER_ADDRESS", 2)


@limited(MAX_STREAMS_PER_ADDRESS=1, TRUSTED_PROXIES=["10.0.0.0/8"])
async def test_clients_behind_a_trusted_proxy_are_counted_each_for_itself() -> None:
    async with opened(address="10.0.0.1", x_forwarded_for="198.51.100.9"):
        async with opened(address="10.0.0.2", x_forwarded_for="1.1.1.1, 198.51.100.9") as same:
            is_refused(same, "too-many-streams-of-address", "MAX_STREAMS_PER_ADDRESS", 1)
        async with opened(address="10.0.0.1", x_forwarded_for="198.51.100.8") as other:
            assert other.status == 200
    async with opened(x_forwarded_for="198.51.100.9"), opened(x_forwarded_for="198.51.100.8") as untrusted:
        assert untrusted.status == 429


@limited(MAX_STREAMS_PER_ADDRESS=1, MAX_STREAMS_PER_USER=1, MAX_STREAMS_PER_PROCESS=1, MAX_STREAMS=1)
async def test_head_is_refused_as_get_is_and_takes_no_place() -> None:
    for _ in range(3):
        async with opened(method="HEAD") as free:
            assert free.status == 200
    async with opened(), opened(method="HEAD") as refused:
        assert (refused.status, refused.retry_after) == (429, "5")


async def test_without_limits_nobody_is_counted() -> None:
    with limited(MAX_STREAMS_PER_USER=None):
        _, client = await signed_in("one")
        async with opened(client=client):
            assert (counter.slots().total(), counter.slots().counts()) == (1, {})


# --- The user of a request --------------------------------------------------------------------------------------------


@limited(MAX_STREAMS_PER_USER=1)
async def test_token_counts_as_its_user_whoever_is_signed_in() -> None:
    one, _ = await signed_in("one")
    _, client = await signed_in("other")
    token = tokens.make_token(read=["x"], user=one)
    with limited(PUBLIC_CHANNELS=[], MAX_STREAMS_PER_USER=1):
        async with opened(f"/events/x/?token={token}", client):
            assert counter.slots().counts() == {f"user {one.pk}": 1}
            async with opened(f"/events/x/?token={token}") as refused:
                is_refused(refused, "too-many-streams-of-user", "MAX_STREAMS_PER_USER", 1)
        async with opened(f"/events/x/?token={tokens.make_token(read=['x'])}"):
            assert counter.slots().counts() == {}


@limited(MAX_STREAMS_PER_USER=1)
async def test_user_whom_nobody_has_asked_for_is_not_counted_on_a_public_channel() -> None:
    _, client = await signed_in("one")
    async with opened(client=client), opened(client=client) as second:
        assert second.status == 200


async def test_user_is_known_where_somebody_has_asked() -> None:
    user = await User.objects.acreate(username="one")
    request = AsyncRequestFactory().get("/")
    assert user_of(request) is None

    def never() -> User:
        raise AssertionError("The user was loaded.")

    request.user = SimpleLazyObject(never)
    assert user_of(request) is None
    request._cached_user = user
    assert user_of(request) == user
    del request._cached_user
    request._acached_user = user
    assert user_of(request) == user
    request = AsyncRequestFactory().get("/")
    request.user = SimpleLazyObject(lambda: user)
    assert user_of(request) is None
    str(request.user)
    assert user_of(request) == user
    request.user = user
    assert user_of(request) == user
    request.user = AnonymousUser()
    assert user_of(request) is None
    request.user = User(username="not saved")
    assert user_of(request) is None


# --- Slots -----------------------------------------------------------------------------------------------------------


@limited(MAX_STREAMS_PER_ADDRESS=50)
async def test_of_clients_that_come_together_as_many_are_served_as_may_be() -> None:
    async with AsyncExitStack() as stack:
        answers = await asyncio.gather(*(stack.enter_async_context(opened()) for _ in range(80)))
        assert sorted(answer.status for answer in answers) == [200] * 50 + [429] * 30


@limited(MAX_STREAMS_PER_PROCESS=20)
def test_event_loops_that_come_together_share_the_slots() -> None:
    request = AsyncRequestFactory().get("/")
    ready = threading.Barrier(4)
    got: list[Slot] = []

    async def take_slots() -> None:
        ready.wait()
        for _ in range(30):
            try:
                got.append(limits.take(request))
            except HTTPError:
                await asyncio.sleep(0)

    threads = [threading.Thread(target=lambda: asyncio.run(take_slots())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == counter.slots().total() == 20
    got.clear()


@limited(MAX_STREAMS_PER_USER=1)
async def test_stream_that_was_left_open_on_a_loop_that_has_ended_holds_no_place() -> None:
    """A site's test can leave a stream open. A reference to its client can exist until the end of the test run."""
    request = AsyncRequestFactory().get("/")
    request.user = await User.objects.acreate(username="one")

    async def leave_open() -> Subscriber:
        return Subscriber(["news"], slot=limits.take(request))

    left = await asyncio.to_thread(asyncio.run, leave_open())
    limits.check(request)
    place = limits.take(request)
    with pytest.raises(HTTPError, match="MAX_STREAMS_PER_USER"):
        limits.check(request)
    place.release()
    assert left.cursor == 0  # keeps a reference to the stream until here


async def fails(subscriber: Subscriber) -> Hub:
    raise OperationalError("the database has gone")


@limited(MAX_STREAMS_PER_PROCESS=1)
async def test_stream_that_was_refused_or_failed_holds_no_place() -> None:
    for _ in range(3):
        async with opened("/events/a*/") as malformed:
            assert malformed.status == 400
    async with opened("/events/news/?last_event_id=x", method="POST") as other_method:
        assert other_method.status in (403, 405)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hub, "join", fails)
        async with opened() as broken:
            assert broken.status == 200
            assert counter.slots().total() == 1
    async with opened() as stream:
        assert stream.status == 200


# --- The other processes ----------------------------------------------------------------------------------------------


@limited(MAX_STREAMS=1)
async def test_what_was_read_too_long_ago_refuses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    await sync_to_async(other_process)("a", connections=1)
    await sync_to_async(node_row.read_others)()
    async with opened() as refused:
        assert refused.status == 429
    monkeypatch.setattr(node_row, "expiry_seconds", lambda: 0.0)
    async with opened() as served:
        assert served.status == 200


@limited(MAX_STREAMS_PER_USER=5, MAX_STREAMS_PER_ADDRESS=5, PUBLIC_CHANNELS=[])
async def test_row_tells_the_callers_and_no_address() -> None:
    user, client = await signed_in("one")
    url = f"/events/user.{user.pk}/"
    async with opened(url, client), opened(url, client):
        await sync_to_async(node_row.write)()
        row = (await sync_to_async(presence.nodes)())[0]
        assert row.callers == {f"user {user.pk}": 2, address_key("203.0.113.7"): 2}
        assert "203.0.113.7" not in str(row.callers)
    await sync_to_async(node_row.write)()
    assert (await sync_to_async(presence.nodes)())[0].callers == {}
