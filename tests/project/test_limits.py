"""The limits of the demo site's streams that do not use the log: `/random` and `/chat/send`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from django.test import AsyncClient

from project import limits

PATHS = ["/random", "/chat/send"]


class Client(AsyncClient):
    address = "8.8.8.8"

    def _base_scope(self, **request: Any) -> Any:
        return {**super()._base_scope(**request), "client": [self.address, 5000]}

    async def open(self, path: str, address: str = "8.8.8.8") -> Any:
        self.address = address
        if path == "/random":
            return await self.get(path)
        return await self.post(path, {"msg": "Hello"}, content_type="application/json")


@pytest.fixture(autouse=True)
async def _few(monkeypatch: pytest.MonkeyPatch, settings: Any, db: None) -> AsyncIterator[None]:
    settings.CHAT_LINE_SECONDS = 0
    monkeypatch.setattr(limits, "MAX_STREAMS_PER_ADDRESS", 2)
    monkeypatch.setattr(limits, "MAX_STREAMS", 3)
    yield
    assert limits._slots.total() == 0


def is_refused(response: Any, message: str) -> None:
    assert response.status_code == 429
    assert response.headers["Retry-After"] == "5"
    error = response.json()["error"]
    assert error["code"] == "too-many-streams"
    assert message in error["message"]


@pytest.mark.parametrize("path", PATHS)
async def test_address_has_its_share(path: str) -> None:
    client = Client()
    served = [await client.open(path), await client.open(path)]
    assert [response.status_code for response in served] == [200, 200]
    is_refused(await client.open(path), "Your address already has 2 streams")
    other = await client.open(path, "9.9.9.9")
    assert other.status_code == 200
    is_refused(await client.open(path, "1.1.1.1"), "already serves 3 streams")
    chunks = aiter(served[0])  # one stream has started, the others have not
    await anext(chunks)
    await anext(chunks)
    for response in (*served, other):
        await response.aclose()
    again = await client.open(path)
    assert again.status_code == 200
    await again.aclose()


async def test_answer_that_has_ended_counts_no_more() -> None:
    client = Client()
    for _ in range(5):
        response = await client.open("/chat/send")
        chunks = [chunk async for chunk in response]
        assert len(chunks) >= 13
        assert limits._slots.total() == 0


async def test_probable_proxy_is_limited_in_all_only() -> None:
    client = Client()
    served = [await client.open("/random", "127.0.0.1") for _ in range(3)]
    assert [response.status_code for response in served] == [200] * 3
    is_refused(await client.open("/random", "127.0.0.1"), "already serves 3 streams")
    for response in served:
        await response.aclose()
