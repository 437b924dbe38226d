"""StreamClient: reads a stream in a test as a browser's EventSource does."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any

from streams.protocol.events import CONTROL_PREFIX
from streams.protocol.sse import DecodedEvent, EventStreamDecoder
from streams.testing.connections import Connection, StreamNotOpened, site

# A browser waits for the stream's `retry:`. A test waits for this long at most.
MAX_RETRY_SECONDS = 0.1

# How long expect_nothing() waits at a stream without event ids.
QUIET_SECONDS = 0.2

# The events that begin a stream or end its replay.
PLACES = ("stream-checkpoint", "stream-reset")


class StreamClient:
    """Reads a stream as a browser's EventSource does, in async tests.

        async with StreamClient(self.async_client, "/events/news/") as stream:
            await apublish("news", "hello")
            event = await stream.next()
            assert event.data == "hello"
            await stream.expect_nothing()

    It remembers the last event id, and sends it when it reconnects: by reconnect(), or by itself if the stream ends.
    As a browser, it gives up at any status but 200, and then raises StreamNotOpened. Control events do not mix with
    the others: see `control`, `resets` and `snapshots`.

    Args:
        target: Django's AsyncClient, which needs no server, with its cookies. Or the URL of a server, or of the
            stream; or an object with a `url`, such as a live server.
        path: the path of the stream, with its query.
        last_event_id: the cursor to start from.
        user: log in as this user first.
        token: a signed token, which is sent in the URL.
        headers: further headers of the request.
        reconnects: False to raise EOFError instead if the stream ends.
        timeout: how long to wait for an event, in seconds, if the call does not give another time.

    Attributes:
        last_event_id: the cursor; "" if no event had an id.
        control: all control events so far (`stream-checkpoint` and so on), the oldest first.
        opened: how many times the stream was opened.
    """

    def __init__(
        self,
        target: Any,
        path: str = "",
        *,
        last_event_id: str | int = "",
        user: Any = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        reconnects: bool = True,
        timeout: float = 10.0,
    ) -> None:
        self.last_event_id = str(last_event_id)
        self.control: list[DecodedEvent] = []
        self.opened = 0
        self._site = site(target, path, token)
        self._user = user
        self._headers = dict(headers or {})
        self._reconnects = reconnects
        self._timeout = timeout
        self._retry_seconds = MAX_RETRY_SECONDS
        self._events: deque[DecodedEvent] = deque()
        self._waiting_control: deque[DecodedEvent] = deque()
        self._end: BaseException | None = None
        self._changed = asyncio.Condition()
        self._connection: Connection | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def resets(self) -> list[DecodedEvent]:
        """The `stream-reset` events so far: at each of them, messages might have been missed."""
        return [event for event in self.control if event.event == "stream-reset"]

    @property
    def snapshots(self) -> list[DecodedEvent]:
        """The `stream-snapshot` events so far."""
        return [event for event in self.control if event.event == "stream-snapshot"]

    async def __aenter__(self) -> StreamClient:
        if self._user is not None:
            await self._site.log_in(self._user)
        await self._open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def next(self, event: str | None = None, *, timeout: float | None = None) -> DecodedEvent:
        """Return the next event.

        Args:
            event: wait for this type, and skip events of other types, as a listener of this type does. It can be a
                control event, such as "stream-reset".
            timeout: in seconds; by default that of the client.

        Raises:
            TimeoutError: no such event arrived in time.
            StreamNotOpened: the server did not open the stream again.
            EOFError: the stream has ended, and `reconnects` is False.
        """
        seconds = self._timeout if timeout is None else timeout
        queue = self._waiting_control if event is not None and event.startswith(CONTROL_PREFIX) else self._events
        skipped = 0
        try:
            async with asyncio.timeout(seconds), self._changed:
                while True:
                    while queue:
                        found = queue.popleft()
                        if event is None or found.event == event:
                            return found
                        skipped += 1
                    if self._end is not None:
                        raise self._end
                    await self._changed.wait()
        except TimeoutError:
            what = "event" if event is None else f"event of the type {event!r}"
            others = f", {skipped} of other types," if skipped else ""
            raise TimeoutError(
                f"No {what} arrived within {seconds:g} s{others} after the id {self.last_event_id!r}. Control events: "
                f"{[each.event for each in self.control[-10:]]}."
            ) from None

    async def take(self, count: int, *, timeout: float | None = None) -> list[DecodedEvent]:
        """Return the next `count` events. `timeout`: for all of them, in seconds. See next() for the errors."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + (self._timeout if timeout is None else timeout)
        found: list[DecodedEvent] = []
        while len(found) < count:
            try:
                found.append(await self.next(timeout=max(0.001, ends_at - loop.time())))
            except TimeoutError as error:
                raise TimeoutError(f"{len(found)} of {count} events arrived: {found!r}. {error}") from None
        return found

    def __aiter__(self) -> AsyncIterator[DecodedEvent]:
        return self

    async def __anext__(self) -> DecodedEvent:
        try:
            return await self.next()
        except EOFError:
            raise StopAsyncIteration from None

    async def expect_nothing(self, seconds: float | None = None) -> None:
        """Assert that no event is waiting, and that none is on its way.

        A stream of the log is asked: a second connection replays the messages after the cursor, which takes
        milliseconds. It finds everything that was committed before the call. Any other stream is awaited for 0.2 s.

        seconds: wait for so long instead.

        Raise AssertionError with the events that came.
        """
        if seconds is None:
            with contextlib.suppress(TimeoutError):  # the first bytes of a stream of the log come at once
                async with asyncio.timeout(QUIET_SECONDS), self._changed:
                    await self._changed.wait_for(lambda: self._events or self._end or self._is_of_log())
        if self._end is not None:
            raise self._end
        if not (found := list(self._events)):
            if seconds is None and self._is_of_log():
                found = await self._replay()
            elif seconds is not None:
                with contextlib.suppress(TimeoutError):
                    found = [await self.next(timeout=seconds)]
        if found:
            raise AssertionError(f"Expected no event; got {found!r}")

    def _is_of_log(self) -> bool:
        return any(event.event in PLACES for event in self.control)

    async def reconnect(self) -> None:
        """Lose the connection, and open the stream again with the last event id. Raises StreamNotOpened.

        Events that have arrived and that no call has returned yet stay, as a browser has dispatched them already.
        """
        await self.close()
        await self._open()

    async def close(self) -> None:
        """Close the stream. The end of the `with` block does it."""
        if (task := self._reading) is not None:
            self._reading = None
            task.cancel()
            await asyncio.wait([task])
        if (connection := self._connection) is not None:
            self._connection = None
            await connection.aclose()

    # --- Reading ---

    async def _connect(self) -> Connection:
        cursor = {"Last-Event-ID": self.last_event_id} if self.last_event_id else {}
        async with asyncio.timeout(max(self._timeout, 1.0)):
            return await self._site.open({**self._headers, **cursor})

    async def _open(self) -> None:
        self._end = None
        self._connection = await self._connect()
        self.opened += 1
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while True:
                with contextlib.suppress(OSError):  # the connection was lost, as far as a browser can tell
                    await self._read_connection()
                await self._lose_connection()
                if not self._reconnects:
                    raise EOFError("The stream has ended.")
                await asyncio.sleep(self._retry_seconds)
                with contextlib.suppress(OSError):
                    self._connection = await self._connect()
                    self.opened += 1
        except Exception as error:  # next() raises it
            async with self._changed:
                self._end = error
                self._changed.notify_all()

    async def _read_connection(self) -> None:
        if self._connection is None:
            return
        decoder = EventStreamDecoder()
        decoder.last_event_id = self.last_event_id
        async for chunk in self._connection:
            events = decoder.feed(chunk)
            self.last_event_id = decoder.last_event_id
            if decoder.retry_milliseconds is not None:
                self._retry_seconds = min(decoder.retry_milliseconds / 1000, MAX_RETRY_SECONDS)
            if events:
                async with self._changed:
                    for event in events:
                        self._dispatch(event)
                    self._changed.notify_all()

    def _dispatch(self, event: DecodedEvent) -> None:
        if event.event.startswith(CONTROL_PREFIX):
            self.control.append(event)
            self._waiting_control.append(event)
        else:
            self._events.append(event)

    async def _lose_connection(self) -> None:
        if (connection := self._connection) is not None:
            self._connection = None
            await connection.aclose()

    async def _replay(self) -> list[DecodedEvent]:
        """Return the events after the cursor, by a second connection, whose checkpoints show the end."""
        try:
            connection = await self._connect()
        except StreamNotOpened as refusal:
            if refusal.status == 204:  # the stream is complete
                return []
            raise
        decoder, places = EventStreamDecoder(), 0
        try:
            async with asyncio.timeout(self._timeout):
                async for chunk in connection:
                    for event in decoder.feed(chunk):
                        if not event.event.startswith(CONTROL_PREFIX):
                            return [event]
                        places += event.event in PLACES  # the first is at the cursor, the second at the end
                    if places > 1:
                        break
        finally:
            await connection.aclose()
        return []
