"""The rate limit of publishing, in one process and over all processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.test import override_settings

from streams.publishing import rate_limit
from streams.publishing.rate_limit import Buckets
from tests.api.callers import CHANNEL_MESSAGES, FAST, MESSAGES, bearer, code, post
from tests.support.services.redis import RedisServer
from tests.support.sites import Site, finish

CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "rates"},
    "broken": {"BACKEND": "tests.publishing.test_rate_limit.BrokenCache"},
}


class BrokenCache(LocMemCache):
    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__("broken", params)

    def add(self, *args: Any, **kwargs: Any) -> bool:
        raise ConnectionError("nobody there")


Take = Callable[[str, int], int]


@pytest.fixture(params=["sync", "async"])
def take(request: pytest.FixtureRequest) -> Take:
    """Return the sync or the async function. Both decide in the same way."""
    return rate_limit.take if request.param == "sync" else lambda caller, n: asyncio.run(rate_limit.atake(caller, n))


# --- The bucket -------------------------------------------------------------------------------------------------------


def test_bucket_gives_a_minutes_worth_at_once_and_then_goes_on_at_the_rate() -> None:
    buckets = Buckets()
    assert buckets.take("a", 60, 60, now=0) == 0
    assert buckets.take("a", 1, 60, now=0) == 1
    assert buckets.take("a", 2, 60, now=1) == 1, "a refused call takes nothing"
    assert buckets.take("a", 1, 60, now=1) == 0
    assert buckets.take("a", 10, 60, now=1) == 10
    assert buckets.take("a", 60, 60, now=1000) == 0, "the bucket never holds more than a minute's worth"
    assert buckets.take("a", 1, 60, now=1000) == 1


def test_callers_do_not_share_a_bucket() -> None:
    buckets = Buckets()
    assert buckets.take("a", 60, 60, now=0) == 0
    assert buckets.take("b", 60, 60, now=0) == 0


def test_memory_is_bounded_and_whoever_was_quiet_longest_is_forgotten() -> None:
    buckets = Buckets(max_callers=100)
    for n in range(1000):
        buckets.take(f"caller {n}", 60, 60, now=n / 1000)
        buckets.take("busy", 1, 6000, now=n / 1000)
    assert len(buckets) == 100
    assert buckets.take("caller 999", 1, 60, now=1) > 0
    assert buckets.take("caller 1", 60, 60, now=1) == 0


# --- The settings -----------------------------------------------------------------------------------------------------


@override_settings(STREAMS={"PUBLISH_MESSAGES_PER_MINUTE": None})
def test_no_limit_where_none_is_set(take: Take) -> None:
    assert take("a", 10**9) == 0


@override_settings(STREAMS={"PUBLISH_MESSAGES_PER_MINUTE": 10})
def test_seconds_to_wait_are_whole_and_enough(take: Take) -> None:
    assert take("a", 10) == 0
    assert take("a", 1) == 6


@override_settings(CACHES=CACHES, STREAMS={"PUBLISH_MESSAGES_PER_MINUTE": 10, "PUBLISH_RATE_CACHE": "default"})
def test_over_all_processes_by_a_cache(take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit.time, "time", lambda: 6_000_045.0)
    caches["default"].clear()
    assert take("a", 7) == 0
    rate_limit._buckets.clear()  # like another process, whose memory contains no counts
    assert take("a", 4) == 15, "the caller waits until the minute is over"
    assert take("a", 3) == 0, "a refused call is not counted"
    assert take("b", 10) == 0
    monkeypatch.setattr(rate_limit.time, "time", lambda: 6_000_060.0)
    assert take("a", 10) == 0
    caches["default"].clear()


@override_settings(CACHES=CACHES, STREAMS={"PUBLISH_MESSAGES_PER_MINUTE": 10, "PUBLISH_RATE_CACHE": "broken"})
def test_cache_that_does_not_answer_is_logged_once_and_each_process_counts(
    take: Take, caplog: pytest.LogCaptureFixture
) -> None:
    rate_limit.CACHE.forget()
    assert [take("a", 6), take("a", 6), take("a", 4)] == [0, 12, 0]
    assert len([record for record in caplog.records if record.exc_info]) == 1
    rate_limit.CACHE.forget()


def _publish_in_another_process(caller: str, messages: str) -> None:
    print(rate_limit.take(caller, int(messages)))


@pytest.mark.once
def test_two_processes_count_together_in_redis(sqlite_site: Site, redis: RedisServer) -> None:
    sqlite_site.settings(PUBLISH_MESSAGES_PER_MINUTE=1000, PUBLISH_RATE_CACHE="default")
    sqlite_site.env["TEST_CACHE"] = redis.url
    waited = [int(finish(sqlite_site.call(_publish_in_another_process, "a", n))) for n in (800, 800, 800)]
    # A new minute can begin between two of the calls.
    assert waited[0] == 0
    assert sum(seconds > 0 for seconds in waited) >= 1


# --- Over HTTP --------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
@override_settings(STREAMS={"PUBLISH_MESSAGES_PER_MINUTE": 4})
def test_publishing_beyond_the_rate_is_429_and_names_the_setting() -> None:
    many = {"messages": [{"channel": "news", "data": n} for n in range(3)]}
    one, other = bearer(), bearer()
    assert post(MESSAGES, many, one).status_code == 201
    assert post(FAST, {"data": 1}, one).status_code == 201
    for path in (FAST, CHANNEL_MESSAGES):
        answer = post(path, {"data": 1}, one)
        assert code(answer) == (429, "publish-rate")
        assert 1 <= int(answer.headers["Retry-After"]) <= 15
        assert "PUBLISH_MESSAGES_PER_MINUTE" in answer.json()["error"]["message"]
    assert post(CHANNEL_MESSAGES, {"data": 1}, other).status_code == 201, "each token has its own rate"


@pytest.mark.django_db
@override_settings(STREAMS={"PUBLISH_MESSAGES_PER_MINUTE": 4})
def test_what_never_fits_is_no_matter_of_waiting() -> None:
    answer = post(MESSAGES, {"messages": [{"channel": "news", "data": n} for n in range(5)]}, bearer())
    assert code(answer) == (400, "too-many-messages")
