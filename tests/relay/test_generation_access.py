"""Access to generations with sessions, API keys and the tokens of single generations."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import AsyncClient, Client

from streams.relay.access import make_key
from streams.relay.models import Generation
from tests.relay.generation_requests import QUESTION, State, ask, without_token

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("everyone_may_ask")]


def test_default_access_requires_login(client: Client, settings: Any) -> None:
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


def test_unknown_key_is_anonymous(client: Client, everyone_may_ask: Any) -> None:
    """OpenAI's client always sends a key."""
    assert ask(client, Authorization="Bearer whatever").status_code == 201
    assert Generation.objects.get().owner is None
    everyone_may_ask.STREAMS = {"GENERATION_WORKER": "command"}
    assert ask(client, Authorization="Bearer whatever").status_code == 401


@pytest.mark.parametrize("name", ["generation", "events", "cancel", "regenerate"])
def test_generation_belongs_to_its_owner(ann_client: Client, name: str, everyone_may_ask: Any) -> None:
    created = ask(ann_client).json()
    other = ask(Client()).json()
    url = created["url" if name == "generation" else f"{name}_url"]
    method = "post" if name in ("cancel", "regenerate") else "get"
    bob = Client()
    bob.force_login(User.objects.create_user("bob"))
    stolen = other["token"]
    refused = [
        (bob, without_token(url), {}),
        (Client(), without_token(url), {}),
        (Client(), f"{without_token(url)}?token={stolen}", {}),
        (Client(), f"{without_token(url)}?token={created['token'][:-1]}", {}),
        (Client(), f"{without_token(url)}?token=", {}),
        (bob, without_token(url), {"Authorization": f"Bearer {make_key(User.objects.get(username='bob'), 60)}"}),
    ]
    for client, address, headers in refused:
        response = getattr(client, method)(address, headers=headers)
        assert response.status_code == 403, (client.session.get("_auth_user_id"), address)
    assert Generation.objects.get(pk=created["id"]).state == State.QUEUED
    key = make_key(User.objects.get(username="ann"), 60)
    for client, address, headers in [
        (ann_client, without_token(url), {}),
        (Client(), url, {}),
        (Client(), without_token(url), {"Authorization": f"Bearer {created['token']}"}),
        (Client(), without_token(url), {"Authorization": f"Bearer {key}"}),
    ]:
        if name == "regenerate" and client is not ann_client and not headers.get("Authorization", "").endswith(key):
            # The token grants access to this generation. It does not allow its holder to start others as the owner.
            assert getattr(client, method)(address, headers=headers).status_code in (401, 403)
        elif name != "events":  # the stream of a running generation would not end
            assert getattr(client, method)(address, headers=headers).status_code in (200, 201)


def test_api_key_is_in_no_url(ann_client: Client) -> None:
    key = make_key(User.objects.get(username="ann"), 60)
    created = ask(Client(), Authorization=f"Bearer {key}").json()
    seen = [
        Client().get(without_token(created["url"]), headers={"Authorization": f"Bearer {key}"}),
        Client().post(without_token(created["cancel_url"]), headers={"Authorization": f"Bearer {key}"}),
        ann_client.get(f"{without_token(created['url'])}?token=%22%3E"),
    ]
    for response in seen:
        assert key not in response.content.decode()
        assert Client().get(response.json()["url"]).status_code == 200, "the URLs contain the generation's token"


def test_token_regenerates_an_anonymous_generation(client: Client) -> None:
    created = ask(client).json()
    for headers in ({}, {"Authorization": f"Bearer {created['token']}"}):
        assert client.post(created["regenerate_url"], headers=headers).status_code == 201


def test_token_ends_with_its_owner(ann_client: Client) -> None:
    created = ask(ann_client).json()
    User.objects.filter(username="ann").update(is_active=False)
    for url in (created["url"], created["events_url"]):
        assert Client().get(url).status_code == 403
    assert Client().post(created["cancel_url"]).status_code == 403


def test_token_expires(client: Client, everyone_may_ask: Any) -> None:
    assert client.get(ask(client).json()["url"]).status_code == 200
    everyone_may_ask.STREAMS = {**everyone_may_ask.STREAMS, "GENERATION_TOKEN_SECONDS": 1e-9}
    assert client.get(ask(client).json()["url"]).status_code == 403


def test_session_needs_csrf_token() -> None:
    """A request with the generation's token needs none."""
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.create_user("ann"))
    response = ask(strict)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "csrf")
    strict.cookies["csrftoken"] = secret = "a" * 32
    made = ask(strict, **{"X-CSRFToken": secret})
    assert made.status_code == 201
    created = made.json()
    assert strict.post(without_token(created["cancel_url"])).status_code == 403
    assert Client(enforce_csrf_checks=True).post(created["cancel_url"]).status_code == 200


async def test_channel_is_refused_by_streams_view() -> None:
    client = AsyncClient()
    await client.aforce_login(await User.objects.acreate(username="ann"))
    response = await client.post("/ai/generations/", QUESTION, content_type="application/json")
    assert (await client.get(f"/events/{response.json()['channel']}/")).status_code == 403
