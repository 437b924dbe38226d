"""Generations over HTTP: what is answered, and to whom."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import User
from django.db import OperationalError
from django.http import HttpResponse
from django.test import AsyncClient, Client
from django.utils.crypto import get_random_string

from streams import log, publish
from streams.protocol.sse import EventStreamDecoder
from streams.relay.access import make_key
from streams.relay.generations import chunks, housekeeping, store
from streams.relay.generations.endings import Batch, Ending
from streams.relay.models import Generation
from streams.testing import read_events

pytestmark = pytest.mark.django_db(transaction=True)

State = Generation.State
QUESTION = {"messages": [{"role": "user", "content": "Hi"}]}
SLOW = {
    "default": {"BACKEND": "streams.relay.upstreams.ScriptedUpstream", "OPTIONS": {"answer": "a b c", "seconds": 600}}
}


@pytest.fixture(autouse=True)
def everyone(settings: Any) -> Any:
    """Everyone may ask, and nobody answers: what the worker does is its own tests' business."""
    settings.STREAMS = {"RELAY_ACCESS": "streams.relay.access.Everyone", "GENERATION_WORKER": "command"}
    return settings


@pytest.fixture
def ann(client: Client) -> Client:
    client.force_login(User.objects.create_user("ann"))
    return client


def ask(client: Any, payload: Any = QUESTION, **headers: str) -> Any:
    body = payload if isinstance(payload, str) else json.dumps(payload)
    return client.post("/ai/generations/", body, content_type="application/json", headers=headers)


def bare(url: str) -> str:
    """The URL without its token."""
    return url.partition("?")[0]


def write(id: str, *texts: str, number: int = 0, end: Ending | None = None, position: int = 0) -> None:
    store.claim("w", 100)
    text = "".join(texts) if end is not None else None
    assert store.write("w", [Batch(id, number, texts, text=text, ending=end, position=position)])


def events_of(told: Any, cursor: str = "") -> list[tuple[str, str, Any]]:
    """(type, id, data) of the events that the answer's stream has after `cursor`, but for checkpoints."""

    async def read() -> Any:
        return await _all(await AsyncClient().get(told["events_url"], headers={"Last-Event-ID": cursor}))

    found = [event for event in async_to_sync(read)() if event.event != "stream-checkpoint"]
    return [(event.event, event.id, json.loads(event.data)) for event in found]


# --- Asking -----------------------------------------------------------------------------------------------------------


def test_question_is_answered_with_where_its_answer_will_be(client: Client) -> None:
    response = ask(client)
    made = Generation.objects.get()
    told = response.json()
    assert response.status_code == 201
    assert (told["id"], told["state"], told["channel"]) == (made.pk, "queued", f"generation.{made.pk}")
    assert (told["text"], told["chunks"], told["error"]) == ("", 0, None)
    assert bare(told["events_url"]) == f"/ai/generations/{made.pk}/events/"
    assert bare(told["url"]) == f"/ai/generations/{made.pk}/"
    assert made.request["stream"] is True
    assert made.request["max_tokens"] == 4096


def test_second_post_with_the_same_key_returns_the_first(client: Client, everyone: Any) -> None:
    key = get_random_string(36)
    first, again = (ask(client, **{"Idempotency-Key": key}) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    assert Generation.objects.count() == 1
    write(first.json()["id"], "Hel", "lo")
    assert ask(client, **{"Idempotency-Key": key}).json()["text"] == "Hello"
    assert ask(client, {**QUESTION, "temperature": 1}, **{"Idempotency-Key": key}).status_code == 422
    everyone.STREAMS = {**everyone.STREAMS, "RELAY_MAX_TOKENS": 10}
    assert ask(client, **{"Idempotency-Key": key}).status_code == 200, "what it asked for is the same"


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
def test_bad_question_is_told_what_is_wrong(client: Client, payload: Any, status: int, code: str) -> None:
    response = ask(client, payload)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert not Generation.objects.exists()


def test_too_many_are_told_when_to_come_back(client: Client, everyone: Any) -> None:
    everyone.STREAMS = {**everyone.STREAMS, "RELAY_MAX_STREAMS_PER_USER": 1}
    ask(client)
    response = ask(client)
    assert (response.status_code, response.headers["Retry-After"]) == (429, "5")
    assert response.json()["error"]["code"] == "too-many-answers"


def test_other_methods_are_refused(client: Client) -> None:
    told = ask(client).json()
    for url, allowed in [
        ("/ai/generations/", "POST"),
        (told["url"], "GET, HEAD"),
        (told["cancel_url"], "POST"),
        (told["regenerate_url"], "POST"),
        (told["events_url"], "GET, HEAD, OPTIONS"),
    ]:
        response = client.put(url)
        assert (response.status_code, response.headers["Allow"]) == (405, allowed)


# --- Who may ----------------------------------------------------------------------------------------------------------


def test_by_default_only_who_is_signed_in_may_ask(client: Client, settings: Any) -> None:
    settings.STREAMS = {"GENERATION_WORKER": "command"}
    assert ask(client).status_code == 401
    user = User.objects.create_user("ann")
    assert ask(client, Authorization=f"Bearer {make_key(user, 60)}").status_code == 201
    client.force_login(user)
    assert ask(client).status_code == 201
    assert {made.owner for made in Generation.objects.all()} == {user}
    user.is_active = False
    user.save()
    assert ask(client).status_code == 401


def test_key_of_nobody_asks_as_nobody_where_everyone_may(client: Client, everyone: Any) -> None:
    """OpenAI's client always sends one."""
    assert ask(client, Authorization="Bearer whatever").status_code == 201
    assert Generation.objects.get().owner is None
    everyone.STREAMS = {"GENERATION_WORKER": "command"}
    assert ask(client, Authorization="Bearer whatever").status_code == 401


@pytest.mark.parametrize("name", ["generation", "events", "cancel", "regenerate"])
def test_answer_is_its_owners_alone(ann: Client, name: str, everyone: Any) -> None:
    told = ask(ann).json()
    other = ask(Client()).json()
    url = told["url" if name == "generation" else f"{name}_url"]
    method = "post" if name in ("cancel", "regenerate") else "get"
    bob = Client()
    bob.force_login(User.objects.create_user("bob"))
    stolen = other["token"]
    refused = [
        (bob, bare(url), {}),
        (Client(), bare(url), {}),
        (Client(), f"{bare(url)}?token={stolen}", {}),
        (Client(), f"{bare(url)}?token={told['token'][:-1]}", {}),
        (Client(), f"{bare(url)}?token=", {}),
        (bob, bare(url), {"Authorization": f"Bearer {make_key(User.objects.get(username='bob'), 60)}"}),
    ]
    for client, address, headers in refused:
        response = getattr(client, method)(address, headers=headers)
        assert response.status_code == 403, (client.session.get("_auth_user_id"), address)
    assert Generation.objects.get(pk=told["id"]).state == State.QUEUED
    key = make_key(User.objects.get(username="ann"), 60)
    for client, address, headers in [
        (ann, bare(url), {}),
        (Client(), url, {}),
        (Client(), bare(url), {"Authorization": f"Bearer {told['token']}"}),
        (Client(), bare(url), {"Authorization": f"Bearer {key}"}),
    ]:
        if name == "regenerate" and client is not ann and not headers.get("Authorization", "").endswith(key):
            # The token is of this one answer, and not for making more in somebody's name.
            assert getattr(client, method)(address, headers=headers).status_code in (401, 403)
        elif name != "events":  # it has not ended, and so would not
            assert getattr(client, method)(address, headers=headers).status_code in (200, 201)


def test_key_of_a_program_stands_in_no_url(ann: Client) -> None:
    key = make_key(User.objects.get(username="ann"), 60)
    told = ask(Client(), Authorization=f"Bearer {key}").json()
    seen = [
        Client().get(bare(told["url"]), headers={"Authorization": f"Bearer {key}"}),
        Client().post(bare(told["cancel_url"]), headers={"Authorization": f"Bearer {key}"}),
        ann.get(f"{bare(told['url'])}?token=%22%3E"),
    ]
    for response in seen:
        assert key not in response.content.decode()
        assert Client().get(response.json()["url"]).status_code == 200, "its URLs have a token of the answer"


def test_token_alone_makes_another_answer_of_nobodys_answer(client: Client) -> None:
    told = ask(client).json()
    for headers in ({}, {"Authorization": f"Bearer {told['token']}"}):
        assert client.post(told["regenerate_url"], headers=headers).status_code == 201


def test_token_ends_with_its_owner(ann: Client) -> None:
    told = ask(ann).json()
    User.objects.filter(username="ann").update(is_active=False)
    for url in (told["url"], told["events_url"]):
        assert Client().get(url).status_code == 403
    assert Client().post(told["cancel_url"]).status_code == 403


def test_token_is_good_for_so_long(client: Client, everyone: Any) -> None:
    assert client.get(ask(client).json()["url"]).status_code == 200
    everyone.STREAMS = {**everyone.STREAMS, "GENERATION_TOKEN_SECONDS": 1e-9}
    assert client.get(ask(client).json()["url"]).status_code == 403


def test_session_needs_the_csrf_token_and_a_token_does_not() -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.create_user("ann"))
    response = ask(strict)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "csrf")
    strict.cookies["csrftoken"] = secret = "a" * 32
    made = ask(strict, **{"X-CSRFToken": secret})
    assert made.status_code == 201
    told = made.json()
    assert strict.post(bare(told["cancel_url"])).status_code == 403
    assert Client(enforce_csrf_checks=True).post(told["cancel_url"]).status_code == 200


async def test_channel_is_nobodys_by_the_ordinary_door() -> None:
    client = AsyncClient()
    await client.aforce_login(await User.objects.acreate(username="ann"))
    response = await client.post("/ai/generations/", QUESTION, content_type="application/json")
    assert (await client.get(f"/events/{response.json()['channel']}/")).status_code == 403


def test_unknown_answer_is_not_found(ann: Client) -> None:
    for path in ("", "events/"):
        assert ann.get(f"/ai/generations/{'0' * 32}/{path}").status_code == 404
    for path in ("cancel/", "regenerate/"):
        assert ann.post(f"/ai/generations/{'0' * 32}/{path}").status_code == 404
    for id in ("%00", "x" * 1000, "..", "0" * 31, "A" * 32):
        assert ann.get(f"/ai/generations/{id}/events/").status_code == 404


async def test_stream_of_a_database_that_is_away_ends_so_that_the_browser_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = AsyncClient()
    told = (await client.post("/ai/generations/", QUESTION, content_type="application/json")).json()

    def away(id: str) -> None:
        raise OperationalError("the connection was refused")

    monkeypatch.setattr(chunks, "get", away)
    response = await client.get(told["events_url"])
    body = b"".join([chunk async for chunk in response.streaming_content])
    assert (response.status_code, response.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
    assert body.endswith(b"retry: 3000\n\n")
    refused = await client.get(told["url"])
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert "refused" not in refused.content.decode()


# --- Looking, cancelling, asking again --------------------------------------------------------------------------------


def test_state_and_text_so_far(client: Client) -> None:
    told = ask(client).json()
    write(told["id"], "Hel", "lo")
    seen = client.get(told["url"])
    assert (seen.json()["state"], seen.json()["text"], seen.json()["chunks"]) == ("running", "Hello", 2)
    assert seen.headers["Cache-Control"] == "no-store"
    assert "token" not in seen.json()
    assert seen.json()["events_url"] == told["events_url"]


def test_looking_at_what_a_dead_worker_left_interrupts_it(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "CONFIRM_SECONDS", 0.0)
    told = ask(client).json()
    write(told["id"], "Hel")
    Generation.objects.update(lease_until="2020-01-01T00:00Z")
    assert client.get(told["url"]).json()["state"] == "interrupted"
    assert client.get(told["url"]).json()["error"]["code"] == "interrupted"


def test_cancel_stops_it_and_may_be_repeated(client: Client) -> None:
    told = ask(client).json()
    write(told["id"], "Hel")
    for _ in range(2):
        seen = client.post(told["cancel_url"])
        assert (seen.status_code, seen.json()["state"], seen.json()["text"]) == (200, "cancelled", "Hel")


def test_regenerate_asks_the_same_again(ann: Client) -> None:
    told = ask(ann, {**QUESTION, "temperature": 0.5}).json()
    ann.post(told["cancel_url"])
    again = ann.post(told["regenerate_url"])
    assert again.status_code == 201
    first, second = Generation.objects.order_by("created_at")
    assert (first.state, second.state) == (State.CANCELLED, State.QUEUED)
    assert (second.request, second.owner) == (first.request, first.owner)
    assert again.json()["id"] == second.pk != first.pk


def test_regenerate_is_checked_against_what_is_allowed_now(client: Client, everyone: Any) -> None:
    told = ask(client).json()
    everyone.STREAMS = {**everyone.STREAMS, "RELAY_MAX_TOKENS": 10}
    response = client.post(told["regenerate_url"])
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid-max-tokens")


# --- Following --------------------------------------------------------------------------------------------------------

END = Ending(State.DONE, "stop")
TOLD = {"state": "done", "finish_reason": "stop", "usage": None, "error": None}


async def test_stream_begins_at_the_beginning_and_ends_with_the_end() -> None:
    client = AsyncClient()
    told = json.loads((await client.post("/ai/generations/", QUESTION, content_type="application/json")).content)
    await sync_to_async(write)(told["id"], "a", "b")
    response = await client.get(told["events_url"])
    reading = asyncio.create_task(_all(response))
    await asyncio.sleep(0.2)
    await sync_to_async(write)(told["id"], "c", number=2, end=END, position=2)
    found = [event for event in await reading if event.event != "stream-checkpoint"]
    assert [event.data for event in found[:3]] == [f'{{"n":{n},"text":"{text}"}}' for n, text in enumerate("abc")]
    assert [(event.event, json.loads(event.data)) for event in found[3:]] == [("end", TOLD)]


async def _all(response: Any) -> Any:
    """The events of a stream that ends by itself."""
    async with asyncio.timeout(30):
        return EventStreamDecoder().feed(b"".join([chunk async for chunk in response.streaming_content]))


async def test_client_that_comes_back_goes_on_where_it_was() -> None:
    client = AsyncClient()
    told = json.loads((await client.post("/ai/generations/", QUESTION, content_type="application/json")).content)
    await sync_to_async(write)(told["id"], "a", "b", "c")
    response = await client.get(told["events_url"], headers={"Last-Event-ID": "2"})
    assert [event.data for event in await read_events(response, 1)] == ['{"n":2,"text":"c"}']
    response.close()


def ended(client: Client) -> dict[str, Any]:
    told = ask(client).json()
    write(told["id"], "a", "b", end=END)
    return dict(told)


def test_ended_answer_is_streamed_from_the_log_and_then_there_is_nothing_more(client: Client) -> None:
    told = ended(client)
    both = [("message", "1", {"n": 0, "text": "a"}), ("message", "2", {"n": 1, "text": "b"})]
    end = ("end", "3", TOLD)
    assert events_of(told) == [*both, end]
    assert events_of(told, "1") == [both[1], end]
    assert events_of(told, "2") == [end]
    publish("news", "later")
    for cursor in ("3", "4"):
        response = client.get(told["events_url"], headers={"Last-Event-ID": cursor})
        assert (response.status_code, response.content) == (204, b"")


def assert_reset(client: Client, told: dict[str, Any], cursor: str, text: str) -> None:
    reset, snapshot, end = events_of(told, cursor)
    assert (reset[0], reset[2]["reason"], reset[2]["requested"]) == ("stream-reset", "unknown-id", cursor)
    assert (snapshot[0], snapshot[2]["text"], end[0]) == ("stream-snapshot", text, "end")
    again = client.get(told["events_url"], headers={"Last-Event-ID": end[1]})
    assert again.status_code == 204, "then there is nothing more"


@pytest.mark.parametrize("cursor", ["4", "999999"])
def test_ended_answer_resets_id_above_head(client: Client, cursor: str) -> None:
    assert_reset(client, ended(client), cursor, "ab")


def test_ended_answer_resets_id_of_lost_history(client: Client) -> None:
    """The log went back to 1 in the middle of the answer; clients have had pieces that are not there any more."""
    told = ask(client).json()
    write(told["id"], "a")
    log.start_new_epoch("restored", fork=1)
    write(told["id"], "b", number=1, end=END)
    assert_reset(client, told, "2", "b")


def compact(told: dict[str, Any]) -> None:
    housekeeping._delete_messages(Generation.objects.get(pk=told["id"]))
    store.mark_compacted(told["id"])


def prune(told: dict[str, Any]) -> None:
    log.delete_through(1, channel=told["channel"], limit=1)


@pytest.mark.parametrize("lose", [compact, prune])
def test_who_lost_pieces_is_told_so_and_gets_all_of_it(client: Client, lose: Any) -> None:
    told = ended(client)
    lose(told)
    end = ("end", "3", TOLD)
    assert events_of(told) == [("message", "0", {"n": 0, "text": "ab"}), end]
    cursor = "1" if lose is compact else "0"
    reset, snapshot, last = events_of(told, cursor)
    assert (reset[0], reset[2]["reason"]) == ("stream-reset", "pruned")
    assert (snapshot[0], snapshot[2]) == ("stream-snapshot", {"n": 2, "text": "ab", "state": "done"})
    assert last == end


@pytest.mark.parametrize("cursor", ["x", "-1", "9" * 30])
def test_id_that_is_none_gets_all_of_it(client: Client, cursor: str) -> None:
    told = ended(client)
    found = events_of(told, cursor)
    assert [event for event, _, _ in found] == ["stream-reset", "stream-snapshot", "end"]
    assert found[0][2]["reason"] == "malformed-id"


async def test_running_answer_that_lost_pieces_is_told_as_a_whole_and_goes_on() -> None:
    client = AsyncClient()
    told = json.loads((await client.post("/ai/generations/", QUESTION, content_type="application/json")).content)

    @sync_to_async
    def begin() -> None:
        store.claim("w", 1)
        store.write("w", [Batch(told["id"], 0, ("a", "b"))])
        store.write("w", [Batch(told["id"], 2, (), position=2, text="ab")])
        log.delete_through(2, channel=told["channel"], limit=10)

    await begin()
    response = await client.get(told["events_url"], headers={"Last-Event-ID": "1"})
    text = await anext(aiter(response.streaming_content))
    await sync_to_async(write)(told["id"], "c", number=2, position=2)
    async for chunk in response.streaming_content:
        text += chunk
        if b'"c"' in text:
            break
    assert b"event: stream-reset\n" in text
    assert b'event: stream-snapshot\nid: 2\ndata: {"n":2,"text":"ab","state":"running"}' in text
    assert b'id: 3\ndata: {"n":2,"text":"c"}' in text
    response.close()


def test_head_says_what_get_would(client: Client) -> None:
    told = ask(client).json()
    assert client.head(told["url"]).status_code == 200
    assert client.head(bare(told["events_url"])).status_code == 403


def test_page_of_an_expired_session_gets_json(client: Client) -> None:
    response: HttpResponse = client.get(f"/ai/generations/{'0' * 32}/events/", headers={"Accept": "text/event-stream"})
    assert response.headers["Content-Type"] == "application/json"
