"""Fixtures for several tests of the runtime."""

from __future__ import annotations

import pytest

from streams.runtime.executor import LogThreads


@pytest.fixture
def pool() -> LogThreads:
    return LogThreads()
