"""The usage that the relay records for each answer. Over real sockets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.relay.conftest import Relay
from tests.relay.steps import (
    COMPLETION,
    END,
    HEAD,
    LAST,
    piece,
    wait,
    whole,
)

pytestmark = pytest.mark.once


async def test_usage_is_recorded_for_every_answer(relay: Relay) -> None:
    async def newest(count: int) -> tuple[Any, ...]:
        async with asyncio.timeout(10):
            while len(found := await asyncio.to_thread(relay.usage, "cleo")) < count:
                await asyncio.sleep(0.05)
        return found[0]

    await relay.answer([HEAD, piece("Hi"), *END], model="m2", user="cleo")
    assert await newest(1) == ("done", 2, 0, "m2")
    parts = [HEAD, piece("a"), wait(0.05), piece("b"), wait(0.05), piece("c")]
    await relay.answer([*parts, LAST], user="cleo")
    assert await newest(2) == ("failed", 3, 1, "m1")
    asked = await relay.ask([*parts, wait(9)], user="cleo")
    await asked.has(b'"c"')
    await asked.close()
    assert await newest(3) == ("cancelled", 3, 1, "m1")
    await relay.answer(whole(200, COMPLETION), stream=False, user="cleo")
    assert await newest(4) == ("done", 2, 0, "m1")
    await relay.answer(whole(401, {}), user="cleo")
    await relay.answer([HEAD, piece("Hi"), *END], user="cleo")
    assert len(await asyncio.to_thread(relay.usage, "cleo")) <= 5, "a refusal costs nothing"


async def test_usage_is_recorded_after_timeouts(relay: Relay) -> None:
    before = len(await asyncio.to_thread(relay.usage, "cleo"))
    for stream in (True, False):
        await relay.answer([wait(9)], stream=stream, user="cleo")
    async with asyncio.timeout(10):
        while len(found := await asyncio.to_thread(relay.usage, "cleo")) < before + 2:
            await asyncio.sleep(0.05)
    assert [row[0] for row in found[:2]] == ["failed", "failed"]
