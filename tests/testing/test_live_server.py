"""The live server's conditions. tests/system/test_live_server.py runs it."""

from __future__ import annotations

import sys

import pytest
from django.core.exceptions import ImproperlyConfigured

from streams.testing import StreamsLiveServer, StreamsLiveServerTestCase

pytestmark = pytest.mark.once


def test_database_in_memory_is_refused(transactional_db: None) -> None:
    remedy = """Set DATABASES['default']["TEST"] = {"NAME": BASE_DIR / "test.sqlite3"}."""
    with pytest.raises(ImproperlyConfigured) as raised, StreamsLiveServer():
        pass
    assert str(raised.value).endswith(remedy)
    with pytest.raises(ImproperlyConfigured) as raised:
        StreamsLiveServerTestCase.setUpClass()
    assert str(raised.value).endswith(remedy)


def test_missing_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ImproperlyConfigured, match="pip install uvicorn"), StreamsLiveServer():
        pass
