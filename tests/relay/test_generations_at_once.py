"""Concurrent steps of a generation, in threads of one process: each step takes effect once."""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.sites import Site, finish

pytestmark = pytest.mark.once

KEY = "5e9b3a46-1f1d-4d0a-9a8e-0d1f6a3f2b11"
BODY = {"model": "small", "messages": [{"role": "user", "content": "Hi"}], "stream": True}


def outcome(site: Site, race: Callable[[], None]) -> Any:
    """Run the race in a separate process and return the JSON that it prints."""
    return json.loads(finish(site.call(race)).splitlines()[-1])


def together(*calls: Callable[[], object]) -> list[Any]:
    """Run the calls at the same time. Return their results, or the names of their exceptions."""
    from django.db import connections

    results: list[Any] = [None] * len(calls)
    ready = threading.Barrier(len(calls))

    def run(index: int, call: Callable[[], object]) -> None:
        ready.wait()
        try:
            results[index] = call()
        except Exception as error:
            results[index] = type(error).__name__
        finally:
            connections.close_all()

    started = [threading.Thread(target=run, args=each) for each in enumerate(calls)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return results


def ask(key: str | None = None) -> str:
    from streams.relay.access import Principal
    from streams.relay.generations import store

    return store.create(Principal(None, "address 192.0.2.1"), BODY, "default", key)[0].pk


def same_key() -> None:
    print(json.dumps(together(*[lambda: ask(KEY)] * 6)))


def test_the_same_key_at_the_same_time_asks_once(site: Site) -> None:
    ids = outcome(site, same_key)
    assert len(ids) == 6
    assert len(set(ids)) == 1
    assert site.execute("SELECT count(*) FROM streams_relay_generation") == [(1,)]


def too_many() -> None:
    print(json.dumps(together(*[lambda: ask()] * 8)))


def test_caller_has_no_more_under_way_than_allowed_however_they_come(site: Site) -> None:
    site.settings(RELAY_MAX_STREAMS_PER_USER=2)
    assert outcome(site, too_many).count("HTTPError") == 6
    assert site.execute("SELECT count(*) FROM streams_relay_generation") == [(2,)]


def claims() -> None:
    from streams.relay.generations import store

    made = [ask() for _ in range(12)]
    claimed = together(*(lambda n=n: [each.pk for each in store.claim(f"w{n}", 3)] for n in range(6)))  # type: ignore[misc]
    rest = [each.pk for each in store.claim("rest", 100)]
    print(json.dumps([made, [pk for each in claimed for pk in each], rest]))


def test_each_waiting_generation_is_claimed_by_one_worker(site: Site) -> None:
    site.settings(RELAY_MAX_STREAMS_PER_USER=20)
    made, claimed, rest = outcome(site, claims)
    assert sorted(claimed + rest) == sorted(made)


def ends() -> None:
    from streams.relay.generations import store
    from streams.relay.generations.endings import Batch, Ending
    from streams.relay.models import Generation

    results = []
    for _ in range(8):
        pk = ask()
        store.claim("w", 1)
        end = Batch(pk, 0, ("a",), text="a", ending=Ending(Generation.State.DONE))
        results += together(
            lambda pk=pk: store.cancel(pk).state,  # type: ignore[misc]
            lambda end=end: len(store.write("w", [end])),  # type: ignore[misc]
            lambda pk=pk: store.cancel(pk).state,  # type: ignore[misc]
        )
    print(json.dumps(results))


def test_cancel_and_the_workers_end_at_the_same_time_end_it_once(site: Site) -> None:
    results = outcome(site, ends)
    assert set(results) <= {"cancelled", "done", 0, 1}
    ends_of = "SELECT count(*) FROM streams_message WHERE event = 'end' GROUP BY channel"
    assert site.execute(ends_of) == [(1,)] * 8
    assert site.execute("SELECT count(*), count(DISTINCT generation) FROM streams_relay_usage") == [(8, 8)]


def interrupts() -> None:
    from django.db.models.functions import Now

    from streams.relay.generations import housekeeping, store
    from streams.relay.models import Generation

    pk = ask()
    store.claim("w", 1)
    Generation.objects.filter(pk=pk).update(lease_until=Now() - datetime.timedelta(seconds=1))
    housekeeping.CONFIRM_SECONDS = 0.0
    print(json.dumps(together(*[housekeeping.reap] * 6)))


def test_dead_workers_generation_is_interrupted_once_by_many(site: Site) -> None:
    assert outcome(site, interrupts) == [False] * 6
    assert site.execute("SELECT event FROM streams_message") == [("end",)]
    assert site.execute("SELECT outcome FROM streams_relay_usage") == [("interrupted",)]
