"""The pytest plugin. pytest loads it by itself, in every project that has this package installed.

It only defines fixtures, and imports Django when a test asks for one of them:

    def test_payment(client, db, streams_published):
        client.post("/pay/17/")
        assert streams_published("orders", {"order": 17})

    async def test_page(db, streams_client):
        async with streams_client("/events/news/") as stream:
            await apublish("news", "hello")
            assert (await stream.next()).data == "hello"
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from streams.models import Message
    from streams.testing import StreamClient, StreamsLiveServer


@pytest.fixture
def streams_published() -> Callable[..., list[Message]]:
    """The function `published()`: it returns the messages that the test has published so far and that match.

    assert streams_published("orders", {"order": 17})
    """
    from streams.testing import published

    return published


@pytest.fixture
def streams_client(request: pytest.FixtureRequest) -> Callable[..., StreamClient]:
    """A function that returns a StreamClient for a path, over pytest-django's `async_client` and with its session.

    async with streams_client("/events/news/") as stream: ...
    """
    from django.test import AsyncClient

    from streams.testing import StreamClient

    try:
        client: Any = request.getfixturevalue("async_client")
    except pytest.FixtureLookupError:  # without pytest-django
        client = AsyncClient()

    def open_stream(path: str, **options: Any) -> StreamClient:
        return StreamClient(client, path, **options)

    return open_stream


@pytest.fixture
def streams_travel() -> Iterator[Callable[..., None]]:
    """A function that shifts the time which Streams sees, until the test ends. Its arguments are those of travel().

    streams_travel(hours=8)
    """
    from streams.testing import travel

    with ExitStack() as journeys:

        def travel_on(**shift: float) -> None:
            journeys.enter_context(travel(**shift))

        yield travel_on


@pytest.fixture
def streams_live_server(request: pytest.FixtureRequest) -> Iterator[StreamsLiveServer]:
    """A StreamsLiveServer for the test, whose `url` is its address. The test's database commits.

    with SyncStreamClient(streams_live_server, "/events/news/") as stream: ...
    """
    request.getfixturevalue("transactional_db")
    from streams.testing import StreamsLiveServer

    with StreamsLiveServer() as server:
        yield server
