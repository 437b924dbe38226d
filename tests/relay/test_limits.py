"""Limits per caller on questions and stored bytes, and the identification of callers without an account."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.db import connections
from django.db.migrations.executor import MigrationExecutor
from django.test import AsyncClient, Client

from streams.exceptions import HTTPError
from streams.relay import usage
from streams.relay.access import Principal
from streams.relay.conf import RelaySettings
from streams.relay.generations import store
from streams.relay.generations.endings import Batch, Ending
from streams.relay.models import Generation, Usage
from streams.runtime.database import database

pytestmark = pytest.mark.django_db(transaction=True)

QUESTION = {"messages": [{"role": "user", "content": "Hi"}]}
EVERYONE = {
    "RELAY_ACCESS": "streams.relay.access.Everyone",
    "GENERATION_WORKER": "command",
    "RELAY_MAX_STREAMS_PER_USER": 1000,
}


@pytest.fixture(autouse=True)
def everyone(settings: Any) -> Any:
    settings.STREAMS = EVERYONE
    return settings


def ask(address: str = "203.0.113.7", content: str = "Hi") -> Any:
    body = {"messages": [{"role": "user", "content": content}]}
    return Client(REMOTE_ADDR=address).post("/ai/generations/", json.dumps(body), content_type="application/json")


# --- Addresses ---


def test_network_of_ipv6_counts_as_one_caller(everyone: Any) -> None:
    everyone.STREAMS = {**EVERYONE, "RELAY_MAX_STREAMS_PER_USER": 5}
    asked = [ask(f"2001:db8:1:2::{n:x}").status_code for n in range(1, 41)]
    assert asked == [201] * 5 + [429] * 35
    assert ask("2001:db8:1:3::1").status_code == 201


async def test_no_table_holds_an_address() -> None:
    client = AsyncClient()
    for path in ("/ai/generations/", "/ai/v1/chat/completions"):
        response = await client.post(path, QUESTION, content_type="application/json")
        assert response.status_code in (200, 201)
    async with asyncio.timeout(30):
        while not (spent := [caller async for caller in Usage.objects.values_list("caller", flat=True)]):
            await asyncio.sleep(0.05)
    for caller in [*spent, *[caller async for caller in Generation.objects.values_list("caller", flat=True)]]:
        assert re.fullmatch("address [0-9a-f]{16}", caller)


def test_migration_clears_what_was_stored_in_clear() -> None:
    ann = User.objects.create(username="ann")
    callers = ["address 203.0.113.7", "address 2001:db8::1", "address 0123456789abcdef", f"user {ann.pk}"]
    for caller in callers:
        store.create(Principal(None, caller), {"model": "m", **QUESTION}, "default")
        spend(ann.pk if caller.startswith("user") else None, caller)
    spend(None, "user 12345")  # deleted
    executor = MigrationExecutor(connections[database()])
    state = executor.loader.project_state([("streams_relay", "0004_tokens_sizes_and_callers")])
    executor.loader.get_migration("streams_relay", "0004_tokens_sizes_and_callers")
    from importlib import import_module

    migration = import_module("streams.relay.migrations.0004_tokens_sizes_and_callers")
    with connections[database()].schema_editor() as editor:
        migration.clear_callers(state.apps, editor)
    left = ["address", "address", "address 0123456789abcdef", f"user {ann.pk}"]
    assert sorted(Generation.objects.values_list("caller", flat=True)) == sorted(left)
    assert sorted(Usage.objects.values_list("caller", flat=True)) == sorted([*left, ""])


def spend(user_id: Any, caller: str) -> None:
    usage.record(
        user_id=user_id, caller=caller, upstream="u", model="m", outcome="done", usage=None, chunks=1, seconds=1
    )


# --- Rate ---


def test_default_limits_are_finite() -> None:
    assert apps.is_installed("streams.relay")
    assert RelaySettings.RELAY_QUESTIONS_PER_MINUTE.default is not None
    assert RelaySettings.GENERATION_BYTES_PER_HOUR.default is not None


def test_questions_beyond_the_rate_are_refused(everyone: Any) -> None:
    everyone.STREAMS = {**EVERYONE, "RELAY_QUESTIONS_PER_MINUTE": 3}
    assert [ask().status_code for _ in range(5)] == [201, 201, 201, 429, 429]
    refused = ask()
    assert refused.json()["error"]["code"] == "too-many-questions"
    assert "RELAY_QUESTIONS_PER_MINUTE" in refused.json()["error"]["message"]
    assert 1 <= int(refused.headers["Retry-After"]) <= 20
    assert ask("203.0.113.8").status_code == 201
    everyone.STREAMS = {**EVERYONE, "RELAY_QUESTIONS_PER_MINUTE": None}
    assert ask().status_code == 201


async def test_relay_and_regenerate_count_as_well(everyone: Any) -> None:
    everyone.STREAMS = {**EVERYONE, "RELAY_QUESTIONS_PER_MINUTE": 2}
    client = AsyncClient()
    created = (await client.post("/ai/generations/", QUESTION, content_type="application/json")).json()
    assert (await client.post(created["regenerate_url"])).status_code == 201
    assert (await client.post(created["regenerate_url"])).status_code == 429
    relayed = await client.post("/ai/v1/chat/completions", QUESTION, content_type="application/json")
    assert relayed.status_code == 429


# --- Bytes ---


def test_bytes_of_last_hour_are_bounded(everyone: Any) -> None:
    everyone.STREAMS = {**EVERYONE, "GENERATION_BYTES_PER_HOUR": 10_000}
    assert ask(content="x" * 4000).status_code == 201
    store.claim("w", 10)
    [generation] = Generation.objects.all()
    text = "é" * 2000
    ending = Ending(Generation.State.DONE)
    assert store.write("w", [Batch(generation.pk, 0, (text,), text=text, ending=ending)])
    generation.refresh_from_db()
    assert generation.size == len(json.dumps(generation.request)) + 4000
    refused = ask(content="x" * 4000)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too-many-bytes")
    assert ask(content="short").status_code == 201
    assert ask("203.0.113.8", content="x" * 4000).status_code == 201
    with connections[database()].cursor() as cursor:
        cursor.execute("UPDATE streams_relay_generation SET created_at = '2026-01-01 00:00:00+00:00'")
    assert ask(content="x" * 4000).status_code == 201


def test_cancelled_answer_counts_its_text(everyone: Any) -> None:
    caller = Principal(None, "address 1")
    generation, _ = store.create(caller, {"model": "m", **QUESTION}, "default")
    before = generation.size
    store.claim("w", 10)
    store.write("w", [Batch(generation.pk, 0, ("x" * 500,))])
    assert store.cancel(generation.pk).size == before + 500


def test_flood_of_large_questions_stores_little(everyone: Any) -> None:
    """With the defaults, one address cannot fill the database."""
    everyone.STREAMS = {"RELAY_ACCESS": EVERYONE["RELAY_ACCESS"], "GENERATION_WORKER": "command"}
    caller, body = (
        Principal(None, "address 1"),
        {"model": "m", "messages": [{"role": "user", "content": "x" * 1_000_000}]},
    )
    stored = 0

    def flood() -> None:
        nonlocal stored
        for _ in range(200):
            generation, _ = store.create(caller, body, "default")
            stored += generation.size
            store.cancel(generation.pk)

    with pytest.raises(HTTPError) as refused:
        flood()
    assert refused.value.code == "too-many-bytes"
    assert 30_000_000 < stored <= 67_108_864
