"""A wrong clock for one process: everything in it that asks Python or Django for the time gets another one."""

from __future__ import annotations

import datetime
import time
from typing import Any

from django.utils import timezone


def shift(seconds: float) -> None:
    """Put this process's clock forward by so many seconds, or back by a negative number, for good."""
    right = time.time

    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return datetime.datetime.now(tz) + datetime.timedelta(seconds=seconds)

    time.time = lambda: right() + seconds
    timezone.datetime = Shifted  # type: ignore[attr-defined]  # from which timezone.now() takes the time
