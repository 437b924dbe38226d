"""Requests with more query parameters than Django reads: every view answers with a JSON error, also with DEBUG on."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import AsyncClient, Client, override_settings

from streams.tokens import make_token
from tests.api.callers import user

pytestmark = pytest.mark.django_db

MANY = "&".join(f"a={n}" for n in range(1001))
GENERATION = f"/ai/generations/{'0' * 32}/"

API = [
    ("GET", "/api/channels/"),
    ("GET", "/api/channels/news/"),
    ("GET", "/api/channels/news/messages/"),
    ("POST", "/api/channels/news/messages/"),
    ("POST", "/api/fast/channels/news/messages/"),
    ("POST", "/api/messages/"),
    ("POST", "/api/tokens/"),
    ("POST", "/api/streams/disconnect/"),
    ("GET", "/api/health/ready"),
    ("GET", "/health/ready"),
    ("GET", "/api/schema/"),
    ("GET", "/api/docs/"),
]
STREAMS = [("GET", "/events/"), ("GET", "/events/news/")]
RELAY = [("GET", GENERATION), ("GET", f"{GENERATION}events/"), ("POST", f"{GENERATION}cancel/")]


def is_refused(answer: Any) -> bool:
    error = answer.json()["error"]
    assert answer.headers["Content-Type"] == "application/json"
    assert "1000 query parameters" in error["message"]
    assert "DATA_UPLOAD_MAX_NUMBER_FIELDS" in error["message"]
    return bool((answer.status_code, error["code"]) == (400, "too-many-parameters"))


@pytest.mark.parametrize(("method", "path"), [*API, *STREAMS, *RELAY])
@pytest.mark.parametrize("debug", [False, True], ids=["production", "debug"])
async def test_too_many_parameters_are_400_in_json(method: str, path: str, debug: bool) -> None:
    with override_settings(DEBUG=debug):
        client = AsyncClient(raise_request_exception=False)
        answer = await client.generic(method, f"{path}?{MANY}", b"{}", "application/json")
        assert is_refused(answer)
        answer = await client.generic(
            method, f"{path}?token={make_token(read=['*'])}&{MANY}", b"{}", "application/json"
        )
        assert is_refused(answer)


@pytest.mark.parametrize("path", [path for _, path in (*STREAMS, *RELAY[:2])])
async def test_head_with_too_many_parameters_is_400(path: str) -> None:
    assert (await AsyncClient().head(f"{path}?{MANY}")).status_code == 400


@override_settings(DEBUG=True)
def test_user_with_too_many_parameters_gets_json() -> None:
    browser = Client(raise_request_exception=False)
    browser.force_login(user("root", is_superuser=True, is_staff=True))
    for method, path in API:
        assert is_refused(browser.generic(method, f"{path}?{MANY}", b"{}", "application/json"))
