"""Give one process a wrong clock, for all code that gets the time from Python or Django."""

from __future__ import annotations

import datetime
import time
from typing import Any

from django.utils import timezone


def shift(seconds: float) -> None:
    """Move this process's clock forward by `seconds`, or back if the number is negative."""
    real_time = time.time

    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return datetime.datetime.now(tz) + datetime.timedelta(seconds=seconds)

    time.time = lambda: real_time() + seconds
    timezone.datetime = Shifted  # type: ignore[attr-defined]  # timezone.now() uses it
