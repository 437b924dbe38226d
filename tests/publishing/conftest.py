"""Fixtures for several tests of publishing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from streams.notifiers import Notice
from tests.publishing.support import RecordingNotifier


@pytest.fixture
def notices(settings: Any) -> Iterator[list[Notice]]:
    """Return a list that collects the notices that publishing sends."""
    settings.STREAMS = {**settings.STREAMS, "NOTIFIER": {"BACKEND": "tests.publishing.support.RecordingNotifier"}}
    RecordingNotifier.notices.clear()
    yield RecordingNotifier.notices
    RecordingNotifier.notices.clear()
