"""The async endpoint uses no thread of its own. The other modules test its responses together with those of DRF."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.http import HttpRequest
from django.test import AsyncRequestFactory, override_settings

from streams import tokens
from streams.api.views import fast
from streams.exceptions import InvalidToken
from streams.policies import BasePolicy
from streams.runtime import executor
from streams.tokens import atoken_of, make_token, read_token, user_of_token
from tests.api.callers import FAST, bearer, code, post, user

pytestmark = pytest.mark.django_db


@pytest.fixture
def hops(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the names of functions that ran in a thread. The revoked tokens count as just read."""
    found: list[Any] = []
    run = executor.run

    async def counted(fn: Any, *args: Any, **kwargs: Any) -> Any:
        found.append(fn.__name__)
        return await run(fn, *args, **kwargs)

    monkeypatch.setattr(executor, "run", counted)
    monkeypatch.setattr(tokens, "_is_known_valid", lambda token_id: True)
    return found


def request_with(text: str) -> HttpRequest:
    return AsyncRequestFactory().post(f"/?token={text}")


async def test_token_without_a_user_is_checked_without_a_thread(hops: list[Any]) -> None:
    text = make_token(publish=["news"])
    request = request_with(text)
    assert await atoken_of(request) == read_token(text)
    assert hops == []
    assert "token" not in request.GET, "the token is removed from the request nevertheless"


@pytest.fixture
def revoked() -> str:
    text = make_token(publish=["news"])
    tokens.revoke(read_token(text).id)
    return text


async def test_revoked_token_is_refused_each_time(revoked: str) -> None:
    request = request_with(revoked)
    for _ in range(2):
        with pytest.raises(InvalidToken, match="revoked"):
            await atoken_of(request)


@pytest.fixture
def ann() -> Any:
    return user("ann")


async def test_token_with_a_user_asks_for_the_user(ann: Any, hops: list[Any]) -> None:
    request = request_with(make_token(publish=["news"], user=ann))
    await atoken_of(request)
    assert hops == ["check_token"]
    assert user_of_token(request) == ann


async def test_publishing_runs_in_a_thread_and_nothing_else_does(hops: list[Any]) -> None:
    request = AsyncRequestFactory().post(FAST, {"data": 1}, content_type="application/json", headers=bearer())
    answer = await fast.fast_publish(request, channel="news")
    assert answer.status_code == 201
    assert hops in (["write"], ["publish_many"])  # the second one in a test's transaction


class AskingPolicy(BasePolicy):
    def can_publish(self, request: HttpRequest, channel: str) -> bool:
        return async_to_sync(self.acan_publish)(request, channel)

    async def acan_publish(self, request: HttpRequest, channel: str) -> bool:
        user = await request.auser()  # type: ignore[attr-defined]
        assert user == request.user
        return bool(user.username == "ann")


@override_settings(STREAMS={"POLICY": "tests.api.test_fast.AskingPolicy"})
def test_policy_sees_the_tokens_user_however_it_asks() -> None:
    assert post(FAST, {"data": 1}, bearer(publish=["x"], user=user("ann"))).status_code == 201
    assert code(post(FAST, {"data": 1}, bearer(publish=["x"], user=user("bob")))) == (403, "forbidden")
    assert code(post(FAST, {"data": 1}, bearer(publish=["x"]))) == (403, "forbidden")
