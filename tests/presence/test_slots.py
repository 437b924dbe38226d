"""Places are counted by key, in all threads, and come back however they are let go of."""

from __future__ import annotations

import gc
import threading

from streams.presence.slots import Place, Places


def test_place_counts_under_each_of_its_keys_until_it_is_released() -> None:
    places = Places()
    one, two, none = places.take("a", "b"), places.take("a"), places.take()
    assert (places.taken("a"), places.taken("b"), places.taken("c"), places.total()) == (2, 1, 0, 3)
    assert places.counts() == {"a": 2, "b": 1}
    one.release()
    one.release()
    assert (places.counts(), places.total()) == ({"a": 1}, 2)
    two.release()
    none.release()
    assert (places.counts(), places.total()) == ({}, 0)


def test_place_that_is_forgotten_comes_back() -> None:
    places = Places()
    forgotten: Place | None = places.take("a")
    assert places.total() == 1
    del forgotten
    assert places.total() == 0


def test_place_that_the_garbage_collector_finds_within_a_count_comes_back_after_it() -> None:
    places = Places()
    circle: list[object] = [places.take("a")]
    circle.append(circle)
    del circle
    with places:
        gc.collect()
        assert places._taken == {"a": 1}
    assert places.counts() == {}


def test_of_many_threads_no_more_get_a_place_than_there_are() -> None:
    places = Places()
    got: list[Place] = []
    ready = threading.Barrier(8)

    def take() -> None:
        ready.wait()
        for _ in range(200):
            with places:
                if places.taken("a") < 100:
                    got.append(places.take("a"))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == places.total() == 100
