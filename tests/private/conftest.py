"""Fixtures for tests of missing internals."""

from __future__ import annotations

import logging

import pytest

from streams import private


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """The log, in a process that has not reported any missing internal yet."""
    monkeypatch.setattr(private, "_reported", set())
    caplog.set_level(logging.WARNING, "streams")
    return caplog
