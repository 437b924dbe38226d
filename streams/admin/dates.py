"""Moments, as people are shown them."""

from __future__ import annotations

import datetime
from typing import Any

from django.utils import timezone
from django.utils.formats import date_format


def local(moment: Any) -> datetime.datetime:
    """A moment as the current time zone's clocks show it; as it is where the site has no time zones."""
    return timezone.localtime(moment) if timezone.is_aware(moment) else moment


def in_words(moment: datetime.datetime, *, seconds: bool = True) -> str:
    """A moment in the current time zone, which is named where there is one; to the second, or to the minute."""
    return date_format(local(moment), "Y-m-d H:i:s T" if seconds else "Y-m-d H:i T").strip()
