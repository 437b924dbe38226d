"""With a notifier that makes every kind of error, a subscriber still receives every message once and in order."""

from __future__ import annotations

import asyncio

import pytest

from tests.support import clients
from tests.support.clients import StreamClient
from tests.support.sites import Site
from tests.system.servers.holdings import publish

pytestmark = pytest.mark.once

MESSAGES = 90
READERS = 5


async def test_faulty_notifier_changes_nothing_that_subscribers_see(sqlite_site: Site) -> None:
    faulty = {"BACKEND": "tests.support.faulty_notifier.FaultyNotifier", "OPTIONS": {"seed": 1}}
    server = sqlite_site.settings(NOTIFIER=faulty, POLL_SECONDS=0.5).serve()
    try:
        readers = [await StreamClient(server.port, "/events/public.a/").connect() for _ in range(READERS)]
        for reader in readers:
            await reader.read_control(1)
        reading = [asyncio.ensure_future(reader.read_until(MESSAGES)) for reader in readers]

        async def publisher() -> None:
            for number in range(MESSAGES // 3):
                await publish(server, "public.b" if number % 7 == 0 else "public.a")
                if number % 7 == 0:
                    await publish(server, "public.a")

        await asyncio.gather(*(publisher() for _ in range(3)))
        await asyncio.gather(*reading)
        for reader in readers:
            await reader.read_for(1)
    finally:
        clients.leave_all()
    stored = sqlite_site.execute("SELECT position FROM streams_message WHERE channel = 'public.a' ORDER BY position")
    expected = [str(position) for (position,) in stored]
    assert len(expected) == MESSAGES
    for reader in readers:
        assert [event.id for event in reader.events] == expected
        assert "stream-reset" not in [event.event for event in reader.control]
