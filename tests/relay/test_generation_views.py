"""Generations over HTTP: creating, reading, cancelling and regenerating them."""

from __future__ import annotations

from typing import Any

import pytest
from django.http import HttpResponse
from django.test import Client
from django.utils.crypto import get_random_string

from streams.relay.generations import housekeeping
from streams.relay.models import Generation
from tests.relay.generation_requests import QUESTION, State, ask, without_token, write

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("everyone_may_ask")]


def test_response_holds_urls_of_generation(client: Client) -> None:
    response = ask(client)
    made = Generation.objects.get()
    created = response.json()
    assert response.status_code == 201
    assert (created["id"], created["state"], created["channel"]) == (made.pk, "queued", f"generation.{made.pk}")
    assert (created["text"], created["chunks"], created["error"]) == ("", 0, None)
    assert without_token(created["events_url"]) == f"/ai/generations/{made.pk}/events/"
    assert without_token(created["url"]) == f"/ai/generations/{made.pk}/"
    assert made.request["stream"] is True
    assert made.request["max_tokens"] == 4096


def test_same_key_returns_first_generation(client: Client, everyone_may_ask: Any) -> None:
    key = get_random_string(36)
    first, again = (ask(client, **{"Idempotency-Key": key}) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    assert Generation.objects.count() == 1
    write(first.json()["id"], "Hel", "lo")
    assert ask(client, **{"Idempotency-Key": key}).json()["text"] == "Hello"
    assert ask(client, {**QUESTION, "temperature": 1}, **{"Idempotency-Key": key}).status_code == 422
    everyone_may_ask.STREAMS = {**everyone_may_ask.STREAMS, "RELAY_MAX_TOKENS": 10}
    assert ask(client, **{"Idempotency-Key": key}).status_code == 200, "the client sent the same request"


@pytest.mark.parametrize(
    ("payload", "status", "code"),
    [
        ("", 400, "invalid-json"),
        ("[]", 400, "invalid-request"),
        ("{}", 400, "invalid-messages"),
        ({"messages": []}, 400, "invalid-messages"),
        ({**QUESTION, "base_url": "http://192.0.2.1/"}, 400, "unknown-key"),
        ({**QUESTION, "model": "other"}, 404, "model_not_found"),
        ({"messages": [{"role": "user", "content": "a\0"}]}, 400, "invalid-text"),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', 400, "invalid-text"),
        ('{"messages": [{"role": "user", "content": "a"}], "temperature": 1e400}', 400, "invalid-json"),
        ({**QUESTION, "tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "unsupported-tools"),
        ({"messages": [{"role": "user", "content": "x" * 1_100_000}]}, 413, "request-too-large"),
        ({"messages": [{"role": "user", "content": "x" * 3_000_000}]}, 413, "request-too-large"),
    ],
)
def test_bad_request_gets_clear_error(client: Client, payload: Any, status: int, code: str) -> None:
    response = ask(client, payload)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert not Generation.objects.exists()


def test_excess_generations_get_retry_after(client: Client, everyone_may_ask: Any) -> None:
    everyone_may_ask.STREAMS = {**everyone_may_ask.STREAMS, "RELAY_MAX_STREAMS_PER_USER": 1}
    ask(client)
    response = ask(client)
    assert (response.status_code, response.headers["Retry-After"]) == (429, "5")
    assert response.json()["error"]["code"] == "too-many-answers"


def test_other_methods_are_refused(client: Client) -> None:
    created = ask(client).json()
    for url, allowed in [
        ("/ai/generations/", "POST"),
        (created["url"], "GET, HEAD"),
        (created["cancel_url"], "POST"),
        (created["regenerate_url"], "POST"),
        (created["events_url"], "GET, HEAD, OPTIONS"),
    ]:
        response = client.put(url)
        assert (response.status_code, response.headers["Allow"]) == (405, allowed)


def test_unknown_generation_is_not_found(ann_client: Client) -> None:
    for path in ("", "events/"):
        assert ann_client.get(f"/ai/generations/{'0' * 32}/{path}").status_code == 404
    for path in ("cancel/", "regenerate/"):
        assert ann_client.post(f"/ai/generations/{'0' * 32}/{path}").status_code == 404
    for id in ("%00", "x" * 1000, "..", "0" * 31, "A" * 32):
        assert ann_client.get(f"/ai/generations/{id}/events/").status_code == 404


def test_state_and_text_so_far(client: Client) -> None:
    created = ask(client).json()
    write(created["id"], "Hel", "lo")
    seen = client.get(created["url"])
    assert (seen.json()["state"], seen.json()["text"], seen.json()["chunks"]) == ("running", "Hello", 2)
    assert seen.headers["Cache-Control"] == "no-store"
    assert "token" not in seen.json()
    assert seen.json()["events_url"] == created["events_url"]


def test_reading_interrupts_orphaned_generation(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker of an orphaned generation is dead."""
    monkeypatch.setattr(housekeeping, "CONFIRM_SECONDS", 0.0)
    created = ask(client).json()
    write(created["id"], "Hel")
    Generation.objects.update(lease_until="2020-01-01T00:00Z")
    assert client.get(created["url"]).json()["state"] == "interrupted"
    assert client.get(created["url"]).json()["error"]["code"] == "interrupted"


def test_cancel_can_be_repeated(client: Client) -> None:
    created = ask(client).json()
    write(created["id"], "Hel")
    for _ in range(2):
        seen = client.post(created["cancel_url"])
        assert (seen.status_code, seen.json()["state"], seen.json()["text"]) == (200, "cancelled", "Hel")


def test_regenerate_repeats_the_request(ann_client: Client) -> None:
    created = ask(ann_client, {**QUESTION, "temperature": 0.5}).json()
    ann_client.post(created["cancel_url"])
    again = ann_client.post(created["regenerate_url"])
    assert again.status_code == 201
    first, second = Generation.objects.order_by("created_at")
    assert (first.state, second.state) == (State.CANCELLED, State.QUEUED)
    assert (second.request, second.owner) == (first.request, first.owner)
    assert again.json()["id"] == second.pk != first.pk


def test_regenerate_applies_current_limits(client: Client, everyone_may_ask: Any) -> None:
    created = ask(client).json()
    everyone_may_ask.STREAMS = {**everyone_may_ask.STREAMS, "RELAY_MAX_TOKENS": 10}
    response = client.post(created["regenerate_url"])
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid-max-tokens")


def test_head_has_status_of_get(client: Client) -> None:
    created = ask(client).json()
    assert client.head(created["url"]).status_code == 200
    assert client.head(without_token(created["events_url"])).status_code == 403


def test_refused_event_source_gets_json(client: Client) -> None:
    response: HttpResponse = client.get(f"/ai/generations/{'0' * 32}/events/", headers={"Accept": "text/event-stream"})
    assert response.headers["Content-Type"] == "application/json"
