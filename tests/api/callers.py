"""Who calls the API in tests, and how."""

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
    """The header of a signed token; without rights, of one that may do everything."""
    return {"authorization": f"Bearer {make_token(**rights or {'read': ['*'], 'publish': ['*']})}"}


def user(name: str, *permissions: str, **attributes: Any) -> User:
    """A user with these permissions of ours."""
    made = User.objects.create_user(name, password="secret", **attributes)
    wanted = Permission.objects.filter(content_type__app_label="streams", codename__in=permissions)
    assert len(wanted) == len(permissions), permissions
    made.user_permissions.set(wanted)
    return made


def key(owner: User) -> dict[str, str]:
    """The header of a DRF token."""
    return {"authorization": f"Token {Token.objects.create(user=owner)}"}


def post(path: str, body: Any, headers: dict[str, str] | None = None, client: Client | None = None) -> Any:
    """POST JSON; bytes go as they are."""
    data = body if isinstance(body, bytes | str) else json.dumps(body)
    return (client or Client()).post(path, data, content_type="application/json", headers=headers or {})


def get(path: str, headers: dict[str, str] | None = None, **query: Any) -> Any:
    return Client().get(path, query, headers=headers or {})


def code(response: Any) -> tuple[int, str]:
    """The status, and the error's code."""
    told = response.json()["error"]
    assert set(told) <= {"code", "message", "fields"}
    assert told["message"]
    assert response.headers["Content-Type"] == "application/json"
    return response.status_code, told["code"]
