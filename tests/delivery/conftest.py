"""Fixtures for the delivery tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from django.test import override_settings

from streams.runtime import executor
from tests.delivery.support import GREEDY, STREAMS, Pool, Reader, fill


@pytest.fixture
async def held(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pool]:
    pool = Pool()
    monkeypatch.setattr(executor, "run", pool.run)
    with override_settings(STREAMS=STREAMS):
        yield pool
        pool.release()


@pytest.fixture
async def greedy(held: Pool) -> AsyncIterator[list[Reader]]:
    """Start twenty streams of one caller, each with its own cursor. Their reads of the log do not return."""
    await fill(GREEDY + 5, "greedy")
    readers = [Reader("address of one", cursor, "greedy") for cursor in range(1, GREEDY + 1)]
    tasks = [asyncio.create_task(reader.read()) for reader in readers]
    async with asyncio.timeout(30):
        while not held.begun:
            await asyncio.sleep(0.01)
    yield readers
    held.release(1000)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for reader in readers:
        await reader.stream.aclose()
