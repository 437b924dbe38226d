"""asgiref's internals: the installed version has them as Streams uses them, and Streams works without them."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import SyncToAsync, ThreadSensitiveContext, async_to_sync, sync_to_async

from streams.private import asgiref
from streams.runtime.request_resources import close_request_connections, release_request

# --- The installed version --------------------------------------------------------------------------------------------


async def test_context_of_a_request_is_found() -> None:
    assert asgiref.request_context() is None
    async with ThreadSensitiveContext() as context:
        assert asgiref.request_context() is context


async def test_thread_of_a_request_is_taken_away() -> None:
    async with ThreadSensitiveContext() as context:
        assert not asgiref.has_thread(context)
        assert asgiref.executor_of(context) is None
        thread = await sync_to_async(threading.current_thread)()
        assert asgiref.has_thread(context)
        executor = asgiref.executor_of(context)
        assert executor is not None
        assert asgiref.thread_of(executor) is thread
        assert asgiref.take_executor(context) is executor
        assert asgiref.take_executor(context) is None
        executor.shutdown()
        assert not thread.is_alive()
        assert await sync_to_async(threading.current_thread)() is not thread


async def test_executor_of_another_owner_is_left_to_it() -> None:
    with ThreadPoolExecutor(1) as executor:
        async with ThreadSensitiveContext(executor=executor) as context:
            assert asgiref.executor_of(context) is executor
            assert asgiref.take_executor(context) is None
            assert asgiref.executor_of(context) is executor


def test_sync_callers_are_found() -> None:
    found: dict[str, Any] = {}

    def outer() -> None:
        async_to_sync(inner)()

    async def inner() -> None:
        found["inner"] = asgiref.innermost_caller()
        found["thread"] = asgiref.thread_of(found["inner"])
        found["broken"] = asgiref.is_broken(found["inner"])

    async def main() -> None:
        found["outer"] = asgiref.outermost_caller(asyncio.get_running_loop())
        await sync_to_async(outer)()

    async_to_sync(main)()
    assert asgiref.thread_of(found["outer"]) is threading.current_thread()
    assert found["thread"] is threading.current_thread()
    assert found["broken"] is False
    assert asgiref.is_broken(found["inner"]), "the call has returned"


async def test_loop_that_calls_a_thread_is_found() -> None:
    assert await sync_to_async(asgiref.main_event_loop)() is asyncio.get_running_loop()


async def test_shared_thread_is_the_one_of_sync_to_async() -> None:
    thread = await sync_to_async(threading.current_thread)()
    executor = asgiref.shared_executor()
    assert executor is not None
    assert asgiref.thread_of(executor) is thread


# --- A version without the internals ----------------------------------------------------------------------------------


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the asgiref internals that Streams uses."""
    monkeypatch.setattr(asgiref, "SyncToAsync", SimpleNamespace())
    monkeypatch.setattr(asgiref, "AsyncToSync", SimpleNamespace())


async def test_missing_internals_have_substitutes(empty: None, warnings: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(2):
        assert asgiref.request_context() is not None, "streams need a context to end with their server"
        assert asgiref.has_thread(object())
        assert not asgiref.has_thread(None)
        assert asgiref.executor_of(object()) is None
        assert asgiref.take_executor(object()) is None
        assert asgiref.innermost_caller() is None
        assert asgiref.outermost_caller(loop) is None
        assert asgiref.shared_executor() is None
        assert asgiref.main_event_loop() is None
    assert asgiref.thread_of(object()) is None
    named = [record.getMessage() for record in warnings.records]
    assert len(named) == len(set(named)) == 6, "one warning for each"
    assert any("SyncToAsync.context_to_thread_executor" in text and "keeps a thread" in text for text in named)


async def test_server_without_contexts_is_still_known(empty: None, warnings: pytest.LogCaptureFixture) -> None:
    """Streams then end with the server and return their database connections, as they do with asgiref's context."""
    assert asgiref.request_context() is not None
    async with ThreadSensitiveContext() as context:
        thread = await sync_to_async(threading.current_thread)()
        assert await close_request_connections()
        await release_request()
        assert SyncToAsync.context_to_thread_executor[context]._threads == {thread}, "the context keeps its thread"
