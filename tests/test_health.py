"""Health checks for load balancers, which send no credentials and read only the status.

The HTTP API has the same checks as streams.health, and a site needs no Django REST framework for the latter.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError
from django.test import AsyncClient, Client

from streams import health
from streams.presence import counter, node_row
from tests.api.callers import code
from tests.support.sites import PYTHON, ROOT

pytestmark = pytest.mark.django_db

LIVE, READY = "/health/live", "/health/ready"
BOTH = pytest.mark.parametrize("mount", ["", "/api"])

# Requests both checks in a process that cannot import Django REST framework.
WITHOUT_REST_FRAMEWORK = """
import sys
sys.modules["rest_framework"] = None
import django
django.setup()
from django.test import Client
for path in ("/health/live", "/health/ready"):
    answer = Client().get(path)
    print(answer.status_code, answer.json()["status"])
"""


@BOTH
def test_live_needs_no_database(mount: str, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        answer = Client().get(mount + LIVE)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert answer.headers["Cache-Control"] == "no-store"


@BOTH
async def test_ready_tells_of_the_database_and_of_a_notifier_that_nobody_needs(mount: str) -> None:
    answer = await AsyncClient().get(mount + READY)
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


@BOTH
def test_database_that_fails_is_unavailable_without_a_word_of_why(mount: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OperationalError("password of streams@10.0.0.1 is wrong")

    monkeypatch.setattr(health, "_ask", fail)
    answer = Client().get(mount + READY)
    assert answer.status_code == 503
    assert answer.json() == {"status": "unavailable", "database": "unavailable", "notifier": "idle"}


async def test_database_that_hangs_is_waited_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "DATABASE_SECONDS", 0.05)
    monkeypatch.setattr(health, "_ask", lambda: time.sleep(0.3))
    answer = await AsyncClient().get(READY)
    assert (answer.status_code, answer.json()["database"]) == (503, "unavailable")


@BOTH
def test_what_cannot_be_required_and_other_methods_are_refused(mount: str) -> None:
    answer = Client().get(mount + READY, {"require": "notifer"})
    assert code(answer) == (400, "invalid-request")
    assert answer.json()["error"]["fields"] == {"require": "The only value is `notifier`; got 'notifer'."}
    for path in (mount + LIVE, mount + READY):
        refused = Client().post(path)
        assert code(refused) == (405, "method-not-allowed")
        assert refused.headers["Allow"] == "GET, HEAD, OPTIONS"
        assert Client().head(path).status_code == 200
        assert Client().options(path).status_code == 204


def test_checks_need_no_rest_framework(tmp_path: Path) -> None:
    env = {
        **os.environ,
        "DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3",
        "DJANGO_SETTINGS_MODULE": "tests.support.settings_bare",
    }
    subprocess.run([PYTHON, "manage.py", "migrate", "-v0"], cwd=ROOT, env=env, check=True)
    done = subprocess.run([PYTHON, "-c", WITHOUT_REST_FRAMEWORK], cwd=ROOT, env=env, text=True, capture_output=True)
    assert (done.returncode, done.stdout) == (0, "200 ok\n200 ok\n"), done.stderr
