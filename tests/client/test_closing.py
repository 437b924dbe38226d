"""Leaving a stream: close() from another thread, cancelled tasks, and what is left open."""

from __future__ import annotations

import asyncio
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from streams.client import AsyncEventSource, EventSource
from tests.client.support import ENDED, HEAD, HOLD, Kind, RawServer, status
from tests.support.sites import PYTHON, ROOT

pytestmark = pytest.mark.once

Serve = Callable[..., RawServer]

ONE_EVENT = [HEAD, b"data: a\n\n", HOLD]
LIBRARIES = ["httpx2", "httpx"]


# --- Sync -------------------------------------------------------------------------------------------------------------


def in_thread(source: EventSource) -> tuple[threading.Thread, list[Any]]:
    """Iterate `source` in a thread. Its events are added to the list, and at the end a None."""
    found: list[Any] = []

    def iterate() -> None:
        try:
            found.extend(event.data for event in source)
        except BaseException as error:
            found.append(error)
        found.append(None)

    thread = threading.Thread(target=iterate)
    thread.start()
    return thread, found


@pytest.mark.parametrize("library", LIBRARIES)
def test_close_wakes_a_reading_thread(serve: Serve, library: str) -> None:
    server = serve(ONE_EVENT)
    source: EventSource = Kind(f"sync-{library}")(server.url)
    thread, found = in_thread(source)
    while not found:
        time.sleep(0.01)
    began = time.monotonic()
    source.close()
    assert time.monotonic() - began < 5, "it does not wait for the thread"
    thread.join(10)
    assert found == ["a", None]
    assert server.left.wait(5), "the connection is closed"
    assert list(source) == []


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    "answer", [[HOLD], status("503 Unavailable", Retry_After="3000")], ids=["for the head", "to reconnect"]
)
def test_close_wakes_a_thread_that_waits(serve: Serve, library: str, answer: Any) -> None:
    server = serve(answer)
    source: EventSource = Kind(f"sync-{library}")(server.url)
    thread, found = in_thread(source)
    while not server.requests:
        time.sleep(0.01)
    source.close()
    thread.join(10)
    assert found == [None]
    assert answer != [HOLD] or server.left.wait(5), "the connection is closed"


def test_close_within_the_loop_ends_it(new_source: Kind, serve: Serve) -> None:
    server = serve([HEAD, b"data: a\n\ndata: b\n\n", HOLD])
    source = new_source(server.url)
    found = []
    if new_source.is_async:

        async def iterate() -> None:
            async for event in source.source:
                found.append(event.data)
                await source.source.aclose()

        source.loop.run_until_complete(iterate())
    else:
        for event in source:
            found.append(event.data)
            source.close()
    assert found == ["a"]
    assert server.left.wait(5)
    source.close()


def test_close_in_a_callback_ends_the_loop(serve: Serve) -> None:
    server = serve([HEAD, b"event: stream-reset\ndata: {}\n\ndata: b\n\n", HOLD])
    source: EventSource = EventSource(server.url, on_reset=lambda gap: source.close())
    assert list(source) == []
    assert server.left.wait(5)


def test_break_and_go_on(new_source: Kind, serve: Serve) -> None:
    server = serve([HEAD, b"data: a\n\ndata: b\n\n", b"data: c\n\n"], ENDED)
    with new_source(server.url) as source:
        for event in source:
            assert event.data == "a"
            break
        assert [event.data for event in source] == ["b", "c"]


def test_own_client_is_closed_and_given_one_is_not(serve: Serve) -> None:
    import httpx2

    server = serve(ONE_EVENT)
    with EventSource(server.url) as source:
        next(source)
    assert source._client.is_closed
    with httpx2.Client() as client:
        with EventSource(server.url, client=client) as source:
            next(source)
        assert not client.is_closed
    assert client.is_closed


# --- Async ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", LIBRARIES)
async def test_cancelling_closes_the_connection(serve: Serve, library: str) -> None:
    server = serve(ONE_EVENT)
    source = AsyncEventSource(server.url, client=Kind(f"async-{library}").new_client())
    assert (await anext(source)).data == "a"
    task = asyncio.create_task(anext(source))  # type: ignore[arg-type]
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(server.left.wait, 5)
    await source.aclose()


async def test_timeout_around_the_loop_works(serve: Serve) -> None:
    server = serve(ONE_EVENT)
    found = []

    async def iterate() -> None:
        async with asyncio.timeout(0.3), AsyncEventSource(server.url) as source:
            async for event in source:
                found.append(event.data)

    with pytest.raises(TimeoutError):
        await iterate()
    assert found == ["a"]
    assert await asyncio.to_thread(server.left.wait, 5)


@pytest.mark.parametrize(
    "answer",
    [ONE_EVENT, [HOLD], status("503 Unavailable", Retry_After="3000")],
    ids=["reading", "connecting", "waiting"],
)
async def test_aclose_ends_another_tasks_loop(serve: Serve, answer: Any) -> None:
    server = serve(answer)
    source = AsyncEventSource(server.url)

    async def iterate() -> list[str]:
        return [event.data async for event in source]

    task = asyncio.create_task(iterate())
    while not server.requests:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    await source.aclose()
    found = await asyncio.wait_for(task, 10)
    assert found in ([], ["a"])
    assert source._client.is_closed
    assert [event async for event in source] == []


async def test_two_tasks_cannot_iterate_at_a_time(serve: Serve) -> None:
    server = serve([HEAD, HOLD])
    async with AsyncEventSource(server.url) as source:
        task = asyncio.create_task(anext(source))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one task at a time"):
            await anext(source)
        await source.aclose()
        with pytest.raises(StopAsyncIteration):
            await task


async def test_timeout_error_of_a_callback_is_raised(serve: Serve) -> None:
    async def fail(gap: object) -> None:
        raise TimeoutError("mine")

    server = serve([HEAD, b"event: stream-reset\ndata: {}\n\ndata: b\n\n", HOLD])
    async with AsyncEventSource(server.url, on_reset=fail) as source:
        with pytest.raises(TimeoutError, match="mine"):
            await anext(source)
        assert (await anext(source)).data == "b"


# --- Arguments and processes ------------------------------------------------------------------------------------------


def test_wrong_client_is_refused() -> None:
    import httpx2

    with pytest.raises(TypeError, match=r"client is a Client of httpx2 or httpx; got httpx2\.AsyncClient"):
        EventSource("http://127.0.0.1:1/", client=httpx2.AsyncClient())
    with pytest.raises(TypeError, match=r"channels is a list of names; got the text 'news'. Write channels=\['news'\]"):
        EventSource("http://127.0.0.1:1/", channels="news")


def run(code: str) -> str:
    done = subprocess.run([PYTHON, "-c", code], cwd=ROOT, env={}, text=True, capture_output=True)
    assert done.stderr == ""
    return done.stdout


def test_client_needs_no_django_settings(serve: Serve) -> None:
    server = serve([HEAD, b"data: a\n\n"], ENDED)
    code = f"""
from streams.client import EventSource
with EventSource({server.url!r}, retry_seconds=0) as source:
    print([event.data for event in source], source)
"""
    assert run(code) == f"['a'] EventSource('{server.url}', last_event_id='')\n"


def test_missing_library_is_named() -> None:
    code = """
import sys
sys.modules["httpx"] = sys.modules["httpx2"] = None
from streams.client import EventSource
try:
    EventSource("http://127.0.0.1/")
except ImportError as error:
    print(error)
"""
    assert run(code) == (
        'streams.client needs httpx2 or httpx. Install it with: pip install "django-sse-streams[client]"\n'
    )
