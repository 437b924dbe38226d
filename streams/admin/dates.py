"""Format dates for the admin's pages."""

from __future__ import annotations

import datetime

from django.utils import timezone
from django.utils.formats import date_format


def to_local(moment: datetime.datetime) -> datetime.datetime:
    """Convert an aware datetime to the current time zone. Return a naive one (USE_TZ = False) unchanged."""
    return timezone.localtime(moment) if timezone.is_aware(moment) else moment


def format_local(moment: datetime.datetime, *, seconds: bool = True) -> str:
    """Format a datetime in the current time zone, followed by the zone's name: "2026-01-31 17:05:00 CET"."""
    return date_format(to_local(moment), "Y-m-d H:i:s T" if seconds else "Y-m-d H:i T").strip()
