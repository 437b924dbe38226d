"""Slots are counted by key in all threads, and are returned by release() or by garbage collection."""

from __future__ import annotations

import gc
import threading

from streams.presence.slots import Slot, Slots


def test_place_counts_under_each_of_its_keys_until_it_is_released() -> None:
    slots = Slots()
    one, two, none = slots.take("a", "b"), slots.take("a"), slots.take()
    assert (slots.taken("a"), slots.taken("b"), slots.taken("c"), slots.total()) == (2, 1, 0, 3)
    assert slots.counts() == {"a": 2, "b": 1}
    one.release()
    one.release()
    assert (slots.counts(), slots.total()) == ({"a": 1}, 2)
    two.release()
    none.release()
    assert (slots.counts(), slots.total()) == ({}, 0)


def test_place_that_is_forgotten_comes_back() -> None:
    slots = Slots()
    forgotten: Slot | None = slots.take("a")
    assert slots.total() == 1
    del forgotten
    assert slots.total() == 0


def test_place_that_the_garbage_collector_finds_within_a_count_comes_back_after_it() -> None:
    slots = Slots()
    cycle: list[object] = [slots.take("a")]
    cycle.append(cycle)
    del cycle
    with slots:
        gc.collect()
        assert slots._taken == {"a": 1}
    assert slots.counts() == {}


def test_of_many_threads_no_more_get_a_place_than_there_are() -> None:
    slots = Slots()
    got: list[Slot] = []
    ready = threading.Barrier(8)

    def take() -> None:
        ready.wait()
        for _ in range(200):
            with slots:
                if slots.taken("a") < 100:
                    got.append(slots.take("a"))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == slots.total() == 100
