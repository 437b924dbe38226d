"""Fixtures for the tests of EventStreamView."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db.backends.utils import CursorWrapper
from django.test import override_settings

from streams.runtime import executor
from tests.views.support import PUBLIC, SECONDS, Opening, by_asgi, by_client, by_direct


@pytest.fixture(params=[by_asgi, by_client, by_direct], ids=["asgi", "client", "direct"])
def opening(request: pytest.FixtureRequest) -> Opening:
    """Open a URL, with the bare ASGI protocol, with Django's test client, and on the direct way."""
    found: Opening = request.param
    return found


@pytest.fixture
def public_channels() -> Iterator[None]:
    """All channels are public, unless the test overrides the settings."""
    with override_settings(STREAMS=PUBLIC):
        yield


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that collects the SQL statements of this process, in all threads."""
    executor.PERIODIC.submit(int).result(SECONDS)  # wait for the last periodic task of an earlier test's hub
    seen: list[str] = []
    execute = CursorWrapper.execute

    def recorded(self: CursorWrapper, sql: str, params: Any = None) -> Any:
        seen.append(sql)
        return execute(self, sql, params)

    monkeypatch.setattr(CursorWrapper, "execute", recorded)
    return seen
