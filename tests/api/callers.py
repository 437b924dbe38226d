"""Users, credentials and requests for the tests of the HTTP API."""

from __future__ import annotations

import json
from typing import Any

from django.contrib.auth.models import Permission, User
from django.test import Client
from rest_framework.authtoken.models import Token

from streams.tokens import make_token

CHANNEL_MESSAGES = "/api/channels/news/messages/"
FAST = "/api/fast/channels/news/messages/"
MESSAGES = "/api/messages/"
CHANNELS = "/api/channels/"
TOKENS = "/api/tokens/"
DISCONNECT = "/api/streams/disconnect/"


def bearer(**rights: Any) -> dict[str, str]:
    """Return the header with a signed token. Without `rights`, the token can read and publish everything."""
    return {"authorization": f"Bearer {make_token(**rights or {'read': ['*'], 'publish': ['*']})}"}


def user(name: str, *permissions: str, **attributes: Any) -> User:
    """Return a new user with these permissions of the streams app."""
    made = User.objects.create_user(name, password="secret", **attributes)
    wanted = Permission.objects.filter(content_type__app_label="streams", codename__in=permissions)
    assert len(wanted) == len(permissions), permissions
    made.user_permissions.set(wanted)
    return made


def key(owner: User) -> dict[str, str]:
    """Return the header with a new DRF token of the user."""
    return {"authorization": f"Token {Token.objects.create(user=owner)}"}


def post(path: str, body: Any, headers: dict[str, str] | None = None, client: Client | None = None) -> Any:
    """POST `body` as JSON. Bytes and strings are sent unchanged."""
    data = body if isinstance(body, bytes | str) else json.dumps(body)
    return (client or Client()).post(path, data, content_type="application/json", headers=headers or {})


def get(path: str, headers: dict[str, str] | None = None, **query: Any) -> Any:
    return Client().get(path, query, headers=headers or {})


def code(response: Any) -> tuple[int, str]:
    """Return the status and the code of the error."""
    error = response.json()["error"]
    assert set(error) <= {"code", "message", "fields"}
    assert error["message"]
    assert response.headers["Content-Type"] == "application/json"
    return response.status_code, error["code"]
