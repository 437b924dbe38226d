"""The token of a generation: when it becomes invalid, and which streams end with it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import transaction
from django.test import AsyncClient, Client

from streams import tokens
from streams.access.revocation import adisconnect, disconnect
from streams.relay.access import Principal, make_key
from streams.relay.generations import store
from streams.relay.generations import tokens as answer_tokens
from streams.relay.models import Generation
from streams.testing import iterate_events

pytestmark = pytest.mark.django_db(transaction=True)

BODY = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}], "stream": True}


@pytest.fixture(autouse=True)
def everyone(settings: Any) -> None:
    access = "streams.relay.access.Everyone"
    settings.STREAMS = {"RELAY_ACCESS": access, "GENERATION_WORKER": "command", "HEARTBEAT_SECONDS": 0.2}


@pytest.fixture
def ann() -> User:
    return User.objects.create_user("ann", password="before")


def ask(user: User) -> dict[str, Any]:
    client = Client()
    client.force_login(user)
    body = json.dumps({"messages": BODY["messages"]})
    response = client.post("/ai/generations/", body, content_type="application/json")
    assert response.status_code == 201
    return dict(response.json())


def change_password(user: User) -> None:
    user.set_password("after")
    user.save()


def deactivate(user: User) -> None:
    user.is_active = False
    user.save()


def disconnect_in_a_transaction(user: User) -> None:
    with transaction.atomic():
        disconnect(user=user)


def disconnect_one(user: User) -> None:
    disconnect(user=user.pk, channel=Generation.objects.get().channel)


ENDINGS = [change_password, deactivate, lambda user: disconnect(user=user), disconnect_in_a_transaction, disconnect_one]


@pytest.mark.parametrize("end", ENDINGS)
def test_token_ends_with_right_of_its_user(ann: User, end: Any) -> None:
    created = ask(ann)
    assert Client().get(created["url"]).status_code == 200
    end(ann)
    for url in (created["url"], created["events_url"]):
        assert Client().get(url).status_code == 403
    assert Client().post(created["cancel_url"]).status_code == 403
    assert Client().get(
        created["url"].partition("?")[0], headers={"Authorization": f"Bearer {created['token']}"}
    ).status_code in (401, 403)
    assert Generation.objects.get().state == "queued"


def test_owner_goes_on_after_disconnect(ann: User) -> None:
    """The session stays valid, even with the old token in the URL, and the response contains a new valid token."""
    created = ask(ann)
    disconnect(user=ann)
    client = Client()
    client.force_login(ann)
    again = client.get(created["url"])
    assert again.status_code == 200
    assert Client().get(again.json()["url"]).status_code == 200


def test_disconnect_of_others_ends_no_token(ann: User) -> None:
    created = ask(ann)
    bob = User.objects.create(username="bob")
    disconnect(user=bob)
    disconnect(user=ann, channel="news")
    disconnect(user="no such key")
    disconnect(channel=created["channel"])
    assert Client().get(created["url"]).status_code == 200


async def opened(user: User, how: str) -> Any:
    """Open the stream of a generation with its token, with the user's key, or with the session."""
    generation, _ = await sync_to_async(store.create)(Principal(user, f"user {user.pk}"), BODY, "default")
    client = AsyncClient()
    url = f"/ai/generations/{generation.pk}/events/"
    if how == "session":
        await client.aforce_login(user)
        return await client.get(url)
    if how == "key":
        return await client.get(url, headers={"Authorization": f"Bearer {make_key(user, 600)}"})
    return await client.get(f"{url}?token={answer_tokens.make(generation)}")


@pytest.mark.parametrize("how", ["token", "key", "session"])
@pytest.mark.parametrize("end", [change_password, deactivate, disconnect])
async def test_open_stream_ends_with_right_of_its_user(ann: User, how: str, end: Any) -> None:
    response = await opened(ann, how)
    assert response.status_code == 200
    stream = iterate_events(response, control=True)
    await anext(stream)
    if end is disconnect:
        await adisconnect(user=ann)
    else:
        await sync_to_async(end)(ann)
    async with asyncio.timeout(30):
        async for _ in stream:
            pass


def test_token_is_of_one_answer_and_of_the_relay(ann: User) -> None:
    """Other signed tokens for the channel do not grant access to the generation."""
    created, other = ask(ann), ask(ann)
    url = created["url"].partition("?")[0]
    for token in (
        other["token"],
        tokens.make_token(read=[created["channel"]], user=ann),
        tokens.make_token(read=["*"]),
        tokens.make_token(read=[created["channel"]], user=ann, id=f"{created['id']}.1"),
        tokens.make_token(read=[created["channel"]], id=f"{created['id']}.0"),
    ):
        assert Client().get(f"{url}?token={token}").status_code == 403


def test_revoked_token_opens_nothing(ann: User) -> None:
    created = ask(ann)
    disconnect(token=created["token"])
    assert Client().get(created["url"]).status_code == 403


def test_owner_gets_new_token_after_revocation(ann: User) -> None:
    created, other = ask(ann), ask(ann)
    disconnect(token=created["token"])
    client = Client()
    client.force_login(ann)
    again = client.get(created["url"])
    assert Client().get(again.json()["url"]).status_code == 200
    assert Client().get(created["url"]).status_code == 403
    disconnect(token="no.generation")
    disconnect(token=f"{other['id']}.{10**29}")
    assert Client().get(other["url"]).status_code == 200


async def test_key_opens_stream_after_revocation(ann: User) -> None:
    generation, _ = await sync_to_async(store.create)(Principal(ann, f"user {ann.pk}"), BODY, "default")
    await adisconnect(token=answer_tokens.make(generation))
    headers = {"Authorization": f"Bearer {make_key(ann, 600)}"}
    response = await AsyncClient().get(f"/ai/generations/{generation.pk}/events/", headers=headers)
    assert response.status_code == 200
    response.close()


def test_token_is_taken_out_of_the_request(ann: User, settings: Any) -> None:
    created = ask(ann)
    response = Client().get(created["url"])
    assert created["token"] not in str(response.wsgi_request.GET)
