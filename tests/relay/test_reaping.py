"""The task that ends orphaned answers can wait for locks, but other periodic tasks do not wait for it."""

from __future__ import annotations

import json

import pytest

from tests.support.sites import Site, finish

pytestmark = pytest.mark.once


def other_task_while_a_row_is_locked() -> None:
    """Print whether another periodic task ran while the row was locked, and the answer's final state."""
    import asyncio
    import datetime
    import threading

    from django.db import connections, transaction
    from django.db.models import F
    from django.db.models.functions import Now

    from streams.relay.access import Principal
    from streams.relay.generations import background, housekeeping, store
    from streams.relay.models import Generation
    from streams.runtime import executor

    housekeeping.CONFIRM_SECONDS = 0.0
    body = {"model": "small", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    store.create(Principal(None, "address 192.0.2.1"), body, "default", None)
    assert store.claim("a dead worker", 1)
    Generation.objects.update(lease_until=Now() - datetime.timedelta(seconds=1))
    is_locked, can_unlock = threading.Event(), threading.Event()

    def lock() -> None:
        with transaction.atomic():
            Generation.objects.update(worker=F("worker"))
            is_locked.set()
            can_unlock.wait(60)
        connections.close_all()

    locking = threading.Thread(target=lock)
    locking.start()
    assert is_locked.wait(60)

    async def attend() -> bool:
        attending = asyncio.create_task(background.reap_periodically())
        await asyncio.sleep(0)
        served, _ = await asyncio.wait([asyncio.create_task(executor.run(int, pool=executor.PERIODIC))], timeout=5)
        can_unlock.set()
        await attending
        return bool(served)

    was_served = asyncio.run(attend())
    locking.join()
    print(json.dumps([was_served, Generation.objects.get().state]))


def test_locked_row_stops_no_other_task(site: Site) -> None:
    assert json.loads(finish(site.call(other_task_while_a_row_is_locked)).splitlines()[-1]) == [True, "interrupted"]
