"""Fixtures for tests of missing internals."""

from __future__ import annotations

import logging

import pytest

from streams import private


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """Return the log, as if no missing internal had been reported yet."""
    monkeypatch.setattr(private, "_reported", set())
    caplog.set_level(logging.WARNING, "streams")
    return caplog
