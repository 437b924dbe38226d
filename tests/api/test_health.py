"""Health checks for load balancers, which send no credentials and read only the status."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from django.db import OperationalError
from django.test import AsyncClient, Client

from streams.api.views import health
from streams.presence import counter, node_row
from tests.api.callers import code

pytestmark = pytest.mark.django_db

LIVE, READY = "/api/health/live", "/api/health/ready"


def test_live_needs_no_database(django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        answer = Client().get(LIVE)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert answer.headers["Cache-Control"] == "no-store"


async def test_ready_tells_of_the_database_and_of_a_notifier_that_nobody_needs() -> None:
    answer = await AsyncClient().get(READY)
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "database": "ok", "notifier": "idle"}


@pytest.fixture
def connection_counter() -> Any:
    """Open the connection counter of an event loop, as a process with streams does."""
    loop = asyncio.new_event_loop()
    found = counter.open_counter(loop, set())
    yield found
    node_row.close_counter(found)
    loop.close()


def test_listener_that_fails_degrades_and_where_it_is_required_is_unavailable(
    connection_counter: counter.ConnectionCounter,
) -> None:
    assert Client().get(READY).json()["notifier"] == "ok"
    connection_counter.notifier_problem = "ConnectionError"
    answer = Client().get(READY)
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "database": "ok", "notifier": "degraded", "problem": "ConnectionError"}
    answer = Client().get(READY, {"require": "notifier"})
    assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
    assert answer.headers["Retry-After"] == "5"


def test_database_that_fails_is_unavailable_without_a_word_of_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OperationalError("password of streams@10.0.0.1 is wrong")

    monkeypatch.setattr(health, "_ask", fail)
    answer = Client().get(READY)
    assert answer.status_code == 503
    assert answer.json() == {"status": "unavailable", "database": "unavailable", "notifier": "idle"}


async def test_database_that_hangs_is_waited_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "DATABASE_SECONDS", 0.05)
    monkeypatch.setattr(health, "_ask", lambda: time.sleep(0.3))
    answer = await AsyncClient().get(READY)
    assert (answer.status_code, answer.json()["database"]) == (503, "unavailable")


def test_what_cannot_be_required_and_other_methods_are_refused() -> None:
    assert code(Client().get(READY, {"require": "notifer"})) == (400, "invalid-request")
    for path in (LIVE, READY):
        refused = Client().post(path)
        assert code(refused) == (405, "method-not-allowed")
        assert refused.headers["Allow"] == "GET, HEAD, OPTIONS"
        assert Client().head(path).status_code == 200
        assert Client().options(path).status_code == 204
