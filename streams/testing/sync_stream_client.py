"""SyncStreamClient: StreamClient for sync tests, which reads from a live server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from django.test import AsyncClient, Client

from streams.protocol.sse import DecodedEvent
from streams.testing.connections import cookie_header
from streams.testing.stream_client import StreamClient

T = TypeVar("T")


class SyncStreamClient:
    """Reads a stream of a live server in a sync test, for example next to Selenium or Playwright.

        with SyncStreamClient(self.live_server_url, "/events/news/") as stream:
            publish("news", "hello")
            assert stream.next().data == "hello"
            stream.expect_nothing()

    The arguments, methods and attributes are those of StreamClient, without `await`. An event loop in a thread of its
    own reads the stream.
    """

    def __init__(self, target: Any, path: str = "", **options: Any) -> None:
        if isinstance(target, AsyncClient | Client):
            raise TypeError(
                "A sync test reads a stream from a live server: pass its URL (see streams.testing.StreamsLiveServer). "
                "Or make the test async, and use StreamClient with self.async_client."
            )
        if (user := options.pop("user", None)) is not None:
            options["headers"] = {**(options.get("headers") or {}), "Cookie": _cookie_of(user)}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="streams-test-loop", daemon=True)
        self._thread.start()
        try:
            self._client = self._wait(self._make(target, path, options))
        except BaseException:
            self._stop()
            raise

    async def _make(self, target: Any, path: str, options: dict[str, Any]) -> StreamClient:
        return StreamClient(target, path, **options)

    def __enter__(self) -> SyncStreamClient:
        try:
            self._wait(self._client.__aenter__())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.close()
        finally:
            self._stop()

    @property
    def last_event_id(self) -> str:
        return self._client.last_event_id

    @property
    def control(self) -> list[DecodedEvent]:
        return self._client.control

    @property
    def resets(self) -> list[DecodedEvent]:
        return self._client.resets

    @property
    def snapshots(self) -> list[DecodedEvent]:
        return self._client.snapshots

    @property
    def opened(self) -> int:
        return self._client.opened

    def next(self, event: str | None = None, *, timeout: float | None = None) -> DecodedEvent:
        """See StreamClient.next()."""
        return self._wait(self._client.next(event, timeout=timeout))

    def take(self, count: int, *, timeout: float | None = None) -> list[DecodedEvent]:
        """See StreamClient.take()."""
        return self._wait(self._client.take(count, timeout=timeout))

    def expect_nothing(self, seconds: float | None = None) -> None:
        """See StreamClient.expect_nothing()."""
        self._wait(self._client.expect_nothing(seconds))

    def reconnect(self) -> None:
        """See StreamClient.reconnect()."""
        self._wait(self._client.reconnect())

    def close(self) -> None:
        """See StreamClient.close()."""
        self._wait(self._client.close())

    def __iter__(self) -> Iterator[DecodedEvent]:
        try:
            while True:
                yield self.next()
        except EOFError:
            return

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()


def _cookie_of(user: Any) -> str:
    """Log a user in, on this thread's connection, and return the Cookie header of the session."""
    client = Client()
    client.force_login(user)
    return cookie_header(client)
