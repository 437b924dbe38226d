"""Fixtures that several tests of the log share."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def keep(settings: Any) -> Any:
    """Return a function that sets the retention settings. Limits that are not passed are unlimited."""

    def set_limits(**limits: float) -> None:
        names = ("RETENTION_SECONDS", "RETENTION_MESSAGES_PER_CHANNEL", "RETENTION_BYTES")
        settings.STREAMS = {**settings.STREAMS, **dict.fromkeys(names), **limits}

    set_limits()
    return set_limits
