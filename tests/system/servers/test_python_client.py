"""The Python event sources against running servers: each message exactly once, whatever happens to the server."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from streams.client import AsyncEventSource, EventSource
from streams.exceptions import EventsMissed, StreamRefused
from tests.client.support import RawServer, status
from tests.support.services import wait_until
from tests.support.sites import Site, finish

pytestmark = [pytest.mark.once, pytest.mark.slow]

TEXTS = ["one", "two\nlines", "\N{SNOWMAN} and more", '{"n": 4}', "", "after the restart", "end"]


def publish_texts(*texts: str) -> None:
    from streams import publish

    for text in texts:
        publish("news", text)


class Listener:
    """An event source in a thread of its own, and what it has returned or raised."""

    def __init__(self, is_async: bool, url: str, **options: Any) -> None:
        self.found: list[Any] = []
        self._url = url
        self._options = {"retry_seconds": 0.2, "last_event_id": "0", **options}
        self._close: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=self._listen, args=[is_async], daemon=True)
        self._thread.start()

    def _listen(self, is_async: bool) -> None:
        try:
            if is_async:
                asyncio.run(self._iterate())
            else:
                with EventSource(self._url, **self._options) as source:
                    self._close = source.close
                    self.found.extend(source)
        except Exception as error:
            self.found.append(error)

    async def _iterate(self) -> None:
        loop = asyncio.get_running_loop()
        async with AsyncEventSource(self._url, **self._options) as source:
            self._close = lambda: asyncio.run_coroutine_threadsafe(source.aclose(), loop)
            async for event in source:
                self.found.append(event)

    def wait_for(self, count: int) -> list[str]:
        """Return the data of all events, once there are so many of them."""
        wait_until(lambda: len(self.found) >= count or not self._thread.is_alive(), f"event {count}", seconds=60)
        return [getattr(event, "data", event) for event in self.found]

    def close(self) -> None:
        self._close()
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    """Return a function that starts a listener. It begins with the first message of the log."""
    opened: list[Listener] = []

    def start(is_async: bool, url: str, **options: Any) -> Listener:
        opened.append(Listener(is_async, url, **options))
        return opened[-1]

    yield start
    for listener in opened:
        listener.close()


@pytest.mark.parametrize("server_name", ["uvicorn", "daphne"])
def test_each_message_comes_once_over_restarts_and_refusals(
    sqlite_site: Site, listen: Callable[..., Listener], server_name: str
) -> None:
    """While the server is away, a proxy answers 503 and then 429, as nginx can."""
    server = sqlite_site.settings(RETRY_MILLISECONDS=200).serve(server_name)
    finish(sqlite_site.call(publish_texts, *TEXTS[:3]))
    url, channels = f"{server.url}/events/", ["news", "public.other"]
    listeners = [listen(is_async, url, channels=channels) for is_async in (False, True)]
    for listener in listeners:
        assert listener.wait_for(3) == TEXTS[:3]
    server.stop(signal.SIGTERM, patient=True)
    proxy = RawServer(
        *[status("503 Service Unavailable", b"<html>", Retry_After="0")] * 3, status("429 Many"), port=server.port
    )
    wait_until(lambda: len(proxy.requests) >= 5, "five refusals", seconds=30)
    proxy.close()
    server.start()
    finish(sqlite_site.call(publish_texts, *TEXTS[3:5]))
    for listener in listeners:
        assert listener.wait_for(5) == TEXTS[:5]
    server.stop(signal.SIGKILL)
    finish(sqlite_site.call(publish_texts, *TEXTS[5:]))
    server.start()
    for listener in listeners:
        assert listener.wait_for(7) == TEXTS
        assert [event.id for event in listener.found] == [str(n) for n in range(1, 8)]


def test_full_server_is_asked_again(sqlite_site: Site, listen: Callable[..., Listener]) -> None:
    server = sqlite_site.settings(MAX_STREAMS_PER_PROCESS=1).serve()
    finish(sqlite_site.call(publish_texts, "one"))
    url = f"{server.url}/events/news/"
    with EventSource(url, last_event_id="0") as first:
        assert next(first).data == "one"
        second = listen(True, url)
        time.sleep(0.5)
        assert second.found == []
    assert second.wait_for(1) == ["one"], "Retry-After is five seconds"


def print_tokens(*seconds: str) -> None:
    from streams.tokens import make_token

    print(*[make_token(read=["secret"], seconds=float(each)) for each in seconds])


def publish_secret(text: str) -> None:
    from streams import publish

    publish("secret", text)


def test_expired_token_is_replaced(sqlite_site: Site, listen: Callable[..., Listener]) -> None:
    server = sqlite_site.settings(RETRY_MILLISECONDS=200).serve()
    tokens = finish(sqlite_site.call(print_tokens, 4, 100, 4, 100)).split()
    supplies = {False: iter(tokens[:2]), True: iter(tokens[2:])}
    url = f"{server.url}/events/secret/"
    listeners = [listen(is_async, url, token=supply.__next__) for is_async, supply in supplies.items()]
    finish(sqlite_site.call(publish_secret, "one"))
    for listener in listeners:
        assert listener.wait_for(1) == ["one"]
    time.sleep(4)
    finish(sqlite_site.call(publish_secret, "two"))
    for listener in listeners:
        assert listener.wait_for(2) == ["one", "two"]
    assert [next(supply, None) for supply in supplies.values()] == [None, None], "both tokens were used"


def test_refusal_and_gap_reach_the_user(sqlite_site: Site) -> None:
    server = sqlite_site.serve()
    finish(sqlite_site.call(publish_texts, "one"))
    with (
        EventSource(f"{server.url}/events/secret/") as source,
        pytest.raises(StreamRefused, match=r"403 \(forbidden\)"),
    ):
        next(source)
    with EventSource(f"{server.url}/events/news/", last_event_id="99") as source:
        with pytest.raises(EventsMissed) as caught:
            next(source)
        assert (caught.value.reason, caught.value.head) == ("unknown-id", 1)
        assert next(source).data == "one"
